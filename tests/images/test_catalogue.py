"""The catalogue: entries, files of entries, names and paths."""

import os
import subprocess
import sys

import numpy as np
import pytest
from image_files import level

from intrinsic import images as sets
from intrinsic.images.entries import Pairs

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


def write(path, groups=None, **more):
    """An archive of 30 images of three classes."""
    pixels = np.random.default_rng(0).integers(0, 256, (30, 6, 5), dtype=np.uint8)
    np.savez(path, images=pixels, labels=np.arange(30) % 3, **more)


def test_an_image_set_of_ones_own_is_an_entry_in_a_catalogue(tmp_path):
    write(tmp_path / "tiny.npz")
    (tmp_path / "sets.yaml").write_text(ENTRY % (tmp_path / "tiny.npz"))
    read = sets.load(sets.catalogue(tmp_path / "sets.yaml")["tiny"], size=4)
    assert read.counts() == {"low": 20, "high": 10}
    assert (read.name, read.domain, read.show_pixels, read.size) == ("tiny", "medical", False, (4, 4))
    (tmp_path / "sets.yaml").write_text(ENTRY % "nowhere.npz")
    with pytest.raises(sets.BadSource, match="does not exist"):
        sets.load(sets.catalogue(tmp_path / "sets.yaml")["tiny"])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("source:", "sorce:", "'source' is missing; unknown key 'sorce'; did you mean 'source'"),
        ("adapter: npz", "adapter: nzp", "'nzp'.*did you mean 'npz'"),
        ("{classes:", "{clases: 3, classes:", "unknown key 'labels.clases'; did you mean 'classes'"),
        ("labels:", "options: {sheet: 3}\n  labels:", "options of adapter npz: unknown key 'sheet'"),
        ("low: [0, 1]", "low: [0, 2]", "labels: .*'2'"),
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
        ("tiny:", "- tiny:", "list"),
        ("tiny:", "4:", "4 is not a name"),
        ("title: a set of my own", "title: 2024-13-45", "not plain YAML"),
        ("title: a set of my own", "title: !!int 'x'", "not plain YAML"),
        (
            "show_pixels:",
            "pairs: {values: 200000}\n  show_pixels:",
            "'tiny': pairs.values",
        ),
        (
            "show_pixels:",
            "group: {pattern: '('}\n  show_pixels:",
            "'tiny': group.pattern: .*'\\('",
        ),
        (
            "show_pixels:",
            "group: {patern: a}\n  show_pixels:",
            "'tiny': unknown key 'group.patern'; did you mean 'pattern'.$",
        ),
        (
            "show_pixels:",
            "group: patient\n  show_pixels:",
            "'tiny': group: .*'unknown', not 'patient'",
        ),
        ("labels:", "labels: 3 #", "'tiny': labels: "),
        ("show_pixels:", "pairs: {values: [a]}\n  show_pixels:", "'tiny': pairs.values"),
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
    with pytest.raises(sets.BadCatalogue, match="missing"):
        sets.catalogue(tmp_path / "missing.yaml")


def test_files_in_the_environment_are_added_to_the_catalogue_and_names_must_differ(tmp_path, monkeypatch):
    (tmp_path / "more").mkdir()
    write(tmp_path / "more" / "tiny.npz")
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
    with pytest.raises(sets.BadCatalogue, match="digits"):
        sets.catalogue()


def test_a_draft_of_an_entry_is_an_entry(tmp_path):
    write(tmp_path / "my knees.npz", class_names=["a <b>", "é", "no"])
    (tmp_path / "mine.yaml").write_text(sets.of_path(tmp_path / "my knees.npz").draft(), encoding="utf-8")
    entries = sets.catalogue(tmp_path / "mine.yaml")
    assert list(entries) == ["my_knees"]
    read = sets.load(entries["my_knees"])
    assert read.content_hash() == sets.load(tmp_path / "my knees.npz").content_hash()
    assert read.classes == ("a <b>", "é", "no")
    assert not read.show_pixels  # until somebody says that they may be seen


