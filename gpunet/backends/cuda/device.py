"""`CudaDevice`: the launches and checks of which the primitives of `CudaBackend` are made."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cache, lru_cache
from math import prod
from typing import Any, NamedTuple
from weakref import finalize

import numpy as np

from gpunet.backends.contract import ACTIVATIONS, LINES, Activation, Array, Backend, Into
from gpunet.backends.cuda.tiles import TOTALED, Layout, dynamic_bytes, fits, lay_out, limits_of
from gpunet.cuda.arrays import Arrays, View, tiled_walk, walk
from gpunet.cuda.capture import Recorder
from gpunet.cuda.description import H200, Description
from gpunet.cuda.instantiations import MOVED, PIECES
from gpunet.cuda.launcher import Launcher
from gpunet.cuda.naming import ELEMENTS, instance
from gpunet.cuda.tile_lists import LEAST_ARCHITECTURE, TERMS, mma_instance, tiled_instance
from gpunet.cuda.tile_table import TiledProduct, tiles_of
from gpunet.cuda.work import NO_PRODUCT, Work
from gpunet.geometry import Geometry
from gpunet.nvrtc.source import constant

THREADS, WARP = constant("common.cuh", "THREADS"), constant("common.cuh", "WARP")
"""Threads of a block, unless a kernel says otherwise, and of a warp."""
MAX_BLOCKS = 16384
"""Most blocks of a grid-stride launch: more than any device runs at once. In a larger array each
block takes several parts."""
MOST_POSITIONS = 2**31 - 2**16
"""Kernels count fewer positions than this in 32 bits, and step beyond the last of them."""
PARTIALS = 256
"""Most blocks of a reduction whose partial results one last block adds."""
LINE = constant("common.cuh", "ACTIVATION_LINE")
"""`kind` of every activation that is a line between two limits."""
NARROW = {element: dtype for dtype, element in ELEMENTS.items() if element != "float"}
"""The dtypes of 16 bits, by C type."""
ARRIVALS = 4096
"""Counters of tiles in one array: enough for the gradients of 512 filters of 3x3x512."""

Expected = tuple[Array | None, Sequence[int] | None]
"""An array, or None, and the shape that it must have; None for any shape."""


class KeptOnStream(NamedTuple):
    """Arrays for the launches of one stream, which run in order and beside those of other streams.

    A recorder's counters are kept as long as its stream, since a graph may use them. A graph gets
    its tables from its recorder.
    """

    counts: list[Array]
    """Arrays of zeros for `CudaDevice._arrivals`, each larger than the one before."""
    tables: OrderedDict[tuple[str, bytes], Array]
    """Small tables that were sent from the host, by dtype and content; the last one was used
    last."""


class CudaDevice(Backend):
    """The arrays and launches of a CUDA device, without the primitives.

    Args:
        arrays: makes arrays on the device.
        launcher: runs kernels on these arrays.
        simple: run the simple variant of every kernel that has two variants; for tests.
        description: the numbers of the device by which products are cut into tiles and splits,
            and with them the order of sums.
        tile: rows and columns of the tiles that products use, where a kernel has such; tests go
            through all of them.
        name: name of the backend.
        device: number of the CUDA device; None where the arrays are not in a CUDA device's memory.
    """

    dtypes = tuple(ELEMENTS)
    """float32, and 16-bit dtypes, in which primitives that add up in float32 may store arrays; the
    others take only float32."""
    narrow = ("float16", "bfloat16")

    def __init__(
        self,
        arrays: Arrays,
        launcher: Launcher,
        *,
        simple: bool = False,
        description: Description = H200,
        tile: tuple[int, int] | None = None,
        name: str = "cuda",
        device: int | None = None,
    ):
        self.name, self.cuda_device = name, device
        self.arrays = arrays
        self.launcher = launcher
        self.simple, self.description, self.tile = simple, description, tile
        self._constants: dict[Hashable, Array] = {}
        self._kept: dict[Hashable, KeptOnStream] = {}
        self._most_counts = ARRIVALS

    @property
    def matrix_units(self) -> tuple[str, ...]:
        return (*TERMS, *reversed(self.narrow)) if self.description.architecture >= LEAST_ARCHITECTURE else ()

    def recorder(self) -> Recorder:
        """A recorder whose stream already has the kernels' counters: a capture cannot make any."""
        recorder = Recorder(self.arrays)
        with recorder.current():
            self._arrivals(self._most_counts)
            finalize(recorder.stream, self._kept.pop, self.arrays.stream_key()).atexit = False
        return recorder

    def _each(
        self, kernel: str, count: int, *args: Any, element: str = "float", each: int = 1, work: Work = NO_PRODUCT
    ) -> None:
        """Launch a kernel that walks `count` elements, if any, with a grid-stride loop.

        Args:
            element: the kernel's template arguments; empty if it is no template.
            each: elements that a thread takes at once.
        """
        if count:
            blocks = min(-(-count // (each * THREADS)), MAX_BLOCKS)
            self.launcher.launch(instance(kernel, element) if element else kernel, blocks, THREADS, args, work=work)

    def _copy(self, operation: str, source: Array, source_view: View, target: Array, target_view: View) -> None:
        element = self._moved(operation, source.dtype)
        steps = walk(operation, source_view, target_view)
        count = prod(source_view.shape)
        tiled = None if self.simple or not count else tiled_walk(steps, source.dtype.itemsize)
        if tiled is None:
            self._each("strided_copy", count, source, target, count, steps, element=element)
        else:
            kernel, blocks = instance("strided_copy_tiled", element), min(tiled.number, MAX_BLOCKS)
            self.launcher.launch(kernel, blocks, THREADS, (source, target, *tiled))

    def _on_stream(self) -> KeptOnStream:
        """The arrays that are kept for the launches of the current stream."""
        return self._kept.setdefault(self.arrays.stream_key(), KeptOnStream([], OrderedDict()))

    def _arrivals(self, count: int) -> Array:
        """At least `count` int32 zeros, for kernels that count blocks and restore zeros."""
        sets = self._on_stream().counts
        if not sets or sets[-1].size < count:
            self._most_counts = max(self._most_counts, count)
            sets.append(self.arrays.asarray(np.zeros(self._most_counts, np.int32)))
        return sets[-1][:count]

    def _terms(self, element: str, precision: str, extents: Sequence[int], *arrays: Array | None) -> int:
        """The products on the tensor cores for each product of two elements; 0 on the CUDA cores.

        Args:
            precision: of float operands, see `MATRIX_PRECISIONS`.
            extents: of contiguous axes, which must be whole chunks of 16 bytes.
            arrays: which must be aligned to 16 bytes.
        """
        wanted = NARROW.get(element, precision)
        if wanted not in self.matrix_units:
            return 0
        chunk = 8 if element in NARROW else 4
        whole = all(n % chunk == 0 for n in extents)
        aligned = all(a is None or self.arrays.pointer(a) % 16 == 0 for a in arrays)
        return TERMS.get(wanted, 1) if whole and aligned else 0

    def _lay_out(
        self, kernel: str, element: str, rows: int, cols: int, depth: int, *, left: bool, right: bool, copies: int = 1,
        terms: int = 0, gate: str = "NONE", general: bool = False,
    ) -> Layout:  # fmt: skip
        """How a kernel computes rows x cols results in tiles; see :func:`lay_out`.

        Args:
            kernel: the name of the primitive.
            terms: what `_terms` returned.
            gate: of a gradient or a product, which the tile must have.
            general: whether conv2d_forward computes another activation than ReLU.
            left, right, copies: those of `lay_out`.
        """
        product = TiledProduct(kernel, element, terms, gate, general, rows, cols, depth, copies, left, right)
        found, table = tiles_of(product), self.description.table
        wanted = tuple(t for t in found if (t.rows, t.cols) == self.tile and fits(t, left, right))
        return lay_out(
            wanted or found, rows, cols, depth, self.description, left=left, right=right, copies=copies,
            chosen=None if table is None or wanted else table.find(product), **limits_of(kernel),
        )  # fmt: skip

    def _launch_tiles(
        self, kernel: str, element: str, layout: Layout, options: Sequence[object], args: Sequence[Any], flops: int
    ) -> None:
        """Launch a kernel that computes a product in tiles.

        Args:
            options: the template arguments behind the tile.
        """
        tile, work = layout.tile, layout.work(flops)
        if tile.terms:
            name = mma_instance(kernel, element, tile, *options)
        else:
            name = tiled_instance(f"{kernel}_tiled", element, tile, *options)
        shared = dynamic_bytes(tile, kernel in TOTALED)
        self.launcher.launch(name, layout.blocks, tile.threads, tuple(args), shared=shared, work=work)

    def _slots(self, layout: Layout, extra: int = 0) -> tuple[Array | None, Array | None]:
        """(slots, arrivals): where the splits of a product's tiles meet; None without splits.

        Args:
            extra: floats of a slot besides the tile's results.
        """
        if layout.splits == 1:
            return None, None
        floats = layout.tile.rows * layout.tile.cols + extra
        return self.arrays.empty((layout.tiles, layout.splits, floats), np.float32), self._arrivals(layout.counters)

    def _constant(self, key: Hashable, make: Callable[[], np.ndarray]) -> Array:
        """A constant table for all streams, sent once and kept, since a graph may use it."""
        if key not in self._constants:
            placed = self.arrays.asarray(make())
            self.arrays.wait()  # for other streams are not ordered after this copy
            self._constants[key] = placed
        return self._constants[key]

    def _aligned(self, *arrays: Array | None, each: int = 4) -> bool:
        """Whether every array is aligned to loads of `each` elements, or of 16 bytes if they have more."""
        return all(a is None or self.arrays.pointer(a) % min(each * a.dtype.itemsize, 16) == 0 for a in arrays)

    def _vector_of(self, count: int, *arrays: Array | None) -> int:
        """Elements that a thread loads at once: 4 if `count` is a multiple and the arrays are
        aligned to them, otherwise 1."""
        return 4 if not self.simple and count % 4 == 0 and self._aligned(*arrays) else 1

    def _piece_of(self, count: int, like: Array, *others: Array | None) -> int:
        """Elements of `like` that a load of 16 bytes holds if `count` is a multiple and the arrays
        are aligned to them, otherwise 1."""
        piece = PIECES[name_of(like.dtype)]
        return piece if not self.simple and count % piece == 0 and self._aligned(like, *others, each=piece) else 1

    def _expect(self, operation: str, **arrays: Expected) -> None:
        """Check that each array is None or float32, on this device, and of the shape beside it."""
        self._check(operation, ("float32",), arrays)

    def _element(self, operation: str, **arrays: Expected) -> str:
        """Check the arrays as `_expect` does, but for one dtype of `dtypes` -> its C type."""
        given = [(name, array) for name, (array, _) in arrays.items() if array is not None]
        self._check(operation, self.dtypes, arrays)
        first, reference = given[0]
        for name, array in given:
            if array.dtype != reference.dtype:
                takes = "CUDA takes one dtype; convert one of them with functional.cast"
                raise TypeError(f"{operation}: {name} is {array.dtype} but {first} is {reference.dtype}: {takes}")
        return ELEMENTS[name_of(reference.dtype)]

    def _check(self, operation: str, dtypes: tuple[str, ...], arrays: Mapping[str, Expected]) -> None:
        for name, (array, shape) in arrays.items():
            if array is None:
                continue
            if not self.arrays.owns(array):
                kind = type(array).__name__
                raise TypeError(f"{operation}: {name} is {kind} but takes an array of this {self.name} device")
            if name_of(array.dtype) not in dtypes:
                raise TypeError(f"{operation}: {name} is {array.dtype} but CUDA computes in {', '.join(dtypes)}")
            if shape is not None and array.shape != tuple(shape):
                raise ValueError(f"{operation}: {name} has shape {array.shape} but takes {tuple(shape)}")

    def _moved(self, operation: str, dtype: np.dtype) -> str:
        if name_of(dtype) not in MOVED:
            raise TypeError(f"{operation}: got {dtype} but CUDA moves {', '.join(MOVED)}")
        return MOVED[name_of(dtype)]

    def _out(self, operation: str, out: Array | None, shape: Sequence[int], dtype: Any = np.float32) -> Array:
        """`out`, whose shape is checked, or a new array if it is None."""
        if out is None:
            return self.arrays.empty(shape, dtype)
        if out.shape != tuple(shape):
            raise ValueError(f"{operation}: out has shape {out.shape} but takes {tuple(shape)}")
        return out

    def _place_gradients(
        self, operation: str, into: Into, w_shape: Sequence[int], b_shape: Sequence[int]
    ) -> tuple[Array, Array | None, bool]:
        """(dw, db or None, add): the arrays that a kernel writes or, if `add`, adds to.

        A kernel adds to both or to neither. Where only one of them was given, a new array of zeros
        stands for the other.
        """
        self._expect(operation, weight=(into.weight, w_shape), bias=(into.bias, b_shape))
        add = into.add and (into.weight is not None or (into.needs_bias and into.bias is not None))

        def place(given: Array | None, shape: Sequence[int]) -> Array:
            if given is not None:
                return given
            return self.full(shape, 0.0, np.float32) if add else self.arrays.empty(shape, np.float32)

        return place(into.weight, w_shape), place(into.bias, b_shape) if into.needs_bias else None, add


@cache
def name_of(dtype: np.dtype) -> str:
    """The name of a dtype, which NumPy itself puts together anew for each call."""
    return dtype.name


def piece_of_each(*arrays: Array) -> int:
    """Elements that a thread takes at once, in a kernel that walks arrays with `each_piece`."""
    sizes = [a.dtype.itemsize for a in arrays]
    return 16 // max(sizes) if 2 in sizes else 1


def activation_fields(activation: Activation | None) -> dict[str, float]:
    """The fields of the kernels' struct Activation."""
    fields = {"kind": 0, "slope": 0.0, "shift": 0.0, "low": 0.0, "high": 0.0}
    if activation is None:
        return fields
    if activation.name in LINES:
        return dict(zip(fields, (LINE, *activation.line), strict=True))
    slope = activation.alpha if activation.name == "elu" else activation.negative_slope
    return {**fields, "kind": 1 + ACTIVATIONS.index(activation.name), "slope": slope}


@lru_cache(maxsize=4096)
def geometry_fields(geometry: Geometry) -> dict[str, int]:
    """The fields of the kernels' struct Geometry.

    Raises:
        ValueError: about 2^31 pixels or more, since the kernels count pixels in 32 bits.
    """
    (n, h, w, c), (_, oh, ow, o) = geometry.x_shape, geometry.y_shape
    if max(n * h * w, n * oh * ow) >= MOST_POSITIONS:
        raise ValueError(f"CUDA takes fewer than 2^31 pixels in an operation, got x {geometry.x_shape}")
    return {
        "N": n, "H": h, "W": w, "C": c, "OH": oh, "OW": ow, "O": o,
        "KH": geometry.window[0], "KW": geometry.window[1],
        "stride_h": geometry.stride[0], "stride_w": geometry.stride[1],
        "pad_top": geometry.padding[0][0], "pad_left": geometry.padding[1][0],
        "dilation_h": geometry.dilation[0], "dilation_w": geometry.dilation[1],
        "groups": geometry.groups, "taken": c // geometry.groups, "made": o // geometry.groups,
    }  # fmt: skip
