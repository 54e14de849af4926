"""What the simulations share: cases side by side on all cores, shares with intervals, and the tables of the book."""

import argparse
import json
import math
import platform
from importlib.metadata import version
from pathlib import Path

import joblib
from scipy.stats import binomtest

from intrinsic.campaigns.records import write_text
from intrinsic.images import REPOSITORY

TABLES = REPOSITORY / "book" / "methods" / "tables"
LIBRARIES = ("numpy", "scipy", "scikit-learn")


def parser(about):
    """--small and --output, which every simulation takes."""
    made = argparse.ArgumentParser(description=about.splitlines()[0])
    made.add_argument("--small", action="store_true", help="one case, few samples: shows that it works")
    made.add_argument("--output", type=Path, default=TABLES, help="folder of the tables")
    return made


def side_by_side(function, cases):
    """function(*case) of all cases, on all cores, in the order of the cases."""
    return joblib.Parallel(n_jobs=-1 if len(cases) > 1 else 1, verbose=5)(
        joblib.delayed(function)(*case) for case in cases
    )


def share(hits, n, method):
    """(share, low, high) of hits in n, with the 95 % interval "exact" (Clopper and Pearson) or "wilson"."""
    ends = binomtest(hits, n).proportion_ci(method=method)
    return hits / n, float(ends.low), float(ends.high)


def publish(folder, name, digits=6, **table):
    """Write a table with the versions behind it; numbers to so many digits, what is not finite as null."""
    table["versions"] = {one: version(one) for one in LIBRARIES} | {"python": platform.python_version()}
    text = json.dumps(_rounded(table, digits), indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False)
    write_text(folder / f"{name}.json", text + "\n")
    print(f"written: {folder / name}.json")


def _rounded(value, digits):
    if isinstance(value, dict):
        return {key: _rounded(one, digits) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(one, digits) for one in value]
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None
    return value
