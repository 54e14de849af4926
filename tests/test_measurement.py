"""Measurement: what records hold of sharpness, the table in words, and the changes that experiments make."""

import html
import json
import math
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from markdown_it import MarkdownIt
from PIL import Image

from intrinsic import cli
from intrinsic.images import ImageSet, of_path
from intrinsic.images.manifolds import overlapping_clouds, torus_images
from intrinsic.properties import dimension, measurement, neighbors, overlap, sharpness, soundness, theory
from intrinsic.publishing import book, charts


@pytest.fixture(scope="module")
def waves():
    images, labels, _ = torus_images(400, 3, size=16)
    return ImageSet(images, labels, ("low", "high"), name="waves")


@pytest.fixture(scope="module")
def data(waves):
    return measurement.Matched(waves, np.arange(len(waves)), 0, 0, waves.content_hash())


def test_sets_left_out_are_counted_and_their_reasons_fold():
    said = measurement.left_out([("a_set", "at 64"), ("b", "at 64"), ("b", "at 28")])
    assert said.startswith("2 image sets")
    assert said.count("\n- ") == 2
    assert said.index("<details>") < said.index("at 64") < said.index("</details>")
    assert "1 image set of" in measurement.left_out([("b", "at 28")])
    assert "No set" in measurement.left_out([])


def test_a_record_holds_what_the_estimators_say(data):
    metrics, reasons, _ = measurement.properties(data, per_class=100, draws=5, k=10)
    near = neighbors.neighbors(data.images, 10)
    control, grown = sharpness.same_label_control(near), sharpness.growth_exponent(near)
    for key, value in (("k_f_control", control), ("k_f_ratio", control.ratio), ("growth_exponent", grown)):
        assert [metrics[key], metrics[f"{key}_low"], metrics[f"{key}_high"]] == [value, value.low, value.high]
    for q in sharpness.quantile_sharpness(near):
        assert metrics[f"k_f_q{round(100 * q.quantile):02d}"] == q
    assert metrics["k_f_q01_low"] is None  # 4 images: an extreme
    assert "half-samples" not in reasons["k_f_q01_low"]
    limit = sharpness.sharpness_limit(near)
    assert metrics["k_f_limit"] == (limit.high if limit.identified else None)
    assert limit.identified or "not identified" in reasons["k_f_limit"]
    assert all(value is None or math.isfinite(value) for value in metrics.values())
    assert {name for name, value in metrics.items() if value is None} == set(reasons)


def test_few_images_have_reasons_instead_of_numbers(waves):
    few = measurement.Matched(waves[np.arange(40)], np.arange(40), 0, 0, "")
    metrics, reasons, _ = measurement.properties(few, per_class=10, draws=3, k=5)
    assert metrics["growth_exponent"] is None
    assert "64 are needed" in reasons["growth_exponent"]
    assert metrics["k_f_control"] > 0


def test_the_table_has_a_row_and_words_for_each_quantity(waves):
    near = neighbors.neighbors(waves, 10)
    d = dimension.mle_dimension(near, 10)
    k_f, at_m = sharpness.label_sharpness(near), sharpness.mean_sharpness(near, per_class=50, draws=5)
    rows = measurement.sharpness_rows(measurement.sharpness_facts(near, d), d, k_f, at_m)
    assert len(rows) == 6 + len(sharpness.QUANTILES)
    assert all(row["meaning"] for row in rows)
    assert rows[0]["value"] == k_f
    assert rows[1]["what"] == "K_F at M = 50"


def test_pixel_noise_has_the_variance_it_says(waves):
    grey = ImageSet(np.full((200, 16, 16), 128, dtype=np.uint8), waves.labels[:200], waves.classes)
    noisy = measurement.with_pixel_noise(grey, 6.0)
    assert noisy.images.astype(float).std() == pytest.approx(math.sqrt(36 + 1 / 12), rel=0.02)  # rounding adds 1/12
    assert np.array_equal(measurement.with_pixel_noise(waves, 0).images, waves.images)


