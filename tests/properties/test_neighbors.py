"""Neighbors against brute force: int64 for images, float64 differences for points."""

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

from intrinsic.images import ImageSet
from intrinsic.images.manifolds import flat_torus, torus_images
from intrinsic.properties import products
from intrinsic.properties.neighbors import BadPoints, as_points, neighbors
from intrinsic.properties.pairs import closest_pairs
from intrinsic.properties.products import INT8_PIXELS, INT32_PIXELS, Floats, Integers, int8_is_faithful


def squares(points):
    """Squared distances from differences: whole numbers for uint8, else float64."""
    x = np.asarray(points).reshape(len(points), -1)
    x = x.astype(np.int64 if x.dtype == np.uint8 else np.float64)
    return np.array([((x - row) ** 2).sum(axis=1) for row in x]).astype(np.float64)


def brute_force(found, k, labels, group=None):
    """distances, indices, opposite distance and index; ties by index."""
    n = len(found)
    hidden = np.eye(n, dtype=bool) if group is None else group[:, None] == group
    near = np.where(hidden, np.inf, found)
    indices = np.argsort(near, axis=1, kind="stable")[:, :k]
    across = np.where(labels[:, None] == labels, np.inf, found)
    return np.sqrt(np.take_along_axis(near, indices, 1)), indices, np.sqrt(across.min(1)), across.argmin(1)


def clouds(kind):
    rng = np.random.default_rng(0)
    extreme = rng.integers(0, 2, (60, 40, 41)).astype(np.uint8) * 255
    one_level = np.full((60, 31, 31, 3), 200, dtype=np.uint8)
    one_level[np.arange(60), np.arange(60) % 31, 7, 1] += 1  # images 31 apart are equal
    smooth = flat_torus(150, 2, seed=1)
    return {
        "random images": rng.integers(0, 256, (170, 9, 7)).astype(np.uint8),
        "black and white": np.concatenate([np.zeros_like(extreme[:9]), extreme[:40]]),
        "one grey level": one_level,
        "many pixels": rng.integers(0, 256, (20, 224, 224, 3)).astype(np.uint8) // 254 * 255,
        "one pixel": rng.integers(0, 256, (40, 1, 1)).astype(np.uint8),
        "normal": rng.standard_normal((300, 30)).astype(np.float32),
        "far from 0": 1e6 + smooth,
        "tiny": 1e-60 * smooth,
        "large": 1e60 * smooth,
        "grid with copies": rng.integers(0, 3, (200, 4)).astype(np.float64),
        "smooth in many coordinates": (smooth @ rng.standard_normal((4, 5000))).astype(np.float32),
        "whole numbers": rng.integers(0, 99, (60, 5)),
    }[kind]


KINDS = [
    "random images", "black and white", "one grey level", "many pixels", "one pixel", "normal", "far from 0", "tiny",
    "large", "grid with copies", "smooth in many coordinates", "whole numbers",
]  # fmt: skip


@pytest.fixture(params=["8 bits", "float32"])
def route(request, monkeypatch):
    """Makes `neighbors` take one way, whatever this machine would choose."""
    monkeypatch.setattr(products, "int8_is_fast", lambda: True)
    if request.param == "float32":
        monkeypatch.setattr(products, "int8_is_faithful", lambda device="cpu": False)
    monkeypatch.setattr(products, "BLOCK", {"cpu": 16})
    return request.param


@pytest.mark.parametrize("kind", KINDS)
def test_distances_are_those_of_brute_force(kind, route):
    x = clouds(kind)
    labels, k = np.random.default_rng(1).permutation(np.arange(len(x)) % 3), min(12, len(x) - 1)
    near = neighbors(x, k, labels)
    distances, indices, opposite, opposite_index = brute_force(squares(x), k, labels)
    unit, tolerance = (255, 0) if x.dtype == np.uint8 else (1, 1e-12)
    np.testing.assert_allclose(near.distances, distances / unit, rtol=tolerance)
    np.testing.assert_allclose(near.opposite_distance, opposite / unit, rtol=tolerance)
    assert np.array_equal(near.indices, indices)
    assert np.array_equal(near.opposite_index, opposite_index)
    deep = near.nearest(len(x))
    assert np.array_equal(deep[1][:, :k], indices)
    assert np.array_equal(near.opposites(3)[1][:, 0], opposite_index)


