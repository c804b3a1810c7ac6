"""The contract of matrix products, and `Product`: what a product takes beside its two matrices."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from gpunet.backends.contract.activation import Activation
from gpunet.backends.contract.arrays import Array
from gpunet.backends.contract.gradients import Gate

__all__ = ["MATRIX_PRECISIONS", "PLAIN_PRODUCT", "Product", "check_matrix_precision"]

MATRIX_PRECISIONS = ("float32", "tf32", "3xtf32")
"""The least accuracies with which float32 operands are multiplied on matrix units.

"tf32" rounds operands to 10 bits behind the point. "3xtf32" has float32's accuracy: each operand is
split in two such numbers, and three of their products are added. Each of them is a permission. A
backend without matrix units, and a shape that no matrix unit's kernel takes, are computed in
float32, which is more accurate. Sums are float32 in all of them, and operands that are stored in 16
bits do not depend on it.
"""


def check_matrix_precision(operation: str, precision: str) -> None:
    """Raise a ValueError unless it is one of `MATRIX_PRECISIONS`."""
    if precision not in MATRIX_PRECISIONS:
        raise ValueError(f"{operation}: precision is {precision!r} but takes one of {', '.join(MATRIX_PRECISIONS)}")


@dataclass(frozen=True, slots=True)
class Product:
    """The options of a matrix product.

    Raises:
        ValueError: a bias or an activation for a product that is added to `out`; an unknown
            precision.
    """

    transpose_a: bool = False
    transpose_b: bool = False
    bias: Array | None = None
    """(P,), added to every row."""
    activation: Activation | None = None
    gate: Gate | None = None
    """Applied to `a` first, whose shape gate.y has; it has no mask."""
    out: Array | None = None
    """(M, P), where the result is written; None for a new array."""
    add: bool = False
    """Whether to add to what `out` holds. Without an `out`, the product alone is the result."""
    precision: str = "float32"
    """The least accuracy with which float32 matrices are multiplied, see `MATRIX_PRECISIONS`."""

    def __post_init__(self) -> None:
        check_matrix_precision("matmul", self.precision)
        if self.add and (self.bias is not None or self.activation is not None):
            raise ValueError("matmul: only a product without bias and activation can be added to another")


PLAIN_PRODUCT = Product()
"""a b, in a new array."""


class MatmulPrimitives(ABC):
    """Products of matrices."""

    @abstractmethod
    def matmul(self, a: Array, b: Array, product: Product = PLAIN_PRODUCT) -> Array:
        """y (M, P) = f(op(a) op(b) + bias), where op(a) (M, K) and op(b) (K, P) may be
        transposes."""

    @abstractmethod
    def batched_matmul(
        self, a: Array, b: Array, *, transpose_a: bool = False, transpose_b: bool = False, precision: str = "float32"
    ) -> Array:
        """Products of pairs of matrices: a (B, M, K), b (B, K, P), or transposes -> (B, M, P).

        Args:
            precision: as that of a `Product`.
        """
