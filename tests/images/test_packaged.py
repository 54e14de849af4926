"""Sets of torchvision and MedMNIST, from made-up files in their formats that a server on this machine serves."""

import functools
import gzip
import hashlib
import http.server
import io
import pickle
import struct
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import yaml
from PIL import Image

from intrinsic import images as sets
from intrinsic.images.entries import Pairs
from intrinsic.images.packaged import DownloadFailed

GARMENTS = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
ANIMALS = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
MEDMNIST = [
    "path",
    "chest",
    "derma",
    "oct",
    "pneumonia",
    "retina",
    "breast",
    "blood",
    "tissue",
    "organa",
    "organc",
    "organs",
]


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass

    def do_GET(self):
        self.server.asked.append(self.path)
        super().do_GET()


class Web:
    """A server of the files in `folder`."""

    def __init__(self, folder):
        self.folder = folder
        self.server = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), functools.partial(Handler, directory=str(folder))
        )
        self.server.daemon_threads = True
        self.asked = self.server.asked = []
        self.url = f"http://127.0.0.1:{self.server.server_port}/"

    def put(self, name, content):
        """A file to be served; returns its md5."""
        (self.folder / name).write_bytes(content)
        return hashlib.md5(content).hexdigest()


@pytest.fixture
def web(tmp_path, monkeypatch):
    for name, value in (
        ("no_proxy", "127.0.0.1"),
        ("HOME", str(tmp_path / "home")),
        ("INTRINSIC_DATA", str(tmp_path / "data")),
        ("INTRINSIC_CACHE", str(tmp_path / "cache")),
    ):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("INTRINSIC_OFFLINE", raising=False)
    monkeypatch.delenv("INTRINSIC_CATALOGUE", raising=False)
    (tmp_path / "home").mkdir()
    (tmp_path / "web").mkdir()
    web = Web(tmp_path / "web")
    thread = threading.Thread(target=web.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield web
    web.server.shutdown()
    thread.join()
    web.server.server_close()


def made(n, *shape, classes=10, seed=0):
    """Random images and labels; every class occurs."""
    rng = np.random.default_rng([seed, n])
    return rng.integers(0, 256, (n, *shape), dtype=np.uint8), rng.permutation(np.arange(n) % classes)


# ------------------------------------------------------------------------- made-up files, as published


def put_mnist(web, monkeypatch, name="MNIST"):
    from torchvision import datasets

    kind, parts, resources = getattr(datasets, name), {}, []
    (web.folder / name).mkdir()
    for part, stem, n in (("train", "train", 40), ("test", "t10k", 20)):
        pixels, labels = parts[part] = made(n, 28, 28)
        files = {
            f"{stem}-images-idx3-ubyte.gz": struct.pack(">IIII", 2051, n, 28, 28) + pixels.tobytes(),
            f"{stem}-labels-idx1-ubyte.gz": struct.pack(">II", 2049, n) + labels.astype(np.uint8).tobytes(),
        }
        for file, content in files.items():
            resources.append((file, web.put(f"{name}/{file}", gzip.compress(content))))
    monkeypatch.setattr(kind, "mirrors", [f"{web.url}gone/", f"{web.url}{name}/"])
    monkeypatch.setattr(kind, "resources", resources)
    return parts


def put_cifar(web, monkeypatch):
    from torchvision.datasets import CIFAR10

    pixels, labels = made(50, 32, 32, 3)
    test = made(20, 32, 32, 3)
    batches = {f"data_batch_{i + 1}": (pixels[i * 10 :][:10], labels[i * 10 :][:10]) for i in range(5)}
    batches["test_batch"] = test
    content = {
        name: pickle.dumps({"data": x.transpose(0, 3, 1, 2).reshape(len(x), -1), "labels": y.tolist()}, protocol=2)
        for name, (x, y) in batches.items()
    }
    content["batches.meta"] = pickle.dumps({"label_names": ANIMALS}, protocol=2)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name in [*sorted(content, reverse=True), "readme.html"]:
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content.get(name, b""))
            archive.addfile(member, io.BytesIO(content.get(name, b"")))
    md5 = {name: hashlib.md5(text).hexdigest() for name, text in content.items()}
    monkeypatch.setattr(CIFAR10, "url", f"{web.url}cifar-10-python.tar.gz")
    monkeypatch.setattr(CIFAR10, "tgz_md5", web.put("cifar-10-python.tar.gz", packed.getvalue()))
    monkeypatch.setattr(CIFAR10, "train_list", [[f"data_batch_{i}", md5[f"data_batch_{i}"]] for i in range(1, 6)])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", md5["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": md5["batches.meta"]})
    return {"train": (pixels, labels), "test": test}


