"""Integer instructions of the emulated machine, compared with Python's integers.

They are those to which CUDA C++ compiles, and single instructions at their edges, as PTX's manual
describes them.
"""

from collections.abc import Callable

import numpy as np
import pytest
from machine_runs import BITS, H, L, Row, W, check, run_table, signed

U32, U64 = 2**32, 2**64


def truncated(a: int, b: int) -> int:
    """Return a / b, rounded towards zero."""
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def remainder(a: int, b: int) -> int:
    """Return the remainder of :func:`truncated`."""
    return a - truncated(a, b) * b


def inline(instruction: str, *inputs: str, result: str = "unsigned") -> str:
    """Return inline PTX as an expression."""
    letter = "l" if "long" in result else "r"
    given = ", ".join(f'"{letter}"({i})' for i in inputs)
    return f'[&] {{ {result} d; asm("{instruction}" : "={letter}"(d) : {given}); return d; }}()'


def in_halves(instructions: str) -> str:
    """Return an expression of 64-bit a and b; the instructions work on halves l, h and k, g."""
    before = ".reg .u32 l, h, k, g; mov.b64 {l, h}, %1; mov.b64 {k, g}, %2;"
    return inline(f"{{{before} {instructions} mov.b64 %0, {{l, h}};}}", "a", "b", result="unsigned long long")


@pytest.fixture
def words(rng: np.random.Generator) -> tuple[list[int], list[int], list[int]]:
    """Three columns of 32-bit words; edge cases are among them."""
    edges = [0, 1, 2, 31, 32, 33, 0x7FFFFFFF, 0x80000000, 0x80000001, U32 - 1, U32 - 2, 0x0F0F00FF]
    a = [e for e in edges for _ in edges] + rng.integers(0, U32, 100).tolist()
    b = edges * len(edges) + rng.integers(0, U32, 100).tolist()
    return a, b, rng.integers(0, U32, len(a)).tolist()


