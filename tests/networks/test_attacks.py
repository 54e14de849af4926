"""Attacks: exact on linear networks, in their budget, never weaker than what they contain, the network untouched."""

import copy
import math

import numpy as np
import pytest
import torch
from networks.simple import DEVICES, clouds, convolutional, generator, linear, noise
from torch import nn

from intrinsic.networks import attacks, models, training
from intrinsic.networks.attacks import attack, fgsm_penalties, minimal_radius, pgd_penalties, record_metrics, sanity

SETTINGS = {"grey_levels": (1, 2, 4, 8), "pgd_levels": (2,), "pgd_steps": 20, "radius_images": 0, "sanity_images": 16}
BUDGETS = [0.0, 1 / 255, 2 / 255, 8 / 255, 1.0]
NORMS = ["linf", "l2"]
BORROWED = ["square", "apgd", "fab"]


def labels_of(network, x):
    with torch.no_grad():
        return network.eval()(x).argmax(1)


def losses(network, x, y):
    with torch.no_grad():
        return nn.functional.cross_entropy(network.eval()(x).double(), torch.as_tensor(y), reduction="none")


def distance(a, b, norm):
    away = (a.double() - b.double()).flatten(1)
    return away.norm(dim=1) if norm == "l2" else away.abs().amax(1)


@pytest.fixture(scope="module")
def trained():
    """(network, images, labels): a network that has mostly learned which half of an image is brighter."""
    x = noise(200, 10, seed=5)
    x[:, :, :5] = (x[:, :, :5] + 0.06 * torch.randn(200, 1, 1, 1, generator=generator(6))).clamp(0, 1)
    y = (x[:, :, :5].mean((1, 2, 3)) > x[:, :, 5:].mean((1, 2, 3))).long()
    network = convolutional()
    training.train(network, x, y, until="epochs", epochs=25, batch_size=20, learning_rate=3e-3, device="cpu")
    return network, x[:60], y[:60]


# ----------------------------------------------------------------------------------------------------- FGSM


@pytest.mark.parametrize("scale", [1.0, 1e3])  # 1e3: sure by hundreds of nats, where p_y - 1 is 0 in float32
def test_fgsm_is_exact_on_a_linear_network(scale):
    network, w = linear(scale=scale)
    x, y = noise(), np.arange(32) % 2
    towards = torch.from_numpy(np.sign(w[1 - y] - w[y])).float().view(32, 1, 4, 4)
    for found, eps in zip(attack(network, x, y, BUDGETS), BUDGETS, strict=True):
        torch.testing.assert_close(found, (x + eps * towards).clamp(0, 1))


def test_fgsm_is_that_of_torchattacks():
    import torchattacks

    network, x, y = convolutional(3).eval(), noise(20, 10), torch.arange(20) % 3
    for found, eps in zip(attack(network, x, y, BUDGETS[1:3]), BUDGETS[1:3], strict=True):
        torch.testing.assert_close(found, torchattacks.FGSM(network, eps=eps)(x, y))


def test_all_budgets_of_fgsm_come_from_one_gradient():
    network, passes = convolutional(), []
    network.register_forward_hook(lambda *_: passes.append(1))
    attack(network, noise(20, 10), np.zeros(20, int), BUDGETS)
    assert len(passes) == 1


def test_penalties_on_a_linear_network_are_those_computed_by_hand():
    network, w = linear()
    x, y = noise(low=0.4, high=0.6), np.arange(32) % 2
    found = fgsm_penalties(network, x, y, (2, 8))
    v = w[1] - w[0]
    margin = (2 * y - 1) * (x.reshape(32, -1).double().numpy() @ v)
    right = margin > 0
    for g in (2, 8):
        moved = margin - g / 255 * np.abs(v).sum()
        lost = np.log1p(np.exp(-moved)) - np.log1p(np.exp(-margin))
        assert found[f"loss_penalty_nats_eps{g}"] == pytest.approx(lost.mean(), rel=1e-5)
        assert found[f"loss_penalty_nats_eps{g}_correct"] == pytest.approx(lost[right].mean(), rel=1e-5)
        assert found[f"accuracy_penalty_eps{g}"] == pytest.approx(right.mean() - (moved > 0).mean())
        assert found[f"accuracy_penalty_eps{g}_correct"] == pytest.approx((moved < 0)[right].mean())
    clean = training.evaluate(network, x, y)
    assert (found["clean_loss_nats"], found["clean_accuracy"]) == (clean["test_loss_nats"], clean["accuracy"])
    assert found["misclassified_fraction"] == pytest.approx(1 - right.mean())
    assert found["accuracy_eps255"] == 0
    exact = pgd_penalties(network, x, y, (2, 8), steps=10)  # of a linear network FGSM's point is the worst
    for key, value in exact.items():
        assert value == pytest.approx(found[key.replace("pgd_", "")], rel=1e-5)


