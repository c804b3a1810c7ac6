"""CuPy itself in the tests, on a machine without a GPU: the real CuPy on a stand-in for CUDA's runtime and driver.

`GPUNET_TEST_STANDIN=1 python -m pytest tests/kernels -k cuda` shows every test a CUDA device that is the stand-in, and every
Python process that the tests start, too (`environment`). Without the variable, the tests of this folder alone see it.
"""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "GPUNET_TEST_STANDIN"
"""Set to 1 in the environment: the stand-in is present in every test, and in every process with `site` on its PYTHONPATH."""


def environment() -> dict[str, str]:
    """What a child process's environment needs besides its parent's, to see the stand-in."""
    site = str(Path(__file__).with_name("site"))
    paths = [site, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {VARIABLE: "1", "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}
