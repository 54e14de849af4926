"""An image set as a campaign uses it, and its properties record."""

import math
from dataclasses import dataclass

import numpy as np

from intrinsic.images import ImageSet, as_unit, balanced_draws, cache, load
from intrinsic.properties import dimension, growth, sharpness
from intrinsic.properties.duplicates import near_duplicate_components
from intrinsic.properties.interval import Interval
from intrinsic.properties.neighbors import BadPoints, neighbors
from intrinsic.properties.pairs import closest_pairs

HELD_BYTES = 2**31  # of pixels of sets that a process keeps
COMPONENTS_VERSION = 2  # raise it when near_duplicate_components finds other components of the same images
GROWTH_SIZES = (16, 31, 50, 62, 100, 125, 250, 500, 1000, 2000)  # M of the growth series of a record
DIMENSION_SIZES = (50, 100, 250)  # M at which a record has d_data


class OneClass(ValueError):
    """All labels are equal, so they never change."""


@dataclass(frozen=True)
class Matched:
    """An image set as a campaign uses it: matched, without same-label copies, with split groups."""

    images: ImageSet
    groups: np.ndarray
    n_copies: int
    n_conflicting: int
    hash: str


_held: dict[tuple, Matched] = {}  # the latest last


def matched(source: str, size: int | None = None, channels: int | None = None, pixel_range: str = "stored") -> Matched:
    """Load, match, drop exact copies of the same label, and find the groups that splits respect.

    Where patients or volumes are unknown, connected components of near-duplicates act as groups, kept by the content of
    the set. A process keeps the sets that it used last, up to HELD_BYTES.
    """
    key = (source, size, channels, pixel_range)
    data = _held.pop(key, None) or _matched(*key)
    _held[key] = data
    while len(_held) > 1 and sum(one.images.images.nbytes for one in _held.values()) > HELD_BYTES:
        del _held[next(iter(_held))]
    return data


def _matched(source, size, channels, pixel_range):
    loaded = load(source, size=size, channels=channels, pixel_range=pixel_range)
    found, kept = loaded.duplicates(), loaded.drop_duplicates()
    groups, content = kept.group, kept.content_hash()
    if groups is None:
        key = ["near-duplicate components", str(COMPONENTS_VERSION), content]
        groups = cache.kept(key, lambda: near_duplicate_components(kept))
    return Matched(kept, groups, found.n_copies, found.n_conflicting, content)


def without_conflicts(data: Matched) -> ImageSet:
    """The images without an exact copy of another label: those with a finite K_F."""
    return data.images.drop_duplicates(conflicting=True) if data.n_conflicting else data.images


def smallest_class(images: ImageSet) -> int:
    """How many images the smallest class has; raises OneClass where labels never change."""
    counts = [n for n in images.counts().values() if n]
    if len(counts) < 2:
        raise OneClass(f"{images.name} has 1 class, so no label ever changes: give at least two, one folder each")
    return min(counts)


def properties(data: Matched, *, per_class: int, draws: int, k: int, seed: int = 0):
    """(metrics, reasons, series) of an image set: d_data and K_F at M a class, and from all images.

    d_data and K_F that are compared are means over `draws` seeded balanced draws of M images a class. Where the source
    gives groups, neighbors of the same group are left out of d_data, and `d_mle_any_group` is the one with them. The
    values from all images have the ending `_all`. Infinite label sharpness (copies with different labels) is None, and
    k_f_without_conflicts is finite. A value that cannot be had is None with its reason.
    """
    clean = without_conflicts(data)
    least, near, pixels = smallest_class(clean), neighbors(clean, k, reserve=dimension.reserve(k)), as_unit(clean)
    groups = data.groups[data.images.distinct(conflicting=bool(data.n_conflicting))]
    of_draws = {"per_class": per_class, "draws": draws, "seed": seed}
    k_f, control = sharpness.label_sharpness(near), sharpness.same_label_control(near, seed=seed)
    values = {
        "d_mle_all": dimension.mle_dimension(near, k),
        "d_twonn_all": dimension.twonn_dimension(near),
        "k_f_all": k_f,
        "k_f_control": control,
        "k_f_ratio": control.ratio,
        "growth_exponent": or_reason(growth.growth_exponent, near, seed=seed),
        "cross_dimension": growth.cross_dimension(near, seed=seed),
    }
    for q in sharpness.quantile_sharpness(near, seed=seed):
        values[f"k_f_q{round(100 * q.quantile):02d}"] = q
    reasons = {}
    metrics = {
        "n": len(data.images),
        "n_classes": data.images.n_classes,
        "n_copies": data.n_copies,
        "n_conflicting": data.n_conflicting,
        "n_groups": len(np.unique(data.groups)),
        "k_f_without_conflicts": float(k_f),
        "least_bound": None,
        "brightness": float(pixels.mean()),
        # root of twice the summed variance of the pixels: the root mean square distance of two images
        "contrast": math.sqrt(2 * pixels.flatten(1).var(0, correction=0).double().sum()),
    }
    if least >= per_class:
        values["d_mle"], values["d_twonn"] = draws_dimensions(near, clean.group, k=k, **of_draws)
        values["k_f"] = sharpness.mean_sharpness(near, **of_draws)
        metrics["least_bound"] = least_bound(near, **of_draws)
        metrics |= hidden_variables(near, clean.group, groups, k=k, **of_draws)
    else:
        reasons["least_bound"] = why = f"the smallest class has {least} images, fewer than M = {per_class}"
        values |= dict.fromkeys(("d_mle", "d_twonn", "k_f"), Interval(math.nan, method=why))
    if len(np.unique(groups)) < len(groups):
        _put(metrics, reasons, "d_mle_other_groups", or_reason(_other_groups, clean, k, groups), ("",))
    for key, value in values.items():
        _put(metrics, reasons, key, value)
    if data.n_conflicting:
        for name in ("k_f_all", "k_f_all_low", "k_f_all_high"):
            metrics[name], reasons[name] = None, f"infinite: {data.n_conflicting} images have a copy with another label"
    if least >= growth.LEAST_IMAGES:
        halves = growth.growth_by_halves(near, seed=seed)
        metrics |= {f"growth_{name}_by_halves": value for name, value in halves.items()}
    sizes, k_f = grown(near, least, draws=draws, seed=seed)
    of_draws = {"k": k, "draws": draws, "seed": seed, "interval": False}
    d = {m: draws_dimensions(near, clean.group, per_class=m, **of_draws)[0] for m in DIMENSION_SIZES if m <= least}
    d = {m: float(value) for m, value in d.items() if math.isfinite(value)}
    series = {"growth_per_class": sizes, "growth_k_f": k_f, "d_mle_per_class": list(d), "d_mle_at": list(d.values())}
    return metrics, reasons, series


