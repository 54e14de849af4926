"""`load`, which reads any image set: by catalogue name, by path, or by an Entry."""

import hashlib
import os
import re
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from intrinsic.images import entries, files
from intrinsic.images.adapters import HEADER, OF_FILES, adapter_of, is_tag, patients
from intrinsic.images.entries import Entry
from intrinsic.images.matching import check_match, match
from intrinsic.images.pictures import Levels
from intrinsic.images.rules import GroupRule
from intrinsic.images.sets import BadImages, BadSource, ImageSet, UnknownImageSet, suggest


def load(
    source, *, size=None, channels=None, pixel_range="stored", levels=None, skip_unreadable=False, progress=False
) -> ImageSet:
    """An image set: by catalogue name, by path, or by an Entry.

    Parameters
    ----------
    source : str, Path or Entry
        A name in the catalogue; a folder with one folder of pictures a class; a tree of DICOM files or NIfTI volumes
        (see `of_path`); a table (.csv, .tsv, .parquet) with the columns `path`, `label` and optionally `group`; or a
        .npz file with `images` and `labels`, and optionally `class_names`, `group` (-1 throughout: unknown) and
        `paths`. A text is a path where it holds a slash or ends like a file.
    size : int, optional
        Pixels a side, as in `match`.
    channels : {1, 3}, optional
        As in `match`.
    pixel_range : {"stored", "image"}
        As in `match`.
    levels : str, optional
        What becomes 0 and 255 where files hold more than 8 bits: full, window, range:LOW,HIGH or percentile:LOW,HIGH.
    skip_unreadable : bool
        Leave files out that cannot be read, and list them in `ImageSet.unreadable`.
    progress : bool
        Show a progress bar on long reading.

    Returns
    -------
    ImageSet

    Raises
    ------
    UnknownImageSet, BadCatalogue, BadSource, BadImages

    Examples
    --------
    >>> load("digits_4_9", size=16)
    ImageSet(digits_4_9: 1,000 grey images of 16 x 16, 4 500, 9 500)
    """
    check_match(size, channels, pixel_range)
    entry = source if isinstance(source, Entry) else find(source)
    reading = files.Reading(size, channels, pixel_range, Levels.of(levels or entry.levels))
    try:
        found = entry.found(progress)
        images = _assembled(entry, found, reading, skip_unreadable or entry.skip_unreadable, progress)
    except BadImages as error:
        raise BadImages(f"{entry.place() or entry.name}: {error}") from None
    if images.n_classes < 2:
        only = images.classes[images.labels[0]]
        raise BadSource(f"{images.name} has images of one class only, {only!r}: give at least two classes")
    return match(images, size=size, channels=channels, pixel_range=pixel_range)


def _assembled(entry, found, reading, skip, progress):
    """Rules, then pixels of the rows they keep."""
    labels, classes, kept = entry.labels.apply(found.table, found.label, found.classes)
    rows = np.flatnonzero(kept)
    if not len(rows):
        raise BadSource(f"the label rule of {entry.name} leaves none of its {len(kept):,} images: correct it")
    if entry.at_most is not None:  # those whose paths have the smallest SHA-256: random, yet repeatable
        paths = (path.encode("utf-8", "surrogateescape") for path in _paths(found.table.iloc[rows]))
        order = np.argsort([hashlib.sha256(path).hexdigest() for path in paths], kind="stable")
        each = [order[labels[order] == label][: entry.at_most] for label in np.unique(labels)]
        drawn = np.sort(np.concatenate(each))
        labels, rows = labels[drawn], rows[drawn]
    table = found.table.iloc[rows].reset_index(drop=True)
    group, unreadable, at = _grouped(entry, found, table, progress), (), "stored"
    if found.images is not None:
        pixels = found.images if len(rows) == len(kept) else found.images[rows]
    else:
        pixels, good, unreadable = files.read(found.root, table, reading, skip=skip, progress=progress)
        labels, table, at = labels[good], table[good], reading.pixel_range
        group = None if group is None else group[good]
    return ImageSet(
        np.asarray(pixels),
        labels,
        classes,
        name=entry.name if entry.about else entry.title,  # a path keeps its own name
        group=group,
        paths=_paths(table),
        pixel_range=at,
        unreadable=unreadable,
        domain=entry.domain,
        show_pixels=entry.show_pixels,
    )


