"""Selection from tiles of inner products: the nearest points of each point, and the closest pairs.

A tile holds inner products g[r, c] between points `rows` and points `columns`. With the points' squared norms
its scores are

    s[r, c] = a[r] + b[c] - 2 g[r, c]

which are squared distances (images) or lower bounds of squared distances (products.Floats).
A list holds the smallest scores of a point, ascending, and its last score is a running threshold. A tile is read in
chunks of CHUNK scores; the smallest of a chunk, which the processor's vector instructions find, decides whether any of
them is looked at by itself.

Lists are ordered by score and then by index, so what they hold does not depend on the order of tiles.
"""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import torch
from numba import njit

CHUNK = 64


def compiled(**options):
    """Numba's njit without the interpreter's lock, kept on disk between processes where some folder allows it."""

    def compile_it(function):
        try:
            return njit(nogil=True, cache=True, **options)(function)
        except RuntimeError:  # neither the package's nor the user's folder can be written to
            return njit(nogil=True, **options)(function)

    return compile_it


def in_threads(work, tasks):
    """work(task) for every task, on as many threads as torch uses, each of which gives torch one thread."""
    threads = torch.get_num_threads()
    if threads == 1 or len(tasks) == 1:
        for task in tasks:
            work(task)
        return
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            list(pool.map(work, tasks))
    finally:
        torch.set_num_threads(threads)


