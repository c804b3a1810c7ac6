"""Where arrays live and primitives run: one folder for each side, one file for each topic."""

from gpunet.backends.contract import Backend
from gpunet.backends.registry import available_backends, get_backend, why_unavailable

__all__ = ["Backend", "available_backends", "get_backend", "why_unavailable"]
