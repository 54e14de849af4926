"""Test loss and accuracy at a larger N from small runs, d_data and K_F, pooled over image sets.

The forecast set's runs are small, but its d_data and K_F are not of few labels: they are measured at M images a class,
averaged over draws from all of its images, those of the test set included. Who has fewer labels has K_F at a smaller M
(`per_class`) only, where it is smaller and noisier, and has to measure every other set at that M too; no check of
forecasts, here or on the page, is of that case.
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import linalg, optimize, stats

from intrinsic.inference.statistics import MIN_SETS, SYNTHETIC, NotEnough, family_means, family_names, ols

LEAST_POOLED = 5  # image sets, the forecast one among them
METHODS = ("pooled", "own_power_law", "mean_curve")
MAX_FOLD = 10  # beyond this multiple of a set's largest N nothing is forecast, nor below its smallest
AHEAD = (2, 5, 10)  # multiples of a set's largest N that are forecast where no size is named
LOSS, ERROR = "test_loss_nats", "test_error"  # what is forecast, both positive and falling in N


@dataclass(frozen=True)
class Forecast:
    """A forecast (of LOSS in nats, of ERROR as a share), with its prediction interval at n_train.

    The interval is for one run, or for the geometric mean of as many as `pooled` was asked for.
    """

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


def error_of(accuracy: float, n_classes: float | None = None) -> float:
    """The test error of a target accuracy, 1 - accuracy, a share.

    n_classes   of the image set, where it is known: chance is 1 / n_classes on a balanced test set
    Raises NotEnough outside (0, 1), and where the target is not above chance.
    """
    if not 0 < accuracy < 1:
        raise NotEnough(f"a target accuracy of {accuracy:g} cannot be forecast; give one between 0 and 1")
    if n_classes and accuracy <= 1 / n_classes:
        raise NotEnough(
            f"a target accuracy of {accuracy:g} is not above chance, {1 / n_classes:.3g} with {n_classes:.0f} classes, "
            "and guessing needs no labels; give a higher one"
        )
    return 1 - accuracy


def _chance_error(own) -> float | None:
    """1 - 1 / n_classes, where the runs of a set have a column n_classes."""
    n_classes = own["n_classes"].iloc[0] if "n_classes" in own else None
    return 1 - 1 / n_classes if n_classes and n_classes >= 2 else None


def _terms(n_train, dimension, sharpness):
    """Fixed effects: constant, log K_F, -(log N) / d_data; shape (n, 3)."""
    n = np.asarray(n_train, float)
    return np.column_stack([np.ones(len(n)), np.log(sharpness), -np.log(n) / dimension])


def pooled(runs, target, n_train, level=0.95, outcome=LOSS, n_runs=1) -> Forecast:
    """Test loss, or another outcome, of image set `target` at n_train by the theory's form, partially pooled.

        log loss = a + b log K_F - (s / d_data) log N + u_set + v_set (log N - m) + e

    u, v, e normal; their variances by restricted maximum likelihood, the forecast is the best linear
    unbiased one, its interval counts the error of a, b, s, u and v, that of e by var(e) / n_runs, and uses
    t(G - 3) for G sets.
    runs     frame: dataset, n_train, the outcome, d_data, k_f (K_F at M images a class, per unit of L2)
    n_runs   the interval is for the geometric mean of so many runs at n_train
    Raises NotEnough for fewer than LEAST_POOLED sets, fewer than 2 sizes of the target, a value that is not
    positive and finite, or n_train below the target's smallest or beyond MAX_FOLD times its largest.
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
    if n_sets < LEAST_POOLED:
        raise NotEnough(f"{n_sets} image sets are too few to pool over; give runs of at least {LEAST_POOLED}")
    if n_train > MAX_FOLD * own[:, 0].max():
        raise NotEnough(
            f"N = {n_train:g} is beyond {MAX_FOLD} times the largest trained, {own[:, 0].max():g}; train at a larger N"
        )
    if not n_train >= own[:, 0].min():
        raise NotEnough(f"N = {n_train:g} is below the smallest trained, {own[:, 0].min():g}; train at a smaller N")
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
    variance = tau + omega * t0**2 + sigma / n_runs - cov @ weight + lack @ np.linalg.solve(info, lack)
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
    """Smallest whole N whose forecast is at most the target, with the ends of its interval.

    n_train, low, high   `smallest` means at most that, None more than `largest`
    smallest, largest    the target's smallest N trained, and MAX_FOLD times its largest
    """

    n_train: int | None
    low: int | None
    high: int | None
    smallest: int
    largest: int

    @property
    def bounds(self) -> dict[str, str]:
        """What n_train, low and high are each known to be: "= 410", "<= 62" or "> 2500"."""

        def bound(n):
            return f"> {self.largest}" if n is None else f"<= {n}" if n == self.smallest else f"= {n}"

        return {name: bound(getattr(self, name)) for name in ("n_train", "low", "high")}

    def __str__(self):
        said = {">": "more than ", "<=": "at most ", "=": ""}
        shown = [said[sign] + n for sign, n in (bound.split() for bound in self.bounds.values())]
        ends = "" if len(set(shown)) == 1 else f", interval from {shown[1]} to {shown[2]}"
        known = (self.n_train, self.low, self.high)
        notes = [f"{self.smallest} is the smallest N trained"] * (self.smallest in known)
        notes += [f"{self.largest} is {MAX_FOLD} times the largest"] * (None in known)
        return f"N: {shown[0]}{ends}" + (f" ({', '.join(notes)})" if notes else "")


