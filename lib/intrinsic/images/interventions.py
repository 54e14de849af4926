"""Labelled images of which one property is set and the others are held: sets for controlled experiments.

The label alternates along one direction in stripes. PAIRS of images face each other across a boundary, and set K_F
whatever else changes. At one seed sets share what the change leaves alone.
"""

import numpy as np

from intrinsic.images import manifolds

PAIRS = 12
SPAN = 8  # patterns, of which d take part


def striped_images(
    n: int,
    d: int,
    size: int = 16,
    margin: float = 0.1,
    pair_margin: float | None = None,
    stripes: int = 2,
    axis: int = 0,
    random_labels: bool = False,
    seed: int = 0,
):
    """Smooth images that fill a d-dimensional cube in pixel space, cut by parallel slabs into stripes.

        image(t) = 1/2 + sum_i t_i P_i,        t in [-s, s]^d

    P_i are the first SPAN orthonormal cosine patterns and s is the largest half side at which no image of SPAN
    coordinates can leave [0, 1]. Coordinate t_axis is cut by stripes - 1 slabs of width `margin`. The pairs are one
    image on either side of a slab.

    margin         L2 distance that all other images keep between the classes, images in [0, 1]
    pair_margin    of the pairs, at most margin; None: margin
    random_labels  True: images as they are, labels permuted; a control in which the label says nothing
    Returns uint8 (n, size, size), int64 labels (n,), n/2 a class, and int64 groups (n,): a pair is one group, any other
    image its own.
    """
    pair_margin = _checked(n, margin, pair_margin, stripes)
    if d != int(d) or not 1 <= d <= SPAN or not 0 <= axis < d:
        raise ValueError(f"d={d} and axis={axis} do not fit; take axis < d <= {SPAN}")
    patterns = manifolds._patterns(n, SPAN, SPAN, size)
    half = 0.5 / np.abs(patterns).sum(axis=0).max()
    width = (2 * half - (stripes - 1) * margin) / stripes
    if width <= 0:
        raise ValueError(f"margin={margin} leaves no width of {stripes} stripes of a side {2 * half:.3g}; take less")
    rng = np.random.default_rng(seed)
    u = rng.random((n, SPAN))
    labels = np.arange(n, dtype=np.int64) % 2
    order = rng.permutation(n)
    u[1 : 2 * PAIRS : 2] = u[0 : 2 * PAIRS : 2]
    t = half * (2 * u[:, :d] - 1)
    t[:, [0, axis]] = t[:, [axis, 0]]
    place = u[:, 0] * (stripes // 2)
    stripe = labels + 2 * np.floor(place).astype(np.int64)
    t[:, axis] = -half + stripe * (width + margin) + (place % 1) * width
    slab = np.arange(PAIRS) % (stripes - 1)
    middle = -half + (slab + 1) * (width + margin) - margin / 2
    for side in (0, 1):  # the lower side of slab b is stripe b, of label b % 2
        t[2 * np.arange(PAIRS) + (slab + side) % 2, axis] = middle + (2 * side - 1) * pair_margin / 2
    groups = np.where(np.arange(n) < 2 * PAIRS, np.arange(n) // 2, np.arange(n))
    labels, groups = labels[order], groups[order]
    if random_labels:
        labels = rng.permutation(labels)
    return manifolds._grey_levels(t[order] @ patterns[:d], size), labels, groups


def striped_labels(points, n, margin, pair_margin=None, stripes=2, axis=0, random_labels=False, seed=0):
    """n of the given points, labelled in stripes along a principal component, classes held `margin` apart.

    Points (m, D) are ranked along principal component `axis`; stripes of equal count alternate in label. Pairs are
    disjoint closest pairs across classes at no less than pair_margin. Points nearer than margin to the other class are
    left out: first those near a pair's points, then greedily the one with most such neighbors. The set is the pairs,
    and of the rest the first in one seeded order, until a class has n/2.

    margin, pair_margin, random_labels   as in striped_images; K_F is at most 1 / pair_margin
    Returns rows, labels and groups, int64 (n,). Raises ValueError where too few points are left.
    """
    pair_margin = _checked(n, margin, pair_margin, stripes)
    points = np.asarray(points, dtype=np.float64)
    m = len(points)
    _, _, components = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)
    rank = np.argsort(np.argsort(points @ components[axis], kind="stable"), kind="stable")
    if np.median(points @ components[axis]) < 0:  # the sign of a component is arbitrary
        rank = m - 1 - rank
    label = (rank * stripes // m % 2).astype(np.int64)
    sides = [np.flatnonzero(label == side) for side in (0, 1)]
    distance = _distances(points[sides[0]], points[sides[1]])
    first, second = _facing(distance, pair_margin, margin)
    near = distance < margin
    kept = [~near[:, second].any(axis=1), ~near[first].any(axis=0)]
    kept[0][first] = kept[1][second] = False
    _part(near, kept)
    rng = np.random.default_rng(seed)
    order = rng.permutation(m)
    rows = []
    for side, paired in enumerate((first, second)):
        inside = np.zeros(m, dtype=bool)
        inside[sides[side][kept[side]]] = True
        others = order[inside[order]][: n // 2 - PAIRS]
        if len(others) < n // 2 - PAIRS:
            raise ValueError(f"margin={margin} leaves {inside.sum()} points of label {side}, for n={n}; take less")
        rows.append(np.concatenate([sides[side][paired], others]))
    chosen = np.concatenate(rows)
    one = np.arange(n // 2)
    groups = np.concatenate([one, np.where(one < PAIRS, one, one + n // 2)])
    labels = label[chosen]
    shuffled = rng.permutation(n)
    if random_labels:
        labels = rng.permutation(labels)
    return chosen[shuffled], labels[shuffled], groups[shuffled]


def _checked(n, margin, pair_margin, stripes):
    """pair_margin, with its default; ValueError for what makes no set."""
    pair_margin = margin if pair_margin is None else pair_margin
    if n % 2 or n < 2 * PAIRS:
        raise ValueError(f"n={n} images do not hold two equal classes and {PAIRS} pairs; take an even n >= {2 * PAIRS}")
    if not 0 < pair_margin <= margin:
        raise ValueError(f"pair_margin={pair_margin} and margin={margin}: take 0 < pair_margin <= margin")
    if stripes < 2 or stripes % 2:
        raise ValueError(f"stripes={stripes} do not make two classes alike; take an even number, at least 2")
    return pair_margin


def _distances(a, b):
    """Euclidean distances (len(a), len(b)) in float64, as the published sets were chosen by."""
    squared = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
    return np.sqrt(np.maximum(squared, 0))


def _facing(distance, least, apart):
    """Rows and columns of PAIRS disjoint smallest entries >= least, every other entry between them being >= apart."""
    rows, columns = [], []
    i, j = np.nonzero(distance >= least)
    nearest = np.argpartition(distance[i, j], min(len(i) - 1, 20_000))[:20_000]
    nearest = nearest[np.argsort(distance[i, j][nearest], kind="stable")]
    for a, b in zip(i[nearest], j[nearest], strict=True):
        if len(rows) == PAIRS:
            break
        free = a not in rows and b not in columns
        if free and (distance[a, columns] >= apart).all() and (distance[rows, b] >= apart).all():
            rows.append(a)
            columns.append(b)
    if len(rows) < PAIRS:
        raise ValueError(f"only {len(rows)} of {PAIRS} pairs at a distance of at least {least} fit; take a smaller one")
    return np.array(rows, dtype=np.int64), np.array(columns, dtype=np.int64)


def _part(near, kept):
    """Take points out of `kept` (bool for rows, bool for columns; changed) until no entry of `near` is between them."""
    left = near & kept[0][:, None] & kept[1]
    of_rows, of_columns = left.sum(axis=1), left.sum(axis=0)
    while of_rows.max(initial=0) > 0:
        i, j = of_rows.argmax(), of_columns.argmax()
        if of_rows[i] >= of_columns[j]:
            kept[0][i], of_rows[i] = False, 0
            of_columns -= left[i]
            left[i] = False
        else:
            kept[1][j], of_columns[j] = False, 0
            of_rows -= left[:, j]
            left[:, j] = False
