"""How the pairs of n points are gone through: in tiles, each pair once, on this machine, on a GPU or on Dask workers.

    rows    0 --------------------- n
    block 1 [diagonal][ tile ][ tile ]        a tile right of the diagonal serves its rows and its columns;
    block 2           [diagonal][tile]        a tile on the diagonal holds both orders and serves its rows
    block 3                 [diagonal]

Whatever the tiles and wherever they are computed, the lists that come out are the same, bit for bit.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from threading import Lock, local

import numpy as np
import torch
from tqdm import tqdm

from intrinsic.properties.products import (
    FLOAT32_PIXELS,
    INT8_PIXELS,
    BadPoints,
    Floats,
    Integers,
    Points,
    Quantized,
    float32_is_faithful,
    full_precision,
    int8_is_faithful,
    int8_is_fast,
)
from intrinsic.properties.selection import Lists, Side, decide, in_threads, ranges, search, select, unknown

BLOCK = 512  # rows and columns of a tile: 1 MiB of int32, which a core's own cache holds
SIDE_PARTS = ("index", "norm", "code")
KEEP_POINTS, KEEP_BYTES = 8_000, 256 * 2**20  # up to here all tiles are kept
TASK_BYTES = 8 * 2**20  # of a block of points that goes to Dask's scheduler
FEW = 64  # points that differences alone settle in less time than a finer route takes to prepare
PROBE = 48  # points tried first, to see which route tells neighbors apart
MOST_CANDIDATES = 5.0  # for each neighbor; points that need more in 8 bits go through float32


@dataclass(frozen=True)
class Tile:
    """A tile to be made: places of its rows and columns, and its inner products by `make(buffer)`."""

    rows: slice
    columns: slice
    make: Callable

    @property
    def diagonal(self):
        """Whether its rows are its columns."""
        return self.rows == self.columns


class Kept:
    """The tiles of a pass, for subsets of its points without new products.

    tiles   {(first row, first column): inner products}; the norms are the route's
    """

    def __init__(self, route):
        self.route, self.tiles = route, {}

    def of(self, index) -> list[Tile]:
        """Tiles of a subset, given by its ascending index array."""
        found = []
        for (row, column), tile in self.tiles.items():
            rows, columns = (
                slice(*np.searchsorted(index, (first, first + length)).tolist())
                for first, length in zip((row, column), tile.shape, strict=True)
            )
            if rows.start < rows.stop and columns.start < columns.stop:
                places = np.ix_(index[rows] - row, index[columns] - column)
                found.append(Tile(rows, columns, lambda _, tile=tile, places=places: tile[places]))
        return found


def computed(route, keep: Kept | None = None) -> list[Tile]:
    """Tiles of all points, each pair in one of them."""
    n, block = route.points.n, _block_size(route)

    def product(rows, columns, buffer):
        height, width = rows.stop - rows.start, columns.stop - columns.start
        if keep is None:
            return route.product(rows, columns, buffer(route.dtype, height * width).reshape(height, width))
        keep.tiles[rows.start, columns.start] = tile = route.product(rows, columns)
        return tile

    parts = _slices(n, block)
    return [Tile(a, b, partial(product, a, b)) for i, a in enumerate(parts) for b in parts[i:]]


def _slices(n, block):
    return [slice(start, min(start + block, n)) for start in range(0, n, block)]


def _block_size(route, n=None):
    """Rows and columns of a tile: small for few points, where the diagonal counts, and for little memory."""
    n, room = route.points.n if n is None else n, route.points.memory // (4 * torch.get_num_threads())
    block = int(np.clip(-(-n // 8), 64, BLOCK if n <= KEEP_POINTS else 2 * BLOCK))
    while block > 8 and block * (block * 2 * route.dtype.itemsize + 2 * route.bytes_a_point()) > room:
        block //= 2
    return block


def can_keep(route):
    """Whether all tiles may stay in memory."""
    n = route.points.n
    size = (n * (n + _block_size(route)) // 2) * route.dtype.itemsize
    return n <= KEEP_POINTS and size <= min(KEEP_BYTES, route.points.memory // 4)


class Buffers(local):
    """One array for each thread, used again for tile after tile."""

    array = None

    def __call__(self, dtype, size):
        if self.array is None or self.array.dtype != dtype or len(self.array) < size:
            self.array = np.empty(size, dtype=dtype)
        return self.array[:size]


def lists_of(parts: list[Tile], route, side: Side, k, q, n_classes, declared=(), progress=False, what="distances"):
    """Lists of the points of `side` from tiles, and of declared subsets of them.

    declared   [(places ascending, Lists)], filled in place from the same tiles

    A thread makes a tile by itself; while it shows the tile to the lists of its points, no other thread may. Lists do
    not depend on the order in which they are shown tiles.
    """
    lists = Lists.empty(len(side.index), k, q, route.dtype)
    buffer = Buffers()
    locks = {place: Lock() for part in parts for place in (part.rows.start, part.columns.start)}
    bar = tqdm(total=len(parts), desc=what, unit="tile", disable=not progress)

    def show(part):
        rows, columns = part.rows, part.columns
        tile = part.make(buffer)
        row, column = side.part(rows), side.part(columns)
        if part.diagonal:
            _check(route, row, tile)
        with locks[min(rows.start, columns.start)], nullcontext() if part.diagonal else locks[columns.start]:
            to_columns = None if part.diagonal else lists.part(columns)
            select(tile, row, column, lists.part(rows), to_columns, n_classes)
            for places, own in declared:
                r, c = (slice(*np.searchsorted(places, (part.start, part.stop))) for part in (rows, columns))
                if r.start < r.stop and c.start < c.stop:
                    a, b = places[r] - rows.start, places[c] - columns.start
                    to_columns = None if part.diagonal else own.part(c)
                    select(tile[np.ix_(a, b)], row.part(a), column.part(b), own.part(r), to_columns, n_classes)
            bar.update()

    with bar:
        in_threads(show, parts)
    return lists


def _check(route, row, tile):
    """A point times itself is its norm, which was summed in another way."""
    if route.dtype.kind == "i" and not np.array_equal(tile.diagonal(), row.norm):
        raise ArithmeticError(
            "a point is not at distance 0 from itself, so this machine's matrix product rounds and no distance can be "
            "trusted: turn off reduced precision in its linear algebra"
        )


# ----------------------------------------------------------------------------------------- floats: deciding


def route_of(points: Points, side: Side, k, n_classes):
    """The route for a pass: for other points than images, the fastest that decides nearly all of a few points."""
    if points.integers:
        return points.integer_products
    probe = np.linspace(0, points.n - 1, PROBE).astype(np.int64) if points.n > 8 * PROBE else None
    if probe is not None and int8_is_faithful() and int8_is_fast():
        found = points.quantized
        found.ratio = MOST_CANDIDATES
        lists = _proposed(points, found, side, probe, k, n_classes)
        near, *_, certain = _decide(points, found, probe, lists, k)
        needed = (found.lower(lists.near, probe) <= near[:, -1:]).sum(axis=1) + 1
        if certain.mean() > 0.9:
            found.ratio = 1.1 * float(needed[certain].max()) / k
            return found
    if not float32_is_faithful():
        return points.doubles
    if probe is not None:
        lists = _proposed(points, points.singles, side, probe, k, n_classes)
        *_, certain = _decide(points, points.singles, probe, lists, k)
        if certain.mean() < 0.5:
            return points.doubles
    return points.singles


def decided(points, route, side, lists, k, n_classes):
    """Squared distances and indices of the k nearest, and of the nearest with another label, from lists: exact.

    Returns near, near_index (n, k), opposite, opposite_index (n, 1 or 0), as float64 and int64; infinity and -1 where
    there are no more points. Whole numbers are decided already; proposals of floats are decided by differences.
    """
    if route.exact:
        values, indices = [lists.near, lists.opposite], [lists.near_index, lists.opposite_index]
        near, opposite = (np.where(i < 0, np.inf, v.astype(np.float64)) for v, i in zip(values, indices, strict=True))
        return near[:, :k], lists.near_index[:, :k], opposite, lists.opposite_index
    *found, certain = _decide(points, route, side.index, lists, k)
    doubtful = np.flatnonzero(~certain)
    finer = {"i": ("singles", "doubles"), "f": ("doubles",)[: route.dtype.itemsize == 4]}[route.dtype.kind]
    for again in finer:
        if len(doubtful) > FEW:
            lists = _proposed(points, getattr(points, again), side, doubtful, k, n_classes)
            *some, certain = _decide(points, getattr(points, again), side.index[doubtful], lists, k)
            for all_points, part in zip(found, some, strict=True):
                all_points[doubtful] = part
            doubtful = doubtful[~certain]
    if len(doubtful):
        for all_points, part in zip(found, _searched(points, side, doubtful, k, n_classes), strict=True):
            all_points[doubtful] = part
    return tuple(found)


def _proposed(points, route, side, places, k, n_classes):
    """Lists of the points at some places of `side`, from their products with all of it."""
    n = len(side.index)
    q = min(route.opposite_candidates, n) if n_classes > 1 else 0
    lists = Lists.empty(len(places), route.candidates(k, n), q, route.dtype)
    whole = Side(side.index, route.norm[side.index], side.code, side.group)
    block = _block_size(route, n)

    def show(start):
        rows = slice(start, start + block)
        row = whole.part(places[rows])
        for first in range(0, n, block):
            column = whole.part(slice(first, first + block))
            select(route.product(row.index, column.index), row, column, lists.part(rows), None, n_classes)

    in_threads(show, range(0, len(places), block))
    return lists


def _decide(points, route, index, lists, k):
    """The nearest of the candidates in the lists of points `index`, by differences, and which are certain."""
    n = len(index)
    near, near_index = np.full((n, k), np.inf), np.full((n, k), -1, dtype=np.int64)
    q = min(1, lists.opposite.shape[1])
    opposite, opposite_index = np.full((n, q), np.inf), np.full((n, q), -1, dtype=np.int64)
    certain, sure = np.ones(n, dtype=bool), np.ones(n, dtype=bool)

    def work(scores, candidate, found, found_index, certain):
        everything = candidate[:, -1] < 0
        bound = route.lower(scores, index)

        def part(lo_hi):
            decide(points.x, index, points.scales, bound, candidate, everything, found, found_index, certain, *lo_hi)

        in_threads(part, ranges(n, 16))

    work(lists.near, lists.near_index, near, near_index, certain)
    if q:
        work(lists.opposite, lists.opposite_index, opposite, opposite_index, sure)
    return near, near_index, opposite, opposite_index, certain & sure


def _searched(points, side, places, k, n_classes):
    index = side.index[places]
    none = np.empty(0, dtype=np.int64)
    apart = side.group is not None
    group = (side.group[places], side.group) if apart else (none, none)
    lists = Lists.empty(len(places), k, min(1, n_classes - 1), np.float64)
    found = (lists.near, lists.near_index, lists.opposite, lists.opposite_index)
    code = (side.code[places], side.code)
    in_threads(
        lambda part: search(points.x, index, side.index, points.scales, *code, *group, apart, *found, *part),
        ranges(len(places), 1),
    )
    return found


# --------------------------------------------------------------------------------------------------- a GPU


def device_of(device):
    """The torch device that "auto", "cpu", "cuda" or "cuda:1" means here; raises BadPoints."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise BadPoints(f'device={device!r} is no device: give "auto", "cpu" or "cuda"') from error
    if found.type == "cuda" and not torch.cuda.is_available():
        raise BadPoints(f'device="{device}" was asked for and torch sees no GPU here: give device="cpu" or "auto"')
    if found.type not in ("cpu", "cuda"):
        raise BadPoints(f'device={device!r} has no exact products here: give "auto", "cpu" or "cuda"')
    return found


