"""A notebook of the book in JupyterLab, in a browser: it runs, and its chart is drawn there."""

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from browser import MISSING, find_chromium

from intrinsic import images

NOTEBOOK = "book/methods/sharpness.ipynb"
pytestmark = [pytest.mark.long, pytest.mark.slow, pytest.mark.browser]


@contextlib.contextmanager
def jupyterlab(folder, *, quiet_home):
    """A JupyterLab that serves the book of a folder, without a password, on a port of this machine; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home = {name: str(quiet_home / name) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")}
    environment = {**os.environ, **home, "IPYTHONDIR": str(quiet_home / "ipython")}
    environment |= {"INTRINSIC_HOME": str(images.REPOSITORY), "JUPYTERLAB_SETTINGS_DIR": str(quiet_home / "settings")}
    environment |= {"JUPYTERLAB_WORKSPACES_DIR": str(quiet_home / "workspaces"), "JUPYTER_PREFER_ENV_PATH": "1"}
    command = [sys.executable, "-m", "jupyter", "lab", "--notebook-dir=.", NOTEBOOK]  # as make lab
    command += [
        f"--ServerApp.port={port}",
        "--no-browser",
        "--allow-root",
        "--IdentityProvider.token=",
        "--ServerApp.ip=127.0.0.1",
    ]
    log = quiet_home / "lab.log"
    with log.open("w") as said:
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=said, stderr=subprocess.STDOUT)
    address = f"http://127.0.0.1:{port}/"
    try:
        for _ in range(240):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}api/status", timeout=5):
                break
            assert server.poll() is None, log.read_text()
            time.sleep(0.5)
        else:
            pytest.fail(f"JupyterLab did not start:\n{log.read_text()}")
        yield address
    finally:
        server.terminate()
        server.wait(60)


def only_first_chart(source, target):
    """A notebook up to the first cell that draws a chart: what JupyterLab adds is the same for all of them."""
    import nbformat

    notebook = nbformat.read(source, 4)
    last = next(
        i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code" and "figures.lines(" in cell.source
    )
    notebook.cells = notebook.cells[: last + 1]
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", []):
            cell.source += "\nsize, per_class, draws = 16, 50, 2  # less to compute"
    nbformat.write(notebook, target)


def test_a_notebook_runs_in_jupyterlab_and_its_chart_is_drawn(tmp_path):
    from playwright.sync_api import expect, sync_playwright

    chromium = find_chromium()
    if chromium is None:
        pytest.fail(MISSING)
    (tmp_path / "home").mkdir()
    (tmp_path / NOTEBOOK).parent.mkdir(parents=True)
    only_first_chart(images.REPOSITORY / NOTEBOOK, tmp_path / NOTEBOOK)
    with jupyterlab(tmp_path, quiet_home=tmp_path / "home") as address, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        errors = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"{address}lab/tree/{NOTEBOOK}", wait_until="load")
        notebook = page.locator(".jp-Notebook")
        notebook.wait_for(timeout=120_000)
        expect(
            page.locator("[data-status='idle'], .jp-Notebook-ExecutionIndicator[data-status='idle']").first
        ).to_be_attached(timeout=120_000)
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        chart = page.locator(".jp-OutputArea-output .vega-embed svg, .jp-OutputArea-output .vega-embed canvas").first
        chart.wait_for(timeout=240_000)
        box = chart.bounding_box()
        failed = page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.error']")
        assert failed.all_inner_texts() == []
        assert min(box["width"], box["height"]) > 100
        assert errors == []
        browser.close()
