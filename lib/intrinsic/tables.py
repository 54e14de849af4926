"""Frame -> table of a page. Importing `charts` in a notebook makes its frames look so: `enable()`.

Whole texts instead of clipped ones, an en dash where a value is missing, no row numbers that mean nothing, one sentence
in place of a frame without rows. Cells that hold a number say so (class `cell-number`), so that a page can keep numbers
in one line and let texts wrap (`cell-text`, and `cell-prose` for sentences).
"""

import re

import pandas as pd

MISSING = "–"
NO_ROWS = "Nothing to list: with these parameters and the records at hand, this table has no row."
NUMBER, TEXT, PROSE = 48, 14, 60  # characters of a number at most; of a name at most; of a short text at most
NAME = 13  # characters from which the name of a column may break at its underscores
MANY = 8  # columns beyond which a table is set closer

_NUMBER = re.compile(r"(?:[^A-Za-z]|(?<=\d)e(?=[+-]?\d)|inf)*")


def html(frame: pd.DataFrame) -> str:
    """The frame as an HTML table; one sentence where it has no rows.

    Numbers are written as pandas writes them. Row labels are left out where they only count the rows.
    """
    if frame.empty:
        return f'<p class="no-rows"><em>{NO_ROWS}</em></p>'
    counted = frame.index.nlevels == 1 and frame.index.name is None and pd.api.types.is_integer_dtype(frame.index)
    filled = pd.concat([_filled(frame.iloc[:, i]) for i in range(frame.shape[1])], axis=1)
    filled.columns = frame.columns
    with pd.option_context("display.max_colwidth", None):
        made = filled.to_html(
            index=not counted,
            na_rep=MISSING,
            border=0,
            classes="many" if frame.shape[1] > MANY else None,
            max_rows=None if len(frame) <= pd.get_option("display.max_rows") else pd.get_option("display.min_rows"),
            show_dimensions="truncate",
        )
    head, end, body = made.partition("</thead>")
    head = re.sub(rf"(?<=>)[^<>]{{{NAME},}}(?=</th>)", lambda m: m[0].replace("_", "_<wbr>"), head)
    return head + end + re.sub(r"<td>(.*?)</td>", _cell, body, flags=re.S)


def _filled(column: pd.Series) -> pd.Series:
    """The column with its missing values as text where pandas would write None or <NA>."""
    missing = column.isna()
    if pd.api.types.is_float_dtype(column.dtype) and not pd.api.types.is_extension_array_dtype(column.dtype):
        return column
    return column.astype(object).mask(missing, MISSING) if missing.any() else column


def _cell(found: re.Match) -> str:
    text = found[1]
    number = len(text) <= NUMBER and _NUMBER.fullmatch(text) and (text == MISSING or re.search(r"\d|inf", text))
    kind = "number" if number else "prose" if len(text) > PROSE else "text" if len(text) > TEXT else ""
    return f'<td class="cell-{kind}">{text}</td>' if kind else found[0]


def _of_series(values: pd.Series) -> str:
    return html(values.to_frame("value" if values.name is None else values.name))


def enable() -> None:
    """Make frames and series show themselves so in notebooks.

    pandas' own classes are told, and not the notebook's kernel: where kernels are forked it does not exist yet.
    """
    pd.DataFrame._repr_html_ = html
    pd.Series._repr_html_ = _of_series
    pd.set_option("display.max_colwidth", None)
