"""The parts of a prediction that tensor cores, asynchronous copies and the second-level cache have."""

from types import SimpleNamespace

import pytest

from gpunet.cuda import waves
from gpunet.cuda.prediction import kernels, model
from gpunet.cuda.prediction.gpus import GPUS
from gpunet.cuda.prediction.machine_code import Instruction, MachineCode, main_loop, multiply_adds, read_listing
from gpunet.cuda.prediction.simulator import Steady, landing_wavefronts, least_wavefronts, simulate
from gpunet.cuda.recording import Launch
from gpunet.cuda.work import Work

H200 = GPUS["H200"]
FMA = Instruction("FFMA", stall=1)
MMA = Instruction("HMMA.16816.F32.BF16", stall=2)
COPY = Instruction("LDGSTS.E.BYPASS.128")
COMMIT = Instruction("LDGDEPBAR", write=0)
KERNEL = "conv2d_forward_mma<{}, 128, 64, 8, 8, false>"


def steady(loop, **options):
    """The steady state of a hand-made loop, for one block of 8 warps unless the options say otherwise."""
    given = {"warps": 8, "blocks": 1, "latency": 300, "wavefronts": {}, **options}
    return simulate(tuple(loop), **given)


def cycles(loop, **options):
    return steady(loop, **options).cycles


def wait(left):
    """The instruction that waits for all groups of copies but the last `left`."""
    return Instruction("DEPBAR.LE", f"SB0, {left:#x}", stall=4)


# ---- machine code


def test_matrix_products_count_for_the_main_loop():
    back = lambda to: Instruction("BRA", jumps=(to,))  # noqa: E731
    code = [*[FMA] * 60, back(0), MMA, back(61), FMA]
    assert [i.base for i in main_loop(code)] == ["HMMA", "BRA"]  # 64 multiply-adds of a lane against 60
    shapes = {
        "HMMA.16816.F32": 64,
        "HMMA.1688.F32.TF32": 32,
        "HMMA.1688.F16": 32,
        "HMMA.1684.F32.TF32": 16,
        "HFMA2.MMA": 0,
    }
    assert {name: multiply_adds([Instruction(name)]) for name in shapes} == shapes


def test_an_instruction_that_never_runs_touches_no_memory():
    listing = """
        /*0010*/                @!PT LDS RZ, [RZ] ;   /* 0x00000000fffff984 */
                                                      /* 0x000fe20000000800 */
        /*0020*/                @!P0 LDS R1, [R2] ;   /* 0x00000000fffff984 */
                                                      /* 0x000fe20000000800 */
    """
    never, sometimes = read_listing(listing)
    assert (never.opcode, never.stall, sometimes.opcode) == ("NOP", 1, "LDS")


# ---- simulation of products


def test_matrix_products_keep_the_unit_of_their_scheduler():
    assert cycles([MMA] * 10, warps=1) == pytest.approx(8 * 10)
    assert cycles([MMA] * 10, warps=4) == pytest.approx(8 * 10)  # each of four schedulers has a unit
    assert cycles([MMA] * 10, warps=8) == pytest.approx(16 * 10)  # two warps share it
    assert cycles([MMA] * 10, warps=4, blocks=3) == pytest.approx(24 * 10)
    assert cycles([MMA] * 10, warps=4, mma=32) == pytest.approx(32 * 10)
    assert cycles([MMA._replace(stall=20)] * 10, warps=4) == pytest.approx(200)  # what ptxas asks for is kept


@pytest.mark.parametrize(("opcode", "busy"), [("HMMA.1688.F32", 4), ("HMMA.1688.F32.TF32", 8), ("HMMA.16816.F32", 8)])
def test_smaller_products_and_those_of_tf32_take_the_time_of_their_rate(opcode, busy):
    assert cycles([Instruction(opcode)] * 10, warps=4) == pytest.approx(busy * 10)


def test_other_pipes_work_beside_the_tensor_cores():
    mixed = [MMA, *[FMA] * 6] * 10
    found = steady(mixed, warps=8)
    assert found.cycles == pytest.approx(16 * 10, rel=0.02)
    assert (found.tensor, found.issue) == (pytest.approx(1, rel=0.02), pytest.approx(14 / 16, rel=0.02))
    assert steady([FMA] * 10).tensor == 0


# ---- simulation of memory


