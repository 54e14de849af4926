"""How steep a network is between images of different labels: its slope K_f beside the label sharpness K_F."""

import numpy as np
import torch
from torch import nn

from intrinsic.networks import models
from intrinsic.properties.neighbors import Neighbors, neighbors

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class BadSlope(ValueError):
    """Labels, a network or images between which no slope is defined."""


def measure(
    model: nn.Module,
    x,
    labels,
    near: Neighbors | None = None,
    *,
    points: int = 16,
    pairs: int = 100,
    batch_size: int = 128,
) -> dict[str, float]:
    """Slope of f, the probability of class 1, on the segments between nearest images of different labels.

        K_f = max over segments of max( |f(x_{t+1}) - f(x_t)| / |x_{t+1} - x_t|,  |grad f(x*) . u| )

    x           (n, C, H, W) floats in [0, 1] or uint8: the training set
    labels      (n,) of 0 and 1
    near        the images' Neighbors with these labels, else found here; only its opposite_index is read
    points      m parts of a segment. The steepest part is cut into m parts again, and at the middle x* of the steepest
                of these the derivative along the segment (unit vector u) is taken from one gradient. So what a segment
                hides from this search is narrower than 1 / m of it, and x* is placed to 1 / (2 m^2). The secants of
                these last parts are too short for float32 and do not count
    pairs       segments: of all pairs of an image and its nearest image of the other label, at evenly spaced ranks of
                their distance, the closest always among them
    Points on a segment are computed in float64 and rounded to the network's type; f = sigmoid(z_1 - z_0) and its
    differences in float64. Slopes are per unit L2 distance of images in [0, 1], as K_F = 1 / (least distance between
    images of different labels).

    What it says of K_f -> K_F. By the mean value theorem each number under the maximum is attained by f on the data's
    segments, so K_f here is a lower bound of the Lipschitz constant, on the manifold only as far as the segments stay
    near it. Nothing measured at finitely many points bounds that constant from above: a network may be steeper
    anywhere else. And K_f / K_F cannot be much below 1 for a network that fits:

        if |f(x_i) - y_i| <= delta at both ends of the closest pair, f changes by at least 1 - 2 delta over its length
        1 / K_F, so a secant of that segment, hence K_f, is at least (1 - 2 delta) K_F.

    That is a matter of arithmetic, not evidence. A ratio well above 1 is evidence, against K_f = K_F for this training
    method; a ratio near 1 is compatible with it and does not establish it.

    Keys (float):
        slope_max                        K_f
        slope_mean, slope_q05 ... q95    over segments, each with its own maximum (median: slope_q50)
        slope_ratio                      K_f / K_F
        slope_excess_q50                 median over segments of slope x length: 1 is a straight line from 0 to 1
        slope_lower_bound                (1 - 2 delta) K_F, or 0, with the delta of the closest pair
        slope_delta_closest              that delta;   slope_delta_max, slope_delta_mean   the same over all images
        slope_label_sharpness            K_F of these images;   slope_pairs   segments measured
        gradient_norm_mean, gradient_norm_max    |grad f| at the ends of these segments, all directions of pixel space
    Evaluation mode, plain float32; the network's mode and gradients stay as they were. Batches do not matter.
    Raises BadSlope, models.BadInput, neighbors.BadPoints.
    """
    x = models.network_input(x)
    labels = models.network_labels(labels, len(x)).numpy()
    if points < 1 or pairs < 1:
        raise BadSlope(f"{points} points on {pairs} segments measure no slope; give at least 1 of each")
    if set(np.unique(labels)) != {0, 1}:
        raise BadSlope(
            f"labels are {', '.join(map(str, np.unique(labels)[:5]))}, and the slope is that of the probability of "
            "class 1 between classes 0 and 1; choose two classes and number them 0 and 1"
        )
    i, j, distance, sharpness = _segments(x, labels, near, pairs)
    each = max(1, batch_size // (points + 1))
    ends = np.unique(np.concatenate([i, j]))
    with models.evaluating(model):
        value = torch.cat([_outputs(model, part) for part in x.split(batch_size)]).sigmoid().cpu().numpy()
        slopes = np.concatenate(
            [_steepest(model, x[i[rows]], x[j[rows]], points) for rows in _parts(np.arange(len(i)), each)]
        )
        norms = np.concatenate(
            [_gradients(model, x[rows]).flatten(1).norm(dim=1).cpu().numpy() for rows in _parts(ends, batch_size)]
        )
    delta = np.abs(value - labels)
    closest = max(delta[i[0]], delta[j[0]])
    out = {
        "slope_max": slopes.max(),
        "slope_mean": slopes.mean(),
        **{f"slope_q{round(100 * q):02d}": np.quantile(slopes, q) for q in QUANTILES},
        "slope_ratio": slopes.max() / sharpness,
        "slope_excess_q50": np.median(slopes * distance),
        "slope_lower_bound": max(0.0, 1 - 2 * closest) * sharpness,
        "slope_delta_closest": closest,
        "slope_delta_max": delta.max(),
        "slope_delta_mean": delta.mean(),
        "slope_label_sharpness": sharpness,
        "slope_pairs": len(i),
        "gradient_norm_mean": norms.mean(),
        "gradient_norm_max": norms.max(),
    }
    return {key: float(number) for key, number in out.items()}


def _segments(x, labels, near, count):
    """(i, j, distance, K_F): pairs of nearest images of different labels, the closest first, int64 and float64 (m,)."""
    if near is None:
        near = neighbors(x.reshape(len(x), -1), 1, labels)
    if near.n != len(x) or near.opposite_index is None:
        raise BadSlope(
            f"the neighbors given are of {near.n} points {'with' if near.opposite_index is not None else 'without'} "
            f"labels, and there are {len(x)} images; give neighbors(images, labels=labels) of the same images"
        )
    i, j = np.arange(len(x)), near.opposite_index
    if (labels[i] == labels[j]).any():
        raise BadSlope("the neighbors given are not of these labels: an image's opposite has its own; find them anew")
    i, j = np.unique(np.sort(np.stack([i, j]), axis=0), axis=1)
    distance = np.concatenate(
        [
            (x[i[rows]].double() - x[j[rows]].double()).flatten(1).norm(dim=1).cpu().numpy()
            for rows in _parts(np.arange(len(i)), 256)
        ]
    )
    order = np.argsort(distance, kind="stable")
    if distance[order[0]] == 0:
        a, b = i[order[0]], j[order[0]]
        raise BadSlope(
            f"images {a} and {b} are equal and have different labels, where every slope is infinite; "
            "drop copies with different labels first"
        )
    chosen = order[np.unique(np.linspace(0, len(i) - 1, min(count, len(i))).round().astype(int))]
    return i[chosen], j[chosen], distance[chosen], 1 / distance[order[0]]


def _steepest(model, start, end, points):
    """Largest slope found on each segment from start to end (m, C, H, W): float64 (m,)."""
    start, step = start.double(), end.double() - start.double()
    length = step.flatten(1).norm(dim=1)
    low, width = torch.zeros_like(length), 1.0
    secants = []
    for _ in range(2):
        width /= points
        t = low[:, None] + width * torch.arange(points + 1, device=low.device)
        at = start[:, None] + t.view(*t.shape, 1, 1, 1) * step[:, None]
        f = _outputs(model, at.flatten(0, 1)).sigmoid().to(t.device).view_as(t)
        rise, part = f.diff(dim=1).abs().max(1)
        secants.append(rise / (width * length))
        low = low + width * part
    middle = start + (low + width / 2).view(-1, 1, 1, 1) * step
    along = (_gradients(model, middle).to(step.device) * step).flatten(1).sum(1).abs() / length
    return torch.maximum(secants[0], along).cpu().numpy()  # the second secants carry the rounding of float32


def _gradients(model, x):
    """Gradient of f at each pixel, float64: f (1 - f) times that of z_1 - z_0, from one backward pass."""
    with torch.inference_mode(False), torch.enable_grad():
        pixels = _placed(model, x).clone().requires_grad_(True)
        z = _difference(model(pixels))
        (gradient,) = torch.autograd.grad(z.sum(), pixels)
    z = z.detach().double()
    return (z.sigmoid() * (-z).sigmoid()).view(-1, 1, 1, 1) * gradient.double()


def _outputs(model, x):
    """z_1 - z_0 of images, float64 (n,), without a gradient."""
    with torch.no_grad():
        return _difference(model(_placed(model, x))).double()


def _placed(model, x):
    device, dtype = models.placement(model)
    return x.to(device, dtype, memory_format=models.memory_format(x.shape[-2:]))


def _difference(logits):
    if logits.ndim != 2 or logits.shape[1] != 2:
        raise BadSlope(
            f"the network's outputs have shape {tuple(logits.shape)}, and the probability of class 1 against class 0 "
            "needs two; train it with n_classes=2"
        )
    return logits[:, 1] - logits[:, 0]


def _parts(rows, size):
    return [rows[start : start + size] for start in range(0, len(rows), size)]