def put_svhn(web, monkeypatch):
    from torchvision.datasets import SVHN

    parts, known = {}, {}
    for part, n in (("train", 40), ("test", 20)):
        pixels, labels = parts[part] = made(n, 32, 32, 3)
        file, content = f"{part}_32x32.mat", io.BytesIO()
        y = np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]
        scipy.io.savemat(content, {"X": pixels.transpose(1, 2, 3, 0), "y": y})
        known[part] = [web.url + file, file, web.put(file, content.getvalue())]
    monkeypatch.setattr(SVHN, "split_list", known)
    return parts


PUT = {
    "mnist": put_mnist,
    "fashion_mnist": functools.partial(put_mnist, name="FashionMNIST"),
    "cifar10": put_cifar,
    "svhn": put_svhn,
}
CLASSES = {"mnist": list("0123456789"), "fashion_mnist": GARMENTS, "cifar10": ANIMALS, "svhn": list("0123456789")}


def of(name, **options):
    """The catalogue's entry with other options."""
    entry = sets.catalogue()[name]
    return entry.model_copy(update={"options": {**entry.options, **options}})


# ----------------------------------------------------------------------------------------- torchvision


@pytest.mark.parametrize("part", ["train", "test", "both"])
@pytest.mark.parametrize("name", PUT)
def test_every_pixel_and_label_of_a_torchvision_set_is_what_was_written(web, monkeypatch, capfd, name, part):
    parts = PUT[name](web, monkeypatch)
    entry = of(name, part=part)
    assert not entry.present()
    images = sets.load(entry)
    wanted = ("train", "test") if part == "both" else (part,)
    assert np.array_equal(images.images, np.concatenate([parts[p][0] for p in wanted]))
    assert np.array_equal(images.labels, np.concatenate([parts[p][1] for p in wanted]))
    assert list(images.classes) == CLASSES[name]
    assert list(images.paths) == [f"{p}/{i:05d}" for p in wanted for i in range(len(parts[p][0]))]
    assert (images.name, images.group, images.show_pixels) == (name, None, entry.show_pixels)
    told = [line for line in capfd.readouterr().err.splitlines() if line.startswith("downloading ")]
    assert len(told) == sum(not path.startswith("/gone/") for path in web.asked)
    assert "B) from http" in told[0] or "bytes) from http" in told[0]
    # and from now on without the web
    before = len(web.asked)
    monkeypatch.setenv("INTRINSIC_OFFLINE", "1")
    assert entry.present()
    assert sets.load(entry).content_hash() == images.content_hash()
    assert len(web.asked) == before


@pytest.mark.parametrize("name", PUT)
def test_offline_an_absent_set_is_refused_in_a_sentence(web, monkeypatch, tmp_path, name):
    PUT[name](web, monkeypatch)
    monkeypatch.setenv("INTRINSIC_OFFLINE", "1")
    with pytest.raises(Offline, match=r"is not there, and INTRINSIC_OFFLINE is set") as raised:
        sets.load(name)
    assert "\n" not in str(raised.value)
    assert web.asked == []
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_archives_put_there_by_hand_are_unpacked_without_the_web(web, monkeypatch, tmp_path, name):
    parts = PUT[name](web, monkeypatch)
    place = tmp_path / "data" / ("MNIST/raw" if name == "mnist" else "")
    place.mkdir(parents=True)
    for file in web.folder.rglob("*.gz"):
        (place / file.name).write_bytes(file.read_bytes())
    assert sets.catalogue()[name].present()
    monkeypatch.setenv("INTRINSIC_OFFLINE", "1")
    assert np.array_equal(sets.load(name).images, parts["train"][0])


