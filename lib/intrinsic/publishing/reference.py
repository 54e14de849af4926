"""The reference pages of the book, made from what they describe: docstrings, `--help`, the schema, the changelog.

Each is MyST text. Nothing of it is kept in the repository; `book.assemble` puts it among the pages that Sphinx reads.
"""

import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys
import textwrap
from functools import lru_cache
from types import UnionType
from typing import Annotated, Literal, Union, get_args, get_origin

import yaml

import intrinsic
from intrinsic import images
from intrinsic.campaigns import campaign

API = "book/reference/api"
HELP_WIDTH = 96  # columns of what commands print
INNER = ("cli", "book", "kernels", "overview", "reference")  # modules that stand behind commands and have no page
NOTATION = "Symbols and units are those of [Notation and names](../notation.md)."


def names() -> tuple[str, ...]:
    """Pages that can be made, without suffix: those that `_toc.yml` may name, though there is no file."""
    return tuple(_MAKERS)


def sections(name: str) -> list[str]:
    """Further pages below one: those of the modules below the API's."""
    return [f"{API}/{module}" for module in _modules()] if name == API else []


def pages(wanted) -> dict[str, str]:
    """MyST text of the wanted pages, and of the sections below them, by name."""
    made = {}
    for name in wanted:
        if name in _MAKERS:
            made[name] = _MAKERS[name]()
            made |= {below: _module_page(below.rpartition("/")[2]) for below in sections(name)}
    return made


# ------------------------------------------------------------------------------------------------ docstrings


@lru_cache(maxsize=1)
def _modules() -> tuple[str, ...]:
    found = (one.name.removeprefix("intrinsic.") for one in pkgutil.walk_packages(intrinsic.__path__, "intrinsic."))
    rooms = {name.partition(".")[0] for name in found if "." in name}
    return tuple(sorted(rooms))


def _api_page() -> str:
    rows = []
    for name in _modules():
        duty = _first(importlib.import_module(f"intrinsic.{name}").__doc__)
        rows.append(f"| [`{name}`](api/{name}.md) | {escaped(duty)} |")
    return "\n".join(
        (
            "# The package, module by module",
            "",
            "`import intrinsic` brings everything that a notebook of this book calls. Each page below is made from the",
            f"docstrings of one module. {NOTATION}",
            "",
            "| module | what it does |",
            "|-|-|",
            *rows,
            "",
            "All names in alphabetical order stand in the [index](../../genindex.md).",
            "",
        )
    )


def _first(doc: str | None) -> str:
    """The first paragraph of a docstring, in one line."""
    return " ".join((doc or "").strip().split("\n\n")[0].split())


def _module_page(name: str) -> str:
    module = importlib.import_module(f"intrinsic.{name}")
    parts = [f"# intrinsic.{name}", "", _directive("py:module", f"intrinsic.{name}", "", 3), ""]
    parts += [myst(module.__doc__), "", NOTATION.replace("../", "../../"), ""]
    for label, one in _public(module):
        parts += [_entry(label, one), ""]
    return "\n".join(parts)


def _public(module):
    """(name, function or class) that a module offers: all of a package's, else those that it defines."""
    if hasattr(module, "__all__"):
        found = [(name, getattr(module, name)) for name in module.__all__]
    else:
        found = [(n, v) for n, v in vars(module).items() if getattr(v, "__module__", None) == module.__name__]
    return [
        (name, one)
        for name, one in found
        if not name.startswith("_") and (inspect.isfunction(one) or inspect.isclass(one) or _wrapped(one))
    ]


def _wrapped(one) -> bool:
    return inspect.isfunction(getattr(one, "__wrapped__", None))


def _entry(path: str, one) -> str:
    """A directive of Sphinx's Python domain, which puts the name into the index."""
    if not inspect.isclass(one):
        return _directive("py:function", f"{path}{signature(one)}", myst(inspect.getdoc(one)), 4)
    body = [myst(inspect.getdoc(one))]
    for name, member in vars(one).items():
        if name.startswith("_"):
            continue
        of = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        if isinstance(member, property):
            body.append(_directive("py:property", name, myst(inspect.getdoc(member)), 4))
        elif inspect.isfunction(of) and of.__doc__:
            how = {classmethod: ":classmethod:\n\n", staticmethod: ":staticmethod:\n\n"}.get(type(member), "")
            shown = signature(of, own=not isinstance(member, staticmethod))
            body.append(_directive("py:method", f"{name}{shown}", how + myst(of.__doc__), 4))
    shown = "" if issubclass(one, BaseException) else signature(one)
    kind = "py:exception" if issubclass(one, BaseException) else "py:class"
    return _directive(kind, f"{path}{shown}", "\n\n".join(part for part in body if part), 5)


