"""Tasks on Dask, one path for all: processes of this machine, a running scheduler, or the jobs of a queue.

Each record is written whole by the worker that computes it, so whatever dies leaves nothing half. A task whose worker
dies is computed again; one that raises is noted with its traceback; one whose records are there is skipped.
"""

import contextlib
import errno
import logging
import os
import signal
import socket
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dask
import distributed
import yaml
from distributed.comm.addressing import get_address_host_port, parse_address
from distributed.scheduler import KilledWorker
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from tqdm import tqdm

from intrinsic import images
from intrinsic.campaigns import plan, records, runs
from intrinsic.campaigns.parameters import Params
from intrinsic.campaigns.records import Store

DEATHS = 10  # of its workers, after which a task has failed
STORAGE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO, errno.ESTALE, errno.ENODEV}
NEEDS = "a cluster file has the keys class, jobs and options, as params/clusters/slurm.yaml"


class ClusterError(ValueError):
    """A cluster file or a scheduler that cannot be used."""


class StoreError(RuntimeError):
    """A store that cannot be written to; what it holds stays, and the same command continues."""


class TookTooLong(RuntimeError):
    """A run that was stopped because it took longer than it may."""


# ---------------------------------------------------------------------------------------- clusters


def check_address(address: str) -> None:
    """Raise ClusterError, within seconds, where no scheduler can be at an address."""
    try:
        parse_address(address, strict=True)
        host, port = get_address_host_port(address, strict=True)
    except (ValueError, TypeError):
        raise ClusterError(
            f"{address!r} is no address of a Dask scheduler, so no run could start: give what `dask scheduler` prints, "
            "such as tcp://10.0.0.1:8786"
        ) from None
    try:
        socket.create_connection((host, port), timeout=2).close()
    except OSError as error:
        raise ClusterError(
            f"no Dask scheduler answers at {address} ({error}), so no run could start: start one with "
            "`dask scheduler`"
        ) from None


