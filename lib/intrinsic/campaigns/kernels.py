"""Kernels of notebooks that start with this package loaded.

Loading torch, pandas and altair takes longer than most notebooks that read records. Where a process can be forked
safely, one process loads them once and forks a kernel for each notebook; elsewhere each kernel loads them itself. What
a notebook computes is the same.
"""

import contextlib
import importlib
import json
import logging
import os
import select
import signal
import subprocess
import sys
import threading

from jupyter_client import AsyncKernelManager
from jupyter_client.provisioning import LocalProvisioner

LAUNCHER = "ipykernel_launcher"
LOADED = (
    "ipykernel.kernelapp",
    "ipykernel.zmqshell",
    "torch",
    "intrinsic.publishing.charts",
    "intrinsic.campaigns.campaign",
)
LOADED += tuple(f"intrinsic.inference.{name}" for name in ("statistics", "forecast", "audit", "controlled", "further"))
OF_ONE_KERNEL = ("JPY_", "PAPERMILL_")  # variables that differ between kernels of one environment


def can_fork() -> bool:
    """Whether kernels are forked here: on Linux, where no library of the system forbids it."""
    return sys.platform == "linux" and hasattr(os, "pidfd_open")


class Server:
    """A process that has loaded `LOADED` in an environment, and forks kernels."""

    def __init__(self, environment: dict):
        self.environment, self.lock = dict(environment), threading.Lock()
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "encoding": "utf-8"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "intrinsic.campaigns.kernels"], env=self.environment, **pipes
        )

    def fork(self, arguments: list[str], environment: dict, folder: str | None) -> int:
        """The process id of a new kernel; raises OSError where the server is gone."""
        request = {"arguments": arguments, "environment": environment, "folder": folder}
        answer = ""
        with self.lock, contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        if not answer:
            raise OSError(f"the process that forks kernels ended with code {self.process.wait()}")
        return int(answer)

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


_started: list[Server] = []  # of this process: one at most


def server(environment: dict) -> Server:
    """The server of this process; another one where it has ended or the environment is another."""
    environment = {name: value for name, value in environment.items() if not name.startswith(OF_ONE_KERNEL)}
    if _started and (_started[0].environment != environment or _started[0].process.poll() is not None):
        _started.pop().close()
    if not _started:
        _started.append(Server(environment))
    return _started[0]


class _Forked:
    """What jupyter_client asks of a process, of one that is another process's child."""

    stdin = stdout = stderr = None

    def __init__(self, pid: int):
        self.pid, self.returncode = pid, None
        try:
            self.file = os.pidfd_open(pid)
        except ProcessLookupError:  # it has ended already
            self.file, self.returncode = None, 0

    def poll(self) -> int | None:
        """None while it runs; then 0, since only its parent learns what it returned."""
        if self.returncode is None and select.select([self.file], [], [], 0)[0]:
            os.close(self.file)
            self.file, self.returncode = None, 0
        return self.returncode

    def wait(self) -> int:
        if self.returncode is None:
            select.select([self.file], [], [])
        return self.poll()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            signal.pidfd_send_signal(self.file, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


class _Provisioner(LocalProvisioner):
    """Starts a kernel by forking the server, where its command is that of ipykernel."""

    async def launch_kernel(self, cmd, **kwargs):
        if cmd[0] != sys.executable or LAUNCHER not in cmd:
            return await super().launch_kernel(cmd, **kwargs)
        environment = kwargs.get("env") or dict(os.environ)
        pid = server(environment).fork(cmd[cmd.index(LAUNCHER) + 1 :], environment, kwargs.get("cwd"))
        self.process, self.pid, self.pgid = _Forked(pid), pid, pid
        self.cwd = kwargs.get("cwd", self.cwd)
        return self.connection_info


class Manager(AsyncKernelManager):
    """jupyter_client's, whose kernels are forked where that is possible."""

    def __init__(self, **options):
        super().__init__(**options)
        if can_fork():
            self.provisioner = _Provisioner(kernel_id="", kernel_spec=self.kernel_spec, parent=self)


# ------------------------------------------------------------------------------------------- in the server's process


def serve() -> None:
    """Read requests, one a line, and fork a kernel for each, until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children that end leave nothing
    for name in LOADED:
        importlib.import_module(name)
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _become_kernel(**request)
        print(pid, flush=True)


def _become_kernel(arguments, environment, folder) -> None:
    """The rest of the life of a forked process."""
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        os.environ.clear()
        os.environ.update(environment)
        if folder:
            os.chdir(folder)
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, 0)
        os.dup2(nothing, 1)
        sys.argv = [LAUNCHER, *arguments]
        from ipykernel.kernelapp import launch_new_instance

        # jupyter_client interrupts a kernel before it ends it: nothing that went wrong
        logging.getLogger("IPKernelApp").addFilter(lambda record: "KeyboardInterrupt" not in record.getMessage())
        own = (f"--IPKernelApp.parent_handle={os.getppid()}", "--IPKernelApp.log_level=ERROR")
        launch_new_instance(argv=[*arguments, *own])
    finally:
        sys.stderr.flush()
        os._exit(0)


if __name__ == "__main__":
    if sys.path[0] in ("", os.getcwd()):  # as of a kernel, which adds the folder of its notebook
        del sys.path[0]
    serve()
