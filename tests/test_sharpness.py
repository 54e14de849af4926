"""Label sharpness: brute force, gaps known by construction, degenerate labels, coverage of intervals."""

import math

import numpy as np
import pytest
import torch

from intrinsic.images import ImageSet, TooFewImages, balanced_draws
from intrinsic.images.manifolds import overlapping_clouds, parallel_planes, slab_images, torus_images
from intrinsic.properties import measurement, sharpness
from intrinsic.properties.dimension import Estimate
from intrinsic.properties.neighbors import BadPoints, neighbors
from intrinsic.properties.sharpness import (
    Sharpness,
    class_pair_sharpness,
    growth,
    growth_exponent,
    growth_kind,
    label_sharpness,
    mean_sharpness,
    quantile_sharpness,
    same_label_control,
    sharpest_pairs,
    sharpness_limit,
)


def brute_force(x, y, ordered=False):
    """(sharpness, i, j) of all pairs with different labels, sharpest first, float64 differences."""
    x = np.asarray(x, dtype=np.float64).reshape(len(x), -1)
    found = []
    for i in range(len(x)):
        for j in range(i + 1, len(x)):
            if y[i] != y[j]:
                d = np.sqrt(((x[i] - x[j]) ** 2).sum())
                found.append(((abs(y[i] - y[j]) if ordered else 1) / d, i, j))
    return sorted(found, key=lambda row: (-row[0], row[1:]))


@pytest.mark.parametrize("n_classes", [2, 3, 7])
def test_it_is_the_largest_slope_of_all_pairs(n_classes):
    rng = np.random.default_rng(n_classes)
    x, y = rng.standard_normal((90, 6)), rng.integers(0, n_classes, 90)
    value, i, j = brute_force(x, y)[0]
    k_f = label_sharpness(x, y)
    assert k_f == pytest.approx(value, rel=1e-9)
    assert k_f.pair == (i, j)
    assert k_f.labels_of_pair == (y[i], y[j])
    assert k_f.distance == pytest.approx(1 / value, rel=1e-9)
    assert k_f.low < k_f < k_f.high


def test_ordered_labels_count_by_their_difference():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((80, 3)), rng.standard_normal(80) * 10
    value, i, j = brute_force(x, y, ordered=True)[0]
    k_f = label_sharpness(x, y, labels="ordered")
    assert k_f == pytest.approx(value, rel=1e-9)
    assert k_f.pair == (i, j)
    assert k_f.low < k_f < k_f.high
    assert label_sharpness(x, 3 * y + 5, labels="ordered") == pytest.approx(3 * value, rel=1e-9)
    grades = rng.integers(0, 2, 80)
    assert label_sharpness(x, grades, labels="ordered") == label_sharpness(x, grades)
    line = np.arange(10.0)[:, None]  # y = x^2: the slope between 8 and 9 is 17
    assert label_sharpness(line, line[:, 0] ** 2, labels="ordered") == 17


