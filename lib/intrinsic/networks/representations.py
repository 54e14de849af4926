"""Activations of named layers, as points, and their dimensions."""

import gc
from collections.abc import Iterable
from dataclasses import dataclass, field
from tempfile import TemporaryFile

import numpy as np
import torch
from torch import nn

from intrinsic.networks import models
from intrinsic.properties import dimension
from intrinsic.properties.interval import Interval
from intrinsic.properties.neighbors import neighbors

COLUMNS = 256  # of a random linear map, drawn at a time: part of what a seed means
IN_MEMORY = 2**28  # bytes of a layer's activations that are held in memory; more go to a temporary file
BATCH_PIXELS = 128 * 128 * 128  # of a batch, at most: what a network holds while it runs grows with them


class UnknownLayer(ValueError):
    """A name that is no layer of the network, or a layer that gives no points."""


@dataclass(frozen=True)
class LayerDimension:
    """Estimated dimensions of the activations of one layer.

    width        numbers an image
    mle, twonn   Interval, or None with a reason
    others       by the name of scikit-dimension's estimator, likewise
    reasons      why a value is None, by its name
    """

    layer: str
    width: int
    mle: Interval | None
    twonn: Interval | None
    others: dict = field(default_factory=dict)
    reasons: dict = field(default_factory=dict)


def blocks(model: nn.Module) -> list[str]:
    """Names of a network's blocks in order, as layers of `activations` and `dimensions`.

    A ResNet of torchvision: layer1 to layer4 and the average over positions; a VGG of torchvision: each pooling, and
    the linear layers before their ReLU; any other network: its direct parts.
    """
    import torchvision

    if isinstance(model, torchvision.models.ResNet):
        return ["layer1", "layer2", "layer3", "layer4", "avgpool"]
    if isinstance(model, torchvision.models.VGG):
        return [name for name, part in model.named_modules() if isinstance(part, nn.MaxPool2d | nn.Linear)]
    return [name for name, _ in model.named_children()]


def representation(model: nn.Module, x, layer: str, batch_size: int | None = None) -> np.ndarray:
    """Outputs of a layer for each image, flattened: float32 (n, p), channel after channel; see `activations`.

    layer    a name of `model.named_modules()`; the paper's is `models.representation_layer(name)`
    Source: Konz & Mazurowski 2024, section 5; activations there are of the training images.
    """
    return activations(model, x, [layer], batch_size)[layer]


