"""Marks that several areas share."""

import pytest

from gpunet.backends import why_unavailable
from helpers.backends import GPUS

needs_emulator = pytest.mark.skipif(bool(why_unavailable("emulated")), reason=why_unavailable("emulated"))
"""For what is about the emulated device itself; what any CUDA backend can show takes `cuda_name` or `cuda_backend`."""
needs_cuda = pytest.mark.skipif(bool(not GPUS and why_unavailable("emulated")), reason=why_unavailable("emulated"))
"""For what chooses a CUDA backend by itself."""
