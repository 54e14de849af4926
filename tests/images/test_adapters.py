"""Adapters: which rows, labels, groups and frames a folder, a table, DICOM and NIfTI files and archives give."""

import numpy as np
import pandas as pd
import pydicom
import pytest
from image_files import dicom, flat, layers, level, levels, nifti
from pydicom.uid import BasicTextSRStorage

from intrinsic import images as sets
from intrinsic.images import BadRule, BadSource, GroupRule, LabelRule, load, of_path
from intrinsic.images.adapters import adapter_of


def test_deeper_folders_are_read_when_asked_for_and_can_be_the_patient(tmp_path):
    for i, name in enumerate(["yes/p2/a.png", "yes/p1/a.png", "no/p3/x/a.png", "no/p3/b.png", "no/c.png"]):
        level(tmp_path / name, i)
    with pytest.raises(BadSource, match=r"one level deeper, in 'p3'.*`nested: true`.*\^\[\^/\]\+/") as raised:
        load(tmp_path)
    assert "\n" not in str(raised.value)
    images = load(of_path(tmp_path, options={"nested": True}))
    assert images.paths == ("no/c.png", "no/p3/b.png", "no/p3/x/a.png", "yes/p1/a.png", "yes/p2/a.png")
    assert levels(images) == [4, 3, 2, 1, 0]
    assert images.labels.tolist() == [0, 0, 0, 1, 1]
    assert images.group is None
    rule = {"pattern": "^[^/]+/([^/]+)/", "unmatched": "own"}
    images = load(of_path(tmp_path, options={"nested": True}, group=rule))
    assert len(set(images.group)) == 4
    assert images.group[1] == images.group[2]


@pytest.mark.timeout(20)
def test_links_are_followed_once_and_loops_end(tmp_path):
    root = tmp_path / "root"
    for i, name in enumerate(["root/a/1.png", "root/a/deep/2.png", "root/b/3.png", "else/4.png"]):
        level(tmp_path / name, i)
    (root / "a" / "deep" / "up").symlink_to(root)
    (root / "a" / "own").symlink_to(".")
    (root / "a" / "deep_again").symlink_to("deep")
    (root / "a" / "z.png").symlink_to(root / "a" / "1.png")
    (root / "b" / "elsewhere").symlink_to(tmp_path / "else")
    (root / "c").symlink_to(root)
    images = load(of_path(root, options={"nested": True}))
    assert images.paths == ("a/1.png", "a/deep/2.png", "b/3.png", "b/elsewhere/4.png")
    assert levels(images) == [0, 1, 2, 3]


def test_volumes_and_frames_in_class_folders_are_rows_and_their_file_is_the_group(tmp_path):
    nifti(tmp_path / "ill" / "v.nii.gz", layers(10, 11, 12, shape=(3, 4)))
    dicom(tmp_path / "ill" / "one", flat(20))
    dicom(tmp_path / "well" / "two.dcm", np.stack([flat(30), flat(31)]))
    level(tmp_path / "well" / "x.png", 40)
    images = load(tmp_path)
    assert images.paths == (
        "ill/one", "ill/v.nii.gz#0", "ill/v.nii.gz#1", "ill/v.nii.gz#2", "well/two.dcm#0", "well/two.dcm#1",
        "well/x.png",
    )  # fmt: skip
    assert levels(images) == [20, 10, 11, 12, 30, 31, 40]
    assert images.labels.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert images.group.tolist() == [0, 1, 1, 1, 2, 2, 3]


