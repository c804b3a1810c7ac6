"""The loops of a function, and what their counters tell apart."""

import numpy as np
import pytest

from gpunet.emulator.loops import find_loops
from gpunet.emulator.ptx import Instruction


def label(name):
    return Instruction(label=name)


def step():
    return Instruction("add.s32", ["a", "a", "1"])


def branch(to, guard="p"):
    return Instruction("bra", [to], guard)


def test_nested_loops_and_what_stands_around():
    body = [step(), label("outer"), step(), label("inner"), step(), branch("inner"), step(), branch("outer"), step()]
    loops = find_loops(body, {})
    assert loops.around == [(), (0,), (0,), (0, 1), (0, 1), (0, 1), (0,), (0,), ()]
    assert loops.header == {"outer": 0, "inner": 1}
    assert loops.inner == [[1], []]


def test_loops_one_after_another_are_apart_and_a_forward_branch_is_none():
    body = [label("a"), branch("a"), branch("end"), label("b"), step(), branch("b"), label("end"), step()]
    loops = find_loops(body, {})
    assert [len(x) for x in loops.around] == [1, 1, 0, 1, 1, 1, 0, 0]
    assert loops.around[0] != loops.around[3]
    assert loops.inner == [[], []]


def test_a_loop_through_a_table_of_branches():
    body = [label("top"), Instruction("brx.idx", ["i", "table"]), label("one"), branch("top", ""), label("two"), step()]
    loops = find_loops(body, {"table": ["one", "two"]})
    assert [len(x) for x in loops.around] == [1, 1, 1, 1, 0, 0]


def next_places(body, at, tables):
    i = body[at]
    name = "" if i.label else i.parts[0]
    targets = {"bra": lambda: [i.operands[0]], "brx": lambda: tables[i.operands[1]]}.get(name, list)()
    found = [next(k for k, other in enumerate(body) if other.label == t) for t in targets]
    if name not in ("bra", "brx", "ret") or i.guard:
        found.append(at + 1)
    return [at for at in found if at < len(body)]


@pytest.mark.parametrize("seed", range(200))
def test_counters_never_repeat_on_any_path(seed):
    """Also in loops that have several entries, which a compiler hardly makes."""
    rng = np.random.default_rng(seed)
    names = [f"L{i}" for i in range(rng.integers(1, 8))]
    body = []
    for name in names:
        body.append(label(name))
        for _ in range(rng.integers(0, 4)):
            kind = rng.integers(0, 4)
            body.append(step() if kind < 2 else branch(str(rng.choice(names)), "p" if rng.integers(0, 4) else ""))
        if not rng.integers(0, 3):
            body.append(Instruction("brx.idx", ["i", "table"]))
    tables = {"table": [str(t) for t in rng.choice(names, 3)]}
    loops = find_loops(body, tables)
    for _ in range(5):
        counters, seen, at = [0] * len(loops.inner), set(), 0
        for _ in range(300):
            loop = loops.header.get(body[at].label)
            if body[at].label and loop is not None:
                counters[loop] += 1
                for inner in loops.inner[loop]:
                    counters[inner] = 0
            here = at, *(counters[n] for n in loops.around[at])
            assert here not in seen
            seen.add(here)
            following = next_places(body, at, tables)
            if not following:
                break
            at = int(rng.choice(following))
