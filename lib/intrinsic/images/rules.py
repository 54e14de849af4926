"""Labels and groups by rule: which class and which patient an image belongs to, as a catalogue entry says it.

A source lists its images as a table, one row an image, before any pixel is read. A rule turns a column of that table,
or a part of its text, into labels or groups; rows that it leaves out are never decoded.
"""

import re
import warnings
from collections.abc import Hashable
from itertools import pairwise
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import pydantic

from intrinsic.images.sets import BadSource, suggest

SHOWN = 5  # values listed in an error


class BadRule(BadSource):
    """A rule that does not fit what the source holds."""


def text_of(value: Any) -> str:
    """A table's value as text: 1.0 and 1 are "1", True is "1", an empty cell is "", bytes are UTF-8."""
    if value is None or value is pd.NA or value is pd.NaT:
        return ""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "surrogateescape")
    if isinstance(value, bool | np.bool_):
        return str(int(value))
    if isinstance(value, float | np.floating):
        if np.isnan(value):
            return ""
        if value.is_integer():
            return str(int(value))
    return str(value).strip()


Text = Annotated[str, pydantic.BeforeValidator(text_of)]


def regular(pattern: str | None) -> str | None:
    """A regular expression, or none, as it is. Raises ValueError where it is none."""
    if pattern is not None:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{pattern!r} is not a regular expression ({error})") from None
    return pattern


class _Rule(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    column: str | None = None  # of the source's table; none: the source's own (folder, label, group)
    pattern: str | None = None  # regular expression; its first group, or all that it matches, is the value

    @pydantic.model_validator(mode="before")
    @classmethod
    def _of_keys(cls, value):
        if not isinstance(value, dict | cls):
            raise ValueError(f"{value!r} is no rule: give `column: NAME` of a table, or a `pattern` of the paths")
        return value

    @pydantic.field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern):
        return regular(pattern)

    def describe(self) -> str:
        """The rule in one line."""
        parts = []
        for key, value in self.model_dump(exclude_defaults=True).items():
            if isinstance(value, dict):
                value = "; ".join(f"{name}: {', '.join(parts_)}" for name, parts_ in value.items())  # noqa: PLW2901
            parts.append(f"{key} {' | '.join(value) if isinstance(value, list | tuple) else value}")
        return ", ".join(parts)

    def values(self, table: pd.DataFrame, default: str | None, what: str) -> tuple[list[str], np.ndarray]:
        """(text of each row, rows where the pattern matched). A pattern without a column reads the path."""
        column = self.column or ("path" if self.pattern else default)
        if column is None:
            raise BadRule(
                f"nothing says where the {what} of an image stands: give a column, or a pattern for its path"
                + {"label": " (--label-column, --label-pattern)"}.get(what, " (--group-column, --group-pattern)")
            )
        if column not in table.columns:
            raise BadRule(
                f"there is no column {column!r} for the {what}; the columns are {', '.join(map(str, table.columns))}"
                + suggest(column, [str(c) for c in table.columns])
            )
        if (n := list(table.columns).count(column)) > 1:
            raise BadRule(
                f"there are {n} columns {column!r}, so the {what} of an image is open: give each a name of its own"
            )
        values = [text_of(v) for v in table[column]]
        matched = np.ones(len(values), dtype=bool)
        if self.pattern:
            for i, value in enumerate(values):
                found = re.search(self.pattern, value)
                matched[i] = found is not None
                values[i] = "" if found is None else text_of(found[1] if found.re.groups else found[0])
        return values, matched


