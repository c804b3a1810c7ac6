"""Corners of ONNX's operators: dtypes, opsets and attributes where it is easy to compute something else in silence."""

import numpy as np
import pytest
from helpers.onnx_graphs import model, node, numbers, run_by_onnxruntime, saved

import gpunet as gp
from gpunet import functional as F
from gpunet import optim

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
from gpunet.interop.onnx import load  # noqa: E402 - after the check

KINDS = {"float32": 1, "uint8": 2, "int32": 6, "int64": 7, "bool": 9, "float64": 11}


def graph(nodes, inputs, constants=(), *, opset=17, outputs="y"):
    """A ModelProto that takes arrays like these and declares nothing of its outputs but their names."""
    ports = {name: ([None] * array.ndim, KINDS[array.dtype.name]) for name, array in inputs.items()}
    made = model(nodes, ports, dict.fromkeys(outputs.split(",")), constants, opset=opset)
    for port in made.graph.output:
        port.type.Clear()
    return made


def loaded(nodes, inputs, constants=(), *, tmp_path, layout="file", **options):
    return load(saved(graph(nodes, inputs, constants, **options), tmp_path / "m.onnx"), layout=layout)


def check_as_onnxruntime(nodes, inputs, constants=(), *, tmp_path, **options):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    (theirs,) = run_by_onnxruntime(graph(nodes, inputs, constants, **options), *inputs.values())
    ours = loaded(nodes, inputs, constants, tmp_path=tmp_path, **options)(*inputs.values()).numpy()
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


INTEGERS = np.arange(40).reshape(1, 2, 5, 4)
SIDES = np.array([0, 0, 1, 2, 0, 0, 1, 0])


@pytest.mark.parametrize(
    ("made", "constants"),
    [
        (node("Pad", "x,s", "y"), {"s": SIDES}),
        (node("Pad", "x,s", "y", mode="edge"), {"s": SIDES}),
        (node("Pad", "x,s", "y", mode="reflect"), {"s": SIDES}),
        (node("Expand", "x,s", "y"), {"s": np.array([3, 2, 5, 4])}),
        (node("Expand", "x,s", "y"), {"s": np.array([1])}),
        (node("MatMul", "x,s", "y"), {"s": np.arange(8).reshape(4, 2)}),
        (node("Tile", "x,s", "y"), {"s": np.array([1, 2, 1, 2])}),
        (node("Gather", "x,s", "y", axis=2), {"s": np.array([0, -1])}),
    ],
)
def test_integers_stay_integers(tmp_path, made, constants):
    check_as_onnxruntime([made], {"x": INTEGERS}, constants, tmp_path=tmp_path)


