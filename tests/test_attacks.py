"""Attacks: exact on linear networks, in their budget, never weaker than what they contain, the network untouched."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from intrinsic.networks import attacks, training
from intrinsic.networks.attacks import (
    attack,
    fgsm,
    fgsm_penalties,
    minimal_radius,
    pgd,
    pgd_penalties,
    radius_by_bisection,
    record_metrics,
    sanity,
)

SIDE = 4
BUDGETS = [0.0, 1 / 255, 2 / 255, 4 / 255, 8 / 255, 1.0]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def linear(n_classes=2, scale=1.0, seed=0, side=SIDE):
    """(network, W): logits = W x, no bias."""
    layer = nn.Linear(side * side, n_classes, bias=False)
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


# -------------------------------------------------------------------------------------------------- PGD


def labels_of(model, x):
    with torch.no_grad():
        return model.eval()(x).argmax(1)


def losses(model, x, y):
    with torch.no_grad():
        return nn.functional.cross_entropy(model.eval()(x).double(), torch.as_tensor(y), reduction="none")


def distance(a, b, norm):
    away = (a.double() - b.double()).flatten(1)
    return away.norm(dim=1) if norm == "l2" else away.abs().amax(1)


@pytest.fixture(scope="module")
def trained():
    """(network, images, labels): a small network that has learned which half of an image is brighter, most of it."""
    x = images(200, side=10, seed=5)
    x[:, :, :5] = (x[:, :, :5] + 0.06 * torch.randn(200, 1, 1, 1, generator=generator(6))).clamp(0, 1)
    y = (x[:, :, :5].mean((1, 2, 3)) > x[:, :, 5:].mean((1, 2, 3))).long()
    model = convolutional(2)
    training.train(model, x, y, until="epochs", epochs=25, batch_size=20, learning_rate=3e-3, device="cpu")
    return model, x[:60], y[:60]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_reaches_the_highest_loss_of_the_ball_on_a_linear_network(norm):
    model, w = linear()
    x, y = images(low=0.4, high=0.6), np.arange(32) % 2
    v = w[1 - y] - w[y]
    size = np.abs(v).sum(1) if norm == "linf" else np.linalg.norm(v, axis=1)
    expected = np.logaddexp(0, 0.05 * size + (x.reshape(32, -1).double().numpy() * v).sum(1))
    found = losses(model, pgd(model, x, y, 0.05, norm=norm, steps=10), y)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("eps", [1 / 255, 8 / 255, 0.2])
def test_pgd_is_never_weaker_than_fgsm_or_no_attack(trained, eps):
    model, x, y = trained
    strong, weak = losses(model, pgd(model, x, y, eps, steps=10), y), losses(model, fgsm(model, x, y, [eps])[0], y)
    assert (strong >= weak - 1e-9).all()
    assert (strong >= losses(model, x, y) - 1e-9).all()
    assert (strong > weak + 1e-3).any()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_one_step_of_pgd_is_fgsm_where_that_raises_the_loss(trained, norm):
    model, x, y = trained
    one = attack(model, x, y, "fgsm", 0.03, norm=norm)
    raised = losses(model, one, y) > losses(model, x, y)
    assert raised.float().mean() > 0.9
    assert torch.equal(pgd(model, x, y, 0.03, norm=norm, steps=1)[raised], one[raised])
    if norm == "linf":
        assert torch.equal(one, fgsm(model, x, y, [0.03])[0])


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.05), ("l2", 1.0)])
def test_restarts_only_help(trained, norm, eps):
    model, x, y = trained
    few = losses(model, pgd(model, x, y, eps, norm=norm, steps=3), y)
    more = losses(model, pgd(model, x, y, eps, norm=norm, steps=3, restarts=3), y)
    assert (more >= few - 1e-9).all()
    assert (more > few + 1e-6).any()


def test_a_stopped_pgd_fools_the_same_images_with_fewer_gradients(trained):
    model, x, y = trained
    seen = []
    hook = model[0].register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    whole = pgd(model, x, y, 0.05, steps=10, restarts=2)
    all_of_them = sum(seen)
    assert all_of_them == 2 * 11 * 60
    seen.clear()
    stopped = pgd(model, x, y, 0.05, steps=10, restarts=2, stop=True)
    hook.remove()
    assert sum(seen) < all_of_them / 2
    fooled = labels_of(model, whole) != y
    assert torch.equal(labels_of(model, stopped) != y, fooled)
    assert 0.2 < fooled.float().mean() < 1


@pytest.mark.parametrize("batch_size", [1, 7])
def test_batches_do_not_matter_to_pgd_and_radii(batch_size):
    model, _ = linear(3)
    x, y = images(16), np.arange(16) % 3
    for norm in ("linf", "l2"):
        whole, parts = (pgd(model, x, y, 0.1, norm=norm, steps=5, restarts=2, batch_size=b) for b in (128, batch_size))
        torch.testing.assert_close(whole, parts, rtol=0, atol=1e-4)
        whole, parts = (minimal_radius(model, x, y, norm=norm, batch_size=b) for b in (128, batch_size))
        torch.testing.assert_close(whole, parts, rtol=1e-3, atol=0)


def test_the_seed_decides_a_random_beginning_and_nothing_else_does(trained):
    model, x, y = trained
    torch.manual_seed(1)
    one = pgd(model, x, y, 0.05, steps=3, restarts=2, seed=1)
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), after)
    assert torch.equal(pgd(model, x, y, 0.05, steps=3, restarts=2, seed=1), one)
    assert not torch.equal(pgd(model, x, y, 0.05, steps=3, restarts=2, seed=2), one)


def test_pgd_penalties_on_a_linear_network_are_those_of_fgsm():
    # the loss grows in the direction of FGSM alone, so its point is the best of the ball
    model, _ = linear(scale=3.0)
    x, y = images(100, low=0.1, high=0.9), np.arange(100) % 2
    strong, plain = pgd_penalties(model, x, y, (2, 8), steps=5), fgsm_penalties(model, x, y, (2, 8))
    assert len(strong) == 8
    for key, value in strong.items():
        assert value == pytest.approx(plain[key.replace("pgd_", "")], rel=1e-5, abs=1e-7), key


# ---------------------------------------------------------------------------------------------- by name


@pytest.mark.parametrize("n_classes", [2, 3, 5])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_every_attack_stays_in_its_budget_and_leaves_the_network_as_it_was(n_classes, norm):
    model = convolutional(n_classes).train()
    model[1].eval()
    modes, state = [m.training for m in model.modules()], copy.deepcopy(model.state_dict())
    model[0].weight.requires_grad_(False)
    x = images(6, side=10)
    with torch.no_grad():
        y = copy.deepcopy(model).eval()(x).argmax(1)
    y[0] = (y[0] + 1) % n_classes
    eps = 0.04 if norm == "linf" else 0.4
    numbers = torch.random.get_rng_state()
    accuracy = {}
    for name in attacks.ATTACKS:
        found = attack(model, x, y, name, eps, norm=norm, steps=10, queries=30)
        assert distance(found, x, norm).max() <= eps + 1e-6, name
        assert found.min() >= 0, name
        assert found.max() <= 1, name
        assert not found.requires_grad, name
        accuracy[name] = float((labels_of(copy.deepcopy(model), found) == y).float().mean())
    # a part that runs on fewer images may draw other numbers, and APGD begins at random: only the first is contained
    assert accuracy["autoattack"] <= accuracy["apgd_ce"]
    assert torch.equal(torch.random.get_rng_state(), numbers)
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert [p.requires_grad for p in model.parameters()] == [False] + [True] * (len(list(model.parameters())) - 1)


@pytest.mark.parametrize("name", ["pgd", "apgd_ce", "apgd_margin", "fab", "autoattack"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_attack_on_a_linear_network_fools_exactly_what_can_be_fooled(name, norm):
    model, w = linear(side=6)
    x = images(64, side=6, low=0.4, high=0.6)
    y = labels_of(model, x)
    v = w[1] - w[0]
    radius = np.abs(x.reshape(64, -1).double().numpy() @ v) / (np.abs(v).sum() if norm == "linf" else np.linalg.norm(v))
    eps = float(np.median(radius))
    clear = np.abs(radius / eps - 1) > 0.02
    found = attack(model, x, y, name, eps, norm=norm, queries=50)
    np.testing.assert_array_equal((labels_of(model, found) != y).numpy()[clear], (radius < eps)[clear])


def test_the_margin_fools_a_sure_network_that_the_cross_entropy_does_not():
    # logits in the thousands: the float32 cross-entropy has no gradient at all
    model, _ = linear(scale=3e3)
    x = images(20)
    y = labels_of(model, x)
    right = {
        name: float((labels_of(model, attack(model, x, y, name, 0.3, steps=20)) == y).float().mean())
        for name in ("apgd_ce", "apgd_margin", "pgd")
    }
    assert right["apgd_margin"] == right["pgd"] < right["apgd_ce"]


def test_an_image_that_is_wrong_already_is_left_alone_by_what_only_fools():
    model, _ = linear()
    x = images(8)
    y = 1 - labels_of(model, x)
    for name in ("apgd_ce", "apgd_margin", "fab", "square", "autoattack"):
        assert torch.equal(attack(model, x, y, name, 0.1, steps=5, queries=10), x)


def test_networks_in_float64_are_attacked_too():
    model = convolutional(2).double()
    x = images(4, side=10).double()
    y = labels_of(model, x)
    found = attack(model, x, y, "autoattack", 0.1, steps=5, queries=10)
    assert found.dtype == torch.float64
    assert distance(found, x, "linf").max() <= 0.1 + 1e-12


def test_without_torchattacks_one_sentence_says_so(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torchattacks", None)
    model, _ = linear()
    with pytest.raises(attacks.NoTorchattacks, match="--no-deps"):
        attack(model, images(), np.arange(32) % 2, "square", 0.1)
    metrics, reasons = record_metrics(model, images(8), np.arange(8) % 2, pgd_steps=2)
    assert metrics["sanity_square_only_fraction"] is None
    assert "not installed" in reasons["sanity_square_only_fraction"]
    assert metrics["sanity_accuracy_pgd_eps255"] == 0


# ---------------------------------------------------------------------------------------- minimal radius


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_the_radius_is_exact_on_a_linear_network(norm, scale):
    model, w = linear(scale=scale)
    x = images(40, low=0.4, high=0.6)
    y = labels_of(model, x)
    y[:5] = 1 - y[:5]
    v = w[1] - w[0]
    expected = np.abs(x.reshape(40, -1).double().numpy() @ v) / (np.linalg.norm(v) if norm == "l2" else np.abs(v).sum())
    expected[:5] = 0
    for found in (minimal_radius(model, x, y, norm=norm), radius_by_bisection(model, x, y, norm=norm, steps=10)):
        assert found.dtype == torch.float64
        np.testing.assert_allclose(found.numpy(), expected, rtol=2e-4)
    assert (minimal_radius(model, x, y, norm=norm, gradients=1).numpy() >= expected * (1 - 1e-4)).all()


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_radius_is_exact_on_a_linear_network_at_the_ends_of_the_range(norm):
    from scipy.optimize import linprog, minimize

    # every pixel within 0.05 of an end, so that most of the way is closed in both norms
    layer = nn.Linear(16, 2)
    w = torch.randn(16, generator=generator(2))
    with torch.no_grad():
        layer.weight.copy_(torch.stack([-w, w]) / 2)
        layer.bias.copy_(torch.tensor([0.2, -0.2]))
    model = nn.Sequential(nn.Flatten(), layer)
    x = (images(6, seed=3) > 0.5).float() * 0.9 + 0.05 * images(6, seed=4)
    y = labels_of(model, x)
    found = minimal_radius(model, x, y, norm=norm).numpy()
    v = w.double().numpy()
    for image, radius in zip(x.reshape(6, -1).double().numpy(), found, strict=True):
        margin = v @ image - 0.4
        if norm == "linf":  # least t with |d| <= t, 0 <= x + d <= 1, margin + v.d = 0
            rows = np.block([[np.eye(16), -np.ones((16, 1))], [-np.eye(16), -np.ones((16, 1))]])
            bounds = [(-a, 1 - a) for a in image] + [(0, None)]
            best = linprog(np.r_[np.zeros(16), 1], rows, np.zeros(32), np.r_[v, 0][None], [-margin], bounds=bounds).fun
        else:
            best = np.sqrt(
                minimize(
                    lambda d: d @ d,
                    np.zeros(16),
                    jac=lambda d: 2 * d,
                    bounds=[(-a, 1 - a) for a in image],
                    constraints={"type": "eq", "fun": lambda d, m=margin: m + v @ d, "jac": lambda d: v},
                    method="SLSQP",
                    options={"ftol": 1e-14, "maxiter": 500},
                ).fun
            )
        unbounded = abs(margin) / (np.linalg.norm(v) if norm == "l2" else np.abs(v).sum())
        assert radius == pytest.approx(best, rel=3e-3)
        assert best > 1.01 * unbounded


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_adversarial_images_lie_at_the_radius_in_range_and_are_wrong(trained, norm):
    model, x, y = trained
    radius, found = minimal_radius(model, x, y, norm=norm, gradients=20, return_images=True)
    wrong = labels_of(model, x) != y
    assert 0 < wrong.float().mean() < 0.5
    assert (radius[wrong] == 0).all()
    assert (radius[~wrong] > 0).all()
    assert torch.isfinite(radius).all()
    torch.testing.assert_close(distance(found, x, norm), radius)
    assert (labels_of(model, found) != y).all()
    assert found.min() >= 0
    assert found.max() <= 1


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_radius_is_about_that_of_bisected_pgd_with_a_fraction_of_the_gradients(trained, norm):
    model, x, y = trained
    right = labels_of(model, x) == y
    x, y = x[right][:20], y[right][:20]
    seen = []
    hook = model[0].register_forward_hook(lambda _, i, __: seen.append(torch.is_grad_enabled() * len(i[0])))
    ours = minimal_radius(model, x, y, norm=norm, gradients=100)
    hook.remove()
    assert sum(seen) <= 100 * 20
    check = radius_by_bisection(model, x, y, norm=norm, restarts=2)
    ratio = ours / check
    assert ratio.median() < 1.02
    assert ratio.max() < 1.2


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_radius_of_an_image_on_the_boundary_is_nearly_none(norm):
    """Outputs of a black image are equal without a bias, and the first class wins; one step away the second may."""
    model, _ = linear()
    x = torch.zeros(2, 1, SIDE, SIDE)
    radius, found = minimal_radius(model, x, np.array([0, 1]), norm=norm, return_images=True)
    assert 0 < radius[0] < 1e-5
    assert radius[1] == 0
    assert labels_of(model, found).tolist() == [1, 0]


def test_a_radius_that_does_not_exist_is_infinite():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].bias.copy_(torch.tensor([1.0, 0.0]))
    x, y = images(3), np.array([0, 0, 1])
    for norm in ("l2", "linf"):
        radius, found = minimal_radius(model, x, y, norm=norm, gradients=5, return_images=True)
        assert radius.tolist() == [math.inf, math.inf, 0]
        assert torch.equal(found, x)
        assert radius_by_bisection(model, x, y, norm=norm, rounds=2, steps=2).tolist() == [math.inf, math.inf, 0]
    metrics, reasons = record_metrics(model, x, y, radius_images=3, sanity_images=0, pgd_steps=2)
    assert metrics["radius_l2_none_fraction"] == pytest.approx(2 / 3)
    assert metrics["radius_l2_q25"] is None
    assert "no adversarial image" in reasons["radius_l2_mean"]


# ---------------------------------------------------------------------------------------------- records


def test_a_record_has_all_metrics_finite_and_consistent(trained):
    model, x, y = trained
    metrics, reasons = record_metrics(model, x, y, pgd_levels=(2, 8), pgd_steps=10, radius_images=20, sanity_images=16)
    assert reasons == {}
    assert all(isinstance(v, int | float) and math.isfinite(v) for v in metrics.values())
    assert metrics["sanity_accuracy_rise"] == 0
    assert metrics["sanity_accuracy_pgd_eps255"] == 0
    assert metrics["sanity_square_only_fraction"] == 0
    assert metrics["sanity_images"] == 16
    for g in (2, 8):
        for end in ("", "_correct"):
            assert metrics[f"loss_penalty_nats_pgd_eps{g}{end}"] >= metrics[f"loss_penalty_nats_eps{g}{end}"]
            assert metrics[f"accuracy_penalty_pgd_eps{g}{end}"] >= metrics[f"accuracy_penalty_eps{g}{end}"]
    for norm in ("l2", "linf"):
        assert metrics[f"radius_{norm}_q25"] <= metrics[f"radius_{norm}_median"] <= metrics[f"radius_{norm}_q75"]
        assert metrics[f"radius_{norm}_mean"] < metrics[f"radius_{norm}_mean_correct"]
    assert metrics["radius_linf_mean"] < metrics["radius_l2_mean"] < 10 * metrics["radius_linf_mean"]


def test_gradients_that_are_masked_are_caught_by_the_sanity_checks():
    # the network sees eight grey levels: no pixel has a gradient, and squares of 0.2 still change the answer
    class Coarse(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, _ = linear()

        def forward(self, pixels):
            return self.inner((pixels * 8).round() / 8 + 0 * pixels)

    model = Coarse()
    x = images(40, low=0.3, high=0.7)
    found = sanity(model, x, labels_of(model, x), level=51, steps=5, queries=200)
    assert found["gradient_zero_fraction"] == 1
    assert found["sanity_accuracy_pgd_eps255"] == 1
    assert found["sanity_square_only_fraction"] > 0.2


def test_a_record_of_a_network_that_diverged_says_why_its_values_are_missing():
    model, _ = linear()
    with torch.no_grad():
        model[1].weight.fill_(torch.nan)
    metrics, reasons = record_metrics(model, images(6), np.arange(6) % 2, radius_images=4, pgd_steps=2)
    assert metrics["clean_loss_nats"] is None
    assert "not finite" in reasons["clean_loss_nats"]
    assert reasons["loss_penalty_nats_pgd_eps2_correct"] == "no image is right without an attack"
    assert metrics["radius_l2_mean"] == 0
    assert set(reasons) == {key for key, value in metrics.items() if value is None}


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda m, x, y: attack(m, x, y, "deepfool", 0.1), "no attack 'deepfool'"),
        (lambda m, x, y: attack(m, x, y, "fgsm", 0.1, norm="l1"), "norm is 'l1'"),
        (lambda m, x, y: pgd(m, x, y, 1.5), "at most 1 apart"),
        (lambda m, x, y: pgd(m, x, y, 4.5, norm="l2"), "at most 4 apart"),
        (lambda m, x, y: pgd(m, x, y, 0.1, steps=0), "nothing to do"),
        (lambda m, x, y: attack(m, x, y, "square", 0.1, norm="l2"), "5 pixels a side"),
        (lambda m, x, y: minimal_radius(m, x, y, gradients=0), "find nothing"),
        (lambda m, x, y: minimal_radius(m, x, y, norm="l0"), "norm is 'l0'"),
    ],
)
def test_what_has_no_meaning_is_refused(call, match):
    with pytest.raises(attacks.BadAttack, match=match):
        call(linear()[0], images(), np.arange(32) % 2)
