"""The paper's sets as its code gives them: each defect is there, and nothing else differs from ours."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from intrinsic import images as sets
from intrinsic.images import published
from intrinsic.networks import models

ENTRY = """
mine:
  title: a set of my own
  domain: natural
  adapter: {adapter}
  location: {location}
  labels: {labels}
  about: what it is
  beware: what it is not
  source: me
  licence: CC0
  as_published: {theirs}
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Writes a catalogue with one entry, `mine`, and gives the function that loads it."""
    monkeypatch.setenv("INTRINSIC_CACHE", str(tmp_path / "cache"))

    def entry(adapter, location, theirs, labels="{}"):
        file = tmp_path / "own.yaml"
        file.write_text(ENTRY.format(adapter=adapter, location=location, theirs=theirs, labels=labels))
        return lambda **options: sets.load("mine", catalogue=file, **options)

    return entry


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(path, format="PNG")


def flat(value, shape=(4, 4)):
    """A picture of one grey level and one white pixel, so that 255 / maximum is 1 and the level names the picture."""
    pixels = np.full(shape, value, dtype=np.uint8)
    pixels[0, 0] = 255
    return pixels


def archive(path, labels, **arrays):
    """A .npz whose image i holds the level i beside its white pixel."""
    pixels = np.stack([flat(i) for i in range(len(labels))])
    np.savez(path, images=pixels, labels=np.asarray(labels), class_names=["a", "b"], **arrays)


def numbers(images):
    """Which picture each one is, by its level."""
    return images.images.reshape(len(images), -1)[:, -1].tolist()


# ---------------------------------------------------------------------------------------------------- Grey levels


def test_levels_are_cut_as_in_floating_point_and_not_rounded():
    top, level = np.meshgrid(np.arange(1, 256), np.arange(256), indexing="ij")
    with np.errstate(invalid="ignore"):
        theirs = (level.astype(float) * 255.0 / top).astype(np.uint8)
    for maximum in (1, 2, 77, 200, 254, 255):
        picture = np.arange(maximum + 1, dtype=np.uint8)[None]
        assert np.array_equal(published._scaled(picture)[0], theirs[maximum - 1, : maximum + 1])
    assert published._scaled(np.array([[0, 100, 200]], np.uint8)).tolist() == [[0, 127, 255]]  # 127.5 is cut
    assert sets.match(
        sets.ImageSet(np.array([[[0, 100, 200]]], np.uint8), [0], ("a",)), pixel_range="image"
    ).images.tolist() == [[[0, 128, 255]]]


def test_a_black_image_stays_black_and_a_colour_image_has_one_maximum(tmp_path, own):
    colour = np.zeros((2, 3, 3, 3), np.uint8)
    colour[1, 0, 0] = (100, 50, 0)
    np.savez(tmp_path / "x.npz", images=colour, labels=[0, 1])
    images = own("npz", tmp_path / "x.npz", "{channels: 3}")(as_published=True, size=3)
    assert not images.images[0].any()
    assert images.images[1, 0, 0].tolist() == [255, 127, 0]


@pytest.mark.parametrize("shape", [(28, 28), (300, 451), (37, 500)])
def test_resizing_is_torchvisions_on_floating_point_but_for_half_a_level(shape):
    resize = pytest.importorskip("torchvision.transforms").Resize((224, 224))
    picture = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    theirs = resize(torch.from_numpy(picture).float()[None])[0].numpy()
    ours = published._resized(picture, 224)
    assert ours.shape == (224, 224)
    assert np.abs(ours - theirs).max() <= 0.5 + 1e-3


def test_the_range_is_set_before_the_size_changes(tmp_path, own):
    for name in "ab":
        spot = np.zeros((8, 8), np.uint8)
        spot[2, 2] = 100
        write(tmp_path / f"x/{name}/1.png", spot)
    load = own("folder", tmp_path / "x", "{}")
    theirs, ours = load(as_published=True, size=4), load(size=4)
    assert theirs.images[0].max() == 36  # 255 x (3/8)^2, rounded
    assert ours.images[0].max() == 14  # 100 x (3/8)^2
    assert sets.match(ours, pixel_range="image").images[0].max() == 255
    assert theirs.pixel_range == "image"


# ----------------------------------------------------------------------------------------------------- The entries


def chexpert(data):
    """A CheXpert of five pictures: effusion 1, empty, -1, 0, and 1 again; edema 0, 1, 0, empty, -1."""
    root = data / "chexpert/CheXpert-v1.0"
    lines = ["Path,Pleural Effusion,Edema,New Path"]
    for i, (effusion, edema) in enumerate([("1.0", "0.0"), ("", "1.0"), ("-1.0", "0.0"), ("0.0", ""), ("1.0", "-1.0")]):
        name = f"CheXpert-v1.0_train_patient{i // 2:05}_study1_view{i} (é).jpg"
        lines.append(f"{name.replace('_', '/')},{effusion},{edema},{name}")
        write(root / "subset/train" / name, flat(i))
    (root / "train_subset.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "ours", "theirs"),
    [("chexpert", [1, 0, 0, 0, 1], [1, 0, 0, 1, 1]), ("chexpert_edema", [0, 1, 0, 0, 0], [1, 1, 1, 0, 0])],
)
def test_an_explicit_0_of_chexpert_is_label_1_and_all_else_is_equal(tmp_path, monkeypatch, name, ours, theirs):
    monkeypatch.setenv("INTRINSIC_DATA", str(tmp_path))
    monkeypatch.setenv("INTRINSIC_CACHE", str(tmp_path / "cache"))
    chexpert(tmp_path)
    right, wrong = sets.load(name), sets.load(name, as_published=True, size=4)
    assert right.labels.tolist() == ours
    assert wrong.labels.tolist() == theirs
    assert (right.classes, right.paths) == (wrong.classes, wrong.paths)
    assert np.array_equal(right.images, wrong.images)
    assert right.group.tolist() == [0, 0, 1, 1, 2]
    assert wrong.group is None
    assert not wrong.show_pixels


def test_files_are_taken_by_the_text_in_their_name_and_sorted(tmp_path, monkeypatch):
    monkeypatch.setenv("INTRINSIC_DATA", str(tmp_path))
    monkeypatch.setenv("INTRINSIC_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "oai/OAI_img"
    names = ["0/9000099_L.png", "0/9000099_R.PNG", "0/9000296_L (2).png", "1/9000001_R.png", "1/ß 1.jpg"]
    for i, name in enumerate(names):
        write(root / name, flat(i))
    for name in ("0/.DS_Store", "1/Thumbs.db"):
        (root / name).write_bytes(b"")
    ours, theirs = sets.load("oai"), sets.load("oai", as_published=True, size=4)
    assert ours.paths == tuple(names)
    assert theirs.paths == (names[0], names[2], names[3])
    assert numbers(theirs) == [0, 2, 3]
    assert theirs.labels.tolist() == [0, 0, 1]


@pytest.mark.parametrize("score", range(6))
def test_prostate_labels_are_theirs(tmp_path, monkeypatch, score):
    monkeypatch.setenv("INTRINSIC_DATA", str(tmp_path))
    monkeypatch.setenv("INTRINSIC_CACHE", str(tmp_path / "cache"))
    for i in range(6):
        write(tmp_path / f"prostate/train_png/{i}/{i}_0.png", flat(i))
    for name, cut, least in (("prostate", 2, 0), ("prostate_hard", 3, 2)):
        for images in (sets.load(name), sets.load(name, as_published=True, size=4)):
            labels = dict(zip(numbers(images), images.labels.tolist(), strict=True))
            assert labels.get(score) == (None if score < least else int(score >= cut))


def test_only_images_that_a_run_can_use_are_read(tmp_path, own, monkeypatch):
    monkeypatch.setattr(published, "PUBLISHED_N", (2,))
    monkeypatch.setattr(published, "PUBLISHED_TEST", 4)
    for i in range(10):
        write(tmp_path / f"x/{'ab'[i % 2]}/{i}.png", flat(i))
    for name in ("a/6.png", "b/9.png"):  # the fourth and the fifth of their class
        (tmp_path / "x" / name).write_bytes(b"damaged")
    images = own("folder", tmp_path / "x", "{}")(as_published=True, size=4)
    assert numbers(images) == [0, 2, 4, 1, 3, 5]
    with pytest.raises(sets.BadImageFile, match=r"a/6\.png"):
        own("folder", tmp_path / "x", "{}")()


def test_options_of_the_adapter_may_be_theirs(tmp_path, own):
    for name, level in (("a", 1), ("b", 2)):
        write(tmp_path / f"x/{name}/1.png", flat(level))
        write(tmp_path / f"x/{name}/deep/2.png", flat(level + 10))
    load = own("folder", tmp_path / "x", "{options: {nested: true}}")
    assert numbers(load(as_published=True, size=4)) == [1, 11, 2, 12]
    with pytest.raises(sets.BadSource, match="nested"):
        load()


def test_what_cannot_be_repeated_is_refused_in_one_sentence(tmp_path, own):
    with pytest.raises(sets.BadSource, match="digits does not say how the paper's code") as raised:
        sets.load("digits", as_published=True)
    assert "\n" not in str(raised.value)
    for option in ({"channels": 1}, {"pixel_range": "image"}, {"levels": "full"}, {"skip_unreadable": True}):
        with pytest.raises(ValueError, match="as_published fixes"):
            sets.load("oai", as_published=True, **option)
    for wrong, message in (
        ("{slip: subset}", "unknown key 'as_published.slip'"),
        ("{options: {x: 1}}", "adapter npz.*'x'"),
    ):
        with pytest.raises(sets.BadCatalogue, match=message):
            own("npz", "x.npz", wrong)()


# ------------------------------------------------------------------------------------------------- Labels that slip


@pytest.fixture
def four_classes(tmp_path):
    """A folder in ImageNet's layout: 3, 2, 4 and 2 pictures, numbered through in the order of the listing."""
    number = 0
    for name, n in (("n01", 3), ("n02", 2), ("n10", 4), ("n20", 2)):
        for i in range(n):
            write(tmp_path / f"ILSVRC/{name}/{name}_{i}.JPEG", flat(number))
            number += 1
    for junk in ("n01/.DS_Store", "n10/Thumbs.db"):
        (tmp_path / "ILSVRC" / junk).write_bytes(b"")
    return tmp_path / "ILSVRC"


