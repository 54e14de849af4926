"""The closest pairs of points with different labels, or with equal ones, as a list; and lookups of subsets in it."""

from dataclasses import dataclass, replace
from functools import cached_property
from threading import Lock

import numpy as np

from intrinsic.properties.products import Points, as_labels, as_points, full_precision
from intrinsic.properties.selection import collect, compiled, in_threads, unknown

PAIRS = 200_000  # pairs that are listed, at least
SAME_PAIRS = 20_000  # pairs with equal labels that are listed, for each class: enough for subsamples


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of points, the closest first, equal ones in order of i, then j."""

    i: np.ndarray  # int64 (m,)
    j: np.ndarray  # int64 (m,), i < j
    distance: np.ndarray  # float64 (m,)
    complete: bool  # whether these are all pairs of the kind
    points: Points
    codes: np.ndarray  # label of each point, a number
    same: bool  # whether the pairs are those with equal labels

    def __len__(self):
        return len(self.i)

    @cached_property
    def sharpness(self):
        """1 / distance, float64 (m,)."""
        with np.errstate(divide="ignore"):
            return 1 / self.distance

    def part(self, rows):
        """Some of these pairs, by a mask or indices, as if there were no others."""
        return replace(self, i=self.i[rows], j=self.j[rows], distance=self.distance[rows], complete=True)

    def between(self, group):
        """The pairs of two groups; all where groups are None."""
        return self if group is None else self.part(group[self.i] != group[self.j])

    def within(self, chosen):
        """(sharpness, (i, j)) of the closest pair in a subset, a mask or indices; (0, None) where there is none.

        It is the first in the list that has both its ends there. Where the list holds none, the subset is searched.
        """
        inside = np.zeros(self.points.n, dtype=bool)
        inside[chosen] = True
        m = _first(self.i, self.j, (~inside).astype(np.int64), np.array([1]))[0]
        if m >= 0:
            return float(self.sharpness[m]), (int(self.i[m]), int(self.j[m]))
        if self.complete or inside.sum() < 2:
            return 0.0, None
        rows = np.flatnonzero(inside)
        found = closest_pairs(self.points.take(rows), self.codes[rows], same=self.same, count=1)
        if not len(found):
            return 0.0, None
        return float(found.sharpness[0]), (int(rows[found.i[0]]), int(rows[found.j[0]]))

    def nested(self, rank, sizes):
        """Sharpness of the points of rank below M, for each M of ascending sizes; 0 where there is no pair."""
        found = zip(_first(self.i, self.j, rank, np.asarray(sizes)), sizes, strict=True)
        return np.array([self.sharpness[m] if m >= 0 else self.within(rank < size)[0] for m, size in found])


@compiled()
def _first(i, j, rank, sizes):
    """Place of the first pair of rank below M, for each M of ascending sizes; -1 where there is none."""
    at, left = np.full(len(sizes), -1), len(sizes)  # the largest subset is found first
    for m in range(len(i)):
        worst = max(rank[i[m]], rank[j[m]])
        while left > 0 and worst < sizes[left - 1]:
            left -= 1
            at[left] = m
        if left == 0:
            break
    return at


def closest_pairs(x, labels, *, same=False, count=None) -> Pairs:
    """The closest pairs with different labels (`same`: with equal ones); the points keep them.

    x        as for neighbors
    labels   one a point
    count    how many; by default at least 200,000 and 20 n, or 20,000 a class of equal labels
    """
    points = as_points(x)
    classes, codes = np.unique(as_labels(labels, points.n), return_inverse=True)
    count = count or (SAME_PAIRS * len(classes) if same else max(PAIRS, 20 * points.n))
    key = codes.tobytes(), same, count
    if key not in points.lists:
        squared, i, j, complete = _closest(points, codes.astype(np.int32), same, count)
        distance = points.distance(squared)
        order = np.lexsort((i * points.n + j, distance))
        points.lists[key] = Pairs(i[order], j[order], distance[order], complete, points, codes, same)
    return points.lists[key]


def _closest(points, codes, same, count):
    """Squared distances, i, j of the closest pairs, and whether these are all.

    A pair of floats that is not proposed has a score of at least the limit of the proposals, so those below it are
    certain; should they be too few, more are proposed.
    """
    if points.integers:
        squared, i, j, limit = _collected(points.route(), codes, same, count)
        return squared, i, j, limit == np.inf
    for fine, wanted in ((False, count + max(64, count // 8)), (True, 4 * count + 1000), (True, 32 * count + 10_000)):
        _, i, j, limit = _collected(route := points.route(fine), codes, same, wanted)
        squared = points.differences(i, j)
        certain = np.flatnonzero(squared < route.lower(limit))
        if limit == np.inf or len(certain) >= count:
            break
    else:
        certain = np.arange(len(i))  # so many are at one distance that products cannot order them
    best = certain[_smallest(squared[certain], i[certain], j[certain], count)]
    return squared[best], i[best], j[best], limit == np.inf and len(squared) <= count


def _smallest(score, i, j, count):
    """Which have the `count` smallest scores, in no order; equal ones by i, then j."""
    if len(score) <= count:
        return np.arange(len(score))
    limit = np.partition(score, count - 1)[count - 1]
    below, equal = np.flatnonzero(score < limit), np.flatnonzero(score == limit)
    equal = equal[np.lexsort((j[equal], i[equal]))[: count - len(below)]]
    return np.concatenate([below, equal])


def _collected(route, codes, same, count):
    """(scores, i, j) of the `count` smallest scores, and the largest of them: infinite if all are listed."""
    n, beyond, lock, parts = route.points.n, unknown(route.norm.dtype), Lock(), route.parts()
    capacity = min(4 * count, n * (n - 1) // 2) + max(b.stop - b.start for _, b in parts) ** 2
    columns = np.empty(capacity), np.empty(capacity, dtype=np.int64), np.empty(capacity, dtype=np.int64)
    size, limit = 0, np.inf

    def shorten():
        nonlocal size, limit
        if size > count:
            near = _smallest(*(column[:size] for column in columns), count)
            size, limit = count, columns[0][near].max()
            for column in columns:
                column[:count] = column[near]

    def look(part):
        nonlocal size
        tile = route.product(*part).numpy()
        sides = (values[side] for side in part for values in (route.norm, codes))
        with lock:
            if size + tile.size > capacity:
                shorten()
            size = collect(tile, *sides, *(side.start for side in part), same, limit, beyond, size, *columns)

    with full_precision():
        in_threads(look, parts)
    shorten()
    return *(column[:size].copy() for column in columns), limit
