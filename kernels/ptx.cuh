// All inline PTX. The compiler writes the rest.

// *p = v in one store to global memory. The compiler splits one into four where it loses sight of the alignment.
__device__ __forceinline__ void store_whole(float4* p, float4 v) {
    asm volatile("st.global.v4.f32 [%0], {%1, %2, %3, %4};"
                 :: "l"(__cvta_generic_to_global(p)), "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w) : "memory");
}

__device__ __forceinline__ void store_whole(uint2* p, uint2 v) {
    asm volatile("st.global.v2.u32 [%0], {%1, %2};" :: "l"(__cvta_generic_to_global(p)), "r"(v.x), "r"(v.y) : "memory");
}