def lists_on_device(route, side: Side, k, q, device, block=4096, progress=False):
    """The lists of `lists_of`, by torch operations on a device; the same tiles, each computed once.

    Scores of whole numbers and the index of the other point are one 64-bit number, so that equal ones stay in order.
    """
    n = len(side.index)
    whole = route.dtype.kind == "i"
    lists = Lists.empty(n, k, q, route.dtype)
    norm = torch.from_numpy(side.norm).to(device)
    code = torch.from_numpy(side.code).to(device)
    group = None if side.group is None else torch.from_numpy(side.group).to(device)
    if whole:
        norm = norm.to(torch.int64)
    empty = 2**62 if whole else torch.inf
    best = torch.full((n, k), empty, dtype=norm.dtype, device=device)
    best_index = torch.full((n, k), -1, dtype=torch.int64, device=device)
    other = torch.full((n, q), empty, dtype=norm.dtype, device=device)
    other_index = torch.full((n, q), -1, dtype=torch.int64, device=device)

    def take(values, indices, rows, score, columns):
        both = torch.cat([values[rows], score], dim=1)
        value, place = torch.topk(both, values.shape[1], dim=1, largest=False, sorted=True)
        known = torch.cat([indices[rows], columns.expand(score.shape[0], -1)], dim=1)
        values[rows], indices[rows] = value, torch.gather(known, 1, place)

    def show(rows, columns, score):
        index = torch.arange(columns.start, columns.stop, device=device)
        if whole:
            score = score * n + index
        if q:
            across = torch.where(code[rows][:, None] == code[columns], empty, score)
            take(other, other_index, rows, across, index)
        score = score.clone()
        if rows == columns:
            score.fill_diagonal_(empty)
        if group is not None:
            score[group[rows][:, None] == group[columns]] = empty
        take(best, best_index, rows, score, index)

    multiply = _multiplier(route, side, device)
    starts = range(0, n, block)
    for start in tqdm(starts, desc="distances", unit="strip", disable=not progress):
        rows = slice(start, min(start + block, n))
        for first in range(start, n, block):
            columns = slice(first, min(first + block, n))
            product = multiply(rows, columns)
            score = norm[rows][:, None] + norm[columns] - 2 * product
            show(rows, columns, score)
            if first != start:
                show(columns, rows, score.T.contiguous())
    for values, indices, out, out_index in (
        (best, best_index, lists.near, lists.near_index),
        (other, other_index, lists.opposite, lists.opposite_index),
    ):
        missing = values == empty
        out[:] = torch.where(missing, unknown(route.dtype), values // n if whole else values).cpu().numpy()
        places = torch.where(missing, -1, indices).cpu().numpy()
        out_index[:] = np.where(places < 0, -1, side.index[places])
    return lists


def _multiplier(route, side, device):
    """(rows, columns) -> inner products on the device, int64 for whole numbers."""
    index = side.index
    if isinstance(route, Integers):
        faithful = int8_is_faithful(str(device))
        step = INT8_PIXELS if faithful else FLOAT32_PIXELS

        def load(rows, start):
            part = torch.from_numpy(np.ascontiguousarray(route._part(index[rows], slice(start, start + step))))
            part = part.to(device)
            if not faithful:
                return part.to(torch.float32)
            count = max(part.shape[0] + -part.shape[0] % 8, 24)  # the GPU's 8-bit product wants multiples of 8
            return torch.nn.functional.pad(part, (0, -part.shape[1] % 8, 0, count - part.shape[0]))

        def multiply(rows, columns):
            shape = (rows.stop - rows.start, columns.stop - columns.start)
            total = torch.zeros(shape, dtype=torch.int64, device=device)
            for start in range(0, route.dimensions, step):
                a, b = load(rows, start), load(columns, start)
                with full_precision():
                    part = torch._int_mm(a, b.T) if faithful else a @ b.T
                total += part[: shape[0], : shape[1]].to(torch.int64)
            return total

        return multiply

    assert isinstance(route, Floats)

    def multiply_floats(rows, columns):
        with full_precision():
            a, b = (torch.from_numpy(route._part(index[side])).to(device) for side in (rows, columns))
            total = a[:, :0] @ b[:, :0].T
            for start in range(0, route.dimensions, 4096):
                total += a[:, start : start + 4096] @ b[:, start : start + 4096].T
            return total

    return multiply_floats


# ---------------------------------------------------------------------------------------------------- Dask


def lists_on_workers(client, points, route, side: Side, k, q, n_classes, block=None, progress=False):
    """The lists of `lists_of`, each tile a task of a dask.distributed client; only a lost tile is computed again.

    Blocks of points are tasks as well, so that they too can be made again where a worker is lost. Tiles come in as
    they are ready, and are merged by score and index, whatever their order.

    block   points in a block; by default 4,096, or as many as TASK_BYTES hold, since the scheduler keeps them
    """
    from dask.distributed import as_completed

    n = points.n
    if block is None:
        block = int(np.clip(TASK_BYTES // points.x[0].nbytes, 16, 4096))
    lists = Lists.empty(n, k, q, route.dtype)
    scale = None if points.integers else points.scaling
    how = (type(route).__name__, route.dtype.str, scale, points.memory)
    parts = _slices(n, block)
    blocks = [client.submit(_block, points.x[part], side.part(part), pure=False) for part in parts]
    pending = {}
    for i in range(len(parts)):
        for j in range(i, len(parts)):
            task = client.submit(_tile, blocks[i], blocks[j], i == j, *how, k, q, n_classes, pure=False)
            pending[task.key] = (task, i, j)
    tasks = as_completed([task for task, _, _ in pending.values()], with_results=True)
    for task, (of_rows, of_columns) in tqdm(tasks, total=len(pending), desc="tiles", disable=not progress):
        _, i, j = pending.pop(task.key)
        lists.part(parts[i]).merge(of_rows)
        if of_columns is not None:
            lists.part(parts[j]).merge(of_columns)
        task.release()
    return lists


def _block(rows, side):
    return np.ascontiguousarray(rows), side


def _tile(first, second, diagonal, kind, dtype, scale, memory, k, q, n_classes):
    """Lists of both blocks of a tile from each other; None for the second where both are the same."""
    (x, row), (y, column) = first, second
    points = Points(x if diagonal else np.concatenate([x, y]), memory)
    if scale is not None:
        points.scaling = scale
    route = {"Integers": Integers, "Quantized": Quantized}.get(kind, partial(Floats, dtype=np.dtype(dtype)))(points)
    if diagonal:
        return lists_of(computed(route), route, row, k, q, n_classes), None
    n = len(x)
    group = None if row.group is None else np.concatenate([row.group, column.group])
    index, norm, code = (np.concatenate([getattr(side, part) for side in (row, column)]) for part in SIDE_PARTS)
    both = Side(index, norm, code, group)
    across = []
    for a in _slices(n, _block_size(route)):
        for b in _slices(len(y), _block_size(route)):
            columns = slice(n + b.start, n + b.stop)
            across.append(Tile(a, columns, partial(_across, route, a, columns)))
    lists = lists_of(across, route, both, k, q, n_classes)
    return lists.part(slice(0, n)), lists.part(slice(n, None))


def _across(route, rows, columns, buffer):
    return route.product(rows, columns)
