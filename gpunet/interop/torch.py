"""Weights of PyTorch's models: read from safetensors files or state dicts, and written back.

Files are read without PyTorch. The layers of both models must compute the same; their arrays are
laid out anew, see `gpunet.interop.torch_layouts`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from gpunet.backends.contract import is_float
from gpunet.errors import DamagedFileError
from gpunet.files import PathLike, write_whole
from gpunet.interop.container import read
from gpunet.interop.entries import entries, entries_of, one_line
from gpunet.interop.flattening import flattened_channels
from gpunet.interop.torch_layouts import COUNT, Layout, joined, layouts, parts
from gpunet.interop.torch_names import Names, is_count, renamed, table_of
from gpunet.nn import BatchNorm2d, Module

__all__ = ["load_state_dict", "save_state_dict", "to_torch_state_dict"]

PICKLES = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")
"""Endings of files that `torch.save` writes."""
MAGIC = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
"""How such files begin: a zip, or a pickle."""


def load_state_dict(
    model: Module,
    source: PathLike | Mapping[str, Any],
    *,
    names: Names | None = None,
    keep: Sequence[str] = (),
    flattened: Mapping[str, Any] | None = None,
    input_shape: Sequence[int] | None = None,
    pickle: bool = False,
) -> dict[str, str]:
    """Copy the weights of a PyTorch model into a model of the same architecture, all or none.

    The file of a network of torchvision or timm is loaded into its counterpart in `gpunet.models`
    without more arguments.

    Args:
        model: its parameters and buffers are set, converted to their dtype.
        source: a safetensors file with PyTorch's names; or a state dict, of tensors or of NumPy's
            arrays.
        names: how entries are called here: a dict from the names of modules, or of parts of them,
            there to those here, in which None leaves an entry out; a function from the name of an
            entry there to its name here; or "torchvision" or "timm" for networks of
            `gpunet.models`. With None, names are the same, or those of torchvision or timm.
        keep: modules or entries of the model that keep their values, such as a new head; what the
            source has for them is not read.
        flattened: for a dense layer or a norm behind a flatten, (C, H, W) of what is flattened, or
            C, by the layer's name here, and None for one that is not behind a flatten. It is needed
            where neither a `Sequential` nor `input_shape` tells.
        input_shape: (H, W, C) of an image for one run of the model, which tells the same; known for
            networks of `gpunet.models`.
        pickle: open files that `torch.save` wrote, by ``torch.load(weights_only=True)``, which
            takes PyTorch.
    Returns:
        The name there of each entry that was loaded, by its name here.
    Raises:
        ValueError: entries are missing, unexpected, of another shape, or no floats; the message
            names all of them. Or the order behind a flatten is not known. Nothing is changed.
        DamagedFileError: the file is truncated or altered, or no safetensors file.
        TypeError: the source is neither a path nor a mapping, or the file is a pickle.
        OSError: the file cannot be read.
    """
    place, state = _opened(source, pickle)
    operation = f"load_state_dict: {place}"
    ours, table = renamed(operation, model, state, names)
    wanted = entries(model)
    kept = entries_of(operation, wanted, keep)
    channels = flattened_channels(operation, model, flattened, input_shape, kept)
    forms, faults = layouts(operation, model, channels, kept), list[str]()
    counts = {joined(name, COUNT) for name, module in model.named_modules() if isinstance(module, BatchNorm2d)}
    loaded, found = dict[str, np.ndarray](), dict[str, str]()
    for there, own in ours.items():
        if own is None or own in kept or (own in counts and own not in wanted):
            continue
        if own not in wanted:
            faults.append(f"unexpected {there}" + (f" ({own})" if own != there else ""))
        elif own in found:
            faults.append(f"{there} and {found[own]} are both {own}")
        else:
            found[own] = there
            try:
                loaded[own] = _converted(there, state[there], forms[own])
            except (ValueError, TypeError) as error:
                faults.append(str(error))
    missing = [own for own in wanted if own not in found and own not in kept]
    faults = [f"missing {_both(table.to_torch(own), own)}" for own in missing] + faults
    if faults:
        raise ValueError(one_line(f"{operation}: {'; '.join(faults)}"))
    try:
        model.load_state_dict({**{name: wanted[name].numpy() for name in kept}, **loaded})
    except (ValueError, TypeError) as error:
        raise ValueError(f"{operation}: {str(error).removeprefix('load_state_dict: ')}") from error
    return found


def to_torch_state_dict(
    model: Module,
    *,
    names: Names | None = None,
    flattened: Mapping[str, Any] | None = None,
    input_shape: Sequence[int] | None = None,
    numpy: bool = False,
) -> dict[str, Any]:
    """The model's parameters and buffers by PyTorch's names, in PyTorch's layouts.

    A PyTorch model with the same layers takes them: ``theirs.load_state_dict(state)``.

    Args:
        names: as for `load_state_dict`, with the same dict; but a function goes from names here to
            names there. None keeps the names.
        flattened, input_shape: as for `load_state_dict`.
        numpy: give NumPy's arrays, which takes no PyTorch.
    Raises:
        ValueError: a layer has no counterpart in PyTorch, or the order behind a flatten is not
            known.
        ImportError: PyTorch is missing, and `numpy` is False.
    """
    operation = "to_torch_state_dict"
    forms = layouts(operation, model, flattened_channels(operation, model, flattened, input_shape))
    rename: Callable[[str], str | None] = str
    if callable(names):
        rename = names
    elif names is not None:
        rename = table_of(operation, model, names).to_torch
    made: dict[str, np.ndarray] = {}
    for own, array in _with_counts(model):
        name = rename(own)
        if name is None:
            continue
        if name in made:
            raise ValueError(f"{operation}: names gives two entries the name {name}")
        made[name] = forms[own].to_torch(array) if own in forms and not is_count(own) else array
    return dict(made) if numpy else {name: _as_tensor(array) for name, array in made.items()}


def save_state_dict(model: Module, path: PathLike, **options: Any) -> None:
    """Write the model's weights as a safetensors file with PyTorch's names and layouts.

    ``safetensors.torch.load_file`` reads it; nothing here takes PyTorch.

    Args:
        path: the file; it is written aside and renamed, so it is never half a file.
        options: `names`, `flattened` and `input_shape` of `to_torch_state_dict`.
    Raises:
        ValueError: see `to_torch_state_dict`.
        OSError: writing failed; the file that was there is as it was.
    """
    from safetensors.numpy import save

    write_whole(path, save(to_torch_state_dict(model, **options, numpy=True), metadata={"format": "pt"}))


# ---- reading


def _opened(source: PathLike | Mapping[str, Any], pickle: bool) -> tuple[str, Mapping[str, Any]]:
    """(what errors call the source, its entries)."""
    if isinstance(source, Mapping):
        if strange := [name for name in source if not isinstance(name, str)]:
            raise TypeError(f"load_state_dict: the state dict has a key {strange[0]!r} but takes names")
        return "the state dict", source
    if not isinstance(source, str | os.PathLike):
        raise TypeError(f"load_state_dict: source is {type(source).__name__} but takes a file's name or a state dict")
    place = os.fspath(source)
    if pickle:
        return place, _unpickled(place)
    with open(place, "rb") as file:
        begin = file.read(9)
    # A header of safetensors begins behind its length, whose bytes may be those of a pickle.
    if begin[8:] != b"{" and (place.endswith(PICKLES) or begin.startswith(MAGIC)):
        raise TypeError(
            f"load_state_dict: {place} is a pickle of torch.save, which may run code and is not opened: save it as "
            "safetensors, or give pickle=True to read it by torch.load(weights_only=True)"
        )
    found = read("load_state_dict", source)
    if found.kind:
        raise ValueError(f"load_state_dict: {place} is gpunet's own file: load it by interop.load_weights")
    return place, found.arrays


def _unpickled(place: str) -> Mapping[str, Any]:
    """The state dict of a file that `torch.save` wrote."""
    torch = _torch("load_state_dict: pickle=True")
    try:
        found = torch.load(place, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # of any kind, as unpickling raises them
        reason = " ".join(str(error).split())[:200]
        raise DamagedFileError(f"load_state_dict: {place} is damaged, or holds more than weights: {reason}") from error
    if not isinstance(found, Mapping) or any(isinstance(value, Mapping) for value in found.values()):
        held = f"a dict of {', '.join(map(str, found))}" if isinstance(found, Mapping) else type(found).__name__
        raise ValueError(
            f"load_state_dict: {place} holds {held}, no state dict: open it by torch.load, and pass the part"
        )
    return found


def _converted(there: str, value: Any, layout: Layout) -> np.ndarray:
    """One of PyTorch's arrays in gpunet's layout; ValueError or TypeError if it does not fit."""
    array = _as_array(there, value)
    if is_count(there) and array.dtype.kind in "iu":
        array = array.astype(np.float32)
    if not is_float(array.dtype):
        raise TypeError(f"{there} is {array.dtype} but takes floats")
    if array.shape != layout.torch:
        raise ValueError(f"{there} is {array.shape} but takes {layout.torch}")
    return layout.from_torch(array)


def _as_array(name: str, value: Any) -> np.ndarray:
    """A NumPy array, or a tensor of PyTorch's as one."""
    if isinstance(value, np.ndarray | np.generic):
        return np.asarray(value)
    if not type(value).__module__.partition(".")[0] == "torch" or not hasattr(value, "detach"):
        raise TypeError(f"{name} is {type(value).__name__} but takes a tensor or a NumPy array")
    torch = _torch("load_state_dict")
    if value.layout != torch.strided or value.is_quantized:
        raise TypeError(f"{name} is a {'quantized' if value.is_quantized else 'sparse'} tensor but takes a plain one")
    plain = value.detach().cpu().contiguous()
    if plain.dtype == torch.bfloat16:
        return plain.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return plain.numpy()


def _both(there: str, own: str) -> str:
    return there if there == own else f"{there} ({own})"


# ---- writing


def _with_counts(model: Module) -> Iterator[tuple[str, np.ndarray]]:
    """(name, array) of the model's entries in PyTorch's order, with a count for each batch norm."""
    for name, module, part, value in parts(model):
        if part == COUNT and isinstance(module, BatchNorm2d):
            continue
        yield joined(name, part), value.numpy().copy()
        if part == "running_var" and isinstance(module, BatchNorm2d):
            count = module.num_batches_tracked
            yield joined(name, COUNT), np.array(0 if count is None else count.numpy()).astype(np.int64)


def _as_tensor(array: np.ndarray) -> Any:
    """A tensor of PyTorch's with an array's values."""
    torch = _torch("to_torch_state_dict")
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _torch(operation: str) -> Any:
    """PyTorch, or an ImportError that says how to get it."""
    try:
        import torch
    except ImportError as error:
        raise ImportError(f'{operation}: takes PyTorch: pip install "gpunet[torch]"') from error
    return torch
