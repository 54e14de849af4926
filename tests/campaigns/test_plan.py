"""The plan: every run of the grid once, under the ids that the published records have."""

from pathlib import Path

import pytest

from intrinsic.campaigns import parameters, plan, records, status
from intrinsic.campaigns.parameters import CampaignError

ROOT = Path(__file__).resolve().parents[2]
CAMPAIGNS = ("published", "controlled", "nine_thousand", "warmup")


@pytest.fixture(scope="module")
def tiny():
    return parameters.read(ROOT / "tests" / "tiny.yaml")


def reached(p, found):
    """Published training records of a campaign, by the cells that its plan names."""
    runs = {}
    for (kind, _), one in found.items():
        if kind == "training":
            runs.setdefault(records.cell_id(one.params), []).append(one)
    for cell, radii in plan.cells(p).items():
        wanted = plan.training_params(p, *cell)
        ways = [records.cell_id({**wanted, "precision": one}) for one in plan.precisions(p, wanted)]
        yield from ((cell, radii, one) for way in ways for one in runs.get(way, []))


@pytest.mark.parametrize("name", CAMPAIGNS)
def test_planned_ids_are_those_of_the_published_records(name):
    p, found = parameters.read(f"params/{name}.yaml"), records.published()
    own = {id for kind, id in records.read_published(records.published_file(name)) if kind == "training"}
    seen = set()
    for cell, radii, record in reached(p, found):
        hashes = {key: record.params[key] for key in records.HASHES}
        task = plan._training_task(p, cell, radii, hashes, 2)
        assert task.keys[0] == ("training", record.id)
        assert ("attack", task.keys[1][1]) in found or record.id not in own
        seen.add(record.id)
    assert own <= seen


def test_the_papers_grid_has_972_runs():
    assert len(plan.cells(parameters.read("params/paper.yaml"))) == 972


def test_every_cell_comes_once_and_the_first_block_counts(tiny):
    blocks = [
        {"models": ["resnet18"], "n_train": [32], "radius_images": 5},
        {"models": ["resnet18"], "n_train": [32, 64]},
    ]
    p = parameters.Params(**{**tiny.model_dump(), "runs": blocks, "datasets": ["digits_0_1"]})
    assert plan.cells(p) == {("digits_0_1", "resnet18", 32, 0): 5, ("digits_0_1", "resnet18", 64, 0): None}


def test_a_plan_names_the_records_of_each_task_and_what_no_set_can_reach(tiny):
    grid = [{"models": ["resnet18"], "n_train": [32, 100_000]}]
    made = plan.plan(parameters.Params(**{**tiny.model_dump(), "runs": grid, "datasets": ["digits_0_1"]}))
    assert [task.label for task in made.tasks] == ["properties digits_0_1", "resnet18 digits_0_1 N=32 seed=0"]
    assert [label for label, _ in made.unreachable] == ["resnet18 digits_0_1 N=100000 seed=0"]
    assert [kind for kind, _ in made.tasks[1].keys] == ["training", "attack", "representation"]
    assert made.incomparable == ()


def test_what_is_stored_is_not_to_do_unless_it_is_damaged(tiny, own_store):
    made, store = plan.plan(tiny), records.Store(own_store)
    assert made.todo(store) == list(made.tasks)
    done = made.tasks[-1]
    for kind, id in done.keys:
        params = done.params if kind == "training" else done.hanging[kind][0]
        store.write(records.Record(kind, params, {}))
        assert (kind, id) in store
    assert made.todo(store) == list(made.tasks[:-1])
    store.path(*done.keys[1]).write_text("{")
    assert made.todo(store) == list(made.tasks)


def test_a_run_at_the_precision_of_other_hardware_serves_where_it_is_automatic(tiny):
    p = tiny.model_copy(update={"precision": "auto", "datasets": ["digits_0_1"]})
    task = plan.plan(p).tasks[-1]
    assert task.done(set(task.keys))
    assert len(task.others) == 1
    assert all(task.done(set(keys)) for keys in task.others)
    assert not task.done(set(task.keys[:-1]))


def test_two_sets_of_one_name_are_refused(tiny, tmp_path):
    for place in ("a", "b"):
        (tmp_path / place / "scans").mkdir(parents=True)
    p = tiny.model_copy(update={"datasets": [str(tmp_path / place / "scans") for place in ("a", "b")]})
    with pytest.raises(CampaignError, match="scans"):
        plan.sources(p)


def test_the_estimate_is_the_median_of_stored_seconds_and_unknown_without(tiny, own_store):
    made, store = plan.plan(tiny.model_copy(update={"datasets": ["digits_0_1"]})), records.Store(own_store)
    task = made.tasks[1]
    for seed, seconds in enumerate((10.0, 20.0, 60.0)):
        run = records.Record("training", {**task.params, "seed": seed}, {}, provenance={"seconds": seconds})
        store.write(run)
        store.write(records.Record("attack", {"parent": run.id}, {}, provenance={"seconds": 5.0}))
    assert status.estimate(made.tasks[1:], store) == {("resnet18", 32): 25.0, ("resnet18", 64): None}


def test_sets_that_are_elsewhere_are_left_out(tiny, monkeypatch):
    monkeypatch.delenv("INTRINSIC_SETS", raising=False)
    p = tiny.model_copy(update={"datasets": ["digits_0_1", "knee_xray_oa"]})
    left, absent = plan.present(p)
    assert left.datasets == ["digits_0_1"]
    assert set(absent) == {"knee_xray_oa"}
