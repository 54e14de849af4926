"""Soundness on sets whose copies, families, shortcuts and leaks are made."""

import csv

import numpy as np
import pytest

from intrinsic.images import ImageSet
from intrinsic.images.manifolds import flat_torus
from intrinsic.properties import flagged as kinds
from intrinsic.properties import soundness as module
from intrinsic.properties.duplicates import near_duplicate_components, near_duplicate_links
from intrinsic.properties.flagged import COLUMNS, write_csv
from intrinsic.properties.neighbors import BadPoints, neighbors
from intrinsic.properties.soundness import nearest_accuracy, shortcut_accuracy, soundness
from intrinsic.properties.words import SHORTCUT


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


def cube(n, d, seed):
    return np.random.default_rng(seed).random((n, d))


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
    rows = {(row["kind"], row["index"], row["partner_index"], row["family"]) for row in found.flagged}
    assert {(kinds.CONFLICTING, 0, 5, 0), (kinds.CONFLICTING, 4, 5, 0), (kinds.CONFLICTING, 5, 0, 0)} <= rows
    assert {row[1:3] for row in rows if row[0] == kinds.EXACT} == {(9, 7)}
    assert len({row["path"] for row in found.flagged}) == len(found.flagged)
    assert "image 0 (a) | image 5 (b)" in found.warnings[0]


def two_clusters(n, seed=0):
    """Noise about two pictures far apart, and the label of each."""
    y = np.arange(n) % 2
    return (noise(n, seed=seed) // 4 + 120 * y[:, None, None]).astype(np.uint8), y


def test_wrong_labels_are_the_most_doubtful_and_right_ones_are_not():
    x, y = two_clusters(120)
    y = y.copy()
    wrong = [3, 40, 77, 100]
    y[wrong] = 1 - y[wrong]
    found = soundness(image_set(x, y))
    assert set(wrong) <= {row["index"] for row in found.flagged}
    doubt = module.doubts(neighbors(x, 20, y, reserve=64))
    assert set(np.argsort(-doubt)[:4]) == set(wrong)
    assert (np.delete(doubt, wrong) < 0).all()


def test_a_class_of_few_images_is_named_and_none_of_its_labels_is_doubted():
    x, y = two_clusters(120)
    data = ImageSet(x, np.where(np.arange(120) < 3, 2, y), ("a", "b", "rare"), group=np.arange(120))
    found = soundness(data)
    assert found.few == ("rare",)
    assert not {0, 1, 2} & {row["index"] for row in found.flagged if row["kind"] == kinds.DOUBTFUL}
    assert any("rare (3)" in one and "--classes a b" in one for one in found.warnings)


def test_patients_with_two_labels_are_counted_and_flagged_where_they_are_rare():
    x, y = noise(200), np.repeat(np.arange(100) % 2, 2)
    group = np.repeat(np.arange(100), 2)
    y[7] = 1 - y[7]  # the second of two images of patient 3
    found = soundness(image_set(x, y, group=group))
    assert (found.groups, found.mixed, found.who) == (100, 1, "patient")
    assert {row["index"] for row in found.flagged if row["kind"] == kinds.MIXED} == {6, 7}
    often = soundness(image_set(x, np.arange(200) % 2, group=group))
    assert often.mixed == 100
    assert kinds.MIXED not in {row["kind"] for row in often.flagged}
    three = np.minimum(np.arange(200) // 3, 65)
    mine = np.where(three % 2, 1, 0)
    mine[4] = 1 - mine[4]
    odd = soundness(image_set(x, mine, group=three))
    assert {row["index"] for row in odd.flagged if row["kind"] == kinds.MIXED} == {4}


def test_patients_that_are_classes_or_images_are_told():
    x, y = noise(60), np.arange(60) % 2
    assert soundness(image_set(x, y, group=y)).as_classes
    assert not soundness(image_set(x, y, group=np.arange(60) % 3)).as_classes
    each = soundness(image_set(x, y, group=np.arange(60)))
    assert (each.groups, each.as_classes) == (60, False)
    told = [soundness(image_set(x, y, group=g)).warnings for g in (y, np.arange(60), np.arange(60) % 7)]
    assert ["classes" in text for text in map(" ".join, told)] == [True, False, False]
    assert ["has one image" in text for text in map(" ".join, told)] == [False, True, False]


def test_near_duplicates_of_either_kind_are_flagged_with_their_family():
    x, y = families(1, count=80)
    x = np.concatenate([x, x[:3]])
    x[80:, 0, 0] ^= 1
    y = np.append(y, [1 - y[0], y[1], y[2]])
    group = np.append(np.arange(80), [80, 81, 2])
    found = soundness(image_set(x, y, group=group))
    rows = {row["index"]: row for row in found.flagged}
    assert (found.across_classes, found.across_groups) == (1, 1)
    for m, kind in enumerate((kinds.ACROSS_CLASSES, kinds.ACROSS_GROUPS, kinds.NEAR)):
        assert rows[m]["kind"] == rows[80 + m]["kind"] == kind
        assert rows[m]["family"] == rows[80 + m]["family"]
        assert rows[m]["partner_index"] == 80 + m
    assert len({rows[m]["family"] for m in (0, 1, 2)}) == 3
    said = " ".join(found.warnings)
    assert "image 0 (a) | image 80 (b)" in said
    assert "image 1 (b) | image 81 (b)" in said


def test_brightness_is_a_shortcut_and_noise_is_none():
    y = np.arange(200) % 2
    dark = (noise(200) // 2 + 60 * y[:, None, None]).astype(np.uint8)
    for pixels, expected in ((dark, 1.0), (noise(200), 0.5)):
        found = shortcut_accuracy(image_set(pixels, y), np.arange(200))
        assert found == pytest.approx(expected, abs=0.12)
        assert found.low <= expected <= found.high + 1e-9
    assert soundness(image_set(dark, y)).shortcut > SHORTCUT


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
    assert "'=cmd1" in {row["partner_path"] for row in rows}
    assert len(rows) == len(flagged)
    path.write_text("path,label\n")
    with pytest.raises(ValueError, match="flagged"):
        write_csv(flagged, path)
    assert path.read_text() == "path,label\n"


@pytest.mark.parametrize("classes", [2, 4])
def test_ridge_regression_tells_what_scikit_learn_does(classes):
    from sklearn.linear_model import RidgeClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    rng = np.random.default_rng(classes)
    labels = np.minimum(rng.integers(0, 2 * classes, 300), classes - 1)  # the last class is larger
    x = rng.normal(size=(300, 7)) + labels[:, None] * rng.normal(size=7)
    known = rng.random(300) < 0.8
    products = PolynomialFeatures(2, include_bias=False)
    ridge = make_pipeline(StandardScaler(), products, StandardScaler(), RidgeClassifier(class_weight="balanced"))
    assert np.array_equal(module._told_by_ridge(x, labels, known), ridge.fit(x[known], labels[known]).predict(x))
