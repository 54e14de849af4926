"""How the paper's code draws and splits: the same draws, defects included."""

import random

import numpy as np
import torch

from intrinsic import images as sets
from intrinsic.images import published


def test_the_split_is_torchs_at_seed_1337_and_its_test_set_changes_with_n():
    train, test = sets.published_split(1250)
    theirs = torch.utils.data.random_split(
        torch.arange(1250), [500, 750], generator=torch.Generator().manual_seed(1337)
    )
    assert [int(i) for i in theirs[0]] == train.tolist()
    assert [int(i) for i in theirs[1]] == test.tolist()
    assert np.array_equal(np.sort(np.concatenate([train, test])), np.arange(1250))
    other = sets.published_split(1500)[1]
    assert len(test) == len(other) == 750
    assert len(np.intersect1d(test, other)) < 600


def test_pairs_are_one_stream_of_draws_over_networks_sets_and_sizes():
    counts = {"MNIST": [6000] * 10, "CIFAR10": [5000] * 10, "SVHN": [5000] * 10, "ImageNet": [1300] * 1000}
    pairs = sets.published_pairs(counts)
    random.seed(1337)
    expected = {
        (model, name, n): tuple(random.sample(list(range(len(images))), 2))
        for model in ("vgg13", "resnet18", "vgg16", "vgg19", "resnet34", "resnet50")
        for name, images in counts.items()
        for n in range(500, 2000, 250)
    }
    assert pairs == expected
    assert (
        len({pairs["vgg13", "CIFAR10", n] for n in published.PUBLISHED_N}) > 1
    )  # no two sizes on one task, in general
    assert len({pairs[model, "CIFAR10", 500] for model in published.PUBLISHED_MODELS}) > 1


def test_a_pair_with_too_few_images_is_drawn_again():
    counts = [2500, 10, 10, 10, 10, 10, 10, 10, 10, 2500]
    pairs = sets.published_pairs({"SVHN": counts})
    assert all(sum(counts[i] for i in pair) >= n + 750 for (_, _, n), pair in pairs.items())
    generator = random.Random(1337)
    first = next(p for p in iter(lambda: generator.sample(range(10), 2), None) if sum(counts[i] for i in p) >= 1250)
    assert pairs["vgg13", "SVHN", 500] == tuple(first)


def test_imagenet_gives_the_first_files_with_the_labels_of_the_chosen_classes():
    labels = np.array([0, 0, 1, 0, 0])
    found, at = published.published_rows(labels, np.arange(5, 10))
    assert (found.tolist(), at.tolist()) == (labels.tolist(), [0, 1, 2, 3, 4])
