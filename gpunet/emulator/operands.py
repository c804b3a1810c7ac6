"""Translates the operands of PTX instructions to C++ expressions."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NoReturn

from gpunet.emulator.ptx import SIZES, Function, Instruction, Variable

C_TYPES = {
    "b8": "u8", "u8": "u8", "s8": "s8", "b16": "u16", "u16": "u16", "s16": "s16", "f16": "u16", "bf16": "u16",
    "b32": "u32", "u32": "u32", "s32": "s32", "f32": "f32", "f16x2": "u32", "bf16x2": "u32", "b64": "u64", "u64": "u64",
    "s64": "s64", "f64": "f64", "b128": "u128", "pred": "bool",
}  # fmt: skip
"""The C++ type that holds each PTX type; 16-bit floats are held as bits."""

SPECIAL = {
    "%tid": "t->tid[{}]", "%ntid": "m->ntid[{}]", "%ctaid": "m->ctaid[{}]", "%nctaid": "m->nctaid[{}]",
    "%laneid": "t->lane", "%warpid": "t->warp", "%nwarpid": "((m->ntid[0] * m->ntid[1] * m->ntid[2] + 31) / 32)",
    "%smid": "0u", "%nsmid": "1u", "%gridid": "0u", "%lanemask_eq": "(1u << t->lane)",
    "%lanemask_lt": "((1u << t->lane) - 1)", "%lanemask_le": "((2u << t->lane) - 1)",
    "%lanemask_gt": "~((2u << t->lane) - 1)", "%lanemask_ge": "~((1u << t->lane) - 1)",
    "%clock": "(u32)clock_now()", "%clock_hi": "(u32)(clock_now() >> 32)", "%clock64": "clock_now()",
    "%globaltimer": "clock_now()", "%dynamic_smem_size": "m->dynamic_size", "%total_smem_size": "m->shared_size",
    "%clusterid": "m->ctaid[{}]", "%nclusterid": "m->nctaid[{}]", "%cluster_ctaid": "0u", "%cluster_nctaid": "1u",
    "%cluster_ctarank": "0u", "%cluster_nctarank": "1u", "%is_explicit_cluster": "false", "WARP_SZ": "32u",
}  # fmt: skip
"""The C++ expression of each special register; {} stands for the axis."""
ROUNDINGS = {"rn": "RN", "rz": "RZ", "rm": "RM", "rp": "RP", "rni": "RN", "rzi": "RZ", "rmi": "RM", "rpi": "RP"}
HALVES = {"f16": "Half", "bf16": "Brain", "f16x2": "Half", "bf16x2": "Brain"}
"""The class in ops.hpp of each 16-bit float, alone and in pairs."""

_NUMBER = re.compile(r"([+-]?)(?:0[fF]([0-9a-fA-F]{8})|0[dD]([0-9a-fA-F]{16})|(0[xX][0-9a-fA-F]+|0[bB][01]+|\d+)U?)")
_DECIMAL = re.compile(r"[+-]?\d+\.\d*(?:[eE][+-]?\d+)?")
_ADDRESS = re.compile(r"\[\s*([\w$%.]+?)\s*(?:\+\s*(-?\s*(?:0[xX][0-9a-fA-F]+|\d+)))?\s*\]")


class UnknownOpcode(Exception):  # noqa: N818
    """An instruction that the machine does not know.

    Args:
        detail: the instruction.
        site: the number of its source line.
    Attributes:
        place: (file, line) of the source line, once it is known.
    """

    def __init__(self, detail: str, site: int):
        super().__init__(detail)
        self.detail = detail
        self.site = site
        self.place = ("", 0)


def is_float(kind: str) -> bool:
    """Whether a PTX type is a float in C++."""
    return kind in ("f32", "f64")


def cast(expression: str, source: str, target: str) -> str:
    """Convert a value from PTX type `source` to `target`.

    Between a float and an integer type the bits are kept, between two integer types the number.
    """
    if C_TYPES[source] == C_TYPES[target]:
        return expression
    if target == "pred":
        return f"(({expression}) != 0)"
    if is_float(target):
        unsigned = f"u{SIZES[target] * 8}"
        return f"bits<{target}>(({unsigned}){expression})" if not is_float(source) else f"({target}){expression}"
    if is_float(source):
        return f"({C_TYPES[target]})bits<u{SIZES[source] * 8}>({expression})"
    return f"({C_TYPES[target]}){expression}"


class Operands:
    """Reads and writes the operands of one function's instructions.

    Args:
        function: the function.
        symbols: returns a variable and the C++ expression of its address, by name; None if the name
            is unknown.
    Attributes:
        instruction: the instruction that is being translated.
        note: returns the statement that notes an access of this instruction, given its space
            ("global" or "shared"), kind ("load", "store" or "atomic"), size in bytes and address,
            and, if the size varies, its expression; empty where nothing is counted.
    """

    def __init__(self, function: Function, symbols: Callable[[str], tuple[Variable, str] | None]):
        self.function = function
        self.symbols = symbols
        self.instruction = Instruction()
        self.note: Callable[[str, str, int, str, str], str] = lambda *_: ""

    @property
    def site(self) -> int:
        """The number of the current instruction's source line."""
        return self.instruction.site

    def unknown(self) -> NoReturn:
        """Raise UnknownOpcode: the machine does not know this form of the current instruction."""
        text = f"{self.instruction.opcode} {', '.join(self.instruction.operands)}".strip()
        raise UnknownOpcode(text, self.site)

    def read(self, operand: str, kind: str) -> str:
        """Return an operand as an expression of type `kind`."""
        if kind not in C_TYPES:
            self.unknown()
        negated = operand.startswith("!")
        if negated:
            operand = operand[1:].strip()
        declared = self.function.registers.get(operand)
        if declared is not None:
            value = cast(operand, declared, kind)
            return f"!{value}" if negated else value
        number = _NUMBER.fullmatch(operand)
        if number is not None:
            return self._number(number, kind)
        if _DECIMAL.fullmatch(operand):
            return f"({C_TYPES[kind]}){operand}"
        name, _, axis = operand.partition(".")
        if name in SPECIAL:
            return f"({C_TYPES[kind]}){SPECIAL[name].format('xyzw'.find(axis or 'x'))}"
        base, _, offset = (part.strip() for part in operand.partition("+"))
        symbol = self.symbols(base)
        if symbol is None:
            self.unknown()
        return f"({C_TYPES[kind]})({symbol[1]}{f' + {offset}' if offset else ''})"

    def write(self, operand: str, kind: str, expression: str) -> str:
        """Return a statement that assigns a value of type `kind`; ``_`` discards it."""
        if operand == "_":
            return f"(void)({expression});"
        declared = self.function.registers.get(operand)
        if declared is None:
            self.unknown()
        return f"{operand} = {cast(f'({expression})', kind, declared)};"

    def vector(self, operand: str) -> list[str]:
        """Return the elements of ``{a, b}``; a plain operand is its own only element."""
        return [part.strip() for part in operand[1:-1].split(",")] if operand.startswith("{") else [operand]

    def address(self, operand: str) -> tuple[str, Variable | None]:
        """Return an address in brackets as a u64 expression, and the variable that it names."""
        found = _ADDRESS.fullmatch(operand)
        if found is None:
            self.unknown()
        base, offset = found[1], int((found[2] or "0").replace(" ", ""), 0)
        if base in self.function.registers:
            wide = SIZES[self.function.registers[base]] == 8
            if wide:
                return f"{base} + {offset}ll" if offset else base, None
            text = f"(u64){base} + {offset}" if offset >= 0 else f"(u64)(u32)({base} - {-offset}u)"
            return text, None
        if base.isdigit():
            return f"{int(base) + offset}ull", None
        symbol = self.symbols(base)
        if symbol is None:
            self.unknown()
        variable, expression = symbol
        return f"(u64)({expression}) + {offset}", variable

    def _number(self, number: re.Match[str], kind: str) -> str:
        sign, single, double, whole = number.groups()
        if single is not None:
            value = f"bits<f32>(0x{single}u)"
            if kind == "f64":
                return f"({sign}(f64){value})"
            return f"{sign}{value}" if kind == "f32" else f"(({C_TYPES[kind]})0x{single}u)"
        if double is not None:
            value = f"bits<f64>(0x{double}ull)"
            return f"{sign}{value}" if kind == "f64" else f"(({C_TYPES[kind]})0x{double}ull)"
        if re.fullmatch(r"0[0-7]+", whole):
            whole = "0o" + whole.lstrip("0")
        magnitude = int(whole, 0)
        value = f"0x{(-magnitude if sign == '-' else magnitude) % 2**64:x}ull"
        if is_float(kind):
            return f"bits<{kind}>((u{SIZES[kind] * 8}){value})"
        return f"(({C_TYPES[kind]}){value})"


def kind_of(parts: list[str]) -> str:
    """Return the type of an opcode: the last one that it names; empty if it names none."""
    return next((p for p in reversed(parts) if p in SIZES), "")


def rounding_of(parts: list[str]) -> str:
    """Return the rounding that an opcode asks for, under its name in ops.hpp."""
    return next((ROUNDINGS[p] for p in parts if p in ROUNDINGS), "RN")


def apply(c: Operands, o: list[str], kind: str, expression: str, kinds: dict[str, str] | None = None) -> str:
    """Return ``d = expression``, in which a, b, c … stand for the operands after the first.

    Args:
        kind: the type of the operands and of the result.
        kinds: other types for some of them, by letter.
    """
    names = "abcde"[: len(o) - 1]
    given = " ".join(
        f"const auto {n} = {c.read(x, (kinds or {}).get(n, kind))};" for n, x in zip(names, o[1:], strict=True)
    )
    return f"{{ {given} {c.write(o[0], (kinds or {}).get('d', kind), expression)} }}"
