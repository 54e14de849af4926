"""FGSM: exact on a linear network, equal to torchattacks, one gradient for all budgets."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from intrinsic import attacks, training
from intrinsic.attacks import fgsm, fgsm_penalties

SIDE = 4
BUDGETS = [0.0, 1 / 255, 2 / 255, 4 / 255, 8 / 255, 1.0]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def linear(n_classes=2, scale=1.0, seed=0):
    """(network, W): logits = W x, no bias."""
    layer = nn.Linear(SIDE * SIDE, n_classes, bias=False)
    with torch.no_grad():
        layer.weight.copy_(scale * torch.randn(layer.weight.shape, generator=generator(seed)))
    return nn.Sequential(nn.Flatten(), layer), layer.weight.detach().double().numpy()


def images(n=32, side=SIDE, low=0.0, high=1.0, seed=1):
    return low + (high - low) * torch.rand(n, 1, side, side, generator=generator(seed))


def convolutional(n_classes, seed=0):
    """A small network with batch normalization, dropout and pooling, its statistics away from their start."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 8, 3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(8 * 3 * 3, n_classes),
        )
        net(torch.rand(50, 1, 10, 10))
    return net


# ------------------------------------------------------------------------------------ the images it makes


@pytest.mark.parametrize("scale", [1.0, 1e3])  # 1e3: sure by hundreds of nats, where p_y - 1 is 0 in float32
def test_it_is_exact_on_a_linear_network_of_two_classes(scale):
    model, w = linear(scale=scale)
    x, y = images(), np.arange(32) % 2
    direction = np.sign(w[1 - y] - w[y]).reshape(x.shape)
    for eps, attacked in zip(BUDGETS, fgsm(model, x, y, BUDGETS), strict=True):
        expected = np.clip(x.numpy() + np.float32(eps) * direction.astype(np.float32), 0, 1)
        np.testing.assert_array_equal(attacked.numpy(), expected)


@pytest.mark.parametrize("n_classes", [3, 10])
def test_it_is_exact_on_a_linear_network_of_many_classes(n_classes):
    model, w = linear(n_classes)
    x, y = images(), np.arange(32) % n_classes
    logits = x.reshape(32, -1).double().numpy() @ w.T
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    gradient = (p - np.eye(n_classes)[y]) @ w
    clear = np.abs(gradient) > 1e-5 * np.abs(gradient).max()  # else the sign is a matter of rounding
    assert clear.mean() > 0.99
    (attacked,) = fgsm(model, x, y, [0.01])
    expected = np.clip(x.numpy() + 0.01 * np.sign(gradient).reshape(x.shape), 0, 1)
    error = np.abs(attacked.numpy() - expected).reshape(32, -1)
    assert error[clear].max() < 1e-6


@pytest.mark.parametrize("n_classes", [2, 5])
def test_it_is_torchattacks_fgsm_at_every_budget(n_classes):
    import torchattacks

    model = convolutional(n_classes).eval()
    x, y = images(16, side=10), torch.arange(16) % n_classes
    pixels = x.clone().requires_grad_(True)
    loss = nn.functional.cross_entropy(model(pixels), y, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, pixels)
    clear = gradient.abs() > 1e-5 * gradient.abs().max()
    assert clear.float().mean() > 0.9
    ours = fgsm(model, x, y, BUDGETS)
    for eps, attacked in zip(BUDGETS, ours, strict=True):
        theirs = torchattacks.FGSM(model, eps=eps)(x, y)
        assert torch.equal(attacked[clear], theirs[clear])


