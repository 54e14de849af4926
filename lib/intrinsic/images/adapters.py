"""Adapters: what a folder, a table, an archive or a package holds, as a table with one row an image.

An adapter lists; it decides no label and, where images are files, reads no pixel. Label and group rules then pick
rows, and `files.read` decodes only those.
"""

import math
import os
import re
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pydantic
from tqdm import tqdm

from intrinsic.images.files import hidden, kind_of, slices, volume
from intrinsic.images.rules import regular, text_of
from intrinsic.images.sets import BadImageFile, BadImages, BadSource, integers, reason, suggest

TABLES = (".csv", ".tsv", ".parquet")
# What lies beside images without being one
BESIDE = (".txt", ".csv", ".tsv", ".json", ".md", ".xml", ".yaml", ".yml", ".html", ".htm", ".pdf")
BESIDE += (".md5", ".sha1", ".sha256", ".sha512")
BESIDE_NAMES = ("thumbs.db", "desktop.ini", "readme", "license", "licence", "md5sums", "sha1sums", "sha256sums")


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


class JoinOptions(Options):
    """A second table, whose columns are added to each image.

    table    its file, from `location` on
    column   the column of the images by which a row is found
    other    what the second table calls that column; none: the same
    how      left (keep all images) or inner (only those that the table holds)
    """

    table: str
    column: str
    other: str | None = None
    how: Literal["left", "inner"] = "left"


class FolderOptions(Options):
    """nested   read the pictures of deeper folders too; the folder below `location` stays the class
    join     JoinOptions: a table with more about each image, found by path, folder or PatientID
    """

    nested: bool = False
    join: JoinOptions | None = None


