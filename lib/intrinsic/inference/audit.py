"""Published choices beside corrected ones: what each does to a number, and to what is concluded from it.

A published choice is a function that repeats what the paper's figures or its released code do (`released_...`), defect
included; the corrected one is the book's own. Each section of book/beyond/audit.ipynb and published_values.ipynb makes
a table from both and ends with a `Finding`, a sentence that follows from that table by a rule which stands in the
function's docstring. Numbers of the defects (B1, C5, ...) are those of book/beyond/tables/defects.yaml.

Source of every published choice: Konz & Mazurowski 2024 and their released code, commit e4aec43, unless another is
named. `digitised` holds values read off figures: bands, never exact.
"""

import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import yaml
from scipy import stats

from intrinsic import images as image_sets
from intrinsic.images import ImageSet, TooFewImages
from intrinsic.images.published import published_rows
from intrinsic.inference import statistics
from intrinsic.networks import attacks, models, training
from intrinsic.properties import dimension, neighbors, sharpness
from intrinsic.properties.pairs import closest_pairs

RELEASED_M = 1000  # images drawn for label sharpness
RELEASED_BATCH = 500
RELEASED_TEST_BATCH = 256  # images a batch where the loss under attack is taken
SHARPNESS_UNIT = 1e-4  # of the digitised label sharpness: grey levels 0 to 255, 224 x 224 pixels


class UnequalBatches(ValueError):
    """Images that do not fill their batches, which the released pairing cannot use."""


class BadTable(ValueError):
    """A table of the audit that lacks what a finding is computed from."""


@dataclass(frozen=True)
class Finding:
    """What a published choice does to a conclusion; notebooks show the sentence.

    defects   numbers of the defects;  conclusion  what is concluded;  changes  whether the corrected choice concludes
    otherwise, by the rule of the function that made it, None where that rule leaves it undecided;  sentence  the same
    in words, with the numbers
    """

    defects: str
    conclusion: str
    changes: bool | None
    sentence: str

    def _repr_markdown_(self) -> str:
        return f"**{self.sentence}**".replace("_", "\\_")


def findings(made: Sequence[Finding]) -> pd.DataFrame:
    """One row a finding: defects, conclusion, changes (yes, no or undecided), what was found."""
    return pd.DataFrame(
        [
            {
                "defects": one.defects,
                "conclusion": one.conclusion,
                "changes": {True: "yes", False: "no", None: "undecided"}[one.changes],
                "found": one.sentence,
            }
            for one in made
        ],
        columns=["defects", "conclusion", "changes", "found"],
    )


def verdict(made: Sequence[Finding]) -> Finding:
    """How many of the conclusions change, and which: changes where any does."""
    changed = [one for one in made if one.changes]
    names = "; ".join(f"{one.conclusion} ({one.defects})" for one in changed) or "none"
    open_ones = sum(one.changes is None for one in made)
    rest = f" {open_ones} {'is' if open_ones == 1 else 'are'} undecided." if open_ones else ""
    sentence = f"{len(changed)} of {len(made)} conclusions change once the choice is corrected: {names}.{rest}"
    return Finding("all", "the audit as a whole", bool(changed), sentence)


# ---------------------------------------------------------------------------------------- tables of the book


def _table_path(name: str):
    return image_sets.REPOSITORY / "book" / "beyond" / "tables" / name


def defects() -> pd.DataFrame:
    """One row a defect: id, done, should, matters, section. From book/beyond/tables/defects.yaml."""
    rows = yaml.safe_load(_table_path("defects.yaml").read_text(encoding="utf-8"))
    return pd.DataFrame(rows, columns=["id", "done", "should", "matters", "section"])


def _digitised_file() -> dict:
    return json.loads(_table_path("digitised.json").read_text(encoding="utf-8"))


def digitised() -> pd.DataFrame:
    """One row an image set of the paper's Figures 1 and 3: values read off the figures, with their bars.

    dataset, domain, channels (as the released loader gives them), k_f, k_f_low, k_f_high (1e-4 per grey level,
    224 x 224), d_data, d_data_low, d_data_high, loss_penalty_nats, penalty_low, penalty_high (NaN: no bar read).
    Bands for orders and signs, not targets: how well each was read stands in the file.
    """
    return pd.DataFrame(_digitised_file()["sets"]).astype({"penalty_low": float, "penalty_high": float})


def digitised_accuracy() -> pd.DataFrame:
    """Read-offs of the earlier paper's figure (Konz et al. 2022): dataset, domain, dimension, accuracy."""
    return pd.DataFrame(_digitised_file()["accuracy"])


def prostate_band() -> dict:
    """What is read off Figure 2 of the points of Prostate and of the other medical sets: ranges of loss, d and N."""
    return _digitised_file()["figure_2"]


def printed() -> dict[str, float]:
    """Statistics that the authors print, by name."""
    return {name: one["value"] for name, one in _digitised_file()["printed"].items()}


# -------------------------------------------------------------------------------- label sharpness, released code


def released_multiclass(labels) -> bool:
    """Whether the released code takes a set to have more than two classes (B1).

        not all(pair[1] in [0, 1] for pair in enumerate(dataset))

    pair[1] is the tuple (image, label) of an item, never 0 or 1, so this is True for every set that is not empty.
    """
    dataset = [(f"image {i}", int(label)) for i, label in enumerate(labels)]
    return not all(pair[1] in [0, 1] for pair in enumerate(dataset))


def multiclass(labels) -> bool:
    """Whether labels other than 0 and 1 occur: what B1 was meant to ask."""
    return not np.isin(labels, (0, 1)).all()