def test_patients_of_dicom_files_in_class_folders_are_the_groups(tmp_path):
    for i, (folder, patient) in enumerate((("ill", "b"), ("ill", "a"), ("ill", "a"), ("well", "c"), ("well", "a"))):
        dicom(tmp_path / folder / f"{i}.dcm", flat(i), PatientID=patient)
    images = load(tmp_path)
    assert levels(images) == [0, 1, 2, 3, 4]
    assert images.group.tolist() == [1, 0, 0, 2, 0]
    dicom(tmp_path / "well" / "9.dcm", np.stack([flat(9), flat(10)]), PatientID="c")
    assert load(tmp_path).group.tolist() == [1, 0, 0, 2, 0, 2, 2]
    dicom(tmp_path / "well" / "nobody.dcm", np.stack([flat(11), flat(12)]))
    said = r"the patient of well/nobody\.dcm .*2 of 9 "
    with pytest.raises(BadRule, match=said):
        load(tmp_path)
    own = load(of_path(tmp_path, group={"unmatched": "own"})).group
    assert [own.tolist().index(i) for i in own] == [0, 1, 1, 3, 1, 3, 3, 7, 7]  # frames of one file stay together
    assert load(of_path(tmp_path, group="unknown")).group is None
    (tmp_path / "well" / "nobody.dcm").unlink()
    level(tmp_path / "well" / "x.png", 13)
    with pytest.raises(BadRule, match=r"the patient of well/x\.png cannot be read, as 1 of 8"):
        load(tmp_path)


def test_folders_of_one_patient_each_are_no_classes_where_a_file_names_none(tmp_path):
    for i in range(6):
        dicom(tmp_path / f"p{i % 3}" / f"{i}.dcm", flat(i), PatientID=f"x{i % 3}" if i else "")
    with pytest.raises(BadSource, match=r"each of the 3 folders in .* holds one patient"):
        load(tmp_path)


def test_class_folders_are_the_labels_where_a_table_names_the_patients_of_dicom_and_pictures(tmp_path):
    for i, folder in enumerate(("ill", "ill", "well", "well")):
        dicom(tmp_path / folder / f"d{i}.dcm", flat(i), PatientID="")
        level(tmp_path / folder / f"p{i}.png", 10 + i)
    table = tmp_path.with_suffix(".csv")
    table.write_text("file,person\n" + "".join(f"{kind}{i},{i // 2}\n" for kind in "dp" for i in range(4)))
    join = {"table": str(table), "column": "stem", "other": "file", "how": "left"}
    images = load(of_path(tmp_path, options={"join": join}, group={"column": "person"}))
    assert images.classes == ("ill", "well")
    assert images.labels.tolist() == images.group.tolist() == [0] * 4 + [1] * 4


CSV = """path,finding,patient,score
png/a.png,1.0,007,3
png/b.png,0.0,007,1.50
png/c.png,-1.0,12,x
png/d.png,,1.0,"two
lines, and a comma"
png/e.png,NaN,12,None
"""


@pytest.fixture
def chest(tmp_path):
    for i, letter in enumerate("abcde"):
        level(tmp_path / "png" / f"{letter}.png", 10 * i)
    (tmp_path / "train.csv").write_text(CSV)
    return tmp_path


FINDING = {"column": "finding", "classes": {"no": [0, -1], "yes": [1]}, "missing": "as:no"}


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet", "CSV"])
def test_every_kind_of_table_gives_the_same_labels_and_groups(chest, suffix):
    table = pd.read_csv(chest / "train.csv", dtype={"patient": str})  # finding: floats, as a program would save them
    file = chest / f"other.{suffix}"
    if suffix == "parquet":
        table.to_parquet(file)
    else:
        table.to_csv(file, sep="\t" if suffix == "tsv" else ",", index=False)
    images = load(of_path(file, labels=FINDING, group={"column": "patient"}))
    assert images.paths == tuple(f"png/{letter}.png" for letter in "abcde")
    assert levels(images) == [0, 10, 20, 30, 40]
    assert images.labels.tolist() == [1, 0, 0, 0, 0]
    assert images.group.tolist() == [7, 7, 12, 1, 12]