class TableOptions(Options):
    """How a table of images is read.

    table          file name, from `location` on; none: `location` is the table
    path_column    the column that names the image
    columns        names of the columns, for a table without header
    path_pattern   regular expression on that column; rows that it does not match are left out
    path_template  the path, from its groups: {0}, {1}, ... or {name}; {0} is all that matches where it has no group
    root           the folder from which paths start, from `location` on; none: the table's own
    frame_column   which frame or slice of the file, counted from 0
    join           JoinOptions: a second table, found by a column of the first
    """

    table: str | None = None
    path_column: str = "path"
    columns: list[str] | None = None
    path_pattern: str | None = None
    path_template: str | None = None
    root: str | None = None
    frame_column: str | None = None
    join: JoinOptions | None = None

    @pydantic.field_validator("columns")
    @classmethod
    def _named_once(cls, columns):
        twice = next((name for name in columns or [] if columns.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"{twice!r} is named twice")
        return columns

    @pydantic.field_validator("path_pattern")
    @classmethod
    def _compiles(cls, pattern):
        return regular(pattern)


def is_tag(name: str) -> bool:
    """Whether a name is the keyword of a DICOM attribute."""
    from pydicom.datadict import tag_for_keyword

    return tag_for_keyword(name) is not None


class DicomOptions(Options):
    """tags   further attributes of the header, by keyword, e.g. StationName: each becomes a column
    join   JoinOptions: a table with more about each image, found by an attribute of the header, path or folder
    """

    tags: list[str] = []
    join: JoinOptions | None = None

    @pydantic.field_validator("tags")
    @classmethod
    def _known(cls, tags):
        unknown = [tag for tag in tags if not is_tag(tag)]
        if unknown:
            raise ValueError(f"{unknown[0]!r} is no keyword of a DICOM attribute, such as PatientID or StationName")
        return tags


class NiftiOptions(Options):
    """Which slices of which volumes.

    axis          0 sagittal, 1 coronal, 2 axial, of the canonical axes
    from, to      fractions of the axis: slice i of n is taken where from <= i/n < to
    step          every so many slices
    mask_pattern, mask_template   the mask of a volume: a regular expression on the volume's path, and the path of its
                  mask from its groups ({0}, {1}, ... or {name}); files that it does not match are no volumes
    join          JoinOptions: a table with more about each volume, found by volume (its path) or folder
    """

    axis: Literal[0, 1, 2] = 2
    start: float = pydantic.Field(0.0, ge=0, lt=1, alias="from")
    to: float = pydantic.Field(1.0, gt=0, le=1)
    step: int = pydantic.Field(1, ge=1)
    mask_pattern: str | None = None
    mask_template: str | None = None
    join: JoinOptions | None = None

    @pydantic.field_validator("mask_pattern")
    @classmethod
    def _compiles(cls, pattern):
        return regular(pattern)

    @pydantic.model_validator(mode="after")
    def _together(self):
        if (self.mask_pattern is None) != (self.mask_template is None):
            raise ValueError("mask_pattern and mask_template belong together: give both")
        if self.start >= self.to:
            raise ValueError(f"from {self.start:g} to {self.to:g} holds no slice")
        return self


class NpzOptions(Options):
    pass


def _filled(template: str, match: re.Match) -> str:
    """A template with the groups of a match, or all of it where it has none."""
    try:
        return template.format(*(match.groups("") or (match[0],)), **match.groupdict(""))
    except (IndexError, KeyError, ValueError, AttributeError) as error:
        raise BadSource(
            f"the template {template!r} does not fit the groups of {match.re.pattern!r} ({reason(error)}), so paths "
            "cannot be made: use {0}, {1}, ... or {name}"
        ) from None


# ------------------------------------------------------------------------------------------ Folders


def folder(path: Path, options: FolderOptions, progress: bool = False) -> Found:
    """A folder of class folders, both sorted by name; a volume or a file of several frames is a row for each.

    Columns: path, folder and, where there are such files, PatientID (of DICOM files, unless none names one), which is
    the group, frame and volume (the path of the file), which is the group where no patient is named.
    Warns of files of other kinds and of images beside the class folders, which are left out.
    """
    own = Path(os.path.realpath(path))
    above = {str(own), *map(str, own.parents)}
    content = _listed(path)
    folders = [p for p in content if p.is_dir() and not hidden(p) and os.path.realpath(p) not in above]
    loose = [p for p in content if kind_of(p) is not None]
    if not folders:
        found = f"{len(loose)} pictures and no folders" if loose else "no pictures"
        raise BadSource(f"{path} holds {found}: put the pictures of each class into a folder of its own there")
    if len(folders) == 1:
        raise BadSource(
            f"{path} holds one class folder only, {folders[0].name!r}, so there are no labels to compare: "
            "give at least two class folders, or the folder that holds them"
        )
    rows, others = [], []
    for one in folders:
        everything = [(file, kind_of(file)) for file in _walk(one, above)]
        files = [(file, kind) for file, kind in everything if kind is not None]
        here = [(file, kind) for file, kind in files if file.parent == one]
        if len(here) < len(files) and not options.nested:
            deep = next(file for file, _ in files if file.parent != one).relative_to(one)
            raise BadSource(
                f"class folder {one} holds pictures one level deeper, in {deep.parts[0]!r}, which would be left out: "
                "read them with --nested (`nested: true` in the options; where that folder is the patient, also with "
                "--group-pattern '^[^/]+/([^/]+)/'), or give the folder whose folders are the classes"
            )
        if not files:
            other = next((file.name for file, _ in everything), None)
            what = f", only files of other kinds, e.g. {other!r}" if other else ""
            raise BadSource(f"class folder {one} holds no picture{what}: remove it or fill it")
        rows += [(file, one.name, kind) for file, kind in files]
        others += [file for file, kind in everything if kind is None and not _beside(file)]
    _tell_left_out(path, others, loose)
    table = pd.DataFrame(
        {"path": [file.relative_to(path).as_posix() for file, _, _ in rows], "folder": [name for _, name, _ in rows]},
        dtype=object,  # names of files may hold bytes that are no text
    )
    if all(kind == "picture" for _, _, kind in rows):
        return _with_table(Found(table, label="folder", root=path), path, options.join)
    inside = _in_threads(lambda row: _inside(row[0], row[2]), rows, "listing", progress)
    several, patients = [n for n, _ in inside], [patient for _, patient in inside]
    group = None
    if any(patients):  # where some lack it, the group rule refuses
        table["PatientID"], group = patients, "PatientID"
        _refuse_patients_as_classes(path, table)
    if any(n is not None for n in several):
        table, group = _each_frame(table, several), group or "volume"
    return _with_table(Found(table, label="folder", group=group, root=path), path, options.join)


def _beside(file: Path) -> bool:
    return file.name.lower().endswith(BESIDE) or file.name.lower() in BESIDE_NAMES


def _tell_left_out(path: Path, others: list[Path], loose: list[Path]) -> None:
    """One warning of files in class folders that are not read, and of images beside these folders."""
    parts = []
    if others:
        kinds = Counter(file.suffix.lower() or "without suffix" for file in others).most_common()
        shown = ", ".join(f"{kind} {n:,}" for kind, n in kinds[:3]) + (", ..." if len(kinds) > 3 else "")
        parts.append(f"{len(others):,} files in its class folders are of no kind that is read ({shown})")
    if loose:
        parts.append(f"{len(loose):,} images lie beside its class folders, e.g. {loose[0].name!r}")
    if parts:
        warnings.warn(
            f"not all of {path} is read: {' and '.join(parts)}; save what is an image as PNG, in the folder of its "
            "class",
            stacklevel=6,
        )


def _refuse_patients_as_classes(path: Path, table: pd.DataFrame) -> None:
    each = table[table["PatientID"] != ""].groupby("folder")["PatientID"].nunique()
    if len(each) > 2 and (each == 1).all():
        raise BadSource(
            f"each of the {len(each)} folders in {path} holds one patient (PatientID), so they are patients and no "
            "classes: say what the label is, with --label-column ATTRIBUTE or --label-pattern REGEX"
        )


def _in_threads(work: Callable, items: Sequence, what: str, progress: bool) -> list:
    """work(item) of all items, in their order."""
    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")  # oddities of a header are no concern of a list
        results = pool.map(work, items)
        return list(tqdm(results, what, len(items), False, unit=" files", delay=1, disable=not progress))


def _listed(path: Path) -> list[Path]:
    """What a folder holds, sorted by name. Raises BadSource where it may not be read."""
    try:
        return sorted(path.iterdir())
    except OSError as error:
        raise BadSource(
            f"the folder {path} cannot be listed ({error.strerror or reason(error)}), so its images are unknown: "
            "make it readable, or take it away"
        ) from None


def _walk(path: Path, above: set[str] = frozenset()) -> Iterator[Path]:
    """Files in a folder and those below, sorted; each file once, however many links lead to it. Not those hidden.

    above   real paths of folders not to be entered, so that links that lead back end
    """
    seen = set(above)

    def inside(folder: Path):
        home = os.path.realpath(folder)
        seen.add(home)
        for entry in _listed(folder):
            if hidden(entry):
                continue
            real = os.path.realpath(entry) if entry.is_symlink() else os.path.join(home, entry.name)
            if real in seen:
                continue
            if entry.is_dir():
                yield from inside(entry)
            else:
                seen.add(real)
                yield entry

    yield from inside(path)


def _inside(file: Path, kind: str) -> tuple[int | None, str]:
    """(images that a file holds, if it is a volume or has several frames, else None; its DICOM patient or "")."""
    if kind == "NIfTI":
        shape = slices(file)
        return (None if shape is None else shape[2]), ""
    if kind == "DICOM":
        header = _header(file, ["NumberOfFrames", "PatientID"])
        return _several(_attribute(header, "NumberOfFrames")), _attribute(header, "PatientID")
    return None, ""


def _several(frames: str) -> int | None:
    """The number of frames of a DICOM file where it has more than one. What is no number is told once it is read."""
    return int(frames) if frames.isdigit() and int(frames) > 1 else None


def _each_frame(table: pd.DataFrame, several: Sequence[int | Iterable[int] | None]) -> pd.DataFrame:
    """A row for each frame or slice, with the columns frame and volume. several: None for a file that is one image."""
    frames = [[pd.NA] if n is None else list(range(n) if isinstance(n, int) else n) for n in several]
    table = table.loc[table.index.repeat([len(f) for f in frames])].reset_index(drop=True)
    table["frame"] = pd.array([i for f in frames for i in f], dtype="Int64")
    table["volume"] = table["path"]
    return table


# ------------------------------------------------------------------------------------------ Tables


def table(path: Path, options: TableOptions, progress: bool = False) -> Found:
    """A table with one row an image: CSV, TSV or Parquet. Every column is there for the rules.

    Cells of CSV and TSV stay the text that they are, except that 1.0 is 1 outside the column of paths; empty ones and
    NaN are missing, and so have no label. Spaces around names of columns do not count, nor those around a path that
    exists only without them. Paths may be absolute, or lead out of the root; files that are not there are
    an error only for rows that the label rule keeps.
    """
    file = path if options.table is None else path / options.table
    base = path if path.is_dir() else path.parent
    rows = _table_file(file, options.columns, options.path_column)
    if options.path_column not in rows:
        raise _no_column(file, options.path_column, rows)
    if options.frame_column is not None and options.frame_column not in rows:
        raise _no_column(file, options.frame_column, rows)
    for column in ("path", "frame", "axis", options.path_column, options.frame_column):
        _refuse_twice(file, column, rows)
    if options.join is not None:
        rows, there = _joined(rows, file, options.join, base)
        rows = rows[there].reset_index(drop=True) if options.join.how == "inner" else rows
    names = [text if isinstance(text, str) else text_of(text) for text in rows[options.path_column]]
    if options.path_pattern is not None or options.path_template is not None:
        found = [re.search(options.path_pattern or r"(?s)^.+$", name) for name in names]
        keep = [match is not None for match in found]
        names = [_filled(options.path_template or "{0}", match) for match in found if match is not None]
        rows = rows[keep].reset_index(drop=True)
    if not names:
        raise BadSource(f"{file} names no image in its column {options.path_column!r}: correct the pattern or the file")
    if not all(names):
        raise BadSource(
            f"{file} names no file in row {names.index('') + 1:,} of its column {options.path_column!r}, so that image "
            "is unknown: fill the cell or remove the row"
        )
    root = file.parent if options.root is None else base / options.root
    rows["path"] = [_without_spaces(root, name) for name in names]
    if options.frame_column is not None:
        frames = pd.to_numeric(rows[options.frame_column], errors="coerce")
        wrong = rows[options.frame_column].notna() & ~(frames.ge(0) & frames.mod(1).eq(0))
        if wrong.any():
            value = rows[options.frame_column][wrong].iloc[0]
            raise BadSource(
                f"{file} has {value!r} in its column {options.frame_column!r}, which is no frame: give whole numbers "
                "from 0, or leave the cell empty"
            )
        rows["frame"] = frames.astype("Int64")
    return Found(
        rows, label="label" if "label" in rows else None, group="group" if "group" in rows else None, root=root
    )


def _without_spaces(root: Path, name: str) -> str:
    """A path without the spaces around it where only so it exists."""
    bare = name.strip()
    if bare in (name, "") or os.path.lexists(root / name) or not os.path.lexists(root / bare):
        return name
    return bare


def _refuse_twice(file: Path, column: str | None, rows: pd.DataFrame) -> None:
    if (n := list(rows.columns).count(column)) > 1:
        raise BadSource(
            f"{file} has {n} columns {column!r}, so it is open which of them counts: give each a name of its own"
        )


_FOR_THE_PATH = "for the path with --path-column (`path_column` in the options)"


def _no_column(file: Path, column: str, rows: pd.DataFrame, where: str = _FOR_THE_PATH) -> BadSource:
    names = [str(name) for name in rows.columns]
    return BadSource(
        f"{file} has no column {column!r} (its columns are {', '.join(names)}): name the right one, {where}"
        f"{suggest(column, names)}"
    )


def _table_file(file: Path, columns: list[str] | None, verbatim: str | None = None) -> pd.DataFrame:
    """A table as it is read. verbatim: the column in which 1.0 stays 1.0."""
    suffix = file.suffix.lower()
    if suffix not in TABLES:
        raise BadSource(f"{file} is no table of a known kind ({', '.join(TABLES)}): save it as one of them")
    try:
        rows = pd.read_parquet(file) if suffix == ".parquet" else _text_table(file, suffix, columns is None)
    except BadSource:
        raise
    except FileNotFoundError:
        raise BadSource(f"{file} does not exist: put the table there, or correct its name in the options") from None
    except (OSError, ValueError, pa.ArrowException) as error:  # pandas: its parser's errors are ValueErrors
        raise BadSource(
            f"{file} cannot be read as a table ({reason(error)}): save it anew as {suffix[1:]} in UTF-8"
        ) from None
    if columns is not None:
        if len(columns) != rows.shape[1]:
            raise BadSource(
                f"{file} has {rows.shape[1]} columns, and {len(columns)} names are given for them: give one each"
            )
        rows.columns = columns
    for i, column in enumerate(rows.columns):  # a name may stand twice
        cells = rows.iloc[:, i]
        if column != verbatim and pd.api.types.infer_dtype(cells, skipna=True) == "string":
            changed = {cell: plain for cell in cells.unique() if (plain := _plain_number(cell)) is not cell}
            if changed:
                rows.isetitem(i, [changed.get(cell, cell) for cell in cells])
    return rows


def _text_table(file: Path, suffix: str, header: bool) -> pd.DataFrame:
    """The cells of a CSV or TSV as text. A last cell more than the first line has is none if it is empty in each row.

    Raises BadSource, and what pandas raises.
    """
    how = {"sep": _separator(file, suffix), "header": None, "dtype": str, "encoding": "utf-8-sig"}
    first = pd.read_csv(file, nrows=1, na_filter=False, **how).iloc[0]
    n = len(first)

    def uneven(where, cells):
        return BadSource(
            f"{file} has {cells:,} cells in {where} and {n:,} in its first line, so it is open to which column each "
            "belongs: give every line as many"
        )

    try:
        rows = pd.read_csv(file, names=range(n + 1), keep_default_na=False, na_values=["", "NaN", "nan"], **how)
    except pd.errors.ParserError as error:
        found = re.search(r"in line (\d+), saw (\d+)", str(error))
        if found is None:
            raise
        raise uneven(f"line {found[1]}", int(found[2])) from None
    rows = rows.iloc[int(header) :].reset_index(drop=True)
    full = next((i for i, cell in enumerate(rows[n]) if text_of(cell)), None)
    if full is not None:
        raise uneven(f"row {full + 1:,}", n + 1)
    rows = rows.drop(columns=n)
    if header:
        rows.columns = [name.strip() or f"Unnamed: {i}" for i, name in enumerate(first)]
    return rows


def _separator(file: Path, suffix: str) -> str:
    """What stands between two cells: a tab in .tsv; in .csv that of , ; and tab which the first line has most of.

    What stands in quotes does not count.
    """
    if suffix == ".tsv":
        return "\t"
    with file.open("rb") as stream:
        first = stream.readline(1 << 20).removeprefix(b"\xef\xbb\xbf")
    first = re.sub(rb'(^|[,;\t])"(?:[^"]|"")*("|$)', rb"\1", first)
    return max(",;\t", key=lambda sign: first.count(sign.encode()))


def _plain_number(cell: Any) -> Any:
    """The text 1.0 as 1, anything else as it is."""
    found = re.fullmatch(r"\s*(-?\d+)\.0+\s*", cell) if isinstance(cell, str) else None
    return cell if found is None else found[1]


def _joined(rows: pd.DataFrame, source: Path, join: JoinOptions, base: Path) -> tuple[pd.DataFrame, np.ndarray]:
    """(the rows with the columns of a second table, whether it holds each). `source` is what they are of, for errors.

    Raises BadSource where it holds none of them.
    """
    second, theirs = base / join.table, join.other or join.column
    other = _table_file(second, None)
    for name, column, columns in ((source, join.column, rows), (second, theirs, other)):
        if column not in columns:
            raise _no_column(name, column, columns, "with --join-on (`join` in the options)")
        _refuse_twice(name, column, columns)
    keys = [_plain_number(text_of(cell)) for cell in other[theirs]]
    twice = next((key for key in keys if keys.count(key) > 1), None) if len(set(keys)) < len(keys) else None
    if twice is not None:
        raise BadSource(
            f"{second} has {twice!r} more than once in its column {theirs!r}, so it is open which row belongs to "
            "an image: keep one row for each"
        )
    own = [_plain_number(text_of(cell)) for cell in rows[join.column]]
    there = np.isin(np.array(own, dtype=object), np.array(keys, dtype=object))
    if own and not there.any():
        raise BadSource(
            f"no image of {source} has a {join.column} that {second} names in its column {theirs!r} (e.g. {own[0]!r} "
            f"here, {keys[0] if keys else ''!r} there), so nothing can be joined: name the columns that hold the same"
        )
    other = other.assign(**{"\0key": keys}).drop(columns=theirs)
    merged = rows.assign(**{"\0key": own}).merge(
        other, on="\0key", how="left", suffixes=("", f"_{Path(join.table).stem}")
    )
    return merged.drop(columns="\0key"), there


def _with_table(found: Found, path: Path, join: JoinOptions | None) -> Found:
    """What a folder holds, with the columns of a second table; a column `label` of it is the label unless a rule says.

    Warns of images that an inner join leaves out.
    """
    if join is None:
        return found
    table, there = _joined(found.table, path, join, path)
    if join.how == "inner" and not there.all():
        warnings.warn(
            f"{int((~there).sum()):,} of {len(there):,} images of {path} are left out, since {path / join.table} has "
            f"no row for them, e.g. for {join.column} {text_of(table[join.column][~there].iloc[0])!r}",
            stacklevel=6,
        )
        table = table[there].reset_index(drop=True)
    label = "label" if "label" in table and "label" not in found.table else found.label
    return replace(found, table=table, label=label)


def patients(root: Path, paths: Sequence[str], progress: bool = False) -> list[str]:
    """PatientID of each file that is DICOM, "" for others and where it is not known."""

    def patient(path: str) -> str:
        file = root / path
        return _attribute(_header(file, ["PatientID"]), "PatientID") if kind_of(file) == "DICOM" else ""

    files = list(dict.fromkeys(paths))
    known = dict(zip(files, _in_threads(patient, files, "listing", progress), strict=True))
    return [known[path] for path in paths]


# ------------------------------------------------------------------------------------------ DICOM


HEADER = (
    "PatientID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "Modality",
    "SeriesDescription",
    "ViewPosition",
    "InstanceNumber",
    "NumberOfFrames",
)


def dicom(path: Path, options: DicomOptions, progress: bool = False) -> Found:
    """Every DICOM image below a folder, sorted by path. The label needs a rule.

    Columns: path, folder (the top folder), attributes of the header (HEADER and `tags`; empty where a file lacks
    them) and, where files hold several frames, frame and volume. The group is the patient, unless no file names one.
    Files without pixels, such as reports, are no images.
    """
    files = [file for file in _walk(path) if kind_of(file) == "DICOM"]
    wanted = list(dict.fromkeys((*HEADER, *options.tags)))
    headers = _in_threads(lambda file: _header(file, ["Rows", "SOPClassUID", *wanted]), files, "listing", progress)
    rows, several = [], []
    for file, header in zip(files, headers, strict=True):
        if header is not None and _no_image(header):
            continue
        name = file.relative_to(path)
        row = {"path": name.as_posix(), "folder": name.parts[0] if len(name.parts) > 1 else ""}
        rows.append(row | {tag: _attribute(header, tag) for tag in wanted})
        several.append(_several(rows[-1]["NumberOfFrames"]))
    if not rows:
        raise BadSource(f"{path} holds no DICOM image: give the folder that holds them")
    listed = pd.DataFrame(rows, dtype=object)
    if any(n is not None for n in several):
        listed = _each_frame(listed, several)
    group = "PatientID" if listed["PatientID"].ne("").any() else None
    return _with_table(Found(listed, group=group, root=path), path, options.join)


def _no_image(header) -> bool:
    """Whether a DICOM file is meant to hold something else, e.g. a report. One damaged before its size is an image."""
    kind = header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID")
    return "Rows" not in header and kind is not None and "Image" not in kind.name


def _header(file: Path, tags: list[str]):
    """Attributes of a DICOM header; None where it cannot be read, which is said once the file is."""
    import pydicom

    try:
        return pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=tags)
    except Exception:  # pydicom raises nearly every type on damaged files
        return None


