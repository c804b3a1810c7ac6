"""Follows a main loop's branches: which of its instructions one turn issues."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf

from gpunet.cuda.prediction.machine_code import Instruction


def taken_path(loop: Sequence[Instruction], is_skipped: Callable[[Instruction], bool]) -> tuple[Instruction, ...]:
    """Return the instructions of one turn, from the loop's first to its last.

    Of all ways through the branches of the loop, it is the longest, where an instruction that is
    known to be skipped counts -1: a thread whose elements all exist takes the branches that do
    something. The compiler merges and moves code, so that some of what is issued seems to be skipped.
    An inner loop counts as one turn.

    Args:
        is_skipped: says whether an instruction's source is not executed, as far as that is known.
    """
    ends = len(loop) - 1
    length: list[float] = [-inf] * ends + [0]  # of the way from each instruction to the end
    following = [ends] * len(loop)
    for at in range(ends - 1, -1, -1):
        after = [*loop[at].jumps, *([at + 1] if loop[at].falls else [])]
        following[at] = max(after, key=lambda to: length[to], default=ends)
        if after:
            length[at] = length[following[at]] + (-1 if is_skipped(loop[at]) else 1)
    path, at = [loop[0]], 0
    while at < ends:
        at = following[at]
        path.append(loop[at])
    return tuple(path)
