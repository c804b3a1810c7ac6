"""Processes that fail: the process that asks says how, in time, and goes on."""

import json
import subprocess
import sys
from time import monotonic

import pytest

from gpunet.bench import ContenderError, NotMeasuredError
from gpunet.bench.contenders import Spec
from gpunet.bench.process import Process
from gpunet.bench.worker import Worker, environment, one_line

GPUNET = Spec("step", "gpunet", "numpy", 1)


def process(code, *arguments, spec=GPUNET):
    return Process([sys.executable, "-c", code, *arguments], environment(spec))


@pytest.mark.parametrize(
    ("code", "how"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "the process ended by SIGKILL"),
        ("import sys; print('{\"half', end='', flush=True); sys.exit(3)", "the process ended with status 3"),
    ],
)
def test_the_end_of_a_process_is_explained(code, how):
    asked = process(code)
    asked.ask("anything")
    with pytest.raises(ContenderError, match=how):
        asked.answer(60)
    asked.end()


def test_a_process_that_hangs_is_given_up_and_killed():
    asked, start = process("import time; time.sleep(600)"), monotonic()
    with pytest.raises(ContenderError, match=r"no answer within 0\.2 s"):
        asked.answer(0.2)
    asked.kill()
    assert monotonic() - start < 60


class Answers:
    """A `Process` that gives these answers."""

    def __init__(self, log, *answers):
        self.log, self.answers = log, list(answers)

    def ask(self, line):
        self.log.append(line)

    def answer(self, timeout):
        self.log.append(timeout)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return json.dumps(answer) + "\n"

    def end(self):
        self.log.append("end")

    def kill(self):
        self.log.append("kill")


@pytest.mark.parametrize("failure", [{"failed": "ValueError: no"}, ContenderError("ValueError: no")])
def test_a_contender_that_failed_has_another_process_for_the_next_case(monkeypatch, failure):
    log, about = [], {"about": {"gpunet": "1"}}
    processes = [Answers(log, about, failure), Answers(log, about, {"losses": [1.0]}, [0.1])]
    monkeypatch.setattr(Worker, "_open", lambda self: processes.pop(0))
    worker = Worker(GPUNET, timeout=7)
    with pytest.raises(ContenderError, match="ValueError: no"):
        worker.prepare({"net": "vgg11"})
    assert log == [7, '["prepare", {"net": "vgg11"}]', 7, "kill"]
    assert worker.prepare({"net": "lenet"}) == {"losses": [1.0]}
    assert worker.time(1) == [0.1]
    worker.close()
    assert log[-1] == "end"


def test_a_contender_that_cannot_be_measured_at_all_is_asked_once(monkeypatch):
    processes = [Answers([], {"not_measured": "finds no GPU"})]
    monkeypatch.setattr(Worker, "_open", lambda self: processes.pop(0))
    worker = Worker(GPUNET)
    for _ in range(2):
        with pytest.raises(NotMeasuredError, match="finds no GPU"):
            worker.prepare({"net": "lenet"})
    assert worker.about is None


def test_an_error_in_a_process_is_one_line_and_the_next_case_is_measured(capfd):
    worker = Worker(GPUNET)
    with pytest.raises(ContenderError, match=r"^KeyError: 'no such net'$"):
        worker.prepare({"net": "no such net", "batch": 4})
    assert "Traceback" in capfd.readouterr().err
    assert len(worker.prepare({"net": "lenet", "batch": 2})["losses"]) == 6
    worker.close()


def test_a_long_message_is_cut():
    assert one_line(ValueError("a\n  b")) == "ValueError: a b"
    assert one_line(MemoryError()) == "MemoryError"
    assert len(one_line(ValueError("word " * 1000))) == 300


SERVING = """
import os, sys
from gpunet.bench import worker
{changes}
worker.main(sys.argv[1])
"""


def test_output_of_a_library_is_not_taken_for_an_answer(capfd):
    changes = """
def serve(spec, requests, reply):
    print("from Python")
    os.system("echo from C")
    reply(next(iter(requests)))
worker.serve = serve"""
    asked = process(SERVING.format(changes=changes), json.dumps(GPUNET))
    asked.ask("question")
    assert json.loads(asked.answer(60)) == "question\n"
    asked.end()
    assert {"from Python", "from C"} <= set(capfd.readouterr().err.splitlines())


def test_a_process_whose_parent_has_ended_stops_in_the_middle_of_its_work():
    changes = """
import time
worker.ORPHAN_SECONDS = 0.1
worker.serve = lambda spec, requests, reply: [(reply(request), time.sleep(600)) for request in requests]"""
    command = [sys.executable, "-c", SERVING.format(changes=changes), json.dumps(GPUNET)]
    orphan = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with orphan.stdin, orphan.stdout:
        orphan.stdin.write("work\n")
        orphan.stdin.flush()
        assert orphan.stdout.readline()  # it is at work
        orphan.stdin.close()
        assert orphan.wait(60) == 1


@pytest.mark.parametrize(("name", "found"), [("gpunet", ["cuda:7", False]), ("torch-eager", ["numpy", True])])
def test_a_rivals_process_cannot_put_gpunet_arrays_on_a_gpu(monkeypatch, name, found):
    spec = GPUNET._replace(name=name)
    monkeypatch.setenv("GPUNET_BACKEND", "cuda:7")
    changes = """
def serve(spec, requests, reply):
    try:
        import cupy
    except ImportError as error:
        without = "None in sys.modules" in str(error)
    else:
        without = False
    reply([os.environ["GPUNET_BACKEND"], without])
sys.modules["cupy"] = worker  # there is one
worker.serve = serve"""
    asked = process(SERVING.format(changes=changes), json.dumps(spec), spec=spec)
    assert json.loads(asked.answer(60)) == found
    asked.end()
