"""The products of a network on a CPU: convolutions, forward and backward, in float32.

A convolution of 3 x 3 with stride 1 is computed in tiles of m x m outputs, m = 4 or 2, by Winograd's minimal
filtering: with d a tile of (m + 2) x (m + 2) inputs, g the kernel, y the outputs and B, G, A small fixed matrices,

    y = A^T [ (G g G^T) * (B^T d B) ] A

so that one input channel takes (m + 2)^2 products for m^2 outputs, in place of 9 m^2: a quarter for m = 4. Summed
over channels the products are (m + 2)^2 matrix products over all tiles. The gradients are the adjoint of each factor.
Maps of at most 3 x 3 take a product for each weight of the kernel instead, over the places where it meets an input.
Of the others those of small images, where torch's own are slow, are one matrix product: the inputs under the kernel,
laid out in rows, with the weights. A VGG enlarges its last map of h x w to 7 x 7 before its first linear layer; where
h x w is small, the weights of equal inputs are summed first, which leaves a product of h w / 49 of the size.

Sums are in another order than in torch's own convolution, so results differ in the last places of float32; they do
not depend on the number of threads. Torch's own, which first layers keep, may do so (on a CPU with AVX-512 they do).
Source: Winograd 1980; Lavin & Gray 2016, sections 3 and 4.
"""

import threading
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
from threadpoolctl import ThreadpoolController
from torch import nn
from torch.autograd.function import once_differentiable

from intrinsic.properties.selection import compiled, in_threads, ranges

CHUNK_BYTES = 2**22  # of transformed inputs that are worked on at a time, so that they stay in the processor's cache
FEWEST_TILES = 128  # of a chunk, below which its matrix products are slow
PARTS = 4  # into which the chunks of a layer are shared out
WEIGHT_COST = 40  # tiles whose products take as long as transforming a matrix of weights, forward and backward
FEWEST_CHANNELS = 16  # of inputs and outputs, from which tiles are the faster way
COLORS, LARGE_KERNEL = 3, 25  # inputs and least weights of an input for which torch's own first layers are made
FEW_POSITIONS = 9  # of a VGG's last map, up to which the weights of equal inputs are summed first
FEW_INPUTS, FEW_INPUTS_ALONE = 4, 16  # a step, up to which torch's other convolutions, and those of 1 x 1, are slower
SMALL_MAP = 3  # the largest side of maps that take a product for each weight of a kernel of 3 x 3

_torchs_own = ContextVar("torchs_own", default=False)


@contextmanager
def torchs_own():
    """Inside the block networks of `replace` use torch's convolutions: to compare."""
    before = _torchs_own.set(True)
    try:
        yield
    finally:
        _torchs_own.reset(before)


def replace(network: nn.Module) -> nn.Module:
    """The network, changed in place: convolutions without groups or dilation, and a VGG, become this module's classes.

    Their names, weights and results are the same; where a tensor is not float32 on a CPU they do what torch's do.
    """
    for module in network.modules():
        plain = type(module) is nn.Conv2d and module.groups == 1 and set(module.dilation) == {1}
        if plain and module.padding_mode == "zeros" and not isinstance(module.padding, str):
            module.__class__ = Conv2d
    if type(network).__name__ == "VGG" and type(network).__module__ == "torchvision.models.vgg":
        network.__class__ = _pooled_vgg()
    return network


def _ours(*tensors) -> bool:
    plain = all(one.device.type == "cpu" and one.dtype == torch.float32 and one.numel() for one in tensors)
    return plain and not _torchs_own.get() and not torch.is_autocast_enabled("cpu")


class Conv2d(nn.Conv2d):
    """torch's, by matrix products where input and weights are float32 on a CPU and no autocast is on."""

    def forward(self, x):
        if x.ndim == 4 and _ours(x, self.weight):
            return convolution(x, self.weight, self.bias, self.stride, self.padding)
        return super().forward(x)


@lru_cache(maxsize=1)
def _pooled_vgg():
    from torchvision.models.vgg import VGG  # takes a second, which pages that only read records are spared

    class PooledVGG(VGG):
        """torchvision's, whose pooling and first linear layer are one product where that is smaller."""

        def forward(self, x):
            x = self.features(x)
            first, small = self.classifier[0], x.ndim == 4 and x.shape[2] * x.shape[3] <= FEW_POSITIONS
            watched = self.avgpool._forward_hooks or first._forward_hooks or first._forward_pre_hooks
            if not small or watched or not _ours(x, first.weight):
                return self.classifier(torch.flatten(self.avgpool(x), 1))
            x = _PooledLinear.apply(x, first.weight, first.bias, self.avgpool.output_size)
            for layer in self.classifier[1:]:
                x = layer(x)
            return x

    PooledVGG.__qualname__ = "PooledVGG"
    return PooledVGG


