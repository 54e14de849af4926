"""Theme, renderer and the charts that several pages share. Every number drawn stands in the frame that is given.

Importing this module enables the theme and the renderer. A notebook then stores each chart as Vega-Lite, which
JupyterLab and the book draw, as PNG for print and for pages without JavaScript, and as its description in words.
"""

import base64
import sys
import textwrap

import numpy as np
import pandas as pd

from intrinsic.publishing.pictures import gallery, pairs  # noqa: F401  (pages take them from here)
from intrinsic.publishing.titles import COLUMNS, interval_texts, network_title, number, set_page, set_title

sys.modules.setdefault("rfc3987_syntax", None)  # jsonschema would load this grammar of addresses for seconds
import altair as alt  # noqa: E402
from altair.utils.mimebundle import spec_to_mimebundle  # noqa: E402

if sys.modules["rfc3987_syntax"] is None:
    del sys.modules["rfc3987_syntax"]

MIME_TYPE = "application/vnd.vegalite.v5+json"
SCHEMA_URL = "https://vega.github.io/schema/vega-lite/v5.json"

#: 3:1 or more on white and on the book's dark page, and told apart by color-blind readers
DOMAIN_COLORS = {"medical": "#d55e00", "natural": "#3394d9", "synthetic": "#2b7a41", "unknown": "#8c8c8c"}
PALETTE = ["#d55e00", "#3394d9", "#2b7a41", "#a05fc0", "#a8780a", "#8c8c8c"]
INK, GRID = "#767b84", "#9aa0a6"  # 4:1 or more on both pages
WIDTH, HEIGHT = 560, 340
LETTER, LINE = 6.6, 14  # pixels of a letter and of a line of text
HEADING, TWIN = "\u2060", "\u200b"  # signs without width: a row that is a heading; rows of one name in several groups


class BadFrame(ValueError):
    """A frame that lacks a column or a row that the chart draws."""


def theme() -> alt.theme.ThemeConfig:
    """Colors, fonts and sizes of all charts; the background is transparent."""
    text = {"labelColor": INK, "titleColor": INK, "labelFontSize": 12, "titleFontSize": 13}
    lines = {"domainColor": GRID, "tickColor": GRID, "gridColor": GRID, "gridOpacity": 0.25}
    space = {"titleFontWeight": "normal", "titlePadding": 8, "labelOverlap": True, "labelSeparation": 6}
    symbols = {"symbolFillColor": INK, "symbolStrokeColor": INK, "symbolSize": 90, "symbolOpacity": 1}
    legend = {"orient": "top", "titleFontWeight": "bold", "columnPadding": 12, "labelLimit": 320}
    config = {
        "background": "transparent",
        "font": "Helvetica, Arial, sans-serif",
        "view": {"stroke": None, "continuousWidth": WIDTH, "continuousHeight": HEIGHT},
        "axis": {**text, **lines, **space, "maxExtent": 500, "labelLimit": 260},
        "legend": {**text, **legend, **symbols, "titleFontSize": 12},
        "title": {"color": INK, "subtitleColor": INK, "anchor": "start", "fontWeight": "normal"},
        "header": text,
        "text": {"color": INK, "fontSize": 12},
        "rule": {"color": INK, "aria": False},  # the marks carry the names
        "line": {"strokeWidth": 2, "strokeJoin": "round", "strokeCap": "round"},
        "point": {"filled": True, "size": 80, "opacity": 0.9},
        "area": {"opacity": 0.16, "aria": False},
        "bar": {"color": DOMAIN_COLORS["natural"]},
        "range": {"category": PALETTE},
    }
    return {"config": config}


