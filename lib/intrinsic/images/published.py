"""How the paper's released code draws and splits, defects included: for comparison, never for results.

The code of Konz & Mazurowski (ICLR 2024), commit e4aec43:

No groups. Patients, volumes and knees are not known to the split, so slices of one patient are on both sides.
First, not random. A run takes the first (N + 750) // 2 images of each class in the order of the listing and then splits
them at random: classes are balanced over both sides together only, and each N has another test set.
Labels slip off their images. ImageNet: the labels of the chosen classes are picked out and the list of files is not, so
the images are the first ones of the listing. MNIST, CIFAR-10 and SVHN: the balanced subset shortens the labels only.
Classes drawn anew. The pair of classes of a natural set is drawn again for each network and each N.
"""

import random

import numpy as np

PUBLISHED_SEED = 1337
PUBLISHED_TEST = 750
PUBLISHED_N = (500, 750, 1000, 1250, 1500, 1750)
PUBLISHED_MODELS = ("vgg13", "resnet18", "vgg16", "vgg19", "resnet34", "resnet50")  # in the order of the script


def published_rows(labels, rows):
    """(labels, rows of the listing) that the largest N of ImageNet uses: its labels, and the first rows."""
    used = _first(labels, (max(PUBLISHED_N) + PUBLISHED_TEST) // 2)
    return labels[used], np.arange(len(rows))[used]


def published_split(n, n_test=PUBLISHED_TEST, seed=PUBLISHED_SEED):
    """(training, test) rows of n images, drawn over images, whatever their patients, by torch's random_split."""
    import torch

    drawn = torch.utils.data.random_split(range(n), [n - n_test, n_test], torch.Generator().manual_seed(seed))
    train, test = (np.array(side.indices, dtype=np.int64) for side in drawn)
    return train, test


def published_pairs(counts, seed=PUBLISHED_SEED):
    """Classes of label 0 and 1 of each run of natural images, {(model, set, N): (class, class)}.

    counts   {set: training images of each class}, sets in the order in which the script visits them (MNIST, CIFAR10,
             SVHN, ImageNet); leaving one out changes the draws of the others
    One random generator serves all runs, networks outermost and N innermost; a pair with fewer than N + 750 images is
    drawn again.
    """
    generator, pairs = random.Random(seed), {}
    for model in PUBLISHED_MODELS:
        for name, images in counts.items():
            for n_train in PUBLISHED_N:
                pair = generator.sample(range(len(images)), 2)
                while sum(images[i] for i in pair) < n_train + PUBLISHED_TEST:
                    pair = generator.sample(range(len(images)), 2)
                pairs[model, name, n_train] = tuple(pair)
    return pairs


def _first(labels, each):
    """Rows of the first `each` images of every class, ascending."""
    return np.sort(np.concatenate([np.flatnonzero(labels == value)[:each] for value in np.unique(labels)]))