@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize("kind", ["random images", "one grey level", "normal", "grid with copies", "far from 0"])
def test_closest_pairs_are_those_of_brute_force(kind, same, route):
    x, y = clouds(kind), np.arange(len(clouds(kind))) % 3
    found, (i, j) = squares(x), np.triu_indices(len(x), 1)
    kept = (y[i] == y[j]) == same
    i, j = i[kept], j[kept]
    order = np.lexsort((j, i, found[i, j]))[:100]
    pairs = closest_pairs(x, y, same=same, count=100)
    assert np.array_equal(pairs.i, i[order])
    assert np.array_equal(pairs.j, j[order])
    assert not pairs.complete
    assert len(closest_pairs(x, y, same=same)) == len(i)


@pytest.mark.parametrize("same", [False, True])
def test_a_list_finds_the_closest_pair_of_any_subset(same):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((400, 3)), rng.integers(0, 3, 400)
    lists = [closest_pairs(x, y, same=same, count=count) for count in (1, 500)]
    for size in (3, 20, 100, 400):
        chosen = np.sort(rng.choice(400, size, replace=False))
        found = squares(x[chosen])
        found[((y[chosen][:, None] == y[chosen]) != same) | np.eye(size, dtype=bool)] = np.inf
        for pairs in lists:
            value, pair = pairs.within(chosen)
            if np.isinf(found.min()):
                assert (value, pair) == (0, None)
            else:
                a, b = np.unravel_index(found.argmin(), found.shape)
                assert value == pytest.approx(1 / np.sqrt(found.min()), rel=1e-12)
                assert pair == (chosen[a], chosen[b])


@pytest.mark.parametrize("faithful", [True, False])
@pytest.mark.parametrize("pixels", [5000, INT32_PIXELS, INT32_PIXELS + 1, INT8_PIXELS, 2 * INT8_PIXELS + 3])
def test_the_largest_sums_are_exact(pixels, faithful):
    if faithful and not int8_is_faithful():
        pytest.skip("this processor has no faithful 8-bit product, and the self-test says so")
    x = np.zeros((3, pixels), dtype=np.uint8)
    x[1] = 255
    x[2, ::2], x[2, 1] = 255, 1
    signed = x.astype(np.int64) - 128
    integers = Integers(as_points(x, "cpu"), faithful)
    assert np.array_equal(integers.norm, (signed**2).sum(axis=1))
    assert np.array_equal(integers.product(slice(0, 3), slice(0, 3)), signed @ signed.T)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["normal", "far from 0", "tiny", "large", "smooth in many coordinates"])
def test_scores_are_lower_bounds(kind, name):
    x = clouds(name)
    floats, exact = Floats(as_points(x, "cpu"), kind), squares(x)
    tile = floats.product(slice(0, len(x)), slice(0, len(x)))
    bound = floats.lower(floats.norm[:, None] + floats.norm - 2 * tile.numpy())
    assert (bound <= exact * (1 + 1e-12)).all()
    assert np.abs(bound - exact).max() <= 0.01 * exact.max()


def test_groups_are_left_out_and_opposites_are_not():
    rng = np.random.default_rng(0)
    x, y, group = rng.standard_normal((200, 4)), rng.integers(0, 2, 200), rng.integers(0, 40, 200)
    near = neighbors(x, 5, y, group=group, exclude_group=True)
    _, indices, opposite, _ = brute_force(squares(x), 5, y, group)
    assert np.array_equal(near.indices, indices)
    assert near.opposite_distance == pytest.approx(opposite)
    names = np.array([f"patient {g}" for g in group], dtype=object)
    again = neighbors(x, 5, np.array(["a", "b"])[y], group=names, exclude_group=True)
    assert np.array_equal(again.indices, indices)
    with pytest.raises(BadPoints, match="200"):
        neighbors(x, 5, group=np.zeros(200), exclude_group=True)