@pytest.mark.parametrize("gap", [0.01, 0.5, 3.0])
@pytest.mark.parametrize("d", [1, 4])
def test_planes_a_gap_apart_give_its_inverse(gap, d):
    x, y = parallel_planes(200, d, gap, ambient=20, seed=1)
    k_f = label_sharpness(x, y)
    assert k_f == pytest.approx(1 / gap, rel=1e-9)
    i, j = k_f.pair
    assert (i // 2, i % 2, j) == (j // 2, 0, i + 1)  # facing points
    assert k_f.low <= k_f * (1 + 1e-9)


@pytest.mark.parametrize("family", [torus_images, slab_images])
def test_image_families_approach_their_known_gap_from_below(family):
    images, labels, facts = family(600, 2, size=16)
    k_f = label_sharpness(images, labels)
    limit = 1 / (facts["gap_l2"] - facts["rounding_l2"])
    assert 0.5 * facts["k_f_limit"] < k_f <= limit


def test_one_grey_level_apart_is_255():
    images = np.full((4, 30, 30), 17, dtype=np.uint8)
    images[2, 3, 3] = 18
    images[3] = 200
    k_f = label_sharpness(images, [0, 0, 1, 1])
    assert k_f == 255
    assert k_f.pair == (0, 2)


def test_equal_labels_give_zero_and_no_pair():
    x = np.random.default_rng(0).standard_normal((20, 3))
    images = torus_images(20, 2, size=16)[0]
    for k_f in (
        label_sharpness(x, np.ones(20)),
        label_sharpness(x, np.ones(20), labels="ordered"),
        label_sharpness(ImageSet(images, np.zeros(20, dtype=int), ("a", "b"))),
        mean_sharpness(x, np.ones(20), per_class=5),
    ):
        assert (k_f, k_f.low, k_f.high, k_f.pair, k_f.labels_of_pair, k_f.distance) == (0, 0, 0, None, None, math.inf)
    assert sharpest_pairs(x, np.ones(20)) == []
    assert growth(x, np.ones(20))[1].tolist() == [0]


def test_copies_with_different_labels_give_infinity_and_the_pair():
    images, labels, _ = torus_images(80, 2, size=16)
    images, labels = np.concatenate([images, images[[5, 9]]]), np.append(labels, [labels[5], 1 - labels[9]])
    k_f = label_sharpness(images, labels)
    assert k_f == math.inf
    assert k_f.pair == (9, 81)
    assert k_f.distance == 0
    assert math.isnan(k_f.low)
    assert math.isnan(k_f.high)
    drawn = mean_sharpness(images, labels, per_class=39, draws=9)
    assert drawn == math.inf
    assert drawn.pair == (9, 81)
    assert sharpest_pairs(images, labels, 2)[0] == (9, 81, 0.0, math.inf)
    same = np.append(labels[:-1], labels[9])
    assert math.isfinite(label_sharpness(images, same))


def test_shift_and_rotation_change_nothing_and_scale_divides():
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((100, 5)), rng.integers(0, 3, 100)
    one = label_sharpness(x, y)
    turned = 1e3 + x @ np.linalg.qr(rng.standard_normal((5, 5)))[0]
    assert label_sharpness(turned, y) == pytest.approx(one, rel=1e-9)
    assert label_sharpness(255 * x, y) == pytest.approx(one / 255, rel=1e-9)
    assert label_sharpness(255 * x, y).low == pytest.approx(one.low / 255, rel=1e-9)


def test_range_and_channels_of_images():
    images, labels, _ = torus_images(120, 3, size=16)
    one = label_sharpness(images, labels)
    assert label_sharpness(images / 255, labels) == pytest.approx(one, rel=1e-9)
    assert label_sharpness(images.astype(np.float32), labels) == pytest.approx(one / 255, rel=1e-9)
    rgb = label_sharpness(np.repeat(images[..., None], 3, axis=3), labels)
    assert rgb == pytest.approx(one / math.sqrt(3), rel=1e-15)
    assert rgb.pair == one.pair


def test_all_kinds_of_input_give_the_same():
    images, labels, _ = torus_images(120, 3, size=16)
    group = np.arange(120) // 4
    image_set = ImageSet(images, labels, ("a", "b"), group=group)
    one = label_sharpness(image_set)
    for other in (
        label_sharpness(images, labels, group=group),
        label_sharpness(torch.from_numpy(images), torch.from_numpy(labels), group=group),
        label_sharpness(neighbors(image_set, 2)),
        label_sharpness(neighbors(images, 2), labels, group=group),
        label_sharpness(images, np.array(["no", "yes"])[labels], group=group),
    ):
        assert (other, other.low, other.high, other.pair) == (one, one.low, one.high, one.pair)
    assert one.low != label_sharpness(images, labels).low  # groups matter
    near = neighbors(image_set, 2)
    assert one == 1 / near.opposite_distance.min()
    quick = label_sharpness(near, interval=False)  # from the nearest opposite images, without a list of pairs
    assert (quick, quick.pair, quick.distance) == (one, one.pair, one.distance)
    flipped = np.random.default_rng(0).permutation(labels)  # other labels than those of the Neighbors
    assert label_sharpness(near, flipped) == label_sharpness(images, flipped)
    assert mean_sharpness(near, None, 20, 3) == mean_sharpness(image_set, None, 20, 3)
    assert sharpest_pairs(near) == sharpest_pairs(image_set)
    for one, other in zip(growth(near, None, np.array([5, 20])), growth(image_set, None, [5, 20]), strict=True):
        assert np.array_equal(one, other)


def test_the_mean_is_that_of_the_draws():
    x, y = overlapping_clouds(300, 4, seed=3)
    found = mean_sharpness(x, y, 40, 7, 11)
    each = [label_sharpness(x[c], y[c], interval=False) for c in balanced_draws(y, 40, 7, 11)]
    assert found == pytest.approx(np.mean(each), rel=1e-12)
    assert found.low < found < found.high
    assert found.distance == pytest.approx(1 / max(each), rel=1e-12)
    i, j = found.pair
    assert np.linalg.norm(x[i] - x[j]) == pytest.approx(found.distance, rel=1e-9)
    assert y[i] != y[j]
    again = mean_sharpness(x, y, 40, 7, 11)
    assert (again.low, again.high) == (found.low, found.high)
    assert math.isnan(mean_sharpness(x, y, 40, 7, interval=False).low)


@pytest.mark.parametrize("way", ["no list", "short list"])
def test_draws_outside_the_list_of_pairs_are_computed(monkeypatch, way):
    x, y = overlapping_clouds(200, 3, seed=4)
    y = y + 2 * (np.arange(200) % 3 == 0)  # four classes
    expected = mean_sharpness(x, y, 10, 5)
    if way == "no list":
        monkeypatch.setattr(sharpness, "LIST_LIMIT", 10)
    else:
        full = sharpness.closest_pairs
        monkeypatch.setattr(sharpness, "closest_pairs", lambda *a, **k: full(*a, **({"count": 30} | k)))
    found = mean_sharpness(x, y, 10, 5)
    assert found == pytest.approx(expected, rel=1e-12)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-12)
    assert found.pair == expected.pair