def test_what_is_missing_of_a_set_is_unpacked_anew(web, monkeypatch, tmp_path):
    parts = put_cifar(web, monkeypatch)
    sets.load("cifar10")
    folder = tmp_path / "data" / "cifar-10-batches-py"
    (folder / "data_batch_3").unlink()
    assert np.array_equal(sets.load("cifar10").images, parts["train"][0])
    assert len(web.asked) == 1
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"]
    )


def test_where_all_addresses_fail_each_is_named(web, monkeypatch):
    put_mnist(web, monkeypatch)
    for file in (web.folder / "MNIST").iterdir():
        file.unlink()
    with pytest.raises(DownloadFailed, match=r"gone/train-images.* 404 .*; and .*MNIST/train-images.* 404 "):
        sets.load("mnist")


def test_a_file_of_cifar_that_is_not_the_published_one_is_never_unpickled(web, monkeypatch, tmp_path):
    class Harm:
        def __reduce__(self):
            return Path.touch, (tmp_path / "harm",)

    put_cifar(web, monkeypatch)
    sets.load("cifar10")
    for name in ("data_batch_1", "test_batch", "batches.meta"):
        file = tmp_path / "data" / "cifar-10-batches-py" / name
        good = file.read_bytes()
        file.write_bytes(pickle.dumps(Harm()))
        with pytest.raises(sets.BadSource, match=r"cifar-10-batches-py cannot be read .*fetched anew"):
            sets.load("cifar10")
        file.write_bytes(good)
    assert not (tmp_path / "harm").exists()
    pickle.loads(pickle.dumps(Harm()))  # what would have happened
    assert (tmp_path / "harm").exists()


@pytest.mark.parametrize("cut", [8, 2000, 28 * 28 * 39 + 16])
def test_a_damaged_file_of_mnist_is_refused(web, monkeypatch, tmp_path, cut):
    put_mnist(web, monkeypatch)
    sets.load("mnist")
    file = tmp_path / "data" / "MNIST" / "raw" / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(sets.BadSource, match=r"MNIST in .*raw cannot be read .*remove them"):
        sets.load("mnist")


def test_an_old_pickled_copy_of_mnist_is_not_read(web, monkeypatch, tmp_path):
    parts = put_mnist(web, monkeypatch)
    old = tmp_path / "data" / "MNIST" / "processed"
    old.mkdir(parents=True)
    for name in ("training.pt", "test.pt"):
        (old / name).write_bytes(b"not this")
    assert np.array_equal(sets.load("mnist").images, parts["train"][0])


# -------------------------------------------------------------------------------------------- MedMNIST


def put_medmnist(web, monkeypatch, name, size=28, counts=(20, 10, 10), change=None):
    """A made-up file of a MedMNIST set; returns {part: (images, labels (n, columns))}."""
    from medmnist import INFO

    info, flag = INFO[name], "" if size == 28 else f"_{size}"
    several, k = info["task"].startswith("multi-label"), len(info["label"])
    parts, arrays = {}, {}
    for part, n in zip(("train", "val", "test"), counts, strict=True):
        pixels, labels = made(n, size, size, *((3,) if info["n_channels"] == 3 else ()), classes=2 if several else k)
        labels = np.random.default_rng(1).integers(0, 2, (n, k)) if several else labels[:, None]
        parts[part] = pixels, labels.astype(np.uint8)
        arrays |= {f"{part}_images": pixels, f"{part}_labels": parts[part][1]}
    content = io.BytesIO()
    np.savez(content, **{**arrays, **(change or {})})
    file = f"{name}{flag}.npz"
    monkeypatch.setitem(info, f"MD5{flag}", web.put(file, content.getvalue()))
    monkeypatch.setitem(info, f"url{flag}", f"{web.url}{file}?download=1")
    return parts


