"""Soundness of an image set: what to look at before a number of it is trusted.

    soundness   exact copies, near-duplicates, shortcuts, leaks, class balance, constant and unreadable images
    write_csv   the flagged files and pairs as a table that spreadsheets read as text

A shortcut is told by brightness and border alone, a leak by nearest neighbors: their accuracy with and without images
of the same patient. Both are balanced accuracies with 95 % intervals over groups:

    accuracy = mean over classes of the share of its images that are told right;    chance is 1 / classes

The interval treats the labels of groups (patients, or families of near-duplicates) as independent. With w_i = 1 /
(classes x images of the class of i), a_c the share of class c that is told right and e_i = w_i (hit_i - a_c),
    se^2 = G / (G - 1) sum over images i, j that share a group of e_i e_j,
where an image has its own group and, for nearest images, that of the image that tells it; or the same sum over images'
own groups alone, where that is larger. The interval is Wilson's at the effective number a (1 - a) / se^2, with t
instead of the normal quantile, its degrees of freedom one below the groups of the poorest class; of a difference it is
+- t se. Where se is 0, groups are counted instead. Classes of fewer than five groups are left out.
Sources: pairs that share a group: Aronow, Samii & Assenova 2015; effective number: Korn & Graubard 1998.
"""

import csv
import math
import os
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

import numpy as np
from scipy.special import stdtrit  # scipy.stats takes a second to load

from intrinsic.properties.dimension import reserve
from intrinsic.properties.duplicates import K, components, near_duplicate_links
from intrinsic.properties.interval import LEVEL, Interval
from intrinsic.properties.neighbors import BadPoints, as_labels, neighbors
from intrinsic.properties.sharpness import sharpest_pairs

FOLDS = 5
SHORTCUT = 0.80  # balanced accuracy of brightness and border from which they are a warning
LEAK = 0.05  # drop of the nearest neighbor's accuracy, lower limit, from which it is a warning
LINKED = 0.10  # share of near-duplicates from which they are a warning: clean sets have up to that by chance
NEARLY = 2.0  # grey levels of standard deviation below which an image is nearly constant
NO_ERROR = 1e-9  # a standard error that is rounding only
IMBALANCE = 2.0  # largest / smallest class
EXACT, CONFLICTING = "exact duplicate", "conflicting duplicate"
ACROSS_CLASSES, ACROSS_GROUPS = "near-duplicate across classes", "near-duplicate across groups"
SHARPEST, CONSTANT, NEARLY_CONSTANT, UNREADABLE = "sharpest pair", "constant", "nearly constant", "unreadable"
TOO_FEW = f"fewer than two classes have {FOLDS} groups or families of near-duplicates"
COLUMNS = (
    "kind", "first", "second", "first_label", "second_label", "first_group", "second_group", "distance",
    "first_index", "second_index", "note",
)  # fmt: skip


