"""Parameter file -> executed notebooks -> the book as HTML. Nothing is written outside the build folder.

_build/executed/   one executed notebook a page, kept while its inputs are unchanged
_build/source/     what Sphinx reads: configuration, table of contents, text, executed notebooks
_build/html/       the book
"""

import difflib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import yaml
from tqdm import tqdm

from intrinsic import images
from intrinsic.campaigns import execution, parameters, records

TEMPLATE = "book/yours/image_set"
SETS_PART = "Image sets on this machine"
TEXTS = (".md", ".yml", ".bib", ".css", ".js", ".svg", ".png", ".webp", ".jpg")
BESIDE = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "_config.yml")
STARTS = 2  # of a kernel that dies before its notebook ends


class BookError(RuntimeError):
    """A notebook or a page that fails, or a parameter that would change nothing."""


@dataclass(frozen=True)
class Page:
    """A notebook of the book, the page that it becomes, and the parameters it is given."""

    source: Path
    name: str  # "book/claims/x": the page without suffix
    parameters: dict
    title: str | None = None  # of the page of an image set


def build(params=None, *, output=None, compute=True, progress=True, **where) -> Path:
    """Complete a campaign, execute the notebooks, build the HTML.

    Parameters
    ----------
    params : path of a parameter file, optional
        The campaign that pages show. None: each page's own parameters, and nothing is computed.
    output : path, optional
        Folder for all that is made; `_build` of the repository otherwise.
    compute : bool
        Train what the campaign lacks first.
    progress : bool
        Draw progress bars.
    **where
        Where runs are computed, as for `execution.run`: `scheduler`, `cluster`, `run_minutes`.

    Returns
    -------
    pathlib.Path
        The first page.

    Raises
    ------
    BookError
        Where a run or a notebook fails, or Sphinx warns. What was finished is kept.
    """
    p = None if params is None else parameters.read(params)
    toc = yaml.safe_load((images.REPOSITORY / "_toc.yml").read_text(encoding="utf-8"))
    pages = plan(toc, given(params), [] if p is None else p.datasets)
    if p is not None and compute:
        outcome = execution.run(p, progress=progress, **where)
        if outcome.failed:
            label, reason = outcome.failed[0]
            raise BookError(f"{len(outcome.failed)} runs failed, so the book would lack them; {label}: {reason}")
    sets = [page for page in pages if page.title is not None]
    if sets:
        chapters = [{"file": page.name, "title": page.title} for page in sets]
        toc.setdefault("parts", []).append({"caption": SETS_PART, "chapters": chapters})
    index = _make(pages, toc, _folder(output), progress=progress)
    print(index)
    return index


def report(source: str, params=None, *, output=None, progress=True) -> Path:
    """Make the page of one image set, with the texts of the book that it refers to; return its path."""
    page = _set_page(str(source), given(params))
    toc = yaml.safe_load((images.REPOSITORY / "_toc.yml").read_text(encoding="utf-8"))
    texts = [name for name in files(toc) if (images.REPOSITORY / f"{name}.md").exists() and "/reference/" not in name]
    toc = {"format": "jb-book", "root": page.name, "chapters": [{"file": name} for name in texts]}
    folder = _folder(output) / "reports" / Path(page.name).name
    return _make([page], toc, folder, progress=progress, strict=False)


def _make(pages, toc, folder, *, progress=True, strict=True) -> Path:
    execute(pages, folder / "executed", state=records.state(records.default_store()), progress=progress)
    assemble(pages, toc, folder)
    return render(folder, strict=strict)


def _folder(output) -> Path:
    folder = (images.REPOSITORY / "_build" if output is None else Path(output)).expanduser().resolve()
    there = next(place for place in (folder, *folder.parents) if place.exists())
    if not there.is_dir():
        raise BookError(f"{there} is a file, and the book is written to a folder: name another with --output")
    return folder


# ------------------------------------------------------------------------------------------ the plan


def given(params) -> dict:
    """Return the values that a parameter file gives to pages: its keys, and the file itself as `campaign`."""
    if params is None:
        return {}
    p = parameters.read(params)
    values = p.model_dump(mode="json", include=p.model_fields_set)
    return values | {"campaign": str(Path(params).resolve()), "name": p.name}