@pytest.mark.parametrize("part", ["train", "val", "test", "all"])
@pytest.mark.parametrize(
    ("name", "size"), [("pathmnist", 28), ("organamnist", 28), ("pneumoniamnist", 64), ("retinamnist", 28)]
)
def test_every_pixel_and_label_of_a_medmnist_set_is_what_was_written(web, monkeypatch, name, size, part):
    from medmnist import INFO

    parts = put_medmnist(web, monkeypatch, name, size, counts=(24, 12, 13))
    entry = of(name, size=size, part=part)
    assert not entry.present()
    images = sets.load(entry)
    wanted = ("train", "val", "test") if part == "all" else (part,)
    assert np.array_equal(images.images, np.concatenate([parts[p][0] for p in wanted]))
    assert np.array_equal(images.labels, np.concatenate([parts[p][1][:, 0] for p in wanted]))
    assert list(images.classes) == [text for _, text in sorted(INFO[name]["label"].items(), key=lambda i: int(i[0]))]
    assert list(images.paths) == [f"{p}/{i:05d}" for p in wanted for i in range(len(parts[p][0]))]
    assert images.ordered == (name == "retinamnist")
    assert entry.present()
    monkeypatch.setenv("INTRINSIC_OFFLINE", "1")
    assert sets.load(entry).content_hash() == images.content_hash()
    assert len(web.asked) == 1


def test_malignant_is_label_1_of_breastmnist(web, monkeypatch):
    parts = put_medmnist(web, monkeypatch, "breastmnist")
    images = sets.load("breastmnist")
    assert images.classes == ("normal or benign", "malignant")
    assert np.array_equal(images.labels, 1 - np.concatenate([labels[:, 0] for _, labels in parts.values()]))


@pytest.mark.parametrize(("finding", "column"), [("effusion", 2), ("atelectasis", 0), ("hernia", 13)])
def test_each_finding_of_chestmnist_can_be_the_label(web, monkeypatch, finding, column):
    parts = put_medmnist(web, monkeypatch, "chestmnist")
    entry = sets.catalogue()["chestmnist"]
    assert entry.labels.column == "effusion"
    rule = entry.labels.model_copy(update={"column": finding})
    images = sets.load(entry.model_copy(update={"labels": rule}))
    assert np.array_equal(images.labels, np.concatenate([labels[:, column] for _, labels in parts.values()]))


def test_chestmnist_without_a_finding_asks_for_one(web, monkeypatch):
    put_medmnist(web, monkeypatch, "chestmnist")
    entry = sets.catalogue()["chestmnist"].model_copy(update={"labels": sets.LabelRule()})
    with pytest.raises(sets.BadRule, match="give a column"):
        sets.load(entry)


def test_a_file_of_ones_own_is_used_with_a_warning(web, monkeypatch, tmp_path):
    mine = put_medmnist(web, monkeypatch, "breastmnist", counts=(6, 4, 4))
    (tmp_path / "data" / "medmnist").mkdir(parents=True)
    (tmp_path / "data" / "medmnist" / "breastmnist.npz").write_bytes((web.folder / "breastmnist.npz").read_bytes())
    put_medmnist(web, monkeypatch, "breastmnist")
    with pytest.warns(UserWarning, match=r"breastmnist\.npz has not the md5 .*another version"):
        images = sets.load("breastmnist")
    assert np.array_equal(images.images, np.concatenate([pixels for pixels, _ in mine.values()]))
    assert web.asked == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"val_images": np.zeros((10, 28, 28))}, "float64"),
        ({"val_images": np.zeros((10, 29, 28), np.uint8)}, r"\(10, 29, 28\)"),
        ({"val_images": np.zeros((10, 28, 28, 4), np.uint8)}, r"\(10, 28, 28, 4\)"),
        ({"val_labels": np.zeros((9, 1), np.uint8)}, "10 images have labels of shape"),
        ({"val_labels": np.zeros((10, 2), np.uint8)}, r"val_labels has shape \(10, 2\)"),
        ({"val_labels": np.full((10, 1), 2, np.uint8)}, "labels run from 2 to 2"),
        ({"val_labels": np.full((10, 1), 0.5)}, "float64"),
        ({"val_labels": np.array([[{}]] * 10)}, "pickle"),
    ],
)
def test_a_file_that_is_no_such_set_is_refused(web, monkeypatch, change, message):
    put_medmnist(web, monkeypatch, "breastmnist", change=change)
    with pytest.raises(sets.BadSource, match=rf"breastmnist\.npz is no file of breastmnist at 28 .*{message}.*remove"):
        sets.load("breastmnist")


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04 cut"])
def test_a_file_that_is_no_archive_is_refused(web, monkeypatch, tmp_path, content):
    put_medmnist(web, monkeypatch, "breastmnist")
    (tmp_path / "data" / "medmnist").mkdir(parents=True)
    (tmp_path / "data" / "medmnist" / "breastmnist.npz").write_bytes(content)
    with (
        pytest.warns(UserWarning, match="md5"),
        pytest.raises(sets.BadSource, match=r"breastmnist\.npz is no file of breastmnist"),
    ):
        sets.load("breastmnist")


