"""The reference pages say what commands, schema and docstrings say."""

import re
import subprocess
import sys

import pytest
import yaml
from markdown_it import MarkdownIt

from intrinsic import images
from intrinsic.campaigns import campaign
from intrinsic.properties import dimension
from intrinsic.publishing import book, reference


@pytest.fixture(scope="module")
def pages():
    return reference.pages(reference.names())


def test_every_key_of_the_schema_is_on_the_page_of_parameters(pages):
    whole, _, block = pages["book/reference/parameters"].partition("## A block of runs")
    for schema, text in ((campaign.Params, whole), (campaign.RunBlock, block)):
        for name, field in schema.model_fields.items():
            entry = re.search(rf"^`{name}` \((.*?)\)\n: (.*?)$", text, flags=re.MULTILINE)
            assert entry, name
            assert entry[2].replace("\\", "").startswith(field.description)
    assert "`size` (int; default `32`)\n: pixels a side, for all sets; at least 8; at most 1024" in whole


def test_every_command_is_on_the_page_of_commands(pages):
    text = pages["book/reference/commands"]
    asked = [sys.executable, "-m", "intrinsic.cli", "--help"]
    said = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    found = re.findall(r"^    ([a-z]+)\b", said.partition("COMMAND\n")[2], flags=re.MULTILINE)
    assert len(found) > 5
    assert reference.commands() == found
    for name in found:
        assert f"## intrinsic {name}\n\n```text\nusage: intrinsic {name} " in text


def test_every_public_name_of_every_module_has_an_entry_with_its_docstring(pages):
    for name in ("dimension", "sharpness", "training", "images"):
        text = pages[f"book/reference/api/{name}"]
        module = sys.modules[f"intrinsic.{name}"]
        public = reference._public(module)
        assert len(public) > 5
        for label, one in public:
            assert re.search(rf"^:+{{py:(function|class|exception)}} {label}\b", text, flags=re.MULTILINE), label
            assert one.__doc__, f"{name}.{label} has no docstring"
    listed = re.findall(r"\(api/(\w+)\.md\)", pages[reference.API])
    assert sorted(listed) == [page.rpartition("/")[2] for page in reference.sections(reference.API)]


def test_a_signature_shows_names_and_defaults_and_no_types():
    def some(x: int, y=None, *, how: "str" = "a", at=dimension.Estimate, sizes=(1, 2)) -> float: ...

    assert reference.signature(some) == "(x, y=None, *, how='a', at=..., sizes=(1, 2))"


def test_prose_stays_prose_and_formulas_and_columns_stay_as_they_stand():
    doc = """One sentence with d_data, [a] and *stars* and `code_x`.

        y = a * b

    More: 2 < 3.
    x     an array
          of numbers
    long  another

    The end.
    """
    made = reference.myst(doc)
    html = MarkdownIt().render(made)
    assert "One sentence with d_data, [a] and *stars* and <code>code_x</code>." in html
    assert '<pre><code class="language-text">y = a * b\n</code></pre>' in html
    assert "<p>More: 2 &lt; 3.</p>" in html
    assert "x     an array\n      of numbers\nlong  another\n" in html
    assert "<p>The end.</p>" in html


@pytest.mark.parametrize("text", ["- no list", "1. no list", "# no heading", "a | b", "$x$ and $y$", "~~a~~ <b>"])
def test_escaped_text_is_shown_as_it_is(text):
    html = MarkdownIt("commonmark").enable("table").render(reference.escaped(text))
    plain = re.sub(r"</?p>|\n$", "", html).replace("&lt;", "<").replace("&gt;", ">").strip()
    assert plain == text


def test_the_citation_is_that_of_the_file(pages):
    facts = yaml.safe_load((images.REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    text = pages["book/reference/citation"]
    assert facts["title"] in text
    assert facts["references"][0]["title"] in text
    assert pages["book/reference/changelog"] == (images.REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")


def test_generated_pages_are_in_the_plan_and_none_of_them_is_a_notebook():
    made = book.plan(campaign.Params())
    named = set(book._files(made.toc))
    assert set(reference.names()) <= named
    assert set(reference.sections(reference.API)) <= named
    assert not {page.name for page in made.pages} & set(reference.names())
