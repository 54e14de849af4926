"""measure, the properties record, and what the package loads."""

import dataclasses
import html
import json
import math
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

import intrinsic
from intrinsic.images import BadImages, ImageSet, TooFewImages, balanced_draws
from intrinsic.images.manifolds import torus_images
from intrinsic.properties import measurement
from intrinsic.properties.dimension import mean_dimensions, mle_dimension
from intrinsic.properties.interval import digits
from intrinsic.properties.measure import measure
from intrinsic.properties.measurement import Matched, OneClass, least_bound, properties
from intrinsic.properties.neighbors import BadPoints, neighbors
from intrinsic.properties.sharpness import label_sharpness
from intrinsic.properties.words import Answer, answer, place

X, Y = torus_images(240, 3, size=12)


def test_arrays_tensors_and_sets_give_the_same():
    one = measure(X, Y, per_class=50)
    named = measure(X, np.array(["sick", "well"], dtype=object)[Y], per_class=50)
    tensor = measure(torch.from_numpy(X[:, None] / np.float32(255)), torch.from_numpy(Y), per_class=50)
    images = measure(ImageSet(X, Y, ("0", "1")), per_class=50)
    for other in (named, tensor, images):
        assert (other.d_data, other.label_sharpness, other.sharpness_at_m) == (
            one.d_data, one.label_sharpness, one.sharpness_at_m)  # fmt: skip
    assert named.classes == {"sick": 120, "well": 120}
    assert one.d_data == mle_dimension(X)
    assert one.n == 240
    assert one.shape == (12, 12)
    assert one.growth.per_class == (16, 31, 50, 62, 100)


