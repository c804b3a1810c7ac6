"""Translates instructions that move data: moves, loads, stores, atomics, copies, address spaces."""

from __future__ import annotations

from gpunet.emulator.operands import C_TYPES, Operands, is_float, kind_of
from gpunet.emulator.ptx import SIZES

SPACES = ("global", "shared", "local", "param", "const")
STRONG = ("volatile", "relaxed", "acquire", "release", "mmio")
RELEASING = ("release", "acq_rel")
NOTHING = ("prefetch", "prefetchu", "discard", "applypriority", "createpolicy")


def translate(c: Operands, parts: list[str], o: list[str]) -> str | None:
    """Return the C++ of one instruction, or None if it is of another family."""
    name = parts[0]
    if name == "mov":
        return _move(c, parts, o)
    if name in ("ld", "ldu"):
        return _load(c, parts, o)
    if name == "st":
        return _store(c, parts, o)
    if name in ("atom", "red"):
        return _atomic(c, parts, o)
    if name == "cvta":
        return _convert_address(c, parts, o)
    if name == "isspacep":
        return _in_space(c, parts, o)
    if name == "cp":
        return _copy(c, parts, o)
    if name in NOTHING:
        return ";"
    return None


def _space(parts: list[str]) -> str:
    return next((s for p in parts[1:] for s in SPACES if p == s or p.startswith(s + "::")), "generic")


def _place(c: Operands, space: str, operand: str, size: int, access: str) -> str:
    """Return a statement that declares ``p``, the host address of an access, and what counts it."""
    address, variable = c.address(operand)
    if space == "param" or (variable is not None and variable.space == "param"):
        return f"char* const p = (char*)({address});"
    constant = space == "const" or (variable is not None and variable.space == "const")
    if space == "const" or (space == "generic" and variable is not None):
        space = "global" if variable is None or variable.space != "shared" else "shared"
    base = "S" if space == "shared" else "nullptr"
    noted = "" if constant or space == "local" else _noted(c, space, size, access)
    return f"char* const p = {space}(m, t, {base}, {address}, {size}, {access}, {c.site});{noted}"


def _noted(c: Operands, space: str, size: int, access: str) -> str:
    """Return a statement that counts the access at ``p``; empty where nothing is counted."""
    kind = {"READ": "load", "READ | ATOMIC": "load", "READ | WRITE | ATOMIC": "atomic"}.get(access, "store")
    shared = c.note("shared", kind, size, "(u64)(p - S)", "") if space in ("shared", "generic") else ""
    other = c.note("global", kind, size, "(u64)p", "") if space in ("global", "generic") else ""
    if space == "generic" and shared:
        return f" if ((u64)(p - S) < m->shared_size) {{ {shared} }} else if (!on_stack(t, (u64)p)) {{ {other} }}"
    return f" {shared}{other}" if shared or other else ""


def _fence(parts: list[str]) -> str:
    """Return the fence that a releasing store contains; empty for another."""
    return "emu_fence(m, t); " if any(p in RELEASING for p in parts) else ""


def _counted(space: str, counter: str, size: int) -> str:
    if space == "global":
        return f"{counter} += {size};"
    if space == "generic":
        return f"if ((u64)(p - S) >= m->shared_size) {counter} += {size};"
    return ""


def _move(c: Operands, parts: list[str], o: list[str]) -> str:
    kind = kind_of(parts)
    if o[0].startswith("{"):  # split into elements, the low one first
        elements = c.vector(o[0])
        each = SIZES[kind] // len(elements)
        value = c.read(o[1], "u" + kind[1:] if kind != "b128" else kind)
        writes = " ".join(
            c.write(e, f"b{each * 8}", f"({C_TYPES[f'b{each * 8}']})(whole >> {i * each * 8})")
            for i, e in enumerate(elements)
        )
        return f"{{ const {C_TYPES[kind]} whole = {value}; {writes} }}"
    if o[1].startswith("{"):  # put together from elements
        elements = c.vector(o[1])
        each = SIZES[kind] // len(elements)
        terms = " | ".join(
            f"({C_TYPES[kind]}){c.read(e, f'b{each * 8}')} << {i * each * 8}" for i, e in enumerate(elements)
        )
        return c.write(o[0], kind, terms)
    return c.write(o[0], kind, c.read(o[1], kind))