def released_pairs(n: int, batch: int = RELEASED_BATCH, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (i, j) that the released code compares (B4): n^2 / batch of the n^2 ordered ones, int64.

    Two loaders shuffle the same n images apart from each other. For each batch of the first, the second is shuffled
    anew and gone through; images at the same place of two batches are compared.
    Raises UnequalBatches where batches differ in length: their difference has no shape there.
    """
    if n < 1 or batch < 1 or n % batch:
        raise UnequalBatches(
            f"{n} images do not fill batches of {batch}, and images are compared place by place: give a batch that "
            "divides the number of images"
        )
    rng = np.random.default_rng(seed)
    first = rng.permutation(n).reshape(-1, batch)
    i = np.concatenate([np.tile(rows, n // batch) for rows in first])
    j = np.concatenate([rng.permutation(n) for _ in first])
    return i, j


def pair_sharpness(images: ImageSet, i, j, numerator: str = "different", *, finite_only: bool = False) -> float:
    """Largest numerator / |x_i - x_j| over listed pairs, images in [0, 1]; unit 1/L2.

    numerator    "different": 1 where labels differ, as label sharpness is defined; "equal": 1 where they agree, which
                 the released code takes (B2)
    finite_only  infinite values are left out too (B6); 0/0 always is. 0 where nothing is left
    """
    if numerator not in ("different", "equal"):
        raise ValueError(f"numerator={numerator!r} says not which pairs count: give 'different' or 'equal'")
    flat = images.images.reshape(len(images), -1).astype(np.float32)
    squares = np.concatenate(
        [((flat[a] - flat[b]) ** 2).sum(axis=1, dtype=np.float64) for a, b in _blocks(i, j, flat.shape[1])]
    )
    counts = (images.labels[i] == images.labels[j]) == (numerator == "equal")
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = counts / (np.sqrt(squares) / 255)
    slope = slope[~np.isnan(slope) & (np.isfinite(slope) | (not finite_only))]
    return float(slope.max(initial=0.0))


def _blocks(i, j, width: int, numbers: int = 4_000_000):
    """Pieces of two index arrays whose images together hold so many numbers."""
    step = max(1, numbers // width)
    for start in range(0, len(i), step):
        yield i[start : start + step], j[start : start + step]


def released_sharpness(images: ImageSet, m: int = RELEASED_M, batch: int = RELEASED_BATCH, seed: int = 0) -> float:
    """Label sharpness as the released code computes it: B1 to B6 together, images in [0, 1].

    m images are drawn, whatever their classes (B5; ValueError where there are fewer), released_pairs of them are
    compared, and the largest 1/distance between images of *equal* labels is returned, infinite ones left out.
    """
    rows = random.Random(seed).sample(range(len(images)), m)
    numerator = "equal" if released_multiclass(images.labels) else "different"
    return pair_sharpness(images[np.array(rows)], *released_pairs(m, batch, seed), numerator, finite_only=True)


# ----------------------------------------------------------------------------------------- what rankings say


def order_changes(published, corrected) -> tuple[int, int]:
    """(pairs of sets whose order differs, pairs): a tie on one side alone is no difference."""
    a, b = (np.sign(np.subtract.outer(v, v)) for v in (np.asarray(published, float), np.asarray(corrected, float)))
    above = np.triu_indices(len(a), 1)
    return int((a[above] * b[above] < 0).sum()), len(above[0])


def _need(table: pd.DataFrame, *columns: str) -> None:
    lacking = [column for column in columns if column not in table.columns]
    if lacking or not len(table):
        what = f"no column {', '.join(lacking)}" if lacking else "no row"
        raise BadTable(f"the table has {what}, so nothing can be found from it: pass the table of the same section")


def _g(value: float) -> str:
    return f"{value:.3g}"


def _span(values) -> str:
    return f"{_g(np.min(values))} to {_g(np.max(values))}"


def _so(changes: bool, otherwise: str, same: str) -> str:
    return f"the choice {otherwise if changes else same}"


def balanced(images: ImageSet, per_class: int, seed: int = 0) -> ImageSet:
    """Images without exact copies of either kind, and per_class of each class of them, or as many as there are."""
    clean = images.drop_duplicates(conflicting=True)
    m = min(per_class, *(n for n in clean.counts().values() if n))
    return clean[image_sets.balanced_draws(clean.labels, m, 1, seed)[0]]


def numerator_table(sets: Sequence[ImageSet], per_class: int, seed: int = 0) -> pd.DataFrame:
    """B1 with B2, over all pairs of the same M images a class: one row a set.

    published  largest 1/distance of equal labels;  corrected  of different labels, with its 95 % interval
    """
    rows = []
    for images in sets:
        near = neighbors.neighbors(balanced(images, per_class, seed), 1)
        k_f = sharpness.label_sharpness(near, seed=seed)
        same = sharpness.same_label_control(near, interval=False)
        row = {"dataset": images.name, "domain": images.domain, "n": near.n, "published": float(same)}
        rows.append(row | {"corrected": float(k_f), "low": k_f.low, "high": k_f.high, "factor": float(same / k_f)})
    return pd.DataFrame(rows)


def numerator_finding(table: pd.DataFrame) -> Finding:
    """B1, B2: changes where a published value lies outside the interval of K_F, or a pair of sets changes order."""
    _need(table, "published", "corrected", "low", "high")
    factor = table["published"] / table["corrected"]
    outside = int(((table["published"] < table["low"]) | (table["published"] > table["high"])).sum())
    swapped, pairs = order_changes(table["published"], table["corrected"])
    changes = bool(swapped or outside)
    sentence = (
        f"Counting equal labels gives {_span(factor)} times K_F, outside its 95 % interval for {outside} of "
        f"{len(table)} image sets, and puts {swapped} of {pairs} pairs of sets in the other order: "
        f"{_so(changes, 'measures something else', 'makes no difference here')}."
    )
    of = "how sharp labels are, and which image sets have sharper ones" if swapped else "how sharp the labels are"
    return Finding("B1, B2", of, changes, sentence)


def random_pairs_table(sets: Sequence[ImageSet], per_class: int, repeats: int = 20, seed: int = 0) -> pd.DataFrame:
    """B4: the largest slope among the released random pairs against all pairs of the same 2 M images.

    Batches hold half of the images, as in the released code, so that 4 M random pairs stand for 4 M^2. One row a set
    and batch (half the images; a fifth, where it divides them): published (mean over `repeats`), published_low,
    published_high (smallest and largest), corrected, share = published / corrected, `values` (the repeats).
    """
    rows = []
    for images in sets:
        few = balanced(images, per_class - per_class % 5 or per_class, seed)
        exact = float(sharpness.label_sharpness(few, interval=False))
        for part in (2, 5):
            if len(few) % part:
                continue
            batch = len(few) // part
            found = [pair_sharpness(few, *released_pairs(len(few), batch, seed + r)) for r in range(repeats)]
            row = {"dataset": images.name, "domain": images.domain, "n": len(few), "batch": batch}
            row |= {"pairs": part * len(few), "published": np.mean(found), "published_low": np.min(found)}
            row |= {"published_high": np.max(found), "corrected": exact, "share": np.mean(found) / exact}
            rows.append(row | {"half": part == 2, "values": tuple(found)})
    return pd.DataFrame(rows)


def random_pairs_finding(table: pd.DataFrame) -> Finding:
    """B4: changes where in some repetition the order of the sets is not that of all pairs."""
    _need(table, "half", "values", "corrected", "share")
    half = table[table["half"]]
    runs = np.array(half["values"].tolist()).T  # (repeats, sets)
    other = sum(order_changes(run, half["corrected"])[0] > 0 for run in runs)
    swings = half["published_high"] / half["published_low"]
    sentence = (
        f"Random pairs find on average {_span(half['share'])} of the largest slope, depending on the image set, and "
        f"differ by up to a factor of {_g(swings.max())} between seeds; the order of the sets is not that of all "
        f"pairs in {other} of {len(runs)} repetitions: {_so(other > 0, 'can change', 'keeps')} the ranking."
    )
    return Finding("B4", "label sharpness from random pairs", other > 0, sentence)


def unbalanced_table(
    images: ImageSet, shares: Sequence[float], per_class: int, draws: int = 25, seed: int = 0
) -> pd.DataFrame:
    """B5: K_F of draws whatever the classes against balanced draws of as many images, by share of the smaller class.

    The set keeps all images of class 0 and, of class 1, as many as make up each share. M is per_class, at most what
    the smallest share allows. One row a share: share, n, m (images drawn), published and corrected (means over
    draws), low and high (t interval of the corrected mean), published_low, published_high, one_class (draws that hold
    one class only, whose K_F is 0; left out of the means), `published_logs` and `corrected_logs` (of each draw).
    """
    clean = images.drop_duplicates(conflicting=True)
    first, second = (np.flatnonzero(clean.labels == label) for label in (0, 1))
    if not all(0 < share <= 0.5 for share in shares):
        raise ValueError(f"shares={list(shares)}: the smaller class has more than 0 and at most half of the images")
    counts = [min(len(second), max(2, round(share / (1 - share) * len(first)))) for share in shares]
    m = min(per_class, *counts)
    rows = []
    for share, count in zip(shares, counts, strict=True):
        kept = clean[np.sort(np.concatenate([first, second[:count]]))]
        near = neighbors.neighbors(kept, 1)
        rng = np.random.default_rng([seed, count])
        any_class = [rng.choice(near.n, 2 * m, replace=False) for _ in range(draws)]
        equal = image_sets.balanced_draws(kept.labels, m, draws, seed)
        row = {"share": share, "n": near.n, "m": 2 * m}
        for name, chosen in (("published", any_class), ("corrected", equal)):
            k_f = np.array([_drawn_sharpness(kept, draw) for draw in chosen])
            logs = np.log(k_f[k_f > 0])
            if len(logs) < 2:
                raise TooFewImages(
                    f"at a share of {share:g} hardly a draw holds both classes: draw more, or more often"
                )
            half = stats.t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / math.sqrt(len(logs))
            row |= {"one_class": row.get("one_class", 0) + int((k_f == 0).sum())}
            ends = dict(zip(("low", "high"), np.exp([logs.mean() - half, logs.mean() + half]), strict=True))
            before = "published_" if name == "published" else ""
            row |= {name: math.exp(logs.mean()), **{before + key: value for key, value in ends.items()}}
            row |= {f"{name}_logs": tuple(logs)}
        rows.append(row)
    return pd.DataFrame(rows)


def _drawn_sharpness(images: ImageSet, rows) -> float:
    return float(sharpness.label_sharpness(images[rows], interval=False))


def unbalanced_finding(table: pd.DataFrame) -> Finding:
    """B5: changes where unbalanced draws move further between the smallest and the largest share than balanced ones do.

    The balanced draws move too, since fewer images are left to draw from. So the 95 % interval is that of the ratio of
    both moves (difference of four means of log K_F, Welch's degrees of freedom).
    """
    _need(table, "share", "published_logs", "corrected_logs")
    rare, even = table.loc[table["share"].idxmin()], table.loc[table["share"].idxmax()]
    logs = {name: [np.array(one[f"{name}_logs"]) for one in (rare, even)] for name in ("published", "corrected")}
    moves = {name: a.mean() - b.mean() for name, (a, b) in logs.items()}
    parts = np.array([one.var(ddof=1) / len(one) for pair in logs.values() for one in pair])
    sizes = np.array([len(one) for pair in logs.values() for one in pair])
    apart, error = moves["published"] - moves["corrected"], math.sqrt(parts.sum())
    freedom = parts.sum() ** 2 / max(float((parts**2 / (sizes - 1)).sum()), 1e-300)
    half = stats.t.ppf(0.975, freedom) * error if error > 0 else 0.0
    changes = bool(abs(apart) > half)
    sentence = (
        f"With {rare['share']:.0%} instead of {even['share']:.0%} of images in the smaller class, a draw whatever the "
        f"classes gives {_g(math.exp(moves['published']))} times the K_F, a balanced one "
        f"{_g(math.exp(moves['corrected']))} times; the ratio of the two is {_g(math.exp(apart))} (95 % interval "
        f"{_g(math.exp(apart - half))} to {_g(math.exp(apart + half))}): "
        f"{_so(changes, 'lets class sizes enter K_F', 'shows no effect of class sizes')}."
    )
    return Finding("B5", "K_F where classes differ in size", changes, sentence)


def with_conflicting_copies(images: ImageSet, count: int, seed: int = 0) -> ImageSet:
    """`count` images of class 1 become exact copies of as many of class 0, and keep their label."""
    rng = np.random.default_rng(seed)
    first, second = (rng.permutation(np.flatnonzero(images.labels == label)) for label in (0, 1))
    if not 0 <= count <= min(len(first), len(second)):
        raise TooFewImages(f"{count} copies need as many images of each class; there are {len(first)}, {len(second)}")
    pixels = np.array(images.images)
    pixels[second[:count]] = pixels[first[:count]]
    return replace(images, images=pixels)


def finite_sharpness(images: ImageSet) -> float:
    """Largest slope over all pairs once infinite ones are left out, as the released code leaves them out (B6)."""
    pairs = closest_pairs(images)
    finite = pairs.sharpness[np.isfinite(pairs.sharpness)]
    return float(finite[0]) if len(finite) else math.nan


def copies_table(images: ImageSet, counts: Sequence[int], per_class: int, seed: int = 0) -> pd.DataFrame:
    """B6: K_F after the filter against K_F, by number of conflicting copies: one row a number.

    published  finite_sharpness;  corrected  label_sharpness, infinite with a conflict;  n_conflicting  images that have
    a copy with another label, as ImageSet.duplicates counts them;  without  K_F once all of them are gone
    """
    clean, rows = balanced(images, per_class, seed), []
    for count in counts:
        made = with_conflicting_copies(clean, count, seed)
        gone = made.drop_duplicates(conflicting=True)
        row = {"copies": count, "n": len(made), "n_conflicting": made.duplicates().n_conflicting}
        row |= {"published": finite_sharpness(made), "corrected": _drawn_sharpness(made, slice(None))}
        rows.append(row | {"without": _drawn_sharpness(gone, slice(None))})
    return pd.DataFrame(rows)


def copies_finding(table: pd.DataFrame) -> Finding:
    """B6: changes where a finite value is reported for images whose K_F is infinite."""
    _need(table, "published", "corrected", "n_conflicting")
    hidden = table[np.isfinite(table["published"]) & np.isinf(table["corrected"])]
    most = int(hidden["n_conflicting"].max()) if len(hidden) else 0
    sentence = (
        f"In {len(hidden)} of {len(table)} cases the filter reports a finite K_F where it is infinite, with up to "
        f"{most} images that have a copy with another label: "
        f"{_so(bool(len(hidden)), 'hides wrong data', 'hides nothing here')}."
    )
    return Finding("B6", "whether labels contradict each other", bool(len(hidden)), sentence)


def sample_size_table(sets: Sequence[ImageSet], sizes: Sequence[int], draws: int = 25, seed: int = 0) -> pd.DataFrame:
    """B7: mean K_F of balanced draws of M images a class, by set and M; a 95 % interval at each set's largest M."""
    rows = []
    for images in sets:
        near = neighbors.neighbors(images.drop_duplicates(conflicting=True), 1)
        least = np.unique(near.labels, return_counts=True)[1].min()
        reached = sorted({min(int(size), int(least)) for size in sizes})
        for m in reached:
            k_f = sharpness.mean_sharpness(near, per_class=m, draws=draws, seed=seed, interval=m == reached[-1])
            row = {"dataset": images.name, "domain": images.domain, "per_class": m, "k_f": float(k_f)}
            rows.append(row | {"low": k_f.low, "high": k_f.high})
    return pd.DataFrame(rows)


def sample_size_finding(table: pd.DataFrame) -> Finding:
    """B7: changes where some pair of sets changes order with M, or two intervals overlap at the largest M of each."""
    _need(table, "dataset", "per_class", "k_f", "low", "high")
    wide = table.pivot(index="dataset", columns="per_class", values="k_f").dropna(axis=1)
    small, large = wide.columns.min(), wide.columns.max()
    factor = wide[large] / wide[small]
    swapped, pairs = order_changes(wide[small], wide[large])
    top = table[table["per_class"] == table.groupby("dataset")["per_class"].transform("max")]
    low, high = top["low"].to_numpy(), top["high"].to_numpy()
    above = np.triu_indices(len(top), 1)
    overlap = int(((low[:, None] <= high) & (low <= high[:, None]))[above].sum())
    changes = bool(swapped or overlap)
    sentence = (
        f"From M = {small} to M = {large} images a class K_F grows by a factor of {_span(factor)}; {swapped} of "
        f"{pairs} pairs of sets change their order, and {overlap} of {pairs} have overlapping 95 % intervals: "
        f"{_so(changes, 'ranks more than the data tell apart', 'ranks what the data tell apart')}."
    )
    return Finding("B7", "a ranking by one value of K_F at one M", changes, sentence)


# --------------------------------------------------------------------------------------------- labels and classes


def ten_digits(size: int) -> ImageSet:
    """The embedded digits with all ten classes, in the order of an image folder: class by class."""
    entry = image_sets.find("digits")
    digits = image_sets.load(
        entry.model_copy(update={"labels": image_sets.LabelRule(), "title": "ten digits", "about": ""}),
        size=size,
        channels=1,
    )
    return digits[np.argsort(digits.labels, kind="stable")]


def class_pair(listing: ImageSet, a: int, b: int) -> ImageSet:
    """Images of two classes, a as label 0 and b as label 1."""
    rows = np.flatnonzero(np.isin(listing.labels, (a, b)))
    return replace(
        listing[rows], labels=(listing.labels[rows] == b).astype(int), classes=(listing.classes[a], listing.classes[b])
    )


def slipped_pair(listing: ImageSet, a: int, b: int) -> ImageSet:
    """The same two classes as the released ImageNet loader gives them (C5): their labels on the first images.

    Labels of classes a and b are picked out in the order of the listing, the files are not: image i of the whole
    listing meets label i. Where the first classes have more or fewer images than the chosen ones, labels are wrong.
    """
    rows = np.flatnonzero(np.isin(listing.labels, (a, b)))
    labels, at = published_rows((listing.labels[rows] == b).astype(int), rows, "targets")
    return replace(listing[at], labels=labels, classes=(listing.classes[a], listing.classes[b]))


def uneven(listing: ImageSet, fewest: float = 0.56) -> ImageSet:
    """The listing with classes of different sizes: the last one keeps `fewest` of its images, those between more.

    ImageNet has 732 to 1,300 training images a class (Russakovsky et al. 2015, table 2).
    """
    shares = np.linspace(1, fewest, len(listing.classes))
    rows = [np.flatnonzero(listing.labels == label) for label in range(len(listing.classes))]
    return listing[np.concatenate([r[: round(s * len(r))] for r, s in zip(rows, shares, strict=True)])]


def slip_table(listing: ImageSet, per_class: int) -> pd.DataFrame:
    """C5: each pair of classes as the released loader gives it and as it is, one row a pair.

    published, corrected  K_F over all pairs of the first M images of each label;  first_classes  share of images that
    are of the chosen classes;  wrong  share of labels that do not say which of the classes seen an image is of
    """
    rows = []
    n_classes = len(listing.classes)
    where = {path: label for path, label in zip(listing.paths, listing.labels, strict=True)}
    for a in range(n_classes):
        for b in range(a + 1, n_classes):
            slipped, right = slipped_pair(listing, a, b), class_pair(listing, a, b)
            true = np.array([where[path] for path in slipped.paths])
            agree = (slipped.labels == (true != true[0])).mean()
            row = {"classes": f"{listing.classes[a]} | {listing.classes[b]}", "of_chosen": np.isin(true, (a, b)).mean()}
            row |= {"wrong": min(agree, 1 - agree), "seen": len(np.unique(true))}
            for name, made in (("published", slipped), ("corrected", right)):
                few = [np.flatnonzero(made.labels == label)[:per_class] for label in (0, 1)]
                row[name] = finite_sharpness(made[np.concatenate(few)])
            rows.append(row)
    return pd.DataFrame(rows)


def slip_finding(table: pd.DataFrame) -> Finding:
    """C5: changes where labels sit on images of other classes for more than half of the pairs."""
    _need(table, "of_chosen", "wrong", "published", "corrected")
    other = int((table["of_chosen"] < 1).sum())
    constant = any(table[name].nunique() < 2 for name in ("published", "corrected"))
    rank = math.nan if constant else stats.spearmanr(table["published"], table["corrected"]).statistic
    related = "one of them constant" if constant else f"with a rank correlation of {_g(rank)} between the two"
    changes = other > len(table) / 2
    sentence = (
        f"{other} of {len(table)} pairs of classes show images of classes that were not chosen, with up to "
        f"{table['wrong'].max():.0%} wrong labels; over pairs K_F is {_span(table['published'])} instead of "
        f"{_span(table['corrected'])}, {related}: "
        f"{_so(changes, 'makes pairs of classes mean nothing', 'leaves most pairs as they are')}."
    )
    return Finding("C5", "averages over pairs of classes of ImageNet", changes, sentence)


def released_finding_labels(values) -> np.ndarray:
    """Labels of CheXpert's values as the released code gives them (C6): empty and -1 are 0, all else is 1."""
    values = np.asarray(values, dtype=float)
    return np.where(np.isnan(values) | (values == -1), 0, 1)


def finding_labels(values) -> np.ndarray:
    """Labels of a finding: 1 where it is present (1), 0 where it is absent (0), uncertain (-1) or not mentioned."""
    return (np.asarray(values, dtype=float) == 1).astype(int)


def absent_table(images: ImageSet, shares: Sequence[float], per_class: int, seed: int = 0) -> pd.DataFrame:
    """C6: K_F with explicit absences counted as present, by share of class 0 that says so explicitly.

    Class 1 has the value 1, class 0 an empty cell or, for the share, an explicit 0. One row a share: wrong (share of
    wrong labels), published and corrected K_F of the same images, low and high of the corrected one.
    """
    few, rows = balanced(images, per_class, seed), []
    order = np.random.default_rng(seed).permutation(np.flatnonzero(few.labels == 0))
    right = sharpness.label_sharpness(few, seed=seed)
    for share in shares:
        values = np.where(few.labels == 1, 1.0, np.nan)
        values[order[: round(share * len(order))]] = 0.0
        labels = released_finding_labels(values)
        k_f = float(sharpness.label_sharpness(few.images, labels, interval=False))
        row = {"share": share, "wrong": (labels != finding_labels(values)).mean(), "published": k_f}
        rows.append(row | {"corrected": float(right), "low": right.low, "high": right.high})
    return pd.DataFrame(rows)


def absent_finding(table: pd.DataFrame) -> Finding:
    """C6: changes where a published K_F lies outside the interval of the corrected one."""
    _need(table, "share", "wrong", "published", "corrected", "low", "high")
    worst = table.loc[table["wrong"].idxmax()]
    outside = table[(table["published"] < table["low"]) | (table["published"] > table["high"])]
    sentence = (
        f"Explicit absences in {worst['share']:.0%} of the negatives make {worst['wrong']:.1%} of labels wrong and "
        f"give {_g(worst['published'] / worst['corrected'])} times the K_F; it is outside the 95 % interval in "
        f"{len(outside)} of {len(table)} cases: "
        f"{_so(bool(len(outside)), 'changes K_F', 'does not show in K_F')} where a set says what is absent."
    )
    return Finding("C6", "K_F of a finding with explicit absences", bool(len(outside)), sentence)


# ------------------------------------------------------------------------------------------------ splits and designs


def volumes(images: ImageSet, slices: int, grey_levels: float = 2.0, seed: int = 0) -> ImageSet:
    """Volumes with nothing to learn: each image becomes `slices` near-copies, and labels are drawn by volume.

    grey_levels  standard deviation of the noise that tells slices apart. Half of the volumes have label 1, whatever
    they show, so no classifier is right more than half of the time on a new volume.
    """
    rng = np.random.default_rng(seed)
    n = len(images) - len(images) % 2
    noise = grey_levels * rng.standard_normal((n * slices, *images.images.shape[1:]))
    pixels = np.clip(np.rint(np.repeat(images.images[:n], slices, axis=0) + noise), 0, 255).astype(np.uint8)
    labels = np.repeat(rng.permutation(np.arange(n) % 2), slices)
    group = np.repeat(np.arange(n), slices)
    return ImageSet(pixels, labels, ("label 0", "label 1"), "volumes without signal", "synthetic", group)


def nearest_accuracy(images: ImageSet, train, test) -> float:
    """Share of test images whose nearest training image has their label."""
    x = images.images.reshape(len(images), -1).astype(np.float64) / 255
    a, b = x[test], x[train]
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
    return float((images.labels[train][squares.argmin(axis=1)] == images.labels[test]).mean())


def leakage_table(sets: Sequence[ImageSet], n_train: int, seeds: Sequence[int] = range(10)) -> pd.DataFrame:
    """C8: accuracy of the nearest training image, images split at random against groups kept together.

    One row a set: published (images.published_split) and corrected (images.split), means over the seeds with 95 % t
    intervals; shared (share of test images with an image of their group in the training set, published); difference
    with difference_low and difference_high (t interval over seeds, paired).
    """
    rows = []
    for images in sets:
        found = {"published": [], "corrected": []}
        shared, kept = [], images.drop_duplicates()
        for seed in seeds:
            fair = image_sets.split(kept, n_train, seed)
            n = len(fair.train) + len(fair.test)
            pool = np.random.default_rng(seed).permutation(len(kept))[:n]
            train, test = (pool[rows_] for rows_ in image_sets.published_split(n, len(fair.test), seed))
            shared.append(np.isin(kept.group[test], kept.group[train]).mean())
            found["published"].append(nearest_accuracy(kept, train, test))
            found["corrected"].append(nearest_accuracy(kept, fair.train, fair.test))
        gap = np.subtract(found["published"], found["corrected"])
        row = {"dataset": images.name, "domain": images.domain, "n_groups": len(np.unique(kept.group))}
        row |= {"shared": np.mean(shared)}
        for name, values in (("published", found["published"]), ("", found["corrected"]), ("difference", gap)):
            half = stats.t.ppf(0.975, len(gap) - 1) * np.std(values, ddof=1) / math.sqrt(len(gap))
            row |= {name or "corrected": np.mean(values)}
            before = f"{name}_" if name else ""
            row |= {f"{before}low": np.mean(values) - half, f"{before}high": np.mean(values) + half}
        rows.append(row)
    return pd.DataFrame(rows)


def leakage_finding(table: pd.DataFrame) -> Finding:
    """C8: changes where the accuracy of a split of images lies above that of a split of groups (95 % t interval)."""
    _need(table, "dataset", "difference", "difference_low", "shared")
    leaky = table[table["difference_low"] > 0]
    worst = table.loc[table["difference"].idxmax()]
    sentence = (
        f"Splitting images instead of groups raises the accuracy in {len(leaky)} of {len(table)} image sets, most in "
        f"{worst['dataset']} (from {worst['corrected']:.0%} to {worst['published']:.0%}, with {worst['shared']:.0%} of "
        f"test images having their group in the training set): "
        f"{_so(bool(len(leaky)), 'counts recognition of known groups as learning', 'shows no leak here')}."
    )
    return Finding("C8", "test scores of sets with several images a patient", bool(len(leaky)), sentence)


def grouped_dimension_finding(properties: pd.DataFrame) -> Finding:
    """C8 for d_data, from properties records: d of all images with and without neighbors of the same group.

    Leaving neighbors out overcorrects where groups are large, so the truth lies between the two. No change where even
    the whole difference leaves the order of sets; undecided where it does not, until one image a group is measured.
    """
    _need(properties, "dataset", "d_data_all", "d_data_other_groups")
    both = properties.dropna(subset=["d_data_all", "d_data_other_groups"])
    _need(both, "dataset")
    ratio = both["d_data_other_groups"] / both["d_data_all"]
    swapped, pairs = order_changes(both["d_data_all"], both["d_data_other_groups"])
    most = both.loc[ratio.idxmax(), "dataset"]
    sentence = (
        f"Without neighbors of the same group d_data is {_span(ratio)} times as large over {len(both)} image sets, "
        f"most in {most}, and {swapped} of {pairs} pairs of sets change their order: "
    )
    sentence += (
        "an upper limit, since this overcorrects, so whether the ranking by dimension changes is undecided."
        if swapped
        else "the choice leaves the ranking by dimension."
    )
    return Finding("C8", "which image sets have a higher dimension", None if swapped else False, sentence)


def class_pair_losses(
    listing: ImageSet, sizes: Sequence[int], n_test: int = 200, pairs: int | None = None, seed: int = 0
) -> pd.DataFrame:
    """C9: test loss of logistic regression on pixels, one row a pair of classes, one column a training size N.

    Training sets of a pair are nested and balanced, its test images are the same for every N; loss in nats.
    pairs   so many pairs, drawn at random; None: all
    """
    from sklearn.linear_model import LogisticRegression

    n_classes = len(listing.classes)
    every = [(a, b) for a in range(n_classes) for b in range(a + 1, n_classes)]
    rng = np.random.default_rng(seed)
    chosen = every if pairs is None else [every[i] for i in np.sort(rng.permutation(len(every))[:pairs])]
    rows = {}
    for a, b in chosen:
        made = class_pair(listing, a, b)
        order = [rng.permutation(np.flatnonzero(made.labels == label)) for label in (0, 1)]
        turns = np.stack([o[: min(map(len, order))] for o in order], axis=1).ravel()
        x, y = made.images.reshape(len(made), -1) / 255, made.labels
        test = turns[-n_test:]
        if max(sizes) + n_test > len(turns):
            raise TooFewImages(
                f"{len(turns)} images of a pair give no {max(sizes)} to train on beside {n_test} to test"
            )
        losses = []
        for n in sizes:
            fit = LogisticRegression(max_iter=300).fit(x[turns[:n]], y[turns[:n]])
            p = fit.predict_proba(x[test])[np.arange(len(test)), y[test]]
            losses.append(-np.log(np.maximum(p, 1e-12)).mean())
        rows[f"{listing.classes[a]} | {listing.classes[b]}"] = losses
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(sizes))


def scaling_slopes(losses, sizes) -> np.ndarray:
    """Slope of log loss on log N of each row of a table (rows, sizes)."""
    x = np.log(np.asarray(sizes, dtype=float))
    x = x - x.mean()
    return np.log(np.asarray(losses, dtype=float)) @ x / (x @ x)


def redrawn_slopes(losses: pd.DataFrame, replicates: int = 2000, seed: int = 0) -> np.ndarray:
    """The published design (C9): each N has a pair of classes of its own, drawn at random; one slope a replicate."""
    table = losses.to_numpy()
    rows = np.random.default_rng(seed).integers(len(table), size=(replicates, table.shape[1]))
    return scaling_slopes(table[rows, np.arange(table.shape[1])], losses.columns)


def redrawn_finding(losses: pd.DataFrame, seed: int = 0) -> Finding:
    """C9: changes where the slope over redrawn pairs is 0 or more in over 5 % of draws, and that of one pair is not."""
    _need(losses)
    fixed, redrawn = scaling_slopes(losses, losses.columns), redrawn_slopes(losses, seed=seed)
    wrong = {name: float((slopes >= 0).mean()) for name, slopes in (("fixed", fixed), ("redrawn", redrawn))}
    changes = wrong["redrawn"] > 0.05 >= wrong["fixed"]
    sentence = (
        f"With the pair of classes drawn anew at each N the slope of log loss has a standard deviation of "
        f"{_g(redrawn.std())} around {_g(redrawn.mean())}, with one pair throughout {_g(fixed.std())} around "
        f"{_g(fixed.mean())}; the loss seems to rise with N in {wrong['redrawn']:.0%} of draws against "
        f"{wrong['fixed']:.0%}: {_so(changes, 'can hide that the loss falls', 'adds noise and changes no sign')}."
    )
    return Finding("C9", "the slope of the loss of natural sets", changes, sentence)


def pair_changes(runs: Mapping[tuple[str, str, int], tuple[int, int]]) -> pd.DataFrame:
    """How many pairs of classes each network and set meets over its sizes N: images.published_pairs, counted."""
    table = pd.DataFrame(
        [{"model": m, "dataset": s, "n_train": n, "pair": tuple(sorted(p))} for (m, s, n), p in runs.items()]
    )
    found = table.groupby(["dataset", "model"], sort=False)["pair"].agg(["nunique", "size"])
    return found.rename(columns={"nunique": "pairs", "size": "sizes"}).reset_index()


# ----------------------------------------------------------------------------------------------- outputs and losses


def loss_over_outputs(logits, labels) -> np.ndarray:
    """Cross-entropy of each image over all outputs of the network (C10: 1,000), nats: (n,)."""
    logits = np.asarray(logits, dtype=np.float64)
    top = logits.max(axis=1, keepdims=True)
    return (np.log(np.exp(logits - top).sum(axis=1)) + top[:, 0]) - logits[np.arange(len(logits)), labels]


def loss_over_classes(logits, labels, n_classes: int = 2) -> np.ndarray:
    """Cross-entropy of each image over the outputs of the classes that exist, nats: (n,).

    loss_over_outputs is this plus log(1 + mass of the other outputs / mass of the classes), so never less.
    """
    return loss_over_outputs(np.asarray(logits)[:, :n_classes], labels)


def mean_of_batch_means(losses, batch: int = RELEASED_TEST_BATCH) -> float:
    """Mean over batches of the mean loss of each (C12): the last, shorter batch counts as much as the others."""
    losses = np.asarray(losses, dtype=np.float64)
    return float(np.mean([losses[start : start + batch].mean() for start in range(0, len(losses), batch)]))


@dataclass(frozen=True, eq=False)
class Trained:
    """Logits (n_test, outputs) of a network on test images without and under attack, and the images' labels."""

    logits: np.ndarray
    attacked: np.ndarray
    labels: np.ndarray
    n_outputs: int
    epochs: int
    seed: int


def trained_logits(
    images: ImageSet, n_train: int, n_outputs: int, epochs: int, grey_level: int = 2, seed: int = 0
) -> Trained:
    """A network with one hidden layer of 128, trained for `epochs` on n_train images of two classes.

    Adam at 1e-3, batches of 32. The attack is FGSM at grey_level / 255 on the cross-entropy over all outputs.
    """
    import torch
    from torch import nn

    found = image_sets.split(images, n_train, seed)
    x, y = image_sets.as_unit(images[found.train]), images.labels[found.train]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 128), nn.ReLU(), nn.Linear(128, n_outputs))
    training.train(
        network, x, y, until="epochs", epochs=epochs, batch_size=32, learning_rate=1e-3, seed=seed, device="cpu"
    )
    x, labels = image_sets.as_unit(images[found.test]), images.labels[found.test]
    near = attacks.fgsm(network, x, labels, [grey_level / 255])[0]
    with models.evaluating(network), torch.no_grad():
        logits, moved = (network(each).double().numpy() for each in (x, near))
    return Trained(logits, moved, labels, n_outputs, epochs, seed)


