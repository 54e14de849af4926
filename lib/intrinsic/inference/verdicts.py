"""Verdicts on claims, by one rule. Families of image sets are the units.

A rule is a mapping, such as an entry of params/claims.yaml: claim, quantity, statistic, outcome, predictor, side,
claimed, alpha; and, as amended, n_train, seed, scale, models. Where n_train or seed is not given, all runs enter.
"""

import html
import math
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from intrinsic.inference.effects import NotEnough, correlation, holm, mean_effect, ols, permutation_p
from intrinsic.inference.families import by_family, levels, logs, numbers, set_means, usable
from intrinsic.properties.interval import Interval, digits

MIN_FAMILIES = 8  # fewer decide nothing


def now(rule: dict) -> dict:
    """Return a rule as amended: an amendment's further keys replace those stated before."""
    out = {key: value for key, value in rule.items() if key != "amended"}
    for entry in rule.get("amended", ()):
        out |= {key: value for key, value in entry.items() if key not in ("date", "change", "runs", "claimed_before")}
    return out


@dataclass(frozen=True, eq=False)
class Verdict:
    """An effect, and what it says about a claim.

    Notes
    -----
    `verdict` follows from the numbers alone:

    - fewer than 8 families that can decide: "cannot be tested";
    - the interval on the claim's side of 0, and p at most alpha: "supported";
    - a bound: the interval on the other side of 0, and p at most alpha: "refuted";
    - a claimed size: the interval reaches 0 and excludes that size: "refuted";
    - anything else: "undecided".
    """

    claim: str
    quantity: str  # the effect in words
    effect: Interval  # with p
    side: int = 1  # 1: the claim says effect > 0; -1: effect < 0
    claimed: float | None = None  # size that the claim states; None for a bound
    alpha: float = 0.05
    deciding: int = 0  # families that can decide
    families: pd.DataFrame | None = None  # one row a family
    p_holm: float | None = None  # p after Holm; where given, it decides
    beside: pd.DataFrame = field(default_factory=pd.DataFrame)  # quantity, value, low, high, p, families
    notes: tuple[str, ...] = ()  # what was left out, and why nothing is decided
    rule: dict = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """Return "supported", "refuted", "undecided" or "cannot be tested"."""
        p = self.effect.p if self.p_holm is None else self.p_holm
        low, high = sorted((self.side * self.effect.low, self.side * self.effect.high))
        if self.deciding < MIN_FAMILIES:
            return "cannot be tested"
        if low > 0 and p <= self.alpha:
            return "supported"
        against = high < 0 and p <= self.alpha if self.claimed is None else low <= 0 and high < self.side * self.claimed
        return "refuted" if against else "undecided"

    @property
    def line(self) -> str:
        """One line: verdict, effect with interval, p, families."""
        adjusted = "" if self.p_holm is None or math.isnan(self.p_holm) else f" ({digits(self.p_holm)} after Holm)"
        found = f"{self.effect}, p = {digits(self.effect.p)}{adjusted}, {self.effect.n} families"
        return f"{self.verdict.capitalize()}. {self.quantity[:1].upper()}{self.quantity[1:]}: {found}."

    def __repr__(self):
        return self.line

    def _repr_html_(self):
        stated, names = now(self.rule), ("hypothesis", "test", "supported_if", "refuted_if")
        rows = [(name.replace("_", " "), _text(stated, name)) for name in names if name in stated]
        rows += [("notes", "; ".join(self.notes))] if self.notes else []
        rows += [(f"amended {e['date']}", f"{e['change']} ({e['runs']})") for e in self.rule.get("amended", ())]
        cells = "".join(f"<tr><th>{html.escape(k)}</th><td>{html.escape(v)}</td></tr>" for k, v in rows)
        return (
            f"<p><strong>{html.escape(self.claim)}.</strong> {html.escape(self.line)}</p>"
            f"<details><summary>How this verdict was made</summary><table>{cells}</table></details>"
        )