def _attribute(header, tag: str) -> str:
    """An attribute as text; several values as DICOM writes them, with a backslash between; "" where there is none."""
    try:
        value = None if header is None else header.get(tag)
    except Exception:  # damaged values are decoded when they are asked for, and raise nearly every type
        return ""
    many = isinstance(value, Sequence) and not isinstance(value, str | bytes)
    return "\\".join(str(one) for one in value) if many else text_of(value)


# ------------------------------------------------------------------------------------------ NIfTI


def nifti(path: Path, options: NiftiOptions, progress: bool = False) -> Found:
    """Slices of every NIfTI volume below a folder, sorted by path.

    Columns: path, folder (the top folder), volume (the path, which is the group), frame (the slice), axis; with masks
    also mask_pixels (of the mask above 0 in the slice) and has_mask (0, 1), which is the label.
    """
    files = [file for file in _walk(path) if kind_of(file) == "NIfTI"]
    names = [file.relative_to(path) for file in files]
    masks: list[Path | None] = [None] * len(files)
    if options.mask_pattern is not None:
        found = [re.search(options.mask_pattern, name.as_posix()) for name in names]
        masks = [path / _filled(options.mask_template, match) for match in found if match]
        files = [file for file, match in zip(files, found, strict=True) if match]
        names = [name for name, match in zip(names, found, strict=True) if match]
    if not files:
        which = f" that {options.mask_pattern!r} matches" if options.mask_pattern else ""
        raise BadSource(f"{path} holds no NIfTI volume{which}: give the folder that holds them, or correct the options")

    def chosen(file: Path) -> list[int] | None:
        shape = slices(file)
        if shape is None:  # one row, and the reason is given once the file is read
            return None
        n = shape[options.axis]
        start, stop = (math.ceil(n * fraction - 1e-9) for fraction in (options.start, options.to))
        return list(range(start, stop, options.step))

    several = _in_threads(chosen, files, "listing", progress)
    listed = pd.DataFrame(
        {"path": [n.as_posix() for n in names], "folder": [n.parts[0] if len(n.parts) > 1 else "" for n in names]},
        dtype=object,
    )

    listed = _each_frame(listed, several)
    if listed.empty:
        raise BadSource(f"from {options.start:g} to {options.to:g} leaves no slice of the volumes in {path}: widen it")
    listed["axis"] = options.axis
    if options.mask_pattern is None:
        return _with_table(Found(listed, group="volume", root=path), path, options.join)
    pairs = list(zip(files, masks, strict=True))
    counts = _in_threads(lambda pair: _mask_pixels(*pair, options.axis), pairs, "masks", progress)
    pixels = [n[i] for n, taken in zip(counts, several, strict=True) for i in ([0] if taken is None else taken)]
    listed["mask_pixels"] = pixels
    listed["has_mask"] = (listed["mask_pixels"] > 0).astype(int)
    return _with_table(Found(listed, label="has_mask", group="volume", root=path), path, options.join)