def n_needed(runs, target, value, level=0.95, points=25, outcome=LOSS) -> Needed:
    """Smallest whole N at which `pooled` forecasts at most `value` (nats of loss, or error) for image set `target`.

    Its interval: the N at which the lower and the upper end of the prediction interval reach `value`.
    Searched on `points` sizes, equally spaced in log N, from the target's smallest N to MAX_FOLD times
    its largest, and rounded up; one that is not reached there is None, "more than N". Raises NotEnough as `pooled`.
    """
    if not (math.isfinite(value) and value > 0):
        raise NotEnough(f"a target of {value} has no logarithm; give a positive one")
    own = runs.loc[runs["dataset"] == target, "n_train"]
    _two_sizes(own, target)
    smallest, largest = int(own.min()), MAX_FOLD * int(own.max())
    sizes = np.geomspace(smallest, largest, points)
    sizes[0], sizes[-1] = smallest, largest  # geomspace may end a rounding beyond them
    forecasts = [pooled(runs, target, n, level, outcome) for n in sizes]

    def reached(values):
        below = np.flatnonzero(np.array(values) <= value)
        if not len(below):
            return None
        i = below[0]
        if i == 0:
            return smallest
        ends = np.log(values[i - 1 : i + 1])
        share = (ends[0] - math.log(value)) / (ends[0] - ends[1])
        return min(math.ceil(sizes[i - 1] * (sizes[i] / sizes[i - 1]) ** share), largest)

    middle, low, high = (reached([getattr(f, end) for f in forecasts]) for end in ("value", "low", "high"))
    return Needed(middle, low, high, smallest, largest)


def ahead(runs, target) -> list[int]:
    """The sizes N that are forecast where none is named: AHEAD times the largest of image set `target`."""
    largest = int(runs.loc[runs["dataset"] == target, "n_train"].max())
    return [fold * largest for fold in AHEAD]


