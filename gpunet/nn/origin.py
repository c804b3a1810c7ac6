"""How a model was made: what a checkpoint says of it, so that it can be made again."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import numpy as np

from gpunet.nn.module import Module

T = TypeVar("T", bound=Callable[..., Module])

MAKERS: dict[str, Callable[..., Module]] = {}
"""The functions and classes that `recorded` has seen, by name."""


def recorded(make: T) -> T:
    """Have a function or a class note in each model how it made it; see `origin`.

    The note is text, which copies and pickles keep, and which is no part of the model's state. A
    model whose arguments JSON cannot hold, such as a module, gets none.
    """
    signature = inspect.signature(make)

    def note(model: Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        bound = signature.bind(*arguments, **options)
        bound.apply_defaults()
        try:
            text = json.dumps({"name": make.__name__, "arguments": dict(bound.arguments)}, default=_plain)
        except TypeError:
            return
        vars(model)["_origin"] = text

    if isinstance(make, type):
        kind: Any = make
        begin = kind.__init__

        @wraps(begin)
        def noting_init(self: Module, *arguments: Any, **options: Any) -> None:
            begin(self, *arguments, **options)
            if type(self) is make:  # a subclass has arguments of its own
                note(self, arguments, options)

        kind.__init__ = noting_init
        MAKERS[make.__name__] = make
        return make

    @wraps(make)
    def noting(*arguments: Any, **options: Any) -> Module:
        model = make(*arguments, **options)
        note(model, arguments, options)
        return model

    MAKERS[make.__name__] = noting
    return noting  # type: ignore[return-value]


def origin(model: Module) -> dict[str, Any]:
    """How a model can be made again.

    Returns:
        ``{"name": NAME, "arguments": {…}}`` for a model of `gpunet.models`, with every argument;
        ``{"class": "MODULE:CLASS"}`` for any other.
    """
    text = vars(model).get("_origin")
    if text is None:
        return {"class": f"{type(model).__module__}:{type(model).__qualname__}"}
    found: dict[str, Any] = json.loads(text)
    return found


def _plain(value: Any) -> Any:
    """What JSON holds in place of NumPy's numbers and arrays."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is nothing that JSON can hold")
