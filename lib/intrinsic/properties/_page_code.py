"""What is said about an image set: d_data, K_F, its soundness, the sharpest pairs, warnings.

One place for `intrinsic measure`, the properties records of a campaign and the report pages.
"""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from intrinsic import images as image_sets
from intrinsic.images import ImageSet, cache
from intrinsic.properties import dimension, neighbors, overlap, sharpness, soundness, theory

HELD_BYTES = 2**31  # of pixels of sets that a process keeps, each as loaded and as matched
COMPONENTS_VERSION = 1  # raise it when near_duplicate_components finds other components of the same images
LOT = ("by_lot", "by_lot_overlapping")
LEAST = 4  # distinct images of which anything is measured


class OneClass(ValueError):
    """All labels are equal, so they never change."""


@dataclass(frozen=True)
class Matched:
    """An image set as a campaign uses it: matched, without same-label copies, with split groups.

    loaded   the same before copies were dropped, which soundness.report asks for
    """

    images: ImageSet
    groups: np.ndarray
    n_copies: int
    n_conflicting: int
    hash: str
    loaded: ImageSet | None = None


_held: dict[tuple, Matched] = {}  # the latest last


def matched(source: str, size: int | None = None, channels: int | None = None, pixel_range: str = "stored") -> Matched:
    """Load, match, drop exact copies of the same label, and find the groups that splits respect.

    Where patients or volumes are unknown, connected components of near-duplicates act as groups.
    A process keeps the sets that it used last, up to HELD_BYTES, so that runs share them; groups that were found are
    kept beside decoded images, by the content of the set.
    """
    key = (source, size, channels, pixel_range)
    data = _held.pop(key, None) or _matched(*key)
    _held[key] = data
    while len(_held) > 1 and sum(2 * one.images.images.nbytes for one in _held.values()) > HELD_BYTES:
        del _held[next(iter(_held))]
    return data


def _matched(source, size, channels, pixel_range) -> Matched:
    loaded = image_sets.load(source, size=size, channels=channels, pixel_range=pixel_range)
    found = loaded.duplicates()
    kept = loaded.drop_duplicates()
    groups = kept.group if kept.group is not None else _components(kept)
    return Matched(kept, groups, found.n_copies, found.n_conflicting, kept.content_hash(), loaded)


def _components(images: ImageSet) -> np.ndarray:
    """neighbors.near_duplicate_components, kept by the content of the images."""
    name = cache.key(["near-duplicate components", str(COMPONENTS_VERSION), images.content_hash()])
    kept = cache.load(name) if cache.limit() else None
    if kept is not None and kept[0].nbytes == 8 * len(images):
        return np.array(kept[0]).view("<i8")
    groups = neighbors.near_duplicate_components(images)
    cache.store(name, groups.astype("<i8").view(np.uint8), {})
    return groups


def without_conflicts(data: Matched) -> ImageSet:
    """The images that have no exact copy with another label: those with a finite K_F."""
    return data.images.drop_duplicates(conflicting=True) if data.n_conflicting else data.images


def _at_least_two_classes(images: ImageSet) -> list[int]:
    counts = {name: n for name, n in images.counts().items() if n}
    if len(counts) < 2:
        raise OneClass(
            f"{images.name} has one class ({next(iter(counts))}), so no label ever changes and there is nothing "
            "to measure; give at least two classes, one folder each"
        )
    return list(counts.values())