def test_sharpest_pairs_use_each_image_once():
    rng = np.random.default_rng(5)
    x, y = rng.standard_normal((60, 3)), rng.integers(0, 2, 60)
    x[1:20] = x[0] + 1e-3 * rng.standard_normal((19, 3))  # a hub
    y[0], y[1:20] = 0, 1
    expected, used = [], set()
    for value, i, j in brute_force(x, y):
        if not used & {i, j}:
            expected.append((i, j, value))
            used |= {i, j}
    found = sharpest_pairs(x, y, 12)
    assert [p[:2] for p in found] == [e[:2] for e in expected[:12]]
    assert [p[3] for p in found] == pytest.approx([e[2] for e in expected[:12]], rel=1e-9)
    assert [p[2] * p[3] for p in found] == pytest.approx([1] * 12)
    assert found[0][3] == label_sharpness(x, y)
    assert len(sharpest_pairs(x, y, 1000)) == len(expected)


def test_sharpest_pairs_go_on_where_the_list_ends(monkeypatch):
    rng = np.random.default_rng(6)
    x, y = rng.standard_normal((60, 3)), np.arange(60) % 2
    expected = sharpest_pairs(x, y, 25)
    monkeypatch.setattr("intrinsic.properties.neighbors.PAIRS", 8)
    near = neighbors(x[:, :3], 2, y)
    object.__setattr__(near, "pairs", sharpness.closest_pairs(x, y, count=8))
    assert sharpest_pairs(near, n=25) == expected


@pytest.mark.parametrize("d", [2, 4])
def test_it_grows_with_the_power_two_over_d_where_classes_overlap(d):
    sizes = [25, 50, 100, 200, 400]
    means = np.mean(
        [np.log(growth(*overlapping_clouds(2000, d, seed=s), per_class=sizes, draws=25)[1]) for s in range(6)], axis=0
    )
    slope = np.polyfit(np.log(sizes), means, 1)[0]
    assert slope == pytest.approx(2 / d, rel=0.2)


def test_it_levels_off_where_classes_are_apart():
    x, y = parallel_planes(1000, 2, 0.3, seed=0)
    sizes, values = growth(x, y)
    assert sizes.tolist() == [16, 32, 64, 128, 256]
    assert (np.diff(values) > -1e-9).all()
    assert values[-1] == pytest.approx(1 / 0.3, rel=0.01)
    assert sizes.dtype == np.int64


# ------------------------------------------------------------------- quantiles, control, classes, growth, limit


def distances(x):
    """All distances, float64, infinity on the diagonal."""
    x = np.asarray(x, dtype=np.float64).reshape(len(x), -1)
    d = np.array([np.sqrt(((x - one) ** 2).sum(axis=1)) for one in x])
    np.fill_diagonal(d, np.inf)
    return d


def every_quantity(x, y):
    """Name -> value of everything that is one over a distance."""
    values = {f"quantile {q.quantile}": q for q in quantile_sharpness(x, y, [0, 0.1, 0.5, 1])}
    values |= {"all": label_sharpness(x, y), "mean": mean_sharpness(x, y, 20, 5), "control": same_label_control(x, y)}
    matrix = class_pair_sharpness(x, y).sharpness
    return values | {f"classes {a} {b}": matrix[a, b] for a, b in np.ndindex(matrix.shape)}


def test_scale_divides_everything_and_shift_and_rotation_change_nothing():
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((120, 5)), rng.integers(0, 3, 120)
    turn = np.linalg.qr(rng.standard_normal((5, 5)))[0]
    one, scaled, moved = every_quantity(x, y), every_quantity(255 * x, y), every_quantity(1e3 + x @ turn, y)
    for name, value in one.items():
        assert scaled[name] == pytest.approx(value / 255, rel=1e-9), name
        assert moved[name] == pytest.approx(value, rel=1e-9), name
    ratio = same_label_control(x, y).ratio
    assert same_label_control(7 * x, y).ratio == pytest.approx(ratio, rel=1e-9)
    assert growth_exponent(7 * x, y, [5, 10, 20]) == pytest.approx(growth_exponent(x, y, [5, 10, 20]), abs=1e-9)


