"""Compiled selection from tiles of inner products: smallest scores of each row and column, closest pairs.

A tile holds inner products g[r, c] between points `rows` and points `columns`. With the points' squared norms
its scores are

    s[r, c] = a[r] + b[c] - 2 g[r, c]

which are squared distances (images) or lower bounds of squared distances (products.Floats).
Each point has two lists, ascending: the scores of its nearest points, and those of its nearest points with another
label. The last score of a list is a running threshold. A tile is read in chunks of CHUNK scores; the smallest of a
chunk, which the processor's vector instructions find, decides whether any of them is looked at by itself.

Lists are ordered by score and then by index, so what they hold does not depend on the order of tiles.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from threading import Barrier, current_thread

import numpy as np
import torch
from numba import njit

CHUNK = 64
POOL = "intrinsic-tiles"  # the beginning of the names of its threads
FEW_CLASSES = 8  # up to here the threshold of a chunk is its own for each class


def compiled(**options):
    """Numba's njit without the interpreter's lock, kept on disk between processes where some folder allows it."""

    def compile_it(function):
        try:
            return njit(nogil=True, cache=True, **options)(function)
        except RuntimeError:  # neither the package's nor the user's folder can be written to
            return njit(nogil=True, **options)(function)

    return compile_it


@dataclass(eq=False)
class Lists:
    """Nearest points found so far, of n points.

    near, near_index          (n, k) scores ascending and indices, -1 where there is none yet
    opposite, opposite_index  (n, q) the same for points with another label; q = 0 without labels
    """

    near: np.ndarray
    near_index: np.ndarray
    opposite: np.ndarray
    opposite_index: np.ndarray

    @classmethod
    def empty(cls, n, k, q, dtype):
        """Lists without entries; their thresholds admit every score."""
        return cls(
            np.full((n, k), unknown(dtype), dtype=dtype),
            np.full((n, k), -1, dtype=np.int64),
            np.full((n, q), unknown(dtype), dtype=dtype),
            np.full((n, q), -1, dtype=np.int64),
        )

    def part(self, rows):
        """Views of some points' lists, which share memory with these."""
        return Lists(self.near[rows], self.near_index[rows], self.opposite[rows], self.opposite_index[rows])


@dataclass(frozen=True, eq=False)
class Side:
    """The points along one side of a tile.

    index   int64, ascending: which points
    norm    the a or b of the scores, of the tile's type
    code    int32 classes, counted from 0
    group   int64; points of the same group do not become neighbors. None: groups do not matter
    """

    index: np.ndarray
    norm: np.ndarray
    code: np.ndarray
    group: np.ndarray | None = None

    def part(self, places):
        """Some of these points."""
        group = None if self.group is None else self.group[places]
        return Side(self.index[places], self.norm[places], self.code[places], group)


def unknown(dtype):
    """The score of an empty place in a list: above every score that tiles of this type can hold."""
    return np.inf if np.dtype(dtype).kind == "f" else 2 ** (30 if np.dtype(dtype).itemsize == 4 else 61)


def select(tile, rows, columns, of_rows, of_columns=None, n_classes=1):
    """Show every score of a tile to the lists of its rows and, unless of_columns is None, of its columns.

    tile             (r, c) inner products; self is left out by index
    rows, columns    Side, the points along both sides
    of_rows, of_columns    Lists of those points, changed in place
    """
    apart = rows.group is not None
    none = np.empty(0, dtype=np.int64)
    groups = (rows.group, columns.group) if apart else (none, none)
    few = n_classes if n_classes <= FEW_CLASSES else 0
    beyond = np.full(1, unknown(tile.dtype), dtype=tile.dtype)
    codes = (rows.code, columns.code)
    head = (tile, rows.norm, columns.norm, rows.index, columns.index, *codes, *groups, apart, few, beyond)
    _rows(*head, *_arrays(of_rows))
    if of_columns is not None:
        _columns(*head, *_arrays(of_columns))