def test_paths_are_made_from_a_pattern_and_a_template(tmp_path):
    for i, name in enumerate(["ID_1_any", "ID_2_any"]):
        level(tmp_path / "data" / "png" / f"{name[:4]}.png", i)
    text = "ID_1_any,0\nID_1_epidural,1\nID_2_any,1\nID_2_epidural,0\n"
    (tmp_path / "data" / "labels.csv").write_text(text)
    options = {"table": "labels.csv", "columns": ["ID", "Label"], "path_column": "ID"}
    for pattern, template in (("^(ID_.)_any$", "png/{0}.png"), ("^(?P<name>ID_.)_any$", "png/{name}.png")):
        made = options | {"path_pattern": pattern, "path_template": template}
        images = load(of_path(tmp_path / "data", adapter="table", options=made, labels={"column": "Label"}))
        assert images.paths == ("png/ID_1.png", "png/ID_2.png")
        assert (levels(images), images.labels.tolist()) == ([0, 1], [0, 1])
    for template in ("png/{1}.png", "{name}", "{", "{0.x}"):
        made = options | {"path_pattern": "^(ID_.)_any$", "path_template": template}
        with pytest.raises(BadSource, match=r"template .* does not fit"):
            load(of_path(tmp_path / "data", adapter="table", options=made, labels={"column": "Label"}))
    with pytest.raises(BadSource, match="names no image"):
        load(of_path(tmp_path / "data", adapter="table", options=options | {"path_pattern": "zzz"}))
    whole = {"table": "x.csv", "path_template": "png/{0}.png"}
    (tmp_path / "data" / "x.csv").write_text("path,label\nID_1,a\nID_2,b\n")
    assert levels(load(of_path(tmp_path / "data", adapter="table", options=whole))) == [0, 1]


def test_rows_that_a_rule_leaves_out_need_no_file(chest):
    (chest / "png" / "c.png").unlink()
    rule = {"column": "finding", "classes": {"no": [0], "yes": [1]}, "missing": "drop", "others": "drop"}
    assert levels(load(of_path(chest / "train.csv", labels=rule))) == [0, 10]


def test_frames_of_a_table_are_those_of_the_file(tmp_path):
    dicom(tmp_path / "x.dcm", np.stack([flat(5), flat(6), flat(7)]))
    level(tmp_path / "y.png", 9)
    (tmp_path / "t.csv").write_text("path,label,slice\nx.dcm,a,2\nx.dcm,b,0\ny.png,b,\n")
    entry = of_path(tmp_path / "t.csv", options={"frame_column": "slice"})
    images = load(entry)
    assert images.paths == ("x.dcm#2", "x.dcm#0", "y.png")
    assert levels(images) == [7, 5, 9]
    (tmp_path / "t.csv").write_text("path,label,slice\nx.dcm,a,first\n")
    with pytest.raises(BadSource, match=r"t\.csv has 'first' in its column 'slice', which is no frame"):
        load(entry)


