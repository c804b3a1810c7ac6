"""Installs the stand-in when a process first imports CuPy, if GPUNET_TEST_STANDIN is 1.

Python runs this file at its start if its folder is on PYTHONPATH.
"""

import os
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path


class _BeforeCupy(MetaPathFinder):
    """Installs the stand-in, then leaves it to the other finders to find CuPy."""

    def find_spec(self, name, path=None, target=None):
        if name == "cupy":
            sys.meta_path.remove(self)
            sys.path.append(str(Path(__file__).parents[2]))
            from standin.install import install

            install().present = True


if os.environ.get("GPUNET_TEST_STANDIN") == "1":
    sys.meta_path.insert(0, _BeforeCupy())
