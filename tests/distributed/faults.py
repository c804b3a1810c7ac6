"""Kills and stops ranks at random moments, and lets the run go on, until it has ended.

    python tests/distributed/faults.py 100 7 4     # at least 100 faults on 4 ranks, drawn from seed 7

A run must end by itself soon after a fault, leave a checkpoint that is whole and not older than the
one before, and end with the weights of a run without faults.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from helpers.ranks import MPIRUN, PROGRAMS

from gpunet.interop import read_metadata
from gpunet.interop.checkpoints import open_checkpoint

SLOWEST = 30.0
"""Seconds within which all ranks must have ended after a fault."""


class Faulty:
    """A run on some ranks that is disturbed again and again.

    Attributes:
        faults: (signal, seconds until all ranks had ended), of each fault.
    """

    def __init__(self, folder, ranks, epochs, drawn):
        self.folder, self.ranks, self.epochs, self.drawn = folder, ranks, epochs, drawn
        self.faults, self.places = [], [(0, 0)]
        folder.mkdir()

    def launch(self):
        command = [MPIRUN, "-n", str(self.ranks), sys.executable, str(PROGRAMS / "endings.py"), "resumed"]
        return subprocess.Popen(
            [*command, str(self.folder), str(self.epochs)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "GPUNET_NUM_THREADS": "1"},
        )

    def disturb(self, number, delay):
        """Launch the run, and send a signal to one rank after `delay` seconds -> whether that came in time."""
        running = self.launch()
        try:
            running.wait(delay)
        except subprocess.TimeoutExpired:
            pass
        else:
            assert running.returncode == 0
            return False
        victims = processes(self.folder)
        assert len(victims) in (0, self.ranks), victims  # none of them yet
        if victims:
            os.kill(self.drawn.choice(victims), number)
            began = time.monotonic()
            running.wait(SLOWEST)
            self.faults.append((signal.Signals(number).name, time.monotonic() - began))
            assert running.returncode != 0
            assert not processes(self.folder)
            self.check()
        else:
            running.kill()
            running.wait()
        return True

    def check(self):
        """The newest checkpoint is whole, and not older than that of the fault before."""
        path = self.folder / "last.safetensors"
        if path.exists():
            open_checkpoint(path)  # which reads and checks all of it
            training = read_metadata(path)["training"]
            self.places.append((training["epoch"], (training["running"] or {"taken": 0})["taken"]))
        assert self.places[-1] >= self.places[-2:][0], self.places

    def finish(self):
        """Let the run end -> the sums over the weights that its ranks report."""
        assert self.launch().wait(120) == 0
        return [json.loads((self.folder / f"{rank}.json").read_text())["sum"] for rank in range(self.ranks)]


def processes(folder):
    """The ranks of a run: processes of endings.py with this folder."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
        except OSError:
            continue
        if str(folder).encode() in words and b"-n" not in words and b"endings.py" in b" ".join(words):
            found.append(int(entry.name))
    return [each for each in found if is_rank(each)]


def is_rank(number):
    try:
        return b"PMI_RANK=" in Path(f"/proc/{number}/environ").read_bytes()
    except OSError:
        return False


def campaign(root, count, seed, ranks=2, epochs=300, stops=0.3, longest=2.5):
    """At least `count` faults in as many runs as that takes -> all of them."""
    drawn, faults = random.Random(seed), []
    whole = Faulty(root / "whole", ranks, epochs, drawn).finish()
    assert len(set(whole)) == 1
    while len(faults) < count:
        run = Faulty(root / f"faulty-{len(faults)}", ranks, epochs, drawn)
        number = signal.SIGKILL
        while run.disturb(number, drawn.uniform(0.2, longest)) and len(faults) + len(run.faults) < count:
            number = signal.SIGSTOP if drawn.random() < stops else signal.SIGKILL
        assert run.finish() == whole
        faults += run.faults
        print(f"{len(faults)} faults, last at {run.places[-1]}", flush=True)
    return faults


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        found = campaign(Path(folder), *map(int, sys.argv[1:]))
        for kind in ("SIGKILL", "SIGSTOP"):
            seconds = [s for name, s in found if name == kind]
            print(f"{kind}: {len(seconds)} faults, all ranks ended after at most {max(seconds, default=0):.1f} s")
