// 16 lanes in one AVX-512 register; integer dot products by VNNI.
#pragma once
#include <immintrin.h>

#include <cstdint>

namespace {

struct F { __m512 v; };   // 16 floats
struct I { __m512i v; };  // 16 int32, or 64 bytes

inline F load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, F a) { _mm512_storeu_ps(p, a.v); }
inline F splat(float a) { return {_mm512_set1_ps(a)}; }
inline F fma(F a, F b, F c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline F add(F a, F b) { return {_mm512_add_ps(a.v, b.v)}; }
inline F sub(F a, F b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline F mul(F a, F b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline F div(F a, F b) { return {_mm512_div_ps(a.v, b.v)}; }
inline F largest(F a, F b) { return {_mm512_max_ps(a.v, b.v)}; }
inline F smallest(F a, F b) { return {_mm512_min_ps(a.v, b.v)}; }
inline F magnitude(F a) { return {_mm512_abs_ps(a.v)}; }
// a where x < limit, else b
inline F where_below(F x, F limit, F a, F b) {
    return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(x.v, limit.v, _CMP_LT_OQ), b.v, a.v)};
}
inline F load_half(const uint16_t* p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p))};
}
inline void store_half(uint16_t* p, F a) {
    _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT));
}

inline I load_int(const void* p) { return {_mm512_loadu_si512(p)}; }
inline void store_int(void* p, I a) { _mm512_storeu_si512(p, a.v); }
inline I splat_int(int32_t a) { return {_mm512_set1_epi32(a)}; }
inline F to_float(I a) { return {_mm512_cvtepi32_ps(a.v)}; }
inline I to_int(F a) { return {_mm512_cvtps_epi32(a.v)}; }  // nearest even
inline F power_of_two(I n) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(n.v, _mm512_set1_epi32(127)), 23))};
}
inline int32_t sum_int(I a, I b) { return _mm512_reduce_add_epi32(_mm512_add_epi32(a.v, b.v)); }
inline float largest_lane(F a) { return _mm512_reduce_max_ps(a.v); }
// The 16 lanes as signed bytes.
inline void store_bytes(void* p, I a) { _mm_storeu_si128((__m128i*)p, _mm512_cvtepi32_epi8(a.v)); }

// The first and the second bfloat16 of every lane.
inline F first_bfloat(I a) { return {_mm512_castsi512_ps(_mm512_slli_epi32(a.v, 16))}; }
inline F second_bfloat(I a) {
    return {_mm512_castsi512_ps(_mm512_and_si512(a.v, _mm512_set1_epi32(int(0xffff0000))))};
}

// Bytes code + 128 as the dot product wants them; OFFSET: what they are too large by.
constexpr int OFFSET = 128;
inline I weights8(I raw) { return raw; }
// acc + the dot product of each lane's four bytes with the four signed bytes of x
inline I dot8(I acc, I w, int32_t x) {
    return {_mm512_dpbusd_epi32(acc.v, w.v, _mm512_set1_epi32(x))};
}
inline I dot4(I acc, I w, int32_t x) { return dot8(acc, w, x); }  // bytes 0..15
inline I low_nibbles(I a) { return {_mm512_and_si512(a.v, _mm512_set1_epi8(15))}; }
inline I high_nibbles(I a) {
    return {_mm512_and_si512(_mm512_srli_epi16(a.v, 4), _mm512_set1_epi8(15))};
}
constexpr bool SIXTEENTHS = true;  // dot4 may have bytes up to 240
inline I load_bytes(const uint8_t* p) {
    return {_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p))};
}
inline I times16(I a) { return {_mm512_slli_epi32(a.v, 4)}; }
// acc + a * b for small a >= 0 and b in 16 bits (b's upper half meets a's zero upper half)
inline I add_product(I acc, I a, int32_t b) {
    return {_mm512_dpwssd_epi32(acc.v, a.v, _mm512_set1_epi32(b))};
}

}  // namespace