def activations(
    model: nn.Module, x, layers: Iterable[str], batch_size: int | None = None, *, in_memory: int = IN_MEMORY
) -> dict[str, np.ndarray]:
    """Outputs of several layers in one pass over the images, each flattened: float32 (n, p), channel after channel.

    x           (n, C, H, W) floats in [0, 1] or uint8
    layers      names of `model.named_modules()`; `blocks(model)` for all blocks
    batch_size  None: 128, and less above 128 pixels a side. Another size may change the last bits
    in_memory   bytes: a layer that takes more is a read-only numpy.memmap of a temporary file, which has no name and
                goes when the array does, however the process ends
    The output is copied as the layer returns it, before a later in-place operation (the ReLU after a VGG's
    linear layer) can change it. Evaluation mode, float32, no gradients; the network's mode is restored.
    Raises UnknownLayer, models.BadInput.
    """
    x = models.network_input(x)
    layers = list(dict.fromkeys(layers))
    modules = [_layer(model, layer) for layer in layers]
    device, dtype = models.placement(model)
    batch_size = batch_size or max(1, min(128, BATCH_PIXELS // (x.shape[-2] * x.shape[-1])))
    caught: dict[str, list] = {layer: [] for layer in layers}
    stores: dict[str, _Rows] = {}

    def keeping(layer):
        def keep(_module, _inputs, output):
            if not isinstance(output, torch.Tensor):
                raise UnknownLayer(
                    f"layer '{layer}' returns a {type(output).__name__}, not one tensor, so it gives no points; "
                    "choose a layer inside it"
                )
            caught[layer].append(output.detach().to("cpu", torch.float32, copy=True).flatten(1))

        return keep

    handles = [module.register_forward_hook(keeping(layer)) for layer, module in zip(layers, modules, strict=True)]
    try:
        with models.evaluating(model), torch.no_grad():
            for batch in x.split(batch_size):
                model(batch.to(device, dtype, memory_format=models.memory_format(batch.shape[-2:])))
                for layer, outputs in caught.items():
                    if len(outputs) != 1:
                        raise UnknownLayer(
                            f"layer '{layer}' ran {len(outputs)} times in one pass, so an image has no single "
                            "point there; choose a layer that runs once"
                        )
                    rows = outputs.pop().numpy()
                    if layer not in stores:
                        stores[layer] = _Rows(len(x), rows.shape[1], in_memory)
                    stores[layer].append(rows)
    finally:
        for handle in handles:
            handle.remove()
    return {layer: store.array() for layer, store in stores.items()}


def dimensions(
    model: nn.Module, x, layers: Iterable[str] | None = None, k: int = 20, *, group=None, others=(), batch_size=None
) -> list[LayerDimension]:
    """d_repr of several layers: one pass of the images through the network, one pass over neighbors a layer.

    layers   None: `blocks(model)`
    group    of the images, for the intervals: see dimension.mle_dimension
    A value that does not exist (a layer that maps two images to one point) is None with a reason.
    Raises UnknownLayer, models.BadInput, neighbors.BadPoints for k.
    """
    found = activations(model, x, blocks(model) if layers is None else layers, batch_size)
    made = []
    for layer in list(found):
        made.append(points_dimension(layer, found.pop(layer), k, group, others))
        gc.collect()  # points and their products hold each other, and a layer may be large
    return made


def points_dimension(layer: str, points, k: int, group=None, others=()) -> LayerDimension:
    """The estimates of one cloud of points, as LayerDimension under a name, from one pass over neighbors."""
    reserve = min(dimension.reserve(k), len(points) - 1)
    near = neighbors(points, k, group=group, reserve=reserve)
    estimators = {"mle": lambda: dimension.mle_dimension(near, k), "twonn": lambda: dimension.twonn_dimension(near)}
    values, reasons = {}, {}
    for name, estimator in estimators.items():
        try:
            values[name] = estimator()
        except dimension.DuplicatePoints as error:
            values[name], reasons[name] = None, str(error)
    return LayerDimension(layer, points.shape[1], values.pop("mle"), values.pop("twonn"), values, reasons)


class _Rows:
    """Rows float32 (n, p) that come one batch after the other, in memory or in a temporary file."""

    def __init__(self, n: int, p: int, in_memory: int):
        self.shape, self.count = (n, p), 0
        large = 4 * n * p > in_memory
        # written and not mapped, so that pages of the file are no memory of this process
        self.file = TemporaryFile() if large else None  # noqa: SIM115  (open until it is mapped)
        self.rows = None if large else np.empty(self.shape, dtype=np.float32)

    def append(self, rows):
        if self.file:
            self.file.write(np.ascontiguousarray(rows).data)
        else:
            self.rows[self.count : self.count + len(rows)] = rows
        self.count += len(rows)

    def array(self) -> np.ndarray:
        if not self.file:
            return self.rows
        self.file.flush()
        return np.memmap(self.file, dtype=np.float32, mode="r", shape=self.shape)


def random_linear_map(points, p: int, seed: int = 0) -> np.ndarray:
    """Points mapped to p dimensions by a random linear map: a null model for d_repr, float64 (n, p).

        z_i = x_i A,   A (D, p) with independent entries of mean 0 and variance 1/p

    Squared distances are kept on average (Johnson & Lindenstrauss 1984). Without training and without
    nonlinearity, what changes an estimated dimension here is the width alone.
    points   array (n, ...), flattened to (n, D)
    """
    points = np.asarray(points).reshape(len(points), -1).astype(np.float64)
    rng = np.random.default_rng(seed)
    mapped = np.empty((len(points), p))
    for start in range(0, p, COLUMNS):
        stop = min(start + COLUMNS, p)
        mapped[:, start:stop] = points @ rng.standard_normal((points.shape[1], stop - start))
    return mapped / np.sqrt(p)


def _layer(model: nn.Module, name: str) -> nn.Module:
    named = {key: module for key, module in model.named_modules() if key}
    if name not in named:
        outer = [key for key in named if "." not in key]
        inner = [key for key in named if "." in key][-4:]
        raise UnknownLayer(
            f"'{name}' is no layer of this {type(model).__name__}, so there is nothing to measure; "
            f"among its layers are {', '.join(outer + inner)}"
        )
    return named[name]
