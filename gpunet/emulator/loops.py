"""Finds the loops of a function, so that a count can say in which iteration an instruction ran.

A loop is a set of basic blocks that can reach one another, and its header the block through which
it is entered. Without the header the inner loops are left, each with a header of its own. Each loop
has a counter, which its header raises, and by which it sets those of its inner loops to 0. So the
counters of the loops around an instruction, together, never repeat within one call of the function.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from gpunet.emulator.ptx import Instruction


@dataclass(slots=True)
class Loops:
    """The loops of one function, numbered from 0, outer ones before their inner ones."""

    around: list[tuple[int, ...]]
    """For each instruction the loops around it, from the outermost to the innermost."""
    header: dict[str, int] = field(default_factory=dict)
    """The loop of which a label starts the header."""
    inner: list[list[int]] = field(default_factory=list)
    """For each loop those directly inside it."""


def find_loops(instructions: Sequence[Instruction], tables: Mapping[str, Sequence[str]]) -> Loops:
    """Return the loops of a function.

    Args:
        tables: the labels of each ``.branchtargets``.
    """
    starts = _starts(instructions)
    following = _following(instructions, tables, starts)
    loops = Loops([()] * len(instructions))
    left: list[tuple[set[int], tuple[int, ...]]] = [(set(range(len(starts))), ())]
    while left:
        blocks, outer = left.pop()
        for component in _components(blocks, following):
            first = min(component)
            if len(component) == 1 and first not in following[first]:
                continue
            entered = {b for a in set(range(len(starts))) - component for b in following[a]} & component
            header, number = min(entered or component), len(loops.inner)
            loops.inner.append([])
            if outer:
                loops.inner[outer[-1]].append(number)
            loops.header[instructions[starts[header]].label] = number
            for block in component:
                end = starts[block + 1] if block + 1 < len(starts) else len(instructions)
                loops.around[starts[block] : end] = [(*outer, number)] * (end - starts[block])
            left.append((component - {header}, (*outer, number)))
    return loops


def _starts(instructions: Sequence[Instruction]) -> list[int]:
    """Return where each basic block starts."""
    starts = {0} if instructions else set()
    for at, i in enumerate(instructions):
        if i.label:
            starts.add(at)
        elif i.parts[0] in ("bra", "brx", "ret", "exit") and at + 1 < len(instructions):
            starts.add(at + 1)
    return sorted(starts)


def _following(
    instructions: Sequence[Instruction], tables: Mapping[str, Sequence[str]], starts: Sequence[int]
) -> list[set[int]]:
    """Return for each basic block those that may run after it."""
    of_label = {instructions[at].label: block for block, at in enumerate(starts) if instructions[at].label}
    following = []
    for block, end in enumerate([*starts[1:], len(instructions)]):
        last = instructions[end - 1]
        name = "" if last.label else last.parts[0]
        targets = [last.operands[0]] if name == "bra" else tables[last.operands[1]] if name == "brx" else []
        next_blocks = {of_label[target] for target in targets}
        if (name not in ("bra", "brx", "ret", "exit") or last.guard) and block + 1 < len(starts):
            next_blocks.add(block + 1)
        following.append(next_blocks)
    return following


def _components(blocks: Iterable[int], following: Sequence[set[int]]) -> list[set[int]]:
    """Return the strongly connected components of some blocks, by Tarjan's algorithm."""
    within, found = set(blocks), []
    number: dict[int, int] = {}
    low: dict[int, int] = {}
    stack: list[int] = []
    on_stack: set[int] = set()
    for root in sorted(within):
        if root in number:
            continue
        number[root] = low[root] = len(number)
        stack.append(root)
        on_stack.add(root)
        path = [(root, iter(sorted(following[root] & within)))]
        while path:
            block, rest = path[-1]
            follower = next(rest, None)
            if follower is None:
                path.pop()
                if path:
                    low[path[-1][0]] = min(low[path[-1][0]], low[block])
                if low[block] == number[block]:
                    at = stack.index(block)
                    found.append(set(stack[at:]))
                    on_stack -= set(stack[at:])
                    del stack[at:]
            elif follower not in number:
                number[follower] = low[follower] = len(number)
                stack.append(follower)
                on_stack.add(follower)
                path.append((follower, iter(sorted(following[follower] & within))))
            elif follower in on_stack:
                low[block] = min(low[block], number[follower])
    return found
