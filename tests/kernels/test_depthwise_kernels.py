"""The kernels of depthwise convolutions against the reference, and the simple kernels beside them."""

import numpy as np
import pytest
import tolerances
from helpers import needs_emulator
from recording import recording_backend

from gpunet.backends.contract import FUSED_POOL, Activation, Conv, Gate, Into
from gpunet.backends.cuda import depthwise
from gpunet.backends.cuda.backend import emulated_backend
from gpunet.backends.cuda.depthwise import COLS, block_of, is_depthwise, lanes_of, split_strips, unrolled
from gpunet.backends.cuda.device import THREADS
from gpunet.cuda.instantiations import DEPTHWISE
from gpunet.emulator.launches import Settings
from gpunet.emulator.machine import Schedule
from gpunet.geometry import Geometry
from gpunet.nvrtc.signature import BLOCK_LIMITS, check_extents

RELU, TANH = Activation("relu"), Activation("tanh")
SHAPES = {
    # x, (KH, KW), filters per channel, options: each unrolled window, then what any window takes
    "3x3": ((2, 9, 10, 8), (3, 3), 1, {"padding": 1}),
    "3x3, strips with 1, 2 and 3 pixels left, even rows": ((3, 6, 7, 12), (3, 3), 1, {}),
    "3x3 of one pixel": ((2, 1, 1, 4), (3, 3), 1, {"padding": 1}),
    "3x3, more channels than a slice": ((1, 5, 6, 44), (3, 3), 1, {"padding": ((1, 0), (0, 1))}),
    "3x3, padding wider than the window": ((1, 4, 5, 4), (3, 3), 1, {"padding": ((4, 3), (3, 5))}),
    "3x3 by 2": ((2, 9, 11, 8), (3, 3), 1, {"padding": 1, "stride": 2}),
    "3x3 by 2, same, even": ((2, 10, 14, 8), (3, 3), 1, {"padding": "same", "stride": 2}),
    "3x3 by 2, rows and columns that no window reaches": ((1, 8, 10, 4), (3, 3), 1, {"stride": 2}),
    "3x3 by 2, uneven": ((1, 9, 8, 4), (3, 3), 1, {"stride": 2, "padding": ((3, 0), (2, 1))}),
    "5x5": ((1, 9, 11, 12), (5, 5), 1, {"padding": 2}),
    "5x5 by 2": ((2, 8, 11, 4), (5, 5), 1, {"padding": ((2, 1), (1, 2)), "stride": 2}),
    "1x1": ((2, 5, 6, 8), (1, 1), 1, {}),
    "1x1 by 2": ((2, 5, 6, 3), (1, 1), 2, {"stride": 2}),
    "7x7": ((1, 8, 9, 4), (7, 7), 1, {"padding": 3}),
    "7x7 of any channels": ((1, 8, 9, 5), (7, 7), 1, {"padding": 3}),
    "2x6 by 3 and 1": ((1, 11, 13, 8), (2, 6), 1, {"padding": ((0, 1), (3, 2)), "stride": (3, 1)}),
    "3x3 dilated": ((1, 9, 10, 8), (3, 3), 1, {"padding": 2, "dilation": 2}),
    "3x3 by 2, dilated": ((1, 13, 12, 4), (3, 3), 1, {"padding": (2, 3), "stride": 2, "dilation": (2, 3)}),
    "3x3, two filters per channel": ((2, 7, 6, 8), (3, 3), 2, {"padding": 1}),
    "4x2 by 1 and 2, three filters per channel": ((1, 7, 9, 5), (4, 2), 3, {"padding": 1, "stride": (1, 2)}),
    "3x3 of odd channels": ((2, 6, 7, 33), (3, 3), 1, {"padding": 1}),
    "3x3, four filters per channel": ((2, 6, 7, 3), (3, 3), 4, {"padding": 1}),
    # of gray images: the weight gradient alone is depthwise
    "gray 3x3": ((2, 9, 10, 1), (3, 3), 36, {"padding": 1}),
    "gray 5x5": ((2, 9, 10, 1), (5, 5), 8, {"padding": 2}),
    "gray 5x5 to any filters": ((2, 8, 11, 1), (5, 5), 6, {"padding": "same"}),
    "gray 4x3 by 2": ((1, 11, 12, 1), (4, 3), 12, {"stride": 2}),
    "gray 4x3 to any filters": ((1, 8, 9, 1), (4, 3), 5, {"dilation": 2}),
    "gray 9x9": ((1, 14, 13, 1), (9, 9), 8, {}),
}
EVERY_GATE = [RELU, TANH, Activation("leaky_relu", 0.2), Activation("sigmoid"), Activation("elu"), Activation("relu6")]
VARIANTS = [
    "3x3", "3x3 by 2", "5x5", "5x5 by 2", "7x7", "3x3, two filters per channel",
    "gray 3x3", "gray 5x5", "gray 5x5 to any filters", "gray 4x3 by 2",
]  # fmt: skip
"""A shape for each variant of the kernels."""


