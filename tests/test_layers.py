"""What the layout promises: layers of modules, one list of requirements, strict parameters."""

import ast
import dataclasses
import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "lib" / "intrinsic"
ORDER = [
    "manifolds",
    "interventions",
    "images",
    "selection",
    "products",
    "tiles",
    "neighbors",
    "dimension",
    "sharpness",
    "theory",
    "overlap",
    "records",
    "soundness",
    "measurement",
    "checkpoints",
    "convolutions",
    "models",
    "training",
    "representations",
    "attacks",
    "slope",
    "engine",
    "campaign",
    "progress",
    "statistics",
    "courses",
    "forecast",
    "audit",
    "controlled",
    "further",
    "tables",
    "charts",
    "overview",
    "reference",
    "kernels",
    "book",
    "cli",
]


IMAGES = [
    "sets",
    "matching",
    "downloads",
    "rules",
    "cache",
    "files",
    "adapters",
    "embedded",
    "packaged",
    "published",
    "catalogue",
    "splits",
]


def imported(path):
    """Names of the package's modules that a module imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            if node.module == "intrinsic":
                yield from (alias.name for alias in node.names)
            elif node.module and node.module.startswith("intrinsic."):
                yield node.module.split(".")[1]
            assert node.level == 0, f"{path.name}: relative imports hide the layers"
        elif isinstance(node, ast.Import):
            yield from (a.name.split(".")[1] for a in node.names if a.name.startswith("intrinsic."))


def test_every_module_has_its_place():
    found = [p.stem for p in PACKAGE.glob("*.py")] + [p.parent.name for p in PACKAGE.glob("*/__init__.py")]
    assert sorted(name for name in found if name != "__init__") == sorted(ORDER)
    listed = re.findall(r"^(\w+)  +\S", (PACKAGE / "__init__.py").read_text(encoding="utf-8"), re.MULTILINE)
    assert listed == ORDER  # as the package's own description has it
    assert sorted(p.stem for p in (PACKAGE / "images").glob("*.py") if p.stem != "__init__") == sorted(IMAGES)


@pytest.mark.parametrize("module", ORDER)
def test_a_module_imports_only_those_above_it(module):
    above = ORDER[: ORDER.index(module)]
    own = PACKAGE / module
    for path in own.glob("*.py") if own.is_dir() else [own.with_suffix(".py")]:
        names = set(imported(path)) - ({module} if own.is_dir() else set())
        below = [name for name in names if name in ORDER and name not in above]
        assert not below, f"{path.name} imports {below}"


@pytest.mark.parametrize("part", IMAGES)
def test_a_part_of_images_imports_only_those_above_it(part):
    tree = ast.parse((PACKAGE / "images" / f"{part}.py").read_text(encoding="utf-8"))
    modules = [n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module]
    parts = {m.split(".")[2] for m in modules if m.startswith("intrinsic.images.")}
    parts |= {
        a.name
        for n in ast.walk(tree)
        if isinstance(n, ast.ImportFrom) and n.module == "intrinsic.images"
        for a in n.names
    }
    assert parts <= set(IMAGES[: IMAGES.index(part)]), f"{part} imports {parts}"


def test_the_package_itself_imports_nothing():
    assert not list(imported(PACKAGE / "__init__.py"))


def requirement_name(line):
    return re.split(r"[<>=!~\[; ]", line, maxsplit=1)[0].lower().replace("_", "-")


def test_every_requirement_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = list(project["project"]["dependencies"])
    for group in project["project"]["optional-dependencies"].values():
        wanted += group
    for group in project["dependency-groups"].values():
        wanted += group
    pinned = {
        requirement_name(line)
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line and not line.startswith("#")
    }
    assert {requirement_name(w) for w in wanted} <= pinned


def test_environment_yml_holds_python_pip_and_the_project_only():
    body = yaml.safe_load((ROOT / "environment.yml").read_text())
    plain = [d for d in body["dependencies"] if isinstance(d, str)]
    (pip,) = [d["pip"] for d in body["dependencies"] if isinstance(d, dict)]
    assert [requirement_name(d) for d in plain] == ["python", "pip"]
    assert len(pip) == 2
    assert pip[0] == "-c constraints.txt"
    extras = re.fullmatch(r"-e \.\[([a-z,]+)\]", pip[1]).group(1).split(",")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(extras) == set(project["optional-dependencies"])
    assert plain[0].removeprefix("python").replace(" ", "") == project["requires-python"].replace(" ", "")


def test_no_tracked_text_names_this_machine():
    for path in [*ROOT.glob("*.md"), *PACKAGE.rglob("*.py"), *(ROOT / "book").rglob("*.md")]:
        text = path.read_text(encoding="utf-8")
        assert str(ROOT.parent) + "/" not in text, path


def test_the_page_of_image_sets_gives_the_dimensions_of_the_catalogue():
    text = (ROOT / "book" / "reference" / "image_sets.md").read_text(encoding="utf-8")
    catalogue = yaml.safe_load((ROOT / "params" / "datasets.yaml").read_text(encoding="utf-8"))
    for name in ("torus_waves", "slab_waves"):
        section = text.split(f"## {name}\n")[1].split("\n## ")[0]
        assert re.search(r"true dimension(?: is)? (\d+)", section).group(1) == str(catalogue[name]["options"]["d"])


def test_the_page_on_own_images_names_every_option_and_kind_of_suspect():
    from intrinsic.images import entries, tables
    from intrinsic.properties import soundness

    page = _own_images("markdown")
    options = [field.alias for one in ("folder", "table", "dicom", "nifti") for field in
               entries.options_model(one).model_fields.values()]  # fmt: skip
    kinds = [value for name, value in vars(soundness).items() if name in
             ("EXACT", "CONFLICTING", "ACROSS_CLASSES", "ACROSS_GROUPS", "SHARPEST", "CONSTANT", "NEARLY_CONSTANT",
              "UNREADABLE")]  # fmt: skip
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
