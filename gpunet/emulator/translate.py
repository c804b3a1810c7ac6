"""Translates one PTX entry to one C++ source.

The entry becomes a function `kernel(Machine*, Thread*)`, and the device functions that it calls
become static functions beside it. Virtual registers are C++ variables and labels are labels. An
instruction is a statement, which one of the families in arithmetic.py, conversion.py, memory.py and
control.py writes, with the number of its source line where it can fail. g++ sees ordinary
straight-line code and allocates registers as ptxas would.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from typing import Any

from gpunet.emulator import arithmetic, control, conversion, memory, ptx
from gpunet.emulator.counting import Noted, Notes
from gpunet.emulator.operands import C_TYPES, Operands, UnknownOpcode
from gpunet.emulator.ptx import Function, Instruction, Module, Sites, Variable

RED_ZONE = 64
"""Bytes after each shared array that belong to none; in the checked build only."""
FUEL = "if (--fuel <= 0) fuel = emu_refuel(m, t, {});"


@dataclass(slots=True)
class Kernel:
    """A translated entry, and what is needed to launch it."""

    name: str
    code: str
    parameters: list[int]
    """Size of each, in bytes."""
    static_shared: int
    """In bytes, in the layout of this build."""
    real_shared: int
    """In bytes, as a device would use them."""
    zones: list[tuple[int, int]]
    """(offset, bytes) of each piece of shared memory that belongs to no array."""
    fibers: bool
    """Whether a thread may wait, so that each needs a stack of its own."""
    flush: bool
    """Whether denormals are zero, because the entry was compiled with -ftz=true."""
    stack: int
    """Bytes of a thread's local arrays, with room to spare."""
    max_threads: int
    """Most threads of a block, from __launch_bounds__; 0 without one."""
    statics: list[tuple[str, str, int, bool]]
    """(symbol, name, bytes, read only) of each variable of the module."""
    sites: list[tuple[str, int]]
    """(file, line) by site, the number of a source line."""
    covered: list[int] = field(default_factory=list)
    """The sites for which there are instructions."""
    noted: Noted = field(default_factory=Noted)
    """What the kernel notes; empty unless it counts."""

    def facts(self) -> dict[str, Any]:
        """Return everything but the code, as what JSON can hold."""
        return {k: v for k, v in asdict(self).items() if k != "code"}


def translate(module: Module, entry: str, *, checked: bool, counted: bool = False) -> Kernel:
    """Translate one entry of a PTX module.

    Args:
        entry: its mangled name.
        checked: keep shared arrays apart and note which source lines run.
        counted: note every access and every instruction.
    Raises:
        UnknownOpcode: an instruction that the machine does not know; `place` is its (file, line).
    """
    sites = Sites(module.files)
    try:
        return _Translation(module, sites, entry, checked, counted).kernel()
    except UnknownOpcode as error:
        error.place = sites.lines[error.site]
        raise


def cpp_name(name: str) -> str:
    """Return a PTX name as a C++ identifier."""
    return re.sub(r"\W", "_", name)


def label_name(label: str) -> str:
    """Return a PTX label as a C++ label, without the number of its function in the module.

    A kernel then has the same code, and one library, whatever it was compiled beside.
    """
    return cpp_name(re.sub(r"__BB\d+_", "__BB_", label))


def _symbol(name: str) -> str:
    """Return the symbol of a module's variable; the prefix keeps it apart from the C library's."""
    return f"g_{cpp_name(name)}"


