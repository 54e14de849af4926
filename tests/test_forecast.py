"""The label forecast against simulations whose truth is known."""

import numpy as np
import pandas as pd
import pytest

from intrinsic.inference.forecast import (
    ERROR,
    LOSS,
    ahead,
    check,
    coverage,
    error_of,
    held_out,
    judged,
    left_out,
    mean_curve,
    n_needed,
    own_power_law,
    pooled,
    table,
    with_error,
)
from intrinsic.inference.statistics import NotEnough


def simulated(seed, tau=0.3, omega=0.05, sigma=0.15, sets=10):
    """Runs of `sets` sets at N to 1,750, the first one's to 250, and its loss at 1,750."""
    rng = np.random.default_rng(seed)
    rows = []
    for g in range(sets):
        d, k = rng.uniform(5, 20), rng.uniform(0.1, 0.4)
        u, v = rng.normal(0, tau), rng.normal(0, omega)
        for n in (60, 125, 250, 500, 1000, 1750):
            line = 1 + np.log(k) - 2 / d * np.log(n) + u + v * np.log(n / 300)
            rows.append((f"s{g}", n, np.exp(line + rng.normal(0, sigma)), d, k))
    frame = pd.DataFrame(rows, columns=["dataset", "n_train", "test_loss_nats", "d_data", "k_f"])
    hidden = (frame["dataset"] == "s0") & (frame["n_train"] > 250)
    truth = frame.loc[hidden & (frame["n_train"] == 1750), "test_loss_nats"].item()
    return frame[~hidden], truth


def test_an_exact_power_law_is_recovered():
    runs, truth = simulated(0, tau=0, omega=0, sigma=0)
    assert pooled(runs, "s0", 1750).value == pytest.approx(truth, rel=0.01)


def test_the_interval_covers_a_new_run_as_often_as_it_says():
    inside = []
    for seed in range(100):
        runs, truth = simulated(seed)
        forecast = pooled(runs, "s0", 1750)
        inside.append(forecast.low <= truth <= forecast.high)
    assert 0.90 <= np.mean(inside) <= 0.99


def test_the_interval_of_a_mean_covers_a_mean_of_as_many_runs_as_often_as_it_says():
    inside, n_runs, sigma = [], 5, 0.6
    for seed in range(100):
        runs, truth = simulated(seed, sigma=sigma)
        one, mean = (pooled(runs, "s0", 1750, n_runs=n) for n in (1, n_runs))
        assert one.low < mean.low < mean.value == one.value < mean.high < one.high
        others = np.random.default_rng(1000 + seed).normal(0, sigma, n_runs)  # of n_runs runs on the line of truth's
        line = np.log(truth) - noise_of_the_hidden_run(seed, sigma)
        inside.append(mean.low <= np.exp(line + others.mean()) <= mean.high)
    assert 0.90 <= np.mean(inside) <= 0.99


def noise_of_the_hidden_run(seed, sigma):
    """log(loss of `simulated`'s hidden run / its set's line there): the difference to the same draws without noise."""
    return np.log(simulated(seed, sigma=sigma)[1] / simulated(seed, sigma=0)[1])


def test_beyond_tenfold_nothing_is_forecast():
    with pytest.raises(NotEnough, match="beyond 10 times"):
        pooled(simulated(0)[0], "s0", 2501)


def test_one_size_is_too_few():
    runs, _ = simulated(0)
    with pytest.raises(NotEnough, match="fewer than 2 sizes"):
        pooled(runs[(runs["dataset"] != "s0") | (runs["n_train"] == 250)], "s0", 1000)


def test_pooling_beats_a_sets_own_points_where_sets_share_the_form():
    pooled_errors, own_errors = [], []
    for seed in range(40):
        runs, truth = simulated(seed)
        pooled_errors.append(abs(np.log(pooled(runs, "s0", 1750).value / truth)))
        own_errors.append(abs(np.log(own_power_law(runs, "s0", 1750) / truth)))
    assert np.mean(pooled_errors) < np.mean(own_errors)


def test_the_labels_needed_of_an_exact_power_law_are_recovered():
    runs, truth = simulated(0, tau=0, omega=0, sigma=0)
    needed = n_needed(runs, "s0", truth)
    assert needed.n_train == pytest.approx(1750, rel=0.05)
    assert needed.low <= needed.n_train <= needed.high
    assert {type(n) for n in (needed.n_train, needed.low, needed.high, needed.largest)} == {int}
    assert str(needed) == f"N: {needed.n_train}, interval from {needed.low} to {needed.high}"


