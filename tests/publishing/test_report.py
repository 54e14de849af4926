"""The report of an image set: one file, whole by itself, with the words of `measure` and names that run nothing."""

import html
import os
import re

import numpy as np
import pytest
from PIL import Image

import intrinsic
from intrinsic import cli
from intrinsic.images import REPOSITORY
from intrinsic.properties.words import answer


@pytest.fixture
def folder(tmp_path):
    """Two classes of 40 pictures with names of HTML and Markdown, one copy with another label."""
    rng = np.random.default_rng(0)
    root = tmp_path / "my <b>x</b> *set*"
    for name in ("<i>ill", "_well_"):
        (root / name).mkdir(parents=True)
        for i in range(40):
            Image.fromarray(rng.integers(0, 256, (12, 12), dtype=np.uint8)).save(root / name / f"{i}<u>.png")
    (root / "_well_" / "copy.png").write_bytes((root / "<i>ill" / "3<u>.png").read_bytes())
    return root


@pytest.mark.slow
def test_a_report_is_one_file_with_the_words_of_measure(folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    before = {path for path in (REPOSITORY / "_build").rglob("*") if path.is_file()}
    assert cli.main(["report", str(folder), "--levels", "full", "--out", "page.html"]) == 0
    assert capsys.readouterr().out == "page.html\n"
    assert os.listdir() == ["page.html"]
    assert {path for path in (REPOSITORY / "_build").rglob("*") if path.is_file()} <= before
    page = (tmp_path / "here" / "page.html").read_text(encoding="utf-8")
    assert "://" not in page
    assert not re.search(r"<b>x|<i>ill|<u>|<em>set", page)
    said = answer(intrinsic.measure(str(folder)))
    assert len(said.wrong) > 1
    assert all(html.escape(one) in page for one in (said.title, *said.wrong, *said.numbers))
    pair = [html.escape(name) for name in ("<i>ill/3<u>.png (<i>ill)", "_well_/copy.png (_well_)")]
    captions = re.findall(r"<figcaption[^>]*>(.*?)</figcaption>", page)
    assert any(all(name in one for name in pair) for one in captions)
    assert page.index(html.escape(said.wrong[0])) < page.index("<figure")
    assert page.count("<details><summary>Code") > 3


def test_a_report_is_not_written_over_a_folder_or_as_another_kind(folder, tmp_path, capsys):
    assert cli.main(["report", str(folder), "--out", str(tmp_path / "x.pdf")]) == 1
    assert ".html" in capsys.readouterr().err
    assert not (tmp_path / "x.pdf").exists()
