"""Each notebook of the book: stripped, in order, short cells; its sentences are short."""

import ast
import re
import sys
from pathlib import Path

import nbformat
import pytest
from prose import long_sentences, sentences

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted(p for p in (ROOT / "book").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)


def source(cell):
    """The cell as Python, without lines of IPython."""
    return "\n".join(line for line in cell.source.splitlines() if not line.startswith(("%", "!")))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_it_is_stripped_and_its_cells_are_short(path):
    notebook = nbformat.read(path, 4)
    assert notebook.cells[0].source.startswith("# ")
    assert sum(c.source.startswith("# ") for c in notebook.cells if c.cell_type == "markdown") == 1
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in code) == 1
    for cell in code:
        assert not cell.outputs
        tree = ast.parse(source(cell))
        functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
        for node in functions:
            assert node.end_lineno - node.lineno < 25, node.name
        rest = len(source(cell).splitlines()) - sum(node.end_lineno - node.lineno + 3 for node in functions)
        assert rest <= 20, cell.source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_it_reads_well_in_jupyterlab(path):
    """No role or directive of Sphinx, which JupyterLab shows as it is written, except on the first page of the book."""
    text = "\n".join(cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "markdown")
    assert not re.findall(r"\{(?:eq|ref|numref|term|doc|math|glossary)\}", text)
    assert path.stem == "intro" or "{cite}" not in text
    for target in re.findall(r"\]\(([^)#\s]+\.(?:ipynb|md))", text):
        assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_charts_have_the_theme_and_parameters_fit_the_page(path):
    code = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    text = "\n".join(cell.source for cell in code)
    assert "alt." not in text or re.search(r"import (?:.*, )?figures", text)
    (declared,) = [cell for cell in code if "parameters" in cell.metadata.get("tags", [])]
    assert max(map(len, declared.source.splitlines())) <= 105


def test_sentences_are_told_apart_and_code_and_tables_do_not_count(tmp_path):
    text = "# T\n\nOne sentence. Another one with `code that has many words` and $x$.\n\n| a | b |\n\n```\nc d\n```\n"
    assert [len(sentence.split()) for sentence in sentences(text)] == [2, 7]
    page = tmp_path / "page.md"
    page.write_text("word " * 31 + ".\n\nShort.\n")
    assert [words for words, _ in long_sentences(page)] == [31]
    assert sys.modules["prose"].main([str(page)]) == 1
