"""`HostBackend`: what both CPU backends start from."""

from __future__ import annotations

from gpunet.backends.host.matmul import HostMatmul
from gpunet.backends.host.random import HostRandom


class HostBackend(HostMatmul, HostRandom):
    """The topics that are the same for both."""
