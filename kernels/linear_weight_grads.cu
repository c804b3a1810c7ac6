#include "common.cuh"
#include "sums.cuh"
// Gradients of the weights and biases of dense layers, of several layers in one launch:
//   dw[i, o] = sum over n of x[n, i] dy[n, o]
//   db[o] = sum over n of dy[n, o]
//   dy, y (N, O)   x (N, I)   dw (I, O)   db (O,) or null
// dw and db are float for every T. The gate (y and the activation) takes dy back through the activation
// that was fused into the layer, while dy is loaded.
//
// The layers of a small network have too little work for a launch each: a few tiles, on a GPU with a
// hundred multiprocessors. Nothing but the update waits for these gradients, so the layers of a backward
// pass share a launch (`_tiled`): each block looks up its layer, and computes 32 x 32 results of it. A
// layer gets the same sums whichever layers are beside it.
//
// Tiling: a step takes 64 rows of x and of dy, so that a batch of 128 is two waits for memory; the next
// step is fetched while one is multiplied. Both matrices lie along the results, and are staged as they
// lie. A tile has too few results for 256 threads with enough products in each, so four slices of two
// warps divide the rows of a step: a thread adds 4 x 4 results over 16 rows, and these sums are added up
// over the steps. At the end the slices are added in their order. Two bits of a lane choose its rows of
// results and three its columns, interleaved, so that neighbours share what they read: see
// `multiply_step`.
// Alignment: none is needed. Rows of fours, aligned to four elements, are loaded by fours.
// Bound: latency for small layers (two or three waits for memory); memory for larger ones, as x is read
// once for every 32 outputs and dy once for every 32 inputs.

template <typename T>
__global__ void linear_weight_grads_simple(
        const T* __restrict__ dy, const T* __restrict__ OR_NULL y, const T* __restrict__ x, float* __restrict__ ADDED_TO dw,
        float* __restrict__ OR_NULL ADDED_TO db, int rows, int inputs, int outputs, Activation f, int accumulate) {
    const int64 weights = (int64)inputs * outputs;
    GRID_STRIDE_LOOP(idx, weights + (db ? outputs : 0)) {
        const bool bias = idx >= weights;
        const int i = idx / outputs, o = bias ? idx - weights : idx % outputs;
        Sum own;
        for (int n = 0; n < rows; ++n) {
            float v[1];
            load_gated<1>(v, dy, y, (int64)n * outputs + o, f);
            own.add(bias ? v[0] : v[0] * to_float(x[(int64)n * inputs + i]));
        }
        float* out = bias ? db + o : dw + idx;
        *out = accumulate ? *out + own.value() : own.value();
    }
}

#define LAYERS 4          // of a launch at most
#define STEP_ROWS 64      // rows of x and dy that a step takes
#define DENSE_TILE 32     // inputs and outputs of a block's results
#define SLICES 4          // groups of warps that divide the rows of a step
#define SLICE_ROWS (STEP_ROWS / SLICES)
#define BIAS_ROWS (STEP_ROWS / WARPS)

// The layers of a launch. The blocks of layer i start at first_block[i]. The rest are the fields of the
// layers' activations.
struct DenseLayers {
    int layers, accumulate;
    int rows[LAYERS], inputs[LAYERS], outputs[LAYERS], first_block[LAYERS];
    int kind[LAYERS];
    float slope[LAYERS], shift[LAYERS], low[LAYERS], high[LAYERS];
};

// The element number `at`, by comparisons: an index would move the array out of the registers.
template <typename V>
__device__ __forceinline__ V pick(int at, const V (&values)[LAYERS]) {
    V picked = values[0];
#pragma unroll
    for (int i = 1; i < LAYERS; ++i) picked = at == i ? values[i] : picked;
    return picked;
}

struct __align__(16) DenseBuffers {
    float x[2][STEP_ROWS][DENSE_TILE];
    float dy[2][STEP_ROWS][DENSE_TILE];
};

// A matrix (rows, columns), and the four columns of it that this thread fetches, V at once.
template <typename T, int V>
struct Columns {
    const T* first;
    int rows, columns, left;  // `left` columns from the first of these on

    __device__ __forceinline__ Columns(const T* matrix, int rows, int columns, int column)
        : first(matrix + column), rows(rows), columns(columns), left(columns - column) {}

    // zeros outside the matrix
    __device__ __forceinline__ void fetch(float (&v)[4], int row) const {
        const T* p = first + (int64)row * columns;
#pragma unroll
        for (int u = 0; u < 4; u += V) {
            float part[V] = {};
            if (row < rows && u < left) load<V>(part, p + u);
#pragma unroll
            for (int i = 0; i < V; ++i) v[u + i] = part[i];
        }
    }
};

// What a thread fetches of a step: two pieces of x and of dy, and of y where there is an activation.
#define PIECES (STEP_ROWS * DENSE_TILE / (4 * THREADS))

