"""Networks by name: torchvision's architectures and weights, one output a class, and the images they read."""

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from intrinsic.networks import models


@pytest.fixture(scope="module")
def grey():
    """The six networks for grey images of two classes, by name."""
    return {name: models.create(name) for name in models.MODELS}


@pytest.mark.parametrize("name", ["resnet18", "vgg13"])
def test_with_three_channels_it_is_torchvisions_network_of_the_seed(name):
    torch.manual_seed(3)
    theirs = torchvision.models.get_model(name, num_classes=10).state_dict()
    torch.manual_seed(0)
    drawn = torch.get_rng_state()
    ours = models.create(name, channels=3, n_classes=10, seed=3).state_dict()
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


def test_grey_and_colour_differ_in_the_first_convolution_only(grey):
    colour = models.create("resnet18", channels=3).state_dict()
    own = grey["resnet18"].state_dict()
    assert [key for key in own if not torch.equal(own[key], colour[key])] == ["conv1.weight"]
    assert own["conv1.weight"].std() == pytest.approx(np.sqrt(2 / (64 * 49)), rel=0.05)


def test_a_network_has_one_output_a_class_and_the_papers_layer_its_known_width(grey):
    widths = {"resnet18": 512, "resnet34": 512, "resnet50": 2048, "vgg13": 4096, "vgg16": 4096, "vgg19": 4096}
    for name, network in grey.items():
        caught = []
        layer = network.get_submodule(models.representation_layer(name))
        handle = layer.register_forward_hook(lambda *given, caught=caught: caught.append(given[-1].flatten(1).shape))
        with models.evaluating(network), torch.no_grad():
            assert network(torch.zeros(2, 1, 32, 32)).shape == (2, 2)
        handle.remove()
        assert caught == [(2, widths[name])]


@pytest.mark.parametrize(("name", "layer"), [("mobilenet_v3_small", "features"), ("googlenet", "inception5b")])
def test_other_networks_of_torchvision_read_grey_images(name, layer):
    network = models.create(name, n_classes=3).eval()
    assert network(torch.zeros(2, 1, 64, 64)).shape == (2, 3)
    assert models.representation_layer(name) == layer


def test_what_makes_no_network_is_refused():
    with pytest.raises(models.BadInput, match="resnet19"):
        models.create("resnet19")
    with pytest.raises(models.BadInput, match="1 classes"):
        models.create("resnet18", n_classes=1)


def test_images_are_scaled_where_the_network_reads_them():
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    read = models.network_input(pixels)
    assert (read.dtype, read.shape) == (torch.uint8, (1, 1, 16, 16))
    expected = torch.arange(256, dtype=torch.float32).view(1, 1, 16, 16) / 255
    assert torch.equal(models.placed(nn.Linear(1, 1), read), expected)
    assert torch.equal(models.unit_images(pixels), expected)
    assert models.placed(nn.Linear(1, 1).double(), expected).dtype == torch.float64


@pytest.mark.parametrize(
    ("x", "match"),
    [
        (torch.zeros(2, 3), "2, 3"),
        (torch.zeros(0, 1, 4, 4), "0, 1, 4, 4"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.int64), "int64"),
        (torch.full((2, 1, 4, 4), torch.nan), "NaN"),
        (torch.full((2, 1, 4, 4), 1.01), "1.01"),
        (torch.full((2, 1, 4, 4), -0.25), "-0.25"),
    ],
)
def test_images_that_no_network_reads_are_refused(x, match):
    with pytest.raises(models.BadInput, match=match):
        models.network_input(x)


@pytest.mark.parametrize("y", [[0.0, 1.0], [0, 1, 1], [0, -1], [[0], [1]], ["a", "b"]])
def test_labels_that_name_no_class_of_each_image_are_refused(y):
    with pytest.raises(models.BadInput):
        models.network_labels(y, 2)


def test_evaluation_ends_with_its_block_even_after_an_error():
    network = nn.Sequential(nn.BatchNorm2d(2), nn.Dropout())
    network[1].eval()
    tf32 = torch.backends.cudnn.allow_tf32
    with torch.autocast("cpu", torch.bfloat16), models.evaluating(network):
        assert not network[0].training
        assert not torch.is_autocast_enabled("cpu")
    with pytest.raises(ZeroDivisionError), models.evaluating(network):
        1 / 0  # noqa: B018
    assert (network[0].training, network[1].training, torch.backends.cudnn.allow_tf32) == (True, False, tf32)
