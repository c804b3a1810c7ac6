"""Leads calls from CuPy's compiled modules to the stand-in.

CuPy reaches CUDA through two Cython modules, `cupy_backends.cuda.api.runtime` and `driver`. Its
other modules take their C functions from a table, ``__pyx_capi__``, which has a capsule for each
function, named by its C signature. This module writes a small C++ library with one function for
each signature, which calls a Python function instead of CUDA, and puts these functions into
capsules of the same names. The signatures are read from CuPy, so a function that changes in a later
release gets a bridge of its new signature, or none.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from typing import Any

from gpunet import cache
from gpunet.emulator import build

_BOXES = {
    "int": "i", "unsigned int": "I", "intptr_t": "L", "size_t": "K", "uintmax_t": "K", "CUdevice": "i", "PyObject *": "O",
}  # fmt: skip
"""The letter of each C type in the format of PyObject_CallFunction."""
_RESULTS = {
    "PyObject *": "return result;",
    "int": "return unboxed(result, PyLong_AsLong, {error});",
    "unsigned int": "return unboxed(result, PyLong_AsUnsignedLong, 0);",
    "intptr_t": "return unboxed(result, PyLong_AsLongLong, 0);",
    "size_t": "return unboxed(result, PyLong_AsUnsignedLongLong, -1);",
    "uintmax_t": "return unboxed(result, PyLong_AsUnsignedLongLong, 0);",
    "float": "return unboxed(result, PyFloat_AsDouble, 0);",
}
"""The statement that returns a result of each C type. Its last argument is the value that tells
Cython's callers of an error: `except?` in runtime.pxd and driver.pxd."""
_ERRORS = {"funcGetAttribute": "-2"}
_SIGNATURE = re.compile(r"(.+?) ?\((.*)\)")
_HEAD = """
#include <cstddef>
#include <cstdint>
extern "C" {
struct PyObject;
typedef int CUdevice;
PyObject* PyObject_CallFunction(PyObject*, const char*, ...);
long PyLong_AsLong(PyObject*);
unsigned long PyLong_AsUnsignedLong(PyObject*);
long long PyLong_AsLongLong(PyObject*);
unsigned long long PyLong_AsUnsignedLongLong(PyObject*);
double PyFloat_AsDouble(PyObject*);
PyObject* PyErr_Occurred();
void Py_IncRef(PyObject*);
void Py_DecRef(PyObject*);
__attribute__((visibility("default"))) void bridge_set(int, PyObject*);
}
struct Options { int given; int value; };  // Cython's optional arguments, of a function that has one
static PyObject* hooks[512];
void bridge_set(int index, PyObject* hook) { Py_IncRef(hook); hooks[index] = hook; }
template <class Get> static auto unboxed(PyObject* result, Get get, long error) -> decltype(get(result)) {
    if (!result) return error;
    const auto value = get(result);
    Py_DecRef(result);
    return PyErr_Occurred() ? error : value;
}
"""


def capsules(functions: dict[str, str], hooks: dict[str, Callable[..., Any]]) -> dict[str, Any]:
    """Make a capsule for each hook whose function has a signature that can be bridged.

    Args:
        functions: the signatures, by name.
        hooks: the Python functions to call, by name. An optional argument that is missing is -1.
    """
    written = {name: text for name in hooks if name in functions and (text := _function(name, functions[name]))}
    code = _HEAD + "".join(text.replace("@", str(index)) for index, text in enumerate(written.values()))
    library = ctypes.PyDLL(str(_build(code)))
    made = {}
    for index, name in enumerate(written):
        library.bridge_set(index, ctypes.py_object(hooks[name]))
        address = ctypes.cast(getattr(library, f"bridge_{name}"), ctypes.c_void_p).value
        made[name] = _capsule(address, functions[name].encode())
    return made


def signatures(module: Any) -> dict[str, str]:
    """Return the signatures of the C functions that a Cython module exports, by name."""
    get_name = ctypes.pythonapi.PyCapsule_GetName
    get_name.restype, get_name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    return {name: get_name(capsule).decode() for name, capsule in module.__pyx_capi__.items()}


def _function(name: str, signature: str) -> str:
    """Return the C++ of one function; empty if one of its types is not known."""
    parts = _SIGNATURE.fullmatch(re.sub(r"^struct __pyx_obj_\w+ \*", "PyObject *", signature))
    if parts is None or parts[1] not in _RESULTS:
        return ""
    declared, boxed, letters = [], [], ""
    for index, word in enumerate(w.strip() for w in parts[2].split(",") if w.strip() != "void"):
        if "__pyx_skip_dispatch" in word:
            declared.append("int")
        elif "__pyx_optional_args" in word:
            declared.append(f"Options* a{index}")
            boxed.append(f"a{index} && a{index}->given ? a{index}->value : -1")
            letters += "i"
        elif word in _BOXES:
            declared.append(f"{word} a{index}")
            letters += _BOXES[word]
            boxed.append(
                f"a{index}"
                if letters[-1] in "iIO"
                else f"({'' if letters[-1] == 'L' else 'unsigned '}long long)a{index}"
            )
        else:
            return ""
    call = ", ".join(["hooks[@]", f'"{"(" + letters + ")" if letters else ""}"', *boxed])
    result = _RESULTS[parts[1]].format(error=_ERRORS.get(name, "-1"))
    return (
        f'extern "C" __attribute__((visibility("default"))) {parts[1]} bridge_{name}({", ".join(declared)}) {{\n'
        f"    PyObject* result = PyObject_CallFunction({call});\n    {result}\n}}\n"
    )


def _build(code: str) -> Any:
    def make(path: Any) -> None:
        source = path.with_suffix(".cpp")
        source.write_text(code, encoding="utf-8")
        build.compile_library([source], path, ("-O1",))

    return cache.keep("standin", f"bridge-{cache.digest(build.own_hash(()), code)}.so", make)


_names: list[bytes] = []
"""The names of the capsules, which hold only pointers to them."""


def _capsule(address: int | None, name: bytes) -> Any:
    _names.append(name)
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    return new(address, name, None)
