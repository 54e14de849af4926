"""Image sets: what they refuse, matching, and what every split keeps."""

import re
from dataclasses import replace

import numpy as np
import pytest

from intrinsic import images as sets
from intrinsic.images import ImageSet, Split, splits
from intrinsic.images.splits import _plan


def make(n=40, shape=(6, 5), classes=2, groups=None, seed=0, **fields):
    """Random images, no two equal, with their own label written into the first pixel."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (n, *shape), dtype=np.uint8)
    labels = np.arange(n) % classes
    pixels.reshape(n, -1)[:, 0] = labels
    return ImageSet(pixels, labels, tuple("abcdefgh"[:classes]), group=groups, **fields)


def same_labels(images):
    return (images.images.reshape(len(images), -1)[:, 0] == images.labels).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((40, 6, 5))}, "float64"),
        ({"images": np.zeros((40, 30), np.uint8)}, r"\(n, H, W\)"),
        ({"images": np.zeros((40, 3, 6, 5), np.uint8)}, "axes"),
        ({"images": np.zeros((40, 6, 5, 4), np.uint8)}, "alpha"),
        ({"images": np.zeros((0, 6, 5), np.uint8)}, "0, 6, 5"),
        ({"labels": np.zeros(39, int)}, "give 40"),
        ({"labels": np.zeros(40)}, "float64"),
        ({"labels": np.full(40, 2)}, "2 to 2"),
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
    ("index", "error"), [(3, TypeError), ([0.5], IndexError), ([True], IndexError), ([99], IndexError)]
)
def test_an_index_that_would_be_misread_is_refused(index, error):
    with pytest.raises(error):
        make()[index]


def test_all_images_in_their_order_are_the_set_itself():
    images = make()
    assert images[np.arange(40)] is images
    assert images[np.ones(40, bool)] is images
    assert images[::-1] is not images


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
    with pytest.raises(ValueError, match="cannot be had back"):
        sets.match(made, pixel_range="stored")


@pytest.mark.parametrize("wrong", [{"size": 0}, {"size": 2.5}, {"size": "8"}, {"channels": 2}])
def test_matching_to_what_does_not_exist_is_refused(wrong):
    with pytest.raises(ValueError, match="give"):
        sets.match(make(), **wrong)


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


def test_a_quarter_of_the_groups_of_each_class_goes_to_the_test_set():
    sizes = np.array([1, 5, 2, 8] * 10)  # 40 groups of one class each, 20 a class
    groups = np.repeat(np.arange(40), sizes)
    labels = groups // 20
    images = ImageSet(make(len(groups)).images, labels, ("a", "b"), group=groups)
    _, orders, _ = _plan(images, 0, None)
    assert [len(set(groups[order])) for order in orders] == [15, 15]
    assert len(set(groups[sets.split(images, 40, 0).test])) <= 10


def test_the_test_set_is_capped_and_the_rest_goes_to_training(monkeypatch):
    monkeypatch.setattr(splits, "MOST_TEST", 20)
    images = make(400)
    s = sets.split(images, 2, 0)
    assert np.bincount(images.labels[s.test]).tolist() == [20, 20]
    assert len(sets.split(images, 360, 0).train) == 360
    thirties = make(400, groups=np.arange(400) // 30)  # a group is 15 images a class: two exceed the cap
    s = sets.split(thirties, 2, 0)
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
    with pytest.raises(sets.Leak, match="images 5 and 5"):
        sets.check_split(images, replace(good, test=np.array([5, 30])))
    with pytest.raises(sets.Leak, match="images 18 and 19"):
        sets.check_split(images, replace(good, train=np.arange(19), test=np.arange(19, 40)))
    with pytest.raises(sets.Leak, match="images 3 and 23"):
        sets.check_split(images, good, groups=np.where(np.arange(40) % 20 == 3, 7, 100 + np.arange(40)))
    copy = images.images.copy()
    copy[33] = copy[4]
    with pytest.raises(sets.Leak, match="4 and 33"):
        sets.check_split(replace(images, images=copy), good)


@pytest.mark.parametrize(
    ("images", "n_train", "message"),
    [
        (make(400), 302, "151 a class, and class 'a' has 150 of its 200.* to 300"),
        (make(400), 1, "for 2 to"),
        (make(40, groups=np.arange(40) % 2), 4, "1 groups"),
        (make(6, classes=3, groups=[0, 1, 2, 1, 2, 0]), 3, "groups"),  # each group has two of three classes
        (replace(make(400), labels=(np.arange(400) < 12).astype(int)), 20, "class 'b' has 9 of its 12"),
    ],
)
def test_sizes_that_cannot_be_reached_are_named_with_the_reason(images, n_train, message):
    for seed in range(9 if n_train == 3 else 1):
        with pytest.raises(sets.TooFewImages, match=message):
            sets.split(images, n_train, seed)


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
    for per_class in (0, -3, 200):
        with pytest.raises(sets.TooFewImages, match=str(per_class)):
            sets.balanced_draws(labels, per_class, 1, 0)