@dataclass(frozen=True)
class Soundness:
    """What `soundness` found; numbers only, `warnings` says it in sentences and `to_dict` for JSON.

    n, distinct          images as loaded, and those of the neighbor pass: without exact copies and conflicting images
    counts               {class: images} without copies of the same label
    groups               how many; None where patients are unknown
    copies, conflicting  images with an earlier copy of the same label; images with a copy of another label
    linked               images with a near-duplicate
    links                {(same label, same group): pairs}; where groups are unknown, same group is None
    few                  names of classes of fewer than FOLDS groups, which the accuracies leave out
    shortcut             balanced accuracy of brightness and border, out of fold; NaN with method the reason
    by_image, by_group   balanced accuracy of the nearest image, and of the nearest image of another group
    drop                 by_image - by_group
    constant, nearly_constant, unreadable    images, and files
    flagged              one dict a flagged file or pair, with the keys COLUMNS
    """

    n: int
    distinct: int
    counts: dict[str, int]
    groups: int | None
    copies: int
    conflicting: int
    linked: int
    links: dict[tuple[bool, bool | None], int]
    few: tuple[str, ...]
    shortcut: Interval
    by_image: Interval
    by_group: Interval
    drop: Interval
    constant: int
    nearly_constant: int
    unreadable: int
    flagged: tuple[dict, ...] = field(repr=False, compare=False)

    @property
    def chance(self) -> float:
        """Balanced accuracy of guessing: 1 / classes that the accuracies are of."""
        return 1 / max(1, sum(n > 0 for n in self.counts.values()) - len(self.few))

    @property
    def imbalance(self) -> float:
        """Images of the largest class / of the smallest that has any."""
        present = [n for n in self.counts.values() if n]
        return max(present) / min(present)

    @property
    def leaks(self) -> bool:
        """Whether the nearest image tells clearly more than the nearest one of another group."""
        return self.drop.low > LEAK

    @property
    def unit(self) -> str:
        """What is left out of the nearest neighbors: groups, or families of near-duplicates."""
        return "group" if self.groups is not None else "family of near-duplicates"

    @property
    def warnings(self) -> list[str]:
        """One sentence each: what was found, what it means, what to check."""
        known, advice = self.groups is not None, "split by patient, once you know which images belong to one"
        advice = "split by group" if known else advice
        apart = "the nearest of another group" if known else "the nearest that is no near-duplicate"
        told = f"the nearest image tells the label with {self.by_image:.2f}, and {apart} with {self.by_group:.2f}"
        crowded = self.linked > LINKED * self.distinct and not self.leaks
        found = (
            (self.copies, f"{self.copies} exact copies with the same label were dropped"),
            (self.conflicting, f"{self.conflicting} images have an exact copy with another label, which makes label "
             "sharpness infinite; the finite value leaves them out"),
            (crowded, f"{self.linked} of {self.distinct} images have a near-duplicate: {advice}"),
            (self.shortcut > SHORTCUT, f"brightness and border alone tell the classes with a balanced accuracy of "
             f"{self.shortcut}: check whether classes come from different scanners, sources or exports"),
            (self.leaks, f"leaks by image: {told}: {advice}"),
            (self.imbalance > IMBALANCE, f"the largest class is {self.imbalance:.1f} times the smallest, and balanced "
             "splits use the smallest"),
            (self.constant, f"{self.constant} images have all pixels equal and show nothing"),
            (self.nearly_constant, f"{self.nearly_constant} images are nearly constant"),
            (self.unreadable, f"{self.unreadable} files cannot be read, and were left out"),
        )  # fmt: skip
        return [text for applies, text in found if applies]

    def to_dict(self) -> dict:
        """The same as plain numbers, texts and lists, for JSON; what is not to be had is None."""
        kinds = [row["kind"] for row in self.flagged]
        pairs = [{"same_label": a, "same_group": b, "pairs": n} for (a, b), n in self.links.items()]
        return {
            "distinct": self.distinct,
            "classes": self.counts,
            "imbalance": self.imbalance,
            "groups": self.groups,
            "copies": self.copies,
            "conflicting": self.conflicting,
            "near_duplicates": {"images": self.linked, "pairs": pairs},
            "chance": self.chance,
            "classes_left_out": list(self.few),
            "shortcut": {**self.shortcut.to_dict(), "warning_above": SHORTCUT},
            "nearest": {
                "left_out": self.unit,
                "by_image": self.by_image.to_dict(),
                "by_group": self.by_group.to_dict(),
                "drop": {**self.drop.to_dict(), "warning_above": LEAK},
                "leaks": self.leaks,
            },
            "constant": self.constant,
            "nearly_constant": self.nearly_constant,
            "unreadable": self.unreadable,
            "flagged": {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)},
            "warnings": self.warnings,
        }

    def suspects(self, most: int = 6) -> list[dict]:
        """The flagged pairs to look at first, `most` at most: of each kind the closest, in turn."""
        kinds = [
            [row for row in self.flagged if row["kind"] == k] for k in (CONFLICTING, ACROSS_CLASSES, ACROSS_GROUPS)
        ]
        return [row for turn in zip_longest(*kinds) for row in turn if row is not None][:most]


