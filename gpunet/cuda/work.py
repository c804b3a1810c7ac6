"""`Work`: what the host knows of a launch beside its arguments."""

from typing import NamedTuple


class Work(NamedTuple):
    """The arithmetic of a launch, which a recording notes and a prediction needs."""

    flops: int = 0
    """Floating-point operations of matrix products and convolutions; a multiply-add counts as two."""
    turns: int = 0
    """Turns of the main loop in the block that makes most of them; 0 if the launch has no tiles."""
    splits: int = 1
    """Parts into which the reduction is split, which the launch adds up at its end."""


NO_PRODUCT = Work()
"""The work of a launch that computes no product."""
