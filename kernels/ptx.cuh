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
