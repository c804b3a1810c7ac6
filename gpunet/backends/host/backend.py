"""`HostBackend`: what both CPU backends start from."""

from __future__ import annotations

from abc import ABC

from gpunet.backends.host.matmul import HostMatmul
from gpunet.backends.host.random import HostRandom


class HostBackend(HostMatmul, HostRandom, ABC):
    """The topics that are the same for both."""
