"""Dimension estimators on manifolds of known dimension, against their formulas, and their intervals."""

import numpy as np
import pytest

from intrinsic.images import balanced_draws
from intrinsic.images.manifolds import flat_torus, torus_images
from intrinsic.properties.dimension import DuplicatePoints, mean_dimensions, mle_dimension, reserve, twonn_dimension
from intrinsic.properties.neighbors import BadPoints, neighbors


@pytest.mark.parametrize("d", [2, 5])
def test_both_find_the_dimension_of_a_torus(d):
    near = neighbors(flat_torus(2000, d, seed=1), 20, reserve=reserve(20))
    assert mle_dimension(near) == pytest.approx(d, rel=0.1)
    assert twonn_dimension(near) == pytest.approx(d, rel=0.1)


def test_both_are_their_formulas():
    x = np.random.default_rng(0).standard_normal((150, 4))
    t = np.sort(np.sqrt(((x[:, None] - x) ** 2).sum(-1)), axis=1)[:, 1:]
    inverse = np.log(t[:, 9:10] / t[:, :9]).mean()
    assert mle_dimension(x, 10, interval=False) == pytest.approx(1 / inverse)
    u = np.sort(np.log(t[:, 1] / t[:, 0]))[:135]
    v = -np.log(1 - np.arange(1, 136) / 150)
    assert twonn_dimension(x, interval=False) == pytest.approx((u @ v) / (u @ u))


def test_neither_depends_on_scale_nor_on_where_neighbors_come_from():
    x = flat_torus(300, 3)
    for estimate in (mle_dimension, twonn_dimension):
        one, other = estimate(x), estimate(neighbors(1000 * x, 20))
        assert (one, one.low, one.high) == pytest.approx((other, other.low, other.high))
        assert one.low < one < one.high


def test_intervals_cover_the_expectation_on_a_torus():
    """The share of 60 samples whose interval holds the mean estimate over all of them."""
    found = {mle_dimension: [], twonn_dimension: []}
    for seed in range(60):
        near = neighbors(flat_torus(250, 3, seed=seed), 10, reserve=reserve(10))
        found[mle_dimension].append(mle_dimension(near, 10))
        found[twonn_dimension].append(twonn_dimension(near))
    for values in found.values():
        assert sum(v.low <= np.mean(values) <= v.high for v in values) >= 52


def test_whole_groups_widen_the_interval():
    """Groups of ten near points, each of a dimension of its own: their log ratios are alike."""
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(60), 10)
    own = np.arange(8) < rng.integers(1, 9, 60)[group][:, None]
    x = 100 * rng.random((60, 8))[group] + rng.standard_normal((600, 8)) * own
    grouped, single = (mle_dimension(x, 4, group=g) for g in (group, None))
    assert grouped == single
    assert grouped.high / grouped.low > single.high / single.low


def test_balanced_draws_are_averaged():
    images, labels = torus_images(400, 3, size=12)
    mle, twonn = mean_dimensions(images, labels, per_class=60, draws=4, k=8)
    chosen = balanced_draws(labels, 60, 4, 0)
    assert mle == pytest.approx(np.mean([mle_dimension(images[c], 8, interval=False) for c in chosen]))
    assert twonn == pytest.approx(np.mean([twonn_dimension(images[c], interval=False) for c in chosen]))
    assert mle.low < mle < mle.high
    group = np.arange(400) // 2
    apart = mean_dimensions(images, labels, per_class=60, draws=2, k=8, group=group)[0]
    assert apart.excludes_group


def test_what_has_no_dimension_is_refused():
    x = flat_torus(60, 2)
    with pytest.raises(DuplicatePoints, match="2 of 61"):
        mle_dimension(np.concatenate([x, x[:1]]))
    with pytest.raises(BadPoints, match="k=1"):
        mle_dimension(x, 1)
    with pytest.raises(BadPoints):
        mle_dimension(np.eye(8), 3)
    with pytest.raises(BadPoints):
        twonn_dimension(np.stack(np.meshgrid(*[np.arange(6.0)] * 2), -1).reshape(-1, 2))
