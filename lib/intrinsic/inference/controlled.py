"""Controlled experiments: what one intervention on image sets does to loss, robustness and slope of a network.

An intervention is a series of image sets of the catalogue, made by `interventions`, that differ in one option; the
series of `SERIES` run through the campaign of params/controlled.yaml like any other set. Effects are slopes within a
series, so whatever all its sets share cancels: family of images, model, N, split, first weights.
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from intrinsic import images
from intrinsic.campaigns import campaign
from intrinsic.inference import statistics

PARAMETERS = "params/controlled.yaml"
ALPHA = 0.05
MIN_UNITS = 4  # fewer families x seeds are an illustration and have no p
FEW = "illustration: too few values"
# A slope at one K_F that is called none: half of the 1 that the law says of K_F, so that a change by any factor moves
# the outcome less than half as far as the same factor of K_F would. axis, whose effect is a difference, is held against
# half of what the law says of e times K_F, about the range of K_F in the digits' series.
EQUIVALENCE = 0.5


@dataclass(frozen=True)
class Series:
    """One intervention.

    option    of the image sets that it changes
    moves     what changes with it, held: what does not, in words
    sets      {family: image sets}
    moves_k_f  whether K_F is what it moves: then effects are slopes on log K_F, else on `level`
    """

    name: str
    option: str
    moves: str
    held: str
    sets: dict
    moves_k_f: bool


WAVES, DIGITS = "waves", "digits"
SERIES = (
    Series(
        "margin",
        "margin",
        "K_F, through the distance that all images keep between the classes",
        "boundary, N, class balance, d (of waves), direction",
        {
            WAVES: ("waves_margin_10", "waves_margin_25", "waves_margin_60"),
            DIGITS: ("digits_margin_15", "digits_margin_25", "digits_margin_40"),
        },
        True,
    ),
    Series(
        "pairs",
        "pair_margin",
        "K_F alone, through 12 pairs of images that face each other; no other image (nearly none of the digits) moves",
        "boundary, margin of all other images, N, class balance, d, direction",
        {
            WAVES: ("waves_pairs_10", "waves_pairs_25", "waves_margin_60"),
            DIGITS: ("digits_pairs_15", "digits_pairs_25", "digits_margin_40"),
        },
        True,
    ),
    Series(
        "stripes",
        "stripes",
        "the boundary's frequency, 2, 4 or 8 stripes",
        "K_F, margin, N, class balance, d (of waves), direction",
        {
            WAVES: ("waves_margin_10", "waves_stripes_4", "waves_stripes_8"),
            DIGITS: ("digits_margin_15", "digits_stripes_4"),
        },
        False,
    ),
    Series(
        "dimension",
        "d",
        "the dimension of the images, 2, 4 or 8",
        "K_F, margin, boundary, N, class balance, range of each coordinate",
        {WAVES: ("waves_dimension_2", "waves_margin_10", "waves_dimension_8")},
        False,
    ),
    Series(
        "axis",
        "axis",
        "the direction that the label follows: another labeling, the null intervention",
        "K_F, margin, number of stripes, N, class balance, d (of waves)",
        {WAVES: ("waves_margin_10", "waves_axis_1"), DIGITS: ("digits_margin_15", "digits_axis_1")},
        False,
    ),
)
RANDOM = {WAVES: ("waves_margin_10", "waves_random"), DIGITS: ("digits_margin_15", "digits_random")}


@dataclass(frozen=True)
class Outcome:
    """What is measured of a trained network; law: the slope of its log on log K_F that the theory states, or None."""

    column: str
    title: str
    law: float | None


LOSS = Outcome("test_loss_nats", "test loss (nats)", 1.0)
RADIUS = Outcome("radius_l2_median_correct", "median minimal radius, L2, of images right without an attack", -1.0)
BESIDE = (
    Outcome("radius_linf_median_correct", "median minimal radius, L-infinity, of the same images", -1.0),
    Outcome("radius_l2_mean", "mean minimal radius, L2, wrong images 0", -1.0),
    Outcome("slope_max", "largest slope of the network between labels, per unit of L2", 1.0),
)
PRIMARY = (LOSS, RADIUS)


class WrongExperiment(ValueError):
    """A series whose records or image sets do not make an experiment."""


def parameters(file: str = PARAMETERS) -> campaign.Params:
    """The campaign of the controlled experiments; a relative file starts at the repository root."""
    return campaign.read(images.REPOSITORY / file)


def levels() -> pd.DataFrame:
    """One row a set of a series, from the catalogue: intervention, family, dataset, level (of the option), all options.

    Raises WrongExperiment where two sets of a series differ in more than the option that the series changes.
    """
    rows = []
    for series in SERIES:
        for family, names in series.sets.items():
            first = None
            for name in names:
                options = images.catalogue()[name].checked_options().model_dump()
                if options["pair_margin"] is None:
                    options["pair_margin"] = options["margin"]
                follows = {series.option, "pair_margin"} if series.option == "margin" else {series.option}
                rest = {key: value for key, value in options.items() if key not in follows}
                if first is not None and rest != first:
                    changed = sorted(key for key in rest if rest[key] != first[key])
                    raise WrongExperiment(
                        f"{name} differs from {names[0]} in {', '.join(changed)} too, so the effect of "
                        f"{series.option} could not be told apart: correct the entry in params/datasets.yaml"
                    )
                first = rest
                row = {"intervention": series.name, "family": family, "dataset": name}
                rows.append({**row, "level": float(options[series.option]), **options})
    return pd.DataFrame(rows)


def measured(properties: pd.DataFrame) -> pd.DataFrame:
    """`levels` beside what was measured of each set: what a series holds should stand still, what it moves should not.

    properties   as of `campaign.properties_frame`
    Returns intervention, family, dataset, level, margin, pair_margin, n, k_f, k_f_all, d_data and its interval.
    """
    columns = ["dataset", "n", "k_f", "k_f_all", "d_data", "d_data_low", "d_data_high"]
    own = ["intervention", "family", "dataset", "level", "margin", "pair_margin"]
    return levels()[own].merge(properties.reindex(columns=columns), on="dataset", how="left")


def facing(names) -> tuple[list, list[str]]:
    """Pictures of the first pair of images that face each other in each set, and their titles."""
    pictures, titles = [], []
    for name in names:
        one = images.load(name)
        sizes = np.bincount(one.group)
        pair = np.flatnonzero(one.group == np.flatnonzero(sizes == 2)[0])
        for row in pair[np.argsort(one.labels[pair])]:
            pictures.append(one.images[row])
            titles.append(f"{name}\n{one.classes[one.labels[row]]}")
    return pictures, titles


def rows(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a run and series that its set is in: the columns of `campaign.runs_frame`, intervention, level, at.

    A set may be in several series. `family` is that of the series; `at` is what effects are taken on: K_F at M a class
    where the series moves it, else level (axis: 1 and 2, so that a logarithm exists).
    """
    if frame is None or frame.empty:
        raise statistics.NoRecords(
            f"no run of the controlled experiments is stored; make the records with: intrinsic run {PARAMETERS}"
        )
    table = levels()[["intervention", "family", "dataset", "level"]]
    joined = table.merge(frame.drop(columns="family"), on="dataset", how="inner")
    moves = joined["intervention"].map({series.name: series.moves_k_f for series in SERIES})
    level = joined["level"] + (joined["intervention"] == "axis")
    joined["at"] = np.where(moves, joined["k_f"], level)
    return joined


