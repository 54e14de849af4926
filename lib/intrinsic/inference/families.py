"""From runs to one row a family of image sets.

Runs of one set share its images, and so do sets cut from the same images. Runs are averaged to a level a set, and sets
to a row a family, before anything is tested. Frames of runs are those of `campaigns.frames.runs_frame`.
"""

import numpy as np
import pandas as pd

from intrinsic.inference.effects import NotEnough

CONSTRUCTED = "synthetic"  # domain of sets made for experiments: no sample of image sets


def numbers(frame: pd.DataFrame, column: str) -> np.ndarray:
    """A column as float64, null as NaN."""
    return pd.to_numeric(frame[column], errors="coerce").to_numpy(np.float64, na_value=np.nan)


def logs(frame: pd.DataFrame, column: str) -> np.ndarray:
    """Natural logarithm of a column; NaN where it is not above 0."""
    values = numbers(frame, column)
    return np.log(np.where(values > 0, values, np.nan))


def usable(frame: pd.DataFrame, columns, *, positive=True, n_train=None, seed=None, fitted=True) -> tuple:
    """Runs that can enter a test; and notes, a tuple of str, on what was left out.

    Their columns are finite, and with `positive` above 0, since logarithms are taken; `n_train` and `seed` are those
    given; with `fitted`, they fitted their training images.
    """
    lacking = [c for c in ("dataset", "model", "n_train", *columns) if c not in frame]
    if lacking or frame.empty:
        what = f"no column {', '.join(lacking)}" if lacking else "no run"
        raise NotEnough(f"the frame has {what}, so there is nothing to test; make the records with: intrinsic run")
    frame = frame[frame["domain"] != CONSTRUCTED] if "domain" in frame else frame
    frame = frame[frame["n_train"] == n_train] if n_train is not None else frame
    frame = frame[frame["seed"] == seed] if seed is not None else frame
    bad = {"not fitted": ~frame["fitted"].eq(True).to_numpy(bool, na_value=False)} if fitted else {}
    for column in columns:
        values = numbers(frame, column)
        bad[f"no {column}"] = ~np.isfinite(values)
        bad[f"{column} not above 0"] = (values <= 0) & positive
    notes, out = [], np.zeros(len(frame), bool)
    for why, here in bad.items():
        if new := int((here & ~out).sum()):
            notes.append(f"{new} run{'s' if new > 1 else ''} left out: {why}")
        out |= here
    gone = sorted(set(frame["dataset"]) - set(frame.loc[~out, "dataset"]))
    return frame[~out], (*notes, *([f"no run left of {', '.join(gone)}"] if gone else []))


def levels(runs: pd.DataFrame, response: str, *, log: bool = True) -> pd.DataFrame:
    """Level of a response a set: dataset, family, domain, level, n_runs.

    It is the mean over networks where every set has the same runs. Elsewhere effects of network and of log N are taken
    out by least squares, y = level(set) + effect(network) + c log N; effects sum to 0 and log N is centered.
    """
    y = logs(runs, response) if log else numbers(runs, response)
    log_n = np.log(numbers(runs, "n_train"))
    sets, s = np.unique(runs["dataset"].astype(str), return_inverse=True)
    models, m = np.unique(runs["model"].astype(str), return_inverse=True)
    effects = np.vstack([np.eye(len(models) - 1), -np.ones((1, len(models) - 1))])
    center = np.mean([log_n[s == i].mean() for i in range(len(sets))])
    varies = [(log_n - center)[:, None]] if np.ptp(log_n) > 0 else []
    design = np.hstack([np.eye(len(sets))[s], effects[m], *varies])
    found, _, rank, _ = np.linalg.lstsq(design, y, rcond=1e-9)
    if rank < design.shape[1]:
        raise NotEnough(f"networks or sizes N of {len(sets)} sets do not overlap; run one network at one N on each")
    table = pd.DataFrame({"dataset": sets, "level": found[: len(sets)], "n_runs": np.bincount(s)})
    return _described(table, runs)


def set_means(runs: pd.DataFrame, columns) -> pd.DataFrame:
    """Mean of columns a set: over seeds, then sizes N, then networks, so that more runs weigh no more."""
    columns = list(columns)
    table = runs[["dataset", "model", "n_train"]].assign(**{c: numbers(runs, c) for c in columns})
    for keys in (["dataset", "model", "n_train"], ["dataset", "model"], ["dataset"]):
        table = table.groupby(keys, sort=False)[columns].mean().reset_index()
    return _described(table, runs)


def _described(table: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    first = runs.drop_duplicates("dataset").set_index("dataset")
    for column in ("domain", "family"):
        if column in first:
            table.insert(1, column, table["dataset"].map(first[column]))
    return table


def by_family(table: pd.DataFrame) -> pd.DataFrame:
    """One row a family: numbers are averaged, texts are the first; `n_sets` counts its sets."""
    family = table["family"].fillna(table["dataset"]) if "family" in table else table["dataset"]
    table = table.drop(columns="dataset").assign(family=family.astype(str), n_sets=1)
    how = {c: "mean" if table[c].dtype.kind in "fiu" else "first" for c in table if c != "family"} | {"n_sets": "sum"}
    return table.groupby("family", sort=False).agg(how).reset_index()
