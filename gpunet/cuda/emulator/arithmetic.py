"""Arithmetic, comparison, logic and conversion instructions of PTX as C++."""

from __future__ import annotations

from gpunet.cuda.emulator.operands import Operands, is_float
from gpunet.cuda.emulator.ptx import SIZES

ROUNDINGS = {"rn": "RN", "rz": "RZ", "rm": "RM", "rp": "RP", "rni": "RN", "rzi": "RZ", "rmi": "RM", "rpi": "RP"}
HALVES = {"f16": "Half", "bf16": "Brain", "f16x2": "Half", "bf16x2": "Brain"}
SIGNS = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
LOGIC = {"and": "&", "or": "|", "xor": "^"}
COMPARISONS = {
    "eq": "a == b", "ne": "a < b || a > b", "lt": "a < b", "le": "a <= b", "gt": "a > b", "ge": "a >= b",
    "equ": "!(a < b || a > b)", "neu": "a != b", "ltu": "!(a >= b)", "leu": "!(a > b)", "gtu": "!(a <= b)",
    "geu": "!(a < b)", "num": "a == a && b == b", "nan": "a != a || b != b",
    "lo": "a < b", "ls": "a <= b", "hi": "a > b", "hs": "a >= b",
}  # fmt: skip


def translate(c: Operands, parts: list[str], o: list[str]) -> str | None:
    """The C++ of one instruction, or None if it is not of this family."""
    family = _FAMILIES.get(parts[0])
    return family(c, parts, o) if family else None


def _kind(parts: list[str]) -> str:
    return next((p for p in reversed(parts) if p in SIZES), "")


def _rounding(parts: list[str], default: str = "RN") -> str:
    return next((ROUNDINGS[p] for p in parts if p in ROUNDINGS), default)


def _apply(c: Operands, o: list[str], kind: str, expression: str, kinds: dict[str, str] | None = None) -> str:
    """``d = expression`` of the operands a, b, c … of type `kind`, unless `kinds` names another."""
    names = "abcde"[: len(o) - 1]
    given = " ".join(
        f"const auto {n} = {c.read(x, (kinds or {}).get(n, kind))};" for n, x in zip(names, o[1:], strict=True)
    )
    return f"{{ {given} {c.write(o[0], (kinds or {}).get('d', kind), expression)} }}"


def _basic(c: Operands, parts: list[str], o: list[str]) -> str:
    """add, sub, mul, fma, mad, div of floats and integers."""
    kind, name = _kind(parts), parts[0]
    if kind in HALVES:
        return _half(c, parts, o)
    rounding = _rounding(parts)
    if is_float(kind):
        fused = name in ("fma", "mad")
        call = {"add": "add", "sub": "sub", "mul": "mul", "div": "quotient"}.get(name, "fma")
        if rounding == "RN" and not fused:
            text = f"a {SIGNS[name]} b"
        else:
            text = f"{call}<{rounding}>(a, b{', c' if fused else ''})"
        return _apply(c, o, kind, f"saturate({text})" if "sat" in parts else text)
    unsigned = "u" + kind[1:] if kind[0] == "s" else kind
    if name in ("add", "sub"):
        sign = "+" if name == "add" else "-"
        if "sat" in parts:
            return _apply(c, o, kind, f"clamp_int<s32>((s64)a {sign} (s64)b)")
        if "cc" in parts:
            return _carry(c, parts, o)
        return _apply(c, o, unsigned, f"a {sign} b")
    if name == "div":
        return _apply(c, o, kind, "divide(a, b)")
    if "cc" in parts:
        return _carry(c, parts, o)
    plus = " + c" if name == "mad" else ""
    if "wide" in parts:
        wide = kind[0] + str(SIZES[kind] * 16)
        return _apply(c, o, kind, f"({wide})a * b{plus}", {"d": wide, "c": wide})
    if "hi" in parts:
        if "sat" in parts:
            return _apply(c, o, kind, "clamp_int<s32>((s64)mul_hi(a, b) + c)")
        return _apply(c, o, kind, f"mul_hi(a, b){plus}")
    if SIZES[kind] == 2:
        return _apply(c, o, unsigned, f"(u32)a * b{plus}")
    return _apply(c, o, unsigned, f"a * b{plus}")


