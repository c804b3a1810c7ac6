"""Launching kernels: the check that every launch passes, and the launcher that compiles and runs them through CuPy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpunet.cuda.instantiations import file_of, module_of
from gpunet.nvrtc import signature, source
from gpunet.nvrtc.compiler import Resources
from gpunet.nvrtc.signature import Extent

NULL = np.intp(0)
"""A null pointer as CuPy takes it: of None, some of its versions make an address."""
DEFAULT_SHARED = 48 * 1024
"""Bytes of shared memory that a block may take without asking for more."""


class Launcher(ABC):
    """Runs kernel instances by name expression.

    Args:
        owns: whether an object is an array of the device that this launcher runs on.
    """

    def __init__(self, owns: Callable[[object], bool]):
        self.owns = owns

    def launch(
        self, kernel: str, grid: Extent, block: Extent, args: Sequence[Any], *, shared: int = 0, flops: int = 0
    ) -> None:
        """Check the arguments against the kernel's source, then run it.

        Args:
            kernel: a listed instance, as in ``"fill<float>"``.
            grid, block: up to three extents, in blocks and in threads.
            args: arrays, numbers, None for a pointer that may be null, and a mapping of fields for a struct.
            shared: bytes of dynamic shared memory.
            flops: floating-point operations of its products, for a recording; a multiply-add counts two.
        Raises:
            TypeError: arguments that the kernel does not take.
            ValueError: an instance that is not listed, or extents beyond CUDA's limits.
        """
        grid, block = signature.check_extents(kernel, grid, block)
        file = file_of(kernel)
        self.run(file, kernel, grid, block, signature.bind(file, kernel, args, self.owns), shared)

    @abstractmethod
    def run(
        self, file: str, kernel: str, grid: tuple[int, ...], block: tuple[int, ...], args: list[Any], shared: int
    ) -> None:
        """Run an instance with checked, packed arguments."""


class CupyLauncher(Launcher):
    """Compiles each `.cu` file for its device, once for float32 and once for the narrower dtypes, and launches on CuPy's
    current stream.

    Args:
        device: its number.
        owns: as for :class:`Launcher`.
    """

    def __init__(self, device: int, owns: Callable[[object], bool]):
        super().__init__(owns)
        self.device = device
        self._modules: dict[tuple[str, ...], Any] = {}
        self._functions: dict[str, Any] = {}

    def run(
        self, file: str, kernel: str, grid: tuple[int, ...], block: tuple[int, ...], args: list[Any], shared: int
    ) -> None:
        """As :meth:`Launcher.run`."""
        import cupy

        with cupy.cuda.Device(self.device):
            function = self._functions.get(kernel) or self._load(file, kernel)
            if shared > DEFAULT_SHARED:
                function.max_dynamic_shared_size_bytes = shared
            function(grid, block, tuple(NULL if a is None else a for a in args), shared_mem=shared)

    def resources(self, kernel: str) -> Resources:
        """What an instance takes, as the driver says of the one that it has loaded."""
        import cupy

        with cupy.cuda.Device(self.device):
            attributes = self._load(file_of(kernel), kernel).attributes
        return Resources(attributes["num_regs"], attributes["shared_size_bytes"], 0, attributes["local_size_bytes"])

    def _load(self, file: str, kernel: str) -> Any:
        function = self._functions[kernel] = self._module(file, module_of(kernel)).get_function(kernel)
        return function

    def _module(self, file: str, expressions: tuple[str, ...]) -> Any:
        if expressions not in self._modules:
            import cupy

            self._modules[expressions] = cupy.RawModule(
                code=source.read(file), options=("-std=c++17",), name_expressions=list(expressions)
            )
        return self._modules[expressions]
