"""One exact pass over all pairs: nearest neighbors, nearest points of another label, near-duplicates.

- uint8 images: squared distances are whole numbers, with no rounding at all;
- other points: each distance is a float64 sum of squared differences, at most a relative (D + 2) 2^-53 off.

`products` says how, `selection` what is kept of a tile, `tiles` in which order and where.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.special import digamma
from tqdm import tqdm

from intrinsic.images import ImageSet
from intrinsic.properties import tiles
from intrinsic.properties.products import MEMORY, BadPoints, Points, as_points
from intrinsic.properties.selection import Lists, Side, collect

PAIRS = 200_000  # closest pairs of different labels that are listed, at least
RELATIVE_ERROR = 1e-9  # of a distance between float points, at most

__all__ = ["BadPoints", "Neighbors", "Pairs", "Points", "as_points", "closest_pairs", "neighbors"]


def as_labels(labels, n, name="labels"):
    """One-dimensional labels, one a point; raises BadPoints."""
    if hasattr(labels, "detach"):
        labels = labels.detach().cpu().numpy()
    labels = np.asarray(labels)
    if labels.ndim != 1 or len(labels) != n:
        raise BadPoints(
            f"{name} have shape {labels.shape} for {n} points, so it is unclear which belongs to which: give one each"
        )
    if labels.dtype.kind == "O" or (labels.dtype.kind == "f" and not np.isfinite(labels).all()):
        raise BadPoints(f"some {name} are missing or no plain values, so they cannot be compared: give one each")
    return labels


def labels_and_group(x, labels, group, n=None):
    """(labels, group) of x, of n points: those given, else its own; each checked, or None."""
    n = len(x) if n is None else n
    if isinstance(x, ImageSet | Neighbors):
        labels = x.labels if labels is None else labels
        group = x.group if group is None else group
    labels = None if labels is None else as_labels(labels, n)
    group = None if group is None else np.unique(as_labels(group, n, "groups"), return_inverse=True)[1]
    return labels, group


# ------------------------------------------------------------------------------------------------- neighbors


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs with different labels, the sharpest first.

    i, j       int64 (m,), i < j
    distance   float64 (m,)
    sharpness  float64 (m,): 1 / distance, or |y_i - y_j| / distance for ordered labels; descending
    complete   True if these are all pairs with different labels
    """

    i: np.ndarray
    j: np.ndarray
    distance: np.ndarray
    sharpness: np.ndarray
    complete: bool

    def __len__(self):
        return len(self.i)


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

    `nearest` goes beyond k, `subset` gives the neighbors within a part of the points. Up to 8,000 points both, and
    `pairs`, come from the products of the first pass, which are kept (256 MiB at most); above that they take a pass of
    their own, unless `neighbors` was told of them beforehand.
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
    _reserve: tuple = field(repr=False)  # distances and indices (n, reserve)
    _kept: tiles.Kept | None = field(repr=False)
    _side: Side = field(repr=False)
    _subsets: tuple = field(repr=False)  # ((chosen, Neighbors), ...)

    def __len__(self):
        return self.n

    @property
    def k(self):
        """How many neighbors of each point are known."""
        return self.distances.shape[1]

    @cached_property
    def pairs(self):
        """The closest pairs with different labels, as Pairs: at least 200,000 and 20 n, or all there are."""
        return None if self.labels is None else closest_pairs(self)

    def nearest(self, count):
        """(distances, indices), each (n, count), of the `count` nearest neighbors of every point, beyond k too.

        At most n - 1 of them; infinity and -1 where groups leave a point fewer.
        """
        count = min(count, self.n - 1)
        if self._reserve[0].shape[1] < count:
            more = _search(self.points, self._side, count, 0, 1, self._kept)
            object.__setattr__(self, "_reserve", more[:2])
        return tuple(part[:, :count] for part in self._reserve)

    def subset(self, chosen, k=None):
        """Neighbors of the points at the index array `chosen` among themselves; indices count within `chosen`.

        chosen   indices, each once, or a mask (n,)
        k        neighbors, by default as many as here, or as there are. Equal distances are in order of index here.
        Raises BadPoints.
        """
        chosen = _chosen(chosen, self.n)
        for known, near in self._subsets:
            if (k is None or k == near.k) and np.array_equal(known, chosen):
                return near
        k = min(self.k, len(chosen) - 1) if k is None else k
        _check_k(k, len(chosen))
        labels, group = (None if part is None else part[chosen] for part in (self.labels, self.group))
        if self._kept is None:
            return neighbors(self.points.take(chosen), k, labels, group=group, exclude_group=self.excludes_group)
        order = np.argsort(chosen, kind="stable")
        side = self._side.part(chosen[order])
        n_classes = int(side.code.max()) + 1
        found = _search(self.points, side, k, int(labels is not None), n_classes, self._kept)
        return _subset(self, chosen, order, found, k)


