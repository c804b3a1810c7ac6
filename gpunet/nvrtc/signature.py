"""Reads the parameters of kernels from their source, and checks the arguments of a launch.

CuPy checks neither the number nor the types of arguments, and it ignores strides, so a wrong launch
reads wrong memory. Here the source says what a kernel takes. It is read for `__global__` functions,
templates too, and for the structs that they take by value, which become NumPy record dtypes of the
same layout.

Three marks, which are empty macros in common.cuh, say more about a pointer: `OR_NULL` allows None,
`UPDATED` says that the kernel reads and writes the array, and `ADDED_TO` says that it does so if
the launch's number `accumulate` is not 0.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any

import ml_dtypes
import numpy as np

from gpunet.nvrtc import source

C_TYPES: dict[str, Any] = {
    "bool": "?", "char": "i1", "uint8": "u1", "short": "i2", "uint16": "u2", "int": "i4", "uint32": "u4", "int64": "i8",
    "uint64": "u8", "half": "f2", "bfloat16": ml_dtypes.bfloat16, "float": "f4", "double": "f8",
}  # fmt: skip
"""The NumPy dtype of each C type, under its name in kernels/common.cuh."""
_SPELLINGS = [
    (re.compile(rf"\b(?:{pattern})\b"), name)
    for pattern, name in (
        (r"unsigned\s+long\s+long(?:\s+int)?|unsigned\s+long(?:\s+int)?|size_t|uint64_t", "uint64"),
        (r"long\s+long(?:\s+int)?|long(?:\s+int)?|int64_t|ptrdiff_t", "int64"),
        (r"unsigned\s+char|uint8_t", "uint8"), (r"signed\s+char|int8_t", "char"),
        (r"unsigned\s+short(?:\s+int)?|uint16_t", "uint16"), (r"short\s+int|int16_t", "short"),
        (r"unsigned\s+int|unsigned|uint32_t", "uint32"), (r"signed\s+int|signed|int32_t", "int"), (r"__half", "half"),
        (r"__nv_bfloat16|nv_bfloat16", "bfloat16"),
    )
]  # fmt: skip
"""Other spellings of the same types, in kernels that are not gpunet's."""

Extents = tuple[int, ...]
"""Extents of a grid or a block along one to three axes."""
Extent = int | Extents
"""The same; one number stands for one axis."""
GRID_LIMITS = (2**31 - 1, 65535, 65535)
"""Most blocks along each axis of a grid."""
BLOCK_LIMITS = (1024, 1024, 64)
"""Most threads along each axis of a block."""
BLOCK_LIMIT = 1024
"""Most threads of a block."""

