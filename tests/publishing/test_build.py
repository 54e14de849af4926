"""The build: parameters are checked first, failures are named, what did not change is kept, warnings are errors."""

import json
import os
import shutil
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
import yaml

from intrinsic import images
from intrinsic.publishing import build, extension

TINY = Path(__file__).parents[1] / "tiny.yaml"


def write_notebook(path, *cells, parameters="k = 1"):
    """A notebook of a title, a parameters cell and code cells."""
    made = [nbformat.v4.new_markdown_cell(f"# {path.stem}\n\nText.")]
    made.append(nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    made += [nbformat.v4.new_code_cell(source) for source in cells]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=made, metadata={"kernelspec": kernel}), path)
    return path


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository with the book's configuration and assets, one page and a table of contents."""
    for name in ("_config.yml", "params", "book/assets", "book/references.bib"):
        copy = shutil.copytree if (images.REPOSITORY / name).is_dir() else shutil.copy
        (tmp_path / name).parent.mkdir(exist_ok=True)
        copy(images.REPOSITORY / name, tmp_path / name)
    (tmp_path / "_toc.yml").write_text(yaml.safe_dump({"format": "jb-book", "root": "book/intro"}))
    (tmp_path / "book" / "intro.md").write_text("# Intro\n\nText.\n")
    monkeypatch.setattr(images, "REPOSITORY", tmp_path)
    return tmp_path


def said(path):
    return nbformat.read(path, 4).cells[-1].outputs[0].text


def test_an_unknown_key_is_refused_before_anything_is_made(tmp_path):
    params = tmp_path / "mine.yaml"
    params.write_text(TINY.read_text() + "n_trian: 12\n")
    with pytest.raises(ValueError, match="n_trian"):
        build.build(params, output=tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_a_page_is_given_the_values_that_it_declares(repository):
    toc = {"format": "jb-book", "root": "book/intro", "parts": [{"caption": "x", "chapters": [{"file": "book/one"}]}]}
    write_notebook(repository / "book" / "one.ipynb", parameters="wanted_accuracy = 0.9\nk = 20")
    (page,) = build.plan(toc, build.given(TINY))
    assert page.parameters == {"k": 10}


def test_a_page_that_is_not_there_is_refused_by_name(repository):
    with pytest.raises(build.BookError, match="book/absent"):
        build.plan({"format": "jb-book", "root": "book/intro", "chapters": [{"file": "book/absent"}]}, {})


def test_a_page_is_given_the_campaign_file_and_each_set_has_a_page(repository):
    write_notebook(repository / f"{build.TEMPLATE}.ipynb", parameters='dataset = "digits"\ncampaign = ""')
    pages = build.plan(
        {"format": "jb-book", "root": "book/intro"}, build.given(TINY), ["digits", "/data/a b/knees", "/other/knees"]
    )
    assert [page.parameters["dataset"] for page in pages] == ["digits", "/data/a b/knees", "/other/knees"]
    assert {page.parameters["campaign"] for page in pages} == {str(TINY)}
    assert len({page.name for page in pages}) == 3
    assert pages[0].name == "book/image_sets/digits"


@pytest.mark.slow
def test_a_failing_notebook_is_named_with_its_cell_and_the_others_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "_package_hash", lambda: "as it is")
    good = write_notebook(tmp_path / "good.ipynb", "import os\nprint(k + 1, os.environ['INTRINSIC_STORE'])")
    bad = write_notebook(tmp_path / "bad.ipynb", "ratio = 1", "k = 0\nratio / k", "never = 1")
    pages = [build.Page(good, "book/good", {"k": 41}), build.Page(bad, "book/bad", {"k": 2})]
    folder, how = tmp_path / "executed", {"state": "a", "progress": False}
    with pytest.raises(build.BookError) as failure:
        build.execute(pages, folder, **how)
    for part in ("bad.ipynb failed at its code cell 4", "    ratio / k\n", "ZeroDivisionError: division by zero"):
        assert part in str(failure.value)
    assert "good.ipynb" not in str(failure.value)
    assert not (folder / "book" / "bad.ipynb").exists()
    executed = nbformat.read(folder / "book" / "good.ipynb", 4)
    nbformat.validate(executed)
    assert said(folder / "book" / "good.ipynb").split() == ["42", os.environ["INTRINSIC_STORE"]]
    shown = [cell.source for cell in executed.cells if "injected-parameters" in cell.metadata.get("tags", [])]
    assert shown == ["k = 41"]

    before = (folder / "book" / "good.ipynb").stat().st_mtime_ns
    write_notebook(bad, "ratio = 1")
    assert build.execute(pages, folder, **how) == 1  # the good one is kept
    assert (folder / "book" / "good.ipynb").stat().st_mtime_ns == before
    assert build.execute(pages[:1], folder, state="b", progress=False) == 1  # records changed
    assert not (folder / "book" / "bad.ipynb").exists()  # no page of the book any more


