"""Activations of named layers, as points, and their dimensions."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import nn

from intrinsic.networks import models
from intrinsic.properties import dimension
from intrinsic.properties.neighbors import neighbors

COLUMNS = 256  # of a random linear map, drawn at a time: part of what a seed means
PASS = 128  # images in a pass
MEAN = ":mean"  # after the name of a layer: its average over positions


class UnknownLayer(ValueError):
    """A name that is no layer of the network, or a layer that gives no points."""


def blocks(network: nn.Module) -> list[str]:
    """Names of a network's blocks in order, as layers of `activations`.

    A ResNet: layer1 to layer4 and the average over positions; a VGG: each pooling, and the linear layers before their
    ReLU; any other network: its direct parts.
    """
    kind = type(network).__name__
    if kind == "ResNet":
        return ["layer1", "layer2", "layer3", "layer4", "avgpool"]
    if kind == "VGG":
        return [name for name, part in network.named_modules() if isinstance(part, nn.MaxPool2d | nn.Linear)]
    return [name for name, _ in network.named_children()]


def activations(network: nn.Module, images, layers: Iterable[str]) -> dict[str, np.ndarray]:
    """Outputs of several layers in one pass over the images, as points.

    Parameters
    ----------
    network : torch.nn.Module
        In evaluation mode and float32 meanwhile; its mode is restored.
    images : array or tensor
        uint8, or floats in [0, 1]: (n, H, W), (n, C, H, W) or (n, H, W, C).
    layers : iterable of str
        Names of `network.named_modules()`. "NAME:mean" is the average over positions of the layer NAME.

    Returns
    -------
    dict of str to ndarray, shape (n, p), float32
        Each output flattened, channel after channel, before a later in-place ReLU changes it.

    Raises
    ------
    UnknownLayer, models.BadInput

    References
    ----------
    Konz & Mazurowski 2024, section 5; `models.representation_layer` names the layers there.

    Examples
    --------
    >>> network = models.create("resnet18")
    >>> points = activations(network, torch.zeros(2, 1, 32, 32), ["layer3", "layer4:mean"])
    >>> points["layer3"].shape, points["layer4:mean"].shape
    ((2, 1024), (2, 512))
    """
    x = models.network_input(images)
    layers = list(dict.fromkeys(layers))
    caught: dict[str, list] = {layer: [] for layer in layers}
    handles = []
    try:
        for layer in layers:
            handles.append(_part(network, layer).register_forward_hook(_keeping(layer, caught[layer])))
        with models.evaluating(network), torch.no_grad():
            batches = x.split(PASS)
            for batch in batches:
                network(models.placed(network, batch))
    finally:
        for handle in handles:
            handle.remove()
    for layer, outputs in caught.items():
        if len(outputs) != len(batches):
            found = f"layer '{layer}' ran {len(outputs)} times in {len(batches)} passes"
            raise UnknownLayer(f"{found}, so an image has no single point there; choose a layer that runs once")
    return {layer: torch.cat(outputs).numpy() for layer, outputs in caught.items()}


def _part(network: nn.Module, layer: str) -> nn.Module:
    named = {key: module for key, module in network.named_modules() if key}
    if layer.removesuffix(MEAN) not in named:
        some = [key for key in named if "." not in key] + [key for key in named if "." in key][-4:]
        raise UnknownLayer(f"'{layer}' is no layer of this {type(network).__name__}; it has {', '.join(some)}")
    return named[layer.removesuffix(MEAN)]


def _keeping(layer: str, kept: list):
    """The hook that copies a layer's output."""

    def keep(_module, _inputs, output):
        if not isinstance(output, torch.Tensor) or (layer.endswith(MEAN) and output.ndim != 4):
            raise UnknownLayer(f"layer '{layer}' returns no such map, so it gives no points; choose a layer inside it")
        output = output.mean((2, 3)) if layer.endswith(MEAN) else output
        kept.append(output.detach().to("cpu", torch.float32, copy=True).flatten(1))

    return keep


def dimensions(points, k: int, group=None) -> tuple[dict, dict]:
    """({estimate: number}, {estimate: why it is none}) of one cloud of points: mle with mle_low and mle_high, twonn.

    points   array (n, p);  group   of the images, for the intervals: see dimension.mle_dimension
    What copies forbid is None. Raises neighbors.BadPoints for k.
    """
    near = neighbors(points, k, group=group, reserve=min(dimension.reserve(k), len(points) - 1))
    found, reasons = {"mle": None, "twonn": None}, {}
    estimators = {"mle": lambda: dimension.mle_dimension(near, k), "twonn": lambda: dimension.twonn_dimension(near)}
    for name, estimator in estimators.items():
        try:
            found[name] = estimator()
        except dimension.DuplicatePoints as error:
            reasons[name] = str(error)
    if (mle := found["mle"]) is not None:
        found |= {"mle_low": mle.low, "mle_high": mle.high}
    return found, reasons


def random_linear_map(points, p: int, seed: int = 0) -> np.ndarray:
    """Points mapped to p dimensions by a random linear map: a null model for d_repr, float64 (n, p).

        z_i = x_i A,   A (D, p) with independent entries of mean 0 and variance 1/p

    Squared distances are kept on average. Source: Johnson & Lindenstrauss 1984.
    points   array (n, ...), flattened to (n, D)
    """
    points = np.asarray(points).reshape(len(points), -1).astype(np.float64)
    rng = np.random.default_rng(seed)
    columns = [min(COLUMNS, p - start) for start in range(0, p, COLUMNS)]
    mapped = [points @ rng.standard_normal((points.shape[1], count)) for count in columns]
    return np.concatenate(mapped, axis=1) / np.sqrt(p)
