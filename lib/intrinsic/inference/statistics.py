"""Fits, exact tests, intervals and verdicts of the four claims.

The unit of every test is the image set: runs of one set share its images, so they are averaged
first (models and seeds alike) and never counted as independent. Frames are those of
`campaign.runs_frame`: one row a training run. Four rules hold throughout:

- fitted runs decide; the same with all runs stands beside (`Verdict.all_runs`);
- synthetic sets, whose dimension and sharpness were set by construction, are experiments and no
  sample of image sets: they decide nothing unless `exclude=()` is given;
- what cannot enter (a null K_F, a loss of exactly 0) is left out and counted, in words;
- fewer than MIN_SETS sets are an illustration, whatever the numbers say.

Sets cut from the same images (pairs of digits, say) are not independent either: where the frame has
a column `family`, sets of one family are averaged and count once.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache

import numpy as np
import pandas as pd
import yaml
from scipy import stats

from intrinsic import images

MIN_SETS = 8
ALPHA = 0.05  # of a verdict built by hand; those of the claims stand in params/claims.yaml
NOT_MEASURED, TOO_FEW_SETS = "not measured", "illustration: too few sets"
SYNTHETIC = ("synthetic",)

EXACT_ORDERS = 8  # all n! orders up to this n
EXACT_SIGNS = 16  # all 2^n signs up to this n
EXACT_ASSIGNMENTS = 200_000
MONTE_CARLO = 99_999
_TIE = 1e-9  # statistics closer than this, relative to the largest, are equal


class StatisticsError(ValueError):
    """What was found, why it matters, what to do, in one sentence."""


class NoRecords(StatisticsError):
    """The frame is empty, or a column that the statistic needs is not there."""


class WrongClaims(StatisticsError):
    """params/claims.yaml does not state the four primary tests."""


class NotEnough(StatisticsError):
    """Too few values, or values without variation, for this statistic."""


_NOTHING = dict.fromkeys(("value", "low", "high", "p", "smallest_p"), math.nan)


# --------------------------------------------------------------------------------- numbers with errors


@dataclass(frozen=True)
class Fit:
    """A straight line y = intercept + slope x; `low` and `high` bound the slope, p is for slope 0."""

    slope: float
    intercept: float
    low: float
    high: float
    p: float
    n: int
    df: int
    level: float = 0.95
    dropped: int = 0

    def __float__(self):
        return float(self.slope)

    def __str__(self):
        return f"{_number(self.slope)} ({_interval(self.low, self.high)}; n = {self.n})"


@dataclass(frozen=True)
class Effect:
    """A number with its interval, its test's p and the smallest p that this test could have given."""

    value: float
    low: float
    high: float
    p: float
    smallest_p: float
    n: int
    method: str
    level: float = 0.95
    dropped: int = 0

    def __float__(self):
        return float(self.value)

    def __str__(self):
        if not math.isfinite(self.value):
            return f"not available (n = {self.n})"
        return (
            f"{_number(self.value)} ({_interval(self.low, self.high)}; p = {_p(self.p)}, "
            f"smallest attainable {_p(self.smallest_p)}; n = {self.n})"
        )

    def _repr_markdown_(self):
        return f"{_cell(self.method)}: {self}"


@dataclass(frozen=True)
class Correlation(Effect):
    """An Effect whose value is a correlation; `kind` is "pearson" or "spearman"."""

    kind: str = "pearson"


@dataclass(frozen=True)
class Difference(Effect):
    """An Effect whose value is a difference of two means, inside less outside the group."""

    n_in: int = 0
    n_out: int = 0


def _number(x: float, digits: int = 3) -> str:
    return f"{x:.{digits}g}" if math.isfinite(x) else "not available"


def _p(p: float) -> str:
    return f"{p:.2g}" if math.isfinite(p) else "not available"


def _interval(low: float, high: float, level: float = 0.95) -> str:
    if not (math.isfinite(low) and math.isfinite(high)):
        return "no interval"
    return f"{100 * level:g} % interval {_number(low)} to {_number(high)}"


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what[:-1]}ies" if what == "family" else f"{n} {what}s"


def _finite(*columns) -> tuple[list[np.ndarray], int]:
    """The columns as float64 without the rows where any is not finite, and how many rows went."""
    arrays = [np.asarray(column, dtype=np.float64).ravel() for column in columns]
    if len({len(a) for a in arrays}) > 1:
        raise StatisticsError(
            f"the values have lengths {', '.join(str(len(a)) for a in arrays)}, so they cannot be paired; "
            "pass columns of one frame"
        )
    keep = np.logical_and.reduce([np.isfinite(a) for a in arrays])
    return [a[keep] for a in arrays], int((~keep).sum())


def _varies(x: np.ndarray) -> bool:
    return len(x) > 0 and bool(np.ptp(x) > 1e-12 * max(np.abs(x).max(), 1e-300))


# ----------------------------------------------------------------------------------------------- fits


def ols(x, y, level: float = 0.95) -> Fit:
    """Least-squares line with the t(n-2) interval and p of its slope.

        slope = S_xy / S_xx,   se^2 = sum r_i^2 / (n-2) / S_xx

    x, y  (n,); pairs with a value that is not finite are left out and counted in `dropped`
    With n = 2 the line is exact and there is no interval (nan).
    Raises NotEnough with fewer than two values, or where x does not vary.
    """
    (x, y), dropped = _finite(x, y)
    if len(x) < 2 or not _varies(x):
        raise NotEnough(
            f"a line needs two different values of x, and there are {len(np.unique(x))} among "
            f"{_count(len(x), 'pair')}; add runs at another size, or leave this fit out"
        )
    dx, dy = x - x.mean(), y - y.mean()
    sxx, df = dx @ dx, len(x) - 2
    slope = float(dx @ dy / sxx)
    rest = dy - slope * dx
    se = math.sqrt(rest @ rest / df / sxx) if df else math.nan
    low, high, p = (float(v) for v in _t(slope, se, df, level))
    intercept = float(y.mean() - slope * x.mean())
    return Fit(slope, intercept, low, high, p, len(x), df, level, dropped)


def _t(value, se, df: float, level: float):
    """Interval and two-sided p of value / se ~ t(df); nan where df = 0 or the error is unknown."""
    value, se = np.asarray(value, dtype=np.float64), np.asarray(se, dtype=np.float64)
    if not df > 0:
        nothing = np.full(value.shape, np.nan)
        return nothing, nothing, nothing
    half = stats.t.ppf((1 + level) / 2, df) * se
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * stats.t.sf(np.abs(value) / se, df)
    p = np.where(se == 0, np.where(value == 0, 1.0, 0.0), p)
    return value - half, value + half, p


def regression(y, columns: dict, level: float = 0.95) -> pd.DataFrame:
    """Least squares of y on several columns and a constant: one row a term.

    y        (G,); columns: name -> (G,); rows with a value that is not finite are left out
    Returns term, slope, low, high (t(G-p), p coefficients with the constant), p, df, n.
    Raises NotEnough where the columns are linearly dependent, or G < p.
    """
    names = list(columns)
    (y, *xs), _ = _finite(y, *columns.values())
    design = np.column_stack([np.ones(len(y)), *[x - x.mean() if len(x) else x for x in xs]])
    scale = np.where(np.abs(design).max(axis=0, initial=0) > 0, np.abs(design).max(axis=0, initial=0), 1.0)
    if len(y) < design.shape[1] or np.linalg.matrix_rank(design / scale, tol=1e-9) < design.shape[1]:
        raise NotEnough(
            f"a regression on {', '.join(names)} needs at least {design.shape[1]} sets whose columns are "
            f"linearly independent and {_count(len(y), 'set')} did not suffice; add image sets"
        )
    inverse = np.linalg.pinv(design)
    slopes = inverse @ y
    df = len(y) - design.shape[1]
    rest = y - design @ slopes
    se = np.sqrt(rest @ rest / df * (inverse**2).sum(axis=1)) if df else np.full(len(slopes), np.nan)
    low, high, p = _t(slopes, se, df, level)
    return pd.DataFrame(
        {
            "term": names,
            "slope": slopes[1:],
            "low": low[1:],
            "high": high[1:],
            "p": p[1:],
            "df": df,
            "n": len(y),
        }
    )


# ---------------------------------------------------------------------------------------- exact tests


def _generator(seed: int):
    return np.random.default_rng(seed)


@lru_cache(maxsize=8)
def _orders(n: int, m: int, seed: int) -> tuple[np.ndarray, bool]:
    """(orders (., n), exact): all n! of them up to n = 8, else m random ones."""
    if n <= EXACT_ORDERS:
        return np.array(list(itertools.permutations(range(n))), dtype=np.intp), True
    return _generator(seed).permuted(np.tile(np.arange(n), (m, 1)), axis=1), False


@lru_cache(maxsize=8)
def _signs(n: int, m: int, seed: int) -> tuple[np.ndarray, bool]:
    """(signs (., n) of -1 and 1, exact): all 2^n up to n = 16, else m random rows."""
    if n <= EXACT_SIGNS:
        bits = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
        return 1.0 - 2.0 * bits, True
    return _generator(seed).choice([-1.0, 1.0], size=(m, n)), False


@lru_cache(maxsize=8)
def _assignments(n: int, k: int, m: int, seed: int) -> tuple[np.ndarray, bool]:
    """(members (., n) of 0 and 1, exact): all ways to choose k of n, else m random ones."""
    total = math.comb(n, k)
    if total <= EXACT_ASSIGNMENTS:
        chosen = np.array(list(itertools.combinations(range(n), k)), dtype=np.intp).reshape(total, k)
        members = np.zeros((total, n))
        np.put_along_axis(members, chosen, 1.0, axis=1)
        return members, True
    start = np.tile((np.arange(n) < k).astype(np.float64), (m, 1))
    return _generator(seed).permuted(start, axis=1), False


def _two_sided(observed: float, null: np.ndarray, exact: bool) -> tuple[float, float]:
    """(p, smallest attainable p) of |observed| among |null|.

    Exact: the share of arrangements at least as extreme, the observed one being among them; the
    smallest possible is the share that reaches the largest value (more than one with symmetry or
    ties). Monte Carlo: (b + 1) / (m + 1), Phipson & Smyth 2010.
    """
    null = np.abs(null)
    slack = _TIE * max(null.max(initial=0.0), abs(observed), 1e-300)
    reached = int((null >= abs(observed) - slack).sum())
    if exact:
        return reached / len(null), int((null >= null.max() - slack).sum()) / len(null)
    return (reached + 1) / (len(null) + 1), 1 / (len(null) + 1)