def _carry(c: Operands, parts: list[str], o: list[str]) -> str:
    """Extended precision: `cc` is the carry."""
    kind, name = _kind(parts), parts[0]
    bits = SIZES[kind] * 8
    wide = "u64" if bits == 32 else "u128"
    unsigned = f"u{bits}"
    carry_in = " + cc" if name in ("addc", "madc") else " - cc" if name == "subc" else ""
    if name in ("add", "addc"):
        text = f"({wide})a + b{carry_in}"
    elif name in ("sub", "subc"):
        text = f"({wide})a - b{carry_in}"
    else:
        product = "mul_hi(a, b)" if "hi" in parts else "a * b"
        kind_of = kind if "hi" in parts else unsigned
        given = f"const {kind_of} a = {c.read(o[1], kind_of)}, b = {c.read(o[2], kind_of)};"
        given += f" const {unsigned} e = {c.read(o[3], unsigned)};"
        total = f"const {wide} sum = ({wide})({unsigned})({product}) + e{carry_in};"
        out = f"cc = (sum >> {bits}) & 1;" if "cc" in parts else ""
        return f"{{ {given} {total} {out} {c.write(o[0], unsigned, f'({unsigned})sum')} }}"
    given = f"const {unsigned} a = {c.read(o[1], unsigned)}, b = {c.read(o[2], unsigned)}; const {wide} sum = {text};"
    out = f"cc = (sum >> {bits}) & 1;" if "cc" in parts else ""
    return f"{{ {given} {out} {c.write(o[0], unsigned, f'({unsigned})sum')} }}"


def _mul24(c: Operands, parts: list[str], o: list[str]) -> str:
    kind = _kind(parts)
    product = "((u64)(a & 0xffffff) * (b & 0xffffff))"
    if kind == "s32":
        product = "((s64)((s32)(a << 8) >> 8) * ((s32)(b << 8) >> 8))"
    shifted = f"({product} >> 16)" if "hi" in parts else product
    return _apply(c, o, kind, f"({kind}){shifted}{' + c' if parts[0] == 'mad24' else ''}")


def _half(c: Operands, parts: list[str], o: list[str]) -> str:
    """f16, bf16 and their pairs: each operation in float, rounded once."""
    kind, name = _kind(parts), parts[0]
    half = HALVES[kind]
    texts = {
        "add": "a + b", "sub": "a - b", "mul": "a * b", "min": "lesser<f32>(a, b)", "max": "larger<f32>(a, b)",
        "ex2": "exp2f(a)", "tanh": "tanhf(a)",
    }  # fmt: skip
    if "NaN" in parts:
        texts |= {"min": "lesser<f32, true>(a, b)", "max": "larger<f32, true>(a, b)"}
    names = "abc"[: len(o) - 1]
    if name in ("neg", "abs"):
        mask = {"neg": "a ^ 0x8000", "abs": "a & 0x7fff"}[name]
        one = f"[](u16 a) -> u16 {{ return {mask}; }}"
    elif name == "fma":
        post = "saturate(r)" if "sat" in parts else "(r != r ? r : r > 0 ? r : 0)" if "relu" in parts else "r"
        one = f"[](u16 a, u16 b, u16 c) -> u16 {{ return half_fma<{half}>([](f64 r) {{ return (f64){post}; }}, a, b, c); }}"
    elif name in texts:
        text = texts[name]
        if "sat" in parts:
            text = f"saturate<f32>({text})"
        if "xorsign" in parts:
            text = texts[name].replace("a, b", "fabsf(a), fabsf(b)")
            text = f"copysignf({text}, (__builtin_signbit(a) != __builtin_signbit(b)) ? -1.0f : 1.0f)"
        declared = ", ".join(f"f32 {n}" for n in names)
        words = ", ".join(f"u16 {n}" for n in names)
        in_float = f"[]({declared}) -> f32 {{ return {text}; }}"
        one = f"[]({words}) -> u16 {{ return of_half<{half}>({in_float}, {', '.join(names)}); }}"
    else:
        c.unknown()
    if kind.endswith("x2"):
        return _apply(c, o, kind, f"each_half({one}, {', '.join(names)})")
    return _apply(c, o, kind, f"({one})({', '.join(names)})")


