"""Soundness of an image set: what to look at before a number of it is trusted.

    report      exact copies, near-duplicates, shortcuts, leaks, class balance, constant and unreadable images
    write_csv   the flagged files and pairs as a table that spreadsheets read as text

A shortcut is told by brightness and border alone, a leak by nearest neighbors: their accuracy with and without images
of the same patient. Both are balanced accuracies with 95 % intervals over groups:

    accuracy = mean over classes of the share of its images that are told right;    chance is 1 / classes

The interval treats the labels of groups (patients, or families of near-duplicates) as independent. With w_i = 1 /
(classes x images of the class of i), a_c the share of class c that is told right and e_i = w_i (hit_i - a_c),
    se^2 = G / (G - 1) sum over images i, j that share a group of e_i e_j,
where an image has its own group and, for nearest images, that of the image that tells it, so that a patient who is
nearest to many widens the interval; or the same sum over images' own groups alone, where that is larger. The interval
is Wilson's at the effective number a (1 - a) / se^2, with t instead of the normal quantile, its degrees of freedom one
below the groups of the poorest class; of a difference it is +- t se. Where se is 0, groups are counted instead: G_c in
class c make the effective number classes^2 / sum 1 / G_c, and a difference is +- Wilson's upper limit of a share of 0.
Classes of fewer than five groups are left out of both.
Sources: pairs that share a group: Aronow, Samii & Assenova 2015; effective number: Korn & Graubard 1998.
"""

import bisect
import csv
import math
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import t as student
from sklearn.linear_model import RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from intrinsic.campaigns import records
from intrinsic.images import ImageSet, reachable
from intrinsic.images.matching import grey
from intrinsic.properties import neighbors, sharpness
from intrinsic.properties.dimension import LEVEL, Estimate, reserve

K = 20  # neighbors of a pass of report's own
LISTS = 64  # neighbors of each image among which those of another group are looked for, before a pass of its own
FOLDS = 5
SHORTCUT = 0.80  # balanced accuracy of brightness and border from which they are a warning
LEAK = 0.05  # drop of the nearest neighbor's accuracy, lower limit, from which it is a warning
LINKED = 0.10  # share of near-duplicates from which they are a warning: clean sets have up to that by chance
NEARLY = 2.0  # grey levels of standard deviation below which an image is nearly constant
NO_ERROR = 1e-9  # a standard error that is rounding only
IMBALANCE = 2.0  # largest / smallest class
SIZES = (500, 750, 1000, 1250, 1500, 1750)  # N of the training sets of the study
STATISTICS = ("mean", "standard deviation", "10 %", "50 %", "90 %", "border mean", "border standard deviation")
EXACT, CONFLICTING = "exact duplicate", "conflicting duplicate"
ACROSS_CLASSES, ACROSS_GROUPS = "near-duplicate across classes", "near-duplicate across groups"
SHARPEST, CONSTANT, NEARLY_CONSTANT, UNREADABLE = "sharpest pair", "constant", "nearly constant", "unreadable"
TOO_FEW = f"fewer than two classes have {FOLDS} groups or families of near-duplicates"
COLUMNS = (
    "kind", "first", "second", "first_label", "second_label", "first_group", "second_group", "distance",
    "first_index", "second_index", "note",
)  # fmt: skip


class OtherImages(ValueError):
    """Neighbors of other images than those that are reported on."""