# --------------------------------------------------------------------------------------------- entries


@pytest.mark.parametrize("flag", MEDMNIST)
def test_an_entry_says_of_a_medmnist_set_what_the_package_says(web, flag):
    from medmnist import INFO

    entry, info = sets.catalogue()[f"{flag}mnist"], INFO[f"{flag}mnist"]
    assert entry.licence.startswith(f"{info['license']} ")
    assert (entry.domain, entry.channels, entry.size) == ("medical", info["n_channels"], 28)
    assert entry.options["dataset"] == f"{flag}mnist"
    n = sum(info["n_samples"].values()) if entry.options["part"] == "all" else info["n_samples"]["train"]
    assert entry.about.startswith(f"{n:,} ")
    if flag == "chest":
        assert all(finding in entry.about for finding in info["label"].values())
    elif entry.labels.mapping() is not None:
        parts = [part for values in entry.labels.mapping().values() for part in values]
        assert sorted(parts) == sorted(info["label"].values())


def test_every_entry_of_a_packaged_set_is_complete(web):
    entries = sets.catalogue()
    names = ["mnist", "fashion_mnist", "cifar10", "svhn", "imagenet", *(f"{flag}mnist" for flag in MEDMNIST)]
    for name in names:
        entry = entries[name]
        texts = entry.title, entry.modality, entry.about, entry.beware, entry.source, entry.licence, entry.citation
        assert min(map(len, texts)) > 2
        assert entry.size
        assert entry.channels
        assert entry.obtain
        assert entry.place().is_relative_to(Path(entries["mnist"].place()))
        assert not entry.present()
    assert not entries["imagenet"].show_pixels


@pytest.mark.parametrize("name", ["mnist", "cifar10", "svhn"])
def test_pairs_are_drawn_from_the_classes_that_the_set_has_when_read(name):
    assert sets.catalogue()[name].pairs.values == CLASSES[name]


# ----------------------------------------------------------------------------------------- class pairs


def test_pairs_are_drawn_without_repetition_in_one_order_a_seed():
    every = Pairs(count=45, seed=3, values=CLASSES["mnist"]).drawn()
    assert sorted(every) == [(a, b) for a in "0123456789" for b in "0123456789" if a < b]
    assert every != sorted(every)
    for count in (1, 5, 44):
        assert Pairs(count=count, seed=3, values=CLASSES["mnist"]).drawn() == every[:count]
    assert Pairs(count=45, seed=4, values=CLASSES["mnist"]).drawn() != every
    order = np.random.default_rng(3).permutation(45)  # as documented
    assert every == [sorted(every)[i] for i in order]


def test_pairs_of_places_are_of_different_classes():
    pairs = Pairs(count=200, seed=0, values=1000).drawn()
    places = [tuple(int(name.removeprefix("#")) for name in pair) for pair in pairs]
    assert all(0 <= a < b < 1000 for a, b in places)
    assert len(set(places)) == 200


@pytest.mark.parametrize("name", ["mnist", "cifar10", "svhn", "imagenet"])
def test_a_set_with_pairs_stands_before_five_entries_of_two_classes(name):
    entries = sets.catalogue()
    parent, names = entries[name], list(entries)
    at = names.index(name)
    assert names[at + 1 : at + 6] == [f"{name}-pair{i}" for i in range(1, 6)]
    for pair, (a, b) in zip(names[at + 1 : at + 6], parent.pairs.drawn(), strict=True):
        entry = entries[pair]
        assert entry.labels.pair == (a, b)
        assert entry.title == f"{parent.title}: {a} against {b}"
        assert (entry.parent, entry.family, parent.parent) == (name, parent.family or name, "")
        same = parent.model_dump(exclude={"name", "title", "labels", "family", "parent", "pairs"})
        assert entry.model_dump(include=set(same)) == same