def render(spec: dict, **_) -> tuple[dict, dict]:
    """Return the chart as Vega-Lite, PNG and text, and the metadata of each."""
    text = spec.get("description") or "A chart without a description."
    png, size = spec_to_mimebundle({**spec, "background": "white"}, "png", mode="vega-lite", ppi=2 * 72)
    picture = base64.b64encode(png["image/png"]).decode("ascii")
    sides = {side: round(pixels) for side, pixels in size["image/png"].items()}
    bundle = {MIME_TYPE: {**spec, "$schema": SCHEMA_URL}, "image/png": picture, "text/plain": text}
    how = {"embed_options": {"renderer": "svg", "actions": False}}
    return bundle, {MIME_TYPE: how, "image/png": sides | {"alt": text}}


alt.theme.register("intrinsic", enable=True)(theme)
alt.renderers.register("intrinsic", render)
alt.renderers.enable("intrinsic")
alt.data_transformers.disable_max_rows()


def scatter_of_sets(frame, x, y, *, titles=None, log=None, labels=4, line=None):
    """Draw each image set as one mark with both of its intervals, in an altair.LayerChart; a click opens its numbers.

    Parameters
    ----------
    frame : pandas.DataFrame
        One row an image set: `dataset`, `domain`, `x`, `y`, and intervals as `x_low`, `x_high`, `y_low`, `y_high`.
    x, y : str
        Columns of the two axes.
    titles : tuple of str, optional
        Titles of the axes; those of known columns are known.
    log : str, optional
        Logarithmic axes: "", "x", "y" or "xy". None: those on which values span a factor of 4.
    labels : int or list of str
        How many sets are named on the chart, or which.
    line : pandas.DataFrame, optional
        A curve with columns `x` and `y`, and a band where it has `y_low` and `y_high`.
    """
    drawn = _rows(frame, ["dataset", "domain", x, y])
    (x_on, y_on), titles, scales = _axes(drawn, x, y, titles, log)
    drawn = drawn.assign(set=drawn["dataset"].map(set_title), page=drawn["dataset"].map(set_page))
    drawn = drawn.assign(**{f"{v}_text": interval_texts(drawn, v) for v in (x, y)})
    pointed = alt.selection_point(name="pointed", fields=["set"], on="pointerover", clear="pointerout")
    picked = alt.selection_point(name="picked", fields=["domain"], bind="legend")
    strong, weak = (alt.condition(pointed & picked, alt.value(v), alt.value(0.1)) for v in (0.95, 0.55))
    base = alt.Chart(drawn).encode(color=color_of(drawn))
    layers = []
    if line is not None:
        fit = alt.Chart(line).encode(x=x_on)
        if f"{y}_low" in line:
            layers.append(fit.mark_area(color=INK, clip=True).encode(y=_at(f"{y}_low", y_on), y2=f"{y}_high"))
        layers.append(fit.mark_line(color=INK, clip=True).encode(y=y_on))
    if f"{x}_low" in drawn:
        layers.append(base.mark_rule(clip=True).encode(x=_at(f"{x}_low", x_on), x2=f"{x}_high", y=y_on, opacity=weak))
    if f"{y}_low" in drawn:
        layers.append(base.mark_rule(clip=True).encode(y=_at(f"{y}_low", y_on), y2=f"{y}_high", x=x_on, opacity=weak))
    tips = [alt.Tooltip("set:N", title="Image set"), alt.Tooltip("domain:N", title="Domain")]
    tips += [alt.Tooltip(f"{v}_text:N", title=_short(c)) for v, c in zip((x, y), titles, strict=True)]
    points = base.mark_point(size=100).encode(x=x_on, y=y_on, opacity=strong, tooltip=tips, href="page:N")
    layers += [points.add_params(pointed, picked), *_names(drawn, (x, y), scales, labels, (x_on, y_on))]
    of = " against ".join(_short(title) for title in reversed(titles))
    text = f"{of} for {len(drawn)} image sets: {', '.join(drawn['set'])}."
    return alt.layer(*layers).properties(width=WIDTH, height=HEIGHT, description=text)


