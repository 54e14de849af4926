"""What the theorems of the theory chapter promise, as numbers, and what they speak of, measured.

First bounds, with every constant; then interpolants and radii that can be written down; then experiments on manifolds
where everything is known, which put a measured mean beside its bound. Distances and radii are L2 in the unit of the
points (images in [0, 1]), slopes are per that unit, losses are as named.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import special, stats

from intrinsic import images
from intrinsic.images import manifolds
from intrinsic.properties import dimension
from intrinsic.properties.neighbors import neighbors

ALPHA = 0.05
BLOCK = 2**22  # distances held at a time


class BadTheory(ValueError):
    """Numbers for which a bound is not defined."""


# -------------------------------------------------------------------------------------------- laws of images


@dataclass(frozen=True)
class Law:
    """A law of images that fills its support evenly:  mu(B(x, r)) >= c r^d  for all x in the support and r <= r0.

    d          dimension
    c          mass of a ball over r^d, unit 1 / L2^d
    r0         up to this radius
    diameter   largest distance between two images
    """

    d: float
    c: float
    r0: float
    diameter: float

    def __post_init__(self):
        if not all(math.isfinite(v) and v > 0 for v in (self.d, self.c, self.r0, self.diameter)):
            raise BadTheory(f"{self} is no law of images: d, c, r0 and diameter must be finite and above 0")
        if self.c * self.r0**self.d > 1 + 1e-9:
            raise BadTheory(
                f"{self} gives a ball of radius r0 a mass of {self.c * self.r0**self.d:.3g}, and no ball holds more "
                "than 1: take a smaller c or r0"
            )


def ball_volume(d):
    """Volume of the unit ball of R^d:  V_d = pi^(d/2) / Gamma(d/2 + 1)."""
    return math.exp(d / 2 * math.log(math.pi) - math.lgamma(d / 2 + 1))


def mean_coordinate(d):
    """Mean size of one coordinate of a uniform direction in R^d:  E|u_1| = Gamma(d/2) / (sqrt(pi) Gamma((d+1)/2))."""
    return math.exp(math.lgamma(d / 2) - math.lgamma((d + 1) / 2)) / math.sqrt(math.pi)


def flat_torus_law(d):
    """Law of `manifolds.flat_torus`, in straight distances:  c = V_d,  r0 = 1/2,  diameter = sqrt(d) / pi.

    A ball along the torus has mass V_d r^d up to r = 1/2, and a straight ball of the same radius holds it, because
    straight distances are the shorter ones. (At r0 = 1/2 the mass V_d / 2^d is at most 1 for every d.)
    """
    return Law(d, ball_volume(d), 0.5, math.sqrt(d) / math.pi)


def parallel_tori_law(d, gap):
    """Law of `manifolds.parallel_tori`:  c = V_d / 2,  r0 = 1/2,  diameter = sqrt(d / pi^2 + gap^2).

    Half of the mass lies on a point's own torus; what a ball holds of the other one is not counted.
    """
    return Law(d, ball_volume(d) / 2, 0.5, math.hypot(math.sqrt(d) / math.pi, gap))


def sphere_law(d, r0=1.0):
    """Law of `manifolds.sphere`, in straight distances, up to a radius r0 < 2:

        c = V_d / A_d * min(1, (1 - r0^2/4)^((d-2)/2)),    A_d = 2 pi^((d+1)/2) / Gamma((d+1)/2), the area of S^d

    The mass of a cap is V_d d / A_d times the integral of s^(d-1) (1 - s^2/4)^((d-2)/2) over s <= r. For d = 2 this is
    r^2 / 4 exactly.
    """
    if not 0 < r0 < 2:
        raise BadTheory(f"r0={r0} is no radius of a cap of the unit sphere; take 0 < r0 < 2")
    area = 2 * math.exp((d + 1) / 2 * math.log(math.pi) - math.lgamma((d + 1) / 2))
    return Law(d, ball_volume(d) / area * min(1.0, (1 - r0**2 / 4) ** ((d - 2) / 2)), r0, 2.0)


def cube_law(d):
    """Law of `manifolds.cube`:  c = V_d / 2^d,  r0 = 1,  diameter = sqrt(d): at a corner 1 / 2^d of a ball is inside.

    No other point has less: along each side, what lies inside is a concave function of the place.
    """
    return Law(d, ball_volume(d) / 2**d, 1.0, math.sqrt(d))


# ----------------------------------------------------------------------------------------------- the bounds


def distance_bound(law: Law, n, moment=1):
    """Upper bound for the distance from an image to the nearest of N others, to the power p = `moment`.

        E delta_N^p <= Gamma(1 + p/d) (c N)^(-p/d) + diameter^p exp(-c N r0^d)

    n   number of training images; scalar or array. Unit: L2^p.   Source: theory chapter, first lemma.
    """
    n = np.asarray(n, dtype=float)
    p, d = moment, law.d
    return math.gamma(1 + p / d) * (law.c * n) ** (-p / d) + law.diameter**p * np.exp(-law.c * n * law.r0**d)


def distance_lower_bound(d, upper, r0, n):
    """Lower bound for the mean distance to the nearest of N images, where  mu(B(x, r)) <= C r^d  for r <= r0.

        E delta_N >= integral_0^r0 (1 - C r^d)_+^N dr = C^(-1/d) / d * B(min(1, C r0^d); 1/d, N + 1)

    B is the incomplete beta function; for C r0^d >= 1 this is above Gamma(1 + 1/d) (C (N + 1))^(-1/d), the constant of
    the upper bound. upper is C, unit 1 / L2^d. Unit: L2.   Source: theory chapter, first lemma.
    """
    n = np.asarray(n, dtype=float)
    a, b = 1 / d, n + 1
    return upper**-a / d * special.beta(a, b) * special.betainc(a, b, min(1.0, upper * r0**d))


def flat_torus_upper(d, r0):
    """C of `distance_lower_bound` for `manifolds.flat_torus`, in straight distances, for r0 < 1/pi.

    mu(B(x, r)) = integral over |s| <= r of prod_i (1 - pi^2 s_i^2)^(-1/2) ds <= V_d r^d / sqrt(1 - pi^2 r0^2)
    """
    if not 0 < r0 < 1 / math.pi:
        raise BadTheory(f"r0={r0}: circles of circumference 1 have a diameter of 1/pi; take 0 < r0 < 1/pi")
    return ball_volume(d) / math.sqrt(1 - (math.pi * r0) ** 2)


def error_bound(law: Law, n, network_slope, label_slope):
    """Theorem 1, bound of the mean absolute error of a network that interpolates:

        E|f - F| <= (K_f + K_F) E delta_N <= (K_f + K_F) * distance_bound

    network_slope, label_slope   K_f and K_F, 1/L2; with K_f = 0 the bound of the nearest training image's label,
    |F(x^) - F(x)| <= K_F delta_N. In probabilities; a loss with slope K_L in f has K_L times as much.
    """
    return (network_slope + label_slope) * distance_bound(law, n)


def brier_bound(law: Law, n, network_slope, label_slope):
    """Theorem 1 for the Brier score:  E (f - F)^2 <= (K_f + K_F)^2 E delta_N^2, with twice the exponent."""
    return (network_slope + label_slope) ** 2 * distance_bound(law, n, moment=2)


def cross_entropy_bound(law: Law, n, logit_slope, label_slope, epsilon, largest_logit):
    """Theorem 1 for the cross-entropy, in nats:

        E loss <= epsilon + K_z * distance_bound + Z exp(-c N r1^d),    r1 = min(r0, 1 / K_F)

    logit_slope     K_z, nats per L2;  label_slope  K_F, 1/L2
    epsilon         largest loss of a training image, below log 2, nats;  largest_logit  Z, of the training images, nats
    """
    if not 0 <= epsilon < math.log(2):
        raise BadTheory(f"epsilon={epsilon}: an image with a loss of log 2 or more is not fitted; the bound needs less")
    r1 = min(law.r0, 1 / label_slope)
    wrong = np.exp(-law.c * np.asarray(n, dtype=float) * r1**law.d)
    return epsilon + logit_slope * distance_bound(law, n) + largest_logit * wrong


def loss_slope(loss, least=0.0):
    """K_L of a loss of a probability:  loss(p, y) <= K_L |p - y|  for p in [least, 1 - least], y in {0, 1}.

        "absolute" |p - y|      1
        "brier" (p - y)^2       1
        "error" share of errors 2, because an error needs |p - y| >= 1/2
        "cross-entropy"         log(1/least) / (1 - least), nats: infinite at least = 0

    The last is the chord of -log(1 - u), which is convex, from u = 0 to u = 1 - least.
    """
    if loss == "cross-entropy":
        if not 0 <= least < 0.5:
            raise BadTheory(f"least={least}: probabilities lie in [least, 1 - least]; take 0 <= least < 1/2")
        return math.log(1 / least) / (1 - least) if least else math.inf
    known = {"absolute": 1.0, "brier": 1.0, "error": 2.0}
    if loss not in known:
        raise BadTheory(f"no K_L is known for the loss '{loss}'; choose one of {', '.join(known)}, cross-entropy")
    return known[loss]


def boundary_bound(law: Law, n, amount):
    """Share of errors of the nearest-neighbor classifier where the classes may touch:

        P(error) <= A Gamma(1 + 1/d) (c N)^(-1/d) + exp(-c N r0^d),    A: P(distance to the other class <= r) <= A r

    amount   A, 1/L2, for r <= r0.   Source: theory chapter, nearest neighbors and the amount of boundary.
    """
    n = np.asarray(n, dtype=float)
    return amount * math.gamma(1 + 1 / law.d) * (law.c * n) ** (-1 / law.d) + np.exp(-law.c * n * law.r0**law.d)


def gap_bound(law: Law, n, label_slope):
    """Theorem 2, how far the smallest distance between the classes of N images may be above the gap 1 / K_F:

        E[1 / K_F_hat] - 1 / K_F <= 2 Gamma(1 + 1/d) (c N)^(-1/d) + 2 diameter exp(-c N r1^d),   r1 = min(r0, 1 / K_F)

    A sample without one of the classes counts with the diameter. Unit: L2.
    """
    n, r1 = np.asarray(n, dtype=float), min(law.r0, 1 / label_slope)
    near = math.gamma(1 + 1 / law.d) * (law.c * n) ** (-1 / law.d)
    return 2 * near + 2 * law.diameter * np.exp(-law.c * n * r1**law.d)


def logit_slope_bound(label_slope, epsilon):
    """Theorem 2, least slope of the logit of a network whose training losses are at most epsilon < log 2 (nats):

    K_z >= 2 z0 K_F_hat,    z0 = -log(exp(epsilon) - 1):  without limit as epsilon goes to 0. Unit: nats per L2.
    """
    if not 0 < epsilon < math.log(2):
        raise BadTheory(f"epsilon={epsilon}: the bound is for training losses above 0 and below log 2")
    return -2 * math.log(math.expm1(epsilon)) * label_slope


def radius_bound(probability, label, slope):
    """Theorem 3, least L2 radius of an adversarial change:  R(x) >= (1/2 - |f(x) - y|)_+ / K.

    slope   of f over the ball, ambient directions included, 1/L2. With the slope per largest change of a pixel (the
            largest L1 norm of the gradient) it bounds the L-infinity radius. Unit: that of 1 / slope.
    """
    return np.maximum(0.5 - np.abs(np.asarray(probability) - label), 0) / slope


def penalty_bound(eps, slope_l1):
    """Theorem 3, largest rise of the cross-entropy, in nats, under changes of a pixel by at most eps.

        loss(x + change) - loss(x) <= eps * sup |grad z|_1

    slope_l1   largest L1 norm of the logit's gradient, nats per unit of a pixel; at most sqrt(m) K_z.
    """
    return eps * slope_l1


def informative_from(bound: Callable, trivial=1.0):
    """The smallest N at which bound(N) < trivial, from which on the bound says anything; infinity if beyond 1e300.

    bound     of one argument N, not rising
    trivial   what holds without any training image: 1 for |f - F| and its square, since both lie in [0, 1]
    """
    high = 1
    while not bound(high) < trivial:
        high *= 2
        if high > 1e300:
            return math.inf
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if bound(middle) < trivial else (middle, high)
    return high


def crossing(n, loss, bound, exponent, predicted):
    """The N at which a loss that goes on falling as N^(-exponent) would meet a bound that falls as N^(-predicted).

        N* = n (bound / loss)^(1 / (predicted - exponent))

    loss, bound   both at n, loss > 0
    predicted     1/d for an absolute error, 2/d for the Brier score
    Infinity where they never meet (exponent >= predicted) or not below 1e300; n where the loss is above already. An
    exponent below the predicted one contradicts the bound only if it lasts up to N*.
    """
    if loss >= bound:
        return float(n)
    if not exponent < predicted:
        return math.inf
    log = math.log(n) + math.log(bound / loss) / (predicted - exponent)
    return math.exp(log) if log < 690 else math.inf


def least_bound(near, *, image_by_image=False):
    """The smallest value that Theorem 1 can promise for the images of `near`, whatever network interpolates them.

        (K_f + K_F) E delta_N >= 2 K_F_hat E delta_N,    measured as  2 * mean T_1 / smallest distance between labels

    since every interpolant has K_f >= K_F_hat, and K_F >= K_F_hat. From 1 on the bound says nothing about these labels
    at this number of images, for any interpolant, and no exponent of a loss can speak against it.

    near             Neighbors with labels. The result has no unit
    image_by_image   the mean of min(1, 2 K_F_hat T_1): the same proof with |f - F| <= 1 used for every image, never
                     above 1
    Raises BadTheory without two classes or with copies across them.
    """
    if near.opposite_distance is None or not np.isfinite(near.opposite_distance).any():
        raise BadTheory("there is one label only, so nothing has to be told apart; give labels of two classes")
    smallest = near.opposite_distance.min()
    if smallest == 0:
        raise BadTheory("two equal images have different labels, where K_F is infinite; drop them first")
    bound = 2 * near.distances[:, 0] / smallest
    return float((np.minimum(bound, 1) if image_by_image else bound).mean())


def least_bounds(near, per_class=250, draws=25, seed=0):
    """`least_bound` over seeded balanced draws of M images a class, as a dict, and how many images it asks for.

    n                         images of a draw, M times the classes
    mean, smallest, largest   of the least bound over the draws, which share images
    image_by_image            the mean with |f - F| <= 1 used for every image
    above                     number of draws in which the least bound is 1 or more
    d, factor                 d by maximum likelihood at k = 20, and mean^d: how many times n until the mean were 1 if
                              K_F_hat did not grow meanwhile; 1 where it is below 1 already
    """
    chosen = [near.subset(one, 1) for one in images.balanced_draws(near.labels, per_class, draws, seed)]
    found = np.array([least_bound(one) for one in chosen])
    d = float(dimension.mle_dimension(near, min(20, near.k), interval=False))
    return {
        "n": len(chosen[0]),
        "mean": float(found.mean()),
        "smallest": float(found.min()),
        "largest": float(found.max()),
        "image_by_image": float(np.mean([least_bound(one, image_by_image=True) for one in chosen])),
        "above": int((found >= 1).sum()),
        "d": d,
        "factor": max(1.0, float(found.mean() ** d)),
    }


# ------------------------------------------------------------------------------ interpolants and classifiers


def nearest_value(x, points, values):
    """(value, distance) of the training point nearest to each x: float64 (m,) each.

    x (m, D), points (n, D) and values (n,), in float64. The nearest-neighbor classifier, or regressor.
    """
    x, points, values = _arrays(x, points, values)
    found = [(row.argmin(axis=1), row.min(axis=1)) for row in _distances(x, points)]
    index, distance = (np.concatenate(part) for part in zip(*found, strict=True))
    return values[index], distance


def least_slope_interpolant(x, points, values, slope=None):
    """McShane's extension, the interpolant with the least slope, at each x: float64 (m,).

        f(x) = max(0, max_i [ F(X_i) - K |x - X_i| ]),    values F(X_i) in [0, 1]

    slope   K, by default the largest slope between two of the points, which is K_F_hat for labels 0 and 1; any larger
            one interpolates too. f has slope K on all of R^D.   Source: McShane 1934; theory chapter, Theorem 2.
    Raises BadTheory where two equal points have different values, which no function interpolates.
    """
    x, points, values = _arrays(x, points, values)
    slope = largest_slope(points, values) if slope is None else slope
    if not math.isfinite(slope):
        raise BadTheory("two equal points have different values, which no function interpolates; drop them first")
    return np.concatenate([np.maximum((values - slope * row).max(axis=1), 0) for row in _distances(x, points)])


def largest_slope(points, values):
    """Largest |F(X_i) - F(X_j)| / |X_i - X_j| between two points, 1/L2; 0 where all values are equal."""
    _, points, values = _arrays(points, points, values)
    kinds = np.unique(values)
    if len(kinds) == 2:  # labels: the smallest distance across decides
        parts = (points[values == kind] for kind in kinds)
        smallest = min(row.min() for row in _distances(*parts))
        return float((kinds[1] - kinds[0]) / smallest) if smallest else math.inf
    best, start = 0.0, 0
    for row in _distances(points, points):
        rise = np.abs(values[start : start + len(row), None] - values)
        start += len(row)
        with np.errstate(divide="ignore"):  # equal points: infinite
            slopes = np.divide(rise, row, out=np.zeros_like(row), where=rise > 0)
        best = max(best, float(slopes.max()))
    return best


def ball_radii(points, labels):
    """Exact adversarial L2 radius, at its training images of class 0, of the least-slope interpolant: float64 (n_0,).

    It predicts class 1 within 1 / (2 K_F_hat) of a training image of class 1, so an image of class 0 has to move

        R = distance to the nearest image of class 1  -  1 / (2 K_F_hat)
    """
    _, points, labels = _arrays(points, points, labels)
    if set(np.unique(labels)) != {0, 1}:
        raise BadTheory("radii need images of both classes, 0 and 1")
    near = nearest_value(points[labels == 0], points[labels == 1], labels[labels == 1])[1]
    return near - near.min() / 2


def _arrays(x, points, values):
    x, points = (np.asarray(part, dtype=float) for part in (x, points))
    values = np.asarray(values, dtype=float)
    if x.ndim != 2 or points.ndim != 2 or x.shape[1] != points.shape[1] or values.shape != (len(points),):
        raise BadTheory(
            f"x {x.shape}, points {points.shape} and values {values.shape} do not fit together; "
            "give (m, D), (n, D) and (n,)"
        )
    return x, points, values


def _distances(x, points):
    """Blocks of rows of the float64 distances between x and points."""
    from scipy.spatial.distance import cdist

    step = max(1, BLOCK // max(1, len(points)))
    for start in range(0, len(x), step):
        yield cdist(x[start : start + step], points)


# ------------------------------------------------------------------------------------------------ experiments
#
# Each returns one row a number N of training images:
#   check, d, n        what is measured, dimension of the manifold, number of training images
#   value, low, high   mean over independent clouds with its 95 % t interval
#   clouds             how many they are
#   p_above            one-sided p of the t test of  mean > bound
#   bound, trivial     of the theorem; what holds without any training image (infinity where there is no such value)
#   limit              the exact leading term for large N, where it is known, else nan
#   predicted, exponent, exponent_low, exponent_high    exponent of the bound, and that of `value` in 1/N over all N
#   informed, informed_low, informed_high               the same over those N only at which bound < trivial


def nearest_distance_experiment(d, sizes, simulations=10, tests=500, seed=0):
    """First lemma on the flat torus: mean distance from `tests` new points to the nearest of N, against its bound.

    limit: Gamma(1 + 1/d) (V_d N)^(-1/d);   column `lower`: the largest distance_lower_bound over r0
    """
    check, law = "distance to the nearest", flat_torus_law(d)

    def one(n, cloud):
        points = manifolds.flat_torus(n + tests, d, seed=cloud)
        return nearest_value(points[n:], points[:n], np.zeros(n))[1].mean()

    reaches = np.linspace(0.01, 0.31, 61)
    lower = np.max([distance_lower_bound(d, flat_torus_upper(d, r0), r0, np.asarray(sizes)) for r0 in reaches], axis=0)
    values = _simulated(one, sizes, simulations, seed, check, d)
    bound, limit = distance_bound(law, sizes), _torus_limit(d, sizes)
    return _rows(check, d, sizes, values, bound, math.inf, 1 / d, limit).assign(lower=lower)


def wave_label_experiment(d, sizes, simulations=10, tests=500, seed=0, d_repr=None):
    """Theorem 1 for the nearest training image's label on the flat torus, and Theorem 4 where d_repr is given.

        F(t) = (1 + cos 2 pi t_1) / 2, of slope K_F = pi in R^m;   bound: K_F * distance_bound
        limit: E|dF/dt_1| E|u_1| E delta_N = 2 E|u_1| Gamma(1 + 1/d) (V_d N)^(-1/d)

    d_repr   the nearest image is found after the projection g to the first d_repr circles, of which F is a function:
             bound and limit then have d_repr for d
    """
    by = d if d_repr is None else d_repr
    check = "label of the nearest" if d_repr is None else f"label of the nearest in {d_repr} of {d} circles"

    def one(n, cloud):
        points = manifolds.flat_torus(n + tests, d, seed=cloud)
        label, seen = 0.5 + math.pi * points[:, 0], points[:, : 2 * by]
        return np.abs(nearest_value(seen[n:], seen[:n], label[:n])[0] - label[n:]).mean()

    bound = error_bound(flat_torus_law(by), sizes, 0, math.pi)
    limit = 2 * mean_coordinate(by) * _torus_limit(by, sizes)
    values = _simulated(one, sizes, simulations, seed, check, d)
    return _rows(check, d, sizes, values, bound, 1.0, 1 / by, limit)


def classes_experiment(d, gap, sizes, simulations=10, tests=500, seed=0):
    """Theorems 1 and 2 for two classes on parallel tori, K_F = 1 / gap, and the least-slope interpolant f of N images.

    error           mean |f - F| of new images, against (K_F_hat + K_F) E delta_N with K_F for K_F_hat
    Brier           mean (f - F)^2
    wrong nearest   share of new images whose nearest training image has the other label:  <= exp(-c N r1^d)
    gap excess      1 / K_F_hat - 1 / K_F, unit L2;   trivial: the diameter less the gap
    """
    law, k_f = parallel_tori_law(d, gap), 1 / gap

    def one(n, cloud):
        points, labels = manifolds.parallel_tori(n + tests, d, gap, seed=cloud)
        slope = largest_slope(points[:n], labels[:n])
        off = np.abs(least_slope_interpolant(points[n:], points[:n], labels[:n], slope) - labels[n:])
        wrong = nearest_value(points[n:], points[:n], labels[:n])[0] != labels[n:]
        smallest = 1 / slope if slope else law.diameter
        return off.mean(), (off**2).mean(), wrong.mean(), smallest - gap

    found = np.moveaxis(_simulated(one, sizes, simulations, seed, "two classes", d), 2, 0)
    n = np.asarray(sizes, dtype=float)
    wrong = np.exp(-law.c * n * min(law.r0, gap) ** d)
    plans = [
        ("error of the least-slope interpolant", error_bound(law, sizes, k_f, k_f), 1.0, 1 / d),
        ("its Brier score", brier_bound(law, sizes, k_f, k_f), 1.0, 2 / d),
        ("nearest has the other label", wrong, 1.0, math.nan),
        ("smallest distance above the gap", gap_bound(law, sizes, k_f), law.diameter - gap, 1 / d),
    ]
    parts = [
        _rows(name, d, sizes, values, bound, trivial, predicted)
        for (name, bound, trivial, predicted), values in zip(plans, found, strict=True)
    ]
    return pd.concat(parts, ignore_index=True)


def boundary_experiment(d, sizes, simulations=10, tests=500, seed=0):
    """Touching classes on the flat torus, halves of the first circle: errors of the nearest-neighbor classifier.

        limit: 2 E|u_1| Gamma(1 + 1/d) (V_d N)^(-1/d)

    A straight distance of r to the other class is an arc of arcsin(pi r) / pi, on one of two sides of two boundaries.
    So P(distance <= r) <= A r for r <= r0, with A = 1 / r0 and r0 = sin(pi/4) / pi = 0.225, where all images are.
    """
    check, r0 = "errors where classes touch", math.sin(math.pi / 4) / math.pi
    law = Law(d, ball_volume(d), r0, math.sqrt(d) / math.pi)

    def one(n, cloud):
        points = manifolds.flat_torus(n + tests, d, seed=cloud)
        label = points[:, 1] > 0
        return (nearest_value(points[n:], points[:n], label[:n])[0] != label[n:]).mean()

    bound = boundary_bound(law, sizes, 1 / r0)
    limit = 2 * mean_coordinate(d) * _torus_limit(d, sizes)
    values = _simulated(one, sizes, simulations, seed, check, d)
    return _rows(check, d, sizes, values, bound, 1.0, 1 / d, limit)


def radius_experiment(d, gaps, n, seed=0):
    """Theorem 3 for the least-slope interpolant of n images on parallel tori: one row a gap.

    k_f_hat, lower_bound       K_F_hat and 1 / (2 K_F_hat), which Theorem 3 gives for every training image
    smallest, median           exact L2 radius over the training images of class 0
    off_manifold               the same image's radius after sin^2(100 u) is added to f, u a direction in which no image
                               extends: nothing changes on the images, and pi / 400 is left
    """
    rows = []
    for gap in gaps:
        points, labels = manifolds.parallel_tori(n, d, gap, seed=seed)
        radii, slope = ball_radii(points, labels), largest_slope(points, labels)
        u = np.linspace(0, radii.min(), 100_001)
        rippled = u[np.argmax(np.sin(100 * u) ** 2 >= 0.5)] if radii.min() > math.pi / 400 else radii.min()
        rows.append(
            {"gap": gap, "k_f_hat": slope, "lower_bound": 1 / (2 * slope), "smallest": radii.min(),
             "median": float(np.median(radii)), "off_manifold": float(rippled)}
        )  # fmt: skip
    return pd.DataFrame(rows)


def folding_experiment(p, folds, sizes, simulations=10, k=20, seed=0):
    """Theorem 5 and the estimators: a circle and its image under a smooth map, of dimension 1 both, one row an n.

    source, image   mean maximum-likelihood dimension of n points before and after (`manifolds.folded_curve`), with
                    95 % t intervals in ..._low and ..._high
    above           share of clouds whose image has the larger estimate: points above the diagonal
    """
    rows = []
    for n in sizes:
        found = []
        for cloud in _clouds(simulations, seed, n):
            pair = (neighbors(manifolds.folded_curve(n, q, folds, seed=cloud), k) for q in (1, p))
            found.append([float(dimension.mle_dimension(near, k, interval=False)) for near in pair])
        found = np.array(found)
        row = {"n": n, "above": float((found[:, 1] > found[:, 0]).mean())}
        for name, values in zip(("source", "image"), found.T, strict=True):
            mean, error = values.mean(), values.std(ddof=1) / math.sqrt(simulations)
            half = stats.t.ppf(0.975, simulations - 1) * error
            row |= {name: mean, f"{name}_low": mean - half, f"{name}_high": mean + half}
        rows.append(row)
    return pd.DataFrame(rows)


def judged(rows, alpha=ALPHA):
    """The rows with `finding`, by this rule, fixed before any number:

    above its bound       p_above <= alpha / number of rows:  the theorem, or its code, is refuted
    bound says nothing    bound >= trivial: neither the value nor its exponent can speak for or against
    within its bound      otherwise
    """
    above, empty = rows["p_above"] <= alpha / len(rows), rows["bound"] >= rows["trivial"]
    return rows.assign(finding=np.select([above, empty], ["above its bound", "bound says nothing"], "within its bound"))


def verdicts(rows, alpha=ALPHA):
    """One row a check and dimension: numbers of sizes by finding, exponents, and the verdict, by rule.

    largest_ratio   largest value over bound
    exponent        with its 95 % interval, over all sizes; `exponent_reads`: "slower" if the interval at level
                    1 - alpha / number of rows here is below that of the bound, which a rule from exponents alone
                    would take for a refutation
    informed        the same over the sizes at which the bound says something; `informed_reads`
    meets_at        N up to which a slower exponent, of all sizes or else of those, would have to last to contradict the
                    bound (`crossing`)
    verdict         "refuted": at one size or more the value is above its bound; "not tested": the bound says nothing at
                    any size; "holds" otherwise
    """
    out, groups = [], judged(rows, alpha).groupby(["check", "d"], sort=False)
    for (check, d), part in groups:
        count = part["finding"].value_counts()
        within, above = int(count.get("within its bound", 0)), int(count.get("above its bound", 0))
        first = part.iloc[0]
        last = part.iloc[-1]
        row = {
            "check": check, "d": d, "sizes": len(part), "informative": within + above, "above": above,
            "largest_ratio": float((part["value"] / part["bound"]).max()), "predicted": first["predicted"],
        }  # fmt: skip
        for name in ("exponent", "informed"):
            ends = {key: first[key] for key in (name, f"{name}_low", f"{name}_high")}
            wider = stats.t.ppf(1 - alpha / (2 * len(groups)), first["clouds"] - 1) / stats.t.ppf(
                0.975, first["clouds"] - 1
            )
            slower = ends[name] + wider * (ends[f"{name}_high"] - ends[name]) < first["predicted"]
            row |= ends | {f"{name}_reads": "slower" if slower else "no slower" if ends[name] > 0 else "none"}
        slow = next((name for name in ("exponent", "informed") if row[f"{name}_reads"] == "slower"), None)
        at = (last["n"], last["value"], last["bound"])
        row["meets_at"] = crossing(*at, first[slow], first["predicted"]) if slow else math.nan
        out.append(row | {"verdict": "refuted" if above else "holds" if within else "not tested"})
    return pd.DataFrame(out)


def _torus_limit(d, sizes):
    return np.array([manifolds.nearest_neighbor_distance(n, d) for n in sizes])


def _clouds(simulations, seed, n, check="", d=0):
    """Seeds of independent clouds, others for every size, check and dimension."""
    return np.random.SeedSequence([seed, n, d, *check.encode()]).generate_state(simulations, np.uint64).tolist()


def _simulated(one, sizes, simulations, seed, check, d):
    """one(n, cloud seed) for every simulation and size, each on a cloud of its own: (simulations, sizes, ...)."""
    if simulations < 2:
        raise BadTheory(f"{simulations} cloud has no spread, so its mean has no interval; take 2 or more")
    return np.moveaxis(
        np.array([[one(n, cloud) for cloud in _clouds(simulations, seed, n, check, d)] for n in sizes]), 1, 0
    )


def _rows(check, d, sizes, values, bound, trivial, predicted, limit=math.nan):
    count = len(values)
    mean, error = values.mean(axis=0), values.std(axis=0, ddof=1) / math.sqrt(count)
    half = stats.t.ppf(0.975, count - 1) * error
    excess = mean - bound
    t = np.divide(excess, error, out=np.where(excess > 0, np.inf, -np.inf), where=error > 0)
    informed = np.broadcast_to(bound < trivial, mean.shape)
    rows = pd.DataFrame(
        {"check": check, "d": d, "n": list(sizes), "value": mean, "low": mean - half, "high": mean + half,
         "clouds": count, "p_above": stats.t.sf(t, count - 1), "bound": bound, "trivial": trivial, "limit": limit,
         "predicted": predicted}
    )  # fmt: skip
    for name, used in (("exponent", np.ones_like(informed)), ("informed", informed)):
        found = _exponent(np.asarray(sizes)[used], values[:, used])
        rows = rows.assign(**dict(zip((name, f"{name}_low", f"{name}_high"), found, strict=True)))
    return rows


def _exponent(sizes, values):
    """(exponent a, low, high) of value ~ N^(-a): mean and 95 % t interval of the slopes of one cloud at each N.

    Missing where a value is 0, or there is one size only.
    """
    if len(sizes) < 2 or not (values > 0).all():
        return (math.nan,) * 3
    x = np.log(np.asarray(sizes, dtype=float))
    x -= x.mean()
    slopes = -np.log(values) @ x / (x @ x)
    half = stats.t.ppf(0.975, len(slopes) - 1) * slopes.std(ddof=1) / math.sqrt(len(slopes))
    return slopes.mean(), slopes.mean() - half, slopes.mean() + half
