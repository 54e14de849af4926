"""Neighbors against brute force: int64 for images, float64 differences for points."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from dask.distributed import Client, LocalCluster

from intrinsic.images import REPOSITORY, ImageSet
from intrinsic.images.manifolds import cube, flat_torus, torus_images
from intrinsic.properties import products, tiles
from intrinsic.properties.neighbors import BadPoints, as_points, closest_pairs, near_duplicate_components, neighbors
from intrinsic.properties.products import INT8_PIXELS, INT32_PIXELS, Floats, Integers, Quantized, int8_is_faithful


def integer_squares(images):
    """Squared distances in grey levels, int64 (n, n), one row at a time."""
    x = images.reshape(len(images), -1).astype(np.int64)
    return np.array([((x - row) ** 2).sum(axis=1) for row in x])


def float_squares(points):
    """Squared distances from float64 differences."""
    x = np.asarray(points, dtype=np.float64).reshape(len(points), -1)
    return np.array([((x - row) ** 2).sum(axis=1) for row in x])


def brute_force(squares, k, labels=None, group=None):
    """distances, indices, opposite distance and index; ties by index."""
    n = len(squares)
    squares = squares.astype(np.float64)
    out = []
    for i in range(n):
        allowed = np.arange(n) != i
        if group is not None:
            allowed &= group != group[i]
        j = np.flatnonzero(allowed)
        out.append(j[np.lexsort((j, squares[i, j]))][:k])
    indices = np.array(out)
    distances = np.sqrt(np.take_along_axis(squares, indices, axis=1))
    if labels is None:
        return distances, indices
    across = np.where(labels[:, None] == labels, np.inf, squares)
    return distances, indices, np.sqrt(across.min(axis=1)), across.argmin(axis=1)


def pictures(kind, rng):
    extreme = rng.integers(0, 2, (60, 40, 41)).astype(np.uint8) * 255
    one_level = np.full((60, 31, 31, 3), 200, dtype=np.uint8)
    one_level[np.arange(60), np.arange(60) % 31, 7, 1] += 1  # images 31 apart are equal
    return {
        "random": rng.integers(0, 256, (70, 9, 7)).astype(np.uint8),
        "colour": rng.integers(0, 256, (50, 20, 20, 3)).astype(np.uint8),
        "constant": np.arange(0, 256, 5, dtype=np.uint8)[:, None, None] * np.ones((1, 40, 40), dtype=np.uint8),
        "black and white": np.concatenate([np.zeros_like(extreme[:9]), extreme[:40], np.full_like(extreme[:9], 255)]),
        "one grey level": one_level,
        "many pixels": rng.integers(0, 256, (12, 260, 260)).astype(np.uint8),
        "224 x 224 x 3": rng.integers(0, 256, (20, 224, 224, 3)).astype(np.uint8) // 254 * 255,
        "one pixel": rng.integers(0, 256, (40, 1, 1)).astype(np.uint8),
    }[kind]


KINDS = [
    "random",
    "colour",
    "constant",
    "black and white",
    "one grey level",
    "many pixels",
    "224 x 224 x 3",
    "one pixel",
]
ROUTES = ["8 bits", "float32", "device", "device, float32"]


@pytest.fixture
def route(request, monkeypatch):
    """Makes `neighbors` take one way to its products, whatever this machine would choose.

    A device's operations are torch's, so they run on the processor as they would on a GPU.
    """
    for module in (products, tiles):
        monkeypatch.setattr(module, "int8_is_fast", lambda: True)
    if "float32" in request.param:
        monkeypatch.setattr(products, "int8_is_faithful", lambda device="cpu": False)
        monkeypatch.setattr(tiles, "int8_is_faithful", lambda device="cpu": False)
    if "device" in request.param:
        on_device = tiles.lists_on_device
        monkeypatch.setattr(tiles, "device_of", lambda device: SimpleNamespace(type="cuda"))
        monkeypatch.setattr(
            tiles, "lists_on_device", lambda *a, **k: on_device(*a[:-1], torch.device("cpu"), block=17, **k)
        )
    return request.param


def same(one, other, names=("distances", "indices", "opposite_distance", "opposite_index")):
    """Equal in every bit."""
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)


@pytest.mark.parametrize("route", ROUTES, indirect=True)
@pytest.mark.parametrize("kind", KINDS)
def test_image_distances_are_exactly_those_of_integers(kind, route, monkeypatch):
    monkeypatch.setattr(tiles, "BLOCK", 16)
    rng = np.random.default_rng(0)
    x = pictures(kind, rng)
    labels = rng.permutation(np.arange(len(x)) % 3)
    distances, indices, opposite, opposite_index = brute_force(integer_squares(x), len(x) - 1, labels)
    near = neighbors(x, len(x) - 1, labels)
    assert np.array_equal(near.distances, distances / 255)
    assert np.array_equal(near.indices, indices)
    assert np.array_equal(near.opposite_distance, opposite / 255)
    assert np.array_equal(near.opposite_index, opposite_index)


@pytest.mark.parametrize("faithful", [True, False])
@pytest.mark.parametrize("pixels", [5000, INT32_PIXELS, INT32_PIXELS + 1, INT8_PIXELS, 2 * INT8_PIXELS + 3])
def test_the_largest_sums_are_exact(pixels, faithful):
    """-128 times -128, over as many pixels as one block takes, and over more blocks."""
    if faithful and not int8_is_faithful():
        pytest.skip("this processor has no faithful 8-bit product, and the self-test says so")
    x = np.zeros((3, pixels), dtype=np.uint8)
    x[1] = 255
    x[2, ::2], x[2, 1] = 255, 1
    signed = x.astype(np.int64) - 128
    points = as_points(x)
    integers = Integers(points, faithful=faithful)
    assert np.array_equal(integers.norm, (signed**2).sum(axis=1))
    assert np.array_equal(integers.product(slice(0, 3), slice(0, 3)), signed @ signed.T)
    assert np.array_equal(neighbors(points, 2).distances[:2, 1], np.sqrt(np.full(2, pixels * 255**2)) / 255)


def test_one_grey_level_in_one_pixel_is_one_255th():
    x = np.full((2, 100, 100), 255, dtype=np.uint8)
    x[1, 50, 50] = 254
    assert neighbors(x, 1).distances[0, 0] == 1 / 255


@pytest.mark.parametrize("instructions", ["AVX2", "SSE41", "AVX512_CORE", "DEFAULT"])
def test_image_distances_are_exact_with_other_processor_instructions(instructions):
    """Many processors add 8-bit products in 16 bits, which saturates silently: the self-test must see it."""
    code = """
        import numpy as np
        from intrinsic.properties.neighbors import neighbors
        from intrinsic.properties.products import int8_is_faithful
        rng = np.random.default_rng(0)
        near = rng.integers(0, 256, (300, 3000)).astype(np.uint8)
        near[:3], near[3:40] = np.array([[0], [255], [1]]), 255 * rng.integers(0, 2, (37, 3000))
        near[40:45] = near[45:50]
        near[40, 7] ^= 1  # one pixel, one grey level
        constant = np.arange(0, 256, 2, dtype=np.uint8)[:, None] * np.ones((1, 2000), dtype=np.uint8)
        extreme = np.repeat(np.array([0, 255], dtype=np.uint8), 40)[:, None] * np.ones((1, 5000), dtype=np.uint8)
        photo = rng.integers(0, 256, (9, 224 * 224 * 3)).astype(np.uint8) // 200 * 255
        for x in (near, constant, extreme, photo):
            n, wide, y = len(x), x.astype(np.int64), np.arange(len(x)) % 2
            true = np.array([((wide - row) ** 2).sum(axis=1) for row in wide])
            found = neighbors(x, n - 1, y)
            assert np.array_equal(found.distances, np.sqrt(np.take_along_axis(true, found.indices, axis=1)) / 255)
            assert np.array_equal(np.sort(found.indices, axis=1)[:, 0] == 0, np.arange(n) > 0)
            assert (np.diff(found.distances, axis=1) >= 0).all()
            across = np.where(y[:, None] == y, 2**60, true)
            assert np.array_equal(found.opposite_distance, np.sqrt(across.min(axis=1)) / 255)
        print("faithful:", int8_is_faithful())
    """
    plain = {"ONEDNN_MAX_CPU_ISA": instructions, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=os.environ | plain, check=True, timeout=300, text=True,
        capture_output=True,
    )  # fmt: skip
    assert done.stdout.startswith("faithful:")


def test_8_bit_products_that_are_right_but_slow_are_not_used(monkeypatch):
    quick, points = torch._int_mm, as_points(np.zeros((3, 4), dtype=np.uint8))
    products.int8_is_fast.cache_clear()
    monkeypatch.setattr(torch, "_int_mm", lambda a, b: (time.sleep(0.2), quick(a, b))[1])
    assert not Integers(points).faithful
    products.int8_is_fast.cache_clear()
    monkeypatch.setattr(torch, "_int_mm", lambda a, b: torch.zeros((len(a), b.shape[1]), dtype=torch.int32))
    assert Integers(points).faithful == int8_is_faithful()  # asked before, with the machine's own
    products.int8_is_fast.cache_clear()


def test_a_product_that_saturates_fails_the_self_test(monkeypatch):
    """Pairs of products added in 16 bits, as processors without VNNI do it."""

    def saturating(a, b, out=None):
        low = a.to(torch.int16)[:, None, :] * b.T.to(torch.int16)[None]
        pairs = torch.nn.functional.pad(low, (0, low.shape[2] % 2)).to(torch.int32).unflatten(2, (-1, 2)).sum(dim=3)
        return pairs.clamp(-(2**15), 2**15 - 1).sum(dim=2, dtype=torch.int32)

    int8_is_faithful.cache_clear()
    monkeypatch.setattr(torch, "_int_mm", saturating)
    assert not int8_is_faithful()
    monkeypatch.undo()
    int8_is_faithful.cache_clear()


def test_a_product_that_rounds_is_noticed(monkeypatch):
    def rounded(self, rows, columns, out=None):
        return exact(self, rows, columns, out) // 100 * 100

    exact = Integers.product
    monkeypatch.setattr(Integers, "product", rounded)
    with pytest.raises(ArithmeticError, match="not at distance 0 from itself"):
        neighbors(pictures("random", np.random.default_rng(0)), 3)


def float_clouds(kind, rng):
    smooth = rng.standard_normal((80, 30)) @ rng.standard_normal((30, 200))
    twins = np.concatenate([smooth, smooth * (1 + 1e-4 * rng.standard_normal(smooth.shape))])
    return {
        "random": rng.standard_normal((150, 40)),
        "near-duplicates": twins,
        "nearer duplicates": np.concatenate([smooth, smooth + 1e-9 * rng.standard_normal(smooth.shape)]),
        "float32": twins.astype(np.float32),
        "float32 offset": (1000 + twins).astype(np.float32),
        "offset": 1e6 + twins,
        "far apart": np.concatenate([smooth, 1e5 + smooth]),
        "huge": 1e200 * twins,
        "tiny": 1e-200 * twins,
        "tiny beside a constant": np.concatenate(
            [1e-120 * rng.standard_normal((90, 3)), np.full((90, 1), 3.0)], axis=1
        ),
        "many coordinates": rng.standard_normal((40, 5000)) * (1 + np.arange(5000)) ** -1.0,
        "integers": rng.integers(-(10**6), 10**6, (100, 20)),
        "duplicates": np.repeat(smooth[:40], 2, axis=0),
    }[kind]


FLOAT_CLOUDS = [
    "random", "near-duplicates", "nearer duplicates", "float32", "float32 offset", "offset", "far apart", "huge",
    "tiny", "tiny beside a constant", "many coordinates", "integers", "duplicates",
]  # fmt: skip


def float_route(name):
    """The route a pass takes, fixed."""
    return lambda points, *_: getattr(points, name)


@pytest.mark.parametrize("through", ["quantized", "singles", "doubles", "as chosen", "device"])
@pytest.mark.parametrize("kind", FLOAT_CLOUDS)
def test_float_distances_are_those_of_float64_differences(kind, through, monkeypatch):
    monkeypatch.setattr(tiles, "BLOCK", 16)
    if through == "device":
        on_device = tiles.lists_on_device
        monkeypatch.setattr(tiles, "device_of", lambda device: SimpleNamespace(type="cuda"))
        monkeypatch.setattr(
            tiles, "lists_on_device", lambda *a, **k: on_device(*a[:-1], torch.device("cpu"), block=23, **k)
        )
    elif through != "as chosen":
        monkeypatch.setattr(tiles, "route_of", float_route(through))
        monkeypatch.setattr(tiles, "FEW", 0)
    rng = np.random.default_rng(1)
    x = float_clouds(kind, rng)
    labels = rng.permutation(np.arange(len(x)) % 2)
    scale = {"huge": 1e200, "tiny": 1e-200, "tiny beside a constant": 1e-120}.get(kind, 1.0)
    distances, _, opposite, _ = brute_force(float_squares(np.asarray(x, dtype=np.float64) / scale), 9, labels)
    near = neighbors(x, 9, labels)
    np.testing.assert_allclose(near.distances / scale, distances, rtol=1e-12, atol=0)
    np.testing.assert_allclose(near.opposite_distance / scale, opposite, rtol=1e-12, atol=0)
    np.testing.assert_allclose(near.pairs.distance[0], near.opposite_distance.min(), rtol=1e-15)


@pytest.mark.parametrize("name", ["quantized", "singles", "doubles"])
@pytest.mark.parametrize("kind", FLOAT_CLOUDS)
def test_a_score_bounds_the_distance_from_below(kind, name):
    """What the proposals rest on, for every pair of points, against differences."""
    x = float_clouds(kind, np.random.default_rng(2))
    points = as_points(x)
    route, everything = getattr(points, name), slice(0, len(x))
    score = route.norm[:, None] + route.norm - 2 * route.product(everything, everything)
    i, j = np.nonzero(~np.eye(len(x), dtype=bool))
    exact = points.differences(i, j)
    lower = route.lower(score, np.arange(len(x)))[i, j]
    assert (lower <= exact).all()
    if name == "doubles" and kind in ("random", "far apart", "many coordinates"):
        assert (lower > exact - 1e-9 * exact.max()).all()  # a bound, and not an idle one


@pytest.mark.parametrize("name", ["quantized", "singles", "doubles"])
def test_what_the_proposals_cannot_decide_is_searched(name, monkeypatch):
    """An attack: near-duplicates far from the mean, more of them than candidates, closer than any product can see."""
    monkeypatch.setattr(tiles, "route_of", float_route(name))
    steps, asked = [], tiles._proposed
    monkeypatch.setattr(tiles, "_proposed", lambda *a: steps.append(a[1].dtype.name) or asked(*a))
    monkeypatch.setattr(tiles, "FEW", 0)
    searched = tiles._searched
    monkeypatch.setattr(tiles, "_searched", lambda *a: steps.append("differences") or searched(*a))
    rng = np.random.default_rng(3)
    x = rng.standard_normal((40, 30)) * 1e6
    x = np.concatenate([x, x[:1] + 1e-7 * rng.standard_normal((60, 30))])
    x = np.ldexp(np.rint(np.ldexp(x, 30)), -30)  # differences are exact
    labels = np.arange(100) % 2
    distances, indices, opposite, opposite_index = brute_force(float_squares(x), 5, labels)
    near = neighbors(x, 5, labels)
    np.testing.assert_allclose(near.distances, distances, rtol=1e-14)
    np.testing.assert_allclose(near.opposite_distance, opposite, rtol=1e-14)
    assert np.array_equal(near.indices, indices)
    assert np.array_equal(near.opposite_index, opposite_index)
    assert steps[-1] == "differences"
    assert len(steps) == {"quantized": 3, "singles": 2, "doubles": 1}[name]
    assert neighbors(x, 5, labels).subset(np.arange(30, 100)).distances[40] == pytest.approx(
        brute_force(float_squares(x[30:]), 5)[0][40], rel=1e-14
    )


def test_near_duplicates_a_relative_ten_thousandth_apart_where_float32_fails():
    rng = np.random.default_rng(4)
    x = rng.standard_normal((300, 500))
    x = np.concatenate([x, x * (1 + 1e-4 * rng.standard_normal(x.shape))]).astype(np.float32)
    true = np.sqrt(((x[:300].astype(np.float64) - x[300:]) ** 2).sum(axis=1))
    near = neighbors(x, 3)
    assert np.array_equal(near.indices[:300, 0], np.arange(300, 600))
    assert np.abs(near.distances[:300, 0] / true - 1).max() < 1e-12
    y = torch.from_numpy(x)
    plain = (y**2).sum(1)[:, None] + (y**2).sum(1) - 2 * y @ y.T
    assert np.abs(plain[np.arange(300), np.arange(300, 600)].clamp(min=0).sqrt().numpy() / true - 1).max() > 1e-3


@pytest.mark.parametrize("name", ["integers", "quantized", "singles", "doubles"])
@pytest.mark.parametrize("block", [1, 7, 64])
def test_the_result_does_not_depend_on_tiles_or_threads(block, name, monkeypatch):
    rng = np.random.default_rng(4)
    x, y = rng.integers(0, 4, (190, 3, 3)).astype(np.uint8), np.arange(190) % 2  # many ties
    if name != "integers":
        x = x.astype(np.float32) * 0.37
        monkeypatch.setattr(tiles, "route_of", float_route(name))
    one = neighbors(x, 5, y)
    monkeypatch.setattr(tiles, "BLOCK", block)
    monkeypatch.setattr(tiles, "KEEP_POINTS", 0)  # blocks twice as large, and nothing kept
    other = neighbors(x, 5, y)
    assert same(one, other)
    assert all(map(np.array_equal, one.nearest(40), other.nearest(40)))
    assert all(np.array_equal(getattr(one.pairs, part), getattr(other.pairs, part)) for part in ("i", "j", "distance"))
    torch.set_num_threads(3)
    try:
        assert same(one, neighbors(x, 5, y))
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("n_classes", [2, 3, 8, 9, 40])
def test_any_number_of_classes(n_classes):
    rng = np.random.default_rng(n_classes)
    x, y = rng.integers(0, 256, (400, 6)).astype(np.uint8), rng.integers(0, n_classes, 400)
    x[:, 0] = 5 * y  # neighbors mostly share their label
    _, indices, opposite, opposite_index = brute_force(integer_squares(x), 6, y)
    near = neighbors(x, 6, y)
    assert np.array_equal(near.indices, indices)
    assert np.array_equal(near.opposite_index, opposite_index)
    assert np.array_equal(near.opposite_distance, opposite / 255)


# --------------------------------------------------------------------------------- subsets, memory, Dask


@pytest.mark.parametrize("kind", ["images", "points"])
@pytest.mark.parametrize("way", ["kept", "declared", "anew"])
def test_a_subset_has_the_neighbors_of_its_own_points(kind, way, monkeypatch):
    rng = np.random.default_rng(5)
    x = torus_images(300, 4, size=16)[0] if kind == "images" else rng.standard_normal((300, 20))
    y, group = rng.integers(0, 3, 300), rng.integers(0, 60, 300)
    chosen = [rng.permutation(300)[:110], np.arange(40, 80), np.flatnonzero(y != 1)]
    if way != "kept":
        monkeypatch.setattr(tiles, "KEEP_POINTS", 0)
    declared = chosen if way == "declared" else ()
    near = neighbors(x, 6, y, group=group, exclude_group=True, subsets=declared)
    if way != "anew":  # no product is computed again
        for cls in (Integers, Quantized, Floats):
            monkeypatch.setattr(cls, "product", None)
    found = [near.subset(part) for part in chosen]
    monkeypatch.undo()
    for part, got in zip(chosen, found, strict=True):
        alone = neighbors(x[part], 6, y[part], group=group[part], exclude_group=True)
        assert same(got, alone)
        assert np.array_equal(got.labels, y[part])
        assert same(got.subset([3, 1, 20, 7, 30], 2), alone.subset([3, 1, 20, 7, 30], 2))


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        ([1, 2, 2], r"one twice"),
        ([0, 60], r"do not exist"),
        ([-1, 3, 5], r"do not exist"),
        ([0.5, 1.0], r"type float64, which names no points"),
        (np.ones(59, dtype=bool), r"type bool.*mask of 60"),
        ([7], r"k=0 is no number of neighbors"),
    ],
)
def test_a_subset_that_names_no_points_is_refused(kept, chosen, says):
    near = neighbors(cube(60, 3), 4, keep=kept)
    with pytest.raises(BadPoints, match=says):
        near.subset(chosen)
    mask = np.arange(60) % 3 == 1
    assert np.array_equal(near.subset(mask).distances, near.subset(np.flatnonzero(mask)).distances)


def test_more_neighbors_come_from_what_is_kept_or_reserved(monkeypatch):
    x = torus_images(200, 3, size=16)[0]
    whole = neighbors(x, 199)
    near = neighbors(x, 4)
    assert near.nearest(1000)[0].shape == (200, 199)  # there are no more
    monkeypatch.setattr(tiles, "KEEP_POINTS", 0)
    reserved, neither = neighbors(x, 4, reserve=60), neighbors(x, 4)
    assert all(np.array_equal(a, b[:, :90]) for a, b in zip(neither.nearest(90), whole.nearest(199), strict=True))
    monkeypatch.setattr(Integers, "product", None)
    for one in (near, reserved):
        assert one.k == 4
        assert np.array_equal(one.nearest(60)[0], whole.distances[:, :60])
        assert np.array_equal(one.nearest(60)[1], whole.indices[:, :60])


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_mapped_file_and_an_iterator_are_the_same_points(tmp_path, dtype):
    x = np.random.default_rng(6).integers(0, 256, (300, 12, 10, 3)).astype(dtype)
    y = np.arange(300) % 2
    np.save(tmp_path / "images.npy", x)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    expected = neighbors(x, 5, y)
    assert same(expected, neighbors(mapped, 5, y))
    assert same(expected, neighbors((mapped[i : i + 70] for i in range(0, 300, 70)), 5, y, memory=2**16))
    with pytest.raises(BadPoints, match=r"shape \(2, 5\).*one shape and type"):
        neighbors(iter([np.zeros((3, 4)), np.zeros((2, 5))]), 1)
    with pytest.raises(BadPoints, match="iterator gave no points"):
        neighbors(iter([]), 1)


@pytest.mark.parametrize("memory", [2**14, 2**18])
def test_little_memory_changes_nothing(memory):
    rng = np.random.default_rng(7)
    for x in (rng.integers(0, 256, (300, 2000)).astype(np.uint8), rng.standard_normal((300, 200))):
        assert same(neighbors(x, 5, np.arange(300) % 2), neighbors(x, 5, np.arange(300) % 2, memory=memory))


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process is read from /proc")
def test_fifty_thousand_images_need_the_images_and_one_gibibyte():
    """The peak of a process of its own, which is not its parent's, as that of getrusage may be."""
    code = """
        import numpy as np
        from intrinsic.properties.neighbors import neighbors

        def peak():
            (line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
            return 1024 * int(line.split()[1])

        rng = np.random.default_rng(0)
        neighbors(rng.integers(0, 256, (100, 10)).astype(np.uint8), 3, np.arange(100) % 2)
        before = peak()
        x = np.empty((50_000, 32, 32, 3), dtype=np.uint8)
        for start in range(0, 50_000, 1000):
            x[start : start + 1000] = rng.integers(0, 256, (1000, 32, 32, 1), dtype=np.uint8)
        with_images = peak()
        near = neighbors(x, 20, np.arange(50_000) % 2)
        assert near.distances.shape == (50_000, 20)
        print(with_images - before, peak() - before, x.nbytes)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, text=True, capture_output=True)
    images, peak, size = map(int, done.stdout.split())
    assert 0.9 * size < images < 1.2 * size  # the reading reads
    assert size < peak <= size + 2**30


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of a process is read from /proc")
def test_peak_memory_follows_its_argument(tmp_path):
    """A mapped file of 131 MB: its own pages, the memory asked for, and 64 MiB for compiled code and results."""
    rng = np.random.default_rng(9)
    np.save(tmp_path / "points.npy", rng.standard_normal((4000, 8192), dtype=np.float32))
    code = """
        import sys, numpy as np
        from intrinsic.properties.neighbors import neighbors

        def peak():
            (line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
            return 1024 * int(line.split()[1])

        x, y = np.load(sys.argv[1], mmap_mode="r"), np.arange(4000) % 2
        neighbors(x[:600], 3, y[:600])
        open("/proc/self/clear_refs", "w").write("5")
        before = peak()
        neighbors(x, 20, y, memory=int(sys.argv[2]))
        print(peak() - before)
    """

    def grown(memory):
        command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "points.npy"), str(memory)]
        return int(subprocess.run(command, check=True, text=True, capture_output=True).stdout)

    little, much = grown(32 * 2**20), grown(2**30)
    assert little < 4 * 4000 * 8192 + (32 + 64) * 2**20
    assert much > little + 50 * 2**20


@pytest.fixture(scope="module")
def cluster():
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as two_workers:
        yield two_workers


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["images", "points"])
def test_dask_workers_give_the_same_answer_though_one_is_killed(cluster, kind, monkeypatch, tmp_path):
    """One of two workers gets SIGKILL on the way; bit for bit the same, and what was brought in is not done again."""
    rng = np.random.default_rng(8)
    x = rng.integers(0, 256, (3000, 800)).astype(np.uint8)
    x[1500:1600] = x[:100]
    if kind == "points":
        x = rng.standard_normal((3000, 60))
    y, group = rng.integers(0, 3, 3000), rng.integers(0, 500, 3000)
    expected = neighbors(x, 9, y, group=group, exclude_group=True)
    on_workers, tile, log = tiles.lists_on_workers, tiles._tile, tmp_path / "tiles.log"

    def logged(*arguments):
        found = tile(*arguments)
        with log.open("a") as lines:
            lines.write(f"{os.getpid()} {arguments[0][1].index[0]} {arguments[1][1].index[0]}\n")
        return found

    monkeypatch.setattr(tiles, "_tile", logged)
    monkeypatch.setattr(tiles, "lists_on_workers", lambda *a, **k: on_workers(*a, block=250, **k))
    with Client(cluster) as client:
        client.wait_for_workers(2)
        pids = set(client.run(os.getpid).values())

        def kill():
            while not log.exists() or len(log.read_text().splitlines()) < 10:
                time.sleep(0.002)
            os.kill(int(log.read_text().split()[0]), signal.SIGKILL)

        killer = threading.Thread(target=kill, daemon=True)
        killer.start()
        found = neighbors(x, 9, y, group=group, exclude_group=True, client=client)
        killer.join(timeout=10)
        client.wait_for_workers(2)
        assert set(client.run(os.getpid).values()) != pids
    assert same(found, expected)
    done = [line.split(maxsplit=1) for line in log.read_text().splitlines()]
    once = {place for _, place in done}
    assert len(once) == 12 * 13 // 2
    dead = done[0][0]
    assert len(done) - len(once) <= sum(pid == dead for pid, _ in done)  # only what the lost worker held is repeated


def test_self_is_left_out_by_index_and_copies_stay():
    x = np.repeat(np.arange(5.0)[:, None], 3, axis=0)
    near = neighbors(x, 3)
    assert (near.distances[:, :2] == 0).all()
    assert (near.distances[:, 2] == 1).all()
    assert (near.indices != np.arange(15)[:, None]).all()
    assert near.indices[0].tolist() == [1, 2, 3]


def test_images_tensors_and_image_sets_are_the_same_points():
    images, labels, _ = torus_images(60, 3, size=16)
    group = np.arange(60) // 4
    one = neighbors(ImageSet(images, labels, ("a", "b"), group=group), 5)
    for other in (
        neighbors(images, 5, labels),
        neighbors(torch.from_numpy(images), 5, torch.from_numpy(labels)),
        neighbors(images.reshape(60, -1), 5, labels),
    ):
        assert np.array_equal(one.distances, other.distances)
        assert np.array_equal(one.opposite_distance, other.opposite_distance)
    floats = neighbors(images / 255, 5)
    np.testing.assert_allclose(one.distances, floats.distances, rtol=1e-9)
    assert one.group.tolist() == group.tolist()
    assert (len(one), one.k, one.dimensions) == (60, 5, 256)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_a_tensor_that_requires_grad_is_read_without_loss(dtype):
    x = torch.randn(30, 2, 4, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    distances, indices = brute_force(float_squares(x.detach().double().numpy()), 4)
    near = neighbors(x, 4)
    np.testing.assert_allclose(near.distances, distances, rtol=1e-9)
    assert np.array_equal(near.indices, indices)


def test_exclude_group_leaves_out_the_group_and_nothing_else():
    rng = np.random.default_rng(5)
    x, group = rng.standard_normal((60, 3)), rng.integers(0, 12, 60)
    labels = np.arange(60) % 2
    distances, indices, opposite, _ = brute_force(float_squares(x), 4, labels, group)
    near = neighbors(x, 4, labels, group=group, exclude_group=True)
    np.testing.assert_allclose(near.distances, distances, rtol=1e-9)
    assert np.array_equal(near.indices, indices)
    np.testing.assert_allclose(near.opposite_distance, opposite, rtol=1e-9)  # a property of all pairs
    assert near.excludes_group


def test_one_class_has_no_opposite():
    near = neighbors(cube(20, 2), 3, np.zeros(20, dtype=int))
    assert np.isinf(near.opposite_distance).all()
    assert (near.opposite_index == -1).all()
    assert len(near.pairs) == 0
    assert near.pairs.complete
    assert neighbors(cube(20, 2), 3).opposite_distance is None


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("count", [1, 7, 100, 10_000])
def test_closest_pairs_are_those_of_a_full_sort(ordered, count):
    rng = np.random.default_rng(6)
    x = rng.integers(0, 3, (50, 2, 3)).astype(np.uint8)  # many ties
    y = rng.integers(0, 4, 50)
    squares = integer_squares(x)
    pairs = closest_pairs(x, y, ordered=ordered, count=count)
    rows = []
    for i in range(50):
        for j in range(i + 1, 50):
            if y[i] != y[j]:
                difference = abs(int(y[i]) - int(y[j])) if ordered else 1
                d = np.sqrt(squares[i, j]) / 255
                rows.append((-(difference / d if d else np.inf), i, j))
    rows.sort()
    assert pairs.complete == (count >= len(rows))
    rows = rows[:count]
    assert pairs.i.tolist() == [i for _, i, _ in rows]
    assert pairs.j.tolist() == [j for _, _, j in rows]
    assert pairs.sharpness.tolist() == [-s for s, _, _ in rows]


X = np.random.default_rng(7).standard_normal((10, 3))
NAN = np.where(np.arange(30).reshape(10, 3) == 4, np.nan, X)


@pytest.mark.parametrize(
    ("arguments", "options", "says"),
    [
        ((NAN,), {}, r"1 of 10 points hold NaN or infinity"),
        ((np.where(np.isnan(NAN), np.inf, NAN),), {}, r"NaN or infinity"),
        ((X[:0],), {}, r"nothing to measure"),
        ((X[:, :0],), {}, r"nothing to measure"),
        ((X[:1], 1), {}, r"one point, which has no neighbor"),
        ((X[:, 0],), {}, r"shape \(10,\).*x\[:, None\]"),
        ((3.0,), {}, r"shape \(\)"),
        ((X, 10), {}, r"k=10 neighbors.*k below 10"),
        ((X, 0), {}, r"k=0 is no number"),
        ((X, 2.5), {}, r"k=2.5 is no number"),
        ((X.astype(object), 3), {}, r"type object"),
        ((X + 1j, 3), {}, r"type complex128"),
        ((np.array([["a"], ["b"]]), 1), {}, r"type <U1"),
        (([[1.0], [1.0, 2.0]], 1), {}, r"different numbers of coordinates"),
        ((X, 3, np.zeros(9)), {}, r"labels have shape \(9,\) for 10 points"),
        ((X, 3, np.zeros((10, 2))), {}, r"labels have shape \(10, 2\)"),
        ((X, 3, np.full(10, np.nan)), {}, r"labels are missing"),
        ((X, 3, np.array([None] * 10)), {}, r"labels are missing"),
        ((X, 3), {"group": np.zeros(3)}, r"groups have shape \(3,\)"),
        ((X, 3), {"exclude_group": True}, r"needs to know the groups"),
        ((X, 3), {"memory": 0}, r"memory=0 bytes hold no tile"),
        ((X, 3), {"device": "gpu0"}, r"device='gpu0' is no device"),
        ((X, 3), {"device": "meta"}, r"device='meta' has no exact products"),
        ((X, 3), {"device": "cuda"}, r"torch sees no GPU here"),
        ((X, 6), {"group": np.arange(10) // 5, "exclude_group": True}, r"10 of 10 points have fewer than 6"),
    ],
)
def test_bad_input_ends_in_one_sentence(arguments, options, says):
    with pytest.raises(BadPoints, match=says) as caught:
        neighbors(*arguments, **options)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, ValueError)


# ------------------------------------------------------------------------------------- near-duplicates


def same_partition(one, other):
    return np.array_equal(one[:, None] == one, other[:, None] == other)


@pytest.mark.parametrize("d", [2, 5, 10])
def test_families_of_near_duplicates_become_components(d):
    """40 families of 6 jittered copies among 700 points without any."""
    rng = np.random.default_rng(d)
    centers = flat_torus(740, d, ambient=40, seed=d)
    x = np.concatenate([centers, np.repeat(centers[:40], 5, axis=0)])
    x += 1e-4 * rng.standard_normal(x.shape)
    family = np.concatenate([np.arange(740), np.repeat(np.arange(40), 5)])
    component = near_duplicate_components(x)
    for f in range(40):
        assert len(set(component[family == f])) == 1
    sizes = np.bincount(component)
    assert sizes.max() <= 2 * 6
    assert (sizes == 1).sum() > 0.85 * 700


@pytest.mark.parametrize("d", [1, 2, 3, 5, 10])
@pytest.mark.parametrize("cloud", [flat_torus, cube])
def test_a_clean_manifold_stays_in_pieces(cloud, d):
    sizes = np.bincount(near_duplicate_components(cloud(1000, d, seed=1)))
    assert sizes.max() <= 4
    assert (sizes == 1).sum() > 0.85 * 1000


def test_components_do_not_depend_on_scale_or_order_or_input():
    images, _, _ = torus_images(200, 3, size=16)
    images = np.concatenate([images, images[:30]])  # exact copies
    component = near_duplicate_components(images)
    assert (component[:30] == component[200:]).all()
    assert component[0] == 0
    assert (np.sort(np.unique(component, return_index=True)[1]) == np.unique(component, return_index=True)[1]).all()
    assert same_partition(component, near_duplicate_components(7.5 * images))
    assert same_partition(component, near_duplicate_components(neighbors(images, 20)))
    group = np.arange(230) % 40
    assert same_partition(component, near_duplicate_components(neighbors(images, 20, group=group, exclude_group=True)))
    turn = np.random.default_rng(0).permutation(230)
    assert same_partition(component[turn], near_duplicate_components(images[turn]))


@pytest.mark.parametrize("n", [2, 3, 5, 8, 30])
def test_small_sets_have_components_too(n):
    x = np.random.default_rng(n).standard_normal((n, 3))
    assert len(np.unique(near_duplicate_components(x))) >= n - 1
    assert len(np.unique(near_duplicate_components(np.zeros((n, 3))))) == 1


def test_points_at_one_distance_are_no_near_duplicates():
    assert len(np.unique(near_duplicate_components(np.eye(50)))) == 50


@pytest.mark.parametrize("options", [{"k": 2}, {"chance": 0}, {"k": 8.5}])
def test_bad_thresholds_are_refused(options):
    with pytest.raises(BadPoints, match="set no distance"):
        near_duplicate_components(X, **options)


def test_what_is_said_of_near_duplicates_was_measured():
    table = REPOSITORY / "book" / "methods" / "tables" / "near_duplicates.json"
    rows = json.loads(table.read_text(encoding="utf-8"))["rows"]
    said = " ".join(near_duplicate_components.__doc__.split())

    def phrase(chosen):
        shares = [100 * row["linked"] for row in chosen]
        span = f"{shares[0]:.1f}" if len(shares) == 1 else f"{min(shares):.1f} to {max(shares):.1f}"
        return f"{span} %, {max(row['largest'] for row in chosen)}"

    named = {row["name"]: row for row in rows if row["kind"] == "image set"}
    for names in (
        ("cats_dogs", "cifar10", "fashion_mnist", "mnist", "tiny_imagenet"),
        ("knee_xray_oa", "chest_xray_covid", "chest_xray_pneumonia"),
        ("brain_mri_dementia",),
        ("brain_ct_stroke",),
    ):
        assert phrase([named[name] for name in names]) in said, names
    assert phrase([row for row in rows if row["kind"] == "clean"]) in said
    for name in ("brain_mri_dementia", "brain_ct_stroke"):
        assert f"{100 * named[name]['joined_pairs_within_a_group']:.1f} %" in said
        assert f"{100 * named[name]['pairs_of_a_group_joined']:.1f} %" in said