def test_sure_and_flat_networks_are_counted():
    found = fgsm_penalties(linear(scale=1e4)[0], noise(), np.zeros(32, int), (8,))
    assert found["saturated_fraction"] == found["clean_accuracy"] > 0
    assert found["gradient_zero_fraction"] == 0
    flat = fgsm_penalties(linear(scale=0)[0], noise(), np.ones(32, int), (8,))
    assert (flat["gradient_zero_fraction"], flat["loss_penalty_nats_eps8"]) == (1, 0)
    assert math.isnan(flat["loss_penalty_nats_eps8_correct"])  # no image is right


# ------------------------------------------------------------------------------------------------------ PGD


@pytest.mark.parametrize("norm", NORMS)
def test_pgd_reaches_the_highest_loss_of_the_ball_on_a_linear_network(norm):
    network, w = linear()
    x, y, eps = noise(low=0.4, high=0.6), np.arange(32) % 2, 0.05
    v = (w[1 - y] - w[y]).reshape(32, 1, 4, 4)
    step = np.sign(v) if norm == "linf" else v / np.linalg.norm(v.reshape(32, -1), axis=1).reshape(32, 1, 1, 1)
    expected = x + eps * torch.from_numpy(step).float()
    torch.testing.assert_close(attack(network, x, y, [eps], "pgd", norm=norm)[0], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("eps", [0.01, 0.1])
def test_pgd_is_never_weaker_than_fgsm_or_no_attack(trained, eps, norm):
    network, x, y = trained
    one, many = (attack(network, x, y, [eps], method, norm=norm)[0] for method in ("fgsm", "pgd"))
    for weaker in (x, one):
        fooled = labels_of(network, weaker) != y
        assert (labels_of(network, many) != y)[fooled].all()
        assert (losses(network, many, y) >= losses(network, weaker, y) - 1e-6)[~fooled].all()


# ------------------------------------------------------------------------------------------------ all attacks


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("method", ["fgsm", "pgd", *BORROWED])
def test_an_attack_stays_in_its_budget_and_leaves_the_network_as_it_was(trained, method, norm, device):
    network, x, y = copy.deepcopy(trained[0]).to(device).train(), *trained[1:]
    state, drawn = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    options = {} if method == "fgsm" else {"n_queries": 50} if method == "square" else {"steps": 5}
    with torch.no_grad():
        found = attack(network, x, y, [0, 0.1], method, norm=norm, **options)
    assert torch.equal(found[0], x)
    assert distance(found[1], x, norm).max() <= 0.1 + 1e-6
    assert (found.min() >= 0, found.max() <= 1, found.requires_grad) == (True, True, False)
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert all(module.training for module in network.modules())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.equal(torch.get_rng_state(), drawn)
    before, after = (training.evaluate(network, images, y)["accuracy"] for images in (x, found[1]))
    assert after < before


@pytest.mark.parametrize("side", [4, 12, 14, 18, 19, 24, 25, 28])
def test_square_in_l2_attacks_or_says_which_size_it_cannot(side):
    network, x = linear(side=side)[0], noise(8, side)
    y = labels_of(network, x)
    if side in (4, 12, 14, 18, 19, 24):
        with pytest.raises(attacks.BadAttack, match=f"{side} x {side}"):
            attack(network, x, y, [0.05], "square", norm="l2", n_queries=20)
    else:
        found = attack(network, x, y, [9], "square", norm="l2", n_queries=50)[0]
        assert (distance(found, x, "l2") > 0).any()


def test_batches_and_bytes_change_nothing(trained, monkeypatch):
    network, x, y = trained
    pixels = (x * 255).round().to(torch.uint8)
    expected = [attack(network, pixels.float() / 255, y, [0.05], method)[0] for method in ("fgsm", "pgd")]
    radius = minimal_radius(network, pixels.float() / 255, y, gradients=5)
    batches = attacks._batches
    monkeypatch.setattr(attacks, "_batches", lambda network, x, y: batches(network, x, y, 7))
    for images, method in zip(expected, ("fgsm", "pgd"), strict=True):
        torch.testing.assert_close(attack(network, pixels, y, [0.05], method)[0], images, rtol=0, atol=1e-5)
    torch.testing.assert_close(minimal_radius(network, pixels, y, gradients=5), radius, rtol=1e-3, atol=1e-5)


# --------------------------------------------------------------------------------------------- minimal radius


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_the_radius_is_exact_on_a_linear_network(norm, scale):
    network, w = linear(scale=scale)
    x = noise(40, low=0.4, high=0.6)
    y = labels_of(network, x)
    y[:5] = 1 - y[:5]
    v = w[1] - w[0]
    expected = np.abs(x.reshape(40, -1).double().numpy() @ v) / (np.linalg.norm(v) if norm == "l2" else np.abs(v).sum())
    expected[:5] = 0
    np.testing.assert_allclose(minimal_radius(network, x, y, norm=norm).numpy(), expected, rtol=2e-4)
    assert (minimal_radius(network, x, y, norm=norm, gradients=1).numpy() >= expected * (1 - 1e-4)).all()


@pytest.mark.parametrize("norm", NORMS)
def test_the_radius_is_exact_at_the_ends_of_the_range(norm):
    from scipy.optimize import linprog, minimize

    w = torch.randn(16, generator=generator(2))
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    with torch.no_grad():
        network[1].weight.copy_(torch.stack([-w, w]) / 2)
        network[1].bias.copy_(torch.tensor([0.2, -0.2]))
    x = (noise(6, seed=3) > 0.5).float() * 0.9 + 0.05 * noise(6, seed=4)  # every pixel within 0.05 of an end
    found = minimal_radius(network, x, labels_of(network, x), norm=norm).numpy()
    v = w.double().numpy()
    for image, radius in zip(x.reshape(6, -1).double().numpy(), found, strict=True):
        margin = v @ image - 0.4
        if norm == "linf":  # least t with |d| <= t, 0 <= x + d <= 1, margin + v.d = 0
            rows = np.block([[np.eye(16), -np.ones((16, 1))], [-np.eye(16), -np.ones((16, 1))]])
            bounds = [(-a, 1 - a) for a in image] + [(0, None)]
            best = linprog(np.r_[np.zeros(16), 1], rows, np.zeros(32), np.r_[v, 0][None], [-margin], bounds=bounds).fun
        else:
            least = minimize(
                lambda d: d @ d,
                np.zeros(16),
                jac=lambda d: 2 * d,
                bounds=[(-a, 1 - a) for a in image],
                constraints={"type": "eq", "fun": lambda d, m=margin: m + v @ d, "jac": lambda d: v},
                method="SLSQP",
                options={"ftol": 1e-14, "maxiter": 500},
            )
            best = np.sqrt(least.fun)
        assert radius == pytest.approx(best, rel=3e-3)
        assert best > 1.01 * abs(margin) / (np.linalg.norm(v) if norm == "l2" else np.abs(v).sum())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("norm", NORMS)
def test_adversarial_images_lie_at_the_radius_in_range_and_are_wrong(trained, norm, device):
    network, x, y = copy.deepcopy(trained[0]).to(device), *trained[1:]
    radius = minimal_radius(network, x, y, norm=norm, gradients=20)
    with models.evaluating(network):
        found = attacks._nearest(network, x.to(device), y.to(device), norm, 20)[1].cpu()
    wrong = labels_of(trained[0], x) != y
    assert 0 < wrong.float().mean() < 0.5
    assert (radius[wrong] == 0).all()
    assert (radius[~wrong] > 0).all()
    torch.testing.assert_close(distance(found, x, norm), radius)
    assert training.evaluate(network, found, y)["accuracy"] == 0
    assert 0 <= found.min() <= found.max() <= 1
    if norm == "linf":  # PGD just inside fools no image that the search had not
        inside = attack(network, x, y, [0.9 * float(radius[~wrong].min())], "pgd")[0]
        assert torch.equal(labels_of(trained[0], inside) != y, wrong)


def test_a_radius_that_does_not_exist_is_infinite():
    network, x = linear(scale=0)[0], noise()
    assert torch.isinf(minimal_radius(network, x, np.zeros(32, int), gradients=3)).all()
    metrics, reasons = record_metrics(
        network, x, np.zeros(32, int), SETTINGS | {"radius_images": 4, "sanity_images": 0}
    )
    assert metrics["radius_l2_mean"] is metrics["radius_linf_median"] is None
    assert metrics["radius_l2_none_fraction"] == 1
    assert "radius_l2_mean" in reasons


# ----------------------------------------------------------------------------------------------- the record


@pytest.mark.parametrize("device", DEVICES)
def test_a_record_has_all_metrics_finite_and_consistent(trained, device):
    network, x, y = copy.deepcopy(trained[0]).to(device), *trained[1:]
    metrics, reasons = record_metrics(network, x, y, SETTINGS | {"pgd_levels": (2, 8), "radius_images": 20})
    assert reasons == {}
    assert len(metrics) == 53
    assert all(isinstance(value, float) and math.isfinite(value) for value in metrics.values())
    assert metrics["loss_penalty_nats_pgd_eps2"] >= metrics["loss_penalty_nats_eps2"] - 1e-9
    assert metrics["sanity_accuracy_pgd_eps255"] == metrics["sanity_accuracy_rise"] == 0
    assert metrics["radius_linf_median"] <= metrics["radius_l2_median"] <= 10 * metrics["radius_linf_median"]
    assert metrics["radius_l2_mean_correct"] >= metrics["radius_l2_mean"]


def test_masked_gradients_are_caught_by_the_sanity_checks():
    class Coarse(nn.Module):  # no pixel has a gradient, and squares of two grey levels change half of the pixels
        def __init__(self):
            super().__init__()
            self.network = linear()[0]

        def forward(self, x):
            return self.network((x * 64).round() / 64 - 0.5 + 0 * x)

    x = noise(300, low=0.3, high=0.7)
    found = sanity(Coarse(), x, labels_of(Coarse(), x))
    assert found["gradient_zero_fraction"] == 1
    assert found["sanity_accuracy_pgd_eps255"] == 1
    assert found["sanity_square_only_fraction"] > 0


def test_a_network_that_diverged_has_no_numbers_and_reasons():
    network, x, y = linear(scale=math.nan)[0], noise(8), np.arange(8) % 2
    metrics, reasons = record_metrics(network, x, y, SETTINGS | {"sanity_images": 0})
    assert (metrics["clean_accuracy"], metrics["clean_loss_nats"]) == (0, None)
    assert reasons.keys() == {key for key, value in metrics.items() if value is None}


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda n, x, y: attack(n, x * 255, y), models.BadInput, "228"),
        (lambda n, x, y: attack(n, x, y, [2]), attacks.BadAttack, "2"),
        (lambda n, x, y: attack(n, x, y, [-0.1]), attacks.BadAttack, "-0.1"),
        (lambda n, x, y: attack(n, x, y, norm="l1"), attacks.BadAttack, "l1"),
        (lambda n, x, y: attack(n, x, y, method="fgms"), attacks.BadAttack, "fgms"),
        (lambda n, x, y: attack(n, x, y, method="autoattack"), attacks.BadAttack, "2"),
        (lambda n, x, y: attack(n.half(), x, y), attacks.BadAttack, "float16"),
        (lambda n, x, y: attack(linear(1)[0], x, y * 0), attacks.BadAttack, "one output"),
        (lambda n, x, y: attack(n, x, y + 1), models.BadInput, "2"),
        (lambda n, x, y: minimal_radius(n, x, y, gradients=0), attacks.BadAttack, "0"),
    ],
)
def test_what_has_no_meaning_is_refused(call, error, match):
    with pytest.raises(error, match=match):
        call(linear()[0], *clouds(8, side=4))
