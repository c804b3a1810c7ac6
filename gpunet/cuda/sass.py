"""Counts matrix and copy instructions in a cubin's machine code (SASS).

The machine code tells what ptxas made of the PTX: it may turn one load of four floats into four
loads. NVIDIA's disassembler reads it: nvdisasm, from the wheel nvidia-cuda-nvdisasm. The
better-known cuobjdump runs nvdisasm too.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from functools import cache
from pathlib import Path

from gpunet.errors import BackendError

INSTALL = 'pip install "gpunet[emulator]" (nvidia-cuda-nvdisasm)'

MATRIX = re.compile(r"U?[A-Z]*MMA|UTC[A-Z]*MMA[A-Z]*|LDSM|STSM|MOVM|LDTM|STTM")
"""Products of tiles (HMMA, IMMA, DMMA, Hopper's HGMMA, Blackwell's UTCHMMA …), and the instructions
that load or transpose their fragments."""
COPY = re.compile(r"LD|ST|LDG|STG|RED|REDG|ATOMG|LDS|STS|LDGSTS|UBLKCP|UBLKRED|UTMA[A-Z]+|UTCCP")
"""Loads and stores of global and shared memory, asynchronous copies (LDGSTS is cp.async), bulk
copies (UBLKCP), and copies by the TMA."""

_SECTION = re.compile(r"^\s*\.section\s+\.text\.([\w$.]+)", re.MULTILINE)
_INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z][\w.]*)")
_EXTENT = re.compile(r"\.(64|128|256|[US]8|[US]16|\d{4,}|\d+x\d+x\d+)(?![\w])")


def why_unavailable() -> str:
    """Return one line on why cubins cannot be read here; empty if they can."""
    try:
        version()
    except BackendError as error:
        return str(error)
    return ""


@cache
def version() -> str:
    """Return the disassembler's release, as in ``"V13.2.86"``.

    Raises:
        BackendError: there is no disassembler, or it does not run.
    """
    found = re.search(r"V[\d.]+", _run("--version"))
    return found[0] if found else "unknown"


def instructions(cubin: bytes) -> dict[str, dict[str, int]]:
    """Count the matrix and copy instructions of each entry, by its mangled name.

    An instruction is known by its base and extent alone: ``LDG.E.128.CONSTANT`` counts as
    ``LDG.128``.

    Raises:
        BackendError: there is no disassembler, or it does not know the architecture.
    """
    return parse(disassemble(cubin))


def disassemble(cubin: bytes, *options: str) -> str:
    """Return nvdisasm's listing of a cubin's machine code.

    Args:
        options: further options of nvdisasm, such as ``-hex`` for the encoded words.
    Raises:
        BackendError: there is no disassembler, or it does not know the architecture.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernels.cubin"
        path.write_bytes(cubin)
        return _run("--print-code", *options, str(path))


def parse(listing: str) -> dict[str, dict[str, int]]:
    """Count the instructions in nvdisasm's output, as :func:`instructions` does."""
    return {name: _count(text) for name, text in sections(listing).items()}


def sections(listing: str) -> dict[str, str]:
    """Return the part of nvdisasm's output that belongs to each entry, by its mangled name."""
    _, *parts = _SECTION.split(listing)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def _count(text: str) -> dict[str, int]:
    found: Counter[str] = Counter()
    for guard, opcode in _INSTRUCTION.findall(text):
        base = opcode.partition(".")[0]
        if guard != "!PT" and (MATRIX.fullmatch(base) or COPY.fullmatch(base)):  # @!PT never runs
            extent = _EXTENT.search(opcode)
            found[f"{base}.{extent[1]}" if extent else base] += 1
    return dict(sorted(found.items(), key=lambda item: (not MATRIX.match(item[0]), item[0])))


@cache
def _disassembler() -> str:
    try:
        from cuda.pathfinder import find_nvidia_binary_utility
    except ImportError as error:
        raise BackendError(f"nvdisasm is looked for with cuda-pathfinder, which is missing: {INSTALL}") from error
    found = find_nvidia_binary_utility("nvdisasm")
    if found is None:
        raise BackendError(f"nvdisasm is not installed: {INSTALL}")
    return found


def _run(*arguments: str) -> str:
    done = subprocess.run([_disassembler(), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise BackendError(f"nvdisasm fails: {' '.join(done.stderr.split()) or done.returncode}: {INSTALL}")
    return done.stdout
