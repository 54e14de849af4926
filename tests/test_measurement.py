"""Measurement: what records hold of sharpness, the table in words, and the changes that experiments make."""

import math

import numpy as np
import pytest

from intrinsic import dimension, measurement, neighbors, sharpness
from intrinsic.images import ImageSet
from intrinsic.manifolds import torus_images


@pytest.fixture(scope="module")
def waves():
    images, labels, _ = torus_images(400, 3, size=16)
    return ImageSet(images, labels, ("low", "high"), name="waves")


@pytest.fixture(scope="module")
def data(waves):
    return measurement.Matched(waves, np.arange(len(waves)), 0, 0, waves.content_hash())


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
