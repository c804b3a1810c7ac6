"""Floating-point instructions and math functions of the emulated machine, compared with NumPy."""

import numpy as np
import pytest
from machine_runs import run_table

ROUNDED = {"rn": 0, "rz": 1, "rd": 2, "ru": 3}


def rounded(exact: np.ndarray, direction: str) -> np.ndarray:
    """Round long doubles to float32 in a given direction."""
    near = exact.astype(np.float32)
    back = near.astype(np.longdouble)
    down, up = np.nextafter(near, np.float32(-np.inf)), np.nextafter(near, np.float32(np.inf))
    if direction == "rz":
        return np.where(abs(back) > abs(exact), np.where(near > 0, down, up), near)
    if direction == "rd":
        return np.where(back > exact, down, near)
    return np.where(back < exact, up, near) if direction == "ru" else near


@pytest.mark.parametrize("direction", ROUNDED)
def test_float_arithmetic_rounds_in_the_direction_that_is_asked_for(direction: str, rng: np.random.Generator) -> None:
    a, b, c = (rng.normal(size=500).astype(np.float32) for _ in range(3))
    d = direction
    rows = run_table(
        {
            "add": f"__fadd_{d}(a, b)",
            "mul": f"__fmul_{d}(a, b)",
            "sub": f"__fsub_{d}(a, b)",
            "fma": f"__fmaf_{d}(a, b, c)",
            "div": f"__fdiv_{d}(a, b)",
            "sqrt": f"__fsqrt_{d}(a * a)",
            "from double": f"__double2float_{d}((double)a * b)",
            "from int": f"__int2float_{d}((int)(a * 1e8f))",
            "from long": f"__ll2float_{d}((long long)(a * 1e17f))",
        },
        "float, float, float",
        "float",
        [a, b, c],
        np.float32,
    )
    x, y, z = (v.astype(np.longdouble) for v in (a, b, c))
    square = (a * a).astype(np.longdouble)
    exact = {
        "add": x + y,
        "mul": x * y,
        "sub": x - y,
        "fma": x * y + z,
        "div": x / y,
        "sqrt": np.sqrt(square),
        "from double": x * y,
        "from int": (a * np.float32(1e8)).astype(np.int32).astype(np.longdouble),
        "from long": (a * np.float32(1e17)).astype(np.int64).astype(np.longdouble),
    }
    for name, value in exact.items():
        np.testing.assert_array_equal(rows[name], rounded(value, direction), name)


def test_a_product_and_a_sum_are_fused_only_by_fma(rng: np.random.Generator) -> None:
    a, b, c = (rng.normal(size=500).astype(np.float32) for _ in range(3))
    rows = run_table(
        {"apart": "__fadd_rn(__fmul_rn(a, b), c)", "fused": "fmaf(a, b, c)"},
        "float, float, float",
        "float",
        [a, b, c],
        np.float32,
    )
    np.testing.assert_array_equal(rows["apart"], a * b + c)
    np.testing.assert_array_equal(rows["fused"], (a.astype(np.longdouble) * b + c).astype(np.float32))
    assert (rows["apart"] != rows["fused"]).any()


def test_nan_infinity_and_zeros_meet_as_ptx_says() -> None:
    values = np.array([0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan], np.float32)
    a, b = (v.ravel() for v in np.meshgrid(values, values))
    rows = run_table(
        {
            "min": "fminf(a, b)",
            "max": "fmaxf(a, b)",
            "lt": "a < b",
            "ge": "a >= b",
            "ne": "a != b",
            "eq": "a == b",
            "not lt": "!(a < b)",
            "copysign": "copysignf(a, b)",
            "abs": "fabsf(a)",
            "neg": "-a",
            "sat": "__saturatef(a)",
            "nan": "isnan(a)",
            "inf": "isinf(a)",
        },
        "float, float",
        "float",
        [a, b],
        np.float32,
    )
    with np.errstate(invalid="ignore"):
        expected = {
            "min": np.fmin(a, b),
            "max": np.fmax(a, b),
            "lt": a < b,
            "ge": a >= b,
            "ne": a != b,
            "eq": a == b,
            "not lt": ~(a < b),
            "copysign": np.copysign(a, b),
            "abs": abs(a),
            "neg": -a,
            "nan": np.isnan(a),
            "inf": np.isinf(a),
            "sat": np.nan_to_num(np.clip(a, 0, 1), nan=0.0),
        }
    for name, value in expected.items():
        np.testing.assert_array_equal(rows[name], value.astype(np.float32), name)


