"""How many images `near_duplicate_components` links: on clean manifolds, and on image sets with and without groups.

Writes book/methods/tables/near_duplicates.json: numbers only.

usage: python benchmarks/near_duplicates.py [FOLDER]
FOLDER holds image sets as NAME.npz; without it their rows stay as they are.
"""

import argparse
import json
import platform
from pathlib import Path

import numpy as np

from intrinsic import images
from intrinsic.campaigns.records import write_text
from intrinsic.images import manifolds
from intrinsic.properties import neighbors

TABLE = images.REPOSITORY / "book" / "methods" / "tables" / "near_duplicates.json"
DIMENSIONS = (1, 2, 3, 5, 10, 20)
N = 1000


def gaussian(n, d, seed=0):
    """Independent normal coordinates."""
    return np.random.default_rng(seed).standard_normal((n, d))


def mixture(n, d, seed=0):
    """Normal clouds of scales 1, 1/3 and 1/10 on one center."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)) * 3.0 ** -rng.integers(0, 3, (n, 1))


def smooth_images(n, d, seed=0):
    """Images of a torus."""
    return manifolds.torus_images(n, d, size=24, seed=seed)[0]


CLEAN = {
    "flat torus": manifolds.flat_torus,
    "cube": manifolds.cube,
    "Gaussian": gaussian,
    "mixture of scales": mixture,
    "smooth images": smooth_images,
}


def row(name, component, group=None, **facts):
    """Share of points linked to another, the largest component, and how links and groups agree."""
    sizes = np.bincount(component)
    found = {"name": name, **facts, "n": len(component), "linked": round(float((sizes[component] > 1).mean()), 4)}
    found["largest"] = int(sizes.max())
    if group is not None:
        joined, same = (one[:, None] == one for one in (component, group))
        above = np.triu(np.ones_like(same), 1)
        joined, same = joined & above, same & above
        found["joined_pairs_within_a_group"] = round(float((joined & same).sum() / max(joined.sum(), 1)), 4)
        found["pairs_of_a_group_joined"] = round(float((joined & same).sum() / max(same.sum(), 1)), 4)
    return found


def main():
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, help="image sets as NAME.npz")
    arguments = parser.parse_args()
    rows = []
    for name, cloud in CLEAN.items():
        for d in DIMENSIONS:
            component = neighbors.near_duplicate_components(cloud(N, d, seed=0))
            rows.append(row(name, component, kind="clean", d=d))
    for path in sorted(arguments.folder.glob("*.npz")) if arguments.folder else ():
        with np.load(path, allow_pickle=False) as file:
            group = file["group"] if (file["group"] >= 0).all() and path.stem != "tiny_imagenet" else None
            size = min(64, file["images"].shape[1])
            whole = images.ImageSet(file["images"], file["labels"], tuple(file["class_names"]))
            pixels = images.match(whole, size=size, channels=1).images
        component = neighbors.near_duplicate_components(pixels)
        rows.append(row(path.stem, component, group, kind="image set"))
    if arguments.folder is None and TABLE.exists():
        stored = json.loads(TABLE.read_text(encoding="utf-8"))["rows"]
        rows += [one for one in stored if one["kind"] == "image set"]
    for one in rows:
        print(one, flush=True)
    body = {
        "rows": rows,
        "command": "python benchmarks/near_duplicates.py FOLDER",
        "seeds": "0",
        "versions": {"numpy": np.__version__, "python": platform.python_version()},
    }
    write_text(TABLE, json.dumps(body, sort_keys=True, indent=1, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
