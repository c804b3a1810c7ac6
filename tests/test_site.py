"""The documentation: its programs run as shown, its links lead somewhere, and it names everything that is public."""

import importlib
import inspect
import re
import sys
from argparse import _SubParsersAction
from pathlib import Path

import pytest
from helpers import pages

import gpunet as gp
from gpunet.bench.cli import KINDS
from gpunet.cli.entry import make_parser

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
ROOMS = (
    "gpunet", "gpunet.backends", "gpunet.data", "gpunet.functional", "gpunet.interop", "gpunet.models", "gpunet.nn",
    "gpunet.optim", "gpunet.train", "gpunet.vision", "gpunet.vision.inspect",
)  # fmt: skip
WITH_PAGES = ("data", "functional", "models", "nn", "optim", "__version__")
"""Names of gpunet itself that have pages of their own, or are no more than a string."""

pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="the documentation stands in a checkout")


def name_of(page):
    return page.relative_to(DOCS).as_posix()


def public_names(room):
    """The names of a room's `__all__`, or of those of its files that it imports with a star."""
    module = importlib.import_module(room)
    if hasattr(module, "__all__"):
        return set(module.__all__)
    files = [file for name, file in sys.modules.items() if name.startswith(f"{room}.") and hasattr(file, "__all__")]
    return {name for file in files for name in file.__all__ if getattr(module, name, None) is getattr(file, name)}


def documented():
    """What the reference pages name."""
    texts = [page.read_text(encoding="utf-8") for page in (DOCS / "reference").glob("*.md")]
    return [name for text in texts for name in re.findall(r"^::: (\S+)$", text, re.MULTILINE)]


# ---- the pages


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_programs_of_a_page_run_and_print_what_it_shows(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPUNET_BACKEND", "numpy")  # a GPU would round what is printed differently
    monkeypatch.setenv("MPLBACKEND", "Agg")
    gp.seed(0)
    pages.run(page)


def test_few_programs_are_not_run():
    skipped = [f"{block.place}: {block.not_run}" for page in PAGES for block in pages.blocks(page) if block.not_run]
    assert len(skipped) <= 10, skipped


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_links_of_a_page_lead_to_files(page):
    assert [link for link in pages.links(page) if not (page.parent / link).exists()] == []


# ---- the reference


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_has_a_docstring_and_a_place_in_the_reference(room):
    module, names = importlib.import_module(room), public_names(room)
    assert names, "the room has no public names"
    own = names - set(WITH_PAGES if room == "gpunet" else ())
    assert [name for name in sorted(own) if not getattr(module, name).__doc__] == []  # no inherited ones
    assert [name for name in sorted(own) if f"{room}.{name}" not in documented()] == []


def test_the_reference_names_each_thing_once_and_nothing_that_is_not_there():
    names = documented()
    assert sorted(names) == sorted(set(names))
    for name in names:
        room, _, own = name.rpartition(".")
        assert hasattr(importlib.import_module(room), own), name


def test_the_reference_names_the_methods_that_operations_give_to_tensors():
    source, page = inspect.getsource(gp.Tensor), (DOCS / "reference" / "gpunet.md").read_text(encoding="utf-8")
    bound = [name for name in vars(gp.Tensor) if name[0] != "_" and f"def {name}(" not in source]
    assert "sum" in bound
    assert [name for name in bound if f"`x.{name}`" not in page] == []


def described_arguments(text):
    """The names of the section "Args:" of a docstring; one line may describe several."""
    section = re.search(r"^Args:\n((?:    .*\n|\n)*)", f"{text}\n", re.MULTILINE)
    lines = re.findall(r"^    (\w[\w, ]*):", section[1], re.MULTILINE) if section else []
    return [name.strip() for line in lines for name in line.split(",")]


@pytest.mark.parametrize("room", ROOMS)
def test_a_docstring_describes_arguments_that_are_there(room):
    module = importlib.import_module(room)
    wrong = []
    for name in sorted(public_names(room)):
        thing = getattr(module, name)
        described = described_arguments(inspect.getdoc(thing) or "")
        parameters = inspect.signature(thing).parameters if described else {}
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            wrong += [f"{room}.{name}: {argument}" for argument in described if argument not in parameters]
    assert wrong == []


def test_the_reference_names_every_environment_variable():
    sources = [file.read_text(encoding="utf-8") for file in Path(gp.__file__).parent.rglob("*.py")]
    read = {name for source in sources for name in re.findall(r"GPUNET_[A-Z_]+", source)}
    page = (DOCS / "reference" / "environment.md").read_text(encoding="utf-8")
    assert read == set(re.findall(r"^\| `(GPUNET_[A-Z_]+)` \|", page, re.MULTILINE))


def test_the_reference_names_every_command_and_option():
    parsers = next(action for action in make_parser()._actions if isinstance(action, _SubParsersAction)).choices
    text = (DOCS / "reference" / "command-line.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^##+ gpunet ([\w ]+)\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL))
    assert set(sections) == {*parsers, *(f"bench {kind}" for kind in KINDS)}
    for command, parser in parsers.items():
        options = {option for action in parser._actions for option in action.option_strings}
        if command != "bench":  # whose options are those of another parser
            help_text = sections[command].partition("```text")[2]
            assert set(re.findall(r"(?<![\w-])--?[a-z][\w-]*(?=[ ,\]\n])", help_text)) >= options, command


# ---- the runner of pages


def written(folder, text):
    page = folder / "page.md"
    page.write_text(text, encoding="utf-8")
    return page


def test_blocks_of_a_page_share_names_and_print_what_is_shown(tmp_path):
    pages.run(
        written(tmp_path, "```python\nx = 1\n```\ntext\n\n```python\nprint(x, 'a b')\n```\n\n```text\n1 …b\n```\n")
    )
    pages.run(
        written(tmp_path, "```python\nprint('a')\n[][1]\n```\n```output\na\nIndexError: list index out of range\n```\n")
    )
    pages.run(written(tmp_path, "- a list\n\n    ```python\n    if True:\n        y = 2\n    ```\n"))
    pages.run(written(tmp_path, "```python\nprint(1)\n```\nother words\n```text\n2\n```\n```sh\nfalse\n```\n"))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("\n```python\nprint(1)\n```\n\n```text\n2\n```\n", "page.md:3: the block prints\n1"),
        ("```python\nx = 1\n1 / 0\n```\n", "page.md:2: the block raises ZeroDivisionError"),
        ("```python\n1 / 0\n```\n```text\nZeroDivisionError: other\n```\n", "division by zero\n\nbut the page shows"),
        ("```python\nx = 1\n", "page.md:1: the block is not closed"),
    ],
)
def test_a_page_that_shows_something_else_fails(tmp_path, text, fault):
    with pytest.raises(AssertionError, match=re.escape(fault)):
        pages.run(written(tmp_path, text))


def test_a_block_with_a_reason_is_not_run(tmp_path):
    page = written(tmp_path, "<!-- not run: it takes an hour -->\n```python\n1 / 0\n```\n")
    assert [block.not_run for block in pages.blocks(page)] == ["it takes an hour"]
    pages.run(page)


def test_links_are_those_to_files_outside_code(tmp_path):
    text = "[a](b.md) [c](https://d) `[e](f)` [g](#h) ![i](j/k.png)\n[l](m.md#n)\n```python\nx = [o](p)\n```\n"
    assert pages.links(written(tmp_path, text)) == ["b.md", "j/k.png", "m.md"]