def slopes(frame: pd.DataFrame, outcome: Outcome, *, fitted_only: bool = True) -> pd.DataFrame:
    """Within each series, family, model and seed: the slope of log outcome on log `at`, by least squares.

        slope = S_xy / S_xx,    x = log K_F (margin, pairs) or log level (stripes, dimension), y = log outcome

    For axis the slope is the difference itself, y(axis 1) - y(axis 0). A series counts where both its ends (its first
    and last set) have a value above 0; fitted_only: and a fitted run. Levels between join where they have one.
    frame    as of `rows`
    Returns intervention, family, model, seed, slope, n_levels, whole (bool), k_f_ratio (largest over smallest K_F).
    """
    ends = {(s.name, family): {names[0], names[-1]} for s in SERIES for family, names in s.sets.items()}
    found = []
    for key, runs in frame.groupby(["intervention", "family", "model", "seed"], sort=False):
        used = runs[runs["fitted"].astype(bool)] if fitted_only else runs
        used = used[(used[outcome.column] > 0) & (used["at"] > 0)] if outcome.column in used else used.iloc[:0]
        whole = ends[key[:2]] <= set(used["dataset"])
        slope = ratio = math.nan
        if whole:
            x, y = np.log(used["at"].to_numpy()), np.log(used[outcome.column].to_numpy(dtype=float))
            slope = float(y[x.argmax()] - y[x.argmin()]) if key[0] == "axis" else float(statistics.ols(x, y))
            ratio = float(used["k_f"].max() / used["k_f"].min())
        names = dict(zip(("intervention", "family", "model", "seed"), key, strict=True))
        found.append({**names, "slope": slope, "n_levels": len(used), "whole": whole, "k_f_ratio": ratio})
    return pd.DataFrame(found)


