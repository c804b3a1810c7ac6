"""Batch norm of a batch of which several ranks have a part each, against batch norm of the whole batch.

The ranks run one after another, in one process: each of them again and again, until all have told what
they add up.
"""

from contextlib import suppress

import numpy as np

from gpunet.backends import get_backend
from gpunet.backends.contract import Activation, BatchNorm, Into, Moments

SPLITS = [(2, 1, 3), (1, 1), (4, 0, 2)]
"""How many samples of a batch each rank has; one without any computes one that does not count."""


class Unknown(Exception):  # noqa: N818 - it is no error
    """The sum of an array is not known yet."""


class Ranks:
    """Adds up what each rank has told, as far as all of them have come."""

    def __init__(self, backend, size):
        self.backend, self.told, self.rank, self.calls = backend, [[] for _ in range(size)], 0, 0

    def run(self, work):
        """The results of work(rank)."""
        results = []
        while len(results) < len(self.told):
            results = []
            for rank in range(len(self.told)):
                self.rank, self.calls = rank, 0
                with suppress(Unknown):
                    results.append(work(rank))
        return results

    def add(self, array):
        told, self.calls = self.told[self.rank], self.calls + 1
        if len(told) < self.calls:
            told.append(self.backend.to_numpy(array).copy())
            raise Unknown
        sums = sum(of_rank[self.calls - 1] for of_rank in self.told)
        self.backend.copy(self.backend.asarray(sums), out=array)


class Seen:
    """`Ranks`, as one of them sees them."""

    def __init__(self, ranks, counts):
        self.add, self.contributes = ranks.add, counts


def of_parts(backend, dtype, split, given, norm, *, into):
    """(each rank's [y, mean, variance, running mean, running variance, dx, dw, db, dresidual], the messages of one).

    Args:
        given: x, w, b, running mean and variance, residual and dy of the whole batch, on the host.
        into: whether the gradients of w and b are added to arrays of ones.
    """
    wide = np.float64 if dtype == np.float64 else np.float32
    starts, ranks = np.cumsum([0, *split]), Ranks(backend, len(split))

    def work(rank):
        mine = slice(starts[rank], starts[rank] + max(split[rank], 1))
        x, w, b, mean, variance, residual, dy = given
        counts = bool(split[rank])
        if not counts:  # what only stands for a part has other values, and an upstream gradient of 0
            x, dy = x * 3 + 7, dy * 0
        x, residual, dy = (backend.asarray(np.array(a[mine]), dtype) for a in (x, residual, dy))
        w, b, mean, variance = (backend.asarray(a.copy(), wide) for a in (w, b, mean, variance))
        of_rank = BatchNorm(
            True, norm.momentum, norm.eps, norm.activation, norm.residual, ranks=Seen(ranks, counts)
        )  # fmt: skip
        y, saved = backend.batch_norm_forward(
            x, w, b, Moments(mean, variance), of_rank, residual if norm.residual else None
        )
        targets = [backend.full(w.shape, 1, wide) for _ in range(2)] if into else (None, None)
        grads = backend.batch_norm_backward(dy, x, y, w, b, saved, of_rank, Into(*targets, add=into))
        return [None if a is None else backend.to_numpy(a) for a in (y, *saved, mean, variance, *grads)]

    return ranks.run(work), ranks.told[0]


def check(backend, dtype, rng, shape, split, activation, added, agrees):
    """Compare the parts with the whole batch, which the reference computes in float64.

    Args:
        shape: of x.
        agrees: agrees(name, got, expected) asserts that they do.
    """
    c, wide = shape[-1], np.float64 if dtype == np.float64 else np.float32
    x, residual, dy = ((rng.normal(size=shape) + 3).astype(dtype).astype(np.float64) for _ in range(3))
    w, b, mean = (rng.normal(size=c).astype(wide).astype(np.float64) for _ in range(3))
    given = x, w, b, mean, mean**2 + 1, residual, dy
    norm = BatchNorm(True, 0.3, 0.1, Activation(activation) if activation else None, added)
    found, told = of_parts(backend, dtype, split, given, norm, into=not added)
    assert [a.size for a in told] == [c + 1, c, 2 * c + 1], "other messages than two forward and one backward"
    reference, running = get_backend("reference"), Moments(mean.copy(), mean**2 + 1)
    y, saved = reference.batch_norm_forward(x, w, b, running, norm, residual if added else None)
    counting = [result for result, count in zip(found, split, strict=True) if count]
    rounded = np.concatenate([result[0] for result in counting]).astype(np.float64)
    dx, dw, db, dresidual = reference.batch_norm_backward(dy, x, rounded, w, b, saved, norm)
    for result in found[1:]:
        for got, first in zip(result[1:5], found[0][1:5], strict=True):
            np.testing.assert_array_equal(got, first)
    for name, got, expected in zip(
        ("mean", "variance", "running mean", "running variance"), found[0][1:5], (*saved, *running), strict=True
    ):
        assert got.dtype == wide
        agrees(name, got, expected)
    for name, i, expected in (("y", 0, y), ("dx", 5, dx), ("dresidual", 8, dresidual)):
        if expected is not None:
            agrees(name, np.concatenate([result[i] for result in counting]), expected)
    for name, i, expected in (("dw", 6, dw), ("db", 7, db)):
        agrees(name, sum(result[i].astype(np.float64) - (not added) for result in counting).astype(wide), expected)
    for result, count in zip(found, split, strict=True):
        if not count:
            np.testing.assert_array_equal(result[5], 0)
