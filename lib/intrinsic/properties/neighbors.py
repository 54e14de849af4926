"""One exact pass over all pairs: nearest neighbors and nearest points of another label.

uint8 images: squared distances are whole numbers, with no rounding at all. Other points: each distance is a float64 sum
of squared differences, at most a relative (D + 2) 2^-53 off. A tile of products serves its rows, and its columns too
where it lies off the diagonal. `products` says how tiles are made, `selection` what is kept of them. Results are the
same, bit for bit, whatever the tiles and wherever they are made.
"""

from dataclasses import dataclass, field
from threading import Lock

import numpy as np
from tqdm import tqdm

from intrinsic.properties.products import BadPoints, Points, as_points, full_precision, labels_and_group
from intrinsic.properties.selection import in_threads, offer, unknown

FEW = 64  # points that differences alone settle in less time than float64 takes to propose
OPPOSITES = 16  # points of another label that a deeper pass holds for each point
RELATIVE_ERROR = 1e-9  # of a distance between float points, at most


@dataclass(frozen=True, eq=False)
class Neighbors:
    """The k nearest neighbors of every point, and the nearest point with another label."""

    distances: np.ndarray  # float64 (n, k), ascending; self is left out by index, so copies are at distance 0
    indices: np.ndarray  # int64 (n, k); equal distances are in order of index
    opposite_distance: np.ndarray | None  # float64 (n,), infinity where all labels are equal; None without labels
    opposite_index: np.ndarray | None  # int64 (n,), -1 where all labels are equal; None without labels
    labels: np.ndarray | None
    group: np.ndarray | None
    excludes_group: bool  # whether points of the same group do not count as neighbors
    points: Points = field(repr=False)
    _keys: tuple = field(repr=False)
    _lists: list = field(repr=False)  # distances, indices (n, reserve) of near points; the same (n, q) of opposite ones

    @property
    def n(self):
        """How many points there are."""
        return self.points.n

    @property
    def k(self):
        """Neighbors of each point."""
        return self.distances.shape[1]

    def nearest(self, count):
        """(distances, indices), each (n, count), of the nearest neighbors beyond k too; infinity and -1 beyond all."""
        return self._deepened(0, min(count, self.n - 1))

    def opposites(self, count):
        """(distances, indices), each (n, count), of the nearest points with another label."""
        return self._deepened(1, min(count, self.n))

    def elsewhere(self, group):
        """(distance, index), each (n,), of the nearest point whose number in `group` is another one."""
        distances, index = self._lists[0]
        other = group[index] != group[:, None]
        if not other.any(axis=1).all():  # a group that fills a list
            apart = neighbors(self.points, 1, group=group, exclude_group=True)
            return apart.distances[:, 0], apart.indices[:, 0]
        first = np.arange(self.n), other.argmax(axis=1)
        return distances[first], index[first]

    def _deepened(self, which, count):
        sizes = [found[0].shape[1] for found in self._lists]
        if count > sizes[which]:
            sizes[which] = count
            self._lists[:] = _search(self.points, self._keys, sizes)
        return tuple(part[:, :count] for part in self._lists[which])

    def subset(self, chosen, k):
        """Neighbors of the points at an index array among themselves; indices count within `chosen`."""
        labels, group = (None if part is None else part[chosen] for part in (self.labels, self.group))
        return neighbors(self.points.take(chosen), k, labels, group=group, exclude_group=self.excludes_group)


def neighbors(
    x, k=20, labels=None, *, group=None, exclude_group=False, device="auto", reserve=0, progress=False
) -> Neighbors:
    """Find the k nearest neighbors of every point and its nearest point with another label, exactly, in one pass.

    Parameters
    ----------
    x : ImageSet, array or tensor
        uint8 images, whose distances are those of pixels in [0, 1]; or points (n, D) in their own unit. A
        memory-mapped array stays on disk.
    k : int
        Neighbors of each point, 1 <= k < n.
    labels, group : array (n,), optional
        One value a point, numbers or texts. An ImageSet has its own.
    exclude_group : bool
        Points of the same group do not count as neighbors; they do count as points with another label.
    device : str
        "auto" takes a GPU if there is one; "cpu", "cuda", "cuda:1".
    reserve : int
        Neighbors to hold beyond k, for half-sample intervals; `dimension.reserve(k)` says how many.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Neighbors

    Raises
    ------
    BadPoints
        Points without distances, labels or groups that do not fit, or a k that is too large.

    Examples
    --------
    >>> import numpy as np
    >>> near = neighbors(np.array([[0.0], [1.0], [3.0], [7.0]]), 2, labels=["a", "a", "b", "b"])
    >>> near.distances[:, 0], near.opposite_distance
    (array([1., 1., 2., 4.]), array([3., 2., 2., 6.]))
    """
    points = as_points(x, device)
    n, (labels, group) = points.n, labels_and_group(x, labels, group, points.n)
    if isinstance(k, bool) or int(k) != k or k < 1:
        raise BadPoints(f"k={k} is no number of neighbors: give a whole number, at least 1")
    if k >= n:
        raise BadPoints(f"k={k} neighbors were asked for and a point has {n - 1} others: give k below {n}")
    if exclude_group and group is None:
        raise BadPoints("exclude_group=True needs to know the groups, and there are none: give group=")
    k, codes = int(k), np.zeros(n, dtype=np.int32)
    if labels is not None:
        codes = np.unique(labels, return_inverse=True)[1].astype(np.int32)
    keys = (group if exclude_group else np.arange(n)).astype(np.int32), codes
    q = 0 if labels is None else min(n, OPPOSITES if reserve else 1)
    found = _search(points, keys, (min(n - 1, max(k, reserve)), q), progress)
    (distances, indices), opposite = found
    few = int((indices[:, k - 1] < 0).sum())
    if few:
        raise BadPoints(f"{few} of {n} points have fewer than {k} points outside their group: give a smaller k")
    return Neighbors(
        distances=distances[:, :k],
        indices=indices[:, :k],
        opposite_distance=None if labels is None else opposite[0][:, 0],
        opposite_index=None if labels is None else opposite[1][:, 0],
        labels=labels,
        group=group,
        excludes_group=bool(exclude_group),
        points=points,
        _keys=keys,
        _lists=found,
    )


