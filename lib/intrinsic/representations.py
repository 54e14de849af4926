"""Activations of a named layer, as points whose dimension can be measured."""

import numpy as np
import torch
from torch import nn

from intrinsic import models

COLUMNS = 256  # of a random linear map, drawn at a time: part of what a seed means


class UnknownLayer(ValueError):
    """A name that is no layer of the network, or a layer that gives no points."""


def representation(model: nn.Module, x, layer: str, batch_size: int = 128) -> np.ndarray:
    """Outputs of a layer for each image, flattened: float32 (n, p), channel after channel.

    x        (n, C, H, W) floats in [0, 1] or uint8
    layer    a name of `model.named_modules()`; the paper's is `models.representation_layer(name)`
    The output is copied as the layer returns it, before a later in-place operation (the ReLU after a VGG's
    linear layer) can change it. Evaluation mode, float32, no gradients; the network's mode is restored.
    Raises UnknownLayer, models.BadInput.
    Source: Konz & Mazurowski 2024, section 5; activations there are of the training images.
    """
    x = models.network_input(x)
    module = _layer(model, layer)
    device, dtype = models.placement(model)
    caught: list[torch.Tensor] = []

    def keep(_module, _inputs, output):
        if not isinstance(output, torch.Tensor):
            raise UnknownLayer(
                f"layer '{layer}' returns a {type(output).__name__}, not one tensor, so it gives no points; "
                "choose a layer inside it"
            )
        caught.append(output.detach().to("cpu", torch.float32, copy=True).flatten(1))

    points = None
    handle = module.register_forward_hook(keep)
    try:
        with models.evaluating(model), torch.no_grad():
            for start in range(0, len(x), batch_size):
                batch = x[start : start + batch_size]
                model(batch.to(device, dtype, memory_format=models.memory_format(batch.shape[-2:])))
                if len(caught) != 1:
                    raise UnknownLayer(
                        f"layer '{layer}' ran {len(caught)} times in one pass, so an image has no single "
                        "point there; choose a layer that runs once"
                    )
                rows = caught.pop()
                if points is None:
                    points = np.empty((len(x), rows.shape[1]), dtype=np.float32)
                points[start : start + len(batch)] = rows.numpy()
    finally:
        handle.remove()
    return points


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
