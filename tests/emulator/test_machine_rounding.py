"""Rounding, conversion and comparison in the emulated machine, compared with exact fractions."""

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from machine_runs import BITS, H, L, Row, W, check, signed

# ---- floats, as bits; `value` and `rounded` convert them to and from numbers

FORMATS = {"f16": (11, -14, 15, H), "bf16": (8, -126, 127, H), "f32": (24, -126, 127, W), "f64": (53, -1022, 1023, L)}
"""Bits of the fraction with its first bit, least and greatest exponent, and the C type of the
bits."""


MODES = ("rn", "rz", "rm", "rp")


def value(bits: int, kind: str) -> Fraction | float:
    """Return a fraction, or a float if the number is infinite or NaN."""
    p, least, _, t = FORMATS[kind]
    bits %= 2 ** BITS[t]
    sign = -1 if bits >> BITS[t] - 1 else 1
    exponent, fraction = bits >> p - 1 & 2 ** (BITS[t] - p) - 1, bits & 2 ** (p - 1) - 1
    if exponent == 2 ** (BITS[t] - p) - 1:
        return float("nan") if fraction else sign * float("inf")
    whole = fraction + (2 ** (p - 1) if exponent else 0)
    return sign * whole * Fraction(2) ** (max(exponent, 1) - 1 + least - p + 1)


def rounded(x: Fraction, kind: str, mode: str, *, minus_zero: bool = False) -> int:
    """Round an exact number to a format, and return its bits."""
    p, least, greatest, t = FORMATS[kind]
    negative, m = x < 0 or (x == 0 and minus_zero), abs(x)
    exponent = least
    if m:
        exponent = max(m.numerator.bit_length() - m.denominator.bit_length(), least)
        exponent -= exponent > least and m < Fraction(2) ** exponent
    whole, rest = divmod(m / Fraction(2) ** (exponent - p + 1), 1)
    away = mode == ("rm" if negative else "rp")
    if (mode == "rn" and (rest > Fraction(1, 2) or (rest == Fraction(1, 2) and whole % 2))) or (away and rest):
        whole += 1
    bits = int(whole) + (exponent - least) * 2 ** (p - 1)
    infinite = (greatest - least + 2) * 2 ** (p - 1)
    bits = min(bits, infinite if mode == "rn" or away else infinite - 1)
    return bits | (negative << BITS[t] - 1)


def register(kind: str, name: str) -> str:
    return f"{FORMATS[kind][3]}:{name}"


def arithmetic(name: str, kind: str, mode: str, exact: Callable[..., Fraction]) -> Row:
    names = "abc" if name == "fma" else "ab"

    def oracle(*words: int) -> int:
        x = exact(*(value(word, kind) for word in words[: len(names)]))
        return rounded(x, kind, mode)

    places = ", ".join(f"%{i}" for i in range(len(names) + 1))
    rounding = f".{mode}" if mode != "rn" or name == "fma" else ""
    return f"{name}{rounding}.{kind} {places};", tuple(register(kind, n) for n in names), FORMATS[kind][3], oracle


OPERATIONS: dict[str, Callable[..., Fraction]] = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b, "fma": lambda a, b, c: a * b + c,
}  # fmt: skip


def random_bits(rng: np.random.Generator, kind: str, spread: int, count: int = 300) -> list[list[int]]:
    """Three columns of numbers, whose sums often lie halfway between two results.

    Their exponents are at most `spread` apart.
    """
    columns = []
    for _ in range(3):
        whole = rng.integers(1, 2 ** min(FORMATS[kind][0], 30), count) * rng.choice([-1, 1], count)
        whole = np.where(rng.random(count) < 0.3, 2 ** rng.integers(0, 8, count), whole)
        exponents = rng.integers(-spread, spread, count)
        numbers = [int(n) * Fraction(2) ** int(e) for n, e in zip(whole, exponents, strict=True)]
        columns.append([rounded(x, kind, "rn") for x in numbers])
    return columns


@pytest.mark.parametrize(("kind", "spread"), [("f16", 4), ("bf16", 30), ("f32", 12), ("f64", 20)])
def test_float_arithmetic_is_rounded_once_in_every_direction(kind: str, spread: int, rng: np.random.Generator) -> None:
    modes = MODES if FORMATS[kind][3] != H else ("rn",)
    rows = {
        f"{name}.{mode}": arithmetic(name, kind, mode, exact)
        for name, exact in OPERATIONS.items() for mode in modes if kind != "bf16" or name == "fma"
    }  # fmt: skip
    columns = random_bits(rng, kind, spread)
    distinct = [words for words in zip(*columns, strict=True) if words[0] % 2**63 != words[1] % 2**63]
    sums = [value(a, kind) * value(b, kind) + value(c, kind) for a, b, c in distinct]
    check(rows, [list(column) for column in zip(*(d for d, x in zip(distinct, sums, strict=True) if x), strict=True)])


