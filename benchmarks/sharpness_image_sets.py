"""Label sharpness of each two classes of real sets in grey and with three channels, at 32 x 32 pixels.

Reads FOLDER/NAME.npz and writes numbers only, to book/methods/tables/sharpness_image_sets.json.

usage: python benchmarks/sharpness_image_sets.py FOLDER [--small] [--output FOLDER]
"""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
from simulating import parser, publish, side_by_side

from intrinsic import images
from intrinsic.inference import effects
from intrinsic.properties import sharpness

PER_CLASS, DRAWS, SIZE = 250, 25, 32
SETS = ("cifar10", "tiny_imagenet", "cats_dogs")
NO_GROUP = ("tiny_imagenet",)  # its `group` is a WordNet id, no subject


def color(path, per_class=PER_CLASS):
    """{two classes: {channels: [K_F, low, high]}} of a set without exact copies."""
    out = {}
    for channels in (1, 3):
        loaded = images.load(path, size=SIZE, channels=channels).drop_duplicates(conflicting=True)
        loaded = replace(loaded, group=None) if path.stem in NO_GROUP else loaded
        for a, b in itertools.combinations(range(loaded.n_classes), 2):
            pair = loaded[np.isin(loaded.labels, (a, b))]
            found = sharpness.mean_sharpness(pair, per_class=per_class, draws=DRAWS)
            title = f"{loaded.classes[a]} | {loaded.classes[b]}"
            out.setdefault(title, {})[str(channels)] = [float(found), found.low, found.high]
    return out


def summary(pairs):
    """Rank correlation of grey with color over pairs of classes, and the ratios of grey to color."""
    grey, three = (np.array([pair[c][0] for pair in pairs]) for c in ("1", "3"))
    out = {"grey over 3 channels": {"smallest": float((grey / three).min()), "largest": float((grey / three).max())}}
    if len(pairs) > 4:
        rank = effects.correlation(grey, three, kind="spearman")
        rank = {"spearman": float(rank), "low": rank.low, "high": rank.high, "n": len(pairs)}
        out["grey and 3 channels, pairs of classes"] = rank
    return out


def main(argv=None):
    """Measure, write."""
    made = parser(__doc__)
    made.add_argument("folder", type=Path, help="the folder of the .npz files")
    chosen = made.parse_args(argv)
    paths = [chosen.folder / f"{name}.npz" for name in SETS]
    if missing := [path.name for path in paths if not path.exists()]:
        made.error(
            f"{chosen.folder} lacks {', '.join(missing)}, so nothing can be compared: name the folder of the sets"
        )
    found = side_by_side(color, [(path, 20 if chosen.small else PER_CLASS) for path in paths])
    publish(
        chosen.output,
        "sharpness_image_sets",
        digits=5,
        measured={f"color {name}": one for name, one in zip(SETS, found, strict=True)},
        rank_correlations=summary([pair for one in found for pair in one.values()]),
        command="python benchmarks/sharpness_image_sets.py FOLDER",
        draws=DRAWS,
        per_class=PER_CLASS,
        seeds="0",
    )


if __name__ == "__main__":
    main()