def test_a_second_table_is_joined_row_by_row(chest):
    (chest / "patients.csv").write_text("patient,sex,score\n007,F,9\n12,M,8\n")
    options = {"join": {"table": "patients.csv", "column": "patient"}}
    entry = of_path(chest / "train.csv", options=options, labels={"column": "sex", "missing": "drop"})
    images = load(entry)
    assert images.paths == tuple(f"png/{letter}.png" for letter in "abce")
    assert images.labels.tolist() == [0, 0, 1, 1]
    options["join"]["how"] = "inner"
    assert len(load(of_path(chest / "train.csv", options=options, labels={"column": "sex"}))) == 4
    assert load(of_path(chest / "train.csv", options=options, labels={"column": "score_patients"})).classes == (
        "8",
        "9",
    )
    (chest / "patients.csv").write_text("patient,sex\n007,F\n007,M\n")
    with pytest.raises(BadSource, match=r"patients\.csv has '007' more than once"):
        load(entry)
    (chest / "patients.csv").write_text("id,sex\n007,F\n")
    with pytest.raises(BadSource, match=r"patients\.csv needs one column 'patient', and 0 are among id, sex"):
        load(entry)


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("file,label\na,1\n", {}, r"t\.csv needs one column 'path', and 0 are among file, label.*--path-column"),
        ("paths,label\na,1\n", {}, "did you mean 'paths'"),
        ("path,label\n,1\n", {}, "names no file in row 1"),
        ("path,label\n", {}, "names no image"),
        ("", {}, "cannot be read as a table"),
        ("path,label\na,1\nb,2,3,4\n", {}, r"t\.csv .*4 cells in row 3 and 2"),
        ("path,label\na,1,\nb,2,x\n", {}, r"t\.csv .*3 cells in row 3 and 2"),
        ("path,label\n0,a,1\n1,b,2\n", {}, r"t\.csv .*3 cells in row 2 and 2"),
        ("path,path,label\na,b,1\n", {}, r"t\.csv needs one column 'path', and 2"),
        ("path,label,label\na,1,2\n", {}, "column 'label', and 2 "),
        ("path,i,i\na,1,2\n", {"frame_column": "i"}, r"t\.csv needs one column 'i', and 2"),
        ("path,i,i\na,1,2\n", {"join": {"table": "t.csv", "column": "i"}}, r"t\.csv needs one column 'i', and 2"),
        (b"path,label\n\xff\xfe,1\n", {}, "cannot be read as a table.*UTF-8"),
        ("a,1\n", {"columns": ["path"]}, "has 2 columns, and 1 names"),
        ("path,label\na,1\n", {"frame_column": "z"}, "one column 'z'"),
        ("path,label\na,1\n", {"join": {"table": "no.csv", "column": "path"}}, r"no\.csv does not exist"),
        ("path,label\na,1\n", {"join": {"table": "no.xlsx", "column": "path"}}, "no table of a known kind"),
    ],
)
def test_a_table_that_lists_no_images_says_why(tmp_path, content, options, message):
    (tmp_path / "t.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BadSource, match=message) as raised:
        load(of_path(tmp_path / "t.csv", options=options))
    assert "\n" not in str(raised.value)


def test_columns_stand_where_the_header_says_whatever_the_form_of_a_csv(chest):
    rows = [("png/a.png", "x", "p1"), ("png/b.png", "y", "p2"), ("png/c.png", "x", "p1")]

    def seen(header, form, **fields):
        text = "\n".join([header, *(form.format(*row) for row in rows)])
        (chest / "t.csv").write_text(f"{text}\n", encoding="utf-8-sig")
        images = load(of_path(chest / "t.csv", **fields))
        return images.paths, levels(images), images.labels.tolist(), images.group.tolist()

    expected = (tuple(path for path, _, _ in rows), [0, 10, 20], [0, 1, 0], [0, 1, 0])
    assert seen("path,label,group", "{0},{1},{2}") == expected
    assert seen("path,label,group", "{0},{1},{2},") == expected  # a comma too many in every row
    assert seen("path,label,group,", "{0},{1},{2},") == expected
    assert seen(",path,label,group", "7,{0},{1},{2}") == expected  # an index that has no name
    assert seen("path, label , group", "{0}, {1}, {2}") == expected
    assert seen("path,note,note,label,group", "{0},1.0,z,{1},{2}") == expected  # twice, and not used
    long = "label, of, the, image"
    assert seen(f'"path";"{long}";group', "{0};{1};{2}", labels={"column": long}) == expected
    long = "label,of,the,image"
    assert seen(f'"path","{long}",group', "{0},{1},{2}", labels={"column": long}) == expected


def test_bytes_in_parquet_are_text(chest):
    table = pd.DataFrame({"path": [b"png/a.png", b"png/b.png"], "label": ["é".encode(), b"1"], "group": [b"7", b"8"]})
    table.to_parquet(chest / "t.parquet")
    images = load(chest / "t.parquet")
    assert (images.paths, levels(images)) == (("png/a.png", "png/b.png"), [0, 10])
    assert (images.classes, images.labels.tolist(), images.group.tolist()) == (("1", "é"), [1, 0], [7, 8])


@pytest.fixture
def archive(tmp_path):
    def add(name, value, patient, modality="DX", **tags):
        dicom(tmp_path / name, flat(value), PatientID=patient, Modality=modality, **tags)

    add("ill/p1/s/IM1", 10, "P1", ViewPosition="AP")
    add("ill/p1/s/IM2", 11, "P1", ViewPosition="LAT")
    add("well/p2/s/1.2.3.dcm", 20, "P2", modality="CT", ImageType=["ORIGINAL", "PRIMARY"])
    dicom(tmp_path / "well/p3/s/cine.dcm", np.stack([flat(30), flat(31)]), PatientID="P3", Modality="US")
    (tmp_path / "ill" / "p1" / "s" / "notes.txt").write_text("no image")
    report = pydicom.dcmread(tmp_path / "ill/p1/s/IM1")
    for tag in ("Rows", "Columns", "PixelData"):
        delattr(report, tag)
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = BasicTextSRStorage
    report.save_as(tmp_path / "ill" / "p1" / "s" / "report.dcm")
    return tmp_path


def test_a_tree_of_dicom_files_has_patients_as_groups_and_labels_by_rule(archive):
    images = load(of_path(archive, labels=LabelRule(column="folder")))
    assert images.paths == (
        "ill/p1/s/IM1", "ill/p1/s/IM2", "well/p2/s/1.2.3.dcm", "well/p3/s/cine.dcm#0", "well/p3/s/cine.dcm#1",
    )  # fmt: skip
    assert levels(images) == [10, 11, 20, 30, 31]
    assert (images.classes, images.labels.tolist()) == (("ill", "well"), [0, 0, 1, 1, 1])
    assert images.group.tolist() == [0, 0, 1, 2, 2]
    by_tag = load(of_path(archive, labels=LabelRule(column="Modality", pair=("CT", "DX"))))
    assert levels(by_tag) == [10, 11, 20]
    assert by_tag.labels.tolist() == [1, 1, 0]
    images = load(
        of_path(archive, options={"tags": ["ImageType"]}, labels={"column": "ImageType", "missing": "as:other"})
    )
    assert images.classes == ("ORIGINAL\\PRIMARY", "other")
    with pytest.raises(BadRule, match="nothing says where the label"):
        load(archive)


def test_dicom_files_without_patient_have_no_group_and_a_missing_one_is_refused(tmp_path):
    for i in range(4):
        dicom(tmp_path / "x" / "y" / str(i), flat(i), PatientID="", ViewPosition="AP" if i % 2 else "PA")
    rule = {"column": "ViewPosition"}
    assert load(of_path(tmp_path, labels=rule)).group is None
    dicom(tmp_path / "x" / "y" / "9", flat(9), PatientID="P", ViewPosition="PA")
    with pytest.raises(BadRule, match="x/y/0 cannot be read, as 4 of 5"):
        load(of_path(tmp_path, labels=rule))
    assert (
        len(set(load(of_path(tmp_path, labels=rule, group=GroupRule(column="PatientID", unmatched="own"))).group)) == 5
    )


def test_a_damaged_dicom_file_is_listed_and_then_named(archive):
    whole = (archive / "ill" / "p1" / "s" / "IM1").read_bytes()
    (archive / "ill" / "p1" / "s" / "IM3.dcm").write_bytes(whole[:400])  # ends before the header does
    (archive / "well" / "p2" / "s" / "zz").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 40)
    entry = of_path(archive, labels={"pattern": "^([^/]+)/"}, group="unknown")
    with pytest.raises(sets.BadImageFile, match=r"IM3\.dcm .*2 of 6 files cannot be read"):
        load(entry)
    images = load(entry, skip_unreadable=True)
    assert levels(images) == [10, 11, 20, 30, 31]
    assert [path for path, _ in images.unreadable] == ["ill/p1/s/IM3.dcm", "well/p2/s/zz"]


