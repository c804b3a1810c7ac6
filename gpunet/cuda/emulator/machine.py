"""Running a kernel's PTX on the CPU: the face of the emulated machine.

    program = Program.from_source("scale.cu", text, ["scale<float>"])
    program.launch("scale<float>", (4,), (256,), [pointer, count], regions=[Region(address, size, "x")])

NVRTC makes PTX of the unmodified source, translate.py makes C++ of the PTX, g++ a library, and ctypes calls it; each step
happens once and is kept in a cache folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Region:
    """Bytes of host memory that a launch may touch.

    Args:
        address: of the first byte.
        size: in bytes.
        name: what a fault calls it: the parameter's name.
        read_only: a checked launch refuses to write here.
        written: address of `size` bytes, one for each byte of the region, zero where nothing was ever written; a checked
            launch refuses to read such bytes, and sets those that it writes. 0 if every byte counts as written.
    """

    address: int
    size: int
    name: str
    read_only: bool = False
    written: int = 0


@dataclass(frozen=True, slots=True)
class Schedule:
    """The order in which the threads of a block run between synchronisations.

    ``fifo`` runs warps in order, ``lifo`` the last to arrive first; ``random`` draws the priorities of warps from `seed`,
    and draws again at each synchronisation, so that one warp can be a whole interval ahead of another.
    """

    kind: Literal["fifo", "lifo", "random"] = "fifo"
    seed: int = 0


class KernelFault(Exception):
    """What a kernel did wrong, in one line.

    Attributes:
        kind: "race", "out of bounds", "read only", "misaligned", "uninitialised", "divergent barrier",
            "barrier never reached", "exited lane", "cp.async", "shared memory limit", "hang", "trap" or "unknown opcode".
        kernel: the name expression.
        file, line: where in the source; line 0 if that is not known.
        block, thread: coordinates, empty if the fault is not one thread's.
    """

    def __init__(
        self,
        kind: str,
        detail: str,
        *,
        kernel: str = "",
        file: str = "",
        line: int = 0,
        block: tuple[int, ...] = (),
        thread: tuple[int, ...] = (),
    ):
        where = f"{file}:{line}: " if file else ""
        who = f" (block {block}, thread {thread})" if block else ""
        super().__init__(f"{where}{kernel}: {kind}: {detail}{who}")
        self.kind, self.kernel, self.file, self.line = kind, kernel, file, line
        self.block, self.thread = block, thread


@dataclass(frozen=True, slots=True)
class Counts:
    """What one launch did: bytes of global memory loaded and stored by instructions, barriers passed by a block, and
    (checked launches only) the source lines executed, as (file, line)."""

    loaded: int
    stored: int
    barriers: int
    lines: frozenset[tuple[str, int]] = frozenset()


class Program:
    """The kernels of one source. Make it with :meth:`from_source`."""

    @staticmethod
    def from_source(file: str, text: str, expressions: Sequence[str], *, arch: str = "compute_80") -> Program:
        """A program whose kernels are compiled when they are first launched.

        Args:
            file: the name that messages give it.
            text: CUDA C++ with its quoted includes inlined, as gpunet.cuda.source.read makes it.
            expressions: the kernel instances that may be launched.
            arch: the virtual architecture to compile for.
        """
        raise NotImplementedError

    def launch(
        self,
        expression: str,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        params: Sequence[bytes],
        *,
        shared: int = 0,
        regions: Sequence[Region],
        schedule: Schedule = Schedule("fifo"),
        checked: bool = False,
    ) -> Counts:
        """Run a kernel to its end.

        Args:
            params: the bytes of each parameter; a pointer is 8 bytes that hold a host address.
            shared: bytes of dynamic shared memory.
            regions: the global memory that it may touch. A launch without `checked` does not look at them.
            checked: run the build that checks every access.
        Raises:
            KernelFault: the kernel did what it must not; memory then holds what it had done so far.
            ValueError: parameters whose number or sizes are not the kernel's, or an expression that is not listed.
            BackendError: NVRTC or g++ is missing, or the host is not Linux on x86-64.
        """
        raise NotImplementedError

    def compile(self, expression: str, *, checked: bool = False) -> None:
        """Compile an instance now, or find it in the cache."""
        raise NotImplementedError

    def lines(self, expression: str) -> frozenset[tuple[str, int]]:
        """The source lines that an instance has instructions for, as (file, line)."""
        raise NotImplementedError
