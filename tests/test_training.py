"""The fit rule, seeds, optimizer and scores."""

import copy
import inspect
import itertools
import math
import platform
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from intrinsic.networks import checkpoints, models, training


def clouds(n=60, side=8, seed=0, n_classes=2):
    """Noise around a bright spot whose place tells the class: separable."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 1, side, side, generator=generator) * 0.3
    y = torch.arange(n) % n_classes
    for c in range(n_classes):
        x[y == c, :, 2 * c : 2 * c + 2, :2] += 0.6
    return x, y


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(64, 3, 3, 3), (8, 16, 3, 3), (7, 5, 1, 1), (5, 4)])
def test_steps_in_the_order_of_memory_are_adams(layout, shape):
    generator, weights = torch.Generator().manual_seed(0), []
    start, gradients = torch.randn(shape, generator=generator), torch.randn((4, *shape), generator=generator)

    def laid_out(tensor, layout=layout):
        return tensor.clone(memory_format=layout if tensor.ndim == 4 else torch.contiguous_format)

    for adam in (training._Adam, torch.optim.Adam):
        weight = nn.Parameter(laid_out(start) if adam is training._Adam else start.double())
        step = adam([weight], lr=0.1, weight_decay=0.01)
        for i, gradient in enumerate(gradients):
            ours = laid_out(gradient) if i % 2 else gradient  # in the layout of its weight, or in another
            weight.grad = ours if adam is training._Adam else gradient.double()
            if adam is training._Adam:
                step.gather()
            step.step()
            step.zero_grad()
            assert weight.grad is None
        weights.append(weight.detach())
    torch.testing.assert_close(weights[0].double(), weights[1], rtol=0, atol=1e-6)


def tiny(seed=0, n_classes=2, dropout=0.2):
    """Convolution, batch normalization over 1 x 1 positions and dropout: what the six networks have."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 6, 8),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(6, n_classes),
        )


