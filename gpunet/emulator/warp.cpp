// Warp operations: votes, shuffles, reductions, matches, ldmatrix and mma, each computed for all
// its lanes at once.
//
// The layouts of fragments are those of NVIDIA's PTX ISA manual. They were not compared with a GPU.
#include "state.hpp"

#ifdef __F16C__
#include <immintrin.h>
#endif

namespace emu {

const char* kind_name(u32 kind) {
    static const char* const names[] = {
        "bar.warp.sync", "shfl.up", "shfl.down", "shfl.bfly", "shfl.idx", "vote.all", "vote.any", "vote.uni", "vote.ballot",
        "match.any", "match.any", "match.all", "match.all",
        "redux.add", "redux.min", "redux.max", "redux.min", "redux.max", "redux.and", "redux.or", "redux.xor",
        "ldmatrix", "ldmatrix", "stmatrix", "stmatrix", "mma", "elect", "activemask",
    };
    return kind < sizeof names / sizeof *names ? names[kind] : "a warp operation";
}

static void shuffle(u32 kind, Thread* lanes, u32 mask) {
    for (u32 l = 0; l < 32; ++l) {
        if (!(mask >> l & 1)) continue;
        Thread& t = lanes[l];
        const u32 b = t.in[1] & 31, clamp = t.in[2] & 31, segment = t.in[2] >> 8 & 31;
        const u32 last = (l & segment) | (clamp & ~segment), first = l & segment;
        s32 from;
        bool valid;
        if (kind == SHFL_UP) from = (s32)l - (s32)b, valid = from >= (s32)last;
        else if (kind == SHFL_DOWN) from = l + b, valid = from <= (s32)last;
        else if (kind == SHFL_BFLY) from = l ^ b, valid = from <= (s32)last;
        else from = first | (b & ~segment), valid = from <= (s32)last;
        if (!valid) from = l;
        t.out[0] = mask >> (from & 31) & 1 ? lanes[from & 31].in[0] : ~0u;  // from a lane that takes no part the result is undefined
        t.out[1] = valid;
    }
}

static u32 reduce(u32 kind, u32 a, u32 b) {
    switch (kind) {
        case REDUX_ADD: return a + b;
        case REDUX_MIN_S: return (s32)a < (s32)b ? a : b;
        case REDUX_MAX_S: return (s32)a > (s32)b ? a : b;
        case REDUX_MIN_U: return a < b ? a : b;
        case REDUX_MAX_U: return a > b ? a : b;
        case REDUX_AND: return a & b;
        case REDUX_OR: return a | b;
        default: return a ^ b;
    }
}

// ldmatrix and stmatrix. in[0] is the address of a row of 8 elements of 16 bits: lanes 8i … 8i + 7
// give those of matrix i. in[1] is the number of matrices; the elements to store follow.
static void move_matrices(u32 kind, Thread* lanes, u32 mask, u32 site) {
    const u32 count = lanes[__builtin_ctz(mask)].in[1];
    const bool transposed = kind == LDMATRIX_TRANS || kind == STMATRIX_TRANS, stores = kind == STMATRIX || kind == STMATRIX_TRANS;
    if (mask != ~0u) fault(&lanes[__builtin_ctz(mask)], "divergent barrier", site, "%s without all 32 lanes", kind_name(kind));
    for (u32 l = 0; l < 8 * count; ++l) {
        const u32 at = lanes[l].in[0];
        if (state.launch->checked) emu_check_shared(&state, &lanes[l], at, 16, stores ? WRITE : READ, site);
        else if (at % 16 || at + 16 > state.shared_size) fault(&lanes[l], at % 16 ? "misaligned" : "out of bounds", site, "%s of a row at byte %u of shared memory", kind_name(kind), at);
    }
    for (u32 i = 0; i < count; ++i)
        for (u32 l = 0; l < 32; ++l)
            for (u32 half = 0; half < 2; ++half) {
                const u32 major = l / 4, minor = l % 4 * 2 + half;
                char* at = state.shared + lanes[8 * i + (transposed ? minor : major)].in[0] + 2 * (transposed ? major : minor);
                if (stores) {
                    put<u16>(at, lanes[l].in[2 + i] >> 16 * half);
                } else {
                    u32& out = lanes[l].out[i];
                    out = half ? out | (u32)get<u16>(at) << 16 : get<u16>(at);
                }
            }
}

static constexpr u32 per_register(u32 element) {
    return element == E_F16 || element == E_BF16 ? 2 : element == E_S8 || element == E_U8 ? 4 : 1;
}

static f64 half_value(u16 word) {
#ifdef __F16C__
    return _cvtsh_ss(word);  // otherwise GCC calls a function that takes far longer
#else
    return (f64)bits<_Float16>(word);
#endif
}

template <u32 ELEMENT>
static f64 value(u32 word, u32 i) {
    switch (ELEMENT) {
        case E_F16: return half_value(word >> 16 * i);
        case E_BF16: return bits<f32>(word >> 16 * i << 16);
        case E_TF32: return bits<f32>(word & 0xffffe000u);
        case E_S8: return (s8)(word >> 8 * i);
        case E_U8: return (u8)(word >> 8 * i);
        case E_S32: return (s32)word;
        default: return bits<f32>(word);
    }
}

typedef f64 Row __attribute__((vector_size(64)));  // 8 columns
static f64 mma_a[16][64];
static Row mma_b[64], mma_c[16];

template <u32 ELEMENT>
static void read_a(const Thread* lanes, u32 first, u32 regs) {
    constexpr u32 each = per_register(ELEMENT);
    for (u32 l = 0; l < 32; ++l)
        for (u32 r = 0; r < regs; ++r)
            for (u32 i = 0; i < each; ++i)
                mma_a[l / 4 + 8 * (r & 1)][l % 4 * each + i + (r >> 1) * 4 * each] = value<ELEMENT>(lanes[l].in[first + r], i);
}

template <u32 ELEMENT>
static void read_b(const Thread* lanes, u32 first, u32 regs) {
    constexpr u32 each = per_register(ELEMENT);
    for (u32 l = 0; l < 32; ++l)
        for (u32 r = 0; r < regs; ++r)
            for (u32 i = 0; i < each; ++i) mma_b[l % 4 * each + i + r * 4 * each][l / 4] = value<ELEMENT>(lanes[l].in[first + r], i);
}

template <u32 ELEMENT>
static void read_c(const Thread* lanes, u32 first, u32) {
    constexpr u32 each = per_register(ELEMENT);
    for (u32 l = 0; l < 32; ++l)
        for (u32 i = 0; i < 4; ++i)
            mma_c[l / 4 + 8 * (i >> 1)][l % 4 * 2 + (i & 1)] = value<ELEMENT>(lanes[l].in[first + i / each], i % each);
}

// By Element.
#define OF_EACH(read) {read<E_F16>, read<E_BF16>, read<E_TF32>, read<E_F32>, read<E_S8>, read<E_U8>, read<E_S32>}
typedef void (*Read)(const Thread*, u32, u32);
static const Read A_READERS[] = OF_EACH(read_a), B_READERS[] = OF_EACH(read_b), C_READERS[] = OF_EACH(read_c);

// mma: D = A B + C for 16 x 8 results. in[] holds the registers of a, b and c; in[15] packs k and
// the element types. Products and sums are computed in double and rounded once; a GPU rounds in
// steps of its own.
static void multiply(Thread* lanes, u32 mask, u32 site) {
    const u32 shape = lanes[__builtin_ctz(mask)].in[15];
    if (mask != ~0u) fault(&lanes[__builtin_ctz(mask)], "divergent barrier", site, "mma without all 32 lanes");
    const u32 K = shape & 255, A = shape >> 8 & 15, B = shape >> 12 & 15, C = shape >> 16 & 15, D = shape >> 20 & 15;
    const u32 a_regs = K / 2 / per_register(A), b_regs = a_regs / 2;
    A_READERS[A](lanes, 0, a_regs);
    B_READERS[B](lanes, a_regs, b_regs);
    C_READERS[C](lanes, a_regs + b_regs, 4 / per_register(C));
    for (u32 row = 0; row < 16; ++row) {
        Row sum = {};
        for (u32 k = 0; k < K; ++k) sum += mma_a[row][k] * mma_b[k];
        mma_c[row] = sum + mma_c[row];
    }
    for (u32 l = 0; l < 32; ++l)
        for (u32 i = 0; i < 4; ++i) {
            const f64 sum = mma_c[l / 4 + 8 * (i >> 1)][l % 4 * 2 + (i & 1)];
            u32* out = lanes[l].out;
            if (D == E_F16) {
                const u32 half = bits<u16>((_Float16)sum);
                out[i >> 1] = i & 1 ? out[i >> 1] | half << 16 : half;
            } else if (D == E_S32) {
                out[i] = (u32)(s64)sum;
            } else {
                out[i] = bits<u32>((f32)sum);
            }
        }
}

void execute_warp(u32 kind, u32 warp, u32 mask, u32 site) {
    Thread* lanes = state.thread + warp * 32;
    const u32 leader = __builtin_ctz(mask);
    switch (kind) {
        case SYNC: return;
        case SHFL_UP: case SHFL_DOWN: case SHFL_BFLY: case SHFL_IDX: return shuffle(kind, lanes, mask);
        case LDMATRIX: case LDMATRIX_TRANS: case STMATRIX: case STMATRIX_TRANS: return move_matrices(kind, lanes, mask, site);
        case MMA: return multiply(lanes, mask, site);
        default: break;
    }
    u32 ballot = 0, total = lanes[leader].in[0];
    for (u32 left = mask; left; left &= left - 1) {
        const u32 l = __builtin_ctz(left);
        if (lanes[l].in[0]) ballot |= 1u << l;
        if (l != leader) total = reduce(kind, total, lanes[l].in[0]);
    }
    for (u32 left = mask; left; left &= left - 1) {
        Thread& t = lanes[__builtin_ctz(left)];
        const bool wide = kind == MATCH_ANY64 || kind == MATCH_ALL64;
        u32 same = 0;
        for (u32 rest = mask; rest; rest &= rest - 1) {
            const Thread& other = lanes[__builtin_ctz(rest)];
            if (other.in[0] == t.in[0] && (!wide || other.in[1] == t.in[1])) same |= 1u << other.lane;
        }
        switch (kind) {
            case VOTE_ALL: t.out[0] = ballot == mask; break;
            case VOTE_ANY: t.out[0] = ballot != 0; break;
            case VOTE_UNI: t.out[0] = ballot == mask || ballot == 0; break;
            case VOTE_BALLOT: t.out[0] = ballot; break;
            case MATCH_ANY32: case MATCH_ANY64: t.out[0] = same; break;
            case MATCH_ALL32: case MATCH_ALL64: t.out[0] = same == mask ? mask : 0, t.out[1] = same == mask; break;
            case ELECT: t.out[0] = leader, t.out[1] = t.lane == leader; break;
            default: t.out[0] = total;
        }
    }
}

}  // namespace emu
