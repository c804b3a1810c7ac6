"""The command line ``gpunet``, with one module for each family of commands."""

from gpunet.cli.entry import main

__all__ = ["main"]
