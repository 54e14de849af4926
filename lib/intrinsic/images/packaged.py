"""Image sets of torchvision and MedMNIST, downloaded by those packages when first read."""

import os
from typing import Literal

import numpy as np
import pandas as pd

from intrinsic.images.files import Found, of_arrays
from intrinsic.images.sets import BadSource, reason

OFFLINE = "INTRINSIC_OFFLINE"  # 1: nothing is downloaded
Sets = Literal["MNIST", "FashionMNIST", "CIFAR10", "SVHN"]  # of torchvision
Sides, Parts = Literal[28, 64, 128, 224], Literal["train", "val", "test", "all"]  # of MedMNIST


def _fetched(make, place, parts):
    """make(part, download) of each part: from what is there, else after a download. Raises BadSource."""
    try:
        return [make(part, False) for part in parts]
    except Exception as error:  # the packages raise many types where files are absent or damaged
        if os.environ.get(OFFLINE, "") not in ("", "0"):
            raise BadSource(f"{place} lacks the image set ({reason(error)}), and {OFFLINE} is set: unset it") from None
    try:
        place.mkdir(parents=True, exist_ok=True)
        return [make(part, True) for part in parts]
    except Exception as error:
        how = "try again later, or remove what is damaged there"
        raise BadSource(f"the image set in {place} cannot be downloaded or read ({reason(error)}): {how}") from None


def torchvision(path, progress=False, *, dataset: Sets, part: Literal["train", "test", "both"] = "train") -> Found:
    """A set of torchvision.datasets below `path`, laid out as torchvision does; images are called PART/NUMBER.

    part   the official training set, test set, or one after the other
    """
    from torchvision import datasets

    def make(part, download):
        which = {"split": part} if dataset == "SVHN" else {"train": part == "train"}
        return getattr(datasets, dataset)(path, download=download, **which)

    parts = ("train", "test") if part == "both" else (part,)
    sets = _fetched(make, path, parts)
    pixels = np.concatenate([np.asarray(one.data) for one in sets])
    if dataset == "SVHN":
        pixels = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))
    labels = np.concatenate([np.asarray(one.labels if dataset == "SVHN" else one.targets) for one in sets])
    classes = tuple("0123456789" if dataset in ("MNIST", "SVHN") else sets[0].classes)
    return of_arrays(pixels, labels, classes, paths=_names(parts, [len(one.data) for one in sets]))


def medmnist(path, progress=False, *, dataset: str, size: Sides = 28, part: Parts = "all") -> Found:
    """A set of MedMNIST, from its .npz file in the folder `path`; images are called PART/NUMBER.

    dataset   pathmnist, chestmnist, ...;  part   of its own split, or all of it, one after the other

    The label is the class; of a set with several findings an image, each finding is a column of 0 and 1 under its own
    name, and a label rule says which one counts.
    """
    import medmnist as package

    info = package.INFO.get(dataset)
    if info is None or "3d" in dataset:
        raise BadSource(f"{dataset!r} is no set of flat images in MedMNIST: give pathmnist, chestmnist, ...")

    def make(part, download):
        return getattr(package, info["python_class"])(split=part, root=path, size=size, download=download)

    parts = ("train", "val", "test") if part == "all" else (part,)
    sets = _fetched(make, path, parts)
    pixels = np.concatenate([one.imgs for one in sets])
    labels = np.concatenate([one.labels for one in sets])
    names = _names(parts, [len(one.imgs) for one in sets])
    classes = tuple(info["label"][str(i)] for i in range(len(info["label"])))
    if info["task"].startswith("multi-label"):
        columns = {name: labels[:, i] for i, name in enumerate(classes)}
        return Found(pd.DataFrame({"path": names, **columns}), images=pixels)
    return of_arrays(pixels, labels[:, 0], classes, paths=names)


def _names(parts, sizes):
    return [f"{part}/{i:05d}" for part, n in zip(parts, sizes, strict=True) for i in range(n)]


def is_there(path, adapter, options):
    """Whether the files of a packaged set are there, so that nothing need be downloaded."""
    if adapter == "medmnist":
        size = options.get("size", 28)
        return (path / f"{options['dataset']}{'' if size == 28 else f'_{size}'}.npz").is_file()
    name, part = options["dataset"], options.get("part", "train")
    first = {
        "SVHN": ["train_32x32.mat", "test_32x32.mat"],
        "CIFAR10": ["cifar-10-batches-py/data_batch_1", "cifar-10-batches-py/test_batch"],
    }.get(name, [f"{name}/raw/train-images-idx3-ubyte", f"{name}/raw/t10k-images-idx3-ubyte"])
    wanted = first if part == "both" else [first[part == "test"]]
    return all((path / file).is_file() for file in wanted)


PACKAGED = {"torchvision": torchvision, "medmnist": medmnist}
