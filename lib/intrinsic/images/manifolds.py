"""Point clouds and image families of known dimension and known label gap, each decided by its seed."""

from itertools import product
from math import inf, pi, sqrt

import numpy as np


def flat_torus(n, d, seed=0):
    """n uniform points on the flat torus (R/Z)^d, as float64 (n, 2d).

    Each of d angles t_i in [0, 1) becomes (cos 2 pi t_i, sin 2 pi t_i) / (2 pi), so its volume is 1. It has no edge and
    no curvature; the straight-line distance r' is below the length r along it, r' = r (1 - O(r^2)).
    """
    _check(n, d)
    t = 2 * pi * np.random.default_rng(seed).random((n, d))
    return np.stack([np.cos(t), np.sin(t)], axis=2).reshape(n, 2 * d) / (2 * pi)


def parallel_tori(n, d, gap, seed=0):
    """n independent points on two parallel flat tori a distance `gap` apart, one class on each: K_F = 1 / gap.

    The smallest distance between the classes of a sample is above `gap` and tends to it.
    Returns float64 (n, 2d + 1), whose last coordinate is 0 or gap, and int64 labels (n,).
    """
    if not 0 < gap < inf:
        raise ValueError(f"gap={gap} is no distance between two classes; take a number above 0")
    points = flat_torus(n, d, seed)
    labels = np.random.default_rng([seed, 1]).integers(0, 2, n)
    return np.column_stack([points, gap * labels]), labels


def overlapping_clouds(n, d, seed=0):
    """Uniform points in [0, 1]^d with balanced labels that do not depend on position: K_F(M) ~ C M^(2/d).

    Returns float64 (n, d) and int64 labels (n,), 0 and 1.
    """
    _check(n, d)
    rng = np.random.default_rng(seed)
    points = rng.random((n, d))
    return points, rng.permutation(np.arange(n, dtype=np.int64) % 2)


def torus_images(n: int, d: int, size: int = 32, gap: float = 0.4, seed: int = 0):
    """Smooth images on a d-dimensional flat torus in pixel space, in two classes a known distance apart.

        image(t) = 1/2 + s * sum_i ( cos(t_i) A_i + sin(t_i) B_i ),        d angles t_i

    A_i, B_i are orthonormal low-frequency cosine patterns and s is the largest radius at which no image can leave
    [0, 1]. The label is the half circle of t_1. Two arcs of gap/2 radians, around 0 and pi, are left out: the classes
    are a chord 2 s sin(gap/4) apart, which rounding to 8 bits changes by at most size / 255.

    Returns uint8 (n, size, size), n/2 a class, and int64 labels (n,).
    """
    patterns = _patterns(n, d, 2 * d, size)
    if not 0 < gap < 2 * pi:
        raise ValueError(f"gap={gap} does not leave two separate arcs of a circle; take 0 < gap < 2 pi")
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n, dtype=np.int64) % 2)
    t = 2 * pi * rng.random((n, d))
    t[:, 0] = labels * pi + gap / 4 + (pi - gap / 2) * t[:, 0] / (2 * pi)
    a, b = patterns[0::2], patterns[1::2]
    scale = 0.5 / np.sqrt(a**2 + b**2).sum(axis=0).max()
    return _grey_levels(scale * (np.cos(t) @ a + np.sin(t) @ b), size), labels


def slab_images(n: int, d: int, size: int = 32, gap: float = 0.3, seed: int = 0):
    """Smooth images that fill a d-dimensional cube in pixel space, cut by a slab of known width.

        image(u) = 1/2 + s * sum_i u_i P_i,        u in [-1, 1]^d,  |u_1| >= gap/2

    P_i are orthonormal low-frequency cosine patterns. The label is the sign of u_1, and the classes are s * gap apart,
    0 < gap < 2. Unlike the torus the cube has edges, which lower estimates of d. The rest as in torus_images.
    """
    patterns = _patterns(n, d, d, size)
    if not 0 < gap < 2:
        raise ValueError(f"gap={gap} does not leave two parts of [-1, 1]; take 0 < gap < 2")
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n, dtype=np.int64) % 2)
    u = 2 * rng.random((n, d)) - 1
    u[:, 0] = (2 * labels - 1) * (gap / 2 + (1 - gap / 2) * (u[:, 0] + 1) / 2)
    scale = 0.5 / np.abs(patterns).sum(axis=0).max()
    return _grey_levels(scale * u @ patterns, size), labels


def _patterns(n, d, count, size):
    """`count` orthonormal cosine patterns (count, size * size): lowest frequencies, without the constant."""
    _check(n, d)
    if n < 2:
        raise ValueError(f"n={n} leaves a class without an image; take n >= 2")
    if size != int(size) or count > (size // 2) ** 2 - 1:
        raise ValueError(f"size={size} has no {count} smooth patterns for d={d}; take a larger size or smaller d")
    position = (np.arange(size) + 0.5) / size
    waves = np.cos(pi * np.arange(size)[:, None] * position) * sqrt(2 / size)
    waves[0] /= sqrt(2)
    order = sorted(product(range(size // 2), repeat=2), key=lambda f: (f[0] ** 2 + f[1] ** 2, f))[1:]
    return np.stack([np.outer(waves[row], waves[column]).ravel() for row, column in order[:count]])


def _grey_levels(deviation, size):
    """uint8 (n, size, size) from deviations from mid-grey, within [-1/2, 1/2] by construction."""
    return np.clip(np.rint(255 * (0.5 + deviation)), 0, 255).astype(np.uint8).reshape(-1, size, size)


def _check(n, d):
    for name, value in (("n", n), ("d", d)):
        if value != int(value) or value < 1:
            raise ValueError(f"{name}={value} makes no manifold here; take a whole number, at least 1")
