"""Charts draw the numbers of their frame, say what they show, answer the pointer and need no network."""

import base64
import io
import itertools
import json
import subprocess
import sys

import altair as alt
import nbformat
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from intrinsic.publishing import charts

SETS = [("digits", "natural", 9.0, 0.2), ("knees", "medical", 7.0, 0.5), ("torus", "synthetic", 2.0, 0.9)]


def test_charts_load_no_grammar_and_leave_it_to_who_asks():
    code = "import intrinsic.publishing.charts, sys; assert 'rfc3987_syntax' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def runs():
    rng = np.random.default_rng(0)
    rows = []
    for name, domain, d, k_f in SETS:
        for model in ("resnet18", "vgg13"):
            for n_train in (64, 128, 256):
                for seed in (0, 1):
                    noise = np.exp(0.1 * rng.standard_normal(4))
                    row = {
                        "dataset": name,
                        "domain": domain,
                        "model": model,
                        "n_train": n_train,
                        "seed": seed,
                    }
                    row |= {"fitted": True, "test_accuracy": 0.9, "k_f": k_f, "d_data": d}
                    row |= {"k_f_low": 0.9 * k_f, "k_f_high": 1.2 * k_f}
                    row |= {"test_loss_nats": k_f * n_train ** (-1 / d) * noise[0]}
                    row |= {"loss_penalty_nats_eps2": 0.3 * k_f * noise[1], "accuracy_penalty_eps2": 0.1}
                    row |= {"d_repr": 0.8 * d * noise[2], "d_repr_low": 0.7 * d, "d_repr_high": 0.9 * d}
                    row |= {"d_data_same_images": d * noise[3], "d_repr_untrained": 0.9 * d}
                    row |= {"d_repr_random_map": d, "d_repr_twonn": d, "d_data_same_images_twonn": d}
                    rows.append(row)
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def properties():
    rows = [{"dataset": s, "domain": o, "d_data": d, "k_f": k, "n": 500, "per_class": 250} for s, o, d, k in SETS]
    frame = pd.DataFrame(rows)
    for column in ("d_data", "k_f"):
        frame[f"{column}_low"], frame[f"{column}_high"] = 0.9 * frame[column], 1.2 * frame[column]
    return frame.assign(growth_per_class=[[1, 2]] * 3)


@pytest.fixture(scope="module")
def exponents():
    rows = [
        {"dataset": s, "domain": o, "exponent": 1.1 / d, "low": 0.8 / d, "high": 1.5 / d, "predicted": 1 / d}
        for s, o, d, _ in SETS
    ]
    frame = pd.DataFrame(rows)
    return frame.assign(predicted_low=0.9 * frame["predicted"], predicted_high=1.1 * frame["predicted"])


