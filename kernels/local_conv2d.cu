#include "common.cuh"
#include "geometry.cuh"
#include "sums.cuh"
// A convolution with different filters for each output pixel, and its gradients:
//   y[n, p, q, o] = b[p, q, o] + sum over i, j, c of x[n, p stride + i - pad, q stride + j - pad, c] * w[p, q, i, j, c, o]
//   dx[n, h, w, c] = sum over the windows (p, q) that contain the pixel, and over o, of dy[n, p, q, o] * w[p, q, i, j, c, o]
//   dw[p, q, i, j, c, o] = sum over n of dy[n, p, q, o] * x[n, …, c]   db[p, q, o] = sum over n of dy[n, p, q, o]
//   x, dx (N, H, W, C)   w, dw (OH, OW, KH, KW, C, O)   b, db (OH, OW, O)   y, dy (N, OH, OW, O)
// Each thread computes one element. Neighbouring threads share the taps of a filter, so that loads
// of w are coalesced in y and dw. Sums over taps, filters and images run in their order. Gradients
// of w and b are float for every T.
// Bound: memory, by w: 4 bytes per element, read (or written) once, for N products. y and dx read w
// once for every image, from a cache if it holds w after the first. There are no tiles, because no
// filter is used twice in an image.

// The row and the column of x under tap (i, j) of window (p, q).
#define TAP_ROW(g, p, i) ((p) * (g).stride_h + (i) * (g).dilation_h - (g).pad_top)
#define TAP_COLUMN(g, q, j) ((q) * (g).stride_w + (j) * (g).dilation_w - (g).pad_left)

template <typename T>
__global__ void local_conv2d_forward(
        const T* __restrict__ x, const T* __restrict__ w, const T* __restrict__ OR_NULL b, T* __restrict__ y, Geometry g) {
    GRID_STRIDE_LOOP(idx, (int64)g.N * g.OH * g.OW * g.O) {
        const int o = idx % g.O, q = idx / g.O % g.OW, p = idx / g.O / g.OW % g.OH;
        const int64 n = idx / g.O / g.OW / g.OH, pixel = (int64)p * g.OW + q;
        float sum = b ? to_float(b[pixel * g.O + o]) : 0.0f;
        for (int i = 0; i < g.KH; ++i) {
            const int row = TAP_ROW(g, p, i);
            for (int j = 0; j < g.KW; ++j) {
                const int column = TAP_COLUMN(g, q, j);
                if (!inside(row, g.H) || !inside(column, g.W)) continue;
                const T* from = x + ((n * g.H + row) * g.W + column) * g.C;
                const T* filter = w + ((pixel * g.KH + i) * g.KW + j) * g.C * g.O + o;
                for (int c = 0; c < g.C; ++c) sum += to_float(from[c]) * to_float(filter[(int64)c * g.O]);
            }
        }
        from_float(y[idx], sum);
    }
}

template <typename T>
__global__ void local_conv2d_input_grad(
        const T* __restrict__ dy, const T* __restrict__ w, T* __restrict__ dx, Geometry g) {
    GRID_STRIDE_LOOP(idx, (int64)g.N * g.H * g.W * g.C) {
        const int c = idx % g.C, column = idx / g.C % g.W, row = idx / g.C / g.W % g.H;
        const int64 n = idx / g.C / g.W / g.H;
        float sum = 0.0f;
        for (int i = 0; i < g.KH; ++i) {
            const int down = row + g.pad_top - i * g.dilation_h, p = down / g.stride_h;
            if (down < 0 || down % g.stride_h || p >= g.OH) continue;
            for (int j = 0; j < g.KW; ++j) {
                const int right = column + g.pad_left - j * g.dilation_w, q = right / g.stride_w;
                if (right < 0 || right % g.stride_w || q >= g.OW) continue;
                const int64 pixel = (int64)p * g.OW + q;
                const T* from = dy + (n * g.OH * g.OW + pixel) * g.O;
                const T* filter = w + (((pixel * g.KH + i) * g.KW + j) * g.C + c) * g.O;
                for (int o = 0; o < g.O; ++o) sum += to_float(from[o]) * to_float(filter[o]);
            }
        }
        from_float(dx[idx], sum);
    }
}

template <typename T>
__global__ void local_conv2d_weight_grad(
        const T* __restrict__ dy, const T* __restrict__ x, float* __restrict__ ADDED_TO dw,
        float* __restrict__ ADDED_TO OR_NULL db, Geometry g, int accumulate) {
    const int64 filters = (int64)g.OH * g.OW * g.KH * g.KW * g.C * g.O, pixels = (int64)g.OH * g.OW;
    GRID_STRIDE_LOOP(idx, filters + (db ? pixels * g.O : 0)) {
        const bool bias = idx >= filters;
        const int64 tap = idx / g.O;  // (p, q, i, j, c)
        const int64 pixel = bias ? (idx - filters) / g.O : tap / g.C / g.KW / g.KH;
        const int o = idx % g.O, c = tap % g.C, i = tap / g.C / g.KW % g.KH, j = tap / g.C % g.KW;
        const int row = TAP_ROW(g, (int)(pixel / g.OW), i), column = TAP_COLUMN(g, (int)(pixel % g.OW), j);
        Sum sum;
        if (bias)
            for (int64 n = 0; n < g.N; ++n) sum.add(to_float(dy[(n * pixels + pixel) * g.O + o]));
        else if (inside(row, g.H) && inside(column, g.W))
            for (int64 n = 0; n < g.N; ++n)
                sum.add(to_float(dy[(n * pixels + pixel) * g.O + o]) * to_float(x[((n * g.H + row) * g.W + column) * g.C + c]));
        float* to = bias ? db + (idx - filters) : dw + idx;
        *to = accumulate ? *to + sum.value() : sum.value();
    }
}
