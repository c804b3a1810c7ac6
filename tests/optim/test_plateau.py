"""Schedules that follow milestones, powers or a metric."""

import json

import numpy as np
import pytest
from helpers.small_nets import batches_of, plain_net

import gpunet as gp
from gpunet import optim
from gpunet.autograd import parameter
from gpunet.train import Trainer


def optimizer(*rates):
    return optim.SGD([{"params": [parameter(np.zeros(2, np.float32))], "lr": rate} for rate in rates or (0.5,)], lr=1)


def rates(held):
    return [group["lr"] for group in held.groups]


def walk(schedule, steps):
    seen = []
    for _ in range(steps):
        seen.append(schedule.optimizer.groups[0]["lr"])
        schedule.step()
    return seen


@pytest.mark.parametrize("milestones", [[2, 5, 5, 9], (9, 5, 2, 5), np.array([5, 2, 9, 5]), iter([2, 5, 9, 5])])
def test_milestones_multiply_the_rate(milestones):
    expected = [0.5] * 2 + [0.05] * 3 + [0.0005] * 4 + [0.00005] * 3
    np.testing.assert_allclose(walk(optim.MultiStepLR(optimizer(), milestones), 12), expected, rtol=1e-12)


def test_an_exponential_is_a_power():
    np.testing.assert_allclose(
        walk(optim.ExponentialLR(optimizer(), 0.9), 8), [0.5 * 0.9**t for t in range(8)], rtol=1e-12
    )


@pytest.mark.parametrize("make", [lambda o: optim.MultiStepLR(o, [2, 4], 0.5), lambda o: optim.ExponentialLR(o, 0.7)])
def test_a_schedule_continues_from_its_state_as_json(make):
    one, other = make(optimizer(0.5)), make(optimizer(0.1))
    walk(one, 3)
    other.load_state_dict(json.loads(json.dumps(one.state_dict())))
    assert walk(one, 4) == walk(other, 4)
    with pytest.raises(ValueError, match="the state is of"):
        optim.MultiStepLR(optimizer(), [2, 5], 0.5).load_state_dict(one.state_dict())


def test_warm_up_hands_over_to_milestones():
    held = optimizer()
    schedule = optim.WarmupLR(held, 2, optim.MultiStepLR(held, [1, 3]))
    np.testing.assert_allclose(walk(schedule, 7), [0.25, 0.5, 0.5, 0.05, 0.05, 0.005, 0.005], rtol=1e-12)


# ---- by a metric


def reduced(metrics, **options):
    """The rate after each metric."""
    held = optimizer(1.0)
    schedule = optim.ReduceLROnPlateau(held, factor=0.5, **options)
    seen = []
    for metric in metrics:
        schedule.step(metric)
        seen.append(held.groups[0]["lr"])
    return seen


@pytest.mark.parametrize(
    ("options", "metrics", "expected"),
    [
        ({"patience": 0}, [3, 2, 2, 1, 1, 1], [1, 1, 0.5, 0.5, 0.25, 0.125]),
        ({"patience": 1}, [3, 3, 3, 3, 3], [1, 1, 0.5, 0.5, 0.25]),
        ({"mode": "max", "patience": 0}, [1, 2, 2, 3], [1, 1, 0.5, 0.5]),
        ({"patience": 0, "threshold": 0.1}, [1, 0.95, 0.89], [1, 0.5, 0.5]),
        ({"patience": 0, "threshold": 0.1, "threshold_mode": "abs"}, [10, 9.95, 9.8], [1, 0.5, 0.5]),
        ({"patience": 0, "threshold": 0.1, "threshold_mode": "abs", "mode": "max"}, [1, 1.05, 1.2], [1, 0.5, 0.5]),
        ({"patience": 0, "cooldown": 2}, [1, 1, 1, 1, 1], [1, 0.5, 0.5, 0.5, 0.25]),
        ({"patience": 0, "min_lr": 0.4}, [1, 1, 1, 1], [1, 0.5, 0.4, 0.4]),
        ({"patience": 0, "eps": 0.3}, [1, 1, 1, 1], [1, 0.5, 0.5, 0.5]),
        ({"patience": 0}, [np.nan, np.float32(1), np.array([1.0]), gp.tensor(0.5)], [0.5, 0.5, 0.25, 0.25]),
    ],
)  # fmt: skip
def test_rates_fall_when_the_metric_does_not_improve(options, metrics, expected):
    np.testing.assert_allclose(reduced(metrics, **options), expected, rtol=1e-12)


