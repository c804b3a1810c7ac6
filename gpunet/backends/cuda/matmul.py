"""Matrix products on a CUDA device."""

from gpunet.backends.contract import PLAIN_PRODUCT, Activation, Array, Gate, Product
from gpunet.backends.cuda.device import CudaDevice, activation_fields
from gpunet.cuda.tile_lists import GATES, mma_multiplies
from gpunet.cuda.work import Work

MOST_EXTENT = 2**29
"""The extents of a tiled product stay below it, for the bytes of a row are counted in 32 bits."""


class CudaMatmul(CudaDevice):
    """The primitives of kernels/matmul.cu."""

    def matmul(self, a: Array, b: Array, product: Product = PLAIN_PRODUCT) -> Array:
        self._element("matmul", a=(a, None), b=(b, None))
        if a.ndim != 2 or b.ndim != 2:
            raise ValueError(f"matmul: a has shape {a.shape} and b {b.shape} but both take 2 axes")
        m, depth = a.shape[::-1] if product.transpose_a else a.shape
        inner, p = b.shape[::-1] if product.transpose_b else b.shape
        if depth != inner:
            raise ValueError(f"matmul: a {a.shape} and b {b.shape} meet in axes of {depth} and {inner}")
        gate, bias, out = product.gate or Gate(None, None), product.bias, product.out
        element = self._element("matmul", a=(a, None), gate=(gate.y, a.shape), bias=(bias, (p,)), out=(out, (m, p)))
        y = self.arrays.empty((m, p), a.dtype) if out is None else out
        fields = {
            "M": m, "K": depth, "P": p,
            "transpose_a": int(product.transpose_a), "transpose_b": int(product.transpose_b),
            "accumulate": int(product.add and out is not None),
        }  # fmt: skip
        activations = activation_fields(gate.activation), activation_fields(product.activation)
        flops = 2 * m * depth * p
        if self.simple or max(m, depth, p) >= MOST_EXTENT:
            self._each(
                "matmul_simple", y.size, a, gate.y, b, bias, y, fields, *activations, element=element, work=Work(flops)
            )
        elif y.size:
            vector = a.shape[1] % 4 == 0 and b.shape[1] % 4 == 0 and self._aligned(a, gate.y, b)
            transposes = product.transpose_a, product.transpose_b
            opened, made = _name(gate.activation), _name(product.activation)
            terms = 0
            if mma_multiplies(transposes, gated=bool(opened), general=made not in ("", "relu")):
                terms = self._terms(element, product.precision, (a.shape[1], b.shape[1], p), a, gate.y, b, y)
            name = ("ACTIVATION" if opened else "NONE") if terms else _gate_name(element, opened, made, transposes)
            layout = self._lay_out(
                "matmul", element, m, p, depth, gate=name, terms=terms, left=vector, right=vector
            )  # fmt: skip
            args = a, gate.y, b, bias, y, *self._slots(layout), fields, *activations, layout.turns
            self._launch_tiles("matmul", element, layout, (GATES[name], *transposes), args, flops)
        return y

    def batched_matmul(
        self, a: Array, b: Array, *, transpose_a: bool = False, transpose_b: bool = False, precision: str = "float32"
    ) -> Array:
        self._element("batched_matmul", a=(a, None), b=(b, None))
        if a.ndim != 3 or b.ndim != 3 or a.shape[0] != b.shape[0]:
            raise ValueError(f"batched_matmul: a has shape {a.shape} and b {b.shape} but take (B, M, K) and (B, K, P)")
        m, p = a.shape[1 + transpose_a], b.shape[2 - transpose_b]
        y = self.arrays.empty((a.shape[0], m, p), a.dtype)
        for i in range(a.shape[0]):  # one launch for each pair
            one, other, out = (t[i : i + 1].reshape(t.shape[1:]) for t in (a, b, y))
            self.matmul(one, other, Product(transpose_a, transpose_b, out=out, precision=precision))
        return y


def _gate_name(element: str, opened: str, made: str, transposes: tuple[bool, bool]) -> str:
    """The gate of `gpunet.cuda.tile_lists.GATES` that a product on the CUDA cores needs.

    The general one also stands for any activation of the results.

    Args:
        opened, made: the names of the activations of the gate and of the results; "" for none.
    """
    if element != "float" or made not in ("", "relu") or opened not in ("", "relu"):
        return "ACTIVATION"
    if not opened:
        return "NONE"
    return "RELU" if transposes == (False, True) else "ACTIVATION"


def _name(activation: Activation | None) -> str:
    return "" if activation is None else activation.name
