// What the compiled loops share: vectors of the compiler, which it turns into AVX-512, AVX2 or NEON,
// and walks over the elements of images whose channels lie innermost.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <exception>
#include <limits>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#if defined(__AVX512F__)
constexpr int VECTOR_BYTES = 64;
#elif defined(__AVX__)
constexpr int VECTOR_BYTES = 32;
#else
constexpr int VECTOR_BYTES = 16;
#endif

template <typename T>
struct Lanes {
    static constexpr long COUNT = VECTOR_BYTES / sizeof(T);
    typedef T Vector __attribute__((vector_size(VECTOR_BYTES)));
    typedef T Half __attribute__((vector_size(VECTOR_BYTES / 2)));
    typedef uint8_t Bytes __attribute__((vector_size(VECTOR_BYTES / sizeof(T))));
    typedef uint8_t HalfBytes __attribute__((vector_size(VECTOR_BYTES / sizeof(T) / 2)));
};
template <typename T>
using Vector = typename Lanes<T>::Vector;
template <typename T>
using HalfVector = typename Lanes<T>::Half;  // where there are few elements

// The type of a vector's elements; integers of their size, and bytes, as many as there are elements. A single
// element is a vector of one.
template <typename V> struct Element;
template <> struct Element<float> { typedef float type; typedef int32_t Integers; };
template <> struct Element<double> { typedef double type; typedef int64_t Integers; };
#define OF_VECTOR(T, I)                                                                                      \
    template <> struct Element<Vector<T>> {                                                                  \
        typedef T type;                                                                                      \
        typedef Vector<I> Integers;                                                                          \
        typedef Lanes<T>::Bytes Bytes;                                                                       \
    };                                                                                                       \
    template <> struct Element<HalfVector<T>> {                                                              \
        typedef T type;                                                                                      \
        typedef HalfVector<I> Integers;                                                                      \
        typedef Lanes<T>::HalfBytes Bytes;                                                                   \
    };
OF_VECTOR(float, int32_t)
OF_VECTOR(double, int64_t)
template <typename V> using Integers = typename Element<V>::Integers;

// A loop as it is called: for the part from `begin` to `end` of its work, with its other arguments in a row.
// It returns whether it could get the memory that it works in.
typedef uint64_t Slot;
typedef bool (*Loop)(long begin, long end, const Slot* arguments);

// Calls F(begin, end, …) with arguments from their slots. Each is a pointer, a `long` or a `double`.
template <auto F, typename = decltype(F)> struct Packed;
template <auto F, typename... A>
struct Packed<F, void (*)(long, long, A...)> {
    static constexpr char TAKES[] = {(std::is_pointer_v<A> ? 'P' : std::is_same_v<A, double> ? 'd' : 'q')..., 0};
    template <typename B>
    static B from(const Slot& slot) {
        static_assert(sizeof(B) == sizeof(Slot));
        B argument;
        memcpy(&argument, &slot, sizeof(B));
        return argument;
    }
    // It is not inlined, for inside of the `try` g++ makes slower code of some loops.
    template <size_t... I>
    __attribute__((noinline)) static void unpack(long begin, long end, const Slot* slots, std::index_sequence<I...>) {
        F(begin, end, from<A>(slots[I])...);
    }
    static bool call(long begin, long end, const Slot* slots) {
        try {
            unpack(begin, end, slots, std::index_sequence_for<A...>());
        } catch (const std::exception&) {  // bad_alloc or length_error, which would end the process if they came to Python
            return false;
        }
        return true;
    }
};

// Makes a loop callable by its name and dtype, and says what it takes, as Python's module struct does.
#define LOOP_OF(NAME, T, DTYPE)                             \
    Loop NAME##_##DTYPE = Packed<&NAME<T>>::call;           \
    const char* NAME##_##DTYPE##_takes = Packed<&NAME<T>>::TAKES;
#define LOOP(NAME)                    \
    extern "C" {                      \
    LOOP_OF(NAME, float, float32)     \
    LOOP_OF(NAME, double, float64)    \
    }

// A vector that lies anywhere in memory.
template <typename V, typename T>
static inline V load(const T* p) {
    V v;
    memcpy(&v, p, sizeof(V));
    return v;
}
template <typename V, typename T>
static inline void store(T* p, V v) {
    memcpy(p, &v, sizeof(V));
}

// The elements of a vector that lie at p, of which an array has `left` from there on; what is beyond is 0.
// Where a pixel has fewer channels than a vector, some are the next pixel's, and become results of nothing.
template <typename V, typename T>
static inline V load_some(const T* p, long left) {
    if (left >= (long)(sizeof(V) / sizeof(T))) return load<V>(p);
    V v = V{};
    memcpy(&v, p, std::max(0L, left) * sizeof(T));
    return v;
}
// Stores as many; what belongs to nothing is for the next pixel to overwrite.
template <typename V, typename T>
static inline void store_some(T* p, V v, long left) {
    if (left * (long)sizeof(T) >= (long)sizeof(V)) store(p, v);
    else memcpy(p, &v, left * sizeof(T));
}
// A byte for each element of V.
template <typename V>
using Bytes = typename Element<V>::Bytes;

