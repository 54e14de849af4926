"""What a campaign has done, what failed, and its published file."""

import json
import re
from collections import Counter, namedtuple
from collections.abc import Collection
from pathlib import Path

import pandas as pd

from intrinsic.campaigns import records
from intrinsic.campaigns.frames import records_frame
from intrinsic.campaigns.parameters import CampaignError, Params
from intrinsic.campaigns.plan import Plan, Task, plan
from intrinsic.campaigns.records import RecordError, Store

STATES = ("done", "failed", "to do", "not reachable")


def states(made: Plan, store: Store) -> pd.DataFrame:
    """One row a task and run out of reach: dataset, model, n_train, state, label, reason, traceback.

    Published records count as done, damaged ones do not.
    """
    left, rows = {task.label for task in made.todo(store)}, []
    for task in made.tasks:
        note = (store.failure(*task.keys[0]) if task.label in left else None) or {"reason": "", "traceback": ""}
        state = "done" if task.label not in left else "failed" if note["reason"] else "to do"
        where = (task.params["dataset"], task.params.get("model", "properties"), task.params.get("n_train", ""))
        rows.append((*where, state, task.label, note["reason"], note["traceback"]))
    for label, reason in made.unreachable:
        model, name, n = re.fullmatch(r"(\S+) (.+) N=(\d+) seed=\d+", label).groups()
        rows.append((name, model, int(n), "not reachable", label, reason, ""))
    columns = ["dataset", "model", "n_train", "state", "label", "reason", "traceback"]
    return pd.DataFrame(rows, columns=columns)


def table(tasks: pd.DataFrame) -> pd.DataFrame:
    """One row an image set, model and size: how many of the tasks are in each state, and the last reason."""
    keys = ["dataset", "model", "n_train"]
    counts = tasks.groupby([*keys, "state"], sort=False).size().unstack(fill_value=0)
    counts = counts.reindex(columns=list(STATES), fill_value=0)
    reasons = tasks.groupby(keys, sort=False)["reason"].max()
    return counts.assign(reason=reasons).reset_index().rename_axis(columns=None)


def estimate(tasks: Collection[Task], store: Store) -> dict[tuple, float | None]:
    """{(model, N): median seconds of such runs in the records, with what hangs on them}; None where there are none.

    Properties are ("properties", 0). Runs at another number of pixels do not count.
    """
    stored = pd.concat([records_frame(kind, store) for kind in records.KINDS], ignore_index=True)
    hung = stored.groupby("params.parent")["provenance.seconds"].sum()
    stored["seconds"] = stored["provenance.seconds"].fillna(0) + stored["id"].map(hung).fillna(0)
    stored = stored.fillna({"params.model": "properties", "params.n_train": 0})
    median = stored.groupby(["params.model", "params.n_train", "params.size"])["seconds"].median()
    wanted = [task.params for task in tasks]
    keys = {(one.get("model", "properties"), one.get("n_train", 0), one["size"]) for one in wanted}
    return {key[:2]: float(median[key]) if key in median else None for key in keys}


#: how many records a published file holds, how many are new, and how many stored ones were left out
Published = namedtuple("Published", "path total added left_out")


def publish(p: Params, store: Store, output: Path | None = None, *, everything: bool = False) -> Published:
    """Add the stored records of a campaign, or everything stored, to its published file: book/records/NAME.jsonl.

    What the file holds stays in it; of one id the record that was written later. Runs that their image sets cannot
    reach go, with the reason, into NAME.unreachable.json. Raises CampaignError where there is no record, and
    RecordError where a kind would have records of two method versions; nothing is written then.
    """
    path = records.published_file(p.name) if output is None else records.writable(output, ".jsonl")
    made, stored = None if everything else plan(p), store.keys()
    taken = stored if made is None else stored & made.keys
    found = records.read_published(path) if path.exists() else {}
    before = len(found)
    for key in sorted(taken):
        one, old = store.read(*key), found.get(key)
        if old is None or one.provenance.get("written", "") > old.provenance.get("written", ""):
            found[key] = one
    if not found:
        how = "run its campaign first, or name its store with INTRINSIC_STORE"
        raise CampaignError(f"no record of the plan of {p.name} is stored in {store.root}: {how}")
    versions = Counter(kind for kind, _ in {(one.kind, one.params.get("method_version")) for one in found.values()})
    if mixed := [kind for kind, count in versions.items() if count > 1]:
        how = "publish to a new file with --output"
        raise RecordError(f"{path} would hold {mixed[0]} records of method versions that do not compare: {how}")
    records.write_text(path, "".join(found[key].to_json() + "\n" for key in sorted(found)))
    if made is not None:
        planned, file = {task.label for task in made.tasks}, path.with_suffix(".unreachable.json")
        others = {label: why for label, why in records.read_unreachable(path).items() if label not in planned}
        if reasons := others | dict(made.unreachable):
            records.write_text(file, json.dumps(reasons, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
        else:
            file.unlink(missing_ok=True)
    return Published(path, len(found), len(found) - before, len(stored) - len(taken))
