"""The cache of decoded images: content decides, and no state of the disk or other process gives a wrong pixel."""

import errno
import os
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from intrinsic.images import cache, files
from intrinsic.images.files import Reading, read

N = 12


@pytest.fixture(autouse=True)
def every_set_is_worth_caching(monkeypatch):
    monkeypatch.setattr(files, "WORTH_CACHING", (2, 10))


@pytest.fixture
def decoded(monkeypatch):
    """The names of files that were decoded, in any order."""
    names, decode = [], files._decode

    def counted(file, reading):
        names.append(file.name)
        return decode(file, reading)

    monkeypatch.setattr(files, "_decode", counted)
    return names


def fill(root, n=N, seed=0):
    root.mkdir(exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (n, 6, 5), dtype=np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(root / f"{i}.png")
    return pixels


def table(n=N, **columns):
    return pd.DataFrame({"path": [f"{i}.png" for i in range(n)], **columns})


def entries():
    return sorted(cache.folder().glob("*.images"))


def test_files_are_decoded_once(tmp_path, decoded):
    pixels = fill(tmp_path / "x")
    for times in (1, 1, 1):
        images, good, unreadable = read(tmp_path / "x", table(), Reading())
        assert np.array_equal(images, pixels)
        assert (good.all(), unreadable) == (True, ())
        assert len(decoded) == times * N
    assert len(entries()) == 1
    with pytest.raises(ValueError, match="read-only"):
        images[0, 0, 0] = 1


def test_content_decides_and_neither_name_nor_time_nor_place(tmp_path, decoded):
    pixels = fill(tmp_path / "x")
    read(tmp_path / "x", table(), Reading())
    (tmp_path / "x").rename(tmp_path / "y")
    for i in range(N):
        (tmp_path / "y" / f"{i}.png").rename(tmp_path / "y" / f"n{i}.png")
        os.utime(tmp_path / "y" / f"n{i}.png", (1, 1))
    renamed = table().assign(path=[f"n{i}.png" for i in range(N)])
    assert np.array_equal(read(tmp_path / "y", renamed, Reading())[0], pixels)
    assert len(decoded) == N
    file = tmp_path / "y" / "n3.png"
    held = file.stat()
    changed = 255 - pixels[3]
    Image.fromarray(changed).save(file)
    os.utime(file, ns=(held.st_atime_ns, held.st_mtime_ns))
    images = read(tmp_path / "y", renamed, Reading())[0]
    assert np.array_equal(images[3], changed)
    assert np.array_equal(images[4], pixels[4])


def test_all_that_decides_a_pixel_decides_the_entry(tmp_path, decoded):
    fill(tmp_path / "x")
    swapped = table().iloc[::-1].reset_index(drop=True)
    settings = ({}, {"size": 3}, {"pixel_range": "image"}, {"channels": 3}, {"levels": "full"})
    cases = [(table(), Reading(**setting)) for setting in settings]
    cases += [(swapped, Reading()), (table(frame=pd.array([0] * N, dtype="Int64")), Reading()), (table(11), Reading())]
    for rows, reading in cases:
        read(tmp_path / "x", rows, reading)
    assert len(entries()) == len(cases)
    before = len(decoded)
    for rows, reading in cases:
        read(tmp_path / "x", rows, reading)
    assert len(decoded) == before


def test_files_that_cannot_be_read_are_still_named_on_a_hit(tmp_path, decoded):
    pixels = fill(tmp_path / "x")
    (tmp_path / "x" / "4.png").write_bytes(b"damaged")
    (tmp_path / "x" / "7.png").unlink()
    first = read(tmp_path / "x", table(), Reading(), skip=True)
    again = read(tmp_path / "x", table(), Reading(), skip=True)
    assert len(decoded) == N
    for images, good, unreadable in (first, again):
        assert np.flatnonzero(~good).tolist() == [4, 7]
        assert np.array_equal(images, pixels[good])
        assert [name for name, _ in unreadable] == ["4.png", "7.png"]
    assert first[2] == again[2]
    with pytest.raises(files.BadImageFile, match=r"4\.png cannot be read.*2 of 12 files"):
        read(tmp_path / "x", table(), Reading())


@pytest.mark.parametrize("damage", ["short", "long", "pixel", "header", "empty", "text", "shape"])
def test_a_damaged_entry_is_removed_and_the_files_are_decoded_again(tmp_path, decoded, damage):
    pixels = fill(tmp_path / "x")
    read(tmp_path / "x", table(), Reading())
    (entry,) = entries()
    whole = entry.read_bytes()
    entry.write_bytes(
        {
            "short": whole[:-7],
            "long": whole + b"x",
            "pixel": whole[:-7] + bytes([whole[-7] ^ 1]) + whole[-6:],
            "header": whole[40:],
            "empty": b"",
            "text": b"[1]\n" + whole,
            "shape": whole.replace(b"[12, 6, 5]", b"[12, 5, 6]").replace(b'"crc32"', b'"crc33"'),
        }[damage]
    )
    with pytest.warns(UserWarning, match=f"{entry.name} cannot be used .* decoded again") as warned:
        images = read(tmp_path / "x", table(), Reading())[0]
    assert "\n" not in str(warned[0].message)
    assert np.array_equal(images, pixels)
    assert len(decoded) == 2 * N
    assert entry.read_bytes() == whole
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(tmp_path / "x", table(), Reading())
    assert len(decoded) == 2 * N


def test_a_file_that_changes_while_it_is_read_poisons_nothing(tmp_path, monkeypatch):
    pixels = fill(tmp_path / "x")
    digest = files._hash

    def changing(file):
        found = digest(file)
        if file.name == "5.png":  # after it was looked up, before it is decoded
            Image.fromarray(255 - pixels[5]).save(file.path)
        return found

    monkeypatch.setattr(files, "_hash", changing)
    assert np.array_equal(read(tmp_path / "x", table(), Reading())[0][5], 255 - pixels[5])
    monkeypatch.setattr(files, "_hash", digest)
    assert np.array_equal(read(tmp_path / "x", table(), Reading())[0][5], 255 - pixels[5])
    Image.fromarray(pixels[5]).save(tmp_path / "x" / "5.png")
    assert np.array_equal(read(tmp_path / "x", table(), Reading())[0], pixels)


def test_the_least_recently_used_entries_go_first(tmp_path, monkeypatch):
    array = np.zeros((1, 1024, 1024), np.uint8)
    monkeypatch.setenv("INTRINSIC_CACHE_GIB", str(3.5 / 1024))
    for i, name in enumerate("abc"):
        cache.store(name, array, {})
        os.utime(cache.folder() / f"{name}.images", (1000 + i, 1000 + i))
    assert cache.load("a") is not None  # used just now
    cache.store("d", array, {})
    assert [file.stem for file in entries()] == ["a", "c", "d"]
    cache.store("too large", np.zeros((4, 1024, 1024), np.uint8), {})
    assert [file.stem for file in entries()] == ["a", "c", "d"]


def test_a_limit_of_nothing_is_no_cache_and_one_that_is_no_number_is_refused(tmp_path, monkeypatch, decoded):
    fill(tmp_path / "x")
    monkeypatch.setenv("INTRINSIC_CACHE_GIB", "0")
    read(tmp_path / "x", table(), Reading())
    read(tmp_path / "x", table(), Reading())
    assert len(decoded) == 2 * N
    assert not cache.folder().exists()
    for text in ("much", "-1", "nan", "inf"):
        monkeypatch.setenv("INTRINSIC_CACHE_GIB", text)
        with pytest.raises(cache.BadCacheSetting, match=f"INTRINSIC_CACHE_GIB is '{text}'.*give GiB"):
            read(tmp_path / "x", table(), Reading())


def test_small_sets_are_not_kept(tmp_path, monkeypatch):
    fill(tmp_path / "x")
    monkeypatch.setattr(files, "WORTH_CACHING", (13, 2**20))
    read(tmp_path / "x", table(), Reading())
    assert not entries()
    monkeypatch.setattr(files, "WORTH_CACHING", (13, 1000))
    read(tmp_path / "x", table(), Reading())
    assert len(entries()) == 1


def test_only_drafts_left_behind_are_removed(tmp_path):
    cache.folder().mkdir(parents=True)
    old, new, other = (cache.folder() / name for name in ("old-1-a.draft", "new-2-b.draft", "notes.txt"))
    for file in (old, new, other):
        file.write_bytes(b"half")
    long_ago = time.time() - 2 * cache.STALE
    for file in (old, other):
        os.utime(file, (long_ago, long_ago))
    cache.store("a", np.zeros((1, 2, 2), np.uint8), {})
    assert sorted(file.name for file in cache.folder().iterdir()) == ["a.images", "new-2-b.draft", "notes.txt"]


@pytest.mark.parametrize("step", ["mkdir", "open", "fsync", "replace"])
def test_a_disk_that_is_full_or_read_only_warns_and_the_images_are_returned(tmp_path, monkeypatch, step):
    pixels = fill(tmp_path / "x")

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    if step in ("fsync", "replace"):
        monkeypatch.setattr(os, step, full)
    elif step == "mkdir":
        monkeypatch.setattr(Path, "mkdir", full)
    else:
        opened = Path.open
        monkeypatch.setattr(
            Path, "open", lambda path, mode="r", **o: (full if "x" in mode else opened)(path, mode, **o)
        )
    with pytest.warns(UserWarning, match=r"\.images .*No space left.*free some space.*INTRINSIC_CACHE") as warned:
        images = read(tmp_path / "x", table(), Reading())[0]
    monkeypatch.undo()
    assert "\n" not in str(warned[0].message)
    assert np.array_equal(images, pixels)
    assert not list(tmp_path.rglob("*.draft"))


def test_a_file_in_place_of_the_folder_warns(tmp_path, monkeypatch):
    pixels = fill(tmp_path / "x")
    (tmp_path / "taken").write_text("")
    monkeypatch.setenv("INTRINSIC_CACHE", str(tmp_path / "taken"))
    with pytest.warns(UserWarning, match="taken"):
        assert np.array_equal(read(tmp_path / "x", table(), Reading())[0], pixels)


RUN = """
import sys, resource
from pathlib import Path
import pandas as pd
from intrinsic.images import files
files.WORTH_CACHING = (2, 10)
if len(sys.argv) > 2:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
table = pd.DataFrame({"path": [f"{i}.png" for i in range(12)]})
for _ in range(3):
    images, _, _ = files.read(Path(sys.argv[1]), table, files.Reading())
    print(images.astype(int).sum())
"""


def test_a_write_that_the_system_cuts_short_leaves_nothing_behind(tmp_path):
    pixels = fill(tmp_path / "x")
    done = subprocess.run(
        [sys.executable, "-c", RUN, tmp_path / "x", "100"], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(pixels.astype(int).sum())] * 3
    assert "cannot be kept in" in done.stderr
    assert not list(cache.folder().iterdir())


def test_two_processes_at_once_share_one_entry(tmp_path):
    pixels = fill(tmp_path / "x")
    processes = [
        subprocess.Popen([sys.executable, "-c", RUN, tmp_path / "x"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    for process in processes:
        out, error = process.communicate(timeout=60)
        assert (process.returncode, error) == (0, b"")
        assert out.split() == [str(pixels.astype(int).sum()).encode()] * 3
    assert [file.suffix for file in cache.folder().iterdir()] == [".images"]


def test_an_entry_is_whole_whenever_it_is_there(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (50, 64, 64), dtype=np.uint8)
    stop = threading.Event()
    wrong = []

    def reader():
        while not stop.is_set():
            held = cache.load("a")
            if held is not None and not np.array_equal(held[0], array):
                wrong.append(held)

    threads = [threading.Thread(target=reader) for _ in range(2)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a half-written entry would warn
        for thread in threads:
            thread.start()
        for _ in range(20):
            cache.store("a", array, {})
        stop.set()
        for thread in threads:
            thread.join()
    assert not wrong
    assert np.array_equal(cache.load("a")[0], array)


def test_an_entry_in_use_outlives_its_removal(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (5, 64, 64), dtype=np.uint8)
    cache.store("a", array, {})
    images, _ = cache.load("a")
    (cache.folder() / "a.images").unlink()
    assert np.array_equal(images, array)
