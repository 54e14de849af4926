"""Tasks -> records, on processes of this machine or on a Dask cluster, whatever is killed meanwhile.

A task has a `label`, a `kind`, flat `params`, `keys` of its records, (kind, id), the first of which is what it is
claimed by, and `ways`: lists of keys each of which completes it. `work(task, store)` computes it and writes its
records.

Each run happens in a worker process, which computes one run after the other and keeps what it has loaded. It is looked
after by `attempt`, in a thread of the campaign on this machine or of a Dask worker: attempt claims the run in the
store, keeps the claim's heartbeat, and kills the process where a run takes too long. A worker process leaves as soon as
its attendant is gone, and the claim of an attendant that is gone is free. So whatever dies, a run is in the store whole
or not at all, and the next start continues.
"""

import contextlib
import errno
import os
import pickle
import queue
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from intrinsic.campaigns.old_records import STALE_S, Store, write_text
from intrinsic.images import plain_yaml, yaml_reason

MARK = ".campaign"  # in the folder of a store in use: without it the folder has vanished
MOST_KILLS = 3  # a run whose process was killed so often by others is not tried again
SERVE = "import sys; from intrinsic.campaigns.engine import serve; serve(int(sys.argv[1]))"
PLAIN_S = 30  # between two lines of progress where there is no terminal
STORAGE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ENODEV}


class EngineError(RuntimeError):
    """A campaign that cannot go on; what is stored stays, and the next start continues."""


class ClusterError(ValueError):
    """A cluster file or a scheduler that cannot be used."""


class StoreGone(OSError):
    """The folder of the records has vanished."""


@dataclass(frozen=True)
class Settings:
    """How a campaign is computed, which changes no number.

    workers        worker processes on this machine
    threads        threads of each worker process
    gpus           CUDA devices that the worker processes of this machine take in turn; none: all that they see
    retries        how often a run that raised is tried again
    run_minutes    a run that takes longer is killed and has failed; None: no limit
    limit_minutes  no run starts later than so long after the campaign; None: no limit
    scheduler      address of a Dask scheduler; None: this machine alone
    cluster        a file that describes a cluster of dask-jobqueue
    gpu_kinds      kinds of tasks that go to Dask workers with the resource GPU, where there are any
    environment    variables that a run has on every machine, but where that has its own
    beat_s         seconds between two heartbeats of a claim
    stale_s        seconds without a heartbeat after which a run is taken over
    patience_s     seconds that the campaign waits for a full disk, a vanished folder or a lost scheduler
    """

    workers: int = 1
    threads: int = 1
    gpus: tuple[str, ...] = ()
    retries: int = 1
    run_minutes: float | None = None
    limit_minutes: float | None = None
    scheduler: str | None = None
    cluster: Path | None = None
    gpu_kinds: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    beat_s: float = 10.0
    stale_s: float = STALE_S
    patience_s: float = 60.0

    def __post_init__(self):
        if self.scheduler and self.cluster:
            raise ClusterError("a running scheduler and a cluster file are both given; give one of them")
        for name, value in (("limit_minutes", self.limit_minutes), ("run_minutes", self.run_minutes)):
            if value is not None and not value > 0:
                raise EngineError(f"{name} is {value:g}, so nothing could be computed; give a number above 0")
        if self.retries < 0 or self.workers < 1:
            raise EngineError(f"retries {self.retries} and workers {self.workers}: give at least 0 and 1")


@dataclass(frozen=True)
class Done:
    """What a campaign has come to: runs computed here, stored by others meanwhile, failed, and left to do."""

    computed: int
    stored: int
    failed: tuple[tuple[str, str], ...]
    left: tuple[str, ...]


# ------------------------------------------------------------------------------------ the worker process


class _MarkedStore(Store):
    """A store that is not made anew where its folder has vanished."""

    def write(self, record):
        _check_mark(self)
        return super().write(record)


def _check_mark(store: Store) -> None:
    if not (store.root / MARK).exists():
        raise StoreGone(errno.ENODEV, "the folder of the records has vanished", str(store.root))


