"""Training and test sets without a leak, and balanced draws."""

import hashlib
from dataclasses import dataclass, field

import numpy as np

from intrinsic.images.sets import BadImages, Leak, TooFewImages, integers


@dataclass(frozen=True, eq=False)
class Split:
    """Indices of training and test images (int64), how many groups each side holds, and a hash of it all."""

    train: np.ndarray = field(repr=False)
    test: np.ndarray = field(repr=False)
    n_groups_train: int
    n_groups_test: int
    hash: str


def split(images, n_train, seed, *, groups=None, test_fraction=0.25, max_test_per_class=375):
    """A training set of n_train images and a test set, balanced by class, with no group on both sides.

    Groups go to the test set first: in one seeded order, a quarter (test_fraction) of each class's groups, at
    least one, and no further group once a class has max_test_per_class images there; of these as many a class
    as the poorest class has. The training set is the beginning of one seeded order of images over all other
    groups: n_train // n_classes a class, classes in turn. So at one seed the test set is the same for every
    n_train, and a smaller training set is the beginning of a larger one.

    groups   group of each image, int (n,), instead of images.group. Where both are None each image is its own
             group. Images equal in every pixel always count as one group.
    Raises TooFewImages with the reason, and Leak if the result were not sound.
    """
    plan = _planned(images, seed, groups, test_fraction, max_test_per_class)
    each = _images_a_class(images, n_train, plan)
    train = np.stack([order[:each] for order in plan.orders.values()], axis=1).ravel()
    result = Split(
        train=train,
        test=plan.test,
        n_groups_train=len(np.unique(plan.groups[train])),
        n_groups_test=len(np.unique(plan.groups[plan.test])),
        hash=_split_hash(images, train, plan.test),
    )
    check_split(images, result, groups)
    return result


def reachable(images, n_train, seed, groups=None):
    """Why split() could not give n_train training images, as a sentence; "" where it can."""
    try:
        _images_a_class(images, n_train, _planned(images, seed, groups))
    except TooFewImages as error:
        return str(error)
    return ""


def check_split(images, split, groups=None):
    """Raises Leak where an index, a group or an exact copy of an image is on both sides of a split."""
    train, test = np.asarray(split.train), np.asarray(split.test)
    for side, rows in (("training", train), ("test", test)):
        if not len(rows) or rows.min() < 0 or rows.max() >= len(images) or len(np.unique(rows)) < len(rows):
            raise Leak(f"the {side} set is empty, repeats an image, or indexes outside the {len(images)} images")
    shared = np.intersect1d(train, test)
    if len(shared):
        raise Leak(f"{len(shared)} images are in training and test, e.g. image {shared[0]}: draw the split anew")
    groups = images.group if groups is None else _groups(groups, len(images))
    if groups is not None:
        shared = np.intersect1d(groups[train], groups[test])
        if len(shared):
            raise Leak(
                f"{len(shared)} groups have images in training and test, e.g. group {shared[0]}, so the test "
                "would not show what is new: split by group"
            )
    ids = images.pixel_ids()
    shared = np.intersect1d(ids[train], ids[test])
    if len(shared):
        i, j = train[ids[train] == shared[0]][0], test[ids[test] == shared[0]][0]
        raise Leak(
            f"{len(shared)} images are in training with an exact copy in test, e.g. {i} and {j}: put copies "
            "into one group, or drop them with drop_duplicates()"
        )


def balanced_draws(labels, per_class, draws, seed):
    """Index arrays (int64, ascending) of `draws` random subsets with per_class images of each class.

    Without replacement inside a draw; draw i depends on the seed and i alone. Raises TooFewImages.
    """
    labels = np.asarray(labels)
    rows = {int(label): np.flatnonzero(labels == label) for label in np.unique(labels)}
    fewest = min(rows, key=lambda label: len(rows[label]), default=None)
    if per_class < 1:
        raise TooFewImages(
            f"per_class is {per_class}, and a draw without images has nothing to measure: give at least 1"
        )
    if fewest is None or len(rows[fewest]) < per_class:
        found = "no labels" if fewest is None else f"{len(rows[fewest])} images of label {fewest}"
        raise TooFewImages(f"{per_class} images a class cannot be drawn from {found}: ask for fewer")
    subsets = []
    for draw in range(draws):
        rng = np.random.default_rng([seed, draw])
        chosen = [rng.choice(r, per_class, replace=False) for r in rows.values()]
        subsets.append(np.sort(np.concatenate(chosen)).astype(np.int64))
    return subsets