def neighbors(
    x,
    k=20,
    labels=None,
    *,
    group=None,
    exclude_group=False,
    device="auto",
    memory=MEMORY,
    client=None,
    keep=True,
    reserve=0,
    subsets=(),
    progress=False,
):
    """The k nearest neighbors of every point and its nearest point with another label, exactly, in one pass.

    x              ImageSet or uint8 array (distances in units of images in [0, 1]), or points (n, D) or a tensor
                   (distances in their own unit); a memory-mapped array, or an iterator of arrays, which goes through a
                   temporary file. uint8: no rounding; others: see products.Floats for what decides, and why
                   nothing is missed
    k              1 <= k < n
    labels, group  one a point; an ImageSet has its own
    exclude_group  points of the same group do not count as neighbors (they do count as opposite ones)
    device         "auto": a GPU if there is one; "cpu", "cuda", "cuda:1"
    memory         bytes of working memory, beside x and the result
    client         a dask.distributed Client: tiles are computed by its workers instead
    keep           hold the products up to 8,000 points, for `nearest`, `subset` and `pairs`: 4 bytes a pair
    reserve        neighbors of each point to hold for `nearest`, beyond k; of use where products are not held
    subsets        index arrays (or masks) to hold the neighbors of, for `subset`; likewise
    Every result is the same, bit for bit, whatever device, memory, client and number of threads.
    Raises BadPoints.
    """
    if not memory > 0:
        raise BadPoints(f"memory={memory} bytes hold no tile of products: give a number above 0, such as 2**30")
    points = as_points(x, memory)
    if points.memory != memory:
        points = Points(points.x, memory)
    labels, group = labels_and_group(x, labels, group, points.n)
    n, k = points.n, _whole(k, "k")
    _check_k(k, n)
    if exclude_group and group is None:
        raise BadPoints("exclude_group=True needs to know the groups, and there are none: give group=")
    where = tiles.device_of(device)
    codes = np.zeros(n, dtype=np.int32)
    if labels is not None:
        codes = np.unique(labels, return_inverse=True)[1].astype(np.int32)
    n_classes = int(codes.max()) + 1
    side = Side(np.arange(n), np.empty(n), codes, group if exclude_group else None)
    count = min(n - 1, max(k, reserve))
    route = tiles.route_of(points, side, count, n_classes)
    side = replace(side, norm=route.norm)
    candidates, q = route.candidates(count, n), _opposite(route, n, labels)
    kept, declared = None, []
    if client is not None:
        lists = tiles.lists_on_workers(client, points, route, side, candidates, q, n_classes, progress=progress)
    elif where.type == "cuda":
        lists = tiles.lists_on_device(route, side, candidates, q, where, progress=progress)
    else:
        kept = tiles.Kept(route) if keep and tiles.can_keep(route) else None
        declared = [] if kept is not None else [_declare(chosen, n, k, q, route) for chosen in subsets]
        within = [(places[order], own) for places, order, own in declared]
        parts = tiles.computed(route, kept)
        lists = tiles.lists_of(parts, route, side, candidates, q, n_classes, within, progress)
    found = tiles.decided(points, route, side, lists, count, n_classes)
    few = int((found[1][:, k - 1] < 0).sum())
    if few:
        raise BadPoints(
            f"{few} of {n} points have fewer than {k} points outside their group, so their k-th neighbor does not "
            "exist: give a smaller k or exclude_group=False"
        )
    near = points.distance(found[0])
    result = Neighbors(
        distances=near[:, :k],
        indices=found[1][:, :k],
        opposite_distance=None if labels is None else points.distance(found[2][:, 0]),
        opposite_index=None if labels is None else found[3][:, 0],
        labels=labels,
        group=group,
        n=n,
        dimensions=points.dimensions,
        excludes_group=bool(exclude_group),
        points=points,
        _reserve=(near, found[1]),
        _kept=kept,
        _side=side,
        _subsets=(),
    )
    for chosen, order, own in declared:
        part = side.part(chosen[order])
        size = min(k, len(chosen) - 1)
        within = tiles.decided(points, route, part, own, size, n_classes)
        within = (points.distance(within[0]), within[1], points.distance(within[2]), within[3])
        entry = (chosen, _subset(result, chosen, order, within, size))
        object.__setattr__(result, "_subsets", (*result._subsets, entry))
    return result


