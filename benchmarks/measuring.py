"""What the speed scripts share: calls in turn, ratios within a turn, the machine in words, the file of results.

Seconds of one machine say little about another, so methods are called in turn and compared within a turn.
"""

import argparse
import json
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parent / "results"
LIBRARIES = ("torch", "numpy", "numba", "scikit-learn", "scikit-dimension", "faiss-cpu", "torchattacks", "distributed")


def settings(about, argv, turns):
    """Read --small, --turns and --output, which every speed script takes."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="the smallest sizes, one turn: shows that it works")
    parser.add_argument("--turns", type=int, default=turns, help=f"counted calls of each method ({turns})")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    chosen = parser.parse_args(argv)
    chosen.turns = 1 if chosen.small else chosen.turns
    return chosen


def in_turn(methods, turns, warm=1):
    """Call the methods one after the other; ({name: seconds of each turn}, {name: last result}) without warm turns."""
    seconds, results = {name: [] for name in methods}, {}
    for turn in range(warm + turns):
        for name, method in methods.items():
            started = time.perf_counter()
            results[name] = method()
            if turn >= warm:
                seconds[name].append(time.perf_counter() - started)
    return {name: np.array(found) for name, found in seconds.items()}, results


def spread(values):
    """Median, least and greatest over turns."""
    return {"median": float(np.median(values)), "low": float(np.min(values)), "high": float(np.max(values))}


def said(found):
    """Write a spread in words."""
    return f"{found['median']:.3g} [{found['low']:.3g}, {found['high']:.3g}]"


def machine():
    """Describe the machine: processor, cores, threads, load and versions."""
    import torch

    name, info = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if info.exists():
        named = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        name = named[0] if named else name
    return {
        "processor": name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "versions": {library: version(library) for library in LIBRARIES},
    }


def write(found, folder, name):
    """Write the results as JSON, whole or not at all."""
    from intrinsic.campaigns.records import write_text

    target = folder / f"{name}.json"
    write_text(target, json.dumps({"machine": machine(), **found}, indent=1, allow_nan=False) + "\n")
    print(f"written: {target}")