def mean_slope(values) -> dict:
    """Mean with its 95 % t interval and two-sided t p.

    The interval of fewer than two values is nan, and the p of fewer than MIN_UNITS.
    """
    values = np.asarray(values, dtype=float)
    values = values[np.isfinite(values)]
    n = len(values)
    found = {"effect": math.nan, "low": math.nan, "high": math.nan, "p": math.nan, "n": n}
    if n:
        found["effect"] = float(values.mean())
    if n > 1:
        error = values.std(ddof=1) / math.sqrt(n)
        half = stats.t.ppf((1 + 0.95) / 2, n - 1) * error
        found |= {"low": found["effect"] - half, "high": found["effect"] + half}
        if n >= MIN_UNITS and error > 0:
            found["p"] = float(2 * stats.t.sf(abs(found["effect"]) / error, n - 1))
    return found


def within_families(values: pd.Series) -> dict:
    """95 % t interval of the mean over families as they are, its error from the spread inside each.

        mean -/+ t(n - F) s / sqrt(n),    s^2 = sum_f sum_i (y_fi - mean_f)^2 / (n - F)

    for n values of F families: what `mean_slope` gives without what families differ by.
    values   indexed by family, and more
    Returns within_low and within_high; nan for one family, or one value in each.
    """
    values = values.dropna()
    groups = values.groupby(level="family")
    n, rest = len(values), len(values) - groups.ngroups
    if groups.ngroups < 2 or not rest:
        return {"within_low": math.nan, "within_high": math.nan}
    spread = math.sqrt(((values - groups.transform("mean")) ** 2).sum() / rest)
    half = float(stats.t.ppf((1 + 0.95) / 2, rest)) * spread / math.sqrt(n)
    return {"within_low": float(values.mean()) - half, "within_high": float(values.mean()) + half}


def _units(one: pd.DataFrame) -> pd.Series:
    """One value a family and seed: the mean over the models that have one."""
    return one[one["whole"]].groupby(["family", "seed"])["slope"].mean()


def _row(series: Series, values: pd.Series, model: str, **more) -> dict:
    """The mean over values indexed by family and seed, under the families that have one (all, where none has)."""
    inside = set(values.index.get_level_values("family"))
    family = " and ".join(name for name in series.sets if name in inside or not inside)
    row = {"intervention": series.name, "family": family, "model": model, "pooled": False}
    return row | mean_slope(values) | within_families(values) | more


def effects(frame: pd.DataFrame, outcome: Outcome, *, fitted_only: bool = True) -> pd.DataFrame:
    """Mean slope of each intervention: models averaged over families and seeds, then each family, then each model.

    frame   as of `rows`
    Returns intervention, law (slope that the theory states; only where K_F moves), family (those that have a value, say
    "waves and digits"), model ("averaged" or one), effect, low, high (its error from the spread over families and seeds
    alike), within_low, within_high (as of `within_families`), p, n (values averaged), pooled (bool: over all families
    that have a value, models averaged).
    """
    each = slopes(frame, outcome, fitted_only=fitted_only)
    found = []
    for series in SERIES:
        one = each[each["intervention"] == series.name]
        law = outcome.law if series.moves_k_f and outcome.law is not None else math.nan
        units = _units(one)
        found.append(_row(series, units, "averaged", law=law, pooled=True))
        for family in series.sets:
            inside = units[units.index.get_level_values("family") == family]
            if len(inside) < len(units):
                found.append(_row(series, inside, "averaged", law=law, family=family))
        whole = one[one["whole"]].set_index(["family", "seed"])
        for model in sorted(one["model"].unique()):
            found.append(_row(series, whole.loc[whole["model"] == model, "slope"], model, law=law))
    order = ["intervention", "law", "family", "model", "effect", "low", "high", "within_low", "within_high", "p", "n"]
    return pd.DataFrame(found)[[*order, "pooled"]]


