"""On PYTHONPATH, with GPUNET_TEST_STANDIN=1: the stand-in for CUDA goes below CuPy when a process first looks for CuPy."""

import os
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path


class _BeforeCupy(MetaPathFinder):
    """Installs the stand-in, then lets the others find CuPy."""

    def find_spec(self, name, path=None, target=None):
        if name == "cupy":
            sys.meta_path.remove(self)
            sys.path.append(str(Path(__file__).parents[2]))
            from standin.install import install

            install().present = True


if os.environ.get("GPUNET_TEST_STANDIN") == "1":
    sys.meta_path.insert(0, _BeforeCupy())
