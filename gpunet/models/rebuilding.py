"""Models made again from what a file says of them; opening a file runs no code of its author."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from gpunet.interop import load_weights, read_origin
from gpunet.nn import Module
from gpunet.nn.origin import MAKERS

__all__ = ["load_model"]


def load_model(path: str | os.PathLike[str], make: Callable[[], Module] | None = None) -> Module:
    """Make the model of a checkpoint or of a weights file, with its weights.

    Args:
        path: the file.
        make: makes the model, if it is not one of `gpunet.models`: the file names its class, but
            only the caller has it imported.
    Raises:
        ValueError: the file does not say how its model is made; or it is the user's own, and `make`
            is missing or makes another one.
        DamagedFileError: the file is not whole.
    """
    model = rebuild(path, read_origin(path)) if make is None else make()
    load_weights(path, model)
    return model


def rebuild(path: str | os.PathLike[str], origin: Mapping[str, Any] | None) -> Module:
    """The model that `nn.origin` describes, with new parameters; `path` is what errors name."""
    if origin is None:
        raise ValueError(f"load_model: {path} does not say how its model is made: make it, and load its weights")
    maker = MAKERS.get(str(origin.get("name")))
    if maker is None:
        named = origin.get("name") or origin.get("class")
        raise ValueError(f"load_model: the model of {path} is {named}, none of gpunet.models: pass make=")
    try:
        return maker(**origin["arguments"])
    except (TypeError, ValueError, KeyError, MemoryError) as error:
        raise ValueError(f"load_model: {path} has arguments that {origin['name']} does not take: {error}") from error
