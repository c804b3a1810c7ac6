"""What a counting launch did: what each access cost, and how often each instruction ran."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Access:
    """An instruction that reads or writes global or shared memory, and what its requests cost.

    A request is one execution by a warp. The copies of an instruction that the compiler made of one
    source line, by unrolling a loop for example, are one access.

    Args:
        file, line: the place in the source.
        outermost: the place in the kernel itself, as ``"scale.cu:4"``, from which the function in
            that line is called; empty if the line is the kernel's own.
        instruction: as in ``"ld.global.v4.f32"``.
        space: "global" or "shared".
        kind: "load", "store", "atomic" or "matrix" (ldmatrix and stmatrix).
        bits: the width of a lane's access.
        requests: how many there were.
        lanes: the active lanes of all requests.
        sectors: pieces of 32 bytes of global memory that they touched.
        ideal_sectors: how many the distinct bytes of each request need.
        wavefronts: turns of shared memory that they took, by the rules in counters.cpp.
        ideal_wavefronts: how many each request needs at least.
    """

    file: str
    line: int
    outermost: str
    instruction: str
    space: str
    kind: str
    bits: int
    requests: int = 0
    lanes: int = 0
    sectors: int = 0
    ideal_sectors: int = 0
    wavefronts: int = 0
    ideal_wavefronts: int = 0

    @property
    def efficiency(self) -> float:
        """The ideal number of sectors as a share of those touched; 1 for shared memory."""
        return self.ideal_sectors / self.sectors if self.sectors else 1.0

    @property
    def conflicts(self) -> int:
        """Wavefronts beyond those that the requests need."""
        return self.wavefronts - self.ideal_wavefronts

    @property
    def name(self) -> tuple[Any, ...]:
        """What tells the access from others: everything but the counts."""
        return astuple(self)[:7]

    @property
    def place(self) -> str:
        """The place in the kernel, and behind it that in an inlined function, if it is in one."""
        own = f"{self.file}:{self.line}"
        return f"{self.outermost} > {own}" if self.outermost else own


@dataclass(frozen=True, slots=True)
class Profile:
    """What a launch, or several, did.

    Args:
        accesses: those that ran, in the order of the source.
        instructions: (name, executions by single threads) of each kind of instruction, as
            ``("fma.f32", 1024)``, the most frequent first. One whose predicate is false is not
            executed, unless it is a branch.
        flops: floating-point sums, differences and products that threads computed; a product that
            is added counts as two.
        barriers: barriers that blocks passed.
        blocks, warps: how many ran.
    """

    accesses: tuple[Access, ...]
    instructions: tuple[tuple[str, int], ...]
    flops: int
    barriers: int
    blocks: int
    warps: int

    def __add__(self, other: Profile) -> Profile:
        """Return what two launches of one kernel did together."""
        mix = Counter(dict(self.instructions))
        mix.update(dict(other.instructions))
        return Profile(
            merged([*self.accesses, *other.accesses]), tuple(mix.most_common()), self.flops + other.flops,
            self.barriers + other.barriers, self.blocks + other.blocks, self.warps + other.warps,
        )  # fmt: skip

    def mean_wavefronts(self, kind: str) -> dict[int, float]:
        """Return the mean wavefronts of a request to shared memory, by the bits of its access.

        Args:
            kind: "load", "store", "atomic" or "matrix".
        """
        wavefronts: Counter[int] = Counter()
        requests: Counter[int] = Counter()
        for a in self.accesses:
            if a.space == "shared" and a.kind == kind:
                wavefronts[a.bits] += a.wavefronts
                requests[a.bits] += a.requests
        return {bits: wavefronts[bits] / requests[bits] for bits in sorted(requests)}


def merged(accesses: Iterable[Access]) -> tuple[Access, ...]:
    """Add accesses of the same name, and sort them by their places."""
    sums: dict[tuple[Any, ...], list[int]] = {}
    for a in accesses:
        known = sums.setdefault(a.name, [0] * 6)
        sums[a.name] = [one + more for one, more in zip(known, astuple(a)[7:], strict=True)]
    return tuple(Access(*name, *counts) for name, counts in sorted(sums.items()))


def profile(
    facts: Mapping[str, Any], tallies: Sequence[Sequence[int]], executed: Sequence[int], barriers: int, blocks: int,
    warps: int,
) -> Profile:  # fmt: skip
    """Return the profile of a launch.

    Args:
        facts: what :class:`gpunet.emulator.translate.Kernel` says of the kernel.
        tallies: the six counts of each access.
        executed: how often each of the kernel's counters of instructions was raised.
    """
    noted, sites = facts["noted"], facts["sites"]
    accesses = [
        Access(*sites[site], *rest, *map(int, counts))
        for (site, *rest), counts in zip(noted["accesses"], tallies, strict=True)
        if counts[0]
    ]
    mix: Counter[str] = Counter()
    for kinds, times in zip(noted["mix"], executed, strict=True):
        mix.update({name: count * int(times) for name, count in kinds.items() if times})
    flops = sum(each * int(times) for each, times in zip(noted["flops"], executed, strict=True))
    return Profile(merged(accesses), tuple(mix.most_common()), int(flops), barriers, blocks, warps)


HEADER = (
    f"{'line':44} {'instruction':22} {'requests':>10} {'lanes':>5}  {'sectors':>10} {'ideal':>10} {'%':>4}  "
    f"{'wavefronts':>10} {'ideal':>10} {'conflicts':>9}"
)  # fmt: skip


def row(a: Access) -> str:
    """Return an access as a row of the table under `HEADER`; `lanes` are the mean of a request."""
    start = f"{a.place:44} {a.instruction:22} {a.requests:10,} {a.lanes / a.requests:5.1f}  "
    if a.space == "global":
        return start + f"{a.sectors:10,} {a.ideal_sectors:10,} {a.efficiency:4.0%}"
    return start + f"{'':10} {'':10} {'':4}  {a.wavefronts:10,} {a.ideal_wavefronts:10,} {a.conflicts:9,}"


def _means(p: Profile) -> str:
    """Return the mean wavefronts of a request by kind and bits, as in ``"; loads 128=2 32=1"``."""
    kinds = {kind: p.mean_wavefronts(kind) for kind in ("load", "store", "atomic", "matrix")}
    return "".join(
        f"; {kind}s {' '.join(f'{bits}={mean:.3g}' for bits, mean in means.items())}"
        for kind, means in kinds.items()
        if means
    )


def describe(p: Profile) -> list[str]:
    """Return the lines of a table of a profile."""
    places = [a for a in p.accesses if a.space == "global"]
    shared = [a for a in p.accesses if a.space == "shared"]
    touched, ideal = sum(a.sectors for a in places), sum(a.ideal_sectors for a in places)
    wavefronts, conflicts = sum(a.wavefronts for a in shared), sum(a.conflicts for a in shared)
    total = sum(times for _, times in p.instructions)
    mix = ", ".join(f"{name} {times:,}" for name, times in p.instructions[:12])
    return [
        HEADER,
        *map(row, p.accesses),
        f"global memory: {touched:,} sectors of 32 bytes, ideal {ideal:,}"
        + (f" ({ideal / touched:.0%})" if touched else ""),
        f"shared memory: {wavefronts:,} wavefronts, {conflicts:,} of them conflicts{_means(p)}",
        f"{p.flops:,} floating-point operations; {p.blocks:,} blocks, {p.warps:,} warps, {p.barriers:,} barriers",
        f"{total:,} instructions of threads: {mix}{', …' if len(p.instructions) > 12 else ''}",
    ]