def ranges(count, step):
    """Slices that cover 0..count in equal parts, some for each thread, none much smaller than step."""
    parts = max(1, min(4 * torch.get_num_threads(), count // step))
    return [slice(*edges) for edges in pairwise(count * part // parts for part in range(parts + 1))]


# --------------------------------------------------------------------------------- the nearest of each point


def unknown(dtype):
    """The score of an empty place in a list: above every score that tiles of this type can hold."""
    dtype = np.dtype(dtype)
    return dtype.type(np.inf if dtype.kind == "f" else 2 ** (30 if dtype.itemsize == 4 else 61))


class Lists:
    """The `size` smallest scores of points and whose they are, -1 where there is none yet.

    key     int32, one a point: points with the same key do not list each other, and a point not itself
    rows    the points whose lists these are, by index; None: all
    """

    def __init__(self, route, key, size, rows=None):
        self.norm, self.key, rows = route.norm, key, slice(None) if rows is None else rows
        self.own = self.norm[rows], key[rows]
        self.score = np.full((len(self.own[1]), size), unknown(self.norm.dtype))
        self.index = np.full(self.score.shape, -1)

    def show(self, tile, a, b):
        """Show a tile to the lists at `a`; its columns are the points of the slice `b`."""
        sides = (part[side] for part, side in zip((*self.own, self.norm, self.key), (a, a, b, b), strict=True))
        tile, beyond = np.ascontiguousarray(tile.numpy()), unknown(self.norm.dtype)
        offer(tile, *sides, b.start, beyond, self.score[a], self.index[a])

    def found(self):
        """(scores, indices), each (points, size)."""
        return self.score, self.index


class DeviceLists:
    """`Lists` on a GPU, filled by torch.topk.

    Scores of whole numbers and the index of the other point are one 64-bit number, so that equal ones stay in order.
    """

    def __init__(self, route, key, size, rows=None):
        norm, key = (torch.from_numpy(part).to(route.device) for part in (route.norm, key))
        self.exact, self.type, self.n = route.exact, route.norm.dtype, len(key)
        self.norm, self.key = norm.long() if self.exact else norm, key
        rows = slice(None) if rows is None else torch.from_numpy(rows).to(route.device)
        self.own = self.norm[rows], key[rows]
        self.empty = 2**62 if self.exact else torch.inf
        self.score = torch.full((len(self.own[1]), size), self.empty, dtype=self.norm.dtype, device=route.device)
        self.index = torch.full_like(self.score, -1, dtype=torch.int64)

    def show(self, tile, a, b):
        """Show a tile to the lists at `a`; its columns are the points of the slice `b`."""
        names = torch.arange(b.start, b.stop, device=tile.device)
        score = self.own[0][a][:, None] + self.norm[b] - 2 * tile.to(self.norm.dtype)
        score = score * self.n + names if self.exact else score
        score.masked_fill_(self.own[1][a][:, None] == self.key[b], self.empty)
        both = torch.cat([self.score[a], score], dim=1)
        self.score[a], at = torch.topk(both, self.score.shape[1], dim=1, largest=False, sorted=True)
        self.index[a] = torch.cat([self.index[a], names.expand(score.shape)], dim=1).gather(1, at)

    def found(self):
        """(scores, indices), each (points, size), as those of Lists."""
        missing, score = self.score == self.empty, self.score // self.n if self.exact else self.score
        score, index = torch.where(missing, unknown(self.type).item(), score), torch.where(missing, -1, self.index)
        return score.cpu().numpy().astype(self.type), index.cpu().numpy()


@compiled()
def _least(norms, products, keys, key, same, beyond):
    """The smallest of norm - 2 product over a chunk, of points whose key is the same (or another)."""
    scalar = products.dtype.type
    low = beyond
    for t in range(CHUNK):
        low = min(low, scalar(norms[t] - products[t] - products[t]) if (keys[t] == key) == same else beyond)
    return low


@compiled()
def offer(tile, a, key_a, b, key_b, first, beyond, scores, indices):
    """Take the scores of each row of a tile into a list if they belong there; column c is point first + c."""
    scalar = tile.dtype.type
    width, last = tile.shape[1], scores.shape[1] - 1
    for r in range(tile.shape[0]):
        products, norm, key, score, index = tile[r], a[r], key_a[r], scores[r], indices[r]
        for start in range(0, width, CHUNK):
            stop = min(start + CHUNK, width)
            if stop - start == CHUNK:
                low = _least(b[start:stop], products[start:stop], key_b[start:stop], key, False, beyond)
                if low == beyond or low + norm > score[last]:
                    continue
            for c in range(start, stop):
                value, name = scalar(norm + b[c] - products[c] - products[c]), first + c
                if value > score[last] or key_b[c] == key or (value == score[last] and name > index[last]):
                    continue
                place = last
                while place > 0 and (
                    score[place - 1] > value or (score[place - 1] == value and index[place - 1] > name)
                ):
                    score[place], index[place] = score[place - 1], index[place - 1]
                    place -= 1
                score[place], index[place] = value, name


# --------------------------------------------------------------------------------------- closest pairs


@compiled()
def collect(tile, a, code_a, b, code_b, first_a, first_b, same, limit, beyond, size, out, out_i, out_j):
    """Append pairs with different labels (`same`: with equal ones) and a score up to `limit`, each once.

    out   float64 scores; out_i, out_j: the pair, of which the row has the smaller index
    Returns the new size.
    """
    scalar = tile.dtype.type
    width = tile.shape[1]
    for r in range(tile.shape[0]):
        products, norm, i, code = tile[r], a[r], first_a + r, code_a[r]
        for start in range(0, width, CHUNK):
            stop = min(start + CHUNK, width)
            if stop - start == CHUNK:
                low = _least(b[start:stop], products[start:stop], code_b[start:stop], code, same, beyond)
                if low == beyond or low + norm > limit:
                    continue
            for c in range(start, stop):
                score = scalar(norm + b[c] - products[c] - products[c])
                if score <= limit and (code_b[c] == code) == same and first_b + c > i:
                    out[size], out_i[size], out_j[size] = score, i, first_b + c
                    size += 1
    return size


# --------------------------------------------------------------------------- differences of coordinates


@compiled(fastmath={"reassoc", "nsz", "contract"})
def difference(x, y):
    """Squared distance of two points, summed in float64."""
    total = 0.0
    for c in range(x.shape[0]):
        step = np.float64(x[c]) - np.float64(y[c])
        total += step * step
    return total


@compiled()
def differences(x, i, j, out):
    """Squared distances of pairs i, j from the differences of their coordinates."""
    for m in range(len(i)):
        out[m] = difference(x[i[m]], x[j[m]])


@compiled(fastmath={"reassoc", "nsz", "contract"})
def norms(x):
    """Squared lengths of rows, summed in float64: without rounding for 8-bit integers."""
    out = np.zeros(len(x))
    for i in range(len(x)):
        total = 0.0
        for c in range(x.shape[1]):
            total += np.float64(x[i, c]) * np.float64(x[i, c])
        out[i] = total
    return out
