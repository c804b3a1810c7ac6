"""The contract between arrays and everything above them: `Backend`, whose primitives every backend computes.

What they are stands in three parts: `base_arrays`, `base_layers` and `base_training`.

Letters of the shapes: N images, H x W pixels, C channels, KH x KW a window, OH x OW output pixels, O filters. Layouts are
x (N, H, W, C) and w (KH, KW, C // groups, O). An `Array` is the backend's own C-contiguous array; primitives never change
their inputs, and return new arrays unless an `out` is given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self

from gpunet.backends.base_arrays import ArrayPrimitives
from gpunet.backends.base_layers import LayerPrimitives
from gpunet.backends.base_training import TrainingPrimitives
from gpunet.backends.values import (
    ACTIVATIONS,
    BINARY,
    COMPARISONS,
    COUNTS,
    FUSED_POOL,
    INPUT_ACTIVATIONS,
    LINES,
    UNARY,
    Activation,
    Array,
    FlatStorage,
    Gate,
    Index,
    InputActivation,
    Moments,
    Note,
    Segments,
    check_fused_pool,
    is_float,
    rows_in_order,
)

if TYPE_CHECKING:
    from gpunet.cuda.capture import Recorder


class Backend(ArrayPrimitives, LayerPrimitives, TrainingPrimitives):
    """Where arrays live and primitives run."""

    name: str
    dtypes: ClassVar[tuple[str, ...]]
    """Float dtypes that its primitives compute in."""
    narrow: ClassVar[tuple[str, ...]] = ()
    """Those among them that are only stored, in 16 bits, while sums are float32; parameters then are float32 as well, and are
    rounded when an operation takes them."""

    def __reduce__(self) -> tuple[Any, ...]:
        """A copied or unpickled model finds its backend again by name."""
        from gpunet.backends import get_backend

        return get_backend, (self.name,)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def recorder(self) -> Recorder | None:
        """What records launches, to run them again with one; None where there are none."""
        return None


__all__ = [
    "ACTIVATIONS",
    "BINARY",
    "COMPARISONS",
    "COUNTS",
    "FUSED_POOL",
    "INPUT_ACTIVATIONS",
    "LINES",
    "UNARY",
    "Activation",
    "Array",
    "Backend",
    "FlatStorage",
    "Gate",
    "Index",
    "InputActivation",
    "Moments",
    "Note",
    "Segments",
    "check_fused_pool",
    "is_float",
    "rows_in_order",
]