def _directive(kind: str, argument: str, body: str, colons: int) -> str:
    return f"{':' * colons}{{{kind}}} {argument}\n{body}\n{':' * colons}"


def signature(one, *, own: bool = False) -> str:
    """Names and defaults of what is called, without types; own: without the first, which is the object or class."""
    try:
        found = inspect.signature(one)
    except ValueError:  # of a class that C made
        return "()"
    given = list(found.parameters.values())[1 if own else 0 :]
    plain = [p.replace(annotation=p.empty, default=_default(p.default)) for p in given]
    return str(found.replace(parameters=plain, return_annotation=found.empty))


class _Shown:
    """A default that has no literal."""

    def __init__(self, text):
        self.text = text

    def __repr__(self):
        return self.text


def _default(value):
    if value is inspect.Parameter.empty or value is None or isinstance(value, bool | int | float | str):
        return value
    text = repr(value)
    return value if re.fullmatch(r"[\[({][-\w\s.,:'\"]*[\])}]", text) else _Shown("...")


def myst(doc: str | None) -> str:
    """A docstring as MyST: prose as prose; formulas, which are indented, and aligned columns as they stand.

    A line is a column's where two blanks or more follow its first word or words, as in lists of arguments.
    """
    parts: list[tuple[bool, list[str]]] = []
    for line in inspect.cleandoc(doc or "").splitlines():
        stands = line.startswith("    ") or bool(re.match(r"[\w\"'`*(|.][^\s].*?\S {2,}\S|\S {2,}\S", line))
        if line.strip() and (not parts or parts[-1][0] != stands):
            parts.append((stands, []))
        if parts:
            parts[-1][1].append(line)
    made = []
    for stands, lines in parts:
        text = textwrap.dedent("\n".join(lines)).strip("\n")
        made.append(f"```text\n{text}\n```" if stands else "\n".join(map(escaped, text.splitlines())))
    return "\n\n".join(made)


def escaped(text: str) -> str:
    """Text whose signs mean nothing to Markdown but for `code`."""
    parts = re.split(r"(`[^`]*`)", text)
    plain = [re.sub(r"([\\*_$\[\]{}<>|#~^`])", r"\\\1", part) for part in parts[::2]]
    parts[::2] = plain
    return re.sub(r"^(\s*)(\d*)([-+.)])(\s)", r"\1\2\\\3\4", "".join(parts))


# -------------------------------------------------------------------------------------- commands and parameters


def _help(*command: str) -> str:
    environment = {**os.environ, "COLUMNS": str(HELP_WIDTH), "PYTHONUTF8": "1", "NO_COLOR": "1"}
    asked = [sys.executable, "-m", "intrinsic.cli", *command, "--help"]
    done = subprocess.run(asked, env=environment, capture_output=True, text=True, check=True, encoding="utf-8")
    return done.stdout.replace("usage: cli.py", "usage: intrinsic").rstrip()


def commands() -> list[str]:
    """Names of the commands of `intrinsic`, in the order of its help."""
    return re.findall(r"^    (\w+)(?= |$)", _help().partition("COMMAND\n")[2].partition("\n\n")[0], flags=re.MULTILINE)


VARIABLES = {
    "INTRINSIC_STORE": "folder of the records (`_build/records`)",
    "INTRINSIC_CATALOGUE": "catalogue files of your own, separated by colons, as with `--catalogue`",
    "INTRINSIC_SETS": "folder of the published campaign's image sets (`data/sets`)",
    "INTRINSIC_DATA": "folder of the paper's image sets and of what torchvision and MedMNIST download (`data`)",
    "INTRINSIC_OFFLINE": "1: nothing is downloaded",
    "INTRINSIC_CACHE": "folder of decoded images (`_build/cache`)",
    "INTRINSIC_CACHE_GIB": "its largest size (10); 0: no cache",
    "INTRINSIC_HOME": "the checkout, where the package is not installed from it",
}


def _commands_page() -> str:
    parts = [
        "# Commands",
        "",
        "What `intrinsic COMMAND --help` prints. Every command ends with code 0 only on success, and says in one",
        "sentence what went wrong otherwise.",
        "",
        f"```text\n{_help()}\n```",
        "",
    ]
    for name in commands():
        parts += [f"(command-{name})=", f"## intrinsic {name}", "", f"```text\n{_help(name)}\n```", ""]
    parts += ["## Environment variables", "", "| variable | what it says, and the default |", "|-|-|"]
    parts += [f"| `{name}` | {about} |" for name, about in VARIABLES.items()]
    parts.append("")
    return "\n".join(parts)


