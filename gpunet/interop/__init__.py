"""Weights and checkpoints as files that other tools can read."""

from gpunet.interop.safetensors import (
    load_checkpoint,
    load_weights,
    read_metadata,
    save_checkpoint,
    save_weights,
)

__all__ = ["load_checkpoint", "load_weights", "read_metadata", "save_checkpoint", "save_weights"]