def properties(data: Matched, *, per_class: int, draws: int, k: int, seed: int = 0):
    """(metrics, reasons, series) of an image set: d_data and K_F at M a class, and from all images.

    d_data and K_F that are compared are means over `draws` seeded balanced draws of M images a class,
    since both change with M; the values from all images stand beside. Infinite label sharpness (exact
    copies with different labels) is null, beside the finite value without those images. A value that
    cannot be had is None with its reason. Of all images too: K_F at quantiles (k_f_q01 ... k_f_q50), the same-label
    control and the ratio to it, the growth exponent, and the upper limit of 1 / gap where there is one. Beside d_data
    and K_F stands `least_bound`, the mean over the same draws of the smallest value that Theorem 1 can promise.
    """
    clean = without_conflicts(data)
    least = min(_at_least_two_classes(clean))
    group = clean.group
    near = neighbors.neighbors(clean, k, reserve=dimension.reserve(k))
    values = {
        "d_mle_all": dimension.mle_dimension(near, k, group=group),
        "d_twonn_all": dimension.twonn_dimension(near, group=group),
        "k_f_all": sharpness.label_sharpness(near),
    }
    reasons = {}
    metrics = {
        "n": len(data.images),
        "n_classes": data.images.n_classes,
        "n_copies": data.n_copies,
        "n_conflicting": data.n_conflicting,
        "n_groups": len(np.unique(data.groups)),
        "k_f_without_conflicts": float(values["k_f_all"]),
    }
    if least >= per_class:
        values["d_mle"], values["d_twonn"] = dimension.mean_dimensions(
            clean, per_class=per_class, draws=draws, k=k, seed=seed
        )
        values["k_f"] = sharpness.mean_sharpness(near, per_class=per_class, draws=draws, seed=seed)
        metrics["least_bound"] = theory.least_bounds(near, per_class, draws, seed)["mean"]
    for key, value in values.items():
        metrics |= {key: float(value), f"{key}_low": value.low, f"{key}_high": value.high}
    if least < per_class:
        why = f"the smallest class has {least} images, fewer than M = {per_class}"
        for key in ("d_mle", "d_twonn", "k_f"):
            for name in (key, f"{key}_low", f"{key}_high"):
                metrics[name], reasons[name] = None, why
        metrics["least_bound"], reasons["least_bound"] = None, why
    if data.n_conflicting:
        for name in ("k_f_all", "k_f_all_low", "k_f_all_high"):
            metrics[name] = None
            reasons[name] = (
                f"infinite: {data.n_conflicting} images have an exact copy with another label; "
                "k_f_without_conflicts leaves them out"
            )
    apart, why = _other_groups(data, clean, k)
    if why or apart is not None:
        metrics["d_mle_other_groups"] = apart if apart is None else float(apart)
        reasons |= {"d_mle_other_groups": why} if why else {}
    more, why = _more_sharpness(near, values["d_mle_all"], seed)
    metrics |= more
    reasons |= why
    grown = growth(clean, near, draws=draws, seed=seed)
    series = {"growth_per_class": [m for m, _ in grown], "growth_k_f": [v for _, v in grown]}
    return metrics, reasons, series


def _more_sharpness(near, d, seed: int) -> tuple[dict, dict]:
    """(metrics, reasons) of what is said of sharpness beside its value."""
    found = sharpness_facts(near, d, seed=seed)
    values = {f"k_f_q{round(100 * one.quantile):02d}": one for one in found["quantiles"]}
    values |= {"k_f_control": found["control"], "k_f_ratio": found["ratio"], "growth_exponent": found["growth"]}
    metrics, reasons = {}, {}
    for key, value in values.items():
        for name, number in ((key, value), (f"{key}_low", value.low), (f"{key}_high", value.high)):
            metrics[name] = float(number) if math.isfinite(number) else None
            if metrics[name] is None:
                reasons[name] = f"not to be had: {value.method}"
    limit = found["limit"]
    metrics["k_f_limit"] = limit.high if limit.identified else None
    if not limit.identified:
        reasons["k_f_limit"] = limit.method
    return metrics, reasons


def sharpness_facts(near, d, *, seed: int = 0) -> dict:
    """What is said of label sharpness beside its value, from one pass and all images of it.

    near   Neighbors with labels;  d   Estimate of their dimension
    quantiles (a list), control and limit are Sharpness, ratio and growth Estimates (growth NaN where there are too few
    images), kind is the text of sharpness.growth_kind.
    """
    control = sharpness.same_label_control(near, seed=seed)
    try:
        grown = sharpness.growth_exponent(near, seed=seed)
    except neighbors.BadPoints as error:
        grown = dimension.Estimate(math.nan, method=str(error))
    return {
        "quantiles": sharpness.quantile_sharpness(near, seed=seed),
        "control": control,
        "ratio": control.ratio,
        "growth": grown,
        "kind": sharpness.growth_kind(grown, d),
        "limit": sharpness.sharpness_limit(near, dimension=d),
    }


