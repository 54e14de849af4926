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


@dataclass(frozen=True)
class Job:
    """A task as it is sent to a worker: where its records go, which campaign it is of, how long it may take."""

    task: plan.Task
    root: str
    campaign: str
    seconds: float | None
    environment: dict
    gpus: tuple[str, ...]
    work: Callable


def attempt(job: Job) -> bool:
    """Compute a task in a Dask worker; False where its records are there."""
    import torch

    torch.set_num_threads(1)
    for name, value in job.environment.items():
        os.environ.setdefault(name, value)
    if job.gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = job.gpus[int(distributed.get_worker().name) % len(job.gpus)]
    store = Store(job.root)
    if job.task.done(store):
        return False
    note = store.failure(*job.task.keys[0])
    if note and note.get("campaign") == job.campaign:  # written by the timer, in a worker that is gone
        raise TookTooLong(note["reason"])
    timer = threading.Timer(job.seconds or threading.TIMEOUT_MAX, _give_up, [store, job])
    timer.daemon = True
    timer.start()
    try:
        job.work(job.task, store)
    finally:
        timer.cancel()
    return True


def _give_up(store: Store, job: Job) -> None:
    """Note that a run took too long and end its process, which Dask starts again."""
    reason = f"it took longer than {job.seconds / 60:g} minutes, so it was stopped"
    try:
        store.fail(*job.task.keys[0], label=job.task.label, reason=reason, traceback="", campaign=job.campaign)
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
        for key in store.damaged(store.keys() & made.keys):
            store.set_aside(*key)
        todo, failed, computed = made.todo(store), [], 0
        facts = {"root": str(store.root.absolute()), "campaign": uuid.uuid4().hex, "seconds": (run_minutes or 0) * 60}
        facts |= {"environment": plan.environment(todo), "gpus": () if scheduler or cluster else gpus()}
        facts["work"] = runs.complete
        jobs = [Job(replace(task, source=_absolute(task.source)), **facts) for task in todo]
        with client(min(n_workers(p), len(jobs)), scheduler, cluster) if jobs else contextlib.nullcontext() as one:
            for job, future in results(one, attempt, jobs, retries=retries, progress=progress) if jobs else ():
                if future.status == "error":
                    failed.append((job.task.label, _note(store, job.task, future)))
                else:
                    computed += future.result()
                    store.forgive(*job.task.keys[0])
    stored = len(made.tasks) - computed - len(failed)
    return Outcome(computed, stored, made.unreachable, tuple(failed), (time.perf_counter() - started) / 60)


def _absolute(source):
    """A path from the root, since a worker runs in another folder; a name as it is."""
    return source if plan.entry(source) else str(Path(source).expanduser().absolute())


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
        store.sweep()
        yield
    except OSError as error:
        if error.errno not in STORAGE:
            raise
        raise StoreError(
            f"the store {store.root} cannot be written to ({error}), so no result could be kept; make it writable, and "
            "the same command continues"
        ) from None
