"""Soundness on sets whose copies, families, shortcuts and leaks are made."""

import csv

import numpy as np
import pytest

from intrinsic.images import ImageSet
from intrinsic.images.manifolds import cube, flat_torus
from intrinsic.properties import soundness as module
from intrinsic.properties.duplicates import near_duplicate_components, near_duplicate_links
from intrinsic.properties.neighbors import BadPoints, neighbors
from intrinsic.properties.soundness import COLUMNS, nearest_accuracy, shortcut_accuracy, soundness, write_csv


def noise(n, size=8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, size, size), dtype=np.uint8)


def families(size, count=30, seed=0):
    """`count` smooth pictures, each `size` times with noise of two grey levels."""
    rng = np.random.default_rng(seed)
    weights = np.maximum(0, 1 - np.abs(np.linspace(0, 3, 16)[:, None] - np.arange(4)))
    base = weights @ rng.uniform(20, 235, (count, 4, 4)) @ weights.T
    x = np.repeat(base, size, 0) + rng.integers(-2, 3, (count * size, 16, 16))
    return x.astype(np.uint8), np.repeat(np.arange(count) % 2, size)


def image_set(pixels, labels, **more):
    return ImageSet(pixels, labels, ("a", "b"), **more)


@pytest.mark.parametrize("size", [3, 20, 40, 100])
def test_families_of_any_size_are_found_whole(size):
    x, y = families(size)
    group = near_duplicate_components(x)
    assert np.array_equal(group, np.repeat(np.arange(30), size))
    found = soundness(image_set(x, y))
    assert found.linked == len(x)
    assert any(str(len(x)) in one for one in found.warnings) or found.leaks


def test_a_family_beside_many_other_images_is_found():
    x, _ = families(100, count=1)
    others, _ = families(1, count=2000, seed=1)
    group = near_duplicate_components(np.concatenate([x, others]))
    assert set(group[:100]) == {0}
    assert 0 not in group[100:]


@pytest.mark.parametrize("family", [flat_torus, cube])
@pytest.mark.parametrize("d", [1, 3, 10])
def test_smooth_sets_have_few_links(family, d):
    i, j, _ = near_duplicate_links(family(1200, d, seed=1))
    assert len(np.union1d(i, j)) < 120
    assert np.bincount(near_duplicate_components(family(1200, d, seed=1))).max() <= 5


def test_copies_are_counted_and_conflicts_shown_with_another_label():
    x, y = noise(30), np.arange(30) % 2
    x[2] = x[4] = x[5] = x[0]
    x[9] = x[7]
    found = soundness(image_set(x, y))
    assert (found.copies, found.conflicting, found.distinct) == (3, 4, 25)
    rows = {(row["kind"], row["first_index"], row["second_index"]) for row in found.flagged}
    assert {("exact duplicate", 0, 2), ("exact duplicate", 0, 4), ("exact duplicate", 7, 9)} <= rows
    assert ("conflicting duplicate", 0, 5) in rows
    assert found.suspects()[0]["kind"] == "conflicting duplicate"


def test_brightness_is_a_shortcut_and_noise_is_none():
    y = np.arange(200) % 2
    dark = (noise(200) // 2 + 60 * y[:, None, None]).astype(np.uint8)
    for pixels, expected in ((dark, 1.0), (noise(200), 0.5)):
        found = shortcut_accuracy(image_set(pixels, y), np.arange(200))
        assert found == pytest.approx(expected, abs=0.12)
        assert found.low <= expected <= found.high + 1e-9
    assert soundness(image_set(dark, y)).shortcut > module.SHORTCUT


def test_patients_leak_and_their_absence_does_not():
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(60), 5)
    y = rng.permutation(np.arange(60) % 2)[group]
    patients = noise(60)[group] // 2 + rng.integers(0, 60, (300, 8, 8), dtype=np.uint8)
    found = soundness(image_set(patients, y, group=group))
    assert found.leaks
    assert found.by_image == 1
    assert found.by_group.low < 0.5 < found.by_group.high
    assert found.unit == "group"
    assert not soundness(image_set(noise(300), y, group=group)).leaks


def test_intervals_of_the_nearest_image_cover_chance():
    hits = 0
    for seed in range(60):
        y = np.random.default_rng(seed).permutation(np.arange(120) % 2)
        near = neighbors(np.random.default_rng(100 + seed).standard_normal((120, 5)), 1, y)
        by_image = nearest_accuracy(near, np.arange(120))[0]
        hits += by_image.low <= 0.5 <= by_image.high
    assert hits >= 52


def test_constant_images_and_other_neighbors_are_told():
    x = noise(40)
    x[3], x[4], x[5] = 7, 9, 7
    x[5, 0, 0] = 8
    data = image_set(x, np.arange(40) % 2)
    found = soundness(data)
    assert (found.constant, found.nearly_constant) == (2, 1)
    assert found.to_dict()["flagged"]["constant"] == 2
    with pytest.raises(BadPoints, match="30"):
        soundness(data, neighbors(data[np.arange(30)], 5))


def test_the_table_is_whole_and_runs_no_formula(tmp_path):
    x = noise(20)
    x[3] = x[1]
    names = tuple(f"=cmd{i}" if i == 1 else f"{i}.png" for i in range(20))
    flagged = soundness(image_set(x, np.arange(20) % 2, paths=names)).flagged
    path = tmp_path / "flagged.csv"
    write_csv(flagged, path)
    write_csv(flagged, path)
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert rows[0]["first"] == "'=cmd1"
    assert len(rows) == len(flagged)
    path.write_text("path,label\n")
    with pytest.raises(ValueError, match="flagged"):
        write_csv(flagged, path)
    assert path.read_text() == "path,label\n"