def test_range_and_channels_divide_everything_exactly():
    images, labels, _ = torus_images(160, 3, size=16)
    one, unit = every_quantity(images, labels), every_quantity(images / 255, labels)
    rgb = every_quantity(np.repeat(images[..., None], 3, axis=3), labels)
    for name, value in one.items():
        assert unit[name] == pytest.approx(value, rel=1e-9), name
        assert rgb[name] == pytest.approx(value / math.sqrt(3), rel=1e-12), name
    three = sharpness_limit(np.repeat(images[..., None], 3, axis=3), labels)
    assert three.identified == sharpness_limit(images, labels).identified
    assert three.gap_low == pytest.approx(math.sqrt(3) * sharpness_limit(images, labels).gap_low, rel=1e-9)


@pytest.mark.parametrize("gap", [0.01, 0.5])
def test_facing_planes_give_the_inverse_gap_at_every_quantile_and_as_a_limit(gap):
    x, y = parallel_planes(400, 3, gap, ambient=20, seed=1)
    for q in quantile_sharpness(x, y, [0, 0.05, 0.3]):
        assert q == pytest.approx(1 / gap, rel=1e-9)
        assert q.distance == pytest.approx(gap, rel=1e-9)
    wide = parallel_planes(400, 2, 0.5, seed=1)
    limit = sharpness_limit(*wide)
    assert limit.identified
    assert limit.low == limit == pytest.approx(2, rel=1e-9)
    assert limit.high == pytest.approx(2, rel=1e-6)
    assert limit.high >= limit


def test_equal_labels_give_zero_everywhere():
    x = np.random.default_rng(0).standard_normal((200, 3))
    y = np.ones(200, dtype=int)
    for value in (*quantile_sharpness(x, y, [0, 0.5]), sharpness_limit(x, y), growth_exponent(x, y)):
        assert (value, value.low, value.high) == (0, 0, 0)
    control = same_label_control(x, y)
    assert control == pytest.approx(1 / distances(x).min(), rel=1e-9)
    assert control.ratio == 0
    assert class_pair_sharpness(x, y).sharpness == pytest.approx(control)


@pytest.mark.parametrize("n_classes", [2, 4])
def test_quantiles_are_those_of_the_nearest_opposite_distances(n_classes):
    rng = np.random.default_rng(n_classes)
    x, y = rng.standard_normal((150, 4)), rng.integers(0, n_classes, 150)
    nearest = np.where(y[:, None] != y, distances(x), np.inf).min(axis=1)
    levels = [0, 0.05, 0.5, 1]
    found = quantile_sharpness(x, y, levels)
    assert [float(q) for q in found] == pytest.approx(list(1 / np.quantile(nearest, levels)), rel=1e-9)
    assert found[0] == label_sharpness(x, y)
    assert math.isnan(found[0].low)  # an extreme has no interval of this kind
    assert found[2].low < found[2] < found[2].high


def test_quantiles_in_halves_do_not_depend_on_how_long_the_list_of_pairs_is(monkeypatch):
    x, y = overlapping_clouds(200, 3, seed=4)
    levels = [0.05, 0.5, 0.9]
    expected = quantile_sharpness(neighbors(x, 2, y), None, levels)
    full = sharpness.closest_pairs
    for count in (30, 2_000):
        near = neighbors(x, 2, y)
        object.__setattr__(near, "pairs", full(x, y, count=count))
        found = quantile_sharpness(near, None, levels)
        for one, other in zip(found, expected, strict=True):
            assert (one, one.low, one.high) == pytest.approx((other, other.low, other.high), rel=1e-12)


def test_copies_take_the_interval_of_low_quantiles_only():
    x, y = overlapping_clouds(300, 3, seed=8)
    x[1:13:2] = x[0:12:2]
    y[1:13:2] = 1 - y[0:12:2]  # 12 of 300 images have a copy with another label
    low, middle = quantile_sharpness(x, y, [0.02, 0.5])
    assert low == math.inf
    assert math.isnan(low.low)
    assert middle.low < middle < middle.high < math.inf


def test_the_control_is_the_closest_pair_of_one_label():
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((120, 4)), rng.integers(0, 3, 120)
    d = np.where(y[:, None] == y, distances(x), np.inf)
    control = same_label_control(x, y)
    assert control == pytest.approx(1 / d.min(), rel=1e-9)
    assert control.pair == tuple(sorted(np.unravel_index(d.argmin(), d.shape)))
    assert len(set(control.labels_of_pair)) == 1
    assert control.ratio == label_sharpness(x, y) / control
    assert control.low < control < control.high
    assert control.ratio.low < control.ratio < control.ratio.high
    again = same_label_control(neighbors(x, 3, y))
    assert (again, again.low, again.ratio.high) == (control, control.low, control.ratio.high)