def test_floats_become_integers_saturated_and_nan_becomes_zero() -> None:
    a = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 3e9, -3e9, 1e20, -1e20, np.nan, np.inf, 255.6, -7.7], np.float32)
    rows = run_table(
        {
            "rn": "__float2int_rn(a)",
            "rz": "__float2int_rz(a)",
            "rd": "__float2int_rd(a)",
            "ru": "__float2int_ru(a)",
            "unsigned": "(long long)__float2uint_rz(a)",
            "long": "__float2ll_rz(a)",
        },
        "float",
        "long long",
        [a],
        np.int64,
    )
    wide = np.nan_to_num(a.astype(np.float64), nan=0.0, posinf=1e300, neginf=-1e300)
    for name, f in {"rn": np.rint, "rz": np.trunc, "rd": np.floor, "ru": np.ceil}.items():
        np.testing.assert_array_equal(rows[name], np.clip(f(wide), -(2**31), 2**31 - 1).astype(np.int64), name)
    np.testing.assert_array_equal(rows["unsigned"], np.clip(np.trunc(wide), 0, 2**32 - 1).astype(np.int64))
    assert rows["long"][7] == 2**63 - 1
    assert rows["long"][8] == rows["long"][9] == -(2**63)  # in 64 bits NaN too


FUNCTIONS = {
    "exp": np.exp,
    "exp2": np.exp2,
    "expm1": np.expm1,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "tanh": np.tanh,
    "sinh": np.sinh,
    "atan": np.arctan,
    "floor": np.floor,
    "ceil": np.ceil,
    "rint": np.rint,
    "trunc": np.trunc,
}


POSITIVE = {"log": np.log, "log2": np.log2, "log10": np.log10, "log1p": np.log1p, "sqrt": np.sqrt, "cbrt": np.cbrt}


def test_the_cuda_math_library_gives_its_functions(rng: np.random.Generator) -> None:
    a = np.concatenate([rng.normal(size=200) * 3, rng.uniform(-1e5, 1e5, 20)]).astype(np.float32)
    a = np.where(abs(a) > 80, a, a)
    small, positive = np.clip(a, -80, 80), abs(a) + np.float32(1e-3)
    single = run_table({n: f"{n}f(a)" for n in FUNCTIONS}, "float", "float", [small], np.float32)
    double = run_table({n: f"{n}(a)" for n in FUNCTIONS}, "double", "double", [small.astype(np.float64)], np.float64)
    for name, f in FUNCTIONS.items():
        np.testing.assert_allclose(single[name], f(small.astype(np.float64)), rtol=1e-6, atol=1e-7, err_msg=name)
        np.testing.assert_allclose(double[name], f(small.astype(np.float64)), rtol=1e-14, atol=1e-15, err_msg=name)
    single = run_table({n: f"{n}f(a)" for n in POSITIVE}, "float", "float", [positive], np.float32)
    for name, f in POSITIVE.items():
        np.testing.assert_allclose(single[name], f(positive.astype(np.float64)), rtol=1e-6, atol=1e-7, err_msg=name)
    fast = run_table(
        {
            "rsqrt": "rsqrtf(a)",
            "fast sin": "__sinf(a)",
            "fast exp": "__expf(-a)",
            "fast log": "__logf(a)",
            "pow": "powf(a, 1.5f)",
            "fast div": "__fdividef(1.0f, a)",
            "erf": "erff(a)",
            "gamma": "lgammaf(a)",
        },
        "float",
        "float",
        [np.minimum(positive, 20)],
        np.float32,
    )
    x = np.minimum(positive, 20).astype(np.float64)
    for name, value in {
        "rsqrt": x**-0.5,
        "fast sin": np.sin(x),
        "fast exp": np.exp(-x),
        "fast log": np.log(x),
        "pow": x**1.5,
        "fast div": 1 / x,
    }.items():
        np.testing.assert_allclose(fast[name], value, rtol=3e-6, atol=1e-6, err_msg=name)


def test_sine_of_a_large_argument_is_reduced_in_local_memory() -> None:
    a = np.array([1e6, -3e7, 1e20, 123456.789], np.float32)
    rows = run_table({"sin": "sinf(a)", "cos": "cosf(a)"}, "float", "float", [a], np.float32)
    np.testing.assert_allclose(rows["sin"], np.sin(a.astype(np.float64)), atol=1e-6)
    np.testing.assert_allclose(rows["cos"], np.cos(a.astype(np.float64)), atol=1e-6)