PROFILE = pd.DataFrame({"k": [5, 10, 20], "d": [8.0, 8.5, 9.0], "low": [7.0, 8.0, 8.5], "high": [9.0, 9.0, 9.5]})
GROWTH = pd.DataFrame({"per_class": [16, 64, 256], "k_f": [0.1, 0.14, 0.2]})
COURSES = pd.DataFrame(
    [
        {"dataset": name, "domain": "natural", "model": model, "step": step, "running_loss_nats": 1 / step}
        for name in ("a", "b")
        for model in ("resnet18", "vgg13")
        for step in (2, 4, 8)
    ]
).assign(chance_nats=0.69)
SPEED = pd.DataFrame(
    {
        "method": ["ours", "other"],
        "size": "5,000 x 3,072",
        "seconds": [0.2, 1.0],
        "seconds_low": 0.1,
        "seconds_high": 2.0,
    }
)
BIAS = pd.DataFrame({"manifold": ["cube", "torus"], "d": [3, 3], "n": [500, 1000], "estimate": [2.5, 3.4]})
BIAS = BIAS.assign(low=BIAS["estimate"] - 0.1, high=BIAS["estimate"] + 0.1)
COVERAGE = pd.DataFrame({"manifold": "torus", "d": 3, "n": [500, 1000], "coverage": [0.94, 0.8]})
COVERAGE = COVERAGE.assign(coverage_low=COVERAGE["coverage"] - 0.03, coverage_high=COVERAGE["coverage"] + 0.03)
PEERS = pd.DataFrame({"estimator": ["MLE", "lPCA", "PH"], "manifold": "cube", "d": 4, "estimate": [3.0, 4.0, np.nan]})
PEERS = PEERS.assign(ratio=PEERS["estimate"] / PEERS["d"])
EXPERIMENT = pd.DataFrame(
    [
        {"intervention": name, "family": family, "model": "resnet18", "seed": seed, "at": at, "dataset": f"{name}_{at}"}
        | {"test_loss_nats": 0.1 * at + 0.01 * seed, "fitted": True, "k_f": at}
        for name in ("margin", "axis")
        for family in ("waves", "digits")
        for seed in (0, 1)
        for at in (1.0, 2.0, 8.0)
    ]
)
INTERVENED = pd.DataFrame(
    [
        {
            "intervention": name,
            "outcome": outcome,
            "family": "all",
            "model": model,
            "effect": 0.4,
            "low": 0.1,
            "high": 0.7,
        }
        | {"law": 1.0 if name == "margin" else np.nan, "n": 4}
        for name in ("margin", "axis")
        for outcome in ("test loss (nats)", "radius")
        for model in ("averaged", "resnet18")
    ]
)
RESPONSE = pd.DataFrame(
    {
        "at": [0.0, 1.0, 0.0, 1.0],
        "quantity": ["all pairs", "all pairs", "control", "control"],
        "k_f": [0.2, 0.3, 0.9, 0.8],
        "low": [0.1, 0.2, 0.8, 0.7],
        "high": [0.4, 0.5, 1.0, np.nan],
    }
)
BOUNDED = pd.DataFrame(
    {
        "n": [100, 400, 100, 400],
        "series": ["d = 2", "d = 2", "d = 8", "d = 8"],
        "value": [0.2, 0.1, 0.5, 0.48],
        "low": [0.18, 0.09, 0.45, 0.45],
        "high": [0.22, 0.11, 0.55, 0.5],
        "bound": [0.9, 0.45, 4.0, 3.5],
        "finding": ["within its bound"] * 2 + ["bound says nothing"] * 2,
        "limit": [0.25, 0.125, np.nan, np.nan],
    }
)
CLASS_PAIRS = pd.DataFrame(
    {
        "first": ["a", "a", "b"],
        "second": ["a", "b", "b"],
        "sharpness": [0.5, 0.2, 0.4],
        "same_label": [True, False, True],
    }
)
COUNTS = pd.DataFrame({"class": ["even", "odd"], "n": [2500, 2499]})


EFFECTS = pd.DataFrame(
    {
        "claim": ["one", "two"],
        "effect": [0.5, -0.2],
        "low": [0.1, np.nan],
        "high": [0.9, np.nan],
        "n_sets": [12, 3],
        "verdict": ["supported", "illustration: too few sets"],
    }
)


@pytest.fixture(scope="module")
def every_chart(runs, properties, exponents):
    return {
        "loss_against_n": charts.loss_against_n(runs),
        "exponent_against_dimension": charts.exponent_against_dimension(exponents),
        "loss_against_sharpness": charts.loss_against_sharpness(runs),
        "penalty_against_sharpness": charts.penalty_against_sharpness(runs, 2),
        "accuracy_penalty": charts.penalty_against_sharpness(runs, 2, measure="accuracy"),
        "representation_against_data": charts.representation_against_data(runs),
        "representation_twonn": charts.representation_against_data(runs, "twonn"),
        "plane": charts.plane(properties),
        "dimension_profile": charts.dimension_profile(PROFILE, known=9),
        "dimension_against": charts.dimension_against(PROFILE.assign(series="torus"), "k", "Neighbors", known=9),
        "dimension_bias": charts.dimension_bias(BIAS),
        "interval_coverage": charts.interval_coverage(COVERAGE),
        "estimators_compared": charts.estimators_compared(PEERS),
        "sharpness_growth": charts.sharpness_growth(GROWTH, GROWTH.assign(k_f=0.1, name="no growth")),
        "growth_panels": charts.growth_panels(
            pd.concat([GROWTH.assign(dataset=name, domain="natural", law=GROWTH["k_f"]) for name in ("a", "b")])
        ),
        "courses": charts.courses(COURSES),
        "growth_exponents": charts.growth_exponents(exponents, "2 / d of the pairs"),
        "sharpness_response": charts.sharpness_response(RESPONSE, "noise, grey levels"),
        "measured_and_bound": charts.measured_and_bound(BOUNDED, "Error"),
        "class_pairs": charts.class_pairs(CLASS_PAIRS),
        "counts": charts.counts(COUNTS),
        "experiment": charts.experiment(EXPERIMENT, "test_loss_nats", "Test loss (nats)"),
        "intervention_effects": charts.intervention_effects(INTERVENED),
        "speed": charts.speed(SPEED),
        "agreement": charts.agreement(properties, "d_data", "k_f", "d_data", "K_F", equality=True),
        "effects": charts.effects(EFFECTS),
        "lines": charts.lines(GROWTH.assign(series="digits"), "per_class", "k_f", "Images a class", "K_F", log_x=True),
    }


