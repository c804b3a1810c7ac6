"""Models made of ONNX files: they run as onnxruntime does, on every backend, and are trained."""

import copy
import pickle

import numpy as np
import pytest
from helpers.onnx_graphs import cnn, model, node, numbers, run_by_onnxruntime, saved

import gpunet as gp
from gpunet import functional as F
from gpunet import nn, optim
from gpunet.autograd import watching

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
from gpunet.interop.onnx import load  # noqa: E402 - after the check


def error(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


@pytest.mark.parametrize("layout", ["NHWC", "file"])
def test_a_cnn_computes_what_onnxruntime_does(tmp_path, rng, backend, layout):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    made, x = cnn(rng), numbers(rng, 4, 3, 9, 8)
    ours = load(saved(made, tmp_path / "cnn.onnx"), layout=layout).to(backend)
    images = x.transpose(0, 2, 3, 1) if layout == "NHWC" else x
    y = ours(gp.tensor(images, backend=backend))
    assert error(y.numpy(), run_by_onnxruntime(made, x)[0]) < 1e-5


@pytest.mark.parametrize("opset", [9, 10, 13, 21, 28])
def test_old_and_new_files_are_read(tmp_path, rng, opset):
    shrink = node(
        "ReduceMean", "x" if opset < 18 else "x,axes", "y", keepdims=0, **({"axes": [2, 3]} if opset < 18 else {})
    )
    made = model(
        [shrink], {"x": [2, 3, 4, 5]}, {"y": [2, 3]}, {"axes": np.array([2, 3])} if opset >= 18 else {}, opset=opset
    )
    x = numbers(rng, 2, 3, 4, 5)
    y = load(saved(made, tmp_path / "m.onnx"), layout="file")(x)
    np.testing.assert_allclose(y.numpy(), x.mean((2, 3)), rtol=1e-5)


@pytest.mark.parametrize("opset", [8, 29])
def test_other_opsets_are_refused(tmp_path, opset):
    made = model([node("Relu", "x", "y")], {"x": [1]}, {"y": [1]}, opset=opset)
    with pytest.raises(ValueError, match=rf"m\.onnx: takes opset {opset}, but gpunet reads opsets 9 to 28"):
        load(saved(made, tmp_path / "m.onnx"))


def test_gradients_are_those_of_the_same_model_written_in_gpunet(tmp_path, rng):
    weights = {"w": numbers(rng, 4, 3, 3, 3), "b": numbers(rng, 4), "v": numbers(rng, 4, 2), "c": numbers(rng, 2)}
    nodes = [
        node("Conv", "x,w,b", "h", pads=[1, 1, 1, 1]), node("Sigmoid", "h", "s"), node("GlobalAveragePool", "s", "p"),
        node("Flatten", "p", "f"), node("MatMul", "f,v", "m"), node("Add", "m,c", "y"),
    ]  # fmt: skip
    ours = load(saved(model(nodes, {"x": ["n", 3, 6, 5]}, {"y": ["n", 2]}, weights), tmp_path / "m.onnx"))
    assert [name for name, _ in ours.named_parameters()] == ["w", "b", "v", "c"]
    same = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.Sigmoid(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    same.load_state_dict(
        {
            "0.weight": weights["w"].transpose(2, 3, 1, 0),
            "0.bias": weights["b"],
            "4.weight": weights["v"],
            "4.bias": weights["c"],
        }
    )
    x, labels = numbers(rng, 5, 6, 5, 3), np.array([0, 1, 1, 0, 1])
    for net in (ours, same):
        F.cross_entropy(net(x), labels).backward()
    for mine, its in zip(ours.parameters(), same.parameters(), strict=True):
        np.testing.assert_allclose(mine.grad, its.grad, rtol=1e-4, atol=1e-6)


def test_a_model_is_trained_and_saved_like_any_other(tmp_path, rng):
    ours = load(saved(cnn(rng), tmp_path / "cnn.onnx"))
    x, labels = numbers(rng, 32, 9, 8, 3), rng.integers(0, 5, 32)
    trainer = gp.Trainer(ours, optim.Adam(ours.parameters(), lr=0.01), loss=F.cross_entropy)
    history = trainer.fit(gp.data.DataLoader(gp.data.ArrayDataset(x, labels), 16, shuffle=True), epochs=15)
    assert history["loss"][-1] < history["loss"][0] / 3
    gp.interop.save_weights(tmp_path / "w.safetensors", ours)
    again = load(tmp_path / "cnn.onnx")
    assert error(again(x).numpy(), ours.eval()(x).numpy()) > 0.1
    gp.interop.load_weights(tmp_path / "w.safetensors", again)
    np.testing.assert_array_equal(again(x).numpy(), ours(x).numpy())


def test_a_step_of_a_loaded_model_is_captured(tmp_path, rng, cuda_name):
    losses = []
    for capture in (True, False):
        ours = load(saved(cnn(np.random.default_rng(0)), tmp_path / "cnn.onnx"))
        x, labels = numbers(rng := np.random.default_rng(1), 8, 9, 8, 3), rng.integers(0, 5, 8)
        trainer = gp.Trainer(
            ours, optim.SGD(ours.parameters(), lr=0.01), loss=F.cross_entropy, backend=cuda_name, capture=capture
        )
        losses.append(trainer.fit(gp.data.DataLoader(gp.data.ArrayDataset(x, labels), 4), epochs=2)["loss"])
    assert losses[0] == losses[1]


def test_batch_norm_and_dropout_follow_the_mode(tmp_path, rng):
    weights = {
        "s": np.ones(3, np.float32),
        "b": np.zeros(3, np.float32),
        "m": np.zeros(3, np.float32),
        "v": np.ones(3, np.float32),
    }
    nodes = [node("BatchNormalization", "x,s,b,m,v", "h", momentum=0.75), node("Dropout", "h,p", "y")]
    made = model(nodes, {"x": [64, 3, 4, 4]}, {"y": [64, 3, 4, 4]}, weights | {"p": np.array(0.25, np.float32)})
    ours, x = load(saved(made, tmp_path / "m.onnx")), numbers(rng, 64, 4, 4, 3) + 2
    np.testing.assert_allclose(ours(x).numpy(), x / np.sqrt(1 + 1e-5), rtol=1e-6)
    trained = ours.train()(x).numpy()
    assert 0.2 < (trained == 0).mean() < 0.3
    np.testing.assert_allclose(ours.weights["m"].numpy(), 0.25 * x.mean((0, 1, 2)), rtol=1e-5)
    assert [name for name, _ in ours.named_buffers()] == ["m", "v"]


def transposes(run):
    """Names of the operations that move elements to another order while something runs."""
    seen = []
    with watching(lambda function, _: seen.append(function.name)):
        run()
    return seen.count("transpose")


def test_images_are_transposed_only_where_the_graph_leaves_them(tmp_path, rng):
    path, x = saved(cnn(rng), tmp_path / "cnn.onnx"), numbers(rng, 2, 9, 8, 3)
    ours = load(path)
    assert transposes(lambda: ours(x)) == 1  # before the dense layer, which the file feeds with (C, H, W)
    as_in_the_file = load(path, layout="file")
    assert transposes(lambda: as_in_the_file(x.transpose(0, 3, 1, 2))) == 2


def test_a_transposition_in_the_file_moves_nothing(tmp_path, rng):
    nodes = [
        node("Transpose", "x", "a", perm=[0, 3, 1, 2]), node("Conv", "a,w", "b"), node("Relu", "b", "c"),
        node("Transpose", "c", "y", perm=[0, 2, 3, 1]),
    ]  # fmt: skip
    w, x = numbers(rng, 4, 3, 2, 2), numbers(rng, 2, 5, 6, 3)
    ours = load(
        saved(model(nodes, {"x": [2, 5, 6, 3]}, {"y": [2, 4, 5, 4]}, {"w": w}), tmp_path / "m.onnx"), layout="file"
    )
    assert transposes(lambda: ours(x)) == 0
    np.testing.assert_allclose(
        ours(x).numpy(), F.relu(F.conv2d(gp.tensor(x), w.transpose(2, 3, 1, 0))).numpy(), rtol=1e-5
    )


def test_several_inputs_and_outputs_keep_their_order_and_dtypes(tmp_path, rng):
    nodes = [
        node("Gather", "table,index", "rows"),
        node("Less", "rows,limit", "small"),
        node("ArgMax", "rows", "best", axis=1),
    ]
    made = model(
        nodes, {"index": (["n"], 7), "limit": [1]}, {"rows": ["n", 3], "small": (["n", 3], 9), "best": (["n", 1], 7)},
        {"table": numbers(rng, 5, 3)},
    )  # fmt: skip
    ours = load(saved(made, tmp_path / "m.onnx"))
    rows, small, best = ours(np.array([4, 0]), np.array([0.5], np.float32))
    table = ours.weights["table"].numpy()
    np.testing.assert_array_equal(rows.numpy(), table[[4, 0]])
    np.testing.assert_array_equal(small.numpy(), table[[4, 0]] < 0.5)
    np.testing.assert_array_equal(best.numpy()[:, 0], table[[4, 0]].argmax(1))
    assert (rows.dtype, small.dtype, best.dtype) == (np.float32, np.bool_, np.int64)


def test_weights_that_two_layers_share_are_one_parameter(tmp_path, rng):
    nodes = [node("MatMul", "x,w", "a"), node("MatMul", "a,w", "y")]
    ours = load(saved(model(nodes, {"x": [2, 3]}, {"y": [2, 3]}, {"w": numbers(rng, 3, 3)}), tmp_path / "m.onnx"))
    x = gp.tensor(numbers(rng, 2, 3))
    ours(x).sum().backward()
    (w,) = ours.parameters()
    left, ones = x.numpy() @ w.numpy(), np.ones((2, 3), np.float32)
    np.testing.assert_allclose(w.grad, left.T @ ones + x.numpy().T @ (ones @ w.numpy().T), rtol=1e-5)


def test_copies_and_pickles_are_whole(tmp_path, rng):
    ours, x = load(saved(cnn(rng), tmp_path / "cnn.onnx")), numbers(rng, 2, 9, 8, 3)
    before = ours(x).numpy()
    twins = copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))
    ours.parameters()[0].data[:] = 0
    for twin in twins:
        np.testing.assert_array_equal(twin(x).numpy(), before)


