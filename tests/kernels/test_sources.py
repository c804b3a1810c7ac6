import re
from pathlib import Path

import pytest

from gpunet.augmentation import BORDERS, FLIPS
from gpunet.backends.contract import ACTIVATIONS, BINARY, COMPARISONS, INPUT_ACTIVATIONS, LINES, UNARY
from gpunet.cuda.naming import ELEMENTS
from gpunet.cuda.tile_lists import mma_tiles
from gpunet.nvrtc import source
from gpunet.random import PURPOSES


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The two folders in which sources are looked for, both empty."""
    places = tmp_path / "package" / "_kernels", tmp_path / "kernels"
    for place in places:
        place.mkdir(parents=True)
    monkeypatch.setattr(source, "candidates", lambda: places)
    for cached in (source.read, source.constant):
        cached.cache_clear()
    yield places
    for cached in (source.read, source.constant):
        cached.cache_clear()


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


CONSTANTS = """
#define TILE 16
#define NOTED 3  // gpunet.random.PURPOSES
constexpr int LIMIT = 1024;  // of a block
#define RATE 2.0f
#define MASK 0xffu
#define HALF (TILE / 2)
#define EACH(i) 4
// #define COMMENTED 5
    constexpr int LOCAL = 6;
constexpr int CHOSEN = TILE ? 4 : 1;
"""


def test_the_constants_of_a_source_are_its_decimal_integers():
    assert source.parse_constants(CONSTANTS) == {"TILE": 16, "NOTED": 3, "LIMIT": 1024}


def test_a_constant_is_read_from_a_file_and_its_headers(folder):
    (folder[1] / "tile.cuh").write_text("#define TILE 16\n")
    (folder[1] / "k.cu").write_text('#include "tile.cuh"\nconstexpr int LIMIT = 7;\n')
    (folder[1] / "empty.cu").write_text("// nothing\n")
    assert source.constant("k.cu", "TILE") == source.constant("tile.cuh", "TILE") == 16
    assert source.constant("k.cu", "LIMIT") == 7
    with pytest.raises(ValueError, match=r"^k\.cu defines no number BLOCK; it defines TILE, LIMIT$"):
        source.constant("k.cu", "BLOCK")
    with pytest.raises(ValueError, match=r"^empty\.cu defines no number TILE; it defines none$"):
        source.constant("empty.cu", "TILE")
    with pytest.raises(FileNotFoundError, match=r"absent\.cu"):
        source.constant("absent.cu", "TILE")


ENUMERATIONS = {
    ("elementwise.cu", ""): (*enumerate(UNARY), *enumerate(BINARY), *enumerate(COMPARISONS)),
    ("common.cuh", "ACTIVATION_"): [(i, name) for i, name in enumerate(ACTIVATIONS, 1) if name not in LINES],
    ("input_activation.cu", "INPUT_ACTIVATION_"): enumerate(INPUT_ACTIVATIONS),
    ("gather_augment.cu", ""): [
        (BORDERS.index("reflect"), "reflect"), (FLIPS.index("alternate"), "alternate"), (PURPOSES["augment"], "augment")
    ],
}  # fmt: skip
"""(number, word) of choices that the host passes as numbers, by file and prefix of the kernels'
names."""


@pytest.mark.parametrize(("file", "prefix"), ENUMERATIONS)
def test_the_host_counts_choices_as_the_kernels_do(file, prefix):
    for number, word in ENUMERATIONS[file, prefix]:
        assert source.constant(file, prefix + word.upper()) == number, word


def test_a_kernel_with_other_threads_than_the_hosts_names_them():
    """Launch bounds are THREADS, another constant that the host reads or, on tensor cores, what follows from the tile."""
    warp = source.constant("common.cuh", "WARP")
    for path in Path(source.kernels_folder()).glob("*.cu"):
        for bound in re.findall(r"__launch_bounds__\((\w+)", path.read_text(encoding="utf-8")):
            assert bound == "block_of" or source.constant(path.name, bound) % warp == 0
    tiles = {
        tile
        for element in ELEMENTS.values()
        for terms in (1, 3)
        for tile in mma_tiles("conv2d_forward", element, terms)
    }
    assert {tile.threads for tile in tiles} == {4 * warp, 8 * warp}


def test_inline_ptx_stands_in_one_file():
    kernels = Path(source.kernels_folder())
    assert [
        p.name for p in kernels.glob("*.cu*") if "asm" in p.read_text(encoding="utf-8") and p.name != "ptx.cuh"
    ] == []


INTEGER_COUNTS = {
    "arrivals.cuh": "atomicAdd(counter,",
    "check.cu": "atomicAdd(differing,",
    "slots.cuh": "atomicAdd(counter,",
    "conv2d_weight_grad.cu": "atomicAdd(&arrivals[",
    "permutation.cu": "atomicAdd(&ends[",
}
"""The atomics that are allowed: they count, and a sum of integers does not depend on its order."""


DEVICE_HEADERS = {"cuda_bf16.h", "cuda_fp16.h"}
"""NVIDIA's own headers; every other one would be the host's."""


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
        bound = any("Bound" in line for line in lines[:30])
        assert bound, f"{file}: the opening comment has no line 'Bound: …', which says what limits the speed"
        assert len(text.splitlines()) <= 400, file
