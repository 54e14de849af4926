"""The paper's medical sets in the folders it expects: rows, labels, groups."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from intrinsic import images as sets


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A made-up INTRINSIC_DATA, and no cache but its own."""
    monkeypatch.setenv("INTRINSIC_DATA", str(tmp_path / "data of mine"))
    monkeypatch.setenv("INTRINSIC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "data of mine"


def write(folder, names, shape=(5, 4)):
    """Pictures that differ, as {name: pixels}; PNG inside whatever the name says, so that pixels are exact."""
    made = {}
    for i, name in enumerate(names):
        pixels = np.random.default_rng(i).integers(0, 200, shape, dtype=np.uint8)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name, format="PNG")
        made[name] = pixels
    return made


def litter(folder):
    """What systems leave beside pictures."""
    for name in (".DS_Store", "Thumbs.db", "._1_0_1.jpg"):
        (folder / name).write_bytes(b"no picture")


def check(images, written, expected):
    """`expected` lists (path, label name, group) in order; every pixel is that of the file."""
    assert list(images.paths) == [path for path, _, _ in expected]
    assert [images.classes[y] for y in images.labels] == [label for _, label, _ in expected]
    groups = [group for _, _, group in expected]
    assert (None if images.group is None else images.group.tolist()) == (None if groups[0] is None else groups)
    for path, pixels in zip(images.paths, images.images, strict=True):
        assert np.array_equal(pixels, written[path])


def test_brats_is_labelled_by_folder_and_grouped_by_the_volume_in_the_name(data):
    root = data / "brats/Brats_normalized/flair"
    written = write(root, ["0/0_0_103.jpg", "0/0_12_9.JPG", "1/1_0_39.jpg", "1/1_012_40.jpeg", "1/1_3_7.jpg"])
    litter(root)
    litter(root / "1")
    expected = [
        ("0/0_0_103.jpg", "no tumour", 0),
        ("0/0_12_9.JPG", "no tumour", 12),
        ("1/1_012_40.jpeg", "tumour", 12),
        ("1/1_0_39.jpg", "tumour", 0),
        ("1/1_3_7.jpg", "tumour", 3),
    ]
    check(sets.load("brats"), written, expected)


def test_brats_with_names_of_another_preparation_has_no_groups_and_still_loads(data):
    root = data / "brats/Brats_normalized/flair"
    written = write(root, ["0/0_0_103.jpg", "1/Schädel (1) 7.jpg"])
    expected = [("0/0_0_103.jpg", "no tumour", None), ("1/Schädel (1) 7.jpg", "tumour", None)]
    check(sets.load("brats"), written, expected)


def test_dbc_is_grouped_by_the_patient_at_the_end_of_the_name(data):
    root = data / "dbc/png_subset"
    names = ["neg/1-052-876.png", "neg/1-52-007.PNG", "pos/1-003-7.png", "pos/Brüste (2)-1-876.png"]
    written = write(root, names)
    litter(root / "neg")
    expected = list(
        zip(names, ["no tumour", "no tumour", "tumour", "tumour"], [876, 7, 7, 876], strict=True),
    )
    check(sets.load("dbc"), written, expected)


def test_prostate_scores_are_divided_between_1_and_2_and_folders_may_be_absent(data):
    root = data / "prostate/train_png"
    names = ["1/0_40.png", "2/0_41.png", "3/17_40.png", "5/17_41.png"]
    written = write(root, names)
    labels = ["low score", "high score", "high score", "high score"]
    check(sets.load("prostate"), written, list(zip(names, labels, [0, 0, 17, 17], strict=True)))


def test_prostate_hard_leaves_low_scores_out_and_does_not_read_them(data):
    root = data / "prostate/train_png"
    written = write(root, ["2/0_41.png", "3/17_40.png", "4/9_1.png"])
    (root / "0").mkdir()
    (root / "0/5_5.png").write_bytes(b"damaged")
    expected = [("2/0_41.png", "score 2", 0), ("3/17_40.png", "score 3 to 5", 17), ("4/9_1.png", "score 3 to 5", 9)]
    check(sets.load("prostate_hard"), written, expected)


def rsna_table(data, findings):
    """stage_2_train.csv with two of its six rows a slice: {id: (any, subarachnoid)}."""
    (data / "rsna").mkdir(parents=True)
    rows = [
        f"{name}_{kind},{value}"
        for name, values in findings.items()
        for kind, value in zip(("any", "subarachnoid", "epidural"), (*values, 0), strict=True)
    ]
    (data / "rsna/stage_2_train.csv").write_text("ID,Label\n" + "\n".join(rows) + "\n")


def test_rsna_takes_one_row_of_each_slice_in_the_order_of_the_table(data):
    rsna_table(data, {"ID_0b": (1, 0), "ID_0a": (0, 0), "ID_00c": (1, 1)})
    written = write(data / "rsna/stage_2_train_png", ["ID_00c.png", "ID_0a.png", "ID_0b.png"])
    any_kind, one_kind = sets.load("rsna"), sets.load("rsna_subarachnoid")
    names, yes, no = ["ID_0b.png", "ID_0a.png", "ID_00c.png"], "hemorrhage", "no hemorrhage"
    check(any_kind, written, list(zip(names, [yes, no, yes], [None] * 3, strict=True)))
    yes, no = "subarachnoid hemorrhage", "no subarachnoid hemorrhage"
    check(one_kind, written, list(zip(names, [no, no, yes], [None] * 3, strict=True)))