def _mask_pixels(file: Path, mask: Path, axis: int) -> list[int]:
    """Voxels of a mask above 0 in each slice of its volume. Raises BadSource where they do not fit together."""
    try:
        values = volume(mask.read_bytes())[0]
    except OSError as error:
        raise BadSource(
            f"the mask {mask} of {file} cannot be opened ({error.strerror or reason(error)}), so the labels of its "
            "slices are unknown: put it there, or correct mask_template"
        ) from None
    except BadImageFile as error:
        raise BadSource(f"the mask {mask} of {file} {error}: replace it, or leave the volume out") from None
    shape = slices(file)
    if shape is not None and values.shape != shape:
        raise BadSource(
            f"the mask {mask} has {' x '.join(map(str, values.shape))} voxels and {file} has "
            f"{' x '.join(map(str, shape))}, so its slices are not those of the volume: give the mask made for it"
        )
    return (values > 0).sum(axis=tuple(a for a in range(3) if a != axis)).tolist()


# ------------------------------------------------------------------------------------------ Archives


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
        labels, group = content["labels"], content.get("group")
        if np.asarray(labels).dtype.kind == "U":  # names of classes stand for themselves
            content["class_names"], labels = np.unique(np.char.strip(labels), return_inverse=True)
        labels = integers(labels, n, "labels")
        if group is not None and np.asarray(group).dtype.kind == "U":
            group = np.unique(np.char.strip(group), return_inverse=True)[1]
        if group is not None:
            group = integers(group, n, "group")
            if not (group == -1).all() and group.min() < 0:
                raise BadImages(
                    f"{(group < 0).sum()} of {n} images have a negative group, so a split could not keep "
                    "them apart: number all groups from 0, or give -1 throughout where they are unknown"
                )
        if "class_names" in content:
            names = tuple(text_of(name) for name in np.atleast_1d(content["class_names"]))
            if len(set(names)) < len(names):
                raise BadImages(f"two classes have the same name among {names}: give each its own")
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


