"""Effects with intervals and p-values, from one value a family of image sets.

Every effect is an `Interval` with a two-sided `p` and, where its interval is Student's, `error` and `df`. Rows with a
value that is not finite are left out; `n` is what remains.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import statsmodels.api as sm
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from intrinsic.properties.interval import Interval

PERMUTATIONS = 99_999  # drawn where all of them are more


class NotEnough(ValueError):
    """Too few values, or values without variation, for a statistic."""


def _finite(*columns) -> list[np.ndarray]:
    arrays = [np.asarray(column, dtype=np.float64) for column in columns]
    if len({a.shape for a in arrays}) > 1:
        raise ValueError(f"columns of shapes {[a.shape for a in arrays]} cannot be paired; pass columns of one frame")
    keep = np.logical_and.reduce([np.isfinite(a) for a in arrays])
    return [a[keep] for a in arrays]


def _design(columns, least: int, what: str) -> np.ndarray:
    """A constant and the columns; NotEnough below `least` rows, or where a column follows from the others."""
    design = np.column_stack([np.ones(len(columns[0])), *columns])
    scale = np.abs(design).max(axis=0, initial=0)
    rank = np.linalg.matrix_rank(design / np.where(scale > 0, scale, 1), tol=1e-9) if len(design) else 0
    if len(design) < least or rank < design.shape[1]:
        found = f"{what} needs {least} families and columns that differ, and found {len(design)} families"
        raise NotEnough(f"{found} with {rank} of {design.shape[1]} columns; add image sets")
    return design


@dataclass(frozen=True)
class Regression:
    """Least squares: `coefficients` by name, `r2`, residual `deviation`, `n` families, `df` degrees of freedom."""

    coefficients: dict[str, Interval]
    r2: float
    deviation: float
    n: int
    df: int
    level: float
    result: object = field(repr=False)

    def __getitem__(self, name: str) -> Interval:
        return self.coefficients[name]

    def predict(self, **columns) -> pd.DataFrame:
        """Predictions with the interval of one new family: value, low, high; one row a value of the columns."""
        x = np.column_stack([np.atleast_1d(np.asarray(columns[name], float)) for name in list(self.coefficients)[1:]])
        found = self.result.get_prediction(np.column_stack([np.ones(len(x)), x]))
        low, high = found.conf_int(obs=True, alpha=1 - self.level).T
        return pd.DataFrame({"value": found.predicted_mean, "low": low, "high": high})


def ols(y, *, level: float = 0.95, **columns) -> Regression:
    """Least squares of y on a constant and the named columns, with Student's intervals.

    Parameters
    ----------
    y, **columns : array (n,)
        Response and predictors, one value a family.

    Raises
    ------
    NotEnough
        Fewer families than terms, or columns that depend on each other.

    Examples
    --------
    >>> ols([1.0, 3.1, 4.9, 7.0], x=[0, 1, 2, 3])["x"]
    1.98 [1.8, 2.16]
    """
    y, *x = _finite(y, *columns.values())
    design = _design(x, len(x) + 1, f"a regression on {', '.join(columns)}")
    result, n = sm.OLS(y, design).fit(), len(y)
    df = int(result.df_resid)
    ends = result.conf_int(1 - level) if df else np.full((len(x) + 1, 2), math.nan)
    p, errors = (result.pvalues, result.bse.tolist()) if df else np.full((2, len(x) + 1), math.nan)
    terms = enumerate(zip(["intercept", *columns], result.params, strict=True))
    found = {
        name: Interval(b, *ends[i], "least squares, t", n, p=float(p[i]), error=float(errors[i]), df=df)
        for i, (name, b) in terms
    }
    return Regression(found, result.rsquared, math.sqrt(result.ssr / df) if df else math.nan, n, df, level, result)


def _permuted(values, statistic: Callable, kind: str, permutations: int, seed: int) -> float:
    options = {"permutation_type": kind, "vectorized": True, "alternative": "greater", "batch": 20_000, "rng": seed}
    return float(stats.permutation_test((values,), statistic, n_resamples=permutations, **options).pvalue)


def permutation_p(y, of: str, *, permutations: int = PERMUTATIONS, seed: int = 0, **columns) -> float:
    """Two-sided permutation p of one coefficient of `ols`, by Freedman and Lane.

    Residuals of y on the other columns are permuted; the statistic is the partial correlation with column `of`. All
    orders are taken where they are at most `permutations` (n <= 8); else so many are drawn.

    References
    ----------
    Freedman & Lane 1983, A nonstochastic interpretation of reported significance levels.

    Examples
    --------
    >>> permutation_p([1, 2, 3, 4], "x", x=[1, 2, 3, 5])  # 2 of 24 orders are as extreme
    0.08333333333333333
    """
    y, x, *others = _finite(y, columns[of], *(column for name, column in columns.items() if name != of))
    basis = np.linalg.qr(_design([*others, x], len(columns) + 2, f"a permutation test of {of}")[:, :-1])[0]

    def left(v):
        return v - (v @ basis) @ basis.T

    u = left(x) / np.linalg.norm(left(x))

    def statistic(e, axis=-1):
        e = left(e)
        length = np.linalg.norm(e, axis=-1)
        return np.round(np.abs(e @ u) / np.where(length > 0, length, math.inf), 12)  # equal orders tie

    return _permuted(left(y), statistic, "pairings", permutations, seed)


def mean_effect(values, *, level: float = 0.95, permutations: int = PERMUTATIONS, seed: int = 0) -> Interval:
    """Mean of one value a family, with Student's interval and the p of sign flips (all of them up to n = 16).

    Examples
    --------
    >>> effect = mean_effect([0.2, 0.5, 0.3, 0.4])
    >>> effect, effect.p
    (0.35 [0.145, 0.555], 0.125)
    """
    (values,) = _finite(values)
    n = len(values)
    if n < 2:
        raise NotEnough(f"a mean with an interval needs two families, and {n} has a value; add image sets")
    mean, error = values.mean(), values.std(ddof=1) / math.sqrt(n)
    half = stats.t.ppf((1 + level) / 2, n - 1) * error
    flipped = {"kind": "samples", "permutations": permutations, "seed": seed}
    p = _permuted(values, lambda v, axis=-1: np.round(np.abs(v.mean(axis=-1)), 12), **flipped)
    return Interval(mean, mean - half, mean + half, "mean, t; sign flips", n, p=p, error=error, df=n - 1)


def correlation(x, y, *given, kind: str = "pearson", level: float = 0.95, seed: int = 0) -> Interval:
    """Correlation of x and y beyond the given columns, with Fisher's interval and the p of `permutation_p`.

    The interval is tanh(atanh(r) +- z s), s^2 = 1 / (n - 3 - k) for k given columns. `kind` "spearman" takes ranks, and
    multiplies s^2 by 1 + r^2 / 2.

    References
    ----------
    Fisher 1924, The distribution of the partial correlation coefficient. Bonett & Wright 2000, for ranks.

    Examples
    --------
    >>> correlation([1, 2, 3, 4, 5], [2, 1, 4, 3, 5])
    0.8 [−0.28, 0.986]
    """
    x, y, *given = [stats.rankdata(c) if kind == "spearman" else c for c in _finite(x, y, *given)]
    n, free = len(x), len(x) - 3 - len(given)
    design, _ = _design([*given, x], 3 + len(given), "a correlation")[:, :-1], _design([*given, y], 3, "a correlation")
    u, v = (c - design @ np.linalg.lstsq(design, c, rcond=None)[0] for c in (x, y))
    r = float(np.clip(u @ v / np.linalg.norm(u) / np.linalg.norm(v), -1, 1))
    p = permutation_p(y, "x", x=x, seed=seed, **{f"given{i}": c for i, c in enumerate(given)})
    low = high = math.nan
    if free > 0 and abs(r) < 1 - 1e-12:
        half = stats.norm.ppf((1 + level) / 2) * math.sqrt((1 + r * r / 2 if kind == "spearman" else 1) / free)
        low, high = math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half)
    return Interval(r, low, high, f"{kind} correlation, Fisher z; permutations", n, p=p)


def mixed_slope(y, x, family, *, within: bool = True, level: float = 0.95, **columns) -> Interval:
    """Mean slope of y on x over families whose intercepts and slopes differ, by restricted maximum likelihood.

    Parameters
    ----------
    y, x, family : array (n,)
        Each family has a random intercept and a random slope of x. The interval is Student's over families, with
        `families`, and the `deviation` of slopes between them.
    within : bool
        Take the family's mean from x and the columns, so that differences between families do not enter.
    **columns : array (n,)
        Further predictors, with one slope for all families.
    """
    table = pd.DataFrame({"y": y, "x": x, **columns, "family": np.asarray(family)}).dropna()
    families, names = table["family"].nunique(), ["x", *columns]
    if families < 3 or len(table) < families + len(names) + 2:
        raise NotEnough(f"slopes within families need 3 of several sets; found {families} of {len(table)}; add sets")
    table[names] -= table.groupby("family")[names].transform("mean") if within else 0.0
    fixed = _design(list(table[names].to_numpy(float).T), len(names) + 2, "a mixed model")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a spread of 0 lies on the boundary, of which statsmodels warns
        model = sm.MixedLM(table["y"].to_numpy(float), fixed, table["family"].to_numpy(), fixed[:, :2])
        found = model.fit(method=["powell"])  # others stop far from the maximum where intercepts differ widely
        slope, error, df = float(found.fe_params[1]), float(found.bse_fe[1]), families - 1
    half, p = stats.t.ppf((1 + level) / 2, df) * error, float(2 * stats.t.sf(abs(slope) / error, df))
    facts = {"p": p, "error": error, "df": df, "families": families}
    facts["deviation"] = math.sqrt(max(float(np.asarray(found.cov_re)[1, 1]), 0))
    return Interval(slope, slope - half, slope + half, "mixed model, t over families", len(table), **facts)


def holm(p_values) -> np.ndarray:
    """P-values adjusted by Holm, in the order given; NaN, a test that was not made, does not count.

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=np.float64)
    known, out = np.isfinite(p), np.full(p.shape, math.nan)
    if known.any():
        out[known] = multipletests(p[known], method="holm")[1]
    return out


