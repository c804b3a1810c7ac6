"""Gradients of several ranks are added up in buckets, each as soon as the backward pass has filled it."""

import numpy as np
import pytest

import gpunet as gp
from gpunet import functional as F
from gpunet import nn, optim
from gpunet.autograd import backward
from gpunet.distributed import Alone
from gpunet.train import buckets
from gpunet.train.gradients import UpdateGradients


class Doubling(Alone):
    """Two ranks with the same gradients, of which one is here; it notes what is sent, and when."""

    size = 2

    def __init__(self):
        self.sent, self.events = [], []

    def begin_add(self, array):
        before = array.copy()
        self.sent.append(array)
        self.events.append("send")

        def wait():
            self.events.append("wait")
            np.testing.assert_array_equal(array, before)  # nothing may touch it meanwhile
            array[:] = 2 * before

        return wait


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(buckets, "LEAST_BYTES", 64)


def layers(count=6):
    gp.seed(1)
    return [nn.Linear(8, 8) for _ in range(count)]


def gradients(model, frozen=()):
    """(the optimizer, the sums over the ranks) of one update, and the gradients of this rank alone."""
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    x = gp.tensor(np.random.default_rng(0).normal(size=(4, 8)), dtype=np.float32)
    made = []
    for ranks in (Alone(), Doubling()):
        optimizer.zero_grad()
        update = UpdateGradients(optimizer, 1, ranks)
        update.add(F.mean(model(x) * model(x)), 4, 4)
        update.finish()
        made.append((ranks, [None if p.grad is None else p.grad.copy() for p in model.parameters()]))
    return optimizer, made


def test_every_gradient_is_sent_once(small):
    model = nn.Sequential(*layers())
    _, ((_, own), (ranks, summed)) = gradients(model)
    assert len(ranks.sent) > 3
    for mine, both in zip(own, summed, strict=True):
        np.testing.assert_array_equal(both, 2 * mine)


def test_buckets_are_sent_while_the_backward_pass_goes_on(small):
    model, ranks = nn.Sequential(*layers()), Doubling()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    waiting = buckets.Buckets(ranks, optimizer.arena)

    class Mark(gp.Function):
        def forward(self, x):
            return x + 0

        def backward(self, dy):
            ranks.events.append("middle")
            return dy + 0

    x = gp.tensor(np.ones((2, 8), np.float32))
    for i, layer in enumerate(model):
        x = layer(Mark.apply(x) if i == 3 else x)
    backward(F.sum(x), filled=waiting.filled)
    before = ranks.events.index("middle")
    assert ranks.events[:before] == ["send"] * before
    assert before >= 2
    waiting.finish()
    assert ranks.events.count("send") == ranks.events.count("wait") == len(ranks.sent)


def test_all_ranks_send_in_one_order_whatever_is_filled_first(small):
    model, ranks = nn.Sequential(*layers()), Doubling()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    waiting = buckets.Buckets(ranks, optimizer.arena)
    F.sum(model(gp.tensor(np.ones((2, 8), np.float32)))).backward()
    for parameter in model.parameters():  # the first segments first
        waiting.filled(parameter)
    waiting.finish()
    places = [array.__array_interface__["data"][0] for array in ranks.sent]
    assert places == sorted(places, reverse=True)


def test_a_leaf_that_is_used_twice_is_complete_after_its_last_use():
    w = gp.tensor(np.array([2.0, 3.0]), requires_grad=True)
    v = gp.tensor(np.array([5.0, 7.0]), requires_grad=True)
    seen = []
    backward(F.sum(w * w * v + w), filled=lambda leaf: seen.append((leaf, leaf.grad.copy())))
    assert [leaf is w for leaf, _ in seen] == [False, True]
    np.testing.assert_array_equal(seen[1][1], 2 * w.numpy() * v.numpy() + 1)


def test_a_parameter_without_a_gradient_is_not_sent(small):
    used, unused = layers(2)
    model = nn.Sequential(used, unused)
    optimizer, ranks = optim.SGD(model.parameters(), lr=0.1), Doubling()
    update = UpdateGradients(optimizer, 1, ranks)
    update.add(F.sum(used(gp.tensor(np.ones((2, 8), np.float32)))), 2, 2)
    update.finish()
    assert sum(array.size for array in ranks.sent) == 8 * 8 + 8
    assert unused.weight.grad is None


def test_only_the_last_batch_of_an_update_is_sent(small):
    model = nn.Sequential(*layers(2))
    optimizer, ranks = optim.SGD(model.parameters(), lr=0.1), Doubling()
    update = UpdateGradients(optimizer, 2, ranks)
    x = gp.tensor(np.ones((2, 8), np.float32))
    update.add(F.sum(model(x)), 2, 4)
    assert ranks.events == []
    update.add(F.sum(model(x)), 2, 4)
    assert "send" in ranks.events
    update.finish()
    np.testing.assert_allclose(model[1].bias.grad, 4, rtol=1e-6)  # 2 ranks, each a mean of sums of 2 rows
