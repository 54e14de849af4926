"""A cache of decoded images on disk: what files held is kept by the content of those files, never by name or time.

An entry is one file: a line of JSON (shape, checksum, facts of the caller), then the pixels. Its name is a hash of all
that decides the pixels. Entries are written to a draft and renamed, so that a reader never sees half of one, and
processes may share the folder.

    INTRINSIC_CACHE       the folder (_build/cache in the repository)
    INTRINSIC_CACHE_GIB   how large it may grow (10); the least recently used entries go first. 0: no cache
"""

import contextlib
import hashlib
import json
import math
import os
import secrets
import time
import warnings
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from intrinsic.images.sets import REPOSITORY, reason

VERSION = 2  # raise it when the same files are decoded to other pixels
STALE = 3600  # seconds after which the draft of another process counts as left behind
_LONGEST_HEADER = 1 << 26  # bytes


class BadCacheSetting(ValueError):
    """INTRINSIC_CACHE_GIB is no number."""


def folder() -> Path:
    """Where entries are."""
    given = os.environ.get("INTRINSIC_CACHE")
    return Path(given).expanduser() if given else REPOSITORY / "_build" / "cache"


def limit() -> int:
    """How many bytes all entries may take together. Raises BadCacheSetting."""
    text = os.environ.get("INTRINSIC_CACHE_GIB") or "10"
    try:
        size = float(text)
    except ValueError:
        size = math.nan
    if not 0 <= size < math.inf:
        raise BadCacheSetting(
            f"INTRINSIC_CACHE_GIB is {text!r}, which is no size for the cache of decoded images: give GiB, e.g. 10"
        )
    return int(size * 2**30)


def key(parts: Iterable[str]) -> str:
    """The name of an entry: 40 hex digits of the cache's version and the parts in their order."""
    digest = hashlib.sha256(f"{VERSION}".encode())
    for part in parts:
        text = part.encode("utf-8", "surrogateescape")
        digest.update(len(text).to_bytes(8, "big") + text)
    return digest.hexdigest()[:40]


def load(name: str) -> tuple[np.ndarray, dict[str, Any]] | None:
    """(images, facts) of an entry, or None. The images are read-only and stay on disk until they are used.

    An entry that is short, or whose checksum is wrong, is removed with a warning.
    """
    file = _file(name)
    try:
        with file.open("rb") as stream:
            header = json.loads(stream.readline(_LONGEST_HEADER))
            start = stream.tell()
        images = np.memmap(file, np.uint8, "r", start, tuple(header["shape"])).view(np.ndarray)
        if file.stat().st_size != start + images.nbytes or zlib.crc32(images.reshape(-1).data) != header["crc32"]:
            raise ValueError("its length or checksum is wrong")
        facts = header["facts"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        _remove(file)
        warnings.warn(
            f"the cached images {file} cannot be used ({reason(error)}), so they are decoded again", stacklevel=2
        )
        return None
    with contextlib.suppress(OSError):  # a folder of someone else: the entry serves, only its time stays
        os.utime(file)
    return images, facts


def store(name: str, images: np.ndarray, facts: dict[str, Any]) -> None:
    """Keep images (uint8) and facts (plain JSON). Where that fails, a warning; sets above the limit are not kept."""
    if images.nbytes > limit():
        return
    file = _file(name)
    draft = file.with_name(f"{name}-{os.getpid()}-{secrets.token_hex(4)}.draft")
    pixels = np.ascontiguousarray(images).reshape(-1).data
    header = {"shape": images.shape, "crc32": zlib.crc32(pixels), "facts": facts}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        _make_room(file.parent, images.nbytes)
        with draft.open("xb") as stream:
            stream.write(json.dumps(header).encode() + b"\n")
            stream.write(pixels)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(draft, file)
    except OSError as error:
        _remove(draft)
        warnings.warn(
            f"the decoded images cannot be kept in {file} ({reason(error)}), so they are decoded again next time: free "
            "some space, set INTRINSIC_CACHE to another folder, or INTRINSIC_CACHE_GIB=0 for no cache",
            stacklevel=2,
        )


def _file(name: str) -> Path:
    return folder() / f"{name}.images"


def _remove(file: Path) -> None:
    with contextlib.suppress(OSError):  # gone already, or not ours to remove; the caller has said what is wrong
        file.unlink()


def _make_room(home: Path, size: int) -> None:
    """Removes drafts left behind, and the least recently used entries until `size` more bytes fit the limit."""
    entries = []
    for file in home.iterdir():
        if file.suffix not in (".draft", ".images"):
            continue
        try:
            facts = file.stat()
        except FileNotFoundError:  # another process was faster
            continue
        if file.suffix == ".images":
            entries.append((facts.st_mtime_ns, facts.st_size, file))
        elif time.time() - facts.st_mtime > STALE:
            file.unlink(missing_ok=True)
    over = sum(held for _, held, _ in entries) + size - limit()
    for _, held, file in sorted(entries):
        if over <= 0:
            return
        file.unlink(missing_ok=True)
        over -= held
