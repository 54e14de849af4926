"""Does fragility follow both numbers? The analyses that params/confirmation.yaml states.

log penalty = a + b log K_F + c log d,    one row a family, penalty averaged over networks in logarithms
"""

import pandas as pd

from intrinsic.inference.effects import NotEnough, Regression, correlation, ols
from intrinsic.inference.families import by_family, levels, logs, set_means, usable
from intrinsic.inference.verdicts import Verdict, adjusted, cells, coefficient

NETWORKS = ("resnet18", "resnet50", "vgg13")
PENALTY, LOSS = "loss_penalty_nats_eps2", "test_loss_nats"
TERMS = ("contrast", "native_size", "brightness")  # columns that become a further term, where a frame has them
IN_PLACE = ("nearest_distance", "k_f_by_lot", "k_f_between_groups")  # columns that take the place of K_F
BOTH = ("log_k_f", "log_d")


def families(frame, networks=NETWORKS, *, n_train=500, seed=0, response=PENALTY, sign=1, complete=True) -> pd.DataFrame:
    """One row a family, with the logarithms that the regression takes.

    Parameters
    ----------
    frame : DataFrame
        One row a run: dataset, family, domain, model, n_train, seed, fitted, k_f, d_data, test_loss_nats, the
        response, and where known those of TERMS and IN_PLACE.
    networks : sequence of str
        Of which the mean is taken.
    n_train, seed : int or None
        None: all.
    response, sign : str, int
        Column of the penalty; or of the minimal radius, with sign -1.
    complete : bool
        Leave a set out unless every network ran, fitted, and has a response above 0. Otherwise sets with at least one
        network enter, and effects of networks are taken out.

    Returns
    -------
    DataFrame
        family, domain, n_sets, log_penalty, log_clean_loss, log_k_f, log_d, and log_contrast and the like where known.
        `.attrs["left_out"]`: set -> reason.
    """
    asked = frame[frame["model"].isin(networks)]
    runs, _ = usable(asked, [response, LOSS, "k_f", "d_data"], n_train=n_train, seed=seed)
    left_out = {}
    for name, own in asked.groupby("dataset", sort=False):
        missing = set(networks) - set(runs.loc[runs["dataset"] == name, "model"])
        if missing and (complete or len(missing) == len(networks)):
            there = own[own["model"].isin(missing)]
            why = "not run" if there.empty else "not fitted" if not there["fitted"].all() else "no value above 0"
            left_out[name] = f"{', '.join(sorted(missing))}: {why}"
    runs = runs[~runs["dataset"].isin(left_out)]
    if runs.empty:
        raise NotEnough(f"no set has all of {', '.join(networks)} at N = {n_train}; complete the campaign first")
    table = levels(runs, response).rename(columns={"level": "log_penalty"}).drop(columns="n_runs")
    table["log_penalty"] *= sign
    table["log_clean_loss"] = levels(runs, LOSS)["level"]
    columns = ["k_f", "d_data", *(c for c in (*TERMS, *IN_PLACE) if c in runs)]
    means = set_means(runs, columns).set_index("dataset").loc[table["dataset"]]
    table = by_family(table.assign(**{f"log_{c}": logs(means, c) for c in columns}))
    table = table.rename(columns={"log_d_data": "log_d"})
    table.attrs["left_out"] = left_out
    return table


def fit(table: pd.DataFrame, predictors=BOTH) -> Regression:
    """Least squares of the log penalty on the named columns."""
    return ols(table["log_penalty"], **{name: table[name] for name in predictors})


def primary(table: pd.DataFrame, plan: dict) -> dict[str, Verdict]:
    """Return the four primary tests of params/confirmation.yaml, its `plan`, on the new `families`; with Holm."""
    found = {}
    for test in plan["primary"]:
        name, held = test["coefficient"], ", ".join(p for p in test["predictors"] if p != test["coefficient"])
        effect = coefficient(table[test["response"]], name, **{p: table[p] for p in test["predictors"]})
        claim, quantity = f"{test['response']} rises with {name} at equal {held}", f"the coefficient of {name}"
        rule = {key: plan[key] for key in ("supported_if", "refuted_if") if key in plan}
        more = {"claimed": test["expected"], "deciding": effect.n, "families": table, "rule": rule}
        found[test["name"]] = Verdict(claim, quantity, effect, **more)
    return adjusted(found)


