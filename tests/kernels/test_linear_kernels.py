"""Dense layers: heads with their loss, and weight gradients of several layers in one launch."""

import numpy as np
import pytest

from gpunet.backends.contract import NEW, Activation, CrossEntropy, Gate, Into, LinearGrad, Product
from gpunet.backends.cuda.linear import HEAD_ROWS, JOINED, LAYERS

MOST_ROWS = JOINED["linear_weight_grads"].rows

EXTENTS = [(1, 1, 1), (7, 9, 5), (64, 32, 32), (65, 33, 31), (128, 84, 10), (130, 20, 36), (63, 8, 100), (300, 40, 68)]
"""(rows, inputs, outputs)."""
EVERY = [None, Activation("relu"), Activation("tanh"), Activation("hard_sigmoid")]


def formula(dy, x, y=None, activation=None):
    """(dw, db) in float64."""
    dy, x = dy.astype(np.float64), x.astype(np.float64)
    if activation is not None:
        slope = {"relu": y > 0, "tanh": 1 - y * y, "hard_sigmoid": np.where((y > 0) & (y < 1), 1 / 6, 0)}
        dy = dy * slope[activation.name]
    return x.T @ dy, dy.sum(axis=0)


@pytest.mark.parametrize("activation", EVERY, ids=str)
@pytest.mark.parametrize("extents", EXTENTS, ids=str)
def test_one_layer(device_backend, extents, activation, normal, agrees):
    rows, inputs, outputs = extents
    on, dy, x = device_backend.asarray, normal(rows, outputs), normal(rows, inputs)
    y = np.clip(np.tanh(normal(rows, outputs)), 0, 1)
    gate = None if activation is None else Gate(on(y), activation)
    ((dw, db),) = device_backend.linear_weight_grads([LinearGrad(on(dy), on(x), gate)])
    expected = formula(dy, x, y, activation)
    agrees(dw, expected[0])
    agrees(db, expected[1])


def layers_of(device, normal, into=lambda *shapes: NEW):
    on = device.asarray
    made = []
    for i, (rows, inputs, outputs) in enumerate([*EXTENTS, (MOST_ROWS + 1, 4, 4)]):
        gate = Gate(on(np.tanh(normal(rows, outputs))), EVERY[i % 3]) if i % 3 else None
        where = into((inputs, outputs), (outputs,))
        made.append(LinearGrad(on(normal(rows, outputs)), on(normal(rows, inputs)), gate, where))
    return made


