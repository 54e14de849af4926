"""Tasks that train nothing, for the tests of execution; workers import this file."""

import errno
import os
import signal
import time
from pathlib import Path

from intrinsic.campaigns.plan import Plan, Task
from intrinsic.campaigns.records import Record, record_id


def planned(*hows):
    """A plan of tasks that each do what their word says."""
    return Plan(tuple(map(task, range(len(hows)), hows)), (), ())


def task(number, how):
    params = {"dataset": f"{how} {number}", "number": number, "method_version": 3}
    return Task("properties", "digits", params, (("properties", record_id("properties", params)),))


def begun(root):
    """Labels of the tasks that were begun, in their order."""
    path = Path(root) / "begun"
    return path.read_text().splitlines() if path.exists() else []


def work(task, store):
    how, label = task.params["dataset"].split()[0], task.label
    with open(store.root / "begun", "a", encoding="utf-8") as file:
        file.write(f"{label}\n")
    first = begun(store.root).count(label) == 1
    if how == "raise" or (how == "raise_once" and first):
        raise ValueError(f"no luck with {task.params['number']}")
    if how == "die" and first:
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "full":
        raise OSError(errno.ENOSPC, "No space left on device")
    if how == "hang":
        time.sleep(600)
    if how == "slow":
        time.sleep(1)
    metrics = {"threads": float(os.environ["OMP_NUM_THREADS"]), "pid": float(os.getpid())}
    store.write(Record(task.kind, task.params, metrics))
