import math

import numpy as np
import pandas as pd
import pytest

from intrinsic.inference import forecast
from intrinsic.inference.effects import NotEnough

SIZES = (62, 125, 250, 500, 1000, 2000)


def simulated(sets=10, seed=0, *, intercept=0.3, slope=0.05, noise=0.1, n_classes=2):
    """Runs of the model itself: a = 0.5, b = 1, s = 2, with random intercepts and slopes of sets."""
    rng, rows = np.random.default_rng(seed), []
    for i in range(sets):
        d, k = rng.uniform(8, 16), rng.uniform(0.1, 0.4)
        u, v = intercept * rng.normal(), slope * rng.normal()
        for n in SIZES:
            for _ in range(2):
                log_loss = 0.5 + np.log(k) - 2 / d * np.log(n) + u + v * np.log(n / 350) + noise * rng.normal()
                wrong = min(0.45, 0.4 * math.exp(log_loss))
                rows.append({"dataset": f"set{i}", "family": f"f{i // 2}", "n_train": n, "d_data": d, "k_f": k,
                             "test_loss_nats": math.exp(log_loss), "test_accuracy": 1 - wrong, "n_test": 400,
                             "n_classes": n_classes})  # fmt: skip
    return pd.DataFrame(rows)


def test_without_noise_between_runs_the_forecast_continues_each_sets_own_line():
    runs = simulated(noise=1e-4)
    small = runs[(runs["dataset"] != "set0") | (runs["n_train"] <= 500)]
    found = forecast.Pooled(small).at("set0", 2000)
    known = runs[(runs["dataset"] == "set0") & (runs["n_train"] == 2000)]["test_loss_nats"].mean()
    assert found == pytest.approx(known, rel=0.02)
    assert found.low < known < found.high


def test_prediction_intervals_hold_the_runs_as_often_as_they_say():
    inside = []
    for seed in range(4):
        runs = simulated(8, seed)
        for name, own in runs.groupby("dataset"):
            there = own[own["n_train"] == 2000]
            found = forecast.Pooled(runs.drop(own.index[own["n_train"] > 500])).at(name, 2000, n_runs=len(there))
            inside.append(found.low <= np.exp(np.log(there["test_loss_nats"]).mean()) <= found.high)
    assert np.mean(inside) > 0.8  # 32 forecasts, not independent


def test_the_interval_of_a_mean_is_narrower_than_that_of_one_run():
    model = forecast.Pooled(simulated())
    one, many = (model.at("set0", 3000, n_runs=n) for n in (1, 100))
    assert one == many
    assert many.high / many.low < one.high / one.low


def test_one_more_run_is_named_where_it_would_tell_accuracy_from_chance():
    runs = simulated(noise=0.3)
    near = runs.copy()
    own = near["dataset"] == "set0"
    near.loc[own, "test_accuracy"] = 0.52 + 0.01 * np.log(near.loc[own, "n_train"] / 62)  # barely above chance
    kept = near.drop(near.index[own & (near["n_train"] > 125)])
    assert not forecast.forecast(kept, "set0", [1000])["informative"].item()
    more = forecast.informative_from(kept, "set0", 1000)
    assert more is None or 125 < more <= 1000
    easy = runs.drop(runs.index[(runs["dataset"] == "set0") & (runs["n_train"] > 125)])
    assert forecast.informative_from(easy, "set0", 1000) == 250
    assert forecast.informative_from(easy, "set0", 200) is None


def test_the_table_names_what_lies_too_far_and_what_is_not_informative():
    runs = simulated()
    table = forecast.forecast(runs, "set0", [500, 4000, 10**6])
    assert table["n_train"].tolist() == [500, 4000]
    assert table.attrs["left_out"] == [10**6]
    assert (table["accuracy_low"] <= table["accuracy"]).all()
    assert (table["accuracy"] <= table["accuracy_high"]).all()
    assert table["informative"].all()
    guessing = runs.assign(test_accuracy=np.where(runs["dataset"] == "set0", 0.52, runs["test_accuracy"]))
    assert not forecast.forecast(guessing, "set0")["informative"].any()


def test_the_size_needed_is_where_the_forecast_reaches_the_target():
    runs = simulated()
    at = forecast.Pooled(runs).at("set0", 5000)
    found = forecast.n_needed(runs, "set0", float(at))
    assert found == pytest.approx(5000, rel=0.02)
    assert found.low < found < found.high
    assert forecast.n_needed(runs, "set0", 1e-9) == math.inf
    assert forecast.n_needed(runs, "set0", 1e9) == found.smallest == 62


@pytest.mark.parametrize(
    ("call", "names"),
    [
        (lambda runs: forecast.Pooled(runs[runs["dataset"] < "set4"]), "4"),
        (lambda runs: forecast.Pooled(runs.assign(k_f=0.0)), "k_f"),
        (lambda runs: forecast.Pooled(runs).at("set0", 10**6), "20000"),
        (lambda runs: forecast.forecast(runs, "nobody"), "nobody"),
        (lambda runs: forecast.n_needed(runs, "set0", 0.6, outcome=forecast.ERROR), "0.6"),
    ],
)
def test_what_cannot_be_forecast_is_refused(call, names):
    with pytest.raises(NotEnough, match=names):
        call(simulated())
