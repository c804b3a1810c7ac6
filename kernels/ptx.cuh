// All inline PTX. The compiler writes the rest.

// *p = v in one store to global memory. The compiler splits one into four where it loses sight of the
// alignment.
__device__ __forceinline__ void store_whole(float4* p, float4 v) {
    asm volatile("st.global.v4.f32 [%0], {%1, %2, %3, %4};"
                 :: "l"(__cvta_generic_to_global(p)), "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w) : "memory");
}

__device__ __forceinline__ void store_whole(uint2* p, uint2 v) {
    asm volatile("st.global.v2.u32 [%0], {%1, %2};" :: "l"(__cvta_generic_to_global(p)), "r"(v.x), "r"(v.y) : "memory");
}

// v = *p in one load where `there`, else zeros. p is global memory that no thread of the launch writes.
// The compiler makes a branch of some such loads, around which it cannot move other work.
#define LOAD_IF(KIND, VALUES, ADDRESS, THERE) \
    "{.reg .pred there; setp.ne.s32 there, " THERE ", 0; @there ld.global.nc." KIND " " VALUES ", [" ADDRESS "];}"

__device__ __forceinline__ void load_if(bool there, float4& v, const float4* p) {
    v = make_float4(0, 0, 0, 0);
    asm(LOAD_IF("v4.f32", "{%0, %1, %2, %3}", "%4", "%5")
        : "+f"(v.x), "+f"(v.y), "+f"(v.z), "+f"(v.w) : "l"(__cvta_generic_to_global(p)), "r"((int)there));
}

__device__ __forceinline__ void load_if(bool there, uint2& v, const uint2* p) {
    v = make_uint2(0, 0);
    asm(LOAD_IF("v2.u32", "{%0, %1}", "%2", "%3") : "+r"(v.x), "+r"(v.y) : "l"(__cvta_generic_to_global(p)), "r"((int)there));
}

__device__ __forceinline__ void load_if(bool there, uint32& v, const uint32* p) {
    v = 0;
    asm(LOAD_IF("u32", "%0", "%1", "%2") : "+r"(v) : "l"(__cvta_generic_to_global(p)), "r"((int)there));
}

__device__ __forceinline__ void load_if(bool there, uint16& v, const uint16* p) {
    v = 0;
    asm(LOAD_IF("u16", "%0", "%1", "%2") : "+h"(v) : "l"(__cvta_generic_to_global(p)), "r"((int)there));
}

// Asynchronous copies to shared memory, from sm_80 on ("cp.async" in the PTX manual's chapter on data
// movement). *to = *from, 16 bytes, or zeros where they are not `there`: then `from` is not read. The
// copy has landed when the thread has waited for its group. It does not go through the L1 cache. The
// compiler may move other accesses across it, for nothing reads or writes *to before that wait.
__device__ __forceinline__ void copy_if(bool there, void* to, const void* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :: "r"((uint32)__cvta_generic_to_shared(to)), "l"(__cvta_generic_to_global(from)), "r"(there ? 16 : 0));
}

// The copies since the last call are a group ("cp.async.commit_group").
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;"); }

// Waits until all of this thread's groups have landed but for the last LEFT ("cp.async.wait_group").
template <int LEFT>
__device__ __forceinline__ void wait_for_copies() { asm volatile("cp.async.wait_group %0;" :: "n"(LEFT) : "memory"); }

// Four matrices of 8 rows of 16 bytes ("ldmatrix"): lane 8 i + r names row r of matrix i, in shared
// memory. v[i] = the 4 bytes of matrix i at row lane / 4 and piece lane % 4.
__device__ __forceinline__ void load_matrices(uint32 (&v)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v[0]), "=r"(v[1]), "=r"(v[2]), "=r"(v[3]) : "r"((uint32)__cvta_generic_to_shared(row)));
}

// The same of the transposes of matrices of 16-bit elements ("ldmatrix … .trans").
__device__ __forceinline__ void load_transposes(uint32 (&v)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v[0]), "=r"(v[1]), "=r"(v[2]), "=r"(v[3]) : "r"((uint32)__cvta_generic_to_shared(row)));
}

// d += a b on the tensor cores, for 16 x 8 results of which a lane has those at rows lane / 4 (d0, d1)
// and lane / 4 + 8 (d2, d3) and columns 2 (lane % 4) and one more ("mma", "Matrix fragments for
// mma.m16n8k16 with floating point type" and "… mma.m16n8k8"). The registers of a and b hold the
// elements that `load_matrices` gives for 16 rows of a and 8 columns of b, of 32 bytes each along the
// reduction: 16 elements of 16 bits, or 8 of TF32.
#define MULTIPLY_ADD(KIND)                                                                                               \
    asm volatile("mma.sync.aligned." KIND " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"             \
                 : "+f"(d0), "+f"(d1), "+f"(d2), "+f"(d3) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1))

template <typename T>
__device__ __forceinline__ void multiply_add(
        float& d0, float& d1, float& d2, float& d3, const uint32 (&a)[4], uint32 b0, uint32 b1);

template <>
__device__ __forceinline__ void multiply_add<half>(
        float& d0, float& d1, float& d2, float& d3, const uint32 (&a)[4], uint32 b0, uint32 b1) {
    MULTIPLY_ADD("m16n8k16.row.col.f32.f16.f16.f32");
}

template <>
__device__ __forceinline__ void multiply_add<bfloat16>(
        float& d0, float& d1, float& d2, float& d3, const uint32 (&a)[4], uint32 b0, uint32 b1) {
    MULTIPLY_ADD("m16n8k16.row.col.f32.bf16.bf16.f32");
}

template <>
__device__ __forceinline__ void multiply_add<float>(
        float& d0, float& d1, float& d2, float& d3, const uint32 (&a)[4], uint32 b0, uint32 b1) {
    MULTIPLY_ADD("m16n8k8.row.col.f32.tf32.tf32.f32");
}
