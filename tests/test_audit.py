"""The audit: a published choice repeats its defect exactly, a corrected one is right, findings follow the data."""

import math
import re
from itertools import product

import nbformat
import numpy as np
import pandas as pd
import pytest
from scipy import stats
from simulated_runs import simulated

from intrinsic import images
from intrinsic.images import ImageSet, manifolds
from intrinsic.inference import audit, statistics
from intrinsic.properties import sharpness

PAGES = [images.REPOSITORY / "book" / "beyond" / f"{name}.ipynb" for name in ("audit", "published_values")]


def line(levels, labels, **facts):
    """Images of 4 x 4 pixels that differ in one pixel: distances are differences of grey levels / 255."""
    pixels = np.zeros((len(levels), 4, 4), dtype=np.uint8)
    pixels[:, 0, 0] = levels
    return ImageSet(pixels, np.array(labels), ("a", "b"), **facts)


def noise(n, seed=0, side=6, **facts):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (n, side, side)).astype(np.uint8)
    return ImageSet(pixels, rng.permutation(np.arange(n) % 2), ("a", "b"), **facts)


@pytest.fixture(scope="module")
def waves():
    made = [manifolds.torus_images(240, d, size=16, seed=d)[:2] for d in (1, 3)]
    return [ImageSet(x, y, ("a", "b"), f"d = {d}") for (x, y), d in zip(made, (1, 3), strict=True)]


# ------------------------------------------------------------------------------------------ label sharpness


@pytest.mark.parametrize("labels", [[0, 1, 1], [0, 0], [0, 1, 2]])
def test_the_released_code_takes_every_set_to_have_many_classes(labels):
    assert audit.released_multiclass(labels)
    assert audit.multiclass(labels) == (2 in labels)


def test_the_released_numerator_gives_the_smallest_distance_within_a_class():
    few = line([0, 3, 100, 200], [0, 0, 1, 1])  # 3 apart within a class, 97 across
    every = np.array(list(product(range(4), repeat=2))).T
    assert audit.pair_sharpness(few, *every, "equal", finite_only=True) == pytest.approx(255 / 3)
    assert audit.pair_sharpness(few, *every) == pytest.approx(255 / 97)
    assert sharpness.label_sharpness(few, interval=False) == pytest.approx(255 / 97)


def test_over_pairs_of_images_with_themselves_equal_labels_are_infinite_until_filtered():
    few = line([0, 3, 100], [0, 0, 1])
    own = np.arange(3), np.arange(3)
    assert audit.pair_sharpness(few, *own, "equal") == math.inf
    assert audit.pair_sharpness(few, *own, "equal", finite_only=True) == 0
    assert audit.pair_sharpness(few, *own) == 0  # 0/0 is no slope