def forest(rows, *, title, reference=0.0, log=False, sort=True, group=None):
    """Draw estimates with their intervals, a row each, sorted by the estimate, in an altair.LayerChart.

    Parameters
    ----------
    rows : pandas.DataFrame or dict
        `label`, `estimate`, `low`, `high`; or {label: Interval}.
    title : str
        Title of the axis, with its unit.
    reference : float or None
        Where a dashed rule stands.
    log, sort : bool
        Draw a logarithmic axis; sort by the estimate, the largest first, within each group.
    group : str, optional
        Column whose values are headings of the rows.
    """
    if isinstance(rows, dict):
        rows = [{"label": k, "estimate": float(v), "low": v.low, "high": v.high} for k, v in rows.items()]
    drawn = _rows(pd.DataFrame(rows), ["label", "estimate", *([group] if group else [])])
    drawn = drawn.assign(estimate_low=drawn.get("low", np.nan), estimate_high=drawn.get("high", np.nan))
    drawn["text"] = interval_texts(drawn, "estimate")
    drawn, order = _stacked(drawn, group, sort)
    ends = [drawn["estimate"], drawn["estimate_low"], drawn["estimate_high"]]
    if not log:  # an interval of a few data does not squeeze all others
        reach = 10 * float((ends[2] - ends[1]).median() or 1e9)  # only an interval far wider than others is cut
        ends = [end.clip(ends[0].min() - reach, ends[0].max() + reach) for end in ends]
    scale = _scale([*ends, [np.nan if reference is None else reference]], "x" if log else "", "x")
    x = _axis(alt.X, "estimate", title, scale)
    bold = {"condition": {"test": f"substring(datum.value, 0, 1) == '{HEADING}'", "value": "bold"}, "value": "normal"}
    axis = alt.Axis(ticks=False, domain=False, labelFontWeight=bold, labelOverlap=False)
    y = alt.Y("row:N", title=None, scale=alt.Scale(domain=order), axis=axis)
    base = alt.Chart(drawn).encode(y=y, color=alt.value(DOMAIN_COLORS["natural"]))
    tips = [alt.Tooltip("label:N", title="Row"), alt.Tooltip("text:N", title=_short(title))]
    layers = [base.mark_rule(strokeWidth=1.5, clip=True).encode(x=_at("estimate_low", x), x2="estimate_high")]
    layers.append(base.mark_point(clip=True).encode(x=x, tooltip=tips))
    if reference is not None:
        rule = alt.Chart(pd.DataFrame({"at": [float(reference)]})).mark_rule(strokeDash=[5, 4])
        layers.insert(0, rule.encode(x=_at("at", x)))
    many = f"{len(drawn)} rows from {number(drawn['estimate'].min())} to {number(drawn['estimate'].max())}"
    listed = "; ".join(f"{label} {text}" for label, text in zip(drawn["label"], drawn["text"], strict=True))
    text = f"{title}, {many}, with intervals: {listed}."
    return alt.layer(*layers).properties(width=WIDTH - 160, height=max(60, 20 * len(order)), description=text)


