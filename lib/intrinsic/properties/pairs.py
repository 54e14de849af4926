"""The closest pairs of points with different labels, or with equal ones, as a list; and lookups of subsets in it."""

import math
from dataclasses import dataclass
from threading import Lock

import numpy as np

from intrinsic.properties.neighbors import Neighbors, as_labels, blocks_of, device_of, tile_of
from intrinsic.properties.products import as_points, full_precision
from intrinsic.properties.selection import collect, compiled, difference, in_threads, unknown

PAIRS = 200_000  # pairs that are listed, at least
SAME_PAIRS = 20_000  # pairs with equal labels that are listed, for each class
MOST_DIRECT = 2_000  # points up to which differences find a closest pair


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of points, the closest first, equal ones in order of i, then j.

    i, j       int64 (m,), i < j
    distance   float64 (m,)
    sharpness  float64 (m,), 1 / distance
    complete   True if these are all pairs of the kind
    """

    i: np.ndarray
    j: np.ndarray
    distance: np.ndarray
    sharpness: np.ndarray
    complete: bool

    def __len__(self):
        return len(self.i)

    def part(self, rows):
        """Some of these pairs, by a mask or indices."""
        return Pairs(self.i[rows], self.j[rows], self.distance[rows], self.sharpness[rows], self.complete)


def closest_pairs(x, labels=None, *, same=False, count=None) -> Pairs:
    """The `count` (at least 200,000 and 20 n, or all) closest pairs with different labels, as Pairs.

    x        as for neighbors; a Neighbors spares the products where it has kept them
    labels   one a point, by default those of x
    same     pairs with equal labels instead
    """
    points = as_points(x)
    labels = as_labels(x.labels if labels is None and hasattr(x, "labels") else labels, points.n)
    count = max(PAIRS, 20 * points.n) if count is None else count
    codes = np.unique(labels, return_inverse=True)[1].astype(np.int32)
    device, kept = (x._device, x._kept) if isinstance(x, Neighbors) else (device_of("auto"), None)
    squared, i, j, complete = _closest(points, codes, same, count, device, kept)
    distance = points.distance(squared)
    order = np.lexsort((i * points.n + j, distance))
    distance = distance[order]
    with np.errstate(divide="ignore"):
        return Pairs(i[order], j[order], distance, 1 / distance, complete)


def closest_same(x, labels):
    """The closest pairs with equal labels, SAME_PAIRS for each class: enough for subsamples."""
    return closest_pairs(x, labels, same=True, count=SAME_PAIRS * len(np.unique(labels)))


def _closest(points, codes, same, count, device, kept):
    """Squared distances, i, j of the closest pairs, and whether these are all.

    A pair of floats that is not proposed has a score of at least the limit of the proposals, so those below it are
    certain; should they be too few, more are proposed, and then by float64.
    """
    with full_precision():
        for route in points.routes(device):
            several = (count + max(64, count // 8), 4 * count + 1000, 32 * count + 10_000)
            for wanted in (count,) if route.exact else several:
                squared, i, j, limit = _collected(route, codes, same, wanted, kept)
                if route.exact or not len(i):
                    return squared, i, j, limit == np.inf
                squared = points.differences(i, j)
                known = squared < (np.inf if limit == np.inf else route.lower(np.array(limit)))
                if limit == np.inf or known.sum() >= count:
                    known = np.flatnonzero(known)
                    known = known[_smallest(squared[known], i[known], j[known], count)]
                    return squared[known], i[known], j[known], limit == np.inf and len(squared) <= count
            kept = None
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


def _collected(route, codes, same, count, kept):
    """(scores, i, j) of the `count` smallest scores, and the largest of them: infinite if all are listed."""
    n, beyond, lock = route.points.n, unknown(route.norm.dtype), Lock()
    blocks = blocks_of(route, n, 1024)
    capacity = min(4 * count, n * (n - 1) // 2) + max(block.stop - block.start for block in blocks) ** 2
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
        tile = np.ascontiguousarray(tile_of(route, part, kept).cpu().numpy())
        sides = (values[side] for side in part for values in (route.norm, codes))
        with lock:
            if size + tile.size > capacity:
                shorten()
            size = collect(tile, *sides, *(side.start for side in part), same, limit, beyond, size, *columns)

    in_threads(look, [(a, b) for i, a in enumerate(blocks) for b in blocks[i:]])
    shorten()
    return *(column[:size].copy() for column in columns), limit


# -------------------------------------------------------------------------------------- the closest in subsets


class Lookup:
    """The closest pair within a subset: the first in a list of closest pairs that has both its ends there.

    Where the list holds none, differences of coordinates decide.
    """

    def __init__(self, points, codes, pairs=None, same=False):
        self.points, self.codes, self.pairs, self.same = points, codes, pairs, same

    def __call__(self, inside):
        """(sharpness, (i, j)) of the subset given by a mask; (0, None) where it has no such pair."""
        if self.pairs is not None:
            m = _first(self.pairs.i, self.pairs.j, inside)
            if m >= 0:
                return float(self.pairs.sharpness[m]), (int(self.pairs.i[m]), int(self.pairs.j[m]))
            if self.pairs.complete:
                return 0.0, None
        rows = np.flatnonzero(inside)
        if len(rows) > MOST_DIRECT:
            found = closest_pairs(self.points.take(rows), self.codes[rows], same=self.same, count=1)
            i, j, distance = (found.i[0], found.j[0], float(found.distance[0])) if len(found) else (-1, -1, 0.0)
        else:
            squared, i, j = _direct(self.points.x, rows, self.codes[rows], self.same)
            distance = float(self.points.distance(squared))
        if i < 0:
            return 0.0, None
        return 1 / distance if distance else math.inf, (int(rows[i]), int(rows[j]))

    def at(self, chosen):
        """The same of a subset given by indices."""
        inside = np.zeros(self.points.n, dtype=bool)
        inside[chosen] = True
        return self(inside)

    def nested(self, rank, sizes):
        """Sharpness of the points of rank below M, for each M of ascending sizes; 0 where there is no pair."""
        at = np.full(len(sizes), -1)
        if self.pairs is not None:
            _nested(self.pairs.i, self.pairs.j, rank, sizes, at)
        found = zip(at, sizes, strict=True)
        return np.array([self.pairs.sharpness[m] if m >= 0 else self(rank < size)[0] for m, size in found])


@compiled()
def _first(i, j, inside):
    for m in range(len(i)):
        if inside[i[m]] and inside[j[m]]:
            return m
    return -1


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


@compiled()
def _direct(x, rows, codes, same):
    """Squared distance and places of the closest pair of some rows; a sum that exceeds the best so far is given up."""
    best, at_i, at_j, width = np.inf, -1, -1, x.shape[1]
    for a in range(len(rows)):
        for b in range(a + 1, len(rows)):
            if (codes[a] == codes[b]) != same:
                continue
            total, start = 0.0, 0
            while start < width and total < best:
                stop = min(start + 64, width)
                total += difference(x[rows[a], start:stop], x[rows[b], start:stop])
                start = stop
            if total < best:
                best, at_i, at_j = total, a, b
    return best, at_i, at_j
