"""Losses weighted by labels do not depend on how the rows are divided into batches."""

from functools import partial

import numpy as np
import pytest
import tolerances
from helpers import relative_error
from helpers.small_nets import batches_of, plain_net
from scipy.special import log_softmax

from gpunet import functional as F
from gpunet import optim
from gpunet.train import Trainer

WEIGHT = [0.2, 3.0, 1.0, 0.5]
LOSSES = {
    "ignored": {"ignore_index": 255},
    "weighted": {"weight": WEIGHT},
    "both": {"ignore_index": 2, "weight": WEIGHT, "label_smoothing": 0.2},
}


def data_of(rng, sizes):
    """Batches in which very different shares of the labels are ignored: all of one, none of another."""
    batches = batches_of(rng, sizes)
    for i, (_, y) in enumerate(batches):
        y[: (0, len(y), len(y) - 1, 2)[i % 4]] = 255
    return batches


def labelled(batches, options):
    """The batches without labels that are neither classes nor ignored."""
    return [(x, np.where(y > 3, 2 if options.get("ignore_index") != 255 else 255, y)) for x, y in batches]


def joined(batches):
    return tuple(np.concatenate(parts) for parts in zip(*batches, strict=True))


def trainer_of(backend, loss, **options):
    model = plain_net()
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    options = {"capture": False, **options}
    return Trainer(model, optimizer, loss=loss, metrics=[], backend=backend, progress=False, **options)


def expected_loss(logits, labels, *, weight=None, ignore_index=None, label_smoothing=0.0):
    """The definition over all rows, in float64."""
    kept = labels != ignore_index
    log_p, labels = log_softmax(logits[kept].astype(np.float64), axis=1), labels[kept]
    weight = np.ones(4) if weight is None else np.asarray(weight)
    target = np.full(log_p.shape, label_smoothing / 4) + (1 - label_smoothing) * np.eye(4)[labels]
    return -(target * log_p * weight).sum() / weight[labels].sum()


@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_over_a_data_set_does_not_depend_on_the_batch_size(backend, rng, name):
    batches = labelled(data_of(rng, [3, 4, 6, 5]), LOSSES[name])
    x, y = joined(batches)
    trainer = trainer_of(backend, partial(F.cross_entropy, **LOSSES[name]))
    expected = expected_loss(trainer.predict(x), y, **LOSSES[name])
    for size in (1, 2, 4, 18):
        parts = [(x[i : i + size], y[i : i + size]) for i in range(0, len(x), size)]
        assert trainer.evaluate(parts)["loss"] == pytest.approx(expected, rel=1e-5)


def test_a_loss_of_the_users_own_is_weighted_by_rows(rng):
    batches = data_of(rng, [3, 4, 6, 5])
    trainer = trainer_of("numpy", lambda z, y: F.cross_entropy(z, y, ignore_index=255) * 1)
    losses = [trainer.evaluate([batch])["loss"] for batch in batches]
    expected = np.average(losses, weights=[3, 4, 6, 5])
    assert trainer.evaluate(batches)["loss"] == pytest.approx(expected)


def test_a_data_set_of_ignored_labels_has_a_loss_of_0(backend, rng):
    trainer = trainer_of(backend, partial(F.cross_entropy, ignore_index=7))
    assert trainer.evaluate([(x, np.full(len(x), 7)) for x, _ in batches_of(rng, [3, 2])])["loss"] == 0


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (1, 0, 3, 2)])
def test_added_gradients_weight_labels_as_one_big_batch_does(backend, rng, name, order):
    small = labelled(data_of(rng, [4, 3, 6, 5]), LOSSES[name])
    small, loss = [small[i] for i in order], partial(F.cross_entropy, **LOSSES[name])
    one, several = trainer_of(backend, loss), trainer_of(backend, loss, batches_per_update=4)
    one.fit([joined(small)], 3)
    several.fit(small, 3)
    expected, got = one.model.state_dict(), several.model.state_dict()
    for key, value in expected.items():
        assert relative_error(got[key], value) < tolerances.LOSS_CURVE, key
    np.testing.assert_allclose(several.history["loss"], one.history["loss"], rtol=tolerances.LOSS_CURVE)


def test_added_gradients_of_ignored_labels_change_nothing(backend, rng):
    trainer = trainer_of(backend, partial(F.cross_entropy, ignore_index=7), batches_per_update=2)
    start = trainer.model.state_dict()
    trainer.fit([(x, np.full(len(x), 7)) for x, _ in batches_of(rng, [3, 2])], 1)
    assert all(np.array_equal(value, start[key]) for key, value in trainer.model.state_dict().items())
    assert trainer.history["loss"] == [0]


@pytest.mark.usefixtures("short_graphs")
@pytest.mark.parametrize("batches_per_update", [1, 2])
def test_captured_steps_weight_labels_as_eager_ones_bit_for_bit(cuda_name, rng, batches_per_update):
    batches = data_of(rng, [6] * 9)
    results = []
    for capture in (False, True):
        loss = partial(F.cross_entropy, ignore_index=255)
        trainer = trainer_of(cuda_name, loss, batches_per_update=batches_per_update, capture=capture)
        trainer.fit(batches, 2)
        results.append((trainer.model.state_dict(), trainer.history["loss"]))
    for key, value in results[0][0].items():
        np.testing.assert_array_equal(value, results[1][0][key])
    assert results[0][1] == results[1][1]


def test_gradients_in_float16_are_weighted_by_labels_too(cuda_name, rng):
    small = data_of(rng, [4, 4, 4, 4])
    states = []
    for batches, batches_per_update in ((small, 4), ([joined(small)], 1)):
        loss = partial(F.cross_entropy, ignore_index=255)
        trainer = trainer_of(cuda_name, loss, batches_per_update=batches_per_update, precision="float16")
        trainer.fit(batches, 1)
        states.append(trainer.model.state_dict())
    for key, value in states[0].items():
        assert relative_error(value, states[1][key]) < 2e-3, key
