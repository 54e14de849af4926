"""d_data (MLE and TwoNN) and K_F together: ours against the field, same images, same machine, one process.

Prints one table, and writes it with the machine's description to benchmarks/results/neighbors.json and .md. Methods are
called in turn, several times each; seconds are medians, and ratios are medians of the ratios within a turn.

usage: python benchmarks/neighbors.py [--small] [--turns N] [--output FOLDER]
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_info

K = 20
SIZES = [(1_750, 12_288), (5_000, 3_072), (20_000, 784), (20_000, 3_072)]
SMALL = [(1_000, 784), (2_000, 784)]
NEAR = 1e-4  # a near-duplicate differs from its original by this, relative to its length (float points)


# ---------------------------------------------------------------------------------------------- the methods


def ours(x, y):
    """Neighbors of every point and its nearest with another label; MLE, TwoNN, K_F."""
    from intrinsic.properties import dimension, sharpness
    from intrinsic.properties.neighbors import neighbors

    near = neighbors(x, K, labels=y, device="cpu")
    dimension.mle_dimension(near, K, interval=False)
    dimension.twonn_dimension(near, interval=False)
    sharpness.label_sharpness(near, interval=False)
    return near.distances


def scikit_dimension(x, y):
    """MLE and TwoNN of scikit-dimension, K_F by torch.cdist."""
    import skdim

    points = as_floats(x)
    skdim.id.MLE().fit(points, n_neighbors=K)
    skdim.id.TwoNN().fit(points)
    points, labels = torch.from_numpy(points), torch.from_numpy(y)
    float(torch.cdist(points[labels == 0], points[labels == 1]).min())


def faiss_flat(x, y):
    """k neighbors by FAISS's exact index; no K_F."""
    import faiss

    points = as_floats(x)
    index = faiss.IndexFlatL2(points.shape[1])
    index.add(points)
    squared, found = index.search(points, K + 1)
    return np.sqrt(np.maximum(without_self(squared, found), 0))


def scikit_learn(x, y):
    """k neighbors by scikit-learn's brute force; no K_F."""
    from sklearn.neighbors import NearestNeighbors

    points = as_floats(x)
    return NearestNeighbors(n_neighbors=K, algorithm="brute").fit(points).kneighbors()[0]


def torch_cdist(x, y):
    """k neighbors and K_F from torch.cdist, in blocks."""
    points, labels = torch.from_numpy(as_floats(x)), torch.from_numpy(y)
    found, sharpest = [], torch.inf
    for start in range(0, len(points), 2_000):
        rows = slice(start, start + 2_000)
        distances = torch.cdist(points[rows], points)
        sharpest = min(sharpest, float(distances[labels[rows, None] != labels].min()))
        distances[torch.arange(len(distances)), torch.arange(start, start + len(distances))] = torch.inf
        found.append(torch.topk(distances, K, largest=False).values)
    return torch.cat(found).numpy()


METHODS = [ours, scikit_dimension, faiss_flat, scikit_learn, torch_cdist]


def as_floats(x):
    """Points as float32, as all of the field takes them; images in [0, 1]."""
    return (x / np.float32(255)) if x.dtype == np.uint8 else x


def without_self(values, found):
    """The K nearest others: self left out by index, or the last if a copy took its place."""
    keep = found != np.arange(len(found))[:, None]
    keep[keep.all(axis=1), -1] = False
    return values[keep].reshape(len(values), K)


# ------------------------------------------------------------------------------------------------- the data


