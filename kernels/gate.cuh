// What was fused into a convolution's forward pass, seen from its gradients: they take dy back through it as they load dy.
//
// With a mask, the 2x2 max pool: dy, y and mask are (N, OH / 2, OW / 2, O), and a pixel's gradient is dy of its window where
// the mask names the pixel, 0 elsewhere and in an odd last row or column, which no window holds. The gradient of the whole
// convolution's output, four times as large, is never written.

// The gradient at pixel (p, q) of image n, channels o … o + V - 1. y is not read, and may be null, without an activation.
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
