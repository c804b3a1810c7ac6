"""`gpunet.arrays` on the real CuPy: its streams, its graphs, and no reads."""

import numpy as np
import pytest
from helpers.plain_arrays import CASES, turned
from helpers.values import relative_error

from gpunet import arrays as A
from gpunet.errors import BackendError

NAMED = {name: case for name, case in CASES.items() if "training" not in case.options or not case.options["training"]}
"""Cases whose call leaves its inputs as they are."""


def made(cupy, case, layout="NHWC"):
    return [
        cupy.asarray(np.array(turned(a, k, layout), order="C"))
        for a, k in zip(case.arrays(np.float32), case.kinds, strict=True)
    ]


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("name", NAMED)
def test_a_call_is_captured_in_a_graph_of_cupys(cuda, cupy, machine, name, layout):
    case = NAMED[name]
    if layout not in case.layouts:
        pytest.skip("no images")
    wanted = [a.copy() for a in case.call(case.arrays(np.float64))]
    inputs, outs = made(cupy, case, layout), None
    stream, pool = cupy.cuda.Stream(non_blocking=True), cupy.cuda.MemoryPool()
    cupy.cuda.Device().synchronize()
    with stream, cupy.cuda.using_allocator(pool.malloc):
        outs = case.call(inputs, layout)  # once before the capture: kernels, counters and tables are made
        outs = tuple(cupy.zeros_like(out) for out in outs)
        stream.synchronize()
        values = [a.copy() for a in inputs]
        for a in inputs:
            a.fill(0)
        stream.begin_capture()
        before = machine.launches
        results = case.call(inputs, layout, out=outs if len(outs) > 1 else outs[0])
        assert machine.launches == before
        graph = stream.end_capture()
        for a, value in zip(inputs, values, strict=True):
            a[...] = value
        for _ in range(2):
            graph.launch()
        stream.synchronize()
    for one, out, w, k in zip(results, outs, wanted, case.results, strict=True):
        assert one is out
        assert relative_error(cupy.asnumpy(out), turned(w, k, layout)) <= 2e-5


def test_training_batch_norm_moves_the_running_moments_in_each_replay(cuda, cupy):
    x = cupy.asarray(np.arange(24, dtype=np.float32).reshape(2, 3, 4))
    mean, var = cupy.asarray(np.zeros(4, np.float32)), cupy.asarray(np.ones(4, np.float32))
    recorder = cuda.recorder()
    with recorder.current():
        A.batch_norm(x, mean.copy(), var.copy(), training=True)
        graph, _ = recorder.record(lambda: A.batch_norm(x, mean, var, training=True, momentum=0.5))
        for _ in range(2):
            graph.launch()
    own = np.arange(24, dtype=np.float64).reshape(6, 4).mean(axis=0)
    assert relative_error(cupy.asnumpy(mean), 0.75 * own) <= 1e-6


def test_a_call_goes_to_cupys_current_stream(cuda, cupy, machine):
    x, w = (cupy.asarray(a.astype(np.float32)) for a in (np.ones((1, 4, 4, 1)), np.ones((2, 2, 1, 1))))
    cupy.cuda.Device().synchronize()
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        A.conv2d(x, w)
        stream.synchronize()
        stream.begin_capture()  # so that work on another stream would not be in the graph
        y = A.conv2d(x, w)
        graph = stream.end_capture()
        before = machine.launches
        graph.launch()
        stream.synchronize()
    assert machine.launches == before + 1
    assert cupy.asnumpy(y).tolist() == [[[[4.0]] * 3] * 3]


def test_what_must_be_made_before_a_capture_is_named(cuda, cupy):
    x = cupy.asarray(np.ones((1, 3, 5, 1), np.float32))
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        with pytest.raises(BackendError, match="a copy of host data to the device cannot be captured"):
            A.upsample2d(x, size=(13, 17))
        stream.end_capture()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_arrays_of_16_bits_are_computed_and_kept(cuda, cupy, dtype):
    import ml_dtypes  # noqa: F401 - NumPy knows bfloat16 then

    x, w = np.ones((1, 4, 4, 8)), np.ones((3, 3, 8, 8))
    given_x, given_w = (cuda.cast(cupy.asarray(a.astype(np.float32)), dtype) for a in (x, w))
    y = A.conv2d(given_x, given_w)
    assert y.dtype == np.dtype(dtype)
    dw, db = A.conv2d_weight_grad(y, given_x, 3)
    assert dw.dtype == db.dtype == np.float32
    assert cuda.to_numpy(y).astype(np.float64).tolist() == [[[[72.0] * 8] * 2] * 2]
    with pytest.raises(TypeError, match=r"batch_norm: running_mean is \w*float16 but takes float32 with"):
        A.batch_norm(given_x, *[given_x.reshape(-1)[:8]] * 2, training=False)


def test_arrays_of_two_kinds_and_float64_raise(cuda, cupy):
    x = cupy.asarray(np.ones((1, 4, 4, 1), np.float32))
    with pytest.raises(TypeError, match="conv2d: weight is numpy.ndarray but x is an array of cuda"):
        A.conv2d(x, np.ones((2, 2, 1, 1), np.float32))
    with pytest.raises(TypeError, match="conv2d: out is numpy.ndarray but x is an array of cuda"):
        A.conv2d(x, cupy.asarray(np.ones((2, 2, 1, 1), np.float32)), out=np.ones((1, 3, 3, 1), np.float32))
    with pytest.raises(
        TypeError, match="matmul: a is float64, which is not computed on cuda, which takes float32, float16"
    ):
        A.matmul(*[cupy.asarray(np.ones((2, 2)))] * 2)
