"""Measure an image set: arrays, tensors, a folder or a name in; dimension, label sharpness, soundness out."""

import html
import math
import os
from copy import copy
from dataclasses import dataclass, field

import numpy as np

from intrinsic.images import BadImages, ImageSet, TooFewImages, load, match
from intrinsic.properties import dimension, sharpness
from intrinsic.properties.duplicates import near_duplicate_components
from intrinsic.properties.growth import cross_dimension, growth
from intrinsic.properties.interval import Interval, digits
from intrinsic.properties.limit import sharpness_limit
from intrinsic.properties.measurement import GROWTH_SIZES, exponent_of, other_groups, smallest_class
from intrinsic.properties.neighbors import BadPoints, neighbors
from intrinsic.properties.soundness import Soundness, soundness

LEAST = 4  # distinct images of which anything is measured
MOST_CLASSES = 20  # of a matrix of class pairs
UNIT = "per unit of L2 distance, pixels in [0, 1]"


@dataclass(frozen=True, eq=False)
class Growth:
    """How K_F grows with M images a class.

    per_class, k_f   M, and the mean K_F over balanced draws
    exponent         slope of log K_F on log M
    cross            dimension D of the cross-class pairs; its `exponent` is 2/D, the slope that it predicts
    """

    per_class: tuple[int, ...]
    k_f: tuple[float, ...]
    exponent: Interval
    cross: Interval