@pytest.mark.parametrize(("n", "batch"), [(12, 6), (12, 3), (12, 12)])
def test_released_pairs_are_n_squared_over_the_batch_and_hold_each_image_as_often(n, batch):
    i, j = audit.released_pairs(n, batch)
    assert len(i) == len(j) == n**2 // batch
    assert (np.bincount(i) == n // batch).all()
    assert (np.bincount(j) == n // batch).all()


def test_released_pairs_refuse_an_unequal_last_batch():
    with pytest.raises(audit.UnequalBatches, match="10 images"):
        audit.released_pairs(10, 4)


def test_a_batch_of_one_compares_all_pairs():
    few = noise(40)
    i, j = audit.released_pairs(40, 1)
    assert len(set(zip(i.tolist(), j.tolist(), strict=True))) == 1600
    assert audit.pair_sharpness(few, i, j) == pytest.approx(float(sharpness.label_sharpness(few, interval=False)))


@pytest.mark.parametrize("seed", range(5))
def test_random_pairs_never_find_more_than_all_pairs(seed):
    few = noise(60, seed)
    found = audit.pair_sharpness(few, *audit.released_pairs(60, 30, seed))
    assert found <= float(sharpness.label_sharpness(few, interval=False)) * (1 + 1e-9)


def test_the_released_function_does_not_depend_on_what_classes_are_called_but_on_which_are_equal():
    few = line([0, 3, 100, 104, 200, 210], [0, 0, 0, 1, 1, 1])
    flipped = ImageSet(few.images, 1 - few.labels, few.classes)
    assert audit.released_sharpness(few, 6, 3) == audit.released_sharpness(flipped, 6, 3)
    assert audit.released_sharpness(few, 6, 1) == pytest.approx(255 / 3)  # not across, 255/4


def test_the_released_draw_fails_on_fewer_images_than_it_asks_for():
    with pytest.raises(ValueError, match=r"[Ss]ample larger"):
        audit.released_sharpness(noise(20), 1000)


def test_the_filter_reports_a_finite_value_where_copies_have_different_labels():
    table = audit.copies_table(noise(60), [0, 2], per_class=30)
    assert table["n_conflicting"].tolist() == [0, 4]
    assert np.isfinite(table["published"]).all()
    assert table["corrected"].tolist()[1] == math.inf
    assert table["corrected"][0] == table["published"][0] == table["without"][0]
    assert audit.copies_finding(table).changes
    assert not audit.copies_finding(table.iloc[:1]).changes


def test_an_unbalanced_draw_depends_on_the_share_of_a_class_and_a_balanced_one_does_not():
    x, y = manifolds.overlapping_clouds(3000, 2, seed=1)
    pixels = np.zeros((3000, 2, 2), dtype=np.uint8)
    pixels.reshape(3000, 4)[:, :2] = np.floor(256 * x)
    made = ImageSet(pixels, y, ("a", "b"))
    table = audit.unbalanced_table(made, [0.5, 0.05], per_class=60, draws=20)
    finding = audit.unbalanced_finding(table)
    assert finding.changes
    assert table["published"][1] < 0.75 * table["published"][0]  # 2 s (1 - s) of the pairs, exponent 1/d = 1/2
    same = audit.unbalanced_table(made, [0.5, 0.5], per_class=60, draws=20)
    assert not audit.unbalanced_finding(same).changes


def test_class_sizes_are_blamed_for_what_balanced_draws_do_not_show_as_well():
    rng = np.random.default_rng(0)
    noise = [tuple(0.05 * rng.normal(size=25)) for _ in range(4)]

    def finding(moved):
        rows = {"share": [0.05, 0.5], "published_logs": [tuple(np.add(noise[0], -0.3)), noise[1]]}
        rows["corrected_logs"] = [tuple(np.add(noise[2], moved)), noise[3]]
        return audit.unbalanced_finding(pd.DataFrame(rows))

    assert finding(0.0).changes is True
    assert finding(-0.3).changes is False
    known = stats.ttest_ind(np.subtract(noise[0], 0.3), noise[1], equal_var=False)
    assert known.confidence_interval().high < 0  # the draws whatever the classes alone would have blamed them


def test_numerator_table_agrees_with_definitions_on_two_sets(waves):
    table = audit.numerator_table(waves, 60)
    for row, made in zip(table.itertuples(), waves, strict=True):
        few = audit.balanced(made, 60)
        i, j = np.array(list(product(range(len(few)), repeat=2))).T
        assert row.corrected == pytest.approx(audit.pair_sharpness(few, i, j), rel=1e-5)
        assert row.published == pytest.approx(audit.pair_sharpness(few, i, j, "equal", finite_only=True), rel=1e-5)


def test_a_numerator_that_changes_nothing_is_said_to_change_nothing():
    table = pd.DataFrame({"published": [1.0, 2.0], "corrected": [1.1, 2.1], "low": [0.9, 1.5], "high": [1.5, 2.5]})
    assert not audit.numerator_finding(table).changes
    swapped = table.assign(published=[2.0, 1.9], high=[3.0, 3.0])
    assert "1 of 1 pairs" in audit.numerator_finding(swapped).sentence
    assert audit.numerator_finding(swapped).changes


def test_random_pairs_finding_follows_the_order_of_the_repeats(waves):
    table = audit.random_pairs_table(waves, 60, repeats=3)
    assert (table["published_high"] <= table["corrected"] * (1 + 1e-9)).all()
    assert (table["pairs"] == table["n"] ** 2 / table["batch"]).all()
    kept = table.assign(values=[(v, v) for v in table["corrected"]])
    other = table.assign(values=[(-v, -v) for v in table["corrected"]])
    assert not audit.random_pairs_finding(kept).changes
    assert "2 of 2 repetitions" in audit.random_pairs_finding(other).sentence


def test_sample_size_finding_flips_with_order_and_with_overlap():
    rows = [
        {"dataset": name, "per_class": m, "k_f": k * (m / 10) ** power, "low": 0.95 * k * m, "high": 1.05 * k * m}
        for name, k, power in (("a", 1.0, 1.0), ("b", 2.0, 1.0))
        for m in (10, 40)
    ]
    table = pd.DataFrame(rows)
    assert not audit.sample_size_finding(table).changes
    assert audit.sample_size_finding(table.assign(high=1e9)).changes
    crossing = table.assign(k_f=[1, 8, 2, 3])
    assert "1 of 1 pairs of sets change" in audit.sample_size_finding(crossing).sentence


def test_sample_size_table_grows_and_gives_an_interval_at_the_largest_size(waves):
    table = audit.sample_size_table(waves, [15, 60], draws=5)
    for _, rows in table.groupby("dataset"):
        assert rows["k_f"].is_monotonic_increasing
        assert rows["low"].isna().tolist() == [True, False]


@pytest.mark.parametrize(
    ("a", "b", "expected"), [([1, 2, 3], [2, 4, 6], 0), ([1, 2, 3], [3, 2, 1], 3), ([1, 1, 2], [1, 2, 3], 0)]
)
def test_order_changes_counts_pairs_in_the_other_order(a, b, expected):
    assert audit.order_changes(a, b) == (expected, 3)


# --------------------------------------------------------------------------------------- labels, splits, designs


@pytest.fixture(scope="module")
def listing():
    """Four classes of 20 images, in order; grey level says the class."""
    labels = np.repeat(np.arange(4), 20)
    pixels = np.random.default_rng(0).integers(0, 20, (80, 3, 3)) + 60 * labels[:, None, None]
    return ImageSet(pixels.astype(np.uint8), labels, tuple("wxyz"), paths=tuple(f"{i}" for i in range(80)))


def test_slipped_labels_sit_on_the_first_classes_whatever_is_chosen(listing):
    slipped = audit.slipped_pair(listing, 2, 3)
    assert (slipped.images == listing.images[:40]).all()
    assert slipped.labels.tolist() == [0] * 20 + [1] * 20
    right = audit.class_pair(listing, 2, 3)
    assert (right.images == listing.images[40:]).all()


def test_with_equal_classes_every_slipped_pair_is_one_pair_without_wrong_labels(listing):
    table = audit.slip_table(listing, 20)
    assert table["published"].nunique() == 1
    assert (table["wrong"] == 0).all()
    assert (table["of_chosen"] == [1, 0.5, 0.5, 0.5, 0.5, 0]).all()
    assert audit.slip_finding(table).changes
    assert not audit.slip_finding(table.assign(of_chosen=1.0)).changes


def test_uneven_classes_give_wrong_labels_of_a_known_share(listing):
    thinned = listing[np.r_[0:20, 20:40, 40:50, 60:80]]  # class y keeps 10 images
    table = audit.slip_table(thinned, 20).set_index("classes")
    assert table.loc["y | z", "wrong"] == pytest.approx(10 / 30)  # 10 labels 0 on 20 images of w
    assert table.loc["w | x", "wrong"] == 0


def test_the_released_rule_counts_explicit_absence_as_presence():
    values = [1, 0, -1, np.nan]
    assert audit.released_finding_labels(values).tolist() == [1, 1, 0, 0]
    assert audit.finding_labels(values).tolist() == [1, 0, 0, 0]


def test_without_explicit_absences_the_rule_changes_nothing(waves):
    table = audit.absent_table(waves[1], [0, 0.1], 60)
    assert table["published"][0] == pytest.approx(table["corrected"][0])
    assert table["wrong"].tolist() == [0, pytest.approx(0.05)]
    assert not audit.absent_finding(table.iloc[:1]).changes
    assert audit.absent_finding(table.assign(published=2 * table["high"])).changes


def test_a_split_of_slices_finds_signal_where_there_is_none_and_a_split_of_volumes_does_not():
    made = audit.volumes(noise(120, side=8), 10)
    assert len(made) == 1200
    assert (made.labels.reshape(120, 10) == made.labels[::10, None]).all()
    assert made.labels.mean() == 0.5
    row = audit.leakage_table([made], 128, range(6)).iloc[0]
    assert row["published"] > 0.7
    assert 0.3 < row["corrected"] < 0.65
    assert audit.leakage_finding(pd.DataFrame([row])).changes


def test_without_groups_of_several_images_no_leak_is_found():
    made = noise(400, side=5)
    alone = ImageSet(made.images, made.labels, made.classes, group=np.arange(400))
    table = audit.leakage_table([alone], 100, range(6))
    assert table["shared"][0] == 0
    assert not audit.leakage_finding(table.assign(difference_low=-0.01)).changes


def test_redrawn_pairs_spread_slopes_by_the_spread_of_levels():
    sizes = [100, 200, 400]
    levels = np.exp(np.linspace(-1, 1, 9))
    losses = pd.DataFrame(levels[:, None] * np.array(sizes) ** -0.5, columns=sizes)
    assert audit.scaling_slopes(losses, sizes) == pytest.approx(np.full(9, -0.5))
    slopes = audit.redrawn_slopes(losses, 20_000)
    sxx = ((np.log(sizes) - np.log(sizes).mean()) ** 2).sum()
    assert slopes.mean() == pytest.approx(-0.5, abs=0.02)
    assert slopes.std() == pytest.approx(np.log(levels).std() / math.sqrt(sxx), rel=0.03)
    assert audit.redrawn_finding(losses).changes
    same = pd.DataFrame(np.tile(losses.iloc[0], (9, 1)), columns=sizes)
    assert not audit.redrawn_finding(same).changes


def test_class_pair_losses_fall_on_classes_that_can_be_told_apart(listing):
    table = audit.class_pair_losses(listing, [4, 20], n_test=20, pairs=3)
    assert table.shape == (3, 2)
    assert (table[20] < table[4]).all()
    with pytest.raises(images.TooFewImages):
        audit.class_pair_losses(listing, [40], n_test=20)


def test_pairs_of_classes_are_counted_for_each_network_and_set():
    runs = {("m", "s", 1): (0, 1), ("m", "s", 2): (1, 0), ("m", "s", 3): (2, 3), ("k", "s", 1): (0, 1)}
    table = audit.pair_changes(runs).set_index("model")
    assert table.loc["m", ["pairs", "sizes"]].tolist() == [2, 3]
    assert table.loc["k", "pairs"] == 1


# ------------------------------------------------------------------------------------------- outputs and losses


def test_extra_outputs_add_exactly_the_log_of_their_mass():
    logits, labels = np.zeros((3, 1000)), np.array([0, 1, 1])
    assert audit.loss_over_outputs(logits, labels) == pytest.approx(math.log(1000))
    assert audit.loss_over_classes(logits, labels) == pytest.approx(math.log(2))
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 30, (50, 7))
    labels = rng.integers(0, 2, 50)
    mass = np.exp(logits[:, 2:] - logits[:, :2].max(1, keepdims=True)).sum(1)
    mass /= np.exp(logits[:, :2] - logits[:, :2].max(1, keepdims=True)).sum(1)
    gap = audit.loss_over_outputs(logits, labels) - audit.loss_over_classes(logits, labels)
    assert gap == pytest.approx(np.log1p(mass), rel=1e-6, abs=1e-9)


def test_outputs_finding_looks_at_the_longest_training():
    table = pd.DataFrame(
        {"outputs": 1000, "epochs": [1, 100], "published": [2.0, 1.0], "corrected": [1.0, 0.999], "outside": 0.1}
    )
    assert not audit.outputs_finding(table).changes
    assert audit.outputs_finding(table.assign(epochs=[100, 1])).changes
    with pytest.raises(audit.BadTable):
        audit.outputs_finding(table.assign(outputs=2))


def test_a_network_with_unused_outputs_learns_to_leave_them_out():
    made = images.load("digits_0_1", size=8, channels=1)
    early, late = (audit.trained_logits(made, 64, 50, epochs) for epochs in (1, 40))
    table = audit.outputs_table([early, late])
    assert early.logits.shape == (len(early.labels), 50)
    assert table["outside"][1] < table["outside"][0] / 3
    assert (table["published"] > table["corrected"]).all()


@pytest.mark.parametrize(
    ("losses", "batch", "expected"), [([1, 1, 4], 2, 2.5), ([1, 1, 4], 3, 2), ([1, 2, 3, 4], 2, 2.5)]
)
def test_the_last_short_batch_counts_as_much_as_the_others(losses, batch, expected):
    assert audit.mean_of_batch_means(losses, batch) == pytest.approx(expected)


def test_batch_means_agree_where_batches_divide_the_test_set_and_the_finding_follows():
    losses = np.random.default_rng(0).exponential(1, 750)
    table = audit.batch_means_table(losses, (6, 40))
    assert table["published"][0] == pytest.approx(losses.mean())
    assert table["published"][1] != pytest.approx(losses.mean(), rel=1e-9)
    assert not audit.batch_means_finding(table).changes
    assert audit.batch_means_finding(table.assign(published=9.0)).changes


# ----------------------------------------------------------------------------------------------- published figures


def test_read_off_values_lie_within_their_bars_and_cover_eleven_sets():
    table = audit.digitised()
    assert len(table) == 11
    assert (table["domain"] == "medical").sum() == 7
    for name in ("k_f", "d_data"):
        assert ((table[f"{name}_low"] <= table[name]) & (table[name] <= table[f"{name}_high"])).all()
    barred = table.dropna(subset=["penalty_low"])
    assert (barred["penalty_low"] <= barred["loss_penalty_nats"]).all()


def test_read_off_points_give_the_correlations_that_were_worked_out_by_hand():
    table = audit.recomputed_correlations().set_index("name")["value"]
    assert table["loss penalty on K_F, all sets, pearson"] == pytest.approx(0.84, abs=0.005)
    assert table["loss penalty on K_F, all sets, spearman"] == pytest.approx(0.82, abs=0.005)
    assert table["loss penalty on K_F, medical sets, pearson"] == pytest.approx(0.74, abs=0.005)
    assert table["loss penalty on K_F, natural sets, pearson"] == pytest.approx(-0.60, abs=0.005)


def test_equal_channels_multiply_sets_of_three_alone():
    table = pd.DataFrame({"channels": [1, 3], "k_f": [2.0, 2.0]})
    assert audit.with_equal_channels(table)["k_f"].tolist() == [2.0, pytest.approx(2 * math.sqrt(3))]


def test_replicated_channels_divide_sharpness_by_the_factor_that_is_multiplied_back():
    grey = noise(80)
    three = images.match(grey, channels=3)
    values = [float(sharpness.label_sharpness(each, interval=False)) for each in (grey, three)]
    table = audit.with_equal_channels(pd.DataFrame({"channels": [1, 3], "k_f": values}))
    assert table["k_f"][0] == pytest.approx(table["k_f"][1])


def test_the_gap_that_channels_alone_make_vanishes_with_them():
    rng = np.random.default_rng(0)
    base = np.exp(rng.normal(0, 0.1, 12))
    medical = np.arange(12) < 6
    table = pd.DataFrame({"dataset": list("abcdefghijkl"), "domain": np.where(medical, "medical", "natural")})
    table["channels"] = np.where(medical, 1, 3)
    for name in ("k_f", "k_f_low", "k_f_high"):
        table[name] = base / np.where(medical, 1, math.sqrt(3))
    assert audit.channels_finding(audit.channels_table(table)).changes
    assert not audit.channels_finding(audit.channels_table(table.assign(channels=1))).changes


def test_a_gap_that_interval_and_exact_test_judge_differently_is_undecided():
    table = pd.DataFrame({"dataset": list("abcdef"), "domain": ["medical"] * 3 + ["natural"] * 3, "channels": 1})
    for name in ("k_f", "k_f_low", "k_f_high"):
        table[name] = [10.0, 10.1, 10.2, 1.0, 1.01, 1.02]  # far apart, and the least p of three against three is 0.1
    finding = audit.channels_finding(audit.channels_table(table))
    assert finding.changes is None
    assert finding.sentence.endswith("undecided.")


def test_correlations_finding_flips_with_the_printed_value():
    table = pd.DataFrame({"printed": [0.7, np.nan], "value": [0.8, 0.1], "low": [0.5, -0.2], "high": [0.9, 0.4]})
    assert not audit.correlations_finding(table).changes
    assert audit.correlations_finding(table.assign(printed=[0.2, np.nan])).changes
    assert audit.correlations_finding(table.assign(low=-0.1)).changes


def test_slope_bounds_hold_every_slope_within_the_bands_and_are_reached():
    rng = np.random.default_rng(0)
    x, low = np.arange(6.0), rng.normal(size=6)
    high = low + rng.random(6)
    ends = audit.slope_bounds(x, low, high)
    slopes = [statistics.ols(x, low + (high - low) * rng.random(6)).slope for _ in range(500)]
    corners = [statistics.ols(x, np.where(c, low, high)).slope for c in product([True, False], repeat=6)]
    assert ends[0] <= min(slopes)
    assert max(slopes) <= ends[1]
    assert ends == (pytest.approx(min(corners)), pytest.approx(max(corners)))
    with pytest.raises(audit.BadTable):
        audit.slope_bounds([1, 1], [0, 0], [1, 1])


def test_prostate_finding_flips_when_its_band_is_narrow_enough_to_fix_the_sign():
    bands = audit.prostate_bands()
    assert not audit.prostate_finding(bands).changes
    lower = bands.assign(high=bands["high"].mask(bands["dataset"] == "prostate", -6.0))
    assert audit.prostate_finding(lower).changes


def test_left_out_finding_changes_where_one_point_makes_the_relation():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=9), rng.normal(size=9)
    frame = pd.DataFrame({"dataset": [*"abcdefghi", "far"], "x": [*x, 30.0], "y": [*y, 30.0]})
    assert audit.left_out_finding(frame, "x", "y", "far", "y on x").changes
    assert not audit.left_out_finding(frame.assign(y=frame["x"] + 0.01 * frame["y"]), "x", "y", "far", "y").changes


