"""Points as rows, and tiles of inner products between them, by the fastest route that keeps distances exact.

uint8 images    `Integers`: whole numbers without any rounding. Where the processor multiplies 8-bit integers
                faithfully (a self-test with extreme values decides), in 8 bits; else in float32 over so few pixels
                that every partial sum is a whole number below 2^24.
other points    `Quantized` and `Floats`: products in 8 bits, in float32 or in float64, whichever is the fastest that
                tells neighbors apart, propose candidates with a proven lower bound of the distance of all others;
                float64 differences of coordinates decide.
"""

import math
import time
from functools import cached_property, lru_cache
from tempfile import TemporaryFile
from threading import Lock

import numpy as np
import torch

from intrinsic.images import ImageSet
from intrinsic.properties.selection import differences, in_threads, norms, quantize, ranges, shift

MEMORY = 2**30  # bytes of working memory beside points and results, unless told otherwise
INT8_PIXELS = 65_536  # 8-bit products of at most this many pixels are summed in int32: at most 2^30
FLOAT32_PIXELS = 1024  # products of numbers in [-128, 127]: at most 2^24, where float32 still counts
INT32_PIXELS = 16_384  # up to here 255^2 D < 2^30, so scores fit into int32
CHUNK = 4096  # coordinates in one floating-point product
STRIP_BYTES = 32 * 2**20  # of coordinates converted at once


class BadPoints(ValueError):
    """Points, labels or groups that have no neighbors in the asked sense."""


