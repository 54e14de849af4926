"""Effects of controlled experiments: slopes that are known, sets that differ in one option, verdicts by rule."""

import math

import numpy as np
import pandas as pd
import pytest

from intrinsic.campaigns import campaign
from intrinsic.inference import controlled, statistics

LAW = {"test_loss_nats": (0.7, 0.3), "radius_l2_median_correct": (-0.5, 0.0)}  # slope on K_F, on another level


def made(seeds=(0, 1), models=("resnet18", "resnet34"), noise=0.0, unfitted=()):
    """A frame in which log outcome = a + b log K_F + c log level exactly, up to noise."""
    rng = np.random.default_rng(0)
    found = []
    table = controlled.levels()
    for (dataset, family), ones in table.groupby(["dataset", "family"], sort=False):
        options = ones.iloc[0]
        k_f, level = 1 / options["pair_margin"], np.log(options["stripes"] / 2)
        for model in models:
            for seed in seeds:
                row = {"dataset": dataset, "family": f"controlled_{family}", "model": model, "seed": seed, "k_f": k_f}
                row |= {"fitted": (dataset, model, seed) not in unfitted}
                for column, (b, c) in LAW.items():
                    row[column] = math.exp(seed + b * math.log(k_f) + c * level + noise * rng.standard_normal())
                found.append(row)
    return pd.DataFrame(found)


def test_the_sets_of_a_series_differ_in_one_option():
    table = controlled.levels()  # raises where they do not
    assert set(table["intervention"]) == {series.name for series in controlled.SERIES}
    for (name, family), ones in table.groupby(["intervention", "family"]):
        assert ones["level"].is_unique, (name, family)
        assert len(ones[["n", "pairs", "seed", "size"]].drop_duplicates()) == 1


def test_series_at_equal_sharpness_have_one_pair_margin():
    table = controlled.levels()
    moving = {series.name for series in controlled.SERIES if series.moves_k_f}
    for (name, family), ones in table.groupby(["intervention", "family"]):
        assert (ones["pair_margin"].nunique() > 1) == (name in moving), (name, family)
    pairs = table[table["intervention"] == "pairs"]
    assert (pairs.groupby("family")["margin"].nunique() == 1).all()


def test_every_set_of_a_series_is_in_the_campaign():
    p = controlled.parameters()
    names = set(controlled.levels()["dataset"]) | {name for pair in controlled.RANDOM.values() for name in pair}
    assert names == set(p.datasets)


@pytest.mark.parametrize("outcome", controlled.PRIMARY, ids=lambda one: one.column)
def test_slopes_are_those_that_made_the_numbers(outcome):
    on_k_f, on_level = LAW[outcome.column]
    table = controlled.slopes(controlled.rows(made()), outcome).set_index("intervention")["slope"]
    np.testing.assert_allclose(table[["margin", "pairs"]], on_k_f)
    np.testing.assert_allclose(table["stripes"], on_level, atol=1e-12)
    np.testing.assert_allclose(table[["dimension", "axis"]], 0, atol=1e-12)


def test_what_all_sets_of_a_seed_share_cancels():
    frame = made()
    shifted = frame.assign(test_loss_nats=frame["test_loss_nats"] * np.where(frame["model"] == "resnet34", 7, 1))
    before, after = (controlled.slopes(controlled.rows(one), controlled.LOSS)["slope"] for one in (frame, shifted))
    np.testing.assert_allclose(before, after, atol=1e-12)


def test_a_series_without_its_end_does_not_count_and_one_without_a_middle_does():
    frame = controlled.rows(made(unfitted=[("waves_margin_60", "resnet18", 0), ("digits_margin_25", "resnet18", 0)]))
    table = controlled.slopes(frame, controlled.LOSS).set_index(["intervention", "family", "model", "seed"])
    assert not table.loc[("margin", "waves", "resnet18", 0), "whole"]
    assert table.loc[("margin", "digits", "resnet18", 0), "whole"]
    assert table.loc[("margin", "digits", "resnet18", 0), "n_levels"] == 2
    every = controlled.slopes(frame, controlled.LOSS, fitted_only=False)
    assert every["whole"].all()


