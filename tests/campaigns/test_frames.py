"""Frames: one row a run with the numbers of its records, read without any image."""

import math
import shlex
from dataclasses import replace
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


def test_new_families_join_the_published_runs_once_all_their_primary_runs_are_there(published, monkeypatch):
    new = published.confirmation
    assert len(published.every_set) == len(published.sets) + len(new.sets)
    assert published.every_set["dataset"].is_unique
    for missing, joined in (
        (["vgg13 malaria_cell N=500 seed=0"], 0),
        (["vgg13 malaria_cell N=700 seed=0"], len(new.runs)),
    ):
        one = replace(published)
        monkeypatch.setitem(new.__dict__, "missing", missing)
        monkeypatch.setitem(one.__dict__, "confirmation", new)
        assert len(one.every) == len(one.runs) + joined
    other = campaigns.open({"campaign": "params/beyond.yaml"})
    assert other.confirmation is None
    assert other.every is other.runs


def test_what_is_missing_is_what_is_planned_and_can_be_reached(published):
    planned = len(plan.cells(published.params))
    unreachable = records.read_unreachable(records.published_file("published"))
    assert len(published.runs) + len(published.missing) + len(unreachable) == planned
    for part in (str(len(published.runs)), "params/published.yaml", "book/records"):
        assert part in published.shown


def test_a_page_without_runs_of_its_image_sets_says_the_command_that_makes_them(own_store, tmp_path):
    for given, file in (({"campaign": "params/quick.yaml"}, "params/quick.yaml"), ({}, parameters.OWN)):
        with pytest.raises(parameters.CampaignError, match="compute = True") as found:
            campaigns.open(given | {"datasets": ["digits_4_9"], "grey_level": 4, "compute": False})
        words = shlex.split(str(found.value).split("`")[1])
        assert words[:3] == ["intrinsic", "run", file]
        assert words[3:] == ["-p", "datasets", '["digits_4_9"]', "-p", "grey_level", "4"]
    with pytest.raises(parameters.CampaignError, match="digits"):
        campaigns.open({"datasets": ["digitz"]})
    with pytest.raises(parameters.CampaignError, match="nowhere"):
        campaigns.open({"datasets": [str(tmp_path / "nowhere")]})
    with pytest.raises(parameters.CampaignError, match="grey_level 3"):
        campaigns.open({"grey_level": 3})


def test_a_page_of_some_published_sets_shows_the_published_runs_of_these_alone(published, own_store):
    found = campaigns.open({"datasets": ["mnist_even_odd"]})
    assert set(found.runs["dataset"]) == set(found.sets["dataset"]) == {"mnist_even_odd"}
    assert len(found.runs) == (published.runs["dataset"] == "mnist_even_odd").sum()
    assert "mnist_even_odd" in found.shown


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


def test_with_a_small_set_all_sets_are_compared_at_the_images_that_it_has(no_images, own_store):
    p = parameters.read("params/published.yaml")
    setting = {key: value for key, value in plan.properties_params(p, "any").items() if key != "dataset"}
    alike = (one for one in records.collected("properties", None) if setting.items() <= one.params.items())
    known = {one.params["dataset"]: one for one in alike}
    one = known["mnist_even_odd"]
    cut = {key: [v for v, m in zip(one.series[key], one.series[sizes], strict=True) if m <= 100]
           for sizes, both in (("growth_per_class", ("growth_k_f", "growth_per_class")),
                               ("d_mle_per_class", ("d_mle_at", "d_mle_per_class"))) for key in both}  # fmt: skip
    lacking = {key: None for key in ("k_f", "d_mle")}
    few = replace(one, params=one.params | {"dataset": "few"}, series=cut, metrics=one.metrics | lacking,
                  reasons=one.reasons | dict.fromkeys(lacking, "few"))  # fmt: skip
    store = Store(own_store)
    store.write(few)
    assert "few" not in set(frames.sets_at(p, store)["dataset"])
    table = frames.sets_at(p, store, "few").set_index("dataset")
    assert set(table["per_class"]) == {100}
    assert len(table) == len(frames.sets_at(p, store)) + 1
    for name in ("few", "mnist_even_odd", "knee_xray_oa"):
        series = known.get(name, one).series
        assert table.loc[name, "k_f"] == series["growth_k_f"][series["growth_per_class"].index(100)]
        assert table.loc[name, "d_data"] == series["d_mle_at"][series["d_mle_per_class"].index(100)]