def __getattr__(name):
    """PooledVGG, where pickle looks for it."""
    if name == "PooledVGG":
        return _pooled_vgg()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def convolution(x, weight, bias=None, stride=(1, 1), padding=(0, 0)) -> torch.Tensor:
    """torch.nn.functional.conv2d of float32 tensors on a CPU, without groups or dilation; channels-last."""
    if tuple(weight.shape[2:]) == (3, 3) and tuple(padding) == (1, 1) and tuple(x.shape[2:]) == (1, 1):
        weight, padding = weight[:, :, 1:2, 1:2], (0, 0)  # all other weights meet the border's zeros only
        stride = (1, 1)
    square = tuple(weight.shape[2:]) == (3, 3) and tuple(stride) == (1, 1) and tuple(padding) == (1, 1)
    if square and min(weight.shape[:2]) >= FEWEST_CHANNELS:
        return (_Shifts if max(x.shape[2:]) <= SMALL_MAP else _Tiles).apply(x, weight, bias)
    if x.shape[1] < COLORS and weight[0, 0].numel() >= LARGE_KERNEL:  # torch's is faster with channels of zeros
        x, weight = (nn.functional.pad(one, (0, 0, 0, 0, 0, COLORS - x.shape[1])) for one in (x, weight))
        x = x.contiguous(memory_format=torch.channels_last)
    few = FEW_INPUTS if max(weight.shape[2:]) > 1 else FEW_INPUTS_ALONE
    if x.shape[2] * x.shape[3] <= few * stride[0] * stride[1]:
        return _Columns.apply(x, weight, bias, tuple(stride), tuple(padding))
    return nn.functional.conv2d(x, weight, bias, stride, padding)


# ------------------------------------------------------------------------------------------------------- Winograd's


