import json
import os
import shlex
import subprocess
import sys

import numpy as np
import pytest
import yaml
from image_files import dicom
from PIL import Image

from intrinsic import cli
from intrinsic.campaigns import records
from intrinsic.publishing import report


def run(capsys, *arguments):
    code = cli.main(list(arguments))
    shown = capsys.readouterr()
    return code, shown.out, shown.err


@pytest.fixture
def folder(tmp_path):
    """Two classes of 40 random 12 x 12 images, with a pair across the classes one grey level apart."""
    rng = np.random.default_rng(0)
    root = tmp_path / "my scans ü"
    for name in ("ill", "well"):
        (root / name).mkdir(parents=True)
        for i in range(40):
            Image.fromarray(rng.integers(0, 256, (12, 12), dtype=np.uint8)).save(root / name / f"s {i:02d}.png")
    twin = np.array(Image.open(root / "ill" / "s 03.png"))
    twin[5, 5] ^= 1
    Image.fromarray(twin).save(root / "well" / "s 07.png")
    return root


def test_measure_a_folder_finds_the_closest_pair_of_different_labels(capsys, folder):
    code, out, err = run(capsys, "measure", str(folder), "--json", "--per-class", "30")
    facts = json.loads(out)
    assert (code, err) == (0, "")
    assert facts["n"] == 80
    assert facts["shape"] == [12, 12]
    assert facts["label_sharpness"]["value"] == pytest.approx(255)
    names = {one["path"].rsplit("/", 2)[-2:][0] + "/" + one["path"].rsplit("/", 1)[1]
             for one in facts["label_sharpness"]["pair"]}  # fmt: skip
    assert names == {"ill/s 03.png", "well/s 07.png"}
    assert facts["d_data"]["value"] > 0
    assert facts["twonn"]["low"] < facts["twonn"]["value"]
    assert facts["soundness"]["copies"] == facts["soundness"]["conflicting"] == 0


def test_copies_are_dropped_and_counted_and_conflicts_make_k_f_null(capsys, folder):
    (folder / "ill" / "t.png").write_bytes((folder / "ill" / "s 01.png").read_bytes())
    (folder / "well" / "t.png").write_bytes((folder / "ill" / "s 02.png").read_bytes())
    code, out, _ = run(capsys, "measure", str(folder), "--json")
    facts = json.loads(out)
    assert code == 0
    assert facts["soundness"]["copies"] == 1
    assert facts["soundness"]["conflicting"] == 2
    assert facts["label_sharpness"]["value"] is None
    assert facts["finite_sharpness"]["value"] == pytest.approx(255)
    assert {one["path"].rsplit("/", 1)[1] for one in facts["label_sharpness"]["pair"]} == {"s 02.png", "t.png"}
    code, out, _ = run(capsys, "measure", str(folder))
    first = next(line for line in out.splitlines() if line.startswith("  1. "))
    assert code == 0
    assert "ill/s 02.png (ill) | well/t.png (well)" in first + out.split(first)[1].splitlines()[1].strip()


def test_what_is_printed_is_short_and_gives_the_next_command(capsys, folder):
    for i in range(12):
        copy = folder / "well" / f"copy {i}.png"
        copy.write_bytes((folder / "ill" / f"s {i:02d}.png").read_bytes())
    code, out, _ = run(capsys, "measure", str(folder), "--per-class", "20")
    assert code == 0
    assert len(out.splitlines()) <= 25
    following = next(line for line in out.splitlines() if line.startswith("Next: "))
    words = shlex.split(following.removeprefix("Next: ").split("   ")[0])
    assert words[:3] == ["intrinsic", "measure", str(folder)]
    assert len(run(capsys, "measure", str(folder), "--details")[1].splitlines()) > len(out.splitlines())


