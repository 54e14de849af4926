"""Raise label sharpness alone: pairs of training images that face each other across a boundary, closer and closer.

Images of six families are labelled by the side of the median along their first principal component, and those within
0.6 of it are left out, so that the classes are 1.2 apart. Twelve pairs of training images are then put on the boundary,
`distance` apart, so that K_F = 1 / distance. Test images are the same at every distance. The rule stands in
params/controlled.yaml. Writes numbers only, to book/findings/tables/facing_pairs.json; what is there is not run again.

usage: python benchmarks/facing_pairs.py FOLDER [--small] [--output FOLDER]
"""

import json
import os
from pathlib import Path

import numpy as np
import torch
from simulating import parser, publish, side_by_side

from intrinsic import images
from intrinsic.networks import attacks, models, training
from intrinsic.properties.sharpness import label_sharpness

TABLES = images.REPOSITORY / "book" / "findings" / "tables"
FAMILIES = (
    "digits",
    "photo_patches",
    "brain_mri_patches",
    "garments_pullover_coat",
    "knee_xray_oa",
    "satellite_highway_river",
)
DISTANCES = (0.3, 0.6, 1.2)
SEEDS, PAIRS, TRAIN, TEST, SIZE, RADII = 10, 12, 160, 160, 16, 32


def facing(name, distance, seed):
    """Training images and labels with pairs `distance` apart, and test images and labels, floats in [0, 1]."""
    pool = images.match(images.load(name), size=SIZE, channels=1).drop_duplicates().images
    x = 0.15 + 0.7 * pool.reshape(len(pool), -1) / 255  # room for the pairs
    rng = np.random.default_rng(seed)
    along = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)[2][0]
    place = x @ along - np.median(x @ along)
    free = rng.permutation(np.flatnonzero(np.abs(place) >= max(DISTANCES) / 2))
    label = (place > 0).astype(np.int64)
    sides = [free[label[free] == side] for side in (0, 1)]
    each = (TRAIN // 2, TEST // 2)
    train = np.concatenate([side[: each[0]] for side in sides])
    test = np.concatenate([side[each[0] : sum(each)] for side in sides])
    made, labels = x[train], label[train]
    base = rng.permutation(np.flatnonzero(np.abs(place) < np.quantile(np.abs(place), 0.25)))[:PAIRS]
    middle = x[base] - place[base, None] * along
    for side, first in ((0, 0), (1, each[0])):  # twelve images of each class give way
        made[first : first + PAIRS] = middle + (side - 0.5) * distance * along
    shape = (-1, 1, SIZE, SIZE)
    if made.min() < 0 or made.max() > 1:
        raise ValueError(f"pairs of {name} leave [0, 1]")
    as_tensor = [torch.tensor(part, dtype=torch.float32).reshape(shape) for part in (made, x[test])]
    return as_tensor[0], labels, as_tensor[1], label[test]


def measured(name, distance, seed):
    """One run: K_F of its training images, whether it fitted, test loss, and the median radius of right test images."""
    torch.set_num_threads(1)
    x, y, x_test, y_test = facing(name, distance, seed)
    network = models.create("resnet18", channels=1, n_classes=2, seed=seed)
    result = training.train(network, x, y, min_steps=400, seed=seed, precision="float32")
    scores, _ = training.held_out_scores(network, x_test, y_test)
    some = np.concatenate([np.flatnonzero(y_test == side)[: RADII // 2] for side in (0, 1)])
    radius = attacks.minimal_radius(network, x_test[some], y_test[some])
    right = radius[(radius > 0) & torch.isfinite(radius)]
    return {
        "family": name, "distance": distance, "seed": seed, "k_f": float(label_sharpness(x, y, interval=False)),
        "fitted": bool(result.fitted), "test_loss_nats": scores["test_loss_nats"],
        "test_accuracy": scores["test_accuracy"], "radius_l2_median_correct": float(right.median()),
    }  # fmt: skip


def main(argv=None):
    """Train, measure, write after each seed."""
    made = parser(__doc__)
    made.add_argument("folder", type=Path, nargs="?", help="the folder of the image sets, as INTRINSIC_SETS names it")
    made.set_defaults(output=TABLES)
    chosen = made.parse_args(argv)
    if chosen.folder:
        os.environ["INTRINSIC_SETS"] = str(chosen.folder.absolute())
    table = chosen.output / "facing_pairs.json"
    rows = json.loads(table.read_text(encoding="utf-8"))["rows"] if table.exists() else []
    there = {(row["family"], row["distance"], row["seed"]) for row in rows}
    for seed in range(1 if chosen.small else SEEDS):
        names = FAMILIES[:1] if chosen.small else FAMILIES
        cases = [(name, distance, seed) for name in names for distance in DISTANCES]
        cases = [case for case in cases if case not in there]
        rows += side_by_side(measured, cases) if cases else []
        publish(chosen.output, "facing_pairs", rows=rows, command="python benchmarks/facing_pairs.py FOLDER")


if __name__ == "__main__":
    main()