def test_a_load_of_matrices_takes_a_wavefront_for_each():
    opcodes = {"LDSM.16.M88.4": 4, "LDSM.16.MT88.4": 4, "LDSM.16.M88.2": 2, "LDSM.16.M88": 1}
    assert {name: least_wavefronts(Instruction(name)) for name in opcodes} == opcodes
    loop = [*[Instruction("LDSM.16.M88.4", write=0)] * 16, FMA._replace(wait=1)]
    assert cycles(loop, blocks=4) == pytest.approx(4 * 8 * 16 * 4, rel=0.03)


@pytest.mark.parametrize("left", [0, 1, 2])
def test_a_wait_leaves_the_youngest_groups_in_flight(left):
    turn = 4 + 300 + 4 + 4  # on the way to the unit, latency, landing, and the wait's own stall
    assert cycles([COPY, COMMIT, wait(left)], warps=1) == pytest.approx(turn / (left + 1), rel=0.05)


def test_a_wait_that_comes_late_costs_nothing():
    work = [FMA] * 160  # two turns of it hide the latency of the copies of two turns ago
    assert cycles([COPY, COMMIT, *work, wait(2)], warps=1) == pytest.approx(160 + 2 + 4, abs=2)
    assert cycles([COPY, COMMIT, *work, wait(0)], warps=1) > 300


def test_a_group_has_landed_only_after_those_before_it():
    empty = [COPY, COMMIT, COMMIT, wait(1)]  # the second group, which has no copies, is no younger one that has landed
    assert cycles(empty, warps=1) == pytest.approx(cycles([COPY, COMMIT, wait(0)], warps=1), abs=3)


def test_a_group_that_a_wait_leaves_is_still_waited_for_by_the_next():
    loop = [COPY, COMMIT, *[FMA] * 100, COPY, COMMIT, wait(1), wait(0)]
    assert cycles(loop, warps=1) == pytest.approx(102 + 4 + 300 + 4 + 4, abs=6)


def test_the_address_of_a_copy_is_free_before_it_lands():
    assert cycles([COPY._replace(read=1), FMA._replace(wait=2)], warps=1) < 20


def test_copies_take_the_unit_of_shared_memory_when_they_land():
    assert (least_wavefronts(COPY), landing_wavefronts(COPY), landing_wavefronts(FMA)) == (0, 4, 0)
    assert least_wavefronts(Instruction("LDGSTS.E.128")) == 4  # it looks the first-level cache up
    many = [*[COPY] * 16, COMMIT, wait(1)]
    found = steady(many, blocks=4)
    assert found.cycles == pytest.approx(4 * 8 * 16 * 4, rel=0.05)
    assert found.shared == pytest.approx(1, rel=0.05)
    load = [Instruction("LDS", write=1), FMA._replace(wait=2, stall=200)]
    alone, behind = (cycles([*copies, *load], warps=1) for copies in ([], [*[COPY] * 8, COMMIT]))
    assert behind - alone < 8 * 2 + 4  # the copies' issue, but not the 32 wavefronts of their landing


# ---- what the GPUs can do


@pytest.mark.parametrize(
    ("gpu", "published", "cycles"),
    [("A100", 312, 8), ("RTX 4090", 165.2, 32), ("L4", 121, 16), ("T4", 65, 16), ("H100", 949, 8)],
)
def test_peaks_are_those_of_the_data_sheets(gpu, published, cycles):
    """Dense, with sums in float32; that of an H100 for the clock of the table, below its boost clock."""
    assert GPUS[gpu].peak_of("16 bits") == pytest.approx(published * 1e6, rel=0.01)
    assert GPUS[gpu].peak_of("tf32") == pytest.approx(published / 2 * 1e6, rel=0.01)
    assert GPUS[gpu].peak_of("3xtf32") == pytest.approx(published / 6 * 1e6, rel=0.01)
    assert GPUS[gpu].peak_of("float32") == GPUS[gpu].peak
    assert GPUS[gpu].mma_cycles == pytest.approx(cycles)


# ---- what is known of the kernels


@pytest.mark.parametrize(
    ("arguments", "vector", "places", "terms", "precision"),
    [
        ("bfloat16, 1", 8, 32, 1, "16 bits"), ("half, 1", 8, 32, 1, "16 bits"),
        ("float, 1", 4, 16, 1, "tf32"), ("float, 3", 4, 16, 3, "3xtf32"),
    ],
)  # fmt: skip
def test_template_arguments_say_how_tensor_cores_cover_a_product(arguments, vector, places, terms, precision):
    kernel = KERNEL.format(arguments)
    tile = kernels.tile_of(kernel)
    assert tile == (128, 64, 8, 8, vector, places, precision, terms)
    assert (str(tile), tile.threads, tile.on_tensor_cores) == ("128x64", 128, True)
    assert kernels.shared_of(kernel) == 4 * 64 * (128 + 64)
    launch = Launch(None, kernel, (1,), (128,), (), Work(1, 40, splits=3))
    assert kernels.far_share(launch) == 1
    assert kernels.turns_in_loop(launch, 2 * 64 * places * terms) == 2  # an unrolled loop
    assert kernels.totals_cycles(launch) == (40 / 4 * 1 * 2 * 64 if terms == 3 else 0)
    assert kernels.merge_cycles(launch) == waves.merge_cycles(3, 32)  # half as many threads load twice as much


