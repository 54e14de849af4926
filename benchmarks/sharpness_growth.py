"""How label sharpness grows with M on real sets, and the pairs behind it: for book/findings/sharpness_grows.ipynb.

For the sets of params/published.yaml: K_F(M), its exponent, and at each distance r = 1 / K_F(M) the number of pairs
within r (of different groups) and the share of them with different labels, classes weighted alike. Writes numbers only,
to book/methods/tables/sharpness_growth.json; sets that FOLDER lacks stay as they are stored.

usage: python benchmarks/sharpness_growth.py FOLDER [--small] [--output FOLDER]
"""

import json
import os
from pathlib import Path

import numpy as np
from simulating import TABLES, parser, publish, side_by_side

from intrinsic import images
from intrinsic.campaigns import parameters
from intrinsic.properties import dimension, measurement
from intrinsic.properties.growth import growth_exponent
from intrinsic.properties.neighbors import neighbors
from intrinsic.properties.pairs import closest_pairs

K, DRAWS = 20, 25
MOST_PAIRS = 3_000_000  # closest pairs that are listed at most
SETTINGS = ((64, 1), (28, 1), (32, 3))  # size and channels; color only where the files have it
COLOR = ("photos_cat_dog", "photos_airplane_automobile", "photos_bird_airplane", "tiny_imagenet", "cats_dogs")


def within(near, codes, group, radii):
    """(pairs of different groups within each distance, share of them with different labels); NaN beyond the list."""
    count = max(200_000, 20 * near.n)
    while True:  # each point a label of its own: all pairs count
        found = closest_pairs(near.points, np.arange(near.n), count=count)
        if found.complete or found.distance[-1] >= radii.max() or count >= MOST_PAIRS:
            break
        count = min(4 * count, MOST_PAIRS)
    end = np.inf if found.complete else found.distance[-1]
    found = found.part(group[found.i] != group[found.j])
    size, a, b = np.bincount(codes), codes[found.i], codes[found.j]
    weight = 1.0 / (size[a] * size[b])
    pairs = np.searchsorted(found.distance, radii * (1 + 1e-12), side="right")
    every, across = (np.concatenate([[0.0], np.cumsum(w)])[pairs] for w in (weight, weight * (a != b)))
    with np.errstate(invalid="ignore"):
        return np.where(radii > end, 0, pairs), np.where(radii > end, np.nan, across / every)


def measured(name, size, channels):
    """The growth of one set, or the reason why it cannot be read."""
    try:
        data = measurement.matched(name, size, channels)
    except images.BadSource as error:
        return str(error)
    clean = measurement.without_conflicts(data)
    group = data.groups if len(data.groups) == len(clean) else clean.group
    group = measurement.families(clean) if group is None else group
    near = neighbors(clean, K, reserve=dimension.reserve(K))
    exponent = growth_exponent(near, draws=DRAWS, group=group)
    k_f = np.exp(exponent.log_k_f)
    pairs, share = within(near, np.unique(clean.labels, return_inverse=True)[1], group, 1 / k_f)
    return {
        "classes": clean.counts(),
        "closest": exponent.closest,
        "domain": clean.domain,
        "exponent": [float(exponent), exponent.low, exponent.high],
        "groups": len(np.unique(group)),
        "groups_known": clean.group is not None,
        "k_f": k_f.tolist(),
        "n": near.n,
        "pairs": pairs.tolist(),
        "per_class": exponent.per_class.tolist(),
        "share": share.tolist(),
    }


def main(argv=None):
    """Measure, write."""
    made = parser(__doc__)
    made.add_argument("folder", type=Path, help="the folder of the image sets, as INTRINSIC_SETS names it")
    chosen = made.parse_args(argv)
    os.environ["INTRINSIC_SETS"] = str(chosen.folder.absolute())
    names = parameters.read(images.REPOSITORY / "params" / "published.yaml").datasets
    cases = [(name, *one) for one in SETTINGS for name in names if one[1] == 1 or name in COLOR]
    cases = [("digits_4_9", 28, 1)] if chosen.small else cases
    table = TABLES / "sharpness_growth.json"
    sets = json.loads(table.read_text(encoding="utf-8"))["sets"] if table.exists() and not chosen.small else {}
    for case, found in zip(cases, side_by_side(measured, cases), strict=True):
        if isinstance(found, str):
            print(f"{case[0]} stays as stored: {found}")
        else:
            sets[" ".join(map(str, case))] = found
    publish(
        chosen.output,
        "sharpness_growth",
        digits=5,
        sets=sets,
        command="python benchmarks/sharpness_growth.py FOLDER",
        draws=DRAWS,
        k=K,
        seeds="0",
    )


if __name__ == "__main__":
    main()
