"""Labels and groups by rule: a column of a source's table, or a part of its text, says class and patient of a row."""

import re
import unicodedata
import warnings
from typing import Annotated, Literal

import numpy as np
import pydantic

from intrinsic.images.sets import BadSource, suggest

EMPTY = ("", "NA", "N/A", "NULL", "None", "null", "NaN", "nan", "<NA>")  # an empty cell, as programs write it
DRAFT = "a catalogue entry (`intrinsic datasets --draft PATH`)"


class BadRule(BadSource):
    """A rule that does not fit what the source holds."""


def text_of(value):
    """A table's value as text: 1.0 and 1 are "1", True is "1", an empty cell is "", bytes are UTF-8."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "surrogateescape")
    if isinstance(value, bool | np.bool_):
        value = int(value)
    if value is None or str(value) in ("nan", "<NA>", "NaT"):
        return ""
    if isinstance(value, float | np.floating) and value.is_integer():
        value = int(value)
    return str(value).strip()


def check_column(table, column, whose, where=""):
    """Raises BadRule unless a table has one column of that name. where: what says another name."""
    names = [str(name) for name in table.columns]
    if (n := list(table.columns).count(column)) != 1:
        how = ": rename all but one" if n else f"{where and f': name it with {where}'}{suggest(column, names)}"
        raise BadRule(f"{whose} needs one column {column!r}, and {n} are among {', '.join(names)}{how}")


Text = Annotated[str, pydantic.BeforeValidator(text_of)]


class _Rule(pydantic.BaseModel):
    """Where a value stands.

    column    of the source's table; none: the source's own (folder, label, group)
    pattern   a regular expression; its first group, or all that it matches, is the value. Without a column it reads
              the path
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    column: str | None = None
    pattern: re.Pattern | None = None

    def values(self, table, default, what, known=()):
        """(text of each row, "" where it is missing; rows that the pattern did not match).

        known   values that count though they look like an empty cell; so do names of folders
        """
        column = self.column or ("path" if self.pattern else default)
        if column is None:
            option = "label" if what == "label" else "group"
            raise BadRule(f"nothing says where the {what} of an image stands: give --{option}-column or -pattern")
        check_column(table, column, f"the {what}")
        values = [text_of(value) for value in table[column]]
        unmatched = np.zeros(len(values), dtype=bool)
        if self.pattern:
            found = [self.pattern.search(value) for value in values]
            unmatched = np.array([match is None for match in found], dtype=bool)
            values = ["" if m is None else text_of(m[min(m.re.groups, 1)]) for m in found]
        empty = set() if column == "folder" else set(EMPTY) - set(known)
        return ["" if value in empty else value for value in values], unmatched


