"""Trains in a way that ranks cannot: ``refused.py WAY``."""

import sys

import numpy as np

import gpunet as gp
from gpunet import nn, optim
from gpunet.distributed import world
from gpunet.train import buckets

buckets.LEAST_BYTES = 16  # so that a net as small as this has several


class Net(nn.Sequential):
    """Leaves its second layer out on the ranks behind rank 0, if told so."""

    leaves_out = False

    def forward(self, x):
        layers = list(self)
        for layer in layers[:1] + layers[2:] if self.leaves_out and world().rank else layers:
            x = layer(x)
        return x


def main(way):
    drawn = np.random.default_rng(0)
    batch = drawn.normal(size=(8, 3)).astype(np.float32), drawn.integers(0, 3, 8)
    model = Net(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    model.leaves_out = way == "layers"
    metrics = ["guess"] if way == "metric" else None
    trainer = gp.Trainer(model, optim.SGD(model.parameters(), lr=0.1), metrics=metrics, progress=False)
    if way == "rows":
        batch = tuple(part[: 8 - world().rank] for part in batch)
    trainer.fit([batch], epochs=2)


main(sys.argv[1])
