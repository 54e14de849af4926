"""A cache of decoded images on disk: kept by the content of their files, never by name or time.

An entry is one .npz file, whose name is a hash of all that decides the pixels. It is written to a draft and renamed, so
that a reader never sees half of one.

    INTRINSIC_CACHE       the folder (_build/cache in the repository)
    INTRINSIC_CACHE_GIB   how large it may grow (10); the least recently used entries go first. 0: no cache
"""

import hashlib
import json
import os
import tempfile
import warnings
import zipfile
from pathlib import Path

import numpy as np

from intrinsic.images.sets import REPOSITORY, reason

VERSION = "3"  # raise it when the same files are decoded to other pixels


def folder():
    """Where entries are."""
    given = os.environ.get("INTRINSIC_CACHE")
    return Path(given).expanduser() if given else REPOSITORY / "_build" / "cache"


def limit():
    """How many bytes all entries may take together. Raises ValueError."""
    text = os.environ.get("INTRINSIC_CACHE_GIB") or "10"
    try:
        return int(max(float(text), 0) * 2**30)
    except (ValueError, OverflowError):
        raise ValueError(f"INTRINSIC_CACHE_GIB is {text!r}, which is no size in GiB: give a number, e.g. 10") from None


def key(parts):
    """The name of an entry: a hash of the cache's version and the parts in their order."""
    return hashlib.sha256(json.dumps([VERSION, *parts]).encode()).hexdigest()[:40]


def load(name):
    """(images, facts) of an entry, or None. A damaged one is removed with a warning."""
    file = folder() / f"{name}.npz"
    try:
        with np.load(file) as entry:
            images, facts = entry["images"], json.loads(str(entry["facts"]))
        os.utime(file)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        file.unlink(missing_ok=True)
        warnings.warn(f"the cached {file} cannot be used ({reason(error)}), so it is made again", stacklevel=2)
        return None
    return images, facts


def store(name, images, facts):
    """Keep an array and facts (plain JSON). Where that fails, a warning."""
    home = folder()
    if images.nbytes > limit():
        return
    try:
        home.mkdir(parents=True, exist_ok=True)
        entries = sorted((file.stat().st_mtime, file.stat().st_size, file) for file in home.glob("*.npz"))
        over = sum(size for _, size, _ in entries) + images.nbytes - limit()
        for _, size, file in entries:
            if over > 0:
                file.unlink(missing_ok=True)
                over -= size
        with tempfile.TemporaryDirectory(dir=home, prefix=".") as draft:
            np.savez(Path(draft) / "entry.npz", images=images, facts=np.array(json.dumps(facts)))
            os.replace(Path(draft) / "entry.npz", home / f"{name}.npz")
    except OSError as error:
        warnings.warn(
            f"{home} cannot keep the decoded images ({reason(error)}), so they are decoded again next time: free some "
            "space, or set INTRINSIC_CACHE to another folder",
            stacklevel=2,
        )
