"""What says where things stand leads to files that exist: the table of the tree, and CONTRIBUTING.md's journeys."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
OVERVIEW = ROOT / "docs" / "internals" / "overview.md"
pytestmark = pytest.mark.skipif(not CONTRIBUTING.exists(), reason="not a checkout: there is no CONTRIBUTING.md")
SUFFIXES = (".py", ".cu", ".cuh", ".cpp", ".hpp", ".md", ".toml", ".json")


def section(page, heading):
    """The lines under a heading of the second level."""
    text = page.read_text(encoding="utf-8")
    found = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    assert found, f"{page.name} has no section {heading}"
    return found[1].splitlines()


def paths_in(lines):
    """What is written in backticks and looks like the path of a file or of a folder."""
    quoted = re.findall(r"`([^`]+)`", "\n".join(lines))
    names = [text for text in quoted if not re.search(r"[\s<>()$=]", text) and text not in SUFFIXES]
    return [name for name in names if "/" in name or name.endswith(SUFFIXES)]


def missing(paths):
    return [path for path in paths if not any(ROOT.glob(path.rstrip("/")))]


def journeys():
    """The numbered items of each journey, by its heading."""
    found = {}
    for line in section(CONTRIBUTING, "Journeys"):
        if line.startswith("### "):
            items = found[line.removeprefix("### ")] = []
        elif found and (re.match(r"\d+\. ", line) or (items and line.startswith("   "))):
            items.append(line)
    return found


def test_a_path_is_told_from_other_quoted_words():
    lines = ["`gpunet/nn/` and `setup.py`, not `.cu`, `Conv`, `gpunet info`, `F.relu(x)` or `pytest tests/kernels`"]
    assert paths_in(lines) == ["gpunet/nn/", "setup.py"]
    assert missing(["gpunet/nn/", "kernels/*.cu", "gpunet/nowhere.py"]) == ["gpunet/nowhere.py"]


def test_every_path_in_the_table_of_the_tree_exists():
    rows = [line for line in section(OVERVIEW, "The tree") if line.startswith("|")]
    paths = paths_in(rows)
    assert len(paths) >= 20
    assert missing(paths) == []


def test_there_are_five_journeys():
    assert len(journeys()) == 5


def test_every_journey_names_files_that_exist():
    for heading, items in journeys().items():
        paths = paths_in(items)
        assert len(set(paths)) >= 3, heading
        assert missing(paths) == [], heading
