"""The paper's image sets as its released code gives them, defects included: for comparison, never for results.

`load(NAME, as_published=True)` and the functions below repeat the loader, the subset, the split and the class pairs of
the code of Konz & Mazurowski (ICLR 2024), with what is wrong in it:

Range before size. Each image is multiplied by 255 / its own maximum and cut down to whole grey levels, and only then
resized to 224 x 224. The minimum stays, so a haze over an X-ray stays as well; a black image divides by zero there and
is black here. The resized floating-point levels are rounded here, at most half a level away; antialiasing is that of
torchvision 0.17 and later, which earlier versions left out for tensors. A grey picture stored in three channels passes
through floating point there, where the cut can be one level lower.

Channels unmatched. Medical sets and MNIST have one channel, CIFAR-10, SVHN, ImageNet and ISIC three, which alone
multiplies distances by up to sqrt(3).

Absent findings become present. In CheXpert every value but an empty cell and -1 is label 1, so an explicit 0 is too.

Labels slip off their images. ImageNet: the labels of the chosen classes are picked out and the list of files is not,
so the images are the first ones of the whole listing, whatever the classes. MNIST, CIFAR-10 and SVHN: images are
picked by class, but the balanced subset then shortens the labels only. Once one class is full, the remaining labels
are all of the other class, and meet images of either: the more unequal the classes, the more labels are wrong.

No groups. Patients, volumes and knees are not known to the split, so slices of one patient are on both sides.

First, not random. A run takes the first (N + 750) // 2 images of each class in the order of the listing, and then
splits them at random: classes are balanced over both sides together only, and each N has another test set. Tables keep
their order; folders are in the order of os.listdir there, which no one can repeat, and sorted by name here.

Training part on both sides. MNIST, CIFAR-10, SVHN and ImageNet take training and test images from the training part.

Classes drawn anew. The pair of classes of a natural set is drawn again for each network and each N, so sizes and
networks are not compared on one task.

Outputs for ImageNet. Networks keep 1,000 outputs where two labels exist: PUBLISHED_OUTPUTS.

What cannot be repeated: the CheXpert and breast MRI folders are themselves random draws without a seed.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pandas as pd
import pydantic
from PIL import Image

from intrinsic.images import files
from intrinsic.images.adapters import Found
from intrinsic.images.matching import grey
from intrinsic.images.rules import LabelRule
from intrinsic.images.sets import ImageSet, TooFewImages

PUBLISHED_SEED = 1337
PUBLISHED_SIZE = 224  # pixels a side
PUBLISHED_TEST = 750
PUBLISHED_N = (500, 750, 1000, 1250, 1500, 1750)
PUBLISHED_MODELS = ("vgg13", "resnet18", "vgg16", "vgg19", "resnet34", "resnet50")  # in the order of the script
PUBLISHED_OUTPUTS = 1000


class AsPublished(pydantic.BaseModel):
    """How the paper's code reads a set, where that differs from its entry in the catalogue.

    channels    1 or 3
    labels      its label rule, where it gives other labels
    options     options of the adapter, where it reads other files
    names_with  it takes only files whose name holds this text, in this case of letters
    slips       labels leave their images: no | targets (ImageNet) | subset (MNIST, CIFAR-10, SVHN: in published_slip)
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    channels: Literal[1, 3] = 1
    labels: LabelRule | None = None
    options: dict[str, Any] = {}
    names_with: str = ""
    slips: Literal["no", "targets", "subset"] = "no"


def published_rows(labels: np.ndarray, rows: np.ndarray, slips: str) -> tuple[np.ndarray, np.ndarray]:
    """(labels, rows of the listing) that the largest N uses, of all that the label rule keeps, in order.

    slips   as in AsPublished. "targets": the rows become the first ones of the listing. "subset": also what lies
            between, since published_slip needs it
    """
    if slips == "targets":
        rows = np.arange(len(rows))
    per_class = (max(PUBLISHED_N) + PUBLISHED_TEST) // 2
    used = _first(labels, per_class)
    if slips == "subset":
        used = np.arange(used.max() + 1)
    return labels[used], rows[used]


