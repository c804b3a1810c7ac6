"""The parts of a prediction on their own: machine code, simulation, occupancy, the time of a launch."""

import re
from types import SimpleNamespace

import numpy as np
import pytest

from gpunet.cuda import waves
from gpunet.cuda.prediction import kernels, model
from gpunet.cuda.prediction.gpus import GPUS, blocks_held, find_gpu
from gpunet.cuda.prediction.machine_code import Instruction, MachineCode, main_loop, read_listing
from gpunet.cuda.prediction.paths import taken_path
from gpunet.cuda.prediction.simulator import Steady, least_wavefronts, simulate
from gpunet.cuda.recording import Argument, Launch
from gpunet.cuda.work import NO_PRODUCT, Work

H200 = GPUS["H200"]
FMA = Instruction("FFMA", stall=1)
TILED = "conv2d_weight_grad_tiled<float, 64, 64, 4, 4, 4>"


def cycles(loop, **options):
    """Cycles of a turn of a hand-made loop, for one block of 8 warps unless the options say otherwise."""
    given = {"warps": 8, "blocks": 1, "latency": 200, "wavefronts": {}, **options}
    return simulate(tuple(loop), **given).cycles


# ---- reading machine code

LISTING = """
.L_x_1:
	//## File "/any/folder/tile.cuh", line 45 inlined at "/any/folder/matmul.cu", line 96
	//## File "/any/folder/matmul.cu", line 96
        /*0010*/              @!P0 LDG.E.128.CONSTANT R8, desc[UR12][R8.64] ;   /* 0x0000000c08087981 */
                                                                                /* 0x000ea8000c1e9d00 */
.L_x_2:
        /*0020*/                   FFMA R1, R2, R3, R1 ;                        /* 0x0000000302017223 */
                                                                                /* 0x004fc80000000001 */
        /*0030*/               @P1 BRA `(.L_x_2) ;                              /* 0x0000000400b40947 */
                                                                                /* 0x000fea0003800000 */
	//## File "/any/folder/matmul.cu", line 97
        /*0040*/                   HFMA2.MMA R1, -RZ, RZ, 0, 0 ;                /* 0x00000000ff017435 */
                                                                                /* 0x000fe200000001ff */
        /*0050*/               @P0 BRA `(.L_x_1) ;                              /* 0x0000000400b40947 */
                                                                                /* 0x000fea0003800000 */
        /*0060*/                   EXIT ;                                       /* 0x000000000000794d */
                                                                                /* 0x000fea0003800000 */
"""


def test_control_bits_and_source_lines_are_read():
    load, multiply, branch, *_, end = read_listing(LISTING)
    assert (load.opcode, load.base, load.bits) == ("LDG.E.128.CONSTANT", "LDG", 128)
    assert (load.stall, load.write, load.read, load.wait) == (4, 2, 7, 0)
    assert (multiply.stall, multiply.write, multiply.wait) == (4, 7, 0b100)  # it waits for the load's scoreboard
    assert load.place == ("tile.cuh:45", "matmul.cu:96")
    assert end.place == ("matmul.cu:97",)
    assert (branch.jumps, branch.falls, end.jumps, end.falls) == ((1,), True, (), False)


def test_the_main_loop_is_the_shortest_with_most_multiply_adds():
    loop = main_loop(read_listing(LISTING))
    assert [i.base for i in loop] == ["FFMA", "BRA"]  # the outer loop has as many: HFMA2 moves a constant
    assert loop[-1].stall == 8
    assert main_loop([FMA, FMA]) == ()
    assert main_loop([Instruction("IADD3"), Instruction("BRA", jumps=(0,))]) == ()


