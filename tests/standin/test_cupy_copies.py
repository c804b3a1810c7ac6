"""Copies and pickles of models and optimizers whose values are CuPy arrays."""

import copy
import pickle

import numpy as np
import pytest
from helpers.small_nets import batches_of, normalised_net

from gpunet import nn, optim
from gpunet.train import Trainer


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
def test_copies_on_cuda_train_by_themselves(cuda, copied, rng):
    loader = batches_of(rng, [8, 8])

    def trainer_of(model, optimizer):
        average = optim.ExponentialMovingAverage(model, optimizer, 0.9)
        return Trainer(model, optimizer, average=average, backend="cuda", progress=False)

    model = nn.Sequential(normalised_net(), nn.Dropout(0.1)).to("cuda")
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    trainers = [trainer_of(*copied((model, optimizer))), trainer_of(model, optimizer)]
    trainers[1].fit(loader, 1)
    trainers.append(copied(trainers[1]))
    before = model.state_dict()
    trainers[0].fit(loader, 1)
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
    for trainer in trainers:
        trainer.fit(loader, 1)
    alone = copied(model)
    assert alone[0][0].weight.backend is model[0][0].weight.backend is cuda
    assert cuda.owns(alone[0][0].weight.data)
    for twin in (trainers[0].model, trainers[2].model, alone):
        assert twin is not model
        for name, value in twin.state_dict().items():
            np.testing.assert_array_equal(value, model.state_dict()[name])