class Scripted(nn.Module):
    """Predicts with an accuracy written down for each epoch, `running` in training and `looks` in evaluation.

    An image is its own number / n and its label; those with the smallest numbers are predicted right.
    """

    def __init__(self, n, running, looks):
        super().__init__()
        self.n, self.running, self.looks, self.seen = n, running, looks, 0
        self.idle = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        if self.training:
            epoch = self.seen // self.n
            self.seen += len(x)
            share = self.running[min(epoch, len(self.running) - 1)]
        else:
            share = self.looks[min(self.seen // self.n, len(self.looks)) - 1]
        number, label = x[:, 0, 0, 0] * self.n, x[:, 0, 0, 1]
        right = number < share * self.n - 0.5
        one = torch.where(right, label, 1 - label) * 2 - 1
        return torch.stack([-one, one], 1) + 0 * self.idle

    @staticmethod
    def data(n):
        x = torch.zeros(n, 1, 1, 2)
        x[:, 0, 0, 0] = torch.arange(n) / n
        x[:, 0, 0, 1] = torch.arange(n) % 2
        return x, torch.arange(n) % 2


@pytest.mark.parametrize(
    ("running", "looks", "looked_at", "reason"),
    [
        ([1.0], [1.0], [1, 2], "fit"),
        ([0.97, 0.98], [1.0], [2, 3], "fit"),  # 0.97 is not above 0.97
        ([0.5, 0.6, 0.99], [1.0], [3, 4], "fit"),
        ([1.0], [0.98, 0.99, 0.99], [1, 2, 3], "fit"),  # 0.99 suffices, 0.98 does not
        ([1.0], [0.99, 0.98, 0.99, 1.0], [1, 2, 3, 4], "fit"),  # successive
        ([1.0, 0.5, 1.0], [1.0], [1, 3, 4], "fit"),  # an epoch that is not looked at breaks the succession
        ([1.0], [0.98], [1, 2, 3, 4, 5, 6], "cap"),
        ([0.97], [1.0], [], "cap"),
        ([1.0], [0.5, 0.5, 0.5, 0.5, 1.0, 1.0], [1, 2, 3, 4, 5, 6], "fit"),  # at the cap, and yet fitted
    ],
)
def test_fit_is_two_successive_good_looks_once_the_running_accuracy_is_high(running, looks, looked_at, reason):
    x, y = Scripted.data(100)
    result = training.train(Scripted(100, running, looks), x, y, batch_size=50, max_epochs=6, min_steps=0)
    assert result.reason == reason
    assert result.fitted == (reason == "fit")
    assert result.history["evaluated_epoch"] == looked_at
    assert result.epochs == (looked_at[-1] if reason == "fit" else 6)
    assert result.steps == 2 * result.epochs
    seen = [looks[min(e, len(looks)) - 1] for e in looked_at]
    assert result.history["evaluated_accuracy"] == pytest.approx(seen)
    assert result.train_accuracy == pytest.approx(looks[min(result.epochs, len(looks)) - 1])
    assert result.running_accuracy == pytest.approx(running[min(result.epochs, len(running)) - 1])
    assert len(result.history["running_accuracy"]) == result.epochs


@pytest.mark.parametrize(("max_epochs", "min_steps", "epochs"), [(3, 10, 5), (7, 4, 7), (1, 0, 1), (2, 5, 3)])
def test_the_cap_waits_for_both_epochs_and_steps(max_epochs, min_steps, epochs):
    x, y = Scripted.data(20)
    result = training.train(Scripted(20, [0.9], [0.5]), x, y, batch_size=10, max_epochs=max_epochs, min_steps=min_steps)
    assert (result.epochs, result.steps, result.reason, result.fitted) == (epochs, 2 * epochs, "cap", False)


def test_unless_told_otherwise_1500_steps_come_before_did_not_fit():
    x, y = Scripted.data(20)
    result = training.train(Scripted(20, [0.9], [0.5]), x, y, batch_size=2, max_epochs=1)
    assert (result.steps, result.epochs, result.reason) == (1500, 150, "cap")


@pytest.mark.parametrize(
    ("running", "epochs", "reason"),
    [
        ([0.5], 6, "chance"),  # min_steps, at two steps an epoch
        ([0.5, 0.5, 0.9, 0.5], 8, "cap"),  # learned once
        ([0.5] * 5 + [0.9], 8, "cap"),  # just in time
        ([0.5] * 6 + [0.9], 6, "chance"),
        ([0.9, 0.5], 6, "chance"),  # learned, and lost it: five epochs at chance
        ([0.5, 0.9, 0.5], 7, "chance"),
        ([0.7], 6, "chance"),  # right more often, and yet worse than a constant: .127 x .7 + 2.127 x .3 = .727 > .693
        ([0.75], 8, "cap"),  # .627
    ],
)
def test_a_run_at_chance_ends_after_the_least_steps(running, epochs, reason, monkeypatch):
    monkeypatch.setattr(training, "CHANCE_STEPS", 0)
    x, y = Scripted.data(20)
    result = training.train(Scripted(20, running, [0.5]), x, y, batch_size=10, max_epochs=8, min_steps=12)
    assert (result.epochs, result.reason, result.fitted) == (epochs, reason, False)


def test_the_least_steps_at_chance_are_1500():
    x, y = Scripted.data(20)
    result = training.train(Scripted(20, [0.5], [0.5]), x, y, batch_size=2, max_epochs=200, min_steps=0)
    assert (result.steps, result.epochs, result.reason) == (1500, 150, "chance")


def test_a_number_of_epochs_is_kept_at_chance(monkeypatch):
    monkeypatch.setattr(training, "CHANCE_STEPS", 0)
    x, y = Scripted.data(20)
    result = training.train(Scripted(20, [0.5], [0.5]), x, y, batch_size=10, until="epochs", epochs=6, min_steps=0)
    assert (result.epochs, result.reason) == (6, "epochs")


@pytest.mark.parametrize(
    ("counts", "shares"),
    [((10, 10), (0.5, 0.5)), ((10, 30), (0.25, 0.75)), ((10, 0, 30), (0.25, 0.75)), ((5, 5, 10), (0.25, 0.25, 0.5))],
)
def test_the_loss_at_chance_is_that_of_the_best_constant(counts, shares):
    y = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    found = training.chance_loss(y)
    assert found == pytest.approx(-sum(q * np.log(q) for q in shares), rel=1e-6)
    logits = torch.zeros(len(counts), dtype=torch.float64, requires_grad=True)
    best = torch.optim.LBFGS([logits], max_iter=200, line_search_fn="strong_wolfe")

    def loss():
        best.zero_grad()
        mean = functional.cross_entropy(logits.expand(len(y), -1), y)
        mean.backward()
        return mean

    best.step(loss)  # no constant output is better
    assert found - 1e-12 < float(loss().detach()) < found + 1e-3


def test_a_run_whose_classes_have_weights_is_never_said_to_be_at_chance(monkeypatch):
    monkeypatch.setattr(training, "CHANCE_STEPS", 0)
    x, y = Scripted.data(20)
    how = {"batch_size": 10, "max_epochs": 6, "min_steps": 8}
    result = training.train(Scripted(20, [0.5], [0.5]), x, y, class_weights="balanced", **how)
    assert (result.epochs, result.reason) == (6, "cap")


@pytest.mark.parametrize(
    ("running", "warmup", "epochs", "reason"),
    [
        (0.9, 0, 6, "cap"),
        (0.9, 12, 6, "cap"),
        (0.9, 13, 7, "cap"),
        (0.9, 40, 20, "cap"),
        (0.5, 9, 5, "chance"),
        (0.5, 12, 6, "cap"),
        (0.5, 40, 20, "cap"),
    ],
)
def test_a_run_is_not_given_up_before_its_rate_is_whole(running, warmup, epochs, reason, monkeypatch):
    """Two steps an epoch; at chance after 4 steps and 5 epochs, and at the cap after 6 epochs."""
    monkeypatch.setattr(training, "CHANCE_STEPS", 4)
    x, y = Scripted.data(20)
    how = {"batch_size": 10, "max_epochs": 6, "min_steps": 0, "warmup_steps": warmup}
    result = training.train(Scripted(20, [running], [0.5]), x, y, **how)
    assert (result.epochs, result.reason, result.fitted) == (epochs, reason, False)


@pytest.mark.parametrize(("steps", "warmup", "told"), [(6, 6, False), (6, 7, True), (6, 0, False)])
def test_a_number_of_epochs_that_ends_in_the_warm_up_is_told(steps, warmup, told):
    x, y = Scripted.data(20)
    how = {"batch_size": 10, "until": "epochs", "epochs": steps // 2, "warmup_steps": warmup}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        training.train(Scripted(20, [0.5], [0.5]), x, y, **how)
    assert [str(one.message) for one in caught] == (
        [
            "3 epochs are 6 steps, and the learning rate is whole from step 7 on, so this run ends before: give more "
            "epochs or fewer warmup_steps"
        ]
        if told
        else []
    )


@pytest.mark.parametrize(
    ("running", "looks", "fitted"),
    [([1.0], [1.0], True), ([1.0], [1, 1, 1, 0.9, 1], False), ([1, 1, 1, 1, 0.9], [1.0], False)],
)
def test_a_fixed_number_of_epochs_is_kept_and_the_rule_is_applied_at_the_end(running, looks, fitted):
    x, y = Scripted.data(20)
    model = Scripted(20, running, looks)
    result = training.train(model, x, y, until="epochs", epochs=5, batch_size=10)
    assert (result.epochs, result.steps, result.reason, result.fitted) == (5, 10, "epochs", fitted)
    assert set(result.history["evaluated_epoch"]) <= {4, 5}


@pytest.mark.slow
def test_a_resnet_is_trained_until_it_fits_separable_images():
    x, y = clouds(64, side=32)
    model = models.create("resnet18", channels=1, n_classes=2, seed=0)
    result = training.train(model, x, y, batch_size=16, seed=0)
    assert result.fitted
    assert result.reason == "fit"
    assert result.history["evaluated_accuracy"][-2:] == [1.0, 1.0]  # of 64, 63 would be less than 0.99
    scores = training.evaluate(model, x, y)
    assert scores["accuracy"] == result.train_accuracy == 1.0
    assert scores["test_loss_nats"] == pytest.approx(result.train_loss_nats, rel=1e-6)
    x_new, y_new = clouds(100, side=32, seed=1)
    assert training.evaluate(model, x_new, y_new)["accuracy"] > 0.95


@pytest.mark.parametrize("epochs", [1, 3])  # 1: the loss is finite at every step, the trained weights are not
def test_a_loss_that_is_not_finite_is_a_reason_and_no_exception(epochs):
    x, y = clouds(8)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Linear(8, 2))
    result = training.train(model, x, y, until="epochs", epochs=epochs, learning_rate=1e38, batch_size=8)
    assert result.reason == "non-finite loss"
    assert not result.fitted
    assert not math.isfinite(result.train_loss_nats)
    assert result.epochs <= 2


@pytest.mark.parametrize("threads", [1, 2])
def test_a_seed_repeats_training_bit_for_bit(threads):
    x, y = clouds(23)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        runs = []
        for caller, seed in ((1, 7), (2, 7), (1, 8)):
            torch.manual_seed(caller)  # what the caller drew before must not matter
            model = tiny()
            result = training.train(model, x, y, until="epochs", epochs=2, batch_size=8, seed=seed, device="cpu")
            runs.append((model.state_dict(), result))
    finally:
        torch.set_num_threads(before)
    (first, one), (again, two), (other, _) = runs
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert (one.history, one.train_loss_nats) == (two.history, two.train_loss_nats)
    assert not torch.equal(first["0.weight"], other["0.weight"])


def test_training_leaves_the_callers_random_numbers_alone():
    x, y = clouds(20)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    training.train(tiny(), x, y, until="epochs", epochs=2, seed=7)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_progress_function_that_draws_random_numbers_changes_nothing():
    x, y = clouds(20)
    quiet, loud = tiny(), tiny()
    settings = {"until": "epochs", "epochs": 3, "seed": 7, "device": "cpu"}
    training.train(quiet, x, y, **settings)
    training.train(loud, x, y, **settings, progress=lambda *_: torch.rand(5))
    assert all(torch.equal(a, b) for a, b in zip(quiet.parameters(), loud.parameters(), strict=True))


def test_dropout_and_order_are_new_at_every_epoch_and_no_image_is_dropped():
    n = 33
    x = (torch.arange(n) / n)[:, None, None, None].expand(n, 1, 2, 2).contiguous()
    orders, masks = [], []

    class Watching(nn.Module):
        def __init__(self):
            super().__init__()
            self.dropout, self.linear = nn.Dropout(0.5), nn.Linear(4, 2)

        def forward(self, x):
            if self.training:
                orders.append((x[:, 0, 0, 0] * n).round().int().tolist())
                masks.append(tuple((self.dropout(torch.ones(50)) == 0).tolist()))
            return self.linear(x.flatten(1))

    training.train(Watching(), x, torch.arange(n) % 2, until="epochs", epochs=3, batch_size=8, seed=0)
    assert [len(b) for b in orders] == [8, 8, 8, 9] * 3  # the 33rd joins the last batch
    epochs = [list(itertools.chain(*orders[i : i + 4])) for i in (0, 4, 8)]
    assert all(sorted(e) == list(range(n)) for e in epochs)
    assert all(a != b for a, b in itertools.combinations([*epochs, list(range(n))], 2))
    assert len(set(masks)) == len(masks)


@pytest.mark.parametrize(("n", "size"), [(2, 2), (3, 2), (64, 64), (65, 64), (66, 64), (129, 64), (5, 64), (7, 3)])
def test_batches_hold_every_image_once_and_never_one_alone(n, size):
    batches = training.epoch_batches(torch.randperm(n, generator=torch.Generator().manual_seed(0)), size)
    assert sorted(torch.cat(batches).tolist()) == list(range(n))
    assert all(2 <= len(b) <= size + 1 for b in batches)
    assert all(len(b) == size for b in batches[:-1])


def test_batch_normalization_survives_a_last_batch_of_one_image():
    x, y = clouds(17)
    result = training.train(tiny(), x, y, until="epochs", epochs=1, batch_size=8)
    assert (result.steps, result.reason) == (2, "epochs")


@pytest.mark.filterwarnings("ignore:2 epochs are 6 steps")
@pytest.mark.parametrize("warmup", [0, 1, 4, 50])
def test_a_step_is_that_of_adam_with_the_decay_in_the_gradient(warmup):
    x, y = clouds(22, n_classes=3)
    ours = tiny(n_classes=3, dropout=0.0)
    theirs = copy.deepcopy(ours)
    result = training.train(
        ours,
        x,
        y,
        until="epochs",
        epochs=2,
        batch_size=8,
        learning_rate=3e-3,
        warmup_steps=warmup,
        weight_decay=0.05,
        seed=9,
        device="cpu",
    )

    generator = torch.Generator().manual_seed(9)
    optimizer = torch.optim.Adam(theirs.parameters(), lr=3e-3, weight_decay=0.05, foreach=False)
    # torch's own: from a part of the rate at the first step to all of it `total_iters` steps later
    rise = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / max(warmup, 1), total_iters=max(warmup - 1, 1))
    for _ in range(2):
        order = torch.randperm(22, generator=generator)
        torch.randint(2**62, (), generator=generator)  # the seed of dropout
        losses = []
        for batch in (order[:8], order[8:16], order[16:]):
            loss = functional.cross_entropy(theirs(x[batch]), y[batch], reduction="none")
            losses.append(loss.detach())
            optimizer.zero_grad()
            loss.mean().backward()
            optimizer.step()
            rise.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    # over images, although the last batch is smaller
    assert result.history["running_loss_nats"][-1] == pytest.approx(torch.cat(losses).mean().item(), rel=1e-4)


def test_defaults_are_those_of_the_network(monkeypatch):
    x, y = clouds(24)
    monkeypatch.setattr(models, "default_batch_size", lambda _: 12)
    monkeypatch.setattr(models, "default_learning_rate", lambda _: 0.0)
    monkeypatch.setattr(models, "default_warmup_steps", lambda _: 5)
    model = tiny()
    before = [p.clone() for p in model.parameters()]
    result = training.train(model, x, y, until="epochs", epochs=3)
    assert result.steps == 6
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_bytes_train_as_the_same_floats_do():
    x, y = clouds(20)
    pixels = (x * 255).round().to(torch.uint8)
    a, b = tiny(), tiny()
    training.train(a, pixels.numpy(), y.numpy(), until="epochs", epochs=2, device="cpu")
    training.train(b, pixels.float() / 255, y, until="epochs", epochs=2, device="cpu")
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_bfloat16_trains_float32_weights():
    x, y = clouds(40)
    model, plain = tiny(dropout=0.0), tiny(dropout=0.0)
    settings = {"batch_size": 8, "learning_rate": 0.01, "device": "cpu"}
    result = training.train(model, x, y, precision="bfloat16", **settings)
    training.train(plain, x, y, **settings)
    assert result.fitted
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not torch.equal(model[0].weight, plain[0].weight)


def test_the_trained_network_is_in_evaluation_mode():
    x, y = clouds(20)
    model = tiny()
    training.train(model, x, y, until="epochs", epochs=1)
    assert not any(m.training for m in model.modules())


def test_progress_is_told_at_every_epoch_end_and_nothing_is_printed(capsys):
    x, y = clouds(20)
    told = []
    result = training.train(
        tiny(), x, y, until="epochs", epochs=3, batch_size=10, progress=lambda *facts: told.append(facts)
    )
    accuracy, loss = result.history["running_accuracy"], result.history["running_loss_nats"]
    assert told == [(e + 1, 2 * e + 2, accuracy[e], loss[e]) for e in range(3)]
    printed = capsys.readouterr()
    assert printed.out + printed.err == ""


def test_progress_true_draws_a_bar(capsys):
    x, y = clouds(20)
    training.train(tiny(), x, y, until="epochs", epochs=2, progress=True)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "2/2" in printed.err
    assert "accuracy=" in printed.err


@pytest.mark.parametrize(
    "settings",
    [
        {"until": "done"},
        {"precision": "float16"},
        {"epochs": 0},
        {"max_epochs": 0},
        {"min_steps": -1},
        {"batch_size": 1},
        {"augment": "rotate"},
        {"class_weights": "equal"},
        {"class_weights": [1.0]},
        {"class_weights": [[1.0, 1.0]]},
        {"class_weights": [1.0, 0.0]},
        {"class_weights": [1.0, math.nan]},
    ],
)
def test_settings_without_meaning_are_refused(settings):
    x, y = clouds(8)
    with pytest.raises(training.BadTraining):
        training.train(tiny(), x, y, device="cpu", **settings)


def test_float16_on_a_cpu_is_refused_with_the_reason():
    x, y = clouds(8)
    with pytest.raises(training.BadTraining, match="gradients vanish; give 'float32' or 'bfloat16', or a CUDA device"):
        training.train(tiny(), x, y, precision="float16", device="cpu")


def test_one_image_is_refused():
    x, y = clouds(1)
    with pytest.raises(training.BadTraining, match="at least two"):
        training.train(tiny(), x, y)


@pytest.mark.parametrize("function", [training.train, training.evaluate])
def test_a_label_without_an_output_is_refused(function):
    x, y = clouds(9, n_classes=3)
    with pytest.raises(models.BadInput, match="label is 2"):
        function(tiny(n_classes=2), x, y)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc, where nothing is set")
def test_memory_is_reused_within_a_run_and_given_back_after_it():
    code = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from test_training import clouds
from intrinsic.networks import training
from torch import nn
torch.set_num_threads(1)

def status(key):
    (line,) = [line for line in open("/proc/self/status") if line.startswith(key)]
    return int(line.split()[1]) / 1024

def faults():
    return int(open("/proc/self/stat").read().rsplit(")", 1)[1].split()[7])

def steps():  # each makes a gradient of 64 MiB: 16,384 pages
    x, y = clouds(40)
    seen = []
    training.train(model, x, y, until="epochs", epochs=2, batch_size=4, learning_rate=1e-5, device="cpu",
                   progress=lambda *_: seen.append(faults()))
    print(seen[1] - seen[0])

model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.Linear(4096, 2))
steps()
before = status("VmRSS")
steps()
print(status("VmRSS") - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent)], capture_output=True, text=True, check=True
    )
    first, again, kept = map(float, done.stdout.split())
    assert max(first, again) < 3 * 16_384  # of ten steps; without reuse each has more than one gradient
    assert kept < 40


