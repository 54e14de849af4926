"""One exact pass over all pairs: nearest neighbors and nearest points of another label.

uint8 images: squared distances are whole numbers, with no rounding at all. Other points: each distance is a float64 sum
of squared differences, at most a relative (D + 2) 2^-53 off. A tile of products serves its rows, and its columns too
where it lies off the diagonal. `products` says how tiles are made, `selection` what is kept of them. Results are the
same, bit for bit, whatever the tiles and wherever they are made.
"""

from dataclasses import dataclass, field
from functools import cached_property
from threading import Lock

import numpy as np
import torch
from tqdm import tqdm

from intrinsic.properties.products import BadPoints, Points, as_points, full_precision
from intrinsic.properties.selection import in_threads, offer, unknown

OPPOSITES = 16  # points of another label that a deeper pass holds for each point
RELATIVE_ERROR = 1e-9  # of a distance between float points, at most
BLOCK = {"cpu": 512, "cuda": 2048}  # rows and columns of a tile; 1 MiB of int32 fits into a core's own cache
TILE_BYTES = 2**26  # of converted rows that a tile may take where they are not held
FEW = 64  # points that differences alone settle in less time than a finer route takes to prepare

__all__ = ["BadPoints", "Neighbors", "Points", "as_points", "neighbors"]


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
    device: torch.device = field(repr=False)

    @property
    def n(self):
        """How many points there are."""
        return self.points.n

    @property
    def k(self):
        """How many neighbors of each point are known."""
        return self.distances.shape[1]

    @cached_property
    def pairs(self):
        """The closest pairs with different labels, as Pairs, over all groups."""
        from intrinsic.properties.pairs import closest_pairs

        return closest_pairs(self.points, self.labels, device=self.device)

    @cached_property
    def same_pairs(self):
        """The closest pairs with equal labels, as Pairs."""
        from intrinsic.properties.pairs import closest_pairs

        return closest_pairs(self.points, self.labels, same=True, device=self.device)

    def nearest(self, count):
        """(distances, indices), each (n, count), of the nearest neighbors beyond k too; infinity and -1 beyond all."""
        return self._deepened(0, min(count, self.n - 1))

    def opposites(self, count=OPPOSITES):
        """(distances, indices), each (n, count), of the nearest points with another label."""
        return self._deepened(1, min(count, self.n))

    def _deepened(self, which, count):
        sizes = [found[0].shape[1] for found in self._lists]
        if count > sizes[which]:
            sizes[which] = count
            self._lists[:] = _search(self.points, self._keys, sizes, self.device)
        return tuple(part[:, :count] for part in self._lists[which])

    def subset(self, chosen, k=None):
        """Neighbors of the points at an index array among themselves; indices count within `chosen`."""
        labels, group = (None if part is None else part[chosen] for part in (self.labels, self.group))
        points, k = self.points.take(chosen), self.k if k is None else k
        return neighbors(points, k, labels, group=group, exclude_group=self.excludes_group, device=self.device)


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
    points = as_points(x)
    labels, group = labels_and_group(x, labels, group, points.n)
    n, where = points.n, device_of(device)
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
    found = _search(points, keys, (min(n - 1, max(k, reserve)), q), where, progress)
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
        device=where,
    )


# ---------------------------------------------------------------------------------------------- what is given


def as_labels(labels, n, name="labels"):
    """One-dimensional labels, numbers or texts, one a point; raises BadPoints."""
    if hasattr(labels, "detach"):
        labels = labels.detach().cpu().numpy()
    labels = np.asarray(labels)
    if labels.ndim != 1 or len(labels) != n:
        raise BadPoints(f"{name} have shape {labels.shape} for {n} points, so they cannot be matched: give one each")
    if labels.dtype.kind == "O" and all(isinstance(one, str) for one in labels):
        labels = labels.astype(str)
    if labels.dtype.kind == "O" or (labels.dtype.kind == "f" and not np.isfinite(labels).all()):
        raise BadPoints(f"some {name} are missing or no plain values, so they cannot be compared: give one each")
    return labels


def labels_and_group(x, labels, group, n):
    """(labels, group) of x, of n points: those given, else its own; each checked, or None. Groups become numbers."""
    if hasattr(x, "labels"):  # an ImageSet or Neighbors
        labels = x.labels if labels is None else labels
        group = x.group if group is None else group
    labels = None if labels is None else as_labels(labels, n)
    group = None if group is None else np.unique(as_labels(group, n, "groups"), return_inverse=True)[1]
    return labels, group


