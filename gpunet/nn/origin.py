"""How a model was made: what a checkpoint says of it, so that it can be made again."""

from __future__ import annotations

import inspect
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar

import numpy as np

from gpunet.nn.module import Module

T = TypeVar("T", bound=Callable[..., Module])

MAKERS: dict[str, Callable[..., Module]] = {}
"""The functions and classes that `recorded` has seen, by name."""


@dataclass(frozen=True)
class Record:
    """What made a model, kept in the model; no container, so no module looks for parts in it."""

    text: str
    """The origin as JSON, which copies of the model can share."""
    structure: int
    """The checksum of what `repr` said of the model when it was made."""


def recorded(make: T, omitted: Sequence[str] = ()) -> T:
    """Have a function or a class note in each model how it made it; see `origin`.

    The note is kept by copies and pickles, and is no part of the model's state. A model whose
    arguments JSON cannot hold gets none.

    Args:
        omitted: arguments that decide initial values alone, which a file's weights replace.
    """
    signature = inspect.signature(make)

    def record(model: Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        bound = signature.bind(*arguments, **options)
        bound.apply_defaults()
        given = {key: value for key, value in bound.arguments.items() if key not in omitted}
        try:
            text = json.dumps({"name": make.__name__, "arguments": given}, default=_plain)
        except (TypeError, ValueError):
            vars(model).pop("_origin", None)  # the note of a function that `make` has called
            return
        vars(model)["_origin"] = Record(text, _structure(model))

    if isinstance(make, type):
        kind: Any = make
        begin = kind.__init__

        @wraps(begin)
        def noting_init(self: Module, *arguments: Any, **options: Any) -> None:
            begin(self, *arguments, **options)
            if type(self) is make:  # a subclass has arguments of its own
                record(self, arguments, options)

        kind.__init__ = noting_init
        MAKERS[make.__name__] = make
        return make

    @wraps(make)
    def noting(*arguments: Any, **options: Any) -> Module:
        model = make(*arguments, **options)
        record(model, arguments, options)
        return model

    MAKERS[make.__name__] = noting
    return noting  # type: ignore[return-value]


def origin(model: Module) -> dict[str, Any]:
    """How a model can be made again.

    Returns:
        ``{"name": NAME, "arguments": {…}}`` for a model of `gpunet.models`, with every argument;
        ``{"class": "MODULE:CLASS"}`` for any other, and for one whose `repr` has changed since it
        was made, as after a layer was replaced or folded.
    """
    note = vars(model).get("_origin")
    if not isinstance(note, Record) or note.structure != _structure(model):
        return {"class": f"{type(model).__module__}:{type(model).__qualname__}"}
    found: dict[str, Any] = json.loads(note.text)
    return found


def name_of(model: Module) -> str:
    """What made a model of `gpunet.models`, such as "resnet18"; the class of any other."""
    return str(origin(model).get("name", type(model).__name__))


def _structure(model: Module) -> int:
    return zlib.crc32(repr(model).encode())


def _plain(value: Any) -> Any:
    """What JSON holds in place of NumPy's numbers and arrays, and of a model inside another."""
    if isinstance(value, Module) and "name" in (inner := origin(value)):
        return inner
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is nothing that JSON can hold")