@pytest.mark.parametrize("share", [0, 0.05, 1.0])
def test_label_noise_changes_exactly_its_share(waves, share):
    three = ImageSet(waves.images, np.arange(400) % 3, ("a", "b", "c"))
    for images in (waves, three):
        assert np.mean(measurement.with_label_noise(images, share).labels != images.labels) == share


@pytest.mark.parametrize("count", [0, 1, 7])
def test_near_copies_are_one_grey_level_off(waves, count):
    copied = measurement.with_near_copies(waves, count)
    assert np.array_equal(copied.labels, waves.labels)
    pairs = neighbors.closest_pairs(copied, copied.labels)
    assert int((pairs.distance == 1 / 255).sum()) == 2 * count
    assert int((copied.images != waves.images).any(axis=(1, 2)).sum()) == 2 * count
    if count:
        assert sharpness.label_sharpness(copied) == 255


def test_more_near_copies_than_images_are_refused(waves):
    with pytest.raises(ValueError, match="count=150 needs 300 images of each class; the smallest has 200"):
        measurement.with_near_copies(waves, 150)


def test_a_table_that_is_not_there_is_named():
    with pytest.raises(FileNotFoundError, match=r"no_such_table\.json does not exist"):
        measurement.published_table("no_such_table")


@pytest.mark.parametrize("name", ["sharpness_coverage", "sharpness_limit", "sharpness_image_sets"])
def test_tables_say_how_they_were_made(name):
    table = measurement.published_table(name)
    assert table["command"].startswith("python benchmarks/sharpness_")
    assert {"seeds", "versions"} <= set(table)


# -------------------------------------------------------------------------------------------- soundness


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """60 + 60 noise images: a copy of one label, a copy with another label, a near-copy with another, a constant."""
    root = tmp_path_factory.mktemp("sets") / "scans"
    pictures = np.random.default_rng(0).integers(0, 256, (120, 12, 12), dtype=np.uint8)
    pictures[1], pictures[62], pictures[63], pictures[64] = pictures[0], pictures[2], pictures[3], 90
    pictures[63, 0, 0] ^= 1
    for i, picture in enumerate(pictures):
        path = root / ("ill" if i < 60 else "well") / f"=p{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    return root


def test_measure_holds_the_report_of_the_set_as_it_was_loaded(folder, tmp_path):
    facts = measurement.measure(str(folder), flagged=tmp_path / "flagged.csv")
    sound = json.loads(json.dumps(facts["soundness"], allow_nan=False))
    assert (sound["copies"], sound["conflicting"], sound["distinct"], sound["constant"]) == (1, 2, 117, 1)
    assert facts["duplicates"]["copies"] == sound["copies"]
    assert {"same_label": False, "same_group": None, "pairs": 1} in sound["near_duplicates"]["pairs"]
    assert set(sound["warnings"]) <= set(facts["warnings"])
    assert len(facts["warnings"]) == len(set(facts["warnings"]))
    table = pd.read_csv(tmp_path / "flagged.csv", keep_default_na=False)
    assert list(table["first"][:3]) == ["ill/=p000.png", "ill/=p002.png", "ill/=p003.png"]
    assert list(table["second"][:3]) == ["ill/=p001.png", "well/=p062.png", "well/=p063.png"]
    assert len(table) == sum(sound["flagged"].values())


def test_the_command_says_it_in_words_and_writes_the_table(folder, tmp_path, capsys):
    assert cli.main(["measure", str(folder), "--flagged", str(tmp_path / "f.csv")]) == 0
    out = capsys.readouterr().out
    rows = len(pd.read_csv(tmp_path / "f.csv"))
    for words in (
        "near-duplicates  2 of 117 images have one; 1 pairs of two classes",
        "and border alone: balanced accuracy, chance is 0.50",
        "the nearest that is no near-duplicate; patients are unknown",
        "training sizes   N = 500 and above cannot be reached: 500 training images are 250 a class",
        "warning: 1 images have all pixels equal",
        f"flagged          {rows} rows in",
    ):
        assert words in out
    assert cli.main(["measure", str(folder), "--flagged", str(tmp_path / "no" / "f.csv")]) == 1
    assert "is no folder" in capsys.readouterr().err


