"""The six networks: torchvision's architectures, seeded, for grey and colour images."""

import math
import sys
import types

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from intrinsic import images
from intrinsic.networks import models, representations

# Parameters with 3 channels and 1,000 outputs, as torchvision's documentation lists them.
PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "vgg13": 133_047_848,
    "vgg16": 138_357_544,
    "vgg19": 143_667_240,
}
FIRST = {name: "features.0" if name.startswith("vgg") else "conv1" for name in PARAMETERS}


@pytest.fixture(scope="module", params=models.MODELS)
def grey(request):
    """(name, network for grey images and two classes), each built once."""
    return request.param, models.create(request.param, channels=1, n_classes=2, seed=0)


def test_the_six_networks_are_the_papers():
    assert set(models.MODELS) == set(PARAMETERS)


@pytest.mark.parametrize("name", models.MODELS)
def test_with_three_channels_and_a_thousand_outputs_it_has_torchvisions_parameters(name):
    with torch.device("meta"):  # shapes without memory
        network = models.create(name, channels=3, n_classes=1000)
    assert models.parameter_count(network) == PARAMETERS[name]


@pytest.mark.parametrize("name", models.MODELS)
def test_three_channels_reach_as_many_outputs_as_classes(name):
    with torch.device("meta"):
        network = models.create(name, channels=3, n_classes=7)
        assert network(torch.empty(4, 3, 64, 64)).shape == (4, 7)


def test_a_grey_network_reads_one_channel_and_has_one_output_a_class(grey):
    name, network = grey
    x = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    with models.evaluating(network), torch.no_grad():
        logits = network(x)
    assert logits.shape == (2, 2)
    assert torch.isfinite(logits).all()
    outputs = 4096 if name.startswith("vgg") else network.fc.in_features
    kernel = 3 * 3 if name.startswith("vgg") else 7 * 7
    expected = PARAMETERS[name] - 998 * (outputs + 1) - 2 * 64 * kernel
    assert models.parameter_count(network) == expected


def test_the_papers_layer_has_the_known_width(grey):
    name, network = grey
    x = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    points = representations.representation(network, x, models.representation_layer(name))
    width = 4096 if name.startswith("vgg") else {"resnet50": 2048}.get(name, 512)
    assert points.shape == (2, width)
    if name.startswith("vgg"):  # before the ReLU, which works in place
        assert isinstance(network.classifier[4], nn.ReLU)
        assert network.classifier[4].inplace
        assert (points < 0).any()
    else:
        assert (points >= 0).all()


@pytest.mark.parametrize("name", [name for name in models.MODELS if name.startswith("vgg")])
def test_a_vgg_keeps_the_standard_pool_at_32_pixels(name):
    with torch.device("meta"):
        network = models.create(name)
        assert network.features(torch.empty(1, 1, 32, 32)).shape == (1, 512, 1, 1)
    assert network.avgpool.output_size == (7, 7)
    assert network.classifier[0].in_features == 512 * 7 * 7


@pytest.mark.parametrize("name", [*models.MODELS, "vgg11_bn"])
def test_the_smallest_size_is_read_and_for_a_vgg_no_smaller_one_is(name):
    least = models.smallest_size(name)
    assert models.operations(name, size=least) > 0
    if least > 1:
        with pytest.raises(RuntimeError, match="too small"):
            models.operations(name, size=least - 1)


def test_the_replaced_convolution_follows_the_same_rule_of_initialization(grey):
    name, network = grey
    first = network.get_submodule(FIRST[name])
    kernel = first.kernel_size[0] ** 2
    assert first.weight.shape[:2] == (64, 1)
    # normal with variance 2 / (64 kernel): the standard deviation of n draws is known to 1 / sqrt(2 n)
    expected = math.sqrt(2 / (64 * kernel))
    assert first.weight.std().item() == pytest.approx(expected, rel=4 / math.sqrt(2 * 64 * kernel))
    assert abs(first.weight.mean().item()) < 4 * expected / math.sqrt(64 * kernel)
    if name.startswith("vgg"):
        assert (first.bias == 0).all()
    else:
        assert first.bias is None


