"""Gradients have memory of their own, and what `backward` of an operation may return."""

from itertools import pairwise

import numpy as np
import pytest
from helpers import host

import gpunet as gp
from gpunet import autograd, nn, optim
from gpunet import functional as F
from gpunet.autograd import Function


def leaf(backend, data):
    return gp.tensor(np.asarray(data, np.float32), backend=backend, requires_grad=True)


def span(array, backend):
    """(first byte, the one past the last) of an array that is contiguous."""
    start = array.ctypes.data if isinstance(array, np.ndarray) else backend.arrays.pointer(array)
    return start, start + array.size * array.dtype.itemsize


def apart(backend, *arrays):
    """Whether no two arrays overlap."""
    spans = sorted(span(a, backend) for a in arrays)
    return all(one[1] <= other[0] for one, other in pairwise(spans))


class Pass(Function):
    """An operation whose gradients are dy itself."""

    def forward(self, *arrays):
        return self.backend.copy(arrays[0])

    def backward(self, dy):
        return tuple(dy for _ in self.inputs)


class Keep(Function):
    """An operation whose gradient is an array that it has saved."""

    def forward(self, x, *, slope):
        self.slope = slope
        self.save(x, slope)
        return self.backend.binary("multiply", x, slope)

    def backward(self, dy):
        return self.slope


SHARING = {
    "add": lambda a, b: a + b,
    "add, scaled after": lambda a, b: (a + b) * 4,
    "subtract": lambda a, b: a - b,
    "reshape": lambda a, b: a.reshape(6) + b.reshape(6),
    "transpose": lambda a, b: a.T + b.T,
    "transpose to the same order": lambda a, b: a.transpose(0, 1) + b,
    "slices": lambda a, b: a[...] + b[:, :],
    "concatenate": lambda a, b: F.concatenate([a, b]),
    "stack": lambda a, b: F.stack([a, b]),
    "sum": lambda a, b: F.sum(a + b),
    "sums": lambda a, b: F.sum(a, 0) + F.sum(b, 0),
    "sum over an axis of 1": lambda a, b: (a.unsqueeze(0).sum(0) + b).squeeze(),
    "mean": lambda a, b: F.mean(a) + F.mean(b),
    "dropout at inference": lambda a, b: F.dropout(a, 0.5, training=False) + b,
    "noise": lambda a, b: F.gaussian_noise(a, 0.5) + b,
    "padding by nothing": lambda a, b: F.pad2d((a + b).reshape(1, 2, 3, 1), 0),
    "where": lambda a, b: F.where(np.ones((2, 3), bool), a, b),
    "maximum": lambda a, b: F.maximum(a, b) + F.minimum(a, b),
    "clip": lambda a, b: F.clip(a, -100, 100) + b,
    "batch norm and a shortcut": lambda a, b: F.batch_norm(
        a, *(gp.tensor([v] * 3, backend=a.backend) for v in (0.0, 1.0)), training=False, residual=b
    ),
    "a function that passes dy on": lambda a, b: Pass.apply(a, b),
    "and again": lambda a, b: Pass.apply(Pass.apply(a, b), b) + a,
}  # fmt: skip


@pytest.mark.parametrize("name", SHARING)
def test_no_gradient_shares_memory(backend, rng, name):
    a, b = leaf(backend, rng.normal(size=(2, 3))), leaf(backend, rng.normal(size=(2, 3)))
    y = SHARING[name](a, b)
    upstream = backend.asarray(rng.normal(size=y.shape).astype(np.float32))
    before = host(upstream, backend).copy()
    y.backward(upstream)
    assert apart(backend, a.grad, b.grad, upstream, a.data, b.data)
    first = host(b.grad, backend).copy()
    a.grad = backend.binary("multiply", a.grad, a.grad, out=a.grad)  # as a user or an optimizer may do
    np.testing.assert_array_equal(host(b.grad, backend), first)
    np.testing.assert_array_equal(host(upstream, backend), before)


def test_a_leaf_that_is_the_root_keeps_its_own_copy(backend):
    x, upstream = leaf(backend, [1, 2]), backend.asarray(np.array([3, 4], np.float32))
    x.backward(upstream)
    assert apart(backend, x.grad, upstream)


