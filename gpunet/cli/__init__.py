"""The command line: ``gpunet train | eval | predict | summary | info | kernels | check | bench``."""

from gpunet.cli.entry import main

__all__ = ["main"]
