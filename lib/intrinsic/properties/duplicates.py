"""Near-duplicates: which images belong together when patients or volumes are unknown.

Two rules link images. A pair is linked that is nearer than a smooth set allows. A family too large for that rule, such
as the frames of a video or the augmentations of a photograph, is linked where a wide empty space surrounds it.
"""

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.special import digamma

from intrinsic.properties.neighbors import Neighbors, as_points, neighbors

K = 64  # neighbors on whose scale a set is smooth
CHANCE = 0.02  # neighbors within t_i that are expected of a point that has no near-duplicate
CLOSED = 16  # neighbors of an image that are all in its family, in a large one
SPACE = 2.0  # distance from a large family to other images, over the largest CLOSED-th distance inside


def near_duplicate_links(x):
    """Pairs of near-duplicates: i, j (int64, i < j) and their distance, closest first.

    A pair is linked where  |x_i - x_j| < min(t_i, t_j)  or  = 0,       t_i = T_k(x_i) (CHANCE / k)^(1/d)

    T_k is the distance to the k-th neighbor, and d the dimension between the k/2-th and the k-th,
        d = (psi(k) - psi(k/2)) / mean_i log( T_k(x_i) / T_{k/2}(x_i) ),    psi the digamma function.
    Near a point of a d-dimensional set the number of neighbors within t grows as t^d, so that CHANCE of them are
    expected within t_i, at any d, density and scale. Links inside large families come on top.

    x   images, points or Neighbors; k is K, and (n - 1) / 2 at most
    Source: ours.
    """
    n = as_points(x).n
    k = max(1, min(K, (n - 1) // 2))
    usable = isinstance(x, Neighbors) and not x.excludes_group
    near = x if usable else neighbors(as_points(x), k)
    distances, index = near.nearest(k)
    limit = np.zeros(n)
    if k >= 4:
        outer, inner = distances[:, k - 1], distances[:, k // 2 - 1]
        spread = np.log(outer[inner > 0] / inner[inner > 0])
        if spread.any():
            d = (digamma(k) - digamma(k // 2)) / spread.mean()
            limit = outer * (CHANCE / k) ** (1 / d)
    linked = (distances < np.minimum(limit[:, None], limit[index])) | (distances == 0)
    if k > CLOSED:
        linked[:, :CLOSED] |= _in_families(near)
    i, column = np.nonzero(linked)
    ends = np.sort([i, index[i, column]], axis=0)
    _, first = np.unique(ends[0] * n + ends[1], return_index=True)
    (i, j), distance = ends[:, first], distances[i, column][first]
    order = np.lexsort((j, i, distance))
    return i[order], j[order], distance[order]


def _in_families(near):
    """Which of the CLOSED nearest neighbors of each point are in a large family with it, bool (n, CLOSED).

    The core of a family is a set of points that all reach each other from neighbor to neighbor, and nothing else. A
    point joins that has most of its neighbors in the family, at distances like theirs. A family is at most half of the
    set, and SPACE times as far from all other points as the CLOSED-th neighbor of any point of its core.
    """
    n, (distances, few) = near.n, near.nearest(CLOSED)
    ends = np.repeat(np.arange(n), CLOSED), few.ravel()
    graph = coo_array((np.ones(len(ends[0]), dtype=bool), ends), shape=(n, n))
    _, owner = connected_components(graph, connection="strong")
    size = np.bincount(owner)
    leaving = np.bincount(owner, (owner[few] != owner[:, None]).any(axis=1))
    core = (leaving == 0) & (size > CLOSED)
    inner = np.zeros(len(size))
    np.maximum.at(inner, owner, distances[:, CLOSED - 1])
    owner = np.where(core[owner], owner, -1)
    while True:
        known = owner[few]
        best = known.max(axis=1)
        joins = (owner < 0) & (best >= 0) & ((known == best[:, None]).sum(axis=1) > CLOSED // 2)
        joins &= distances[:, CLOSED - 1] < SPACE * inner[best]
        if not joins.any():
            break
        owner[joins] = best[joins]
    core &= 2 * np.bincount(owner[owner >= 0], minlength=len(core)) <= n
    owner = np.where((owner >= 0) & core[owner], owner, -1)
    mine = owner >= 0
    if not mine.any():
        return np.zeros(few.shape, dtype=bool)
    outside = near.elsewhere(np.where(mine, owner, len(size) + np.arange(n)))[0]  # others are on their own
    space = np.full(len(size), np.inf)
    np.minimum.at(space, owner[mine], outside[mine])
    family = np.zeros(n, dtype=bool)
    family[mine] = (space >= SPACE * inner)[owner[mine]]
    return family[:, None] & (owner[few] == owner[:, None])


def near_duplicate_components(x):
    """Families: the components of near_duplicate_links(x). They join some images of a patient, and rarely all."""
    return components(*near_duplicate_links(x)[:2], as_points(x).n)


def components(i, j, n):
    """Connected components of n points with links i, j: int64 (n,), numbered 0, 1, ... in order of index."""
    graph = coo_array((np.ones(len(i), dtype=bool), (i, j)), shape=(n, n))
    component = connected_components(graph, directed=False)[1]
    _, first, inverse = np.unique(component, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse].astype(np.int64)