def test_labels_that_do_not_depend_on_position_give_a_ratio_of_one():
    logs = [math.log(same_label_control(*overlapping_clouds(200, 3, s), interval=False).ratio) for s in range(150)]
    assert abs(np.mean(logs)) < 4 * np.std(logs) / math.sqrt(len(logs))
    assert np.std(logs) == pytest.approx(math.pi / math.sqrt(3) / 3, rel=0.25)  # of a logistic variable over d


def test_copies_make_the_control_infinite_and_the_ratio_zero():
    x, y = overlapping_clouds(60, 3, seed=0)
    twice, labels = np.concatenate([x, x[:1]]), np.append(y, y[0])
    control = same_label_control(twice, labels)
    assert control == math.inf
    assert control.ratio == 0
    assert math.isnan(control.low)
    only = same_label_control(x[:2], [0, 1])
    assert only == 0
    assert math.isnan(only.ratio)


@pytest.mark.parametrize("ordered", [False, True])
def test_the_matrix_has_the_largest_slope_of_each_two_classes(ordered):
    rng = np.random.default_rng(4)
    x, y = rng.standard_normal((140, 3)), rng.choice([0, 1, 3, 7], 140)
    form = "ordered" if ordered else "classes"
    found = class_pair_sharpness(x, y, labels=form)
    d = distances(x)
    for a, first in enumerate(found.classes):
        for b, second in enumerate(found.classes):
            weight = abs(first - second) if ordered and a != b else 1
            expected = weight / d[np.ix_(y == first, y == second)].min()
            assert found.sharpness[a, b] == pytest.approx(expected, rel=1e-9)
    assert (found.sharpness - np.diag(np.diag(found.sharpness))).max() == pytest.approx(
        label_sharpness(x, y, labels=form), rel=1e-12
    )
    assert np.diag(found.sharpness).max() == pytest.approx(same_label_control(x, y), rel=1e-12)
    assert found.counts.tolist() == [int((y == c).sum()) for c in found.classes]
    rows = found.rows()
    assert len(rows) == 10
    assert sum(row["same_label"] for row in rows) == 4


def test_the_matrix_at_m_is_the_mean_of_the_draws():
    x, y = overlapping_clouds(240, 3, seed=5)
    y = y + 2 * (np.arange(240) % 2)
    found = class_pair_sharpness(x, y, per_class=20, draws=4, seed=9, interval=True)
    each = []
    for chosen in balanced_draws(y, 20, 4, 9):
        d = distances(x[chosen])
        each.append([[1 / d[np.ix_(y[chosen] == a, y[chosen] == b)].min() for b in range(4)] for a in range(4)])
    assert found.sharpness == pytest.approx(np.mean(each, axis=0), rel=1e-9)
    assert (found.low < found.sharpness).all()
    assert (found.sharpness < found.high).all()
    assert np.array_equal(found.low, found.low.T)


def test_the_matrix_does_not_depend_on_how_long_the_list_of_pairs_is(monkeypatch):
    x, y = overlapping_clouds(160, 3, seed=6)
    y = y + 2 * (np.arange(160) % 2)
    expected = class_pair_sharpness(x, y, per_class=10, draws=3, interval=True)
    monkeypatch.setattr(sharpness, "SAME_LABEL_PAIRS", 40)
    full = sharpness.closest_pairs
    monkeypatch.setattr(sharpness, "closest_pairs", lambda *a, **k: full(*a, **({"count": 40} | k)))
    found = class_pair_sharpness(x, y, per_class=10, draws=3, interval=True)
    assert found.sharpness == pytest.approx(expected.sharpness, rel=1e-12)
    assert found.high == pytest.approx(expected.high, rel=1e-12)


def test_the_exponent_is_the_slope_of_nested_draws(monkeypatch):
    x, y = overlapping_clouds(200, 3, seed=7)
    sizes, draws = [4, 8, 16], 6
    found = growth_exponent(x, y, sizes, draws, seed=3)
    logs = np.zeros(3)
    for draw in range(draws):
        rng = np.random.default_rng([3, draw])
        order = [np.flatnonzero(y == label)[np.argsort(rng.permutation(100))] for label in (0, 1)]
        for column, m in enumerate(sizes):
            chosen = np.concatenate([o[:m] for o in order])
            logs[column] += math.log(label_sharpness(x[chosen], y[chosen], interval=False)) / draws
    assert found.log_k_f == pytest.approx(logs, rel=1e-9)
    assert found == pytest.approx(np.polyfit(np.log(sizes), logs, 1)[0], rel=1e-9)
    full = sharpness.closest_pairs
    monkeypatch.setattr(sharpness, "closest_pairs", lambda *a, **k: full(*a, **({"count": 30} | k)))
    short = growth_exponent(x, y, sizes, draws, seed=3)
    assert (short, short.low, short.high) == pytest.approx((found, found.low, found.high), rel=1e-12)


