"""Says where the arrays of an HDF5 file stand: a program of its own, which `gpunet.interop.hdf5` runs.

    python -P gpunet/interop/hdf5_contents.py FILE

The library that reads HDF5 is written in C, and altered files have made it crash, hang and ask for
all memory. In a process of its own it can only end itself. It reads no array: it prints, as JSON,
the shape, the dtype and the place of each, and the caller reads the bytes.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

MEMORY = 128 << 20
"""Bytes that reading may take, beside ten times the file's size."""
SECONDS = 60
"""Of computing, after which the system ends the process, should nobody else."""
DEPTH = 32
"""Groups inside each other; Keras has two for each model inside a model."""
OBJECTS = 1_000_000
NAME = "name"
"""The attribute of a group of variables that holds the name of their layer."""


class RefusedError(Exception):
    """The file holds something that files of weights have no use for."""


def contents(path: str) -> dict[str, Any]:
    """What stands in a file.

    Returns:
        "arrays": {PATH: [SHAPE, DTYPE, OFFSET IN BYTES]}, "names": {PATH: the attribute "name"} of
        groups, and "root": the names of the root's attributes and entries.
    Raises:
        RefusedError: a link to elsewhere, a group inside itself, an array that is compressed, stored
            elsewhere or holds no numbers, or too many objects.
    """
    import h5py

    arrays, names, seen = dict[str, Any](), dict[str, str](), set[int]()
    with h5py.File(path, "r") as file:
        for place, found in _walk(file, "", 0):
            address = h5py.h5o.get_info(found.id).addr
            if address in seen or len(seen) >= OBJECTS:
                raise RefusedError(
                    f"{place} stands in the file twice" if address in seen else f"it has over {OBJECTS} objects"
                )
            seen.add(address)
            if isinstance(found, h5py.Dataset):
                arrays[place] = _array(found, place)
            elif NAME in found.attrs and isinstance(name := found.attrs[NAME], str):
                names[place] = name
        return {"arrays": arrays, "names": names, "root": [*file.attrs, *file]}


def _walk(group: Any, inside: str, depth: int) -> Iterator[tuple[str, Any]]:
    """(path, object) of everything in a group, and in the groups in it."""
    import h5py

    if depth > DEPTH:
        raise RefusedError(f"{inside} lies in over {DEPTH} groups")
    for key in group:
        place = f"{inside}/{key}" if inside else key
        if not isinstance(group.get(key, getlink=True), h5py.HardLink):
            raise RefusedError(f"{place} is a link to elsewhere")
        found = group[key]
        if not isinstance(found, h5py.Group | h5py.Dataset):
            raise RefusedError(f"{place} is neither a group nor an array")
        yield place, found
        if isinstance(found, h5py.Group):
            yield from _walk(found, place, depth + 1)


def _array(found: Any, place: str) -> list[Any]:
    """[shape, dtype, offset] of an array that lies in the file as it is."""
    import h5py

    options = found.id.get_create_plist()
    if options.get_layout() != h5py.h5d.CONTIGUOUS or options.get_nfilters() or options.get_external_count():
        raise RefusedError(f"{place} is in chunks, compressed or stored elsewhere")
    if found.shape is None:
        raise RefusedError(f"{place} has no shape")
    dtype = found.dtype
    bits16 = dtype.str == "|V2" and found.attrs.get("dtype") == "bfloat16"  # as Keras writes it
    if not bits16 and (dtype.kind not in "fiub" or dtype.subdtype is not None or dtype.itemsize > 8):
        raise RefusedError(f"{place} holds {dtype}, no numbers")
    offset = found.id.get_offset()
    if offset is None and found.size:
        raise RefusedError(f"{place} has no data")
    return [list(map(int, found.shape)), "bfloat16" if bits16 else dtype.str, offset or 0]


def limit_memory(path: str) -> None:
    """Have the system refuse more memory than a file needs, where it can: on Linux."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        import h5py  # noqa: F401 - so that what the library itself takes is there already

        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY + 10 * os.path.getsize(path), most))


def limit_time() -> None:
    """Have the system end this process some day, where it can."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))


def report(path: str) -> str:
    """The contents as JSON; or {"refused": the reason} for a file that cannot be read."""
    try:
        return json.dumps(contents(path))
    except Exception as error:  # of any kind: h5py passes on whatever the library says
        said = " ".join(str(error).split())[:500]
        return json.dumps({"refused": said if isinstance(error, RefusedError) else f"{type(error).__name__}: {said}"})


if __name__ == "__main__":
    limit_time()
    limit_memory(sys.argv[1])
    print(report(sys.argv[1]))
