// Long sums. A float accumulator loses digits with each of a million additions. So what rounding takes
// from one addition is added with the next term (Kahan 1965), and the error of the sum does not grow
// with the number of its terms. That costs five operations per term, which do not show where memory is
// the bound.
struct Sum {
    float sum = 0.0f, lost = 0.0f;

    __device__ __forceinline__ void add(float x) {
        const float term = x + lost, total = sum + term;
        // the difference of an infinite sum would be NaN
        lost = isfinite(total) ? term - (total - sum) : 0.0f;
        sum = total;
    }
    __device__ __forceinline__ float value() const { return sum + lost; }
};
