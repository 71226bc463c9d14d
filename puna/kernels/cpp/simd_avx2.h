// 16 lanes in two AVX2 registers, with FMA and F16C.
#pragma once
#include <immintrin.h>

#include <cstdint>

namespace {

struct F { __m256 a, b; };
struct I { __m256i a, b; };

inline F load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float* p, F x) {
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
}
inline F splat(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline F fma(F x, F y, F z) {
    return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
inline F add(F x, F y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
inline F sub(F x, F y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
inline F mul(F x, F y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
inline F div(F x, F y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
inline F largest(F x, F y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
inline F smallest(F x, F y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
inline F magnitude(F x) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return {_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b)};
}
inline F where_below(F x, F limit, F y, F z) {
    return {_mm256_blendv_ps(z.a, y.a, _mm256_cmp_ps(x.a, limit.a, _CMP_LT_OQ)),
            _mm256_blendv_ps(z.b, y.b, _mm256_cmp_ps(x.b, limit.b, _CMP_LT_OQ))};
}
inline F load_half(const uint16_t* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)),
            _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(p + 8)))};
}
inline void store_half(uint16_t* p, F x) {
    _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128((__m128i*)(p + 8), _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT));
}

inline I load_int(const void* p) {
    return {_mm256_loadu_si256((const __m256i*)p), _mm256_loadu_si256((const __m256i*)p + 1)};
}
inline void store_int(void* p, I x) {
    _mm256_storeu_si256((__m256i*)p, x.a);
    _mm256_storeu_si256((__m256i*)p + 1, x.b);
}
inline I splat_int(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
inline F to_float(I x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
inline I to_int(F x) { return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)}; }
inline F power_of_two(I n) {
    const __m256i bias = _mm256_set1_epi32(127);
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n.a, bias), 23)),
            _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n.b, bias), 23))};
}
inline int32_t sum_int(I x, I y) {
    alignas(32) int32_t lanes[8];
    const __m256i a = _mm256_add_epi32(x.a, y.a), b = _mm256_add_epi32(x.b, y.b);
    _mm256_store_si256((__m256i*)lanes, _mm256_add_epi32(a, b));
    int32_t sum = 0;
    for (int i = 0; i < 8; i++) sum += lanes[i];
    return sum;
}
inline float largest_lane(F x) {
    alignas(32) float lanes[8];
    _mm256_store_ps(lanes, _mm256_max_ps(x.a, x.b));
    float top = lanes[0];
    for (int i = 1; i < 8; i++) top = lanes[i] > top ? lanes[i] : top;
    return top;
}
inline void store_bytes(void* p, I x) {
    alignas(32) int32_t lanes[16];
    _mm256_store_si256((__m256i*)lanes, x.a);
    _mm256_store_si256((__m256i*)(lanes + 8), x.b);
    for (int i = 0; i < 16; i++) ((int8_t*)p)[i] = int8_t(lanes[i]);
}

inline F first_bfloat(I x) {
    return {_mm256_castsi256_ps(_mm256_slli_epi32(x.a, 16)),
            _mm256_castsi256_ps(_mm256_slli_epi32(x.b, 16))};
}
inline F second_bfloat(I x) {
    const __m256i upper = _mm256_set1_epi32(int(0xffff0000));
    return {_mm256_castsi256_ps(_mm256_and_si256(x.a, upper)),
            _mm256_castsi256_ps(_mm256_and_si256(x.b, upper))};
}

// Bytes code + 128 become signed codes. |code| and |x| are at most 127, so the sums of two products
// stay below 2^15 and maddubs does not saturate: the result is exact.
constexpr int OFFSET = 0;
inline I weights8(I raw) {
    const __m256i half = _mm256_set1_epi8(char(0x80));
    return {_mm256_xor_si256(raw.a, half), _mm256_xor_si256(raw.b, half)};
}
inline __m256i dot_signed(__m256i acc, __m256i w, __m256i x, __m256i size) {
    const __m256i pairs = _mm256_maddubs_epi16(size, _mm256_sign_epi8(w, x));
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
inline I dot8(I acc, I w, int32_t x) {
    const __m256i four = _mm256_set1_epi32(x), size = _mm256_abs_epi8(four);
    return {dot_signed(acc.a, w.a, four, size), dot_signed(acc.b, w.b, four, size)};
}
inline I dot4(I acc, I w, int32_t x) {  // 2 * 15 * 127 is far from saturation
    const __m256i four = _mm256_set1_epi32(x), one = _mm256_set1_epi16(1);
    const __m256i a = _mm256_madd_epi16(_mm256_maddubs_epi16(w.a, four), one);
    const __m256i b = _mm256_madd_epi16(_mm256_maddubs_epi16(w.b, four), one);
    return {_mm256_add_epi32(acc.a, a), _mm256_add_epi32(acc.b, b)};
}
inline I low_nibbles(I x) {
    const __m256i mask = _mm256_set1_epi8(15);
    return {_mm256_and_si256(x.a, mask), _mm256_and_si256(x.b, mask)};
}
inline I high_nibbles(I x) {
    return low_nibbles({_mm256_srli_epi16(x.a, 4), _mm256_srli_epi16(x.b, 4)});
}
constexpr bool SIXTEENTHS = false;  // 2 * 240 * 127 would saturate
inline I load_bytes(const uint8_t* p) {
    return {_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p)),
            _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)(p + 8)))};
}
inline I times16(I x) { return {_mm256_slli_epi32(x.a, 4), _mm256_slli_epi32(x.b, 4)}; }
inline I add_product(I acc, I x, int32_t y) {
    const __m256i factor = _mm256_set1_epi32(y);
    return {_mm256_add_epi32(acc.a, _mm256_madd_epi16(x.a, factor)),
            _mm256_add_epi32(acc.b, _mm256_madd_epi16(x.b, factor))};
}

}  // namespace