@pytest.mark.parametrize("scale", [0.6, 1.5])
@pytest.mark.parametrize("opset", [10, 11])
def test_nearest_pixels_are_those_of_onnxruntime_for_fractional_scales(tmp_path, rng, scale, opset):
    scales = np.array([1, 1, scale, scale], np.float32)
    where = "x,scales" if opset == 10 else "x,roi,scales"
    more = {} if opset == 10 else {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    check_as_onnxruntime(
        [node("Resize", where, "y", **more)],
        {"x": numbers(rng, 2, 3, 7, 6)},
        {"scales": scales} | ({} if opset == 10 else {"roi": np.zeros(0, np.float32)}),
        opset=opset,
        tmp_path=tmp_path,
    )


def test_no_images_are_resized_to_no_images(tmp_path):
    x = np.zeros((0, 3, 4, 4), np.float32)
    sizes = {"s": np.array([0, 3, 8, 2])}
    check_as_onnxruntime([node("Resize", "x,,,s", "y", mode="linear")], {"x": x}, sizes, tmp_path=tmp_path)


@pytest.mark.parametrize("auto_pad", ["NOTSET", "SAME_UPPER", "SAME_LOWER"])
def test_an_odd_row_is_cut_where_onnx_says(tmp_path, rng, auto_pad):
    made = node("ConvTranspose", "x,w", "y", strides=[2, 2], output_shape=[15, 11], auto_pad=auto_pad)
    x, w = numbers(rng, 1, 2, 7, 5), {"w": numbers(rng, 2, 3, 4, 4)}
    check_as_onnxruntime([made], {"x": x}, w, tmp_path=tmp_path)


@pytest.mark.parametrize("operator", ["ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceSum", "ReduceMax"])
def test_a_reduction_over_no_axes_still_computes_its_function(tmp_path, rng, operator):
    made = node(operator, "x,axes", "y", noop_with_empty_axes=1)
    check_as_onnxruntime(
        [made], {"x": numbers(rng, 2, 3)}, {"axes": np.zeros(0, np.int64)}, opset=18, tmp_path=tmp_path
    )


def test_a_step_with_groups_of_an_old_file_is_captured(tmp_path, rng, cuda_name):
    nodes = [node("GroupNormalization", "x,s,b", "h", num_groups=2), node("GlobalAveragePool", "h", "p")]
    nodes += [node("Flatten", "p", "f"), node("MatMul", "f,w", "y")]
    x, labels = numbers(rng, 8, 4, 5, 3), rng.integers(0, 2, 8)
    weights = {"s": numbers(rng, 2), "b": numbers(rng, 2), "w": numbers(rng, 4, 2)}
    losses = []
    for capture in (True, False):
        ours = loaded(nodes, {"x": x}, weights, opset=18, tmp_path=tmp_path)
        trainer = gp.Trainer(
            ours, optim.SGD(ours.parameters(), lr=0.1), loss=F.cross_entropy, backend=cuda_name, capture=capture
        )
        losses.append(trainer.fit(gp.data.DataLoader(gp.data.ArrayDataset(x, labels), 4), epochs=2)["loss"])
    assert losses[0] == losses[1]


@pytest.mark.parametrize("shape", [(6,), (1,), (5, 1), (4, 5, 6), (5, 6)])
def test_the_scale_of_a_layer_norm_broadcasts(tmp_path, rng, shape):
    made = node("LayerNormalization", "x,s,b", "y", axis=2)
    constants = {"s": numbers(rng, *shape), "b": numbers(rng, *shape)}
    check_as_onnxruntime([made], {"x": numbers(rng, 2, 4, 5, 6)}, constants, tmp_path=tmp_path)


def test_the_mean_of_nothing_is_nan_without_a_warning(tmp_path):
    x = np.zeros((0, 3), np.float32)
    y = loaded([node("ReduceMean", "x", "y", axes=[0])], {"x": x}, tmp_path=tmp_path)(x)
    assert np.isnan(y.numpy()).all()


def test_a_slice_backwards_from_before_the_first_element_has_that_element(tmp_path, rng):
    made = node("Slice", "x,starts,ends,axes,steps", "y")
    spans = {"starts": [-100], "ends": [-200], "axes": [0], "steps": [-1]}
    constants = {name: np.array(value) for name, value in spans.items()}
    check_as_onnxruntime([made], {"x": numbers(rng, 5, 4)}, constants, tmp_path=tmp_path)


def test_a_constant_base_to_the_power_of_a_tensor_has_a_gradient(tmp_path, rng):
    values = rng.normal(size=(2, 3))
    ours = loaded([node("Pow", "base,x", "y")], {"x": values}, {"base": np.array(3.0)}, tmp_path=tmp_path)
    x = gp.tensor(values, requires_grad=True)
    ours(x).sum().backward()
    np.testing.assert_allclose(x.grad, np.log(3) * 3**values, rtol=1e-12)


def test_a_scaled_weight_is_trained(tmp_path, rng):
    nodes = [node("Mul", "w,half", "v"), node("MatMul", "x,v", "y")]
    x = numbers(rng, 2, 3)
    ours = loaded(nodes, {"x": x}, {"w": numbers(rng, 3, 4), "half": np.float32(0.5)}, tmp_path=tmp_path)
    ours(x).sum().backward()
    (w,) = ours.parameters()
    np.testing.assert_allclose(w.grad, 0.5 * np.repeat(x.sum(0)[:, None], 4, 1), rtol=1e-5)


def test_equal_weights_that_pytorch_writes_as_an_identity_do_not_share_memory(tmp_path, rng):
    nodes = [node("Identity", "w", "v"), node("MatMul", "x,w", "h"), node("MatMul", "h,v", "y")]
    x = numbers(rng, 2, 3)
    ours = loaded(nodes, {"x": x}, {"w": numbers(rng, 3, 3)}, tmp_path=tmp_path)
    w, v = (ours.weights[name] for name in "wv")
    before = v.numpy().copy()
    w.data[:] = 0
    np.testing.assert_array_equal(v.numpy(), before)


def test_copies_that_identities_make_are_limited(tmp_path, rng):
    w = np.zeros((1024, 1024), np.float32)
    nodes = [node("Identity", "w", f"v{i}") for i in range(5)] + [node("MatMul", "x,w", "y")]
    with pytest.raises(ValueError, match="copies of initializers take 20971520 bytes, but these 4194304"):
        loaded(nodes, {"x": numbers(rng, 1, 1024)}, {"w": w}, tmp_path=tmp_path)


@pytest.mark.parametrize("layout", ["file", "NHWC"])
def test_images_of_bytes_are_taken(tmp_path, rng, layout):
    x = rng.integers(0, 256, (2, 3, 4, 5)).astype(np.uint8)
    nodes = [node("Cast", "x", "c", to=1), node("Div", "c,most", "d"), node("Conv", "d,w", "y")]
    constants = {"most": np.float32(255), "w": numbers(rng, 4, 3, 1, 1)}
    ours = loaded(nodes, {"x": x}, constants, tmp_path=tmp_path, layout=layout)
    expected = np.einsum("nchw,oc->nohw", x / 255, constants["w"][:, :, 0, 0])
    if layout == "NHWC":
        x, expected = x.transpose(0, 2, 3, 1), expected.transpose(0, 2, 3, 1)
    np.testing.assert_allclose(ours(x).numpy(), expected, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="x holds numbers that uint8 cannot"):
        ours(x.astype(np.int64) + 200)


def test_a_model_without_weights_computes_where_its_inputs_are(tmp_path, rng, backend):
    nodes = [node("Where", "mask,x,zero", "y")]
    mask, x = np.array([True, False, True]), numbers(rng, 3)
    ours = loaded(nodes, {"mask": mask, "x": x}, {"zero": np.float32(0)}, tmp_path=tmp_path)
    y = ours(mask, gp.tensor(x, backend=backend))
    assert y.backend is backend
    np.testing.assert_array_equal(y.numpy(), np.where(mask, x, 0))


def test_extents_that_a_file_declares_as_negative_are_free(tmp_path, rng):
    made = model([node("Relu", "x", "y")], {"x": [-1, 3]}, {"y": [-1, 3]})
    x = numbers(rng, 2, 3)
    np.testing.assert_array_equal(load(saved(made, tmp_path / "m.onnx"))(x).numpy(), np.maximum(x, 0))


IMAGES = np.ones((1, 2, 4, 4), np.float32)


@pytest.mark.parametrize(
    ("made", "constants", "opset", "says"),
    [
        (node("Softmax", "x", "y", "n", axis=4), {}, 13, "axis is 4 but the value has 4 axes"),
        (node("Softmax", "x", "y", "n", axis=7), {}, 11, "axis is 7 but the value has 4 axes"),
        (node("Resize", "x,,s", "y", "n", axes=[4]), {"s": np.ones(1, np.float32)}, 18, "axis is 4 but"),
        (node("LpPool", "x", "y", "n", kernel_shape=[2, 2], p=0), {}, 18, "attribute p is 0 but must be positive"),
        (node("GlobalLpPool", "x", "y", "n", p=0), {}, 17, "attribute p is 0 but must be positive"),
        (node("Celu", "x", "y", "n", alpha=-1.0), {}, 17, "attribute alpha is -1.0 but must be positive"),
        (
            node("MaxPool", "x", "y", "n", kernel_shape=[2, 2], strides=[0, 1], auto_pad="SAME_UPPER"), {}, 17,
            r"attribute strides is \[0, 1\] but must be positive",
        ),
        (
            node("MaxPool", "x", "y", "n", kernel_shape=[2, 2], pads=[2**40, 0, 0, 0]), {}, 17,
            "a result of shape .* has more than",
        ),
        (
            node("ConvTranspose", "x,w", "y", "n", strides=[2**40, 1]), {"w": IMAGES.reshape(2, 1, 4, 4)}, 17,
            "a result of shape .* has more than",
        ),
        (
            node("GroupNormalization", "x,s,s", "y", "n", num_groups=0), {"s": np.ones(2, np.float32)}, 18,
            "0 groups with scales of shape .2,. do not fit 2 channels",
        ),
        (node("Split", "x", "y", "n", num_outputs=2**40), {}, 18, "num_outputs is 1099511627776 but the node has 1"),
    ],
)  # fmt: skip
def test_attributes_that_mean_nothing_are_refused_by_name(tmp_path, made, constants, opset, says):
    ours = loaded([made], {"x": IMAGES}, constants, tmp_path=tmp_path, opset=opset)
    with pytest.raises(ValueError, match=rf"node 'n' \({made.op_type}\): .*{says}"):
        ours(IMAGES)


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (node("Concat", "x", "y", "n", axis=1.5), "attribute axis is 1.5 but takes an integer"),
        (node("Elu", "x", "y", "n", alpha="much"), "attribute alpha is 'much' but takes a number"),
        (node("Constant", "", "y", "n", value=3.0), "attribute value is 3.0 but takes an array"),
        (node("MaxPool", "x", "y", "n", kernel_shape=3), "attribute kernel_shape is 3 but takes integers"),
        (node("Dropout", "x", "", "n"), "has no outputs"),
    ],
)
def test_attributes_of_another_kind_are_refused_when_the_file_is_read(tmp_path, made, says):
    if made.op_type == "Constant":
        del made.input[:]
    with pytest.raises(ValueError, match=rf"node 'n' \({made.op_type}\): {says}"):
        loaded([made], {"x": IMAGES}, tmp_path=tmp_path)