def test_every_group_has_its_lowest_rate():
    held = optimizer(0.5, 0.1)
    schedule = optim.ReduceLROnPlateau(held, "min", 0.1, 0, min_lr=[0.2, 0.0])
    for _ in range(3):
        schedule.step(1.0)
    np.testing.assert_allclose(rates(held), [0.2, 0.001], rtol=1e-12)


def test_a_state_resumes_exactly(rng):
    metrics = rng.normal(size=40)
    one = optim.ReduceLROnPlateau(optimizer(0.5, 0.1), patience=2, cooldown=1, factor=0.8)
    for metric in metrics[:17]:
        one.step(metric)
    other = optim.ReduceLROnPlateau(optimizer(9, 9), patience=2, cooldown=1, factor=0.8)
    other.load_state_dict(json.loads(json.dumps(one.state_dict())))
    for metric in metrics[17:]:
        one.step(metric)
        other.step(metric)
        assert rates(one.optimizer) == rates(other.optimizer)
    assert rates(one.optimizer)[0] < 0.5
    before = other.state_dict()
    for change in ({"rates": [0.1]}, {"rates": [0.1, None]}, {"best": "a"}, {"bad_epochs": 1.5}, {"options": {}}):
        with pytest.raises((TypeError, ValueError), match="^ReduceLROnPlateau: "):
            other.load_state_dict({**one.state_dict(), **change})
    assert other.state_dict() == before


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda o: optim.ReduceLROnPlateau(o, "less"), "ReduceLROnPlateau: mode is 'less' but takes one of min, max"),
        (lambda o: optim.ReduceLROnPlateau(o, factor=1.0), "ReduceLROnPlateau: factor is 1.0 but must be at least 0 and below"),
        (lambda o: optim.ReduceLROnPlateau(o, patience=-1), "ReduceLROnPlateau: patience and cooldown hold -1"),
        (lambda o: optim.ReduceLROnPlateau(o, min_lr=[0, 0]), "ReduceLROnPlateau: min_lr has 2 rates but the optimizer 1"),
        (lambda o: optim.ReduceLROnPlateau(o).step("a"), "ReduceLROnPlateau: metric is 'a' but takes a number"),
        (lambda o: optim.ReduceLROnPlateau(o).step(None), "ReduceLROnPlateau: metric is None but takes a number"),
        (lambda o: optim.WarmupLR(o, 2, optim.ReduceLROnPlateau(o)), "WarmupLR: then is ReduceLROnPlateau but takes a"),
        (lambda o: optim.MultiStepLR(o, [1, 2.5]), "MultiStepLR: milestones are [1, 2.5] but must be integers of at least 0"),
        (lambda o: optim.MultiStepLR(o, 3), "MultiStepLR: milestones are 3 but must be integers"),
        (lambda o: optim.ExponentialLR(o, "a"), "ExponentialLR: gamma is 'a' but must be a number"),
    ],
)  # fmt: skip
def test_wrong_arguments_raise_and_are_named(make, message):
    with pytest.raises((TypeError, ValueError)) as caught:
        make(optimizer())
    assert str(caught.value).startswith(message)


# ---- in the Trainer


def made(backend, **options):
    model = plain_net()
    held = optim.SGD(model.parameters(), lr=0.1)
    schedule = optim.ReduceLROnPlateau(held, factor=0.5, patience=0, threshold=0.9, **options)
    return Trainer(model, held, schedule=schedule, backend=backend, progress=False)


def test_the_trainer_passes_the_monitored_column_after_each_epoch(backend, rng, tmp_path):
    loader = batches_of(rng, [8, 8])
    trainer = made(backend)
    trainer.fit(loader, 3, valid=loader)
    assert trainer.history["lr"] == [0.1, 0.1, 0.05]
    assert rates(trainer.optimizer) == [0.025]
    assert trainer.schedule.best == trainer.history["valid_loss"][0]
    trainer.save(tmp_path / "checkpoint")
    other = made(backend)
    other.load(tmp_path / "checkpoint")
    for one in (trainer, other):
        one.fit(loader, 2, valid=loader)
    assert other.history["lr"] == trainer.history["lr"] == [0.1, 0.1, 0.05, 0.025, 0.0125]
    np.testing.assert_array_equal(other.model[0].weight.numpy(), trainer.model[0].weight.numpy())


def test_another_column_can_be_monitored_and_a_missing_one_raises(rng):
    loader = batches_of(rng, [8])
    trainer = made("numpy")
    with pytest.raises(
        ValueError, match="^ReduceLROnPlateau: monitor 'valid_loss' is no column; there are epoch, loss"
    ):
        trainer.fit(loader, 1)
    assert trainer.epoch == 0
    trainer = made("numpy", monitor="loss")
    trainer.fit(loader, 2)
    assert rates(trainer.optimizer) == [0.05]
