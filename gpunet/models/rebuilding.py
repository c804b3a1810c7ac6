"""Models made again from what a file says of them; opening a file runs no code of its author."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from gpunet.interop import load_weights, read_origin
from gpunet.nn import Module, init
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
    if make is None:
        with init.at_most(os.path.getsize(path)):  # each weight takes a byte of the file or more
            model = rebuild(path, read_origin(path))
    else:
        model = make()
    load_weights(path, model)
    return model


def rebuild(path: str | os.PathLike[str], origin: Mapping[str, Any] | None) -> Module:
    """The model that `nn.origin` describes, with new parameters; `path` is what errors name."""
    if origin is None:
        raise ValueError(f"load_model: {path} does not say how its model is made: make it, and load its weights")
    if not isinstance(origin, Mapping):
        raise ValueError(f"load_model: {path} describes its model by {type(origin).__name__} but takes a dict")
    maker = MAKERS.get(str(origin.get("name")))
    if maker is None:
        named = origin.get("name") or origin.get("class")
        raise ValueError(f"load_model: the model of {path} is {named}, none of gpunet.models: pass make=")
    try:
        # A model among the arguments, such as the embedding of a Siamese, is told by its origin.
        given = {k: rebuild(path, v) if isinstance(v, Mapping) else v for k, v in origin["arguments"].items()}
        return maker(**given)
    except Exception as error:  # of any kind, since a file may hold arguments of any type and size
        said = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"load_model: {path} has arguments that {origin['name']} does not take: {said}") from error