def test_a_pair_holds_exactly_the_images_of_its_two_classes(web, monkeypatch):
    pixels, labels = put_cifar(web, monkeypatch)["train"]
    for i in range(1, 6):
        images = sets.load(f"cifar10-pair{i}")
        a, b = (ANIMALS.index(name) for name in images.classes)
        kept = np.isin(labels, [a, b])
        assert np.array_equal(images.images, pixels[kept])
        assert np.array_equal(images.labels, (labels[kept] == b).astype(int))


@pytest.fixture
def kinds(tmp_path):
    """Four class folders, one image each, whose grey level is the folder's place in sorted order."""
    for level, name in enumerate(["n01", "n02", "n10", "n2"]):
        (tmp_path / "kinds" / name).mkdir(parents=True)
        Image.fromarray(np.full((4, 4), level, np.uint8)).save(tmp_path / "kinds" / name / "a.png")
    fields = {key: key for key in ("title", "about", "beware", "source", "licence")}
    return {**fields, "domain": "natural", "adapter": "folder", "location": str(tmp_path / "kinds")}


def test_places_count_the_sorted_class_folders(tmp_path, monkeypatch, kinds):
    monkeypatch.setenv("INTRINSIC_CACHE", str(tmp_path / "cache"))
    (tmp_path / "sets.yaml").write_text(yaml.safe_dump({"kinds": {**kinds, "pairs": {"count": 6, "values": 4}}}))
    entries = sets.catalogue(tmp_path / "sets.yaml")
    assert list(entries) == ["kinds", *(f"kinds-pair{i}" for i in range(1, 7))]
    seen = set()
    for entry in list(entries.values())[1:]:
        images = sets.load(entry)
        levels = [int(name.removeprefix("#")) for name in entry.labels.pair]
        assert images.images[:, 0, 0].tolist() == levels
        assert images.classes == tuple(["n01", "n02", "n10", "n2"][level] for level in levels)
        seen.add(tuple(levels))
    assert len(seen) == 6
    beyond = entries["kinds"].model_copy(update={"labels": sets.LabelRule(pair=["#0", "#4"])})
    with pytest.raises(sets.BadRule, match="class #4, and there are 4, #0 to #3"):
        sets.load(beyond)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pairs": {"count": 7, "values": 4}}, "4 classes make 6 pairs, and 7"),
        ({"pairs": {"count": 0, "values": 4}}, "pairs.count"),
        ({"pairs": {"values": ["a", "b", "a"]}}, "named twice"),
        ({"pairs": {"values": ["a"]}}, "pairs.values"),
        ({"pairs": {"values": 4}, "labels": {"classes": {"a": ["n01"], "b": ["n02"]}}}, "classes and pair"),
        ({"adapter": "medmnist", "options": {"dataset": "breastmnist", "size": 32}}, "options of adapter medmnist"),
        ({"adapter": "torchvision", "options": {"dataset": "STL10"}}, "options of adapter torchvision.*MNIST"),
        ({"adapter": "torchvision", "options": {"dataset": "MNIST"}, "location": None}, "needs a location"),
    ],
)
def test_an_entry_that_cannot_be_is_refused(tmp_path, kinds, fields, message):
    (tmp_path / "sets.yaml").write_text(yaml.safe_dump({"kinds": {**kinds, **fields}}))
    with pytest.raises(sets.BadCatalogue, match=message):
        sets.catalogue(tmp_path / "sets.yaml")


@pytest.mark.parametrize("names", [("kinds", "kinds-pair2"), ("kinds-pair2", "kinds")])
def test_a_set_named_as_a_pair_is_refused(tmp_path, kinds, names):
    pairs = {"kinds": {**kinds, "pairs": {"count": 2, "values": 4}}, "kinds-pair2": kinds}
    text = yaml.safe_dump({name: pairs[name] for name in names}, sort_keys=False)
    (tmp_path / "sets.yaml").write_text(text)
    with pytest.raises(sets.BadCatalogue, match="'kinds-pair2' is the name of an image set and of a pair"):
        sets.catalogue(tmp_path / "sets.yaml")
