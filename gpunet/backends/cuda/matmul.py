"""Matrix products on a CUDA device."""

from gpunet.backends.contract import PLAIN_PRODUCT, Array, Gate, Product
from gpunet.backends.cuda.device import THREADS, CudaDevice, activation_fields
from gpunet.backends.cuda.tiles import TILE_K, count_tiles, select_tile
from gpunet.cuda.instantiations import MATMUL_TILES, instance
from gpunet.cuda.work import Work


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
        args = a, gate.y, b, bias, y, fields, activation_fields(gate.activation), activation_fields(product.activation)
        work = Work(2 * m * depth * p)
        if self.simple:
            self._each("matmul_simple", y.size, *args, element=element, work=work)
        elif y.size:
            by_four = a.shape[1] % 4 == 0 and b.shape[1] % 4 == 0 and p % 4 == 0
            vector = by_four and self._aligned(a, gate.y, b, y)
            tile = select_tile(MATMUL_TILES, m, p, vector=vector, busy=self.busy)
            kernel = instance("matmul_tiled", element, *tile, product.transpose_a, product.transpose_b)
            self.launcher.launch(
                kernel, count_tiles(m, p, tile), THREADS, args, work=work._replace(turns=-(-depth // TILE_K))
            )
        return y

    def batched_matmul(self, a: Array, b: Array, *, transpose_a: bool = False, transpose_b: bool = False) -> Array:
        self._element("batched_matmul", a=(a, None), b=(b, None))
        if a.ndim != 3 or b.ndim != 3 or a.shape[0] != b.shape[0]:
            raise ValueError(f"batched_matmul: a has shape {a.shape} and b {b.shape} but take (B, M, K) and (B, K, P)")
        m, p = a.shape[1 + transpose_a], b.shape[2 - transpose_b]
        y = self.arrays.empty((a.shape[0], m, p), a.dtype)
        for i in range(a.shape[0]):  # one launch for each pair
            one, other, out = (t[i : i + 1].reshape(t.shape[1:]) for t in (a, b, y))
            self.matmul(one, other, Product(transpose_a, transpose_b, out=out))
        return y