def _text(stated: dict, name: str) -> str:
    """A text of a rule with its values put in, such as {alpha}."""
    return str(stated[name]).format(**{key: value for key, value in stated.items() if isinstance(value, int | float)})


def cells(e: Interval) -> dict:
    """An effect as cells of a row."""
    return {"value": float(e), "low": e.low, "high": e.high, "p": e.p, "families": e.n}


def _verdict(rule: dict, effect: Interval, families=None, notes=(), beside=None, deciding=None) -> Verdict:
    stated = now(rule)
    rows = [{"quantity": name, **cells(e)} for name, e in (beside or {}).items()]
    return Verdict(
        stated["claim"], _text(stated, "quantity"), effect, stated["side"], stated["claimed"], stated["alpha"],
        effect.n if deciding is None else deciding, families, None, pd.DataFrame(rows), tuple(notes), rule,
    )  # fmt: skip


def _if_enough(compute, *arguments, **options) -> Interval:
    try:
        return compute(*arguments, **options)
    except NotEnough as error:
        return Interval(math.nan, method=str(error), n=0, p=math.nan)


def coefficient(y, of: str, **columns) -> Interval:
    """A coefficient of least squares with Student's interval, its p by Freedman and Lane."""
    found, p = ols(y, **columns)[of], permutation_p(y, of, **columns)
    facts = {"p": p, "error": found.error, "df": found.df}
    return Interval(found, found.low, found.high, "least squares, t; Freedman and Lane", found.n, **facts)


# ------------------------------------------------------------------------------------------- the statistics


def exponents(runs: pd.DataFrame, outcome: str = "test_loss_nats", predictor: str = "d_data") -> pd.DataFrame:
    """Exponent a of outcome ~ N^(-a) for each set and network that has two sizes N.

    Columns: dataset, family, domain, least_bound, model, exponent, low, high (t over runs), n_sizes, d_data, predicted.
    """
    rows = []
    for (name, model), part in runs.groupby(["dataset", "model"], sort=False):
        if (sizes := part["n_train"].nunique()) > 1:
            a, d = ols(-logs(part, outcome), n=np.log(numbers(part, "n_train")))["n"], numbers(part, predictor).mean()
            row = {"dataset": name, **{c: part[c].iloc[0] for c in ("family", "domain", "least_bound") if c in part}}
            row |= {"model": model, "exponent": float(a), "low": a.low, "high": a.high}
            rows.append(row | {"n_sizes": sizes, "d_data": d, "predicted": 1 / d})
    if not rows:
        raise NotEnough("no network has two sizes N on a set, so no exponent is known; run one at two sizes or more")
    return pd.DataFrame(rows)


def excess(frame: pd.DataFrame, rule: dict, *, fitted: bool = True) -> Verdict:
    """Test the exponent in N less margin / dimension: networks averaged, mean over families.

    The law is an upper bound, so only sets about which it says anything can decide: their `least_bound` is below 1.
    With fewer than 8 families of them the mean is that over all, and the verdict is "cannot be tested".
    """
    stated = now(rule)
    runs, notes = usable(frame, [stated["outcome"], stated["predictor"]], fitted=fitted)
    table = exponents(runs, stated["outcome"], stated["predictor"])
    table["excess"] = table["exponent"] - (stated.get("margin") or 1) * table["predicted"]
    how = {c: "mean" if table[c].dtype.kind == "f" else "first" for c in table if c not in ("dataset", "model")}
    sets = table.groupby("dataset", sort=False).agg(how).reset_index()
    least = numbers(sets, "least_bound") if "least_bound" in sets else np.full(len(sets), math.nan)
    families, says = by_family(sets), by_family(sets[least < 1])
    beside, every = {}, mean_effect(families["excess"])
    if len(says) >= MIN_FAMILIES:
        beside, families = {"the same over all families": every}, says
    elif (above := int((least >= 1).sum())) and len(sets):
        ends = f"{digits(np.nanmin(least))} to {digits(np.nanmax(least))}"
        notes = (*notes, f"on {above} of {len(sets)} sets the bound exceeds 1, the largest possible error ({ends})")
    return _verdict(rule, mean_effect(families["excess"]), families, notes, beside, len(says))


