"""Gradients against finite differences along random directions, or against the reference where float64 is not computed."""

import numpy as np
import tolerances

import gpunet as gp
from helpers.values import host, relative_error

STEP = 1e-5  # inputs lie 1e-3 from kinks and ties, and directions reach no further than 3


def gradients(f, inputs, upstream, *, backend, dtype):
    """(f's value, its gradient in each input) as host arrays; `upstream` is a function of the value's shape."""
    tensors = [gp.tensor(np.asarray(x, dtype), backend=backend, requires_grad=True) for x in inputs]
    y = f(*tensors)
    y.backward(upstream(y.shape))
    for i, t in enumerate(tensors):
        assert t.grad is not None, f"input {i} got no gradient"
        assert tuple(t.grad.shape) == t.shape, f"input {i} of shape {t.shape} got a gradient of {t.grad.shape}"
        assert t.grad.dtype == t.dtype, f"input {i} of {t.dtype} got a gradient of {t.grad.dtype}"
    return host(y), [host(t.grad, backend) for t in tensors]


def check_gradients(f, inputs, *, backend, rng, directions=2):
    """Assert that the backward pass of f gives its gradient at `inputs`; the worst error is returned.

    A backend without float64 is compared with the reference backend only, so a wrong formula in a
    backward pass shows on the CPU backends.

    The upstream gradient is random: with all ones, a transposed, shifted or channel-reversed weight gradient passes unseen.
    Each input is moved alone, so that a small gradient does not hide behind a large one.
    """
    drawn = {}

    def upstream(shape):
        if shape not in drawn:
            drawn[shape] = rng.normal(size=shape)
        return drawn[shape]

    if "float64" not in backend.dtypes:
        return _against_reference(f, inputs, upstream, backend)
    inputs = [np.asarray(x, np.float64) for x in inputs]
    y, grads = gradients(f, inputs, upstream, backend=backend, dtype=np.float64)
    u, worst = upstream(y.shape), 0.0
    for i, (x, grad) in enumerate(zip(inputs, grads, strict=True)):
        for _ in range(directions):
            v = np.clip(rng.normal(size=x.shape), -3, 3)
            above, below = (_value(f, [*inputs[:i], x + h * v, *inputs[i + 1 :]], backend) for h in (STEP, -STEP))
            numeric = float((u * (above - below)).sum() / (2 * STEP))
            analytic = float((grad * v).sum())
            # a directional derivative is about ‖grad‖, and may be small by chance
            scale = max(float(np.linalg.norm(grad)), abs(numeric), 1e-6)
            error = abs(numeric - analytic) / scale
            assert error <= tolerances.GRADIENT, (
                f"input {i} {x.shape}: finite differences give {numeric:.12g} along a direction, backward {analytic:.12g}"
            )
            worst = max(worst, error)
    return worst


def _value(f, inputs, backend):
    with gp.no_grad():
        return f(*[gp.tensor(x, backend=backend) for x in inputs]).numpy().copy()


def _against_reference(f, inputs, upstream, backend):
    rounded = [np.asarray(x, np.float32) for x in inputs]
    y, grads = gradients(f, rounded, lambda shape: upstream(shape).astype(np.float32), backend=backend, dtype="float32")
    plain = gp.get_backend("reference")
    expected_y, expected = gradients(
        f, rounded, lambda shape: upstream(shape).astype(np.float32), backend=plain, dtype="float64"
    )
    errors = [_error(a, b) for a, b in zip([y, *grads], [expected_y, *expected], strict=True)]
    assert max(errors) <= tolerances.FLOAT32_GRADIENT, f"errors of the value and each gradient: {errors}"
    return max(errors)


def _error(actual, expected):
    """The relative error, or, of a result that cancelled, the error relative to 1 for each element."""
    norm = float(np.linalg.norm(expected))
    return relative_error(actual, expected) * min(1.0, norm / np.sqrt(max(np.size(expected), 1)) if norm > 0 else 1.0)