def counted(runs, n_test=4000):
    """The runs, with the loss taken as the error rate of a large test set."""
    share = 0.2 * runs["test_loss_nats"]
    return runs.assign(test_accuracy=1 - np.round(share * n_test) / n_test, n_test=n_test)


def test_an_exact_power_law_of_the_error_is_recovered_as_accuracy_and_labels_needed():
    runs, truth = simulated(0, tau=0, omega=0, sigma=0)
    found = table(counted(runs), "s0", [500, 1750, 9000]).set_index("n_train")
    assert found.index.tolist() == [500, 1750]  # 9,000 is more than ten times 250
    assert found.loc[1750, "loss"] == pytest.approx(truth, rel=0.01)
    assert 1 - found.loc[1750, "accuracy"] == pytest.approx(0.2 * truth, rel=0.03)
    assert (found.accuracy_low <= found.accuracy).all()
    assert (found.accuracy <= found.accuracy_high).all()
    needed = n_needed(with_error(counted(runs)), "s0", error_of(1 - 0.2 * truth), outcome=ERROR)
    assert needed.n_train == pytest.approx(1750, rel=0.1)


def test_a_network_without_an_error_has_a_logarithm_of_it():
    runs = with_error(pd.DataFrame({"test_accuracy": [1.0, 0.5], "n_test": [99, 99]}))
    assert runs[ERROR].tolist() == pytest.approx([0.5 / 100, 50 / 100])


@pytest.mark.parametrize("accuracy", [0, 1, 1.2, float("nan")])
def test_an_accuracy_that_no_network_has_is_refused(accuracy):
    with pytest.raises(NotEnough, match="between 0 and 1"):
        error_of(accuracy)


def test_errors_are_held_out_as_losses_are():
    runs = counted(whole(1, tau=0, omega=0, sigma=0))
    by_loss, by_error = (held_out(with_error(runs), 1750, 250, outcome=outcome) for outcome in (LOSS, ERROR))
    assert by_error["measured"].tolist() == pytest.approx((0.2 * by_loss["measured"]).tolist(), rel=0.05)
    assert by_error["error_pooled"].abs().max() < 0.1


def test_labels_needed_beyond_tenfold_are_more_than_that():
    needed = n_needed(simulated(0)[0], "s0", 1e-6)
    assert needed.n_train is None
    assert needed.bounds == dict.fromkeys(("n_train", "low", "high"), "> 2500")
    assert str(needed) == "N: more than 2500 (2500 is 10 times the largest)"


def test_labels_that_were_there_already_are_at_most_so_many():
    needed = n_needed(simulated(0, tau=0, omega=0, sigma=0)[0], "s0", 1e6)
    assert needed.n_train == needed.smallest == 60
    assert needed.bounds == dict.fromkeys(("n_train", "low", "high"), "<= 60")
    assert str(needed) == "N: at most 60 (60 is the smallest N trained)"


def test_a_target_loss_without_a_logarithm_is_refused():
    with pytest.raises(NotEnough, match="no logarithm"):
        n_needed(simulated(0)[0], "s0", 0)


def test_the_mean_curve_does_not_use_the_set_itself():
    runs, _ = simulated(0)
    assert mean_curve(runs, "s0", 1750) == mean_curve(runs[runs["dataset"] != "s0"], "s0", 1750)


def whole(seed, **how):
    """Simulated runs with those that `simulated` hides."""
    runs, truth = simulated(seed, **how)
    first = runs[runs["dataset"] == "s0"].iloc[0]
    return pd.concat([runs, first.to_frame().T.assign(n_train=1750, test_loss_nats=truth)]).infer_objects()


def test_each_set_is_forecast_without_its_own_large_runs():
    runs = whole(1, tau=0, omega=0, sigma=0)
    table = held_out(runs, 1750, 250)
    assert sorted(table["dataset"]) == sorted(runs["dataset"].unique())
    assert table["error_pooled"].abs().max() < 0.02
    moved = runs.assign(
        test_loss_nats=np.where(runs["n_train"] == 1750, 9 * runs["test_loss_nats"], runs["test_loss_nats"])
    )
    hidden = held_out(moved[(moved["n_train"] < 1750) | (moved["dataset"] == "s3")], 1750, 250)
    assert hidden["dataset"].tolist() == ["s3"]
    assert hidden["error_own_power_law"].item() == pytest.approx(np.log(1 / 9), abs=0.02)


def repeated(runs, n_runs, sigma, seed=0):
    """The runs, those at 1,750 `n_runs` times each with noise of their own."""
    again = runs[runs["n_train"] == 1750]
    again = again.loc[again.index.repeat(n_runs)]
    noise = np.random.default_rng(seed).normal(0, sigma, len(again))
    again = again.assign(test_loss_nats=again["test_loss_nats"] * np.exp(noise))
    return pd.concat([runs[runs["n_train"] != 1750], again], ignore_index=True)