def sharpness_rows(found: dict, d, k_f, at_m, kept: str = "") -> list[dict]:
    """The table of sharpness in plain words: what, value, low, high, meaning.

    found   of sharpness_facts;  k_f, at_m   label_sharpness and mean_sharpness;  kept   a note on the images used
    """

    def row(what, value, meaning, low=None, high=None):
        low, high = (value.low, value.high) if low is None else (low, high)
        return {"what": what, "value": float(value), "low": low, "high": high, "meaning": meaning}

    limit = found["limit"]
    meaning = "upper limit of 1 / gap, 95 %" if limit.identified else limit.method
    return [
        row("K_F, all pairs", k_f, f"the sharpest pair{kept}; 1 / gap of the classes is at least this"),
        row(f"K_F at M = {at_m.per_class}", at_m, f"mean over {at_m.draws} balanced draws; what sets are compared by"),
        *(
            row(
                f"K_F at the {q.quantile:.0%} quantile",
                q,
                f"{q.quantile:.0%} of the images have one of another label within {q.distance:.3g}",
            )
            for q in found["quantiles"]
        ),
        row("same-label control", found["control"], "1 / smallest distance between two images of one label"),
        row("K_F / control", found["ratio"], "near 1: labels keep no distance; far below 1: they do"),
        row("growth exponent", found["growth"], f"of K_F with M: {found['kind']} (2/d = {2 / d:.3g})"),
        row("limit of 1 / gap", limit.high if limit.identified else math.nan, meaning, math.nan, math.nan),
    ]


def _other_groups(data: Matched, clean: ImageSet, k: int):
    """(MLE without neighbors of the same group, reason why there is none); (None, "") where no group has two."""
    groups = clean.group if clean.group is not None else data.groups
    if len(groups) != len(clean) or len(np.unique(groups)) == len(groups):
        return None, ""
    try:
        near = neighbors.neighbors(clean, k, group=groups, exclude_group=True)
        return dimension.mle_dimension(near, k), ""
    except ValueError as error:
        return None, str(error)


def dimensions(data: Matched, near, k: int) -> dict:
    """The estimates of a report, name -> Estimate: MLE, TwoNN, and MLE without neighbors of the same group.

    near   the Neighbors of `without_conflicts(data)`, at least k of them
    """
    clean = without_conflicts(data)
    found = {
        f"MLE, k = {k}": dimension.mle_dimension(near, k, group=clean.group),
        "TwoNN": dimension.twonn_dimension(near, group=clean.group),
    }
    apart, _ = _other_groups(data, clean, k)
    return found if apart is None else {**found, f"MLE, k = {k}, other groups only": apart}


def growth(images: ImageSet, near=None, *, draws: int = 25, seed: int = 0) -> list[tuple[int, float]]:
    """(M, mean K_F over balanced draws of M images a class) for M that double, as far as the classes reach.

    near   the Neighbors of the images, where they are known: spares a pass
    """
    least = min(_at_least_two_classes(images))
    sizes = [m for m in (16, 31, 62, 125, 250, 500, 1000, 2000) if m <= least]
    if not sizes:
        return []
    found = sharpness.growth(images if near is None else near, per_class=sizes, draws=draws, seed=seed)
    return [(int(m), float(v)) for m, v in zip(*found, strict=True)]


def growth_law(images: ImageSet, near, *, draws: int = 50, seed: int = 0):
    """(overlap.GrowthLaw of the images, ""), or (None, the reason why there is none).

    near   the Neighbors of the images. Families of near-duplicates act as groups where patients are unknown
    """
    group = images.group if images.group is not None else _components(images)
    try:
        return overlap.growth_law(near, draws=draws, group=group, seed=seed), ""
    except neighbors.BadPoints as error:
        return None, str(error)


# ------------------------------------------------------------------------------ `intrinsic measure`


def _named(images: ImageSet, pair) -> list[dict]:
    def one(i):
        facts = {"index": int(i), "label": images.classes[int(images.labels[i])]}
        if images.paths is not None:
            facts["path"] = str(images.paths[i])
        return facts

    return [one(i) for i in pair]


def _interval(value) -> dict:
    def number(v):
        return float(v) if v is not None and math.isfinite(v) else None

    return {"value": number(value), "low": number(value.low), "high": number(value.high)}


