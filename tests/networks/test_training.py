"""The fit rule, the step, seeds, scores, and runs that go on after an interruption."""

import copy
import math
from unittest import mock

import numpy as np
import pytest
import torch
from networks.simple import DEVICES, Scripted, clouds, convolutional, generator, needs_gpu, noise
from torch import nn
from torch.nn import functional

from intrinsic.networks import checkpoints, models, training


@pytest.mark.parametrize(
    ("running", "looks", "looked_at", "reason"),
    [
        ([1.0], [1.0], [1, 2], "fit"),
        ([0.97, 0.98], [1.0], [2, 3], "fit"),  # 0.97 is not above 0.97
        ([1.0], [0.98, 0.99, 0.99], [1, 2, 3], "fit"),  # 0.99 suffices, 0.98 does not
        ([1.0], [0.99, 0.98, 0.99, 1.0], [1, 2, 3, 4], "fit"),  # successive
        ([1.0, 0.5, 1.0], [1.0], [1, 3, 4], "fit"),  # an epoch that is not evaluated breaks the succession
        ([1.0], [0.98], [1, 2, 3, 4, 5, 6], "cap"),
        ([0.97], [1.0], [], "cap"),
        ([1.0], [0.5, 0.5, 0.5, 0.5, 1.0, 1.0], [1, 2, 3, 4, 5, 6], "fit"),  # at the cap, and yet fitted
    ],
)
def test_a_run_fits_after_two_successive_good_evaluations(running, looks, looked_at, reason):
    x, y = Scripted.data(100)
    result = training.train(Scripted(100, running, looks), x, y, batch_size=50, epochs=6, min_steps=0)
    assert (result.reason, result.fitted) == (reason, reason == "fit")
    assert result.history["evaluated_epoch"] == looked_at
    assert result.epochs == (looked_at[-1] if reason == "fit" else 6)
    assert result.steps == 2 * result.epochs
    seen = [looks[min(e, len(looks)) - 1] for e in looked_at]
    assert result.history["evaluated_accuracy"] == pytest.approx(seen)
    assert result.train_accuracy == pytest.approx(looks[min(result.epochs, len(looks)) - 1])
    assert result.running_accuracy == pytest.approx(running[min(result.epochs, len(running)) - 1])


@pytest.mark.parametrize(
    ("cap", "least", "warmup", "epochs"), [(3, 10, 0, 5), (7, 4, 0, 7), (1, 0, 0, 1), (1, 0, 9, 5)]
)
def test_the_cap_waits_for_epochs_steps_and_warm_up(cap, least, warmup, epochs):
    x, y = Scripted.data(20)
    settings = {"batch_size": 10, "epochs": cap, "min_steps": least, "warmup_steps": warmup}
    result = training.train(Scripted(20, [0.9], [0.5]), x, y, **settings)
    assert (result.epochs, result.reason, result.fitted) == (epochs, "cap", False)


@pytest.mark.parametrize(
    ("running", "epochs", "reason"),
    [
        ([0.5], 6, "chance"),  # min_steps, at two steps an epoch
        ([0.5, 0.5, 0.9, 0.5], 8, "cap"),  # learned once
        ([0.5] * 5 + [0.9], 8, "cap"),  # just in time
        ([0.9, 0.5], 6, "chance"),  # learned, and lost it: five epochs at chance
        ([0.7], 6, "chance"),  # right more often, and worse than a constant: .127 x .7 + 2.127 x .3 = .727 > .693
        ([0.75], 8, "cap"),  # .627
    ],
)
def test_a_run_at_chance_ends_early(running, epochs, reason, monkeypatch):
    monkeypatch.setattr(training, "CHANCE_STEPS", 0)
    x, y = Scripted.data(20)
    result = training.train(Scripted(20, running, [0.5]), x, y, batch_size=10, epochs=8, min_steps=12)
    assert (result.epochs, result.reason) == (epochs, reason)


def test_a_run_at_chance_has_at_least_1500_steps():
    x, y = Scripted.data(20)
    result = training.train(Scripted(20, [0.5], [0.5]), x, y, batch_size=2, min_steps=0, epochs=1000)
    assert (result.steps, result.reason) == (1500, "chance")


@pytest.mark.parametrize("counts", [[10, 10], [30, 10], [5, 0, 15]])
def test_the_loss_at_chance_is_that_of_the_best_constant(counts):
    y = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    q = torch.tensor(counts).double() / sum(counts)
    logits = q.clamp_min(1e-300).log().expand(len(y), -1)
    assert training.chance_loss(y) == pytest.approx(float(functional.cross_entropy(logits, y)))


