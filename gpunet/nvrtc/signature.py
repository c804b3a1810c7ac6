"""The parameters of a kernel, read from its source, and the check of a launch's arguments against them.

CuPy checks neither the number nor the kind of arguments and ignores strides, so a wrong launch reads wrong memory. Here
the source says what a kernel takes: `__global__` functions, templates too, and the structs that they take by value,
which become NumPy record dtypes of the same layout. A pointer marked `OR_NULL` takes None; one marked `UPDATED` is read and
written, and so is one marked `ADDED_TO` by a launch whose number `accumulate` is not 0.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np

from gpunet.nvrtc import source

C_TYPES: dict[str, Any] = {
    "bool": "?", "char": "i1", "uint8": "u1", "short": "i2", "uint16": "u2", "int": "i4", "uint32": "u4", "int64": "i8",
    "uint64": "u8", "half": "f2", "bfloat16": ml_dtypes.bfloat16, "float": "f4", "double": "f8",
}  # fmt: skip
"""C type, as kernels/common.cuh names it, to NumPy dtype."""
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
"""Other spellings of the same types, which kernels from elsewhere use."""

_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_STRUCT = re.compile(r"(template\s*<[^>]*>\s*)?\bstruct\s+(\w+)\s*\{([^}]*)\}\s*;")
_DEFINE = re.compile(r"^#define\s+(\w+)\s+(\d+)\s*$", re.MULTILINE)
_KERNEL = re.compile(
    r"(?:template\s*<([^>]*)>\s*)?(?:extern\s+\"C\"\s*)?__global__\s+void\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?(\w+)\s*\(([^)]*)\)"
)
_QUALIFIERS = re.compile(r"\b(const|__restrict__|__grid_constant__|OR_NULL|UPDATED|ADDED_TO)\b")


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a kernel instance: an array of `dtype`, or a value of it."""

    name: str
    dtype: np.dtype
    is_pointer: bool
    may_be_null: bool = False
    is_const: bool = False
    is_updated: bool = False
    is_added_to: bool = False


@dataclass(frozen=True, slots=True)
class Declaration:
    """A `__global__` function as it is written, its types still templates'."""

    name: str
    template: tuple[str, ...]
    """Names of the template parameters, in order."""
    parameters: tuple[str, ...]


@cache
def declarations(file: str) -> dict[str, Declaration]:
    """The kernels of one `.cu` file by name."""
    return parse_kernels(source.read(file))


@cache
def structs(file: str) -> dict[str, np.dtype]:
    """The by-value structs that a `.cu` file and its headers define, as record dtypes."""
    return parse_structs(source.read(file))


@cache
def constants(file: str) -> dict[str, int]:
    """The whole numbers that a `.cu` file and its headers define: what kernels and the host share."""
    found = _DEFINE.findall(_COMMENT.sub(" ", source.read(file)))
    return {name: int(value) for name, value in found}


def parse_kernels(text: str) -> dict[str, Declaration]:
    """Every `__global__` function in a source."""
    found = {}
    for template, name, parameters in _KERNEL.findall(_COMMENT.sub(" ", text)):
        names = tuple(part.split()[-1] for part in template.split(",")) if template.strip() else ()
        found[name] = Declaration(name, names, tuple(" ".join(part.split()) for part in _split(parameters)))
    return found


def parse_structs(text: str) -> dict[str, np.dtype]:
    """Every plain struct in a source whose members are numbers or fixed arrays of them."""
    text = _spelled(_COMMENT.sub(" ", text))
    constants = dict(_DEFINE.findall(text))
    found = {}
    for template, name, body in _STRUCT.findall(text):
        if template:  # of the kernels' own: no launch passes one
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
    """("name", ["float", "64"]) of "name<float, 64>"."""
    name, _, rest = expression.partition("<")
    return name, _split(rest.rstrip(">"))


@cache
def parameters(file: str, expression: str) -> tuple[Parameter, ...]:
    """What one instance takes.

    Args:
        expression: the kernel's name with its template arguments, as in ``"fill<float>"``.
    """
    return _parameters(file, expression, declarations(file), structs(file))


def parse_parameters(file: str, text: str, expression: str) -> tuple[Parameter, ...]:
    """As :func:`parameters`, of a source that is not among gpunet's; `file` is what messages call it."""
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
    """The arguments of a launch, checked, with every value packed as the kernel reads it.

    Args:
        owns: whether an object is an array on the launcher's device.
    Returns:
        arrays as they came, None for null, and NumPy values of exactly the parameter's dtype.
    Raises:
        TypeError: a wrong count, kind, dtype or device, a value that its type cannot hold, or a non-contiguous array;
            the message names the kernel and the parameter.
    """
    return bind_to(parameters(file, expression), expression, args, owns)


def bind_to(
    expected: Sequence[Parameter], expression: str, args: Sequence[Any], owns: Callable[[object], bool]
) -> list[Any]:
    """As :func:`bind`, to parameters that are known."""
    if len(args) != len(expected):
        names = ", ".join(p.name for p in expected)
        raise TypeError(f"{expression}: takes {len(expected)} arguments ({names}), got {len(args)}")
    return [
        _bind_array(expression, p, value, owns) if p.is_pointer else _bind_value(expression, p, value)
        for p, value in zip(expected, args, strict=True)
    ]


def _bind_array(expression: str, p: Parameter, value: Any, owns: Callable[[object], bool]) -> Any:
    if value is None and p.may_be_null:
        return None
    if not owns(value):
        raise TypeError(f"{expression}: {p.name} must be an array on this device, got {type(value).__name__}")
    if value.dtype != p.dtype or not value.flags.c_contiguous:
        raise TypeError(
            f"{expression}: {p.name} must be C-contiguous {p.dtype}, got {value.dtype} of shape {value.shape} "
            f"with strides {value.strides}"
        )
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
                record[field][: len(content)] = content  # a shorter list leaves zeros
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
