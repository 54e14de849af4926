"""Train a network until it fits its training set, and evaluate it."""

import math
import time
import warnings
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from intrinsic.networks import checkpoints, models

LOOK_ABOVE = 0.97  # running accuracy from which an epoch ends with an evaluation of the whole training set
FITTED_AT = 0.99  # accuracy of that evaluation ...
PASS = 256  # images in a pass of an evaluation
LOOKS = 2  # ... at so many successive epoch ends
CHANCE_NATS = 0.01  # an epoch is at chance unless its loss is this far below that of the best constant output
CHANCE_STEPS, CHANCE_EPOCHS = 1500, 5  # a run ends after so many of both at chance
PRECISIONS = ("float32", "bfloat16")
#: batch sizes of the paper (section 5 and its code)
PAPER_BATCH = {"resnet18": 40, "resnet34": 25, "resnet50": 12, "vgg13": 6, "vgg16": 6, "vgg19": 6}
HISTORY = ("running_accuracy", "running_loss_nats", "evaluated_epoch", "evaluated_accuracy")


class BadTraining(ValueError):
    """Settings of a training run that contradict each other or the training set."""


@dataclass
class TrainingResult:
    """How a training run ended.

    fitted              whether the rule of `train` held at the last epoch end
    epochs, steps       passes over the training set; steps of the optimizer
    train_accuracy, train_loss_nats     after training, evaluation mode, whole training set
    running_accuracy    of the last epoch, training mode, each image before its own step
    seconds             of wall clock, with those before an interruption
    looks               good evaluations at the last successive epoch ends
    reason              why it ended: "fit", "epochs", "cap" or "chance" (did not fit), or "non-finite loss"
    history             lists: two of every epoch, two of every evaluation (evaluated_epoch counts from 1)
    """

    fitted: bool = False
    epochs: int = 0
    steps: int = 0
    train_accuracy: float = math.nan
    train_loss_nats: float = math.nan
    running_accuracy: float = math.nan
    seconds: float = 0.0
    reason: str | None = None
    looks: int = field(default=0, repr=False)
    history: dict[str, list] = field(default_factory=lambda: {key: [] for key in HISTORY}, repr=False)


def protocol(name: str, model: str | nn.Module, dataset: str = "") -> dict:
    """Arguments of `train` by the name of a protocol: "fit", this book's, or "paper", 100 epochs with its batches.

    dataset   a VGG on the set "svhn" has a rate of its own in the paper
    Raises BadTraining. Source: Konz & Mazurowski 2024, section 5, and its code.
    """
    vgg = models.is_vgg(model)
    rate = {"learning_rate": 1e-4 if vgg else 1e-3, "weight_decay": 1e-4}
    if name == "fit":
        # a VGG hardly learns at 64 without batch normalization, and may not fit without a warm-up, here of
        # 2 / (1 - beta2) steps at Adam's beta2 = 0.999 (Ma & Yarats 2021)
        own = {"batch_size": 16, "warmup_steps": 2000} if vgg else {"batch_size": 64, "warmup_steps": 0}
        return {"until": "fit", "epochs": 100, "min_steps": 1500, **own, **rate}
    if name != "paper" or model not in PAPER_BATCH:
        raise BadTraining(f"no protocol '{name}' is known for '{model}'; give 'fit', or 'paper' with a network of it")
    rate |= {"learning_rate": 1e-6} if vgg and dataset.startswith("svhn") else {}
    return {"until": "epochs", "epochs": 100, "batch_size": PAPER_BATCH[model], "warmup_steps": 0, **rate}