def test_slices_of_the_same_volumes_lower_the_dimension_and_one_of_each_does_not():
    pixels, labels, _ = manifolds.torus_images(200, 4, size=16, seed=0)
    table = audit.stack_dimensions(ImageSet(pixels, labels, ("a", "b")), [1, 4], k=10)
    assert table["published"][1] < table["published"][0] / 2
    assert table["corrected"][1] == pytest.approx(table["corrected"][0], rel=0.1)
    assert audit.stack_finding(table).changes
    assert not audit.stack_finding(table.iloc[:1]).changes


# ----------------------------------------------------------------------------------------------- runs and means


def test_runs_count_as_points_in_the_published_choice_and_sets_in_the_corrected_one():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"dataset": np.repeat(list("abcdef"), 20), "x": np.repeat(rng.normal(size=6), 20)})
    frame["y"] = np.repeat(rng.normal(size=6), 20) + 0.1 * rng.normal(size=120)
    table = audit.runs_table(frame, "x", "y")
    assert table["n"].tolist() == [120, 6]
    means = frame.groupby("dataset")[["x", "y"]].mean()
    assert table["value"][1] == pytest.approx(np.corrcoef(means["x"], means["y"])[0, 1])
    assert table["p"][0] < table["p"][1]
    two = audit.runs_table(frame[frame["dataset"].isin(["a", "b"])], "x", "y")
    assert np.isnan(two["value"][1])
    assert audit.runs_finding(two).changes == (two["p"][0] <= 0.05)
    assert not audit.runs_finding(table.assign(p=0.5)).changes
    assert audit.runs_finding(table.assign(p=[0.01, 0.5])).changes
    families = frame.assign(family=frame["dataset"].replace({"b": "a", "d": "c"}))
    assert audit.runs_table(families, "x", "y")["n"].tolist() == [120, 4]


