"""How steep a network is between images of different labels: its slope K_f, beside the label sharpness K_F."""

import numpy as np
import torch
from torch import nn

from intrinsic.networks import models
from intrinsic.properties.neighbors import neighbors

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
PASS = 128  # images in a pass


class BadSlope(ValueError):
    """Labels, a network or images between which no slope is defined."""


def measure(network: nn.Module, images, labels, *, points: int = 16, pairs: int = 100) -> dict[str, float]:
    """Slope of f, the probability of class 1, on the segments between nearest images of different labels.

        K_f = max over segments of max( |f(x_{t+1}) - f(x_t)| / |x_{t+1} - x_t|,  |grad f(x*) . u| )

    Each segment between `pairs` such images, at even ranks of their distance and with the closest pair, is cut into
    `points` parts, and the steepest part into as many again. At the middle x* of the steepest of these, one gradient
    gives the derivative along the segment (unit vector u). Labels are 0 and 1.

    K_f is a lower bound of the Lipschitz constant. If |f(x_i) - y_i| <= delta at both ends of the closest pair, K_f is
    at least (1 - 2 delta) K_F: a ratio near 1 is arithmetic, a ratio well above 1 is evidence against K_f = K_F.

    Keys, slopes per unit of L2 distance in [0, 1]: slope_max (K_f), slope_mean and slope_q05 ... slope_q95 over
    segments; slope_ratio, K_f / K_F; slope_excess_q50, median slope times length (1: a straight line from 0 to 1);
    slope_lower_bound; slope_delta_closest, slope_delta_max, slope_delta_mean; slope_label_sharpness, K_F; slope_pairs;
    gradient_norm_mean, gradient_norm_max, |grad f| at the ends. Raises BadSlope, models.BadInput.
    """
    x = models.unit_images(images)
    labels = models.network_labels(labels, len(x)).numpy()
    if points < 1 or pairs < 1:
        raise BadSlope(f"{points} points on {pairs} segments measure no slope; give at least 1 of each")
    if set(np.unique(labels)) != {0, 1}:
        raise BadSlope(f"labels are {np.unique(labels)[:5]}, and f is the probability of class 1; use 0 and 1")
    i, j, distance, sharpness = _segments(x, labels, pairs)
    ends = np.unique(np.concatenate([i, j]))
    with models.evaluating(network):
        value = torch.cat([_outputs(network, part) for part in x.split(PASS)]).sigmoid().cpu().numpy()
        few = max(1, PASS // (points + 1))
        parts = zip(x[i].split(few), x[j].split(few), strict=True)
        slopes = np.concatenate([_steepest(network, start, end, points) for start, end in parts])
        norms = torch.cat([_gradients(network, part) for part in x[ends].split(PASS)])
        norms = norms.flatten(1).norm(dim=1).cpu().numpy()
    delta = np.abs(value - labels)
    closest = max(delta[i[0]], delta[j[0]])
    out = {f"slope_q{round(100 * q):02d}": np.quantile(slopes, q) for q in QUANTILES}
    out |= {"slope_max": slopes.max(), "slope_mean": slopes.mean(), "slope_ratio": slopes.max() / sharpness}
    out |= {"slope_excess_q50": np.median(slopes * distance), "slope_pairs": len(i)}
    out |= {"slope_lower_bound": max(0.0, 1 - 2 * closest) * sharpness, "slope_label_sharpness": sharpness}
    out |= {"slope_delta_closest": closest, "slope_delta_max": delta.max(), "slope_delta_mean": delta.mean()}
    out |= {"gradient_norm_mean": norms.mean(), "gradient_norm_max": norms.max()}
    return {key: float(number) for key, number in out.items()}


def _segments(x, labels, count):
    """(i, j, distance, K_F): pairs of nearest images of different labels, the closest first, int64 and float64 (m,)."""
    j = neighbors(x.reshape(len(x), -1), 1, labels).opposite_index
    i, j = np.unique(np.sort(np.stack([np.arange(len(x)), j]), axis=0), axis=1)
    distance = np.array([float((x[a].double() - x[b].double()).norm()) for a, b in zip(i, j, strict=True)])
    order = np.argsort(distance, kind="stable")
    i, j, distance = i[order], j[order], distance[order]
    if distance[0] == 0:
        raise BadSlope(f"images {i[0]} and {j[0]} are equal and have different labels, so K_F is infinite; drop copies")
    chosen = np.unique(np.linspace(0, len(i) - 1, min(count, len(i))).round().astype(int))
    return i[chosen], j[chosen], distance[chosen], 1 / distance[0]


def _steepest(network, start, end, points):
    """Largest slope found on each segment from start to end (m, C, H, W): float64 (m,)."""
    start, step = start.double(), end.double() - start.double()
    length = step.flatten(1).norm(dim=1)
    low, width = torch.zeros_like(length), 1.0
    secants = []
    for _ in range(2):
        width /= points
        t = low[:, None] + width * torch.arange(points + 1, device=low.device)
        at = start[:, None] + t.view(*t.shape, 1, 1, 1) * step[:, None]
        f = _outputs(network, at.flatten(0, 1)).sigmoid().to(t.device).view_as(t)
        rise, part = f.diff(dim=1).abs().max(1)
        secants.append(rise / (width * length))
        low = low + width * part
    middle = start + (low + width / 2).view(-1, 1, 1, 1) * step
    along = (_gradients(network, middle).to(step.device) * step).flatten(1).sum(1).abs() / length
    return torch.maximum(secants[0], along).cpu().numpy()  # the second secants carry the rounding of float32


def _gradients(network, x):
    """Gradient of f at each pixel, float64: f (1 - f) times that of z_1 - z_0."""
    pixels = models.placed(network, x).clone().requires_grad_(True)
    with torch.enable_grad():
        z = _difference(network(pixels))
        (gradient,) = torch.autograd.grad(z.sum(), pixels)
    z = z.detach().double()
    return (z.sigmoid() * (-z).sigmoid()).view(-1, 1, 1, 1) * gradient.double()


def _outputs(network, x):
    """z_1 - z_0 of images, float64 (n,), without a gradient."""
    with torch.no_grad():
        return _difference(network(models.placed(network, x))).double()


def _difference(logits):
    if logits.ndim != 2 or logits.shape[1] != 2:
        raise BadSlope(f"the network's outputs have shape {tuple(logits.shape)}, and f needs two; train it with two")
    return logits[:, 1] - logits[:, 0]