def _sharpness_json(found: dict, d, loaded: ImageSet, original: np.ndarray) -> dict:
    control, limit = found["control"], found["limit"]
    pair = None if control.pair is None else _named(loaded, [original[i] for i in control.pair])
    growth = {**_interval(found["growth"]), "two_over_d": 2 / float(d), "kind": found["kind"]}
    if growth["value"] is None:
        growth["reason"] = found["growth"].method
    if hasattr(found["growth"], "per_class"):
        growth["per_class"] = [int(m) for m in found["growth"].per_class]
    return {
        "quantiles": [{"quantile": q.quantile, "distance": q.distance, **_interval(q)} for q in found["quantiles"]],
        "same_label_control": {**_interval(control), "pair": pair, "ratio": _interval(found["ratio"])},
        "growth_exponent": growth,
        "limit": {
            "value": limit.high if limit.identified else None,
            "identified": bool(limit.identified),
            "reason": limit.reason,
        },
    }


def _law_json(law, why: str) -> dict:
    if law is None:
        return {"sentence": None, "reason": why}
    share = [float(v) if math.isfinite(v) else None for v in law.share]
    return {
        "sentence": law.sentence,
        "kind": law.kind,
        "exponent": _interval(law.exponent),
        "overlapping": _interval(law.overlapping),
        "difference": _interval(law.difference),
        "dimension": _interval(law.dimension),
        "per_class": [int(m) for m in law.per_class],
        "k_f": [float(v) for v in law.k_f],
        "share_across": share,
        "gap_not_excluded": law.gap if math.isfinite(law.gap) else None,
    }


def _of_grades(near, loaded: ImageSet, original: np.ndarray) -> dict | None:
    """Label sharpness where labels are grades and their difference counts; None for classes."""
    if not loaded.ordered:
        return None
    found = sharpness.label_sharpness(near, labels="ordered")
    return {**_interval(found), "pair": _named(loaded, [original[i] for i in found.pair])}


def _class_pairs(near, clean: ImageSet, most: int = 20) -> dict | None:
    """The matrix of class pairs where there are 3 to `most` classes."""
    if not 2 < len(np.unique(clean.labels)) <= most:
        return None
    found = sharpness.class_pair_sharpness(near)
    return {
        "classes": [clean.classes[int(c)] for c in found.classes],
        "sharpness": [[float(v) if math.isfinite(v) else None for v in row] for row in found.sharpness],
    }


