"""What pages of text promise: facts of the catalogue, options and entries that exist."""

import dataclasses
import json
import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_of_image_sets_gives_the_dimensions_of_the_catalogue():
    text = (ROOT / "book" / "reference" / "image_sets.md").read_text(encoding="utf-8")
    catalogue = yaml.safe_load((ROOT / "params" / "datasets.yaml").read_text(encoding="utf-8"))
    for name in ("torus_waves", "slab_waves"):
        section = text.split(f"## {name}\n")[1].split("\n## ")[0]
        assert re.search(r"true dimension(?: is)? (\d+)", section).group(1) == str(catalogue[name]["options"]["d"])


def test_the_page_on_own_images_names_every_option_and_kind_of_suspect():
    from intrinsic.images import entries, tables
    from intrinsic.properties import flagged

    page = _own_images("markdown")
    options = [field.alias for one in ("folder", "table", "dicom", "nifti") for field in
               entries.options_model(one).model_fields.values()]  # fmt: skip
    kinds = [value for name, value in vars(flagged).items() if name in
             ("EXACT", "CONFLICTING", "ACROSS_CLASSES", "ACROSS_GROUPS", "NEAR", "MIXED", "DOUBTFUL", "SHARPEST",
              "CONSTANT", "NEARLY_CONSTANT", "UNREADABLE")]  # fmt: skip
    join = [field.name for field in dataclasses.fields(tables.Join)]
    assert not [name for name in (*options, *join, *kinds) if f"`{name}`" not in page]


def test_the_entries_that_the_page_on_own_images_shows_are_entries():
    from intrinsic.images import Entry

    shown = re.findall(r'(?s)^[A-Z]+ = """\n(.*?)"""', _own_images("code"), re.MULTILINE)
    names = [name for text in shown for name in yaml.safe_load(text)]
    assert names == ["knees", "nodules"]
    for text in shown:
        for name, fields in yaml.safe_load(text).items():
            Entry.model_validate({"name": name, **fields})


def _own_images(kind):
    cells = json.loads((ROOT / "book" / "yours" / "measure.ipynb").read_text(encoding="utf-8"))["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == kind)