def _grouped(entry, found, table, progress):
    """The group of each row, or None: by the entry's rule, the source's own group, or DICOM's patient."""
    rule, default = entry.group, found.group
    if rule == "unknown":
        return None
    by_patient = default is None if rule is None else rule.column == "PatientID"
    if by_patient and found.images is None and "PatientID" not in table:
        ids = patients(found.root, list(table["path"]), progress)
        if any(ids):
            table["PatientID"], default = ids, default or "PatientID"
    if rule is None and default is None:
        return None
    return (rule or GroupRule(of="patient" if default == "PatientID" else "group")).apply(table, default)


def _paths(table):
    frames = table.get("frame", [pd.NA] * len(table))
    return tuple(str(p) if pd.isna(f) else f"{p}#{f}" for p, f in zip(table["path"], frames, strict=True))


def find(source):
    """The entry of a catalogue name, or one made for a path. Raises UnknownImageSet."""
    if isinstance(source, str) and not source.strip():
        raise UnknownImageSet("the name of the image set is empty: give a catalogue name or a path")
    if not isinstance(source, str) or os.sep in source or source.lower().endswith(tuple(OF_FILES)):
        return of_path(source)
    named = entries.catalogue()
    if source in named:
        if Path(source).is_dir() and Path(named[source].location or "").name != source:
            warnings.warn(f"{source} is taken from the catalogue: ./{source} names the folder", stacklevel=3)
        return named[source]
    if not Path(source).expanduser().exists():
        near = suggest(source, [*_beside(Path(source)), *named])
        near = near or f"; the names are {', '.join(list(named)[:8])}, ... (`intrinsic datasets`)"
        raise UnknownImageSet(f"{source!r} is neither a name in the catalogue nor a path that exists{near}")
    return of_path(source)


def _beside(path):
    """Folders, tables and .npz files in the folder of a path."""
    try:
        found = files.listed(path.parent)
    except BadSource:
        return []
    return [one.name for one in found if one.is_dir() or one.suffix.lower() in OF_FILES]


def name_of(path):
    """The name of a set that is a folder or a file; a link to a folder has its own name."""
    if not path.is_dir():
        return path.stem
    return path.resolve().name if path.name in ("", "..") else path.name


def of_path(path, **fields):
    """An entry for a folder or file that is not in the catalogue; `fields` as in Entry (labels, group, options)."""
    path = Path(path).expanduser()
    if not path.exists():
        near = suggest(path.name, _beside(path))
        raise UnknownImageSet(f"{path} does not exist{near}: give a folder, a file ({', '.join(OF_FILES)}) or a name")
    name = name_of(path)
    own = {
        "name": re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_-") or "images",
        "title": name or "images",
        "domain": "unknown",
        "location": str(path.absolute()).replace("${", "$${"),
        **dict.fromkeys(("about", "beware", "source", "licence"), ""),
    }
    if "adapter" not in fields:
        fields |= _adapter(path, fields)
    return entries.made(own | fields, BadSource, path)


def _adapter(path, fields):
    """The adapter and its options that the fields ask for: `nested` class folders, or rules on DICOM headers."""
    options = dict(fields.get("options") or {})
    join = options.get("join")
    rules = (fields.get(name) for name in ("labels", "group"))
    columns = {dict(rule).get("column") for rule in rules if rule and rule != "unknown"}
    if join and join["column"] != "PatientID":  # which class folders have as well
        columns.add(join["column"])
    columns -= {None, "path", "folder", "frame", "volume"}  # what is left a folder of pictures does not have
    adapter = adapter_of(path, headers=bool(columns))
    if adapter == "dicom" and (more := sorted(c for c in columns - {*HEADER} if not join or is_tag(c))):
        options = {"tags": more} | options
    if path.is_dir() and options.get("nested") and not fields.get("labels"):
        adapter = "folder"
    if path.is_dir() and adapter != "folder":
        options.pop("nested", None)  # all folders are read
    return {"adapter": adapter, "options": options}
