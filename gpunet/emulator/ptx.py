"""Reads PTX: the entries, functions and variables of a module, and the instructions of each body.

PTX is NVIDIA's assembly language for a machine with any number of typed registers. A body is a list
of ``{@guard} opcode operands;``, labels and declarations, in scopes of braces; ``.loc`` names the
source line of the instructions that follow. Only this structure is read here. What an instruction
means stands in arithmetic.py, conversion.py, memory.py and control.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

SIZES = {
    "b8": 1, "u8": 1, "s8": 1, "b16": 2, "u16": 2, "s16": 2, "f16": 2, "bf16": 2, "b32": 4, "u32": 4, "s32": 4, "f32": 4,
    "f16x2": 4, "bf16x2": 4, "b64": 8, "u64": 8, "s64": 8, "f64": 8, "b128": 16, "pred": 1, "texref": 8, "samplerref": 8,
}  # fmt: skip
"""Bytes of each type."""

_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_FILE = re.compile(r'^\s*\.file\s+(\d+)\s+"([^"]*)"', re.MULTILINE)
_FUNCTION = re.compile(r"(?:^|\s)((?:\.(?:visible|weak|extern|common)\s+)*)\.(entry|func)\b")
_VARIABLE = re.compile(
    r"^\s*((?:\.(?:visible|weak|extern|common|const|global|shared)\s+)+)(?:\.attribute\([^)]*\)\s*)?(?:\.align\s+(\d+)\s+)?\.(\w+)\s+"
    r"([\w$.]+)\s*((?:\[\d*\])*)\s*(?:=\s*([^;]*))?;",
    re.MULTILINE,
)
_DECLARATION = re.compile(
    r"\.(shared|local|param|global|const)\s*(?:\.align\s+(\d+)\s*)?\.(\w+)\s+(?:\.ptr\s+(?:\.(?:global|shared|const|local)\s+)?(?:\.align\s+\d+\s+)?)?([\w$%.]+)\s*((?:\[\d*\])*)"
)
_REGISTERS = re.compile(r"\.reg\s*(?:\.v\d\s*)?\.(\w+)\s+(.*)", re.DOTALL)
_STEP = re.compile(r"\s*(?:\.loc\s+(?P<loc>[^\n]*)|(?P<brace>[{}])|(?P<label>[\w$%.]+):|(?P<statement>[^;]+);)")
_INSTRUCTION = re.compile(r"(?:@(!?)([%\w$.]+)\s+)?([\w.:]+)\s*(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Variable:
    """A named piece of memory: a variable of a module or of a body, or a parameter."""

    name: str
    space: str
    type: str
    align: int
    size: int
    """In bytes; 0 for an array whose extent is given by the launch."""
    initial: str = ""
    external: bool = False


@dataclass(slots=True)
class Instruction:
    """An instruction; or a label, if `label` is not empty."""

    opcode: str = ""
    operands: list[str] = field(default_factory=list)
    guard: str = ""
    """The register of the predicate under its name in C++; empty without one."""
    negated: bool = False
    site: int = 0
    outermost: str = ""
    """The place in the kernel itself, as ``"scale.cu:4"``, if the line is that of an inlined function."""
    label: str = ""

    @property
    def parts(self) -> list[str]:
        """``["ld", "global", "f32"]`` of ``ld.global.f32``."""
        return self.opcode.split(".")


@dataclass(slots=True)
class Function:
    """An entry (a kernel) or a device function."""

    name: str
    is_entry: bool
    parameters: list[Variable]
    results: list[Variable]
    attributes: str
    body: str | None
    instructions: list[Instruction] = field(default_factory=list)
    registers: dict[str, str] = field(default_factory=dict)
    """The type of each register that is used, by its name in C++."""
    variables: dict[str, Variable] = field(default_factory=dict)
    tables: dict[str, list[str]] = field(default_factory=dict)
    """The labels of each ``.branchtargets``, by its own label."""


@dataclass(slots=True)
class Module:
    """The content of one PTX text."""

    functions: dict[str, Function]
    variables: dict[str, Variable]
    files: dict[int, str]


class Sites:
    """Numbers the source lines that instructions belong to, from 1; 0 stands for no line."""

    def __init__(self, files: dict[int, str]):
        self.files = files
        self.lines: list[tuple[str, int]] = [("", 0)]
        self._numbers: dict[tuple[str, int], int] = {}

    def number(self, file: int, line: int) -> int:
        """Return the number of a line, which is a new one if the line is."""
        place = self.files.get(file, ""), line
        if place not in self._numbers:
            self._numbers[place] = len(self.lines)
            self.lines.append(place)
        return self._numbers[place]


def parse(text: str) -> Module:
    """Return a module with its variables, and with its functions, whose bodies are not read yet."""
    files = {int(n): name for n, name in _FILE.findall(text)}
    text = _COMMENT.sub("", text)
    functions: dict[str, Function] = {}
    outside = []
    end = 0
    while found := _FUNCTION.search(text, end):
        outside.append(text[end : found.start()])
        function, end = _function(text, found.end(), found[2] == "entry")
        if function.body is not None or function.name not in functions:
            functions[function.name] = function
    outside.append(text[end:].partition("\n\t.section")[0])
    variables = {}
    for words, align, kind, name, extents, initial in _VARIABLE.findall("\n".join(outside)):
        space = next(w for w in ("const", "global", "shared") if f".{w}" in words)
        size = SIZES[kind] * _count(extents)
        variables[name] = Variable(
            name, space, kind, int(align or SIZES[kind]), size, initial.strip(), ".extern" in words and not size
        )
    return Module(functions, variables, files)


def read(function: Function, sites: Sites) -> None:
    """Read the instructions, registers and variables of a function's body into the function."""
    function.instructions, function.registers, function.variables, function.tables = [], {}, {}, {}
    reader = _Reader(function, sites)
    reader.run(function.body or "")
    _settle_floats(function)