def device_of(device):
    """The torch device that "auto", "cpu", "cuda" or "cuda:1" means here; raises BadPoints."""
    if isinstance(device, str) and device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise BadPoints(f'device={device!r} is no device: give "auto", "cpu" or "cuda"') from error
    if found.type not in ("cpu", "cuda") or (found.type == "cuda" and not torch.cuda.is_available()):
        raise BadPoints(f'device="{device}" has no exact products here: give "auto" or "cpu"')
    return found


# ------------------------------------------------------------------------------------------------- the pass


def parts_of(route):
    """All pairs of blocks of points, as slices, each pair once; tiles are small for few points and for unheld rows."""
    n = route.points.n
    block = int(np.clip(-(-n // 8), 64, BLOCK[route.device.type]))
    if route.rows is None:
        block = int(np.clip(TILE_BYTES // (4 * route.points.dimensions), 8, block))
    blocks = [slice(start, min(start + block, n)) for start in range(0, n, block)]
    return [(a, b) for i, a in enumerate(blocks) for b in blocks[i:]]


def _search(points, keys, sizes, device, progress=False):
    """[(distances, indices)] of the nearest points, and of the nearest with another label: exact.

    keys    (group or index, class) of each point, int32: points with the same key do not count
    sizes   how many are wanted of both; infinity and -1 stand where there are no more
    Whole numbers are decided already. Proposals of floats are decided by differences; where too many are uncertain,
    all are proposed again in float64, and at last differences alone decide.
    """
    found, todo = None, []
    with full_precision():
        for route in points.routes(device):
            if found and len(todo) <= FEW:
                break
            lists, todo = _lists(route, keys, sizes, progress), []
            if route.exact:
                found = [(np.where(index < 0, np.inf, score), index) for score, index in lists]
                continue
            decided = [
                _decided(points, route.lower(score), index, size)
                for (score, index), size in zip(lists, sizes, strict=True)
            ]
            found = [(squared, near) for squared, near, _ in decided]
            todo = np.flatnonzero(~np.logical_and.reduce([certain for *_, certain in decided]))
    in_threads(lambda i: _alone(points, keys, found, i), todo)
    return [(points.distance(squared), near) for squared, near in found]


def _lists(route, keys, sizes, progress=False):
    """[(scores, indices)] of the candidates of each point, ascending, -1 where there are no more.

    A thread makes a tile by itself; while it shows the tile to the lists of its points, no other thread may.
    """
    n, norm, parts = route.points.n, route.norm, parts_of(route)
    beyond, lists = unknown(norm.dtype), []
    for size in sizes:
        spare = 0 if route.exact or not size else max(8, size // 2) if size > 1 else 3
        shape = n, min(n, size + spare)
        lists.append((np.full(shape, beyond), np.full(shape, -1)))
    locks = {b.start: Lock() for _, b in parts}
    bar = tqdm(total=len(parts), desc="distances", unit="tile", disable=not progress)

    def show(part):
        a, b = part
        tile = route.product(a, b)
        if a == b and route.exact and not np.array_equal(tile.diagonal(), norm[a]):
            raise ArithmeticError("a point is not at distance 0 from itself: this machine's matrix product rounds")
        for side, r, c in [(tile, a, b)] if a == b else [(tile, a, b), (tile.T.contiguous(), b, a)]:
            with locks[r.start]:
                for key, (score, index) in zip(keys, lists, strict=True):
                    if score.shape[1]:
                        offer(side.numpy(), norm[r], key[r], norm[c], key[c], c.start, beyond, score[r], index[r])
        bar.update()

    with bar:
        in_threads(show, parts)
    return lists


def _decided(points, bound, candidate, size):
    """(squared distances, indices, certain) of the `size` nearest candidates of each point, by differences.

    bound   ascending lower bounds of the candidates' squared distances; all other points have at least the last
    """
    if not size:
        return bound, candidate, np.ones(points.n, dtype=bool)
    rows = np.repeat(np.arange(points.n), candidate.shape[1])
    squared = points.differences(rows, candidate.ravel()).reshape(candidate.shape)
    squared[candidate < 0] = np.inf
    order = np.lexsort((candidate, squared))[:, :size]
    squared, near = np.take_along_axis(squared, order, 1), np.take_along_axis(candidate, order, 1)
    return squared, near, (candidate[:, -1] < 0) | (squared[:, -1] < bound[:, -1])


def _alone(points, keys, found, i):
    """Put the nearest points of point i where they belong, by differences of coordinates alone."""
    every = np.arange(points.n)
    all_squared = points.differences(np.full(points.n, i), every)
    for (squared, near), key in zip(found, keys, strict=True):
        others = every[key != key[i]]
        order = others[np.argsort(all_squared[others], kind="stable")][: squared.shape[1]]
        squared[i, : len(order)], near[i, : len(order)] = all_squared[order], order
