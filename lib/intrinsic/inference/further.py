"""Further tests, beyond the four claims: one family, stated in params/further.yaml, that decides no claim's verdict.

Each test names a table, two of its columns and a statistic; `verdicts` makes the Verdict of each by the rules of
`statistics.Verdict` and adjusts p by Holm over this family alone. What the tables lack is said in the Verdict's
notes, with the command that makes it. `smallest_effect` and its kin say what could be seen at all.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache

import numpy as np
import pandas as pd
import yaml
from scipy import stats

from intrinsic import images
from intrinsic.campaigns import campaign
from intrinsic.images.rules import LabelRule
from intrinsic.inference.statistics import (
    ALPHA,
    MIN_SETS,
    MONTE_CARLO,
    SYNTHETIC,
    Effect,
    NoRecords,
    NotEnough,
    StatisticsError,
    Verdict,
    WrongClaims,
    amended,
    amendments,
    correlation,
    excess_exponents,
    family_means,
    holm,
    informed_sets,
    log_ratios,
    mean_effect,
    ols,
    power_difference,
    power_mean,
    set_levels,
    set_means,
    tested,
    usable,
    verdict_table,
    where_comparable,
    with_all_runs,
    with_means,
)
from intrinsic.properties import dimension, measurement, sharpness, theory

PARAMETERS = "params/beyond.yaml"  # the campaign that makes every column on embedded sets
FRAMES = ("runs", "layers", "settings", "classes")
SKDIM = ("lPCA", "CorrInt", "FisherS", "MOM", "TLE")  # of scikit-dimension, besides MLE and TwoNN
LOSS_SLOPE = {"test_error": theory.loss_slope("error")}  # K_L, where it is not 1
MOST_POINTS = 500  # of one image set that scikit-dimension's estimators are given


class WrongTests(StatisticsError):
    """params/further.yaml states a test that cannot be computed."""


# ------------------------------------------------------------------------------------------- the tests


@dataclass(frozen=True)
class FurtherTest:
    """One test of the family, as params/further.yaml states it."""

    claim: str
    hypothesis: str
    frame: str
    statistic: str
    outcome: str
    predictor: str
    margin: float | None
    quantity: str
    side: int
    claimed: float | None
    alpha: float
    amended: tuple[dict, ...] = ()

    def stated(self) -> dict:
        """Fields of a Verdict: the texts of test and rules follow from statistic, side, claimed and alpha."""
        towards, away = ("above", "below") if self.side > 0 else ("below", "above")
        supported, refuted = (f"the whole interval lies {side} 0 and p <= {self.alpha:g}." for side in (towards, away))
        if self.statistic == "excess":
            sample = (
                " The sets are those about which the bound says anything (theory.least_bound); with fewer than "
                f"{MIN_SETS} families of them nothing is decided."
            )
            supported, refuted = supported + sample, f"{refuted} A bound is refuted from below only.{sample}"
        if self.claimed is not None:
            refuted = (
                f"the interval reaches 0 and excludes {self.claimed:g}: no effect is seen, and one of that size is "
                "ruled out. An interval that holds both leaves it undecided."
            )
        how = STATISTICS[self.statistic][0].format(margin=self.margin or 0)
        return {
            "claim": self.claim,
            "hypothesis": self.hypothesis,
            "test": f"{how}; {self.outcome} with {self.predictor}. A further test: it decides no verdict of the four "
            "claims, p by Holm over the further tests.",
            "quantity": self.quantity,
            "supported_if": supported,
            "refuted_if": refuted,
            "side": self.side,
            "claimed": self.claimed,
            "alpha": self.alpha,
            "primary": False,
        } | amended(self.amended)


def read_further_tests(path) -> dict[str, FurtherTest]:
    """The tests of a file like params/further.yaml: name -> FurtherTest.

    Raises WrongTests where a key is missing or unknown, or has a value for which no test is computed.
    """
    with open(path, encoding="utf-8") as file:
        body = yaml.safe_load(file)
    remedy = f"; compare {path} with params/further.yaml"
    if not isinstance(body, dict) or not body:
        raise WrongTests(f"no test is stated, so nothing could be decided{remedy}")
    keys, found = {f.name for f in fields(FurtherTest)}, {}
    for name, value in body.items():
        entry = value if isinstance(value, dict) else {}
        if odd := sorted(keys ^ (set(entry) | {"amended"})):
            raise WrongTests(f"{name}: {', '.join(odd)} is missing or unknown, so its test is not fixed{remedy}")
        one = FurtherTest(**entry | {"amended": tuple(entry.get("amended", ()))})
        try:
            amendments(one.amended)
        except WrongClaims as error:
            raise WrongTests(f"{name}: {error}{remedy}") from None
        allowed = {"frame": FRAMES, "statistic": tuple(STATISTICS), "side": (1, -1)}
        for key, values in allowed.items():
            if getattr(one, key) not in values:
                choice = ", ".join(map(str, values))
                raise WrongTests(f"{name}: {key} is {getattr(one, key)!r}, and computed are {choice}{remedy}")
        if not (isinstance(one.alpha, float) and 0 < one.alpha < 1):
            raise WrongTests(f"{name}: alpha is {one.alpha!r}, which is no level between 0 and 1{remedy}")
        with_margin = one.statistic in ("ratio", "excess")
        if with_margin != isinstance(one.margin, float) or (one.margin or 1) <= 0:
            raise WrongTests(
                f"{name}: margin is {one.margin!r}; a ratio and an excess have one, above 0, and others none{remedy}"
            )
        if one.side < 0 and one.claimed is not None:
            raise WrongTests(f"{name}: a size is claimed of a negative effect; invert the outcome{remedy}")
        found[name] = one
    return found


@lru_cache(maxsize=1)
def further_tests() -> dict[str, FurtherTest]:
    """The further tests of this book, from params/further.yaml."""
    return read_further_tests(images.REPOSITORY / "params" / "further.yaml")


# ------------------------------------------------------------------------------------------- statistics
#
# Each takes (runs or rows that can enter, test) to (one row a unit, notes, runs used), then that table to its effect.


def _as_dimension(runs, test):
    """Runs whose d_data is the test's predictor."""
    runs = runs.drop(columns=[c for c in ("d_data_low", "d_data_high") if c in runs.columns])
    return runs.assign(d_data=runs[test.predictor])


