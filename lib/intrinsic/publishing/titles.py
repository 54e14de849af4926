"""Names in words: image sets, networks and pages of sets, as figures, tables and sentences write them."""

import functools
import math
import re
from pathlib import Path

import pandas as pd
import yaml

from intrinsic import images
from intrinsic.properties.interval import Interval, digits


@functools.cache
def _short_titles() -> dict:
    return yaml.safe_load((images.REPOSITORY / "params" / "titles.yaml").read_text(encoding="utf-8"))


def set_title(name: str) -> str:
    """Name an image set of the catalogue, or a folder, in a few words.

    Examples
    --------
    >>> set_title("knee_xray_oa"), set_title("photos_cat_dog"), set_title("/data/scans/")
    ('Knee X-ray osteoarthritis', 'Photos, cat or dog', 'scans')
    """
    entry = images.catalogue().get(str(name))
    if entry is None:
        return _short_titles().get(str(name)) or Path(str(name)).name or str(name)
    base, _, pair = str(name).partition("-pair")
    short = _short_titles().get(base) or entry.title.partition(",")[0]
    classes = entry.title.rpartition(": ")[2].replace(" against ", " or ")
    return f"{short}: {classes}" if pair else short


def network_title(name: str) -> str:
    """Name a network as papers do.

    Examples
    --------
    >>> network_title("resnet18"), network_title("vgg13_bn"), network_title("mine")
    ('ResNet-18', 'VGG-13 with batch normalization', 'mine')
    """
    found = re.fullmatch(r"(resnet|vgg)(\d+)(_bn)?", str(name))
    if not found:
        return str(name)
    family = {"resnet": "ResNet", "vgg": "VGG"}[found[1]]
    return f"{family}-{found[2]}" + (" with batch normalization" if found[3] else "")


def set_page(name: str) -> str:
    """The place of the book that holds the numbers of an image set."""
    return f"book/reference/coverage.html#set-{re.sub(r'[^a-z0-9]+', '-', str(name).lower()).strip('-')}"


COLUMNS = {"dataset": "Image set", "set": "Image set", "model": "Network", "network": "Network", "domain": "Domain"}
COLUMNS |= {"n_train": "Training images N", "per_class": "Images a class M", "test_accuracy": "Test accuracy"}
COLUMNS |= {
    "d_data": "Intrinsic dimension d_data",
    "d_data_other_groups": "Intrinsic dimension d_data (neighbors of other patients)",
    "k_f": "Label sharpness K_F (per unit of L2 distance, pixels in [0, 1])",
    "d_repr": "Dimension of the representation d_repr",
    "test_loss_nats": "Test loss (nats)",
    "test_error": "Test error (share of test images)",
    "loss_penalty_nats_eps2": "Loss added by FGSM at 2/255 (nats)",
    "accuracy_penalty_eps2": "Accuracy lost to FGSM at 2/255",
    "growth_exponent": "Exponent of growth",
}


def number(value) -> str:
    """Write a number with three significant digits, a whole number in full.

    Examples
    --------
    >>> number(0.26377), number(-1234.5), number(5051), number(float("nan"))
    ('0.264', '−1,230', '5,051', '–')
    """
    if value is None or pd.isna(value):
        return "–"
    return f"{int(value):,}".replace("-", "−") if float(value).is_integer() else digits(value)


def interval_texts(frame: pd.DataFrame, column: str) -> list[str]:
    """Write the values of a column, each with the interval that stands in the columns COLUMN_low and COLUMN_high."""
    ends = [frame.get(f"{column}_{end}", [math.nan] * len(frame)) for end in ("low", "high")]
    rows = zip(frame[column], *ends, strict=True)
    return ["–" if pd.isna(value) else str(Interval(value, low, high)) for value, low, high in rows]


def p_value(p: float) -> str:
    """Write a p-value as `p = 0.03` or `p < 0.001`."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def percent(share: float) -> str:
    """Write a share as a percentage.

    Examples
    --------
    >>> percent(0.347)
    '35 %'
    """
    return f"{100 * share:.0f} %".replace("-", "−")