def test_a_turn_takes_the_longest_path_that_is_not_skipped():
    a, b, c, d, end = (Instruction(name, place=(name,)) for name in "ABCDE")
    loop = (a._replace(jumps=(2,)), b._replace(jumps=(4,), falls=False), c, d, end)
    taken = lambda *skipped: "".join(i.opcode for i in taken_path(loop, lambda i: i.opcode in skipped))  # noqa: E731
    assert taken() == "ACDE"
    assert taken("C", "D") == "ABE"
    assert taken("B", "C", "D") == "ABE"  # the shorter one of two that are skipped


# ---- simulation


def test_a_loop_of_multiply_adds_is_bound_by_their_pipe():
    assert cycles([FMA] * 64) == pytest.approx(2 * 64)  # 8 warps on 4 schedulers
    assert cycles([FMA] * 64, blocks=3) == pytest.approx(6 * 64)
    assert cycles([FMA] * 64, lanes=64) == pytest.approx(2 * 2 * 64)
    assert cycles([Instruction("IADD3")] * 64) == pytest.approx(2 * 2 * 64)  # half as many lanes
    assert simulate((FMA,) * 64, warps=8, blocks=1, latency=1, wavefronts={}).issue == pytest.approx(1)


def test_a_stall_that_no_other_warp_fills_is_waited_for():
    assert cycles([FMA._replace(stall=6)] * 10, warps=4) == pytest.approx(60)
    assert cycles([FMA._replace(stall=6)] * 10, warps=8) == pytest.approx(60)


def test_a_loop_of_shared_loads_is_bound_by_wavefronts():
    load = Instruction("LDS.128", write=0)
    assert least_wavefronts(load) == 2
    loop, least = [*[load] * 16, FMA._replace(wait=1)], 4 * 8 * 16 * 2  # of four blocks
    assert cycles(loop, blocks=4) == pytest.approx(least, rel=0.03)
    assert cycles(loop, blocks=4, wavefronts={"LDS.128": 5, "LDS.64": 9}) == pytest.approx(least * 5 / 2, rel=0.03)
    bound = simulate(tuple(loop), warps=8, blocks=4, latency=1, wavefronts={"LDS.128": 3})
    assert (bound.shared, bound.issue < 0.2) == (pytest.approx(1, rel=0.03), True)


def test_one_warp_waits_for_its_load():
    loop = [Instruction("LDG.E", write=0), FMA._replace(wait=1, stall=4)]
    unit = 4 + 2  # on the way to the unit, and there
    assert cycles(loop, warps=1, latency=200) == pytest.approx(unit + 200 + 4)
    assert cycles(loop, warps=1, latency=500) == pytest.approx(unit + 500 + 4)
    assert cycles([loop[0], FMA._replace(stall=4)], warps=1) < 10  # nothing waits


def test_copies_in_flight_are_waited_for_by_groups():
    copy, commit = Instruction("LDGSTS.E.128"), Instruction("LDGDEPBAR", write=0)
    wait = lambda left: [copy, commit, Instruction("DEPBAR.LE", f"SB0, {left}", stall=4)]  # noqa: E731
    alone, ahead = (cycles(wait(left), warps=1, latency=300) for left in ("0x0", "0x1"))
    assert alone == pytest.approx(300 + 4 + 8 + 4, abs=4)
    assert ahead == pytest.approx(alone / 2, rel=0.05)  # two groups in flight


def test_a_barrier_waits_for_the_last_warp_of_the_block():
    bar = Instruction("BAR.SYNC")
    assert cycles([FMA._replace(stall=10), bar], warps=4) == pytest.approx(10 + 12)
    crowded = cycles([*[FMA] * 30, bar], warps=8)  # the second warp of each scheduler arrives after 60 cycles
    assert crowded == pytest.approx(60 + 1 + 12, abs=2)
    assert cycles([*[FMA] * 30, bar], warps=8, blocks=2) < 2 * crowded - 20  # another block fills the wait


# ---- occupancy