def outputs_table(runs: Sequence[Trained]) -> pd.DataFrame:
    """C10: one row a trained network: test loss over all outputs (published) and over two (corrected), nats.

    outside  mean probability of the outputs that no label uses;  penalty_published, penalty_corrected  the loss under
    attack minus the loss without, over all outputs and over two
    """
    rows = []
    for run in runs:
        whole, two = loss_over_outputs(run.logits, run.labels), loss_over_classes(run.logits, run.labels)
        row = {"outputs": run.n_outputs, "epochs": run.epochs, "seed": run.seed, "n_test": len(whole)}
        row |= {"published": whole.mean(), "corrected": two.mean()}
        row |= {"outside": float(np.mean(1 - np.exp(_log_mass(run.logits, 2))))}
        row["penalty_published"] = loss_over_outputs(run.attacked, run.labels).mean() - whole.mean()
        row["penalty_corrected"] = loss_over_classes(run.attacked, run.labels).mean() - two.mean()
        rows.append(row | {"accuracy": float((run.logits.argmax(axis=1) == run.labels).mean())})
    return pd.DataFrame(rows)


def _log_mass(logits, n: int) -> np.ndarray:
    every = np.logaddexp.reduce(np.asarray(logits, dtype=np.float64), axis=1)
    return np.logaddexp.reduce(np.asarray(logits, dtype=np.float64)[:, :n], axis=1) - every