def images(n, pixels, seed=0):
    """Smooth random images, a tenth of them with a near-duplicate one grey level in one pixel apart."""
    channels = 3 if pixels % 3 == 0 else 1
    side = int(np.sqrt(pixels // channels))
    rng = np.random.default_rng(seed)
    grid = np.linspace(0, 5, side)
    basis = np.maximum(0, 1 - np.abs(grid[:, None] - np.arange(6)))
    x = np.empty((n, side, side, channels), dtype=np.uint8)
    for start in range(0, n, 500):
        coarse = rng.normal(size=(len(x[start : start + 500]), channels, 6, 6))
        levels = 128 + 50 * (basis @ coarse @ basis.T) + rng.normal(0, 4, (*coarse.shape[:2], side, side))
        x[start : start + 500] = np.clip(levels, 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
    x = x.reshape(n, -1)
    few = n // 10
    x[-few:] = x[:few]
    x[-few:, 0] ^= 1
    return x, rng.integers(0, 2, n)


def points(n, coordinates, seed=0):
    """The same as float points in [0, 1], with near-duplicates a relative NEAR apart."""
    x, y = images(n, coordinates, seed)
    x = x.astype(np.float32) / 255
    few = n // 10
    rng = np.random.default_rng(seed + 1)
    step = rng.standard_normal((few, x.shape[1])).astype(np.float32)
    step *= NEAR * np.linalg.norm(x[:few], axis=1, keepdims=True) / np.linalg.norm(step, axis=1, keepdims=True)
    x[-few:] = x[:few] + step
    return x, y


def exact(x, rows):
    """Distances of some rows to their K nearest others, from differences: integers, or float64."""
    wide, out = x.astype(np.int64 if x.dtype == np.uint8 else np.float64), []
    for i in rows:
        squared = ((wide - wide[i]) ** 2).sum(axis=1).astype(np.float64)
        squared[i] = np.inf
        out.append(np.sqrt(np.sort(squared)[:K]))
    return np.array(out) / (255 if x.dtype == np.uint8 else 1)


# ------------------------------------------------------------------------------------------- measuring


def product_rates():
    """The machine's own limit: billions of operations a second in products of 8-bit and of float32 numbers.

    The faster of torch's and numpy's: on some processors one of them does not use the widest instructions.
    """
    a = torch.randint(-128, 128, (2048, 4096), dtype=torch.int8)
    b = a.to(torch.float32)
    return {
        "8 bits": product_rate(lambda: torch._int_mm(a, a.T)),
        "float32": max(product_rate(lambda: b @ b.T), product_rate(lambda: b.numpy() @ b.numpy().T)),
    }


def product_rate(product):
    """Billions of operations a second of a product of 2048 x 4096 with its transpose; the best of seven."""
    product()
    seconds = []
    for _ in range(7):
        started = time.perf_counter()
        product()
        seconds.append(time.perf_counter() - started)
    return 2 * 2048 * 2048 * 4096 / min(seconds) / 1e9


def peak_memory(method, kind, n, pixels):
    """Bytes that the method takes beside the points: the peak of a process of its own, less that with the points made.

    From /proc, since a child's getrusage may hold its parent's peak; None where there is no /proc.
    """
    if not Path("/proc/self/status").exists():
        return None
    code = f"""
import ctypes, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import neighbors as bench

def peak():
    (line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    return 1024 * int(line.split()[1])

x, y = bench.{kind}(1000, 784)
bench.{method}(x, y)
x, y = bench.{kind}({n}, {pixels})
getattr(ctypes.CDLL(None), "malloc_trim", int)(0)  # give back what making the points has left
open("/proc/self/clear_refs", "w").write("5")  # the peak starts again from what is held now
before = peak()
bench.{method}(x, y)
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout.splitlines()[-1])


def mebibytes(size):
    """In MiB, or None."""
    return None if size is None else round(size / 2**20, 1)


def share_in_products(x, y):
    """How much of our time the products take: seconds inside them over seconds in all, per thread."""
    from intrinsic.properties import products

    spent, threads = [], torch.get_num_threads()
    originals = {cls: cls.product for cls in (products.Integers, products.Floats)}

    def timed(original):
        def product(self, rows, columns, out=None):
            started = time.perf_counter()
            found = original(self, rows, columns, out)
            spent.append(time.perf_counter() - started)
            return found

        return product

    for cls, original in originals.items():
        cls.product = timed(original)
    try:
        started = time.perf_counter()
        ours(x, y)
        whole = time.perf_counter() - started
    finally:
        for cls, original in originals.items():
            cls.product = original
    return sum(spent) / threads / whole


def compare(kind, n, pixels, turns):
    """One row for each method: seconds, ratio to ours, largest relative error, by all methods in turn."""
    x, y = globals()[kind](n, pixels)
    few = n // 10
    rows = np.r_[0:20, n - few : n - few + 20, n // 2 : n // 2 + 20]
    truth = exact(x, rows)
    seconds, error = {m.__name__: [] for m in METHODS}, {}
    warm = n < 20_000  # the first turn compiles and warms up; the last sizes come when that is long done
    for turn in range(turns + warm):
        for method in METHODS:
            started = time.perf_counter()
            found = method(x, y)
            if turn >= warm:
                seconds[method.__name__].append(time.perf_counter() - started)
            if found is not None:
                error[method.__name__] = float(np.max(np.abs(found[rows] - truth) / truth))
    base = np.array(seconds["ours"])
    share = float(np.median([share_in_products(x, y) for _ in range(3)]))
    for method in METHODS:
        name, times = method.__name__, np.array(seconds[method.__name__])
        yield {
            "points": "uint8 images" if kind == "images" else "float32 points",
            "n": n,
            "D": pixels,
            "method": name,
            "seconds": float(np.median(times)),
            "seconds_low": float(times.min()),
            "seconds_high": float(times.max()),
            "times_ours": float(np.median(times / base)),
            "largest_relative_error": error.get(name),
            "peak_memory_mib": mebibytes(peak_memory(name, kind, n, pixels)),
            "share_in_products": share if name == "ours" else None,
        }


def growth(rows):
    """Exponents of time in n and in D, between the smallest and the largest of sizes that share the other."""
    seconds = {(row["points"], row["method"], row["n"], row["D"]): row["seconds"] for row in rows}
    found = []
    for kind, method in dict.fromkeys((row["points"], row["method"]) for row in rows):
        one = {(n, d): t for (k, m, n, d), t in seconds.items() if (k, m) == (kind, method)}
        exponents = {"points": kind, "method": method}
        for name, axis in (("n", 0), ("D", 1)):
            pairs = [(a, b) for a in one for b in one if a[axis] < b[axis] and a[1 - axis] == b[1 - axis]]
            a, b = max(pairs, key=lambda pair: pair[1][axis] / pair[0][axis], default=(None, None))
            slope = None if a is None else float(np.log(one[b] / one[a]) / np.log(b[axis] / a[axis]))
            exponents[f"exponent of {name}"] = slope
        found.append(exponents)
    return found


def machine():
    """What it was measured on, in words; `products`: for which processor the libraries of products choose their code.

    OPENBLAS_CORETYPE in the environment can make them choose an older one, which is half as fast.
    """
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        found = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        name = found[0] if found else name
    kernels = {f"{one['internal_api']} {one['architecture']}" for one in threadpool_info() if "architecture" in one}
    libraries = ("torch", "numpy", "numba", "scikit-learn", "scikit-dimension", "faiss-cpu")
    return {
        "processor": name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "products": sorted(kernels),
        "python": platform.python_version(),
        "versions": {library: version(library) for library in libraries},
    }


def main():
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="two small sizes: a minute")
    parser.add_argument(
        "--turns", type=int, default=5, help="counted calls of each method (5); 2 from 20,000 points on"
    )
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    found = {"machine": machine(), "turns": arguments.turns, "rates": product_rates(), "rows": []}
    print(f"{found['machine']['processor']}, {found['machine']['threads']} threads; products:", end=" ")
    print(", ".join(f"{name} {rate:.0f} GOP/s" for name, rate in found["rates"].items()), flush=True)
    for n, pixels in SMALL if arguments.small else SIZES:
        for kind in ("images", "points"):
            for row in compare(kind, n, pixels, arguments.turns if n < 20_000 else min(2, arguments.turns)):
                found["rows"].append(row)
                error = row["largest_relative_error"]
                share, memory = row["share_in_products"], row["peak_memory_mib"]
                print(
                    f"{row['n']:>6} x {row['D']:<6} {row['points']:<14} {row['method']:<17} {row['seconds']:7.3f} s"
                    f"  x{row['times_ours']:5.1f}"
                    + (f"  {memory:6.0f} MiB" if memory is not None else "")
                    + (f"  error {error:.0e}" if error is not None else "")
                    + (f"  products {share:.0%}" if share else ""),
                    flush=True,
                )
    found["growth"] = growth(found["rows"])
    write(found, arguments.output, "neighbors")


def write(found, folder, name):
    """JSON, by way of a draft."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=folder, suffix=".draft", delete=False, encoding="utf-8") as draft:
        json.dump(found, draft, indent=1, allow_nan=False)
        draft.write("\n")
    os.chmod(draft.name, 0o644)
    target = folder / f"{name}.json"
    os.replace(draft.name, target)
    print(f"written: {target}")


if __name__ == "__main__":
    main()