def _search(points, keys, sizes, progress=False):
    """[(distances, indices)] of the nearest points, and of the nearest with another label: exact.

    keys    (group or index, class) of each point, int32: points with the same key do not count
    sizes   how many are wanted of both; infinity and -1 stand where there are no more
    Whole numbers are decided already. Differences of coordinates decide proposals of floats. Where many leave something
    open, all are proposed again in float64; what is open still is compared with all others.
    """
    found, todo = None, range(points.n)
    for fine in (False, True):
        if found and (points.integers or len(todo) <= FEW):
            break
        route = points.route(fine)
        lists, todo = _lists(route, keys, sizes, progress), ()
        if points.integers:
            found = [(np.where(index < 0, np.inf, score), index) for score, index in lists]
        else:
            decided = [_decided(route, *one, size) for one, size in zip(lists, sizes, strict=True)]
            found, certain = zip(*decided, strict=True)
            todo = np.flatnonzero(~(certain[0] & certain[1]))
    in_threads(lambda i: _alone(points, keys, found, i), todo)
    return [(points.distance(squared), near) for squared, near in found]


def _lists(route, keys, sizes, progress):
    """[(scores, indices)] of the candidates of each point, ascending, -1 where there are no more.

    A thread makes a tile by itself; while it shows the tile to the lists of its points, no other thread may.
    """
    points, norm, parts = route.points, route.norm, route.parts()
    beyond, lists = unknown(norm.dtype), []
    for size in sizes:
        spare = 0 if points.integers or not size else max(8, size // 2) if size > 1 else 3
        shape = points.n, min(points.n, size + spare)
        lists.append((np.full(shape, beyond), np.full(shape, -1)))
    locks = {b.start: Lock() for _, b in parts}
    bar = tqdm(total=len(parts), desc="distances", unit="tile", disable=not progress)

    def show(part):
        a, b = part
        tile = route.product(a, b)
        if a == b and points.integers and not np.array_equal(tile.diagonal(), norm[a]):
            raise ArithmeticError("a point is not at distance 0 from itself: this machine's matrix product rounds")
        for side, r, c in [(tile, a, b)] if a == b else [(tile, a, b), (tile.T.contiguous(), b, a)]:
            with locks[r.start]:
                for key, (score, index) in zip(keys, lists, strict=True):
                    if score.shape[1]:
                        offer(side.numpy(), norm[r], key[r], norm[c], key[c], c.start, beyond, score[r], index[r])
        bar.update()

    with bar, full_precision():
        in_threads(show, parts)
    return lists


def _decided(route, score, candidate, size):
    """((squared distances, indices), certain) of the `size` nearest candidates of each point, by differences."""
    points = route.points
    if not size:
        return (score, candidate), np.ones(points.n, dtype=bool)
    rows = np.repeat(np.arange(points.n), candidate.shape[1])
    squared = points.differences(rows, candidate.ravel()).reshape(candidate.shape)
    squared[candidate < 0] = np.inf
    order = np.lexsort((candidate, squared))[:, :size]
    squared, near = np.take_along_axis(squared, order, 1), np.take_along_axis(candidate, order, 1)
    certain = squared[:, -1] < route.lower(score[:, -1])  # all other points have at least the last score
    return (squared, near), certain | (candidate[:, -1] < 0)


def _alone(points, keys, found, i):
    """Put the nearest points of point i where they belong, by differences of coordinates alone."""
    every = np.arange(points.n)
    all_squared = points.differences(np.full(points.n, i), every)
    for (squared, near), key in zip(found, keys, strict=True):
        others = every[key != key[i]]
        order = others[np.argsort(all_squared[others], kind="stable")][: squared.shape[1]]
        squared[i, : len(order)], near[i, : len(order)] = all_squared[order], order
