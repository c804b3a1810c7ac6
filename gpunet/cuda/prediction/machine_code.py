"""Reads a kernel's machine code with its control bits, and finds its main loop.

Since Volta, an instruction has 128 bits, and ptxas writes into the upper ones how it is scheduled:
how many cycles the warp waits before its next instruction, and which of six scoreboards
an instruction of variable latency holds until its result is there (`write`) or its operands are
read (`read`), and for which scoreboards it waits.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from gpunet import cache
from gpunet.cuda import sass
from gpunet.cuda.instantiations import file_of, module_of
from gpunet.cuda.prediction.gpus import WARP
from gpunet.nvrtc import compiler, source

BRANCH_CYCLES = 8
"""Cycles from a branch that is taken to the instruction behind it."""
NO_SCOREBOARD = 7
"""The number that stands for none of the scoreboards 0 to 5."""

_LINE = re.compile(
    r"/\*[0-9a-f]{4,}\*/\s+(?P<guard>@!?U?P\w+\s+)?(?P<opcode>[A-Z][\w.]*)\s*(?P<operands>[^;]*);\s+/\* 0x[0-9a-f]{16} \*/"
    r"\s*/\* 0x(?P<upper>[0-9a-f]{16}) \*/"
    r"|^(?P<label>\.L\w+):"
    r'|^\s*//## File "(?:[^"]*/)?(?P<file>[^"/]+)", line (?P<number>\d+)(?P<inlined> inlined at)?',
    re.MULTILINE,
)
_MATRIX = {"HMMA.16816": 2048, "HMMA.1688": 1024, "HMMA.1684": 512, "HMMA.884": 256}
"""Multiply-adds of a warp's matrix products, by opcode and extents: 1688 is m16n8k8."""
_NEVER = "@!PT"
_TARGET = re.compile(r"\.L\w+")
_IF = re.compile(r"!?U?P\d")


class Instruction(NamedTuple):
    """One instruction and how ptxas scheduled it."""

    opcode: str
    """With its modifiers, as in ``"LDG.E.128.CONSTANT"``."""
    operands: str = ""
    stall: int = 1
    """Cycles from its issue until the warp may issue its next instruction."""
    write: int = NO_SCOREBOARD
    """The scoreboard that it holds until its result is there."""
    read: int = NO_SCOREBOARD
    """The scoreboard that it holds until its operands are read."""
    wait: int = 0
    """A bit for each scoreboard that must be free before it is issued."""
    place: tuple[str, ...] = ()
    """Where it comes from: its "file:line", then those of the calls that were inlined around it."""
    jumps: tuple[int, ...] = ()
    """The positions in the loop to which it can branch, all of them behind it."""
    falls: bool = True
    """Whether the next instruction can follow it."""

    @property
    def base(self) -> str:
        """The opcode without its modifiers."""
        return self.opcode.partition(".")[0]

    @property
    def bits(self) -> int:
        """Bits that one thread loads or stores: 32 unless a modifier says otherwise."""
        return next((n for n in (128, 64, 16, 8) if re.search(rf"\.[US]?{n}\b", self.opcode)), 32)


@dataclass(frozen=True, slots=True)
class MachineCode:
    """What a prediction needs of one instance on one architecture."""

    registers: int
    """Registers of a thread."""
    shared: int
    """Static shared memory, in bytes."""
    loop: tuple[Instruction, ...]
    """The main loop; empty if no loop holds a multiply-add."""


def read_listing(listing: str) -> list[Instruction]:
    """Read one entry of nvdisasm's output -> its instructions; `jumps` are positions in the entry."""
    code: list[Instruction] = []
    targets: list[list[str]] = []
    labels: dict[str, int] = {}
    place: tuple[str, ...] = ()
    goes_on = False  # whether the next place is that of a call around this one
    for found in _LINE.finditer(listing):
        if found["label"]:
            labels[found["label"]] = len(code)
            continue
        if found["file"]:
            place = (*(place if goes_on else ()), f"{found['file']}:{found['number']}")
            goes_on = bool(found["inlined"])
            continue
        upper = int(found["upper"], 16)
        stall, write, read, wait = upper >> 41 & 15, upper >> 46 & 7, upper >> 49 & 7, upper >> 52 & 63
        opcode, operands = found["opcode"], found["operands"].strip()
        if (found["guard"] or "").strip() == _NEVER:
            opcode, operands = "NOP", ""  # it takes a place in the code, and does nothing
        branches = opcode.startswith(("BRA", "BRX"))
        falls = not (branches or opcode.startswith(("EXIT", "RET"))) or bool(found["guard"]) or _IF.match(operands)
        targets.append(_TARGET.findall(operands) if branches else [])
        code.append(Instruction(opcode, operands, stall, write, read, wait, place, (), bool(falls)))
    places = [tuple(labels[name] for name in names if name in labels) for names in targets]
    return [i._replace(jumps=to) for i, to in zip(code, places, strict=True)]


