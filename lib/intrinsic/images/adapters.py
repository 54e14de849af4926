"""Adapters: what a folder, a table, an archive or a package holds, as a table with one row an image.

An adapter lists; it decides no label and, where images are files, reads no pixel. Label and group rules then pick
rows, and `files.read` decodes only those.
"""

import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydantic

from intrinsic.images.files import hidden, is_picture
from intrinsic.images.sets import BadImages, BadSource, integers, reason


class Options(pydantic.BaseModel):
    """Options of an adapter, as a catalogue entry gives them."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


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
    facts    name, source, licence, ... of the ImageSet, where the source says so
    """

    table: pd.DataFrame
    label: str | None = None
    group: str | None = None
    classes: tuple[str, ...] | None = None
    root: Path | None = None
    images: np.ndarray | None = None
    facts: dict[str, Any] = field(default_factory=dict)


class FolderOptions(Options):
    pass


class NpzOptions(Options):
    pass


def folder(path: Path, options: FolderOptions, progress: bool = False) -> Found:
    """A folder of class folders, both sorted by name."""
    above = {path.resolve(), *path.resolve().parents}
    folders = [p for p in sorted(path.iterdir()) if p.is_dir() and not hidden(p) and p.resolve() not in above]
    if not folders:
        loose = sum(is_picture(p) for p in path.iterdir())
        found = f"{loose} pictures and no folders" if loose else "no pictures"
        raise BadSource(f"{path} holds {found}: put the pictures of each class into a folder of its own there")
    if len(folders) == 1:
        raise BadSource(
            f"{path} holds one class folder only, {folders[0].name!r}, so there are no labels to compare: "
            "give at least two class folders, or the folder that holds them"
        )
    rows = []
    for one in folders:
        inside = [p for p in sorted(one.iterdir()) if not hidden(p)]
        deeper = [p for p in inside if p.is_dir() and any(is_picture(q) for q in p.iterdir())]
        here = [p for p in inside if is_picture(p)]
        if deeper:
            raise BadSource(
                f"class folder {one} holds pictures one level deeper, in {deeper[0].name!r}, which would "
                "be left out: move them up, or give the folder whose folders are the classes"
            )
        if not here:
            raise BadSource(f"class folder {one} holds no picture: remove it or fill it")
        rows += [(p.relative_to(path).as_posix(), one.name) for p in here]
    return Found(pd.DataFrame(rows, columns=["path", "folder"]), label="folder", root=path)


def npz(path: Path, options: NpzOptions, progress: bool = False) -> Found:
    """A .npz archive: images, labels, and optionally class_names, group, paths, source, licence. Never unpickled."""
    if path.suffix.lower() != ".npz" or not path.is_file() or not zipfile.is_zipfile(path):
        raise BadSource(f"{path} is neither a folder of class folders nor an intact .npz file: give one of them")
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = [key for key in ("images", "labels") if key not in archive]
            if missing:
                found = ", ".join(archive.files) or "nothing"
                raise BadSource(
                    f"{path} holds no {' and no '.join(missing)} (but {found}), and an image set needs both: "
                    "save it with np.savez(path, images=..., labels=...)"
                )
            keys = ("images", "labels", "class_names", "group", "paths", "source", "licence")
            content = {key: archive[key] for key in keys if key in archive}
    except BadSource:
        raise
    except (
        OSError,
        ValueError,
        EOFError,
        zipfile.BadZipFile,
        zlib.error,
        RuntimeError,
        MemoryError,
    ) as error:
        raise BadSource(f"{path} cannot be read as .npz of plain arrays ({reason(error)}): save it anew") from None
    try:
        n = len(np.atleast_1d(content["images"]))
        labels = integers(content["labels"], n, "labels")
        group = content.get("group")
        if group is not None:
            group = integers(group, n, "group")
            if not (group == -1).all() and group.min() < 0:
                raise BadImages(
                    f"{(group < 0).sum()} of {n} images have a negative group, so a split could not keep "
                    "them apart: number all groups from 0, or give -1 throughout where they are unknown"
                )
        if "class_names" in content:
            names = tuple(str(name) for name in np.atleast_1d(content["class_names"]))
            if labels.min() < 0 or labels.max() >= len(names):
                raise BadImages(
                    f"labels run from {labels.min()} to {labels.max()}, and {len(names)} classes are named, so "
                    f"some label has no name: use labels 0 to {len(names) - 1}"
                )
        else:
            values, labels = np.unique(labels, return_inverse=True)
            names = tuple(str(value) for value in values)
        paths = content.get("paths")
        paths = [f"row={i}" for i in range(n)] if paths is None else [str(p) for p in np.atleast_1d(paths)]
        if len(paths) != n:
            raise BadImages(f"{len(paths)} paths for {n} images: give one each, or none")
        table = pd.DataFrame({"path": paths, "label": [names[i] for i in labels]})
        if group is not None and (group >= 0).all():
            table["group"] = group
    except BadImages as error:
        raise BadImages(f"{path}: {error}") from None
    facts = {key: " ".join(str(s) for s in np.atleast_1d(content.get(key, ""))) for key in ("source", "licence")}
    return Found(
        table,
        label="label",
        group="group" if "group" in table else None,
        classes=names,
        images=content["images"],
        facts=facts,
    )


ADAPTERS = {"folder": (FolderOptions, folder), "npz": (NpzOptions, npz)}
