"""One run, one record: what was asked (params), what came out (metrics, series), where (provenance).

A record's identity is the hash of its kind and its params; params hold everything that decides
the numbers and nothing else: no path, no device, no date. A record is written to a draft and
renamed, so a file in the store is whole or absent. The working store keeps one JSON file per
record; a published campaign is one sorted JSON Lines file.
"""

import contextlib
import datetime
import hashlib
import json
import math
import os
import platform
import shutil
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

SCHEMA = 1

#: {schema: what makes the JSON of the next one of it}: a record of an older schema stays readable.
#: A migration returns a new body, with its own `schema`, and with its own `id` where it changes `params`.
MIGRATIONS: dict[int, Callable[[dict], dict]] = {}

STALE_S = 60  # seconds without a heartbeat after which a claim counts for nothing
MAX_SERIES = 2000

#: The version of each kind's method: raised when the same params would give other numbers.
METHOD_VERSIONS = {"properties": 3, "training": 2, "attack": 2, "representation": 2, "slope": 1}
KINDS = tuple(METHOD_VERSIONS)
PAGE = "page"  # kind of the record that an executed notebook leaves, which holds no measurement


def _no_number(text: str):
    raise ValueError(f"{text} is no number of JSON")


_ENCODER = json.JSONEncoder(sort_keys=True, allow_nan=False)
_DECODER = json.JSONDecoder(parse_constant=_no_number)
PARTS = ("params", "metrics", "reasons", "series", "provenance")
NOTE = {"label": str, "reason": str, "traceback": str, "attempts": int}  # what the note of a failed run says
FLAT = frozenset({str, int, float, bool, type(None)})  # types of nearly all params


class BadOutput(ValueError):
    """A file to write whose name does not fit what it would hold."""


class RecordError(ValueError):
    """A record that breaks the contract, or a damaged file."""


class OtherSchema(RecordError):
    """A record that another version of this package wrote."""


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
        if self.kind not in (*KINDS, PAGE):
            raise RecordError(f"'{self.kind}' is not a kind of record; the kinds are {', '.join(KINDS)}")
        for key, value in self.params.items():
            if type(value) in FLAT:
                continue
            parts = value if isinstance(value, list) else [value]
            if not all(isinstance(part, str | int | float | bool | None) for part in parts):
                raise RecordError(f"param '{key}' of a {self.kind} record is not flat: {value!r}")
        for key, value in self.metrics.items():
            if type(value) is float and math.isfinite(value):
                continue
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
    def from_json(cls, text: str | bytes, where: str = "a record", key: tuple[str, str] | None = None) -> "Record":
        """The record of a JSON text. Raises RecordError, which names `where` it is from.

        key   (kind, id) that the text has to be of
        """
        try:
            body = _DECODER.decode(text if isinstance(text, str) else text.decode("utf-8"))
            named, record = (body["kind"], body["id"]), None
            while body["schema"] in MIGRATIONS:
                body = MIGRATIONS[body["schema"]](body)
            id, schema = body["id"], body["schema"]
            if schema == SCHEMA:
                if wrong := [part for part in PARTS if not isinstance(body[part], dict)]:
                    raise TypeError(f"its {wrong[0]} are no table")
                record = cls(body["kind"], *(body[part] for part in PARTS))
                own = record.id
        except (AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError) as error:
            why = f"{error} is missing" if isinstance(error, KeyError) else error
            raise RecordError(f"{where} is damaged ({why}); delete it and run the campaign again") from error
        if record is None:
            raise OtherSchema(
                f"{where} has schema {schema}, and this version reads {SCHEMA}: use the version that wrote it, or move "
                "it away"
            )
        if id != own:
            raise RecordError(f"{where} carries the id {id} but its params hash to {own}")
        if key not in (None, named):
            raise RecordError(
                f"{where} holds the {named[0]} record {named[1]}, so one run would be taken for another; delete it and "
                "run the campaign again"
            )
        return record


def record_id(kind: str, params: dict) -> str:
    """16 hexadecimal digits: the hash of kind and params, independent of their order."""
    return hashlib.sha256(_ENCODER.encode([kind, params]).encode()).hexdigest()[:16]


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