def test_a_mean_of_runs_is_held_against_the_interval_of_a_mean_and_each_run_against_that_of_one():
    runs = repeated(whole(3, sigma=0.3), 5, 0.3)
    found = held_out(runs, 1750, 250)
    for row in found.itertuples():
        own = runs["dataset"] == row.dataset
        known = runs[~own | (runs["n_train"] <= 250)]
        there = runs.loc[own & (runs["n_train"] == 1750), LOSS]
        one, mean = (pooled(known, row.dataset, 1750, n_runs=n) for n in (1, 5))
        assert row.runs == len(there) == 5
        assert (row.low, row.high) == pytest.approx((mean.low, mean.high))
        assert row.inside == (mean.low <= np.exp(np.log(there).mean()) <= mean.high)
        assert row.runs_inside == there.between(one.low, one.high).sum()
    total = f"{found['inside'].sum()} of 10", f"{found['runs_inside'].sum()} of 50"
    assert tuple(coverage(found).values()) == total


def in_families(runs, *families):
    """The runs with a column family: sets named together are of one, all others have none."""
    of = {name: family[0] for family in families for name in family}
    return runs.assign(family=runs["dataset"].map(of))


def test_a_family_is_held_back_whole():
    runs = in_families(whole(1), ("s3", "s4", "s5"))
    plain = held_out(runs, 1750, 250).set_index("dataset")
    sisters = runs["dataset"].isin(["s4", "s5"])
    moved = runs.assign(test_loss_nats=runs["test_loss_nats"] * np.where(sisters, 9, 1))
    again = held_out(moved, 1750, 250).set_index("dataset")
    methods = ["pooled", "low", "high", "own_power_law", "mean_curve"]
    pd.testing.assert_series_equal(plain.loc["s3", methods], again.loc["s3", methods])
    assert plain.loc["s6", "pooled"] != again.loc["s6", "pooled"]
    alone = held_out(runs[~sisters], 1750, 250).set_index("dataset")
    pd.testing.assert_series_equal(plain.loc["s3", methods], alone.loc["s3", methods])


def test_constructed_sets_take_no_part_in_the_check():
    runs = whole(1)
    made = runs["dataset"].isin(["s8", "s9"])
    runs = runs.assign(domain=np.where(made, "synthetic", "natural"))
    pd.testing.assert_frame_equal(held_out(runs, 1750, 250), held_out(runs[~made], 1750, 250))
    everything = held_out(runs, 1750, 250, exclude=())
    assert len(everything) == 10
    assert set(judged(everything)["sets"]) == {8}


def test_too_few_families_beside_the_one_held_back_are_one_sentence():
    runs = whole(1)
    five = runs[runs["dataset"].isin([f"s{g}" for g in range(5)])]
    assert len(held_out(five, 1750, 250)) == 5
    left = held_out(in_families(runs[runs["dataset"] <= "s5"], ("s0", "s1", "s2")), 1750, 250)
    assert sorted(left["dataset"]) == ["s3", "s4", "s5"]  # beside s0 there are three
    with pytest.raises(NotEnough, match="fewer than 5 image sets are left"):
        held_out(in_families(five, ("s0", "s1"), ("s2", "s3", "s4")), 1750, 250)


def test_a_family_counts_once_in_the_judgement():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({f"error_{m}": rng.normal(0, 0.3, 12) for m in ("pooled", "own_power_law", "mean_curve")})
    table["dataset"] = [f"s{i}" for i in range(12)]
    table["family"] = ["a"] * 3 + ["b"] * 2 + [f"c{i}" for i in range(7)]
    found = judged(table).set_index("method")
    assert set(found["sets"]) == {12}
    assert set(found["families"]) == {9}
    sizes = table["error_own_power_law"].abs().groupby(table["family"]).mean()
    gains = sizes - table["error_pooled"].abs().groupby(table["family"]).mean()
    assert found.loc["own_power_law", "mean_error"] == pytest.approx(sizes.mean())
    assert found.loc["own_power_law", "gain"] == pytest.approx(gains.mean())
    half = (found.loc["own_power_law", "high"] - found.loc["own_power_law", "low"]) / 2
    assert half == pytest.approx(2.306004 * gains.std(ddof=1) / 3)
    few = judged(table.assign(family=["a"] * 5 + [f"c{i}" for i in range(7)])[:11]).set_index("method")
    assert set(few["families"]) == {7}
    assert few["verdict"].tolist() == ["", "too few families", "too few families"]


