"""Sets for controlled experiments: what is held and what moves is measured by brute force in float64."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from intrinsic.images import interventions
from intrinsic.properties import dimension, sharpness

ROUNDING = 16 / 255  # the most that 8 bits change a distance by, at 16 x 16 pixels
SETTINGS = [
    {"margin": 0.1},
    {"margin": 0.6},
    {"margin": 0.6, "pair_margin": 0.1},
    {"margin": 0.1, "stripes": 8},
    {"margin": 0.1, "d": 2},
    {"margin": 0.1, "d": 8},
    {"margin": 0.1, "axis": 1},
]


def made(**options):
    return interventions.striped_images(320, **{"d": 4, **options})


def across(images, labels):
    points = images.reshape(len(images), -1).astype(np.float64) / 255
    return cdist(points[labels == 0], points[labels == 1])


@pytest.mark.parametrize("options", SETTINGS, ids=str)
def test_the_smallest_distance_between_the_classes_is_the_margin_of_the_pairs(options):
    images, labels, groups = made(**options)
    least = options.get("pair_margin", options["margin"])
    distances = across(images, labels)
    assert distances.min() == pytest.approx(least, abs=0.03)  # 8 bits move a distance by about 0.026
    assert distances.min() >= least - ROUNDING
    assert sharpness.label_sharpness(images, labels, interval=False) == pytest.approx(1 / distances.min())
    assert np.bincount(labels).tolist() == [160, 160]
    assert sorted(np.bincount(groups)[np.bincount(groups) > 0]) == [1] * 296 + [2] * 12


@pytest.mark.parametrize("options", SETTINGS, ids=str)
def test_all_images_but_the_pairs_keep_the_margin(options):
    images, labels, groups = made(**options)
    alone = np.bincount(groups)[groups] == 1
    assert across(images[alone], labels[alone]).min() >= options["margin"] - ROUNDING


def test_pairs_are_one_image_on_either_side_of_a_boundary():
    images, labels, groups = made(margin=0.3, stripes=4)
    for group in range(12):
        first, second = np.flatnonzero(groups == group)
        assert labels[first] != labels[second]
        moved = (images[first].astype(float) - images[second]).ravel() / 255
        assert np.linalg.norm(moved) == pytest.approx(0.3, abs=0.03)


def test_moving_the_pairs_moves_no_other_image():
    wide, _, groups = made(margin=0.6)
    sharp, _, _ = made(margin=0.6, pair_margin=0.1)
    alone = np.bincount(groups)[groups] == 1
    assert (wide[alone] == sharp[alone]).all()
    assert (wide[~alone] != sharp[~alone]).any()


@pytest.mark.parametrize("change", [{"margin": 0.6}, {"stripes": 8}])
def test_other_coordinates_do_not_move(change):
    patterns = interventions.manifolds._patterns(320, 8, 8, 16)
    before, after = (
        (images.reshape(320, -1) / 255 - 0.5) @ patterns.T
        for images in (made(margin=0.1)[0], made(**{"margin": 0.1} | change)[0])
    )
    np.testing.assert_allclose(before[:, 1:4], after[:, 1:4], atol=0.02)  # rounding
    assert abs(before[:, 4:]).max() < 0.02  # d = 4: no other pattern takes part
    assert abs(before[:, 0] - after[:, 0]).max() > 0.1


@pytest.mark.parametrize("stripes", [2, 4, 8])
def test_the_label_changes_at_every_boundary(stripes):
    images, labels, _ = made(margin=0.1, stripes=stripes)
    patterns = interventions.manifolds._patterns(320, 8, 8, 16)
    along, half_side = images.reshape(320, -1) / 255 @ patterns[0], 0.5 / abs(patterns).sum(axis=0).max()
    changes = np.flatnonzero(np.diff(labels[np.argsort(along)]))
    assert len(changes) == stripes - 1
    assert abs(along - along.mean()).max() <= 1.2 * half_side


def test_the_estimated_dimension_rises_with_the_dimension_and_not_with_the_pairs():
    def estimate(**options):
        images, _, _ = interventions.striped_images(320, margin=0.6, **options)
        points = np.unique(images.reshape(320, -1), axis=0)  # two coordinates and 8 bits leave a few copies
        return float(dimension.mle_dimension(points, 20))

    low, middle, high = (estimate(d=d) for d in (2, 4, 8))
    assert low == pytest.approx(2, rel=0.15)
    assert low < 0.7 * middle < 0.7 * 0.8 * high
    assert estimate(d=4, pair_margin=0.1) == pytest.approx(middle, rel=0.05)


def test_random_labels_leave_the_images_and_the_balance():
    images, labels, _ = made(margin=0.1)
    same, mixed, _ = made(margin=0.1, random_labels=True)
    assert (images == same).all()
    assert np.bincount(mixed).tolist() == [160, 160]
    assert 0.3 < (labels == mixed).mean() < 0.7


@pytest.fixture(scope="module")
def points():
    return np.random.default_rng(0).standard_normal((1500, 5)) * [3, 2, 1, 1, 1]


LABELINGS = [
    {"margin": 0.6},
    {"margin": 1.1},
    {"margin": 1.1, "pair_margin": 0.6},
    {"margin": 0.6, "stripes": 4},
    {"margin": 0.6, "axis": 1},
]


@pytest.mark.parametrize("options", LABELINGS, ids=str)
def test_given_points_are_labelled_with_the_margin_held_and_the_gap_exact(points, options):
    rows, labels, groups = interventions.striped_labels(points, 200, **options)
    assert len(np.unique(rows)) == 200
    assert np.bincount(labels).tolist() == [100, 100]
    chosen = points[rows]
    distances = cdist(chosen[labels == 0], chosen[labels == 1])
    least = options.get("pair_margin", options["margin"])
    assert least <= distances.min() < 1.15 * least  # points are where they are: a pair just beyond the margin
    paired = np.bincount(groups)[groups] == 2
    assert paired.sum() == 24
    alone = chosen[~paired], labels[~paired]
    assert cdist(alone[0][alone[1] == 0], alone[0][alone[1] == 1]).min() >= options["margin"]
    near = distances < options["margin"] * (1 - 1e-9)
    same = groups[labels == 0][:, None] == groups[labels == 1]
    assert not (near & ~same).any()  # only a pair is nearer than the margin


def test_a_point_has_one_label_whatever_the_margin(points):
    seen = {}
    for margin in (0.6, 0.8, 1.1):
        rows, labels, _ = interventions.striped_labels(points, 200, margin)
        for row, label in zip(rows, labels, strict=True):
            assert seen.setdefault(row, label) == label


def test_most_points_are_shared_when_the_pairs_move(points):
    one, _, _ = interventions.striped_labels(points, 200, 1.1)
    other, _, _ = interventions.striped_labels(points, 200, 1.1, 0.6)
    assert len(np.intersect1d(one, other)) >= 150


@pytest.mark.parametrize(
    "call",
    [
        lambda: made(margin=0.1, pair_margin=0.2),
        lambda: made(margin=0.1, stripes=3),
        lambda: made(margin=0.1, d=9),
        lambda: made(margin=0.1, axis=4),
        lambda: made(margin=1.2, stripes=4),
        lambda: interventions.striped_images(9, 2),
        lambda: interventions.striped_labels(np.random.default_rng(0).random((50, 2)), 40, 0.9),
        lambda: interventions.striped_labels(np.random.default_rng(0).random((50, 2)), 10, 0.1),
    ],
)
def test_what_makes_no_set_is_refused(call):
    with pytest.raises(ValueError, match=r"take"):
        call()
