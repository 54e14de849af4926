"""Coverage of the intervals of label sharpness, its control and its growth: the table of book/methods/sharpness.ipynb.

Writes book/methods/tables/sharpness_coverage.json.

usage: python benchmarks/sharpness_simulations.py [--small] [--output FOLDER]
"""

import math

import numpy as np
from simulating import parser, publish, share, side_by_side

from intrinsic.images import manifolds
from intrinsic.properties import growth, sharpness

SIMULATIONS = 120
TARGET_SEEDS = 100_000  # seeds of the samples that give the target; those of the intervals start at 0


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


# ---------------------------------------------------------------- estimators: {quantity: Interval}, whether in logs


def all_pairs(x, y, group, interval):
    """K_F of all pairs."""
    return {"all pairs": sharpness.label_sharpness(x, y, interval=interval, group=group)}, True


def mean_at_m(x, y, group, interval):
    """The mean at 100 a class."""
    return {"mean at M = 100": sharpness.mean_sharpness(x, y, 100, interval=interval, group=group)}, False


def quantiles(x, y, group, interval):
    """Quantiles of the nearest distances across."""
    found = sharpness.quantile_sharpness(x, y, interval=interval, group=group)
    return {f"quantile {one.quantile:g}": one for one in found}, True


def control(x, y, group, interval):
    """The same-label control, and the ratio to it."""
    found = sharpness.same_label_control(x, y, interval=interval, group=group)
    return {"control": found, "ratio to control": found.ratio}, True


def exponent(x, y, group, interval):
    """The slope of log K_F on log M."""
    return {"growth exponent": growth.growth_exponent(x, y, interval=interval, group=group)}, False


#: (estimator, sample, d, n, options of the sample); for the mean, n is a multiple of 2 M = 200 points
CASES = [
    *((all_pairs, overlapping, d, n, {}) for d in (1, 2, 5, 10) for n in (200, 600)),
    (all_pairs, mixed_scales, 5, 600, {}),
    *((all_pairs, slabs, 3, n, {}) for n in (200, 600)),
    (all_pairs, grouped, 5, 600, {}),
    (all_pairs, groups_ignored, 5, 600, {}),
    *((mean_at_m, overlapping, 2, n, {}) for n in (200, 400, 1000)),
    *((mean_at_m, overlapping, 5, n, {}) for n in (200, 400)),
    (mean_at_m, overlapping, 10, 400, {}),
    (mean_at_m, mixed_scales, 5, 400, {}),
    (mean_at_m, slabs, 3, 400, {}),
    (mean_at_m, grouped, 5, 600, {}),
    (mean_at_m, groups_ignored, 5, 600, {}),
    *((quantiles, overlapping, d, n, {}) for d in (2, 5) for n in (200, 600)),
    (quantiles, slabs, 3, 600, {}),
    (quantiles, grouped, 5, 600, {}),
    (quantiles, groups_ignored, 5, 600, {}),
    *((control, overlapping, d, 600, {}) for d in (2, 5)),
    (control, slabs, 3, 600, {}),
    *((exponent, overlapping, d, 600, {}) for d in (2, 4, 8)),
    (exponent, overlapping, 4, 300, {}),
    (exponent, slabs, 3, 600, {"gap": 0}),
    (exponent, slabs, 3, 600, {"gap": 0.3}),
    (exponent, sheets, 4, 600, {"gap": 0.3}),
    (exponent, mixed_scales, 5, 600, {}),
    (exponent, grouped, 5, 600, {}),
    (exponent, groups_ignored, 5, 600, {}),
]


def target(estimator, sample, d, n, options, simulations):
    """{quantity: (expectation, its standard error)} from other samples; in logs where the estimator says so."""
    values = {}
    for s in range(simulations):
        found, logs = estimator(*sample(n, d, TARGET_SEEDS + s, **options), interval=False)
        for what, one in found.items():
            values.setdefault(what, []).append(math.log(one) if logs else float(one))
    return {what: (np.mean(v), np.std(v, ddof=1) / math.sqrt(len(v))) for what, v in values.items()}


def coverage(estimator, sample, d, n, options, simulations):
    """Rows of one case: how often the interval holds the expectation, estimated from twice as many other samples."""
    whole = estimator is not mean_at_m or sample in (grouped, groups_ignored)  # else 2 M points have the same mean
    targets = target(estimator, sample, d, n if whole else 200, options, 2 * simulations)
    made = {what: [] for what in targets}
    for s in range(simulations):
        found, logs = estimator(*sample(n, d, s, **options), interval=True)
        for what, one in found.items():
            made[what] += [one] if math.isfinite(one.low) else []
    rows, ratio = [], estimator is not exponent
    for what, (mean, error) in targets.items():
        value, known = math.exp(mean) if logs else float(mean), made[what]
        slack = 1e-9 * abs(value)
        hits = sum(one.low - slack <= value <= one.high + slack for one in known)
        row = {"quantity": what, "sample": sample.__name__, "options": options, "d": d, "n": n, "target": value}
        row |= {"target_error": float(value * error if logs else error), "simulations": len(known)}
        row |= {"without_interval": simulations - len(known), "width_is": "high / low" if ratio else "high - low"}
        row |= {"coverage": None, "coverage_interval": None, "median_width": None}
        if known:
            row["coverage"], *row["coverage_interval"] = share(hits, len(known), "wilson")
            widths = [one.high / one.low if ratio else one.high - one.low for one in known]
            row["median_width"] = float(np.median(widths))
        rows.append(row)
    return rows


def main(argv=None):
    """Simulate, write."""
    chosen = parser(__doc__).parse_args(argv)
    cases, simulations = (CASES[:1], 4) if chosen.small else (CASES, SIMULATIONS)
    names = [f"{f.__name__} {sample.__name__} {d} {n} {options}" for f, sample, d, n, options in cases]
    found = side_by_side(coverage, [(*case, simulations) for case in cases])
    publish(
        chosen.output,
        "sharpness_coverage",
        cases=dict(zip(names, found, strict=True)),
        command="python benchmarks/sharpness_simulations.py",
        nominal=0.95,
        seeds=f"samples from 0, one after the other; targets, twice as many samples, from {TARGET_SEEDS} on",
        simulations=simulations,
    )


if __name__ == "__main__":
    main()
