import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import yaml
from PIL import Image
from test_adapters import dicom

from intrinsic import cli
from intrinsic.campaigns import campaign
from intrinsic.campaigns.records import Record, Store
from intrinsic.publishing import book


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
    assert facts["d_data"]["mle"]["value"] > 0
    assert facts["d_data"]["twonn"]["low"] < facts["d_data"]["twonn"]["value"]
    assert facts["duplicates"]["copies"] == facts["duplicates"]["conflicting"] == 0


def test_copies_are_dropped_and_counted_and_conflicts_make_k_f_null(capsys, folder):
    (folder / "ill" / "t.png").write_bytes((folder / "ill" / "s 01.png").read_bytes())
    (folder / "well" / "t.png").write_bytes((folder / "ill" / "s 02.png").read_bytes())
    code, out, _ = run(capsys, "measure", str(folder), "--json")
    facts = json.loads(out)
    assert code == 0
    assert facts["duplicates"]["copies"] == 1
    assert facts["duplicates"]["conflicting"] == 2
    sharp = facts["label_sharpness"]
    assert sharp["value"] is None
    assert sharp["value_without_conflicts"] == pytest.approx(255)
    assert {one["path"].rsplit("/", 1)[1] for one in sharp["pair"]} == {"s 02.png", "t.png"}
    code, out, _ = run(capsys, "measure", str(folder))
    assert code == 0
    assert "infinite" in out
    assert "exact copies with the same label were dropped" in out


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
    assert {"mle", "twonn"} <= facts["d_data"].keys()
    assert {"value", "pair"} <= facts["label_sharpness"].keys()
    i, j = (one["index"] for one in facts["label_sharpness"]["pair"])
    from intrinsic import images

    digits = images.load("digits")
    assert digits.labels[i] != digits.labels[j]
    gap = np.linalg.norm(digits.images[i].astype(float) - digits.images[j].astype(float)) / 255
    sharp = facts["label_sharpness"]
    assert sharp["value"] == pytest.approx(1 / gap, rel=1e-12)
    values = [q["value"] for q in sharp["quantiles"]]
    assert values == sorted(values, reverse=True)
    assert values[0] < sharp["value"]
    assert all(q["value"] == pytest.approx(1 / q["distance"]) for q in sharp["quantiles"])
    control = sharp["same_label_control"]
    i, j = (one["index"] for one in control["pair"])
    assert digits.labels[i] == digits.labels[j]
    assert control["ratio"]["value"] == pytest.approx(sharp["value"] / control["value"], rel=1e-12)
    growth = sharp["growth_exponent"]
    assert growth["low"] < growth["value"] < growth["high"]
    assert growth["two_over_d"] == pytest.approx(2 / facts["d_data"]["mle"]["value"])
    law = sharp["growth_law"]
    assert law["exponent"]["value"] == growth["value"]
    assert law["sentence"].startswith(f"K_F grows as M^{growth['value']:.2f} [")
    assert law["dimension"]["value"] == pytest.approx(2 / law["overlapping"]["value"])
    assert len(law["share_across"]) == len(law["per_class"]) == len(law["k_f"])
    assert sharp["limit"]["identified"] == (sharp["limit"]["value"] is not None)
    assert sharp["class_pairs"] is None  # two classes


def test_measure_says_how_sharpness_grows_in_one_sentence(capsys):
    code, out, _ = run(capsys, "measure", "torus_waves")
    assert code == 0
    (line,) = (line for line in out.splitlines() if line.startswith("  growth with M"))
    over = r"over M = \d+ to \d+ images a class"
    assert re.match(
        rf"  growth with M    K_F grows as M\^0\.\d\d \[0\.\d\d, 0\.\d\d\] {over}, .+: at M images a class", line
    )


def test_measure_says_in_words_what_the_numbers_mean(capsys, folder):
    code, out, err = run(capsys, "measure", str(folder))
    assert (code, err) == (0, "")
    for words in (
        "images have another label within",
        "within a label",
        "growth with M    not measured: the smallest class has 40 images",
        "limit of 1/gap   not identified",
    ):
        assert words in out


