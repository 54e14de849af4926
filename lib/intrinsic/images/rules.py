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
    """Where a value stands: in a column of the source's table, by default the source's own (folder, label, group).

    Of a pattern, a regular expression on that column, else the path, the first group or the whole match is the value.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    column: str | None = None
    pattern: re.Pattern | None = None

    def values(self, table, default, what, known=()):
        """Text of each row, "" where it is missing. known: values that count though they look like an empty cell."""
        column = self.column or ("path" if self.pattern else default)
        if column is None:
            option = "label" if what == "label" else "group"
            how = f"--{option}-column or --{option}-pattern"
            raise BadRule(f"nothing says where the {what} of an image stands: give {how}")
        check_column(table, column, f"the {what}")
        values = [text_of(value) for value in table[column]]
        if self.pattern:
            found = [self.pattern.search(value) for value in values]
            values = ["" if m is None else text_of(m[min(m.re.groups, 1)]) for m in found]
        empty = set() if column == "folder" else set(EMPTY) - set(known)  # a folder may be called None
        return ["" if value in empty else value for value in values]


class LabelRule(_Rule):
    """What the label of an image is; without classes, pair and grades each value is a class of its own.

    In a pair, "#12" is the class in place 12, from 0 on, in the source's own order or sorted.
    """

    classes: dict[Text, list[Text]] | None = None  # {name: values}: labels 0, 1, ... in this order
    pair: tuple[Text, Text] | None = None  # labels 0 and 1; images of all others are left out
    grades: list[Text] | None = None  # from lowest to highest
    positive_from: Text | None = None  # the grade from which the label is 1
    others: Literal["refuse", "drop"] = "refuse"  # a value in no class
    missing: Annotated[str, pydantic.Field(pattern="^(refuse|drop|as:.+)$")] = "refuse"  # as:NAME: of a class
    unused: Literal["refuse", "allow"] = "refuse"  # a value of a class that no image has

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
        values = self.values(table, default, "label", known)
        seen = set(values) - {""}
        present = sorted(seen, key=_natural)
        sources = present if order is None else list(order)
        if mapping is None:
            mapping = {name: [name] for name in sources}
        elif self.pair is not None:
            places = {f"#{i}": name for i, name in enumerate(sources)} | {name: name for name in sources}
            mapping = {name: [name] for name in (places.get(value, value) for value in self.pair)}
        code = {part: label for label, parts in enumerate(mapping.values()) for part in parts}
        unused = [] if self.mapping() is None else [part for part in code if part and part not in seen]
        if self.missing.startswith("as:"):
            fill = self.missing[3:]
            if self.mapping() is None:
                mapping.setdefault(fill, [])
            if fill not in mapping:
                raise BadRule(f"missing labels are to be {fill!r}, and the classes are {', '.join(mapping)}: name one")
            code[""] = list(mapping).index(fill)
        labels = np.array([code.get(value, -1) for value in values], dtype=np.int64)
        empty = [i for i, value in enumerate(values) if not value]
        if empty and self.missing == "refuse":
            found = _counted(table, empty, f"has no label{f' by {self.pattern.pattern!r}' if self.pattern else ''}")
            raise BadRule(f"{found}: correct it, or let {DRAFT} say `missing: drop` or `missing: as:NAME`")
        outside = [i for i, value in enumerate(values) if value and labels[i] < 0]
        if outside and self.others == "refuse" and self.pair is None:
            found = _counted(table, outside, f"has the label {values[outside[0]]!r}, in none of the classes")
            raise BadRule(f"{found}: add it, or say `others: drop`")
        if unused and self.unused == "refuse":
            found = f"no image has the label {unused[0]!r} of a class, but {', '.join(present[:20])}"
            raise BadRule(f"{found}: correct it, or say `unused: allow`{suggest(unused[0], present)}")
        _warn_alike("label", [value for value, label in zip(values, labels, strict=True) if label >= 0], code)
        return labels[labels >= 0], tuple(mapping), labels >= 0


class GroupRule(_Rule):
    """Which images belong together: never on both sides of a split.

    An unmatched image, whose group cannot be read, may be a group of its own, with all that its file holds. Or all
    groups are then unknown.
    """

    of: str = "group"  # what a group is, for the reader: patient, volume, subject, ...
    unmatched: Literal["refuse", "own", "unknown"] = "refuse"

    def apply(self, table, default):
        """int64 (n,); None where they are unknown.

        Whole numbers stay, names are numbered in sorted order. 7 and 007 are one number where a pattern takes them
        from a text, and two names in a column, with a warning.
        """
        values = self.values(table, default, self.of)
        empty = [i for i, value in enumerate(values) if not value]
        if empty and self.unmatched == "unknown":
            return None
        if empty and self.unmatched == "refuse":
            found = f"the {self.of} of {_counted(table, empty, 'cannot be read')}"
            ways = "--ungrouped own (each is one by itself) or unknown, in an entry `group: {unmatched: own}`"
            raise BadRule(f"{found}: correct it, name it in a table (--join), or say {ways}")
        for i in empty:
            values[i] = f"\0{table['path'].iloc[i]}"
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


def _counted(table, rows, what):
    """What the first of some rows is or has, and how many they are."""
    return f"{table['path'].iloc[rows[0]]} {what}, as {len(rows):,} of {len(table):,} images"
