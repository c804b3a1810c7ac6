"""Tiles and splits of products: pure functions of the shape and of a device's description."""

import pytest
from helpers import needs_emulator

from gpunet.backends.cuda.tiles import (
    MOST_TURNS,
    TURN_CYCLES,
    dynamic_bytes,
    lay_out,
    predict_cycles,
    resident,
    shared_bytes,
)
from gpunet.cuda.description import H200, Description
from gpunet.cuda.gate import rows_of
from gpunet.cuda.instantiations import is_mma
from gpunet.cuda.prediction import model
from gpunet.cuda.prediction.gpus import blocks_held, find_gpu
from gpunet.cuda.prediction.machine_code import machine_code
from gpunet.cuda.prediction.simulator import simulate
from gpunet.cuda.tile_lists import (
    FORWARD_TILES,
    GATES,
    INPUT_GRAD_TILES,
    MATMUL_TILES,
    WEIGHT_GRAD_TILES,
    activations,
    gates,
    mma_tiles,
    tiled_instance,
)

T4 = find_gpu("test", "T4").description
LISTS = {
    "forward": FORWARD_TILES,
    "input_grad": INPUT_GRAD_TILES,
    "weight_grad": WEIGHT_GRAD_TILES,
    "matmul": MATMUL_TILES,
    "tensor cores, 16 bits": mma_tiles("conv2d_forward", "half", 1),
    "tensor cores, tf32": mma_tiles("conv2d_forward", "float", 1),
    "tensor cores, 3xtf32": mma_tiles("conv2d_forward", "float", 3),
}
SHAPES = [
    (1, 1, 1),
    (100352, 32, 288),
    (9, 32, 100352),
    (128, 128, 3136),
    (400, 120, 128),
    (7, 10**6, 33),
    (524288, 512, 4608),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("device", [H200, T4, Description(1)], ids=["H200", "T4", "one multiprocessor"])
def test_a_layout_covers_the_results_and_the_reduction(name, shape, device):
    totals = name in ("weight_grad", "matmul")
    on_tensor_cores = LISTS[name][0].terms > 0
    for left, right in ((True, True), *(() if on_tensor_cores else ((False, True), (False, False)))):
        layout = lay_out(
            LISTS[name],
            *shape,
            device,
            left=left,
            right=right,
            totals=totals,
            most_turns=MOST_TURNS if totals else None,
        )
        tile = layout.tile
        assert left or tile.left == 1
        assert right or tile.right == 1
        assert layout.tiles * tile.rows * tile.cols >= shape[0] * shape[1]
        of_split = layout.turns * tile.places
        assert (layout.splits - 1) * of_split < max(shape[2], 1) <= layout.splits * of_split
        assert not totals or layout.turns <= MOST_TURNS
        assert shared_bytes(tile, totals) <= device.shared


def test_few_results_of_a_long_sum_fill_the_device_and_many_are_not_split():
    few = lay_out(MATMUL_TILES, 128, 128, 3136, H200, left=True, right=True, totals=True)
    assert few.splits > 1
    assert 100 < few.blocks <= 3 * H200.multiprocessors
    many = lay_out(FORWARD_TILES, 10**6, 256, 2304, H200, left=True, right=True)
    assert (many.splits, many.tile[:2]) == (1, (128, 128))
    assert lay_out(FORWARD_TILES, 10**6, 256, 2304, H200, left=False, right=False).tile.left == 1


def test_a_device_with_little_shared_memory_gets_no_tile_that_does_not_fit():
    options = {"left": True, "right": True, "totals": True}
    assert lay_out(WEIGHT_GRAD_TILES, 4608, 512, 10**6, H200, **options).tile[:2] == (128, 128)
    assert lay_out(WEIGHT_GRAD_TILES, 4608, 512, 10**6, T4, **options).tile[:2] != (128, 128)


def test_no_other_tile_or_split_is_predicted_to_be_faster():
    shape, options = (12800, 64, 288), {"left": True, "right": True}
    chosen = lay_out(FORWARD_TILES, *shape, H200, **options)
    best = predict_cycles(chosen, resident(chosen.tile), H200)
    for tile in FORWARD_TILES:
        other = lay_out((tile,), *shape, H200, **options)
        assert predict_cycles(other, resident(tile), H200) >= best


@pytest.mark.slow
@needs_emulator
@pytest.mark.parametrize("tile", FORWARD_TILES, ids=lambda tile: "x".join(map(str, tile)))
def test_the_cycles_of_a_turn_are_those_that_the_machine_code_predicts(tile):
    if model.why_unavailable():
        pytest.skip(model.why_unavailable())
    expression = tiled_instance("conv2d_forward_tiled", "float", tile, False, activations("float", tile)[0])
    loop = machine_code({expression}, "sm_90")[expression].loop
    for blocks, listed in zip((1, resident(tile)), TURN_CYCLES[tile.rows, tile.cols, tile.left], strict=True):
        cycles = simulate(
            loop, warps=8, blocks=blocks, latency=262, wavefronts={"LDS.128": 2, "LDS.64": 1}, lanes=128
        ).cycles
        assert cycles == pytest.approx(listed, rel=0.3)


@pytest.mark.slow
@needs_emulator
def test_a_multiprocessor_holds_the_blocks_that_layouts_count_on():
    """The launch bounds of the kernels and `resident` are two places of one rule."""
    if model.why_unavailable():
        pytest.skip(model.why_unavailable())
    for file, lists in (("conv2d_weight_grad.cu", WEIGHT_GRAD_TILES), ("conv2d_input_grad.cu", INPUT_GRAD_TILES)):
        kernel = file.replace(".cu", "_tiled")
        rows = {row.kernel: row for row in rows_of(file, "sm_90")}
        for tile in lists:
            for gate in gates(kernel, "float", tile):
                row = rows[tiled_instance(kernel, "float", tile, GATES[gate])]
                held = blocks_held(find_gpu("test", "H200"), registers=row.registers, shared=0, threads=256)
                assert held >= resident(tile), (row.kernel, row.registers)
                assert row.shared <= shared_bytes(tile, totals=False), row.kernel


@pytest.mark.slow
@needs_emulator
@pytest.mark.parametrize("kernel", ["conv2d_forward", "conv2d_input_grad", "conv2d_weight_grad", "matmul"])
def test_layouts_on_tensor_cores_count_on_the_blocks_and_the_bytes_that_there_are(kernel):
    if model.why_unavailable():
        pytest.skip(model.why_unavailable())
    every = {
        tile
        for element, terms in (("half", 1), ("float", 1), ("float", 3))
        for tile in mma_tiles(kernel, element, terms)
    }
    for row in rows_of(f"{kernel}.cu", "sm_90"):
        if is_mma(row.kernel):
            terms, rows, cols, *_ = map(int, row.kernel.replace(">", "").split(", ")[1:5])
            tile = next(tile for tile in every if (tile.terms, tile.rows, tile.cols) == (terms, rows, cols))
            held = blocks_held(find_gpu("test", "H200"), registers=row.registers, shared=0, threads=tile.threads)
            assert held >= resident(tile), (row.kernel, row.registers)
            assert row.shared + dynamic_bytes(tile, totals=False) <= shared_bytes(tile, totals=False), row.kernel
