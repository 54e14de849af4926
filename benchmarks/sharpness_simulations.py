"""How far the intervals and limits of label sharpness can be trusted: coverage, measured by simulation.

Writes book/methods/tables/sharpness_coverage.json (intervals) and sharpness_limit.json (the upper limit for 1 / gap).
Each case is stored as soon as it is done, and a case that is stored is not done again: the script may be stopped and
started at any time. Some twenty minutes on one core in all.

usage: python benchmarks/sharpness_simulations.py [--seconds S] [--simulations N] [--folder FOLDER]
"""

import argparse
import json
import math
import platform
import time
from pathlib import Path

import numpy as np
import scipy

from intrinsic import images
from intrinsic.campaigns.records import write_text
from intrinsic.images import manifolds
from intrinsic.properties import sharpness

TABLES = images.REPOSITORY / "book" / "methods" / "tables"
TARGET_SEEDS = 100_000  # seeds of the samples that give the target; those of the intervals start at 0
LIMIT_SEEDS = 200_000  # seeds of the limit's samples: others than those that its rule was chosen with


# ------------------------------------------------------------------------------------------------- samples


def overlapping(n, d, seed):
    """Uniform points in a cube, labels independent of position."""
    return *manifolds.overlapping_clouds(n, d, seed), None


def mixed_scales(n, d, seed):
    """Gaussian clouds of scales 1, 1/3 and 1/10 on one center, labels independent of position."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)) * 3.0 ** -rng.integers(0, 3, (n, 1)), np.arange(n) % 2, None


def slabs(n, d, seed, gap=0.1):
    """Two unit cubes of dimension d, a slab of width `gap` between them; gap 0: they touch."""
    x, y = np.random.default_rng(seed).random((n, d)), np.arange(n) % 2
    x[:, 0] += (1 + gap) * y
    return x, y, None


def sheets(n, d, seed, gap=0.1):
    """Two parallel unit cubes of dimension d in d + 1, a distance `gap` apart, with independent points."""
    x, y = np.random.default_rng(seed).random((n, d)), np.arange(n) % 2
    return np.column_stack([x, gap * y]), y, None


def noisy(n, d, seed, ambient=50, noise=0.02):
    """Overlapping classes of dimension d with Gaussian noise in 50 coordinates."""
    x, y = manifolds.overlapping_clouds(n, d, seed)
    x = np.column_stack([x, np.zeros((n, ambient - d))])
    return x + noise * np.random.default_rng([seed, 1]).standard_normal(x.shape), y, None


def wrong_labels(n, d, seed, gap=0.3, share=0.01):
    """Slabs with a share of the labels changed, which closes the gap."""
    x, y, _ = slabs(n, d, seed, gap)
    wrong = np.random.default_rng([seed, 1]).permutation(n)[: round(share * n)]
    y = y.copy()
    y[wrong] = 1 - y[wrong]
    return x, y, None


def tails(n, d, seed, apart=4):
    """Two Gaussian clouds, 4 standard deviations apart: hardly a pair near, and no gap."""
    x, y = np.random.default_rng(seed).standard_normal((n, d)), np.arange(n) % 2
    x[:, 0] += apart * y
    return x, y, None


def grouped(n, d, seed):
    """Groups of six points near one another, one label each."""
    rng = np.random.default_rng(seed)
    x = np.repeat(rng.random((n // 6, d)), 6, axis=0)
    group = np.repeat(np.arange(n // 6), 6)
    return x + 0.03 * rng.standard_normal(x.shape), group % 2, group


def groups_ignored(n, d, seed):
    """The same, without saying so to the estimator."""
    x, y, _ = grouped(n, d, seed)
    return x, y, None


SAMPLES = {
    f.__name__: f
    for f in (overlapping, mixed_scales, slabs, sheets, noisy, wrong_labels, tails, grouped, groups_ignored)
}


# ------------------------------------------------------------------------------------------------ estimators


def all_pairs(x, y, group, interval):
    return {"all pairs": sharpness.label_sharpness(x, y, interval=interval, group=group)}, np.log


def mean_at_m(x, y, group, interval, per_class=100):
    return {"mean at M = 100": sharpness.mean_sharpness(x, y, per_class, interval=interval, group=group)}, None


def quantiles(x, y, group, interval):
    found = sharpness.quantile_sharpness(x, y, interval=interval, group=group)
    return {f"quantile {one.quantile:g}": one for one in found}, np.log


def control(x, y, group, interval):
    found = sharpness.same_label_control(x, y, interval=interval, group=group)
    return {"control": found, "ratio to control": found.ratio}, np.log


def exponent(x, y, group, interval):
    return {"growth exponent": sharpness.growth_exponent(x, y, interval=interval, group=group)}, None


#: (estimator, sample, d, n, options of the sample); for the mean, n is a multiple of 2 M = 200 points
CASES = [
    *((all_pairs, "overlapping", d, n, {}) for d in (1, 2, 5, 10) for n in (200, 600)),
    (all_pairs, "mixed_scales", 5, 600, {}),
    *((all_pairs, "slabs", 3, n, {}) for n in (200, 600)),
    (all_pairs, "grouped", 5, 600, {}),
    (all_pairs, "groups_ignored", 5, 600, {}),
    *((mean_at_m, "overlapping", 2, n, {}) for n in (200, 400, 1000)),
    *((mean_at_m, "overlapping", 5, n, {}) for n in (200, 400)),
    (mean_at_m, "overlapping", 10, 400, {}),
    (mean_at_m, "mixed_scales", 5, 400, {}),
    (mean_at_m, "slabs", 3, 400, {}),
    (mean_at_m, "grouped", 5, 600, {}),
    (mean_at_m, "groups_ignored", 5, 600, {}),
    *((quantiles, "overlapping", d, n, {}) for d in (2, 5) for n in (200, 600)),
    (quantiles, "slabs", 3, 600, {}),
    (quantiles, "grouped", 5, 600, {}),
    (quantiles, "groups_ignored", 5, 600, {}),
    *((control, "overlapping", d, 600, {}) for d in (2, 5)),
    (control, "slabs", 3, 600, {}),
    *((exponent, "overlapping", d, 600, {}) for d in (2, 4, 8)),
    (exponent, "overlapping", 4, 300, {}),
    (exponent, "slabs", 3, 600, {"gap": 0}),
    (exponent, "slabs", 3, 600, {"gap": 0.3}),
    (exponent, "sheets", 4, 600, {"gap": 0.3}),
    (exponent, "mixed_scales", 5, 600, {}),
    (exponent, "grouped", 5, 600, {}),
    (exponent, "groups_ignored", 5, 600, {}),
]

LIMITS = [
    *(("overlapping", d, 400, {}) for d in (1, 2, 3, 5, 8)),
    *(("slabs", d, 400, {"gap": g}) for d in (1, 2, 3, 5, 8) for g in (0, 0.1, 0.3, 1.0)),
    *(("sheets", d, 400, {"gap": g}) for d in (2, 3, 5, 8) for g in (0.1, 0.3)),
    *(("noisy", d, 400, {}) for d in (2, 5)),
    *(("wrong_labels", d, 400, {"share": 0.02}) for d in (2, 5)),
    *(("tails", d, 400, {}) for d in (2, 5)),
    *(("overlapping", d, 1000, {}) for d in (1, 2, 5)),
    *(("slabs", d, 1000, {"gap": g}) for d in (2, 5) for g in (0, 0.3)),
]


# --------------------------------------------------------------------------------------------------- running


def wilson(hits, n):
    """95 % interval of a share, by Wilson's score."""
    z, p = 1.959964, hits / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return [round((middle - half) / (1 + z * z / n), 4), round((middle + half) / (1 + z * z / n), 4)]