def outputs_finding(table: pd.DataFrame) -> Finding:
    """C10: changes where outputs that no label uses carry more than 5 % of the test loss after the longest training."""
    _need(table, "outputs", "epochs", "published", "corrected")
    many = table[table["outputs"] > 2]
    _need(many, "outputs")
    extra = (many["published"] - many["corrected"]) / many["published"]
    first, last = (extra[many["epochs"] == end].mean() for end in (many["epochs"].min(), many["epochs"].max()))
    changes = bool(last > 0.05)
    sentence = (
        f"Outputs that no label uses carry {_percent(first)} of the test loss at epoch {many['epochs'].min()} and "
        f"{_percent(last)} at epoch {many['epochs'].max()}, in networks with {int(many['outputs'].max()):,} outputs: "
        f"{_so(changes, 'enters the loss', 'hardly enters the loss once networks are trained')}."
    )
    return Finding("C10", "the test loss of networks with 1,000 outputs", changes, sentence)


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"


def batch_means_table(losses, batches: Sequence[int] = (40, 25, 12, 6, RELEASED_TEST_BATCH)) -> pd.DataFrame:
    """C12: mean of batch means against the mean over images, one row a batch size of the released scripts.

    low, high  95 % normal interval of the mean over images
    """
    losses = np.asarray(losses, dtype=np.float64)
    half = 1.96 * losses.std(ddof=1) / math.sqrt(len(losses))
    mean = losses.mean()
    return pd.DataFrame(
        [
            {"batch": batch, "last": len(losses) % batch or batch, "published": mean_of_batch_means(losses, batch),
             "corrected": mean, "low": mean - half, "high": mean + half}
            for batch in batches
        ]
    )  # fmt: skip


