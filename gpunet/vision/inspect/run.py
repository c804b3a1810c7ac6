"""One run of a model that keeps some layers' outputs, and the checks that `inspect` shares."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from gpunet.autograd import Tensor, tensor
from gpunet.nn.module import Module, in_eval_mode


@contextmanager
def inference(operation: str, model: Module) -> Iterator[None]:
    """Inside, the model is in inference mode and its parameters get no gradients.

    Both are restored afterwards.
    """
    if not isinstance(model, Module):
        raise TypeError(f"{operation}: model takes a Module, got {type(model).__name__}")
    needs = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        for parameter, _ in needs:
            parameter.requires_grad = False
        with in_eval_mode(model):
            yield
    finally:
        for parameter, need in needs:
            parameter.requires_grad = need


def run(
    operation: str, model: Module, x: Tensor, layers: Sequence[str] | None, *, fuse: bool = True
) -> tuple[Tensor, dict[str, Tensor]]:
    """(the model's output, the layers' outputs by name in the order they ran).

    Of a layer that runs twice, the last output counts.

    Args:
        layers: names of layers; if None, every innermost module that runs and gives a tensor.
        fuse: whether neighbours that are not among the layers may run as one operation.
    """
    modules = dict(model.named_modules())
    if layers is None:
        watched = [name for name, module in modules.items() if name and not _holds_modules(module)]
    else:
        watched = [checked_layer(operation, model, name) for name in layers]
    names = {id(modules[name]): name for name in watched}
    outputs: dict[str, Tensor] = {}

    def keep(module: Module, inputs: tuple[Any, ...], y: Any) -> None:
        if isinstance(y, Tensor):
            outputs.pop(names[id(module)], None)
            outputs[names[id(module)]] = y

    handles = [modules[name].register_forward_hook(keep) for name in watched]
    if not fuse:
        handles += [module.register_forward_hook(lambda *_: None) for module in modules.values()]
    try:
        y = model(x)
    finally:
        for handle in handles:
            handle.remove()
    missed = [name for name in layers or () if name not in outputs]
    if missed:
        raise ValueError(f"{operation}: layer {missed[0]!r} did not run, or gave no tensor")
    return y, outputs


def checked_layer(operation: str, model: Module, layer: str) -> str:
    """The layer's name; ValueError, with all names, if the model has no such layer."""
    names = [name for name, _ in model.named_modules() if name]
    if layer not in names:
        raise ValueError(f"{operation}: layer is {layer!r} but takes one of {', '.join(names)}")
    return layer


def checked_unit(operation: str, layer: str, unit: int, y: Tensor) -> int:
    """A unit's channel, checked against the layer's output y, (N, H, W, units) or (N, units)."""
    if y.ndim not in (2, 4):
        raise ValueError(
            f"{operation}: layer {layer!r} gives shape {y.shape} but its units take (N, H, W, C) or (N, C)"
        )
    if not isinstance(unit, int | np.integer):
        raise TypeError(f"{operation}: unit must be an integer, got {unit!r}")
    if not 0 <= unit < y.shape[-1]:
        raise ValueError(f"{operation}: unit is {unit} but layer {layer!r} has {y.shape[-1]}, from 0")
    return int(unit)


def as_batch(operation: str, images: Any) -> np.ndarray:
    """Images as (N, H, W, C) on the host, floats."""
    pixels = np.asarray(images)
    if pixels.dtype.kind != "f":
        raise TypeError(
            f"{operation}: images are {pixels.dtype} but must be floats, scaled as in the model's training (see data.Normalize)"
        )
    if pixels.ndim not in (3, 4) or not pixels.size:
        raise ValueError(f"{operation}: images have shape {pixels.shape} but takes (N, H, W, C) or (H, W, C)")
    return pixels.reshape(-1, *pixels.shape[-3:])


def as_input(model: Module, batch: np.ndarray) -> Tensor:
    """Images as a tensor on the model's backend, in its dtype, whose gradient is recorded."""
    backend, dtype = model._place()
    return tensor(batch, dtype=dtype, backend=backend, requires_grad=True)


def chosen_classes(operation: str, scores: Tensor, target: Any) -> np.ndarray:
    """The classes (N,) of `target`; the class of each image's highest score if None."""
    if not isinstance(scores, Tensor) or scores.ndim != 2:
        got = f"shape {scores.shape}" if isinstance(scores, Tensor) else type(scores).__name__
        hint = "; let the model end with nn.Flatten()" if isinstance(scores, Tensor) and scores.ndim > 2 else ""
        raise ValueError(f"{operation}: the model gives {got} but must score classes, (N, K){hint}")
    n, classes = scores.shape
    if target is None:
        return scores.numpy().argmax(axis=1)
    labels = np.asarray(target)
    if labels.dtype.kind not in "iu" or labels.shape not in ((), (n,)):
        raise ValueError(f"{operation}: target must be a class, or one for each of {n} images, got {target!r}")
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"{operation}: target must be from 0 to {classes - 1}, got {labels.min()} to {labels.max()}")
    return np.broadcast_to(labels, n)


def one_hot(y: Tensor, channels: np.ndarray) -> np.ndarray:
    """An upstream gradient: zeros of y's shape (N, K), and 1 at each row's channel."""
    upstream = np.zeros(y.shape, y.dtype)
    upstream[np.arange(len(channels)), channels] = 1
    return upstream


def in_batches(batch: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """The batch in parts of up to `size` images."""
    return (batch[start : start + size] for start in range(0, len(batch), size))


def _holds_modules(module: Module) -> bool:
    return any(isinstance(value, Module) for _, value in module.named_parts())
