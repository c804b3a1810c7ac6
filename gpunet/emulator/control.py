"""Translates instructions that trap, synchronise, or work on a whole warp."""

from __future__ import annotations

from gpunet.emulator.memory import shared_offset
from gpunet.emulator.operands import Operands

SYNCHRONISING = (
    "bar", "barrier", "shfl", "vote", "activemask", "redux", "match", "ldmatrix", "stmatrix", "mma", "elect", "mbarrier",
)  # fmt: skip
"""Instructions at which a thread may wait, by first word; kernels that have any run on fibers."""
NOTHING = ("griddepcontrol", "setmaxnreg", "pmevent")
ELEMENTS = {
    "f16": "E_F16",
    "bf16": "E_BF16",
    "tf32": "E_TF32",
    "f32": "E_F32",
    "s8": "E_S8",
    "u8": "E_U8",
    "s32": "E_S32",
}
MMA_SHAPES = {
    ("m16n8k8", "f16"), ("m16n8k8", "bf16"), ("m16n8k8", "tf32"), ("m16n8k4", "tf32"), ("m16n8k16", "f16"),
    ("m16n8k16", "bf16"), ("m16n8k16", "s8"), ("m16n8k16", "u8"), ("m16n8k32", "s8"), ("m16n8k32", "u8"),
}  # fmt: skip


def translate(c: Operands, parts: list[str], o: list[str]) -> str | None:
    """Return the C++ of one instruction, or None if it is of another family."""
    family = _FAMILIES.get(parts[0])
    if family is not None:
        return family(c, parts, o)
    return ";" if parts[0] in NOTHING else None


def _trap(c: Operands, parts: list[str], o: list[str]) -> str:
    return f'emu_trap(m, t, "trap", "{parts[0]}", {c.site});'


def _fence(c: Operands, parts: list[str], o: list[str]) -> str:
    return "emu_fence(m, t);"


def _nanosleep(c: Operands, parts: list[str], o: list[str]) -> str:
    return f"emu_yield(m, t, {c.site});"


def _barrier(c: Operands, parts: list[str], o: list[str]) -> str:
    """Translate bar and barrier (sync, arrive, red), and bar.warp.sync."""
    if "cluster" in parts:
        return ";" if "arrive" in parts else f"emu_barrier(t, 0, 0, BAR_SYNC, {c.site});"
    if "warp" in parts:
        return f"emu_warp(m, t, SYNC, {c.read(o[0], 'u32')}, {c.site});"
    aligned = " | ALIGNED" if parts[0] == "bar" or "aligned" in parts else ""
    if "red" in parts:
        operation = next(p for p in parts if p in ("popc", "and", "or"))
        count = c.read(o[2], "u32") if len(o) == 4 else "0"
        how = f"BAR_{operation.upper()}{aligned} | ({c.read(o[-1], 'pred')} ? PREDICATE : 0)"
        call = f"emu_barrier(t, {c.read(o[1], 'u32')}, {count}, {how}, {c.site})"
        return c.write(o[0], "u32" if operation == "popc" else "pred", call if operation == "popc" else f"{call} != 0")
    operation = "BAR_ARRIVE" if "arrive" in parts else "BAR_SYNC"
    count = c.read(o[1], "u32") if len(o) > 1 else "0"
    return f"emu_barrier(t, {c.read(o[0], 'u32')}, {count}, {operation}{aligned}, {c.site});"


def _warp(c: Operands, kind: str, mask: str, values: list[str], results: list[tuple[str, str]]) -> str:
    """Return a warp operation: operands go to in[], results (register, type) come from out[]."""
    stores = " ".join(f"t->in[{i}] = {v};" for i, v in enumerate(values))
    loads = " ".join(c.write(r, k, f"t->out[{i}]") for i, (r, k) in enumerate(results) if r != "_")
    return f"{{ const u32 mask = {mask}; {stores} emu_warp(m, t, {kind}, mask, {c.site}); {loads} }}"


def _shuffle(c: Operands, parts: list[str], o: list[str]) -> str:
    if "sync" not in parts:
        c.unknown()
    kind = next(p for p in parts if p in ("up", "down", "bfly", "idx"))
    targets = [x.strip() for x in o[0].split("|")]
    results = list(zip(targets, ("u32", "pred"), strict=False))
    return _warp(c, f"SHFL_{kind.upper()}", c.read(o[4], "u32"), [c.read(x, "u32") for x in o[1:4]], results)


def _vote(c: Operands, parts: list[str], o: list[str]) -> str:
    if "sync" not in parts:
        c.unknown()
    kind = next(p for p in parts if p in ("all", "any", "uni", "ballot"))
    result = "u32" if kind == "ballot" else "pred"
    return _warp(c, f"VOTE_{kind.upper()}", c.read(o[2], "u32"), [f"(u32)({c.read(o[1], 'pred')})"], [(o[0], result)])


def _activemask(c: Operands, parts: list[str], o: list[str]) -> str:
    return _warp(c, "ACTIVEMASK", "0", [], [(o[0], "u32")])