def _excess_sets(runs, test):
    """One row a set; families are averaged once it is known which sets count."""
    table = excess_exponents(_as_dimension(runs, test), test.outcome, test.margin)
    return table, [], int(table["n_runs"].sum())


def _level_sets(runs, test, log):
    def sets_of(part):
        if part.empty:
            return pd.DataFrame({"dataset": [], "x": [], "y": []}), []
        table = set_levels(part, test.outcome, log=log).rename(columns={"level": "y"})
        table = with_means(table, part, [test.predictor]).rename(columns={test.predictor: "x"})
        if log:
            table["x"] = np.log(table["x"])
        return family_means(table)

    return where_comparable(sets_of, runs)


def _within_sets(runs, test):
    """One row a family of at least two tasks: its slope of log outcome on log predictor, n_tasks."""
    columns = {"dataset": [], "slope": [], "n_tasks": []}
    family = runs["family"] if "family" in runs.columns else runs["dataset"]
    family = family.where(family.notna(), runs["dataset"]).astype(str)
    rows, used, single = [], 0, []
    for name, tasks in runs.groupby(family.to_numpy(), sort=False):
        x = np.log(set_means(tasks, [test.predictor])[test.predictor].to_numpy(float))
        if len(x) < 2 or not np.ptp(x) > 0:
            single.append(str(name))
            continue
        try:
            levels = set_levels(tasks.drop(columns="family", errors="ignore"), test.outcome, log=True)
        except NotEnough:
            single.append(str(name))
            continue
        slope = ols(x, levels["level"]).slope
        rows.append({"dataset": name, "slope": slope, "n_tasks": len(x), "n_runs": len(tasks)})
        used += len(tasks)
    several = "sets" if len(single) > 1 else "set"
    notes = [f"{len(single)} {several} without a second comparable task on the same images"] if single else []
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns), notes, used


def _ratio_sets(runs, test):
    if runs.empty:
        return pd.DataFrame({"dataset": [], "log_ratio": []}), [], 0
    ratios, _ = log_ratios(runs, test.outcome, test.predictor)
    ratios["log_ratio"] -= math.log(test.margin)
    table, notes = family_means(set_means(ratios, ["log_ratio", test.outcome, test.predictor]))
    return table, notes, len(ratios)


def _rank_sets(rows, test):
    keep = [c for c in ("dataset", "domain", "family", test.outcome, test.predictor) if c in rows.columns]
    table, notes = family_means(rows[keep])
    return table, notes, len(rows)


def _line(table, test, permutations):
    fit = ols(table["x"], table["y"])
    p = correlation(table["x"], table["y"], permutations=permutations)
    return Effect(fit.slope, fit.low, fit.high, p.p, p.smallest_p, fit.n, "slope over sets")


STATISTICS = {  # name -> (in words, sets of runs, effect of sets)
    "excess": (
        "Exponent of the outcome in N less {margin:g}/predictor, models averaged, mean over image sets; t interval and "
        "sign flips",
        _excess_sets,
        lambda table, test, n: mean_effect(table["excess"], permutations=n),
    ),
    "slope": (
        "Slope of the log outcome (effects of model and log N taken out) on the log predictor between image sets; t "
        "interval and permutation test",
        lambda runs, test: _level_sets(runs, test, True),
        _line,
    ),
    "correlation": (
        "Pearson correlation over image sets of the outcome (effects of model and log N taken out) with the "
        "predictor; Fisher z interval and permutation test",
        lambda runs, test: _level_sets(runs, test, False),
        lambda table, test, n: correlation(table["x"], table["y"], permutations=n),
    ),
    "rank": (
        "Rank correlation of the two over image sets, sets of one family averaged; Fisher z interval and "
        "permutation test",
        _rank_sets,
        lambda table, test, n: correlation(table[test.predictor], table[test.outcome], "spearman", permutations=n),
    ),
    "within": (
        "Slope of the log outcome (effects of model and log N taken out) on the log predictor between tasks on the "
        "same images, mean over families of images; t interval and sign flips",
        _within_sets,
        lambda table, test, n: mean_effect(table["slope"], permutations=n),
    ),
    "ratio": (
        "Mean over image sets of log(outcome / predictor) less the log of the margin, paired within runs, models "
        "averaged; t interval and sign flips",
        _ratio_sets,
        lambda table, test, n: mean_effect(table["log_ratio"], permutations=n),
    ),
}
_TABLES = ("settings", "classes")  # one row a set; the others hold runs


