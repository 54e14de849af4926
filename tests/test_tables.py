"""Tables of the pages: whole texts, a dash for what is missing, a sentence for what is empty."""

import numpy as np
import pandas as pd
import pytest

from intrinsic import charts, tables

LONG = (
    "a sentence about a choice, which says in many words what was done, what should have been done, and why. " * 2
).strip()


@pytest.mark.parametrize(
    "column",
    [
        [None, 0.5],
        [np.nan, 0.5],
        [None, "text"],
        pd.array([None, 3], dtype="Int64"),
        pd.array([None, True], dtype="boolean"),
        pd.to_datetime([None, "2024-01-01"]),
    ],
    ids=["None", "nan", "text", "Int64", "boolean", "date"],
)
def test_a_missing_value_is_a_dash_whatever_its_column_holds(column):
    frame = pd.DataFrame({"x": column})
    html = tables.html(frame)
    assert html.count(f">{tables.MISSING}<") == 1
    assert not any(word in html for word in ("None", "nan", "NaN", "NaT", "&lt;NA&gt;"))
    assert frame["x"].isna().sum() == 1  # the frame itself is left as it was


def test_texts_are_whole_whatever_pandas_would_clip():
    with pd.option_context("display.max_colwidth", 20):
        assert LONG in tables.html(pd.DataFrame({"x": [LONG]}))


def test_a_frame_without_rows_is_a_sentence():
    for empty in (pd.DataFrame(), pd.DataFrame({"x": []})):
        assert tables.NO_ROWS in tables.html(empty)
        assert "<table" not in tables.html(empty)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("0.123", "number"),
        ("-1.0e-05", "number"),
        ("0.12 [0.10, 0.15]", "number"),
        ("1,234", "number"),
        ("97.1%", "number"),
        (tables.MISSING, "number"),
        ("digits", None),
        ("as overlapping classes grow", "text"),
        (LONG, "prose"),
    ],
)
def test_numbers_are_told_from_texts(text, kind):
    html = tables.html(pd.DataFrame({"x": [text]}))
    assert [k for k in ("number", "text", "prose") if f'"cell-{k}"' in html] == ([kind] if kind else [])


def test_row_labels_that_only_count_are_left_out_and_names_stay():
    frame = pd.DataFrame({"x": [1.5, 2.5]}, index=[7, 3])
    assert "<th>7</th>" not in tables.html(frame)
    assert "<th>7</th>" in tables.html(frame.rename_axis("n"))
    assert "<th>seven</th>" in tables.html(frame.set_axis(["seven", "three"]))


def test_long_names_of_columns_may_break_at_their_underscores():
    html = tables.html(pd.DataFrame({"growth_exponent": ["not_here_and_not_there"], "d_data": [1]}))
    assert "growth_<wbr>exponent" in html
    assert "<th>d_data</th>" in html
    assert "not_here_and_not_there" in html


def test_text_stays_text():
    assert "<b>" not in tables.html(pd.DataFrame({"<b>": ["<b>"]}))


def test_a_long_frame_is_cut_and_says_how_long_it_is():
    html = tables.html(pd.DataFrame({"x": range(100)}))
    assert "100 rows" in html
    assert html.count("<tr>") < 20


def test_frames_and_series_of_a_notebook_look_so():
    charts.enable()
    assert tables.MISSING in pd.DataFrame({"x": [np.nan, 1]})._repr_html_()
    assert tables.MISSING in pd.Series({"a": np.nan, "b": 1.0})._repr_html_()