template <typename T, int VX, int VDY>
struct DenseOperands {
    Columns<T, VX> x;
    Columns<T, VDY> dy, y;
    Activation f;
    float of_x[PIECES][4], of_dy[PIECES][4], of_y[PIECES][4];

    __device__ __forceinline__ void fetch(int step) {
#pragma unroll
        for (int n = 0; n < PIECES; ++n) {
            const int row = step * STEP_ROWS + staged_row(n);
            x.fetch(of_x[n], row), dy.fetch(of_dy[n], row);
            if (f.kind != ACTIVATION_NONE) y.fetch(of_y[n], row);
        }
    }
    __device__ __forceinline__ void stage(DenseBuffers& buffers, int which) {
        const int column = threadIdx.x % (DENSE_TILE / 4) * 4;
#pragma unroll
        for (int n = 0; n < PIECES; ++n) {
            if (f.kind != ACTIVATION_NONE) undo_activation<4>(f, of_dy[n], of_y[n]);
            store<4>(&buffers.x[which][staged_row(n)][column], of_x[n]);
            store<4>(&buffers.dy[which][staged_row(n)][column], of_dy[n]);
        }
    }
    static __device__ __forceinline__ int staged_row(int n) { return threadIdx.x / (DENSE_TILE / 4) + n * (STEP_ROWS / PIECES); }
};

// The first input and the first output of this thread's results in the tile.
__device__ __forceinline__ int dense_row() {
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    return ((lane >> 1 & 1) | (lane >> 3 & 1) << 1 | (warp & 1) << 2) * 4;
}

__device__ __forceinline__ int dense_column() {
    const int lane = threadIdx.x % WARP;
    return ((lane & 1) | (lane >> 2 & 1) << 1 | (lane >> 4 & 1) << 2) * 4;
}

// total += the products of this slice's rows of a step, which are added up first: a sum of all rows
// would lose digits.
__device__ __forceinline__ void multiply_step(
        const float (&x)[STEP_ROWS][DENSE_TILE], const float (&dy)[STEP_ROWS][DENSE_TILE], float (&total)[4][4]) {
    const int slice = threadIdx.x / (THREADS / SLICES), row = dense_row(), column = dense_column();
    float sum[4][4] = {};
#pragma unroll
    for (int k = 0; k < SLICE_ROWS; ++k) {
        float a[4], b[4];
        load<4>(a, &x[slice * SLICE_ROWS + k][row]);
        load<4>(b, &dy[slice * SLICE_ROWS + k][column]);
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
            for (int j = 0; j < 4; ++j) sum[i][j] += a[i] * b[j];
    }
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) total[i][j] += sum[i][j];
}

// A lane's column of dy, summed over this warp's rows of a step.
__device__ __forceinline__ float sum_bias(const float (&dy)[STEP_ROWS][DENSE_TILE]) {
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    float sum = 0.0f;
#pragma unroll
    for (int k = 0; k < BIAS_ROWS; ++k) sum += dy[warp * BIAS_ROWS + k][lane];
    return sum;
}

// A layer of a launch, and a block's tile of its results.
template <typename T>
struct DenseLayer {
    const T *dy, *y, *x;
    int rows, inputs, outputs, row0, column0;
    Activation f;
};

// The main loop: this thread's part of the sums of a tile, and of the bias where `sums_bias`.
template <int VX, int VDY, typename T>
__device__ __forceinline__ void add_up(
        const DenseLayer<T>& layer, DenseBuffers& buffers, bool sums_bias, float (&total)[4][4], float& bias) {
    const int column = threadIdx.x % (DENSE_TILE / 4) * 4, steps = (layer.rows + STEP_ROWS - 1) / STEP_ROWS;
    DenseOperands<T, VX, VDY> operands = {
        {layer.x, layer.rows, layer.inputs, layer.row0 + column}, {layer.dy, layer.rows, layer.outputs, layer.column0 + column},
        {layer.y, layer.rows, layer.outputs, layer.column0 + column}, layer.f};
    operands.fetch(0);
    operands.stage(buffers, 0);
    __syncthreads();
    for (int step = 0, now = 0; step < steps; ++step, now ^= 1) {
        operands.fetch(step + 1);  // zeros beyond the last row
        multiply_step(buffers.x[now], buffers.dy[now], total);
        if (sums_bias) bias += sum_bias(buffers.dy[now]);
        operands.stage(buffers, now ^ 1);
        __syncthreads();
    }
}

