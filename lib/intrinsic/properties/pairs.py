"""The closest pairs of points with different labels, or with equal ones, as a list; and lookups of subsets in it."""

from dataclasses import dataclass
from functools import cached_property
from threading import Lock

import numpy as np

from intrinsic.properties.neighbors import as_labels, device_of, parts_of
from intrinsic.properties.products import as_points, full_precision
from intrinsic.properties.selection import collect, compiled, in_threads, unknown

PAIRS = 200_000  # pairs that are listed, at least
SAME_PAIRS = 20_000  # pairs with equal labels that are listed, for each class: enough for subsamples


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of points, the closest first, equal ones in order of i, then j.

    i, j       int64 (m,), i < j
    distance   float64 (m,)
    complete   True if these are all pairs of the kind
    """

    i: np.ndarray
    j: np.ndarray
    distance: np.ndarray
    complete: bool

    def __len__(self):
        return len(self.i)

    @cached_property
    def sharpness(self):
        """1 / distance, float64 (m,)."""
        with np.errstate(divide="ignore"):
            return 1 / self.distance

    def part(self, rows):
        """Some of these pairs, by a mask or indices."""
        return Pairs(self.i[rows], self.j[rows], self.distance[rows], self.complete)


def closest_pairs(x, labels, *, same=False, count=None, device="auto") -> Pairs:
    """The closest pairs with different labels (`same`: with equal ones), as Pairs.

    x        as for neighbors
    labels   one a point
    count    how many; by default at least 200,000 and 20 n, or 20,000 a class of equal labels
    """
    points = as_points(x)
    classes, codes = np.unique(as_labels(labels, points.n), return_inverse=True)
    default = SAME_PAIRS * len(classes) if same else max(PAIRS, 20 * points.n)
    squared, i, j, complete = _closest(points, codes.astype(np.int32), same, count or default, device_of(device))
    distance = points.distance(squared)
    order = np.lexsort((i * points.n + j, distance))
    return Pairs(i[order], j[order], distance[order], complete)


def _closest(points, codes, same, count, device):
    """Squared distances, i, j of the closest pairs, and whether these are all.

    A pair of floats that is not proposed has a score of at least the limit of the proposals, so those below it are
    certain; should they be too few, more are proposed, and then by float64.
    """
    with full_precision():
        for route in points.routes(device):
            several = (count + max(64, count // 8), 4 * count + 1000, 32 * count + 10_000)
            for wanted in (count,) if route.exact else several:
                squared, i, j, limit = _collected(route, codes, same, wanted)
                if route.exact or not len(i):
                    return squared, i, j, limit == np.inf
                squared = points.differences(i, j)
                known = squared < (np.inf if limit == np.inf else route.lower(np.array(limit)))
                if limit == np.inf or known.sum() >= count:
                    known = np.flatnonzero(known)
                    known = known[_smallest(squared[known], i[known], j[known], count)]
                    return squared[known], i[known], j[known], limit == np.inf and len(squared) <= count
    best = _smallest(squared, i, j, count)  # so many are at one distance that float64 products cannot order them
    return squared[best], i[best], j[best], False


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
    n, beyond, lock, parts = route.points.n, unknown(route.norm.dtype), Lock(), parts_of(route)
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

    in_threads(look, parts)
    shorten()
    return *(column[:size].copy() for column in columns), limit


# -------------------------------------------------------------------------------------- the closest in subsets


class Lookup:
    """The closest pair within a subset: the first in a list of closest pairs that has both its ends there.

    same   whether the list is of pairs with equal labels. Where it holds none of the subset, the subset is searched.
    """

    def __init__(self, points, codes, pairs, same=False):
        self.points, self.codes, self.pairs, self.same = points, codes, pairs, same

    def __call__(self, inside):
        """(sharpness, (i, j)) of the subset given by a mask; (0, None) where it has no such pair."""
        (m,), pairs = self._listed((~inside).astype(np.int64), [1]), self.pairs
        if m >= 0:
            return float(pairs.sharpness[m]), (int(pairs.i[m]), int(pairs.j[m]))
        if pairs.complete or inside.sum() < 2:
            return 0.0, None
        rows = np.flatnonzero(inside)
        found = closest_pairs(self.points.take(rows), self.codes[rows], same=self.same, count=1)
        if not len(found):
            return 0.0, None
        return float(found.sharpness[0]), (int(rows[found.i[0]]), int(rows[found.j[0]]))

    def at(self, chosen):
        """The same of a subset given by indices."""
        inside = np.zeros(self.points.n, dtype=bool)
        inside[chosen] = True
        return self(inside)

    def nested(self, rank, sizes):
        """Sharpness of the points of rank below M, for each M of ascending sizes; 0 where there is no pair."""
        found = zip(self._listed(rank, sizes), sizes, strict=True)
        return np.array([self.pairs.sharpness[m] if m >= 0 else self(rank < size)[0] for m, size in found])

    def _listed(self, rank, sizes):
        """Place in the list of the first pair of rank below M, for each M of ascending sizes; -1 where it has none."""
        at = np.full(len(sizes), -1)
        _nested(self.pairs.i, self.pairs.j, rank, np.asarray(sizes), at)
        return at


@compiled()
def _nested(i, j, rank, sizes, at):
    left = len(sizes)  # the largest subset is found first
    for m in range(len(i)):
        worst = max(rank[i[m]], rank[j[m]])
        while left > 0 and worst < sizes[left - 1]:
            left -= 1
            at[left] = m
        if left == 0:
            return
