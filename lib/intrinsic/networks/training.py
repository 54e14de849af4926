"""Train a network until it fits its training set, and evaluate it."""

import copy
import ctypes
import functools
import json
import math
import os
import platform
import time
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from tqdm import tqdm

from intrinsic.networks import checkpoints, models

LOOK_ABOVE = 0.97  # running accuracy above which an epoch ends with a look at the whole training set
FITTED_AT = 0.99  # accuracy of that look, in evaluation mode ...
LOOKS = 2  # ... at so many successive epoch ends

PRECISIONS = ("float32", "bfloat16", "float16")
AUGMENTATIONS = ("none", "flip", "shift", "shift-flip")
SHIFT = 1 / 8  # of the side: the farthest that "shift" moves an image

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # of mallopt, in malloc.h

RUNS_ON_A_GPU = 4  # at most, see runs_at_once
CHANCE_NATS = 0.01  # below the loss of a constant output, from which an epoch is not at chance
CHANCE_STEPS, CHANCE_EPOCHS = 1500, 5  # the least of both that are at chance before a run ends
CONTEXT_BYTES = 600 * 2**20  # of a process on a GPU, beside its tensors


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
    seconds             of wall clock, those of a run before it was continued included
    history             lists with one entry an epoch, `running_accuracy` and `running_loss_nats`; and with
                        one entry a look at the whole training set, `evaluated_epoch` (from 1) and
                        `evaluated_accuracy`
    reason              why it ended: "fit", "epochs", "cap" or "chance" (did not fit), or "non-finite loss"
    physical_batch      images that a network was given at a time in a step: batch_size, or less where the
                        device's memory did not hold that many
    """

    fitted: bool
    epochs: int
    steps: int
    train_accuracy: float
    running_accuracy: float
    train_loss_nats: float
    seconds: float
    reason: str
    physical_batch: int
    history: dict[str, list] = field(repr=False)


def protocol(name: str, model: str, dataset: str = "") -> dict:
    """Arguments of `train` by the name of a protocol: all that it says of how long, how large and how fast.

    "paper"  Adam for 100 epochs, the paper's batch size, rate and decay; for the six networks of models.MODELS.
             The paper's images have `models.PAPER_SIZE` pixels a side and its products are float32
    "fit"    until the network fits, at least 1,500 steps before it is said not to; this book's batch sizes
    dataset  "paper" has a rate of its own for a VGG on the set "svhn"
    Raises BadTraining, models.UnknownModel.
    Source: Konz & Mazurowski 2024, section 5, and its code for what the text leaves open.
    """
    common = {"weight_decay": models.PAPER_WEIGHT_DECAY, "augment": "none", "class_weights": "none"}
    if name == "fit":
        return {
            "until": "fit",
            "max_epochs": 100,
            "min_steps": 1500,
            "batch_size": models.default_batch_size(model),
            "learning_rate": models.default_learning_rate(model),
            "warmup_steps": models.default_warmup_steps(model),
            **common,
        }
    if name != "paper":
        raise BadTraining(f"the protocol is {name!r}, so it is not known how to train; give 'paper' or 'fit'")
    if model not in models.PAPER_BATCH:
        raise BadTraining(
            f"the paper does not train '{model}', so it has no batch size for it; give protocol 'fit', or one of "
            f"{', '.join(models.MODELS)}"
        )
    return {
        "until": "epochs",
        "epochs": models.PAPER_EPOCHS,
        "batch_size": models.PAPER_BATCH[model],
        "learning_rate": models.paper_learning_rate(model, dataset),
        "warmup_steps": 0,
        **common,
    }


@contextmanager
def reused_memory():
    """Freed memory stays with the process inside the block, and goes back to the system at its end.

    Without it the C library of Linux maps and unmaps every large tensor of a step, and the system fills each page with
    zeros anew, which costs a VGG dearly. No number changes. It is for the main thread: others have heaps of
    their own, which large tensors do not fit into. Without the C library of GNU the block does nothing.
    """
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    library = ctypes.CDLL(None)
    library.mallopt(M_MMAP_MAX, 0)
    library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:  # where the library's own adjustment ends in a process with large arrays; a setting has turned it off
        library.mallopt(M_MMAP_MAX, 65_536)
        library.mallopt(M_MMAP_THRESHOLD, 2**25)
        library.mallopt(M_TRIM_THRESHOLD, 2**26)
        library.malloc_trim(0)


@reused_memory()  # around the whole: what a run held is free when the block ends
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
    warmup_steps: int | None = None,
    weight_decay: float = 1e-4,
    seed: int = 0,
    precision: str = "float32",
    augment: str = "none",
    class_weights="none",
    checkpoint: Path | str | None = None,
    checkpoint_minutes: float = 2,
    keep_checkpoint: bool = False,
    device=None,
    progress: Callable | bool | None = None,
) -> TrainingResult:
    """Minimize the mean cross-entropy with Adam, in place, until the network fits or for a number of epochs.

    until="fit": stop once the accuracy over the whole training set in evaluation mode is at least 0.99 at two
    successive epoch ends. An epoch end is looked at where the running accuracy of its epoch is above 0.97;
    one that is not looked at breaks the succession. The cap: `max_epochs` epochs and `min_steps` steps, both, and no
    earlier than the end of the warm-up. Between that and the cap a run ends whose last 1,500 steps and 5 epochs were at
    chance: the running loss of an epoch is not 0.01 nats below `chance_loss`, that of the best constant output. Runs
    whose classes have weights are never said to be at chance.
    until="epochs": exactly `epochs`; `fitted` says whether the same rule holds at the last two epoch ends.
    A loss that is not finite ends the run at that epoch's end; it is a reason, not an exception.
    Where the device has not enough memory for a step, the run starts over with batches in halves, quarters, ... whose
    gradients are summed: the same logical batch, but that batch normalization sees the parts. `physical_batch` says so.

    x               (n, C, H, W) floats in [0, 1] or uint8, array or tensor; all of it is put on the device
    y               (n,) integers from 0
    batch_size      None: `models.default_batch_size`. No image is dropped: a last batch of one image, which
                    batch normalization cannot take, joins the batch before
    learning_rate   None: the paper's, `models.default_learning_rate`
    warmup_steps    W: the rate of step s = 1, 2, ... is learning_rate min(1, s / W). None:
                    `models.default_warmup_steps`
    weight_decay    L2: added to the gradient, as torch.optim.Adam does and the paper's code did
    seed            of the order of images, of dropout and of `augment`, from a generator of its own: the caller's
                    random numbers are not disturbed. On one CPU model the same seed and number of threads give the
                    same weights bit for bit; elsewhere sums are in another order, and runs of one seed differ as
                    runs of two seeds do
    precision       "float32" (on a GPU torch's own setting: convolutions in TF32); or products of the training
                    steps in "bfloat16", or in "float16" with a scaled loss, on a GPU only. Weights, loss and every
                    evaluation are float32
    augment         one of AUGMENTATIONS, see `augmented`: of the images of each step, never of a look
    class_weights   of the loss of an image by its class: "none"; "balanced", n / (classes x images of the class); or
                    one number a class. A step's loss is divided by the sum of its images' weights. Scores never
                    have weights; `running_loss_nats` has them
    checkpoint      a file: written every `checkpoint_minutes` (0: after every step), deleted at the end. A run that
                    finds it goes on from there, and ends with the numbers of a run that was never stopped. One that is
                    damaged, or of other settings, images or first weights, is told in a warning and started over
    keep_checkpoint the file stays, with the trained network: the next call returns the same result without training.
                    For a caller with more to do before its own result is stored; `checkpoints.discard` then
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
    warmup_steps = models.default_warmup_steps(model) if warmup_steps is None else warmup_steps
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if until not in ("fit", "epochs"):
        raise BadTraining(f"until is {until!r}, so it is not known when to stop; give 'fit' or 'epochs'")
    if precision not in PRECISIONS:
        raise BadTraining(f"precision is {precision!r}, which is not offered; give one of {', '.join(PRECISIONS)}")
    if precision == "float16" and device.type != "cuda":
        raise BadTraining(
            f"precision is 'float16' on the device '{device.type}', where its products are slow and its gradients "
            "vanish; give 'float32' or 'bfloat16', or a CUDA device"
        )
    if augment not in AUGMENTATIONS:
        raise BadTraining(f"augment is {augment!r}, which is not offered; give one of {', '.join(AUGMENTATIONS)}")
    if min(epochs, max_epochs) < 1 or min_steps < 0:
        raise BadTraining(
            f"epochs {epochs}, max_epochs {max_epochs} and min_steps {min_steps} leave nothing to train; "
            "give at least 1, 1 and 0"
        )
    if warmup_steps < 0:
        raise BadTraining(f"warmup_steps is {warmup_steps}, and steps are counted from 0; give 0 or more")
    if len(x) < 2 or batch_size < 2:
        raise BadTraining(
            f"{len(x)} images in batches of {batch_size}: batch normalization takes no batch of one image; "
            "give at least two of each"
        )
    steps = epochs * len(epoch_batches(torch.arange(len(x)), batch_size))
    if until == "epochs" and steps < warmup_steps:
        warnings.warn(
            f"{epochs} epochs are {steps} steps, and the learning rate is whole from step {warmup_steps} on, so this "
            "run ends before: give more epochs or fewer warmup_steps",
            stacklevel=3,
        )
    weights = _class_weights(class_weights, y)
    at_chance = chance_loss(y) - CHANCE_NATS if weights is None else math.inf
    file = None
    if checkpoint is not None:
        settings = {
            "until": [until, epochs] if until == "epochs" else [until, max_epochs, min_steps],
            "batch_size": batch_size,
            "learning_rate": learning_rate,
            **({"warmup_steps": warmup_steps} if warmup_steps else {}),  # as in a record
            "weight_decay": weight_decay,
            "seed": seed,
            "precision": precision,
            "augment": augment,
            "class_weights": None if weights is None else weights.tolist(),
            "images": checkpoints.content_hash({"x": x, "y": y}),
            "first_weights": checkpoints.content_hash(model.state_dict()),
        }
        file = _Checkpoint(Path(checkpoint), checkpoint_minutes, settings)

    layout = models.memory_format(x.shape[-2:])
    model.to(device, memory_format=layout)
    x = x.to(device, models.placement(model)[1], memory_format=layout)
    y = y.to(device)
    first = None
    if _may_lack_memory(device):
        first = {name: value.to("cpu", copy=True) for name, value in model.state_dict().items()}
    run, step, generator = _begin(model, learning_rate, weight_decay, precision, augment, weights, seed)
    found = file.read() if file else None
    if found:
        run.restore(*found, step, generator)
    began, before = time.perf_counter(), run.seconds
    scores = None
    with _reporter(progress, epochs if until == "epochs" else None) as report:
        while run.reason is None:
            if run.order is None:
                run.order = torch.randperm(len(x), generator=generator)
                run.random = {"seed": int(torch.randint(2**62, (), generator=generator))}
            batches = epoch_batches(run.order, batch_size)
            with _random_numbers(run.random, device):
                model.train()
                largest = int(y.max())
                while run.position < len(batches):
                    batch = batches[run.position].to(device)
                    step.optimizer.set_rate(warmed_up(learning_rate, run.steps + run.position + 1, warmup_steps))
                    try:
                        run.total += step(x[batch], y[batch], largest, run.parts)
                    except torch.OutOfMemoryError:
                        if first is None or len(batch) < 4 * run.parts:
                            raise
                        break
                    run.position += 1
                    if file and file.due():
                        run.seconds = before + time.perf_counter() - began
                        run.random = _random_states(device)
                        file.write(*run.held(step, generator))
            if run.position < len(batches):  # there was not enough memory
                parts = 2 * run.parts
                _forget(step.optimizer)
                model.load_state_dict(first)
                run, step, generator = _begin(model, learning_rate, weight_decay, precision, augment, weights, seed)
                run.parts = parts
                _free_memory(device)
                continue
            losses, (running_loss, running_accuracy) = run.history["running_loss_nats"], (run.total / len(x)).tolist()
            run.epoch, run.steps = run.epoch + 1, run.steps + len(batches)
            run.order, run.position, run.total = None, 0, torch.zeros_like(run.total)
            run.history["running_accuracy"].append(running_accuracy)
            losses.append(running_loss)

            scores = None
            wanted = until == "fit" or run.epoch > epochs - LOOKS
            if wanted and running_accuracy > LOOK_ABOVE and math.isfinite(running_loss):
                scores = evaluate(model, x, y)
                run.history["evaluated_epoch"].append(run.epoch)
                run.history["evaluated_accuracy"].append(scores["accuracy"])
            run.looks = run.looks + 1 if scores and scores["accuracy"] >= FITTED_AT else 0

            if not math.isfinite(running_loss):
                run.reason = "non-finite loss"
            elif until == "epochs":
                run.reason = "epochs" if run.epoch == epochs else None
            elif run.looks >= LOOKS:
                run.reason = "fit"
            elif run.steps < max(min_steps, warmup_steps):
                pass  # whatever is said of a run, it is said of one whose rate has been whole
            elif run.epoch >= max_epochs:
                run.reason = "cap"
            elif run.epoch >= (recent := max(CHANCE_EPOCHS, -(-CHANCE_STEPS // len(batches)))):
                run.reason = "chance" if min(losses[-recent:]) > at_chance else None
            report(run.epoch, run.steps, running_accuracy, running_loss)

    model.eval()
    run.seconds = before + time.perf_counter() - began
    if file and keep_checkpoint and not (found and found[1]["reason"]):
        file.write(*run.held(step, generator))
    elif file and not keep_checkpoint:
        checkpoints.discard(file.path)
    _forget(step.optimizer)
    scores = scores or evaluate(model, x, y)
    if not math.isfinite(scores["test_loss_nats"]):
        run.reason = "non-finite loss"
    return TrainingResult(
        fitted=run.looks >= LOOKS and run.reason != "non-finite loss",
        epochs=run.epoch,
        steps=run.steps,
        train_accuracy=scores["accuracy"],
        running_accuracy=run.history["running_accuracy"][-1],
        train_loss_nats=scores["test_loss_nats"],
        seconds=run.seconds,
        reason=run.reason,
        physical_batch=-(-min(batch_size, len(x)) // run.parts),
        history=run.history,
    )


def _begin(model, learning_rate, weight_decay, precision, augment, weights, seed):
    """(standing, step, generator of the order of images) before the first step."""
    step = _Step(model, _adam(model, learning_rate, weight_decay), precision, augment, weights)
    run = _Standing(total=torch.zeros(2, dtype=torch.float64, device=step.device))
    return run, step, torch.Generator().manual_seed(seed)


def _forget(optimizer: "_Adam") -> None:
    """An optimizer refers to itself, so it would hold the network and twice its size until the next collection."""
    optimizer.zero_grad(set_to_none=True)
    optimizer.state.clear()
    optimizer.param_groups.clear()
    optimizer.weights.clear()


def _may_lack_memory(device: torch.device) -> bool:
    """Whether a step may find the device's memory full, and the process can go on."""
    return device.type == "cuda"


def _free_memory(device: torch.device) -> None:
    """What torch keeps of the memory of a GPU, for its next tensors, goes back to the device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


@functools.cache
def native_precision() -> str:
    """ "bfloat16" where the hardware multiplies it natively, else "float16" where that is so, else "float32".

    bfloat16: a GPU of compute capability 8 or more, or a CPU with AVX512-BF16 or AMX; elsewhere it is emulated
    and slow. float16: a GPU of compute capability 7. ResNet-18 at 32 pixels on one such core: 0.19 to 0.24 s a step
    in bfloat16 against 0.25 to 0.30 s.
    """
    if torch.cuda.is_available():
        capability = torch.cuda.get_device_capability()
        if (7, 0) <= capability < (8, 0):
            return "float16"
        native = capability >= (8, 0)
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
    the Brier score are then NaN. The network's mode is restored. batch_size is halved as often as the device's memory
    asks for. Raises models.BadInput.
    Source: Brier 1950, halved so that two classes give the usual score of a probability.
    """
    x = models.network_input(x)
    y = models.network_labels(y, len(x))
    device, dtype = models.placement(model)
    total, done = torch.zeros(3, dtype=torch.float64, device=device), 0
    with models.evaluating(model), torch.no_grad():
        while done < len(x):
            pixels, labels = x[done : done + batch_size], y[done : done + batch_size]
            try:
                logits = model(pixels.to(device, dtype, memory_format=models.memory_format(pixels.shape[-2:])))
            except torch.OutOfMemoryError:
                if batch_size == 1:
                    raise
                batch_size //= 2
                _free_memory(device)
                continue
            total += torch.stack(image_scores(logits, labels.to(device))).sum(1)
            done += len(pixels)
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


def held_out_scores(model: nn.Module, x, y) -> tuple[dict, dict]:
    """(metrics, reasons) of a network on a test set: what a record holds, whatever happened.

    metrics   test_loss_nats, test_brier, test_accuracy as `evaluate` gives them, and n_test; null, with a reason, are
              all three where the test set holds one class, whose scores are those of that class alone and compare
              with no other set's, and the first two where some outputs are not finite
    """
    scores = evaluate(model, x, y)
    metrics = {"test_loss_nats": scores["test_loss_nats"], "test_brier": scores["brier"], "n_test": len(x)}
    metrics["test_accuracy"] = scores["accuracy"]
    classes = np.unique(models.network_labels(y, len(x)).numpy())
    reasons = {}
    if len(classes) == 1:
        why = f"all {len(x)} test images are of class {classes[0]}, so the score is of one class alone"
        reasons = dict.fromkeys(("test_loss_nats", "test_brier", "test_accuracy"), why)
    elif not math.isfinite(scores["test_loss_nats"]):
        why = "some outputs of the network are not finite, so these images have no prediction"
        reasons = dict.fromkeys(("test_loss_nats", "test_brier"), why)
    return metrics | dict.fromkeys(reasons), reasons


def augmented(x: torch.Tensor, how: str) -> torch.Tensor:
    """Images (n, C, H, W), each changed at random: a batch of a training step.

        flip        mirrored left to right, with probability 1/2
        shift       moved by whole pixels, up and down and to the sides, uniform up to 1/8 of each side; what would
                    come from outside is mirrored at the edge
        shift-flip  both
        none        as they are, without a random number

    By torch's CPU generator, whatever the device.
    """
    if how == "none":
        return x
    n, height, width = len(x), *x.shape[-2:]
    rows, columns = torch.arange(height).expand(n, -1), torch.arange(width).expand(n, -1)
    if "shift" in how:
        rows = _moved(rows, height)
        columns = _moved(columns, width)
    if "flip" in how:
        columns = torch.where(torch.rand(n, 1) < 0.5, columns.flip(1), columns)
    rows, columns = rows.to(x.device), columns.to(x.device)
    images = torch.arange(n, device=x.device)
    return x[images[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _moved(index: torch.Tensor, side: int) -> torch.Tensor:
    """Places 0 .. side - 1 of each image, moved at random and mirrored at both ends without repeating the edge."""
    far = int(SHIFT * side)
    moved = (index + torch.randint(-far, far + 1, (len(index), 1))).abs()
    return torch.minimum(moved, 2 * (side - 1) - moved)


def runs_at_once(model: nn.Module, x, *, batch_size: int | None = None, precision="float32", device=None) -> int:
    """How many runs like this to keep on one device at once, as processes of their own.

    On a CPU 1: there the processes are as many as cores. On a GPU as many as fit into nine tenths of the memory that
    is free now, each with its images, its context (600 MiB) and the peak of a training step and of a look, measured
    on copies of the first images; but no more than there are cores, nor than 4: networks of this size and batch leave
    a GPU waiting between kernels, and beyond a few processes it no longer waits.
    x   (n, C, H, W), the training images of one run
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type != "cuda":
        return 1
    x = models.network_input(x)
    few = x[torch.arange(max(256, 2 * (batch_size or models.default_batch_size(model)))) % len(x)]
    free, _ = torch.cuda.mem_get_info(device)
    torch.cuda.reset_peak_memory_stats(device)
    held = torch.cuda.memory_reserved(device)
    probe = copy.deepcopy(model)
    settings = {"until": "epochs", "epochs": 1, "batch_size": batch_size, "precision": precision, "device": device}
    try:
        train(probe, few, torch.arange(len(few)) % 2, **settings)
        evaluate(probe, few, torch.arange(len(few)) % 2)
    except torch.cuda.OutOfMemoryError:
        return 1
    one = torch.cuda.max_memory_reserved(device) - held + x[0].numel() * 4 * max(len(x) - len(few), 0)
    del probe
    torch.cuda.empty_cache()
    return max(1, min(int(0.9 * free / (one + CONTEXT_BYTES)), RUNS_ON_A_GPU, os.cpu_count() or 1))


def warmed_up(learning_rate: float, step: int, warmup_steps: int) -> float:
    """The rate of a step, counted from 1: it rises in equal parts to the whole one at step `warmup_steps`.

    Source: Goyal et al. 2017, section 2.2; Ma & Yarats 2021, for Adam.
    """
    return learning_rate * min(1.0, step / warmup_steps) if warmup_steps else learning_rate


def chance_loss(y: torch.Tensor) -> float:
    """- sum over classes of q log q, nats: the least mean cross-entropy of outputs that are equal for all images.

    y (n,) integers, of which class c has the share q
    """
    counts = torch.bincount(y.cpu()).double()
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * shares.log()).sum())


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


@dataclass
class _Step:
    """One step of the optimizer: called on images and labels of a batch, (loss x images, images right) before it."""

    model: nn.Module
    optimizer: "_Adam"
    precision: str
    augment: str
    weights: torch.Tensor | None  # of the classes

    def __post_init__(self):
        self.device = models.placement(self.model)[0]
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "float16")
        self.weights = None if self.weights is None else self.weights.to(self.device)

    def __call__(self, pixels, labels, largest, parts=1) -> torch.Tensor:
        """parts: into which the batch is cut, whose gradients are summed."""
        pixels = augmented(pixels, self.augment)
        whole = len(labels) if self.weights is None else self.weights[labels].sum()
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros(2, dtype=torch.float64, device=pixels.device)
        for places in epoch_batches(torch.arange(len(labels)), -(-len(labels) // parts)):
            part = slice(int(places[0]), int(places[-1]) + 1)
            total += self._gradient(pixels[part], labels[part], largest, whole, len(labels))
        self.optimizer.gather()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return total

    def _gradient(self, pixels, labels, largest, whole, images) -> torch.Tensor:
        """Adds the gradient of this part's share in the loss of a batch of so many images.

        whole   the sum of their weights, or their number
        """
        dtype = torch.float16 if self.precision == "float16" else torch.bfloat16
        with torch.autocast(self.device.type, dtype, enabled=self.precision != "float32"):
            logits = self.model(pixels.contiguous(memory_format=models.memory_format(pixels.shape[-2:])))
        check_outputs(logits, largest)
        logits = logits.to(pixels.dtype)
        if self.weights is None:
            loss = functional.cross_entropy(logits, labels) * (len(labels) / whole)
        else:
            weights = self.weights[labels]
            loss = (functional.cross_entropy(logits, labels, reduction="none") * weights).sum() / whole
        self.scaler.scale(loss).backward()
        right = (logits.argmax(1) == labels).sum()
        return torch.stack([loss.detach() * images, right]).to(torch.float64)


@dataclass
class _Standing:
    """Where a run stands between two steps: what its checkpoint holds beside the network and the optimizer.

    position   batches of the current epoch that are done
    order      of the images in the current epoch; None between two epochs
    total      sums over the current epoch, float64: loss x images, images right
    parts      into which each batch is cut for want of memory
    random     {"seed": s} at the beginning of an epoch, states of torch's generators within it
    """

    total: torch.Tensor
    epoch: int = 0
    steps: int = 0
    looks: int = 0
    position: int = 0
    parts: int = 1
    seconds: float = 0.0
    reason: str | None = None
    order: torch.Tensor | None = None
    random: dict = field(default_factory=dict)
    history: dict[str, list] = field(
        default_factory=lambda: {
            "running_accuracy": [],
            "running_loss_nats": [],
            "evaluated_epoch": [],
            "evaluated_accuracy": [],
        }
    )

    COUNTS = ("epoch", "steps", "looks", "position", "parts", "seconds", "reason", "history")

    def held(self, step: _Step, generator: torch.Generator) -> tuple[dict, dict]:
        """(tensors, facts) of a checkpoint."""
        tensors = {f"model.{name}": value for name, value in step.model.state_dict().items()}
        parameters = step.optimizer.param_groups[0]["params"]
        for i, (parameter, weight) in enumerate(zip(parameters, step.optimizer.weights, strict=True)):
            for key, value in step.optimizer.state.get(parameter, {}).items():
                moved = value.ndim and parameter.stride() != weight.stride()
                tensors[f"optimizer.{i}.{key}"] = value.permute(0, 3, 1, 2) if moved else value
        tensors |= {"total": self.total, "generator": generator.get_state()}
        if self.order is not None:
            tensors |= {"order": self.order} | {f"random.{key}": value for key, value in self.random.items()}
        return tensors, {name: getattr(self, name) for name in self.COUNTS} | {"scaler": step.scaler.state_dict()}

    def restore(self, tensors: dict, facts: dict, step: _Step, generator: torch.Generator) -> None:
        """The run stands where the checkpoint was written."""
        parts = {}
        for name, value in tensors.items():
            part, _, rest = name.partition(".")
            parts.setdefault(part, {})[rest] = value
        step.model.load_state_dict(parts["model"])
        parameters = step.optimizer.param_groups[0]["params"]
        for name, value in parts.get("optimizer", {}).items():
            i, _, key = name.partition(".")
            parameter = parameters[int(i)]
            if key == "step":
                held = value.to(parameter.device if step.optimizer.param_groups[0]["fused"] else "cpu")
            else:  # in the layout of its weight, as a fused step reads both in the order of memory
                weight = step.optimizer.weights[int(i)]
                held = torch.empty_like(weight).copy_(value)
                held = held if parameter is weight else _in_order(held)
            step.optimizer.state[parameter][key] = held
        step.scaler.load_state_dict(facts["scaler"])
        generator.set_state(parts["generator"][""])
        self.total.copy_(parts["total"][""])
        self.order = parts["order"][""] if "order" in parts else None
        self.random = parts.get("random", {})
        for name in self.COUNTS:
            setattr(self, name, copy.deepcopy(facts.get(name, getattr(self, name))))


class _Checkpoint:
    """The file that a run continues from."""

    def __init__(self, path: Path, minutes: float, settings: dict):
        self.path, self.minutes, self.settings = path, minutes, json.loads(json.dumps(settings))
        self.written = time.monotonic()

    def due(self) -> bool:
        return time.monotonic() - self.written >= 60 * self.minutes

    def write(self, tensors: dict, facts: dict) -> None:
        """A disk that is full does not end the run."""
        try:
            checkpoints.save(self.path, tensors, {"settings": self.settings, "run": facts})
        except OSError as error:
            warnings.warn(
                f"the checkpoint {self.path} cannot be written ({error}), so a run that is killed would start over; "
                "make room on its disk",
                stacklevel=3,
            )
        self.written = time.monotonic()

    def read(self) -> tuple[dict, dict] | None:
        """(tensors, facts) where the file is there, whole and of these settings."""
        try:
            tensors, facts = checkpoints.load(self.path)
            theirs = facts["settings"] if isinstance(facts, dict) and "settings" in facts else {}
        except FileNotFoundError:
            return None
        except checkpoints.DamagedFile as error:
            warnings.warn(f"a run cannot be continued, so it starts over: {error}", stacklevel=3)
            return None
        odd = [key for key in self.settings | theirs if self.settings.get(key) != theirs.get(key)]
        if odd:
            warnings.warn(
                f"the checkpoint {self.path} is of a run that differs in {', '.join(odd)}, so it cannot be continued; "
                "the run starts over and replaces it",
                stacklevel=3,
            )
            return None
        return tensors, facts["run"]


def _class_weights(given, y) -> torch.Tensor | None:
    """Weights by class, float32, or None."""
    n_classes = int(y.max()) + 1
    if given is None or given == "none":
        return None
    if given == "balanced":
        counts = torch.bincount(y, minlength=n_classes)
        return len(y) / (n_classes * counts.clamp(min=1)).to(torch.float32)
    weights = None if isinstance(given, str) else np.asarray(given, dtype=np.float64)
    if weights is None or weights.shape[:1] < (n_classes,) or weights.ndim != 1:
        raise BadTraining(
            f"class_weights is {given!r}, which gives no weight to each of {n_classes} classes; give 'none', "
            "'balanced' or a list of one number a class"
        )
    if not (np.isfinite(weights).all() and (weights > 0).all()):
        raise BadTraining(f"class_weights is {given!r}, and a loss needs finite weights above 0; give such numbers")
    return torch.from_numpy(weights.astype(np.float32))


class _Adam(torch.optim.Adam):
    """torch's, fused where it can be; on a CPU it steps through views of the weights in the order of their memory.

    torch's fused step on a CPU copies what is laid out channels-last at every step, which takes as long as the step.
    """

    def __init__(self, weights, **settings):
        self.weights = weights
        views = [_in_order(weight.detach()) if weight.device.type == "cpu" else weight for weight in weights]
        try:
            super().__init__(views, fused=True, **settings)
        except RuntimeError:  # not offered for this device or type
            super().__init__(views, **settings)

    def set_rate(self, learning_rate: float) -> None:
        """Of the steps from now on."""
        for group in self.param_groups:
            group["lr"] = learning_rate

    def gather(self) -> None:
        """The views take the weights' gradients: to be called before a step."""
        for view, weight in zip(self.param_groups[0]["params"], self.weights, strict=True):
            if view is weight or weight.grad is None:
                continue
            gradient = weight.grad
            if gradient.stride() != weight.stride():
                gradient = torch.empty_like(weight).copy_(gradient)
            view.grad = _in_order(gradient)

    def zero_grad(self, set_to_none=True) -> None:
        super().zero_grad(set_to_none)
        for weight in self.weights:
            weight.grad = None


def _in_order(weight: torch.Tensor) -> torch.Tensor:
    """A view whose shape follows the memory: (K, H, W, C) of what is laid out channels-last."""
    if weight.is_contiguous() or not weight.is_contiguous(memory_format=torch.channels_last):
        return weight
    return weight.permute(0, 2, 3, 1)


def _adam(model, learning_rate, weight_decay):
    parameters = [p for p in model.parameters() if p.requires_grad]
    return _Adam(parameters, lr=learning_rate, weight_decay=weight_decay)


def _random_states(device: torch.device) -> dict[str, torch.Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


@contextmanager
def _random_numbers(start: dict, device: torch.device):
    """torch's generators start at a seed or at states inside the block, and are as before after it."""
    gpu = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpu):
        if "seed" in start:
            torch.random.default_generator.manual_seed(start["seed"])
            for one in gpu:
                with torch.cuda.device(one):
                    torch.cuda.manual_seed(start["seed"])
        else:
            torch.set_rng_state(start["cpu"])
            for one in gpu:
                torch.cuda.set_rng_state(start["cuda"], one)
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
