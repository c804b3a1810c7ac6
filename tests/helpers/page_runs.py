"""Runs the Python and shell blocks of a page as a newcomer would paste them: in order, and in one folder."""

import io
import os
import re
import subprocess
import sys
import traceback
from collections.abc import Sequence
from contextlib import redirect_stdout
from itertools import pairwise
from pathlib import Path

from helpers.pages import Block

OUTPUT = ("text", "output")
"""The languages of a block that shows what the block directly above it prints."""
SHIMS = Path(__file__).parent / "shims"
"""Commands that stand before those of the machine: pip, and python3 for a virtual environment."""
SECONDS = 300


def run(found: Sequence[Block], folder: Path) -> None:
    """Run Python blocks, which share their names, and shell blocks, in the working folder `folder`.

    Where a block of output stands directly behind a block, it must be what the block prints; "…"
    stands for any text. An error of Python ends what is printed by its type and message, as Python's
    last line does. Without a block of output, a block must not raise; and a shell block must succeed,
    unless the block behind it is called "output".
    """
    names: dict[str, object] = {"__name__": "__main__"}
    for block, following in pairwise([*found, None]):
        if block is None or block.language not in ("python", "sh") or block.not_run:
            continue
        shown = following if following and following.language in OUTPUT and following.directly else None
        if block.language == "python":
            printed, error = printed_by(block, block.tested, names)
        else:
            printed, status = printed_by_shell(block.tested, folder)
            failed = status != 0 and (shown is None or shown.language != "output")
            error = RuntimeError(f"exit status {status}: {printed}") if failed else None
        if error is not None and (shown is None or block.language == "sh"):
            raise AssertionError(f"{block.place}: the block raises {error!r}") from error
        if shown is not None and not matches(shown.text, printed):
            raise AssertionError(
                f"{block.place}: the block prints\n{printed}\nbut the page shows\n{shown.text}"
            ) from error


def run_in_full(found: Sequence[Block], folder: Path) -> None:
    """Run the blocks as they stand on the page, and print what they print; an error ends only its own block."""
    names: dict[str, object] = {"__name__": "__main__"}
    for block in found:
        if block.language == "python" and not block.not_run:
            print(printed_by(block, block.text, names)[0], end="", flush=True)
        elif block.language == "sh" and not block.not_run:
            print(printed_by_shell(block.text, folder, None)[0], end="", flush=True)


def printed_by(block: Block, text: str, names: dict[str, object]) -> tuple[str, Exception | None]:
    """(what a Python block prints whose text, or its smaller one, is given, the error that ends it or None)."""
    out, error = io.StringIO(), None
    code = compile("\n" * (block.line - 1) + text, str(block.page), "exec")  # with the page's line numbers
    with redirect_stdout(out):
        try:
            exec(code, names)
        except Exception as raised:
            error = raised
    last = traceback.format_exception_only(error)[-1] if error is not None else ""
    return out.getvalue() + last, error


def printed_by_shell(text: str, folder: Path, seconds: float | None = SECONDS) -> tuple[str, int]:
    """(what a shell block prints, errors included, and its exit status)."""
    path = os.pathsep.join([str(SHIMS), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "REAL_PYTHON": sys.executable, "GPUNET_PROGRESS": "0"}
    command = ["bash", "-euo", "pipefail", "-c", text]
    done = subprocess.run(
        command, cwd=folder, env=environment, timeout=seconds,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True, check=False,
    )  # fmt: skip
    return done.stdout, done.returncode


def matches(shown: str, printed: str) -> bool:
    """Whether the output that a page shows is what was printed, up to spaces at the ends of lines."""
    tidy = ["\n".join(line.rstrip() for line in text.rstrip().splitlines()) for text in (shown, printed)]
    return re.fullmatch(re.escape(tidy[0]).replace("…", ".*"), tidy[1], re.DOTALL) is not None
