"""Growth of label sharpness against overlapping classes, on sets whose law is known exactly."""

import math

import numpy as np
import pytest

from intrinsic.images.manifolds import cube, flat_torus, overlapping_clouds, sphere
from intrinsic.properties import measurement, overlap
from intrinsic.properties.dimension import Estimate
from intrinsic.properties.neighbors import BadPoints, near_duplicate_components, neighbors
from intrinsic.properties.overlap import growth_law, labels_by_lot, law_kind
from intrinsic.properties.sharpness import growth_exponent

SIZES = [19, 38, 75, 150]


def halves(n):
    return np.arange(n) % 2


def slabs(n, d, gap, seed):
    """Two unit cubes of dimension d, a slab of width gap between them."""
    x, y = np.random.default_rng(seed).random((n, d)), halves(n)
    x[:, 0] += (1 + gap) * y
    return x, y


def sheets(n, d, gap, seed):
    """Two parallel unit cubes of dimension d, a distance gap apart in one more coordinate."""
    x, y = np.random.default_rng(seed).random((n, d)), halves(n)
    return np.column_stack([x, gap * y]), y


def laws(sample, n=6):
    return [growth_law(*sample(s), SIZES, 25, interval=False) for s in range(n)]


def mean(found, name):
    return np.mean([float(getattr(one, name)) for one in found])


@pytest.mark.parametrize(
    ("sample", "d"),
    [
        (lambda s: overlapping_clouds(1200, 2, s), 2),
        (lambda s: overlapping_clouds(1200, 4, s), 4),
        (lambda s: (flat_torus(1200, 5, ambient=20, seed=s), halves(1200)), 5),
        (lambda s: (sphere(1200, 6, ambient=20, seed=s), halves(1200)), 6),
        (lambda s: (cube(1200, 10, ambient=20, seed=s), halves(1200)), 10),
    ],
    ids=["cloud 2", "cloud 4", "torus 5", "sphere 6", "cube 10"],
)
def test_overlapping_classes_grow_as_their_own_pairs_say_and_near_two_over_d(sample, d):
    found = laws(sample)
    assert mean(found, "difference") == pytest.approx(0, abs=0.12 * 2 / d)
    assert mean(found, "overlapping") == pytest.approx(2 / d, rel=0.2)
    assert np.mean([one.share for one in found], axis=0) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("d", [2, 3, 4])
def test_touching_classes_grow_as_two_over_d_plus_one_and_their_share_falls_as_the_distance(d):
    found = laws(lambda s: slabs(1200, d, 0, s))
    assert mean(found, "exponent") == pytest.approx(2 / (d + 1), rel=0.15)
    assert mean(found, "overlapping") == pytest.approx(2 / d, rel=0.12)
    radii, share = (np.mean([v(one) for one in found], axis=0) for v in (lambda g: 1 / g.k_f, lambda g: g.share))
    assert np.polyfit(np.log(radii), np.log(share), 1)[0] == pytest.approx(1, abs=0.35)


@pytest.mark.parametrize("gap", [0.05, 0.1, 0.2])
def test_sheets_grow_slower_by_the_squared_gap_over_the_squared_distance(gap):
    found = laws(lambda s: sheets(1200, 3, gap, s))
    radii = 1 / np.exp(np.mean([np.log(one.k_f) for one in found], axis=0))
    middle = 1 - gap**2 * np.mean(1 / radii**2)
    assert mean(found, "exponent") / (2 / 3) == pytest.approx(middle, abs=0.12)


def test_classes_far_apart_are_on_a_plateau_at_any_number_of_images():
    law = growth_law(*sheets(400, 2, 1.0, 0), draws=20)
    assert law.kind == overlap.PLATEAU
    assert law.exponent < overlap.FLAT
    assert "its value is a property of the set" in law.sentence


def test_separated_classes_come_to_a_plateau_as_images_are_added():
    exponents = [
        np.mean([growth_exponent(*sheets(8 * m, 2, 0.2, s), [m, 2 * m], 20, interval=False) for s in range(3)])
        for m in (10, 40, 160)
    ]
    assert exponents[0] > 3 * exponents[1] > 9 * exponents[2] > 0
    assert exponents[2] < 0.02


