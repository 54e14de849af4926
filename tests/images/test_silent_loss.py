"""Nothing is dropped in silence, the order of files decides nothing, and missing values are no class."""

import warnings

import numpy as np
import pandas as pd
import pytest
from image_files import dicom, flat, layers, level, levels, nifti

from intrinsic.images import BadImages, BadRule, BadSource, load, of_path
from intrinsic.images.adapters import adapter_of

SPELLED = ["NA", "N/A", "NULL", "None", "null", "NaN", "nan", "<NA>", ""]


def warned(source):
    """(the image set, its warnings)."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        images = load(source)
    return images, [str(one.message) for one in told]


# ------------------------------------------------------------------------------------------ What is left out


def test_a_dicom_file_counts_whatever_its_suffix_and_pictures_beside_are_named_and_counted(tmp_path):
    for i in range(8):
        name = ("0.dcm", "1.IMA", "2", "3.x")[i % 4]
        dicom(tmp_path / f"p{i // 4}" / "series" / name, flat(i), PatientID=f"P{i // 4}", SeriesDescription="ab"[i % 2])
        level(tmp_path / f"p{i // 4}" / "series" / "key.png", i)
    images, told = warned(of_path(tmp_path, labels={"column": "SeriesDescription"}))
    assert levels(images) == list(range(8))
    assert len(told) == 1
    assert "2 files" in told[0]
    assert "p0/series/key.png" in told[0]


def test_volumes_without_a_mask_and_pictures_beside_volumes_are_counted(tmp_path):
    for i, name in enumerate(("a_t1", "b_t1", "c_other")):
        nifti(tmp_path / "x" / f"{name}.nii.gz", layers(i, i + 10))
        nifti(tmp_path / "x" / f"{name[0]}_seg.nii.gz", layers(0, 1))
    level(tmp_path / "x" / "overview.png", 3)
    options = {"mask_pattern": "^(.*)_t1", "mask_template": "{0}_seg.nii.gz"}
    images, told = warned(of_path(tmp_path, adapter="nifti", options=options))
    assert levels(images) == [0, 10, 1, 11]
    assert len(told) == 1
    assert "3 files" in told[0]  # the other volume, its mask and the picture


def test_files_of_other_kinds_in_class_folders_and_images_beside_them_are_counted(tmp_path):
    for name in ("a/1.png", "b/1.png", "loose.png"):
        level(tmp_path / name, 7)
    for name in ("a/x.heic", "b/y.HEIC", "b/notes.txt", "a/Thumbs.db", "a/.hidden.png"):
        (tmp_path / name).write_bytes(b"no image")
    images, told = warned(tmp_path)
    assert images.paths == ("a/1.png", "b/1.png")
    assert len(told) == 1
    assert "3 files" in told[0]
    assert ".heic 2" in told[0]


def test_arrays_of_an_archive_that_are_not_read_are_named(tmp_path):
    pixels = np.arange(4 * 12, dtype=np.uint8).reshape(4, 4, 3)
    np.savez(tmp_path / "x.npz", images=pixels, labels=[0, 1, 0, 1], groups=[0, 0, 1, 1])
    assert any("groups" in text for text in warned(tmp_path / "x.npz")[1])


# ------------------------------------------------------------------------------------------ The order of files


@pytest.mark.parametrize("name", ["a.dcm", "z.dcm"])
def test_a_tree_of_dicom_and_nifti_names_both_whichever_sorts_first(tmp_path, name):
    for i in range(4):
        nifti(tmp_path / f"sub-{i}" / "anat" / "t1.nii.gz", layers(i, i))
        dicom(tmp_path / f"sub-{i}" / "anat" / name, flat(i))
    for fields in ({"labels": {"pattern": "sub-([01])"}}, {"labels": {"column": "PatientID"}}):
        with pytest.raises(BadSource, match="4 DICOM and 4 NIfTI"):
            of_path(tmp_path, **fields)


@pytest.mark.parametrize("first", ["a", "z"])
def test_the_kind_that_most_files_have_decides_and_not_the_first(tmp_path, first):
    level(tmp_path / "p" / "s" / f"{first}.png", 1)
    for i in range(3):
        dicom(tmp_path / "p" / "s" / f"{i}.dcm", flat(i))
    assert adapter_of(tmp_path) == "dicom"
    for i in range(9):
        level(tmp_path / "p" / "s" / f"m{i}.png", i)
    assert adapter_of(tmp_path) == "folder"
    assert adapter_of(tmp_path, headers=True) == "dicom"


# ------------------------------------------------------------------------------------------ Missing values


@pytest.fixture
def listing(tmp_path):
    """Writes a table of six pictures with these labels and groups; the path of the table."""

    def write(labels, groups="abcdef", suffix="csv"):
        for i in range(6):
            level(tmp_path / f"{i}.png", i)
        rows = pd.DataFrame({"path": [f"{i}.png" for i in range(6)], "label": labels, "group": list(groups)})
        file = tmp_path / f"t.{suffix}"
        rows.to_parquet(file) if suffix == "parquet" else rows.to_csv(file, index=False)
        return file

    return write


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("missing", SPELLED)
def test_a_missing_label_or_patient_is_refused_however_it_is_spelled(listing, missing, suffix):
    with pytest.raises(BadRule, match=r"4\.png .*2 of 6"):
        load(listing(["x", "y", "x", "y", missing, missing], suffix=suffix))
    with pytest.raises(BadRule, match=r"1\.png .*1 of 6"):
        load(listing(list("xyxyxy"), ["a", missing, "b", "c", "d", "e"], suffix))


def test_a_missing_label_may_be_dropped_or_be_a_class_and_one_that_a_rule_names_is_none(listing):
    file = listing(["x", "y", "x", "None", "NA", "NA"])
    assert load(of_path(file, labels={"missing": "drop"})).counts() == {"x": 2, "y": 1}
    assert load(of_path(file, labels={"missing": "as:no"})).counts() == {"x": 2, "y": 1, "no": 3}
    rule = {"classes": {"well": ["None"], "ill": ["x", "y"]}, "missing": "drop"}
    assert load(of_path(file, labels=rule)).counts() == {"well": 1, "ill": 3}


def test_a_folder_may_be_called_none_and_a_dicom_patient_na_is_missing(tmp_path):
    for name in ("None/1.png", "NA/1.png"):
        level(tmp_path / "png" / name, 1)
    assert load(tmp_path / "png").classes == ("NA", "None")
    for i in range(4):
        dicom(tmp_path / "dcm" / "ab"[i % 2] / f"{i}.dcm", flat(i), PatientID="P" if i else "NA")
    with pytest.raises(BadRule, match=r"a/0\.dcm .*1 of 4"):
        load(tmp_path / "dcm")


def test_a_missing_name_in_an_archive_is_refused(tmp_path):
    pixels = np.arange(4 * 12, dtype=np.uint8).reshape(4, 4, 3)
    for names in ({"labels": ["x", "NA", "y", "x"]}, {"labels": [0, 1, 0, 1], "group": ["p", "NULL", "q", "r"]}):
        np.savez(tmp_path / "x.npz", images=pixels, **names)
        with pytest.raises(BadSource, match="1 of 4"):
            load(tmp_path / "x.npz")


def test_a_missing_key_joins_nothing(listing, tmp_path):
    (tmp_path / "more.csv").write_text("who,age\na,1\nNA,2\nc,1\nd,2\ne,1\nf,2\nNA,3\n")
    join = {"table": "more.csv", "column": "group", "other": "who", "how": "inner"}
    file = listing(list("xyxyxy"), ["a", "NA", "c", "d", "e", "f"])
    images, told = warned(of_path(file, options={"join": join}))
    assert levels(images) == [0, 2, 3, 4, 5]
    assert "1 of 6" in told[0]


def test_keys_that_differ_by_leading_zeros_are_joined_with_a_warning_and_ambiguous_ones_are_not(listing, tmp_path):
    file = listing(list("xyxyxy"), ["001", "002", "010", "0011", "0", "7"])
    join = {"table": "more.csv", "column": "group", "other": "who", "how": "inner"}
    (tmp_path / "more.csv").write_text("who,age\n00001,1\n00002,2\n00010,1\n00011,2\n")
    images, told = warned(of_path(file, options={"join": join}))
    assert levels(images) == [0, 1, 2, 3]
    assert any("'001'" in one and "'00001'" in one for one in told)
    (tmp_path / "more.csv").write_text("who,age\n00001,1\n0001,2\n")
    with pytest.raises(BadSource, match="'001'"):
        load(of_path(file, options={"join": join}))


def test_pictures_beside_dicom_files_are_read_where_their_names_are_joined(tmp_path):
    for i in range(6):
        dicom(tmp_path / "scans" / f"p{i}" / f"00{i}.dcm", flat(i), PatientID=f"P{i}")
        level(tmp_path / "scans" / f"p{i}" / f"001{i}.png", 10 + i)
    (tmp_path / "t.csv").write_text(
        "number,ill,who\n" + "".join(f"{n},{n % 2},{n % 10}\n" for n in (*range(6), *range(10, 16)))
    )
    join = {"table": str(tmp_path / "t.csv"), "column": "stem", "other": "number", "how": "inner"}
    fields = {"labels": {"column": "ill"}, "group": {"column": "who"}, "options": {"join": join}}
    images, told = warned(of_path(tmp_path / "scans", **fields))
    assert len(images) == 12
    assert len(np.unique(images.group)) == 6
    assert not any("left out" in one for one in told)


@pytest.mark.parametrize(
    ("values", "pair"),
    [(["Normal", "normal"], "'Normal'.*'normal'"), (["01", "1"], "'01'.*'1'"), (["é", "e\u0301"], "from")],
)
def test_labels_and_patients_that_are_probably_one_are_warned_of(listing, values, pair):
    with pytest.warns(UserWarning, match=pair):
        assert load(listing([values[i % 2] for i in range(6)])).n_classes == 2
    with pytest.warns(UserWarning, match=pair):
        load(listing(list("xyxyxy"), [values[0], values[1], "p", "q", "r", "s"]))


def test_labels_that_a_rule_has_made_one_and_numbers_that_differ_are_not_warned_of(listing):
    file = listing(["Normal", "normal", "ill", "ill", "Normal", "ill"])
    assert warned(of_path(file, labels={"classes": {"well": ["Normal", "normal"], "ill": ["ill"]}}))[1] == []
    assert warned(listing(["1.5", "1.05", "10", "1", "100", "0"], ["1", "2", "3", "10", "20", "30"]))[1] == []


# ------------------------------------------------------------------------------------------ Names and ranges


def test_a_name_stays_on_one_line(tmp_path):
    pixels = np.arange(4 * 12, dtype=np.uint8).reshape(4, 4, 3)
    np.savez(
        tmp_path / "x.npz", images=pixels, labels=[0, 1, 0, 1], class_names=["a\nb", "\x1b[31mc\té"], paths=["\r"] * 4
    )
    images = load(tmp_path / "x.npz")
    assert images.classes == ("a\\nb", "\\x1b[31mc\\té")
    assert set(images.paths) == {"\\r"}
    for name in ("new\nline/1.png", "b/1.png"):
        level(tmp_path / "png\nset" / name, 1)
    images = load(tmp_path / "png\nset")
    assert "\n" not in f"{images.name}{images.classes}{images.paths}{images!r}"


@pytest.mark.parametrize("scale", [1.0, 255.0])
def test_floats_are_refused_with_their_range(tmp_path, scale):
    pixels = np.linspace(0, scale, 4 * 12).reshape(4, 4, 3)
    np.savez(tmp_path / "x.npz", images=pixels, labels=[0, 1, 0, 1])
    with pytest.raises(BadImages, match="255 \\* images" if scale == 1 else "max 255"):
        load(tmp_path / "x.npz")
