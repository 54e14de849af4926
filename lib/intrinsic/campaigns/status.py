"""What a campaign has done, what failed, and its published file."""

import json
from collections import Counter, namedtuple
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from intrinsic.campaigns import records
from intrinsic.campaigns.parameters import CampaignError, Params
from intrinsic.campaigns.plan import Plan, plan
from intrinsic.campaigns.records import RecordError, Store

STATES = ("done", "failed", "to do", "not reachable")


@dataclass(frozen=True)
class Status:
    """States, one row a task and run out of reach: dataset, model, n_train, state, label, reason, traceback."""

    tasks: pd.DataFrame
    incomparable: tuple[tuple[str, str], ...]

    def table(self) -> pd.DataFrame:
        """One row an image set, model and size: how many tasks are in each state, and the last reason."""
        keys = ["dataset", "model", "n_train"]
        counts = self.tasks.groupby([*keys, "state"], sort=False).size().unstack(fill_value=0)
        counts = counts.reindex(columns=list(STATES), fill_value=0)
        counts["reason"] = self.tasks.groupby(keys, sort=False)["reason"].max()
        return counts.reset_index().rename_axis(columns=None)


def status(p: Params, store: Store) -> Status:
    """The state of every task of a campaign; published records count as done, damaged ones do not."""
    made = plan(p)
    left, rows = {task.label for task in made.todo(store)}, []
    for task in made.tasks:
        note = store.failure(*task.keys[0]) if task.label in left else None
        state = "failed" if note else "to do" if task.label in left else "done"
        where = (task.params["dataset"], task.params.get("model", "properties"), task.params.get("n_train", ""))
        facts = (note["reason"], note["traceback"]) if note else ("", "")
        rows.append((*where, state, task.label, *facts))
    for label, reason in made.unreachable:
        model, rest = label.split(" ", 1)
        name, n, _ = rest.rsplit(" ", 2)
        rows.append((name, model, int(n.removeprefix("N=")), "not reachable", label, reason, ""))
    columns = ["dataset", "model", "n_train", "state", "label", "reason", "traceback"]
    return Status(pd.DataFrame(rows, columns=columns), made.incomparable)


# -------------------------------------------------------------------------------------- publishing


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
        raise CampaignError(
            f"no record of the plan of {p.name} is stored in {store.root}, so there is nothing to publish: run its "
            "campaign first, or name its store with INTRINSIC_STORE"
        )
    versions = Counter(kind for kind, _ in {(one.kind, one.params.get("method_version")) for one in found.values()})
    if mixed := [kind for kind, count in versions.items() if count > 1]:
        raise RecordError(
            f"{path} would hold {mixed[0]} records of several method versions, which do not compare: publish to "
            "a new file with --output"
        )
    records.write_text(path, "".join(found[key].to_json() + "\n" for key in sorted(found)))
    if made is not None:
        _note_unreachable(path, made)
    return Published(path, len(found), len(found) - before, len(stored) - len(taken))


def _note_unreachable(path: Path, made: Plan) -> None:
    """Write what the plan cannot reach, beside what other plans could not; no file where that is nothing."""
    planned, file = {task.label for task in made.tasks}, records.unreachable_file(path)
    found = {label: why for label, why in records.read_unreachable(path).items() if label not in planned}
    if found := found | dict(made.unreachable):
        records.write_text(file, json.dumps(found, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    else:
        file.unlink(missing_ok=True)