@dataclass(frozen=True, eq=False)
class Measured:
    """What `measure` found about an image set.

    d_data, twonn      dimension by maximum likelihood and TwoNN; without neighbors of the same group where groups are
                       known, which d_data.excludes_group says
    d_all              d_data from all neighbors
    label_sharpness    K_F of all pairs, with pair (indices of the set as given); infinite with conflicting copies
    finite_sharpness   the same without images that have a copy with another label
    sharpness_at_m     mean over balanced draws of M = per_class images a class
    quantiles, control, limit, class_pairs   of quantile_sharpness, same_label_control, sharpness_limit,
                       class_pair_sharpness (None where there are not 3 to 20 classes)
    growth             Growth
    n, shape, classes, groups   images, pixels, {class: images}, number of groups or None
    soundness          Soundness
    warnings           one sentence each
    images             the set as given
    """

    d_data: Interval
    twonn: Interval
    d_all: Interval
    label_sharpness: Interval
    finite_sharpness: Interval
    sharpness_at_m: Interval
    quantiles: tuple[Interval, ...]
    control: Interval
    limit: Interval
    class_pairs: object
    growth: Growth
    n: int
    shape: tuple[int, ...]
    classes: dict[str, int]
    groups: int | None
    soundness: Soundness
    sharpest: tuple[tuple, ...]
    warnings: tuple[str, ...]
    images: ImageSet = field(repr=False)

    def rows(self):
        """The facts in words, as pairs of texts (what, value)."""
        sound, apart = self.soundness, ", neighbors of other groups" if self.d_data.excludes_group else ""
        classes = [f"{_line(name)} {n:,}" for name, n in self.classes.items()]
        more = f" and {len(classes) - 8} more" if len(classes) > 8 else ""
        law = self.growth.cross
        predicted = f"M^{law.exponent}" if math.isfinite(law) else f"nothing: {law.method}"
        grows = f"M^{self.growth.exponent}" if math.isfinite(self.growth.exponent) else self.growth.exponent.method
        pair = "none" if self.label_sharpness.pair is None else " | ".join(self._names(self.label_sharpness.pair))
        m = self.sharpness_at_m.per_class
        return [
            ("images", f"{self.n:,} of {' x '.join(map(str, self.shape))}"),
            ("classes", ", ".join(classes[:8]) + more),
            ("groups", "unknown" if self.groups is None else f"{self.groups:,}"),
            ("d_data", f"{self.d_data}   maximum likelihood, k = {self.d_data.k}{apart}"),
            ("TwoNN", f"{self.twonn}"),
            ("label sharpness", f"{self.label_sharpness}   {UNIT}"),
            (f"at M = {m}", f"{self.sharpness_at_m}   mean over {self.sharpness_at_m.draws} balanced draws"),
            ("sharpest pair", f"{pair}, distance {digits(self.label_sharpness.distance)}"),
            ("K_F / same label", f"{self.control.ratio}   near 1: labels keep no distance"),
            ("growth of K_F", f"{grows}; cross-class pairs predict {predicted}"),
            ("near-duplicates", f"{sound.linked:,} of {sound.distinct:,} images have one"),
            ("brightness alone", f"{sound.shortcut}   balanced accuracy, chance {digits(sound.chance)}"),
            ("nearest image", f"{sound.by_image}; of another {sound.unit}: {sound.by_group}"),
        ]  # fmt: skip

    def _names(self, pair):
        labels, paths = self.images.labels, self.images.paths
        return [
            f"{f'#{i}' if paths is None else _line(paths[i])} ({_line(self.images.classes[labels[i]])})" for i in pair
        ]

    def __repr__(self):
        rows = [f"{_line(self.images.name)}", *(f"  {what:<17}{value}" for what, value in self.rows())]
        warnings = [f"  warning: {_line(one)}" for one in self.warnings]
        return "\n".join(rows + warnings[: 25 - len(rows)])

    def _repr_html_(self):
        cells = "".join(f"<tr><th>{html.escape(a)}</th><td>{html.escape(b)}</td></tr>" for a, b in self.rows())
        warnings = "".join(f"<li>{html.escape(_line(one))}</li>" for one in self.warnings)
        return f"<table><caption>{html.escape(_line(self.images.name))}</caption>{cells}</table><ul>{warnings}</ul>"

    def to_dict(self):
        """All of it as plain numbers, texts and lists, for JSON; what is not to be had is None with its reason."""
        k_f, law, grown, pairs = self.label_sharpness, self.growth.cross, self.growth.exponent, self.class_pairs
        found = self.images.duplicates()
        sharp = {
            **k_f.to_dict(),
            "pair": self._facts(k_f.pair),
            "distance": k_f.distance,
            "at_m": {"per_class": self.sharpness_at_m.per_class, **self.sharpness_at_m.to_dict()},
            "quantiles": [{"quantile": q.quantile, "distance": q.distance, **q.to_dict()} for q in self.quantiles],
            "same_label_control": {
                **self.control.to_dict(), "pair": self._facts(self.control.pair), "ratio": self.control.ratio.to_dict()
            },
            "growth_exponent": {**grown.to_dict(), "per_class": [int(m) for m in getattr(grown, "per_class", ())]},
            "growth": {"per_class": list(self.growth.per_class), "k_f": list(self.growth.k_f)},
            "cross_dimension": {**law.to_dict(), "exponent": law.exponent.to_dict(), "gap": law.gap},
            "limit": {
                "value": self.limit.high if self.limit.identified else None,
                "identified": bool(self.limit.identified),
                "reason": "" if self.limit.identified else self.limit.method,
            },
            "class_pairs": pairs and {
                "classes": [self.images.classes[int(c)] for c in pairs.classes],
                "sharpness": [[float(v) if math.isfinite(v) else None for v in row] for row in pairs.sharpness],
            },
            "unit": UNIT,
        }  # fmt: skip
        if found.n_conflicting:
            finite = self.finite_sharpness
            sharp |= {"value_without_conflicts": float(finite), "pair_without_conflicts": self._facts(finite.pair)}
        return {
            "name": self.images.name,
            "n": self.n,
            "shape": list(self.shape),
            "classes": self.classes,
            "groups": self.groups,
            "d_data": {
                "mle": {**self.d_data.to_dict(), "k": self.d_data.k, "other_groups": self.d_data.excludes_group},
                "mle_all": {**self.d_all.to_dict(), "k": self.d_all.k},
                "twonn": self.twonn.to_dict(),
            },
            "label_sharpness": sharp,
            "sharpest_pairs": [
                {"images": self._facts((i, j)), "distance": d, "sharpness": s} for i, j, d, s in self.sharpest
            ],
            "duplicates": {
                "copies": int(found.n_copies),
                "conflicting": int(found.n_conflicting),
                "conflicting_examples": [self._facts(one) for one in found.conflicting[:5]],
            },
            "soundness": self.soundness.to_dict(),
            "unreadable": [list(pair) for pair in self.images.unreadable],
            "warnings": list(self.warnings),
        }

    def _facts(self, pair):
        """Index, label and path of images."""
        images, paths = self.images, self.images.paths
        pair = () if pair is None else pair
        facts = [{"index": int(i), "label": images.classes[int(images.labels[i])]} for i in pair]
        return [one if paths is None else {**one, "path": str(paths[one["index"]])} for one in facts] or None


