"""What is wrong with an ONNX file is said by name, and nothing outside of its folder is opened."""

import os

import numpy as np
import pytest
from helpers.onnx_graphs import model, node, numbers, saved

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
from gpunet.interop.onnx import load  # noqa: E402 - after the check


def refused(made, tmp_path, kind=ValueError):
    """The message with which a model is refused, which names the file."""
    path = saved(made, tmp_path / "m.onnx")
    with pytest.raises(kind) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(f"load: {path}: ")
    assert "\n" not in message
    return message.removeprefix(f"load: {path}: ")


def relu(**changes):
    return model([node("Relu", "x", "y")], {"x": [1]}, {"y": [1]}, **changes)


def test_no_onnx_file(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match=r"load: .*m\.onnx is no ONNX file"):
        load(path)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.onnx")
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="declares 0 versions of ONNX's operators but must declare one"):
        load(path)


def test_unknown_operators_are_all_listed_with_their_nodes(tmp_path):
    nodes = [node("Det", "x", "a", "first"), node("TopK", "a", "b", "second"), node("Det", "b", "y", "third")]
    nodes[1].domain = "com.example"
    said = refused(model(nodes, {"x": [1]}, {"y": [1]}), tmp_path)
    assert said == "needs operators that gpunet does not have: Det (node first, third); com.example.TopK (node second)"


def test_unknown_attributes_and_kinds_are_all_named(tmp_path):
    nodes = [node("Relu", "x", "a", "r", slope=0.1), node("Concat", "a,a", "y", "c")]
    said = refused(model(nodes, {"x": [1]}, {"y": [1]}), tmp_path)
    assert said == (
        "node 'r' (Relu): attribute slope is 0.10000000149011612, but gpunet's Relu has no such attribute; "
        "node 'c' (Concat): attribute axis is missing"
    )


def test_a_value_that_an_attribute_may_not_have_is_named_when_it_runs(tmp_path):
    made = model([node("Gelu", "x", "y", "g", approximate="x")], {"x": [1]}, {"y": [1]}, opset=20)
    with pytest.raises(
        ValueError, match=r"node 'g' \(Gelu\): attribute approximate is 'x' but gpunet takes 'none', 'tanh'"
    ):
        load(saved(made, tmp_path / "m.onnx"))(np.ones(1, np.float32))


def test_inputs_that_nothing_gives(tmp_path):
    assert "node 'r' (Relu): takes 'z', but nothing gives it" in refused(
        model([node("Relu", "z", "y", "r")], {"x": [1]}, {"y": [1]}), tmp_path
    )
    assert "output 'w' is given by no node" in refused(
        model([node("Relu", "x", "y")], {"x": [1]}, {"w": [1]}), tmp_path
    )
    assert "node 'a' (Add): an input is missing that Add needs" in refused(
        model([node("Add", "x", "y", "a")], {"x": [1]}, {"y": [1]}), tmp_path
    )
    assert "has no outputs" in refused(model([node("Relu", "x", "y")], {"x": [1]}, {}), tmp_path)


def test_cycles_and_values_that_are_given_twice(tmp_path):
    nodes = [node("Add", "x,b", "a", "one"), node("Relu", "a", "b", "two")]
    said = refused(model(nodes, {"x": [1]}, {"b": [1]}), tmp_path)
    assert said == "node 'one' (Add): takes 'b', but only a later node gives it: a cycle, or nodes out of order"
    nodes = [node("Relu", "x", "y", "one"), node("Relu", "x", "y", "two")]
    assert (
        refused(model(nodes, {"x": [1]}, {"y": [1]}), tmp_path)
        == "node 'two' (Relu): gives 'y', which there is already"
    )


def test_shapes_that_do_not_fit_the_data(tmp_path):
    for dims, says in (
        ([2**40, 2**40], "holds 24 bytes but shape (1099511627776, 1099511627776) of float32 takes"),
        ([7], "holds 24 bytes but shape (7,) of float32 takes 28"),
        ([-6, -1], "has shape (-6, -1), with a negative extent"),
    ):
        made = model([node("Add", "x,w", "y")], {"x": [2, 3]}, {"y": [2, 3]}, {"w": np.ones((2, 3), np.float32)})
        made.graph.initializer[0].dims[:] = dims
        assert f"initializer 'w' {says}" in refused(made, tmp_path)


def test_dtypes_that_gpunet_does_not_compute_in(tmp_path):
    made = model([node("Add", "x,w", "y")], {"x": [3]}, {"y": [3]}, {"w": np.ones(3, np.float16)})
    assert refused(made, tmp_path, TypeError).startswith("initializer 'w': dtype FLOAT16 is not one of float32, ")


