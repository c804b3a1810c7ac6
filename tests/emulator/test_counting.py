"""What counting launches count, on kernels whose numbers are known by hand."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from machine_runs import SCHEDULES

from gpunet.backends.contract import Activation
from gpunet.backends.cuda.backend import emulated_backend
from gpunet.emulator import Empty, run, why_unavailable
from gpunet.emulator.counts import describe
from gpunet.emulator.launches import Settings
from gpunet.emulator.ptx import parse
from gpunet.emulator.translate import translate
from gpunet.nvrtc.compiler import to_ptx

pytestmark = pytest.mark.skipif(bool(why_unavailable()), reason=why_unavailable())

FOLDER = Path(__file__).parent / "counting"
LANES = np.arange(32)
RELU = Activation("relu")


def profile(kernel, *args, grid=1, block=32, file="requests.cu", **options):
    return run(FOLDER / file, kernel, grid, block, args, count=True, **options).counts.profile


def access(of, instruction, space="global"):
    """The only access whose instruction starts so."""
    (found,) = [a for a in of.accesses if a.instruction.startswith(instruction) and a.space == space]
    return found


def sectors(of, instruction):
    a = access(of, instruction)
    return a.requests, a.sectors, a.ideal_sectors


def zeros(*shape, dtype="float32"):
    return np.zeros(shape, dtype)


# ---- global memory


@pytest.mark.parametrize(
    ("step", "offset", "touched", "ideal"),
    [(1, 0, 4, 4), (2, 0, 8, 4), (32, 0, 32, 4), (0, 0, 1, 1), (1, 1, 5, 4), (1, 8, 4, 4), (-1, 127, 4, 4)],
    ids=["stride 1", "stride 2", "stride 32", "broadcast", "misaligned", "aligned", "backward"],
)
def test_sectors_of_strides(step, offset, touched, ideal):
    of = profile("copy", zeros(4096), Empty((128,)), step, offset, grid=2, block=64)
    assert sectors(of, "ld.global") == (4, 4 * touched, 4 * ideal)
    assert sectors(of, "st.global") == (4, 16, 16)
    assert access(of, "ld.global").efficiency == ideal / touched
    assert (of.blocks, of.warps) == (2, 4)


def test_rows_of_128_bits_need_16_sectors():
    of = profile("copy_fours", zeros(32, 4), Empty((32, 4)))
    assert sectors(of, "ld.global.v4") == sectors(of, "st.global.v4") == (1, 16, 16)
    assert access(of, "ld.global.v4").bits == 128


def test_a_warp_that_is_not_full_needs_less():
    of = profile("copy", zeros(64), Empty((48,)), 1, 0, block=48)
    assert sectors(of, "ld.global") == (2, 6, 6)
    assert access(of, "ld.global").lanes == 48


def test_a_branch_of_half_the_lanes_is_one_request_of_16_lanes():
    of = profile("odd_lanes", zeros(32), Empty((32,)))
    load = access(of, "ld.global")
    assert (load.requests, load.lanes, load.sectors, load.ideal_sectors) == (1, 16, 4, 2)
    assert access(of, "st.global").lanes == 32


def test_what_a_branch_skips_is_not_executed():
    mix = dict(profile("copy_some", zeros(32), Empty((32,)), 20).instructions)
    assert (mix["ld.global"], mix["st.global"], mix["bra"], mix["ret"]) == (20, 20, 32, 32)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: f"{s.kind}{s.seed}")
@pytest.mark.parametrize("checked", [False, True])
def test_lanes_of_one_turn_of_a_loop_are_one_request(schedule, checked):
    of = profile("trips", zeros(12, 32), Empty((32,)), schedule=schedule, checked=checked)
    inner, outer = sorted((a for a in of.accesses if a.kind == "load"), key=lambda a: a.line)
    assert (inner.requests, inner.lanes) == (12, 3 * 8 * (1 + 2 + 3 + 4))
    assert (outer.requests, outer.lanes) == (3, 96)
    of = profile("leaves", zeros(12, 32), np.int32(LANES % 5), Empty((32,)), schedule=schedule, checked=checked)
    taken = [[i for i in range(12) if i % (lane % 2 + 1) == 0] for lane in LANES]
    taken = [turns[: turns.index(lane % 5)] if lane % 5 in turns else turns for lane, turns in enumerate(taken)]
    load = max((a for a in of.accesses if a.instruction.endswith("f32") and a.kind == "load"), key=lambda a: a.line)
    assert load.requests == len({i for turns in taken for i in turns})
    assert load.lanes == sum(map(len, taken))


def test_a_called_function_is_counted_for_each_call():
    of = profile("calls", zeros(8), Empty((32,)))
    load = access(of, "ld")
    assert (load.requests, load.lanes) == (5 + 3, 16 * (5 + 2 + 1 + 3))
    assert load.sectors == load.ideal_sectors == 8


@pytest.mark.parametrize("spread", [0, 7], ids=["equal", "unequal"])
def test_requests_of_long_loops_are_put_together(spread):
    turns = np.int32(100_000 - LANES % 4 * spread)
    of = profile("long_loop", zeros(64), Empty((32,)), turns, checked=False)
    load = access(of, "ld.global.nc.f32")
    assert (load.requests, load.lanes, load.sectors) == (100_000, turns.sum(), 400_000 if not spread else load.sectors)


def test_turns_that_take_different_branches_of_a_table_are_apart():
    of = profile("switches", zeros(8, 32), np.int32(np.add.outer(np.arange(8), LANES) % 8), Empty((32,)))
    loads = [a for a in of.accesses if a.kind == "load" and a.line > min(b.line for b in of.accesses)]
    assert {(a.requests, a.lanes) for a in loads} == {(8, 32)}
    assert len(loads) == 8


MEMORY = """
import resource, sys
import numpy as np
from gpunet.emulator import Empty, run
def grown(turns):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    args = [np.zeros(64, "f4"), Empty((32,)), np.full(32, turns, "i4")]
    run(sys.argv[1], "long_loop", 1, 32, args, count=True, checked=False)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
