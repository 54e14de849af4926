"""What claims 1 and 4 ask of trained networks whose weights a store has kept: for book/claims/.

Claim 4: the dimension of the same two layers in ResNets and VGGs (the last feature map, flattened and averaged over
positions), of the untrained network and of a random linear map, beside that of the pixels of the same training images.
Claim 1 in feature space: the least bound 2 K_F E(distance of a held-out image to the nearest training image), its
dimension, and the mean error that it bounds. Writes numbers only, to book/claims/tables/kept_networks.json; a network
that stands there is not measured again, so its weights may be gone.

usage: python benchmarks/kept_networks.py STORE FOLDER [--small] [--output FOLDER]
"""

import json
import math
import os
from pathlib import Path

import numpy as np
import torch
from scipy.spatial.distance import cdist
from simulating import parser, publish, side_by_side

from intrinsic import images
from intrinsic.campaigns.records import Store
from intrinsic.networks import checkpoints, models, representations
from intrinsic.properties import dimension, measurement

TABLES = images.REPOSITORY / "book" / "claims" / "tables"
K = 20


def layers(name):
    """{kind of layer: its name}: the last feature map, flattened and averaged over positions."""
    vgg = models.is_vgg(name)
    return {"flattened": "features" if vgg else "layer4", "pooled": "features:mean" if vgg else "avgpool"}


def feature_bound(train, labels, held, held_labels, errors):
    """The least bound of Theorem 1 in a space of features, and what it bounds, over held-out images."""
    across = cdist(train[labels == 0], train[labels == 1]).min()
    nearest = cdist(held, train).min(axis=1)
    found = {
        "k_f": 1 / across if across else math.inf,
        "distance": float(nearest.mean()),
        "error": float(errors.mean()),
    }
    found["least_bound"] = 2 * found["k_f"] * found["distance"]
    near = np.unique(held, axis=0)
    found["d_held_out"] = float(dimension.mle_dimension(near, K, interval=False)) if len(near) > K + 1 else math.nan
    return found | {"n_held_out": len(held)}


def measured(store, id):
    """Rows of one network, one a layer; none where its image set is not here or it has other than two classes."""
    torch.set_num_threads(1)
    store = Store(Path(store))
    record = store.read("training", id)
    p = record.params
    data = measurement.matched(p["dataset"], p["size"], p["channels"], p["pixel_range"])
    if data.images.n_classes != 2 or data.hash != p["image_hash"]:
        return []
    split = images.split(data.images, p["n_train"], p["seed"], groups=data.groups)
    train, held = data.images[split.train], data.images[split.test]
    made = [models.create(p["model"], channels=p["channels"], n_classes=2, seed=p["seed"]) for _ in range(2)]
    checkpoints.load_weights(made[0], store.path("weights", id))
    network, untrained = (one.eval() for one in made)
    points = train.images.reshape(len(train), -1)
    pixels, _ = representations.dimensions(points, K, train.group)
    names = layers(p["model"])
    seen, new, before = (
        representations.activations(one, images.as_unit(part), names.values())
        for one, part in ((network, train), (network, held), (untrained, train))
    )
    with torch.no_grad():
        outputs = torch.cat([network(models.network_input(part)) for part in images.as_unit(held).split(128)])
    probability = outputs.softmax(1)[:, 1].double().numpy()
    errors, rows = np.abs(probability - held.labels), []
    for kind, layer in names.items():
        mapped = representations.random_linear_map(points, seen[layer].shape[1], p["seed"])
        maps = {"d_repr": seen[layer], "d_untrained": before[layer], "d_random_map": mapped}
        row = {"id": id, **{key: p[key] for key in ("dataset", "model", "n_train", "seed")}, "layer": kind}
        row |= {"fitted": bool(record.metrics["fitted"]), "test_loss_nats": record.metrics["test_loss_nats"]}
        for name, one in maps.items():
            found, _ = representations.dimensions(one, K, train.group)
            row |= {f"{name}_{which}": float(found[which] or math.nan) for which in ("mle", "twonn")}
        row |= {f"d_data_{which}": float(pixels[which] or math.nan) for which in ("mle", "twonn")}
        rows.append(row | feature_bound(seen[layer], train.labels, new[layer], held.labels, errors))
    return rows


def main(argv=None):
    """Measure, write."""
    made = parser(__doc__)
    made.add_argument("store", type=Path, help="a store of records with weights kept, as INTRINSIC_STORE names it")
    made.add_argument("folder", type=Path, help="the folder of the image sets, as INTRINSIC_SETS names it")
    made.set_defaults(output=TABLES)
    chosen = made.parse_args(argv)
    os.environ["INTRINSIC_SETS"] = str(chosen.folder.absolute())
    table = chosen.output / "kept_networks.json"
    rows = json.loads(table.read_text(encoding="utf-8"))["rows"] if table.exists() else []
    there = {row["id"] for row in rows}
    ids = sorted(path.stem for path in (chosen.store / "weights").glob("*.safetensors"))
    ids = [id for id in (ids[:1] if chosen.small else ids) if id not in there]
    for part in [ids[i : i + 4] for i in range(0, len(ids), 4)]:  # what is measured is kept, however early this ends
        found = side_by_side(measured, [(str(chosen.store), id) for id in part])
        rows = sorted([*rows, *(row for rows in found for row in rows)], key=lambda row: (row["id"], row["layer"]))
        publish(
            chosen.output, "kept_networks", rows=rows, k=K, command="python benchmarks/kept_networks.py STORE FOLDER"
        )


if __name__ == "__main__":
    main()
