"""Marks that several areas share."""

import pytest

from gpunet.backends import why_unavailable
from helpers.backends import CUDA

needs_emulator = pytest.mark.skipif(bool(why_unavailable("emulated")), reason=why_unavailable("emulated"))
"""For what is about the emulated device itself; what any CUDA backend can show takes the fixture `cuda_name` or `cuda_backend`."""
needs_cuda = pytest.mark.skipif(all(map(why_unavailable, CUDA)), reason=why_unavailable("emulated"))
"""For what chooses a CUDA backend by itself."""
