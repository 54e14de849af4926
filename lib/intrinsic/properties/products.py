"""Points as rows, and tiles of inner products between them that keep distances exact.

`Integers` make products of uint8 images without any rounding. Products of other points, `Floats`, propose candidates
with a proven lower bound of the distance of all others; float64 differences of coordinates decide.
"""

from contextlib import contextmanager
from functools import lru_cache, reduce
from threading import RLock
from timeit import repeat

import numpy as np
import torch
from torch.nn import functional

from intrinsic.properties.selection import differences, in_threads

BLOCK = {"cpu": 512, "cuda": 2048}  # rows and columns of a tile; 1 MiB of int32 fits into a core's own cache
HELD_BYTES = {"cpu": 2**29, "cuda": 2**34}  # of converted rows that stay in memory during a pass
TILE_BYTES = 2**26  # of converted rows that a tile may take where they are not held
STRIP_BYTES = 2**25  # of coordinates converted at once
INT8_PIXELS = 65_536  # 8-bit products of at most this many pixels are summed in int32: at most 2^30
FLOAT32_PIXELS = 1024  # products of numbers in [-128, 127]: at most 2^24, where float32 still counts
CHUNK = 4096  # coordinates of floats that one product sums
INT32_PIXELS = 16_384  # up to here 255^2 D < 2^30, so scores fit into int32
PART = 1024  # differences of coordinates that a thread makes at a time
LARGEST = 1e150  # coordinates of this size have squares that float64 cannot hold


class BadPoints(ValueError):
    """Points, labels or groups that have no neighbors in the asked sense."""