def test_a_rule_that_names_an_attribute_reads_patient_folders_as_dicom(tmp_path):
    for i in range(6):
        dicom(tmp_path / f"p{i % 3}" / f"{i}.dcm", flat(i), PatientID=f"x{i % 3}", StudyDescription="ab"[i % 2])
    entry = of_path(tmp_path, labels={"column": "StudyDescription"})
    assert (entry.adapter, entry.options) == ("dicom", {"tags": ["StudyDescription"]})
    images = load(entry)
    assert (levels(images), images.labels.tolist()) == ([0, 3, 1, 4, 2, 5], [0, 1, 1, 0, 0, 1])
    assert images.group.tolist() == [0, 0, 1, 1, 2, 2]
    assert load(of_path(tmp_path, group={"column": "PatientID"}, labels={"pattern": r"([0-9])\.dcm"})).n_classes == 6
    with pytest.raises(BadSource, match="'Nonsense' is no keyword of a DICOM attribute"):
        load(of_path(tmp_path, labels={"column": "Nonsense"}))
    with pytest.raises(BadSource, match=r"each of the 3 folders in .* holds one patient"):
        load(tmp_path)


@pytest.fixture
def brains(tmp_path):
    for i, patient in enumerate(("p1", "p2")):
        nifti(tmp_path / patient / f"{patient}_flair.nii.gz", layers(*range(100 * i, 100 * i + 10)))
        nifti(tmp_path / patient / f"{patient}_t1.nii.gz", layers(*[255] * 10))
        mask = np.zeros((3, 4, 10), np.uint8)
        mask[:2, 0, 4 + i] = 2
        mask[0, 0, 7] = 1
        nifti(tmp_path / patient / f"{patient}_seg.nii.gz", mask)
    return tmp_path


