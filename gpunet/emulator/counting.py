"""What a counting build adds to a kernel's translation: calls that note each access and instruction.

A lane notes each of its accesses under the number of the access and a key, which tells how often
the lane has come there: the sum of the counters of the loops around the instruction (see loops.py),
each times a constant of its own, and of the place from which the function was called. counters.cpp
puts together the lanes of a warp that have the same key. This is a request, if lanes that part at a
branch meet again where the branches join, and at the latest after the loop, as the compiler makes
them meet wherever it can.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from hashlib import sha256
from math import prod

from gpunet.emulator.loops import Loops, find_loops
from gpunet.emulator.operands import kind_of
from gpunet.emulator.ptx import Function, Instruction

MEMORY = ("ld", "ldu", "st", "atom", "red", "cp", "ldmatrix", "stmatrix")
"""Instructions that are listed with their state space instead of their type."""


@dataclass(slots=True)
class Noted:
    """What the counting build of a kernel notes; part of the facts about a kernel.

    Attributes:
        accesses: (site, place in the kernel if the line is inlined, instruction, space, kind, bits)
            of each access.
        mix: for each counter of instructions, how many of each kind run when it is raised.
        flops: for each of these counters, how many floating-point operations these are.
    """

    accesses: list[tuple[int, str, str, str, str, int]] = field(default_factory=list)
    mix: list[dict[str, int]] = field(default_factory=list)
    flops: list[float] = field(default_factory=list)


class Notes:
    """Writes the calls of one function.

    Args:
        function: the function.
        noted: where to add what its calls note; the same for all functions of a kernel.
    """

    def __init__(self, function: Function, noted: Noted):
        self.loops: Loops = find_loops(function.instructions, function.tables)
        self.noted = noted
        self.key = ""
        self._counter = -1
        self._calls = 0

    def locals(self) -> list[str]:
        """Return the declarations that the function needs."""
        counters = ", ".join(f"n{i} = 0" for i in range(len(self.loops.inner)))
        return ["const u64 path = t->path; (void)path;", *([f"u64 {counters};"] if counters else [])]

    def label(self, name: str) -> str:
        """Return what comes after a label: the counters of a loop, if the label is its header."""
        self._counter = -1
        loop = self.loops.header.get(name)
        if loop is None:
            return ""
        return f" ++n{loop};" + "".join(f" n{inner} = 0;" for inner in self.loops.inner[loop])

    def instruction(self, i: Instruction, at: int) -> tuple[str, str]:
        """Begin an instruction.

        Returns:
            what comes before it, and what comes before it inside of its guard.
        """
        self.key = " + ".join(["path", *(f"n{loop} * {_constant(f'loop {loop}')}" for loop in self.loops.around[at])])
        ends = i.parts[0] in ("bra", "brx", "ret", "exit")
        if i.guard and not ends:
            return "", self._raise_new(i)
        if self._counter < 0:
            before = self._raise_new(i)
            self._counter = len(self.noted.mix) - 1
        else:
            before = ""
            self._add(self._counter, i)
        if ends:
            self._counter = -1
        return before, ""

    def access(self, i: Instruction, space: str, kind: str, size: int, address: str, actual: str = "") -> str:
        """Return the call that notes an access.

        Args:
            space: "global" or "shared".
            kind: "load", "store", "atomic" or "matrix".
            size: in bytes.
            address: a C++ expression: an address of the host, or an offset in shared memory.
            actual: a C++ expression of the bytes, if these are not always `size`.
        """
        self.noted.accesses.append((i.site, i.outermost, i.opcode, space, kind, size * 8))
        return f"emu_count(m, t, {len(self.noted.accesses) - 1}, {self.key}, {address}, {actual or size});"

    def call(self, text: str) -> str:
        """Return a call of a function of the module, in which the place of the call is noted."""
        self._calls += 1
        return f"t->path = ({self.key}) * 31 + {_constant(f'call {self._calls}')}; {text} t->path = path;"

    def _raise_new(self, i: Instruction) -> str:
        self.noted.mix.append({})
        self.noted.flops.append(0)
        self._add(len(self.noted.mix) - 1, i)
        return f"++m->executed[{len(self.noted.mix) - 1}]; "

    def _add(self, counter: int, i: Instruction) -> None:
        self.noted.mix[counter] = dict(Counter(self.noted.mix[counter]) + Counter([_name(i)]))
        self.noted.flops[counter] += _flops(i)


def _constant(text: str) -> str:
    """Return a 64-bit constant that sums of few others do not hit."""
    return f"0x{int.from_bytes(sha256(text.encode()).digest()[:8], 'little') | 1:x}ull"


def _name(i: Instruction) -> str:
    """Return the name under which an instruction is listed: ``ld.global``, ``fma.f32``, ``bra``."""
    parts = i.parts
    if parts[0] in MEMORY:
        space = next((p.partition("::")[0] for p in parts[1:] if p.partition("::")[0] in _SPACES), "")
        if parts[:2] == ["cp", "async"]:
            return "cp.async" if space else ".".join(parts[:3])
        return f"{parts[0]}.{space}" if space else parts[0]
    kind = kind_of(parts)
    return f"{parts[0]}.{kind}" if kind else parts[0]


_SPACES = ("global", "shared", "local", "param", "const")


def _flops(i: Instruction) -> float:
    """Return the floating-point operations of one thread's execution of an instruction.

    A sum, a difference, a product are one, a product that is added two, as NVIDIA's profiler counts
    them; other functions are none. Each thread has its share of a warp's ``mma``.
    """
    parts, kind = i.parts, kind_of(i.parts)
    if parts[0] == "mma" and kind != "s32":
        shape = next(p for p in parts if p.startswith("m") and "n" in p and "k" in p)
        return 2 * prod(int(n) for n in shape.replace("m", "").replace("n", " ").replace("k", " ").split()) / 32
    if kind.strip("b") not in ("f16", "f32", "f64", "f16x2"):
        return 0
    return {"add": 1, "sub": 1, "mul": 1, "fma": 2, "mad": 2}.get(parts[0], 0) * (2 if kind.endswith("x2") else 1)
