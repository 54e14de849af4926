"""How label sharpness grows with the number of images, and the dimension that predicts it.

If pairs of different classes within r have probability gamma r^D as r falls, the closest of the M^2 cross pairs of M
images a class is at a distance of Gamma(1 + 1/D) (gamma M^2)^(-1/D) in the mean, so K_F grows as M^(2/D). Where labels
have nothing to do with position, D is the dimension d of the images. Where classes touch along a boundary, D = d + 1.
Where they are a gap apart, there is no D, and K_F has a limit.

Functions take x, y, group, seed and interval as label_sharpness does, and raise BadPoints.
"""

import math

import numpy as np

from intrinsic.properties.interval import LEVEL, Interval, class_halves, degrees, half_sample
from intrinsic.properties.neighbors import BadPoints
from intrinsic.properties.sharpness import Labelled, mean_sharpness

CROSS_PAIRS = 1000  # closest pairs across classes of which D is estimated
LEAST_PAIRS = 20  # below which no dimension is estimated
LEAST_IMAGES = 64  # of the smallest class, below which no growth is fitted
BEYOND = (64, 1000)  # pairs across classes, at m images a class, between whose distances `growth_by_halves` takes D
RISES = 1.1  # ratio of slopes at small and large radii, lower limit, from which there is no one slope


def growth(x, y=None, per_class=None, draws=25, seed=0):
    """Tabulate mean label sharpness against M, the number of images a class.

    Parameters
    ----------
    x, y
        As for label_sharpness.
    per_class : list of int, optional
        The M; by default M doubles from 16 to the size of the smallest class.
    draws, seed : int
        Balanced draws at each M, those of mean_sharpness.

    Returns
    -------
    (array, array)
        M (int64) and K_F(M) (float64), per unit of L2 distance.

    Raises
    ------
    BadPoints, images.TooFewImages

    Examples
    --------
    >>> import numpy as np
    >>> x, y = np.random.default_rng(0).random((1024, 2)), np.arange(1024) % 2
    >>> m, k_f = growth(x, y)
    >>> m, bool(np.all(np.diff(k_f) > 0))
    (array([ 16,  32,  64, 128, 256, 512]), True)
    """
    given = Labelled(x, y)
    least = int(np.bincount(given.codes).min())
    per_class = [2**e for e in range(4, least.bit_length())] if per_class is None else per_class
    if np.ndim(per_class) != 1 or np.size(per_class) == 0:
        raise BadPoints(f"the smallest class has {least} images and per_class={per_class} holds no M: give a list of M")
    k_f = [mean_sharpness(given, per_class=m, draws=draws, seed=seed, interval=False) for m in per_class]
    return np.array(per_class, dtype=np.int64), np.array(k_f)


