"""Parameter file -> records -> executed notebooks -> the book as HTML. Nothing is written outside `_build`.

    _build/executed/   one executed notebook a page, kept while its inputs are unchanged
    _build/source/     what Sphinx reads: configuration, table of contents, text, executed notebooks
    _build/html/       the book

This module is also the book's Sphinx extension (`setup`) and the renderer of its charts
(`ChartRenderer`, an entry point of the group myst_nb.mime_renderers), so it imports little.
"""

import copy
import hashlib
import html
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from intrinsic import images
from intrinsic.campaigns.records import PAGE, Record, Store, record_id, write_text

CHART = "application/vnd.vegalite.v5+json"
REPORT = "book/dataset_report"
REPORT_PART = "On this machine: image sets"
NEVER_COPIED = {".ipynb", ".jsonl", ".pyc"}
NEVER_STARTED = "Kernel died before replying"  # jupyter_client of a kernel that ended before its first cell
FEW = 3  # notebooks of a worker process, up to which each kernel loads the package itself
STARTS = 3  # of a kernel that ends before its notebook does
DRAFT, STALE_DRAFT_S = ".draft.ipynb", 3600  # of a notebook in work, which another build leaves alone for so long
NOTEBOOK_S = 20.0  # that a notebook is taken to last until the first ones have ended


class BookError(RuntimeError):
    """A notebook or a page that fails, or a parameter that would change nothing."""


@dataclass(frozen=True)
class Page:
    """A notebook of the book: where it comes from, its page, the parameters it is given."""

    source: Path
    name: str  # "book/claims/x", the page without suffix
    parameters: dict
    title: str | None = None  # of an image set's report


@dataclass(frozen=True)
class Plan:
    """What a book is made of: its notebooks and its table of contents."""

    pages: list[Page]
    toc: dict


# ------------------------------------------------------------------------------------- the whole way


def build(params, *, output=None, settings=None, compute=True, progress=True) -> Path:
    """Complete a campaign, execute the notebooks, build the HTML; returns the path of its first page.

    params       campaign.Params, or a YAML file, as for `campaign.read`, which refuses unknown keys
    output       folder for everything that is made; `_build` of the repository where none is given
    settings     engine.Settings: where runs and notebooks are computed; None: on this machine, on all its cores
    compute      train what the campaign lacks; otherwise pages show what is stored

    Raises BookError where a run or a notebook fails or Sphinx warns; what was finished before is kept.
    """
    from intrinsic.campaigns import campaign

    p = placed(params if isinstance(params, campaign.Params) else campaign.read(params))
    output = _folder(output)
    made = plan(p)
    if compute:
        live = p.name == campaign.Params().name  # the default campaign is shown as made on this machine
        outcome = campaign.run(p, progress=progress, published=not live, settings=settings)
        if outcome.failed:
            label, reason = outcome.failed[0]
            raise BookError(
                f"{len(outcome.failed)} runs of {p.name} failed, so the book would lack them; "
                f"the first is {label}: {reason}"
            )
        if outcome.left:
            raise BookError(f"{len(outcome.left)} runs of {p.name} were not computed in the given time, so the book "
                            "would lack them; the same command continues")  # fmt: skip
    index = _make(made, output, campaign.store_state(p), settings=settings, progress=progress)
    print(index)
    return index


def report(source: str, params=None, *, output=None, progress=True) -> Path:
    """The report of one image set, with the theory it refers to; returns the path of its page.

    source  a name in the catalogue or a path, as for `images.load`

    Links to pages that are not made, such as the claims, stay plain text.
    """
    from intrinsic.campaigns import campaign

    p = placed(campaign.Params() if params is None else params)
    page = _report_page(_place(str(source)), p, set())
    output = _folder(output) / "reports" / page.name.rpartition("/")[2]
    toc = yaml.safe_load((images.REPOSITORY / "_toc.yml").read_text(encoding="utf-8"))
    texts = [name for name in _files(toc) if (images.REPOSITORY / f"{name}.md").exists()]
    chapters = [{"file": name} for name in texts if name != str(toc["root"]).removesuffix(".md")]
    made = Plan([page], {"format": "jb-book", "root": page.name, "chapters": chapters})
    return _make(made, output, campaign.store_state(p), progress=progress, strict=False)


