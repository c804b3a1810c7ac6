"""Imports run one way: no module imports one above its layer, and no imports form a circle."""

import ast
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

import gpunet

LAYERS = (
    (
        "cores", "decorators", "dlpack", "errors", "files", "geometry", "augmentation", "progress", "random", "resampling",
        "tables", "version",
    ),
    ("cache", "distributed"), ("cplusplus",), ("nvrtc",), ("emulator",), ("cuda",), ("backends",), ("precision",),
    ("arena",), ("tensors",), ("modes",), ("parameters",), ("operands", "sharing"), ("autograd",), ("functional",),
    ("arrays", "nn"),
    ("models", "optim", "data", "vision", "interop"),
    ("train", "report"), ("check",), ("bench", "cli"),
)  # fmt: skip
"""From the lowest to the highest; parts in one pair of parentheses stand beside each other."""
PACKAGE = Path(gpunet.__file__).parent
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}


class Import(NamedTuple):
    """One import statement, for each name that it imports."""

    importer: str
    imported: str
    line: int
    typing_only: bool
    """Whether it stands under ``if TYPE_CHECKING:``, so that it does not run."""


def module_name(path):
    """The dotted name of a file of the package; an ``__init__.py`` has the name of its folder."""
    parts = ["gpunet", *path.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def sources():
    """The syntax tree of each module."""
    return {
        module_name(path): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted(PACKAGE.rglob("*.py"))
        if "_kernels" not in path.parts
    }


def targets(node):
    """Modules that an import names, such as gpunet.random in ``from gpunet import random``."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.level == 0:
        inner = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        names = [full if full in sources() else node.module for full in inner.values()]
    else:
        names = []
    return {name for name in names if name.split(".")[0] == "gpunet"}


def imports_of(importer, tree):
    """Every import of a module, those inside functions too."""
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    return [
        Import(importer, name, node.lineno, id(node) in typing_only)
        for node in ast.walk(tree)
        for name in targets(node)
    ]


@cache
def imports():
    return [found for name, tree in sources().items() for found in imports_of(name, tree)]


def part_of(module):
    """The file or folder inside gpunet/ that a module belongs to; "" for the package itself."""
    return [*module.split("."), ""][1]


def drawn(found):
    """Circles as lines of text, which a failing test shows whole."""
    return "\n".join(" <-> ".join(names) for names in found)


def circles(edges):
    """Sets of names that reach each other along (from, to) pairs: strongly connected components."""
    following = {}
    for start, end in edges:
        following.setdefault(start, set()).add(end)

    def reachable(start):
        seen, waiting = set(), [start]
        while waiting:
            new = following.get(waiting.pop(), set()) - seen
            seen |= new
            waiting += new
        return seen

    reach = {name: reachable(name) for name in following}
    return sorted({
        tuple(sorted(other for other in reach[name] if name in reach.get(other, ()))) for name in reach if name in reach[name]
    })  # fmt: skip


# ---- the layers


@pytest.mark.parametrize("part", RANK)
def test_nothing_is_imported_from_above(part):
    upward = [
        f"{found.importer}:{found.line} imports {found.imported}"
        for found in imports()
        if part_of(found.importer) == part and RANK.get(part_of(found.imported), 0) > RANK[part]
    ]
    assert upward == []


def test_every_part_has_its_layer():
    parts = {part_of(module) for module in sources()} - {"", "__main__"}
    assert parts == set(RANK)


def test_no_module_imports_the_package_itself():
    """`gpunet/__init__.py` stands above all others: import the module that has the name."""
    upward = [f"{found.importer}:{found.line}" for found in imports() if found.imported == "gpunet"]
    assert upward == []


def test_imports_are_absolute():
    relative = [
        f"{name}:{node.lineno}"
        for name, tree in sources().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level > 0
    ]
    assert relative == []


# ---- circles


def test_no_modules_import_each_other_in_a_circle_at_run_time():
    assert drawn(circles((found.importer, found.imported) for found in imports() if not found.typing_only)) == ""


def test_no_modules_import_each_other_in_a_circle_for_the_type_checker():
    assert drawn(circles((found.importer, found.imported) for found in imports())) == ""


def test_no_parts_of_the_package_import_each_other_in_a_circle():
    pairs = {(part_of(found.importer), part_of(found.imported)) for found in imports()}
    assert drawn(circles((start, end) for start, end in pairs if start != end and start and end)) == ""


def test_a_circle_is_found():
    edges = [("a", "b"), ("b", "c"), ("c", "a"), ("c", "d"), ("d", "e"), ("f", "f"), ("e", "g"), ("g", "e")]
    assert circles(edges) == [("a", "b", "c"), ("e", "g"), ("f",)]


@pytest.mark.parametrize(
    ("source", "at_run_time", "for_typing"),
    [
        ("import gpunet as gp", ["gpunet"], []),
        ("from gpunet import Tensor, random", ["gpunet", "gpunet.random"], []),
        ("from gpunet.backends import contract, get_backend", ["gpunet.backends", "gpunet.backends.contract"], []),
        ("def f():\n    from gpunet.nn.module import Module", ["gpunet.nn.module"], []),
        ("if TYPE_CHECKING:\n    from gpunet import nn\nelse:\n    import gpunet.data", ["gpunet.data"], ["gpunet.nn"]),
        ("import numpy as np\nfrom . import nn", [], []),
    ],
)
def test_every_way_of_importing_is_seen(source, at_run_time, for_typing):
    found = imports_of("some.module", ast.parse(source))
    assert sorted(one.imported for one in found if not one.typing_only) == at_run_time
    assert sorted(one.imported for one in found if one.typing_only) == for_typing