// The threads share the results again, and add up the slices' sums of each. Rows of sums are 4 floats
// longer than the tile, so that the stores of a warp meet in no bank.
__device__ __forceinline__ void add_slices(
        DenseBuffers& buffers, const float (&total)[4][4], float* dw, int row0, int column0, int inputs, int outputs, int accumulate) {
    typedef float Sums[SLICES][DENSE_TILE][DENSE_TILE + 4];
    static_assert(sizeof(Sums) <= sizeof(DenseBuffers), "the sums take the place of the buffers");
    Sums& sums = reinterpret_cast<Sums&>(buffers);
#pragma unroll
    for (int i = 0; i < 4; ++i) store<4>(&sums[threadIdx.x / (THREADS / SLICES)][dense_row() + i][dense_column()], total[i]);
    __syncthreads();
    const int column = threadIdx.x % DENSE_TILE;
#pragma unroll
    for (int n = 0; n < DENSE_TILE * DENSE_TILE / THREADS; ++n) {
        const int row = threadIdx.x / DENSE_TILE + n * (THREADS / DENSE_TILE);
        float sum = sums[0][row][column];
#pragma unroll
        for (int slice = 1; slice < SLICES; ++slice) sum += sums[slice][row][column];
        if (row0 + row < inputs && column0 + column < outputs) {
            float* out = dw + (int64)(row0 + row) * outputs + column0 + column;
            *out = accumulate ? *out + sum : sum;
        }
    }
}

// A layer after the first may be absent: then its pointers are null, and it has no blocks.
template <typename T>
__global__ void __launch_bounds__(THREADS, 2) linear_weight_grads_tiled(
        const T* __restrict__ dy0, const T* __restrict__ OR_NULL y0, const T* __restrict__ x0, float* __restrict__ ADDED_TO dw0,
        float* __restrict__ OR_NULL ADDED_TO db0, const T* __restrict__ OR_NULL dy1, const T* __restrict__ OR_NULL y1,
        const T* __restrict__ OR_NULL x1, float* __restrict__ OR_NULL ADDED_TO dw1, float* __restrict__ OR_NULL ADDED_TO db1,
        const T* __restrict__ OR_NULL dy2, const T* __restrict__ OR_NULL y2, const T* __restrict__ OR_NULL x2,
        float* __restrict__ OR_NULL ADDED_TO dw2, float* __restrict__ OR_NULL ADDED_TO db2, const T* __restrict__ OR_NULL dy3,
        const T* __restrict__ OR_NULL y3, const T* __restrict__ OR_NULL x3, float* __restrict__ OR_NULL ADDED_TO dw3,
        float* __restrict__ OR_NULL ADDED_TO db3, DenseLayers s) {
    __shared__ DenseBuffers buffers;
    __shared__ float biases[WARPS][WARP];
    __builtin_assume(threadIdx.x < THREADS);

    int at = 0;  // the number of the layer
#pragma unroll
    for (int i = 1; i < LAYERS; ++i) at += i < s.layers && blockIdx.x >= s.first_block[i];
    const int rows = pick(at, s.rows), inputs = pick(at, s.inputs), outputs = pick(at, s.outputs);
    const int block = blockIdx.x - pick(at, s.first_block), column_tiles = (outputs + DENSE_TILE - 1) / DENSE_TILE;
    const int row0 = block / column_tiles * DENSE_TILE, column0 = block % column_tiles * DENSE_TILE;
    const T *const dys[] = {dy0, dy1, dy2, dy3}, *const ys[] = {y0, y1, y2, y3}, *const xs[] = {x0, x1, x2, x3};
    float *const dws[] = {dw0, dw1, dw2, dw3}, *const dbs[] = {db0, db1, db2, db3};
    const Activation f = {pick(at, s.kind), pick(at, s.slope), pick(at, s.shift), pick(at, s.low), pick(at, s.high)};
    const DenseLayer<T> layer = {pick(at, dys), pick(at, ys), pick(at, xs), rows, inputs, outputs, row0, column0, f};

    float* const db = row0 == 0 ? pick(at, dbs) : nullptr;
    float total[4][4] = {}, bias = 0.0f;
    const bool x_by_four = comes_in_fours(layer.x, inputs);
    const bool dy_by_four = comes_in_fours(layer.dy, outputs) && (uint64)layer.y % (4 * sizeof(T)) == 0;
    if (x_by_four && dy_by_four) add_up<4, 4>(layer, buffers, db, total, bias);
    else if (x_by_four) add_up<4, 1>(layer, buffers, db, total, bias);
    else if (dy_by_four) add_up<1, 4>(layer, buffers, db, total, bias);
    else add_up<1, 1>(layer, buffers, db, total, bias);
    biases[threadIdx.x / WARP][threadIdx.x % WARP] = bias;
    add_slices(buffers, total, pick(at, dws), row0, column0, inputs, outputs, s.accumulate);  // has a barrier
    const int o = column0 + threadIdx.x;
    if (db && threadIdx.x < WARP && o < outputs) {
        float sum = 0.0f;
#pragma unroll
        for (int warp = 0; warp < WARPS; ++warp) sum += biases[warp][threadIdx.x];
        db[o] = s.accumulate ? db[o] + sum : sum;
    }
}