def test_r_over_runs_is_r_over_means_times_the_root_of_the_share_between():
    rng = np.random.default_rng(3)
    frame = pd.DataFrame({"dataset": np.repeat(np.arange(8), 12), "x": np.repeat(rng.normal(size=8), 12)})
    frame["y"] = frame["x"] + rng.normal(size=96)
    table = audit.runs_table(frame, "x", "y")
    between = frame.groupby("dataset")["y"].mean().var(ddof=0) / frame["y"].var(ddof=0)
    assert audit.share_between(*table["value"]) == pytest.approx(between)
    assert math.isnan(audit.share_between(0.9, 0.8))
    assert math.isnan(audit.share_between(0.5, -0.8))


def test_runs_as_points_raise_false_alarms_unless_nothing_lies_between_sets():
    shared = audit.false_alarms(between=0.5, simulations=1000).set_index("over")
    assert shared.loc["runs", "low"] > 0.3
    assert shared.loc["means of sets", "low"] < 0.05 < shared.loc["means of sets", "high"]
    assert audit.false_alarms_finding(shared.reset_index()).changes
    alone = audit.false_alarms(between=0.0, simulations=1000)
    assert (alone["low"] < 0.05).all()
    assert not audit.false_alarms_finding(alone).changes


def test_grouped_dimension_finding_follows_the_order_of_sets():
    table = pd.DataFrame({"dataset": ["a", "b"], "d_data_all": [5.0, 6.0], "d_data_other_groups": [6.0, 7.0]})
    assert audit.grouped_dimension_finding(table).changes is False
    swapped = audit.grouped_dimension_finding(table.assign(d_data_other_groups=[9.0, 7.0]))  # the truth lies between
    assert swapped.changes is None
    assert "1 of 1 pairs of sets change their order" in swapped.sentence
    with pytest.raises(audit.BadTable):
        audit.grouped_dimension_finding(table.assign(d_data_other_groups=np.nan))