def test_measure_has_a_matrix_where_there_are_more_classes(capsys, folder):
    rng = np.random.default_rng(1)
    (folder / "unsure").mkdir()
    for i in range(40):
        Image.fromarray(rng.integers(0, 256, (12, 12), dtype=np.uint8)).save(folder / "unsure" / f"{i}.png")
    code, out, _ = run(capsys, "measure", str(folder), "--json")
    matrix = json.loads(out)["label_sharpness"]["class_pairs"]
    assert code == 0
    assert matrix["classes"] == ["ill", "unsure", "well"]
    assert matrix["sharpness"][0][2] == matrix["sharpness"][2][0] == pytest.approx(255)
    code, out, _ = run(capsys, "measure", str(folder))
    assert "sharpest classes well | ill 255.0000" in out


def test_the_dry_run_shows_minutes_and_computes_nothing(capsys, own_store):
    import pathlib

    tiny = str(pathlib.Path(__file__).with_name("tiny.yaml"))
    code, out, _ = run(capsys, "run", tiny, "--dry-run")
    assert code == 0
    assert "6 to do" in out
    assert "minutes" in out
    assert not list(own_store.rglob("*.json"))


def test_the_catalogue_is_listed_and_explained(capsys):
    code, out, _ = run(capsys, "datasets")
    assert code == 0
    assert "brain_mri_patches" in out
    code, out, _ = run(capsys, "datasets", "brain_mri_patches")
    assert code == 0
    assert "nilearn" in out


def test_a_set_of_ones_own_is_drafted_measured_by_name_and_compared(capsys, folder, tmp_path, monkeypatch):
    monkeypatch.delenv("INTRINSIC_CATALOGUE", raising=False)
    monkeypatch.setattr(book, "_folder", lambda output: tmp_path / "out")
    monkeypatch.setattr(campaign, "_published_files", list)
    code, out, err = run(capsys, "datasets", "--draft", str(folder), "--group-pattern", r"s (\d+)\.png$")
    assert (code, err) == (0, "")
    mine = tmp_path / "mine.yaml"
    mine.write_text(out, encoding="utf-8")
    code, out, _ = run(capsys, "datasets", "my_scans", "--catalogue", str(mine))
    assert code == 0
    assert "pattern s (" in out
    assert "(here)" in out
    code, out, _ = run(capsys, "datasets", "--present", "--catalogue", str(mine))
    assert "my_scans " in out
    code, out, _ = run(capsys, "measure", "my_scans", "--catalogue", str(mine), "--json")
    assert (code, json.loads(out)["groups"]) == (0, 40)
    code, _, err = run(capsys, "measure", "my_scans", "--compare", "--catalogue", str(mine))
    assert code == 1
    assert "no image set is in the records yet" in err
    params = tmp_path / "p.yaml"
    params.write_text("name: p\ndatasets: [torus_waves]\nruns: []\nper_class: 30\nsize: 12\n")
    code, out, _ = run(capsys, "run", str(params), "--no-progress", "--add", "my_scans", "--catalogue", str(mine))
    assert (code, "2 tasks computed" in out) == (0, True)
    code, out, _ = run(capsys, "measure", "my_scans", "--compare", "--catalogue", str(mine))
    assert code == 0
    assert "> my_scans" in out
    assert "torus_waves" in out
    (page,) = (tmp_path / "out" / "compare").glob("my_scans-????????.html")
    assert str(page) in out
    assert "<script src" not in page.read_text(encoding="utf-8")
    page.unlink()
    page.parent.rmdir()
    page.parent.write_text("in the way")
    code, out, err = run(capsys, "measure", "my_scans", "--compare", "--catalogue", str(mine))
    assert code == 1
    assert "d_data, MLE" in out  # what was measured is shown all the same
    assert "not compared: " in err


def test_rules_for_a_set_that_has_them_already_are_refused(capsys):
    code, _, err = run(capsys, "measure", "digits_4_9", "--group-pattern", "x")
    assert code == 1
    assert "in the catalogue, which holds its rules already" in err


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
        ({str(i): [p] for i, p in enumerate(noise(30))}, "each of the 30 classes of x has one image"),
        (
            {"a": noise(20), "b": noise(20)},
            "40 of them have an exact copy with another label, and without these none is",
        ),
        (
            {"a": noise(20), "b": noise(30)},
            "40 of them have an exact copy with another label, and without these 10 of one",
        ),
        ({"a": noise(1) * 9, "b": noise(1, 1) * 9}, "only 2 of them are distinct, and at least 4 are needed"),
        ({"a": noise(2), "b": noise(1, 1)}, "only 3 of them are distinct"),
    ],
)
def test_a_set_of_which_nothing_can_be_said_gets_one_sentence(capsys, tmp_path, classes, says):
    code, out, err = run(capsys, "measure", grey_folder(tmp_path / "x", classes))
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert says in err