def test_tiles_without_tensor_cores_stay_as_they_were():
    tile = kernels.tile_of("conv2d_weight_grad_tiled<half, 64, 64, 4, 4, 1, 2>")
    assert tile == (64, 64, 4, 4, 1, 16, "float32", 1)
    assert (tile.threads, tile.on_tensor_cores) == (256, False)
    assert kernels.shared_of("conv2d_weight_grad_tiled<half, 64, 64, 4, 4, 1, 2>") == 4 * 64 * 64
    assert kernels.shared_of("conv2d_forward_tiled<float, 64, 64, 4, 4, 1, 1, false>") == 0
    assert [
        kernels.tile_of(name) for name in ("linear_weight_grads_tiled<float>", "strided_copy_tiled<half>", "fill")
    ] == [None] * 3


# ---- the time of a launch


@pytest.fixture
def simulated(monkeypatch):
    """Let a turn of b blocks take 500 b cycles, in which the tensor cores are busy for 90%."""
    asked = []

    def simulate(loop, **options):
        asked.append(SimpleNamespace(**options))
        return Steady(500 * options["blocks"], 0.5, 0.25, 0.9)

    monkeypatch.setattr(model, "simulate", simulate)
    return asked


def predict(kernel, gpu=H200, loop=(MMA,) * 64, flops=10**9):
    launch = Launch(None, kernel, (132,), (128,), (), Work(flops, turns=100), kernels.shared_of(kernel))
    return model._predict(launch, MachineCode(200, 0, tuple(loop)), gpu)


def test_the_share_counts_the_peak_of_the_precision(simulated):
    found = {
        name: predict(KERNEL.format(name), loop=(MMA,) * n)
        for name, n in (("half, 1", 32), ("float, 1", 16), ("float, 3", 48))
    }
    assert [p.bound for p in found.values()] == ["tensor cores"] * 3
    assert [p.precision for p in found.values()] == ["16 bits", "tf32", "3xtf32"]
    for p in found.values():
        assert p.share == pytest.approx(1e9 / (p.microseconds * H200.peak_of(p.precision)))
    plain = predict("conv2d_forward_tiled<float, 128, 64, 8, 4, 4, 4, false>")
    assert (plain.precision, plain.share) == ("float32", pytest.approx(1e9 / (plain.microseconds * H200.peak)))
    assert predict(KERNEL.format("half, 1"), flops=0).share == 0


def test_copies_are_simulated_with_the_second_cache_alone_and_the_gpus_own_units(simulated):
    predict(KERNEL.format("half, 1"), GPUS["RTX 4090"])
    assert {(a.latency, a.mma, a.warps) for a in simulated} == {(model.FAR_CYCLES, 32, 4)}


def test_the_second_level_cache_limits_a_turn(simulated):
    loaded = 4 * 32 * 16 / model.CACHE_BYTES  # cycles for what four warps copy by one instruction
    few, many = (predict(KERNEL.format("half, 1"), loop=[*[MMA] * 32, *[COPY] * n]) for n in (7, 16))
    assert few.bound == "tensor cores"
    assert many.bound == "L2 cache"
    assert many.microseconds - few.microseconds == pytest.approx(100 * (16 * loaded - 500) / 1755)


def test_turns_are_predicted_of_instances_alone(simulated, monkeypatch):
    codes = lambda names, architecture: dict.fromkeys(names, MachineCode(200, 0, (*[MMA] * 32, *[COPY] * 4)))  # noqa: E731
    monkeypatch.setattr(model, "machine_code", codes)
    monkeypatch.setattr(model, "why_unavailable", lambda: "")
    (turn,) = model.turns([KERNEL.format("half, 1"), "fill<float>"], H200)
    assert turn[:6] == (KERNEL.format("half, 1"), 200, 128, 2, 500, 1000)
    assert turn.share == pytest.approx(2 * 128 * 64 * 32 / (1000 * 2048))
    assert (turn.precision, turn.bound, turn.cache) == ("16 bits", "tensor cores", pytest.approx(2 * 4 * 2048 / 1000))
