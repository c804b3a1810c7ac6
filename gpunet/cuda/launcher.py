"""Checks every launch, and compiles and runs kernels through CuPy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpunet.cuda.instantiations import file_of, module_of
from gpunet.cuda.work import NO_PRODUCT, Work
from gpunet.nvrtc import signature, source
from gpunet.nvrtc.compiler import COMPILING, Resources
from gpunet.nvrtc.signature import Extent, Extents
from gpunet.progress import working

NULL = np.intp(0)
"""A null pointer for CuPy; some of its versions turn None into another address."""
DEFAULT_SHARED = 48 * 1024
"""Bytes of static and dynamic shared memory that a launch may have without a special request."""


class Launcher(ABC):
    """Launches kernel instances, which are named by their expressions, as in ``"fill<float>"``.

    Args:
        owns: says whether an object is an array of the launcher's device.
    """

    def __init__(self, owns: Callable[[object], bool]):
        self.owns = owns

    def launch(
        self, kernel: str, grid: Extent, block: Extent, args: Sequence[Any], *, shared: int = 0, work: Work = NO_PRODUCT
    ) -> None:
        """Check the arguments of a launch against the kernel's source, then run it.

        Args:
            kernel: a listed instance, as in ``"fill<float>"``.
            grid, block: one to three extents, in blocks and in threads.
            args: one for each parameter: an array, a number, None for a pointer that may be null,
                or a mapping of fields for a struct.
            shared: bytes of dynamic shared memory.
            work: the arithmetic of the launch, which a recording notes.
        Raises:
            TypeError: arguments that the kernel does not take.
            ValueError: an instance that is not listed, or extents beyond CUDA's limits.
        """
        grid, block = signature.check_extents(kernel, grid, block)
        file = file_of(kernel)
        self.run(file, kernel, grid, block, signature.bind(file, kernel, args, self.owns), shared)

    @abstractmethod
    def run(self, file: str, kernel: str, grid: Extents, block: Extents, args: list[Any], shared: int) -> None:
        """Run an instance of `file` with arguments that are checked and packed."""


class CupyLauncher(Launcher):
    """Compiles kernels for one device and launches them on CuPy's current stream.

    A `.cu` file is compiled in two parts, when they are first needed: instances that store float32,
    and those that store 16 bits.

    Args:
        device: the device's number.
        owns: says whether an object is an array of this device.
    """

    def __init__(self, device: int, owns: Callable[[object], bool]):
        super().__init__(owns)
        self.device = device
        self._modules: dict[tuple[str, ...], Any] = {}
        self._functions: dict[str, Any] = {}
        self._static: dict[str, int] = {}
        """Bytes of static shared memory, by instance."""

    def run(self, file: str, kernel: str, grid: Extents, block: Extents, args: list[Any], shared: int) -> None:
        """Run an instance of `file` with arguments that are checked and packed."""
        import cupy

        with cupy.cuda.Device(self.device):
            function = self._functions.get(kernel) or self._load(file, kernel)
            if shared + self._static[kernel] > DEFAULT_SHARED:
                function.max_dynamic_shared_size_bytes = shared
            function(grid, block, tuple(NULL if a is None else a for a in args), shared_mem=shared)

    def resources(self, kernel: str) -> Resources:
        """Return the resources that an instance takes, as the driver reports them."""
        import cupy

        with cupy.cuda.Device(self.device):
            attributes = self._load(file_of(kernel), kernel).attributes
        return Resources(attributes["num_regs"], attributes["shared_size_bytes"], 0, attributes["local_size_bytes"])

    def _load(self, file: str, kernel: str) -> Any:
        with working(COMPILING, file):
            function = self._functions[kernel] = self._module(file, module_of(kernel)).get_function(kernel)
            self._static[kernel] = function.shared_size_bytes
        return function

    def _module(self, file: str, expressions: tuple[str, ...]) -> Any:
        if expressions not in self._modules:
            import cupy

            code, names = source.read(file), list(expressions)
            self._modules[expressions] = cupy.RawModule(code=code, options=("-std=c++17",), name_expressions=names)
        return self._modules[expressions]
