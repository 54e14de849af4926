"""Convolutions by matrix products against torch's in float64, gradients included."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from intrinsic.networks import convolutions, models

CLOSE = 2e-5  # of the largest value: float32, with the cancellation of Winograd's transforms


def both_ways(x, weight, bias, stride, padding):
    """(ours in float32, torch's in float64): outputs and gradients of x, weight and bias."""
    found = []
    for dtype, apply in ((torch.float32, convolutions.convolution), (torch.float64, functional.conv2d)):
        of = [None if one is None else one.detach().to(dtype).requires_grad_() for one in (x, weight, bias)]
        y = apply(*of, stride, padding)
        y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(9)).to(dtype))
        found.append([y.detach(), *(one.grad for one in of if one is not None)])
    return found


def assert_close(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        assert one.shape == other.shape
        assert float((one - other).abs().max()) <= CLOSE * float(other.abs().max())


def tensors(n, inputs, outputs, height, width, kernel, seed=0, bias=True):
    made = torch.Generator().manual_seed(seed)
    shapes = (n, inputs, height, width), (outputs, inputs, kernel, kernel), (outputs,)
    return [torch.randn(shape, generator=made) for shape in shapes[: 2 + bias]] + [None] * (not bias)


@pytest.mark.parametrize("height", [1, 2, 3, 4, 5, 7, 8, 9])
@pytest.mark.parametrize("width", [1, 2, 4, 6, 11])
def test_a_convolution_of_3_x_3_equals_torchs_at_every_size_of_map(height, width):
    given = tensors(3, 16, 20, height, width, 3)
    assert_close(*both_ways(*given, (1, 1), (1, 1)))


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("side", [1, 2, 3, 4, 8])
@pytest.mark.parametrize(("kernel", "stride", "inputs"), [(3, 1, 16), (3, 2, 16), (1, 1, 16), (1, 2, 16), (7, 2, 1)])
def test_what_follows_may_change_the_result_in_place(n, side, kernel, stride, inputs):
    x, weight, _ = tensors(n, inputs, 16, side, side, kernel)
    x.requires_grad_()
    y = convolutions.convolution(x, weight, None, (stride, stride), (kernel // 2, kernel // 2))
    assert not y._is_view()
    functional.relu(y, inplace=True).sum().backward()
    exact = x.detach().double().requires_grad_()
    functional.relu(functional.conv2d(exact, weight.double(), None, stride, kernel // 2)).sum().backward()
    assert_close([x.grad], [exact.grad])


@pytest.mark.parametrize("n", [1, 5, 70])
@pytest.mark.parametrize("bias", [True, False])
def test_it_does_so_in_one_chunk_of_images_and_in_many(n, bias, monkeypatch):
    given = tensors(n, 17, 16, 9, 10, 3, bias=bias)
    assert_close(*both_ways(*given, (1, 1), (1, 1)))
    monkeypatch.setattr(convolutions, "CHUNK_BYTES", 1)
    monkeypatch.setattr(convolutions, "FEWEST_TILES", 1)
    assert_close(*both_ways(*given, (1, 1), (1, 1)))


@pytest.mark.parametrize("m", [2, 4])
def test_tiles_of_both_sides_give_the_same(m, monkeypatch):
    monkeypatch.setattr(convolutions, "tile_side", lambda *_: m)
    given = tensors(2, 16, 16, 10, 7, 3)
    assert_close(*both_ways(*given, (1, 1), (1, 1)))


@pytest.mark.parametrize(
    ("inputs", "kernel", "stride", "padding", "size"),
    [
        *[(16, 3, 2, 1, 4), (16, 3, 2, 1, 3), (8, 1, 1, 0, 2), (8, 1, 2, 0, 4), (1, 7, 2, 3, 20), (3, 7, 2, 3, 17)],
        *[(3, 5, 1, 0, 9), (20, 3, 1, 1, 1), (20, 3, 2, 1, 1), (6, 3, 1, 2, 2)],
    ],
)
def test_other_convolutions_equal_torchs(inputs, kernel, stride, padding, size, monkeypatch):
    given = tensors(5, inputs, 18, size, size + 1, kernel)
    assert_close(*both_ways(*given, (stride, stride), (padding, padding)))
    monkeypatch.setattr(convolutions, "FEW_INPUTS", 10**6)  # every one of them by columns
    monkeypatch.setattr(convolutions, "CHUNK_BYTES", 1)
    monkeypatch.setattr(convolutions, "FEWEST_TILES", 1)
    assert_close(*both_ways(*given, (stride, stride), (padding, padding)))


def test_each_kernel_and_its_adjoint_have_equal_inner_products():
    made = np.random.default_rng(0)
    for m in (2, 4):
        a, (n, height, width, channels) = m + 2, (2, 7, 6, 5)
        down, across = -(-height // m), -(-width // m)
        x = made.standard_normal((n, height, width, channels), dtype=np.float32)
        tiles = made.standard_normal((a * a, n * down * across, channels), dtype=np.float32)
        for forward, adjoint in (
            (convolutions.inputs_to_tiles, convolutions.tiles_to_inputs),
            (convolutions.outputs_to_tiles, convolutions.tiles_to_outputs),
        ):
            there, back = np.zeros_like(tiles), np.zeros_like(x)
            forward(x, m, 0, there, 0, n * down)
            adjoint(back, m, 0, tiles, 0, n * down)
            assert np.vdot(there, tiles) == pytest.approx(np.vdot(x, back), rel=1e-4)


def with_threads(work):
    """work() with 1, 2 and 3 threads."""
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(work())
    finally:
        torch.set_num_threads(before)
    return found


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("n", "inputs", "outputs", "side", "kernel", "stride", "way"),
    [
        *[(40, 32, 24, 8, 3, 1, "_Tiles"), (64, 32, 24, 16, 3, 1, "_Tiles")],
        *[(40, 300, 520, 2, 3, 1, "_Shifts"), (40, 260, 300, 2, 1, 1, "_Columns"), (40, 64, 512, 4, 3, 2, "_Columns")],
    ],
)
def test_the_result_does_not_depend_on_the_number_of_threads(
    n, inputs, outputs, side, kernel, stride, way, monkeypatch
):
    given = tensors(n, inputs, outputs, side, side, kernel)
    if way == "_Tiles":
        assert len(convolutions._parts(np.empty((n, side, side, inputs)), 4)) == (4 if side == 16 else 1)
    used = []
    for name in ("_Tiles", "_Shifts", "_Columns"):
        class_ = getattr(convolutions, name)
        watched = staticmethod(lambda *a, name=name, forward=class_.forward: used.append(name) or forward(*a))
        monkeypatch.setattr(class_, "forward", watched)
    found = with_threads(lambda: both_ways(*given, (stride, stride), (kernel // 2, kernel // 2))[0])
    assert used == [way] * 3
    for other in found[1:]:
        assert all(torch.equal(one, two) for one, two in zip(found[0], other, strict=True))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_first_layer_is_torchs_own_and_repeats_itself_at_each_number_of_threads(channels, monkeypatch):
    for name in ("_Tiles", "_Shifts", "_Columns"):
        monkeypatch.setattr(getattr(convolutions, name), "forward", None)
    given = tensors(40, channels, 64, 64, 64, 7)
    once, again = (with_threads(lambda: both_ways(*given, (2, 2), (3, 3))[0]) for _ in range(2))
    for first, second in zip(once, again, strict=True):
        assert all(torch.equal(one, two) for one, two in zip(first, second, strict=True))


@pytest.mark.timeout(60)
def test_nor_does_that_of_a_linear_layer_over_an_enlarged_map():
    x, weight = torch.randn(16, 64, 2, 2), torch.randn(600, 64 * 49)
    bias = torch.randn(600)

    def work():
        of = [one.clone().requires_grad_() for one in (x, weight, bias)]
        y = convolutions._PooledLinear.apply(*of, (7, 7))
        y.square().sum().backward()
        return [y.detach(), *(one.grad for one in of)]

    found = with_threads(work)
    for other in found[1:]:
        assert all(torch.equal(one, two) for one, two in zip(found[0], other, strict=True))


@pytest.mark.parametrize(("name", "size"), [("resnet18", 32), ("resnet50", 64), ("vgg13", 64)])
def test_a_network_and_its_gradients_equal_torchs(name, size):
    network = models.create(name, n_classes=3, seed=1).eval()  # without dropout
    x = torch.rand(2, 1, size, size, generator=torch.Generator().manual_seed(0))
    found = []
    for exact in (False, True):
        one = copy.deepcopy(network)
        pixels = x.clone()
        if exact:
            one, pixels = one.double(), pixels.double()
        pixels.requires_grad_()
        outputs = one(pixels)
        functional.cross_entropy(outputs, torch.tensor([0, 2])).backward()
        found.append([outputs.detach(), pixels.grad, *(p.grad for p in one.parameters())])
    for one, other in zip(*found, strict=True):
        assert one.shape == other.shape
        assert float((one - other).norm()) <= 0.02 * float(
            other.norm()
        )  # a unit that switches at 0 shows in a gradient
    assert float((found[0][0] - found[1][0]).norm()) <= 1e-4 * float(found[1][0].norm())


def test_hooks_of_a_vgg_see_what_they_would_in_torchs():
    network = models.create("vgg13").eval()
    x, seen = torch.rand(2, 1, 32, 32), {}
    plain = network(x)
    for name in ("avgpool", "classifier.0", "classifier.3"):
        network.get_submodule(name).register_forward_hook(lambda m, a, out, name=name: seen.update({name: out}))
    assert torch.allclose(network(x), plain, rtol=1e-4, atol=1e-6)
    assert [tuple(seen[name].shape) for name in seen] == [(2, 512, 7, 7), (2, 4096), (2, 4096)]


def test_a_replaced_network_keeps_names_weights_and_kind():
    network = models.create("vgg13")
    assert all(type(m) is convolutions.Conv2d for m in network.modules() if isinstance(m, nn.Conv2d))
    again = pickle.loads(pickle.dumps(network))
    assert list(again.state_dict()) == list(network.state_dict())
    assert type(again) is type(network)
    assert type(again) is convolutions.PooledVGG
    assert not isinstance(
        next(m for m in models.create("mobilenet_v2").modules() if isinstance(m, nn.Conv2d) and m.groups > 1),
        convolutions.Conv2d,
    )


def test_torchs_own_convolutions_serve_other_types_and_the_block_that_asks_for_them(monkeypatch):
    def refuse(*_):
        raise AssertionError("ours was called")

    network = convolutions.replace(nn.Sequential(nn.Conv2d(16, 16, 3, padding=1)))
    monkeypatch.setattr(convolutions, "convolution", refuse)
    with pytest.raises(AssertionError, match="ours"):
        network(torch.rand(1, 16, 8, 8))
    with convolutions.torchs_own():
        network(torch.rand(1, 16, 8, 8))
    with torch.autocast("cpu", torch.bfloat16):
        network(torch.rand(1, 16, 8, 8))
    network.double()(torch.rand(1, 16, 8, 8, dtype=torch.float64))


def test_a_pixel_that_is_not_finite_makes_its_outputs_so():
    x = torch.rand(1, 16, 8, 8)
    x[0, 3, 2, 2] = float("nan")
    y = convolutions.convolution(x, torch.rand(16, 16, 3, 3), None, (1, 1), (1, 1))
    assert torch.isnan(y[:, :, 1:4, 1:4]).all()