def train(
    network: nn.Module,
    images,
    labels,
    *,
    until: str = "fit",
    epochs: int = 100,
    min_steps: int = 1500,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    warmup_steps: int | None = None,
    weight_decay: float = 1e-4,
    seed: int = 0,
    precision: str = "auto",
    device: str | torch.device | None = None,
    checkpoint: Path | str | None = None,
    checkpoint_minutes: float = 2,
) -> TrainingResult:
    """Train a network in place: Adam on the mean cross-entropy, until it fits or for a number of epochs.

    Parameters
    ----------
    network : torch.nn.Module
        It stays on the device, in evaluation mode.
    images : array or tensor
        uint8, or floats in [0, 1]: (n, H, W), (n, C, H, W) or (n, H, W, C).
    labels : array or tensor, shape (n,)
        Integers from 0.
    until : {"fit", "epochs"}
        "fit": stop once the accuracy over the training set, in evaluation mode, is at least 0.99 at two successive
        epoch ends. Only epochs with a running accuracy above 0.97 are evaluated. "epochs": exactly `epochs`.
    epochs, min_steps : int
        A run that does not fit ends after both, and after its warm-up. It ends earlier where its last 1,500 steps
        and 5 epochs were at chance: no running loss was 0.01 nats below `chance_loss`.
    batch_size : int, optional
        Default: 16 for a VGG, else 64. A last batch of one image joins the batch before.
    learning_rate, weight_decay : float, optional
        Of Adam; the decay is in the gradient. Default rate: 1e-4 for a VGG, else 1e-3.
    warmup_steps : int, optional
        Steps over which the rate rises linearly. Default: 2,000 for a VGG, else 0.
    seed : int
        Decides the order of images and dropout. The caller's random numbers are not disturbed.
    precision : {"auto", "float32", "bfloat16"}
        Of the products in training steps; "auto" is `native_precision`. Weights and evaluations are float32.
    device : str or torch.device, optional
        Default: the GPU where there is one.
    checkpoint : path, optional
        A file written at an epoch end every `checkpoint_minutes` and at the end. A run that finds it continues, and
        ends with the numbers of an undisturbed one. The caller deletes it (`checkpoints.discard`).

    Returns
    -------
    TrainingResult

    Raises
    ------
    BadTraining, models.BadInput

    References
    ----------
    Konz & Mazurowski 2024, section 5 and appendix F. Goyal et al. 2017, section 2.2 (warm-up).

    Examples
    --------
    >>> images = torch.zeros(8, 1, 4, 4)
    >>> images[::2] = 1
    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    >>> train(network, images, [0, 1] * 4, learning_rate=0.1, device="cpu").reason
    'fit'
    """
    images = models.network_input(images)
    labels = models.network_labels(labels, len(images))
    usual = protocol("fit", network)
    batch_size = usual["batch_size"] if batch_size is None else batch_size
    learning_rate = usual["learning_rate"] if learning_rate is None else learning_rate
    warmup_steps = usual["warmup_steps"] if warmup_steps is None else warmup_steps
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    precision = native_precision(device) if precision == "auto" else precision
    _check_settings(until, epochs, min_steps, batch_size, warmup_steps, precision, len(images))

    network.to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate, weight_decay=weight_decay, fused=True)
    generator = torch.Generator().manual_seed(seed)
    run = TrainingResult()
    if checkpoint is not None:
        settings = {"until": [until, epochs, min_steps], "batch_size": batch_size, "seed": seed, "precision": precision}
        settings |= {"learning_rate": learning_rate, "warmup_steps": warmup_steps, "weight_decay": weight_decay}
        settings |= {"images": checkpoints.content_hash({"images": images, "labels": labels})}
        settings |= {"first_weights": checkpoints.content_hash(network.state_dict())}
        file = _Checkpoint(Path(checkpoint), settings, network, optimizer, generator)
        run = file.read() or run
    at_chance, largest = chance_loss(labels) - CHANCE_NATS, int(labels.max())
    images, labels = images.to(device), labels.to(device)
    began, written = time.perf_counter() - run.seconds, time.perf_counter()

    while run.reason is None:
        batches = epoch_batches(torch.randperm(len(images), generator=generator), batch_size)
        dropout_seed = int(torch.randint(2**62, (), generator=generator))
        total = torch.zeros(2, dtype=torch.float64, device=device)
        network.train()
        with _seeded(dropout_seed, device):
            for batch in batches:
                run.steps += 1
                warm = min(1.0, run.steps / warmup_steps) if warmup_steps else 1.0
                optimizer.param_groups[0]["lr"] = learning_rate * warm
                rows = batch.to(device)
                with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
                    logits = network(models.placed(network, images[rows]))
                models.check_outputs(logits, largest)
                loss = functional.cross_entropy(logits.float(), labels[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                right = (logits.argmax(1) == labels[rows]).sum()
                total += torch.stack([loss.detach() * len(rows), right])
        run.epochs += 1
        running_loss, running_accuracy = (total / len(images)).tolist()
        run.history["running_loss_nats"].append(running_loss)
        run.history["running_accuracy"].append(running_accuracy)

        good, wanted = False, until == "fit" or run.epochs > epochs - LOOKS
        if wanted and running_accuracy > LOOK_ABOVE and math.isfinite(running_loss):
            accuracy = evaluate(network, images, labels)["accuracy"]
            run.history["evaluated_epoch"].append(run.epochs)
            run.history["evaluated_accuracy"].append(accuracy)
            good = accuracy >= FITTED_AT
        run.looks = run.looks + 1 if good else 0

        recent = max(CHANCE_EPOCHS, -(-CHANCE_STEPS // len(batches)))
        if not math.isfinite(running_loss):
            run.reason = "non-finite loss"
        elif until == "epochs":
            run.reason = "epochs" if run.epochs == epochs else None
        elif run.looks >= LOOKS:
            run.reason = "fit"
        elif run.steps >= max(min_steps, warmup_steps):
            chance = run.epochs >= recent and min(run.history["running_loss_nats"][-recent:]) > at_chance
            run.reason = "cap" if run.epochs >= epochs else "chance" if chance else None
        run.seconds = time.perf_counter() - began
        if checkpoint is not None and (run.reason or time.perf_counter() - written >= 60 * checkpoint_minutes):
            file.write(run)
            written = time.perf_counter()

    network.eval()
    scores = evaluate(network, images, labels)
    run.train_accuracy, run.train_loss_nats = scores["accuracy"], scores["test_loss_nats"]
    run.running_accuracy = run.history["running_accuracy"][-1]
    run.reason = run.reason if math.isfinite(run.train_loss_nats) else "non-finite loss"
    run.fitted = run.looks >= LOOKS and run.reason != "non-finite loss"
    return run


def _check_settings(until, epochs, min_steps, batch_size, warmup_steps, precision, n) -> None:
    if until not in ("fit", "epochs") or precision not in PRECISIONS:
        found = f"until {until!r} or precision {precision!r} is unknown"
        raise BadTraining(f"{found}; give 'fit' or 'epochs', and 'auto', 'float32' or 'bfloat16'")
    if epochs < 1 or min_steps < 0 or warmup_steps < 0:
        raise BadTraining(f"{epochs} epochs, {min_steps} steps, {warmup_steps} to warm up: give at least 1, 0 and 0")
    if n < 2 or batch_size < 2:
        raise BadTraining(f"{n} images in batches of {batch_size}: batch normalization needs 2; give at least 2 each")


def native_precision(device: str | torch.device | None = None) -> str:
    """ "bfloat16" where its products are faster, a GPU of compute capability 8 or a CPU with AMX; else "float32".

    On a CPU with AVX512-BF16 alone bfloat16 is slower (benchmarks/results/convolutions.json).
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.get_device_capability(device) >= (8, 0) else "float32"
    return "bfloat16" if getattr(torch.cpu, "_is_amx_tile_supported", bool)() else "float32"


def chance_loss(labels: torch.Tensor) -> float:
    """Entropy of the labels in nats: the least mean cross-entropy of an output that is the same for all images."""
    shares = torch.bincount(labels).double() / len(labels)
    return float(-torch.special.xlogy(shares, shares).sum())


def epoch_batches(order: torch.Tensor, batch_size: int) -> list[torch.Tensor]:
    """An order of images cut into batches; a last batch of one image joins the batch before."""
    batches = list(order.split(batch_size))
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


@contextmanager
def _seeded(seed: int, device: torch.device):
    """torch's generators start at the seed inside the block, and are as before after it."""
    gpu = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpu):
        torch.random.default_generator.manual_seed(seed)
        for one in gpu:
            with torch.cuda.device(one):
                torch.cuda.manual_seed(seed)
        yield


class _Checkpoint:
    """The file that a run continues from: network, Adam's moments, the generator and the run's standing."""

    def __init__(self, path: Path, settings: dict, network, optimizer, generator):
        self.path, self.settings = path, settings
        self.network, self.optimizer, self.generator = network, optimizer, generator

    def write(self, run: TrainingResult) -> None:
        tensors = {f"model.{name}": value for name, value in self.network.state_dict().items()}
        for i, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{key}": value for key, value in state.items()}
        tensors["generator."] = self.generator.get_state()
        try:
            checkpoints.save(self.path, tensors, {"settings": self.settings, "run": asdict(run)})
        except OSError as error:
            warnings.warn(f"{error}; the run goes on, but would start over if killed: make room", stacklevel=3)

    def read(self) -> TrainingResult | None:
        """Put the run back where the file was written; None where there is no file of this run."""
        try:
            tensors, facts = checkpoints.load(self.path)
        except FileNotFoundError:
            return None
        except checkpoints.DamagedFile as error:
            warnings.warn(f"a run cannot be continued, so it starts over: {error}", stacklevel=3)
            return None
        theirs = facts.get("settings", {}) if isinstance(facts, dict) else {}
        if odd := [key for key in self.settings | theirs if self.settings.get(key) != theirs.get(key)]:
            found = f"the checkpoint {self.path} is of a run that differs in {', '.join(odd)}"
            warnings.warn(f"{found}, so this run starts over and replaces it", stacklevel=3)
            return None
        weights, state = {}, {}
        for name, value in tensors.items():
            part, _, rest = name.partition(".")
            if part == "model":
                weights[rest] = value
            elif part == "optimizer":
                i, _, key = rest.partition(".")
                like = self.optimizer.param_groups[0]["params"][int(i)].detach()
                # a fused step reads moments in the memory order of their weight, and a file holds no order
                state.setdefault(int(i), {})[key] = torch.empty_like(like).copy_(value) if value.ndim else value
        self.network.load_state_dict(weights)
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        self.generator.set_state(tensors["generator."])
        return TrainingResult(**facts["run"])


# ---------------------------------------------------------------------------------------------------- evaluation


def evaluate(network: nn.Module, images, labels) -> dict[str, float]:
    r"""Loss, Brier score and accuracy of a network: evaluation mode, float32, means over images.

    .. math:: L = -\frac1n \sum_i \log p_i[y_i], \qquad B = \frac1{2n} \sum_{i,c} (p_i[c] - 1(c = y_i))^2

    Parameters
    ----------
    network : torch.nn.Module
        Its mode is restored.
    images, labels
        As in `train`.

    Returns
    -------
    dict
        test_loss_nats, brier, accuracy. Images whose outputs are not finite count as wrong; L and B are then NaN.

    Raises
    ------
    models.BadInput

    References
    ----------
    Brier 1950; here halved, so that two classes give the squared error of a probability.

    Examples
    --------
    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    >>> _ = [nn.init.zeros_(parameter) for parameter in network.parameters()]
    >>> evaluate(network, torch.zeros(4, 1, 4, 4), [0, 0, 0, 1])["brier"]
    0.25
    """
    images = models.network_input(images)
    labels = models.network_labels(labels, len(images))
    device = models.placement(network)[0]
    total = torch.zeros(3, dtype=torch.float64, device=device)
    with models.evaluating(network), torch.no_grad():
        for pixels, y in zip(images.split(PASS), labels.split(PASS), strict=True):
            total += torch.stack(image_scores(network(models.placed(network, pixels)), y.to(device))).sum(1)
    loss, brier, accuracy = (total / len(images)).tolist()
    return {"test_loss_nats": loss, "brier": brier, "accuracy": accuracy}


def image_scores(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(loss in nats, Brier score, 1 where right) of each image, float64 (n,): the terms of `evaluate`.

    logits (n, classes), labels (n,). Raises models.BadInput where a label has no output.
    """
    models.check_outputs(logits, int(labels.max()))
    log_p = logits.to(torch.float64).log_softmax(1)
    loss = -log_p.gather(1, labels[:, None])[:, 0]
    brier = (log_p.exp() - functional.one_hot(labels, logits.shape[1])).square().sum(1) / 2
    right = (logits.argmax(1) == labels) & torch.isfinite(logits).all(1)
    return loss, brier, right.to(torch.float64)


def held_out_scores(network: nn.Module, images, labels) -> tuple[dict, dict]:
    """(metrics, reasons) of a network on a test set, as a record holds them: None with a reason where there is none.

    A test set of one class has no scores, since they compare with no other set's.
    """
    scores = evaluate(network, images, labels)
    metrics = {"test_loss_nats": scores["test_loss_nats"], "test_brier": scores["brier"], "n_test": len(images)}
    metrics["test_accuracy"] = scores["accuracy"]
    classes = np.unique(models.network_labels(labels, len(images)).numpy())
    reasons = {}
    if len(classes) == 1:
        why = f"all {len(images)} test images are of class {classes[0]}, so the score is of one class alone"
        reasons = dict.fromkeys(("test_loss_nats", "test_brier", "test_accuracy"), why)
    elif not math.isfinite(scores["test_loss_nats"]):
        why = "some outputs of the network are not finite, so these images have no prediction"
        reasons = dict.fromkeys(("test_loss_nats", "test_brier"), why)
    return metrics | dict.fromkeys(reasons), reasons