def test_a_page_can_report_on_the_set_before_copies_were_dropped(folder):
    data = measurement.matched(str(folder))
    clean = measurement.without_conflicts(data)
    assert np.array_equal(data.loaded[data.loaded.distinct(conflicting=True)].images, clean.images)
    sound = soundness.report(data.loaded, neighbors.neighbors(clean, 40))
    assert (sound.copies, sound.conflicting) == (data.n_copies, data.n_conflicting) == (1, 2)


# --------------------------------------------------------------------------------- text that stays text

NASTY = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "*a* _b_ **c** `d` ~~e~~ $f$ # g | h",
    "[l](javascript:alert(1)) ![p](x) <https://x> &lt; &#60; \\",
    "- item",
    "1. item",
    "2) item",
    "+ item",
    "% comment",
    "# title",
    "> quote",
    "=====",
    "---",
    "{code}`x` {{ y }} :::{note}",
    "T1_w_90 å 漢",
)


@pytest.mark.parametrize("text", NASTY)
def test_text_on_a_page_stands_as_it_is(text):
    page = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    assert page.render(measurement.plain(text)) == f"<p>{html.escape(text, quote=False)}</p>\n"
    shown = page.render(measurement.bullets([text, text]))
    assert re.sub(r"\s*</?(ul|li)>\s*", "|", shown).replace("||", "|").strip("|") == "|".join(
        [html.escape(text, quote=False)] * 2
    )


def test_addresses_keep_their_signs():
    assert measurement.plain("see https://example.org/a_b/c-d?e=1#f (*)") == (
        "see https://example.org/a_b/c-d?e=1#f (&#42;)"
    )


@pytest.mark.parametrize("name", NASTY[:2])
def test_names_of_sets_and_classes_are_no_html_on_a_page(waves, name):
    three = replace(waves, name=name, about=name, source=name, classes=(name, "b", f"<b>{name}"), paths=(name,) * 400,
                    labels=np.arange(400) % 3)  # fmt: skip
    data = measurement.Matched(three, np.arange(400), 0, 0, "", three)
    near = neighbors.neighbors(three, 20)
    sound = soundness.report(three, near)
    matrix = sharpness.class_pair_sharpness(near).rows(three.classes)
    pages = [
        MarkdownIt("commonmark").render(measurement.describe(data)),
        MarkdownIt("commonmark").render(measurement.bullets([f"class {name}"])),
        pd.DataFrame(sound.rows())._repr_html_(),
        sound.flagged._repr_html_(),
        *book.chart_html(charts.class_pairs(pd.DataFrame(matrix)).to_dict()),
    ]
    for page in pages:
        assert not re.search(r"<(script>|img|b>)", page)
    assert "&lt;" in pages[0]
    assert "&lt;" in pages[2]
    assert "&lt;" in pages[3]


def test_differences_of_grades_count_where_the_set_says_that_they_do(tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (90, 8, 8), dtype=np.uint8)
    labels = np.arange(90) % 3
    np.savez(tmp_path / "knees.npz", images=pixels, labels=labels, class_names=["none", "mild", "severe"])
    grades = {"grades": ["none", "mild", "severe"]}
    facts = measurement.measure(of_path(tmp_path / "knees.npz", labels=grades), per_class=20)
    x = pixels.reshape(90, -1) / 255
    i, j = np.triu_indices(90, 1)
    steep = np.abs(labels[i] - labels[j]) / np.linalg.norm(x[i] - x[j], axis=1)
    assert facts["label_sharpness"]["ordered"]["value"] == pytest.approx(steep.max(), rel=1e-12)
    assert [one["index"] for one in facts["label_sharpness"]["ordered"]["pair"]] == [
        i[steep.argmax()],
        j[steep.argmax()],
    ]
    plain = measurement.measure(tmp_path / "knees.npz", per_class=20)
    assert plain["label_sharpness"]["ordered"] is None