@dataclass(frozen=True)
class Soundness:
    """What `report` found; numbers only, `rows`, `warnings` and `facts` say it in words.

    n, distinct          images as loaded, and those of the neighbor pass: without exact copies and conflicting images
    counts               {class: images} without copies of the same label
    groups               how many; None where patients are unknown
    copies, conflicting  images with an earlier copy of the same label; images with a copy of another label
    linked               images with a near-duplicate
    links                {(same label, same group): pairs}; where groups are unknown, same group is None
    few                  names of classes of fewer than FOLDS groups, which the accuracies leave out
    shortcut             balanced accuracy of brightness and border, out of fold; Estimate, NaN with method the reason
    by_image, by_group   balanced accuracy of the nearest image, and of the nearest image of another group
    drop                 by_image - by_group
    constant, nearly_constant, unreadable    images, and files
    unreachable, unreachable_reason          training sizes N that a split cannot give, and why
    flagged              one row a flagged file or pair: a DataFrame with COLUMNS
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
    shortcut: Estimate
    by_image: Estimate
    by_group: Estimate
    drop: Estimate
    constant: int
    nearly_constant: int
    unreadable: int
    unreachable: tuple[int, ...]
    unreachable_reason: str
    flagged: pd.DataFrame = field(repr=False, compare=False)

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

    def rows(self) -> list[dict]:
        """The table of facts: what, value, meaning; all texts."""
        pairs = self.links

        def of(same_label):
            counted = {group: n for (label, group), n in pairs.items() if label == same_label}
            if self.groups is None:
                return f"{counted[None]:,}", "patients are unknown"
            return f"{sum(counted.values()):,}", f"{counted[False]:,} of them of two groups"

        unknown, most = self.groups is None, len(SIZES) - len(self.unreachable)
        chance = f"balanced accuracy; chance is {self.chance:.2f}"
        if self.few:
            chance += f"; without {', '.join(self.few)}, of fewer than {FOLDS} {'families' if unknown else 'groups'}"
        rows = [(f"images of class {name}", f"{n:,}", "without copies") for name, n in self.counts.items()]
        rows += [
            ("largest class / smallest", f"{self.imbalance:.1f}", "splits use as many of each as the smallest has"),
            ("groups", "unknown", "near-duplicates are kept together instead") if unknown
            else ("groups", f"{self.groups:,}", "never on both sides of a split"),
            ("exact copies, same label", f"{self.copies:,}", "dropped"),
            ("exact copies, different labels", f"{self.conflicting:,}", "images; label sharpness is infinite with any"),
            ("images with a near-duplicate", f"{self.linked:,} ({self.linked / self.distinct:.1%})",
             f"nearer than a smooth set allows; up to {LINKED:.0%} by chance"),
            ("near-duplicate pairs, one label", *of(True)),
            ("near-duplicate pairs, two labels", *of(False)),
            ("told by brightness and border alone", _shown(self.shortcut), self.shortcut.method or chance),
            ("told by the nearest image", _shown(self.by_image), self.by_image.method or chance),
            ("told by the nearest that is no near-duplicate" if unknown else "told by the nearest of another group",
             _shown(self.by_group), self.by_group.method or chance),
            ("drop between the last two", _shown(self.drop), f"a leak where all of the interval is above {LEAK:g}"),
            ("constant images", f"{self.constant:,}", "all pixels equal"),
            ("nearly constant images", f"{self.nearly_constant:,}", f"standard deviation below {NEARLY:g} grey levels"),
            ("unreadable files", f"{self.unreadable:,}", "left out"),
            ("training sizes N", "all" if most == len(SIZES) else f"up to {SIZES[most - 1]}" if most else "none",
             self.reach or "of " + ", ".join(map(str, SIZES))),
        ]  # fmt: skip
        return [dict(zip(("what", "value", "meaning"), row, strict=True)) for row in rows]

    @property
    def reach(self) -> str:
        """Which training sizes a split cannot give, and why; "" where it gives all."""
        if not self.unreachable:
            return ""
        return f"N = {self.unreachable[0]} and above cannot be reached: {self.unreachable_reason}"

    @property
    def warnings(self) -> list[str]:
        """One sentence each: what was found, what it means, what to check."""
        out = []
        if self.copies:
            out.append(f"{self.copies} exact copies with the same label were dropped")
        if self.conflicting:
            out.append(
                f"{self.conflicting} images have an exact copy with another label, so label sharpness is infinite; "
                "the finite value leaves them out"
            )
        if self.linked > LINKED * self.distinct and not self.leaks:
            out.append(
                f"{self.linked} of {self.distinct} images have a near-duplicate, so a split by image leaks: "
                + ("split by group" if self.groups is not None else "find out which belong to one patient")
            )
        if self.shortcut > SHORTCUT:
            out.append(
                f"brightness and border alone tell the classes with a balanced accuracy of {_shown(self.shortcut)}: "
                "no proof of confounding, since a real sign can change brightness, but check whether the classes come "
                "from different scanners, sources or exports"
            )
        if self.leaks and self.groups is not None:
            out.append(
                f"leaks by image: split by group, for the nearest image tells the label with {self.by_image:.2f} and "
                f"the nearest one of another group with {self.by_group:.2f}"
            )
        elif self.leaks:
            out.append(
                f"leaks by image: the nearest image tells the label with {self.by_image:.2f}, and with "
                f"{self.by_group:.2f} once near-duplicates are left out; patients are unknown, so find them and split "
                "by them"
            )
        if self.imbalance > IMBALANCE:
            out.append(
                f"the largest class is {self.imbalance:.1f} times the smallest, and balanced splits use the smallest"
            )
        if self.constant:
            out.append(f"{self.constant} images have all pixels equal and show nothing: --flagged FILE.csv lists them")
        if self.nearly_constant:
            out.append(f"{self.nearly_constant} images are nearly constant: --flagged FILE.csv lists them")
        if self.unreadable:
            files = "1 file" if self.unreadable == 1 else f"{self.unreadable} files"
            out.append(f"{files} cannot be read, and left out: --flagged FILE.csv lists the reasons")
        return out

    def facts(self) -> dict:
        """The same as plain numbers, texts and lists, for JSON; what is not to be had is None."""
        return {
            "distinct": self.distinct,
            "classes": self.counts,
            "imbalance": self.imbalance,
            "groups": self.groups,
            "copies": self.copies,
            "conflicting": self.conflicting,
            "near_duplicates": {
                "images": self.linked,
                "pairs": [
                    {"same_label": label, "same_group": group, "pairs": n} for (label, group), n in self.links.items()
                ],
            },
            "chance": self.chance,
            "classes_left_out": list(self.few),
            "shortcut": {**_plain(self.shortcut), "warning_above": SHORTCUT},
            "nearest": {
                "left_out": self.unit,
                "by_image": _plain(self.by_image),
                "by_group": _plain(self.by_group),
                "drop": {**_plain(self.drop), "warning_above": LEAK},
                "leaks": self.leaks,
            },
            "constant": self.constant,
            "nearly_constant": self.nearly_constant,
            "unreadable": self.unreadable,
            "unreachable": {"n_train": list(self.unreachable), "reason": self.unreachable_reason},
            "flagged": {str(kind): int(n) for kind, n in self.flagged["kind"].value_counts(sort=False).items()},
            "warnings": self.warnings,
        }

    def suspects(self, most: int = 6) -> pd.DataFrame:
        """The flagged pairs to look at first, `most` at most: of each kind the closest, in turn."""
        kinds = (CONFLICTING, ACROSS_CLASSES, ACROSS_GROUPS)
        pairs = self.flagged[self.flagged["kind"].isin(kinds)]
        turn = pairs.groupby("kind", sort=False).cumcount()
        return pairs.iloc[np.argsort(turn, kind="stable")[:most]]


def report(images: ImageSet, near=None, *, groups=None, seed: int = 0) -> Soundness:
    """Whether an image set is sound enough to ask more of it, as Soundness.

    images  as loaded, before copies are dropped
    near    Neighbors of images.drop_duplicates(conflicting=True), with labels and no group left out; a pass of its own
            where not given
    groups  int (n,), instead of images.group; families of near-duplicates stand in where both are None
    seed    of the folds, and of the split whose reach is told
    Raises OtherImages.

    Flagged pairs have one row, under the first kind that fits: exact and conflicting duplicates, near-duplicates
    across classes and across groups (where these are known), the five sharpest pairs. Of copies, each image after the
    first has a row: with the first of its label or, where its label is new among them, with the first of all.
    """
    found = images.duplicates()
    rows = images.distinct(conflicting=True, found=found)
    labels = images.labels[rows]
    if near is None:
        near = neighbors.neighbors(images[rows], min(K, len(rows) - 1), reserve=reserve(K))
    if near.n != len(rows) or not np.array_equal(near.labels, labels) or near.excludes_group:
        raise OtherImages(
            f"the neighbors are of {near.n} points, and {images.name} has {len(rows)} distinct images with labels: "
            "give those of images.drop_duplicates(conflicting=True), with no group left out"
        )
    groups = images.group if groups is None else neighbors.as_labels(groups, len(images), "groups")
    i, j, distance = neighbors.near_duplicate_links(near)
    unit = neighbors.components(i, j, len(rows)) if groups is None else groups[rows]
    unit = np.unique(unit, return_inverse=True)[1]
    one_label, one_group = labels[i] == labels[j], unit[i] == unit[j]
    known = (None,) if groups is None else (True, False)
    by_image, by_group, drop = nearest_accuracy(near, unit)
    spread = _spread(images)
    constant, nearly = spread == 0, (spread > 0) & (spread < NEARLY)
    kept = images.distinct(found=found)
    unreachable, why = _unreachable(images[kept], _split_groups(groups, kept, rows, unit), seed)
    pairs = pd.DataFrame({"i": rows[i], "j": rows[j], "distance": distance})
    pairs["kind"] = np.where(one_label, ACROSS_GROUPS, ACROSS_CLASSES)
    crossing = ~one_label | (~one_group & (groups is not None))
    flagged = [
        *_copies(images, found),
        *pairs.loc[crossing, ["kind", "i", "j", "distance"]].sort_values("kind", kind="stable").itertuples(index=False),
        *((SHARPEST, rows[a], rows[b], d) for a, b, d, _ in sharpness.sharpest_pairs(near, n=5)),
        *((CONSTANT, a, -1, math.nan) for a in np.flatnonzero(constant)),
        *((NEARLY_CONSTANT, a, -1, math.nan) for a in np.flatnonzero(nearly)),
    ]
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
            for group in known
        },
        few=tuple(images.classes[c] for c in np.setdiff1d(labels, _enough(labels, unit))),
        shortcut=shortcut_accuracy(images[rows], unit, seed=seed),
        by_image=by_image,
        by_group=by_group,
        drop=drop,
        constant=int(constant.sum()),
        nearly_constant=int(nearly.sum()),
        unreadable=len(images.unreadable),
        unreachable=unreachable,
        unreachable_reason=why,
        flagged=_table(images, groups, flagged),
    )


# ------------------------------------------------------------------------------------------- accuracies


def shortcut_accuracy(images: ImageSet, groups, *, seed: int = 0) -> Estimate:
    """Balanced accuracy, out of fold, of telling the label by brightness and border alone.

    Least squares with a small penalty, classes weighted equally, in the seven statistics of brightness_statistics,
    their squares and their products: no iteration, whatever the statistics are like. FOLDS folds of whole groups,
    stratified by the label of most of a group's images. It is a lower bound of what brightness tells: more flexible
    classifiers can find more.

    groups   int (n,): patients, or families of near-duplicates
    Classes of fewer than FOLDS groups are left out; NaN with the reason as method where fewer than two are left.
    Interval: see above, given the folds.
    """
    enough = _enough(images.labels, groups)
    if len(enough) < 2:
        return Estimate(math.nan, method=TOO_FEW)
    chosen = np.isin(images.labels, enough)
    images = images[chosen]
    labels = np.unique(images.labels, return_inverse=True)[1]
    groups = np.unique(groups[chosen], return_inverse=True)[1]
    fold = _folds(labels, groups, seed)
    if any(len(np.unique(labels[fold != f])) < len(enough) for f in range(FOLDS)):
        return Estimate(math.nan, method="the groups of some class fall into one fold")
    x = brightness_statistics(images)
    told = np.empty_like(labels)
    for f in range(FOLDS):
        model = make_pipeline(
            StandardScaler(),
            PolynomialFeatures(2, include_bias=False),
            StandardScaler(),
            RidgeClassifier(alpha=1.0, class_weight="balanced"),
        )
        told[fold == f] = model.fit(x[fold != f], labels[fold != f]).predict(x[fold == f])
    return _accuracy(told == labels, labels, groups)


def brightness_statistics(images: ImageSet) -> np.ndarray:
    """float64 (n, 7), the columns STATISTICS, in grey levels 0 to 255; color is made grey first.

    A percentile is the smallest grey level that as many pixels do not exceed. The border is a ring of 1/16 of the
    shorter side, at least one pixel.
    """
    pixels = images.images if images.channels == 1 else grey(images.images)
    height, width = images.size
    ring, thick = np.ones((height, width), dtype=bool), max(1, min(height, width) // 16)
    ring[thick:-thick, thick:-thick] = False
    levels, border = _histograms(pixels.reshape(len(pixels), -1)), _histograms(pixels[:, ring])
    below = np.cumsum(levels, axis=1) / (height * width)
    percentiles = [(below >= q).argmax(axis=1) for q in (0.1, 0.5, 0.9)]
    return np.column_stack([*_moments(levels), *percentiles, *_moments(border)])


def nearest_accuracy(near, groups) -> tuple[Estimate, Estimate, Estimate]:
    """Balanced accuracy of the label of the nearest image, of the nearest one of another group, and their difference.

    near    Neighbors with labels, no group left out
    groups  int (n,): patients, or families of near-duplicates
    Where images of a group share their label, the nearest image tells it by knowing the patient: the accuracy falls
    once the group is left out. Images of classes of fewer than FOLDS groups are neighbors, but are not told; NaN with
    the reason as method where fewer than two classes are left.
    """
    enough = _enough(near.labels, groups)
    if len(enough) < 2:
        return (Estimate(math.nan, method=TOO_FEW),) * 3
    groups = np.unique(groups, return_inverse=True)[1]
    index = near.nearest(min(LISTS, near.n - 1))[1]
    other = groups[index] != groups[:, None]
    apart = index[np.arange(near.n), other.argmax(axis=1)]
    inside = ~other.any(axis=1)  # all in the lists are of the image's own group
    if inside.any():
        apart[inside] = neighbors.neighbors(near.points, 1, group=groups, exclude_group=True).indices[inside, 0]
    chosen = np.isin(near.labels, enough)
    hit, hit_apart = (near.labels[to[chosen]] == near.labels[chosen] for to in (index[:, 0], apart))
    labels = np.unique(near.labels[chosen], return_inverse=True)[1]
    own, told_by, apart_by = groups[chosen], groups[index[chosen, 0]], groups[apart[chosen]]
    value, se, t = _clustered(hit.astype(float) - hit_apart, labels, own, apart_by)
    half = t * se if se > NO_ERROR else t**2 / (_counted(labels, own) + t**2)
    drop = Estimate(value, max(-1, value - half), min(1, value + half))
    return _accuracy(hit, labels, own, told_by), _accuracy(hit_apart, labels, own, apart_by), drop


def _enough(labels, groups):
    """Labels that FOLDS groups or more have."""
    pairs = np.unique([labels, groups], axis=1)[0]
    values, each = np.unique(pairs, return_counts=True)
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
    return float(means.mean()), math.sqrt(g / (g - 1) * squared), student.ppf((1 + LEVEL) / 2, max(1, poorest - 1))


def _accuracy(hit, labels, groups, others=None):
    value, se, t = _clustered(hit.astype(float), labels, groups, others)
    effective = value * (1 - value) / se**2 if se > NO_ERROR else _counted(labels, groups)
    middle = (value + t**2 / (2 * effective)) / (1 + t**2 / effective)
    half = t / (1 + t**2 / effective) * math.sqrt(value * (1 - value) / effective + t**2 / (4 * effective**2))
    return Estimate(value, max(0.0, middle - half), min(1.0, middle + half))


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


# ---------------------------------------------------------------------------------------- copies, splits


def _copies(images, found):
    """(kind, first, copy, 0.0) of each image after the first of its copies."""
    for copies in found.same_label + found.conflicting:
        first = {}
        for one in copies:
            label = images.labels[one]
            if label in first:
                yield EXACT, first[label], one, 0.0
            elif first:
                yield CONFLICTING, copies[0], one, 0.0
            first.setdefault(label, one)


def _split_groups(groups, kept, rows, unit):
    """Group of each of `kept`: as given, else families of near-duplicates, a conflicting image being one of its own."""
    if groups is not None:
        return groups[kept]
    out = len(rows) + np.arange(len(kept))
    out[np.searchsorted(kept, rows)] = unit
    return out


def _unreachable(images, groups, seed):
    """The SIZES that images.split refuses, and why it refuses the first of them."""
    why = {}

    def refused(n):
        why[n] = why.get(n) or reachable(images, n, seed, groups)
        return bool(why[n])

    first = bisect.bisect_left(SIZES, True, key=refused)
    if first == len(SIZES):
        return (), ""
    refused(SIZES[first])
    return SIZES[first:], why[SIZES[first]].removeprefix(f"{images.name}: ")


# ----------------------------------------------------------------------------------------------- tables


def _table(images, groups, flagged):
    """The flagged rows (kind, index, index or -1, distance) and the unreadable files as a DataFrame with COLUMNS."""
    names = [f"image {i}" for i in range(len(images))] if images.paths is None else images.paths
    label = np.array(images.classes, dtype=object)[images.labels]
    seen, out = set(), []
    for kind, i, j, distance in flagged:
        pair = (min(i, j), max(i, j))
        if j >= 0 and pair in seen:
            continue
        seen.add(pair)
        row = {"kind": kind, "distance": distance, "note": ""}
        for side, one in (("first", i), ("second", j)):
            if one >= 0:
                row |= {side: names[one], f"{side}_label": label[one], f"{side}_index": int(one)}
                row |= {} if groups is None else {f"{side}_group": int(groups[one])}
        out.append(row)
    out += [{"kind": UNREADABLE, "first": path, "note": reason} for path, reason in images.unreadable]
    table = pd.DataFrame(out, columns=list(COLUMNS))
    whole = [f"{side}_{what}" for side in ("first", "second") for what in ("group", "index")]
    text = ["kind", "first", "second", "first_label", "second_label", "note"]
    return table.astype({**dict.fromkeys(whole, "Int64"), **dict.fromkeys(text, object), "distance": float}).fillna(
        dict.fromkeys(text, "")
    )


def replaceable(path) -> Path:
    """The path of a table that may be written: none is there, or an empty one, or one of flagged rows.

    Raises as records.writable, and BadOutput where another table would be lost, such as that of the labels.
    """
    path = records.writable(path, ".csv")
    if path.exists():
        with open(path, encoding="utf-8", errors="replace", newline="") as file:
            header = next(csv.reader(file), [])
        if header and tuple(header) != COLUMNS:
            raise records.BadOutput(
                f"{path} holds another table than one of flagged images, and would be lost: name another file"
            )
    return path


def write_csv(flagged: pd.DataFrame, path) -> None:
    """Write flagged rows to a CSV file (UTF-8), whole or not at all.

    A text that begins with = + - @, a tab or a line break could run as a formula where a spreadsheet opens the file, so
    an apostrophe is put before it. Raises as `replaceable`: the file ends in .csv, holds no other table, and its folder
    exists.
    """
    path = replaceable(path)
    plain = flagged.copy()
    for column in plain.select_dtypes(exclude="number"):
        plain[column] = ["'" + text if text[:1] in tuple("=+-@\t\r\n") else text for text in plain[column].map(str)]
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        options = {"encoding": "utf-8", "errors": "backslashreplace", "quoting": csv.QUOTE_NONNUMERIC}
        plain.to_csv(draft, index=False, lineterminator="\n", **options)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _shown(value: Estimate) -> str:
    if math.isnan(value):
        return "not measured"
    return f"{value:.2f}" + ("" if math.isnan(value.low) else f" [{value.low:.2f}, {value.high:.2f}]")


def _plain(value: Estimate) -> dict:
    """An Estimate for JSON, with the reason where there is none."""
    if math.isnan(value):
        return {"value": None, "low": None, "high": None, "reason": value.method}
    return {"value": float(value), "low": value.low, "high": value.high}