def measure(
    source,
    *,
    size=None,
    channels=None,
    k=20,
    per_class=250,
    pixel_range="stored",
    progress=False,
    flagged=None,
) -> dict:
    """What `intrinsic measure` prints, as one dictionary of plain numbers, texts and lists.

    source     a catalogue name, a path or an images.Entry; the rest as in images.load
    flagged    a CSV file to write the flagged files and pairs to (soundness.write_csv)
    Indices of images count from 0 in the order of the set; paths stand beside where there are files.
    """
    if flagged is not None:
        flagged = soundness.replaceable(flagged)
    loaded = image_sets.load(
        source,
        size=size,
        channels=channels,
        pixel_range=pixel_range,
        progress=progress,
    )
    _at_least_two_classes(loaded)
    found = loaded.duplicates()
    original = loaded.distinct(conflicting=True, found=found)
    if len(original) < LEAST or len(np.unique(loaded.labels[original])) < 2:
        left = "none is" if not len(original) else f"{len(original)} of one class are"
        why = f"{found.n_conflicting} of them have an exact copy with another label, and without these {left} left"
        if len(np.unique(loaded.labels[original])) >= 2 or not found.n_conflicting:
            why = f"only {len(original)} of them are distinct, and at least {LEAST} are needed"
        raise image_sets.TooFewImages(
            f"{loaded.name} has {len(loaded)} images; {why}: look for wrong labels and copies"
        )
    clean = loaded if len(original) == len(loaded) else loaded[original]
    warnings = []
    least = min(_at_least_two_classes(clean))
    if max(n for n in clean.counts().values()) == 1:
        raise image_sets.TooFewImages(
            f"each of the {clean.n_classes:,} classes of {loaded.name} has one image, so a label says nothing of other "
            "images: is it the label that was meant?"
        )
    k_used = min(k, len(clean) - 1)
    if k_used < k:
        warnings.append(f"{len(clean)} distinct images are too few for k = {k}: k is {k_used}")
    near = neighbors.neighbors(clean, k_used, reserve=dimension.reserve(k_used))
    mle = dimension.mle_dimension(near, k_used, group=clean.group)
    twonn = dimension.twonn_dimension(near, group=clean.group)
    sharp = sharpness.label_sharpness(near)
    m = min(per_class, least)
    if m < per_class:
        warnings.append(f"the smallest class has {least} images, so K_F at M is given at M = {m}, not {per_class}")
    at_m = sharpness.mean_sharpness(near, per_class=m)
    sound = soundness.report(loaded, near)
    if flagged is not None:
        soundness.write_csv(sound.flagged, flagged)
    value = _interval(sharp)
    pair = _named(loaded, [original[i] for i in sharp.pair])
    conflicts = [_named(loaded, group) for group in found.conflicting[:5]]
    label_sharpness = {**value, "pair": pair, "distance": float(sharp.distance)}
    if found.n_conflicting:
        label_sharpness |= {
            "value": None,
            "low": None,
            "high": None,
            "reason": "infinite: exact copies with different labels",
            "pair": conflicts[0][:2],
            "distance": 0.0,
            "value_without_conflicts": value["value"],
            "pair_without_conflicts": pair,
        }
    label_sharpness["at_m"] = {"per_class": m, **_interval(at_m)}
    label_sharpness |= _sharpness_json(sharpness_facts(near, mle), mle, loaded, original)
    label_sharpness["growth_law"] = _law_json(*growth_law(clean, near))
    label_sharpness["class_pairs"] = _class_pairs(near, clean)
    label_sharpness["ordered"] = _of_grades(near, loaded, original)
    label_sharpness["unit"] = "per unit of L2 distance, pixels in [0, 1]"
    return {
        "name": loaded.name,
        "n": len(loaded),
        "shape": [int(v) for v in loaded.images.shape[1:]],
        "classes": {name: int(n) for name, n in loaded.counts().items()},
        "groups": None if loaded.group is None else len(np.unique(loaded.group)),
        "d_data": {"mle": {**_interval(mle), "k": k_used}, "twonn": _interval(twonn)},
        "label_sharpness": label_sharpness,
        "sharpest_pairs": [
            {
                "images": _named(loaded, [original[i], original[j]]),
                "distance": float(d),
                "sharpness": float(s),
            }
            for i, j, d, s in sharpness.sharpest_pairs(near, n=5)
        ],
        "duplicates": {
            "copies": int(found.n_copies),
            "conflicting": int(found.n_conflicting),
            "conflicting_examples": conflicts,
        },
        "soundness": sound.facts(),
        "unreadable": [list(pair) for pair in loaded.unreadable],
        "warnings": sound.warnings + warnings,
    }


# -------------------------------------------------------------------------------- the report's pages


def describe(data: Matched) -> str:
    """The set in words, as Markdown: what it is, what it is not, where it comes from."""
    images = data.images
    height, width = images.size
    lines = [
        f"**{plain(images.name)}**: {len(images):,} images of {height} x {width} pixels, "
        f"{'grey' if images.channels == 1 else 'color'}, {images.n_classes} classes; domain: {images.domain}."
    ]
    for title, text in (
        ("What it is", images.about),
        ("Beware", images.beware),
        ("Source", images.source),
        ("Licence", images.licence),
    ):
        if text:
            lines.append(f"*{title}.* {plain(text)}")
    return "\n\n".join(lines)


def bullets(sentences: list[str], none: str = "") -> str:
    """Sentences as a Markdown list, each as plain text; `none` where there are none."""
    return "\n".join(f"- {plain(one)}" for one in sentences) or none


def left_out(pairs: Sequence[tuple[str, str]]) -> str:
    """Image sets that a comparison leaves out, (name, reason): a sentence, and the reasons in a block that unfolds."""
    names: dict[str, list[str]] = {}
    for name, why in pairs:
        names.setdefault(why, []).append(name)
    if not names:
        return "*No set in the records is left out.*"
    n = len({name for name, _ in pairs})
    sets = "1 image set of the records is" if n == 1 else f"{n} image sets of the records are"
    said = f"{sets} left out, measured at another setting."
    reasons = bullets([f"{why}: {', '.join(own)}" for why, own in names.items()])
    return f"{said}\n\n<details><summary>Which, and at which setting</summary>\n\n{reasons}\n\n</details>"


