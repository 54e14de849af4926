"""One run, one record: what was asked (params), what came out (metrics, series), where (provenance).

Params hold what decides the numbers and nothing else. The working store keeps one JSON file a record; a published
campaign is one sorted JSON Lines file.
"""

import contextlib
import datetime
import hashlib
import json
import math
import os
import platform
import subprocess
import threading
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache
from pathlib import Path

from intrinsic.images import REPOSITORY

SCHEMA = 1
MAX_SERIES = 2000
PARTS = ("params", "metrics", "reasons", "series", "provenance")
HASHES = ("image_hash", "split_hash")

#: The version of each kind's method: raised when the same params would give other numbers.
METHOD_VERSIONS = {"properties": 4, "training": 2, "attack": 2, "representation": 2, "slope": 1}
KINDS = tuple(METHOD_VERSIONS)

_ENCODER = json.JSONEncoder(sort_keys=True, allow_nan=False)


class RecordError(ValueError):
    """A record that breaks the contract, or a damaged file."""


@dataclass(frozen=True)
class Record:
    """kind, params (flat), metrics (finite or None with a reason), series (short arrays), provenance."""

    kind: str
    params: dict
    metrics: dict
    reasons: dict = field(default_factory=dict)
    series: dict = field(default_factory=dict)
    provenance: dict = field(default_factory=dict)

    def __post_init__(self):
        if self.kind not in KINDS:
            raise RecordError(f"{self.kind!r} is not a kind of record; the kinds are {', '.join(KINDS)}")
        for key, value in self.params.items():
            parts = value if isinstance(value, list) else [value]
            if not all(isinstance(part, str | int | float | bool | None) for part in parts):
                raise RecordError(f"param {key!r} of a {self.kind} record is not flat: {value!r}")
        for key, value in self.metrics.items():
            number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            if not (number or (value is None and self.reasons.get(key))):
                raise RecordError(f"metric {key!r} of a {self.kind} record is {value!r}: no number, no reason")

    @cached_property
    def id(self) -> str:
        return record_id(self.kind, self.params)

    def to_json(self) -> str:
        """The record as one line of JSON."""
        body = {part: getattr(self, part) for part in ("id", "kind", *PARTS)}
        return _ENCODER.encode(body | {"schema": SCHEMA})

    @classmethod
    def from_json(cls, text: str | bytes, where: str = "a record", key: tuple[str, str] | None = None) -> "Record":
        """Read a record of JSON that is from `where` and has to be of `key`, a kind and id. Raises RecordError."""
        try:
            body = json.loads(text)
            record = cls(body["kind"], *(body[part] for part in PARTS))
            if (body["schema"], body["id"]) != (SCHEMA, record.id) or key not in (None, (record.kind, record.id)):
                raise ValueError(f"its schema or id is not that of {record.kind} {record.id}")
        except (AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError) as error:
            raise RecordError(f"{where} is damaged ({error!r}); delete it and run the campaign again") from error
        return record


def record_id(kind: str, params: dict) -> str:
    """16 hexadecimal digits: the hash of kind and params, independent of their order."""
    return hashlib.sha256(_ENCODER.encode([kind, params]).encode()).hexdigest()[:16]


def cell_id(params: dict) -> str:
    """What names a run whatever images it is of: the hash of its params without those of the images."""
    return record_id("training", {key: value for key, value in params.items() if key not in HASHES})


def finite(metrics: dict, reasons: dict | None = None) -> tuple[dict, dict]:
    """Metrics and reasons as a record takes them: a value that is not finite becomes None with a reason."""
    out, why = {}, dict(reasons or {})
    for key, value in metrics.items():
        out[key] = float(value) if value is not None and math.isfinite(value) else None
        if out[key] is None:
            why.setdefault(key, "missing" if value is None else f"the value is {float(value)}")
    return out, {key: reason for key, reason in why.items() if out.get(key, 0) is None}


@cache
def _commit() -> str:
    how = {"cwd": Path(__file__).parent, "stderr": subprocess.DEVNULL, "text": True, "timeout": 10}
    try:
        return subprocess.check_output(["git", "rev-parse", "HEAD"], **how).strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def provenance(**facts) -> dict:
    """Where a number came from: commit, versions, processor, time; never part of a record's id."""
    import numpy
    import torch

    return {
        "commit": _commit(),
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "written": _now(),
        **facts,
    }


def writable(path: Path | str, ending: str) -> Path:
    """Check the path of a file that a user names to be written, before any work is done for it. Raises ValueError."""
    path = Path(path).expanduser()
    if path.suffix.lower() != ending or path.is_dir() or not path.parent.is_dir():
        raise ValueError(f"{path} cannot be written: name a file that ends in {ending}, in a folder that exists")
    return path


