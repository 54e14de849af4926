"""Adapters: what a folder, DICOM or NIfTI files below one, or an archive holds, as a table with one row an image.

An adapter is a function of a path and of the options of a catalogue entry. It decides no label and, where images are
files, reads no pixel: rules then pick rows, and `files.read` decodes only those.
"""

import functools
import math
import os
import re
import warnings
from collections import Counter
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from intrinsic.images.files import Found, in_threads, kind_of, listed, rows_of, tell_left_out, walk
from intrinsic.images.rules import text_of
from intrinsic.images.scans import attribute, header, slices, volume
from intrinsic.images.sets import BadImages, BadSource, checked_group, checked_labels, reason
from intrinsic.images.tables import SUFFIXES as TABLES
from intrinsic.images.tables import Join, filled, joined, table

HEADER = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "Modality", "SeriesDescription", "ViewPosition")
HEADER += ("InstanceNumber", "NumberOfFrames")


def folder(path: Path, progress: bool = False, *, nested: bool = False, join: Join | None = None) -> Found:
    """A folder of class folders, both sorted by name; a volume or a file of several frames is a row for each.

    nested   read the pictures of deeper folders too; the folder below `path` stays the class

    Columns: path, folder, stem; PatientID, which is the group, where a DICOM file names one; frame and volume (the path
    of the file), which is the group else, where a file holds several images.
    """
    files = _of_class_folders(path, nested)
    inside = list(in_threads(lambda one: _inside(*one), files.items(), "listing", progress))
    several, patients = zip(*inside, strict=True)
    named = {"PatientID": patients} if any(patients) else {}  # where some lack it, the group rule refuses
    rows = rows_of(path, files, several, **named)
    group = "PatientID" if named else "volume" if "volume" in rows else None
    if named and _of_patients(rows):
        found = f"each of the {rows['folder'].nunique()} folders in {path} holds one patient"
        raise BadSource(f"{found}: say the label by --label-column ATTRIBUTE or --label-pattern REGEX")
    return Found(joined(rows, path, join, path), label="folder", group=group, root=path)


def _of_patients(rows):
    """Whether each of three or more folders holds one patient, so that folders are no classes."""
    each = rows[rows["PatientID"] != ""].groupby("folder")["PatientID"].nunique()
    return len(each) > 2 and (each == 1).all()


def _of_class_folders(path, nested):
    """{file: kind} of the images in the folders of a folder. Raises BadSource where they are no class folders."""
    above = {os.path.realpath(path), *map(str, Path(os.path.realpath(path)).parents)}
    content = listed(path)
    folders = [one for one in content if one.is_dir() and os.path.realpath(one) not in above]
    left = {one: kind for one in content if (kind := kind_of(one))}
    if len(folders) < 2:
        found = f"one class folder only, {folders[0].name!r}" if folders else "no folders"
        found += f" and {len(left)} pictures" if left else ""
        raise BadSource(f"{path} holds {found}: put the pictures of each of two or more classes into a folder there")
    files = {}
    for one in folders:
        inside = walk(one, set(above))
        images = {file: kind for file, kind in inside.items() if kind}
        deep = next((file for file in images if file.parent != one), None)
        if deep is not None and not nested:
            found = f"class folder {one} holds pictures one level deeper, in {deep.relative_to(one).parts[0]!r}"
            how = "--nested (`nested: true`; where that folder is the patient, --group-pattern '^[^/]+/([^/]+)/')"
            raise BadSource(f"{found}: read them with {how}")
        if not images:
            other = f", only files of other kinds, e.g. {next(iter(inside)).name!r}" if inside else ""
            raise BadSource(f"class folder {one} holds no picture{other}: remove it or fill it")
        files |= images
        left |= inside
    tell_left_out(path, left, files, "save what is an image as PNG, in the folder of its class")
    return files


def _inside(file, kind):
    """(images that a file holds, if it is a volume or has several frames, else None; its DICOM patient or "")."""
    if kind == "NIfTI":
        shape = slices(file)
        return (None if shape is None else shape[2]), ""
    if kind == "DICOM":
        found = header(file, ["NumberOfFrames", "PatientID"])
        return _several(attribute(found, "NumberOfFrames")), attribute(found, "PatientID")
    return None, ""


def _several(frames):
    """The number of frames of a DICOM file where it has more than one. What is no number is told once it is read."""
    return int(frames) if frames.isdigit() and int(frames) > 1 else None


def patients(root, paths, progress=False):
    """PatientID of each file that is DICOM, "" for others and where it is not known."""
    read = functools.cache(lambda path: _inside(root / path, kind_of(root / path))[1])  # a file may have many rows
    return list(in_threads(read, paths, "listing", progress))