def _load(c: Operands, parts: list[str], o: list[str]) -> str:
    kind, space, elements = kind_of(parts), _space(parts), c.vector(o[0])
    size = SIZES[kind]
    access = "READ | ATOMIC" if any(p in STRONG for p in parts) else "READ"
    gets = [f"const {C_TYPES[kind]} e{i} = get<{C_TYPES[kind]}>(p + {i * size});" for i in range(len(elements))]
    writes = [_widened(c, e, kind, f"e{i}") for i, e in enumerate(elements)]
    whole = size * len(elements)
    place = _place(c, space, o[1], whole, access)
    return f"{{ {place} {_counted(space, 'loaded', whole)} {' '.join(gets)} {' '.join(writes)} }}"


def _widened(c: Operands, target: str, kind: str, value: str) -> str:
    """Assign a loaded value to a register; a wider one is extended by the sign or by zeros."""
    declared = c.function.registers.get(target)
    if declared is not None and SIZES[declared] > SIZES[kind] and not is_float(declared):
        return f"{target} = ({C_TYPES[declared]}){value};"
    return c.write(target, kind, value)


def _store(c: Operands, parts: list[str], o: list[str]) -> str:
    kind, space, elements = kind_of(parts), _space(parts), c.vector(o[1])
    size = SIZES[kind]
    access = "WRITE | ATOMIC" if any(p in STRONG for p in parts) else "WRITE"
    puts = [f"put<{C_TYPES[kind]}>(p + {i * size}, {c.read(e, kind)});" for i, e in enumerate(elements)]
    whole = size * len(elements)
    place = _fence(parts) + _place(c, space, o[0], whole, access)
    return f"{{ {place} {_counted(space, 'stored', whole)} {' '.join(puts)} }}"


def _atomic(c: Operands, parts: list[str], o: list[str]) -> str:
    """Translate atom and red. No other thread runs between their read and their write."""
    kind, space = kind_of(parts), _space(parts)
    if parts[0] == "red" and "async" in parts:
        c.unknown()
    operation = next((p for p in parts[1:] if p in _UPDATES or p in ("cas", "exch")), "")
    target, address, values = ("_", o[0], o[1:]) if parts[0] == "red" else (o[0], o[1], o[2:])
    elements = c.vector(values[0])
    targets = c.vector(target) if target != "_" else ["_"] * len(elements)
    size, ctype = SIZES[kind], C_TYPES[kind]
    pieces = []
    for i, element in enumerate(elements):
        given = f"const auto b = {c.read(element, kind)};"
        if operation == "cas":
            given += f" const auto e = {c.read(values[1], kind)};"
            text = "old == b ? e : old"
        else:
            text = _update(c, operation, kind)
        write = "" if targets[i] == "_" else c.write(targets[i], kind, "old")
        at = f"p + {i * size}"
        update = f"const {ctype} old = get<{ctype}>({at}); put<{ctype}>({at}, ({ctype})({text}));"
        pieces.append(f"{{ {given} {update} {write} }}")
    whole = size * len(elements)
    place = _fence(parts) + _place(c, space, address, whole, "READ | WRITE | ATOMIC")
    counts = _counted(space, "loaded", whole) + _counted(space, "stored", whole)
    return f"{{ {place} {counts} {' '.join(pieces)} }}"


_UPDATES = {
    "add": "old + b", "and": "old & b", "or": "old | b", "xor": "old ^ b", "min": "old < b ? old : b",
    "max": "old > b ? old : b", "inc": "wrap_increment(old, b)", "dec": "wrap_decrement(old, b)",
}  # fmt: skip


