import numpy as np
import pytest

from gpunet.backends.contract import FUSED_POOL, Activation, Conv, Gate, Into
from gpunet.geometry import Geometry

SHAPES = [
    # x, (KH, KW), O, options: remainders in every tile dimension, every option alone and together
    ((2, 7, 8, 3), (3, 3), 5, {}),
    ((2, 9, 7, 4), (3, 2), 8, {"padding": "same"}),
    ((1, 11, 10, 20), (3, 3), 68, {"padding": 1}),
    ((3, 9, 8, 5), (4, 3), 70, {"padding": ((2, 1), (0, 3)), "stride": (2, 3)}),
    ((2, 12, 13, 8), (3, 3), 20, {"stride": 3, "padding": "same"}),
    ((2, 13, 12, 6), (3, 2), 17, {"dilation": (2, 3), "padding": 2}),
    ((2, 12, 12, 4), (2, 2), 4, {"stride": 2, "dilation": 2, "padding": 1}),
    ((2, 8, 9, 6), (3, 3), 9, {"groups": 3, "padding": 1}),
    ((2, 8, 9, 8), (3, 3), 40, {"groups": 2, "padding": 1, "stride": 2}),
    ((1, 6, 7, 7), (3, 3), 7, {"groups": 7, "padding": 1}),
    # depthwise: several tiles of taps and of filters, the last of each nearly empty; two filters per channel, and each option
    ((3, 12, 11, 33), (5, 4), 66, {"groups": 33, "padding": ((2, 1), (0, 3)), "stride": (2, 1), "dilation": (1, 2)}),
    ((4, 5, 5, 12), (1, 1), 10, {}),
    ((5, 1, 1, 30), (1, 1), 65, {}),
    ((2, 28, 28, 1), (5, 5), 6, {"padding": "same"}),
    ((9, 48, 48, 8), (1, 1), 128, {}),  # enough results for the largest forward tile
    ((2, 8, 8, 132), (5, 5), 260, {"padding": 2}),  # and for the largest weight-gradient tile
]
ACTIVATIONS = [
    None, Activation("relu"), Activation("leaky_relu", 0.2), Activation("sigmoid"), Activation("tanh"),
    Activation("elu", alpha=0.7), Activation("relu6"), Activation("hard_tanh", min_val=-0.5, max_val=0.8),
    Activation("hard_sigmoid"),
]  # fmt: skip


