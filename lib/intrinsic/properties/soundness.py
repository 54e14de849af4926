"""Soundness of an image set: copies, doubtful labels, shortcuts, leaks, class balance, empty images.

A label is doubted where images of another label are nearer than images of its own, see `doubts`. A shortcut is told by
brightness and border alone, a leak by nearest neighbors: their accuracy with and without images of the same patient.
Both are balanced accuracies with 95 % intervals over groups:

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

import math
from dataclasses import dataclass, field, fields

import numpy as np
from scipy.special import stdtrit  # scipy.stats takes a second to load

from intrinsic.properties import flagged as kinds
from intrinsic.properties.dimension import reserve
from intrinsic.properties.duplicates import K, components, near_duplicate_links
from intrinsic.properties.interval import LEVEL, Interval
from intrinsic.properties.neighbors import BadPoints, neighbors
from intrinsic.properties.sharpness import sharpest_pairs
from intrinsic.properties.words import wrong

FOLDS = 5
LEAK = 0.05  # drop of the nearest neighbor's accuracy, lower limit, from which it is a warning
NEARLY = 2.0  # grey levels of standard deviation below which an image is nearly constant
NO_ERROR = 1e-9  # a standard error that is rounding only
DOUBTED = 30  # labels that are flagged as doubtful, at most
RARE = 0.05  # share of patients with images of both labels, up to which these are flagged
TOO_FEW = f"fewer than two classes have {FOLDS} groups or families of near-duplicates"


@dataclass(frozen=True)
class Soundness:
    """What `soundness` found; numbers and names, which `warnings` says in sentences."""

    n: int  # images as loaded
    distinct: int  # those of the neighbor pass: without exact copies and conflicting images
    counts: dict[str, int]  # images of each class, without copies of the same label
    groups: int | None  # None where patients are unknown
    mixed: int | None  # groups that have images of several labels
    who: str  # what a group is called: patient, or group
    as_classes: bool  # whether groups and classes are the same
    copies: int  # images with an earlier copy of the same label
    conflicting: int  # images with a copy of another label
    linked: int  # images with a near-duplicate
    across_classes: int  # pairs of near-duplicates with two labels
    across_groups: int  # pairs of near-duplicates with one label and two groups
    few: tuple[str, ...]  # classes of fewer than FOLDS groups, which the accuracies leave out
    shortcut: Interval  # balanced accuracy of brightness and border, out of fold; NaN with method the reason
    by_image: Interval  # balanced accuracy of the nearest image
    by_group: Interval  # the same of the nearest image of another group
    drop: Interval  # by_image - by_group
    constant: int
    nearly_constant: int
    unreadable: int  # files
    closest: dict = field(repr=False)  # the most alike two images with different labels, as a row of `flagged`
    flagged: tuple[dict, ...] = field(repr=False, compare=False)  # a dict with keys COLUMNS each, the worst kinds first

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

    def suspects(self, *which, most: int = 6) -> list[dict]:
        """Flagged rows of these kinds to look at first, `most` at most; of a pair its first row."""
        seen, found = set(), []
        for row in self.flagged:
            pair = frozenset((row["path"], row["kind"] != kinds.DOUBTFUL and row["partner_path"]))
            if row["kind"] in which and pair not in seen:
                found.append(row)
                seen.add(pair)
        return found[:most]

    @property
    def warnings(self) -> list[str]:
        """What is wrong and what to do, the worst first, with the names of files."""
        return wrong(self)

    def to_dict(self) -> dict:
        """The same as plain numbers, texts and lists, for JSON; what is not to be had is None."""
        each = [row["kind"] for row in self.flagged]
        found = {one.name: getattr(self, one.name) for one in fields(self)}
        found |= {key: value.to_dict() for key, value in found.items() if isinstance(value, Interval)}
        found |= {key: getattr(self, key) for key in ("chance", "imbalance", "leaks", "unit", "warnings")}
        return found | {"few": list(self.few), "flagged": {kind: each.count(kind) for kind in dict.fromkeys(each)}}


def soundness(images, near=None) -> Soundness:
    """Check whether an image set is sound enough to ask more of it.

    Parameters
    ----------
    images : ImageSet
        As loaded, before copies are dropped. Where groups are unknown, families of near-duplicates stand in.
    near : Neighbors, optional
        Of images.drop_duplicates(conflicting=True), with labels and no group left out; found here by default.

    Returns
    -------
    Soundness
        A flagged image has one row, of the first kind that fits: conflicting copies, images of one grey level,
        near-duplicates across classes, patients with two labels (if rare), the five sharpest pairs, doubtful labels,
        near-duplicates across groups and others, copies.

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
    >>> found = soundness(ImageSet(pixels, np.arange(60) % 2, ("a", "b")))
    >>> found.copies, found.flagged[-1]["path"], found.flagged[-1]["partner_path"]
    (1, 'image 2', 'image 0')
    """
    found = images.duplicates()
    rows = images.distinct(conflicting=True)
    labels = images.labels[rows]
    if near is None:
        near = neighbors(images[rows], min(20, len(rows) - 1), reserve=reserve(20))
    if near.n != len(rows) or not np.array_equal(near.labels, labels) or near.excludes_group:
        raise BadPoints(f"the neighbors are of {near.n} points, and {images.name} has {len(rows)} distinct images")
    known = images.group is not None
    i, j, distance = near_duplicate_links(near)
    unit = np.unique(images.group[rows] if known else components(i, j, len(rows)), return_inverse=True)[1]
    one_label, one_group = labels[i] == labels[j], unit[i] == unit[j]
    by_image, by_group, drop = nearest_accuracy(near, unit)
    enough, spread, n_groups = _enough(labels, unit), _spread(images), int(unit.max()) + 1
    members, several = _spanned(unit, labels)
    mixed = members[several > 1]
    flags = kinds.Flags(images, found, (rows[i], rows[j]))
    for copies in found.conflicting:
        named = images.labels[copies]
        other = [copies[(named != label).argmax()] for label in named]  # the first with another label
        flags.add(kinds.CONFLICTING, copies, other, np.zeros(len(copies)))
    constant, nearly = np.flatnonzero(spread == 0), np.flatnonzero((spread > 0) & (spread < NEARLY))
    flags.add(kinds.CONSTANT, constant)
    flags.add(kinds.NEARLY_CONSTANT, nearly)
    across = one_label & ~one_group & known
    flags.pairs(kinds.ACROSS_CLASSES, rows, i[~one_label], j[~one_label], distance[~one_label])
    doubt, pairs = doubts(near), np.array(sharpest_pairs(near, n=5))
    if known and len(mixed) <= RARE * n_groups:
        flags.add(kinds.MIXED, *(rows[side] for side in _odd_ones(labels, unit, mixed, doubt)))
    flags.pairs(kinds.SHARPEST, rows, *pairs[:, :2].T.astype(int), pairs[:, 2])
    doubted = np.argsort(-doubt, kind="stable")[:DOUBTED]
    doubted = doubted[(doubt[doubted] > 0) & np.isin(labels[doubted], enough)]
    flags.add(kinds.DOUBTFUL, rows[doubted], rows[near.opposite_index[doubted]], near.opposite_distance[doubted])
    flags.pairs(kinds.ACROSS_GROUPS, rows, i[across], j[across], distance[across])
    flags.pairs(kinds.NEAR, rows, i, j, distance)
    for copies in found.same_label:
        flags.add(kinds.EXACT, copies[1:], np.full(len(copies) - 1, copies[0]), np.zeros(len(copies) - 1))
    return Soundness(
        n=len(images),
        distinct=len(rows),
        counts=images[images.distinct()].counts(),
        groups=n_groups if known else None,
        mixed=len(mixed) if known else None,
        who="group" if images.domain in ("natural", "synthetic") else "patient",
        as_classes=known and not len(mixed) and n_groups == len(np.unique(labels)),
        copies=found.n_copies,
        conflicting=found.n_conflicting,
        linked=len(np.union1d(i, j)),
        across_classes=int((~one_label).sum()),
        across_groups=int(across.sum()),
        few=tuple(images.classes[c] for c in np.setdiff1d(labels, enough)),
        shortcut=shortcut_accuracy(images[rows], unit),
        by_image=by_image,
        by_group=by_group,
        drop=drop,
        constant=len(constant),
        nearly_constant=len(nearly),
        unreadable=len(images.unreadable),
        closest=flags.row(kinds.SHARPEST, *rows[pairs[0, :2].astype(int)], pairs[0, 2]),
        flagged=flags.table(),
    )


def doubts(near) -> np.ndarray:
    """How much nearer images of another label are than those of an image's own, float64 (n,):

    mean over m = 1 to 8 of log(distance to the m-th nearest of its label / to the m-th of another). It finds wrong
    labels where near images mostly share theirs, and says little where they do not.
    """
    distances, index = near.nearest(K)
    same, opposite = (near.labels[index] == near.labels[:, None]).cumsum(axis=1), near.opposites(8)[0]
    out, every = np.zeros(near.n), np.arange(near.n)
    for m in range(1, opposite.shape[1] + 1):
        column = np.where(same[:, -1] >= m, (same >= m).argmax(axis=1), -1)  # beyond the list: at least its end
        out += np.log(distances[every, column] / opposite[:, m - 1]) / opposite.shape[1]
    return out


def _odd_ones(labels, unit, mixed, doubt):
    """(images whose label most of their group do not have, an image of the group with another), the most doubted first.

    Where no label has most, all images of the group.
    """
    found = []
    for group in mixed:
        own = np.flatnonzero(unit == group)
        counts = np.bincount(labels[own])
        odd = own[(counts[labels[own]] < counts.max()) | ((counts == counts.max()).sum() > 1)]
        found += [(i, own[(labels[own] != labels[i]).argmax()]) for i in odd]
    found = np.array(found, dtype=int).reshape(-1, 2)
    return found[np.argsort(-doubt[found[:, 0]], kind="stable")].T


def shortcut_accuracy(images, groups) -> Interval:
    """Balanced accuracy, out of fold, of telling the label by brightness and border alone.

    Ridge regression, classes weighted equally, in the seven statistics of brightness_statistics, their squares and
    their products. FOLDS folds of whole groups, stratified by the label of most of a group's images. It is a lower
    bound of what brightness tells. NaN with the reason as method where fewer than two classes have FOLDS groups.
    """
    enough = _enough(images.labels, groups)
    if len(enough) < 2:
        return Interval(math.nan, method=TOO_FEW)
    chosen = np.isin(images.labels, enough)
    images = images[chosen]
    labels = np.unique(images.labels, return_inverse=True)[1]
    groups = np.unique(groups[chosen], return_inverse=True)[1]
    fold = _folds(labels, groups)
    if any(len(np.unique(labels[fold != f])) < len(enough) for f in range(FOLDS)):
        return Interval(math.nan, method="the groups of some class fall into one fold")
    x, told = brightness_statistics(images), np.empty_like(labels)
    for f in range(FOLDS):
        told[fold == f] = _told_by_ridge(x, labels, fold != f)[fold == f]
    return _accuracy(told == labels, labels, groups, groups)


def _told_by_ridge(x, labels, known):
    """Labels of all rows of x by ridge regression (penalty 1) on the known ones; scikit-learn loads for a second."""
    x = _standard(x, known)
    x = _standard(np.column_stack([x, *(x[:, i:] * x[:, [i]] for i in range(x.shape[1]))]), known)
    y = np.where(labels[:, None] == np.arange(labels.max() + 1), 1.0, -1.0)
    weight = 1 / np.bincount(labels[known])[labels]
    weight *= known.sum() / weight[known].sum()
    x_mean, y_mean = (np.average(part[known], axis=0, weights=weight[known]) for part in (x, y))
    a, b = ((part - mean)[known] * np.sqrt(weight[known])[:, None] for part, mean in ((x, x_mean), (y, y_mean)))
    slope = np.linalg.solve(a.T @ a + np.eye(x.shape[1]), a.T @ b)
    return ((x - x_mean) @ slope + y_mean).argmax(axis=1)


def _standard(x, known):
    """Columns with mean 0 and deviation 1 over the known rows; constant ones stay 0."""
    deviation = x[known].std(axis=0)
    return (x - x[known].mean(axis=0)) / np.where(deviation > 1e-12, deviation, 1.0)


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
    places = np.ceil(np.array([0.1, 0.5, 0.9]) * height * width).astype(int) - 1

    def statistics(one):
        ranked, border = np.sort(one, axis=None, kind="stable"), one[ring]
        return [one.mean(), one.std(), *ranked[places], border.mean(), border.std()]

    return np.array([statistics(one) for one in pixels])


def nearest_accuracy(near, groups) -> tuple[Interval, Interval, Interval]:
    """Balanced accuracy of the label of the nearest image, of the nearest one of another group, and their difference.

    Where images of a group share their label, the nearest image tells it by knowing the patient: the accuracy falls
    once the group is left out. Images of classes of fewer than FOLDS groups are neighbors, but are not told. Groups are
    whole numbers from 0.
    """
    enough = _enough(near.labels, groups)
    if len(enough) < 2:
        return (Interval(math.nan, method=TOO_FEW),) * 3
    chosen = np.isin(near.labels, enough)
    nearest, apart = near.indices[chosen, 0], near.elsewhere(groups)[1][chosen]
    hit, hit_apart = (near.labels[to] == near.labels[chosen] for to in (nearest, apart))
    labels = np.unique(near.labels[chosen], return_inverse=True)[1]
    own, told_by, apart_by = groups[chosen], groups[nearest], groups[apart]
    value, se, t = _clustered(hit.astype(float) - hit_apart, labels, own, apart_by)
    half = t * se if se > NO_ERROR else t**2 / (_counted(labels, own) + t**2)
    drop = Interval(value, max(-1, value - half), min(1, value + half))
    return _accuracy(hit, labels, own, told_by), _accuracy(hit_apart, labels, own, apart_by), drop


def _spanned(one, other):
    """(the values of one, with how many values of the other each is met)."""
    return np.unique(np.unique([one, other], axis=1)[0], return_counts=True)


def _enough(labels, groups):
    """Labels that FOLDS groups or more have."""
    values, each = _spanned(labels, groups)
    return values[each >= FOLDS]


def _clustered(values, labels, groups, others):
    """(mean over classes of the mean of a class, its standard error, quantile of t); see the top of the module.

    others   group of the image that tells each; the image's own where it is told by none
    """
    counts = np.bincount(labels)
    means = np.bincount(labels, values) / counts
    e = (values - means[labels]) / counts[labels] / len(counts)
    size, two = max(groups.max(), others.max()) + 1, others != groups
    own = np.bincount(groups, e, minlength=size)
    either = own + np.bincount(others[two], e[two], minlength=size)
    low, high = np.sort([groups[two], others[two]], axis=0)
    both = np.bincount(np.unique(low * size + high, return_inverse=True)[1], e[two])  # counted with either group
    squared = max((own**2).sum(), (either**2).sum() - (both**2).sum())
    g = len(np.unique(groups))
    freedom = max(1, _spanned(labels, groups)[1].min() - 1)
    return float(means.mean()), math.sqrt(g / (g - 1) * squared), stdtrit(freedom, (1 + LEVEL) / 2)


def _accuracy(hit, labels, groups, others):
    """Mean over classes, with Wilson's interval."""
    value, se, t = _clustered(hit.astype(float), labels, groups, others)
    effective = value * (1 - value) / se**2 if se > NO_ERROR else _counted(labels, groups)
    middle = (value + t**2 / (2 * effective)) / (1 + t**2 / effective)
    half = t / (1 + t**2 / effective) * math.sqrt(value * (1 - value) / effective + t**2 / (4 * effective**2))
    return Interval(value, max(0.0, middle - half), min(1.0, middle + half), n=len(hit))


def _counted(labels, groups):
    """Effective number of images where all groups of a class are told alike: classes^2 / sum of 1 / its groups."""
    each = _spanned(labels, groups)[1]
    return len(each) ** 2 / sum(1 / each)


def _folds(labels, groups):
    """Fold of each image: whole groups, dealt in turn within each stratum, the largest first, equal ones at random."""
    table = np.zeros((groups.max() + 1, labels.max() + 1), dtype=int)
    np.add.at(table, (groups, labels), 1)
    stratum, size = table.argmax(axis=1), table.sum(axis=1)
    mixed = np.random.default_rng(0).permutation(len(table))
    fold = np.empty(len(table), dtype=int)
    fold[mixed[np.lexsort((-size[mixed], stratum[mixed]))]] = np.arange(len(table)) % FOLDS
    return fold[groups]


def _spread(images):
    """Standard deviation of the grey levels of each image; in color that of the channel where it is largest."""
    pixels = images.images.reshape(len(images), -1, images.channels)
    return np.array([0 if (one == one[0]).all() else one.std(axis=0, dtype=np.float32).max() for one in pixels])