def decide(effect: float, low: float, high: float, p: float, n: int, law: float, alpha: float = ALPHA) -> str:
    """The verdict by rule on a slope that the theory states as `law`, or on one that is 0 where law is nan.

    fewer than MIN_UNITS values                                "illustration: too few values"
    law known:  interval on the law's side of 0, p <= alpha    "supported"
                interval reaches 0 and excludes the law        "not supported"
    law nan:    interval on one side of 0, p <= alpha          "moves at equal K_F"
                interval holds 0, inside -/+ EQUIVALENCE       "no movement beyond 0.5"
    anything else                                              "undecided"
    """
    if n < MIN_UNITS or not all(math.isfinite(v) for v in (effect, low, high)):
        return FEW
    if math.isnan(law):
        if low <= 0 <= high:
            inside = max(-low, high) <= EQUIVALENCE
            return f"no movement beyond {EQUIVALENCE:g}" if inside else "undecided"
        return "moves at equal K_F" if p <= alpha else "undecided"
    side = math.copysign(1, law)
    near, far = (low, high) if side > 0 else (-high, -low)
    if near > 0:
        return "supported" if p <= alpha else "undecided"
    return "not supported" if far < abs(law) else "undecided"


def verdicts(frame: pd.DataFrame, *, fitted_only: bool = True) -> pd.DataFrame:
    """Every intervention on loss and radius, models averaged: effect, interval, p, p after Holm, verdict by rule.

    `law_inside` says whether the interval holds the slope that the theory states: "supported" says that the outcome
    moves as stated in direction, and not by how much. Holm is over the four primary tests (margin and pairs on both
    outcomes), and apart over the others; fewer than MIN_UNITS values have no p and do not count in it.
    The error behind low, high and p mixes the spread between families with that over seeds; within_low and within_high
    hold families as they are (`within_families`) and decide nothing. `families`: those that have a value.
    frame   as of `rows`
    """
    found = []
    for outcome in PRIMARY:
        table = effects(frame, outcome, fitted_only=fitted_only)
        found.append(table[table["pooled"]].assign(outcome=outcome.title))
    found = pd.concat(found, ignore_index=True).rename(columns={"family": "families"})
    found["primary"] = found["law"].notna()
    found["p_holm"] = math.nan
    for primary in (True, False):
        chosen = found["primary"] == primary
        found.loc[chosen, "p_holm"] = statistics.holm(found.loc[chosen, "p"])
    columns = ["effect", "low", "high", "p_holm", "n", "law"]
    found["verdict"] = [decide(*values) for values in found[columns].itertuples(index=False)]
    inside = found["law"].between(found["low"], found["high"]).map({True: "yes", False: "no"})
    found["law_inside"] = inside.where(found["law"].notna() & found["low"].notna())
    order = ["intervention", "outcome", "verdict", "families", "effect", "low", "high", "within_low", "within_high"]
    order += ["law", "law_inside", "p", "p_holm", "n", "primary"]
    return found.sort_values("primary", ascending=False, kind="stable", ignore_index=True)[order]


def families_apart(frame: pd.DataFrame, *, fitted_only: bool = True) -> pd.DataFrame:
    """The effects of `verdicts` beside those of each family: what the spread between families is.

    frame   as of `rows`
    Returns intervention, outcome, effect with both intervals, then of each family the effect and its interval over
    seeds; nan where a family has none.
    """
    found = []
    for outcome in PRIMARY:
        table = effects(frame, outcome, fitted_only=fitted_only)
        table = table[table["model"] == "averaged"]
        one = table.loc[table["pooled"], ["intervention", "effect", "low", "high", "within_low", "within_high"]]
        for family in dict.fromkeys(name for series in SERIES for name in series.sets):
            own = table[table["family"] == family].set_index("intervention")
            for column, end in (("effect", ""), ("low", "_low"), ("high", "_high")):
                one[f"{family}{end}"] = one["intervention"].map(own[column])
        one.insert(1, "outcome", outcome.title)
        found.append(one)
    return pd.concat(found, ignore_index=True)


def control(frame: pd.DataFrame, model: str = "resnet18") -> pd.DataFrame:
    """Random labels beside those in stripes on the same images: mean of each over seeds, one row a set.

    frame   as of `campaign.runs_frame`; columns without a value are left out
    """
    names = [name for pair in RANDOM.values() for name in pair]
    runs = frame[frame["dataset"].isin(names) & (frame["model"] == model)]
    columns = ["k_f", "fitted", "epochs", "test_accuracy", *(o.column for o in (*PRIMARY, *BESIDE))]
    columns = [column for column in columns if column in runs and runs[column].notna().any()]
    table = runs.astype({"fitted": float}).groupby("dataset")[columns].mean()
    return table.assign(runs=runs.groupby("dataset").size()).reindex([n for n in names if n in table.index])