def _build(test, frame, *, fitted_only, exclude, permutations) -> Verdict:
    pair = [test.outcome, test.predictor]
    positive = [] if test.statistic in ("correlation", "rank") else pair
    rows, notes = usable(frame, pair, positive=positive, fitted_only=fitted_only, exclude=exclude)
    _, sets_of, effect_of = STATISTICS[test.statistic]
    table, more, n_runs = sets_of(rows, test)
    testable, beside = True, {}
    if test.statistic == "excess":
        table, testable, beside = informed_sets(table, permutations, LOSS_SLOPE.get(test.outcome, 1.0))
        table, more = family_means(table)
        n_runs = int(table["n_runs"].sum())
    return Verdict(
        **test.stated(),
        testable=testable,
        beside=beside,
        n_runs=n_runs,
        fitted_only=fitted_only,
        notes=(*notes, *more),
        **tested(
            table,
            lambda sets: effect_of(sets, test, permutations),
            lambda sets: effect_of(sets, test, 1),
        ),
    )


def _without_records(test, frame, fitted_only) -> Verdict:
    """The verdict where the table has no such column or no row: no set, and what would make it."""
    lacking = [c for c in (test.outcome, test.predictor) if frame is None or c not in frame.columns]
    what = f"no record holds {', '.join(lacking)}" if lacking else f"the table of {test.frame} holds no row with both"
    note = f"{what}; made by: intrinsic run {PARAMETERS}, and shown with its parameters"
    nothing = dict.fromkeys(("effect", "low", "high", "p", "smallest_p"), math.nan)
    counted = "image set" if test.frame in _TABLES else "run"
    return Verdict(
        **test.stated(), **nothing, n_sets=0, n_runs=0, notes=(note,), fitted_only=fitted_only, counted=counted
    )


def verdict(
    name: str,
    frame: pd.DataFrame | None,
    *,
    fitted_only: bool = True,
    exclude: Sequence[str] = SYNTHETIC,
    permutations: int = MONTE_CARLO,
) -> Verdict:
    """The Verdict of one further test from its table, p not yet adjusted.

    name    of params/further.yaml
    frame   the table that the test names: runs (campaign.runs_frame with `derived`), layers (`layer_pairs`), settings
            (`setting_pairs`) or classes (`class_table`)
    A table without the columns gives a Verdict of no sets whose notes name them and the command that makes them.
    Raises WrongTests for a name that is not stated.
    """
    if name not in further_tests():
        raise WrongTests(f"there is no further test {name!r}; stated are {', '.join(further_tests())}")
    test = further_tests()[name]
    if frame is None or frame.empty or not {test.outcome, test.predictor} <= set(frame.columns):
        return _without_records(test, frame, fitted_only)

    def build(part, **options):
        return _build(test, part, permutations=permutations, **options)

    if test.frame in _TABLES:
        known = frame.dropna(subset=[test.outcome, test.predictor])
        if known.empty:
            return _without_records(test, frame, fitted_only)
        found = build(known, fitted_only=False, exclude=exclude)
        lacking = len(frame) - len(known)
        notes = (*found.notes, f"{lacking} sets of which one of the two is not known") if lacking else found.notes
        return replace(found, notes=notes, counted="image set")
    return with_all_runs(build, frame, fitted_only, exclude=exclude)


def verdicts(frames: dict[str, pd.DataFrame], **options) -> dict[str, Verdict]:
    """The Verdicts of all further tests, p adjusted by Holm over those with MIN_SETS sets or more: name -> Verdict.

    Tests with fewer sets decide nothing whatever their p, so they take part in no adjustment (p_holm None).
    frames   name of a table -> table, as `frames` gives them; options: those of `verdict`
    """
    found = {name: verdict(name, frames.get(test.frame), **options) for name, test in further_tests().items()}
    adjusted = holm([v.p if v.n_sets >= MIN_SETS else math.nan for v in found.values()])
    return {
        name: replace(v, p_holm=float(p) if math.isfinite(p) else None)
        for (name, v), p in zip(found.items(), adjusted, strict=True)
    }


def stated(names: Sequence[str]) -> pd.DataFrame:
    """What was written down before: claim, hypothesis, supported if, refuted if, one row a test."""
    rows = [further_tests()[name].stated() for name in names]
    return pd.DataFrame(rows)[["claim", "hypothesis", "supported_if", "refuted_if"]]


def summary(found: dict[str, Verdict], names: Sequence[str] | None = None) -> pd.DataFrame:
    """One row a test: claim, verdict, effect, interval, claimed (size; none of a bound), p, p_holm (over the family),
    sets, counted (runs or what else the values are of), the ends of the effect with one set left out, and what the
    verdict does not say, where there is anything."""
    chosen = found if names is None else {name: found[name] for name in names}
    table = verdict_table(chosen)
    more = {
        "claimed": [math.nan if one.claimed is None else one.claimed for one in chosen.values()],
        "counted": [one.of for one in chosen.values()],
        "note": ["; ".join(one.caveats) for one in chosen.values()],
    }
    columns = ["claim", "verdict", "effect", "low", "high", "claimed", "p", "p_holm", "n_sets", "counted"]
    columns += ["loo_low", "loo_high", *(["note"] if any(more["note"]) else [])]
    return table.assign(**more)[columns]