def predicted(old: pd.DataFrame, new: pd.DataFrame, predictors=BOTH) -> pd.DataFrame:
    """Predict new families by the fit to old ones: family, measured, value, low, high (prediction interval), inside.

    `.attrs`: r2, out of sample, and coverage, the share of families inside.
    """
    return _scored(fit(old, predictors).predict(**{name: new[name] for name in predictors}), new)


def held_out(table: pd.DataFrame, predictors=BOTH) -> pd.DataFrame:
    """`predicted`, each family by the fit to all others."""
    found = [fit(table.drop(i), predictors).predict(**{n: table.loc[[i], n] for n in predictors}) for i in table.index]
    return _scored(pd.concat(found, ignore_index=True), table)


def _scored(found: pd.DataFrame, families: pd.DataFrame) -> pd.DataFrame:
    out = found.assign(family=families["family"].to_numpy(), measured=families["log_penalty"].to_numpy())
    out["inside"] = out["measured"].between(out["low"], out["high"])
    rest, around = out["measured"] - out["value"], out["measured"] - out["measured"].mean()
    out.attrs = {"r2": float(1 - (rest @ rest) / (around @ around)), "coverage": float(out["inside"].mean())}
    return out[["family", "measured", "value", "low", "high", "inside"]]


def secondary(frame: pd.DataFrame, old: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return the secondary analyses of runs of the new families that their columns allow; they decide nothing.

    `old`, `families` of the old sets, adds the domain over all. Columns: analysis, term (or why it cannot be made),
    value, low, high, p, families, r2.
    """
    table, rows, resnet = families(frame), [], {"networks": NETWORKS[:1]}
    tables = {"as in the primary tests": {}, "sets with one network or more": {"complete": False}}
    tables |= {f"{network} alone": {"networks": (network,)} for network in NETWORKS}
    for n in sorted(frame["n_train"].unique()):
        tables[f"N = {n}, ResNet-18, all seeds"] = resnet | {"n_train": n, "seed": None}
    tables["PGD"] = {"response": "loss_penalty_nats_pgd_eps2"}
    for column in ("radius_l2_median", "radius_l2_median_correct"):
        tables[f"1 / {column}"] = resnet | {"response": column, "sign": -1}
    plans = [(name, options, BOTH) for name, options in tables.items()]
    plans += [(f"with {c}", table, (*BOTH, f"log_{c}")) for c in TERMS if f"log_{c}" in table]
    plans += [(f"{c} in place of K_F", table, (f"log_{c}", "log_d")) for c in IN_PLACE if f"log_{c}" in table]
    if "domain" in table:
        new = table.assign(medical=(table["domain"] == "medical") * 1.0, old=0.0)
        plans.append(("domain, new families", new, (*BOTH, "medical")))
        if old is not None:
            both = pd.concat([new, old.assign(medical=(old["domain"] == "medical") * 1.0, old=1.0)])
            plans.append(("domain, all families", both, (*BOTH, "medical", "old")))
    for name, source, predictors in plans:
        try:
            own = families(frame, **source) if isinstance(source, dict) else source
            columns, r2 = {p: own[p] for p in predictors}, fit(own, predictors).r2
            found = {term: coefficient(own["log_penalty"], term, **columns) for term in predictors}
        except NotEnough as error:
            rows.append({"analysis": name, "term": str(error)})
            continue
        rows += [{"analysis": name, "term": term, **cells(c), "r2": r2} for term, c in found.items()]
    for term, other in (BOTH, BOTH[::-1]):
        r = correlation(table["log_penalty"], table[term], table[other], kind="spearman")
        rows.append({"analysis": "partial rank correlation", "term": term, **cells(r)})
    return pd.DataFrame(rows)