@pytest.fixture(scope="module")
def stored(every_chart):
    """What a notebook keeps of each chart: (mimebundle, metadata)."""
    return {name: chart._repr_mimebundle_() for name, chart in every_chart.items()}


def layers(spec):
    spec = spec.get("spec", spec)  # of a chart with a panel an image set
    for panel in spec.get("concat", spec.get("vconcat", [])):
        yield from ({**({"data": panel["data"]} if "data" in panel else {}), **layer} for layer in layers(panel))
    if "concat" in spec or "vconcat" in spec:
        return
    for layer in spec.get("layer", [spec]):
        yield from layers(layer) if "layer" in layer else [layer]


def drawn(chart, mark):
    """(encoding, rows) of each layer of one kind of mark; the rows before any filter."""
    spec = chart.to_dict()
    for layer in layers(spec):
        kind = layer["mark"] if isinstance(layer["mark"], str) else layer["mark"]["type"]
        if kind == mark:
            yield layer["encoding"], spec["datasets"][layer.get("data", spec.get("data"))["name"]]


def test_importing_charts_enables_the_theme_and_the_renderer():
    assert alt.renderers.active == "intrinsic"
    assert alt.theme.active == "intrinsic"


def test_each_chart_names_its_axes_and_says_what_it_shows(every_chart):
    for name, chart in every_chart.items():
        spec = chart.to_dict()
        assert len(spec["description"]) > 30, name
        titles = {
            axis: layer["encoding"][axis].get("title")
            for layer in layers(spec)
            for axis in ("x", "y")
            if axis in layer["encoding"] and "field" in layer["encoding"][axis]
        }
        assert titles["x"], name
        assert titles["y"] or name == "counts", name


def test_each_chart_answers_the_pointer(every_chart):
    for name, chart in every_chart.items():
        spec = chart.to_dict()
        assert any(p["select"].get("on") == "pointerover" for p in spec["params"]), name
        assert any("tooltip" in layer["encoding"] for layer in layers(spec)), name


@pytest.mark.parametrize(
    "name",
    ["loss_against_n", "loss_against_sharpness", "penalty_against_sharpness", "representation_against_data"],
)
def test_a_run_shows_its_set_model_size_and_seed(every_chart, name):
    shown = [{t["field"] for t in e["tooltip"]} for e, _ in drawn(every_chart[name], "point") if "tooltip" in e]
    assert any({"dataset", "model", "n_train", "seed"} <= fields for fields in shown)


def test_the_points_are_the_rows_of_the_frame(runs, properties):
    ((encoding, rows),) = drawn(charts.loss_against_n(runs), "point")
    fields = [encoding[axis]["field"] for axis in ("x", "y")]
    assert fields == ["n_train", "test_loss_nats"]
    points = [[row[f] for f in fields] for row in rows if row["drawn"] == "run"]
    assert points == runs[fields].to_numpy().tolist()
    ((encoding, rows),) = drawn(charts.plane(properties), "point")
    fields = [encoding[axis]["field"] for axis in ("x", "y")]
    assert [[row[f] for f in fields] for row in rows] == properties[["d_data", "k_f"]].to_numpy().tolist()


def test_the_dashed_line_has_the_slope_that_the_dimension_predicts(runs):
    ((_, rows), *_) = drawn(charts.loss_against_n(runs), "line")
    law = pd.DataFrame([row for row in rows if row["drawn"] == "law"])
    assert len(law) == len(SETS) * 2 * 3
    for (name, model), line in law.groupby(["dataset", "model"]):
        (d,) = {d for s, _, d, _ in SETS if s == name}
        slope = np.polyfit(np.log(line["n_train"]), np.log(line["test_loss_nats"]), 1)[0]
        assert slope == pytest.approx(-1 / d)
        first = runs[(runs["dataset"] == name) & (runs["model"] == model) & (runs["n_train"] == 64)]
        assert line["test_loss_nats"].iloc[0] == pytest.approx(first["test_loss_nats"].mean())


def test_a_panel_an_image_set_medical_ones_first(runs):
    assert charts.loss_against_n(runs).to_dict()["facet"]["sort"] == ["knees", "digits", "torus"]


