"""Soundness: made-up sets whose copies, near-duplicates, shortcuts and leaks are known exactly."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student

from intrinsic.images import ImageSet, TooFewImages, split
from intrinsic.properties import dimension, neighbors, soundness
from intrinsic.properties.soundness import SIZES


def noise(n, size=12, seed=0):
    """Independent uniform grey levels: no near-duplicates, nothing that a label could be told by."""
    return np.random.default_rng(seed).integers(0, 256, (n, size, size), dtype=np.uint8)


def named(images, labels, **facts):
    paths = tuple(f"{i:04d}.png" for i in range(len(images)))
    classes = tuple("abcdefghij"[: max(labels) + 1])
    return ImageSet(images, np.asarray(labels), classes, **{"name": "made up", "paths": paths, **facts})


def nudged(image):
    """The image with one pixel one grey level off."""
    image = image.copy()
    image[5, 5] ^= 1
    return image


def patients(n_patients, each, labels_by_patient=True, seed=0):
    """`each` images around one random image a patient, a few grey levels apart; labels random."""
    rng = np.random.default_rng(seed)
    centers = rng.integers(30, 226, (n_patients, 12, 12))
    group = np.repeat(np.arange(n_patients), each)
    images = (centers[group] + rng.integers(-20, 21, (len(group), 12, 12))).astype(np.uint8)
    units = rng.permutation(np.arange(n_patients) % 2)[group]
    labels = units if labels_by_patient else rng.permutation(np.arange(len(group)) % 2)
    return named(images, labels, group=group)


@pytest.fixture(scope="module")
def planted():
    """400 noise images in 200 groups of two neighbors in index, labels alternating by group, and

    100 = 0 (copy, one label);  3 = 2 with the other label (copies that conflict);  two near-duplicates of each kind:
    8 ~ 9 (class and group the same), 12 ~ 20 (class the same), 24 ~ 26 (both different), 30 ~ 31 with 31 of the other
    class (the group the same);  300 constant, 301 nearly constant.
    """
    images, labels = noise(400), (np.arange(400) // 2) % 2
    images[100] = images[0]
    images[3], labels[3] = images[2], 1 - labels[2]
    for copy, of in ((9, 8), (20, 12), (26, 24), (31, 30)):
        images[copy] = nudged(images[of])
    labels[31] = 1 - labels[30]
    images[300] = 77
    images[301] = 200
    images[301, ::2] = 202
    return named(images, labels, group=np.arange(400) // 2, unreadable=(("=bad.dcm", "truncated"),))


@pytest.fixture(scope="module")
def found(planted):
    return soundness.report(planted)


def test_the_planted_sets_labels_are_as_said(planted):
    label, group = planted.labels, planted.group
    assert [label[0], label[8], label[12], label[30]] == [label[100], label[9], label[20], 1 - label[31]]
    assert label[24] != label[26]
    assert group[8] == group[9]
    assert group[30] == group[31]
    assert group[12] != group[20]


def test_planted_copies_and_near_duplicates_are_counted_exactly(found):
    assert (found.n, found.distinct, found.copies, found.conflicting) == (400, 397, 1, 2)
    assert found.linked == 8
    assert found.links == {(True, True): 1, (True, False): 1, (False, True): 1, (False, False): 1}
    assert (found.constant, found.nearly_constant, found.unreadable) == (1, 1, 1)
    assert found.groups == 200
    assert sum(found.counts.values()) == 399


def test_every_flagged_file_and_pair_has_one_row_with_its_path(found):
    rows = {kind: part for kind, part in found.flagged.groupby("kind")}
    pairs = {kind: list(zip(part["first"], part["second"], strict=True)) for kind, part in rows.items()}
    assert pairs["exact duplicate"] == [("0000.png", "0100.png")]
    assert pairs["conflicting duplicate"] == [("0002.png", "0003.png")]
    assert sorted(pairs["near-duplicate across classes"]) == [("0024.png", "0026.png"), ("0030.png", "0031.png")]
    assert pairs["near-duplicate across groups"] == [("0012.png", "0020.png")]
    assert list(rows["constant"]["first"]) == ["0300.png"]
    assert list(rows["nearly constant"]["first"]) == ["0301.png"]
    assert list(rows["unreadable"]["first"]) == ["=bad.dcm"]
    assert list(rows["unreadable"]["note"]) == ["truncated"]
    assert len(rows["sharpest pair"]) == 3  # the other two are near-duplicates across classes
    one = rows["near-duplicate across groups"].iloc[0]
    assert (one["first_label"], one["first_group"], one["second_group"]) == ("a", 6, 10)
    assert (one["first_index"], one["second_index"]) == (12, 20)
    assert one["distance"] == 1 / 255


def test_unknown_groups_flag_no_pair_across_groups(planted):
    found = soundness.report(replace(planted, group=None))
    assert found.links == {(True, None): 2, (False, None): 2}
    assert found.groups is None
    assert "near-duplicate across groups" not in set(found.flagged["kind"])
    assert found.facts()["nearest"]["left_out"] == "family of near-duplicates"


def test_groups_given_are_used_instead_of_the_sets_own(planted):
    found = soundness.report(planted, groups=np.zeros(400, dtype=int))
    assert found.groups == 1
    assert sum(n for (_, same), n in found.links.items() if not same) == 0
    assert np.isnan(found.shortcut)
    assert "fewer than two classes have 5 groups" in found.facts()["shortcut"]["reason"]


def test_of_copies_each_image_after_the_first_has_one_row():
    images = noise(60)
    images[[10, 20, 30, 40]] = images[0]
    labels = np.arange(60) % 2
    labels[[0, 10, 20, 30, 40]] = [0, 0, 1, 1, 1]
    found = soundness.report(named(images, labels))
    rows = found.flagged[found.flagged["distance"] == 0]
    assert list(zip(rows["kind"], rows["first_index"], rows["second_index"], strict=True)) == [
        ("exact duplicate", 0, 10),
        ("conflicting duplicate", 0, 20),
        ("exact duplicate", 20, 30),
        ("exact duplicate", 20, 40),
    ]
    assert found.copies == 3
    assert list(named(images, labels).distinct(conflicting=True)) == [
        i for i in range(60) if i not in (0, 10, 20, 30, 40)
    ]


def test_the_same_is_found_from_a_pass_made_before(planted, found):
    clean = planted[planted.distinct(conflicting=True)]
    again = soundness.report(planted, neighbors.neighbors(clean, 20, reserve=dimension.reserve(20)))
    assert again == found
    pd.testing.assert_frame_equal(again.flagged, found.flagged)


def test_neighbors_of_other_images_are_refused(planted):
    with pytest.raises(soundness.OtherImages, match="the neighbors are of 400 points, and made up has 397"):
        soundness.report(planted, neighbors.neighbors(planted, 5))
    clean = planted[planted.distinct(conflicting=True)]
    with pytest.raises(soundness.OtherImages):
        soundness.report(planted, neighbors.neighbors(clean, 5, exclude_group=True))


# --------------------------------------------------------------------------------------------- shortcuts


def test_a_label_that_is_brightness_is_warned_of():
    images = noise(200) // 2
    labels = np.arange(200) % 2
    images[labels == 1] += 60
    found = soundness.report(named(images, labels))
    assert found.shortcut == 1
    assert found.shortcut.low > 0.95
    assert any("no proof of confounding" in text for text in found.warnings)


def test_a_label_written_into_the_border_is_found_in_each_of_three_classes():
    images, labels = noise(240), np.arange(240) % 3
    images[:, 0, :] = np.array([20, 120, 220])[labels][:, None]
    found = soundness.report(named(images, labels))
    assert found.shortcut > 0.9
    assert found.chance == pytest.approx(1 / 3)


def test_intervals_of_a_label_that_nothing_tells_hold_one_half_as_often_as_they_say():
    """100 simulations of 24 patients with 4 images each: labels by patient, brightness by patient."""
    rng, inside, n = np.random.default_rng(0), 0, 100
    for seed in range(n):
        group = np.repeat(np.arange(24), 4)
        bright = rng.integers(0, 150, 24)[group]
        images = (rng.integers(0, 100, (96, 8, 8)) + bright[:, None, None]).astype(np.uint8)
        labels = rng.permutation(np.arange(24) % 2)[group]
        found = soundness.shortcut_accuracy(named(images, labels), group, seed=seed)
        inside += found.low <= 0.5 <= found.high
        assert found.low < found < found.high
    assert 0.88 <= inside / n <= 1.0


def test_classes_of_few_groups_are_left_out_and_named():
    images = patients(40, 4)
    labels = images.labels.copy()
    labels[:8] = 2  # two patients
    three = named(images.images, labels, group=images.group)
    found = soundness.report(three)
    assert found.few == ("c",)
    assert found.chance == 0.5
    meanings = {row["what"]: row["meaning"] for row in found.rows()}
    assert "without c, of fewer than 5 groups" in meanings["told by the nearest image"]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("levels", [np.arange(100), np.full(100, 7), np.arange(100) // 50 * 255])
def test_images_of_the_same_grey_levels_tell_nothing(levels):
    rng = np.random.default_rng(0)
    images = np.zeros((60, 12, 12), dtype=np.uint8)
    images[:, 1:-1, 1:-1] = rng.permuted(np.tile(levels, (60, 1)), axis=1).reshape(60, 10, 10)
    found = soundness.shortcut_accuracy(named(images, np.arange(60) % 2), np.arange(60))
    assert found == 0.5


@pytest.mark.parametrize("colour", [False, True])
def test_statistics_are_those_of_the_pixels(colour):
    images = noise(30, size=32) // np.arange(1, 31)[:, None, None].astype(np.uint8)
    pixels = images.reshape(30, -1).astype(float)
    sides = images[:, :2], images[:, -2:], images[:, 2:-2, :2], images[:, 2:-2, -2:]
    ring = np.concatenate([side.reshape(30, -1) for side in sides], axis=1).astype(float)
    expected = [
        pixels.mean(axis=1),
        pixels.std(axis=1),
        *np.quantile(pixels, [0.1, 0.5, 0.9], axis=1, method="inverted_cdf"),
        ring.mean(axis=1),
        ring.std(axis=1),
    ]
    drawn = np.repeat(images[..., None], 3, axis=3) if colour else images
    found = soundness.brightness_statistics(named(drawn, np.arange(30) % 2))
    np.testing.assert_allclose(found, np.column_stack(expected), rtol=1e-12)


# ------------------------------------------------------------------------------------------------- leaks


def test_patients_with_labels_of_their_own_leak_by_image():
    found = soundness.report(patients(80, 5))
    assert found.by_image == 1
    assert found.by_group.low < 0.5 < found.by_group.high
    assert found.drop == found.by_image - found.by_group
    assert found.leaks
    assert any(text.startswith("leaks by image: split by group") for text in found.warnings)


def test_intervals_of_the_drop_hold_what_labels_drawn_by_patient_make_it():
    """60 patients, 30 of each label, drawn at random: the nearest other patient has the same label in 29 of 59."""
    inside, n = 0, 100
    for seed in range(n):
        images = patients(60, 5, seed=seed)
        _, _, drop = soundness.nearest_accuracy(neighbors.neighbors(images, 10), images.group)
        inside += drop.low <= 1 - 29 / 59 <= drop.high
        assert drop.high - drop.low < 0.5
    assert inside / n >= 0.88


def test_a_leak_is_found_where_patients_are_unknown():
    found = soundness.report(replace(patients(80, 5), group=None))
    assert found.leaks
    assert found.by_group.high < 0.7
    assert any("patients are unknown" in text for text in found.warnings)


@pytest.mark.parametrize("group", [True, False])
def test_labels_that_patients_do_not_share_do_not_leak(group):
    images = patients(80, 5, labels_by_patient=False)
    found = soundness.report(images if group else replace(images, group=None))
    assert not found.leaks
    assert not [text for text in found.warnings if "leaks by image" in text]


def test_a_label_that_the_image_shows_does_not_leak():
    images, labels = noise(120) // 4, np.arange(120) % 2
    images[labels == 1, 3:9, 3:9] += 150
    found = soundness.report(named(images, labels, group=np.arange(120) // 2))
    assert found.by_image == found.by_group == 1
    assert (found.drop, found.leaks) == (0, False)


@pytest.mark.parametrize("each", [6, 100])
def test_nearest_images_of_other_groups_are_those_of_brute_force(each):
    """With 100 images a patient, all 64 that are listed are of the patient: a pass of its own is needed."""
    images = patients(12, each, seed=3)
    near = neighbors.neighbors(images, 20)
    by_image, by_group, _ = soundness.nearest_accuracy(near, images.group)
    x = images.images.reshape(len(images), -1).astype(float)
    squared = ((x[:, None] - x) ** 2).sum(axis=2) if each < 50 else (x**2).sum(1)[:, None] + (x**2).sum(1) - 2 * x @ x.T
    np.fill_diagonal(squared, np.inf)
    for found, apart in (
        (by_image, squared),
        (by_group, squared + np.where(images.group[:, None] == images.group, 1e12, 0)),
    ):
        hit = images.labels[apart.argmin(axis=1)] == images.labels
        assert found == pytest.approx(np.mean([hit[images.labels == c].mean() for c in (0, 1)]), abs=1e-12)


def test_an_error_of_rounding_alone_is_no_certainty():
    """12 patients of three images, one of which is told right: no spread over patients, and still only 12 of them."""
    hit, groups = np.tile([1, 0, 0], 12), np.repeat(np.arange(12), 3)
    found = soundness._accuracy(hit, np.repeat([0, 1], 18), groups)
    assert found == pytest.approx(1 / 3)
    n, t = 12, student.ppf(0.975, 5)  # Wilson's at 12
    middle, half = found + t**2 / (2 * n), t * np.sqrt(found * (1 - found) / n + t**2 / (4 * n**2))
    assert (found.low, found.high) == pytest.approx(
        ((middle - half) / (1 + t**2 / n), (middle + half) / (1 + t**2 / n))
    )


def test_a_difference_that_no_image_shows_has_an_interval():
    images, labels = noise(20) // 4, np.arange(20) % 2
    images[labels == 1, 3:9, 3:9] += 150
    near = neighbors.neighbors(named(images, labels, group=np.arange(20) // 2), 5)
    by_image, by_group, drop = soundness.nearest_accuracy(near, np.arange(20))
    assert by_image == by_group == 1
    assert drop == 0
    assert drop.high == -drop.low == pytest.approx(1 - by_image.low)


# ---------------------------------------------------------------------------- sizes, balance, tables


@pytest.mark.parametrize("group", [True, False])
def test_sizes_out_of_reach_are_those_that_split_refuses(group):
    images = named(
        noise(1500, size=6), (np.arange(1500) >= 500).astype(int), group=np.arange(1500) // 2 if group else None
    )
    found = soundness.report(images)
    refused = []
    for n in SIZES:
        try:
            split(images, n, 0)
        except TooFewImages as error:
            refused.append((n, str(error)))
    assert found.unreachable == tuple(n for n, _ in refused)
    assert 0 < len(refused) < len(SIZES)
    assert refused[0][1].endswith(found.unreachable_reason)
    assert found.reach.startswith(f"N = {refused[0][0]} and above cannot be reached: ")


def test_unequal_classes_are_warned_of_above_two():
    for large, warned in ((80, False), (81, True)):
        labels = np.repeat([0, 1], [large, 40])
        found = soundness.report(named(noise(large + 40), labels))
        assert any("the largest class is" in text for text in found.warnings) == warned


def test_a_constant_colour_image_is_one_whose_pixels_are_equal():
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    images[7] = (200, 10, 90)
    images[8] = 128
    images[8, :, ::2, 1] = 108
    images[8, :, ::2, 0] = 128 + 39  # grey levels of both columns: 128
    found = soundness.report(named(images, np.arange(40) % 2))
    assert (found.constant, found.nearly_constant) == (1, 0)


def test_the_table_and_the_facts_say_the_same_and_json_holds_them(found):
    facts = json.loads(json.dumps(found.facts(), allow_nan=False))
    rows = {row["what"]: row["value"] for row in found.rows()}
    assert all(isinstance(text, str) and text for row in found.rows() for text in row.values())
    assert rows["exact copies, same label"] == str(facts["copies"])
    assert rows["images with a near-duplicate"].startswith(f"{facts['near_duplicates']['images']} (")
    assert rows["near-duplicate pairs, two labels"] == "2"
    assert facts["shortcut"]["low"] < facts["shortcut"]["value"] < facts["shortcut"]["high"]
    assert facts["warnings"] == found.warnings
    assert sum(facts["flagged"].values()) == len(found.flagged)


def test_suspects_take_the_closest_of_each_kind_in_turn(found):
    kinds = list(found.suspects(3)["kind"])
    assert kinds == ["conflicting duplicate", "near-duplicate across classes", "near-duplicate across groups"]
    assert len(found.suspects()) == 4


# --------------------------------------------------------------------------------------------------- CSV


def test_a_csv_file_holds_the_rows_as_they_are(found, tmp_path):
    soundness.write_csv(found.flagged, tmp_path / "flagged.csv")
    read = pd.read_csv(tmp_path / "flagged.csv", keep_default_na=False, dtype={"first_label": str})
    assert list(read.columns) == list(soundness.COLUMNS)
    assert list(read["kind"]) == list(found.flagged["kind"])
    assert list(read["second"]) == list(found.flagged["second"])
    assert list(tmp_path.iterdir()) == [tmp_path / "flagged.csv"]


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(1)", "\t=1", "\r=1", '=HYPERLINK("http://x","y")'])
def test_text_that_a_spreadsheet_would_run_gets_an_apostrophe(planted, tmp_path, name):
    images = replace(planted, paths=(name, *planted.paths[1:]), unreadable=((name, name),))
    flagged = soundness.report(images).flagged
    soundness.write_csv(flagged, tmp_path / "f.csv")
    read = pd.read_csv(tmp_path / "f.csv", keep_default_na=False)
    assert "'" + name in list(read["first"])
    assert not [text for column in read.select_dtypes(exclude="number") for text in read[column].map(str)
                if text[:1] in tuple("=+-@\t\r")]  # fmt: skip
    assert name in list(flagged["first"])  # the table itself keeps the path


def test_a_file_in_no_folder_is_refused(found, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is no folder, so f\.csv cannot be written there"):
        soundness.write_csv(found.flagged, tmp_path / "nowhere" / "f.csv")


def test_what_was_there_stays_where_writing_fails(found, tmp_path, monkeypatch):
    old = ",".join(soundness.COLUMNS)
    (tmp_path / "f.csv").write_text(old)
    monkeypatch.setattr(pd.DataFrame, "to_csv", lambda self, path, **_: path.write_text("half") and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        soundness.write_csv(found.flagged, tmp_path / "f.csv")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("f.csv", old)]


def test_near_duplicate_links_are_the_planted_pairs_each_once_and_closest_first():
    images = noise(300)
    for copy, of, apart in ((7, 2, 3), (9, 7, 1), (100, 50, 2)):
        images[copy] = images[of]
        images[copy, :apart, copy % 12] ^= 1
    i, j, distance = neighbors.near_duplicate_links(images)
    assert list(zip(i, j, strict=True)) == [(7, 9), (50, 100), (2, 7), (2, 9)]
    np.testing.assert_allclose((255 * distance) ** 2, [1, 2, 3, 4])
    component = neighbors.near_duplicate_components(images)
    assert len(np.unique(component)) == 297
    assert component[2] == component[7] == component[9]
