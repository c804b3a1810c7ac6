"""Runs the real CuPy without a GPU, on a stand-in for CUDA's runtime and driver.

With `GPUNET_TEST_STANDIN=1 python -m pytest tests/kernels -k cuda` every test sees the stand-in as
a CUDA device, and so does every Python process that a test starts with `environment()`. Without the
variable, only the tests of this folder see it.
"""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "GPUNET_TEST_STANDIN"
"""If this environment variable is 1, every test sees the stand-in, and every process with `site` on
its PYTHONPATH."""


def environment() -> dict[str, str]:
    """Return what to add to a child process's environment so that it sees the stand-in."""
    site = str(Path(__file__).with_name("site"))
    paths = [site, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {VARIABLE: "1", "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}