@pytest.mark.parametrize(
    ("gpu", "registers", "shared", "threads", "held"),
    [
        ("H200", 128, 0, 256, 2), ("H200", 64, 0, 256, 4), ("H200", 65, 0, 256, 3), ("H200", 32, 0, 256, 8),
        ("H200", 255, 0, 256, 1), ("H200", 16, 100 * 1024, 256, 2), ("H200", 16, 113 * 1024, 256, 2),
        ("H200", 16, 114 * 1024, 256, 1), ("H200", 16, 0, 32, 32), ("H200", 40, 0, 96, 16), ("A100", 32, 54 * 1024, 128, 2),
        ("L4", 32, 0, 256, 6), ("L4", 24, 0, 32, 24), ("T4", 32, 0, 256, 4), ("T4", 32, 16 * 1024, 128, 4),
        ("T4", 24, 0, 32, 16),
    ],
)  # fmt: skip
def test_a_multiprocessor_holds_the_blocks_that_nvidias_calculator_gives(gpu, registers, shared, threads, held):
    assert blocks_held(GPUS[gpu], registers=registers, shared=shared, threads=threads) == held


def test_gpus_are_found_by_name():
    assert {"H200", "H100", "A100", "RTX 4090", "L4", "T4"} <= set(GPUS)
    assert find_gpu("plan", "rtx4090") is GPUS["RTX 4090"]
    assert H200.peak == pytest.approx(59.3e6, rel=1e-3)
    with pytest.raises(ValueError, match="plan: gpu is 'H300' but takes one of H200, H100, A100, RTX 4090, L4, T4"):
        find_gpu("plan", "H300")


# ---- the time of a launch


def array(name, *shape, read=True):
    return Argument(name, shape, np.dtype(np.float32), hash(name), read, not read)


def launched(*arguments, kernel=TILED, blocks=264, work=NO_PRODUCT, shared=0):
    return Launch(None, kernel, (blocks,), (256,), arguments, work, shared)


@pytest.fixture
def turns(monkeypatch):
    """Let a turn of b blocks take 600 + 400 b cycles, and 100 more with far loads."""
    asked = []

    def simulated(loop, *, warps, blocks, latency, wavefronts, lanes, mma):
        asked.append(SimpleNamespace(loop=loop, warps=warps, blocks=blocks, latency=latency, wavefronts=wavefronts))
        return Steady(600 + 400 * blocks + 100 * (latency > 100), 0.8, 0.3)

    monkeypatch.setattr(model, "simulate", simulated)
    return asked


def predict(launch, registers=128, loop=(FMA,) * 256):
    return model._predict(launch, MachineCode(registers, 0, tuple(loop)), H200)


def microseconds(count):
    return model.NODE_MICROSECONDS + count / 1755


def test_blocks_are_dealt_to_the_fullest_multiprocessor_in_rounds(turns):
    work, far = Work(10**9, turns=50), 0.8 * 100
    totals = 50 / 4 * 2 * 1.5 * 16  # of a block
    two, one = 50 * (1400 + far) + 2500 + 2 * totals, 50 * (1000 + far) + 2500 + totals
    for blocks, expected in ((264, two), (265, two + one), (132, one), (1, one), (132 * 5, 2 * two + one)):
        found = predict(launched(blocks=blocks, work=work))
        assert found.microseconds == pytest.approx(microseconds(expected)), blocks
        assert (found.blocks, found.held, found.waves, found.turns) == (blocks, 2, blocks / 264, 50)
    assert (found.tile, found.bound) == ("64x64", "issue")


def test_dynamic_shared_memory_leaves_place_for_fewer_blocks(turns):
    assert predict(launched(work=Work(1, 5), shared=150 * 1024)).held == 1


def test_a_split_reduction_is_added(turns):
    totals = 2 * 10 / 4 * 2 * 1.5 * 16
    plain = 10 * (1400 + 0.8 * 100) + 2500 + totals
    assert predict(launched(work=Work(1, 10))).microseconds == pytest.approx(microseconds(plain))
    merged = predict(launched(work=Work(1, 10, splits=70)))
    levels = 2 * waves.ARRIVAL_CYCLES + 4 * (2 + 1) * waves.SLOT_CYCLES  # 16 slots of 4 pieces, then 5
    assert merged.microseconds == pytest.approx(microseconds(plain + levels))