def plan(toc: dict, values: dict, datasets=()) -> list[Page]:
    """Return the notebooks of a table of contents with the parameters of each, and a page an image set.

    Raises BookError where a page is absent, or declares a parameter that is nearly one of the schema.
    """
    pages = []
    for name in files(toc):
        source = images.REPOSITORY / f"{name}.ipynb"
        if source.exists():
            pages.append(Page(source, name, _parameters(source, values)))
        elif name != "genindex" and not source.with_suffix(".md").exists():
            raise BookError(f"_toc.yml names {name}, but there is no {name}.ipynb or {name}.md; write one of them")
    return pages + [_set_page(dataset, values) for dataset in dict.fromkeys(datasets)]


def files(toc) -> list[str]:
    """Return all pages that a table of contents names, without their suffix."""
    if isinstance(toc, list):
        return [name for entry in toc for name in files(entry)]
    found = [toc[key] for key in ("root", "file") if key in toc]
    names = [str(name).removesuffix(".ipynb").removesuffix(".md") for name in found]
    return names + [name for key in ("parts", "chapters", "sections") for name in files(toc.get(key, []))]


def _parameters(source: Path, values: dict) -> dict:
    """The given values of those parameters that a notebook declares."""
    import papermill

    declared = papermill.inspect_notebook(str(source))
    known = [*parameters.Params.model_fields, "campaign"]
    for name in declared:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.9)
        if name not in known and near:
            raise BookError(f"{_short(source)} declares {name}, which no parameter file sets; {near[0]} may be meant")
    return {name: values[name] for name in declared if name in values}


def _set_page(dataset: str, values: dict) -> Page:
    source = images.REPOSITORY / f"{TEMPLATE}.ipynb"
    entry = images.catalogue().get(dataset)
    place = dataset if entry else str(Path(dataset).expanduser().resolve())
    slug = re.sub(r"[^A-Za-z0-9-]+", "_", dataset if entry else Path(place).stem).strip("_") or "set"
    if not entry:
        slug += f"-{hashlib.sha256(place.encode()).hexdigest()[:6]}"
    title = entry.title if entry else Path(place).name
    return Page(source, f"book/image_sets/{slug}", {**_parameters(source, values), "dataset": place}, title)


def _short(path: Path) -> str:
    return path.relative_to(images.REPOSITORY).as_posix() if path.is_relative_to(images.REPOSITORY) else str(path)


# --------------------------------------------------------------------------------------- the notebooks


