"""The emulated CUDA device: kernels' PTX as C++ on the CPU, under race and memory checking.

machine.py runs a kernel on host memory; arrays.py, stream.py and launcher.py make a device of it for `CudaBackend`; `run`
runs a kernel of one's own on NumPy arrays.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys

from gpunet.emulator.launches import Settings
from gpunet.emulator.machine import Counts, KernelFault, Region, Schedule
from gpunet.emulator.runner import Empty, Result, run
from gpunet.nvrtc import compiler


def why_unavailable() -> str:
    """Why kernels cannot be emulated here and what to do about it, in one line; empty where they can."""
    if not sys.platform.startswith("linux") or platform.machine() not in ("x86_64", "AMD64"):
        return f"the CUDA emulator runs on Linux on x86-64, and this is {sys.platform} on {platform.machine()}"
    why = compiler.why_unavailable()
    if why:
        return f"the CUDA emulator needs NVRTC: {why}"
    cxx = os.environ.get("CXX") or "g++"
    if shutil.which(cxx) is None:
        return f"the CUDA emulator needs a C++ compiler, and {cxx} is not found: apt-get install g++"
    return ""


__all__ = ["Counts", "Empty", "KernelFault", "Region", "Result", "Schedule", "Settings", "run", "why_unavailable"]
