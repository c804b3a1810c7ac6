"""Running a kernel of one's own: `gpunet.emulator.run` and ``gpunet kernels --run``."""

import numpy as np
import pytest

from gpunet import cli
from gpunet.backends.contract import Activation
from gpunet.backends.cuda.device import activation_fields
from gpunet.emulator import Empty, KernelFault, Schedule, run, why_unavailable
from gpunet.nvrtc.compiler import CompileError

pytestmark = pytest.mark.skipif(bool(why_unavailable()), reason=why_unavailable())

SCALE = """#include "factor.cuh"
struct Range { int from, to; };

template <typename T>
__global__ void scale(const T* __restrict__ x, T* y, unsigned long long count, Range range, float by) {
    const size_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) y[i] = i >= range.from && i < range.to ? x[i] * (T)(by * FACTOR) : x[i];
}

extern "C" __global__ void wrong(const float *x, float *y, int count) {
    y[threadIdx.x] = x[threadIdx.x + count];
}
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "factor.cuh").write_text("#define FACTOR 2\n", encoding="utf-8")
    path = tmp_path / "scale.cu"
    path.write_text(SCALE, encoding="utf-8")
    return path


@pytest.mark.parametrize("checked", [False, True])
@pytest.mark.parametrize(
    ("kernel", "dtype"), [("scale<float>", "float32"), ("scale<double>", "float64"), ("scale<int>", "int32")]
)
def test_numpy_arrays_go_in_and_come_out(file, kernel, dtype, checked):
    x = np.arange(10).astype(dtype)
    args = [x, Empty((10,), dtype), 10, {"from": 2, "to": 5}, 3.0]
    arrays, counts = run(file, kernel, 2, 8, args, checked=checked, schedule=Schedule("lifo"))
    expected = x.copy()
    expected[2:5] *= 6
    np.testing.assert_array_equal(arrays["y"], expected)
    np.testing.assert_array_equal(arrays["x"], x)
    assert counts.stored == 10 * x.itemsize
    assert (("scale.cu", 7) in counts.lines) == checked


def test_a_fault_names_the_file_the_line_and_the_kernel(file):
    with pytest.raises(KernelFault, match=r"^scale\.cu:11: wrong: out of bounds: read of 4 bytes at byte 32 of x") as e:
        run(file, "wrong", 1, 8, [np.zeros(8, "f4"), Empty((8,)), 1])
    assert (e.value.line, e.value.block, e.value.thread) == (11, (0, 0, 0), (7, 0, 0))


def test_what_a_kernel_does_not_take_is_refused(file):
    x = np.zeros(8, "f4")
    with pytest.raises(TypeError, match=r"wrong: takes 3 arguments \(x, y, count\), got 2"):
        run(file, "wrong", 1, 8, [x, x])
    with pytest.raises(TypeError, match="wrong: y must be C-contiguous float32, got float64"):
        run(file, "wrong", 1, 8, [x, np.zeros(8), 0])
    with pytest.raises(ValueError, match=r"scale\.cu has no kernel nothing"):
        run(file, "nothing", 1, 8, [])
    with pytest.raises(ValueError, match="a block of"):
        run(file, "wrong", 1, 2048, [x, x, 0])
    with pytest.raises(ValueError, match="compute_"):
        run(file, "wrong", 1, 8, [x, x, 0], architecture="compute_50")


def test_an_error_of_the_source_carries_its_line(file):
    file.write_text(SCALE.replace("x[threadIdx.x + count]", "z[0]"), encoding="utf-8")
    with pytest.raises(CompileError, match=r"scale\.cu\(11\)"):
        run(file, "wrong", 1, 8, [np.zeros(8, "f4"), Empty((8,)), 0])


def test_gpunets_own_kernels_run_by_name():
    relu = activation_fields(Activation("relu"))
    y = run("activation.cu", "activation_forward<float>", 1, 32, [np.float32([-1, 2]), Empty((2,)), 2, relu]).arrays[
        "y"
    ]
    assert y.tolist() == [0, 2]


def command(capsys, *arguments):
    status = cli.main(["kernels", "--run", *map(str, arguments)])
    out, err = capsys.readouterr()
    return status, out, err


def test_the_command_prints_what_a_kernel_left(capsys, file, tmp_path):
    given = tmp_path / "x.npy"
    np.save(given, np.arange(4, dtype=np.float32))
    status, out, _ = command(
        capsys, file, "scale<float>", "--grid", "1", "--block", "32x1", "--arg", given, "--arg", "float32:4:empty",
        "--arg", "4", "--arg", '{"from": 0, "to": 2}', "--arg", "0.5", "--checked", "--schedule", "random:3",
        "--save", tmp_path / "out.npz",
    )  # fmt: skip
    assert status == 0
    assert "y: float32 (4,) [0., 1., 2., 3.]" in out
    assert "scale<float>: 16 bytes loaded, 16 stored, 0 barriers passed" in out
    np.testing.assert_array_equal(np.load(tmp_path / "out.npz")["y"], [0, 1, 2, 3])


def test_the_command_prints_what_each_access_costs(capsys, file):
    arguments = [file, "scale<float>", "--block", "64", "--arg", "float32:64:ones", "--arg", "float32:64:empty"]
    status, out, _ = command(
        capsys, *arguments, "--arg", "64", "--arg", '{"from": 0, "to": 64}', "--arg", "1", "--count"
    )
    assert status == 0
    loads, stores = (line.split() for line in out.splitlines() if line.startswith("scale.cu:7 "))
    assert loads[1:] == ["ld.global.nc.f32", "2", "32.0", "8", "8", "100%"]
    assert stores[1:] == ["st.global.f32", "2", "32.0", "8", "8", "100%"]
    assert "global memory: 16 sectors of 32 bytes, ideal 16 (100%)" in out
    assert "128 floating-point operations; 1 blocks, 2 warps, 0 barriers" in out
    assert "shared memory: 0 wavefronts, 0 of them conflicts\n" in out


def test_the_command_prints_a_fault_and_fails(capsys, file):
    arguments = [file, "wrong", "--block", 8, "--arg", "float32:8:random", "--arg", "float32:8:empty", "--arg", 5]
    assert command(capsys, *arguments)[0] == 0
    status, out, err = command(capsys, *arguments, "--checked")
    assert (status, out) == (1, "")
    assert err.startswith("scale.cu:11: wrong: out of bounds: ")


@pytest.mark.parametrize(
    ("argument", "message"),
    [("float32:8:noise", "the content is noise but takes one of random"), ("float99:8", "takes a number, none, JSON"),
     ("many", "takes a number, none, JSON")],
)  # fmt: skip
def test_an_argument_that_is_not_understood_is_named(capsys, file, argument, message):
    status, _, err = command(capsys, file, "wrong", "--arg", argument)
    assert status == 2
    assert f"--arg {argument}: " in err
    assert message in err