# -------------------------------------------------------------------------------------------- tables and pages


def test_the_verdict_counts_the_findings_that_change():
    made = [audit.Finding("B1", "one", True, "x"), audit.Finding("C1", "two", False, "y")]
    assert audit.verdict(made).changes
    assert audit.verdict(made).sentence.startswith("1 of 2")
    assert not audit.verdict(made[1:]).changes
    assert audit.findings(made)["changes"].tolist() == ["yes", "no"]
    open_one = audit.Finding("F1", "three", None, "z")
    assert audit.findings([*made, open_one])["changes"].tolist() == ["yes", "no", "undecided"]
    assert audit.verdict([*made, open_one]).sentence.endswith("one (B1). 1 is undecided.")
    assert not audit.verdict([open_one]).changes


def test_a_table_without_rows_is_refused():
    with pytest.raises(audit.BadTable, match="no row"):
        audit.numerator_finding(pd.DataFrame(columns=["published", "corrected", "low", "high"]))


def test_every_defect_is_listed_once_and_points_to_a_section_that_exists():
    table = audit.defects()
    assert table["id"].is_unique
    assert {f"B{i}" for i in range(1, 8)} | {f"C{i}" for i in range(1, 17)} <= set(table["id"])
    assert table.notna().all(axis=None)
    text = "\n".join(c.source for page in PAGES for c in nbformat.read(page, 4).cells if c.cell_type == "markdown")
    headings = {re.sub(r"^#+ ", "", row) for row in text.splitlines() if row.startswith("#")}
    sections = set(table["section"]) - {"Methods: intrinsic dimension"}
    assert sections <= headings, sections - headings


