"""The tool that counts lines by room, on a small tree whose counts are known."""

import importlib.util
import json
from pathlib import Path

import pytest

TOOL = Path(__file__).parent.parent / ".ci" / "size.py"
pytestmark = pytest.mark.skipif(not TOOL.exists(), reason="not a checkout: there is no .ci/size.py")

LAYERS = '''"""A room.

With a second paragraph.
"""

LIMIT = 3  # a comment beside code
"""The largest one."""


def double(x):
    """Twice x."""
    # why it is done so

    text = """a string

    that is code"""
    return 2 * x, text
'''  # 5 lines of code; 3 + 1 + 1 + 1 of comments and docstrings
MACHINE = """// A machine, whose
/* comment goes on

   and on */
#include <vector>
const char* url = "http://example.org/*";  // a string holds no comment
int million = 1'000'000; /* one */ int two = 2;
/* first */ char quote = '"'; // last
"""  # 4 lines of code, 3 of comments
KERNEL = """#define ONE 1
/* doc */
__global__ void f() {}
"""  # 2 lines of code, 1 of comments
FILES = {
    "gpunet/errors.py": "x = 1\n",
    "gpunet/backends/numpy/conv/planes.py": "# why\ny = 2\n",
    "gpunet/backends/registry.py": "z = 3\n",
    "gpunet/nn/layers.py": LAYERS,
    "gpunet/emulator/machine.cpp": MACHINE,
    "kernels/f.cu": KERNEL,
    "tests/test_f.py": "assert True\n",
}
SIZES = {
    "core modules": {"Python": [1, 0]},
    "backends/numpy": {"Python": [1, 1]},
    "backends": {"Python": [1, 0]},
    "nn": {"Python": [5, 6]},
    "emulator": {"C++": [4, 3]},
    "kernels": {"CUDA": [2, 1]},
    "tests": {"Python": [1, 0]},
    "core": {"Python": [8, 7]},
}


