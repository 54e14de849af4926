"""Neighbors, d_data (MLE and TwoNN) and K_F together: ours against the field, same points, one process.

Prints a table and writes it to benchmarks/results/neighbors.json. Peers give no intervals, so ours is called without
them, and again with them; ratios are to both.

usage: python benchmarks/neighbors.py [--small] [--turns N] [--output FOLDER]
"""

import faiss
import numpy as np
import skdim
import torch
from measuring import in_turn, settings, write
from sklearn.neighbors import NearestNeighbors

from intrinsic.properties import dimension, sharpness
from intrinsic.properties.neighbors import neighbors

K = 20
SIZES = [(1_750, 12_288), (5_000, 3_072), (20_000, 784), (20_000, 3_072)]
SMALL = [(500, 784)]
NEAR = 1e-4  # a near-duplicate differs from its original by this, relative to its length (float points)


def ours(x, y, interval=False):
    """Neighbors of every point and its nearest with another label; MLE, TwoNN, K_F."""
    near = neighbors(x, K, labels=y, device="cpu", reserve=dimension.reserve(K) if interval else 0)
    dimension.mle_dimension(near, K, interval=interval)
    dimension.twonn_dimension(near, interval=interval)
    sharpness.label_sharpness(near, interval=interval)
    return near.distances


def with_intervals(x, y):
    """The same with all three intervals."""
    return ours(x, y, interval=True)


def scikit_dimension(x, y):
    """MLE and TwoNN of scikit-dimension, K_F by torch.cdist."""
    points = as_floats(x)
    skdim.id.MLE().fit(points, n_neighbors=K)
    skdim.id.TwoNN().fit(points)
    points, labels = torch.from_numpy(points), torch.from_numpy(y)
    float(torch.cdist(points[labels == 0], points[labels == 1]).min())


def faiss_flat(x, y):
    """k neighbors by FAISS's exact index; no K_F."""
    points = as_floats(x)
    index = faiss.IndexFlatL2(points.shape[1])
    index.add(points)
    squared, found = index.search(points, K + 1)
    keep = found != np.arange(len(found))[:, None]
    keep[keep.all(axis=1), -1] = False  # a copy took the place of the point itself
    return np.sqrt(np.maximum(squared[keep].reshape(len(x), K), 0))


def scikit_learn(x, y):
    """k neighbors by scikit-learn's brute force; no K_F."""
    return NearestNeighbors(n_neighbors=K, algorithm="brute").fit(as_floats(x)).kneighbors()[0]


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


METHODS = (ours, with_intervals, scikit_dimension, faiss_flat, scikit_learn, torch_cdist)


def as_floats(x):
    """Points as float32, as all of the field takes them; images in [0, 1]."""
    return (x / np.float32(255)) if x.dtype == np.uint8 else x


def images(n, pixels, seed=0):
    """Smooth random images, a tenth of them with a near-duplicate one grey level in one pixel away."""
    channels = 3 if pixels % 3 == 0 else 1
    side = int(np.sqrt(pixels // channels))
    rng = np.random.default_rng(seed)
    basis = np.maximum(0, 1 - np.abs(np.linspace(0, 5, side)[:, None] - np.arange(6)))
    x = np.empty((n, side, side, channels), dtype=np.uint8)
    for start in range(0, n, 500):
        coarse = rng.normal(size=(len(x[start : start + 500]), channels, 6, 6))
        levels = 128 + 50 * (basis @ coarse @ basis.T) + rng.normal(0, 4, (*coarse.shape[:2], side, side))
        x[start : start + 500] = np.clip(levels, 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
    x, few = x.reshape(n, -1), n // 10
    x[-few:] = x[:few]
    x[-few:, 0] ^= 1
    return x, rng.integers(0, 2, n)


def points(n, coordinates, seed=0):
    """The same as float points in [0, 1], with near-duplicates a relative NEAR away."""
    x, y = images(n, coordinates, seed)
    x, few = x.astype(np.float32) / 255, n // 10
    step = np.random.default_rng(seed + 1).standard_normal((few, x.shape[1])).astype(np.float32)
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


def compare(title, x, y, turns):
    """One row for each method: seconds, their ratio to ours and to ours with intervals, largest relative error."""
    n, few = len(x), len(x) // 10
    rows = np.r_[0:20, n - few : n - few + 20, n // 2 : n // 2 + 20]
    truth = exact(x, rows)
    seconds, found = in_turn({one.__name__: lambda one=one: one(x, y) for one in METHODS}, turns)
    intervals = seconds.pop("with_intervals")
    for name, times in seconds.items():
        error = None if found[name] is None else float(np.max(np.abs(found[name][rows] - truth) / truth))
        yield {
            "points": title,
            "n": n,
            "D": x.shape[1],
            "method": name,
            "seconds": float(np.median(times)),
            "seconds_low": float(times.min()),
            "seconds_high": float(times.max()),
            "times_ours": float(np.median(times / seconds["ours"])),
            "times_ours_with_intervals": float(np.median(times / intervals)),
            "seconds_with_intervals": float(np.median(intervals)) if name == "ours" else None,
            "largest_relative_error": error,
        }


def main(argv=None):
    """Measure, print, write."""
    chosen, rows = settings(__doc__, argv, turns=5), []
    for n, pixels in SMALL if chosen.small else SIZES:
        turns = chosen.turns if n < 20_000 else min(2, chosen.turns)
        for title, made in (("uint8 images", images), ("float32 points", points)):
            for row in compare(title, *made(n, pixels), turns):
                rows.append(row)
                error = row["largest_relative_error"]
                print(
                    f"{row['n']:>6} x {row['D']:<6} {title:<14} {row['method']:<17} {row['seconds']:8.3f} s"
                    f"  {row['times_ours']:6.2f} of ours, {row['times_ours_with_intervals']:6.2f} with intervals"
                    + ("" if error is None else f"  error {error:.0e}"),
                    flush=True,
                )
    write({"turns": chosen.turns, "rows": rows}, chosen.output, "neighbors")


if __name__ == "__main__":
    main()
