"""ONNX models written with ONNX's own helpers, for the tests of reading."""

import numpy as np


def numbers(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


def model(nodes, inputs, outputs, initializers=(), *, opset=17, external=()):
    """A ModelProto.

    Args:
        inputs, outputs: shapes by name; a pair (shape, TensorProto.DataType) for other dtypes than float32.
        initializers: arrays by name.
    """
    from onnx import TensorProto, helper, numpy_helper

    def ports(given):
        typed = [(name, *(v if isinstance(v, tuple) else (v, TensorProto.FLOAT))) for name, v in given.items()]
        return [helper.make_tensor_value_info(name, kind, shape) for name, shape, kind in typed]

    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in dict(initializers).items()]
    graph = helper.make_graph(list(nodes), "graph", ports(inputs), ports(outputs), [*tensors, *external])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    made.ir_version = 8
    return made


def node(operator, inputs, outputs, name="", **attributes):
    from onnx import helper

    return helper.make_node(
        operator, inputs.split(","), outputs.split(","), name=name or f"{operator} of {outputs}", **attributes
    )


def cnn(rng, *, opset=17):
    """Convolutions, batch norm, a residual, pools and a dense layer, as PyTorch exports them: x (N, 3, 9, 8) -> y (N, 5)."""
    nodes = [
        node("Conv", "x,conv1.weight,conv1.bias", "a", strides=[2, 1], pads=[1, 1, 1, 1]),
        node(
            "BatchNormalization", "a,bn.weight,bn.bias,bn.running_mean,bn.running_var", "b", epsilon=1e-3, momentum=0.8
        ),
        node("Relu", "b", "c"),
        node("Conv", "c,conv2.weight", "d", pads=[1, 1, 1, 1], group=2),
        node("Add", "d,c", "e"),
        node("MaxPool", "e", "f", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
        node("Shape", "f", "g"),
        node("Gather", "g,zero", "h"),
        node("Unsqueeze", "h,axes", "i"),
        node("Concat", "i,rest", "j", axis=0),
        node("Reshape", "f,j", "k"),
        node("Gemm", "k,fc.weight,fc.bias", "y", transB=1),
    ]
    weights = {
        "conv1.weight": numbers(rng, 6, 3, 3, 3), "conv1.bias": numbers(rng, 6), "bn.weight": numbers(rng, 6) + 1,
        "bn.bias": numbers(rng, 6), "bn.running_mean": numbers(rng, 6), "bn.running_var": numbers(rng, 6) ** 2 + 0.5,
        "conv2.weight": numbers(rng, 6, 3, 3, 3), "fc.weight": numbers(rng, 5, 72), "fc.bias": numbers(rng, 5),
        "zero": np.array(0), "axes": np.array([0]), "rest": np.array([-1]),
    }  # fmt: skip
    return model(nodes, {"x": ["batch", 3, 9, 8]}, {"y": ["batch", 5]}, weights, opset=opset)


def saved(made, path):
    path.write_bytes(made.SerializeToString())
    return path


def run_by_onnxruntime(made, *inputs):
    """The outputs by the runtime that everyone uses."""
    from helpers.onnx_files import session

    running = session(made.SerializeToString())
    return running.run(None, dict(zip([port.name for port in running.get_inputs()], inputs, strict=True)))