# ------------------------------------------------------------------------- protocols, classes, augmentation


def test_the_papers_protocol_is_a_hundred_epochs_with_its_batches_and_rates():
    batches = {"resnet18": 40, "resnet34": 25, "resnet50": 12, "vgg13": 6, "vgg16": 6, "vgg19": 6}
    for name in models.MODELS:
        expected = {
            "until": "epochs",
            "epochs": 100,
            "batch_size": batches[name],
            "learning_rate": 1e-4 if name.startswith("vgg") else 1e-3,
            "warmup_steps": 0,
            "weight_decay": 1e-4,
            "augment": "none",
            "class_weights": "none",
        }
        assert training.protocol("paper", name) == expected
        rate = 1e-6 if name.startswith("vgg") else 1e-3
        assert training.protocol("paper", name, "svhn") == {**expected, "learning_rate": rate}


@pytest.mark.parametrize("name", models.MODELS)
def test_the_fit_protocol_is_what_train_does_unless_told_otherwise(name):
    defaults = {p.name: p.default for p in inspect.signature(training.train).parameters.values()}
    defaults["batch_size"] = models.default_batch_size(name)
    defaults["learning_rate"] = models.default_learning_rate(name)
    defaults["warmup_steps"] = models.default_warmup_steps(name)
    settings = training.protocol("fit", name)
    assert settings == {key: defaults[key] for key in settings}
    assert {
        "until",
        "max_epochs",
        "min_steps",
        "batch_size",
        "learning_rate",
        "warmup_steps",
        "weight_decay",
    } < settings.keys()


