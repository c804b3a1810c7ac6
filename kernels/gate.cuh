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
