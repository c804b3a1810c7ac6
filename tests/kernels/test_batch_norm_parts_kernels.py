"""Batch norm of a batch of which several ranks have a part each, on CUDA."""

import numpy as np
import pytest
import tolerances
from helpers import batch_parts, same
from recording import recording_backend

from gpunet.backends.contract import BatchNorm, Into, Moments, PartMoments


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("split", batch_parts.SPLITS, ids=str)
@pytest.mark.parametrize(
    ("shape", "activation", "added"), [((5, 4, 8), "relu", False), ((3, 7), "tanh", True), ((264,), None, False)]
)
def test_parts_give_what_the_whole_gives(device_backend, rng, dtype, split, shape, activation, added):
    def agrees(name, got, expected):
        same(got, expected, {"float32": 1e-5, **tolerances.NARROW})

    batch_parts.check(device_backend, np.dtype(dtype), rng, (sum(split), *shape), split, activation, added, agrees)


def test_a_part_takes_the_moments_that_a_convolution_has_left(device_backend, rng):
    x = rng.normal(size=(2, 10, 5)).astype(np.float32)
    exact = x.reshape(-1, 5).astype(np.float64)

    def work(part):
        rows = x[part]
        blocks = [rows[:8], rows[8:]]  # parts of eight rows, the last one shorter
        left = [[block.mean(axis=0), ((block - block.mean(axis=0)) ** 2).sum(axis=0)] for block in blocks]
        parts = PartMoments(device_backend.asarray(np.array(left, np.float32)), 8)
        norm = BatchNorm(True, left=parts, ranks=batch_parts.Seen(ranks, True))
        running = Moments(*(device_backend.full((5,), value, np.float32) for value in (0, 1)))
        _, saved = device_backend.batch_norm_forward(device_backend.asarray(rows), None, None, running, norm, None)
        return [device_backend.to_numpy(a) for a in saved]

    ranks = batch_parts.Ranks(device_backend, 2)
    for mean, variance in ranks.run(work):
        np.testing.assert_allclose(mean, exact.mean(axis=0), rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(variance, exact.var(axis=0), rtol=1e-5)


class Counted:
    """Ranks of which each sum is noted: how many kernels were launched before, and the size of the array."""

    contributes = True

    def __init__(self, backend):
        self.backend, self.sums = backend, []

    def add(self, array):
        self.sums.append((len(self.backend.launcher.kernels), array.size))


def test_a_part_takes_two_launches_and_three_messages_more_than_the_whole():
    backend = recording_backend()
    x, w = np.ones((6, 8), np.float32), np.ones(8, np.float32)
    ranks, into = Counted(backend), Into(w, w)
    norm = BatchNorm(True, ranks=ranks)
    y, saved = backend.batch_norm_forward(x, w, w, Moments(w, w), norm, None)
    backend.batch_norm_backward(x, x, y, w, w, saved, norm, into)
    assert [kernel.partition("<")[0] for kernel in backend.launcher.kernels] == [
        "batch_norm_moments", "batch_norm_moments_merge", "batch_norm_distances", "batch_norm_joined_moments",
        "batch_norm_forward", "batch_norm_sums", "batch_norm_sums_merge", "batch_norm_input_grad",
    ]  # fmt: skip
    assert ranks.sums == [(2, 9), (3, 8), (7, 17)]