@pytest.mark.parametrize(("name", "model"), [("quick", "resnet18"), ("paper", "resnet101")])
def test_an_unknown_protocol_and_a_network_without_one_are_refused(name, model):
    with pytest.raises(training.BadTraining):
        training.protocol(name, model)


def one_step(class_weights, logits_bias=0.0):
    """Gradient of the step of a bias, from 3 images of class 0 and 1 of class 1, and the loss that is told."""
    x, y = torch.zeros(4, 1, 1, 1), torch.tensor([0, 0, 1, 0])

    class Bias(nn.Module):
        def __init__(self):
            super().__init__()
            self.bias = nn.Parameter(torch.tensor([logits_bias, 0.0]))

        def forward(self, x):
            return x.flatten(1) + self.bias

    model, seen = Bias(), []
    model.bias.register_hook(lambda gradient: seen.append(gradient.clone()))
    result = training.train(
        model, x, y, until="epochs", epochs=1, batch_size=4, class_weights=class_weights, device="cpu"
    )
    return seen[0].tolist(), result.history["running_loss_nats"][0]


def test_balanced_weights_give_each_class_the_same_pull():
    assert one_step("balanced")[0] == pytest.approx([0, 0], abs=1e-7)
    assert one_step("none")[0] == pytest.approx([-0.25, 0.25])  # p - share of the class