def is_tag(name):
    """Whether a name is the keyword of a DICOM attribute."""
    from pydicom.datadict import tag_for_keyword

    return tag_for_keyword(name) is not None


def dicom(path: Path, progress: bool = False, *, tags: list[str] = (), join: Join | None = None) -> Found:
    """Every DICOM image below a folder, whatever its suffix, sorted by path.

    The label is the folder where all files stand directly in two or more folders; else it needs a rule.

    tags   further attributes of the header, by keyword, e.g. StationName: each becomes a column beside HEADER
    join   Join: by stem (the name of the file without suffix) it reads the pictures beside DICOM files too

    Columns: path, folder, stem, attributes of the header, "" where a file lacks them, and, where files hold several
    frames, frame and volume. The group is the patient, unless no file names one.
    """
    wanted = list(dict.fromkeys((*HEADER, *tags)))
    if unknown := [tag for tag in wanted if not is_tag(tag)]:
        raise BadSource(f"{unknown[0]!r} is no keyword of a DICOM attribute, such as PatientID or StationName")
    everything = walk(path)
    read = ("DICOM", "picture") if join is not None and join.column == "stem" else ("DICOM",)  # pictures by their name
    files = [file for file, kind in everything.items() if kind in read]
    headers = in_threads(lambda file: header(file, ["Rows", "SOPClassUID", *wanted]), files, "listing", progress)
    shown = {}
    for file, one in zip(files, headers, strict=True):  # of one damaged before its size the kind says what it was to be
        kind = None if one is None else one.get("SOPClassUID") or one.file_meta.get("MediaStorageSOPClassUID")
        if one is None or "Rows" in one or kind is None or "Image" in kind.name:
            shown[file] = one
    if not shown:
        raise BadSource(f"{path} holds no DICOM image: give the folder that holds them")
    everything |= dict.fromkeys(files, "DICOM without pixels")
    tell_left_out(path, everything, shown, "--join-on stem=COLUMN reads pictures too, by the name of their file")
    columns = {tag: [attribute(one, tag) for one in shown.values()] for tag in wanted}
    rows = rows_of(path, shown, [_several(n) for n in columns["NumberOfFrames"]], **columns)
    group = "PatientID" if rows["PatientID"].ne("").any() else None
    direct = rows["path"].str.count("/").eq(1).all() and rows["folder"].nunique() > 1 and not _of_patients(rows)
    return Found(joined(rows, path, join, path), label="folder" if direct else None, group=group, root=path)


def nifti(
    path: Path,
    progress: bool = False,
    *,
    axis: Literal[0, 1, 2] = 2,  # 0 sagittal, 1 coronal, 2 axial, of the canonical axes
    from_: float = 0.0,  # slice i of n is taken where from <= i/n < to; `from` in an entry
    to: float = 1.0,
    step: int = 1,
    mask_pattern: re.Pattern | None = None,  # on a volume's path; files that it does not match are no volumes
    mask_template: str | None = None,  # the path of its mask, from the groups {0}, {1}, ... or {name}
    join: Join | None = None,
) -> Found:
    """Slices of every NIfTI volume below a folder, sorted by path.

    Columns: path, folder, stem, volume (the path, which is the group), frame (the slice), axis; with masks also
    mask_pixels (of the mask above 0 in the slice) and has_mask (0, 1), which is the label.
    """
    if (mask_pattern is None) != (mask_template is None):
        raise BadSource("mask_pattern and mask_template belong together: give both")
    if step < 1:
        raise BadSource(f"step {step} takes no slices: give a whole number from 1")
    everything = walk(path)
    files, masks = [file for file, kind in everything.items() if kind == "NIfTI"], []
    if mask_pattern is not None:
        matched = {f: m for f in files if (m := mask_pattern.search(f.relative_to(path).as_posix()))}
        files, masks = list(matched), [path / filled(mask_template, match) for match in matched.values()]
    if not files:
        which = f" that {mask_pattern.pattern!r} matches" if mask_pattern else ""
        raise BadSource(f"{path} holds no NIfTI volume{which}: give the folder that holds them, or correct the options")
    tell_left_out(path, everything, {*files, *masks}, "give their folder as a set of its own if they are images")

    def chosen(file):
        shape = slices(file)
        if shape is None:  # one row, and the reason is given once the file is read
            return None
        start, stop = (math.ceil(shape[axis] * fraction - 1e-9) for fraction in (max(from_, 0), min(to, 1)))
        return list(range(start, stop, step))

    several = list(in_threads(chosen, files, "listing", progress))
    rows = rows_of(path, files, several)
    if rows.empty:
        raise BadSource(f"from {from_:g} to {to:g} leaves no slice of the volumes in {path}: widen it")
    rows["volume"], rows["axis"] = rows["path"], axis
    if masks:
        pairs = list(zip(files, masks, strict=True))
        counts = list(in_threads(lambda pair: _mask_pixels(*pair, axis), pairs, "masks", progress))
        pixels = [n[i] for n, taken in zip(counts, several, strict=True) for i in ([0] if taken is None else taken)]
        rows["mask_pixels"], rows["has_mask"] = pixels, (np.array(pixels) > 0).astype(int)
    label = "has_mask" if masks else None
    return Found(joined(rows, path, join, path), label=label, group="volume", root=path)


