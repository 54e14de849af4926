"""The tasks of a campaign on the workers of a Dask cluster.

Each record is written whole by the worker that computes it, so whatever dies leaves nothing half. A task whose worker
dies is computed again; one that raises is noted with its traceback; one whose records are there is skipped.
"""

import contextlib
import errno
import os
import threading
import time
import traceback
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import distributed
from distributed.scheduler import KilledWorker

from intrinsic.campaigns import plan, records, runs
from intrinsic.campaigns.cluster import DEATHS, check_address, client, results
from intrinsic.campaigns.parameters import Params
from intrinsic.campaigns.records import Store

STORAGE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO, errno.ESTALE, errno.ENODEV}


class StoreError(RuntimeError):
    """A store that cannot be written to; what it holds stays, and the same command continues."""


class TookTooLong(RuntimeError):
    """A run that was stopped because it took longer than it may."""


# ---------------------------------------------------------------------------------------- one task


def attempt(
    task: plan.Task, *, root: str, campaign: str, minutes: float | None, environment: dict, gpus: tuple, work: Callable
) -> bool:
    """Compute a task in a Dask worker; False where its records are there.

    root   of the store;  campaign   whose attempt this is;  work   (task, store) -> None computes and stores
    """
    import torch

    torch.set_num_threads(1)
    for name, value in environment.items():
        os.environ.setdefault(name, value)
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[int(distributed.get_worker().name) % len(gpus)]
    store = Store(root)
    if task.done(store):
        return False
    note = store.failure(*task.keys[0])
    if note and note.get("campaign") == campaign:  # written by the timer, in a worker that is gone
        raise TookTooLong(note["reason"])
    timer = threading.Timer(
        60 * minutes if minutes else threading.TIMEOUT_MAX, _give_up, [store, task, campaign, minutes]
    )
    timer.daemon = True
    timer.start()
    try:
        work(task, store)
    finally:
        timer.cancel()
    return True


def _give_up(store: Store, task: plan.Task, campaign: str, minutes: float) -> None:
    """Note that a run took too long and end its process, which Dask starts again."""
    reason = f"it took longer than {minutes:g} minutes, so it was stopped"
    try:
        store.fail(*task.keys[0], label=task.label, reason=reason, traceback="", campaign=campaign)
    finally:
        os._exit(1)


# ---------------------------------------------------------------------------------------- the campaign


@dataclass(frozen=True)
class Outcome:
    """What a campaign has come to: how many tasks were computed and stored before, (label, reason) of the others."""

    computed: int
    stored: int
    unreachable: tuple[tuple[str, str], ...]
    failed: tuple[tuple[str, str], ...]
    minutes: float


def gpus() -> tuple[str, ...]:
    """The CUDA devices of this machine, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    count = torch.cuda.device_count()
    return tuple(named[:count] if named else map(str, range(count)))


def n_workers(p: Params) -> int:
    """Worker processes on this machine: those asked for, else one a GPU, else one a core."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return p.workers or len(gpus()) or cores


def run(
    p: Params,
    *,
    scheduler: str | None = None,
    cluster: Path | str | None = None,
    store: Store | None = None,
    run_minutes: float | None = None,
    retries: int = 1,
    progress: bool = True,
    made: plan.Plan | None = None,
) -> Outcome:
    """Complete a campaign: skip what is stored or published, compute the rest, store each record as it comes.

    scheduler, cluster   as `client` takes them; neither: n_workers(p) processes of this machine
    store                where records go; None: the working store
    run_minutes          a run that takes longer is stopped, and has failed;  retries  of a run that raised
    made                 the campaign's plan, where it was made already
    Raises ClusterError where no such scheduler or cluster is, and StoreError where the store cannot be written to.
    """
    if scheduler:
        check_address(scheduler)
    store, made, started = store or records.default_store(), made or plan.plan(p), time.perf_counter()
    with _writable(store):
        todo, failed, computed = made.todo(store), [], 0
        facts = {"root": str(store.root.absolute()), "campaign": uuid.uuid4().hex, "minutes": run_minutes}
        facts |= {"environment": plan.environment(todo), "gpus": () if scheduler or cluster else gpus()}
        try_one, tasks = partial(attempt, **facts, work=runs.complete), [_from_anywhere(task) for task in todo]
        with client(min(n_workers(p), len(tasks)), scheduler, cluster) if tasks else contextlib.nullcontext() as one:
            for task, future in results(one, try_one, tasks, retries=retries, progress=progress) if tasks else ():
                if future.status == "error":
                    failed.append((task.label, _note(store, task, future)))
                else:
                    computed += future.result()
                    store.forgive(*task.keys[0])
    stored = len(made.tasks) - computed - len(failed)
    return Outcome(computed, stored, made.unreachable, tuple(failed), (time.perf_counter() - started) / 60)


def _from_anywhere(task: plan.Task) -> plan.Task:
    """A task whose image set is found from any folder, since a worker runs in another one."""
    named = plan.entry(task.source)
    return task if named else replace(task, source=str(Path(task.source).expanduser().absolute()))


def _note(store: Store, task: plan.Task, future) -> str:
    """Note why a task failed. Raises the error itself where the store is what failed."""
    error = future.exception()
    if isinstance(error, OSError) and error.errno in STORAGE:
        raise error
    reason = str(error) if isinstance(error, TookTooLong) else f"{type(error).__name__}: {error}"
    if isinstance(error, KilledWorker):
        reason = f"its worker died {DEATHS + 1} times"
    text = "".join(traceback.format_exception(None, error, future.traceback()))
    store.fail(*task.keys[0], label=task.label, reason=reason, traceback=text)
    return reason


@contextlib.contextmanager
def _writable(store: Store):
    """Errors of a disk that is full, gone or read-only, as one sentence."""
    try:
        records.write_text(store.root / ".writable", "")
        yield
    except OSError as error:
        if error.errno not in STORAGE:
            raise
        raise StoreError(
            f"the store {store.root} cannot be written to ({error}), so no result could be kept; make it writable, and "
            "the same command continues"
        ) from None