class Points:
    """Points as rows `x`, and the device of their products.

    `integers` is True for uint8, whose squared distances are whole numbers in grey levels.
    """

    def __init__(self, rows, device):
        self.x, self.device, self.integers = rows, device, rows.dtype == np.uint8
        self.n, self.dimensions = rows.shape
        self.lists, self._routes = {}, {}  # of closest pairs, see pairs.closest_pairs

    def route(self, fine=False):
        """What makes products of these points; `fine`: in float64, for floats that float32 does not tell apart."""
        single = not fine and float32_is_faithful(self.device.type)
        kind = torch.int8 if self.integers else torch.float32 if single else torch.float64
        if kind not in self._routes:
            self._routes[kind] = Integers(self) if self.integers else Floats(self, kind)
        return self._routes[kind]

    def take(self, rows):
        """The points at an index array, as Points."""
        return Points(self.x[rows], self.device)

    def distance(self, squared):
        """Distances in the points' own unit (pixels in [0, 1] for uint8) from squared ones."""
        root = np.sqrt(np.asarray(squared, dtype=np.float64))
        return root / 255 if self.integers else root

    def differences(self, i, j):
        """Squared distances of the pairs i, j from differences of coordinates in float64."""
        out = np.empty(len(i))
        parts = [slice(start, start + PART) for start in range(0, len(i), PART)]
        in_threads(lambda part: differences(self.x, i[part], j[part], out[part]), parts)
        return out

    def strips(self):
        """Slices of rows of at most STRIP_BYTES of float64 each."""
        step = max(1, STRIP_BYTES // (8 * self.dimensions))
        return [slice(start, min(start + step, self.n)) for start in range(0, self.n, step)]


def as_points(x, device="auto"):
    """Points from an ImageSet, Neighbors, an array (in memory or memory-mapped) or a torch tensor.

    The first index counts points. uint8 is read as pixels in [0, 1], that is grey levels / 255; other numbers have
    their own unit. A memory-mapped array stays on disk. Raises BadPoints.
    """
    known = getattr(x, "points", x)  # of Neighbors
    if isinstance(known, Points):
        return known if device == "auto" else Points(known.x, device_of(device))
    x = getattr(x, "images", x)  # an ImageSet
    if hasattr(x, "detach"):  # a torch tensor, on any device
        x = x.detach().cpu()
        x = (x.float() if x.is_floating_point() and x.element_size() < 4 else x).numpy()
    try:
        x = np.asarray(x)
    except ValueError as error:
        raise BadPoints("the points have different numbers of coordinates: give an array (n, D)") from error
    if x.dtype.kind not in "buif":
        raise BadPoints(f"the points are of type {x.dtype}, which has no distances: give real numbers (n, D)")
    if x.ndim < 2 or 0 in x.shape or len(x) < 2:
        raise BadPoints(f"the points have shape {x.shape}: give (n, D), with at least two points")
    if x.dtype not in (np.uint8, np.float32, np.float64):
        x = x.astype(np.float32 if x.dtype.kind == "b" or x.dtype.itemsize < 3 else np.float64)
    points = Points(np.ascontiguousarray(x.reshape(len(x), -1)), device_of(device))
    if not points.integers:
        strips = (np.abs(points.x[strip], dtype=np.float64) for strip in points.strips())
        bad = sum(int((~(strip < LARGEST)).any(axis=1).sum()) for strip in strips)
        if bad:
            raise BadPoints(f"{bad} of {len(x)} points hold NaN, infinity or more than {LARGEST:g}: drop them")
    return points


def device_of(device):
    """The torch device that "auto", "cpu", "cuda" or "cuda:1" means here; raises BadPoints."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise BadPoints(f'device={device!r} is no device: give "auto", "cpu" or "cuda"') from error
    if found.type not in ("cpu", "cuda") or (found.type == "cuda" and not torch.cuda.is_available()):
        raise BadPoints(f'device="{device}" has no exact products here: give "auto" or "cpu"')
    return found


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


class Route:
    """Points as they enter products: held on their device if they fit there, else made when they are asked for.

    `norm` holds what each point adds to a score, `_made` gives points in the type of the products, and `step` is how
    many coordinates one product takes.
    """

    def _hold(self, points, dtype):
        """Hold the points, if they fit; returns their squared norms, float64."""
        self.points, self.rows, norm = points, None, np.empty(points.n)
        if points.x.size * dtype.itemsize <= HELD_BYTES[points.device.type]:
            self.rows = torch.empty(points.x.shape, dtype=dtype, device=points.device)
        for strip in points.strips():
            part = self._made(points.x[strip])
            norm[strip] = np.einsum("ij,ij->i", part, part, dtype=np.float64)
            if self.rows is not None:
                self.rows[strip] = torch.from_numpy(part)
        return norm

    def parts(self):
        """All pairs of blocks of points, as slices, each pair once; blocks are small for few points and unheld rows."""
        n, device = self.points.n, self.points.device
        block = int(np.clip(-(-n // 8), 64, BLOCK[device.type]))
        if self.rows is None:
            block = int(np.clip(TILE_BYTES // (4 * self.points.dimensions), 8, block))
        blocks = [slice(start, min(start + block, n)) for start in range(0, n, block)]
        return [(a, b) for i, a in enumerate(blocks) for b in blocks[i:]]

    def product(self, rows, columns):
        """Inner products of points given by two slices, a contiguous tensor (rows, columns) on the CPU."""
        x, device = self.points.x, self.points.device
        sides = (
            torch.from_numpy(self._made(x[side])).to(device) if self.rows is None else self.rows[side]
            for side in (rows, columns)
        )
        a, b = (side.split(self.step, dim=1) for side in sides)
        return reduce(torch.Tensor.add_, map(self._multiplied, a, b)).cpu().contiguous()


class Integers(Route):
    """Inner products of uint8 images, as whole numbers without rounding.

    128 is subtracted from every grey level, which changes no difference. The products are summed in 8-bit arithmetic
    with 32-bit sums, over at most 65,536 pixels; or, where the self-test of that fails, in float32 over at most 1,024
    pixels, where every partial sum is exact in whatever order it is formed. These sums are added up as integers, in
    int32 up to 16,384 pixels, else in int64.
    """

    def __init__(self, points, faithful=None):
        device = points.device.type
        if faithful is None:
            faithful = int8_is_faithful(device) and (device == "cuda" or int8_is_fast())
        self._faithful, self.step = faithful, INT8_PIXELS if faithful else FLOAT32_PIXELS
        small = points.dimensions <= INT32_PIXELS
        self._type, whole = (torch.int32, np.int32) if small else (torch.int64, np.int64)
        self.norm = self._hold(points, torch.int8).astype(whole)

    def _made(self, x):
        return np.bitwise_xor(x, 128).view(np.int8)

    def _multiplied(self, a, b):
        return (_eight_bits(a, b) if self._faithful else a.float() @ b.float().T).to(self._type)


def _eight_bits(a, b):
    """torch's 8-bit product of padded sides: a GPU wants multiples of 8 and more than 16 rows, a CPU no side of 1.

    On a CPU torch leaves the result of some sides of length 1 unwritten (pytorch issue 195066).
    """
    m, n, width = (max(24, length + -length % 8) for length in (len(a), len(b), a.shape[1]))
    c, d = (
        part if part.shape == (rows, width) else functional.pad(part, (0, width - part.shape[1], 0, rows - len(part)))
        for part, rows in ((a, m), (b, n))
    )
    return torch._int_mm(c.contiguous(), d.contiguous().T)[: len(a), : len(b)]


class Floats(Route):
    """Inner products of centered points in float32 or float64, and norms that make scores lower bounds.

    With w the scaled, centered coordinates of a point rounded to the type, u = 2^-24 (or 2^-53) its rounding and sums
    over chunks of c = min(D, 4096) coordinates, the score a + b - 2 g misses the squared distance of the points by at
    most e (|w_a|^2 + |w_b|^2) + t, with e = (2 (c + D/c) + 28) u: a sum of c terms, in whatever order, loses at most
    c u of the sum of their sizes (Higham 2002, section 3.1), 2 |w_a||w_b| <= |w_a|^2 + |w_b|^2, rounding the
    coordinates moves a squared distance by at most 4.1 u of that, and the additions of a score and the comparisons with
    thresholds take the rest; t = 2^-120 D covers underflow. The norms are summed in float64, so that float32 needs
    c + D/c once. The norms a = (1 - 1.01 e) |w|^2 - t, rounded down, make every score a lower bound.

    A point is left out of m candidates only if its squared distance is at least the m-th score. So whenever the k-th
    exact distance among them is below that score, nothing was missed; else float64, or at last differences, decide.
    """

    step = CHUNK

    def __init__(self, points, kind):
        x, single, chunk = points.x, kind == torch.float32, min(points.dimensions, CHUNK)
        terms, self._type = chunk + -(-points.dimensions // chunk), np.float32 if single else np.float64
        some = x[:: -(-points.n // 256)].astype(np.float64)
        self._center = some.mean(axis=0).astype(x.dtype)  # any center leaves all differences as they are
        spread = max(float(np.abs(x[s].astype(np.float64) - self._center).max()) for s in points.strips())
        # a power of two, which rounds nothing, keeps squares away from overflow and underflow
        self._exponent = 0 if spread == 0 or 2.0**-40 < spread < 2.0**40 else int(np.frexp(spread)[1])
        error = 1.01 * ((terms + 28) * 2.0**-24 if single else (2 * terms + 28) * 2.0**-53)
        bound = self._hold(points, kind) * (1 - error) - points.dimensions * 2.0**-120
        self.norm = np.nextafter(bound.astype(self._type), -np.inf, dtype=self._type)

    def lower(self, scores):
        """Lower bounds of squared distances, in the points' unit."""
        return np.ldexp(np.asarray(scores, dtype=np.float64), 2 * self._exponent)

    def _made(self, x):
        if x.dtype == self._type and not self._exponent:
            return x - self._center
        return np.ldexp(x.astype(np.float64) - self._center, -self._exponent).astype(self._type)

    def _multiplied(self, a, b):
        return a @ b.T


_precision = RLock()


@contextmanager
def full_precision():
    """Within it, float32 products are float32 products: no TF32, no bfloat16. One pass at a time is in it."""
    with _precision:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)