def test_a_group_rule_reads_the_paths_and_groups_can_be_set_aside(tmp_path):
    pixels = np.arange(6 * 12, dtype=np.uint8).reshape(6, 4, 3)
    np.savez(tmp_path / "x.npz", images=pixels, labels=np.arange(6) % 2, group=np.arange(6),
             paths=["p1/a", "p1/b", "p2/a", "p2/b", "p3/a", "p3/b"])  # fmt: skip
    assert sets.load(tmp_path / "x.npz").group.tolist() == [0, 1, 2, 3, 4, 5]
    by_path = sets.of_path(tmp_path / "x.npz", group={"pattern": r"^(p\d)/", "of": "patient"})
    assert sets.load(by_path).group.tolist() == [0, 0, 1, 1, 2, 2]
    assert sets.load(sets.of_path(tmp_path / "x.npz", group="unknown")).group is None
    with pytest.raises(sets.BadSource, match=r"labels.*colunm"):
        sets.of_path(tmp_path / "x.npz", labels={"colunm": "x"})


def test_an_unknown_name_is_answered_with_the_closest_one(tmp_path, monkeypatch):
    with pytest.raises(sets.UnknownImageSet, match="did you mean 'digits'"):
        sets.load("digitz")
    (tmp_path / "scans").mkdir()
    with pytest.raises(sets.UnknownImageSet, match="did you mean 'scans'"):
        sets.load(tmp_path / "scan")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(sets.UnknownImageSet, match="did you mean 'scans'"):  # a folder here, before a name
        sets.load("scan")
    with pytest.raises(sets.UnknownImageSet, match="empty"):
        sets.load("")
    with pytest.raises(sets.UnknownImageSet, match="digits, "):
        sets.load("qqqqqq")
    with pytest.raises(sets.UnknownImageSet, match="does not exist"):
        sets.load(tmp_path / "nowhere")
    with pytest.raises(sets.UnknownImageSet, match="does not exist"):
        sets.load("nowhere/digits")


def test_pairs_are_drawn_without_repetition_in_one_order_a_seed():
    every = Pairs(count=45, seed=3, values=list("0123456789")).drawn()
    assert sorted(every) == [(a, b) for a in "0123456789" for b in "0123456789" if a < b]
    assert every != sorted(every)
    for count in (1, 5, 44):
        assert Pairs(count=count, seed=3, values=list("0123456789")).drawn() == every[:count]
    assert Pairs(count=45, seed=4, values=list("0123456789")).drawn() != every
    order = np.random.default_rng(3).permutation(45)  # as documented
    assert every == [sorted(every)[i] for i in order]


def test_pairs_of_places_are_of_different_classes():
    pairs = Pairs(count=200, seed=0, values=1000).drawn()
    places = [tuple(int(name.removeprefix("#")) for name in pair) for pair in pairs]
    assert all(0 <= a < b < 1000 for a, b in places)
    assert len(set(places)) == 200


def test_all_entries_fit_and_say_what_they_are_and_are_read_back_from_what_is_written(tmp_path):
    entries = sets.catalogue()
    assert len(entries) == 260
    for entry in entries.values():
        assert min(len(t) for t in (entry.title, entry.about, entry.beware, entry.source, entry.licence)) > 2
    for name in ("digits", "brats", "isic", "chexpert", "cifar10", "retinamnist", "knee_xray_oa-pair1", "torus_waves"):
        entry = entries.get(name) or entries["knee_grades-pair1"]
        (tmp_path / "one.yaml").write_text(entry.written(), encoding="utf-8")
        read = next(iter(sets.catalogue(tmp_path / "one.yaml").values()))
        assert read.model_copy(update={"base": entry.base, "parent": entry.parent}) == entry
        assert hash(read) == hash(read.model_copy())
        assert str(entry.whereabouts()) in entry.describe()