def _split_hash(images, train, test):
    """16 hex digits that identify which images are on which side, in whatever order."""
    digest = hashlib.sha256(images.content_hash().encode())
    for rows in (train, test):
        digest.update(b"|" + np.sort(rows).astype("<i8").tobytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class _Plan:
    test: np.ndarray
    orders: dict  # label: training images in their order
    groups: np.ndarray  # merged over exact copies


def _planned(images, seed, groups=None, test_fraction=0.25, max_test_per_class=375):
    """_plan, kept with the images for the training sizes that share it."""
    key = (
        type(seed),
        seed,
        None if groups is None else np.asarray(groups).tobytes(),
        test_fraction,
        max_test_per_class,
    )
    plans = images.__dict__.setdefault("_plans", {})
    if key not in plans:
        plans[key] = _plan(images, seed, groups, test_fraction, max_test_per_class)
    return plans[key]


def _plan(images, seed, groups=None, test_fraction=0.25, max_test_per_class=375):
    """Test set, and the order in which images of the other groups enter the training set."""
    if not 0 < test_fraction < 1 or max_test_per_class < 1:
        raise ValueError(
            f"test_fraction={test_fraction} and max_test_per_class={max_test_per_class} leave a side empty: "
            "take a fraction between 0 and 1, and at least one image"
        )
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"seed={seed!r} starts no random order: give a whole number from 0")
    n, labels = len(images), images.labels
    known = images.group if groups is None else _groups(groups, n)
    merged = _merge(np.arange(n) if known is None else known, images.pixel_ids())
    group_order, image_order = (np.random.default_rng([seed, part]) for part in (0, 1))
    turn = group_order.permutation(merged.max() + 1)
    present = [int(label) for label in np.unique(labels)]
    sizes = np.stack([np.bincount(merged[labels == label], minlength=len(turn)) for label in present])
    in_test = np.zeros(len(turn), dtype=bool)
    n_groups, left = ((sizes > 0).sum(axis=1) for _ in range(2))  # of each class; left: not in the test set
    for i, label in enumerate(present):
        if n_groups[i] < 2:
            raise TooFewImages(
                f"{images.name}: all {sizes[i].sum()} images of class {images.classes[label]!r} are one "
                "group, which cannot be on both sides of a split: give at least two groups a class"
            )
        target = max(1, round(test_fraction * n_groups[i]))
        for g in turn[sizes[i, turn] > 0]:
            if n_groups[i] - left[i] >= target or sizes[i, in_test].sum() >= max_test_per_class:
                break
            holders = sizes[:, g] > 0
            if not in_test[g] and (left[holders] > 1).all():  # every class keeps a group to train on
                in_test[g] = True
                left[holders] -= 1
        if left[i] == n_groups[i]:
            raise TooFewImages(
                f"{images.name}: the groups of class {images.classes[label]!r} are so few, and so shared "
                "with other classes, that none can go to the test set: give more groups"
            )
    shuffled = image_order.permutation(n)
    tests, orders = [], {}
    for label in present:
        mine = shuffled[labels[shuffled] == label]
        tests.append(mine[in_test[merged[mine]]][:max_test_per_class])
        orders[label] = mine[~in_test[merged[mine]]]
    each = min(len(rows) for rows in tests)
    test = np.stack([rows[:each] for rows in tests], axis=1).ravel()
    for array in (test, merged, *orders.values()):
        array.setflags(write=False)
    return _Plan(test, orders, merged)


def _images_a_class(images, n_train, plan):
    if isinstance(n_train, bool) or not isinstance(n_train, int | float | np.integer) or n_train != n_train // 1:
        raise ValueError(f"n_train={n_train!r} is no number of images: give a whole number")
    if n_train != int(n_train) or n_train < len(plan.orders):
        raise TooFewImages(
            f"n_train={n_train} gives no image to some of the {len(plan.orders)} classes of {images.name}: "
            f"ask for at least {len(plan.orders)}"
        )
    each = int(n_train) // len(plan.orders)
    label = min(plan.orders, key=lambda label: len(plan.orders[label]))
    most = len(plan.orders[label])
    if each > most:
        raise TooFewImages(
            f"{images.name}: {n_train} training images are {each} a class, and class "
            f"{images.classes[label]!r} has {most} of its {int((images.labels == label).sum())} left once "
            f"whole groups have gone to the test set: ask for at most {most * len(plan.orders)}"
        )
    return each


def _groups(groups, n):
    groups = integers(groups, n, "groups")
    if groups.min() < 0:
        raise BadImages("a group is negative, so images of unknown group would count as one: number them from 0")
    return groups


def _merge(groups, copies):
    """Component of each image when images of one group, or with equal pixels, belong together."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = len(groups)
    groups = np.unique(groups, return_inverse=True)[1]
    rows = np.arange(n)
    ends = np.concatenate([n + groups, n + groups.max() + 1 + copies])
    size = ends.max() + 1
    graph = coo_array((np.ones(2 * n), (np.concatenate([rows, rows]), ends)), shape=(size, size))
    return np.unique(connected_components(graph, directed=False)[1][:n], return_inverse=True)[1]