@pytest.mark.parametrize("d", [2, 4])
def test_the_exponent_is_two_over_d_where_classes_overlap(d):
    found = [growth_exponent(*overlapping_clouds(1200, d, s), [38, 75, 150], interval=False) for s in range(12)]
    assert np.mean(found) == pytest.approx(2 / d, rel=0.12)


def test_the_exponent_is_two_over_d_plus_one_where_classes_touch():
    def touching(s):
        x, y = np.random.default_rng(s).random((1200, 3)), np.arange(1200) % 2
        x[:, 0] += y
        return x, y

    found = [growth_exponent(*touching(s), [38, 75, 150], interval=False) for s in range(12)]
    assert np.mean(found) == pytest.approx(2 / 4, rel=0.12)


def test_the_exponent_is_none_where_classes_are_far_apart():
    x, y = parallel_planes(800, 2, 1.0, seed=0)
    found = growth_exponent(x, y)
    assert abs(found) < 0.02
    assert found.per_class.tolist() == [12, 25, 50, 100]
    assert growth_kind(Estimate(found, -0.01, found.high), Estimate(2, 1.9, 2.1)) == "a plateau"


@pytest.mark.parametrize(
    ("low", "high", "says"),
    [
        (-0.1, 0.2, "a plateau"),  # holds 0 and lies below 2/(4.1 + 1) = .39
        (-0.1, 0.45, "undecided: too few images"),
        (0.3, 0.6, "like 2/d"),
        (0.49, 0.51, "like 2/d"),
        (0.1, 0.45, "slower than 2/d, like 2/(d+1)"),  # 2/d is .488 to .513
        (0.1, 0.3, "slower than 2/d, still rising"),
        (0.6, 0.9, "steeper than 2/d"),
        (math.nan, math.nan, "undecided: no interval"),
    ],
)
def test_the_kind_of_growth_follows_from_intervals_alone(low, high, says):
    assert growth_kind(Estimate(0.3, low, high), Estimate(4, 3.9, 4.1)) == says


@pytest.mark.parametrize("level", [0.03, 0.5, 0.9])
def test_the_law_of_the_largest_share(level):
    assert sharpness._fisher_quantile(2, level) == pytest.approx((1 + level) / 2, abs=1e-12)  # uniform on [1/2, 1]
    z = np.random.default_rng(0).exponential(size=(100_000, 60))
    assert np.mean(z.max(axis=1) / z.sum(axis=1) <= sharpness._fisher_quantile(60, level)) == pytest.approx(
        level, abs=0.006
    )


def test_the_endpoint_of_a_power_law_is_covered():
    rng = np.random.default_rng(1)
    low = []
    for _ in range(600):
        r = np.sort(2 + rng.random(400))[:51]
        low.append(sharpness._endpoint(r))
    assert np.mean(np.array(low) <= 2) == pytest.approx(1 - sharpness.LIMIT_TEST, abs=0.025)
    assert np.median(low) > 1.8


def wide_slabs(n, d, gap, seed):
    x, y = np.random.default_rng(seed).random((n, d)), np.arange(n) % 2
    x[:, 0] += (1 + gap) * y
    return x, y


@pytest.mark.parametrize(("d", "gap", "least"), [(2, 1.0, 0.4), (3, 1.0, 0.25), (5, 1.0, 0.05)])
def test_the_limit_holds_the_inverse_gap_of_slabs(d, gap, least):
    found = [sharpness_limit(*wide_slabs(400, d, gap, 500 + s)) for s in range(60)]
    assert np.mean([one.high >= 1 / gap for one in found]) >= 0.85
    assert np.mean([one.identified for one in found]) >= least
    for one in found:
        assert one.low == one <= one.high
        assert one.identified == math.isfinite(one.high) == (one.reason == "")


@pytest.mark.parametrize("sample", [lambda s: wide_slabs(400, 3, 0.0, s), lambda s: overlapping_clouds(400, 5, s)])
def test_the_limit_is_seldom_finite_where_there_is_no_gap(sample):
    assert np.mean([sharpness_limit(*sample(500 + s)).identified for s in range(60)]) <= 0.1


def test_nothing_is_identified_on_a_line_from_copies_or_from_few_images():
    assert not any(sharpness_limit(*wide_slabs(400, 1, 1.0, s)).identified for s in range(10))
    x, y = wide_slabs(400, 2, 1.0, 0)
    few = sharpness_limit(x[:100], y[:100])
    assert (few.identified, few.high) == (False, math.inf)
    assert "80 are needed" in few.method
    copied = np.concatenate([x, x[:1]])
    assert sharpness_limit(copied, np.append(y, 1 - y[0])).reason == "copies with different labels: there is no gap"