def _opposite(route, n, labels):
    return 0 if labels is None else min(n, route.opposite_candidates)


def _chosen(chosen, n):
    """Indices of a subset, int64, from indices or a mask; raises BadPoints."""
    chosen = np.asarray(chosen)
    if chosen.dtype == bool and chosen.shape == (n,):
        return np.flatnonzero(chosen)
    if chosen.ndim != 1 or chosen.dtype.kind not in "iu":
        raise BadPoints(
            f"a subset has shape {chosen.shape} and type {chosen.dtype}, which names no points: give whole indices, "
            f"or a mask of {n}"
        )
    if len(chosen) and (chosen.min() < 0 or chosen.max() >= n or len(np.unique(chosen)) < len(chosen)):
        raise BadPoints(f"a subset names points that do not exist, or one twice: give each index below {n} once")
    return chosen.astype(np.int64)


def _declare(chosen, n, k, q, route):
    chosen = _chosen(chosen, n)
    size = min(k, len(chosen) - 1)
    _check_k(size, len(chosen))
    return chosen, np.argsort(chosen), Lists.empty(len(chosen), route.candidates(size, len(chosen)), q, route.dtype)


def _check_k(k, n):
    if k >= n:
        raise BadPoints(f"k={k} neighbors were asked for and a point has {n - 1} others: give k below {n}")
    _whole(k, "k")


def _search(points, side, k, labelled, n_classes, kept):
    """Distances and indices of the k nearest of the points of `side`, and opposite ones, from kept tiles or new ones.

    Indices are those of `points`.
    """
    n = len(side.index)
    k = min(k, n - 1)
    if not labelled:
        side, n_classes = replace(side, code=np.zeros_like(side.code)), 1
    route = tiles.route_of(points, side, k, n_classes) if kept is None else kept.route
    side = replace(side, norm=route.norm[side.index])
    q = _opposite(route, n, labelled or None)
    found = tiles.computed(route) if kept is None else kept.of(side.index)
    lists = tiles.lists_of(found, route, side, route.candidates(k, n), q, n_classes)
    near, near_index, opposite, opposite_index = tiles.decided(points, route, side, lists, k, n_classes)
    return points.distance(near), near_index, points.distance(opposite), opposite_index