def _unary(c: Operands, parts: list[str], o: list[str]) -> str:
    kind, name = _kind(parts), parts[0]
    if kind in HALVES:
        return _half(c, parts, o)
    if name == "abs":
        text = f"{'fabsf' if kind == 'f32' else 'fabs'}(a)" if is_float(kind) else f"(a < 0 ? ({kind})(0 - (u64)a) : a)"
    elif name == "neg":
        text = "negate(a)" if is_float(kind) else f"({kind})(0 - (u64)a)"
    elif name == "not":
        text = "!a" if kind == "pred" else "~a"
    else:
        text = "a == 0 ? 1 : 0"  # cnot
    return _apply(c, o, kind, text)


def _extremum(c: Operands, parts: list[str], o: list[str]) -> str:
    kind, name = _kind(parts), parts[0]
    if kind in HALVES:
        return _half(c, parts, o)
    if not is_float(kind):
        if "relu" in parts:
            return _apply(
                c,
                o,
                kind,
                f"(a {'<' if name == 'min' else '>'} b ? a : b) < 0 ? 0 : (a {'<' if name == 'min' else '>'} b ? a : b)",
            )
        return _apply(c, o, kind, f"a {'<' if name == 'min' else '>'} b ? a : b")
    call = f"{'lesser' if name == 'min' else 'larger'}<{kind}{', true' if 'NaN' in parts else ''}>"
    if "xorsign" in parts:
        text = f"copysignf({call}(fabsf(a), fabsf(b)), (__builtin_signbit(a) != __builtin_signbit(b)) ? -1.0f : 1.0f)"
        return _apply(c, o, kind, text)
    return _apply(c, o, kind, f"{call}({call}(a, b), c)" if len(o) == 4 else f"{call}(a, b)")


def _function(c: Operands, parts: list[str], o: list[str]) -> str:
    """rcp, sqrt, rsqrt, sin, cos, lg2, ex2, tanh."""
    kind, name = _kind(parts), parts[0]
    if kind in HALVES:
        return _half(c, parts, o)
    rounding, f = _rounding(parts), "f" if kind == "f32" else ""
    text = {
        "rcp": "reciprocal(a)" if rounding == "RN" else f"quotient<{rounding}>(({kind})1, a)",
        "sqrt": f"square_root<{rounding}>(a)",
        "rsqrt": "reciprocal_root(a)", "sin": f"sin{f}(a)", "cos": f"cos{f}(a)", "lg2": f"log2{f}(a)",
        "ex2": f"exp2{f}(a)", "tanh": f"tanh{f}(a)",
    }[name]  # fmt: skip
    if name in ("rcp", "rsqrt") and kind == "f64" and "approx" in parts:  # the low half of the result is zero
        text = f"bits<f64>(bits<u64>({text}) & 0xffffffff00000000ull)"
    return _apply(c, o, kind, text)


