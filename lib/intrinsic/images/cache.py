"""A cache of decoded images on disk, kept by the content of their files.

INTRINSIC_CACHE is its folder (_build/cache of the repository), INTRINSIC_CACHE_GIB how large it may grow (10; 0: none).
"""

import os
from pathlib import Path

from intrinsic.images.sets import REPOSITORY

VERSION = 4  # raise it when the same files are decoded to other pixels


def limit():
    """How many bytes all entries may take together. Raises ValueError."""
    text = os.environ.get("INTRINSIC_CACHE_GIB") or "10"
    try:
        return int(max(float(text), 0) * 2**30)
    except (ValueError, OverflowError):
        raise ValueError(f"INTRINSIC_CACHE_GIB is {text!r}, which is no size in GiB: give a number, e.g. 10") from None


def kept(key, make):
    """make(), or what it gave before for the same key, a list of texts; a full disk keeps none, with a warning."""
    if not limit():
        return make()
    import joblib

    home = Path(os.environ.get("INTRINSIC_CACHE") or REPOSITORY / "_build" / "cache").expanduser()
    memory = joblib.Memory(home, verbose=0)
    made = memory.cache(_made, ignore=["make"])([VERSION, *key], make)
    memory.reduce_size(bytes_limit=limit())
    return made


def _made(key, make):
    return make()
