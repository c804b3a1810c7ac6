"""gpunet as ONNX's tests of backends see it: `prepare`, `run_model`, `run_node`, `supports_device`.

``onnx.backend.test.BackendTest(gpunet.interop.onnx.backend, __name__)`` runs ONNX's tests. A device
of ONNX's is a backend of gpunet's: "CPU" is "numpy", "CUDA" is "cuda", "CUDA:1" the second GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpunet.autograd import Tensor, no_grad, tensor
from gpunet.backends import available_backends, get_backend
from gpunet.backends.contract import is_float
from gpunet.interop.onnx.loading.file import model_of
from gpunet.interop.onnx.loading.model import OnnxModel
from gpunet.interop.onnx.loading.operators import OPERATORS
from gpunet.interop.onnx.loading.reading import NEWEST
from gpunet.interop.onnx.loading.values import Value
from gpunet.interop.onnx.package import helper


def _backend_name(device: str) -> str:
    """The name of the backend that stands for a device of ONNX's."""
    kind, _, number = str(device).partition(":")
    names = {"CPU": "numpy", "CUDA": "cuda", "GPU": "cuda"}
    name = names.get(kind.upper(), kind)
    return f"{name}:{number}" if number and name == "cuda" else name


def supports_device(device: str) -> bool:
    """Whether this machine has a backend that stands for the device."""
    return _backend_name(device).partition(":")[0] in available_backends()


def is_compatible(model: Any, device: str = "CPU", **_: Any) -> bool:
    """Whether gpunet has every operator of a ModelProto."""
    return all(n.domain in ("", "ai.onnx") and n.op_type in OPERATORS for n in model.graph.node)


class Prepared:
    """A model that is ready to run."""

    def __init__(self, model: OnnxModel, device: str):
        self.model = model
        self.backend = get_backend(_backend_name(device))
        model.to(self.backend)

    def run(self, inputs: Any, **_: Any) -> tuple[np.ndarray, ...]:
        """The outputs as host arrays.

        Args:
            inputs: host arrays in the graph's order, or by name.
        """
        ports = self.model.graph.inputs
        given = dict(inputs) if isinstance(inputs, dict) else dict(zip([p.name for p in ports], inputs, strict=True))
        feeds = {name: self._value(name, np.asarray(array)) for name, array in given.items()}
        with no_grad():
            return tuple(value.host() for value in self.model.run(feeds))

    def _value(self, name: str, array: np.ndarray) -> Value:
        if not is_float(array.dtype):
            if array.dtype.kind not in "iub":
                raise TypeError(f"run: input {name} is {array.dtype}, which gpunet does not compute in")
            return Value(array)
        if array.dtype.name not in self.backend.dtypes:
            raise TypeError(f"run: input {name} is {array.dtype}, which is not computed on {self.backend.name}")
        return Value(tensor(array, dtype=array.dtype, backend=self.backend))


def prepare(model: Any, device: str = "CPU", **_: Any) -> Prepared:
    """A ModelProto made ready to run; errors are those of `gpunet.interop.onnx.load`."""
    return Prepared(model_of(model), device)


def run_model(model: Any, inputs: Sequence[Any], device: str = "CPU", **options: Any) -> tuple[np.ndarray, ...]:
    """The outputs of a ModelProto for these inputs."""
    return prepare(model, device, **options).run(inputs)


def run_node(node: Any, inputs: Sequence[Any], device: str = "CPU", **options: Any) -> tuple[np.ndarray, ...]:
    """The outputs of a single NodeProto, of the newest opset that gpunet reads unless `opset` is given."""
    named = [name for name in node.input if name]
    arrays = [np.asarray(x.numpy() if isinstance(x, Tensor) else x) for x in inputs]
    ports = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in zip(named, arrays, strict=True)
    ]
    outputs = [helper.make_empty_tensor_value_info(name) for name in node.output if name]
    graph = helper.make_graph([node], "node", ports, outputs)
    version = min(int(options.pop("opset", NEWEST)), NEWEST)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)])
    return prepare(model, device, **options).run(arrays)
