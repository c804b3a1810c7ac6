"""What the tables of names show exists, with the arguments that they show."""

import ast
import inspect
import re
from pathlib import Path

import pytest

import gpunet as gp
from gpunet import data, nn, optim
from gpunet import functional as F

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = DOCS / "names.md", DOCS / "reference" / "from-chainer.md"
ROOMS = {"gp": gp, "F": F, "nn": nn, "optim": optim, "data": data}


def documented_calls():
    """Every call of gpunet in the first column of the pages' tables."""
    lines = [line for page in PAGES if page.is_file() for line in page.read_text(encoding="utf-8").splitlines()]
    rows = [line.split("|")[1] for line in lines if line.startswith("| `")]
    spans = [span for row in rows for span in re.findall(r"`([^`]+)`", row)]
    return [span for span in spans if re.match(r"(gp|F|nn|optim|data)\.\w+\(", span)]


def resolved(call):
    """(function, positional arguments' names, keywords' names) of a call such as ``F.linear(x, weight)``."""
    node = ast.parse(call, mode="eval").body
    function = getattr(ROOMS[node.func.value.id], node.func.attr)
    positional = [argument.id if isinstance(argument, ast.Name) else None for argument in node.args]
    return function, positional, [keyword.arg for keyword in node.keywords]


@pytest.mark.skipif(not DOCS.is_dir(), reason="the documentation stands in a checkout")
def test_the_pages_show_calls():
    assert len(documented_calls()) > 80


@pytest.mark.parametrize("call", documented_calls())
def test_a_documented_call_has_these_arguments(call):
    function, positional, keywords = resolved(call)
    parameters = inspect.signature(function).parameters
    own = [name for name, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    given = [name if want is None else want for name, want in zip(own, positional, strict=False)]
    assert given == own[: len(positional)]
    shared = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    assert [name for name in keywords if name not in parameters and not shared] == []