def entry_file(entry: images.Entry) -> Path:
    """The catalogue file of an entry that no other file holds, for the processes that execute its report."""
    path = _folder(None) / "reports" / f"{entry.name}.yaml"
    write_text(path, entry.written())
    return path


def plane_page(comparison, *, output=None) -> Path:
    """The plane of d_data and K_F with the sets of a campaign.Comparison, as a page that needs no network.

    Written to `compare/` of the output folder, under the set's name and eight digits that tell it from others of that
    name; returns its path.
    """
    from intrinsic.publishing import charts

    spec = charts.plane(comparison.rows).to_dict()
    name = re.sub(r"[^A-Za-z0-9-]+", "_", comparison.name).strip("_")[:60] or "set"
    own = comparison.rows.loc[comparison.rows["own"]].to_json(default_handler=str)
    digits = hashlib.sha256(own.encode()).hexdigest()[:8]
    path = _folder(output) / "compare" / f"{name}-{digits}.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    title = html.escape(f"{comparison.name} among other image sets")
    label = html.escape(spec.get("description") or "Chart", quote=True)
    page = (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title></head>\n'
        f'<body style="font-family: sans-serif"><h1>{title}</h1>\n'
        f'<div id="chart" role="img" aria-label="{label}"></div>\n'
        f"<script>{vega_bundle()}</script>\n"
        f'<script>vegaEmbed("#chart", {embedded_json(spec)}, {{actions: false}});</script></body></html>\n'
    )
    write_text(path, page)
    return path


def _make(made: Plan, output: Path, state: str, *, settings=None, progress=True, strict=True) -> Path:
    output.mkdir(parents=True, exist_ok=True)
    execute(made.pages, output / "executed", state=state, settings=settings, progress=progress)
    assemble(made, output)
    return render(output, strict=strict)


def _folder(output) -> Path:
    """The folder that everything goes to, which is made later. Raises BookError where a file is in its place."""
    folder = (images.REPOSITORY / "_build" if output is None else Path(output)).expanduser().resolve()
    there = next(place for place in (folder, *folder.parents) if place.exists())
    if not there.is_dir():
        raise BookError(f"{there} is a file, and the book is written to a folder: name another with --output")
    return folder


# ------------------------------------------------------------------------------------------ the plan


def plan(p) -> Plan:
    """The notebooks of `_toc.yml` with the parameters each declares, and a report for each image set.

    Raises BookError where a notebook declares a parameter that the schema does not know.
    """
    from intrinsic.publishing import overview, reference

    toc = yaml.safe_load((images.REPOSITORY / "_toc.yml").read_text(encoding="utf-8"))
    _add_sections(toc)
    pages = []
    for name in _files(toc):
        if any(name in reference.sections(made) for made in reference.names()):
            continue
        source = images.REPOSITORY / f"{name}.ipynb"
        if source.exists():
            pages.append(Page(source, name, declared_parameters(source, p)))
        elif name not in (*reference.names(), overview.COVERAGE) and not source.with_suffix(".md").exists():
            raise BookError(f"_toc.yml names {name}, but there is no {name}.ipynb or {name}.md; write one of them")
    taken: set[str] = set()
    reports = [_report_page(dataset, p, taken) for dataset in p.datasets]
    if reports:
        chapters = [{"file": page.name, "title": page.title} for page in reports]
        toc.setdefault("parts", []).append({"caption": REPORT_PART, "chapters": chapters})
    return Plan([*pages, *reports], toc)


def _add_sections(toc) -> None:
    """Below a generated page in the table of contents come the pages that belong to it."""
    from intrinsic.publishing import reference

    for part in toc.get("parts", []):
        for chapter in part["chapters"]:
            below = reference.sections(chapter["file"])
            if below:
                chapter["sections"] = [{"file": name} for name in below]


def placed(p):
    """The same parameters with absolute paths of image sets, since notebooks run in the repository root."""
    runs = [
        block.model_copy(update={"datasets": [_place(source) for source in block.datasets]})
        if block.datasets is not None
        else block
        for block in p.runs
    ]
    datasets = [_place(source) for source in p.datasets]
    return p.model_copy(update={"datasets": datasets, "dataset": _place(p.dataset), "runs": runs})