def _update(c: Operands, operation: str, kind: str) -> str:
    if operation == "exch":
        return "b"
    if operation not in _UPDATES:
        c.unknown()
    if kind in ("f16", "bf16", "f16x2", "bf16x2"):
        half = "Half" if kind.startswith("f") else "Brain"
        text = {"add": "x + y", "min": "lesser<f32>(x, y)", "max": "larger<f32>(x, y)"}[operation]
        one = (
            f"[](u16 a, u16 b) -> u16 {{ return of_half<{half}>([](f32 x, f32 y) -> f32 {{ return {text}; }}, a, b); }}"
        )
        return f"each_half({one}, old, b)" if kind.endswith("x2") else f"({one})(old, b)"
    if kind[0] == "s" and operation == "add":
        return "(u64)old + (u64)b"
    return _UPDATES[operation]


def _convert_address(c: Operands, parts: list[str], o: list[str]) -> str:
    value = c.read(o[1], "u64")
    if _space(parts) == "shared":
        symbol = c.symbols(o[1].split("+")[0].strip())
        if symbol is not None and symbol[0].space != "shared":
            c.unknown()
        value = f"{value} - (u64)S" if "to" in parts else f"{value} + (u64)S"
    return c.write(o[0], "u64" if parts[-1] == "u64" else "u32", value if parts[-1] == "u64" else f"(u32)({value})")


def _in_space(c: Operands, parts: list[str], o: list[str]) -> str:
    at = c.read(o[1], "u64")
    shared = f"({at} - (u64)S < 262144)"
    text = {"shared": shared, "global": f"!{shared}"}.get(_space(parts))
    if text is None:
        text = f"on_stack(t, {at})" if _space(parts) == "local" else "false"
    elif _space(parts) == "global":
        text += f" && !on_stack(t, {at})"
    return c.write(o[0], "pred", text)


def _copy(c: Operands, parts: list[str], o: list[str]) -> str:
    """Translate cp.async and its groups. Hopper's cp.async.bulk would be added here."""
    if parts[1] != "async" or "bulk" in parts:
        c.unknown()
    if "commit_group" in parts:
        return "emu_copy_commit(m, t);"
    if "wait_group" in parts:
        return f"emu_copy_wait(m, t, {c.read(o[0], 'u32')}, 0);"
    if "wait_all" in parts:
        return "emu_copy_wait(m, t, 0, 1);"
    if "mbarrier" in parts:
        at = shared_offset(c, parts, o[0])
        count = "1" if "noinc" in parts else "0"
        return f"emu_copy_wait(m, t, 0, 1); if ({count}) emu_mbarrier_arrive(m, t, {at}, 1, 0, {c.site});"
    size = c.read(o[2], "u32")
    source = size
    rest = [x for x in o[3:] if not ("cache_hint" in c.instruction.opcode and x is o[-1])]
    if rest:
        declared = c.function.registers.get(rest[0].lstrip("!"))
        source = f"({c.read(rest[0], 'pred')} ? 0u : {size})" if declared == "pred" else c.read(rest[0], "u32")
    to, _ = c.address(o[0])
    origin, _ = c.address(o[1])
    wide = int(o[2], 0)
    noted = c.note("shared", "store", wide, f"(u64)(u32)({to})", "")
    if noted:
        noted += f" if (const u32 n = {source}) {{ {c.note('global', 'load', wide, origin, 'n')} }} "
    return f"{noted}emu_copy(m, t, (u32)({to}), {origin}, {size}, {source}, {c.site});"


def shared_offset(c: Operands, parts: list[str], operand: str) -> str:
    """Return the offset in shared memory of an object with a .shared or a generic address."""
    address, variable = c.address(operand)
    in_shared = _space(parts) == "shared" or (variable is not None and variable.space == "shared")
    return f"(u64)({address})" if in_shared else f"(u64)({address}) - (u64)S"