def execute(pages: list[Page], folder: Path, *, state: str, workers: int | None = None, progress=True) -> int:
    """Execute the notebooks whose inputs changed, one a core; return how many.

    Inputs are the notebook, its parameters, the package and `state`, a hash of the records. Each is written to a
    draft, which takes its place on success. Raises BookError naming each that failed, with its cell.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shared, cores = f"{state} {_package_hash()}", len(os.sched_getaffinity(0))
    jobs = [(page, folder / f"{page.name}.ipynb", _inputs(page, shared)) for page in pages]
    todo = [job for job in jobs if _kept(job[1]) != job[2]]
    for stale in set((folder / "book").rglob("*.ipynb")) - {target for _, target, _ in jobs}:
        stale.unlink()
    workers, failed = max(1, min(workers or cores, len(todo))), []
    environment = _environment(folder, max(1, cores // workers))
    with patch.dict(os.environ, environment), ThreadPoolExecutor(workers) as pool:  # a kernel is a process of its own
        waiting = [pool.submit(_execute, *job) for job in todo]
        for done in tqdm(as_completed(waiting), total=len(todo), desc="pages", disable=not progress or not todo):
            if reason := done.result():
                failed.append(reason)
    if failed:
        raise BookError("\n\n".join(sorted(failed)))
    return len(todo)


def _execute(page: Page, target: Path, key: str) -> str:
    """Execute one notebook in a kernel of its own; return why it failed, or nothing."""
    import papermill
    from nbclient.exceptions import DeadKernelError

    draft = target.with_suffix(".draft.ipynb")
    target.parent.mkdir(parents=True, exist_ok=True)
    how = {"parameters": page.parameters, "cwd": str(images.REPOSITORY), "kernel_name": "python3", "language": "python"}
    for left in reversed(range(STARTS)):
        try:
            papermill.execute_notebook(str(page.source), str(draft), progress_bar=False, start_timeout=180, **how)
            break
        except papermill.PapermillExecutionError as error:
            cell = "\n".join(f"    {line}" for line in error.source.rstrip().splitlines())
            of = f"{_short(page.source)}{f' ({page.title})' if page.title else ''}"
            at = f"failed at its code cell {error.exec_count}"
            return f"{of} {at}:\n{cell}\n{error.ename}: {error.evalue}\n(as far as it came: {draft})"
        except (DeadKernelError, RuntimeError) as error:
            if not left:
                return f"{_short(page.source)} could not be executed: {error}"
    notebook = json.loads(draft.read_text(encoding="utf-8"))
    _finish(notebook, page, key)
    draft.write_text(json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
    draft.replace(target)
    return ""


def _finish(notebook: dict, page: Page, key: str) -> None:
    """Make a page of an executed notebook: no paths and times, the title of its set, the values that were used."""
    notebook["metadata"].pop("papermill", None)
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
        injected, default = tagged["injected-parameters"], tagged["parameters"]
        text = "".join(injected["source"]).removeprefix("# Parameters\n").strip()
        injected["source"] = text.replace(f"{images.REPOSITORY}/", "")
        default["metadata"]["tags"] = [*default["metadata"]["tags"], "hide-input"]


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
    if "INTRINSIC_CATALOGUE" in os.environ:
        found["INTRINSIC_CATALOGUE"] = os.pathsep.join(str(file.absolute()) for file in images.catalogue_files()[1:])
    return found


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


# ------------------------------------------------------------------------------------------- the HTML


def assemble(pages: list[Page], toc: dict, output: Path) -> Path:
    """Fill `source` with what Sphinx reads; a file that did not change keeps its time."""
    source, home = output / "source", images.REPOSITORY
    paths = [path for path in (home / "book").rglob("*") if path.suffix in TEXTS and "/." not in path.as_posix()]
    paths += [home / name for name in BESIDE if (home / name).exists()]
    wanted = {path.relative_to(home).as_posix(): path.read_bytes() for path in paths}
    wanted |= {f"{page.name}.ipynb": (output / "executed" / f"{page.name}.ipynb").read_bytes() for page in pages}
    wanted["_toc.yml"] = yaml.safe_dump(toc, sort_keys=False, allow_unicode=True).encode()
    for path in source.rglob("*") if source.exists() else ():
        if path.is_file() and path.name != "conf.py" and path.relative_to(source).as_posix() not in wanted:
            path.unlink()
    for name, content in wanted.items():
        path = source / name
        if not path.exists() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return source


def render(output: Path, *, strict: bool = True) -> Path:
    """Build the HTML of `source`, if strict with warnings as errors; return its index.

    Sphinx does not repeat the warnings of pages that it has read, so a failed build forgets them all.
    """
    source, pages, doctrees, log = (output / name for name in ("source", "html", "doctrees", "sphinx.log"))
    config = "from jupyter_book.cli.main import main; main()"
    if (
        not (source / "conf.py").exists()
        or (source / "conf.py").stat().st_mtime <= (source / "_config.yml").stat().st_mtime
    ):
        _command([sys.executable, "-c", config, "config", "sphinx", str(source)], log)
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-b",
        "html",
        "-q",
        *(["-W", "--keep-going"] if strict else []),
    ]
    try:
        _command([*command, "-d", str(doctrees), str(source), str(pages)], log)
    except BookError:
        shutil.rmtree(doctrees, ignore_errors=True)
        raise
    for page in (pages / "book").rglob("*.html"):  # of former books
        name = page.relative_to(pages).with_suffix("").as_posix()
        if not any((source / f"{name}{suffix}").exists() for suffix in (".md", ".ipynb")):
            page.unlink()
    return pages / "index.html"


def _command(command: list[str], log: Path) -> None:
    environment = {**os.environ, "PYTHONUTF8": "1", "NO_COLOR": "1", "INTRINSIC_HOME": str(images.REPOSITORY)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=log.parent, env=environment)
    said = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
    log.write_text(said, encoding="utf-8")
    if done.returncode:
        found = [line for line in said.splitlines() if "WARNING" in line or "ERROR" in line] or said.splitlines()[-12:]
        text = "\n".join(found).replace(f"{log.parent / 'source'}{os.sep}", "")
        raise BookError(f"Sphinx warns, and each warning is an error of this book (all it said: {log}):\n{text}")
