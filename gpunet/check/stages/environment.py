"""Describes the device, the machine, the packages, the compiler and its cache."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryFile

from gpunet import cache
from gpunet.check.stage import FailedError, NotApplicableError, Numbers, Stage
from gpunet.emulator import build
from gpunet.errors import BackendError
from gpunet.nvrtc import compiler
from gpunet.version import __version__

PACKAGES = (
    "numpy", "ml_dtypes", "cupy-cuda13x", "cupy-cuda12x", "cupy", "cuda-bindings", "cuda-toolkit", "nvidia-cuda-nvrtc",
    "nvidia-cuda-runtime", "torch", "triton",
)  # fmt: skip
"""The packages whose versions are recorded, where they are installed."""
CLOCKS = ("clocks.sm", "clocks.mem", "clocks.max.sm", "power.draw", "power.limit", "temperature.gpu")
MIB = 2**20


def run(stage: Stage) -> None:
    """Describe one part after another."""
    stage.check("machine", _machine)
    stage.check("packages", _packages)
    stage.check("device", _device, stage)
    stage.check("properties of the device", _properties, stage)
    stage.check("memory, MiB", _memory, stage)
    stage.check("clocks", _clocks, stage)
    stage.check("compiler and headers", _compiler, stage)
    stage.check("cache of compiled kernels", _cache, stage)


def _machine() -> Numbers:
    return {
        "platform": platform.platform(), "cores": os.cpu_count(), "python": sys.version.split()[0],
        "gpunet": __version__,
    }  # fmt: skip


def _device(stage: Stage) -> Numbers:
    return stage.backend.describe()


def _packages() -> Numbers:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _properties(stage: Stage) -> Numbers:
    """The attributes of the device that limit kernels, by CUDA's names."""
    if stage.emulated:
        raise NotApplicableError("an emulated device has none")
    attributes = stage.backend.arrays.device.attributes  # type: ignore[attr-defined]
    names = (
        "MultiProcessorCount", "ClockRate", "MemoryClockRate", "L2CacheSize", "MaxSharedMemoryPerMultiprocessor",
        "MaxSharedMemoryPerBlockOptin", "MaxRegistersPerMultiprocessor", "MaxThreadsPerMultiProcessor",
    )  # fmt: skip
    return {name: attributes[name] for name in names if name in attributes}


def _memory(stage: Stage) -> Numbers:
    used = stage.backend.arrays.used_bytes()
    if stage.emulated:
        return {"used": used // MIB}
    _, total = stage.backend.arrays.cupy.cuda.runtime.memGetInfo()  # type: ignore[attr-defined]
    return {"used": used // MIB, "free": (total - used) // MIB, "total": total // MIB}


def _clocks(stage: Stage) -> Numbers:
    """The clock rates that nvidia-smi reports, which are low while the device is idle."""
    tool = shutil.which("nvidia-smi")
    if stage.emulated or tool is None:
        raise NotApplicableError("an emulated device has none" if stage.emulated else "nvidia-smi is not on the path")
    # CUDA and nvidia-smi may number the devices differently, so the device is named by its place on
    # the bus.
    bus_id = stage.backend.arrays.device.pci_bus_id  # type: ignore[attr-defined]
    query = [tool, "-i", bus_id, f"--query-gpu={','.join(CLOCKS)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=10, check=False)
    except subprocess.TimeoutExpired:
        raise NotApplicableError("nvidia-smi does not answer") from None
    if done.returncode:
        raise NotApplicableError(f"nvidia-smi: {' '.join((done.stderr or done.stdout).split())}")
    return dict(zip(CLOCKS, (word.strip() for word in done.stdout.split(",")), strict=False))


def _compiler(stage: Stage) -> Numbers:
    """The version of NVRTC, and the folders of its headers.

    If CuPy uses the CUDA of the system, the folders may be missing. Then the reason is reported
    here, and the next stage shows whether compiling works.
    """
    if stage.emulated:
        return {"NVRTC": compiler.version(), "g++": build.compiler(), "headers": _headers()}
    version = ".".join(map(str, stage.backend.arrays.cupy.cuda.nvrtc.getVersion()))  # type: ignore[attr-defined]
    try:
        return {"NVRTC": version, "headers": _headers()}
    except BackendError as error:
        return {"NVRTC": version, "headers": str(error)}


def _cache(stage: Stage) -> Numbers:
    """The folder that caches compiled kernels. Without one, each process would compile them again,
    or could not."""
    # CuPy finds its cache by this rule.
    cupy_folder = os.environ.get("CUPY_CACHE_DIR") or Path.home() / ".cupy" / "kernel_cache"
    folder = cache.folder(build.FOLDER) if stage.emulated else Path(cupy_folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        variable = "GPUNET_CACHE" if stage.emulated else "CUPY_CACHE_DIR"
        raise FailedError(
            f"{folder} cannot be written to ({error.strerror}): set {variable} to another folder"
        ) from None
    return {"folder": str(folder)}


def _headers() -> list[str]:
    return [option.removeprefix("-I") for option in compiler.options() if option.startswith("-I")]
