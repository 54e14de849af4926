"""Label sharpness K_F: how fast labels change with the image.

    K_F = max over pairs  |y_i - y_j| / |x_i - x_j|          (for classes: 1 / distance, where labels differ)

over all pairs of a sample, exactly. It is a maximum, so it grows with the sample, and without limit where classes
overlap: a value means nothing without its number of images. Size, channels and range of the images change it too.
"""

import math

import numpy as np

from intrinsic.dimension import LEVEL, Estimate
from intrinsic.images import balanced_draws
from intrinsic.neighbors import BadPoints, Neighbors, as_points, closest_pairs, labels_and_group

REPLICATES = 200  # subsamples behind an interval
SHARE = 8  # each of them holds one in SHARE images (or groups) of each class
LIST_LIMIT = 8_000  # points up to which draws are looked up in one list of closest pairs


class Sharpness(Estimate):
    """Label sharpness: a float with an interval (low, high, method), and

    pair            (i, j), i < j, the images that set it; None where no two labels differ
    labels_of_pair  their labels
    distance        between them; infinity where there is no pair
    """


def label_sharpness(x, y=None, *, labels="classes", interval=True, group=None, seed=0):
    """Label sharpness over all pairs, with the pair that sets it.

        K_F = max_{i,j} |y_i - y_j| / |x_i - x_j|

    x         images (pixels in [0, 1]), points (n, D), a tensor or Neighbors with labels (no second pass)
    y         labels (n,); by default those of x
    labels    "classes": |y_i - y_j| is 1 where labels differ, so K_F = 1 / smallest distance between classes;
              "ordered": labels are numbers and their difference counts
    interval  False leaves low and high NaN
    group     one a point; an ImageSet or Neighbors has its own: whole groups enter a subsample
    seed      of the subsamples
    Unit: per unit of distance. Equal labels throughout give 0, with no pair. Copies with different labels give
    infinity, with that pair and no interval. Of equally sharp pairs the one with the smallest (i, j) is given.

    Interval (95 %): for the geometric mean of K_F over samples of this size and make-up from the same population
    (exp of the expectation of log K_F; the plain mean is infinite in one dimension). It is not for the supremum
    over the population, to which K_F need not converge. A bootstrap with replacement cannot serve a maximum.
    Instead K_F is taken from REPLICATES subsamples without replacement that hold one in SHARE images (or groups) of
    each class, and the spread of log K_F in these stands for its spread at n:
        low, high = K_F exp(-q_.975), K_F exp(-q_.025),    q the quantiles of log K*_b - mean log K*.
    Where classes overlap in d dimensions, K_F M^(-2/d) has a limiting law, so the spread does not depend on n; where
    classes are apart, it shrinks with n and the interval is too wide. Measured coverage (250 samples each) at n = 200
    and 600: overlapping clouds of d = 1, 2, 5 and 10: 92 to 95 %; clouds of mixed scales 99 %; slabs apart, d = 3: 99
    and 100 %; 100 groups of 6 near one another: 97 % (84 % where groups are ignored).
    Source: definition: Konz & Mazurowski 2024, eq. 1; subsampling: Politis, Romano & Wolf 1999, chapter 2.
    """
    points, y, group = _parts(x, y, group)
    ordered = _ordered(labels)
    if not ordered and isinstance(x, Neighbors) and x.pairs is not None and np.array_equal(y, x.labels):
        pairs = x.pairs
    else:
        pairs = closest_pairs(points, y, ordered=ordered)
    if not len(pairs):
        return _no_difference(points.n)
    value = float(pairs.sharpness[0])
    facts = _facts(pairs, 0, y) | {"n": points.n}
    if not interval or not math.isfinite(value):
        return Sharpness(value, method="all pairs", **facts)
    look = _Lookup(points, y, pairs, ordered)
    logs = np.log(_positive(look(kept)[0] for kept in _subsamples(y, group, ordered, seed)))
    low, high = value / np.exp(np.quantile(logs - logs.mean(), [(1 + LEVEL) / 2, (1 - LEVEL) / 2]))
    method = f"all pairs; {REPLICATES} subsamples of 1/{SHARE} without replacement, log scale"
    return Sharpness(value, low, high, method, **facts)


