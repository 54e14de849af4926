"""What the first page and the pages of coverage show: the image sets, verdicts and runs of the published campaign.

Everything is made from records, when a book is assembled; a book without any says so instead. Each part is MyST text.
"""

import base64
import html
import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pandas as pd
from PIL import Image

from intrinsic import images
from intrinsic.campaigns import campaign, records
from intrinsic.inference import audit, statistics
from intrinsic.publishing import charts

PUBLISHED = "params/published.yaml"
COVERAGE = "book/reference/coverage"
PARTS = "book/made"  # text that pages include; no pages themselves
NOTATION = "[Notation and names](../notation.md)"
COST = "params/published.yaml --dry-run"


@dataclass(frozen=True)
class Shown:
    """The published campaign as far as it is stored: parameters, properties of sets, runs; frames may be empty."""

    params: campaign.Params
    properties: pd.DataFrame
    runs: pd.DataFrame
    unreachable: Mapping[str, str] = field(default_factory=dict)  # campaign.run_label -> why, as published


def shown() -> Shown:
    """Records of the published campaign, those in the working store first."""
    p = campaign.read(images.REPOSITORY / PUBLISHED)
    properties = campaign.properties_frame(p)
    stored = len(campaign.missing(p)) < len(campaign.cells(p))
    runs = campaign.runs_frame(p) if stored else pd.DataFrame()
    return Shown(p, properties, runs, records.read_unreachable(campaign.published_file(p)))


# ---------------------------------------------------------------------------------------- the first page


def parts(found: Shown, pages: Mapping[str, str], around: Callable) -> dict[str, bytes]:
    """Files below `book/made` that the first page includes, by name.

    pages   {image set: its page, without suffix}, such as book/image_sets/digits; a click in the plane leads there
    around  specification of a chart -> HTML before and after its picture, as book.chart_html
    """
    files = {f"{PARTS}/verdicts.md": verdicts(found).encode(), f"{PARTS}/table.md": plane_table(found, pages).encode()}
    text, picture = plane(found, pages, around)
    files[f"{PARTS}/plane.md"] = text.encode()
    if picture:
        files[f"{PARTS}/plane.png"] = picture
    return files


def plane(found: Shown, pages: Mapping[str, str], around: Callable) -> tuple[str, bytes | None]:
    """(text, picture) of the plane of d_data and K_F."""
    rows = found.properties
    if rows.empty:
        return (
            "*No image set of the published campaign is in the records yet:* `intrinsic run params/published.yaml` "
            "measures them.\n"
        ), None
    own = [pages.get(name) for name in rows["dataset"]]
    rows = rows.assign(page=[f"{page.removeprefix('book/')}.html" if page else None for page in own])
    bundle, _ = charts.render(charts.plane(rows).to_dict())
    spec = bundle[charts.MIME_TYPE]
    before, after = around(spec)
    p = found.params
    caption = (
        f"{len(rows)} image sets, all at {p.size} × {p.size} pixels, {_channels(p.channels)}, with M = {p.per_class} "
        f"images a class, mean of {p.draws} draws; lines are 95 % intervals. "
        "Right: images vary in more ways. Up: images that look alike "
        "carry different labels. A click leads to the page of a set."
    )
    lines = [
        "```{raw} html",
        f'<figure class="made">{before}',
        "```",
        "",
        "```{image} made/plane.png",
        f":alt: {spec['description']}",
        ":class: no-scaled-link",
        "```",
        "",
        "```{raw} html",
        f"{after}<figcaption><p>{html.escape(caption)}</p></figcaption></figure>",
        "```",
        "",
    ]
    return "\n".join(lines), _small(base64.b64decode(bundle["image/png"]))


def plane_table(found: Shown, pages: Mapping[str, str]) -> str:
    """The points of the plane as a table that folds, sorted by K_F; names are links to the pages of sets."""
    rows = found.properties
    if rows.empty:
        return "No image set is in the records yet.\n"
    own = [pages.get(name) for name in rows["dataset"]]
    lines = [
        "| image set | domain | $d_{\\text{data}}$ | $K_F$ | images |",
        "|-|-|-|-|-|",
        *(
            f"| {_linked(row, page)} | {row['domain']} | {_value(row, 'd_data', '.1f')} | {_value(row, 'k_f', '.3f')} "
            f"| {int(row['n']):,} |"
            for (_, row), page in sorted(zip(rows.iterrows(), own, strict=True), key=lambda pair: pair[0][1]["k_f"])
        ),
    ]
    return "\n".join([":::{dropdown} The figure above as a table", "", *lines, ":::", ""])