class Points:
    """Points as rows. Made by `as_points`.

    n, dimensions    number of points and of coordinates
    integers         True for uint8: squared distances are whole numbers, in grey levels
    """

    def __init__(self, rows, memory=MEMORY):
        self.x = rows
        self.n, self.dimensions = rows.shape
        self.integers = rows.dtype == np.uint8
        self.memory = memory

    def __len__(self):
        return self.n

    def take(self, rows):
        """The points at an index array, as Points."""
        return Points(self.x[rows], self.memory)

    def on_same_scale(self, rows):
        """Other points, with the scale and the mean of these: their scores are in the same unit."""
        other = Points(rows, self.memory)
        if not self.integers:
            other.scaling = self.scaling
        return other

    def distance(self, squared):
        """Distances in the points' own unit (pixels in [0, 1] for uint8) from squared ones of scores."""
        root = np.sqrt(np.asarray(squared, dtype=np.float64))
        return root / 255 if self.integers else np.ldexp(root, self.exponent)

    def differences(self, i, j):
        """Squared distances (m,) of the pairs i, j, from differences of coordinates in float64; unit as scores."""
        out = np.empty(len(i))
        in_threads(lambda part: differences(self.x, i, j, self.scales, out, *part), ranges(len(i), 256))
        return out

    @cached_property
    def integer_products(self):
        """The route of uint8 images."""
        return Integers(self)

    @cached_property
    def quantized(self):
        """The fastest route of other points."""
        return Quantized(self)

    @cached_property
    def singles(self):
        """The route in float32."""
        return Floats(self, np.float32)

    @cached_property
    def doubles(self):
        """The route in float64, for points that float32 cannot tell apart."""
        return Floats(self, np.float64)

    def parts(self, coordinates=1):
        """Slices of rows, of at most STRIP_BYTES of float64 each, and less where memory is little."""
        step = max(1, min(STRIP_BYTES, self.memory // 16) // (8 * max(coordinates, 1)))
        return [slice(start, min(start + step, self.n)) for start in range(0, self.n, step)]

    @cached_property
    def scaling(self):
        """(first, second, center, spread): w = (x 2^-first - center) 2^-second, of which none exceeds spread.

        The powers of two keep squares away from overflow and underflow and round nothing; they are 0 unless needed.
        The center is the mean of at most 256 points: any center leaves all differences as they are.
        """
        low, high = np.full(self.dimensions, np.inf), np.full(self.dimensions, -np.inf)
        for rows in self.parts(self.dimensions):
            low = np.minimum(low, self.x[rows].min(axis=0))
            high = np.maximum(high, self.x[rows].max(axis=0))
        first = _exponent(float(max(high.max(), -low.min())))
        count = int(np.clip(self.memory // (64 * self.dimensions), 1, 256))
        some = self.x[:: -(-self.n // count)].astype(np.float64)
        center = np.ldexp(some, -first).mean(axis=0)
        spread = float(np.maximum(np.ldexp(high, -first) - center, center - np.ldexp(low, -first)).max())
        second = _exponent(spread)
        return first, second, center, math.ldexp(spread, -second)

    @property
    def exponent(self):
        """Scores of points that are no images are in units of 4^exponent."""
        return 0 if self.integers else self.scaling[0] + self.scaling[1]

    @cached_property
    def scales(self):
        """2^-first and 2^-second, each as a product of two factors, since one may overflow; empty for no scaling."""
        exponents = self.scaling[:2]
        if not any(exponents):
            return np.empty(0)
        return np.array([2.0**part for e in exponents for part in (-e // 2, -e - (-e // 2))])

    def centered(self, rows, dtype):
        """The coordinates w of some points, rounded once to `dtype`."""
        first, second, center, _ = self.scaling
        if not first and not second and self.x.dtype == dtype:
            return self.x[rows] - center.astype(dtype)
        w = self.x[rows].astype(np.float64)
        if first:
            w = np.ldexp(w, -first)
        w -= center.astype(dtype)
        return (np.ldexp(w, -second) if second else w).astype(dtype, copy=False)


def _exponent(largest):
    """The power of two that brings a number near 1, or 0 if its square is far from over- and underflow in float32."""
    return 0 if largest == 0 or 2.0**-40 < largest < 2.0**40 else int(np.frexp(largest)[1])


def as_points(x, memory=MEMORY):
    """Points from an ImageSet, an array (in memory or memory-mapped), a torch tensor, or an iterator of arrays.

    The first index counts points. uint8 is read as pixels in [0, 1], that is grey levels / 255; other numbers have
    their own unit. A memory-mapped array stays on disk; the arrays of an iterator are written to a temporary file.
    Raises BadPoints.
    """
    if isinstance(x, Points):
        return x
    if isinstance(getattr(x, "points", None), Points):  # Neighbors
        return x.points
    if isinstance(x, ImageSet):
        x = x.images
    if hasattr(x, "__next__"):
        x = _spooled(x)
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
        step = max(1, STRIP_BYTES // x[0].nbytes)
        bad = sum(int((~np.isfinite(x[s : s + step])).any(axis=1).sum()) for s in range(0, len(x), step))
        if bad:
            raise BadPoints(
                f"{bad} of {len(x)} points hold NaN or infinity, to which no distance exists: remove or repair them"
            )
    if x.dtype not in (np.uint8, np.float32, np.float64):
        x = x.astype(np.float32 if x.dtype.kind == "b" or x.dtype.itemsize < 3 else np.float64)
    return Points(np.ascontiguousarray(x), memory)


def _spooled(blocks):
    """All arrays of an iterator, one after the other, as one memory-mapped array in a temporary file."""
    file, shape, dtype, n = TemporaryFile(), None, None, 0  # noqa: SIM115  (open as long as the array)
    for given in blocks:
        block = np.asarray(given)
        if block.ndim < 2 or (shape is not None and (block.shape[1:] != shape or block.dtype != dtype)):
            raise BadPoints(
                f"an array of the iterator has shape {block.shape} and type {block.dtype}, which does not go with the "
                f"others ({shape}, {dtype}): give arrays (some points, ...) of one shape and type"
            )
        shape, dtype, n = block.shape[1:], block.dtype, n + len(block)
        file.write(np.ascontiguousarray(block).data)
    if not n:
        raise BadPoints("the iterator gave no points, so there is nothing to measure: give at least two")
    file.flush()
    return np.memmap(file, dtype=dtype, mode="r", shape=(n, *shape))


# -------------------------------------------------------------------------------------------------- routes


class Integers:
    """Inner products of uint8 images, as whole numbers without rounding.

    128 is subtracted from every grey level, which changes no difference. The products are summed

    - in 8-bit arithmetic with 32-bit sums, over at most 65,536 pixels: sums of at most 2^30;
    - or, where the self-test of that fails, in float32 over at most 1,024 pixels: every partial sum is a whole
      number of at most 2^24, exact in whatever order it is formed;

    and added up as integers. In int32 up to 16,384 pixels, where no score exceeds 255^2 D < 2^30; else in int64.
    """

    exact = True
    opposite_candidates = 1

    def __init__(self, points, faithful=None):
        self.points, self.dimensions = points, points.dimensions
        self.faithful = int8_is_faithful() and int8_is_fast() if faithful is None else faithful
        self.dtype = np.dtype(np.int32 if points.dimensions <= INT32_PIXELS else np.int64)
        held = points.n * points.dimensions <= points.memory // 4
        self._signed = np.empty((points.n, points.dimensions), dtype=np.int8) if held else None
        self.norm = np.empty(points.n, dtype=self.dtype)
        for rows in points.parts(points.dimensions):
            whole = self._signed[rows] if held else np.empty((rows.stop - rows.start, points.dimensions), dtype=np.int8)
            self._read(rows, whole)

    def candidates(self, k, n):
        """How many of the smallest scores hold the k nearest of n points: those."""
        return min(k, n)

    def lower(self, scores, index=None):
        """Squared distances from scores: themselves."""
        return scores.astype(np.float64)

    def _read(self, rows, whole):
        """Whole numbers of some rows into an array, and their norms."""
        x, norm = self.points.x[rows], self.norm[rows]
        in_threads(lambda part: shift(x, whole, norm, *part), ranges(len(x), 64))

    def _whole(self, rows, columns):
        return np.bitwise_xor(self.points.x[rows, columns], 128).view(np.int8)

    def _part(self, rows, columns):
        if self._signed is not None:
            return self._signed[rows, columns]
        return self._whole(rows, columns)

    def bytes_a_point(self):
        """Working memory that one more row or column of a tile takes, beside the tile."""
        if self.faithful:
            return 0 if self._signed is not None else min(self.dimensions, INT8_PIXELS)
        return 4 * min(self.dimensions, FLOAT32_PIXELS)

    def product(self, rows, columns, out=None):
        """Inner products, self.dtype (rows, columns), of points given by slices or index arrays."""
        n_rows, n_columns = _length(rows, self.points.n), _length(columns, self.points.n)
        out = np.empty((n_rows, n_columns), dtype=self.dtype) if out is None else out
        # torch's 8-bit product leaves its result unwritten for some sides of length 1 (pytorch issue 195066)
        in_8_bits = self.faithful and min(n_rows, n_columns) > 1
        step = INT8_PIXELS if in_8_bits else FLOAT32_PIXELS
        for start in range(0, self.dimensions, step):
            chunk = slice(start, min(start + step, self.dimensions))
            a, b = (torch.from_numpy(self._part(side, chunk)) for side in (rows, columns))
            if in_8_bits and chunk.stop - start > 1:
                if start == 0 and self.dtype == np.int32:
                    torch._int_mm(a, b.T, out=torch.from_numpy(out))
                    continue
                part = torch._int_mm(a, b.T).numpy()
            else:
                with full_precision():
                    part = (a.to(torch.float32) @ b.to(torch.float32).T).numpy()
            if start == 0:
                np.copyto(out, part, casting="unsafe")
            else:
                out += part.astype(self.dtype)
        return out


class Quantized(Integers):
    """Inner products of points rounded to 8 bits: the fastest proposals, where neighbors are further apart than that.

    Of the centered coordinates w of a point, q = round(w / s) is kept, with s = max|w| / 127, and the length r of what
    that loses, r = |w - s q|. By the triangle inequality the distance of two points is at least

        s |q_a - q_b| - r_a - r_b

    where |q_a - q_b|^2, the score, is a whole number known exactly. A point that is not among the candidates has a
    score of at least the last candidate's: with the largest r of all points for r_b, that bounds its distance from
    below, and `selection.decide` knows whether anything was missed. Points that stay uncertain go on in float32.
    """

    exact = False
    opposite_candidates = 16

    def __init__(self, points, ratio=5.0):
        first, second, center, spread = points.scaling
        self.step = spread / 127 if spread > 0 else 1.0
        self.ratio = ratio
        self._scales = np.array([2.0**part for e in (first, second) for part in (-e // 2, -e - (-e // 2))])
        self._center = center
        self.residual = np.zeros(points.n)
        super().__init__(points)
        self.residual *= 1 + 1e-9
        self.residual += 2.0**-40 * math.sqrt(points.dimensions) * spread  # what rounding w and r in float64 can do

    def candidates(self, k, n):
        """How many of the smallest scores probably hold the k nearest, as far as a few points have shown."""
        return min(n, math.ceil(self.ratio * k) + 4)

    def lower(self, scores, index=None):
        """Lower bounds of the squared distances of points that have these scores, with points `index` or any."""
        largest = self.residual.max()
        own = largest if index is None else self.residual[index][:, None]
        return np.maximum(self.step * np.sqrt(scores.astype(np.float64)) - own - largest, 0.0) ** 2

    def _read(self, rows, whole):
        self._quantize(rows, whole, self.norm[rows], self.residual[rows])

    def _whole(self, rows, columns):
        n = _length(rows, self.points.n)
        whole = np.empty((n, self.dimensions), dtype=np.int8)
        self._quantize(rows, whole, np.empty(n, dtype=self.dtype), np.empty(n))
        return whole[:, columns]

    def _quantize(self, rows, whole, norm, residual):
        x = self.points.x[rows]
        how = (self._scales, self._center, self.step)
        in_threads(lambda part: quantize(x, *how, whole, norm, residual, *part), ranges(len(x), 32))


class Floats:
    """Inner products of centered points in float32 or float64, and norms that make scores lower bounds.

    With w the scaled, centered coordinates of a point rounded to the type, u = 2^-24 (or 2^-53) its rounding and sums
    over chunks of c = min(D, 4096) coordinates, the score a + b - 2 g misses the squared distance of the points by at
    most e (|w_a|^2 + |w_b|^2) + t, with

        e = (c + D/c + 28) u            float32; the norms are summed in float64
        e = (2 (c + D/c) + 28) u        float64

    since a sum of c terms, in whatever order, loses at most c u of the sum of their sizes (Higham 2002, section 3.1),
    2 |w_a||w_b| <= |w_a|^2 + |w_b|^2, rounding the coordinates moves a squared distance by at most 4.1 u of that, and
    the additions of a score and the comparisons with thresholds take the rest; t = 2^-120 D covers underflow. The
    norms a = (1 - 1.01 e) |w|^2 - t, rounded down, therefore make every score a lower bound of the squared distance.

    What the proposal may miss: a point is left out of the m candidates only if its squared distance is at least the
    m-th score. So whenever the k-th exact distance among the candidates is below that score, nothing was missed,
    whatever the data; otherwise the point is searched again in float64, and at last by differences alone.
    """

    exact = False
    opposite_candidates = 4

    def __init__(self, points, dtype):
        self.points, self.dimensions, self.dtype = points, points.dimensions, np.dtype(dtype)
        chunk = min(self.dimensions, CHUNK)
        terms = chunk + -(-self.dimensions // chunk)
        single = self.dtype == np.float32
        self.error = 1.01 * ((terms + 28) * 2.0**-24 if single else (2 * terms + 28) * 2.0**-53)
        self._rows = None
        if points.n * points.dimensions * self.dtype.itemsize <= points.memory // 4:
            self._rows = np.empty((points.n, points.dimensions), dtype=self.dtype)
        norm = np.empty(points.n)
        for rows in points.parts(points.dimensions):
            part, out = points.centered(rows, self.dtype), np.empty(rows.stop - rows.start)
            if self._rows is not None:
                self._rows[rows] = part
            in_threads(lambda lo_hi, part=part, out=out: norms(part, out, *lo_hi), ranges(len(part), 64))
            norm[rows] = out
        bound = norm * (1 - self.error) - self.dimensions * 2.0**-120
        self.norm = np.nextafter(bound.astype(self.dtype), -np.inf, dtype=self.dtype)

    def candidates(self, k, n):
        """How many of the smallest scores probably hold the k nearest."""
        return min(n, k + max(8, k // 2))

    def lower(self, scores, index=None):
        """Lower bounds of squared distances: the scores."""
        return scores.astype(np.float64)

    def _part(self, rows):
        return self._rows[rows] if self._rows is not None else self.points.centered(rows, self.dtype)

    def bytes_a_point(self):
        """Working memory that one more row or column of a tile takes, beside the tile."""
        return 0 if self._rows is not None else 3 * 8 * self.dimensions

    def product(self, rows, columns, out=None):
        """Inner products, self.dtype (rows, columns), of points given by slices or index arrays."""
        a, b = (torch.from_numpy(self._part(side)) for side in (rows, columns))
        out = np.empty((len(a), len(b)), dtype=self.dtype) if out is None else out
        target = torch.from_numpy(out)
        with full_precision():
            for start in range(0, self.dimensions, CHUNK):
                stop = min(start + CHUNK, self.dimensions)
                if start == 0:
                    torch.mm(a[:, :stop], b[:, :stop].T, out=target)
                else:
                    target += a[:, start:stop] @ b[:, start:stop].T
        return out


def _length(places, n):
    return len(range(*places.indices(n))) if isinstance(places, slice) else len(places)


class full_precision:
    """Within it, float32 products are float32 products: no TF32, no bfloat16; the setting is all threads'."""

    _lock, _inside, _before = Lock(), 0, None

    def __enter__(self):
        cls = type(self)
        with cls._lock:
            if not cls._inside:
                cls._before = torch.get_float32_matmul_precision()
                torch.set_float32_matmul_precision("highest")
            cls._inside += 1

    def __exit__(self, *_):
        cls = type(self)
        with cls._lock:
            cls._inside -= 1
            if not cls._inside:
                torch.set_float32_matmul_precision(cls._before)


@lru_cache(maxsize=4)
def int8_is_faithful(device="cpu"):
    """Whether 8-bit products with 32-bit sums are right here; they are not on x86 processors without VNNI.

    Those add two products in 16 bits, which saturates without a word. Tested with extreme and random values, in
    small and large blocks, against float64, which is exact for these.
    """
    if not hasattr(torch, "_int_mm"):
        return False
    generator = torch.Generator().manual_seed(0)
    for m, n, d in ((32, 40, 64), (64, 256, 1000), (300, 304, 3072)):
        a, b = (torch.randint(-128, 128, (size, d), dtype=torch.int8, generator=generator) for size in (m, n))
        a[:3], b[:3] = torch.tensor([[-128], [127], [-128]]), torch.tensor([[-128], [127], [127]])
        a[3], b[3] = 127, -128
        try:
            if device != "cpu":
                a, b = (torch.nn.functional.pad(side, (0, -d % 8)).to(device) for side in (a, b))
            found = torch._int_mm(a, b.T)
        except RuntimeError:
            return False
        if not torch.equal(found.cpu().double(), a.cpu().double() @ b.cpu().double().T):
            return False
    return True


@lru_cache(maxsize=1)
def int8_is_fast():
    """Whether 8-bit products on this CPU take less time than float32 ones: the fastest of three each, in one block.

    On x86 processors without VNNI they may be right and yet be far slower than single-precision ones.
    """
    whole = torch.zeros((256, 1024), dtype=torch.int8)
    single = whole.float()
    seconds = []
    for product in (lambda: torch._int_mm(whole, whole.T), lambda: single @ single.T):
        product()
        clock = []
        for _ in range(3):
            started = time.perf_counter()
            product()
            clock.append(time.perf_counter() - started)
        seconds.append(min(clock))
    return seconds[0] < seconds[1]


@lru_cache(maxsize=4)
def float32_is_faithful(device="cpu"):
    """Whether float32 products keep all 24 bits: numbers that TF32 and bfloat16 would round are multiplied by 1."""
    with full_precision():
        a = torch.full((64, 512), 1 + 2.0**-14, device=device)
        found = a @ torch.ones(512, 72, device=device)
    return bool((found.double() - 512 * (1 + 2.0**-14)).abs().max() <= 2.0**-7)
