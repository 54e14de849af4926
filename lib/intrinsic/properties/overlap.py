"""How label sharpness grows with the number of images, against what overlapping classes would give.

Where classes overlap, K_F of M images a class grows as M^(2/d) without limit, so a value is one of the sample; where
they are a gap apart it has a limit, which is a property of the set. Which of the two is seen depends on d at the
distances where the closest pairs are: an estimate from k neighbors of all images is for other distances. So d is taken
here from the pairs themselves, at the very distances 1 / K_F(M).

    growth_law      exponent of K_F, exponent of overlapping classes at the same distances, and their difference
    labels_by_lot   labels that overlap by construction on the same images: the positive control

Measured coverage: book/methods/tables/sharpness_growth.json, which benchmarks/sharpness_growth.py writes.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from intrinsic.properties.dimension import LEVEL, SPLITS, Estimate
from intrinsic.properties.neighbors import BadPoints, Neighbors, as_points, closest_pairs, labels_and_group
from intrinsic.properties.sharpness import growth_exponent, halves, log_slope

FLAT = 0.05  # an exponent below which doubling M adds less than 3.5 %
DEGREES = 6  # of freedom of the difference's interval
LEAST_PAIRS = 10  # pairs within a distance, below which it does not enter the dimension
MOST_PAIRS = 3_000_000  # closest pairs that are listed at most
PLATEAU = "a plateau"
AS_OVERLAPPING = "as overlapping classes"
SLOWER = "slower than overlapping classes, still rising"
STEEPER = "steeper than overlapping classes"
UNDECIDED = "undecided"


@dataclass(frozen=True, eq=False)
class GrowthLaw:
    """How K_F(M) grows, and how it would if the classes overlapped.

    exponent     of K_F(M) in M, an Estimate, as sharpness.growth_exponent gives it
    overlapping  2 / dimension: the exponent of overlapping classes at the same distances
    difference   exponent - overlapping, with an interval of its own (both come from the same halves)
    dimension    of all pairs of images at the distances 1 / K_F(M)
    per_class, k_f    M, and exp of the mean of log K_F(M)
    pairs        pairs (of different groups) within 1 / K_F(M), for each M; share: the share of them with different
                 labels, classes weighted alike. Where labels are by lot and two classes alike in size it is 1/2
    closest      smallest distance between images with different labels, 1 / K_F of all pairs: no gap is larger
    gap          largest gap that this growth does not exclude, a distance: see growth_law
    kind         one of PLATEAU, AS_OVERLAPPING, SLOWER, STEEPER, or UNDECIDED with a reason
    """

    exponent: Estimate
    overlapping: Estimate
    difference: Estimate
    dimension: Estimate
    per_class: np.ndarray
    k_f: np.ndarray
    pairs: np.ndarray
    share: np.ndarray
    closest: float
    gap: float
    kind: str

    @property
    def sentence(self):
        """What it says about a value of K_F, in one sentence."""
        e = self.exponent
        over = f"over M = {min(self.per_class)} to {max(self.per_class)} images a class"
        if not math.isfinite(e.low):
            return f"K_F grows as M^{e:.2f} {over}, {self.kind}"
        grows = f"K_F grows as M^{e:.2f} [{e.low:.2f}, {e.high:.2f}] {over}"
        if math.isfinite(self.overlapping):
            grows += f", {self.kind} (overlapping classes would as M^{self.overlapping:.2f} at these distances)"
        if self.kind == PLATEAU:
            return f"{grows}: its value is a property of the set"
        if e.low <= 0:
            return f"{grows}: whether it has a limit is open"
        return f"{grows}: at M images a class its value is a property of the sample as much as of the set"


def growth_law(x, y=None, per_class=None, draws=50, *, interval=True, group=None, seed=0):
    """The growth of K_F with M images a class beside that of overlapping classes: a GrowthLaw.

        exponent     e = slope of mean log K_F(M) on log M
        distances    r(M) = 1 / exp(mean log K_F(M))
        dimension    d = slope of log C(r) on log r over the r(M),  C(r) = sum of w_ij over pairs with |x_i - x_j| <= r
        overlapping  2 / d,        difference  e - 2 / d

    with w_ij = 1 / (n_a n_b) for images of classes a and b, so that classes of any size weigh alike. M images a class
    have their closest pair across classes where M^2 times the share of pairs across within r is about 1. If labels
    have nothing to do with position at these distances, pairs across are a constant share of all pairs, and e = 2/d,
    whatever the edges, bends or scales in d. Where classes touch, the share falls as r and e = 2/(d+1); where they are
    a gap apart it is 0 below the gap, and e falls to 0. On two parallel sheets a gap g apart, r the distance seen,
        e = (2/d) (1 - (g / r)^2),
    so growth alone does not exclude a gap of
        gap = r sqrt(1 - min(1, max(0, low / high)))
    with low the lower end of the exponent's interval, high the upper one of 2/d and r the middle distance in
    logarithms; `closest` where that is less. It is a statement about that model, and no estimate of a gap.

    x, y, per_class, draws, seed   as for sharpness.growth_exponent: M is at most a quarter of the smallest class, since
                draws that use more share most of their pairs
    group       one a point, by default those of x: patients or volumes. Groups stay whole in the halves, and pairs
                within a group do not count in C: two slices of a scan are near for another reason. Draws are of images,
                so K_F itself is as everywhere. Give near_duplicate_components where groups are unknown
    A distance with fewer than LEAST_PAIRS pairs within it does not enter d. C is read from a list of the closest pairs,
    MOST_PAIRS at most; distances beyond its end are left out.

    Intervals (95 %): for the expectations at this n, from the halves of growth_exponent: in each, e and d are taken
    with M halved, so that as many pairs lie within the distances as in the whole, and
        se^2 = mean over splits of (v_A - v_B)^2 / 2,    interval v +- t se
    for v = e, 2/d and their difference (d's is that of 2/d, inverted). t has the degrees of freedom of mle_dimension,
    but for the difference DEGREES: a few closest pairs decide it, and with more degrees its interval covered 88 % in
    trial simulations. kind follows from the intervals alone: a plateau where the difference is below 0 and e's interval
    holds 0 or ends below FLAT; as overlapping where e is above 0 and the difference's holds 0; slower and steeper where
    it does not, and steeper too where there is no d and e is above 1, more than 2/d of any d from 2 on; undecided
    otherwise. Classes that are apart are "slower" until M is so large that the gap is nearly all
    of r. "As overlapping" is no proof of overlap: the interval of the difference says how much of a departure would
    have been seen, and `gap` how large a gap.
    Measured coverage (30 samples each, n = 300 to 600: a share from so few is known to about 10 points): exponent 87 to
    100 %, overlapping 93 to 100 %, difference 93 to 100 %. Of overlapping classes, wrong labels and groups, 97 % were
    called "as overlapping"; so were 22 of 30 samples of touching classes (d = 3, n = 300), hardly to be told apart.
    Raises BadPoints as growth_exponent does.
    Source: the law: book/theory.md, theorem 6; C(r) and its slope: Grassberger & Procaccia 1983; halves: McCarthy 1969.
    """
    points = x if isinstance(x, Neighbors) else as_points(x)
    y, group = labels_and_group(x, y, group)
    if y is None:
        raise BadPoints("growth needs labels, and there are none: give y, one a point")
    exponent = growth_exponent(x, y, per_class, draws, interval=interval, group=group, seed=seed)
    sizes, logs = exponent.per_class, exponent.log_k_f
    if not len(logs):
        nothing = Estimate(math.nan, method="all labels are equal")
        none = np.zeros(len(sizes))
        kind = f"{UNDECIDED}: all labels are equal"
        return GrowthLaw(
            exponent, nothing, nothing, nothing, sizes, none, none.astype(int), none, math.inf, math.nan, kind
        )
    count = _Count(points, np.unique(y, return_inverse=True)[1], group, float(np.exp(-logs.min())))
    everything = np.ones(points.n, dtype=bool)
    pairs, all_weights, across = count(everything, np.exp(-logs))
    value = float(exponent)
    overlapping = _overlapping(np.exp(-logs), all_weights, pairs)
    split = []
    if len(exponent.halves):
        for half, both in zip(halves(y, group, seed), exponent.halves, strict=True):
            split.append([_of_half(count, side, sizes, one) for side, one in zip((half, ~half), both, strict=True)])
    split = np.array(split).reshape(-1, 2, 2)
    split = split[np.isfinite(split).all(axis=(1, 2))]
    units = points.n if group is None else int(group.max()) + 1
    method = f"2 / slope of log C(r), r = {math.exp(-logs.max()):.3g} to {math.exp(-logs.min()):.3g}"
    if len(split) > SPLITS / 2 and math.isfinite(overlapping):
        t = student.ppf((1 + LEVEL) / 2, min(SPLITS, units - 1))
        width = t * np.sqrt(np.mean((split[:, 0] - split[:, 1]) ** 2, axis=0) / 2)
        apart = split[..., 0] - split[..., 1]
        both = student.ppf((1 + LEVEL) / 2, min(DEGREES, units - 1)) * math.sqrt(
            np.mean((apart[:, 0] - apart[:, 1]) ** 2) / 2
        )
        method += f"; half-samples, {len(split)} splits"
        law = Estimate(overlapping, overlapping - width[1], overlapping + width[1], method, n=points.n)
        difference = Estimate(value - overlapping, value - overlapping - both, value - overlapping + both, method)
    else:
        law, difference = Estimate(overlapping, method=method, n=points.n), Estimate(value - overlapping, method=method)
    d = _inverted(law)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = across / all_weights
    kind = law_kind(exponent, difference)
    gap = _gap(exponent.low, law.high, logs, exponent.closest)
    return GrowthLaw(exponent, law, difference, d, sizes, np.exp(logs), pairs, share, exponent.closest, gap, kind)


def law_kind(exponent, difference):
    """What the intervals of the exponent and of its difference from that of overlapping classes say together."""
    if not math.isfinite(exponent.low):
        return f"{UNDECIDED}: no interval"
    if not math.isfinite(difference.low):  # nothing but the pairs across is so close
        return STEEPER if exponent.low > 1 else f"{UNDECIDED}: too few pairs at these distances"
    if difference.high < 0 and (exponent.low <= 0 or exponent.high < FLAT):
        return PLATEAU
    if exponent.low <= 0:
        return f"{UNDECIDED}: too few images"
    if difference.high < 0:
        return SLOWER
    return STEEPER if difference.low > 0 else AS_OVERLAPPING


def labels_by_lot(labels, group=None, seed=0):
    """Labels that say nothing of position: in each group (or image) the classes change names by a random permutation.

    labels   (n,), any values;  group   one a point, or None: each image by itself
    Two images of a group differ in label after it if they did before, so families of near-duplicates with one label
    keep one. Every class has each label with the same probability, so classes come out about alike in size.
    """
    classes, codes = np.unique(np.asarray(labels), return_inverse=True)
    unit = np.arange(len(codes)) if group is None else np.unique(np.asarray(group), return_inverse=True)[1]
    names = np.random.default_rng(seed).random((int(unit.max()) + 1, len(classes))).argsort(axis=1)
    return classes[names[unit, codes]]


class _Count:
    """Pairs of different groups within distances r, in a subset: number, sum of weights, and that of pairs across."""

    def __init__(self, points, codes, group, reach):
        self.codes = codes
        count = max(200_000, 20 * points.n)
        while True:  # each point a label of its own: all pairs count
            found = closest_pairs(points, np.arange(points.n), count=count)
            if found.complete or found.distance[-1] >= reach or count >= MOST_PAIRS:
                break
            count = min(4 * count, MOST_PAIRS)
        apart = np.ones(len(found), dtype=bool) if group is None else group[found.i] != group[found.j]
        self.i, self.j, self.distance = found.i[apart], found.j[apart], found.distance[apart]
        self.end = math.inf if found.complete else float(found.distance[-1])

    def __call__(self, inside, radii):
        inside_both = inside[self.i] & inside[self.j]
        i, j, distance = self.i[inside_both], self.j[inside_both], self.distance[inside_both]
        size = np.bincount(self.codes[inside], minlength=int(self.codes.max()) + 1)
        a, b = self.codes[i], self.codes[j]
        weight = 1.0 / (size[a] * size[b])
        within = np.searchsorted(distance, radii * (1 + 1e-12), side="right")  # the list ascends
        sums = [np.concatenate([[0.0], np.cumsum(w)])[within] for w in (weight, weight * (a != b))]
        beyond = radii > self.end
        pairs = np.where(beyond, 0, within)
        return pairs, np.where(beyond, math.nan, sums[0]), np.where(beyond, math.nan, sums[1])


def _overlapping(radii, weights, pairs):
    """2 / slope of log C on log r over the distances with enough pairs; NaN where two of them are not left."""
    good = (pairs >= LEAST_PAIRS) & (weights > 0)
    if good.sum() < 2 or np.ptp(np.log(radii[good])) <= 0:
        return math.nan
    slope = log_slope(radii[good], np.log(weights[good]))
    return 2 / slope if slope > 0 else math.nan


def _of_half(count, side, sizes, logs):
    """(exponent, exponent of overlapping classes) in a half, with M halved."""
    if not np.isfinite(logs).all():
        return math.nan, math.nan
    pairs, weights, _ = count(side, np.exp(-logs))
    return log_slope(np.maximum(sizes // 2, 1), logs), _overlapping(np.exp(-logs), weights, pairs)


def _gap(low, high, logs, closest):
    """The largest gap of two parallel sheets that an exponent from low on, beside 2/d up to high, leaves open."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return math.nan
    share = 1 - min(1.0, max(0.0, low / high))
    return min(math.exp(-logs.mean()) * math.sqrt(share), closest)


def _inverted(law):
    """2 / law, with its interval; an end that is not above 0 has no inverse."""
    low, high = (2 / end if end > 0 else math.nan for end in (law.high, law.low))
    return Estimate(2 / law if law > 0 else math.nan, low, high, law.method, n=law.n)
