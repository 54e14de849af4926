"""How well the cross-correlation dimension D and its K_F are known, for findings/sharpness_grows.ipynb.

Simulated samples: how often the interval of D holds its expectation, and the prediction interval the K_F of a new
sample, of the same size and of four times as many points. Image sets of FOLDER: how often the interval from one half of
the images holds the K_F of the other. Writes numbers only, to book/methods/tables/growth_coverage.json.

usage: python benchmarks/sharpness_growth.py [FOLDER] [--small] [--output FOLDER]
"""

import json
import math
import os
from pathlib import Path

import numpy as np
from sharpness_simulations import TARGET_SEEDS, grouped, groups_ignored, overlapping, slabs
from simulating import TABLES, parser, publish, share, side_by_side

from intrinsic import images
from intrinsic.campaigns import parameters
from intrinsic.properties import measurement
from intrinsic.properties.growth import cross_dimension, predicted_sharpness
from intrinsic.properties.interval import class_halves
from intrinsic.properties.sharpness import label_sharpness

SIMULATIONS = 120
HALVES = 10  # of an image set; each predicts the other
CAMPAIGNS = ("published", "confirmation")


def noisy(n, d, seed):
    """Uniform points in a cube in 100 dimensions, labels independent of position, with noise of deviation .02."""
    x, y, _ = overlapping(n, d, seed)
    return (
        np.pad(x, ((0, 0), (0, 100 - d))) + 0.02 * np.random.default_rng([seed, 1]).standard_normal((n, 100)),
        y,
        None,
    )


def unbalanced(n, d, seed):
    """Uniform points in a cube, a fifth of them of class 1."""
    x, _, _ = overlapping(n, d, seed)
    return x, (np.arange(n) % 5 == 0).astype(int), None


CASES = [
    *((overlapping, d, 600, {}) for d in (2, 5, 10)), (overlapping, 5, 300, {}), (slabs, 3, 600, {"gap": 0}),
    (slabs, 3, 600, {"gap": 0.3}), (noisy, 3, 600, {}), (unbalanced, 4, 600, {}), (grouped, 5, 600, {}),
    (groups_ignored, 5, 600, {}),
]  # fmt: skip


def simulated(sample, d, n, options, simulations):
    """One row: coverage of D and of predictions, and how often there was no D."""
    made, inside, known = [], {1: [], 4: []}, []
    for s in range(simulations):
        x, y, group = sample(n, d, s, **options)
        found = cross_dimension(x, y, group=group)
        if math.isfinite(found):
            made.append(found)
            for times, hits in inside.items():
                new, labels, _ = sample(times * n, d, TARGET_SEEDS + s, **options)
                guess = predicted_sharpness(found, int(np.bincount(y).min()) * times)
                hits.append(guess.low <= label_sharpness(new, labels, interval=False) <= guess.high)
        x, y, group = sample(n, d, 2 * TARGET_SEEDS + s, **options)
        known.append(float(cross_dimension(x, y, group=group, interval=False)))
    target = float(np.nanmean(known)) if np.isfinite(known).any() else math.nan
    row = {
        "sample": sample.__name__,
        "options": options,
        "d": d,
        "n": n,
        "D": target,
        "without": simulations - len(made),
    }
    if made:
        row["coverage"] = share(sum(one.low <= target <= one.high for one in made), len(made), "wilson")
        row |= {f"predicted_{times}": share(sum(hits), len(hits), "wilson") for times, hits in inside.items()}
        row["width"] = float(np.median([one.high / one.low for one in made]))
    return row


def held_back(name):
    """Share of halves whose K_F is in the interval that the other half predicts, or why the set cannot be read."""
    try:
        clean = measurement.without_conflicts(measurement.matched(name, 64, 1))
    except images.BadSource as error:
        return str(error)
    hits = []
    group = None if clean.group is None else np.unique(clean.group, return_inverse=True)[1]
    for half in class_halves(clean.labels, group, 0)[:HALVES]:
        one, other = clean[np.flatnonzero(half)], clean[np.flatnonzero(~half)]
        for known, new in ((one, other), (other, one)):
            found = cross_dimension(known)
            least = min(known.counts().values())
            if math.isfinite(found):
                balanced = next(iter(images.balanced_draws(new.labels, min(least, *new.counts().values()), 1, 0)))
                guess = predicted_sharpness(found, len(balanced) // new.n_classes)
                hits.append(bool(guess.low <= label_sharpness(new[balanced], interval=False) <= guess.high))
    return {"inside": float(np.mean(hits)) if hits else math.nan, "halves": len(hits), "domain": clean.domain}


def main(argv=None):
    """Simulate, measure, write."""
    made = parser(__doc__)
    made.add_argument("folder", type=Path, nargs="?", help="the folder of the image sets, as INTRINSIC_SETS names it")
    chosen = made.parse_args(argv)
    table, sets = TABLES / "growth_coverage.json", {}
    if table.exists() and not chosen.small:
        sets = json.loads(table.read_text(encoding="utf-8"))["sets"]
    if chosen.folder:
        os.environ["INTRINSIC_SETS"] = str(chosen.folder.absolute())
        files = [images.REPOSITORY / "params" / f"{name}.yaml" for name in CAMPAIGNS]
        names = [(name,) for file in files for name in parameters.read(file).datasets]
        for (name,), found in zip(names, side_by_side(held_back, names), strict=True):
            if isinstance(found, str):
                print(f"{name} stays as stored: {found}")
            else:
                sets[name] = found
    cases, simulations = (CASES[:1], 4) if chosen.small else (CASES, SIMULATIONS)
    rows = side_by_side(simulated, [(*case, simulations) for case in cases])
    about = {"command": "python benchmarks/sharpness_growth.py FOLDER", "simulations": simulations, "nominal": 0.95}
    publish(chosen.output, "growth_coverage", cases=rows, sets=sets, halves=2 * HALVES, **about)


if __name__ == "__main__":
    main()