def serve(handle: int) -> None:
    """What a worker process does: one run after the other, until the other end of its connection is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the campaign decides what a keyboard interrupt means
    warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
    connection, inbox = Connection(handle), queue.SimpleQueue()

    def listen():
        while True:
            try:
                inbox.put(connection.recv_bytes())
            except (EOFError, OSError):
                os._exit(1)

    threading.Thread(target=listen, daemon=True).start()
    environment = _Environment()
    while True:
        connection.send(_computed(inbox.get(), environment))


class _Environment:
    """The variables of this process: its own, and beside them those of the run at hand."""

    def __init__(self):
        self.own, self.taken = frozenset(os.environ), []

    def take(self, variables: dict[str, str]) -> None:
        for name in self.taken:
            os.environ.pop(name, None)
        self.taken = [name for name in variables if name not in self.own]
        os.environ.update({name: variables[name] for name in self.taken})


def _computed(message: bytes, environment: _Environment) -> "Result":
    started = time.perf_counter()
    try:
        root, threads, variables, payload = pickle.loads(message)
        environment.take(variables)
        work, task = pickle.loads(payload)
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(threads)
        work(task, _MarkedStore(root))
    except Exception as error:  # it is the result
        state = "storage" if isinstance(error, OSError) and error.errno in STORAGE_ERRORS else "raised"
        return Result(state, time.perf_counter() - started, f"{type(error).__name__}: {error}", traceback.format_exc())
    return Result("done", time.perf_counter() - started)


class _Worker:
    """A worker process; started when it is first needed, and again after its death."""

    def __init__(self, environment: dict):
        self.environment, self.process, self.connection = environment, None, None

    def ready(self) -> None:
        if self.process is not None and self.process.poll() is None:
            return
        self.kill()
        ours, theirs = socket.socketpair()
        with theirs:
            found = os.pathsep.join(path for path in sys.path if path)
            self.process = subprocess.Popen(
                [sys.executable, "-c", SERVE, str(theirs.fileno())],
                env={**os.environ, "PYTHONPATH": found, **self.environment},
                stdin=subprocess.DEVNULL, stdout=2, pass_fds=[theirs.fileno()],
            )  # fmt: skip
        self.connection = Connection(ours.detach())

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        if self.connection is not None:
            self.connection.close()
        self.process = self.connection = None

    def death(self) -> str:
        """How the process ended, after its connection has."""
        try:
            code = self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            return "its process closed its connection"
        if code < 0:
            return f"its process was killed by signal {-code} ({signal.Signals(-code).name})"
        return f"its process ended with exit code {code}"


class _Crew:
    """The worker processes of this process, one for each run at a time."""

    def __init__(self, environments: Sequence[dict] = ()):
        self.idle, self.all, self.lock, self.stopped = [], [], threading.Lock(), False
        for environment in reversed(environments):
            self.idle.append(_Worker(environment))
        self.all += self.idle

    def take(self, threads: int) -> _Worker:
        with self.lock:
            if not self.idle:
                self.idle.append(_Worker(_caps(threads)))
                self.all.append(self.idle[-1])
            return self.idle.pop()

    def give(self, worker: _Worker) -> None:
        with self.lock:
            self.idle.append(worker)

    def stop(self) -> None:
        """Kill what computes; its attendants return."""
        self.stopped = True
        for worker in self.all:
            if worker.process is not None:
                worker.process.kill()


def _caps(threads: int, gpu: str | None = None) -> dict:
    """The environment of a worker process: its threads, its GPU."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
    return dict.fromkeys(names, str(threads)) | ({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu})


#: of a Dask worker, which has one process for each run at a time
_crew = _Crew()


# ---------------------------------------------------------------------------------------- its attendant


@dataclass(frozen=True)
class Job:
    """A task as it is sent: `payload` is the pickled (work, task)."""

    id: str
    label: str
    root: str
    ways: tuple[tuple[tuple[str, str], ...], ...]
    payload: bytes
    threads: int
    environment: dict[str, str]
    run_seconds: float | None
    start_before: float | None  # seconds since 1970
    beat_s: float
    stale_s: float

    def done(self, store: Store) -> bool:
        return any(all(key in store for key in way) for way in self.ways)


@dataclass(frozen=True)
class Result:
    """state: done, stored (by another), elsewhere (in work), late, raised, killed, hung or storage (no fault of it)."""

    state: str
    seconds: float = 0.0
    reason: str = ""
    traceback: str = ""


