"""What stands in Keras 3's `.weights.h5` and `.keras` files.

A `.keras` file is a zip of such an HDF5 file and of settings as JSON. The settings are read as
plain values: they name classes, of which none is imported, and may hold code, which is not run.
"""

from __future__ import annotations

import errno
import json
import os
import re
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpunet.errors import DamagedFileError
from gpunet.files import PathLike
from gpunet.interop.entries import one_line
from gpunet.interop.hdf5 import SIGNATURE, Arrays, read_hdf5

CONFIG, WEIGHTS = "config.json", "model.weights.h5"
EXPANSION = 10
"""How many times as large as the .keras file its parts may be."""
LARGEST_CONFIG = 50_000_000
"""Bytes of the settings."""
CHUNK = 1 << 20
VARIABLE = re.compile(r"(?:(.*)/)?vars/([0-9]{1,6})")
"""The path of an array: that of its layer, and its position among the layer's arrays."""
NUMBERED = re.compile(r"(.+?)(?:_([0-9]{1,6}))?")
"""The last part of a layer's path: its class, and how many of this class come before it."""


@dataclass(frozen=True)
class FileLayer:
    """A layer of a file that has arrays.

    Attributes:
        path: in the file.
        name: the name that the layer had in Keras.
        arrays: in Keras's order.
        config: its settings; empty in a .weights.h5 file.
    """

    path: str
    name: str
    arrays: tuple[np.ndarray, ...]
    config: Mapping[str, Any]

    @property
    def class_name(self) -> str:
        """What files call the layer's class, such as "conv2d"."""
        return _parted(self.path)[1]


def read_layers(operation: str, path: PathLike) -> tuple[list[FileLayer], bool]:
    """(the layers that have arrays, whether they stand in the model's order).

    The order is known where the file has the settings of a sequential or functional model. Without
    them, layers of one class stand in their order, if all of them are in one group.

    Raises:
        DamagedFileError, ValueError, ImportError, OSError: see `gpunet.interop.keras.load_weights`.
    """
    place = os.fspath(path)
    with open(path, "rb") as file:
        begin = file.read(len(SIGNATURE))
    if begin == SIGNATURE:
        return _numbered(_grouped(operation, place, read_hdf5(operation, path, place), {})), False
    if not begin.startswith(b"PK"):
        raise DamagedFileError(f"{operation}: {place} is damaged, or neither a .weights.h5 nor a .keras file")
    try:
        with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory() as folder:
            most = EXPANSION * os.path.getsize(path)
            parts = _parts(archive, most)
            config = json.loads(b"".join(_content(archive, parts[CONFIG], min(most, LARGEST_CONFIG))))
            inner = Path(folder) / WEIGHTS
            with inner.open("xb") as written:
                written.writelines(_content(archive, parts[WEIGHTS], most))
            settings = dict(_settings(config, ""))
            return _ordered(operation, place, read_hdf5(operation, inner, place), settings)
    except (DamagedFileError, ImportError, MemoryError):
        raise
    except OSError as error:
        if error.errno == errno.EINVAL:  # a malformed zip leads before the file's beginning
            raise _damaged(operation, place, error) from error
        raise
    except ValueError as error:
        if str(error).startswith(operation):
            raise
        raise _damaged(operation, place, error) from error
    except Exception as error:  # of any kind, as a malformed zip or JSON makes their readers raise
        raise _damaged(operation, place, error) from error


def _damaged(operation: str, place: str, error: Exception) -> DamagedFileError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return DamagedFileError(f"{operation}: {place} is damaged or not a .keras file: {reason}")


# ---- the zip


def _parts(archive: zipfile.ZipFile, most: int) -> dict[str, zipfile.ZipInfo]:
    """The two parts that are read; ValueError if one is missing, stands twice or is too large."""
    found = {}
    for name in (CONFIG, WEIGHTS):
        infos = [info for info in archive.infolist() if info.filename == name]
        if len(infos) != 1:
            raise ValueError(f"it has {len(infos)} parts named {name}")
        if infos[0].compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"its {name} is compressed in an unusual way")
        if infos[0].file_size > most:
            raise ValueError(f"its {name} claims {infos[0].file_size} bytes, over {EXPANSION} times the file")
        found[name] = infos[0]
    return found


def _content(archive: zipfile.ZipFile, info: zipfile.ZipInfo, most: int) -> Iterator[bytes]:
    """A part, piece by piece; ValueError once it is larger than it may be."""
    total = 0
    with archive.open(info) as part:
        while piece := part.read(CHUNK):
            total += len(piece)
            if total > most:
                raise ValueError(f"its {info.filename} is larger than {most} bytes")
            yield piece


# ---- the settings


def _settings(config: Any, inside: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(path in the weights file, settings) of each layer, in the model's order.

    The path follows from the class and from how many of this class come before it in the model.
    """
    used: dict[str, int] = {}
    layers = config["config"].get("layers", ())
    for layer in layers:
        if layer["class_name"] == "InputLayer" and config["class_name"] == "Sequential":
            continue  # it is no layer of such a model
        if not isinstance(layer["config"], dict):
            raise ValueError("its config.json has a layer without settings")
        name = _snake(layer["class_name"])
        count = used.get(name, 0)
        used[name] = count + 1
        path = f"{inside}layers/{name}" + (f"_{count}" if count else "")
        yield path, layer["config"]
        if "layers" in layer["config"]:
            yield from _settings(layer, f"{path}/")


def _snake(name: str) -> str:
    """A class's name as Keras writes it in paths: BatchNormalization is batch_normalization."""
    parted = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", parted).lower()


# ---- the layers


def _grouped(operation: str, place: str, found: Arrays, settings: Mapping[str, Mapping[str, Any]]) -> list[FileLayer]:
    """The layers of a file that have arrays, in no order; the optimizer's arrays are left out."""
    variables: dict[str, dict[int, np.ndarray]] = {}
    for path, array in found.by_path.items():
        if path.startswith("optimizer/") or path.split("/")[-3:-2] == ["seed_generator"]:
            continue
        match = VARIABLE.fullmatch(path)
        if match is None:
            raise DamagedFileError(
                f"{operation}: {place} is no file of Keras's weights: it has an array {one_line(path)}"
            )
        variables.setdefault(match[1] or "", {})[int(match[2])] = array
    layers = []
    for path, held in variables.items():
        if sorted(held) != list(range(len(held))):
            raise DamagedFileError(f"{operation}: {place} is damaged: {one_line(path)} lacks some of its arrays")
        name = found.names.get(f"{path}/vars" if path else "vars", "")
        arrays = tuple(held[i] for i in range(len(held)))
        layers.append(FileLayer(path, name, arrays, settings.get(path, {})))
    return layers


def _ordered(
    operation: str, place: str, found: Arrays, settings: Mapping[str, Mapping[str, Any]]
) -> tuple[list[FileLayer], bool]:
    """The layers in the order of the settings, if these name all of them."""
    layers = {layer.path: layer for layer in _grouped(operation, place, found, settings)}
    if not layers.keys() <= settings.keys():
        return _numbered(list(layers.values())), False
    return [layers[path] for path in settings if path in layers], True


def _numbered(layers: list[FileLayer]) -> list[FileLayer]:
    """The layers with those of one class in their order."""
    return sorted(layers, key=lambda layer: _parted(layer.path))


def _parted(path: str) -> tuple[str, str, int]:
    """(group, class, number) of a layer's path."""
    group, _, last = path.rpartition("/")
    match = NUMBERED.fullmatch(last)
    return (group, match[1], int(match[2] or 0)) if match else (group, last, 0)