def test_a_list_of_class_weights_weighs_the_mean():
    gradient, loss = one_step([1, 6], logits_bias=1.0)
    p = math.e / (1 + math.e)
    assert loss == pytest.approx((3 * -math.log(p) + 6 * -math.log(1 - p)) / 9, rel=1e-6)
    assert gradient == pytest.approx([p - 3 / 9, 1 - p - 6 / 9], rel=1e-5)
    assert one_step([2, 12], logits_bias=1.0) == (pytest.approx(gradient, rel=1e-6), pytest.approx(loss, rel=1e-6))
    assert one_step([1, 1], 1.0) == (pytest.approx(one_step("none", 1.0)[0]), pytest.approx(one_step("none", 1.0)[1]))


def numbered(n=400, height=16, width=24, channels=2):
    """Images whose pixels tell where they were."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([y, x]).float().expand(n, channels, height, width)


def test_without_augmentation_images_stay_and_no_random_number_is_drawn():
    x, before = numbered(3), torch.get_rng_state()
    assert training.augmented(x, "none") is x
    assert torch.equal(torch.get_rng_state(), before)


def test_a_flip_mirrors_whole_images_about_half_of_them():
    x = numbered()
    torch.manual_seed(0)
    out = training.augmented(x, "flip")
    same = (out == x).flatten(1).all(1)
    mirrored = (out == x.flip(3)).flatten(1).all(1)
    assert (same ^ mirrored).all()
    assert 150 < mirrored.sum() < 250  # 200 +- 10


@pytest.mark.parametrize("how", ["shift", "shift-flip"])
def test_a_shift_is_of_whole_pixels_uniform_and_mirrored_at_the_edge(how):
    x = numbered()
    torch.manual_seed(0)
    out = training.augmented(x, how)
    seen, flips = set(), 0
    for before, after in zip(x, out, strict=True):
        padded = np.pad(before.numpy(), ((0, 0), (2, 2), (3, 3)), mode="reflect")
        matches = [
            (i, j, flip)
            for i in range(5)
            for j in range(7)
            for flip in (False, True)
            if np.array_equal(padded[:, i : i + 16, j : j + 24][:, :, :: -1 if flip else 1], after.numpy())
        ]
        assert len(matches) == 1
        seen.add(matches[0][:2])
        flips += matches[0][2]
    assert len(seen) == 35  # all moves of up to 2 rows and 3 columns
    assert 150 < flips < 250 if how == "shift-flip" else flips == 0


def test_augmentation_repeats_with_the_seed_and_is_not_in_the_looks():
    x, y = clouds(24)
    seen = []

    class Watching(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(64, 2)

        def forward(self, pixels):
            seen.append((self.training, pixels.clone()))
            return self.linear(pixels.flatten(1))

    settings = {"until": "epochs", "epochs": 2, "batch_size": 24, "augment": "shift", "device": "cpu"}
    for caller, seed in ((1, 7), (2, 7), (3, 8)):
        torch.manual_seed(caller)
        training.train(Watching(), x, y, seed=seed, **settings)
    steps = [pixels for training_mode, pixels in seen if training_mode]
    assert torch.equal(torch.stack(steps[:2]), torch.stack(steps[2:4]))
    assert not torch.equal(torch.stack(steps[:2]), torch.stack(steps[4:]))
    assert not torch.equal(steps[0].sort(0).values, x.sort(0).values)
    looks = [pixels for training_mode, pixels in seen if not training_mode]
    assert all(torch.equal(pixels, x) for pixels in looks)


def elaborate_run():
    """Weights, loss and history of a run with everything that could disturb it, one thread."""
    torch.set_num_threads(1)
    x, y = clouds(33)
    model, settings = tiny(), {"precision": "bfloat16", "augment": "shift-flip", "class_weights": [1, 2]}
    result = training.train(model, x, y, until="epochs", epochs=4, batch_size=8, seed=3, device="cpu", **settings)
    return f"{checkpoints.content_hash(model.state_dict())} {result.train_loss_nats.hex()} {result.history}"


def test_the_same_settings_give_the_same_numbers_in_another_process():
    code = "import sys; sys.path.insert(0, sys.argv[1]); import test_training; print(test_training.elaborate_run())"
    torch.manual_seed(11)
    here = elaborate_run()
    there = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent)], capture_output=True, text=True, check=True
    )
    assert there.stdout.strip() == here


# ------------------------------------------------------------------------------------------ evaluation


def test_a_test_set_of_one_class_gives_null_scores_with_the_reason():
    x, _ = clouds(10)
    metrics, reasons = training.held_out_scores(tiny(), x, np.ones(10, dtype=int))
    assert metrics == {"test_loss_nats": None, "test_brier": None, "test_accuracy": None, "n_test": 10}
    assert set(reasons) == {"test_loss_nats", "test_brier", "test_accuracy"}
    assert "all 10 test images are of class 1" in reasons["test_loss_nats"]


def test_outputs_that_are_not_finite_give_null_losses_with_the_reason_and_an_accuracy():
    x, y = clouds(10)
    model = tiny()
    with torch.no_grad():
        model[-1].weight.fill_(torch.nan)
    metrics, reasons = training.held_out_scores(model, x, y)
    assert metrics == {"test_loss_nats": None, "test_brier": None, "test_accuracy": 0.0, "n_test": 10}
    assert "not finite" in reasons["test_brier"]


def test_held_out_scores_are_those_of_evaluate():
    x, y = clouds(10)
    metrics, reasons = training.held_out_scores(tiny(), x, y)
    scores = training.evaluate(tiny(), x, y)
    assert reasons == {}
    assert metrics == {
        "test_loss_nats": scores["test_loss_nats"],
        "test_brier": scores["brier"],
        "test_accuracy": scores["accuracy"],
        "n_test": 10,
    }


def told(logits, labels, **options):
    """Scores of a network that repeats its pixels: logits (n, classes) become images (n, 1, 1, classes)."""
    x = torch.as_tensor(np.asarray(logits), dtype=torch.float32)[:, None, None, :]
    return training.evaluate(nn.Flatten(), x, np.asarray(labels), **options)


def test_scores_of_two_classes_are_those_computed_by_hand():
    p = np.array([0.9, 0.2, 0.6, 0.5001])  # of class 1
    y = np.array([1, 0, 0, 0])
    scores = told(np.stack([np.log(1 - p), np.log(p)], 1), y)
    assert scores["test_loss_nats"] == pytest.approx(-np.log([0.9, 0.8, 0.4, 0.4999]).mean(), rel=1e-6)
    assert scores["brier"] == pytest.approx(((p - y) ** 2).mean(), rel=1e-6)
    assert scores["accuracy"] == 0.5


def test_brier_of_three_classes_is_half_the_sum_over_classes():
    p = np.array([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])
    by_hand = (0.5**2 + 0.3**2 + 0.2**2 + 0.1**2 + 0.9**2 + 0.8**2) / 4
    assert told(np.log(p), [0, 1])["brier"] == pytest.approx(by_hand, rel=1e-6)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 256])
def test_scores_are_means_over_images_whatever_the_batches(batch_size):
    logits = np.random.default_rng(0).normal(0, 3, (10, 4)).astype(np.float32)
    y = np.arange(10) % 4
    log_p = logits.astype(np.float64) - np.log(np.exp(logits.astype(np.float64)).sum(1, keepdims=True))
    scores = told(logits, y, batch_size=batch_size)
    assert scores["test_loss_nats"] == pytest.approx(-log_p[np.arange(10), y].mean(), rel=1e-12)
    assert scores["accuracy"] == (logits.argmax(1) == y).mean()


@pytest.mark.parametrize("batch_size", [1, 100, 1001])
def test_small_losses_are_not_lost_beside_a_large_one(batch_size):
    logits = np.zeros((1001, 2))
    logits[0] = [2.0**25, 0]  # beside it a float32 sum cannot hold log 2
    labels = np.ones(1001, dtype=int)
    expected = (2.0**25 + 1000 * math.log(2)) / 1001
    assert told(logits, labels, batch_size=batch_size)["test_loss_nats"] == pytest.approx(expected, rel=1e-13)


def test_a_sure_and_wrong_prediction_costs_its_margin():
    assert told([[1000.0, -1000.0]], [1])["test_loss_nats"] == 2000
    assert told([[1000.0, -1000.0]], [0])["test_loss_nats"] == 0
    assert told([[25.0, 0.0]], [0])["test_loss_nats"] == pytest.approx(math.exp(-25), rel=1e-9)


@pytest.mark.parametrize("label", [0, 1])
def test_outputs_that_are_not_finite_are_no_prediction(label):
    class Broken(nn.Module):
        def forward(self, x):
            return x.flatten(1) * torch.nan

    scores = training.evaluate(Broken(), torch.ones(1, 1, 1, 2), [label])
    assert scores["accuracy"] == 0
    assert math.isnan(scores["test_loss_nats"])
    assert math.isnan(scores["brier"])


def test_evaluation_changes_nothing_in_the_network():
    x, y = clouds(20)
    model = tiny().train()
    before = copy.deepcopy(model.state_dict())
    first = training.evaluate(model, x, y)
    assert training.evaluate(model, x, y) == first  # no dropout, no new statistics
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(m.training for m in model.modules())
    assert all(p.grad is None for p in model.parameters())


# ----------------------------------------------------------------------------------------------- a GPU


@pytest.mark.parametrize(
    ("capability", "precision"), [((6, 1), "float32"), ((7, 0), "float16"), ((7, 5), "float16"), ((8, 0), "bfloat16")]
)
def test_the_native_precision_of_a_gpu_is_that_of_its_generation(monkeypatch, capability, precision):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert training.native_precision.__wrapped__() == precision


def test_a_cpu_has_one_run_at_a_time_in_a_process():
    assert training.runs_at_once(tiny(), clouds(4)[0], device="cpu") == 1


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here: make test-gpu runs these")


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("precision", training.PRECISIONS)
def test_a_gpu_trains_in_every_precision_and_keeps_float32_weights(precision):
    x, y = clouds(64, side=64)
    model = models.create("resnet18", seed=0)
    result = training.train(model, x, y, batch_size=16, precision=precision, device="cuda")
    assert result.fitted
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert {p.device.type for p in model.parameters()} == {"cuda"}
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("precision", training.PRECISIONS)
def test_a_run_goes_on_on_a_gpu(tmp_path, precision, monkeypatch):
    x, y = clouds(40, side=64)
    settings = {"until": "epochs", "epochs": 6, "batch_size": 8, "precision": precision, "device": "cuda"}
    plain, model = tiny_wide(), tiny_wide()
    expected = training.train(plain, x, y, **settings)
    step, steps = training._Step.__call__, []

    def stopping(*given):
        steps.append(1)
        if len(steps) == 13:
            raise KeyboardInterrupt
        return step(*given)

    with monkeypatch.context() as patch:
        patch.setattr(training._Step, "__call__", stopping)
        with pytest.raises(KeyboardInterrupt):
            training.train(model, x, y, **settings, checkpoint=tmp_path / "run", checkpoint_minutes=0)
    found = training.train(tiny_wide(), x, y, **settings, checkpoint=tmp_path / "run")
    assert found.steps == expected.steps
    # sums of a GPU are in no fixed order, so the two are near and not equal
    assert found.train_loss_nats == pytest.approx(expected.train_loss_nats, rel=0.2, abs=0.02)


def tiny_wide():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 8, 5, stride=2),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(8),
            nn.Flatten(),
            nn.Linear(512, 2),
        )


@pytest.mark.gpu
@needs_gpu
def test_runs_at_once_fit_into_the_memory_that_is_free():
    x, _ = clouds(300, side=64)
    count = training.runs_at_once(models.create("resnet18"), x, device="cuda")
    assert 1 <= count <= training.RUNS_ON_A_GPU
    free, _ = torch.cuda.mem_get_info()
    held = torch.empty(int(free * 0.97), dtype=torch.uint8, device="cuda")
    assert training.runs_at_once(models.create("resnet18"), x, device="cuda") == 1
    del held
    torch.cuda.empty_cache()


class Crowded(torch.nn.Module):
    """A linear network whose device holds so many images at a time."""

    def __init__(self, room, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.room, self.given = room, []
        self.linear = torch.nn.Linear(16, 2)

    def forward(self, x):
        if len(x) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.given.append(len(x))
        return self.linear(x.flatten(1))


@pytest.fixture
def few(monkeypatch):
    """(images, labels, settings) of three steps an epoch, on a device whose memory may be full."""
    monkeypatch.setattr(training, "_may_lack_memory", lambda device: True)
    x = torch.rand(24, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    return x, torch.arange(24) % 2, {"until": "epochs", "epochs": 3, "batch_size": 8, "learning_rate": 0.05}


@pytest.mark.parametrize("class_weights", ["none", [1.0, 3.0]])
def test_where_memory_lacks_a_batch_goes_in_parts_to_the_same_weights(class_weights, monkeypatch):
    monkeypatch.setattr(training, "_may_lack_memory", lambda device: True)
    x, y = torch.rand(50, 1, 4, 4, generator=torch.Generator().manual_seed(1)), torch.arange(50) % 2
    settings = {"until": "epochs", "epochs": 4, "batch_size": 16, "learning_rate": 0.05}
    found = {}
    for room in (50, 5):
        network = Crowded(room)
        result = training.train(network, x, y, class_weights=class_weights, **settings)
        found[room] = network.linear.weight.detach(), result
        assert result.physical_batch == (16 if room == 50 else 4)
        assert max(network.given) <= room
        assert result.steps == 16  # logical ones
    (one, plain), (other, parted) = found.values()
    assert torch.allclose(one, other, rtol=1e-4, atol=1e-6)
    assert parted.history["running_loss_nats"] == pytest.approx(plain.history["running_loss_nats"], rel=1e-5)
    assert parted.train_loss_nats == pytest.approx(plain.train_loss_nats, rel=1e-5)


def test_memory_that_lacks_at_a_later_step_starts_the_run_over(few, monkeypatch):
    x, y, settings = few
    always, later = Crowded(4), Crowded(24)
    training.train(always, x, y, **settings)
    forward = later.forward

    def shrinking(pixels):
        later.room = 4 if len(later.given) >= 5 else later.room
        return forward(pixels)

    monkeypatch.setattr(later, "forward", shrinking)
    assert training.train(later, x, y, **settings).physical_batch == 4
    assert torch.equal(always.linear.weight, later.linear.weight)


def test_memory_that_holds_not_even_two_images_is_an_error(monkeypatch):
    monkeypatch.setattr(training, "_may_lack_memory", lambda device: True)
    with pytest.raises(torch.OutOfMemoryError):
        training.train(Crowded(1), torch.rand(8, 1, 4, 4), torch.arange(8) % 2, batch_size=8)
    with pytest.raises(torch.OutOfMemoryError):
        training.evaluate(Crowded(0), torch.rand(8, 1, 4, 4), torch.arange(8) % 2)


@pytest.mark.timeout(60)
def test_a_run_in_parts_is_continued_in_parts(few, tmp_path):
    x, y, settings = few
    whole, part = Crowded(4), Crowded(4)
    training.train(whole, x, y, **settings)
    forward = part.forward

    def ended(pixels):
        if len(part.given) == 8:
            raise KeyboardInterrupt
        return forward(pixels)

    part.forward = ended
    kept = {"checkpoint": tmp_path / "run", "checkpoint_minutes": 0}
    with pytest.raises(KeyboardInterrupt):
        training.train(part, x, y, **settings, **kept)
    again = Crowded(24)
    assert training.train(again, x, y, **settings, **kept).physical_batch == 4
    assert max(again.given[:4]) == 4
    assert torch.equal(whole.linear.weight, again.linear.weight)
