"""Point clouds and image families: what is claimed of each is checked by brute force in float64."""

import numpy as np
import pytest
from image_files import truth
from scipy import stats
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from intrinsic.images import manifolds

FAMILIES = [manifolds.torus_images, manifolds.slab_images]


def maximum_likelihood(points, k=20):
    """Levina-Bickel with inverses averaged, straight from the definition."""
    t = cKDTree(points).query(points, k + 1)[0][:, 1:]
    return 1 / np.log(t[:, -1:] / t[:, :-1]).mean()


def across(points, labels):
    """Smallest distance between the two classes."""
    return cdist(points[labels == 0], points[labels == 1]).min()


def unit(images):
    return images.reshape(len(images), -1) / 255


def test_parallel_tori_are_independent_uniform_points_of_two_tori_a_gap_apart():
    points, labels = manifolds.parallel_tori(4_000, 2, 0.3, seed=1)
    assert np.array_equal(points[:, -1], 0.3 * labels)
    assert abs(labels.mean() - 0.5) < 4 * 0.5 / 4_000**0.5
    angles = (np.arctan2(points[:, 1], points[:, 0]) / (2 * np.pi)) % 1
    assert stats.kstest(angles, "uniform").pvalue > 1e-4
    assert np.corrcoef(angles, labels)[0, 1] ** 2 < 16 / 4_000
    assert 0.3 <= across(points[:500], labels[:500]) < 0.35


@pytest.mark.parametrize("make", [manifolds.flat_torus, manifolds.overlapping_clouds])
def test_the_seed_decides_the_points(make):
    assert np.array_equal(make(30, 2, seed=3)[0], make(30, 2, seed=3)[0])
    assert not np.array_equal(make(30, 2, seed=3)[0], make(30, 2, seed=4)[0])


def test_points_lie_on_the_torus():
    torus = manifolds.flat_torus(500, 3).reshape(500, 3, 2)
    np.testing.assert_allclose(np.linalg.norm(torus, axis=2), 1 / (2 * np.pi))


@pytest.mark.parametrize("d", [1, 2, 4])
def test_maximum_likelihood_recovers_the_dimension_of_the_flat_torus(d):
    assert maximum_likelihood(manifolds.flat_torus(3000, d)) == pytest.approx(d, rel=0.08)


@pytest.mark.parametrize("d", [2, 4])
def test_label_sharpness_of_overlapping_clouds_grows_as_m_to_the_two_over_d(d):
    def sharpness(m):
        return np.median([1 / across(*manifolds.overlapping_clouds(2 * m, d, seed)) for seed in range(60)])

    exponent = np.log(sharpness(320) / sharpness(20)) / np.log(16)
    assert exponent == pytest.approx(2 / d, abs=0.15)


def test_labels_of_overlapping_clouds_are_balanced_and_tell_nothing_of_position():
    points, labels = manifolds.overlapping_clouds(4000, 2, seed=0)
    assert np.bincount(labels).tolist() == [2000, 2000]
    assert abs(points[labels == 0].mean(axis=0) - points[labels == 1].mean(axis=0)).max() < 0.04


@pytest.mark.parametrize("d", [1, 4])
@pytest.mark.parametrize(("family", "waves_per_dimension"), zip(FAMILIES, [2, 1], strict=True))
def test_images_lie_in_the_span_of_few_orthonormal_waves_up_to_rounding(family, waves_per_dimension, d):
    images, labels = family(300, d, size=24)  # clipping would leave the span
    (scale, _), rounding = truth(family, d, 1, 24), 24 / 255
    assert images.shape == (300, 24, 24)
    assert images.dtype == np.uint8
    assert labels.dtype == np.int64
    assert np.bincount(labels).tolist() == [150, 150]
    waves = manifolds._patterns(300, d, d * waves_per_dimension, 24)
    np.testing.assert_allclose(waves @ waves.T, np.eye(len(waves)), atol=1e-12)
    deviation = unit(images) - 0.5
    outside = deviation - deviation @ waves.T @ waves
    assert np.sqrt((outside**2).sum(axis=1)).max() <= rounding / 2
    coordinates = deviation @ waves.T / scale
    slack = rounding / scale
    if waves_per_dimension == 2:
        radii = np.linalg.norm(coordinates.reshape(300, d, 2), axis=2)
        assert abs(radii - 1).max() <= slack
        assert ((coordinates[:, 1] < 0) == labels).all()  # the half circle of the first angle
    else:
        assert abs(coordinates).max() <= 1 + slack
        assert ((coordinates[:, 0] > 0) == labels).all()


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_classes_are_never_nearer_than_the_stated_gap(family, d):
    images, labels = family(600, d, gap=0.4, seed=d)
    (_, apart), rounding = truth(family, d, 0.4), 32 / 255
    assert rounding < apart
    nearest = across(unit(images), labels)
    assert nearest >= apart - rounding
    if d == 1:  # 600 images fill a circle or a line: the gap is attained
        assert nearest == pytest.approx(apart, rel=0.05)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_gap_decides_the_distance_between_the_classes(family):
    wide, narrow = (family(800, 1, gap=gap, seed=2) for gap in (0.8, 0.2))
    ratio = across(unit(wide[0]), wide[1]) / across(unit(narrow[0]), narrow[1])
    assert ratio == pytest.approx(truth(family, 1, 0.8)[1] / truth(family, 1, 0.2)[1], rel=0.15)


@pytest.mark.parametrize("d", [2, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_dimension_of_an_image_family_is_found_at_a_thousand_images(family, d):
    images, _ = family(1000, d)
    assert maximum_likelihood(unit(images)) == pytest.approx(d, rel=0.15)


@pytest.mark.parametrize("family", FAMILIES)
def test_image_families_use_the_whole_range(family):
    images, _ = family(4000, 1)
    spread = abs(images.astype(float) - 127.5).max()
    assert 126 < spread <= 127.5


@pytest.mark.parametrize(
    "call",
    [
        lambda: manifolds.flat_torus(0, 2),
        lambda: manifolds.flat_torus(10, 0),
        lambda: manifolds.flat_torus(10, 2.5),
        lambda: manifolds.parallel_tori(10, 2, -1),
        lambda: manifolds.torus_images(1, 2),
        lambda: manifolds.torus_images(10, 2, gap=7),
        lambda: manifolds.torus_images(10, 40, size=16),
        lambda: manifolds.slab_images(10, 2, gap=2),
        lambda: manifolds.slab_images(10, 2, size=1),
    ],
)
def test_what_makes_no_manifold_is_refused(call):
    with pytest.raises(ValueError, match=r"=.*(take|needs|cannot)"):
        call()
