"""Frames: one row a run with the numbers of its records, read without any image."""

import math
import shlex
from pathlib import Path

import numpy as np
import pytest

from intrinsic import campaigns
from intrinsic.campaigns import frames, parameters, plan, records, runs
from intrinsic.campaigns.records import Store

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def no_images(monkeypatch):
    """Published records have to be readable where no image set is."""

    def read(*_, **__):
        raise AssertionError("an image set was read")

    monkeypatch.setattr(frames.measurement, "matched", read)


@pytest.fixture
def published(no_images):
    return campaigns.open({"campaign": "params/published.yaml"})


def test_each_run_has_the_numbers_of_its_records(published):
    found, table = records.published(), published.runs
    own = {id for (kind, id), one in found.items() if kind == "training" and one.params["precision"] == "float32"}
    assert table["parent"].is_unique
    assert set(table["parent"]) <= own
    by_parent = {(one.kind, one.params.get("parent")): one for one in found.values()}
    for row in table.sample(20, random_state=0).to_dict("records"):
        run = found["training", row["parent"]]
        assert {key: row[key] for key in ("dataset", "model", "n_train", "seed")}.items() <= run.params.items()
        assert row["test_loss_nats"] == run.metrics["test_loss_nats"]
        attack = by_parent.get(("attack", run.id))
        if attack is not None:
            assert row["loss_penalty_nats_eps2"] == attack.metrics["loss_penalty_nats_eps2"]
        dimension = by_parent.get(("representation", run.id))
        expected = math.nan if dimension is None else dimension.metrics["d_repr"]
        assert row["d_repr"] == pytest.approx(expected, nan_ok=True)


def test_each_run_has_the_properties_of_its_set(published):
    sets = published.sets.set_index("dataset")
    for name, k_f in published.runs.groupby("dataset")["k_f"]:
        assert set(k_f) == {sets.loc[name, "k_f"]}
    assert (sets["k_f_low"] <= sets["k_f"]).all()
    assert (sets["d_data_low"] <= sets["d_data"]).all()
    assert sets["growth_k_f"].map(len).gt(2).all()


def test_what_is_missing_is_what_is_planned_and_can_be_reached(published):
    planned = len(plan.cells(published.params))
    unreachable = records.read_unreachable(records.published_file("published"))
    assert len(published.runs) + len(published.missing) + len(unreachable) == planned
    for part in (str(len(published.runs)), "params/published.yaml", "book/records"):
        assert part in published.shown


def test_a_page_of_other_image_sets_shows_this_machines_runs_of_these_alone(own_store):
    found = campaigns.open({"campaign": "params/quick.yaml", "datasets": ["digits"], "grey_level": 4})
    assert found.runs.empty
    assert found.sets.empty
    assert len(found.missing) == 6
    assert "digits" in found.shown
    words = shlex.split(found.command)
    assert words[:3] == ["intrinsic", "run", "params/quick.yaml"]
    assert words[3:] == ["-p", "datasets", '["digits"]', "-p", "grey_level", "4"]
    with pytest.raises(parameters.CampaignError, match="grey_level 3"):
        campaigns.open({"grey_level": 3})


def test_compute_trains_what_is_missing_and_says_what_failed(own_store, monkeypatch):
    from intrinsic.campaigns import execution

    asked = []

    def run(p, *, store):
        asked.append((p.name, store.root))
        return execution.Outcome(0, 0, (("resnet18 digits", "no luck"),), 0.0)

    monkeypatch.setattr(execution, "run", run)
    with pytest.raises(parameters.CampaignError, match="no luck"):
        campaigns.open({"campaign": "params/quick.yaml", "compute": True})
    assert asked == [("quick", own_store)]


def folder_of(tmp_path, seed):
    tmp_path.mkdir(exist_ok=True)
    images = np.random.default_rng(seed).integers(0, 256, (40, 16, 16), dtype=np.uint8)
    np.savez(tmp_path / "mine.npz", images=images, labels=np.arange(40) % 2)
    return str(tmp_path / "mine.npz")


def test_other_images_of_the_same_name_have_no_row(tmp_path, own_store):
    place, store = folder_of(tmp_path, 0), Store(own_store)
    p = parameters.Params(name="mine", datasets=[place], runs=[], size=16, per_class=15, draws=3, k=5)
    task = plan.plan(p).tasks[0]
    store.write(next(runs.compute(task, store)))
    assert frames.properties_frame(p, store)["dataset"].tolist() == [plan.set_name(place)]
    assert frames.properties_frame(p).empty
    other = folder_of(tmp_path / "other", 1)  # of the same name
    assert frames.properties_frame(p.model_copy(update={"datasets": [other]}), store).empty


def test_one_tidy_frame_holds_every_record_of_a_kind(no_images):
    table = frames.records_frame("training")
    assert len(table) == sum(kind == "training" for kind, _ in records.published())
    assert table["metrics.test_loss_nats"].dtype == float
    assert table["series.running_loss_nats"].map(len).equals(table["metrics.epochs"].astype(int))


def test_sets_and_runs_of_all_campaigns_at_one_setting(no_images):
    p = parameters.read("params/published.yaml")
    sets, table = frames.sets_at(p), frames.runs_at(p, "resnet18")
    assert sets["dataset"].is_unique
    assert {"mnist_even_odd", "garments_even_odd"} <= set(sets["dataset"])  # the second is of nine_thousand.yaml
    assert set(table["dataset"]) <= set(sets["dataset"])
    assert table.notna().all().all()
    with pytest.raises(parameters.CampaignError, match="vgg19"):
        frames.runs_at(parameters.read("params/quick.yaml"), "vgg19")
