"""Charts draw the numbers of their frame, say what they show, and need no network."""

import base64
import io
import json

import altair as alt
import nbformat
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from intrinsic.publishing import figures

SETS = pd.DataFrame(
    {
        "dataset": ["digits", "knee_xray_oa", "torus_waves", "mnist_even_odd"],
        "domain": ["natural", "medical", "synthetic", "natural"],
        "d_data": [9.0, 7.0, 2.0, 9.2],
        "k_f": [0.2, 0.5, 0.9, 0.3],
    }
).assign(k_f_low=lambda f: 0.9 * f.k_f, k_f_high=lambda f: 1.1 * f.k_f, d_data_low=lambda f: f.d_data - 1)
SETS["d_data_high"] = SETS.d_data + 1
ROWS = pd.DataFrame(
    {
        "label": ["a", "b", "a", "c"],
        "estimate": [0.1, 0.3, -0.2, 0.2],
        "low": [0.0, 0.1, -0.4, np.nan],
        "high": [0.2, 0.5, 0.0, np.nan],
        "kind": ["one", "one", "two", "two"],
    }
)
CURVES = pd.DataFrame(
    [
        {"dataset": name, "per_class": m, "k_f": k * m**0.2, "k_f_low": 0.9 * k * m**0.2, "k_f_high": 1.1 * k * m**0.2}
        for name, k in (("digits", 0.1), ("torus_waves", 0.2))
        for m in (16, 64, 256)
    ]
)
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 8, 8), dtype=np.uint8)


@pytest.fixture(scope="module")
def charts():
    line = pd.DataFrame({"d_data": [2, 9], "k_f": [0.9, 0.2], "k_f_low": [0.8, 0.1], "k_f_high": [1.0, 0.3]})
    return {
        "scatter": figures.scatter_of_sets(SETS, "d_data", "k_f", line=line),
        "forest": figures.forest(ROWS, title="Slope (per unit)", group="kind"),
        "lines": figures.lines(CURVES, "per_class", "k_f", by="dataset"),
        "own": alt.Chart(SETS).mark_bar().encode(x="dataset", y="k_f").properties(description="A chart of a page."),
    }


@pytest.fixture(scope="module")
def stored(charts):
    return {name: chart._repr_mimebundle_() for name, chart in charts.items()}


def layers(spec):
    for layer in spec.get("spec", spec).get("layer", [spec.get("spec", spec)]):
        yield from layers(layer) if "layer" in layer else [layer]


def drawn(chart, mark):
    """(encoding, rows) of each layer of one kind of mark."""
    spec = chart.to_dict()
    for layer in layers(spec):
        if layer["mark"]["type"] == mark:
            yield layer["encoding"], spec["datasets"][layer.get("data", spec.get("data"))["name"]]


def test_a_chart_is_stored_for_every_reader_and_loads_nothing(charts, stored):
    outputs = []
    for name, (bundle, metadata) in stored.items():
        assert bundle["text/plain"] == metadata["image/png"]["alt"] == charts[name].to_dict()["description"]
        picture = Image.open(io.BytesIO(base64.b64decode(bundle["image/png"])))
        assert picture.size == (2 * metadata["image/png"]["width"], 2 * metadata["image/png"]["height"]), name
        assert 0.001 < (np.asarray(picture.convert("L")) < 200).mean() < 0.9, name
        spec = {key: value for key, value in bundle[figures.MIME_TYPE].items() if key != "$schema"}
        assert "http" not in json.dumps(spec)
        outputs.append(nbformat.v4.new_output("display_data", data=bundle, metadata=metadata))
    nbformat.validate(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("", outputs=outputs)]))


def test_vega_warns_of_nothing(charts, capfd):
    for chart in charts.values():
        chart._repr_mimebundle_()
    assert "WARN" not in "".join(capfd.readouterr())


def test_each_axis_has_a_title_and_the_description_is_of_use(charts):
    for name, chart in charts.items():
        spec = chart.to_dict()
        assert len(spec["description"]) >= 15
        titles = [layer["encoding"]["x"].get("title", "") for layer in layers(spec) if "x" in layer["encoding"]]
        assert any(titles) or name == "own"


