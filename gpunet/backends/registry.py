"""`get_backend`: the backends by their names."""

from __future__ import annotations

import os
from functools import cache

from gpunet.backends.contract import Backend
from gpunet.errors import BackendError

NAMES = ("reference", "numpy", "emulated", "cuda")


def get_backend(name: str | Backend = "auto") -> Backend:
    """Return the backend of a name; each name has one object, so that backends compare by identity.

    Args:
        name: ``"reference"``, ``"numpy"``, ``"emulated"`` (the CUDA kernels on this machine's CPU),
            ``"cuda"``, ``"cuda:1"``, or ``"auto"``: the one that the environment variable
            ``GPUNET_BACKEND`` names, or CUDA if a GPU answers, or NumPy. ``"cuda"`` is device 0;
            where ``mpirun`` or ``srun`` has launched several ranks on this machine, it is another
            device for each of them: the number of the rank on this machine, modulo the number of
            devices. ``"cuda:1"`` is device 1 for every rank. A `Backend` is returned as it is.
    Raises:
        ValueError: any other name.
        BackendError: CUDA without CuPy, driver or device, or the emulator without its compiler; the
            message says what is missing and how to install it.
    """
    if isinstance(name, Backend):
        return name
    asked = "name"
    if name == "auto" and "GPUNET_BACKEND" in os.environ:
        asked, name = "GPUNET_BACKEND", os.environ["GPUNET_BACKEND"]
    if name == "auto":
        name = "numpy" if why_unavailable("cuda") else "cuda"
    return _make(*_parsed(name, f"get_backend: {asked}"))


def _parsed(name: str, what: str) -> tuple[str, int]:
    """Return (kind, number of the device) of a name; a ValueError begins with `what`."""
    kind, _, device = str(name).partition(":")
    if kind not in NAMES or (device and (kind != "cuda" or not device.isdecimal())):
        raise ValueError(f'{what} is {name!r} but takes {", ".join(NAMES)}, "cuda:1" or "auto"')
    if kind == "cuda" and not device:
        from gpunet.cuda.cupy_arrays import own_device

        return kind, own_device()
    return kind, int(device or 0)


def available_backends() -> list[str]:
    """The names of the backends that can be used on this machine."""
    return [name for name in NAMES if not why_unavailable(name)]


def why_unavailable(name: str) -> str:
    """Say why a backend cannot be used here, and what to do about it; empty where it can be used.

    Raises:
        ValueError: a name that is no backend's.
    """
    kind, device = _parsed(name, "why_unavailable: name")
    if kind == "emulated":
        from gpunet.emulator import why_unavailable as why_no_emulator

        return why_no_emulator()
    if kind != "cuda":
        return ""
    from gpunet.cuda.cupy_arrays import why_unavailable as why_no_cuda

    return why_no_cuda(device)


@cache
def _make(kind: str, device: int) -> Backend:
    if kind == "reference":
        from gpunet.backends.reference.backend import ReferenceBackend

        return ReferenceBackend()
    if kind == "numpy":
        from gpunet.backends.numpy.backend import NumpyBackend

        return NumpyBackend()
    why = why_unavailable(kind)
    if why:
        raise BackendError(why)
    from gpunet.backends.cuda.backend import cuda_backend, emulated_backend

    return emulated_backend() if kind == "emulated" else cuda_backend(device)


Backend.find = staticmethod(get_backend)
