"""Files that other tools read and write."""

from gpunet.interop.safetensors import (
    load_checkpoint,
    load_weights,
    read_metadata,
    save_checkpoint,
    save_weights,
)

__all__ = ["load_checkpoint", "load_weights", "read_metadata", "save_checkpoint", "save_weights"]
