"""One run, one record: what was asked (params), what came out (metrics, series), where (provenance).

A record's identity is the hash of its kind and its params; params hold everything that decides
the numbers and nothing else: no path, no device, no date. A record is written to a draft and
renamed, so a file in the store is whole or absent. The working store keeps one JSON file per
record; a published campaign is one sorted JSON Lines file.
"""

import datetime
import hashlib
import json
import math
import os
import platform
import subprocess
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

SCHEMA = 1
MAX_SERIES = 2000

#: The version of each kind's method: raised when the same params would give other numbers.
METHOD_VERSIONS = {"properties": 2, "training": 2, "attack": 2, "representation": 2, "slope": 1}
KINDS = tuple(METHOD_VERSIONS)


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
            raise RecordError(f"'{self.kind}' is not a kind of record; the kinds are {', '.join(KINDS)}")
        for key, value in self.params.items():
            parts = value if isinstance(value, list) else [value]
            if not all(isinstance(part, str | int | float | bool | None) for part in parts):
                raise RecordError(f"param '{key}' of a {self.kind} record is not flat: {value!r}")
        for key, value in self.metrics.items():
            if value is None:
                if not self.reasons.get(key):
                    raise RecordError(f"metric '{key}' of a {self.kind} record is null without a reason")
            elif isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise RecordError(
                    f"metric '{key}' of a {self.kind} record is {value!r}; it must be a finite number, "
                    "or null with a reason"
                )
        for key, values in self.series.items():
            if len(values) > MAX_SERIES:
                raise RecordError(f"series '{key}' holds {len(values)} values; at most {MAX_SERIES} are kept")

    @cached_property
    def id(self) -> str:
        return record_id(self.kind, self.params)

    def to_json(self) -> str:
        body = {
            "id": self.id,
            "kind": self.kind,
            "params": self.params,
            "metrics": self.metrics,
            "reasons": self.reasons,
            "series": self.series,
            "provenance": self.provenance,
            "schema": SCHEMA,
        }
        return json.dumps(body, sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, text: str, where: str = "a record") -> "Record":
        try:
            body = json.loads(text)
            record = cls(**{k: body[k] for k in ("kind", "params", "metrics", "reasons", "series", "provenance")})
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise RecordError(f"{where} is damaged ({error}); delete it and run the campaign again") from error
        if body["schema"] != SCHEMA:
            raise RecordError(f"{where} has schema {body['schema']}, this version reads {SCHEMA}")
        if body["id"] != record.id:
            raise RecordError(f"{where} carries the id {body['id']} but its params hash to {record.id}")
        return record


def record_id(kind: str, params: dict) -> str:
    """16 hexadecimal digits: the hash of kind and params, independent of their order."""
    text = json.dumps([kind, params], sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def finite(metrics: dict, reasons: dict | None = None) -> tuple[dict, dict]:
    """Metrics and reasons as a record takes them: a value that is not finite becomes None with a reason."""
    out, why = {}, dict(reasons or {})
    for key, value in metrics.items():
        if value is not None and math.isfinite(value):
            out[key] = float(value)
        else:
            out[key] = None
            why.setdefault(key, "missing" if value is None else f"the value is {float(value)}")
    return out, {k: v for k, v in why.items() if out.get(k, 0) is None}


@cache
def _commit() -> str:
    try:
        here = Path(__file__).parent
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()


def provenance(**facts) -> dict:
    """Where a number came from: commit, versions, processor, time; never part of a record's identity."""
    import numpy
    import torch

    return {
        "commit": _commit(),
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **facts,
    }


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
        draft.unlink(missing_ok=True)


class Store:
    """A folder of records, one JSON file each: `root/KIND/ID.json`."""

    def __init__(self, root: Path | str):
        self.root = Path(root)

    def path(self, kind: str, id: str) -> Path:
        return self.root / kind / f"{id}.json"

    def checkpoint(self, id: str) -> Path:
        """Where a training run keeps its state until its records are stored."""
        return self.root / "checkpoints" / f"{id}.safetensors"

    def weights(self, id: str) -> Path:
        """Where a trained network stays, if it does."""
        return self.root / "weights" / f"{id}.safetensors"

    def __contains__(self, key: tuple[str, str]) -> bool:
        return self.path(*key).exists()

    def write(self, record: Record) -> Path:
        path = self.path(record.kind, record.id)
        write_text(path, record.to_json() + "\n")
        return path

    def read(self, kind: str, id: str) -> Record:
        path = self.path(kind, id)
        return Record.from_json(path.read_text(encoding="utf-8"), where=str(path))

    def ids(self, kind: str) -> list[str]:
        return sorted(path.stem for path in (self.root / kind).glob("[!.]*.json"))

    def records(self, kind: str) -> Iterator[Record]:
        for id in self.ids(kind):
            yield self.read(kind, id)

    def state(self) -> str:
        """A hash of what the store holds."""
        names = [f"{kind}/{id}" for kind in KINDS for id in self.ids(kind)]
        return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]


def publish(records: Iterable[Record], path: Path | str) -> int:
    """Write records as one JSON Lines file sorted by kind and id; returns how many.

    Records of one kind made by different method versions do not mix and are refused.
    """
    lines, versions = {}, {}
    for record in records:
        versions.setdefault(record.kind, set()).add(record.params.get("method_version"))
        lines[(record.kind, record.id)] = record.to_json()
    for kind, seen in versions.items():
        if len(seen) > 1:
            raise RecordError(
                f"the {kind} records come from method versions {sorted(map(str, seen))}, which are not "
                "comparable; run the campaign again with one version, then publish"
            )
    write_text(Path(path), "".join(lines[key] + "\n" for key in sorted(lines)))
    return len(lines)


def read_published(path: Path | str) -> list[Record]:
    """The records of one published campaign."""
    text = Path(path).read_text(encoding="utf-8")
    return [Record.from_json(line, where=f"{path}, line {i}") for i, line in enumerate(text.splitlines(), 1)]
