"""Contenders in the test's own process: faster than one each, and a test can break what they run."""

import json
from time import perf_counter

import pytest

from gpunet.backends import get_backend, why_unavailable
from gpunet.bench import NotMeasuredError, measure
from gpunet.bench.timing import CupyTimer
from gpunet.bench.worker import Worker, answer, make


class Local(Worker):
    """`Worker` without a process; what passes between the sides is JSON all the same."""

    def _start(self):
        self._answers, self._contender = [], None
        self._reply(lambda: {"about": self._made().describe()})

    def _made(self):
        self._contender = make(self.spec)
        return self._contender

    def _reply(self, work):
        try:
            self._answers.append(json.dumps(work()))
        except NotMeasuredError as reason:
            self._answers.append(json.dumps({"not_measured": str(reason)}))

    def _ask(self, method, argument):
        request = json.loads(json.dumps([method, argument]))
        self._reply(lambda: answer(self._contender, request))
        return self._answer()

    def _read(self):
        return self._answers.pop()

    def close(self):
        pass


@pytest.fixture
def local(monkeypatch):
    monkeypatch.setattr(measure, "Worker", Local)


class EmulatedTimer(CupyTimer):
    """A GPU's timer on the emulated device, whose launches are done when they return."""

    rotated = 50_000
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
    """Run a command in this process -> (its record, its table)."""
    from gpunet.bench.cli import main

    def run(*arguments):
        output = tmp_path / "record.json"
        assert main([*map(str, arguments), "--output", str(output)]) == 0
        return json.loads(output.read_text()), output.with_suffix(".md").read_text()

    return run