_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_STRUCT = re.compile(r"(template\s*<[^>]*>\s*)?\bstruct\s+(\w+)\s*\{([^}]*)\}\s*;")
_KERNEL = re.compile(
    r"(?:template\s*<([^>]*)>\s*)?(?:extern\s+\"C\"\s*)?__global__\s+void\s+"
    r"(?:__launch_bounds__\s*\((?:[^()]|\([^()]*\))*\)\s*)?(\w+)\s*\(([^)]*)\)"
)
_QUALIFIERS = re.compile(r"\b(const|__restrict__|__grid_constant__|OR_NULL|UPDATED|ADDED_TO)\b")


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a kernel instance: an array with elements of `dtype`, or a value of it."""

    name: str
    dtype: np.dtype
    is_pointer: bool
    may_be_null: bool = False
    is_const: bool = False
    is_updated: bool = False
    is_added_to: bool = False


@dataclass(frozen=True, slots=True)
class Declaration:
    """A `__global__` function as it is written, before its templates are filled in."""

    name: str
    template: tuple[str, ...]
    """The names of the template parameters, in order."""
    parameters: tuple[str, ...]


@cache
def declarations(file: str) -> dict[str, Declaration]:
    """Return the kernels of one `.cu` file, by name."""
    return parse_kernels(source.read(file))


@cache
def structs(file: str) -> dict[str, np.dtype]:
    """Return the plain structs of a `.cu` file and its headers as record dtypes, by name."""
    return parse_structs(source.read(file))


def parse_kernels(text: str) -> dict[str, Declaration]:
    """Return every `__global__` function of a source, by name."""
    found = {}
    for template, name, parameters in _KERNEL.findall(_COMMENT.sub(" ", text)):
        names = tuple(part.split()[-1] for part in template.split(",")) if template.strip() else ()
        found[name] = Declaration(name, names, tuple(" ".join(part.split()) for part in _split(parameters)))
    return found


def parse_structs(text: str) -> dict[str, np.dtype]:
    """Return every struct of a source whose members are numbers or fixed arrays of numbers."""
    constants = source.parse_constants(text)
    text = _spelled(_COMMENT.sub(" ", text))
    found = {}
    for template, name, body in _STRUCT.findall(text):
        if template:  # no kernel takes one as a parameter
            continue
        fields: list[Any] = []
        for member in filter(None, (part.strip() for part in body.split(";"))):
            kind, _, names = member.partition(" ")
            if kind not in C_TYPES:
                break
            for field in names.split(","):
                field_name, _, extent = field.strip().rstrip("]").partition("[")
                shape = (int(constants.get(extent, extent)),) if extent else ()
                fields.append((field_name.strip(), C_TYPES[kind], shape))
        else:
            found[name] = np.dtype(fields, align=True)
    return found


def split_expression(expression: str) -> tuple[str, list[str]]:
    """Split "name<float, 64>" into ("name", ["float", "64"])."""
    name, _, rest = expression.partition("<")
    return name, _split(rest.rstrip(">"))


@cache
def parameters(file: str, expression: str) -> tuple[Parameter, ...]:
    """Return the parameters of one instance.

    Args:
        expression: the kernel's name with its template arguments, as in ``"fill<float>"``.
    """
    return _parameters(file, expression, declarations(file), structs(file))


def parse_parameters(file: str, text: str, expression: str) -> tuple[Parameter, ...]:
    """Return the parameters of an instance of any source; messages call it `file`."""
    return _parameters(file, expression, parse_kernels(text), parse_structs(text))


def _parameters(
    file: str, expression: str, kernels: Mapping[str, Declaration], structs: Mapping[str, np.dtype]
) -> tuple[Parameter, ...]:
    name, values = split_expression(expression)
    declaration = kernels.get(name)
    if declaration is None:
        raise ValueError(f"{file} has no kernel {name}")
    if len(values) != len(declaration.template):
        raise ValueError(f"{name} takes the template arguments {declaration.template}, got {expression}")
    known = dict(zip(declaration.template, map(_spelled, values), strict=True))
    return tuple(_parameter(file, expression, text, known, structs) for text in declaration.parameters)


def bind(file: str, expression: str, args: Sequence[Any], owns: Callable[[object], bool]) -> list[Any]:
    """Check the arguments of a launch, and pack each value as the kernel reads it.

    Args:
        file: the `.cu` file.
        expression: the kernel's name with its template arguments.
        args: one for each parameter.
        owns: says whether an object is an array on the launcher's device.
    Returns:
        the arrays unchanged, None for null, and NumPy values of exactly the parameter's dtype.
    Raises:
        TypeError: a wrong number of arguments, a wrong type, dtype or device, a value that the type
            cannot hold, or an array that is not contiguous. The message names kernel and parameter.
    """
    return bind_to(parameters(file, expression), expression, args, owns)


def bind_to(
    expected: Sequence[Parameter], expression: str, args: Sequence[Any], owns: Callable[[object], bool]
) -> list[Any]:
    """Check and pack arguments as :func:`bind` does, for parameters that were read before."""
    if len(args) != len(expected):
        names = ", ".join(p.name for p in expected)
        raise TypeError(f"{expression}: takes {len(expected)} arguments ({names}), got {len(args)}")
    return [
        _bind_array(expression, p, value, owns) if p.is_pointer else _bind_value(expression, p, value)
        for p, value in zip(expected, args, strict=True)
    ]


def check_extents(kernel: str, grid: Extent, block: Extent) -> tuple[Extents, Extents]:
    """Return the extents of a launch as tuples.

    Raises:
        ValueError: they are beyond CUDA's limits.
    """
    grid = (grid,) if isinstance(grid, int) else tuple(grid)
    block = (block,) if isinstance(block, int) else tuple(block)
    if not _within(grid, GRID_LIMITS):
        raise ValueError(f"{kernel}: a grid of {grid} blocks is not within {GRID_LIMITS}")
    if not _within(block, BLOCK_LIMITS) or prod(block) > BLOCK_LIMIT:
        raise ValueError(f"{kernel}: a block of {block} threads is not within {BLOCK_LIMITS} and {BLOCK_LIMIT} in all")
    return grid, block


def _within(extents: Extents, limits: Extents) -> bool:
    return len(extents) <= len(limits) and all(1 <= n <= limit for n, limit in zip(extents, limits, strict=False))


def _bind_array(expression: str, p: Parameter, value: Any, owns: Callable[[object], bool]) -> Any:
    if value is None and p.may_be_null:
        return None
    if not owns(value):
        raise TypeError(f"{expression}: {p.name} must be an array on this device, got {type(value).__name__}")
    if value.dtype != p.dtype or not value.flags.c_contiguous:
        got = f"{value.dtype} of shape {value.shape} with strides {value.strides}"
        raise TypeError(f"{expression}: {p.name} must be C-contiguous {p.dtype}, got {got}")
    return value


def _bind_value(expression: str, p: Parameter, value: Any) -> np.ndarray | np.generic:
    if p.dtype.names is not None:
        return _bind_struct(expression, p, value)
    whole = p.dtype.kind in "iub"
    if not isinstance(value, (int, np.integer, np.bool_) if whole else (int, float, np.integer, np.floating)):
        raise TypeError(f"{expression}: {p.name} must be a number for {p.dtype}, got {type(value).__name__} {value!r}")
    if whole and p.dtype.kind != "b":
        limits = np.iinfo(p.dtype)
        if not limits.min <= value <= limits.max:
            raise TypeError(f"{expression}: {p.name} must fit {p.dtype}, got {value}")
    return p.dtype.type(value)


def _bind_struct(expression: str, p: Parameter, value: Any) -> np.ndarray:
    if isinstance(value, np.ndarray) and value.dtype == p.dtype and value.shape == ():
        return value
    if not isinstance(value, Mapping) or set(value) != set(p.dtype.names or ()):
        got = sorted(value) if isinstance(value, Mapping) else repr(value)
        raise TypeError(f"{expression}: {p.name} takes the fields {p.dtype.names}, got {got}")
    record = np.zeros((), p.dtype)
    for field, content in value.items():
        try:
            if p.dtype[field].shape:
                record[field][: len(content)] = content  # zeros follow a shorter list
            else:
                record[field] = content
        except (TypeError, ValueError, OverflowError) as error:
            raise TypeError(f"{expression}: {p.name}.{field} cannot hold {content}") from error
    return record


def _parameter(
    file: str, expression: str, text: str, template: Mapping[str, str], structs: Mapping[str, np.dtype]
) -> Parameter:
    kind, _, name = _spelled(_QUALIFIERS.sub(" ", text)).replace("*", " * ").rstrip().rpartition(" ")
    words = kind.split()
    base = template.get(words[0], words[0])
    dtype = np.dtype(C_TYPES[base]) if base in C_TYPES else structs.get(base)
    if dtype is None or words[1:] not in ([], ["*"]):
        raise ValueError(f"{file}: {expression}: cannot read the parameter {text!r}")
    qualifiers = _QUALIFIERS.findall(text)
    marks = (mark in qualifiers for mark in ("OR_NULL", "const", "UPDATED", "ADDED_TO"))
    return Parameter(name, dtype, "*" in words, *marks)


def _spelled(text: str) -> str:
    for pattern, name in _SPELLINGS:
        text = pattern.sub(name, text)
    return text


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
