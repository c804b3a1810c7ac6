from math import cos, pi

import numpy as np
import pytest

from gpunet import nn, optim
from gpunet.autograd import parameter


def optimizer(*rates):
    groups = [{"params": [parameter(np.zeros(2, np.float32))], "lr": rate} for rate in rates or (0.5,)]
    return optim.SGD(groups, lr=0.1)


def walk(schedule, steps):
    """The rates in force at steps 0, 1, …"""
    rates = []
    for _ in range(steps):
        rates.append(schedule.optimizer.groups[0]["lr"])
        schedule.step()
    return rates


FORMS = [
    (optim.ConstantLR, {}, lambda t: 1),
    (optim.StepLR, {"size": 3, "gamma": 0.5}, lambda t: 0.5 ** (t // 3)),
    (optim.CosineLR, {"total": 8}, lambda t: (1 + cos(pi * min(t, 8) / 8)) / 2),
    (optim.CosineLR, {"total": 8, "final": 0.1}, lambda t: 0.1 + 0.9 * (1 + cos(pi * min(t, 8) / 8)) / 2),
    (optim.WarmupLR, {"steps": 4}, lambda t: min((t + 1) / 4, 1)),
    (
        optim.OneCycleLR,
        {"total": 10, "rise": 0.4, "start_div": 10, "end_div": 100},
        lambda t: (
            0.1 + 0.9 * (1 - cos(pi * t / 4)) / 2
            if t < 4
            else 0.01 + 0.99 * (1 + cos(pi * (min(t, 10) - 4) / 6)) / 2
        ),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "options", "form"), FORMS)
def test_schedules_are_their_closed_forms(kind, options, form):
    rates = walk(kind(optimizer(0.5), **options), 14)
    np.testing.assert_allclose(rates, [0.5 * form(t) for t in range(14)], rtol=1e-12, atol=1e-15)


def test_every_group_keeps_its_share():
    held = optimizer(0.5, 0.1)
    schedule = optim.StepLR(held, size=1, gamma=0.1)
    schedule.step()
    np.testing.assert_allclose([g["lr"] for g in held.groups], [0.05, 0.01])
    np.testing.assert_allclose(schedule.rates(2), [0.005, 0.001])


def test_warm_up_hands_over_to_another_schedule():
    held = optimizer(0.8)
    then = optim.CosineLR(held, total=5)
    rates = walk(optim.WarmupLR(held, steps=4, then=then), 10)
    np.testing.assert_allclose(rates[:4], [0.2, 0.4, 0.6, 0.8])
    np.testing.assert_allclose(rates[4:], [0.8 * (1 + cos(pi * min(t, 5) / 5)) / 2 for t in range(6)], atol=1e-15)


def test_the_state_goes_round():
    one, other = (optim.CosineLR(optimizer(0.5), total=9) for _ in range(2))
    walk(one, 4)
    other.load_state_dict(one.state_dict())
    assert walk(one, 4) == walk(other, 4)
    with pytest.raises(ValueError, match="CosineLR: the state is of 1 groups, not 2"):
        optim.CosineLR(optimizer(0.1, 0.2), total=9).load_state_dict(one.state_dict())
    with pytest.raises(ValueError, match=r"CosineLR: the state is of \{'total': 9, .*, not \{'total': 3, "):
        optim.CosineLR(optimizer(0.5), total=3).load_state_dict(one.state_dict())


def test_the_state_brings_the_first_rates_with_it():
    one = optim.StepLR(optimizer(0.5), size=2)
    other = optim.StepLR(optimizer(0.1), size=2)
    walk(one, 1)
    other.load_state_dict(one.state_dict())
    assert walk(one, 4) == walk(other, 4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda o: optim.StepLR(o, size=0), "StepLR: size is 0 but must be an integer of at least 1"),
        (lambda o: optim.CosineLR(o, total=1.5), "CosineLR: total is 1.5 but must be an integer of at least 1"),
        (lambda o: optim.OneCycleLR(o, total=5, rise=1), "OneCycleLR: rise is 1 but must lie between 0 and 1"),
        (lambda o: optim.WarmupLR(o, steps=-1), "WarmupLR: steps is -1 but must be an integer of at least 1"),
        (
            lambda o: optim.WarmupLR(o, steps=2, then=optim.ConstantLR(optimizer())),
            "WarmupLR: then schedules another optimizer",
        ),
    ],
)
def test_a_bad_schedule_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make(optimizer())


@pytest.mark.parametrize("make", [lambda o: optim.ExponentialLR(o, 0.5), optim.ReduceLROnPlateau])
def test_a_schedule_says_what_it_cannot_take(make):
    name = type(make(optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0))).__name__
    for wrong in (None, nn.Linear(1, 1)):
        with pytest.raises(TypeError, match=f"{name}: optimizer is"):
            make(wrong)
    optimizer = optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    schedule = make(optimizer)
    rates = "rates" if "rates" in schedule.state_dict() else "base_rates"
    for state in (None, 3, {**schedule.state_dict(), rates: None}, {**schedule.state_dict(), rates: 3}):
        with pytest.raises(TypeError, match=name):
            schedule.load_state_dict(state)
    with pytest.raises(ValueError, match=name):
        schedule.load_state_dict({**schedule.state_dict(), "step_count": 2**70})
    assert optimizer.groups[0]["lr"] == 1.0


def test_steps_that_are_none_and_gammas_that_are_none():
    optimizer = optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    schedule = optim.ExponentialLR(optimizer, 0.5)
    with pytest.raises(ValueError, match="negative"):
        schedule.seek(-1)
    with pytest.raises(TypeError, match="integers"):
        schedule.seek(1.5)
    assert (schedule.step_count, optimizer.groups[0]["lr"]) == (0, 1.0)
    for gamma in ("x", None, -0.1, float("nan"), float("inf")):
        with pytest.raises((TypeError, ValueError), match="StepLR: gamma"):
            optim.StepLR(optimizer, 2, gamma)


@pytest.mark.parametrize("steps", [None, 3, [2**70, 0]])
def test_an_optimizer_keeps_its_rate_where_the_state_has_no_steps(steps):
    optimizer = optim.Adam(nn.Linear(1, 1).parameters(), lr=0.5)
    state = optimizer.state_dict()
    state["steps"], state["groups"][0]["lr"] = steps, 0.25
    with pytest.raises((TypeError, ValueError), match="Adam: the state's steps"):
        optimizer.load_state_dict(state)
    assert optimizer.groups[0]["lr"] == 0.5


def test_a_factor_beyond_float64_is_named_and_nothing_is_changed():
    schedule = optim.MultiStepLR(optimizer(), range(4000), 10.0)
    schedule.seek(1)
    before = schedule.step_count, schedule.optimizer.groups[0]["lr"]
    with pytest.raises(OverflowError, match="MultiStepLR: the factor of step 3000"):
        schedule.seek(3000)
    assert (schedule.step_count, schedule.optimizer.groups[0]["lr"]) == before


@pytest.mark.parametrize("metric", [np.ones(2), np.ones(0)])
def test_a_plateau_takes_one_number(metric):
    with pytest.raises(TypeError, match="ReduceLROnPlateau: metric is"):
        optim.ReduceLROnPlateau(optimizer()).step(metric)
