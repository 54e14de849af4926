"""Training and test sets without a leak, and balanced draws."""

import hashlib
from dataclasses import dataclass, field
from operator import index

import numpy as np

from intrinsic.images.sets import Leak, TooFewImages, checked_group

TEST_FRACTION = 0.25  # of each class's groups
MOST_TEST = 375  # test images a class


@dataclass(frozen=True, eq=False)
class Split:
    """Indices of training and test images (int64), how many groups each side holds, and a hash of it all."""

    train: np.ndarray = field(repr=False)
    test: np.ndarray = field(repr=False)
    n_groups_train: int
    n_groups_test: int
    hash: str


def split(images, n_train, seed, *, groups=None):
    """A training set of n_train images and a test set, balanced by class, with no group on both sides.

    Groups go to the test set first: in one seeded order, a quarter of each class's groups, at least one, and no further
    group once a class has 375 images there; of these as many a class as the poorest class has. The training set is the
    beginning of one seeded order of images over all other groups, classes in turn. So at one seed the test set is the
    same for every n_train, and a smaller training set is the beginning of a larger one.

    Parameters
    ----------
    images : ImageSet
    n_train : int
        Training images over all classes.
    seed : int
    groups : array of int, (n,), optional
        Group of each image, instead of `images.group`. Where both are None each image is its own group. Images equal in
        every pixel always count as one group.

    Returns
    -------
    Split

    Raises
    ------
    TooFewImages, Leak

    Examples
    --------
    >>> from intrinsic import images
    >>> found = split(images.load("digits"), 500, seed=0)
    >>> len(found.train), len(found.test)
    (500, 750)
    """
    test, orders, merged = _plan(images, seed, groups)
    each, most = index(n_train) // len(orders), min(map(len, orders))
    if not 1 <= each <= most:
        label = images.labels[min(orders, key=len)[0]]
        raise TooFewImages(
            f"{images.name}: {n_train} training images are {each} a class, and class {images.classes[label]!r} has "
            f"{most} of its {int((images.labels == label).sum())} left beside the test set's groups: ask for "
            f"{len(orders)} to {most * len(orders)}"
        )
    train = np.stack([order[:each] for order in orders], axis=1).ravel()
    digest = hashlib.sha256(images.content_hash().encode())
    for rows in (train, test):
        digest.update(b"|" + np.sort(rows).astype("<i8").tobytes())
    n_groups = [len(np.unique(merged[rows])) for rows in (train, test)]
    result = Split(train, test, *n_groups, digest.hexdigest()[:16])
    check_split(images, result, groups)
    return result


def check_split(images, split, groups=None):
    """Raises Leak where an image, a group or an exact copy of an image is on both sides of a split."""
    train, test = split.train, split.test
    groups = checked_group(images.group if groups is None else groups, len(images))
    for what, ids in (("images", np.arange(len(images))), ("groups", groups), ("exact copies", images.pixel_ids)):
        shared = [] if ids is None else np.intersect1d(ids[train], ids[test])
        if len(shared):
            i, j = train[ids[train] == shared[0]][0], test[ids[test] == shared[0]][0]
            raise Leak(f"{len(shared)} {what} are in training and test, e.g. images {i} and {j}: keep each on one side")


def balanced_draws(labels, per_class, draws, seed):
    """Random subsets with as many images of each class.

    Parameters
    ----------
    labels : array of int, (n,)
    per_class : int
        Images of each class, drawn without replacement.
    draws : int
        How many subsets; draw i depends on the seed and i alone.
    seed : int

    Returns
    -------
    list of array of int64
        Ascending indices.

    Raises
    ------
    TooFewImages

    Examples
    --------
    >>> [rows.tolist() for rows in balanced_draws([0, 0, 0, 1, 1], 2, 2, seed=0)]
    [[1, 2, 3, 4], [1, 2, 3, 4]]
    """
    labels = np.asarray(labels)
    rows = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    fewest = min(map(len, rows), default=0)
    if not 1 <= per_class <= fewest:
        raise TooFewImages(f"{per_class} images a class cannot be drawn where a class has {fewest}: ask for 1 to those")
    subsets = []
    for draw in range(draws):
        rng = np.random.default_rng([seed, draw])
        chosen = [rng.choice(r, per_class, replace=False) for r in rows]
        subsets.append(np.sort(np.concatenate(chosen)).astype(np.int64))
    return subsets


def _plan(images, seed, groups):
    """(test set, training images of each class in order, merged groups), kept with the images for all sizes."""
    plans = images.__dict__.setdefault("_plans", {})
    key = (seed, None if groups is None else np.asarray(groups).tobytes())
    if key not in plans:
        n, labels = len(images), images.labels
        known = checked_group(images.group if groups is None else groups, n)
        merged = _merge(np.arange(n) if known is None else known, images.pixel_ids)
        in_test = _groups_for_test(images, merged, np.random.default_rng([seed, 0]))
        shuffled = np.random.default_rng([seed, 1]).permutation(n)
        classes = [shuffled[labels[shuffled] == label] for label in np.unique(labels)]
        tests = [mine[in_test[merged[mine]]][:MOST_TEST] for mine in classes]
        each = min(map(len, tests))
        test = np.stack([rows[:each] for rows in tests], axis=1).ravel()
        plans[key] = test, [mine[~in_test[merged[mine]]] for mine in classes], merged
    return plans[key]


def _groups_for_test(images, merged, rng):
    """Which groups go to the test set, bool (groups,); every class keeps one to train on. Raises TooFewImages."""
    turn = rng.permutation(merged.max() + 1)
    present = np.unique(images.labels)
    sizes = np.stack([np.bincount(merged[images.labels == label], minlength=len(turn)) for label in present])
    in_test = np.zeros(len(turn), dtype=bool)
    n_groups, left = ((sizes > 0).sum(axis=1) for _ in range(2))  # of each class; left: not in the test set
    for i, label in enumerate(present):
        target = max(1, round(TEST_FRACTION * n_groups[i]))
        for g in turn[sizes[i, turn] > 0]:
            if n_groups[i] - left[i] >= target or sizes[i, in_test].sum() >= MOST_TEST:
                break
            holders = sizes[:, g] > 0
            if not in_test[g] and (left[holders] > 1).all():
                in_test[g] = True
                left[holders] -= 1
        if left[i] == n_groups[i]:
            raise TooFewImages(
                f"{images.name}: the {sizes[i].sum()} images of class {images.classes[label]!r} are {n_groups[i]} "
                "groups, none of which can go to the test set alone: give two groups or more a class"
            )
    return in_test


def _merge(groups, copies):
    """Component of each image when images of one group, or with equal pixels, belong together."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    images, groups = np.arange(len(groups)), np.unique(groups, return_inverse=True)[1]
    ends = np.concatenate([groups, groups.max() + 1 + copies])
    links = np.ones(len(ends)), (np.tile(images, 2), len(images) + ends)
    size = len(images) + ends.max() + 1
    found = connected_components(coo_array(links, shape=(size, size)), directed=False)[1]
    return np.unique(found[images], return_inverse=True)[1]