def batch_means_finding(table: pd.DataFrame) -> Finding:
    """C12: changes where a mean of batch means lies outside the 95 % interval of the mean over images."""
    _need(table, "batch", "published", "corrected", "low", "high")
    error = (table["published"] / table["corrected"] - 1).abs()
    outside = int(((table["published"] < table["low"]) | (table["published"] > table["high"])).sum())
    width = ((table["high"] - table["low"]) / 2 / table["corrected"]).max()
    sentence = (
        f"Means of batch means are off by at most {_percent(error.max())} (batches of "
        f"{int(table.loc[error.idxmax(), 'batch'])}), where the test set itself leaves {_percent(width)} open, and "
        f"{outside} of {len(table)} are outside the 95 % "
        f"interval: {_so(outside > 0, 'changes the test loss', 'does not matter')}."
    )
    return Finding("C12", "the test loss", outside > 0, sentence)


# ------------------------------------------------------------------------------------------------ published figures


def with_equal_channels(table: pd.DataFrame, factor: float = math.sqrt(3)) -> pd.DataFrame:
    """Digitised label sharpness as if every set had one channel: sets of three are multiplied by `factor`.

    Replicating grey to three channels divides K_F by sqrt(3), so sqrt(3) is exact where three channels are equal; a
    measured conversion to grey gives more, see book/methods/tables/sharpness_image_sets.json.
    """
    by = np.where(table["channels"] == 3, factor, 1.0)
    return table.assign(**{name: table[name] * by for name in ("k_f", "k_f_low", "k_f_high") if name in table})