def test_the_budget_chooses_the_column(runs):
    chart = charts.penalty_against_sharpness(runs.assign(loss_penalty_nats_eps8=7.0), 8)
    ((encoding, rows),) = drawn(chart, "point")
    assert {row[encoding["y"]["field"]] for row in rows} == {7.0}
    assert "8/255" in encoding["y"]["title"]


@pytest.mark.parametrize(
    ("name", "bounds"),
    [
        ("plane", {("d_data_low", "d_data_high"), ("k_f_low", "k_f_high")}),
        ("exponent_against_dimension", {("low", "high"), ("predicted_low", "predicted_high")}),
        ("loss_against_sharpness", {("k_f_low", "k_f_high")}),
        ("representation_against_data", {("d_repr_low", "d_repr_high")}),
        ("dimension_against", {("low", "high")}),
        ("dimension_bias", {("low", "high")}),
        ("measured_and_bound", {("low", "high")}),
        ("interval_coverage", {("coverage_low", "coverage_high")}),
    ],
)
def test_intervals_are_drawn(every_chart, name, bounds):
    rules = {
        (encoding[axis]["field"], encoding[f"{axis}2"]["field"])
        for encoding, _ in drawn(every_chart[name], "rule")
        for axis in ("x", "y")
        if f"{axis}2" in encoding
        and encoding[axis]["field"] != encoding[f"{axis}2"]["field"]  # a line to a name ends beside its own mark
    }
    assert rules == bounds


def test_the_null_maps_stand_beside_the_trained_networks(runs):
    hollow, trained = drawn(charts.representation_against_data(runs), "point")
    assert {row["network"] for row in hollow[1]} == {"untrained network", "random linear map"}
    assert len(hollow[1]) == 2 * len(trained[1]) == 2 * len(runs)


def test_rows_without_a_value_are_counted_and_not_drawn(runs):
    runs = runs.copy()
    runs.loc[0, "k_f"] = np.nan
    runs.loc[1, "k_f"] = np.inf
    chart = charts.loss_against_sharpness(runs)
    ((_, rows),) = drawn(chart, "point")
    assert len(rows) == len(runs) - 2
    assert "2 rows have no value" in chart.to_dict()["description"]


def test_estimators_are_told_apart_by_dashes_and_series_by_color():
    rows = pd.concat([PROFILE.assign(series=s, estimator=e) for s in ("cube", "torus") for e in ("MLE", "TwoNN")])
    ((encoding, shown),) = drawn(charts.dimension_against(rows, "k", "Neighbors"), "line")
    assert (encoding["strokeDash"]["field"], encoding["color"]["field"]) == ("estimator", "series")
    assert [row["d"] for row in shown] == rows["d"].tolist()
    plain = charts.dimension_against(PROFILE, "k", "Neighbors", known=7)
    assert {"d": 7, "name": "true dimension 7"} in [row for _, part in drawn(plain, "rule") for row in part]


def test_the_range_asked_for_and_the_nominal_level_stand_behind_the_coverage():
    chart = charts.interval_coverage(COVERAGE, nominal=0.9, low=0.8, high=0.95)
    ((encoding, rows),) = drawn(chart, "rect")
    assert [rows[0][encoding[axis]["field"]] for axis in ("x", "x2")] == [0.8, 0.95]
    assert {"nominal": 0.9} in [row for _, rows in drawn(chart, "rule") for row in rows]
    assert min(encoding["x"]["scale"]["domain"]) < 0.8


def test_estimators_that_did_not_finish_are_counted():
    chart = charts.estimators_compared(PEERS)
    ((_, rows),) = drawn(chart, "point")
    assert [row["estimator"] for row in rows] == ["MLE", "lPCA"]
    assert "1 row has no value" in chart.to_dict()["description"]


def test_a_response_draws_every_value_with_its_interval():
    chart = charts.sharpness_response(RESPONSE, "noise, grey levels")
    ((encoding, rows),) = drawn(chart, "point")
    fields = [encoding["x"]["field"], encoding["color"]["field"], encoding["y"]["field"]]
    assert [[row[f] for f in fields] for row in rows] == RESPONSE[["at", "quantity", "k_f"]].to_numpy().tolist()
    ((encoding, rows),) = drawn(chart, "rule")
    assert (encoding["y"]["field"], encoding["y2"]["field"]) == ("low", "high")


def test_a_bound_that_says_nothing_has_hollow_marks():
    chart = charts.measured_and_bound(BOUNDED, "Error")
    ((encoding, rows),) = drawn(chart, "point")
    assert [row["finding"] for row in rows] == list(BOUNDED["finding"])
    assert encoding["fillOpacity"]["condition"]["test"] == "datum.finding == 'bound says nothing'"
    assert encoding["fillOpacity"]["condition"]["value"] == 0
    assert "2 hollow marks" in chart.to_dict()["description"]
    assert "1 row has no value" in charts.measured_and_bound(BOUNDED.replace(0.48, 0), "Error").to_dict()["description"]