def test_slices_of_volumes_are_labelled_by_their_mask(brains):
    options = {"mask_pattern": "(.*)_flair", "mask_template": "{0}_seg.nii.gz", "from": 0.2, "to": 0.8, "step": 1}
    images = load(of_path(brains, adapter="nifti", options=options))
    assert levels(images) == [2, 3, 4, 5, 6, 7, 102, 103, 104, 105, 106, 107]
    assert images.paths[0] == "p1/p1_flair.nii.gz#2"
    assert images.labels.tolist() == [0, 0, 1, 0, 0, 1, 0, 0, 0, 1, 0, 1]
    assert images.group.tolist() == [0] * 6 + [1] * 6
    assert images.classes == ("0", "1")
    by_pixels = load(
        of_path(brains, adapter="nifti", options=options, labels={"column": "mask_pixels", "pair": [0, 2]})
    )
    assert levels(by_pixels) == [2, 3, 4, 5, 6, 102, 103, 104, 105, 106]
    assert by_pixels.labels.tolist() == [0, 0, 1, 0, 0, 0, 0, 0, 1, 0]


def test_slices_are_chosen_by_axis_fraction_and_step_and_labelled_by_path(brains):
    rule = {"pattern": "_(flair|t1)", "missing": "drop"}
    options = {"step": 4, "from": 0.1}
    images = load(of_path(brains, adapter="nifti", options=options, labels=rule))
    assert images.paths[:4] == (
        "p1/p1_flair.nii.gz#1",
        "p1/p1_flair.nii.gz#5",
        "p1/p1_flair.nii.gz#9",
        "p1/p1_t1.nii.gz#1",
    )
    assert levels(images) == [1, 5, 9, 255, 255, 255, 101, 105, 109, 255, 255, 255]
    assert images.group.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    images = load(of_path(brains, adapter="nifti", options={"axis": 0}, labels=rule, group="unknown"))
    assert images.images.shape == (12, 10, 4)
    assert images.images[0, :, 0].tolist() == list(range(10))[::-1]  # superior slices in the upper rows
    assert images.group is None
    assert load(of_path(brains, adapter="nifti", options={"axis": 1}, labels=rule)).images.shape == (16, 10, 3)


