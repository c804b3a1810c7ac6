#include "implicit_gemm.cuh"
// How the gradients of a product take dy back through the activation that was fused, while they load
// dy. A fused pool is undone before, by max_pool2d.cu, for both gradients at once.

// What a gate undoes: nothing; a ReLU, as most networks have, without a branch; or any activation
// or none.
#define GATE_NONE 0
#define GATE_RELU 1
#define GATE_ACTIVATION 2

// V elements of a gradient on their way through the gate: loaded now, taken back when they are
// staged.
template <typename T, int V, int GATE>
struct GatedPiece {
    Raw<T, V> dy, y;

    // Of a pixel's channels from `first` on; zeros if it is not there.
    __device__ __forceinline__ void load_if(
            bool there, const T* dys, const T* ys, int pixel, int channels, int first, Activation f) {
        dy.load_if(there, at(dys + first, pixel, channels));
        if constexpr (GATE != GATE_NONE) {
            y.load_if(there & (GATE == GATE_RELU || f.kind != ACTIVATION_NONE), at(ys + first, pixel, channels));
        }
    }
    __device__ __forceinline__ void read(float (&v)[V], Activation f) const {
        dy.read(v);
        float out[V] = {};
        if constexpr (GATE != GATE_NONE) y.read(out);
        if constexpr (GATE == GATE_ACTIVATION) undo_activation<V>(f, v, out);
        if constexpr (GATE == GATE_RELU)
#pragma unroll
            for (int u = 0; u < V; ++u)
                if (out[u] <= 0.0f) v[u] = 0.0f;
    }
};

// What a thread holds of a matrix that comes through a gate on its way to shared memory. Without one it
// is what the form of the matrix holds.
template <typename Pieces, typename T, int GATE>
struct Gated {
    GatedPiece<T, Pieces::V, GATE> held;

    // Piece n of a tile: of a pixel's channels from `first` on; zeros if it is not there.
    template <typename Tile>
    __device__ __forceinline__ void fetch(
            Tile&, int, bool there, const T* dys, const T* ys, int pixel, int channels, int first, const Activation& f) {
        held.load_if(there, dys, ys, pixel, channels, first, f);
    }
    __device__ __forceinline__ void read(float (&v)[Pieces::V], const Activation& f) const { held.read(v, f); }
    template <typename Tile>
    __device__ __forceinline__ void stage(Tile& to, int n, const Activation& f) const {
        float v[Pieces::V];
        read(v, f), Pieces::put(to, n, v);
    }
};

template <typename Pieces, typename T>
struct Gated<Pieces, T, GATE_NONE> {
    typename Pieces::Held held;

    template <typename Tile>
    __device__ __forceinline__ void fetch(
            Tile& to, int n, bool there, const T* dys, const T*, int pixel, int channels, int first, const Activation&) {
        Pieces::fetch(held, to, n, {there, at(dys + first, pixel, channels)});
    }
    __device__ __forceinline__ void read(float (&v)[Pieces::V], const Activation&) const { held.read(v); }
    template <typename Tile>
    __device__ __forceinline__ void stage(Tile& to, int n, const Activation&) const { Pieces::stage(held, to, n); }
};
