"""Several processes that train one model together, each of them a rank; `world` says who they are."""

from gpunet.distributed.launch import world
from gpunet.distributed.ranks import Alone, Ranks, checksum, excerpt, expect_alike
from gpunet.distributed.share import Share, computing, is_single_row, is_stand_in, share_bounds, share_of

__all__ = [
    "Alone", "Ranks", "Share", "checksum", "computing", "excerpt", "expect_alike", "is_single_row", "is_stand_in",
    "share_bounds", "share_of", "world",
]  # fmt: skip
