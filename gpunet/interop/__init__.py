"""Weights and checkpoints as files that other tools can read."""

from gpunet.interop.checkpoints import OpenedCheckpoint, checkpoint_snapshot, open_checkpoint
from gpunet.interop.container import Snapshot
from gpunet.interop.safetensors import (
    load_checkpoint,
    load_weights,
    read_metadata,
    read_origin,
    save_checkpoint,
    save_weights,
)

__all__ = [
    "OpenedCheckpoint", "Snapshot", "checkpoint_snapshot", "load_checkpoint", "load_weights", "open_checkpoint",
    "read_metadata", "read_origin", "save_checkpoint", "save_weights",
]  # fmt: skip