def test_families_of_flagged_pictures_serve_as_groups(capsys, folder, tmp_path):
    for i in range(3):
        near = np.array(Image.open(folder / "ill" / f"s {i:02d}.png"))
        near[0, 0] ^= 1
        Image.fromarray(near).save(folder / "ill" / f"near {i}.png")
    table = str(tmp_path / "suspects.csv")
    code, out, _ = run(capsys, "measure", str(folder), "--flagged", table)
    words = shlex.split(next(line for line in out.splitlines() if "--group-column" in line).split("groups: ")[1])
    assert code == 0
    code, out, err = run(capsys, "measure", str(folder), "--json", *words)
    facts = json.loads(out)
    assert (code, err) == (0, "")
    assert facts["n"] == 83
    assert facts["groups"] == 83 - 4  # three families and the pair of the fixture


def test_a_class_name_stays_on_one_line_and_runs_nothing(capsys, tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (30, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", images=x, labels=np.arange(30) % 3, class_names=["a\nb", "<i>c</i>", "d"])
    code, out, _ = run(capsys, "measure", str(tmp_path / "x.npz"))
    assert code == 0
    assert "a\\nb" in out
    assert "a\n" not in out


def test_one_class_is_an_error_in_one_sentence(capsys, folder):
    for file in (folder / "well").iterdir():
        file.unlink()
    (folder / "well").rmdir()
    code, out, err = run(capsys, "measure", str(folder))
    assert code == 1
    assert out == ""
    assert "one class" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["measure", "no_such_set"],
        ["run", "no/such.yaml"],
        ["status", "no/such.yaml"],
        ["book", "--params", "no/such.yaml"],
        ["datasets", "digitz"],
    ],
)
def test_what_does_not_exist_gets_one_sentence_and_a_failure(capsys, arguments):
    code, out, err = run(capsys, *arguments)
    assert code == 1
    assert out == ""
    assert err.startswith(f"intrinsic {arguments[0]}: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("command", ["measure", "forecast", "run", "status", "report", "book", "datasets"])
def test_every_command_has_help_with_an_example(capsys, command):
    with pytest.raises(SystemExit) as caught:
        cli.main([command, "--help"])
    assert caught.value.code == 0
    assert "example: intrinsic " + command in capsys.readouterr().out


def test_measure_digits_prints_one_json_object(capsys):
    code, out, _ = run(capsys, "measure", "digits", "--json")
    facts = json.loads(out)
    assert code == 0
    assert (facts["n"], facts["shape"]) == (5000, [28, 28])
    sharp = facts["label_sharpness"]
    i, j = (one["index"] for one in sharp["pair"])
    from intrinsic import images

    digits = images.load("digits")
    assert digits.labels[i] != digits.labels[j]
    gap = np.linalg.norm(digits.images[i].astype(float) - digits.images[j].astype(float)) / 255
    assert sharp["value"] == pytest.approx(1 / gap, rel=1e-12)
    values = [q["value"] for q in facts["quantiles"]]
    assert values == sorted(values, reverse=True)
    assert values[0] < sharp["value"]
    assert all(q["value"] == pytest.approx(1 / q["distance"]) for q in facts["quantiles"])
    control = facts["control"]
    i, j = (one["index"] for one in control["pair"])
    assert digits.labels[i] == digits.labels[j]
    assert control["ratio"]["value"] == pytest.approx(sharp["value"] / control["value"], rel=1e-12)
    grown, law = facts["growth"]["exponent"], facts["growth"]["cross"]
    assert grown["low"] < grown["value"] < grown["high"]
    assert law["exponent"]["value"] == pytest.approx(2 / law["value"])
    assert len(facts["growth"]["per_class"]) == len(facts["growth"]["k_f"])
    assert facts["class_pairs"] is None  # two classes
    alike = [one for (kind, _), one in records.published().items() if kind == "properties" and one.params["size"] == 28]
    assert facts["compared"]["sets"] == len(alike) > 30
    assert facts["compared"]["below"] == sum(
        k_f < facts["sharpness_at_m"]["value"] for k_f in facts["compared"]["k_f"].values()
    )


def test_measure_has_a_matrix_where_there_are_more_classes(capsys, folder):
    rng = np.random.default_rng(1)
    (folder / "unsure").mkdir()
    for i in range(40):
        Image.fromarray(rng.integers(0, 256, (12, 12), dtype=np.uint8)).save(folder / "unsure" / f"{i}.png")
    code, out, _ = run(capsys, "measure", str(folder), "--json")
    matrix = json.loads(out)["class_pairs"]
    assert code == 0
    assert matrix["classes"] == ["ill", "unsure", "well"]
    assert matrix["sharpness"][0][2] == matrix["sharpness"][2][0] == pytest.approx(255)


def test_the_catalogue_is_listed_and_explained(capsys):
    code, out, _ = run(capsys, "datasets")
    assert code == 0
    assert "brain_mri_patches" in out
    code, out, _ = run(capsys, "datasets", "brain_mri_patches")
    assert code == 0
    assert "nilearn" in out


def test_a_set_of_ones_own_is_drafted_and_measured_by_name(capsys, folder, tmp_path, monkeypatch):
    monkeypatch.delenv("INTRINSIC_CATALOGUE", raising=False)
    code, out, err = run(capsys, "datasets", "--draft", str(folder), "--group-pattern", r"s (\d+)\.png$")
    assert (code, err) == (0, "")
    mine = tmp_path / "mine.yaml"
    mine.write_text(out, encoding="utf-8")
    code, out, _ = run(capsys, "datasets", "my_scans", "--catalogue", str(mine))
    assert code == 0
    assert r"s (\d+)" in out
    code, out, _ = run(capsys, "datasets", "--present", "--catalogue", str(mine))
    assert "my_scans " in out
    code, out, _ = run(capsys, "measure", "my_scans", "--catalogue", str(mine), "--json")
    assert (code, json.loads(out)["groups"]) == (0, 40)


def test_rules_for_a_set_that_has_them_already_are_refused(capsys):
    code, _, err = run(capsys, "measure", "digits_4_9", "--group-pattern", "x")
    assert code == 1
    assert "digits_4_9" in err


def test_images_whose_patient_cannot_be_read_are_patients_of_their_own_on_request(tmp_path, capsys):
    noise = np.random.default_rng(0).integers(0, 255, (2, 6, 8, 8), dtype=np.uint8)
    folder = grey_folder(tmp_path / "s", dict(zip(("ill", "well"), noise, strict=True)))
    by = ("measure", folder, "--json", "--group-pattern", "ill/000([0-3])")
    code, _, err = run(capsys, *by)
    assert code == 1
    assert "--ungrouped own" in err
    assert json.loads(run(capsys, *by, "--ungrouped", "own")[1])["groups"] == 12
    assert json.loads(run(capsys, *by, "--ungrouped", "unknown")[1])["groups"] is None


def grey_folder(root, classes):
    """A folder of class folders from {class: [pixels]}."""
    for name, pictures in classes.items():
        (root / name).mkdir(parents=True)
        for i, pixels in enumerate(pictures):
            Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(root / name / f"{i:04d}.png")
    return str(root)


def noise(n, seed=0):
    return list(np.random.default_rng(seed).integers(0, 256, (n, 6, 6)))


@pytest.mark.parametrize(
    ("classes", "says"),
    [
        ({str(i): [p] for i, p in enumerate(noise(30))}, "30"),
        (
            {"a": noise(20), "b": noise(20)},
            "0 are",
        ),
        (
            {"a": noise(20), "b": noise(30)},
            "10 are",
        ),
        ({"a": noise(1) * 9, "b": noise(1, 1) * 9}, "2 are"),
        ({"a": noise(2), "b": noise(1, 1)}, "3 are"),
    ],
)
def test_a_set_of_which_nothing_can_be_said_gets_one_sentence(capsys, tmp_path, classes, says):
    code, out, err = run(capsys, "measure", grey_folder(tmp_path / "x", classes))
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert says in err


def test_an_estimate_that_does_not_exist_is_said_to_be_none(capsys, tmp_path, recwarn):
    levels = [np.full((16, 16), 6 * i) for i in range(40)]  # evenly spaced: T_2 = T_1
    code, out, _ = run(capsys, "measure", grey_folder(tmp_path / "x", {"a": levels[::2], "b": levels[1::2]}), "--json")
    assert code == 0
    assert json.loads(out)["twonn"]["value"] is None
    assert not [w for w in recwarn if issubclass(w.category, RuntimeWarning)]


def test_names_of_files_that_are_no_text_are_shown_escaped(capsys, tmp_path):
    root = grey_folder(tmp_path / "x", {"a": noise(20), "b": noise(20, 1)})
    os.rename(os.path.join(root, "a", "0003.png"), os.path.join(os.fsencode(root), b"a", b"\xff\n.png"))
    code, out, _ = run(capsys, "measure", root, "--json")
    assert (code, json.loads(out)["n"]) == (0, 40)
    code, out, _ = run(capsys, "measure", root, "--flagged", str(tmp_path / "flagged.csv"))
    assert code == 0
    assert (tmp_path / "flagged.csv").exists()


def test_another_table_is_not_overwritten_by_that_of_flagged_images(capsys, tmp_path):
    root = grey_folder(tmp_path / "x", {"a": noise(20), "b": noise(20, 1)})
    labels = "path,label\n" + "".join(f"{c}/{i:04d}.png,{c}\n" for c in "ab" for i in range(20))
    table = tmp_path / "x" / "labels.csv"
    table.write_text(labels, encoding="utf-8")
    code, out, err = run(capsys, "measure", str(table), "--flagged", str(table))
    assert (code, out) == (1, "")
    assert str(table) in err
    assert table.read_text(encoding="utf-8") == labels
    own = tmp_path / "flagged.csv"
    for _ in range(2):  # its own table it replaces
        assert run(capsys, "measure", root, "--flagged", str(own))[0] == 0


def test_a_terminal_without_the_letters_of_a_name_shows_them_escaped(tmp_path):
    root = grey_folder(tmp_path / "\u65e5\u672c", {"a": noise(20), "b": noise(20, 1)})
    run_ = subprocess.run(
        [sys.executable, "-m", "intrinsic.cli", "measure", root],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run_.returncode == 0, run_.stderr
    assert "\\u65e5\\u672c" in run_.stdout


def test_a_size_beyond_memory_is_refused_before_any_picture_is_read(capsys):
    code, out, err = run(capsys, "measure", "digits", "--size", "100000")
    assert (code, out) == (1, "")
    assert "100000" in err


# --------------------------------------------------------------------------------------------- options


TINY = os.path.join(os.path.dirname(__file__), "tiny.yaml")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["datasets", "--label-column", "x"], "--draft"),
        (["datasets", "digits", "--nested"], "--draft"),
        (["datasets", "--levels", "full"], "--draft"),
        (["measure", "clean", "--join", "x.csv"], "--join-on"),
        (["measure", "clean", "--join-on", "path"], "--join"),
        (["datasets", "digits", "--draft", "clean"], "name"),
        (["datasets", "digits", "--present"], "name"),
        (["datasets", "--present", "--draft", "clean"], "present"),
    ],
)
def test_an_option_that_would_change_nothing_is_refused(capsys, own_store, arguments, says):
    code, out, err = run(capsys, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert says in err
    assert not own_store.exists()


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--workers", "0", "0"),
        ("--workers", "-2", "-2"),
        ("--workers", "two", "two"),
        ("--retries", "-1", "-1"),
        ("--run-minutes", "x", "x"),
    ],
)
def test_a_number_out_of_range_is_refused_before_anything_is_planned(capsys, option, value, says):
    with pytest.raises(SystemExit) as caught:
        cli.main(["run", TINY, "--dry-run", f"{option}={value}"])
    assert caught.value.code == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert option in shown.err
    assert f"'{says}'" in shown.err