def _subset(near, chosen, order, found, k):
    """Neighbors of a subset: `found` for its points in ascending order, brought into the order of `chosen`."""
    place = np.full(near.n + 1, -1, dtype=np.int64)
    place[chosen] = np.arange(len(chosen))
    back = np.argsort(order)
    distances, indices, opposite, opposite_index = (part[back] for part in found)
    indices, opposite_index = place[indices], place[opposite_index]
    few = int((indices[:, k - 1] < 0).sum())
    if few:
        raise BadPoints(
            f"{few} of {len(chosen)} points of the subset have fewer than {k} points outside their group, so their "
            "k-th neighbor does not exist: give a smaller k"
        )
    labels, group = (None if part is None else part[chosen] for part in (near.labels, near.group))
    side = near._side.part(chosen)
    points = near.points.take(chosen)
    return Neighbors(
        distances, indices,
        None if labels is None else opposite[:, 0], None if labels is None else opposite_index[:, 0],
        labels, group, len(chosen), near.dimensions, near.excludes_group, points,
        (distances, indices), None, replace(side, index=np.arange(len(chosen))), (),
    )  # fmt: skip


def closest_pairs(x, labels=None, *, ordered=False, count=None, rows=None, progress=False):
    """The `count` (at least 200,000 and 20 n, or all) sharpest pairs with different labels, as Pairs.

    x        as for neighbors; a Neighbors spares the products where it has kept them
    labels   one a point; with ordered=True numbers, and sharpness is |y_i - y_j| / distance
    rows     indices of the points to look at, all by default; i and j are indices of x in any case
    Ties are in order of i, then j.
    """
    points = as_points(x)
    labels = as_labels(x.labels if labels is None and isinstance(x, Neighbors | ImageSet) else labels, points.n)
    if ordered:
        if labels.dtype.kind not in "buif":
            raise BadPoints(f'labels are {labels.dtype}, and labels="ordered" needs numbers: give their values')
        labels = labels.astype(np.float64)
    codes = np.unique(labels, return_inverse=True)[1].astype(np.int32)
    count = max(PAIRS, 20 * points.n) if count is None else count
    chosen = None if rows is None else np.unique(rows)
    kept = x._kept if isinstance(x, Neighbors) else None
    if kept is None and chosen is not None:
        found = closest_pairs(points.take(chosen), labels[chosen], ordered=ordered, count=count)
        return replace(found, i=chosen[found.i], j=chosen[found.j])
    index = np.arange(points.n) if chosen is None else chosen
    values = _scaled(labels[index]) if ordered else np.zeros(len(index))
    squared, i, j, complete = _sharpest(points, kept, index, codes[index], values, ordered, count, progress)
    distance = points.distance(squared)
    difference = np.abs(labels[i] - labels[j]) if ordered else 1.0
    with np.errstate(divide="ignore"):
        sharpness = difference / distance
    order = _sharpest_first(sharpness, i, j)
    return Pairs(i[order], j[order], distance[order], sharpness[order], complete)


def _sharpest_first(sharpness, i, j):
    """np.lexsort((j, i, -sharpness)), which sorts i and j only among equals."""
    order = np.argsort(-sharpness)
    ranked = sharpness[order]
    tied = np.zeros(len(order) + 1, dtype=bool)
    tied[1:-1] = ranked[1:] == ranked[:-1]
    places = np.flatnonzero(tied[:-1] | tied[1:])
    some = order[places]
    order[places] = some[np.lexsort((j[some], i[some], -sharpness[some]))]
    return order


def _smallest(score, limit, i, j, count):
    """Which have the `count` smallest scores, in no order, `limit` being the largest of them; equal ones by i, j."""
    below = np.flatnonzero(score < limit)
    equal = np.flatnonzero(score == limit)
    if len(below) + len(equal) > count:
        equal = equal[np.lexsort((j[equal], i[equal]))[: count - len(below)]]
    return np.concatenate([below, equal])


def _scaled(values):
    """Label values over a power of two, which keeps the squares of their differences finite and rounds nothing."""
    largest = float(np.abs(values).max())
    return np.ldexp(values, -int(np.frexp(largest)[1])) if largest > 0 else values