@pytest.mark.slow
def test_pages_share_a_kernel_and_no_names_and_one_that_dies_spoils_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "_package_hash", lambda: "as it is")
    first = write_notebook(tmp_path / "a.ipynb", "import colorsys\nleft = 1\nprint(k)")
    second = write_notebook(tmp_path / "b.ipynb", "import sys\nprint('left' in dir(), 'colorsys' in sys.modules)")
    dying = write_notebook(tmp_path / "c.ipynb", "import os\nos._exit(1)")
    pages = [build.Page(path, f"book/{path.stem}", {}) for path in (first, second, dying, first)]
    pages[3] = build.Page(first, "book/d", {})
    with pytest.raises(build.BookError, match=r"c\.ipynb could not be executed"):
        build.execute(pages, tmp_path / "executed", state="a", workers=1, progress=False)
    assert [said(tmp_path / "executed" / "book" / f"{name}.ipynb").split() for name in "abd"] == [
        ["1"],
        ["False", "True"],
        ["1"],
    ]


def test_the_answer_stands_before_the_code_and_folded_code_is_one_cell():
    def cell(source, *tags, outputs=(), kind="code"):
        return {"cell_type": kind, "source": [source], "metadata": {"tags": [*tags]}, "outputs": [*outputs]}

    cells = [
        cell("# T", kind="markdown"),
        cell("k = 1", "parameters"),
        cell("a", "hide-input"),
        cell("b", "hide-input"),
    ]
    cells += [
        cell("answer", "remove-input"),
        cell("figure", "hide-input", outputs=["chart"]),
        cell("more", "remove-input"),
    ]
    made = build._answer_first(cells)
    assert ["".join(one["source"]) for one in made] == ["# T", "answer", "k = 1", "a\n\n\nb", "figure", "more"]
    without = [*cells[:3], cell("Text.", kind="markdown"), *cells[4:]]
    assert build._answer_first(without) == without


def test_what_decides_a_page_changes_its_key(tmp_path):
    notebook = write_notebook(tmp_path / "one.ipynb", "k")
    page = build.Page(notebook, "book/one", {"k": 1})
    keys = [build._inputs(page, "records"), build._inputs(page, "other records")]
    keys.append(build._inputs(build.Page(notebook, "book/one", {"k": 2}), "records"))
    write_notebook(notebook, "k + 1")
    assert len({*keys, build._inputs(page, "records")}) == 4


@pytest.mark.slow
def test_a_warning_fails_the_build_the_second_time_too_and_titles_stay_text(repository):
    toc = {"format": "jb-book", "root": "book/intro"}
    text = "# knees \\<img src=x onerror=y\\> & \\<i\\>\n\n"
    (repository / "book" / "intro.md").write_text(f"{text}See {{ref}}`nowhere`.\n")
    build.assemble([], toc, repository / "_build")
    for _ in range(2):
        with pytest.raises(build.BookError, match=r"book/intro\.md:3.*nowhere"):
            build.render(repository / "_build")
    (repository / "book" / "intro.md").write_text(f"{text}Text.\n")
    build.assemble([], toc, repository / "_build")
    page = (build.render(repository / "_build").parent / "book" / "intro.html").read_text(encoding="utf-8")
    assert "&lt;i&gt;" in page
    assert "<img src=x" not in page


HOSTILE = '</script><!-- <img src=x onerror="alert(1)"> & \u2028 "'


def test_no_text_of_a_chart_can_end_its_element_and_its_description_is_its_label():
    spec = {"description": HOSTILE, "data": {"values": [{"name": HOSTILE}]}}
    text = extension.embedded_json(spec)
    assert not set(text) & set("<>&\u2028\u2029")
    assert json.loads(text) == spec
    tags = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attributes):
            tags.append((tag, dict(attributes)))

    Reader().feed("".join(extension.chart_html(spec)))
    assert [tag for tag, _ in tags] == ["div", "div", "script"]
    assert tags[0][1]["aria-label"] == HOSTILE


def test_signs_of_docstrings_are_no_links_and_examples_stay():
    lines = ["|x| of K_ and d_data, `a|b`", ">>> f(x_)", "'a|b'", "", "|y|"]
    extension._plain_signs(None, "function", "f", None, None, lines)
    assert lines == ["\\|x\\| of K\\_ and d_data, `a|b`", ">>> f(x_)", "'a|b'", "", "\\|y\\|"]