def test_what_a_function_saved_is_no_gradient(backend):
    x, slope = leaf(backend, [1, 2]), backend.asarray(np.array([3, 4], np.float32))
    y = Keep.apply(x, slope=slope)
    y.backward(np.ones(2, np.float32), retain_graph=True)
    assert apart(backend, x.grad, slope, x.data)
    y.backward(np.ones(2, np.float32))
    assert host(x.grad, backend).tolist() == [6, 8]
    assert host(slope, backend).tolist() == [3, 4]


def test_a_second_backward_adds_in_place_and_to_nothing_else(backend):
    x, other = leaf(backend, [1, 2]), leaf(backend, [1, 1])
    y = x + other
    y.backward([1, 1], retain_graph=True)
    held, others = x.grad, host(other.grad, backend).copy()
    x.requires_grad, second = True, (x * 3)
    second.backward([1, 1])
    assert x.grad is held  # as in PyTorch: copy the first gradient to keep it
    assert host(held, backend).tolist() == [4, 4]
    np.testing.assert_array_equal(host(other.grad, backend), others)


def test_a_retained_graph_gives_the_same_gradient_each_time(backend, rng):
    x = leaf(backend, rng.normal(size=(4, 3)))
    loss = F.cross_entropy(x, [0, 1, 2, 0])  # its forward pass computes the gradient already
    for _ in range(3):
        x.zero_grad()
        loss.backward(retain_graph=True)
        first = host(x.grad, backend).copy()
        x.grad = backend.binary("subtract", x.grad, x.grad, out=x.grad)
    x.zero_grad()
    loss.backward()
    np.testing.assert_array_equal(host(x.grad, backend), first)


def test_parameters_of_one_layer_share_nothing_outside_of_an_arena(backend, rng):
    layers = [nn.Conv2d(2, 3, 1), nn.Linear(3, 4), nn.BatchNorm2d(3), nn.LayerNorm(3)]
    conv, linear, norm, layer_norm = (layer.to(backend) for layer in layers)
    x = leaf(backend, rng.normal(size=(2, 4, 4, 2)))
    linear(layer_norm(norm(conv(x)))).sum().backward()
    grads = [p.grad for layer in (conv, linear, norm, layer_norm) for p in layer.parameters()]
    assert apart(backend, x.grad, *grads)


def test_an_arenas_gradients_are_its_segments_and_take_no_copy(backend, rng, monkeypatch):
    conv, dense = nn.Conv2d(1, 3, 3).to(backend), nn.Linear(12, 2).to(backend)
    optimizer = optim.SGD([*conv.parameters(), *dense.parameters()], lr=0.1)
    loss = dense(F.flatten(conv(rng.normal(size=(5, 4, 4, 1)).astype(np.float32)))).sum()
    monkeypatch.setattr(type(backend), "copy", None)
    loss.backward()
    monkeypatch.undo()
    for p in (*conv.parameters(), *dense.parameters()):
        assert p.grad is optimizer.arena.grad_views[p.segment]
    assert np.abs(host(conv.weight.grad, backend)).max() > 0


def test_a_gradient_that_is_a_view_becomes_an_array_of_its_own():
    class Spread(Function):
        def forward(self, x):
            return np.asarray(x.sum())

        def backward(self, dy):
            return np.broadcast_to(dy, (2, 3))  # read-only, all strides 0

    for backend in map(gp.get_backend, ("reference", "numpy")):
        x = leaf(backend, np.ones((2, 3)))
        Spread.apply(x).backward()
        x.grad += 1
        assert x.grad.tolist() == [[2] * 3] * 2


# ---- what backward returns


class Custom(Function):
    name = "custom"

    def forward(self, x, w, *, gradients):
        self.gradients = gradients
        return self.backend.binary("add", x, w)

    def backward(self, dy):
        return self.gradients(self.backend, dy)