def _levels(frame, rule, fitted, log):
    """Families with the outcome's level and the properties, the predictor's name, and notes."""
    stated = now(rule)
    outcome, predictor = stated["outcome"], stated["predictor"]
    outcome = outcome if outcome in frame else f"{outcome}_eps{stated.get('grey_level')}"
    named = frame["model"].isin(stated.get("networks", ())) if "model" in frame else pd.Series(dtype=bool)
    frame = frame[named] if named.any() else frame  # a campaign of other networks is judged by those it has
    how = {"n_train": stated.get("n_train"), "seed": stated.get("seed"), "fitted": fitted}
    runs, notes = usable(frame, [predictor], **how)
    runs, more = usable(runs, [outcome], positive=log, fitted=False)
    table, columns = levels(runs, outcome, log=log), {predictor, "d_data"} & set(runs)
    means = set_means(runs, columns).set_index("dataset").loc[table["dataset"]]
    table = table.assign(**{c: means[c].to_numpy() for c in columns}, **{f"log_{c}": logs(means, c) for c in columns})
    return by_family(table), predictor, (*notes, *more)


def slope(frame: pd.DataFrame, rule: dict, *, fitted: bool = True) -> Verdict:
    """Test the slope of the log outcome's level on the log predictor over families."""
    families, x, notes = _levels(frame, rule, fitted, True)
    y, log_x = families["level"], families[f"log_{x}"]
    beside = {"rank correlation": _if_enough(correlation, y, log_x, kind="spearman")}
    if "log_d_data" in families and x != "d_data":
        beside["slope given log d_data"] = _if_enough(coefficient, y, "x", x=log_x, d=families["log_d_data"])
    return _verdict(rule, coefficient(y, "x", x=log_x), families, notes, beside)


def correlated(frame: pd.DataFrame, rule: dict, *, fitted: bool = True) -> Verdict:
    """Test Pearson's correlation of the outcome's level with the predictor, or of their logs by `scale: log`."""
    log = now(rule).get("scale") == "log"
    families, x, notes = _levels(frame, rule, fitted, log)
    y, x = families["level"], families[f"log_{x}" if log else x]
    beside = {"rank correlation": _if_enough(correlation, y, x, kind="spearman")}
    other, name, _ = _levels(frame, rule, fitted, not log)
    name = name if log else f"log_{name}"
    beside[f"correlation {'without' if log else 'of'} logarithms"] = _if_enough(
        correlation, other["level"], other[name]
    )
    return _verdict(rule, correlation(y, x), families, notes, beside)


def _log_ratio(runs: pd.DataFrame, above: str, below: str) -> tuple[Interval, pd.DataFrame]:
    families = by_family(set_means(runs.assign(log_ratio=logs(runs, above) - logs(runs, below)), ["log_ratio"]))
    return mean_effect(families["log_ratio"]), families


def ratio(frame: pd.DataFrame, rule: dict, *, fitted: bool = True) -> Verdict:
    """Test the mean over families of log(outcome / predictor) less log margin.

    `models: each`: the claim is of every network, so the network decides in which it holds least. Where that one lies
    on the other side of 0, its p is multiplied by the number of networks.
    """
    stated = now(rule)
    pair, side, shift = [stated["outcome"], stated["predictor"]], stated["side"], math.log(stated.get("margin") or 1)
    runs, notes = usable(frame, pair, fitted=fitted)
    runs = runs[runs["n_train"] >= stated.get("least_n", 0)]
    effect, families = _log_ratio(runs, *pair)
    p, beside = effect.p, {}
    if stated.get("models") == "each":
        own = {name: _log_ratio(part, *pair) for name, part in runs.groupby("model")}
        beside = {name: found for name, (found, _) in own.items()} | {"mean over networks": effect}
        least = min(own, key=lambda name: side * own[name][0])
        effect, families = own[least]
        p = effect.p if side * (effect - shift) > 0 else min(1.0, len(own) * effect.p)
        notes = (*notes, f"the network that decides is {least}")
    effect = Interval(effect - shift, effect.low - shift, effect.high - shift, effect.method, effect.n, p=p)
    return _verdict(rule, effect, families, notes, beside)


