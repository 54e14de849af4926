"""ImageSet: images, labels, groups and paths, always indexed together; and the errors of this room."""

import difflib
import functools
import hashlib
import os
from collections import namedtuple
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np

_HOME = os.environ.get("INTRINSIC_HOME")
REPOSITORY = Path(_HOME).expanduser().resolve() if _HOME else Path(__file__).resolve().parents[3]

Domain = Literal["medical", "natural", "synthetic", "unknown"]
DOMAINS = get_args(Domain)
# Exact copies: lists of ascending indices of images equal in every pixel, whose labels agree or do not; how many images
# have an earlier copy of the same label, which drop_duplicates() removes; and how many are in conflicting sets
Duplicates = namedtuple("Duplicates", "same_label conflicting n_copies n_conflicting")


class BadImages(ValueError):
    """Arrays that are no image set."""


class BadSource(ValueError):
    """A folder or file that holds no image set."""


class BadImageFile(BadSource):
    """A file that cannot be read as an image."""


class UnknownImageSet(ValueError):
    """Neither a name in the catalogue nor a path."""


class BadCatalogue(ValueError):
    """A catalogue that cannot be read."""


class TooFewImages(ValueError):
    """More images asked for than the set can give."""


class Leak(ValueError):
    """The same group, or the same image, on both sides of a split."""