def published_summary(names: Sequence[str] | None = None) -> pd.DataFrame:
    """`summary` of the same tests over the published records of real image sets, whatever the page's campaign."""
    return summary(_published_verdicts(), names)


@lru_cache(maxsize=1)
def _published_verdicts() -> dict[str, Verdict]:
    return verdicts(frames(pilot().params))


# ---------------------------------------------------------------------------------------------- tables


def derived(runs: pd.DataFrame) -> pd.DataFrame:
    """Runs with the columns that the tests compute from others.

    test_error = 1 - test_accuracy,    inverse_radius = 1 / median minimal L2 radius of the images that the network has
    right without an attack (over all images the median is 0 where half are wrong)
    """
    runs = runs.copy()
    if "test_accuracy" in runs.columns:
        runs["test_error"] = 1 - runs["test_accuracy"]
    if "radius_l2_median_correct" in runs.columns:
        radius = pd.to_numeric(runs["radius_l2_median_correct"], errors="coerce")
        runs["inverse_radius"] = 1 / radius.where(radius > 0)
    return runs


def layer_pairs(layers: pd.DataFrame) -> pd.DataFrame:
    """One row a run from one row a layer: d_repr_first, d_repr_last, d_repr_largest, d_data_same_images.

    layers   as campaign.layers_frame; last is the paper's layer, largest the largest of all blocks stored
    """
    keys = ["dataset", "family", "domain", "model", "n_train", "seed", "fitted"]
    if layers.empty:
        return pd.DataFrame()
    rows = []
    for key, run in layers.groupby(keys, sort=False, observed=True, dropna=False):
        known = run.dropna(subset="d_repr").sort_values("depth")
        last = known[known["is_last"]]
        if len(known) < 2 or last.empty:
            continue
        row = dict(zip(keys, key, strict=True))
        row |= {"d_repr_first": known["d_repr"].iloc[0], "d_repr_last": last["d_repr"].iloc[0]}
        row |= {"d_repr_largest": known["d_repr"].max(), "d_data_same_images": known["d_data_same_images"].iloc[0]}
        rows.append(row | {"largest_at": known.loc[known["d_repr"].idxmax(), "layer"]})
    return pd.DataFrame(rows)


def _embedded(p) -> list[str]:
    """The campaign's image sets that are part of an installed package, so that they are measured in seconds."""
    inside = ("digits", "photo_patches", "brain_patches", "torus_images", "slab_images")
    entries = images.catalogue()
    return [name for name in p.datasets if name in entries and entries[name].adapter in inside]


def _facts(entry, name) -> dict:
    return {"dataset": name, "family": entry.family or name, "domain": entry.domain}


def settings(p, *, measure: bool = True) -> pd.DataFrame:
    """K_F and d_data of image sets at several sizes and channels: one row a set and setting.

        dataset, family, domain, size, channels, per_class, k_f, d_data, d_data_twonn, source

    What is stored (campaign.stored_properties, source "record") at any size; with `measure`, embedded sets also at
    p.sizes in p.channels, and color ones at p.size in grey and in color (source "here"): M = p.per_class, or the
    smallest class, p.draws draws from at most 2 M images a class, without intervals. Class pairs of
    the color sets in the published table of sharpness (source "table": K_F alone) where its M is p.per_class.
    """
    rows = []
    stored = campaign.stored_properties(p)
    columns = ["dataset", "family", "domain", "size", "channels", "per_class", "k_f", "d_data", "d_data_twonn"]
    if not stored.empty:
        rows += stored[columns].assign(source="record").to_dict("records")
    known = {(r["dataset"], r["size"], r["channels"]) for r in rows}
    for name in _embedded(p) if measure else []:
        entry = images.catalogue()[name]
        wanted = dict.fromkeys((size, p.channels) for size in (*p.sizes, p.size))
        if entry.adapter == "photo_patches":
            wanted |= dict.fromkeys([(p.size, 1), (p.size, 3)])
        for size, channels in wanted:
            if (name, size, channels) in known:
                continue
            rows.append(_facts(entry, name) | _measured(name, p, size, channels) | {"source": "here"})
    return pd.DataFrame([*rows, *_colour_pairs(p)])


def _measured(name, p, size, channels) -> dict:
    data = images.load(name, size=size, channels=channels, pixel_range=p.pixel_range)
    data = data.drop_duplicates(conflicting=True)
    m = min(p.per_class, *data.counts().values())
    data = data[images.balanced_draws(data.labels, min(2 * m, *data.counts().values()), 1, 0)[0]]
    options = {"per_class": m, "draws": p.draws, "interval": False}
    d, twonn = dimension.mean_dimensions(data, k=p.k, **options)
    k_f = sharpness.mean_sharpness(data, **options)
    row = {"size": size, "channels": channels, "per_class": m}
    return row | {"k_f": float(k_f), "d_data": float(d), "d_data_twonn": float(twonn)}


def _colour_pairs(p) -> list[dict]:
    found = measurement.published_table("sharpness_image_sets")
    if found["per_class"] != p.per_class or found["draws"] != p.draws:
        return []
    rows = []
    for key, pairs in found["measured"].items():
        if key.startswith("color "):
            family = key.removeprefix("color ")
            for pair, by_channels in pairs.items():
                row = {"dataset": f"{family}: {pair}", "family": family, "domain": "natural", "size": 32}
                for channels, value in by_channels.items():
                    more = {"channels": int(channels), "per_class": p.per_class, "k_f": value[0], "source": "table"}
                    rows.append(row | more)
    return rows


