// Long sums. A float that is added to a million times loses digits with each, so what rounding takes from an addition is added
// with the next term (Kahan 1965): the error of a sum then does not grow with the number of its terms. The cost, five operations
// a term, is hidden where memory is the bound.
struct Sum {
    float sum = 0.0f, lost = 0.0f;

    __device__ __forceinline__ void add(float x) {
        const float term = x + lost, total = sum + term;
        // an infinite sum has lost nothing: the difference would be NaN
        lost = isfinite(total) ? term - (total - sum) : 0.0f;
        sum = total;
    }
    __device__ __forceinline__ float value() const { return sum + lost; }
};

// Steps of TILE_K terms that a tile's products are added to one another, before they go to a sum of such sums.
#define TILE_STEPS 3
