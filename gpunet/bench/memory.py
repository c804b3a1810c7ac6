"""The resident memory of this process, as Linux counts it."""

from __future__ import annotations

from pathlib import Path

_STATUS, _REFERENCES = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_FORGET_PEAK = "5"
"""What proc(5) takes to set the peak to what is resident now."""


def resident_megabytes() -> float | None:
    """What is resident now; None on other systems."""
    return _megabytes("VmRSS")


def peak_megabytes() -> float | None:
    """The most that was resident since `forget_peak`; None where that could not be done."""
    return _megabytes("VmHWM") if _forgotten else None


def forget_peak() -> None:
    """Let `peak_megabytes` tell of what comes from now on."""
    global _forgotten
    try:
        _REFERENCES.write_text(_FORGET_PEAK)
        _forgotten = True
    except OSError:
        _forgotten = False


_forgotten = False


def _megabytes(entry: str) -> float | None:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    found = next((line for line in lines if line.startswith(f"{entry}:")), None)
    return None if found is None else int(found.split()[1]) * 1024 / 1e6