class LabelRule(_Rule):
    """What the label of an image is.

    column, pattern   where its value stands; by default the folder's name, the column `label`, or the source's class
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
    missing: Annotated[str, pydantic.Field(pattern="^(refuse|drop|as:.+)$")] = "refuse"
    unused: Literal["refuse", "allow"] = "refuse"

    @pydantic.model_validator(mode="after")
    def _one_way(self):
        ways = [name for name in ("classes", "pair", "grades") if getattr(self, name) is not None]
        if len(ways) > 1:
            raise ValueError(f"{' and '.join(ways)} are given, and only one of them can decide the labels")
        if self.positive_from is not None and self.positive_from not in (self.grades or ()):
            raise ValueError(f"positive_from {self.positive_from!r} is not one of the grades")
        parts = [part for values in (self.mapping() or {}).values() for part in values]
        if self.pair is not None and self.pair[0] == self.pair[1]:
            parts = self.pair
        if twice := [part for part in parts if parts.count(part) > 1]:
            raise ValueError(f"the value {twice[0]!r} is used twice")
        return self

    def mapping(self):
        """{class: values}, labels in this order; None where every value is a class of its own."""
        if self.classes is not None:
            return dict(self.classes)
        if self.pair or self.positive_from is None:
            values = self.pair or self.grades
            return None if values is None else {value: [value] for value in values}
        first = self.grades.index(self.positive_from)
        halves = (self.grades[:first], self.grades[first:])
        return {part[0] if len(part) == 1 else f"{part[0]} to {part[-1]}": part for part in halves}

    def apply(self, table, default, order=None):
        """(labels of the kept rows, class names, kept rows: bool (n,)). Raises BadRule naming the image.

        default   the column where neither the rule says one nor the table has one called label
        order     class names in the source's own order, where it has one; else they are sorted
        """
        default = "label" if "label" in table else default
        mapping = self.mapping()
        known = [*(order or ()), *(part for parts in (mapping or {}).values() for part in parts)]
        values, unmatched = self.values(table, default, "label", known)
        sources = list(order) if order is not None else sorted(set(values) - {""}, key=_natural)
        if mapping is None:
            mapping = {name: [name] for name in sources}
        elif self.pair is not None:
            places = {f"#{i}": name for i, name in enumerate(sources)} | {name: name for name in sources}
            mapping = {name: [name] for name in (places.get(value, value) for value in self.pair)}
        code = {part: label for label, parts in enumerate(mapping.values()) for part in parts}
        if self.missing.startswith("as:"):
            fill = self.missing[3:]
            if self.mapping() is None:
                mapping.setdefault(fill, [])
            if fill not in mapping:
                raise BadRule(f"missing labels are to be {fill!r}, and the classes are {', '.join(mapping)}: name one")
            code[""] = list(mapping).index(fill)
        labels = np.array([code.get(value, -1) for value in values], dtype=np.int64)
        self._refuse(table, values, unmatched, labels, list(filter(None, code)))
        _warn_alike("label", [value for value, label in zip(values, labels, strict=True) if label >= 0], code)
        return labels[labels >= 0], tuple(mapping), labels >= 0

    def _refuse(self, table, values, unmatched, labels, known):
        """Raises BadRule for missing labels, values in no class and values that no image has, unless they may be."""
        empty = [i for i, value in enumerate(values) if not value]
        if empty and self.missing == "refuse":
            why = f"does not match {self.pattern.pattern!r}" if unmatched[empty[0]] else "has no label"
            found = f"{_row(table, empty[0])} {why}, as {len(empty):,} of {len(values):,} images"
            raise BadRule(f"{found}: correct it, or let {DRAFT} say `missing: drop` or `missing: as:NAME`")
        outside = [i for i, value in enumerate(values) if value and labels[i] < 0]
        if outside and self.others == "refuse" and self.pair is None:
            found = f"{_row(table, outside[0])} has the label {values[outside[0]]!r}, in none of the classes"
            count = f"as {len(outside):,} of {len(values):,} images"
            raise BadRule(f"{found} ({', '.join(known[:5])}, ...), {count}: add it, or say `others: drop`")
        unused = [part for part in known if part not in set(values)]
        if unused and self.unused == "refuse" and self.mapping() is not None:
            present = sorted(set(values) - {""}, key=_natural)
            found = f"no image has the label {unused[0]!r} of a class, but {', '.join(present[:20])}"
            raise BadRule(f"{found}: correct it, or say `unused: allow`{suggest(unused[0], present)}")


class GroupRule(_Rule):
    """Which images belong together (patient, volume, subject): never on both sides of a split.

    column, pattern   as for labels
    of                what a group is, for the reader: patient, volume, subject, ...
    unmatched         an image whose group cannot be read: refuse | own (a group by itself, with all that its file
                      holds) | unknown (if that is so for any image, no group is known)
    """

    of: str = "group"
    unmatched: Literal["refuse", "own", "unknown"] = "refuse"

    def apply(self, table, default):
        """int64 (n,); None where they are unknown.

        Whole numbers stay, names are numbered in sorted order. 7 and 007 are one number where a pattern takes them
        from a text, and two names in a column, with a warning.
        """
        values, _ = self.values(table, default, self.of)
        empty = [i for i, value in enumerate(values) if not value]
        if empty and self.unmatched == "unknown":
            return None
        if empty and self.unmatched == "refuse":
            found = f"the {self.of} of {_row(table, empty[0])} cannot be read, as of {len(empty):,} of {len(values):,}"
            ways = "`group: {unmatched: own}` (a group by itself) or `group: unknown`"
            raise BadRule(f"{found} images: correct it, or let {DRAFT} say {ways}")
        for i in empty:
            values[i] = f"\0{_row(table, i)}"
        if all(re.fullmatch(r"\d{1,18}", value) for value in values):
            numbers = np.array([int(value) for value in values], dtype=np.int64)
            if self.pattern or len(set(numbers)) == len(set(values)):
                return numbers
        if self.column or default != "volume":  # volumes are paths
            _warn_alike(self.of, [value for value in values if not value.startswith("\0")])
        number = {name: i for i, name in enumerate(sorted(set(values), key=_natural))}
        return np.array([number[value] for value in values], dtype=np.int64)


def _warn_alike(what, values, code=None):
    """Warns of values that are probably one: they differ in capitals, leading zeros or the form of letters only.

    code   {value: label}: values of one label are one already
    """
    seen, alike = {}, []
    for value in sorted(set(values) - {""}):
        plain = unicodedata.normalize("NFKC", value).casefold()
        first = seen.setdefault(re.sub(r"(?<![\d.,])0+(?=\d)", "", plain), value)
        if first != value and (code is None or code[first] != code[value]):
            alike.append((first, value))
    if alike:
        (a, b), n = alike[0], values.count
        found = f"{len(alike):,} names of a {what} differ from another in capitals or leading zeros only"
        example = f"{a!r} ({n(a):,} images) from {b!r} ({n(b):,})"
        warnings.warn(f"{found}, e.g. {example}: write them in one way if they mean the same", stacklevel=6)


def _natural(text):
    """Sorts numbers by value and before words: 0, 1, 2, 10, a."""
    return (0, int(text), text) if re.fullmatch(r"-?\d{1,18}", text) else (1, 0, text)


def _row(table, i):
    return str(table["path"].iloc[i]) if "path" in table.columns else f"image {i}"