def test_an_estimate_that_does_not_exist_is_said_to_be_none(capsys, tmp_path, recwarn):
    levels = [np.full((16, 16), 6 * i) for i in range(40)]  # evenly spaced: T_2 = T_1
    code, out, _ = run(capsys, "measure", grey_folder(tmp_path / "x", {"a": levels[::2], "b": levels[1::2]}))
    assert code == 0
    assert "TwoNN    not measured" in out
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
    assert "holds another table than one of flagged images, and would be lost" in err
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
    assert "\\u65e5\\u672c: 40 images" in run_.stdout


def test_a_comparison_reads_files_as_the_measurement_does(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(book, "_folder", lambda output: tmp_path / "out")
    monkeypatch.setattr(campaign, "_published_files", list)
    params = tmp_path / "p.yaml"
    params.write_text("name: p\ndatasets: [torus_waves]\nruns: []\nper_class: 25\nsize: 12\n")
    run(capsys, "run", str(params), "--no-progress")
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "deep" / name).mkdir(parents=True)
        for i in range(30):
            pixels = rng.integers(0, 1 << 12, (12, 12), dtype=np.uint16)
            Image.fromarray(pixels).save(tmp_path / "deep" / name / f"{i}.png")
    (tmp_path / "deep" / "a" / "x.png").write_bytes(b"no picture")
    read = ("--levels", "range:0,4095", "--skip-unreadable")
    code, out, err = run(capsys, "measure", str(tmp_path / "deep"), "--compare", *read)
    assert (code, err) == (0, "")
    assert "> deep" in out
    assert "of 1 other sets 1 have a lower d_data, 0 a lower K_F" in out
    assert "a/x.png: " in out


@pytest.fixture
def trained(own_store, tmp_path, monkeypatch):
    """Records of eight made-up sets that follow log loss = 1 + log K_F - 2 / d log N, the first one's up to N = 250.

    The error rate is a fifth of the loss, on 10,000 images. The first one is in a catalogue, its images are away.
    """
    entry = "made_0: {title: Made, domain: synthetic, adapter: npz, location: away.npz, about: a, beware: b, source: c"
    (tmp_path / "made_sets.yaml").write_text(f"{entry}, licence: CC0-1.0}}\n")
    monkeypatch.setenv("INTRINSIC_CATALOGUE", str(tmp_path / "made_sets.yaml"))
    file = tmp_path / "made.yaml"
    file.write_text("name: made\ndatasets: [digits]\ndataset: digits\nsize: 8\nper_class: 30\ndraws: 3\nk: 5\n")
    p, store, rng = campaign.read(file), Store(own_store), np.random.default_rng(0)
    counts = {"n": 900, "n_classes": 2, "n_groups": 900, "n_copies": 0, "n_conflicting": 0}
    for i in range(8):
        d, k = rng.uniform(5, 20), rng.uniform(0.1, 0.4)
        keys = {**campaign._properties_wanted(p, f"made_{i}"), "image_hash": f"{i}"}
        series = {"growth_per_class": [10.0, 30.0], "growth_k_f": [0.1, 0.2]}
        store.write(Record("properties", keys, {**counts, "d_mle": d, "k_f": k}, {}, series, {"domain": "made"}))
        for n in (60, 125, 250, 500, 1000, 1750):
            if i == 0 and n > 250:
                continue
            loss = float(np.exp(1 + np.log(k) - 2 / d * np.log(n)))
            keys = {
                **campaign._training_wanted(p, f"made_{i}", "resnet18", n, 0),
                "image_hash": f"{i}",
                "split_hash": "0",
            }
            metrics = {"fitted": 1.0, "test_loss_nats": loss, "test_accuracy": 1 - loss / 5, "n_test": 10_000}
            store.write(Record("training", keys, metrics))
            unfit = {**metrics, "fitted": 0.0, "test_loss_nats": 9.0, "test_accuracy": 0.5}
            store.write(Record("training", {**keys, "seed": 1}, unfit))
    first = next(r for r in store.records("properties") if r.params["dataset"] == "made_0").metrics
    return str(file), lambda n: float(np.exp(1 + np.log(first["k_f"]) - 2 / first["d_mle"] * np.log(n)))


