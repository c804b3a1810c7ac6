import numpy as np
import pytest
from recording import recording_backend

from gpunet.backends.contract import BINARY, COMPARISONS, UNARY, rows_in_order
from gpunet.backends.cuda.arrays import row_threads, take_part
from gpunet.cuda.arrays import View, tiled_walk
from gpunet.nvrtc.source import constant


def special(values, count):
    """Numbers with every special value among them."""
    return np.resize(np.array([*values, 0.0, -0.0, 1.5, -2.5, np.nan, np.inf, -np.inf, 3.0], np.float32), count)


def test_a_failing_comparison_names_the_element_that_differs_most(device_backend, agrees):
    expected = np.float32([[1, 2, 3], [4, np.nan, np.inf]])
    agrees(device_backend.asarray(expected), expected)
    for at, value, said in (
        ((1, 0), 4.5, r"element \(1, 0\) differs most: got 4\.5, expected 4\.0, which is 0\.5 apart; 2 of 6 elements"),
        ((0, 2), np.nan, r"element \(0, 2\) differs most: got nan, expected 3\.0, which is inf apart"),
        ((1, 1), 0.0, r"element \(1, 1\) differs most: got 0\.0, expected nan, which is inf apart"),
        ((1, 2), -np.inf, r"element \(1, 2\) differs most: got -inf, expected inf, which is inf apart"),
    ):
        got = expected.copy()
        got[0, 0], got[at] = 1.25, value
        with pytest.raises(pytest.fail.Exception, match=said):
            agrees(device_backend.asarray(got), expected)


@pytest.mark.parametrize("name", UNARY)
def test_unary_agrees_with_numpy(device_backend, reference, name, agrees):
    a = special([0.3, 7.0], (5, 61))
    agrees(device_backend.unary(name, device_backend.asarray(a)), reference.unary(name, a))


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize(
    ("left", "right"),
    [
        ((300,), (300,)),
        ((4, 5, 6), (6,)),
        ((4, 5, 6), ()),
        ((), (4, 5)),
        ((4, 1, 6), (5, 1)),
        ((1, 5, 1, 3), (4, 1, 6, 1)),
        ((2, 1, 3, 1, 2, 1, 3, 1), (1, 2, 1, 3, 1, 2, 1, 3)),
    ],
)
def test_binary_broadcasts_as_numpy_does(device_backend, reference, name, left, right, rng, agrees):
    a, b = (rng.uniform(0.5, 2, size=s).astype(np.float32) for s in (left, right))
    got = device_backend.binary(name, device_backend.asarray(a), device_backend.asarray(b))
    agrees(got, reference.binary(name, a, b))


@pytest.mark.parametrize("name", BINARY)
def test_binary_passes_special_values(device_backend, reference, name, agrees):
    a, b = special([0.3], 99), special([2.0, 0.5], 99)
    expected = reference.binary(name, a, b)
    agrees(device_backend.binary(name, device_backend.asarray(a), device_backend.asarray(b)), expected)


@pytest.mark.parametrize("name", COMPARISONS)
def test_comparisons_broadcast_and_are_false_beside_nan(device_backend, name, rng):
    on = device_backend.asarray
    a, b = special([0.3], (33, 1)), special([2.0, 0.5], 17)
    integers = rng.integers(-2, 3, (33, 1)), rng.integers(-2, 3, 17) + 2**40
    bits = tuple(i > 0 for i in integers)
    for left, right in ((a, b), (b, a[:17, 0]), integers, (integers[0], integers[0].T), bits):
        got = device_backend.compare(name, on(left), on(right))
        assert got.dtype == np.bool_
        np.testing.assert_array_equal(device_backend.to_numpy(got), getattr(np, name)(left, right))


def test_unsupported_comparisons_raise(device_backend):
    on = device_backend.asarray
    with pytest.raises(TypeError, match="less: got int32 and int32 but CUDA compares one dtype of float32"):
        device_backend.compare("less", on(np.ones(3, np.int32)), on(np.ones(3, np.int32)))
    with pytest.raises(TypeError, match="less: got float32 and int64"):
        device_backend.compare("less", on(np.ones(3, np.float32)), on(np.ones(3, np.int64)))
    with pytest.raises(ValueError, match="compare: name is 'around'"):
        device_backend.compare("around", on(np.ones(3, np.float32)), on(np.ones(3, np.float32)))