def test_classes_that_are_not_named_are_left_out(capsys, folder, monkeypatch):
    monkeypatch.delenv("INTRINSIC_CATALOGUE", raising=False)
    whole = json.loads(run(capsys, "measure", str(folder), "--json")[1])["classes"]
    (rare := folder / "rare").mkdir()
    for i in range(2):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (16, 16), np.uint8)).save(rare / f"{i}.png")
    code, out, _ = run(capsys, "measure", str(folder), "--json", "--classes", *whole)
    assert (code, json.loads(out)["classes"]) == (0, whole)
    code, _, err = run(capsys, "measure", str(folder), "--classes", "rare", "none")
    assert code == 1
    assert "'none'" in err


def test_a_table_of_labels_is_joined_and_kept_by_the_draft(capsys, folder, tmp_path, monkeypatch):
    monkeypatch.delenv("INTRINSIC_CATALOGUE", raising=False)
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    table = tmp_path / "labels.csv"
    table.write_text("file,side\n" + "".join(f'"{name}",{"lr"[i % 2]}\n' for i, name in enumerate(names[:-1])))
    asked = ["--join", str(table), "--join-on", "path=file", "--label-column", "side", "--levels", "full"]
    code, out, err = run(capsys, "measure", str(folder), "--json", *asked)
    assert (code, json.loads(out)["n"], set(json.loads(out)["classes"])) == (0, len(names) - 1, {"l", "r"})
    assert f"1 of {len(names)} images" in err
    code, out, _ = run(capsys, "datasets", "--draft", str(folder), "--skip-unreadable", *asked)
    entry = yaml.safe_load(out)["my_scans"]
    assert (code, entry["levels"], entry["skip_unreadable"]) == (0, "full", True)
    assert entry["options"]["join"] == {"table": str(table), "column": "path", "other": "file", "how": "inner"}
    mine = tmp_path / "mine.yaml"
    mine.write_text(out, encoding="utf-8")
    again = json.loads(run(capsys, "measure", "my_scans", "--catalogue", str(mine), "--json")[1])
    assert again["n"] == len(names) - 1


