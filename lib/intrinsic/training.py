"""Train a network until it fits its training set, and evaluate it."""

import functools
import math
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn import functional
from tqdm import tqdm

from intrinsic import models

LOOK_ABOVE = 0.97  # running accuracy above which an epoch ends with a look at the whole training set
FITTED_AT = 0.99  # accuracy of that look, in evaluation mode ...
LOOKS = 2  # ... at so many successive epoch ends


class BadTraining(ValueError):
    """Settings of a training run that contradict each other or the training set."""


@dataclass
class TrainingResult:
    """What a training run ended with.

    fitted              the rule of `train` held at the last epoch end
    epochs, steps       passes over the training set; optimizer steps
    train_accuracy      after training, evaluation mode, whole training set
    running_accuracy    of the last epoch, training mode, each image before the step that it takes part in
    train_loss_nats     after training, evaluation mode, mean over images
    seconds             of wall clock
    history             lists with one entry an epoch, `running_accuracy` and `running_loss_nats`; and with
                        one entry a look at the whole training set, `evaluated_epoch` (from 1) and
                        `evaluated_accuracy`
    reason              why it ended: "fit", "epochs", "cap" (did not fit) or "non-finite loss"
    """

    fitted: bool
    epochs: int
    steps: int
    train_accuracy: float
    running_accuracy: float
    train_loss_nats: float
    seconds: float
    reason: str
    history: dict[str, list] = field(repr=False)


