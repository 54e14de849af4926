"""Slope between images of different labels: exact on networks whose slope can be written down."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from intrinsic.networks import slope
from intrinsic.networks.slope import BadSlope, measure


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def logistic(scale=1.0, bias=0.0, side=4):
    """(network, w): f = sigmoid(w . x + bias)."""
    w = scale * torch.randn(side * side, generator=generator(7))
    layer = nn.Linear(side * side, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.stack([-w, w]) / 2)
        layer.bias.copy_(torch.tensor([-bias, bias]) / 2)
    return nn.Sequential(nn.Flatten(), layer), w.double().numpy()


class Step(nn.Module):
    """f rises from 0.1 to 0.9 between two values of the first pixel; the logits differ by log(f / (1 - f))."""

    def __init__(self, low, high):
        super().__init__()
        self.low, self.high = low, high
        self.anchor = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        f = 0.1 + 0.8 * ((x[:, 0, 0, 0].double() - self.low) / (self.high - self.low)).clamp(0, 1)
        z = torch.log(f / (1 - f))
        return torch.stack([-z / 2, z / 2], dim=1)


def pair_of_rows(gap=0.5, n=6):
    """Two rows of images that differ in the first pixel by a gap, within a row in the last pixel by more."""
    x = torch.zeros(2 * n, 1, 2, 2)
    x[:, 0, 1, 1] = torch.arange(n).repeat(2) / n
    x[n:, 0, 0, 0] = gap
    return x, np.repeat([0, 1], n)


def balanced(n=30, seed=1, side=4):
    x = torch.rand(n, 1, side, side, generator=generator(seed))
    return x, np.arange(n) % 2


def by_hand(x, labels):
    """Nearest pairs of different labels (i < j) and their distances, the closest first."""
    flat = x.reshape(len(x), -1).double().numpy()
    distance = np.linalg.norm(flat[:, None] - flat[None], axis=2)
    distance[labels[:, None] == labels[None]] = np.inf
    pairs = sorted({tuple(sorted((i, int(distance[i].argmin())))) for i in range(len(x))}, key=lambda p: distance[p])
    return pairs, np.array([distance[p] for p in pairs]), flat


@pytest.mark.parametrize("bias", [0.0, 0.7])
def test_the_slope_of_a_logistic_network_is_that_of_calculus(bias):
    # along x_i + t d the derivative is s'(z) w.u: largest, |w.u| / 4, where z crosses 0, else at an end
    model, w = logistic(3.0, bias)
    x, labels = balanced()
    pairs, distance, flat = by_hand(x, labels)
    expected = []
    for (i, j), length in zip(pairs, distance, strict=True):
        z = np.array([flat[i] @ w, flat[j] @ w]) + bias
        at = 0.0 if z[0] * z[1] < 0 else np.abs(z).min()
        expected.append(abs(z[1] - z[0]) / length / (4 * np.cosh(at / 2) ** 2))
    found = measure(model.double(), x.double(), labels, points=64, pairs=1000)
    assert found["slope_pairs"] == len(pairs)
    assert found["slope_max"] == pytest.approx(max(expected), rel=1e-3)
    assert found["slope_mean"] == pytest.approx(np.mean(expected), rel=1e-3)
    for q in (0.05, 0.25, 0.5, 0.75, 0.95):
        assert found[f"slope_q{round(100 * q):02d}"] == pytest.approx(np.quantile(expected, q), rel=1e-3)
    assert found["slope_label_sharpness"] == pytest.approx(1 / distance[0], rel=1e-6)
    assert found["slope_ratio"] == pytest.approx(max(expected) * distance[0], rel=1e-3)
    assert found["slope_excess_q50"] == pytest.approx(np.median(expected * distance), rel=1e-3)


def test_the_gradient_norm_of_a_logistic_network_is_exact_and_at_most_a_quarter_of_w():
    model, w = logistic(2.0)
    x, labels = balanced()
    z = x.reshape(len(x), -1).double().numpy() @ w
    norms = np.linalg.norm(w) / (4 * np.cosh(z / 2) ** 2)
    used = np.unique(np.array(by_hand(x, labels)[0]))
    found = measure(model, x, labels, pairs=1000)
    assert found["gradient_norm_max"] == pytest.approx(norms[used].max(), rel=1e-5)
    assert found["gradient_norm_mean"] == pytest.approx(norms[used].mean(), rel=1e-5)
    assert found["gradient_norm_max"] <= np.linalg.norm(w) / 4 * (1 + 1e-6)
    assert found["slope_max"] <= np.linalg.norm(w) / 4 * (1 + 1e-6)


@pytest.mark.parametrize("width", [0.5, 0.05, 0.01])
def test_a_step_far_narrower_than_the_segment_is_found(width):
    x, labels = pair_of_rows(gap=0.5)
    low = 0.5 - width if width == 0.5 else 0.21
    found = measure(Step(low, low + width).double(), x.double(), labels)
    assert found["slope_label_sharpness"] == pytest.approx(2.0)
    assert found["slope_max"] == pytest.approx(0.8 / width, rel=1e-6)
    assert found["slope_ratio"] == pytest.approx(0.8 / width / 2, rel=1e-6)
    assert found["slope_q50"] == pytest.approx(0.8 / width, rel=1e-6)
    assert found["slope_excess_q50"] == pytest.approx(0.4 / width, rel=1e-6)


def test_a_flat_network_has_slope_zero_and_no_bound():
    model, _ = logistic(0.0, bias=1.0)
    found = measure(model, *balanced())
    assert found["slope_max"] == found["slope_ratio"] == found["slope_lower_bound"] == found["gradient_norm_max"] == 0
    assert found["slope_delta_closest"] == pytest.approx(1 / (1 + math.exp(-1)))


def test_a_network_that_is_sure_everywhere_still_has_its_slope():
    # both ends are 0 and 1 in float32 to the last bit; the crossing is hidden in 1 / 4,000 of the segment
    model, w = logistic(1e4)
    x, labels = pair_of_rows(gap=0.5, n=3)
    x = torch.nn.functional.pad(x, (0, 2, 0, 2))
    with torch.no_grad():
        model[1].bias.copy_(torch.tensor([0.5, -0.5]) * float(w[0]) * 0.2)
    found = measure(model, x, labels, points=64)
    assert found["slope_max"] == pytest.approx(abs(w[0]) / 4, rel=0.05)


@pytest.mark.parametrize("scale", [1.0, 5.0, 50.0])
def test_the_slope_is_never_below_its_bound(scale):
    model, w = logistic(scale)
    x, _ = balanced(60)
    labels = (x.reshape(60, -1).double().numpy() @ w > np.median(x.reshape(60, -1).double().numpy() @ w)).astype(int)
    with torch.no_grad():
        middle = float(np.median(x.reshape(60, -1).double().numpy() @ w))
        model[1].bias.copy_(torch.tensor([middle, -middle]) / 2)
    found = measure(model, x, labels, pairs=5)
    (i, j), f = by_hand(x, labels)[0][0], model(x).detach().double().softmax(1)[:, 1].numpy()
    delta = np.abs(f - labels)
    assert found["slope_delta_closest"] == pytest.approx(max(delta[i], delta[j]), abs=1e-6)
    assert found["slope_delta_max"] == pytest.approx(delta.max(), abs=1e-6)
    assert found["slope_delta_mean"] == pytest.approx(delta.mean(), abs=1e-6)
    bound = (1 - 2 * found["slope_delta_closest"]) * found["slope_label_sharpness"]
    assert found["slope_lower_bound"] == pytest.approx(max(0, bound))
    assert found["slope_max"] >= found["slope_lower_bound"]
    assert found["slope_max"] >= abs(f[i] - f[j]) * found["slope_label_sharpness"] * (1 - 1e-6)


def test_few_pairs_are_the_closest_and_others_at_even_ranks():
    x, labels = balanced(80)
    pairs, distance, _ = by_hand(x, labels)
    i, j, length, sharpness = slope._segments(x, labels, 5)
    ranks = [pairs.index(pair) for pair in zip(i.tolist(), j.tolist(), strict=True)]
    assert ranks == np.linspace(0, len(pairs) - 1, 5).round().astype(int).tolist()
    np.testing.assert_allclose(length, distance[ranks], rtol=1e-6)
    assert sharpness == pytest.approx(1 / distance[0])


def test_bytes_and_batches_change_nothing(monkeypatch):
    model, _ = logistic(3.0)
    x, labels = balanced()
    pixels = (x * 255).round().to(torch.uint8)
    expected = measure(model, pixels.float() / 255, labels)
    assert measure(model, pixels, labels) == pytest.approx(expected, rel=1e-4)
    monkeypatch.setattr(slope, "PASS", 1)
    assert measure(model, pixels.numpy(), labels) == pytest.approx(expected, rel=1e-4)


def test_the_network_is_as_it_was():
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(16, 2)
    ).train()
    state = copy.deepcopy(model.state_dict())
    x, labels = balanced()
    with torch.no_grad():
        first = measure(model, x, labels)
    assert first == measure(model, x, labels)  # no dropout
    assert all(module.training for module in model.modules())
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert all(isinstance(v, float) and math.isfinite(v) for v in first.values())


def test_what_has_no_slope_is_refused():
    model, _ = logistic()
    x, labels = balanced()
    with pytest.raises(BadSlope, match="labels are"):
        measure(model, x, np.arange(30) % 3)
    with pytest.raises(BadSlope, match="labels are"):
        measure(model, x, np.zeros(30, int))
    with pytest.raises(BadSlope, match="30, 3"):
        measure(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), x, labels)
    with pytest.raises(BadSlope, match="0 points"):
        measure(model, x, labels, points=0)
    x[1] = x[0]
    with pytest.raises(BadSlope, match="images 0 and 1"):
        measure(model, x, labels)