def _redux(c: Operands, parts: list[str], o: list[str]) -> str:
    kind = next(p for p in parts if p in ("add", "min", "max", "and", "or", "xor"))
    suffix = {"s32": "_S", "u32": "_U"}.get(parts[-1], "") if kind in ("min", "max") else ""
    if parts[-1] == "f32":
        c.unknown()
    return _warp(c, f"REDUX_{kind.upper()}{suffix}", c.read(o[2], "u32"), [c.read(o[1], "u32")], [(o[0], "u32")])


def _match(c: Operands, parts: list[str], o: list[str]) -> str:
    kind = "ANY" if "any" in parts else "ALL"
    wide = parts[-1] == "b64"
    value = c.read(o[1], "u64" if wide else "u32")
    values = [f"(u32)({value})", f"(u32)(({value}) >> 32)"] if wide else [value]
    results = list(zip([x.strip() for x in o[0].split("|")], ("u32", "pred"), strict=False))
    return _warp(c, f"MATCH_{kind}{64 if wide else 32}", c.read(o[2], "u32"), values, results)


def _elect(c: Operands, parts: list[str], o: list[str]) -> str:
    results = list(zip([x.strip() for x in o[0].split("|")], ("u32", "pred"), strict=False))
    return _warp(c, "ELECT", c.read(o[1], "u32"), [], results)


def _matrix(c: Operands, parts: list[str], o: list[str]) -> str:
    """Translate ldmatrix and stmatrix of 8 x 8 elements of 16 bits."""
    count = next((int(p[1:]) for p in parts if p in ("x1", "x2", "x4")), 0)
    if not count or "m8n8" not in parts or parts[-1] != "b16":
        c.unknown()
    trans = "_TRANS" if "trans" in parts else ""
    loads = parts[0] == "ldmatrix"
    at = f"(u32)({shared_offset(c, parts, o[1] if loads else o[0])})"
    elements = c.vector(o[0] if loads else o[1])
    values = [at, str(count), *([] if loads else [c.read(e, "u32") for e in elements])]
    noted = c.note("shared", "matrix", 16, at, "")
    if noted:
        noted = f"if (t->lane < {8 * count}) {{ {noted} }} "
    return noted + _warp(
        c, f"{'LD' if loads else 'ST'}MATRIX{trans}", "~0u", values, [(e, "u32") for e in elements] if loads else []
    )


def _mma(c: Operands, parts: list[str], o: list[str]) -> str:
    """Translate dense mma.sync. wgmma and tcgen05 would be added here."""
    shape = next((p for p in parts if p.startswith("m") and "n" in p and "k" in p), "")
    d, a, b, total = parts[-4:]
    if (
        (shape, a) not in MMA_SHAPES
        or "row" not in parts
        or "col" not in parts
        or any(x not in ELEMENTS for x in (d, b, total))
        or "sp" in parts
        or "satfinite" in parts
    ):
        c.unknown()
    k = int(shape.partition("k")[2])
    packed = " | ".join([str(k), *(f"{ELEMENTS[x]} << {8 + 4 * i}" for i, x in enumerate((a, b, total, d)))])
    values = [c.read(e, "u32") for operand in o[1:4] for e in c.vector(operand)]
    stores = " ".join(f"t->in[{i}] = {v};" for i, v in enumerate(values))
    loads = " ".join(c.write(e, "u32", f"t->out[{i}]") for i, e in enumerate(c.vector(o[0])))
    return f"{{ {stores} t->in[15] = {packed}; emu_warp(m, t, MMA, ~0u, {c.site}); {loads} }}"


def _mbarrier(c: Operands, parts: list[str], o: list[str]) -> str:
    name = parts[1]
    if any(p in parts for p in ("expect_tx", "complete_tx", "pending_count", "shared::cluster")):
        c.unknown()
    if name == "init":
        return f"emu_mbarrier_init(m, t, {shared_offset(c, parts, o[0])}, {c.read(o[1], 'u32')}, {c.site});"
    if name == "inval":
        return ";"
    if name in ("arrive", "arrive_drop"):
        count = c.read(o[2], "u32") if len(o) > 2 else "1"
        call = f"emu_mbarrier_arrive(m, t, {shared_offset(c, parts, o[1])}, {count}, {int(name == 'arrive_drop')}, {c.site})"
        return c.write(o[0], "u64", call)
    if name not in ("test_wait", "try_wait"):
        c.unknown()
    parity = "parity" in parts
    wanted = c.read(o[2], "u32" if parity else "u64")
    how = f"{int(parity)}, {int(name == 'try_wait')}, {c.site}"
    call = f"emu_mbarrier_test(m, t, {shared_offset(c, parts, o[1])}, {wanted}, {how})"
    return c.write(o[0], "pred", f"{call} != 0")


_FAMILIES = {
    "trap": _trap, "brkpt": _trap, "membar": _fence, "fence": _fence, "nanosleep": _nanosleep, "bar": _barrier,
    "barrier": _barrier, "shfl": _shuffle, "vote": _vote, "activemask": _activemask, "redux": _redux, "match": _match,
    "elect": _elect, "ldmatrix": _matrix, "stmatrix": _matrix, "mma": _mma, "mbarrier": _mbarrier,
}  # fmt: skip
