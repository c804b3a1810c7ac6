"""Translates arithmetic and logic on floats, 16-bit floats, integers and bits to C++."""

from __future__ import annotations

from gpunet.emulator.operands import HALVES, Operands, apply, is_float, kind_of, rounding_of
from gpunet.emulator.ptx import SIZES

SIGNS = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
LOGIC = {"and": "&", "or": "|", "xor": "^"}


def translate(c: Operands, parts: list[str], o: list[str]) -> str | None:
    """Return the C++ of one instruction, or None if it is of another family."""
    family = _FAMILIES.get(parts[0])
    return family(c, parts, o) if family else None


def _basic(c: Operands, parts: list[str], o: list[str]) -> str:
    """Translate add, sub, mul, fma, mad and div of floats and integers."""
    kind, name = kind_of(parts), parts[0]
    if kind in HALVES:
        return _half(c, parts, o)
    rounding = rounding_of(parts)
    if is_float(kind):
        fused = name in ("fma", "mad")
        call = {"add": "add", "sub": "sub", "mul": "mul", "div": "quotient"}.get(name, "fma")
        if rounding == "RN" and not fused:
            text = f"a {SIGNS[name]} b"
        else:
            text = f"{call}<{rounding}>(a, b{', c' if fused else ''})"
        return apply(c, o, kind, f"saturate({text})" if "sat" in parts else text)
    unsigned = "u" + kind[1:] if kind[0] == "s" else kind
    if name in ("add", "sub"):
        sign = "+" if name == "add" else "-"
        if "sat" in parts:
            return apply(c, o, kind, f"clamp_int<s32>((s64)a {sign} (s64)b)")
        if "cc" in parts:
            return _carry(c, parts, o)
        return apply(c, o, unsigned, f"a {sign} b")
    if name == "div":
        return apply(c, o, kind, "divide(a, b)")
    if "cc" in parts:
        return _carry(c, parts, o)
    plus = " + c" if name == "mad" else ""
    if "wide" in parts:
        wide = kind[0] + str(SIZES[kind] * 16)
        return apply(c, o, kind, f"({wide})a * b{plus}", {"d": wide, "c": wide})
    if "hi" in parts:
        if "sat" in parts:
            return apply(c, o, kind, "clamp_int<s32>((s64)mul_hi(a, b) + c)")
        return apply(c, o, kind, f"mul_hi(a, b){plus}")
    if SIZES[kind] == 2:
        return apply(c, o, unsigned, f"(u32)a * b{plus}")
    return apply(c, o, unsigned, f"a * b{plus}")


def _carry(c: Operands, parts: list[str], o: list[str]) -> str:
    """Translate arithmetic in extended precision; the C++ variable `cc` is the carry."""
    kind, name = kind_of(parts), parts[0]
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
        typed = kind if "hi" in parts else unsigned
        given = f"const {typed} a = {c.read(o[1], typed)}, b = {c.read(o[2], typed)};"
        given += f" const {unsigned} e = {c.read(o[3], unsigned)};"
        total = f"const {wide} sum = ({wide})({unsigned})({product}) + e{carry_in};"
        out = f"cc = (sum >> {bits}) & 1;" if "cc" in parts else ""
        return f"{{ {given} {total} {out} {c.write(o[0], unsigned, f'({unsigned})sum')} }}"
    given = f"const {unsigned} a = {c.read(o[1], unsigned)}, b = {c.read(o[2], unsigned)}; const {wide} sum = {text};"
    out = f"cc = (sum >> {bits}) & 1;" if "cc" in parts else ""
    return f"{{ {given} {out} {c.write(o[0], unsigned, f'({unsigned})sum')} }}"


def _mul24(c: Operands, parts: list[str], o: list[str]) -> str:
    kind = kind_of(parts)
    product = "((u64)(a & 0xffffff) * (b & 0xffffff))"
    if kind == "s32":
        product = "((s64)((s32)(a << 8) >> 8) * ((s32)(b << 8) >> 8))"
    shifted = f"({product} >> 16)" if "hi" in parts else product
    return apply(c, o, kind, f"({kind}){shifted}{' + c' if parts[0] == 'mad24' else ''}")


def _half(c: Operands, parts: list[str], o: list[str]) -> str:
    """Translate operations on f16, bf16 and their pairs: computed in float, rounded once."""
    kind, name = kind_of(parts), parts[0]
    if "ftz" in parts and kind.startswith("f"):  # the processor cannot flush denormals of f16
        c.unknown()
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
        return apply(c, o, kind, f"each_half({one}, {', '.join(names)})")
    return apply(c, o, kind, f"({one})({', '.join(names)})")


def _unary(c: Operands, parts: list[str], o: list[str]) -> str:
    kind, name = kind_of(parts), parts[0]
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
    return apply(c, o, kind, f"flushed({text})" if "ftz" in parts else text)


