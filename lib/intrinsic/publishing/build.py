"""Parameter file -> executed notebooks -> what Sphinx reads -> the book as HTML.

Nothing is written outside the build folder, whose parts are executed/, source/ and html/.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import nbclient
import nbformat
import papermill
import yaml
from dask.system import CPU_COUNT
from jupyter_client import AsyncKernelManager
from jupyter_core.utils import run_sync
from sphinx_external_toc.parsing import parse_toc_data
from tqdm import tqdm

from intrinsic import images
from intrinsic.campaigns import parameters, records
from intrinsic.campaigns.plan import environment

TEMPLATE = "book/yours/image_set"
BESIDE = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "_config.yml")


class BookError(RuntimeError):
    """A notebook or a page that fails, or a parameter that would change nothing."""


@dataclass(frozen=True)
class Page:
    """A notebook of the book, the page that it becomes, and the parameters it is given."""

    source: Path
    name: str  # "book/claims/x": the page without suffix
    parameters: dict
    title: str | None = None  # of the page of an image set


def build(params=None, *, output=None, compute=True, workers=None, progress=True, **where) -> Path:
    """Complete a campaign, execute the notebooks, build the HTML; return its first page.

    Parameters
    ----------
    params : path of a parameter file, optional
        The campaign that pages show. None: each page's own parameters, and nothing is computed.
    output : path, optional
        Folder for all that is made; `_build` of the repository otherwise.
    workers : int, optional
        Processes that train, and that execute notebooks; one a core otherwise.
    compute, progress : bool
        Train what the campaign lacks first; draw progress bars.
    **where
        Where runs are computed, as for `execution.run`: `scheduler`, `cluster`, `run_minutes`.

    Raises
    ------
    BookError
        Where a run or a notebook fails, or Sphinx warns. What was finished is kept.
    """
    toc = yaml.safe_load((images.REPOSITORY / "_toc.yml").read_text(encoding="utf-8"))
    p = parameters.read(params, {"workers": workers} if workers else None) if params else None
    pages = plan(toc, given(params), p.datasets) if p else plan(toc, {})
    if p and compute:
        from intrinsic.campaigns import execution

        outcome = execution.run(p, progress=progress, **where)
        if outcome.failed:
            label, reason = outcome.failed[0]
            raise BookError(f"{len(outcome.failed)} runs failed, so the book would lack them; {label}: {reason}")
    if sets := [{"file": page.name, "title": page.title} for page in pages if page.title is not None]:
        toc.setdefault("parts", []).append({"caption": "Image sets on this machine", "chapters": sets})
    folder = (images.REPOSITORY / "_build" if output is None else Path(output)).expanduser().resolve()
    state = str(sorted(records.default_store().keys()))
    execute(pages, folder / "executed", state=state, workers=workers, progress=progress)
    assemble(pages, toc, folder)
    index = render(folder)
    print(index)
    return index


def given(params) -> dict:
    """Return the values that a parameter file gives to pages: its keys, and the file itself as `campaign`."""
    p = parameters.read(params)
    values = p.model_dump(mode="json", include=p.model_fields_set)
    return values | {"campaign": str(Path(params).resolve()), "name": p.name}


def plan(toc: dict, values: dict, datasets=()) -> list[Page]:
    """Return the notebooks of a table of contents with the parameters of each, and a page an image set."""
    pages = []
    for name in parse_toc_data(toc):
        source = images.REPOSITORY / f"{name}.ipynb"
        if source.exists():
            pages.append(Page(source, name, _parameters(source, values)))
        elif name != "genindex" and not source.with_suffix(".md").exists():
            raise BookError(f"_toc.yml names {name}, but there is no {name}.ipynb or {name}.md: write one of them")
    return pages + [set_page(dataset, values) for dataset in dict.fromkeys(datasets)]


def _parameters(source: Path, values: dict) -> dict:
    """The given values of those parameters that a notebook declares."""
    return {name: values[name] for name in papermill.inspect_notebook(str(source)) if name in values}


def set_page(dataset: str, values: dict) -> Page:
    source = images.REPOSITORY / f"{TEMPLATE}.ipynb"
    entry = images.catalogue().get(dataset)
    place = dataset if entry else str(Path(dataset).expanduser().resolve())
    slug = re.sub(r"[^A-Za-z0-9-]+", "_", dataset if entry else Path(place).stem).strip("_") or "set"
    if not entry:
        slug += f"-{hashlib.sha256(place.encode()).hexdigest()[:6]}"
    title = entry.title if entry else Path(place).name
    return Page(source, f"book/image_sets/{slug}", {**_parameters(source, values), "dataset": place}, title)


def execute(pages: list[Page], folder: Path, *, state: str, workers: int | None = None, progress=True) -> int:
    """Execute the notebooks whose inputs changed; return how many.

    There is one kernel a core. It takes page after page and forgets the names of each, so that imports are paid once.
    Inputs are the notebook, its parameters, the package and `state`, a hash of the records. Raises BookError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shared = f"{state} {_package_hash()}"
    jobs = [(page, folder / f"{page.name}.ipynb", _inputs(page, shared)) for page in pages]
    todo = [job for job in jobs if _kept(job[1]) != job[2]]
    for stale in set((folder / "book").rglob("*.ipynb")) - {target for _, target, _ in jobs}:
        stale.unlink()
    workers, waiting = max(1, min(workers or CPU_COUNT, len(todo))), iter(todo)
    environment = _environment(folder, max(1, CPU_COUNT // workers))
    bar = tqdm(total=len(todo), desc="pages", disable=not progress or not todo)
    with bar, patch.dict(os.environ, environment), ThreadPoolExecutor(workers) as pool:
        working = [pool.submit(_work, waiting, bar) for _ in range(workers)]
        failed = sorted(reason for one in working for reason in one.result())
    if failed:
        raise BookError("\n\n".join(failed))
    return len(todo)


def _work(jobs, bar) -> list[str]:
    """Execute notebook after notebook in one kernel; return why each that failed did."""
    failed, kernel = [], AsyncKernelManager(kernel_name="python3")
    for page, target, key in jobs:
        try:
            failed += filter(None, [_execute(page, target, key, kernel)])
        except (nbclient.exceptions.DeadKernelError, RuntimeError) as error:
            failed.append(f"{parameters.shown(page.source)} could not be executed: {error}")
            kernel = AsyncKernelManager(kernel_name="python3")
        bar.update()
    if kernel.has_kernel:
        run_sync(kernel.shutdown_kernel)(now=True)
    return failed


def _execute(page: Page, target: Path, key: str, kernel) -> str:
    """Execute one notebook; return why it failed, or nothing."""
    draft = target.with_suffix(".draft.ipynb")
    target.parent.mkdir(parents=True, exist_ok=True)
    how = {"parameters": page.parameters, "cwd": str(images.REPOSITORY), "kernel_name": "python3", "language": "python"}
    how |= {"progress_bar": False, "start_timeout": 180}
    if kernel.has_kernel:
        forget = nbformat.v4.new_code_cell("get_ipython().reset()")
        nbclient.NotebookClient(nbformat.v4.new_notebook(cells=[forget]), km=kernel).execute()
    try:
        papermill.execute_notebook(str(page.source), str(draft), km=kernel, **how)
    except papermill.PapermillExecutionError as error:
        cell = "\n".join(f"    {line}" for line in error.source.rstrip().splitlines())
        of = f"{parameters.shown(page.source)}{f' ({page.title})' if page.title else ''} failed at its code cell"
        return f"{of} {error.exec_count}:\n{cell}\n{error.ename}: {error.evalue}\n(as far as it came: {draft})"
    notebook = json.loads(draft.read_text(encoding="utf-8"))
    _finish(notebook, page, key)
    draft.write_text(json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
    draft.replace(target)
    return ""


def _finish(notebook: dict, page: Page, key: str) -> None:
    """Make a page of an executed notebook: no paths and times, the title of its set, the values that were used."""
    notebook["metadata"] = {k: v for k, v in notebook["metadata"].items() if k != "papermill"}
    notebook["metadata"]["intrinsic"] = {"inputs": key}
    tagged = {}
    for cell in notebook["cells"]:
        kept = {k: v for k, v in cell["metadata"].items() if k not in ("papermill", "execution", "collapsed")}
        cell["metadata"] = kept
        tagged |= dict.fromkeys(kept.get("tags", []), cell)
    if page.title is not None:
        first = notebook["cells"][0]
        title = re.sub(r"([\\`*_{}\[\]<>#$|~])", r"\\\1", page.title)
        first["source"] = re.sub(r"\A# .*", lambda _: f"# {title}", "".join(first["source"]))
    if "injected-parameters" in tagged:
        injected = tagged["injected-parameters"]
        text = "".join(injected["source"]).removeprefix("# Parameters\n").strip()
        injected["source"] = text.replace(f"{images.REPOSITORY}/", "")
        tagged["parameters"]["metadata"]["tags"].append("hide-input")


def _answer_first(cells: list[dict]) -> list[dict]:
    """Put the first cells that show no code, and their captions, before the code above; join what is folded there."""

    def says(cell):
        caption = cell["cell_type"] == "markdown" and "".join(cell["source"]).startswith("**")
        return caption or cell["metadata"].get("tags") == ["remove-input"]

    def folded(cell):
        return cell["metadata"].get("tags") == ["hide-input"] and not cell["outputs"]

    texts = next((i for i, cell in enumerate(cells) if i and cell["cell_type"] == "markdown"), len(cells))
    first = next((i for i, cell in enumerate(cells[:texts]) if says(cell)), 1)
    last = next((i for i in range(first, len(cells)) if not says(cells[i])), len(cells))
    joined = []
    for cell in cells[1:first]:
        if joined and folded(joined[-1]) and folded(cell):
            joined[-1] = joined[-1] | {"source": "".join([*joined[-1]["source"], "\n\n\n", *cell["source"]])}
        else:
            joined.append(cell)
    return [cells[0], *cells[first:last], *joined, *cells[last:]]


def _environment(folder: Path, threads: int) -> dict:
    """What a kernel finds in its environment: no start-up files, no warnings of its own, absolute places."""
    profile = folder.parent / "ipython" / "profile_default"
    profile.mkdir(parents=True, exist_ok=True)
    (profile / "ipython_kernel_config.py").write_text('c = get_config()\nc.IPKernelApp.log_level = "CRITICAL"\n')
    found = {"INTRINSIC_HOME": str(images.REPOSITORY), "IPYTHONDIR": str(folder.parent / "ipython")}
    found |= {"PYTHONUTF8": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1", "JUPYTER_PREFER_ENV_PATH": "1"}
    found |= dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    if "INTRINSIC_STORE" in os.environ:
        found["INTRINSIC_STORE"] = str(Path(os.environ["INTRINSIC_STORE"]).resolve())
    return found | environment([])


def _kept(target: Path) -> str | None:
    try:
        return json.loads(target.read_text(encoding="utf-8"))["metadata"]["intrinsic"]["inputs"]
    except (OSError, ValueError, KeyError):
        return None


def _inputs(page: Page, shared: str) -> str:
    facts = json.dumps([page.name, page.title, page.parameters, shared], sort_keys=True)
    return hashlib.sha256(page.source.read_bytes() + facts.encode()).hexdigest()[:32]


def _package_hash() -> str:
    """Of all that a notebook may call or read: modules, catalogues, parameter files, tables."""
    key, home = hashlib.sha256(sys.version.encode()), images.REPOSITORY
    tables = [path for part in ("book", "benchmarks", "params") for path in (home / part).rglob("*.[jy][sa]*")]
    for path in sorted({*Path(images.__file__).parents[1].rglob("*.py"), *tables, *images.catalogue_files()}):
        key.update(path.name.encode() + (path.read_bytes() if path.is_file() else b""))
    return key.hexdigest()


def assemble(pages: list[Page], toc: dict, output: Path) -> Path:
    """Fill `source` with what Sphinx reads; a file that did not change keeps its time."""
    source, home = output / "source", images.REPOSITORY
    left_out = shutil.ignore_patterns(".*", "*.ipynb", "*.json", "*.jsonl", "*.yaml")
    shutil.copytree(home / "book", source / "book", ignore=left_out, dirs_exist_ok=True)
    for path in filter(Path.exists, map(home.joinpath, BESIDE)):
        shutil.copy2(path, source)
    for page in pages:
        executed, target = (folder / f"{page.name}.ipynb" for folder in (output / "executed", source))
        notebook = json.loads(executed.read_text(encoding="utf-8"))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(notebook | {"cells": _answer_first(notebook["cells"])}), encoding="utf-8")
        shutil.copystat(executed, target)
    (source / "_toc.yml").write_text(yaml.safe_dump(toc, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return source


def render(output: Path) -> Path:
    """Build the HTML of `source`, with warnings as errors; return its index.

    Sphinx does not repeat the warnings of pages that it has read, so a failed build forgets them all.
    """
    source, doctrees, log = (output / name for name in ("source", "doctrees", "sphinx.log"))
    _command(["-c", "from jupyter_book.cli.main import main; main()", "config", "sphinx", str(source)], log)
    try:
        how = ["-q", "-j", "auto", "-W", "--keep-going"]
        _command(["-m", "sphinx", "-b", "html", *how, "-d", str(doctrees), str(source), str(output / "html")], log)
    except BookError:
        shutil.rmtree(doctrees, ignore_errors=True)
        raise
    if (output / "executed").exists():  # to download: the notebooks in an order that runs
        shutil.copytree(output / "executed", output / "html" / "_sources", dirs_exist_ok=True)
    return output / "html" / "index.html"


def _command(command: list[str], log: Path) -> None:
    environment = {**os.environ, "PYTHONUTF8": "1", "NO_COLOR": "1", "INTRINSIC_HOME": str(images.REPOSITORY)}
    how = {"capture_output": True, "text": True, "cwd": log.parent / "source", "env": environment}
    done = subprocess.run([sys.executable, *command], check=False, **how)
    said = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
    log.write_text(said, encoding="utf-8")
    if done.returncode:
        found = [line for line in said.splitlines() if "WARNING" in line or "ERROR" in line] or said.splitlines()[-12:]
        text = "\n".join(found).replace(f"{log.parent / 'source'}{os.sep}", "")
        raise BookError(f"Sphinx warns, and each warning is an error of this book (all it said: {log}):\n{text}")