def _sharpest(points, kept, index, codes, values, ordered, count, progress):
    """Squared distances, i, j of the closest pairs with different labels, and whether these are all.

    Proposals of floats are decided by differences. A pair that is not proposed has a score of at least the limit of the
    proposals, so those below it are certain; should they be too few, float64 and at last all differences are taken.
    """
    routes = [points.integer_products] if points.integers else [points.singles, points.doubles]
    if kept is not None:
        routes = [kept.route, *([] if points.integers or len(index) < points.n else routes)]
    for route in routes:
        parts = kept.of(index) if kept is not None and route is kept.route else tiles.computed(route)
        side = Side(index, route.norm[index], codes)
        wanted = count if route.exact else count + max(64, count // 8)
        squared, i, j, limit = _collected(side, parts, values, ordered, wanted, progress)
        if route.exact or not len(i):
            return squared, i, j, limit == np.inf
        squared = points.differences(i, j)
        score = squared / _steps(index, values, i, j) ** 2 if ordered else squared
        certain = np.arange(len(i))
        if limit < np.inf:
            least = np.diff(np.unique(values)).min() if ordered else 1.0
            certain = np.flatnonzero(score < route.lower(np.array([limit * least**2])) / least**2)
        if limit == np.inf or len(certain) >= count:
            score, last = score[certain], min(count, len(certain)) - 1
            best = certain[_smallest(score, np.partition(score, last)[last], i[certain], j[certain], count)]
            return squared[best], i[best], j[best], limit == np.inf and len(certain) <= count
    return _all_differences(points, index, codes, values, ordered, count)


def _steps(index, values, i, j):
    return values[np.searchsorted(index, i)] - values[np.searchsorted(index, j)]


def _all_differences(points, index, codes, values, ordered, count):
    """The same by differences of coordinates alone: the last resort."""
    best, complete = [np.empty(0)] * 2 + [np.empty(0, dtype=np.int64)] * 2, True
    for place in range(len(index)):
        others = np.flatnonzero(codes[place + 1 :] != codes[place]) + place + 1
        squared = points.differences(np.full(len(others), index[place]), index[others])
        score = squared / (values[place] - values[others]) ** 2 if ordered else squared
        new = (score, squared, np.full(len(others), index[place]), index[others])
        best = [np.concatenate(columns) for columns in zip(best, new, strict=True)]
        if len(best[0]) > count:
            complete = False
            order = np.lexsort((best[3], best[2], best[0]))[:count]
            best = [column[order] for column in best]
    return best[1], best[2], best[3], complete


def _collected(side, parts, values, ordered, count, progress):
    """(squared distances or their bounds, i, j) of the `count` pairs with the smallest scores, and the largest score.

    The last is infinite where all pairs are listed.
    """
    n = len(side.index)
    capacity = min(4 * count, n * (n - 1) // 2) + count + max(n, 2 * tiles.BLOCK)
    out, out_i, out_j = np.empty((capacity, 2)), np.empty(capacity, dtype=np.int64), np.empty(capacity, dtype=np.int64)
    size, limit, buffer = 0, np.inf, tiles.Buffers()

    def shorten():
        nonlocal size, limit
        score = out[:size, 0]
        if size <= count:
            return
        limit = np.partition(score, count - 1)[count - 1]
        near = _smallest(score, limit, out_i[:size], out_j[:size], count)
        for column in (out, out_i, out_j):
            column[: len(near)] = column[near]
        size = len(near)

    for part in tqdm(parts, desc="pairs", unit="tile", disable=not progress):
        tile, rows, columns = part.make(buffer), part.rows, part.columns
        row, column = side.part(rows), side.part(columns)
        start = 0
        while start < len(tile):
            size, start = collect(
                tile, row.norm, column.norm, row.index, column.index, row.code, column.code,
                values[rows], values[columns], ordered, limit, start, size, out, out_i, out_j,
            )  # fmt: skip
            if start < len(tile):
                shorten()
    shorten()
    return out[:size, 1].copy(), out_i[:size].copy(), out_j[:size].copy(), limit


def near_duplicate_links(x, *, k=64, chance=0.02):
    """Pairs of points that are nearer than a smooth set allows: i, j (int64, i < j) and their distance, closest first.

        link i and j  where  |x_i - x_j| < min(t_i, t_j)  or  = 0,       t_i = T_k(x_i) (chance / k)^(1/d)

    T_k is the distance to the k-th neighbor, and d the dimension between the k/2-th and the k-th,
        d = (psi(k) - psi(k/2)) / mean_i log( T_k(x_i) / T_{k/2}(x_i) ),    psi the digamma function.
    Near a point of a d-dimensional set the number of neighbors within t grows as t^d, so that `chance` is how many
    of them are expected within t_i, at any d, density and scale. Near-duplicates are those beyond.

    x       images, points or Neighbors
    k       scale on which the set is smooth, above the size of a family of near-duplicates; (n - 1) / 2 at most
    chance  expected neighbors within t_i of a point that has no near-duplicate
    Raises BadPoints. Source: ours; what was measured stands at near_duplicate_components.
    """
    if not chance > 0 or k != int(k) or k < 4:
        raise BadPoints(f"k={k} and chance={chance} set no distance: give a whole k of at least 4 and a chance above 0")
    k = int(k)
    n = as_points(x).n
    k = min(k, (n - 1) // 2)
    usable = isinstance(x, Neighbors) and not x.excludes_group
    near = x if usable else neighbors(as_points(x), max(1, min(k, n - 1)))
    distances, index = near.nearest(max(k, 1))
    limit = np.zeros(n)
    if k >= 4:
        outer, inner = distances[:, k - 1], distances[:, k // 2 - 1]
        spread = np.log(outer[inner > 0] / inner[inner > 0])
        if spread.any():
            d = (digamma(k) - digamma(k // 2)) / spread.mean()
            limit = outer * (chance / k) ** (1 / d)
    linked = (distances < np.minimum(limit[:, None], limit[index])) | (distances == 0)
    i, column = np.nonzero(linked)
    ends = np.sort([i, index[i, column]], axis=0)
    _, first = np.unique(ends[0] * n + ends[1], return_index=True)
    (i, j), distance = ends[:, first], distances[i, column][first]
    order = np.lexsort((j, i, distance))
    return i[order], j[order], distance[order]


def near_duplicate_components(x, *, k=64, chance=0.02):
    """Which images belong together when patients or volumes are unknown: int64 (n,), 0, 1, ... in order of index.

    Connected components of near_duplicate_links(x, k=k, chance=chance).

    Source: ours; chosen among k = 64 to n/4 and chance = 0.005 to 0.1 by what follows. With a larger k, families
    of slices are missed where the set is not one smooth piece; with a larger chance, they merge.

    Measured with these defaults (book/methods/tables/near_duplicates.json, by benchmarks/near_duplicates.py), the share
    of images linked to any other and the largest component: clean sets (tori, cubes, Gaussian clouds, mixtures of
    scales, smooth images of d = 1 to 20) 0.0 to 10.1 %, 4. Photographs, digits and garments 0.4 to 2.4 %, 10. X-rays
    of knees and chests 0.4 to 1.7 %, 44 (one cluster of knees). Brain MRI, 16 slices of each of 200 subjects, 87.6 %,
    18: 72.8 % of the pairs joined are of one subject, and 44.4 % of a subject's pairs are joined. Head CT slices of 82
    patients 43.1 %, 20: 98.0 % and 10.5 %.
    So components keep near-duplicates together, but are no substitute for patients where these can be known.
    """
    x = x if isinstance(x, Neighbors) else as_points(x)
    i, j, _ = near_duplicate_links(x, k=k, chance=chance)
    return components(i, j, x.n)


def components(i, j, n):
    """Connected components of n points with links i, j: int64 (n,), numbered 0, 1, ... in order of index."""
    graph = coo_array((np.ones(len(i), dtype=bool), (i, j)), shape=(n, n))
    component = connected_components(graph, directed=False)[1]
    _, first, inverse = np.unique(component, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse].astype(np.int64)


def _whole(value, name):
    if isinstance(value, bool) or int(value) != value or value < 1:
        raise BadPoints(f"{name}={value} is no number of neighbors: give a whole number, at least 1")
    return int(value)