@pytest.mark.parametrize("batch_size", [1, 5, 16, 128])
def test_batches_do_not_matter(batch_size):
    model, _ = linear(3)
    x, y = images(16), np.arange(16) % 3
    for a, b in zip(fgsm(model, x, y, BUDGETS), fgsm(model, x, y, BUDGETS, batch_size=batch_size), strict=True):
        assert torch.equal(a, b)
    one, other = fgsm_penalties(model, x, y), fgsm_penalties(model, x, y, batch_size=batch_size)
    assert one == pytest.approx(other, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("eps", BUDGETS)
def test_attacked_images_stay_in_range_and_within_the_budget(eps):
    x, y = images(16, side=10), torch.arange(16) % 2
    (attacked,) = fgsm(convolutional(2), x, y, [eps])
    assert attacked.min() >= 0
    assert attacked.max() <= 1
    assert (attacked - x).abs().max() <= eps + 1e-7


def test_bytes_are_read_as_unit_images():
    model, _ = linear()
    pixels = (images() * 255).round().to(torch.uint8)
    y = np.arange(32) % 2
    assert torch.equal(fgsm(model, pixels.numpy(), y, [0.1])[0], fgsm(model, pixels.float() / 255, y, [0.1])[0])


def test_all_budgets_come_from_one_gradient_an_image():
    model, _ = linear()
    passes = {True: 0, False: 0}
    backward = []
    model[0].register_forward_pre_hook(
        lambda *_: passes.__setitem__(torch.is_grad_enabled(), passes[torch.is_grad_enabled()] + 1)
    )
    model[1].register_full_backward_hook(lambda *_: backward.append(1))
    x, y = images(20), np.arange(20) % 2
    fgsm(model, x, y, BUDGETS, batch_size=10)
    assert (passes, len(backward)) == ({True: 2, False: 0}, 2)
    fgsm_penalties(model, x, y, grey_levels=(1, 2, 4, 8), batch_size=20)
    assert (passes, len(backward)) == ({True: 3, False: 5}, 3)  # four budgets and the whole range


def test_the_network_and_the_images_are_as_they_were():
    model = convolutional(2).train()
    model[1].eval()
    modes = [m.training for m in model.modules()]
    state = copy.deepcopy(model.state_dict())
    x, y = images(16, side=10), torch.arange(16) % 2
    kept = x.clone()
    first = fgsm(model, x, y, [0.1])[0]
    assert torch.equal(first, fgsm(model, x, y, [0.1])[0])  # no dropout
    assert fgsm_penalties(model, x, y) == fgsm_penalties(model, x, y)
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert torch.equal(x, kept)
    assert not x.requires_grad
    assert not first.requires_grad


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_it_works_where_the_caller_has_gradients_off(context):
    model, _ = linear()
    y = np.arange(32) % 2
    expected = fgsm(model, images(), y, [0.1])[0]
    with context():
        assert torch.equal(fgsm(model, images(), y, [0.1])[0], expected)


# ------------------------------------------------------------------------------------------ what it costs


def test_penalties_on_a_linear_network_are_those_computed_by_hand():
    model, w = linear(scale=3.0)
    x = images(200, low=0.1, high=0.9)  # no pixel reaches the range's end at 8 grey levels
    y = np.arange(200) % 2
    flat = x.reshape(200, -1).double().numpy()
    margin = (flat * (w[y] - w[1 - y])).sum(1)
    reach = np.abs(w[1] - w[0]).sum()
    found = fgsm_penalties(model, x, y, grey_levels=(1, 2, 4, 8))
    clean = np.logaddexp(0, -margin)
    correct = margin > 0
    assert 0.1 < correct.mean() < 0.9
    assert found["clean_loss_nats"] == pytest.approx(clean.mean(), rel=1e-5)
    assert found["clean_accuracy"] == correct.mean()
    assert found["misclassified_fraction"] == pytest.approx(1 - correct.mean())
    for g in (1, 2, 4, 8):
        lost = np.logaddexp(0, g / 255 * reach - margin) - clean
        gone = correct & (margin < g / 255 * reach)
        assert found[f"loss_penalty_nats_eps{g}"] == pytest.approx(lost.mean(), rel=1e-4)
        assert found[f"accuracy_penalty_eps{g}"] == pytest.approx(gone.mean())
        assert found[f"loss_penalty_nats_eps{g}_correct"] == pytest.approx(lost[correct].mean(), rel=1e-4)
        assert found[f"accuracy_penalty_eps{g}_correct"] == pytest.approx(gone[correct].mean())
    assert found["accuracy_penalty_eps8"] > found["accuracy_penalty_eps1"]


def test_accuracy_falls_with_the_budget_and_is_0_over_the_whole_range():
    # at budget 1.0 every pixel goes to the end that hurts, so w.x < 0 for the true class
    model, w = linear()
    x = images(64)
    y = (x.reshape(64, -1).double().numpy() @ (w[1] - w[0]) > 0).astype(int)
    levels = (1, 2, 4, 8, 16, 64, 255)
    found = fgsm_penalties(model, x, y, grey_levels=levels)
    lost = [found[f"accuracy_penalty_eps{g}"] for g in levels]
    assert lost == sorted(lost)
    assert found["clean_accuracy"] == 1
    assert found["accuracy_eps255"] == 0
    assert lost[-1] == 1


def test_images_that_are_wrong_without_an_attack_are_kept():
    model, w = linear()
    x = images(40)
    right = (x.reshape(40, -1).double().numpy() @ (w[1] - w[0]) > 0).astype(int)
    y = right.copy()
    y[:10] = 1 - y[:10]
    found = fgsm_penalties(model, x, y)
    assert found["misclassified_fraction"] == 0.25
    assert found["clean_accuracy"] == 0.75
    kept = fgsm_penalties(model, x[10:], y[10:])
    for key in ("loss_penalty_nats_eps2", "accuracy_penalty_eps2"):
        assert found[f"{key}_correct"] == pytest.approx(kept[key], rel=1e-6)
    assert found["accuracy_penalty_eps2"] == pytest.approx(0.75 * kept["accuracy_penalty_eps2"])


def test_without_one_correct_image_their_penalty_is_unknown():
    model, w = linear()
    x = images(8)
    y = (x.reshape(8, -1).double().numpy() @ (w[1] - w[0]) < 0).astype(int)
    found = fgsm_penalties(model, x, y)
    assert found["clean_accuracy"] == 0
    assert math.isnan(found["loss_penalty_nats_eps2_correct"])
    assert math.isfinite(found["loss_penalty_nats_eps2"])


def test_a_sure_network_is_attacked_all_the_same():
    # a float32 cross-entropy loses its gradient at the true class here; the direction has no scale
    plain, w = linear()
    sure, _ = linear(scale=1e3)
    x = images(40)
    y = (x.reshape(40, -1).double().numpy() @ (w[1] - w[0]) > 0).astype(int)
    a, b = fgsm_penalties(plain, x, y), fgsm_penalties(sure, x, y)
    assert (a["saturated_fraction"], a["gradient_zero_fraction"]) == (0, 0)
    assert b["saturated_fraction"] > 0.9
    assert b["gradient_zero_fraction"] == 0
    for g in (1, 2, 4, 8):
        assert a[f"accuracy_penalty_eps{g}"] == b[f"accuracy_penalty_eps{g}"]
    assert a["accuracy_penalty_eps8"] > 0


def test_images_without_a_gradient_are_counted():
    # a ReLU that is off for dark images: no pixel of theirs moves any output
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 1), nn.ReLU(), nn.Linear(1, 2))
    with torch.no_grad():
        model[1].weight.fill_(1.0)
        model[1].bias.fill_(-8.0)
        model[3].weight.copy_(torch.tensor([[-1.0], [1.0]]))
    x = torch.cat([images(6, high=0.3), images(2, low=0.7)])
    found = fgsm_penalties(model, x, np.arange(8) % 2)
    assert found["gradient_zero_fraction"] == 0.75
    (attacked,) = fgsm(model, x, np.arange(8) % 2, [0.1])
    assert torch.equal(attacked[:6], x[:6])
    assert not torch.equal(attacked[6:], x[6:])


