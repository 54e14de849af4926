"""Selection from tiles of inner products: the nearest points of each point, and the closest pairs.

With inner products g[r, c] and the points' squared norms, the scores of a tile are  s[r, c] = a[r] + b[c] - 2 g[r, c] :
squared distances (images) or lower bounds of squared distances (products.Floats). A tile is read in chunks of CHUNK
scores; the smallest of a chunk, which the processor's vector instructions find, decides whether any of them is looked
at by itself. Lists are ordered by score and then by index, so what they hold does not depend on the order of tiles.
"""

from concurrent.futures import ThreadPoolExecutor

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


def unknown(dtype):
    """The score of an empty place in a list: above every score that tiles of this type can hold."""
    dtype = np.dtype(dtype)
    return dtype.type(np.inf if dtype.kind == "f" else 2 ** (30 if dtype.itemsize == 4 else 61))


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
    """Take the scores of each row of a tile into its list, ascending, if they belong there.

    Column c is point first + c. Points with the same key do not list each other, nor a point itself.
    """
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


@compiled()
def collect(tile, a, code_a, b, code_b, first_a, first_b, same, limit, beyond, size, out, out_i, out_j):
    """Append pairs with different labels (`same`: with equal ones) and a score up to `limit`; returns the new size."""
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
                if score <= limit and (code_b[c] == code) == same and first_b + c > i:  # each once
                    out[size], out_i[size], out_j[size] = score, i, first_b + c
                    size += 1
    return size


@compiled(fastmath={"reassoc", "nsz", "contract"})
def differences(x, i, j, out):
    """Squared distances of pairs i, j of rows from the differences of their coordinates, summed in float64."""
    for m in range(len(i)):
        total = 0.0
        for c in range(x.shape[1]):
            step = np.float64(x[i[m], c]) - np.float64(x[j[m], c])
            total += step * step
        out[m] = total
