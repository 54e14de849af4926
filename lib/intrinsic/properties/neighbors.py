"""One exact pass over all pairs: nearest neighbors and nearest points of another label.

- uint8 images: squared distances are whole numbers, with no rounding at all;
- other points: each distance is a float64 sum of squared differences, at most a relative (D + 2) 2^-53 off.

    rows    0 --------------------- n
    block 1 [diagonal][ tile ][ tile ]        a tile right of the diagonal serves its rows and its columns;
    block 2           [diagonal][tile]        a tile on the diagonal holds both orders and serves its rows
    block 3                 [diagonal]

`products` says how tiles are made, `selection` what is kept of them. Whatever the tiles and wherever they are made,
the results are the same, bit for bit.
"""

from dataclasses import dataclass, field
from functools import cached_property
from threading import Lock

import numpy as np
import torch
from tqdm import tqdm

from intrinsic.properties.products import BadPoints, Points, as_points, full_precision
from intrinsic.properties.selection import DeviceLists, Lists, in_threads

OPPOSITES = 16  # points of another label that a deeper pass holds for each point
RELATIVE_ERROR = 1e-9  # of a distance between float points, at most
KEEP_POINTS = 8_000  # up to here the tiles of a pass with labels are kept
BLOCK = {"cpu": 512, "cuda": 4096}  # rows and columns of a tile; 1 MiB of int32 fits into a core's own cache
TILE_BYTES = 2**26  # of converted rows that a tile may take where they are not held
FEW = 64  # points that differences alone settle in less time than a finer route takes to prepare

__all__ = ["BadPoints", "Neighbors", "Points", "as_points", "neighbors"]


@dataclass(frozen=True, eq=False)
class Neighbors:
    """The k nearest neighbors of every point, and the nearest point with another label.

    distances          float64 (n, k), ascending; self is left out by index, so copies are at distance 0
    indices            int64 (n, k); equal distances are in order of index
    opposite_distance  float64 (n,), to the nearest point with another label; infinity if there is none;
                       None without labels
    opposite_index     int64 (n,), -1 if there is none; None without labels
    labels, group      as given, or None
    n, dimensions      points and coordinates
    excludes_group     True if points of the same group do not count as neighbors
    points             the points themselves
    pairs              the closest pairs with different labels, over all groups, or None without labels
    """

    distances: np.ndarray
    indices: np.ndarray
    opposite_distance: np.ndarray | None
    opposite_index: np.ndarray | None
    labels: np.ndarray | None
    group: np.ndarray | None
    n: int
    dimensions: int
    excludes_group: bool
    points: Points = field(repr=False)
    _keys: tuple = field(repr=False)
    _lists: list = field(repr=False)  # distances, indices (n, reserve) of near points; the same (n, q) of opposite ones
    _device: torch.device = field(repr=False)
    _kept: dict | None = field(repr=False)

    def __len__(self):
        return self.n

    @property
    def k(self):
        """How many neighbors of each point are known."""
        return self.distances.shape[1]

    @cached_property
    def pairs(self):
        """The closest pairs with different labels, as Pairs: at least 200,000 and 20 n, or all there are."""
        from intrinsic.properties.pairs import closest_pairs

        return None if self.labels is None else closest_pairs(self)

    @cached_property
    def same_pairs(self):
        """The closest pairs with equal labels, as Pairs, or None without labels."""
        from intrinsic.properties.pairs import closest_same

        return None if self.labels is None else closest_same(self, self.labels)

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
            self._lists[:] = _search(self.points, self._keys, sizes, self._device, self._kept)
        return tuple(part[:, :count] for part in self._lists[which])

    def subset(self, chosen, k=None):
        """Neighbors of the points at an index array among themselves; indices count within `chosen`."""
        labels, group = (None if part is None else part[chosen] for part in (self.labels, self.group))
        points, k = self.points.take(chosen), self.k if k is None else k
        return neighbors(points, k, labels, group=group, exclude_group=self.excludes_group, device=self._device)


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
    kept = {} if labels is not None and n <= KEEP_POINTS and where.type == "cpu" else None
    found = _search(points, keys, (min(n - 1, max(k, reserve)), q), where, kept, progress)
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
        n=n,
        dimensions=points.dimensions,
        excludes_group=bool(exclude_group),
        points=points,
        _keys=keys,
        _lists=found,
        _device=where,
        _kept=kept,
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


def labels_and_group(x, labels, group, n=None):
    """(labels, group) of x, of n points: those given, else its own; each checked, or None. Groups become numbers."""
    n = len(x) if n is None else n
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


