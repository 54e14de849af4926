import numpy as np
import pytest
from scipy.spatial.distance import cdist

from intrinsic.images import manifolds
from intrinsic.inference import bounds


@pytest.mark.parametrize("d", [2, 3, 5])
def test_the_nearest_distance_on_a_torus_lies_at_its_limit(d):
    points = manifolds.flat_torus(3500, d, seed=d)
    measured = bounds.nearest_value(points[3000:], points[:3000], np.zeros(3000))[1].mean()
    bound = float(bounds.distance_bound(bounds.flat_torus_law(d), 3000))
    assert measured == pytest.approx(bound, rel=0.07)  # the first term is the limit; 500 test points


def test_two_classes_on_parallel_tori_stay_below_theorem_1():
    gap, n = 0.8, 1000
    points, labels = manifolds.parallel_tori(n + 300, 2, gap, seed=0)
    slope = bounds.largest_slope(points[:n], labels[:n])
    assert slope <= 1 / gap
    off = np.abs(bounds.least_slope_interpolant(points[n:], points[:n], labels[:n]) - labels[n:])
    law = bounds.parallel_tori_law(2, gap)
    assert off.mean() < bounds.error_bound(law, n, 1 / gap, 1 / gap) < 1
    assert (off**2).mean() < bounds.error_bound(law, n, 1 / gap, 1 / gap, moment=2)


def test_the_least_slope_interpolant_interpolates_and_has_the_least_slope():
    rng = np.random.default_rng(0)
    points, labels = rng.uniform(size=(60, 3)), np.arange(60) % 2
    slope = bounds.largest_slope(points, labels)
    x = rng.uniform(size=(200, 3))
    f = bounds.least_slope_interpolant(x, points, labels)
    assert bounds.least_slope_interpolant(points, points, labels) == pytest.approx(labels, abs=1e-12)
    rises, apart = np.abs(f[:, None] - f), cdist(x, x)
    assert (rises <= slope * apart + 1e-9).all()


def test_radii_of_the_interpolant_are_at_least_the_bound_and_one_attains_it():
    rng = np.random.default_rng(1)
    points, labels = rng.uniform(size=(80, 2)), np.arange(80) % 2
    slope, radii = bounds.largest_slope(points, labels), bounds.ball_radii(points, labels)
    assert radii.min() == pytest.approx(float(bounds.radius_bound(0.0, 0, slope)))
    x = points[labels == 0][radii.argmin()]
    other = points[labels == 1][cdist([x], points[labels == 1]).argmin()]
    at = x + (other - x) / np.linalg.norm(other - x) * radii.min()
    assert bounds.least_slope_interpolant([at], points, labels)[0] == pytest.approx(0.5)


def test_what_is_no_law_and_what_no_function_interpolates_is_refused():
    with pytest.raises(bounds.BadTheory, match="mass"):
        bounds.Law(2, 10.0, 1.0, 2.0)
    with pytest.raises(bounds.BadTheory, match="equal"):
        bounds.least_slope_interpolant([[0.0]], [[1.0], [1.0]], [0, 1])
    assert bounds.largest_slope([[0.0], [1.0]], [0, 0]) == 0
