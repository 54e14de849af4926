"""How often the procedures of the claims err: coverage of their intervals and false positives, by simulation.

Writes book/beyond/tables/procedures.json. Each case is stored as soon as it is done, and a case that is stored is not
done again: the script may be stopped and started at any time. About an hour on two cores in all.

usage: python benchmarks/claims_simulations.py [--draws N] [--frames N] [--output FILE]
"""

import argparse
import json
import math
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from scipy import stats

from intrinsic import images
from intrinsic.campaigns.records import write_text
from intrinsic.inference import forecast, statistics

sys.path.append(str(images.REPOSITORY / "tests"))
from simulated_runs import simulated
from test_forecast import simulated as simulated_curves

TABLE = images.REPOSITORY / "book" / "beyond" / "tables" / "procedures.json"
SETS = (8, 12, 16)
RHO = 0.6  # true correlation, and slope, of the elementary procedures
PERMUTATIONS = 999
SPREAD = 0.3  # standard deviation of effects between sets
EFFECTS = {  # claim: (argument of `simulated`, its value, the effect that the claim's test estimates)
    "data_dimension": ("excess", 0.4, 0.4),
    "sharpness_generalization": ("slope", 2.0, 2.0),
    "sharpness_robustness": ("fragility", 5.0, None),  # a correlation, whose true value is not the slope
    "representation_bound": ("ratio", -0.7, -0.7),
}


# ----------------------------------------------------------------------------------------- elementary procedures


def elementary(name, n_sets, draws):
    """(intervals, truth, p where nothing is) of one procedure on `draws` samples of n_sets sets."""
    x, noise = np.random.default_rng([n_sets, 7]).normal(size=(2, draws, n_sets))
    y, half = RHO * x + math.sqrt(1 - RHO**2) * noise, np.arange(n_sets) < n_sets // 2
    how = {"permutations": PERMUTATIONS}
    fits, truth, null = {
        "least-squares line": (lambda i: statistics.ols(x[i], y[i]), RHO, lambda i: statistics.ols(x[i], noise[i])),
        "Pearson r": (
            lambda i: statistics.correlation(x[i], y[i], permutations=1),
            RHO,
            lambda i: statistics.correlation(x[i], noise[i], **how),
        ),
        "Spearman r": (
            lambda i: statistics.correlation(x[i], y[i], "spearman", permutations=1),
            6 / math.pi * math.asin(RHO / 2),
            lambda i: statistics.correlation(x[i], noise[i], "spearman", **how),
        ),
        "mean over sets": (
            lambda i: statistics.mean_effect(1 + noise[i], permutations=1),
            1.0,
            lambda i: statistics.mean_effect(noise[i], **how),
        ),
        "difference of domains": (
            lambda i: statistics.group_difference(noise[i] + half, half, permutations=1),
            1.0,
            lambda i: statistics.group_difference(noise[i], half, **how),
        ),
    }[name]
    found = [fits(i) for i in range(draws)]
    return [(f.low, f.high) for f in found], truth, [null(i).p for i in range(draws)]


ELEMENTARY = ("least-squares line", "Pearson r", "Spearman r", "mean over sets", "difference of domains")


# -------------------------------------------------------------------------------------------- claims, from runs


def claim(name, n_sets, frames):
    """(intervals, truth, p where nothing is) of the primary test of one claim, from runs to the verdict's numbers."""
    argument, value, truth = EFFECTS[name]
    test = getattr(statistics, f"claim_{name}")

    def verdict(seed, **effects):
        frame = simulated(n_sets, seed, spread=SPREAD, models=2, **effects)
        return test(frame, permutations=PERMUTATIONS)

    null = [verdict(10_000 + seed) for seed in range(frames)]
    if truth is None:
        return [(v.low, v.high) for v in null], 0.0, [v.p for v in null]
    found = [verdict(seed, **{argument: value}) for seed in range(frames)]
    return [(v.low, v.high) for v in found], truth, [v.p for v in null]


def forecasts(n_sets, frames):
    """(prediction intervals of a loss at N = 1,750 known up to 250, in log less the truth; 0; nothing)"""
    found = []
    for seed in range(frames):
        runs, truth = simulated_curves(seed, sets=n_sets)
        one = forecast.pooled(runs, "s0", 1750)
        found.append((math.log(one.low / truth), math.log(one.high / truth)))
    return found, 0.0, []


# ----------------------------------------------------------------------------------------------------- the table


def share(hits):
    """(share, low, high) of a list of booleans, with the exact interval of Clopper and Pearson at 95 %."""
    k, n = int(np.sum(hits)), len(hits)
    test = stats.binomtest(k, n).proportion_ci(method="exact")
    return k / n, float(test.low), float(test.high)


def row(case):
    """One line of the table."""
    kind, name, n_sets, draws = case
    if kind == "forecast":
        intervals, truth, p = forecasts(n_sets, draws)
    else:
        intervals, truth, p = (elementary if kind == "elementary" else claim)(name, n_sets, draws)
    bounds = np.array(intervals, float)
    known = np.isfinite(bounds).all(axis=1)
    covered = share((bounds[known, 0] <= truth) & (truth <= bounds[known, 1]))
    out = {"kind": kind, "procedure": name, "n_sets": n_sets, "draws": draws, "without_interval": int((~known).sum())}
    out |= dict(zip(("coverage", "coverage_low", "coverage_high"), covered, strict=True))
    if p:
        false = share(np.array(p) <= statistics.ALPHA)
        out |= dict(zip(("false_positives", "false_low", "false_high"), false, strict=True))
    return out


def main():
    """Do the cases that the table lacks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=10_000, help="samples of an elementary procedure (10,000)")
    parser.add_argument("--frames", type=int, default=1_000, help="simulated campaigns of a claim (1,000)")
    parser.add_argument("--output", type=Path, default=TABLE)
    arguments = parser.parse_args()
    cases = [("elementary", name, n, arguments.draws) for name in ELEMENTARY for n in SETS]
    cases += [("claim", name, n, arguments.frames) for name in EFFECTS for n in SETS]
    cases += [("forecast", "pooled forecast", n, arguments.frames) for n in SETS]
    rows = json.loads(arguments.output.read_text())["rows"] if arguments.output.exists() else []
    order = {case: i for i, case in enumerate(cases)}

    def place(one):
        return order.get(tuple(one[key] for key in ("kind", "procedure", "n_sets", "draws")), len(cases))

    done = {cases[place(one)] for one in rows if place(one) < len(cases)}
    with ProcessPoolExecutor() as pool:
        for found in pool.map(row, [case for case in cases if case not in done]):
            same = ("kind", "procedure", "n_sets")  # with another number of draws
            rows = [one for one in rows if any(one[key] != found[key] for key in same)]
            rows.append(found)
            rows.sort(key=place)
            write_text(arguments.output, json.dumps({"rows": rows}, indent=1) + "\n")
            print({key: round(v, 4) if isinstance(v, float) else v for key, v in found.items()}, flush=True)


if __name__ == "__main__":
    main()