def ratios(frame: pd.DataFrame, *, least_n: int = 500, fitted: bool = True) -> pd.DataFrame:
    """Dimension after a map over dimension before it, N at least `least_n`: a row for each network, estimator and map.

    Columns: model, estimator, map, value (mean log ratio over families), low, high, p, families, share_above (of runs).
    """
    data, rows = "d_data_same_images", []
    maps = {"trained": ("d_repr", data), "untrained": ("d_repr_untrained", data),
            "random linear map": ("d_repr_random_map", data),
            "trained over untrained": ("d_repr", "d_repr_untrained")}  # fmt: skip
    for model, own in frame[frame["n_train"] >= least_n].groupby("model"):
        for estimator, end in (("mle", ""), ("twonn", "_twonn")):
            for name, columns in maps.items():
                pair = [column + end for column in columns]
                try:
                    runs, _ = usable(own, pair, fitted=fitted)
                    row = {"model": model, "estimator": estimator, "map": name, **cells(_log_ratio(runs, *pair)[0])}
                    rows.append(row | {"share_above": float((runs[pair[0]] > runs[pair[1]]).mean())})
                except NotEnough:
                    continue  # not measured
    return pd.DataFrame(rows)


def rank(table: pd.DataFrame, rule: dict) -> Verdict:
    """Test Spearman's correlation of two columns of a table of one row a set, families averaged."""
    pair = [now(rule)["outcome"], now(rule)["predictor"]]
    families = by_family(table.dropna(subset=pair))
    return _verdict(rule, correlation(*(families[c] for c in pair), kind="spearman"), families)


TESTS = {"excess": excess, "slope": slope, "correlation": correlated, "ratio": ratio, "rank": rank}


def judge(frame: pd.DataFrame, rule: dict, **options) -> Verdict:
    """Run the test that the rule's `statistic` names; where it has too few values, the verdict says why."""
    try:
        return TESTS[now(rule)["statistic"]](frame, rule, **options)
    except NotEnough as error:
        return _verdict(rule, Interval(math.nan, n=0, p=math.nan), notes=[str(error)])


def claims(frame: pd.DataFrame, rules: dict, **options) -> dict[str, Verdict]:
    """Return the verdict of each rule, such as the content of params/claims.yaml, p adjusted by Holm over all."""
    return adjusted({name: judge(frame, rule, **options) for name, rule in rules.items()})


def adjusted(verdicts: dict[str, Verdict]) -> dict[str, Verdict]:
    """Return the verdicts with p adjusted by Holm; one that cannot be tested counts, as p = 1."""
    known = np.array([v.deciding >= MIN_FAMILIES and math.isfinite(v.effect.p) for v in verdicts.values()])
    p = holm(np.where(known, [v.effect.p for v in verdicts.values()], 1.0))
    pairs = zip(verdicts.items(), np.where(known, p, math.nan), strict=True)
    return {name: replace(v, p_holm=float(end)) for (name, v), end in pairs}


def table(verdicts: dict[str, Verdict]) -> pd.DataFrame:
    """One row a verdict: name, claim, verdict, value, low, high, p, families, p_holm."""
    items = verdicts.items()
    rows = [
        {"name": k, "claim": v.claim, "verdict": v.verdict, **cells(v.effect), "p_holm": v.p_holm} for k, v in items
    ]
    return pd.DataFrame(rows)
