"""Image sets that torchvision and medmnist know: fetched when first read, then read from their own files.

Addresses, checksums and class names are those that the installed package states.
"""

import gzip
import pickle
import shutil
import tarfile
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import pandas as pd

from intrinsic.images.adapters import Found, Options
from intrinsic.images.downloads import DownloadFailed, Offline, checksum, fetch
from intrinsic.images.sets import BadSource, reason

DIGITS = tuple("0123456789")


class PackagedOptions(Options):
    """Options of an adapter that fetches what is not there."""

    def present(self, place: Path) -> bool:
        """Whether all is there to read the set without a download."""
        raise NotImplementedError


# -------------------------------------------------------------------------------------------- torchvision


class TorchvisionOptions(PackagedOptions):
    """dataset: a class of torchvision.datasets; part: the official training set, test set, or one after the other."""

    dataset: Literal["MNIST", "FashionMNIST", "CIFAR10", "SVHN"]
    part: Literal["train", "test", "both"] = "train"

    def parts(self) -> tuple[str, ...]:
        return ("train", "test") if self.part == "both" else (self.part,)

    def files(self, place: Path) -> list[Path]:
        """What torchvision reads."""
        if self.dataset == "SVHN":
            return [place / f"{part}_32x32.mat" for part in self.parts()]
        if self.dataset == "CIFAR10":
            names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"]
            return [place / "cifar-10-batches-py" / name for name in names]
        stems = ["train" if part == "train" else "t10k" for part in self.parts()]
        names = [f"{stem}-{kind}-ubyte" for stem in stems for kind in ("images-idx3", "labels-idx1")]
        return [place / self.dataset / "raw" / name for name in names]

    def present(self, place: Path) -> bool:
        """Whether the files are there, or the archives that hold them."""
        if self.dataset == "CIFAR10" and (place / "cifar-10-python.tar.gz").is_file():
            return True
        return all(f.is_file() or f.with_name(f"{f.name}.gz").is_file() for f in self.files(place))


def torchvision(path: Path, options: TorchvisionOptions, progress: bool = False) -> Found:
    """A set of torchvision.datasets below `path`, laid out as torchvision does; images are called PART/NUMBER."""
    from torchvision import datasets

    kind = getattr(datasets, options.dataset)
    get, read = _TORCHVISION[options.dataset]
    absent = [file for file in options.files(path) if not file.is_file()]
    if absent:
        get(kind, path, absent)
    images, labels, names = [], [], []
    for part in options.parts():
        try:
            pixels, targets, classes = read(kind, path, part)
            _check(pixels, targets[:, None], len(classes), None)
        except _READ_ERRORS as error:
            where = options.files(path)[0].parent
            raise BadSource(
                f"the files of {options.dataset} in {where} cannot be read ({reason(error)}), so they are damaged or "
                "others: remove them, and they are fetched anew"
            ) from None
        images.append(pixels)
        labels.append(np.asarray(classes)[targets])
        names += [f"{part}/{i:05d}" for i in range(len(pixels))]
    table = pd.DataFrame({"path": names, "label": np.concatenate(labels)})
    return Found(table, label="label", classes=tuple(classes), images=np.concatenate(images))


def _get_mnist(kind, path: Path, absent: Iterable[Path]) -> None:
    """The idx files that are not there, each from its own .gz file."""
    checksums = dict(kind.resources)
    for file in absent:
        name = f"{file.name}.gz"
        archive = _fetch([mirror + name for mirror in kind.mirrors], file.with_name(name), checksums[name])
        with gzip.open(archive) as packed:
            _unpack(packed, file)


def _read_mnist(kind, path: Path, part: str):
    """By torchvision's readers of idx files; its class would prefer an old pickled copy where there is one."""
    from torchvision.datasets.mnist import read_image_file, read_label_file

    stem = path / kind.__name__ / "raw" / ("train" if part == "train" else "t10k")
    pixels = read_image_file(f"{stem}-images-idx3-ubyte").numpy()
    targets = read_label_file(f"{stem}-labels-idx1-ubyte").numpy()
    return pixels, targets, DIGITS if kind.__name__ == "MNIST" else tuple(kind.classes)


def _get_cifar(kind, path: Path, absent: Iterable[Path]) -> None:
    archive = _fetch([kind.url], path / kind.filename, kind.tgz_md5)
    wanted = {f"{kind.base_folder}/{file.name}": file for file in absent}
    with tarfile.open(archive, "r|gz") as packed:
        for member in packed:
            if member.isfile() and member.name in wanted:
                _unpack(packed.extractfile(member), wanted[member.name])


def _read_cifar(kind, path: Path, part: str):
    """By torchvision, which unpickles a batch only where its md5 is right."""
    read = kind(path, train=part == "train", download=False)
    return np.ascontiguousarray(read.data), np.asarray(read.targets), tuple(read.classes)


def _get_svhn(kind, path: Path, absent: Iterable[Path]) -> None:
    known = {name: (url, md5) for url, name, md5 in kind.split_list.values()}
    for file in absent:
        url, md5 = known[file.name]
        _fetch([url], file, md5)


def _read_svhn(kind, path: Path, part: str):
    read = kind(path, split=part, download=False)
    return np.ascontiguousarray(read.data.transpose(0, 2, 3, 1)), np.asarray(read.labels), DIGITS


