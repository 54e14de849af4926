"""Flagged images: one row each, with its partner by name, and the family of its near-duplicates and copies."""

import csv
import os
from pathlib import Path

import numpy as np

from intrinsic.properties.duplicates import components

CONFLICTING, EXACT = "conflicting duplicate", "exact duplicate"
ACROSS_CLASSES, ACROSS_GROUPS = "near-duplicate across classes", "near-duplicate across groups"
NEAR, SHARPEST, DOUBTFUL, MIXED = "near-duplicate", "sharpest pair", "doubtful label", "patient with two labels"
CONSTANT, NEARLY_CONSTANT, UNREADABLE = "constant", "nearly constant", "unreadable"
COLUMNS = (
    "path", "kind", "family", "class", "patient", "index", "distance", "partner_path", "partner_class",
    "partner_patient", "partner_index", "note",
)  # fmt: skip


class Flags:
    """Rows of flagged images, each image under the first kind that it is added with."""

    def __init__(self, images, found, links):
        self.images, self.rows, self.seen = images, [], np.zeros(len(images), dtype=bool)
        same = [np.array([(c[0], other) for other in c[1:]]).T for c in found.same_label + found.conflicting]
        i, j = np.concatenate([np.array(links), *same], axis=1)
        self.family = components(i, j, len(images))

    def pairs(self, kind, rows, i, j, distance):
        """Both images of each pair, the closest pair first."""
        if len(i):
            both = np.array([rows[i], rows[j]])
            self.add(kind, both.T.ravel(), both[::-1].T.ravel(), np.repeat(distance, 2))

    def add(self, kind, index, partner=None, distance=None):
        first = np.sort(np.unique(index, return_index=True)[1])
        for m in first[~self.seen[index[first]]]:
            others = (None if part is None else part[m] for part in (partner, distance))
            self.rows.append(self.row(kind, index[m], *others))
        self.seen[index] = True

    def row(self, kind, one, partner=None, distance=None):
        row = dict.fromkeys(COLUMNS, "") | {"kind": kind, "family": int(self.family[one])}
        row["distance"] = None if distance is None else float(distance)
        for side, i in (("", one), *([] if partner is None else [("partner_", partner)])):
            row[f"{side}path"] = f"image {i}" if self.images.paths is None else self.images.paths[i]
            row |= {f"{side}index": int(i), f"{side}class": self.images.classes[self.images.labels[i]]}
            row |= {} if self.images.group is None else {f"{side}patient": self.images.group[i].item()}
        return row

    def table(self):
        """All rows, and one for each unreadable file."""
        empty = dict.fromkeys(COLUMNS, "") | {"kind": UNREADABLE, "distance": None}
        return (*self.rows, *(empty | {"path": path, "note": why} for path, why in self.images.unreadable))


def write_csv(flagged, path) -> None:
    """Write flagged rows to a CSV file (UTF-8), whole or not at all; another table under that name is left alone.

    A text that begins with = + - @, a tab or a line break could run as a formula where a spreadsheet opens the file, so
    an apostrophe is put before it.
    """
    path = Path(path).expanduser()
    if path.exists():
        with open(path, encoding="utf-8", errors="replace", newline="") as file:
            header = next(csv.reader(file), [])
        if header and tuple(header) != COLUMNS:
            raise ValueError(f"{path} holds another table, which would be lost: name another file")
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        with open(draft, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
            writer.writerow(COLUMNS)
            for row in flagged:
                cells = (row[column] for column in COLUMNS)
                writer.writerow(["'" + c if isinstance(c, str) and c[:1] in tuple("=+-@\t\r\n") else c for c in cells])
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