def test_the_judgement_follows_the_errors_and_flips_with_them():
    rng = np.random.default_rng(0)
    good, bad = rng.normal(0, 0.05, 12), rng.normal(1, 0.1, 12)
    table = pd.DataFrame({"error_pooled": good, "error_own_power_law": bad, "error_mean_curve": -good})
    table["dataset"] = [f"s{i}" for i in range(12)]
    said = judged(table).set_index("method")["verdict"]
    assert said["own_power_law"] == "pooled is better"
    assert said["mean_curve"] == "undecided"
    flipped = table.rename(columns={"error_pooled": "error_own_power_law", "error_own_power_law": "error_pooled"})
    assert judged(flipped).set_index("method")["verdict"]["own_power_law"] == "pooled is worse"
    assert set(judged(table[:5])["verdict"]) == {"", "too few families"}
    assert judged(table).set_index("method").loc["pooled", ["gain", "low", "high"]].isna().all()


def test_nothing_to_check_is_one_sentence():
    with pytest.raises(NotEnough, match="no forecast can be checked"):
        held_out(simulated(0)[0], 4000, 250)


def test_a_check_has_a_row_for_each_step_outcome_and_method():
    runs = counted(whole(1, tau=0, omega=0, sigma=0))
    found = check(runs, [(250, 1750), (250, 4000)])
    assert found.groupby(["known", "forecast", "outcome"]).size().tolist() == [3, 3, 1, 1]
    for column in ("means_inside", "runs_inside"):  # of the pooled form's intervals; baselines have none
        inside = found[found["forecast"] == 1750].set_index("method")[column]
        assert set(inside["pooled"]) == {"10 of 10"}
        assert inside.drop("pooled").isna().all()
    assert found.loc[found["forecast"] == 4000, "verdict"].str.contains("no forecast can be checked").all()
    alone = held_out(with_error(runs), 1750, 250, ERROR)
    rows = found[(found["forecast"] == 1750) & (found["outcome"] == ERROR)].set_index("method")
    assert rows.loc["pooled", "mean_error"] == pytest.approx(alone["error_pooled"].abs().mean())


def test_below_the_smallest_size_nothing_is_forecast():
    runs, _ = simulated(0)
    with pytest.raises(NotEnough, match="below the smallest trained, 60"):
        pooled(runs, "s0", 59)
    assert left_out(runs, "s0", [2501, 59, 60, 2500, 59]) == [
        (2501, "more than 10 times the largest N trained, 250"),
        (59, "fewer than the smallest N trained, 60"),
    ]
    assert table(counted(runs), "s0", [59, 60, 60, 2501])["n_train"].tolist() == [60]
    with pytest.raises(NotEnough, match="59 is fewer than the smallest N trained"):
        table(counted(runs), "s0", [59])


@pytest.mark.parametrize("n", [0, -5, float("nan"), float("inf")])
def test_a_size_that_is_no_number_of_images_is_refused(n):
    with pytest.raises(NotEnough, match="is no number of training images"):
        table(counted(simulated(0)[0]), "s0", [500, n])


def test_without_sizes_multiples_of_the_largest_are_forecast():
    runs, _ = simulated(0)
    assert ahead(runs, "s0") == [500, 1250, 2500]
    assert table(counted(runs), "s0")["n_train"].tolist() == [500, 1250, 2500]


def test_no_forecast_is_below_chance_and_the_interval_leaves_room_for_a_guess():
    runs = counted(simulated(0, tau=0, omega=0, sigma=0)[0])
    worse = runs["dataset"] == "s0"
    runs.loc[worse, "test_accuracy"] = 0.45
    plain, capped = table(runs, "s0", [60]), table(runs.assign(n_classes=2), "s0", [60])
    assert plain["accuracy"].item() < 0.5
    assert capped["accuracy"].item() == 0.5
    assert capped["accuracy_high"].item() >= 0.5
    guess = 1.959964 * np.sqrt(0.25 / 4000)
    assert capped["accuracy_low"].item() == pytest.approx(max(plain["accuracy_low"].item(), 0.5 - guess))
    better = runs[~worse]
    pd.testing.assert_frame_equal(table(better, "s1", [500]), table(better.assign(n_classes=2), "s1", [500]))


def test_a_target_that_guessing_reaches_is_refused():
    for accuracy in (0.3, 0.5):
        with pytest.raises(NotEnough, match=f"{accuracy} is not above chance, 0.5 with 2 classes"):
            error_of(accuracy, 2)
    assert error_of(0.5, 10) == error_of(0.5) == 0.5