def train(
    model: nn.Module,
    x,
    y,
    *,
    until: str = "fit",
    epochs: int = 100,
    max_epochs: int = 100,
    min_steps: int = 1500,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    weight_decay: float = 1e-4,
    seed: int = 0,
    precision: str = "float32",
    device=None,
    progress: Callable | bool | None = None,
) -> TrainingResult:
    """Minimize the mean cross-entropy with Adam, in place, until the network fits or for a number of epochs.

    until="fit": stop once the accuracy over the whole training set in evaluation mode is at least 0.99 at two
    successive epoch ends. An epoch end is looked at where the running accuracy of its epoch is above 0.97;
    one that is not looked at breaks the succession. The cap: `max_epochs` epochs and `min_steps` steps, both.
    until="epochs": exactly `epochs`; `fitted` says whether the same rule holds at the last two epoch ends.
    A loss that is not finite ends the run at that epoch's end; it is a reason, not an exception.

    x               (n, C, H, W) floats in [0, 1] or uint8, array or tensor; all of it is put on the device
    y               (n,) integers from 0
    batch_size      None: `models.default_batch_size`. No image is dropped: a last batch of one image, which
                    batch normalization cannot take, joins the batch before
    learning_rate   None: the paper's, `models.default_learning_rate`
    weight_decay    L2: added to the gradient, as torch.optim.Adam does and the paper's code did
    seed            of the order of images and of dropout, from a generator of its own: the caller's random
                    numbers are not disturbed. On one CPU model the same seed and number of threads give the
                    same weights bit for bit
    precision       "float32" (on a GPU torch's own setting: convolutions in TF32), or "bfloat16": products of
                    the training steps in bfloat16. Weights, loss and every evaluation are float32
    device          None: the GPU where there is one. The network stays there, in evaluation mode
    progress        called as progress(epoch, steps, running_accuracy, running_loss_nats) at each epoch end;
                    True: a progress bar

    Raises BadTraining for settings without meaning and models.BadInput for images or labels.
    Source: Konz & Mazurowski 2024, section 5 and appendix F ("until the model fully fits the training set").
    A stop on the running accuracy alone would leave a ResNet with statistics of batch normalization that lag.
    """
    x = models.network_input(x)
    y = models.network_labels(y, len(x))
    batch_size = models.default_batch_size(model) if batch_size is None else batch_size
    learning_rate = models.default_learning_rate(model) if learning_rate is None else learning_rate
    if until not in ("fit", "epochs"):
        raise BadTraining(f"until is {until!r}, so it is not known when to stop; give 'fit' or 'epochs'")
    if precision not in ("float32", "bfloat16"):
        raise BadTraining(f"precision is {precision!r}, which is not offered; give 'float32' or 'bfloat16'")
    if min(epochs, max_epochs) < 1 or min_steps < 0:
        raise BadTraining(
            f"epochs {epochs}, max_epochs {max_epochs} and min_steps {min_steps} leave nothing to train; "
            "give at least 1, 1 and 0"
        )
    if len(x) < 2 or batch_size < 2:
        raise BadTraining(
            f"{len(x)} images in batches of {batch_size}: batch normalization takes no batch of one image; "
            "give at least two of each"
        )
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    layout = models.memory_format(x.shape[-2:])
    model.to(device, memory_format=layout)
    x = x.to(device, models.placement(model)[1], memory_format=layout)
    y = y.to(device)
    optimizer = _adam(model, learning_rate, weight_decay)
    generator = torch.Generator().manual_seed(seed)
    history = {
        "running_accuracy": [],
        "running_loss_nats": [],
        "evaluated_epoch": [],
        "evaluated_accuracy": [],
    }
    epoch = steps = looks = 0
    reason = None
    started = time.perf_counter()
    with _reporter(progress, epochs if until == "epochs" else None) as report:
        while reason is None:
            batches = epoch_batches(torch.randperm(len(x), generator=generator), batch_size)
            dropout_seed = int(torch.randint(2**62, (), generator=generator))
            with _random_numbers(dropout_seed, device):
                running_loss, running_accuracy = _epoch(model, optimizer, x, y, batches=batches, precision=precision)
            epoch, steps = epoch + 1, steps + len(batches)
            history["running_accuracy"].append(running_accuracy)
            history["running_loss_nats"].append(running_loss)

            scores = None
            wanted = until == "fit" or epoch > epochs - LOOKS
            if wanted and running_accuracy > LOOK_ABOVE and math.isfinite(running_loss):
                scores = evaluate(model, x, y)
                history["evaluated_epoch"].append(epoch)
                history["evaluated_accuracy"].append(scores["accuracy"])
            looks = looks + 1 if scores and scores["accuracy"] >= FITTED_AT else 0

            if not math.isfinite(running_loss):
                reason = "non-finite loss"
            elif until == "epochs":
                reason = "epochs" if epoch == epochs else None
            elif looks >= LOOKS:
                reason = "fit"
            elif epoch >= max_epochs and steps >= min_steps:
                reason = "cap"
            report(epoch, steps, running_accuracy, running_loss)

    model.eval()
    scores = scores or evaluate(model, x, y)
    if not math.isfinite(scores["test_loss_nats"]):
        reason = "non-finite loss"
    return TrainingResult(
        fitted=looks >= LOOKS and reason != "non-finite loss",
        epochs=epoch,
        steps=steps,
        train_accuracy=scores["accuracy"],
        running_accuracy=running_accuracy,
        train_loss_nats=scores["test_loss_nats"],
        seconds=time.perf_counter() - started,
        reason=reason,
        history=history,
    )


@functools.cache
def native_precision() -> str:
    """ "bfloat16" where the hardware multiplies it natively, else "float32".

    A GPU of compute capability 8 or more, or a CPU with AVX512-BF16 or AMX; elsewhere bfloat16 is emulated
    and slow. ResNet-18 at 32 pixels on one such core: 0.19 to 0.24 s a step against 0.25 to 0.30 s.
    """
    if torch.cuda.is_available():
        native = torch.cuda.get_device_capability() >= (8, 0)
    else:
        checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        native = any(getattr(torch.cpu, name, bool)() for name in checks)
    return "bfloat16" if native else "float32"


