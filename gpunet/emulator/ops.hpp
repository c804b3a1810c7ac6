// The PTX instructions for which C++ has no operator with the same meaning.
//
// A product and a sum that are two PTX instructions are never fused, and fma always is: the
// compiler gets -ffp-contract=off, and the processor must have FMA. .ftz is a mode of the processor
// during the whole launch. .approx functions are the C library's.
#pragma once
#include <math.h>

#include "machine.hpp"

#ifndef __FMA__
#error "the emulated machine needs a processor with FMA"
#endif

namespace emu {

#define OP static inline __attribute__((always_inline))

// ---- rounding: rn is the processor's usual mode, the others are requested for single instructions
enum Rounding { RN, RZ, RM, RP };

#ifdef __AVX512F__
#define ROUNDED_1(I) (R == RZ ? ({ asm(I " %{rz-sae%}, %1, %0, %0" : "+v"(d) : "v"(a)); 0; }) : R == RM ? ({ asm(I " %{rd-sae%}, %1, %0, %0" : "+v"(d) : "v"(a)); 0; }) : ({ asm(I " %{ru-sae%}, %1, %0, %0" : "+v"(d) : "v"(a)); 0; }))
#define ROUNDED_2(I) (R == RZ ? ({ asm(I " %{rz-sae%}, %2, %1, %0" : "=v"(d) : "v"(a), "v"(b)); 0; }) : R == RM ? ({ asm(I " %{rd-sae%}, %2, %1, %0" : "=v"(d) : "v"(a), "v"(b)); 0; }) : ({ asm(I " %{ru-sae%}, %2, %1, %0" : "=v"(d) : "v"(a), "v"(b)); 0; }))
#define ROUNDED_3(I) (R == RZ ? ({ asm(I " %{rz-sae%}, %2, %1, %0" : "+v"(d) : "v"(b), "v"(c)); 0; }) : R == RM ? ({ asm(I " %{rd-sae%}, %2, %1, %0" : "+v"(d) : "v"(b), "v"(c)); 0; }) : ({ asm(I " %{ru-sae%}, %2, %1, %0" : "+v"(d) : "v"(b), "v"(c)); 0; }))
#else
// One asm statement switches the mode and restores it, so that no other arithmetic can run in
// between.
template <int R>
OP u32 mode_with() {
    u32 mode;
    asm volatile("stmxcsr %0" : "=m"(mode));
    return (mode & ~0x6000u) | (R == RM ? 0x2000 : R == RP ? 0x4000 : 0x6000);
}
#define SWITCHED(I, out, ...) ({ u32 mode = mode_with<R>(), old; asm volatile("stmxcsr %[old]\n\tldmxcsr %[mode]\n\t" I "\n\tldmxcsr %[old]" : out(d), [old] "=m"(old) : __VA_ARGS__, [mode] "m"(mode)); 0; })
#define ROUNDED_1(I) SWITCHED(I " %[a], %[d], %[d]", [d] "+x", [a] "x"(a))
#define ROUNDED_2(I) SWITCHED(I " %[b], %[a], %[d]", [d] "=&x", [a] "x"(a), [b] "x"(b))
#define ROUNDED_3(I) SWITCHED(I " %[c], %[b], %[d]", [d] "+x", [b] "x"(b), [c] "x"(c))
#endif

#define ARITHMETIC_2(name, plain, single, twice)                                                             \
    template <int R> OP f32 name(f32 a, f32 b) { f32 d; if (R == RN) return plain; (void)ROUNDED_2(single); return d; } \
    template <int R> OP f64 name(f64 a, f64 b) { f64 d; if (R == RN) return plain; (void)ROUNDED_2(twice); return d; }
ARITHMETIC_2(add, a + b, "vaddss", "vaddsd")
ARITHMETIC_2(sub, a - b, "vsubss", "vsubsd")
ARITHMETIC_2(mul, a* b, "vmulss", "vmulsd")
ARITHMETIC_2(quotient, a / b, "vdivss", "vdivsd")
template <int R> OP f32 fma(f32 a, f32 b, f32 c) { if (R == RN) return __builtin_fmaf(a, b, c); f32 d = a; (void)ROUNDED_3("vfmadd213ss"); return d; }
template <int R> OP f64 fma(f64 a, f64 b, f64 c) { if (R == RN) return __builtin_fma(a, b, c); f64 d = a; (void)ROUNDED_3("vfmadd213sd"); return d; }
template <int R> OP f32 square_root(f32 a) { if (R == RN) return __builtin_sqrtf(a); f32 d = a; (void)ROUNDED_1("vsqrtss"); return d; }
template <int R> OP f64 square_root(f64 a) { if (R == RN) return __builtin_sqrt(a); f64 d = a; (void)ROUNDED_1("vsqrtsd"); return d; }

template <class T> OP T saturate(T x) { return x > 0 ? (x < 1 ? x : 1) : 0; }  // NaN becomes 0
OP f32 negate(f32 x) { return bits<f32>(bits<u32>(x) ^ 0x80000000u); }
OP f64 negate(f64 x) { return bits<f64>(bits<u64>(x) ^ 1ull << 63); }

// abs, neg, min and max only move or compare numbers, and the processor keeps denormals there. With
// .ftz they become zero.
OP f32 flushed(f32 x) { return bits<u32>(x) & 0x7f800000u ? x : bits<f32>(bits<u32>(x) & 0x80000000u); }

template <class T, bool NAN_WINS = false> OP T lesser(T a, T b) {
    if (a != a || b != b) return NAN_WINS || a == a ? (NAN_WINS ? (T)__builtin_nan("") : a) : b;
    return a < b || (a == b && __builtin_signbit(a)) ? a : b;
}
template <class T, bool NAN_WINS = false> OP T larger(T a, T b) {
    if (a != a || b != b) return NAN_WINS || a == a ? (NAN_WINS ? (T)__builtin_nan("") : a) : b;
    return a > b || (a == b && !__builtin_signbit(a)) ? a : b;
}

OP f32 reciprocal(f32 x) { return 1.0f / x; }
OP f64 reciprocal(f64 x) { return 1.0 / x; }
OP f32 reciprocal_root(f32 x) { return (f32)(1.0 / sqrt((f64)x)); }
OP f64 reciprocal_root(f64 x) { return 1.0 / sqrt(x); }

// ---- 16-bit floats
// They are stored as bits, computed in a wider format and rounded once. A number that is not exact
// in the wider format is rounded to odd there; rounding it again then gives the same as rounding
// the exact number (Boldo and Melquiond 2008, "Emulation of FMA and correctly rounded sums: proved
// algorithms using rounding to odd").
template <class T> struct BitsOf;
template <> struct BitsOf<f32> { typedef u32 type; };
template <> struct BitsOf<f64> { typedef u64 type; };
template <class To, class From> OP To to_odd(From v) {
    const To near = (To)v;
    if (v != v || (From)near == v || __builtin_isinf(v)) return near;
    const auto b = bits<typename BitsOf<To>::type>(near);
    return bits<To>((__builtin_fabsl(near) > __builtin_fabsl(v) ? b - 1 : b) | 1);
}
OP f64 sum_to_odd(f64 a, f64 b) {
    const f64 sum = a + b, part = sum - a, rest = (a - (sum - part)) + (b - part);  // a + b is sum + rest (Knuth's TwoSum)
    const u64 near = bits<u64>(sum);
    if (!(rest < 0 || rest > 0) || near & 1) return sum;
    return bits<f64>((rest > 0) == (sum > 0) ? near + 1 : near - 1);
}
struct Half {
    static f32 wide(u16 v) { return (f32)bits<_Float16>(v); }
    static u16 narrow(f32 v) { return bits<u16>((_Float16)v); }
    static u16 narrow(f64 v) { return bits<u16>((_Float16)v); }
};
struct Brain {
    static f32 wide(u16 v) { return bits<f32>((u32)v << 16); }
    static u16 narrow(f32 v) {
        const u32 b = bits<u32>(v);
        return v != v ? 0x7fff : (b + 0x7fff + (b >> 16 & 1)) >> 16;
    }
    static u16 narrow(f64 v) { return narrow(to_odd<f32>(v)); }
};
template <class F, class Op, class... A> OP u16 of_half(Op op, A... a) { return F::narrow(op(F::wide(a)...)); }
template <class F, class Op> OP u16 half_fma(Op op, u16 a, u16 b, u16 c) { return F::narrow(op(sum_to_odd((f64)F::wide(a) * F::wide(b), F::wide(c)))); }  // the product is exact
template <class Op, class... A> OP u32 each_half(Op op, A... a) { return (u32)op((u16)a...) | (u32)op((u16)(a >> 16)...) << 16; }

// ---- conversion
// r is the number of its format that is nearest to v. Returns r, or its neighbour if R asks for the
// other side of v. r is given as bits, sign first; `back` is its value.
template <int R, class B, class V> OP B towards(B r, V v, V back) {
    if (R == RN || v != v || back == v) return r;
    const bool negative = r >> (sizeof(B) * 8 - 1), above = back > v;
    const bool too_far = R == RZ ? (negative ? !above : above) : R == RM ? above : !above;
    if (!too_far) return r;
    if (R == RZ) return r - 1;
    const bool grow = R == RM ? negative : !negative;  // towards a larger magnitude
    if (!grow && (B)(r << 1) == 0) return (B)(R == RM ? (B)1 << (sizeof(B) * 8 - 1) | 1 : 1);
    return grow ? r + 1 : r - 1;
}
template <int R> OP f32 to_f32(f64 v) { const f32 r = (f32)v; return bits<f32>(towards<R, u32, f64>(bits<u32>(r), v, r)); }
template <int R, class F> OP u16 to_half(f32 v) { const u16 r = F::narrow(v); return towards<R, u16, f32>(r, v, F::wide(r)); }
template <int R, class F> OP u16 to_half(f64 v) { const u16 r = F::narrow(v); return towards<R, u16, f64>(r, v, F::wide(r)); }
template <int R, class I> OP f32 int_to_f32(I v) { const f32 r = (f32)v; return bits<f32>(towards<R, u32, long double>(bits<u32>(r), v, r)); }
template <int R, class I> OP f64 int_to_f64(I v) { const f64 r = (f64)v; return bits<f64>(towards<R, u64, long double>(bits<u64>(r), v, r)); }
OP u32 to_tf32(f32 v, bool away) {  // the nearest with 10 bits of fraction; ties away from zero, or to even
    const u32 b = bits<u32>(v);
    return v != v ? 0x7fffffff : (away ? b + 0x1000 : b + 0xfff + (b >> 13 & 1)) & ~0x1fffu;
}
template <int R> OP f32 to_integral(f32 v) { return R == RN ? rintf(v) : R == RZ ? truncf(v) : R == RM ? floorf(v) : ceilf(v); }
template <int R> OP f64 to_integral(f64 v) { return R == RN ? rint(v) : R == RZ ? trunc(v) : R == RM ? floor(v) : ceil(v); }
template <class I> constexpr I lowest() { return (I)-1 < 0 ? (I)((u64)1 << (sizeof(I) * 8 - 1)) : 0; }
template <class I> constexpr I highest() { return (I)~lowest<I>(); }
template <class I, int R, class T> OP I to_int(T v) {
    v = to_integral<R>(v);
    if (v != v) return sizeof(I) == 8 || sizeof(T) == 8 ? (I)(1ull << (sizeof(I) * 8 - 1)) : 0;
    if (v <= (T)lowest<I>()) return lowest<I>();
    if (v >= (T)highest<I>()) return highest<I>();
    return (I)v;
}
template <class To, class From> OP To clamp_int(From v) {
    const __int128 wide = v;
    return wide < (__int128)lowest<To>() ? lowest<To>() : wide > (__int128)highest<To>() ? highest<To>() : (To)v;
}

// ---- integers
template <class T> OP T divide(T a, T b) {
    if (b == 0) return (T)-1;
    if ((T)-1 < 0 && b == (T)-1) return (T)(0 - (u64)a);
    return a / b;
}
template <class T> OP T remainder(T a, T b) {
    if (b == 0) return a;
    if ((T)-1 < 0 && b == (T)-1) return 0;
    return a % b;
}
OP u32 mul_hi(u32 a, u32 b) { return (u64)a * b >> 32; }
OP s32 mul_hi(s32 a, s32 b) { return (s64)a * b >> 32; }
OP u64 mul_hi(u64 a, u64 b) { return (u128)a * b >> 64; }
OP s64 mul_hi(s64 a, s64 b) { return (__int128)a * b >> 64; }
OP u16 mul_hi(u16 a, u16 b) { return (u32)a * b >> 16; }
OP s16 mul_hi(s16 a, s16 b) { return (s32)a * b >> 16; }
template <class T> OP T shift_left(T a, u32 n) { return n >= sizeof(T) * 8 ? 0 : (T)(a << n); }
template <class T> OP T shift_right(T a, u32 n) { return n >= sizeof(T) * 8 ? (a < 0 ? (T)-1 : 0) : (T)(a >> n); }
OP u32 funnel_left(u32 low, u32 high, u32 n) { return n >= 32 ? low : n == 0 ? high : high << n | low >> (32 - n); }
OP u32 funnel_right(u32 low, u32 high, u32 n) { return n >= 32 ? high : n == 0 ? low : low >> n | high << (32 - n); }
template <class T> OP T field_extract(T a, u32 at, u32 length) {
    at &= 255, length &= 255;
    const u32 width = sizeof(T) * 8;
    const bool is_signed = (T)-1 < 0;
    if (length == 0) return 0;
    const u32 top = at + length - 1 < width - 1 ? at + length - 1 : width - 1;
    const T sign = is_signed && (u64)a >> top & 1 ? (T)-1 : 0;
    if (at >= width) return sign;
    if (length >= width - at) return (T)(a >> at);
    const u64 mask = (1ull << length) - 1;
    return (T)(((u64)a >> at & mask) | ((u64)sign & ~mask));
}
template <class T> OP T field_insert(T a, T into, u32 at, u32 length) {
    at &= 255, length &= 255;
    const u32 width = sizeof(T) * 8;
    if (length == 0 || at >= width) return into;
    const T mask = (length >= width ? (T)-1 : (T)(((T)1 << length) - 1)) << at;
    return (into & ~mask) | (a << at & mask);
}
OP u32 leading_zeros(u32 a) { return a ? __builtin_clz(a) : 32; }
OP u32 leading_zeros(u64 a) { return a ? __builtin_clzll(a) : 64; }
template <class T> OP u32 find_leading(T a, bool as_shift) {
    typedef __typeof__(leading_zeros((T)0)) _; (void)sizeof(_);
    const u32 width = sizeof(T) * 8, zeros = leading_zeros(a);
    return zeros == width ? ~0u : as_shift ? zeros : width - 1 - zeros;
}
OP u32 reverse(u32 a) {
    a = __builtin_bswap32(a);
    a = (a >> 4 & 0x0f0f0f0f) | (a & 0x0f0f0f0f) << 4;
    a = (a >> 2 & 0x33333333) | (a & 0x33333333) << 2;
    return (a >> 1 & 0x55555555) | (a & 0x55555555) << 1;
}
OP u64 reverse(u64 a) { return (u64)reverse((u32)a) << 32 | reverse((u32)(a >> 32)); }
OP u32 find_nth(u32 mask, u32 base, s32 n) {
    if (n == 0) return mask >> (base & 31) & 1 ? base : ~0u;
    for (s32 i = base, step = n > 0 ? 1 : -1, left = n > 0 ? n : -n; i >= 0 && i < 32; i += step)
        if (mask >> i & 1 && --left == 0) return i;
    return ~0u;
}
OP u32 permute(u32 a, u32 b, u32 selector) {
    const u64 bytes = (u64)b << 32 | a;
    u32 d = 0;
    for (u32 i = 0; i < 4; ++i) {
        const u32 s = selector >> 4 * i, byte = bytes >> 8 * (s & 7) & 255;
        d |= (s & 8 ? (byte & 128 ? 255u : 0u) : byte) << 8 * i;
    }
    return d;
}
enum PermuteMode { F4E, B4E, RC8, ECL, ECR, RC16 };
OP u32 permute_mode(u32 a, u32 b, u32 c, int mode) {
    c &= 3;
    static const u16 table[6][4] = {
        {0x3210, 0x4321, 0x5432, 0x6543}, {0x5670, 0x6701, 0x7012, 0x0123}, {0x0000, 0x1111, 0x2222, 0x3333},
        {0x3210, 0x3211, 0x3222, 0x3333}, {0x0000, 0x1110, 0x2210, 0x3210}, {0x1010, 0x3232, 0x1010, 0x3232}};
    return permute(a, b, table[mode][c]);
}
OP u32 logic3(u32 a, u32 b, u32 c, u32 table) {
    u32 d = 0;
    if (table & 1) d |= ~a & ~b & ~c;
    if (table & 2) d |= ~a & ~b & c;
    if (table & 4) d |= ~a & b & ~c;
    if (table & 8) d |= ~a & b & c;
    if (table & 16) d |= a & ~b & ~c;
    if (table & 32) d |= a & ~b & c;
    if (table & 64) d |= a & b & ~c;
    if (table & 128) d |= a & b & c;
    return d;
}
template <class A, class B> OP u32 dot4(u32 a, u32 b, u32 c) {
    for (u32 i = 0; i < 4; ++i) c += (s32)(A)(a >> 8 * i) * (s32)(B)(b >> 8 * i);
    return c;
}
template <class A, class B> OP u32 dot2(u32 a, u32 b, u32 c, u32 high) {
    for (u32 i = 0; i < 2; ++i) c += (s32)(A)(a >> 16 * i) * (s32)(B)(b >> 8 * (i + 2 * high));
    return c;
}
template <class T> OP T wrap_increment(T old, T limit) { return old >= limit ? 0 : old + 1; }
template <class T> OP T wrap_decrement(T old, T limit) { return old == 0 || old > limit ? limit : old - 1; }

OP u64 clock_now() { return __builtin_ia32_rdtsc(); }

}  // namespace emu