def test_imagenet_gives_the_first_files_with_the_labels_of_the_chosen_classes(four_classes, own):
    load = own("folder", four_classes, "{slips: targets}", "{pair: [n20, n10]}")
    ours, theirs = load(), load(as_published=True, size=4)
    assert numbers(ours) == [5, 6, 7, 8, 9, 10]
    assert ours.labels.tolist() == [1, 1, 1, 1, 0, 0]
    assert numbers(theirs) == [0, 1, 2, 3, 4, 5]  # n01 and n02, and one of n10
    assert theirs.labels.tolist() == ours.labels.tolist()
    assert theirs.paths == (
        *(f"n01/n01_{i}.JPEG" for i in range(3)),
        "n02/n02_0.JPEG",
        "n02/n02_1.JPEG",
        "n10/n10_0.JPEG",
    )


def test_a_balanced_subset_in_memory_shortens_labels_and_not_images(tmp_path, own):
    labels = [0, 0, 1, 0, 0, 0, 1, 0, 1, 1]  # three of class 0 are full at row 3; row 4 is the first that slips
    archive(tmp_path / "x.npz", labels)
    images = own("npz", tmp_path / "x.npz", "{slips: subset}")(as_published=True, size=4)
    assert numbers(images) == list(range(10))
    assert images.labels.tolist() == labels
    rows = sets.published_subset(images.labels, 2, 4)
    assert rows.tolist() == [0, 1, 2, 3, 6, 8]
    slipped = sets.published_slip(images, rows)
    assert numbers(slipped) == [0, 1, 2, 3, 4, 5]
    assert slipped.labels.tolist() == [0, 0, 1, 0, 1, 1]
    wrong = [labels[i] != y for i, y in zip(numbers(slipped), slipped.labels, strict=True)]
    assert wrong == [False] * 4 + [True] * 2
    assert numbers(images[rows]) == rows.tolist()  # what was meant


