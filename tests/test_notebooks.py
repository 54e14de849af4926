"""Each notebook alone: its parameters are the schema's, it runs under plain papermill, it holds no output."""

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import pytest

from intrinsic import images
from intrinsic.campaigns import campaign
from intrinsic.campaigns.records import Store

BOOK = images.REPOSITORY / "book"
TINY = Path(__file__).with_name("tiny.yaml")
NOTEBOOKS = sorted(p for p in BOOK.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
CLAIMS = [
    "data_dimension_scaling",
    "label_sharpness_generalization",
    "label_sharpness_robustness",
    "representation_dimension_bound",
]


def cells(path, kind):
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == kind]


def test_there_is_one_notebook_per_claim_and_a_report():
    names = {p.relative_to(BOOK).as_posix() for p in NOTEBOOKS}
    assert {f"claims/{name}.ipynb" for name in CLAIMS} | {"dataset_report.ipynb"} <= names


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_the_declared_parameters_are_the_schemas_with_its_defaults(path):
    declared = papermill.inspect_notebook(str(path))
    defaults = campaign.Params().model_dump()
    assert declared, "no cell is tagged `parameters`"
    assert set(declared) <= set(defaults), set(declared) - set(defaults)
    for name, facts in declared.items():
        value = eval(facts["default"], {})
        if name == "runs":
            value = [campaign.RunBlock(**block).model_dump() for block in value]
        assert value == defaults[name], name


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_the_source_is_stripped_short_and_in_order(path):
    for cell in cells(path, "code"):
        assert not cell.outputs
        assert cell.execution_count is None
        tags = cell.metadata.get("tags", [])
        assert len(cell.source.splitlines()) <= (
            24 if "parameters" in tags else 15
        )  # a parameter has a line of its own
        assert not re.search(r"^\s*(def|class) ", cell.source, re.M), "definitions live in the package"
    text = [cell.source for cell in cells(path, "markdown")]
    assert text[0].startswith("# ")
    headings = " ".join(line for cell in text for line in cell.splitlines() if line.startswith("##"))
    wanted = ["Exercises"] if path.stem == "dataset_report" else ["Verdict", "Limits", "Exercises"]
    assert [w for w in wanted if w in headings] == wanted


@pytest.fixture(scope="module")
def tiny_store(tmp_path_factory):
    root = tmp_path_factory.mktemp("notebooks")
    campaign.run(campaign.read(TINY), store=Store(root), progress=False)
    return root


def by_length(path):
    """The other pages are many: `make test-long` runs them here, and the book of test_book.py has them all."""
    few = path.stem in (CLAIMS[0], "dataset_report")
    return pytest.param(path, marks=[] if few else [pytest.mark.long], id=path.stem)


@pytest.mark.slow
@pytest.mark.parametrize("path", map(by_length, NOTEBOOKS))
def test_it_runs_under_plain_papermill_from_any_folder(path, tiny_store, tmp_path, monkeypatch):
    monkeypatch.setenv("INTRINSIC_STORE", str(tiny_store))
    out = tmp_path / "out.ipynb"
    command = [sys.executable, "-m", "papermill", str(path), str(out), "-f", str(TINY), "--no-progress-bar"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    book = nbformat.read(out, 4)
    nbformat.validate(book)
    outputs = [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [o for o in outputs if o.output_type == "stream" and o.name == "stderr"]
    charts = [o for o in outputs if "application/vnd.vegalite.v5+json" in o.get("data", {})]
    assert charts
    assert all("image/png" in o["data"] for o in charts)
    if path.stem in CLAIMS:
        text = "".join(str(o.get("data", {}).get("text/markdown", "")) for o in outputs)
        assert "illustration: too few sets" in text
