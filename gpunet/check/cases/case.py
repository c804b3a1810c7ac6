"""`Case`, a call that runs on any backend, and `Draw`, which draws the inputs of cases."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np

from gpunet.backends import Backend
from gpunet.backends.contract import Array
from gpunet.backends.cuda.backend import CudaBackend

Arrays = Mapping[str, Array]
Run = Callable[[Backend, Arrays], Sequence[Array | None]]
VARIANTS: dict[str, dict[str, Any]] = {"chosen": {}, "simple": {"simple": True}}
"""The ways in which a CUDA backend can choose kernels: as it does by itself, the simple kernels, or
the tiles of these rows and columns, where they can be used."""
for _rows, _cols in ((128, 256), (128, 128), (128, 64), (64, 64), (128, 32), (128, 16), (32, 64), (32, 32), (64, 16)):
    VARIANTS[f"{_rows} x {_cols}"] = {"tile": (_rows, _cols)}

FAST_AND_SIMPLE = ("chosen", "simple")
SPECIAL = np.resize(np.array([0.5, -2, 0, 3, np.nan, np.inf], np.float32), (3, 5))
"""Numbers with NaN and infinity among them."""


@dataclass(frozen=True)
class Case:
    """A call of one or more primitives.

    Args:
        name: is unique among the cases of its dtype.
        dtype: the dtype in which floats are stored, except those of `single`.
        inputs: arrays on the host. Their floats are float32 numbers that `dtype` represents
            exactly.
        run: makes the call on a backend's arrays of these names -> the results; it may write to the
            arrays.
        single: inputs that are float32 whatever the dtype.
        variants: those of `VARIANTS` that launch different kernels.
    """

    name: str
    dtype: str
    inputs: dict[str, np.ndarray]
    run: Run
    single: frozenset[str] = field(default=frozenset())
    variants: tuple[str, ...] = ("chosen",)

    @property
    def key(self) -> str:
        """A name that is unique among all cases."""
        return f"{self.name} [{self.dtype}]"

    def results(self, backend: Backend) -> list[np.ndarray]:
        """The results of the call on a CUDA backend, on the host, without those that are None."""
        return self._run(backend, lambda name, a: a if name in self.single else a.astype(self.dtype))

    def expected(self, reference: Backend) -> list[np.ndarray]:
        """The results of the call on the reference backend, computed in float64."""
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            return self._run(reference, lambda _, a: a.astype(np.float64))

    def _run(self, backend: Backend, convert: Callable[[str, np.ndarray], np.ndarray]) -> list[np.ndarray]:
        arrays = {
            name: backend.asarray(convert(name, a) if a.dtype == np.float32 else a.copy())
            for name, a in self.inputs.items()
        }
        return [np.array(backend.to_numpy(y)) for y in self.run(backend, arrays) if y is not None]


def variant(backend: CudaBackend, name: str) -> CudaBackend:
    """The same device with the kernels of one of `VARIANTS`."""
    return backend.twin(**VARIANTS[name])


class Draw:
    """Draws the random inputs of a topic's cases in a dtype.

    Args:
        topic: seeds the random numbers, together with the dtype.
        dtype: must represent all floats exactly.
    """

    def __init__(self, topic: str, dtype: str):
        self.dtype = dtype
        self.rng = np.random.default_rng(crc32(f"{topic} {dtype}".encode()))

    def normal(self, *shape: int) -> np.ndarray:
        """Normal numbers that the dtype represents exactly, float32."""
        return self.rounded(self.rng.normal(size=shape))

    def rounded(self, a: np.ndarray) -> np.ndarray:
        """Numbers rounded to the dtype, as float32."""
        return a.astype(self.dtype).astype(np.float32)

    def call(
        self,
        primitive: str,
        *args: Any,
        label: str = "",
        single: Sequence[int | str] = (),
        variants: tuple[str, ...] = ("chosen",),
        **options: Any,
    ) -> Case:
        """A case of one primitive that changes none of its inputs.

        Args:
            args, options: the arguments of the primitive. Arrays on the host, also those inside a
                `Gate`, `Moments` or `Clock`, become inputs of the case.
            label: distinguishes the case from others of this primitive.
            single: positions and names of arrays that stay float32.
        """
        inputs: dict[str, np.ndarray] = {}
        given = [_kept(value, str(i), inputs) for i, value in enumerate(args)]
        named = {name: _kept(value, name, inputs) for name, value in options.items()}

        def run(on: Backend, arrays: Arrays) -> Sequence[Array | None]:
            results = getattr(on, primitive)(
                *(_placed(value, arrays) for value in given),
                **{name: _placed(value, arrays) for name, value in named.items()},
            )
            return _flat(results)

        name = f"{primitive} {label}".strip()
        return Case(name, self.dtype, inputs, run, frozenset(map(str, single)), variants)


class _Input(NamedTuple):
    """Stands for the input of this name."""

    name: str


def _is_record(value: Any) -> bool:
    return isinstance(value, tuple) and hasattr(value, "_fields")


def _kept(value: Any, name: str, inputs: dict[str, np.ndarray]) -> Any:
    """The value with each array replaced by an `_Input`; the arrays are added to `inputs`."""
    if isinstance(value, np.ndarray):
        inputs[name] = value
        return _Input(name)
    if _is_record(value):
        return type(value)(*(_kept(part, f"{name}.{i}", inputs) for i, part in enumerate(value)))
    return value


def _placed(value: Any, arrays: Arrays) -> Any:
    """The value with each `_Input` replaced by the array of its name."""
    if isinstance(value, _Input):
        return arrays[value.name]
    return type(value)(*(_placed(part, arrays) for part in value)) if _is_record(value) else value


def _flat(results: Any) -> list[Array | None]:
    """Results in nested tuples as one list."""
    return [y for part in results for y in _flat(part)] if isinstance(results, tuple) else [results]
