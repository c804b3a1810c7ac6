"""The rooms below `gpunet.cuda` can be read and used without the rest of the package."""

import ast
from pathlib import Path

import pytest

import gpunet

PACKAGE = Path(gpunet.__file__).parent
BELOW = ("cache", "errors", "progress")
MAY_IMPORT = {"emulator": ("emulator", "nvrtc", "cplusplus", *BELOW), "nvrtc": ("nvrtc", *BELOW)}


def imported(path):
    """(line, module) of each import in a file, also in functions and under TYPE_CHECKING."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_nothing_of_the_package_but_what_it_stands_on(room):
    files = sorted((PACKAGE / room).rglob("*.py"))
    assert files
    allowed = tuple(f"gpunet.{name}." for name in MAY_IMPORT[room])
    others = [
        f"{path.relative_to(PACKAGE)}:{line} imports {module}"
        for path in files
        for line, module in imported(path)
        if module.split(".")[0] == "gpunet" and not f"{module}.".startswith(allowed)
    ]
    assert others == []