def _small(png: bytes) -> bytes:
    """The same picture in a palette of 64 colors."""
    out = io.BytesIO()
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    picture.quantize(64, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    return out.getvalue()


def verdicts(found: Shown) -> str:
    """The table of verdicts over the published runs: claim and test, verdict, effect, p, sets.

    Below it stands what each verdict does not say (`Verdict.caveats`), and what becomes of it under the choices that
    the audit corrects (`audit.robustness`).
    """
    tests = statistics.primary_tests()
    runs, planned = len(found.runs), within_reach(found)
    if found.runs.empty:
        rows = {name: None for name in tests}
    else:
        claims = statistics.claims(found.runs, fitted_only=found.params.fitted_only)
        rows = {row["name"]: row for row in statistics.verdict_table(claims).to_dict("records")}
        choices = audit.published_choices(found.runs, k=found.params.k, fitted_only=found.params.fitted_only)
        robust = audit.robustness(choices)
    lines = [
        "| | claim and test, over image sets | verdict | effect, 95 % interval | $p$ after Holm; smallest attainable "
        "| families of sets |",
        "|-|-|-|-|-|-|",
    ]
    beside = []
    for i, (name, row) in enumerate(rows.items(), start=1):
        stated = tests[name].stated()
        what = f"[{stated['claim']}](claims/{CLAIM_PAGES[name]}.ipynb): {_plain(stated['quantity'])}"
        if row is None:
            cells = ["**no run is published yet**", "none", "none", "0"]
        else:
            verdict = f"**{_plain(row['verdict'])}**{' so far' if runs < planned else ''}"
            if more := (*claims[name].caveats, *([robust[name]] if name in robust else [])):
                beside.append(f"- Claim {i}: {'; '.join(map(_plain, more))}.")
            p = f"{_number(row['p_holm'], 2)}; {_number(row['smallest_p'], 1)}"
            cells = [verdict, _effect(row["effect"], row["low"], row["high"]), p, str(int(row["n_sets"]))]
        lines.append(f"| {i} | {what} | {' | '.join(cells)} |")
    interim = "An interim look, whose $p$ is not adjusted for the looks to come: " if runs < planned else ""
    amended = [str(i) for i, test in enumerate(tests.values(), start=1) if test.amended]
    which = f"{'claims' if len(amended) > 1 else 'claim'} {' and '.join(amended)}"
    since = f"; what of {which} was amended since, and when, its page says" if amended else ""
    lines += [
        "",
        *(["What goes with each verdict:", "", *beside, ""] if beside else []),
        f"{interim or 'From '}{runs:,} of {planned:,} planned runs within reach of the published campaign "
        "([which](reference/coverage.md)). Sets made of the same pictures are one family and count once. "
        f"The tests stood in `params/claims.yaml` before the first of these runs{since}. The warm-up of VGGs became "
        "part of the protocol after one of them had not fitted ([what changed](methods/training.ipynb)). "
        "The smallest attainable $p$, before Holm's adjustment, is the least that a test over so many families can "
        "give, of all orders or signs, or of 99,999 drawn ones: where it is above 0.05, no data could have supported "
        "the claim. "
        "Published choices are those of the released code that records can undo "
        "([the verdicts under each](beyond/audit.ipynb)).",
        "",
    ]
    return "\n".join(lines)


CLAIM_PAGES = {
    "data_dimension": "data_dimension_scaling",
    "sharpness_generalization": "label_sharpness_generalization",
    "sharpness_robustness": "label_sharpness_robustness",
    "representation_bound": "representation_dimension_bound",
}


# -------------------------------------------------------------------------------------------- coverage


def coverage_page(found: Shown) -> str:
    """The page that says which runs of the published campaign are stored, which not, and what a set cannot reach."""
    p, runs = found.params, found.runs
    lines = [
        "# Which runs are there",
        "",
        f"The published campaign, `{PUBLISHED}`, is a grid of image sets, networks, sizes $N$ and seeds. This page is",
        f"made from the records themselves. Symbols are those of {NOTATION}.",
        "",
        "## By image set",
        "",
        "| image set | domain | runs stored | fitted | attacked | represented |",
        "|-|-|-|-|-|-|",
    ]
    reach = ["| image set | sizes $N$ stored | to come | out of reach |", "|-|-|-|-|"]
    for name, cells in _by_set(p).items():
        mine = _of(runs, name)
        sizes = sorted({n for _, n, _ in cells})
        have = sorted(set(mine["n_train"])) if len(mine) else []
        beyond = [n for n in sizes if not any(_reached(found, name, *cell) for cell in cells if cell[1] == n)]
        left = [n for n in sizes if n not in have and n not in beyond]
        fitted = int(mine["fitted"].sum()) if len(mine) else 0
        counts = [f"{len(mine)} of {len(cells)}", fitted, _known(mine, "loss_penalty"), _known(mine, "d_repr")]
        row = _of(found.properties, name)
        domain = row["domain"].iloc[0] if len(row) else _domain(name)
        link = f"[{_plain(name)}](sets/{name}.md)" if len(row) else f"{_plain(name)}, properties missing"
        lines.append(f"| {link} | {domain} | {' | '.join(map(str, counts))} |")
        reach.append(f"| {link} | {_list(have)} | {_list(left)} | {_list(beyond)} |")
    lines += ["", "A run that did not fit is stored, and not counted as fitted.", "", "## By size", "", *reach]
    lines += [
        "",
        "*Out of reach* are sizes $N$ with more images of a class than the set has beside its test images. Groups",
        "of images, such as patients, are not divided between training and test.",
        *_why(found),
        "",
        "## By part of the campaign",
        "",
        "In the order in which they are computed: a campaign that is cut short is cut at its end.",
        "",
        "| networks | $N$ | seeds | image sets | stored | of planned |",
        "|-|-|-|-|-|-|",
    ]
    seen: set[tuple] = set()
    for block in p.runs:
        one = p.model_copy(update={"runs": [block]})
        cells = [cell for cell in campaign.cells(one) if cell not in seen]
        seen.update(cells)
        done = sum(_stored(runs, *cell) for cell in cells)
        sets = f"{len(block.datasets)}" if block.datasets is not None else f"all {len(p.datasets)}"
        grid = f"{', '.join(block.models)} | {_list(block.n_train)} | {_list(block.seeds)}"
        lines.append(f"| {grid} | {sets} | {done} | {len(cells)} |")
    lines += [
        "",
        "## How to make the others",
        "",
        "```bash",
        f"intrinsic run {COST}",
        f"intrinsic run {PUBLISHED}",
        f"intrinsic publish {PUBLISHED}",
        "```",
        "",
        "The first prints what is missing and how long it would take here, and names the image sets that are not here",
        "and in no count (`intrinsic datasets NAME` says how to get one), the second computes it and can be stopped at",
        "any time, the third adds the records to the book.",
        "",
    ]
    return "\n".join(lines)


def set_pages(found: Shown) -> dict[str, str]:
    """A page for each image set in the records, by name: what was measured, and how to get the set."""
    return {
        f"{COVERAGE.rpartition('/')[0]}/sets/{row['dataset']}": _set_page(found, row)
        for _, row in found.properties.iterrows()
    }


def _set_page(found: Shown, row) -> str:
    p, name = found.params, row["dataset"]
    entry = images.catalogue().get(name)
    title = entry.title if entry else name
    mine = _of(found.runs, name)
    setting = f"at {p.size} × {p.size} pixels, {_channels(p.channels)}"
    measured = [
        (
            "$d_{\\text{data}}$, maximum likelihood",
            _value(row, "d_data", ".2f"),
            f"M = {p.per_class} a class, k = {p.k}",
        ),
        ("$d_{\\text{data}}$, TwoNN", _value(row, "d_data_twonn", ".2f"), f"M = {p.per_class} a class"),
        ("$K_F$, per unit of L2", _value(row, "k_f", ".4f"), f"M = {p.per_class} a class, {p.draws} draws"),
        ("$K_F$ over the same-label control", _value(row, "k_f_ratio", ".3f"), "all images"),
        (
            "growth exponent of $K_F$ in M",
            _value(row, "growth_exponent", ".3f"),
            "2/d is what overlapping classes give",
        ),
        ("images, groups", f"{int(row['n']):,}, {_count(row['n_groups'])}", "after exact copies are dropped"),
        ("exact copies; with other labels", f"{_count(row['n_copies'])}; {_count(row['n_conflicting'])}", ""),
    ]
    lines = [
        f"# {_plain(title)}",
        "",
        f"`{name}`, {row['domain']}; measured {setting}. Symbols are those of [Notation and names](../../notation.md).",
        "",
        "| property | value (95 % interval) | from |",
        "|-|-|-|",
        *(f"| {what} | {value} | {of} |" for what, value, of in measured),
        "",
    ]
    if len(mine):
        by = mine.groupby(["model", "n_train"], sort=False)
        lines += [
            "## Runs",
            "",
            "Means over the runs, and the least and the most of them where there are several seeds.",
            "",
            "| network | $N$ | runs | fitted | test accuracy | test loss (nats) |",
            "|-|-|-|-|-|-|",
        ]
        for (model, n), group in by:
            values = f"{_over_runs(group['test_accuracy'])} | {_over_runs(group['test_loss_nats'])}"
            lines.append(f"| {model} | {n:,} | {len(group)} | {int(group['fitted'].sum())} | {values} |")
        lines.append("")
    else:
        lines += ["No training run of this set is published yet; see [which runs are there](../coverage.md).", ""]
    if entry:
        lines += ["## What it is", "", _prose(entry.about), "", f"**Beware.** {_prose(entry.beware)}", ""]
        lines += [f"**Source.** {_prose(entry.source)}", "", f"**Licence.** {_prose(entry.licence)}", ""]
        if entry.citation:
            lines += [f"**Cite.** {_prose(entry.citation)}", ""]
    lines += [
        "## With the images at hand",
        "",
        "This page shows no picture. The sharpest pairs, and all that speaks against trusting the set, are",
        "drawn from your own copy:",
        "",
        "```bash",
        f"intrinsic datasets {name}",
        f"intrinsic report {name} --params {PUBLISHED}",
        "```",
        "",
    ]
    return "\n".join(lines)


# ---------------------------------------------------------------------------------------------- small parts


def _by_set(p: campaign.Params) -> dict[str, list[tuple]]:
    """{image set: its planned (model, N, seed)}, in the order of the parameter file."""
    found: dict[str, list[tuple]] = {source: [] for source in p.datasets}
    for source, model, n_train, seed in campaign.cells(p):
        found.setdefault(source, []).append((model, n_train, seed))
    return found


def _of(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    return frame[frame["dataset"] == name] if len(frame) else frame


def _known(frame: pd.DataFrame, column: str) -> int:
    """Rows in which some column that begins so has a value."""
    columns = [c for c in frame.columns if c.startswith(column)]
    return int(frame[columns].notna().any(axis=1).sum()) if columns and len(frame) else 0


def _stored(runs: pd.DataFrame, source: str, model: str, n_train: int, seed: int) -> bool:
    if runs.empty:
        return False
    same = (
        (runs["dataset"] == source) & (runs["model"] == model) & (runs["n_train"] == n_train) & (runs["seed"] == seed)
    )
    return bool(same.any())


def within_reach(found: Shown) -> int:
    """Planned runs without those whose size N is more than their image set has."""
    return sum(_reached(found, name, *cell) for name, cells in _by_set(found.params).items() for cell in cells)


def _reached(found: Shown, name: str, model: str, n_train: int, seed: int) -> bool:
    """Whether the set has the images of a run: as publishing found, and not more of them than the set has in all."""
    row, mine = _of(found.properties, name), _of(found.runs, name)
    test = int(mine["n_test"].min()) if len(mine) else 0
    few = len(row) > 0 and n_train + test > row["n"].iloc[0]
    return not few and campaign.run_label(model, name, n_train, seed) not in found.unreachable


def _why(found: Shown) -> list[str]:
    """Why planned runs are out of reach, each reason once, as a list in MyST."""
    planned = set(campaign.run_labels(found.params))
    whys = dict.fromkeys(why for label, why in found.unreachable.items() if label in planned)
    return ["", *(f"- {_plain(why)}" for why in whys)]


def _domain(name: str) -> str:
    entry = images.catalogue().get(name)
    return entry.domain if entry else "unknown"


def _linked(row, page: str | None) -> str:
    name = _plain(row["dataset"])
    return f"[{name}]({page.removeprefix('book/')}.md)" if page else name


def _value(row, column: str, form: str) -> str:
    value = row.get(column)
    if value is None or not math.isfinite(value):
        return "not available"
    low, high = row.get(f"{column}_low"), row.get(f"{column}_high")
    bounds = low is not None and high is not None and math.isfinite(low) and math.isfinite(high)
    return f"{value:{form}}" + (f" ({low:{form}} to {high:{form}})" if bounds else "")


def _effect(value: float, low: float, high: float) -> str:
    if not math.isfinite(value):
        return "not available"
    if not (math.isfinite(low) and math.isfinite(high)):
        return _number(value)
    decimals = max(2, 1 - math.floor(math.log10(high - low))) if high > low else 2  # two digits of the width
    value, low, high = (f"{number:.{decimals}f}".replace("-", "−") for number in (value, low, high))
    return f"{value} [{low},\N{NO-BREAK SPACE}{high}]"


def _over_runs(values: pd.Series) -> str:
    ends = f" ({values.min():.3f} to {values.max():.3f})" if values.notna().sum() > 1 else ""
    return f"{values.mean():.3f}{ends}"


def _number(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}g}".replace("-", "−") if math.isfinite(value) else "none"


def _count(value) -> str:
    return f"{int(value):,}" if value is not None and math.isfinite(value) else "unknown"


def _list(values) -> str:
    return ", ".join(f"{value:,}" for value in values) or "none"


def _channels(n: int) -> str:
    return "grey" if n == 1 else f"{n} channels"


def _plain(text) -> str:
    for sign in "\\|_*[]<>$#`":
        text = str(text).replace(sign, f"\\{sign}")
    return text


def _prose(text: str) -> str:
    return " ".join(_plain(text).split())
