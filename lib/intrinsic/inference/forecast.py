"""Test loss and accuracy at a larger N, from small runs pooled over image sets.

d_data and K_F of the forecast set are measured at M images a class of all its images, so of more labels than N may be.
"""

import math

import numpy as np
import pandas as pd
from scipy import linalg, optimize, stats

from intrinsic.inference.effects import NotEnough
from intrinsic.properties.interval import Interval

LEAST_POOLED = 5  # image sets, the forecast one among them
MAX_FOLD = 10  # beyond this multiple of a set's largest N nothing is forecast, nor below its smallest
AHEAD = (2, 5, 10)  # multiples of a set's largest N that are forecast where no size is named
LOSS, ERROR = "test_loss_nats", "test_error"  # what is forecast: nats, and a share


def _reach(sizes, target: str) -> tuple[int, int]:
    """Smallest and largest N at which a set with runs at these sizes is forecast."""
    if len(set(sizes)) < 2:
        raise NotEnough(f"{target} has runs at fewer than 2 sizes N, which give no slope; train it at one more N")
    return int(min(sizes)), MAX_FOLD * int(max(sizes))


def with_error(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs with test_error = (wrong + 1/2) / (n_test + 1), which has a logarithm where none is wrong."""
    wrong = (1 - runs["test_accuracy"]) * runs["n_test"]
    return runs.assign(**{ERROR: (wrong + 0.5) / (runs["n_test"] + 1)})


class Pooled:
    """The theory's form, partially pooled over image sets, by restricted maximum likelihood.

        log loss = a + b log K_F - (s / d_data) log N + u_set + v_set (log N - m) + e,    u, v, e normal

    `runs` has dataset, n_train, d_data, k_f and the outcome, all positive. Variances: Patterson & Thompson 1971;
    prediction: Henderson 1975.
    """

    def __init__(self, runs: pd.DataFrame, outcome: str = LOSS):
        self.names, self.values = runs["dataset"].to_numpy(), runs[["n_train", "d_data", "k_f"]].to_numpy(float)
        y, self.sets = np.log(runs[outcome].where(runs[outcome] > 0)).to_numpy(float), runs["dataset"].nunique()
        if not (np.isfinite(y).all() and (self.values > 0).all()):
            raise NotEnough(f"a run has {outcome}, d_data or k_f that is not above 0, without a logarithm; drop it")
        if self.sets < LEAST_POOLED:
            raise NotEnough(f"{self.sets} image sets are too few to pool over; give runs of at least {LEAST_POOLED}")
        self.middle, x = np.log(self.values[:, 0]).mean(), self._terms(self.values)
        t, self.of = (
            np.log(self.values[:, 0]) - self.middle,
            {name: self.names == name for name in dict.fromkeys(self.names)},
        )

        def solved(theta):  # the covariance has a block a set
            tau, omega, sigma = np.exp(2 * theta)
            factors, wx = {}, np.empty_like(x)
            for name, own in self.of.items():
                v = tau + omega * np.outer(t[own], t[own]) + sigma * np.eye(own.sum())
                factors[name] = linalg.cho_factor(v, lower=True)
                wx[own] = linalg.cho_solve(factors[name], x[own])
            beta = np.linalg.solve(x.T @ wx, wx.T @ y)
            return factors, x.T @ wx, beta, y - x @ beta

        def deviance(theta):
            factors, info, _, rest = solved(theta)
            out = np.linalg.slogdet(info)[1]
            for name, own in self.of.items():
                out += 2 * np.log(np.diag(factors[name][0])).sum() + rest[own] @ linalg.cho_solve(
                    factors[name], rest[own]
                )
            return out

        best = optimize.minimize(deviance, np.log([0.3, 0.1, 0.2]), method="L-BFGS-B", bounds=[(-6, 3)] * 3)
        self.x, self.t, self.variances = x, t, np.exp(2 * best.x)
        self.factors, self.info, self.beta, self.rest = solved(best.x)

    @staticmethod
    def _terms(values):
        n, d, k = values.T
        return np.column_stack([np.ones(len(n)), np.log(k), -np.log(n) / d])

    def at(self, target: str, n_train: float, *, n_runs: int = 1, level: float = 0.95) -> Interval:
        """Predict one set at n_train, with the interval of the geometric mean of n_runs runs."""
        own = self.of.get(target, self.names != self.names)
        least, most = _reach(self.values[own, 0], target)
        if not least <= n_train <= most:
            raise NotEnough(
                f"N = {n_train:g} is outside {least} to {most}, where {target} can be forecast; train nearer"
            )
        (tau, omega, sigma), t0 = self.variances, math.log(n_train) - self.middle
        x0, cov = self._terms(np.array([[n_train, *self.values[own][0, 1:]]]))[0], tau + omega * self.t[own] * t0
        weight = linalg.cho_solve(self.factors[target], cov)
        lack, mean = x0 - self.x[own].T @ weight, x0 @ self.beta + weight @ self.rest[own]
        variance = tau + omega * t0**2 + sigma / n_runs - cov @ weight + lack @ np.linalg.solve(self.info, lack)
        half = stats.t.ppf((1 + level) / 2, self.sets - 3) * math.sqrt(variance)
        return Interval(*np.exp([mean, mean - half, mean + half]), "pooled over sets; prediction", int(own.sum()))


def forecast(runs: pd.DataFrame, target: str, sizes=None, *, level: float = 0.95) -> pd.DataFrame:
    """Forecast test loss and accuracy of one image set at larger N.

    Parameters
    ----------
    runs : DataFrame
        dataset, n_train, test_loss_nats, test_accuracy, n_test, d_data, k_f and, for chance, n_classes.
    target : str
    sizes : sequence of int, optional
        By default AHEAD times the set's largest N.
    level : float
        Of the prediction intervals, which are those of one run.

    Returns
    -------
    DataFrame
        n_train, loss, loss_low, loss_high (nats), accuracy, accuracy_low, accuracy_high, informative: False where the
        interval of the accuracy reaches chance. `.attrs["left_out"]`: sizes too far from those trained.
    """
    least, most = _reach(runs.loc[runs["dataset"] == target, "n_train"], target)
    sizes = [fold * most // MAX_FOLD for fold in AHEAD] if sizes is None else sizes
    near = [n for n in sizes if least <= n <= most]
    if not near:
        raise NotEnough(f"N = {list(sizes)} are outside {least} to {most}, where {target} can be forecast; give others")
    worst, rows = _chance(runs, target), []
    models = [Pooled(with_error(runs), outcome) for outcome in (LOSS, ERROR)]
    for n in near:
        loss, error = (model.at(target, n, level=level) for model in models)
        row = {"n_train": n, "loss": float(loss), "loss_low": loss.low, "loss_high": loss.high}
        for end, e in (("", float(error)), ("_low", error.high), ("_high", error.low)):
            row[f"accuracy{end}"] = 1 - min(e, worst)
        rows.append(row | {"informative": error.high < worst})
    table = pd.DataFrame(rows)
    table.attrs["left_out"] = [n for n in sizes if n not in near]
    return table


def informative_from(runs: pd.DataFrame, target: str, n_train: float, *, level: float = 0.95) -> int | None:
    """How many training images one more run needs, so that the accuracy at n_train would be told from chance.

    Of the set's largest N doubled again and again, the first at which the interval leaves chance, if the run there
    comes out as forecast. None where none does, up to n_train: then the set itself is near chance.
    """
    runs, worst = with_error(runs), _chance(runs, target)
    own = runs[runs["dataset"] == target]
    n = 2 * int(own["n_train"].max())
    while n <= min(n_train, MAX_FOLD * own["n_train"].max()):
        expected = float(Pooled(runs, ERROR).at(target, n))
        run = own.iloc[[0]].assign(n_train=n, **{ERROR: expected})
        runs = pd.concat([runs, run], ignore_index=True)
        if Pooled(runs, ERROR).at(target, n_train, level=level).high < worst:
            return n
        n *= 2
    return None


def _chance(runs: pd.DataFrame, target: str) -> float:
    """Error of a guess, 1 - 1/C, where the runs have a column n_classes; else 1."""
    classes = runs.loc[runs["dataset"] == target, "n_classes"].iloc[0] if "n_classes" in runs else None
    return 1 - 1 / classes if classes and classes >= 2 else 1.0


def n_needed(runs: pd.DataFrame, target: str, value: float, *, outcome: str = LOSS, level: float = 0.95) -> Interval:
    """Smallest N, to 1 %, at which `Pooled` forecasts at most `value`: nats of loss, or with ERROR a share of errors.

    Its ends are where the ends of the prediction interval reach the value. The set's smallest N trained (`.smallest`)
    means at most that; infinity means more than `.largest`, MAX_FOLD times its largest.
    """
    runs = with_error(runs) if outcome == ERROR else runs
    smallest, largest = _reach(runs.loc[runs["dataset"] == target, "n_train"], target)
    if not 0 < value < (_chance(runs, target) if outcome == ERROR else math.inf):
        raise NotEnough(f"a target of {value:g} for {outcome} is not above 0 and better than chance; give another")
    steps = math.ceil(100 * math.log(largest / smallest)) + 1
    sizes, model = np.unique(np.geomspace(smallest, largest, steps).round()), Pooled(runs, outcome)
    found = [model.at(target, n, level=level) for n in sizes]
    reached = [next((n for n, e in zip(sizes, ends, strict=True) if e <= value), math.inf)
               for ends in ([float(f) for f in found], [f.low for f in found], [f.high for f in found])]  # fmt: skip
    return Interval(*reached, "where the forecast reaches the target", smallest=smallest, largest=largest)


def in_words(needed: Interval) -> str:
    """What `n_needed` found, as a number of labels with its interval."""
    most = f"more than {needed.largest:,}"
    if not math.isfinite(needed.low):
        return f"{most} labels, and so does its whole 95 % interval"
    ends = [(v, "at most " if v <= needed.smallest else "") for v in (float(needed), needed.low, needed.high)]
    value, low, high = (f"{words}{v:,.0f}" if math.isfinite(v) else most for v, words in ends)
    return f"{value} labels (95 % interval: {low} to {high})"
