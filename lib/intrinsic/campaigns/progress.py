"""What a campaign has done, what failed, and its published file.

What failed and what is in work stands in the working store, in `Store.failures` and `Store.claims`.
"""

import fnmatch
import html
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from intrinsic.campaigns import campaign
from intrinsic.campaigns import old_records as records
from intrinsic.campaigns.old_records import Record, Store

STATES = ("done", "running", "failed", "to do", "not reachable")


class PublishError(ValueError):
    """Records that cannot be published together."""


class RetryError(ValueError):
    """A pattern that no failed task matches."""


# ----------------------------------------------------------------------------------------- status


@dataclass(frozen=True)
class Failure:
    label: str
    reason: str
    traceback: str
    attempts: int
    key: tuple[str, str]


def _failure(notes: dict, task) -> Failure | None:
    """The failure that a task has left, or None."""
    key = next((key for key in task.keys if key in notes), None)
    if key is None:
        return None
    note = notes[key]
    return Failure(task.label, note["reason"], note["traceback"], note["attempts"], key)


@dataclass(frozen=True)
class Status:
    """State of each task in the order of the plan; failures; (label, reason) of what no set can reach or compare."""

    states: tuple[tuple[campaign.Task, str], ...]
    failures: tuple[Failure, ...]
    unreachable: tuple[tuple[str, str], ...]
    incomparable: tuple[tuple[str, str], ...] = ()

    def frame(self) -> pd.DataFrame:
        """One row an image set, model and size: how many tasks are in each state, with the reason of the last two."""
        rows: dict = {}
        for task, state in self.states:
            q = task.params
            self._row(rows, q["dataset"], q.get("model", "properties"), q.get("n_train", 0))[state] += 1
        why = {failure.label: failure.reason for failure in self.failures}
        for task, _ in self.states:
            if task.label in why:
                q = task.params
                self._row(rows, q["dataset"], q.get("model", "properties"), q.get("n_train", 0))["reason"] = why[
                    task.label
                ]
        for label, reason in self.unreachable:
            model, rest = label.split(" ", 1)
            name, n, _ = rest.rsplit(" ", 2)
            row = self._row(rows, name, model, int(n.removeprefix("N=")))
            row["not reachable"] += 1
            row["reason"] = reason
        return pd.DataFrame(
            [{"dataset": k[0], "model": k[1], "n_train": k[2] or "", **v} for k, v in rows.items()],
            columns=["dataset", "model", "n_train", *STATES, "reason"],
        )

    @staticmethod
    def _row(rows: dict, *key) -> dict:
        return rows.setdefault(key, {**dict.fromkeys(STATES, 0), "reason": ""})

    def html(self, name: str) -> str:
        """One page that needs no network: counts, the table, the failures."""
        table, counts = self.frame(), Counter(state for _, state in self.states)
        counts["not reachable"] = len(self.unreachable)
        said = ", ".join(f"{counts[state]} {state}" for state in STATES)
        failed = "".join(
            f"<details><summary>{html.escape(f'{one.label}: {one.reason}')}</summary>"
            f"<pre>{html.escape(one.traceback)}</pre></details>"
            for one in self.failures
        )
        few = "".join(f"<p>{html.escape(f'not comparable: {one}: {why}')}</p>" for one, why in self.incomparable)
        title = html.escape(f"Campaign {name}")
        return (
            f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
            "<style>body{font-family:sans-serif;margin:2em}td,th{padding:.2em .6em;text-align:left}</style></head>"
            f"<body><h1>{title}</h1><p>{html.escape(said)}</p>{few}{table.to_html(index=False, border=0)}"
            f"{'<h2>Failures</h2>' if failed else ''}{failed}</body></html>\n"
        )


def status(p: campaign.Params, *, store: Store | None = None) -> Status:
    """The state of every task of a campaign; published records count as done, those that cannot be read do not."""
    store = store or campaign.default_store()
    made, published = campaign.plan(p), campaign.published_keys()
    states, failures, notes = [], [], store.failures()
    claimed = {id for id, one in store.claims().items() if not one["stale"]}
    damaged = campaign.damaged(made.tasks, store)
    for task in made.tasks:
        if task.done(store, published, damaged):
            states.append((task, "done"))
        elif claimed.intersection(id for _, id in task.keys):
            states.append((task, "running"))
        elif (failure := _failure(notes, task)) is not None:
            failures.append(failure)
            states.append((task, "failed"))
        else:
            states.append((task, "to do"))
    return Status(tuple(states), tuple(failures), made.unreachable, made.incomparable)