def channels_table(table: pd.DataFrame, factor: float = math.sqrt(3)) -> pd.DataFrame:
    """One row a set of Figure 1: published K_F, corrected to one channel (`with_equal_channels`), with the bars."""
    one = with_equal_channels(table, factor)
    columns = {"k_f": "published", "k_f_low": "published_low", "k_f_high": "published_high"}
    both = table[["dataset", "domain", "channels", *columns]].rename(columns=columns)
    return both.assign(corrected=one["k_f"], low=one["k_f_low"], high=one["k_f_high"])


def domain_gap(table: pd.DataFrame, column: str) -> statistics.Difference:
    """Log K_F, medical less natural sets: Welch interval and exact permutation p."""
    return statistics.group_difference(np.log(table[column]), table["domain"].eq("medical"))


def channels_finding(table: pd.DataFrame, how: str = "at equal channels") -> Finding:
    """F1: changes where a gap between medical and natural sets is seen at one choice of channels and not at the other.

    It is seen where the 95 % interval of the ratio excludes 1 and the exact p is at most 0.05, not seen where neither
    holds; where the two disagree the finding is undecided.
    how   in which way channels were made equal, in words
    """
    _need(table, "domain", "published", "corrected")
    gaps = {name: domain_gap(table, name) for name in ("published", "corrected")}
    medical = table["domain"].eq("medical").to_numpy()
    below = {
        name: int((table.loc[medical, name].to_numpy()[:, None] < table.loc[~medical, name].to_numpy()).sum())
        for name in gaps
    }
    apart = {name: gap.low > 0 or gap.high < 0 for name, gap in gaps.items()}
    agree = all(apart[name] == (gap.p <= 0.05) for name, gap in gaps.items())
    changes = apart["published"] != apart["corrected"] if agree else None
    text = {
        name: f"{_g(math.exp(gap.value))} (95 % interval {_g(math.exp(gap.low))} to {_g(math.exp(gap.high))}, "
        f"exact p = {gap.p:.2g})"
        for name, gap in gaps.items()
    }
    pairs = int(medical.sum() * (~medical).sum())
    sentence = (
        f"The K_F of medical sets over that of natural ones is {text['published']} as drawn and {text['corrected']} "
        f"{how}, with {below['corrected']} instead of {below['published']} of {pairs} pairs in the other order: "
    )
    sentence += (
        f"{_so(changes, 'decides whether a gap is seen', 'changes the size of the gap and not its existence')}."
        if agree
        else "interval and exact test disagree, so whether the choice decides that a gap is seen is undecided."
    )
    return Finding("F1", f"that medical sets have sharper labels ({how})", changes, sentence)


def recomputed_correlations() -> pd.DataFrame:
    """Every printed correlation that read-off values allow to recompute, and subsets of it, one row each.

    name, statistic ("r" or "R2"), n, printed (NaN: not printed), value, low, high (Fisher z, 95 %; ends of R2 are those
    of r, squared, 0 where r's interval holds 0), p (permutation), smallest_p.
    """
    figure, accuracy, stated = digitised(), digitised_accuracy(), printed()
    rows = []
    for which, part in (
        ("all sets", figure),
        ("medical sets", figure[figure["domain"] == "medical"]),
        ("natural sets", figure[figure["domain"] == "natural"]),
    ):
        for kind in ("pearson", "spearman"):
            known = stated["figure_3_r"] if (which, kind) == ("all sets", "pearson") else math.nan
            made = statistics.correlation(part["k_f"], part["loss_penalty_nats"], kind)
            rows.append(_recomputed(f"loss penalty on K_F, {which}, {kind}", "r", known, made))
    for domain in ("medical", "natural"):
        part = accuracy[accuracy["domain"] == domain]
        made = statistics.correlation(part["dimension"], part["accuracy"])
        rows.append(_recomputed(f"accuracy on dimension, {domain} sets", "R2", stated[f"accuracy_r2_{domain}"], made))
    return pd.DataFrame(rows)


def _recomputed(name: str, statistic: str, known: float, made: statistics.Correlation) -> dict:
    value, low, high = made.value, made.low, made.high
    if statistic == "R2":
        ends = sorted((low**2, high**2))
        value, low, high = value**2, 0.0 if low < 0 < high else ends[0], ends[1]
    row = {
        "name": name,
        "statistic": statistic,
        "n": made.n,
        "printed": known,
        "value": value,
        "low": low,
        "high": high,
    }
    return row | {"p": made.p, "smallest_p": made.smallest_p}


