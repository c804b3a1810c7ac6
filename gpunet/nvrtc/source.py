"""Finds kernel sources, inlines their headers, and reads the numbers that they define."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

_INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.M)
_CONSTANT = re.compile(r"^(?:#define\s+(\w+)\s+(\d+)|constexpr\s+int\s+(\w+)\s*=\s*(\d+)\s*;)\s*(?://.*)?$", re.M)


def candidates() -> tuple[Path, Path]:
    """Return the folders that can hold the sources: in the package, and beside it."""
    package = Path(__file__).resolve().parents[1]
    return package / "_kernels", package.parent / "kernels"


def kernels_folder() -> Path:
    """Return the folder of the `.cu` files.

    Raises:
        FileNotFoundError: neither folder holds any; the message names both.
    """
    places = candidates()
    for place in places:
        if any(place.glob("*.cu")):
            return place
    raise FileNotFoundError(f"gpunet: no kernel sources (*.cu) in {places[0]} nor in {places[1]}")


def files() -> list[str]:
    """Return the names of the `.cu` files, sorted."""
    return sorted(path.name for path in kernels_folder().glob("*.cu"))


@cache
def read(file: str) -> str:
    """Return a `.cu` file with its quoted includes inlined, each once.

    CuPy's disk cache is keyed by the text that is compiled, so a change of a header must be a
    change of that text. `#line` makes the compiler's messages point at the files that a reader
    opens.
    """
    return _inline((kernels_folder(),), file, set())


def read_path(path: Path) -> str:
    """Return any `.cu` file as :func:`read` does; headers beside it come before gpunet's."""
    return _inline((path.parent, kernels_folder()), path.name, set())


@cache
def constant(file: str, name: str) -> int:
    """Return a number that a `.cu` or `.cuh` file or one of its headers defines for the host too.

        tile_k = constant("implicit_gemm.cuh", "TILE_K")

    Raises:
        ValueError: the file has no line ``#define NAME number`` or ``constexpr int NAME = number;``
            of that name.
    """
    found = parse_constants(read(file))
    if name not in found:
        raise ValueError(f"{file} defines no number {name}; it defines {', '.join(found) or 'none'}")
    return found[name]


def parse_constants(text: str) -> dict[str, int]:
    """Return every decimal integer that a source defines on a line of its own, by name."""
    return {define or name: int(number or value) for define, number, name, value in _CONSTANT.findall(text)}


def _inline(folders: tuple[Path, ...], file: str, seen: set[str]) -> str:
    seen.add(file)
    lines = [f'#line 1 "{file}"']
    path = next((found for folder in folders if (found := folder / file).is_file()), folders[0] / file)
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        include = _INCLUDE.match(line)
        if include is None:
            lines.append(line)
        elif include[1] in seen:
            lines.append("")
        else:
            lines += [_inline(folders, include[1], seen), f'#line {number + 1} "{file}"']
    return "\n".join(lines)
