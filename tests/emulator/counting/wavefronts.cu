// Accesses to shared memory whose wavefronts are known by hand. Each lane reads and writes the
// element that `where` says.

template <int BITS> struct Element { typedef float Type; };
template <> struct Element<8> { typedef unsigned char Type; };
template <> struct Element<16> { typedef unsigned short Type; };
template <> struct Element<64> { typedef float2 Type; };
template <> struct Element<128> { typedef float4 Type; };

template <int BITS>
__global__ void touch(const int* where, float* y) {
    typedef typename Element<BITS>::Type T;
    __shared__ __align__(16) T tile[1056];
    const int i = where[threadIdx.x];
    tile[i] = ((const T*)y)[threadIdx.x];
    __syncthreads();
    ((T*)y)[threadIdx.x] = tile[i];
}

// A matrix of 32 x 32 is stored by rows and read by columns.
template <int PADDING>
__global__ void transpose(const float* x, float* y) {
    __shared__ float tile[32][32 + PADDING];
    tile[threadIdx.y][threadIdx.x] = x[threadIdx.y * 32 + threadIdx.x];
    __syncthreads();
    y[threadIdx.y * 32 + threadIdx.x] = tile[threadIdx.x][threadIdx.y];
}

// One step of a product of tiles of 64 x 16 and 16 x 64 by 256 threads, 4 x 4 results each.
// With the map 0 a warp's lanes are 2 rows and 16 columns of threads. With the map 1 they are 4 rows,
// of lane bits 1 and 3, and 8 columns, of bits 0, 2 and 4.
template <int MAP>
__global__ void __launch_bounds__(256) product_step(const float* x, float* y) {
    __shared__ __align__(16) float a[16][68], b[16][68];
    const int tid = threadIdx.x, lane = tid % 32, warp = tid / 32;
    const int k = tid % 4 * 4, r = tid / 4;
    const float4 left = ((const float4*)x)[tid];
    a[k][r] = left.x, a[k + 1][r] = left.y, a[k + 2][r] = left.z, a[k + 3][r] = left.w;
    *(float4*)&b[tid / 16][tid % 16 * 4] = ((const float4*)x)[256 + tid];
    __syncthreads();
    int row = tid / 16 * 4, col = tid % 16 * 4;
    if (MAP == 1) {
        row = warp / 2 * 16 + ((lane >> 1 & 1) | (lane >> 3 & 1) << 1) * 4;
        col = warp % 2 * 32 + ((lane & 1) | (lane >> 2 & 1) << 1 | (lane >> 4 & 1) << 2) * 4;
    }
    float4 u = *(const float4*)&a[0][row];
    float4 v = *(const float4*)&b[0][col];
    ((float4*)y)[tid] = make_float4(u.x * v.x, u.y * v.y, u.z * v.z, u.w * v.w);
}

// Reads 4 matrices of 8 x 8 elements of 16 bits, whose rows are `step` bytes apart.
extern "C" __global__ void read_matrices(unsigned* y, int step) {
    __shared__ __align__(128) char tile[32 * 144];
    for (int i = threadIdx.x; i < 32 * 36; i += 32) ((unsigned*)tile)[i] = i;
    __syncthreads();
    const unsigned at = __cvta_generic_to_shared(tile) + threadIdx.x * step;
    unsigned a, b, c, d;
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(a), "=r"(b), "=r"(c), "=r"(d) : "r"(at));
    y[threadIdx.x] = a + b + c + d;
}
