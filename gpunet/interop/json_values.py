"""Values of training as JSON: NumPy's numbers and arrays, and numbers that are not finite.

JSON has no NaN and no infinity, and many readers refuse the names that Python writes for them. They
are written as ``{"__float__": "nan"}``, with "inf" and "-inf" likewise, and read back as numbers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from math import isfinite
from typing import Any

import numpy as np

from gpunet.autograd import Tensor
from gpunet.backends.contract import is_float

MARK = "__float__"
NOT_FINITE = ("nan", "inf", "-inf")


def to_json(operation: str, state: Mapping[str, Any], *, indent: int | None = None) -> str:
    """The JSON text of a dict of numbers, text, None, lists and dicts.

    NumPy's scalars, arrays and tensors are written as Python's numbers and lists.

    Args:
        operation: begins errors.
        state: the dict; keys that are numbers become text, as in Python's json.
    Raises:
        TypeError: a value that JSON cannot hold; the message names its key.
    """
    try:
        plain = {_key(name, "a key"): _plain(value, str(name)) for name, value in state.items()}
        return json.dumps(plain, allow_nan=False, indent=indent)
    except TypeError as error:
        raise TypeError(f"{operation}: {error}") from None
    except RecursionError:
        raise TypeError(f"{operation}: a value holds itself, or is nested too deeply for JSON") from None


def from_json(text: str) -> Any:
    """What `to_json` wrote, with lists for tuples and arrays and Python's numbers for NumPy's.

    Raises:
        ValueError: another text, such as one in which an object has a key twice.
    """
    return json.loads(text, object_pairs_hook=_read)


def plain_number(value: Any) -> Any:
    """A NumPy number, a fraction or a 0-d tensor as a Python number; anything else unchanged."""
    if isinstance(value, Tensor) and value.ndim == 0:
        value = value.numpy()
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer) and not isinstance(value, np.timedelta64):
        return int(value)
    if isinstance(value, float | Fraction | Decimal) or (isinstance(value, np.generic) and is_float(value.dtype)):
        return float(value)
    return value


def _plain(value: Any, place: str) -> Any:
    """A value in JSON's types; `place` names it in errors."""
    try:
        value = plain_number(value)
        if isinstance(value, int):
            str(value)
    except (ValueError, OverflowError) as error:  # a fraction beyond float64, or too many digits
        raise TypeError(f"{place} cannot be written: {error}") from None
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if isfinite(value) else {MARK: str(value)}
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Mapping):
        return _plain_dict(value, place)
    if isinstance(value, Tensor):
        value = value.numpy()
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(entry, f"{place}[{i}]") for i, entry in enumerate(value)]
    raise TypeError(
        f"{place} is of type {type(value).__name__} but must be what JSON can hold: numbers, text, None, lists, dicts"
    )


def _plain_dict(value: Mapping[Any, Any], place: str) -> dict[str, Any]:
    """A dict in JSON's types; TypeError for two keys that are the same in JSON."""
    plain: dict[str, Any] = {}
    for key, entry in value.items():
        name = _key(key, f"a key of {place}")
        if name in plain:
            raise TypeError(f"{place} has two keys that are {name!r} in JSON")
        plain[name] = _plain(entry, f"{place}[{key!r}]")
    if set(plain) == {MARK}:
        raise TypeError(f"{place} has the one key {MARK!r}, which stands for numbers that are not finite")
    return plain


def _key(key: Any, place: str) -> str:
    """A key as json writes it."""
    key = plain_number(key)
    if isinstance(key, str):
        return str.__str__(key)
    if key is None or isinstance(key, bool | int) or (isinstance(key, float) and isfinite(key)):
        return json.dumps(key)
    raise TypeError(f"{place} is {key!r} but must be text or a finite number")


def _read(pairs: list[tuple[str, Any]]) -> Any:
    """A dict, or a number that is not finite if the JSON object stands for one."""
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a JSON object has a key twice")
    if len(value) == 1 and value.get(MARK) in NOT_FINITE:
        return float(value[MARK])
    return value