def setting_pairs(rows: pd.DataFrame) -> pd.DataFrame:
    """One row an image set with both of two settings side by side: k_f_small, k_f_large, d_data_small, d_data_large,
    size_small, size_large, and k_f_grey, k_f_colour, d_data_grey, d_data_colour.

    rows   as `settings`. The two sizes are the pair that most sets have (real ones, one a family); of equal pairs the
           one with the largest ratio. For color: the largest size at which both are known of a set.
    """
    if rows.empty:
        return pd.DataFrame()
    keys = [c for c in ("dataset", "family", "domain") if c in rows.columns]
    sized = rows.dropna(subset="d_data") if "d_data" in rows.columns else rows
    base = sized.sort_values("channels").drop_duplicates(["dataset", "size"])
    out = rows[keys].drop_duplicates("dataset").set_index("dataset")
    counted = base[~base["domain"].isin(SYNTHETIC)] if "domain" in base.columns else base
    counted = counted.drop_duplicates(["family", "size"] if "family" in keys else ["dataset", "size"])
    have = counted.groupby("size")[keys[1] if "family" in keys else "dataset"].agg(set)
    pairs = [(a, b) for a in have.index for b in have.index if a < b]
    if pairs:
        small, large = max(pairs, key=lambda ab: (len(have[ab[0]] & have[ab[1]]), ab[1] / ab[0]))
        for end, size in (("small", small), ("large", large)):
            at = base[base["size"] == size].set_index("dataset")
            for column in ("k_f", "d_data"):
                out[f"{column}_{end}"] = at[column].reindex(out.index)
            out[f"size_{end}"] = size
    both = rows.groupby(["dataset", "size"])["channels"].agg(set).map({1, 3}.issubset)
    colored = both[both].reset_index().sort_values("size").drop_duplicates("dataset", keep="last")
    for end, channels in (("grey", 1), ("colour", 3)):
        at = rows[rows["channels"] == channels].merge(colored[["dataset", "size"]], on=["dataset", "size"])
        at = at.drop_duplicates("dataset").set_index("dataset")
        for column in ("k_f", "d_data"):
            if column in at.columns:
                out[f"{column}_{end}"] = at[column].reindex(out.index)
    return out.reset_index()


def with_all_classes(name: str, size=None, channels=None, pixel_range="stored"):
    """The image set `name` with every class that its pictures have, before pairs or merging by the catalogue."""
    entry = images.catalogue()[name]
    plain = entry.model_copy(update={"labels": LabelRule()})
    data = images.load(plain, size=size, channels=channels, pixel_range=pixel_range)
    return data.drop_duplicates(conflicting=True)


def class_table(p) -> pd.DataFrame:
    """Several classes beside their pairs, of embedded image sets with three classes or more: one row a family.

        dataset, family, domain, n_classes, per_class, k_f_several, k_f_pairs, k_f_sharpest_pair, k_f_ordered

    k_f_several   mean over draws of M images a class of K_F over all classes, any two labels 1 apart
    k_f_pairs     mean over class pairs of their K_F at the same M; k_f_sharpest_pair: the largest of them
    k_f_ordered   with |y - y'| in place of 1, where class names are numbers
    """
    rows, seen = [], set()
    for name in dict.fromkeys([*_embedded(p), "digits"]):  # that one needs no download and has ten
        entry = images.catalogue()[name]
        if (family := entry.family or name) in seen:
            continue
        seen.add(family)
        data = with_all_classes(name, p.size, p.channels, p.pixel_range)
        if len(data.counts()) < 3:
            continue
        rows.append(_facts(entry, family) | several_classes(data, per_class=p.per_class, draws=p.draws))
    return pd.DataFrame(rows)


def several_classes(data, *, per_class=250, draws=25, seed=0) -> dict:
    """n_classes, per_class and the four K_F of `class_table` for one ImageSet; k_f_ordered nan without numbers."""
    m = min(per_class, *data.counts().values())
    pairs = sharpness.class_pair_sharpness(data, per_class=m, draws=draws, seed=seed).sharpness
    off = pairs[np.triu_indices(len(pairs), 1)]
    several = sharpness.mean_sharpness(data, per_class=m, draws=draws, seed=seed, interval=False)
    row = {"n_classes": len(pairs), "per_class": m, "k_f_several": float(several)}
    row |= {"k_f_pairs": float(off.mean()), "k_f_sharpest_pair": float(off.max()), "k_f_ordered": math.nan}
    if all(name.strip().lstrip("-").isdigit() for name in data.classes):
        grades = np.array(data.classes, dtype=float)
        apart = np.abs(grades[:, None] - grades)[np.ix_(*[np.unique(data.labels)] * 2)]
        chosen = images.balanced_draws(data.labels, m, draws, seed)
        found = [sharpness.class_pair_sharpness(data[draw]).sharpness * apart for draw in chosen]
        row["k_f_ordered"] = float(np.max(found, axis=(1, 2)).mean())
    return row


