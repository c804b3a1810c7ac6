"""Nets and batches that train in milliseconds."""

import numpy as np

import gpunet as gp
from gpunet import nn


def normalised_net():
    """(N, 6, 6, 1) -> (N, 4), with batch norm and a pool."""
    gp.seed(3)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding="same"),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(36, 4),
    )


def plain_net():
    """(N, 6, 6, 1) -> (N, 4)."""
    gp.seed(3)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding="same"), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4))


def batches_of(rng, sizes):
    """Images and labels, so many a batch."""
    return [(rng.normal(size=(n, 6, 6, 1)).astype(np.float32), rng.integers(0, 4, n)) for n in sizes]
