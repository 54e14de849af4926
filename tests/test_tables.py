"""Tables of the pages: whole texts, a dash for what is missing, a sentence for what is empty."""

import re

import numpy as np
import pandas as pd
import pytest

from intrinsic.publishing import charts, tables

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
        ("0.12 (1.5)", "number"),
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
    assert [k for k in ("number", "text", "prose") if re.search(f'"cell-{k}[ "]', html)] == ([kind] if kind else [])


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


def rows(html):
    """The cells of the table's head and of each row, as a reader sees them."""
    return [
        [re.sub(r"<[^>]*>", "", cell) for cell in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, flags=re.S)]
        for row in re.findall(r"<tr.*?</tr>", html, flags=re.S)
    ]


@pytest.mark.parametrize(
    ("names", "read"),
    [
        (["r", "low", "high"], ["r"]),
        (["r", "r_low", "r_high"], ["r"]),
        (["r", "r, low", "r, high"], ["r"]),
        (["r", "2/d low", "2/d high"], ["r", "2/d"]),
        (["r", "r_low", "other"], ["r", "r_low", "other"]),
        (["low", "high", "r"], ["low", "high", "r"]),  # of nothing before them
        (["r", "slow", "shigh"], ["r", "slow", "shigh"]),
    ],
)
def test_a_value_and_its_interval_share_a_cell(names, read):
    frame = pd.DataFrame([[0.5, 0.25, 0.75], [1.5, 1.25, 1.75]], columns=names)
    head, first, second = rows(tables.html(frame))
    assert head == read
    whole = {1: ["0.5 [0.25, 0.75]"], 2: ["0.5", "[0.25, 0.75]"], 3: ["0.5", "0.25", "0.75"]}
    assert first == whole[len(read)]
    assert len(second) == len(read)
    assert list(frame) == names


def test_intervals_are_found_wherever_they_stand_and_names_of_rows_stay():
    frame = pd.DataFrame({"a_high": [3.0], "n": [7], "a": [2.0], "text": ["t"], "a_low": [1.0]}, index=["set"])
    assert rows(tables.html(frame)) == [["", "n", "a", "text"], ["set", "7", "2.0 [1.0, 3.0]", "t"]]


def test_low_and_high_belong_to_no_text():
    frame = pd.DataFrame({"set": ["a"], "low": [1.0], "high": [2.0]})
    assert rows(tables.html(frame)) == [["set", "low", "high"], ["a", "1.0", "2.0"]]


def test_a_missing_end_of_an_interval_is_a_dash_and_a_missing_interval_nothing():
    frame = pd.DataFrame({"r": [0.5, 0.5, np.nan], "low": [np.nan, np.nan, np.nan], "high": [0.75, np.nan, np.nan]})
    assert [row for (row,) in rows(tables.html(frame))[1:]] == ["0.5 [–, 0.75]", "0.5", "–"]


def test_tables_of_many_columns_are_set_closer_as_a_reader_counts_them():
    def classes(frame):
        return re.search(r'<table class="dataframe ?([^"]*)"', tables.html(frame))[1]

    wide = pd.DataFrame([range(tables.MOST + 1)], columns=[f"x{i}" for i in range(tables.MOST + 1)])
    assert [classes(wide.iloc[:, :n]) for n in (tables.MANY, tables.MANY + 1, tables.MOST, tables.MOST + 1)] == [
        "",
        "many",
        "many",
        "many most",
    ]
    ends = pd.DataFrame([[0, 1]], columns=["x0_low", "x0_high"])
    assert classes(pd.concat([wide.iloc[:, : tables.MANY], ends], axis=1)) == ""


def test_a_long_frame_with_intervals_is_cut():
    ends = np.arange(100.0)
    html = tables.html(pd.DataFrame({"r": ends, "low": ends, "high": ends}))
    assert ["..."] in rows(html)
    assert ["99.0 [99.0, 99.0]"] in rows(html)


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


def test_a_small_p_is_shown_and_not_rounded_away():
    frame = pd.DataFrame({"r": [0.12345], "p": [1.23e-6], "p_holm": [np.nan], "lists": [(1, 2)]})
    made = tables.shown(frame)
    assert list(made) == ["r", "p", "p_holm"]
    assert made["r"].tolist() == [0.123]
    assert made["p"].tolist() == ["1.2e-06"]
    assert rows(tables.html(made)) == [["r", "p", "p_holm"], ["0.123", "1.2e-06", tables.MISSING]]
    assert frame["p"].tolist() == [1.23e-6]
