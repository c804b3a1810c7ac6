"""Warp operations of the emulated machine: shuffles, votes, reductions, matches, ldmatrix and
mma."""

import numpy as np
import pytest
from machine_runs import both, run, schedules

from gpunet.emulator.machine import Schedule


@schedules
def test_shuffles_take_the_lane_that_the_manual_says(schedule: Schedule) -> None:
    text = """
    extern "C" __global__ void shuffles(int* y) {
        const int i = threadIdx.x;
        int* row = y + i;
        row[0] = __shfl_sync(~0u, i * 10, 5);
        row[32] = __shfl_sync(~0u, i * 10, i + 3, 8);
        row[64] = __shfl_up_sync(~0u, i * 10, 3);
        row[96] = __shfl_up_sync(~0u, i * 10, 3, 16);
        row[128] = __shfl_down_sync(~0u, i * 10, 3, 8);
        row[160] = __shfl_xor_sync(~0u, i * 10, 9);
        int inside;
        asm("{.reg .pred p; .reg .b32 d; shfl.sync.down.b32 d|p, %1, 4, 0x1f, 0xffffffff; selp.b32 %0, 1, 0, p;}"
            : "=r"(inside) : "r"(i));
        row[192] = inside;
        const long long wide = __shfl_sync(~0u, (long long)i << 33, 31 - i);
        row[224] = (int)wide + (int)(wide >> 33);
    }"""
    y = np.zeros(8 * 32, np.int32)
    run(text, "shuffles", {"y": y}, schedule=schedule)
    i = np.arange(32)
    expected = [
        np.full(32, 5), i // 8 * 8 + (i + 3) % 8, np.where(i < 3, i, i - 3), np.where(i % 16 < 3, i, i - 3),
        np.where(i % 8 + 3 > 7, i, i + 3), i ^ 9,
    ]  # fmt: skip
    np.testing.assert_array_equal(y.reshape(8, 32)[:6], 10 * np.array(expected))
    np.testing.assert_array_equal(y[192:224], i + 4 < 32)
    np.testing.assert_array_equal(y[224:], 31 - i)


