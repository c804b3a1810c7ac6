"""The documentation: its programs run as shown, its links lead somewhere, and it names everything that is public."""

import ast
import importlib
import inspect
import os
import re
import shlex
import shutil
import sys
from argparse import _SubParsersAction
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import page_runs, pages
from helpers.command_lines import assert_parses, commands

import gpunet as gp
from gpunet.backends import why_unavailable
from gpunet.bench.cli import KINDS
from gpunet.cli.entry import make_parser
from gpunet.cli.train import RECIPE_OPTIONS
from gpunet.train import recipes

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
TOP_LEVEL = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "kernels/README.md", "benchmarks/README.md")]
PAGES = [*sorted(DOCS.rglob("*.md")), *(page for page in TOP_LEVEL if page.exists())]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
IN_A_CHECKOUT = ("gpunet", "kernels", "tests", "examples", "benchmarks", "pyproject.toml", "README.md")
CACHES = shutil.ignore_patterns("__pycache__")
LANGUAGES = ("python", "py", "sh", "text", "output", "cuda", "json", "ini", "dockerfile", "yaml")
"""What a block can be. Of these, python and sh are run; py is the program of another framework."""
ROOMS = (
    "gpunet", "gpunet.arrays", "gpunet.backends", "gpunet.data", "gpunet.functional", "gpunet.interop",
    "gpunet.interop.keras", "gpunet.interop.onnx", "gpunet.interop.torch", "gpunet.models", "gpunet.nn", "gpunet.optim",
    "gpunet.train", "gpunet.vision", "gpunet.vision.inspect",
)  # fmt: skip
WITH_PAGES = ("arrays", "data", "functional", "models", "nn", "optim", "__version__")
"""Names of gpunet itself that have pages of their own, or are no more than a string."""

pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="the documentation stands in a checkout")


def name_of(page):
    return page.relative_to(ROOT).as_posix()


def programs_of(file):
    """The blocks of each docstring of a Python file that has any."""
    source, documented = file.read_text(), (ast.Module, ast.ClassDef, ast.FunctionDef)
    if "```" not in source:
        return []
    texts = [ast.get_docstring(node) or "" for node in ast.walk(ast.parse(source)) if isinstance(node, documented)]
    return [found for text in texts if (found := pages.blocks_of(text, file))]


def hook(name):
    """A hook of the site's build, which is no part of a package."""
    spec = spec_from_file_location(name, DOCS / "hooks" / f"{name}.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


code = hook("code") if DOCS.is_dir() else None
WITH_PROGRAMS = [file for file in sorted(Path(gp.__file__).parent.rglob("*.py")) if programs_of(file)]


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


@pytest.fixture
def folder(page, tmp_path, monkeypatch):
    """The working folder of the page: an empty one, or a copy of the repository."""
    if pages.needs_emulator(page) and why_unavailable("emulated"):
        pytest.skip(why_unavailable("emulated"))
    data = os.environ.get("GPUNET_DATA")
    missing = [name for name in pages.data_of(page) if data is None or not (Path(data) / name).is_dir()]
    if missing:
        pytest.skip(f"the page needs {missing} in the folder that GPUNET_DATA names")
    if not pages.data_of(page):
        monkeypatch.delenv("GPUNET_DATA", raising=False)
    if pages.in_a_checkout(page):
        for name in IN_A_CHECKOUT:
            copy, ignore = (shutil.copytree, {"ignore": CACHES}) if (ROOT / name).is_dir() else (shutil.copy, {})
            copy(ROOT / name, tmp_path / name, **ignore)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))  # its commands take the copy's gpunet
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPUNET_BACKEND", "numpy")  # a GPU would round what is printed differently
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.setenv("COLUMNS", "100")
    gp.seed(0)
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_programs_of_a_page_run_and_print_what_it_shows(page, folder):
    page_runs.run(pages.blocks(page), folder)