def plain(text: str) -> str:
    """Text as Markdown that shows it as it stands: names of folders and classes are no HTML, links or formulas.

    White space becomes single spaces. Addresses of the web keep their signs, so that they still work.
    """
    parts = re.split(r"(https?://[\w./~%?=+:#-]+)", " ".join(text.split()))
    signs = re.compile(r"[^\w\s,;:'/.()=%?-]|_|^[-=%]|^\d+(?=[.)])")
    return "".join(
        part if i % 2 else signs.sub(lambda found: "".join(f"&#{ord(sign)};" for sign in found[0]), part)
        for i, part in enumerate(parts)
    )


def reference_growth(grown: list[tuple[int, float]], d: float) -> list[dict]:
    """Rows per_class, k_f, name of the slope 2/d through the first measured point, to compare growth with."""
    first, k_f = grown[0]
    return [{"per_class": m, "k_f": k_f * (m / first) ** (2 / d), "name": f"slope 2/d, d = {d:.1f}"} for m, _ in grown]


# ------------------------------------------------------------------------------------- experiments


def with_pixel_noise(images: ImageSet, grey_levels: float, seed: int = 0) -> ImageSet:
    """The same images with independent Gaussian noise of that standard deviation, rounded and cut to 0 ... 255."""
    noise = np.random.default_rng(seed).standard_normal(images.images.shape)
    noisy = np.clip(np.rint(images.images + grey_levels * noise), 0, 255).astype(np.uint8)
    return replace(images, images=noisy)


def with_label_noise(images: ImageSet, share: float, seed: int = 0) -> ImageSet:
    """The same images, a share of them (rounded) with another label, drawn from the other classes."""
    rng = np.random.default_rng(seed)
    labels = np.array(images.labels)
    wrong = rng.permutation(len(labels))[: round(share * len(labels))]
    labels[wrong] = (labels[wrong] + rng.integers(1, images.n_classes, len(wrong))) % images.n_classes
    return replace(images, labels=labels)


def with_near_copies(images: ImageSet, count: int, seed: int = 0) -> ImageSet:
    """`count` images of each class become near-copies of images of the next class: one pixel, one grey level off."""
    least = min(_at_least_two_classes(images))
    if not 0 <= 2 * count <= least:
        raise ValueError(f"count={count} needs {2 * count} images of each class; the smallest has {least}: take fewer")
    rng = np.random.default_rng(seed)
    pixels, labels = np.array(images.images), images.labels
    rows = [rng.permutation(np.flatnonzero(labels == label)) for label in range(images.n_classes)]
    for label, own in enumerate(rows):
        other = rows[(label + 1) % images.n_classes]
        copies = images.images[other[count : 2 * count]].copy()
        copies.reshape(count, math.prod(copies.shape[1:]))[:, 0] ^= 1
        pixels[own[:count]] = copies
    return replace(images, images=pixels)


def sharpness_profile(images: ImageSet, at: float, *, per_class: int, draws: int = 25, seed: int = 0) -> list[dict]:
    """Rows at, quantity, k_f, low, high, n of one image set: what an experiment draws against `at`."""
    near = neighbors.neighbors(images, 1)
    m = min(per_class, *_at_least_two_classes(images))
    found = {
        "all pairs": sharpness.label_sharpness(near, seed=seed),
        f"mean at M = {m}": sharpness.mean_sharpness(near, per_class=m, draws=draws, seed=seed),
        "10 % quantile": sharpness.quantile_sharpness(near, quantiles=[0.1], seed=seed)[0],
        "same-label control": sharpness.same_label_control(near, seed=seed),
    }
    return [
        {"at": at, "quantity": name, "k_f": float(v), "low": v.low, "high": v.high, "n": len(images)}
        for name, v in found.items()
    ]


