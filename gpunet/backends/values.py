"""What primitives take and give beside arrays: activations, gates, segments of an arena, notes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import ml_dtypes  # noqa: F401 - gives NumPy the dtype name "bfloat16"
import numpy as np

from gpunet.geometry import Geometry

Array = Any
"""numpy.ndarray, cupy.ndarray or the emulator's array: never mixed."""
Index = tuple[int | slice | None, ...]

BINARY = ("add", "subtract", "multiply", "divide", "power", "maximum", "minimum")
COMPARISONS = ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal")
COUNTS = ("bool", "int32", "int64")
"""dtypes of masks, labels and positions: tensors of these have no gradient, and are cast to a float to compute with."""
UNARY = ("negative", "exp", "log", "sqrt", "abs", "sign")
ACTIVATIONS = ("relu", "leaky_relu", "sigmoid", "tanh", "elu", "relu6", "hard_tanh", "hard_sigmoid")
"""Activations whose gradient follows from their output, so that they can be fused into the operation before them."""
LINES = ("relu6", "hard_tanh", "hard_sigmoid")
"""Those among them that are a line between two limits."""
INPUT_ACTIVATIONS = ("gelu", "silu", "softplus", "hard_swish", "sigmoid", "tanh", "elu")
"""Those whose gradient takes their input. Most fall before they rise, so that the output does not tell it. The last three tend
to a limit, near which the output has lost the digits that tell it: they may be fused too, but here they are not."""
FUSED_POOL = (2, 2)
"""Window, and stride, of the max pool that a convolution can take in."""


@dataclass(frozen=True, slots=True)
class Activation:
    """An elementwise function by name, with what some of them take, which the others leave unused.

    Raises:
        ValueError: a name that is none of `ACTIVATIONS`, or numbers that leave the output without a sign of the gradient.
    """

    name: str
    slope: float = 0.01
    """Leaky ReLU's for negative inputs, positive."""
    alpha: float = 1.0
    """ELU tends to -alpha, positive."""
    low: float = -1.0
    """The least output of hard tanh."""
    high: float = 1.0
    """The largest."""

    def __post_init__(self) -> None:
        if self.name not in ACTIVATIONS:
            raise ValueError(f"activation: name is {self.name!r} but takes one of {', '.join(ACTIVATIONS)}")
        if self.name == "leaky_relu" and not self.slope > 0:
            raise ValueError(f"leaky_relu: negative_slope is {self.slope} but must be positive; use relu for 0")
        if self.name == "elu" and not self.alpha > 0:
            raise ValueError(f"elu: alpha is {self.alpha} but must be positive; use relu for 0")
        if self.name == "hard_tanh" and not self.low < self.high:
            raise ValueError(f"hard_tanh: low is {self.low} and high {self.high} but low must be less")

    @property
    def line(self) -> tuple[float, float, float, float]:
        """(slope, shift, low, high) of one of `LINES`: y = min(max(slope (x + shift), low), high).

        Its gradient is slope strictly between the limits and 0 at them, as PyTorch has it.
        """
        if self.name == "hard_sigmoid":
            return 1 / 6, 3.0, 0.0, 1.0
        if self.name == "relu6":
            return 1.0, 0.0, 0.0, 6.0
        return 1.0, 0.0, self.low, self.high


@dataclass(frozen=True, slots=True)
class InputActivation:
    """An elementwise function by name whose gradient takes the input; `beta` is softplus's, or ELU's alpha.

    Raises:
        ValueError: a name that is none of `INPUT_ACTIVATIONS`, or a beta that is not positive.
    """

    name: str
    beta: float = 1.0

    def __post_init__(self) -> None:
        if self.name not in INPUT_ACTIVATIONS:
            raise ValueError(f"activation: name is {self.name!r} but takes one of {', '.join(INPUT_ACTIVATIONS)}")
        if not self.beta > 0:
            raise ValueError(f"{self.name}: beta is {self.beta} but must be positive")


class Gate(NamedTuple):
    """What a gradient kernel needs to take dy back through a fused activation and max pool while it loads dy."""

    y: Array
    """The fused operation's output: after the pool, if there is one, as dy is; not read, and None, without activation."""
    activation: Activation | None
    mask: Array | None = None
    """The fused pool's mask, of y's shape; None without a pool."""
    pool: Geometry | None = None
    """The fused pool's geometry."""


class Moments(NamedTuple):
    """What a normalisation normalised by: batch norm by the batch's in training, by the running ones in inference."""

    mean: Array
    """(C,); of group norm (N, groups)."""
    variance: Array
    """The same, biased: the sum of squares over n."""


class Segments(NamedTuple):
    """Ranges of an arena's elements and the hyper-parameters of each."""

    bounds: np.ndarray
    """(M, 2) int64: first element and the one past the last."""
    hyper: Array
    """(M, K) float64, one column a hyper-parameter; the update's docstring names them."""
    placed: Array | None = None
    """`bounds` as the backend's own array, for whoever records an update; then `hyper` is one too, and is read when the update
    runs: it may hold other numbers at every replay. Both must outlive the record."""


class Note(NamedTuple):
    """What a recorded update leaves for the host to read later, and what it asks before it updates anything."""

    loss: Array
    """The step's loss, one element."""
    correct: Array | None
    """int32, one element."""
    last: Array
    """(3,) float64: the note of the step before; zeros before the first."""
    row: Array
    """(3,) float64, written: loss, correct (0 if there is none) and held, how many steps have updated nothing: the first
    whose loss was not finite, and all after it."""


class FlatStorage(Protocol):
    """What an update needs of an arena: flat arrays of one length and dtype."""

    data: Array
    grad: Array
    slots: dict[str, Array]
    shadow: Array | None
    """`data` rounded to 16 bits, which an update keeps up to date; None if nobody computes with it."""
    scaling: Array | None
    """(scale, good, skipped) in float32, the state of dynamic loss scaling; None if `grad` is of the loss itself.

    Then `grad` is that of scale times the loss. `gradient_norm` takes the scale out again, and an update whose gradients
    overflowed changes nothing but this state: the scale halves, and doubles again after 2,000 updates in a row that were good.
    """


def rows_in_order(rows: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """(order, starts) of `ArrayPrimitives.take_backward` for the row numbers `rows` (R,) of `length` rows, on the host."""
    counts = np.bincount(rows, minlength=length)
    return np.argsort(rows, kind="stable"), np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def is_float(dtype: Any) -> bool:
    """Whether a dtype is a float's; bfloat16, which NumPy does not know by itself, is one too."""
    return np.dtype(dtype).kind == "f" or np.dtype(dtype).name == "bfloat16"


def check_fused_pool(operation: str, g: Geometry, pool: Geometry | None) -> None:
    """ValueError unless `pool`, if there is one, is one that a convolution of this geometry can take in."""
    if pool is not None and pool != Geometry.pool(g.y_shape, FUSED_POOL):
        raise ValueError(f"{operation}: pool is {pool} but only 2x2 windows side by side over {g.y_shape} are fused")
