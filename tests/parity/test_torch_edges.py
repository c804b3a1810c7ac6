"""Values and gradients at the edges, beside PyTorch's in float32: zeros of both signs, infinities, NaN, ties, very large and
very small numbers, and operands that are one tensor.

What is not compared is where gpunet differs on purpose: the gradient of `abs` at NaN is NaN, of several equal maxima the
first has the gradient, and a GPU takes denormal numbers for zeros.
"""

import numpy as np
import pytest
from helpers import gradients

import gpunet as gp
from gpunet import functional as F

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity

EDGES = np.array(
    [0, -0.0, 1, -1, 2, -2, 3, -3, 0.5, -0.5, np.inf, -np.inf, np.nan, 1e-30, -1e-30, 1e30, -1e30, 1e-20, 1e20, 3e38, -3e38,
     88, -88, 100, -100],
    np.float32,
)  # fmt: skip
LEFT, RIGHT = (grid.ravel() for grid in np.meshgrid(EDGES, EDGES))
ROWS = np.array(
    [[1, 1, 1], [np.nan, 2, np.nan], [3e38, 3e38, 1], [1e6 + 1, 1e6, 1e6 + 2], [0, -0.0, 0], [-np.inf, 5, 0], [1e-30, 2e-30, 0],
     [5, 5, 4], [np.inf, np.inf, 2], [-3, -3, -4]],
    np.float32,
)  # fmt: skip


def agrees(ours, theirs, inputs, backend, rng):
    drawn = []

    def upstream(shape):
        drawn.append((rng.uniform(0.5, 2, shape) * rng.choice([-1, 1], shape)).astype(np.float32))
        return drawn[0]

    y, grads = gradients(ours, inputs, upstream, backend=backend, dtype="float32")
    tensors = [torch.tensor(x, requires_grad=True) for x in inputs]
    expected = theirs(*tensors)
    expected.backward(torch.tensor(drawn[0]))
    smallest = 1e-36 if backend.narrow else 1.2e-38  # denormal numbers, also in between
    for i, (a, b) in enumerate(zip([y, *grads], [expected.detach(), *(t.grad for t in tensors)], strict=True)):
        what = "value" if i == 0 else f"gradient {i - 1}"
        np.testing.assert_allclose(a, b.numpy(), rtol=3e-6, atol=smallest, err_msg=what)


BINARY = {
    "add": (lambda a, b: a + b,) * 2,
    "subtract": (lambda a, b: a - b,) * 2,
    "multiply": (lambda a, b: a * b,) * 2,
    "divide": (lambda a, b: a / b,) * 2,
    "power": (lambda a, b: a**b,) * 2,
    "maximum": (F.maximum, torch.maximum),
    "minimum": (F.minimum, torch.minimum),
    "where": (lambda a, b: F.where(a > b, a, b * 2), lambda a, b: torch.where(a > b, a, b * 2)),
}


@pytest.mark.parametrize("name", BINARY)
def test_every_pair_of_edges(backend, rng, name):
    ours, theirs = BINARY[name]
    agrees(ours, theirs, (LEFT, RIGHT), backend, rng)


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("edge", [0.0, -0.0, 1.0, -2.0, np.inf, np.nan])
def test_edges_that_broadcast(backend, rng, name, edge):
    ours, theirs = BINARY[name]
    finite = EDGES[np.abs(EDGES) < 5]  # sums over a broadcast axis would all be NaN
    one = np.array([[edge]], np.float32)
    agrees(ours, theirs, (finite, one[0]), backend, rng)
    agrees(ours, theirs, (one, finite), backend, rng)


UNARY = {
    "exp": (F.exp, torch.exp), "log": (F.log, torch.log), "sqrt": (F.sqrt, torch.sqrt), "negative": (lambda x: -x,) * 2,
    "x x": (lambda x: x * x,) * 2, "x / x": (lambda x: x / x,) * 2, "x - x": (lambda x: x - x,) * 2,
    "x to the x": (lambda x: x**x,) * 2,
    "the larger of x and x": (lambda x: F.maximum(x, x), lambda x: torch.maximum(x, x)),
    "1 / x": (lambda x: 1 / x,) * 2, "2 to the x": (lambda x: 2**x,) * 2, "0 to the x": (lambda x: 0.0**x,) * 2,
    "-2 to the x": (lambda x: (-2.0) ** x,) * 2,
    **{f"x to the {p}": (lambda x, p=p: x**p,) * 2 for p in (0, 0.0, 1, 2, 3, -1, -2, 4, 0.5)},
    "clip": (lambda x: F.clip(x, -1, 2), lambda x: torch.clip(x, -1, 2)),
    "clip to limits that cross": (lambda x: F.clip(x, 3, -1), lambda x: torch.clip(x, 3, -1)),
    "clip from above": (lambda x: F.clip(x, max=2), lambda x: torch.clip(x, max=2)),
}  # fmt: skip


@pytest.mark.parametrize("name", UNARY)
def test_every_edge(backend, rng, name):
    ours, theirs = UNARY[name]
    # x / x sums what cancels; PyTorch's gradient of x^2 overflows before dy comes in
    edges = EDGES[~(np.abs(EDGES) > 1e38)] if name in ("x / x", "x to the 2") else EDGES
    agrees(ours, theirs, (edges,), backend, rng)


def test_absolute_values(backend, rng):
    agrees(F.abs, torch.abs, (EDGES[~np.isnan(EDGES)],), backend, rng)


REDUCTIONS = {
    "sum": (lambda x: x.sum(1), lambda x: x.sum(1)),
    "mean": (lambda x: x.mean(1), lambda x: x.mean(1)),
    "max": (lambda x: x.max(1), lambda x: x.max(1).values),
    "min": (lambda x: x.min(1), lambda x: x.min(1).values),
    "var": (lambda x: x.var(1), lambda x: x.var(1)),
    "var of all": (lambda x: x.var(1, correction=0), lambda x: x.var(1, correction=0)),
    "var of one": (lambda x: x[:, :1].var(1), lambda x: x[:, :1].var(1)),
    "std of one": (lambda x: x[:, :1].std(1), lambda x: x[:, :1].std(1)),
}


@pytest.mark.filterwarnings("ignore:.*degrees of freedom:UserWarning")
@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions_of_edges(backend, rng, name):
    ours, theirs = REDUCTIONS[name]
    rows = (
        ROWS if "var" not in name else ROWS[(np.abs(ROWS) < 1e30).all(axis=1)]
    )  # beyond, PyTorch's gradient is infinite
    agrees(ours, theirs, (rows,), backend, rng)


def test_deviations(backend, rng):
    rows = ROWS[(np.abs(ROWS) < 1e30).all(axis=1)]  # of larger ones PyTorch's gradient is NaN
    agrees(lambda x: x.std(1), lambda x: x.std(1), (rows,), backend, rng)


@pytest.mark.parametrize(
    "f", [lambda t: t.argmax(1), lambda t: t.argmin(1), lambda t: t.argmax(), lambda t: t.argmin()]
)
def test_positions(backend, rng, f):
    x = rng.integers(0, 3, (20, 7)).astype(np.float32)
    x[rng.integers(0, 2, (20, 7)) > 0] += rng.uniform(0, 0.5)
    x += rng.permutation(140).reshape(20, 7).astype(np.float32) * 1e-3  # PyTorch promises no order of equals
    np.testing.assert_array_equal(f(gp.tensor(x, backend=backend)).numpy(), f(torch.tensor(x)).numpy())