def attempt(job: Job, crew: _Crew | None = None) -> Result:
    """Compute a run in a worker process under a claim, unless it is stored, claimed by others or too late."""
    store = Store(job.root)
    if job.start_before is not None and time.time() > job.start_before:
        return Result("late")
    try:
        _check_mark(store)
        if job.done(store):
            return Result("stored")
        claim = store.claim(job.id, job.label, job.stale_s)
        if claim is None:
            return Result("stored" if job.done(store) else "elsewhere")
    except OSError as error:
        return Result("storage", reason=f"{type(error).__name__}: {error}")
    try:
        if job.done(store):  # by a campaign that has just released it
            return Result("stored")
        return _attended(job, claim, crew or _crew)
    finally:
        with contextlib.suppress(OSError):  # of a vanished folder; the claim goes stale
            claim.release()


def _attended(job: Job, claim, crew: _Crew) -> Result:
    worker, well = crew.take(job.threads), False
    started = time.monotonic()
    end = float("inf") if job.run_seconds is None else started + job.run_seconds
    try:
        worker.ready()
        if crew.stopped:
            return Result("late")
        worker.connection.send_bytes(pickle.dumps((job.root, job.threads, job.environment, job.payload)))
        while not worker.connection.poll(max(min(job.beat_s, end - time.monotonic()), 0)):
            if time.monotonic() >= end:
                reason = f"it took longer than {job.run_seconds / 60:g} minutes, so its process was killed"
                return Result("hung", time.monotonic() - started, reason)
            claim.beat()
        result = worker.connection.recv()
        well = True
        return result
    except (EOFError, OSError):
        if crew.stopped:
            return Result("late")
        reason = worker.death() if worker.process is not None else "no process could be started"
        return Result("killed", time.monotonic() - started, reason)
    finally:
        if not well:
            worker.kill()
        crew.give(worker)


# --------------------------------------------------------------------------------- where attempts are made


class _Local:
    """Attempts in threads of this process, each with a worker process."""

    def __init__(self, settings: Settings, events: queue.SimpleQueue):
        n, gpus = max(settings.workers, 1), settings.gpus
        self.crew = _Crew([_caps(settings.threads, gpus[i % len(gpus)] if gpus else None) for i in range(n)])
        self.threads, self.events, self.slots = ThreadPoolExecutor(n), events, n
        self.where, self.link = f"{n} worker process{'es' if n > 1 else ''}", None

    def submit(self, token: int, task, job: Job) -> None:
        def come_to(future):
            with contextlib.suppress(CancelledError):  # the campaign has ended
                error = future.exception()
                self.events.put((token, future.result() if error is None else _broken(error)))

        self.threads.submit(attempt, job, self.crew).add_done_callback(come_to)

    def lost(self) -> list[int]:
        return []

    def close(self) -> None:
        self.crew.stop()
        self.threads.shutdown(wait=True, cancel_futures=True)
        for worker in self.crew.all:
            worker.kill()


def _broken(error: BaseException) -> Result:
    text = "".join(traceback.format_exception(error))
    return Result("raised", reason=f"{type(error).__name__}: {error}", traceback=text)