@pytest.mark.parametrize(("looks", "fitted"), [([0.5, 1.0], False), ([0.5, 1.0, 1.0], True), ([1.0, 1.0, 0.5], False)])
def test_a_number_of_epochs_is_kept_and_the_rule_applies_at_its_end(looks, fitted):
    x, y = Scripted.data(100)
    result = training.train(
        Scripted(100, [1.0], looks), x, y, batch_size=50, until="epochs", epochs=len(looks), warmup_steps=0
    )
    assert (result.epochs, result.fitted, result.reason) == (len(looks), fitted, "epochs")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", training.PRECISIONS)
def test_separable_images_are_fitted_in_float32_weights(precision, device):
    x, y = clouds(64, side=32)
    network = models.create("resnet18") if precision == "float32" else convolutional(side=32)
    result = training.train(network, x, y, batch_size=16, learning_rate=3e-3, precision=precision, device=device)
    assert (result.reason, result.train_accuracy) == ("fit", 1.0)  # of 64, 63 would be less than 0.99
    assert {(p.dtype, p.device.type) for p in network.parameters()} == {(torch.float32, device)}
    assert training.evaluate(network, x, y)["test_loss_nats"] == pytest.approx(result.train_loss_nats, rel=1e-6)
    assert training.evaluate(network, *clouds(100, side=32, seed=1))["accuracy"] > 0.9


@pytest.mark.parametrize("epochs", [1, 3])  # 1: the loss is finite at every step, the trained weights are not
def test_a_loss_that_is_not_finite_is_a_reason(epochs):
    x, y = clouds(8)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Linear(8, 2))
    result = training.train(network, x, y, until="epochs", epochs=epochs, learning_rate=1e38, batch_size=8)
    assert (result.reason, result.fitted) == ("non-finite loss", False)
    assert not math.isfinite(result.train_loss_nats)


@pytest.mark.parametrize("warmup", [0, 4, 50])
def test_a_step_is_that_of_adam_with_the_decay_in_the_gradient(warmup):
    x, y = clouds(22, side=10, n_classes=3)
    ours = convolutional(3)
    ours[7] = nn.Identity()  # no dropout
    theirs = copy.deepcopy(ours).train()
    settings = {"batch_size": 8, "learning_rate": 3e-3, "warmup_steps": warmup, "weight_decay": 0.05, "seed": 9}
    result = training.train(ours, x, y, until="epochs", epochs=2, precision="float32", device="cpu", **settings)
    order = generator(9)
    optimizer = torch.optim.Adam(theirs.parameters(), lr=3e-3, weight_decay=0.05, foreach=False)
    rise = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / max(warmup, 1), total_iters=max(warmup - 1, 1))
    for _ in range(2):
        rows = torch.randperm(22, generator=order)
        torch.randint(2**62, (), generator=order)  # the seed of dropout
        losses = []
        for batch in (rows[:8], rows[8:16], rows[16:]):
            loss = functional.cross_entropy(theirs(x[batch]), y[batch], reduction="none")
            losses.append(loss.detach())
            optimizer.zero_grad()
            loss.mean().backward()
            optimizer.step()
            rise.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    assert result.history["running_loss_nats"][-1] == pytest.approx(torch.cat(losses).mean().item(), rel=1e-3)


def test_a_seed_repeats_training_bit_for_bit_and_leaves_the_callers_numbers_alone():
    x, y = clouds(23, side=10)
    runs = []
    for caller, seed in ((1, 7), (2, 7), (1, 8)):
        torch.manual_seed(caller)
        network = convolutional()
        drawn = torch.get_rng_state()
        result = training.train(network, x, y, until="epochs", epochs=2, batch_size=8, seed=seed, device="cpu")
        assert torch.equal(torch.get_rng_state(), drawn)
        runs.append((checkpoints.content_hash(network.state_dict()), result.history))
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


@pytest.mark.parametrize(("n", "size"), [(10, 5), (11, 5), (11, 64), (3, 2), (2, 2)])
def test_batches_hold_every_image_once_and_never_one_alone(n, size):
    batches = training.epoch_batches(torch.randperm(n), size)
    assert sorted(torch.cat(batches).tolist()) == list(range(n))
    assert min(map(len, batches)) > 1
    assert max(map(len, batches)) <= size + 1


