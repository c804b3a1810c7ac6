"""The emulated CUDA device: it runs the PTX of kernels on the CPU, and can check every access.

translate.py turns PTX into C++, and machine.py runs the compiled kernels on host memory. arrays.py,
stream.py and launches.py make a device of this: arrays, streams that can be captured, and launches.
`run` is the short way to run one kernel on NumPy arrays. Of the rest of gpunet this package imports
only the NVRTC room and the errors.
"""

from __future__ import annotations

from gpunet.emulator.build import why_unavailable
from gpunet.emulator.counts import Access, Profile
from gpunet.emulator.launches import Settings
from gpunet.emulator.machine import Counts, KernelFault, Region, Schedule
from gpunet.emulator.runner import Empty, Result, run

__all__ = [
    "Access",
    "Counts",
    "Empty",
    "KernelFault",
    "Profile",
    "Region",
    "Result",
    "Schedule",
    "Settings",
    "run",
    "why_unavailable",
]
