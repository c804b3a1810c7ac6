"""A table of GPUs, and how many blocks of a launch one of their multiprocessors holds."""

from __future__ import annotations

from typing import NamedTuple

from gpunet.cuda.description import Description

REGISTERS, SCHEDULERS = 16384, 4
"""Registers of a scheduler's warps, and schedulers of a multiprocessor."""
REGISTER_UNIT = 256
"""Registers are given to a warp in multiples of this: 8 for each thread."""
LEAST_REGISTERS = 24
"""Registers that a thread takes at least."""
WARP = 32


class Limits(NamedTuple):
    """What a multiprocessor of one architecture holds at once (CUDA Programming Guide)."""

    warps: int
    blocks: int
    shared: int
    """Shared memory of all its blocks, in KiB."""
    reserved: int
    """Bytes of shared memory that the system takes for each block."""
    shared_unit: int
    """Shared memory is given to a block in multiples of so many bytes."""
    lanes: int
    """Multiply-adds of float32 that it starts in a cycle."""
    reach: float = 1.0
    """The share of its tensor cores' peak that `mma.sync` can reach."""


LIMITS = {
    "sm_75": Limits(32, 16, 64, 0, 256, 64),
    "sm_80": Limits(64, 32, 164, 1024, 128, 64),
    "sm_89": Limits(48, 24, 100, 1024, 128, 128),
    "sm_90": Limits(64, 32, 228, 1024, 128, 128, 0.5),
}
"""By architecture. Of Hopper's tensor cores, published programs with `mma.sync` reach 62 to 65%, since
the whole rate takes `wgmma`; a half is assumed, which is 8 cycles for an `mma` of m16n8k16."""
TENSOR_PRECISIONS = {"16 bits": 1, "tf32": 2, "3xtf32": 6}
"""How many times as long as in 16 bits the tensor cores multiply; 3xTF32 makes three products of one."""
WHOLE_PRODUCT = 2048
"""Multiply-adds of the largest product of `mma.sync`, which is m16n8k16."""


class Gpu(NamedTuple):
    """The numbers of a GPU on which a prediction depends."""

    name: str
    architecture: str
    """As in ``"sm_90"``."""
    multiprocessors: int
    clock: float
    """GHz under load, as far as known, or else the boost clock."""
    bandwidth: float
    """Of its memory, in GB/s, by the data sheet."""
    tensor: int
    """Multiply-adds of 16-bit elements, which are added in float32, that the tensor cores of a
    multiprocessor start in a cycle, by the peak of the data sheet."""

    @property
    def limits(self) -> Limits:
        """What one of its multiprocessors holds."""
        return LIMITS[self.architecture]

    @property
    def description(self) -> Description:
        """The numbers by which launches are laid out."""
        shared = self.limits.shared * 1024
        architecture = int(self.architecture.removeprefix("sm_"))
        return Description(self.multiprocessors, shared - self.limits.reserved, shared, architecture)

    @property
    def peak(self) -> float:
        """FLOPs of float32 in a microsecond, without tensor cores."""
        return self.peak_of("float32")

    @property
    def mma_cycles(self) -> float:
        """Cycles for which an `mma` of m16n8k16 keeps a tensor core."""
        return WHOLE_PRODUCT * SCHEDULERS / (self.tensor * self.limits.reach)

    def multiply_adds(self, precision: str) -> float:
        """Return the multiply-adds that a multiprocessor can start in a cycle, at its peak.

        Args:
            precision: "float32", without tensor cores, or one of `TENSOR_PRECISIONS`. A product in
                3xTF32 counts as one.
        """
        return self.limits.lanes if precision == "float32" else self.tensor / TENSOR_PRECISIONS[precision]

    def peak_of(self, precision: str) -> float:
        """Return the FLOPs in a microsecond at the peak of a precision, see :meth:`multiply_adds`."""
        return 2e3 * self.multiply_adds(precision) * self.multiprocessors * self.clock


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("H200", "sm_90", 132, 1.755, 4800, 2048),
        Gpu("H100", "sm_90", 132, 1.755, 3350, 2048),
        Gpu("A100", "sm_80", 108, 1.41, 2039, 1024),
        Gpu("RTX 4090", "sm_89", 128, 2.52, 1008, 256),
        Gpu("L4", "sm_89", 58, 2.04, 300, 512),
        Gpu("T4", "sm_75", 40, 1.59, 320, 512),
    )
}
"""The GPUs that can be predicted, by name: H200 and H100 as SXM modules, A100 with 80 GB."""


def find_gpu(operation: str, name: str) -> Gpu:
    """Return the GPU of a name; capital letters and spaces do not matter.

    Raises:
        ValueError: a name that is not in the table.
    """
    plain = {_plain(known): gpu for known, gpu in GPUS.items()}
    if not isinstance(name, str) or _plain(name) not in plain:
        raise ValueError(f"{operation}: gpu is {name!r} but takes one of {', '.join(GPUS)}")
    return plain[_plain(name)]


def blocks_held(gpu: Gpu, *, registers: int, shared: int, threads: int) -> int:
    """Return how many blocks of a launch a multiprocessor holds at once, at least 1.

    Args:
        registers: of a thread.
        shared: static and dynamic shared memory of a block, in bytes.
        threads: of a block.
    """
    limits, warps = gpu.limits, -(-threads // WARP)
    of_warp = -(-max(registers, LEAST_REGISTERS) * WARP // REGISTER_UNIT) * REGISTER_UNIT
    of_block = -(-(shared + limits.reserved) // limits.shared_unit) * limits.shared_unit
    fitting = [REGISTERS // of_warp * SCHEDULERS // warps, limits.warps // warps, limits.blocks]
    if of_block:
        fitting.append(limits.shared * 1024 // of_block)
    return max(min(fitting), 1)


def _plain(name: str) -> str:
    return name.lower().replace(" ", "")