LANGUAGE: dict[str, tuple[str, Callable[[int, int, int], int]]] = {
    "add": ("a + b", lambda a, b, c: a + b),
    "sub": ("a - b", lambda a, b, c: a - b),
    "mad": ("a * b + c", lambda a, b, c: a * b + c),
    "mul hi": ("__umulhi(a, b)", lambda a, b, c: a * b >> 32),
    "mul hi signed": ("__mulhi((int)a, (int)b)", lambda a, b, c: signed(a) * signed(b) >> 32),
    "div": ("b ? a / b : 7", lambda a, b, c: a // b if b else 7),
    "rem": ("b ? a % b : 7", lambda a, b, c: a % b if b else 7),
    "and or xor": ("(a & b) | (b ^ c)", lambda a, b, c: (a & b) | (b ^ c)),
    "shl": ("a << (b & 31)", lambda a, b, c: a << (b & 31)),
    "shr": ("a >> (b & 31)", lambda a, b, c: a >> (b & 31)),
    "shr signed": ("(int)a >> (b & 31)", lambda a, b, c: signed(a) >> (b & 31)),
    "shl clamps": (inline("shl.b32 %0, %1, %2;", "a", "b"), lambda a, b, c: a << b if b < 32 else 0),
    "shr clamps": (inline("shr.s32 %0, %1, %2;", "a", "b"), lambda a, b, c: signed(a) >> min(b, 31)),
    "popc": ("__popc(a)", lambda a, b, c: a.bit_count()),
    "clz": ("__clz(a)", lambda a, b, c: 32 - a.bit_length()),
    "ffs": ("__ffs(a)", lambda a, b, c: (a & -a).bit_length()),
    "brev": ("__brev(a)", lambda a, b, c: int(f"{a:032b}"[::-1], 2)),
    "byte perm": (
        "__byte_perm(a, b, c)",
        lambda a, b, c: sum(((b << 32 | a) >> 8 * (c >> 4 * i & 7) & 255) << 8 * i for i in range(4)),
    ),
    "funnel left": ("__funnelshift_l(a, b, c)", lambda a, b, c: (b << 32 | a) << (c & 31) >> 32),
    "funnel left clamped": ("__funnelshift_lc(a, b, c & 63)", lambda a, b, c: (b << 32 | a) << min(c & 63, 32) >> 32),
    "funnel right": ("__funnelshift_r(a, b, c)", lambda a, b, c: (b << 32 | a) >> (c & 31)),
    "min max": ("max(min(a, b), c)", lambda a, b, c: max(min(a, b), c)),
    "min max signed": ("max(min((int)a, (int)b), (int)c)", lambda a, b, c: max(min(signed(a), signed(b)), signed(c))),
    "abs": ("abs((int)(a | 1))", lambda a, b, c: abs(signed(a | 1))),
    "sad": ("__usad(a, b, c)", lambda a, b, c: abs(a - b) + c),
    "mul24": ("__umul24(a, b)", lambda a, b, c: (a & 0xFFFFFF) * (b & 0xFFFFFF)),
    "mul24 signed": ("__mul24((int)a, (int)b)", lambda a, b, c: signed(a & 0xFFFFFF, 24) * signed(b & 0xFFFFFF, 24)),
    "hadd": ("__uhadd(a, b)", lambda a, b, c: a + b >> 1),
    "dp4a": (
        "__dp4a((int)a, (int)b, (int)c)",
        lambda a, b, c: c + sum(signed(a >> 8 * i & 255, 8) * signed(b >> 8 * i & 255, 8) for i in range(4)),
    ),
    "dp4a unsigned": (
        "__dp4a(a, b, c)",
        lambda a, b, c: c + sum((a >> 8 * i & 255) * (b >> 8 * i & 255) for i in range(4)),
    ),
    "dp2a": (
        "__dp2a_lo((int)a, (int)b, (int)c)",
        lambda a, b, c: c + sum(signed(a >> 16 * i & 65535, 16) * signed(b >> 8 * i & 255, 8) for i in range(2)),
    ),
    "bfe": (
        inline("bfe.u32 %0, %1, %2, %3;", "a", "b & 31", "c & 15"),
        lambda a, b, c: (a >> (b & 31)) & (1 << (c & 15)) - 1,
    ),
    "bfi": (
        inline("bfi.b32 %0, %1, %2, %3, %4;", "a", "b", "c & 15", "c >> 8 & 15"),
        lambda a, b, c: (b & ~(((1 << (c >> 8 & 15)) - 1) << (c & 15))) | (a & (1 << (c >> 8 & 15)) - 1) << (c & 15),
    ),
    "bfind": (inline("bfind.u32 %0, %1;", "a"), lambda a, b, c: a.bit_length() - 1),
    "lop3": (inline("lop3.b32 %0, %1, %2, %3, 0x96;", "a", "b", "c"), lambda a, b, c: a ^ b ^ c),
    "add.sat": (
        inline("add.sat.s32 %0, %1, %2;", "a", "b", result="int"),
        lambda a, b, c: max(min(signed(a) + signed(b), 2**31 - 1), -(2**31)),
    ),
    "slct": (inline("slct.u32.s32 %0, %1, %2, %3;", "a", "b", "c"), lambda a, b, c: a if signed(c) >= 0 else b),
    "set": (inline("set.gt.u32.u32 %0, %1, %2;", "a", "b"), lambda a, b, c: U32 - 1 if a > b else 0),
    "compare signed": ("(int)a < (int)b", lambda a, b, c: signed(a) < signed(b)),
    "bytes": ("(signed char)a * (short)b", lambda a, b, c: signed(a & 255, 8) * signed(b & 65535, 16)),
}


def test_32_bit_integers_are_those_of_the_language(words: tuple[list[int], ...]) -> None:
    a, b, c = words
    arrays = [np.array(w, np.uint32) for w in words]
    rows = run_table(
        {n: e for n, (e, _) in LANGUAGE.items()}, "unsigned, unsigned, unsigned", "unsigned", arrays, np.uint32
    )
    for name, (_, oracle) in LANGUAGE.items():
        expected = np.array([oracle(*w) % U32 for w in zip(a, b, c, strict=True)], np.uint32)
        np.testing.assert_array_equal(rows[name], expected, name)


LONGS: dict[str, tuple[str, Callable[[int, int, int], int]]] = {
    "mad": ("a * b + c", lambda a, b, c: a * b + c),
    "mul hi": ("__umul64hi(a, b)", lambda a, b, c: a * b >> 64),
    "mul hi signed": ("__mul64hi((long long)a, (long long)b)", lambda a, b, c: signed(a, 64) * signed(b, 64) >> 64),
    "wide": ("(unsigned long long)(unsigned)a * (unsigned)b + c", lambda a, b, c: (a % U32) * (b % U32) + c),
    "wide signed": ("(long long)(int)a * (int)b", lambda a, b, c: signed(a % U32) * signed(b % U32)),
    "div": ("a / (b | 1)", lambda a, b, c: a // (b | 1)),
    "div signed": ("(long long)a / (long long)(b | 1)", lambda a, b, c: truncated(signed(a, 64), signed(b | 1, 64))),
    "rem": ("a % (b | 1)", lambda a, b, c: a % (b | 1)),
    "shifts": ("(a << (b & 63)) ^ (a >> (c & 63))", lambda a, b, c: (a << (b & 63)) ^ (a >> (c & 63))),
    "popc": ("__popcll(a)", lambda a, b, c: a.bit_count()),
    "clz": ("__clzll(a)", lambda a, b, c: 64 - a.bit_length()),
    "brev": ("__brevll(a)", lambda a, b, c: int(f"{a:064b}"[::-1], 2)),
    "carry": (in_halves("add.cc.u32 l, l, k; addc.u32 h, h, g;"), lambda a, b, c: a + b),
    "borrow": (in_halves("sub.cc.u32 l, l, k; subc.u32 h, h, g;"), lambda a, b, c: a - b),
    "mad carry": (
        in_halves("mad.lo.cc.u32 l, k, g, l; madc.hi.u32 h, k, g, h;"),
        lambda a, b, c: a + (b % U32) * (b >> 32),
    ),
}


def test_64_bit_integers_are_those_of_the_language(rng: np.random.Generator) -> None:
    edges = [0, 1, 63, 64, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1]
    a = [e for e in edges for _ in edges] + rng.integers(0, U64, 64, np.uint64, endpoint=False).tolist()
    b = edges * len(edges) + rng.integers(0, U64, 64, np.uint64).tolist()
    c = rng.integers(0, U64, len(a), np.uint64).tolist()
    rows = run_table(
        {n: e for n, (e, _) in LONGS.items()},
        "unsigned long long, unsigned long long, unsigned long long",
        "unsigned long long",
        [np.array(w, np.uint64) for w in (a, b, c)],
        np.uint64,
    )
    for name, (_, oracle) in LONGS.items():
        expected = np.array([oracle(*w) % U64 for w in zip(a, b, c, strict=True)], np.uint64)
        np.testing.assert_array_equal(rows[name], expected, name)


# ---- single instructions, as inline PTX, so that no compiler can evaluate or change them

EDGES = [0, 1, 2, 7, 8, 15, 16, 31, 32, 33, 63, 64, 65, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**31 + 1,
         2**32 - 2, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1]  # fmt: skip


def bfe(a: int, b: int, c: int, bits: int, is_signed: bool) -> int:
    """The oracle follows the manual's pseudo-code."""
    at, length = b & 255, c & 255
    sign = a >> min(at + length - 1, bits - 1) & 1 if is_signed and length else 0
    return sum((a >> at + i & 1 if i < length and at + i < bits else sign) << i for i in range(bits))


def bfi(a: int, b: int, c: int, d: int, bits: int) -> int:
    at, length = c & 255, d & 255
    for i in range(length):
        if at + i < bits:
            b = b & ~(1 << at + i) | (a >> i & 1) << at + i
    return b


def prmt(a: int, b: int, c: int) -> int:
    whole, d = b << 32 | a, 0
    for i in range(4):
        s = c >> 4 * i & 15
        byte = whole >> 8 * (s & 7) & 255
        d |= (255 * (byte >> 7) if s & 8 else byte) << 8 * i
    return d


def prmt_mode(mode: str) -> Callable[..., int]:
    selectors = {
        "f4e": lambda n: [n + i for i in range(4)], "b4e": lambda n: [(n - i) % 8 for i in range(4)],
        "rc8": lambda n: [n] * 4, "ecl": lambda n: [max(i, n) for i in range(4)],
        "ecr": lambda n: [min(i, n) for i in range(4)], "rc16": lambda n: [2 * (n & 1), 2 * (n & 1) + 1] * 2,
    }[mode]  # fmt: skip
    return lambda a, b, c: sum(((b << 32 | a) >> 8 * s & 255) << 8 * i for i, s in enumerate(selectors(c & 3)))


def fns(mask: int, base: int, offset: int) -> int:
    if offset == 0:
        return base if mask >> base & 1 else -1
    places = range(base, 32) if offset > 0 else range(base, -1, -1)
    found = [i for i in places if mask >> i & 1]
    return found[abs(offset) - 1] if len(found) >= abs(offset) else -1


def bfind(a: int, bits: int, *, shift: bool = False) -> int:
    length = (a if a >= 0 else ~a).bit_length()
    return -1 if length == 0 else bits - length if shift else length - 1


def wide(*names: str) -> tuple[str, ...]:
    return tuple(f"{L}:{n}" for n in names)


def narrow(*names: str) -> tuple[str, ...]:
    return tuple(f"{H}:{n}" for n in names)


ABC, WORDS = ("unsigned:a", "unsigned:b", "unsigned:c"), ("unsigned:a", "unsigned:b")
w, h = (lambda x: x % 2**32), (lambda x: x % 2**16)


INTEGERS: dict[str, Row] = {
    **{
        f"bfe.{kind}": (
            f"bfe.{kind} %0, %1, %2, %3;", (f"{t}:a", "unsigned:b", "unsigned:c"), t,
            lambda a, b, c, t=t, kind=kind: bfe(a % 2 ** BITS[t], b, c, BITS[t], kind[0] == "s"),
        )
        for kind, t in (("u32", W), ("s32", W), ("u64", L), ("s64", L))
    },
    **{
        f"bfi.b{BITS[t]}": (
            f"bfi.b{BITS[t]} %0, %1, %2, %3, %4;", (f"{t}:a", f"{t}:b", "unsigned:c", "unsigned:b"), t,
            lambda a, b, c, t=t: bfi(a % 2 ** BITS[t], b % 2 ** BITS[t], c, b, BITS[t]),
        )
        for t in (W, L)
    },
    **{
        f"shl.b{BITS[t]}": (
            f"shl.b{BITS[t]} %0, %1, %2;", (f"{t}:a", "unsigned:b"), t,
            lambda a, b, c, t=t: a << w(b) if w(b) < BITS[t] else 0,
        )
        for t in (W, L, H)
    },
    **{
        f"shr.{s}{BITS[t]}": (
            f"shr.{s}{BITS[t]} %0, %1, %2;", (f"{t}:a", "unsigned:b"), t,
            lambda a, b, c, t=t, s=s: (signed(a, BITS[t]) if s == "s" else a % 2 ** BITS[t]) >> min(w(b), BITS[t]),
        )
        for t in (W, L, H) for s in "us"
    },
    "shf.l.clamp": ("shf.l.clamp.b32 %0, %1, %2, %3;", ABC, W, lambda a, b, c: (w(b) << 32 | w(a)) << min(w(c), 32) >> 32),
    "shf.r.clamp": ("shf.r.clamp.b32 %0, %1, %2, %3;", ABC, W, lambda a, b, c: (w(b) << 32 | w(a)) >> min(w(c), 32)),
    "shf.l.wrap": ("shf.l.wrap.b32 %0, %1, %2, %3;", ABC, W, lambda a, b, c: (w(b) << 32 | w(a)) << (c & 31) >> 32),
    "shf.r.wrap": ("shf.r.wrap.b32 %0, %1, %2, %3;", ABC, W, lambda a, b, c: (w(b) << 32 | w(a)) >> (c & 31)),
    "prmt": ("prmt.b32 %0, %1, %2, %3;", ABC, W, lambda a, b, c: prmt(w(a), w(b), c)),
    **{
        f"prmt.{m}": (f"prmt.b32.{m} %0, %1, %2, %3;", ABC, W, lambda a, b, c, m=m: prmt_mode(m)(w(a), w(b), c))
        for m in ("f4e", "b4e", "rc8", "ecl", "ecr", "rc16")
    },
    "fns": (
        "fns.b32 %0, %1, %2, %3;", ("unsigned:a", "unsigned:b & 31", "unsigned:(int)(c % 9) - 4"), W,
        lambda a, b, c: fns(w(a), b & 31, c % 9 - 4),
    ),
    "bfind.s32": ("bfind.s32 %0, %1;", ("unsigned:a",), W, lambda a, b, c: bfind(signed(a, 32), 32)),
    "bfind.s64": ("bfind.s64 %0, %1;", wide("a"), W, lambda a, b, c: bfind(signed(a, 64), 64)),
    "bfind.shiftamt": (
        "bfind.shiftamt.u64 %0, %1;", wide("a"), W, lambda a, b, c: bfind(a, 64, shift=True),
    ),
    "div.s32": (
        "div.s32 %0, %1, %2;", ("unsigned:a", "unsigned:(unsigned)b ? b : 3"), W,
        lambda a, b, c: truncated(signed(a, 32), signed(w(b) or 3, 32)),
    ),
    "rem.s32": (
        "rem.s32 %0, %1, %2;", ("unsigned:a", "unsigned:b | 1"), W,
        lambda a, b, c: remainder(signed(a, 32), signed(b | 1, 32)),
    ),
    "div.s64": (
        "div.s64 %0, %1, %2;", wide("a", "b | 1"), L, lambda a, b, c: truncated(signed(a, 64), signed(b | 1, 64)),
    ),
    "rem.s64": (
        "rem.s64 %0, %1, %2;", wide("a", "b | 1"), L, lambda a, b, c: remainder(signed(a, 64), signed(b | 1, 64)),
    ),
    "div.s16": ("div.s16 %0, %1, %2;", narrow("a", "b | 1"), H, lambda a, b, c: truncated(signed(a, 16), signed(b | 1, 16))),
    "abs.s32": ("abs.s32 %0, %1;", ("unsigned:a",), W, lambda a, b, c: abs(signed(a, 32))),
    "neg.s64": ("neg.s64 %0, %1;", wide("a"), L, lambda a, b, c: -a),
    "sad.s32": ("sad.s32 %0, %1, %2, %3;", ABC, W, lambda a, b, c: c + abs(signed(a, 32) - signed(b, 32))),
    "sad.u64": ("sad.u64 %0, %1, %2, %3;", wide("a", "b", "c"), L, lambda a, b, c: c + abs(a - b)),
    "mul.hi.s16": ("mul.hi.s16 %0, %1, %2;", narrow("a", "b"), H, lambda a, b, c: signed(a, 16) * signed(b, 16) >> 16),
    "mul.lo.u16": ("mul.lo.u16 %0, %1, %2;", narrow("a", "b"), H, lambda a, b, c: a * b),
    "mul.wide.s16": ("mul.wide.s16 %0, %1, %2;", narrow("a", "b"), W, lambda a, b, c: signed(a, 16) * signed(b, 16)),
    "mad.wide.u32": ("mad.wide.u32 %0, %1, %2, %3;", (*WORDS, f"{L}:c"), L, lambda a, b, c: w(a) * w(b) + c),
    "mad.hi.s32": ("mad.hi.s32 %0, %1, %2, %3;", ABC, W, lambda a, b, c: (signed(a, 32) * signed(b, 32) >> 32) + c),
    "mad.hi.sat": (
        "mad.hi.sat.s32 %0, %1, %2, %3;", ABC, W,
        lambda a, b, c: max(min((signed(a, 32) * signed(b, 32) >> 32) + signed(c, 32), 2**31 - 1), -(2**31)),
    ),
    "sub.sat": (
        "sub.sat.s32 %0, %1, %2;", WORDS, W,
        lambda a, b, c: max(min(signed(a, 32) - signed(b, 32), 2**31 - 1), -(2**31)),
    ),
    "mad24.hi.s32": (
        "mad24.hi.s32 %0, %1, %2, %3;", ABC, W,
        lambda a, b, c: (signed(a & 0xFFFFFF, 24) * signed(b & 0xFFFFFF, 24) >> 16) + c,
    ),
    "dp4a mixed": (
        "dp4a.u32.s32 %0, %1, %2, %3;", ABC, W,
        lambda a, b, c: c + sum((a >> 8 * i & 255) * signed(b >> 8 * i & 255, 8) for i in range(4)),
    ),
    "dp2a.hi": (
        "dp2a.hi.s32.u32 %0, %1, %2, %3;", ABC, W,
        lambda a, b, c: c + sum(signed(a >> 16 * i & 65535, 16) * (b >> 8 * (i + 2) & 255) for i in range(2)),
    ),
    "cvt.sat.u8": (
        "{.reg .u16 t; cvt.sat.u8.s32 t, %1; cvt.u32.u16 %0, t;}", ("unsigned:a",), W,
        lambda a, b, c: max(min(signed(a, 32), 255), 0),
    ),
    "cvt.sat.s16": (
        "{.reg .s16 t; cvt.sat.s16.s64 t, %1; cvt.s32.s16 %0, t;}", wide("a"), W,
        lambda a, b, c: max(min(signed(a, 64), 2**15 - 1), -(2**15)),
    ),
    "cvt.s8 widens": (
        "{.reg .s16 t; cvt.s8.u32 t, %1; cvt.s32.s16 %0, t;}", ("unsigned:a",), W, lambda a, b, c: signed(a & 255, 8),
    ),
    "cvt.s64.s32": ("cvt.s64.s32 %0, %1;", ("unsigned:a",), L, lambda a, b, c: signed(a, 32)),
    "lop3": (
        "lop3.b32 %0, %1, %2, %3, 0x1d;", ABC, W,
        lambda a, b, c: sum((0x1D >> ((a >> i & 1) << 2 | (b >> i & 1) << 1 | c >> i & 1) & 1) << i for i in range(32)),
    ),
    "min.relu": ("min.relu.s32 %0, %1, %2;", WORDS, W, lambda a, b, c: max(min(signed(a, 32), signed(b, 32)), 0)),
    "cnot": ("cnot.b32 %0, %1;", ("unsigned:a",), W, lambda a, b, c: int(w(a) == 0)),
    "set.lo": ("set.lo.u32.u32 %0, %1, %2;", WORDS, W, lambda a, b, c: -int(w(a) < w(b))),
    "setp of signed": (
        "{.reg .pred p, q; setp.ge.s64 p|q, %1, %2; selp.u32 %0, 3, 5, q;}", wide("a", "b"), W,
        lambda a, b, c: 5 if signed(a, 64) >= signed(b, 64) else 3,
    ),
}  # fmt: skip


def test_integer_instructions_are_those_of_the_manual(rng: np.random.Generator) -> None:
    pairs = [(a, b) for a in EDGES for b in EDGES]
    a, b = (list(column) for column in zip(*pairs, strict=True))
    a += rng.integers(0, 2**64, 300, np.uint64).tolist()
    b += rng.integers(0, 2**64, 200, np.uint64).tolist() + rng.integers(0, 70, 100).tolist()
    c = [*rng.choice(np.array(EDGES, np.uint64), len(pairs)).tolist(), *rng.integers(0, 2**64, 300, np.uint64).tolist()]
    check(INTEGERS, [a, b, c])