class Cluster(BaseModel):
    """A cluster file: a class of dask-jobqueue, how many jobs, what the class takes."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    queue: str = Field(alias="class", description="a class of dask_jobqueue, such as SLURMCluster or PBSCluster")
    jobs: int = Field(default=1, ge=1, description="jobs that are kept in the queue, each one Dask worker")
    options: dict[str, Any] = Field(default={}, description="what the class takes")


def read_cluster(path: Path | str) -> Cluster:
    """The description of a cluster in a YAML file. Raises ClusterError for unknown keys."""
    try:
        return Cluster.model_validate(images.plain_yaml(Path(path).read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ClusterError(f"{path}: {where}: {first['msg']}; {NEEDS}") from None
    except yaml.YAMLError as error:
        raise ClusterError(f"{path} is not valid YAML ({images.yaml_reason(error)}); {NEEDS}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ClusterError(f"{path} cannot be read as a cluster file: {error}; {NEEDS}") from None


def queue_cluster(described: Cluster):
    """The cluster of dask-jobqueue, whose scheduler runs here: on the loopback address unless the options say else."""
    import dask_jobqueue

    known = [name for name in dir(dask_jobqueue) if name.endswith("Cluster")]
    if described.queue not in known:
        raise ClusterError(f"class {described.queue!r} is none of dask-jobqueue's; they are {', '.join(known)}")
    options = dict(described.options)
    scheduler = dict(options.get("scheduler_options") or {})
    if not (options.get("interface") or scheduler.keys() & {"interface", "host"}):
        scheduler = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:8787"} | scheduler
    try:
        cluster = getattr(dask_jobqueue, described.queue)(**{**options, "scheduler_options": scheduler})
    except (AttributeError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        why = " ".join(str(error).split())
        raise ClusterError(f"{described.queue} does not take these options ({why}); correct the cluster file") from error
    cluster.adapt(minimum_jobs=described.jobs, maximum_jobs=described.jobs)  # a job that ends is sent again
    return cluster


@contextlib.contextmanager
def client(workers: int = 1, scheduler: str | None = None, cluster: Path | str | None = None):
    """Connect to a Dask cluster: of this machine, of a scheduler's address, or of a cluster file.

    Parameters
    ----------
    workers : int
        Processes of this machine, one thread each, where neither of the others is given.
    scheduler : str, optional
        Address of a running scheduler; tls:// takes the security settings of Dask's own configuration.
    cluster : Path or str, optional
        A cluster file, such as params/clusters/slurm.yaml.

    Yields
    ------
    distributed.Client

    Raises
    ------
    ClusterError
        Where there is no such scheduler or cluster.
    """
    if scheduler and cluster:
        raise ClusterError("a scheduler's address and a cluster file are both given, and one would be idle: give one")
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    dask.config.set({"distributed.scheduler.allowed-failures": DEATHS, "distributed.comm.retry.count": 1})
    if scheduler:
        check_address(scheduler)
        made = None
    elif cluster:
        made = queue_cluster(read_cluster(cluster))
    else:
        how = {"threads_per_worker": 1, "processes": True, "memory_limit": 0, "dashboard_address": None}
        made = distributed.LocalCluster(n_workers=workers, silence_logs=logging.CRITICAL, **how)
    try:
        with distributed.Client(made or scheduler, timeout="10s", set_as_default=False) as one:
            yield one
    except OSError as error:
        if isinstance(error, TimeoutError) and scheduler:
            raise ClusterError(f"no Dask scheduler answers at {scheduler} ({error}): start `dask scheduler`") from None
        raise
    finally:
        if made is not None:
            _end(made)


def _end(cluster) -> None:
    """Close a cluster; processes of this machine are killed first, since they would finish what they compute."""
    for nanny in cluster.workers.values() if isinstance(cluster, distributed.LocalCluster) else ():
        nanny.auto_restart = False
        with contextlib.suppress(OSError, TypeError):  # one that is gone has no number
            os.kill(nanny.pid, signal.SIGKILL)
    cluster.close(timeout=10)


def results(client, function: Callable, jobs: Sequence, *, retries: int = 0, progress: str = "") -> Iterator[tuple]:
    """Call a function with each job on the workers, the first ones first; yield (job, future) as they are done.

    A job whose worker dies is done again; one that raises, `retries` times. progress: what is counted; "": no bar.
    Raises ClusterError where the scheduler dies meanwhile.
    """
    futures = {}
    for i, job in enumerate(jobs):
        key = f"{progress or 'job'}-{uuid.uuid4().hex}"
        futures[client.submit(function, job, key=key, pure=False, retries=retries, priority=-i)] = job
    with _Progress(client, len(futures), progress) as shown:
        for future in distributed.as_completed(list(futures), loop=client.loop):
            if future.status in ("cancelled", "lost"):
                raise ClusterError(
                    f"the scheduler at {client.scheduler.address} is gone, so no run can go on; start it again, and the "
                    "same command continues"
                )
            shown.count(future.status == "error")
            yield futures.pop(future), future


class _Progress:
    """Done, running, failed, time left: one line on a terminal, a line a minute elsewhere."""

    def __init__(self, client, total: int, what: str):
        self.client, self.failed, self.on = client, 0, bool(what)
        self.live = self.on and sys.stderr.isatty()
        self.bar = tqdm(total=total, unit=f" {what}", disable=not self.on, leave=False, dynamic_ncols=True,
                        file=sys.stderr if self.live else open(os.devnull, "w"))  # fmt: skip
        self.stop = threading.Event()

    def __enter__(self):
        threading.Thread(target=self._tell, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.bar.close()

    def count(self, failed: bool) -> None:
        self.failed += failed
        self.bar.update()

    def _tell(self) -> None:
        while not self.stop.wait(1 if self.live else 60):
            bar = self.bar
            with contextlib.suppress(Exception):  # of a scheduler that dies meanwhile
                running = min(sum(self.client.nthreads().values()), bar.total - bar.n)
                bar.set_postfix_str(f"{running} running, {self.failed} failed")
            if self.on and not self.live:
                left = tqdm.format_interval(bar.format_dict["elapsed"] / bar.n * (bar.total - bar.n)) if bar.n else "?"
                print(f"{bar.n} of {bar.total} done, {bar.postfix}, {left} left", file=sys.stderr, flush=True)


# ---------------------------------------------------------------------------------------- one task


@dataclass(frozen=True)
class Job:
    """A task as it is sent to a worker: where its records go, which campaign it is of, how long it may take."""

    task: plan.Task
    root: str
    campaign: str
    seconds: float | None
    environment: dict
    gpus: tuple[str, ...] = ()


def attempt(job: Job) -> float | None:
    """Compute a task in a Dask worker; its seconds, or None where its records are there."""
    import torch

    torch.set_num_threads(1)
    for name, value in job.environment.items():
        os.environ.setdefault(name, value)
    if job.gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = job.gpus[int(distributed.get_worker().name) % len(job.gpus)]
    store, key, started = Store(job.root), job.task.keys[0], time.perf_counter()
    if job.task.done(store):
        return None
    if (note := store.failure(*key)) and note.get("campaign") == job.campaign:  # by the timer, in a worker that is gone
        raise TookTooLong(note["reason"])
    timer = threading.Timer(job.seconds or 0, _give_up, [store, job])
    timer.daemon = True
    if job.seconds:
        timer.start()
    try:
        runs.complete(job.task, store)
    finally:
        timer.cancel()
    return time.perf_counter() - started


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

    Parameters
    ----------
    p : Params
        The campaign.
    scheduler, cluster
        As `client` takes them; neither: `n_workers(p)` processes of this machine.
    store : Store, optional
        Where records go; None: the working store of this machine.
    run_minutes : float, optional
        A run that takes longer is stopped, and has failed.
    retries : int
        How often a run that raised is tried again.
    progress : bool
        Whether to show what is done on stderr.
    made : Plan, optional
        The campaign's plan, where it was made already.

    Returns
    -------
    Outcome

    Raises
    ------
    ClusterError
        Where there is no such scheduler or cluster.
    StoreError
        Where the store cannot be written to.
    """
    if scheduler:
        check_address(scheduler)
    store, started = store or records.default_store(), time.perf_counter()
    with _stored(store):
        store.root.mkdir(parents=True, exist_ok=True)
        records.write_text(store.root / ".writable", "")
        store.sweep()
        made = made or plan.plan(p)
        for key in store.damaged(store.keys() & made.keys):
            store.set_aside(*key)
        todo = made.todo(store)
        workers, failed, computed = min(n_workers(p), max(len(todo), 1)), [], 0
        with client(workers, scheduler, cluster) if todo else contextlib.nullcontext() as one:
            for job, future in _computed(one, todo, store, (run_minutes, retries, progress), bool(scheduler or cluster)):
                computed += future.status == "finished" and future.result() is not None
                if future.status == "error":
                    failed.append((job.task.label, _note(store, job.task, future)))
                else:
                    store.forgive(*job.task.keys[0])
    stored = len(made.tasks) - computed - len(failed)
    return Outcome(computed, stored, made.unreachable, tuple(failed), (time.perf_counter() - started) / 60)


