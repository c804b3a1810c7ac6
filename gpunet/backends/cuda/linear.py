"""Weight gradients of dense layers on a CUDA device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gpunet.backends.contract import Array, Gate, Grads, LinearGrad
from gpunet.backends.cuda.conv import CudaConv
from gpunet.backends.cuda.device import THREADS, activation_fields
from gpunet.backends.cuda.tiles import count_tiles
from gpunet.cuda.instantiations import instance
from gpunet.nvrtc.source import constant

TILE = (constant("linear_weight_grads.cu", "DENSE_TILE"),) * 2
"""Inputs and outputs of a block's results."""
LAYERS = constant("linear_weight_grads.cu", "LAYERS")
"""Layers of one launch at most."""
MOST_ROWS, MOST_PRODUCTS = 1024, 1 << 26
"""Rows and products N I O of a layer at most. A larger layer fills the device by itself, where
the larger tiles of a convolution's weight gradient, which also split the rows, are faster."""


class CudaLinear(CudaConv):
    """The primitives of kernels/linear_weight_grads.cu."""

    def shares_launch(self, layer: LinearGrad) -> bool:
        (rows, inputs), outputs = layer.x.shape, layer.dy.shape[1]
        return not self.simple and rows <= MOST_ROWS and rows * inputs * outputs <= MOST_PRODUCTS

    def linear_weight_grads(self, layers: Sequence[LinearGrad]) -> list[Grads]:
        results: list[Grads] = []
        shared: dict[tuple[str, bool], list[tuple[LinearGrad, Grads]]] = {}
        for layer in layers:
            if not self.simple and not self.shares_launch(layer):
                results.append(layer.deliver(*self.conv2d_weight_grad(*layer.as_conv())))
                continue
            element = self._checked_layer(layer)
            dw, db, add = self._place_gradients("linear_weight_grads", layer.into, layer.w_shape, layer.w_shape[1:])
            results.append((dw, db))
            if self.simple:
                self._simple_weight_grad(element, layer, (dw, db), add)
            elif dw.size or (db is not None and db.size):
                shared.setdefault((element, add), []).append((layer, (dw, db)))
        for (element, add), some in shared.items():
            for i in range(0, len(some), LAYERS):
                self._launch_together(element, add, some[i : i + LAYERS])
        return results

    def _simple_weight_grad(self, element: str, layer: LinearGrad, grads: Grads, add: bool) -> None:
        dw, db = grads
        gate, (inputs, outputs), rows = layer.gate or Gate(None, None), layer.w_shape, layer.x.shape[0]
        args = layer.dy, gate.y, layer.x, dw, db, rows, inputs, outputs, activation_fields(gate.activation), int(add)
        count = dw.size + (0 if db is None else db.size)
        self._each("linear_weight_grads_simple", count, *args, element=element, flops=2 * rows * dw.size)

    def _launch_together(self, element: str, add: bool, layers: Sequence[tuple[LinearGrad, Grads]]) -> None:
        """Launch the gradients of at most `LAYERS` layers, whose arrays are not empty."""
        fields: dict[str, Any] = {"layers": len(layers), "accumulate": int(add)}
        arrays: list[Array | None] = []
        blocks = flops = 0
        for layer, (dw, db) in layers:
            gate, (inputs, outputs), rows = layer.gate or Gate(None, None), layer.w_shape, layer.x.shape[0]
            arrays += [layer.dy, gate.y, layer.x, dw, db]
            extents = {"rows": rows, "inputs": inputs, "outputs": outputs, "first_block": blocks}
            for name, value in {**extents, **activation_fields(gate.activation)}.items():
                fields.setdefault(name, []).append(value)
            blocks += count_tiles(max(inputs, 1), outputs, TILE)  # without inputs, a bias is left
            flops += 2 * rows * inputs * outputs
        arrays += [None] * (5 * (LAYERS - len(layers)))
        self.launcher.launch(
            instance("linear_weight_grads_tiled", element), blocks, THREADS, (*arrays, fields), flops=flops
        )

    def _checked_layer(self, layer: LinearGrad) -> str:
        """The C type of the arrays, whose shapes and dtypes are checked."""
        dy, x, gate, _ = layer
        y = None if gate is None else gate.y
        if dy.ndim != 2 or x.ndim != 2 or dy.shape[0] != x.shape[0]:
            raise ValueError(f"linear_weight_grads: dy has shape {dy.shape} and x {x.shape} but take (N, O) and (N, I)")
        return self._element("linear_weight_grads", dy=(dy, None), gate=(y, dy.shape), x=(x, None))
