"""Reads the command lines of shell blocks, and asks the commands whether they know the options."""

import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

from gpunet.bench.cli import make_parser as make_bench_parser
from gpunet.cli.entry import make_parser

ROOT = Path(__file__).resolve().parents[2]
_ENDS = {"|", "||", "&&", ";", "&", "<"}


def commands(text: str) -> list[list[str]]:
    """The words of each `gpunet …` and `python examples/…` of a shell block, without what is piped or redirected."""
    found = []
    without_documents = re.sub(r"<<'(\w+)'\n.*?^\1$", "", text, flags=re.MULTILINE | re.DOTALL)
    for line in re.sub(r"(?<=\s)>+ *\S+", "", without_documents.replace("\\\n", " ")).splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.wordchars += "[]:,@%+{}"
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word not in _ENDS:
                words.append(word)
                continue
            while words and re.match(r"\w+=", words[0]):  # a variable of its environment
                del words[0]
            if words[:1] == ["gpunet"] or (words[:1] == ["python"] and words[1].startswith("examples/")):
                found.append(words)
            words = []
    return found


def assert_parses(words: list[str], place: str) -> None:
    """Fail unless the command knows its options and takes their values; for an example, its options alone."""
    if words[0] == "gpunet":
        parser, arguments = (make_bench_parser(), words[2:]) if words[1] == "bench" else (make_parser(), words[1:])
        try:
            parser.parse_args(arguments)
        except SystemExit as stop:
            if stop.code != 0:
                raise AssertionError(f"{place}: {shlex.join(words)} is not understood") from None
        return
    known = set(re.findall(r"--[\w-]+", _help(words[1])))
    unknown = [word for word in words[2:] if word.startswith("--") and word not in known]
    assert not unknown, f"{place}: {words[1]} has no {unknown}"


@cache
def _help(example: str) -> str:
    command = [sys.executable, str(ROOT / example), "--help"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