def _mask_pixels(file, mask, axis):
    """Voxels of a mask above 0 in each slice of its volume. Raises BadSource where they do not fit together."""
    if not mask.is_file():
        raise BadSource(f"the mask {mask} of {file} does not exist: put it there, or correct mask_template")
    try:
        values = volume(mask)[0]
    except Exception as error:  # nibabel raises nearly every type on damaged files
        why = f"cannot be read as a NIfTI volume ({reason(error)}): replace it"
        raise BadSource(f"the mask {mask} of {file} {why}") from None
    shape = slices(file)
    if shape is not None and values.shape != shape:
        own, its = (" x ".join(map(str, one)) for one in (values.shape, shape))
        raise BadSource(f"the mask {mask} has {own} voxels and {file} has {its}: give the mask made for it")
    return (values > 0).sum(axis=tuple(a for a in range(3) if a != axis)).tolist()


ARCHIVED = ("images", "labels", "class_names", "group", "paths", "source", "licence")  # the last two for the reader


def npz(path: Path, progress: bool = False) -> Found:
    """A .npz archive: images, labels, and optionally class_names, group and paths. Never unpickled."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            content = {key: archive[key] for key in ARCHIVED if key in archive}
            others = [key for key in archive.files if key not in ARCHIVED]
    except Exception as error:  # numpy, zipfile and zlib raise many types on what is no archive
        raise BadSource(f"{path} cannot be read as .npz of plain arrays ({reason(error)}): save it anew") from None
    missing = [key for key in ("images", "labels") if key not in content]
    if missing:
        there = ", ".join([*content, *others]) or "nothing"
        raise BadSource(f"{path} holds no {' and no '.join(missing)}, but {there}: save both, by np.savez(path, ...)")
    if others:
        warnings.warn(f"{path} holds {', '.join(others)}, not read: known are {', '.join(ARCHIVED)}", stacklevel=5)
    n, names = len(np.atleast_1d(content["images"])), None
    rows = {"path": np.array([f"row={i}" for i in range(n)]), "label": content["labels"]}
    rows |= {column: content[key] for column, key in (("path", "paths"), ("group", "group")) if key in content}
    for column, values in rows.items():
        if values.shape != (n,):
            raise BadImages(f"{column}s have shape {values.shape}, and there are {n} images: give one each")
    if "class_names" in content and rows["label"].dtype.kind != "U":  # names of classes stand for themselves
        names = tuple(text_of(name) for name in np.atleast_1d(content["class_names"]))
        rows["label"] = np.array(names)[checked_labels(rows["label"], n, names)]
    if "group" in rows and rows["group"].dtype.kind != "U" and checked_group(rows["group"], n) is None:
        del rows["group"]
    group = "group" if "group" in rows else None
    return Found(pd.DataFrame(rows), group=group, classes=names, images=content["images"])


ADAPTERS = {"folder": folder, "table": table, "dicom": dicom, "nifti": nifti, "npz": npz}
OF_FILES = {**dict.fromkeys(TABLES, "table"), ".npz": "npz"}  # by suffix: files that are an image set, or list one


def adapter_of(path, headers=False):
    """The adapter for a folder or a file that is in no catalogue; headers: rules name attributes of DICOM files.

    Where no folder directly below holds images, and most files deeper are DICOM or NIfTI, they are taken as `dicom` or
    `nifti`. With headers any DICOM file makes it `dicom`. Any other folder is one of class folders.
    """
    if path.suffix.lower() in OF_FILES and not path.is_dir():
        return OF_FILES[path.suffix.lower()]
    if not path.is_dir():
        raise BadSource(f"{path} is neither a folder of images nor a file of a known kind: {', '.join(OF_FILES)}")
    below = [one for one in listed(path) if one.is_dir()]
    direct = any(kind_of(file) for one in below for file in listed(one))
    found = Counter(walk(path).values()) if headers or not direct else {}
    dicoms, volumes = found.get("DICOM", 0), found.get("NIfTI", 0)
    if dicoms and volumes:
        raise BadSource(f"{path} holds {dicoms:,} DICOM and {volumes:,} NIfTI files: give a folder of one kind")
    if dicoms and (headers or dicoms >= found.get("picture", 0)):
        return "dicom"
    return "nifti" if not direct and volumes and volumes >= found.get("picture", 0) else "folder"