def test_models_are_averaged_so_that_a_family_and_seed_count_once():
    table = controlled.effects(controlled.rows(made(noise=0.1)), controlled.LOSS).set_index(
        ["intervention", "family", "model"]
    )
    assert table.loc[("margin", "waves and digits", "averaged"), "n"] == 4
    assert table.loc[("margin", "waves", "averaged"), "n"] == 2
    assert table.loc[("margin", "waves and digits", "resnet34"), "n"] == 4
    assert table.loc[("dimension", "waves", "averaged"), "n"] == 2
    assert table.index.is_unique
    assert table.groupby("intervention")["pooled"].sum().eq(1).all()


def test_an_effect_is_labelled_with_the_families_that_have_a_value():
    gone = [("waves_stripes_8", model, seed) for model in ("resnet18", "resnet34") for seed in (0, 1)]
    gone += [("digits_margin_40", "resnet34", seed) for seed in (0, 1)]
    table = controlled.effects(controlled.rows(made(noise=0.1, unfitted=gone)), controlled.LOSS)
    pooled = table[table["pooled"]].set_index("intervention")["family"]
    both = "waves and digits"
    assert pooled.to_dict() == {"margin": both, "pairs": both, "stripes": "digits", "dimension": "waves", "axis": both}
    table = table.set_index(["intervention", "family", "model"])
    assert table.loc[("stripes", "digits", "averaged"), "pooled"]
    assert table.loc[("stripes", "waves", "averaged"), "n"] == 0
    assert table.loc[("margin", "waves", "resnet34"), "n"] == 2
    verdicts = controlled.verdicts(controlled.rows(made(noise=0.1, unfitted=gone)))
    assert set(verdicts.loc[verdicts["intervention"] == "stripes", "families"]) == {"digits"}


def shares(gap, seeds=3, noise=1.0, seed=0):
    """Values of two families whose means are `gap` apart."""
    values = noise * np.random.default_rng(seed).standard_normal(2 * seeds) + np.repeat([-gap / 2, gap / 2], seeds)
    index = pd.MultiIndex.from_product([["waves", "digits"], range(seeds)], names=["family", "seed"])
    return pd.Series(values, index=index)


def test_the_interval_within_families_covers_their_mean_whatever_lies_between_them():
    draws = [shares(5.0, seed=seed) for seed in range(800)]
    found = [controlled.within_families(one) for one in draws]
    assert np.mean([one["within_low"] <= 0 <= one["within_high"] for one in found]) == pytest.approx(0.95, abs=0.025)
    pooled = [controlled.mean_slope(one) for one in draws]
    assert np.mean([one["low"] <= 0 <= one["high"] for one in pooled]) > 0.99  # whose error counts the gap as well


def test_the_error_within_families_is_that_of_an_analysis_of_variance():
    values = shares(2.0).drop([("digits", 2)])
    residuals = values - values.groupby("family").transform("mean")
    half = 3.182446 * math.sqrt((residuals**2).sum() / 3 / 5)  # t(5 - 2)
    found = controlled.within_families(values)
    assert found["within_low"] == pytest.approx(values.mean() - half)
    assert found["within_high"] == pytest.approx(values.mean() + half)
    for few in (values[:3], values.loc[[("waves", 0), ("digits", 0)]], values[:0]):
        assert all(math.isnan(end) for end in controlled.within_families(few).values())


def test_families_stand_apart_beside_their_mean():
    frame = controlled.rows(made(seeds=(0, 1, 2), noise=0.1))
    table = controlled.families_apart(frame)
    loss = table[table["outcome"] == controlled.LOSS.title].set_index("intervention")
    each = controlled.effects(frame, controlled.LOSS).set_index(["intervention", "family", "model"])
    for family in ("waves", "digits"):
        assert loss.loc["margin", family] == each.loc[("margin", family, "averaged"), "effect"]
        assert loss.loc["margin", f"{family}_low"] == each.loc[("margin", family, "averaged"), "low"]
    assert loss.loc["margin", ["waves", "digits"]].mean() == pytest.approx(loss.loc["margin", "effect"])
    assert loss.loc["dimension", "waves"] == loss.loc["dimension", "effect"]
    assert math.isnan(loss.loc["dimension", "digits"])
    assert len(table) == 2 * len(controlled.SERIES)


