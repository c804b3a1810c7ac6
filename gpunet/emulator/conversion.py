"""Translates comparison, selection and conversion instructions to C++."""

from __future__ import annotations

from gpunet.emulator.operands import HALVES, Operands, apply, is_float, kind_of, rounding_of
from gpunet.emulator.ptx import SIZES

COMPARISONS = {
    "eq": "a == b", "ne": "a < b || a > b", "lt": "a < b", "le": "a <= b", "gt": "a > b", "ge": "a >= b",
    "equ": "!(a < b || a > b)", "neu": "a != b", "ltu": "!(a >= b)", "leu": "!(a > b)", "gtu": "!(a <= b)",
    "geu": "!(a < b)", "num": "a == a && b == b", "nan": "a != a || b != b",
    "lo": "a < b", "ls": "a <= b", "hi": "a > b", "hs": "a >= b",
}  # fmt: skip
"""The C++ of each comparison. Those of floats that end in u also hold if an operand is NaN. The
last four compare unsigned integers."""
COMBINED = {"and": "&", "or": "|", "xor": "^"}


def translate(c: Operands, parts: list[str], o: list[str]) -> str | None:
    """Return the C++ of one instruction, or None if it is of another family."""
    family = _FAMILIES.get(parts[0])
    return family(c, parts, o) if family else None


def _compare_text(c: Operands, comparison: str, kind: str, a: str, b: str) -> str:
    """Return a comparison as a bool expression; 16-bit floats are compared as f32."""
    if comparison not in COMPARISONS:
        c.unknown()
    text = COMPARISONS[comparison]
    if comparison == "ne" and not is_float(kind) and kind not in HALVES:
        text = "a != b"
    if kind in HALVES:
        wide = HALVES[kind]
        return f"[](f32 a, f32 b) -> bool {{ return {text}; }}({wide}::wide({a}), {wide}::wide({b}))"
    if text in ("a == b", "a < b", "a <= b", "a > b", "a >= b", "a != b"):
        return f"({a} {text[2:-2]} {b})"
    return f"[]({kind} a, {kind} b) -> bool {{ return {text}; }}({a}, {b})"


def _combine(c: Operands, parts: list[str], text: str, third: str | None) -> str:
    if third is None:
        return text
    other = c.read(third, "pred")
    sign = next((COMBINED[p] for p in parts if p in COMBINED), "&")
    return f"({text} {sign} {other})"


def _setp(c: Operands, parts: list[str], o: list[str]) -> str:
    kind, targets = kind_of(parts), [x.strip() for x in o[0].split("|")]
    third = o[3] if len(o) > 3 else None
    if kind.endswith("x2"):
        half = kind[:-2]
        a, b = c.read(o[1], "u32"), c.read(o[2], "u32")
        low = _compare_text(c, parts[1], half, f"(u16)({a})", f"(u16)({b})")
        high = _compare_text(c, parts[1], half, f"(u16)({a} >> 16)", f"(u16)({b} >> 16)")
        values = [_combine(c, parts, low, third), _combine(c, parts, high, third)]
    else:
        text = _compare_text(c, parts[1], kind, c.read(o[1], kind), c.read(o[2], kind))
        if len(targets) == 1:
            return c.write(targets[0], "pred", _combine(c, parts, text, third))
        values = [_combine(c, parts, text, third), _combine(c, parts, f"!({text})", third)]
    writes = " ".join(c.write(target, "pred", f"q{i}") for i, target in enumerate(targets))
    return f"{{ const bool q0 = {values[0]}, q1 = {values[1]}; (void)q1; {writes} }}"


def _set(c: Operands, parts: list[str], o: list[str]) -> str:
    """Translate set: all ones, or 1.0, where a comparison holds."""
    kinds = [p for p in parts if p in SIZES]
    to, of = kinds[0], kinds[-1]
    third = o[3] if len(o) > 3 else None
    if of.endswith("x2"):
        half = of[:-2]
        one = ("0x3c00u" if to == "f16x2" else "0x3f80u") if to in HALVES else "0xffffu"
        a, b = c.read(o[1], "u32"), c.read(o[2], "u32")
        low = _compare_text(c, parts[1], half, f"(u16)({a})", f"(u16)({b})")
        high = _compare_text(c, parts[1], half, f"(u16)({a} >> 16)", f"(u16)({b} >> 16)")
        text = (
            f"({_combine(c, parts, low, third)} ? {one} : 0u) | ({_combine(c, parts, high, third)} ? {one} : 0u) << 16"
        )
        return c.write(o[0], "u32", text)
    text = _combine(c, parts, _compare_text(c, parts[1], of, c.read(o[1], of), c.read(o[2], of)), third)
    true = {"f32": "1.0f", "f16": "0x3c00", "bf16": "0x3f80"}.get(to, "-1")
    return c.write(o[0], to, f"{text} ? {true} : {'0.0f' if to == 'f32' else '0'}")