def geometry_of(name, shapes=SHAPES):
    x_shape, window, multiplier, options = shapes[name]
    return Geometry.conv(x_shape, (*window, 1, multiplier * x_shape[3]), groups=x_shape[3], **options)


def wide(*arrays):
    return [a.astype(np.float64) for a in arrays]


@pytest.mark.parametrize("name", SHAPES)
def test_windows_strides_and_remainders(device_backend, reference, name, normal, agrees):
    g, on = geometry_of(name), device_backend.asarray
    x, w, b, dy = normal(*g.x_shape), normal(*g.w_shape), normal(g.filters), normal(*g.y_shape)
    conv = Conv(g)
    agrees(
        device_backend.conv2d_forward(on(x), on(w), on(b), conv)[0], reference.conv2d_forward(*wide(x, w, b), conv)[0]
    )
    agrees(device_backend.conv2d_input_grad(on(dy), on(w), conv), reference.conv2d_input_grad(*wide(dy, w), conv))
    got = device_backend.conv2d_weight_grad(on(dy), on(x), conv)
    for mine, theirs in zip(got, reference.conv2d_weight_grad(*wide(dy, x), conv), strict=True):
        agrees(mine, theirs)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("activation", EVERY_GATE, ids=str)
def test_activations_and_gates(device_backend, reference, name, activation, normal, agrees):
    g, on = geometry_of(name), device_backend.asarray
    x, w, b, dy = normal(*g.x_shape), normal(*g.w_shape), normal(g.filters), normal(*g.y_shape)
    conv = Conv(g, activation)
    y = reference.conv2d_forward(*wide(x, w, b), conv)[0]
    agrees(device_backend.conv2d_forward(on(x), on(w), on(b), conv)[0], y)
    gate, device_gate = Gate(y, activation), Gate(on(y.astype(np.float32)), activation)
    expected = reference.conv2d_input_grad(*wide(dy, w), conv, gate)
    agrees(device_backend.conv2d_input_grad(on(dy), on(w), conv, device_gate), expected)
    got = device_backend.conv2d_weight_grad(on(dy), on(x), conv, device_gate)
    for mine, theirs in zip(got, reference.conv2d_weight_grad(*wide(dy, x), conv, gate), strict=True):
        agrees(mine, theirs)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("activation", [None, RELU, TANH], ids=str)
def test_a_residual(device_backend, reference, name, activation, normal, agrees):
    g, on = geometry_of(name), device_backend.asarray
    x, w, b, residual = normal(*g.x_shape), normal(*g.w_shape), normal(g.filters), normal(*g.y_shape)
    conv = Conv(g, activation)
    expected = reference.conv2d_forward(*wide(x, w, b), conv, residual)[0]
    agrees(device_backend.conv2d_forward(on(x), on(w), on(b), conv, on(residual))[0], expected)
    moved = on(np.append(np.zeros(1, np.float32), residual))[1:].reshape(g.y_shape)  # not aligned
    agrees(device_backend.conv2d_forward(on(x), on(w), on(b), conv, moved)[0], expected)