def left_out(runs, target, sizes) -> list[tuple[int, str]]:
    """(N, reason) of the sizes at which nothing is forecast for image set `target`.

    They are those below its smallest N and beyond MAX_FOLD times its largest. Raises NotEnough for an N that is no
    positive number.
    """
    own = runs.loc[runs["dataset"] == target, "n_train"]
    found = []
    for n in dict.fromkeys(sizes):
        if not 1 <= n < math.inf:
            raise NotEnough(f"N = {n} is no number of training images, so nothing is known there; give 1 or more")
        if n > MAX_FOLD * own.max():
            found.append((n, f"more than {MAX_FOLD} times the largest N trained, {own.max():g}"))
        elif n < own.min():
            found.append((n, f"fewer than the smallest N trained, {own.min():g}"))
    return found


def table(runs, target, sizes=None, level=0.95) -> pd.DataFrame:
    """Forecasts of `pooled` for image set `target`, one row a size N; sizes None: `ahead`.

    Columns: n_train, loss, loss_low, loss_high (nats), accuracy, accuracy_low, accuracy_high. Sizes that `left_out`
    names are left out. Where the runs have a column n_classes, C, a forecast accuracy is at least 1/C, that of chance,
    and its lower end at least 1/C - z sqrt((1 - 1/C) / (C n_test)), what a guess gets on as many test images, with z
    the normal quantile of `level`. Raises NotEnough as `pooled` and `left_out`, and where no size is left.
    """
    runs = with_error(runs)
    own = runs[runs["dataset"] == target]
    _two_sizes(own["n_train"], target)
    sizes = list(dict.fromkeys(ahead(runs, target) if sizes is None else sizes))
    out = dict(left_out(runs, target, sizes))
    near = [n for n in sizes if n not in out]
    if not near:
        said = "; ".join(f"{n} is {why}" for n, why in out.items())
        raise NotEnough(f"no size asked for can be forecast ({said}); give others, or train there")
    worst, guess = 1.0, 0.0
    if (chance := _chance_error(own)) is not None:
        worst = chance
        guess = stats.norm.ppf((1 + level) / 2) * math.sqrt(chance * (1 - chance) / own["n_test"].median())
    rows = []
    for n in near:
        loss, error = (pooled(runs, target, n, level, outcome) for outcome in (LOSS, ERROR))
        value, high = (1 - min(one, worst) for one in (error.value, error.low))
        low = 1 - min(error.high, worst + guess, 1)
        rows.append({"n_train": n, "loss": loss.value, "loss_low": loss.low, "loss_high": loss.high,
                     "accuracy": value, "accuracy_low": low, "accuracy_high": high})  # fmt: skip
    return pd.DataFrame(rows)


def _real(table, exclude) -> pd.DataFrame:
    """The rows whose domain is not in `exclude`; all of them without a column domain."""
    return table[~table["domain"].isin(list(exclude))] if "domain" in table else table


def held_out(runs, n_train, small, outcome=LOSS, exclude=SYNTHETIC) -> pd.DataFrame:
    """Each image set in turn forecast at n_train from its runs at N <= small and all runs of other families.

    No run of another set of its own family (column `family`, where there is one) takes part, nor of a set of a domain
    in `exclude`. K_F and d_data of the forecast set are those of its properties record: of M images a class, drawn from
    all of its images, so of more labels than N where M n_classes is.
    One row a set that has runs at n_train and at two sizes up to `small`: dataset, domain and family where the frame
    has them; measured, the geometric mean of its runs at n_train; runs, their number; low and high of the pooled
    prediction interval of a mean of as many runs; inside, whether measured lies in it; runs_inside, how many of the
    runs lie in the interval of one run; for each of METHODS the forecast and its error, log(forecast / measured). A set
    is left out where fewer than LEAST_POOLED - 1 others remain. Raises NotEnough where there is none.
    """
    runs, rows, few = _real(runs, exclude), [], 0
    families = pd.Series(family_names(runs), index=runs.index)
    for name in runs["dataset"].unique():
        own = runs["dataset"] == name
        there = runs.loc[own & (runs["n_train"] == n_train), outcome]
        kept = own & (runs["n_train"] <= small)
        if not len(there) or runs.loc[kept, "n_train"].nunique() < 2:
            continue
        known = runs[kept | ~families.isin(families[own])]
        if known["dataset"].nunique() < LEAST_POOLED:
            few += 1
            continue
        measured = float(np.exp(np.log(there).mean()))
        one, found = (pooled(known, name, n_train, outcome=outcome, n_runs=n) for n in (1, len(there)))
        row = runs.loc[own, [c for c in ("dataset", "domain", "family") if c in runs]].iloc[0].to_dict()
        row |= {"measured": measured, "runs": len(there), "pooled": found.value, "low": found.low, "high": found.high}
        row["own_power_law"] = own_power_law(known, name, n_train, outcome)
        row["mean_curve"] = mean_curve(known, name, n_train, outcome)
        row["inside"] = found.low <= measured <= found.high
        row["runs_inside"] = int(there.between(one.low, one.high).sum())
        rows.append(row | {f"error_{method}": math.log(row[method] / measured) for method in METHODS})
    if not rows and few:
        raise NotEnough(
            f"fewer than {LEAST_POOLED} image sets are left to pool over where families are held back whole and "
            "constructed sets do not count; give runs of more families"
        )
    if not rows:
        raise NotEnough(
            f"no image set has runs at N = {n_train:g} and at two sizes up to {small:g}, so no forecast can be "
            "checked; complete a campaign that has them"
        )
    return pd.DataFrame(rows)


