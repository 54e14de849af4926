"""One class for every number with an interval, and the half-samples from which most intervals come."""

import math

import numpy as np

LEVEL = 0.95
SPLITS = 25  # random halvings behind an interval


class Interval(float):
    """A number with a 95 % interval: it computes and compares as a float, and formats itself one way.

    Parameters
    ----------
    value : float
    low, high : float
        Ends of the interval; NaN where none was made.
    method : str
        How value and interval were made, or why there is none.
    n : int, optional
        Points or images behind the number.
    **facts
        Further attributes, such as k or the pair of images.

    Examples
    --------
    >>> found = Interval(0.25, 0.09, 0.41, n=40)
    >>> found, found.high, found + 1
    (0.25 [0.09, 0.41], 0.41, 1.25)
    >>> f"{found} or {found:.1f}"
    '0.25 [0.09, 0.41] or 0.2'
    """

    def __new__(cls, value, low=math.nan, high=math.nan, method="", n=None, **facts):
        """Make the float and attach the interval."""
        self = super().__new__(cls, value)
        self.__dict__.update(facts, low=float(low), high=float(high), method=method, n=n)
        return self

    def __getnewargs__(self):
        return (float(self),)

    def to_dict(self):
        """Value, low and high as plain numbers, None where not finite; with the reason where there is no value."""
        numbers = [float(v) if math.isfinite(v) else None for v in (self, self.low, self.high)]
        found = dict(zip(("value", "low", "high"), numbers, strict=True))
        return found if numbers[0] is not None else {**found, "reason": self.method}

    def __repr__(self):
        ends = "" if math.isnan(self.low) or math.isnan(self.high) else f" [{digits(self.low)}, {digits(self.high)}]"
        return digits(self) + ends

    def __format__(self, spec):
        return format(float(self), spec) if spec else repr(self)


def digits(value):
    """Write a number with three significant digits, a true minus, and commas between thousands."""
    value = float(value)
    if not math.isfinite(value):
        return "not measured" if math.isnan(value) else "∞" if value > 0 else "−∞"
    size = abs(float(f"{value:.2e}"))
    if size and not 1e-4 <= size < 1e15:
        return f"{value:.2e}".replace("-", "−")
    decimals = 2 - math.floor(math.log10(size)) if size else 0
    text = f"{round(value, decimals):,.{max(decimals, 0)}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return text.replace("-", "−")


def degrees(n, group):
    """Degrees of freedom of a half-sample interval: at most SPLITS, and below the number of groups."""
    return max(1, min(SPLITS, (n if group is None else int(group.max()) + 1) - 1))


def half_sample(value, sides, freedom, *, relative=True, spread=4, method="", **facts):
    """Interval of a value from the same statistic in both halves of random splits.

    sides      (splits, 2) values in both halves, of which splits with a value that is not finite are left out
    freedom    degrees of freedom of Student's t
    relative   the differences are those of logarithms, and the interval is value * exp(+- t se); else value +- t se
    spread     se^2 = mean squared difference / spread: 4 where variances go as 1/n, 2 where a half has the same
    """
    from scipy.special import stdtrit  # a fifth of a second, which an import need not take

    with np.errstate(divide="ignore", invalid="ignore"):
        sides = np.reshape(np.log(sides) if relative else sides, (-1, 2))
    sides = sides[np.isfinite(sides).all(axis=1)]
    if not len(sides) or not math.isfinite(value):
        return Interval(value, method=method, **facts)
    width = stdtrit(freedom, (1 + LEVEL) / 2) * math.sqrt(np.mean((sides[:, 0] - sides[:, 1]) ** 2) / spread)
    low, high = (value * math.exp(-width), value * math.exp(width)) if relative else (value - width, value + width)
    return Interval(value, low, high, f"{method}; half-samples, {len(sides)} splits, t({freedom})", **facts)


def halves(n, group, seed):
    """SPLITS random halves, bool (SPLITS, n), of points or of whole groups."""
    units, rng = np.arange(n) if group is None else group, np.random.default_rng(seed)
    n_units = int(units.max()) + 1
    return np.array([(rng.permutation(n_units) < n_units // 2)[units] for _ in range(SPLITS)])


def strata(labels, group):
    """(unit of each point, the units of each class): units are points, or groups by their first label."""
    units = np.arange(len(labels)) if group is None else group
    first = np.unique(units, return_index=True)[1]
    stratum = np.unique(labels[first], return_inverse=True)[1]
    return units, [np.flatnonzero(stratum == s) for s in range(stratum.max() + 1)]


def class_halves(labels, group, seed):
    """SPLITS random halves, bool (SPLITS, n), of the points of each class, or of its groups by their first label."""
    units, members = strata(labels, group)
    rng = np.random.default_rng([seed, 2])
    found = np.zeros((SPLITS, sum(map(len, members))), dtype=bool)
    for half in found:
        odd = int(rng.integers(2))  # the odd one of a class goes to either side
        for one in members:
            half[rng.permutation(one)[: (len(one) + odd) // 2]] = True
    return found[:, units]
