"""Dense layers on a CUDA device: small heads, also with their loss, and weight gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gpunet.backends.contract import (
    UNWEIGHTED,
    Activation,
    Array,
    CrossEntropy,
    Gate,
    Grads,
    LinearGrad,
    LossParts,
    Product,
)  # fmt: skip
from gpunet.backends.cuda.conv import CudaConv
from gpunet.backends.cuda.device import THREADS, activation_fields
from gpunet.backends.cuda.loss import CudaLoss, cross_entropy_fields
from gpunet.backends.cuda.matmul import CudaMatmul
from gpunet.backends.cuda.tiles import count_tiles
from gpunet.cuda.naming import instance
from gpunet.cuda.work import Work
from gpunet.nvrtc.source import constant

TILE = (constant("linear_weight_grads.cu", "DENSE_TILE"),) * 2
"""Inputs and outputs of a block's results."""
STEP_ROWS = constant("linear_weight_grads.cu", "STEP_ROWS")
"""Rows of a turn of its main loop."""
LAYERS = constant("linear_weight_grads.cu", "LAYERS")
"""Layers of one launch at most."""
HEAD_ROWS = constant("linear_cross_entropy.cu", "HEAD_ROWS")
"""Rows of a block of a layer that is computed with its loss."""


class Most(NamedTuple):
    """The largest layers, x (N, I) and w (I, O), for which a kernel is the fastest."""

    rows: int
    inputs: int
    outputs: int
    weights: int
    """I O."""
    products: int
    """N I O."""

    def holds(self, x_shape: tuple[int, ...], w_shape: tuple[int, ...]) -> bool:
        """Whether a layer is within these limits."""
        (rows, inputs), outputs = x_shape, w_shape[1]
        weights = inputs * outputs
        return all(a <= b for a, b in zip((rows, inputs, outputs, weights, rows * weights), self, strict=True))


JOINED = {
    "linear_cross_entropy": Most._make(
        [
            *(
                constant("linear_cross_entropy.cu", f"HEAD_{name}")
                for name in ("BATCH", "INPUTS", "OUTPUTS", "WEIGHTS")
            ),
            1 << 22,
        ]
    ),
    "linear_weight_grads": Most(rows=1024, inputs=1 << 30, outputs=1 << 30, weights=1 << 30, products=1 << 26),
}
"""Which dense layers have kernels that join them with their loss, or with other layers.

These kernels compute a layer within the limits whether it is joined or not, so that its numbers do
not depend on what is beside it. A larger layer fills the device by itself: for it the tiles of
`matmul` and `conv2d_weight_grad`, which also split the reduction, are faster.
"""


class CudaLinear(CudaConv, CudaMatmul, CudaLoss):
    """The primitives of kernels/linear_cross_entropy.cu and kernels/linear_weight_grads.cu.

    A small layer without an activation is computed by the kernel that can compute its loss too,
    whether the loss is computed with it or not: so the numbers are the same. The kernels of small
    layers multiply in float32, whatever the precision.
    """

    def joins_loss(self, x_shape: tuple[int, ...], w_shape: tuple[int, ...]) -> bool:
        found = JOINED["linear_cross_entropy"].holds(x_shape, w_shape)
        return not self.simple and found and x_shape[0] > 0 and w_shape[1] > 0

    def linear_forward(
        self, x: Array, w: Array, b: Array | None, activation: Activation | None = None, *, precision: str = "float32"
    ) -> Array:
        if activation is not None or not self.joins_loss(x.shape, w.shape):
            return self.matmul(x, w, Product(bias=b, activation=activation, precision=precision))
        return self._head(x, w, b, (None,) * 8, UNWEIGHTED)

    def linear_cross_entropy(
        self, x: Array, w: Array, b: Array | None, labels: Array, options: CrossEntropy = UNWEIGHTED, *,
        needs_dx: bool = True, precision: str = "float32",
    ) -> tuple[Array, LossParts, Array | None]:  # fmt: skip
        (rows, inputs), outputs = x.shape, w.shape[1]
        if not self.joins_loss(x.shape, w.shape):
            logits = self.linear_forward(x, w, b, precision=precision)
            parts = self.softmax_cross_entropy(logits, labels, options)
            product = Product(transpose_b=True, precision=precision)
            return logits, parts, self.matmul(parts[1], w, product) if needs_dx else None
        self._expect("linear_cross_entropy", weight=(options.weight, (outputs,)))
        if labels.shape != (rows,):
            raise ValueError(f"linear_cross_entropy: labels have shape {labels.shape} but take {(rows,)}")
        empty = self.arrays.empty
        dlogits, dx = empty((rows, outputs), x.dtype), empty((rows, inputs), x.dtype) if needs_dx else None
        row_losses, hits = empty((rows,), np.float32), empty((rows,), np.int32)
        loss, correct = empty((), np.float32), empty((), np.int32)
        given = labels, options.weight, dlogits, dx, row_losses, hits, loss, correct
        logits = self._head(x, w, b, given, options)
        return logits, (row_losses if options.reduction == "none" else loss, dlogits, correct), dx

    def _head(
        self, x: Array, w: Array, b: Array | None, given: tuple[Array | None, ...], options: CrossEntropy
    ) -> Array:
        """Launch a small layer, with its loss unless all arrays `given` for it are None -> logits."""
        (rows, inputs), outputs = x.shape, w.shape[1]
        element = self._element("linear_cross_entropy", x=(x, None), w=(w, (inputs, outputs)), b=(b, (outputs,)))
        logits = self.arrays.empty((rows, outputs), x.dtype)
        labels, dx = given[0], given[3]
        arrivals = None if labels is None else self._arrivals(1)
        fields = cross_entropy_fields(rows, outputs, options)
        args = x, w, b, logits, *given, arrivals, inputs, fields
        flops = 2 * rows * inputs * outputs * (1 if dx is None else 2)
        self.launcher.launch(
            instance("linear_cross_entropy", element), -(-rows // HEAD_ROWS), THREADS, args, work=Work(flops)
        )
        return logits

    def shares_launch(self, layer: LinearGrad) -> bool:
        return not self.simple and JOINED["linear_weight_grads"].holds(layer.x.shape, layer.w_shape)

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
        self._each("linear_weight_grads_simple", count, *args, element=element, work=Work(2 * rows * dw.size))

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
        turns = -(-max(fields["rows"]) // STEP_ROWS)
        self.launcher.launch(
            instance("linear_weight_grads_tiled", element), blocks, THREADS, (*arrays, fields), work=Work(flops, turns)
        )

    def _checked_layer(self, layer: LinearGrad) -> str:
        """The C type of the arrays, whose shapes and dtypes are checked."""
        dy, x, gate = layer[:3]
        y = None if gate is None else gate.y
        if dy.ndim != 2 or x.ndim != 2 or dy.shape[0] != x.shape[0]:
            raise ValueError(f"linear_weight_grads: dy has shape {dy.shape} and x {x.shape} but take (N, O) and (N, I)")
        return self._element("linear_weight_grads", dy=(dy, None), gate=(y, dy.shape), x=(x, None))