WRONG = {
    "a shape": (lambda on, dy: (on.full((3,), 1, dy.dtype), dy), ValueError, "gradient of x has shape (3,) but must have (2,)"),
    "the second's shape": (lambda on, dy: (dy, dy.reshape(1, 2)), ValueError, "of w has shape (1, 2) but must have (2,)"),
    "one number": (lambda on, dy: (dy, on.full((), 1, dy.dtype)), ValueError, "of w has shape () but must have (2,)"),
    "too few": (lambda on, dy: dy, ValueError, "backward gave 1 gradients for 2 inputs"),
    "too many": (lambda on, dy: (dy, dy, dy), ValueError, "backward gave 3 gradients for 2 inputs"),
    "integers": (lambda on, dy: (on.asarray(np.ones(2, np.int32)), dy), TypeError, "of x is int32 but must be a float dtype"),
    "booleans": (lambda on, dy: (dy, on.asarray(np.ones(2, bool))), TypeError, "of w is bool but must be a float dtype"),
    "a list": (lambda on, dy: ([1.0, 2.0], dy), TypeError, "of x is list but must be an array of"),
    "a tensor": (lambda on, dy: (gp.tensor([1.0, 2.0], backend=on), dy), TypeError, "of x is Tensor but must be an array of"),
    "a number": (lambda on, dy: (dy, 1.0), TypeError, "of w is float but must be an array of"),
    "a masked array": (lambda on, dy: (np.ma.ones(2), dy), TypeError, "of x is MaskedArray but must be an array of"),
    "another backend's": (
        lambda on, dy: (np.ones(2, np.float32), dy),
        TypeError,
        "but must be an array of",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_gradient_names_function_and_argument(backend, name):
    if "another" in name and backend.owns(np.ones(2)):
        pytest.skip("NumPy's arrays are this backend's own")
    gradients, kind, message = WRONG[name]
    x, w = leaf(backend, [1, 2]), leaf(backend, [3, 4])
    with pytest.raises(kind) as caught:
        Custom.apply(x, w, gradients=gradients).backward([1, 1])
    assert str(caught.value).startswith("custom: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (x.grad is None) or (w.grad is None)


def test_gradients_may_be_none_a_list_or_of_another_float_dtype(backend):
    x, w = leaf(backend, [1, 2]), leaf(backend, [3, 4])
    Custom.apply(x, w, gradients=lambda on, dy: [None, dy]).backward([5, 6])
    assert x.grad is None
    assert host(w.grad, backend).tolist() == [5, 6]
    if "float64" in backend.dtypes:
        Custom.apply(x, w, gradients=lambda on, dy: (dy.astype(np.float64), dy)).backward([5, 6])
        assert x.grad.dtype == np.float32


def test_a_gradient_that_nothing_needs_is_not_checked(backend):
    x, w = leaf(backend, [1, 2]), gp.tensor([3.0, 4.0], backend=backend)
    Custom.apply(x, w, gradients=lambda on, dy: (dy, "anything")).backward([5, 6])
    assert host(x.grad, backend).tolist() == [5, 6]
    assert w.grad is None


def test_a_forward_pass_gives_an_array_of_the_backend(backend):
    class Wrong(Function):
        def forward(self, x, *, y):
            return y

    for y, kind in (([1.0], "list"), (gp.tensor([1.0], backend=backend), "Tensor"), (None, "NoneType"), (1.0, "float")):
        with pytest.raises(
            TypeError, match=f"^Wrong: forward's result is {kind} but must be an array of {backend.name}"
        ):
            Wrong.apply(leaf(backend, [1.0]), y=y)


def test_a_number_of_numpys_becomes_an_array_without_axes():
    class Total(Function):
        def forward(self, x):
            return x.sum()  # np.float32, no array

        def backward(self, dy):
            return np.full(3, dy)

    x = leaf("numpy", [1, 2, 3])
    y = Total.apply(x)
    assert isinstance(y.data, np.ndarray)
    y.backward()
    assert x.grad.tolist() == [1, 1, 1]


def test_a_rule_may_return_what_it_holds(backend):
    x = leaf(backend, [1, 2])
    kept = backend.asarray(np.array([7, 8], np.float32))
    autograd.backward(F.relu(x), [1, 1], rule=lambda function, dy: (kept,))
    assert apart(backend, x.grad, kept)