def _select(c: Operands, parts: list[str], o: list[str]) -> str:
    kind = kind_of(parts)
    if parts[0] == "selp":
        return c.write(o[0], kind, f"{c.read(o[3], 'pred')} ? {c.read(o[1], kind)} : {c.read(o[2], kind)}")
    to, of = [p for p in parts if p in SIZES]
    return c.write(o[0], to, f"{c.read(o[3], of)} >= 0 ? {c.read(o[1], to)} : {c.read(o[2], to)}")


def _testp(c: Operands, parts: list[str], o: list[str]) -> str:
    """Translate testp, on bits: a launch that flushes denormals compares them as zero."""
    kind = kind_of(parts)
    word, exponent = ("u32", "0x7f800000u") if kind == "f32" else ("u64", "0x7ff0000000000000ull")
    of_zero, of_infinity = (f"(bits<{word}>(a) & {exponent}) == {e}" for e in ("0", exponent))
    text = {
        "finite": f"!({of_infinity})", "infinite": f"{of_infinity} && a == a", "number": "a == a", "notanumber": "a != a",
        "normal": f"!({of_infinity}) && !({of_zero})", "subnormal": f"{of_zero} && bits<{word}>(a) << 1",
    }[parts[1]]  # fmt: skip
    return apply(c, o, kind, text, {"d": "pred"})


def _convert(c: Operands, parts: list[str], o: list[str]) -> str:
    """Translate cvt between integers, floats, 16-bit floats and tf32."""
    kinds = [p for p in parts if p in SIZES or p == "tf32"]
    if len(kinds) != 2 or any(p in parts for p in ("scaled", "rs", "satfinite")):
        c.unknown()
    to, of = kinds
    rounding = rounding_of(parts)
    if to == "tf32":
        text = f"to_tf32(a, {'true' if 'rna' in parts else 'false'})"
        return apply(c, o, of, f"(a > 0 ? {text} : a != a ? {text} : 0u)" if "relu" in parts else text, {"d": "b32"})
    if to in ("f16x2", "bf16x2"):
        if of != "f32" or len(o) != 3:
            c.unknown()
        one = f"to_half<{rounding}, {HALVES[to]}>"
        text = "(x > 0 || x != x ? x : 0.0f)" if "relu" in parts else "x"
        return apply(
            c, o, "f32", f"(u32){one}({text.replace('x', 'a')}) << 16 | {one}({text.replace('x', 'b')})", {"d": "u32"}
        )
    if of in HALVES:
        value, wide = f"{HALVES[of]}::wide(a)", "f32"
    else:
        value, wide = "a", of
    if to in HALVES or is_float(to):
        text = _to_float(to, wide, value, parts, rounding)
        return apply(c, o, of, text, {"d": to})
    if wide in ("f32", "f64"):
        return apply(
            c, o, of, f"to_int<{to}, {rounding if rounding != 'RN' or 'rni' in parts else 'RZ'}>({value})", {"d": to}
        )
    return apply(
        c, o, of, f"clamp_int<{to}>(a)" if "sat" in parts else f"({to if to[0] in 'us' else 'u' + to[1:]})a", {"d": to}
    )


def _to_float(to: str, wide: str, value: str, parts: list[str], rounding: str) -> str:
    target = "f32" if to in HALVES else to
    if not is_float(wide) and to in HALVES:
        text, source = f"to_odd<f64>((long double){value})", "f64"
    elif not is_float(wide):
        text, source = f"int_to_{target}<{rounding}, {wide}>({value})", target
    elif wide == target and to not in HALVES:
        integral = any(p in parts for p in ("rni", "rzi", "rmi", "rpi"))
        text, source = f"to_integral<{rounding}>({value})" if integral else value, target
    elif wide == "f64" and target == "f32" and to not in HALVES:
        text, source = f"to_f32<{rounding}>({value})", "f32"
    else:
        text, source = f"({target}){value}" if to not in HALVES else value, wide if to in HALVES else target
    if "sat" in parts:
        text = f"saturate<{source}>({text})"
    if "relu" in parts:
        text = f"[]({source} x) {{ return x > 0 || x != x ? x : ({source})0; }}({text})"
    if to in HALVES:
        integral = any(p in parts for p in ("rni", "rzi", "rmi", "rpi"))
        if integral:
            text, rounding = f"to_integral<{rounding}>({text})", "RN"
        text = f"to_half<{rounding}, {HALVES[to]}>({text})"
    return text


_FAMILIES = {
    "setp": _setp, "set": _set, "selp": _select, "slct": _select, "testp": _testp, "cvt": _convert,
}  # fmt: skip
