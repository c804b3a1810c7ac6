"""How CuPy packs the arguments that gpunet passes to it.

In CuPy: _pointer in cupy/cuda/function.pyx, and CScalar in cupy/_core/_scalar.pyx.
"""

import ml_dtypes
import numpy as np
import pytest

from gpunet.cuda.launcher import NULL
from gpunet.nvrtc import signature, source
from gpunet.nvrtc.signature import C_TYPES, bind_to, parse_parameters

BYTES = """
template <class T> __global__ void bytes_of(unsigned char* out, T value, const float* none, int after) {
    const unsigned char* from = reinterpret_cast<const unsigned char*>(&value);
    for (int i = threadIdx.x; i < sizeof(T); i += blockDim.x) out[i] = none == nullptr && after == 7 ? from[i] : 0;
}
"""
"""A kernel that copies a parameter's bytes, if the parameters around it have arrived too."""
STRUCTS = {name: file for file in source.files() for name in signature.structs(file)}
VALUES = {
    "bool": True, "char": -3, "uint8": 200, "short": -300, "uint16": 60000, "int": -70000, "uint32": 2**31 + 5,
    "int64": -(2**40), "uint64": 2**63 + 9, "half": 1.5, "bfloat16": -2.5, "float": 0.1, "double": 0.1,
}  # fmt: skip


def seen_by_a_kernel(file, kind, value, size):
    """Return the bytes of a parameter of type `kind` in a kernel that CuPy launches with
    `value`."""
    import cupy

    name = f"bytes_of<{kind}>"
    text = source.read(file) + BYTES
    kernel = cupy.RawModule(code=text, options=("-std=c++17",), name_expressions=[name]).get_function(name)
    out = cupy.zeros(size, np.uint8)
    kernel((1,), (32,), (out, value, NULL, np.int32(7)), shared_mem=0)
    return out.get().tobytes()


def bound(file, kind, value):
    """Return a value as `signature.bind` packs it for a parameter of that type."""
    parameters = parse_parameters(file, source.read(file) + BYTES, f"bytes_of<{kind}>")[1:2]
    return bind_to(parameters, "bytes_of", [value], lambda array: False)[0]


@pytest.mark.parametrize("kind", C_TYPES)
def test_a_number_of_every_type_arrives_as_its_own_bytes(machine, kind):
    value = bound("elementwise.cu", kind, VALUES[kind])
    assert value.dtype == C_TYPES[kind]
    assert seen_by_a_kernel("elementwise.cu", kind, value, value.nbytes) == value.tobytes()


@pytest.mark.parametrize("kind", STRUCTS)
def test_a_struct_arrives_as_its_own_bytes(machine, kind):
    file, dtype = STRUCTS[kind], signature.structs(STRUCTS[kind])[kind]
    value = np.frombuffer(np.random.default_rng(0).bytes(dtype.itemsize), dtype)[0:1].reshape(()).copy()
    for name in dtype.names:
        if dtype[name].kind == "b":
            value[name] = True  # any other byte is no bool
    assert bound(file, kind, value) is value
    seen = np.frombuffer(seen_by_a_kernel(file, kind, value, dtype.itemsize), dtype)[0]
    for name in dtype.names:  # the bytes between members are undefined
        assert seen[name].tobytes() == value[name].tobytes(), name


def test_there_are_structs_to_try():
    assert {"Geometry", "Walk"} <= set(STRUCTS)
    assert max(signature.structs(file)[name].itemsize for name, file in STRUCTS.items()) > 128


@pytest.mark.parametrize(
    ("kind", "value", "dtype"),
    [("int64", 5, np.int64), ("double", 0.5, np.float64), ("float*", None, np.int64), ("float*", np.intp(0), np.int64)],
)
def test_numbers_of_python_arrive_wide_and_none_is_a_null_pointer(machine, kind, value, dtype):
    sent = seen_by_a_kernel("elementwise.cu", kind, value, 8)
    assert sent == np.asarray(0 if value is None else value, dtype).tobytes()


@pytest.mark.parametrize("value", [np.zeros(2, np.float32), "5", [1, 2], np.dtype("f4")])
def test_what_cupy_does_not_take_raises(machine, value):
    with pytest.raises(TypeError):
        seen_by_a_kernel("elementwise.cu", "float", value, 4)


def test_cupy_checks_neither_count_nor_dtype_nor_strides(machine):
    """So gpunet checks them itself."""
    import cupy

    text = 'extern "C" __global__ void first(float* out, const float* x) { *out = *x; }'
    kernel = cupy.RawModule(code=text).get_function("first")
    out, x = cupy.zeros(1, np.float32), cupy.array(np.arange(8, dtype=np.float32))
    kernel((1,), (1,), (out, x[3::2]))
    assert out.get() == 3
    kernel((1,), (1,), (out, cupy.array(np.array([1.0]))))
    assert out.get() == 0  # the first half of the double 1.0


def test_a_scalar_of_bfloat16_is_one_to_numpy(machine):
    """CScalar in cupy/_core/_scalar.pyx refuses all but instances of numpy.generic."""
    assert isinstance(ml_dtypes.bfloat16(1), np.generic)