@pytest.mark.parametrize("layout", ["bytes", "n H W", "n H W C"])
def test_images_of_every_layout_train_alike(layout):
    pixels = (clouds(20, side=10)[0] * 255).round().to(torch.uint8)
    given = {"bytes": pixels, "n H W": pixels[:, 0].numpy(), "n H W C": pixels.permute(0, 2, 3, 1).numpy()}[layout]
    networks = [convolutional(), convolutional()]
    for network, images in zip(networks, (pixels.float() / 255, given), strict=True):
        training.train(network, images, np.arange(20) % 2, until="epochs", epochs=2, batch_size=8, device="cpu")
    assert len({checkpoints.content_hash(network.state_dict()) for network in networks}) == 1


@pytest.mark.parametrize("function", [training.train, training.evaluate])
@pytest.mark.parametrize("x", [torch.full((8, 1, 8, 8), 255.0), torch.full((8, 1, 8, 8), -0.1)])
def test_floats_outside_the_unit_range_are_refused(function, x):
    with pytest.raises(models.BadInput):
        function(convolutional(side=8), x, np.arange(8) % 2)


@pytest.mark.parametrize(
    "settings",
    [
        {"until": "x"},
        {"precision": "float16"},
        {"epochs": 0},
        {"min_steps": -1},
        {"warmup_steps": -1},
        {"batch_size": 1},
    ],
)
def test_settings_without_meaning_are_refused(settings):
    with pytest.raises(training.BadTraining, match=str(next(iter(settings.values())))):
        training.train(convolutional(side=8), *clouds(8), **settings)


@pytest.mark.parametrize("function", [training.train, training.evaluate])
def test_a_label_without_an_output_is_refused(function):
    with pytest.raises(models.BadInput, match="2"):
        function(convolutional(), noise(6, 10), np.arange(6) % 3)


def test_protocols_are_the_papers_and_this_books():
    assert training.protocol("paper", "vgg16")["batch_size"] == 6
    assert training.protocol("paper", "vgg16", "svhn_0_1")["learning_rate"] == 1e-6
    fit = training.protocol("fit", "vgg16")
    assert (fit["batch_size"], fit["warmup_steps"], fit["learning_rate"]) == (16, 2000, 1e-4)
    assert training.protocol("fit", models.create("vgg16")) == fit
    other = training.protocol("fit", "vgg11_bn")
    assert (other["batch_size"], other["warmup_steps"], other["learning_rate"]) == (64, 0, 1e-3)
    with pytest.raises(training.BadTraining, match="resnet101"):
        training.protocol("paper", "resnet101")
    result = training.train(convolutional(side=8), *clouds(8), **{**fit, "warmup_steps": 0, "batch_size": 4})
    assert result.reason == "fit"


# ---------------------------------------------------------------------------------------------------- scores


