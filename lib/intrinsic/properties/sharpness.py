"""Label sharpness K_F: how fast labels change with the image.

    K_F = max over pairs with different labels of  1 / |x_i - x_j|

over all pairs of a sample, exactly. It is a maximum, so it grows with the sample, and without limit where classes
overlap: a value means nothing without its number of images. Size, channels and range of the images change it too.

Subsample interval: K_F is taken from REPLICATES subsamples without replacement that hold one in SHARE images (or
groups) of each class, and the spread of log K_F in these stands for its spread at n. A bootstrap with replacement
cannot serve a maximum. Measured coverage: benchmarks/sharpness_simulations.py.
"""

import math
from functools import cached_property
from itertools import combinations_with_replacement

import numpy as np

from intrinsic.properties.interval import LEVEL, Interval, class_halves, degrees, half_sample, strata
from intrinsic.properties.neighbors import OPPOSITES, BadPoints, Neighbors, as_points, neighbors
from intrinsic.properties.pairs import closest_pairs
from intrinsic.properties.products import labels_and_group

REPLICATES = 200  # subsamples behind an interval
SHARE = 8  # each of them holds one in SHARE images (or groups) of each class
QUANTILES = (0.01, 0.05, 0.1, 0.5)
TAILS = (1 + LEVEL) / 2, (1 - LEVEL) / 2  # a value over these quantiles of its replicates is an interval
SAMPLED = f"{REPLICATES} subsamples of 1/{SHARE} without replacement, log scale"


class Labelled:
    """Points with labels, and perhaps groups, as a function was given them: checked, with the closest pairs.

    Images of floats above 1 are refused, since K_F is per unit of [0, 1]. `near` is x where it is Neighbors that have
    these labels.
    """

    def __init__(self, x, y=None, group=None):
        shape, kind = getattr(x, "shape", ()), str(getattr(x, "dtype", ""))
        if len(shape) > 2 and "float" in kind and len(x) and float(x.max()) > 1:
            raise BadPoints(f"the images run up to {float(x.max()):g}, and K_F is per unit of [0, 1]: divide by 255")
        self.points = as_points(x)
        self.n = self.points.n
        self.labels, self.group = labels_and_group(x, y, group, self.n)
        if self.labels is None:
            raise BadPoints("label sharpness needs labels, and there are none: give y, one a point")
        self.codes = np.unique(self.labels, return_inverse=True)[1]
        own = isinstance(x, Neighbors) and x.labels is not None and np.array_equal(self.labels, x.labels)
        self.near = x if own else None

    @cached_property
    def pairs(self):
        """The closest pairs with different labels."""
        return closest_pairs(self.points, self.labels)

    @cached_property
    def same_pairs(self):
        """The closest pairs with equal labels."""
        return closest_pairs(self.points, self.labels, same=True)

    def facts(self, pair):
        """What an Interval says of a pair (i, j)."""
        i, j = (int(end) for end in pair)
        distance = float(self.points.distance(self.points.differences(np.array([i]), np.array([j])))[0])
        named = self.labels[i].item(), self.labels[j].item()
        return {"pair": (i, j), "labels_of_pair": named, "distance": distance, "n": self.n}

    def without_pair(self, method="all labels are equal", **facts):
        """A sharpness of 0."""
        return Interval(0, 0, 0, method, self.n, pair=None, labels_of_pair=None, distance=math.inf, **facts)

    def subsamples(self, seed):
        """REPLICATES random subsets, bool (n,): one in SHARE points (or groups, by their first label) of each class."""
        units, members = strata(self.labels, self.group)
        rng = np.random.default_rng(seed)
        for _ in range(REPLICATES):
            kept = np.zeros(sum(map(len, members)), dtype=bool)
            for m in members:
                kept[rng.choice(m, max(1, round(len(m) / SHARE)), replace=False)] = True
            yield kept[units]

    def replicates(self, seed, *lists):
        """Log sharpness in subsamples, a row each, by lists of pairs; those without a pair are left out."""
        found = np.array([[pairs.within(kept)[0] for pairs in lists] for kept in self.subsamples(seed)])
        return np.log(_positive(found))


