"""A contender in a process of its own, so that neither's threads or memory disturb the other: JSON in, JSON out, line by line.

The first answer is {"about"}, and to each request, ["prepare", case] or ["time", repeats], what that method of a `Contender`
gives. {"not_measured"} in place of an answer says why there is none.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from gpunet.bench import NotMeasuredError, convolutions, operations, primitives, rivals, whole_layers
from gpunet.bench.contenders import Contender, GpunetStep, Spec

PROBLEMS = {"conv": convolutions.problem, "layers": whole_layers.problem, "ops": operations.problem}
"""Kinds that time single primitives, or layers."""


def make(spec: Spec) -> Contender:
    """The contender of a spec.

    Raises:
        NotMeasuredError: it cannot be measured here.
    """
    problem = PROBLEMS.get(spec.kind)
    if spec.name in rivals.RIVALS:
        return rivals.BY_KIND[spec.kind](spec)
    if problem is None:
        return GpunetStep(spec)
    return (primitives.Copy if spec.name == "copy" else primitives.GpunetPrimitive)(spec, problem)


class Worker:
    """The side that asks.

    Args:
        spec: the contender.
    Attributes:
        about: what it says of itself; None where it cannot be measured at all.
        why: then, why not.
    """

    about: dict[str, str] | None = None
    why = ""

    def __init__(self, spec: Spec):
        self.spec = spec
        self._start()
        try:
            self.about = self._answer()["about"]
        except NotMeasuredError as reason:
            self.why = str(reason)

    def prepare(self, case: dict[str, Any]) -> dict[str, Any]:
        """See `Contender.prepare`."""
        if self.about is None:
            raise NotMeasuredError(self.why)
        result: dict[str, Any] = self._ask("prepare", case)
        return result

    def time(self, repeats: int) -> list[float]:
        """See `Contender.time`."""
        result: list[float] = self._ask("time", repeats)
        return result

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def _start(self) -> None:
        threads = str(self.spec.threads)
        environment = {**os.environ, "GPUNET_NUM_THREADS": threads, "OMP_NUM_THREADS": threads}
        command = [sys.executable, "-m", "gpunet.bench.worker", json.dumps(self.spec)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def _ask(self, method: str, argument: Any) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([method, argument]) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        answer = json.loads(self._read())
        if isinstance(answer, dict) and "not_measured" in answer:
            raise NotMeasuredError(answer["not_measured"])
        return answer

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"bench: the {self.spec.name} process ended with status {self._process.wait()}")
        return line


def answer(contender: Contender, request: list[Any]) -> Any:
    """What a contender gives to ["prepare", case] or ["time", repeats]."""
    method, argument = request
    return contender.prepare(argument) if method == "prepare" else contender.time(argument)


def main(spec: str) -> None:
    """The side that answers."""
    replies, sys.stdout = sys.stdout, sys.stderr  # what a library prints is no answer

    def reply(value: Any) -> None:
        print(json.dumps(value), file=replies, flush=True)

    try:
        contender = make(Spec(*json.loads(spec)))
        reply({"about": contender.describe()})
    except NotMeasuredError as reason:
        reply({"not_measured": str(reason)})
        return
    for line in sys.stdin:
        try:
            reply(answer(contender, json.loads(line)))
        except NotMeasuredError as reason:
            reply({"not_measured": str(reason)})


if __name__ == "__main__":
    main(sys.argv[1])
