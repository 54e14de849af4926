"""Courses of training runs: steps at chance, steps until fit, runs trained both ways, all on made-up records."""

import math

import numpy as np
import pandas as pd
import pytest

from intrinsic.campaigns import campaign
from intrinsic.campaigns.records import Record, Store
from intrinsic.inference import courses
from intrinsic.networks import models, training
from intrinsic.publishing import charts


def course(
    losses, *, dataset="a", model="vgg13", n_train=32, seed=0, warmup=2000, fitted=True, test_loss=0.5, chance=2
):
    """Rows of a run of two steps an epoch."""
    run = {"dataset": dataset, "family": dataset, "domain": "medical", "model": model, "n_train": n_train}
    run |= {"seed": seed, "warmup_steps": warmup, "fitted": fitted, "reason": "fit" if fitted else "chance"}
    run |= {"test_loss_nats": test_loss, "test_accuracy": 0.9, "chance_nats": math.log(chance), "epoch_steps": 2}
    return [{**run, "epoch": i, "step": 2 * i, "running_loss_nats": loss} for i, loss in enumerate(losses, 1)]


def frame(*runs):
    return pd.DataFrame([row for run in runs for row in run])


def test_protocols_say_what_training_does():
    table = courses.protocols()
    assert list(zip(table["protocol"], table["network"], strict=True)) == [
        (protocol, model) for protocol in ("fit", "paper") for model in models.MODELS
    ]
    for row in table.itertuples():
        how = training.protocol(row.protocol, row.network)
        assert (row.batch, row.learning_rate, row.warmup_steps) == (
            how["batch_size"],
            how["learning_rate"],
            how["warmup_steps"],
        )
    assert set(table[table["protocol"] == "paper"]["ends"]) == {"after 100 epochs"}
    ends = table[table["protocol"] == "fit"].set_index("network")["ends"]
    assert ends["resnet18"] == "once it fits; at 100 epochs and 1,500 steps at the latest"
    assert ends["vgg19"] == "once it fits; at 100 epochs and 2,000 steps at the latest"  # the warm-up is longer


@pytest.mark.parametrize(
    ("losses", "classes", "at_chance"),
    [
        ([0.5, 0.1], 2, 0),  # the first epoch is below already
        ([0.70, 0.69, 0.60, 0.1], 2, 4),  # ln 2 = 0.693; 0.69 is not 0.01 below
        ([0.70, 0.69, 0.69, 0.70], 2, 8),  # never: all steps
        ([0.60, 0.70, 0.70], 2, 0),  # once below is enough
        ([0.70, 0.60], 3, 0),  # ln 3 = 1.099
    ],
)
def test_steps_at_chance_end_with_the_first_epoch_below_the_best_constant(losses, classes, at_chance):
    [run] = courses.ended(frame(course(losses, chance=classes))).itertuples()
    assert run.first_at_chance == at_chance
    assert run.step == 2 * len(losses)
    assert run.at_chance == (losses[-1] > math.log(classes) - 0.01)


def test_a_run_of_unknown_classes_is_not_said_to_be_at_chance():
    rows = frame(course([0.7, 0.7]), course([0.7, 0.7], dataset="b")).assign(
        chance_nats=lambda t: t["chance_nats"].where(t["dataset"] == "a")
    )
    found = courses.ended(rows).set_index("dataset")["first_at_chance"]
    assert found["a"] == 4
    assert np.isnan(found["b"])
    assert courses.steps_until_fit(courses.ended(rows))["at_chance"].tolist() == [1]


def test_steps_until_fit_count_fitted_runs_alone():
    runs = courses.ended(
        frame(
            course([0.7, 0.5, 0.1], seed=0),
            course([0.5, 0.1], seed=1),
            course([0.7, 0.7, 0.7, 0.7, 0.1], seed=2),
            course([0.7] * 50, seed=3, fitted=False),
            course([0.7, 0.5] * 20, seed=4, fitted=False),
            course([0.7, 0.5, 0.7, 0.7], seed=5, fitted=False),
            course([0.4], model="resnet50", n_train=64),
            course([0.4], model="resnet18", n_train=64),
            course([0.4, 0.2], model="resnet18", n_train=32),
        )
    )
    table = courses.steps_until_fit(runs)
    assert list(zip(table["network"], table["n_train"], strict=True)) == [
        ("resnet18", 32),
        ("resnet18", 64),
        ("resnet50", 64),
        ("vgg13", 32),
    ]
    vgg = table.iloc[3]
    assert (vgg["runs"], vgg["fitted"], vgg["at_chance"]) == (6, 3, 2)
    assert (vgg["median_steps"], vgg["least_steps"], vgg["most_steps"], vgg["longest_at_chance"]) == (6, 4, 10, 8)


