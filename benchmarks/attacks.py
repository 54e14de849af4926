"""Attacks: ours against torchattacks', same trained network, same images, same machine, one process.

ResNet-18 at 64 pixels, trained briefly on an embedded image set. FGSM at four budgets, PGD, and the distance to the
nearest adversarial image; seconds, and what was found. FGSM is called in turns, of which seconds are
medians; the others once.

usage: python benchmarks/attacks.py [--turns N] [--output FOLDER]
"""

import argparse
import json
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import torchattacks
from torch.nn import functional

from intrinsic import images
from intrinsic.campaigns.records import write_text
from intrinsic.images import as_unit, match, split
from intrinsic.networks import attacks, models, training

SET, SIZE, N_TRAIN, EPOCHS = "digits_4_9", 64, 400, 9
N_FGSM, N_PGD, N_RADIUS = 100, 24, 6
BUDGETS = [1 / 255, 2 / 255, 4 / 255, 8 / 255]
PGD_EPS, PGD_STEPS = 8 / 255, 20
GRADIENTS = 100


def network():
    """(network, test images, their labels), and its scores."""
    data = match(images.load(SET), size=SIZE, channels=1)
    parts = split(data, N_TRAIN, seed=0)
    x, y = torch.as_tensor(as_unit(data)), torch.tensor(data.labels)
    model = models.create("resnet18", channels=1, n_classes=2, seed=0)
    training.train(model, x[parts.train], y[parts.train], until="epochs", epochs=EPOCHS, seed=0, device="cpu")
    x, y = x[parts.test][:N_FGSM], y[parts.test][:N_FGSM]
    scores = training.evaluate(model, x, y)
    return model, x, y, {"test_accuracy": scores["accuracy"], "test_loss_nats": scores["test_loss_nats"]}


def timed(methods, turns):
    """{name: (median seconds, last result)} of calls in turn."""
    seconds, results = {name: [] for name in methods}, {}
    for _ in range(turns):
        for name, method in methods.items():
            started = time.perf_counter()
            results[name] = method()
            seconds[name].append(time.perf_counter() - started)
    return {name: (float(np.median(seconds[name])), results[name]) for name in methods}


def losses(model, x, y):
    """Cross-entropy of each image in float64, as training.evaluate has it."""
    with models.evaluating(model), torch.no_grad():
        return torch.cat([training.image_scores(model(a), b)[0] for a, b in zip(x.split(64), y.split(64), strict=True)])


def clear_pixels(model, x, y):
    """Where a float32 cross-entropy has a gradient to rely on: not a sure image, not a pixel of nearly none."""
    pixels = x.clone().requires_grad_(True)
    logits = model(pixels)
    (gradient,) = torch.autograd.grad(functional.cross_entropy(logits, y, reduction="sum"), pixels)
    unsure = 1 - logits.double().softmax(1)[torch.arange(len(y)), y] > 1e-3
    size = gradient.flatten(1).abs().amax(1).view(-1, 1, 1, 1)
    return unsure.view(-1, 1, 1, 1) & (gradient.abs() > 1e-2 * size)


def fgsm(model, x, y, turns):
    """One gradient against four; identical where float32 has a gradient."""
    found = timed(
        {
            "ours": lambda: attacks.fgsm(model, x, y, BUDGETS),
            "torchattacks FGSM": lambda: [torchattacks.FGSM(model, eps=eps)(x, y) for eps in BUDGETS],
        },
        turns,
    )
    clear = clear_pixels(model, x, y)
    ours, theirs = found["ours"][1], found["torchattacks FGSM"][1]
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a[clear], b[clear]), "FGSM differs from torchattacks' where both have a gradient"
    facts = {
        "share_of_pixels_compared": float(clear.double().mean()),
        "share_of_pixels_equal": float((ours[1] == theirs[1]).double().mean()),
    }
    for name, (seconds, adversarial) in found.items():
        yield {
            "attack": "FGSM, 4 budgets",
            "method": name,
            "images": len(x),
            "seconds": seconds,
            "times_ours": seconds / found["ours"][0],
            "mean_loss_nats_at_2": float(losses(model, adversarial[1], y).mean()),
            **facts,
        }


