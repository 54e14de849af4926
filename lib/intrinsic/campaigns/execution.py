"""The tasks of a campaign on Dask: processes of this machine, a running scheduler, or jobs of a queue.

Each record is written whole by the worker that computes it, so whatever dies leaves nothing half. A task that fails is
noted with its reason.
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
from collections import namedtuple
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import dask
import distributed
import torch
import yaml
from dask.system import CPU_COUNT
from distributed.scheduler import KilledWorker
from tqdm import tqdm

from intrinsic import images
from intrinsic.campaigns import plan, records, runs
from intrinsic.campaigns.parameters import Params
from intrinsic.campaigns.records import Store

DEATHS = 10  # of its workers, after which a task has failed
STORAGE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO, errno.ESTALE, errno.ENODEV}


class ClusterError(ValueError):
    """A cluster file or a scheduler that cannot be used."""


class StoreError(RuntimeError):
    """A store that cannot be written to; what it holds stays, and the same command continues."""


def check_address(address: str) -> None:
    """Raise ClusterError, within seconds, where no scheduler can be or none is."""
    try:
        parts = urlsplit(address)
        if parts.scheme not in ("tcp", "tls", "ws", "wss") or not parts.port:
            raise ValueError("such an address is tcp://10.0.0.1:8786")
        socket.create_connection((parts.hostname, parts.port), timeout=2).close()
    except (OSError, ValueError) as error:
        raise ClusterError(f"no scheduler answers at {address} ({error}): give what a running one prints") from None


def queue_cluster(path: Path | str):
    """The cluster of dask-jobqueue that a YAML file describes: class, jobs, and options that the class takes."""
    import dask_jobqueue

    try:
        body = images.plain_yaml(Path(path).read_text(encoding="utf-8"))
        kind, jobs, options = body.pop("class"), body.pop("jobs", 1), dict(body.pop("options", {}))
        if body or jobs < 1:
            raise ValueError(f"{next(iter(body), 'jobs')} is not understood")
        scheduler = dict(options.get("scheduler_options", {}))
        if not (options.get("interface") or scheduler.keys() & {"interface", "host"}):  # loopback alone
            scheduler = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:8787"} | scheduler
        cluster = getattr(dask_jobqueue, kind)(**{**options, "scheduler_options": scheduler})
    except (yaml.YAMLError, AttributeError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        why = f"{error} is missing" if isinstance(error, KeyError) else " ".join(str(error).split())
        how = "give class, jobs and options as in params/clusters/slurm.yaml"
        raise ClusterError(f"{path} describes no cluster of dask-jobqueue ({why}): {how}") from None
    cluster.adapt(minimum_jobs=jobs, maximum_jobs=jobs)  # a job that ends is sent again
    return cluster


@contextlib.contextmanager
def client(workers: int = 1, scheduler: str | None = None, cluster: Path | str | None = None):
    """Connect to a running scheduler, to the cluster of a file, or to so many worker processes of this machine."""
    if scheduler and cluster:
        raise ClusterError("a scheduler's address and a cluster file are both given, and one would be idle: give one")
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    dask.config.set({"distributed.scheduler.allowed-failures": DEATHS, "distributed.comm.retry.count": 1})
    made = queue_cluster(cluster) if cluster else None
    if scheduler:
        check_address(scheduler)
    elif not cluster:
        how = {"threads_per_worker": 1, "processes": True, "memory_limit": 0}
        how |= {"dashboard_address": "127.0.0.1:0", "silence_logs": logging.CRITICAL}
        made = distributed.LocalCluster(n_workers=workers, **how)
    try:
        with distributed.Client(made or scheduler, timeout="10s", set_as_default=False) as one:
            yield one
    except BaseException:  # processes of this machine would finish what they compute
        for nanny in made.workers.values() if isinstance(made, distributed.LocalCluster) else ():
            nanny.auto_restart = False
            with contextlib.suppress(OSError, TypeError):  # one that is gone has no number
                os.kill(nanny.pid, signal.SIGKILL)
        raise
    finally:
        if made is not None:
            made.close(timeout=10)


def results(client, function: Callable, jobs: Sequence, *, retries: int = 0, progress: bool = True) -> Iterator[tuple]:
    """Call a function with each job on the workers, the first ones first; yield (job, future) as they are done.

    A job whose worker dies is done again; one that raises, `retries` times. Progress is one line on a terminal, at most
    a line a minute elsewhere. Raises ClusterError where the scheduler dies meanwhile.
    """
    futures, failed, running, live = {}, 0, 0, sys.stderr.isatty()
    for i, job in enumerate(jobs):
        futures[client.submit(function, job, pure=False, retries=retries, priority=-i)] = job
    form = "{n_fmt} of {total_fmt} runs done{postfix}, {remaining} left" + ("" if live else "\n")
    how = {"leave": False, "bar_format": form, "mininterval": 0.1 if live else 60, "miniters": 1}
    with tqdm(total=len(jobs), postfix="0 running, 0 failed", disable=not progress, **how) as bar:
        for future in distributed.as_completed(list(futures), loop=client.loop):
            if future.status in ("cancelled", "lost"):
                where, how = client.scheduler.address, "start it again, and the same command continues"
                raise ClusterError(f"the scheduler at {where} is gone, so no run can go on: {how}")
            failed += future.status == "error"
            with contextlib.suppress(OSError, RuntimeError, ValueError):  # of a scheduler that dies meanwhile
                running = min(sum(client.nthreads().values()), len(futures) - 1) if progress else 0
            bar.set_postfix_str(f"{running} running, {failed} failed", refresh=False)
            bar.update()
            yield futures.pop(future), future


def attempt(
    task: plan.Task, *, root: str, campaign: str, minutes: float | None, environment: dict, gpus: tuple, work: Callable
) -> bool:
    """Compute a task in a Dask worker and store its records; False where they are there."""
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
        raise TimeoutError(note["reason"])
    limit = 60 * minutes if minutes else threading.TIMEOUT_MAX
    timer = threading.Timer(limit, _give_up, [store, task, campaign, minutes])
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

#: what a campaign has come to: tasks computed, stored before, (label, reason) of those that failed, minutes
Outcome = namedtuple("Outcome", "computed stored failed minutes")


def gpus() -> tuple[str, ...]:
    """The CUDA devices of this machine, as CUDA_VISIBLE_DEVICES names them."""
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    count = torch.cuda.device_count()
    return tuple(named[:count] if named else map(str, range(count)))


def n_workers(p: Params) -> int:
    """Worker processes on this machine: those asked for, else one a GPU, else one a core."""
    return p.workers or len(gpus()) or CPU_COUNT


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
    store, made, started = store or records.default_store(), made or plan.plan(p), time.perf_counter()
    with _writable(store):
        todo, failed, computed = made.todo(store), [], 0
        facts = {"root": str(store.root.absolute()), "campaign": uuid.uuid4().hex, "minutes": run_minutes}
        facts |= {"environment": plan.environment(todo), "gpus": () if scheduler or cluster else gpus()}
        try_one = partial(attempt, **facts, work=runs.complete)
        if todo:
            with client(min(n_workers(p), len(todo)), scheduler, cluster) as one:
                for task, future in results(one, try_one, todo, retries=retries, progress=progress):
                    if future.status == "error":
                        failed.append((task.label, _note(store, task, future)))
                    else:
                        computed += future.result()
                        store.forgive(*task.keys[0])
    stored = len(made.tasks) - computed - len(failed)
    return Outcome(computed, stored, tuple(failed), (time.perf_counter() - started) / 60)


def _note(store: Store, task: plan.Task, future) -> str:
    """Note why a task failed. Raises the error itself where the store is what failed."""
    error = future.exception()
    if isinstance(error, OSError) and error.errno in STORAGE:
        raise error
    reason = str(error) if isinstance(error, TimeoutError) else f"{type(error).__name__}: {error}"
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
        how = "make it writable, and the same command continues"
        raise StoreError(f"the store {store.root} cannot be written to ({error}): {how}") from None