def measure(
    images,
    labels=None,
    group=None,
    *,
    size=None,
    channels=None,
    pixel_range="stored",
    k=20,
    per_class=250,
    progress=False,
) -> Measured:
    """Measure the dimension, the label sharpness and the soundness of an image set.

    Parameters
    ----------
    images : array, tensor, ImageSet, path, catalogue name or Entry
        uint8 (n, H, W) or (n, H, W, 3), floats in [0, 1] of that shape or (n, C, H, W), which become grey levels; or
        what `load` reads. Exact copies are dropped and counted.
    labels, group : array (n,), optional
        With arrays: labels and patients, numbers or texts.
    size, channels, pixel_range
        Bring all images to one size, number of channels and range first, as `load` does.
    k : int
        Neighbors of the dimension.
    per_class : int
        M of the mean label sharpness; the smallest class where it has fewer.
    progress : bool
        Show progress bars.

    Returns
    -------
    Measured

    Raises
    ------
    BadImages
        Floats above 1 or below 0, or labels that do not fit.
    OneClass, TooFewImages

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> found = measure(rng.integers(0, 256, (80, 8, 8), dtype=np.uint8), ["a", "b"] * 40)
    >>> found.classes, found.label_sharpness.pair is not None
    ({'a': 40, 'b': 40}, True)
    """
    loaded = _image_set(images, labels, group, size, channels, pixel_range, progress)
    found, warnings = loaded.duplicates(), []
    smallest_class(loaded)
    original = loaded.distinct(conflicting=True)
    if len(original) < LEAST or len(np.unique(loaded.labels[original])) < 2:
        raise TooFewImages(f"{loaded.name} has {len(loaded)} images, of which {len(original)} are neither copies nor "
                           f"copies with another label: at least {LEAST} of two classes are needed")  # fmt: skip
    clean = loaded if len(original) == len(loaded) else loaded[original]
    least, near_k = smallest_class(clean), min(k, len(clean) - 1)
    if max(clean.counts().values()) == 1:
        raise TooFewImages(f"each of the {clean.n_classes:,} classes of {loaded.name} has one image: are these labels?")
    if near_k < k:
        warnings.append(f"{len(clean)} distinct images are too few for k = {k}: k is {near_k}")
    if (m := min(per_class, least)) < per_class:
        warnings.append(f"the smallest class has {least} images, so K_F at M is given at M = {m}, not {per_class}")
    near = neighbors(clean, near_k, reserve=max(64, dimension.reserve(near_k)), progress=progress)
    d_all = dimension.mle_dimension(near, near_k)
    d_data, twonn, why = _other_groups(clean, near, near_k, d_all)
    warnings += [why] if why else []
    k_f, control = sharpness.label_sharpness(near), sharpness.same_label_control(near)
    finite = _renamed(k_f, original)
    sizes = [m for m in GROWTH_SIZES if m <= least]
    grown = growth(near, per_class=sizes) if sizes else ((), ())
    law = cross_dimension(near, group=near_duplicate_components(near) if clean.group is None else clean.group)
    sound = soundness(loaded, near)
    several = 2 < clean.n_classes <= MOST_CLASSES
    return Measured(
        d_data=d_data,
        twonn=twonn,
        d_all=d_all,
        label_sharpness=_conflict(loaded, found) if found.n_conflicting else finite,
        finite_sharpness=finite,
        sharpness_at_m=sharpness.mean_sharpness(near, per_class=m),
        quantiles=tuple(sharpness.quantile_sharpness(near)),
        control=_renamed(control, original),
        limit=sharpness_limit(near, dimension=d_all),
        class_pairs=sharpness.class_pair_sharpness(near) if several else None,
        growth=Growth(*(tuple(v.item() for v in part) for part in grown), exponent_of(near), law),
        n=len(loaded),
        shape=loaded.images.shape[1:],
        classes={name: int(n) for name, n in loaded.counts().items()},
        groups=None if loaded.group is None else len(np.unique(loaded.group)),
        soundness=sound,
        sharpest=tuple((int(original[i]), int(original[j]), d, s) for i, j, d, s in sharpness.sharpest_pairs(near)),
        warnings=(*sound.warnings, *warnings),
        images=loaded,
    )  # fmt: skip


