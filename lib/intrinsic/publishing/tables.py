"""Frame -> table of a page: numbers in one format, a value and its interval in one cell, names in words."""

import html
import re
from dataclasses import dataclass

import pandas as pd

from intrinsic.publishing.titles import COLUMNS, interval_texts, network_title, number, p_value, percent, set_title

__all__ = ["Table", "number", "p_value", "percent", "table"]

MANY = 8  # columns beyond which a table is set small
WORDS = {"dataset": set_title, "model": network_title}


@dataclass
class Table:
    """A table that shows itself in a notebook; `frame` holds the texts of its cells."""

    frame: pd.DataFrame
    right: list[bool]
    caption: str | None = None
    fold: str | None = None
    ids: list | None = None

    def __repr__(self) -> str:
        return self.frame.to_string(index=False)

    def _repr_html_(self) -> str:
        sides = ["right" if right else "left" for right in self.right]
        head = "".join(f'<th class="{s}">{_heading(c)}</th>' for s, c in zip(sides, self.frame, strict=True))
        made = f"<thead><tr>{head}</tr></thead><tbody>\n"
        for i, row in zip(self.ids or [None] * len(self.frame), self.frame.itertuples(index=False), strict=True):
            cells = "".join(f'<td class="{s}">{_cell(text)}</td>' for s, text in zip(sides, row, strict=True))
            made += f'<tr id="{i}">{cells}</tr>\n' if i else f"<tr>{cells}</tr>\n"
        caption = f"<caption>{_heading(self.caption)}</caption>" if self.caption else ""
        small = " many" if self.frame.shape[1] > MANY else ""
        name = html.escape(self.caption or self.fold or "Table", quote=True)
        box = f'<div class="table-scroll" tabindex="0" role="region" aria-label="{name}">'
        made = f'{box}<table class="dataframe{small}">{caption}{made}</tbody></table></div>'
        folded = f'<details class="fold"><summary>{html.escape(self.fold or "")}</summary>{made}</details>'
        return folded if self.fold else made


def table(rows, *, columns=None, caption=None, fold=None, ids=None) -> Table:
    """Make a Table of a page.

    Parameters
    ----------
    rows : pandas.DataFrame, or list of dict
        A list keeps each `Interval`; a frame of floats has columns `x_low` and `x_high` beside `x` for it.
    columns : dict or list, optional
        The columns that show, in order, and their names; all of them otherwise.
    caption, fold : str, optional
        One sentence above the table; the text under which it is folded.
    ids : list of str, optional
        Names of the rows for links to them.

    Examples
    --------
    >>> row = {"model": "resnet18", "k_f": 0.2637, "k_f_low": 0.25, "k_f_high": 0.28}
    >>> table([row], columns={"model": "Network", "k_f": "K_F"})
      Network                K_F
    ResNet-18 0.264 [0.25, 0.28]
    """
    frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(rows, dtype=object)
    if columns is None:
        columns = [c for c in frame.columns if not re.search(r"_(low|high)$", str(c))]
    if not isinstance(columns, dict):
        columns = {c: COLUMNS.get(c, str(c)) for c in columns}
    texts = {}
    for c in columns:
        ends = {f"{c}_low", f"{c}_high"} <= set(frame)
        texts[c] = interval_texts(frame, c) if ends else [_text(value, c) for value in frame[c].tolist()]
    right = [all(_is_number(value) or _missing(value) for value in frame[c]) for c in columns]
    made = pd.DataFrame(texts, dtype=object).set_axis([*columns.values()], axis=1)
    return Table(made, right, caption, fold, ids)


def _text(value, column: str) -> str:
    if hasattr(value, "low"):
        return str(value)
    if _missing(value):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if _is_number(value):
        return p_value(value).removeprefix("p = ").removeprefix("p ") if column in ("p", "p_holm") else number(value)
    return WORDS[column](value) if column in WORDS else str(value)


def _is_number(value) -> bool:
    return pd.api.types.is_number(value) and not isinstance(value, bool)


def _missing(value) -> bool:
    return pd.api.types.is_scalar(value) and pd.isna(value)


def _cell(text: str) -> str:
    """The text, in which an interval may stand below its value and does not break itself."""
    return re.sub(r"\[[^][ ]+, [^][ ]+\]", lambda found: found[0].replace(" ", "\N{NO-BREAK SPACE}"), html.escape(text))


def _heading(text: str) -> str:
    """A name, with K_F and its like as symbols."""
    return re.sub(r"\b([A-Za-z])_([A-Za-z]+)\b", r"<i>\1</i><sub>\2</sub>", html.escape(str(text)))