def test_float64_files_are_computed_in_float64(tmp_path, rng):
    nodes = [node("Conv", "x,w", "h"), node("Mul", "h,half", "y")]
    w, x = rng.normal(size=(2, 3, 2, 2)), rng.normal(size=(1, 4, 4, 3))
    made = model(nodes, {"x": ([1, 3, 4, 4], 11)}, {"y": ([1, 2, 3, 3], 11)}, {"w": w, "half": np.array(0.5)})
    y = load(saved(made, tmp_path / "m.onnx"))(x)
    assert y.dtype == np.float64
    np.testing.assert_allclose(y.numpy(), 0.5 * F.conv2d(gp.tensor(x), w.transpose(2, 3, 1, 0)).numpy(), rtol=1e-12)


def test_inputs_are_compared_with_what_the_file_declares(tmp_path, rng):
    ours = load(saved(cnn(rng), tmp_path / "cnn.onnx"))
    with pytest.raises(
        ValueError, match=r"x has shape \(2, 3, 9, 8\) but the file takes \(any, 9, 8, 3\), channels last"
    ):
        ours(numbers(rng, 2, 3, 9, 8))
    with pytest.raises(TypeError, match=r"OnnxModel: takes 1 inputs \(x\), got 2"):
        ours(numbers(rng, 2, 9, 8, 3), numbers(rng, 2, 9, 8, 3))
    with pytest.raises(TypeError, match="x is float64 but the file takes float32"):
        ours(gp.tensor(rng.normal(size=(2, 9, 8, 3))))


