"""Frozen layers keep their weights, and the backward pass ends above them."""

import numpy as np
import pytest
from helpers.small_nets import batches_of, normalised_net

from gpunet import functional as F
from gpunet import nn, optim


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("kind", [optim.SGD, optim.AdamW, optim.Muon])
def test_frozen_layers_stay_as_they_are_and_the_others_learn(backend, rng, before, kind):
    model = normalised_net().to(backend)
    below = nn.Sequential(*model.layers[:2])
    if before:
        below.freeze()
    optimizer = kind(model.parameters(), lr=0.1, weight_decay=0.5)
    batch = batches_of(rng, [8])[0]
    if not before:
        model.train()
        F.cross_entropy(model(batch[0]), batch[1]).backward()
        below.freeze()  # which forgets the gradients that there are
    start = model.state_dict()
    model.train()
    for _ in range(2):
        if before:
            optimizer.zero_grad()
        F.cross_entropy(model(batch[0]), batch[1]).backward()
        optimizer.step()
    for name, value in model.state_dict().items():
        assert np.array_equal(value, start[name]) == (not name.startswith("5.")), name
    assert model[0].weight.grad is None
    assert not model[1].training
    assert model[2].training
    below.unfreeze()
    model.train()
    optimizer.zero_grad()
    F.cross_entropy(model(batch[0]), batch[1]).backward()
    optimizer.step()
    assert not any(np.array_equal(value, start[name]) for name, value in model.state_dict().items() if "0." in name)


def test_backward_ends_above_frozen_layers(backend, rng):
    model = normalised_net().to(backend)
    nn.Sequential(*model.layers[:2]).freeze()
    model.train()
    hidden = nn.Sequential(*model.layers[:4])(batches_of(rng, [4])[0][0])
    assert not hidden.requires_grad
    assert nn.Sequential(*model.layers[4:])(hidden).requires_grad


def test_parameters_alone_may_be_left_out(rng):
    model = normalised_net()
    assert model[0].requires_grad_(False) is model[0]
    assert [p.requires_grad for p in model.parameters()] == [False, False, True, True, True, True]
    model.train()
    assert model[0].training


def test_freezing_between_captured_epochs_takes_effect(new_task, cuda_name):
    states = []
    for capture in (False, True):
        task = new_task(0)
        trainer = task.trainer(backend=cuda_name, capture=capture)
        trainer.fit(task.train, 2)
        task.model[0].freeze()
        kept = task.model.state_dict()["0.weight"]
        trainer.fit(task.train, 2)
        np.testing.assert_array_equal(task.model.state_dict()["0.weight"], kept)
        states.append(task.model.state_dict())
    for name, value in states[0].items():
        np.testing.assert_array_equal(value, states[1][name])
