"""Operations beside a copy: the bytes that they must move, and that a wrong result is refused."""

import weakref

import numpy as np
import pytest

from gpunet.backends.numpy.backend import NumpyBackend
from gpunet.bench.contenders import Spec
from gpunet.bench.operations import OPS, problem
from gpunet.bench.primitives import Copy, GpunetPrimitive

SMALL = [
    "ops", "--batch", "2", "--channels", "3", "--parameters", "100", "--threads", "2", "--rounds", "1", "--repeats", "1",
]  # fmt: skip
CASE = {"batch": 2, "channels": 3, "parameters": 1000}


@pytest.mark.parametrize("op", OPS)
def test_each_case_runs_on_every_backend(backend, op):
    asked = problem({"op": op, **CASE})
    inputs = {name: backend.copy(backend.asarray(a)) for name, a in asked.inputs.items()}
    outputs = [backend.to_numpy(y) for y in asked.run(backend, inputs)]
    assert asked.error(outputs) < 1e-5


def test_the_bytes_that_an_operation_must_move_are_counted():
    pixels = 2 * 28 * 28 * 3
    expected = {
        "max_pool forward": 4 * pixels + (4 + 1) * pixels // 4,
        "max_pool backward": (4 + 1) * pixels // 4 + 4 * pixels,
        "batch_norm forward": 4 * 3 * pixels,
        "batch_norm backward": 4 * 5 * pixels,
        "softmax_cross_entropy": 2 * 28 * 28 * (2 * 4 * 10 + 4),
        "sgd": 20 * 1000,
        "adam": 28 * 1000,
    }
    assert {op: problem({"op": op, **CASE}).bytes for op in OPS} == expected


def test_each_operation_is_compared_with_a_copy(bench):
    record, text = bench(*SMALL, "--backend", "numpy")
    assert [row["case"]["op"] for row in record["rows"]] == list(OPS)
    for row in record["rows"]:
        assert list(row["times"]) == ["gpunet", "copy"]
        assert row["ratios"]["copy"]["median"] > 0
        assert row["notes"]["copied by"] in ("numpy.copyto, 1 thread", "numpy.copyto, 2 threads")
    assert "| op | batch | channels | parameters | MB | copied by | gpunet, ms | copy, ms | copy / gpunet |" in text


def test_a_wrong_update_is_not_timed_but_its_copy_is(bench, monkeypatch):
    right = NumpyBackend.update

    def wrong(self, rule, arena, segments):
        right(self, rule, arena, segments)
        if arena.data.dtype == np.float32:
            arena.data[-1] += 1

    monkeypatch.setattr(NumpyBackend, "update", wrong)
    record, text = bench(*SMALL, "--ops", "sgd", "--backend", "numpy", status=1)
    (row,) = record["rows"]
    assert row["times"]["gpunet"]["error"].startswith("its result differs from float64 by")
    assert row["times"]["copy"]["median_ms"] > 0
    assert row["ratios"] == {}
    assert "| failed |" in text


@pytest.mark.parametrize("backend_name", ["emulated", "reference"])
def test_other_backends_copy_in_their_own_way(bench, backend_name):
    from gpunet.backends import why_unavailable

    if why_unavailable(backend_name):
        pytest.skip(why_unavailable(backend_name))
    record, _ = bench(*SMALL, "--ops", "adam", "--backend", backend_name)
    by = record["rows"][0]["notes"]["copied by"]
    assert by == "Backend.copy" if backend_name == "emulated" else by.startswith("numpy.copyto")


@pytest.mark.parametrize("op", ["max_pool backward", "batch_norm forward", "sgd", "adam"])
def test_each_case_can_be_captured(device_timer, op):
    contender = GpunetPrimitive(Spec("ops", "gpunet", "emulated", 1), problem)
    contender.timer = device_timer
    contender.prepare({"op": op, **CASE})
    assert min(contender.time(2)) > 0


@pytest.mark.parametrize("kind", [GpunetPrimitive, Copy])
def test_the_last_cases_recordings_are_gone_before_the_next_case_is_made(monkeypatch, device_timer, kind):
    contender = kind(Spec("ops", "gpunet", "emulated", 1), problem)
    contender.timer = device_timer
    case = {"op": "sgd", **CASE}
    contender.prepare(case)
    calls, recorder = weakref.ref(contender._calls), weakref.ref(device_timer._recorder)
    left, uploaded, recorded = [], contender.upload, device_timer._backend.recorder

    def upload(inputs):
        left.append((calls(), recorder()))
        return uploaded(inputs)

    def make_recorder():
        left.append((calls(), recorder()))
        return recorded()

    monkeypatch.setattr(contender, "upload", upload)
    monkeypatch.setattr(device_timer._backend, "recorder", make_recorder)
    contender.prepare(case)
    assert len(left) > 1
    assert set(left) == {(None, None)}
    assert contender.time(1)[0] > 0