def correlations_finding(table: pd.DataFrame) -> Finding:
    """Changes where a printed value lies outside its recomputed interval, or an interval of a printed r holds 0."""
    _need(table, "printed", "value", "low", "high")
    known = table.dropna(subset=["printed"])
    outside = int(((known["printed"] < known["low"]) | (known["printed"] > known["high"])).sum())
    empty = int(((known["low"] <= 0) & (known["high"] >= 0)).sum())
    gap = (known["printed"] - known["value"]).abs()
    subsets = table[table["printed"].isna()]
    lost = int(((subsets["low"] <= 0) & (subsets["high"] >= 0)).sum())
    changes = bool(outside or empty)
    sentence = (
        f"{len(known)} printed values can be recomputed and differ by up to {_g(gap.max())} from what the points give; "
        f"{outside} lie outside the 95 % interval, and {empty} of the {len(known)} intervals hold 0; of the "
        f"{len(subsets)} for subsets and ranks {lost} do: "
        f"{_so(changes, 'of printing no interval hid that', 'of printing no interval hid no such failure')}."
    )
    return Finding("F2", "printed correlations", changes, sentence)


def left_out_finding(frame: pd.DataFrame, x: str, y: str, name: str, of: str, defects: str = "F4") -> Finding:
    """Changes where, without one set, the 95 % interval of the correlation comes to hold 0, or leaves it.

    name  of the set left out;  of  what is correlated, in words
    """
    _need(frame, "dataset", x, y)
    whole = statistics.correlation(frame[x], frame[y])
    rest = frame[frame["dataset"] != name]
    part = statistics.correlation(rest[x], rest[y])
    apart = [one.low > 0 or one.high < 0 for one in (whole, part)]
    changes = apart[0] != apart[1]
    sentence = (
        f"The correlation of {of} is {_g(whole.value)} (95 % interval {_g(whole.low)} to {_g(whole.high)}; "
        f"n = {whole.n}) and {_g(part.value)} ({_g(part.low)} to {_g(part.high)}) without {name}: "
        f"{_so(changes, 'of keeping it decides', 'of keeping it does not decide')} whether a relation is seen."
    )
    return Finding(defects, f"the relation of {of}", changes, sentence)


def slope_bounds(x, low, high) -> tuple[float, float]:
    """Smallest and largest least-squares slope of y on x where each y_i may lie anywhere in [low_i, high_i].

    slope = sum_i w_i y_i,  w_i = (x_i - mean) / S_xx,  linear in y: each y_i at the end that its weight asks for
    """
    x, low, high = (np.asarray(v, dtype=float) for v in (x, low, high))
    if len(x) < 2 or not np.ptp(x) > 0 or (low > high).any():
        raise BadTable("a slope needs two different x and intervals whose ends are in order: check the bands")
    w = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    return float(np.where(w > 0, w * low, w * high).sum()), float(np.where(w > 0, w * high, w * low).sum())


def prostate_bands() -> pd.DataFrame:
    """Medical sets of Figure 2: d_data (Figure 1) and the band of log loss that the figure leaves to each."""
    medical, band = digitised().query("domain == 'medical'"), prostate_band()
    prostate = medical["dataset"].eq("prostate")
    ends = {
        end: np.log(np.where(prostate, band["prostate"][f"loss_{end}"], band["other_medical"][f"loss_{end}"]))
        for end in ("low", "high")
    }
    return medical[["dataset", "d_data"]].assign(**ends).reset_index(drop=True)


def prostate_finding(bands: pd.DataFrame, left_out: str = "prostate") -> Finding:
    """Changes where the sign of the medical slope of log loss on d follows from the bands only with the set in."""
    _need(bands, "dataset", "d_data", "low", "high")
    rest = bands[bands["dataset"] != left_out]
    ends = [slope_bounds(part["d_data"], part["low"], part["high"]) for part in (bands, rest)]
    known = [low > 0 or high < 0 for low, high in ends]
    middle = [statistics.ols(part["d_data"], (part["low"] + part["high"]) / 2).slope for part in (bands, rest)]
    text = [f"between {_g(low)} and {_g(high)} ({_g(at)} at the middles)" for (low, high), at in
            zip(ends, middle, strict=True)]  # fmt: skip
    changes = known[0] != known[1]
    sentence = (
        f"Wherever the points lie within their bands, the slope of log loss on d over {len(bands)} medical sets is "
        f"{text[0]}, and without {left_out} {text[1]}: its sign is {'fixed' if known[0] else 'open'} with that set and "
        f"{'fixed' if known[1] else 'open'} without it."
    )
    return Finding("F4", "that the loss of medical sets rises with d", changes, sentence)


def prostate_exponent() -> dict:
    """Exponent of loss ~ N^(-a) that the ends of Prostate's band give, beside the largest 1/d of the same points.

    It takes the largest loss to belong to the smallest N: a reading of the figure, not a measurement.
    """
    band = prostate_band()["prostate"]
    exponent = math.log(band["loss_high"] / band["loss_low"]) / math.log(band["n_high"] / band["n_low"])
    return {"exponent": exponent, "predicted_low": 1 / band["d_high"], "predicted_high": 1 / band["d_low"]}


def stack_dimensions(images: ImageSet, slices: Sequence[int], k: int = 20, seed: int = 0) -> pd.DataFrame:
    """How d_data falls when the same volumes give more slices: the mechanism behind Prostate's tail, constructed.

    One row a number of slices: published (MLE, every slice a point of its own), corrected (the first slice of each
    volume), other_volumes (every slice, without neighbors of its own volume). `images` are the volumes, one each.
    """
    rows = []
    for number in slices:
        made = volumes(images, number, seed=seed)
        d = {"published": neighbors.neighbors(made, k), "corrected": neighbors.neighbors(made[::number], k)}
        d["other_volumes"] = neighbors.neighbors(made, k, exclude_group=True)
        found = {name: float(dimension.mle_dimension(near, k, interval=False)) for name, near in d.items()}
        rows.append({"slices": number, "n": len(made), **found})
    return pd.DataFrame(rows)


def stack_finding(table: pd.DataFrame) -> Finding:
    """Changes where d_data moves by more than a quarter with the slices a volume, and with one slice each does not."""
    _need(table, "slices", "published", "corrected")
    move = {name: table[name].max() / table[name].min() for name in ("published", "corrected")}
    changes = bool(move["published"] > 1.25 >= move["corrected"])
    sentence = (
        f"With {table['slices'].min()} to {table['slices'].max()} slices of the same volumes d_data goes from "
        f"{_g(table['published'].iloc[0])} to {_g(table['published'].iloc[-1])}, and with one slice of each from "
        f"{_g(table['corrected'].iloc[0])} to {_g(table['corrected'].iloc[-1])}: "
        f"{_so(changes, 'makes d a matter of how many slices are taken', 'is not what moves d')}."
    )
    return Finding("F4, C8", "d_data of stacks of slices", changes, sentence)


# ----------------------------------------------------------------------------------------- verdicts under other choices

CHOICE_COLUMNS = ("name", "choice", "verdict", "same", "effect", "low", "high", "p")
OVER_RUNS = "runs as units (Pearson's r)"  # F3
UNFITTED = "runs that did not fit as well"  # the published fit, for a hundred epochs whatever they reach


def _columns_of_choices(k: int) -> dict[str, tuple[tuple[str, ...], dict[str, tuple[str, float]]]]:
    """{choice: (claims that it touches, {column: (column that takes its place, factor)})}."""
    of_all = {"d_data": ("d_data_all", 1.0), "k_f": ("k_f_all", 1.0)}
    return {
        "divisor k - 2": (("data_dimension",), {"d_data": ("d_data", (k - 2) / (k - 1))}),
        "all images, not M a class": (
            ("data_dimension", "sharpness_generalization", "sharpness_robustness"),
            of_all,
        ),
        "d_repr against the d_data of all images": (
            ("representation_bound",),
            {"d_data_same_images": ("d_data_all", 1.0)},
        ),
    }


