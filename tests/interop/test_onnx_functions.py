"""What a user's own `forward` computes, as an ONNX file; and what is refused, with its names."""

import json

import numpy as np
import pytest
from helpers.onnx_files import TOLERANCE, error_of, inputs_for, session, with_random_state

import gpunet as gp
from gpunet import functional as F
from gpunet import models, nn

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
from gpunet.interop.onnx import export  # noqa: E402 - it takes onnx
from gpunet.interop.onnx.exporting.translate import TRANSLATIONS  # noqa: E402

IMAGE = (6, 5, 4)


class Computed(nn.Module):
    """A function as a model, behind a convolution whose result stands with channels first in the graph."""

    def __init__(self, function, *, conv=True):
        self.conv = nn.Conv2d(4, 4, 1) if conv else nn.Identity()
        self.filters = nn.parameter(np.linspace(-1, 2, 32, dtype=np.float32).reshape(2, 1, 4, 4))
        self.scale = gp.nn.parameter(np.array([0.5, -1.5, 2.0, 1.0], np.float32))
        self.function = function

    def forward(self, x):
        return self.function(self, self.conv(x))


ROW = np.arange(5, dtype=np.float32).reshape(5, 1)
FUNCTIONS = {
    "arithmetic": lambda m, x: (2 - x * m.scale) / (F.abs(x) + 1.5) + x**2 - (-x),
    "power": lambda m, x: (F.abs(x) + 0.5) ** 1.7 + 2 ** (x * 0.1),
    "exp, log and sqrt": lambda m, x: F.log(F.exp(x) + 1) * F.sqrt(F.abs(x) + 0.1),
    "constants that broadcast": lambda m, x: x * ROW + ROW.reshape(5, 1) * 0.5,
    "a computed vector that broadcasts": lambda m, x: x * x[0, 0, 0],
    "a constant of more axes": lambda m, x: x + np.arange(2, dtype=np.float32).reshape(2, 1, 1, 1, 1),
    "one number of each image": lambda m, x: x - x.mean(axis=(1, 2, 3), keepdims=True),
    "a convolution with a residual": lambda m, x: F.conv2d(x, m.filters, residual=x[:, 1:] * 2, activation="relu"),
    "the mean of each channel": lambda m, x: x.mean(axis=(1, 2)),
    "channels weighed by themselves": lambda m, x: x * F.sigmoid(x.mean(axis=(1, 2)).reshape(-1, 1, 1, 4)),
    "the sum of channels": lambda m, x: x.sum(axis=3),
    "the sum of rows": lambda m, x: x.sum(axis=1),
    "largest and smallest": lambda m, x: x.max(axis=3, keepdims=True) - x.min(axis=(1, 2), keepdims=True),
    "variance": lambda m, x: x.var(axis=3, keepdims=True) + x.std(axis=(1, 2), keepdims=True, correction=0),
    "argmax of channels": lambda m, x: x.argmax(axis=3),
    "argmin of pixels": lambda m, x: x.argmin(axis=(1, 2)),
    "argmax, kept": lambda m, x: x.argmax(axis=3, keepdims=True),
    "where": lambda m, x: F.where(x > 0.1, x, x * m.scale),
    "a constant mask": lambda m, x: F.where(ROW > 2, x, 0.0),
    "logic": lambda m, x: F.where((x > 0.5) | ~(x >= -0.5) & (x != 0), 1.0, x),
    "comparison": lambda m, x: (x <= m.scale) == (x < 0),
    "maximum, minimum and clip": lambda m, x: F.maximum(F.minimum(x, 0.7), m.scale * -1).clip(min=-1.2),
    "matmul of rows": lambda m, x: x @ np.eye(4, dtype=np.float32)[:, :3],
    "matmul of batches": lambda m, x: x.reshape(-1, 30, 4) @ x.reshape(-1, 30, 4).transpose(0, 2, 1),
    "transpose": lambda m, x: x.transpose(0, 2, 3, 1),
    "reshape": lambda m, x: x.reshape(-1, 6, 5, 2, 2).transpose(0, 1, 3, 2, 4),
    "slices": lambda m, x: x[:, 1:-1, ::-2, 1:],
    "slices, integers and new axes": lambda m, x: x[:, -1, None, :3, 2],
    "one image of the batch": lambda m, x: x[0],
    "rows by a list": lambda m, x: x[[0, 1, 1]],
    "columns by a list": lambda m, x: x[:, :, [0, 3, 3]],
    "channels by a mask": lambda m, x: x[..., np.array([True, False, True, True])],
    "concatenate": lambda m, x: F.concatenate([x, x * 2, F.relu(x)], axis=1),
    "stack": lambda m, x: F.stack([x, -x], axis=2),
    "squeeze": lambda m, x: x.max(axis=3, keepdims=True).squeeze(3).unsqueeze(1),
    "dense layers of pixels": lambda m, x: F.linear(x, np.eye(4, dtype=np.float32)[::-1].copy()),
    "a constant alone": lambda m, x: x * 0 + m.scale.reshape(2, 2).sum(axis=0).sum(),
    "the input itself": lambda m, x: x,
    "two of one": lambda m, x: (x, x),
    "a dict": lambda m, x: {"logits": x.mean(axis=(1, 2)), "map": x},
    "filters made of parameters": lambda m, x: F.conv2d(x, (m.filters - m.filters.mean()) / m.filters.std()),
    "overlap of boxes": lambda m, x: F.iou(F.relu(x), F.relu(-x)),
    "squared distances": lambda m, x: F.squared_distances(x.reshape(-1, 4), m.scale.reshape(1, 4)),
    "detached": lambda m, x: x.detach() * 2,
    "group norm": lambda m, x: F.group_norm(x, 2) + F.layer_norm(x, 4),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("conv", [True, False])
@pytest.mark.parametrize(("opset", "layout"), [(17, "NCHW"), (23, "NHWC")])
def test_a_function_gives_the_same_outputs_in_onnxruntime(tmp_path, name, conv, opset, layout):
    model = with_random_state(Computed(FUNCTIONS[name], conv=conv))
    export(model, tmp_path / "model.onnx", IMAGE, opset=opset, layout=layout)
    assert error_of(tmp_path / "model.onnx", model, IMAGE, layout=layout) < TOLERANCE


def test_a_fixed_batch_stands_in_the_file(tmp_path):
    model = with_random_state(Computed(lambda m, x: x.mean(axis=0)))
    export(model, tmp_path / "model.onnx", IMAGE, batch_size=4)
    assert error_of(tmp_path / "model.onnx", model, IMAGE, batch=4) < TOLERANCE
    assert session(tmp_path / "model.onnx").get_inputs()[0].shape == [4, 4, 6, 5]


def test_nodes_weights_and_borders_keep_their_names(tmp_path):
    model = models.Siamese(models.conv4((16, 16, 1), (4, 4)), 64)
    export(model, tmp_path / "model.onnx", [(16, 16, 1)] * 2)
    graph = onnx.load(tmp_path / "model.onnx").graph
    assert [value.name for value in graph.input] == ["a", "b"]
    assert [value.name for value in graph.output] == ["y"]
    unused = {name for name in model.state_dict() if name.endswith("num_batches_tracked")}
    assert set(model.state_dict()) - unused <= {value.name for value in graph.initializer}
    nodes = [node.name for node in graph.node]
    assert {"embedding.0", "embedding.1", "embedding.2", "head"} <= set(nodes)
    assert len(set(nodes)) == len(nodes)


def test_what_a_hook_puts_in_an_outputs_place_is_exported(tmp_path):
    model = with_random_state(nn.Sequential(nn.Conv2d(4, 2, 1), nn.ReLU()))
    model[0].register_forward_hook(lambda module, inputs, y: y - 0.1)
    model.register_forward_hook(lambda module, inputs, y: y * 3)
    export(model, tmp_path / "model.onnx", IMAGE)
    assert error_of(tmp_path / "model.onnx", model, IMAGE) < TOLERANCE


def test_names_of_inputs_and_outputs_can_be_given(tmp_path):
    model = nn.Sequential(nn.Conv2d(4, 2, 1), nn.Flatten(), nn.Linear(60, 3))
    names = {"input_names": ["0.weight"], "output_names": ["logits"]}
    export(model, tmp_path / "model.onnx", IMAGE, **names)
    running = session(tmp_path / "model.onnx")
    assert [value.name for value in running.get_inputs()] == ["0.weight"]
    assert [value.name for value in running.get_outputs()] == ["logits"]
    assert error_of(tmp_path / "model.onnx", model, IMAGE) < TOLERANCE


def test_an_input_called_as_an_output_would_be_keeps_its_name(tmp_path):
    class Sum(nn.Module):
        def forward(self, x, y):
            return x + 2 * y

    export(Sum(), tmp_path / "model.onnx", [(4,), (4,)])
    running = session(tmp_path / "model.onnx")
    assert [value.name for value in (*running.get_inputs(), *running.get_outputs())] == ["x", "y", "y_out"]
    assert error_of(tmp_path / "model.onnx", Sum(), [(4,), (4,)]) < TOLERANCE


def test_the_file_says_what_made_it_and_its_model(tmp_path):
    model = models.lenet((14, 14, 1), 3)
    export(model, tmp_path / "model.onnx", (14, 14, 1), metadata={"classes": "a, b, c"})
    file = onnx.load(tmp_path / "model.onnx")
    said = {entry.key: entry.value for entry in file.metadata_props}
    assert said["gpunet"] == gp.__version__
    assert json.loads(said["model"]) == {"name": "lenet", "arguments": {"input_shape": [14, 14, 1], "num_classes": 3}}
    assert said["classes"] == "a, b, c"
    assert file.ir_version == 8  # of opset 17; an older program reads no newer one


def test_every_value_has_its_extents_in_the_file(tmp_path):
    export(models.UNet(3, 2, base_channels=4, depth=1), tmp_path / "model.onnx", (8, 8, 3))
    graph = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "model.onnx"), strict_mode=True).graph
    known = {value.name: value.type.tensor_type.shape.dim for value in [*graph.value_info, *graph.output]}
    for node in graph.node:
        dims = known[node.output[0]]
        assert dims[0].dim_param == "batch", node.name
        assert all(dim.dim_value for dim in dims[1:]), node.name


