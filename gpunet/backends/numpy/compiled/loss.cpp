// Softmax cross entropy of rows; the formulas stand in gpunet/backends/contract/loss.py. For the largest logit
// they start from 1 - p, which p itself would have rounded away.
#include <cmath>

#include "functions.hpp"

// What a row is compared with: (1 - smoothing) onehot(label) + smoothing / K, times the weights of the classes.
template <typename T>
struct Target {
    long label;
    bool kept;
    double spread, rest;
    const T* weight;
    double at(long k) const { return kept ? (k == label ? spread + rest : spread) * (weight ? weight[k] : 1) : 0; }
};

// The first largest element; NaN is before all.
template <typename T>
static long largest_of(const T* row, long K) {
    long first = 0;
    for (long k = 1; k < K && row[first] == row[first]; ++k)
        if (!(row[k] <= row[first])) first = k;
    return first;
}

// grown = exp(x - max), and log_sum the logarithm of their sum -> 1 / their sum.
template <typename T>
static double log_softmax(const T* row, long K, long first, double& log_sum, T* grown) {
    typedef Vector<T> V;
    const T most = row[first];
    for_range<T>(0, K, [&](long at, long left) { store_some(grown + at, exp_of(load_some<V>(row + at, left) - most), left); });
    double others = most - most;  // 0, or NaN
    for (long k = 0; k < K; ++k)
        if (k != first) others += grown[k];
    log_sum = std::log1p(others);
    return 1 / (1 + others);
}

// Rows begin … end - 1: losses (R,), dlogits (R, K) times `scale`, and hits (R,), whether the largest logit is the
// label's. A label `ignored` is left out, if any_ignored.
template <typename T>
static void cross_entropy(
    long begin, long end, const T* logits, const int32_t* labels, long K, const T* weight, double smoothing, long any_ignored,
    long ignored, long normalized, double scale, double* losses, T* dlogits, uint8_t* hits) {
    for (long r = begin; r < end; ++r) {
        const T* const row = logits + r * K;
        T* const d = dlogits + r * K;
        const bool kept = !any_ignored || labels[r] != ignored;
        const Target<T> target = {labels[r], kept, smoothing / K, 1 - smoothing, weight};
        const long first = largest_of(row, K);
        hits[r] = kept && first == labels[r];
        double log_sum = 0, inverse = 0, mass = 0, loss = 0;
        if (!normalized) inverse = log_softmax(row, K, first, log_sum, d);
        for (long k = 0; k < K; ++k) {
            const double t = target.at(k), log_p = normalized ? row[k] : (double)(row[k] - row[first]) - log_sum;
            mass += t;
            if (t != 0) loss -= t * log_p;  // 0 log 0 is 0
        }
        for (long k = 0; k < K; ++k) {
            const double t = target.at(k);
            if (normalized) d[k] = -t * scale;
            else if (k == first) d[k] = ((mass - t) + std::expm1(-log_sum) * mass) * scale;
            else d[k] = (d[k] * inverse * mass - t) * scale;
        }
        losses[r] = kept && (labels[r] < 0 || labels[r] >= K) ? NAN : loss;  // a label that is no class
    }
}
LOOP(cross_entropy)
