"""Tidy frame -> Altair chart. Nothing is computed here: every number drawn stands in the frame.

Importing this module in a notebook enables its theme and its renderer: `enable()`. Each chart is
stored in the notebook three times, so that it can be read anywhere and with no network:

- `application/vnd.vegalite.v5+json`, which JupyterLab draws and which the book's own renderer draws
  (Altair 6 would write `application/vnd.vegalite.v6.json`, which nbformat refuses);
- `image/png`, drawn by vl-convert, for previews, print and pages without JavaScript;
- `text/plain`, the description of the chart, which is also its text alternative.

Color is the domain of an image set, shape is the model, size is N. Pointing at a mark brings its image
set forward and shows set, model, N and seed; a click on an entry of a legend picks it, shift adds.
"""

import base64
import importlib.util
import io
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from intrinsic.publishing import old_tables as tables


def _quick_altair():
    """altair, without a grammar of web addresses that jsonschema takes seconds to load where it finds it.

    No chart has addresses to check; whoever imports that grammar later gets it.
    """
    grammar = "rfc3987_syntax"
    absent = sys.modules.setdefault(grammar, None) is None
    try:
        import altair
    finally:
        if absent:
            sys.modules.pop(grammar)
    return altair


alt = _quick_altair()

MIME_TYPE = "application/vnd.vegalite.v5+json"
SCHEMA_URL = "https://vega.github.io/schema/vega-lite/v5.json"

#: 3:1 or more on white and on the book's dark page, and told apart by color-blind readers (CIE76 > 20
#: for protanopia, deuteranopia and tritanopia as modelled by Machado, Oliveira & Fernandes 2009)
DOMAIN_COLORS = {"medical": "#d55e00", "natural": "#3394d9", "synthetic": "#2b7a41", "unknown": "#8c8c8c"}
MODEL_SHAPES = {
    "resnet18": "circle",
    "resnet34": "square",
    "resnet50": "diamond",
    "vgg13": "triangle-up",
    "vgg16": "triangle-down",
    "vgg19": "cross",
}
SPARE_COLOR = "#a05fc0"
SPARE_SHAPES = ("triangle-left", "arrow", "wedge")
#: grey of text and rules: 4:1 or more on white and on the book's dark background
INK, GRID = "#767b84", "#9aa0a6"
FONT = "Helvetica, Arial, sans-serif"
WIDTH, HEIGHT = 560, 340
PANEL = 190, 150
APART = 6  # pixels between the numbers of an axis
N_TITLE = "Training images N"
D_TITLE = "Intrinsic dimension of the images, d_data"
K_TITLE = "Label sharpness K_F (per unit of L2 distance, pixels in [0, 1])"


class ChartError(ValueError):
    """A frame that lacks what a chart draws."""


# ------------------------------------------------------------------------------- theme and renderer


def theme() -> alt.theme.ThemeConfig:
    """Colors, fonts and sizes of all charts; the background is transparent."""
    text = {"labelColor": INK, "titleColor": INK, "labelFontSize": 12, "titleFontSize": 13}
    return {
        "config": {
            "background": "transparent",
            "font": FONT,
            "view": {"stroke": None, "continuousWidth": WIDTH, "continuousHeight": HEIGHT},
            "axis": {
                **text,
                "titleFontWeight": "normal",
                "titlePadding": 8,
                "domainColor": GRID,
                "tickColor": GRID,
                "gridColor": GRID,
                "gridOpacity": 0.25,
                "labelOverlap": True,
                "maxExtent": 500,  # a title stands beside the longest names, not on them
            },
            "legend": {
                **text,
                "orient": "top",
                "direction": "horizontal",
                "titleFontWeight": "bold",
                "titleFontSize": 12,
                "columnPadding": 12,
                "padding": 4,
                "titlePadding": 6,
                "symbolStrokeWidth": 1.5,
                "symbolSize": 90,
                "symbolFillColor": INK,
                "symbolStrokeColor": INK,
                "symbolOpacity": 1,
            },
            "title": {"color": INK, "subtitleColor": INK, "anchor": "start", "fontWeight": "normal"},
            "header": text,
            "text": {"color": INK, "fontSize": 12},
            "rule": {"color": INK, "aria": False},  # lines beside marks: the marks carry the names
            "line": {"strokeWidth": 2, "strokeJoin": "round", "strokeCap": "round"},
            "point": {"filled": True, "size": 80, "strokeWidth": 1},
            "bar": {"color": DOMAIN_COLORS["natural"], "cornerRadiusEnd": 2},
            "range": {"category": [*DOMAIN_COLORS.values()]},
        }
    }


def render(spec: dict, scale: float = 2.0, **_) -> tuple[dict, dict]:
    """(mimebundle, metadata) of a chart: Vega-Lite, PNG (white background) and the description."""
    import vl_convert

    description = spec.get("description") or "A chart without a description."
    png = vl_convert.vegalite_to_png({**spec, "background": "white"}, scale=scale, vl_version=_vegalite_version())
    width, height = (round(side / scale) for side in Image.open(io.BytesIO(png)).size)
    bundle = {
        MIME_TYPE: {**spec, "$schema": SCHEMA_URL},
        "image/png": base64.b64encode(png).decode("ascii"),
        "text/plain": description,
    }
    metadata = {
        MIME_TYPE: {"embed_options": {"renderer": "svg", "actions": False}},
        "image/png": {"width": width, "height": height, "alt": description},
    }
    return bundle, metadata


def _vegalite_version() -> str:
    """The Vega-Lite that vl-convert carries and that is nearest to the one Altair writes for."""
    import vl_convert

    wanted = alt.SCHEMA_VERSION.lstrip("v").split(".")
    known = vl_convert.get_vegalite_versions()
    same_major = [v for v in known if v.split(".")[0] == wanted[0]]
    return ".".join(wanted[:2]) if ".".join(wanted[:2]) in known else (same_major or known)[-1]


def enable() -> None:
    """Make the theme, the renderer and the look of tables the current ones; done once on import."""
    tables.enable()
    alt.theme.register("intrinsic", enable=True)(theme)
    alt.renderers.register("intrinsic", render)
    alt.renderers.enable("intrinsic")
    alt.data_transformers.disable_max_rows()


enable()


# ----------------------------------------------------------------------------------------- building


TOOLTIPS = {
    "dataset": ("Image set", None),
    "domain": ("Domain", None),
    "network": ("Network", None),
    "model": ("Model", None),
    "n_train": ("N", ",d"),
    "seed": ("Seed", "d"),
    "fitted": ("Fitted", None),
    "n": ("Images", ",d"),
    "n_groups": ("Groups", ",d"),
    "per_class": ("M, images a class", ",d"),
    "size": ("Pixels a side", "d"),
    "channels": ("Channels", "d"),
    "test_loss_nats": ("Test loss (nats)", ".4f"),
    "test_accuracy": ("Test accuracy", ".3f"),
    "d_data": ("d_data", ".2f"),
    "d_data_low": ("d_data, low", ".2f"),
    "d_data_high": ("d_data, high", ".2f"),
    "k_f": ("K_F", ".4f"),
    "k_f_low": ("K_F, low", ".4f"),
    "k_f_high": ("K_F, high", ".4f"),
}


def _need(frame: pd.DataFrame, columns: Sequence[str], what: str) -> None:
    absent = [column for column in columns if column not in frame.columns]
    if absent:
        raise ChartError(
            f"the frame has no column {', '.join(absent)}, which {what} draws; "
            f"its columns are {', '.join(map(str, frame.columns))}"
        )


def _drawn(frame: pd.DataFrame, required: Sequence[str], optional: Sequence[str], what: str):
    """(rows that can be drawn with the columns that are used, rows left out)."""
    _need(frame, required, what)
    columns = [c for c in dict.fromkeys([*required, *optional]) if c in frame.columns]
    kept = frame[columns].replace([np.inf, -np.inf], np.nan).dropna(subset=list(required))
    return kept.reset_index(drop=True), len(frame) - len(kept)


def _tooltip(frame: pd.DataFrame, extra: dict[str, tuple[str, str | None]] | None = None) -> list[alt.Tooltip]:
    labels = {**TOOLTIPS, **(extra or {})}
    chosen = [column for column in labels if column in frame.columns]
    return [
        alt.Tooltip(field=column, title=labels[column][0], type=_kind(frame[column]))
        if labels[column][1] is None or not pd.api.types.is_numeric_dtype(frame[column])
        else alt.Tooltip(field=column, title=labels[column][0], type="quantitative", format=labels[column][1])
        for column in chosen
    ]


def _kind(values: pd.Series) -> str:
    numbers = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    return "quantitative" if numbers else "nominal"


def _wide(values) -> bool:
    """Whether positive values span enough for a logarithmic axis: a factor of 4."""
    values = np.asarray(values, dtype=float)
    values = values[np.isfinite(values)]
    return bool(len(values)) and values.min() > 0 and values.max() / values.min() > 4


def _scale(*columns: pd.Series, log: bool | None = None) -> alt.Scale:
    values = pd.concat([pd.Series(column, dtype=float) for column in columns]).dropna()
    if log or (log is None and _wide(values)):
        low, high = float(values.min()), float(values.max())
        span = max(np.log(high / low), 0.2)
        domain = [low * np.exp(-0.06 * span), high * np.exp(0.06 * span)]
        return alt.Scale(type="log", domain=domain, nice=False)
    low, high = float(values.min()), float(values.max())
    margin = 0.06 * ((high - low) or abs(high) or 1.0)
    return alt.Scale(domain=[low - margin, high + margin], nice=False, zero=False)


def _axis(scale: alt.Scale, count: int = 6) -> alt.Axis:
    """About `count` round numbers; Vega leaves most labels of a short logarithmic axis away.

    Numbers of one axis are written in one way: with powers of ten where the smallest needs them.
    """
    low, high = (float(bound) for bound in scale.domain)
    if scale.to_dict().get("type") != "log":
        return alt.Axis(format=".6~g", tickCount=count, labelSeparation=APART)
    form = ".3~e" if low < 1e-4 else ".6~g"
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    for mantissas in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9)):
        values = [m * 10.0**d for d in decades for m in mantissas if low <= m * 10.0**d <= high]
        if len(values) >= min(count, 4):
            return alt.Axis(format=form, values=[float(f"{value:.3g}") for value in values], labelSeparation=APART)
    step = 10 ** np.floor(np.log10((high - low) / count))
    step *= next((m for m in (1, 2, 5, 10) if (high - low) / (m * step) <= count), 10)
    values = np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step
    return alt.Axis(format=form, values=[float(f"{value:.6g}") for value in values], labelSeparation=APART)


def _ordered(present, canonical) -> list[str]:
    present = list(dict.fromkeys(present))
    return [name for name in canonical if name in present] + sorted(
        str(name) for name in present if name not in canonical
    )


def _color(frame: pd.DataFrame, legend: bool = True):
    if "domain" not in frame.columns:
        return alt.value(DOMAIN_COLORS["natural"])
    domains = _ordered(frame["domain"], DOMAIN_COLORS)
    colors = [DOMAIN_COLORS.get(name, DOMAIN_COLORS["unknown"]) for name in domains]
    return alt.Color(
        "domain:N",
        scale=alt.Scale(domain=domains, range=colors),
        legend=alt.Legend(title="Domain", symbolType="circle") if legend else None,
    )


def _series_color(drawn: pd.DataFrame):
    """(color, parameters, what is picked in the legend) of lines that have a column `series`, or of one line."""
    if "series" not in drawn:
        return alt.value(DOMAIN_COLORS["natural"]), [], None
    legend = alt.Legend(title=None, columns=2, labelLimit=300)
    color = alt.Color("series:N", sort=list(dict.fromkeys(drawn["series"])), legend=legend)
    picked = alt.selection_point(name="picked_series", fields=["series"], bind="legend")
    return color, [picked], picked


def _shape(frame: pd.DataFrame, field: str = "model", title: str = "Model"):
    names = _ordered(frame[field], MODEL_SHAPES)
    spare = iter(SPARE_SHAPES * len(names))
    shapes = [MODEL_SHAPES.get(name) or next(spare) for name in names]
    return alt.Shape(
        f"{field}:N",
        scale=alt.Scale(domain=names, range=shapes),
        legend=alt.Legend(title=title, columns=3 if len(names) > 3 else 0),
    )


def _answers(frame: pd.DataFrame, legends: Sequence[str] = ("domain", "model")):
    """(parameters, opacity condition): what is pointed at or picked in a legend stands out."""
    parameters = []
    if "dataset" in frame.columns:
        parameters.append(alt.selection_point(name="pointed", fields=["dataset"], on="pointerover", clear="pointerout"))
    parameters += [
        alt.selection_point(name=f"picked_{field}", fields=[field], bind="legend")
        for field in legends
        if field in frame.columns
    ]
    chosen = parameters[0] if parameters else None
    for parameter in parameters[1:]:
        chosen = chosen & parameter
    return parameters, chosen


def _nearest(fields: list[str]):
    """The mark nearest to the pointer."""
    return alt.selection_point(
        name="nearest", fields=fields, on="pointerover", clear="pointerout", nearest=True, empty=False
    )


