"""The file of the emulated device's results: they come back bit for bit, and other files are refused."""

import numpy as np
import pytest
from helpers import needs_emulator

from gpunet.backends import get_backend
from gpunet.check import reference
from gpunet.check.cases import arrays, training, variant
from gpunet.check.compare import same_bits

pytestmark = needs_emulator


@pytest.fixture
def few(monkeypatch):
    """A few cases stand for all: they have every dtype, integers included."""

    def cases():
        return [*arrays.cases("bfloat16"), *arrays.cases("float16"), *list(training.cases("float32"))[:6]]

    monkeypatch.setattr(reference, "all_cases", cases)
    return cases


@pytest.fixture
def file(few, tmp_path):
    path = tmp_path / "new" / "reference.npz"
    assert reference.write(path)["cases"] == len(few())
    return path


def test_inputs_and_results_come_back_bit_for_bit(few, file):
    backend, cases = get_backend("emulated"), few()
    for (case, expected), made in zip(reference.cases_of(file), cases, strict=True):
        assert case.key == made.key
        assert {name: a.tobytes() for name, a in case.inputs.items()} == {
            n: a.tobytes() for n, a in made.inputs.items()
        }
        assert list(expected) == list(case.variants)
        for name, results in expected.items():
            got = case.results(variant(backend, name))
            assert [a.dtype for a in got] == [a.dtype for a in results]
            assert same_bits(got, results)


def test_inputs_are_read_from_the_file_and_not_drawn_again(few, file, monkeypatch):
    drawn = few()
    for case in drawn:
        for a in case.inputs.values():
            a[...] = 0
    monkeypatch.setattr(reference, "all_cases", lambda: drawn)
    assert any(a.any() for case, _ in reference.cases_of(file) for a in case.inputs.values())


def test_a_file_of_other_kernels_is_refused(few, file, monkeypatch):
    monkeypatch.setattr(reference, "kernels_digest", lambda: "another")
    with pytest.raises(ValueError, match=r"reference\.npz was written by a gpunet with other kernels: write it again"):
        next(reference.cases_of(file))


def test_a_file_of_other_cases_is_refused(few, file, monkeypatch):
    monkeypatch.setattr(reference, "all_cases", lambda: list(arrays.cases("float32")))
    with pytest.raises(ValueError, match=r"other cases: it has no unary negative \[float32\]"):
        next(reference.cases_of(file))


def test_a_file_that_is_no_reference_is_refused(file, tmp_path):
    some, array, whole = tmp_path / "some.npz", tmp_path / "some.npy", file.read_bytes()
    np.savez(some, a=np.ones(3))
    np.save(array, np.ones(3))
    for path, content in (
        (some, None),
        (array, None),
        (some, b"no archive"),
        (some, b""),
        (some, whole[: len(whole) // 2]),
    ):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(
            ValueError, match=r"some\.np. was not written by gpunet check --write-reference, or not to its end"
        ):
            reference.check(path)
        with pytest.raises(ValueError, match="was not written by gpunet check"):
            next(reference.cases_of(path))
    reference.check(file)