class _OnDask:
    """Attempts as tasks of a Dask cluster; what a lost scheduler or worker had is made again."""

    LOOK_S = 2  # between two looks at the cluster's workers

    def __init__(self, settings: Settings, events: queue.SimpleQueue):
        self.settings, self.events, self.futures, self.count = settings, events, {}, 0
        self.cluster = start_cluster(settings.cluster) if settings.cluster else None
        self.client, self.looked, self.slots, self.gpus = None, 0.0, 1, False
        try:
            self._connect()
        except ValueError as error:  # of an address that is none
            self.close()
            raise ClusterError(
                f"{self._address()!r} is not the address of a Dask scheduler ({error}), so no run could start: give "
                "what `dask scheduler` prints, such as tcp://10.0.0.1:8786"
            ) from None
        except OSError as error:
            self.close()
            raise ClusterError(
                f"no Dask scheduler answers at {self._address()} ({error}), so no run could start; start one with: "
                "dask scheduler --host ADDRESS"
            ) from None
        self.where, self.link = f"the Dask cluster at {self.client.scheduler.address}", self._dashboard()

    def _address(self) -> str:
        return self.cluster.scheduler_address if self.cluster is not None else self.settings.scheduler

    def _connect(self) -> None:
        from distributed import Client

        self.client = Client(self._address(), timeout="10s", set_as_default=False)
        self._look()

    def _dashboard(self) -> str | None:
        services = self.client.scheduler_info().get("services", {})
        return self.client.dashboard_link if "dashboard" in services else None

    def _look(self) -> None:
        workers = self.client.run_on_scheduler(_workers)
        self.slots = max(sum(threads for threads, _ in workers), 1)
        self.gpus = any(gpu for _, gpu in workers)

    def submit(self, token: int, task, job: Job) -> None:
        self.count += 1
        resources = {"GPU": 1} if self.gpus and task.kind in self.settings.gpu_kinds else None
        key, priority = f"{job.id}-{os.getpid()}-{self.count}", -self.count
        future = self.client.submit(attempt, job, key=key, pure=False, resources=resources, priority=priority)
        self.futures[token] = future
        future.add_done_callback(lambda one: self._come_to(token, one))

    def _come_to(self, token: int, future) -> None:
        if future.status == "finished":
            self.events.put((token, future.result()))
        elif future.status == "error":
            error = future.exception()
            if type(error).__name__ == "KilledWorker":
                self.events.put((token, Result("killed", reason="the Dask workers that had it were killed")))
            else:
                self.events.put((token, _broken(error)))

    def forget(self, token: int) -> None:
        self.futures.pop(token, None)

    def lost(self) -> list[int]:
        """Tokens of what the scheduler no longer has. Raises OSError as long as there is no scheduler."""
        gone = [token for token, future in self.futures.items() if future.status in ("lost", "cancelled")]
        for token in gone:
            self.forget(token)
        if gone:
            return gone
        if self.client.status in ("closed", "closing", "newly-created"):
            gone, self.futures = list(self.futures), {}
            if gone:
                return gone
            self._connect()
        if self.client.status != "running":
            raise OSError(f"the connection to the scheduler at {self._address()} is lost")
        if time.monotonic() - self.looked > self.LOOK_S:
            self.looked = time.monotonic()
            self._look()
        return []

    def close(self) -> None:
        if self.client is not None:
            with contextlib.suppress(OSError, CancelledError, RuntimeError):  # a scheduler that is gone has no tasks
                self.client.cancel(list(self.futures.values()), force=True)
            self.client.close(timeout=5)
        if self.cluster is not None:
            self.cluster.close(timeout=10)


def _workers(dask_scheduler) -> list[tuple[int, bool]]:
    """(threads, has a GPU) of each worker, on the scheduler."""
    return [(one.nthreads, one.resources.get("GPU", 0) > 0) for one in dask_scheduler.workers.values()]


# ---------------------------------------------------------------------------------- clusters of dask-jobqueue