def write_text(path: Path, text: str) -> None:
    """Write to a draft beside `path`, then rename: the file is whole or untouched."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.draft")
    try:
        with open(draft, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        with contextlib.suppress(OSError):  # of a file system that is read-only meanwhile
            draft.unlink(missing_ok=True)


class Store:
    """A folder of records, one JSON file each; beside them notes of failures, checkpoints and kept weights."""

    def __init__(self, root: Path | str):
        self.root = Path(root)
        if self.root.exists() and not self.root.is_dir():
            raise RecordError(f"{self.root} is a file, so it holds no records: name a folder in INTRINSIC_STORE")

    def path(self, kind: str, id: str) -> Path:
        """The file of a record; of `failed`, `checkpoints` (of runs in training) or `weights` (of trained networks)."""
        return self.root / kind / f"{id}{'.safetensors' if kind in ('checkpoints', 'weights') else '.json'}"

    def __contains__(self, key: tuple[str, str]) -> bool:
        """Whether the record is there and can be read; one that cannot is replaced when it is computed again."""
        try:
            return bool(self.read(*key))
        except (FileNotFoundError, RecordError):
            return False

    def write(self, record: Record) -> Path:
        path = self.path(record.kind, record.id)
        write_text(path, record.to_json() + "\n")
        return path

    def read(self, kind: str, id: str) -> Record:
        path = self.path(kind, id)
        return Record.from_json(path.read_bytes(), str(path), (kind, id))

    def keys(self, kinds: Iterable[str] = KINDS) -> set[tuple[str, str]]:
        """Kind and id of every record."""
        return {(kind, path.stem) for kind in kinds for path in (self.root / kind).glob("[!.]*.json")}

    def records(self, kind: str) -> Iterator[Record]:
        """The records of a kind that can be read; one warning counts the others."""
        errors = []
        for key in sorted(self.keys([kind])):
            try:
                yield self.read(*key)
            except RecordError as error:
                errors.append(error)
        if errors:
            warnings.warn(f"{kind} records left out: {len(errors)}, the first: {errors[0]}", stacklevel=2)

    def fail(self, kind: str, id: str, **facts: str) -> None:
        """Note that a run failed: label, reason, traceback. The next note of it, or `forgive`, takes its place."""
        note = self.path("failed", f"{kind}-{id}")
        write_text(note, json.dumps({**facts, "written": _now()}, sort_keys=True) + "\n")

    def failure(self, kind: str, id: str) -> dict | None:
        """The note of a run that failed, or None."""
        note = self.path("failed", f"{kind}-{id}")
        with contextlib.suppress(ValueError):  # a damaged note says only that there was a failure
            return json.loads(note.read_bytes()) if note.exists() else None
        return {"reason": f"its note {note} is damaged", "traceback": ""}

    def forgive(self, kind: str, id: str) -> None:
        """Forget that a run failed."""
        self.path("failed", f"{kind}-{id}").unlink(missing_ok=True)


def default_store() -> Store:
    """The working store: the folder in INTRINSIC_STORE, or `_build/records` of the repository."""
    return Store(os.environ.get("INTRINSIC_STORE") or REPOSITORY / "_build" / "records")


def published_file(name: str) -> Path:
    """Where the records of a campaign are published."""
    return REPOSITORY / "book" / "records" / f"{name}.jsonl"


def read_unreachable(path: Path) -> dict[str, str]:
    """{run: why its image set has too few images} of NAME.unreachable.json beside the published NAME.jsonl."""
    file = path.with_suffix(".unreachable.json")
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def read_published(path: Path | str) -> dict[tuple[str, str], Record]:
    """{(kind, id): record} of one published campaign."""
    lines = Path(path).read_bytes().splitlines()
    found = [Record.from_json(line, where=f"{path}, line {i}") for i, line in enumerate(lines, 1)]
    return {(record.kind, record.id): record for record in found}


@lru_cache(maxsize=32)
def _published(path: Path, stamp: tuple) -> dict[tuple[str, str], Record]:
    return read_published(path)


def published() -> dict[tuple[str, str], Record]:
    """{(kind, id): record} of book/records; a file is parsed again only when it has changed."""
    found = {}
    for path in sorted((REPOSITORY / "book" / "records").glob("*.jsonl")):
        stat = path.stat()
        found |= _published(path, (stat.st_mtime_ns, stat.st_size, stat.st_ino))
    return found


def collected(kind: str, store: Store | None = None) -> list[Record]:
    """The records of a kind, each id once: those of a store first, then published ones; None: published ones alone."""
    found = {record.id: record for record in store.records(kind)} if store else {}
    for (which, id), record in published().items():
        if which == kind:
            found.setdefault(id, record)
    return list(found.values())