def test_forecast_gives_the_loss_and_the_accuracy_and_the_labels_needed(capsys, trained):
    params, loss = trained
    wanted = 1 - loss(900) / 5
    options = ("--params", params, "--target-accuracy", f"{wanted}", "--at", "500", "1750", "2501")
    code, out, err = run(capsys, "forecast", "made_0", *options, "--json")
    facts = json.loads(out)
    assert (code, err) == (0, "")
    assert [row["n_train"] for row in facts["forecasts"]] == [500, 1750]
    assert facts["forecasts"][1]["loss"] == pytest.approx(loss(1750), rel=0.02)
    assert facts["forecasts"][1]["accuracy"] == pytest.approx(1 - loss(1750) / 5, abs=0.003)
    needed = facts["needed"]["accuracy"]
    assert needed["n_train"] == pytest.approx(900, rel=0.1)
    assert all(isinstance(needed[key], int) for key in ("n_train", "low", "high", "smallest", "largest"))
    assert needed["bounds"]["n_train"] == f"= {needed['n_train']}"
    assert facts["left_out"] == [[2501, "more than 10 times the largest N trained, 250"]]
    assert facts["sets"] == 8
    assert facts["runs"] == 3
    code, out, err = run(capsys, "forecast", "made_0", *options)
    assert (code, err) == (0, "")
    assert "accuracy" in out
    assert "2501: more than 10 times" in out


def test_all_runs_at_a_setting_are_those_that_were_trained_alike(trained, own_store):
    p = campaign.read(trained[0])
    runs = campaign.runs_at("resnet18", {key: getattr(p, key) for key in campaign.SETTING})
    assert len(runs) == 3 + 7 * 6  # the fitted ones
    other = campaign._training_wanted(p, "made_1", "resnet18", 30, 0) | {"epochs": 7, "image_hash": "1"}
    Store(own_store).write(Record("training", other, {"fitted": 1.0, "test_loss_nats": 1.0}))
    assert len(campaign.runs_at("resnet18", {key: getattr(p, key) for key in campaign.SETTING})) == len(runs)
    with pytest.raises(campaign.CampaignError, match="no fitted run of vgg13 is stored at size 8"):
        campaign.runs_at("vgg13", {key: getattr(p, key) for key in campaign.SETTING})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["digits"], "no fitted run of resnet18 on digits"),
        (["made_0", "--model", "vgg13"], "no fitted run of vgg13"),
        (["made_0", "--model", "foo"], "'foo' is not a network"),
        (["nowhere"], "neither a name in the catalogue nor a path that exists"),
        (["/does/not/exist/made_0"], "/does/not/exist/made_0 does not exist"),
        (["made_0", "--target-accuracy", "90"], "between 0 and 1"),
        (["made_0", "--target-accuracy", "0.5"], "not above chance, 0.5 with 2 classes"),
        (["made_0", "--target-loss", "0"], "no logarithm"),
        (["made_0", "--at", "9000"], "more than 10 times"),
        (["made_0", "--at", "59"], "fewer than the smallest N trained, 60"),
        (["made_0", "--at", "0"], "N = 0 is no number of training images"),
        (["made_0", "--at", "500", "-5"], "N = -5 is no number of training images"),
    ],
)
def test_a_forecast_that_cannot_be_made_gets_one_sentence(capsys, trained, arguments, said):
    code, out, err = run(capsys, "forecast", *arguments, "--params", trained[0])
    assert (code, out) == (1, "")
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("made", "says"),
    [
        ({}, "neither a name in the catalogue nor a path that exists"),
        ({"a": 30}, "no labels to compare"),
        ({"a": 3, "b": 3}, "6 distinct images, and a report looks at 40 neighbors of each: give 41 images or more"),
    ],
)
def test_a_report_says_in_one_sentence_what_is_wrong_with_a_set_and_runs_no_notebook(
    capsys, tmp_path, monkeypatch, made, says
):
    rng = np.random.default_rng(0)
    for name, count in made.items():
        (tmp_path / "set" / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, (16, 16), dtype=np.uint8)).save(tmp_path / "set" / name / f"{i}.png")
    monkeypatch.setattr("intrinsic.publishing.book.report", lambda *_, **__: pytest.fail("a notebook would have run"))
    code, out, err = run(capsys, "report", str(tmp_path / "set") if made else "no_such_set")
    assert (code, out) == (1, "")
    assert says in err
    assert err.count("\n") == 1


