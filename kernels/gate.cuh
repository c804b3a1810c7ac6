#include "geometry.cuh"
#include "implicit_gemm.cuh"
// How the gradients of a convolution take dy back through the activation and the pool that were
// fused, while they load dy.
//
// With a mask there was a 2x2 max pool: dy, y and mask are (N, OH / 2, OW / 2, O). The gradient of
// a pixel is dy of its window if the mask names this pixel, else 0; it is 0 in an odd last row or
// column too, which lies in no window. The gradient of the convolution's own output, four times as
// large, is never written.

// The gradient at pixel (p, q) of image n, channels o … o + V - 1. y is not read, and may be null,
// without an activation.
template <int V, typename T>
__device__ __forceinline__ void load_output_grad(
        float (&v)[V], const T* dy, const T* y, const uint8* mask, const Geometry& g, int64 n, int p, int q, int o, Activation f) {
    if (!mask) {
        load_gated<V>(v, dy, y, ((n * g.OH + p) * g.OW + q) * g.O + o, f);
        return;
    }
    const int height = g.OH / 2, width = g.OW / 2;
#pragma unroll
    for (int u = 0; u < V; ++u) v[u] = 0.0f;
    if (p / 2 >= height || q / 2 >= width) return;
    const int64 at = ((n * height + p / 2) * width + q / 2) * g.O + o;
    load_gated<V>(v, dy, y, at, f);
#pragma unroll
    for (int u = 0; u < V; ++u)
        if (mask[at + u] != p % 2 * 2 + q % 2) v[u] = 0.0f;
}

// What a gate undoes: nothing; a ReLU, as most networks have, without a branch; a ReLU and a pool; any
// activation or none; or whatever was fused.
#define GATE_NONE 0
#define GATE_RELU 1
#define GATE_RELU_POOL 2
#define GATE_ACTIVATION 3
#define GATE_ANY 4

// V elements of a gradient on their way through the gate: loaded now, taken back when they are
// staged.
template <typename T, int V, int GATE>
struct GatedPiece {
    static constexpr bool POOL = GATE == GATE_RELU_POOL || GATE == GATE_ANY, RELU = GATE == GATE_RELU || GATE == GATE_RELU_POOL;
    Raw<T, V> dy, y;
    Raw<uint8, V> winners;
    int winner;  // the place of the pixel that asks, in its window

    // Of the pixel's channels from `first` on; zeros if it is not there.
    __device__ __forceinline__ void load(
            bool there, const T* dys, const T* ys, const uint8* mask, int pixel, int channels, int first, int winner, Activation f) {
        dy.clear();
        if (there) dy.load(at(dys + first, pixel, channels));
        if constexpr (GATE != GATE_NONE) {
            y.clear();
            if (there & (RELU || f.kind != ACTIVATION_NONE)) y.load(at(ys + first, pixel, channels));
        }
        if constexpr (POOL) {
            this->winner = winner, winners.fill(winner);
            if (there & (mask != nullptr)) winners.load(at(mask + first, pixel, channels));
        }
    }
    __device__ __forceinline__ void read(float (&v)[V], Activation f) const {
        dy.read(v);
        float out[V] = {};
        if constexpr (GATE != GATE_NONE) y.read(out);
        if constexpr (GATE != GATE_NONE && !RELU) undo_activation<V>(f, v, out);
#pragma unroll
        for (int u = 0; u < V; ++u)
            if ((RELU && out[u] <= 0.0f) | (POOL && winners.element(u) != winner)) v[u] = 0.0f;
    }
};
