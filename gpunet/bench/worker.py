"""A contender in a process of its own, so that neither's threads or memory disturb the other: commands in, JSON out.

Each line of standard input is a number of steps; each line of standard output is JSON, first {"losses", "about"}, of the first
steps, then the list of the steps' seconds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

LOSSES = 5
"""Steps whose losses are compared before anything is timed."""


class Worker:
    """The side that asks."""

    def __init__(self, name: str, net: str, batch: int, backend: str, threads: int):
        environment = {**os.environ, "GPUNET_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
        command = [sys.executable, "-m", "gpunet.bench.worker", name, net, str(batch), backend, str(threads)]
        self.name = name
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        first = self._read()
        self.losses: list[float] = first["losses"]
        self.about: dict[str, str] = first["about"]

    def run(self, steps: int) -> list[float]:
        """Seconds of each step."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"bench: the {self.name} process ended with status {self._process.wait()}")
        return json.loads(line)


def main(arguments: list[str]) -> None:
    """The side that answers."""
    from gpunet.bench.contenders import make, timed_steps

    name, net, batch, backend, threads = arguments
    contender = make(name, net, int(batch), backend, int(threads))
    losses = [contender.step() for _ in range(LOSSES)]
    print(json.dumps({"losses": losses, "about": contender.describe()}), flush=True)
    for line in sys.stdin:
        print(json.dumps(timed_steps(contender, int(line))), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