ADAPTERS = {
    "folder": (FolderOptions, folder),
    "table": (TableOptions, table),
    "dicom": (DicomOptions, dicom),
    "nifti": (NiftiOptions, nifti),
    "npz": (NpzOptions, npz),
}


def kind_inside(path: Path) -> str | None:
    """The kind of the first image anywhere below a folder, as kind_of says it; None where there is none."""
    return next(filter(None, (kind_of(file) for file in _walk(path))), None)


def adapter_of(path: Path) -> str:
    """The adapter for a folder or a file that is in no catalogue. Raises BadSource.

    Where no folder directly below holds images, and DICOM or NIfTI files lie deeper, they are taken as `dicom` or
    `nifti`; any other folder is one of class folders.
    """
    if not path.is_dir():
        suffix = path.suffix.lower()
        if suffix in TABLES:
            return "table"
        if suffix == ".npz":
            return "npz"
        raise BadSource(
            f"{path} is neither a folder of images nor a file of a known kind ({', '.join(TABLES)}, .npz): give one of "
            "them, for a single volume the folder that holds it"
        )
    below = [one for one in _listed(path) if one.is_dir() and not hidden(one)]
    if any(kind_of(file) for one in below for file in _listed(one)):
        return "folder"
    return {"DICOM": "dicom", "NIfTI": "nifti"}.get(kind_inside(path), "folder")
