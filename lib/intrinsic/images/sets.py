"""What an image set is: images, labels, groups and paths, always indexed together in ImageSet.__getitem__.

Images stay uint8 until a network or an estimator reads them.
"""

import difflib
import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import yaml

_HOME = os.environ.get("INTRINSIC_HOME")
REPOSITORY = Path(_HOME).expanduser().resolve() if _HOME else Path(__file__).resolve().parents[3]

Domain = Literal["medical", "natural", "synthetic", "unknown"]
DOMAINS = ("medical", "natural", "synthetic", "unknown")


class BadImages(ValueError):
    """Arrays that are no image set."""


class BadSource(ValueError):
    """A folder or file that holds no image set."""


class BadImageFile(BadSource):
    """A picture that cannot be read, or not without a decision of the user."""


class MixedSizes(BadSource):
    """Pictures of different height or width, and no common size asked for."""


class UnknownImageSet(ValueError):
    """Neither a name in the catalogue nor a path."""


class BadCatalogue(ValueError):
    """A catalogue that cannot be read."""


class TooFewImages(ValueError):
    """More images asked for than the set can give."""


class Leak(ValueError):
    """The same group, or the same image, on both sides of a split."""


# -------------------------------------------------------------------------------------------------- ImageSet


@dataclass(frozen=True, eq=False, repr=False)
class ImageSet:
    """Images with one label each.

    images     uint8 (n, H, W), or (n, H, W, 3) in color; (n, H, W, 1) is stored as (n, H, W)
    labels     int64 (n,), indices into `classes`
    classes    the name of each label
    domain     "medical", "natural", "synthetic" or "unknown"
    group      int64 (n,): patient, volume or region, never on both sides of a split; None where unknown
    paths      where each image came from, or None
    about, beware, source, licence    what the set is, what it is not, where it is from
    show_pixels    False: published pages must not show its images
    ordered    the labels are grades, so that their difference counts
    pixel_range "stored": grey levels of the files; "image": each image's maximum is 255 (see matching)
    modality   how the images were made: "knee X-ray", "photograph"
    unreadable (path, reason) of files left out because they cannot be read

    The arrays are read-only, so that sets can share them. Raises BadImages.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    name: str = "images"
    domain: str = "unknown"
    group: np.ndarray | None = None
    paths: tuple[str, ...] | None = None
    about: str = ""
    beware: str = ""
    source: str = ""
    licence: str = ""
    show_pixels: bool = True
    ordered: bool = False
    pixel_range: str = "stored"
    modality: str = ""
    unreadable: tuple[tuple[str, str], ...] = ()

    def __post_init__(self):
        images = np.asarray(self.images)
        if images.dtype != np.uint8:
            how = "np.rint(255 * images).astype(np.uint8) for images in [0, 1]"
            if np.issubdtype(images.dtype, np.integer):
                how = "(images // 257).astype(np.uint8) where they fill 16 bits"
            raise BadImages(
                f"the images are {images.dtype}, and distances are only comparable on grey levels 0 to 255: "
                f"convert them to uint8, e.g. {how}"
            )
        if images.ndim == 4 and images.shape[3] == 1:
            images = images[..., 0]
        if images.ndim not in (3, 4) or 0 in images.shape or (images.ndim == 4 and images.shape[3] != 3):
            raise BadImages(
                f"the images have shape {images.shape}, which is not (n, H, W) or (n, H, W, 3) with n, H and "
                "W above 0: bring the axes into that order, and drop an alpha channel"
            )
        n = len(images)
        labels = integers(self.labels, n, "labels")
        if isinstance(self.classes, str):
            raise BadImages(f"classes is the text {self.classes!r}, where a name for each label is needed")
        classes = tuple(readable(name) for name in self.classes)
        if len(set(classes)) != len(classes):
            raise BadImages(f"two classes have the same name among {classes}: give each its own")
        if labels.min() < 0 or labels.max() >= len(classes):
            raise BadImages(
                f"labels run from {labels.min()} to {labels.max()}, and {len(classes)} classes are named, so "
                f"some label has no name: use labels 0 to {len(classes) - 1}"
            )
        if self.domain not in DOMAINS:
            raise BadImages(f"domain {self.domain!r} is unknown: use one of {', '.join(DOMAINS)}")
        group = self.group
        if group is not None:
            group = integers(group, n, "group")
            if (group == -1).all():
                group = None
            elif group.min() < 0:
                raise BadImages(
                    f"{(group < 0).sum()} of {n} images have a negative group, so a split could not keep "
                    "them apart: number all groups from 0, or give -1 throughout where they are unknown"
                )
            else:
                group = read_only(group)
        paths = self.paths
        if paths is not None:
            paths = tuple(readable(path) for path in paths)
            if len(paths) != n:
                raise BadImages(f"{len(paths)} paths for {n} images: give one each, or none")
        for name, value in (
            ("images", read_only(images)),
            ("labels", read_only(labels)),
            ("classes", classes),
            ("group", group),
            ("paths", paths),
        ):
            object.__setattr__(self, name, value)

    def __len__(self):
        return len(self.images)

    def __repr__(self):
        counts = ", ".join(f"{name} {n:,}" for name, n in self.counts().items())
        colour = "grey" if self.channels == 1 else "color"
        return f"ImageSet({self.name}: {len(self):,} {colour} images of {dimensions(self)}, {counts})"

    def __getitem__(self, index):
        """The images at an index array, a boolean mask or a slice, as an ImageSet with the same classes."""
        if not isinstance(index, slice):
            index = np.asarray(index)
            if index.ndim != 1:
                raise TypeError("an image set is indexed by an array, a mask or a slice, e.g. images[[3]]")
            if index.dtype == bool and len(index) != len(self):
                raise IndexError(f"a mask of {len(index)} for {len(self)} images: give one entry an image")
            if index.dtype != bool and not np.issubdtype(index.dtype, np.integer):
                if len(index):
                    raise TypeError(f"an image set is indexed by integers, not by {index.dtype}")
                index = index.astype(np.int64)
        rows = np.arange(len(self))[index]
        if not len(rows):
            raise BadImages(f"the selection leaves none of the {len(self)} images of {self.name}")
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

    def pixel_ids(self):
        """An integer for each image, equal exactly where all pixels are; found once, as the arrays are read-only."""
        if "_ids" not in self.__dict__:
            self.__dict__["_ids"] = read_only(pixel_ids(self.images))
        return self.__dict__["_ids"]

    def duplicates(self):
        """Sets of images that are equal in every pixel, as Duplicates."""
        ids = self.pixel_ids()
        order = np.argsort(ids, kind="stable")
        sets = [s for s in np.split(order, np.flatnonzero(np.diff(ids[order])) + 1) if len(s) > 1]
        sets.sort(key=lambda s: s[0])
        same = [s for s in sets if (self.labels[s] == self.labels[s[0]]).all()]
        conflicting = [s for s in sets if (self.labels[s] != self.labels[s[0]]).any()]
        return Duplicates(
            same_label=same,
            conflicting=conflicting,
            n_copies=sum(len(s) - len(np.unique(self.labels[s])) for s in sets),
            n_conflicting=sum(len(s) for s in conflicting),
        )

    def drop_duplicates(self, *, conflicting=False):
        """The set without exact copies: of equal images with equal labels the first is kept.

        Equal images with different labels stay, one for each label; with conflicting=True all of them go.
        """
        keep = self.distinct(conflicting=conflicting)
        return self if len(keep) == len(self) else self[keep]

    def distinct(self, *, conflicting=False, found=None):
        """Indices, int64 ascending, of the images that drop_duplicates keeps.

        found   the set's Duplicates, where they are known
        """
        found = self.duplicates() if found is None else found
        keep = np.ones(len(self), dtype=bool)
        for copies in found.same_label + found.conflicting:
            keep[copies] = False
            keep[copies[np.unique(self.labels[copies], return_index=True)[1]]] = True
        for copies in found.conflicting if conflicting else []:
            keep[copies] = False
        return np.flatnonzero(keep)


@dataclass(frozen=True)
class Duplicates:
    """Exact copies in an image set; a list entry holds the ascending indices of images equal in every pixel.

    same_label     sets whose labels agree
    conflicting    sets whose labels do not
    n_copies       images with an earlier copy of the same label: what drop_duplicates() removes
    n_conflicting  images in conflicting sets
    """

    same_label: list
    conflicting: list
    n_copies: int
    n_conflicting: int


def regroup(images, classes):
    """Only the named classes, merged and renamed: {"even": ["0", "2"], "odd": ["1", "3"]}.

    The new labels are 0, 1, ... in the order given. Raises BadImages for a name that does not exist or is
    used twice.
    """
    new = np.full(len(images.classes), -1)
    for label, (name, parts) in enumerate(classes.items()):
        for part in parts:
            if part not in images.classes:
                raise BadImages(
                    f"class {name!r} is made of {part!r}, which is not among {', '.join(images.classes)}"
                    + suggest(part, images.classes)
                )
            if new[images.classes.index(part)] >= 0:
                raise BadImages(f"class {part!r} is used twice, so its label would be ambiguous: use it once")
            new[images.classes.index(part)] = label
    labels = new[images.labels]
    return replace(images[labels >= 0], labels=labels[labels >= 0], classes=tuple(classes))


def as_unit(images):
    """Images as float32 torch tensor (n, C, H, W) in [0, 1]: grey level / 255, done nowhere else.

    images   an ImageSet, or uint8 (n, H, W) or (n, H, W, C)
    """
    import torch

    pixels = images.images if isinstance(images, ImageSet) else np.asarray(images)
    if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4):
        raise BadImages(
            f"got {pixels.dtype} of shape {pixels.shape}, and only grey levels have a known range: give "
            "uint8 (n, H, W) or (n, H, W, C)"
        )
    pixels = pixels[:, None] if pixels.ndim == 3 else np.moveaxis(pixels, 3, 1)
    return torch.from_numpy(pixels.astype(np.float32)).div_(255)


# ---------------------------------------------------------------------------------------------- Small checks


def dimensions(picture):
    """Width x height, as picture viewers say it."""
    height, width = picture.size if isinstance(picture, ImageSet) else picture.shape[:2]
    return f"{width} x {height}"


def pixel_ids(images):
    """An integer for each image, equal exactly where all pixels are."""
    rows = np.ascontiguousarray(images).reshape(len(images), -1)
    return np.unique(rows.view(f"V{rows.shape[1]}").ravel(), return_inverse=True)[1]


def integers(values, n, name):
    values = np.asarray(values)
    if values.shape != (n,) or not (values.dtype == bool or np.issubdtype(values.dtype, np.integer)):
        raise BadImages(
            f"{name} is {values.dtype} of shape {values.shape}, where each of {n} images needs one whole "
            f"number: give integers of shape ({n},)"
        )
    return values.astype(np.int64)


def readable(text) -> str:
    """A name as text that can be printed and written: bytes of file names that are no UTF-8 as \\xff."""
    return str(text).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def read_only(array):
    array = array.view()
    array.flags.writeable = False
    return array


def suggest(word, words):
    close = difflib.get_close_matches(str(word), list(words), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def reason(error):
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def yaml_reason(error):
    """What is wrong with a YAML text and in which line, from the yaml.YAMLError."""
    mark = getattr(error, "problem_mark", None)
    where = f", line {mark.line + 1}" if mark else ""
    return f"{getattr(error, 'problem', None) or reason(error)}{where}"


class _PlainYaml(yaml.SafeLoader):
    """Safe YAML (no tags that build objects) that refuses a key given twice."""

    def compose_mapping_node(self, anchor):
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    problem = f"{key.value!r} is given twice"
                    raise yaml.composer.ComposerError(None, None, problem, key.start_mark)
                seen.add(key.value)
        return node

    def construct_object(self, node, deep=False):
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, ArithmeticError, AttributeError) as error:  # no date or number
            text = str(node.value)
            shown = text if len(text) <= 40 else f"{text[:40]}..."
            why = f" ({reason(error)})" if isinstance(error, ValueError) else ""
            problem = f"{shown!r} is no {node.tag.rpartition(':')[2]}{why}"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from None


def plain_yaml(text: str):
    """What a YAML text holds: no tags that build objects, no key given twice. Raises yaml.YAMLError."""
    return yaml.load(text, _PlainYaml)


def sentence(error, known):
    """What a pydantic error found, in one line. known: {a key that holds keys, or "": the keys inside}, for hints."""
    parts = []
    for found in error.errors():
        place = ".".join(str(p) for p in found["loc"] if not str(p).startswith("<"))  # <>: the type of a value
        if found["type"] == "extra_forbidden":
            outside, _, key = place.rpartition(".")
            text = f"unknown key {place!r}{suggest(key, known.get(outside, ()))}"
        elif found["type"] == "missing":
            text = f"key {place!r} is missing"
        else:
            text = found["msg"].removeprefix("Value error, ")
            text = f"{place}: {text}" if place else text
            if found["type"] == "literal_error":
                text += f", not {found['input']!r}"
        parts.append(text)
    return "; ".join(parts)