def chexpert_table(data):
    """train_subset.csv in CheXpert's own notation of findings; the names of its pictures."""
    root = data / "chexpert/CheXpert-v1.0"
    root.mkdir(parents=True)
    rows = [("00002", "1.0", ""), ("00001", "", "0.0"), ("00001", "-1.0", "1.0"), ("64534", "0.0", "-1.0")]
    lines, names = ["Path,Sex,Pleural Effusion,Edema,New Path"], []
    for i, (patient, effusion, edema) in enumerate(rows):
        old = f"CheXpert-v1.0/train/patient{patient}/study{i}/view1_frontal.jpg"
        names.append(old.replace("/", "_"))
        lines.append(f"{old},Female,{effusion},{edema},{names[-1]}")
    (root / "train_subset.csv").write_text("\n".join(lines) + "\n")
    return names, write(root / "subset/train", names)


def test_chexpert_effusion_is_present_only_where_it_says_so(data):
    names, written = chexpert_table(data)
    labels = ["effusion", "no effusion", "no effusion", "no effusion"]  # 1, empty, -1, 0
    check(sets.load("chexpert"), written, list(zip(names, labels, [2, 1, 1, 64534], strict=True)))


def test_chexpert_edema_is_another_column_of_the_same_table(data):
    names, written = chexpert_table(data)
    labels = ["no edema", "no edema", "edema", "no edema"]  # empty, 0, 1, -1
    check(sets.load("chexpert_edema"), written, list(zip(names, labels, [2, 1, 1, 64534], strict=True)))


def test_mura_reads_label_and_patient_from_the_paths_of_a_table_without_a_header(data):
    names = [
        "MURA-v1.1/train/XR_SHOULDER/patient00001/study1_positive/image1.png",
        "MURA-v1.1/train/XR_SHOULDER/patient00002/study1_negative/image1.png",
        "MURA-v1.1/train/XR_HAND/patient00001/study2_negative/image3.png",
    ]
    written = write(data / "mura", names)
    (data / "mura/MURA-v1.1/train_image_paths.csv").write_text("\n".join(names) + "\n")
    check(sets.load("mura"), written, list(zip(names, ["abnormal", "normal", "normal"], [1, 2, 1], strict=True)))


def test_oai_keeps_both_knees_of_a_person_in_one_group(data):
    names = ["0/9000099_L.png", "0/9000296_R.PNG", "1/9000099_R.png"]
    written = write(data / "oai/OAI_img", names)
    litter(data / "oai/OAI_img/0")
    labels = ["KL 0 to 1", "KL 0 to 1", "KL 2 to 4"]
    check(sets.load("oai"), written, list(zip(names, labels, [9000099, 9000296, 9000099], strict=True)))


def test_isic_is_colour_and_grouped_by_lesion_each_picture_without_one_alone(data):
    ids = ["ISIC_0000000", "ISIC_0000001_downsampled", "ISIC_0000002", "ISIC_0000003"]
    root = data / "isic"
    written = write(root / "ISIC_2019_Training_Input/ISIC_2019_Training_Input", [f"{i}.jpg" for i in ids], (5, 4, 3))
    (root / "ISIC_2019_Training_GroundTruth.csv").write_text(
        "image,MEL,NV\n" + "".join(f"{i},{1 - nv}.0,{nv}.0\n" for i, nv in zip(ids, (1, 0, 1, 0), strict=True))
    )
    (root / "ISIC_2019_Training_Metadata.csv").write_text(
        f"image,age_approx,lesion_id,sex\n{ids[3]},40,MSK4_1,male\n{ids[2]},,,\n{ids[1]},,,\n{ids[0]},55,MSK4_1,male\n"
    )
    images = sets.load("isic")
    assert images.images.shape == (4, 5, 4, 3)
    assert images.paths == tuple(f"{i}.jpg" for i in ids)
    assert [images.classes[y] for y in images.labels] == ["nevus", "other lesion", "nevus", "other lesion"]
    assert images.group[0] == images.group[3]
    assert len(set(images.group.tolist())) == 3
    for path, pixels in zip(images.paths, images.images, strict=True):
        assert np.array_equal(pixels, written[path])


def test_of_a_larger_class_the_same_images_are_read_wherever_they_stand(data, tmp_path):
    root = data / "oai/OAI_img"
    names = [f"{i % 2}/{9000000 + i}_L.png" for i in range(40)]
    write(root, names)
    entry = sets.find("oai")
    few, more = (sets.load(entry.model_copy(update={"at_most": n})) for n in (3, 8))
    assert few.counts() == {"KL 0 to 1": 3, "KL 2 to 4": 3}
    assert set(few.paths) < set(more.paths)
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in names}
    for folder in "01":
        mine = sorted((n for n in names if n[0] == folder), key=digests.get)[:3]
        assert sorted(n for n in few.paths if n[0] == folder) == sorted(mine)
    for name in names:  # only what is used is read
        if name not in few.paths:
            (root / name).write_bytes(b"damaged")
    assert sets.load(entry.model_copy(update={"at_most": 3})).content_hash() == few.content_hash()
    assert len(sets.load(entry.model_copy(update={"at_most": 3}), size=3).paths) == 6


def test_an_absent_set_of_the_paper_says_where_it_belongs(data):
    with pytest.raises(sets.BadSource, match=r"Brats_normalized/flair does not exist: .*`intrinsic datasets brats`"):
        sets.load("brats")


def test_a_value_that_no_image_has_is_refused_unless_allowed(tmp_path):
    write(tmp_path, ["no/a.png", "yes/b.png"])
    rule = {"classes": {"low": ["no"], "high": ["yes", "perhaps"]}}
    with pytest.raises(sets.BadRule, match=r"'perhaps' of a class, but no, yes.*`unused: allow`"):
        sets.load(sets.of_path(tmp_path, labels=rule))
    assert sets.load(sets.of_path(tmp_path, labels=rule | {"unused": "allow"})).counts() == {"low": 1, "high": 1}