def test_an_unrolled_loop_makes_several_turns_at_once(turns):
    once, twice = (predict(launched(work=Work(1, 10)), loop=(FMA,) * n) for n in (256, 512))
    assert once.microseconds - twice.microseconds == pytest.approx(5 * (1400 + 80) / 1755)


def test_loads_are_mixed_from_both_caches(turns):
    names = (
        "conv2d_forward_tiled<float, 128, 64, 8, 4, 4, false>",
        "conv2d_forward_tiled<float, 128, 16, 4, 2, 1, false>",
    )
    assert kernels.far_share(launched(array("x", 8, 9, 9, 128), kernel=names[0])) == 0.5
    assert kernels.far_share(launched(array("x", 8, 9, 9, 132), kernel=names[0])) == 0.9
    assert kernels.far_share(launched(array("x", 8, 9, 9, 3), kernel=names[1])) == 0.3
    assert kernels.far_share(launched(kernel="conv2d_weight_grad_tiled<half, 64, 16, 2, 2, 1>")) == 0.5
    predict(launched(work=Work(1, 10)))
    assert {(a.latency, a.warps) for a in turns} == {(model.NEAR_CYCLES, 8), (model.FAR_CYCLES, 8)}
    assert turns[0].wavefronts == {"LDS.128": 2, "LDS.64": 1}


def test_a_launch_without_a_main_loop_moves_its_bytes():
    x, y = array("x", 512, 2**20), array("y", 512, 2**20, read=False)
    found = predict(launched(x, y, kernel="unary<float>"), loop=())
    assert found.microseconds == pytest.approx(1.3 + 2**32 / 4.32e6)
    assert (found.bound, found.tile, found.turns) == ("bandwidth", "", 0)
    assert predict(launched(kernel="fill<float>"), loop=()).bound == "node"
    computed = predict(launched(x, kernel="conv2d_forward_simple<float, false>", work=Work(10**12)), loop=())
    assert (computed.bound, computed.microseconds) == ("arithmetic", pytest.approx(1.3 + 1e12 / H200.peak))
    depthwise = predict(
        launched(x, kernel="conv2d_depthwise_weight_grad<float, 3, 1, 4>", work=Work(1, 0, 100)), loop=()
    )
    merged = waves.merge_cycles(100, 4) / 1755
    assert depthwise.microseconds == pytest.approx(1.3 + 2**31 / 4.32e6 + merged)
    moving = predict(launched(x, y, work=Work(1, 1)), loop=())
    assert moving.bound == "bandwidth"


def test_lines_that_a_launch_does_not_execute_are_known():
    def period(text, *names, file="common.cuh"):
        lines = (kernels.source.kernels_folder() / file).read_text(encoding="utf-8").splitlines()
        (number,) = (n for n, line in enumerate(lines, 1) if text in line)
        return kernels.period_of(launched(*(array(name) for name in names)), [f"{file}:{number}", "no.cu:1"])

    undo = "case ACTIVATION_{}: return all([](float dy"
    assert [period(undo.format(name), "y") for name in ("RELU", "TANH")] == [1, 0]
    gated = [period("undo_activation<V>(f, v, out);", *names, file="gate.cuh") for names in ((), ("y",), ("gate_y",))]
    assert gated == [0, 1, 1]
    assert period("acc[i][j] += left[i] * top[j];", file="cuda_cores.cuh") == 1


def test_every_condition_names_lines_that_the_kernels_have():
    text = "\n".join(path.read_text(encoding="utf-8") for path in kernels.source.kernels_folder().glob("*.cu*"))
    for condition in kernels.CONDITIONS:
        for pattern in condition.lines.split("|"):
            assert re.search(pattern, text), pattern