@dataclass(frozen=True, eq=False, repr=False)
class ImageSet:
    """Images with one label each.

    Parameters
    ----------
    images : array of uint8, (n, H, W) or (n, H, W, 3)
        Grey levels 0 to 255 until a network or an estimator reads them; (n, H, W, 1) is stored as (n, H, W).
    labels : array of int, (n,)
        Indices into `classes`.
    classes : sequence of str
        The name of each label.
    name, domain : str
        What the set is called, and medical, natural, synthetic or unknown.
    group : array of int, (n,), optional
        Patient, volume or region, never on both sides of a split. None where unknown.
    paths : sequence of str, optional
        Where each image came from.
    show_pixels : bool
        False where published pages must show none of its images.
    pixel_range : {"stored", "image"}
        "image" where each image's maximum was made 255 (see `match`).
    unreadable : sequence of (path, reason)
        Files left out because they cannot be read.

    Raises
    ------
    BadImages
        Where the arrays do not fit together. They are kept read-only, so that sets can share them.

    Examples
    --------
    >>> import numpy as np
    >>> pixels = np.arange(4 * 8 * 8, dtype=np.uint8).reshape(4, 8, 8)
    >>> ImageSet(pixels, [0, 0, 1, 1], ("normal", "tumour"), name="scans")
    ImageSet(scans: 4 grey images of 8 x 8, normal 2, tumour 2)
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    name: str = "images"
    domain: str = "unknown"
    group: np.ndarray | None = None
    paths: tuple[str, ...] | None = None
    show_pixels: bool = True
    pixel_range: str = "stored"
    unreadable: tuple[tuple[str, str], ...] = ()

    def __post_init__(self):
        images = _checked_images(self.images)
        n, paths = len(images), self.paths
        if isinstance(self.classes, str):
            raise BadImages(f"classes is the text {self.classes!r}: give a name for each label")
        if self.domain not in DOMAINS:
            raise BadImages(f"domain {self.domain!r} is unknown: use one of {', '.join(DOMAINS)}")
        if paths is not None and len(paths) != n:
            raise BadImages(f"{len(paths)} paths for {n} images: give one each, or none")
        classes = tuple(map(readable, self.classes))
        vars(self).update(
            images=_read_only(images),
            labels=_read_only(checked_labels(self.labels, n, classes)),
            group=_read_only(checked_group(self.group, n)),
            classes=classes,
            paths=None if paths is None else tuple(map(readable, paths)),
            name=readable(self.name),
        )

    def __len__(self):
        return len(self.images)

    def __repr__(self):
        counts = ", ".join(f"{name} {n:,}" for name, n in self.counts().items())
        colour, (height, width) = "grey" if self.channels == 1 else "color", self.size
        return f"ImageSet({self.name}: {len(self):,} {colour} images of {width} x {height}, {counts})"

    def __getitem__(self, index):
        """The images at an index array, a boolean mask or a slice, as an ImageSet with the same classes."""
        rows = np.arange(len(self))[index]
        if rows.ndim != 1:
            raise TypeError(f"{index!r} selects no set of images: give a slice, a mask or a list, e.g. images[[3]]")
        if not len(rows):
            raise BadImages(f"the selection leaves none of the {len(self)} images of {self.name}")
        if np.array_equal(rows, np.arange(len(self))):
            return self  # pixels are not held twice
        return replace(
            self,
            images=self.images[index],
            labels=self.labels[index],
            group=None if self.group is None else self.group[index],
            paths=None if self.paths is None else tuple(self.paths[i] for i in rows),
        )

    @property
    def n_classes(self):
        """How many classes are present."""
        return len(np.unique(self.labels))

    @property
    def channels(self):
        """1 for grey images, 3 for color."""
        return 1 if self.images.ndim == 3 else self.images.shape[3]

    @property
    def size(self):
        """(H, W) in pixels."""
        return self.images.shape[1:3]

    def counts(self):
        """Images of each class, {class name: n}."""
        n = np.bincount(self.labels, minlength=len(self.classes))
        return {name: int(count) for name, count in zip(self.classes, n, strict=True)}

    def content_hash(self):
        """16 hex digits that identify images, labels, groups and shape, and not name or path."""
        if "_hash" not in self.__dict__:
            digest = hashlib.sha256()
            for part in (self.images, self.labels, self.group):
                if part is not None:
                    plain = np.ascontiguousarray(part, dtype=part.dtype.newbyteorder("<"))
                    digest.update(f"{plain.dtype.str}{plain.shape}".encode())
                    digest.update(plain.data)
                digest.update(b"|")
            self.__dict__["_hash"] = digest.hexdigest()[:16]
        return self.__dict__["_hash"]

    @functools.cached_property
    def pixel_ids(self):
        """An integer for each image, equal exactly where all pixels are."""
        seen, rows = {}, np.ascontiguousarray(self.images)
        return _read_only(np.array([seen.setdefault(hashlib.sha256(row).digest(), len(seen)) for row in rows]))

    def duplicates(self):
        """Sets of images that are equal in every pixel, as Duplicates."""
        order = np.argsort(self.pixel_ids, kind="stable")
        copies = [s for s in np.split(order, np.flatnonzero(np.diff(self.pixel_ids[order])) + 1) if len(s) > 1]
        conflicting = [s for s in copies if np.ptp(self.labels[s])]
        same = [s for s in copies if not np.ptp(self.labels[s])]
        return Duplicates(same, conflicting, len(self) - len(self.distinct()), sum(map(len, conflicting)))

    def drop_duplicates(self, *, conflicting=False):
        """The set without exact copies: of equal images with equal labels the first is kept.

        Equal images with different labels stay, one for each label; with conflicting=True all of them go.
        """
        return self[self.distinct(conflicting=conflicting)]

    def distinct(self, *, conflicting=False):
        """Indices, int64 ascending, of the images that drop_duplicates keeps."""
        found, first = np.unique(np.stack([self.pixel_ids, self.labels]), axis=1, return_index=True)
        if conflicting:
            first = first[np.bincount(found[0])[found[0]] == 1]
        return np.sort(first)


def as_unit(images):
    """An ImageSet, or uint8 (n, H, W) or (n, H, W, C), as float32 torch tensor (n, C, H, W) in [0, 1]: level / 255."""
    import torch

    pixels = images.images if isinstance(images, ImageSet) else _checked_images(images)
    pixels = pixels[:, None] if pixels.ndim == 3 else np.moveaxis(pixels, 3, 1)
    return torch.from_numpy(pixels.astype(np.float32)).div_(255)


def _checked_images(images):
    """uint8 (n, H, W) or (n, H, W, 3). Raises BadImages."""
    images = np.asarray(images)
    if images.dtype != np.uint8:
        how = "np.rint(255 * images).astype(np.uint8)"
        if images.size and images.dtype.kind in "iuf" and images.max() > 1:
            top = images.max()
            how = f"(images // 257).astype(np.uint8) where they fill 16 bits, .astype(np.uint8) where 255; max {top:g}"
        raise BadImages(f"the images are {images.dtype}, and grey levels 0 to 255 are needed: convert to uint8, {how}")
    if images.ndim == 4 and images.shape[3] == 1:
        images = images[..., 0]
    if images.ndim not in (3, 4) or 0 in images.shape or images.shape[3:] not in ((), (3,)):
        raise BadImages(f"the images have shape {images.shape}: bring axes to (n, H, W) or (n, H, W, 3), without alpha")
    return images


def checked_labels(labels, n, classes):
    """int64 (n,), each with a class of its own name. Raises BadImages."""
    labels = integers(labels, n, "labels")
    if len(set(classes)) != len(classes):
        raise BadImages(f"two classes have the same name among {classes}: give each its own")
    if labels.min() < 0 or labels.max() >= len(classes):
        raise BadImages(f"labels run from {labels.min()} to {labels.max()}: use 0 to {len(classes) - 1}, one a class")
    return labels


def checked_group(group, n):
    """int64 (n,) from 0 on, or None where unknown: given as None, or as -1 throughout. Raises BadImages."""
    if group is None:
        return None
    group = integers(group, n, "group")
    if (group == -1).all():
        return None
    if group.min() < 0:
        raise BadImages(f"{(group < 0).sum()} of {n} groups are negative: number all from 0, or give -1 throughout")
    return group


def integers(values, n, name):
    """int64 (n,). Raises BadImages."""
    values = np.asarray(values)
    if values.shape != (n,) or not (values.dtype == bool or np.issubdtype(values.dtype, np.integer)):
        raise BadImages(f"{name} is {values.dtype} of shape {values.shape}: give {n} whole numbers")
    return values.astype(np.int64)


def readable(text) -> str:
    """A name on one line: line breaks, other control characters and bytes that are no UTF-8 as Python escapes them."""
    text = str(text).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() or c == "\xa0" else ascii(c)[1:-1] for c in text)


def _read_only(array):
    if array is not None:
        array = array.view()
        array.flags.writeable = False
    return array


def suggest(word, words):
    """The closest of some words, as the end of an error."""
    close = difflib.get_close_matches(str(word), [str(w) for w in words], n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def reason(error):
    """What an error says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