@pytest.fixture(scope="module")
def size():
    spec = importlib.util.spec_from_file_location("size", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def root(tmp_path):
    """A checkout with a size file whose budgets are just what is there, the core's too."""
    for path, text in FILES.items():
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    budgets = {
        room: {"code": sum(c for c, _ in counts.values()), "lines": sum(map(sum, counts.values()))}
        for room, counts in SIZES.items()
        if room != "core"
    }
    settings = {
        "core": {
            "without": ["gpunet/emulator/"],
            "base": {"commit": "abc", "code": 16, "comments": 14},
            "share": {"code": 0.5, "lines": 0.5},
        },
        "long_functions": {"most": 1, "reasons": {}},
        "budgets": budgets,
        "measured": SIZES,
    }
    (tmp_path / "sizes.json").write_text(json.dumps(settings))
    return tmp_path


@pytest.fixture
def check(size, root, capsys):
    """Runs the tool on the tree -> (exit status, the table, the faults)."""

    def check(*options):
        status = size.main(["--root", str(root), "--file", str(root / "sizes.json"), *options])
        out, err = capsys.readouterr()
        return status, out, err.splitlines()

    return check


@pytest.fixture
def change(root):
    """Changes the size file: change(lambda settings: …)."""

    def change(edit):
        file = root / "sizes.json"
        settings = json.loads(file.read_text())
        edit(settings)
        file.write_text(json.dumps(settings))

    return change


def test_code_and_comments_are_counted_by_room_and_language(size, root):
    tree = size.Tree(root, ["gpunet/emulator/"])
    assert {room: {name: list(n) for name, n in sizes.items()} for room, sizes in tree.rooms.items()} == SIZES


def test_a_tree_within_its_budgets_passes(check):
    status, out, faults = check()
    assert (status, faults) == (0, [])
    rows = {line[:18].strip(): line[18:].split() for line in out.splitlines()}
    assert rows["nn"] == ["5", "6", "5", "11"]
    assert rows["emulator"] == ["4", "3", "4", "7"]
    assert "core: 50.0% of the code, and 50.0% of the code and comments, that it had at abc" in out


@pytest.mark.parametrize(
    ("added", "fault"),
    [
        ("a = 1\n", "size: nn has 6 lines of code, and its budget is 5"),
        ("# a\n", "size: nn has 12 lines of code and comments, and its budget is 11"),
        ("a = 1\n", "size: core has 9 lines of code, and its budget is 8"),
    ],
)
def test_a_room_above_its_budget_fails_and_shows_the_change(check, root, added, fault):
    (root / "gpunet/nn/more.py").write_text(added)
    status, out, faults = check()
    assert status == 1
    assert fault in faults
    (row,) = (line.split() for line in out.splitlines() if line.startswith("nn "))
    assert "+1" in row


def test_a_room_without_a_budget_fails(check, root):
    (root / "gpunet/explain").mkdir()
    (root / "gpunet/explain/page.py").write_text("\n")
    status, out, faults = check()
    assert status == 1
    assert faults == ["size: explain has no budget in the size file"]
    (row,) = (line.split() for line in out.splitlines() if line.startswith("explain "))
    assert row[-2:] == ["new", "none"]


def test_what_the_size_file_names_must_exist(check, change):
    change(lambda settings: settings["budgets"].update(gone={"code": 1, "lines": 1}))
    change(lambda settings: settings["core"]["without"].append("gpunet/gone/"))
    status, _, faults = check()
    assert status == 1
    assert faults == [
        "size: gone has a budget but no files",
        """size: the core's "without" names gpunet/gone/, which does not exist""",
    ]


def test_a_long_function_needs_a_reason_and_few_may_be_long(check, root, change):
    change(lambda settings: settings["budgets"].update(nn={"code": 999, "lines": 999}))
    change(lambda settings: settings["core"].update(share={"code": 99, "lines": 99}))
    body = "        pass\n"
    for name, lines in (("short", 49), ("long", 50)):
        text = (
            f'class A:\n    @staticmethod\n    def f():\n        """Docstring\n        of two lines."""\n{body * lines}'
        )
        (root / f"gpunet/nn/{name}.py").write_text(text)
    assert check()[2] == ["size: gpunet/nn/long.py:A.f has 51 lines, and the size file states no reason for so many"]
    reasons = {"gpunet/nn/long.py:A.f": "a table", "gpunet/nn/short.py:A.f": "none"}
    change(lambda settings: settings["long_functions"].update(reasons=reasons, most=0))
    assert check()[2] == [
        "size: the size file states a reason for gpunet/nn/short.py:A.f, which is not longer than 50 lines",
        "size: 1 functions are longer than 50 lines; 0 may be",
    ]


def test_files_longer_than_400_lines_are_named(check, root):
    (root / "gpunet/nn/more.py").write_text("\n" * 401)
    assert "files longer than 400 lines: 1\n    401 gpunet/nn/more.py" in check()[1]


def test_update_writes_what_is_measured_and_budgets_writes_three_percent_more(check, root):
    (root / "gpunet/nn/more.py").write_text("a = 1\n" * 200)
    assert check("--update")[0] == 1
    settings = json.loads((root / "sizes.json").read_text())
    assert settings["measured"] == SIZES | {"nn": {"Python": [205, 6]}, "core": {"Python": [208, 7]}}
    assert settings["budgets"]["nn"] == {"code": 5, "lines": 11}
    check("--budgets")
    settings = json.loads((root / "sizes.json").read_text())
    assert settings["budgets"]["nn"] == {"code": 220, "lines": 220}  # 211.15 and 217.33
    assert settings["budgets"]["emulator"] == {"code": 10, "lines": 10}
    assert "core" not in settings["budgets"]
    assert check()[2] == [
        "size: core has 208 lines of code, and its budget is 8",
        "size: core has 215 lines of code and comments, and its budget is 15",
    ]
