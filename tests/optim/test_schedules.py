from math import cos, pi

import numpy as np
import pytest

from gpunet import nn, optim
from gpunet.autograd import parameter


def optimizer(*rates):
    groups = [{"params": [parameter(np.zeros(2, np.float32))], "lr": rate} for rate in rates or (0.5,)]
    return optim.SGD(groups, lr=0.1)


def walk(schedule, steps):
    """The rates of steps 0, 1, …"""
    rates = []
    for _ in range(steps):
        rates.append(schedule.optimizer.groups[0]["lr"])
        schedule.step()
    return rates


FORMS = [
    (optim.ConstantLR, {"factor": 1.0}, lambda t: 1),
    (optim.ConstantLR, {"factor": 0.25, "total_iters": 3}, lambda t: 0.25 if t < 3 else 1),
    (optim.StepLR, {"step_size": 3, "gamma": 0.5}, lambda t: 0.5 ** (t // 3)),
    (optim.CosineAnnealingLR, {"T_max": 8}, lambda t: (1 + cos(pi * t / 8)) / 2),
    (optim.CosineAnnealingLR, {"T_max": 8, "eta_min": 0.05}, lambda t: 0.1 + 0.9 * (1 + cos(pi * t / 8)) / 2),
    (optim.WarmupLR, {"steps": 4}, lambda t: min((t + 1) / 4, 1)),
    (
        optim.OneCycleLR,
        {"max_lr": 0.5, "total_steps": 10, "pct_start": 0.4, "div_factor": 10, "final_div_factor": 10},
        lambda t: (
            0.1 + 0.9 * (1 - cos(pi * t / 3)) / 2
            if t < 3
            else 0.01 + 0.99 * (1 + cos(pi * (min(t, 9) - 3) / 6)) / 2
        ),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "options", "form"), FORMS)
def test_schedules_have_their_closed_forms(kind, options, form):
    rates = walk(kind(optimizer(0.5), **options), 14)
    np.testing.assert_allclose(rates, [0.5 * form(t) for t in range(14)], rtol=1e-12, atol=1e-15)


def test_every_group_keeps_its_share():
    held = optimizer(0.5, 0.1)
    schedule = optim.StepLR(held, step_size=1, gamma=0.1)
    schedule.step()
    np.testing.assert_allclose([g["lr"] for g in held.groups], [0.05, 0.01])
    np.testing.assert_allclose(schedule.rates(2), [0.005, 0.001])


def test_every_group_has_its_largest_rate():
    held = optimizer(0.5, 0.1)
    schedule = optim.OneCycleLR(held, [0.4, 0.2], 20, 0.25)
    np.testing.assert_allclose([g["lr"] for g in held.groups], [0.4 / 25, 0.2 / 25])
    np.testing.assert_allclose(schedule.rates(4), [0.4, 0.2])
    np.testing.assert_allclose(schedule.rates(19), [0.4 / 25e4, 0.2 / 25e4])
    assert schedule.rates(19) == schedule.rates(20) == schedule.rates(10**6)


def test_warm_up_hands_over_to_another_schedule():
    held = optimizer(0.8)
    then = optim.CosineAnnealingLR(held, T_max=5)
    rates = walk(optim.WarmupLR(held, steps=4, then=then), 10)
    np.testing.assert_allclose(rates[:4], [0.2, 0.4, 0.6, 0.8])
    np.testing.assert_allclose(rates[4:], [0.8 * (1 + cos(pi * t / 5)) / 2 for t in range(6)], atol=1e-15)


def test_a_schedule_continues_from_its_state():
    one, other = (optim.CosineAnnealingLR(optimizer(0.5), T_max=9) for _ in range(2))
    walk(one, 4)
    other.load_state_dict(one.state_dict())
    assert walk(one, 4) == walk(other, 4)
    with pytest.raises(ValueError, match="CosineAnnealingLR: the state is of 1 groups, not 2"):
        optim.CosineAnnealingLR(optimizer(0.1, 0.2), T_max=9).load_state_dict(one.state_dict())
    with pytest.raises(ValueError, match="CosineAnnealingLR: the state is of T_max 9, not 3; .* extend_schedule"):
        optim.CosineAnnealingLR(optimizer(0.5), T_max=3).load_state_dict(one.state_dict())


def test_an_option_of_a_schedule_behind_a_warm_up_is_named():
    def made(T_max):
        held = optimizer(0.5)
        return optim.WarmupLR(held, 2, optim.CosineAnnealingLR(held, T_max))

    with pytest.raises(ValueError, match=r"^WarmupLR: the state is of then\.T_max 9, not 12; to go on with"):
        made(12).load_state_dict(made(9).state_dict())
    with pytest.raises(ValueError, match=r"^WarmupLR: the state is of then\.name None, not 'CosineAnnealingLR', then"):
        made(9).load_state_dict(optim.WarmupLR(optimizer(0.5), 2).state_dict())
    with pytest.raises(TypeError, match="WarmupLR: the state's options are 3 but must be a dict"):
        made(9).load_state_dict({**made(9).state_dict(), "options": 3})


def test_a_loaded_state_includes_the_first_rates():
    one = optim.StepLR(optimizer(0.5), step_size=2)
    other = optim.StepLR(optimizer(0.1), step_size=2)
    walk(one, 1)
    other.load_state_dict(one.state_dict())
    assert walk(one, 4) == walk(other, 4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda o: optim.StepLR(o, step_size=0), "StepLR: step_size must be at least 1, got 0"),
        (
            lambda o: optim.CosineAnnealingLR(o, T_max=1.5),
            "CosineAnnealingLR: T_max must be an integer, got 1.5",
        ),
        (
            lambda o: optim.CosineAnnealingLR(o, 5, -0.1),
            "CosineAnnealingLR: eta_min is -0.1 but must be finite and not",
        ),
        (lambda o: optim.OneCycleLR(o, 1.0, 5, 1.5), "OneCycleLR: pct_start is 1.5 but must be from 0 to 1"),
        (lambda o: optim.OneCycleLR(o, [0.1, 0.2], 5), "OneCycleLR: max_lr has 2 rates but the optimizer 1 groups"),
        (lambda o: optim.OneCycleLR(o, -0.1, 5), "OneCycleLR: max_lr is -0.1 but must be finite and not negative"),
        (lambda o: optim.OneCycleLR(o, 0.1, 5, div_factor=0), "OneCycleLR: div_factor is 0 but must be positive"),
        (lambda o: optim.ConstantLR(o, factor=0), "ConstantLR: factor is 0 but must be positive"),
        (lambda o: optim.WarmupLR(o, steps=-1), "WarmupLR: steps must be at least 1, got -1"),
        (
            lambda o: optim.WarmupLR(o, steps=2, then=optim.ConstantLR(optimizer())),
            "WarmupLR: then schedules another optimizer",
        ),
    ],
)
def test_wrong_arguments_of_schedules_raise(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make(optimizer())


@pytest.mark.parametrize("make", [lambda o: optim.ExponentialLR(o, 0.5), optim.ReduceLROnPlateau])
def test_a_schedule_refuses_other_objects_and_states(make):
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


def test_wrong_steps_and_gammas_raise():
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


def test_a_rate_beyond_float64_is_named_and_nothing_is_changed():
    schedule = optim.MultiStepLR(optimizer(), range(4000), 10.0)
    schedule.seek(1)
    before = schedule.step_count, schedule.optimizer.groups[0]["lr"]
    with pytest.raises(OverflowError, match="MultiStepLR: the rate of step 3000"):
        schedule.seek(3000)
    assert (schedule.step_count, schedule.optimizer.groups[0]["lr"]) == before


@pytest.mark.parametrize("metric", [np.ones(2), np.ones(0)])
def test_a_plateau_takes_one_number(metric):
    with pytest.raises(TypeError, match="ReduceLROnPlateau: metric is"):
        optim.ReduceLROnPlateau(optimizer()).step(metric)