def test_a_report_knows_the_options_on_labels_groups_and_grey_levels(capsys, tmp_path, monkeypatch):
    monkeypatch.delenv("INTRINSIC_CATALOGUE", raising=False)
    rng, scans = np.random.default_rng(0), tmp_path / "scans ü"
    for i in range(60):
        dicom(scans / f"p{i // 2}" / f"{i}.dcm", rng.integers(0, 256, (12, 12), np.uint8), PatientID=f"P{i // 2}")
    (tmp_path / "labels.csv").write_text("who,ill\n" + "".join(f"P{i},{i % 2}\n" for i in range(30)))
    made = []

    def executed(source, out, **_):
        asked = [sys.executable, "-m", "intrinsic.cli", "measure", source, "--json"]  # as a kernel: another process
        made.append(json.loads(subprocess.run(asked, capture_output=True, text=True, check=True).stdout))
        return out

    monkeypatch.setattr(report, "report", executed)
    joined = ["--join", str(tmp_path / "labels.csv"), "--join-on", "PatientID=who", "--label-column", "ill"]
    code, out, err = run(capsys, "report", str(scans), *joined, "--out", "page.html")
    assert (code, out, err) == (0, "page.html\n", "")
    assert (made[0]["classes"], made[0]["groups"]) == ({"0": 30, "1": 30}, 30)
    assert os.environ.get("INTRINSIC_CATALOGUE", "") == ""
    (tmp_path / "digits").symlink_to(scans)
    code, _, err = run(capsys, "report", f"{tmp_path}/digits", *joined)
    assert (code, "'digits' is in the catalogue already" in err) == (1, True)
