"""`Parameter`: a tensor that an optimizer updates and keeps in its arena."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np

from gpunet.arena import Arena, moved
from gpunet.backends.contract import Array, Backend, is_float, is_masked
from gpunet.dlpack import writable
from gpunet.precision import loaded
from gpunet.tensors import Tensor, tensor


class Parameter(Tensor):
    """A tensor that an optimizer updates. Once it does, data and gradient are views of its arena.

    Operations whose other inputs have a 16-bit dtype take a float32 parameter rounded to that
    dtype, on a backend that only stores 16 bits; the parameter and its gradient stay float32.

    A copy or a pickle of a parameter has values of its own, and no optimizer holds it. A copied or
    unpickled optimizer gathers the copies of its parameters into an arena of its own; so a model
    and its optimizer that are copied together belong together, and each is whole when copied alone.
    As in PyTorch, the pickle of a parameter leaves its gradient out; the pickle of an optimizer
    contains the gradients of its parameters.

    Values that may only be read are copied, for optimizers write to a parameter.

    Args:
        data: an array of the backend; or, where the backend is a name or None, values as for
            `tensor`.
        backend: as for `tensor`: None stands for NumPy, or for the GPU with an array of CuPy's.
    Attributes:
        matrix: whether the parameter is a matrix (fan in, units) once all axes but the last are
            joined, as dense weights (I, O) and filters (KH, KW, C, O) are. Max-norm and
            `optim.Muon` ask for it when the optimizer is made. By default parameters of 2 or 4 axes
            are matrices.
    """

    _storage: ClassVar[tuple[str, ...]] = ("_data", "_grad", "_backend", "arena", "segment")

    arena: Arena | None = None
    segment = -1

    def __init__(
        self, data: Any, backend: str | Backend | None = None, requires_grad: bool = True, matrix: bool | None = None
    ):
        if not isinstance(backend, Backend):
            made = tensor(data, backend=backend)
            data, backend = made.data, made.backend
        self.matrix = len(data.shape) in (2, 4) if matrix is None else matrix
        super().__init__(data, backend, requires_grad)

    @property
    def held(self) -> bool:
        """Whether a living optimizer holds the parameter."""
        return self.arena is not None and self.arena.owner is not None and self.arena.owner() is not None

    @property
    def data(self) -> Array:
        return self._data if self.arena is None else self.arena.views[self.segment]

    @data.setter
    def data(self, array: Array) -> None:
        """Set the values to an array of floats of the backend or of NumPy; an arena gets a copy.

        Raises:
            TypeError: no array, or no floats.
            ValueError: in an arena, another shape, or a finite value that the dtype cannot hold.
        """
        self._check_floats(array)
        if self.arena is None:
            self._data = writable(self.backend.asarray(array)) if isinstance(array, np.ndarray) else array
        else:
            self._check_shape("data", array)
            if isinstance(array, np.ndarray):
                array = self.backend.asarray(loaded("parameter: data", array, self.shape, self.dtype))
            self.arena.backend.copy(array, out=self.arena.views[self.segment])
            self.arena.version += 1

    @property
    def grad(self) -> Array | None:
        if self.arena is None:
            return self._grad
        return self.arena.grad_views[self.segment] if self.arena.written[self.segment] else None

    @grad.setter
    def grad(self, array: Array | None) -> None:
        if self.arena is None:
            self._grad = array
        else:
            if array is not None and array is not self.arena.grad_views[self.segment]:
                self._check_shape("grad", array)
                self.arena.backend.copy(array, out=self.arena.grad_views[self.segment])
            self.arena.written[self.segment] = array is not None

    @property
    def backend(self) -> Backend:
        return self._backend if self.arena is None else self.arena.backend

    @backend.setter
    def backend(self, backend: Backend) -> None:
        self._backend = backend

    @property
    def version(self) -> int:
        """Number of changes of the values; in an arena, of any of the arena's values."""
        return self._version if self.arena is None else self.arena.version

    @version.setter
    def version(self, value: int) -> None:
        self._version = value

    def accumulate_grad(self, grad: Array, *, fresh: bool = False) -> None:
        """As `Tensor.accumulate_grad`; in an arena, setting `grad` makes the copy."""
        super().accumulate_grad(grad, fresh=fresh or self.arena is not None)

    def operand(self, dtype: np.dtype) -> Array:
        """The values for an operation in `dtype`, rounded if the backend stores it in 16 bits."""
        if dtype == self.dtype or dtype.name not in self.backend.narrow:
            return self.data
        if self.arena is None:
            return self.backend.cast(self._data, dtype)
        return self.arena.rounded(self.segment, dtype)

    def _check_floats(self, array: Array) -> None:
        known = self.backend.owns(array) or isinstance(array, np.ndarray)
        if not known or is_masked(array):
            raise TypeError(f"parameter: data takes an array of {self.backend.name}, got {type(array).__name__}")
        if not is_float(array.dtype):
            raise TypeError(f"parameter: data is {array.dtype} but takes floats")

    def _check_shape(self, what: str, array: Array) -> None:
        if tuple(array.shape) != self.shape:
            raise ValueError(f"parameter: {what} has shape {tuple(array.shape)} but takes {self.shape}")

    def adopt(self, arena: Arena, segment: int) -> None:
        """Move the values and the gradient into a segment of an arena, out of any other arena."""
        self.release()
        data, grad = self._data, self._grad
        self.arena, self.segment = arena, segment
        arena.backend.copy(data, out=arena.views[segment])
        arena.version = max(arena.version, self._version)  # the values are as before
        self.grad = grad
        self._data = self._grad = None

    def release(self) -> None:
        """Copy the values and the gradient out of the arena, if the parameter is in one."""
        if self.arena is None:
            return
        backend, version, grad = self.arena.backend, self.arena.version, self.grad
        self._data = backend.copy(self.arena.views[self.segment])
        self._grad = None if grad is None else backend.copy(grad)
        self._backend, self._version = backend, version
        self.arena, self.segment = None, -1

    def __copy__(self) -> Self:
        """A parameter on the same memory that no optimizer holds."""
        twin = super().__copy__()
        if self.arena is not None:
            twin.arena, twin.segment = None, -1
            twin.backend, twin.data, twin.grad, twin.version = self.backend, self.data, self.grad, self.version
        return twin

    def move(self, backend: Backend) -> None:
        """Move to another backend in place; the arena, if there is one, moves as a whole."""
        if self.arena is not None:
            self.arena.to(backend)
        elif backend is not self._backend:
            before, self._backend = self._backend, backend
            self._data = moved(self._data, before, backend)
            self._grad = None if self._grad is None else moved(self._grad, before, backend)


def parameter(data: Any, *, dtype: Any = None, matrix: bool | None = None) -> Parameter:
    """A parameter on the host, where models are made.

    Args:
        data: the values, as for `tensor`.
        dtype: the float dtype to convert to, as for `tensor`.
        matrix: whether it is a matrix, as for `Parameter`.
    """
    return Parameter(tensor(data, dtype=dtype, requires_grad=True), matrix=matrix)
