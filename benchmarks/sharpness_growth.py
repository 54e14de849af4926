"""How label sharpness grows with M on real image sets, against what overlapping classes would give.

Reads the sets of params/published.yaml through the catalogue (INTRINSIC_SETS is the folder of their files) and writes
numbers only, to book/methods/tables/sharpness_growth.json: the growth law at 64 and 28 pixels, grey and in color, with
labels as they are and by lot; and the coverage of the law's intervals on samples whose law is known. What is stored is
not measured again. Some twenty minutes on one core.

usage: python benchmarks/sharpness_growth.py [--seconds S] [--simulations N] [--no-sets]
"""

import argparse
import json
import math
import platform
import sys
import time

import numpy as np
import scipy
from sharpness_simulations import SAMPLES, wilson

from intrinsic import images
from intrinsic.campaigns import campaign
from intrinsic.campaigns.records import write_text
from intrinsic.properties import dimension, measurement, neighbors, overlap

TABLE = images.REPOSITORY / "book" / "methods" / "tables" / "sharpness_growth.json"
K, DRAWS = 20, 25
LARGE = 6_000  # images from which one lot has to do
LOTS = 3  # seeds of labels by lot
#: (size, channels); color only where the files have it
SETTINGS = ((64, 1), (28, 1), (32, 3))
LAST = ("mnist_even_odd",)  # the largest takes as long as all the others
COLOR = ("photos_cat_dog", "photos_airplane_automobile", "photos_bird_airplane", "tiny_imagenet", "cats_dogs")
#: (sample, d, n, options): a law's simulations
CASES = (
    ("overlapping", 4, 300, {}),
    ("slabs", 3, 300, {"gap": 0}),
    ("sheets", 4, 300, {"gap": 0.3}),
    ("wrong_labels", 3, 300, {"share": 0.1}),
    ("overlapping", 8, 300, {}),
    ("grouped", 5, 600, {}),
    ("overlapping", 2, 300, {}),
)
TARGET_SEEDS = 300_000


def numbers(value, digits=5):
    return [round(float(v), digits) if math.isfinite(v) else None for v in (value, value.low, value.high)]


def plain(law):
    return {
        "closest": round(law.closest, 4),
        "difference": numbers(law.difference),
        "dimension": numbers(law.dimension, 3),
        "exponent": numbers(law.exponent),
        "gap": round(law.gap, 4) if math.isfinite(law.gap) else None,
        "k_f": [round(float(v), 5) for v in law.k_f],
        "kind": law.kind,
        "overlapping": numbers(law.overlapping),
        "pairs": [int(v) for v in law.pairs],
        "per_class": [int(m) for m in law.per_class],
        "share": [round(float(v), 4) if math.isfinite(v) else None for v in law.share],
    }


def measured(name, size, channels):
    """The law of a set, its dimensions by other estimators, and the law with labels by lot."""
    data = measurement.matched(name, size, channels)
    clean = measurement.without_conflicts(data)
    group = data.groups
    if len(group) != len(clean):
        group = clean.group if clean.group is not None else neighbors.near_duplicate_components(clean)
    near = neighbors.neighbors(clean, K, reserve=dimension.reserve(K))
    mle, twonn = dimension.mle_dimension(near, K, group=group), dimension.twonn_dimension(near, group=group)
    known = clean.group is not None
    apart = neighbors.neighbors(clean, K, group=group, exclude_group=True) if known else None
    law = overlap.growth_law(near, draws=DRAWS, group=group)
    control = [
        overlap.growth_law(near, overlap.labels_by_lot(clean.labels, group, seed), law.per_class, DRAWS,
                           interval=False, group=group)
        for seed in range(LOTS if near.n <= LARGE else 1)
    ]  # fmt: skip
    return plain(law) | {
        "by_lot_exponent": [round(float(one.exponent), 5) for one in control],
        "by_lot_overlapping": [round(float(one.overlapping), 5) for one in control],
        "classes": {key: int(value) for key, value in clean.counts().items()},
        "d_mle": numbers(mle, 3),
        "d_mle_other_groups": None if apart is None else round(float(dimension.mle_dimension(apart, K)), 3),
        "d_twonn": numbers(twonn, 3),
        "domain": clean.domain,
        "family": campaign._family(name),
        "groups": len(np.unique(group)),
        "groups_known": known,
        "n": near.n,
    }


def coverage(name, d, n, options, simulations):
    """How often the law's intervals hold expectations, which other samples give, and how often each kind is said."""

    def law(seed, interval):
        x, y, group = SAMPLES[name](n, d, seed, **options)
        return overlap.growth_law(x, y, draws=15, interval=interval, group=group)

    far = [law(TARGET_SEEDS + s, False) for s in range(2 * simulations)]
    found = [law(s, True) for s in range(simulations)]
    row = {"d": d, "kinds": {}, "n": n, "options": options, "sample": name, "simulations": simulations}
    for one in found:
        row["kinds"][one.kind] = row["kinds"].get(one.kind, 0) + 1
    for what in ("exponent", "overlapping", "difference"):
        values = np.array([float(getattr(one, what)) for one in far])
        target = float(np.nanmean(values))
        finite = [getattr(one, what) for one in found if math.isfinite(getattr(one, what).low)]
        hits = sum(one.low <= target <= one.high for one in finite)
        row[what] = {
            "coverage": round(hits / len(finite), 4),
            "coverage_interval": wilson(hits, len(finite)),
            "median_width": round(float(np.median([one.high - one.low for one in finite])), 4),
            "simulations": len(finite),
            "target": round(target, 5),
            "target_error": round(float(np.nanstd(values, ddof=1) / math.sqrt(len(values))), 5),
        }
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=math.inf, help="start no further measurement after so long")
    parser.add_argument("--simulations", type=int, default=40, help="samples a case of coverage (40)")
    parser.add_argument("--no-sets", action="store_true", help="simulations only")
    arguments = parser.parse_args()
    names = campaign.read(images.REPOSITORY / "params" / "published.yaml").datasets
    steps = [("set", (name, *setting)) for setting in SETTINGS for name in names if setting[1] == 1 or name in COLOR]
    steps = [] if arguments.no_sets else steps
    steps += [("coverage", case) for case in CASES]
    steps.sort(key=lambda step: step[1][0] in LAST)
    found = json.loads(TABLE.read_text(encoding="utf-8")) if TABLE.exists() else {"coverage": {}, "sets": {}}
    started, left = time.monotonic(), []
    for kind, case in steps:
        kept = found["sets" if kind == "set" else "coverage"]
        key = " ".join(str(part) for part in case)
        if key in kept:
            continue
        if time.monotonic() - started > arguments.seconds:
            left.append(key)
            continue
        begun = time.process_time()
        try:
            kept[key] = measured(*case) if kind == "set" else coverage(*case, arguments.simulations)
        except images.BadSource as error:
            left.append(f"{key}: {error}")
            continue
        found |= {
            "command": "python benchmarks/sharpness_growth.py",
            "draws": DRAWS,
            "k": K,
            "lots": LOTS,
            "nominal": 0.95,
            "seeds": "0; labels by lot from 0; samples of coverage from 0, their targets from 300000",
            "versions": {"numpy": np.__version__, "python": platform.python_version(), "scipy": scipy.__version__},
        }
        write_text(TABLE, json.dumps(found, sort_keys=True, indent=1, allow_nan=False) + "\n")
        print(f"{time.process_time() - begun:6.1f} s  {key}", flush=True)
    print("\n".join(["left:", *left]) if left else "all is measured")
    return 0


if __name__ == "__main__":
    sys.exit(main())
