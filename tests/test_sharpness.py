"""Label sharpness: brute force, gaps known by construction, degenerate labels, coverage of intervals."""

import math

import numpy as np
import pytest
import torch

from intrinsic import sharpness
from intrinsic.images import ImageSet, TooFewImages, balanced_draws
from intrinsic.manifolds import overlapping_clouds, parallel_planes, slab_images, torus_images
from intrinsic.neighbors import BadPoints, neighbors
from intrinsic.sharpness import Sharpness, growth, label_sharpness, mean_sharpness, sharpest_pairs


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
    monkeypatch.setattr("intrinsic.neighbors.PAIRS", 8)
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
