"""``gpunet kernels --count-all`` and ``--coverage``: what all kernels do in the cases of the check.

Both run on the emulated device. The first lists the accesses that cost more than their bytes need,
the second writes which source lines ran.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import compress
from pathlib import Path

from gpunet.backends.cuda.backend import CudaBackend
from gpunet.check.cases import all_cases, variant
from gpunet.cuda.emulated import EmulatedLauncher
from gpunet.emulator.arrays import EmulatedArrays
from gpunet.emulator.counts import Access, Profile
from gpunet.emulator.launches import Settings, Work
from gpunet.nvrtc import source
from gpunet.progress import track

ENOUGH = 0.8
"""The share of ideal sectors from which an access to global memory is not listed."""


class _Naming(EmulatedLauncher):
    """Notes the kernels that are launched, and does not run them."""

    def __init__(self) -> None:
        super().__init__(EmulatedArrays(track=False))
        self.names: set[str] = set()

    def execute(self, work: Work) -> None:
        """Note the kernel of a launch."""
        self.names.add(work.kernel)


class _Counting(EmulatedLauncher):
    """Counts the launches of kernels whose name starts so, and adds them up for each instance."""

    def __init__(self, prefix: str):
        super().__init__(EmulatedArrays(track=False))
        self.prefix = prefix
        self.profiles: dict[str, Profile] = {}

    def settings_of(self, kernel: str) -> Settings:
        """Return how a kernel is run: counted if its name starts so."""
        return Settings(count=kernel.startswith(self.prefix))

    def execute(self, work: Work) -> None:
        """Run a launch, and count it if its kernel is one of those."""
        self.settings = self.settings_of(work.kernel)
        super().execute(work)
        profile = self.last.profile if self.last else None
        if profile:
            known = self.profiles.get(work.kernel)
            self.profiles[work.kernel] = known + profile if known else profile


class _Covering(EmulatedLauncher):
    """Counts for each source line the checked launches in which it ran."""

    def __init__(self) -> None:
        super().__init__(EmulatedArrays(track=True), Settings(checked=True))
        self.times: Counter[tuple[str, int]] = Counter()

    def settings_of(self, _: str) -> Settings:
        """Return how every kernel is run: checked."""
        return self.settings

    def execute(self, work: Work) -> None:
        """Run a launch, and note its lines."""
        super().execute(work)
        self.times.update(self.last.lines if self.last else ())


def _launch_all(launcher: _Counting | _Covering, prefix: str = "") -> None:
    """Run every variant of every case that launches a kernel whose name starts so.

    A first pass only finds out which kernels these are. They are compiled side by side, since g++
    takes nearly all of the time.
    """
    runs = [(case, name) for case in all_cases() for name in case.variants]
    naming = _Naming()
    launched = []
    for case, name in runs:
        naming.names = set()
        case.results(variant(CudaBackend(naming.arrays, naming, name="emulated"), name))
        launched.append(naming.names)
    chosen = [any(kernel.startswith(prefix) for kernel in names) for names in launched]

    def compile_one(kernel: str) -> None:
        settings = launcher.settings_of(kernel)
        launcher.program(kernel).compile(kernel, checked=settings.checked, count=settings.count)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        kernels = sorted(set().union(*compress(launched, chosen)))
        list(track(pool.map(compile_one, kernels), "compiling kernels", "kernel", len(kernels)))
    backend = CudaBackend(launcher.arrays, launcher, name="emulated")
    for case, name in track(list(compress(runs, chosen)), "running cases", "case"):
        case.results(variant(backend, name))


# ---- costs


def count_all(prefix: str = "") -> dict[str, Profile]:
    """Return what each instance did in all its launches.

    Args:
        prefix: the beginning of the names of the kernels to count.
    """
    launcher = _Counting(prefix)
    _launch_all(launcher, prefix)
    return launcher.profiles


def is_costly(a: Access) -> bool:
    """Whether an access conflicts, or touches far more sectors than its bytes need.

    One sector more for each request is not listed: an array that does not start at a sector's start
    costs it.
    """
    if a.space == "shared":
        return a.conflicts > 0
    return a.efficiency < ENOUGH and a.sectors - a.ideal_sectors > a.requests


def print_costly(prefix: str = "") -> int:
    """Print the costly accesses of all kernels -> the exit status, 0.

    The loads, or the stores, of one line in the instances of a kernel are one row, with the numbers
    of the instance in which they cost most.
    """
    profiles = count_all(prefix)
    found: dict[tuple[str, ...], list[tuple[str, Access]]] = defaultdict(list)
    for kernel, profile in profiles.items():
        for a in filter(is_costly, profile.accesses):
            found[kernel.partition("<")[0], a.space, a.outermost or a.place, a.kind].append((kernel, a))
    places = [rows for key, rows in sorted(found.items()) if key[1] == "global"]
    shared = [rows for key, rows in sorted(found.items()) if key[1] == "shared"]
    print(f"Global memory: accesses with less than {ENOUGH:.0%} of the ideal sectors")
    print(
        f"  {'kernel':28} {'line':44} {'instruction':19} {'share':>5} {'sectors/request':>15} {'lanes':>5}  instances"
    )
    for rows in places:
        kernel, a = min(rows, key=lambda row: row[1].efficiency)
        cost = f"{a.efficiency:5.0%} {f'{a.sectors / a.requests:.1f} of {a.ideal_sectors / a.requests:.1f}':>15}"
        print(f"  {_start(kernel, a)} {cost} {a.lanes / a.requests:5.1f}  {_instances(rows, kernel)}")
    print("Shared memory: accesses that conflict")
    print(f"  {'kernel':28} {'line':44} {'instruction':19} {'wavefronts/request':>21} {'lanes':>5}  instances")
    for rows in shared:
        kernel, a = max(rows, key=lambda row: row[1].conflicts / row[1].requests)
        cost = f"{f'{a.wavefronts / a.requests:.2f} of {a.ideal_wavefronts / a.requests:.2f}':>21}"
        print(f"  {_start(kernel, a)} {cost} {a.lanes / a.requests:5.1f}  {_instances(rows, kernel)}")
    print(f"{len(profiles)} instances counted, {len(places)} rows of global and {len(shared)} of shared memory")
    return 0


def _start(kernel: str, a: Access) -> str:
    return f"{kernel.partition('<')[0]:28} {a.place:44} {a.instruction:19}"


def _instances(rows: list[tuple[str, Access]], worst: str) -> str:
    arguments = worst.partition("<")[1] + worst.partition("<")[2]
    count = len({kernel for kernel, _ in rows})
    return f"{count}, most {arguments}" if arguments else f"{count}"


# ---- coverage


def write_coverage(path: Path) -> int:
    """Write which lines of the kernels ran, in lcov's format -> the exit status, 0.

    The count of a line is the number of launches in which it ran.
    """
    launcher = _Covering()
    _launch_all(launcher)
    own = (line for line in launcher.lines() if not Path(line[0]).is_absolute())  # not the CUDA toolkit's headers
    lines = {line: launcher.times[line] for line in own}
    path.write_text(lcov(lines, source.kernels_folder()), encoding="utf-8")
    print(f"{path}: {sum(map(bool, lines.values()))} of {len(lines)} lines ran")
    return 0


def lcov(times: Mapping[tuple[str, int], int], folder: Path) -> str:
    """Return a trace file in lcov's format.

    Args:
        times: how often each (file, line) ran.
        folder: where the files lie.
    """
    by_file: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for (file, line), count in sorted(times.items()):
        by_file[file].append((line, count))
    return "".join(_record(folder / file, lines) for file, lines in by_file.items())


def _record(path: Path, lines: Iterable[tuple[int, int]]) -> str:
    known = list(lines)
    data = "".join(f"DA:{line},{count}\n" for line, count in known)
    ran = sum(count > 0 for _, count in known)
    return f"TN:\nSF:{path}\n{data}LF:{len(known)}\nLH:{ran}\nend_of_record\n"