def test_graphs_as_attributes_and_sparse_arrays(tmp_path):
    branch = relu().graph
    made = model([node("Relu", "x", "y", "r", body=branch)], {"x": [1]}, {"y": [1]})
    assert "node 'r' (Relu): attribute body is of kind 5, which gpunet does not read" in refused(made, tmp_path)
    made = relu()
    made.graph.sparse_initializer.add()
    assert "holds 1 sparse initializers" in refused(made, tmp_path)


@pytest.mark.parametrize(
    ("operator", "constants"),
    [
        ("Expand", {"s": np.array([2**31, 2**31])}),
        ("Tile", {"s": np.array([2**40])}),
        ("Pad", {"s": np.array([2**40, 0])}),
        ("Resize", {"": None, "s": np.array([1, 1, 1e8, 1e8], np.float32)}),
    ],
)
def test_huge_results_are_refused_by_name(tmp_path, operator, constants):
    shape = [1, 1, 2, 2] if operator == "Resize" else [1]
    inputs = "x,," if operator == "Resize" else "x,"
    made = model([node(operator, inputs + "s", "y", "big")], {"x": shape}, {"y": None}, {"s": constants["s"]}, opset=17)
    ours = load(saved(made, tmp_path / "m.onnx"), layout="file")
    with pytest.raises(ValueError, match=rf"node 'big' \({operator}\): a result of shape .* has more than"):
        ours(np.ones(shape, np.float32))


# ---- data beside the file


def with_external(location, *, offset=None, length=None, shape=(3,)):
    from onnx import TensorProto

    tensor = TensorProto(name="w", dims=shape, data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, "offset": offset, "length": length}.items():
        if value is not None:
            entry = tensor.external_data.add()
            entry.key, entry.value = key, str(value)
    return model([node("Add", "x,w", "y")], {"x": [3]}, {"y": [3]}, external=[tensor])


def test_data_in_the_folder_of_the_file_is_read(tmp_path, rng):
    w, x = numbers(rng, 3), numbers(rng, 3)
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "w.bin").write_bytes(bytes(8) + w.tobytes())
    ours = load(saved(with_external("part/w.bin", offset=8, length=12), tmp_path / "m.onnx"))
    np.testing.assert_array_equal(ours(x).numpy(), x + w)


def test_data_of_a_constant_may_stand_beside_the_file(tmp_path, rng):
    w, x = numbers(rng, 3), numbers(rng, 3)
    (tmp_path / "w.bin").write_bytes(w.tobytes())
    (value,) = with_external("w.bin").graph.initializer
    nodes = [node("Constant", "", "w", value=value), node("Add", "x,w", "y")]
    del nodes[0].input[:]
    made = model(nodes, {"x": [3]}, {"y": [3]})
    np.testing.assert_array_equal(load(saved(made, tmp_path / "m.onnx"))(x).numpy(), x + w)
    entry = made.graph.node[0].attribute[0].t.external_data[0]
    entry.value = "../w.bin"
    assert "takes a path inside of the model's folder" in refused(made, tmp_path)


@pytest.mark.parametrize(
    "location", ["../w.bin", "/etc/hostname", "part/../../w.bin", "C:\\w.bin", "..\\w.bin", "w\0.bin"]
)
def test_data_outside_of_the_folder_is_refused(tmp_path, location):
    (tmp_path / "w.bin").write_bytes(bytes(12))
    folder = tmp_path / "model"
    folder.mkdir()
    said = refused(with_external(location), folder)
    assert said.startswith("initializer 'w' has its data at ")
    assert "but takes a path inside of the model's folder" in said


@pytest.mark.skipif(os.name == "nt", reason="links need a permission on Windows")
def test_links_that_leave_the_folder_are_refused(tmp_path):
    (tmp_path / "w.bin").write_bytes(bytes(12))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "w.bin").symlink_to(tmp_path / "w.bin")
    assert "a link that leaves the model's folder" in refused(with_external("w.bin"), folder)


def test_data_that_is_missing_or_too_short(tmp_path):
    assert "which is no file in the model's folder" in refused(with_external("w.bin"), tmp_path)
    (tmp_path / "w.bin").write_bytes(bytes(12))
    assert "takes 12 bytes from 4 on of w.bin, which has 12, and declares 0" in refused(
        with_external("w.bin", offset=4), tmp_path
    )
    assert "declares 8" in refused(with_external("w.bin", length=8), tmp_path)
    assert "offset or length of its data in w.bin is no number" in refused(with_external("w.bin", offset="x"), tmp_path)
    assert "has its data in a file ''" in refused(with_external(None), tmp_path)