// Memory of one thread that is kept from call to call, until the thread ends. It begins with a line of the
// cache, so that no vector of it lies in two lines.
template <typename T>
static T* scratch(int slot, long count) {
    constexpr size_t LINE = 64;
    static thread_local struct { std::unique_ptr<char[]> memory; long count = 0; } kept[6];
    auto& own = kept[slot];
    if (own.count < count) own.memory.reset(new char[count * sizeof(T) + LINE]), own.count = count;
    return (T*)(((uintptr_t)own.memory.get() + LINE - 1) / LINE * LINE);
}

// v with 0 in the places from `count` on
template <typename V>
static inline V first_of(V v, long count) {
    if (count >= (long)(sizeof(V) / sizeof(v[0]))) return v;
    Integers<V> place;
    for (long k = 0; k < (long)(sizeof(V) / sizeof(v[0])); ++k) place[k] = k;
    return place < Integers<V>{} + (typename std::remove_reference<decltype(place[0])>::type)count ? v : V{};
}

// The same value in each place.
template <typename V, typename T>
static inline V all(T value) {
    return V{} + (typename Element<V>::type)value;
}

// f(at, left) for the vectors of elements begin … end - 1 of an array, of which `left` lie from `at` on: all are
// computed by the same instructions, so that no result depends on where an array is cut.
template <typename T, typename F>
static inline void for_range(long begin, long end, F f) {
    for (long at = begin; at < end; at += Lanes<T>::COUNT) f(at, end - at);
}

// Rows of whole pixels, in which the channel of an element depends on its place alone: one pixel of many
// channels, or as many pixels of few channels as are a whole number of vectors. A value per channel is
// repeated along a row.
template <typename T>
struct Rows {
    static constexpr long FEWEST = 4, WANTED = 8;  // vectors of a row: so many sums are under way at once
    long channels, length;

    explicit Rows(long channels) : channels(channels), length(channels) {
        if (channels >= FEWEST * Lanes<T>::COUNT) return;
        while (length % Lanes<T>::COUNT) length += channels;
        while (length < WANTED * Lanes<T>::COUNT) length *= 2;
    }
    std::vector<T> repeated(const T* values) const {
        std::vector<T> row(length + Lanes<T>::COUNT);
        for (long at = 0; at < length; at += channels) memcpy(row.data() + at, values, channels * sizeof(T));
        return row;
    }
    std::vector<T> zeros() const { return std::vector<T>(length + Lanes<T>::COUNT); }
    // f(at, e, left) for the vectors of an array, of which `left` elements lie from `at` on; they stand from
    // place e of their rows on. At the end of a row a vector holds some of the next row too, which
    // overwrites what becomes of them.
    template <typename F>
    void walk(long elements, F f) const {
        for (long row = 0; row < elements; row += length) {
            const long end = std::min(length, elements - row);
            for (long e = 0; e < end; e += Lanes<T>::COUNT) f(row + e, e, elements - row - e);
        }
    }
    // sums[k][e] += the terms f(at, e, left, terms), over every `step`th row: a few vectors of a row at a time, whose sums
    // stay in registers.
    template <size_t SUMS, typename F>
    void add_up(long elements, T* const (&sums)[SUMS], long step, F f) const {
        long e = 0;
        for (; e + FEWEST * Lanes<T>::COUNT <= length; e += FEWEST * Lanes<T>::COUNT) add_columns<FEWEST>(elements, e, sums, step, f);
        for (; e < length; e += Lanes<T>::COUNT) add_columns<1>(elements, e, sums, step, f);
    }
    template <long N, size_t SUMS, typename F>
    void add_columns(long elements, long e, T* const (&sums)[SUMS], long step, F f) const {
        typedef Vector<T> V;
        constexpr long LANES = Lanes<T>::COUNT;
        V added[SUMS][N] = {}, terms[SUMS];
        const auto add = [&](long row, long v, long left) {
            f(row + e + v * LANES, e + v * LANES, left, terms);
            for (size_t k = 0; k < SUMS; ++k) added[k][v] += terms[k];
        };
        long row = 0;
        for (; row + length + LANES <= elements; row += step * length)
#pragma GCC unroll 4
            for (long v = 0; v < N; ++v) add(row, v, std::numeric_limits<long>::max());
        for (; row < elements; row += step * length)
            for (long v = 0; v < N && row + e + v * LANES < elements; ++v) add(row, v, elements - row - e - v * LANES);
        for (size_t k = 0; k < SUMS; ++k)
            for (long v = 0; v < N; ++v) store(sums[k] + e + v * LANES, load<V>(sums[k] + e + v * LANES) + added[k][v]);
    }
    // to[c] = the sum of a row's values of channel c
    void fold(const T* row, double* to) const {
        for (long c = 0; c < channels; ++c) to[c] = 0;
        for (long at = 0; at < length; at += channels)
            for (long c = 0; c < channels; ++c) to[c] += row[at + c];
    }
};