def test_clean_scores_are_those_of_the_evaluation():
    model = convolutional(3)
    x, y = images(30, side=10), np.arange(30) % 3
    found, scores = fgsm_penalties(model, x, y), training.evaluate(model, x, y)
    assert found["clean_loss_nats"] == pytest.approx(scores["test_loss_nats"], rel=1e-6)
    assert found["clean_accuracy"] == pytest.approx(scores["accuracy"])


def test_a_network_that_diverged_has_no_loss_and_no_right_answer():
    model, _ = linear()
    with torch.no_grad():
        model[1].weight.fill_(torch.nan)
    found = fgsm_penalties(model, images(), np.arange(32) % 2)
    assert math.isnan(found["clean_loss_nats"])
    assert math.isnan(found["loss_penalty_nats_eps2"])
    assert found["clean_accuracy"] == 0
    assert found["gradient_zero_fraction"] == 1


# --------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("function", [lambda m, x, y: fgsm(m, x, y, [0.1]), fgsm_penalties])
@pytest.mark.parametrize("x", [images() * 255, images() - 0.5])
def test_images_outside_the_unit_range_are_refused(function, x):
    with pytest.raises(attacks.OutOfRange, match=r"units of \[0, 1\]"):
        function(linear()[0], x, np.arange(32) % 2)


@pytest.mark.parametrize("eps", [-0.1, 2.0, math.nan])
def test_a_budget_without_meaning_is_refused(eps):
    with pytest.raises(attacks.BadAttack, match="budget"):
        fgsm(linear()[0], images(), np.arange(32) % 2, [eps])


def test_a_network_in_half_precision_is_refused():
    with pytest.raises(attacks.BadAttack, match="bfloat16"):
        fgsm(linear()[0].to(torch.bfloat16), images(), np.arange(32) % 2, [0.1])


def test_a_network_of_one_output_is_refused():
    with pytest.raises(attacks.BadAttack, match="one output"):
        fgsm(linear(1)[0], images(), np.zeros(32, int), [0.1])


def test_a_label_without_an_output_is_refused():
    with pytest.raises(ValueError, match="label is 2"):
        fgsm(linear(2)[0], images(3), np.arange(3), [0.1])
