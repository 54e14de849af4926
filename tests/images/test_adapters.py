"""Adapters: which rows, labels, groups and frames a folder, a table, DICOM and NIfTI files give."""

import warnings

import nibabel
import numpy as np
import pandas as pd
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import BasicTextSRStorage, ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from intrinsic import images as sets
from intrinsic.images import BadRule, BadSource, GroupRule, LabelRule, load, of_path
from intrinsic.images.adapters import adapter_of


def level(path, value, shape=(4, 3)):
    """A PNG whose pixels all have one value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(shape, value, np.uint8)).save(path)


def levels(images):
    """The one value of each image."""
    flat = images.images.reshape(len(images), -1)
    assert (flat == flat[:, :1]).all()
    return flat[:, 0].tolist()


def dicom(path, values, **tags):
    """An 8-bit DICOM file of values (H, W) or (frames, H, W)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = SecondaryCaptureImageStorage, "1.2.3"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = SecondaryCaptureImageStorage, "1.2.3"
    if values.ndim == 3:
        data.NumberOfFrames = len(values)
    data.Rows, data.Columns = values.shape[-2:]
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 0
    data.BitsAllocated, data.BitsStored, data.HighBit = 8, 8, 7
    for name, value in tags.items():
        setattr(data, name, value)
    data.PixelData = values.tobytes() + b"\0" * (values.size % 2)
    data.save_as(path, enforce_file_format=True)


def flat(value, shape=(4, 3)):
    return np.full(shape, value, np.uint8)


def nifti(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)


def layers(*values, shape=(3, 4)):
    """A volume whose axial slice i has the value i of those given."""
    return np.repeat(np.array(values, np.uint8)[None], np.prod(shape), axis=0).reshape(*shape, len(values))


# ------------------------------------------------------------------------------------------ Folder


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


def test_what_is_no_image_is_left_out_and_said_where_nothing_else_is_there(tmp_path):
    for name in ("a/1.png", "b/1.png"):
        level(tmp_path / name, 7)
    for junk in ("a/Thumbs.db", "a/.hidden.png", "a/__MACOSX/2.png", ".git/x.png", "a/x.png/notes.txt", "b/readme"):
        (tmp_path / junk).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / junk).write_bytes(b"text")
    assert load(tmp_path).paths == ("a/1.png", "b/1.png")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "scan.mha").write_bytes(b"")
    with pytest.raises(BadSource, match=r"c holds no picture, only files of other kinds, e\.g\. 'scan\.mha'"):
        load(tmp_path)