def pgd(model, x, y, turns):
    """The same number and length of steps from the images themselves."""
    step = 2.5 * PGD_EPS / PGD_STEPS
    theirs = torchattacks.PGD(model, eps=PGD_EPS, alpha=step, steps=PGD_STEPS, random_start=False)
    found = timed(
        {
            "ours": lambda: attacks.pgd(model, x, y, PGD_EPS, steps=PGD_STEPS),
            "ours, stopping": lambda: attacks.pgd(model, x, y, PGD_EPS, steps=PGD_STEPS, stop=True),
            "torchattacks PGD": lambda: theirs(x, y),
        },
        turns,
    )
    for name, (seconds, adversarial) in found.items():
        loss = losses(model, adversarial, y)
        yield {
            "attack": f"PGD, {PGD_STEPS} steps",
            "method": name,
            "images": len(x),
            "seconds": seconds,
            "times_ours": seconds / found["ours"][0],
            "mean_loss_nats": float(loss.mean()),
            "accuracy": float((loss < np.log(2)).double().mean()),
        }


def radius(model, x, y, norm):
    """Distances to the nearest adversarial image found, of images that are right without an attack."""
    name = {"l2": "L2", "linf": "Linf"}[norm]
    methods = {
        "ours": lambda: attacks.minimal_radius(model, x, y, norm=norm, gradients=GRADIENTS),
        "torchattacks FAB": lambda: distance(model, x, y, torchattacks.FAB(model, name, 1e9, steps=GRADIENTS), norm),
        "bisected PGD": lambda: attacks.radius_by_bisection(model, x, y, norm=norm, rounds=8, steps=10),
    }
    if norm == "l2":
        methods["torchattacks DeepFool"] = lambda: distance(model, x, y, torchattacks.DeepFool(model), norm)
    found = timed(methods, 1)
    least = torch.stack([r for _, r in found.values()]).amin(0)
    for method, (seconds, found_radius) in found.items():
        yield {
            "attack": f"radius, {name}",
            "method": method,
            "images": len(x),
            "seconds": seconds,
            "times_ours": seconds / found["ours"][0],
            "found": float(torch.isfinite(found_radius).double().mean()),
            "median_radius": median(found_radius),
            "median_over_least": median(found_radius / least),
        }


def median(v):
    """The lower median; None where it is infinite, since JSON has no such number: half are not found."""
    middle = float(v.median())
    return middle if np.isfinite(middle) else None


def distance(model, x, y, attack, norm):
    """How far torchattacks' images are; infinity where they are not adversarial."""
    found = attack(x, y).detach()
    away = (found.double() - x.double()).flatten(1)
    with torch.no_grad():
        fooled = model(found).argmax(1) != y
    return torch.where(fooled, away.norm(dim=1) if norm == "l2" else away.abs().amax(1), torch.inf)


def main():
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=3, help="calls of each FGSM (3); PGD is called once")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    model, x, y, scores = network()
    model.eval()
    print(f"resnet18, {SIZE} pixels, {SET}: test accuracy {scores['test_accuracy']:.3f}", flush=True)
    with torch.no_grad():
        right = (model(x).argmax(1) == y).nonzero()[:N_RADIUS, 0]
    rows = []
    for part in (
        fgsm(model, x, y, arguments.turns),
        pgd(model, x[:N_PGD], y[:N_PGD], 1),
        radius(model, x[right], y[right], "l2"),
        radius(model, x[right], y[right], "linf"),
    ):
        for row in part:
            rows.append(row)
            numbers = [f"{key} {'-' if value is None else f'{value:.4g}'}" for key, value in list(row.items())[5:]]
            print(
                f"{row['attack']:<18} {row['method']:<22} {row['seconds']:7.2f} s  x{row['times_ours']:5.2f}  "
                + ", ".join(numbers),
                flush=True,
            )
    found = {
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "python": platform.python_version(),
            "versions": {library: version(library) for library in ("torch", "torchvision", "torchattacks")},
        },
        "network": {"model": "resnet18", "images": SET, "size": SIZE, "n_train": N_TRAIN, "epochs": EPOCHS, **scores},
        "rows": rows,
    }
    arguments.output.mkdir(parents=True, exist_ok=True)
    target = arguments.output / "attacks.json"
    write_text(target, json.dumps(found, indent=1, allow_nan=False) + "\n")
    print(f"written: {target}")


if __name__ == "__main__":
    main()
