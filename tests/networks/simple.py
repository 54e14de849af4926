"""Networks and images whose answers are known, for the tests of this room."""

import pytest
import torch
from torch import nn

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, needs_gpu])]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(n=32, side=4, low=0.0, high=1.0, seed=1):
    """Images of uniform pixels."""
    return low + (high - low) * torch.rand(n, 1, side, side, generator=generator(seed))


def clouds(n=60, side=8, seed=0, n_classes=2):
    """(images, labels): noise around a bright spot whose place tells the class, separable."""
    x = torch.rand(n, 1, side, side, generator=generator(seed)) * 0.3
    y = torch.arange(n) % n_classes
    for c in range(n_classes):
        x[y == c, :, 2 * c : 2 * c + 2, :2] += 0.6
    return x, y


def linear(n_classes=2, scale=1.0, side=4):
    """(network, W): outputs W x, no bias."""
    layer = nn.Linear(side * side, n_classes, bias=False)
    with torch.no_grad():
        layer.weight.copy_(scale * torch.randn(layer.weight.shape, generator=generator()))
    return nn.Sequential(nn.Flatten(), layer), layer.weight.detach().double().numpy()


def convolutional(n_classes=2, side=10):
    """A network with batch normalization, dropout, pooling and in-place ReLUs, its statistics away from their start."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 8, 3),
            nn.ReLU(inplace=True),
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(8 * (side // 2 - 2) ** 2, n_classes),
        )
        network(torch.rand(50, 1, side, side))
    return network


class Scripted(nn.Module):
    """Predicts with an accuracy written down for each epoch, `running` in training and `looks` in evaluation.

    An image holds its own number / n and its label; those with the smallest numbers are predicted right.
    """

    def __init__(self, n, running, looks):
        super().__init__()
        self.n, self.running, self.looks, self.seen = n, running, looks, 0
        self.idle = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        if self.training:
            epoch = self.seen // self.n
            self.seen += len(x)
            share = self.running[min(epoch, len(self.running) - 1)]
        else:
            share = self.looks[min(self.seen // self.n, len(self.looks)) - 1]
        right = x[:, 0, 0, 0] * self.n < share * self.n - 0.5
        one = torch.where(right, x[:, 0, 0, 1], 1 - x[:, 0, 0, 1]) * 2 - 1
        return torch.stack([-one, one], 1) + 0 * self.idle

    @staticmethod
    def data(n):
        x = torch.zeros(n, 1, 1, 2)
        x[:, 0, 0, 0] = torch.arange(n) / n
        x[:, 0, 0, 1] = torch.arange(n) % 2
        return x, torch.arange(n) % 2
