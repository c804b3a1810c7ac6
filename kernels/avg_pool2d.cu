#include "common.cuh"
#include "geometry.cuh"
#include "sums.cuh"
// Average pooling:
//   y[n, p, q, c] = (sum over i, j of x[n, p stride + i - pad, q stride + j - pad, c]) / count
//   dx[n, h, w, c] = sum of dy[n, p, q, c] / count over the windows (p, q) that contain the pixel
//   x, dx (N, H, W, C)   y, dy (N, OH, OW, C)
// The count is the number of the window's pixels inside the image and inside that part of the
// padding which counts. The backward pass gathers, as that of max pooling does.
// Bound: memory: 4 bytes per element of x and of y.

// Pixels of padding on each side that count in the mean.
struct Counted {
    int top, bottom, left, right;
};

// How many pixels of window p count along one axis.
__device__ __forceinline__ int covered(int p, int stride, int pad, int window, int extent, int before, int after) {
    const int first = p * stride - pad;
    return min(first + window, extent + after) - max(first, -before);
}

__device__ __forceinline__ float window_count(Geometry g, int p, int q, Counted m) {
    return (float)covered(p, g.stride_h, g.pad_top, g.KH, g.H, m.top, m.bottom) *
           covered(q, g.stride_w, g.pad_left, g.KW, g.W, m.left, m.right);
}

template <typename T>
__global__ void avg_pool2d_forward(const T* __restrict__ x, T* __restrict__ y, Geometry g, Counted counted) {
    GRID_STRIDE_LOOP(idx, (int64)g.N * g.OH * g.OW * g.C) {
        const int c = idx % g.C, q = idx / g.C % g.OW, p = idx / g.C / g.OW % g.OH;
        const int64 n = idx / g.C / g.OW / g.OH;
        const int top = p * g.stride_h - g.pad_top, left = q * g.stride_w - g.pad_left;
        Sum sum;
        for (int row = max(top, 0); row < min(top + g.KH, g.H); ++row)
            for (int col = max(left, 0); col < min(left + g.KW, g.W); ++col)
                sum.add(to_float(x[((n * g.H + row) * g.W + col) * g.C + c]));
        from_float(y[idx], sum.value() / window_count(g, p, q, counted));
    }
}

template <typename T>
__global__ void avg_pool2d_backward(const T* __restrict__ dy, T* __restrict__ dx, Geometry g, Counted counted) {
    GRID_STRIDE_LOOP(idx, (int64)g.N * g.H * g.W * g.C) {
        const int c = idx % g.C, col = idx / g.C % g.W + g.pad_left, row = idx / g.C / g.W % g.H + g.pad_top;
        const int64 n = idx / g.C / g.W / g.H;
        const int p0 = row < g.KH ? 0 : (row - g.KH) / g.stride_h + 1, p1 = min(row / g.stride_h + 1, g.OH);
        const int q0 = col < g.KW ? 0 : (col - g.KW) / g.stride_w + 1, q1 = min(col / g.stride_w + 1, g.OW);
        Sum sum;
        for (int p = p0; p < p1; ++p)
            for (int q = q0; q < q1; ++q)
                sum.add(to_float(dy[((n * g.OH + p) * g.OW + q) * g.C + c]) / window_count(g, p, q, counted));
        from_float(dx[idx], sum.value());
    }
}
