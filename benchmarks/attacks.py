"""Attacks: ours against torchattacks', same trained network, same images, one process.

FGSM at four budgets, PGD, and the distance to the nearest adversarial image in L2: seconds, and what was found.
Prints a table and writes it to benchmarks/results/attacks.json.

usage: python benchmarks/attacks.py [--small] [--turns N] [--output FOLDER]
"""

import torch
import torchattacks
from measuring import in_turn, said, settings, spread, write

from intrinsic import images
from intrinsic.networks import attacks, models, training

SET, N_TRAIN, EPOCHS = "digits_4_9", 400, 9
BUDGETS = [1 / 255, 2 / 255, 4 / 255, 8 / 255]
PGD_EPS, GRADIENTS = 8 / 255, 100


def trained(size, n_train, epochs):
    """(network, images that it has right, their labels) after a short training."""
    data = images.load(SET, size=size, channels=1)
    parts = images.split(data, n_train, seed=0)
    network = models.create("resnet18")
    how = {"until": "epochs", "epochs": epochs, "precision": "float32", "device": "cpu"}
    training.train(network, data[parts.train].images, data[parts.train].labels, **how)
    x, y = images.as_unit(data[parts.test]), torch.tensor(data[parts.test].labels)
    with torch.no_grad():
        right = network(x).argmax(1) == y
    return network.eval(), x[right], y[right]


def away(network, x, y, attack):
    """How far an attack's images are in L2; infinity where they are not adversarial."""
    found = attack(x, y).detach()
    with torch.no_grad():
        fooled = network(found).argmax(1) != y
    return torch.where(fooled, (found.double() - x.double()).flatten(1).norm(dim=1), torch.inf)


def fooled(network, adversarial, y):
    """Share of images that an attack turns."""
    with torch.no_grad():
        return float((network(adversarial).argmax(1) != y).double().mean())


def middle(radius):
    """The lower median; None where half of the images have no adversarial image found."""
    found = float(radius.median())
    return found if found < torch.inf else None


def comparisons(network, x, y, counts, steps):
    """(attack, images, {name: call}, what is made of a result) of each comparison, ours first."""
    few = [(x[:n], y[:n]) for n in counts]
    a, b = few[0]
    yield (
        "FGSM, 4 budgets",
        len(a),
        {
            "ours": lambda: attacks.attack(network, a, b, BUDGETS)[-1],
            "torchattacks FGSM": lambda: [torchattacks.FGSM(network, eps=eps)(a, b) for eps in BUDGETS][-1],
        },
        lambda found: {"share_turned": fooled(network, found, b)},
    )
    a, b = few[1]
    theirs = torchattacks.PGD(network, eps=PGD_EPS, alpha=2.5 * PGD_EPS / steps, steps=steps, random_start=False)
    yield (
        f"PGD, {steps} steps",
        len(a),
        {
            "ours": lambda: attacks.attack(network, a, b, [PGD_EPS], "pgd", steps=steps)[0],
            "torchattacks PGD": lambda: theirs(a, b),
        },
        lambda found: {"share_turned": fooled(network, found, b)},
    )
    a, b = few[2]
    gradients = GRADIENTS * steps // 20
    peers = {
        "torchattacks FAB": torchattacks.FAB(network, "L2", 1e9, steps=gradients),
        "torchattacks DeepFool": torchattacks.DeepFool(network),
    }
    calls = {name: lambda peer=peer: away(network, a, b, peer) for name, peer in peers.items()}
    yield (
        "radius, L2",
        len(a),
        {"ours": lambda: attacks.minimal_radius(network, a, b, gradients=gradients), **calls},
        lambda radius: {"share_found": float(torch.isfinite(radius).double().mean()), "median_radius": middle(radius)},
    )


def main(argv=None):
    """Measure, print, write."""
    chosen, rows = settings(__doc__, argv, turns=3), []
    small, whole = (32, 16, 1, (4, 2, 1), 2), (64, N_TRAIN, EPOCHS, (100, 24, 6), 20)
    size, n_train, epochs, counts, steps = small if chosen.small else whole
    network, x, y = trained(size, n_train, epochs)
    for title, n, calls, facts in comparisons(network, x, y, counts, steps):
        seconds, found = in_turn(calls, chosen.turns, warm=0 if chosen.small else 1)
        for name, times in seconds.items():
            row = {"attack": title, "method": name, "images": n, "seconds": spread(times)}
            rows.append(row | {"times_ours": spread(times / seconds["ours"]), **facts(found[name])})
            told = ", ".join(
                f"{key} {'-' if value is None else f'{value:.4g}'}" for key, value in facts(found[name]).items()
            )
            print(f"{title:<16} {name:<22} {said(rows[-1]['times_ours'])} of ours; {told}", flush=True)
    write(
        {"turns": chosen.turns, "model": "resnet18", "images": SET, "size": size, "rows": rows},
        chosen.output,
        "attacks",
    )


if __name__ == "__main__":
    main()