def test_a_mask_that_is_missing_or_of_another_shape_is_named(brains):
    options = {"mask_pattern": "(.*)_flair", "mask_template": "{0}_seg.nii.gz"}
    nifti(brains / "p2" / "p2_seg.nii.gz", np.zeros((3, 4, 9), np.uint8))
    with pytest.raises(BadSource, match=r"p2_seg\.nii\.gz has 3 x 4 x 9 voxels and .*p2_flair.* has 3 x 4 x 10"):
        load(of_path(brains, adapter="nifti", options=options))
    (brains / "p2" / "p2_seg.nii.gz").write_bytes(b"")
    with pytest.raises(BadSource, match=r"p2_seg\.nii\.gz of .*p2_flair.* cannot be read as a NIfTI"):
        load(of_path(brains, adapter="nifti", options=options))
    (brains / "p2" / "p2_seg.nii.gz").unlink()
    with pytest.raises(BadSource, match=r"p2_seg\.nii\.gz of .*p2_flair.* does not exist"):
        load(of_path(brains, adapter="nifti", options=options))
    with pytest.raises(BadSource, match=r"from 0\.91 to 0\.99 leaves no slice"):
        load(of_path(brains, adapter="nifti", options={"from": 0.91, "to": 0.99}))
    with pytest.raises(BadSource, match="no NIfTI volume that 'zzz' matches"):
        load(of_path(brains, adapter="nifti", options={"mask_pattern": "zzz", "mask_template": "x"}))


def test_a_damaged_volume_is_listed_and_then_named(brains):
    (brains / "p1" / "p1_t1.nii.gz").write_bytes(b"no volume")
    rule = {"pattern": "_(flair|t1)", "missing": "drop"}
    with pytest.raises(sets.BadImageFile, match=r"p1_t1\.nii\.gz cannot be read as a NIfTI.*1 of 4 files"):
        load(of_path(brains, adapter="nifti", labels=rule))
    images = load(of_path(brains, adapter="nifti", labels=rule), skip_unreadable=True)
    assert len(images) == 30
    assert [path for path, _ in images.unreadable] == ["p1/p1_t1.nii.gz"]


