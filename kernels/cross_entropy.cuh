// One row of a softmax cross entropy, and its options. softmax.cu states the formulas.

struct Largest {
    float x;
    int64 at;
};

// The term of x[k] in the sum over all but the first largest element, whose own term is 0, or NaN
// if it is not finite.
template <typename T>
__device__ __forceinline__ float exp_of_other(const T* x, int64 k, Largest first) {
    const float shifted = to_float(x[k]) - first.x;
    return k == first.at ? shifted : expf(shifted);
}

// The options of a softmax cross entropy. `ignored` is read only if `ignores` is set; dlogits is
// multiplied by `gain`.
struct CrossEntropy {
    int64 rows, classes;
    float smoothing, gain;
    int ignores, ignored, mean, normalized;
};

__device__ __forceinline__ float class_weight(const float* weight, int64 label, int64 classes) {
    if (label < 0 || label >= classes) return NOT_A_NUMBER;
    return weight ? weight[label] : 1.0f;
}

// The first term of a row's loss: 0, or NaN if its label counts and is no class.
__device__ __forceinline__ float first_term(int label, bool kept, const CrossEntropy& s) {
    return kept && (label < 0 || label >= s.classes) ? NOT_A_NUMBER : 0.0f;
}

// weight[k] t[k]
__device__ __forceinline__ float weighted_target(const float* weight, int label, int64 k, const CrossEntropy& s) {
    const float t = (k == label ? 1.0f - s.smoothing : 0.0f) + s.smoothing / s.classes;
    return weight ? t * weight[k] : t;
}

// dlogits[k] of a row, p mass - target; for the largest p it is computed from 1 - p, which keeps
// its digits.
__device__ __forceinline__ float logit_grad(float log_p, float mass, float target, bool largest, const CrossEntropy& s) {
    if (s.normalized) return -target;
    return largest ? (mass - target) + expm1f(log_p) * mass : expf(log_p) * mass - target;
}

// 1 / total, or 0 if all weights are 0, so that such a batch has no loss. NaN stays NaN.
__device__ __forceinline__ float share_of(float total) { return total <= 0.0f ? 0.0f : 1.0f / total; }

struct RowLoss {
    float loss;
    bool correct;
};

// The loss of a row, computed by one thread; drow[k] = dlogits[k], times `share` and the gain.
template <typename T>
__device__ __forceinline__ RowLoss row_cross_entropy(
        const T* row, int label, const float* weight, float share, T* drow, const CrossEntropy& s) {
    const bool kept = !(s.ignores && label == s.ignored);
    Largest first = {to_float(row[0]), 0};
    for (int64 k = 1; k < s.classes; ++k) {
        const float x = to_float(row[k]);
        if (precedes(x, k, first.x, first.at)) first = {x, k};
    }
    float others = 0.0f, own = first_term(label, kept, s), mass = own;
    for (int64 k = 0; k < s.classes; ++k) {
        others += exp_of_other(row, k, first);
        mass += kept ? weighted_target(weight, label, k, s) : 0.0f;
    }
    const float shift = s.normalized ? 0.0f : first.x, log_sum = s.normalized ? 0.0f : log1pf(others);
    for (int64 k = 0; k < s.classes; ++k) {
        const float log_p = to_float(row[k]) - shift - log_sum;
        const float target = kept ? weighted_target(weight, label, k, s) : 0.0f;
        if (target != 0.0f) own -= target * log_p;
        from_float(drow[k], logit_grad(log_p, mass, target, k == first.at, s) * (share * s.gain));
    }
    return {own, kept && first.at == label};
}