@pytest.mark.parametrize(
    "name", [*VARIANTS, "3x3, strips with 1, 2 and 3 pixels left, even rows", "3x3 of odd channels"]
)
@pytest.mark.parametrize("activation", [None, RELU, TANH], ids=str)
def test_a_pool(device_backend, reference, name, activation, rng, normal, agrees):
    g, on = geometry_of(name), device_backend.asarray
    conv = Conv(g, activation, Geometry.pool(g.y_shape, FUSED_POOL))
    x, w, b = np.round(normal(*g.x_shape) * 4), np.round(normal(*g.w_shape) * 2), normal(g.filters)  # with ties
    x[0, 1, 2, -1] = np.nan
    expected, expected_mask = reference.conv2d_forward(x, w, b, conv)
    y, mask = device_backend.conv2d_forward(on(x), on(w), on(b), conv)
    agrees(y, expected)
    np.testing.assert_array_equal(device_backend.to_numpy(mask), expected_mask)
    x[0, 1, 2, -1] = 1
    dy, y, mask = normal(*conv.y_shape), np.tanh(normal(*conv.y_shape)), rng.integers(0, 4, conv.y_shape)
    mask = mask.astype(np.uint8)
    inner = 0, y.shape[1] // 2, y.shape[2] // 2, 0  # away from the padding, where the reference makes 0 NaN
    y[inner], mask[inner] = np.nan, 0
    gate, device_gate = Gate(y, activation, mask), Gate(on(y), activation, on(mask))
    expected = reference.conv2d_input_grad(dy, w, conv, gate)
    agrees(device_backend.conv2d_input_grad(on(dy), on(w), conv, device_gate), expected)
    got = device_backend.conv2d_weight_grad(on(dy), on(x), conv, device_gate)
    for mine, theirs in zip(got, reference.conv2d_weight_grad(dy, x, conv, gate), strict=True):
        agrees(mine, theirs)


@pytest.mark.parametrize("name", VARIANTS)
def test_nan_reaches_what_it_touches_and_nothing_else(device_backend, reference, name, normal, agrees):
    x_shape, window, multiplier, options = SHAPES[name]
    g = Geometry.conv(x_shape, (*window, 1, multiplier * x_shape[3]), groups=x_shape[3], **{**options, "padding": 0})
    x, w, dy = normal(*g.x_shape), normal(*g.w_shape), normal(*g.y_shape)
    x[0, 0, 1, -1] = dy[0, 0, 1, 2] = np.nan
    on, conv = device_backend.asarray, Conv(g, RELU)
    agrees(device_backend.conv2d_forward(on(x), on(w), None, conv)[0], reference.conv2d_forward(x, w, None, conv)[0])
    expected = reference.conv2d_input_grad(dy, w, conv)
    assert 0 < np.isnan(expected).sum() < expected.size
    agrees(device_backend.conv2d_input_grad(on(dy), on(w), conv), expected)
    expected = reference.conv2d_weight_grad(dy, x, conv)
    assert 0 < np.isnan(expected[0]).sum() < expected[0].size
    got = device_backend.conv2d_weight_grad(on(dy), on(x), conv)
    for mine, theirs in zip(got, expected, strict=True):
        agrees(mine, theirs)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_16_bits(device_backend, reference, name, dtype, rng, agrees):
    g, on, kind = geometry_of(name), device_backend.asarray, np.dtype(dtype)
    shapes = g.x_shape, g.w_shape, (g.filters,), g.y_shape, g.y_shape
    x, w, b, dy, y = (rng.normal(size=shape).astype(kind) for shape in shapes)
    conv, gate, device_gate = Conv(g, RELU), Gate(y.astype(np.float64), RELU), Gate(on(y), RELU)
    got = device_backend.conv2d_forward(on(x), on(w), on(b), conv)[0]
    assert got.dtype == kind
    agrees(
        device_backend.cast(got, "float32"), reference.conv2d_forward(*wide(x, w, b), conv)[0], tolerances.NARROW[dtype]
    )
    got = device_backend.conv2d_input_grad(on(dy), on(w), conv, device_gate)
    expected = reference.conv2d_input_grad(*wide(dy, w), conv, gate)
    agrees(device_backend.cast(got, "float32"), expected, tolerances.NARROW[dtype])
    got = device_backend.conv2d_weight_grad(on(dy), on(x), conv, device_gate)
    for mine, theirs in zip(got, reference.conv2d_weight_grad(*wide(dy, x), conv, gate), strict=True):
        agrees(mine, theirs)