def mean_sharpness(x, y=None, per_class=250, draws=25, seed=0, *, interval=True, group=None):
    """Mean label sharpness of seeded balanced draws of M = per_class images of each class.

    K_F grows with the number of images, so image sets are compared by this value at one M. The draws are those of
    images.balanced_draws(labels, per_class, draws, seed). x, y, group are as for label_sharpness; pair,
    labels_of_pair and distance are those of the sharpest pair in any draw. A draw that holds copies with different
    labels makes it infinite.

    Interval (95 %): for the expectation of K_F at M images a class over the population that x is a sample of, not
    over draws from x alone (draws share images, so their spread says too little). The whole procedure is repeated
    on REPLICATES subsamples of one in SHARE images (or groups) of each class, with M / SHARE images a class in each
    of as many draws; with U the value and U*_b those of the subsamples
        low, high = U / q_.975, U / q_.025,    q the quantiles of U*_b / mean U*.
    The relative spread depends on the ratio of M to the size of a class, which is the same in both, and on M only as
    in label_sharpness. Measured coverage (120 samples each) at M = 100, 25 draws, classes of 1, 1.25, 2, 4 and
    10 times M images: overlapping clouds of d = 5 and 10: 92 to 98 %; clouds of mixed scales 97 to 99 %; slabs apart
    99 to 100 %; 100 groups of 6: 99 % (72 % where groups are ignored). In two dimensions K_F has no finite variance:
    84 to 98 %, the low end where M is nearly the whole class.
    Raises images.TooFewImages.
    """
    points, y, group = _parts(x, y, group)
    codes = np.unique(y, return_inverse=True)[1]
    chosen = balanced_draws(codes, per_class, draws, seed)
    if not codes.any():
        return _no_difference(points.n)
    look = _lookup(x, points, y)
    found = [look.at(draw) for draw in chosen]
    value = float(np.mean([sharpness for sharpness, _ in found]))
    facts = max(found, key=lambda one: one[0])[1] | {"n": points.n, "per_class": per_class, "draws": draws}
    method = f"mean of {draws} balanced draws"
    if not interval or not math.isfinite(value):
        return Sharpness(value, method=method, **facts)
    few = max(1, round(per_class / SHARE))
    rng = np.random.default_rng([seed, SHARE])
    replicates = []
    for kept in _subsamples(y, group, False, seed):
        members = [np.flatnonzero(kept & (codes == code)) for code in range(codes.max() + 1)]
        means = [
            look.at(np.concatenate([rng.choice(m, min(few, len(m)), replace=False) for m in members]))[0]
            for _ in range(draws)
        ]
        replicates.append(np.mean(means))
    replicates = _positive(replicates)
    low, high = value / np.quantile(replicates / replicates.mean(), [(1 + LEVEL) / 2, (1 - LEVEL) / 2])
    return Sharpness(value, low, high, f"{method}; {REPLICATES} subsamples of 1/{SHARE}", **facts)


def growth(x, y=None, per_class=None, draws=25, seed=0):
    """(M, K_F(M)): mean label sharpness of balanced draws of M images a class, for each M in per_class.

    Overlapping classes grow as M^(2/d), classes a gap apart level off at 1 / gap. By default M doubles from 16 to the
    size of the smallest class. int64 and float64 arrays; the draws at each M are those of mean_sharpness.
    """
    points, y, _ = _parts(x, y, None)
    codes = np.unique(y, return_inverse=True)[1]
    if per_class is None:
        least = int(np.bincount(codes).min())
        per_class = [2**e for e in range(4, least.bit_length())]
        if not per_class:
            raise BadPoints(f"the smallest class has {least} images and M starts at 16: give smaller per_class=[...]")
    if np.ndim(per_class) != 1 or np.size(per_class) == 0:
        raise BadPoints(f"per_class={per_class} is no list of numbers M to measure at: give at least one, as a list")
    chosen = [balanced_draws(codes, m, draws, seed) for m in per_class]
    look = _lookup(x, points, y)
    return np.array(per_class, dtype=np.int64), np.array([np.mean([look.at(c)[0] for c in d]) for d in chosen])


