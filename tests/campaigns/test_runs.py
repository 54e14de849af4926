"""A task leaves the records that it announced, and the same ones again when one is lost."""

import dataclasses
from pathlib import Path

import pytest

from intrinsic.campaigns import parameters, plan, runs
from intrinsic.campaigns.records import Store

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def task():
    keys = {"datasets": ["digits_0_1"], "runs": [{"models": ["resnet18"], "n_train": [16]}], "slope_pairs": 4}
    tiny = parameters.read(ROOT / "tests" / "tiny.yaml").model_dump()
    return plan.plan(parameters.Params(**{**tiny, **keys, "size": 8, "k": 5, "sanity_images": 0})).tasks[-1]


def test_a_run_leaves_what_it_announced_and_again_what_is_lost(task, own_store):
    store = Store(own_store)
    runs.complete(task, store)
    assert store.keys() == set(task.keys)
    assert not list(store.root.glob("checkpoints/*"))
    before = {key: store.read(*key) for key in task.keys}
    lost = next(key for key in task.keys if key[0] == "attack")
    store.path(*lost).unlink()
    runs.complete(task, store)
    after = {key: store.read(*key) for key in task.keys}
    assert after[lost].metrics == before.pop(lost).metrics
    assert after[lost].provenance["retrained"] is True
    assert all(after[key] == one for key, one in before.items())  # nothing else was written again
    training = after[task.keys[0]]
    assert training.metrics["epochs"] == 2
    assert training.provenance["domain"] == "natural"


def test_kept_weights_serve_for_what_is_lost(task, own_store, monkeypatch):
    store, kept = Store(own_store), dataclasses.replace(task, keep_weights=True)
    runs.complete(kept, store)
    lost = next(key for key in task.keys if key[0] == "slope")
    before = store.read(*lost)
    store.path(*lost).unlink()
    monkeypatch.setattr(runs.training, "train", None)
    runs.complete(kept, store)
    assert store.read(*lost).metrics == pytest.approx(before.metrics, rel=1e-4)
    assert store.read(*lost).provenance["weights"] == "kept"


def test_what_is_published_is_not_computed_again(task, own_store):
    there = dataclasses.replace(task, have=frozenset(key for key in task.keys if key[0] != "slope"))
    assert [record.kind for record in runs.compute(there, Store(own_store))] == ["slope"]
