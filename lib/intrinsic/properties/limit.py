"""An upper limit for the supremum of label sharpness, where the closest pairs show a gap between the classes."""

import math
from decimal import Decimal, localcontext
from functools import lru_cache

import numpy as np

from intrinsic.properties.dimension import mle_dimension
from intrinsic.properties.interval import Interval
from intrinsic.properties.sharpness import Labelled

LIMIT_TEST = 0.03  # level of the test behind the 95 % limit: closest pairs share images, which costs up to 5 % at 0.05


def sharpness_limit(x, y=None, *, dimension=None, group=None) -> Interval:
    """An upper 95 % limit for the supremum 1 / gap, or "not identified".

    Above a gap g the number of pairs across within r rises as (r - g)^a. So of the k + 1 smallest distances across,
    r_1 <= ... <= r_k <= R, the log((R - g) / (r_i - g)) are like k exponential variables, and the share of the largest
    in their sum follows Fisher's law, without a. The smallest g that its 3 % quantile does not refuse is gap_low.
    Two conditions are part of the rule: a dimension of at least 1.5, and a gap_low above the smallest distance within
    a label. Sources: Hall 1982; Fisher 1929.

    Value and low are K_F of all pairs; high is the limit, or infinity; facts: identified, gap_low and the pair.
    """
    given = Labelled(x, y, group)
    if not len(pairs := given.pairs):
        return given.without_pair(identified=True, gap_low=math.inf)
    value, units = float(pairs.sharpness[0]), np.arange(given.n) if given.group is None else given.group
    least = min(len(np.unique(units[given.codes == code])) for code in range(given.codes.max() + 1))
    count, gap, why = min(100, least // 4), 0.0, ""
    distances = _between_units(pairs, units, count + 1)
    if value == math.inf:
        why = "copies with different labels: there is no gap"
    elif count < 20:
        why = f"the smallest class has {least} images or groups, and 80 are needed"
    elif len(distances) <= count:
        why = f"fewer than {count + 1} pairs of images or groups are listed"
    elif not (gap := _endpoint(distances)) > 0:
        why = "classes that touch or overlap are not excluded"
    elif not (d := mle_dimension(x, min(20, given.n - 1), interval=False) if dimension is None else dimension) >= 1.5:
        why = f"dimension {float(d):.2f}: below 1.5 the closest pairs share the same few images"
    else:
        same = _between_units(given.same_pairs, units, 1)
        if not len(same):
            why = "no two images of one label (and of different groups), so there is no control"
        elif gap <= same[0]:
            why = f"a gap below {gap:.3g} is excluded, and distances within a label reach down to {same[0]:.3g}"
    method = f"not identified: {why}" if why else f"endpoint of the {count} closest pairs, one-sided 95 %"
    facts = given.facts((pairs.i[0], pairs.j[0])) | {"gap_low": 0.0 if why else gap}
    return Interval(value, value, math.inf if why else max(value, 1 / gap), method, **facts, identified=not why)


def _between_units(pairs, units, count):
    """The smallest distances between two units (images or groups), ascending, each two units once, at most `count`."""
    apart = pairs.between(units)
    ends = np.sort([units[apart.i], units[apart.j]], axis=0)
    first = np.unique(ends[0] * (int(units.max()) + 1) + ends[1], return_index=True)[1]
    return apart.distance[np.sort(first)[:count]]


@lru_cache(maxsize=64)
def _fisher_quantile(k, level):
    """The quantile of max z / sum z of k exponential variables: P(> t) = sum_j (-1)^(j-1) C(k, j) (1 - j t)_+^(k-1).

    Its terms are large and alternate, so they are summed with 120 digits.
    """
    low, high = 1 / k, 1.0
    with localcontext(prec=120):
        for _ in range(50):
            middle = (low + high) / 2
            rest = [(j, 1 - j * Decimal(middle)) for j in range(1, k + 1)]
            beyond = sum((-1) ** (j - 1) * math.comb(k, j) * left ** (k - 1) for j, left in rest if left > 0)
            low, high = (middle, high) if beyond > 1 - level else (low, middle)
    return (low + high) / 2


def _endpoint(distances):
    """Lower 95 % limit for the endpoint g >= 0 of distances r_1 <= ... <= r_k <= R; 0 if 0 is not excluded."""
    r, outer = distances[:-1], distances[-1]
    limit = _fisher_quantile(len(r), LIMIT_TEST)

    def refused(g):
        z = np.log((outer - g) / (r - g))
        return not z.any() or z.max() / z.sum() < limit

    if r[0] <= 0 or not refused(0.0):
        return 0.0
    low, high = 0.0, float(r[0])
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if middle < r[0] and refused(middle) else (low, middle)
    return low
