"""An ONNX graph in the making: its nodes and constants, and where each tensor of a trace stands in it.

gpunet's images are (N, H, W, C), ONNX's operators take (N, C, H, W). A tensor of four axes may
stand in the graph in either order or in both: a Transpose is inserted where an order is wanted that
is not there yet, once for each tensor.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np

from gpunet.autograd import Tensor
from gpunet.interop.onnx.package import TensorProto, helper

TO_FIRST, TO_LAST = (0, 3, 1, 2), (0, 2, 3, 1)
"""Orders of axes for Transpose: to channels first, and back to gpunet's own."""
AXIS_FIRST = (0, 2, 3, 1)
"""Where each of the axes N, H, W, C stands with channels first."""
Dims = tuple[int | str | None, ...]
"""Extents; a name for one that varies with the batch, None for one that varies in another way."""


def channels_first(items: Sequence[Any]) -> tuple[Any, ...]:
    """What belongs to the axes (N, H, W, C), in the order (N, C, H, W)."""
    return tuple(items[axis] for axis in TO_FIRST)


@dataclass(eq=False)
class Value:
    """A tensor of the trace, in the graph."""

    shape: tuple[int, ...]
    """In gpunet's order, for the batch that was traced."""
    dims: Dims
    """In gpunet's order, for any batch."""
    dtype: np.dtype
    plain: str = ""
    """The name of the graph's value in gpunet's order; empty if there is none."""
    first: str = ""
    """The name of the graph's value with channels first; empty if there is none."""
    constant: np.ndarray | None = None
    """The values of what does not depend on the inputs."""
    name: str = ""
    """The name of a parameter or a buffer in the state dict."""

    @property
    def same_order(self) -> bool:
        """Whether the elements of an image stand in one order with channels first or last."""
        return len(self.shape) == 4 and (self.shape[1] == self.shape[2] == 1 or self.shape[3] == 1)


class Graph:
    """The graph in the making.

    Args:
        opset: the version of ONNX's operators.
        names: the name of each parameter and buffer, by its id.
        border: names of the graph's inputs and outputs.
        batch_sizes: those of the two traces.
    """

    def __init__(self, opset: int, names: Mapping[int, str], border: Iterable[str], batch_sizes: tuple[int, int]):
        self.opset, self.batch_sizes = opset, batch_sizes
        self.nodes: list[Any] = []
        self.infos: dict[str, Any] = {}
        self.initializers: dict[str, np.ndarray] = {}
        self._names = names
        self._unused = set(names.values()) - set(border)
        self._taken = set(names.values()) | set(border)
        self._values: dict[int, Value] = {}
        self._arrays: dict[int, Value] = {}
        self._kept: list[Tensor] = []  # so that no id is given to another tensor
        self._constants: dict[Any, str] = {}

    # ---- names

    def reserve(self, name: str) -> str:
        """A name that nothing else has; `name` itself if it is free."""
        free, n = name, 0
        while free in self._taken:
            n += 1
            free = f"{name}_{n}"
        self._taken.add(free)
        return free

    def is_free(self, name: str) -> bool:
        """Whether nothing has this name."""
        return name not in self._taken

    # ---- the tensors of the trace

    def define(self, t: Tensor, value: Value) -> None:
        """Say where a tensor stands in the graph."""
        self._kept.append(t)
        self._values[id(t)] = self._arrays[id(t.data)] = value

    def value(self, t: Tensor) -> Value:
        """Where a tensor stands; one that no operation has made is a constant."""
        found = self._values.get(id(t)) or self._arrays.get(id(t.data))
        if found is None:
            array = t.numpy()
            found = Value(array.shape, array.shape, array.dtype, constant=array, name=self._names.get(id(t), ""))
            self._kept.append(t)
            self._values[id(t)] = found
        return found

    def of_array(self, array: Any) -> Value | None:
        """The value whose tensor holds this array, or None."""
        return self._arrays.get(id(array))

    # ---- names of values, in an order and a dtype

    def plain(self, value: Value, dtype: Any = None) -> str:
        """The name of a value in gpunet's order."""
        if value.constant is not None:
            return self.constant(_as_dtype(value.constant, dtype), value.name)
        if not value.plain:
            value.plain = self.node("Transpose", [value.first], f"{value.first}/nhwc", perm=TO_LAST)
            self.inform(value.plain, value.dtype, value.dims)
        return self._cast(value.plain, value.dtype, dtype)

    def first(self, value: Value, dtype: Any = None) -> str:
        """The name of a value of four axes with channels first; of a constant that broadcasts to one."""
        if value.constant is not None:
            array = value.constant
            if array.size > 1:
                array = array.reshape((1,) * (4 - array.ndim) + array.shape).transpose(TO_FIRST)
            return self.constant(_as_dtype(array, dtype), value.name)
        if len(value.shape) != 4:  # one number, which broadcasts in any order
            return self.plain(value, dtype)
        if not value.first:
            value.first = self.node("Transpose", [value.plain], f"{value.plain}/nchw", perm=TO_FIRST)
            self.inform(value.first, value.dtype, channels_first(value.dims))
        return self._cast(value.first, value.dtype, dtype)

    def _cast(self, name: str, dtype: np.dtype, wanted: Any) -> str:
        if wanted is None or dtype == wanted:
            return name
        key = ("cast", name, np.dtype(wanted).name)
        if key not in self._constants:
            self._constants[key] = self.node("Cast", [name], f"{name}/cast", to=element_type(wanted))
        return self._constants[key]

    # ---- what the graph is made of

    def constant(self, array: Any, name: str = "") -> str:
        """The name of an initializer with these values; equal ones of one name are kept once."""
        array = np.asarray(array)
        if array.ndim:
            array = np.ascontiguousarray(array)
        key = name, array.shape, array.dtype.name, blake2b(array.data).digest()
        if key not in self._constants:
            chosen = name if name in self._unused else self.reserve(name or "constant")
            self._unused.discard(chosen)
            self.initializers[chosen] = array
            self._constants[key] = chosen
        return self._constants[key]

    def integers(self, values: Iterable[int], name: str = "extents") -> str:
        """The name of an initializer of int64, such as axes or a shape."""
        return self.constant(np.array(list(values), np.int64), name)

    def node(self, kind: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """Add a node with one output -> the output's name, which is the node's own, too."""
        chosen = self.reserve(name)
        self.nodes.append(helper.make_node(kind, list(inputs), [chosen], name=chosen, **attributes))
        return chosen

    def inform(self, name: str, dtype: np.dtype, dims: Dims) -> None:
        """Say what a value's dtype and extents are."""
        self.infos[name] = helper.make_tensor_value_info(name, element_type(dtype), list(dims))


def element_type(dtype: Any) -> int:
    """ONNX's number for a dtype."""
    kind = np.dtype(dtype)
    return int(TensorProto.BFLOAT16 if kind.name == "bfloat16" else helper.np_dtype_to_tensor_dtype(kind))


def _as_dtype(array: np.ndarray, dtype: Any) -> np.ndarray:
    return array if dtype is None else array.astype(dtype, copy=False)