def writable(path: Path | str, *suffixes: str) -> Path:
    """The path of a file that a user names to be written, before any work is done for it.

    suffixes   endings that fit, with the point, in lower case; none: any
    Raises IsADirectoryError for a folder, BadOutput for another ending, so that no picture or program is overwritten
    by a table, and FileNotFoundError where the folder of the file does not exist.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, so no file can be written under that name: name a file in it")
    if suffixes and path.suffix.lower() not in suffixes:
        raise BadOutput(
            f"{path} does not end in {' or '.join(suffixes)}, and a file of another kind could be lost under what is "
            f"written: name a file such as {path.with_suffix(suffixes[0]).name}"
        )
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"{path.parent} is no folder, so {path.name} cannot be written there: make it first, or name another"
        )
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
        draft.unlink(missing_ok=True)


def remove(draft: Path) -> None:
    """Delete a draft, a file or a folder, where it is still there."""
    if draft.is_dir():
        shutil.rmtree(draft, ignore_errors=True)
    else:
        draft.unlink(missing_ok=True)


@contextlib.contextmanager
def alone(path: Path):
    """Of processes and threads that enter with one path, one at a time is inside; where the system has such locks.

    The lock is that of a hidden file beside `path`, which ends with its process and is deleted on the way out.
    """
    if fcntl is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f".{path.name}.lock.draft")  # as a draft, git does not show it where a process was killed
    while True:
        with open(lock, "a", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:
                raise RecordError(
                    f"{lock} cannot be locked here ({error.strerror}), so two processes could write {path.name} at "
                    "once and lose records: name a file in another folder"
                ) from None
            try:
                same = os.path.samestat(os.fstat(file.fileno()), lock.stat())
            except FileNotFoundError:
                same = False
            if not same:  # the one before has deleted it
                continue
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
            return


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


@cache
def _process_space() -> str:
    """Within which a process number names one process: this start of the system, this namespace; "" if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _read_claim(path: Path, stale_s: float) -> dict | None:
    """What a claim says, its last heartbeat and whether it is stale; None where there is no such file."""
    try:
        beat = path.stat().st_mtime
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    unknown = {"label": "", "host": "", "pid": 0, "started": "", "space": ""}
    try:
        body = json.loads(text)
    except (RecursionError, ValueError):  # its process died while writing it, or writes it now
        body = unknown
    if not (isinstance(body, dict) and body.keys() >= unknown.keys()):  # no claim of this package
        body = unknown
    body["beat"] = datetime.datetime.fromtimestamp(beat, datetime.UTC).isoformat(timespec="seconds")
    body["age_s"] = max(time.time() - beat, 0.0)
    gone = bool(body["space"]) and body["space"] == _process_space() and not Path(f"/proc/{body['pid']}").exists()
    return body | {"stale": gone or body["age_s"] > stale_s}


def _freed(path: Path, stale_s: float) -> bool:
    """Move a stale claim away; False where another process has it, or takes it at this moment."""
    held = _read_claim(path, stale_s)
    if held is None:
        return True
    if not held["stale"]:
        return False
    moved = path.with_name(f".{path.stem}.{uuid.uuid4().hex}.stale")
    try:
        os.rename(path, moved)
        if not (_read_claim(moved, stale_s) or {"stale": True})["stale"]:  # a third process was faster
            os.link(moved, path)
            return False
    except (FileNotFoundError, FileExistsError):
        return False
    finally:
        moved.unlink(missing_ok=True)
    return True