def test_a_size_beyond_memory_is_refused_before_any_picture_is_read(capsys):
    code, out, err = run(capsys, "measure", "digits", "--size", "100000")
    assert (code, out) == (1, "")
    assert "size=100000 is no number of pixels a side from 1 to 2,048" in err


# --------------------------------------------------------------------------------------------- options


TINY = os.path.join(os.path.dirname(__file__), "tiny.yaml")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["measure", "digits", "--params", "nope.yaml"], "--params would change nothing without --compare"),
        (["measure", "digits", "--unmatched"], "--unmatched would change nothing without --compare"),
        (["run", TINY, "--gpu-teraflops", "5"], "--gpu-teraflops would change nothing without --dry-run"),
        (["datasets", "--label-column", "x"], "--label-column would change nothing without --draft"),
        (["datasets", "digits", "--nested"], "--nested would change nothing without --draft"),
        (["datasets", "--levels", "full"], "--levels would change nothing without --draft"),
        (["measure", "clean", "--join", "x.csv"], "--join needs --join-on"),
        (["measure", "clean", "--join-on", "path"], "--join-on would change nothing without --join"),
        (["datasets", "digits", "--draft", "clean"], "digits would change nothing beside --draft"),
        (["datasets", "digits", "--present"], "digits would change nothing beside --present"),
        (["datasets", "--present", "--draft", "clean"], "--present would change nothing beside --draft"),
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
        ("--workers", "0", "'0' is not a whole number from 1"),
        ("--workers", "-2", "'-2' is not a whole number from 1"),
        ("--workers", "two", "'two' is not a whole number from 1"),
        ("--retries", "-1", "'-1' is not a whole number from 0"),
        ("--gpu-teraflops", "0", "'0' is not a number above 0"),
        ("--gpu-teraflops", "-5", "'-5' is not a number above 0"),
        ("--gpu-teraflops", "inf", "'inf' is not a number above 0"),
        ("--limit-minutes", "nan", "'nan' is not a number above 0"),
        ("--run-minutes", "x", "'x' is not a number above 0"),
    ],
)
def test_a_number_out_of_range_is_refused_before_anything_is_planned(capsys, option, value, says):
    with pytest.raises(SystemExit) as caught:
        cli.main(["run", TINY, "--dry-run", f"{option}={value}"])
    assert caught.value.code == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert f"argument {option}: {says}" in shown.err


def test_a_dry_run_of_a_grid_without_runs_says_so(capsys, tmp_path):
    (tmp_path / "p.yaml").write_text("name: p\ndatasets: [digits_0_1]\nruns: []\n")
    code, out, _ = run(capsys, "run", str(tmp_path / "p.yaml"), "--dry-run", "--workers", "1")
    assert code == 0
    assert "p: 1 task, 0 stored, 1 to do" in out
    assert "with 1 process on" in out
    assert "the grid has no training runs" in out


@pytest.mark.parametrize(
    ("hours", "shown"), [(7.25, "7.2 hours"), (1, "1.0 hours"), (0.5, "30.0 minutes"), (0, "0.1 m")]
)
def test_hours_of_a_gpu_below_one_are_minutes_and_never_none(capsys, monkeypatch, hours, shown):
    monkeypatch.setattr(campaign, "gpu_hours", lambda p, rate: hours)
    monkeypatch.setattr(campaign, "estimate_seconds", lambda tasks, *_, **__: [1.0] * len(tasks))
    code, out, _ = run(capsys, "run", TINY, "--dry-run")
    assert code == 0
    assert f"at most about {shown}" in out


