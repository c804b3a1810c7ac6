"""Counts lines by room and language, and checks them against the budgets in sizes.json.

    python .ci/size.py                # print the sizes; the status is 1 if a budget is exceeded
    python .ci/size.py --update       # write the measured sizes to sizes.json
    python .ci/size.py --budgets      # write new budgets, 3% above what is measured

A line of code holds anything that is neither blank nor a comment; a docstring counts as a comment,
and so does the string that follows a constant and describes it. A function's length runs from its
``def`` to its last line, with blank lines and comments but without its docstring and decorators.
"""

import argparse
import ast
import io
import json
import re
import sys
import tokenize
from pathlib import Path
from typing import NamedTuple

LANGUAGES = {".py": "Python", ".cpp": "C++", ".hpp": "C++", ".h": "C++", ".cu": "CUDA", ".cuh": "CUDA"}
FOLDERS = ("gpunet", "kernels", "tests", "examples", ".ci")
TOP_LEVEL, CORE = "core modules", "core"
LONGEST_FUNCTION, LONGEST_FILE = 50, 400


class Size(NamedTuple):
    """Lines of code, and lines of comments and docstrings."""

    code: int = 0
    comments: int = 0

    def __add__(self, other: "Size") -> "Size":  # type: ignore[override]
        return Size(self.code + other.code, self.comments + other.comments)

    @property
    def lines(self) -> int:
        """Both kinds together; blank lines count nowhere."""
        return self.code + self.comments


# ---- counting