@pytest.mark.parametrize("groups", [2, 30])
def test_the_nearest_of_another_group_is_found_where_a_group_fills_the_list_too(groups):
    rng = np.random.default_rng(0)
    group = np.sort(rng.integers(0, groups, 120))
    x = rng.standard_normal((120, 3)) + 9 * group[:, None]
    distances, indices, _, _ = brute_force(squares(x), 1, group, group)
    found = neighbors(x, 4).elsewhere(group)
    assert found[0] == pytest.approx(distances[:, 0])
    assert np.array_equal(found[1], indices[:, 0])


def test_a_subset_counts_within_itself():
    x, y = np.random.default_rng(0).standard_normal((100, 3)), np.arange(100) % 2
    chosen = np.arange(0, 100, 3)
    one, other = neighbors(x, 4, y).subset(chosen, 4), neighbors(x[chosen], 4, y[chosen])
    assert np.array_equal(one.indices, other.indices)
    assert np.array_equal(one.opposite_distance, other.opposite_distance)


def test_memory_mapped_points_and_sets_and_tensors_are_read(tmp_path, monkeypatch):
    images, labels = torus_images(120, 2, size=16)
    np.save(tmp_path / "x.npy", images)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    expected = neighbors(images, 5, labels)
    monkeypatch.setattr(products, "HELD_BYTES", {"cpu": 1000})
    for given in (mapped, torch.from_numpy(images), ImageSet(images, labels, ("a", "b"))):
        found = neighbors(given, 5, labels)
        assert np.array_equal(found.distances, expected.distances)
    points = flat_torus(100, 2)
    assert np.array_equal(neighbors(points, 5).indices, neighbors(torch.from_numpy(points), 5).indices)


def test_precision_of_float32_products_is_restored():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        neighbors(np.random.default_rng(0).standard_normal((50, 3)), 2)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("instructions", ["AVX2", "DEFAULT"])
def test_images_are_exact_with_other_processor_instructions(instructions):
    code = """
        import numpy as np
        from intrinsic.properties.neighbors import neighbors
        x = np.random.default_rng(0).integers(0, 2, (40, 3072)).astype(np.uint8) * 255
        wide = x.astype(np.int64)
        found = np.sort(np.array([((wide - row) ** 2).sum(1) for row in wide]), axis=1)[:, 1:]
        assert np.array_equal(neighbors(x, 39).distances, np.sqrt(found) / 255)
    """
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": instructions, "PYTHONPATH": ":".join(sys.path)}
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, env=environment)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_gives_the_same_bits():
    for kind in KINDS:
        x = clouds(kind)
        y = np.arange(len(x)) % 2
        one, other = (neighbors(x, min(5, len(x) - 1), y, device=device) for device in ("cpu", "cuda"))
        assert np.array_equal(one.indices, other.indices)
        assert np.array_equal(one.distances, other.distances)
        assert np.array_equal(one.opposite_index, other.opposite_index)


@pytest.mark.parametrize(
    ("given", "k", "said"),
    [
        (np.zeros((5, 3)), 5, "k=5"), (np.zeros((5, 3)), 0, "k=0"), (np.zeros((5, 3)), 1.5, "1.5"),
        (np.zeros(5), 1, "5"), (np.zeros((1, 3)), 1, "1"), (np.full((4, 2), np.nan), 1, "4 of 4"),
        (np.array([[1e200], [0.0]]), 1, "1 of 2"), (np.array([["a"], ["b"]]), 1, "U1"), ([[1, 2], [3]], 1, "n, D"),
    ],
)  # fmt: skip
def test_points_that_have_no_neighbors_are_refused(given, k, said):
    with pytest.raises(BadPoints, match=said):
        neighbors(given, k)


@pytest.mark.parametrize("labels", [[0, 1], [0, 1, None, 1], [0, 1, np.nan, 1], [[0], [1], [0], [1]]])
def test_labels_that_do_not_fit_are_refused(labels):
    with pytest.raises(BadPoints):
        neighbors(np.arange(4.0)[:, None], 1, labels)
    with pytest.raises(BadPoints):
        neighbors(np.arange(4.0)[:, None], 1, device="nowhere")
