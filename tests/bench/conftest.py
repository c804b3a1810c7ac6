"""Contenders in the test's own process, which is faster, and in which a test can break what they run."""

import json
from time import perf_counter

import pytest

from gpunet.backends import get_backend, why_unavailable
from gpunet.bench.timing import CupyTimer
from gpunet.bench.worker import Worker, answer, make, outcome


class Local:
    """A `Process` that runs in this process; requests and answers are JSON all the same."""

    def __init__(self, spec):
        self._answers, self._contender = [], None
        self._reply(lambda: {"about": self._made(spec).describe()})

    def _made(self, spec):
        self._contender = make(spec)
        return self._contender

    def _reply(self, work):
        self._answers.append(json.dumps(outcome(work)))

    def ask(self, line):
        self._reply(lambda: answer(self._contender, json.loads(line)))

    def answer(self, timeout):
        return self._answers.pop()

    def end(self):
        pass

    def kill(self):
        pass


@pytest.fixture
def local(monkeypatch):
    monkeypatch.setattr(Worker, "_open", lambda self: Local(self.spec))


class EmulatedTimer(CupyTimer):
    """A GPU's timer on the emulated device, whose launches are done when they return."""

    rotated_bytes = 50_000
    steady_seconds = settling_seconds = turn_seconds = 0.0  # there is no clock that rises

    def record(self):
        return perf_counter()

    def milliseconds(self, first, second):
        return 1e3 * (second - first)


@pytest.fixture
def device_timer():
    why = why_unavailable("emulated")
    if why:
        pytest.skip(why)
    return EmulatedTimer(get_backend("emulated"))


@pytest.fixture
def bench(local, tmp_path):
    """Run a command in this process, which ends with `status` -> (its record, its table)."""
    from gpunet.bench.cli import main

    def run(*arguments, status=0):
        output = tmp_path / "record.json"
        assert main([*map(str, arguments), "--output", str(output)]) == status
        return json.loads(output.read_text()), output.with_suffix(".md").read_text()

    return run