def _opacity(chosen, strong: float, weak: float = 0.08):
    return alt.value(strong) if chosen is None else alt.condition(chosen, alt.value(strong), alt.value(weak))


def _labels_apart(positions: pd.Series, scale: alt.Scale, height: float, gap: float = 14) -> pd.Series:
    """The same positions, moved apart until labels of `gap` pixels do not overlap."""
    pixel = _pixels(scale, height)(positions)
    order = np.argsort(pixel, kind="stable")
    placed = pixel[order].copy()
    for _ in range(200):
        overlap = np.maximum(gap - np.diff(placed), 0)
        if overlap.max(initial=0) < 0.1:
            break
        placed[1:] += overlap / 2
        placed[:-1] -= overlap / 2
    share = np.empty_like(placed)
    share[order] = placed / height
    low, high = scale.domain
    moved = low * (high / low) ** share if scale.to_dict().get("type") == "log" else low + share * (high - low)
    return pd.Series(moved, index=positions.index)


def _finish(layers: Sequence, description: str, *, width=WIDTH, height=HEIGHT, left_out: int = 0, note=""):
    """The layers as one panel with its text alternative."""
    panel = alt.layer(*layers).properties(width=width, height=height)
    return _described(panel, description, left_out=left_out, note=note)


def _described(chart, description: str, *, left_out: int = 0, note: str = ""):
    """The chart with its text alternative; rows that could not be drawn are counted, on it and in words."""
    notes = [note] if note else []
    if left_out:
        rows = "1 row has no value and is" if left_out == 1 else f"{left_out} rows have no value and are"
        notes.append(f"{rows} not drawn.")
    chart = chart.properties(description=" ".join([description, *notes]))
    if notes:
        chart = chart.properties(title=alt.Title(notes, fontSize=11))
    chart.to_dict()  # validates now: Altair's own display would print an error and show nothing
    return chart


def _nothing(what: str, reason: str):
    """A chart that says that there is nothing to draw, and why."""
    sentence = f"{what}: nothing to draw, {reason}."
    text = alt.Chart(pd.DataFrame({"sentence": [sentence]})).mark_text(fontSize=14).encode(text="sentence:N")
    return _finish([text], sentence, height=80)


def _sets(frame: pd.DataFrame) -> str:
    n = frame["dataset"].nunique()
    return f"{n} image set{'s' if n != 1 else ''} ({', '.join(sorted(map(str, frame['dataset'].unique())))})"


def _range(values: pd.Series, digits: int = 3) -> str:
    return f"{values.min():.{digits}g} to {values.max():.{digits}g}"


def _by_set(frame: pd.DataFrame, y: str, how: str = "mean") -> pd.DataFrame:
    """One row an image set, where its name and its interval are drawn: the middle of its marks."""
    first = [c for c in frame.columns if c in ("domain", "k_f", "k_f_low", "k_f_high", "d_data")]
    return frame.groupby("dataset", as_index=False).agg({**dict.fromkeys(first, "first"), y: how})


def _interval(frame, bounds: tuple[str, str], chosen, x, y, *, along_y: bool = False) -> list:
    """Rules between two columns along x, or along y."""
    low, high = bounds
    if low not in frame.columns or high not in frame.columns:
        return []
    marks = alt.Chart(frame.dropna(subset=[low, high])).mark_rule(strokeWidth=1.5, clip=True)
    along = {"x": _on(low, x), "x2": f"{high}:Q", "y": y}
    if along_y:
        along = {"y": _on(low, y), "y2": f"{high}:Q", "x": x}
    return [marks.encode(**along, color=_color(frame), opacity=_opacity(chosen, 0.75))]


#: where a name may stand beside its mark: alignment, dx, dy, in order of preference
PLACES = (
    ("left", 9, -7),
    ("right", -9, -7),
    ("left", 9, 13),
    ("right", -9, 13),
    ("center", 0, -16),
    ("center", 0, 22),
    ("left", 9, -21),
    ("right", -9, 27),
)