def test_an_image_goes_through_convolutions_without_transposes(tmp_path):
    model, shape = models.resnet9((8, 8, 3)), (8, 8, 3)
    export(model, tmp_path / "model.onnx", shape)
    assert "Transpose" not in [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]


def test_the_model_stays_as_it_is(tmp_path):
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5)).train()
    before, said = model.state_dict(), repr(model)
    export(model, tmp_path / "model.onnx", IMAGE)
    assert all(module.training and not module.hooked for _, module in model.named_modules())
    assert all("forward" not in vars(module) for _, module in model.named_modules())
    assert repr(model) == said
    assert all(np.array_equal(value, before[name]) for name, value in model.state_dict().items())


def test_what_leads_to_no_output_is_left_out(tmp_path):
    def function(model, x):
        F.sigmoid(x) * model.scale
        return F.relu(x)

    export(Computed(function), tmp_path / "model.onnx", IMAGE)
    graph = onnx.load(tmp_path / "model.onnx").graph
    assert [node.op_type for node in graph.node] == ["Conv", "Relu"]
    assert {value.name for value in graph.initializer} == {"conv.weight", "conv.bias"}


def test_a_graph_that_onnx_finds_wrong_is_not_written(tmp_path, monkeypatch):
    def wrong(step):
        step.done(step.emit("Flatten", step.plain()))  # of other extents than the result's

    monkeypatch.setitem(TRANSLATIONS, "activation", wrong)
    refused(tmp_path, nn.ReLU(), "differ in rank", error=Exception)