def test_few_programs_are_not_run():
    skipped = [f"{block.place}: {block.not_run}" for page in PAGES for block in pages.blocks(page) if block.not_run]
    assert len(skipped) <= 10, skipped


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_command_lines_of_a_page_have_options_that_their_commands_know(page):
    for block in pages.blocks(page):
        if block.language == "sh":
            for words in commands(block.text):
                assert_parses(words, block.place)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_of_a_page_says_what_it_is(page):
    assert [block.place for block in pages.blocks(page) if block.language not in LANGUAGES] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_links_of_a_page_lead_to_files(page):
    assert [link for link in pages.links(page) if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_code_that_a_page_shows_is_in_the_file_that_it_links_to(page):
    text = page.read_text(encoding="utf-8")
    for shown in code.SHOWN.finditer(text):
        file, names = ROOT / shown[2], shown[3].split()
        assert all(code.source(file.read_text(encoding="utf-8"), name) for name in names)
        above = text[: shown.start()].rsplit("\n#", 1)[-1]
        assert file in [(page.parent / target).resolve() for target in pages.links_of(above)], (
            f"no link above {shown[0]}"
        )


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_an_example_shows_command_lines_that_it_knows(example):
    usage = [line for line in ast.get_docstring(ast.parse(example.read_text())).splitlines() if " python " in line]
    assert usage
    for line in usage:
        words = shlex.split(line, comments=True)
        assert words[1] == example.name
        assert_parses([words[0], f"examples/{words[1]}", *words[2:]], line)


@pytest.mark.parametrize("file", WITH_PROGRAMS, ids=lambda file: file.stem)
def test_the_programs_of_docstrings_run(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for found in programs_of(file):
        page_runs.run(found, tmp_path)


def test_pictures_are_small_and_say_which_command_made_them():
    pictures = [file for file in DOCS.rglob("*") if file.suffix in (".png", ".jpg", ".webp", ".gif")]
    assert sum(file.stat().st_size for file in pictures) <= 3e6
    shown = {(page.parent / target).resolve() for page, target, _ in pages.pictures(PAGES)}
    assert [file for file in pictures if file not in shown] == []
    assert [f"{page}: {target}" for page, target, command in pages.pictures(PAGES) if not command] == []


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


def test_the_table_of_kernels_has_each_file_and_its_test():
    page = (ROOT / "kernels/README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+\.cu)` \|.*\| ((?:`[\w/]+\.py`(?:, )?)+) \|$", page, re.MULTILINE)
    assert sorted(file for file, _ in rows) == sorted(file.name for file in (ROOT / "kernels").glob("*.cu"))
    named = [test for _, tests in rows for test in re.findall("`(.+?)`", tests)]
    assert [test for test in named if not (ROOT / "tests" / test).is_file()] == []


def test_the_page_of_own_images_lists_the_recipe_of_a_folder():
    page = (DOCS / "start" / "own-images.md").read_text(encoding="utf-8")
    recipe = recipes.recipe("").as_dict()
    expected = {name: str(recipe[name]).replace("False", "off") for name in ("model", *RECIPE_OPTIONS)}
    listed = dict(re.findall(r"^\| `--([\w-]+)` \| `?([\w.]+)`? \|", page, re.MULTILINE))
    assert {name: listed.get(name.replace("_", "-")) for name in expected} == expected


# ---- the hooks of the site


def test_a_function_in_a_formula_is_set_apart_from_its_argument(monkeypatch):
    for name in ("latex2mathml", "latex2mathml.converter"):  # which only the site's build has
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(convert=str))
    spaced = hook("formulas").spaced
    for tex in (r"\log p", r"\log  \frac{a}{b}", r"\max_{i,j} x", r"\log_2 7", r"\log \sum_j x"):
        name, argument = re.fullmatch(r"(\\\w+?(?:_\{.*?\}|_2)?) +(.+)", tex).groups()
        assert spaced(tex) == rf"{name} \, {argument}"
    for tex in (
        r"\log(p)",
        r"\log (p)",
        r"\log \left( p \right)",
        r"\max_{i,j} \; x",
        r"\eta_{\min} + 1",
        r"\maximum x",
    ):
        assert spaced(tex) == tex


def test_a_function_is_shown_with_its_decorators_and_without_its_indentation():
    text = "A = 1\n\n\nclass B:\n    @property\n    def c(self):\n        return 1\n\n    d: int = 2\n"
    assert code.source(text, "A") == "A = 1"
    assert code.source(text, "B.c") == "@property\ndef c(self):\n    return 1"
    assert code.source(text, "B.d") == "d: int = 2"
    with pytest.raises(LookupError, match="no C"):
        code.source(text, "C")
