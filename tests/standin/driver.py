# ruff: noqa: N802 - the names are CUDA's
"""CUDA's driver as CuPy calls it: the functions of `cupy_backends/cuda/api/driver.pyx`."""

from __future__ import annotations

import ctypes
from typing import Any

from standin.device import Machine
from standin.errors import driver_error
from standin.kernels import Function, Module

MAX_THREADS, SHARED, CONSTANT, LOCAL, REGISTERS, PTX, BINARY, CACHE, DYNAMIC, CARVEOUT = range(10)
"""The values of CUfunction_attribute."""
UNKNOWN_REGISTERS = 32
"""The registers of every kernel: PTX does not tell how many the assembler would use."""


class Driver:
    """The driver's functions, on the stand-in's machine."""

    def __init__(self, machine: Machine):
        self.machine = machine

    def get_build_version(self) -> int:
        return 13000

    def ctxGetDevice(self) -> int:
        return self.machine.current

    def moduleLoadData(self, image: bytes) -> int:
        """Load PTX; nothing here could run machine code."""
        if image[:4] == b"\x7fELF":
            raise driver_error("INVALID_IMAGE", "the stand-in takes PTX, as CUPY_COMPILE_WITH_PTX=1 has CuPy compile")
        return self.machine.new(Module(image.rstrip(b"\0").decode()))

    def moduleUnload(self, module: int) -> None:
        self.machine.drop(module)

    def moduleGetFunction(self, module: int, name: str) -> int:
        loaded: Module = self.machine.get(module)
        if name not in loaded.names:
            raise driver_error("NOT_FOUND", "named symbol not found")
        return self.machine.new(Function(loaded, name))

    def launchKernel(self, function: int, *given: int) -> None:
        """Launch a kernel. As in CUDA, the size of each parameter is known from the kernel."""
        gx, gy, gz, bx, by, bz, shared, stream, addresses, _ = given
        self.machine.check()
        kernel: Function = self.machine.get(function)
        grid, block = (gx, gy, gz), (bx, by, bz)
        threads = bx * by * bz
        if not (0 < threads <= (kernel.facts["max_threads"] or 1024) and bz <= 64):
            raise driver_error("INVALID_VALUE", f"a block of {block} threads")
        if not (0 < gx < 2**31 and 0 < gy < 2**16 and 0 < gz < 2**16):
            raise driver_error("INVALID_VALUE", f"a grid of {grid} blocks")
        if shared > kernel.dynamic:
            raise driver_error("INVALID_VALUE", f"{shared} bytes of shared memory, {kernel.dynamic} were allowed")
        sizes = kernel.facts["parameters"]
        pointers = (ctypes.c_void_p * len(sizes)).from_address(addresses) if sizes else ()
        params = [ctypes.string_at(pointer, size) for pointer, size in zip(pointers, sizes, strict=True)]
        queue, which = self.machine.stream(stream)
        queue.submit(which, lambda: self.machine.run_kernel(kernel, grid, block, params, shared))

    def funcGetAttribute(self, attribute: int, function: int) -> int:
        kernel: Function = self.machine.get(function)
        arch = self.machine.capability
        values: dict[int, Any] = {
            MAX_THREADS: kernel.facts["max_threads"] or 1024, SHARED: kernel.facts["real_shared"], CONSTANT: 0,
            LOCAL: kernel.local, REGISTERS: UNKNOWN_REGISTERS, PTX: arch, BINARY: arch, CACHE: 0, DYNAMIC: kernel.dynamic,
            CARVEOUT: -1,
        }  # fmt: skip
        return values.get(attribute, -1)

    def funcSetAttribute(self, function: int, attribute: int, value: int) -> None:
        kernel: Function = self.machine.get(function)
        if attribute == DYNAMIC:
            if not 0 <= value <= kernel.shared_limit - kernel.facts["real_shared"]:
                raise driver_error("INVALID_VALUE", "invalid argument")
            kernel.dynamic = value
        elif attribute != CARVEOUT:
            raise driver_error("INVALID_VALUE", "invalid argument")