def tile_side(height: int, width: int, n: int) -> int:
    """m, 4 or 2, by the products that n images of this size take."""

    def cost(m):
        return (m + 2) ** 2 * (n * -(-height // m) * -(-width // m) + WEIGHT_COST)

    return min((4, 2), key=cost)


class _Tiles(torch.autograd.Function):
    """A convolution of 3 x 3 with stride 1 and padding 1."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        x_rows = _rows(x)
        m = tile_side(*x_rows.shape[1:3], len(x_rows))
        outputs, y = _new(len(x), *x_rows.shape[1:3], len(weight))

        def some(part):
            for images, tiles in part:
                v = _workspace("inputs", (len(u), tiles, u.shape[2]))
                p = _workspace("outputs", (len(u), tiles, u.shape[1]))
                _for_images(inputs_to_tiles, x_rows, images, m, v)
                _products(v, u.transpose(0, 2, 1), p)
                _for_images(tiles_to_outputs, y, images, m, p)

        with _one_blas_thread():
            u = _transformed(weight, m)
            in_threads(some, _parts(x_rows, m))
        ctx.m, ctx.u = m, u
        ctx.save_for_backward(x, weight)
        return outputs if bias is None else outputs.add_(bias[:, None, None])

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        x, weight = ctx.saved_tensors
        m, u, x_rows, dy_rows = ctx.m, ctx.u, _rows(x), _rows(dy)
        for_x, for_weight, for_bias = ctx.needs_input_grad
        parts = _parts(x_rows, m)
        dx = np.zeros(x_rows.shape, np.float32) if for_x else None
        du = [np.empty_like(u) for _ in parts] if for_weight else None

        def some(which):
            for i, (images, tiles) in enumerate(parts[which]):
                v = _workspace("inputs", (len(u), tiles, u.shape[2]))
                p = _workspace("outputs", (len(u), tiles, u.shape[1]))
                _for_images(outputs_to_tiles, dy_rows, images, m, p)
                if for_weight:
                    _for_images(inputs_to_tiles, x_rows, images, m, v)
                    _products(p.transpose(0, 2, 1), v, du[which], add=i > 0)
                if for_x:
                    _products(p, u, v)
                    _for_images(tiles_to_inputs, dx, images, m, v)

        with _one_blas_thread():
            in_threads(some, range(len(parts)))
            for other in du[1:] if for_weight else ():
                du[0] += other
            dw = _weight_gradient(du[0], weight, m) if for_weight else None
        return _images(dx) if for_x else None, dw, dy.sum((0, 2, 3)) if for_bias else None


def _parts(x, m):
    """The images in up to PARTS parts, each a list of chunks, (images, their tiles).

    A chunk is a range of whole images, whose transformed inputs are about CHUNK_BYTES. Parts are worked on at the same
    time where there are several threads; how many there are depends on the images alone, and so do the sums.
    """
    tiles = -(-x.shape[1] // m) * -(-x.shape[2] // m)
    wanted = min(CHUNK_BYTES // (4 * (m + 2) ** 2 * x.shape[3]), len(x) * tiles // PARTS)
    step = max(1, max(wanted, FEWEST_TILES) // tiles)
    chunks = [range(first, min(first + step, len(x))) for first in range(0, len(x), step)]
    chunks = [(images, len(images) * tiles) for images in chunks]
    if len(chunks) < PARTS:
        return [chunks]
    edges = [len(chunks) * part // PARTS for part in range(PARTS + 1)]
    return [chunks[lo:hi] for lo, hi in pairwise(edges)]


def _for_images(kernel, pixels, images, m, tiles):
    """A transform between pixels (n, H, W, C) and the tiles of some of the images."""
    down = -(-pixels.shape[1] // m)
    in_threads(
        lambda part: kernel(pixels, m, images.start * down, tiles, part[0] * down, part[1] * down),
        ranges(len(images), 1),
    )


def _products(a, b, out, add=False):
    """out = a @ b, or out + a @ b, of stacks of matrices: few calls, so that threads seldom wait for each other."""

    def some(part):
        some = slice(*part)
        if add:
            found = _workspace("products", out[some].shape)
            out[some] += np.matmul(a[some], b[some], out=found)
        else:
            np.matmul(a[some], b[some], out=out[some])

    in_threads(some, ranges(len(out), 4))


def _transformed(weight, m):
    """G g G^T of each pair of channels: ((m + 2)^2, outputs, inputs)."""
    u = np.empty(((m + 2) ** 2, *weight.shape[:2]), np.float32)
    w = _rows(weight)
    in_threads(lambda part: weights_to_tiles(w, m, u, *part), ranges(len(w), 8))
    return u


def _weight_gradient(du, weight, m):
    """The adjoint of _transformed, in the memory order of the weights."""
    dw = np.empty((len(weight), 3, 3, weight.shape[1]), np.float32)
    in_threads(lambda part: tiles_to_weights(dw, m, du, *part), ranges(len(dw), 8))
    return _images(dw).contiguous(memory_format=_order(weight))


# ------------------------------------------------------------------------------------------ a product for each weight


class _Shifts(torch.autograd.Function):
    """A convolution of 3 x 3 with stride 1 and padding 1 of small maps.

    y at (i, j) = sum over the shifts (r, s) of W_rs x at (i + r, j + s): for each shift one product over all places
    where the shifted one lies in the map. A map of 2 x 2 has 16 such pairs of places, where the kernel has 36 weights
    to meet. The weights are read where they are.
    """

    @staticmethod
    def forward(ctx, x, weight, bias):
        places, w = _by_place(x), _rows(weight)
        y = np.zeros((*places.shape[:3], len(w)), np.float32)

        def some(part):
            kernels = slice(*part)
            for here, there, r, s in _shifts(*places.shape[:2]):
                y[(*here, slice(None), kernels)] += _product(places[there], w[kernels, r, s].T)

        with _one_blas_thread():
            in_threads(some, _fixed(len(w)))
        ctx.save_for_backward(x, weight)
        outputs = _from_places(y)
        return outputs if bias is None else outputs.add_(bias[:, None, None])

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        x, weight = ctx.saved_tensors
        places, gradient, w = _by_place(x), _by_place(dy), _rows(weight)
        for_x, for_weight, for_bias = ctx.needs_input_grad
        dx = np.zeros_like(places) if for_x else None
        dw = np.empty_like(w) if for_weight else None
        shifts = _shifts(*places.shape[:2])
        if for_weight and len(shifts) < 9:  # a map of one row or column
            dw[:] = 0

        def inputs(part):
            channels = slice(*part)
            for here, there, r, s in shifts:
                dx[(*there, slice(None), channels)] += _product(gradient[here], w[:, r, s, channels])

        def weights(part):
            kernels = slice(*part)
            for here, there, r, s in shifts:
                a, b = gradient[(*here, slice(None), kernels)], places[there]
                a, b = a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1])
                np.matmul(a.T, b, out=dw[kernels, r, s])

        with _one_blas_thread():
            if for_x:
                in_threads(inputs, _fixed(places.shape[3]))
            if for_weight:
                in_threads(weights, _fixed(len(w)))
        dw = _images(dw).contiguous(memory_format=_order(weight)) if for_weight else None
        return _from_places(dx) if for_x else None, dw, dy.sum((0, 2, 3)) if for_bias else None


def _by_place(x):
    """A tensor (n, C, H, W) as an array (H, W, n, C), contiguous."""
    return x.detach().permute(2, 3, 0, 1).contiguous().numpy()


def _from_places(y):
    """An array (H, W, n, C) as a channels-last tensor (n, C, H, W) of its own memory, never a view."""
    made, rows = _new(y.shape[2], *y.shape[:2], y.shape[3])
    rows[...] = y.transpose(2, 0, 1, 3)
    return made


def _shifts(height, width):
    """(places of outputs, places of their inputs, row of the kernel, column of the kernel) of each shift with any."""

    def one(size):  # of a direction
        cuts = ((slice(1, None), slice(None, -1)), (slice(None), slice(None)), (slice(None, -1), slice(1, None)))
        return [(here, there, r) for r, (here, there) in enumerate(cuts) if r == 1 or size > 1]

    return [((i, j), (k, q), r, s) for i, k, r in one(height) for j, q, s in one(width)]


def _product(places, matrix):
    """places (..., C) @ matrix (C, K)"""
    return (places.reshape(-1, places.shape[-1]) @ matrix).reshape(*places.shape[:-1], -1)


def _fixed(count):
    """(lo, hi) that cover 0..count in up to PARTS parts, whatever the number of threads."""
    parts = max(1, min(PARTS, count // FEWEST_TILES))
    return list(pairwise(count * part // parts for part in range(parts + 1)))


# ----------------------------------------------------------------------------------------- one product, any convolution


class _Columns(torch.autograd.Function):
    """A convolution as one product: inputs under the kernel, a row for each output, with the weights."""

    @staticmethod
    def forward(ctx, x, weight, bias, stride, padding):
        x_rows, w = _rows(x), _flat(weight)
        outputs, y = _new(len(x), *_output_size(x, weight, stride, padding), len(w))
        with _one_blas_thread():
            for images in _few_images(y, w):
                columns = _columns(x_rows, images, weight, stride, padding, y)
                _product_by_rows(columns, w.T, y[images.start : images.stop].reshape(-1, len(w)))
        ctx.how = stride, padding
        ctx.save_for_backward(x, weight)
        return outputs if bias is None else outputs.add_(bias[:, None, None])

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        x, weight = ctx.saved_tensors
        (stride, padding), x_rows, w, dy_rows = ctx.how, _rows(x), _flat(weight), _rows(dy)
        for_x, for_weight, for_bias = ctx.needs_input_grad[:3]
        plain = _is_plain(weight, stride, padding)
        dx = (np.empty if plain else np.zeros)(x_rows.shape, np.float32) if for_x else None
        dw = np.empty_like(w) if for_weight else None
        with _one_blas_thread():
            for images in _few_images(dy_rows, w):
                some = dy_rows[images.start : images.stop].reshape(-1, len(w))
                if for_weight:
                    columns = _columns(x_rows, images, weight, stride, padding, dy_rows)
                    _product_by_rows(some.T, columns, dw, add=images.start > 0)
                if for_x and plain:
                    _product_by_rows(some, w, dx[images.start : images.stop].reshape(len(some), -1))
                elif for_x:
                    columns = _workspace("inputs", (len(some), w.shape[1]))
                    _product_by_rows(some, w, columns)
                    _spread(columns, images, weight, stride, padding, dy_rows, dx)
        dx, dw = _images(dx) if for_x else None, _kernel(dw, weight) if for_weight else None
        return dx, dw, dy.sum((0, 2, 3)) if for_bias else None, None, None


def _output_size(x, weight, stride, padding):
    sizes = zip(x.shape[2:], weight.shape[2:], stride, padding, strict=True)
    return tuple((size + 2 * pad - kernel) // step + 1 for size, kernel, step, pad in sizes)


def _kernel(dw, weight):
    """(outputs, height x width x inputs) as a tensor in the memory order of the weights."""
    k, c, high, wide = weight.shape
    return _images(dw.reshape(k, high, wide, c)).contiguous(memory_format=_order(weight))


def _flat(weight):
    """(outputs, height x width x inputs)"""
    return _rows(weight).reshape(len(weight), -1)


def _is_plain(weight, stride, padding):
    """1 x 1, where the inputs are their own columns."""
    return tuple(weight.shape[2:]) == (1, 1) and stride == (1, 1) and padding == (0, 0)


def _few_images(y, w):
    """Ranges of images whose columns are about CHUNK_BYTES."""
    outputs = y.shape[1] * y.shape[2]
    step = max(1, max(CHUNK_BYTES // (4 * w.shape[1]), FEWEST_TILES) // outputs)
    for first in range(0, len(y), step):
        yield range(first, min(first + step, len(y)))


def _columns(x, images, weight, stride, padding, y):
    """(outputs of some images, height x width x inputs) inputs under the kernel."""
    if _is_plain(weight, stride, padding):
        return x[images.start : images.stop].reshape(-1, x.shape[3])
    high, wide = weight.shape[2:]
    columns = _workspace("inputs", (len(images), *y.shape[1:3], high * wide * x.shape[3]))
    in_threads(
        lambda part: inputs_to_columns(x, images.start, columns, high, wide, *stride, *padding, *part),
        ranges(len(images), 1),
    )
    return columns.reshape(-1, columns.shape[3])


def _spread(columns, images, weight, stride, padding, y, dx):
    """The adjoint of _columns: added to dx."""
    columns = columns.reshape(len(images), *y.shape[1:3], -1)
    in_threads(
        lambda part: columns_to_inputs(columns, images.start, dx, *weight.shape[2:], *stride, *padding, *part),
        ranges(len(images), 1),
    )


def _product_by_rows(a, b, out, add=False):
    """out = a @ b, or out + a @ b, its rows in parts."""

    def some(part):
        here = out[slice(*part)]
        if add:
            here += np.matmul(a[slice(*part)], b, out=_workspace("products", here.shape))
        else:
            np.matmul(a[slice(*part)], b, out=here)

    in_threads(some, _fixed(len(a)))


@compiled()
def inputs_to_columns(x, start, columns, high, wide, down, across, above, left, lo, hi):
    """columns (n, outputs high, outputs wide, high x wide x C) of images start + lo .. start + hi; 0 outside."""
    _, height, width, channels = x.shape
    for image in range(lo, hi):
        for i in range(columns.shape[1]):
            for j in range(columns.shape[2]):
                column = columns[image, i, j]
                for k in range(high):
                    r = i * down - above + k
                    for q in range(wide):
                        s, to = j * across - left + q, (k * wide + q) * channels
                        if 0 <= r < height and 0 <= s < width:
                            column[to : to + channels] = x[start + image, r, s]
                        else:
                            column[to : to + channels] = 0


@compiled()
def columns_to_inputs(columns, start, x, high, wide, down, across, above, left, lo, hi):
    """The adjoint of inputs_to_columns: added to x."""
    _, height, width, channels = x.shape
    for image in range(lo, hi):
        for i in range(columns.shape[1]):
            for j in range(columns.shape[2]):
                column = columns[image, i, j]
                for k in range(high):
                    r = i * down - above + k
                    for q in range(wide):
                        s, at = j * across - left + q, (k * wide + q) * channels
                        if 0 <= r < height and 0 <= s < width:
                            here, there = x[start + image, r, s], column[at : at + channels]
                            for c in range(channels):
                                here[c] += there[c]


# ------------------------------------------------------------------------------- a linear layer over an enlarged map


class _PooledLinear(torch.autograd.Function):
    """y = W P x + b, with P the adaptive average of each channel's map of h x w to a larger one.

    x (n, C, h, w), weight (outputs, C x H x W). W P is taken first: (outputs, C x h x w).
    """

    @staticmethod
    def forward(ctx, x, weight, bias, size):
        pool = _pooling(tuple(x.shape[2:]), tuple(size))
        flat = np.ascontiguousarray(x.detach().reshape(len(x), -1).numpy())
        folded = np.empty((weight.numel() // len(pool), pool.shape[1]), np.float32)
        with _one_blas_thread():
            _product_by_rows(weight.detach().reshape(-1, len(pool)).numpy(), pool, folded)
            folded = folded.reshape(len(weight), -1)
            y = np.empty((len(x), len(weight)), np.float32)
            _product_by_columns(flat, folded.T, y)
        ctx.pool, ctx.folded = pool, folded
        ctx.save_for_backward(x)
        return torch.from_numpy(y).add_(bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        pool, folded, gradient = ctx.pool, ctx.folded, np.ascontiguousarray(dy.detach().numpy())
        for_x, for_weight, for_bias, _ = ctx.needs_input_grad
        dx = dw = None
        with _one_blas_thread():
            if for_x:
                dx = np.empty((len(x), folded.shape[1]), np.float32)
                _product_by_columns(gradient, folded, dx)
                dx = torch.from_numpy(dx).reshape(x.shape)
            if for_weight:
                flat = x.detach().reshape(len(x), -1).numpy()
                small, dw = np.empty_like(folded), np.empty((folded.size // pool.shape[1], len(pool)), np.float32)
                _product_by_columns(gradient.T, flat, small)
                _product_by_rows(small.reshape(-1, pool.shape[1]), pool.T, dw)
                dw = torch.from_numpy(dw).reshape(len(folded), -1)
        return dx, dw, dy.sum(0) if for_bias else None, None


@lru_cache
def _pooling(small, large):
    """P (H x W, h x w): the adaptive average of maps h x w to H x W."""
    units = torch.eye(small[0] * small[1]).reshape(-1, 1, *small)
    return nn.functional.adaptive_avg_pool2d(units, large).flatten(1).T.contiguous().numpy()


def _product_by_columns(a, b, out):
    """out = a @ b, its columns in parts."""

    def some(part):
        np.matmul(a, b[:, slice(*part)], out=out[:, slice(*part)])

    in_threads(some, _fixed(out.shape[1]))


# ------------------------------------------------------------------------------------------------- torch's and numpy's


def _rows(x):
    """A tensor (n, C, H, W) as an array (n, H, W, C), contiguous."""
    return x.detach().permute(0, 2, 3, 1).contiguous().numpy()


def _images(rows):
    """An array (n, H, W, C) as a channels-last tensor (n, C, H, W) of the same memory."""
    return torch.from_numpy(rows).permute(0, 3, 1, 2)


def _new(n, height, width, channels):
    """A channels-last tensor (n, C, H, W) and its memory as an array (n, H, W, C)."""
    made = torch.empty((n, channels, height, width), memory_format=torch.channels_last)
    return made, made.permute(0, 2, 3, 1).numpy()


_kept = threading.local()


def _workspace(name, shape):
    """An array whose memory the next call of this name and thread takes again: fresh memory costs time."""
    size = int(np.prod(shape))
    flat = getattr(_kept, name, None)
    if flat is None or flat.size < size:
        flat = np.empty(size, np.float32)
        setattr(_kept, name, flat)
    return flat[:size].reshape(shape)


def _order(weight):
    """The memory order of weights."""
    return torch.contiguous_format if weight.is_contiguous() else torch.channels_last


@lru_cache(maxsize=1)
def _libraries():
    return ThreadpoolController().select(user_api="blas")


def _one_blas_thread():
    """numpy's products take one thread inside the block: threads are shared out here, whatever their number."""
    return _libraries().limit(limits=1)


# ----------------------------------------------------------------------------- transforms of one direction of a tile
# Rows of n numbers lie in flat arrays: row k of the source at x[at + k * step], of the target at y[to + k * stride].
# Places are unsigned, so that none of them is read from an array's end, and factors are float32, since Python's own
# would make the sums float64; both let the compiler use vector instructions.
F2, F4, F5, F8 = (np.float32(one) for one in (2, 4, 5, 8))
HALF, QUARTER, SIXTH = (np.float32(1 / one) for one in (2, 4, 6))
Place = np.uint64


@compiled(fastmath={"contract"})
def _inputs_4(x, at, step, y, to, stride, n):
    """y (6, n) = B^T x (6, n), m = 4."""
    for i in range(Place(n)):
        o, q = at + i, to + i
        x1, x2, x3, x4 = x[o + step], x[o + Place(2) * step], x[o + Place(3) * step], x[o + Place(4) * step]
        y[q] = F4 * x[o] - F5 * x2 + x4
        y[q + stride] = (x4 - F4 * x2) + (x3 - F4 * x1)
        y[q + Place(2) * stride] = (x4 - F4 * x2) - (x3 - F4 * x1)
        y[q + Place(3) * stride] = (x4 - x2) + F2 * (x3 - x1)
        y[q + Place(4) * stride] = (x4 - x2) - F2 * (x3 - x1)
        y[q + Place(5) * stride] = F4 * x1 - F5 * x3 + x[o + Place(5) * step]


@compiled(fastmath={"contract"})
def _inputs_adjoint_4(x, at, step, y, to, stride, n):
    """y (6, n) += B x (6, n), m = 4."""
    for i in range(Place(n)):
        o, q = at + i, to + i
        x1, x2, x3, x4 = x[o + step], x[o + Place(2) * step], x[o + Place(3) * step], x[o + Place(4) * step]
        x0, x5 = x[o], x[o + Place(5) * step]
        y[q] += F4 * x0
        y[q + stride] += F4 * (x2 - x1) + F2 * (x4 - x3) + F4 * x5
        y[q + Place(2) * stride] -= F5 * x0 + F4 * (x1 + x2) + (x3 + x4)
        y[q + Place(3) * stride] += (x1 - x2) + F2 * (x3 - x4) - F5 * x5
        y[q + Place(4) * stride] += x0 + (x1 + x2) + (x3 + x4)
        y[q + Place(5) * stride] += x5


@compiled(fastmath={"contract"})
def _outputs_4(x, at, step, y, to, stride, n):
    """y (4, n) = A^T x (6, n)."""
    for i in range(Place(n)):
        o, q = at + i, to + i
        x1, x2, x3, x4 = x[o + step], x[o + Place(2) * step], x[o + Place(3) * step], x[o + Place(4) * step]
        y[q] = x[o] + (x1 + x2) + (x3 + x4)
        y[q + stride] = (x1 - x2) + F2 * (x3 - x4)
        y[q + Place(2) * stride] = (x1 + x2) + F4 * (x3 + x4)
        y[q + Place(3) * stride] = (x1 - x2) + F8 * (x3 - x4) + x[o + Place(5) * step]


@compiled(fastmath={"contract"})
def _outputs_adjoint_4(x, at, step, y, to, stride, n):
    """y (6, n) = A x (4, n)."""
    for i in range(Place(n)):
        o, q = at + i, to + i
        x0, x1, x2, x3 = x[o], x[o + step], x[o + Place(2) * step], x[o + Place(3) * step]
        y[q] = x0
        y[q + stride] = (x0 + x2) + (x1 + x3)
        y[q + Place(2) * stride] = (x0 + x2) - (x1 + x3)
        y[q + Place(3) * stride] = (x0 + F4 * x2) + (F2 * x1 + F8 * x3)
        y[q + Place(4) * stride] = (x0 + F4 * x2) - (F2 * x1 + F8 * x3)
        y[q + Place(5) * stride] = x3


@compiled(fastmath={"contract"})
def _inputs_2(x, at, step, y, to, stride, n):
    """y (4, n) = B^T x (4, n), m = 2."""
    for i in range(Place(n)):
        o, q = at + i, to + i
        x0, x1, x2, x3 = x[o], x[o + step], x[o + Place(2) * step], x[o + Place(3) * step]
        y[q] = x0 - x2
        y[q + stride] = x1 + x2
        y[q + Place(2) * stride] = x2 - x1
        y[q + Place(3) * stride] = x1 - x3


@compiled(fastmath={"contract"})
def _inputs_adjoint_2(x, at, step, y, to, stride, n):
    """y (4, n) += B x (4, n), m = 2."""
    for i in range(Place(n)):
        o, q = at + i, to + i
        x0, x1, x2, x3 = x[o], x[o + step], x[o + Place(2) * step], x[o + Place(3) * step]
        y[q] += x0
        y[q + stride] += x1 - x2 + x3
        y[q + Place(2) * stride] += x1 + x2 - x0
        y[q + Place(3) * stride] -= x3


@compiled(fastmath={"contract"})
def _outputs_2(x, at, step, y, to, stride, n):
    """y (2, n) = A^T x (4, n)."""
    for i in range(Place(n)):
        o, q = at + i, to + i
        x1, x2 = x[o + step], x[o + Place(2) * step]
        y[q] = x[o] + x1 + x2
        y[q + stride] = x1 - x2 - x[o + Place(3) * step]


@compiled(fastmath={"contract"})
def _outputs_adjoint_2(x, at, step, y, to, stride, n):
    """y (4, n) = A x (2, n)."""
    for i in range(Place(n)):
        o, q = at + i, to + i
        x0, x1 = x[o], x[o + step]
        y[q] = x0
        y[q + stride] = x0 + x1
        y[q + Place(2) * stride] = x0 - x1
        y[q + Place(3) * stride] = -x1


@compiled(fastmath={"contract"})
def _weights_4(x, at, step, y, to, stride, n):
    """y (6, n) = G x (3, n), m = 4."""
    for i in range(Place(n)):
        o, q = at + i, to + i
        x0, x1, x2 = x[o], x[o + step], x[o + Place(2) * step]
        y[q] = QUARTER * x0
        y[q + stride] = -SIXTH * ((x0 + x2) + x1)
        y[q + Place(2) * stride] = -SIXTH * ((x0 + x2) - x1)
        y[q + Place(3) * stride] = SIXTH * ((QUARTER * x0 + x2) + HALF * x1)
        y[q + Place(4) * stride] = SIXTH * ((QUARTER * x0 + x2) - HALF * x1)
        y[q + Place(5) * stride] = x2


@compiled(fastmath={"contract"})
def _weights_adjoint_4(x, at, step, y, to, stride, n):
    """y (3, n) = G^T x (6, n), m = 4."""
    for i in range(Place(n)):
        o, q = at + i, to + i
        x1, x2, x3, x4 = x[o + step], x[o + Place(2) * step], x[o + Place(3) * step], x[o + Place(4) * step]
        y[q] = QUARTER * (x[o] + SIXTH * (x3 + x4)) - SIXTH * (x1 + x2)
        y[q + stride] = SIXTH * ((x2 - x1) + HALF * (x3 - x4))
        y[q + Place(2) * stride] = SIXTH * ((x3 + x4) - (x1 + x2)) + x[o + Place(5) * step]


@compiled(fastmath={"contract"})
def _weights_2(x, at, step, y, to, stride, n):
    """y (4, n) = G x (3, n), m = 2."""
    for i in range(Place(n)):
        o, q = at + i, to + i
        x0, x1, x2 = x[o], x[o + step], x[o + Place(2) * step]
        y[q] = x0
        y[q + stride] = HALF * ((x0 + x2) + x1)
        y[q + Place(2) * stride] = HALF * ((x0 + x2) - x1)
        y[q + Place(3) * stride] = x2


@compiled(fastmath={"contract"})
def _weights_adjoint_2(x, at, step, y, to, stride, n):
    """y (3, n) = G^T x (4, n), m = 2."""
    for i in range(Place(n)):
        o, q = at + i, to + i
        x1, x2 = x[o + step], x[o + Place(2) * step]
        y[q] = x[o] + HALF * (x1 + x2)
        y[q + stride] = HALF * (x1 - x2)
        y[q + Place(2) * stride] = HALF * (x1 + x2) + x[o + Place(3) * step]


# ------------------------------------------------------------------------------------------ transforms of whole images
# x (n, H, W, C). A strip is one row of tiles across an image: its first direction is taken for the whole strip at
# once. Strips are numbered over all images; strip `start` is the first one that v or p has tiles of, and lo .. hi,
# counted from there, are transformed.


@compiled()
def inputs_to_tiles(x, m, start, v, lo, hi):
    """v ((m + 2)^2, tiles, C) = B^T d B, d the (m + 2) x (m + 2) inputs of each tile, 0 outside of the image."""
    _, height, width, channels = x.shape
    a, across, down, row = m + 2, (width + m - 1) // m, (height + m - 1) // m, width * channels
    pixels, tiles, between = x.reshape(-1), v.reshape(-1), v.shape[1] * channels
    d, t = np.empty(a * row, np.float32), np.zeros(a * (across * m + 2) * channels, np.float32)
    wide = (across * m + 2) * channels
    for strip in range(lo, hi):
        image, top = (start + strip) // down, (start + strip) % down * m - 1
        for i in range(a):
            if 0 <= top + i < height:
                at = (image * height + top + i) * row
                d[i * row : (i + 1) * row] = pixels[at : at + row]
            else:
                d[i * row : (i + 1) * row] = 0
        if m == 4:
            _inputs_4(d, Place(0), Place(row), t, Place(channels), Place(wide), row)
        else:
            _inputs_2(d, Place(0), Place(row), t, Place(channels), Place(wide), row)
        for i in range(a):
            for tile in range(across):
                at, to = i * wide + tile * m * channels, i * a * between + (strip * across + tile) * channels
                if m == 4:
                    _inputs_4(t, Place(at), Place(channels), tiles, Place(to), Place(between), channels)
                else:
                    _inputs_2(t, Place(at), Place(channels), tiles, Place(to), Place(between), channels)


@compiled()
def tiles_to_inputs(x, m, start, v, lo, hi):
    """The adjoint of inputs_to_tiles: B v B^T is added to x (n, H, W, C), where tiles overlap."""
    _, height, width, channels = x.shape
    a, across, down, row = m + 2, (width + m - 1) // m, (height + m - 1) // m, width * channels
    pixels, tiles, between = x.reshape(-1), v.reshape(-1), v.shape[1] * channels
    d, t = np.empty(a * row, np.float32), np.empty(a * (across * m + 2) * channels, np.float32)
    wide = (across * m + 2) * channels
    for strip in range(lo, hi):
        t[:] = 0
        d[:] = 0
        for i in range(a):
            for tile in range(across):
                at, to = i * a * between + (strip * across + tile) * channels, i * wide + tile * m * channels
                if m == 4:
                    _inputs_adjoint_4(tiles, Place(at), Place(between), t, Place(to), Place(channels), channels)
                else:
                    _inputs_adjoint_2(tiles, Place(at), Place(between), t, Place(to), Place(channels), channels)
        if m == 4:
            _inputs_adjoint_4(t, Place(channels), Place(wide), d, Place(0), Place(row), row)
        else:
            _inputs_adjoint_2(t, Place(channels), Place(wide), d, Place(0), Place(row), row)
        image, top = (start + strip) // down, (start + strip) % down * m - 1
        for i in range(a):
            if 0 <= top + i < height:
                here = pixels[(image * height + top + i) * row : (image * height + top + i + 1) * row]
                there = d[i * row : (i + 1) * row]
                for j in range(row):
                    here[j] += there[j]


@compiled()
def tiles_to_outputs(y, m, start, p, lo, hi):
    """y (n, H, W, K) = A^T p A, p ((m + 2)^2, tiles, K)."""
    _, height, width, channels = y.shape
    a, across, down, row = m + 2, (width + m - 1) // m, (height + m - 1) // m, width * channels
    pixels, tiles, between = y.reshape(-1), p.reshape(-1), p.shape[1] * channels
    wide = across * m * channels
    s, d = np.empty(a * wide, np.float32), np.empty(m * row, np.float32)
    for strip in range(lo, hi):
        for i in range(a):
            for tile in range(across):
                at, to = i * a * between + (strip * across + tile) * channels, i * wide + tile * m * channels
                if m == 4:
                    _outputs_4(tiles, Place(at), Place(between), s, Place(to), Place(channels), channels)
                else:
                    _outputs_2(tiles, Place(at), Place(between), s, Place(to), Place(channels), channels)
        if m == 4:
            _outputs_4(s, Place(0), Place(wide), d, Place(0), Place(row), row)
        else:
            _outputs_2(s, Place(0), Place(wide), d, Place(0), Place(row), row)
        image, top = (start + strip) // down, (start + strip) % down * m
        for i in range(min(m, height - top)):
            to = (image * height + top + i) * row
            pixels[to : to + row] = d[i * row : (i + 1) * row]


@compiled()
def outputs_to_tiles(y, m, start, p, lo, hi):
    """The adjoint of tiles_to_outputs: p ((m + 2)^2, tiles, K) = A y A^T, y 0 outside of the image."""
    _, height, width, channels = y.shape
    a, across, down, row = m + 2, (width + m - 1) // m, (height + m - 1) // m, width * channels
    pixels, tiles, between = y.reshape(-1), p.reshape(-1), p.shape[1] * channels
    wide = across * m * channels
    s, d = np.zeros(a * wide, np.float32), np.empty(m * row, np.float32)
    for strip in range(lo, hi):
        image, top = (start + strip) // down, (start + strip) % down * m
        for i in range(m):
            if top + i < height:
                at = (image * height + top + i) * row
                d[i * row : (i + 1) * row] = pixels[at : at + row]
            else:
                d[i * row : (i + 1) * row] = 0
        if m == 4:
            _outputs_adjoint_4(d, Place(0), Place(row), s, Place(0), Place(wide), row)
        else:
            _outputs_adjoint_2(d, Place(0), Place(row), s, Place(0), Place(wide), row)
        for i in range(a):
            for tile in range(across):
                at, to = i * wide + tile * m * channels, i * a * between + (strip * across + tile) * channels
                if m == 4:
                    _outputs_adjoint_4(s, Place(at), Place(channels), tiles, Place(to), Place(between), channels)
                else:
                    _outputs_adjoint_2(s, Place(at), Place(channels), tiles, Place(to), Place(between), channels)


@compiled()
def weights_to_tiles(w, m, u, lo, hi):
    """u ((m + 2)^2, K, C) at outputs lo .. hi = G w G^T, w (K, 3, 3, C)."""
    outputs, channels, a = w.shape[0], w.shape[3], m + 2
    weights, tiles, row = w.reshape(-1), u.reshape(-1), 3 * w.shape[3]
    t = np.empty(a * row, np.float32)
    for k in range(lo, hi):
        if m == 4:
            _weights_4(weights, Place(3 * k * row), Place(row), t, Place(0), Place(row), row)
        else:
            _weights_2(weights, Place(3 * k * row), Place(row), t, Place(0), Place(row), row)
        for i in range(a):
            at, to, between = i * row, (i * a * outputs + k) * channels, outputs * channels
            if m == 4:
                _weights_4(t, Place(at), Place(channels), tiles, Place(to), Place(between), channels)
            else:
                _weights_2(t, Place(at), Place(channels), tiles, Place(to), Place(between), channels)


@compiled()
def tiles_to_weights(w, m, u, lo, hi):
    """The adjoint of weights_to_tiles: w = G^T u G."""
    outputs, channels, a = w.shape[0], w.shape[3], m + 2
    weights, tiles, row = w.reshape(-1), u.reshape(-1), 3 * w.shape[3]
    t = np.empty(a * row, np.float32)
    for k in range(lo, hi):
        for i in range(a):
            at, to, between = (i * a * outputs + k) * channels, i * row, outputs * channels
            if m == 4:
                _weights_adjoint_4(tiles, Place(at), Place(between), t, Place(to), Place(channels), channels)
            else:
                _weights_adjoint_2(tiles, Place(at), Place(between), t, Place(to), Place(channels), channels)
        if m == 4:
            _weights_adjoint_4(t, Place(0), Place(row), weights, Place(3 * k * row), Place(row), row)
        else:
            _weights_adjoint_2(t, Place(0), Place(row), weights, Place(3 * k * row), Place(row), row)