class DeviceLists:
    """The lists of points on a GPU, filled by torch.topk.

    Scores of whole numbers and the index of the other point are one 64-bit number, so that equal ones stay in order.
    """

    def __init__(self, mine, whole, sizes, route):
        self.n, self.route, self.apart = len(whole.index), route, whole.group is not None
        self.exact, device = route.exact, route.device
        self.sides = []
        for side in (mine, whole):
            group = side.group if self.apart else side.index
            arrays = (side.norm, side.code, group, side.index)
            parts = [torch.from_numpy(np.ascontiguousarray(array)).to(device) for array in arrays]
            self.sides.append([parts[0].long() if self.exact else parts[0], *parts[1:]])
        self.empty = 2**62 if self.exact else torch.inf
        kind = {"dtype": torch.int64 if self.exact else route.dtype, "device": device}
        shapes = [(len(mine.index), size) for size in sizes]
        self.lists = [(torch.full(s, self.empty, **kind), torch.full(s, -1, device=device)) for s in shapes]

    def show(self, tile, a, b, mirrored):
        """Show a tile to the lists of its rows and, if `mirrored`, of its columns."""
        norm, *row = [part[a] for part in self.sides[0]]
        other, *column = [part[b] for part in self.sides[1]]
        score = norm[:, None] + other - 2 * (tile.long() if self.exact else tile)
        self._take(a, score, row, column)
        if mirrored:
            self._take(b, score.T, column, row)

    def _take(self, places, score, row, column):
        (code, group, index), (codes, groups, indices) = row, column
        score = score * self.n + indices if self.exact else score
        hidden = (group[:, None] == groups) | (index[:, None] == indices), code[:, None] == codes
        for (values, known), hide in zip(self.lists, hidden, strict=True):
            if values.shape[1]:
                both = torch.cat([values[places], score.masked_fill(hide, self.empty)], dim=1)
                value, at = torch.topk(both, values.shape[1], dim=1, largest=False, sorted=True)
                names = torch.cat([known[places], indices.expand(score.shape[0], -1)], dim=1)
                values[places], known[places] = value, torch.gather(names, 1, at)

    def to_host(self):
        """The same as Lists."""
        out = []
        for values, known in self.lists:
            missing = values == self.empty
            value = torch.where(missing, unknown(self.route.norm.dtype), values // self.n if self.exact else values)
            out += [value.cpu().numpy().astype(self.route.norm.dtype), torch.where(missing, -1, known).cpu().numpy()]
        return Lists(*out)


def in_threads(work, tasks):
    """work(task) for every task, on as many threads as torch uses, each of which gives torch one thread.

    Work that itself calls this is done by the thread that it is on.
    """
    threads = torch.get_num_threads()
    if threads == 1 or len(tasks) == 1 or current_thread().name.startswith(POOL):
        for task in tasks:
            work(task)
        return
    for _ in _pool(os.getpid(), threads).map(work, tasks):
        pass


def ranges(count, step):
    """(lo, hi) that cover 0..count in equal parts, some for each thread, none much smaller than step."""
    parts = max(1, min(4 * torch.get_num_threads(), count // step))
    edges = [count * part // parts for part in range(parts + 1)]
    return list(pairwise(edges))


@lru_cache(maxsize=1)
def _pool(process, threads):
    """Threads that each let torch use one; torch's setting for all others is left as it was."""
    ready = Barrier(threads + 1)

    def start():
        torch.set_num_threads(1)
        ready.wait()

    pool = ThreadPoolExecutor(threads, thread_name_prefix=POOL, initializer=start)
    for _ in range(threads):
        pool.submit(int)
    ready.wait()
    torch.set_num_threads(threads)
    return pool


def _arrays(lists):
    return lists.near, lists.near_index, lists.opposite, lists.opposite_index


@compiled(inline="always")
def _insert(score, index, scores, indices):
    place = scores.shape[0] - 1
    while place > 0 and (scores[place - 1] > score or (scores[place - 1] == score and indices[place - 1] > index)):
        scores[place] = scores[place - 1]
        indices[place] = indices[place - 1]
        place -= 1
    scores[place] = score
    indices[place] = index


@compiled()
def _least(norms, products):
    """The smallest of norm - 2 product over a chunk, by vector instructions."""
    scalar = products.dtype.type
    low = scalar(norms[0] - products[0] - products[0])
    for t in range(CHUNK):
        low = min(low, scalar(norms[t] - products[t] - products[t]))
    return low


@compiled(inline="always")
def _belongs(score, index, scores, indices):
    last = scores.shape[0] - 1
    return score < scores[last] or (score == scores[last] and index < indices[last])


@compiled(inline="always")
def _offer(score, index, scores, indices):
    """Take a point into a list if it belongs there; returns the threshold."""
    if _belongs(score, index, scores, indices):
        _insert(score, index, scores, indices)
    return scores[scores.shape[0] - 1]


@compiled()
def _rows(
    tile, a, b, row, column, code_r, code_c, group_r, group_c, apart, few, beyond,
    near, near_i, other, other_i,
):  # fmt: skip
    scalar = tile.dtype.type
    width = tile.shape[1]
    last, labelled = near.shape[1] - 1, other.shape[1] > 0
    last_other = other.shape[1] - 1
    # per class: the column's norm, or a number beyond all thresholds where the class is the same
    across = np.empty((few, width), dtype=b.dtype)
    for label in range(few):
        for c in range(width):
            across[label, c] = b[c] if code_c[c] != label else beyond[0]
    for r in range(tile.shape[0]):
        products, norm, i, label = tile[r], a[r], row[r], code_r[r]
        limit = near[r, last]
        limit_other = other[r, last_other] if labelled else limit
        for start in range(0, width, CHUNK):
            stop = min(start + CHUNK, width)
            if stop - start == CHUNK:
                part, norms = products[start:stop], b[start:stop]
                low = _least(norms, part)
                if low + norm > limit:
                    if low + norm > limit_other:
                        continue
                    if few > 0:
                        norms = across[label, start:stop]
                        low = _least(norms, part)
                        if low + norm > limit_other:
                            continue
            for c in range(start, stop):
                score = scalar(norm + b[c] - products[c] - products[c])
                if score <= limit and column[c] != i and not (apart and group_r[r] == group_c[c]):
                    limit = _offer(score, column[c], near[r], near_i[r])
                if labelled and score <= limit_other and code_c[c] != label:
                    limit_other = _offer(score, column[c], other[r], other_i[r])


@compiled()
def _columns(
    tile, a, b, row, column, code_r, code_c, group_r, group_c, apart, few, beyond,
    near, near_i, other, other_i,
):  # fmt: skip
    scalar = tile.dtype.type
    last, labelled = near.shape[1] - 1, other.shape[1] > 0
    last_other = other.shape[1] - 1
    width = tile.shape[1]
    # b minus the threshold: of a row of each class, or of any row
    bound = np.empty((max(few, 1), width), dtype=b.dtype)
    for c in range(width):
        _bound(bound, c, b[c], code_c[c], few, near[c, last], other[c, last_other] if labelled else near[c, last])
    for r in range(tile.shape[0]):
        products, norm, i, label = tile[r], a[r], row[r], code_r[r]
        bounds = bound[label if few > 0 else 0]
        for start in range(0, width, CHUNK):
            stop = min(start + CHUNK, width)
            if stop - start == CHUNK:
                part, limits = products[start:stop], bounds[start:stop]
                low = _least(limits, part)
                if low + norm > 0:
                    continue
            for c in range(start, stop):
                if bounds[c] - products[c] - products[c] + norm > 0:
                    continue
                score = scalar(norm + b[c] - products[c] - products[c])
                if not (apart and group_r[r] == group_c[c]):
                    _offer(score, i, near[c], near_i[c])
                if labelled and code_c[c] != label:
                    _offer(score, i, other[c], other_i[c])
                limit = other[c, last_other] if labelled else near[c, last]
                _bound(bound, c, b[c], code_c[c], few, near[c, last], limit)


@compiled(inline="always")
def _bound(bound, c, norm, code, few, limit, limit_other):
    for label in range(bound.shape[0]):
        largest = limit
        if (few == 0 or label != code) and limit_other > limit:
            largest = limit_other
        bound[label, c] = norm - largest


# --------------------------------------------------------------------------------------- closest pairs


@compiled()
def collect(tile, a, b, row, column, code_r, code_c, same, limit, start, size, out, out_i, out_j):
    """Append pairs with different labels (`same`: with equal ones) and a score up to `limit`, each once.

    out   float64 scores; out_i, out_j: the pair, of which the row has the smaller index
    Returns the new size, and the row to go on from: one before the end if the next row might not fit.
    """
    scalar = tile.dtype.type
    height, width = tile.shape
    for r in range(start, height):
        if size + width > out.shape[0]:
            return size, r
        products, norm, i, label = tile[r], a[r], row[r], code_r[r]
        for begin in range(0, width, CHUNK):
            stop = min(begin + CHUNK, width)
            if stop - begin == CHUNK and _least(b[begin:stop], products[begin:stop]) + norm > limit:
                continue
            for c in range(begin, stop):
                if (code_c[c] == label) != same or column[c] <= i:
                    continue
                score = np.float64(scalar(norm + b[c] - products[c] - products[c]))
                if score <= limit:
                    out[size], out_i[size], out_j[size] = score, i, column[c]
                    size += 1
    return size, height


# --------------------------------------------------------------------------- differences of coordinates


@compiled(fastmath={"reassoc", "nsz", "contract"})
def _difference(x, y):
    total = 0.0
    for c in range(x.shape[0]):
        step = np.float64(x[c]) - np.float64(y[c])
        total += step * step
    return total


@compiled()
def differences(x, i, j, out, lo, hi):
    """Squared distances of pairs lo..hi from the differences of their coordinates, summed in float64."""
    for m in range(lo, hi):
        out[m] = _difference(x[i[m]], x[j[m]])


@compiled(fastmath={"reassoc", "nsz", "contract"})
def norms(x, out, lo, hi):
    """Squared lengths of rows lo..hi, summed in float64: without rounding for 8-bit integers."""
    for i in range(lo, hi):
        total = 0.0
        for c in range(x.shape[1]):
            total += np.float64(x[i, c]) * np.float64(x[i, c])
        out[i] = total


@compiled()
def decide(x, index, bound, candidate, everything, found, found_i, certain, lo, hi):
    """The nearest of each point's candidates, by float64 differences, and whether they are certainly the nearest.

    bound, candidate   (n, m) ascending lower bounds of squared distances, and whose they are, -1 for none: every
                       point that is no candidate has a bound of at least the last
    everything         bool (n,): all points that count are candidates
    found, found_i     (n, k) results: squared distances ascending (equal ones by index) and indices
    certain            bool (n,): True where no other point can belong into the list
    """
    n_candidates, last = bound.shape[1], found.shape[1] - 1
    for i in range(lo, hi):
        point = x[index[i]]
        known = 0
        for m in range(n_candidates):
            other = candidate[i, m]
            if other < 0 or (known > last and bound[i, m] > found[i, last]):
                break
            value = _difference(point, x[other])
            known += 1
            _offer(value, other, found[i], found_i[i])
        certain[i] = everything[i] or (known > last and found[i, last] < bound[i, n_candidates - 1])


@compiled()
def search(x, index, others, code, code_o, group, group_o, apart, found, found_i, opposite, opposite_i, lo, hi):
    """The nearest of all points by float64 differences alone: the last resort, n D operations a point."""
    labelled = opposite.shape[1] > 0
    for m in range(lo, hi):
        i = index[m]
        for t in range(len(others)):
            j = others[t]
            if j == i:
                continue
            value = _difference(x[i], x[j])
            if not (apart and group[m] == group_o[t]):
                _offer(value, j, found[m], found_i[m])
            if labelled and code[m] != code_o[t]:
                _offer(value, j, opposite[m], opposite_i[m])