def test_select_takes_elements_of_either_array_or_zeros(device_backend, rng):
    on, condition = device_backend.asarray, rng.integers(0, 2, (7, 41)) > 0
    a, b = special([0.3], (7, 41)), special([7.0, 0.5], (7, 41))
    for first, second in ((a, b), (a, None), (None, b)):
        expected = np.where(condition, np.float32(0) if first is None else a, np.float32(0) if second is None else b)
        got = device_backend.select(on(condition), *(None if v is None else on(v) for v in (first, second)))
        np.testing.assert_array_equal(device_backend.to_numpy(got), expected)
    with pytest.raises(ValueError, match=r"select: b has shape \(41,\) but takes \(7, 41\)"):
        device_backend.select(on(condition), on(a), on(b[0]))


@pytest.mark.parametrize("dtype", ["bool", "int32", "int64"])
def test_masks_and_integers_are_cast_to_floats(device_backend, dtype, rng):
    a = rng.integers(-(2**20), 2**20, (9, 40)).astype(dtype)
    for to in ("float32", "float16", "bfloat16", "int64"):
        got = device_backend.cast(device_backend.asarray(a), to)
        assert got.dtype == np.dtype(to)
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(
                device_backend.to_numpy(got), a.astype(np.float32).astype(to) if to != "int64" else a
            )


@pytest.mark.parametrize("dtype", ["float32", "bool", "int64"])
def test_broadcast_repeats_arrays(device_backend, dtype, rng):
    a = rng.integers(0, 2, (3, 1, 5)).astype(dtype)
    got = device_backend.broadcast(device_backend.asarray(a), (2, 3, 4, 5))
    np.testing.assert_array_equal(device_backend.to_numpy(got), np.broadcast_to(a, (2, 3, 4, 5)))


@pytest.mark.parametrize(("transpose_a", "transpose_b"), [(False, False), (True, False), (False, True)])
def test_batched_products_agree_with_numpy(device_backend, transpose_a, transpose_b, normal, agrees):
    a, b = normal(3, 33, 18), normal(3, 18, 21)
    left, right = a.swapaxes(1, 2) if transpose_a else a, b.swapaxes(1, 2) if transpose_b else b
    got = device_backend.batched_matmul(
        *(device_backend.asarray(m.copy()) for m in (left, right)), transpose_a=transpose_a, transpose_b=transpose_b
    )
    agrees(got, a.astype(np.float64) @ b)
    with pytest.raises(ValueError, match=r"batched_matmul: a has shape \(3, 33, 18\) and b \(2, 18, 21\)"):
        device_backend.batched_matmul(device_backend.asarray(a), device_backend.asarray(b[:2]))


def test_binary_writes_over_its_first_operand(device_backend, normal, agrees):
    a, b = normal(4, 5), normal(5)
    out = device_backend.asarray(a)
    assert device_backend.binary("add", out, device_backend.asarray(b), out=out) is out
    agrees(out, a + b)


def test_more_axes_than_a_walk_has_are_refused(device_backend, normal):
    a, b = normal(*[2, 1] * 5), normal(*[1, 2] * 5)
    with pytest.raises(ValueError, match="10 axes"):
        device_backend.binary("add", device_backend.asarray(a), device_backend.asarray(b))


AXES = [
    ((7,), (0,)), ((3, 5), (0,)), ((3, 5), (1,)), ((3, 5), (0, 1)), ((2, 3, 4, 5), (1, 2)), ((2, 3, 4, 5), (0, 1, 2)),
    ((2, 3, 4, 5), (1, 3)), ((2, 3, 4, 5), (0, 2)), ((2, 1, 4, 5), (0, 2)), ((3, 4), ()), ((1, 1), (0,)),
    ((1, 6), (1,)), ((4100, 10), (1,)), ((4100, 40), (1,)), ((4097, 300), (1,)),
    ((300, 17), (0,)), ((5, 10007), (1,)), ((9000, 3), (0,)), ((33, 40, 8), (0, 1)),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "axes"), AXES)
def test_sum_agrees_with_numpy(device_backend, shape, axes, normal, agrees):
    a = normal(*shape)
    agrees(device_backend.sum(device_backend.asarray(a), axes), a.astype(np.float64).sum(axis=axes), 1e-5)