def label_sharpness(x, y=None, *, interval=True, group=None, seed=0) -> Interval:
    """Measure label sharpness over all pairs, with the pair that sets it.

        K_F = max over pairs with y_i != y_j of 1 / |x_i - x_j|

    Parameters
    ----------
    x : ImageSet, array, tensor or Neighbors
        uint8 images, floats in [0, 1] of image shape, or points (n, D) in their own unit. Neighbors with labels spare
        a second pass.
    y : array (n,), optional
        Labels, numbers or texts; by default those of x.
    interval : bool
        False leaves low and high NaN.
    group : array (n,), optional
        Whole groups enter a subsample; an ImageSet or Neighbors has its own.
    seed : int
        Seed of the subsamples.

    Returns
    -------
    Interval
        Per unit of L2 distance, with facts pair (i, j), labels_of_pair and distance. Equal labels give 0 and no pair.
        Copies with different labels give infinity and no interval. The 95 % interval is for the geometric mean of
        K_F over samples of this size; it is not for the supremum over the population.

    Raises
    ------
    BadPoints
        No labels, labels that do not fit, or images of floats above 1.

    References
    ----------
    Konz & Mazurowski 2024, eq. 1; subsampling: Politis, Romano & Wolf 1999, chapter 2.

    Examples
    --------
    >>> import numpy as np
    >>> found = label_sharpness(np.array([[0.0], [1.0], [1.5], [4.0]]), [0, 0, 1, 1], interval=False)
    >>> found, found.pair, found.distance
    (2, (1, 2), 0.5)
    """
    given = Labelled(x, y, group)
    if not interval and given.near is not None and given.codes.any():  # no list is needed
        i = int(given.near.opposite_distance.argmin())
        facts = given.facts((i, given.near.opposite_index[i]))
        return Interval(1 / facts["distance"] if facts["distance"] else math.inf, method="all pairs", **facts)
    if not len(pairs := given.pairs):
        return given.without_pair()
    value, facts = float(pairs.sharpness[0]), given.facts((pairs.i[0], pairs.j[0]))
    if not interval or not math.isfinite(value):
        return Interval(value, method="all pairs", **facts)
    return Interval(value, *value / _spread(given.replicates(seed, pairs)[:, 0]), f"all pairs; {SAMPLED}", **facts)


def mean_sharpness(x, y=None, per_class=250, draws=25, seed=0, *, interval=True, group=None) -> Interval:
    """Average label sharpness over seeded balanced draws of M images of each class.

    K_F grows with the number of images, so image sets are compared by this value at one M.

    Parameters
    ----------
    x, y, interval, group, seed
        As for label_sharpness; the draws are those of images.balanced_draws(labels, per_class, draws, seed).
    per_class : int
        M, images of each class in a draw.
    draws : int

    Returns
    -------
    Interval
        With facts per_class, draws, and the sharpest pair in any draw. The 95 % interval is for the expectation of
        K_F at M over the population: the procedure is repeated in subsamples with M / SHARE images a class, and their
        spread relative to their mean is that of the value.

    Raises
    ------
    BadPoints, images.TooFewImages

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).random((400, 2))
    >>> found = mean_sharpness(x, np.arange(400) % 2, per_class=50)
    >>> found.low < found < label_sharpness(x, np.arange(400) % 2)
    True
    """
    from intrinsic.images.splits import balanced_draws

    given = Labelled(x, y, group)
    codes, chosen = given.codes, balanced_draws(given.codes, per_class, draws, seed)
    if not codes.any():
        return given.without_pair()
    found = [given.pairs.within(draw) for draw in chosen]
    value = float(np.mean([sharpness for sharpness, _ in found]))
    facts = given.facts(max(found, key=lambda one: one[0])[1]) | {"per_class": per_class, "draws": draws}
    method = f"mean of {draws} balanced draws"
    if not interval or not math.isfinite(value):
        return Interval(value, method=method, **facts)
    few = max(1, round(per_class / SHARE))
    rng, replicates = np.random.default_rng([seed, SHARE]), []
    for kept in given.subsamples(seed):
        members = [np.flatnonzero(kept & (codes == code)) for code in range(codes.max() + 1)]
        chosen = ([rng.choice(m, min(few, len(m)), replace=False) for m in members] for _ in range(draws))
        replicates.append([np.mean([given.pairs.within(np.concatenate(one))[0] for one in chosen])])
    replicates = _positive(np.array(replicates))
    ends = np.quantile(replicates / replicates.mean(), TAILS)
    return Interval(value, *value / ends, f"{method}; {REPLICATES} subsamples of 1/{SHARE}", **facts)


def quantile_sharpness(x, y=None, quantiles=QUANTILES, *, interval=True, group=None, seed=0) -> list[Interval]:
    """Measure the sharpness of a typical image: 1 / q-quantile of the distance to the nearest image of another label.

    Unlike the maximum it does not hang on a single pair. Where classes overlap in d dimensions it rises as M^(1/d).
    Parameters are those of label_sharpness, and `quantiles`, 0 <= q <= 1, of which 0 gives K_F itself.

    Returns Intervals with facts quantile and distance; pair is None. Their half-samples (McCarthy 1969; Shao & Tu 1995,
    chapter 5) are for the geometric mean of the estimator at this n; none below q n = 5, where it is an extreme.
    """
    given, quantiles = Labelled(x, y, group), [float(q) for q in quantiles]
    if not all(0 <= q <= 1 for q in quantiles):
        raise BadPoints(f"quantiles={quantiles} hold a number that is no share of the images: give 0 <= q <= 1")
    near = neighbors(given.points, 1, given.labels, reserve=1) if given.near is None else given.near
    if not given.codes.any():
        return [given.without_pair(quantile=q) for q in quantiles]
    values = np.quantile(near.opposite_distance, quantiles)
    halves = class_halves(given.labels, given.group, seed) if interval else ()
    both = np.array([[_halved(near, side, quantiles) for side in (half, ~half)] for half in halves])
    freedom, out = degrees(given.n, given.group), []
    for q, value, sides in zip(quantiles, values.tolist(), both.reshape(-1, 2, len(quantiles)).T, strict=True):
        method = f"{q:g}-quantile of {given.n} nearest opposite distances"
        found = half_sample(value, sides.T if value and q * given.n >= 5 else [], freedom, method=method)
        facts = {"pair": None, "labels_of_pair": None, "distance": value, "quantile": q, "n": given.n}
        ends = (1 / found.high, 1 / found.low) if found.low > 0 else (math.nan, math.nan)
        out.append(Interval(1 / value if value else math.inf, *ends, found.method, **facts))
    return out