def _computed(one, todo: list[plan.Task], store: Store, how: tuple, elsewhere: bool) -> Iterator[tuple]:
    run_minutes, retries, progress = how
    facts = {"root": str(store.root.absolute()), "campaign": uuid.uuid4().hex, "environment": plan.environment(todo)}
    facts |= {"seconds": run_minutes and 60 * run_minutes, "gpus": () if elsewhere else gpus()}
    jobs = [Job(replace(task, source=_absolute(task.source)), **facts) for task in todo]
    if jobs:
        yield from results(one, attempt, jobs, retries=retries, progress="run" if progress else "")


def _absolute(source):
    """A path from the root, since a worker runs in another folder; a name as it is."""
    return source if plan.entry(source) else str(Path(source).expanduser().absolute())


def _note(store: Store, task: plan.Task, future) -> str:
    """Note why a task failed. Raises the error itself where the store is what failed."""
    error = future.exception()
    if isinstance(error, OSError) and error.errno in STORAGE:
        raise error
    reason = f"{type(error).__name__}: {error}"
    if isinstance(error, KilledWorker):
        reason = f"its worker died {DEATHS + 1} times"
    elif isinstance(error, TookTooLong):
        reason = str(error)
    text = "".join(traceback.format_exception(None, error, future.traceback()))
    store.fail(*task.keys[0], label=task.label, reason=reason, traceback=text)
    return reason


@contextlib.contextmanager
def _stored(store: Store):
    """Errors of a disk that is full, gone or read-only, as one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno not in STORAGE:
            raise
        raise StoreError(
            f"the store {store.root} cannot be written to ({error}), so no result could be kept; make it writable, and "
            "the same command continues"
        ) from None