def coverage(table) -> dict[str, str]:
    """How many measured values of `held_out` lie in their prediction intervals: means_inside and runs_inside.

    means_inside counts means over the runs of a set in intervals of such means, runs_inside single runs in intervals of
    one run.
    """
    return {
        "means_inside": f"{table['inside'].sum()} of {len(table)}",
        "runs_inside": f"{table['runs_inside'].sum()} of {table['runs'].sum()}",
    }


def judged(table, level=0.95, exclude=SYNTHETIC) -> pd.DataFrame:
    """Size of the errors of `held_out` by method, and what the pooled form gains over each baseline.

    One row a method. |log error| is averaged over the sets of a family, and families count once (column `family`);
    sets of a domain in `exclude` do not count. sets, families: their numbers; mean_error: mean over families; gain:
    mean of (its |log error| - that of pooled), paired over families, with a t interval [low, high]; verdict: "pooled is
    better" where the interval lies above 0, "pooled is worse" below, else "undecided"; fewer than MIN_SETS families are
    "too few families". The row of pooled itself has neither.
    """
    table, rows = _real(table, exclude), []
    columns = [f"error_{method}" for method in METHODS]
    units, _ = family_means(table.assign(**table[columns].abs()))
    n = len(units)
    for method, column in zip(METHODS, columns, strict=True):
        gain = units[column] - units["error_pooled"] if method != "pooled" else pd.Series(dtype=float)
        half = stats.t.ppf((1 + level) / 2, n - 1) * gain.std(ddof=1) / math.sqrt(n) if n > 1 else math.nan
        low, high = gain.mean() - half, gain.mean() + half
        if method == "pooled":
            said = ""
        elif n < MIN_SETS:
            said = "too few families"
        else:
            said = "pooled is better" if low > 0 else "pooled is worse" if high < 0 else "undecided"
        rows.append({"method": method, "sets": len(table), "families": n, "mean_error": units[column].mean(),
                     "gain": gain.mean(), "low": low, "high": high, "verdict": said})  # fmt: skip
    return pd.DataFrame(rows)


def check(runs, steps) -> pd.DataFrame:
    """`judged` of `held_out` for each step (known up to N, forecast at N) and both outcomes, with its `coverage`.

    Columns before those of `judged`: known, forecast, outcome; after them those of `coverage`, in the row of the pooled
    form, whose intervals they are. A step that no set can be checked at has one row, whose verdict says why.
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
            pooled, *others = judged(found).to_dict("records")
            rows += [at | pooled | coverage(found), *(at | row for row in others)]
    return pd.DataFrame(rows)
