"""Updates from the gradients of several batches."""

import numpy as np
import pytest
import tolerances
from helpers import host, relative_error
from helpers.small_nets import batches_of, plain_net

from gpunet import functional as F
from gpunet import optim
from gpunet.train import Trainer


def trained(backend, batches, **options):
    model = plain_net().to(backend)
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9, clip_norm=0.5)
    trainer = Trainer(model, optimizer, backend=backend, progress=False, capture=False, **options)
    trainer.fit(batches, 2)
    return model.state_dict(), trainer


def test_added_gradients_equal_those_of_the_big_batch(backend, rng):
    small = batches_of(rng, [6, 6, 3, 5, 2])  # the last update takes two batches, and sizes differ
    big = [tuple(np.concatenate(parts) for parts in zip(*some, strict=True)) for some in (small[:3], small[3:])]
    expected, whole = trained(backend, big)
    got, parts = trained(backend, small, batches_per_update=3)
    for name, value in expected.items():
        assert relative_error(got[name], value) < tolerances.LOSS_CURVE, name
    assert parts.optimizer.steps.tolist() == whole.optimizer.steps.tolist() == [4] * 4
    np.testing.assert_allclose(parts.history["loss"], whole.history["loss"], rtol=tolerances.LOSS_CURVE)
    assert parts.history["accuracy"] == whole.history["accuracy"]


def test_gradients_add_up_by_hand(backend, rng):
    small, states = batches_of(rng, [4, 4, 4]), []
    for batches in (small, [tuple(np.concatenate(parts) for parts in zip(*small, strict=True))]):
        model = plain_net().to(backend)
        optimizer = optim.Adam(model.parameters())
        optimizer.zero_grad()
        for x, y in batches:
            optimizer.backward(F.cross_entropy(model(x), y), 1 / len(batches))
        optimizer.step()
        states.append([host(p.grad, backend) for p in model.parameters()])
    for one, other in zip(*states, strict=True):
        assert relative_error(one, other) < tolerances.LOSS_CURVE


def test_a_schedule_and_hooks_count_updates_rather_than_batches(rng):
    class Rates:
        seen = ()

        def after_step(self, trainer):
            self.seen = *self.seen, (trainer.step, trainer.optimizer.groups[0]["lr"])

    model, rates = plain_net(), Rates()
    optimizer = optim.SGD(model.parameters(), lr=1.0)
    schedule = optim.StepLR(optimizer, 1, 0.5)
    trainer = Trainer(
        model, optimizer, schedule=schedule, batches_per_update=2, backend="numpy", progress=False, callbacks=[rates]
    )
    trainer.fit(batches_of(rng, [4, 4, 4]), 1)
    assert rates.seen == ((1, 0.5), (2, 0.25))


def test_a_loss_that_is_not_finite_in_the_second_batch_of_an_update_changes_nothing(rng):
    batches = batches_of(rng, [4, 4])
    batches[1][0][0] = np.nan
    model = plain_net()
    start = model.state_dict()
    trainer = Trainer(
        model, optim.SGD(model.parameters(), lr=1.0), batches_per_update=2, backend="numpy", progress=False
    )
    with pytest.raises(FloatingPointError, match="nothing was updated"):
        trainer.fit(batches, 1)
    assert all(np.array_equal(value, start[name]) for name, value in model.state_dict().items())


def test_batches_per_update_must_be_at_least_1():
    model = plain_net()
    with pytest.raises(ValueError, match="Trainer: batches_per_update must be at least 1, got 0"):
        Trainer(model, optim.SGD(model.parameters(), lr=1.0), batches_per_update=0)


@pytest.mark.usefixtures("short_graphs")
@pytest.mark.parametrize("metrics", [[], ["accuracy"]])
@pytest.mark.parametrize("hook", [False, True])
@pytest.mark.parametrize("batches_per_update", [2, 3])
def test_captured_updates_of_several_batches_equal_eager_ones_bit_for_bit(
    new_task, cuda_name, batches_per_update, hook, metrics
):
    class Each:
        def after_step(self, trainer):
            seen.append((trainer.step, trainer.running["loss"]))

    states, calls = [], []
    for capture in (False, True):
        task, seen = new_task(0), []
        trainer = task.trainer(
            backend=cuda_name, capture=capture, batches_per_update=batches_per_update, metrics=metrics,
            schedule=optim.CosineAnnealingLR(task.optimizer, 30), callbacks=[Each()] * hook,
        )  # fmt: skip
        whole = [batch for batch in task.train if len(batch[0]) == 16]
        for batches in (
            whole * 7,
            [*whole * 2, *task.train],
        ):  # an update has batches of two sizes, and the last one has few
            trainer.fit(batches, 2)
        states.append(
            (task.model.state_dict(), [{**r, "seconds": 0, "images_per_second": 0} for r in trainer.history.rows])
        )
        calls.append(seen)
    for name, value in states[0][0].items():
        np.testing.assert_array_equal(value, states[1][0][name])
    assert states[0][1] == states[1][1]
    assert calls[0] == calls[1]
    counts = {count for _, count in trainer._step.graphs}
    assert batches_per_update * (1 if hook else 3) in counts


@pytest.mark.usefixtures("short_graphs")
@pytest.mark.parametrize("bad", [0, 3, 7])
def test_a_bad_batch_stops_captured_updates_where_it_stops_eager_ones(new_task, cuda_name, bad):
    states = []
    for capture in (False, True):
        task = new_task(0)
        trainer = task.trainer(backend=cuda_name, capture=capture, batches_per_update=2)
        whole = [batch for batch in task.train if len(batch[0]) == 16]
        trainer.fit(whole * 4, 1)
        batches = [tuple(part.copy() for part in batch) for batch in whole * 4]
        batches[bad][0][0] = np.nan
        with pytest.raises(FloatingPointError, match="the loss is nan in epoch 2.*nothing was updated"):
            trainer.fit(batches, 1)
        trainer.fit(whole, 1)
        states.append(task.model.state_dict())
        assert task.optimizer.steps.tolist() == [6 + bad // 2 + 2] * 4
    for name, value in states[0].items():
        np.testing.assert_array_equal(value, states[1][name])
