"""Neighbors against brute force: int64 for images, float64 differences for points."""

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

from intrinsic.images import ImageSet
from intrinsic.manifolds import cube, flat_torus, torus_images
from intrinsic.neighbors import (
    RELATIVE_ERROR,
    BadPoints,
    Points,
    as_points,
    closest_pairs,
    near_duplicate_components,
    neighbors,
)


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
        "one pixel": rng.integers(0, 256, (40, 1, 1)).astype(np.uint8),
    }[kind]


@pytest.mark.parametrize(
    "kind", ["random", "colour", "constant", "black and white", "one grey level", "many pixels", "one pixel"]
)
def test_image_distances_are_exactly_those_of_integers(kind):
    rng = np.random.default_rng(0)
    x = pictures(kind, rng)
    labels = rng.permutation(np.arange(len(x)) % 3)
    squares = integer_squares(x)
    assert np.array_equal(as_points(x).squared(slice(0, len(x)), np.arange(len(x))), squares)
    distances, indices, opposite, opposite_index = brute_force(squares, 7, labels)
    near = neighbors(x, 7, labels, block=17)
    assert np.array_equal(near.distances, distances / 255)
    assert np.array_equal(near.indices, indices)
    assert np.array_equal(near.opposite_distance, opposite / 255)
    assert np.array_equal(near.opposite_index, opposite_index)


def test_the_largest_sum_of_a_block_is_exact():
    """1,024 products of -128 by -128 are 2^24, the last integer float32 counts to."""
    x = np.zeros((3, 5000), dtype=np.uint8)
    x[1] = 255
    x[2, ::2], x[2, 1] = 255, 1
    assert np.array_equal(as_points(x).squared(slice(0, 3), slice(0, 3)), integer_squares(x))
    assert neighbors(x, 1).distances[0, 0] == np.sqrt(2500 * 255**2 + 1) / 255


def test_one_grey_level_in_one_pixel_is_one_255th():
    x = np.full((2, 100, 100), 255, dtype=np.uint8)
    x[1, 50, 50] = 254
    assert neighbors(x, 1).distances[0, 0] == 1 / 255


def test_image_distances_are_exact_with_other_processor_instructions():
    """The product runs on whatever instructions there are; the same integers on a plain set of them."""
    code = """
        import numpy as np
        from intrinsic.neighbors import as_points
        x = np.random.default_rng(0).integers(0, 256, (40, 3000)).astype(np.uint8)
        x[:3] = np.array([0, 255, 1])[:, None]
        wide = x.astype(np.int64)
        true = ((wide[:, None] - wide) ** 2).sum(axis=2)
        assert np.array_equal(as_points(x).squared(slice(0, 40), slice(0, 40)), true)
    """
    plain = {"OPENBLAS_CORETYPE": "Nehalem", "ONEDNN_MAX_CPU_ISA": "SSE41", "OPENBLAS_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=os.environ | plain, check=True, timeout=300)


def test_a_product_that_rounds_is_noticed(monkeypatch):
    def rounded(self, rows, columns):
        part = self._x[rows, columns].astype(np.float32) - 128
        return (part.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32) * np.float32(1.01)

    x = pictures("random", np.random.default_rng(0))
    points = as_points(x)
    monkeypatch.setattr(Points, "_part", rounded)
    with pytest.raises(ArithmeticError, match="not at distance 0 from itself"):
        neighbors(points, 3)


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


@pytest.mark.parametrize("kind", FLOAT_CLOUDS)
def test_float_distances_are_those_of_float64_differences(kind):
    rng = np.random.default_rng(1)
    x = float_clouds(kind, rng)
    labels = rng.permutation(np.arange(len(x)) % 2)
    scale = {"huge": 1e200, "tiny": 1e-200, "tiny beside a constant": 1e-120}.get(kind, 1.0)
    distances, _, opposite, _ = brute_force(float_squares(np.asarray(x, dtype=np.float64) / scale), 9, labels)
    near = neighbors(x, 9, labels, block=23)
    np.testing.assert_allclose(near.distances / scale, distances, rtol=1e-9, atol=0)
    np.testing.assert_allclose(near.opposite_distance / scale, opposite, rtol=1e-9, atol=0)
    assert near.pairs.distance[0] == near.opposite_distance.min()


@pytest.mark.parametrize("kind", ["near-duplicates", "offset", "many coordinates"])
def test_every_entry_of_a_tile_keeps_its_bound(kind):
    x = float_clouds(kind, np.random.default_rng(2)).astype(np.float64)
    points = as_points(x)
    tile = points.distance(points.squared(slice(0, len(x)), slice(0, len(x)))) ** 2
    true = float_squares(x)
    assert (np.diag(tile) == 0).all()
    off = ~np.eye(len(x), dtype=bool)
    assert np.abs(tile / np.where(off, true, 1) - off).max() < RELATIVE_ERROR


def test_near_duplicates_are_wrong_without_recomputation():
    """What the recomputation is for: the plain float64 product is off by far more than the bound."""
    x = float_clouds("random", np.random.default_rng(3))
    x = np.concatenate([x, x + 1e-6])
    i, everything = np.arange(150), slice(0, 300)
    true = float_squares(x)[i, i + 150]
    points = as_points(x)

    def error():
        squares = points.squared(everything, everything)[i, i + 150] * points.distance(1.0) ** 2
        return np.abs(squares / true - 1).max()

    assert error() < RELATIVE_ERROR
    points._doubtful = -1.0
    assert error() > 1e3 * RELATIVE_ERROR


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_the_result_does_not_depend_on_the_block(block):
    rng = np.random.default_rng(4)
    x, y = rng.integers(0, 4, (90, 3, 3)).astype(np.uint8), np.arange(90) % 2  # many ties
    one, other = neighbors(x, 5, y), neighbors(x, 5, y, block=block)
    for name in ("distances", "indices", "opposite_distance", "opposite_index", "reserve_indices"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
    assert np.array_equal(one.pairs.i, other.pairs.i)
    assert np.array_equal(one.pairs.j, other.pairs.j)


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
    pairs = closest_pairs(x, y, ordered=ordered, count=count, block=9)
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


def test_memory_stays_far_below_all_pairs(monkeypatch):
    """No tile is larger than a strip: 3,000 points would take 72 MB as a float64 square."""
    tiles = []
    squared = Points.squared

    def watched(self, rows, columns):
        tile = squared(self, rows, columns)
        tiles.append(tile.nbytes)
        return tile

    monkeypatch.setattr(Points, "squared", watched)
    monkeypatch.setattr("intrinsic.neighbors.STRIP_BYTES", 2**20)
    near = neighbors(np.random.default_rng(0).integers(0, 256, (3000, 50)).astype(np.uint8), 3)
    assert max(tiles) <= 2**20
    assert near.distances.shape == (3000, 3)


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