def test_two_groups_count_as_one_pair_in_the_limit():
    x, y = parallel_planes(800, 2, 0.5, seed=3)
    group = np.concatenate([np.arange(400) // 4 * 2 + np.arange(400) % 2, 400 + np.arange(400)])
    pairs = sharpness.closest_pairs(x, y)
    found = sharpness._between_units(pairs, group, 50)
    d = distances(x)
    d[y[:, None] == y] = np.inf
    between = {}
    for i, j in zip(*np.nonzero(np.isfinite(d)), strict=True):
        if group[i] != group[j]:
            key = tuple(sorted((group[i], group[j])))
            between[key] = min(between.get(key, np.inf), d[i, j])
    assert found == pytest.approx(sorted(between.values())[:50], rel=1e-9)


def test_halves_keep_groups_whole_and_classes_balanced():
    group = np.repeat(np.arange(60), 4)
    labels = np.repeat(np.arange(60) % 3, 4)
    for half in sharpness.halves(labels, group, 0):
        assert all(len(set(half[group == g])) == 1 for g in range(60))
        assert [int(half[labels == c].sum()) for c in range(3)] == [40, 40, 40]


def test_intervals_of_exponents_and_quantiles_cover_their_expectation():
    def both(s, interval):
        x, y = overlapping_clouds(256, 4, s)
        return growth_exponent(x, y, draws=15, interval=interval), *quantile_sharpness(
            x, y, [0.1, 0.5], interval=interval
        )

    far = np.array([[float(v) for v in both(20_000 + s, False)] for s in range(150)])
    target = [far[:, 0].mean(), *np.exp(np.log(far[:, 1:]).mean(axis=0))]
    found = [both(s, True) for s in range(60)]
    for column in range(3):
        share = np.mean([one[column].low <= target[column] <= one[column].high for one in found])
        assert share >= 0.84, column


@pytest.mark.parametrize(
    ("function", "quantities"),
    [
        (label_sharpness, ["all pairs"]),
        (mean_sharpness, ["mean at M = 100"]),
        (quantile_sharpness, [f"quantile {q:g}" for q in sharpness.QUANTILES]),
        (same_label_control, ["control", "ratio to control"]),
        (growth_exponent, ["growth exponent"]),
    ],
)
def test_coverage_in_docstrings_is_that_of_the_stored_simulations(function, quantities):
    text = " ".join(function.__doc__.split())
    cases = measurement.published_table("sharpness_coverage")["cases"]
    rows = [row for case in cases.values() for row in case if row["quantity"] in quantities and row["simulations"]]
    for sample in {row["sample"] for row in rows}:
        shares = [100 * row["coverage"] for row in rows if row["sample"] == sample]
        low, high = round(min(shares)), round(max(shares))
        assert f"{sample} {low} to {high} %" in text or (low == high and f"{sample} {low} %" in text), (
            sample,
            low,
            high,
        )


def test_the_limit_covers_as_its_docstring_says():
    text = " ".join(sharpness_limit.__doc__.split())
    limits = measurement.published_table("sharpness_limit")["cases"].values()
    apart = [row for row in limits if row["gap"] and row["d"] > 1]
    closed = [row for row in limits if not row["gap"] and row["d"] > 1]
    low, high = (100 * f(row["coverage"] for row in apart) for f in (min, max))
    assert low >= 90
    assert f"{low:.1f} to {high:.1f} % of simulations" in text
    assert f"finite in at most {max(100 * row['identified'] for row in closed):.1f} %" in text
    assert not any(row["identified"] for row in limits if row["d"] == 1)


# ------------------------------------------------------------------------------------------------ intervals


def slabs(n, d, seed):
    """Two unit cubes 0.1 apart."""
    x, y = np.random.default_rng(seed).random((n, d)), np.arange(n) % 2
    x[:, 0] += 1.1 * y
    return x, y


def grouped(n, d, seed):
    """Groups of six points near one another, one label each."""
    rng = np.random.default_rng(seed)
    x = np.repeat(rng.random((n // 6, d)), 6, axis=0)
    group = np.repeat(np.arange(n // 6), 6)
    return x + 0.03 * rng.standard_normal(x.shape), group % 2, group


@pytest.mark.parametrize(
    ("sample", "most"), [(lambda s: overlapping_clouds(300, 5, s), 0.995), (lambda s: slabs(300, 3, s), 1.0)]
)
def test_intervals_cover_the_geometric_mean(sample, most):
    target = np.exp(np.mean([math.log(label_sharpness(*sample(10_000 + s), interval=False)) for s in range(200)]))
    found = [label_sharpness(*sample(s)) for s in range(80)]
    share = np.mean([k.low <= target <= k.high for k in found])
    assert 0.86 <= share <= most
    assert np.mean([k.high / k.low for k in found]) < 4


@pytest.mark.parametrize("ratio", [1, 2, 6])
def test_intervals_of_means_cover_the_population(ratio, monkeypatch):
    monkeypatch.setattr(sharpness, "REPLICATES", 80)
    m, d = 40, 6
    target = np.mean([label_sharpness(*overlapping_clouds(2 * m, d, 10_000 + s), interval=False) for s in range(600)])
    found = [mean_sharpness(*overlapping_clouds(2 * m * ratio, d, s), m, 8) for s in range(50)]
    assert np.mean([k.low <= target <= k.high for k in found]) >= 0.84
    spread = np.std([math.log(k) for k in found])
    assert np.mean([math.log(k.high / k.low) for k in found]) < 7 * spread  # 4 would be a normal interval


def test_groups_widen_the_interval_where_they_decide():
    widths = {True: [], False: []}
    for s in range(10):
        x, y, group = grouped(600, 5, s)
        for use, found in widths.items():
            k_f = label_sharpness(x, y, group=group if use else None)
            found.append(math.log(k_f.high / k_f.low))
    assert np.mean(widths[True]) > 1.2 * np.mean(widths[False])


def test_tiny_sets_have_a_finite_answer():
    x = np.random.default_rng(0).standard_normal((6, 2))
    for k_f in (label_sharpness(x, [0, 1] * 3), mean_sharpness(x, [0, 1] * 3, 3, 4)):
        assert 0 < k_f.low <= k_f <= k_f.high < math.inf
    two = label_sharpness(x[:2], [0, 1])
    assert (two.low, two.high) == pytest.approx((two, two))


# --------------------------------------------------------------------------------------- numbers and errors


def test_a_sharpness_is_a_number():
    x, y = overlapping_clouds(50, 3, 0)
    k_f = label_sharpness(x, y)
    assert isinstance(k_f, Sharpness)
    assert isinstance(k_f, float)
    assert f"{k_f:.3f}" == f"{float(k_f):.3f}"
    assert 2 * k_f == 2 * float(k_f)
    assert type(k_f.pair[0]) is int
    assert type(k_f.labels_of_pair[0]) is int


X = np.random.default_rng(1).standard_normal((20, 3))
Y = np.arange(20) % 2


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: label_sharpness(X), r"needs labels, and there are none"),
        (lambda: label_sharpness(neighbors(X, 3)), r"needs labels"),
        (lambda: mean_sharpness(X), r"needs labels"),
        (lambda: growth(X), r"needs labels"),
        (lambda: sharpest_pairs(X), r"needs labels"),
        (lambda: label_sharpness(X, Y[:5]), r"labels have shape \(5,\) for 20 points"),
        (lambda: label_sharpness(X, Y, labels="order"), r"labels='order' is unknown"),
        (lambda: sharpest_pairs(X, Y, labels="order"), r"labels='order' is unknown"),
        (lambda: label_sharpness(X, np.array(list("ab") * 10), labels="ordered"), r"needs numbers"),
        (lambda: label_sharpness(np.full((20, 3), np.nan), Y), r"20 of 20 points hold NaN"),
        (lambda: label_sharpness(X[:1], [0]), r"one point"),
        (lambda: label_sharpness(X, np.where(Y, np.nan, 1.0)), r"labels are missing"),
        (lambda: growth(X, Y, per_class=[]), r"per_class=\[\] is no list"),
        (lambda: growth(X, Y, per_class=5), r"per_class=5 is no list"),
        (lambda: growth(X, Y), r"smallest class has 10"),
        (lambda: quantile_sharpness(X), r"needs labels"),
        (lambda: quantile_sharpness(X, Y, [0.5, 1.5]), r"hold a number that is no share"),
        (lambda: quantile_sharpness(X, Y, []), r"hold a number that is no share"),
        (lambda: same_label_control(X), r"needs labels"),
        (lambda: class_pair_sharpness(X), r"needs labels"),
        (lambda: class_pair_sharpness(X, Y, labels="order"), r"labels='order' is unknown"),
        (lambda: class_pair_sharpness(X, np.array(list("ab") * 10), labels="ordered"), r"needs numbers"),
        (lambda: growth_exponent(X, Y), r"smallest class has 10 images"),
        (lambda: growth_exponent(X, Y, [5, 50]), r"no two numbers"),
        (lambda: growth_exponent(np.ones((200, 2)), np.arange(200) % 2), r"copies with different labels"),
        (lambda: sharpness_limit(X), r"needs labels"),
    ],
)
def test_bad_input_ends_in_one_sentence(call, says):
    with pytest.raises(BadPoints, match=says) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_too_few_images_for_a_draw():
    for call in (lambda: mean_sharpness(X, Y, 11), lambda: growth(X, Y, [5, 11])):
        with pytest.raises(TooFewImages, match="11 images a class"):
            call()
