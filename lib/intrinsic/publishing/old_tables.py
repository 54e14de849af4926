"""Frame -> table of a page. Importing `charts` in a notebook makes its frames look so: `enable()`.

Whole texts instead of clipped ones, an en dash where a value is missing, no row numbers that mean nothing, one sentence
in place of a frame without rows, a value and its interval in one cell, as papers write them: columns `x`, `x_low` and
`x_high`, or a column that `low` and `high` follow, read "0.31 [0.05, 0.56]" under the value's name. Cells that hold a
number say so (class `cell-number`), so that a page can keep numbers in one line and let texts wrap (`cell-text`, and
`cell-prose` for sentences).
"""

import re

import pandas as pd

MISSING = "–"
NO_ROWS = "Nothing to list: with these parameters and the records at hand, this table has no row."
NUMBER, TEXT, PROSE = 48, 14, 60  # characters of a number at most; of a name at most; of a short text at most
NAME = 13  # characters from which the name of a column may break at its underscores
MANY, MOST = 6, 9  # columns beyond which a table is set closer, and closer still

P_VALUES = ("p", "p_holm", "p_family", "smallest_p")
_JOINED = "\u2063"  # a character that no name holds
_LOW = re.compile(r"(?:(.+?)(?:, |_| ))?low")
_WITH_INTERVAL = re.compile(r"(\S+) (\[[^\[\]]+\]|\([^()]+\))")
_NUMBER = re.compile(r"(?:[^A-Za-z]|(?<=\d)e(?=[+-]?\d)|inf)*")


def html(frame: pd.DataFrame) -> str:
    """The frame as an HTML table; one sentence where it has no rows.

    Numbers are written as pandas writes them. Row labels are left out where they only count the rows, and a value, its
    `low` and its `high` are one cell.
    """
    if frame.empty:
        return f'<p class="no-rows"><em>{NO_ROWS}</em></p>'
    counted = frame.index.nlevels == 1 and frame.index.name is None and pd.api.types.is_integer_dtype(frame.index)
    filled = pd.concat([_filled(frame.iloc[:, i]) for i in range(frame.shape[1])], axis=1)
    joined = intervals(frame)
    shown = frame.shape[1] - sum(1 if value is None else 2 for value, _, _ in joined)
    filled.columns = _headings(frame.columns, joined)
    with pd.option_context("display.max_colwidth", None):
        made = filled.to_html(
            index=not counted,
            na_rep=MISSING,
            border=0,
            classes="many most" if shown > MOST else "many" if shown > MANY else None,
            max_rows=None if len(frame) <= pd.get_option("display.max_rows") else pd.get_option("display.min_rows"),
            show_dimensions="truncate",
        )
    head, end, body = made.partition("</thead>")
    head = re.sub(rf"(?<=>)[^<>]{{{NAME},}}(?=</th>)", lambda m: m[0].replace("_", "_<wbr>"), head)
    head = head.replace(f"<th>{_JOINED}</th>", "")
    body = re.sub(r"<tr>.*?</tr>", lambda row: _joined(row[0], joined), body, flags=re.S) if joined else body
    return head + end + re.sub(r"<td>(.*?)</td>", _cell, body, flags=re.S)


def intervals(frame: pd.DataFrame) -> list[tuple[int | None, int, int]]:
    """Positions of (value, low, high) among the columns; no value where only its interval is there.

    Names tell: `x`, `x_low`, `x_high`, also with a space or ", " for the underscore; `low` and `high` alone belong to
    the numbers of the column just before them.
    """
    if frame.columns.nlevels > 1 or not frame.columns.is_unique:
        return []
    names, found = [str(name) for name in frame.columns], []
    numeric = [pd.api.types.is_numeric_dtype(frame.iloc[:, i].dtype) for i in range(len(names))]
    for low, name in enumerate(names):
        ends = _LOW.fullmatch(name)
        if not ends or (other := name.removesuffix("low") + "high") not in names:
            continue
        high, value = names.index(other), None
        if ends[1]:
            value = names.index(ends[1]) if ends[1] in names else None
        elif low and high == low + 1 and numeric[low - 1]:
            value = low - 1
        else:
            continue
        if numeric[low] and numeric[high] and (value is None or numeric[value]):
            found.append((value, low, high))
    return found


def _headings(columns: pd.Index, joined: list) -> pd.Index | list[str]:
    """The columns' names; of an interval that is joined to its value, a mark."""
    if not joined:
        return columns
    names = list(columns)
    for value, low, high in joined:
        names[low] = _LOW.fullmatch(str(columns[low]))[1] if value is None else _JOINED
        names[high] = _JOINED
    return pd.Index(names, name=columns.name)


def _joined(row: str, joined: list) -> str:
    """A row of the table's body with each interval in the cell of its value."""
    cells = list(re.finditer(r"<td>(.*?)</td>", row, flags=re.S))
    texts = [cell[1] for cell in cells]
    for value, low, high in joined:
        ends = [texts[low].strip(), texts[high].strip()]
        known = set(ends) - {MISSING, "..."}
        place = low if value is None else value
        before = "" if value is None else texts[value].strip()
        texts[place] = f"{before} [{', '.join(ends)}]".strip() if known else before or ends[0]
        texts[high] = None
        if place != low:
            texts[low] = None
    kept = "".join(f"<td>{text}</td>" for text in texts if text is not None)
    return row[: cells[0].start()] + kept + row[cells[-1].end() :] if cells else row


def _filled(column: pd.Series) -> pd.Series:
    """The column with its missing values as text where pandas would write None or <NA>."""
    missing = column.isna()
    if pd.api.types.is_float_dtype(column.dtype) and not pd.api.types.is_extension_array_dtype(column.dtype):
        return column
    return column.astype(object).mask(missing, MISSING) if missing.any() else column


def _cell(found: re.Match) -> str:
    text = found[1]
    number = len(text) <= NUMBER and _NUMBER.fullmatch(text) and (text == MISSING or re.search(r"\d|inf", text))
    if number and (parts := _WITH_INTERVAL.fullmatch(text)):
        return f'<td class="cell-number cell-interval"><span>{parts[1]}</span> <span>{parts[2]}</span></td>'
    kind = "number" if number else "prose" if len(text) > PROSE else "text" if len(text) > TEXT else ""
    return f'<td class="cell-{kind}">{text}</td>' if kind else found[0]


def shown(table: pd.DataFrame, digits: int = 3) -> pd.DataFrame:
    """A table as a notebook shows it: rounded (p to two digits, however small), without columns that hold lists."""
    kept = [column for column in table.columns if not table[column].map(lambda value: isinstance(value, tuple)).any()]
    small = {c: table[c].map(lambda p: f"{p:.2g}", na_action="ignore") for c in P_VALUES if c in kept}
    return table[kept].round(digits).assign(**small)


def _of_series(values: pd.Series) -> str:
    return html(values.to_frame("value" if values.name is None else values.name))


def enable() -> None:
    """Make frames and series show themselves so in notebooks.

    pandas' own classes are told, and not the notebook's kernel: where kernels are forked it does not exist yet.
    """
    pd.DataFrame._repr_html_ = html
    pd.Series._repr_html_ = _of_series
    pd.set_option("display.max_colwidth", None)
