"""Marks that several areas share."""

import pytest

from gpunet.backends import why_unavailable

needs_emulator = pytest.mark.skipif(bool(why_unavailable("emulated")), reason=why_unavailable("emulated"))