def main_loop(code: list[Instruction]) -> tuple[Instruction, ...]:
    """Return the loop with most multiply-adds, the shortest of equals; empty if none has any.

    Only FFMA and the tensor cores' HMMA count, for ptxas also moves constants with HFMA2 and copies
    with IMAD. The branch that closes the loop stalls its warp until the loop's first instruction is there.
    """
    loops = []
    for end, instruction in enumerate(code):
        start = min(instruction.jumps, default=end + 1)
        if start <= end:
            loop = code[start : end + 1]
            loops.append((multiply_adds(loop), -len(loop), start))
    most, length, start = max(loops, default=(0, 0, 0))
    if not most:
        return ()
    loop = [
        i._replace(jumps=tuple(to - start for to in i.jumps if start + at < to < start - length))
        for at, i in enumerate(code[start : start - length])
    ]
    return (*loop[:-1], loop[-1]._replace(stall=max(loop[-1].stall, BRANCH_CYCLES)))


def multiply_adds(loop: Iterable[Instruction]) -> int:
    """Count the multiply-adds of one thread, whose part of a matrix product is that of one lane."""
    return sum(matrix_products(i) // WARP if i.base == "HMMA" else i.base == "FFMA" for i in loop)


def matrix_products(instruction: Instruction) -> int:
    """Return the multiply-adds of a warp's matrix product; 0 for anything else, and for sparse ones."""
    return _MATRIX.get(".".join(instruction.opcode.split(".")[:2]), 0)


def machine_code(kernels: Iterable[str], architecture: str) -> dict[str, MachineCode]:
    """Compile listed instances for an architecture, and read their machine code, by instance.

    They are compiled together with those with which a launcher compiles them, since an instance's
    code can depend on its neighbours. What is cached is not compiled again.

    Raises:
        BackendError: NVRTC or the disassembler is missing.
    """
    return {kernel: _of_module(file_of(kernel), module_of(kernel), architecture)[kernel] for kernel in set(kernels)}


@functools.cache
def _of_module(file: str, kernels: tuple[str, ...], architecture: str) -> dict[str, MachineCode]:
    """Return the machine code of all instances of a module, from the cache or compiled."""

    def make(path: Path) -> None:
        path.write_text(json.dumps(list(_compiled(file, architecture, kernels))), encoding="utf-8")

    code = [Path(module).read_bytes() for module in (__file__, compiler.__file__, sass.__file__)]
    options = [option for option in compiler.options() if not option.startswith("-I")]
    depends_on = (source.read(file), kernels, architecture, code, options, compiler.releases(), sass.version())
    path = cache.keep("machine_code", f"{Path(file).stem}-{architecture}-{cache.digest(*depends_on)}.json", make)
    return {
        kernel: MachineCode(registers, shared, tuple(_instruction(fields) for fields in loop))
        for kernel, registers, shared, loop in json.loads(path.read_text(encoding="utf-8"))
    }


def _compiled(file: str, architecture: str, kernels: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """Compile a module -> (instance, registers, shared memory, main loop) of each of its instances."""
    made = compiler.compile(file, architecture, kernels, "-lineinfo")  # which does not change the code
    listed = sass.sections(sass.disassemble(made.cubin, "-hex", "--print-line-info-inline"))
    for kernel in kernels:
        used = made.resources[kernel]
        yield kernel, used.registers, used.shared, main_loop(read_listing(listed[made.names[kernel]]))


def _instruction(fields: Sequence[Any]) -> Instruction:
    """Return an instruction as it was before JSON made lists of its tuples."""
    return Instruction._make(tuple(field) if isinstance(field, list) else field for field in fields)