def test_an_operation_that_fails_names_its_node(tmp_path, rng):
    nodes = [node("Concat", "x,x", "a", "join", axis=1), node("Reshape", "a,shape", "y", "fold")]
    made = model(nodes, {"x": ["n", 3]}, {"y": ["n", 5]}, {"shape": np.array([-1, 5])})
    with pytest.raises(
        ValueError, match=r"node 'fold' \(Reshape\): 12 elements of shape \(2, 6\) do not fill shape \[-1, 5\]"
    ):
        load(saved(made, tmp_path / "m.onnx"))(numbers(rng, 2, 3))


@pytest.mark.parametrize("operator", ["Erf", "Mish", "Selu", "Celu", "Softsign", "Gelu", "HardSigmoid"])
def test_composed_activations_have_the_right_gradients(tmp_path, rng, operator):
    attributes = {"approximate": "tanh"} if operator == "Gelu" else {"alpha": 0.7} if operator == "Celu" else {}
    made = model([node(operator, "x", "y", **attributes)], {"x": (["n"], 11)}, {"y": (["n"], 11)}, opset=20)
    ours = load(saved(made, tmp_path / "m.onnx"))
    values, dy, step = rng.normal(size=40) * 2, rng.normal(size=40), 1e-5
    values[:3] = -0.0101, 0.0, 0.1249
    x = gp.tensor(values, requires_grad=True)
    ours(x).backward(dy)
    slopes = (ours(values + step).numpy() - ours(values - step).numpy()) / (2 * step)
    away = np.abs(values) > 1e-3  # from the kinks
    np.testing.assert_allclose(x.grad[away], (dy * slopes)[away], rtol=1e-5, atol=1e-8)