def test_the_interval_covers_the_true_mean_in_nine_to_ten_of_ten_samples():
    rng = np.random.default_rng(1)
    held = [
        (found["low"] <= 0.3 <= found["high"])
        for found in (controlled.mean_slope(0.3 + rng.standard_normal(6)) for _ in range(800))
    ]
    assert np.mean(held) == pytest.approx(0.95, abs=0.025)


@pytest.mark.parametrize(
    ("numbers", "verdict"),
    [
        ((0.5, 0.2, 0.8, 0.01, 6, 1.0), "supported"),
        ((0.5, 0.2, 0.8, 0.20, 6, 1.0), "undecided"),  # Holm took it away
        ((0.1, -0.2, 0.4, 0.4, 6, 1.0), "not supported"),
        ((0.5, -0.2, 1.2, 0.2, 6, 1.0), "undecided"),
        ((-0.5, -0.8, -0.2, 0.01, 6, 1.0), "not supported"),
        ((-0.5, -0.8, -0.2, 0.01, 6, -1.0), "supported"),
        ((0.1, -0.2, 0.4, 0.4, 6, -1.0), "not supported"),
        ((0.5, 0.2, 0.8, 0.01, 6, math.nan), "moves at equal K_F"),
        ((0.1, -0.2, 0.4, 0.4, 6, math.nan), "no movement beyond 0.5"),
        ((0.1, -0.4, 0.6, 0.4, 6, math.nan), "undecided"),  # half of what the law says of K_F is not ruled out
        ((-0.1, -1.2, 1.0, 0.8, 4, math.nan), "undecided"),
        ((0.3, 0.2, 0.4, 0.01, 6, math.nan), "moves at equal K_F"),
        ((0.3, 0.2, 0.4, 0.20, 6, math.nan), "undecided"),
        ((0.5, 0.2, 0.8, 0.01, 3, 1.0), "illustration: too few values"),
        ((0.5, math.nan, math.nan, math.nan, 1, 1.0), "illustration: too few values"),
    ],
)
def test_the_verdict_follows_from_the_rule(numbers, verdict):
    assert controlled.decide(*numbers) == verdict


def test_verdicts_adjust_the_four_primary_tests_together():
    table = controlled.verdicts(controlled.rows(made(seeds=(0, 1, 2), noise=0.05)))
    primary = table[table["primary"]]
    assert sorted(primary["intervention"]) == ["margin", "margin", "pairs", "pairs"]
    np.testing.assert_allclose(primary["p_holm"], statistics.holm(primary["p"]))
    assert (primary["verdict"] == "supported").all()
    assert (table["p_holm"] >= table["p"]).equals(table["p"].notna())


def test_illustrations_have_no_p_and_do_not_enter_holm():
    table = controlled.verdicts(controlled.rows(made(noise=0.05)))  # two seeds: one family is an illustration
    few = table[table["n"] < controlled.MIN_UNITS]
    assert set(few["intervention"]) == {"dimension"}
    assert (few["verdict"] == controlled.FEW).all()
    assert few["p"].isna().all()
    assert few["p_holm"].isna().all()
    others = table[~table["primary"] & (table["n"] >= controlled.MIN_UNITS)]
    np.testing.assert_allclose(others["p_holm"], statistics.holm(others["p"]))
    assert len(others) == 4


def test_without_runs_the_command_is_named():
    with pytest.raises(statistics.NoRecords, match=r"intrinsic run params/controlled\.yaml"):
        controlled.rows(pd.DataFrame())


def test_experiments_do_not_set_what_other_sets_are_compared_at(tmp_path):
    assert campaign.stored_setting()["size"] != controlled.parameters().size
