"""Label and group rules: what each turns a table of images into, and what each refuses."""

import numpy as np
import pandas as pd
import pytest

from intrinsic.images.rules import BadRule, GroupRule, LabelRule, text_of

TABLE = pd.DataFrame(
    {
        "path": ["p01/a.png", "p01/b.png", "p02/c.png", "p10/d.png", "p2/é <b>.png"],
        "folder": ["10", "2", "2", "9", "b"],
        "grade": [0.0, 1.0, -1.0, np.nan, 2.0],
        "patient": [7, 7, 3, 3, 12],
    }
)


def apply(column="grade", **rule):
    labels, classes, kept = LabelRule(column=column, **rule).apply(TABLE, None)
    return labels.tolist(), classes, kept.tolist()


@pytest.mark.parametrize(
    ("value", "text"),
    [(1, "1"), (1.0, "1"), (np.float32(-1), "-1"), (1.5, "1.5"), (True, "1"), (np.int8(3), "3"), (None, ""),
     (np.nan, ""), (pd.NA, ""), ("  a b ", "a b"), ("01", "01"), ("é".encode(), "é")],
)  # fmt: skip
def test_a_number_and_its_text_are_one_value(value, text):
    assert text_of(value) == text


def test_without_a_mapping_each_value_is_a_class_numbers_by_size_before_words():
    labels, classes, kept = LabelRule().apply(TABLE, "folder")
    assert classes == ("2", "9", "10", "b")
    assert labels.tolist() == [2, 0, 0, 1, 3]
    assert kept.all()


def test_the_order_of_the_source_is_kept_where_it_has_one():
    labels, classes, _ = LabelRule().apply(TABLE, "folder", ("b", "2", "none", "10", "9"))
    assert classes == ("b", "2", "none", "10", "9")
    assert labels.tolist() == [3, 1, 1, 4, 0]


def test_a_mapping_gives_labels_in_its_order_and_fills_missing_ones_where_told():
    classes = {"no": [0, -1], "yes": [1, 2]}
    assert apply(classes=classes, missing="as:no") == ([0, 1, 0, 0, 1], ("no", "yes"), [True] * 5)
    assert apply(classes=classes, missing="drop") == ([0, 1, 0, 1], ("no", "yes"), [True, True, True, False, True])


def test_a_pair_leaves_all_other_values_out():
    assert apply(pair=[2, 0], missing="drop") == ([1, 0], ("2", "0"), [True, False, False, False, True])


def test_grades_are_ordered_or_cut_in_two():
    rule = LabelRule(column="grade", grades=[-1, 0, 1, 2], missing="drop")
    assert rule.apply(TABLE, None)[0].tolist() == [1, 2, 0, 3]
    cut = LabelRule(column="grade", grades=[-1, 0, 1, 2], positive_from=1, missing="drop")
    assert cut.apply(TABLE, None)[:2][1] == ("-1 to 0", "1 to 2")
    assert cut.apply(TABLE, None)[0].tolist() == [0, 1, 0, 1]


def test_a_pattern_reads_the_path_or_a_column_its_first_group_or_all_that_matches():
    labels, classes, _ = LabelRule(pattern=r"/([abc])\.", missing="drop").apply(TABLE, "folder")
    assert (labels.tolist(), classes) == ([0, 1, 2], ("a", "b", "c"))
    assert LabelRule(pattern=r"^p\d+").apply(TABLE, "folder")[1] == ("p01", "p02", "p10", "p2")
    with pytest.raises(BadRule, match=r"p10/d.png has no label by"):
        LabelRule(pattern=r"/([abc])\.").apply(TABLE, "folder")


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (
            {"classes": {"a": [0, 1], "b": [2]}, "missing": "drop"},
            "label '-1'",
        ),
        ({"classes": {"a": [0], "b": [1, 2, -1]}}, r"p10/d\.png .*1 of 5"),
        ({"classes": {"a": [0, 1, 2, -1], "b": [3]}, "missing": "drop"}, "'3'"),
        ({"classes": {"a": [0, -1], "b": [1, 2]}, "missing": "as:c"}, "'c'.*a, b"),
    ],
)
def test_a_rule_that_does_not_fit_names_the_image_and_the_value(rule, message):
    with pytest.raises(BadRule, match=message) as raised:
        LabelRule(column="grade", **rule).apply(TABLE, None)
    assert "\n" not in str(raised.value)


def test_a_missing_column_is_answered_with_the_closest():
    with pytest.raises(BadRule, match=r"'patent'.*did you mean 'patient'"):
        GroupRule(column="patent", of="patient").apply(TABLE, None)
    twice = pd.concat([TABLE, TABLE["patient"]], axis=1)
    with pytest.raises(BadRule, match="'patient', and 2"):
        GroupRule(column="patient", of="patient").apply(twice, None)
    with pytest.raises(BadRule, match="nothing says where the label"):
        LabelRule().apply(TABLE, None)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"pattern": "("}, "pattern"),
        ({"pair": [1, 1]}, "'1'"),
        ({"pair": [1, 2], "grades": [1, 2]}, "only one of them"),
        ({"grades": [1, 2], "positive_from": 3}, "not one of the grades"),
        ({"classes": {"a": [1], "b": ["1"]}}, "'1'"),
        ({"missing": "ignore"}, "ignore"),
    ],
)
def test_a_rule_that_contradicts_itself_is_refused_when_it_is_read(rule, message):
    with pytest.raises(ValueError, match=message):
        LabelRule(**rule)


def test_groups_keep_their_numbers_and_names_are_numbered_in_order():
    assert GroupRule(column="patient").apply(TABLE, None).tolist() == [7, 7, 3, 3, 12]
    assert GroupRule(pattern=r"^(p\d+)/").apply(TABLE, None).tolist() == [0, 0, 1, 2, 3]
    written = pd.DataFrame({"patient": ["7", "007", "12", "7", "07"]})
    with pytest.warns(UserWarning, match=r"2 names of a patient .*'007'.*'07'"):
        groups = GroupRule(column="patient", of="patient").apply(written, None)
    assert groups.tolist() == [2, 0, 3, 2, 1]
    assert GroupRule(column="patient", pattern=r"\d+").apply(written, None).tolist() == [7, 7, 12, 7, 7]  # numbers
    assert LabelRule(column="patient").apply(written, None)[1] == ("007", "07", "7", "12")


def test_an_image_without_a_group_is_refused_alone_or_makes_groups_unknown():
    rule = {"pattern": r"^(p0\d)/", "of": "patient"}
    with pytest.raises(BadRule, match=r"p10/d\.png .*2 of 5"):
        GroupRule(**rule).apply(TABLE, None)
    frames = pd.concat([TABLE, TABLE.tail(1)])
    assert len(set(GroupRule(**rule, unmatched="own").apply(frames, None).tolist())) == 4  # of one file
    own = GroupRule(**rule, unmatched="own").apply(TABLE, None)
    assert own[0] == own[1]
    assert len(set(own.tolist())) == 4
    assert GroupRule(**rule, unmatched="unknown").apply(TABLE, None) is None