def lines(frame, x, y, *, titles=None, by=None, log=None):
    """Draw curves through points, with a band where `y_low` and `y_high` are there, in an altair.LayerChart.

    Parameters
    ----------
    frame : pandas.DataFrame
        Columns `x`, `y` and `by`.
    x, y, titles, log
        As for `scatter_of_sets`.
    by : str, optional
        Column whose values, six at most, have a color each.
    """
    drawn = _rows(frame, [x, y, *([by] if by else [])])
    words = {"dataset": set_title, "model": network_title}
    drawn = drawn.assign(**{c: drawn[c].map(to_words) for c, to_words in words.items() if c in drawn})
    (x_on, y_on), (x_title, y_title), _ = _axes(drawn, x, y, titles, log)
    drawn["text"] = interval_texts(drawn, y)
    base = alt.Chart(drawn).encode(x=x_on, color=color_of(drawn, by))
    layers = []
    if f"{y}_low" in drawn:
        layers.append(base.mark_area(clip=True).encode(y=_at(f"{y}_low", y_on), y2=f"{y}_high"))
    tips = [alt.Tooltip(f"{by}:N", title=by.capitalize())] if by else []
    tips += [alt.Tooltip(f"{x}:Q", title=_short(x_title), format=".4~g"), alt.Tooltip("text:N", title=_short(y_title))]
    picked = alt.selection_point(name="picked", fields=[by], bind="legend") if by else None
    opacity = alt.condition(picked, alt.value(0.95), alt.value(0.1)) if by else alt.value(0.95)
    points = base.mark_point(size=45).encode(y=y_on, opacity=opacity, tooltip=tips)
    layers += [base.mark_line().encode(y=y_on, opacity=opacity), points.add_params(picked) if by else points]
    ends = f"from {number(drawn[y].min())} to {number(drawn[y].max())}"
    of = f"; a curve for each of {', '.join(dict.fromkeys(map(str, drawn[by])))}" if by else ""
    text = f"{_short(y_title)} against {_short(x_title)}, {ends}{of}."
    return alt.layer(*layers).properties(width=WIDTH, height=HEIGHT, description=text)


def _rows(frame, columns):
    absent = [column for column in columns if column not in frame]
    if absent:
        has = ", ".join(map(str, frame.columns))
        raise BadFrame(f"the frame has no column {absent[0]}, which the chart draws; its columns are {has}")
    simple = [c for c in frame.columns if not frame[c].map(lambda value: isinstance(value, (list, tuple, dict))).any()]
    kept = frame[simple].replace([np.inf, -np.inf], np.nan).dropna(subset=columns).reset_index(drop=True)
    if kept.empty:
        raise BadFrame(f"no row has a value of {' and '.join(columns)}, so there is nothing to draw")
    return kept


def _stacked(frame, group, sort):
    """The rows in the order in which they stand, each with a name of its own, and all names with the headings."""
    order, parts = [], []
    for i, name in enumerate(dict.fromkeys(frame[group]) if group else [None]):
        part = frame[frame[group] == name] if group else frame
        part = part.sort_values("estimate", ascending=False) if sort else part
        parts.append(part.assign(row=[f"{label}{TWIN * i}" for label in part["label"]]))
        order += [f"{HEADING}{name}"] if group else []
        order += list(parts[-1]["row"])
    return pd.concat(parts), order


def _axes(frame, x, y, titles, log) -> tuple:
    """Both axes, on which marks and intervals find room; their titles; their scales."""
    titles = titles or (COLUMNS.get(x, x), COLUMNS.get(y, y))
    scales = [_scale([frame.get(c) for c in (v, f"{v}_low", f"{v}_high")], log, a) for v, a in ((x, "x"), (y, "y"))]
    return tuple(map(_axis, (alt.X, alt.Y), (x, y), titles, scales)), titles, scales


def _short(title: str) -> str:
    return title.partition(" (")[0]


def _scale(columns, log, axis) -> alt.Scale:
    """The scale of an axis, with its ends written out: Vega warns of logarithmic ones that it has to find."""
    values = np.concatenate([np.asarray(c, dtype=float).ravel() for c in columns if c is not None])
    low, high = np.nanmin(values), np.nanmax(values)
    if low > 0 and (axis in log if log is not None else high / low > 4):
        margin = np.exp(0.06 * max(np.log(high / low), 0.2))
        return alt.Scale(type="log", domain=[float(low / margin), float(high * margin)], nice=False)
    margin = 0.06 * ((high - low) or abs(high) or 1.0)
    return alt.Scale(domain=[float(low - margin), float(high + margin)], nice=False, zero=False)


def _axis(channel, column, title, scale):
    """The x or y axis of a column; a long title has several lines."""
    length, count = (WIDTH, 7) if channel is alt.X else (HEIGHT, 6)
    lines = textwrap.wrap(title, int(length / (LETTER + 0.4)))
    return channel(f"{column}:Q", title=lines, scale=scale, axis=_ticks(scale, count))


