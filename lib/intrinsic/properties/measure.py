"""Measure an image set: arrays, tensors, a folder or a name in; dimension, label sharpness, soundness out."""

import math
import os
from dataclasses import dataclass, field, fields, is_dataclass

import numpy as np

from intrinsic.images import BadImages, ImageSet, TooFewImages, load, match
from intrinsic.properties import dimension, sharpness
from intrinsic.properties.duplicates import near_duplicate_components
from intrinsic.properties.growth import cross_dimension, growth_exponent
from intrinsic.properties.interval import Interval, digits
from intrinsic.properties.measurement import grown, or_reason, smallest_class
from intrinsic.properties.neighbors import BadPoints, neighbors
from intrinsic.properties.soundness import Soundness, soundness
from intrinsic.properties.words import FEW, answer

LEAST = 4  # distinct images of which anything is measured
MOST_CLASSES = 20  # of a matrix of class pairs
APART = 0.5  # relative difference of two estimates of the dimension whose reason is looked for
TIES = 0.05  # share of images with two nearest ones at one distance or of one patient, that is a reason


@dataclass(frozen=True, eq=False)
class Growth:
    """How K_F grows with M images a class."""

    per_class: tuple[int, ...]  # M
    k_f: tuple[float, ...]  # mean K_F over balanced draws at each M
    exponent: Interval  # slope of log K_F on log M
    cross: Interval  # dimension D of the cross-class pairs; its `exponent` is 2/D, the slope that it predicts


@dataclass(frozen=True, eq=False)
class Measured:
    """What `measure` found about an image set."""

    d_data: Interval  # by maximum likelihood; without neighbors of the same group where d_data.excludes_group
    twonn: Interval  # by TwoNN, from the same neighbors
    d_all: Interval  # d_data from all neighbors
    label_sharpness: Interval  # K_F of all pairs, with pair (indices of the set as given); infinite with a conflict
    finite_sharpness: Interval  # the same without images that have a copy with another label
    sharpness_at_m: Interval  # mean over balanced draws of M = per_class images a class
    quantiles: tuple[Interval, ...]  # of quantile_sharpness
    control: Interval  # of same_label_control
    class_pairs: dict | None  # classes, and the matrix of class_pair_sharpness; None where there are not 3 to 20
    growth: Growth
    n: int
    shape: tuple[int, ...]  # pixels
    classes: dict[str, int]  # images of each class
    groups: int | None
    soundness: Soundness
    sharpest: tuple[tuple, ...]  # of sharpest_pairs, indices of the set as given
    warnings: tuple[str, ...]  # one sentence each
    images: ImageSet = field(repr=False)  # the set as given

    def __repr__(self):
        return answer(self).text()

    def _repr_html_(self):
        return answer(self).html()

    def to_dict(self):
        """All attributes by their names as plain numbers, texts and lists, for JSON; a missing number is None."""

        def plain(value):
            if isinstance(value, Interval):
                facts = {key: plain(one) for key, one in vars(value).items() if key not in ("low", "high", "method")}
                pair = {"pair": self._facts(value.pair)} if hasattr(value, "pair") else {}
                return value.to_dict() | facts | pair
            if hasattr(value, "to_dict"):
                return value.to_dict()
            if is_dataclass(value):
                value = vars(value)
            if isinstance(value, dict):
                return {key: plain(one) for key, one in value.items()}
            if isinstance(value, np.ndarray | tuple | list):
                return [plain(one) for one in value]
            value = value.item() if isinstance(value, np.generic) else value
            return None if isinstance(value, float) and not math.isfinite(value) else value

        named = [one.name for one in fields(self) if one.name not in ("images", "sharpest")]
        pairs = [{"images": self._facts((i, j)), "distance": d, "sharpness": s} for i, j, d, s in self.sharpest]
        found = {"name": self.images.name, **{name: plain(getattr(self, name)) for name in named}, "sharpest": pairs}
        return found | {"unreadable": [list(pair) for pair in self.images.unreadable]}

    def _facts(self, pair):
        """Index, label and path of images."""
        images, paths = self.images, self.images.paths
        facts = [{"index": int(i), "label": images.classes[int(images.labels[i])]} for i in pair or ()]
        return [one if paths is None else {**one, "path": str(paths[one["index"]])} for one in facts] or None


