"""Tables with one row an image: CSV, TSV or Parquet; and second tables with more about each image."""

import csv
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from intrinsic.images.files import Found
from intrinsic.images.rules import EMPTY, check_column, text_of
from intrinsic.images.sets import BadSource, reason

SUFFIXES = (".csv", ".tsv", ".parquet")


@dataclass(frozen=True)
class Join:
    """A second table, whose columns are added to each image."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012 - read where a catalogue is

    table: str  # its file, from `location` on
    column: str  # of the images, by which a row is found
    other: str | None = None  # what the second table calls that column; none: the same
    how: Literal["left", "inner"] = "left"  # keep all images, or only those that the table holds


def table(
    path: Path,
    progress: bool = False,
    *,
    table: str | None = None,  # file name, from `path` on; none: `path` is the table
    path_column: str = "path",  # the column that names the image
    columns: list[str] | None = None,  # names of the columns, for a table without header
    path_pattern: re.Pattern | None = None,  # on that column; rows that it does not match are left out
    path_template: str = "{0}",  # the path, from the groups {0}, {1}, ... or {name}; without groups {0} is all
    root: str | None = None,  # the folder from which paths start, from `path` on; none: the table's own
    frame_column: str | None = None,  # which frame or slice of the file, counted from 0
    join: Join | None = None,
) -> Found:
    """A table with one row an image. Every column is there for the rules.

    Cells of CSV and TSV stay the text that they are, except that 1.0 is 1 outside the column of paths. Spaces around
    names of columns do not count. Files that are not there are an error only for rows that the label rule keeps.
    """
    file = path if table is None else path / table
    base = path if path.is_dir() else path.parent
    rows = _read(file, columns, path_column)
    for column in {path_column, frame_column} - {None} | {"path", "frame", "axis"} & set(rows.columns):
        check_column(rows, column, file, "--path-column (`path_column` in the options)")
    rows = joined(rows, file, join, base)
    names = [text if isinstance(text, str) else text_of(text) for text in rows[path_column]]
    found = [re.search(path_pattern or r"(?s)^.*$", name) for name in names]
    rows = rows[[match is not None for match in found]].reset_index(drop=True)
    names = [filled(path_template, match) for match in found if match is not None]
    if not names:
        raise BadSource(f"{file} names no image in its column {path_column!r}: correct the pattern or the file")
    if not all(names):
        raise BadSource(f"{file} names no file in row {names.index('') + 1:,} of {path_column!r}: fill or remove it")
    rows["path"] = names
    if frame_column is not None:
        rows["frame"] = _frames(file, frame_column, rows)
    return Found(rows, group="group" if "group" in rows else None, root=file.parent if root is None else base / root)


def filled(template, match):
    """A template with the groups of a match, or all of it where it has none."""
    try:
        return template.format(*(match.groups("") or (match[0],)), **match.groupdict(""))
    except (IndexError, KeyError, ValueError, AttributeError):
        how = "use {0}, {1}, ... or {name}"
        raise BadSource(f"the template {template!r} does not fit the groups of {match.re.pattern!r}: {how}") from None


def joined(rows, source, join, base):
    """The rows of a source with the columns of a second table, if there is one; warns of those that a join drops."""
    if join is None:
        return rows
    second, theirs = base / join.table, join.other or join.column
    other = _read(second)
    for name, column, columns in ((source, join.column, rows), (second, theirs, other)):
        check_column(columns, column, name, "--join-on (`join` in the options)")
    keys, own = (pd.Index([_plain(text_of(cell)) for cell in cells]) for cells in (other[theirs], rows[join.column]))
    keys, own = _without_zeros(keys, own, join.column)
    other = other.drop(columns=theirs).set_index(keys)[~keys.isin(EMPTY)]
    if other.index.has_duplicates:
        twice = other.index[other.index.duplicated()][0]
        raise BadSource(f"{second} has {twice!r} more than once in its column {theirs!r}: keep one row for each")
    there = own.isin(other.index)
    if len(own) and not there.any():
        found = f"no image of {source} has a {join.column} that {second} names in its column {theirs!r}"
        raise BadSource(f"{found}, e.g. {own[0]!r} here, {list(keys[:1])} there: name columns that hold the same")
    how = {"left_on": "\0key", "right_index": True, "how": "left", "suffixes": ("", f"_{second.stem}")}
    rows = rows.assign(**{"\0key": own}).merge(other, **how).drop(columns="\0key")
    if join.how == "left" or there.all():
        return rows
    count = f"{int((~there).sum()):,} of {len(there):,} images of {source} are left out"
    why = f"since {second} has no row for them, e.g. for {join.column} {own[~there][0]!r}"
    warnings.warn(f"{count}, {why}", stacklevel=6)
    return rows[there].reset_index(drop=True)


def _without_zeros(keys, own, column):
    """The keys as they are, or without leading zeros where none agrees else; it warns, and makes no two keys one."""
    bare = [part.str.replace(r"^0+(?=\d)", "", regex=True) for part in (keys, own)]
    apart = bare[0].nunique() == keys.nunique() and bare[1].nunique() == own.nunique()
    if not apart or keys.isin(own).any() or not bare[0].isin(bare[1].difference(EMPTY)).any():
        return keys, own
    warnings.warn(f"{column} is compared without leading zeros: {own[0]!r} here, {keys[0]!r} there", stacklevel=7)
    return bare


def _read(file, columns=None, verbatim=None):
    """A table as it is read. verbatim: the column in which 1.0 stays 1.0."""
    suffix = file.suffix.lower()
    if suffix not in SUFFIXES:
        raise BadSource(f"{file} is no table of a known kind ({', '.join(SUFFIXES)}): save it as one of them")
    if not file.exists():
        raise BadSource(f"{file} does not exist: put the table there, or correct its name in the options")
    try:
        rows = pd.read_parquet(file) if suffix == ".parquet" else _text_table(file, suffix, columns is None)
    except Exception as error:  # csv and pyarrow raise many types on damaged files
        raise BadSource(f"{file} cannot be read as a table ({reason(error)}): save it anew, in UTF-8") from None
    if columns is not None:
        if len(columns) != rows.shape[1]:
            raise BadSource(f"{file} has {rows.shape[1]} columns, and {len(columns)} names are given: give one each")
        rows.columns = columns
    for i, column in enumerate(rows.columns):  # a name may stand twice
        if column != verbatim and pd.api.types.infer_dtype(rows.iloc[:, i], skipna=True) == "string":
            rows.isetitem(i, [_plain(cell) for cell in rows.iloc[:, i]])
    return rows


def _plain(cell):
    """The text 1.0 as 1, anything else as it is."""
    found = re.fullmatch(r"\s*(-?\d+)\.0+\s*", cell) if isinstance(cell, str) else None
    return cell if found is None else found[1]


def _text_table(file, suffix, header):
    """The cells of a CSV or TSV as text. A last cell more than the first line has is none if it is empty in each row.

    The first line says what stands between cells: a tab in .tsv; in .csv that of , ; and tab which cuts it most.
    """
    with file.open(encoding="utf-8-sig", newline="") as stream:
        first = re.sub(r'(^|[,;\t])"(?:[^"]|"")*("|$)', r"\1", stream.readline())
        stream.seek(0)
        sign = "\t" if suffix == ".tsv" else max(",;\t", key=first.count)
        lines = [line for line in csv.reader(stream, delimiter=sign, strict=True) if line]
    if not lines:
        raise ValueError("it is empty")
    n = len(lines[0])
    for i, line in enumerate(lines):
        if len(line) > n + 1 or any(line[n:]):
            raise ValueError(f"{len(line):,} cells in row {i + 1:,} and {n:,} in its first line")
    names = [name.strip() or f"Unnamed: {i}" for i, name in enumerate(lines.pop(0))] if header else range(n)
    return pd.DataFrame([line[:n] + [""] * (n - len(line)) for line in lines], columns=names, dtype=object)


def _frames(file, column, rows):
    frames = pd.to_numeric(rows[column], errors="coerce")
    wrong = rows[column][~rows[column].map(text_of).isin(EMPTY) & ~(frames.ge(0) & frames.mod(1).eq(0))]
    if len(wrong):
        raise BadSource(f"{file} has {wrong.iloc[0]!r} in its column {column!r}, which is no frame: count from 0")
    return frames.astype("Int64")