def given_outputs(logits):
    """(network, images): image i is shown as i / n and has the outputs logits[i]."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(len(logits), logits.shape[1], bias=False))
    with torch.no_grad():
        network[1].weight.copy_(logits.T)
    return network, torch.eye(len(logits))[:, None, None]


@pytest.mark.parametrize("batch_size", [1, 3, 256])
def test_scores_are_means_over_images(batch_size, monkeypatch):
    monkeypatch.setattr(training, "PASS", batch_size)
    logits = torch.randn(7, 3, generator=generator())
    y = np.arange(7) % 3
    p = logits.double().softmax(1).numpy()
    found = training.evaluate(*given_outputs(logits), y)
    assert found["test_loss_nats"] == pytest.approx(-np.log(p[np.arange(7), y]).mean())
    assert found["brier"] == pytest.approx(((p - np.eye(3)[y]) ** 2).sum(1).mean() / 2)
    assert found["accuracy"] == pytest.approx((p.argmax(1) == y).mean())


def test_a_sure_and_wrong_prediction_costs_its_margin():
    found = training.evaluate(*given_outputs(torch.tensor([[300.0, 0.0], [0.0, 300.0]])), [1, 1])
    assert (found["test_loss_nats"], found["brier"], found["accuracy"]) == (150, 0.5, 0.5)


def test_held_out_scores_say_why_they_are_missing():
    network, x = given_outputs(torch.tensor([[1.0, 0.0], [0.0, math.nan]]))
    metrics, reasons = training.held_out_scores(network, x, [0, 1])
    assert (metrics["test_loss_nats"], metrics["test_accuracy"], metrics["n_test"]) == (None, 0, 2)
    assert reasons.keys() == {"test_loss_nats", "test_brier"}
    metrics, reasons = training.held_out_scores(network, x, [1, 1])
    assert metrics["test_accuracy"] is None
    assert len(reasons) == 3


@pytest.mark.parametrize("device", DEVICES)
def test_evaluation_is_plain_and_changes_nothing(device):
    network, (x, y) = convolutional().to(device), clouds(30, side=10)
    network[4].eval()
    modes = [module.training for module in network.modules()]
    first = training.evaluate(network, x, y)
    with torch.autocast(device, torch.bfloat16):
        assert training.evaluate(network, x, y) == first
    assert [module.training for module in network.modules()] == modes


# ------------------------------------------------------------------------------------------ interrupted runs

RUNS = {
    "float32": {"epochs": 6, "until": "epochs", "batch_size": 8, "warmup_steps": 20, "precision": "float32"},
    "bfloat16": {"epochs": 6, "until": "epochs", "batch_size": 6, "precision": "bfloat16"},
    "until fit": {"epochs": 10, "min_steps": 20, "batch_size": 8, "learning_rate": 1e-3},
}


class Stopped(Exception):
    """An interruption."""


def finished(checkpoint=None, network=None, **settings):
    """(hash of the weights, result without its seconds)."""
    network = network or convolutional()
    result = training.train(network, *clouds(41, side=10), seed=5, checkpoint=checkpoint, **settings)
    return checkpoints.content_hash(network.state_dict()), {k: v for k, v in vars(result).items() if k != "seconds"}


def interrupted(path, epoch, **settings):
    write = training._Checkpoint.write

    def stop(file, run):
        write(file, run)
        if run.epochs == epoch:
            raise Stopped

    with mock.patch.object(training._Checkpoint, "write", stop), pytest.raises(Stopped):
        finished(path, checkpoint_minutes=0, **settings)


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("epoch", [1, 4])
def test_a_run_goes_on_to_the_numbers_of_an_undisturbed_one(tmp_path, name, epoch):
    settings = RUNS[name] | {"device": "cpu"}
    interrupted(tmp_path / "run", epoch, **settings)
    with mock.patch.object(training, "epoch_batches", wraps=training.epoch_batches) as begun:
        found = finished(tmp_path / "run", **settings)
        assert begun.call_count == found[1]["epochs"] - epoch  # none is done twice
        assert finished(tmp_path / "run", **settings) == found
        assert begun.call_count == found[1]["epochs"] - epoch  # an ended run does not go on
    assert found == finished(**settings)


@pytest.mark.gpu
@needs_gpu
def test_a_run_goes_on_on_a_gpu(tmp_path):
    settings = RUNS["float32"] | {"device": "cuda"}
    interrupted(tmp_path / "run", 4, **settings)
    found, expected = finished(tmp_path / "run", **settings)[1], finished(**settings)[1]
    assert found["steps"] == expected["steps"]
    assert found["train_loss_nats"] == pytest.approx(expected["train_loss_nats"], rel=0.2, abs=0.02)


@pytest.mark.parametrize("damage", ["cut", "byte", "other settings", "other weights"])
def test_a_checkpoint_that_is_not_of_this_run_is_told_and_replaced(tmp_path, damage):
    settings, network = RUNS["float32"] | {"device": "cpu"}, convolutional()
    interrupted(tmp_path / "run", 2, **settings)
    whole = bytearray((tmp_path / "run").read_bytes())
    if damage == "cut":
        (tmp_path / "run").write_bytes(whole[:-9])
    elif damage == "byte":
        whole[-9] ^= 1
        (tmp_path / "run").write_bytes(whole)
    elif damage == "other settings":
        settings["weight_decay"] = 0.01
    else:
        with torch.no_grad():
            network[0].bias += 1
    expected = finished(network=copy.deepcopy(network), **settings)
    about = {"other settings": "weight_decay", "other weights": "first_weights"}.get(damage, str(tmp_path / "run"))
    with pytest.warns(UserWarning, match=about):
        assert finished(tmp_path / "run", network, **settings) == expected


def test_a_full_disk_is_told_and_the_run_goes_on(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "save", full)
    with pytest.warns(UserWarning, match="No space left"):
        found = finished(tmp_path / "run", checkpoint_minutes=0, **RUNS["bfloat16"], device="cpu")
    assert found == finished(**RUNS["bfloat16"], device="cpu")