def _parameters_page() -> str:
    return "\n".join(
        (
            "# Parameters",
            "",
            "The keys of a parameter file, `params/NAME.yaml`, all at its top level; a key that is unknown or given",
            "twice is refused, and so are values with which runs can only fail: `k` not below their number of images,",
            "a VGG at less than 32 pixels a side.",
            "Notebooks declare those they take in their `parameters` cell, with the same defaults.",
            NOTATION,
            "",
            *_fields(campaign.Params),
            "## A block of runs",
            "",
            "Each entry of `runs` is a grid: every model at every size with every seed on every image set. Blocks come",
            "in the order in which they are to be computed.",
            "",
            *_fields(campaign.RunBlock),
        )
    )


def _fields(schema) -> list[str]:
    """A definition list of a schema's keys."""
    lines = []
    for name, field in schema.model_fields.items():
        default = field.get_default(call_default_factory=True)
        shown = "required" if field.is_required() else f"default `{_short(default)}`"
        about = "; ".join([escaped(field.description or ""), *map(escaped, _limits(field.metadata))]).strip("; ")
        lines += [f"`{name}` ({escaped(_kind(field.annotation))}; {shown})", f": {about or '...'}", ""]
    return lines


def _limits(metadata) -> list[str]:
    """The bounds of a field in words."""
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    found = [(word, getattr(one, name)) for one in metadata for name, word in words.items() if hasattr(one, name)]
    found = [f"{word} {limit}" for word, limit in found if limit != campaign.MOST]
    found += [f"at least {one.min_length} of them" for one in metadata if getattr(one, "min_length", None)]
    return found + [f"matches `{one.pattern}`" for one in metadata if getattr(one, "pattern", None)]


def _kind(annotation) -> str:
    """A type in words, such as "list of int (at least 1) or null"."""
    origin, inside = get_origin(annotation), get_args(annotation)
    if annotation is type(None):
        return "null"
    if origin is Literal:
        return " or ".join(map(repr, inside))
    if origin is Annotated:
        limits = [limit for one in inside[1:] for limit in _limits(getattr(one, "metadata", [one]))]
        return _kind(inside[0]) + (f" ({', '.join(limits)})" if limits else "")
    if origin in (Union, UnionType):
        return " or ".join(map(_kind, inside))
    return f"{origin.__name__} of {', '.join(map(_kind, inside))}" if origin else annotation.__name__


def _short(value, most: int = 300) -> str:
    text = str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value)
    return text if len(text) <= most else f"{text[: most - 1]}…"


# ------------------------------------------------------------------------------------------- changes, citation


def _changelog_page() -> str:
    return (images.REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")


def _citation_page() -> str:
    facts = yaml.safe_load((images.REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    (paper,) = facts["references"]
    authors = " and ".join(f"{one['family-names']}, {one['given-names']}" for one in paper["authors"])
    numbers = "; ".join(one["value"] for one in paper["identifiers"])
    book = [
        ("title", f"{{{facts['title']}}}"),
        ("author", "{{" + " and ".join(one["name"] for one in facts["authors"]) + "}}"),
        ("version", f"{{{facts['version']}}}"),
        ("note", f"{{Software, license {facts['license']}}}"),
    ]
    tested = [
        ("title", f"{{{paper['title']}}}"),
        ("author", f"{{{authors}}}"),
        ("booktitle", f"{{{paper['collection-title']}}}"),
        ("year", f"{{{paper['year']}}}"),
        ("note", f"{{{numbers}}}"),
    ]
    return "\n".join(
        (
            "# How to cite",
            "",
            f"{facts['message']} The same facts stand in `CITATION.cff`.",
            "",
            "```bibtex",
            _bibtex("software", "intrinsic_properties_book", book),
            "",
            _bibtex("inproceedings", "konz2024effect", tested),
            "```",
            "",
            "A number of this book is cited best with the parameter file and the commit that its record names:",
            "`intrinsic status` prints where the records are, and each holds its provenance.",
            "",
        )
    )


def _bibtex(kind: str, key: str, fields) -> str:
    return f"@{kind}{{{key},\n" + ",\n".join(f"  {name} = {value}" for name, value in fields) + "\n}"


def _index_page() -> str:
    return "# Index\n\nAll names of the package.\n"


_MAKERS = {
    API: _api_page,
    "book/reference/commands": _commands_page,
    "book/reference/parameters": _parameters_page,
    "book/reference/changelog": _changelog_page,
    "book/reference/citation": _citation_page,
    "genindex": _index_page,
}