def test_the_matrix_of_classes_is_symmetric_and_frames_its_diagonal():
    chart = charts.class_pairs(CLASS_PAIRS)
    ((_, rows),) = drawn(chart, "text")
    values = {(row["first"], row["second"]): row["sharpness"] for row in rows}
    assert values == {("a", "a"): 0.5, ("a", "b"): 0.2, ("b", "a"): 0.2, ("b", "b"): 0.4}
    frames = [layer for layer in layers(chart.to_dict()) if "transform" in layer]
    assert [frame["transform"] for frame in frames] == [[{"filter": "datum.same_label"}]]


def test_where_nothing_can_be_drawn_the_chart_says_so(properties):
    chart = charts.plane(properties.assign(k_f=np.nan))
    assert "nothing to draw" in chart.to_dict()["description"]
    assert charts.render(chart.to_dict())[0]["image/png"]


def test_two_quantities_that_no_record_holds_make_a_chart_that_says_so(properties):
    for chart in (
        charts.agreement(pd.DataFrame(), "d_data", "k_f", "d_data", "K_F"),
        charts.agreement(properties.assign(k_f=np.nan), "d_data", "k_f", "d_data", "K_F"),
        charts.lines(properties, "absent", "k_f", "absent", "K_F"),
        charts.effects(EFFECTS.assign(effect=np.nan)),
    ):
        assert "nothing to draw" in chart.to_dict()["description"]


def test_an_effect_without_an_interval_is_drawn_without_a_rule():
    rules = [rows for encoding, rows in drawn(charts.effects(EFFECTS), "rule") if "x2" in encoding]
    assert [[row["claim"] for row in rows] for rows in rules] == [["one"]]
    assert [len(rows) for _, rows in drawn(charts.effects(EFFECTS), "point")] == [2]


def test_a_frame_without_a_column_is_refused_by_name(runs):
    with pytest.raises(charts.ChartError, match="no column seed"):
        charts.loss_against_n(runs.drop(columns="seed"))


def test_an_axis_is_logarithmic_where_values_span_more_than_a_factor_of_four(properties):
    def axis(frame):
        ((encoding, _),) = drawn(charts.plane(frame), "point")
        return encoding["y"]["scale"].get("type", "linear")

    assert axis(properties) == "log"  # 0.18 ... 1.08
    narrow = properties.assign(k_f=1.0, k_f_low=0.9, k_f_high=1.1)
    assert axis(narrow) == "linear"


@pytest.mark.parametrize("domain", [(0.55, 0.71), (0.1, 0.9), (0.02, 40.0), (1e-4, 1e3), (3.0, 3.1), (0.9, 9.1)])
def test_a_logarithmic_axis_has_a_few_round_numbers(domain):
    values = charts._axis(alt.Scale(type="log", domain=list(domain))).to_dict()["values"]
    assert 3 <= len(values) <= 12
    assert domain[0] <= min(values) < max(values) <= domain[1]
    assert all(float(f"{value:.3g}") == value for value in values)


@pytest.mark.parametrize("log", [False, True])
def test_labels_move_apart_and_keep_their_order(log):
    values = pd.Series([1.0, 1.001, 1.002, 5.0, 9.0])
    scale = alt.Scale(type="log", domain=[0.5, 10]) if log else alt.Scale(domain=[0, 10])
    moved = charts._labels_apart(values, scale, height=340, gap=14)
    pixels = charts._pixels(scale, 340)(moved)
    assert np.diff(pixels).min() > 13.8
    assert moved[3] == pytest.approx(5.0)
    assert moved[4] == pytest.approx(9.0)


def test_names_cover_no_mark_and_no_other_name():
    frame = pd.DataFrame({"dataset": ["one", "two"], "a": [5.0, 5.05], "b": [5.0, 5.05]})
    x = alt.X("a:Q", scale=alt.Scale(domain=[0, 10]))
    y = alt.Y("b:Q", scale=alt.Scale(domain=[0, 10]))
    texts = [layer.to_dict()["mark"] for layer in charts._names(frame, x, y, None)]
    assert len({(t["align"], t["dx"], t["dy"]) for t in texts}) == 2