grown(10)
print(grown(400_000))
"""


def test_memory_is_bounded_however_long_a_loop_is():
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, FOLDER / "requests.cu"], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 32 * 1024, f"{done.stdout} KiB for 400,000 requests"


def test_atomics_count_once_for_each_request():
    of = profile("tell", zeros(1, dtype="int32"), Empty((32,), "int32"))
    total = access(of, "atom" if any(a.instruction.startswith("atom.global") for a in of.accesses) else "red")
    assert (total.kind, total.requests, total.sectors, total.ideal_sectors) == ("atomic", 1, 1, 1)
    own = [a for a in of.accesses if a.space == "shared" and a.kind == "atomic"]
    assert [(a.requests, a.wavefronts, a.ideal_wavefronts) for a in own] == [(1, 1, 1)]


def test_asynchronous_copies_count_on_both_sides():
    of = profile("copy_asynchronously", zeros(32, 4), Empty((32, 4)), 16)
    assert sectors(of, "cp.async") == (1, 16, 16)
    stored = access(of, "cp.async", "shared")
    assert (stored.kind, stored.bits, stored.wavefronts, stored.ideal_wavefronts) == ("store", 128, 4, 4)
    for bytes_, touched, lanes in ((0, 8, 16), (4, 16, 32)):
        of = profile("copy_asynchronously", zeros(32, 4), Empty((32, 4)), bytes_)
        load = access(of, "cp.async")
        assert (load.sectors, load.lanes, load.ideal_sectors) == (touched, lanes, 8 + bytes_ * 16 // 32)
        assert access(of, "cp.async", "shared").lanes == 32


@pytest.mark.parametrize(("where", "found"), [(0, ["shared"]), (1, ["global"]), (2, [])])
def test_a_generic_access_counts_where_it_goes(where, found):
    of = profile("anywhere", zeros(32), Empty((32,)), where)
    assert [a.space for a in of.accesses if a.instruction.startswith("ld.volatile")] == found
    assert not [a for a in of.accesses if "local" in a.instruction]


def test_constant_memory_is_not_global():
    of = profile("constants", Empty((32,)), 3)
    assert [a.instruction for a in of.accesses] == ["st.global.f32"]


# ---- instructions


def test_operations_of_a_loop_are_counted():
    of = profile("products", zeros(64), Empty((64,)), 10, block=64)
    assert dict(of.instructions)["fma.f32"] == 640
    assert of.flops == 640 * 2 + 64 * 2
    assert dict(of.instructions)["st.global"] == 64


def test_barriers_are_counted():
    of = profile("barriers", Empty((192,)), 5, grid=3, block=64)
    assert of.barriers == 3 * 5 * 2
    assert access(of, "st.global").requests == 3 * 5 * 2


# ---- shared memory


def wavefronts(of, kind):
    (found,) = [a for a in of.accesses if a.space == "shared" and a.kind == kind]
    return found.wavefronts, found.ideal_wavefronts


@pytest.mark.parametrize(("step", "expected"), [(1, 1), (2, 2), (4, 4), (32, 32), (33, 1), (0, 1)])
def test_bank_conflicts_of_strides(step, expected):
    of = profile("touch<32>", np.int32(LANES * step), zeros(32), file="wavefronts.cu", checked=step != 0)
    assert wavefronts(of, "load") == wavefronts(of, "store") == (expected, 1)


@pytest.mark.parametrize(
    ("bits", "where", "load", "store"),
    [
        (64, LANES, (2, 2), (2, 2)),
        (64, LANES // 2, (1, 1), (2, 1)),
        (64, LANES & 1 | LANES >> 2 << 1, (1, 1), (2, 1)),
        (64, LANES % 16, (2, 1), (2, 1)),
        (64, LANES * 2, (4, 2), (4, 2)),
        (128, LANES, (4, 4), (4, 4)),
        (128, LANES * 0, (2, 2), (4, 1)),
        (128, LANES // 2, (2, 2), (4, 2)),
        (128, LANES // 16, (2, 2), (4, 1)),
        (128, LANES & 1 | LANES >> 2 << 1, (2, 2), (4, 2)),
        (128, LANES % 16, (4, 2), (4, 2)),
        (128, LANES * 2, (8, 4), (8, 4)),
        (128, LANES // 2 * 2, (4, 2), (4, 2)),
        (8, LANES, (1, 1), (1, 1)),
        (16, LANES * 2, (1, 1), (1, 1)),
    ],
)
def test_bank_conflicts_by_width(bits, where, load, store):
    of = profile(f"touch<{bits}>", np.int32(where), zeros(32 * 4), file="wavefronts.cu", checked=False)
    assert (wavefronts(of, "load"), wavefronts(of, "store")) == (load, store)


def expected_wavefronts(at, size, loads):
    """The wavefronts of a request, and those that it needs, from the rules as they are written."""
    together = {4: 32, 8: 16, 16: 8}[size]
    if size > 4 and loads and any(all(at[lane] == at[lane ^ step] for lane in LANES) for step in (1, 2)):
        together *= 2
    taken = 0
    for first in range(0, 32, together):
        words = {at[lane] // 4 + k for lane in range(first, first + together) for k in range(size // 4)}
        taken += max(sum(word % 32 == bank for word in words) for bank in range(32))
    distinct = len({at[lane] + k for lane in LANES for k in range(size)})
    return taken, max(-(-distinct // 128), 2 if loads and size == 16 else 1)


@pytest.mark.parametrize("seed", range(12))
def test_random_accesses_cost_what_the_rules_say(seed):
    rng = np.random.default_rng(seed)
    size = (4, 8, 16)[seed % 3]
    where = rng.integers(0, 4 + 8 * seed, 32)[LANES >> 1 if seed % 2 else LANES]
    of = profile(f"touch<{size * 8}>", np.int32(where), zeros(128), file="wavefronts.cu", checked=False)
    assert wavefronts(of, "load") == expected_wavefronts(where * size, size, True)
    assert wavefronts(of, "store") == expected_wavefronts(where * size, size, False)
    bytes_ = {int(i) * 4 + k for i in where for k in range(4)}
    of = profile("gather", zeros(1024), np.int32(where), Empty((32,)))
    load = max((a for a in of.accesses if a.kind == "load"), key=lambda a: a.line)
    assert (load.sectors, load.ideal_sectors) == (len({b // 32 for b in bytes_}), -(-len(bytes_) // 32))


def test_padding_by_one_removes_the_conflicts_of_a_transposition():
    for padding, expected in ((0, 32), (1, 1)):
        of = profile(f"transpose<{padding}>", zeros(32, 32), Empty((32, 32)), block=(32, 32), file="wavefronts.cu")
        assert wavefronts(of, "load") == (32 * expected, 32)
        assert wavefronts(of, "store") == (32, 32)


@pytest.mark.parametrize(("lane_map", "a", "b"), [(0, 2, 4), (1, 2, 2)])
def test_a_products_tiles_cost_what_the_lane_map_makes_of_them(lane_map, a, b):
    of = profile(f"product_step<{lane_map}>", zeros(512, 4), Empty((256, 4)), block=256, file="wavefronts.cu")
    left, right = sorted((x for x in of.accesses if x.space == "shared" and x.kind == "load"), key=lambda x: x.line)
    assert (left.bits, left.wavefronts / left.requests, left.ideal_wavefronts / left.requests) == (128, a, 2)
    assert (right.bits, right.wavefronts / right.requests, right.ideal_wavefronts / right.requests) == (128, b, 2)
    assert of.mean_wavefronts("load") == {128: (a + b) / 2}
    assert of.mean_wavefronts("store") == {32: 2, 128: 4}  # the transposed stores conflict two ways
    assert any(f"conflicts; loads 128={(a + b) / 2:g}; stores 32=2 128=4" in line for line in describe(of))


@pytest.mark.parametrize(("step", "expected"), [(16, 4), (144, 4), (128, 32), (64, 16)])
def test_matrices_are_read_row_by_row(step, expected):
    of = profile("read_matrices", Empty((32,), "uint32"), step, file="wavefronts.cu")
    assert wavefronts(of, "matrix") == (expected, 4)


# ---- results


def test_only_a_counting_launch_has_a_profile():
    args = [zeros(64), Empty((64,)), 1, 0]
    assert run(FOLDER / "requests.cu", "copy", 1, 64, args).counts.profile is None
    plain = run(FOLDER / "requests.cu", "copy", 1, 64, args)
    counted = run(FOLDER / "requests.cu", "copy", 1, 64, args, count=True)
    assert (plain.counts.loaded, plain.counts.stored) == (counted.counts.loaded, counted.counts.stored)
    np.testing.assert_array_equal(plain.arrays["y"], counted.arrays["y"])


def test_profiles_of_one_kernel_add_up():
    one = profile("copy", zeros(256), Empty((64,)), 1, 0, block=64)
    two = profile("copy", zeros(256), Empty((64,)), 2, 0, block=64)
    both = one + two
    assert sectors(both, "ld.global") == (4, 8 + 16, 16)
    assert (both.blocks, both.warps, dict(both.instructions)["st.global"]) == (2, 4, 128)


def test_a_launcher_counts_each_launch_of_a_primitive():
    backend = emulated_backend(Settings())
    x = backend.asarray(zeros(4, 64))
    backend.activation_forward(x, RELU)
    assert backend.launcher.last.profile is None
    with backend.launcher.counting() as launches:
        backend.activation_forward(x, RELU)
        backend.activation_forward(x[:1], RELU)
    backend.activation_forward(x, RELU)
    first, second = launches
    assert first.kernel == second.kernel == "activation_forward<float>"
    assert (first.profile.blocks, first.shared) == (int(np.prod(first.grid)), 0)
    assert first.profile.warps == first.profile.blocks * first.block[0] // 32
    assert sum(a.ideal_sectors for a in first.profile.accesses if a.kind == "store") == 4 * 64 * 4 / 32
    assert sum(a.ideal_sectors for a in second.profile.accesses if a.kind == "store") == 64 * 4 / 32
    always = emulated_backend(Settings(count=True))
    always.activation_forward(always.asarray(zeros(4, 64)), RELU)
    assert always.launcher.last.profile == first.profile


def test_builds_that_do_not_count_have_none_of_it():
    text = (FOLDER / "requests.cu").read_text(encoding="utf-8")
    code, names = to_ptx("requests.cu", text, "compute_80", ("trips",))
    for checked in (False, True):
        kernel = translate(parse(code), names["trips"], checked=checked)
        assert not {word for word in ("emu_count", "executed", "path", "COUNTED_FUEL") if word in kernel.code}
        assert (kernel.fibers, kernel.noted.accesses) == (False, [])
    assert "emu_count" in translate(parse(code), names["trips"], checked=False, counted=True).code


def test_an_access_in_an_inlined_function_names_the_place_in_the_kernel(tmp_path):
    file = tmp_path / "inlined.cu"
    file.write_text(
        "__device__ __forceinline__ float one(const float* x) {\n    return x[threadIdx.x];\n}\n"
        "__device__ __forceinline__ float two(const float* x) { return one(x) + one(x + 32); }\n"
        'extern "C" __global__ void sum(const float* x, float* y) {\n'
        "    y[threadIdx.x] =\n        two(x);\n}\n",
        encoding="utf-8",
    )
    of = run(file, "sum", 1, 32, [zeros(64), Empty((32,))], count=True).counts.profile
    (load,) = [a for a in of.accesses if a.kind == "load"]
    assert (load.file, load.line, load.outermost, load.requests) == ("inlined.cu", 2, "inlined.cu:7", 2)
    assert load.place == "inlined.cu:7 > inlined.cu:2"
    assert [a.place for a in of.accesses if a.kind == "store"] == ["inlined.cu:6"]