@pytest.fixture
def scans(tmp_path):
    """Three patients of two images each in a tree that holds no label: image i has the grey level i."""
    for i in range(6):
        patient = "ABC"[i // 2]
        dicom(tmp_path / f"in/{patient}/study/{i % 2}.dcm", flat(i), PatientID=patient, AccessionNumber=f"X{i}")
    return tmp_path / "in"


def test_labels_of_dicom_files_come_from_a_table_by_patient_or_accession_number(scans):
    by_patient, by_accession = scans.parent / "patients.csv", scans.parent / "readings.csv"
    by_patient.write_text("name,finding\nA,none\nB,nodule\nC,none\nD,nodule\n")
    by_accession.write_text("AccessionNumber,label\n" + "".join(f"X{i},{'ab'[i % 2]}\n" for i in range(6)))
    joined = {"table": str(by_patient), "column": "PatientID", "other": "name"}
    images = load(of_path(scans, options={"join": joined}, labels={"column": "finding"}))
    assert levels(images) == [0, 1, 2, 3, 4, 5]
    assert [images.classes[k] for k in images.labels] == ["none", "none", "nodule", "nodule", "none", "none"]
    assert images.group.tolist() == [0, 0, 1, 1, 2, 2]
    images = load(of_path(scans, options={"join": {"table": str(by_accession), "column": "AccessionNumber"}}))
    assert (images.classes, images.labels.tolist()) == (("a", "b"), [0, 1, 0, 1, 0, 1])  # the table's column `label`
    assert images.group.tolist() == [0, 0, 1, 1, 2, 2]


def test_images_that_a_joined_table_does_not_hold_are_refused_or_left_out_with_a_warning(scans):
    (scans / "labels.csv").write_text("patient,label\nA,x\nB,y\n")
    joined = {"table": "labels.csv", "column": "PatientID", "other": "patient"}
    with pytest.raises(BadSource, match=r"C/study/0\.dcm"):
        load(of_path(scans, adapter="dicom", options={"join": joined}))
    with pytest.warns(UserWarning, match=r"^2 of 6 images of .* are left out, since .*labels\.csv has no row .* 'C'$"):
        images = load(of_path(scans, adapter="dicom", options={"join": joined | {"how": "inner"}}))
    assert levels(images) == [0, 1, 2, 3]
    with pytest.raises(BadSource, match=r"no image .* has a SeriesDescription .* in its column 'patient'"):
        load(of_path(scans, adapter="dicom", options={"join": joined | {"column": "SeriesDescription"}}))
    with pytest.raises(BadSource, match=r"labels\.csv needs one column 'PatientID', and 0 are .*--join-on"):
        load(of_path(scans, adapter="dicom", options={"join": {"table": "labels.csv", "column": "PatientID"}}))


def test_a_table_that_names_dicom_files_has_their_patients_as_groups(scans):
    names = [f"{patient}/study/{i}.dcm" for patient in "ABC" for i in range(2)]
    (scans / "all.csv").write_text(
        "path,label,reader\n" + "".join(f"{n},{'xy'[i % 2]},{i}\n" for i, n in enumerate(names))
    )
    assert load(of_path(scans / "all.csv")).group.tolist() == [0, 0, 1, 1, 2, 2]
    assert load(of_path(scans / "all.csv", group={"column": "PatientID"})).group.tolist() == [0, 0, 1, 1, 2, 2]
    assert load(of_path(scans / "all.csv", group={"column": "reader"})).group.tolist() == list(range(6))
    assert load(of_path(scans / "all.csv", group="unknown")).group is None


def test_names_serve_as_labels_and_groups_of_an_archive(tmp_path):
    pixels = np.arange(4 * 12, dtype=np.uint8).reshape(4, 4, 3)
    np.savez(tmp_path / "x.npz", images=pixels, labels=["well", "ill", "well", "ill"], group=["p2", "p1", "p2", "p9"])
    images = load(tmp_path / "x.npz")
    assert (images.classes, images.labels.tolist(), images.group.tolist()) == (
        ("ill", "well"),
        [1, 0, 1, 0],
        [1, 0, 1, 2],
    )
    np.savez(tmp_path / "y.npz", images=pixels.astype(np.uint16), labels=[0, 1, 0, 1])
    with pytest.raises(sets.BadImages, match="images // 257"):
        load(tmp_path / "y.npz")


def test_the_adapter_of_a_path_is_found_by_what_it_holds(tmp_path, brains):
    level(tmp_path / "classes" / "a" / "1.png", 1)
    dicom(tmp_path / "dicom" / "p" / "s" / "IM1", flat(1))
    dicom(tmp_path / "loose" / "IM1", flat(1))
    dicom(tmp_path / "dicom_classes" / "a" / "IM1", flat(1))
    nifti(tmp_path / "volumes" / "v.nii", layers(1, 2))
    (tmp_path / "empty").mkdir()
    level(tmp_path / "deep" / "train" / "a" / "1.png", 1)
    expected = {"classes": "folder", "dicom": "dicom", "loose": "dicom", "dicom_classes": "folder", "volumes": "nifti",
                "empty": "folder", "deep": "folder", "x.csv": "table", "x.TSV": "table", "x.parquet": "table",
                "x.npz": "npz"}  # fmt: skip
    assert {name: adapter_of(tmp_path / name) for name in expected} == expected
    for name in ("x.txt", "x.nii", "x.dcm", "x.png", "noname"):
        with pytest.raises(BadSource, match="neither a folder of images nor a file of a known kind"):
            adapter_of(tmp_path / name)