def soundness(images, near=None, *, groups=None, seed: int = 0) -> Soundness:
    """Check whether an image set is sound enough to ask more of it.

    Parameters
    ----------
    images : ImageSet
        As loaded, before copies are dropped.
    near : Neighbors, optional
        Of images.drop_duplicates(conflicting=True), with labels and no group left out; found here by default.
    groups : int array (n,), optional
        Instead of images.group; families of near-duplicates stand in where both are None.
    seed : int
        Of the folds of the shortcut's accuracy.

    Returns
    -------
    Soundness
        Flagged pairs have one row, under the first kind that fits: exact and conflicting duplicates, near-duplicates
        across classes and across groups (where these are known), the five sharpest pairs.

    Raises
    ------
    BadPoints
        Neighbors of other images.

    Examples
    --------
    >>> import numpy as np
    >>> from intrinsic.images.sets import ImageSet
    >>> pixels = np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8)
    >>> pixels[2] = pixels[0]
    >>> soundness(ImageSet(pixels, np.arange(60) % 2, ("a", "b"))).warnings
    ['1 exact copies with the same label were dropped']
    """
    found = images.duplicates()
    rows = images.distinct(conflicting=True)
    labels = images.labels[rows]
    if near is None:
        near = neighbors(images[rows], min(20, len(rows) - 1), reserve=reserve(20))
    if near.n != len(rows) or not np.array_equal(near.labels, labels) or near.excludes_group:
        raise BadPoints(f"the neighbors are of {near.n} points, and {images.name} has {len(rows)} distinct images")
    groups = images.group if groups is None else as_labels(groups, len(images), "groups")
    i, j, distance = near_duplicate_links(near)
    unit = components(i, j, len(rows)) if groups is None else groups[rows]
    unit = np.unique(unit, return_inverse=True)[1]
    one_label, one_group = labels[i] == labels[j], unit[i] == unit[j]
    by_image, by_group, drop = nearest_accuracy(near, unit)
    spread = _spread(images)
    constant, nearly = np.flatnonzero(spread == 0), np.flatnonzero((spread > 0) & (spread < NEARLY))
    kept = images.distinct()
    crossing = [~one_label, one_label & ~one_group & (groups is not None)]
    flagged = [
        *_copies(images, found),
        *((kind, rows[i[m]], rows[j[m]], distance[m]) for kind, which in zip((ACROSS_CLASSES, ACROSS_GROUPS), crossing,
          strict=True) for m in np.flatnonzero(which)),
        *((SHARPEST, rows[a], rows[b], d) for a, b, d, _ in sharpest_pairs(near, n=5)),
        *((CONSTANT, a, -1, math.nan) for a in constant),
        *((NEARLY_CONSTANT, a, -1, math.nan) for a in nearly),
    ]  # fmt: skip
    return Soundness(
        n=len(images),
        distinct=len(rows),
        counts=images[kept].counts(),
        groups=None if groups is None else len(np.unique(groups)),
        copies=found.n_copies,
        conflicting=found.n_conflicting,
        linked=len(np.union1d(i, j)),
        links={
            (label, group): int(((one_label == label) & ((group is None) | (one_group == group))).sum())
            for label in (True, False)
            for group in ((None,) if groups is None else (True, False))
        },
        few=tuple(images.classes[c] for c in np.setdiff1d(labels, _enough(labels, unit))),
        shortcut=shortcut_accuracy(images[rows], unit, seed=seed),
        by_image=by_image,
        by_group=by_group,
        drop=drop,
        constant=len(constant),
        nearly_constant=len(nearly),
        unreadable=len(images.unreadable),
        flagged=_table(images, groups, flagged),
    )


# ------------------------------------------------------------------------------------------- accuracies


def shortcut_accuracy(images, groups, *, seed: int = 0) -> Interval:
    """Balanced accuracy, out of fold, of telling the label by brightness and border alone.

    Ridge regression, classes weighted equally, in the seven statistics of brightness_statistics, their squares and
    their products. FOLDS folds of whole groups, stratified by the label of most of a group's images. It is a lower
    bound of what brightness tells. NaN with the reason as method where fewer than two classes have FOLDS groups.
    """
    from sklearn.linear_model import RidgeClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    enough = _enough(images.labels, groups)
    if len(enough) < 2:
        return Interval(math.nan, method=TOO_FEW)
    chosen = np.isin(images.labels, enough)
    images = images[chosen]
    labels = np.unique(images.labels, return_inverse=True)[1]
    groups = np.unique(groups[chosen], return_inverse=True)[1]
    fold = _folds(labels, groups, seed)
    if any(len(np.unique(labels[fold != f])) < len(enough) for f in range(FOLDS)):
        return Interval(math.nan, method="the groups of some class fall into one fold")
    x, told = brightness_statistics(images), np.empty_like(labels)
    for f in range(FOLDS):
        squares = PolynomialFeatures(2, include_bias=False)
        ridge = RidgeClassifier(alpha=1.0, class_weight="balanced")
        model = make_pipeline(StandardScaler(), squares, StandardScaler(), ridge)
        told[fold == f] = model.fit(x[fold != f], labels[fold != f]).predict(x[fold == f])
    return _accuracy(told == labels, labels, groups)


