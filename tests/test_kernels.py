"""Kernels that are forked from a process that has loaded the package: as kernels that load it, but sooner."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import papermill
import pytest
from test_book import write_notebook

from intrinsic import images
from intrinsic.campaigns import kernels

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("kernels"),
    pytest.mark.skipif(not kernels.can_fork(), reason="kernels are forked on Linux only"),
]


@pytest.fixture(autouse=True)
def closed():
    yield
    while kernels._started:
        kernels._started.pop().close()


def executed(notebook, **parameters):
    """The texts that its cells print."""
    out = notebook.with_suffix(".out.ipynb")
    how = {"kernel_name": "python3", "progress_bar": False, "kernel_manager_class": kernels.Manager}
    papermill.execute_notebook(str(notebook), str(out), parameters=parameters, cwd=str(notebook.parent), **how)
    cells = nbformat.read(out, 4).cells
    return ["".join(one.text for one in c.outputs) for c in cells if c.cell_type == "code" and c.outputs]


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until_gone(pids, seconds=10):
    until = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < until:
        time.sleep(0.05)
    return [pid for pid in pids if alive(pid)]


def test_each_notebook_has_a_process_of_its_own_with_the_package_loaded(tmp_path, monkeypatch):
    monkeypatch.setenv("OF_THE_TEST", "a")
    cells = (
        "import os, sys\nprint(os.getpid(), os.getppid(), 'torch' in sys.modules, "
        "'intrinsic.publishing.charts' in sys.modules)",
        "print(k, os.getcwd(), os.environ.get('OF_THE_TEST'), 'left' in globals())",
        "left, os.environ['OF_THE_TEST'] = 1, 'changed'",
    )
    notebook = write_notebook(tmp_path / "one.ipynb", *cells, parameters="k = 1")
    first, second = executed(notebook, k=2), executed(notebook, k=3)
    assert first[1].split() == ["2", str(tmp_path), "a", "False"]
    assert second[1].split() == ["3", str(tmp_path), "a", "False"]
    pids, parents, *loaded = zip(first[0].split(), second[0].split(), strict=True)
    assert set(sum(loaded, ())) == {"True"}
    assert pids[0] != pids[1]
    assert parents[0] == parents[1] == str(kernels._started[0].process.pid)
    assert wait_until_gone(pids) == []
    monkeypatch.setenv("OF_THE_TEST", "b")  # of another environment: another server, as modules may have read it
    third = executed(notebook, k=4)
    assert third[1].split() == ["4", str(tmp_path), "b", "False"]
    assert third[0].split()[1] != parents[0]
    assert wait_until_gone(parents[:1]) == []


def test_processes_that_a_notebook_starts_are_waited_for_and_interrupts_arrive(tmp_path):
    """Signals that the server ignores are a kernel's again."""
    cells = (
        "import os, signal, subprocess\nprint(subprocess.run(['sh', '-c', 'exit 3']).returncode)",
        "try:\n    os.kill(os.getpid(), signal.SIGINT)\n    import time\n    time.sleep(5)\n"
        "except KeyboardInterrupt:\n    print('interrupted')",
    )
    assert executed(write_notebook(tmp_path / "one.ipynb", *cells, parameters="k = 1")) == ["3\n", "interrupted\n"]


def test_the_same_notebook_gives_the_same_where_nothing_is_forked(tmp_path, monkeypatch):
    cells = (
        "from intrinsic import charts, statistics\nimport numpy as np, torch",
        "print(statistics.correlation(np.arange(9.0), np.arange(9.0) ** 2), torch.get_num_threads())",
        "print(torch.linalg.eigvalsh(torch.eye(200) + torch.ones(200, 200))[-1].item())",
    )
    notebook = write_notebook(tmp_path / "one.ipynb", *cells, parameters="k = 1")
    forked = executed(notebook)
    monkeypatch.setattr(kernels, "can_fork", lambda: False)
    assert executed(notebook) == forked


def test_nothing_stays_when_the_process_that_executes_is_killed(tmp_path):
    told = tmp_path / "told"
    cell = f"import os, time\nopen({str(told)!r}, 'w').write(f'{{os.getpid()}} {{os.getppid()}}')\ntime.sleep(600)"
    notebook = write_notebook(tmp_path / "endless.ipynb", cell, parameters="k = 1")
    script = (
        "import papermill, sys\nfrom intrinsic import kernels\npapermill.execute_notebook(sys.argv[1], sys.argv[2],"
        " kernel_name='python3', progress_bar=False, kernel_manager_class=kernels.Manager)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "INTRINSIC_HOME": str(images.REPOSITORY)}
    command = [sys.executable, "-c", script, str(notebook), str(tmp_path / "out.ipynb")]
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        until = time.monotonic() + 120
        while not (told.exists() and len(told.read_text().split()) == 2) and time.monotonic() < until:
            time.sleep(0.1)
        pids = told.read_text().split()
        assert all(map(alive, pids))
        process.send_signal(signal.SIGKILL)
    assert wait_until_gone(pids) == []


def test_a_server_that_ended_is_replaced_or_named(tmp_path):
    notebook = write_notebook(tmp_path / "one.ipynb", "print(k)", parameters="k = 1")
    assert executed(notebook) == ["1\n"]
    server = kernels._started[0]
    server.process.kill()
    server.process.wait()
    with pytest.raises(OSError, match="the process that forks kernels ended with code -9"):
        server.fork([], {}, None)
    assert executed(notebook) == ["1\n"]
    assert kernels._started[0] is not server