def power(effect: float, deviation: float, families: int, *, terms: int = 1, alpha: float = 0.05) -> float:
    """Chance that a two-sided t test over families, with families - terms degrees of freedom, finds a true effect.

    For a mean: its size, the deviation between families, terms 1. For a correlation r with k columns held fixed: r,
    sqrt(1 - r^2) and 2 + k.
    """
    return float(TTestPower().power(effect / deviation, families, alpha, df=families - terms))


def families_needed(effect: float, deviation: float, *, reach: float = 0.8, **options) -> int:
    """Fewest families at which `power` is `reach`; 10,001 where 10,000 are too few."""
    sizes = range(options.get("terms", 1) + 1, 10_001)
    return next((n for n in sizes if power(effect, deviation, n, **options) >= reach), sizes.stop)


def leave_one_out(table: pd.DataFrame, statistic: Callable, by: str = "family") -> pd.DataFrame:
    """The statistic, an Interval or a number, of a table without each family in turn: left_out, value, low, high."""
    rows = []
    for name in table[by].unique():
        try:
            found = statistic(table[table[by] != name])
        except NotEnough:
            found = math.nan
        rows.append((name, float(found), getattr(found, "low", math.nan), getattr(found, "high", math.nan)))
    return pd.DataFrame(rows, columns=["left_out", "value", "low", "high"])