def number_of_classes(data, *, per_class=100, draws=10, seed=0) -> pd.DataFrame:
    """K_F of C random classes at M images a class, C = 2 ... all: one row a C.

    Classes are drawn at random, then M images of each; columns n_classes, k_f (mean over draws), low and high (its 95 %
    normal interval over draws, which share images and classes: too narrow), n_pairs of classes.
    """
    rng = np.random.default_rng(seed)
    labels = np.unique(data.labels)
    m = min(per_class, *data.counts().values())
    members = {c: np.flatnonzero(data.labels == c) for c in labels}
    rows = []
    for n_classes in range(2, len(labels) + 1):
        values = []
        for _ in range(draws):
            picked = rng.choice(labels, n_classes, replace=False)
            chosen = np.concatenate([rng.choice(members[c], m, replace=False) for c in picked])
            values.append(float(sharpness.label_sharpness(data[chosen], interval=False)))
        half = stats.norm.ppf(0.975) * np.std(values, ddof=1) / math.sqrt(draws)
        mean = float(np.mean(values))
        row = {"n_classes": n_classes, "n_pairs": math.comb(n_classes, 2), "k_f": mean}
        rows.append(row | {"low": mean - half, "high": mean + half})
    return pd.DataFrame(rows)


def frames(p, measure: Sequence[str] = ()) -> dict[str, pd.DataFrame]:
    """The tables of all further tests for a campaign: runs, layers, settings, classes.

    measure   of "settings" and "classes": for these, embedded image sets are also measured here, in seconds; the others
              come from records and published tables alone
    Where no run is stored, runs is empty and the tests that need it say so.
    """
    try:
        runs = derived(campaign.runs_frame(p))
    except campaign.CampaignError:
        if p.compute:
            raise
        runs = pd.DataFrame()
    return {
        "runs": runs,
        "layers": layer_pairs(campaign.layers_frame(p)),
        "settings": setting_pairs(settings(p, measure="settings" in measure)),
        "classes": class_table(p) if "classes" in measure else pd.DataFrame(),
    }


