"""The scripts of benchmarks/: each imports, and runs at its smallest setting where that takes a few seconds."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
HELPERS = ("measuring", "simulating")
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in HELPERS)
QUICK = {  # script: a fact of its results at the smallest setting
    "neighbors": lambda found: {row["largest_relative_error"] for row in found["rows"] if row["method"] == "ours"},
    "training": lambda found: [row["times_as_fast"] for row in found["rows"]],
    "attacks": lambda found: {row["attack"] for row in found["rows"]},
    "dimension_simulations": lambda found: found["rows"],
    "sharpness_simulations": lambda found: found["cases"],
}


def script(name, monkeypatch):
    """A script as a module; its helpers are found beside it."""
    monkeypatch.syspath_prepend(str(FOLDER))
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_imports(name, monkeypatch):
    assert callable(script(name, monkeypatch).main)


@pytest.mark.parametrize("name", QUICK)
def test_a_script_runs_at_its_smallest_setting(name, monkeypatch, tmp_path):
    script(name, monkeypatch).main(["--small", "--output", str(tmp_path)])
    files = list(tmp_path.iterdir())
    assert files
    for path in files:
        assert QUICK[name](json.loads(path.read_text()))


def test_our_neighbors_have_no_error(monkeypatch):
    module = script("neighbors", monkeypatch)
    for made in (module.images, module.points):
        x, y = made(100, 48)
        np.testing.assert_allclose(module.ours(x, y), module.exact(x, range(100)), rtol=1e-14)


def test_color_of_image_sets_is_compared_with_grey(monkeypatch, tmp_path):
    module = script("sharpness_image_sets", monkeypatch)
    rng = np.random.default_rng(0)
    pixels, labels = np.repeat(rng.integers(0, 256, (60, 32, 32, 1), dtype=np.uint8), 3, axis=3), np.arange(60) % 2
    np.savez(tmp_path / "cats_dogs.npz", images=pixels, labels=labels, class_names=["cat", "dog"])
    ((title, pair),) = module.color(tmp_path / "cats_dogs.npz", per_class=20).items()
    assert title == "cat | dog"
    factor = module.summary([pair])["grey over 3 channels"]
    assert factor["smallest"] == factor["largest"] == pytest.approx(3**0.5)  # three equal channels


def test_the_tables_are_those_of_the_scripts(monkeypatch):
    simulating = script("simulating", monkeypatch)
    for path in simulating.TABLES.glob("*.json"):
        command = json.loads(path.read_text(encoding="utf-8")).get("command")
        if command:
            assert (FOLDER / command.split()[1].removeprefix("benchmarks/")).exists(), path


def test_the_bound_in_feature_space_is_that_of_the_theorem(monkeypatch):
    module = script("kept_networks", monkeypatch)
    train, held = np.array([[0.0], [1.0], [3.0], [4.0]]), np.linspace(0, 4, 41)[:, None]
    found = module.feature_bound(train, np.array([0, 0, 1, 1]), held, None, np.full(41, 0.1))
    nearest = np.abs(held - train.T).min(axis=1).mean()
    assert found["k_f"] == 0.5
    assert found["least_bound"] == pytest.approx(2 * 0.5 * nearest)
    assert found["d_held_out"] == pytest.approx(1, rel=0.25)