@lru_cache(maxsize=4)
def int8_is_faithful(device="cpu"):
    """Whether 8-bit products with 32-bit sums are right here, for extreme and random values in small and large blocks.

    They are not on x86 processors without VNNI, which add two products in 16 bits: that saturates without a word.
    """
    generator = torch.Generator().manual_seed(0)
    for m, n, d in ((32, 40, 64), (64, 256, 1000), (300, 304, 3072)):
        a, b = (torch.randint(-128, 128, (size, d), dtype=torch.int8, generator=generator) for size in (m, n))
        a[:3], b[:3] = torch.tensor([[-128], [127], [-128]]), torch.tensor([[-128], [127], [127]])
        a[3], b[3] = 127, -128
        try:
            found = _eight_bits(a.to(device), b.to(device))
        except (RuntimeError, AttributeError):  # no such product in this torch, or on this device
            return False
        if not torch.equal(found.cpu().double(), a.double() @ b.double().T):
            return False
    return True


@lru_cache(maxsize=1)
def int8_is_fast():
    """Whether 8-bit products on this processor take less time than float32 ones: the fastest of three each."""
    whole = torch.zeros((256, 1024), dtype=torch.int8)
    single = whole.float()
    products = (lambda: torch._int_mm(whole, whole.T), lambda: single @ single.T)
    seconds = [min(repeat(product, number=1, repeat=4)) for product in products]
    return seconds[0] < seconds[1]


@lru_cache(maxsize=4)
def float32_is_faithful(device="cpu"):
    """Whether float32 products keep all 24 bits: numbers that TF32 and bfloat16 would round are multiplied by 1."""
    with full_precision():
        a = torch.full((64, 512), 1 + 2.0**-14, device=device)
        found = a @ torch.ones(512, 72, device=device)
    return bool((found.double() - 512 * (1 + 2.0**-14)).abs().max() <= 2.0**-7)