def correlation(
    x, y, kind: str = "pearson", *, level: float = 0.95, permutations: int = MONTE_CARLO, seed: int = 0
) -> Correlation:
    """Correlation with a Fisher z interval and an exact two-sided permutation p.

        tanh( atanh(r) -/+ z se ),   se^2 = 1/(n-3) (pearson),  (1 + r^2/2)/(n-3) (spearman)

    x, y   (n,); pairs with a value that is not finite are left out and counted in `dropped`
    kind   "pearson", or "spearman": the same on ranks, ties sharing their mean rank
    The p counts all n! orders of y with |r| at least the observed one (n <= 8); beyond, `permutations`
    seeded random orders, (b+1)/(m+1). No interval (nan) for n < 4, or where |r| = 1.
    Raises NotEnough with fewer than three pairs, or where x or y does not vary.
    Source: Fisher 1921; Bonett & Wright 2000 for ranks.
    """
    if kind not in ("pearson", "spearman"):
        raise StatisticsError(f"kind is {kind!r}, but a correlation here is 'pearson' or 'spearman'; choose one")
    (x, y), dropped = _finite(x, y)
    n = len(x)
    if n < 3 or not (_varies(x) and _varies(y)):
        raise NotEnough(
            f"a correlation needs three pairs that vary in both values, and {_count(n, 'pair')} did not "
            "suffice; add image sets"
        )
    if kind == "spearman":
        x, y = stats.rankdata(x), stats.rankdata(y)
    u, v = _standard(x), _standard(y)
    r = float(np.clip(u @ v, -1, 1))
    orders, exact = _orders(n, permutations, seed)
    p, smallest = _two_sided(u @ v, v[orders] @ u, exact)
    low = high = math.nan
    if n >= 4 and abs(r) < 1 - 1e-12:
        se = math.sqrt((1 + r * r / 2 if kind == "spearman" else 1.0) / (n - 3))
        z = stats.norm.ppf((1 + level) / 2) * se
        low, high = math.tanh(math.atanh(r) - z), math.tanh(math.atanh(r) + z)
    method = f"{kind} correlation, Fisher z, " + ("all orders" if exact else f"{permutations} random orders")
    return Correlation(r, low, high, p, smallest, n, method, level, dropped, kind)


def partial_correlation(
    x, y, given, *, level: float = 0.95, permutations: int = MONTE_CARLO, seed: int = 0
) -> Correlation:
    """Correlation of what x and y have beyond a third value: of the residuals of their lines on it.

        r = ( r_xy - r_xz r_yz ) / sqrt( (1 - r_xz^2) (1 - r_yz^2) ),   tanh( atanh(r) -/+ z / sqrt(n - 4) )

    x, y, given   (n,); rows where any is not finite are left out and counted in `dropped`
    Where log C = log K_F - given times a constant, log C has the same one as log K_F: what is linear in `given` goes.
    The p counts seeded random orders (all up to n = 8) of the residuals of y, `given` taken out of each anew, with |r|
    at least the observed one.
    No interval below n = 5. Raises NotEnough with fewer than four rows, or where nothing is left beyond `given`.
    Source: Fisher 1924; orders of residuals: Freedman & Lane 1983.
    """
    (x, y, given), dropped = _finite(x, y, given)
    n = len(x)
    residuals = []
    if n >= 4 and _varies(given):
        design = np.column_stack([np.ones(n), given - given.mean()])
        residuals = [v - design @ np.linalg.lstsq(design, v, rcond=None)[0] for v in (x, y)]
    if not residuals or any(np.abs(r).max() <= 1e-9 * np.ptp(v) for r, v in zip(residuals, (x, y), strict=True)):
        raise NotEnough(
            f"a partial correlation needs four sets whose values differ beyond the third one, and {_count(n, 'set')} "
            "did not suffice; add image sets"
        )
    u, v = (_standard(r) for r in residuals)
    r = float(np.clip(u @ v, -1, 1))
    orders, exact = _orders(n, permutations, seed)
    p, smallest = _two_sided(u @ v, _beyond(v[orders], design, u), exact)
    low = high = math.nan
    if n >= 5 and abs(r) < 1 - 1e-12:
        z = stats.norm.ppf((1 + level) / 2) / math.sqrt(n - 4)
        low, high = math.tanh(math.atanh(r) - z), math.tanh(math.atanh(r) + z)
    method = "partial correlation, Fisher z, " + ("all orders" if exact else f"{permutations} random orders")
    return Correlation(r, low, high, p, smallest, n, method, level, dropped, "pearson")


def _beyond(shuffled, design, u) -> np.ndarray:
    """Partial correlation of u with each row of `shuffled`, from which the design is taken out again."""
    basis = np.linalg.qr(design)[0]
    left = shuffled - (shuffled @ basis) @ basis.T
    length = np.linalg.norm(left, axis=1)
    nothing = length <= 1e-9 * np.linalg.norm(shuffled, axis=1)  # an order that lies in the design has no correlation
    return np.where(nothing, 0.0, (left @ u) / np.where(nothing, 1.0, length))


def sets_for_correlation(r: float, given: int = 0, power: float = 0.8, alpha: float = ALPHA) -> int:
    """Image sets that a two-sided test of a (partial) correlation needs to see a true value r, by Fisher's z.

        n = ( (z_{1 - alpha/2} + z_power) / atanh r )^2 + 3 + given,     rounded up

    given   values held fixed.  Source: Fisher 1921.
    """
    if not 0 < abs(r) < 1:
        raise StatisticsError(f"r is {r}, and a correlation to be seen lies between 0 and 1: give one")
    z = stats.norm.ppf(1 - alpha / 2) + stats.norm.ppf(power)
    return math.ceil((z / math.atanh(abs(r))) ** 2 + 3 + given)


def mean_effect(values, *, level: float = 0.95, permutations: int = MONTE_CARLO, seed: int = 0) -> Effect:
    """Mean of one value a set, with its t(G-1) interval and the exact two-sided sign-flip p.

    Under the null hypothesis the values are symmetric about 0, so all 2^G choices of signs are equally
    likely; the smallest attainable p is 2/2^G. Beyond G = 16, seeded random signs.
    values  (G,); those that are not finite are left out and counted. No interval for G = 1.
    Raises NotEnough without a value.
    """
    (values,), dropped = _finite(values)
    n = len(values)
    if n == 0:
        raise NotEnough("a mean over image sets needs a set with a value, and there is none; add runs")
    mean = float(values.mean())
    low = high = math.nan
    if n > 1:
        half = stats.t.ppf((1 + level) / 2, n - 1) * values.std(ddof=1) / math.sqrt(n)
        low, high = mean - half, mean + half
    signs, exact = _signs(n, permutations, seed)
    p, smallest = _two_sided(mean, signs @ values / n, exact)
    method = "mean over sets, t interval, " + ("all sign flips" if exact else f"{permutations} sign flips")
    return Effect(mean, float(low), float(high), p, smallest, n, method, level, dropped)


def group_difference(
    values, in_group, *, level: float = 0.95, permutations: int = MONTE_CARLO, seed: int = 0
) -> Difference:
    """Mean inside less mean outside the group: Welch interval, exact two-sided permutation p.

    values    (n,); those that are not finite are left out and counted
    in_group  (n,) bool
    The p counts all n!/(k!(n-k)!) assignments (up to 200,000 of them, else seeded random ones); the
    smallest attainable one is the share of assignments that reach the largest |difference|: 1/792
    for 7 against 5 sets. It assumes that under the null hypothesis the sets are exchangeable.
    No interval where a group holds one set. Raises NotEnough where one is empty.
    Source: Welch 1947.
    """
    group = np.asarray(in_group).astype(bool)
    (values, group), dropped = _finite(values, group)
    group = group > 0.5
    a, b = values[group], values[~group]
    if not len(a) or not len(b):
        raise NotEnough(
            f"a difference needs sets on both sides and {_count(len(a), 'set')} are inside the group, "
            f"{len(b)} outside; add image sets of the other kind"
        )
    difference = float(a.mean() - b.mean())
    low = high = math.nan
    if len(a) > 1 and len(b) > 1:
        va, vb = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
        se = math.sqrt(va + vb)
        df = se**4 / (va**2 / (len(a) - 1) + vb**2 / (len(b) - 1)) if se > 0 else len(values) - 2
        half = stats.t.ppf((1 + level) / 2, df) * se
        low, high = difference - half, difference + half
    members, exact = _assignments(len(values), len(a), permutations, seed)
    centered = values - values.mean()
    # the values sum to 0, so mean(in) - mean(out) = sum(in) (1/k + 1/(n-k))
    null = members @ centered * (1 / len(a) + 1 / len(b))
    p, smallest = _two_sided(difference, null, exact)
    method = "difference of means, Welch, " + ("all assignments" if exact else f"{permutations} assignments")
    return Difference(difference, float(low), float(high), p, smallest, len(values), method, level, dropped,
                      len(a), len(b))  # fmt: skip


def holm(p_values) -> np.ndarray:
    """Holm's adjusted p values, in the order given.

        p~_(i) = max_{j <= i} min(1, (m - j + 1) p_(j))

    A nan (a test that could not be made) stays nan and does not count in m.
    Source: Holm 1979.
    """
    p = np.asarray(p_values, dtype=np.float64)
    if ((p < 0) | (p > 1)).any():
        raise StatisticsError(f"p values lie in [0, 1], but {p[(p < 0) | (p > 1)][0]:g} was given; pass p, not log p")
    out = np.full(p.shape, np.nan)
    order = np.argsort(p, kind="stable")  # nan last
    m = int(np.isfinite(p).sum())
    order = order[:m]
    out[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(m, 0, -1)), 1.0)
    return out


# --------------------------------------------------------------------------------- from runs to sets


def _need(frame: pd.DataFrame, columns: Sequence[str]) -> None:
    if frame is None or len(frame) == 0:
        raise NoRecords(
            "the frame holds no run, so there is nothing to test; make the records with: "
            "intrinsic run params/quick.yaml, and where no run fitted, look at all runs"
        )
    lacking = [c for c in columns if c not in frame.columns]
    if lacking:
        raise NoRecords(
            f"the frame has no column {', '.join(repr(c) for c in lacking)}, which this statistic needs; "
            "make the records with: intrinsic run params/quick.yaml, and pass campaign.runs_frame(params)"
        )


def _is_fitted(frame: pd.DataFrame) -> np.ndarray:
    return frame["fitted"].eq(True).fillna(False).to_numpy(bool)  # null: not known, so not fitted


def usable(
    frame: pd.DataFrame,
    columns: Sequence[str],
    *,
    positive: Sequence[str] = (),
    fitted_only: bool = False,
    exclude: Sequence[str] = SYNTHETIC,
) -> tuple[pd.DataFrame, list[str]]:
    """The runs that can enter, and in words what was left out.

    columns   must be finite; positive: those whose logarithm is taken
    """
    _need(frame, ["dataset", *columns, *(["fitted"] if fitted_only else [])])
    notes = []
    if len(exclude) and "domain" in frame.columns:
        out = frame["domain"].isin(list(exclude)).to_numpy(bool)
        names = list(dict.fromkeys(frame.loc[out, "dataset"].astype(str)))
        if names:
            kinds = "/".join(exclude)
            notes.append(f"{_count(len(names), f'{kinds} set')} not counted ({', '.join(names)})")
        frame = frame[~out]
    if fitted_only:
        fitted = _is_fitted(frame)
        if not fitted.all():
            notes.append(f"{_count(int((~fitted).sum()), 'run')} that did not fit left out")
        frame = frame[fitted]
    before = list(dict.fromkeys(frame["dataset"]))
    for column in columns:
        values = pd.to_numeric(frame[column], errors="coerce").to_numpy(np.float64, na_value=np.nan)
        finite = np.isfinite(values)
        if not finite.all():
            notes.append(f"{_count(int((~finite).sum()), 'run')} without {column} left out")
        zero = finite & (values <= 0) if column in positive else np.zeros(len(values), bool)
        if zero.any():
            notes.append(f"{_count(int(zero.sum()), 'run')} with {column} of 0 or less left out (no logarithm)")
        frame = frame[finite & ~zero]
    gone = [str(name) for name in before if name not in set(frame["dataset"])]
    if gone:
        notes.append(f"{_count(len(gone), 'set')} left without a run ({', '.join(gone)})")
    return frame, notes