def functions_of(kind):
    """The names of the operations of gpunet.functional that derive from a class."""
    for function in kind.__subclasses__():
        if function.__module__.startswith("gpunet.functional."):
            yield function.name
        yield from functions_of(function)


def test_every_operation_but_losses_and_noise_has_a_translation():
    losses = {
        "_FusedLoss",
        "binary_cross_entropy_with_logits",
        "cross_entropy",
        "focal",
        "huber",
        "modulation",
        "nll_loss",
    }
    without = {"dropout", "weighed", *losses}
    bases = {"Binary", "resample2d"}
    assert set(functions_of(gp.Function)) - set(TRANSLATIONS) == without | bases


# ---- what is refused


class Cube(gp.Function):
    def forward(self, x):
        return x * x * x

    def backward(self, dy):
        raise NotImplementedError


def refused(tmp_path, model, match, shape=IMAGE, error=ValueError, **options):
    with pytest.raises(error, match=match):
        export(model, tmp_path / "model.onnx", shape, **options)
    assert not list(tmp_path.iterdir())


def test_all_operations_without_a_translation_are_listed_with_their_layers(tmp_path):
    class Own(nn.Module):
        def forward(self, x):
            return Cube.apply(x)

    model = nn.Sequential(nn.Conv2d(4, 4, 1), Own(), Computed(lambda m, x: F.dropout(x, 0.3)))
    refused(tmp_path, model, r"for 2 reasons: \S+Cube in layer 1: there are no .*; dropout in layer 2: ")