def brightness_statistics(images) -> np.ndarray:
    """float64 (n, 7) in grey levels: mean, deviation, 10, 50 and 90 % percentiles, border mean, border deviation.

    A percentile is the smallest grey level that as many pixels do not exceed. The border is a ring of 1/16 of the
    shorter side, at least one pixel. Color is made grey first.
    """
    from intrinsic.images.matching import grey

    pixels = images.images if images.channels == 1 else grey(images.images)
    height, width = images.size
    ring, thick = np.ones((height, width), dtype=bool), max(1, min(height, width) // 16)
    ring[thick:-thick, thick:-thick] = False
    levels, border = _histograms(pixels.reshape(len(pixels), -1)), _histograms(pixels[:, ring])
    below = np.cumsum(levels, axis=1) / (height * width)
    percentiles = [(below >= q).argmax(axis=1) for q in (0.1, 0.5, 0.9)]
    return np.column_stack([*_moments(levels), *percentiles, *_moments(border)])


def nearest_accuracy(near, groups) -> tuple[Interval, Interval, Interval]:
    """Balanced accuracy of the label of the nearest image, of the nearest one of another group, and their difference.

    Where images of a group share their label, the nearest image tells it by knowing the patient: the accuracy falls
    once the group is left out. Images of classes of fewer than FOLDS groups are neighbors, but are not told.
    """
    enough = _enough(near.labels, groups)
    if len(enough) < 2:
        return (Interval(math.nan, method=TOO_FEW),) * 3
    groups = np.unique(groups, return_inverse=True)[1]
    index = near.nearest(min(K, near.n - 1))[1]
    other = groups[index] != groups[:, None]
    apart = index[np.arange(near.n), other.argmax(axis=1)]
    inside = ~other.any(axis=1)  # all in the lists are of the image's own group
    if inside.any():
        apart[inside] = neighbors(near.points, 1, group=groups, exclude_group=True).indices[inside, 0]
    chosen = np.isin(near.labels, enough)
    hit, hit_apart = (near.labels[to[chosen]] == near.labels[chosen] for to in (index[:, 0], apart))
    labels = np.unique(near.labels[chosen], return_inverse=True)[1]
    own, told_by, apart_by = groups[chosen], groups[index[chosen, 0]], groups[apart[chosen]]
    value, se, t = _clustered(hit.astype(float) - hit_apart, labels, own, apart_by)
    half = t * se if se > NO_ERROR else t**2 / (_counted(labels, own) + t**2)
    drop = Interval(value, max(-1, value - half), min(1, value + half))
    return _accuracy(hit, labels, own, told_by), _accuracy(hit_apart, labels, own, apart_by), drop


def _enough(labels, groups):
    """Labels that FOLDS groups or more have."""
    values, each = np.unique(np.unique([labels, groups], axis=1)[0], return_counts=True)
    return values[each >= FOLDS]


def _clustered(values, labels, groups, others=None):
    """(mean over classes of the mean of a class, its standard error, quantile of t); see the top of the module.

    others   group of the image that tells each; the image's own where it is told by none
    """
    counts = np.bincount(labels)
    means = np.bincount(labels, values) / counts
    e = (values - means[labels]) / counts[labels] / len(counts)
    size = groups.max() + 1 if others is None else max(groups.max(), others.max()) + 1
    own = np.bincount(groups, e, minlength=size)
    squared = (own**2).sum()
    if others is not None:
        two = others != groups
        either = own + np.bincount(others[two], e[two], minlength=size)
        low, high = np.sort([groups[two], others[two]], axis=0)
        both = np.bincount(np.unique(low * size + high, return_inverse=True)[1], e[two])  # counted with either group
        squared = max(squared, (either**2).sum() - (both**2).sum())
    g = len(np.unique(groups))
    poorest = min(len(np.unique(groups[labels == c])) for c in range(len(counts)))
    return float(means.mean()), math.sqrt(g / (g - 1) * squared), stdtrit(max(1, poorest - 1), (1 + LEVEL) / 2)


def _accuracy(hit, labels, groups, others=None):
    value, se, t = _clustered(hit.astype(float), labels, groups, others)
    effective = value * (1 - value) / se**2 if se > NO_ERROR else _counted(labels, groups)
    middle = (value + t**2 / (2 * effective)) / (1 + t**2 / effective)
    half = t / (1 + t**2 / effective) * math.sqrt(value * (1 - value) / effective + t**2 / (4 * effective**2))
    return Interval(value, max(0.0, middle - half), min(1.0, middle + half), n=len(hit))


def _counted(labels, groups):
    """Effective number of images where all groups of a class are told alike: classes^2 / sum of 1 / its groups."""
    each = [len(np.unique(groups[labels == c])) for c in range(labels.max() + 1)]
    return len(each) ** 2 / sum(1 / n for n in each)


def _folds(labels, groups, seed):
    """Fold of each image: whole groups, dealt in turn within each stratum, the largest first, equal ones at random."""
    table = np.zeros((groups.max() + 1, labels.max() + 1), dtype=int)
    np.add.at(table, (groups, labels), 1)
    stratum, size = table.argmax(axis=1), table.sum(axis=1)
    fold, dealt = np.empty(len(table), dtype=int), 0
    mixed = np.random.default_rng(seed).permutation(len(table))
    order = mixed[np.lexsort((-size[mixed], stratum[mixed]))]
    for s in np.unique(stratum):
        mine = order[stratum[order] == s]
        fold[mine] = (dealt + np.arange(len(mine))) % FOLDS
        dealt += len(mine)
    return fold[groups]


# ------------------------------------------------------------------------------------------ grey levels


def _histograms(pixels):
    """How many pixels of each image have each grey level: uint8 (n, p) to int64 (n, 256)."""
    out, step = np.empty((len(pixels), 256), dtype=np.int64), max(1, 2**22 // pixels.shape[1])
    for start in range(0, len(pixels), step):
        part = pixels[start : start + step].astype(np.int64)
        part += 256 * np.arange(len(part))[:, None]
        out[start : start + step] = np.bincount(part.ravel(), minlength=256 * len(part)).reshape(-1, 256)
    return out


def _moments(histograms):
    """Mean and standard deviation, exactly 0 where all pixels are equal."""
    levels, n = np.arange(256), histograms[0].sum()
    first, second = histograms @ levels, histograms @ levels**2
    return first / n, np.sqrt(n * second - first**2) / n


def _spread(images):
    """Standard deviation of the grey levels of each image; in color that of the channel where it is largest."""
    channels = images.images.reshape(len(images), -1, images.channels)
    return np.max([_moments(_histograms(channels[..., c]))[1] for c in range(images.channels)], axis=0)


# ------------------------------------------------------------------------------------- flagged rows


def _copies(images, found):
    """(kind, first, copy, 0.0) of each image after the first of its copies.

    A copy is shown with the first of its label, or with the first of all where its label is new among them.
    """
    for copies in found.same_label + found.conflicting:
        first = {}
        for one in copies:
            label = images.labels[one]
            if label in first:
                yield EXACT, first[label], one, 0.0
            elif first:
                yield CONFLICTING, copies[0], one, 0.0
            first.setdefault(label, one)


def _table(images, groups, flagged):
    """One dict with COLUMNS for each flagged (kind, index, index or -1, distance), and for each unreadable file."""
    names = [f"image {i}" for i in range(len(images))] if images.paths is None else images.paths
    seen, out = set(), []
    for kind, i, j, distance in flagged:
        pair = (min(i, j), max(i, j))
        if j >= 0 and pair in seen:
            continue
        seen.add(pair)
        row = dict.fromkeys(COLUMNS, "") | {"kind": kind, "distance": None if math.isnan(distance) else float(distance)}
        for side, one in (("first", int(i)), ("second", int(j))):
            if one >= 0:
                row |= {side: names[one], f"{side}_label": images.classes[images.labels[one]], f"{side}_index": one}
                row |= {} if groups is None else {f"{side}_group": groups[one].item()}
        out.append(row)
    empty = dict.fromkeys(COLUMNS, "") | {"kind": UNREADABLE, "distance": None}
    return (*out, *(empty | {"first": path, "note": reason} for path, reason in images.unreadable))


def write_csv(flagged, path) -> None:
    """Write flagged rows to a CSV file (UTF-8), whole or not at all; another table under that name is left alone.

    A text that begins with = + - @, a tab or a line break could run as a formula where a spreadsheet opens the file, so
    an apostrophe is put before it.
    """
    path = Path(path).expanduser()
    if path.exists():
        with open(path, encoding="utf-8", errors="replace", newline="") as file:
            header = next(csv.reader(file), [])
        if header and tuple(header) != COLUMNS:
            raise ValueError(f"{path} holds another table, which would be lost: name another file")
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        with open(draft, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
            writer.writerow(COLUMNS)
            for row in flagged:
                cells = (row[column] for column in COLUMNS)
                writer.writerow(["'" + c if isinstance(c, str) and c[:1] in tuple("=+-@\t\r\n") else c for c in cells])
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