def _integer(c: Operands, parts: list[str], o: list[str]) -> str:
    """Integer instructions that are one function."""
    kind, name = _kind(parts), parts[0]
    t = kind if kind[0] in "us" else "u" + kind[1:]
    if name == "rem":
        return _apply(c, o, kind, "remainder(a, b)")
    if name == "sad":
        return _apply(c, o, kind, "c + (a < b ? b - a : a - b)")
    if name == "popc":
        return _apply(c, o, "u" + kind[1:], "(u32)__builtin_popcountll(a)", {"d": "u32"})
    if name == "clz":
        return _apply(c, o, "u" + kind[1:], "leading_zeros(a)", {"d": "u32"})
    if name == "brev":
        return _apply(c, o, "u" + kind[1:], "reverse(a)")
    if name == "bfind":
        u = "u" + kind[1:]
        value = "a" if kind[0] == "u" else f"({u})(a < 0 ? ~a : a)"
        return _apply(
            c, o, kind, f"find_leading<{u}>({value}, {'true' if 'shiftamt' in parts else 'false'})", {"d": "u32"}
        )
    if name == "fns":
        return _apply(c, o, "u32", "find_nth(a, b, c)", {"c": "s32"})
    if name == "bfe":
        return _apply(c, o, kind, f"field_extract<{t}>(a, b, c)", {"b": "u32", "c": "u32"})
    if name == "bfi":
        return _insert(c, kind, o)
    if name == "shl":
        return _apply(c, o, "u" + kind[1:], "shift_left(a, b)", {"b": "u32"})
    if name == "shr":
        return _apply(c, o, t, "shift_right(a, b)", {"b": "u32"})
    if name == "shf":
        amount = "(c & 31)" if "wrap" in parts else "(c < 32 ? c : 32)"
        return _apply(c, o, "u32", f"funnel_{'left' if 'l' in parts else 'right'}(a, b, {amount})")
    if name == "prmt":
        mode = next((p.upper() for p in parts if p in ("f4e", "b4e", "rc8", "ecl", "ecr", "rc16")), "")
        return _apply(c, o, "u32", f"permute_mode(a, b, c, {mode})" if mode else "permute(a, b, c)")
    if name == "lop3":
        if len(o) != 5:
            c.unknown()
        table = c.read(o[4], "u32")
        return _apply(c, o[:4], "u32", f"logic3(a, b, c, {table})")
    sides = [f"{p[0]}{8 if name == 'dp4a' or i else 16}" for i, p in enumerate(p for p in parts if p in ("u32", "s32"))]
    if name == "dp4a":
        return _apply(c, o, "u32", f"dot4<{', '.join(sides)}>(a, b, c)")
    return _apply(c, o, "u32", f"dot2<{', '.join(sides)}>(a, b, c, {'1' if 'hi' in parts else '0'})")


def _insert(c: Operands, kind: str, o: list[str]) -> str:
    t = "u" + kind[1:]
    values = ", ".join([c.read(o[1], t), c.read(o[2], t), c.read(o[3], "u32"), c.read(o[4], "u32")])
    return c.write(o[0], t, f"field_insert<{t}>({values})")


def _logic(c: Operands, parts: list[str], o: list[str]) -> str:
    return _apply(c, o, _kind(parts), f"a {LOGIC[parts[0]]} b")


def _compare_text(c: Operands, comparison: str, kind: str, a: str, b: str) -> str:
    """A comparison as a bool expression; half types compare as floats."""
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
    word = next((p for p in parts if p in ("and", "or", "xor")), "")
    return f"({text} {LOGIC.get(word, '&')} {other})"


def _setp(c: Operands, parts: list[str], o: list[str]) -> str:
    kind, targets = _kind(parts), [x.strip() for x in o[0].split("|")]
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
    """set: all ones or 1.0 where a comparison holds."""
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
    kind = _kind(parts)
    if parts[0] == "selp":
        return c.write(o[0], kind, f"{c.read(o[3], 'pred')} ? {c.read(o[1], kind)} : {c.read(o[2], kind)}")
    to, of = [p for p in parts if p in SIZES]
    return c.write(o[0], to, f"{c.read(o[3], of)} >= 0 ? {c.read(o[1], to)} : {c.read(o[2], to)}")


def _copysign(c: Operands, parts: list[str], o: list[str]) -> str:
    f = "f" if _kind(parts) == "f32" else ""
    return _apply(c, o, _kind(parts), f"copysign{f}(b, a)")