def test_components_of_near_duplicates_are_found_once_for_the_same_images(monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
    pixels[1] = pixels[0] ^ 1
    some = ImageSet(pixels, np.arange(40) % 2, ("a", "b"), "some")
    found = measurement._components(some)
    assert np.array_equal(found, neighbors.near_duplicate_components(some))
    assert found[0] == found[1]

    def refuse(*_):
        raise AssertionError("found again")

    monkeypatch.setattr(neighbors, "near_duplicate_components", refuse)
    again = measurement._components(ImageSet(pixels.copy(), np.arange(40) % 2, ("a", "b"), "renamed"))
    assert np.array_equal(again, found)
    assert again.dtype == found.dtype
    with pytest.raises(AssertionError, match="again"):
        measurement._components(ImageSet(pixels[::-1], np.arange(40) % 2, ("a", "b"), "others"))


def test_a_process_keeps_the_sets_it_used_last_within_its_limit(monkeypatch):
    monkeypatch.setattr(measurement, "_held", {})
    first = measurement.matched("digits_4_9", 8, 1)
    assert measurement.matched("digits_4_9", 8, 1) is first
    monkeypatch.setattr(measurement, "HELD_BYTES", 3 * first.images.images.nbytes)
    other = measurement.matched("digits_4_9", 7, 1)
    assert measurement.matched("digits_4_9", 7, 1) is other
    assert measurement.matched("digits_4_9", 8, 1) is not first


def test_a_record_holds_the_least_that_the_first_theorem_can_promise(data):
    metrics, reasons, _ = measurement.properties(data, per_class=100, draws=3, k=10)
    near = neighbors.neighbors(data.images, 10)
    assert metrics["least_bound"] == pytest.approx(theory.least_bounds(near, 100, 3)["mean"])
    few, reasons, _ = measurement.properties(data, per_class=10_000, draws=3, k=10)
    assert few["least_bound"] is None
    assert "fewer than M = 10000" in reasons["least_bound"]


def test_the_published_growth_is_one_row_a_set_and_its_law_goes_through_the_middle():
    sets, curves = measurement.published_growth(64, 1)
    assert sets["dataset"].is_unique
    assert (sets["gap"] <= sets["closest"]).all()
    assert sets["d_pairs"].to_numpy() == pytest.approx(2 / sets["overlapping"], rel=0.01)
    assert set(curves["dataset"]) == set(sets["dataset"])
    for _, one in curves.groupby("dataset"):
        assert np.log(one["law"] / one["k_f"]).mean() == pytest.approx(0, abs=1e-9)
    for _, row in sets.iterrows():
        one = curves[curves["dataset"] == row["dataset"]]
        slope = np.polyfit(np.log(one["per_class"]), np.log(one["k_f"]), 1)[0]
        assert slope == pytest.approx(row["exponent"], abs=0.002)


def test_laws_of_growth_are_rows_with_their_intervals():
    x, y = overlapping_clouds(300, 3, seed=0)
    law = overlap.growth_law(x, y, [8, 16, 32], 5)
    (row,) = measurement.growth_laws({"cloud": law}).to_dict("records")
    assert row["name"] == "cloud"
    assert (row["exponent"], row["exponent_low"]) == (law.exponent, law.exponent.low)
    assert row["share_falls"] == pytest.approx(-np.polyfit(np.log(law.k_f), np.log(law.share), 1)[0])
    assert row["kind"] == law.kind


def test_a_set_too_small_for_a_law_of_growth_has_a_reason(waves):
    few = waves[np.arange(40)]
    law, why = measurement.growth_law(few, neighbors.neighbors(few, 5))
    assert law is None
    assert "64 are needed" in why
