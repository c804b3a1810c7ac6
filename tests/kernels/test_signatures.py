import numpy as np
import pytest
from recording import recording_backend

from gpunet.cuda.instantiations import file_of, instantiations
from gpunet.cuda.naming import instance
from gpunet.nvrtc import signature, source

SOURCE = """
#define RANK 3
struct Walk { int rank; int64 extent[RANK]; float a, b; };  // 4 bytes, then a gap of 4
struct Local { Walk w; };
template <typename T, int N>
__global__ void __launch_bounds__(256) scale(
        const T* __restrict__ x, T* __restrict__ OR_NULL y, /* a comment, with a comma */
        Walk s, uint32 count, float by) {}
__global__ void plain(double* OR_NULL UPDATED x, const int* y, float* ADDED_TO z) {}
__device__ void helper(int n) {}
"""


@pytest.fixture
def kernels(monkeypatch):
    monkeypatch.setattr(source, "read", lambda file: SOURCE)
    for cached in (signature.declarations, signature.structs, signature.parameters):
        cached.cache_clear()
    yield lambda *args: signature.bind("test.cu", "scale<float, 4>", args, lambda a: isinstance(a, np.ndarray))
    for cached in (signature.declarations, signature.structs, signature.parameters):
        cached.cache_clear()


STEPS = {"rank": 1, "extent": [5], "a": 0.5, "b": 2}
X = np.zeros((2, 3), np.float32)


def test_structs_have_the_layout_of_c():
    (walk,) = signature.parse_structs(SOURCE).values()
    assert walk.names == ("rank", "extent", "a", "b")
    assert [walk.fields[name][1] for name in walk.names] == [0, 8, 32, 36]
    assert walk["extent"].shape == (3,)
    assert walk.itemsize == 40


def test_kernels_and_their_templates_are_found():
    found = signature.parse_kernels(SOURCE)
    assert set(found) == {"scale", "plain"}
    assert found["scale"].template == ("T", "N")
    assert found["plain"].template == ()


def test_marks_of_a_pointer_are_read():
    marks = [
        (p.is_const, p.may_be_null, p.is_updated, p.is_added_to)
        for p in signature.parse_parameters("test.cu", SOURCE, "plain")
    ]
    assert marks == [(False, True, True, False), (True, False, False, False), (False, False, False, True)]


def test_arguments_are_packed_as_the_kernel_reads_them(kernels):
    x, y, steps, count, by = kernels(X, None, STEPS, 7, 2)
    assert x is X
    assert y is None
    assert (steps["rank"], list(steps["extent"]), steps["b"]) == (1, [5, 0, 0], 2)
    assert (count.dtype, by.dtype) == (np.dtype("u4"), np.dtype("f4"))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((X, X, STEPS, 7), r"scale<float, 4>: takes 5 arguments \(x, y, s, count, by\), got 4"),
        ((None, X, STEPS, 7, 2), "x must be an array on this device, got NoneType"),
        (([1.0], X, STEPS, 7, 2), "x must be an array on this device, got list"),
        ((X.astype(np.float64), X, STEPS, 7, 2), "x must be C-contiguous float32, got float64"),
        ((X, X.T, STEPS, 7, 2), r"y must be C-contiguous float32, got float32 of shape \(3, 2\) with strides"),
        ((X, X, STEPS, 7.0, 2), "count must be a number for uint32, got float"),
        ((X, X, STEPS, -1, 2), "count must fit uint32, got -1"),
        ((X, X, STEPS, 2**32, 2), "count must fit uint32"),
        ((X, X, STEPS, 7, "2"), "by must be a number for float32, got str"),
        ((X, X, {"rank": 1}, 7, 2), "s takes the fields"),
        ((X, X, {**STEPS, "rank": 2**40}, 7, 2), "s.rank cannot hold"),
        ((X, X, {**STEPS, "extent": [1, 2, 3, 4]}, 7, 2), "s.extent cannot hold"),
        ((X, X, 3, 7, 2), "s takes the fields"),
    ],
)
def test_a_wrong_argument_names_the_kernel_and_the_parameter(kernels, args, message):
    with pytest.raises(TypeError, match=f"^scale<float, 4>: .*|{message}") as caught:
        kernels(*args)
    assert caught.match(message)


def test_every_kernel_of_every_file_is_instantiated_and_readable():
    assert set(instantiations()) == set(source.files())
    for file, expressions in instantiations().items():
        listed = {signature.split_expression(e)[0] for e in expressions}
        assert listed == set(signature.declarations(file)), file
        assert len(set(expressions)) == len(expressions)
        for expression in expressions:
            assert signature.parameters(file, expression)
            assert file_of(expression) == file


def test_a_kernel_that_is_not_listed_is_refused():
    with pytest.raises(ValueError, match="no kernel instance fill<char>"):
        recording_backend().launcher.launch(instance("fill", "char"), 1, 1, [])


@pytest.mark.parametrize(
    ("grid", "block"), [(0, 32), ((1, 65536), 32), (2**31, 32), (1, 0), (1, (32, 33)), (1, (1, 1, 65))]
)
def test_extents_beyond_cudas_limits_are_refused(grid, block):
    with pytest.raises(ValueError, match="is not within"):
        recording_backend().launcher.launch("fill<float>", grid, block, [np.zeros(3, np.float32), 3, 0.0])


def test_other_spellings_of_a_type_are_read():
    text = """struct Odd { long long first; unsigned short second[2]; };
    template <class T> __global__ void __launch_bounds__(64) k(
        const unsigned char* a, T const* b, unsigned long long *c, __half* d, size_t e, unsigned f, uint32_t g, Odd h) {}"""
    parameters = signature.parse_parameters("k.cu", text, "k<unsigned int>")
    assert [p.dtype.name for p in parameters[:-1]] == [
        "uint8", "uint32", "uint64", "float16", "uint64", "uint32", "uint32",
    ]  # fmt: skip
    assert parameters[-1].dtype.fields["first"][0] == np.int64
    assert parameters[-1].dtype["second"].shape == (2,)
    assert [p.is_const for p in parameters] == [True, True] + [False] * 6
    with pytest.raises(ValueError, match=r"k\.cu: k<int, int>: |takes the template arguments"):
        signature.parse_parameters("k.cu", text, "k<int, int>")