def same_label_control(x, y=None, *, interval=True, group=None, seed=0) -> Interval:
    """Invert the smallest distance between two images of one label, and compare K_F with it.

        control = 1 / min over y_i = y_j, i != j of |x_i - x_j| ,      ratio = K_F / control

    If labels had nothing to do with the images, two balanced classes would give a ratio near 1. A ratio well below 1
    means that classes keep their distance. The paper's released code returns this control instead of K_F.
    Parameters are those of label_sharpness.

    Returns an Interval with the pair, and `ratio`, an Interval. Copies with equal labels make the control infinite and
    the ratio 0: drop them first. Where no class has two images, the control is 0 and the ratio NaN.
    """
    given = Labelled(x, y, group)
    k_f, same = given.pairs, given.same_pairs
    top = float(k_f.sharpness[0]) if len(k_f) else 0.0
    if not len(same):
        nothing = Interval(math.nan, method="no class has two images")
        return given.without_pair(nothing.method, ratio=nothing)
    value = float(same.sharpness[0])
    ratio = math.nan if math.isinf(value) and math.isinf(top) else top / value
    ends = of_ratio = (math.nan, math.nan)
    method = "all pairs of equal labels"
    if interval and math.isfinite(value) and 0 < top < math.inf:
        logs = given.replicates(seed, k_f, same)
        ends, of_ratio = value / _spread(logs[:, 1]), ratio / _spread(logs[:, 0] - logs[:, 1])
        method += f"; {SAMPLED}"
    ratio = Interval(ratio, *of_ratio, f"K_F / control: {method}", n=given.n)
    return Interval(value, *ends, method, **given.facts((same.i[0], same.j[0])), ratio=ratio)


def class_pair_sharpness(x, y=None) -> np.ndarray:
    """Measure K_F between each two classes, in order, which shows the classes that set it.

    Returns a symmetric matrix with the same-label control on its diagonal, 0 for a class of one image.
    """
    given = Labelled(x, y)
    classes = given.codes.max() + 1
    found = np.zeros((classes, classes))
    for a, b in combinations_with_replacement(range(classes), 2):
        pairs = given.same_pairs if a == b else given.pairs
        found[a, b] = found[b, a] = pairs.within((given.codes == a) | (given.codes == b))[0]
    return found


def sharpest_pairs(x, y=None, n=5) -> list[tuple]:
    """The n sharpest pairs (i, j, distance, sharpness), the sharpest first, each image in one of them at most.

    The list has 20 pairs an image, and 2 (n - 1) images are part of fewer up to n = 10: so n pairs are found in it.
    """
    given = Labelled(x, y)
    pairs, free, chosen = given.pairs, np.ones(given.n, dtype=bool), []
    for m, (i, j) in enumerate(zip(pairs.i.tolist(), pairs.j.tolist(), strict=True)):
        if len(chosen) == n:
            break
        if free[i] and free[j]:
            free[[i, j]] = False
            chosen.append((i, j, float(pairs.distance[m]), float(pairs.sharpness[m])))
    return chosen


def _spread(logs):
    """exp of the TAILS of logs about their mean."""
    return np.exp(np.quantile(logs - logs.mean(), TAILS))


def _positive(replicates):
    """Rows where all have a pair; a subsample of groups with mixed labels may have none."""
    known = replicates[(replicates > 0).all(axis=1)]
    return known if len(known) else np.full((1, replicates.shape[1]), math.nan)


def _halved(near, inside, quantiles):
    """Quantiles of nearest opposite distances within a half; NaN where it has one label.

    The nearest opposite point within the half is among the nearest ones at hand, but for few points, whose distances
    to the half are computed.
    """
    rows = np.flatnonzero(inside)
    if not len(rows) or (near.labels[rows] == near.labels[rows[0]]).all():
        return np.full(len(quantiles), math.nan)
    distances, index = near.opposites(OPPOSITES if near.group is None else 4 * OPPOSITES)
    known = inside[index] & (index >= 0)
    nearest = np.where(known.any(axis=1), distances[np.arange(near.n), known.argmax(axis=1)], math.inf)
    for i in rows[~np.isfinite(nearest[rows])]:
        others = rows[near.labels[rows] != near.labels[i]]
        nearest[i] = near.points.distance(near.points.differences(np.full(len(others), i), others).min())
    return np.quantile(nearest[rows], quantiles)