def _values(frame: pd.DataFrame, column: str) -> np.ndarray:
    return pd.to_numeric(frame[column], errors="coerce").to_numpy(np.float64, na_value=np.nan)


def _by(frame: pd.DataFrame, columns: Sequence[str], keys: Sequence[str]) -> pd.DataFrame:
    return frame.groupby(list(keys), sort=False, observed=True)[list(columns)].mean()


def set_means(frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """One row an image set: dataset, domain and family where known, n_runs, and the mean of each column.

    Means are taken in steps (seeds, then sizes N, then models), so that a model or a size with more
    runs does not weigh more. Null values are skipped; a set without any value has nan.
    """
    columns = [columns] if isinstance(columns, str) else list(columns)
    _need(frame, ["dataset", *columns])
    runs = frame[[c for c in ("dataset", "model", "n_train") if c in frame.columns]].copy()
    for column in columns:
        values = _values(frame, column)
        runs[column] = np.where(np.isfinite(values), values, np.nan)
    keys = [c for c in ("dataset", "model", "n_train") if c in runs.columns]
    table = runs
    while keys:
        table = _by(table, columns, keys)
        keys = keys[:-1]
    return _described(table.reset_index(), frame)


def _described(table: pd.DataFrame, frame: pd.DataFrame) -> pd.DataFrame:
    """A table of sets with domain, family (where known) and n_runs after the column dataset."""
    groups = frame.groupby("dataset", sort=False, observed=True)
    for column in ("family", "domain"):
        if column in frame.columns:
            table.insert(1, column, table["dataset"].map(groups[column].first()))
    table["n_runs"] = table["dataset"].map(groups.size()).astype(int)
    return table


def family_means(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Sets of one family averaged into one row, under the family's name; a set alone in its family keeps its own.

    Without a column `family`, the table itself.
    """
    if "family" not in table.columns or not len(table):
        return table.reset_index(drop=True), []
    table = table.assign(dataset=family_names(table)).drop(columns="family")
    others = [c for c in table.columns if c != "dataset"]
    how = {c: "mean" if table[c].dtype.kind in "fiu" else "first" for c in others}
    if "n_runs" in how:
        how["n_runs"] = "sum"
    units = table.groupby("dataset", sort=False).agg(how).reset_index()
    notes = [f"{len(table)} sets of {len(units)} families, each family counted once"]
    return units, notes if len(units) < len(table) else []


def family_names(table: pd.DataFrame) -> np.ndarray:
    """The name that each row goes by where families count once: its family's, or its own if no other set is there.

    Without a column `family`, its own.
    """
    if "family" not in table.columns:
        return table["dataset"].to_numpy()
    family = table["family"].where(table["family"].notna(), table["dataset"]).astype(str)
    alone = table.groupby(family.to_numpy())["dataset"].nunique().eq(1)
    return family.where(~family.map(alone).to_numpy(dtype=bool), table["dataset"].astype(str)).to_numpy()


def set_levels(frame: pd.DataFrame, response: str, *, log: bool = False) -> pd.DataFrame:
    """One level an image set: the response without the effects of model and of log N.

        y_smN = level_s + model_m + c log N + e,   sum_m model_m = 0,   log N centered

    by least squares over runs, y = log(response) with `log`. So sets that were run with other models
    or sizes stay comparable, as long as models and sizes overlap.
    Returns dataset, domain and family where known, level, level_own_n (only the model effect taken
    out), mean_log_n, n_runs. Rows that cannot enter must be gone before (nan, log of 0).
    Raises NotEnough where models or sizes do not overlap between sets.
    """
    _need(frame, ["dataset", "model", "n_train", response])
    y = _values(frame, response)
    if log:
        with np.errstate(divide="ignore", invalid="ignore"):
            y = np.log(y)
    log_n = np.log(_values(frame, "n_train"))
    if not np.isfinite(y).all():
        raise StatisticsError(
            f"{int((~np.isfinite(y)).sum())} runs have no finite {'log ' if log else ''}{response}, so no "
            "level can be fitted; leave these rows out first"
        )
    sets, s = np.unique(frame["dataset"].astype(str), return_inverse=True)
    models, m = np.unique(frame["model"].astype(str), return_inverse=True)
    effects = np.eye(len(models))[:, : len(models) - 1]
    effects[-1, :] = -1.0  # the last model's effect is minus the sum of the others
    own = np.eye(len(sets))[s]
    center = np.mean([log_n[s == i].mean() for i in range(len(sets))])
    varies = [(log_n - center)[:, None]] if _varies(log_n) else []
    design = np.hstack([own, effects[m], *varies])
    coefficients, _, rank, _ = np.linalg.lstsq(design, y, rcond=1e-9)
    if rank < design.shape[1]:
        raise NotEnough(
            f"the models and sizes N of {_count(len(sets), 'set')} do not overlap, so differences between "
            "sets cannot be told from those between models or sizes; run one model at one N on every set"
        )
    model_effect = effects[m] @ coefficients[len(sets) : len(sets) + len(models) - 1]
    counts = np.bincount(s)
    table = pd.DataFrame(
        {
            "dataset": sets,
            "level": coefficients[: len(sets)],
            "level_own_n": np.bincount(s, y - model_effect) / counts,
            "mean_log_n": np.bincount(s, log_n) / counts,
        }
    )
    order = {name: i for i, name in enumerate(dict.fromkeys(frame["dataset"].astype(str)))}
    table = table.sort_values("dataset", key=lambda c: c.map(order)).reset_index(drop=True)
    return _described(table, frame.assign(dataset=frame["dataset"].astype(str)))


def leave_one_out(frame: pd.DataFrame, statistic: Callable) -> pd.DataFrame:
    """The statistic without each image set in turn: columns left_out, value.

    frame      with a column dataset: runs, or one row a set
    statistic  function of such a frame; its result is read with float()
    Where too few sets are left for the statistic, the value is nan.
    """
    _need(frame, ["dataset"])
    rows = []
    for name in dict.fromkeys(frame["dataset"]):
        rest = frame[frame["dataset"] != name]
        try:
            value = float(statistic(rest)) if len(rest) else math.nan
        except NotEnough:
            value = math.nan
        rows.append({"left_out": name, "value": value})
    return pd.DataFrame(rows)


# ---------------------------------------------------------------------------- the claims' statistics


def scaling_exponents(
    frame: pd.DataFrame, response: str = "test_loss_nats", *, by_model: bool = True, level: float = 0.95
) -> pd.DataFrame:
    """Exponent a of loss ~ N^(-a), one row an image set and model, beside the prediction 1/d_data.

        log loss = const - a log N, least squares over runs; t interval

    response   any column of positive numbers (test_loss_nats, test_brier, ...)
    by_model   False: one row a set, one slope within models (each model has its own constant)
    Returns dataset, domain, model, exponent, low, high, n_runs, n_sizes, n_zero (runs with a loss of
    exactly 0: no logarithm, left out), n_missing, d_data, predicted = 1/d_data, predicted_low =
    1/d_data_high, predicted_high = 1/d_data_low. With one size there is no exponent (nan), without a
    spare degree of freedom no interval.

    Zero losses sit where learning went best, mostly at the larger N, so leaving them out makes an
    exponent too small, if anything: a row with n_zero > 0 must not be read as slow learning. The
    interval takes runs as independent, which runs on nested training sets and one test set are not
    quite; claims therefore use the spread between sets, never this interval.
    """
    _need(frame, ["dataset", "model", "n_train", response])
    keys = ["dataset", "model"] if by_model else ["dataset"]
    loss, n_train = _values(frame, response), _values(frame, "n_train")
    finite = np.isfinite(loss)
    usable = finite & (loss > 0)
    log_loss, log_n = np.log(np.where(usable, loss, 1.0)), np.log(n_train)
    model = frame["model"].astype(str).to_numpy()
    d_data = {c: _values(frame, c) for c in ("d_data", "d_data_low", "d_data_high") if c in frame.columns}
    rows = []
    for name, at in frame.groupby(keys, sort=False, observed=True).indices.items():
        keep = at[usable[at]]
        names = name if isinstance(name, tuple) else (name,)
        row = dict(zip(keys, names, strict=True))
        row |= {c: frame[c].iloc[at[0]] for c in ("domain", "family") if c in frame.columns}
        row |= dict.fromkeys(("exponent", "low", "high"), math.nan)
        row |= {"n_runs": len(keep), "n_sizes": len(np.unique(n_train[keep]))}
        row |= {"n_zero": int((finite[at] & ~usable[at]).sum()), "n_missing": int((~finite[at]).sum())}
        x, y = log_n[keep], log_loss[keep]
        for one in np.unique(model[keep]):
            same = model[keep] == one
            x[same] -= x[same].mean()
            y[same] -= y[same].mean()
        sxx = float(x @ x)
        if sxx > 1e-12:
            slope = float(x @ y) / sxx
            df = len(x) - len(np.unique(model[keep])) - 1
            rest = y - slope * x
            se = math.sqrt(rest @ rest / df / sxx) if df > 0 else math.nan
            low, high, _ = _t(-slope, se, df, level)
            row |= {"exponent": -slope, "low": float(low), "high": float(high)}
        d = {c: _positive_mean(values[at]) for c, values in d_data.items()}
        row["d_data"] = d.get("d_data", math.nan)
        for column, source in (("predicted", ""), ("predicted_low", "_high"), ("predicted_high", "_low")):
            row[column] = 1 / d.get(f"d_data{source}", math.nan)
        rows.append(row)
    table = pd.DataFrame(rows)
    order = {name: i for i, name in enumerate(dict.fromkeys(frame["dataset"]))}
    return table.sort_values("dataset", key=lambda c: c.map(order), kind="stable", ignore_index=True)


def _positive_mean(values: np.ndarray) -> float:
    good = values[np.isfinite(values) & (values > 0)]
    return float(good.mean()) if len(good) else math.nan


SHARPNESS_RUNS = {"columns": ["test_loss_nats", "k_f"], "positive": ["test_loss_nats", "k_f"]}
DIMENSION_RUNS = {"columns": ["test_loss_nats", "d_data"], "positive": ["test_loss_nats", "d_data"]}
LEARNING = "trained over untrained network"  # the pair that speaks of learning
PAIRS = (
    ("trained network", "d_repr", "d_data_same_images"),
    ("untrained network", "d_repr_untrained", "d_data_same_images"),
    ("random linear map", "d_repr_random_map", "d_data_same_images"),
    (LEARNING, "d_repr", "d_repr_untrained"),
    ("trained network over random linear map", "d_repr", "d_repr_random_map"),
)


def log_ratios(frame: pd.DataFrame, above: str, below: str) -> tuple[pd.DataFrame, int]:
    """The runs where both dimensions are known, with log_ratio; and how many are not."""
    a, b = _values(frame, above), _values(frame, below)
    good = np.isfinite(a) & np.isfinite(b) & (a > 0) & (b > 0)
    runs = frame[good].assign(log_ratio=np.log(a[good]) - np.log(b[good]))
    return runs, int((~good).sum())


def paired_bound(
    frame: pd.DataFrame,
    estimator: str = "mle",
    *,
    fitted_only: bool = True,
    exclude: Sequence[str] = SYNTHETIC,
    level: float = 0.95,
    permutations: int = MONTE_CARLO,
) -> pd.DataFrame:
    """Dimension after a map against dimension before it, paired within runs: one row a map.

        log( d_after / d_before ) per run -> mean a set -> mean over G sets, t(G-1) interval

    frame      d_repr, d_data_same_images and, where known, the null maps d_repr_untrained and
               d_repr_random_map; estimator "twonn" reads the columns that end in _twonn
    Returns map, mean_log_ratio, low, high, ratio = exp(mean_log_ratio), p (sign flips), smallest_p,
    share_above (runs above the diagonal), n_runs, n_sets, n_missing (runs without both dimensions).
    The last two rows set the trained network against the null maps: only there does training show.
    """
    end = _ending(estimator)
    _need(frame, ["dataset", f"d_repr{end}", f"d_data_same_images{end}"])
    frame, _ = usable(frame, [], fitted_only=fitted_only, exclude=exclude)
    rows = []
    for name, above, below in PAIRS:
        if not {f"{above}{end}", f"{below}{end}"} <= set(frame.columns):
            continue
        runs, missing = log_ratios(frame, f"{above}{end}", f"{below}{end}")
        sets = family_means(set_means(runs, ["log_ratio"]))[0] if len(runs) else runs
        try:
            effect = mean_effect(sets["log_ratio"], level=level, permutations=permutations)
        except NotEnough:
            effect = _nothing(0)
        row = {"map": name, "mean_log_ratio": effect.value, "low": effect.low, "high": effect.high}
        row |= {"ratio": math.exp(effect.value), "p": effect.p, "smallest_p": effect.smallest_p}
        row |= {"share_above": float((runs["log_ratio"] > 0).mean()) if len(runs) else math.nan}
        row |= {"n_runs": len(runs), "n_sets": len(sets), "n_missing": missing}
        rows.append(row)
    return pd.DataFrame(rows)


def _ending(estimator: str) -> str:
    endings = {"mle": "", "twonn": "_twonn"}
    if estimator not in endings:
        raise StatisticsError(f"estimator is {estimator!r}, but dimensions are recorded for 'mle' and 'twonn'")
    return endings[estimator]


def _sharpness_sets(runs: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """One row a set: level, log_k_f and, where d_data is known, theory = -(1/d_data) mean log N."""
    if runs.empty:
        return pd.DataFrame({"dataset": [], "level": [], "log_k_f": []}), []
    table = set_levels(runs, "test_loss_nats", log=True)
    table = with_means(table, runs, ["k_f", *(["d_data"] if "d_data" in runs.columns else [])])
    table["log_k_f"] = np.log(table["k_f"])
    if "d_data" in table.columns:
        table["theory"] = -table["mean_log_n"] / table["d_data"]
    return family_means(table)


def _sharpness_rows(sets: pd.DataFrame, level: float) -> pd.DataFrame:
    parts = []
    plans = [("alone", "level", {"log K_F": "log_k_f"})]
    if "theory" in sets.columns:
        plans.append(("with -(1/d) log N", "level_own_n", {"log K_F": "log_k_f", "-(1/d) log N": "theory"}))
    for name, response, terms in plans:
        try:
            rows = regression(sets[response], {term: sets[column] for term, column in terms.items()}, level)
        except NotEnough:
            good = int(np.isfinite(sets[[response, *terms.values()]].to_numpy(np.float64)).all(axis=1).sum())
            rows = pd.DataFrame({"term": list(terms), "slope": math.nan, "low": math.nan, "high": math.nan,
                                 "p": math.nan, "df": max(good - len(terms) - 1, 0), "n": good})  # fmt: skip
        parts.append(rows.assign(regression=name, predicted=primary_tests()["sharpness_generalization"].claimed))
    out = pd.concat(parts, ignore_index=True).rename(columns={"n": "n_sets"})
    return out[["regression", "term", "slope", "low", "high", "p", "predicted", "df", "n_sets"]]


def sharpness_regression(
    frame: pd.DataFrame, *, fitted_only: bool = True, exclude: Sequence[str] = SYNTHETIC, level: float = 0.95
) -> pd.DataFrame:
    """Test loss on label sharpness between image sets: alone, and together with the dimension.

        log L = a + b log K_F                              level: effects of model and log N taken out
        log L = a + b log K_F + c ( -(1/d_data) log N )    effect of model taken out

    One row a term: regression, term, slope, low, high (t(G-p)), p, predicted, df, n_sets. In the law
    L ~ K_F N^(-1/d) both b and c are 1 where the bound is tight. With too few sets slopes are nan.

    Both columns carry d: where the classes overlap, K_F measured on M images a class behaves as
    C M^(2/d), so the two compete and their joint intervals are wide for a reason.
    Runs without a finite positive loss or K_F are left out; `claim_sharpness_generalization` counts them.
    """
    runs, _ = usable(frame, **SHARPNESS_RUNS, fitted_only=fitted_only, exclude=exclude)
    _need(frame, ["model", "n_train"])
    return _sharpness_rows(_sharpness_sets(runs)[0], level)


def ordering_by_dimension(
    frame: pd.DataFrame,
    *,
    kind: str = "spearman",
    fitted_only: bool = True,
    exclude: Sequence[str] = SYNTHETIC,
    permutations: int = MONTE_CARLO,
) -> Correlation:
    """Do sets of higher dimension have the higher loss at equal N? Set-level correlation with d_data.

    This ordering is a prediction of its own. The bound L <= C N^(-1/d) does not imply it, since sets
    differ in C and a loss may lie anywhere below its bound: failing it does not refute the bound, and
    meeting it does not support the bound. With too few sets the value is nan.
    """
    runs, _ = usable(frame, **DIMENSION_RUNS, fitted_only=fitted_only, exclude=exclude)
    _need(frame, ["model", "n_train"])
    try:
        if runs.empty:
            raise NotEnough("no run is left")
        sets = family_means(with_means(set_levels(runs, "test_loss_nats", log=True), runs, ["d_data"]))[0]
        return correlation(sets["d_data"], sets["level"], kind, permutations=permutations)
    except NotEnough:
        return Correlation(**_NOTHING, n=runs["dataset"].nunique(), method="too few sets", kind=kind)


def correlation_table(
    frame: pd.DataFrame,
    x: str,
    columns: Sequence[str],
    *,
    kind: str = "pearson",
    exclude: Sequence[str] = SYNTHETIC,
    permutations: int = MONTE_CARLO,
) -> pd.DataFrame:
    """Set-level correlation of one column with several others, which form one family: a row each.

    frame    runs; every column is taken at its set's level, effects of model and log N taken out. Only
             runs where all columns are finite enter, so that all rows speak of the same sets.
    Returns x, y, kind, value, low, high, p, p_family, smallest_p, n_sets. p_family is the share of orders of
    x over sets whose largest |r| in the family reaches that of the row: it needs no further correction.
    Such a table explores; verdicts come from the claims' own tests. Too few sets give nan.
    Source: Westfall & Young 1993, single-step max statistic.
    """
    columns = [columns] if isinstance(columns, str) else list(columns)
    _need(frame, ["model", "n_train", x, *columns])
    runs, _ = usable(frame, [x, *columns], exclude=exclude)
    try:
        if runs.empty:
            raise NotEnough("no run is left")
        sets = None
        for column in dict.fromkeys([x, *columns]):
            levels = set_levels(runs, column).rename(columns={"level": column})
            sets = levels if sets is None else sets.assign(**{column: levels[column]})
        sets = family_means(sets)[0]
    except NotEnough:
        sets = pd.DataFrame({c: [] for c in ["dataset", x, *columns]})
    found = []
    for column in columns:
        try:
            found.append(correlation(sets[x], sets[column], kind, permutations=permutations))
        except NotEnough:
            found.append(Correlation(**_NOTHING, n=len(sets), method="too few sets", kind=kind))
    known = [c for c, r in zip(columns, found, strict=True) if math.isfinite(r.value)]
    if known:
        rank = stats.rankdata if kind == "spearman" else np.asarray
        y = np.column_stack([_standard(rank(sets[c])) for c in known])
        orders, exact = _orders(len(sets), permutations, 0)
        largest = np.abs(_standard(rank(sets[x]))[orders] @ y).max(axis=1)
    rows = []
    for column, r in zip(columns, found, strict=True):
        p_family = _two_sided(r.value, largest, exact)[0] if math.isfinite(r.value) else math.nan
        row = {"x": x, "y": column, "kind": kind, "value": r.value, "low": r.low, "high": r.high}
        rows.append(row | {"p": r.p, "p_family": p_family, "smallest_p": r.smallest_p, "n_sets": len(sets)})
    return pd.DataFrame(rows)


def _standard(values) -> np.ndarray:
    """Centered, of length 1: the product of two such columns is their correlation."""
    values = np.asarray(values, dtype=np.float64)
    values = values - values.mean()
    return values / np.sqrt(values @ values)


def power_taken_out(
    sets: pd.DataFrame, responses: Sequence[str], *, per_class: float = 250, reference: float = 1, level: float = 0.95
) -> pd.DataFrame:
    """What label sharpness says when its power of M is taken out: K_F = C M^(2/d), C and d as separate predictors.

        log C = log k_f - two_over_d log(per_class / reference)

    sets        one row an image set (or family): dataset, k_f at per_class images a class, two_over_d (2/d, or the
                exponent that was measured), and the columns in `responses`, such as a set's level of log loss
    reference   M at which C is read: 1, or one nearer to what was measured
    Returns, for each response, rows of predictor and given: log K_F, 2/d and log C alone, log K_F given 2/d (which is
    that of log C given 2/d too) and 2/d given log K_F: value, low, high, p, n_sets, and the smallest and largest value
    with one set left out. With too few sets numbers are nan.
    """
    responses = [responses] if isinstance(responses, str) else list(responses)
    if len(sets):
        _need(sets, ["dataset", "k_f", "two_over_d", *responses])
    with np.errstate(divide="ignore", invalid="ignore"):
        log_k = np.log(_values(sets, "k_f"))
    power = _values(sets, "two_over_d")
    table = sets.assign(log_k_f=log_k, log_c=log_k - power * math.log(per_class / reference))
    plans = [
        ("log K_F", "", ["log_k_f"]),
        ("2/d", "", ["two_over_d"]),
        ("log C", "", ["log_c"]),
        ("log K_F", "2/d", ["log_k_f", "two_over_d"]),
        ("2/d", "log K_F", ["two_over_d", "log_k_f"]),
    ]
    rows = []
    for response in responses:
        good = table[np.isfinite(table[["log_k_f", "two_over_d", response]].to_numpy(np.float64)).all(axis=1)]
        for predictor, given, columns in plans:

            def statistic(frame, orders=99, columns=columns, response=response):
                held = [frame[c] for c in columns[1:]]
                kind = partial_correlation if held else correlation
                extra = {"level": level, "permutations": orders}
                return kind(frame[columns[0]], frame[response], *held, **extra)

            try:
                found = statistic(good, MONTE_CARLO)
            except NotEnough:
                found = Correlation(**_NOTHING, n=len(good), method="too few sets")
            left = leave_one_out(good, statistic)["value"] if len(good) else pd.Series(dtype=float)
            rows.append(
                {"response": response, "predictor": predictor, "given": given, "value": found.value, "low": found.low,
                 "high": found.high, "p": found.p, "n_sets": len(good), "smallest": left.min(), "largest": left.max()}
            )  # fmt: skip
    return pd.DataFrame(rows)


def separate_predictors(
    frame: pd.DataFrame,
    grey_level: int = 2,
    *,
    per_class: int = 250,
    fitted_only: bool = True,
    exclude: Sequence[str] = SYNTHETIC,
) -> pd.DataFrame:
    """power_taken_out for the runs of a campaign: log test loss and log loss penalty, levels of sets.

    The power of M is the exponent that was measured in one half of the rows and 2/d_data in the other: column power.
    Effects of model and log N are taken out of the responses; sets of one family count once; runs without a value, or
    with a loss or penalty of 0 or less, are left out. With too few sets numbers are nan.
    """
    penalty = f"loss_penalty_nats_eps{grey_level}"
    parts = []
    for power, column in (("measured exponent", "growth_exponent"), ("2/d_data", "d_data")):
        for response in ("test_loss_nats", penalty):
            positive = [response, "k_f", column]
            runs, _ = usable(frame, positive, positive=positive, fitted_only=fitted_only, exclude=exclude)
            name = f"log {response}"
            try:
                if runs.empty:
                    raise NotEnough("no run is left")
                sets = with_means(set_levels(runs, response, log=True), runs, ["k_f", column])
                sets["two_over_d"] = 2 / sets[column] if column == "d_data" else sets[column]
                sets = family_means(sets.rename(columns={"level": name}))[0]
            except NotEnough:
                sets = pd.DataFrame({c: pd.Series(dtype=float) for c in ("dataset", "k_f", "two_over_d", name)})
            parts.append(power_taken_out(sets, [name], per_class=per_class).assign(power=power))
    out = pd.concat(parts, ignore_index=True)
    return out[["response", "power", *[c for c in out.columns if c not in ("response", "power")]]]


#: the growth of label sharpness: what its verdict says, by the interval of each effect
GROWTH_REFUTED, GROWTH_HELD, GROWTH_OPEN = "refuted", "not refuted", "undecided: too few sets"


def growth_verdict(sets: pd.DataFrame, *, tolerance: float = 0.2, level: float = 0.95) -> pd.DataFrame:
    """The hypothesis that K_F grows as M^(2/d), and its alternative that it does not grow, over image sets.

    sets        one row an image set: dataset, family, exponent, exponent_low, kind (of overlap.growth_law), and columns
                of predictions `2/d, ...`; sets of one family are averaged and count once
    tolerance   relative departure that still counts as 2/d: 20 % of an exponent of 0.16 is what an M 16 times as large
                would change K_F by 9 %
    Rules, one row each:
    - "K_F has a plateau" (exponent 0) is refuted where every set's interval lies above 0 and so does that of the mean
      exponent over families (t(G-1), exact sign flips);
    - "exponent = 2/d" for each prediction, by the mean over families of log(exponent / prediction): refuted where its
      interval excludes 0, or where in more than a quarter of the sets the two differ by more than the tolerance, since
      a law has to hold for sets and not only on average; not refuted otherwise.
    Below MIN_SETS families nothing is decided. Returns hypothesis, effect, low, high, p, n_sets, off (share of sets
    beyond the tolerance; of the plateau: with an interval above 0), smallest and largest effect with one family left
    out, verdict, and `stands`: whether it is the same without any one family.
    """
    family = pd.Series(family_names(sets), index=sets.index)
    names = list(dict.fromkeys(family))
    table = _growth_rows(sets, tolerance, level)
    left = [_growth_rows(sets[(family != name).to_numpy()], tolerance, level) for name in names if len(names) > 1]
    effects = np.array([one["effect"] for one in left]).reshape(len(left), len(table))
    table.insert(7, "smallest", effects.min(axis=0, initial=math.inf))
    table.insert(8, "largest", effects.max(axis=0, initial=-math.inf))
    return table.assign(stands=[all(one["verdict"][i] == v for one in left) for i, v in enumerate(table["verdict"])])


def _growth_rows(sets: pd.DataFrame, tolerance: float, level: float) -> pd.DataFrame:
    """The table of growth_verdict without the columns about sets left out."""
    predictions = [c for c in sets.columns if c.startswith("2/d")]
    _need(sets, ["dataset", "exponent", "exponent_low"])
    units = family_means(sets.drop(columns=[c for c in ("kind",) if c in sets.columns]))[0]
    rows = []

    def row(hypothesis, values, off, refuted):
        try:
            effect = mean_effect(values, level=level)
        except NotEnough:
            effect = _nothing(len(values))
        verdict = GROWTH_OPEN if effect.n < MIN_SETS else GROWTH_REFUTED if refuted(effect) else GROWTH_HELD
        rows.append({"hypothesis": hypothesis, "effect": effect.value, "low": effect.low, "high": effect.high,
                     "p": effect.p, "n_sets": effect.n, "off": off, "verdict": verdict})  # fmt: skip

    above = _values(sets, "exponent_low") > 0
    row("exponent = 0", _values(units, "exponent"), float(above.mean()), lambda e: above.all() and e.low > 0)
    for name in predictions:
        both = np.isfinite(_values(sets, "exponent")) & (_values(sets, name) > 0)
        ratio = _log_ratio(sets, name)[both]
        off = float(np.mean(~(np.abs(ratio) <= math.log1p(tolerance)))) if len(ratio) else math.nan
        mean = _log_ratio(units, name)
        row(f"exponent = {name}", mean, off, lambda e, off=off: e.low > 0 or e.high < 0 or off > 0.25)
    return pd.DataFrame(rows)


def _log_ratio(table: pd.DataFrame, name: str) -> np.ndarray:
    """log(exponent / prediction) of each row; nan where the exponent is not above 0, and so is off in any case."""
    ratio = _values(table, "exponent") / _values(table, name)
    return np.log(np.where(ratio > 0, ratio, math.nan))


def chance_of_departures(errors, tolerance: float = 0.2, share: float = 0.25) -> tuple[float, float]:
    """How often a law that holds in every set would look broken: (mean share of sets off, P(more than `share` are)).

        p_i = 2 (1 - Phi( log(1 + tolerance) / errors_i )),   the number of sets off is a sum of such coins

    errors   standard error of each set's log(measured / predicted), above 0; sets are taken as independent
    Exact for normal errors (the sum's distribution by convolution). Raises NotEnough without a set.
    """
    errors = np.asarray(errors, dtype=float)
    errors = errors[np.isfinite(errors) & (errors > 0)]
    if not len(errors):
        raise NotEnough("no set has a known error, so nothing is known of chance; give sets with intervals")
    off = 2 * stats.norm.sf(math.log1p(tolerance) / errors)
    counts = np.ones(1)
    for p in off:
        counts = np.convolve(counts, [1 - p, p])
    return float(off.mean()), float(counts[np.arange(len(counts)) > share * len(off)].sum())


def domain_difference(
    frame: pd.DataFrame, column: str, *, log: bool = False, permutations: int = MONTE_CARLO
) -> Difference:
    """Medical less natural image sets in the mean of one property, or of its logarithm.

    frame  runs, or one row a set; sets of other domains do not count. With `log`, exp(value) is the
           ratio of the geometric means, and values of 0 or less are left out and counted.
    As `group_difference`; where a domain has no set, the value is nan.
    """
    if not {"dataset", "domain", column} <= set(frame.columns):
        _need(frame, ["dataset", "domain", column])
    known = frame[frame["domain"].isin(["medical", "natural"])]
    if known.empty:
        return Difference(**_NOTHING, n=0, method="too few sets")
    sets, _ = family_means(set_means(known, [column]))
    values = _values(sets, column)
    if log:
        values = np.log(np.where(values > 0, values, np.nan))
    try:
        found = group_difference(values, sets["domain"].eq("medical").to_numpy(bool), permutations=permutations)
    except NotEnough:
        return Difference(**_NOTHING, n=len(sets), method="too few sets")
    return replace(found, method=f"{'log ' if log else ''}{column}, medical less natural sets")


def with_means(table: pd.DataFrame, runs: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """The table of sets with the set means of more columns of their runs."""
    means = set_means(runs.assign(dataset=runs["dataset"].astype(str)), columns).set_index("dataset")
    return table.assign(**{c: table["dataset"].map(means[c]).to_numpy(np.float64) for c in columns})


# -------------------------------------------------------------------------------------------- verdicts


@dataclass(frozen=True, eq=False)
class Verdict:
    """What one claim states, its one primary test, and what the numbers say by a rule fixed before.

    effect, low, high   the primary effect with its 95 % interval; p, smallest_p of its exact test
    p_holm              p adjusted over the four claims; where given, it decides instead of p
    side                +1: the claim says effect > 0; -1: effect < 0
    claimed             size that the claim itself states, or None for a bound; alpha: level of p
    sets                the table of one row a set that was tested; leave_one_out: left_out, value
    testable            False: a bound that says something about too few of the sets to be tested by them
    beside              other numbers that decide nothing; notes: what was left out, in words
    reservations        what a verdict does not say although its name might, in words; `caveats` adds what follows
                        from the fields
    amended             changes of the test's text since it was written down, in words
    claimed_before      the size claimed before it was amended, or None
    counted             what n_runs counts
    all_runs            the same with runs that did not fit, where this one has fitted runs only
    primary             False: a further test, which decides no claim

    `verdict` follows from these fields alone:
    no set                                                        "not measured"
    fewer than MIN_SETS sets                                      "illustration: too few sets"
    interval on the claim's side of 0 and p <= alpha              "supported"
    for a bound: interval on the other side of 0 and p <= alpha   "not supported"
    a bound that says something about too few sets (not testable) "undecided", whatever the interval
    otherwise: interval reaches 0 and excludes the claimed size   "not supported" (95 %, adjusted for no other test)
    anything else                                                 "undecided"
    """

    claim: str
    hypothesis: str
    test: str
    quantity: str
    supported_if: str
    refuted_if: str
    effect: float
    low: float
    high: float
    p: float
    smallest_p: float
    n_sets: int
    n_runs: int
    side: int = 1
    claimed: float | None = None
    alpha: float = ALPHA
    p_holm: float | None = None
    testable: bool = True
    fitted_only: bool = True
    notes: tuple[str, ...] = ()
    beside: dict = field(default_factory=dict)
    sets: pd.DataFrame | None = None
    leave_one_out: pd.DataFrame | None = None
    all_runs: "Verdict | None" = None
    primary: bool = True
    reservations: tuple[str, ...] = ()
    amended: tuple[str, ...] = ()
    claimed_before: float | None = None
    counted: str = "run"

    def __float__(self):
        return float(self.effect)

    @property
    def verdict(self) -> str:
        if self.n_sets < MIN_SETS:
            return TOO_FEW_SETS if self.n_sets else NOT_MEASURED
        p = self.p if self.p_holm is None else self.p_holm
        if not all(math.isfinite(v) for v in (self.effect, self.low, self.high, p)):
            return "undecided"
        if not self.testable:
            return "undecided"
        low, high = (self.low, self.high) if self.side > 0 else (-self.high, -self.low)
        if low > 0:
            return "supported" if p <= self.alpha else "undecided"
        if self.claimed is None:
            return "not supported" if high < 0 and p <= self.alpha else "undecided"
        return "not supported" if high < self.claimed else "undecided"

    @property
    def caveats(self) -> tuple[str, ...]:
        """What the verdict does not say, in words: that sets could not refute, or that a claimed size is excluded."""
        found = list(self.reservations)
        if self.n_sets and not self.testable:
            found.insert(0, "its bound says something about too few of these sets, so they decide nothing either way")
        outside = self.claimed is not None and not self.low <= self.claimed <= self.high
        if self.verdict == "supported" and outside:
            found.append(f"{_number(self.claimed)}, the size claimed, is outside the interval")
        if self.claimed_before is not None:
            before = replace(self, claimed=self.claimed_before, claimed_before=None).verdict
            if before != self.verdict:
                found.append(f"with {_number(self.claimed_before)}, the size claimed before it was amended: {before}")
        return tuple(found)

    @property
    def of(self) -> str:
        """What its values are of, such as 12 runs."""
        return _count(self.n_runs, self.counted)

    def _units(self) -> str:
        """How many of what count: sets, or families of sets where some have several."""
        several = any("families, each family counted once" in note for note in self.notes)
        return _count(self.n_sets, "family" if several else "image set")

    @property
    def sentence(self) -> str:
        """The numbers in one plain sentence."""
        fitted = self.fitted_only and self.counted == "run"
        runs = _count(self.n_runs, f"fitted {self.counted}" if fitted else self.counted)
        inside = "; ".join([runs, *self.notes])
        where = f"Over {self._units()} ({inside})"
        if not math.isfinite(self.effect):
            return f"{where}, {self.quantity} cannot be computed; verdict: {self.verdict}."
        adjusted = "" if self.p_holm is None else f", {_p(self.p_holm)} after Holm"
        return (
            f"{where}, {self.quantity} is {_number(self.effect)} ({_interval(self.low, self.high)}; "
            f"p = {_p(self.p)}{adjusted}, smallest attainable p {_p(self.smallest_p)}); "
            f"verdict: {self.verdict}."
        )

    def row(self) -> dict:
        """One row for a table of several claims."""
        names = ("claim", "effect", "low", "high", "p", "p_holm", "smallest_p", "n_sets", "n_runs", "verdict")
        return {name: getattr(self, name) for name in names}

    def _repr_markdown_(self) -> str:
        kind = f", {'fitted' if self.fitted_only else 'all'} runs" if self.counted == "run" else ""
        rows = [
            ("Hypothesis", self.hypothesis),
            ("Primary test" if self.primary else "Test", self.test),
            ("Effect", f"{self.quantity}: {_estimate(self.effect, self.low, self.high)}"),
            ("p", _p(self.p)),
        ]
        if math.isfinite(self.p):
            none = "no smaller one is possible over so many" if self.p <= self.smallest_p else ""
            rows[-1] = ("p", f"{_p(self.p)}, {none or f'smallest attainable over so many {_p(self.smallest_p)}'}")
        if self.p_holm is not None and math.isfinite(self.p_holm):
            rows.append(("p after Holm", _p(self.p_holm)))
        of = f" ({_count(self.n_runs, self.counted)}{kind})"
        rows += [
            ("Units", f"{self._units()}{'' if of == f' ({self._units()})' else of}"),
            ("Left out", "; ".join(self.notes) or "nothing"),
            ("Supported if", self.supported_if),
            ("Refuted if", self.refuted_if),
        ]
        if self.leave_one_out is not None and self.leave_one_out["value"].notna().any():
            values = self.leave_one_out.dropna(subset="value").sort_values("value")
            ends = [
                f"{_number(end['value'])} (without {end['left_out']})" for _, end in values.iloc[[0, -1]].iterrows()
            ]
            rows.append(("With one set left out", " to ".join(ends)))
        rows += [(name, str(value)) for name, value in self.beside.items()]
        if self.all_runs is not None:
            other = self.all_runs
            size = f"{_count(other.n_sets, 'set')}, {_count(other.n_runs, 'run')}: {other.verdict}"
            rows.append(
                (
                    "With all runs",
                    f"{_estimate(other.effect, other.low, other.high)}; p = {_p(other.p)}; {size}",
                )
            )
        if self.amended:
            rows.append(("Amended since", "; ".join(self.amended)))
        rows.append(("Verdict", "; ".join([f"**{self.verdict}**", *self.caveats])))
        lines = [f"| {_cell(name)} | {_cell(text)} |" for name, text in rows]
        return "\n".join([f"| Claim | {_cell(self.claim)} |", "|:--|:--|", *lines])


# ---------------------------------------------------------------------------------------- primary tests


@dataclass(frozen=True)
class PrimaryTest:
    """The one test that decides a claim, as params/claims.yaml states it.

    amended: changes since it was written down, each a mapping of date, change and runs (what was stored by then)
    """

    claim: str
    hypothesis: str
    outcome: str
    predictor: str | None
    models: str
    sets: str
    grey_level: int | None
    test: str
    quantity: str
    alternative: str
    side: int
    claimed: float | None
    alpha: float
    supported_if: str
    refuted_if: str
    amended: tuple[dict, ...] = ()

    def stated(self, grey_level: int | None = None) -> dict:
        """Fields of a Verdict, the values of the keys put into its texts."""
        level = self.grey_level if grey_level is None else grey_level
        values = {"alpha": self.alpha, "claimed": self.claimed, "grey_level": level}
        names = ("claim", "hypothesis", "test", "quantity", "supported_if", "refuted_if")
        texts = {name: getattr(self, name).format(**values) for name in names}
        fixed = {"side": self.side, "claimed": self.claimed, "alpha": self.alpha}
        return texts | fixed | amended(self.amended)


def amended(entries) -> dict:
    """Fields of a Verdict on the changes of its test: `amended` and `claimed_before`, of the first that changed it."""
    before = [entry["claimed_before"] for entry in entries if "claimed_before" in entry]
    return {"amended": amendments(entries), "claimed_before": before[0] if before else None}


def amendments(entries) -> tuple[str, ...]:
    """Changes of a test in words. Raises WrongClaims where one lacks its date, change or runs, or has other keys."""
    keys = {"date", "change", "runs"}
    for entry in entries:
        if not isinstance(entry, dict) or not keys <= set(entry) or not all(entry[key] for key in keys):
            raise WrongClaims(f"an amendment is date, change and runs, else nobody can judge it; found {entry!r}")
    return tuple(f"{entry['date']}: {entry['change']} (stored by then: {entry['runs']})" for entry in entries)


CLAIMS = {  # claim -> (outcome, predictor) that its computation reads
    "data_dimension": ("test_loss_nats", "d_data"),
    "sharpness_generalization": ("test_loss_nats", "k_f"),
    "sharpness_robustness": ("loss_penalty_nats", "k_f"),
    "representation_bound": ("d_repr", "d_data_same_images"),
}
_ONLY = {"models": "averaged", "sets": "real", "alternative": "two-sided"}  # what the tests below compute


def read_primary_tests(path) -> dict[str, PrimaryTest]:
    """The four primary tests of a file like params/claims.yaml: name -> PrimaryTest.

    Raises WrongClaims where a claim or a key is missing or unknown, or a value is one that the package's
    test does not compute: a text that says another test than the one that runs would be worse than none.
    """
    with open(path, encoding="utf-8") as file:
        body = yaml.safe_load(file)
    remedy = f"; compare {path} with params/claims.yaml"
    if not isinstance(body, dict) or set(body) != set(CLAIMS):
        raise WrongClaims(f"the claims must be {', '.join(CLAIMS)}, since each verdict needs its test{remedy}")
    keys, tests = {f.name for f in fields(PrimaryTest)}, {}
    for name, reads in CLAIMS.items():
        entry = body[name] if isinstance(body[name], dict) else {}
        if odd := sorted(keys ^ (set(entry) | {"amended"})):
            raise WrongClaims(f"{name}: {', '.join(odd)} is missing or unknown, so its test is not fixed{remedy}")
        only = _ONLY | dict(zip(("outcome", "predictor"), reads, strict=True))
        if wrong := [key for key, value in only.items() if entry[key] != value]:
            key = wrong[0]
            raise WrongClaims(f"{name}: {key} is {entry[key]!r}, but the test computes {only[key]!r} only{remedy}")
        number = isinstance(entry["alpha"], float) and 0 < entry["alpha"] < 1
        if not number or entry["side"] not in (1, -1):
            raise WrongClaims(f"{name}: alpha must lie between 0 and 1 and side be 1 or -1, else no rule holds{remedy}")
        if (name == "sharpness_robustness") != isinstance(entry["grey_level"], int):
            raise WrongClaims(f"{name}: grey_level is {entry['grey_level']!r}; only the attack has a budget{remedy}")
        try:
            amendments(entry.get("amended", ()))
        except WrongClaims as error:
            raise WrongClaims(f"{name}: {error}{remedy}") from None
        tests[name] = PrimaryTest(**entry | {"amended": tuple(entry.get("amended", ()))})
    return tests


@lru_cache(maxsize=1)
def primary_tests() -> dict[str, PrimaryTest]:
    """The primary tests of this book, from params/claims.yaml."""
    return read_primary_tests(images.REPOSITORY / "params" / "claims.yaml")


def _stated(name: str, grey_level: int | None = None) -> dict:
    return primary_tests()[name].stated(grey_level)


def verdict_table(verdicts: dict[str, Verdict]) -> pd.DataFrame:
    """One row a claim: what was tested, the effect, the verdict, and whether it hangs on one set.

    Columns: those of Verdict.row, quantity, and of the effect with each set left out in turn:
    loo_low, loo_high (its ends), loo_without (the set whose absence moves it furthest) and same_sign.
    Without such values they are nan, None and None.
    """
    rows = []
    for name, verdict in verdicts.items():
        row = {"name": name, **verdict.row(), "quantity": verdict.quantity}
        left = verdict.leave_one_out
        left = None if left is None else left.dropna(subset="value")
        row |= {"loo_low": math.nan, "loo_high": math.nan, "loo_without": None, "same_sign": None}
        if left is not None and len(left) and math.isfinite(verdict.effect):
            values = left["value"].to_numpy(float)
            row |= {"loo_low": values.min(), "loo_high": values.max()}
            row["loo_without"] = str(left["left_out"].iloc[int(np.abs(values - verdict.effect).argmax())])
            row["same_sign"] = bool((np.sign(values) == np.sign(verdict.effect)).all())
        rows.append(row)
    return pd.DataFrame(rows)


def power_mean(effect: float, sd: float, n_sets: int, alpha: float = 0.05) -> float:
    """Chance that a two-sided t test of a mean over sets finds a true mean `effect`.

        P(|T| > t_(1 - alpha/2, G-1)),  T noncentral t with G-1 degrees of freedom and effect sqrt(G) / sd

    effect, sd  in units of the outcome (for claim 1: exponents); sd between sets, from a pilot
    Raises NotEnough with fewer than two sets or no spread.
    """
    if n_sets < 2 or not sd > 0:
        raise NotEnough(f"{n_sets} sets with spread {sd:g} give no t test; take at least two sets and a spread above 0")
    df, shift = n_sets - 1, effect * math.sqrt(n_sets) / sd
    critical = stats.t.ppf(1 - alpha / 2, df)
    return float(stats.nct.sf(critical, df, shift) + stats.nct.cdf(-critical, df, shift))


def power_difference(effect: float, sd: float, n_first: int, n_second: int, alpha: float = 0.05) -> float:
    """As power_mean, for the difference of two domains with equal spread between sets.

    df = n_1 + n_2 - 2,  shift = effect / (sd sqrt(1/n_1 + 1/n_2))
    """
    if min(n_first, n_second) < 1 or n_first + n_second < 3 or not sd > 0:
        raise NotEnough(f"{n_first} against {n_second} sets with spread {sd:g} give no t test; add sets")
    df = n_first + n_second - 2
    shift, critical = effect / (sd * math.sqrt(1 / n_first + 1 / n_second)), stats.t.ppf(1 - alpha / 2, df)
    return float(stats.nct.sf(critical, df, shift) + stats.nct.cdf(-critical, df, shift))


def _cell(text: str) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ").replace("_", "\\_")


def _estimate(value: float, low: float, high: float) -> str:
    return f"{_number(value)} ({_interval(low, high)})" if math.isfinite(value) else "not available"


def _nothing(n: int) -> Effect:
    return Effect(**_NOTHING, n=n, method="too few sets")


def with_all_runs(build: Callable[..., Verdict], frame: pd.DataFrame, fitted_only: bool, **options) -> Verdict:
    """The verdict of the fitted runs with that of all runs beside, or that of all runs alone."""
    _need(frame, ["dataset", "model", "n_train", "fitted"])
    every = build(frame, fitted_only=False, **options)
    if not fitted_only:
        return every
    if _is_fitted(frame).all():
        return replace(every, fitted_only=True, all_runs=every)
    return replace(build(frame, fitted_only=True, **options), all_runs=every)


def tested(sets: pd.DataFrame, effect_of: Callable, value_of: Callable) -> dict:
    """The fields of a Verdict that come from its table of sets; nan where they cannot be computed."""
    try:
        effect = effect_of(sets)
    except NotEnough:
        effect = _nothing(len(sets))
    return {
        "effect": effect.value,
        "low": effect.low,
        "high": effect.high,
        "p": effect.p,
        "smallest_p": effect.smallest_p,
        "n_sets": len(sets),
        "sets": sets,
        "leave_one_out": leave_one_out(sets, value_of) if len(sets) else pd.DataFrame({"left_out": [], "value": []}),
    }


def _or_few(compute: Callable) -> str:
    """A number that decides nothing, as text."""
    try:
        return str(compute())
    except NotEnough:
        return "too few sets"


def claim_data_dimension(
    frame: pd.DataFrame,
    *,
    fitted_only: bool = True,
    exclude: Sequence[str] = SYNTHETIC,
    p_holm: float | None = None,
    permutations: int = MONTE_CARLO,
) -> Verdict:
    """Claim 1: the test loss falls at least as fast as N^(-1/d_data).

    The law is an upper bound, L <= C N^(-1/d) with an unknown C. Hence:

    - Only an exponent below 1/d_data speaks against it. An exponent above 1/d_data, however large,
      agrees with it; so does one equal to it, which this test leaves undecided.
    - Whether sets of higher dimension have the higher loss is another prediction (the paper's
      figure): sets differ in C, and a loss may lie anywhere below its bound. It stands beside, as
      `ordering_by_dimension`, and decides nothing here.
    - Only sets about which the bound says anything can speak for or against it: those where the least value
      that Theorem 1 can promise (`theory.least_bound`, a column of `campaign.runs_frame`) is below 1. With
      that column they are the sample; where they are fewer than MIN_SETS families, the mean is over all sets and
      decides nothing. Without it this is not looked at, and the table says so. It is necessary, not
      sufficient: `theory.crossing` has the N up to which a slow loss may stay below its bound.
    - What a refutation hits is that the loss falls so over the sizes measured, and, if that lasts until the two
      meet (`theory.crossing`), the bound with its assumptions: a label that
      is a Lipschitz function of the image (no label noise, no overlap of classes), a network that
      fits and whose slope K_f does not grow with N, a loss that is Lipschitz in the network's
      probability (cross-entropy is not; the same test on the Brier score, which is, stands beside),
      and a d_data that is right. At a few hundred images the MLE is off where d is high, too low on
      cubes and spheres, 1/d then too high, and too high on flat tori: the test may lean either way.
    - An O() statement says nothing about any finite range of N; tested is its everyday reading, that
      the slope between the sizes at hand obeys it.

    Primary test: exponent a (log loss on log N, per model, models averaged) less 1/d_data per set; mean
    over sets, t(G-1) interval, exact sign flips. The spread between sets carries the errors of both
    terms; the bias of d_data it cannot carry.
    """
    options = {"exclude": exclude, "p_holm": p_holm, "permutations": permutations}
    return with_all_runs(_data_dimension, frame, fitted_only, **options)


def excess_exponents(runs: pd.DataFrame, response: str, multiple: float = 1.0) -> pd.DataFrame:
    """One row a set: exponent (models averaged), predicted = multiple / d_data, excess = exponent - predicted, n_runs.

    multiple: 1 by Theorem 1, and 2 for the Brier score, whose bound has twice the exponent.
    """
    columns = ["exponent", "predicted", "excess"]
    if runs.empty:
        return pd.DataFrame({"dataset": [], **{c: [] for c in columns}, "n_runs": []})
    table = scaling_exponents(runs, response).dropna(subset=["exponent", "predicted"])
    table["predicted"] *= multiple
    table["excess"] = table["exponent"] - table["predicted"]
    groups = table.groupby("dataset", sort=False, observed=True)
    sets = groups[columns].mean()
    for column in ("domain", "family"):
        if column in table.columns:
            sets[column] = groups[column].first()
    if "least_bound" in runs.columns:
        least = runs.groupby("dataset", observed=True)["least_bound"].first()
        sets["least_bound"] = least.reindex(sets.index)  # where there is no set, a column would bring its own
    sets["n_runs"] = groups["n_runs"].sum()
    return sets.reset_index()


def informed_sets(
    sets: pd.DataFrame, permutations: int = MONTE_CARLO, loss_slope: float = 1.0
) -> tuple[pd.DataFrame, bool, dict[str, str]]:
    """(sets of the test, whether they decide anything, what stands beside), by what the bound says about each.

    A bound can be tested by the sets whose least bound on |f - F| is below 1 / loss_slope, K_L of the loss
    (`theory.loss_slope`), since the loss is at most K_L times that. With MIN_SETS families of them or more these are
    the sample; with fewer it is all sets, and decides nothing. Without a column least_bound: all sets, and decided.
    """
    title = "Sets about which the bound says anything"
    if sets.empty:
        return sets, True, {}
    if "least_bound" not in sets.columns:
        return sets, True, {title: "not looked at: no column least_bound"}
    says = sets["least_bound"] < 1 / loss_slope
    known = int(sets["least_bound"].notna().sum())
    text = f"{_count(int(says.sum()), 'set')} of {known} for which it is known"
    if len(family_means(sets[says])[0]) < MIN_SETS:
        return sets, False, {title: f"{text}; too few to test it"}
    every = mean_effect(family_means(sets)[0]["excess"], permutations=permutations)
    return sets[says], True, {title: f"{text}; over all sets {every}"}


def _data_dimension(frame, *, fitted_only, exclude, p_holm, permutations) -> Verdict:
    runs, notes = usable(frame, **DIMENSION_RUNS, fitted_only=fitted_only, exclude=exclude)
    sets = excess_exponents(runs, "test_loss_nats")
    one_size = [str(n) for n in dict.fromkeys(runs["dataset"]) if n not in set(sets["dataset"])]
    if one_size:
        notes.append(f"{_count(len(one_size), 'set')} with one size N only ({', '.join(one_size)})")
    networks = runs.groupby(["dataset", "model"], observed=True)["n_train"].transform("nunique") > 1
    if alone := int((~networks & ~runs["dataset"].isin(one_size)).sum()):
        entered = ", ".join(str(name) for name in dict.fromkeys(runs.loc[networks, "model"]))
        notes.append(f"{_count(alone, 'run')} of networks at one size N only (exponents are of {entered})")
    sets, testable, beside = informed_sets(sets, permutations)
    sets, more = family_means(sets)
    if len(sets):
        own = scaling_exponents(runs, by_model=False).dropna(subset=["high", "predicted"])
        below = int((own["high"] < own["predicted"]).sum())
        beside["Sets whose own interval lies below 1/d_data"] = (
            f"{below} of {len(own)} (interval over runs, d_data taken as known: some lie below by chance)"
        )
        order = ordering_by_dimension(runs, fitted_only=False, exclude=(), permutations=permutations)
        beside["Another prediction: the order of sets"] = (
            f"rank correlation of log loss with d_data {order}" if math.isfinite(order.value) else "too few sets"
        )
        if "test_brier" in runs.columns:
            brier = family_means(excess_exponents(runs, "test_brier", 2))[0]
            beside["The Brier score, whose bound asks for 2/d_data: exponent less that"] = _or_few(
                lambda: mean_effect(brier["excess"], permutations=permutations)
            )
    return Verdict(
        **_stated("data_dimension"),
        testable=testable,
        n_runs=int(sets["n_runs"].sum()),
        p_holm=p_holm,
        fitted_only=fitted_only,
        notes=(*notes, *more),
        beside=beside,
        **tested(
            sets,
            lambda table: mean_effect(table["excess"], permutations=permutations),
            lambda table: table["excess"].mean(),
        ),
    )


def claim_sharpness_generalization(
    frame: pd.DataFrame,
    *,
    fitted_only: bool = True,
    exclude: Sequence[str] = SYNTHETIC,
    p_holm: float | None = None,
    permutations: int = MONTE_CARLO,
) -> Verdict:
    """Claim 2: at equal N, image sets with sharper labels are learned worse; this is the domain gap.

    The law log L = log K_F - (1/d) log N + a is an upper bound as well, and a bound alone predicts no
    slope between sets. The claim is the stronger empirical reading: the loss rises with K_F, with
    slope 1 where the bound is tight.

    Primary test: slope of the set-level log test loss (effects of model and log N taken out) on
    log K_F; t(G-2) interval, exact permutation of K_F over sets. Supported by a positive slope. Refuted
    by an interval that reaches 0 and excludes 1: then no rise is seen, and one as large as the
    law's is ruled out. An interval that holds both 0 and 1 cannot tell. Beside: the slope when
    -(1/d) log N takes part, and the difference between medical and natural sets before and after K_F.

    All of this is correlation between sets, at one M (images a class behind K_F), size and channels.
    """
    options = {"exclude": exclude, "p_holm": p_holm, "permutations": permutations}
    return with_all_runs(_sharpness_generalization, frame, fitted_only, **options)


def _slope_effect(sets: pd.DataFrame, permutations: int) -> Effect:
    fit = ols(sets["log_k_f"], sets["level"])
    test = correlation(sets["log_k_f"], sets["level"], permutations=permutations)
    return Effect(fit.slope, fit.low, fit.high, test.p, test.smallest_p, fit.n, f"slope; {test.method}")


def where_comparable(sets_of: Callable, runs: pd.DataFrame) -> tuple[pd.DataFrame, list[str], int]:
    """(table of sets, notes, runs used), empty where models or sizes do not overlap between sets."""
    try:
        sets, notes = sets_of(runs)
        return sets, notes, len(runs)
    except NotEnough as error:
        return sets_of(runs.iloc[:0])[0], [str(error)], 0


def _sharpness_generalization(frame, *, fitted_only, exclude, p_holm, permutations) -> Verdict:
    runs, notes = usable(frame, **SHARPNESS_RUNS, fitted_only=fitted_only, exclude=exclude)
    sets, more, n_runs = where_comparable(_sharpness_sets, runs)
    beside = {}
    if len(sets):
        for row in _sharpness_rows(sets, 0.95).itertuples():
            if row.regression != "alone":
                beside[f"Slope of {row.term}, both together"] = (
                    f"{_estimate(row.slope, row.low, row.high)}; the law says {row.predicted:g}"
                )
        beside["Rank correlation of loss with K_F"] = _or_few(
            lambda: correlation(sets["log_k_f"], sets["level"], "spearman", permutations=permutations)
        )
        beside |= _domain_gap(sets, permutations)
    return Verdict(
        **_stated("sharpness_generalization"),
        n_runs=n_runs,
        p_holm=p_holm,
        fitted_only=fitted_only,
        notes=(*notes, *more),
        beside=beside,
        **tested(
            sets,
            lambda table: _slope_effect(table, permutations),
            lambda table: ols(table["log_k_f"], table["level"]),
        ),
    )


def _domain_gap(sets: pd.DataFrame, permutations: int) -> dict:
    """Log loss of medical less natural sets, as it is and at equal K_F."""
    if "domain" not in sets.columns:
        return {}
    known = sets[sets["domain"].isin(["medical", "natural"])]
    medical = known["domain"].eq("medical").to_numpy(bool)

    def at_equal_sharpness():
        rows = regression(known["level"], {"log K_F": known["log_k_f"], "medical": medical})
        return _estimate(*rows.loc[1, ["slope", "low", "high"]])

    return {
        "Log loss, medical less natural sets": _or_few(
            lambda: group_difference(known["level"], medical, permutations=permutations)
        ),
        "The same at equal K_F": _or_few(at_equal_sharpness),
    }


def claim_sharpness_robustness(
    frame: pd.DataFrame,
    grey_level: int | None = None,
    *,
    fitted_only: bool = True,
    exclude: Sequence[str] = SYNTHETIC,
    p_holm: float | None = None,
    permutations: int = MONTE_CARLO,
) -> Verdict:
    """Claim 3: networks trained on sets with sharper labels are easier to fool.

    The theory bounds an L2 radius on the data manifold from below, by about 1/K_f; that K_f follows K_F
    is an assumption, and FGSM moves an image off the manifold within an L-infinity ball. So the claim
    is empirical: the loss penalty of the attack rises with K_F.

    Primary test: Pearson correlation over image sets of the loss penalty at budget grey_level/255
    (effects of model and log N taken out) with K_F; Fisher z interval, exact permutation. It is the
    paper's statistic at the set level: over single runs, those of one set would count as
    independent. Supported by a positive correlation. Refuted by an interval that reaches 0 and
    excludes the published 0.70. Other budgets are a family that decides nothing.

    Beside: rank correlation; the accuracy penalty; the share of images whose input gradient
    vanishes in float32, where FGSM cannot move and a penalty of 0 says nothing.
    """
    grey_level = primary_tests()["sharpness_robustness"].grey_level if grey_level is None else grey_level
    options = {"exclude": exclude, "p_holm": p_holm, "permutations": permutations, "grey_level": grey_level}
    return with_all_runs(_sharpness_robustness, frame, fitted_only, **options)


def _penalty_sets(runs: pd.DataFrame, column: str) -> tuple[pd.DataFrame, list[str]]:
    """One row a set: level (of the penalty), k_f."""
    if runs.empty:
        return pd.DataFrame({"dataset": [], "level": [], "k_f": []}), []
    return family_means(with_means(set_levels(runs, column), runs, ["k_f"]))


def _sharpness_robustness(frame, *, grey_level, fitted_only, exclude, p_holm, permutations) -> Verdict:
    penalty, accuracy = f"loss_penalty_nats_eps{grey_level}", f"accuracy_penalty_eps{grey_level}"
    runs, notes = usable(frame, [penalty, "k_f"], positive=["k_f"], fitted_only=fitted_only, exclude=exclude)
    sets, more, n_runs = where_comparable(lambda runs: _penalty_sets(runs, penalty), runs)
    beside = {}
    if len(sets):
        beside["Rank correlation of loss penalty with K_F"] = _or_few(
            lambda: correlation(sets["k_f"], sets["level"], "spearman", permutations=permutations)
        )
        if accuracy in runs.columns and np.isfinite(_values(runs, accuracy)).all():
            other = _penalty_sets(runs, accuracy)[0]
            beside["Correlation of accuracy penalty with K_F"] = _or_few(
                lambda: correlation(other["k_f"], other["level"], permutations=permutations)
            )
        if "gradient_zero_fraction" in runs.columns:
            zero = 100 * set_means(runs, ["gradient_zero_fraction"])["gradient_zero_fraction"]
            if zero.notna().any():
                beside["Images whose input gradient is 0"] = (
                    f"{_number(zero.mean())} % on average, at most {_number(zero.max())} % in one set"
                )
    return Verdict(
        **_stated("sharpness_robustness", grey_level),
        n_runs=n_runs,
        p_holm=p_holm,
        fitted_only=fitted_only,
        notes=(*notes, *more),
        beside=beside,
        **tested(
            sets,
            lambda table: correlation(table["k_f"], table["level"], permutations=permutations),
            lambda table: correlation(table["k_f"], table["level"], permutations=1),
        ),
    )


def claim_representation_bound(
    frame: pd.DataFrame,
    *,
    fitted_only: bool = True,
    exclude: Sequence[str] = SYNTHETIC,
    p_holm: float | None = None,
    permutations: int = MONTE_CARLO,
) -> Verdict:
    """Claim 4: the learned representation has at most the dimension of the data.

    For the true dimensions this is a theorem that no measurement can refute: a Lipschitz map never
    raises Hausdorff or box dimension, and a network with fixed weights is one, trained or not. What a
    measurement can refute is that the *estimates* keep that order, and then:

    - Points above the diagonal test the estimators, not the network: bias at this n and k, noise or
      curvature that one side has and the other has not, duplicates dropped on one side.
    - "Supported" says that the estimates keep the order. It says something about learning only as
      far as the trained network lies lower than the untrained one and the random linear map on the
      same images, which obey the theorem for the same reason; these stand beside, with both contrasts.
    - Both dimensions come from the same images, estimator and k, paired within a run.

    Primary test: log(d_repr / d_data) per run, by MLE, models averaged, mean over sets; t(G-1)
    interval, exact sign flips. Claim: below 0. Estimates that agree leave it undecided.
    """
    options = {"exclude": exclude, "p_holm": p_holm, "permutations": permutations}
    return with_all_runs(_representation_bound, frame, fitted_only, **options)


def _representation_bound(frame, *, fitted_only, exclude, p_holm, permutations) -> Verdict:
    pair = ["d_repr", "d_data_same_images"]
    runs, notes = usable(frame, pair, positive=pair, fitted_only=fitted_only, exclude=exclude)
    ratios, _ = log_ratios(runs, *pair)
    sets, more, beside, but = ratios, [], {}, ["of the loss against d_repr it says nothing"]
    if len(runs):
        sets, more = family_means(set_means(ratios, ["log_ratio", *pair]))
        options = {"fitted_only": False, "exclude": (), "permutations": permutations}
        beside["Runs above the diagonal"] = f"{int((ratios['log_ratio'] > 0).sum())} of {len(ratios)}"
        for row in paired_bound(runs, **options).iloc[1:].itertuples():
            what = row.map if " over " in row.map else f"{row.map} over images"
            beside[f"Mean log ratio, {what}"] = _estimate(row.mean_log_ratio, row.low, row.high)
            if row.map == LEARNING and not row.high < 0:
                but.append("trained networks are not shown to lie below untrained ones")
        if {f"{name}_twonn" for name in pair} <= set(runs.columns):
            row = paired_bound(runs, "twonn", **options).iloc[0]
            beside["Mean log ratio by TwoNN"] = _estimate(row["mean_log_ratio"], row["low"], row["high"])
            if not row["high"] < 0:
                but.append("not seen by TwoNN")
    return Verdict(
        **_stated("representation_bound"),
        reservations=tuple(but),
        n_runs=len(runs),
        p_holm=p_holm,
        fitted_only=fitted_only,
        notes=(*notes, *more),
        beside=beside,
        **tested(
            sets,
            lambda table: mean_effect(table["log_ratio"], permutations=permutations),
            lambda table: table["log_ratio"].mean(),
        ),
    )


def claims(frame: pd.DataFrame, grey_level: int | None = None, **options) -> dict[str, Verdict]:
    """The four verdicts with p values adjusted over the four by Holm: name -> Verdict.

    Names: data_dimension, sharpness_generalization, sharpness_robustness, representation_bound.
    grey_level  budget of the attack, of 255; None: that of the primary test
    options     fitted_only, exclude, permutations, as in each claim
    """
    found = {
        "data_dimension": claim_data_dimension(frame, **options),
        "sharpness_generalization": claim_sharpness_generalization(frame, **options),
        "sharpness_robustness": claim_sharpness_robustness(frame, grey_level, **options),
        "representation_bound": claim_representation_bound(frame, **options),
    }
    verdicts = _adjusted(list(found.values()))
    if all(v.all_runs is not None for v in verdicts):
        every = _adjusted([v.all_runs for v in verdicts])
        verdicts = [replace(v, all_runs=other) for v, other in zip(verdicts, every, strict=True)]
    return dict(zip(found, verdicts, strict=True))


def _adjusted(verdicts: list[Verdict]) -> list[Verdict]:
    """With p after Holm over all of them: one that cannot be computed counts, as 1."""
    adjusted = holm([v.p if math.isfinite(v.p) else 1.0 for v in verdicts])
    return [
        replace(v, p_holm=float(p) if math.isfinite(v.p) else math.nan) for v, p in zip(verdicts, adjusted, strict=True)
    ]