def evaluate(model: nn.Module, x, y, batch_size: int = 256) -> dict[str, float]:
    """Scores of a network on images: evaluation mode, means over images (not over batches).

        test_loss_nats = mean_i  -log p_i[y_i]
        brier          = mean_i  1/2 * sum_c (p_i[c] - 1(c = y_i))^2      two classes: (p_i[1] - y_i)^2
        accuracy       = mean_i  1(argmax_c p_i[c] = y_i)

    x (n, C, H, W) floats in [0, 1] or uint8; y (n,) integers. p: softmax of the outputs, taken and summed in
    float64. An image whose outputs are not all finite has no prediction: it counts as wrong, and the loss and
    the Brier score are then NaN. The network's mode is restored. Raises models.BadInput.
    Source: Brier 1950, halved so that two classes give the usual score of a probability.
    """
    x = models.network_input(x)
    y = models.network_labels(y, len(x))
    device, dtype = models.placement(model)
    total = torch.zeros(3, dtype=torch.float64, device=device)
    with models.evaluating(model), torch.no_grad():
        for pixels, labels in zip(x.split(batch_size), y.split(batch_size), strict=True):
            logits = model(pixels.to(device, dtype, memory_format=models.memory_format(pixels.shape[-2:])))
            total += torch.stack(image_scores(logits, labels.to(device))).sum(1)
    loss, brier, accuracy = (total / len(x)).tolist()
    return {"test_loss_nats": loss, "brier": brier, "accuracy": accuracy}


def image_scores(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(loss in nats, Brier score, 1 where right) of each image, float64 (n,): the terms of `evaluate`.

    logits (n, classes), labels (n,). Raises models.BadInput where a label has no output.
    """
    check_outputs(logits, int(labels.max()))
    log_p = logits.to(torch.float64).log_softmax(1)
    loss = -log_p.gather(1, labels[:, None])[:, 0]
    brier = (log_p.exp() - functional.one_hot(labels, logits.shape[1])).square().sum(1) / 2
    right = (logits.argmax(1) == labels) & torch.isfinite(logits).all(1)
    return loss, brier, right.to(torch.float64)


def epoch_batches(order: torch.Tensor, batch_size: int) -> list[torch.Tensor]:
    """An order of images cut into batches; a last batch of one image joins the batch before."""
    batches = list(order.split(batch_size))
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def check_outputs(logits: torch.Tensor, largest: int) -> None:
    """Raise models.BadInput unless outputs are (n, classes) with one for each label up to `largest`."""
    if logits.ndim != 2 or logits.shape[1] <= largest:
        raise models.BadInput(
            f"a label is {largest} and the network's outputs have shape {tuple(logits.shape)}, so that class "
            "has no output; create the network with n_classes = number of classes"
        )


def _epoch(model, optimizer, x, y, *, batches, precision) -> tuple[float, float]:
    """One pass: (mean loss, accuracy) of the images, each as it stood before its step."""
    model.train()
    largest = int(y.max())
    total = torch.zeros(2, dtype=torch.float64, device=x.device)
    for batch in batches:
        batch = batch.to(x.device)  # noqa: PLW2901
        labels = y[batch]
        with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            logits = model(x[batch].contiguous(memory_format=models.memory_format(x.shape[-2:])))
        check_outputs(logits, largest)
        logits = logits.to(x.dtype)
        loss = functional.cross_entropy(logits, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        total[0] += loss.detach() * len(batch)
        total[1] += (logits.argmax(1) == labels).sum()
    loss, accuracy = (total / len(x)).tolist()
    return loss, accuracy


def _adam(model, learning_rate, weight_decay):
    parameters = [p for p in model.parameters() if p.requires_grad]
    settings = {"lr": learning_rate, "weight_decay": weight_decay}
    try:
        return torch.optim.Adam(parameters, fused=True, **settings)
    except RuntimeError:  # not offered for this device or type
        return torch.optim.Adam(parameters, **settings)


@contextmanager
def _random_numbers(seed: int, device: torch.device):
    """torch's generators start at `seed` inside the block and are as before after it."""
    gpu = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpu):
        torch.random.default_generator.manual_seed(seed)
        for one in gpu:
            with torch.cuda.device(one):
                torch.cuda.manual_seed(seed)
        yield


@contextmanager
def _reporter(progress, total):
    if progress is not True:
        yield progress or (lambda *_: None)
        return
    with tqdm(total=total, unit="epoch", desc="training") as bar:

        def report(epoch, steps, accuracy, loss):
            bar.set_postfix(steps=steps, accuracy=f"{accuracy:.3f}", loss=f"{loss:.4f}", refresh=False)
            bar.update(epoch - bar.n)

        yield report
