"""What the theorems promise, with every constant, and the interpolant that attains it.

Distances and radii are L2 in the unit of the points (images in [0, 1]); slopes are per that unit.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

BLOCK = 2**22  # distances held at a time


class BadTheory(ValueError):
    """Numbers for which a bound is not defined."""


@dataclass(frozen=True)
class Law:
    """A law of images that fills its support evenly: mu(B(x, r)) >= c r^d for every x in it and r <= r0.

    `d` is the dimension, `diameter` the largest distance between two images.
    """

    d: float
    c: float
    r0: float
    diameter: float

    def __post_init__(self):
        if min(self.d, self.c, self.r0, self.diameter) <= 0 or self.c * self.r0**self.d > 1 + 1e-9:
            raise BadTheory(
                f"{self} is no law: all must be above 0, and no ball may hold a mass above 1; lower c or r0"
            )


def ball_volume(d: float) -> float:
    """Volume of the unit ball of R^d, pi^(d/2) / Gamma(d/2 + 1)."""
    return math.exp(d / 2 * math.log(math.pi) - math.lgamma(d / 2 + 1))


def flat_torus_law(d: float) -> Law:
    """Law of `images.manifolds.flat_torus` in straight distances, which are shorter than those along the torus."""
    return Law(d, ball_volume(d), 0.5, math.sqrt(d) / math.pi)


def parallel_tori_law(d: float, gap: float) -> Law:
    """Law of `images.manifolds.parallel_tori`: half of the mass lies on a point's own torus."""
    return Law(d, ball_volume(d) / 2, 0.5, math.hypot(math.sqrt(d) / math.pi, gap))


def distance_bound(law: Law, n, moment: float = 1):
    """Upper bound of the mean distance from an image to the nearest of N others, to the power p = `moment`.

    E delta^p <= Gamma(1 + p/d) (c N)^(-p/d) + diameter^p exp(-c N r0^d)

    Examples
    --------
    >>> round(float(distance_bound(flat_torus_law(2), 4000)), 5)  # on a torus the first term is the exact limit
    0.00791
    """
    n, d, p = np.asarray(n, dtype=float), law.d, moment
    near = math.gamma(1 + p / d) * (law.c * n) ** (-p / d)
    return near + law.diameter**p * np.exp(-law.c * n * law.r0**d)


def error_bound(law: Law, n, network_slope: float, label_slope: float, moment: float = 1):
    """Theorem 1: E|f - F|^p <= (K_f + K_F)^p E delta^p for a network that interpolates; p = 2 is the Brier score.

    With K_f = 0 it bounds the error of the nearest training image's label.
    """
    return (network_slope + label_slope) ** moment * distance_bound(law, n, moment)


def radius_bound(probability, label, slope: float):
    """Theorem 3: least L2 radius of an adversarial change, (1/2 - |f(x) - y|) / K; K is f's slope in all directions."""
    return np.maximum(0.5 - np.abs(np.asarray(probability) - label), 0) / slope


def _distances(x, points):
    """Blocks of rows of the distances between x and points."""
    step = max(1, BLOCK // max(1, len(points)))
    for start in range(0, len(x), step):
        yield cdist(x[start : start + step], points)


def nearest_value(x, points, values) -> tuple[np.ndarray, np.ndarray]:
    """Value and distance of the training point nearest to each x: the nearest-neighbor classifier."""
    found = [(row.argmin(axis=1), row.min(axis=1)) for row in _distances(x, points)]
    index, distance = (np.concatenate(part) for part in zip(*found, strict=True))
    return np.asarray(values, dtype=float)[index], distance


def largest_slope(points, labels) -> float:
    """K_F of points with labels 0 and 1: one over the smallest distance between the two; 0 with one label alone."""
    points, labels = np.asarray(points, dtype=float), np.asarray(labels)
    one, other = points[labels == 0], points[labels == 1]
    if len(one) + len(other) < len(points):
        raise BadTheory(f"labels are {np.unique(labels)[:5]}, and this slope is that of two classes; give 0 and 1")
    smallest = min((row.min() for row in _distances(one, other)), default=math.inf) if len(other) else math.inf
    return float(1 / smallest) if smallest else math.inf


def least_slope_interpolant(x, points, labels, slope: float | None = None) -> np.ndarray:
    """McShane's extension (1934) at each x: f(x) = max(0, max_i [F(X_i) - K |x - X_i|]), of slope K everywhere.

    Parameters
    ----------
    x, points, labels : array (m, D), (n, D), (n,)
        Labels are 0 and 1.
    slope : float, optional
        K; by default K_F of the points, the least that interpolates.
    """
    slope = largest_slope(points, labels) if slope is None else slope
    if not math.isfinite(slope):
        raise BadTheory("two equal points have different labels, which no function interpolates; drop them first")
    labels = np.asarray(labels, dtype=float)
    return np.concatenate([np.maximum((labels - slope * row).max(axis=1), 0) for row in _distances(x, points)])


def ball_radii(points, labels) -> np.ndarray:
    """Exact adversarial L2 radius of that interpolant at each training image of class 0.

    It predicts class 1 within 1 / (2 K_F) of an image of class 1: radius = distance to the nearest one - 1 / (2 K_F).
    """
    points, labels = np.asarray(points, dtype=float), np.asarray(labels)
    near = nearest_value(points[labels == 0], points[labels == 1], labels[labels == 1])[1]
    return near - near.min() / 2