def test_dimension_is_over_other_groups_where_patients_are_known():
    """Five near-copies a patient: with them the dimension is that of their noise."""
    rng = np.random.default_rng(0)
    patient = np.repeat(np.arange(48), 5)
    x = (X[patient] // 2 + rng.integers(0, 9, X.shape)).astype(np.uint8)
    y = np.array(["a", "b"])[Y[patient]]
    x[1] = x[0]  # a copy of the same label
    x[-1], x[-6] = X[200], X[200]
    y[-1], y[-6] = "a", "b"  # a conflict
    names = np.array([f"p{p}" for p in patient])
    found = measure(x, y, names, k=6)
    clean = np.setdiff1d(np.arange(240), [1, 239, 234])
    expected = neighbors(x[clean], 6, group=patient[clean], exclude_group=True)
    assert found.d_data == pytest.approx(mle_dimension(expected, 6, interval=False))
    assert found.d_data.excludes_group
    assert found.twonn.excludes_group
    assert found.d_all < 0.7 * found.d_data
    assert found.groups == 48
    assert found.label_sharpness == math.inf
    assert found.label_sharpness.pair == (234, 239)
    assert math.isfinite(found.finite_sharpness)
    assert (found.soundness.copies, found.soundness.conflicting) == (1, 2)


def test_a_conflict_is_shown_by_two_labels():
    x, y = np.random.default_rng(0).integers(0, 256, (30, 8, 8), dtype=np.uint8), np.arange(30) % 2
    x[2] = x[4] = x[5] = x[0]
    pair = measure(x, y).to_dict()["label_sharpness"]["pair"]
    assert [one["index"] for one in pair] == [0, 5]
    assert [one["label"] for one in pair] == ["0", "1"]


def test_it_shows_itself_briefly_and_escapes_names():
    found = measure(X, np.array(["a\n<b>", "*c*"])[Y])
    lines = repr(found).splitlines()
    assert len(lines) <= 25
    assert any("a\\n<b>" in line for line in lines)
    shown = found._repr_html_()
    assert "<b>&" not in shown
    assert "&lt;b&gt;" in shown
    facts = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert facts["d_data"]["value"] == found.d_data
    assert facts["growth"]["exponent"]["value"] == found.growth.exponent
    assert [one["index"] for one in facts["label_sharpness"]["pair"]] == list(found.label_sharpness.pair)
    named = {one.name for one in dataclasses.fields(found)} - {"images"}
    assert named | {"name", "unreadable"} == set(facts)


def test_the_numbers_of_the_words_are_those_of_the_attributes():
    found = measure(X, Y, per_class=50)
    said = answer(found)
    assert any(f"{digits(found.d_data)} (" in one and digits(found.d_data.high) in one for one in said.numbers)
    assert any(digits(found.sharpness_at_m) in one and "50 images" in one for one in said.numbers)
    assert all(html.escape(one) in said.html() for one in (*said.wrong, *said.numbers))


def test_text_has_at_most_25_lines_of_which_the_numbers_are_some():
    said = Answer(
        "title", tuple(f"{i} {'x ' * 90}" for i in range(30)), ("one number", "another"), (("what", "value"),)
    )
    lines = said.text().splitlines()
    assert len(lines) <= 25
    assert {"  one number", "  another"} <= set(lines)
    whole = said.text(details=True).splitlines()
    assert sum("x x" in line for line in whole) >= 30
    assert any("value" in line for line in whole)


def test_a_set_is_placed_at_the_largest_m_that_it_allows():
    x, y = torus_images(160, 3, size=12)
    found = measure(x, y)  # 80 a class
    grown = dict(zip(found.growth.per_class, found.growth.k_f, strict=True))

    def record(name, k_f, **changes):
        params = {"dataset": name, "size": 12, "channels": 1, "pixel_range": "stored"} | changes
        return SimpleNamespace(params=params, series={"growth_per_class": [31, 62, 125], "growth_k_f": [k_f, k_f, 9]})

    others = [record("dull", grown[62] / 2), record("sharp", grown[62] * 2), record("large", 0.0, size=64)]
    placed = place(found, others)
    assert (placed.per_class, placed.below, placed.sets) == (62, 1, 2)
    assert any("1 of 2" in one for one in answer(found, placed).numbers)
    assert place(found, []).sets == 0


def test_a_second_dimension_is_explained_where_it_differs():
    """Copies a grey level off make the nearest neighbor near; a line of equal steps has its two nearest equally far."""
    x = np.concatenate([X, X])
    x[240:, 0, 0] ^= 1
    found = measure(x, np.append(Y, Y))
    assert found.twonn < 0.5 * found.d_data
    assert sum("near-duplicates" in one and digits(found.twonn) in one for one in found.warnings) >= 1
    assert not any("estimates" in one for one in measure(X, Y).warnings)
    patient = np.repeat(np.arange(60), 4)
    x = X[4 * patient] // 2
    x[np.arange(240), 0, np.arange(240) % 4] ^= 1  # four images a grey level apart
    found = measure(x, Y[4 * patient], patient)
    assert found.twonn > 2 * found.d_data
    assert any("one other patient" in one for one in found.warnings)


def test_the_dimension_of_all_is_said_where_patients_change_it():
    patient = np.repeat(np.arange(48), 5)
    x = (X[patient] // 2 + np.random.default_rng(0).integers(0, 9, X.shape)).astype(np.uint8)
    found = measure(x, Y[patient], patient, k=6)
    assert any(digits(found.d_all) in one for one in answer(found).numbers)
    alone = measure(X, Y, np.arange(240))
    assert alone.d_all == alone.d_data
    assert not any("would be" in one for one in answer(alone).numbers)


def test_floats_are_scaled_where_their_white_is_given():
    one, other = measure(X, Y), measure(X.astype(np.float32), Y, white=255)
    assert (one.d_data, one.label_sharpness) == (other.d_data, other.label_sharpness)
    with pytest.raises(BadImages, match="255"):
        measure(X.astype(np.float32), Y)
    with pytest.raises(BadPoints, match="255"):
        label_sharpness(X.astype(np.float32), Y)


@pytest.mark.parametrize(
    ("images", "labels", "error"),
    [
        (X.astype(float), Y, BadImages), (X - 1.0, Y, BadImages), (X, None, BadImages),
        (X.reshape(240, -1), Y, BadImages),
        (X, [*Y[:-1], None], BadImages), (X, Y[:-1], BadImages), (X, 0 * Y, OneClass),
        (X[[0, 0, 0]], [0, 0, 1], TooFewImages),
        (X[:6], np.arange(6), TooFewImages), (ImageSet(X, Y, ("a", "b")), Y, BadPoints),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_refused(images, labels, error):
    with pytest.raises(error):
        measure(images, labels)


def test_a_record_holds_metrics_or_reasons():
    data = ImageSet(X, Y, ("a", "b"))
    found = Matched(data, np.arange(240), 0, 0, data.content_hash())
    metrics, reasons, series = properties(found, per_class=60, draws=3, k=5)
    assert {name for name, value in metrics.items() if value is None} <= set(reasons)
    assert metrics["k_f_all"] == measure(data).label_sharpness
    assert metrics["d_mle_low"] < metrics["d_mle"] < metrics["d_mle_high"]
    assert series["growth_per_class"] == [16, 31, 50, 62, 100]
    assert series["d_mle_per_class"] == [50, 100]
    few, reasons, _ = properties(found, per_class=200, draws=3, k=5)
    assert few["k_f"] is few["d_mle_low"] is few["least_bound"] is None
    assert "200" in reasons["least_bound"]


def test_a_record_holds_what_may_stand_behind_both_numbers():
    group = np.repeat(np.arange(120), 2)
    data = ImageSet(X, Y, ("a", "b"), group=group)
    found = properties(Matched(data, group, 0, 0, data.content_hash()), per_class=100, draws=3, k=5)[0]
    points = X.reshape(len(X), -1) / 255.0
    assert found["contrast"] == pytest.approx(np.sqrt(2 * points.var(axis=0).sum()))
    assert found["brightness"] == pytest.approx(points.mean())
    distances = cdist(points, points)
    draws = balanced_draws(Y, 100, 3, 0)
    nearest = [np.median(np.where(np.eye(200, dtype=bool), np.inf, distances[np.ix_(c, c)]).min(axis=1)) for c in draws]
    assert found["nearest_distance"] == pytest.approx(np.mean(nearest))
    other = (Y[:, None] != Y) & (group[:, None] != group)
    between = [1 / distances[np.ix_(c, c)][other[np.ix_(c, c)]].min() for c in draws]
    assert found["k_f_between_groups"] == pytest.approx(np.mean(between))
    expected = mean_dimensions(X, Y, per_class=100, draws=3, k=5, group=group, interval=False)[0]
    assert found["d_mle"] == pytest.approx(expected)
    assert found["d_mle_any_group"] != found["d_mle"]


def test_the_least_bound_is_its_formula():
    near = neighbors(X, 5, Y)
    found = least_bound(near, per_class=120, draws=1)
    assert found == pytest.approx(2 * near.distances[:, 0].mean() / near.opposite_distance.min())


def test_a_set_is_matched_once_with_families_as_groups(tmp_path):
    x = np.concatenate([X, X[:4]])
    x[-3:, 0, 0] ^= 1
    np.savez(tmp_path / "set.npz", images=x, labels=np.append(Y, Y[:4]))
    data = measurement.matched(str(tmp_path / "set.npz"))
    assert measurement.matched(str(tmp_path / "set.npz")) is data
    assert data.n_copies == 1
    assert np.array_equal(data.groups[-3:], data.groups[1:4])


def test_a_name_loads_only_what_it_needs():
    code = (
        "import sys; import numba; known = set(sys.modules); from intrinsic import label_sharpness, neighbors, growth;"
        "print([m for m in ('pydantic', 'pydicom', 'nibabel', 'pandas', 'skdim', 'sklearn', 'torchvision',"
        " 'intrinsic.images', 'dask') if m in sys.modules], 'yaml' in set(sys.modules) - known)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": ":".join(sys.path)},
    )
    assert run.stdout.split() == ["[]", "False"]
    assert {"measure", "label_sharpness", "forecast"} <= set(dir(intrinsic))
    with pytest.raises(AttributeError, match="nothing"):
        intrinsic.nothing  # noqa: B018