def test_wrong_labels_turn_a_plateau_into_the_growth_of_overlapping_classes():
    def noisy(s, share=0.1):
        x, y = slabs(1200, 3, 1.0, s)
        wrong = np.random.default_rng([s, 1]).permutation(1200)[: round(share * 1200)]
        y = y.copy()
        y[wrong] = 1 - y[wrong]
        return x, y

    found = laws(noisy)
    assert mean(found, "exponent") == pytest.approx(2 / 3, rel=0.15)
    assert mean(found, "difference") == pytest.approx(0, abs=0.1)
    assert np.mean([one.share for one in found]) == pytest.approx(2 * 0.1 * 0.9, rel=0.25)  # both orders of a pair
    assert growth_law(*noisy(0), SIZES, 20).kind == overlap.AS_OVERLAPPING


def test_near_copies_across_classes_are_seen_as_often_as_both_ends_are_drawn():
    n, copies, delta, draws = 1000, 12, 1e-6, 400
    x, y = sheets(n, 2, 1.0, 0)
    x[:copies] = np.random.default_rng(5).random((copies, 3)) + 10 * np.arange(copies)[:, None]
    x[copies : 2 * copies] = x[:copies] + np.array([delta, 0, 0])
    y[:copies], y[copies : 2 * copies] = 0, 1
    sizes = np.array([31, 62, 125])
    plain = growth_exponent(*sheets(n, 2, 1.0, 0), sizes, draws, interval=False).log_k_f
    found = growth_exponent(x, y, sizes, draws, interval=False)
    seen = 1 - (1 - (sizes / (n / 2)) ** 2) ** copies  # pairs are disjoint and nearly independent
    assert found.log_k_f == pytest.approx((1 - seen) * plain - seen * math.log(delta), abs=1.2)
    assert found > 2  # far above 2/d = 1


def test_near_copies_make_the_growth_steeper_than_that_of_overlapping_classes():
    x, y = overlapping_clouds(1200, 6, 0)
    ends = np.flatnonzero(y == 0)[:15], np.flatnonzero(y == 1)[:15]
    x[ends[1]] = x[ends[0]] + 0.03
    law = growth_law(x, y, SIZES, 25, group=near_duplicate_components(x))
    assert law.exponent > 1.5 * law.overlapping
    assert law.kind == overlap.STEEPER


def test_labels_by_lot_overlap_whatever_the_classes_were():
    x, y = slabs(1200, 4, 1.0, 0)
    found = [growth_law(x, labels_by_lot(y, seed=s), SIZES, 25, interval=False) for s in range(6)]
    assert mean(found, "difference") == pytest.approx(0, abs=0.06)
    assert np.mean([one.share for one in found]) == pytest.approx(0.5, abs=0.05)


def test_labels_by_lot_keep_what_is_alike_within_a_group():
    group = np.arange(600) // 3
    labels = np.array(["a", "b", "c"])[np.where(group % 2, group % 3, np.arange(600) % 3)]
    for seed in range(3):
        lot = labels_by_lot(labels, group, seed)
        for g in range(200):
            own = group == g
            assert ((lot[own][:, None] == lot[own]) == (labels[own][:, None] == labels[own])).all()
        assert set(lot) == {"a", "b", "c"}
    assert np.mean(labels_by_lot(np.zeros(5000), seed=1) == 0) == 1.0
    assert np.mean(labels_by_lot(np.arange(9000) % 3) == 1) == pytest.approx(1 / 3, abs=0.02)


def test_the_gap_that_is_not_excluded_holds_the_true_one():
    for gap in (0.1, 0.3):
        found = [growth_law(*sheets(400, 3, gap, s), draws=15) for s in range(5)]
        assert np.mean([one.gap >= 0.97 * gap for one in found]) >= 0.8
        assert all(one.gap <= one.closest <= 1 / one.k_f[-1] for one in found)


def test_pairs_within_a_group_do_not_count():
    x, y = overlapping_clouds(800, 3, 0)
    group = np.arange(800) // 2
    twins = np.repeat(x[::2], 2, axis=0) + 1e-4 * np.random.default_rng(0).standard_normal((800, 3))
    labels = np.repeat(y[::2], 2)
    apart = growth_law(twins, labels, SIZES, interval=False, group=group)
    together = growth_law(twins, labels, SIZES, interval=False)
    assert (together.pairs - apart.pairs).tolist() == [400] * 4
    assert apart.share[0] == pytest.approx(0.5, abs=0.1)
    assert apart.overlapping < together.overlapping  # 400 pairs at hardly any distance flatten the count


