"""The reference pages hold every public name, command and parameter, with what their docstrings say."""

import inspect
import re

import pandas as pd
import pytest

from intrinsic import book, campaign, overview, reference, statistics

P = campaign.params(
    name="two",
    datasets=["digits_0_1", "digits_4_9"],
    runs=[{"models": ["resnet18", "vgg13"], "n_train": [64, 5000], "seeds": [0, 1]}],
)


def test_every_module_with_a_page_shows_all_of_its_public_names():
    made = reference.pages([reference.API])
    assert set(reference.sections(reference.API)) < set(made)
    for name in reference.sections(reference.API):
        module = __import__(f"intrinsic.{name.rpartition('/')[2]}", fromlist=["*"])
        own = [
            label
            for label, one in vars(module).items()
            if not label.startswith("_")
            and getattr(one, "__module__", None) == module.__name__
            and (inspect.isfunction(one) or inspect.isclass(one))
        ]
        missing = [label for label in own if f"intrinsic.{name.rpartition('/')[2]}.{label}" not in made[name]]
        assert not missing or hasattr(module, "__all__"), f"{name}: {missing}"
        assert (
            f"({name.rpartition('/')[2]}.md)" in made[reference.API]
            or f"/{name.rpartition('/')[2]}.md" in made[reference.API]
        )
        assert "notation.md" in made[name]


def test_a_docstring_keeps_its_formulas_and_columns_and_loses_no_sign():
    doc = """Mean_of x, in *words*.

        1 / d = mean_i log( T_k / T_j )

    x     images, (n, D)
    norm  "k-1" or "k-2"
    Raises ValueError at |x| > 1.
    """
    made = reference.myst(doc)
    assert "```text\n    1 / d = mean_i log( T_k / T_j )\n" in made
    assert 'norm  "k-1" or "k-2"\n' in made
    assert "Mean\\_of x, in \\*words\\*." in made
    assert "Raises ValueError at \\|x\\| \\> 1." in made
    assert made.count("```") % 2 == 0


def test_a_signature_has_names_and_defaults_and_no_types():
    def example(x: int, *more: float, k=20, norm: str = "k-1", of=(1, 2), device=object) -> float: ...

    assert reference.signature(example) == "(x, *more, k=20, norm='k-1', of=(1, 2), device=...)"


def test_every_parameter_of_the_schema_has_a_row_with_its_meaning():
    (page,) = reference.pages(["book/reference/parameters"]).values()
    for name, field in campaign.Params.model_fields.items():
        row = re.search(rf"^\| `{name}` \| (.+)$", page, flags=re.MULTILINE)
        assert row, name
        assert field.description.split(",", maxsplit=1)[0].split("'")[0].split("`")[0][:12] in row.group(1).replace(
            "\\", ""
        )


@pytest.mark.slow
def test_every_command_is_shown_with_its_help():
    (page,) = reference.pages(["book/reference/commands"]).values()
    for name in ("measure", "run", "status", "retry", "publish", "report", "book", "datasets"):
        assert f"## intrinsic {name}\n" in page
        assert f"usage: intrinsic {name} " in page


def test_the_changelog_and_the_paper_that_is_tested_have_a_page():
    made = reference.pages(["book/reference/changelog", "book/reference/citation"])
    assert made["book/reference/changelog"].startswith("# Changelog")
    assert "arXiv:2401.08865" in made["book/reference/citation"]


# ---------------------------------------------------------------------------------- first page and coverage


def properties(names, n=1000):
    columns = ["d_data", "k_f", *(f"{c}_{end}" for c in ("d_data", "k_f") for end in ("low", "high"))]
    rows = [dict.fromkeys(columns, 1.0 + i) | {"dataset": name, "domain": "natural"} for i, name in enumerate(names)]
    more = {"n": n, "n_groups": n, "n_copies": 0.0, "n_conflicting": 0.0}
    return pd.DataFrame([row | more for row in rows])


def runs(cells):
    facts = {"fitted": True, "n_test": 200, "test_accuracy": 0.9, "test_loss_nats": 0.3}
    return pd.DataFrame(
        [dict(zip(("dataset", "model", "n_train", "seed"), cell, strict=True)) | facts for cell in cells]
    )


EMPTY = overview.Shown(P, pd.DataFrame(), pd.DataFrame())


def test_without_records_the_parts_say_so_and_name_the_command():
    assert "intrinsic run params/published.yaml" in overview.plane(EMPTY, {}, book.chart_html)[0]
    table = overview.verdicts(EMPTY)
    assert table.count("no run is published yet") == len(statistics.CLAIMS)
    assert ", properties missing | natural | 0 of 8 |" in overview.coverage_page(EMPTY)


def test_coverage_counts_what_is_stored_and_names_what_is_out_of_reach():
    cells = [("digits_0_1", "resnet18", 64, 0), ("digits_0_1", "vgg13", 64, 1)]
    found = overview.Shown(P, properties(["digits_0_1", "digits_4_9"]), runs(cells))
    page = overview.coverage_page(found)
    assert "| natural | 2 of 8 | 2 | 0 | 0 |" in page
    assert "| natural | 0 of 8 | 0 | 0 | 0 |" in page
    assert "| 64 | none | 5,000 |" in page
    assert "| none | 64 | 5,000 |" in page
    assert "| all 2 | 2 | 16 |" in page


def test_a_set_in_the_plane_leads_to_its_page_where_there_is_one():
    found = overview.Shown(P, properties(["digits_0_1", "digits_4_9"]), pd.DataFrame())
    text, picture = overview.plane(found, {"digits_4_9": "book/image_sets/digits_4_9"}, book.chart_html)
    assert '"page":"image_sets/digits_4_9.html"' in text
    assert '"page":null' in text
    table = overview.plane_table(found, {"digits_4_9": "book/image_sets/digits_4_9"})
    assert "[digits\\_4\\_9](image_sets/digits_4_9.md)" in table
    assert picture.startswith(b"\x89PNG")
    assert len(picture) < 150_000


def test_each_published_set_has_a_page_that_shows_its_runs_and_no_pixels():
    found = overview.Shown(P, properties(["digits_0_1"]), runs([("digits_0_1", "resnet18", 64, 0)]))
    (page,) = overview.set_pages(found).values()
    assert "| resnet18 | 64 | 1 | 1 | 0.900 | 0.300 |" in page
    assert "intrinsic report digits_0_1" in page
    assert "image}" not in page