class LabelRule(_Rule):
    """What the label of an image is.

    column, pattern   where its value stands: a column of the table, or part of its path; by default the folder's
                      name, the column `label`, or what the source itself calls the class
    classes           {name: [values]}: labels 0, 1, ... in this order
    pair              two values: labels 0 and 1; images of all others are left out. "#12" is the class in place 12,
                      from 0 on, in the source's own order or sorted
    grades            values from lowest to highest; with positive_from, the grade from which the label is 1
    others            a value in no class: refuse | drop
    missing           an empty cell, or a path that the pattern does not match: refuse | drop | as:NAME (a class)
    unused            a value of a class that no image has: refuse | allow
    """

    classes: dict[Text, list[Text]] | None = None
    pair: tuple[Text, Text] | None = None
    grades: list[Text] | None = None
    positive_from: Text | None = None
    others: Literal["refuse", "drop"] = "refuse"
    missing: Annotated[str, pydantic.Field(pattern=r"^(refuse|drop|as:.+)$")] = "refuse"
    unused: Literal["refuse", "allow"] = "refuse"

    @pydantic.model_validator(mode="after")
    def _one_way(self):
        given = [name for name in ("classes", "pair", "grades") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are given, and only one of them can decide the labels")
        if self.pair is not None and self.pair[0] == self.pair[1]:
            raise ValueError(f"the pair is twice {self.pair[0]!r}")
        if self.positive_from is not None and self.positive_from not in (self.grades or []):
            raise ValueError(f"positive_from {self.positive_from!r} is not one of the grades")
        mapped = self.mapping()
        if mapped is not None:
            parts = [part for values in mapped.values() for part in values]
            twice = next((part for part in parts if parts.count(part) > 1), None)
            if twice is not None:
                raise ValueError(f"{twice!r} is used twice, so its label would be ambiguous")
        return self

    @property
    def ordered(self) -> bool:
        """Whether the difference of two labels counts grades."""
        return self.grades is not None and self.positive_from is None

    def mapping(self) -> dict[str, list[str]] | None:
        """{class: values}, labels in this order; None where every value is a class of its own."""
        if self.classes is not None:
            return dict(self.classes)
        if self.pair is not None:
            return {value: [value] for value in self.pair}
        if self.grades is None:
            return None
        if self.positive_from is None:
            return {grade: [grade] for grade in self.grades}
        first = self.grades.index(self.positive_from)

        def name(grades):
            return grades[0] if len(grades) == 1 else f"{grades[0]} to {grades[-1]}"

        return {name(part): part for part in (self.grades[:first], self.grades[first:])}

    def apply(self, table: pd.DataFrame, default: str | None, order=None) -> tuple[np.ndarray, tuple, np.ndarray]:
        """(labels of the kept rows, class names, kept rows: bool (n,)). Raises BadRule naming the image.

        order   class names in the source's own order, where it has one; else they are sorted
        """
        values, matched = self.values(table, default, "label")
        empty = ~matched | np.array([not v for v in values], dtype=bool)
        present = set(values) - {""}
        mapping = self.mapping()
        fill = self.missing[3:] if self.missing.startswith("as:") else None
        if mapping is None:
            names = list(order) if order is not None else sorted(present, key=_natural)
            mapping = {name: [name] for name in names}
            if fill is not None and fill not in mapping:
                mapping[fill] = []
        elif self.pair is not None:
            known = list(order) if order is not None else sorted(present, key=_natural)
            mapping = {name: [name] for name in (_at_place(value, known) for value in self.pair)}
        if self.mapping() is not None and fill is not None and fill not in mapping:
            raise BadRule(f"missing labels are to be {fill!r}, which is not one of the classes {', '.join(mapping)}")
        code = {part: label for label, parts in enumerate(mapping.values()) for part in parts}
        labels = np.full(len(values), -1, dtype=np.int64)
        for i, value in enumerate(values):
            if empty[i]:
                labels[i] = -1 if fill is None else list(mapping).index(fill)
            else:
                labels[i] = code.get(value, -1)
        if self.missing == "refuse" and empty.any():
            i = int(np.flatnonzero(empty)[0])
            why = f"does not match {self.pattern!r}" if self.pattern and not matched[i] else "has no label"
            raise BadRule(
                f"{_row(table, i)} {why}, as {int(empty.sum()):,} of {len(values):,} images; correct it there, or let "
                "the label rule of a catalogue entry say `missing: drop` (leave them out) or `missing: as:NAME`; "
                "intrinsic datasets --draft PATH prints an entry"
            )
        outside = ~empty & (labels < 0)
        drop_others = self.others == "drop" or self.pair is not None
        if outside.any() and not drop_others:
            i = int(np.flatnonzero(outside)[0])
            known = ", ".join(list(code)[:SHOWN]) + (", ..." if len(code) > SHOWN else "")
            raise BadRule(
                f"{_row(table, i)} has the label {values[i]!r}, which is in no class (known: {known}), as "
                f"{int(outside.sum()):,} of {len(values):,} images; add it, or let the label rule of a "
                "catalogue entry say `others: drop`"
            )
        present = set(values)
        unused = [part for part in code if part not in present]
        if unused and self.unused == "refuse" and self.mapping() is not None:
            raise BadRule(
                f"no image has the label {unused[0]!r} that a class is made of (where that is right, say "
                "`unused: allow`); the labels found are "
                + ", ".join(sorted({v for v in values if v}, key=_natural)[:20])
                + suggest(unused[0], set(values))
            )
        return labels[labels >= 0], tuple(mapping), labels >= 0


class GroupRule(_Rule):
    """Which images belong together (patient, volume, subject): never on both sides of a split.

    column, pattern   as for labels; a pattern without a column reads the path
    of                what a group is, for the reader: patient, volume, subject, ...
    unmatched         an image whose group cannot be read: refuse | own (a group by itself, with all that its file
                      holds) | unknown (if that is so for any image, no group is known)
    """

    of: str = "group"
    unmatched: Literal["refuse", "own", "unknown"] = "refuse"

    def apply(self, table: pd.DataFrame, default: str | None) -> np.ndarray | None:
        """int64 (n,); None where they are unknown.

        Whole numbers stay, names are numbered in sorted order. 7 and 007 are one number where a pattern takes them
        from a text, and two names in a column, with a warning.
        """
        values, matched = self.values(table, default, self.of)
        empty = ~matched | np.array([not v for v in values], dtype=bool)
        if empty.any():
            if self.unmatched == "unknown":
                return None
            i = int(np.flatnonzero(empty)[0])
            if self.unmatched == "refuse":
                raise BadRule(
                    f"the {self.of} of {_row(table, i)} cannot be read, as of {int(empty.sum()):,} of {len(values):,} "
                    "images, so a split could not keep it on one side; correct it, or let a catalogue entry say "
                    "`group: {unmatched: own}` (a group by itself) or `group: unknown` (no groups); "
                    "intrinsic datasets --draft PATH prints an entry"
                )
            names = table["path"] if "path" in table.columns else range(len(values))
            values = [f"\0{name}" if no else v for name, v, no in zip(names, values, empty, strict=True)]
        if all(re.fullmatch(r"\d{1,18}", value) for value in values):
            numbers = [int(value) for value in values]
            spelled = sorted(set(values), key=_natural)
            twice = [(a, b) for a, b in pairwise(spelled) if int(a) == int(b)]
            if self.pattern or not twice:
                return np.array(numbers, dtype=np.int64)
            warnings.warn(
                f"{len(twice):,} names of a {self.of} differ from another in leading zeros only, e.g. {twice[0][0]!r} "
                f"from {twice[0][1]!r}, and count as others: write them in one way if they mean the same",
                stacklevel=5,
            )
        number = {name: i for i, name in enumerate(sorted(set(values), key=_natural))}
        return np.array([number[value] for value in values], dtype=np.int64)


def _at_place(value: str, classes: list[str]) -> str:
    """The class that a value names, also by its place: "#0" is the first."""
    place = re.fullmatch(r"#(\d+)", value)
    if place is None or value in classes:
        return value
    if int(place[1]) >= len(classes):
        raise BadRule(f"the pair names the class {value}, and there are {len(classes)}, #0 to #{len(classes) - 1}")
    return classes[int(place[1])]


def _natural(text: str) -> tuple:
    """Sorts numbers by value and before words: 0, 1, 2, 10, a."""
    return (0, int(text), text) if re.fullmatch(r"-?\d{1,18}", text) else (1, 0, text)


def _row(table: pd.DataFrame, i: int) -> str:
    value: Hashable = table["path"].iloc[i] if "path" in table.columns else f"image {i}"
    return str(value)