def _settle_floats(function: Function) -> None:
    """Make a register a float if it is declared as bits and every instruction uses it as a float.

    Newer releases of NVRTC declare all float registers as bits.
    """
    uses: dict[str, set[str]] = {}
    for i in function.instructions:
        kinds = [p for p in i.parts if p in SIZES and p != "pred"]
        if not kinds or kinds[0] in ("b32", "b64") or i.parts[0] in ("call", "cvta"):
            continue
        for at, operand in enumerate(i.operands):
            kind = kinds[0] if i.parts[0] == "cvt" and at == 0 else kinds[-1]
            for register in re.findall(r"v_\w+", operand) if not operand.startswith("[") else ():
                uses.setdefault(register, set()).add(kind)
    for register, kind in function.registers.items():
        floating = {"b32": "f32", "b64": "f64"}.get(kind)
        if floating and uses.get(register) == {floating}:
            function.registers[register] = floating


def split_operands(text: str) -> list[str]:
    """Split operands at the commas that stand outside of brackets, braces and parentheses."""
    found, depth, start = [], 0, 0
    for at, letter in enumerate(text):
        depth += (letter in "[{(") - (letter in "]})")
        if letter == "," and not depth:
            found.append(text[start:at].strip())
            start = at + 1
    rest = text[start:].strip()
    return [*found, rest] if rest else found


def _count(extents: str) -> int:
    count = 1
    for extent in re.findall(r"\[(\d*)\]", extents):
        count *= int(extent or 0)
    return count


def _closing(text: str, start: int, pair: str) -> int:
    """Return the position at which the bracket that opens at `start` closes."""
    depth = 0
    for found in re.compile(f"[{re.escape(pair)}]").finditer(text, start):
        depth += 1 if found[0] == pair[0] else -1
        if not depth:
            return found.start()
    raise ValueError(f"PTX: {pair[0]} is not closed")


def _parameters(text: str) -> list[Variable]:
    found = []
    for part in split_operands(text):
        declared = _DECLARATION.search(part)
        if declared is None:
            raise ValueError(f"PTX: cannot read the parameter {part!r}")
        found.append(_variable(declared))
    return found


def _variable(declared: re.Match[str]) -> Variable:
    space, align, kind, name, extents = declared.groups()
    return Variable(name, space, kind, int(align or SIZES[kind]), SIZES[kind] * _count(extents))


def _function(text: str, at: int, is_entry: bool) -> tuple[Function, int]:
    results: list[Variable] = []
    at = re.compile(r"\s*").match(text, at).end()  # type: ignore[union-attr]
    if text[at] == "(":
        close = _closing(text, at, "()")
        results, at = _parameters(text[at + 1 : close]), close + 1
    named = re.compile(r"\s*([\w$.]+)\s*").match(text, at)
    if named is None:
        raise ValueError(f"PTX: cannot read the function at {text[at : at + 40]!r}")
    at, parameters = named.end(), []
    if text[at] == "(":
        close = _closing(text, at, "()")
        parameters, at = _parameters(text[at + 1 : close]), close + 1
    stop = re.compile(r"[;{]").search(text, at)
    if stop is None:
        raise ValueError(f"PTX: {named[1]} has no end")
    attributes, body = text[at : stop.start()], None
    if stop[0] == "{":
        close = _closing(text, stop.start(), "{}")
        body, at = text[stop.start() + 1 : close], close + 1
    else:
        at = stop.end()
    return Function(named[1], is_entry, parameters, results, attributes, body), at


