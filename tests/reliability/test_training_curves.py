"""Short training curves of digits; the campaign of this folder trains longer, and larger networks."""

from dataclasses import replace

import pytest
from training_curves import NARROW, TASKS, Curve, middle, row_of, train

from gpunet.backends import get_backend

STEPS, SEEDS = 20, (0, 1, 2)
TASK = replace(TASKS["digits"], batch_size=16)


@pytest.fixture(scope="module")
def digits():
    return TASK.images()


@pytest.fixture(scope="module")
def singles(digits):
    """Curves of digits in float32."""
    return [train(TASK, "float32", seed, STEPS, get_backend("numpy"), digits) for seed in SEEDS]


@pytest.fixture
def narrow(cuda_backend, singles, digits):
    """Trains in a precision with the middle seed -> (the curve, whether it ends within the spread of float32)."""

    def train_in(precision, steps=STEPS):
        curve = train(TASK, precision, SEEDS[middle(singles)], steps, cuda_backend, digits)
        return curve, row_of(curve, singles, middle(singles))[1]

    return train_in


@pytest.mark.parametrize(
    "precision", [p if p == "bfloat16" else pytest.param(p, marks=pytest.mark.slow) for p in NARROW]
)
def test_digits_are_learned_as_in_float32_and_on_tensor_cores(narrow, singles, precision):
    curve, within = narrow(precision)
    ends = [single.end() for single in singles]
    assert within, f"{precision} ends at {curve.end()}, float32 at {ends}"
    assert len(curve.losses) == STEPS
    assert curve.losses[-1] < 0.7 * curve.losses[0]
    assert curve.convolutions == curve.expected == STEPS * 3 * 2  # passes, convolutions of 16 channels and more
    assert not any(kernel.startswith(("conv2d_forward", "conv2d_input", "conv2d_weight")) for kernel in curve.others)
    assert curve.share > 0.9


def test_a_gradient_that_is_wrong_is_found(narrow, cuda_backend, monkeypatch):
    right = type(cuda_backend).conv2d_weight_grad

    def wrong(self, dy, *given):
        return right(self, self.scale(dy, None, -1.0), *given)

    monkeypatch.setattr(type(cuda_backend), "conv2d_weight_grad", wrong)
    assert not narrow("bfloat16", steps=8)[1]


def test_the_curve_in_the_middle_is_repeated_and_the_interval_holds_its_ends():
    singles = [Curve([3.0]), Curve([1.0]), Curve([2.0])]
    assert middle(singles) == 2
    for end, expected in ((0.999, False), (1.0, True), (3.0, True), (3.001, False)):
        assert row_of(Curve([end], others={}), singles, 2)[1] is expected
