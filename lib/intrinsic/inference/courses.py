"""How training runs go: what each protocol says of each network, steps until fit, and runs that end at chance.

Everything is read from records; nothing is trained here.
"""

import math

import numpy as np
import pandas as pd

from intrinsic import images
from intrinsic.campaigns import campaign
from intrinsic.campaigns.records import Store
from intrinsic.networks import models, training

PUBLISHED, UNWARMED = "published.yaml", "warmup.yaml"  # in params/: the campaign, and runs of it without warm-up
ROWS = 700  # of a chart at most, so that its data stay small


def protocols() -> pd.DataFrame:
    """One row a protocol and network: protocol, network, batch, learning_rate, warmup_steps, weight_decay, ends."""
    rows = []
    for name in ("fit", "paper"):
        for model in models.MODELS:
            how = training.protocol(name, model)
            if how["until"] == "fit":
                least = max(how["min_steps"], how["warmup_steps"])
                ends = f"once it fits; at {how['epochs']} epochs and {least:,} steps at the latest"
            else:
                ends = f"after {how['epochs']} epochs"
            settings = {key: how[key] for key in ("learning_rate", "warmup_steps", "weight_decay")}
            rows.append({"protocol": name, "network": model, "batch": how["batch_size"], **settings, "ends": ends})
    return pd.DataFrame(rows)


def published(name: str = PUBLISHED, *, store: Store | None = None) -> pd.DataFrame:
    """`campaign.courses_frame` of a parameter file of the book; empty where no run is stored."""
    return campaign.courses_frame(campaign.read(images.REPOSITORY / "params" / name), store=store)


def ended(courses: pd.DataFrame) -> pd.DataFrame:
    """One row a run, its last epoch: network, N, how it ended; first_at_chance and at_chance.

    At chance is an epoch whose running loss is not `training.CHANCE_NATS` below `chance_nats`.

    first_at_chance  steps before the first epoch that is not; all steps, where there is none
    at_chance        whether the last epoch is. Both are missing or False where chance_nats is missing
    """
    if courses.empty:
        return courses.assign(first_at_chance=pd.Series(dtype=float), at_chance=pd.Series(dtype=bool))
    keys = ["dataset", "model", "n_train", "seed"]
    learned = courses["running_loss_nats"] < courses["chance_nats"] - training.CHANCE_NATS
    before = courses.assign(before=courses["step"].where(learned) - courses["epoch_steps"])
    last = courses.sort_values("step", kind="stable").groupby(keys, as_index=False, sort=False).last()
    first = before.groupby(keys, sort=False)["before"].min().rename("first_at_chance").reset_index()
    table = last.merge(first, on=keys)
    known = table["chance_nats"].notna()
    table["at_chance"] = table["running_loss_nats"] >= table["chance_nats"] - training.CHANCE_NATS
    return table.assign(first_at_chance=table["first_at_chance"].fillna(table["step"]).where(known))


def steps_until_fit(runs: pd.DataFrame) -> pd.DataFrame:
    """One row a network and N, of `ended`'s rows.

    network, n_train, runs, fitted, at_chance (runs that ended there); of fitted runs median_steps, least_steps,
    most_steps and longest_at_chance, the most steps before one first left it.
    """
    counts, steps = ["runs", "fitted", "at_chance"], ["median_steps", "least_steps", "most_steps", "longest_at_chance"]
    columns = ["network", "n_train", *counts, *steps]
    rows = []
    for (model, n_train), part in runs.groupby(["model", "n_train"], sort=False) if len(runs) else ():
        fitted = part[part["fitted"]]
        row = [model, n_train, len(part), len(fitted), int(part["at_chance"].sum())]
        row += [fitted["step"].median(), fitted["step"].min(), fitted["step"].max(), fitted["first_at_chance"].max()]
        rows.append(row)
    table = pd.DataFrame(rows, columns=columns)
    place = table["network"].map({name: i for i, name in enumerate(models.MODELS)}).fillna(len(models.MODELS))
    table = table.assign(place=place).sort_values(["place", "n_train"], kind="stable", ignore_index=True)
    return table.drop(columns="place").astype({name: "Int64" for name in ("n_train", *counts, *steps[1:])})