def published_pixels(
    found: Found, rows: np.ndarray, channels: int, size: int = PUBLISHED_SIZE, *, progress: bool = False
) -> np.ndarray:
    """uint8 (n, size, size) or (n, size, size, 3): scaled by 255 / maximum, cut to whole levels, then resized.

    found   what an adapter listed;  rows   of its table, in the order wanted. Raises BadImageFile.
    """
    from tqdm import tqdm

    reading = files.Reading(channels=channels)
    made = []
    for row in tqdm(rows, unit="image", delay=1, disable=not progress):
        if found.images is None:
            picture = files.read(found.root, found.table.iloc[[row]].reset_index(drop=True), reading)[0][0]
        else:
            picture = found.images[row]
        if picture.ndim == 3 and picture.shape[2] == 1:
            picture = picture[..., 0]
        if channels == 1 and picture.ndim == 3:
            picture = grey(picture)
        if channels == 3 and picture.ndim == 2:
            picture = np.repeat(picture[..., None], 3, axis=2)
        made.append(_resized(_scaled(picture), size))
    return np.stack(made)


def published_names(table: pd.DataFrame, text: str) -> np.ndarray:
    """Rows of a listing whose file name holds a text: bool (n,)."""
    return np.array([text in str(path).rsplit("/", 1)[-1] for path in table["path"]], dtype=bool)


def published_subset(labels, n_train: int, n_test: int = PUBLISHED_TEST) -> np.ndarray:
    """Rows (ascending) of the first (n_train + n_test) // 2 images of each of two classes. Raises TooFewImages."""
    labels = np.asarray(labels)
    each = (n_train + n_test) // 2
    values, counts = np.unique(labels, return_counts=True)
    if len(values) != 2 or counts.min() < each:
        raise TooFewImages(
            f"a run of {n_train} training and {n_test} test images takes {each} of each of two classes, and there are "
            f"{', '.join(str(c) for c in counts) or 'none'}: take a smaller n_train, or another set"
        )
    return _first(labels, each)


def published_slip(images: ImageSet, rows: np.ndarray) -> ImageSet:
    """The subset as MNIST, CIFAR-10 and SVHN give it: the labels of these rows, the images of the first len(rows).

    images   load(NAME, as_published=True), in the order of the listing;  rows   published_subset(images.labels, n)
    """
    return replace(images[np.arange(len(rows))], labels=images.labels[rows])


def published_split(n: int, n_test: int = PUBLISHED_TEST, seed: int = PUBLISHED_SEED) -> tuple[np.ndarray, np.ndarray]:
    """(training, test) rows of n images, drawn over images, whatever their patients, by torch's random_split.

    Rows are in the order drawn. Another n gives another test set.
    """
    import torch

    drawn = torch.utils.data.random_split(range(n), [n - n_test, n_test], torch.Generator().manual_seed(seed))
    train, test = (np.array(side.indices, dtype=np.int64) for side in drawn)
    return train, test


def published_pairs(
    counts: Mapping[str, Sequence[int]], seed: int = PUBLISHED_SEED
) -> dict[tuple[str, str, int], tuple[int, int]]:
    """Classes of label 0 and 1 of each run of natural images, {(model, set, N): (class, class)}.

    counts   {set: training images of each class}, sets in the order in which the script visits them (MNIST, CIFAR10,
             SVHN, ImageNet); leaving one out changes the draws of the others
    One random generator serves all runs, networks outermost and N innermost; a pair with fewer than N + 750 images is
    drawn again.
    """
    generator, pairs = random.Random(seed), {}
    for model in PUBLISHED_MODELS:
        for name, images in counts.items():
            for n_train in PUBLISHED_N:
                pair = generator.sample(range(len(images)), 2)
                while sum(images[i] for i in pair) < n_train + PUBLISHED_TEST:
                    pair = generator.sample(range(len(images)), 2)
                pairs[model, name, n_train] = tuple(pair)
    return pairs


def _first(labels: np.ndarray, each: int) -> np.ndarray:
    """Rows of the first `each` images of every class, ascending."""
    return np.sort(np.concatenate([np.flatnonzero(labels == value)[:each] for value in np.unique(labels)]))


def _scaled(picture: np.ndarray) -> np.ndarray:
    """Grey levels times 255 / their maximum over all channels, cut down to whole levels; black stays black."""
    return (picture.astype(np.uint32) * 255 // max(int(picture.max()), 1)).astype(np.uint8)


def _resized(picture: np.ndarray, size: int) -> np.ndarray:
    """Antialiased bilinear in floating point, channel by channel, then rounded."""
    if picture.shape[:2] == (size, size):
        return picture
    if picture.ndim == 3:
        return np.stack([_resized(picture[..., c], size) for c in range(picture.shape[2])], axis=2)
    levels = Image.fromarray(picture.astype(np.float32)).resize((size, size), Image.Resampling.BILINEAR)
    return np.clip(np.rint(np.asarray(levels)), 0, 255).astype(np.uint8)
