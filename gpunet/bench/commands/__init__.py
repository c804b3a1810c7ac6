"""The commands of ``gpunet bench``, one module for each."""
