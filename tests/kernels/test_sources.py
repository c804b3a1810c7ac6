import re
from pathlib import Path

import pytest

from gpunet.nvrtc import source


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Both places that sources are looked for in, empty."""
    places = tmp_path / "package" / "_kernels", tmp_path / "kernels"
    for place in places:
        place.mkdir(parents=True)
    monkeypatch.setattr(source, "candidates", lambda: places)
    source.read.cache_clear()
    yield places
    source.read.cache_clear()


def test_includes_are_inlined_once_and_lines_stay_traceable(folder):
    (folder[1] / "a.cuh").write_text("int a;\n")
    (folder[1] / "b.cuh").write_text('#include "a.cuh"\nint b;\n')
    (folder[1] / "k.cu").write_text('#include "a.cuh"\n  # include "b.cuh"\n#include <cuda/std/cstdint>\nint k;\n')
    text = source.read("k.cu")
    assert text.count("int a;") == text.count("int b;") == 1
    assert "#include <cuda/std/cstdint>" in text
    at = {}
    for line in text.splitlines():
        if directive := re.fullmatch(r'#line (\d+) "(.*)"', line):
            number, file = int(directive[1]), directive[2]
        else:
            at[line] = file, number
            number += 1
    assert at["int a;"] == ("a.cuh", 1)
    assert at["int b;"] == ("b.cuh", 2)
    assert at["int k;"] == ("k.cu", 4)


def test_the_package_comes_before_the_checkout(folder):
    (folder[1] / "k.cu").write_text("// checkout")
    assert source.kernels_folder() == folder[1]
    (folder[0] / "k.cu").write_text("// package")
    assert source.kernels_folder() == folder[0]
    assert source.files() == ["k.cu"]
    assert source.read("k.cu").endswith("// package")


def test_no_sources_names_both_places(folder):
    with pytest.raises(FileNotFoundError) as caught:
        source.kernels_folder()
    assert str(folder[0]) in str(caught.value)
    assert str(folder[1]) in str(caught.value)


def test_inline_ptx_stands_in_one_file():
    kernels = Path(source.kernels_folder())
    assert [
        p.name for p in kernels.glob("*.cu*") if "asm" in p.read_text(encoding="utf-8") and p.name != "ptx.cuh"
    ] == []


INTEGER_COUNTS = {
    "check.cu": "atomicAdd(differing,",
    "conv2d_weight_grad.cu": "atomicAdd(&arrivals[",
    "permutation.cu": "atomicAdd(&ends[",
}
"""Atomics that are allowed: counts are int, and sums of integers do not depend on their order."""


DEVICE_HEADERS = {"cuda_bf16.h", "cuda_fp16.h"}
"""NVIDIA's own, which stand beside the compiler; every other header is the host's."""


def test_no_kernel_uses_float_atomics_or_a_host_header():
    for path in Path(source.kernels_folder()).glob("*.cu*"):
        text = path.read_text(encoding="utf-8")
        text = re.sub(r"//[^\n]*", "", text).replace(INTEGER_COUNTS.get(path.name, "//"), "")
        assert "atomic" not in text, path.name
        assert set(re.findall(r"#include\s*<(.*)>", text)) <= DEVICE_HEADERS, path.name


def test_every_kernel_file_opens_with_what_it_computes():
    for file in source.files():
        text = (source.kernels_folder() / file).read_text(encoding="utf-8")
        lines = [line for line in text.splitlines() if not line.startswith("#include")]
        assert lines[0].startswith("// "), file
        assert any("Bound" in line for line in lines[:30]), file
        assert len(text.splitlines()) <= 400, file