def test_a_fused_product_of_bfloat16_is_not_rounded_twice() -> None:
    """A product lies halfway between two results, and a far smaller term decides."""
    tie, small = 0x3F81, 0x2000  # 1 + 2^-7: its square ends in 2^-14; and 2^-63
    rows = {"fma": arithmetic("fma", "bf16", "rn", OPERATIONS["fma"])}
    products = [(a, b) for a in range(0x3F80, 0x3FA0) for b in range(0x3F80, 0x3FA0)]
    words = [(a, b, c) for a, b in [*products, (tie, tie)] for c in (small, small | 0x8000)]
    check(rows, [list(column) for column in zip(*words, strict=True)])


def conversion(to: str, of: str, mode: str) -> Row:
    def oracle(a: int, b: int, c: int) -> int:
        x = value(a, of)
        if x != x or abs(x) == float("inf"):
            infinite = (FORMATS[to][2] - FORMATS[to][1] + 2) * 2 ** (FORMATS[to][0] - 1)
            return infinite | (x < 0) << BITS[FORMATS[to][3]] - 1
        return rounded(Fraction(x), to, mode, minus_zero=bool(a >> BITS[FORMATS[of][3]] - 1 & 1))

    return f"cvt.{mode}.{to}.{of} %0, %1;", (register(of, "a"),), FORMATS[to][3], oracle


@pytest.mark.parametrize("of", ["f32", "f64"])
def test_floats_are_narrowed_in_every_direction(of: str, rng: np.random.Generator) -> None:
    t = FORMATS[of][3]
    rows = {
        f"{to}.{mode}": conversion(to, of, mode)
        for to in ("f16", "bf16", "f32") for mode in MODES
        if to != of and (to != "bf16" or (of == "f32" and mode in ("rn", "rz")))
    }  # fmt: skip
    exponents = [*range(-28, 18), *rng.integers(-140, 129, 60).tolist()]
    wholes = [
        1,
        2**11 + 1,
        2**11 + 3,
        2**12 + 1,
        2**12 - 1,
        2**8 + 1,
        3 * 2**9 + 1,
        2**23 + 1,
        2**24 - 1,
        *rng.integers(1, 2**24, 9),
    ]
    numbers = [
        s * int(n) * Fraction(2) ** (e + 1 - int(n).bit_length()) for e in exponents for n in wholes for s in (-1, 1)
    ]
    words = [rounded(x, of, "rn") for x in numbers] + [0, 1 << BITS[t] - 1]
    words += [rounded(Fraction(2) ** 2000, of, "rn"), rounded(-(Fraction(2) ** 2000), of, "rn")]
    check(rows, [words, words, words])


SIZES = {"s8": 8, "u8": 8, "s16": 16, "u16": 16, "s32": 32, "u32": 32, "s64": 64, "u64": 64}