def test_the_error_function_is_exact_to_float64_roundings(tmp_path, rng):
    from scipy.special import erf

    ours = load(saved(model([node("Erf", "x", "y")], {"x": (["n"], 11)}, {"y": (["n"], 11)}), tmp_path / "m.onnx"))
    x = np.concatenate([np.linspace(-8, 8, 4001), [0.0, 1e-300, -1e-9, np.inf, -np.inf, np.nan]])
    np.testing.assert_allclose(ours(x).numpy(), erf(x), rtol=3e-13)


@pytest.mark.parametrize(
    ("operator", "attributes"),
    [("ReduceL2", {}), ("LpPool", {"kernel_shape": [2, 2], "p": 3}), ("GlobalLpPool", {"p": 2})],
)
def test_norms_of_zeros_have_gradients_of_zero(tmp_path, rng, operator, attributes):
    made = model([node(operator, "x", "y", **attributes)], {"x": ([1, 1, 2, 2], 11)}, {"y": (None, 11)})
    ours = load(saved(made, tmp_path / "m.onnx"))
    x = gp.tensor(np.zeros((1, 2, 2, 1)), requires_grad=True)
    y = ours(x)
    y.backward(np.ones(y.shape))
    assert y.numpy().tolist() == np.zeros(y.shape).tolist()
    assert x.grad.tolist() == np.zeros(x.shape).tolist()
    values, p = np.abs(rng.normal(size=(1, 2, 2, 1))), attributes.get("p", 2)
    x = gp.tensor(values, requires_grad=True)
    y = ours(x)
    y.backward(np.ones(y.shape))
    np.testing.assert_allclose(y.numpy().item(), (values**p).sum() ** (1 / p))
    np.testing.assert_allclose(x.grad, values ** (p - 1) * (values**p).sum() ** (1 / p - 1))