def placed_names(frame, domain=(0, 10), **options):
    """Boxes (left, top, right, bottom) of the names on a panel of 560 x 340 pixels."""
    x, y = (axis(f"{c}:Q", scale=alt.Scale(domain=list(domain))) for axis, c in ((alt.X, "a"), (alt.Y, "b")))
    across, up = charts._pixels(x._kwds["scale"], 560), charts._pixels(y._kwds["scale"], 340)
    for layer in charts._names(frame, x, y, None, **options):
        spec = layer.to_dict()
        if spec["mark"]["type"] == "text":
            for row in next(iter(spec["datasets"].values())):
                size, dx, dy = 6 * len(row["dataset"]), spec["mark"]["dx"], spec["mark"]["dy"]
                left = across(row["a"]) + dx - size * {"left": 0, "right": 1, "center": 0.5}[spec["mark"]["align"]]
                yield left, 340 - up(row["b"]) + dy - 6, left + size, 340 - up(row["b"]) + dy + 6


def test_names_of_a_crowd_stay_apart_and_off_the_axes():
    rng = np.random.default_rng(0)
    names = [f"an_image_set_{i}" for i in range(16)]
    crowd = pd.DataFrame({"dataset": names, "a": 1 + 2 * rng.random(16), "b": 1 + 3 * rng.random(16)})
    boxes = list(placed_names(crowd))
    assert len(boxes) == 16
    assert all(left >= 0 and top >= 0 and bottom <= 340 for left, top, _, bottom in boxes)
    shared = sum(charts._covered(one, np.array([other])) for i, one in enumerate(boxes) for other in boxes[:i])
    assert shared < 0.05 * sum((b[2] - b[0]) * (b[3] - b[1]) for b in boxes)


@pytest.mark.parametrize("seed", range(5))
def test_the_places_of_names_are_the_best_there_are(seed):
    rng = np.random.default_rng(seed)
    n, places = 5, 4
    corners = rng.uniform(0, 60, (n, places, 2))
    boxes = np.concatenate([corners, corners + np.array([40, 12])], axis=2)
    cost = rng.uniform(0, 10, (n, places))

    def total(chosen):
        own = boxes[np.arange(n), list(chosen)]
        shared = sum(charts._covered(own[i], own[i + 1 :]) for i in range(n))
        return cost[np.arange(n), list(chosen)].sum() + shared

    best = min(total(chosen) for chosen in itertools.product(range(places), repeat=n))
    assert total(charts._fewest_covered(boxes, cost)) == pytest.approx(best)


@pytest.mark.parametrize("apart", [0.2, 0.5, 1.0, 2.0])
def test_a_name_is_nearer_to_its_own_mark_than_to_another(apart):
    frame = pd.DataFrame({"dataset": ["first_image_set", "second_image_set"], "a": [5.0, 5.0 + apart], "b": [5.0, 5.0]})
    x, y = (axis(f"{c}:Q", scale=alt.Scale(domain=[0, 10])) for axis, c in ((alt.X, "a"), (alt.Y, "b")))
    at = np.column_stack([frame["a"] * 56, 340 - frame["b"] * 34])
    for layer in charts._names(frame, x, y, None):
        spec = layer.to_dict()
        if spec["mark"]["type"] != "text":
            continue
        for row in next(iter(spec["datasets"].values())):
            own = list(frame["dataset"]).index(row["dataset"])
            ends = {"left": (0, 1), "right": (-1, 0), "center": (-0.5, 0.5)}[spec["mark"]["align"]]
            x0, y0 = at[own] + [spec["mark"]["dx"], spec["mark"]["dy"]]
            size = 6.9 * len(row["dataset"])
            box = np.array([[[x0 + size * ends[0], y0 - 6, x0 + size * ends[1], y0 + 6]]])
            assert charts._apart(box, at)[:, 0, 0].argmin() == own


def test_a_name_keeps_off_a_line():
    frame = pd.DataFrame({"dataset": ["a_set"], "a": [5.0], "b": [5.0]})
    (free,) = placed_names(frame)
    middle = 10 - (free[1] + free[3]) / 2 / 34
    line = (0.0, middle, 10.0, middle)  # through where the name would stand
    (moved,) = placed_names(frame, strokes=[line])
    assert not moved[1] <= 340 - middle * 34 <= moved[3]


# ---------------------------------------------------------------------------------------- rendering


