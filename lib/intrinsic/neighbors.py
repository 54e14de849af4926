"""One exact pass over all pairs: nearest neighbors, nearest images of another label, near-duplicates.

Everything rests on `Points.squared`, a tile of squared distances:

- uint8 images: integers, with no rounding at all;
- other points: relative error at most 1e-9 of a squared distance, so at most 5e-10 of a distance (plus the
  rounding of a float64 subtraction of the points themselves), near-duplicates and common offsets included.

The pass goes through strips of rows. Beside the points it holds about six strips of STRIP_BYTES, never n x n.
"""

from dataclasses import dataclass, field

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.special import digamma
from tqdm import tqdm

from intrinsic.images import ImageSet

STRIP_BYTES = 32 * 2**20  # one strip of float64 squared distances
EXACT_PIXELS = 1024  # 1024 products of numbers in [-128, 127] sum to at most 2^24, where float32 is exact
PAIRS = 200_000  # closest pairs of different labels that are kept, at least
RELATIVE_ERROR = 1e-9  # of a squared distance between float points


class BadPoints(ValueError):
    """Points, labels or groups that have no neighbors in the asked sense."""


# ------------------------------------------------------------------------------------------------- distances


class Points:
    """Points as rows, with exact tiles of squared distances between them. Made by `as_points`.

    n, dimensions    number of points and of coordinates
    integers         True for uint8: squared distances are integers, in grey levels
    """

    def __init__(self, rows):
        self._x = rows
        self.n, self.dimensions = rows.shape
        self.integers = rows.dtype == np.uint8
        self._chunk = int(np.clip(STRIP_BYTES // (8 * max(self.n, 1)), 64, EXACT_PIXELS))
        if self.integers:
            self._exponent = 0
            self._norm = self._norms(np.int64).astype(np.float64)
            return
        # powers of two keep squares away from overflow and underflow and round nothing
        largest = max(float(np.abs(self._x[:, c]).max()) for c in self._chunks())
        self._first = _exponent_of(largest)
        self._second = 0
        self._mean = np.concatenate(
            [np.ldexp(self._x[:, c].astype(np.float64), -self._first).mean(axis=0) for c in self._chunks()]
        )
        self._second = _exponent_of(max(float(np.abs(self._part(slice(None), c)).max()) for c in self._chunks()))
        self._exponent = self._first + self._second
        self._norm = self._norms(np.float64)
        n_chunks = -(-self.dimensions // self._chunk)
        rounding = 1.01 * 2.0**-53 * (2 * (min(self._chunk, self.dimensions) + n_chunks) + 12)
        self._doubtful = rounding / RELATIVE_ERROR

    def _chunks(self):
        return [slice(c, min(c + self._chunk, self.dimensions)) for c in range(0, self.dimensions, self._chunk)]

    def _part(self, rows, columns):
        """Some coordinates of some points, shifted: float32 integers in [-128, 127], or centered float64."""
        part = self._x[rows, columns]
        if self.integers:
            part = part.astype(np.float32)
            part -= 128
            return part
        part = np.ldexp(part.astype(np.float64), -self._first)
        part -= self._mean[columns]
        return np.ldexp(part, -self._second)

    def _norms(self, dtype):
        total = np.zeros(self.n, dtype=dtype)
        for columns in self._chunks():
            part = self._part(slice(None), columns)
            # for uint8 a sum of at most 1024 squares of at most 2^14: exact in float32
            total += np.einsum("ij,ij->i", part, part).astype(dtype)
        return total

    def squared(self, rows, columns):
        """Squared distances, float64 (len(rows), len(columns)), between points given by slices or index arrays.

        In grey levels for uint8, else in units of 4^exponent: `distance` gives the roots in the points' own unit.

        uint8: 128 is subtracted, and products are summed in float32 over at most 1,024 pixels, so that every
        partial sum is an integer of at most 2^24 in size, in whatever order it is formed; these sums are added in
        float64, exact below 2^53. The result is an integer without error.

        Floats: the mean is subtracted, and |a|^2 + |b|^2 - 2 ab is formed in float64 over chunks of c <= 1,024 of
        the D coordinates. Its error is at most eps (|a|^2 + |b|^2) with eps = 2 (c + D/c + 6) u, u = 2^-53: a sum of
        c + D/c terms loses at most (c + D/c) u of the sum of their sizes (Higham 2002, section 3.1), which Cauchy
        and Schwarz bound; centering and the last two additions add 12 u. Every entry below 1e9 eps (|a|^2 + |b|^2),
        where this could exceed a relative 1e-9, is computed again from the differences of the original coordinates.
        """
        total = np.zeros((self._length(rows), self._length(columns)))
        for chunk in self._chunks():
            total += self._part(rows, chunk) @ self._part(columns, chunk).T
        total *= -2
        total += self._norm[rows][:, None]
        total += self._norm[columns]
        if self.integers:
            return total
        i, j = np.nonzero(total < self._doubtful * (self._norm[rows][:, None] + self._norm[columns]))
        if len(i):
            everything = np.arange(self.n)
            total[i, j] = self._by_difference(everything[rows][i], everything[columns][j])
        return total

    def _by_difference(self, i, j):
        """Squared distances (m,) of pairs, each from the differences of its coordinates."""
        total = np.zeros(len(i))
        for columns in self._chunks():
            step = max(1, STRIP_BYTES // (8 * (columns.stop - columns.start)))
            for start in range(0, len(i), step):
                part = slice(start, start + step)
                a, b = (np.ldexp(self._x[pair[part], columns].astype(np.float64), -self._first) for pair in (i, j))
                a -= b
                a = np.ldexp(a, -self._second)
                total[part] += np.einsum("ij,ij->i", a, a)
        return total

    def distance(self, squared):
        """Distances in the points' own unit (pixels in [0, 1] for uint8) from squared ones."""
        root = np.sqrt(squared)
        return root / 255 if self.integers else np.ldexp(root, self._exponent)

    def __len__(self):
        return self.n

    def take(self, rows):
        """The points at an index array, as Points."""
        return Points(self._x[rows])

    def _length(self, rows):
        return len(range(*rows.indices(self.n))) if isinstance(rows, slice) else len(rows)

    def strips(self, block=None, progress=False, what="distances"):
        """(rows, squared distances of these rows to all points) from the first to the last."""
        block = block or max(1, STRIP_BYTES // (8 * self.n))
        starts = range(0, self.n, block)
        for start in tqdm(starts, desc=what, unit="strip", disable=not progress):
            rows = slice(start, min(start + block, self.n))
            squared = self.squared(rows, slice(0, self.n))
            if squared.diagonal(start).any():
                raise ArithmeticError(
                    "a point is not at distance 0 from itself, so this machine's matrix product rounds more than "
                    "float32 and no distance can be trusted: turn off reduced precision in its linear algebra"
                )
            yield rows, squared


def _exponent_of(largest):
    return int(np.frexp(largest)[1]) if largest > 0 else 0


def as_points(x):
    """Points from an ImageSet, an array or a torch tensor, one per first index; a Neighbors gives its own.

    uint8 is read as pixels in [0, 1], that is grey levels / 255; other numbers have their own unit.
    Raises BadPoints.
    """
    if isinstance(x, Points):
        return x
    if isinstance(x, Neighbors):
        return x.points
    if isinstance(x, ImageSet):
        x = x.images
    if hasattr(x, "detach"):  # a torch tensor, on any device
        x = x.detach().cpu()
        x = (x.float() if x.is_floating_point() and x.element_size() < 4 else x).numpy()
    try:
        x = np.asarray(x)
    except ValueError as error:
        raise BadPoints(
            "the points have different numbers of coordinates, so there is no distance between them: give (n, D)"
        ) from error
    if x.dtype.kind not in "buif":
        raise BadPoints(f"the points are of type {x.dtype}, which has no distances: give real numbers (n, D)")
    if x.ndim < 2:
        raise BadPoints(
            f"the points have shape {x.shape}, which does not say which numbers belong to one point: give (n, D), "
            "for numbers on a line x[:, None]"
        )
    if 0 in x.shape:
        raise BadPoints(f"the points have shape {x.shape}, so there is nothing to measure: give at least two")
    if len(x) < 2:
        raise BadPoints("there is one point, which has no neighbor: give at least two")
    x = x.reshape(len(x), -1)
    if x.dtype.kind == "f":
        bad = int((~np.isfinite(x)).any(axis=1).sum())
        if bad:
            raise BadPoints(
                f"{bad} of {len(x)} points hold NaN or infinity, to which no distance exists: remove or repair them"
            )
    return Points(x if x.dtype != bool else x.astype(np.float32))


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


def labels_and_group(x, labels, group):
    """(labels, group) of x: those given, else its own; each checked, or None."""
    n = len(x)
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
    pairs              the closest pairs with different labels, over all groups, or None
    reserve_distances, reserve_indices    (n, 3k + 20) or fewer columns: the k nearest and those beyond, which step
                       in where a half-sample leaves neighbors out; infinity and -1 where there are no more
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
    pairs: Pairs | None = field(repr=False)
    reserve_distances: np.ndarray = field(repr=False)
    reserve_indices: np.ndarray = field(repr=False)

    def __len__(self):
        return self.n

    @property
    def k(self):
        """How many neighbors of each point are known."""
        return self.distances.shape[1]

    def nearest(self, count):
        """(distances, indices), each (n, count), of the `count` nearest neighbors of every point, beyond k too.

        Infinity and -1 where a point has fewer.
        """
        if self.reserve_indices.shape[1] >= count:
            return self.reserve_distances[:, :count], self.reserve_indices[:, :count]
        more = neighbors(self.points, count, group=self.group, exclude_group=self.excludes_group)
        return more.distances, more.indices

    def subset(self, chosen, k=None):
        """Neighbors of the points at the index array `chosen` among themselves; indices count within `chosen`."""
        chosen = np.asarray(chosen)
        return neighbors(
            self.points.take(chosen),
            min(self.k, len(chosen) - 1) if k is None else k,
            None if self.labels is None else self.labels[chosen],
            group=None if self.group is None else self.group[chosen],
            exclude_group=self.excludes_group,
        )


def neighbors(x, k=20, labels=None, *, group=None, exclude_group=False, block=None, progress=False):
    """The k nearest neighbors of every point and its nearest point with another label, exactly.

    x              ImageSet or uint8 array (distances in units of images in [0, 1]), or points (n, D) or a tensor
                   (distances in their own unit); see Points.squared for the error bound
    k              1 <= k < n
    labels, group  one a point; an ImageSet has its own
    exclude_group  points of the same group do not count as neighbors (they do count as opposite ones)
    block          rows in a strip; the result does not depend on it
    Raises BadPoints.
    """
    points = as_points(x)
    labels, group = labels_and_group(x, labels, group)
    n, k = points.n, _whole(k, "k")
    if k >= n:
        raise BadPoints(f"k={k} neighbors were asked for and a point has {n - 1} others: give k below {n}")
    if exclude_group and group is None:
        raise BadPoints("exclude_group=True needs to know the groups, and there are none: give group=")
    reserve = min(n - 1, 3 * k + 20)
    codes = None if labels is None else np.unique(labels, return_inverse=True)[1]
    near, near_index = np.empty((n, reserve)), np.empty((n, reserve), dtype=np.int64)
    opposite, opposite_index, closest = None, None, None
    if labels is not None:
        opposite, opposite_index = np.full(n, np.inf), np.full(n, -1, dtype=np.int64)
        closest = _PairList(points, max(PAIRS, 20 * n))
    for rows, squared in points.strips(block, progress, "neighbors"):
        if labels is not None:
            across = np.where(codes[rows, None] == codes, np.inf, squared)
            best = across.argmin(axis=1)
            value = across[np.arange(len(across)), best]
            found = np.isfinite(value)
            opposite[rows], opposite_index[rows] = value, np.where(found, best, -1)
            closest.add(rows, across)
        squared[np.arange(len(squared)), np.arange(rows.start, rows.stop)] = np.inf
        if exclude_group:
            squared[group[rows, None] == group] = np.inf
        near[rows], near_index[rows] = _smallest(squared, reserve)
    few = int((near_index[:, k - 1] < 0).sum())
    if few:
        raise BadPoints(
            f"{few} of {n} points have fewer than {k} points outside their group, so their k-th neighbor does not "
            "exist: give a smaller k or exclude_group=False"
        )
    near = points.distance(near)
    return Neighbors(
        distances=near[:, :k],
        indices=near_index[:, :k],
        opposite_distance=None if opposite is None else points.distance(opposite),
        opposite_index=opposite_index,
        labels=labels,
        group=group,
        n=n,
        dimensions=points.dimensions,
        excludes_group=bool(exclude_group),
        points=points,
        pairs=None if closest is None else closest.done(),
        reserve_distances=near,
        reserve_indices=near_index,
    )


def closest_pairs(x, labels, *, ordered=False, count=None, rows=None, block=None, progress=False):
    """The `count` (at least 200,000 and 20 n, or all) sharpest pairs with different labels, as Pairs.

    labels   one a point; with ordered=True numbers, and sharpness is |y_i - y_j| / distance
    rows     indices of the points to look at, all by default; i and j are indices of x in any case
    Ties are in order of i, then j.
    """
    points = as_points(x)
    labels = as_labels(labels, points.n)
    if ordered:
        if labels.dtype.kind not in "buif":
            raise BadPoints(f'labels are {labels.dtype}, and labels="ordered" needs numbers: give their values')
        labels = labels.astype(np.float64)
    else:
        labels = np.unique(labels, return_inverse=True)[1]
    chosen = np.arange(points.n) if rows is None else np.asarray(rows)
    count = max(PAIRS, 20 * points.n) if count is None else count
    found = _PairList(points, count, labels if ordered else None)
    block = block or max(1, STRIP_BYTES // (8 * len(chosen)))
    for start in tqdm(range(0, len(chosen), block), desc="pairs", unit="strip", disable=not progress):
        part = chosen[start : start + block]
        score = points.squared(part, chosen)
        score[labels[part][:, None] == labels[chosen]] = np.inf
        found.add(part, score, chosen)
    return found.done()


def near_duplicate_components(x, *, k=64, chance=0.02):
    """Which images belong together when patients or volumes are unknown: int64 (n,), 0, 1, ... in order of index.

    Connected components of the links between points that are nearer than a smooth set allows:

        link i and j  where  |x_i - x_j| < min(t_i, t_j)  or  = 0,       t_i = T_k(x_i) (chance / k)^(1/d)

    T_k is the distance to the k-th neighbor, and d the dimension between the k/2-th and the k-th,
        d = (psi(k) - psi(k/2)) / mean_i log( T_k(x_i) / T_{k/2}(x_i) ),    psi the digamma function.
    Near a point of a d-dimensional set the number of neighbors within t grows as t^d, so that `chance` is how many
    of them are expected within t_i, at any d, density and scale. Near-duplicates are those beyond.

    x       images, points or Neighbors
    k       scale on which the set is smooth, above the size of a family of near-duplicates; (n - 1) / 2 at most
    chance  expected neighbors within t_i of a point that has no near-duplicate

    Source: ours; chosen among k = 64 to n/4 and chance = 0.005 to 0.1 by what follows. With a larger k, families
    of slices are missed where the set is not one smooth piece; with a larger chance, they merge.

    Measured with these defaults, the share of images linked to any other, and the largest component:
    clean sets: flat tori, cubes and Gaussian clouds of d = 1 to 20, 0.1 to 7 %, 3 images; mixtures of scales 2 to 4 %,
    8; smooth image families 0.2 to 10 %, 3. Photographs, digits and garments: 0.4 to 2.5 %, 9. X-rays of knees and
    chests 0.4 to 1.7 %, 8 (one cluster of 44 knees). Brain MRI, 16 slices of each of 200 subjects: 88 %, 18; 93 % of
    links are within a subject, and 44 % of a subject's pairs are joined. Head CT slices of 82 patients: 43 %, 20;
    99 % and 10 %. Brain tumour slices 56 %, 17; lung CT slices 72 %, 23, patients unknown.
    So components keep near-duplicates together, but are no substitute for patients where these can be known.
    """
    if not chance > 0 or k != int(k) or k < 4:
        raise BadPoints(f"k={k} and chance={chance} set no distance: give a whole k of at least 4 and a chance above 0")
    k = int(k)
    n = as_points(x).n
    k = min(k, (n - 1) // 2)
    usable = isinstance(x, Neighbors) and not x.excludes_group and x.reserve_indices.shape[1] >= k
    near = x if usable else neighbors(as_points(x), max(1, min(k, n - 1)))
    columns = max(k, 1)
    distances, index = near.reserve_distances[:, :columns], near.reserve_indices[:, :columns]
    limit = np.zeros(n)
    if k >= 4:
        outer, inner = distances[:, k - 1], distances[:, k // 2 - 1]
        spread = np.log(outer[inner > 0] / inner[inner > 0])
        if spread.any():
            d = (digamma(k) - digamma(k // 2)) / spread.mean()
            limit = outer * (chance / k) ** (1 / d)
    linked = (distances < np.minimum(limit[:, None], limit[index])) | (distances == 0)
    i, column = np.nonzero(linked)
    graph = coo_array((np.ones(len(i), dtype=bool), (i, index[i, column])), shape=(n, n))
    component = connected_components(graph, directed=False)[1]
    _, first, inverse = np.unique(component, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse].astype(np.int64)


class _PairList:
    """Collects the pairs with the smallest scores: squared distances, or those over (y_i - y_j)^2."""

    def __init__(self, points, count, values=None):
        self.points, self.count, self.values = points, count, values
        self.scaled = None  # a power of two keeps the squares of differences finite
        if values is not None:
            self.scaled = np.ldexp(values, -_exponent_of(float(np.abs(values).max())))
        self.limit, self.complete, self.size = np.inf, True, 0
        self.parts = []

    def add(self, rows, across, columns=None):
        """Squared distances (b, m) of points `rows` from `columns`; infinity for pairs that do not count."""
        rows = np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
        columns = np.arange(across.shape[1]) if columns is None else columns
        step = max(1, 2**21 // across.shape[1])
        for start in range(0, len(rows), step):
            part, row = across[start : start + step], rows[start : start + step]
            score = part
            if self.scaled is not None:
                with np.errstate(divide="ignore", invalid="ignore"):
                    score = part / (self.scaled[row, None] - self.scaled[columns]) ** 2
            a, b = np.nonzero((score <= self.limit) & np.isfinite(part))
            once = row[a] < columns[b]
            a, b = a[once], b[once]
            self.parts.append((score[a, b], row[a], columns[b], part[a, b]))
            self.size += len(a)
            if self.size > 3 * self.count:
                self._shorten()

    def _shorten(self):
        columns = [np.concatenate(column) for column in zip(*self.parts, strict=True)]
        if len(columns[0]) > self.count:
            score, i, j, _ = columns
            self.limit = np.partition(score, self.count - 1)[self.count - 1]
            near = np.flatnonzero(score <= self.limit)
            order = near[np.lexsort((j[near], i[near], score[near]))[: self.count]]
            columns = [column[order] for column in columns]
            self.complete = False
        self.parts, self.size = [tuple(columns)], len(columns[0])

    def done(self):
        self._shorten()
        _, i, j, squared = self.parts[0]
        distance = self.points.distance(squared)
        difference = 1.0 if self.values is None else np.abs(self.values[i] - self.values[j])
        with np.errstate(divide="ignore"):
            sharpness = difference / distance
        order = np.lexsort((j, i, -sharpness))
        return Pairs(i[order], j[order], distance[order], sharpness[order], self.complete)


def _smallest(squared, k):
    """The k smallest finite entries of each row, ascending, and their columns; equal entries by column.

    Where a row has fewer, infinity and -1.
    """
    b, n = squared.shape
    limit = np.partition(squared, k - 1, axis=1)[:, k - 1 : k] if k < n else np.inf
    row, column = np.nonzero((squared <= limit) & (squared < np.inf))
    value = squared[row, column]
    order = np.lexsort((column, value, row))
    row, column, value = row[order], column[order], value[order]
    place = np.arange(len(row)) - np.searchsorted(row, np.arange(b))[row]
    kept = place < k
    values, columns = np.full((b, k), np.inf), np.full((b, k), -1, dtype=np.int64)
    values[row[kept], place[kept]], columns[row[kept], place[kept]] = value[kept], column[kept]
    return values, columns


def _whole(value, name):
    if isinstance(value, bool) or int(value) != value or value < 1:
        raise BadPoints(f"{name}={value} is no number of neighbors: give a whole number, at least 1")
    return int(value)