def _extremum(c: Operands, parts: list[str], o: list[str]) -> str:
    kind, name = kind_of(parts), parts[0]
    if kind in HALVES:
        return _half(c, parts, o)
    if not is_float(kind):
        text = f"(a {'<' if name == 'min' else '>'} b ? a : b)"
        return apply(c, o, kind, f"{text} < 0 ? 0 : {text}" if "relu" in parts else text)
    call = f"{'lesser' if name == 'min' else 'larger'}<{kind}{', true' if 'NaN' in parts else ''}>"
    if "xorsign" in parts:
        text = f"copysignf({call}(fabsf(a), fabsf(b)), (__builtin_signbit(a) != __builtin_signbit(b)) ? -1.0f : 1.0f)"
    else:
        text = f"{call}({call}(a, b), c)" if len(o) == 4 else f"{call}(a, b)"
    return apply(c, o, kind, f"flushed({text})" if "ftz" in parts else text)


def _function(c: Operands, parts: list[str], o: list[str]) -> str:
    """Translate rcp, sqrt, rsqrt, sin, cos, lg2, ex2 and tanh."""
    kind, name = kind_of(parts), parts[0]
    if kind in HALVES:
        return _half(c, parts, o)
    rounding, f = rounding_of(parts), "f" if kind == "f32" else ""
    text = {
        "rcp": "reciprocal(a)" if rounding == "RN" else f"quotient<{rounding}>(({kind})1, a)",
        "sqrt": f"square_root<{rounding}>(a)",
        "rsqrt": "reciprocal_root(a)", "sin": f"sin{f}(a)", "cos": f"cos{f}(a)", "lg2": f"log2{f}(a)",
        "ex2": f"exp2{f}(a)", "tanh": f"tanh{f}(a)",
    }[name]  # fmt: skip
    if name in ("rcp", "rsqrt") and kind == "f64" and "approx" in parts:
        # the low half of the result is zero
        text = f"bits<f64>(bits<u64>({text}) & 0xffffffff00000000ull)"
    return apply(c, o, kind, text)


def _integer(c: Operands, parts: list[str], o: list[str]) -> str:
    """Translate the integer instructions that are one function of ops.hpp each."""
    kind, name = kind_of(parts), parts[0]
    t = kind if kind[0] in "us" else "u" + kind[1:]
    if name == "rem":
        return apply(c, o, kind, "remainder(a, b)")
    if name == "sad":
        return apply(c, o, kind, "c + (a < b ? b - a : a - b)")
    if name == "popc":
        return apply(c, o, "u" + kind[1:], "(u32)__builtin_popcountll(a)", {"d": "u32"})
    if name == "clz":
        return apply(c, o, "u" + kind[1:], "leading_zeros(a)", {"d": "u32"})
    if name == "brev":
        return apply(c, o, "u" + kind[1:], "reverse(a)")
    if name == "bfind":
        u = "u" + kind[1:]
        value = "a" if kind[0] == "u" else f"({u})(a < 0 ? ~a : a)"
        return apply(
            c, o, kind, f"find_leading<{u}>({value}, {'true' if 'shiftamt' in parts else 'false'})", {"d": "u32"}
        )
    if name == "fns":
        return apply(c, o, "u32", "find_nth(a, b, c)", {"c": "s32"})
    if name == "bfe":
        return apply(c, o, kind, f"field_extract<{t}>(a, b, c)", {"b": "u32", "c": "u32"})
    if name == "bfi":
        return _insert(c, kind, o)
    if name == "shl":
        return apply(c, o, "u" + kind[1:], "shift_left(a, b)", {"b": "u32"})
    if name == "shr":
        return apply(c, o, t, "shift_right(a, b)", {"b": "u32"})
    if name == "shf":
        amount = "(c & 31)" if "wrap" in parts else "(c < 32 ? c : 32)"
        return apply(c, o, "u32", f"funnel_{'left' if 'l' in parts else 'right'}(a, b, {amount})")
    if name == "prmt":
        mode = next((p.upper() for p in parts if p in ("f4e", "b4e", "rc8", "ecl", "ecr", "rc16")), "")
        return apply(c, o, "u32", f"permute_mode(a, b, c, {mode})" if mode else "permute(a, b, c)")
    if name == "lop3":
        if len(o) != 5:
            c.unknown()
        table = c.read(o[4], "u32")
        return apply(c, o[:4], "u32", f"logic3(a, b, c, {table})")
    sides = [f"{p[0]}{8 if name == 'dp4a' or i else 16}" for i, p in enumerate(p for p in parts if p in ("u32", "s32"))]
    if name == "dp4a":
        return apply(c, o, "u32", f"dot4<{', '.join(sides)}>(a, b, c)")
    return apply(c, o, "u32", f"dot2<{', '.join(sides)}>(a, b, c, {'1' if 'hi' in parts else '0'})")


def _insert(c: Operands, kind: str, o: list[str]) -> str:
    t = "u" + kind[1:]
    values = ", ".join([c.read(o[1], t), c.read(o[2], t), c.read(o[3], "u32"), c.read(o[4], "u32")])
    return c.write(o[0], t, f"field_insert<{t}>({values})")


def _logic(c: Operands, parts: list[str], o: list[str]) -> str:
    return apply(c, o, kind_of(parts), f"a {LOGIC[parts[0]]} b")


def _copysign(c: Operands, parts: list[str], o: list[str]) -> str:
    f = "f" if kind_of(parts) == "f32" else ""
    return apply(c, o, kind_of(parts), f"copysign{f}(b, a)")


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
    "copysign": _copysign,
}  # fmt: skip
