"""Tables and titles: one format of numbers, names in words, no text that becomes HTML."""

import doctest
import re

import pandas as pd
import pytest

from intrinsic.images import catalogue
from intrinsic.publishing import tables, titles


@pytest.mark.parametrize("module", [tables, titles])
def test_examples_run(module):
    found = doctest.testmod(module)
    assert found.attempted
    assert not found.failed


def test_a_value_and_its_interval_are_one_cell():
    frame = pd.DataFrame({"k_f": [0.2637, 0.3], "k_f_low": [0.2, None], "k_f_high": [0.3, None], "n": [12345, 3]})
    made = tables.table(frame)
    assert made.frame.columns.size == 2
    assert made.frame.iloc[0, 0] == titles.interval_texts(frame, "k_f")[0] == "0.264 [0.2, 0.3]"
    assert "[" not in made.frame.iloc[1, 0]
    assert made.frame.iloc[0, 1] == "12,345"
    assert made._repr_html_().count('<td class="right">') == 4


def test_missing_values_are_a_dash_and_columns_are_chosen_and_named():
    made = tables.table([{"a": None, "b": "x", "c": 1}], columns={"b": "K_F of b", "a": "A"})
    assert made.frame.values.tolist() == [["x", "–"]]
    assert "<i>K</i><sub>F</sub> of b" in made._repr_html_()
    with pytest.raises(KeyError, match="zz"):
        tables.table([{"a": 1}], columns=["zz"])


def test_no_text_becomes_html():
    wild = "<script>x</script>"
    made = tables.table([{"a": wild}], columns={"a": wild}, caption=wild, fold=wild, ids=["set-a"])._repr_html_()
    assert "<script" not in made
    assert 'id="set-a"' in made
    assert made.startswith("<details")


def test_every_set_has_a_title_of_its_own_without_an_underscore():
    names = [name for name in catalogue() if "-pair" not in name]
    found = [titles.set_title(name) for name in names]
    assert not [title for title in found if "_" in title or not title]
    assert len(set(found)) == len(found)
    assert all(re.fullmatch(r"book/reference/coverage\.html#set-[a-z0-9-]+", titles.set_page(name)) for name in names)