LARGE = {
    # x, (KH, KW) and padding, filters per channel
    "two groups of splits, idle lanes": ((5, 32, 31, 44), (3, 3), 1, {"padding": 1}),
    "several rounds of a thread": ((1, 150, 700, 2), (3, 3), 1, {"padding": 1}),
    "several splits of three tiles of taps": ((2, 21, 30, 32), (5, 5), 1, {"padding": 2}),
    "several splits of gray images": ((9, 30, 28, 1), (3, 3), 36, {"padding": 1}),
    "several splits of gray images, any filters": ((9, 30, 28, 1), (5, 5), 6, {"padding": 2}),
}


@pytest.mark.parametrize("name", LARGE)
def test_sums_over_many_splits(cuda_backend, reference, name, rng):
    g = geometry_of(name, LARGE)
    on = cuda_backend.asarray
    x, dy = (rng.normal(size=s).astype(np.float32) for s in (g.x_shape, g.y_shape))
    first, second = (cuda_backend.conv2d_weight_grad(on(dy), on(x), Conv(g)) for _ in range(2))
    for one, other, exact in zip(first, second, reference.conv2d_weight_grad(*wide(dy, x), Conv(g)), strict=True):
        host = cuda_backend.to_numpy(one)
        np.testing.assert_array_equal(host, cuda_backend.to_numpy(other))
        assert np.linalg.norm(host - exact) <= 2e-6 * np.linalg.norm(exact)


@needs_emulator
@pytest.mark.parametrize("schedule", [Schedule("fifo"), Schedule("lifo"), Schedule("random", 1)], ids=str)
def test_no_schedule_of_threads_is_a_race(reference, schedule, rng):
    backend = emulated_backend(Settings(checked=True, schedule=schedule))
    g = geometry_of("two groups of splits, idle lanes", LARGE)
    x, dy = (rng.normal(size=s).astype(np.float32) for s in (g.x_shape, g.y_shape))
    got = backend.conv2d_weight_grad(backend.asarray(dy), backend.asarray(x), Conv(g))
    for mine, exact in zip(got, reference.conv2d_weight_grad(*wide(dy, x), Conv(g)), strict=True):
        assert np.linalg.norm(backend.to_numpy(mine) - exact) <= 2e-6 * np.linalg.norm(exact)


@pytest.mark.parametrize("x_shape", [(2, 7, 6, 8), (2, 33, 34, 36)], ids=["one split", "several"])
def test_weight_gradients_are_added_where_they_are_told(device_backend, reference, x_shape, normal, agrees):
    g = Geometry.conv(x_shape, (3, 3, 1, x_shape[3]), groups=x_shape[3], padding=1)
    dy, x, old, old_bias = normal(*g.y_shape), normal(*x_shape), normal(*g.w_shape), normal(g.filters)
    on, (dw, db) = device_backend.asarray, reference.conv2d_weight_grad(*wide(dy, x), Conv(g))
    arena = device_backend.full((old.size + g.filters + 7,), 3.0, np.float32)
    weight, bias = (
        arena[3 : 3 + old.size].reshape(old.shape),
        arena[3 + old.size : 3 + old.size + g.filters],
    )  # unaligned
    device_backend.copy(on(old), out=weight)
    device_backend.copy(on(old_bias), out=bias)
    device_backend.conv2d_weight_grad(on(dy), on(x), Conv(g), into=Into(weight, bias, add=True))
    agrees(weight, old + dw)
    agrees(bias, old_bias + db)
    device_backend.conv2d_weight_grad(on(dy), on(x), Conv(g), into=Into(weight, bias))
    agrees(weight, dw)
    agrees(bias, db)
    ends = device_backend.to_numpy(arena)
    assert (ends[:3] == 3).all()
    assert (ends[-4:] == 3).all()
    got = device_backend.conv2d_weight_grad(on(dy), on(x), Conv(g), into=Into(on(old), needs_bias=False, add=True))
    agrees(got[0], old + dw)
    assert got[1] is None
    agrees(device_backend.conv2d_weight_grad(on(dy), on(x), Conv(g), into=Into(bias=bias))[1], db)