def test_a_set_is_one_mark_with_both_intervals(charts):
    ((encoding, rows),) = drawn(charts["scatter"], "point")
    assert [(row[encoding["x"]["field"]], row[encoding["y"]["field"]]) for row in rows] == [
        *zip(SETS.d_data, SETS.k_f, strict=True)
    ]
    ends = {
        (e[a]["field"], e[f"{a}2"]["field"]) for e, _ in drawn(charts["scatter"], "rule") for a in "xy" if f"{a}2" in e
    }
    assert ends == {("d_data_low", "d_data_high"), ("k_f_low", "k_f_high")}
    assert encoding["href"]["field"] == "page"
    assert "Knee X-ray osteoarthritis" in {row["set"] for row in rows}


def test_named_sets_are_the_asked_ones_and_names_do_not_overlap():
    few = figures.scatter_of_sets(SETS, "d_data", "k_f", labels=["knee_xray_oa"])
    assert [rows[0]["dataset"] for _, rows in drawn(few, "text")] == ["knee_xray_oa"]
    crowd = pd.concat([SETS] * 10).assign(
        d_data=5.0, k_f=0.5, d_data_low=4.9, d_data_high=5.1, k_f_low=0.4, k_f_high=0.6
    )
    assert len(list(drawn(figures.scatter_of_sets(crowd, "d_data", "k_f", labels=40), "text"))) <= 4


@pytest.mark.parametrize(("given", "kind"), [(None, "log"), ("", "linear"), ("x", "linear"), ("xy", "log")])
def test_an_axis_is_logarithmic_on_demand_or_where_values_span_a_factor_of_four(given, kind):
    ((encoding, _),) = drawn(figures.scatter_of_sets(SETS, "d_data", "k_f", log=given), "point")
    assert encoding["y"]["scale"].get("type", "linear") == kind


@pytest.mark.parametrize("domain", [(0.55, 0.71), (0.1, 0.9), (0.02, 40.0), (1e-4, 1e3), (3.0, 3.1)])
def test_a_logarithmic_axis_has_a_few_round_numbers_inside(domain):
    values = figures._ticks(alt.Scale(type="log", domain=list(domain)), 6).to_dict()["values"]
    assert 2 <= len(values) <= 16
    assert domain[0] <= min(values) < max(values) <= domain[1]


def test_a_forest_is_sorted_within_its_groups_and_rows_of_one_name_stay_apart(charts):
    ((encoding, rows),) = drawn(charts["forest"], "point")
    assert [row["estimate"] for row in rows] == [0.3, 0.1, 0.2, -0.2]
    assert len({row["row"] for row in rows}) == 4
    order = encoding["y"]["scale"]["domain"]
    assert [name.strip(figures.HEADING + figures.TWIN) for name in order] == ["one", "b", "a", "two", "c", "a"]


def test_a_band_and_a_line_for_each_value(charts):
    ((encoding, _),) = drawn(charts["lines"], "area")
    assert (encoding["y"]["field"], encoding["y2"]["field"]) == ("k_f_low", "k_f_high")
    assert encoding["color"]["sort"] == ["Digits", "Torus waves"]


def test_what_cannot_be_drawn_is_refused_by_name():
    with pytest.raises(figures.BadFrame, match="k_g"):
        figures.lines(CURVES, "per_class", "k_g")
    with pytest.raises(figures.BadFrame, match="k_f"):
        figures.lines(CURVES.assign(k_f=np.nan), "per_class", "k_f")


def contrast(a, b):
    def light(color):
        channels = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    high, low = sorted((light(a), light(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("color", sorted({*figures.PALETTE, *figures.DOMAIN_COLORS.values(), figures.INK}))
@pytest.mark.parametrize("page", ["#ffffff", "#14181e"])
def test_colors_are_seen_on_both_pages(color, page):
    assert contrast(color, page) >= 3


def test_a_gallery_has_its_titles_as_alternative_and_pairs_show_the_difference():
    made = figures.gallery(PIXELS, ["one", "two\nlines", "three"])
    assert "two lines" in made.description
    bundle, metadata = made._repr_mimebundle_()
    assert metadata["image/png"]["alt"] == made.description
    assert Image.open(io.BytesIO(base64.b64decode(bundle["image/png"]))).width == 2 * made.size[0]
    same = figures.pairs(PIXELS[:1], PIXELS[:1], ["copies"])
    pixels = np.asarray(Image.open(io.BytesIO(same.png)).convert("L"))
    assert (pixels == 0).sum() > 128 * 128  # the difference of copies is black


@pytest.mark.parametrize("bad", [np.zeros((2, 8, 8)), np.zeros((1, 8, 8, 2), dtype=np.uint8)])
def test_images_that_are_none_are_refused_with_their_shape(bad):
    with pytest.raises(ValueError, match=r"\(8, 8"):
        figures.gallery(bad)