class _Translation:
    def __init__(self, module: Module, sites: Sites, entry: str, checked: bool, counted: bool):
        self.module = module
        self.sites = sites
        self.checked = checked
        self.counted = counted
        self.noted = Noted()
        self.functions = self._reachable(entry)
        self.entry = self.functions[entry]
        self.used: dict[str, Variable] = {}
        self.offsets, self.zones, self.static_shared, self.real_shared = self._lay_out_shared()

    def kernel(self) -> Kernel:
        bodies = [self._function(f) for f in self.functions.values()]
        declarations = [self._signature(f) + ";" for f in self.functions.values() if not f.is_entry]
        variables = [self._variable(v) for v in self._closure(self.used).values()]
        code = "\n".join(['#include "ops.hpp"', "namespace emu {", *variables, *declarations, *bodies, "}", ""])
        instructions = [i for f in self.functions.values() for i in f.instructions]
        bounds = re.search(r"\.(?:maxntid|reqntid)\s+([\d,\s]+)", self.entry.attributes)
        threads = 1
        for extent in bounds[1].split(",") if bounds else []:
            threads *= int(extent)
        return Kernel(
            name=self.entry.name,
            code=code,
            parameters=[p.size for p in self.entry.parameters],
            static_shared=self.static_shared,
            real_shared=self.real_shared,
            zones=self.zones,
            fibers=self.counted or any(i.parts[0] in control.SYNCHRONISING for i in instructions),
            flush=any("ftz" in i.parts for i in instructions),
            stack=sum(v.size for f in self.functions.values() for v in f.variables.values()) * 4,
            max_threads=threads if bounds else 0,
            statics=[
                (_symbol(v.name), v.name, max(v.size, 1), v.space == "const") for v in self._closure(self.used).values()
            ],
            sites=self.sites.lines,
            covered=sorted({i.site for i in instructions if not i.label and i.site}),
            noted=self.noted,
        )

    def _reachable(self, entry: str) -> dict[str, Function]:
        """Read the entry and every function that it calls, and return them, the entry last."""
        found: dict[str, Function] = {}
        left = [entry]
        while left:
            name = left.pop()
            function = self.module.functions[name]
            if name in found or function.body is None:
                continue
            ptx.read(function, self.sites)
            found[name] = function
            for i in function.instructions:
                if i.parts[0] == "call":
                    left += [o for o in i.operands if o in self.module.functions]
        return dict(reversed(found.items()))

    # ---- variables

    def _lay_out_shared(self) -> tuple[dict[str, int], list[tuple[int, int]], int, int]:
        """Lay out the shared arrays of the functions and the module, dynamic shared memory last.

        Returns:
            the offset of each array, the zones that belong to none, and the bytes with and without
            them.
        """
        variables: dict[str, Variable] = {}
        for function in self.functions.values():
            variables |= {v.name: v for v in function.variables.values() if v.space == "shared"}
            for variable in self.module.variables.values():
                if variable.space == "shared" and variable.name in (function.body or ""):
                    variables[variable.name] = variable
        offsets, zones, at, real = {}, [], 0, 0
        for v in sorted(variables.values(), key=lambda v: v.external):
            start = -(-at // v.align) * v.align
            real = -(-real // v.align) * v.align + v.size
            if start > at:
                zones.append((at, start - at))
            offsets[v.name], at = start, start + v.size
            if self.checked and not v.external:
                zones.append((at, RED_ZONE))
                at += RED_ZONE
        return offsets, zones, at, real

    def _symbols(self, function: Function, name: str) -> tuple[Variable, str] | None:
        for place in (*function.parameters, *function.results):
            if place.name == name:
                return place, f"(u64){self._parameter(place)}"
        variable = function.variables.get(name) or self.module.variables.get(name)
        if variable is None:
            return None
        if variable.space == "shared":
            return variable, f"{self.offsets[name]}u"
        if variable.space in ("local", "param"):
            return variable, f"(u64)v_{cpp_name(name)}"
        self.used[name] = variable
        return variable, f"(u64){_symbol(name)}"

    def _closure(self, used: dict[str, Variable]) -> dict[str, Variable]:
        """Return the variables that are used, each after those that its initial value names."""
        found: dict[str, Variable] = {}
        left = list(used.values())
        while left:
            v = left.pop()
            if v.name in found:
                continue
            found[v.name] = v
            left += [
                self.module.variables[w]
                for w in re.findall(r"[A-Za-z_$][\w$.]*", v.initial)
                if w in self.module.variables
            ]
        return dict(reversed(found.items()))

    def _variable(self, v: Variable) -> str:
        kind = C_TYPES[v.type] if v.type not in ("f32", "f64") else v.type
        words = [w.strip() for w in v.initial.strip("{} \n").replace("{", "").replace("}", "").split(",") if w.strip()]
        values = ", ".join(self._initial(w, kind) for w in words)
        count = max(v.size // ptx.SIZES[v.type], 1)
        return f'extern "C" {{ IMPORT alignas({max(v.align, 8)}) {kind} {_symbol(v.name)}[{count}] = {{{values}}}; }}'

    def _initial(self, word: str, kind: str) -> str:
        if re.fullmatch(r"0[fF][0-9a-fA-F]{8}", word):
            return f"__builtin_bit_cast(f32, 0x{word[2:]}u)"
        if re.fullmatch(r"0[dD][0-9a-fA-F]{16}", word):
            return f"__builtin_bit_cast(f64, 0x{word[2:]}ull)"
        if re.fullmatch(r"[+-]?(0[xX][0-9a-fA-F]+|\d+)U?", word):
            return f"({kind}){word.rstrip('U')}{'ull' if not word.startswith('-') else 'll'}"
        name = re.sub(r"generic\(|\)", "", word)
        return f"({kind})(u64){_symbol(name)}"

    def _parameter(self, v: Variable) -> str:
        return f"v_{cpp_name(v.name)}"

    # ---- functions

    def _signature(self, f: Function) -> str:
        if f.is_entry:
            return 'extern "C" IMPORT void kernel(Machine* m, Thread* t)'
        places = "".join(f", char* {self._parameter(v)}" for v in (*f.results, *f.parameters))
        return f"static void f_{cpp_name(f.name)}(Machine* m, Thread* t{places})"

    def _function(self, f: Function) -> str:
        operands = Operands(f, lambda name: self._symbols(f, name))
        labels = {i.label: at for at, i in enumerate(f.instructions) if i.label}
        notes = Notes(f, self.noted) if self.counted else None
        if notes:
            operands.note = lambda *access: notes.access(operands.instruction, *access)
        body = notes.locals() if notes else []
        site = -1
        for at, i in enumerate(f.instructions):
            if i.label:
                body.append(f"{label_name(i.label)}:;{notes.label(i.label) if notes else ''}")
                site = -1
                continue
            operands.instruction = i
            before, within = notes.instruction(i, at) if notes else ("", "")
            text = self._instruction(operands, f, i, at, labels)
            if notes and i.parts[0] == "call":
                text = notes.call(text)
            if self.checked and i.site and i.site != site:
                text = f"m->hits[{i.site}] = 1; {text}"
                site = -1 if i.guard else i.site
            if i.guard:
                text = f"if ({'!' if i.negated else ''}{i.guard}) {{ {within}{text} }}"
            body.append(before + text)
        return "\n".join([self._signature(f) + " {", *self._locals(f), *body, "leave:;", *self._epilogue(f), "}"])

    def _locals(self, f: Function) -> list[str]:
        fuel = "COUNTED_FUEL" if self.counted else "FUEL"
        lines = ["char* const S = m->shared; (void)S;", f"u64 loaded = 0, stored = 0; int fuel = {fuel}; u32 cc = 0;"]
        lines.append("(void)fuel, (void)cc, (void)t;")
        if f.is_entry:
            lines += [
                f"char* const {self._parameter(v)} = (char*)m->params[{i}]; (void){self._parameter(v)};"
                for i, v in enumerate(f.parameters)
            ]
        for v in f.variables.values():
            if v.space in ("local", "param"):
                lines.append(f"alignas({max(v.align, 16)}) char v_{cpp_name(v.name)}[{max(v.size, 1)}];")
            if v.space == "local" and self.checked:
                name = f"v_{cpp_name(v.name)}"
                lines.append(
                    f"u8 w_{name}[{v.size}] = {{}}; Depot d_{name} = {{{name}, {v.size}, w_{name}, t->depots}};"
                    f" t->depots = &d_{name};"
                )
        by_type: dict[str, list[str]] = {}
        for name, kind in f.registers.items():
            by_type.setdefault(C_TYPES[kind], []).append(name)
        return lines + [f"{kind} {', '.join(names)};" for kind, names in by_type.items()]

    def _epilogue(self, f: Function) -> list[str]:
        lines = ["m->loaded += loaded, m->stored += stored;"]
        locals_ = [v for v in f.variables.values() if v.space == "local"]
        if locals_ and self.checked:
            lines.append(f"t->depots = d_v_{cpp_name(locals_[0].name)}.outer;")
        return lines

    def _instruction(self, c: Operands, f: Function, i: Instruction, at: int, labels: dict[str, int]) -> str:
        parts, o = i.parts, i.operands
        if parts[0] == "bra":
            fuel = FUEL.format(i.site) + " " if labels[o[0]] <= at else ""
            return f"{fuel}goto {label_name(o[0])};"
        if parts[0] == "brx":
            targets = f.tables[o[1]]
            cases = " ".join(f"case {n}: goto {label_name(target)};" for n, target in enumerate(targets))
            fuel = FUEL.format(i.site) + " " if any(labels[x] <= at for x in targets) else ""
            return f"{fuel}switch ({c.read(o[0], 'u32')}) {{ {cases} }}"
        if parts[0] == "ret":
            return "goto leave;"
        if parts[0] == "exit":
            if f.is_entry:
                return "goto leave;"
            c.unknown()
        if parts[0] == "call":
            return self._call(c, o)
        for family in (arithmetic, conversion, memory, control):
            try:
                text = family.translate(c, parts, o)
            except (LookupError, ValueError, StopIteration):  # an unexpected modifier or operand
                c.unknown()
            if text is not None:
                return text
        return c.unknown()

    def _call(self, c: Operands, o: list[str]) -> str:
        """Translate ``call (results), function, (arguments)``.

        The function is one of the module's, or one of the two that the driver provides.
        """
        results = o[0].strip("() ").split(",") if o[0].startswith("(") else []
        rest = o[1:] if results else o
        name, arguments = (
            rest[0],
            [a.strip() for a in rest[1].strip("() ").split(",") if a.strip()] if len(rest) > 1 else [],
        )
        places = [f"v_{cpp_name(x.strip())}" for x in (*results, *arguments)]
        function = self.functions.get(name)
        if function is not None:
            return f"f_{cpp_name(name)}({', '.join(['m', 't', *places])});"
        if name == "vprintf":
            return f"put<u32>({places[0]}, emu_print(m, t, get<u64>({places[1]}), get<u64>({places[2]})));"
        if name == "__assertfail":
            return f"emu_assert(m, t, get<u64>({places[0]}), {c.site});"
        return c.unknown()