def growth_row(name: str, x, y=None, *, d=None, k: int = 20, seed: int = 0) -> dict:
    """One row of a table of growth: exponent with interval, 2/d with interval, and what they say together.

    d   the dimension where it is known by construction; else mle_dimension of the same points
    """
    near = x if isinstance(x, neighbors.Neighbors) else neighbors.neighbors(x, k, y)
    d = dimension.mle_dimension(near, k) if d is None else dimension.Estimate(d, d, d)
    found = sharpness.growth_exponent(near, seed=seed)
    return {
        "name": name,
        "kind": sharpness.growth_kind(found, d),
        "n": near.n,
        "M": f"{found.per_class[0]} to {found.per_class[-1]}",
        "exponent": float(found),
        "low": found.low,
        "high": found.high,
        "2/d": 2 / d,
        "2/d low": 2 / d.high,
        "2/d high": 2 / d.low,
    }


def growth_laws(laws: dict) -> pd.DataFrame:
    """One row a law of overlap.growth_law, by name: exponents and difference with intervals, shares, gap left open."""
    rows = []
    for name, law in laws.items():
        row = {"name": name, "kind": law.kind}
        for what in ("exponent", "overlapping", "difference"):
            value = getattr(law, what)
            row |= {what: float(value), f"{what}_low": value.low, f"{what}_high": value.high}
        row |= {"share": law.share[0], "share_falls": _share_falls(law.k_f, law.share)}
        rows.append(row | {"gap": law.gap, "closest": law.closest})
    return pd.DataFrame(rows)


def _share_falls(k_f, share) -> float:
    """Slope of log share on log distance, 1 / k_f; NaN where fewer than two distances have pairs across."""
    some = np.isfinite(share) & (share > 0)
    return float(-np.polyfit(np.log(k_f[some]), np.log(share[some]), 1)[0]) if some.sum() > 1 else math.nan


def published_table(name: str) -> dict:
    """The table book/methods/tables/NAME.json as a dictionary; its "command" is what makes it."""
    path = image_sets.REPOSITORY / "book" / "methods" / "tables" / f"{name}.json"
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; the scripts in benchmarks/ write these tables")
    return json.loads(path.read_text(encoding="utf-8"))


def published_growth(size: int, channels: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(sets, curves) of the published table sharpness_growth at one size and number of channels.

    sets     one row an image set: dataset, family, domain, n, groups, groups_known; exponent, overlapping and
             difference of overlap.growth_law with _low and _high; d_pairs, d_mle, d_mle_other_groups, d_twonn; share,
             of pairs across within 1 / K_F of the smallest M, and share_falls, the slope of its logarithm on that of
             the distance; gap and closest, distances; kind; by_lot, the mean exponent with labels by lot, and
             by_lot_overlapping
    curves   one row an image set and M: dataset, domain, per_class, k_f, law = what overlapping classes would give
             through the middle
    """
    sets, curves = [], []
    for key, found in published_table("sharpness_growth")["sets"].items():
        name, *setting = key.rsplit(" ", 2)
        if setting != [str(size), str(channels)]:
            continue
        row = {"dataset": name} | {key: found[key] for key in ("family", "domain", "n", "groups", "groups_known")}
        for what in ("exponent", "overlapping", "difference"):
            row |= dict(zip((what, f"{what}_low", f"{what}_high"), found[what], strict=True))
        row |= {"d_pairs": found["dimension"][0], "d_mle": found["d_mle"][0], "d_twonn": found["d_twonn"][0]}
        row |= {"d_mle_other_groups": found["d_mle_other_groups"], "kind": found["kind"]}
        m, k_f = np.array(found["per_class"], float), np.array(found["k_f"])
        share = np.array(found["share"], float)
        row |= {"share": share[0], "share_falls": _share_falls(k_f, share)}
        row |= {"gap": math.nan if found["gap"] is None else found["gap"], "closest": found["closest"]}
        row |= {key: float(np.mean(found[f"{key}_exponent" if key == "by_lot" else key])) for key in LOT}
        sets.append(row)
        law = np.full(len(m), math.nan)
        if found["overlapping"][0] is not None:
            law = np.exp(np.log(k_f).mean() + found["overlapping"][0] * (np.log(m) - np.log(m).mean()))
        for at, value, expected in zip(m, k_f, law, strict=True):
            curve = {"dataset": name, "domain": found["domain"], "per_class": at, "k_f": value, "law": expected}
            curves.append(curve)
    return pd.DataFrame(sets).sort_values("dataset", ignore_index=True), pd.DataFrame(curves)
