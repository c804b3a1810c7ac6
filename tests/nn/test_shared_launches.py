"""Dense layers' weight gradients share a launch at the end of a backward pass, and keep their numbers."""

from itertools import pairwise

import numpy as np
import pytest
from helpers import host, needs_cuda

import gpunet as gp
from gpunet import functional as F
from gpunet import models, nn, optim
from gpunet.autograd import Function, backward
from gpunet.backends.cuda.backend import recording_backend

SHARED = "linear_weight_grads_tiled<float>"
ROWS = 6


def dense(*widths, fuse=True):
    layers = [nn.Linear(i, o, activation="tanh") for i, o in pairwise(widths)]
    return nn.Sequential(*layers, fuse=fuse)


def batch(rng, backend, width):
    return gp.tensor(rng.normal(size=(ROWS, width)).astype(np.float32), backend=backend)


@pytest.fixture
def recorded(cuda_backend):
    """(a backend, a recording of its launches)."""
    return recording_backend(cuda_backend)


def shared(recording):
    """How many layers each launch of weight gradients has."""
    return [sum(a.name.startswith("dw") for a in x.arguments) for x in recording.launches if x.kernel == SHARED]


@needs_cuda
@pytest.mark.parametrize("model", [models.lenet, models.cnn])
def test_a_step_has_fewer_launches_and_the_same_numbers(recorded, rng, model):
    backend, recording = recorded
    images = batch(rng, backend, 16 * 16).data.reshape(ROWS, 16, 16, 1)
    results, launches = [], []
    for fuse in (True, False):
        gp.seed(1)
        net = model((16, 16, 1)).to(backend)
        net.fuse = fuse
        optimizer = optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        recording.clear()
        for _ in range(2):
            optimizer.zero_grad()
            optimizer.backward(F.cross_entropy(net(gp.tensor(images, backend=backend)), np.arange(ROWS)))
            optimizer.step()
        launches.append(shared(recording))
        results.append([host(p.data, backend) for p in net.parameters()])
    layers = sum(isinstance(layer, nn.Linear) for layer in net.layers)
    assert launches == [[layers] * 2, [1] * layers * 2]
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


@needs_cuda
def test_with_and_without_the_gradients_are_equal_bit_for_bit(recorded, rng):
    backend, recording = recorded
    x, dy = batch(rng, backend, 70), rng.normal(size=(ROWS, 33)).astype(np.float32)
    made = []
    for fuse in (True, False):
        gp.seed(1)
        net = dense(70, 20, 33, 40, 9, 33, fuse=fuse).to(backend)
        optimizer = optim.SGD(net.parameters(), lr=0.1)
        recording.clear()
        for _ in range(2):  # the second pass adds to the gradients of the first
            net(x).backward(dy)
        assert shared(recording) == ([4, 1] * 2 if fuse else [1] * 10)
        made.append([host(p.grad, backend) for p in net.parameters()])
        del optimizer
    for one, other in zip(*made, strict=True):
        np.testing.assert_array_equal(one, other)


def of_both(backend, step):
    """The gradients of a step on a backend and on the reference, each with an optimizer's arena."""
    for on in (backend, gp.backends.get_backend("reference")):
        gp.seed(2)
        net = dense(5, 5, 5, 5).to(on)
        optimizer = optim.SGD(net.parameters(), lr=0.1)
        step(net, batch(np.random.default_rng(3), on, 5))
        yield [None if p.grad is None else host(p.grad, on) for p in net.parameters()]
        del optimizer


def assert_has_the_reference_gradients(backend, step):
    for one, other in zip(*of_both(backend, step), strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def applied_twice(net, x):
    net(net(x)).sum().backward()


def used_by_another_operation(net, x):
    weight = net[1].weight
    (net(x @ weight).sum() + (weight * weight).sum() + (x @ weight).sum()).backward()


def used_before_it(net, x):
    net(x @ net[1].weight).sum().backward()


def accumulated(net, x):
    net(x).sum().backward()
    net[0].weight.grad = None
    net(x).sum().backward()


def partly_frozen(net, x):
    net[0].weight.requires_grad = net[1].bias.requires_grad = False
    net(x).sum().backward()


def repeated(net, x):
    loss = net(x).sum()
    loss.backward(retain_graph=True)
    loss.backward()


def repeated_by_a_rule(net, x):
    loss = net(x).sum()
    loss.backward(retain_graph=True)
    backward(loss, rule=lambda function, dy: function.run_backward(dy))


@pytest.mark.parametrize(
    "step",
    [
        applied_twice,
        used_by_another_operation,
        used_before_it,
        accumulated,
        partly_frozen,
        repeated,
        repeated_by_a_rule,
    ],
)
def test_whoever_adds_to_the_same_gradient_comes_after_it(backend, step):
    assert_has_the_reference_gradients(backend, step)


@needs_cuda
def test_no_launch_has_two_contributions_to_one_gradient(recorded, rng):
    backend, recording = recorded
    net = dense(5, 5, 5).to(backend)
    optimizer = optim.SGD(net.parameters(), lr=0.1)
    recording.clear()
    net(net(net(batch(rng, backend, 5)))).sum().backward()
    assert shared(recording) == [2, 2, 2]
    del optimizer


class Failing(Function):
    def forward(self, x):
        return x

    def backward(self, dy):
        raise KeyError("no gradient")


def test_an_error_leaves_the_gradients_of_the_layers_before_it(backend):
    def fail(net, x):
        hidden = Failing.apply(net[0](x))
        with pytest.raises(KeyError):
            net[2](net[1](hidden)).sum().backward()

    assert_has_the_reference_gradients(backend, fail)


@needs_cuda
def test_a_gradient_outside_of_an_arena_is_there_at_once(recorded, rng):
    backend, recording = recorded
    net = dense(4, 3, 2).to(backend)
    recording.clear()
    net(batch(rng, backend, 4)).sum().backward()
    assert shared(recording) == [1, 1]


@needs_cuda
def test_layers_too_large_to_share_a_launch_take_their_own(recorded, rng):
    backend, recording = recorded
    net = dense(4, 3, 2).to(backend)
    optimizer = optim.SGD(net.parameters(), lr=0.1)
    recording.clear()
    x = gp.tensor(rng.normal(size=(1025, 4)).astype(np.float32), backend=backend)
    net(x).sum().backward()
    assert shared(recording) == []
    assert sum("conv2d_weight_grad" in x.kernel for x in recording.launches) == 2
    del optimizer