@pytest.mark.parametrize("side", [32, 64, 96])
def test_layer4_is_flattened_before_the_average_over_positions(side):
    network = models.create("resnet18", channels=3)
    points = representations.representation(network, torch.zeros(2, 3, side, side), "layer4")
    assert points.shape == (2, 512 * (side // 32) ** 2)


def test_a_colour_network_has_torchvisions_weights_at_the_same_seed():
    ours = models.create("resnet18", channels=3, n_classes=5, seed=11)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        theirs = torchvision.models.resnet18(weights=None, num_classes=5)
    assert _same(ours, theirs)


def test_grey_and_colour_differ_in_the_first_convolution_only():
    grey, colour = (models.create("resnet18", channels=c, seed=4) for c in (1, 3))
    differ = [k for k, v in grey.state_dict().items() if not torch.equal(v, colour.state_dict()[k])]
    assert differ == ["conv1.weight"]


def test_a_seed_decides_the_weights():
    first, again, other = (models.create("resnet18", seed=s) for s in (5, 5, 6))
    assert _same(first, again)
    assert not torch.equal(first.conv1.weight, other.conv1.weight)
    assert not torch.equal(first.fc.weight, other.fc.weight)


def test_creating_a_network_leaves_the_callers_random_numbers_alone():
    before = torch.get_rng_state()
    models.create("resnet18", seed=3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "function",
    [
        models.create,
        models.representation_layer,
        models.default_learning_rate,
        models.default_batch_size,
        models.default_warmup_steps,
    ],
)
def test_an_unknown_name_is_refused_with_the_known_ones(function):
    with pytest.raises(models.UnknownModel, match=r"'resnet19'.*resnet18, .*vgg19"):
        function("resnet19")


@pytest.mark.parametrize("settings", [{"channels": 0}, {"n_classes": 1}])
def test_a_network_without_inputs_or_alternatives_is_refused(settings):
    with pytest.raises(models.BadInput, match="nothing to learn"):
        models.create("resnet18", **settings)


def test_rates_and_batches_are_the_protocols():
    for name in models.MODELS:
        vgg = name.startswith("vgg")
        with torch.device("meta"):
            network = models.create(name)
        for model in (name, network):
            assert models.default_learning_rate(model) == (1e-4 if vgg else 1e-3)
            assert models.default_batch_size(model) == (16 if vgg else 64)
            assert models.default_warmup_steps(model) == (2000 if vgg else 0)
    assert models.default_learning_rate(nn.Linear(2, 2)) == 1e-3


def test_bytes_are_scaled_as_image_sets_are():
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    expected = images.as_unit(pixels)
    pixels.flags.writeable = False
    for x in (pixels[:, None], torch.tensor(pixels)[:, None]):
        assert torch.equal(models.network_input(x), expected)


@pytest.mark.parametrize(
    ("x", "why"),
    [
        (np.zeros((3, 8, 8), np.float32), r"shape \(3, 8, 8\)"),
        (np.zeros((0, 1, 8, 8), np.float32), "n >= 1"),
        (np.zeros((2, 1, 8, 8), np.int64), "range is not known"),
        (np.full((2, 1, 8, 8), np.nan), "NaN or infinite"),
        (np.full((2, 1, 8, 8), np.inf), "NaN or infinite"),
    ],
)
def test_images_that_no_network_reads_are_refused(x, why):
    with pytest.raises(models.BadInput, match=why):
        models.network_input(x)


@pytest.mark.parametrize("kind", [np.uint8, np.int32, np.uint64, np.bool_])
def test_labels_of_every_integer_type_are_read(kind):
    labels = models.network_labels(np.array([0, 1, 1], kind), 3)
    assert labels.dtype == torch.int64
    assert labels.tolist() == [0, 1, 1]


@pytest.mark.parametrize("y", [[0, 1], [0.0, 1.0, 1.0], [[0], [1], [1]], [0, -1, 1], torch.tensor([0.0, 1.0, 1.0])])
def test_labels_that_do_not_name_a_class_of_each_image_are_refused(y):
    with pytest.raises(models.BadInput):
        models.network_labels(y, 3)


def test_evaluation_mode_ends_with_its_block_even_after_an_error():
    network = nn.Sequential(nn.Dropout(), nn.Sequential(nn.BatchNorm1d(2), nn.Dropout()))
    network[1][0].eval()  # a frozen part in a network that trains
    modes = [m.training for m in network.modules()]
    precision = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    with models.evaluating(network):
        assert not any(m.training for m in network.modules())
    assert [m.training for m in network.modules()] == modes
    with pytest.raises(RuntimeError), models.evaluating(network):
        network(torch.zeros(1, 3))  # too many columns
    assert [m.training for m in network.modules()] == modes
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == precision


def test_weights_ask_for_no_gradient_in_evaluation_and_do_again_afterwards():
    network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    network[0].weight.requires_grad_(False)  # one that is not trained
    wanted = [p.requires_grad for p in network.parameters()]
    x = torch.rand(5, 3, requires_grad=True)
    (outside,) = torch.autograd.grad(network(x)[:, 1].sum(), x)
    with models.evaluating(network):
        assert not any(p.requires_grad for p in network.parameters())
        (inside,) = torch.autograd.grad(network(x)[:, 1].sum(), x)
    assert torch.equal(inside, outside)
    with pytest.raises(RuntimeError), models.evaluating(network):
        network(torch.zeros(1, 4))
    assert [p.requires_grad for p in network.parameters()] == wanted


def test_evaluation_is_in_float32_inside_a_callers_autocast():
    network = nn.Linear(3, 2)
    x = torch.rand(4, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert network(x).dtype == torch.bfloat16
        with models.evaluating(network):
            assert network(x).dtype == torch.float32


# -------------------------------------------------------------------------------------- other networks


@pytest.mark.parametrize(
    ("name", "side", "layer"),
    [
        ("resnet101", 32, "layer4"),
        ("vgg11_bn", 32, "features"),
        ("efficientnet_b0", 32, "features"),
        ("mobilenet_v3_small", 32, "features"),
        ("densenet121", 32, "features"),
        ("convnext_tiny", 32, "features"),
        ("googlenet", 64, "inception5b"),
        ("inception_v3", 96, "Mixed_7c"),
        ("squeezenet1_1", 64, "features"),
        ("vit_b_16", 224, "encoder"),
    ],
)
def test_other_networks_of_torchvision_read_grey_images_and_have_a_last_part(name, side, layer):
    with torch.device("meta"):
        network = models.create(name, channels=1, n_classes=7).train()
        logits = network(torch.empty(2, 1, side, side))
    assert logits.shape == (2, 7)  # in training too, without outputs of auxiliary heads
    assert models.representation_layer(name) == layer
    assert layer in dict(network.named_modules())


def test_the_first_convolution_is_replaced_with_everything_else_as_it_was():
    grey, colour = (models.create("efficientnet_b0", channels=c, seed=4) for c in (5, 3))
    differ = [k for k, v in grey.state_dict().items() if not torch.equal(v, colour.state_dict()[k])]
    assert differ == ["features.0.0.weight"]
    first, like = grey.features[0][0], colour.features[0][0]
    assert first.weight.shape == (32, 5, 3, 3)
    assert (first.stride, first.padding, first.bias) == (like.stride, like.padding, like.bias)


def test_rates_and_batches_of_a_vgg_are_for_those_without_batch_normalization():
    for name, rate, batch, warmup in (
        ("vgg11", 1e-4, 16, 2000),
        ("vgg11_bn", 1e-3, 64, 0),
        ("resnet101", 1e-3, 64, 0),
    ):
        with torch.device("meta"):
            network = models.create(name)
        for model in (name, network):
            assert (models.default_learning_rate(model), models.default_batch_size(model)) == (rate, batch)
            assert models.default_warmup_steps(model) == warmup


def test_a_timm_network_without_timm_is_refused_in_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)  # as where it is not installed
    with pytest.raises(models.UnknownModel, match=r"'timm:resnet26' is .* not installed; install it: pip install timm"):
        models.create("timm:resnet26")


def test_a_timm_network_is_made_by_timm_at_the_seed(monkeypatch):
    made = []

    def create_model(name, pretrained, num_classes):
        made.append((name, pretrained, num_classes))
        return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 64, num_classes))

    timm = types.SimpleNamespace(create_model=create_model, is_model=lambda name: name == "resnet26")
    monkeypatch.setitem(sys.modules, "timm", timm)
    first, again = (models.create("timm:resnet26", channels=1, n_classes=3, seed=2) for _ in range(2))
    assert made == [("resnet26", False, 3)] * 2
    assert _same(first, again)
    assert first(torch.zeros(2, 1, 8, 8)).shape == (2, 3)
    with pytest.raises(models.UnknownModel, match="'timm:resnet27' is no network of the installed timm"):
        models.known("timm:resnet27")


def test_channels_that_no_convolution_can_be_made_to_read_are_refused(monkeypatch):
    timm = types.SimpleNamespace(create_model=lambda *_, **__: nn.Linear(3, 2), is_model=lambda _: True)
    monkeypatch.setitem(sys.modules, "timm", timm)
    with pytest.raises(models.BadInput, match="no convolution that reads 3 channels"):
        models.create("timm:mixer", channels=1)


def _same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(v, b[k]) for k, v in a.items())
