"""Label sharpness: brute force, gaps known by construction, degenerate labels, coverage of intervals."""

import math

import numpy as np
import pytest
import torch

from intrinsic.images import ImageSet, TooFewImages, balanced_draws
from intrinsic.images.manifolds import overlapping_clouds, parallel_tori, torus_images
from intrinsic.properties import pairs
from intrinsic.properties.growth import (
    cross_dimension,
    growth,
    growth_by_halves,
    growth_exponent,
    labels_by_lot,
    predicted_sharpness,
)
from intrinsic.properties.neighbors import BadPoints, neighbors
from intrinsic.properties.sharpness import (
    class_pair_sharpness,
    label_sharpness,
    mean_sharpness,
    quantile_sharpness,
    same_label_control,
    sharpest_pairs,
)


def cloud(n=200, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, 4)), rng.integers(0, classes, n)


def distances(x):
    found = np.sqrt(((x[:, None] - x) ** 2).sum(-1))
    np.fill_diagonal(found, np.inf)
    return found


def k_f(x, y):
    found = distances(x)
    return 1 / found[y[:, None] != y].min()


def test_it_is_one_over_the_smallest_distance_between_labels():
    x, y = cloud()
    found = np.where(y[:, None] != y, distances(x), np.inf)
    i, j = np.unravel_index(found.argmin(), found.shape)
    for given in (label_sharpness(x, y), label_sharpness(neighbors(x, 1, y), interval=False)):
        assert given == pytest.approx(1 / found.min())
        assert given.pair == (i, j)
        assert given.distance == pytest.approx(found.min())
        assert given.labels_of_pair == (y[i], y[j])
    named = label_sharpness(x, np.array(["a", "b", "c"])[y])
    assert named.low < named < named.high


def test_planes_a_gap_apart_give_its_inverse():
    plane, y = np.random.default_rng(0).random((100, 2)), np.arange(200) % 2
    x = np.column_stack([np.repeat(plane, 2, axis=0), 0.1 * y])
    assert label_sharpness(x, y) == pytest.approx(10)
    assert 1 / quantile_sharpness(x, y, [0.0])[0] == pytest.approx(0.1)


def test_images_of_floats_above_1_are_refused():
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8)).astype(np.float32)
    for given in (images, torch.from_numpy(images)):
        with pytest.raises(BadPoints, match="255"):
            label_sharpness(given, np.arange(20) % 2)
    one = label_sharpness(images / 255, np.arange(20) % 2, interval=False)
    assert one == pytest.approx(label_sharpness(images.astype(np.uint8), np.arange(20) % 2, interval=False), rel=1e-6)


def test_equal_labels_give_0_and_copies_infinity():
    x, y = cloud(60)
    for found in (label_sharpness(x, np.ones(60)), mean_sharpness(x, np.ones(60), per_class=9)):
        assert (found, found.low, found.high, found.pair, found.distance) == (0, 0, 0, None, math.inf)
    x[7], y[7] = x[3], y[3] + 1
    found = label_sharpness(x, y)
    assert (found, found.pair, found.distance) == (math.inf, (3, 7), 0)
    assert math.isnan(found.low)


def test_the_mean_is_over_balanced_draws():
    x, y = cloud()
    found = mean_sharpness(x, y, per_class=20, draws=6)
    values = [k_f(x[c], y[c]) for c in balanced_draws(y, 20, 6, 0)]
    assert found == pytest.approx(np.mean(values))
    assert found.distance == pytest.approx(1 / max(values))
    assert found.low < found < found.high
    assert growth(x, y, [10, 20], draws=6)[1][1] == pytest.approx(found)
    with pytest.raises(TooFewImages):
        mean_sharpness(x, y, per_class=150)


def test_quantiles_are_of_nearest_opposite_distances(monkeypatch):
    x, y = cloud()
    nearest = np.where(y[:, None] != y, distances(x), np.inf).min(axis=1)
    found = quantile_sharpness(x, y, [0, 0.1, 0.5])
    assert [1 / q for q in found] == pytest.approx(np.quantile(nearest, [0, 0.1, 0.5]).tolist())
    assert math.isnan(found[0].low)
    assert found[2].low < found[2] < found[2].high
    monkeypatch.setattr("intrinsic.properties.sharpness.OPPOSITES", 1)  # lists that reach no other half
    again = quantile_sharpness(x, y, [0, 0.1, 0.5])
    assert again[2].low == pytest.approx(found[2].low)


def test_the_control_is_within_labels():
    x, y = cloud()
    within = np.where(y[:, None] == y, distances(x), np.inf).min()
    control = same_label_control(x, y)
    assert control == pytest.approx(1 / within)
    assert control.ratio == pytest.approx(within * k_f(x, y))
    assert control.ratio.low < control.ratio < control.ratio.high


def test_class_pairs_hold_label_sharpness_and_the_control():
    x, y = cloud(classes=4)
    found = class_pair_sharpness(x, y)
    off = found[~np.eye(4, dtype=bool)]
    assert off.max() == pytest.approx(label_sharpness(x, y, interval=False))
    assert found.diagonal().max() == pytest.approx(same_label_control(x, y, interval=False))
    two = np.isin(y, (1, 2))
    assert found[1, 2] == found[2, 1] == pytest.approx(k_f(x[two], y[two]))


def test_sharpest_pairs_share_no_image(monkeypatch):
    x, y = cloud()
    found = sharpest_pairs(x, y, 8)
    assert len({i for pair in found for i in pair[:2]}) == 16
    assert [p[3] for p in found] == sorted((p[3] for p in found), reverse=True)
    assert found[0][:2] == label_sharpness(x, y).pair
    monkeypatch.setattr(pairs, "PAIRS", 1)  # the shortest list
    assert sharpest_pairs(x, y, 8) == found