def thinned(courses: pd.DataFrame, n_train: int, rows: int = ROWS) -> pd.DataFrame:
    """Courses at one N and the least seed of each, with as many epochs of each run as make up to `rows`.

    First and last epochs are kept; those between stand in equal distances.
    """
    part = courses[courses["n_train"] == n_train] if len(courses) else courses
    if part.empty:
        return part
    keys = ["dataset", "model"]
    part = part[part["seed"] == part.groupby(keys)["seed"].transform("min")]
    runs = [run.sort_values("step") for _, run in part.groupby(keys, sort=False)]
    each = max(2, rows // len(runs))
    places = (np.unique(np.linspace(0, len(run) - 1, min(each, len(run))).round().astype(int)) for run in runs)
    return pd.concat([run.iloc[which] for run, which in zip(runs, places, strict=True)], ignore_index=True)


def compared(runs: pd.DataFrame, others: pd.DataFrame) -> pd.DataFrame:
    """Runs that are in both tables of `ended`, here with warm-up and there without: one row a pair.

    network, dataset, n_train, seed; fitted, steps, test_loss_nats and test_accuracy of either, with the ending
    `_warm` and `_cold`; log_loss_ratio, ln(loss with warm-up / loss without), where both fitted; and `fitted`: "both",
    "with", "without" or "neither".
    """
    keys = ["model", "dataset", "n_train", "seed"]
    numbers = ["fitted", "step", "test_loss_nats", "test_accuracy"]
    if runs.empty or others.empty:
        both = pd.DataFrame(columns=[*keys, *(f"{name}{end}" for name in numbers for end in ("_warm", "_cold"))])
    else:
        kept = runs[runs["warmup_steps"] > 0][[*keys, *numbers]]
        theirs = others[others["warmup_steps"] == 0][[*keys, *numbers]]
        both = kept.merge(theirs, on=keys, suffixes=("_warm", "_cold"))
    ratio = [
        math.log(row.test_loss_nats_warm / row.test_loss_nats_cold) if row.fitted_warm and row.fitted_cold else math.nan
        for row in both.itertuples()
    ]
    words = {(True, True): "both", (True, False): "with", (False, True): "without", (False, False): "neither"}
    which = [words[bool(w), bool(c)] for w, c in zip(both["fitted_warm"], both["fitted_cold"], strict=True)]
    shown = {"model": "network", "step_warm": "steps_warm", "step_cold": "steps_cold"}
    both = both.assign(log_loss_ratio=pd.Series(ratio, dtype=float), fitted=pd.Series(which, dtype=object))
    return both.rename(columns=shown)


def verdict(runs: pd.DataFrame, planned: int) -> str:
    """Whether every network can be trained until it fits, by `ended`'s runs, in two sentences.

    "refuted" where a stored run did not fit; "not refuted" where all planned runs are stored and did; else "not refuted
    so far". planned: runs of the campaign
    """
    if runs.empty:
        return f"Undecided: none of {planned} planned runs is stored."
    counts = runs[runs["at_chance"]]["model"].value_counts()
    named = ", ".join(f"{n} of {name}" for name, n in counts.items())
    said = "Refuted" if not runs["fitted"].all() else "Not refuted" if len(runs) >= planned else "Not refuted so far"
    return (
        f"{said}: of {planned} planned runs {len(runs)} are stored, and {int(runs['fitted'].sum())} of these fitted. "
        f"At chance in the end: {named or 'none'}."
    )


def said(pairs: pd.DataFrame) -> str:
    """What `compared` shows, in a sentence or two; nothing that pairs do not show."""
    if pairs.empty:
        return "No run is stored both with and without warm-up, so nothing is known of its effect."
    warm, cold = pairs["fitted_warm"].astype(bool), pairs["fitted_cold"].astype(bool)
    text = (
        f"Of {len(pairs)} run{'s' if len(pairs) > 1 else ''} trained both ways {int(warm.sum())} fitted with warm-up "
        f"and {int(cold.sum())} without."
    )
    both = pairs[warm & cold]
    if len(both):
        text += (
            f" Where both fitted, the test loss with warm-up is {np.exp(both['log_loss_ratio'].mean()):.2g} times that "
            f"without (geometric mean of {len(both)} pair{'s' if len(both) > 1 else ''} on "
            f"{both['dataset'].nunique()} image set{'s' if both['dataset'].nunique() > 1 else ''})."
        )
    return text