@schedules
def test_votes_matches_and_reductions_of_a_warp(schedule: Schedule) -> None:
    text = """
    extern "C" __global__ void votes(unsigned* y) {
        const int i = threadIdx.x;
        unsigned* row = y + i;
        row[0] = __ballot_sync(~0u, i % 3 == 0);
        row[32] = __any_sync(~0u, i == 7) + 2 * __all_sync(~0u, i < 31) + 4 * __all_sync(~0u, i < 32);
        row[64] = __match_any_sync(~0u, i / 5);
        int same;
        row[96] = __match_all_sync(~0u, 4ll << 40, &same) + same;
        row[128] = __reduce_add_sync(~0u, i);
        row[160] = __reduce_max_sync(~0u, -i);
        row[192] = __reduce_xor_sync(~0u, 1u << i);
        if (i & 1) row[224] = __activemask();
        else row[224] = __reduce_min_sync(0x55555555, i + 9);
        __syncwarp();
        row[256] = __reduce_min_sync(i < 16 ? 0xffffu : 0xffff0000u, (unsigned)i);
    }"""
    y = np.zeros(9 * 32, np.uint32)
    run(text, "votes", {"y": y}, schedule=schedule)
    i = np.arange(32)
    rows = y.reshape(9, 32)
    np.testing.assert_array_equal(rows[0], sum(1 << k for k in range(0, 32, 3)))
    np.testing.assert_array_equal(rows[1], 5)
    np.testing.assert_array_equal(rows[2], [sum(1 << k for k in range(32) if k // 5 == j // 5) for j in i])
    np.testing.assert_array_equal(rows[3], 0)  # all ones plus 1
    np.testing.assert_array_equal(rows[4], 496)
    np.testing.assert_array_equal(rows[5], 0)
    np.testing.assert_array_equal(rows[6], 2**32 - 1)
    np.testing.assert_array_equal(rows[7], np.where(i & 1, 0xAAAAAAAA, 9))
    np.testing.assert_array_equal(rows[8], i // 16 * 16)


def bits_of(values: np.ndarray, kind: str) -> np.ndarray:
    if kind == "f16":
        return values.astype(np.float16).view(np.uint16)
    if kind == "bf16":
        return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    if kind == "s8":
        return values.astype(np.int8).view(np.uint8)
    return values.astype(np.int32 if kind == "s32" else np.float32).view(np.uint32)


@pytest.mark.parametrize(
    ("k", "kind", "total"),
    [(8, "f16", "f32"), (16, "f16", "f32"), (16, "f16", "f16"), (8, "bf16", "f32"), (16, "bf16", "f32"), (8, "tf32", "f32"),
     (4, "tf32", "f32"), (16, "s8", "s32"), (32, "s8", "s32")],
)  # fmt: skip
def test_mma_multiplies_fragments_laid_out_as_in_the_manual(
    k: int, kind: str, total: str, rng: np.random.Generator
) -> None:
    """The layouts are written out element by element, as PTX's manual states them."""
    a, b, c = (rng.integers(-3, 4, s).astype(np.float64) for s in ((16, k), (k, 8), (16, 8)))
    each = {"f16": 2, "bf16": 2, "tf32": 1, "s8": 4}[kind]
    na, nb, nc = 16 * k // 32 // each, 8 * k // 32 // each, 2 if total == "f16" else 4
    lane = np.arange(32)
    group, in_group = lane // 4, lane % 4
    fa, fb = np.zeros((32, na, each)), np.zeros((32, nb, each))
    for i in range(each):
        for r in range(na):
            fa[:, r, i] = a[group + 8 * (r % 2), in_group * each + i + 4 * each * (r // 2)]
        for r in range(nb):
            fb[:, r, i] = b[in_group * each + i + 4 * each * r, group]
    rows, cols = np.stack([group, group, group + 8, group + 8], 1), np.stack([in_group * 2, in_group * 2 + 1] * 2, 1)
    words = [np.ascontiguousarray(bits_of(f, kind)).view(np.uint32).ravel() for f in (fa, fb)]
    fc = np.ascontiguousarray(bits_of(c[rows, cols], total)).view(np.uint32).ravel()
    fd = np.zeros(32 * nc, np.uint32)
    number = iter(range(100))
    places = ["{" + ", ".join(f"%{next(number)}" for _ in range(n)) + "}" for n in (nc, na, nb, nc)]
    given = ", ".join(f'"r"({name}[{i}])' for name, n in (("A", na), ("B", nb), ("C", nc)) for i in range(n))
    text = f"""
    extern "C" __global__ void product(const unsigned* a, const unsigned* b, const unsigned* c, unsigned* d) {{
        unsigned A[4], B[2], C[4], D[4];
        for (int i = 0; i < {na}; ++i) A[i] = a[threadIdx.x * {na} + i];
        for (int i = 0; i < {nb}; ++i) B[i] = b[threadIdx.x * {nb} + i];
        for (int i = 0; i < {nc}; ++i) C[i] = c[threadIdx.x * {nc} + i];
        asm volatile("mma.sync.aligned.m16n8k{k}.row.col.{total}.{kind}.{kind}.{total} {", ".join(places)};"
                     : {", ".join(f'"=r"(D[{i}])' for i in range(nc))} : {given});
        for (int i = 0; i < {nc}; ++i) d[threadIdx.x * {nc} + i] = D[i];
    }}"""
    run(text, "product", {"a": words[0], "b": words[1], "c": fc, "d": fd})
    got = fd.view({"f32": np.float32, "f16": np.float16, "s32": np.int32}[total]).reshape(32, 4)
    np.testing.assert_array_equal(got, (a @ b + c)[rows, cols])


@pytest.mark.parametrize("trans", [False, True])
@pytest.mark.parametrize("count", [1, 2, 4])
@both
def test_ldmatrix_hands_out_rows_or_columns(count: int, trans: bool, checked: bool) -> None:
    targets = ", ".join(f"%{i}" for i in range(count))
    text = f"""
    extern "C" __global__ void matrices(const unsigned short* x, unsigned* y) {{
        __shared__ __align__(16) unsigned short tile[{count}][8][16];
        for (int i = threadIdx.x; i < {count * 64}; i += 32) tile[i / 64][i / 8 % 8][i % 8] = x[i];
        __syncthreads();
        unsigned r[{count}];
        const unsigned at = (unsigned)__cvta_generic_to_shared(&tile[threadIdx.x / 8 % {count}][threadIdx.x % 8][0]);
        asm volatile("ldmatrix.sync.aligned.m8n8.x{count}{".trans" if trans else ""}.shared.b16 {{{targets}}}, [%{count}];"
                     : {", ".join(f'"=r"(r[{i}])' for i in range(count))} : "r"(at));
        for (int i = 0; i < {count}; ++i) y[threadIdx.x * {count} + i] = r[i];
    }}"""
    x, y = np.arange(count * 64, dtype=np.uint16), np.zeros(32 * count, np.uint32)
    run(text, "matrices", {"x": x, "y": y}, checked=checked)
    matrices = x.reshape(count, 8, 8)
    if trans:
        matrices = matrices.transpose(0, 2, 1)
    expected = np.ascontiguousarray(matrices).reshape(count, 32, 2).transpose(1, 0, 2)
    np.testing.assert_array_equal(y.view(np.uint16).reshape(32, count, 2), expected)


MASKS = [0xFFFFFFFF, 0x0000FFFF, 0xFFFF0000, 0x55555555, 0x00FF00FF, 0x80000001, 0x00000010]


@both
@pytest.mark.parametrize("kind", ["up", "down", "bfly", "idx"])
def test_shuffles_under_masks_and_widths_follow_the_manual(kind: str, checked: bool, rng: np.random.Generator) -> None:
    """Every lane of a mask gives its own distance, clamp and segment; others are ignored."""
    text = f"""
    extern "C" __global__ void shuffles(const unsigned* masks, const unsigned* b, const unsigned* c,
                                         unsigned* y, unsigned* ok) {{
        const unsigned lane = threadIdx.x;
        for (int row = 0; row < {len(MASKS) * 12}; ++row) {{
            const unsigned mask = masks[row], at = 32 * row + lane;
            if (mask >> lane & 1) {{
                unsigned d, inside;
                asm volatile("{{.reg .pred p; shfl.sync.{kind}.b32 %0|p, %2, %3, %4, %5; selp.u32 %1, 1, 0, p;}}"
                             : "=r"(d), "=r"(inside) : "r"(100 + lane), "r"(b[at]), "r"(c[at]), "r"(mask));
                y[at] = d, ok[at] = inside;
            }}
        }}
    }}"""
    masks = np.array(MASKS * 12, np.uint32)
    count = len(masks)
    clamp = 0 if kind == "up" else 31
    widths = np.array([32 - w << 8 | clamp for w in (32, 16, 8, 4, 2, 1)], np.uint32)
    c = rng.choice(widths, (count, 32)).astype(np.uint32)
    c[count // 2 :] = rng.integers(0, 2**13, (count - count // 2, 32))  # any clamp and segment
    b = rng.integers(0, 64, (count, 32)).astype(np.uint32)
    y, ok = np.zeros((count, 32), np.uint32), np.zeros((count, 32), np.uint32)
    given = {"masks": masks, "b": b, "c": c}
    run(
        text,
        "shuffles",
        given | {"y": y, "ok": ok},
        checked=checked,
    )
    for row, mask in enumerate(masks.tolist()):
        for lane in (lane for lane in range(32) if mask >> lane & 1):
            bval, cval, segment = int(b[row, lane]) & 31, int(c[row, lane]) & 31, int(c[row, lane]) >> 8 & 31
            last, first = lane & segment | cval & ~segment, lane & segment
            j = {"up": lane - bval, "down": lane + bval, "bfly": lane ^ bval, "idx": first | bval & ~segment}[kind]
            valid = j >= last if kind == "up" else j <= last
            source = j if valid else lane
            assert ok[row, lane] == valid
            if mask >> source & 1:
                assert y[row, lane] == 100 + source, (row, lane)


@both
@schedules
def test_votes_leave_out_lanes_that_have_returned(schedule: Schedule, checked: bool) -> None:
    """A vote waits for lanes of its mask that come later, and not for those that have returned."""
    text = """
    extern "C" __global__ void votes(unsigned* y) {
        const unsigned i = threadIdx.x;
        if (i % 4 == 3) return;
        y[i] = __ballot_sync(~0u, i % 2 == 0);
        if (i % 4 == 2) return;
        __syncwarp();
        y[32 + i] = 4 * __all_sync(~0u, i % 4 < 2) + 2 * __any_sync(~0u, i % 4 == 2) + (__ballot_sync(~0u, 1) == 0x33333333u);
        if (i >= 16) return;
        y[64 + i] = __ballot_sync(0xffffu, i < 8);
    }"""
    y = np.zeros((3, 32), np.uint32)
    run(text, "votes", {"y": y}, schedule=schedule, checked=checked)
    i = np.arange(32)
    np.testing.assert_array_equal(y[0], np.where(i % 4 < 3, 0x55555555, 0))
    np.testing.assert_array_equal(y[1], np.where(i % 4 < 2, 5, 0))
    np.testing.assert_array_equal(y[2], np.where((i % 4 < 2) & (i < 16), 0x33, 0))


@schedules
def test_reductions_and_matches_of_part_of_a_warp(schedule: Schedule, rng: np.random.Generator) -> None:
    text = """
    extern "C" __global__ void parts(const int* x, int* y) {
        const int i = threadIdx.x;
        const unsigned mask = i % 3 == 0 ? 0x49249249u : ~0x49249249u;
        y[i] = __reduce_add_sync(mask, x[i]);
        y[32 + i] = __reduce_min_sync(mask, x[i]);
        y[64 + i] = (int)__reduce_max_sync(mask, (unsigned)x[i]);
        y[96 + i] = (int)__reduce_and_sync(mask, (unsigned)x[i] | 5);
        y[128 + i] = (int)__match_any_sync(mask, x[i] & 3);
        int same;
        y[160 + i] = (int)__match_all_sync(mask, i % 3 == 0 ? 1 : x[i], &same) + same;
        y[192 + i] = (int)__match_any_sync(mask, (unsigned long long)(x[i] & 1) << 40);
    }"""
    x, y = rng.integers(-(2**31), 2**31, 32).astype(np.int32), np.zeros((7, 32), np.int32)
    run(text, "parts", {"x": x, "y": y}, schedule=schedule)
    for lane in range(32):
        members = [k for k in range(32) if (k % 3 == 0) == (lane % 3 == 0)]
        mine = x[members].astype(np.int64)
        mask = sum(1 << k for k in members)
        expected = [
            mine.sum(), mine.min(), (mine % 2**32).max(), np.bitwise_and.reduce(mine | 5),
            sum(1 << k for k in members if x[k] & 3 == x[lane] & 3), mask + 1 if lane % 3 == 0 else 0,
            sum(1 << k for k in members if x[k] & 1 == x[lane] & 1),
        ]  # fmt: skip
        np.testing.assert_array_equal(y[:, lane].astype(np.uint32), [int(v) % 2**32 for v in expected], str(lane))
