"""Reads Markdown pages: their fenced blocks, what comments say about these to the tests, and their links.

A comment on a line of its own directs the tests, and no reader sees it. Near the top of a page stand
``<!-- data: fashion-mnist -->``, folders of GPUNET_DATA that the page needs, and
``<!-- in a checkout -->``, where its blocks belong into a copy of the repository, and
``<!-- emulated -->``, where they run kernels on the emulated device. Directly above a block stand
``<!-- tested with: OLD -> NEW; OLD -> NEW -->``, the smaller settings of the tests, and
``<!-- not run: REASON -->``. Above a picture stands ``<!-- picture: COMMAND -->``, which made it.
``<!-- notebook -->`` is for the site's build alone (docs/hooks/notebooks.py).
"""

import re
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^( *)(```+) *([\w-]*)")
_COMMENT = re.compile(r"^ *<!-- (not run|tested with): (\S.*) -->$")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    """Of its first line of text, counted from 1."""
    language: str
    text: str
    directly: bool
    """Whether only empty lines stand between the block before and this one."""
    not_run: str = ""
    """The reason why it is not run; empty where it is run."""
    tested_with: str = ""

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def tested(self) -> str:
        """The text with the smaller settings of the tests."""
        text = self.text
        for change in filter(None, self.tested_with.split("; ")):
            old, arrow, new = change.partition(" -> ")
            if not arrow or old not in text:
                raise AssertionError(f"{self.place}: {change!r} changes nothing in the block")
            text = text.replace(old, new)
        return text


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order. A fence that is never closed raises."""
    return blocks_of(page.read_text(encoding="utf-8"), page)


def blocks_of(markdown: str, page: Path) -> list[Block]:
    """The fenced blocks of a text, which is a page, or a docstring in the file `page`."""
    lines = markdown.splitlines()
    found: list[Block] = []
    i = between = 0  # the first line behind the last block
    while i < len(lines):
        fence = _FENCE.match(lines[i])
        if not fence:
            i += 1
            continue
        closed = next((j for j in range(i + 1, len(lines)) if lines[j].strip() == fence[2]), None)
        assert closed is not None, f"{page}:{i + 1}: the block is not closed"
        directly = bool(found) and not any(line.strip() for line in lines[between:i])
        text = textwrap.dedent("\n".join(lines[i + 1 : closed])) + "\n"
        found.append(Block(page, i + 2, fence[3], text, directly, **_directions(lines[between:i])))
        i = between = closed + 1
    return found


def _directions(above: list[str]) -> dict[str, str]:
    """What the comments directly above a block say."""
    found = {}
    for line in reversed(above):
        comment = _COMMENT.match(line)
        if not comment:
            break
        found[comment[1].replace(" ", "_")] = comment[2]
    return found


def data_of(page: Path) -> list[str]:
    """The folders of GPUNET_DATA that a page needs."""
    needed = re.search(r"^<!-- data: (.+) -->$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return needed[1].split(", ") if needed else []


def in_a_checkout(page: Path) -> bool:
    """Whether the blocks of a page belong into a copy of the repository."""
    return _says(page, "in a checkout")


def needs_emulator(page: Path) -> bool:
    """Whether a page runs kernels on the emulated device."""
    return _says(page, "emulated")


def _says(page: Path, direction: str) -> bool:
    return f"\n<!-- {direction} -->\n" in page.read_text(encoding="utf-8")


def links(page: Path) -> list[str]:
    """The targets of a page's links to files, without what they name inside the file."""
    return links_of(page.read_text(encoding="utf-8"))


def links_of(markdown: str) -> list[str]:
    """The targets of a text's links to files."""
    text = re.sub(r"^( *)(```+).*?^ *\2 *$", "", markdown, flags=re.DOTALL | re.MULTILINE)
    targets = _LINK.findall(re.sub(r"`[^`]*`", "", text))
    files = [target.partition("#")[0] for target in targets if not re.match(r"[a-z]+:", target)]
    return [file for file in files if file]


def pictures(markdown_pages: Iterable[Path]) -> list[tuple[Path, str, str]]:
    """(page, file, the command that made it or nothing) of each picture of pages that is no drawing."""
    shown = re.compile(
        r"(?:^ *<!-- picture: (\S.*) -->\n+)?^ *!\[[^\]]*\]\(([^)\s]+\.(?:png|jpg|webp|gif))\)", re.MULTILINE
    )
    return [
        (page, match[2], match[1] or "")
        for page in markdown_pages
        for match in shown.finditer(page.read_text(encoding="utf-8"))
    ]
