"""The emulated CUDA device: kernels' PTX as C++ on the CPU, under race and memory checking.

machine.py runs a kernel on host memory; arrays.py, stream.py and launcher.py make a device of it for `CudaBackend`; `run`
runs a kernel of one's own on NumPy arrays.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys

from gpunet.cuda import nvrtc
from gpunet.cuda.emulator.machine import Counts, KernelFault, Region, Schedule
from gpunet.cuda.emulator.runner import Empty, Result, run


def why_unavailable() -> str:
    """Why kernels cannot be emulated here and what to do about it, in one line; empty where they can."""
    if not sys.platform.startswith("linux") or platform.machine() not in ("x86_64", "AMD64"):
        return f"the CUDA emulator runs on Linux on x86-64, and this is {sys.platform} on {platform.machine()}"
    why = nvrtc.why_unavailable()
    if why:
        return f"the CUDA emulator needs NVRTC: {why}"
    compiler = os.environ.get("CXX") or "g++"
    if shutil.which(compiler) is None:
        return f"the CUDA emulator needs a C++ compiler, and {compiler} is not found: apt-get install g++"
    return ""


__all__ = ["Counts", "Empty", "KernelFault", "Region", "Result", "Schedule", "run", "why_unavailable"]
