// The fields of gpunet.geometry.Geometry. Images and pixels are counted in 32 bits (there are fewer
// than 2^31 pixels), elements in 64.
struct Geometry {
    int N, H, W, C;
    int OH, OW, O;
    int KH, KW;
    int stride_h, stride_w;
    int pad_top, pad_left;
    int dilation_h, dilation_w;
    int groups;
    int taken, made;  // channels and filters of a group
};

// A row that lies outside every image, however far a filter tap shifts it.
#define NO_ROW (-(1 << 30))

// Whether 0 <= at < extent, in one comparison.
__device__ __forceinline__ bool inside(int at, int extent) { return (unsigned)at < (unsigned)extent; }