def sharpest_pairs(x, y=None, n=5, *, labels="classes"):
    """The n sharpest pairs, each image in one of them at most: a list of (i, j, distance, sharpness).

    The sharpest pair first, then the sharpest among the other images, and so on; fewer where pairs run out.
    """
    points, y, _ = _parts(x, y, None)
    ordered = _ordered(labels)
    count = None
    pairs = x.pairs if isinstance(x, Neighbors) and not ordered and np.array_equal(y, x.labels) else None
    while True:
        pairs = closest_pairs(points, y, ordered=ordered, count=count) if pairs is None else pairs
        free, chosen = np.ones(points.n, dtype=bool), []
        for m in range(len(pairs)):
            i, j = int(pairs.i[m]), int(pairs.j[m])
            if len(chosen) < n and free[i] and free[j]:
                free[[i, j]] = False
                chosen.append((i, j, float(pairs.distance[m]), float(pairs.sharpness[m])))
            if len(chosen) >= n:
                return chosen
        if pairs.complete:
            return chosen
        count, pairs = 8 * len(pairs), None


# ---------------------------------------------------------------------------------------------------- parts


def _parts(x, y, group):
    points = as_points(x)
    y, group = labels_and_group(x, y, group)
    if y is None:
        raise BadPoints("label sharpness needs labels, and there are none: give y, one a point")
    return points, y, group


def _ordered(labels):
    if labels not in ("classes", "ordered"):
        raise BadPoints(f'labels={labels!r} is unknown, so differences are undefined: give "classes" or "ordered"')
    return labels == "ordered"


def _no_difference(n):
    facts = {"pair": None, "labels_of_pair": None, "distance": math.inf, "n": n}
    return Sharpness(0.0, 0.0, 0.0, "all labels are equal", **facts)


def _facts(pairs, m, labels):
    i, j = int(pairs.i[m]), int(pairs.j[m])
    return {
        "pair": (i, j),
        "labels_of_pair": (labels[i].item(), labels[j].item()),
        "distance": float(pairs.distance[m]),
    }


def _lookup(x, points, y):
    """Lookup of draws: in the list of closest pairs, unless there are too many points for a pass over all."""
    if isinstance(x, Neighbors) and x.pairs is not None and np.array_equal(y, x.labels):
        return _Lookup(points, y, x.pairs)
    return _Lookup(points, y, closest_pairs(points, y) if points.n <= LIST_LIMIT else None)


class _Lookup:
    """The sharpest pair within a subset: the first in the list of closest pairs that has both its ends there.

    Where the list holds none, or there is no list, distances within the subset are computed.
    """

    def __init__(self, points, labels, pairs=None, ordered=False):
        self.points, self.labels, self.pairs, self.ordered = points, labels, pairs, ordered

    def at(self, chosen):
        """(sharpness, facts) of the subset with indices `chosen`."""
        inside = np.zeros(self.points.n, dtype=bool)
        inside[chosen] = True
        return self(inside)

    def __call__(self, inside):
        pairs, start, step = self.pairs, 0, 1024
        while pairs is not None and start < len(pairs):
            part = slice(start, start + step)
            hit = inside[pairs.i[part]] & inside[pairs.j[part]]
            m = int(hit.argmax())
            if hit[m]:
                return float(pairs.sharpness[start + m]), _facts(pairs, start + m, self.labels)
            start, step = start + step, 2 * step
        if pairs is None or not pairs.complete:
            rows = np.flatnonzero(inside)
            pairs = closest_pairs(self.points, self.labels, ordered=self.ordered, count=1, rows=rows)
            if len(pairs):
                return float(pairs.sharpness[0]), _facts(pairs, 0, self.labels)
        return 0.0, {}


def _positive(replicates):
    """Those with a pair; a subsample of groups with mixed labels may have none."""
    replicates = np.array(list(replicates))
    return replicates[replicates > 0] if (replicates > 0).any() else np.full(1, np.nan)


def _subsamples(labels, group, ordered, seed):
    """REPLICATES random subsets, bool (n,): one in SHARE points (or groups, by their first label) of each class."""
    units = np.arange(len(labels)) if group is None else group
    first = np.unique(units, return_index=True)[1]
    stratum = np.zeros(len(first), dtype=int) if ordered else np.unique(labels[first], return_inverse=True)[1]
    members = [np.flatnonzero(stratum == s) for s in range(stratum.max() + 1)]
    rng = np.random.default_rng(seed)
    for _ in range(REPLICATES):
        kept = np.zeros(len(first), dtype=bool)
        for m in members:
            kept[rng.choice(m, max(1, round(len(m) / SHARE)), replace=False)] = True
        yield kept[units]
