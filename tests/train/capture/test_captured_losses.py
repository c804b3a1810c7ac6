"""Losses in a captured step, and labels that are not among the classes."""

import numpy as np
import pytest
from helpers.small_nets import batches_of, plain_net

from gpunet import functional as F
from gpunet import optim
from gpunet.train import Trainer


def pairs(model, batch):
    x, same = batch
    half = len(x) // 2
    return F.contrastive_loss(model(x[:half]), model(x[half:]), same[:half])


LOSSES = {
    "contrastive": (pairs, 2),
    "all pairs": (lambda model, batch: F.all_pairs_loss(model(batch[0]), 2), 4),
    "soft labels": (
        lambda model, batch: F.cross_entropy(
            model(batch[0]), F.one_hot(batch[1], 4, backend=model[0].weight.backend), label_smoothing=0.1
        ),
        4,
    ),
    "focal": (lambda model, batch: F.focal_loss(model(batch[0]), batch[1]), 4),
    "huber": (
        lambda model, batch: F.huber_loss(model(batch[0]), F.one_hot(batch[1], 4, backend=model[0].weight.backend)),
        4,
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_captured(cuda_name, rng, name):
    step, classes = LOSSES[name]
    batches = [(x, y % classes) for x, y in batches_of(rng, [8] * 3)]
    states = []
    for capture in (False, True):
        model = plain_net()
        trainer = Trainer(
            model,
            optim.SGD(model.parameters(), lr=0.1),
            loss_step=step,
            backend=cuda_name,
            capture=capture,
            progress=False,
        )
        trainer.fit(batches, 2)
        states.append(model.state_dict())
    for key, value in states[0].items():
        np.testing.assert_array_equal(value, states[1][key])


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("name", ["contrastive", "focal", "soft labels"])
def test_a_label_that_is_no_class_stops_a_captured_step(cuda_name, rng, name, on_device):
    """The host checks the labels of a signature's first batch; later ones show in the loss of the graph."""
    step, classes = LOSSES[name]
    batches = [(x, (y % classes).astype(np.int32)) for x, y in batches_of(rng, [8] * 3)]
    model = plain_net()
    trainer = Trainer(
        model, optim.SGD(model.parameters(), lr=0.1), loss_step=step, backend=cuda_name, capture=True, progress=False
    )
    if on_device:
        batches = [(x, trainer.backend.asarray(y)) for x, y in batches]
    trainer.fit(batches, 1)
    before = model.state_dict()
    y = np.asarray(trainer.backend.to_numpy(batches[1][1]) if on_device else batches[1][1]).copy()
    y[2] = classes
    batches[1] = batches[1][0], trainer.backend.asarray(y) if on_device else y
    message = "the loss is nan" if on_device else "must be "
    with pytest.raises(FloatingPointError if on_device else ValueError, match=message):
        trainer.fit(batches[1:], 1)
    for key, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[key])