_TORCHVISION: dict[str, tuple[Callable, Callable]] = {
    "MNIST": (_get_mnist, _read_mnist),
    "FashionMNIST": (_get_mnist, _read_mnist),
    "CIFAR10": (_get_cifar, _read_cifar),
    "SVHN": (_get_svhn, _read_svhn),
}
_READ_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    RuntimeError,
    AssertionError,
    NotImplementedError,
    zlib.error,
    zipfile.BadZipFile,
    pickle.UnpicklingError,
)


# ------------------------------------------------------------------------------------------------ MedMNIST


class MedmnistOptions(PackagedOptions):
    """dataset and size: which file of MedMNIST; part: of its own split, or all of it, one after the other."""

    dataset: Literal[
        "pathmnist",
        "chestmnist",
        "dermamnist",
        "octmnist",
        "pneumoniamnist",
        "retinamnist",
        "breastmnist",
        "bloodmnist",
        "tissuemnist",
        "organamnist",
        "organcmnist",
        "organsmnist",
    ]
    size: Literal[28, 64, 128, 224] = 28
    part: Literal["train", "val", "test", "all"] = "all"

    def suffix(self) -> str:
        return "" if self.size == 28 else f"_{self.size}"

    def file(self, place: Path) -> Path:
        return place / f"{self.dataset}{self.suffix()}.npz"

    def present(self, place: Path) -> bool:
        return self.file(place).is_file()


def medmnist(path: Path, options: MedmnistOptions, progress: bool = False) -> Found:
    """A set of MedMNIST, from its .npz file in the folder `path`; images are called PART/NUMBER.

    The label is the class; of a set with several findings an image, each finding is a column of 0 and 1 under its own
    name, and a label rule says which one counts.
    """
    from medmnist import INFO  # seconds

    info = INFO[options.dataset]
    file, md5 = options.file(path), info[f"MD5{options.suffix()}"]
    if not file.is_file():
        _fetch([info[f"url{options.suffix()}"]], file, md5)
    elif checksum(file, "md5") != md5:
        warnings.warn(
            f"{file} has not the md5 {md5} of the published file, so it is another version: its images are used as "
            "they are; remove it to have the published ones fetched",
            stacklevel=2,
        )
    classes = tuple(info["label"][str(i)] for i in range(len(info["label"])))
    several = info["task"].startswith("multi-label")
    images, labels, names = [], [], []
    try:
        with np.load(file, allow_pickle=False) as archive:
            for part in ("train", "val", "test") if options.part == "all" else (options.part,):
                pixels, found = archive[f"{part}_images"], archive[f"{part}_labels"]
                _check(pixels, found, 2 if several else len(classes), options.size)
                if found.shape[1] != (len(classes) if several else 1):
                    raise ValueError(f"{part}_labels has shape {found.shape}")
                images.append(pixels)
                labels.append(found)
                names += [f"{part}/{i:05d}" for i in range(len(pixels))]
        pixels, found = np.concatenate(images), np.concatenate(labels)
    except _READ_ERRORS as error:
        raise BadSource(
            f"{file} is no file of {options.dataset} at {options.size} pixels ({reason(error)}): remove it, and it is "
            "fetched anew"
        ) from None
    if several:
        table = pd.DataFrame({"path": names, **{name: found[:, i] for i, name in enumerate(classes)}})
        return Found(table, images=pixels)
    table = pd.DataFrame({"path": names, "label": np.asarray(classes)[found[:, 0]]})
    return Found(table, label="label", classes=classes, images=pixels)


# --------------------------------------------------------------------------------------------------- files


def _fetch(urls: list[str], target: Path, md5: str) -> Path:
    """The file from the first address that has it."""
    failures = []
    for url in urls:
        try:
            return fetch(url, target, md5=md5)
        except Offline:
            raise
        except DownloadFailed as error:
            failures.append(str(error))
    raise DownloadFailed("; and ".join(failures))


def _unpack(stream: BinaryIO, file: Path) -> None:
    """A file written from a stream, and there only once it is whole."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=file.parent) as drafts:
        draft = Path(drafts) / file.name
        with draft.open("wb") as out:
            shutil.copyfileobj(stream, out)
        draft.replace(file)


def _check(pixels: np.ndarray, labels: np.ndarray, n_labels: int, size: int | None) -> None:
    """Raises ValueError for arrays that are no images with labels 0 to n_labels - 1, at size x size pixels if given."""
    if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4) or (pixels.ndim == 4 and pixels.shape[3] != 3):
        raise ValueError(f"the images are {pixels.dtype} of shape {pixels.shape}")
    if size is not None and pixels.shape[1:3] != (size, size):
        raise ValueError(f"the images have shape {pixels.shape}")
    if labels.ndim != 2 or len(labels) != len(pixels) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"{len(pixels)} images have labels of shape {labels.shape}, {labels.dtype}")
    if labels.size and not 0 <= labels.min() <= labels.max() < n_labels:
        raise ValueError(f"labels run from {labels.min()} to {labels.max()}, outside 0 to {n_labels - 1}")


PACKAGED = {"torchvision": (TorchvisionOptions, torchvision), "medmnist": (MedmnistOptions, medmnist)}