def _other_groups(clean, near, k, d_all):
    """(MLE, TwoNN, warning): without neighbors of the same group where groups are known and allow it."""
    apart = None if clean.group is None else other_groups(clean, k)
    if apart is None or not math.isfinite(apart):
        why = "" if apart is None else f"d_data counts neighbors of the same group: {apart.method}"
        return d_all, dimension.twonn_dimension(near), why
    others = neighbors(clean, 2, exclude_group=True, reserve=dimension.reserve(2))
    return apart, dimension.twonn_dimension(others), ""


def _renamed(value, original):
    """A sharpness whose pair counts in the set as given."""
    again = copy(value)
    again.pair = None if value.pair is None else tuple(int(original[i]) for i in value.pair)
    return again


def _conflict(images, found):
    """Infinite label sharpness, with two copies that have different labels."""
    copies = found.conflicting[0]
    labels = images.labels[copies]
    pair = int(copies[0]), int(copies[(labels != labels[0]).argmax()])
    method = "infinite: exact copies with different labels"
    names = tuple(int(images.labels[i]) for i in pair)
    return Interval(math.inf, method=method, n=len(images), pair=pair, labels_of_pair=names, distance=0.0)


def _image_set(source, labels, group, size, channels, pixel_range, progress):
    """The ImageSet that is meant, matched."""
    if isinstance(source, ImageSet) or not (hasattr(source, "__array__") or hasattr(source, "detach")):
        if labels is not None or group is not None:
            raise BadPoints("labels and group belong to arrays; an image set, a folder or a name has its own")
        if not isinstance(source, ImageSet):
            source = os.fspath(source) if isinstance(source, os.PathLike) else source
            return load(source, size=size, channels=channels, pixel_range=pixel_range, progress=progress)
        return match(source, size=size, channels=channels, pixel_range=pixel_range)
    pixels = source.detach().cpu().numpy() if hasattr(source, "detach") else np.asarray(source)
    if labels is None:
        raise BadImages(f"{len(pixels)} images have no labels, so no label ever changes: give labels, one an image")
    if pixels.ndim not in (3, 4):
        raise BadImages(f"the images have shape {pixels.shape}: give (n, H, W) or (n, H, W, 3)")
    if pixels.ndim == 4 and pixels.shape[3] not in (1, 3) and pixels.shape[1] in (1, 3):
        pixels = np.moveaxis(pixels, 1, 3)
    if pixels.dtype.kind == "f":
        low, high = float(pixels.min()), float(pixels.max())
        if not (low >= 0 and high <= 1):
            raise BadImages(f"the floats run from {low:g} to {high:g}, and only 0 to 1 is known: divide by 255")
        pixels = np.rint(255 * pixels).astype(np.uint8)
    names, codes = _coded(labels, len(pixels), "labels")
    known = None if group is None else _coded(group, len(pixels), "group")[1]
    made = ImageSet(pixels, codes, names, group=known)
    return match(made, size=size, channels=channels, pixel_range=pixel_range)


def _coded(values, n, what):
    """(names, codes) of labels or groups, numbers or texts."""
    values = values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)
    missing = values.shape != (n,) or any(v is None or str(v) == "nan" for v in values.tolist())
    if missing:
        raise BadImages(f"{what} have shape {values.shape} for {n} images, or some are missing: give one each")
    names, codes = np.unique(values.astype(str) if values.dtype.kind == "O" else values, return_inverse=True)
    return tuple(str(name) for name in names), codes


def _line(text):
    """A name on one line: what is not printable as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
