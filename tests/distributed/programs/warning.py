"""Warns and prints on each rank, and prints on stderr."""

import sys
import warnings

from gpunet.distributed import world

rank = world().rank
warnings.warn("all ranks meet this", UserWarning, stacklevel=1)
print("result")
print("rank", rank, "was here", file=sys.stderr)