def _place(source: str) -> str:
    return source if source in images.catalogue() else str(Path(source).expanduser().resolve())


def _files(toc) -> Iterable[str]:
    """All pages that a table of contents names, without their suffix."""
    if isinstance(toc, dict):
        for key, value in toc.items():
            if key in ("root", "file"):
                yield str(value).removesuffix(".ipynb").removesuffix(".md")
            else:
                yield from _files(value)
    elif isinstance(toc, list):
        for entry in toc:
            yield from _files(entry)


def declared_parameters(notebook: Path, p) -> dict:
    """The values of exactly those parameters that a notebook declares in its `parameters` cell."""
    import papermill

    known = p.model_dump(mode="json")
    try:
        declared = papermill.inspect_notebook(str(notebook))
    except ValueError as error:
        raise BookError(
            f"{_short(notebook)} cannot be read as a notebook with parameters ({error}); "
            "it needs a kernelspec in its metadata and a cell tagged `parameters`"
        ) from None
    strange = [name for name in declared if name not in known]
    if strange:
        raise BookError(
            f"{_short(notebook)} declares {', '.join(strange)}, which no parameter file can set; "
            f"the parameters are {', '.join(known)}"
        )
    return {name: known[name] for name in declared}


def _report_page(dataset: str, p, taken: set[str]) -> Page:
    source = images.REPOSITORY / f"{REPORT}.ipynb"
    parameters = {**declared_parameters(source, p), "dataset": dataset}
    entry = images.catalogue().get(dataset)
    title = entry.title if entry else Path(dataset).name
    short = dataset if entry else Path(dataset).stem
    slug = re.sub(r"[^A-Za-z0-9-]+", "_", short).strip("_") or "set"
    if slug in taken:
        slug = f"{slug}_{hashlib.sha256(dataset.encode()).hexdigest()[:6]}"
    taken.add(slug)
    return Page(source, f"book/image_sets/{slug}", parameters, title)


def _short(path: Path) -> str:
    try:
        return path.relative_to(images.REPOSITORY).as_posix()
    except ValueError:
        return str(path)


# --------------------------------------------------------------------------------------- the notebooks


@dataclass(frozen=True)
class Execution:
    """A notebook as a task of the engine: what is executed to `target`, for the inputs that hash to `key`."""

    page: Page
    key: str
    target: Path
    environment: dict  # of the notebook, wherever it is executed
    forked: bool = False  # its kernel, where a process has so many to execute that loading the package once is faster
    kind: str = PAGE

    @property
    def label(self) -> str:
        return f"{_short(self.page.source)} (page {self.page.name})" if self.page.title else _short(self.page.source)

    @property
    def params(self) -> dict:
        return {"page": self.page.name, "inputs": self.key}

    @property
    def keys(self) -> tuple:
        return ((self.kind, record_id(self.kind, self.params)),)

    @property
    def ways(self) -> tuple:
        return (self.keys,)