def test_the_last_line_of_a_run_counts_what_cannot_be_reached(capsys, tmp_path):
    keys = "name: p\ndatasets: [digits_0_1]\nsize: 8\nper_class: 20\ndraws: 2\nk: 5\n"
    (tmp_path / "p.yaml").write_text(keys + "runs: [{models: [resnet18], n_train: [100000, 200000]}]\n")
    for said in ("p: 1 task computed in 0.", "p: its one task is stored already, 2 not reachable; nothing to do"):
        code, out, _ = run(capsys, "run", str(tmp_path / "p.yaml"), "--no-progress")
        assert code == 0
        assert out.splitlines()[-1].startswith(said)
        assert "2 not reachable" in out.splitlines()[-1]


def test_sizes_ahead_are_multiples_of_the_largest_trained(capsys, trained):
    code, out, _ = run(capsys, "forecast", "made_0", "--params", trained[0], "--json")
    facts = json.loads(out)
    assert code == 0
    assert [row["n_train"] for row in facts["forecasts"]] == [500, 1250, 2500]
    assert facts["left_out"] == []


def test_a_target_is_answered_where_no_size_asked_for_can_be(capsys, trained):
    params, loss = trained
    options = ("--params", params, "--target-accuracy", f"{1 - loss(900) / 5}", "--at", "10", "9000")
    code, out, err = run(capsys, "forecast", "made_0", *options, "--json")
    facts = json.loads(out)
    assert (code, err, facts["forecasts"]) == (0, "", [])
    assert [n for n, _ in facts["left_out"]] == [10, 9000]
    assert facts["needed"]["accuracy"]["n_train"] == pytest.approx(900, rel=0.1)
    code, out, err = run(capsys, "forecast", "made_0", *options)
    assert (code, err) == (0, "")
    assert "test loss (nats)" not in out
    assert "10: fewer than the smallest N trained, 60, where nothing is forecast" in out
    assert "accuracy 0." in out


def recorded(p, store, source, runs, *, properties=True):
    """Stores properties and runs {N: test loss} of a folder as a campaign leaves them."""
    hash = campaign.measurement.matched(source, p.size, p.channels, p.pixel_range).hash
    counts = {"n": 80, "n_classes": 2, "n_groups": 80, "n_copies": 0, "n_conflicting": 0}
    series = {"growth_per_class": [10.0, 30.0], "growth_k_f": [0.1, 0.2]}
    keys = {**campaign._properties_wanted(p, source), "image_hash": hash}
    if properties:
        store.write(Record("properties", keys, {**counts, "d_mle": 9.0, "k_f": 0.2}, {}, series, {}))
    for n, loss in runs.items():
        keys = {**campaign._training_wanted(p, source, "resnet18", n, 0), "image_hash": hash, "split_hash": "0"}
        metrics = {"fitted": 1.0, "test_loss_nats": loss, "test_accuracy": 1 - loss / 5, "n_test": 100}
        store.write(Record("training", keys, metrics))


def test_a_folder_with_the_name_of_another_set_has_no_forecast_of_that_set(capsys, trained, own_store, tmp_path):
    params, _ = trained
    p = campaign.read(params)
    mine = grey_folder(tmp_path / "elsewhere" / "made_1", {"a": noise(40), "b": noise(40, 1)})
    options = ("--params", params, "--json", "--at", "100")
    code, out, err = run(capsys, "forecast", mine, *options)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert f"no fitted run of resnet18 on {mine}" in err
    assert "those stored under this name are of other images" in err
    recorded(p, Store(own_store), mine, {20: 2.0, 40: 1.0})
    code, out, err = run(capsys, "forecast", mine, *options)
    facts = json.loads(out)
    assert (code, err, facts["name"], facts["trained"]) == (0, "", "made_1", [20, 40])
    assert (facts["d_data"], facts["k_f"]) == (9, 0.2)
    assert facts["sets"] == 9  # the other set of this name is one of those that it is pooled with
    os.rename(mine, tmp_path / "renamed")
    code, out, err = run(capsys, "forecast", str(tmp_path / "renamed"), *options)
    assert (code, err) == (0, "")
    assert json.loads(out) == {**facts, "name": "renamed"}