@dataclass(frozen=True)
class Claim:
    """A run that this process computes and no other does, as long as it beats."""

    path: Path
    token: str

    def beat(self) -> bool:
        """Say that the process is alive; False where the claim is no longer its own."""
        try:
            body = json.loads(self.path.read_bytes())
            if not isinstance(body, dict) or body.get("token") != self.token:
                return False
            os.utime(self.path)
        except (OSError, RecursionError, ValueError):
            return False
        return True

    def release(self) -> None:
        if self.beat():
            self.path.unlink(missing_ok=True)


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
        path = f"{self.root}/{kind}/{id}.json"  # a Path takes as long to make as the file to read
        with open(path, "rb") as file:
            text = file.read()
        return Record.from_json(text, path, (kind, id))

    def set_aside(self, kind: str, id: str) -> None:
        """Rename a record that cannot be read to `KIND/.ID.json.damaged`, so that it counts as missing."""
        path = self.path(kind, id)
        with contextlib.suppress(FileNotFoundError):  # another campaign was faster
            os.replace(path, path.with_name(f".{path.name}.damaged"))

    def ids(self, kind: str) -> list[str]:
        return sorted(path.stem for path in (self.root / kind).glob("[!.]*.json"))

    def records(self, kind: str) -> Iterator[Record]:
        for id in self.ids(kind):
            yield self.read(kind, id)

    def fail(self, kind: str, id: str, label: str, reason: str, traceback: str = "", attempts: int = 1) -> None:
        """Note that a run failed, in `failed/KIND-ID.json`; the next note of it, or `forgive`, takes its place."""
        body = {"label": label, "reason": reason, "traceback": traceback, "attempts": attempts, "written": _now()}
        write_text(self.root / "failed" / f"{kind}-{id}.json", json.dumps(body, sort_keys=True) + "\n")

    def failures(self) -> dict[tuple[str, str], dict]:
        """{(kind, id): label, reason, traceback, attempts, written} of the runs that failed."""
        found = {}
        for path in sorted((self.root / "failed").glob("[!.]*-*.json")):
            kind, _, id = path.stem.partition("-")
            try:
                note = json.loads(path.read_bytes())
                if not isinstance(note, dict) or any(not isinstance(note.get(k), of) for k, of in NOTE.items()):
                    raise ValueError(f"it holds no {', '.join(NOTE)}")
            except FileNotFoundError:  # forgiven meanwhile
                continue
            except (OSError, RecursionError, ValueError) as error:
                raise RecordError(f"the note {path} cannot be read ({error}), so it says nothing; delete it") from error
            found[kind, id] = note
        return found

    def forgive(self, kind: str, id: str) -> None:
        """Forget that a run failed."""
        (self.root / "failed" / f"{kind}-{id}.json").unlink(missing_ok=True)

    def claim(self, id: str, label: str, stale_s: float = STALE_S) -> "Claim | None":
        """The claim to a run, in `claims/ID.json`; None where another process has it.

        The file is created only where there is none, so of two processes one gets it. One without a heartbeat for
        `stale_s` seconds, or whose process on this machine is gone, is moved away first.
        """
        path = self.root / "claims" / f"{id}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        body = {"label": label, "host": socket.gethostname(), "pid": os.getpid(), "started": _now(), "beat": _now()}
        body |= {"space": _process_space(), "token": uuid.uuid4().hex}
        for _ in range(2):
            try:
                with open(path, "x", encoding="utf-8") as file:
                    file.write(json.dumps(body, sort_keys=True) + "\n")
            except FileExistsError:
                if not _freed(path, stale_s):
                    return None
            else:
                return Claim(path, body["token"])
        return None

    def claims(self, stale_s: float = STALE_S) -> dict[str, dict]:
        """{id: label, host, pid, started, beat (the last heartbeat), age_s, stale} of the runs in work."""
        found = {p.stem: _read_claim(p, stale_s) for p in sorted((self.root / "claims").glob("[!.]*.json"))}
        return {id: one for id, one in found.items() if one is not None}

    def sweep(self, older_s: float = 3600) -> None:
        """Delete what killed processes left: stale claims, and drafts that nobody wrote to for `older_s` seconds."""
        for claim in (self.root / "claims").glob("[!.]*.json"):
            _freed(claim, STALE_S)
        for draft in self.root.glob("*/.*.draft"):
            with contextlib.suppress(FileNotFoundError):  # renamed, or swept by another campaign
                if time.time() - draft.stat().st_mtime > older_s:
                    remove(draft)

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


def unreachable_file(path: Path | str) -> Path:
    """NAME.unreachable.json beside the published NAME.jsonl: runs of the plan for which a set has too few images."""
    return Path(path).with_suffix(".unreachable.json")


def read_unreachable(path: Path | str) -> dict[str, str]:
    """{run: why its image set cannot reach it} beside a published file, by `campaign.run_label`; {} where none is.

    Raises RecordError where the file holds anything else.
    """
    file = unreachable_file(path)
    try:
        found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    except ValueError:  # no JSON, or no UTF-8
        found = None
    if not (isinstance(found, dict) and all(isinstance(why, str) for why in found.values())):
        raise RecordError(f"{file} is damaged: delete it, and intrinsic publish writes it anew")
    return found


def read_published(path: Path | str) -> list[Record]:
    """The records of one published campaign."""
    lines = Path(path).read_bytes().splitlines()
    return [Record.from_json(line, where=f"{path}, line {i}") for i, line in enumerate(lines, 1)]