@pytest.fixture(params=range(len(SHAPES)), ids=lambda i: "x".join(map(str, SHAPES[i][0])) + f"-{i}")
def case(request, normal):
    x_shape, window, filters, options = SHAPES[request.param]
    w_shape = (*window, x_shape[3] // options.get("groups", 1), filters)
    geometry = Geometry.conv(x_shape, w_shape, **options)
    return geometry, normal(*x_shape), normal(*w_shape), normal(*geometry.y_shape)


def gate_of(activation, backend, normal, shape):
    """A gate with the output of that activation, on the host and on the device."""
    y = np.tanh(normal(*shape)) if activation.name != "sigmoid" else 1 / (1 + np.exp(-normal(*shape)))
    return Gate(y, activation), Gate(backend.asarray(y), activation)


def doubled(*arrays):
    return [a.astype(np.float64) for a in arrays]


def test_forward_agrees_with_the_reference(device_backend, reference, case, normal, agrees):
    geometry, x, w, _ = case
    b, conv = normal(geometry.filters), Conv(geometry)
    expected = reference.conv2d_forward(*doubled(x, w, b), conv)[0]
    agrees(device_backend.conv2d_forward(*map(device_backend.asarray, (x, w, b)), conv)[0], expected)


def test_input_grad_agrees_with_the_reference(device_backend, reference, case, agrees):
    geometry, _, w, dy = case
    expected = reference.conv2d_input_grad(*doubled(dy, w), Conv(geometry))
    agrees(device_backend.conv2d_input_grad(*map(device_backend.asarray, (dy, w)), Conv(geometry)), expected)


def test_weight_grad_agrees_with_the_reference(device_backend, reference, case, agrees):
    geometry, x, _, dy = case
    expected = reference.conv2d_weight_grad(*doubled(dy, x), Conv(geometry))
    got = device_backend.conv2d_weight_grad(*map(device_backend.asarray, (dy, x)), Conv(geometry))
    agrees(got[0], expected[0], 1e-5)  # the simple variant adds up to 20,736 products one by one
    agrees(got[1], expected[1], 1e-5)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("channels", [3, 4])
def test_activations_and_gates_are_fused(device_backend, reference, activation, channels, normal, agrees):
    geometry = Geometry.conv((2, 7, 6, channels), (3, 3, channels, 20), padding=1)
    x, w, b, dy = normal(2, 7, 6, channels), normal(3, 3, channels, 20), normal(20), normal(*geometry.y_shape)
    on, conv = device_backend.asarray, Conv(geometry, activation)
    expected = reference.conv2d_forward(*doubled(x, w, b), conv)[0]
    agrees(device_backend.conv2d_forward(on(x), on(w), on(b), conv)[0], expected)
    if activation is None:
        return
    gate, device_gate = gate_of(activation, device_backend, normal, geometry.y_shape)
    expected = reference.conv2d_input_grad(dy, w, conv, gate)
    agrees(device_backend.conv2d_input_grad(on(dy), on(w), conv, device_gate), expected)
    expected = reference.conv2d_weight_grad(dy, x, conv, gate)
    got = device_backend.conv2d_weight_grad(on(dy), on(x), conv, device_gate)
    agrees(got[0], expected[0])
    agrees(got[1], expected[1])


@pytest.mark.parametrize("activation", [None, Activation("relu"), Activation("tanh")], ids=str)
@pytest.mark.parametrize(
    ("x_shape", "w_shape", "options"),
    [
        ((2, 9, 8, 3), (3, 3, 3, 5), {"padding": 1}),
        ((2, 9, 7, 4), (3, 2, 4, 20), {"padding": "same"}),
        ((1, 13, 12, 8), (3, 3, 4, 12), {"padding": 1, "stride": 2, "groups": 2}),
        ((2, 11, 10, 18), (3, 3, 18, 70), {"padding": 1}),
        ((2, 6, 6, 256), (3, 3, 256, 16), {"padding": 1}),  # the reduction is split
    ],
)
@pytest.mark.parametrize("off", [0, 1])
def test_a_residual_is_fused(device_backend, reference, x_shape, w_shape, options, activation, off, normal, agrees):
    geometry = Geometry.conv(x_shape, w_shape, **options)
    x, w, b, residual = (normal(*s) for s in (x_shape, w_shape, w_shape[3:], geometry.y_shape))
    on, conv = device_backend.asarray, Conv(geometry, activation)
    moved = on(np.append(np.zeros(off, np.float32), residual))[off:].reshape(geometry.y_shape)  # off: not aligned
    expected = reference.conv2d_forward(*doubled(x, w, b), conv, residual)[0]
    agrees(device_backend.conv2d_forward(on(x), on(w), on(b), conv, moved)[0], expected)
    expected = reference.conv2d_forward(*doubled(x, w), None, conv, residual)[0]
    agrees(device_backend.conv2d_forward(on(x), on(w), None, conv, moved)[0], expected)


def test_a_pool_is_not_fused_with_a_residual(device_backend):
    geometry = Geometry.conv((1, 4, 4, 3), (3, 3, 3, 5), padding=1)
    x, w, residual = (device_backend.full(s, 1, np.float32) for s in (geometry.x_shape, geometry.w_shape, (1, 4, 4, 5)))
    conv = Conv(geometry, None, Geometry.pool(geometry.y_shape, FUSED_POOL))
    with pytest.raises(ValueError, match="conv2d_forward: takes a pool or a residual, got both"):
        device_backend.conv2d_forward(x, w, None, conv, residual)


POOLED = [
    # x, w, options: odd and even outputs, one window, every tile, V = 1 and 4, groups, a stride
    ((2, 9, 8, 3), (3, 3, 3, 5), {"padding": 1}),
    ((2, 7, 9, 4), (3, 2, 4, 20), {"padding": "same"}),
    ((3, 4, 4, 8), (3, 3, 8, 68), {}),
    ((2, 11, 10, 18), (3, 3, 18, 70), {"padding": 1}),
    ((1, 13, 12, 8), (3, 3, 4, 12), {"padding": 1, "stride": 2, "groups": 2}),
    ((9, 48, 48, 8), (1, 1, 8, 128), {}),
    ((2, 9, 8, 6), (3, 3, 1, 6), {"padding": 1, "groups": 6}),
]


@pytest.mark.parametrize("activation", [None, Activation("relu"), Activation("tanh")], ids=str)
@pytest.mark.parametrize(("x_shape", "w_shape", "options"), POOLED)
def test_a_pool_is_fused(device_backend, reference, x_shape, w_shape, options, activation, rng, normal, agrees):
    geometry = Geometry.conv(x_shape, w_shape, **options)
    conv = Conv(geometry, activation, Geometry.pool(geometry.y_shape, FUSED_POOL))
    x, w, b, dy = normal(*x_shape), normal(*w_shape), normal(w_shape[3]), normal(*conv.y_shape)
    x, w = np.round(x * 4), np.round(w * 2)  # ties, and sums that are exact in any order
    x[0, 1, 2, 1] = np.nan
    on = device_backend.asarray
    expected, expected_mask = reference.conv2d_forward(x, w, b, conv)
    got, mask = device_backend.conv2d_forward(on(x), on(w), on(b), conv)
    agrees(got, expected)
    np.testing.assert_array_equal(device_backend.to_numpy(mask), expected_mask)
    assert 0 < np.isnan(expected).sum() < expected.size

    x[0, 1, 2, 1] = 1
    dy[0, dy.shape[1] // 2, dy.shape[2] // 2, 1] = np.nan  # away from the padding, where the reference makes 0 NaN
    y = np.tanh(normal(*conv.y_shape))
    mask = rng.integers(0, 4, conv.y_shape).astype(np.uint8)
    gate, device_gate = Gate(y, activation, mask), Gate(on(y), activation, on(mask))
    expected = reference.conv2d_input_grad(dy, w, conv, gate)
    agrees(device_backend.conv2d_input_grad(on(dy), on(w), conv, device_gate), expected)
    got = device_backend.conv2d_weight_grad(on(dy), on(x), conv, device_gate)
    for mine, theirs in zip(got, reference.conv2d_weight_grad(dy, x, conv, gate), strict=True):
        agrees(mine, theirs, 1e-5)

    opened, left = device_backend.open_pool(on(dy), conv, device_gate)  # once, for both gradients
    assert left is None
    agrees(device_backend.conv2d_input_grad(opened, on(w), conv), expected)
    for mine, same in zip(device_backend.conv2d_weight_grad(opened, on(x), conv), got, strict=True):
        np.testing.assert_array_equal(*map(device_backend.to_numpy, (mine, same)))


def test_without_a_pool_there_is_nothing_to_open(device_backend, normal):
    geometry = Geometry.conv((1, 8, 8, 3), (3, 3, 3, 5))
    dy, y = (device_backend.asarray(normal(*geometry.y_shape)) for _ in range(2))
    tanh = Activation("tanh")
    for gate in (None, Gate(y, tanh)):
        opened, left = device_backend.open_pool(dy, Conv(geometry, tanh), gate)
        assert opened is dy
        assert left is gate


def test_another_pool_is_not_fused(device_backend, normal):
    geometry, w = Geometry.conv((1, 8, 8, 3), (3, 3, 3, 5)), device_backend.asarray(normal(3, 3, 3, 5))
    pools = [Geometry.pool(geometry.y_shape, 3), Geometry.pool(geometry.y_shape, 2, stride=1)]
    pools += [Geometry.pool(geometry.y_shape, 2, padding=1), Geometry.pool((1, 8, 8, 5), 2)]
    for pool in pools:
        with pytest.raises(ValueError, match="conv2d: pool is .* only 2x2 windows"):
            Conv(geometry, None, pool)
    conv = Conv(geometry, None, Geometry.pool(geometry.y_shape, 2))
    dy, mask = (device_backend.asarray(a) for a in (normal(*conv.y_shape), np.zeros(conv.y_shape, np.uint8)))
    with pytest.raises(ValueError, match="conv2d_input_grad: the gate's mask is none"):
        device_backend.conv2d_input_grad(dy, w, conv, Gate(None, None))
    whole = device_backend.asarray(normal(*geometry.y_shape))
    with pytest.raises(ValueError, match="conv2d_input_grad: the gate's mask is of shape .* but no pool is fused"):
        device_backend.conv2d_input_grad(whole, w, Conv(geometry), Gate(None, None, mask))


@pytest.mark.parametrize("filters", [20, 5])
def test_weight_grad_writes_and_accumulates_where_it_is_told(device_backend, reference, filters, normal, agrees):
    geometry = Geometry.conv((2, 7, 6, 4), (3, 3, 4, filters))
    dy, x, old, old_bias = normal(*geometry.y_shape), normal(2, 7, 6, 4), normal(3, 3, 4, filters), normal(filters)
    on, conv = device_backend.asarray, Conv(geometry)
    dw, db = reference.conv2d_weight_grad(dy, x, conv)
    arena = device_backend.full((old.size + filters + 7,), 3.0, np.float32)
    weight, bias = arena[3 : 3 + old.size].reshape(old.shape), arena[3 + old.size : 3 + old.size + filters]  # unaligned
    got = device_backend.conv2d_weight_grad(on(dy), on(x), conv, into=Into(weight, bias))
    assert got[0] is weight
    assert got[1] is bias
    agrees(weight, dw)
    device_backend.copy(on(old), out=weight)
    device_backend.copy(on(old_bias), out=bias)
    device_backend.conv2d_weight_grad(on(dy), on(x), conv, into=Into(weight, bias, add=True))
    agrees(weight, old + dw)
    agrees(bias, old_bias + db)
    ends = device_backend.to_numpy(arena)
    assert (ends[:3] == 3).all()
    assert (ends[-4:] == 3).all()
    assert device_backend.conv2d_weight_grad(on(dy), on(x), conv, into=Into(needs_bias=False))[1] is None
    for given, taken in (
        (Into(add=True), (0, 0)),
        (Into(on(old), add=True), (1, 0)),
        (Into(bias=on(old_bias), add=True), (0, 1)),
    ):
        got = device_backend.conv2d_weight_grad(on(dy), on(x), conv, into=given)
        agrees(got[0], taken[0] * old + dw)  # where there is no array, the gradient alone is the result
        agrees(got[1], taken[1] * old_bias + db)


@pytest.mark.parametrize(
    ("w_shape", "groups"), [((3, 3, 3, 20), 1), ((3, 3, 4, 20), 1), ((3, 3, 1, 20), 20)], ids=["3", "4", "depthwise"]
)
def test_nan_reaches_what_it_touches_and_nothing_else(device_backend, reference, w_shape, groups, normal, agrees):
    geometry = Geometry.conv((1, 9, 8, w_shape[2] * groups), w_shape, groups=groups)
    x, w, dy = normal(*geometry.x_shape), normal(*w_shape), normal(*geometry.y_shape)
    x[0, 4, 4, 1] = dy[0, 3, 3, 7] = np.nan
    on, relu = device_backend.asarray, Activation("relu")
    expected = reference.conv2d_forward(x, w, None, Conv(geometry, relu))[0]
    assert 0 < np.isnan(expected).sum() < expected.size
    agrees(device_backend.conv2d_forward(on(x), on(w), None, Conv(geometry, relu))[0], expected)
    expected = reference.conv2d_input_grad(dy, w, Conv(geometry))
    assert 0 < np.isnan(expected).sum() < expected.size
    agrees(device_backend.conv2d_input_grad(on(dy), on(w), Conv(geometry)), expected)
    expected = reference.conv2d_weight_grad(dy, x, Conv(geometry))
    got = device_backend.conv2d_weight_grad(on(dy), on(x), Conv(geometry))
    agrees(got[0], expected[0])
    agrees(got[1], expected[1])


@pytest.mark.parametrize(("shape", "filters"), [((3, 27, 27, 1), 4), ((3, 5, 5, 4), 8), ((3, 3, 3, 3), 12)])
def test_any_alignment_is_taken(device_backend, reference, shape, filters, normal, agrees):
    whole, w = normal(*shape), normal(2, 2, shape[3], filters)
    geometry = Geometry.conv((2, *shape[1:]), w.shape)
    x = device_backend.asarray(whole)[1:]  # 27 x 27 x 1 floats in: not at 16 bytes
    agrees(
        device_backend.conv2d_forward(x, device_backend.asarray(w), None, Conv(geometry))[0],
        reference.conv2d_forward(whole[1:], w, None, Conv(geometry))[0],
    )
    flat = device_backend.asarray(np.concatenate([np.zeros(1, np.float32), whole.ravel()]))
    shifted = flat[1:].reshape(shape)  # one float in: never at 16 bytes
    geometry = Geometry.conv(shape, w.shape)
    dy = normal(*geometry.y_shape)
    agrees(
        device_backend.conv2d_weight_grad(device_backend.asarray(dy), shifted, Conv(geometry))[0],
        reference.conv2d_weight_grad(dy, whole, Conv(geometry))[0],
    )


@pytest.mark.parametrize(("w_shape", "groups"), [((3, 3, 8, 20), 1), ((3, 3, 1, 8), 8)], ids=["", "depthwise"])
def test_a_sum_has_one_order(device_backend, normal, w_shape, groups):
    geometry = Geometry.conv((4, 16, 16, 8), w_shape, padding=1, groups=groups)
    dy, x = device_backend.asarray(normal(*geometry.y_shape)), device_backend.asarray(normal(4, 16, 16, 8))
    first, second = (
        device_backend.to_numpy(device_backend.conv2d_weight_grad(dy, x, Conv(geometry))[0]) for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)