def test_a_comparison_keeps_other_sets_of_its_name_and_drops_its_own_records(trained, own_store, tmp_path):
    setting = campaign.setting_of(campaign.read(trained[0]))
    mine = grey_folder(tmp_path / "elsewhere" / "made_1", {"a": noise(40), "b": noise(40, 1)})
    for _ in range(2):  # before and after its properties are stored
        found = campaign.compare(mine, setting)
        rows = found.rows.set_index("dataset")
        assert rows["own"].sum() == 1
        assert set(rows.index) == {"made_1", "made_1 (1)", *(f"made_{i}" for i in (0, 2, 3, 4, 5, 6, 7))}
        assert rows.loc["made_1", "own"]
        recorded(campaign.read(trained[0]), Store(own_store), mine, {})


def test_a_set_too_small_for_m_is_named_before_anything_is_computed(capsys, trained, own_store, tmp_path):
    mine = grey_folder(tmp_path / "mine", {"ill": noise(12), "well": noise(40, 1)})
    said = "not comparable: mine: class 'ill' has 12 images, fewer than per_class 30"
    params = tmp_path / "small.yaml"
    body = f"name: small\ndatasets: [{mine}]\nsize: 8\nper_class: 30\ndraws: 3\nk: 5\nruns: "
    for command in (["run", "--dry-run"], ["status"], ["run", "--no-progress"]):
        trains = "--no-progress" not in command
        params.write_text(body + ("[{models: [resnet18], n_train: [12]}]\n" if trains else "[]\n"))
        code, out, _ = run(capsys, command[0], str(params), *command[1:])
        assert code == 0
        assert out.startswith(said)
        assert "set per_class: 12 or less in the parameter file" in out.splitlines()[0]
    recorded(campaign.read(trained[0]), Store(own_store), mine, {20: 2.0, 40: 1.0}, properties=False)
    code, out, err = run(capsys, "forecast", mine, "--params", trained[0])
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "set per_class: 12 or less in the parameter file, run it again" in err
    assert "--unmatched" not in err  # which forecast does not have
    params.write_text(body.replace("per_class: 30", "per_class: 12") + "[{models: [resnet18], n_train: [12]}]\n")
    for command in (["run", "--dry-run"], ["status"]):
        assert "not comparable" not in run(capsys, command[0], str(params), *command[1:])[1]


@pytest.fixture
def two_settings(own_store, tmp_path, monkeypatch):
    """Records of torus_waves and slab_waves at M = 30, of torus_waves at M = 20 too; a folder of 25 images a class."""
    monkeypatch.setattr(book, "_folder", lambda output: tmp_path / "out")
    monkeypatch.setattr(campaign, "_published_files", list)
    for name, sets, m in (("a", "torus_waves, slab_waves", 30), ("b", "torus_waves", 20)):
        text = f"name: {name}\ndatasets: [{sets}]\nruns: []\nper_class: {m}\nsize: 12\n"
        (tmp_path / f"{name}.yaml").write_text(text)
        p = campaign.read(tmp_path / f"{name}.yaml")
        for task in campaign.plan(p).tasks:
            campaign.complete(task, Store(own_store))
    return grey_folder(tmp_path / "mine", {"ill": noise(25), "well": noise(25, 1)})


def test_sets_at_other_settings_are_shown_with_theirs_and_not_ranked(capsys, two_settings):
    code, _, err = run(capsys, "measure", two_settings, "--compare")
    assert code == 1
    assert "has 25 images, and the comparison is at M = 30" in err
    assert "--per-class" in err
    code, out, _ = run(capsys, "measure", two_settings, "--compare", "--unmatched", "--json")
    found = json.loads(out)["compared"]
    assert code == 0
    assert sorted((row["dataset"], row["size"], row["per_class"], row["matched"]) for row in found["sets"]) == [
        ("mine", 12, 25, True),
        ("slab_waves", 12, 30, False),
        ("torus_waves", 12, 30, False),
    ]
    assert found["sets_below"] == {"d_data": None, "k_f": None}
    assert (found["setting"]["per_class"], found["per_class_asked"]) == (25, 30)
    assert {(row["channels"], row["pixel_range"]) for row in found["sets"]} == {(1, "stored")}
    code, out, _ = run(capsys, "measure", two_settings, "--compare", "--unmatched")
    assert "yours at M = 25, its smallest class, and not at 30" in out
    assert "so it has no rank among them" in out


