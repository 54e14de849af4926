"""`intrinsic run`, `status`, `publish`, `forecast` and `measure`, as typed."""

import json
from pathlib import Path

import made_up
import pytest

from intrinsic import cli, images
from intrinsic.campaigns import execution, parameters, plan, records, status
from intrinsic.properties.sharpness import mean_sharpness

ROOT = Path(__file__).resolve().parents[2]
TINY = str(ROOT / "tests" / "tiny.yaml")


@pytest.fixture
def typed(capsys):
    def run(*words):
        code = cli.main(list(map(str, words)))
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def store(own_store):
    return records.Store(own_store)


def test_a_dry_run_counts_and_computes_nothing(typed, store):
    code, out, _ = typed("run", TINY, "--dry-run", "-p", "datasets", "[digits_0_1]")
    assert code == 0
    assert "3 tasks, 0 stored, 3 to do" in out
    assert "unknown" in out
    assert not store.root.exists()


def test_a_run_that_failed_is_an_error_and_status_says_why(typed, store, monkeypatch):
    made = plan.plan(parameters.read(TINY))

    def run(p, **how):
        store.fail(*made.tasks[-1].keys[0], label=made.tasks[-1].label, reason="no luck", traceback="line 7")
        return execution.Outcome(1, 2, ((made.tasks[-1].label, "no luck"),), 0.1)

    monkeypatch.setattr(execution, "run", run)
    code, out, err = typed("run", TINY)
    assert code == 1
    assert "1 failed" in out
    assert "no luck" in err
    code, out, _ = typed("status", TINY, "--traceback")
    assert code == 0
    assert "0 done, 1 failed, 5 to do, 0 not reachable" in out
    assert "line 7" in out


@pytest.mark.parametrize(
    "words", [("--scheduler", "127.0.0.1"), ("-p", "sizee", "3"), ("--scheduler", "tcp://127.0.0.1:1")]
)
def test_what_cannot_be_run_is_one_sentence(typed, words):
    code, _, err = typed("run", TINY, *words)
    assert code != 0
    assert len(err.splitlines()) == 1
    assert words[1] in err


def test_records_are_published_once_and_what_cannot_be_reached_beside_them(typed, store, tmp_path):
    file, grid = tmp_path / "mine.jsonl", "[{models: [resnet18], n_train: [32, 100000]}]"
    words = ("publish", TINY, "-p", "runs", grid, "-p", "datasets", "[digits_0_1]", "--output", file)
    assert typed(*words)[0] == 1  # nothing is stored
    assert not file.exists()
    made = plan.plan(parameters.read(TINY, {"runs": [{"models": ["resnet18"], "n_train": [32, 100_000]}]}))
    one = records.Record("training", made.tasks[2].params, {"x": 1.0}, provenance={"written": "2026-01-01"})
    store.write(one)
    store.write(records.Record("training", {"model": "other"}, {}))
    code, out, _ = typed(*words)
    assert code == 0
    assert "1 record, 1 of them new" in out
    assert list(records.read_published(file).values()) == [one]
    assert list(records.read_unreachable(file)) == ["resnet18 digits_0_1 N=100000 seed=0"]
    later = records.Record("training", one.params, {"x": 2.0}, provenance={"written": "2026-02-01"})
    store.write(later)
    typed(*words)
    assert list(records.read_published(file).values()) == [later]
    store.write(one)
    typed(*words)
    assert list(records.read_published(file).values()) == [later]


def test_the_status_of_made_up_tasks(store):
    made = made_up.planned("done", "failed", "open")
    store.write(records.Record("properties", made.tasks[0].params, {}))
    store.fail(*made.tasks[1].keys[0], label="x", reason="no luck", traceback="")
    table = status.table(status.states(made, store))
    assert table[list(status.STATES)].to_numpy().tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]
    assert table["reason"].tolist() == ["", "no luck", ""]


def test_a_set_is_compared_with_the_published_ones(typed, store):
    code, out, _ = typed("measure", "digits_0_1", "--size", 64, "--json")
    compared = json.loads(out)["compared"]
    assert code == 0
    assert compared["sets"] == len(compared["k_f"]) >= 40
    assert compared["per_class"] == 250
    own = images.match(images.load("digits_0_1"), size=64, channels=1)
    value = mean_sharpness(own, per_class=250, interval=False)
    assert compared["below"] == sum(other < value for other in compared["k_f"].values())


def test_a_forecast_is_made_from_the_published_runs(typed, store):
    code, out, _ = typed("forecast", "mnist_even_odd", "--at", 2000, "--json")
    found = json.loads(out)
    assert code == 0
    assert found["trained"][0] == 62
    assert found["forecasts"][0]["n_train"] == 2000
    code, _, err = typed("forecast", "digits_0_1")
    assert code == 1
    assert "digits_0_1" in err
