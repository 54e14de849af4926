"""Coverage and bias of the dimension estimators: two tables of book/methods/dimension.ipynb.

    dimension_coverage.json   intervals against the Monte Carlo mean of the estimator, on manifolds
    dimension_bias.json       mean estimate against the true dimension, on the reference manifolds

usage: python benchmarks/dimension_simulations.py [coverage] [bias] [--small] [--output FOLDER]
"""

from itertools import chain

import numpy as np
from simulating import parser, publish, share, side_by_side

from intrinsic.images import manifolds
from intrinsic.properties import dimension
from intrinsic.properties.neighbors import neighbors

K = 20
COMMAND = "python benchmarks/dimension_simulations.py"


def gaussian(n, d, seed):
    """Independent normal coordinates."""
    return np.random.default_rng(seed).standard_normal((n, d))


def sphere(n, d, seed):
    """Uniform points on the unit sphere S^d."""
    points = np.random.default_rng(seed).standard_normal((n, d + 1))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def cube(n, d, seed):
    """Uniform points in the unit cube."""
    return np.random.default_rng(seed).random((n, d))


def torus_images(n, d, seed):
    """Images of a torus."""
    return manifolds.torus_images(n, d, size=16, seed=seed)[0]


def near_points(n, d, seed):
    """Groups of 5 near points: centers on a torus, each group with a scale and a dimension of its own."""
    rng = np.random.default_rng(seed)
    n_groups = n // 5
    radius = np.repeat(10.0 ** rng.uniform(-4, -1, n_groups), 5)[:, None]
    x = np.repeat(manifolds.flat_torus(n_groups, d, seed=seed), 5, axis=0)
    own = np.arange(2 * d) < np.repeat(rng.integers(1, 2 * d + 1, n_groups), 5)[:, None]
    return x + radius * rng.standard_normal(x.shape) * own


GROUPED, IGNORED = "groups of near points", "groups of near points, groups ignored"
CLOUDS = {"flat torus": manifolds.flat_torus, "sphere": sphere, "cube": cube, "Gaussian": gaussian}
CLOUDS |= {"torus images": torus_images, GROUPED: near_points, IGNORED: near_points}
CELLS = [("flat torus", d) for d in (1, 2, 5, 10, 20)]
CELLS += [("sphere", 3), ("cube", 5), ("Gaussian", 10), ("torus images", 4), (GROUPED, 3)]
SIMULATIONS = {200: 300, 500: 300, 1000: 150}
CASES = [(name, d, n, SIMULATIONS[n]) for name, d in CELLS for n in SIMULATIONS]
CASES += [(IGNORED, 3, n, 300) for n in (200, 500)]
CASES += [(name, d, 2000, 250) for name, d in (("flat torus", 5), ("torus images", 4), (GROUPED, 3))]

REFERENCES = {"flat_torus": manifolds.flat_torus, "cube": cube, "sphere": sphere}
SIZES, TRUE, SAMPLES = (500, 1000, 1750), range(1, 21), 10


def covered(name, d, n, simulations):
    """Two rows, of MLE and TwoNN: how many intervals hold the mean estimate of all simulations, and their width."""
    group, found = np.arange(n) // 5 if name == GROUPED else None, []
    for s in range(simulations):
        near = neighbors(CLOUDS[name](n, d, seed=1000 + s), K, group=group, reserve=dimension.reserve(K))
        both = dimension.mle_dimension(near, K), dimension.twonn_dimension(near)
        found.append([(float(one), one.low, one.high) for one in both])
    rows = []
    for (estimator, k), values in zip((("MLE", K), ("TwoNN", 2)), np.array(found).transpose(1, 2, 0), strict=True):
        value, low, high = values
        mean = value.mean()
        hits = share(int(((low <= mean) & (mean <= high)).sum()), simulations, "exact")
        facts = {"manifold": name, "d": d, "n": n, "k": k, "estimator": estimator, "simulations": simulations}
        facts |= {"expectation": float(mean), "sd_log": float(np.log(value).std(ddof=1))}
        facts |= {"half_width_log": float(np.mean(np.log(high / low)) / 2)}
        rows.append(facts | dict(zip(("coverage", "coverage_low", "coverage_high"), hits, strict=True)))
    return rows


def biased(name, d, n, samples):
    """Two rows, of MLE and TwoNN: the mean estimate over samples of a manifold of dimension d."""
    found = []
    for s in range(samples):
        seed = int(np.random.SeedSequence([40, 0, s, d, n]).generate_state(1)[0])
        near = neighbors(REFERENCES[name](n, d, seed=seed), K)
        both = dimension.mle_dimension(near, K, interval=False), dimension.twonn_dimension(near, interval=False)
        found.append([float(one) for one in both])
    rows = []
    for estimator, k, values in zip(("MLE", "TwoNN"), (K, 2), np.transpose(found), strict=True):
        mean, error = float(values.mean()), float(values.std(ddof=1) / samples**0.5)
        facts = {"manifold": name, "d": d, "n": n, "k": k, "estimator": estimator, "estimate": mean}
        facts |= {"standard_error": error, "low": mean - 2 * error, "high": mean + 2 * error}
        rows.append(facts | {"relative_bias": mean / d - 1})
    return rows


def main(argv=None):
    """Simulate, write."""
    made = parser(__doc__)
    made.add_argument("parts", nargs="*", metavar="PART", help="coverage, bias; both by default")
    chosen = made.parse_args(argv)
    parts = chosen.parts or ["coverage", "bias"]
    if strange := set(parts) - {"coverage", "bias"}:
        made.error(f"there is no part {strange.pop()}: the parts are coverage and bias")
    if "coverage" in parts:
        cases = [("flat torus", 2, 100, 4)] if chosen.small else CASES
        publish(
            chosen.output,
            "dimension_coverage",
            rows=list(chain(*side_by_side(covered, cases))),
            about="Share of 95 % intervals that hold the mean of the estimates over all simulations of the row; "
            "coverage_low and coverage_high: 95 %, Clopper and Pearson. sd_log: standard deviation of log d; "
            "half_width_log: mean half width of the intervals of log d.",
            command=f"{COMMAND} coverage",
            seeds="simulation s: seed 1000 + s of the cloud; seed 0 of the halvings",
        )
    if "bias" in parts:
        cases = [(name, d, n, SAMPLES) for n in SIZES for name in REFERENCES for d in TRUE]
        cases = cases[:1] if chosen.small else cases
        publish(
            chosen.output,
            "dimension_bias",
            rows=list(chain(*side_by_side(biased, cases))),
            about="Mean estimate over 10 samples of a manifold of dimension d, its standard error, low and high two "
            "standard errors away, and mean / d - 1. MLE: norm k-1, k = 20; TwoNN: line, discard 0.1.",
            command=f"{COMMAND} bias",
            seeds="sample s: SeedSequence([40, 0, s, d, n])",
        )


if __name__ == "__main__":
    main()