def _testp(c: Operands, parts: list[str], o: list[str]) -> str:
    kind = _kind(parts)
    lowest = "0x1p-126f" if kind == "f32" else "0x1p-1022"
    text = {
        "finite": "__builtin_isfinite(a)", "infinite": "__builtin_isinf(a)", "number": "a == a", "notanumber": "a != a",
        "normal": f"__builtin_isfinite(a) && fabs(a) >= {lowest}", "subnormal": f"a != 0 && fabs(a) < {lowest}",
    }[parts[1]]  # fmt: skip
    return _apply(c, o, kind, text, {"d": "pred"})


def _convert(c: Operands, parts: list[str], o: list[str]) -> str:
    """cvt between integers, floats, half precision and tf32."""
    kinds = [p for p in parts if p in SIZES or p == "tf32"]
    if len(kinds) != 2 or any(p in parts for p in ("scaled", "rs", "satfinite")):
        c.unknown()
    to, of = kinds
    rounding = _rounding(parts)
    if to == "tf32":
        text = f"to_tf32(a, {'true' if 'rna' in parts else 'false'})"
        return _apply(c, o, of, f"(a > 0 ? {text} : a != a ? {text} : 0u)" if "relu" in parts else text, {"d": "b32"})
    if to in ("f16x2", "bf16x2"):
        if of != "f32" or len(o) != 3:
            c.unknown()
        one = f"to_half<{rounding}, {HALVES[to]}>"
        text = "(x > 0 || x != x ? x : 0.0f)" if "relu" in parts else "x"
        return _apply(
            c, o, "f32", f"(u32){one}({text.replace('x', 'a')}) << 16 | {one}({text.replace('x', 'b')})", {"d": "u32"}
        )
    if of in HALVES:
        value, wide = f"{HALVES[of]}::wide(a)", "f32"
    else:
        value, wide = "a", of
    if to in HALVES or is_float(to):
        text = _to_float(to, wide, value, parts, rounding)
        return _apply(c, o, of, text, {"d": to})
    if wide in ("f32", "f64"):
        return _apply(
            c, o, of, f"to_int<{to}, {rounding if rounding != 'RN' or 'rni' in parts else 'RZ'}>({value})", {"d": to}
        )
    return _apply(
        c, o, of, f"clamp_int<{to}>(a)" if "sat" in parts else f"({to if to[0] in 'us' else 'u' + to[1:]})a", {"d": to}
    )


def _to_float(to: str, wide: str, value: str, parts: list[str], rounding: str) -> str:
    target = "f32" if to in HALVES else to
    if not is_float(wide):
        text = f"int_to_{'f64' if to in HALVES else target}<{rounding if to not in HALVES else 'RN'}, {wide}>({value})"
        source = "f64" if to in HALVES else target
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
    **dict.fromkeys(("add", "sub", "mul", "fma", "mad", "div"), _basic),
    **dict.fromkeys(("addc", "subc", "madc"), _carry),
    **dict.fromkeys(("mul24", "mad24"), _mul24),
    **dict.fromkeys(("abs", "neg", "not", "cnot"), _unary),
    **dict.fromkeys(("min", "max"), _extremum),
    **dict.fromkeys(("rcp", "sqrt", "rsqrt", "sin", "cos", "lg2", "ex2", "tanh"), _function),
    **dict.fromkeys(
        ("rem", "sad", "popc", "clz", "brev", "bfind", "fns", "bfe", "bfi", "shl", "shr", "shf", "prmt", "lop3", "dp4a",
         "dp2a"),
        _integer,
    ),
    **dict.fromkeys(("and", "or", "xor"), _logic),
    "setp": _setp,
    "set": _set,
    **dict.fromkeys(("selp", "slct"), _select),
    "copysign": _copysign,
    "testp": _testp,
    "cvt": _convert,
}  # fmt: skip