def python_size(text: str) -> Size:
    """The size of a Python file."""
    strings = {  # the places of the strings that are whole statements
        (node.lineno, node.col_offset)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    }
    code: set[int] = set()
    comments: set[int] = set()
    layout = {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        lines = range(token.start[0], token.end[0] + 1)
        if token.type == tokenize.COMMENT or token.start in strings:
            comments.update(lines)
        elif token.type not in layout:
            code.update(lines)
    return _size(text, code, comments)


C_TOKEN = re.compile(
    r"""(?P<comment>//[^\n]*|/\*.*?\*/)|R"(?P<mark>\w*)\(.*?\)(?P=mark)"|"(?:\\.|[^"\\\n])*"|\w[\w']*|'(?:\\.|[^'\\\n])+'|\S""",
    re.DOTALL,
)


def c_size(text: str) -> Size:
    """The size of a C++ or CUDA file."""
    code: set[int] = set()
    comments: set[int] = set()
    line = 1
    end = 0
    for token in C_TOKEN.finditer(text):
        line += text.count("\n", end, token.start())
        kind = comments if token["comment"] else code
        kind.update(range(line, line + token[0].count("\n") + 1))
        line += token[0].count("\n")
        end = token.end()
    return _size(text, code, comments)


def _size(text: str, code: set[int], comments: set[int]) -> Size:
    """A line with both code and a comment is a line of code."""
    blank = {number for number, line in enumerate(text.split("\n"), 1) if not line.strip()}
    return Size(len(code - blank), len(comments - code - blank))


def function_lengths(text: str) -> dict[str, int]:
    """The lines of each function of a Python file, by its qualified name."""
    lengths = {}

    def visit(node: ast.AST, path: tuple[str, ...]) -> None:
        for child in ast.iter_child_nodes(node):
            named = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            inner = (*path, child.name) if named else path
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                first = child.body[0]
                is_docstring = ast.get_docstring(child, clean=False) is not None
                docstring = first.end_lineno - first.lineno + 1 if is_docstring else 0
                lengths[".".join(inner)] = child.end_lineno - child.lineno + 1 - docstring
            visit(child, inner)

    visit(ast.parse(text), ())
    return lengths


# ---- the tree


def room_of(path: str) -> str:
    """The room of a file, whose path is relative to the checkout."""
    folder, *parts = path.split("/")
    if folder != "gpunet":
        return folder
    if len(parts) == 1:
        return TOP_LEVEL
    return "/".join(parts[:2]) if parts[0] == "backends" and len(parts) > 2 else parts[0]


class Tree:
    """The sizes of all source files of a checkout.

    Attributes:
        files: the size of each file, by its path relative to the checkout.
        rooms: the size of each room in each language. The room "core" is the package but for the
            folders ("gpunet/bench/") and the files of `without`.
        long_functions: the length of each function of the package that is longer than 50 lines, by
            "path:name".
        long_files: the length of each file that is longer than 400 lines, blank ones included;
            tests are not looked at.
    """

    def __init__(self, root: Path, without: list[str]) -> None:
        self.without = tuple(without)
        self.files: dict[str, Size] = {}
        self.rooms: dict[str, dict[str, Size]] = {}
        self.long_functions: dict[str, int] = {}
        self.long_files: dict[str, int] = {}
        for folder in FOLDERS:
            for file in sorted((root / folder).rglob("*")):
                if file.suffix in LANGUAGES:
                    self._add(file.relative_to(root).as_posix(), file.read_text(encoding="utf-8"))

    def _add(self, path: str, text: str) -> None:
        language = LANGUAGES[Path(path).suffix]
        size = self.files[path] = (python_size if language == "Python" else c_size)(text)
        in_package = path.startswith("gpunet/")
        rooms = [room_of(path)]
        if in_package and not path.startswith(self.without):
            rooms.append(CORE)
        for room in rooms:
            sizes = self.rooms.setdefault(room, {})
            sizes[language] = sizes.get(language, Size()) + size
        if in_package and language == "Python":
            lengths = function_lengths(text).items()
            self.long_functions |= {f"{path}:{name}": n for name, n in lengths if n > LONGEST_FUNCTION}
        if not path.startswith("tests/") and (length := text.count("\n")) > LONGEST_FILE:
            self.long_files[path] = length

    def total(self, room: str) -> Size:
        """The size of a room in all its languages together."""
        return sum(self.rooms[room].values(), Size())


# ---- the size file


def core_budget(core: dict) -> dict[str, int]:
    """The core's budget, which follows from its size at the commit that it is compared with."""
    base, share = core["base"], core["share"]
    return {"code": int(base["code"] * share["code"]), "lines": int((base["code"] + base["comments"]) * share["lines"])}


def faults(tree: Tree, settings: dict) -> list[str]:
    """What breaks a rule of the size file, in one sentence each."""
    budgets = settings["budgets"] | {CORE: core_budget(settings["core"])}
    found = [f"{room} has a budget but no files" for room in budgets if room not in tree.rooms]
    for room in tree.rooms:
        if room not in budgets:
            found.append(f"{room} has no budget in the size file")
            continue
        for kind, words in (("code", "lines of code"), ("lines", "lines of code and comments")):
            if (got := getattr(tree.total(room), kind)) > budgets[room][kind]:
                found.append(f"{room} has {got:,} {words}, and its budget is {budgets[room][kind]:,}")
    found += [
        f'the core\'s "without" names {path}, which does not exist'
        for path in settings["core"]["without"]
        if not any(file.startswith(path) for file in tree.files)
    ]
    reasons, most = settings["long_functions"]["reasons"], settings["long_functions"]["most"]
    found += [
        f"{name} has {length} lines, and the size file states no reason for so many"
        for name, length in tree.long_functions.items()
        if name not in reasons
    ]
    found += [
        f"the size file states a reason for {name}, which is not longer than {LONGEST_FUNCTION} lines"
        for name in reasons
        if name not in tree.long_functions
    ]
    if len(tree.long_functions) > most:
        found.append(f"{len(tree.long_functions)} functions are longer than {LONGEST_FUNCTION} lines; {most} may be")
    return found


def measured(tree: Tree) -> dict[str, dict[str, Size]]:
    """What ``--update`` writes: [code, comments] of each room in each language."""
    return dict(sorted(tree.rooms.items()))


def new_budgets(tree: Tree) -> dict[str, dict[str, int]]:
    """What ``--budgets`` writes for all rooms but the core: 3% more than now, rounded up to tens."""

    def with_margin(count: int) -> int:
        return -(-count * 103 // 1000) * 10

    sizes = {room: tree.total(room) for room in sorted(tree.rooms) if room != CORE}
    return {room: {"code": with_margin(size.code), "lines": with_margin(size.lines)} for room, size in sizes.items()}


def to_text(settings: dict) -> str:
    """The size file as JSON, with one line for each room, which keeps a change of it small."""

    def value(content: object) -> str:
        if not isinstance(content, dict):
            return json.dumps(content)
        rows = [f"    {json.dumps(key)}: {json.dumps(row)}" for key, row in content.items()]
        return "{\n" + ",\n".join(rows) + "\n  }"

    return "{\n" + ",\n".join(f"  {json.dumps(key)}: {value(content)}" for key, content in settings.items()) + "\n}\n"


# ---- what is printed


def table(tree: Tree, settings: dict) -> str:
    """A row for each room: its lines by language, their change since --update, and the budget."""
    languages = list(dict.fromkeys(LANGUAGES.values()))
    budgets = settings["budgets"] | {CORE: core_budget(settings["core"])}
    rows = [
        ["", *(cell for language in languages for cell in (language, "")), "change", "", "budget", ""],
        ["room", *["code", "comments"] * (len(languages) + 1), "code", "lines"],
    ]
    for room in sorted(tree.rooms, key=lambda room: (room == CORE, room in FOLDERS, room)):
        total, row = tree.total(room), [room]
        for language in languages:
            row += [f"{count:,}" for count in tree.rooms[room].get(language, ())] or ["", ""]
        if room in settings["measured"]:
            before = [sum(counts) for counts in zip(*settings["measured"][room].values(), strict=True)]
            row += [f"{now - then:+,}" if now != then else "" for now, then in zip(total, before, strict=True)]
        else:
            row += ["new", ""]
        row += [f"{count:,}" for count in budgets[room].values()] if room in budgets else ["none", ""]
        rows.append(row)
    return "\n".join(f"{name:18}" + "".join(f"{cell:>9}" for cell in cells) for name, *cells in rows)


def remarks(tree: Tree, settings: dict) -> str:
    """How far the core has come, and the longest functions and files."""
    base, core = settings["core"]["base"], tree.total(CORE)
    code, lines = core.code / base["code"], core.lines / (base["code"] + base["comments"])
    said = [f"core: {code:.1%} of the code, and {lines:.1%} of the code and comments, that it had at {base['commit']}"]
    for what, most, long in (
        ("functions", LONGEST_FUNCTION, tree.long_functions),
        ("files", LONGEST_FILE, tree.long_files),
    ):
        said.append(f"{what} longer than {most} lines: {len(long)}")
        said += [f"{count:7} {name}" for name, count in sorted(long.items(), key=lambda item: -item[1])]
    return "\n".join(said)


def main(argv: list[str] | None = None) -> int:
    """Print the sizes, and each rule that is broken -> 1 if one is, else 0."""
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description="Print lines by room, and check them against the budgets.")
    parser.add_argument("--root", type=Path, default=here.parent, help="the checkout; default: the one of this script")
    parser.add_argument("--file", type=Path, default=here / "sizes.json", help="the size file; default: .ci/sizes.json")
    parser.add_argument("--update", action="store_true", help="write the measured sizes to the size file")
    parser.add_argument("--budgets", action="store_true", help="write new budgets: what is measured, and 3%% more")
    options = parser.parse_args(argv)
    settings = json.loads(options.file.read_text(encoding="utf-8"))
    tree = Tree(options.root, settings["core"]["without"])
    print(table(tree, settings), remarks(tree, settings), sep="\n\n", flush=True)
    if options.update:
        settings["measured"] = measured(tree)
    if options.budgets:
        settings["budgets"] = new_budgets(tree)
    if options.update or options.budgets:
        options.file.write_text(to_text(settings), encoding="utf-8")
    found = faults(tree, settings)
    print(*(f"size: {fault}" for fault in found), sep="\n", end="\n" if found else "", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