def _ticks(scale, count) -> alt.Axis:
    """A few round numbers; Vega leaves out most labels of a short logarithmic axis."""
    low, high = scale.domain
    if scale.to_dict().get("type") != "log":
        return alt.Axis(format=",.6~g", tickCount=count)
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    for step in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), np.arange(1, 10, 0.5), np.arange(1, 10, 0.1)):
        values = [float(f"{m * 10.0**d:.3g}") for d in decades for m in step]
        values = [value for value in values if low <= value <= high]
        if len(values) >= min(count, 4):
            break
    values = values[:: max(1, len(values) // 8)]
    return alt.Axis(format=",.6~g" if low > 1e-4 else "~e", values=values)


def _at(column, channel):
    """The same axis for another column."""
    return type(channel)(f"{column}:Q", **{k: v for k, v in channel._kwds.items() if k in ("title", "scale", "axis")})


def color_of(frame, by="domain"):
    """Return the color of marks: that of their domain, or of the values of a column."""
    if by is None:
        return alt.value(DOMAIN_COLORS["natural"])
    if by == "domain":
        present = [name for name in DOMAIN_COLORS if name in set(frame["domain"])]
        scale = alt.Scale(domain=present, range=[DOMAIN_COLORS[name] for name in present])
        return alt.Color("domain:N", title="Domain", scale=scale)
    return alt.Color(f"{by}:N", title=None, sort=list(dict.fromkeys(frame[by])), legend=alt.Legend(columns=2))


def _names(frame, columns, scales, wanted, on) -> list:
    """Names beside a few marks: the outermost first, each only where it covers no mark, interval or other name."""
    ends = [f"{column}{end}" for column in columns for end in ("", "_low", "_high")]
    ends = [frame.get(end, frame[columns[i // 3]]) for i, end in enumerate(ends)]  # without an interval, the mark
    x, left, right = (_pixels(values, scales[0], WIDTH) for values in ends[:3])
    y, bottom, top = (HEIGHT - _pixels(values, scales[1], HEIGHT) for values in ends[3:])
    boxes = (x - 6, y - 6, x + 6, y + 6), (left, y - 1, right, y + 1), (x - 1, top, x + 1, bottom)
    taken, layers = np.concatenate([*map(np.column_stack, boxes)]), []
    if isinstance(wanted, int):
        at = np.column_stack([x, y])
        far = np.abs((at - at.mean(axis=0)) / (at.std(axis=0) + 1e-9)).max(axis=1)
        order, most = np.argsort(-far, kind="stable"), wanted
    else:
        order, most = np.flatnonzero(frame["dataset"].isin(wanted)), len(wanted)
    for i in order:
        long = LETTER * len(frame["set"][i])
        for align, dx, dy in (("left", 7, -9), ("right", -7, -9), ("left", 7, 10), ("right", -7, 10)):
            start, middle = x[i] + (dx if align == "left" else dx - long), y[i] + dy
            box = np.array([start, middle - LINE / 2 + 1, start + long, middle + LINE / 2 - 1])
            covers = (box[:2] < taken[:, 2:]).all(axis=1) & (taken[:, :2] < box[2:]).all(axis=1)
            if len(layers) < most and start > 0 and box[2] < WIDTH and not covers.any():
                taken = np.vstack([taken, box])
                text = alt.Chart(frame.iloc[[i]]).mark_text(align=align, dx=dx, dy=dy, baseline="middle", fontSize=11)
                layers.append(text.encode(x=on[0], y=on[1], text="set:N"))
                break
    return layers


def _pixels(values, scale, length) -> np.ndarray:
    forward = np.log if scale.to_dict().get("type") == "log" else np.asarray
    low, high = (forward(end) for end in scale.domain)
    return (forward(np.asarray(values, dtype=float)) - low) / (high - low) * length