def coverage(estimator, name, d, n, options, simulations):
    """Rows of one case: how often the interval holds the expectation, estimated from other samples."""
    sample = SAMPLES[name]
    size, target_n = n, n
    if estimator is mean_at_m:
        target_n = 200 if name not in ("grouped", "groups_ignored") else n
    values = {}
    for s in range(2 * simulations):
        x, y, group = sample(target_n, d, TARGET_SEEDS + s, **options)
        found, log = estimator(x, y, group, interval=False)
        for what, one in found.items():
            values.setdefault(what, []).append(math.log(one) if log else float(one))
    targets = {what: (np.mean(v), np.std(v, ddof=1) / math.sqrt(len(v))) for what, v in values.items()}
    inside, width, none = {}, {}, dict.fromkeys(targets, 0)
    for s in range(simulations):
        x, y, group = sample(size, d, s, **options)
        found, log = estimator(x, y, group, interval=True)
        for what, one in found.items():
            if not math.isfinite(one.low):
                none[what] += 1
                continue
            target = math.exp(targets[what][0]) if log else targets[what][0]
            slack = 1e-9 * abs(target)
            inside.setdefault(what, []).append(one.low - slack <= target <= one.high + slack)
            width.setdefault(what, []).append(
                one.high / one.low if log or estimator is mean_at_m else one.high - one.low
            )
    rows = []
    for what, (mean, error) in targets.items():
        hits = inside.get(what, [])
        rows.append(
            {
                "quantity": what,
                "sample": name,
                "options": options,
                "d": d,
                "n": n,
                "target": round(float(math.exp(mean) if log else mean), 6),
                "target_error": round(float(math.exp(mean) * error if log else error), 6),
                "simulations": len(hits),
                "without_interval": none[what],
                "coverage": round(float(np.mean(hits)), 4) if hits else None,
                "coverage_interval": wilson(sum(hits), len(hits)) if hits else None,
                "median_width": round(float(np.median(width[what])), 4) if hits else None,
                "width_is": "high - low" if estimator is exponent else "high / low",
            }
        )
    return rows