@pytest.mark.parametrize("name", ["3x3", "5x5", "gray 3x3"])
@pytest.mark.parametrize("moved", ["x", "w", "dy", "gate"])
def test_any_alignment_is_taken(device_backend, reference, name, moved, normal, agrees):
    g, on = geometry_of(name), device_backend.asarray
    arrays = {"x": normal(*g.x_shape), "w": normal(*g.w_shape), "dy": normal(*g.y_shape), "gate": normal(*g.y_shape)}
    placed = {key: on(a) for key, a in arrays.items()}
    flat = on(np.concatenate([np.zeros(1, np.float32), arrays[moved].ravel()]))
    placed[moved] = flat[1:].reshape(arrays[moved].shape)  # one float in: never at 16 bytes
    conv, gate, device_gate = Conv(g), Gate(arrays["gate"], TANH), Gate(placed["gate"], TANH)
    expected = reference.conv2d_forward(*wide(arrays["x"], arrays["w"]), None, conv)[0]
    agrees(device_backend.conv2d_forward(placed["x"], placed["w"], None, conv)[0], expected)
    expected = reference.conv2d_input_grad(*wide(arrays["dy"], arrays["w"]), conv, gate)
    agrees(device_backend.conv2d_input_grad(placed["dy"], placed["w"], conv, device_gate), expected)
    expected = reference.conv2d_weight_grad(*wide(arrays["dy"], arrays["x"]), conv, gate)
    for mine, theirs in zip(
        device_backend.conv2d_weight_grad(placed["dy"], placed["x"], conv, device_gate), expected, strict=True
    ):
        agrees(mine, theirs)


def ones(on, *shape, dtype=np.float32):
    return on.arrays.asarray(np.ones(shape, dtype))


INSTANCES = {  # and the channels of x that a thread has
    "3x3": ("3, 1, 4", 4), "3x3 by 2": ("3, 2, 4", 4), "5x5": ("5, 1, 4", 4), "5x5 by 2": ("5, 2, 4", 4),
    "1x1": ("0, 0, 4", 4), "7x7": ("0, 0, 4", 4), "3x3 dilated": ("0, 0, 4", 4), "2x6 by 3 and 1": ("0, 0, 4", 4),
    "3x3, two filters per channel": ("0, 0, 1", 1), "3x3 of odd channels": ("0, 0, 1", 1),
}  # fmt: skip
SHARED = {
    "gray 3x3": "3, 1, 4", "gray 5x5": "5, 1, 4", "gray 5x5 to any filters": "5, 1, 1", "gray 4x3 by 2": "0, 0, 4",
    "gray 4x3 to any filters": "0, 0, 1", "3x3, four filters per channel": "3, 1, 4",
}  # fmt: skip


@pytest.mark.parametrize("name", INSTANCES)
def test_the_variant_follows_from_window_stride_and_channels(name):
    backend, g = recording_backend(), geometry_of(name)
    x, w, dy = (ones(backend, *shape) for shape in (g.x_shape, g.w_shape, g.y_shape))
    backend.conv2d_forward(x, w, None, Conv(g))
    backend.conv2d_input_grad(dy, w, Conv(g))
    backend.conv2d_weight_grad(dy, x, Conv(g))
    variant, taken = INSTANCES[name]
    assert backend.launcher.kernels == [
        f"conv2d_depthwise_forward<float, {variant}, {taken}>",
        f"conv2d_depthwise_input_grad<float, {variant}>",
        f"conv2d_depthwise_weight_grad<float, {variant}, {taken}>",
    ]


@pytest.mark.parametrize("name", SHARED)
def test_filters_that_share_a_channel_have_kernels_of_their_own(name):
    backend, g = recording_backend(), geometry_of(name)
    backend.conv2d_forward(ones(backend, *g.x_shape), ones(backend, *g.w_shape), None, Conv(g))
    backend.conv2d_weight_grad(ones(backend, *g.y_shape), ones(backend, *g.x_shape), Conv(g))
    expected = [f"conv2d_depthwise_{kernel}<float, {SHARED[name]}, 1>" for kernel in ("forward", "weight_grad")]
    assert backend.launcher.kernels == expected


