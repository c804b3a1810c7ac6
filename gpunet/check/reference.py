"""A file of the emulated device's results of every case, for machines that have a GPU and no
emulated device.

The file holds the inputs too, because NumPy's functions, which draw them, may differ between
machines in the last bit.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from gpunet import cache
from gpunet.backends import get_backend
from gpunet.backends.cuda.backend import CudaBackend
from gpunet.check.cases import Case, all_cases, variant
from gpunet.cuda.instantiations import instantiations
from gpunet.nvrtc import source

MANIFEST = "manifest"
"""The array of the file that holds JSON: the kernels, the device, and the arrays of each case."""
Expected = list[np.ndarray]


def write(path: Path) -> dict[str, Any]:
    """Run every case on the emulated device, and write the results -> the number of cases, and the
    size of the file in MB.

    Raises:
        BackendError: there is no emulated device here.
    """
    backend = get_backend("emulated")
    assert isinstance(backend, CudaBackend)
    arrays, manifest = _Packed(), []
    for case in all_cases():
        outputs = {name: arrays.add(case.results(variant(backend, name))) for name in case.variants}
        inputs = dict(zip(case.inputs, arrays.add(case.inputs.values()), strict=True))
        manifest.append({"key": case.key, "inputs": inputs, "outputs": outputs})
    about = {"kernels": kernels_digest(), "device": backend.describe(), "cases": manifest}
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:  # NumPy would add a suffix to a path
        np.savez_compressed(file, **{MANIFEST: np.array(json.dumps(about)), **arrays.named})  # type: ignore[arg-type]
    return {"cases": len(manifest), "MB": round(path.stat().st_size / 1e6, 1)}


def cases_of(path: Path) -> Iterator[tuple[Case, dict[str, Expected]]]:
    """Every case with the inputs of the file, and the emulated device's results of each variant.

    Raises:
        ValueError: the file is no reference, or is one of other kernels or cases than those of this
            gpunet.
    """
    with _open(path) as file:
        about = _about(path, file)
        listed = {entry["key"]: entry for entry in about["cases"]}
        for case in all_cases():
            entry = listed.get(case.key)
            if entry is None or set(entry["inputs"]) != set(case.inputs) or set(entry["outputs"]) != set(case.variants):
                raise ValueError(f"{path} was written by a gpunet with other cases: it has no {case.key}")
            inputs = {name: _unpacked(file, packed) for name, packed in entry["inputs"].items()}
            expected = {name: [_unpacked(file, p) for p in packed] for name, packed in entry["outputs"].items()}
            yield replace(case, inputs=inputs), expected


def check(path: Path) -> None:
    """Raise ValueError unless a file is a reference for the kernels of this gpunet."""
    with _open(path) as file:
        _about(path, file)


def _about(path: Path, file: Any) -> dict[str, Any]:
    about: dict[str, Any] = json.loads(str(file[MANIFEST]))
    if about["kernels"] != kernels_digest():
        raise ValueError(f"{path} was written by a gpunet with other kernels: write it again")
    return about


def kernels_digest() -> str:
    """A digest of the sources and the instances of all kernels."""
    return cache.digest([source.read(file) for file in source.files()], instantiations())


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    """The open archive. NumPy and zipfile raise errors of many types for a file that is no archive,
    or is cut off."""
    with ExitStack() as stack:
        try:
            archive = np.load(stack.enter_context(path.open("rb")), allow_pickle=False)
            found = MANIFEST in archive
        except (ValueError, OSError, EOFError, TypeError, BadZipFile):
            found = False
        if not found:
            raise ValueError(f"{path} was not written by gpunet check --write-reference, or not to its end")
        yield archive


class _Packed:
    """Arrays as an npz file holds them: NumPy cannot store bfloat16, which becomes uint16."""

    def __init__(self) -> None:
        self.named: dict[str, np.ndarray] = {}

    def add(self, arrays: Any) -> list[list[str]]:
        """Add arrays -> [name in the file, dtype] of each."""
        return [self._add_one(a) for a in arrays]

    def _add_one(self, a: np.ndarray) -> list[str]:
        name, kind = f"a{len(self.named)}", a.dtype.name
        self.named[name] = a.view(np.uint16) if kind == "bfloat16" else a
        return [name, kind]


def _unpacked(file: Any, packed: list[str]) -> np.ndarray:
    name, kind = packed
    a: np.ndarray = file[name]
    return a.view(kind) if kind == "bfloat16" else a
