"""Everything that people will feed it: what is refused in one sentence that names the file, and what works."""

import errno
import re
import struct
import zlib

import joblib
import numpy as np
import pytest
from PIL import Image

from intrinsic import cli, images
from intrinsic.images import files


def noise(seed, shape=(8, 8)):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def fill(root, n=3, classes=("a", "b"), shape=(8, 8)):
    """n pictures in each class folder, no two equal."""
    for i, name in enumerate(classes):
        (root / name).mkdir(parents=True, exist_ok=True)
        for j in range(n):
            Image.fromarray(noise(1000 * i + j, shape)).save(root / name / f"{j}.png")
    return root


def bomb(side):
    """A PNG that says it has side x side pixels and holds none."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def written(name, content):
    """A folder of pictures with one more file in class b."""

    def make(root, monkeypatch):
        fill(root)
        file = root / "b" / name
        if isinstance(content, bytes):
            file.write_bytes(content)
        elif isinstance(content, np.ndarray):
            Image.fromarray(content).save(file)
        else:
            content(file)
        return root

    return make


def empty_folder(root, monkeypatch):
    root.mkdir()
    return root


def one_class(root, monkeypatch):
    return fill(root, classes=("only",))


def empty_class(root, monkeypatch):
    fill(root)
    (root / "c").mkdir()
    return root


def cut(file):
    file.write_bytes((file.parent / "0.png").read_bytes()[:60])


def link_to_nowhere(file):
    file.symlink_to(file.parent / "nowhere.png")


def folder_named_as_picture(root, monkeypatch):
    (fill(root) / "x.png").mkdir()
    (root / "list.csv").write_text("path,label\na/0.png,0\nx.png,1\n")
    return root / "list.csv"


def vanishing(root, monkeypatch):
    """A file that is listed and gone once it is to be read."""
    fill(root)
    read = files.read

    def late(*arguments, **options):
        (root / "b" / "1.png").unlink()
        return read(*arguments, **options)

    monkeypatch.setattr(files, "read", late)
    return root


def catalogued(labels="", group="", table="path,finding\na/0.png,yes\nb/0.png,no\n", extra=""):
    """A catalogue entry `mine` that lists its pictures in a table."""

    def make(root, monkeypatch):
        fill(root)
        (root / "list.csv").write_text(table)
        catalogue = root / "sets.yaml"
        catalogue.write_text(
            "mine:\n  title: t\n  domain: medical\n  adapter: table\n  location: list.csv\n  about: t\n  beware: t\n"
            f"  source: t\n  licence: t\n{labels}{group}{extra}"
        )
        monkeypatch.setenv("INTRINSIC_CATALOGUE", str(catalogue))
        return "mine"

    return make


# what it is, how it is made, what the message must hold
REFUSED = {
    "empty folder": (empty_folder, r"set holds no folders"),
    "one class": (one_class, r"one class folder only, 'only'"),
    "class without picture": (empty_class, r"class folder .*/c holds no picture"),
    "no such path": (lambda root, m: root, r"set does not exist"),
    "file of no bytes": (written("x.png", b""), r"b/x\.png cannot be read as a picture .*1 of 7 files"),
    "text named as a picture": (written("x.jpg", b"hello"), r"b/x\.jpg cannot be read as a picture"),
    "truncated picture": (written("x.png", cut), r"b/x\.png cannot be read as a picture"),
    "decompression bomb": (written("x.png", bomb(12_000)), r"b/x\.png .*144000000"),
    "huge decompression bomb": (written("x.png", bomb(50_000)), r"b/x\.png .*1 of 7"),
    "broken link": (written("x.png", link_to_nowhere), r"b/x\.png is no regular file"),
    "folder named as a picture": (folder_named_as_picture, r"set/x\.png is no regular file"),
    "file that vanishes": (vanishing, r"b/1\.png does not exist; 1 of 6"),
    "mixed sizes": (written("x.png", noise(1, (5, 4))), r"1 of 7 .*8 x 8.*b/x\.png, 4 x 5"),
    "mixed channels": (written("x.png", noise(1, (8, 8, 3))), r"1 of 7 .*a/0\.png .*b/x\.png"),
    "16 bits read as 8": (written("x.png", noise(1).astype(np.uint16) * 9), r"b/x\.png holds grey levels .*8 bits"),
    "damaged DICOM": (written("x.dcm", b"\0" * 128 + b"DICM" + b"\1" * 9), r"b/x\.dcm .*1 of 7 files cannot be read"),
    "damaged NIfTI": (written("x.nii.gz", b"\x1f\x8b9"), r"b/x\.nii\.gz cannot be read as a NIfTI .*1 of 7 files"),
    "missing column": (catalogued("  labels: {column: label}\n"), r"'label'.* path, finding"),
    "missing column of the group": (
        catalogued("  labels: {column: finding}\n", "  group: {column: patient}\n"), r"'patient'"),
    "label not in the mapping": (
        catalogued("  labels: {column: finding, classes: {x: ['yes'], y: ['maybe']}}\n"),
        r"b/0\.png has the label 'no'"),
    "image without label": (
        catalogued("  labels: {column: finding}\n", table="path,finding\na/0.png,yes\nb/0.png,\n"),
        r"b/0\.png has no label"),
    "missing files of a table": (
        catalogued("  labels: {column: finding}\n", table="path,finding\na/0.png,yes\nb/7.png,no\nb/8.png,no\n"),
        r"b/7\.png does not exist; 2 of 3"),
    "YAML tags": (catalogued(extra="  citation: !!python/object/apply:os.getcwd []\n"), r"sets\.yaml is not plain"),
    "levels that say nothing": (
        catalogued("  labels: {column: finding}\n", extra="  levels: bright\n"), r"sets\.yaml.*'mine'.*'bright'"),
}  # fmt: skip


@pytest.mark.timeout(30)
@pytest.mark.parametrize("what", REFUSED)
def test_bad_input_is_refused_in_one_line_that_names_it(what, tmp_path, monkeypatch, capsys):
    make, message = REFUSED[what]
    source = make(tmp_path / "set", monkeypatch)
    code = cli.main(["measure", str(source)])
    out, error = capsys.readouterr()
    assert code == 1
    assert out == ""
    assert error.count("\n") == 1
    assert error.startswith("intrinsic measure: ")
    assert re.search(message, error)


def test_more_training_images_than_there_are_is_refused(tmp_path):
    with pytest.raises(images.TooFewImages, match=r"40 training images are 20 a class"):
        images.split(images.load(fill(tmp_path / "few")), 40, seed=0)


@pytest.mark.parametrize("what", ["text named as a picture", "file that vanishes", "broken link", "damaged DICOM"])
def test_files_that_cannot_be_read_are_left_out_and_listed_when_asked(what, tmp_path, monkeypatch):
    make, _ = REFUSED[what]
    loaded = images.load(make(tmp_path / "set", monkeypatch), skip_unreadable=True)
    ((path, why),) = loaded.unreadable
    assert path.startswith("b/")
    assert why
    assert "\n" not in why
    assert path not in loaded.paths
    assert loaded.counts() == {"a": 3, "b": 2 if what == "file that vanishes" else 3}


NAMES = ["with space", "Größe µ 脳", "<script>alert(1)<∕script>", "a'b\"c", "&amp;", "[red]x[/red]".replace("/", "∕")]


def test_any_name_is_text(tmp_path, capsys):
    root = fill(tmp_path / "плёнка №1 <b>", n=12, classes=NAMES)
    for folder in root.iterdir():
        (folder / "0.png").rename(folder / "<img src=x onerror=y>.png")
    loaded = images.load(root)
    assert sorted(loaded.classes) == sorted(NAMES)
    assert sum(path.endswith("/<img src=x onerror=y>.png") for path in loaded.paths) == len(NAMES)
    assert cli.main(["measure", str(root)]) == 0
    out, error = capsys.readouterr()
    assert not [line for line in re.split(r"[\r\n]", error) if line.strip() and not re.search("tile/s|s/tile", line)]
    assert all(name in out for name in NAMES)


def test_links_that_loop_change_nothing(tmp_path):
    root = fill(tmp_path / "set")
    plain = images.load(root)
    (root / "up").symlink_to("..")
    (root / "self").symlink_to("self")
    (root / "a" / "own").symlink_to(".")
    (root / "b" / "root").symlink_to(root)
    (root / "b" / "me.png").symlink_to("me.png")
    with pytest.raises(images.BadImageFile, match=r"b/me\.png is no regular file|b/me\.png cannot be opened"):
        images.load(root)
    (root / "b" / "me.png").unlink()
    assert images.load(root).content_hash() == plain.content_hash()


def test_a_cache_on_a_full_disk_warns_once_and_the_set_is_there(tmp_path, monkeypatch):
    root = fill(tmp_path / "set")
    plain = images.load(root)
    monkeypatch.setattr(files, "WORTH_CACHING", (1, 1))

    def full(*arguments, **arrays):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(joblib.numpy_pickle, "dump", full)
    with pytest.warns(Warning, match=r"No space left") as warned:
        loaded = images.load(root)
    assert len(warned) == 1
    assert loaded.content_hash() == plain.content_hash()
