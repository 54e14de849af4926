"""Sets of torchvision and MedMNIST: every pixel and label is what was written, offline is refused, damage is told."""

import functools
import gzip
import hashlib
import io
import pickle
import struct
import tarfile
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import scipy.io

from intrinsic import images as sets

GARMENTS = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]


ANIMALS = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


class Web:
    """A folder that is served."""

    def __init__(self, folder):
        self.folder = folder
        handler = functools.partial(SimpleHTTPRequestHandler, directory=str(folder))
        handler.log_message = lambda *args: None
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"

    def put(self, name, content):
        """A file to be served; returns its md5."""
        (self.folder / name).write_bytes(content)
        return hashlib.md5(content).hexdigest()


@pytest.fixture
def web(tmp_path, monkeypatch):
    for name, value in (("no_proxy", "127.0.0.1"), ("HOME", tmp_path / "home"), ("INTRINSIC_DATA", tmp_path / "data")):
        monkeypatch.setenv(name, str(value))
    for name in ("INTRINSIC_OFFLINE", "INTRINSIC_CATALOGUE"):
        monkeypatch.delenv(name, raising=False)
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


@pytest.mark.parametrize(("name", "part"), [("mnist", "both"), ("fashion_mnist", "train"), ("cifar10", "both"),
                                             ("svhn", "test")])  # fmt: skip
def test_every_pixel_and_label_of_a_torchvision_set_is_what_was_written(web, monkeypatch, name, part):
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
    monkeypatch.setenv("INTRINSIC_OFFLINE", "1")  # and from now on without the web
    assert entry.present()
    assert sets.load(entry).content_hash() == images.content_hash()


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


@pytest.mark.parametrize(
    ("name", "size", "part"), [("pathmnist", 28, "all"), ("pneumoniamnist", 64, "val"), ("retinamnist", 28, "all")]
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
    assert entry.present()
    monkeypatch.setenv("INTRINSIC_OFFLINE", "1")
    assert sets.load(entry).content_hash() == images.content_hash()


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


@pytest.mark.parametrize("name", ["mnist", "cifar10", "svhn", "breastmnist"])
def test_what_may_not_or_cannot_be_fetched_is_refused_in_a_sentence(web, monkeypatch, tmp_path, name):
    if name == "breastmnist":
        put_medmnist(web, monkeypatch, name)
    else:
        PUT[name](web, monkeypatch)
    monkeypatch.setenv("INTRINSIC_OFFLINE", "1")
    with pytest.raises(sets.BadSource, match="INTRINSIC_OFFLINE") as offline:
        sets.load(name)
    monkeypatch.delenv("INTRINSIC_OFFLINE")
    web.server.RequestHandlerClass = functools.partial(SimpleHTTPRequestHandler, directory="/nowhere")
    with pytest.raises(sets.BadSource, match="download") as failed:
        sets.load(name)
    assert "\n" not in f"{offline.value}{failed.value}"
    assert sets.catalogue()[name].whereabouts() == "downloads"


def test_a_file_that_is_not_the_published_one_is_never_unpickled(web, monkeypatch, tmp_path):
    put_cifar(web, monkeypatch)
    sets.load("cifar10")
    batch = tmp_path / "data" / "cifar-10-batches-py" / "data_batch_1"
    batch.write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path / "harm").encode() + b"'\ntR.")
    monkeypatch.setenv("INTRINSIC_OFFLINE", "1")
    with pytest.raises(sets.BadSource):
        sets.load("cifar10")
    assert not (tmp_path / "harm").exists()