def execute(pages: list[Page], folder: Path, *, state: str, settings=None, progress=True) -> int:
    """Execute the notebooks whose inputs changed, as tasks of the engine; returns how many were executed.

    state     a hash of the records
    settings  engine.Settings; None: on this machine, one notebook a core

    Inputs: the notebook, its parameters, the package, the catalogue and `state`. Each notebook has a kernel of its own
    and runs in the repository root. It is executed to a draft, which takes its place only once it succeeded.
    Raises BookError naming each notebook that failed with its cell, or that took too long; the others are kept.
    """
    from intrinsic.campaigns import engine

    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    shared = hashlib.sha256(f"{_package_hash()} {state}".encode()).hexdigest()
    store, environment = Store(folder), _environment(folder)
    _quiet_kernels(Path(environment["IPYTHONDIR"]))
    runs = [Execution(page, _inputs(page, shared), _executed(folder, page), environment) for page in pages]
    todo = [run for run in runs if _kept(run.target) != run.key]
    wanted = {run.target for run in runs}
    for stale in set((folder / "book").rglob("*.ipynb")) - wanted:  # pages no more, and drafts of killed processes
        if not stale.name.endswith(DRAFT) or time.time() - stale.stat().st_mtime > STALE_DRAFT_S:
            stale.unlink()
    current = {run.keys[0][1] for run in runs} - {run.keys[0][1] for run in todo}
    for id in set(store.ids(PAGE)) - current:
        store.path(PAGE, id).unlink()
    for key in store.failures():
        store.forgive(*key)  # of this book as it was
    if settings is None:
        workers = max(1, min(_cores(), len(todo) or 1))
        settings = engine.Settings(workers=workers, threads=max(1, _cores() // workers))
    todo = [replace(run, forked=len(todo) > FEW * settings.workers) for run in todo]
    settings = replace(settings, retries=0)  # a notebook that raised raises again
    done = engine.complete(todo, store, _execute, settings, costs=[NOTEBOOK_S] * len(todo), progress=progress)
    if done.failed:
        raise BookError(
            "\n\n".join(
                reason.removeprefix("BookError: ") if reason.startswith("BookError: ") else f"{label}: {reason}"
                for label, reason in sorted(done.failed)
            )
        )
    if done.left:
        raise BookError(f"{len(done.left)} notebooks were not executed in the given time, first {done.left[0]}")
    return len(todo)


def _execute(run: Execution, store: Store) -> None:
    """Execute one notebook in this process, with a kernel of its own; raises BookError with the cell that failed.

    A kernel that dies, as one that is killed or two that were given the same port do, is started again.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError

    import intrinsic.publishing.charts  # noqa: F401  # before papermill, which would load what this spares (_quick_altair)
    from intrinsic.campaigns import kernels  # takes a second

    page, target, started = run.page, run.target, time.perf_counter()
    draft = target.with_suffix(DRAFT)
    target.parent.mkdir(parents=True, exist_ok=True)
    os.environ.update(run.environment)
    how = {"parameters": page.parameters, "cwd": str(images.REPOSITORY), "kernel_name": "python3", "language": "python"}
    how |= {"progress_bar": False, "start_timeout": 180}
    how |= {"kernel_manager_class": kernels.Manager} if run.forked else {}
    for left in reversed(range(STARTS)):
        draft.unlink(missing_ok=True)
        try:
            papermill.execute_notebook(str(page.source), str(draft), **how)
            break
        except Exception as error:  # of a cell, of the kernel, or of papermill itself: all are this notebook's
            if left and (isinstance(error, DeadKernelError) or NEVER_STARTED in str(error)):
                continue
            failed = target.with_suffix(".failed")
            if draft.exists():
                draft.replace(failed)
            raise BookError(_failure(run.label, failed, f"{type(error).__name__}: {error}")) from None
    notebook = json.loads(draft.read_text(encoding="utf-8"))
    _finish(notebook, page, run.key)
    draft.write_text(json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
    draft.replace(target)
    target.with_suffix(".failed").unlink(missing_ok=True)
    store.write(Record(PAGE, run.params, {"seconds": time.perf_counter() - started}))


def _quiet_kernels(folder: Path) -> None:
    """Kernels started with this IPYTHONDIR say errors alone: at each start they would warn that sockets are local."""
    profile = folder / "profile_default"
    profile.mkdir(parents=True, exist_ok=True)
    write_text(profile / "ipython_kernel_config.py", 'c = get_config()\nc.IPKernelApp.log_level = "ERROR"\n')


def _environment(folder: Path) -> dict:
    """What a notebook's kernel finds in its environment; relative paths start here, not where the notebook runs."""
    found = {
        "INTRINSIC_HOME": str(images.REPOSITORY),
        "IPYTHONDIR": str(folder.parent / "ipython"),  # no start-up files of the user
        "JUPYTER_PREFER_ENV_PATH": "1",
        "PYTHONUTF8": "1",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }
    if "INTRINSIC_STORE" in os.environ:
        found["INTRINSIC_STORE"] = str(Path(os.environ["INTRINSIC_STORE"]).resolve())
    if "INTRINSIC_CATALOGUE" in os.environ:
        files = [str(file.absolute()) for file in images.catalogue_files()[1:]]
        found["INTRINSIC_CATALOGUE"] = os.pathsep.join(files)
    return found


def _finish(notebook: dict, page: Page, key: str) -> None:
    """An executed notebook as a page: no paths and times of papermill, the title of its image set."""
    notebook["metadata"].pop("papermill", None)
    notebook["metadata"]["intrinsic"] = {"inputs": key}
    for cell in notebook["cells"]:
        cell["metadata"] = {
            k: v for k, v in cell["metadata"].items() if k not in ("papermill", "execution", "collapsed")
        }
    _show_what_was_used(notebook["cells"])
    if page.title is not None:
        for cell in notebook["cells"]:
            text = "".join(cell["source"])
            if cell["cell_type"] == "markdown" and re.match(r"# ", text):
                title = re.sub(r"([\\`*_{}\[\]<>#$|~])", r"\\\1", page.title)
                cell["source"] = f"# {title}{text[len(text.splitlines()[0]) :]}"
                break


def _show_what_was_used(cells: list[dict]) -> None:
    """Of the two parameter cells the page shows the values that it was made with; the defaults fold away.

    The defaults' remarks, which say what a parameter is and its unit, stand behind the values too.
    """
    default, given = (
        next((cell for cell in cells if tag in cell["metadata"].get("tags", [])), None)
        for tag in ("parameters", "injected-parameters")
    )
    if default is None or given is None:
        return
    remarks = {}
    for line in "".join(default["source"]).splitlines():
        found = re.match(r"(\w+) *= *(.*?) +# (.*)$", line)
        if found:
            remarks[found[1]] = found[2], found[3]
    lines = []
    for line in "".join(given["source"]).splitlines():
        name, _, value = line.partition(" = ")
        usual, remark = remarks.get(name, ("", ""))
        if name == "name" and value != usual:  # the remark says which file has the default campaign
            remark = remark.partition(":")[0]
        lines.append(f"{line:<25} # {remark}" if remark else line)
    given["source"] = "\n".join(line for line in lines if line != "# Parameters")
    default["metadata"]["tags"] = [*default["metadata"]["tags"], "hide-input"]
    default["metadata"]["mystnb"] = {
        "code_prompt_show": "Show the default parameters",
        "code_prompt_hide": "Hide the default parameters",
    }


def _failure(name: str, failed: Path, said: str) -> str:
    """Which notebook failed, at which cell, with its source and its error."""
    count = 0
    cells = json.loads(failed.read_text(encoding="utf-8"))["cells"] if failed.exists() else []
    for cell in cells:
        own_tags = cell.get("metadata", {}).get("tags", [])
        if cell["cell_type"] != "code" or "papermill-error-cell-tag" in own_tags:
            continue
        count += 1
        for output in cell.get("outputs", []):
            if output["output_type"] == "error":
                source = "".join(cell["source"]).rstrip()
                indented = "\n".join(f"    {line}" for line in source.splitlines())
                return (
                    f"{name} failed at its code cell {count}:\n{indented}\n"
                    f"{output['ename']}: {output['evalue']}\n"
                    f"(the notebook up to there, with the traceback, is {failed})"
                )
    tail = "\n".join(said.strip().splitlines()[-12:])
    return f"{name} could not be executed; papermill said:\n{tail}"


def _executed(folder: Path, page: Page) -> Path:
    return folder / f"{page.name}.ipynb"


def _kept(target: Path) -> str | None:
    try:
        notebook = json.loads(target.read_text(encoding="utf-8"))
        return notebook["metadata"]["intrinsic"]["inputs"]
    except (OSError, ValueError, KeyError):
        return None


def _inputs(page: Page, shared: str) -> str:
    key = hashlib.sha256(shared.encode())
    key.update(page.source.read_bytes())
    key.update(json.dumps([page.name, page.title, page.parameters], sort_keys=True).encode())
    return key.hexdigest()[:32]


def _package_hash() -> str:
    """Of everything that a notebook may call or read: the modules, catalogues, parameter files, published tables."""
    key = hashlib.sha256(sys.version.encode())
    tables = [images.REPOSITORY / part for part in ("book/methods/tables", "book/beyond/tables", "benchmarks/results")]
    tables.append(images.REPOSITORY / "params")
    read = [*images.catalogue_files(), *(p for t in tables for p in sorted([*t.glob("*.json"), *t.glob("*.yaml")]))]
    for path in [*sorted(Path(__file__).parent.rglob("*.py")), *read]:
        key.update(path.name.encode() + b"\0" + (path.read_bytes() if path.exists() else b"") + b"\0")
    return key.hexdigest()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# ------------------------------------------------------------------------------------------- the HTML


def assemble(made: Plan, output: Path) -> Path:
    """Fill `source` with what Sphinx reads; files that did not change keep their time."""
    from intrinsic.publishing import reference

    source = output / "source"
    toc, published = _published_part(made)
    files: dict[str, bytes] = {
        "_config.yml": (images.REPOSITORY / "_config.yml").read_bytes(),
        "_toc.yml": yaml.safe_dump(toc, sort_keys=False, allow_unicode=True).encode(),
    }
    for path in sorted((images.REPOSITORY / "book").rglob("*")):
        relative = path.relative_to(images.REPOSITORY)
        hidden = any(part.startswith(".") or part == "__pycache__" for part in relative.parts)
        if path.is_file() and not hidden and path.suffix not in NEVER_COPIED:
            files[relative.as_posix()] = path.read_bytes()
    for name, text in reference.pages(_files(made.toc)).items():
        files[f"{name}.md"] = text.encode()
    files |= published
    for page in made.pages:
        files[f"{page.name}.ipynb"] = _executed(output / "executed", page).read_bytes()
    source.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.rglob("*"), reverse=True):
        name = path.relative_to(source).as_posix()
        if path.is_dir():
            if not any(path.iterdir()):
                path.rmdir()
        elif name not in files and name != "conf.py":
            path.unlink()
    for name, content in files.items():
        path = source / name
        if not path.exists() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return source


def _published_part(made: Plan) -> tuple[dict, dict[str, bytes]]:
    """(table of contents with a page for each published image set, files that the published records give)."""
    names = set(_files(made.toc))
    first, coverage = str(made.toc["root"]).removesuffix(".md"), "book/reference/coverage"
    text = images.REPOSITORY / f"{first}.md"
    includes = text.exists() and "{include} made/" in text.read_text(encoding="utf-8")
    if not includes and coverage not in names:
        return made.toc, {}
    from intrinsic.publishing import overview

    found = overview.shown()
    toc, files, pages = copy.deepcopy(made.toc), {}, {}
    if coverage in names:
        below = overview.set_pages(found)
        files = {f"{name}.md": text.encode() for name, text in below.items()}
        files[f"{coverage}.md"] = overview.coverage_page(found).encode()
        pages = {name.rpartition("/")[2]: name for name in below}
        for part in toc.get("parts", []):
            for chapter in part["chapters"]:
                if chapter["file"] == coverage and below:
                    chapter["sections"] = [{"file": name} for name in below]
    pages |= {page.parameters["dataset"]: page.name for page in made.pages if page.title is not None}
    if includes:
        files |= overview.parts(found, pages, chart_html)
    return toc, files


def render(output: Path, *, strict: bool = True) -> Path:
    """Build the HTML of `source`, if strict with warnings as errors; returns the path of its index.

    Nothing is done where the same source was rendered before.
    Sphinx does not repeat the warnings of pages that it has read before, so a failed build forgets them
    all: a second call fails as the first one did.
    """
    source, pages, cache = output / "source", output / "html", output / "doctrees"
    log, index, stamp = output / "sphinx.log", pages / "index.html", output / "rendered"
    key = _source_hash(source, strict)
    if index.exists() and stamp.exists() and stamp.read_text() == key:
        return index
    stamp.unlink(missing_ok=True)
    conf, config = source / "conf.py", source / "_config.yml"
    if not conf.exists() or conf.stat().st_mtime_ns <= config.stat().st_mtime_ns:
        jupyter_book = "from jupyter_book.cli.main import main; main()"
        _command("jupyter-book", [sys.executable, "-c", jupyter_book, "config", "sphinx", str(source)], log)
    warnings = output / "warnings.log"
    warnings.unlink(missing_ok=True)
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-q"]
    command += ["-n", "-W", "--keep-going"] if strict else []
    command += ["-d", str(cache), "-w", str(warnings), str(source), str(pages)]
    try:
        _command("Sphinx", command, log)
    except BookError:
        shutil.rmtree(cache, ignore_errors=True)
        found = warnings.read_text(encoding="utf-8").strip() if warnings.exists() else ""
        found = re.sub(r"\x1b\[[0-9;]*m", "", found).replace(f"{source}{os.sep}", "")
        if not found:
            raise
        raise BookError(f"Sphinx has warnings, and each is an error in this book:\n{found}") from None
    if not index.exists():
        raise BookError(f"Sphinx ended without an error but left no {index}; see {log}")
    for page in (pages / "book").rglob("*.html"):  # of former books
        name = page.relative_to(pages).with_suffix("").as_posix()
        if not any((source / f"{name}{suffix}").exists() for suffix in (".md", ".ipynb")):
            page.unlink()
    stamp.write_text(key)
    return index


def _source_hash(source: Path, strict: bool) -> str:
    """Of everything that decides the pages: what Sphinx reads, and this module, its extension."""
    key = hashlib.sha256(f"{strict} {sys.version}".encode() + Path(__file__).read_bytes())
    for path in sorted(path for path in source.rglob("*") if path.is_file() and path.name != "conf.py"):
        key.update(path.relative_to(source).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return key.hexdigest()


def _command(name: str, command: list[str], log: Path) -> None:
    environment = {**os.environ, "PYTHONUTF8": "1", "INTRINSIC_HOME": str(images.REPOSITORY)}
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd=log.parent,
        env=environment,
        encoding="utf-8",
    )
    log.write_text(done.stdout + done.stderr, encoding="utf-8")
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise BookError(f"{name} ended with code {done.returncode}; its whole output is {log}:\n{tail}")


# ------------------------------------------------------------------------------ charts on HTML pages


def embedded_json(value) -> str:
    """JSON that can stand inside <script>: no character of it can end the element or open a comment."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def chart_html(spec: dict) -> tuple[str, str]:
    """What stands before and after the static picture of a chart.

    The element is labelled with the description, holds the specification as data, and is drawn by
    `charts.js` when the reader comes near; until then, and without JavaScript, the picture stands there.
    """
    label = html.escape(spec.get("description") or "Chart", quote=True)
    before = f'<div class="vega-chart" role="img" aria-label="{label}"><div class="vega-chart-static">'
    after = f'</div><script type="application/json">{embedded_json(spec)}</script></div>'
    return before, after


class ChartRenderer:
    """Writes Vega-Lite outputs, and pictures that bring a text alternative, on the pages of the book."""

    mime_priority_overrides = (("html", CHART, 1),)

    @staticmethod
    def handle_mime(renderer, data, inline):
        """The docutils nodes of an output, or None for outputs that are none of ours."""
        if inline:
            return None
        if data.mime_type == "image/png":
            return ChartRenderer._picture(renderer, data)
        if data.mime_type != CHART:
            return None
        from docutils import nodes

        before, after = chart_html(data.content)
        picture = []
        try:
            _, outputs = renderer.renderer.nb_client.code_cell_outputs(data.cell_index)
            png = outputs[data.output_index]["data"]["image/png"]
        except (AttributeError, IndexError, KeyError, TypeError):
            png = None
        if png is not None:
            still = type(data)("image/png", png, data.cell_metadata, data.output_metadata, line=data.line)
            picture = ChartRenderer._picture(renderer, still) or renderer.render_image(still)
        return [
            nodes.raw("", before, format="html"),
            *picture,
            nodes.raw("", after, format="html", classes=["vega-chart-end"]),
        ]

    @staticmethod
    def _picture(renderer, data):
        alternative = data.output_metadata.get("image/png", {}).get("alt")
        if not alternative:
            return None
        images_made = renderer.render_image(data)
        for node in images_made:
            node["alt"] = alternative
            node["classes"] = [*node.get("classes", []), "no-scaled-link", "of-pixels"]
        return images_made


# -------------------------------------------------------------------------------- the Sphinx extension


MATHJAX = "sphinx-mathjax-offline"
MATHJAX_SCRIPT = "tex-chtml-full.js"


def setup(app):
    """Everything that pages load comes from the book itself: Vega from vl-convert, MathJax from a package."""
    app.config.mathjax_path = f"mathjax/{MATHJAX_SCRIPT}"
    app.connect("config-inited", _links_to_repository, priority=100)  # before the theme reads its options
    app.connect("html-page-context", _escape_titles, priority=900)  # after the theme has set them
    app.connect("html-page-context", _make_accessible, priority=910)
    app.connect("html-page-context", _only_own_sources, priority=910)
    app.connect("build-finished", _write_scripts)
    return {
        "version": "1",
        "env_version": zlib.crc32(Path(__file__).read_bytes()),
        "parallel_read_safe": True,
        "parallel_write_safe": True,
    }


def _escape_titles(app, pagename, templatename, context, doctree) -> None:
    """Titles hold names of folders, and the theme writes these texts into pages as if they were HTML."""
    for key in ("root_title", "pagetitle", "page_description"):
        if key in context:
            context[key] = html.escape(context[key])


def _links_to_repository(app, config) -> None:
    """Links to edit a page, and to open it on Binder or Colab, where `repository.url` of _config.yml is set."""
    file = Path(app.srcdir) / "_config.yml"
    repository = (yaml.safe_load(file.read_text(encoding="utf-8")).get("repository") if file.exists() else None) or {}
    if not repository.get("url"):
        return
    options = config.html_theme_options
    options |= {"repository_url": repository["url"], "repository_branch": repository.get("branch", "main")}
    options |= {"use_edit_page_button": True, "use_repository_button": True}
    options["launch_buttons"] = {
        **(options.get("launch_buttons") or {}),
        "notebook_interface": "jupyterlab",
        "binderhub_url": "https://mybinder.org",
        "colab_url": "https://colab.research.google.com",
    }


def _only_own_sources(app, pagename, templatename, context, doctree) -> None:
    """A page that was made from records or docstrings has no file in the repository that a link could lead to."""
    if any((images.REPOSITORY / f"{pagename}{suffix}").exists() for suffix in (".md", ".ipynb")):
        return

    def leads_there(button) -> bool:
        address = str(button.get("url", ""))
        return "/edit/" in address or "mybinder.org" in address or "colab." in address

    def kept(buttons):
        for button in buttons:
            inner = list(kept(button["buttons"])) if "buttons" in button else None
            if not leads_there(button) and inner != []:
                yield button if inner is None else {**button, "buttons": inner}

    context["header_buttons"] = list(kept(context.get("header_buttons", [])))


def _make_accessible(app, pagename, templatename, context, doctree) -> None:
    """Names for what folds and unfolds beside the text, and no list without items: for readers who hear a page."""
    made = context.get("generate_toctree_html")
    if made is not None:

        def named(*arguments, **options):
            return str(made(*arguments, **options)).replace("<summary>", '<summary aria-label="Pages below this one">')

        context["generate_toctree_html"] = named
    if "body" in context:
        context["body"] = context["body"].replace(
            '<div role="list" class="citation-list">', '<div class="citation-list">'
        )


def _write_scripts(app, error) -> None:
    if error is not None or app.builder.format != "html":
        return
    static = Path(app.outdir) / "_static"
    static.mkdir(parents=True, exist_ok=True)
    bundle = static / "vega-bundle.js"
    content = vega_bundle().encode()
    if not bundle.exists() or bundle.read_bytes() != content:
        bundle.write_bytes(content)
    mathjax = static / "mathjax"
    if not (mathjax / MATHJAX_SCRIPT).exists():
        package = mathjax_folder()
        shutil.copytree(package / "output" / "chtml", mathjax / "output" / "chtml", dirs_exist_ok=True)
        shutil.copy2(package / MATHJAX_SCRIPT, mathjax / MATHJAX_SCRIPT)


def vega_bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, whose names stay inside it but for `vegaEmbed`."""
    import vl_convert

    script = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return f"(function () {{\n{script}\n}})();\n"


def mathjax_folder() -> Path:
    """The files of MathJax 3 that the package sphinx-mathjax-offline carries."""
    spec = importlib.util.find_spec(MATHJAX)
    for folder in (spec.submodule_search_locations if spec else None) or ():
        found = Path(folder) / "static" / "mathjax"
        if (found / MATHJAX_SCRIPT).exists():
            return found
    raise BookError(
        f"MathJax was not found, without which equations stay source text; install it: pip install {MATHJAX}"
    )
