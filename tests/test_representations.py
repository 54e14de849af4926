"""Activations of a named layer, copied as the layer returns them; the random linear map."""

import numpy as np
import pytest
import torch
from torch import nn

from intrinsic import models, representations
from intrinsic.representations import UnknownLayer, random_linear_map, representation


def images(n=10, channels=1, side=6):
    return torch.rand(n, channels, side, side, generator=torch.Generator().manual_seed(0))


def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(inplace=True),
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(64, 8),
            nn.ReLU(inplace=True),
            nn.Linear(8, 2),
        )


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_activations_are_flattened_channel_after_channel(layout):
    net, x = network().to(memory_format=layout), images()
    points = representation(net, x, "0")
    expected = torch.nn.functional.conv2d(x, net[0].weight, net[0].bias).reshape(10, -1)
    assert points.dtype == np.float32
    assert points.shape == (10, 4 * 4 * 4)
    np.testing.assert_allclose(points, expected.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_a_later_relu_in_place_does_not_reach_the_copy():
    net, x = network().eval(), images()
    with torch.no_grad():
        before_relu = net[:6](x).numpy().copy()
        after_relu = net[:7](x).numpy()
    points = representation(net, x, "5")
    assert (before_relu < 0).any()
    np.testing.assert_allclose(points, before_relu, rtol=1e-5, atol=1e-6)
    assert not np.allclose(points, after_relu)
    np.testing.assert_allclose(representation(net, x, "6"), after_relu, rtol=1e-5, atol=1e-6)


def test_it_is_evaluation_mode_and_every_part_has_its_mode_afterwards():
    net, x = network().train(), images()
    net[1].running_mean += 3  # far from what a batch would give
    net[1].eval()
    modes = [m.training for m in net.modules()]
    statistics = net[1].running_mean.clone()
    first = representation(net, x, "5")
    np.testing.assert_array_equal(first, representation(net, x, "5"))  # no dropout
    assert [m.training for m in net.modules()] == modes
    assert torch.equal(net[1].running_mean, statistics)
    with torch.no_grad():
        np.testing.assert_allclose(first, net.eval()[:6](x).numpy(), rtol=1e-5, atol=1e-6)


def test_batches_do_not_matter():
    net, x = network(), images()
    whole = representation(net, x, "7")
    for size in (1, 3, 10):
        np.testing.assert_allclose(representation(net, x, "7", batch_size=size), whole, rtol=1e-5, atol=1e-6)


def test_bytes_are_read_as_unit_images():
    net = network()
    pixels = (images() * 255).round().to(torch.uint8)
    np.testing.assert_array_equal(representation(net, pixels, "5"), representation(net, pixels.float() / 255, "5"))


def test_no_gradient_and_no_hook_stay_behind():
    net, x = network(), images()
    representation(net, x, "5")
    with pytest.raises(RuntimeError):
        representation(net, images(channels=2), "5")  # the network itself refuses two channels
    assert all(p.grad is None for p in net.parameters())
    assert all(not m._forward_hooks for m in net.modules())


@pytest.mark.parametrize("layer", ["layer5", "", "layer4.7"])
def test_an_unknown_layer_is_refused_with_some_that_exist(layer):
    net = models.create("resnet18")
    with pytest.raises(UnknownLayer, match=f"'{layer}' is no layer of this ResNet.*layer4, avgpool, fc"):
        representation(net, images(side=32), layer)


def test_a_layer_that_runs_twice_has_no_single_point_for_an_image():
    net = models.create("resnet18")  # each block uses its ReLU twice
    with pytest.raises(UnknownLayer, match="ran 2 times"):
        representation(net, images(2, side=32), "layer4.0.relu")


def test_a_layer_that_does_not_run_or_gives_no_tensor_is_refused():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.idle, self.pair = nn.Linear(2, 2), Pair()

        def forward(self, x):
            return self.pair(x)[0]

    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    with pytest.raises(UnknownLayer, match="ran 0 times"):
        representation(Odd(), images(), "idle")
    with pytest.raises(UnknownLayer, match="returns a tuple"):
        representation(Odd(), images(), "pair")


def test_layer4_is_what_the_last_block_returns():
    net, x = models.create("resnet18", seed=1), images(3, side=64)
    net.eval()
    with torch.no_grad():
        body = nn.Sequential(*list(net.children())[:-2])
        expected = body(x).reshape(3, -1).numpy()
    points = representation(net, x, models.representation_layer("resnet18"))
    assert points.shape == (3, 512 * 2 * 2)
    np.testing.assert_allclose(points, expected, rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------- random linear map


def test_the_random_map_is_linear_and_one_map_a_seed():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 5, 30))
    np.testing.assert_allclose(
        random_linear_map(a + 2 * b, 600), random_linear_map(a, 600) + 2 * random_linear_map(b, 600)
    )
    np.testing.assert_array_equal(random_linear_map(a, 600, seed=3), random_linear_map(a, 600, seed=3))
    assert not np.allclose(random_linear_map(a, 600, seed=3), random_linear_map(a, 600, seed=4))


def test_the_random_map_keeps_squared_lengths_on_average():
    x = np.random.default_rng(1).normal(size=(4, 50))
    p = 20_000
    # squared length / ||x||^2 is chi-squared with p degrees over p: standard deviation sqrt(2 / p) = 0.01
    ratio = (random_linear_map(x, p) ** 2).sum(1) / (x**2).sum(1)
    np.testing.assert_allclose(ratio, 1, atol=0.05)


def test_the_columns_of_the_random_map_are_independent():
    a = random_linear_map(np.eye(40), 2 * representations.COLUMNS + 10)
    assert a.dtype == np.float64
    assert np.linalg.matrix_rank(random_linear_map(np.eye(700), 600)) == 600
    assert len(np.unique(a)) == a.size  # no block of columns repeats another


def test_images_are_flattened_for_the_random_map():
    x = np.random.default_rng(0).integers(0, 256, (6, 5, 5, 3), dtype=np.uint8)
    expected = random_linear_map(x.reshape(6, -1).astype(float), 12)
    np.testing.assert_array_equal(random_linear_map(x, 12), expected)