#: farther places, from which a line leads to the mark
FAR = tuple(
    place
    for r in (34, 52, 70)
    for place in (
        ("left", r, -r // 2),
        ("right", -r, -r // 2),
        ("left", r, r // 2),
        ("right", -r, r // 2),
        ("center", 0, -r),
        ("center", 0, r),
        ("left", r, 0),
        ("right", -r, 0),
    )
)


def _names(frame, x, y, chosen, *, places=PLACES, marks=None, strokes=(), width=WIDTH, height=HEIGHT) -> list:
    """The names of image sets beside their marks, where they cover neither a mark, a line, an axis nor another name.

    marks    more rows whose marks are not to be covered; the names' own where none are given
    strokes  lines from (x, y) to (x, y), in values, that are not to be covered
    """
    x_field, y_field = (channel._kwds["shorthand"].removesuffix(":Q") for channel in (x, y))
    across, up = _pixels(x._kwds["scale"], width), _pixels(y._kwds["scale"], height)
    marks, places = frame if marks is None else marks, (*places, *FAR)
    centers = np.column_stack([across(marks[x_field]), height - up(marks[y_field])])
    lines = [_along(across(ends[::2]), height - up(ends[1::2])) for ends in strokes]
    thin = np.concatenate(lines) if lines else np.zeros((0, 2))
    fixed = np.concatenate([np.hstack([centers - 6, centers + 6]), np.hstack([thin - 1.5, thin + 1.5])])
    at = np.column_stack([across(frame[x_field]), height - up(frame[y_field])])
    long = 6.9 * frame["dataset"].astype(str).str.len().to_numpy()
    boxes = np.array(
        [
            [
                (px + dx - size * share, py + dy - 6, px + dx + size * (1 - share), py + dy + 6)
                for align, dx, dy in places
                for share in [{"left": 0, "right": 1, "center": 0.5}[align]]
            ]
            for (px, py), size in zip(at, long, strict=True)
        ]
    ).reshape(len(frame), len(places), 4)
    beyond = [3 - boxes[..., 0], (boxes[..., 2] - width - 20) / 10, 3 - boxes[..., 1], boxes[..., 3] - height + 3]
    first = len(places) - len(FAR)
    cost = 40 * np.maximum(beyond, 0).sum(axis=0)
    cost += [i / 2 if i < first else 6 + np.hypot(dx, dy) / 4 for i, (_, dx, dy) in enumerate(places)]
    cost += [[_covered(box, fixed) for box in own] for own in boxes]
    cost += 8 * (_apart(boxes, at)[np.eye(len(at), dtype=bool)] > _apart(boxes, centers).min(axis=0) + 1e-9)
    best = _fewest_covered(boxes, cost)
    layers: dict[tuple, list] = {}
    for index, place in zip(frame.index, best, strict=True):
        layers.setdefault(places[place], []).append(index)
    opacity, made = _opacity(chosen, 1.0, 0.1), []
    for (align, dx, dy), rows in layers.items():
        base = alt.Chart(frame.loc[rows])
        if (align, dx, dy) in FAR:
            toward = {"x2Offset": dx - np.sign(dx) * 2, "y2Offset": dy - np.sign(dy) * 7 * (dx == 0)}
            ends = {"x": x, "y": y, "x2": alt.X2(x_field), "y2": alt.Y2(y_field)}
            leader = base.mark_rule(strokeWidth=0.75, **{k: float(v) for k, v in toward.items()})
            made.append(leader.encode(**ends, opacity=_opacity(chosen, 0.6, 0.05)))
        text = base.mark_text(align=align, baseline="middle", dx=dx, dy=dy, fontSize=11)
        made.append(text.encode(x=x, y=y, text="dataset:N", opacity=opacity))
    return made


def _fewest_covered(boxes: np.ndarray, cost: np.ndarray, starts: int = 100) -> np.ndarray:
    """The place of each name: least cost, by descent from no places and from several drawn by lot.

    boxes   (names, places, 4): left, top, right, bottom
    cost    (names, places): of a place whatever the others' are; to it comes the area shared with other names
    """
    n, places = cost.shape
    flat = boxes.reshape(-1, 4)
    shared = np.stack([_shared(box, flat) for box in flat]).reshape(n, places, n, places)
    shared[np.arange(n), :, np.arange(n)] = 0
    rng, least, chosen = np.random.default_rng(0), np.inf, np.zeros(n, dtype=int)
    for start in range(starts):
        order = rng.permutation(n) if start else np.arange(n)
        best = rng.integers(places, size=n) if start else np.full(n, -1)
        covered = shared[np.arange(n), best].sum(axis=0) if start else np.zeros((n, places))
        for _ in range(20):  # once more, now that the others have a place
            before = best.copy()
            for i in order:
                if best[i] >= 0:
                    covered -= shared[i, best[i]]
                best[i] = int(np.argmin(cost[i] + covered[i]))
                covered += shared[i, best[i]]
            if (best == before).all():
                break
        own = np.arange(n), best
        total = float((cost[own] + covered[own] / 2).sum())
        if total < least - 1e-9:
            least, chosen = total, best
    return chosen


def _apart(boxes: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Distances (points, names, places) from points (n, 2) to boxes (names, places, 4)."""
    x, y = (points[:, axis, None, None] for axis in (0, 1))
    wide = np.maximum(np.maximum(boxes[..., 0] - x, x - boxes[..., 2]), 0)
    return np.hypot(wide, np.maximum(np.maximum(boxes[..., 1] - y, y - boxes[..., 3]), 0))


def _along(xs, ys) -> np.ndarray:
    """Points of a line between two pixels, 3 pixels apart."""
    n = 2 + int(np.hypot(xs[1] - xs[0], ys[1] - ys[0]) / 3)
    return np.column_stack([np.linspace(*xs, n), np.linspace(*ys, n)])


def _covered(box, others: np.ndarray) -> float:
    """Area that a box (left, top, right, bottom) shares with others."""
    return float(_shared(box, others).sum())


def _shared(box, others: np.ndarray) -> np.ndarray:
    """Areas that a box shares with each of others (n, 4)."""
    wide = np.minimum(box[2], others[:, 2]) - np.maximum(box[0], others[:, 0])
    high = np.minimum(box[3], others[:, 3]) - np.maximum(box[1], others[:, 1])
    return np.maximum(wide, 0) * np.maximum(high, 0)


def _strokes(frame, at: str, low: str, high: str, *, along_y: bool = False) -> list[tuple]:
    """Intervals as lines (x, y, x, y), in values, for `_names`; those without both ends are none."""
    if low not in frame.columns or high not in frame.columns:
        return []
    rows = frame.dropna(subset=[at, low, high])
    return [(a, b, a, c) if along_y else (b, a, c, a) for a, b, c in zip(rows[at], rows[low], rows[high], strict=True)]


def _where_equal(x_scale: alt.Scale, y_scale: alt.Scale) -> list[tuple]:
    """The line on which both axes agree, as `_strokes` has it."""
    low, high = (f(a, b) for f, a, b in zip((max, min), x_scale.domain, y_scale.domain, strict=True))
    return [(low, low, high, high)] if low < high else []


def _pixels(scale: alt.Scale, length: float):
    """The function that takes values to pixels from the low end of an axis."""
    low, high = scale.domain
    forward = np.log if scale.to_dict().get("type") == "log" else np.asarray
    return lambda values: (
        (forward(np.asarray(values, dtype=float)) - forward(low)) / (forward(high) - forward(low)) * length
    )


# ------------------------------------------------------------------------------- the claims' charts


def loss_against_n(frame: pd.DataFrame, *, columns: int = 3):
    """Test loss against N, both logarithmic, a panel an image set: a point a run, a line through the means.

    frame: dataset, domain, model, n_train, seed, test_loss_nats; more columns go to the tooltip. Where
    d_data is known, a dashed line starts at the mean loss at the smallest N and falls as N^(-1/d_data).
    """
    required = ["dataset", "domain", "model", "n_train", "seed", "test_loss_nats"]
    more = ["fitted", "test_accuracy", "n_groups", "d_data", "k_f"]
    rows, out = _drawn(frame, required, more, "loss against N")
    positive = rows["test_loss_nats"] > 0
    rows, out = rows[positive], out + int((~positive).sum())
    if rows.empty:
        return _nothing("Test loss against N", "no run has a test loss above zero")
    law = _law(rows)
    both = pd.concat([rows.assign(drawn="run"), law.assign(drawn="law")])
    params, chosen = _answers(rows)
    sizes = sorted(int(n) for n in rows["n_train"].unique())
    y_scale = _scale(both["test_loss_nats"], log=True)
    x_scale = alt.Scale(type="log", domain=[sizes[0] * 0.85, sizes[-1] * 1.18], nice=False)
    x_axis = alt.Axis(values=sizes, format=",d", grid=False, labelSeparation=APART)
    x = alt.X("n_train:Q", title=N_TITLE, scale=x_scale, axis=x_axis)
    y = alt.Y("test_loss_nats:Q", title="Test loss (nats)", scale=y_scale, axis=_axis(y_scale, 5))
    base = alt.Chart(both).encode(x=x, color=_color(rows))
    runs = base.transform_filter(alt.datum.drawn == "run")
    dashed = (
        alt.Chart(both)
        .transform_filter(alt.datum.drawn == "law")
        .mark_line(strokeDash=[5, 4], strokeWidth=1.5, color=GRID)
        .encode(x=x, y=y, detail="model:N")
    )
    lines = runs.mark_line().encode(y=_on("mean(test_loss_nats)", y), detail="model:N", opacity=_opacity(chosen, 0.8))
    points = (
        runs.mark_point(size=70)
        .encode(y=y, shape=_shape(rows), opacity=_opacity(chosen, 0.85), tooltip=_tooltip(rows))
        .add_params(*params)
    )
    by_domain = rows.assign(place=rows["domain"].map(_ordered(rows["domain"], DOMAIN_COLORS).index))
    order = list(by_domain.sort_values(["place", "dataset"])["dataset"].unique())
    panels = (
        alt.layer(dashed, lines, points)
        .properties(width=PANEL[0], height=PANEL[1])
        .facet(alt.Facet("dataset:N", title=None, sort=order), columns=min(columns, len(order)))
    )
    known = " and a dashed line of the slope -1/d_data" if len(law) else ""
    return _described(
        panels,
        f"Test loss in nats against the number of training images N, both logarithmic, for {_sets(rows)}, "
        f"a panel each: a point for each of {len(rows)} runs, a line through the means over seeds{known}. "
        f"N goes from {sizes[0]} to {sizes[-1]}, test loss from {_range(rows['test_loss_nats'])}.",
        left_out=out,
    )


def _law(rows: pd.DataFrame) -> pd.DataFrame:
    """The line N^(-1/d_data) from the mean loss at the smallest N, an image set and model."""
    lines = []
    known = rows.dropna(subset=["d_data"]) if "d_data" in rows.columns else rows.iloc[:0]
    for (dataset, model), runs in known.groupby(["dataset", "model"]):
        sizes = np.unique(runs["n_train"])
        start = runs.loc[runs["n_train"] == sizes[0], "test_loss_nats"].mean()
        fallen = start * (sizes / sizes[0]) ** (-1 / runs["d_data"].mean())
        line = {"dataset": dataset, "model": model, "domain": runs["domain"].iloc[0]}
        lines += [{**line, "n_train": n, "test_loss_nats": y} for n, y in zip(sizes, fallen, strict=True)]
    return pd.DataFrame(lines)


def courses(rows: pd.DataFrame, *, columns: int = 3):
    """Running loss against optimizer steps, a line a run and a panel a network.

    rows: dataset, domain, model, step, running_loss_nats; chance_nats, where known, is drawn dashed where one for all
    """
    if not len(rows):
        return _nothing("Running loss against steps", "no course is stored")
    drawn, out = _drawn(rows, ["dataset", "domain", "model", "step", "running_loss_nats"], [], "the course of runs")
    positive = (drawn["running_loss_nats"] > 0) & (drawn["step"] > 0)
    drawn, out = drawn[positive], out + int((~positive).sum())
    if drawn.empty:
        return _nothing("Running loss against steps", "no course is stored")
    drawn = drawn.assign(running_loss_nats=drawn["running_loss_nats"].map(lambda v: float(f"{v:.3g}")))
    chance = rows["chance_nats"].dropna().unique() if "chance_nats" in rows else []
    y_scale, x_scale = _scale(drawn["running_loss_nats"], log=True), _scale(drawn["step"])
    x = alt.X("step:Q", title="Optimizer steps", scale=x_scale, axis=_axis(x_scale, 3))
    y = alt.Y("running_loss_nats:Q", title="Running loss (nats)", scale=y_scale, axis=_axis(y_scale, 4))
    params, chosen = _answers(drawn, ("domain",))
    base = alt.Chart(drawn).encode(x=x, y=y, color=_color(drawn), detail="dataset:N")
    tips = _tooltip(drawn, {"step": ("Steps", ",d"), "running_loss_nats": ("Running loss (nats)", ".3g")})
    layers = [
        base.mark_line(strokeWidth=1.5).encode(opacity=_opacity(chosen, 0.7)),
        base.mark_point(size=16).encode(opacity=_opacity(chosen, 0.7), tooltip=tips).add_params(*params),
    ]
    if len(chance) == 1:
        layers.insert(
            0, alt.Chart(drawn).mark_rule(strokeDash=[5, 4], color=GRID).encode(y=alt.datum(float(chance[0])))
        )
    order = _ordered(drawn["model"], MODEL_SHAPES)
    panels = (
        alt.layer(*layers)
        .properties(width=PANEL[0], height=PANEL[1])
        .facet(alt.Facet("model:N", title=None, sort=order), columns=min(columns, len(order)))
    )
    n_runs = len(drawn[["dataset", "model"]].drop_duplicates())
    return _described(
        panels,
        f"Running loss against optimizer steps, {n_runs} runs of {', '.join(order)}, a panel each, on {_sets(drawn)}: "
        f"losses from {_range(drawn['running_loss_nats'])} nats over up to {drawn['step'].max():,.0f} steps.",
        left_out=out,
    )


def exponent_against_dimension(exponents: pd.DataFrame):
    """Measured exponent a of loss ~ N^(-a) against the exponent 1 / d_data that is predicted.

    exponents: dataset, domain, exponent, low, high, predicted, predicted_low, predicted_high, as
    `statistics.scaling_exponents` returns them; a `model` column, where there is one, becomes the
    shape. On the dashed line both are equal. Very long intervals are cut at the edge of the panel.
    """
    return _measured_against_predicted(
        exponents,
        "Measured exponent a of loss ~ N^(−a)",
        "Predicted exponent, 1 / d_data",
        "Measured exponent a of loss ~ N^(-a) against the predicted exponent 1 / d_data",
        "no image set has runs at enough sizes N to fit an exponent",
    )


def growth_exponents(rows: pd.DataFrame, predicted: str = "2 / d"):
    """Measured exponent e of K_F ~ M^e against the one predicted: on the dashed line both are equal.

    Axes are logarithmic where no exponent and no end of an interval is 0 or less.

    rows: dataset, domain, exponent, low, high, predicted, predicted_low, predicted_high
    predicted: what the prediction is, for the axis
    """
    return _measured_against_predicted(
        rows,
        "Measured exponent e of K_F ~ M^e",
        f"Predicted exponent, {predicted}",
        f"Measured exponent e of label sharpness, K_F ~ M^e, against the predicted exponent {predicted}",
        "no image set has an exponent of growth",
    )


def _measured_against_predicted(exponents: pd.DataFrame, y_title: str, x_title: str, says: str, none: str):
    what = "Measured against predicted exponent"
    required = ["dataset", "domain", "exponent", "predicted"]
    more = ["low", "high", "predicted_low", "predicted_high", "model", "d_data", "n_sizes", "n_runs", "seed"]
    rows, out = _drawn(exponents, required, more, "exponent against dimension")
    if rows.empty:
        return _nothing(what, none)
    params, chosen = _answers(rows)
    core = pd.concat([rows["exponent"], rows["predicted"]])
    bounds = [rows[c] for c in ("low", "high") if c in rows]
    across = [rows[c] for c in ("predicted", "predicted_low", "predicted_high") if c in rows]
    log = all((values.dropna() > 0).all() for values in (core, *bounds, *across))  # crowded where small, else
    if log:
        reach = max(core.max() / core.min(), 1.2)
        limits = core.min() / reach, core.max() * reach
    else:
        reach = max(float(core.max() - core.min()), 0.05)
        limits = core.min() - reach, core.max() + reach
    cut = any(((c < limits[0]) | (c > limits[1])).any() for c in bounds)
    y_scale = _scale(core, *(c.clip(*limits) for c in bounds), log=log)
    x_scale = _scale(*across, log=log)
    x = alt.X("predicted:Q", title=x_title, scale=x_scale, axis=_axis(x_scale))
    y = alt.Y("exponent:Q", title=y_title, scale=y_scale, axis=_axis(y_scale))
    labels = {
        "exponent": ("Measured exponent", ".3f"),
        "low": ("Measured, low", ".3f"),
        "high": ("Measured, high", ".3f"),
        "predicted": ("Predicted exponent", ".3f"),
        "predicted_low": ("Predicted, low", ".3f"),
        "predicted_high": ("Predicted, high", ".3f"),
        "n_sizes": ("Sizes N", "d"),
        "n_runs": ("Runs", "d"),
    }
    shape = {"shape": _shape(rows)} if "model" in rows else {}
    strokes = _where_equal(x_scale, y_scale) + _strokes(rows, "exponent", "predicted_low", "predicted_high")
    strokes += _strokes(rows, "predicted", "low", "high", along_y=True)
    points = (
        alt.Chart(rows)
        .mark_point(size=110)
        .encode(
            x=x,
            y=y,
            color=_color(rows),
            opacity=_opacity(chosen, 0.95),
            tooltip=_tooltip(rows, labels),
            **shape,
        )
        .add_params(*params)
    )
    layers = [
        *_line_of_equality(x, y, x_scale, y_scale, "measured = predicted"),
        *_interval(rows, ("low", "high"), chosen, x, y, along_y=True),
        *_interval(rows, ("predicted_low", "predicted_high"), chosen, x, y),
        points,
        *_names(rows.drop_duplicates("dataset"), x, y, chosen, marks=rows, strokes=strokes),
    ]
    return _finish(
        layers,
        f"{says}, for {_sets(rows)}, with intervals of both. Measured exponents go from {_range(rows['exponent'])}, "
        f"predicted ones from {_range(rows['predicted'])}; on the dashed line both are equal.",
        left_out=out,
        note="Intervals longer than the panel are cut at its edge." if cut else "",
    )


def _line_of_equality(x, y, x_scale: alt.Scale, y_scale: alt.Scale, name: str) -> list:
    """A dashed line where both axes agree, over the values that both show."""
    line = _where_equal(x_scale, y_scale)
    if not line:
        return []
    low, _, high, _ = line[0]
    ends = pd.DataFrame({"both": [low, high], "name": ["", name]})
    same = alt.Chart(ends).encode(x=_on("both", x), y=_on("both", y))
    at_the_right = x_scale.domain[1] <= y_scale.domain[1]
    place = {"align": "right" if at_the_right else "center", "dy": -9}
    return [
        same.mark_line(strokeDash=[5, 4], strokeWidth=1.5, color=GRID),
        same.mark_text(fontSize=11, fontStyle="italic", **place).encode(text="name:N"),
    ]


def _on(field: str, channel):
    """The same axis as `channel`, for another field."""
    return type(channel)(**{**channel._kwds, "shorthand": f"{field}:Q"})


def loss_against_sharpness(frame: pd.DataFrame):
    """Test loss against label sharpness: a point a run (size: N), a name and an interval an image set.

    frame: dataset, domain, model, n_train, seed, k_f, test_loss_nats; k_f_low, k_f_high where known.
    """
    return _against_sharpness(frame, "test_loss_nats", "Test loss (nats)", "Test loss", ".4f")


def penalty_against_sharpness(frame: pd.DataFrame, grey_level: int = 2, measure: str = "loss"):
    """FGSM penalty at a budget of `grey_level`/255 against label sharpness, drawn as loss_against_sharpness.

    frame: dataset, domain, model, n_train, seed, k_f, loss_penalty_nats_eps{g} (measure "loss") or
    accuracy_penalty_eps{g} (measure "accuracy").
    """
    if measure not in ("loss", "accuracy"):
        raise ChartError(f"measure is {measure!r}, but a penalty is of 'loss' or of 'accuracy'")
    column = f"loss_penalty_nats_eps{grey_level}" if measure == "loss" else f"accuracy_penalty_eps{grey_level}"
    what = f"{measure.capitalize()} penalty at {grey_level}/255"
    unit = "nats" if measure == "loss" else "share of test images"
    return _against_sharpness(frame, column, f"{what} ({unit})", what, ".4f")


def _against_sharpness(frame: pd.DataFrame, column: str, y_title: str, what: str, fmt: str):
    required = ["dataset", "domain", "model", "n_train", "seed", "k_f", column]
    more = ["k_f_low", "k_f_high", "per_class", "fitted", "test_accuracy", "test_loss_nats", "d_data"]
    rows, out = _drawn(frame, required, more, f"{what.lower()} against sharpness")
    if rows.empty:
        return _nothing(f"{what} against label sharpness", "no run has both")
    params, chosen = _answers(rows, ("domain", "model", "n_train"))
    x_scale = _scale(*[rows[c] for c in ("k_f", "k_f_low", "k_f_high") if c in rows])
    y_scale = _scale(rows[column])
    x = alt.X("k_f:Q", title=K_TITLE, scale=x_scale, axis=_axis(x_scale))
    y = alt.Y(f"{column}:Q", title=y_title, scale=y_scale, axis=_axis(y_scale))
    points = (
        alt.Chart(rows)
        .mark_point()
        .encode(
            x=x,
            y=y,
            color=_color(rows),
            shape=_shape(rows),
            size=alt.Size(
                "n_train:O",
                scale=alt.Scale(range=[35, 170]),
                legend=alt.Legend(title="N", symbolType="circle"),
            ),
            opacity=_opacity(chosen, 0.75),
            tooltip=_tooltip(rows, {column: (y_title, fmt)}),
        )
        .add_params(*params)
    )
    sets = _by_set(rows, column)
    top = _by_set(rows, column, "max")
    pointed = params[0]
    layers = [*_interval(sets, ("k_f_low", "k_f_high"), pointed, x, y), points]
    above = (("center", 0, -13), *PLACES)
    strokes = _strokes(sets, column, "k_f_low", "k_f_high")
    layers += _names(top, x, y, pointed, places=above, marks=rows, strokes=strokes)
    return _finish(
        layers,
        f"{y_title} against label sharpness K_F for {_sets(rows)}: a point for each of {len(rows)} runs, "
        f"and the interval of K_F at the mean of each set. K_F goes from {_range(sets['k_f'])} per unit of "
        f"L2 distance, the {what.lower()} from {_range(rows[column])}.",
        left_out=out,
    )


def representation_against_data(frame: pd.DataFrame, estimator: str = "mle"):
    """Dimension of the learned representation against that of the same images, with the null maps.

    frame: dataset, domain, model, n_train, seed and, for the MLE, d_repr, d_data_same_images and
    where known d_repr_low, d_repr_high, d_repr_untrained, d_repr_random_map; for estimator "twonn"
    the same with the ending _twonn. Points above the dashed line have d_repr > d_data.
    """
    endings = {"mle": "", "twonn": "_twonn"}
    if estimator not in endings:
        raise ChartError(f"estimator is {estimator!r}, but dimensions are drawn for 'mle' and 'twonn'")
    end = endings[estimator]
    d_repr, d_data = f"d_repr{end}", f"d_data_same_images{end}"
    required = ["dataset", "domain", "model", "n_train", "seed", d_data, d_repr]
    nulls = {f"d_repr_untrained{end}": "untrained network", f"d_repr_random_map{end}": "random linear map"}
    more = [f"d_repr_low{end}", f"d_repr_high{end}", "d_repr_low", "d_repr_high", *nulls, "fitted"]
    rows, out = _drawn(frame, required, more, "representation against data")
    what = "Dimension of the representation against dimension of the data"
    if rows.empty:
        return _nothing(what, "no run has both dimensions")
    rows = rows.rename(columns={d_data: "d_images", d_repr: "d"})
    rows["network"] = rows["model"]
    if end:
        rows = rows.drop(columns=["d_repr_low", "d_repr_high"], errors="ignore")
        rows = rows.rename(columns={f"d_repr_low{end}": "d_repr_low", f"d_repr_high{end}": "d_repr_high"})
    keys = ["dataset", "domain", "model", "n_train", "seed", "d_images"]
    null_rows = [
        rows[[*keys, column]].rename(columns={column: "d"}).assign(network=name).dropna(subset=["d"])
        for column, name in nulls.items()
        if column in rows.columns
    ]
    trained = rows.drop(columns=[c for c in nulls if c in rows.columns])
    null = pd.concat(null_rows) if null_rows else trained.iloc[:0]
    both = pd.concat([trained, null])
    params, chosen = _answers(both, ("domain", "network"))
    names = [*_ordered(trained["network"], MODEL_SHAPES), *dict.fromkeys(null["network"])]
    spare = iter(SPARE_SHAPES * len(names))
    shapes = {"untrained network": "stroke", "random linear map": "triangle-right"}
    shape = alt.Shape(
        "network:N",
        scale=alt.Scale(domain=names, range=[shapes.get(n) or MODEL_SHAPES.get(n) or next(spare) for n in names]),
        legend=alt.Legend(title="Network", columns=3 if len(names) > 3 else 0),
    )
    intervals = [trained[c] for c in ("d_repr_low", "d_repr_high") if c in trained]
    x_scale, y_scale = _scale(both["d_images"], log=False), _scale(both["d"], *intervals, log=False)
    name = {"mle": "maximum likelihood", "twonn": "TwoNN"}[estimator]
    x_title = f"Dimension of the images, d_data ({name}, same images)"
    x = alt.X("d_images:Q", title=x_title, scale=x_scale, axis=_axis(x_scale))
    y_title = f"Dimension of the representation, d_repr ({name})"
    y = alt.Y("d:Q", title=y_title, scale=y_scale, axis=_axis(y_scale))
    labels = {
        "d_images": ("d_data, same images", ".2f"),
        "d": ("d_repr", ".2f"),
        "d_repr_low": ("d_repr, low", ".2f"),
        "d_repr_high": ("d_repr, high", ".2f"),
    }
    layers = _line_of_equality(x, y, x_scale, y_scale, "d_repr = d_data")
    if len(null):
        layers.append(
            alt.Chart(null)
            .mark_point(filled=False, size=50, strokeWidth=1.5)
            .encode(
                x=x,
                y=y,
                shape=shape,
                color=_color(both),
                opacity=_opacity(chosen, 0.45),
                tooltip=_tooltip(null, labels),
            )
        )
    layers += _interval(trained, ("d_repr_low", "d_repr_high"), chosen, x, y, along_y=True)
    layers.append(
        alt.Chart(trained)
        .mark_point()
        .encode(
            x=x,
            y=y,
            color=_color(both),
            shape=shape,
            opacity=_opacity(chosen, 0.85),
            tooltip=_tooltip(trained.drop(columns="network"), labels),
        )
        .add_params(*params)
    )
    lowest = _by_set(trained, "d", "min").merge(trained.groupby("dataset", as_index=False)["d_images"].mean())
    under = (("center", 0, 18), *PLACES)
    strokes = _where_equal(x_scale, y_scale)
    strokes += _strokes(trained, "d_images", "d_repr_low", "d_repr_high", along_y=True)
    layers += _names(lowest, x, y, params[0], places=under, marks=both, strokes=strokes)
    above = int((trained["d"] > trained["d_images"]).sum())
    return _finish(
        layers,
        f"Dimension of the learned representation against the dimension of the same images ({name}), for "
        f"{_sets(rows)}, with untrained networks and random linear maps beside. {above} of {len(trained)} "
        "trained networks lie above the dashed line, where d_repr exceeds d_data.",
        left_out=out,
    )


# ----------------------------------------------------------------------------- the image sets' charts


def agreement(rows: pd.DataFrame, x: str, y: str, x_title: str, y_title: str, *, equality: bool = False):
    """One quantity of image sets against another: a named mark a set, color by domain.

    rows      dataset, domain and the columns x and y, positive on a logarithmic axis where they span a factor of 4;
              x_low, x_high, y_low, y_high are drawn where the frame has them
    equality  draw a dashed line where both are equal
    """
    what = f"{y_title} against {x_title}"
    if not len(rows) or not {x, y} <= set(rows.columns):
        return _nothing(what, "no record holds both")
    bounds = [f"{c}_{end}" for c in (x, y) for end in ("low", "high")]
    drawn, out = _drawn(rows, ["dataset", x, y], ["domain", *bounds], "the chart of two quantities")
    if drawn.empty:
        return _nothing(what, "no image set has both")
    params, chosen = _answers(drawn, ("domain",))
    x_scale, y_scale = (
        _scale(*[drawn[c] for c in (name, f"{name}_low", f"{name}_high") if c in drawn]) for name in (x, y)
    )
    across = alt.X(f"{x}:Q", title=x_title, scale=x_scale, axis=_axis(x_scale))
    up = alt.Y(f"{y}:Q", title=y_title, scale=y_scale, axis=_axis(y_scale))
    labels = {x: (x_title, ".4~g"), y: (y_title, ".4~g")}
    points = (
        alt.Chart(drawn)
        .mark_point()
        .encode(x=across, y=up, color=_color(drawn), opacity=_opacity(chosen, 0.85), tooltip=_tooltip(drawn, labels))
        .add_params(*params)
    )
    layers = [
        *_interval(drawn, (f"{x}_low", f"{x}_high"), params[0], across, up),
        *_interval(drawn, (f"{y}_low", f"{y}_high"), params[0], across, up, along_y=True),
        points,
    ]
    if equality:
        layers += _line_of_equality(across, up, x_scale, y_scale, "equal")
    named = drawn.groupby("dataset", as_index=False).agg({x: "mean", y: "mean"})
    strokes = _where_equal(x_scale, y_scale) if equality else []
    strokes += _strokes(drawn, y, f"{x}_low", f"{x}_high")
    strokes += _strokes(drawn, x, f"{y}_low", f"{y}_high", along_y=True)
    layers += _names(named, across, up, params[0], marks=drawn, strokes=strokes)
    return _finish(
        layers,
        f"{what} for {_sets(drawn)}: {x_title} {_range(drawn[x])}, {y_title} {_range(drawn[y])}.",
        left_out=out,
    )


def effects(rows: pd.DataFrame):
    """Effects with their intervals, a row a test, and the test's verdict by color; 0 is a dashed rule.

    rows   claim, effect, low, high, verdict, n_sets; effects are in units of their own and share one axis only to show
           their side of 0
    """
    columns = ["claim", "effect", "verdict"]
    drawn, out = _drawn(rows, columns, ["low", "high", "n_sets"], "the chart of effects")
    if drawn.empty:
        return _nothing("Effects", "no test has a value")
    order = list(dict.fromkeys(drawn["claim"]))
    bounds = [drawn[c].dropna() for c in ("effect", "low", "high") if c in drawn]
    scale = _scale(*bounds, pd.Series([0.0]), log=False)
    x = alt.X("effect:Q", title="Effect", scale=scale, axis=_axis(scale))
    y = alt.Y("claim:N", title="Test", sort=order, axis=alt.Axis(labelLimit=420))
    verdicts = list(dict.fromkeys(drawn["verdict"]))
    palette = [*DOMAIN_COLORS.values(), SPARE_COLOR]
    known = ["supported", "not supported", "illustration: too few sets", "undecided"]
    colors = [
        dict(zip(known, (palette[2], palette[0], palette[3], palette[1]), strict=True)).get(v, SPARE_COLOR)
        for v in verdicts
    ]
    color = alt.Color("verdict:N", title="Verdict", scale=alt.Scale(domain=verdicts, range=colors))
    labels = {"claim": ("Claim", None), "effect": ("Effect", ".3g"), "low": ("low", ".3g"), "high": ("high", ".3g")}
    labels |= {"n_sets": ("Sets", "d"), "verdict": ("Verdict", None)}
    layers = [alt.Chart(pd.DataFrame({"effect": [0.0]})).mark_rule(strokeDash=[5, 4]).encode(x=x)]
    if {"low", "high"} <= set(drawn.columns):
        ends = alt.Chart(drawn.dropna(subset=["low", "high"])).mark_rule(strokeWidth=2, clip=True)
        layers.append(ends.encode(x=_on("low", x), x2="high:Q", y=y, color=color))
    near = _nearest(["claim"])
    size = alt.condition(near, alt.value(170), alt.value(90))
    points = alt.Chart(drawn).mark_point().encode(x=x, y=y, color=color, size=size, tooltip=_tooltip(drawn, labels))
    layers.append(points.add_params(near))
    said = "; ".join(f"{row.claim}: {row.effect:.3g}, {row.verdict}" for row in drawn.itertuples())
    return _finish(layers, f"Effects with intervals. {said}.", height=max(60, 30 * len(order)), left_out=out)


def lines(rows: pd.DataFrame, x: str, y: str, x_title: str, y_title: str, *, log_x: bool = False):
    """A quantity against a setting, a colored line a `series`, with low and high as rules where the frame has them.

    rows   x, y and, where known, series, low, high
    """
    what = f"{y_title} against {x_title}"
    if not len(rows) or not {x, y} <= set(rows.columns):
        return _nothing(what, "no record holds both")
    drawn, out = _drawn(rows, [x, y], ["series", "low", "high"], "the chart of lines")
    if drawn.empty:
        return _nothing(what, "no value is finite")
    x_scale = _scale(drawn[x], log=log_x)
    y_scale = _scale(*[drawn[c].dropna() for c in (y, "low", "high") if c in drawn])
    across = alt.X(f"{x}:Q", title=x_title, scale=x_scale, axis=_axis(x_scale))
    up = alt.Y(f"{y}:Q", title=y_title, scale=y_scale, axis=_axis(y_scale))
    color, params, chosen = _series_color(drawn)
    base = alt.Chart(drawn).encode(x=across, color=color)
    labels = {"series": ("Series", None), x: (x_title, ".4~g"), y: (y_title, ".4~g")}
    labels |= {"low": ("low", ".4~g"), "high": ("high", ".4~g")}
    layers = []
    if {"low", "high"} <= set(drawn.columns):
        rule = base.transform_filter("isValid(datum.low) && isValid(datum.high)").mark_rule(strokeWidth=1.5)
        layers.append(rule.encode(y=_on("low", up), y2="high:Q", opacity=_opacity(chosen, 0.6, 0.1)))
    layers.append(base.mark_line().encode(y=up, opacity=_opacity(chosen, 0.9, 0.15)))
    near = _nearest([x, "series"] if "series" in drawn else [x])
    size = alt.condition(near, alt.value(170), alt.value(60))
    points = base.mark_point().encode(
        y=up, size=size, opacity=_opacity(chosen, 0.95, 0.15), tooltip=_tooltip(drawn, labels)
    )
    layers.append(points.add_params(near, *params))
    n_lines = f", {drawn['series'].nunique()} lines" if "series" in drawn else ""
    ends = f"{x_title} {_range(drawn[x])}, {y_title} {_range(drawn[y])}"
    return _finish(layers, f"{what}{n_lines}: {ends}.", height=260, left_out=out)


def plane(properties: pd.DataFrame):
    """Where image sets lie: d_data against K_F, a point a set, with both intervals.

    properties: dataset, domain, d_data, k_f; d_data_low, d_data_high, k_f_low, k_f_high, n, per_class,
    size and channels where known. An axis is logarithmic where its values span more than a factor of 4.
    A column `own` (bool) marks one set of the reader's, which is drawn with a ring around it. A column `page`
    holds the address, relative to the page, to which a click on a set leads, or None.
    """
    required = ["dataset", "domain", "d_data", "k_f"]
    more = ["d_data_low", "d_data_high", "k_f_low", "k_f_high", "n", "per_class", "size", "channels", "own", "page"]
    rows, out = _drawn(properties, required, more, "the plane of image sets")
    if rows.empty:
        return _nothing("Dimension and label sharpness", "no image set has both")
    params, chosen = _answers(rows, ("domain",))
    x_scale = _scale(*[rows[c] for c in ("d_data", "d_data_low", "d_data_high") if c in rows])
    y_scale = _scale(*[rows[c] for c in ("k_f", "k_f_low", "k_f_high") if c in rows])
    x = alt.X("d_data:Q", title=D_TITLE, scale=x_scale, axis=_axis(x_scale))
    y_title = ["Label sharpness K_F", "(per unit of L2 distance, pixels in [0, 1])"]
    y = alt.Y("k_f:Q", title=y_title, scale=y_scale, axis=_axis(y_scale))
    points = (
        alt.Chart(rows)
        .mark_point(size=140)
        .encode(x=x, y=y, color=_color(rows), opacity=_opacity(chosen, 0.95), tooltip=_tooltip(rows))
        .add_params(*params)
    )
    if "page" in rows:
        points = points.encode(href="page:N")
    strokes = _strokes(rows, "k_f", "d_data_low", "d_data_high")
    strokes += _strokes(rows, "d_data", "k_f_low", "k_f_high", along_y=True)
    layers = [
        *_interval(rows, ("d_data_low", "d_data_high"), chosen, x, y),
        *_interval(rows, ("k_f_low", "k_f_high"), chosen, x, y, along_y=True),
        points,
        *_names(rows, x, y, chosen, strokes=strokes),
    ]
    own = rows[rows["own"]] if "own" in rows else rows[:0]
    if len(own):
        ring = {"size": 420, "strokeWidth": 2.5, "filled": False, "color": "#888888"}
        layers.append(alt.Chart(own).mark_point(**ring).encode(x=x, y=y))
    return _finish(
        layers,
        f"Label sharpness K_F against intrinsic dimension d_data for {_sets(rows)}, with intervals. "
        f"d_data goes from {_range(rows['d_data'])}, K_F from {_range(rows['k_f'])} per unit of L2 distance.",
        left_out=out,
    )


def _true_dimension(known: float | None, y) -> list:
    """The true dimension as a dashed rule with its name, where it is known."""
    if known is None:
        return []
    rule = alt.Chart(pd.DataFrame({"d": [known], "name": [f"true dimension {known:g}"]}))
    text = {"align": "right", "dy": -7, "fontSize": 11, "fontStyle": "italic"}
    return [
        rule.mark_rule(strokeDash=[5, 4]).encode(y=y),
        rule.mark_text(**text).encode(x=alt.value("width"), y=y, text="name:N"),
    ]


def dimension_profile(rows: pd.DataFrame, known: float | None = None):
    """Estimated dimension against the number of neighbors k, with its interval as a band.

    rows: k, d, low, high; a column `estimator` or `dataset`, where there is one, tells lines apart.
    known   the true dimension, drawn as a dashed rule
    """
    series = next((c for c in ("estimator", "dataset") if c in rows.columns), None)
    drawn, out = _drawn(rows, ["k", "d"], ["low", "high", *([series] if series else []), "n"], "the profile")
    if drawn.empty:
        return _nothing("Dimension against k", "no estimate is finite")
    ks = sorted(int(k) for k in drawn["k"].unique())
    bounds = [drawn[c] for c in ("d", "low", "high") if c in drawn]
    y_scale = _scale(*bounds, *([pd.Series([known])] if known is not None else []), log=False)
    x_scale = _scale(drawn["k"])
    axis = alt.Axis(values=ks, format="d", grid=False) if len(ks) < 16 else alt.Axis(format="d")
    x = alt.X("k:Q", title="Neighbors k", scale=x_scale, axis=axis)
    y = alt.Y("d:Q", title="Estimated dimension d", scale=y_scale, axis=_axis(y_scale, 5))
    color, params, chosen = alt.value(DOMAIN_COLORS["natural"]), [], None
    if series:
        color = alt.Color(f"{series}:N", legend=alt.Legend(title=series.capitalize()))
        params = [alt.selection_point(name="picked_series", fields=[series], bind="legend")]
        chosen = params[0]
    near = _nearest(["k"])
    base = alt.Chart(drawn).encode(x=x, color=color)
    labels = {"k": ("Neighbors k", "d"), "d": ("Dimension d", ".2f")}
    labels |= {"low": ("low", ".2f"), "high": ("high", ".2f")}
    labels |= {series: (series.capitalize(), None)} if series else {}
    layers = []
    if {"low", "high"} <= set(drawn.columns):
        band = base.transform_filter("isValid(datum.low) && isValid(datum.high)").mark_area()
        layers.append(band.encode(y=_on("low", y), y2="high:Q", opacity=_opacity(chosen, 0.2, 0.03)))
    layers += _true_dimension(known, y)
    layers += [
        base.mark_line().encode(y=y, opacity=_opacity(chosen, 0.9, 0.15)),
        base.mark_point()
        .encode(
            y=y,
            size=alt.condition(near, alt.value(170), alt.value(60)),
            opacity=_opacity(chosen, 0.95, 0.15),
            tooltip=_tooltip(drawn, labels),
        )
        .add_params(near, *params),
    ]
    return _finish(
        layers,
        f"Estimated intrinsic dimension against the number of neighbors k, with its interval: "
        f"k from {ks[0]} to {ks[-1]}, dimension from {_range(drawn['d'])}.",
        height=260,
        left_out=out,
    )


def dimension_against(rows: pd.DataFrame, x: str, title: str, known: float | None = None):
    """Estimated dimension against any setting, with intervals: number of images, noise, pixels a side, ...

    rows    the column x, d and, where known, low and high; a column `series` tells lines apart by color, and a column
            `estimator` by dashes
    title   of the setting, for its axis
    known   the true dimension, drawn as a dashed rule
    """
    drawn, out = _drawn(rows, [x, "d"], ["low", "high", "series", "estimator"], "the chart of dimension")
    if drawn.empty:
        return _nothing(f"Dimension against {title}", "no estimate is finite")
    bounds = [drawn[c] for c in ("d", "low", "high") if c in drawn]
    y_scale = _scale(*bounds, *([pd.Series([known])] if known is not None else []), log=False)
    values = sorted(drawn[x].unique())
    x_scale = _scale(drawn[x])
    axis = alt.Axis(values=[float(v) for v in values], format=".4~g", grid=False) if len(values) < 10 else alt.Axis()
    across = alt.X(f"{x}:Q", title=title, scale=x_scale, axis=axis)
    y = alt.Y("d:Q", title="Estimated dimension d", scale=y_scale, axis=_axis(y_scale, 5))
    color, params, chosen = _series_color(drawn)
    near = _nearest([x])
    base = alt.Chart(drawn).encode(x=across, color=color)
    lines = base.mark_line().encode(y=y, opacity=_opacity(chosen, 0.9, 0.15))
    if "estimator" in drawn:
        lines = lines.encode(strokeDash=alt.StrokeDash("estimator:N", legend=alt.Legend(title="Estimator")))
    labels = {
        "series": ("Series", None),
        "estimator": ("Estimator", None),
        x: (title, ".4~g"),
        "d": ("Dimension d", ".2f"),
    }
    labels |= {"low": ("low", ".2f"), "high": ("high", ".2f")}
    layers = []
    if {"low", "high"} <= set(drawn.columns):
        rule = base.transform_filter("isValid(datum.low) && isValid(datum.high)").mark_rule(strokeWidth=1.5)
        layers.append(rule.encode(y=_on("low", y), y2="high:Q", color=color, opacity=_opacity(chosen, 0.6, 0.1)))
    layers += _true_dimension(known, y)
    layers += [
        lines,
        base.mark_point()
        .encode(
            y=y,
            size=alt.condition(near, alt.value(170), alt.value(60)),
            opacity=_opacity(chosen, 0.95, 0.15),
            tooltip=_tooltip(drawn, labels),
        )
        .add_params(near, *params),
    ]
    n_lines = f", {drawn['series'].nunique()} colors" if "series" in drawn else ""
    return _finish(
        layers,
        f"Estimated intrinsic dimension against {title}{n_lines}: {title} {_range(drawn[x])}, "
        f"dimension {_range(drawn['d'])}.",
        height=260,
        left_out=out,
    )


def dimension_bias(rows: pd.DataFrame):
    """Mean estimate against the true dimension, one line a manifold and n; the diagonal is no bias.

    rows   manifold, d (the true one), n, estimate, low, high
    """
    columns = ["manifold", "d", "n", "estimate", "low", "high"]
    drawn, out = _drawn(rows, columns, ["standard_error", "estimator"], "the chart of bias")
    if drawn.empty:
        return _nothing("Bias of the dimension", "no estimate is finite")
    scale = _scale(drawn["d"], log=False)
    y_scale = _scale(drawn["low"], drawn["high"], drawn["d"], log=False)
    x = alt.X("d:Q", title="True dimension", scale=scale, axis=_axis(scale))
    y = alt.Y("estimate:Q", title="Mean estimate", scale=y_scale, axis=_axis(y_scale))
    color = alt.Color("manifold:N", legend=alt.Legend(title="Manifold"))
    picked = alt.selection_point(name="picked_manifold", fields=["manifold"], bind="legend")
    near = _nearest(["manifold", "d", "n"])
    base = alt.Chart(drawn).encode(x=x, color=color)
    labels = {"manifold": ("Manifold", None), "d": ("True dimension", "d"), "n": ("Points", ",d")}
    labels |= {"estimate": ("Mean estimate", ".2f"), "standard_error": ("Standard error", ".2f")}
    labels |= {"estimator": ("Estimator", None)}
    dash = alt.StrokeDash("n:O", legend=alt.Legend(title="Points n"))
    layers = [
        *_line_of_equality(x, y, scale, y_scale, "no bias"),
        base.mark_rule(strokeWidth=1.5).encode(y=_on("low", y), y2="high:Q", opacity=_opacity(picked, 0.6, 0.08)),
        base.mark_line(strokeWidth=1.5).encode(y=y, strokeDash=dash, opacity=_opacity(picked, 0.9, 0.1)),
        base.mark_point(size=30)
        .encode(
            y=y,
            size=alt.condition(near, alt.value(140), alt.value(25)),
            opacity=_opacity(picked, 0.95, 0.1),
            tooltip=_tooltip(drawn, labels),
        )
        .add_params(near, picked),
    ]
    return _finish(
        layers,
        f"Mean estimated dimension against the true one for {', '.join(drawn['manifold'].unique())}, with n of "
        f"{', '.join(f'{n:,}' for n in sorted(drawn['n'].unique()))} and intervals: true dimension "
        f"{_range(drawn['d'])}, estimates {_range(drawn['estimate'])}; the diagonal is no bias.",
        left_out=out,
    )


def interval_coverage(rows: pd.DataFrame, nominal: float = 0.95, low: float = 0.90, high: float = 0.99):
    """Share of intervals that hold what they are for, one line a manifold, with its own interval.

    rows        manifold, d, n, coverage, coverage_low, coverage_high; a column `estimator` makes the panels
    nominal     drawn as a rule; low and high as a band: the range that is asked for
    """
    columns = ["manifold", "d", "n", "coverage", "coverage_low", "coverage_high"]
    drawn, out = _drawn(rows, columns, ["estimator", "simulations"], "the chart of coverage")
    if drawn.empty:
        return _nothing("Coverage", "no row has a value")
    drawn["cloud"] = drawn["manifold"] + ", d = " + drawn["d"].astype(str)
    order = list(dict.fromkeys(drawn["cloud"]))
    sizes = sorted(drawn["n"].unique())
    scale = alt.Scale(domain=[min(0.85, float(drawn["coverage_low"].min())), 1.0], nice=False, clamp=True)
    x = alt.X("coverage:Q", title="Coverage", scale=scale, axis=alt.Axis(format="%", tickCount=5))
    y = alt.Y("cloud:N", title="Points", sort=order, axis=alt.Axis(labelLimit=300))
    offset = alt.YOffset("n:O", sort=[int(n) for n in sizes])
    near = _nearest(["cloud", "n"])
    labels = {"cloud": ("Points", None), "n": ("n", ",d"), "coverage": ("Coverage", ".3f")}
    labels |= {"coverage_low": ("low", ".3f"), "coverage_high": ("high", ".3f"), "simulations": ("Simulations", ",d")}
    colors = alt.Scale(domain=[int(n) for n in sizes], range=[*DOMAIN_COLORS.values()])
    color = alt.Color("n:O", scale=colors, legend=alt.Legend(title="Points n"))
    base = alt.Chart(drawn).encode(y=y, yOffset=offset, color=color)
    limits = alt.Chart(pd.DataFrame({"from": [low], "to": [high]})).mark_rect(opacity=0.12, color=INK)
    line = alt.Chart(pd.DataFrame({"nominal": [nominal]})).mark_rule(strokeDash=[5, 4])
    panel = alt.layer(
        limits.encode(x=_on("from", x), x2="to:Q"),
        line.encode(x=_on("nominal", x)),
        base.mark_rule(strokeWidth=1.5).encode(x=_on("coverage_low", x), x2="coverage_high:Q"),
        base.mark_point(size=40)
        .encode(
            x=x,
            size=alt.condition(near, alt.value(130), alt.value(40)),
            tooltip=_tooltip(drawn, labels),
        )
        .add_params(near),
    ).properties(width=WIDTH, height=max(120, 13 * len(sizes) * len(order)))
    return _described(
        panel,
        f"Coverage of {nominal:.0%} intervals on {', '.join(order)}: {_range(drawn['coverage'])}; the band runs from "
        f"{low:.0%} to {high:.0%}, lines are 95 % intervals of the coverage itself.",
        left_out=out,
    )


def estimators_compared(rows: pd.DataFrame):
    """Estimate over true dimension, one line an estimator and one mark a manifold; 1 is no error.

    rows   estimator, manifold, d (the true one), estimate, ratio (estimate / d); those without one are counted
    """
    columns = ["estimator", "manifold", "d", "estimate", "ratio"]
    drawn, out = _drawn(rows[rows["ratio"] != 0], columns, [], "the chart of estimators")
    if drawn.empty:
        return _nothing("Estimators compared", "no estimate is finite")
    order = list(dict.fromkeys(drawn["estimator"]))
    scale = _scale(drawn["ratio"], pd.Series([1.0]), log=True)
    x = alt.X("ratio:Q", title="Estimate / true dimension", scale=scale, axis=_axis(scale))
    y = alt.Y("estimator:N", title="Estimator", sort=order, axis=alt.Axis(labelLimit=260))
    pointed = alt.selection_point(name="pointed", fields=["manifold"], on="pointerover", clear="pointerout")
    labels = {"estimator": ("Estimator", None), "manifold": ("Manifold", None), "d": ("True dimension", "d")}
    labels |= {"estimate": ("Estimate", ".2f"), "ratio": ("Estimate / true", ".2f")}
    ends = [DOMAIN_COLORS["natural"], DOMAIN_COLORS["medical"]]
    color = alt.Color("d:Q", title="True dimension", scale=alt.Scale(type="log", range=ends))
    layers = [
        alt.Chart(pd.DataFrame({"ratio": [1.0]})).mark_rule(strokeDash=[5, 4]).encode(x=x),
        alt.Chart(drawn)
        .mark_point(size=60)
        .encode(x=x, y=y, color=color, opacity=_opacity(pointed, 0.85, 0.1), tooltip=_tooltip(drawn, labels))
        .add_params(pointed),
    ]
    return _finish(
        layers,
        f"Estimate over true dimension of {drawn['manifold'].nunique()} manifolds by {len(order)} estimators "
        f"({', '.join(order)}): ratios {_range(drawn['ratio'])}.",
        height=max(160, 22 * len(order)),
        left_out=out,
    )


def sharpness_growth(rows: pd.DataFrame, reference: pd.DataFrame | None = None):
    """Label sharpness against M, images a class, both logarithmic: no plateau means overlapping classes.

    rows: per_class, k_f; low, high, dataset and domain where known.
    reference: per_class, k_f and, for its label, name: a slope to compare with, drawn dashed.
    """
    more = ["low", "high", "dataset", "domain"]
    drawn, out = _drawn(rows, ["per_class", "k_f"], more, "growth of sharpness")
    positive = (drawn["k_f"] > 0) & (drawn["per_class"] > 0)
    drawn, out = drawn[positive], out + int((~positive).sum())
    if drawn.empty:
        return _nothing("Label sharpness against M", "no K_F above zero was measured")
    compare = pd.DataFrame({"per_class": [], "k_f": []})
    if reference is not None and len(reference):
        compare, _ = _drawn(reference, ["per_class", "k_f"], ["name", "dataset"], "the reference slope")
    params, chosen = _answers(drawn, ("domain",))
    sizes = sorted(int(m) for m in drawn["per_class"].unique())
    bounds = [drawn[c] for c in ("k_f", "low", "high") if c in drawn]
    y_scale = _scale(*bounds, compare["k_f"], log=True)
    x_scale = _scale(drawn["per_class"], compare["per_class"], log=True)
    x = alt.X(
        "per_class:Q",
        title="Images a class, M",
        scale=x_scale,
        axis=alt.Axis(values=sizes, format=",d", grid=False, labelSeparation=APART),
    )
    y = alt.Y("k_f:Q", title="Label sharpness K_F(M)", scale=y_scale, axis=_axis(y_scale))
    detail = {"detail": "dataset:N"} if "dataset" in drawn else {}
    near = _nearest(["per_class", *(["dataset"] if detail else [])])
    base = alt.Chart(drawn).encode(x=x, color=_color(drawn))
    layers = []
    if len(compare):
        dashed = {"strokeDash": [5, 4], "strokeWidth": 1.5, "color": GRID}
        own = {"detail": "name:N"} if "name" in compare else {}
        own = {"detail": "dataset:N"} if "dataset" in compare else own
        layers.append(alt.Chart(compare).mark_line(**dashed).encode(x=x, y=y, **own))
        if "name" in compare:
            ends = compare.sort_values("per_class").drop_duplicates("name", keep="last")
            text = {"align": "right", "dy": -9, "fontSize": 11, "fontStyle": "italic"}
            layers.append(alt.Chart(ends).mark_text(**text).encode(x=x, y=y, text="name:N"))
    layers += _interval(drawn, ("low", "high"), chosen, x, y, along_y=True)
    layers += [
        base.mark_line().encode(y=y, opacity=_opacity(chosen, 0.8), **detail),
        base.mark_point()
        .encode(
            y=y,
            size=alt.condition(near, alt.value(170), alt.value(80)),
            opacity=_opacity(chosen, 0.95),
            tooltip=_tooltip(drawn),
        )
        .add_params(near, *params),
    ]
    if "dataset" in drawn:
        ends = drawn.sort_values("per_class").drop_duplicates("dataset", keep="last")
        ends = ends.assign(place=_labels_apart(ends["k_f"], y_scale, 280))
        layers.append(
            alt.Chart(ends)
            .mark_text(align="left", dx=10, fontSize=11)
            .encode(
                x=x,
                y=_on("place", y),
                text="dataset:N",
                color=_color(drawn),
                opacity=_opacity(chosen, 1, 0.15),
            )
        )
    return _finish(
        layers,
        f"Label sharpness K_F against the number of images a class M, both logarithmic: M from {sizes[0]} to "
        f"{sizes[-1]}, K_F from {_range(drawn['k_f'])} per unit of L2 distance"
        + (", with a reference slope drawn dashed." if len(compare) else "."),
        height=280,
        left_out=out,
    )


def growth_panels(rows: pd.DataFrame, *, columns: int = 4):
    """Label sharpness against M, both logarithmic, a panel an image set, each with a scale of its own.

    rows: dataset, domain, per_class, k_f; law, where known: what a law to compare with gives, drawn dashed
    """
    drawn, out = _drawn(rows, ["dataset", "domain", "per_class", "k_f"], ["law"], "growth of sharpness by set")
    positive = (drawn["k_f"] > 0) & (drawn["per_class"] > 0)
    drawn, out = drawn[positive], out + int((~positive).sum())
    if drawn.empty:
        return _nothing("Label sharpness against M", "no K_F above zero was measured")
    scale = {"type": "log", "zero": False, "nice": False, "padding": 12}
    ticks = [m * 10**d for d in range(6) for m in (1, 3)]  # panels are narrow
    across = alt.Axis(format=",d", grid=False, values=ticks, labelSeparation=APART)
    x = alt.X("per_class:Q", title="M", scale=alt.Scale(**scale), axis=across)
    y = alt.Y("k_f:Q", title="K_F(M)", scale=alt.Scale(**scale), axis=alt.Axis(format=".2~g", tickCount=3))
    base = alt.Chart(drawn).encode(x=x)
    params, chosen = _answers(drawn, ("domain",))
    points = base.mark_point(size=60).encode(
        y=y, color=_color(drawn), opacity=_opacity(chosen, 0.95), tooltip=_tooltip(drawn)
    )
    layers = [
        base.mark_line().encode(y=y, color=_color(drawn), opacity=_opacity(chosen, 0.8)),
        points.add_params(*params),
    ]
    if "law" in drawn:
        dashed = base.transform_filter("isValid(datum.law)").mark_line(strokeDash=[5, 4], strokeWidth=1.5, color=GRID)
        layers.insert(0, dashed.encode(y=_on("law", y)))
    place = drawn["domain"].map(_ordered(drawn["domain"], DOMAIN_COLORS).index)
    order = list(drawn.assign(place=place).sort_values(["place", "dataset"])["dataset"].unique())
    panels = (
        alt.layer(*layers)
        .properties(width=150, height=110)
        .facet(alt.Facet("dataset:N", title=None, sort=order), columns=min(columns, len(order)))
        .resolve_scale(x="independent", y="independent")
    )
    return _described(
        panels,
        f"Label sharpness K_F against M images a class, both logarithmic, for {_sets(drawn)}, a panel each"
        + (", with a law to compare with drawn dashed" if "law" in drawn else "")
        + f". K_F from {_range(drawn['k_f'])} per unit of L2 distance.",
        left_out=out,
    )


def sharpness_response(rows: pd.DataFrame, x_title: str, log_x: bool = False):
    """Sharpness against whatever an experiment changes: one line a quantity, with intervals.

    rows: at (a number), quantity, k_f; low and high where known.
    x_title: what `at` is, with its unit.
    """
    drawn, out = _drawn(rows, ["at", "quantity", "k_f"], ["low", "high"], "sharpness in an experiment")
    positive = (drawn["k_f"] > 0) & np.isfinite(drawn["k_f"])
    drawn, out = drawn[positive], out + int((~positive).sum())
    if drawn.empty:
        return _nothing(f"Label sharpness against {x_title}", "no finite K_F above zero was measured")
    bounds = [drawn[c] for c in ("k_f", "low", "high") if c in drawn]
    y_scale = _scale(*bounds, log=True)
    x_scale = _scale(drawn["at"], log=log_x)
    places = sorted(float(v) for v in drawn["at"].unique())
    x = alt.X("at:Q", title=x_title, scale=x_scale, axis=alt.Axis(values=places, grid=False, labelSeparation=8))
    y = alt.Y("k_f:Q", title="Label sharpness", scale=y_scale, axis=_axis(y_scale))
    names = list(dict.fromkeys(drawn["quantity"]))
    colors = [*DOMAIN_COLORS.values()][: max(len(names), 1)]
    color = alt.Color("quantity:N", title="Quantity", scale=alt.Scale(domain=names, range=colors))
    base, near = alt.Chart(drawn).encode(x=x, color=color), _nearest(["at", "quantity"])
    layers = []
    if {"low", "high"} <= set(drawn):
        layers.append(base.mark_rule(strokeWidth=1.5, opacity=0.6).encode(y=alt.Y("low:Q", scale=y_scale), y2="high:Q"))
    tips = [alt.Tooltip("quantity:N"), alt.Tooltip("at:Q", title=x_title), alt.Tooltip("k_f:Q", format=".4f")]
    layers += [
        base.mark_line(opacity=0.8).encode(y=y),
        base.mark_point()
        .encode(
            y=y,
            shape=alt.Shape("quantity:N", sort=names, legend=None),
            size=alt.condition(near, alt.value(170), alt.value(80)),
            tooltip=tips,
        )
        .add_params(near),
    ]
    return _finish(
        layers,
        f"Label sharpness against {x_title}, {len(places)} values from {places[0]:g} to {places[-1]:g}; lines: "
        f"{', '.join(names)}; from {_range(drawn['k_f'])} per unit of L2 distance.",
        height=280,
        left_out=out,
    )


def measured_and_bound(rows: pd.DataFrame, y_title: str, x_title: str = N_TITLE):
    """Measured means with intervals beside the bound of a theorem, dashed, against N; both axes logarithmic.

    rows      n, value, low, high, bound; `finding` of theory.judged: marks are hollow where the bound says nothing;
              `limit`: the exact leading term, dotted; `series` makes the colors, at most four
    y_title   what is measured, with its unit
    """
    more = ["low", "high", "finding", "limit", "series"]
    given = rows.assign(value=rows["value"].where(rows["value"] > 0)) if "value" in rows else rows
    drawn, out = _drawn(given, ["n", "value", "bound"], more, "a measured value and its bound")
    if drawn.empty:
        return _nothing(y_title, "no measured value is above zero")
    if "series" not in drawn:
        drawn["series"] = "measured"
    if "low" in drawn:  # no logarithm below zero: an interval that reaches it is cut
        drawn["low"] = drawn["low"].clip(lower=drawn["value"] / 10)
    if "finding" not in drawn:
        drawn["finding"] = "not judged"
    names = list(dict.fromkeys(drawn["series"]))
    values = [drawn[c] for c in ("value", "low", "high", "bound", "limit") if c in drawn]
    y_scale, x_scale = _scale(*values, log=True), _scale(drawn["n"], log=True)
    places = sorted(int(n) for n in drawn["n"].unique())
    x = alt.X(
        "n:Q",
        title=x_title,
        scale=x_scale,
        axis=alt.Axis(values=places, format=",d", grid=False, labelSeparation=APART),
    )
    y = alt.Y("value:Q", title=y_title, scale=y_scale, axis=_axis(y_scale))
    colors = alt.Scale(domain=names, range=[*DOMAIN_COLORS.values()][: len(names)])
    color = alt.Color("series:N", title=None, scale=colors)
    picked = alt.selection_point(name="picked_series", fields=["series"], bind="legend")
    near = _nearest(["n", "series"])
    base = alt.Chart(drawn).encode(x=x, color=color)
    labels = {"series": ("Series", None), "n": ("N", ",d"), "value": ("Measured", ".4g"), "low": ("low", ".4g")}
    labels |= {"high": ("high", ".4g"), "bound": ("Bound", ".4g"), "limit": ("Exact leading term", ".4g")}
    labels |= {"finding": ("Finding", None)}
    layers = [
        base.mark_line(strokeDash=[6, 4], strokeWidth=1.5).encode(y=_on("bound", y), opacity=_opacity(picked, 0.9)),
    ]
    if "limit" in drawn and drawn["limit"].notna().any():
        dots = {"strokeDash": [1, 4], "strokeWidth": 1.5}
        layers.append(base.mark_line(**dots).encode(y=_on("limit", y), opacity=_opacity(picked, 0.9)))
    if {"low", "high"} <= set(drawn):
        rule = base.mark_rule(strokeWidth=1.5)
        layers.append(rule.encode(y=_on("low", y), y2="high:Q", opacity=_opacity(picked, 0.6)))
    hollow = alt.condition("datum.finding == 'bound says nothing'", alt.value(0), alt.value(1))
    layers += [
        base.mark_line(strokeWidth=1.5).encode(y=y, opacity=_opacity(picked, 0.8)),
        base.mark_point(strokeWidth=1.5)
        .encode(
            y=y,
            stroke=alt.Stroke("series:N", title=None, scale=colors),
            fillOpacity=hollow,
            size=alt.condition(near, alt.value(170), alt.value(70)),
            opacity=_opacity(picked, 0.95),
            tooltip=_tooltip(drawn, labels),
        )
        .add_params(near, picked),
    ]
    empty = int((drawn["finding"] == "bound says nothing").sum())
    return _finish(
        layers,
        f"{y_title} against {x_title}, both logarithmic, for {', '.join(map(str, names))}: measured "
        f"{_range(drawn['value'])}, bounds, dashed, {_range(drawn['bound'])}"
        + (f"; at {empty} hollow marks the bound says nothing." if empty else "."),
        height=280,
        left_out=out,
    )


def class_pairs(rows: pd.DataFrame):
    """Sharpness between each two classes as a matrix of numbers on shades; the diagonal is the same-label control.

    rows: first, second, sharpness, same_label, of sharpness.ClassPairs.rows; each pair once.
    """
    drawn, out = _drawn(rows, ["first", "second", "sharpness", "same_label"], [], "class pairs")
    if drawn.empty:
        return _nothing("Label sharpness of class pairs", "no pair of classes was measured")
    order = list(dict.fromkeys([*drawn["first"], *drawn["second"]]))
    apart = drawn[~drawn["same_label"]].rename(columns={"first": "second", "second": "first"})
    both = pd.concat([drawn, apart], ignore_index=True)
    both["text"] = both["sharpness"].map(lambda v: f"{v:.2g}" if v >= 0.0995 else f"{v:.3f}")
    side = max(30, min(56, 520 // len(order)))
    axes = {
        "x": alt.X("first:N", sort=order, title="Class", axis=alt.Axis(labelAngle=0, orient="top")),
        "y": alt.Y("second:N", sort=order, title="Class"),
    }
    shades = alt.Scale(
        range=["#eef4fa", DOMAIN_COLORS["natural"]], type="log" if (both["sharpness"] > 0).all() else "linear"
    )
    color = alt.Color("sharpness:Q", title="Sharpness", scale=shades)
    base, near = alt.Chart(both).encode(**axes), _nearest(["first", "second"])
    ring = base.transform_filter("datum.same_label").mark_rect(filled=False, stroke=INK, strokeWidth=2)
    tips = [alt.Tooltip("first:N"), alt.Tooltip("second:N"), alt.Tooltip("sharpness:Q", format=".4f")]
    return _finish(
        [
            base.mark_rect()
            .encode(color=color, opacity=alt.condition(near, alt.value(0.8), alt.value(1)), tooltip=tips)
            .add_params(near),
            ring,
            base.mark_text(color="#1b1f24", fontSize=11).encode(text="text:N"),
        ],
        f"Label sharpness between each two of {len(order)} classes ({', '.join(order)}), from "
        f"{_range(drawn['sharpness'])}; framed on the diagonal: the control of images of one class.",
        width=side * len(order),
        height=side * len(order),
        left_out=out,
    )


def published_and_corrected(rows: pd.DataFrame, x_title: str, label: str = "dataset"):
    """A published value beside the corrected one, a line each: hollow diamonds and filled circles, with intervals.

    rows      published, corrected and the column `label`; low, high (of the corrected value), published_low,
              published_high and domain, where known
    x_title   what both are, with its unit
    """
    required, ends = [label, "published", "corrected"], ["low", "high", "published_low", "published_high"]
    drawn, out = _drawn(rows, required, [*ends, "domain"], "a published value and the corrected one")
    if drawn.empty:
        return _nothing(x_title, "no row has both values")
    drawn[label] = drawn[label].astype(str)
    order = list(dict.fromkeys(drawn[label]))
    scale = _scale(*(drawn[c] for c in ("published", "corrected", *ends) if c in drawn))
    x = alt.X("value:Q", title=x_title, scale=scale, axis=_axis(scale))
    y = alt.Y(f"{label}:N", title=None, sort=order, axis=alt.Axis(labelLimit=260))
    parts = []
    for choice, before in (("published", "published_"), ("corrected", "")):
        columns = {choice: "value", f"{before}low": "from", f"{before}high": "to"}
        kept = [c for c in (label, "domain", *columns) if c in drawn]
        parts.append(drawn[kept].rename(columns=columns).assign(choice=choice))
    long = pd.concat(parts, ignore_index=True)
    pointed = alt.selection_point(name="pointed", fields=[label], on="pointerover", clear="pointerout")
    offset = alt.YOffset("choice:N", sort=["published", "corrected"])
    base = alt.Chart(long).encode(y=y, yOffset=offset, color=_color(long))
    labels = {label: ("Row", None), "choice": ("Choice", None), "value": ("Value", ".4g")}
    labels |= {"from": ("low", ".4g"), "to": ("high", ".4g")}
    shapes = alt.Scale(domain=["published", "corrected"], range=["diamond", "circle"])
    layers = []
    if "from" in long:
        known = base.transform_filter("isValid(datum.from) && isValid(datum.to)")
        layers.append(known.mark_rule(strokeWidth=1.5).encode(x=_on("from", x), x2="to:Q"))
    marks = [
        base.transform_filter(f"datum.choice == '{choice}'")
        .mark_point(size=80, strokeWidth=2, filled=choice == "corrected")
        .encode(
            x=x,
            shape=alt.Shape("choice:N", scale=shapes, legend=alt.Legend(title="Choice")),
            opacity=_opacity(pointed, 0.95, 0.3),
            tooltip=_tooltip(long, labels),
        )
        for choice in ("published", "corrected")
    ]
    layers += [marks[0], marks[1].add_params(pointed)]
    return _finish(
        layers,
        f"{x_title}, published (hollow) and corrected (filled), for {', '.join(order)}: published "
        f"{_range(drawn['published'])}, corrected {_range(drawn['corrected'])}; lines are 95 % intervals or bars.",
        height=max(90, 34 * len(order)),
        left_out=out,
    )


def counts(rows: pd.DataFrame):
    """Images by class, as bars with their numbers.

    rows: class, n; a column `part` (training, test, copies ...), where there is one, stacks the bars.
    """
    drawn, out = _drawn(rows, ["class", "n"], ["part", "dataset"], "counts")
    if drawn.empty:
        return _nothing("Images by class", "no class has an image")
    classes = list(dict.fromkeys(map(str, drawn["class"])))
    drawn["class"] = drawn["class"].astype(str)
    totals = drawn.groupby("class", as_index=False)["n"].sum()
    y = alt.Y("class:N", title=None, sort=classes, axis=alt.Axis(labelLimit=220))
    x = alt.X("n:Q", title="Images", axis=alt.Axis(format=",d", tickMinStep=1), scale=alt.Scale(nice=True))
    pointed = alt.selection_point(name="pointed", fields=["class"], on="pointerover", clear="pointerout")
    part = {}
    if "part" in drawn:
        parts = list(dict.fromkeys(drawn["part"]))
        part = {
            "color": alt.Color("part:N", sort=parts, legend=alt.Legend(title=None)),
            "order": alt.Order("part_order:Q"),
        }
        drawn["part_order"] = drawn["part"].map(parts.index)
    labels = {"class": ("Class", None), "part": ("Part", None), "n": ("Images", ",d")}
    bars = (
        alt.Chart(drawn)
        .mark_bar()
        .encode(x=x, y=y, opacity=_opacity(pointed, 0.9, 0.3), tooltip=_tooltip(drawn, labels), **part)
        .add_params(pointed)
    )
    numbers = alt.Chart(totals).mark_text(align="left", dx=6).encode(x=x, y=y, text=alt.Text("n:Q", format=",d"))
    listing = ", ".join(f"{name} {int(n):,}" for name, n in zip(totals["class"], totals["n"], strict=True))
    return _finish(
        [bars, numbers],
        f"Number of images by class: {listing}.",
        height=max(60, 30 * len(classes)),
        left_out=out,
    )


def speed(rows: pd.DataFrame):
    """Seconds of each method at each size, logarithmic, with the range over calls.

    rows: method, size (a text), seconds; seconds_low, seconds_high, times_ours where known. The first method of the
    frame is drawn strong.
    """
    more = ["seconds_low", "seconds_high", "times_ours"]
    drawn, out = _drawn(rows, ["method", "size", "seconds"], more, "speed")
    if drawn.empty:
        return _nothing("Seconds by method", "no time was measured")
    methods, sizes = list(dict.fromkeys(drawn["method"])), list(dict.fromkeys(drawn["size"]))
    bounds = [drawn[c] for c in ("seconds", "seconds_low", "seconds_high") if c in drawn]
    x_scale = _scale(*bounds, log=True)
    x = alt.X("seconds:Q", title="Seconds", scale=x_scale, axis=_axis(x_scale))
    y = alt.Y("size:N", title="Points x coordinates", sort=sizes, axis=alt.Axis(labelLimit=220))
    offset = alt.YOffset("method:N", sort=methods)
    picked = alt.selection_point(name="picked_method", fields=["method"], bind="legend")
    strong = DOMAIN_COLORS["medical"]
    palette = [strong, *[c for c in DOMAIN_COLORS.values() if c != strong], SPARE_COLOR][: len(methods)]
    color = alt.Color("method:N", sort=methods, scale=alt.Scale(domain=methods, range=palette), title=None)
    near = _nearest(["method", "size"])
    base = alt.Chart(drawn).encode(y=y, yOffset=offset, color=color)
    labels = {"method": ("Method", None), "size": ("Size", None), "seconds": ("Seconds", ".3f")}
    labels |= {"times_ours": ("Times ours", ".1f")}
    layers = []
    if {"seconds_low", "seconds_high"} <= set(drawn.columns):
        layers.append(
            base.mark_rule().encode(x=_on("seconds_low", x), x2="seconds_high:Q", opacity=_opacity(picked, 0.6))
        )
    layers.append(
        base.mark_point()
        .encode(
            x=x,
            size=alt.condition(near, alt.value(170), alt.value(80)),
            opacity=_opacity(picked, 0.95),
            tooltip=_tooltip(drawn, labels),
        )
        .add_params(near, picked)
    )
    return _finish(
        layers,
        f"Seconds of {len(methods)} methods at {len(sizes)} sizes, logarithmic, from {_range(drawn['seconds'])}.",
        height=max(120, 18 * len(methods) * len(sizes)),
        left_out=out,
    )


# -------------------------------------------------------------------------------------- pictures


def experiment(rows: pd.DataFrame, column: str, title: str):
    """An outcome against what a controlled experiment moves, a panel an intervention; both axes logarithmic.

    rows    as of `controlled.rows`: intervention, family, model, seed, at, dataset and `column`
    column  the outcome, drawn where it is above 0; title: its name with its unit
    A point is a run; a line goes through the means over seeds, one a family and model.
    """
    required = ["intervention", "family", "model", "seed", "at", "dataset", column]
    drawn, out = _drawn(rows, required, ["k_f", "fitted", "test_accuracy"], "the chart of an experiment")
    positive = (drawn[column] > 0) & (drawn["at"] > 0)
    drawn, out = drawn[positive], out + int((~positive).sum())
    if drawn.empty:
        return _nothing(f"{title} in controlled experiments", "no run has a value above zero")
    names, families = list(dict.fromkeys(drawn["intervention"])), list(dict.fromkeys(drawn["family"]))
    colors = alt.Scale(domain=families, range=[*DOMAIN_COLORS.values()][1 : 1 + len(families)])
    color = alt.Color("family:N", scale=colors, legend=alt.Legend(title="Images", symbolType="circle"))
    y_scale = _scale(drawn[column], log=True)
    y = alt.Y(f"{column}:Q", title=textwrap.wrap(title, 24), scale=y_scale, axis=_axis(y_scale, 5))
    panels = []
    for i, name in enumerate(names):
        pointed = alt.selection_point(
            name=f"pointed_{i}", fields=["family", "model"], on="pointerover", clear="pointerout"
        )
        part = drawn[drawn["intervention"] == name]
        x_scale = _scale(part["at"], log=True)
        levels = sorted(float(level) for level in part["at"].unique())
        few = len(levels) == 1 or (len(levels) < 7 and all(level == int(level) for level in levels))
        x_axis = alt.Axis(values=levels, format=".3~g") if few else _axis(x_scale, 4)
        x = alt.X("at:Q", title=EXPERIMENT_AXES.get(name, name), scale=x_scale, axis=x_axis)
        base = alt.Chart(part).encode(x=x, color=color)
        lines = base.mark_line(opacity=0.7).encode(y=_on(f"mean({column})", y), detail="model:N")
        points = base.mark_point(size=70).encode(
            y=y, shape=_shape(drawn), opacity=_opacity(pointed, 0.85), tooltip=_tooltip(part, {"at": (name, ".3g")})
        )
        panel = alt.layer(lines, points.add_params(pointed), title=name)
        panels.append(panel.properties(width=PANEL[0], height=PANEL[1]))
    return _described(
        alt.concat(*panels, columns=3),
        f"{title} against what is moved, a panel for each of the interventions {', '.join(names)}; images: "
        f"{', '.join(families)}; {len(drawn)} points, a run may be in several panels; {_range(drawn[column])}.",
        left_out=out,
    )


EXPERIMENT_AXES = {
    "margin": "K_F, by the margin",
    "pairs": "K_F, by 12 pairs",
    "stripes": "Stripes, at one K_F",
    "dimension": "Dimension d, at one K_F",
    "axis": "Labeling 1 or 2, at one K_F",
}


def intervention_effects(table: pd.DataFrame):
    """Effects of interventions with their intervals, a panel an outcome; a tick where the theory states a slope.

    table   intervention, outcome, family, model, effect, low, high, law (NaN where none), n
    """
    required = ["intervention", "outcome", "family", "model", "effect"]
    drawn, out = _drawn(table, required, ["low", "high", "law", "n"], "the chart of effects")
    if drawn.empty:
        return _nothing("Effects of interventions", "no series is whole yet")
    drawn["of"] = np.where(drawn["model"] == "averaged", drawn["family"], drawn["model"])
    drawn["row"] = drawn["intervention"] + ", " + drawn["of"]
    order, kinds = list(dict.fromkeys(drawn["row"])), list(dict.fromkeys(drawn["of"]))
    scale = _scale(drawn[["effect", "law"]].stack(), pd.Series([0.0]), log=False)
    low, high = scale.domain
    scale = alt.Scale(domain=[low - 0.4 * (high - low), high + 0.4 * (high - low)], clamp=True, nice=False)
    x = alt.X("effect:Q", title="Slope of the logarithm (axis: difference)", scale=scale, axis=_axis(scale))
    y_title = ["Intervention,", "averaged over"]
    y = alt.Y("row:N", title=y_title, sort=order, axis=alt.Axis(labelLimit=220))
    palette = [INK, *[*DOMAIN_COLORS.values()][1:3], SPARE_COLOR, DOMAIN_COLORS["medical"], DOMAIN_COLORS["unknown"]]
    colors = alt.Scale(domain=kinds, range=(palette * len(kinds))[: len(kinds)])
    labels = {"row": ("Effect of", None), "effect": ("Slope", ".3f"), "low": ("low", ".3f"), "high": ("high", ".3f")}
    labels |= {"law": ("Stated by the theory", ".0f"), "n": ("Values averaged", "d")}
    color = alt.Color("of:N", scale=colors, legend=alt.Legend(title="Averaged over"))
    panels, cut = [], False
    for i, outcome in enumerate(dict.fromkeys(drawn["outcome"])):
        near = alt.selection_point(name=f"nearest_{i}", fields=["row"], on="pointerover", nearest=True, empty=False)
        part = drawn[drawn["outcome"] == outcome]
        base = alt.Chart(part).encode(y=y, color=color)
        zero = alt.Chart(pd.DataFrame({"zero": [0.0]})).mark_rule(strokeDash=[5, 4]).encode(x=_on("zero", x))
        layers = [zero, base.mark_tick(thickness=3, size=14, color=GRID).encode(x=_on("law", x), color=alt.value(GRID))]
        if {"low", "high"} <= set(part):
            layers.append(base.mark_rule(strokeWidth=1.5).encode(x=_on("low", x), x2="high:Q"))
            low, high = scale.domain
            for shape, edge, beyond in (("left", low, part["low"] < low), ("right", high, part["high"] > high)):
                cut |= bool(beyond.any())
                ends = alt.Chart(part[beyond].assign(edge=edge)).encode(y=y, color=color)
                heads = ends.mark_point(shape=f"triangle-{shape}", size=70, opacity=1).encode(x=_on("edge", x))
                layers += [heads] if beyond.any() else []
        size = alt.condition(near, alt.value(150), alt.value(60))
        layers.append(base.mark_point().encode(x=x, size=size, tooltip=_tooltip(part, labels)).add_params(near))
        panels.append(
            alt.layer(*layers, title=outcome).properties(width=WIDTH - 120, height=max(90, 17 * part["row"].nunique()))
        )
    return _described(
        alt.vconcat(*panels),
        f"Effects with 95 % intervals of {', '.join(dict.fromkeys(drawn['intervention']))} on "
        f"{' and '.join(dict.fromkeys(drawn['outcome']))}: slopes {_range(drawn['effect'])}.",
        left_out=out,
        note="Arrowheads: the interval goes on beyond the panel." if cut else "",
    )


class Gallery:
    """Rows of pictures with their titles, as one PNG; shows itself in a notebook.

    `png` bytes, `size` (width, height) on the page, `description` the text alternative.
    """

    def __init__(self, picture: Image.Image, description: str, density: int = 2):
        out = io.BytesIO()
        picture.save(out, format="PNG", optimize=True)
        self.png = out.getvalue()
        self.size = tuple(side // density for side in picture.size)
        self.description = description

    def __repr__(self) -> str:
        return self.description

    def _repr_mimebundle_(self, **_):
        bundle = {"image/png": base64.b64encode(self.png).decode("ascii"), "text/plain": self.description}
        width, height = self.size
        return bundle, {"image/png": {"width": width, "height": height, "alt": self.description}}


def gallery(
    images,
    titles: Sequence[str] | None = None,
    *,
    columns: int = 6,
    side: int = 96,
    headings: Sequence[str] | None = None,
    description: str | None = None,
    _span: Sequence[int] = (1,),
) -> Gallery:
    """Images in rows of `columns`, each enlarged by repeating pixels, with its title below.

    images       uint8 (n, H, W) or (n, H, W, C), C = 1 or 3, an ImageSet, or a list of such arrays
    titles       one text an image; "\\n" starts a new line; text is drawn as it stands, never as HTML
    side         pixels on the page of an image's longer side, about (whole multiples of its pixels)
    headings     one text a column, above the first row
    description  the text alternative; the titles where none is given
    """
    pictures = [_as_array(image) for image in getattr(images, "images", images)]
    if not pictures:
        raise ChartError("a gallery needs one image at least, and this one has none")
    titles = [""] * len(pictures) if titles is None else [str(title) for title in titles]
    if len(titles) != len(pictures):
        raise ChartError(f"{len(titles)} titles were given for {len(pictures)} images; give one an image")
    if headings is not None:
        columns = len(headings)
    elif columns < 1:
        raise ChartError(f"columns is {columns}, but a row needs one image at least")
    density = 2
    font = _font(12 * density)
    tiles = [_enlarge(picture, side * density) for picture in pictures]
    width = max(*(tile.width for tile in tiles), side * density)
    height = max(tile.height for tile in tiles)
    line_height, gap = 16 * density, 12 * density
    room = [width + (_span[i % len(_span)] - 1) * (width + gap) for i in range(len(titles))]
    texts = [
        [_shorten(line, font, limit) for line in title.split("\n")] for title, limit in zip(titles, room, strict=True)
    ]
    below = line_height * max(len([line for line in lines if line]) for lines in texts)
    above = line_height + gap // 2 if headings is not None else 0
    columns = min(columns, len(tiles)) if headings is None else columns
    n_rows = -(-len(tiles) // columns)
    step = height + below + gap
    canvas = Image.new("RGB", (columns * (width + gap) + gap, above + n_rows * step + gap), "white")
    draw = ImageDraw.Draw(canvas)
    for column, heading in enumerate(headings or []):
        draw.text((gap + column * (width + gap), gap // 2), _shorten(str(heading), font, width), "#333333", font)
    for index, (tile, lines) in enumerate(zip(tiles, texts, strict=True)):
        left = gap + (index % columns) * (width + gap)
        top = above + gap + (index // columns) * step
        canvas.paste(tile, (left, top))
        for row, line in enumerate(lines):
            draw.text((left, top + height + 2 * density + row * line_height), line, "#333333", font)
    if description is None:
        named = "; ".join(" ".join(title.split()) for title in titles if title)
        description = f"{len(tiles)} images" + (f": {named}." if named else ".")
    return Gallery(canvas, description, density)


def pairs(
    left,
    right,
    titles: Sequence[str] | None = None,
    *,
    headings: Sequence[str] = ("first image", "second image", "difference"),
    side: int = 128,
    description: str | None = None,
) -> Gallery:
    """Pairs of images, a row each: one, the other, and how they differ.

    left, right  uint8 (n, H, W) or (n, H, W, C), or ImageSets: pair i is left[i], right[i]
    titles       one text a pair, below its two images

    The difference is |left - right| times 255 / its largest value, which is written below it, so that
    small differences can be seen.
    """
    one = [_as_array(image) for image in getattr(left, "images", left)]
    other = [_as_array(image) for image in getattr(right, "images", right)]
    if len(one) != len(other):
        raise ChartError(f"{len(one)} left and {len(other)} right images make no pairs; give as many of both")
    titles = [""] * len(one) if titles is None else [str(title) for title in titles]
    pictures, texts = [], []
    for a, b, title in zip(one, other, titles, strict=True):
        if a.shape != b.shape:
            raise ChartError(f"images of shapes {a.shape} and {b.shape} have no difference; match them first")
        apart = np.abs(a.astype(np.int16) - b.astype(np.int16))
        largest = int(apart.max())
        pictures += [a, b, (apart * (255 / max(largest, 1))).astype(np.uint8)]
        texts += [title, "", f"at most {largest} of 255"]
    if description is None:
        named = "; ".join(" ".join(title.split()) for title in titles if title)
        description = f"{len(one)} pairs of images beside each other, with their difference" + (
            f": {named}." if named else "."
        )
    return gallery(pictures, texts, headings=headings, side=side, description=description, _span=(2, 1, 1))


def _as_array(image) -> np.ndarray:
    image = np.asarray(image)
    if image.ndim == 3 and image.shape[-1] == 1:
        image = image[..., 0]
    if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[-1] == 3)):
        raise ChartError(
            f"a picture of shape {image.shape} and type {image.dtype} cannot be drawn; "
            "give uint8 images of one or three channels"
        )
    return image


def _enlarge(image: np.ndarray, side: int) -> Image.Image:
    """Whole multiples of pixels up to about `side`; larger images are reduced by averaging."""
    picture = Image.fromarray(image).convert("RGB")
    longer = max(picture.size)
    if longer > side:
        size = tuple(max(1, round(s * side / longer)) for s in picture.size)
        return picture.resize(size, Image.Resampling.BOX)
    zoom = max(1, round(side / longer))
    return picture.resize(tuple(s * zoom for s in picture.size), Image.Resampling.NEAREST)


def _font(size: int):
    """DejaVu Sans, which matplotlib carries and which knows most signs, else Pillow's own font."""
    spec = importlib.util.find_spec("matplotlib")
    for folder in spec.submodule_search_locations if spec else ():
        path = Path(folder) / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        if path.exists():
            return ImageFont.truetype(str(path), size)
    return ImageFont.load_default(size=size)


def _shorten(text: str, font, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
