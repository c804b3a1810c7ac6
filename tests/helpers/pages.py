"""Runs the Python blocks of Markdown pages as a newcomer would paste them, and reads the links of pages."""

import io
import re
import textwrap
import traceback
from contextlib import redirect_stdout
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

OUTPUT = ("text", "output")
"""The languages of a block that shows what the Python block directly above it prints."""
_FENCE = re.compile(r"^( *)(```+) *([\w-]*)")
_NOT_RUN = re.compile(r"^ *<!-- not run: (\S.*) -->$")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    """Of its first line of text, counted from 1."""
    language: str
    text: str
    not_run: str
    """The reason why it is not run; empty where it is run."""
    directly: bool
    """Whether only empty lines stand between the block before and this one."""

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order. A fence that is never closed raises."""
    lines = page.read_text(encoding="utf-8").splitlines()
    found: list[Block] = []
    i = between = 0  # the first line behind the last block
    while i < len(lines):
        fence = _FENCE.match(lines[i])
        if not fence:
            i += 1
            continue
        closed = next((j for j in range(i + 1, len(lines)) if lines[j].strip() == fence[2]), None)
        assert closed is not None, f"{page}:{i + 1}: the block is not closed"
        reason = _NOT_RUN.match(lines[i - 1]) if i else None
        directly = bool(found) and not any(line.strip() for line in lines[between:i])
        text = textwrap.dedent("\n".join(lines[i + 1 : closed])) + "\n"
        found.append(Block(page, i + 2, fence[3], text, reason[1] if reason else "", directly))
        i = between = closed + 1
    return found


def run(page: Path) -> None:
    """Run the Python blocks of a page, one after another with the same names, in the working folder.

    Where a block of output stands directly behind a Python block, it must be what the block prints;
    "…" stands for any text. An error ends what is printed by its type and message, as Python's last
    line does; without a block of output, a block must not raise.
    """
    names: dict[str, object] = {"__name__": "__main__"}
    found = blocks(page)
    for block, following in pairwise([*found, None]):
        if block is None or block.language != "python" or block.not_run:
            continue
        shown = following.text if following and following.language in OUTPUT and following.directly else None
        printed, error = printed_by(block, names)
        if shown is None:
            if error is not None:
                raise AssertionError(f"{block.place}: the block raises {error!r}") from error
        elif not matches(shown, printed):
            raise AssertionError(f"{block.place}: the block prints\n{printed}\nbut the page shows\n{shown}") from error


def printed_by(block: Block, names: dict[str, object]) -> tuple[str, Exception | None]:
    """(what a block prints, the error that ends it or None)."""
    out, error = io.StringIO(), None
    code = compile("\n" * (block.line - 1) + block.text, str(block.page), "exec")  # with the page's line numbers
    with redirect_stdout(out):
        try:
            exec(code, names)
        except Exception as raised:
            error = raised
    last = traceback.format_exception_only(error)[-1] if error is not None else ""
    return out.getvalue() + last, error


def matches(shown: str, printed: str) -> bool:
    """Whether the output that a page shows is what was printed, up to spaces at the ends of lines."""
    tidy = ["\n".join(line.rstrip() for line in text.rstrip().splitlines()) for text in (shown, printed)]
    return re.fullmatch(re.escape(tidy[0]).replace("…", ".*"), tidy[1], re.DOTALL) is not None


def links(page: Path) -> list[str]:
    """The targets of a page's links to files, without what they name inside the file."""
    text = re.sub(r"^( *)(```+).*?^ *\2 *$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    targets = _LINK.findall(re.sub(r"`[^`]*`", "", text))
    files = [target.partition("#")[0] for target in targets if not re.match(r"[a-z]+:", target)]
    return [file for file in files if file]