def test_what_is_left_out_of_class_folders_and_beside_them_is_counted_in_one_warning(tmp_path):
    names = ["a/1.png", "a/2.ppm", "a/3.pgm", "a/4.JFIF", "b/5.jpe", "b/6.jif", "b/7.dib"]
    for i, name in enumerate(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        kind = {".ppm": "PPM", ".pgm": "PPM", ".dib": "DIB", ".png": "PNG"}.get((tmp_path / name).suffix, "JPEG")
        Image.fromarray(flat(i)).save(tmp_path / name, format=kind)
    beside = ("a/Thumbs.db", "a/x.txt", "b/README", "b/x.JSON", "b/SHA256SUMS", "a/1.png.md5", "a/.x.heic", "model.pt")
    for name in beside:
        (tmp_path / name).write_bytes(b"no image")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images = load(tmp_path)
    assert (images.paths, levels(images)) == (tuple(names), list(range(7)))
    for name in ("a/x.heic", "a/y.HEIC", "b/z.nrrd", "b/scan"):
        (tmp_path / name).write_bytes(b"")
    with pytest.warns(
        UserWarning, match=r"4 files in its class folders .*\(\.heic 2, without suffix 1, \.nrrd 1\);"
    ) as told:
        assert load(tmp_path).content_hash() == images.content_hash()
    level(tmp_path / "loose.png", 1)
    said = r"not all of .* is read: 4 files .* and 1 images lie beside its class folders, e\.g\. 'loose\.png'; save"
    with pytest.warns(UserWarning, match=said) as both:
        assert load(tmp_path).content_hash() == images.content_hash()
    assert len(told) == len(both) == 1


def test_of_names_that_begin_with_underscores_two_folders_alone_are_hidden(tmp_path):
    for i, name in enumerate(["__none/1.png", "b/__MACOSX/2.png", "b/__pycache__/3.png", "b/__x.png"]):
        level(tmp_path / name, i)
    images = load(tmp_path)
    assert (images.classes, images.paths) == (("__none", "b"), ("__none/1.png", "b/__x.png"))


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


def test_any_text_can_be_a_name(tmp_path):
    names = ["<b>bold</b>", "пациент №5", "two words", "new\nline", "a,b;c#1", "=1+1"]
    for i, name in enumerate(names):
        level(tmp_path / name.replace("/", "∕") / "<script>alert(1)<∕script> 'ß\".png", i)
    images = load(tmp_path)
    assert set(images.classes) == {name.replace("/", "∕") for name in names}
    for path, value in zip(images.paths, levels(images), strict=True):
        assert path.split("/")[0] == names[value].replace("/", "∕")


def test_a_folder_that_may_not_be_listed_is_named(tmp_path, monkeypatch):
    level(tmp_path / "a" / "1.png", 1)
    level(tmp_path / "b" / "1.png", 1)
    listed = type(tmp_path).iterdir

    def iterdir(path):
        if path.name == "b":
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(type(tmp_path), "iterdir", iterdir)
    with pytest.raises(BadSource, match=r"b cannot be listed \(Permission denied\)"):
        load(tmp_path)


# ------------------------------------------------------------------------------------------ Table


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


def test_cells_are_text_that_leading_zeros_and_words_survive(chest):
    images = load(of_path(chest / "train.csv", labels={"column": "score"}))
    assert images.classes == ("3", "1.50", "None", "two\nlines, and a comma", "x")
    images = load(of_path(chest / "train.csv", labels={"column": "patient", "pattern": "^0+(.*)", "missing": "as:12"}))
    assert images.classes == ("7", "12")
    with pytest.raises(BadRule, match=r"png/d\.png has no label, as 2 of 5"):
        load(of_path(chest / "train.csv", labels={"column": "finding"}))
    with pytest.raises(BadRule, match=r"no column 'findings'.*did you mean 'finding'"):
        load(of_path(chest / "train.csv", labels={"column": "findings"}))


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


def test_paths_start_at_the_table_or_at_the_root_that_is_given(chest):
    (chest / "lists").mkdir()
    (chest / "lists" / "x.csv").write_text(
        f"path,label\npng/a.png,0\n{chest}/png/b.png,1\n../{chest.name}/png/c.png,1\n"
    )
    options = {"table": "lists/x.csv", "root": "."}
    assert levels(load(of_path(chest, adapter="table", options=options))) == [0, 10, 20]
    with pytest.raises(sets.BadImageFile, match=r"2 of 3 files do not exist, e\.g\. .*lists/png/a\.png"):
        load(chest / "lists" / "x.csv")


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
    with pytest.raises(BadSource, match=r"patients\.csv has no column 'patient' \(its columns are id, sex\)"):
        load(entry)


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("file,label\na,1\n", {}, r"t\.csv has no column 'path' \(its columns are file, label\).*--path-column"),
        ("paths,label\na,1\n", {}, "did you mean 'paths'"),
        ("path,label\n,1\n", {}, "names no file in row 1"),
        ("path,label\n", {}, "names no image"),
        ("", {}, "cannot be read as a table"),
        ("path,label\na,1\nb,2,3,4\n", {}, r"t\.csv has 4 cells in line 3 and 2 in its first line.*as many"),
        ("path,label\na,1,\nb,2,x\n", {}, r"t\.csv has 3 cells in row 2 and 2 in its first line"),
        ("path,label\n0,a,1\n1,b,2\n", {}, r"t\.csv has 3 cells in row 1 and 2 in its first line"),
        ("path,path,label\na,b,1\n", {}, r"t\.csv has 2 columns 'path', so it is open"),
        ("path,label,label\na,1,2\n", {}, r"there are 2 columns 'label', so the label of an image is open"),
        ("path,i,i\na,1,2\n", {"frame_column": "i"}, r"t\.csv has 2 columns 'i'"),
        ("path,i,i\na,1,2\n", {"join": {"table": "t.csv", "column": "i"}}, r"t\.csv has 2 columns 'i'"),
        (b"path,label\n\xff\xfe,1\n", {}, "cannot be read as a table.*UTF-8"),
        ("a,1\n", {"columns": ["path"]}, "has 2 columns, and 1 names"),
        ("path,label\na,1\n", {"frame_column": "z"}, "no column 'z'"),
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
    assert seen(" path,label,group", " {0} ,{1},{2}") == expected  # the files exist without the spaces alone
    assert seen("path,note,note,label,group", "{0},1.0,z,{1},{2}") == expected  # twice, and not used
    long = "label, of, the, image"
    assert seen(f'"path";"{long}";group', "{0};{1};{2}", labels={"column": long}) == expected
    long = "label,of,the,image"
    assert seen(f'"path","{long}",group', "{0},{1},{2}", labels={"column": long}) == expected


def test_a_path_keeps_the_spaces_of_its_file(tmp_path):
    for i, name in enumerate((" a.png", "a.png", "b.png")):
        level(tmp_path / name, i)
    (tmp_path / "t.csv").write_text("path,label\n a.png,x\na.png,x\n b.png,y\n")
    images = load(tmp_path / "t.csv")
    assert (images.paths, levels(images)) == ((" a.png", "a.png", "b.png"), [0, 1, 2])


def test_bytes_in_parquet_are_text(chest):
    table = pd.DataFrame({"path": [b"png/a.png", b"png/b.png"], "label": ["é".encode(), b"1"], "group": [b"7", b"8"]})
    table.to_parquet(chest / "t.parquet")
    images = load(chest / "t.parquet")
    assert (images.paths, levels(images)) == (("png/a.png", "png/b.png"), [0, 10])
    assert (images.classes, images.labels.tolist(), images.group.tolist()) == (("1", "é"), [1, 0], [7, 8])


def test_a_damaged_parquet_file_is_named(tmp_path):
    (tmp_path / "t.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(BadSource, match=r"t\.parquet cannot be read as a table"):
        load(tmp_path / "t.parquet")


def test_options_that_do_not_fit_are_refused_when_the_entry_is_made(tmp_path):
    for options, message in (
        ({"path_pattern": "("}, "not a regular expression"),
        ({"jion": 3}, "did you mean 'join'"),
        ({"join": {"table": "x.csv"}}, r"join\.column"),
        ({"columns": ["path", "a", "a"]}, "'a' is named twice"),
    ):
        with pytest.raises(BadSource, match=message):
            of_path(tmp_path / "t.csv", options=options)
    for adapter, options, message in (
        ("nifti", {"axis": 3}, "axis"),
        ("nifti", {"from": 0.5, "to": 0.4}, "holds no slice"),
        ("nifti", {"mask_pattern": "x"}, "belong together"),
        ("dicom", {"tags": ["PatientsAge"]}, "'PatientsAge' is no keyword"),
    ):
        with pytest.raises(BadSource, match=message):
            of_path(tmp_path, adapter=adapter, options=options)


# ------------------------------------------------------------------------------------------ DICOM


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
    with pytest.raises(BadRule, match="x/y/0 cannot be read, as of 4 of 5"):
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


# ------------------------------------------------------------------------------------------ NIfTI


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
    with pytest.raises(BadSource, match=r"p2_seg\.nii\.gz of .*p2_flair.* cannot be opened \(No such file"):
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


# ------------------------------------------------------------------------------------------ What a path is


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


def test_a_name_that_ends_like_a_table_is_a_path(tmp_path, monkeypatch, chest):
    monkeypatch.chdir(chest)
    assert sets.find("train.csv").adapter == "table"
    with pytest.raises(sets.UnknownImageSet, match=r"other\.tsv does not exist.*\.csv"):
        sets.find("other.tsv")


# ---------------------------------------------------------------------------------- DICOM in ordinary folders


def test_patients_of_dicom_files_in_class_folders_are_the_groups(tmp_path):
    for i, (folder, patient) in enumerate((("ill", "b"), ("ill", "a"), ("ill", "a"), ("well", "c"), ("well", "a"))):
        dicom(tmp_path / folder / f"{i}.dcm", flat(i), PatientID=patient)
    images = load(tmp_path)
    assert levels(images) == [0, 1, 2, 3, 4]
    assert images.group.tolist() == [1, 0, 0, 2, 0]
    dicom(tmp_path / "well" / "9.dcm", np.stack([flat(9), flat(10)]), PatientID="c")
    assert load(tmp_path).group.tolist() == [1, 0, 0, 2, 0, 2, 2]
    dicom(tmp_path / "well" / "nobody.dcm", np.stack([flat(11), flat(12)]))
    said = r"the patient of well/nobody\.dcm cannot be read, as of 2 of 9 .*unmatched: own.*group: unknown.*--draft"
    with pytest.raises(BadRule, match=said):
        load(tmp_path)
    own = load(of_path(tmp_path, group={"unmatched": "own"})).group
    assert [own.tolist().index(i) for i in own] == [0, 1, 1, 3, 1, 3, 3, 7, 7]  # frames of one file stay together
    assert load(of_path(tmp_path, group="unknown")).group is None
    (tmp_path / "well" / "nobody.dcm").unlink()
    level(tmp_path / "well" / "x.png", 13)
    with pytest.raises(BadRule, match=r"the patient of well/x\.png cannot be read, as of 1 of 8"):
        load(tmp_path)


def test_folders_of_one_patient_each_are_no_classes_where_a_file_names_none(tmp_path):
    for i in range(6):
        dicom(tmp_path / f"p{i % 3}" / f"{i}.dcm", flat(i), PatientID=f"x{i % 3}" if i else "")
    with pytest.raises(BadSource, match=r"each of the 3 folders in .* holds one patient"):
        load(tmp_path)


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
        of_path(tmp_path, labels={"column": "Nonsense"})
    with pytest.raises(BadSource, match=r"each of the 3 folders in .* holds one patient"):
        load(tmp_path)


def test_a_number_of_frames_that_is_no_number_is_told_with_its_file(tmp_path):
    for i in range(4):
        dicom(tmp_path / "ab"[i % 2] / f"{i}.dcm", flat(i))
    file = tmp_path / "a" / "0.dcm"
    dicom(file, flat(0), NumberOfFrames="1")
    content = file.read_bytes()
    file.write_bytes(content.replace(b"IS\x02\x001 ", b"IS\x02\x001A"))
    assert file.read_bytes() != content
    with pytest.raises(BadSource, match=r"a/0\.dcm"):
        load(tmp_path)
    images = load(tmp_path, skip_unreadable=True)
    assert levels(images) == [2, 1, 3]
    assert [name for name, _ in images.unreadable] == ["a/0.dcm"]


# ------------------------------------------------------------------------------------------ Small kindnesses


@pytest.mark.parametrize("sign", [",", ";", "\t"])
def test_what_separates_the_cells_of_a_csv_is_found(tmp_path, sign):
    for name, value in (("a", 3), ("b", 5)):
        level(tmp_path / f"{name}.png", value)
    (tmp_path / "t.csv").write_text(
        "\n".join(sign.join(row) for row in (["path", "label"], ["a.png", "x"], ["b.png", "y"]))
    )
    images = load(tmp_path / "t.csv")
    assert (levels(images), images.classes) == ([3, 5], ("x", "y"))


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


def test_spaces_around_the_names_of_an_archive_do_not_count(tmp_path):
    pixels = np.arange(3 * 12, dtype=np.uint8).reshape(3, 4, 3)
    np.savez(tmp_path / "x.npz", images=pixels, labels=[0, 1, 0], class_names=[" a", "b "])
    images = load(tmp_path / "x.npz")
    assert (images.classes, images.labels.tolist()) == (("a", "b"), [0, 1, 0])
    np.savez(tmp_path / "x.npz", images=pixels, labels=["a", "b", "a "], group=["p", "q", " p"])
    images = load(tmp_path / "x.npz")
    assert (images.classes, images.labels.tolist(), images.group.tolist()) == (("a", "b"), [0, 1, 0], [0, 1, 0])
    np.savez(tmp_path / "x.npz", images=pixels, labels=[0, 1, 2], class_names=["a", "b", "a "])
    with pytest.raises(sets.BadImages, match=r"x\.npz: two classes have the same name"):
        load(tmp_path / "x.npz")


# ------------------------------------------------------------------------------------------ Tables beside images


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
    with pytest.raises(BadSource, match=r"labels\.csv has no column 'PatientID' \(.* patient, label\).*--join-on"):
        load(of_path(scans, adapter="dicom", options={"join": {"table": "labels.csv", "column": "PatientID"}}))


def test_labels_of_volumes_and_patients_of_pictures_come_from_a_table(tmp_path):
    for i, name in enumerate("abc"):
        nifti(tmp_path / f"mri/{name}/t1.nii.gz", layers(i, i + 100))
    table = tmp_path / "ages.csv"
    table.write_text("scan,old\n" + "".join(f"{name}/t1.nii.gz,{int(name == 'b')}\n" for name in "abc"))
    joined = {"table": str(table), "column": "volume", "other": "scan"}
    images = load(of_path(tmp_path / "mri", adapter="nifti", options={"join": joined}, labels={"column": "old"},
                          levels="range:0,255"))  # fmt: skip
    assert images.labels.tolist() == [0, 0, 1, 1, 0, 0]
    assert images.group.tolist() == [0, 0, 1, 1, 2, 2]
    for i, name in enumerate(["no/1.png", "no/2.png", "yes/1.png", "yes/2.png"]):
        level(tmp_path / "png" / name, i)
    table.write_text("path,who\nno/1.png,p\nno/2.png,q\nyes/1.png,p\nyes/2.png,r\n")
    joined = {"table": str(table), "column": "path"}
    images = load(of_path(tmp_path / "png", options={"join": joined}, group={"column": "who"}))
    assert (images.labels.tolist(), images.group.tolist()) == ([0, 0, 1, 1], [0, 1, 0, 2])


def test_a_second_table_without_any_of_the_images_is_refused_and_an_empty_first_one_as_before(tmp_path):
    (tmp_path / "other.csv").write_text("who,label\nq,x\n")
    (tmp_path / "first.csv").write_text("path,who\na.png,p\n")
    joined = {"table": "other.csv", "column": "who"}
    with pytest.raises(BadSource, match=r"no image of .*first\.csv has a who that .*\(e\.g\. 'p' here, 'q' there\)"):
        load(of_path(tmp_path / "first.csv", options={"join": joined}))
    (tmp_path / "first.csv").write_text("path,who\n")
    with pytest.raises(BadSource, match="names no image in its column 'path'"):
        load(of_path(tmp_path / "first.csv", options={"join": joined}))


def test_nested_class_folders_may_hold_dicom_files(tmp_path):
    for i, name in enumerate(["no/A/1.dcm", "no/B/1.dcm", "yes/C/1.dcm", "yes/C/2.dcm"]):
        dicom(tmp_path / name, flat(i), PatientID=name[-7])
    images = load(of_path(tmp_path, options={"nested": True}))
    assert (images.classes, images.labels.tolist(), images.group.tolist()) == (
        ("no", "yes"),
        [0, 0, 1, 1],
        [0, 1, 2, 2],
    )
    by_rule = load(of_path(tmp_path, options={"nested": True}, labels={"column": "folder"}))
    assert (by_rule.classes, by_rule.labels.tolist()) == (images.classes, images.labels.tolist())


def test_a_table_that_names_dicom_files_has_their_patients_as_groups(scans):
    names = [f"{patient}/study/{i}.dcm" for patient in "ABC" for i in range(2)]
    (scans / "all.csv").write_text(
        "path,label,reader\n" + "".join(f"{n},{'xy'[i % 2]},{i}\n" for i, n in enumerate(names))
    )
    assert load(of_path(scans / "all.csv")).group.tolist() == [0, 0, 1, 1, 2, 2]
    assert load(of_path(scans / "all.csv", group={"column": "PatientID"})).group.tolist() == [0, 0, 1, 1, 2, 2]
    assert load(of_path(scans / "all.csv", group={"column": "reader"})).group.tolist() == list(range(6))
    assert load(of_path(scans / "all.csv", group="unknown")).group is None
