"""Activations of named layers, copied as the layer returns them; their dimensions; the random linear map."""

import copy

import numpy as np
import pytest
import torch
from networks.simple import DEVICES, convolutional, noise
from torch import nn

from intrinsic.networks import models, representations
from intrinsic.networks.representations import UnknownLayer, activations, dimensions, random_linear_map
from intrinsic.properties import dimension


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_activations_are_what_the_layer_returns_channel_after_channel(layout, device, monkeypatch):
    monkeypatch.setattr(representations, "PASS", 4)
    network, x = convolutional().to(device, memory_format=layout), noise(10, 10)
    found = activations(network, x, ["0", "0:mean", "4", "5"])
    with torch.no_grad():
        part = copy.deepcopy(network).cpu().eval()
        first, fourth = part[:1](x), part[:5](x)
    assert (fourth < 0).any()  # the ReLU after it is in place
    for name, expected in (("0", first), ("0:mean", first.mean((2, 3))), ("4", fourth), ("5", fourth.relu())):
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], expected.reshape(10, -1).numpy(), rtol=1e-4, atol=1e-5)
    assert all(module.training for module in network.modules())
    assert not any(module._forward_hooks for module in network.modules())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_layers_that_give_no_points_are_refused():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.twice, self.never, self.several = nn.Linear(4, 4), nn.Linear(4, 4), nn.LSTM(4, 4)

        def forward(self, x):
            return self.several(self.twice(self.twice(x[:, 0])))[0]

    for layer in ("fourth", "twice", "never", "several", "twice:mean"):
        with pytest.raises(UnknownLayer, match=layer):
            activations(Odd(), noise(3), [layer])


def test_blocks_are_those_of_the_architecture():
    assert representations.blocks(models.create("resnet18")) == ["layer1", "layer2", "layer3", "layer4", "avgpool"]
    vgg = representations.blocks(models.create("vgg13"))
    assert vgg == ["features.4", "features.9", "features.14", "features.19", "features.24"] + [
        f"classifier.{i}" for i in (0, 3, 6)
    ]
    assert representations.blocks(nn.Sequential(nn.ReLU(), nn.ReLU())) == ["0", "1"]


def test_dimensions_are_the_estimators_and_their_intervals():
    points = noise(60, 10).reshape(60, -1).numpy()
    found, reasons = dimensions(points, 8)
    near = representations.neighbors(points, 8, reserve=min(dimension.reserve(8), 59))
    mle, twonn = dimension.mle_dimension(near, 8), dimension.twonn_dimension(near)
    assert found == {"mle": mle, "mle_low": mle.low, "mle_high": mle.high, "twonn": twonn}
    assert reasons == {}


def test_points_that_are_copies_have_reasons():
    found, reasons = dimensions(np.zeros((40, 4)), 8)
    assert found == {"mle": None, "twonn": None}
    assert reasons.keys() == found.keys()


def test_the_random_map_is_linear_and_keeps_squared_lengths_on_average():
    points = np.random.default_rng(0).standard_normal((40, 3, 5))
    mapped = random_linear_map(points, 600, seed=1)
    assert mapped.shape == (40, 600)
    np.testing.assert_allclose(random_linear_map(2 * points[:7], 600, seed=1), 2 * mapped[:7], rtol=1e-12)
    np.testing.assert_allclose(random_linear_map(points, 300, seed=1)[:, :256] * np.sqrt(0.5), mapped[:, :256])
    ratio = (mapped**2).sum(1) / (points.reshape(40, -1) ** 2).sum(1)
    assert ratio.mean() == pytest.approx(1, abs=0.05)
    assert not np.allclose(mapped, random_linear_map(points, 600, seed=2))