def test_intervals_of_overlapping_classes_cover():
    """The share of 40 samples whose interval holds the geometric mean of K_F over all of them."""
    found = [label_sharpness(*overlapping_clouds(100, 3, seed=seed)) for seed in range(40)]
    middle = np.exp(np.mean(np.log(found)))
    assert sum(v.low <= middle <= v.high for v in found) >= 33


def test_whole_groups_enter_a_subsample():
    x, y = cloud(240, 2)
    group = np.repeat(np.arange(60), 4)
    x = x[group * 4] + 0.05 * x
    y = y[group * 4]
    one, other = label_sharpness(x, y), label_sharpness(ImageSetLike(x, y, group))
    assert one == other
    assert other.high - other.low != one.high - one.low


class ImageSetLike:
    """Points with labels and groups of their own."""

    def __init__(self, images, labels, group):
        self.images, self.labels, self.group = images, labels, group

    def __len__(self):
        return len(self.labels)


# --------------------------------------------------------------------------------------------- growth


@pytest.mark.parametrize(("d", "low", "high"), [(2, 0.8, 1.15), (4, 0.38, 0.6)])
def test_overlapping_classes_grow_as_2_over_d(d, low, high):
    found = growth_exponent(*overlapping_clouds(1500, d, seed=3))
    assert low < found < high
    assert found.low < 2 / d < found.high


def test_classes_apart_level_off():
    found = growth_exponent(*parallel_tori(1500, 2, 0.2, seed=1))
    assert found.high < 0.2
    assert found.closest >= 0.2


def face(n, d, gap, seed=0):
    """Two cubes that touch along a face, or lie a gap apart."""
    x = np.random.default_rng(seed).random((n, d))
    y = np.arange(n) % 2
    x[:, 0] += y * (1 + gap)
    return x, y


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        (overlapping_clouds(1500, 2, seed=5), 2), (overlapping_clouds(1500, 4, seed=5), 4),
        (face(6000, 2, 0), 3), (face(6000, 3, 0), 4),
        ((np.random.default_rng(6).random((3000, 3)), labels_by_lot(np.arange(3000) % 2)), 3),
    ],
)  # fmt: skip
def test_cross_dimension_is_that_of_overlap_or_one_more_where_classes_touch(points, expected):
    found = cross_dimension(*points)
    assert found == pytest.approx(expected, rel=0.12)
    assert found.low < found < found.high
    assert found.exponent == 2 / found
    assert found.exponent.low == 2 / found.high


@pytest.mark.parametrize("points", [face(3000, 3, 0.2), face(3000, 3, 0.5), parallel_tori(1500, 3, 0.3, seed=2)])
def test_classes_a_gap_apart_have_no_cross_dimension(points):
    assert math.isnan(cross_dimension(*points))


def test_cross_dimension_covers_and_predicts_sharpness():
    """Over 30 samples of overlapping planes; K_F at another M from half of the images."""
    found = [cross_dimension(*overlapping_clouds(400, 2, seed=seed)) for seed in range(30)]
    assert sum(v.low <= np.mean(found) <= v.high for v in found) >= 25
    x, y = overlapping_clouds(2000, 3, seed=9)
    half = np.arange(len(x)) % 4 < 2
    law = cross_dimension(x[half], y[half])
    seen = 1 / np.mean([1 / label_sharpness(x[c], y[c], interval=False)
                        for c in balanced_draws(y, 400, 12, 0)])  # fmt: skip
    assert predicted_sharpness(law, 400) == pytest.approx(seen, rel=0.2)


def test_the_interval_of_a_prediction_holds_sharpness_of_a_new_sample():
    """At half, and at four times the images; 24 samples of overlapping cubes."""
    inside = []
    for seed in range(24):
        law = cross_dimension(*overlapping_clouds(400, 3, seed=seed))
        for m in (100, 800):
            new = label_sharpness(*overlapping_clouds(2 * m, 3, seed=100 + seed), interval=False)
            inside.append(predicted_sharpness(law, m).low <= new <= predicted_sharpness(law, m).high)
    assert np.mean(inside) >= 0.85


@pytest.mark.parametrize("d", [2, 4])
def test_one_half_predicts_the_growth_of_the_other(d):
    found = growth_by_halves(*overlapping_clouds(1500, d, seed=3))
    assert found["predicted"] == pytest.approx(2 / d, rel=0.12)
    assert found["measured"] == pytest.approx(2 / d, rel=0.2)


def test_halves_of_classes_apart_do_not_follow_the_law():
    found = growth_by_halves(*parallel_tori(1500, 2, 0.2, seed=1))
    assert found["measured"] < 0.5 * found["predicted"]


def test_labels_by_lot_keep_families_together():
    labels, group = np.repeat([0, 1], 300), np.repeat(np.arange(200), 3)
    lot = labels_by_lot(labels, group)
    assert all(len(set(lot[group == g])) == 1 for g in range(200))
    assert 0.4 < lot.mean() < 0.6
    assert set(labels_by_lot(np.array(["a", "b"])[labels])) == {"a", "b"}


def test_too_few_images_and_conflicts_have_no_growth():
    x, y = cloud(100, 2)
    with pytest.raises(BadPoints, match="64"):
        growth_exponent(x, y)
    assert math.isnan(cross_dimension(x[:8], y[:8]))
    images, labels = torus_images(140, 2, size=12)
    images, labels = np.concatenate([images, images[:1]]), np.append(labels, 1 - labels[0])
    for refused in (cross_dimension, growth_exponent):
        with pytest.raises(BadPoints):
            refused(ImageSet(images, labels, ("a", "b")))