class Cluster(BaseModel):
    """A cluster file: a class of dask-jobqueue, how many jobs, what the class takes."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    queue: str = Field(alias="class", description="a class of dask_jobqueue, such as SLURMCluster or PBSCluster")
    jobs: int = Field(default=1, ge=1, description="jobs that are kept in the queue, each one Dask worker")
    options: dict[str, Any] = Field(default={}, description="what the class takes")


def read_cluster(path: Path | str) -> Cluster:
    """The description of a cluster in a YAML file; unknown keys are refused with one sentence."""
    needs = "a cluster file has the keys class, jobs and options, as params/clusters/slurm.yaml"
    try:
        body = plain_yaml(Path(path).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ClusterError(
            f"{path} is not valid YAML ({yaml_reason(error)}), so no job could be sent; {needs}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ClusterError(f"{path} cannot be read as a cluster file: {error}; {needs}") from None
    if not isinstance(body, dict):
        found = "is empty" if body is None else f"holds a {'list' if isinstance(body, list) else 'text'}"
        raise ClusterError(f"{path} {found}, so it describes no jobs; {needs}")
    try:
        return Cluster.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ClusterError(f"{path}: {where}: {first['msg']}; {needs}") from None


def make_cluster(described: Cluster):
    """The cluster of dask-jobqueue without jobs yet: its scheduler runs in this process.

    The scheduler listens on the loopback address unless the options name an interface or a host. Raises ClusterError
    where the class does not take the options.
    """
    import dask_jobqueue

    known = [name for name in dir(dask_jobqueue) if name.endswith("Cluster")]
    if described.queue not in known:
        raise ClusterError(
            f"class {described.queue!r} is none of dask-jobqueue's, so no job could be sent; "
            f"they are {', '.join(known)}"
        )
    options = dict(described.options)
    scheduler = options.get("scheduler_options", {})
    if not isinstance(scheduler, dict):
        raise ClusterError(
            f"options: scheduler_options is {scheduler!r}, so no scheduler could start; give `key: value` lines, or "
            "leave it out"
        )
    scheduler = dict(scheduler)
    if not (options.get("interface") or scheduler.keys() & {"interface", "host"}):
        scheduler["host"] = "127.0.0.1"
        scheduler.setdefault("dashboard_address", "127.0.0.1:8787")
    try:
        return getattr(dask_jobqueue, described.queue)(**{**options, "scheduler_options": scheduler})
    except (AttributeError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        why = " ".join(str(error).split())
        raise ClusterError(
            f"{described.queue} does not take these options ({why}), so no job could be sent; correct the options of "
            "the cluster file"
        ) from error


def start_cluster(path: Path | str):
    """The cluster of a file, with its jobs in the queue."""
    described = read_cluster(path)
    cluster = make_cluster(described)
    cluster.adapt(minimum_jobs=described.jobs, maximum_jobs=described.jobs)  # a job that ends is sent again
    return cluster


# ----------------------------------------------------------------------------------------- the campaign


@dataclass
class _State:
    """Where each run of a campaign stands."""

    waiting: deque = field(default_factory=deque)  # to start
    elsewhere: dict = field(default_factory=dict)  # index: when to look again
    out: dict = field(default_factory=dict)  # token: index
    tries: Counter = field(default_factory=Counter)
    kills: Counter = field(default_factory=Counter)
    seconds: dict = field(default_factory=dict)  # index: measured, of those computed here
    stored: set = field(default_factory=set)
    failed: dict = field(default_factory=dict)
    left: set = field(default_factory=set)


def complete(
    tasks: Sequence,
    store: Store,
    work: Callable,
    settings: Settings = Settings(),
    *,
    costs: Sequence[float] | None = None,
    progress: bool = True,
) -> Done:
    """Compute tasks in their order, those last that failed before; each is in the store whole or not at all.

    work      work(task, store) computes a task and writes its records; found by its module in a worker process
    costs     expected seconds of each task; the first runs that end correct them
    progress  a table on a terminal, else lines, on stderr
    Raises EngineError where the store or the scheduler is gone for longer than settings.patience_s.
    """
    store.sweep()
    if not tasks:
        return Done(0, 0, (), ())
    return _Campaign(list(tasks), store, work, settings, costs, progress).run()


class _Campaign:
    def __init__(self, tasks, store, work, settings, costs, progress):
        self.tasks, self.store, self.work, self.settings = tasks, store, work, settings
        self.costs = list(costs) if costs is not None else [1.0] * len(tasks)
        self.events, self.state, self.count = queue.SimpleQueue(), _State(), 0
        self.trouble = self.pause = 0.0  # since when nothing works, and until when nothing is started
        limit = settings.limit_minutes
        self.start_before = None if limit is None else time.time() + 60 * limit
        self.board = _Board(self, progress)

    def run(self) -> Done:
        (self.store.root).mkdir(parents=True, exist_ok=True)
        mark = self.store.root / MARK
        if not mark.exists():
            write_text(mark, "records of a campaign\n")
        self.noted = self.store.failures()
        before = [i for i, task in enumerate(self.tasks) if self._key(task) in self.noted]
        self.state.waiting.extend(i for i in range(len(self.tasks)) if i not in set(before))
        self.state.waiting.extend(before)
        pool = (_OnDask if self.settings.scheduler or self.settings.cluster else _Local)(self.settings, self.events)
        try:
            self.board.begin(pool)
            while self.state.waiting or self.state.out or self.state.elsewhere:
                self._step(pool)
            self.board.end()
        finally:
            pool.close()
        s = self.state
        failed = tuple((self.tasks[i].label, why) for i, why in sorted(s.failed.items()))
        return Done(len(s.seconds), len(s.stored), failed, tuple(self.tasks[i].label for i in sorted(s.left)))

    @staticmethod
    def _key(task) -> tuple[str, str]:
        return task.keys[0]

    def _step(self, pool) -> None:
        s, now = self.state, time.monotonic()
        if self.start_before is not None and time.time() > self.start_before:
            s.left.update(s.waiting, s.elsewhere)
            s.waiting.clear()
            s.elsewhere.clear()
        for i in [i for i, at in s.elsewhere.items() if at <= now]:
            del s.elsewhere[i]
            s.waiting.append(i)
        while s.waiting and now >= self.pause and len(s.out) < 2 * pool.slots:
            self._submit(pool, s.waiting.popleft())
        try:
            token, result = self.events.get(timeout=0.5)
        except queue.Empty:
            pass
        else:
            i = s.out.pop(token, None)
            if i is not None:  # else of a scheduler that was lost
                self._come_to(i, result)
            if isinstance(pool, _OnDask):
                pool.forget(token)
        try:
            for token in pool.lost():
                if token in s.out:
                    s.waiting.appendleft(s.out.pop(token))
        except OSError as error:
            self._trouble(str(error), "scheduler")
        self.board.show()

    def _submit(self, pool, i: int) -> None:
        task, settings = self.tasks[i], self.settings
        job = Job(
            id=self._key(task)[1],
            label=task.label,
            root=str(self.store.root.absolute()),
            ways=task.ways,
            payload=pickle.dumps((self.work, task)),
            threads=settings.threads,
            environment=settings.environment,
            run_seconds=None if settings.run_minutes is None else 60 * settings.run_minutes,
            start_before=self.start_before,
            beat_s=settings.beat_s,
            stale_s=settings.stale_s,
        )
        self.count += 1
        self.state.out[self.count] = i
        try:
            pool.submit(self.count, task, job)
        except (OSError, CancelledError) as error:  # the scheduler is gone
            del self.state.out[self.count]
            self.state.waiting.appendleft(i)
            self._trouble(str(error), "scheduler")

    def _come_to(self, i: int, result: Result) -> None:
        s, task = self.state, self.tasks[i]
        if result.state == "storage":
            s.waiting.appendleft(i)
            return self._trouble(result.reason, "store")
        if result.state == "late":
            s.left.add(i)
        elif result.state == "elsewhere":
            s.elsewhere[i] = time.monotonic() + 1
        elif result.state in ("done", "stored"):
            self.trouble = 0.0
            if result.state == "done":
                s.seconds[i] = result.seconds
            else:
                s.stored.add(i)
            if self._key(task) in self.noted or s.tries[i] or s.kills[i]:
                self._noted(i, lambda: self.store.forgive(*self._key(task)))
        else:
            self._failed(i, result)
        return None

    def _failed(self, i: int, result: Result) -> None:
        s, task = self.state, self.tasks[i]
        counted = s.kills if result.state == "killed" else s.tries
        counted[i] += 1
        attempts = self.noted.get(self._key(task), {}).get("attempts", 0) + s.tries[i] + s.kills[i]
        note = (*self._key(task), task.label, result.reason, result.traceback, attempts)
        self._noted(i, lambda: self.store.fail(*note))
        most = {"killed": MOST_KILLS, "raised": self.settings.retries, "hung": 0}[result.state]
        if counted[i] <= most:
            self.board.say(f"tried again: {task.label}: {result.reason}")
            s.waiting.append(i)
        else:
            self.board.say(f"failed: {task.label}: {result.reason}")
            s.failed[i] = result.reason

    def _noted(self, i: int, note: Callable) -> None:
        """Note something in the store, unless that is gone: then the campaign waits for it."""
        try:
            _check_mark(self.store)
            note()
        except OSError as error:
            self._trouble(str(error), "store")

    def _trouble(self, reason: str, what: str) -> None:
        now = time.monotonic()
        if not self.trouble:
            self.trouble = now
            self.board.say(f"waiting: {reason}")
        self.pause = now + 1
        if now - self.trouble > self.settings.patience_s:
            if what == "store":
                raise EngineError(
                    f"the folder of the records, {self.store.root}, could not be written to ({reason}), so no result "
                    "could be kept; make it writable, and the same command continues"
                )
            raise EngineError(
                f"{reason}, and so no run could start; start the scheduler and its workers again, and the same "
                "command continues"
            )

    def seconds_left(self, slots: int) -> float:
        """By the expected seconds, corrected by those measured: of the same kind and model where there are any."""
        s, known = self.state, {}
        for i, seconds in s.seconds.items():
            for key in (_group(self.tasks[i]), None):
                at = known.setdefault(key, [0.0, 0.0])
                at[0], at[1] = at[0] + seconds, at[1] + self.costs[i]
        total = 0.0
        for i in (*s.waiting, *s.out.values()):
            measured, expected = known.get(_group(self.tasks[i])) or known.get(None) or (1.0, 1.0)
            total += self.costs[i] * measured / max(expected, 1e-9)
        return total / max(slots, 1)


def _group(task) -> tuple:
    return task.kind, task.params.get("model")


# ------------------------------------------------------------------------------------------- the table


STATES = ("done", "running", "failed", "to do")


class _Board:
    """A table on a terminal: a row an image set, model and size; elsewhere a line now and then."""

    def __init__(self, campaign: _Campaign, progress: bool):
        self.campaign, self.on = campaign, progress
        self.live = progress and sys.stderr.isatty()
        self.drawn, self.next, self.pool = 0, 0.0, None

    def begin(self, pool) -> None:
        self.pool = pool
        c = self.campaign
        self.say(f"{len(c.tasks)} runs to do on {pool.where}: {_duration(c.seconds_left(pool.slots))} as estimated")
        if pool.link:
            self.say(f"dashboard: {pool.link}")
        self.next = time.monotonic() + (0 if self.live else PLAIN_S)

    def say(self, line: str) -> None:
        if self.on:
            self._erase()
            print(line, file=sys.stderr, flush=True)
            self.next = min(self.next, time.monotonic() + 1) if self.live else self.next

    def show(self, force: bool = False) -> None:
        if not self.on or (time.monotonic() < self.next and not force):
            return
        self.next = time.monotonic() + (1 if self.live else PLAIN_S)
        rows = self._rows()
        total = Counter()
        for counts in rows.values():
            total.update(counts)
        said = ", ".join(f"{total[state]} {state}" for state in STATES)
        left = self.campaign.seconds_left(self.pool.slots)
        line = f"{len(self.campaign.tasks)} runs: {said}; {_duration(left)} left"
        if not self.live:
            print(line, file=sys.stderr, flush=True)
            return
        self._erase()
        width, height = shutil.get_terminal_size()
        shown = table(rows, max(height - 4, 1))
        print(*(text[: width - 1] for text in [*shown, line]), sep="\n", file=sys.stderr, flush=True)
        self.drawn = len(shown) + 1

    def end(self) -> None:
        if self.campaign.state.seconds or self.live:
            self.show(force=True)

    def _erase(self) -> None:
        if self.live and self.drawn:
            print(f"\x1b[{self.drawn}F\x1b[J", end="", file=sys.stderr)
            self.drawn = 0

    def _rows(self) -> dict:
        c, rows = self.campaign, {}
        s, claims = c.state, _claims(c.store)
        for i, task in enumerate(c.tasks):
            p = task.params
            counts = rows.setdefault((p.get("dataset", ""), p.get("model", task.kind), p.get("n_train", "")), Counter())
            if i in s.seconds or i in s.stored:
                counts["done"] += 1
            elif i in s.failed:
                counts["failed"] += 1
            else:
                counts["running" if c._key(task)[1] in claims else "to do"] += 1
        return rows


def _claims(store: Store) -> set[str]:
    try:
        return {id for id, one in store.claims().items() if not one["stale"]}
    except OSError:  # the folder has vanished, which the runs tell
        return set()


def table(rows: dict[tuple, Counter], height: int) -> list[str]:
    """Lines of the table, at most `height`: what runs and what has failed first, what is done last."""

    def urgency(item):
        counts = item[1]
        return (not counts["running"], not counts["failed"], not counts["to do"])

    shown = sorted(rows.items(), key=urgency)
    rest = len(shown) - (height - 1)
    if rest > 0:
        shown = shown[: max(height - 2, 0)]
    cells = [("image set", "model", "N", *STATES)]
    cells += [(*map(str, key), *(str(counts[state]) for state in STATES)) for key, counts in shown]
    widths = [max(len(line[j]) for line in cells) for j in range(len(cells[0]))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in cells]
    return [*lines, f"... and {len(rows) - len(shown)} rows more"] if rest > 0 else lines


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"