def blocks_of(route, n, largest=2**16):
    """Slices of n rows; tiles are small for few points, where the diagonal counts, and for unheld rows."""
    block = int(np.clip(-(-n // 8), 64, min(largest, BLOCK[route.device.type] * (1 if n <= KEEP_POINTS else 2))))
    if route.rows is None:
        block = int(np.clip(TILE_BYTES // (4 * route.points.dimensions), 8, block))
    return [slice(start, min(start + block, n)) for start in range(0, n, block)]


def _search(points, keys, sizes, device, kept=None, progress=False):
    """[(distances, indices)] of the nearest points, and of the nearest with another label: exact.

    keys    (group or index, class) of each point, int32: points with the same key do not count
    sizes   how many are wanted of both; infinity and -1 stand where there are no more
    Whole numbers are decided already. Proposals of floats are decided by differences; what is uncertain then is
    searched in float64, and at last by differences alone.
    """
    found = [(np.full((points.n, size), np.inf), np.full((points.n, size), -1)) for size in sizes]
    todo = np.arange(points.n)
    with full_precision():
        for route in points.routes(device):
            if not route.exact and len(todo) <= FEW:
                break
            rows = None if len(todo) > points.n // 2 else todo
            todo = np.arange(points.n) if rows is None else todo
            certain = np.ones(len(todo), dtype=bool)
            lists, kept = _lists(route, keys, sizes, rows, kept, progress), None
            for (squared, near), (score, candidate) in zip(found, lists, strict=True):
                if route.exact:
                    squared[:], near[:] = np.where(candidate < 0, np.inf, score), candidate
                elif squared.shape[1]:
                    decided = _decided(points, todo, route.lower(score), candidate, squared.shape[1])
                    squared[todo], near[todo], sure = decided
                    certain &= sure
            todo = todo[~certain]
    in_threads(lambda i: _alone(points, keys, found, i), todo if not route.exact else [])
    return [(points.distance(squared), near) for squared, near in found]


def _lists(route, keys, sizes, rows=None, kept=None, progress=False):
    """(scores, indices) of all points (each pair of blocks once) or of the points `rows`, by their products with all.

    kept   tiles by their first row and column, which are used if they are there, and else filled in
    A thread makes a tile by itself; while it shows the tile to the lists of its points, no other thread may.
    """
    n, kind = route.points.n, Lists if compiled_here(route) else DeviceLists
    sizes = [min(n, route.candidates(size)) if size else 0 for size in sizes]
    lists = [kind(route, key, size, rows) for key, size in zip(keys, sizes, strict=True)]
    across, down = blocks_of(route, n), blocks_of(route, n if rows is None else len(rows))
    parts = [(a, b) for i, a in enumerate(down) for b in across[i if rows is None else 0 :]]
    locks = {part.start: Lock() for part in across + down}
    bar = tqdm(total=len(parts), desc="distances", unit="tile", disable=not progress)

    def show(part):
        a, b = part
        tile = tile_of(route, part, kept) if rows is None else route.product(rows[a], b)
        if rows is None and a == b and route.exact and not np.array_equal(tile.diagonal().cpu(), route.norm[a]):
            raise ArithmeticError("a point is not at distance 0 from itself: this machine's matrix product rounds")
        sides = [(tile, a, b)] if rows is not None or a == b else [(tile, a, b), (tile.T.contiguous(), b, a)]
        for side in sides:
            with locks[side[1].start]:
                for one, size in zip(lists, sizes, strict=True):
                    if size:
                        one.show(*side)
        bar.update()

    with bar:
        in_threads(show, parts if route.device.type == "cpu" else [])
        for part in parts if route.device.type != "cpu" else []:
            show(part)
    return [one.found() for one in lists]


def compiled_here(route):
    """Whether compiled code on this processor reads the tiles; else torch does, on their device."""
    return route.device.type == "cpu"


def tile_of(route, part, kept):
    """The inner products of two blocks, from the kept tiles or new."""
    if kept is None:
        return route.product(*part)
    key = part[0].start, part[1].start
    if key not in kept:
        kept[key] = route.product(*part)
    return kept[key]


def _decided(points, rows, bound, candidate, size):
    """(squared distances, indices, certain) of the `size` nearest candidates of each row, by differences.

    bound   ascending lower bounds of the candidates' squared distances; all other points have at least the last
    """
    squared = points.differences(np.repeat(rows, candidate.shape[1]), candidate.ravel()).reshape(candidate.shape)
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