def test_a_network_that_never_fits_has_no_steps():
    table = courses.steps_until_fit(courses.ended(frame(course([0.7] * 9, fitted=False))))
    assert table[["runs", "fitted", "at_chance"]].iloc[0].tolist() == [1, 0, 1]
    assert table[["median_steps", "least_steps", "most_steps", "longest_at_chance"]].isna().all(axis=None)


def test_courses_are_thinned_with_their_ends_kept_and_one_seed_each():
    rows = frame(*(course(np.linspace(0.7, 0.1, 90), dataset=d, seed=s) for d in "abcd" for s in (3, 1)))
    found = courses.thinned(rows, 32, rows=40)
    assert set(found["seed"]) == {1}
    assert len(found) == 40
    for _, run in found.groupby("dataset"):
        assert (run["step"].min(), run["step"].max()) == (2, 180)
        assert run["step"].is_monotonic_increasing
    assert len(courses.thinned(rows, 32, rows=10_000)) == 4 * 90
    assert courses.thinned(rows, 64).empty


def test_pairs_are_of_one_network_set_size_and_seed():
    warm = courses.ended(
        frame(
            course([0.1], seed=0, test_loss=0.2),
            course([0.1], seed=1, test_loss=0.3),
            course([0.1], model="vgg19", test_loss=0.3),
            course([0.1], model="resnet18", warmup=0),
        )
    )
    cold = courses.ended(
        frame(
            course([0.1, 0.1], seed=0, warmup=0, test_loss=0.4),
            course([0.1], seed=2, warmup=0),
            course([0.7], model="vgg19", warmup=0, fitted=False),
            course([0.1], model="resnet18", warmup=0),
        )
    )
    pairs = courses.compared(warm, cold).set_index("network")
    assert list(pairs.index) == ["vgg13", "vgg19"]  # a ResNet has no warm-up in either
    assert pairs.loc["vgg13", ["steps_warm", "steps_cold", "seed"]].tolist() == [2, 4, 0]
    assert pairs.loc["vgg13", "log_loss_ratio"] == pytest.approx(math.log(0.5))
    assert np.isnan(pairs.loc["vgg19", "log_loss_ratio"])
    assert pairs["fitted"].tolist() == ["both", "with"]
    assert courses.said(pairs.reset_index()) == (
        "Of 2 runs trained both ways 2 fitted with warm-up and 1 without. Where both fitted, the test loss with "
        "warm-up is 0.5 times that without (geometric mean of 1 pair on 1 image set)."
    )


def test_without_records_tables_are_empty_and_sentences_say_so(tmp_path):
    p = campaign.params(name="none", datasets=["digits"], runs=[{"models": ["vgg13"], "n_train": [64]}])
    none = campaign.courses_frame(p, store=Store(tmp_path))
    ended = courses.ended(none)
    assert courses.steps_until_fit(ended).empty
    assert courses.thinned(none, 500).empty
    pairs = courses.compared(ended, ended)
    assert "nothing is known" in courses.said(pairs)
    assert courses.verdict(ended, 9) == "Undecided: none of 9 planned runs is stored."
    assert "no course is stored" in charts.courses(none).to_dict()["description"]


def test_the_verdict_says_what_is_stored_of_what_is_planned_and_names_runs_at_chance():
    runs = courses.ended(frame(course([0.7] * 3, fitted=False), course([0.1], seed=1)))
    assert courses.verdict(runs, 9) == (
        "Refuted: of 9 planned runs 2 are stored, and 1 of these fitted. At chance in the end: 1 of vgg13."
    )
    fitted = runs[runs["fitted"]]
    assert courses.verdict(fitted, 9).startswith("Not refuted so far: of 9 planned runs 1 are stored, and 1 of these")
    assert courses.verdict(fitted, 1).startswith("Not refuted: ")
    assert courses.verdict(fitted, 1).endswith("At chance in the end: none.")


def test_a_stored_course_is_that_of_its_run(tmp_path):
    """Of a run of the trainer itself, and only the one whose warm-up the parameters name."""
    keys = {"name": "few", "datasets": ["digits_0_1"], "size": 32, "per_class": 40, "draws": 2, "k": 5}
    keys |= {"epochs": 2, "until": "epochs", "precision": "float32", "attack_images": 4, "sanity_images": 0}
    keys |= {"runs": [{"models": ["resnet18"], "n_train": [16]}]}
    store = Store(tmp_path)
    p = campaign.params(**keys, warmup_steps=3)
    assert not campaign.run(p, store=store, progress=False).failed
    found = campaign.courses_frame(p, store=store)
    [record] = store.records("training")
    assert isinstance(record, Record)
    assert record.params["warmup_steps"] == 3
    assert found["running_loss_nats"].tolist() == record.series["running_loss_nats"]
    assert found["step"].tolist() == [1, 2]  # 16 images in batches of 64
    assert found["chance_nats"].tolist() == pytest.approx([math.log(2)] * 2)
    assert campaign.courses_frame(campaign.params(**keys), store=store).empty