def test_a_layer_gets_the_same_numbers_alone_and_beside_others(device_backend, normal):
    layers, to_numpy = layers_of(device_backend, normal), device_backend.to_numpy
    assert len(layers) > 2 * LAYERS
    alone = [device_backend.linear_weight_grads([layer])[0] for layer in layers]
    for one, other in zip(alone, device_backend.linear_weight_grads(layers), strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(to_numpy(a), to_numpy(b))


def test_gradients_are_written_and_added_where_they_belong(device_backend, normal, agrees):
    on, held = device_backend.asarray, []

    def place(w_shape, b_shape):
        held.append((normal(*w_shape), normal(*b_shape)))
        return Into(on(held[-1][0]), on(held[-1][1]), add=len(held) % 2 == 0)

    layers = layers_of(device_backend, normal, place)
    for layer, (dw, db), (w, b) in zip(layers, device_backend.linear_weight_grads(layers), held, strict=True):
        assert dw is layer.into.weight
        assert db is layer.into.bias
        dy, x = (device_backend.to_numpy(a) for a in layer[:2])
        gate = () if layer.gate is None else (device_backend.to_numpy(layer.gate.y), layer.gate.activation)
        expected = formula(dy, x, *gate)
        agrees(dw, expected[0] + layer.into.add * w)
        agrees(db, expected[1] + layer.into.add * b)


def test_a_bias_that_is_not_needed_has_no_gradient(device_backend, normal, agrees):
    on, dy, x = device_backend.asarray, normal(33, 20), normal(33, 12)
    ((dw, db),) = device_backend.linear_weight_grads([LinearGrad(on(dy), on(x), into=Into(needs_bias=False))])
    assert db is None
    agrees(dw, formula(dy, x)[0])


def test_without_rows_the_gradients_are_zeros(device_backend, normal):
    on = device_backend.asarray
    for inputs, outputs in ((3, 5), (0, 5), (3, 0)):
        ((dw, db),) = device_backend.linear_weight_grads([LinearGrad(on(normal(0, outputs)), on(normal(0, inputs)))])
        np.testing.assert_array_equal(device_backend.to_numpy(dw), np.zeros((inputs, outputs)))
        np.testing.assert_array_equal(device_backend.to_numpy(db), np.zeros(outputs))


@pytest.mark.parametrize("which", ["dy", "y", "x"])
def test_unaligned_arrays(device_backend, which, normal, agrees):
    arrays = {"dy": normal(20, 36), "y": np.tanh(normal(20, 36)), "x": normal(20, 8)}
    placed = {name: device_backend.asarray(a) for name, a in arrays.items()}
    whole = np.concatenate([np.zeros(1, np.float32), arrays[which].ravel()])
    placed[which] = device_backend.asarray(whole)[1:].reshape(arrays[which].shape)
    layer = LinearGrad(placed["dy"], placed["x"], Gate(placed["y"], Activation("tanh")))
    ((dw, db),) = device_backend.linear_weight_grads([layer])
    expected = formula(arrays["dy"], arrays["x"], arrays["y"], Activation("tanh"))
    agrees(dw, expected[0])
    agrees(db, expected[1])


def test_nan_reaches_its_row_and_column_alone(device_backend, normal, agrees):
    on, dy, x = device_backend.asarray, normal(70, 20), normal(70, 40)
    dy[65, 3], x[1, 7] = np.nan, np.nan
    ((dw, db),) = device_backend.linear_weight_grads([LinearGrad(on(dy), on(x))])
    assert np.isnan(x.T @ dy).sum() == 40 + 20 - 1
    agrees(dw, x.T @ dy)
    agrees(db, dy.sum(axis=0))


def test_sums_of_many_positive_terms_keep_their_digits(device_backend):
    rows = np.full((MOST_ROWS, 3), np.float32(0.1))
    on = device_backend.asarray
    ((dw, db),) = device_backend.linear_weight_grads([LinearGrad(on(rows), on(rows))])
    one = float(np.float32(0.1))
    np.testing.assert_allclose(device_backend.to_numpy(dw), np.full((3, 3), MOST_ROWS * one * one), rtol=1e-6)
    np.testing.assert_allclose(device_backend.to_numpy(db), np.full(3, MOST_ROWS * one), rtol=1e-6)


def test_shapes_that_do_not_fit_are_refused(device_backend, normal):
    on = device_backend.asarray
    with pytest.raises(ValueError, match=r"dy has shape \(4, 2\) and x \(5, 3\) but take \(N, O\) and \(N, I\)"):
        device_backend.linear_weight_grads([LinearGrad(on(normal(4, 2)), on(normal(5, 3)))])
    with pytest.raises(ValueError, match=r"weight has shape \(2, 3\) but takes \(3, 2\)"):
        device_backend.linear_weight_grads(
            [LinearGrad(on(normal(4, 2)), on(normal(4, 3)), into=Into(on(normal(2, 3))))]
        )


# ---- a head and its loss

HEADS = [(1, 1, 1), (HEAD_ROWS, 7, 10), (HEAD_ROWS + 1, 84, 10), (128, 128, 32), (1024, 5, 3), (33, 256, 16), (5, 0, 4)]
"""(rows, inputs, outputs)."""
OPTIONS = {
    "plain": CrossEntropy(),
    "smoothed": CrossEntropy(smoothing=0.1),
    "weighted": CrossEntropy(weight=np.linspace(0.5, 2, 32, dtype=np.float32), ignore_index=0),
    "sum": CrossEntropy(reduction="sum", gain=4.0),
    "none": CrossEntropy(reduction="none", ignore_index=0),
}


def placed(device, options, outputs):
    weight = None if options.weight is None else device.asarray(options.weight[:outputs].copy())
    return options._replace(weight=weight)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("extents", HEADS, ids=str)
def test_a_head_with_its_loss_has_the_numbers_of_the_primitives_one_by_one(
    device_backend, extents, options, dtype, normal, rng, agrees
):
    (rows, inputs, outputs), on = extents, device_backend.asarray
    x, w, b = (on(a.astype(np.dtype(dtype))) for a in (normal(rows, inputs), normal(inputs, outputs), normal(outputs)))
    labels = on(rng.integers(0, outputs, rows).astype(np.int32))
    chosen = placed(device_backend, OPTIONS[options], outputs)
    logits, parts, dx = device_backend.linear_cross_entropy(x, w, b, labels, chosen)

    def same(got, alone, name):
        # in 16 bits the product alone is one of the tensor cores, which add up in another order
        if dtype == "float32":
            np.testing.assert_array_equal(device_backend.to_numpy(got), device_backend.to_numpy(alone), name)
        else:
            agrees(got, device_backend.to_numpy(alone), {"float16": 5e-4, "bfloat16": 4e-3}[dtype])

    same(logits, device_backend.linear_forward(x, w, b), "logits")
    alone = device_backend.softmax_cross_entropy(logits, labels, chosen)
    for name, got, expected in zip(("loss", "dlogits", "correct"), parts, alone, strict=True):
        np.testing.assert_array_equal(device_backend.to_numpy(got), device_backend.to_numpy(expected), name)
    same(dx, device_backend.matmul(parts[1], w, Product(transpose_b=True)), "dx")


@pytest.mark.parametrize("extents", HEADS, ids=str)
def test_a_head_is_a_product_and_a_bias(device_backend, extents, normal, agrees):
    (rows, inputs, outputs), on = extents, device_backend.asarray
    x, w, b = normal(rows, inputs), normal(inputs, outputs), normal(outputs)
    agrees(device_backend.linear_forward(on(x), on(w), on(b)), x.astype(np.float64) @ w + b)
    agrees(device_backend.linear_forward(on(x), on(w), None), x.astype(np.float64) @ w)
    tanh = device_backend.linear_forward(on(x), on(w), on(b), Activation("tanh"))
    agrees(tanh, np.tanh(x.astype(np.float64) @ w + b))


def test_without_a_gradient_of_x_there_is_none(device_backend, normal):
    on = device_backend.asarray
    x, w, labels = on(normal(20, 6)), on(normal(6, 3)), on(np.arange(20, dtype=np.int32) % 3)
    logits, parts, dx = device_backend.linear_cross_entropy(x, w, None, labels, needs_dx=False)
    assert dx is None
    alone = device_backend.linear_forward(x, w, None)
    np.testing.assert_array_equal(device_backend.to_numpy(logits), device_backend.to_numpy(alone))
    _, dlogits, _ = device_backend.softmax_cross_entropy(alone, labels, CrossEntropy())
    np.testing.assert_array_equal(device_backend.to_numpy(parts[1]), device_backend.to_numpy(dlogits))


@pytest.mark.parametrize("spoil", ["x", "label"])
def test_nan_and_a_label_that_is_no_class_reach_the_loss(device_backend, normal, spoil):
    on, to_numpy = device_backend.asarray, device_backend.to_numpy
    x, labels = normal(40, 6), np.arange(40, dtype=np.int32) % 3
    if spoil == "x":
        x[17, 2] = np.nan
    else:
        labels[17] = 3
    logits, (loss, dlogits, _), dx = device_backend.linear_cross_entropy(on(x), on(normal(6, 3)), None, on(labels))
    assert np.isnan(to_numpy(loss))
    rows = np.zeros(40, bool)
    rows[17] = spoil == "x"
    np.testing.assert_array_equal(np.isnan(to_numpy(logits)).all(axis=1), rows)
    if spoil == "x":
        np.testing.assert_array_equal(np.isnan(to_numpy(dlogits)).all(axis=1), rows)
        np.testing.assert_array_equal(np.isnan(to_numpy(dx)).all(axis=1), rows)


def test_the_loss_is_the_same_each_time(device_backend, normal):
    on = device_backend.asarray
    x, w, labels = on(normal(500, 9)), on(normal(9, 5)), on(np.arange(500, dtype=np.int32) % 5)
    losses = [device_backend.linear_cross_entropy(x, w, None, labels)[1][0] for _ in range(3)]
    assert len({device_backend.to_numpy(loss).tobytes() for loss in losses}) == 1  # the counter is zero again


def test_a_head_that_does_not_fit_is_refused(device_backend, normal):
    on = device_backend.asarray
    x, w = on(normal(4, 6)), on(normal(6, 3))
    with pytest.raises(ValueError, match=r"labels have shape \(5,\) but take \(4,\)"):
        device_backend.linear_cross_entropy(x, w, None, on(np.zeros(5, np.int32)))
    with pytest.raises(ValueError, match=r"has shape \(2,\) but takes \(3,\)"):
        device_backend.linear_forward(x, w, on(normal(2)))