def other_estimators(p, estimators: Sequence[str] = SKDIM, seed: int = 0) -> pd.DataFrame:
    """Dimension of image sets by several estimators, one row each: dataset, family, domain, estimator, d, source.

    MLE and TwoNN of every set in the records (source "record", at M = p.per_class); of embedded sets also all of
    `estimators` of scikit-dimension, with MLE and TwoNN again, on the same MOST_POINTS balanced images at most (source
    "here"). An estimator that fails has no d.
    """
    rows = []
    properties = campaign.properties_frame(p)
    for row in properties.to_dict("records"):
        facts = {key: row[key] for key in ("dataset", "family", "domain")} | {"source": "record"}
        rows += [facts | {"estimator": one, "d": row[c]} for one, c in (("MLE", "d_data"), ("TwoNN", "d_data_twonn"))]
    for name in _embedded(p):
        entry = images.catalogue()[name]
        data = images.load(name, size=p.size, channels=p.channels, pixel_range=p.pixel_range).drop_duplicates()
        m = min(MOST_POINTS // len(data.counts()), *data.counts().values())
        data = data[images.balanced_draws(data.labels, m, 1, seed)[0]]
        found = {"MLE": dimension.mle_dimension(data, p.k, interval=False)}
        found["TwoNN"] = dimension.twonn_dimension(data, interval=False)
        for one in estimators:
            try:
                found[one] = dimension.other_dimension(data, one, seed=seed)
            except dimension.EstimatorFailed:
                found[one] = math.nan
        facts = _facts(entry, name) | {"source": "here"}
        rows += [facts | {"estimator": one, "d": float(d)} for one, d in found.items()]
    return pd.DataFrame(rows)


def by_estimator(rows: pd.DataFrame) -> pd.DataFrame:
    """One row an image set and source, a column an estimator, from the rows of `other_estimators`."""
    if rows.empty:
        return pd.DataFrame()
    keys = ["dataset", "family", "domain", "source"]
    wide = rows.pivot_table(index=keys, columns="estimator", values="d", sort=False, dropna=False)
    return wide.dropna(how="all").reset_index().rename_axis(columns=None)


def excess_by_estimator(
    runs: pd.DataFrame, dimensions: pd.DataFrame, *, exclude: Sequence[str] = SYNTHETIC, permutations: int = MONTE_CARLO
) -> pd.DataFrame:
    """Claim 1's effect with the dimension of each estimator in turn: estimator, effect, low, high, p, n_sets.

    runs        with test_loss_nats; dimensions: dataset, estimator, d and, where known, source ("record" before "here")
    Effect: mean over sets of (exponent - 1/d). It explores: one estimator of them is tested by `twonn_scaling`.
    """
    rows = []
    for estimator, part in dimensions.groupby("estimator", sort=False):
        known = part.dropna(subset="d")
        if "source" in known.columns:
            known = known.sort_values("source", ascending=False, kind="stable")
        of = known.drop_duplicates("dataset").set_index("dataset")["d"]
        row = {"estimator": estimator}
        try:
            with_d = runs.assign(d_data=runs["dataset"].map(of)) if len(runs) else runs
            wanted = ["test_loss_nats", "d_data"]
            kept, _ = usable(with_d, wanted, positive=wanted, exclude=exclude)
            kept = kept.drop(columns=["d_data_low", "d_data_high"], errors="ignore")
            sets = family_means(excess_exponents(kept, "test_loss_nats"))
            effect = mean_effect(sets[0]["excess"], permutations=permutations)
            row |= {"effect": effect.value, "low": effect.low, "high": effect.high, "p": effect.p, "n_sets": effect.n}
        except (NotEnough, NoRecords):
            row |= dict.fromkeys(("effect", "low", "high", "p"), math.nan) | {"n_sets": 0}
        rows.append(row)
    return pd.DataFrame(rows)


def set_table(runs: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """One row a set with the means of those of the columns that the runs have; empty where they have none."""
    known = [c for c in columns if c in runs.columns]
    return set_means(runs, known) if len(runs) and known else pd.DataFrame()


def slope_table(runs: pd.DataFrame) -> pd.DataFrame:
    """One row a set: K_F of the training images, K_f, their ratio, the trivial bound, and how far K_f is above it.

        (1 - 2 delta) K_F <= K_f by arithmetic, with delta the misfit at the closest pair (slope_lower_bound)

    Columns: dataset, slope_label_sharpness, slope_max, slope_ratio, slope_lower_bound, over_bound = mean of
    slope_max / slope_lower_bound over runs.
    """
    columns = ["slope_label_sharpness", "slope_max", "slope_ratio", "slope_lower_bound"]
    if runs.empty or not set(columns) <= set(runs.columns) or not runs["slope_max"].notna().any():
        return pd.DataFrame()
    bound = runs["slope_lower_bound"].where(runs["slope_lower_bound"] > 0)
    return set_means(runs.assign(over_bound=runs["slope_max"] / bound), [*columns, "over_bound"])


def layer_profile(layers: pd.DataFrame) -> pd.DataFrame:
    """Mean d_repr / d_data of the same images at each block: series (set and model), depth, layer, ratio, n_runs."""
    if layers.empty:
        return pd.DataFrame()
    keys = ["dataset", "model", "depth", "layer"]
    known = layers.assign(ratio=layers["d_repr"] / layers["d_data_same_images"])
    table = known.groupby(keys, sort=False, observed=True)["ratio"].agg(ratio="mean", n_runs="size").reset_index()
    return table.assign(series=table["dataset"] + ", " + table["model"])


# ----------------------------------------------------------------------------------- what could be seen


@dataclass(frozen=True)
class Spread:
    """A standard deviation with its 95 % interval: value, low, high, df, n_cells (of runs that differ by seed)."""

    value: float
    low: float
    high: float
    df: int
    n_cells: int

    def __float__(self):
        return float(self.value)


def seed_spread(runs: pd.DataFrame, column: str = "test_loss_nats", level: float = 0.95) -> Spread:
    """Spread of the log of a column over seeds: pooled within image set, model and N.

        s^2 = sum (log y - mean of its cell)^2 / df,    interval: s^2 df / chi2(df)

    Seeds change split, first weights and order together. Raises NotEnough without two seeds of one cell.
    """
    values = pd.to_numeric(runs[column], errors="coerce")
    good = runs[(values > 0) & np.isfinite(values)]
    cells = [
        np.log(cell[column].to_numpy(float))
        for _, cell in good.groupby(["dataset", "model", "n_train"], sort=False, observed=True)
        if len(cell) > 1
    ]
    df = sum(len(cell) - 1 for cell in cells)
    if df < 1:
        raise NotEnough("no image set, model and N has two seeds, so their spread is unknown; run a second seed")
    s = math.sqrt(sum(((cell - cell.mean()) ** 2).sum() for cell in cells) / df)
    low, high = (s * math.sqrt(df / stats.chi2.ppf(q, df)) for q in ((1 + level) / 2, (1 - level) / 2))
    return Spread(s, float(low), float(high), df, len(cells))


def exponent_spread(sd: float, sizes: Sequence[int], seeds: int = 1) -> float:
    """Standard error of one set's exponent from runs alone: sd / sqrt( seeds sum (log N - mean)^2 ).

    sd      of log loss over seeds. Runs at nested N of one seed share images, which is not counted here.
    Raises NotEnough with one size.
    """
    log_n = np.log(np.asarray(sizes, dtype=float))
    sxx = float(((log_n - log_n.mean()) ** 2).sum())
    if not sxx > 0:
        raise NotEnough("an exponent needs two sizes N, and there is one; add a size")
    return sd / math.sqrt(seeds * sxx)


def smallest_effect(power_of: Callable[[float], float], power: float = 0.8) -> float:
    """The effect that a test finds with the given chance: root of power_of(effect) = power, by bisection.

    power_of   rising in the effect, as statistics.power_mean with its other arguments fixed
    Raises NotEnough where no effect below 2^60 reaches it.
    """
    high = 2.0**-20
    while power_of(high) < power:
        high *= 2
        if high > 2.0**60:
            raise NotEnough(f"no effect is found with a chance of {power:g}; add sets")
    low = 0.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if power_of(middle) < power else (low, middle)
    return high


def detectable_exponents(
    sd: float,
    sizes: Sequence[int],
    n_sets: int,
    between: Sequence[float],
    seeds: Sequence[int] = (1, 2, 5),
    alpha: float = ALPHA / 4,
) -> pd.DataFrame:
    """Smallest mean excess of the exponent that claim 1's test finds in four of five repetitions: one row a case.

        sd of a set's exponent: sqrt( between^2 + exponent_spread(sd, sizes, seeds)^2 ),   t test over n_sets

    sd        of log loss over seeds (seed_spread); between: of the true excess between sets (`seen_so_far`)
    alpha     two-sided level: what the smallest p of the four claims has to reach to be 5 % after Holm
    Returns between, seeds, n_sets, smallest (80 % power).
    """
    rows = []
    for n in seeds:
        for spread in between:
            total = math.hypot(spread, exponent_spread(sd, sizes, n))
            smallest = smallest_effect(lambda effect, total=total: power_mean(effect, total, n_sets, alpha))
            rows.append({"between": spread, "seeds": n, "n_sets": n_sets, "smallest": smallest})
    return pd.DataFrame(rows)


def detectable_gaps(
    sd: float, n_medical: int, n_natural: int, between: Sequence[float], seeds: Sequence[int] = (1, 2, 5)
) -> pd.DataFrame:
    """Smallest difference of log loss between domains found in four of five repetitions: as detectable_exponents.

    sd of a set's level: sqrt( between^2 + sd^2 / seeds ); `ratio` = exp(smallest), of the losses.
    """
    rows = []
    for n in seeds:
        for spread in between:
            total = math.hypot(spread, sd / math.sqrt(n))
            smallest = smallest_effect(
                lambda effect, total=total: power_difference(effect, total, n_medical, n_natural)
            )
            row = {"between": spread, "seeds": n, "n_sets": n_medical + n_natural, "smallest": smallest}
            rows.append(row | {"ratio": math.exp(smallest)})
    return pd.DataFrame(rows)


def seen(what: str, size: float, rows: pd.DataFrame, column: str) -> dict:
    """Whether an effect of this size is found: effect, size, smallest, up_to, verdict.

    rows      as detectable_exponents or detectable_gaps; column: smallest, or ratio
    smallest  of the column where sets do not differ among themselves; up_to: the spread `between` sets up to which the
              size is still found with some number of seeds, linear between the rows (none: nan)
    """
    least = rows.groupby("between")[column].min()
    found = least[least <= size]
    up_to, beyond = math.nan, least[least > size]
    if len(found):
        up_to = float(found.index.max())
        if len(beyond := beyond[beyond.index > up_to]):
            there, value = float(beyond.index[0]), float(beyond.iloc[0])
            up_to += (there - up_to) * (size - float(found.loc[up_to])) / (value - float(found.loc[up_to]))
    said = f"found where sets differ by up to {up_to:.2g}" if len(found) else "cannot be found"
    return {"effect": what, "size": size, "smallest": float(least.min()), "up_to": up_to, "verdict": said}


def seen_so_far(verdicts: dict[str, Verdict], law: float, ratio: float, alpha: float = ALPHA / 4) -> pd.DataFrame:
    """The same two effects at the spread between families of sets that the runs show: one row each, none if too few.

    The standard deviation of claim 1's excesses, and that of claim 2's levels of log loss within a domain, hold what
    seeds add as well, so nothing is added to them.
    verdicts  as statistics.claims gives them;  law, ratio  sizes of the two effects
    Returns effect, size, spread, n_sets, smallest (80 % power; of the second a ratio), verdict.
    """
    rows = []
    excess = verdicts["data_dimension"].sets
    excess = excess["excess"].dropna().to_numpy() if excess is not None and "excess" in excess else np.zeros(0)
    if len(excess) > 2:
        spread = float(excess.std(ddof=1))
        smallest = smallest_effect(lambda effect: power_mean(effect, spread, len(excess), alpha))
        rows.append(("exponent of the law", law, spread, len(excess), smallest))
    levels = verdicts["sharpness_generalization"].sets
    if levels is not None and {"domain", "level"} <= set(levels):
        known = levels[levels["domain"].isin(["medical", "natural"])]
        sizes = known.groupby("domain")["level"].size()
        if len(sizes) == 2 and sizes.sum() > 3:
            residues = known["level"] - known.groupby("domain")["level"].transform("mean")
            spread = math.sqrt(float((residues**2).sum()) / (len(known) - 2))
            gap = smallest_effect(lambda effect: power_difference(effect, spread, *map(int, sizes)))
            rows.append((f"a loss {ratio:g} times as high", ratio, spread, len(known), math.exp(gap)))
    table = pd.DataFrame(rows, columns=["effect", "size", "spread", "n_sets", "smallest"])
    return table.assign(verdict=np.where(table["smallest"] <= table["size"], "would be found", "could not be found"))


@dataclass(frozen=True)
class Pilot:
    """The published campaign so far: its parameters, runs, properties, and its families of sets by domain."""

    params: campaign.Params
    runs: pd.DataFrame
    properties: pd.DataFrame
    n_medical: int
    n_natural: int

    @property
    def sizes(self) -> list[int]:
        """Sizes N planned for ResNet-18, ascending."""
        blocks = [block for block in self.params.runs if "resnet18" in block.models and not block.datasets]
        return sorted({n for block in blocks for n in block.n_train})


def pilot() -> Pilot:
    """What book/records holds of params/published.yaml."""
    p = campaign.read(images.REPOSITORY / "params" / "published.yaml")
    properties = campaign.properties_frame(p)
    families = properties.drop_duplicates("family")["domain"].value_counts()
    counts = (int(families.get(domain, 0)) for domain in ("medical", "natural"))
    return Pilot(p, derived(campaign.runs_frame(p)), properties, *counts)