@pytest.mark.parametrize(
    ("function", "match"),
    [
        (lambda m, x: x * float(x.numpy().max()), "multiply in the model itself takes a constant that depends on"),
        (lambda m, x: x / len(x), "divide in the model itself takes a constant"),
        (lambda m, x: x.mean(axis=0), "divide in the model itself takes a constant"),
        (lambda m, x: x[: len(x) - 1], "index in the model itself has an option index that depends"),
        (lambda m, x: x[x.numpy() > 0], "an index that depends on the batch or on the input's values"),
        (lambda m, x: x + F.one_hot(x.argmax(axis=3), 4), "add in the model itself takes a constant"),
        (lambda m, x: x * 2 if len(x) == 2 else x + 1, "which operations run depends"),
        (lambda m, x: x[1:], "result whose extents do not grow with the batch"),
    ],
)
def test_what_depends_on_the_batch_is_refused_by_name(tmp_path, function, match):
    refused(tmp_path, Computed(function), match)


def test_bad_arguments_are_refused_by_name(tmp_path):
    model = nn.Conv2d(4, 2, 1)
    refused(tmp_path, model, "opset is 16 but takes 17 to 23", opset=16)
    refused(tmp_path, model, "opset is 24 but takes 17 to 23", opset=24)
    refused(tmp_path, model, "layout is 'CHWN' but takes NCHW or NHWC", layout="CHWN")
    refused(tmp_path, model, "input_shape is 28 but takes", shape=28, error=TypeError)
    refused(tmp_path, model, "input_shape .* has an extent below 1", shape=(0, 5, 4))
    refused(tmp_path, model, "input_names are .* but must be 1 different names", input_names=["a", "b"])
    refused(tmp_path, model, "output_names are .* but must be 1 different names", output_names=[])
    refused(tmp_path, model, r"output_names are \['x'\] but must be 1 .* no input has", output_names=["x"])
    refused(tmp_path, model, "batch_size must be at least 1", batch_size=0)
    refused(tmp_path, Computed(lambda m, x: x.numpy()), "returns ndarray but must return tensors", error=TypeError)


def test_a_model_above_two_gigabytes_is_refused_before_it_runs(tmp_path, monkeypatch):
    monkeypatch.setattr("gpunet.interop.onnx.exporting.file.MOST_BYTES", 1000)
    refused(tmp_path, nn.Linear(100, 100), r"the weights take 40,400 bytes, but an ONNX file holds 1,000", shape=(100,))


def test_a_float64_model_is_a_float64_file(tmp_path):
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU()).astype("float64")
    export(model, tmp_path / "model.onnx", (6,))
    x = inputs_for((6,), 5)[0].astype(np.float64)
    (y,) = session(tmp_path / "model.onnx").run(None, {"x": x})
    with gp.no_grad():
        np.testing.assert_allclose(y, model(x).numpy(), rtol=1e-12)


def test_a_model_is_exported_from_every_backend(tmp_path, backend):
    net = nn.Sequential(nn.Conv2d(2, 3, 3, activation="relu"), nn.BatchNorm2d(3), nn.MaxPool2d(2))
    model = Computed(lambda m, x: F.where(x > 0.1, x, 0.5 * x).mean(axis=(1, 2)))
    model.conv = net
    export(with_random_state(model).to(backend), tmp_path / "model.onnx", (6, 4, 2))
    assert error_of(tmp_path / "model.onnx", model.to("numpy"), (6, 4, 2)) < TOLERANCE