def published_choices(frame: pd.DataFrame, *, k: int = 20, fitted_only: bool = True, **options) -> pd.DataFrame:
    """The four verdicts with one correction undone at a time: CHOICE_COLUMNS, p after Holm over the four.

    The first row of a claim is the corrected test itself (choice "as corrected"). Of the choices of the released code
    those are undone that records can undo: the divisor of the dimension, properties of all images in place of
    one number a class, a d_data of other images than d_repr's, runs that did not fit, and runs as units (F3: Pearson's
    r with Student's p, judged as claim 3's, with the correlation that it claims).
    A choice that changes nothing, as every run has fitted or its columns are missing, has no row; nor has any without
    runs.

    frame     of campaign.runs_frame; k: neighbors behind d_data; options as in statistics.claims
    """

    def rows_of(found, choice, names):
        return [
            {
                "name": name,
                "choice": choice,
                **{key: getattr(v, key) for key in ("effect", "low", "high", "verdict")},
                "p": v.p_holm,
            }
            for name, v in found.items()
            if name in names
        ]

    if frame.empty:
        return pd.DataFrame(columns=list(CHOICE_COLUMNS))
    corrected = statistics.claims(frame, fitted_only=fitted_only, **options)
    rows = rows_of(corrected, "as corrected", corrected)
    for choice, (names, columns) in _columns_of_choices(k).items():
        if not {source for source, _ in columns.values()} <= set(frame.columns):
            continue
        other = frame.assign(**{column: frame[source] * factor for column, (source, factor) in columns.items()})
        rows += rows_of(statistics.claims(other, fitted_only=fitted_only, **options), choice, names)
    if fitted_only and not frame["fitted"].all():
        rows += rows_of(statistics.claims(frame, fitted_only=False, **options), UNFITTED, corrected)
    level = statistics.primary_tests()["sharpness_robustness"].grey_level
    claimed = statistics.primary_tests()["sharpness_robustness"].claimed
    outcomes = {
        "sharpness_generalization": "test_loss_nats",
        "sharpness_robustness": f"loss_penalty_nats_eps{level:g}",
    }
    for name, outcome in outcomes.items():
        if not {"k_f", outcome} <= set(frame.columns):
            continue
        kept, _ = statistics.usable(frame, ["k_f", outcome], fitted_only=fitted_only)
        try:
            r = run_correlation(kept, "k_f", outcome)
        except statistics.NotEnough:
            continue
        tried = replace(corrected[name], effect=r.value, low=r.low, high=r.high, p=r.p, p_holm=None)
        said = replace(tried, n_sets=r.n, claimed=claimed).verdict
        numbers = {"effect": r.value, "low": r.low, "high": r.high, "p": r.p, "verdict": said}
        rows.append({"name": name, "choice": OVER_RUNS, **numbers})
    table = pd.DataFrame(rows)
    own = {name: v.verdict for name, v in corrected.items()}
    table["same"] = table["verdict"] == table["name"].map(own)
    order = {name: i for i, name in enumerate(corrected)}
    table = table.sort_values("name", key=lambda names: names.map(order), kind="stable", ignore_index=True)
    return table[list(CHOICE_COLUMNS)]


def robustness(table: pd.DataFrame) -> dict[str, str]:
    """Of `published_choices`, in words, one text a claim: how many choices leave the verdict, and which change it."""
    said = {}
    for name, part in table[table["choice"] != "as corrected"].groupby("name", sort=False):
        changed = part[~part["same"]]
        text = f"the same under {int(part['same'].sum())} of {len(part)} published choices"
        if len(changed):
            text += "; " + "; ".join(f"with {row.choice}: {row.verdict}" for row in changed.itertuples())
        said[str(name)] = text
    return said


# --------------------------------------------------------------------------------------------------- runs and means


def run_correlation(frame: pd.DataFrame, x: str, y: str) -> statistics.Correlation:
    """Pearson's r with every run as an independent point, and its p of Student's t: the published choice.

    The interval is Fisher's with n runs. Runs of one set share x and its images, so both are too narrow.
    """
    pair = frame[[x, y]].astype(float).dropna()
    made = statistics.correlation(pair[x], pair[y], permutations=1)
    p = float(stats.pearsonr(pair[x], pair[y]).pvalue)
    return replace(made, p=p, smallest_p=math.nan, method="pearson correlation over runs, Student's t")


def mean_correlation(frame: pd.DataFrame, x: str, y: str) -> statistics.Correlation:
    """Pearson's r over image sets (runs averaged: seeds, sizes, models in turn), families counted once, with its p."""
    sets, _ = statistics.family_means(statistics.set_means(frame, [x, y]))
    return statistics.correlation(sets[x], sets[y])


def runs_table(frame: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    """Two rows, over runs (published) and over means of sets (corrected): n, value, low, high, p, smallest_p."""
    rows = []
    for name, compute in (("runs", run_correlation), ("means of sets", mean_correlation)):
        try:
            made = compute(frame, x, y)
            row = {field: getattr(made, field) for field in ("n", "value", "low", "high", "p", "smallest_p")}
        except statistics.NotEnough:
            row = dict.fromkeys(("n", "value", "low", "high", "p", "smallest_p"), math.nan)
            known = frame.dropna(subset=[x, y])
            sets = statistics.family_means(known[[c for c in ("dataset", "family") if c in known]])[0]
            row["n"] = len(known) if name == "runs" else sets["dataset"].nunique()
        rows.append({"over": name, **row})
    return pd.DataFrame(rows)


def runs_finding(table: pd.DataFrame) -> Finding:
    """Changes where p <= 0.05 over runs and not over means of sets, or the reverse; no value counts as not."""
    _need(table, "over", "value", "n", "p", "smallest_p")
    run, mean = (table[table["over"] == name].iloc[0] for name in ("runs", "means of sets"))
    seen = [bool(row["p"] <= 0.05) for row in (run, mean)]
    changes = seen[0] != seen[1]
    text = [
        f"r = {_g(row['value'])} with p = {row['p']:.2g} (n = {int(row['n'])})" if math.isfinite(row["value"]) else
        f"no r (n = {int(row['n'])})"
        for row in (run, mean)
    ]  # fmt: skip
    least = f", of which {mean['smallest_p']:.2g} is the smallest possible" if math.isfinite(mean["p"]) else ""
    sentence = (
        f"Over runs {text[0]}, over means of image sets {text[1]}{least}: "
        f"{_so(changes, 'of the unit decides', 'of the unit does not decide')} whether a relation is seen here."
    )
    return Finding("F3", "a relation between properties and outcomes", changes, sentence)


def share_between(r_runs: float, r_means: float) -> float:
    """Share of the outcome's variance that lies between sets, if r over runs and over means are both right.

        r_runs = r_means sqrt(share)

    exact where every set has as many runs and one x. NaN where no share up to 1 does it.
    """
    share = (r_runs / r_means) ** 2
    return share if share <= 1 and r_runs * r_means > 0 else math.nan


def false_alarms(
    n_sets: int = 11, n_runs: int = 36, between: float = 0.5, simulations: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """How often p <= 0.05 where x and the outcome are unrelated, over runs and over means of sets.

    Each simulation draws one x a set, and outcomes with the share `between` of their variance between sets. p of both
    is Student's t with n - 2 degrees of freedom. Returns over, n, false_alarms, low, high (95 %, Wilson).
    """
    if not 0 <= between <= 1 or n_sets < 3 or n_runs < 1:
        raise ValueError(f"between={between}, n_sets={n_sets}, n_runs={n_runs}: a share, 3 sets and a run at least")
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((simulations, n_sets, 1))
    y = math.sqrt(between) * rng.standard_normal((simulations, n_sets, 1))
    y = y + math.sqrt(1 - between) * rng.standard_normal((simulations, n_sets, n_runs))
    rows = []
    for name, a, b in (
        ("runs", np.repeat(x, n_runs, axis=2).reshape(simulations, -1), y.reshape(simulations, -1)),
        ("means of sets", x[..., 0], y.mean(axis=2)),
    ):
        a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)  # noqa: PLW2901
        r = (a * b).sum(axis=1) / np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
        n = a.shape[1]
        p = 2 * stats.t.sf(np.abs(r) * np.sqrt((n - 2) / (1 - r**2)), n - 2)
        hits = int((p <= 0.05).sum())
        ends = stats.binomtest(hits, simulations).proportion_ci(method="wilson")
        rows.append({"over": name, "n": n, "false_alarms": hits / simulations, "low": ends.low, "high": ends.high})
    return pd.DataFrame(rows)


def false_alarms_finding(table: pd.DataFrame) -> Finding:
    """Changes where tests over runs give more than 5 % false alarms (interval above 0.05)."""
    _need(table, "over", "false_alarms", "low", "high")
    run, mean = (table[table["over"] == name].iloc[0] for name in ("runs", "means of sets"))
    changes = bool(run["low"] > 0.05)
    sentence = (
        f"Where there is no relation at all, a test over runs finds one in {run['false_alarms']:.0%} of cases (95 % "
        f"interval {run['low']:.0%} to {run['high']:.0%}), a test over means in {mean['false_alarms']:.0%}: "
        f"{_so(changes, 'of runs as the unit invents relations', 'of runs as the unit is harmless')}."
    )
    return Finding("F3", "p of correlations over runs", changes, sentence)