@pytest.mark.parametrize(("shape", "axes"), [case for case in AXES if case[1]])
@pytest.mark.parametrize("nan", [0, 2])
def test_max_takes_the_first_and_sends_the_gradient_there(device_backend, reference, shape, axes, nan, rng, agrees):
    a = rng.integers(-3, 4, size=shape).astype(np.float32)
    a.ravel()[rng.integers(0, a.size, size=nan)] = np.nan
    y, index = device_backend.max(device_backend.asarray(a), axes)
    expected, expected_index = reference.max(a, axes)
    agrees(y, expected)
    np.testing.assert_array_equal(device_backend.to_numpy(index), expected_index)
    assert index.dtype == np.int32
    dy = rng.normal(size=expected.shape).astype(np.float32)
    dx = device_backend.max_backward(device_backend.asarray(dy), index, shape=shape, axes=axes)
    agrees(dx, reference.max_backward(dy, expected_index, shape=shape, axes=axes))


def test_sums_pass_nan(device_backend, normal, agrees):
    a = normal(40, 50)
    a[3, 7] = np.nan
    for axes in ((0,), (1,), (0, 1)):
        agrees(device_backend.sum(device_backend.asarray(a), axes), a.sum(axis=axes), 1e-5)


@pytest.mark.parametrize(
    ("shape", "threads"),
    [((100, 10), 256), ((5000, 10), 0), ((5000, 40), 32), ((5000, 300), 128), ((5000, 10**5), 256)],
)
def test_blocks_are_as_small_as_the_rows_they_reduce(shape, threads):
    assert row_threads(*shape, 1) == threads
    assert row_threads(*shape, 2) == 0


@pytest.mark.parametrize("axes", [(1, 0), (0, 1)])
def test_transpose_of_a_matrix(device_backend, axes, normal, agrees):
    a = normal(33, 70)
    agrees(device_backend.transpose(device_backend.asarray(a), axes), a.transpose(axes))


@pytest.mark.parametrize("axes", [(0, 3, 1, 2), (3, 2, 1, 0), (1, 0, 2, 3)])
@pytest.mark.parametrize("dtype", ["float32", "int32", "uint8", "int64"])
def test_transpose_of_many_axes(device_backend, axes, dtype, rng):
    a = rng.integers(0, 100, size=(2, 3, 4, 5)).astype(dtype)
    got = device_backend.transpose(device_backend.asarray(a), axes)
    np.testing.assert_array_equal(device_backend.to_numpy(got), a.transpose(axes))


TRANSPOSES = [
    ((33, 70), (1, 0)), ((200, 67), (1, 0)), ((2, 41, 23, 3), (0, 3, 1, 2)), ((2, 3, 41, 23), (0, 2, 3, 1)),
    ((3, 3, 40, 130), (3, 2, 0, 1)), ((3, 33, 2, 65), (2, 3, 0, 1)), ((2, 1, 40, 300), (3, 1, 0, 2)),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "axes"), TRANSPOSES, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "bool", "uint16", "int64", "bfloat16"])
@pytest.mark.parametrize("shift", [0, 1])
def test_transposes_go_through_tiles(device_backend, shape, axes, dtype, shift, rng):
    """Also of views that no load of four elements could read."""
    flat = rng.integers(0, 2 if dtype == "bool" else 250, size=shift + np.prod(shape)).astype(dtype)
    got = device_backend.transpose(device_backend.asarray(flat)[shift:].reshape(shape), axes)
    np.testing.assert_array_equal(device_backend.to_numpy(got), flat[shift:].reshape(shape).transpose(axes))


@pytest.mark.parametrize("dtype", ["float32", "uint8", "float64"])
def test_reversed_and_skipped_elements_go_through_tiles(device_backend, dtype, rng):
    """No primitive gives both; a walk may."""
    a = rng.integers(0, 250, size=(3, 50, 45)).astype(dtype)
    x, y = device_backend.asarray(a), device_backend.full((45, 3, 120), 7, dtype)
    source = View((45, 3, 50), (-1, 2250, 45), 44)
    target = View((45, 3, 50), (360, 120, -1), 60)
    device_backend._copy("copy", x, source, y, target)
    expected = np.full((45, 3, 120), 7, dtype)
    expected[..., 60:10:-1] = a[..., ::-1].transpose(2, 0, 1)
    np.testing.assert_array_equal(device_backend.to_numpy(y), expected)