def to_integer(to: str, of: str, mode: str) -> Row:
    """By the manual a NaN becomes 0; with 64-bit sources or results only the top bit is set."""
    bits, is_signed = SIZES[to], to[0] == "s"
    t = L if bits == 64 else W

    def oracle(a: int, b: int, c: int) -> int:
        x = value(a, of)
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if is_signed else (0, 2**bits - 1)
        if x != x:
            top = 2 ** (bits - 1) if of == "f64" or bits == 64 else 0
            return -top if is_signed else top
        if abs(x) == float("inf"):
            return high if x > 0 else low
        down = x // 1
        near = round(x)  # ties to even
        whole = {"rni": near, "rzi": int(x), "rmi": down, "rpi": -(-x // 1)}[mode]
        return int(max(min(whole, high), low))

    return f"cvt.{mode}.{to}.{of} %0, %1;", (register(of, "a"),), t, oracle


@pytest.mark.parametrize("of", ["f16", "f32", "f64"])
def test_floats_become_integers_in_every_size_and_direction(of: str, rng: np.random.Generator) -> None:
    p, least, greatest, t = FORMATS[of]
    rows = {f"{to}.{mode}": to_integer(to, of, mode) for to in SIZES for mode in ("rni", "rzi", "rmi", "rpi")}
    halves = [Fraction(n, 2) for n in range(-9, 10)]
    powers = [
        s * Fraction(2) ** e + d for e in (7, 8, 15, 16, 31, 32, 53, 63, 64, 90) for s in (-1, 1) for d in (0, -1, 1)
    ]
    words = [rounded(x, of, "rn") for x in halves + powers]
    words += [int(n) for n in rng.integers(0, 2 ** min(BITS[t], 63), 200)]
    words += [rounded(Fraction(2) ** 2000, of, "rn"), rounded(-(Fraction(2) ** 2000), of, "rn")]
    nan = (greatest - least + 2) * 2 ** (p - 1) + 1
    check(rows, [[*words, nan]] * 3)


def from_integer(to: str, of: str, mode: str) -> Row:
    bits = SIZES[of]
    inputs = (f"{L if bits == 64 else W}:a",)

    def oracle(a: int, b: int, c: int) -> int:
        return rounded(Fraction(signed(a, bits) if of[0] == "s" else a % 2**bits), to, mode)

    return f"cvt.{mode}.{to}.{of} %0, %1;", inputs, FORMATS[to][3], oracle


def test_integers_become_floats_in_every_size_and_direction(rng: np.random.Generator) -> None:
    rows = {
        f"{to}.{of}.{mode}": from_integer(to, of, mode)
        for to in ("f16", "f32", "f64") for of in ("s32", "u32", "s64", "u64") for mode in MODES
    }  # fmt: skip
    words = [2**k + d for k in (8, 11, 12, 24, 25, 31, 32, 53, 54, 62, 63) for d in (-3, -1, 0, 1, 3)]
    words += [2**64 - 1, 0, 65504, 65519, 65520, 2**12 + 2, 2**13 + 4, *rng.integers(0, 2**64, 200, np.uint64).tolist()]
    check(rows, [words] * 3)


def test_integers_become_bfloat16_rounded_once(rng: np.random.Generator) -> None:
    rows = {of: from_integer("bf16", of, "rn") for of in ("s32", "u32", "s64", "u64")}
    words = [2**k + 2 ** (k - 8) + d for k in (12, 24, 25, 31, 33, 53, 54, 62, 63) for d in (-1, 0, 1)]
    words += rng.integers(0, 2**64, 200, np.uint64).tolist()
    check(rows, [words] * 3)


COMPARISONS: dict[str, Callable[..., bool]] = {
    "eq": lambda a, b: a == b, "ne": lambda a, b: a != b, "lt": lambda a, b: a < b, "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b, "ge": lambda a, b: a >= b,
}  # fmt: skip


@pytest.mark.parametrize("kind", FORMATS)
def test_comparisons_hold_for_nan_only_if_they_are_unordered(kind: str) -> None:
    p, least, greatest, t = FORMATS[kind]
    infinite = (greatest - least + 2) * 2 ** (p - 1)
    rows: dict[str, Row] = {}

    def row(name: str, holds: Callable[..., bool]) -> Row:
        text = f"{{.reg .pred p; setp.{name}.{kind} p, %1, %2; selp.u32 %0, 1, 0, p;}}"
        return (
            text,
            (register(kind, "a"), register(kind, "b")),
            W,
            lambda a, b, c: holds(value(a, kind), value(b, kind)),
        )

    def is_nan(a: Fraction | float, b: Fraction | float) -> bool:
        return a != a or b != b

    for name, holds in COMPARISONS.items():
        rows[name] = row(name, lambda a, b, holds=holds: not is_nan(a, b) and holds(a, b))
        rows[f"{name}u"] = row(f"{name}u", lambda a, b, holds=holds: is_nan(a, b) or holds(a, b))
    rows |= {"num": row("num", lambda a, b: not is_nan(a, b)), "nan": row("nan", is_nan)}
    top = 1 << BITS[t] - 1
    some = [
        0,
        top,
        1,
        top | 1,
        infinite,
        infinite | top,
        infinite + 1,
        rounded(Fraction(1), kind, "rn"),
        rounded(Fraction(-5, 2), kind, "rn"),
    ]
    a, b = (list(x) for x in zip(*((x, y) for x in some for y in some), strict=True))
    check(rows, [a, b, a])


@pytest.mark.parametrize("kind", FORMATS)
def test_min_and_max_choose_the_number_or_the_nan(kind: str) -> None:
    """-0 counts as less than +0. Every NaN counts as the same result."""
    p, least, greatest, t = FORMATS[kind]
    infinite, top = (greatest - least + 2) * 2 ** (p - 1), 1 << BITS[t] - 1

    def row(name: str, nan_wins: bool, choose: Callable[..., int]) -> Row:
        def oracle(a: int, b: int, c: int) -> int:
            x, y = value(a, kind), value(b, kind)
            if x != x or y != y:
                return 1 << 15 if nan_wins or (x != x and y != y) else b if x != x else a
            return choose((x, not a & top, a), (y, not b & top, b))[2]

        test = f"setp.nan.{kind} p, d, d; @p mov.b{BITS[t]} d, {1 << 15};"
        wins = ".NaN" if nan_wins else ""
        text = f"{{.reg .pred p; .reg .b{BITS[t]} d; {name}{wins}.{kind} d, %1, %2; {test} mov.b{BITS[t]} %0, d;}}"
        return text, (register(kind, "a"), register(kind, "b")), t, oracle

    some = [0, top, 1, infinite, infinite | top, infinite + 1, infinite + 1 | top, rounded(Fraction(1), kind, "rn"),
            rounded(Fraction(-5, 2), kind, "rn")]  # fmt: skip
    a, b = (list(x) for x in zip(*((x, y) for x in some for y in some), strict=True))
    rows = {
        f"{name} {wins}": row(name, wins, f)
        for name, f in (("min", min), ("max", max))
        for wins in (False, True)
        if kind != "f64" or not wins
    }
    check(rows, [a, b, a])
