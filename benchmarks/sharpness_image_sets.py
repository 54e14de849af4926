"""Label sharpness of twelve real image sets: growth with M, image size, grey against color, grades of arthritis.

Reads FOLDER/NAME.npz of the sets below and writes numbers only, to book/methods/tables/sharpness_image_sets.json. What
is stored is not measured again. About three minutes on one core.

usage: python benchmarks/sharpness_image_sets.py FOLDER [--seconds S]
"""

import argparse
import dataclasses
import itertools
import json
import math
import platform
import time
from pathlib import Path

import numpy as np

from intrinsic import images
from intrinsic.campaigns.records import write_text
from intrinsic.inference import statistics
from intrinsic.properties import dimension, neighbors, sharpness

TABLE = images.REPOSITORY / "book" / "methods" / "tables" / "sharpness_image_sets.json"
PER_CLASS, DRAWS, K = 250, 25, 20
SIZES = (28, 64)

#: the task of each set: class -> the parts it is made of; None: the two classes of the set
TASKS = {
    "knee_xray_oa": {"KL 0-1": ["KL0", "KL1"], "KL 2-4": ["KL2", "KL3", "KL4"]},
    "brain_mri_dementia": {"none": ["non_demented"], "any": ["very_mild", "mild", "moderate"]},
    "chest_xray_pneumonia": None,
    "chest_xray_covid": None,
    "brain_mri_tumour": {"glioma": ["glioma"], "meningioma": ["meningioma"]},
    "brain_ct_stroke": None,
    "lung_ct_cancer": {"normal": ["normal"], "abnormal": ["benign", "malignant"]},
    "cifar10": {"cat": ["cat"], "dog": ["dog"]},
    "tiny_imagenet": None,
    "cats_dogs": None,
    "mnist": {"even": list("02468"), "odd": list("13579")},
    "fashion_mnist": {"pullover": ["pullover"], "coat": ["coat"]},
}
NO_GROUP = ("tiny_imagenet",)  # its `group` is a WordNet id, no subject
COLOR = ("cifar10", "tiny_imagenet", "cats_dogs")


def interval(value, digits=5):
    return [None if not math.isfinite(v) else round(float(v), digits) for v in (value, value.low, value.high)]


def load(folder, name, size=None, channels=1):
    """The set as it is, matched, without exact copies."""
    found = images.load(folder / f"{name}.npz", size=size, channels=channels).drop_duplicates(conflicting=True)
    return dataclasses.replace(found, group=None) if name in NO_GROUP else found


def task(loaded, name):
    classes = TASKS[name]
    return loaded if classes is None else images.regroup(loaded, classes)


def growth(folder, name):
    found = task(load(folder, name, 64), name)
    near = neighbors.neighbors(found, K)
    d, exponent = dimension.mle_dimension(near, K), sharpness.growth_exponent(near)
    control, limit = sharpness.same_label_control(near), sharpness.sharpness_limit(near, dimension=d)
    return {
        "classes": {key: int(value) for key, value in found.counts().items()},
        "d_mle": interval(d, 3),
        "exponent": interval(exponent),
        "groups": None if found.group is None else len(np.unique(found.group)),
        "kind": sharpness.growth_kind(exponent, d),
        "limit": limit.method,
        "n": near.n,
        "per_class": [int(m) for m in exponent.per_class],
        "ratio_to_control": interval(control.ratio, 4),
        "source": found.source,
    }


def sizes(folder, name):
    out = {}
    for size in SIZES:
        found = task(load(folder, name, size), name)
        out[str(size)] = interval(sharpness.mean_sharpness(found, per_class=PER_CLASS, draws=DRAWS))
    return out


def color(folder, name):
    """K_F of each two classes, grey and with three channels, 32 x 32."""
    out = {}
    for channels in (1, 3):
        loaded = load(folder, name, 32, channels)
        for a, b in itertools.combinations(loaded.classes, 2):
            pair = images.regroup(loaded, {a: [a], b: [b]})
            value = sharpness.mean_sharpness(pair, per_class=PER_CLASS, draws=DRAWS)
            out.setdefault(f"{a} | {b}", {})[str(channels)] = interval(value)
    return out


def grades(folder, name):
    """The matrix of Kellgren-Lawrence grades at M = 250: classes apart by 1, and by their difference."""
    found = load(folder, name, 64)
    near = neighbors.neighbors(found, K)
    out = {"grades": list(found.classes), "counts": [int(v) for v in found.counts().values()]}
    for labels in ("classes", "ordered"):
        made = sharpness.class_pair_sharpness(near, labels=labels, per_class=PER_CLASS, draws=DRAWS, interval=True)
        out[labels] = {
            key: [[None if not math.isfinite(v) else round(float(v), 5) for v in row] for row in getattr(made, key)]
            for key in ("sharpness", "low", "high")
        }
    return out


def rank(first, second):
    found = statistics.correlation(np.array(first), np.array(second), "spearman")
    value, low, high = (None if not math.isfinite(v) else round(float(v), 4) for v in (found, found.low, found.high))
    return {"spearman": value, "low": low, "high": high, "n": len(first)}


def summary(found):
    """Rank correlations, where all that they are made of is measured."""
    out = {}
    if all(f"sizes {name}" in found for name in TASKS):
        small, large = ([found[f"sizes {name}"][str(s)][0] for name in TASKS] for s in SIZES)
        out["sizes 28 and 64, sets"] = rank(small, large)
    if all(f"color {name}" in found for name in COLOR):
        pairs = [pair for name in COLOR for pair in found[f"color {name}"].values()]
        out["grey and 3 channels, pairs of classes"] = rank(*([p[c][0] for p in pairs] for c in ("1", "3")))
        factor = np.array([p["1"][0] / p["3"][0] for p in pairs])
        out["grey over 3 channels"] = {
            "smallest": round(float(factor.min()), 4),
            "largest": round(float(factor.max()), 4),
        }
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", help="the folder of the twelve .npz files")
    parser.add_argument("--seconds", type=float, default=math.inf, help="start no further measurement after so long")
    arguments = parser.parse_args()
    if arguments.folder is None:
        print("no folder of image sets was given, so nothing is measured; the stored table stays as it is")
        return
    started = time.monotonic()
    steps = [(growth, name) for name in TASKS] + [(sizes, name) for name in TASKS]
    steps += [(color, name) for name in COLOR] + [(grades, "knee_xray_oa")]
    found = json.loads(TABLE.read_text(encoding="utf-8"))["measured"] if TABLE.exists() else {}
    left = 0
    for work, name in steps:
        key = f"{work.__name__} {name}"
        if key in found:
            continue
        if time.monotonic() - started > arguments.seconds:
            left += 1
            continue
        begun = time.monotonic()
        found[key] = work(arguments.folder, name)
        body = {
            "command": "python benchmarks/sharpness_image_sets.py FOLDER",
            "draws": DRAWS,
            "k": K,
            "measured": found,
            "per_class": PER_CLASS,
            "rank_correlations": summary(found),
            "seeds": "0",
            "versions": {"numpy": np.__version__, "python": platform.python_version()},
        }
        write_text(TABLE, json.dumps(body, sort_keys=True, indent=1, allow_nan=False) + "\n")
        print(f"{time.monotonic() - begun:6.1f} s  {key}", flush=True)
    print(f"{left} measurements are left" if left else "all is measured")


if __name__ == "__main__":
    main()