@pytest.mark.parametrize("name", ["mnist", "cifar10", "svhn", "imagenet"])
def test_a_set_with_pairs_stands_before_entries_of_two_classes(name):
    entries = sets.catalogue()
    parent, names = entries[name], list(entries)
    at = names.index(name)
    assert names[at + 1 : at + 6] == [f"{name}-pair{i}" for i in range(1, 6)]
    for pair, (a, b) in zip(names[at + 1 : at + 6], parent.pairs.drawn(), strict=True):
        entry = entries[pair]
        assert (entry.labels.pair, entry.title) == ((a, b), f"{parent.title}: {a} against {b}")
        assert (entry.parent, entry.family, parent.parent) == (name, parent.family or name, "")
        same = parent.model_dump(exclude={"name", "title", "labels", "family", "parent", "pairs"})
        assert entry.model_dump(include=set(same)) == same


def test_places_count_the_sorted_class_folders(tmp_path):
    names = ["n01", "n02", "n10", "n2"]
    for i, name in enumerate(names):
        level(tmp_path / "kinds" / name / "a.png", i)
    text = (ENTRY % "kinds").replace("adapter: npz", "adapter: folder")
    text = text.replace("labels: {classes: {low: [0, 1], high: [2]}}", "pairs: {count: 6, values: 4}")
    (tmp_path / "sets.yaml").write_text(text)
    entries = list(sets.catalogue(tmp_path / "sets.yaml").values())
    assert len(entries) == 7
    for entry in entries[1:]:
        images = sets.load(entry)
        places = [int(name.removeprefix("#")) for name in entry.labels.pair]
        assert images.images[:, 0, 0].tolist() == places
        assert images.classes == tuple(names[place] for place in places)
    beyond = entries[0].model_copy(update={"labels": sets.LabelRule(pair=["#0", "#4"])})
    with pytest.raises(sets.BadRule, match="#4"):
        sets.load(beyond)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("show_pixels: false", "pairs: {values: 4}", "classes and pair"),
        ("labels: {classes: {low: [0, 1], high: [2]}}", "pairs: {count: 7, values: 4}", "6 pairs, and 7"),
        ("labels: {classes: {low: [0, 1], high: [2]}}", "pairs: {values: [a, b, a]}", "twice"),
        (
            "adapter: npz",
            "adapter: medmnist\n  options: {dataset: breastmnist, size: 32}",
            "options of adapter medmnist",
        ),
        ("adapter: npz", "adapter: torchvision\n  options: {dataset: STL10}", "options of adapter torchvision.*MNIST"),
        ("adapter: npz", "adapter: nifti\n  options: {axis: 3}", "options of adapter nifti: axis"),
        ("adapter: npz", "adapter: table\n  options: {jion: 3}", "did you mean 'join'"),
        ("adapter: npz", "adapter: table\n  options: {join: {table: x.csv}}", "column"),
        ("adapter: npz", "adapter: table\n  options: {path_pattern: '('}", "options of adapter table"),
        ("adapter: npz", "adapter: digits", "takes no location"),
        ("tiny:", "digits-pair1: &a\n  <<: &b {}\ntiny:", "missing"),
    ],
)
def test_pairs_and_options_that_do_not_fit_are_refused_when_the_catalogue_is_read(tmp_path, old, new, message):
    (tmp_path / "sets.yaml").write_text((ENTRY % "x").replace(old, new, 1))
    with pytest.raises(sets.BadCatalogue, match=message):
        sets.catalogue(tmp_path / "sets.yaml")


def test_a_folder_with_the_name_of_a_set_is_told_of(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("digits/a/1.png", "digits/b/1.png"):
        level(tmp_path / name, 1)
    with pytest.warns(UserWarning, match=r"\./digits"):
        assert len(sets.load("digits")) == 5000
    assert len(sets.load("./digits")) == 2


def test_arrays_need_no_reader_of_files_or_of_catalogues():
    code = (
        "import sys, numpy as np\nfrom intrinsic.images import ImageSet, split, match, as_unit, balanced_draws\n"
        "x = ImageSet(np.arange(640).astype(np.uint8).reshape(40, 4, 4), np.arange(40) % 2, 'a b'.split())\n"
        "balanced_draws(x.labels, 5, 1, 0), match(x, size=8)\n"
        "print([m for m in ('yaml', 'pydantic', 'pydicom', 'nibabel', 'pandas') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