def test_a_comparison_is_at_the_images_a_class_that_are_asked_for(capsys, two_settings):
    code, out, _ = run(capsys, "measure", two_settings, "--compare", "--per-class", "20", "--json")
    found = json.loads(out)["compared"]
    assert code == 0
    assert sorted((row["dataset"], row["per_class"]) for row in found["sets"]) == [("mine", 20), ("torus_waves", 20)]
    assert found["sets_below"]["k_f"][1] == 1
    assert found["left_out"] == [["slab_waves", "stored at per_class 30, and compared is per_class 20"]]
    code, out, _ = run(capsys, "measure", two_settings, "--compare", "--per-class", "20", "--unmatched")
    assert re.search(r"slab_waves +synthetic +12 +1 +stored +30 +20 ", out)
    assert re.search(r"torus_waves +synthetic +12 +1 +stored +20 +20 ", out)
    assert "of 1 other sets" in out
    assert "sets at another setting are not counted" in out


@pytest.mark.parametrize(
    ("option", "value", "key", "asked"),
    [
        ("--size", "10", "size", 10),
        ("--channels", "3", "channels", 3),
        ("--k", "10", "k", 10),
        ("--pixel-range", "image", "pixel_range", "image"),
    ],
)
def test_a_comparison_is_at_the_setting_that_is_asked_for(capsys, two_settings, option, value, key, asked):
    code, out, _ = run(capsys, "measure", two_settings, "--compare", "--per-class", "20", option, value, "--json")
    found = json.loads(out)["compared"]
    assert code == 0
    assert found["setting"][key] == asked
    assert [(row["dataset"], row[key]) for row in found["sets"]] == [("mine", asked)]
    assert {name for name, _ in found["left_out"]} == {"slab_waves", "torus_waves"}


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


def test_the_status_of_a_campaign_whose_image_sets_are_elsewhere_lists_them(capsys, own_store, tmp_path, monkeypatch):
    monkeypatch.setenv("INTRINSIC_SETS", str(tmp_path / "nowhere"))
    code, out, err = run(capsys, "status", "params/published.yaml")
    assert (code, err) == (0, "")
    assert "16 image sets are not on this machine, and not counted: knee_xray_oa, " in out
    assert f"records: {own_store}, those published in book/records\npublished: 0 of 0 tasks done" in out


def test_a_report_knows_the_options_on_labels_groups_and_grey_levels(capsys, tmp_path, monkeypatch):
    monkeypatch.delenv("INTRINSIC_CATALOGUE", raising=False)
    monkeypatch.setattr(book, "_folder", lambda output: tmp_path / "out")
    rng, scans = np.random.default_rng(0), tmp_path / "scans ü"
    for i in range(60):
        dicom(scans / f"p{i // 2}" / f"{i}.dcm", rng.integers(0, 256, (12, 12), np.uint8), PatientID=f"P{i // 2}")
    (tmp_path / "labels.csv").write_text("who,ill\n" + "".join(f"P{i},{i % 2}\n" for i in range(30)))
    made = []

    def executed(source, p):
        asked = [sys.executable, "-m", "intrinsic.cli", "measure", source, "--json"]  # as a kernel: another process
        made.append(json.loads(subprocess.run(asked, capture_output=True, text=True, check=True).stdout))
        return tmp_path / "page.html"

    monkeypatch.setattr(book, "report", executed)
    joined = ["--join", str(tmp_path / "labels.csv"), "--join-on", "PatientID=who", "--label-column", "ill"]
    code, out, err = run(capsys, "report", str(scans), *joined)
    assert (code, out, err) == (0, f"{tmp_path / 'page.html'}\n", "")
    assert (made[0]["classes"], made[0]["groups"]) == ({"0": 30, "1": 30}, 30)
    assert os.environ.get("INTRINSIC_CATALOGUE", "") == ""
    (tmp_path / "digits").symlink_to(scans)
    code, _, err = run(capsys, "report", f"{tmp_path}/digits", *joined)
    assert (code, "'digits' is in the catalogue already" in err) == (1, True)