def measure(
    images,
    labels=None,
    group=None,
    *,
    size=None,
    channels=None,
    pixel_range="stored",
    white=1.0,
    k=20,
    per_class=250,
    progress=False,
) -> Measured:
    """Measure the dimension, the label sharpness and the soundness of an image set.

    Parameters
    ----------
    images : array, tensor, ImageSet, path, catalogue name or Entry
        uint8 (n, H, W) or (n, H, W, 3), floats in [0, white] of that shape or (n, C, H, W), which become grey levels;
        or what `load` reads. Exact copies are dropped and counted.
    labels, group : array (n,), optional
        With arrays: labels and patients, numbers or texts.
    size, channels, pixel_range
        Bring all images to one size, number of channels and range first, as `load` does.
    white : float
        Value of white in images of floats; others than 0 to `white` are refused.
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
        Floats outside 0 to white, or labels that do not fit.
    OneClass, TooFewImages

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> found = measure(rng.integers(0, 256, (80, 8, 8), dtype=np.uint8), ["a", "b"] * 40)
    >>> found.classes, found.label_sharpness.pair is not None
    ({'a': 40, 'b': 40}, True)
    """
    loaded = _image_set(images, labels, group, white, progress, size=size, channels=channels, pixel_range=pixel_range)
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
        warnings.append(f"The {len(clean)} distinct images are too few for {k} neighbors: the dimension uses {near_k}.")
    if FEW <= (m := min(per_class, least)) < per_class:  # below, the class is named
        warnings.append(
            f"The smallest class has {least} images, so label sharpness is of {m} a class, not {per_class}."
        )
    near = neighbors(clean, near_k, reserve=max(64, dimension.reserve(near_k)), progress=progress)
    d_all = dimension.mle_dimension(near, near_k)
    d_data, twonn, others, why = _other_groups(clean, near, near_k, d_all)
    families = near_duplicate_components(near)
    warnings += filter(None, [why or _why_apart(clean, others, d_data, twonn, families)])
    k_f, control = sharpness.label_sharpness(near), sharpness.same_label_control(near)
    for one in (k_f, control):  # from here on pairs count in the set as given
        one.pair = one.pair and tuple(int(original[i]) for i in one.pair)
    law = cross_dimension(near, group=families if clean.group is None else clean.group)
    sound = soundness(loaded, near)
    return Measured(
        d_data=d_data,
        twonn=twonn,
        d_all=d_all,
        label_sharpness=_conflict(loaded, found) if found.n_conflicting else k_f,
        finite_sharpness=k_f,
        sharpness_at_m=sharpness.mean_sharpness(near, per_class=m),
        quantiles=tuple(sharpness.quantile_sharpness(near)),
        control=control,
        class_pairs=_class_pairs(clean, near) if 2 < clean.n_classes <= MOST_CLASSES else None,
        growth=Growth(*map(tuple, grown(near, least)), or_reason(growth_exponent, near), law),
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
    """(MLE, TwoNN, their neighbors, warning): of other groups where groups are known and allow it."""
    others, why = near, ""
    if clean.group is not None and len(np.unique(clean.group)) < len(clean):
        try:
            others = neighbors(clean, k, exclude_group=True, reserve=dimension.reserve(k))
        except BadPoints as error:
            why = f"The dimension counts neighbors of the same group: {error}."
    d = d_all if others is near else dimension.mle_dimension(others, k)
    return d, dimension.twonn_dimension(others), others, why


def _why_apart(clean, near, d, twonn, families):
    """Why two estimates of the dimension differ by more than half of the smaller, in a sentence; else empty."""
    if not abs(d - twonn) > APART * min(d, twonn):
        return ""
    both = f"Two estimates of the dimension differ, {digits(d)} (20 neighbors) and {digits(twonn)} (two neighbors)"
    ties, why = float((near.distances[:, 0] == near.distances[:, 1]).mean()), []
    if ties > TIES:
        why.append(f"distances are coarse: for {ties:.0%} of the images the two nearest are equally far")
    if near.excludes_group and (one := np.diff(clean.group[near.indices[:, :2]]) == 0).mean() > TIES:
        why.append(f"for {one.mean():.0%} of the images the two nearest are of one other patient")
    if len(np.unique(families)) < len(families) and not near.excludes_group:
        others = neighbors(clean.images, 2, group=families, exclude_group=True)
        apart = dimension.twonn_dimension(others, interval=False)
        if abs(apart - twonn) > APART * min(apart, twonn):
            why.append(f"there are near-duplicates, and without them the second is {digits(apart)}")
    reason = " and ".join(why) or "noise or structure gives small distances another dimension than large ones"
    return f"{both}: {reason}. Trust neither beyond a factor of two."


def _class_pairs(clean, near):
    names = [clean.classes[c] for c in np.unique(clean.labels)]
    return {"classes": names, "sharpness": sharpness.class_pair_sharpness(near)}


def _conflict(images, found):
    """Infinite label sharpness, with two copies that have different labels."""
    copies = found.conflicting[0]
    labels = images.labels[copies]
    ends = [0, int((labels != labels[0]).argmax())]
    facts = {"pair": tuple(copies[ends].tolist()), "labels_of_pair": tuple(labels[ends].tolist()), "distance": 0.0}
    return Interval(math.inf, method="infinite: exact copies with different labels", n=len(images), **facts)


def _image_set(source, labels, group, white, progress, **matched):
    """The ImageSet that is meant, matched."""
    if isinstance(source, ImageSet) or not (hasattr(source, "__array__") or hasattr(source, "detach")):
        if labels is not None or group is not None:
            raise BadPoints("labels and group belong to arrays; an image set, a folder or a name has its own")
        if isinstance(source, ImageSet):
            return match(source, **matched)
        return load(os.fspath(source) if isinstance(source, os.PathLike) else source, progress=progress, **matched)
    pixels = source.detach().cpu().numpy() if hasattr(source, "detach") else np.asarray(source)
    if labels is None:
        raise BadImages(f"{len(pixels)} images have no labels, so no label ever changes: give labels, one an image")
    if pixels.ndim == 4 and pixels.shape[3] not in (1, 3) and pixels.shape[1] in (1, 3):
        pixels = np.moveaxis(pixels, 1, 3)
    if pixels.dtype.kind == "f":
        low, high = float(pixels.min()), float(pixels.max())
        if not (low >= 0 and high <= white):
            raise BadImages(f"the floats run from {low:g} to {high:g}, and 0 to {white:g} is expected: say what white "
                            "is, such as white=255")  # fmt: skip
        pixels = np.rint(pixels * (255 / white)).astype(np.uint8)
    names, codes = _coded(labels, "labels")
    known = None if group is None else _coded(group, "groups")[1]
    return match(ImageSet(pixels, codes, names, group=known), **matched)


def _coded(values, what):
    """(names, codes) of labels or groups, numbers or texts."""
    values = values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)
    if any(value is None or str(value) == "nan" for value in values.tolist()):
        raise BadImages(f"some {what} are missing: give one an image")
    names, codes = np.unique(values.astype(str) if values.dtype.kind == "O" else values, return_inverse=True)
    return tuple(str(name) for name in names), codes
