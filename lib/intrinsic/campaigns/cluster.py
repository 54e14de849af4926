"""Where tasks are computed, one path for all: processes of this machine, a running scheduler, or jobs of a queue.

Dask is imported where it is used, so that a wrong address is told at once.
"""

import contextlib
import logging
import os
import re
import signal
import socket
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

DEATHS = 10  # of its workers, after which a task has failed


class ClusterError(ValueError):
    """A cluster file or a scheduler that cannot be used."""


def check_address(address: str) -> None:
    """Raise ClusterError, within seconds, where no scheduler can be or none is."""
    found = re.fullmatch(r"(?:tcp|tls|ws|wss)://(?P<host>[^/\s]+):(?P<port>\d+)", address)
    if not found:
        raise ClusterError(
            f"{address!r} is no address of a Dask scheduler, so no run could start: give what `dask scheduler` prints, "
            "such as tcp://10.0.0.1:8786"
        )
    try:
        socket.create_connection((found["host"].strip("[]"), int(found["port"])), timeout=2).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(
            f"no Dask scheduler answers at {address} ({error}), so no run could start: start one with `dask scheduler`"
        ) from None


def queue_cluster(path: Path | str):
    """The cluster of dask-jobqueue that a YAML file describes: class, jobs, and options that the class takes.

    Its scheduler runs here, and listens on the loopback address unless the options name an interface or a host.
    """
    import dask_jobqueue
    import yaml

    from intrinsic import images

    try:
        body = images.plain_yaml(Path(path).read_text(encoding="utf-8"))
        kind, jobs, options = body.pop("class"), body.pop("jobs", 1), dict(body.pop("options", {}))
        if body or jobs < 1:
            raise ValueError(f"{next(iter(body), 'jobs')} is not understood")
        scheduler = dict(options.get("scheduler_options", {}))
        if not (options.get("interface") or scheduler.keys() & {"interface", "host"}):
            scheduler = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:8787"} | scheduler
        cluster = getattr(dask_jobqueue, kind)(**{**options, "scheduler_options": scheduler})
    except (yaml.YAMLError, AttributeError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        why = f"{error} is missing" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise ClusterError(
            f"{path} describes no cluster of dask-jobqueue ({why}), so no job could be sent: give class, jobs and "
            "options as in params/clusters/slurm.yaml"
        ) from None
    cluster.adapt(minimum_jobs=jobs, maximum_jobs=jobs)  # a job that ends is sent again
    return cluster


@contextlib.contextmanager
def client(workers: int = 1, scheduler: str | None = None, cluster: Path | str | None = None):
    """Connect to a running scheduler, to the cluster of a file, or to as many processes of this machine as `workers`.

    An address that begins with tls:// takes the security settings of Dask's own configuration. Raises ClusterError.
    """
    import dask
    import distributed

    if scheduler and cluster:
        raise ClusterError("a scheduler's address and a cluster file are both given, and one would be idle: give one")
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    dask.config.set({"distributed.scheduler.allowed-failures": DEATHS, "distributed.comm.retry.count": 1})
    if scheduler:
        check_address(scheduler)
        made = None
    elif cluster:
        made = queue_cluster(cluster)
    else:
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
    from distributed import as_completed
    from tqdm import tqdm

    futures, failed, running, live = {}, 0, 0, sys.stderr.isatty()
    for i, job in enumerate(jobs):
        key = f"runs-{uuid.uuid4().hex}"
        futures[client.submit(function, job, key=key, pure=False, retries=retries, priority=-i)] = job
    form = "{n_fmt} of {total_fmt} runs done{postfix}, {remaining} left" + ("" if live else "\n")
    how = {"leave": False, "bar_format": form, "mininterval": 0.1 if live else 60, "miniters": 1}
    with tqdm(total=len(jobs), postfix="0 running, 0 failed", disable=not progress, **how) as bar:
        for future in as_completed(list(futures), loop=client.loop):
            if future.status in ("cancelled", "lost"):
                raise ClusterError(
                    f"the scheduler at {client.scheduler.address} is gone, so no run can go on; start it again, and "
                    "the same command continues"
                )
            failed += future.status == "error"
            if progress:
                with contextlib.suppress(OSError, RuntimeError, ValueError):  # of a scheduler that dies meanwhile
                    running = min(sum(client.nthreads().values()), len(futures) - 1)
                bar.set_postfix_str(f"{running} running, {failed} failed", refresh=False)
            bar.update()
            yield futures.pop(future), future