class _Reader:
    """Reads a body; registers and labels of an inner scope get names of their own."""

    def __init__(self, function: Function, sites: Sites):
        self.function = function
        self.sites = sites
        self.scopes: list[dict[str, tuple[str, str]]] = [{}]
        self.path = [0]
        self.labels: dict[tuple[int, str], str] = {}
        self.references: list[tuple[list[str], int, tuple[int, ...]]] = []
        self.count = 0
        self.site = 0
        self.outermost = ""
        self.inlined_at: dict[tuple[str, ...], tuple[str, ...]] = {}

    def run(self, body: str) -> None:
        at = 0
        while step := _STEP.match(body, at):
            at = step.end()
            if step["loc"] is not None:
                self.place(step["loc"])
            elif step["brace"] == "{":
                self.count += 1
                self.scopes.append({"": (f"_{self.count}", "")})
                self.path.append(self.count)
            elif step["brace"]:
                self.scopes.pop()
                self.path.pop()
            elif step["label"] is not None:
                self.define(step["label"])
            else:
                self.statement(step["statement"].strip())
        if body[at:].strip():
            raise ValueError(f"PTX: cannot read {body[at : at + 60]!r}")
        for operands, index, path in self.references:
            name = operands[index]
            scope = next((s for s in reversed(path) if (s, name) in self.labels), 0)
            operands[index] = self.labels.get((scope, name), name)

    def place(self, text: str) -> None:
        """Read ``file line column``, with ``inlined_at`` and the place of the call in inlined code.

        The place of a call that is inlined itself was read before.
        """
        own, _, outer = text.partition("inlined_at")
        here, at = tuple(own.replace(",", " ").split()[:3]), tuple(outer.split()[:3])
        if here[1] == "0":
            return
        self.site = self.sites.number(int(here[0]), int(here[1]))
        if not at:  # NVRTC leaves it out at times
            at = self.inlined_at.get(here, ())
        self.inlined_at[here] = at
        for _ in range(len(self.inlined_at)):
            if not self.inlined_at.get(at):
                break
            at = self.inlined_at[at]
        self.outermost = f"{self.sites.files.get(int(at[0]), '')}:{at[1]}" if at else ""

    def statement(self, text: str) -> None:
        if text.startswith(".reg"):
            self.declare_registers(text)
        elif text.startswith(".branchtargets"):
            previous = self.function.instructions.pop().label
            self.function.tables[previous] = targets = split_operands(text[len(".branchtargets") :])
            self.refer(targets)
        elif text.startswith((".shared", ".local", ".param", ".global", ".const")):
            declared = _DECLARATION.match(text)
            if declared is None:
                raise ValueError(f"PTX: cannot read {text!r}")
            variable = _variable(declared)
            self.function.variables[variable.name] = variable
        elif not text.startswith("."):
            self.instruction(text)

    def declare_registers(self, text: str) -> None:
        declared = _REGISTERS.fullmatch(text)
        if declared is None:
            raise ValueError(f"PTX: cannot read {text!r}")
        suffix = self.scopes[-1].get("", ("", ""))[0]
        for name in declared[2].split(","):
            prefix, many, _ = name.strip().partition("<")
            self.scopes[-1][prefix + ("<" if many else "")] = declared[1], suffix

    def instruction(self, text: str) -> None:
        found = _INSTRUCTION.fullmatch(text)
        if found is None:
            raise ValueError(f"PTX: cannot read {text!r}")
        negated, guard, opcode, rest = found.groups()
        operands = [self.rename(o) for o in split_operands(rest)]
        if opcode.startswith(("bra", "brx")):
            self.refer(operands)
        self.function.instructions.append(
            Instruction(opcode, operands, self.rename(guard) if guard else "", bool(negated), self.site, self.outermost)
        )

    def define(self, name: str) -> None:
        """Add a label; a label of an inner scope gets the scope's number as a suffix."""
        unique = name if self.path[-1] == 0 else f"{name}_{self.path[-1]}"
        self.labels[self.path[-1], name] = unique
        self.function.instructions.append(Instruction(label=unique))

    def refer(self, operands: list[str]) -> None:
        """Note that operands name labels, which may be defined later in the body."""
        self.references += [(operands, index, tuple(self.path)) for index in range(len(operands))]

    def rename(self, operand: str) -> str:
        """Return an operand with each register under its name in C++."""
        return re.sub(r"[%A-Za-z_$][\w$.%]*", self._name, operand)

    def _name(self, word: re.Match[str]) -> str:
        name = word[0]
        prefix = name.rstrip("0123456789")
        for scope in reversed(self.scopes):
            declared = scope.get(name) or (scope.get(prefix + "<") if prefix != name else None)
            if declared:
                unique = "v_" + name.lstrip("%").replace("$", "_").replace(".", "_").replace("%", "_") + declared[1]
                self.function.registers[unique] = declared[0]
                return unique
        return name