def test_the_rows_that_slip_are_read_as_far_as_the_subset_reaches(tmp_path, own, monkeypatch):
    monkeypatch.setattr(published, "PUBLISHED_N", (2,))
    monkeypatch.setattr(published, "PUBLISHED_TEST", 2)
    archive(tmp_path / "x.npz", [0, 0, 0, 1, 0, 1, 1, 0])
    images = own("npz", tmp_path / "x.npz", "{slips: subset}")(as_published=True, size=4)
    assert numbers(images) == [0, 1, 2, 3, 4, 5]  # the second of class 1 is row 5


# ------------------------------------------------------------------------------------------ Subset, split, pairs


def test_a_subset_is_the_first_of_each_class_and_smaller_ones_are_in_larger_ones():
    labels = np.random.default_rng(0).integers(0, 2, 4000)
    rows = {n: sets.published_subset(labels, n) for n in published.PUBLISHED_N}
    for n, chosen in rows.items():
        assert np.bincount(labels[chosen]).tolist() == [(n + 750) // 2] * 2
        for label in (0, 1):
            mine = chosen[labels[chosen] == label]
            assert np.array_equal(mine, np.flatnonzero(labels == label)[: len(mine)])
    assert set(rows[500].tolist()) < set(rows[1750].tolist())
    with pytest.raises(sets.TooFewImages, match="625 of each of two classes"):
        sets.published_subset(labels[:900], 500)
    with pytest.raises(sets.TooFewImages):
        sets.published_subset(np.arange(3000) % 3, 500)


def test_the_split_is_torchs_at_seed_1337_and_its_test_set_changes_with_n():
    train, test = sets.published_split(1250)
    theirs = torch.utils.data.random_split(
        torch.arange(1250), [500, 750], generator=torch.Generator().manual_seed(1337)
    )
    assert [int(i) for i in theirs[0]] == train.tolist()
    assert [int(i) for i in theirs[1]] == test.tolist()
    assert np.array_equal(np.sort(np.concatenate([train, test])), np.arange(1250))
    other = sets.published_split(1500)[1]
    assert len(test) == len(other) == 750
    assert len(np.intersect1d(test, other)) < 600


def test_a_patient_is_on_both_sides_of_their_split_and_on_one_of_ours(tmp_path, own):
    patients = np.repeat(np.arange(50), 5)
    archive(tmp_path / "x.npz", np.arange(250) % 2, group=patients)
    load = own("npz", tmp_path / "x.npz", "{}")
    theirs, ours = load(as_published=True, size=4), load()
    assert theirs.group is None
    assert np.array_equal(ours.group, patients)
    rows = sets.published_subset(theirs.labels, 150, 50)
    train, test = (rows[side] for side in sets.published_split(len(rows), 50))
    assert (len(train), len(test)) == (150, 50)
    assert len(np.intersect1d(patients[train], patients[test])) > 20
    split = sets.split(ours, 100, seed=0)
    assert not np.intersect1d(patients[split.train], patients[split.test]).size
    leaky = replace(split, train=train, test=test)
    with pytest.raises(sets.Leak, match="groups"):
        sets.check_split(ours, leaky)


def test_pairs_are_one_stream_of_draws_over_networks_sets_and_sizes():
    counts = {"MNIST": [6000] * 10, "CIFAR10": [5000] * 10, "SVHN": [5000] * 10, "ImageNet": [1300] * 1000}
    pairs = sets.published_pairs(counts)
    random.seed(1337)
    expected = {
        (model, name, n): tuple(random.sample(list(range(len(images))), 2))
        for model in ("vgg13", "resnet18", "vgg16", "vgg19", "resnet34", "resnet50")
        for name, images in counts.items()
        for n in range(500, 2000, 250)
    }
    assert pairs == expected
    assert (
        len({pairs["vgg13", "CIFAR10", n] for n in published.PUBLISHED_N}) > 1
    )  # no two sizes on one task, in general
    assert len({pairs[model, "CIFAR10", 500] for model in published.PUBLISHED_MODELS}) > 1


def test_a_pair_with_too_few_images_is_drawn_again():
    counts = [2500, 10, 10, 10, 10, 10, 10, 10, 10, 2500]
    pairs = sets.published_pairs({"SVHN": counts})
    assert all(sum(counts[i] for i in pair) >= n + 750 for (_, _, n), pair in pairs.items())
    generator = random.Random(1337)
    first = next(p for p in iter(lambda: generator.sample(range(10), 2), None) if sum(counts[i] for i in p) >= 1250)
    assert pairs["vgg13", "SVHN", 500] == tuple(first)


def test_networks_can_keep_a_thousand_outputs_for_two_labels():
    network = models.create("resnet18", n_classes=sets.PUBLISHED_OUTPUTS).eval()
    logits = network(torch.zeros(2, 1, 32, 32))
    assert logits.shape == (2, 1000)
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1]))
    two = torch.nn.functional.cross_entropy(logits[:, :2], torch.tensor([0, 1]))
    assert loss > two + 3  # untrained: near log(1000) and log(2)