def grown(near, least: int, **of_draws) -> tuple[list, list]:
    """(M, K_F(M)) of GROWTH_SIZES that the smallest class, of `least` images, has."""
    sizes = [m for m in GROWTH_SIZES if m <= least]
    return sizes, growth.growth(near, per_class=sizes, **of_draws)[1].tolist() if sizes else []


def or_reason(estimate, *given, **options) -> Interval:
    """What an estimator finds, or NaN with the reason as method."""
    try:
        return estimate(*given, **options)
    except BadPoints as error:
        return Interval(math.nan, method=str(error))


def draws_dimensions(x, group=None, **of_draws) -> tuple[Interval, Interval]:
    """mean_dimensions; NaN with the reason as method where it has none."""
    found = or_reason(dimension.mean_dimensions, x, group=group, **of_draws)
    return found if isinstance(found, tuple) else (found, found)


def hidden_variables(near, group, families, *, k: int, per_class: int, draws: int, seed: int) -> dict:
    """What may stand behind d_data and K_F, at the same draws.

    d_mle_any_group        d_data with neighbors of the same group
    d_mle_other_families   d_data without near-duplicates, where groups are unknown
    nearest_distance       median distance to the nearest image, whatever its label
    k_f_by_lot             K_F of labels that say nothing of position
    k_f_between_groups     K_F without pairs of one group, where groups are known
    """
    of_draws = {"per_class": per_class, "draws": draws, "seed": seed, "interval": False}
    chosen = balanced_draws(near.labels, per_class, draws, seed)
    found = {
        "d_mle_any_group": draws_dimensions(near, k=k, **of_draws)[0],
        "d_mle_other_families": draws_dimensions(near, families, k=k, **of_draws)[0],
        "nearest_distance": np.mean([np.median(near.subset(one, 1).distances[:, 0]) for one in chosen]),
    }
    lot = growth.labels_by_lot(near.labels, group, seed)
    if np.unique(lot, return_counts=True)[1].min() >= per_class:
        found["k_f_by_lot"] = sharpness.mean_sharpness(near.points, lot, **of_draws)
    if group is not None:
        pairs = closest_pairs(near, near.labels).between(group)
        found["k_f_between_groups"] = np.mean([pairs.within(one)[0] or math.nan for one in chosen])
    return {name: float(value) for name, value in found.items() if math.isfinite(value)}


def _other_groups(images, k, groups):
    """MLE without neighbors of the same group."""
    near = neighbors(images, k, group=groups, exclude_group=True, reserve=dimension.reserve(k))
    return dimension.mle_dimension(near, k)


def least_bound(near, *, per_class: int, draws: int, seed: int = 0) -> float:
    """The smallest value that Theorem 1 can promise, whatever network interpolates, mean over seeded balanced draws.

        (K_f + K_F) E delta_N >= 2 K_F_hat E delta_N,    measured as  2 * mean T_1 / smallest distance between labels

    From 1 on the bound says nothing about these labels at this number of images. No copies may have two labels.
    """
    bounds = []
    for chosen in balanced_draws(near.labels, per_class, draws, seed):
        one = near.subset(chosen, 1)
        bounds.append(2 * one.distances[:, 0] / one.opposite_distance.min())
    return float(np.mean(bounds, axis=1).mean())


def _put(metrics, reasons, key, value, ends=("", "_low", "_high")):
    """A value and the ends of its interval, None with a reason where they are not finite."""
    for end in ends:
        number = float(getattr(value, end[1:])) if end else float(value)
        metrics[key + end] = number if math.isfinite(number) else None
        if metrics[key + end] is None:
            reasons[key + end] = value.method
