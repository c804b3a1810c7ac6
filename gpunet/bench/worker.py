"""Runs a contender in a process of its own, so that contenders do not share threads or memory.

Requests and answers are JSON, one in each line. The first answer is {"about": …}, which describes
the contender. A request is ["prepare", case] or ["time", repeats], and its answer is what that
method of the `Contender` returns. An answer may be replaced by {"not_measured": why}, or by
{"failed": how}.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from queue import SimpleQueue
from threading import Thread
from time import sleep
from typing import Any

from gpunet.bench import ContenderError, NotMeasuredError, convolutions, operations, primitives, rivals, whole_layers
from gpunet.bench.contenders import Contender, GpunetInference, GpunetStep, Spec
from gpunet.bench.loading import GpunetLoading
from gpunet.bench.process import Process

PROBLEMS = {"conv": convolutions.problem, "layers": whole_layers.problem, "ops": operations.problem}
"""What makes the problems of the kinds that time single primitives or layers."""
RUNS: dict[str, Callable[[Spec], Contender]] = {
    "step": GpunetStep, "inference": GpunetInference, "loading": GpunetLoading,
}  # fmt: skip
"""gpunet's side of the kinds that run whole nets, or load their images."""
TIMEOUT = 600.0
"""Seconds in which an answer must come. Compilers that try many kernels need minutes."""
ORPHAN_SECONDS = 2.0
"""How long a process that is still at work outlives the process that started it."""
REASON_LENGTH = 300
"""The most characters of an error that an answer holds."""


def make(spec: Spec) -> Contender:
    """The contender of a spec.

    Raises:
        NotMeasuredError: it cannot be measured here.
    """
    problem = PROBLEMS.get(spec.kind)
    if spec.name in rivals.RIVALS:
        return rivals.BY_KIND[spec.kind](spec)
    if spec.kind in RUNS:
        return RUNS[spec.kind](spec)
    assert problem is not None
    return (primitives.Copy if spec.name == "copy" else primitives.GpunetPrimitive)(spec, problem)


# ---- the process that asks


class Worker:
    """A contender in a process, which starts when a case is prepared and again after a failure.

    Args:
        spec: says which contender it is.
        timeout: the time limit of each answer, in seconds.
    Attributes:
        about: what the contender says of itself; None before it was asked, and where it cannot be
            measured at all.
    """

    about: dict[str, str] | None = None
    _why = ""
    _process: Process | None = None

    def __init__(self, spec: Spec, timeout: float = TIMEOUT):
        self.spec, self._timeout = spec, timeout

    def prepare(self, case: dict[str, Any]) -> dict[str, Any]:
        """See `Contender.prepare`.

        Raises:
            NotMeasuredError: the contender cannot do this work here.
            ContenderError: it failed or gave no answer in time, and its process has been killed.
        """
        if self._why:
            raise NotMeasuredError(self._why)
        if self._process is None:
            self._begin()
        result: dict[str, Any] = self._ask("prepare", case)
        return result

    def time(self, repeats: int) -> list[float]:
        """See `Contender.time`; raises as `prepare` does."""
        result: list[float] = self._ask("time", repeats)
        return result

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.end()
            self._process = None

    def _begin(self) -> None:
        self._process = self._open()
        try:
            self.about = self._answer()["about"]
        except NotMeasuredError as reason:
            self._why = str(reason)
            raise

    def _open(self) -> Process:
        return Process([sys.executable, "-m", "gpunet.bench.worker", json.dumps(self.spec)], environment(self.spec))

    def _ask(self, method: str, argument: Any) -> Any:
        assert self._process is not None, "prepare comes first"
        self._process.ask(json.dumps([method, argument]))
        return self._answer()

    def _answer(self) -> Any:
        assert self._process is not None
        try:
            answer = json.loads(self._process.answer(self._timeout))
            if isinstance(answer, dict) and "failed" in answer:
                raise ContenderError(answer["failed"])
        except ContenderError:  # the process may hold memory, or its device may go on failing
            self._process.kill()
            self._process = None
            raise
        if isinstance(answer, dict) and "not_measured" in answer:
            raise NotMeasuredError(answer["not_measured"])
        return answer


def environment(spec: Spec) -> dict[str, str]:
    """The environment of a contender's process. In the process of a rival, gpunet's backend "auto"
    is NumPy."""
    threads = str(spec.threads)
    variables = {**os.environ, "GPUNET_NUM_THREADS": threads, "OMP_NUM_THREADS": threads}
    if spec.name in rivals.RIVALS:
        variables["GPUNET_BACKEND"] = "numpy"
    return variables


# ---- the process that answers


def main(text: str) -> None:
    """Make the contender whose spec is `text` (JSON), and answer the requests on standard input."""
    answers = _take_standard_output()
    spec = Spec(*json.loads(text))
    if spec.name in rivals.RIVALS:
        forbid_cupy()
    try:
        serve(spec, _requests(), lambda answer: print(json.dumps(answer), file=answers, flush=True))
    except (KeyboardInterrupt, BrokenPipeError):
        os._exit(1)  # the process that asks is interrupted too, or has ended


def serve(spec: Spec, requests: Iterable[str], reply: Callable[[Any], None]) -> None:
    """Make the contender and describe it, then answer each request."""
    contender: Contender | None = None

    def begin() -> dict[str, Any]:
        nonlocal contender
        contender = make(spec)
        return {"about": contender.describe()}

    reply(outcome(begin))
    if contender is not None:
        for request in requests:
            reply(outcome(partial(answer, contender, json.loads(request))))


def answer(contender: Contender, request: list[Any]) -> Any:
    """What a contender returns for the request ["prepare", case] or ["time", repeats]."""
    method, argument = request
    return contender.prepare(argument) if method == "prepare" else contender.time(argument)


def outcome(work: Callable[[], Any]) -> Any:
    """Do the work -> what it returns, or {"not_measured": why}, or {"failed": how} with a traceback
    on standard error."""
    try:
        return work()
    except NotMeasuredError as reason:
        return {"not_measured": str(reason)}
    except Exception as error:
        traceback.print_exc()
        return {"failed": one_line(error)}


def one_line(error: Exception) -> str:
    """The type of an exception and the beginning of its message."""
    text = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
    return text if len(text) <= REASON_LENGTH else text[: REASON_LENGTH - 1] + "…"


def forbid_cupy() -> None:
    """Make every import of CuPy fail, so that no gpunet array of this process can be on a GPU.

    The process of a rival builds gpunet models to get their weights, and computes in float64, both
    on the host. If gpunet used the GPU as well, its context and its memory would disturb what is
    measured.
    """
    sys.modules["cupy"] = None  # type: ignore[assignment]


def _take_standard_output() -> Any:
    """A file that writes to standard output; everything else that is printed, by C libraries too,
    goes to standard error.

    So nothing that a library prints can be taken for an answer.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return answers


def _requests() -> Iterator[str]:
    """The lines of standard input.

    If standard input ends while a request is being answered, nobody waits for the answer any more.
    Then the process ends after `ORPHAN_SECONDS`, so that it does not disturb what is measured next.
    """
    lines: SimpleQueue[str] = SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            lines.put(line)
        lines.put("")
        sleep(ORPHAN_SECONDS)
        os._exit(1)

    Thread(target=read, daemon=True).start()
    while line := lines.get():
        yield line


if __name__ == "__main__":
    main(sys.argv[1])