def test_a_large_window_over_gray_images_is_a_product_of_matrices():
    backend, g = recording_backend(), geometry_of("gray 9x9")
    backend.conv2d_forward(ones(backend, *g.x_shape), ones(backend, *g.w_shape), None, Conv(g))
    backend.conv2d_weight_grad(ones(backend, *g.y_shape), ones(backend, *g.x_shape), Conv(g))
    names = [kernel.partition("<")[0] for kernel in backend.launcher.kernels]
    assert names == ["conv2d_forward_tiled", "conv2d_weight_grad_tiled"]


def test_a_pool_is_undone_before_the_gradients_whose_windows_are_unrolled():
    backend, g = recording_backend(), geometry_of("3x3")
    x, w = ones(backend, *g.x_shape), ones(backend, *g.w_shape)
    pooled = Conv(g, RELU, Geometry.pool(g.y_shape, FUSED_POOL))
    dy, mask = ones(backend, *pooled.y_shape), ones(backend, *pooled.y_shape, dtype=np.uint8)
    shifted = ones(backend, mask.size + 1, dtype=np.uint8)[1:].reshape(mask.shape)
    backend.conv2d_forward(x, w, None, pooled)
    for winners in (mask, shifted):
        backend.conv2d_input_grad(dy, w, pooled, Gate(dy, RELU, winners))
        backend.conv2d_weight_grad(dy, x, pooled, Gate(dy, RELU, winners))
    gradients = [
        f"conv2d_depthwise_{kernel}>" for kernel in ("input_grad<float, 3, 1, 4", "weight_grad<float, 3, 1, 4, 4")
    ]
    assert backend.launcher.kernels == [
        "conv2d_depthwise_forward<float, 3, 1, 4, 4>",
        *(kernel for v in (4, 1) for g in gradients for kernel in (f"max_pool2d_backward<float, uint8, {v}>", g)),
    ]


def test_only_whole_channels_are_depthwise():
    assert is_depthwise(Geometry.conv((1, 5, 5, 4), (3, 3, 1, 8), groups=4))
    assert not is_depthwise(Geometry.conv((1, 5, 5, 4), (3, 3, 2, 4), groups=2))
    assert not is_depthwise(Geometry.conv((1, 5, 5, 1), (3, 3, 1, 4)))
    assert unrolled(geometry_of("3x3 by 2"), DEPTHWISE, 4) == (3, 2)
    assert unrolled(geometry_of("3x3 by 2"), DEPTHWISE, 1) == (0, 0)
    assert unrolled(geometry_of("3x3 dilated"), DEPTHWISE, 4) == (0, 0)


@pytest.mark.parametrize("v", [1, 4])
@pytest.mark.parametrize("channels", [1, 2, 4, 8, 12, 36, 1000])
def test_blocks_are_whole_and_no_wider_than_what_they_compute(channels, v):
    assert lanes_of(channels, v) * v <= depthwise.SLICE
    for cols in (1, 7, 112, 10**6):
        lanes, patches, high = block_of(cols, channels, v)
        assert lanes * patches * high == THREADS or high == BLOCK_LIMITS[2]
        check_extents("depthwise", 1, (lanes, patches, high))
        assert patches == 1 or COLS * patches < 2 * (cols + COLS)
        assert COLS * patches <= 2 * depthwise.ROWS * high


@pytest.mark.parametrize(
    ("tiles", "strips"), [(1, 10**6), (1, 3), (7, 1000), (32, 448), (1000, 10**5), (1, 2**31 - 2**16)]
)
@pytest.mark.parametrize("together", [8, 32])
def test_splits_cover_the_strips_and_fill_the_device_once(tiles, strips, together):
    each = split_strips(tiles, strips, together, 264)
    splits = -(-strips // each)
    assert each % together == 0
    assert (splits - 1) * each < strips <= splits * each
    assert each <= depthwise.MOST_STRIPS * together  # a thread adds their products in float32
    assert splits == 1 or each >= depthwise.LEAST_STRIPS * together
    assert tiles * splits <= max(264, tiles) or each == depthwise.MOST_STRIPS * together
