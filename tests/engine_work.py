"""Work for the tests of the engine, which worker processes import."""

import errno
import os
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from intrinsic.campaigns.records import Record, record_id


@dataclass(frozen=True)
class Task:
    """A run of a made-up campaign; what it does is in `how`, and `notes` is a folder for what it leaves."""

    number: int
    how: str
    notes: str
    kind: str = "properties"

    @property
    def label(self):
        return f"run {self.number}"

    @property
    def params(self):
        return {"number": self.number, "method_version": 1}

    @property
    def keys(self):
        return ((self.kind, record_id(self.kind, self.params)),)

    @property
    def ways(self):
        return (self.keys,)


def tasks(notes, *hows):
    return [Task(i, how, str(notes)) for i, how in enumerate(hows)]


def tries(notes):
    """Numbers of the runs that were begun, in their order."""
    path = Path(notes) / "begun"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def work(task, store):
    notes = Path(task.notes)
    with open(notes / "begun", "a", encoding="utf-8") as file:  # one write of one line: processes do not mix
        file.write(f"{task.number}\n")
    first = tries(notes).count(task.number) == 1
    if task.how == "raise" or (task.how == "raise once" and first):
        raise ValueError(f"no luck with {task.number}")
    if task.how == "die" or (task.how == "die once" and first):
        os.kill(os.getpid(), signal.SIGKILL)
    if task.how == "full once" and first:
        raise OSError(errno.ENOSPC, "No space left on device")
    if task.how == "vanish":
        shutil.rmtree(store.root)
    if task.how == "hang":
        time.sleep(600)
    if task.how.startswith("see "):
        names = task.how.split()[1:]
        (notes / f"seen{task.number}").write_text(" ".join(os.environ.get(name, "none") for name in names))
    if task.how.startswith("sleep"):
        time.sleep(float(task.how.split()[1]))
    store.write(
        Record(task.kind, task.params, {"threads": float(os.environ["OMP_NUM_THREADS"])}, {}, {}, {"pid": os.getpid()})
    )
