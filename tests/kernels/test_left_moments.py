"""The moments that a convolution on tensor cores leaves for the batch norm that follows."""

import numpy as np
import pytest

import gpunet as gp
from gpunet import nn
from gpunet.backends.contract import FUSED_POOL, Activation, BatchNorm, Conv, Moments
from gpunet.backends.cuda.backend import recording_backend
from gpunet.geometry import Geometry

SHAPES = [(1, False, (128, 128)), (1, False, (64, 64)), (2, False, (64, 64)), (1, True, (64, 64))]
"""Groups, whether a pool is fused, and the tile: with remainders in rows and columns."""


def convolved(backend, rng, dtype, groups, pooled, shift=5.0, *, residual=False):
    """(y, what was left) of a convolution whose results lie far from 0."""
    g = Geometry.conv((3, 11, 9, 16 * groups), (3, 3, 16, 40 * groups), padding=1, groups=groups)
    x, w = (backend.asarray(rng.normal(size=shape).astype(dtype)) for shape in (g.x_shape, g.w_shape))
    b = backend.asarray((rng.normal(size=g.filters) + shift).astype(dtype))
    pool = Geometry.pool(g.y_shape, FUSED_POOL) if pooled else None
    added = backend.asarray((rng.normal(size=g.y_shape) + np.arange(g.filters)).astype(dtype)) if residual else None
    conv = Conv(g, Activation("relu"), pool, "tf32")
    y, mask, left = backend.conv2d_forward_with_moments(x, w, b, conv, added)
    assert (mask is None) == (not pooled)
    return y, left


def normalised(backend, y, left):
    """y behind a batch norm, its moments and the running ones, on the host."""
    c = y.shape[-1]
    running = Moments(*(backend.asarray(np.full(c, value, np.float32)) for value in (0, 1)))
    out, saved = backend.batch_norm_forward(y, None, None, running, BatchNorm(True, left=left), None)
    return [backend.to_numpy(a).astype(np.float64) for a in (out, *saved, *running)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("groups", "pooled", "tile"), SHAPES)
@pytest.mark.parametrize("residual", [False, True])
def test_they_are_those_of_the_stored_results(cuda_backend, rng, dtype, groups, pooled, tile, residual):
    if pooled and residual:
        pytest.skip("a pool is not fused with a residual")
    backend = cuda_backend.twin(tile=tile)
    y, left = convolved(backend, rng, np.dtype(dtype), groups, pooled, residual=residual)
    rows = backend.to_numpy(y).astype(np.float64).reshape(-1, y.shape[-1])
    _, mean, variance, running_mean, running_var = normalised(backend, y, left)
    np.testing.assert_allclose(mean, rows.mean(0), rtol=1e-6)
    np.testing.assert_allclose(variance, rows.var(0), rtol=1e-5)
    np.testing.assert_allclose(running_mean, 0.1 * rows.mean(0), rtol=1e-6)
    np.testing.assert_allclose(running_var, 0.9 + 0.1 * rows.var(0, ddof=1), rtol=1e-5)


def test_a_convolution_that_splits_its_reduction_leaves_them_too(cuda_backend, rng):
    g = Geometry.conv((2, 6, 6, 256), (3, 3, 256, 16), padding=1)
    x, w = (cuda_backend.asarray(rng.normal(size=shape), np.float32) for shape in (g.x_shape, g.w_shape))
    backend, recording = recording_backend(cuda_backend)
    y, _, left = backend.conv2d_forward_with_moments(x, w, None, Conv(g, precision="tf32"))
    assert recording.launches[-1].work.splits > 1
    rows = cuda_backend.to_numpy(y).astype(np.float64).reshape(-1, 16)
    _, mean, variance, *_ = normalised(cuda_backend, y, left)
    np.testing.assert_allclose(mean, rows.mean(0), atol=1e-6 * np.abs(rows).max())
    np.testing.assert_allclose(variance, rows.var(0), rtol=1e-5)


def test_a_result_that_is_no_number_has_moments_that_are_none(cuda_backend, rng):
    g = Geometry.conv((2, 6, 6, 8), (3, 3, 8, 16), padding=1)
    x, w = (rng.normal(size=shape).astype(np.float32) for shape in (g.x_shape, g.w_shape))
    w[0, 0, 0, 3] = np.nan
    on = cuda_backend.asarray
    y, _, left = cuda_backend.conv2d_forward_with_moments(on(x), on(w), None, Conv(g, precision="tf32"))
    out, mean, variance, *_ = normalised(cuda_backend, y, left)
    assert np.isnan(mean).tolist() == np.isnan(variance).tolist() == [c == 3 for c in range(16)]
    assert np.isnan(out[..., 3]).all()


def test_kernels_on_the_cuda_cores_leave_none(cuda_backend, rng):
    g = Geometry.conv((2, 6, 6, 8), (3, 3, 8, 16), padding=1)
    x, w = (cuda_backend.asarray(rng.normal(size=shape), np.float32) for shape in (g.x_shape, g.w_shape))
    assert cuda_backend.conv2d_forward_with_moments(x, w, None, Conv(g))[2] is None


def test_a_network_reads_its_convolutions_once_less_and_learns_the_same(cuda_backend, rng):
    x = rng.normal(size=(4, 8, 8, 8)).astype(np.float32)

    def gradients(fuse):
        gp.seed(3)
        layers = (
            nn.Conv2d(8, 16, 3, padding="same"),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 8, 3),
            nn.BatchNorm2d(8),
        )
        backend, recording = recording_backend(cuda_backend)
        model = nn.Sequential(*layers, fuse=fuse).to(backend)
        with gp.matrix_precision("3xtf32"):
            (model(gp.tensor(x, backend=backend)) ** 2).mean().backward()
        kernels = [launch.kernel.partition("<")[0] for launch in recording.launches]
        found = [backend.to_numpy(p.grad) for p in model.parameters()]
        return kernels.count("batch_norm_moments"), kernels.count("batch_norm_moments_merge"), found

    reads, merges, fused = gradients(True)
    reads_apart, _, apart = gradients(False)
    assert (reads, merges, reads_apart) == (0, 2, 2)
    for a, b in zip(fused, apart, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