def test_a_chart_is_stored_for_every_reader_and_the_notebook_is_valid(every_chart, stored):
    outputs = []
    for name, chart in every_chart.items():
        bundle, metadata = stored[name]
        assert set(bundle) == {charts.MIME_TYPE, "image/png", "text/plain"}
        assert bundle["text/plain"] == metadata["image/png"]["alt"] == chart.to_dict()["description"]
        picture = Image.open(io.BytesIO(base64.b64decode(bundle["image/png"])))
        assert picture.size == (2 * metadata["image/png"]["width"], 2 * metadata["image/png"]["height"]), name
        dark = np.asarray(picture.convert("L")) < 200
        assert 0.001 < dark.mean() < 0.9, name
        outputs.append(nbformat.v4.new_output("display_data", data=bundle, metadata=metadata))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("", outputs=outputs)])
    nbformat.validate(notebook)


def test_a_stored_chart_loads_nothing(stored):
    for bundle, _ in stored.values():
        spec = bundle[charts.MIME_TYPE]
        text = json.dumps({key: value for key, value in spec.items() if key != "$schema"})
        assert "http" not in text
        assert '"url"' not in text


# ------------------------------------------------------------------------------------------- colors


def linear(color):
    channels = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def contrast(a, b):
    light, dark = sorted((float(linear(c) @ [0.2126, 0.7152, 0.0722]) for c in (a, b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("page", ["#ffffff", "#121212"])
def test_colors_stand_out_from_a_light_and_a_dark_page(page):
    assert min(contrast(color, page) for color in charts.DOMAIN_COLORS.values()) >= 3
    assert contrast(charts.INK, page) >= 4


# Machado, Oliveira & Fernandes 2009, severity 1
PROTANOPIA = [
    [0.152286, 1.052583, -0.204868],
    [0.114503, 0.786281, 0.099216],
    [-0.003882, -0.048116, 1.051998],
]
DEUTERANOPIA = [
    [0.367322, 0.860646, -0.227968],
    [0.280085, 0.672501, 0.047413],
    [-0.01182, 0.04294, 0.968881],
]
TRITANOPIA = [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]]


def lab(rgb):
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ rgb
    f = np.cbrt(np.clip(xyz / [0.9505, 1.0, 1.089], 1e-6, None))
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("sight", [np.eye(3), PROTANOPIA, DEUTERANOPIA, TRITANOPIA])
def test_color_blind_readers_tell_the_domains_apart(sight):
    seen = [lab(np.clip(np.asarray(sight) @ linear(c), 0, 1)) for c in charts.DOMAIN_COLORS.values()]
    apart = [np.linalg.norm(a - b) for i, a in enumerate(seen) for b in seen[:i]]
    assert min(apart) > 20  # a difference of 2.3 is just noticed


def test_each_model_has_a_shape_of_its_own(runs):
    assert len(set(charts.MODEL_SHAPES.values())) == len(charts.MODEL_SHAPES) == 6
    one_more = runs.assign(model=runs["model"].where(runs.index > 0, "another"))
    ((encoding, _),) = drawn(charts.loss_against_n(one_more), "point")
    shapes = encoding["shape"]["scale"]["range"]
    assert len(set(shapes)) == len(shapes) == 3


# ----------------------------------------------------------------------------------------- pictures


def pixels(gallery):
    return np.asarray(Image.open(io.BytesIO(gallery.png)))


def test_a_gallery_shows_whole_pixels_unchanged():
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 6), dtype=np.uint8)
    shown = charts.gallery(images, columns=2, side=12)  # 24 pixels of the picture: each pixel 4 x 4
    picture = pixels(shown)
    first = picture[24 : 24 + 16, 24 : 24 + 24]
    assert np.array_equal(first, np.kron(images[0], np.ones((4, 4), np.uint8))[..., None].repeat(3, axis=2))
    second = picture[24 : 24 + 16, 24 + 24 + 24 : 24 + 24 + 48, 0]
    assert np.array_equal(second, np.kron(images[1], np.ones((4, 4), np.uint8)))
    assert shown.size == (picture.shape[1] // 2, picture.shape[0] // 2)


def test_a_gallery_is_a_picture_with_its_titles_as_text_alternative():
    images = np.zeros((2, 5, 5, 3), dtype=np.uint8)
    bundle, metadata = charts.gallery(images, ["<b>one</b>", "two"])._repr_mimebundle_()
    assert set(bundle) == {"image/png", "text/plain"}
    assert metadata["image/png"]["alt"] == bundle["text/plain"] == "2 images: <b>one</b>; two."


def test_a_pair_shows_its_difference_at_full_contrast():
    left = np.full((1, 8, 8), 100, dtype=np.uint8)
    right = left.copy()
    right[0, 2, 3] = 103
    picture = pixels(charts.pairs(left, right, headings=("a", "b", "c"), side=8))[..., 0]
    side, gap, top = 16, 24, 32 + 12 + 24
    start = gap + 2 * (side + gap)
    difference = picture[top : top + side, start : start + side]
    expected = np.zeros((8, 8), np.uint8)
    expected[2, 3] = 255
    assert np.array_equal(difference, np.kron(expected, np.ones((2, 2), np.uint8)))


@pytest.mark.parametrize(
    ("images", "titles", "reason"),
    [
        (np.zeros((2, 4, 4)), None, "uint8"),
        (np.zeros((1, 4, 4, 2), np.uint8), None, "one or three channels"),
        (np.zeros((2, 4, 4), np.uint8), ["one"], "1 titles"),
        (np.zeros((0, 4, 4), np.uint8), None, "has none"),
    ],
)
def test_what_cannot_be_shown_is_refused(images, titles, reason):
    with pytest.raises(charts.ChartError, match=reason):
        charts.gallery(images, titles)


def test_published_and_corrected_values_share_one_axis_and_infinite_ones_are_counted():
    rows = pd.DataFrame(
        {"dataset": ["a", "b"], "published": [1.0, 2.0], "corrected": [3.0, np.inf], "low": 2.0, "high": 4.0}
    )
    chart = charts.published_and_corrected(rows, "Value")
    assert "published 1, corrected 3" in chart.description.replace(" to 1", "").replace(" to 3", "")
    assert "1 row has no value" in chart.description
    assert isinstance(charts.published_and_corrected(rows.assign(corrected=np.nan), "Value").description, str)
    with pytest.raises(charts.ChartError, match="corrected"):
        charts.published_and_corrected(rows[["dataset", "published"]], "Value")


def test_an_experiment_has_a_panel_an_intervention_with_its_runs():
    chart = charts.experiment(EXPERIMENT, "test_loss_nats", "Test loss (nats)")
    assert [panel["title"] for panel in chart.to_dict()["concat"]] == ["margin", "axis"]
    rows = [row for _, rows in drawn(chart, "point") for row in rows]
    assert [row["test_loss_nats"] for row in rows] == EXPERIMENT["test_loss_nats"].tolist()


def test_an_effect_stands_beside_the_slope_that_the_theory_states():
    chart = charts.intervention_effects(INTERVENED).to_dict()
    assert len(chart["vconcat"]) == 2
    fields = {layer["encoding"]["x"]["field"] for panel in chart["vconcat"] for layer in panel["layer"]}
    assert {"effect", "low", "law", "zero"} <= fields


def test_an_interval_beyond_the_panel_ends_in_an_arrowhead():
    chart = charts.intervention_effects(INTERVENED.assign(low=-50.0, high=50.0))
    heads = [row for encoding, rows in drawn(chart, "point") if encoding["x"]["field"] == "edge" for row in rows]
    assert len(heads) == 2 * len(INTERVENED)
    assert "beyond the panel" in chart.description
    within = charts.intervention_effects(INTERVENED)
    assert not [e for e, _ in drawn(within, "point") if e["x"]["field"] == "edge"]
    assert "beyond the panel" not in within.description


def test_a_level_that_is_constant_has_one_tick():
    chart = charts.experiment(EXPERIMENT.assign(at=2.0), "test_loss_nats", "Test loss (nats)")
    ticks = [encoding["x"]["axis"]["values"] for encoding, _ in drawn(chart, "point")]
    assert ticks == [[2.0]] * len(ticks)


def test_numbers_of_one_axis_are_written_in_one_way():
    small = charts._axis(alt.Scale(type="log", domain=[3e-8, 2e-2])).to_dict()
    assert small["format"] == ".3~e"
    assert charts._axis(alt.Scale(type="log", domain=[0.01, 20])).to_dict()["format"] == ".6~g"


def test_the_course_of_a_run_is_a_line_below_the_loss_at_chance():
    chart = charts.courses(pd.concat([COURSES, COURSES[:1].assign(running_loss_nats=np.nan)]))
    ((encoding, rows),) = drawn(chart, "line")
    assert (encoding["x"]["field"], encoding["y"]["field"]) == ("step", "running_loss_nats")
    assert encoding["detail"]["field"] == "dataset"
    assert len(rows) == 12
    ((dashed, _),) = drawn(chart, "rule")
    assert dashed["y"]["datum"] == 0.69
    assert chart.to_dict()["facet"]["field"] == "model"
    unequal = COURSES.assign(chance_nats=np.where(COURSES["dataset"] == "a", 0.69, 1.1))
    assert not list(drawn(charts.courses(unequal), "rule"))  # no one line is that of all
