"""Imports run one way, as CONTRIBUTING.md draws them: no module imports one above it."""

import ast
from pathlib import Path

import pytest

import gpunet

LAYERS = (
    ("decorators", "errors", "files", "geometry", "augmentation", "random", "resampling"),
    ("nvrtc",), ("emulator", "cuda"), ("backends",), ("precision",),
    ("arena",), ("tensors",), ("autograd",), ("functional",), ("nn", "report"),
    ("models", "optim", "data", "vision", "interop"),
    ("train",), ("check",), ("bench", "cli"),
)  # fmt: skip
"""From the lowest to the highest."""
PACKAGE = Path(gpunet.__file__).parent
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}


def imported(tree):
    """(line, part of gpunet) of each import, wherever it stands, but for those that only the type checker sees."""
    unseen = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or id(node) in unseen or not (node.module or "").startswith("gpunet"):
            continue
        _, *parts = node.module.split(".")
        for name in parts[:1] or [alias.name for alias in node.names]:
            if name in RANK:
                yield node.lineno, name


@pytest.mark.parametrize("part", RANK)
def test_nothing_is_imported_from_above(part):
    files = sorted((PACKAGE / part).rglob("*.py")) or [PACKAGE / f"{part}.py"]
    upward = [
        f"{path.relative_to(PACKAGE)}:{line} imports {name}"
        for path in files
        for line, name in imported(ast.parse(path.read_text(encoding="utf-8")))
        if RANK[name] > RANK[part]
    ]
    assert upward == []


def test_every_part_has_its_layer():
    parts = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert parts - set(RANK) - {"__init__", "__main__"} == set()