@pytest.mark.parametrize(
    ("shape", "axes", "tile"),
    [
        ((1024, 2048), (1, 0), (32, 64)),
        ((100, 70), (1, 0), (32, 32)),  # cut smaller, for there are few
        ((64, 100, 100, 3), (0, 3, 1, 2), (3, 682)),
        ((64, 3, 100, 100), (0, 2, 3, 1), (672, 3)),
        ((64, 8, 8), (0, 2, 1), None),  # a warp reads few sectors, and a block more than one matrix
        ((64, 10, 32), (1, 0, 2), None),  # rows stay rows
    ],
)
def test_tiles_follow_the_shape(shape, axes, tile):
    backend = recording_backend()
    backend.transpose(backend.asarray(np.zeros(shape, np.float32)), axes)
    kernel, _, args = backend.launcher.launches[0]
    if tile is None:
        assert kernel == "strided_copy<float>"
        return
    assert kernel == "strided_copy_tiled<float>"
    tiles = args[-1]
    assert (tiles["across"], tiles["down"]) == tile
    assert tiles["across"] * tiles["down"] * 4 <= constant("elementwise.cu", "TILE_BYTES")
    assert tiles["pitch"] * tiles["down"] * 4 <= constant("elementwise.cu", "TILE_SHARED")


@pytest.mark.parametrize("itemsize", [1, 2, 4, 8])
def test_every_tile_fits_shared_memory(itemsize):
    most, room = (constant("elementwise.cu", name) // itemsize for name in ("TILE_BYTES", "TILE_SHARED"))
    for a in (*range(2, 300), 1000, 10**6):
        for b in (*range(2, 300, 7), 1000, 10**6):
            steps = {"rank": 2, "extent": [b, a], "first_stride": [a, 1], "second_stride": [1, b]}
            found = tiled_walk(steps, itemsize)
            assert (found is None) == (a * b < 256)
            if found is not None:
                across, down, pitch = (found.tiles[name] for name in ("across", "down", "pitch"))
                assert 256 <= across * down <= most
                assert across <= pitch
                assert pitch * down <= room


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_concatenate(device_backend, axis, normal, agrees):
    parts = [normal(*(n if i == axis else 3 for i in range(3))) for n in (1, 4, 2)]
    agrees(device_backend.concatenate([device_backend.asarray(p) for p in parts], axis), np.concatenate(parts, axis))


INDICES = [
    (slice(1, 4),), (2,), (-1,), (slice(None), 3), (slice(None, None, -1),), (slice(4, 0, -2), slice(None, None, 3)),
    (None, slice(1, 3)), (slice(None), None, slice(None, None, -2)), (1, 2, 3), (-1, -1, -1), (slice(2, 2),), (),
]  # fmt: skip


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_slices_are_read_and_written(device_backend, reference, index, normal, agrees):
    a = normal(5, 6, 7)
    expected = reference.get_slice(a, index)
    agrees(device_backend.get_slice(device_backend.asarray(a), index), expected)
    dy = normal(*expected.shape) if expected.shape else normal(1).reshape(())
    got = device_backend.put_slice(device_backend.asarray(dy), index, shape=a.shape)
    agrees(got, reference.put_slice(dy, index, shape=a.shape))


@pytest.mark.parametrize("shape", [(9,), (9, 5), (9, 2, 3)])
def test_take_and_its_gradient_agree_with_numpy(device_backend, reference, shape, normal, agrees):
    a, rows = normal(*shape), np.array([3, 0, 3, 8, 3, 1], np.int64)
    on = device_backend.asarray
    agrees(device_backend.take(on(a), on(rows)), a[rows])
    dy = normal(6, *shape[1:])
    order, starts = rows_in_order(rows, 9)
    expected = np.zeros(shape)
    np.add.at(expected, rows, dy)
    agrees(device_backend.take_backward(on(dy), on(order), on(starts)), expected)
    np.testing.assert_allclose(reference.take_backward(dy, order, starts), expected, rtol=1e-6, atol=1e-6)


LISTS = {  # which rows are taken, of how many
    "all one": (lambda rng: np.full(200, 3), 7),
    "the last": (lambda rng: np.full(65, 6), 7),
    "few": (lambda rng: rng.integers(0, 2, 3000), 2),
    "each once": (lambda rng: rng.permutation(160), 160),
    "most the first": (lambda rng: np.maximum(rng.integers(-900, 99, 1000), 0), 100),
    "many, of more": (lambda rng: rng.integers(0, 5000, 700), 5000),
    "whole parts": (lambda rng: np.repeat([1, 2, 4, 5], [16, 32, 8, 24]), 7),
    "one": (lambda rng: np.zeros(100, int), 1),
}


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("width", [1, 5, 40])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_long_lists_are_added_in_parts(device_backend, name, width, dtype, rng):
    """Every element of dx is written once, whichever rows lie inside a part or reach into others."""
    make, length = LISTS[name]
    rows = make(rng)
    dy = rng.normal(size=(len(rows), width)).astype(dtype)
    order, starts = (device_backend.asarray(a) for a in rows_in_order(rows, length))
    got = device_backend.take_backward(device_backend.asarray(dy), order, starts)
    expected, size = np.zeros((length, width)), np.zeros((length, width))
    np.add.at(expected, rows, dy.astype(np.float64))
    np.add.at(size, rows, np.abs(dy.astype(np.float64)))
    assert got.dtype == dy.dtype
    close = {"float32": 2e-7, "float16": 5e-4, "bfloat16": 4e-3}[dtype]
    error = np.abs(device_backend.to_numpy(got).astype(np.float64) - expected)
    assert (error <= close * np.abs(expected) + 3e-7 * size).all()


def test_long_lists_pass_nan(device_backend, normal):
    rows, dy = np.repeat([0, 2, 3], [40, 70, 5]), normal(115, 3)
    dy[50, 1] = dy[112, 0] = np.nan
    order, starts = (device_backend.asarray(a) for a in rows_in_order(rows, 4))
    got = device_backend.to_numpy(device_backend.take_backward(device_backend.asarray(dy), order, starts))
    assert np.argwhere(np.isnan(got)).tolist() == [[2, 1], [3, 0]]
    assert not got[1].any()


@pytest.mark.parametrize(("count", "part"), [(65, 16), (4000, 16), (4096, 32), (10**6, 256), (2**40, 2**19)])
def test_parts_of_a_long_list_grow_as_its_root(count, part):
    assert take_part(count) == part


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64", "uint8", "uint64", "uint16", "bool"])
def test_moved_dtypes_are_filled_copied_and_taken(device_backend, dtype):
    full = device_backend.full((3, 50), 1, dtype)
    np.testing.assert_array_equal(device_backend.to_numpy(full), np.full((3, 50), 1, dtype))
    copy = device_backend.copy(full)
    assert copy is not full
    assert copy.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(device_backend.to_numpy(copy), np.full((3, 50), 1, dtype))
    taken = device_backend.take(full, device_backend.asarray(np.array([2, 1], np.int64)))
    np.testing.assert_array_equal(device_backend.to_numpy(taken), np.full((2, 50), 1, dtype))


def test_empty_arrays_are_computed(device_backend):
    empty = device_backend.empty((0, 4), np.float32)
    assert device_backend.unary("exp", empty).shape == (0, 4)
    assert device_backend.copy(empty).shape == (0, 4)
    np.testing.assert_array_equal(device_backend.to_numpy(device_backend.sum(empty, (0,))), np.zeros(4, np.float32))


def test_a_number_in_the_place_of_an_array_is_refused_with_what_is_taken(device_backend):
    a = device_backend.asarray(np.ones(3, np.float32))
    with pytest.raises(TypeError, match=r"scale: by takes an array of one element or None, got 2\.0; .* factor="):
        device_backend.scale(a, 2.0)
    assert device_backend.to_numpy(device_backend.scale(a, None, 2.0)).tolist() == [2, 2, 2]


def test_an_unsupported_dtype_is_refused(device_backend):
    doubles = device_backend.asarray(np.ones(3))
    with pytest.raises(TypeError, match="exp: a is float64 but CUDA computes in float32"):
        device_backend.unary("exp", doubles)
    with pytest.raises(TypeError, match="full: got complex64 but CUDA moves float32"):
        device_backend.full((3,), 0, np.complex64)
    with pytest.raises(TypeError, match="exp: a is ndarray"):
        device_backend.unary("exp", np.ones(3, np.float32))
