"""What the emulated device computes for every case, in a file: for machines with a GPU and without an emulator.

Inputs stand in it too: they are drawn by NumPy, whose functions may differ between machines in the last bit.
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

from gpunet.backends import get_backend
from gpunet.backends.cuda.backend import CudaBackend
from gpunet.check.cases import Case, all_cases, variant
from gpunet.cuda.instantiations import instantiations
from gpunet.nvrtc import cache, source

MANIFEST = "manifest"
Expected = list[np.ndarray]


def write(path: Path) -> dict[str, Any]:
    """Run every case on the emulated device, and write what it gave -> what to say of it.

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
    with path.open("wb") as file:  # given a name, NumPy would add a suffix
        np.savez_compressed(file, **{MANIFEST: np.array(json.dumps(about)), **arrays.named})  # type: ignore[arg-type]
    return {"cases": len(manifest), "MB": round(path.stat().st_size / 1e6, 1)}


def cases_of(path: Path) -> Iterator[tuple[Case, dict[str, Expected]]]:
    """Every case, with the inputs of the file, and what the emulated device gave, by variant.

    Raises:
        ValueError: a file that is none of these, or one of other kernels or cases than this gpunet has.
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
    """ValueError unless a file is a reference for this gpunet's kernels."""
    with _open(path) as file:
        _about(path, file)


def _about(path: Path, file: Any) -> dict[str, Any]:
    about: dict[str, Any] = json.loads(str(file[MANIFEST]))
    if about["kernels"] != kernels_digest():
        raise ValueError(f"{path} was written by a gpunet with other kernels: write it again")
    return about


def kernels_digest() -> str:
    """What the kernels' sources and instances make: equal where they are."""
    return cache.digest([source.read(file) for file in source.files()], instantiations())


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    """The archive. What NumPy and zipfile raise of a file that is none, or is cut, is of many kinds."""
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
    """Arrays as an npz file holds them: bfloat16, which NumPy cannot name, as whole numbers."""

    def __init__(self) -> None:
        self.named: dict[str, np.ndarray] = {}

    def add(self, arrays: Any) -> list[list[str]]:
        """Take arrays up -> [name in the file, dtype] of each."""
        return [self._one(a) for a in arrays]

    def _one(self, a: np.ndarray) -> list[str]:
        name, kind = f"a{len(self.named)}", a.dtype.name
        self.named[name] = a.view(np.uint16) if kind == "bfloat16" else a
        return [name, kind]


def _unpacked(file: Any, packed: list[str]) -> np.ndarray:
    name, kind = packed
    a: np.ndarray = file[name]
    return a.view(kind) if kind == "bfloat16" else a
