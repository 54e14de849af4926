"""What a source holds: a table with one row an image, made from folders and second tables without reading a pixel."""

import os
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from intrinsic.images.files import hidden
from intrinsic.images.sets import BadSource, reason

# What lies beside images without being one, and is not told of
BESIDE = (".txt", ".csv", ".tsv", ".parquet", ".json", ".md", ".xml", ".yaml", ".yml", ".html", ".htm", ".pdf")
BESIDE += (".md5", ".sha1", ".sha256", ".sha512")
BESIDE_NAMES = ("thumbs.db", "desktop.ini", "readme", "license", "licence", "md5sums", "sha1sums", "sha256sums")


@dataclass(frozen=True)
class Found:
    """What a source holds.

    table    one row an image. Column `path`: what the image is called, for files from `root` on; `frame`, where files
             hold several: which one; and whatever else the source says, for the rules to use
    label    the column of the label unless a rule says otherwise
    group    the column of the group unless a rule says otherwise; None: unknown
    classes  class names in the source's own order; None: sorted
    root     the folder from which `path` starts
    images   uint8 (n, H, W) or (n, H, W, 3), in the order of the rows; None where they are files to be read
    facts    source, licence of the ImageSet, where the source says so
    """

    table: pd.DataFrame
    label: str | None = None
    group: str | None = None
    classes: tuple[str, ...] | None = None
    root: Path | None = None
    images: np.ndarray | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def listed(path):
    """What a folder holds, sorted by name. Raises BadSource where it may not be read."""
    try:
        return sorted(path.iterdir())
    except OSError as error:
        raise BadSource(
            f"the folder {path} cannot be listed ({error.strerror or reason(error)}), so its images are unknown: "
            "make it readable, or take it away"
        ) from None


def walk(path, above=()):
    """Files in a folder and those below, sorted; each file once, however many links lead to it. Not those hidden.

    above   real paths of folders not to be entered, so that links that lead back end
    """
    seen = set(above)

    def inside(folder):
        home = os.path.realpath(folder)
        seen.add(home)
        for entry in listed(folder):
            real = os.path.realpath(entry) if entry.is_symlink() else os.path.join(home, entry.name)
            if hidden(entry) or real in seen:
                continue
            if entry.is_dir():
                yield from inside(entry)
            else:
                seen.add(real)
                yield entry

    yield from inside(path)


def tell_left_out(path, files, read, instead):
    """One warning that names and counts the files below a folder that are not read.

    files   {file: kind};  read   those that are;  instead   what can be done
    """
    told = {f: kind or f.suffix.lower() or "without suffix" for f, kind in files.items() if f not in read and (
        kind or not (f.suffix.lower() in BESIDE or f.name.lower() in BESIDE_NAMES))}  # fmt: skip
    if told:
        counts = Counter(told.values()).most_common()
        shown = ", ".join(f"{kind} {n:,}" for kind, n in counts[:4]) + (", ..." if len(counts) > 4 else "")
        warnings.warn(
            f"not all of {path} is read: {len(told):,} files are left out ({shown}), e.g. "
            f"{next(iter(told)).relative_to(path).as_posix()!r}; {instead}",
            stacklevel=6,
        )


def rows_of(path, files):
    """A table of files below a folder: path and folder, the top one."""
    names = [file.relative_to(path) for file in files]
    columns = {"path": [n.as_posix() for n in names], "folder": [n.parts[0] if len(n.parts) > 1 else "" for n in names]}
    return pd.DataFrame(columns, dtype=object)  # names of files may hold bytes that are no text


def each_frame(table, several):
    """A row for each frame or slice, with the columns frame and volume.

    several   of each file: the numbers of its frames, or how many; None for a file that is one image
    """
    if not any(n is not None for n in several):
        return table
    frames = [[pd.NA] if n is None else list(range(n) if isinstance(n, int) else n) for n in several]
    table = table.loc[table.index.repeat([len(f) for f in frames])].reset_index(drop=True)
    table["frame"] = pd.array([i for f in frames for i in f], dtype="Int64")
    table["volume"] = table["path"]
    return table