def test_denormals_are_zero_as_the_kernels_are_compiled() -> None:
    """Denormals of both signs, also where a number is only compared, negated or selected."""
    a = np.array([1e-40, -1e-40, 1e-20], np.float32)
    rows = run_table(
        {
            "product": "a * 3.0f",
            "sum": "a + a",
            "tiny": "a * a",
            "max": "fmaxf(a, -1.0f)",
            "min": "fminf(1.0f, a)",
            "abs": "fabsf(a)",
            "neg": "-a",
            "compare": "a > 0.0f",
            "round up": "ceilf(a)",
        },
        "float",
        "float",
        [a],
        np.float32,
    )
    np.testing.assert_array_equal(rows["product"], np.array([0, 0, 3e-20], np.float32))
    np.testing.assert_array_equal(rows["tiny"], 0)
    for name, sign in {"sum": 2, "max": 1, "min": 1, "abs": 1, "neg": -1}.items():
        np.testing.assert_array_equal(rows[name], np.array([0, 0, sign * a[2]], np.float32), name)
    for name in ("compare", "round up"):
        np.testing.assert_array_equal(rows[name], [0, 0, 1], name)


HALF = "#include <cuda_fp16.h>\n"


BRAIN = "#include <cuda_bf16.h>\n"


def test_half_precision_is_rounded_once_an_operation(rng: np.random.Generator) -> None:
    a, b, c = (rng.normal(size=300).astype(np.float16) for _ in range(3))
    rows = run_table(
        {
            "add": "a + b",
            "sub": "a - b",
            "mul": "a * b",
            "div": "a / b",
            "fma": "__hfma(a, b, c)",
            "neg": "-a",
            "abs": "__habs(a)",
            "max": "__hmax(a, b)",
            "min": "__hmin(a, b)",
            "pair": "__high2half(__hfma2(__halves2half2(c, a), __halves2half2(c, b), __halves2half2(a, c)))",
            "from": "__float2half_rz(__half2float(a) * 1.001f)",
            "exp": "hexp(a)",
            "rsqrt": "hrsqrt(__habs(b))",
            "lt": "__half((float)(a < b))",
            "int": "__int2half_rn(__half2int_rd(a * __half(100.0f)))",
        },
        "__half, __half, __half",
        "__half",
        [a, b, c],
        np.float16,
        before=HALF,
    )
    x, y, z = (v.astype(np.float64) for v in (a, b, c))
    product = (a.astype(np.float32) * np.float32(1.001)).astype(np.float64)
    near = product.astype(np.float16)
    toward_zero = np.where(abs(near.astype(np.float64)) > abs(product), np.nextafter(near, np.float16(0)), near)
    exact = {
        "add": x + y,
        "sub": x - y,
        "mul": x * y,
        "fma": x * y + z,
        "neg": -x,
        "abs": abs(x),
        "max": np.maximum(x, y),
        "min": np.minimum(x, y),
        "pair": x * y + z,
        "lt": x < y,
        "from": toward_zero,
        "int": np.floor((x * 100).astype(np.float16).astype(np.float64)),
    }
    for name, value in exact.items():
        np.testing.assert_array_equal(rows[name], np.asarray(value).astype(np.float16), name)
    np.testing.assert_allclose(rows["div"], x / y, rtol=2e-3)
    np.testing.assert_allclose(rows["exp"], np.exp(x), rtol=2e-3)
    np.testing.assert_allclose(rows["rsqrt"], abs(y) ** -0.5, rtol=2e-3)


@pytest.mark.parametrize("arch", ["compute_80", "compute_90"])
def test_bfloat16_is_rounded_to_even(arch: str, rng: np.random.Generator) -> None:
    a, b = (rng.normal(size=300).astype(np.float32) for _ in range(2))

    def brain(x: np.ndarray) -> np.ndarray:
        w = x.astype(np.float32).view(np.uint32)
        return ((w + 0x7FFF + (w >> 16 & 1)) & 0xFFFF0000).view(np.float32)

    rows = run_table(
        {
            "round": "__bfloat162float(__float2bfloat16(a))",
            "add": "__bfloat162float(__hadd(__float2bfloat16(a), __float2bfloat16(b)))",
            "mul": "__bfloat162float(__hmul(__float2bfloat16(a), __float2bfloat16(b)))",
            "fma": "__bfloat162float(__hfma(__float2bfloat16(a), __float2bfloat16(b), __float2bfloat16(a)))",
            "pair": "__high2float(__hadd2(__floats2bfloat162_rn(b, a), __floats2bfloat162_rn(a, b)))",
            "max": "__bfloat162float(__hmax(__float2bfloat16(a), __float2bfloat16(b)))",
        },
        "float, float",
        "float",
        [a, b],
        np.float32,
        before=BRAIN,
        arch=arch,
    )
    x, y = brain(a), brain(b)
    for name, value in {"round": a, "add": x + y, "mul": x * y, "pair": x + y, "max": np.maximum(x, y)}.items():
        np.testing.assert_array_equal(rows[name], brain(value), name)
    np.testing.assert_array_equal(rows["fma"], brain((x.astype(np.float64) * y + x).astype(np.float32)))
