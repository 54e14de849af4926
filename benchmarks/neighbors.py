"""d_data (MLE and TwoNN) and K_F together: ours against the peers, same images, same machine, one run.

Prints a table of seconds, of ratios to ours, and of the largest relative error of the k-th neighbor's
distance against integers; writes it to benchmarks/results/neighbors.md.

usage: python benchmarks/neighbors.py [--small]
"""

import argparse
import platform
import time
from pathlib import Path

import numpy as np
import skdim
import torch
from sklearn.neighbors import NearestNeighbors

from intrinsic import dimension, neighbors, sharpness

K = 20


def ours(x, y):
    near = neighbors.neighbors(x, K, labels=y)
    dimension.mle_dimension(near, K, interval=False)
    dimension.twonn_dimension(near, interval=False)
    sharpness.label_sharpness(near, interval=False)
    return near.distances


def scikit_dimension_and_cdist(x, y):
    points = x.astype(np.float64) / 255
    skdim.id.MLE().fit(points, n_neighbors=K)
    skdim.id.TwoNN().fit(points)
    return torch_cdist(x, y)


def torch_cdist(x, y):
    points = torch.from_numpy(x.astype(np.float32) / 255)
    labels = torch.from_numpy(y)
    distances = torch.cdist(points, points)
    distances.fill_diagonal_(torch.inf)
    float(distances[labels[:, None] != labels[None, :]].min())
    return torch.topk(distances, K, largest=False).values.numpy()


def scikit_learn(x, y):
    points = x.astype(np.float32) / 255
    found = NearestNeighbors(n_neighbors=K, algorithm="brute").fit(points).kneighbors()[0]
    for label in np.unique(y):
        other = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(points[y != label])
        other.kneighbors(points[y == label])
    return found


def images(n, side, seed=0):
    """Smooth random images, a tenth of them with a near-duplicate one grey level in one pixel apart."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(n, 6, 6))
    grid = np.linspace(0, 5, side)
    basis = np.maximum(0, 1 - np.abs(grid[:, None] - np.arange(6)))
    smooth = basis @ coarse @ basis.T
    x = np.clip(128 + 50 * smooth, 0, 255).astype(np.uint8).reshape(n, -1)
    half = n // 10
    x[-half:] = x[:half]
    x[-half:, 0] ^= 1
    return x, rng.integers(0, 2, n)


def exact(x, rows):
    """The k-th neighbor's distance of some rows from integers."""
    out = []
    for i in rows:
        squares = ((x.astype(np.int64) - x[i].astype(np.int64)) ** 2).sum(1)
        squares[i] = np.iinfo(np.int64).max
        out.append(np.sqrt(np.sort(squares)[:K]) / 255)
    return np.array(out)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="the smallest size only")
    sizes = [(1750, 28)] if parser.parse_args().small else [(1750, 28), (5000, 28), (5000, 56)]
    lines = ["| images x pixels | method | seconds | times ours | largest relative error |", "|-|-|-|-|-|"]
    for n, side in sizes:
        x, y = images(n, side)
        rows = np.r_[0:25, n - 25 : n]
        truth, base = exact(x, rows), None
        for method in (ours, scikit_dimension_and_cdist, torch_cdist, scikit_learn):
            clock = []
            for _ in range(3):
                started = time.perf_counter()
                found = method(x, y)
                clock.append(time.perf_counter() - started)
            seconds = float(np.median(clock))
            base = base or seconds
            error = float(np.max(np.abs(found[rows] - truth) / truth))
            name = method.__name__.replace("_", " ")
            lines.append(f"| {n:,} x {side * side:,} | {name} | {seconds:.2f} | {seconds / base:.1f} | {error:.0e} |")
            print(lines[-1], flush=True)
    head = (
        "# Neighbors, dimension and sharpness\n\n"
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}; "
        "median of three calls in one process.\n\n"
    )
    out = Path(__file__).parent / "results" / "neighbors.md"
    out.parent.mkdir(exist_ok=True)
    out.write_text(head + "\n".join(lines) + "\n", encoding="utf-8")
    print(out)


if __name__ == "__main__":
    main()
