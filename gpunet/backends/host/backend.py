"""`HostBackend`: what both CPU backends start from."""

from __future__ import annotations

from abc import ABC

from gpunet.backends.host.augment import HostAugment
from gpunet.backends.host.matmul import HostMatmul
from gpunet.backends.host.random import HostRandom
from gpunet.backends.host.update import HostUpdate


class HostBackend(HostMatmul, HostRandom, HostAugment, HostUpdate, ABC):
    """The topics that are the same for both."""