def growth_exponent(x, y=None, draws=50, *, interval=True, group=None, seed=0) -> Interval:
    """Fit the slope of mean log K_F(M) on log M.

    The M are a quarter of the smallest class, halved up to four times as long as 8 are left: larger draws share most of
    their pairs. Draws are nested: the images of M are among those of 2M. In half-samples M is halved too, which leaves
    the law of K_F(M), hence the variance of the slope, as it is where classes overlap.

    Returns an Interval for the expectation of this slope at these M, with facts per_class, log_k_f (the means) and
    closest (the smallest distance between labels).
    Raises BadPoints for fewer than 64 images a class, or copies with different labels.
    """
    given, least = _growing(x, y, group)
    sizes = np.unique([least // 4 >> e for e in range(5) if least // 4 >> e >= 8])
    facts = {"n": given.n, "per_class": sizes}
    if not given.codes.any():
        return Interval(0.0, 0.0, 0.0, "all labels are equal", **facts, log_k_f=np.array([]), closest=math.inf)
    logs = _mean_logs(given, np.ones(given.n, dtype=bool), sizes, draws, seed)
    fewer, freedom = np.maximum(sizes // 2, 1), degrees(given.n, given.group)
    halves = class_halves(given.labels, given.group, seed) if interval and freedom >= 3 else ()
    both = [[_slope(fewer, _mean_logs(given, side, fewer, draws, seed + 1)) for side in (h, ~h)] for h in halves]
    facts |= {"log_k_f": logs, "closest": float(given.pairs.distance[0])}
    facts["method"] = f"slope of log K_F over M = {sizes[0]} to {sizes[-1]}, {draws} draws"
    return half_sample(_slope(sizes, logs), both, freedom, relative=False, spread=2, **facts)


def cross_dimension(x, y=None, *, interval=True, group=None, seed=0) -> Interval:
    """Estimate D, the slope of log C_x(r) on log r, where C_x(r) is the share of cross-class pairs within r.

        1 / D = mean over the closest cross pairs of log( R / r ) ,    R the distance of the last of them

    Pairs within a group do not count: two slices of a scan are near for another reason.

    Returns an Interval, from half-samples at the same radius, with facts exponent (an Interval, 2/D, of K_F in M),
    radius (R), pairs, gamma (C_x(r) = gamma r^D), halves (D and C_x(R) in both halves of each split, (splits, 2, 2))
    and gap. It is NaN with the reason as method where the slope clearly rises as r falls, as it does where classes are
    a gap apart (then `gap` is the smallest distance seen), or where there are fewer than 20 pairs.
    Raises BadPoints for copies with different labels. Grassberger & Procaccia 1983; the estimator: Takens 1985.
    """
    given = Labelled(x, y, group)
    codes, listed = given.codes, given.pairs.between(given.group).part(slice(0, CROSS_PAIRS + 1))
    _no_conflict(listed)
    if len(listed) <= LEAST_PAIRS:
        return _without(f"{len(listed)} cross pairs are listed, and more than {LEAST_PAIRS} are needed", given.n)
    size, outer, inner = np.bincount(codes), len(listed), max(LEAST_PAIRS, len(listed) // 10)
    weight = 1.0 / (size[codes[listed.i]] * size[codes[listed.j]])

    def slopes(inside):
        """The slope from all listed pairs, that from the closest tenth, and the weight of all listed pairs."""
        chosen = inside[listed.i] & inside[listed.j]
        sums = []
        for m in (outer, inner):
            w, r = weight[:m][chosen[:m]], listed.distance[:m][chosen[:m]]
            total = (w * np.log(listed.distance[m - 1] / r)).sum()
            sums.append(w.sum() / total if total > 0 else math.nan)
        return [*sums, weight[chosen].sum()]

    value, near, whole = slopes(np.ones(given.n, dtype=bool))
    both = np.array([[slopes(half), slopes(~half)] for half in class_halves(given.labels, given.group, seed)])
    freedom = degrees(given.n, given.group)
    rises = half_sample(near / value, both[..., 1] / both[..., 0], freedom)
    if rises.low > RISES:
        why = f"the slope of log C_x rises from {value:.3g} to {near:.3g} as r falls, as where classes are apart"
        return _without(why, given.n, float(listed.distance[0]))
    radius, both = float(listed.distance[-1]), both if interval else both[:0]
    classes = len(size) * (len(size) - 1) / 2
    share = 4 / classes * both[..., 2]  # a half has a quarter of the pairs
    facts = {"n": given.n, "radius": radius, "pairs": len(listed), "gap": 0.0, "df": freedom}
    facts |= {"gamma": float(whole / classes * radius**-value), "halves": np.stack([both[..., 0], share], axis=-1)}
    found = half_sample(value, both[..., 0], freedom, method=f"{len(listed)} closest cross pairs", **facts)
    found.exponent = Interval(2 / found, 2 / found.high, 2 / found.low, f"2/D, {found.method}", given.n)
    return found


def predicted_sharpness(dimension, per_class) -> Interval:
    """Predict K_F of a new sample with M = per_class images a class, by the law of cross pairs.

        K_F(M) = (gamma M^2)^(1/D) / E^(1/D) ,    E exponential; its value is the one at the mean distance

    `dimension` is that of `cross_dimension`, with an interval. The 95 % interval is for one new sample: the quantiles
    of E, widened by the spread of the law between half-samples.
    """
    d, m = float(dimension), float(per_class)
    value = (dimension.gamma * m**2) ** (1 / d) / math.gamma(1 + 1 / d)
    halves = dimension.halves
    with np.errstate(divide="ignore", invalid="ignore"):  # a half without such pairs is left out
        logs = (np.log(halves[..., 1]) + 2 * math.log(m)) / halves[..., 0]  # log of K_F R
    at = half_sample(0.0, logs, dimension.df, relative=False)
    median = value * math.gamma(1 + 1 / d) * math.log(2) ** (-1 / d)
    low, high = ((math.log(math.log(2) / -math.log(tail))) / d for tail in ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Interval(
        value, median * math.exp(-math.hypot(at.low, low)), median * math.exp(math.hypot(at.high, high)),
        f"law of cross pairs at M = {per_class}; {dimension.method}", dimension.n,
    )  # fmt: skip


def growth_by_halves(x, y=None, draws=10, *, group=None, seed=0) -> dict:
    """Predict the growth of K_F in one half of the images from pairs across classes in the other half.

    params/growth.yaml states measure, prediction and rule. Each half of 25 random splits predicts the other, from
    nested draws of M = m/8, m/4, m/2 and m images a class of a half, m its smallest class.

    Keys: measured (mean exponent of K_F in M) and predicted (mean 2/D). Raises BadPoints as growth_exponent does.
    """
    given, _ = _growing(x, y, group)
    apart, measured, predicted = given.pairs.between(given.group), [], []
    for half in class_halves(given.labels, given.group, seed):
        for one, other in ((half, ~half), (~half, half)):
            m = int(np.bincount(given.codes[one]).min())
            sizes = np.array([m // 8, m // 4, m // 2, m])
            measured.append(_slope(sizes, _mean_logs(given, one, sizes, draws, seed)))
            predicted.append(2 / _slope_beyond(apart, other))
    return {"measured": float(np.mean(measured)), "predicted": float(np.nanmean(predicted))}


def labels_by_lot(labels, group=None, seed=0):
    """Labels that say nothing of position: in each group (or image) the classes change names by a random permutation.

    Two images of a group differ in label after it if they did before. Classes come out about alike in size.
    """
    classes, codes = np.unique(np.asarray(labels), return_inverse=True)
    unit = np.arange(len(codes)) if group is None else np.unique(np.asarray(group), return_inverse=True)[1]
    names = np.random.default_rng(seed).random((int(unit.max()) + 1, len(classes))).argsort(axis=1)
    return classes[names[unit, codes]]


def _growing(x, y, group):
    """Points with labels of which a growth can be fitted, and the number of images of their smallest class."""
    given = Labelled(x, y, group)
    if (least := int(np.bincount(given.codes).min())) < LEAST_IMAGES:
        raise BadPoints(f"the smallest class has {least} images, and {LEAST_IMAGES} are needed")
    _no_conflict(given.pairs)
    return given, least


def _no_conflict(pairs):
    if len(pairs) and pairs.distance[0] == 0:
        raise BadPoints("copies with different labels are at distance 0: drop_duplicates(conflicting=True) drops them")


def _without(why, n, gap=0.0):
    nothing = Interval(math.nan, method=why, n=n)
    return Interval(math.nan, method=why, n=n, exponent=nothing, radius=math.nan, pairs=0, gamma=math.nan, gap=gap)


def _mean_logs(given, inside, sizes, draws, seed):
    """Mean log K_F over nested draws of M images a class within a subset, for each M of `sizes`."""
    members = [np.flatnonzero(inside & (given.codes == c)) for c in range(given.codes.max() + 1)]
    if sum(len(m) > 0 for m in members) < 2:
        return np.full(len(sizes), math.nan)
    total = np.zeros(len(sizes))
    for draw in range(draws):
        rng, rank = np.random.default_rng([seed, draw]), np.full(len(inside), len(inside))
        for m in members:
            rank[m] = rng.permutation(len(m))
        with np.errstate(divide="ignore"):
            total += np.log(given.pairs.nested(rank, sizes))
    return total / draws


def _slope(sizes, logs):
    """Slope of the least-squares line of logs against log sizes."""
    centered = np.log(sizes) - np.log(sizes).mean()
    return float(centered @ logs / (centered @ centered))


def _slope_beyond(pairs, inside):
    """D = log(C(R) / C(r)) / log(R / r) in a subset, at C(r) = 64/m^2 and C(R) = 1000/m^2, m its smallest class."""
    size = np.bincount(pairs.codes[inside])
    pairs = pairs.part(inside[pairs.i] & inside[pairs.j])
    share = np.cumsum(1.0 / (size[pairs.codes[pairs.i]] * size[pairs.codes[pairs.j]]))
    near, far = np.searchsorted(share, np.array(BEYOND) / size.min() ** 2)
    if far >= len(pairs):
        return math.nan  # the list of pairs ends before
    return math.log(share[far] / share[near]) / math.log(pairs.distance[far] / pairs.distance[near])