# ----------------------------------------------------------------------------------------- verdicts under other choices


def test_each_published_choice_is_undone_alone_and_a_verdict_that_hangs_on_one_is_named():
    frame = simulated(12, seed=3, fragility=5.0, spread=0.1)
    frame = frame.assign(d_data_all=frame["d_data"], k_f_all=frame["k_f"].max() + frame["k_f"].min() - frame["k_f"])
    table = audit.published_choices(frame, permutations=499)
    own = statistics.claims(frame, permutations=499)
    corrected = table[table["choice"] == "as corrected"].set_index("name")
    assert {name: v.verdict for name, v in own.items()} == corrected["verdict"].to_dict()
    fragile = table[table["name"] == "sharpness_robustness"].set_index("choice")
    assert fragile.loc["as corrected", "verdict"] == "supported"
    reverse = fragile.loc["all images, not M a class"]  # where K_F of all images has the sets in reverse
    assert (reverse["verdict"], reverse["same"]) == ("not supported", False)
    assert reverse["effect"] == pytest.approx(-fragile.loc["as corrected", "effect"], abs=1e-9)
    said = audit.robustness(table)
    assert "with all images, not M a class: not supported" in said["sharpness_robustness"]
    bound = table[table["name"] == "representation_bound"]
    assert said["representation_bound"] == f"the same under {len(bound) - 1} of {len(bound) - 1} published choices"


