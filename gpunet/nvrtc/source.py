"""Where the kernel sources stand, and one file of them with its headers inlined."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

_INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)


def candidates() -> tuple[Path, Path]:
    """The folders that can hold the sources: inside an installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    return package / "_kernels", package.parent / "kernels"


def kernels_folder() -> Path:
    """The folder of the `.cu` files.

    Raises:
        FileNotFoundError: neither place holds any; the message names both.
    """
    places = candidates()
    for place in places:
        if any(place.glob("*.cu")):
            return place
    raise FileNotFoundError(f"gpunet: no kernel sources (*.cu) in {places[0]} nor in {places[1]}")


def files() -> list[str]:
    """Names of the `.cu` files, sorted."""
    return sorted(path.name for path in kernels_folder().glob("*.cu"))


@cache
def read(file: str) -> str:
    """A `.cu` file with its quoted includes inlined, each once: CuPy's disk cache does not see a header's change.

    `#line` keeps the compiler's messages pointing at the files that a reader opens.
    """
    return _inline((kernels_folder(),), file, set())


def read_path(path: Path) -> str:
    """As :func:`read`, for a file anywhere; its headers are looked for beside it, then among gpunet's."""
    return _inline((path.parent, kernels_folder()), path.name, set())


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