def test_the_counts_are_those_of_all_distances():
    x, y = overlapping_clouds(200, 3, 4)
    y[:40] = 2
    law = growth_law(x, y, [4, 8, 16], 10, interval=False)
    d = np.linalg.norm(x[:, None] - x, axis=2)[np.triu_indices(200, 1)]
    weight = (1 / np.bincount(y)[y[:, None]] / np.bincount(y)[y])[np.triu_indices(200, 1)]
    across = (y[:, None] != y)[np.triu_indices(200, 1)]
    for r, pairs, share in zip(1 / law.k_f, law.pairs, law.share, strict=True):
        assert pairs == (d <= r).sum()
        assert share == pytest.approx(weight[across & (d <= r)].sum() / weight[d <= r].sum())


def test_it_depends_on_neither_scale_nor_order_and_takes_neighbors():
    x, y = overlapping_clouds(400, 3, 0)
    law = growth_law(x, y, [12, 25, 50], 10)
    for other in (growth_law(5 * x, y, [12, 25, 50], 10), growth_law(neighbors(x, 5, y), None, [12, 25, 50], 10)):
        for name in ("exponent", "overlapping", "difference", "dimension"):
            a, b = getattr(law, name), getattr(other, name)
            assert (a, a.low, a.high) == pytest.approx((b, b.low, b.high), rel=1e-6)
    assert law.exponent == pytest.approx(growth_exponent(x, y, [12, 25, 50], 10), rel=1e-12)
    assert law.dimension == pytest.approx(2 / law.overlapping)
    assert law.dimension.low == pytest.approx(2 / law.overlapping.high)


@pytest.mark.parametrize(
    ("exponent", "difference", "says"),
    [
        ((0.1, 0.2), (-0.05, 0.05), overlap.AS_OVERLAPPING),
        ((0.1, 0.2), (-0.3, -0.1), overlap.SLOWER),
        ((0.1, 0.2), (0.01, 0.05), overlap.STEEPER),
        ((-0.1, 0.2), (-0.3, -0.1), overlap.PLATEAU),
        ((0.01, 0.04), (-0.3, -0.1), overlap.PLATEAU),
        ((-0.1, 0.2), (-0.3, 0.1), "undecided: too few images"),
        ((math.nan, math.nan), (-0.3, 0.1), "undecided: no interval"),
        ((0.1, 0.2), (math.nan, math.nan), "undecided: too few pairs at these distances"),
        ((1.1, 3.0), (math.nan, math.nan), overlap.STEEPER),
    ],
)
def test_the_kind_follows_from_two_intervals(exponent, difference, says):
    assert law_kind(Estimate(0.15, *exponent), Estimate(0, *difference)) == says


def test_what_cannot_be_had_is_said():
    x, y = overlapping_clouds(400, 3, 0)
    assert growth_law(x, np.zeros(400, int)).kind == "undecided: all labels are equal"
    with pytest.raises(BadPoints, match="64 are needed"):
        growth_law(x[:100], y[:100])
    with pytest.raises(BadPoints, match="needs labels"):
        growth_law(x)
    with pytest.raises(BadPoints, match="copies with different labels"):
        growth_law(np.ones((200, 2)), halves(200))


def test_coverage_in_the_docstring_is_that_of_the_stored_simulations():
    cases = measurement.published_table("sharpness_growth")["coverage"].values()
    text = " ".join(growth_law.__doc__.split())
    for what in ("exponent", "overlapping", "difference"):
        low, high = (f(round(100 * case[what]["coverage"]) for case in cases) for f in (min, max))
        assert f"{what} {low} to {high} %" in text
    overlapping = [case for case in cases if case["sample"] in ("overlapping", "wrong_labels", "grouped")]
    said = sum(case["kinds"].get(overlap.AS_OVERLAPPING, 0) for case in overlapping)
    assert f"{round(100 * said / sum(case['simulations'] for case in overlapping))} % were" in text


@pytest.mark.slow
def test_the_interval_of_the_difference_covers_its_expectation():
    def law(s, interval):
        return growth_law(*overlapping_clouds(256, 4, s), draws=15, interval=interval)

    target = np.mean([law(40_000 + s, False).difference for s in range(100)])
    found = [law(s, True).difference for s in range(40)]
    assert np.mean([one.low <= target <= one.high for one in found]) >= 0.84
    assert np.mean([one.low <= 0 <= one.high for one in found]) >= 0.84
