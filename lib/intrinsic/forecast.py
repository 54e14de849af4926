"""Test loss and accuracy at a larger N from small runs, d_data and K_F, pooled over image sets."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import linalg, optimize, stats

from intrinsic.statistics import NotEnough, ols

LEAST_SETS = 8  # from which a comparison of methods is more than an illustration
METHODS = ("pooled", "own_power_law", "mean_curve")
MAX_FOLD = 10  # beyond this multiple of a set's largest N nothing is forecast
LOSS, ERROR = "test_loss_nats", "test_error"  # what is forecast, both positive and falling in N


@dataclass(frozen=True)
class Forecast:
    """A forecast (of LOSS in nats, of ERROR as a share), with its prediction interval for one run at n_train."""

    n_train: float
    value: float
    low: float
    high: float


def with_error(runs) -> pd.DataFrame:
    """The runs with a column test_error = (wrong + 1/2) / (n_test + 1), which has a logarithm where none is wrong.

    runs   frame: test_accuracy and n_test, the images that it was counted on
    """
    wrong = (1 - runs["test_accuracy"]) * runs["n_test"]
    return runs.assign(**{ERROR: (wrong + 0.5) / (runs["n_test"] + 1)})


def error_of(accuracy: float) -> float:
    """The test error of a target accuracy; raises NotEnough outside (0, 1)."""
    if not 0 < accuracy < 1:
        raise NotEnough(f"a target accuracy of {accuracy:g} cannot be forecast; give one between 0 and 1")
    return 1 - accuracy


def _terms(n_train, dimension, sharpness):
    """Fixed effects: constant, log K_F, -(log N) / d_data; shape (n, 3)."""
    n = np.asarray(n_train, float)
    return np.column_stack([np.ones(len(n)), np.log(sharpness), -np.log(n) / dimension])


def pooled(runs, target, n_train, level=0.95, outcome=LOSS) -> Forecast:
    """Test loss, or another outcome, of image set `target` at n_train by the theory's form, partially pooled.

        log loss = a + b log K_F - (s / d_data) log N + u_set + v_set (log N - m) + e

    u, v, e normal; their variances by restricted maximum likelihood, the forecast is the best linear
    unbiased one, its interval counts the error of a, b, s, u, v and e and uses t(G - 3) for G sets.
    runs   frame: dataset, n_train, the outcome, d_data, k_f (K_F at M images a class, per unit of L2)
    Raises NotEnough for fewer than 5 sets, fewer than 2 sizes of the target, a value that is not
    positive and finite, or n_train beyond MAX_FOLD times the target's largest.
    Source: Henderson 1975 (prediction); Patterson & Thompson 1971 (restricted likelihood).
    """
    columns = ["n_train", outcome, "d_data", "k_f"]
    values = runs[columns].to_numpy(float)
    if not (np.isfinite(values) & (values > 0)).all():
        raise NotEnough("a run has a value that is not positive and finite, whose logarithm is undefined; drop it")
    names = runs["dataset"].to_numpy()
    own = values[names == target]
    n_sets = len(set(names))
    _two_sizes(own[:, 0], target)
    if n_sets < 5:
        raise NotEnough(f"{n_sets} image sets are too few to pool over; give runs of at least 5")
    if n_train > MAX_FOLD * own[:, 0].max():
        raise NotEnough(
            f"N = {n_train:g} is beyond {MAX_FOLD} times the largest trained, {own[:, 0].max():g}; train at a larger N"
        )
    x = _terms(values[:, 0], values[:, 2], values[:, 3])
    y = np.log(values[:, 1])
    middle = np.log(values[:, 0]).mean()
    t = np.log(values[:, 0]) - middle
    same = names[:, None] == names[None, :]

    def solved(theta):
        tau, omega, sigma = np.exp(2 * theta)
        v = same * (tau + omega * np.outer(t, t)) + sigma * np.eye(len(y))
        factor = linalg.cho_factor(v, lower=True)
        vx = linalg.cho_solve(factor, x)
        info = x.T @ vx
        beta = np.linalg.solve(info, vx.T @ y)
        rest = y - x @ beta
        return factor, vx, info, beta, rest

    def deviance(theta):
        factor, _, info, _, rest = solved(theta)
        logs = 2 * np.log(np.diag(factor[0])).sum() + np.linalg.slogdet(info)[1]
        return logs + rest @ linalg.cho_solve(factor, rest)

    best = optimize.minimize(deviance, np.log([0.3, 0.1, 0.2]), method="L-BFGS-B", bounds=[(-6, 3)] * 3)
    tau, omega, sigma = np.exp(2 * best.x)
    factor, _, info, beta, rest = solved(best.x)
    t0 = math.log(n_train) - middle
    x0 = _terms([n_train], own[:1, 2], own[:1, 3])[0]
    cov = (names == target) * (tau + omega * t * t0)
    weight = linalg.cho_solve(factor, cov)
    lack = x0 - x.T @ weight
    mean = x0 @ beta + weight @ rest
    variance = tau + omega * t0**2 + sigma - cov @ weight + lack @ np.linalg.solve(info, lack)
    half = stats.t.ppf((1 + level) / 2, n_sets - 3) * math.sqrt(variance)
    return Forecast(n_train, *np.exp([mean, mean - half, mean + half]).tolist())


def own_power_law(runs, target, n_train, outcome=LOSS) -> float:
    """Baseline: log outcome = a - b log N by least squares on the runs of `target` alone.

    Raises NotEnough where they have fewer than 2 sizes N.
    """
    return _power_law(runs[runs["dataset"] == target], n_train, outcome, target)


def mean_curve(runs, target, n_train, outcome=LOSS) -> float:
    """Baseline: log outcome = a - b log N by least squares on the runs of all image sets but `target`.

    Raises NotEnough where they have fewer than 2 sizes N.
    """
    return _power_law(runs[runs["dataset"] != target], n_train, outcome, f"all but {target}")


def _power_law(runs, n_train, outcome, whose: str) -> float:
    _two_sizes(runs["n_train"], whose)
    fit = ols(np.log(runs["n_train"]), np.log(runs[outcome]))
    return float(np.exp(fit.intercept + fit.slope * math.log(n_train)))


def _two_sizes(sizes, whose: str) -> None:
    if len(np.unique(sizes)) < 2:
        raise NotEnough(f"{whose} has runs at fewer than 2 sizes N, which give no slope; train it at one more N")


@dataclass(frozen=True)
class Needed:
    """Smallest N whose forecast is at most the target: `smallest` means at most that, None more than `largest`."""

    n_train: float | None
    low: float | None
    high: float | None
    smallest: float
    largest: float

    def __str__(self):
        def shown(n):
            if n is None:
                return f"more than {self.largest:.0f}"
            return f"at most {n:.0f}" if n == self.smallest else f"{n:.0f}"

        return f"N: {shown(self.n_train)}, interval from {shown(self.low)} to {shown(self.high)}"


def n_needed(runs, target, value, level=0.95, points=25, outcome=LOSS) -> Needed:
    """Smallest N at which `pooled` forecasts at most `value` (nats of loss, or error) for image set `target`.

    Its interval: the N at which the lower and the upper end of the prediction interval reach `value`.
    Searched on `points` sizes, equally spaced in log N, from the target's smallest N to MAX_FOLD times
    its largest; one that is not reached there is None, "more than N". Raises NotEnough as `pooled`.
    """
    if not (math.isfinite(value) and value > 0):
        raise NotEnough(f"a target of {value} has no logarithm; give a positive one")
    own = runs.loc[runs["dataset"] == target, "n_train"]
    _two_sizes(own, target)
    largest = MAX_FOLD * float(own.max())
    sizes = np.geomspace(own.min(), largest, points)
    sizes[-1] = largest  # geomspace may end a rounding beyond it
    forecasts = [pooled(runs, target, n, level, outcome) for n in sizes]

    def reached(values):
        below = np.flatnonzero(np.array(values) <= value)
        if not len(below):
            return None
        i = below[0]
        if i == 0:
            return float(sizes[0])
        ends = np.log(values[i - 1 : i + 1])
        share = (ends[0] - math.log(value)) / (ends[0] - ends[1])
        return float(sizes[i - 1] * (sizes[i] / sizes[i - 1]) ** share)

    middle, low, high = (reached([getattr(f, end) for f in forecasts]) for end in ("value", "low", "high"))
    return Needed(middle, low, high, float(sizes[0]), largest)


def table(runs, target, sizes, level=0.95) -> pd.DataFrame:
    """Forecasts of `pooled` for image set `target`, one row a size N.

    Columns: n_train, loss, loss_low, loss_high (nats), accuracy, accuracy_low, accuracy_high. Sizes beyond MAX_FOLD
    times the target's largest are left out. Raises NotEnough as `pooled`, and where no size is left.
    """
    runs = with_error(runs)
    own = runs.loc[runs["dataset"] == target, "n_train"]
    _two_sizes(own, target)
    near = [n for n in sizes if n <= MAX_FOLD * own.max()]
    if not near:
        raise NotEnough(f"every size asked for is more than {MAX_FOLD} times the largest trained, {own.max():g}")
    rows = []
    for n in near:
        loss, error = (pooled(runs, target, n, level, outcome) for outcome in (LOSS, ERROR))
        value, high, low = (max(1 - one, 0.0) for one in (error.value, error.low, error.high))
        rows.append({"n_train": n, "loss": loss.value, "loss_low": loss.low, "loss_high": loss.high,
                     "accuracy": value, "accuracy_low": low, "accuracy_high": high})  # fmt: skip
    return pd.DataFrame(rows)


def held_out(runs, n_train, small, outcome=LOSS) -> pd.DataFrame:
    """Each image set in turn forecast at n_train from its runs at N <= small and all runs of the other sets.

    One row a set that has runs at n_train and at two sizes up to `small`: dataset, domain where the frame has it,
    measured (geometric mean of its runs at n_train), low and high of the pooled prediction interval, inside, and
    for each of METHODS the forecast and its error, log(forecast / measured). Raises NotEnough where there is none.
    """
    rows = []
    for name in runs["dataset"].unique():
        own = runs["dataset"] == name
        there = runs.loc[own & (runs["n_train"] == n_train), outcome]
        known = runs[~own | (runs["n_train"] <= small)]
        if not len(there) or known.loc[known["dataset"] == name, "n_train"].nunique() < 2:
            continue
        measured = float(np.exp(np.log(there).mean()))
        found = pooled(known, name, n_train, outcome=outcome)
        row = {"dataset": name, "measured": measured, "pooled": found.value, "low": found.low, "high": found.high}
        if "domain" in runs:
            row["domain"] = runs.loc[own, "domain"].iloc[0]
        row["own_power_law"] = own_power_law(known, name, n_train, outcome)
        row["mean_curve"] = mean_curve(known, name, n_train, outcome)
        row["inside"] = found.low <= measured <= found.high
        rows.append(row | {f"error_{method}": math.log(row[method] / measured) for method in METHODS})
    if not rows:
        raise NotEnough(
            f"no image set has runs at N = {n_train:g} and at two sizes up to {small:g}, so no forecast can be "
            "checked; complete a campaign that has them"
        )
    return pd.DataFrame(rows)


def judged(table, level=0.95) -> pd.DataFrame:
    """Size of the errors of `held_out` by method, and what the pooled form gains over each baseline.

    One row a method: mean_error, mean |log error| over sets; gain, mean of (its |log error| - that of pooled), paired
    over sets, with a t interval [low, high]; verdict: "pooled is better" where the interval lies above 0, "pooled is
    worse" below, else "undecided"; fewer than LEAST_SETS sets are "too few sets".
    """
    rows, n = [], len(table)
    ours = table["error_pooled"].abs()
    for method in METHODS:
        errors = table[f"error_{method}"].abs()
        gain = errors - ours
        half = stats.t.ppf((1 + level) / 2, n - 1) * gain.std(ddof=1) / math.sqrt(n) if n > 1 else math.nan
        low, high = gain.mean() - half, gain.mean() + half
        if method == "pooled":
            said = ""
        elif n < LEAST_SETS:
            said = "too few sets"
        else:
            said = "pooled is better" if low > 0 else "pooled is worse" if high < 0 else "undecided"
        rows.append({"method": method, "sets": n, "mean_error": errors.mean(), "gain": gain.mean(), "low": low,
                     "high": high, "verdict": said})  # fmt: skip
    return pd.DataFrame(rows)


def check(runs, steps) -> pd.DataFrame:
    """`judged` of `held_out` for each step (known up to N, forecast at N) and both outcomes, with its coverage.

    Columns before those of `judged`: known, forecast, outcome; after them, inside: how many measured values lie in
    the pooled prediction interval. A step that no set can be checked at has one row, whose verdict says why.
    """
    runs, rows = with_error(runs), []
    for small, n_train in steps:
        for outcome in (LOSS, ERROR):
            at = {"known": small, "forecast": n_train, "outcome": outcome}
            try:
                found = held_out(runs, n_train, small, outcome)
            except NotEnough as error:
                rows.append(at | {"verdict": str(error)})
                continue
            inside = f"{found['inside'].sum()} of {len(found)}"
            rows += [at | row | {"inside": inside} for row in judged(found).to_dict("records")]
    return pd.DataFrame(rows)