def limit(name, d, n, options, simulations):
    """One row: how often the upper limit holds 1 / gap, an infinite one included, and how often it is finite."""
    closed = name in ("overlapping", "noisy", "wrong_labels", "tails")
    gap = 0.0 if closed else options["gap"]
    truth = 1 / gap if gap else math.inf
    highs, refused = [], {"dimension": 0, "control": 0}
    for s in range(simulations):
        x, y, group = SAMPLES[name](n, d, LIMIT_SEEDS + s, **options)
        found = sharpness.sharpness_limit(x, y, group=group)
        highs.append(found.high)
        refused["dimension"] += found.reason.startswith("dimension")
        refused["control"] += found.reason.startswith("what is excluded")
    highs = np.array(highs)
    finite, holds = np.isfinite(highs), highs >= truth * (1 - 1e-9)
    return {
        "sample": name,
        "options": options,
        "d": d,
        "n": n,
        "gap": gap,
        "truth": None if gap == 0 else round(truth, 6),
        "simulations": simulations,
        "coverage": round(float(holds.mean()), 4),
        "coverage_interval": wilson(int(holds.sum()), simulations),
        "identified": round(float(finite.mean()), 4),
        "coverage_where_identified": round(float(holds[finite].mean()), 4) if finite.any() else None,
        "median_limit_over_truth": round(float(np.median(highs[finite] / truth)), 4) if finite.any() and gap else None,
        "refused_for_dimension": refused["dimension"],
        "refused_by_control": refused["control"],
    }


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))["cases"] if path.exists() else {}


def write(path, cases, simulations, first):
    body = {
        "cases": cases,
        "command": "python benchmarks/sharpness_simulations.py",
        "nominal": 0.95,
        "seeds": f"samples from {first}, one after the other; targets, twice as many samples, from {TARGET_SEEDS} on",
        "simulations": simulations,
        "versions": {"numpy": np.__version__, "python": platform.python_version(), "scipy": scipy.__version__},
    }
    write_text(path, json.dumps(body, sort_keys=True, indent=1, allow_nan=False) + "\n")


def _key(case):
    return " ".join(str(getattr(part, "__name__", part)) for part in case)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=math.inf, help="start no further case after so many seconds")
    parser.add_argument("--simulations", type=int, default=120, help="samples a case of intervals (120)")
    parser.add_argument("--limit-simulations", type=int, default=200, help="samples a case of the limit (200)")
    parser.add_argument("--folder", type=Path, default=TABLES, help="where the tables go")
    arguments = parser.parse_args()
    started = time.monotonic()
    tasks = [("sharpness_limit.json", limit, case, arguments.limit_simulations) for case in LIMITS]
    tasks += [("sharpness_coverage.json", coverage, case, arguments.simulations) for case in CASES]
    known = {_key(case) for _, _, case, _ in tasks}
    left = 0
    for file, work, case, simulations in tasks:
        path = arguments.folder / file
        cases = {key: value for key, value in read(path).items() if key in known}
        key = _key(case)
        if key in cases:
            continue
        if time.monotonic() - started > arguments.seconds:
            left += 1
            continue
        begun = time.monotonic()
        cases[key] = work(*case, simulations)
        write(path, cases, simulations, LIMIT_SEEDS if work is limit else 0)
        print(f"{time.monotonic() - begun:6.1f} s  {key}", flush=True)
    print(f"{left} cases are left" if left else "all cases are done")


if __name__ == "__main__":
    main()