def test_a_choice_that_changes_no_run_is_not_counted():
    frame = simulated(9, seed=1)
    assert audit.UNFITTED not in set(audit.published_choices(frame, permutations=199)["choice"])
    frame.loc[0, "fitted"] = False
    table = audit.published_choices(frame, permutations=199)
    assert (table["choice"] == audit.UNFITTED).sum() == len(statistics.CLAIMS)


def test_the_divisor_of_the_dimension_shrinks_it_by_its_factor():
    frame = simulated(9, seed=1)
    table = audit.published_choices(frame, k=20, permutations=199).set_index(["name", "choice"])
    both = [table.loc[("data_dimension", choice), "effect"] for choice in ("as corrected", "divisor k - 2")]
    inverse = (1 / frame.groupby("dataset")["d_data"].first()).mean()
    assert both[0] - both[1] == pytest.approx(inverse * (19 / 18 - 1))


def test_runs_as_units_find_relations_where_nothing_is():
    """Sets differ and nothing depends on K_F: runs of one set are taken for independent evidence."""
    names, found = ("choice", "name"), {audit.OVER_RUNS: 0, "as corrected": 0}
    for seed in range(30):
        table = audit.published_choices(simulated(10, seed, spread=1.0, models=1), permutations=199).set_index([*names])
        for choice in found:
            row = table.loc[(choice, "sharpness_robustness")]
            found[choice] += bool(row["p"] <= 0.05)
    assert found["as corrected"] <= 5  # of 30 at 5 %: 6 or more have a chance of 0.003
    assert found[audit.OVER_RUNS] >= 10
