"""Activations of a named layer, copied as the layer returns them; the random linear map."""

import os
import subprocess
import sys
import tempfile
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from intrinsic.networks import models, representations
from intrinsic.networks.representations import UnknownLayer, random_linear_map, representation
from intrinsic.properties import dimension


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


# ------------------------------------------------------------------------------ several layers, large ones


@pytest.mark.parametrize("in_memory", [2**28, 1, 10 * 32 * 4])  # all in memory, none, only the narrow
def test_several_layers_of_one_pass_are_those_taken_one_by_one(in_memory):
    net, x = network(), images()
    passes = []
    net.register_forward_hook(lambda *_: passes.append(1))
    found = representations.activations(net, x, ["5", "0", "6", "0"], batch_size=4, in_memory=in_memory)
    assert len(passes) == 3
    assert list(found) == ["5", "0", "6"]
    for layer, points in found.items():
        np.testing.assert_array_equal(points, representation(net, x, layer, batch_size=4))
        assert points.dtype == np.float32
        assert isinstance(points, np.memmap) == (points.size * 4 > in_memory)


def test_a_large_layer_leaves_no_file_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    points = representations.activations(network(), images(), ["0"], in_memory=0)["0"]
    assert isinstance(points, np.memmap)
    assert os.listdir(tmp_path) == []  # nameless already while it is used
    assert np.isfinite(points).all()


def test_large_images_come_in_smaller_batches():
    sizes = []
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    representation(net, torch.zeros(130, 1, 128, 128), "0")
    representation(net, torch.zeros(130, 1, 256, 128), "0")
    assert sizes == [128, 2, 64, 64, 2]


def test_blocks_of_the_papers_networks_and_of_others():
    with torch.device("meta"):
        made = {name: models.create(name) for name in ("resnet18", "resnet50", "vgg13", "efficientnet_b0")}
    blocks = {name: representations.blocks(net) for name, net in made.items()}
    assert blocks["resnet18"] == blocks["resnet50"] == ["layer1", "layer2", "layer3", "layer4", "avgpool"]
    pools = ["features.4", "features.9", "features.14", "features.19", "features.24"]
    assert blocks["vgg13"] == [*pools, "classifier.0", "classifier.3", "classifier.6"]
    assert blocks["efficientnet_b0"] == ["features", "avgpool", "classifier"]
    assert representations.blocks(network()) == [str(i) for i in range(8)]


def test_dimensions_of_layers_are_the_estimators_on_their_activations():
    net, x = network(), images(60)
    found = representations.dimensions(net, x, ["0", "5"], 5, others=["lPCA"], batch_size=60)
    assert [(one.layer, one.width) for one in found] == [("0", 64), ("5", 8)]
    for one in found:
        points = representation(net, x, one.layer, batch_size=60)
        for value, expected in (
            (one.mle, dimension.mle_dimension(points, 5)),
            (one.twonn, dimension.twonn_dimension(points)),
            (one.others["lPCA"], dimension.other_dimension(points, "lPCA")),
        ):
            assert float(value) == float(expected)
        assert (one.mle.low, one.mle.high) == pytest.approx(mle_interval(points))
        assert one.reasons == {}


def mle_interval(points):
    value = dimension.mle_dimension(points, 5)
    return value.low, value.high


def test_every_block_is_measured_unless_layers_are_named():
    net = models.create("resnet18", seed=1)
    found = representations.dimensions(net, images(40, side=32), k=5)
    assert [one.layer for one in found] == representations.blocks(net)
    assert [one.width for one in found] == [64 * 64, 128 * 16, 256 * 4, 512, 512]
    assert all(0 < one.mle < 100 for one in found)
    np.testing.assert_allclose(float(found[3].mle), float(found[4].mle), rtol=1e-6)  # one position at 32 pixels


def test_the_points_of_a_layer_are_gone_when_the_next_is_measured(monkeypatch):
    held, search = [], representations.neighbors

    def watching(points, *given, **settings):
        assert [one() for one in held] == [None] * len(held)
        near = search(points, *given, **settings)
        held.extend([weakref.ref(points), weakref.ref(near.points)])
        return near

    monkeypatch.setattr(representations, "neighbors", watching)
    representations.dimensions(network(), images(60), ["0", "5", "7"], 5)
    assert len(held) == 6


def test_a_layer_that_maps_images_to_one_point_has_no_dimension_and_a_reason():
    net = network()
    with torch.no_grad():
        net[5].weight.zero_()
    one, two = representations.dimensions(net, images(), ["5", "0"], 3)
    assert (one.mle, one.twonn) == (None, None)
    assert "exact copy" in one.reasons["mle"]
    assert two.mle > 0


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of memory is read from /proc")
def test_memory_does_not_grow_with_the_width_of_a_layer():
    """600 images whose layers take 300 and 600 MiB: the peak stays near that of a batch."""
    code = """
import gc, torch
from torch import nn
from intrinsic.networks import representations
torch.set_num_threads(1)

def peak():
    (line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024

net = nn.Sequential(nn.Conv2d(1, 32, 3, padding=1), nn.Upsample(scale_factor=(2, 1)), nn.AdaptiveAvgPool2d(1))
x = torch.rand(600, 1, 64, 64)
representations.activations(net, x[:40], ["0", "1"], 20)
gc.collect()
open("/proc/self/clear_refs", "w").write("5")
before = peak()
found = representations.activations(net, x, ["0", "1"], 20)
print(peak() - before, sum(points.nbytes for points in found.values()) / 2**20, float(found["0"][-1].std()) > 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    grown, held, real = done.stdout.split()
    assert float(held) == pytest.approx(900, rel=0.01)
    assert float(grown) < 250  # a batch of 20: 10 and 20 MiB, each a few times
    assert real == "True"


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