def retry(p: campaign.Params, only: str = "*", *, store: Store | None = None) -> list[str]:
    """Labels of failed tasks that are to do again: those that `only`, a pattern such as "vgg* knee*", matches.

    Raises RetryError where `only` is not "*" and matches none.
    """
    store = store or campaign.default_store()
    failures = status(p, store=store).failures
    again = [one for one in failures if fnmatch.fnmatchcase(one.label, only)]
    if not again and only != "*":
        labels = ", ".join(one.label for one in failures[:3]) + (", ..." if len(failures) > 3 else "")
        raise RetryError(
            f"no failed task matches {only!r}, so nothing is to do again: "
            + (f"failed are {labels}; give a pattern of these" if failures else "none has failed")
        )
    for failure in again:
        store.forgive(*failure.key)
    return [failure.label for failure in again]


def grouped(unreachable) -> list[str]:
    """One line a reason: how many runs have it, and the first of them."""
    first, counts = {}, Counter()
    for label, reason in unreachable:
        first.setdefault(reason, label)
        counts[reason] += 1
    more = {reason: f" and {n - 1} more" if n > 1 else "" for reason, n in counts.items()}
    return [f"{label}{more[reason]}: {reason}" for reason, label in first.items()]


# -------------------------------------------------------------------------------------- publishing


@dataclass(frozen=True)
class Published:
    """How many records a file holds, and how they came there; `kept`: published ones that are as they were."""

    path: Path
    total: int
    added: int
    replaced: int
    kept: int
    left_out: int


def _wins(working: Record, old: Record) -> bool:
    """A working record replaces the published one of its id where metrics are equal or it was written later."""
    same = (working.metrics, working.reasons) == (old.metrics, old.reasons)
    return same or working.provenance.get("written", "") > old.provenance.get("written", "")


def publish(
    p: campaign.Params, output: Path | None = None, *, everything: bool = False, store: Store | None = None
) -> Published:
    """The working store and what `output` holds already -> one sorted JSON Lines file.

    output       book/records/NAME.jsonl by default; what is in it stays in it
    everything   also records of the working store that are not of the campaign's plan
    A working record replaces the published one of its id where their metrics are equal or where it was written
    later; an equal one stays as it was. Where several publish to one file at once, no record is lost. Raises as
    records.writable, and PublishError where a kind would have records of two method versions, and where there is no
    record at all; nothing is written then. Runs of the plan that their image sets cannot reach go, each with its
    reason, into records.unreachable_file of the path; those of other plans stay in it.
    """
    store = store or campaign.default_store()
    path = campaign.published_file(p) if output is None else records.writable(output, ".jsonl")
    plan = None if everything else campaign.plan(p)
    tasks = plan.tasks if plan else ()
    planned = {key for task in tasks for keys in (task.keys, *task.others) for key in keys}
    stored = [(kind, id) for kind in records.KINDS for id in store.ids(kind)]
    taken = [key for key in stored if everything or key in planned]
    left_out = len(stored) - len(taken)
    working = {key: store.read(*key) for key in taken}
    if not (working or path.exists()):
        raise _nothing(p, left_out)
    with records.alone(path):  # another publish could add to the file meanwhile
        found = {(one.kind, one.id): one for one in records.read_published(path)} if path.exists() else {}
        before, added, replaced = len(found), 0, 0
        for key, record in working.items():
            old = found.get(key)
            if old is None:
                added += 1
            elif record != old and _wins(record, old):
                replaced += 1
            else:
                continue
            found[key] = record
        if not found:
            raise _nothing(p, left_out)
        versions: dict[str, set] = {}
        for record in found.values():
            versions.setdefault(record.kind, set()).add(str(record.params.get("method_version")))
        for kind, seen in versions.items():
            if len(seen) > 1:
                raise PublishError(
                    f"{path} would hold {kind} records of method versions {', '.join(sorted(seen))}, whose numbers are "
                    "not comparable; publish to a new file with --output"
                )
        unreachable = records.read_unreachable(path)
        total = records.publish(found.values(), path)
        if plan:
            _note_unreachable(path, unreachable, set(campaign.run_labels(p)), dict(plan.unreachable))
    return Published(path, total, added, replaced, before - replaced, left_out)


def _note_unreachable(path: Path, before: dict, planned: set, now: dict) -> None:
    """Write what the plan cannot reach, beside what other plans could not; no file where that is nothing."""
    found = {label: why for label, why in before.items() if label not in planned} | now
    file = records.unreachable_file(path)
    if found:
        records.write_text(file, json.dumps(found, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    else:
        file.unlink(missing_ok=True)


def _nothing(p: campaign.Params, left_out: int) -> PublishError:
    others = f"; {left_out} stored ones are of another plan, and --all takes them" if left_out else ""
    return PublishError(
        f"no record of the plan of {p.name} is stored, so there is nothing to publish: run its campaign first, or "
        f"name its store with INTRINSIC_STORE{others}"
    )
