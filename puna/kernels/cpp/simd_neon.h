// 16 lanes in four NEON registers. With DOT_PRODUCTS the integer products are those of the dotprod
// extension; without, widening multiplies that every aarch64 has. Both are exact.
#pragma once
#include <arm_neon.h>

#include <cstdint>

namespace {

struct F { float32x4_t v[4]; };
struct I { int32x4_t v[4]; };  // 16 int32, or 64 bytes

#define EACH _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++)

inline F load(const float* p) { F r; EACH r.v[i] = vld1q_f32(p + 4 * i); return r; }
inline void store(float* p, F a) { EACH vst1q_f32(p + 4 * i, a.v[i]); }
inline F splat(float a) { F r; EACH r.v[i] = vdupq_n_f32(a); return r; }
inline F fma(F a, F b, F c) { F r; EACH r.v[i] = vfmaq_f32(c.v[i], a.v[i], b.v[i]); return r; }
inline F add(F a, F b) { F r; EACH r.v[i] = vaddq_f32(a.v[i], b.v[i]); return r; }
inline F sub(F a, F b) { F r; EACH r.v[i] = vsubq_f32(a.v[i], b.v[i]); return r; }
inline F mul(F a, F b) { F r; EACH r.v[i] = vmulq_f32(a.v[i], b.v[i]); return r; }
inline F div(F a, F b) { F r; EACH r.v[i] = vdivq_f32(a.v[i], b.v[i]); return r; }
// b where either is not a number, as x86 does; FMAX and FMIN would give that
inline F largest(F a, F b) {
    F r; EACH r.v[i] = vbslq_f32(vcgtq_f32(a.v[i], b.v[i]), a.v[i], b.v[i]); return r;
}
inline F smallest(F a, F b) {
    F r; EACH r.v[i] = vbslq_f32(vcltq_f32(a.v[i], b.v[i]), a.v[i], b.v[i]); return r;
}
inline F magnitude(F a) { F r; EACH r.v[i] = vabsq_f32(a.v[i]); return r; }
inline F where_below(F x, F limit, F a, F b) {
    F r; EACH r.v[i] = vbslq_f32(vcltq_f32(x.v[i], limit.v[i]), a.v[i], b.v[i]); return r;
}
inline F load_half(const uint16_t* p) {
    F r; EACH r.v[i] = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i))); return r;
}
inline void store_half(uint16_t* p, F a) {
    EACH vst1_u16(p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(a.v[i])));
}

inline I load_int(const void* p) {
    I r; EACH r.v[i] = vreinterpretq_s32_u8(vld1q_u8((const uint8_t*)p + 16 * i)); return r;
}
inline void store_int(void* p, I a) {
    EACH vst1q_u8((uint8_t*)p + 16 * i, vreinterpretq_u8_s32(a.v[i]));
}
inline I splat_int(int32_t a) { I r; EACH r.v[i] = vdupq_n_s32(a); return r; }
inline F to_float(I a) { F r; EACH r.v[i] = vcvtq_f32_s32(a.v[i]); return r; }
inline I to_int(F a) { I r; EACH r.v[i] = vcvtnq_s32_f32(a.v[i]); return r; }  // nearest even
inline F power_of_two(I n) {
    const int32x4_t bias = vdupq_n_s32(127);
    F r; EACH r.v[i] = vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(n.v[i], bias), 23)); return r;
}
inline int32_t sum_int(I a, I b) {
    int32x4_t s = vdupq_n_s32(0);
    EACH s = vaddq_s32(s, vaddq_s32(a.v[i], b.v[i]));
    return vaddvq_s32(s);
}
inline float largest_lane(F a) {
    return vmaxvq_f32(vmaxq_f32(vmaxq_f32(a.v[0], a.v[1]), vmaxq_f32(a.v[2], a.v[3])));
}
inline void store_bytes(void* p, I a) {
    const int16x8_t low = vcombine_s16(vmovn_s32(a.v[0]), vmovn_s32(a.v[1]));
    const int16x8_t high = vcombine_s16(vmovn_s32(a.v[2]), vmovn_s32(a.v[3]));
    vst1q_s8((int8_t*)p, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
}

inline F first_bfloat(I a) {
    F r; EACH r.v[i] = vreinterpretq_f32_s32(vshlq_n_s32(a.v[i], 16)); return r;
}
inline F second_bfloat(I a) {
    const int32x4_t upper = vdupq_n_s32(int32_t(0xffff0000));
    F r; EACH r.v[i] = vreinterpretq_f32_s32(vandq_s32(a.v[i], upper)); return r;
}

// Bytes code + 128 become signed codes.
constexpr int OFFSET = 0;
inline I weights8(I raw) {
    const int32x4_t half = vdupq_n_s32(int32_t(0x80808080));
    I r; EACH r.v[i] = veorq_s32(raw.v[i], half); return r;
}
#if defined(DOT_PRODUCTS)
inline int32x4_t dot_signed(int32x4_t acc, int8x16_t w, int8x16_t x) { return vdotq_s32(acc, w, x); }
#else
// |w| is at most 128 and |x| at most 127: a sum of two products stays below 2^15.
inline int32x4_t dot_signed(int32x4_t acc, int8x16_t w, int8x16_t x) {
    const int16x8_t low = vmull_s8(vget_low_s8(w), vget_low_s8(x));
    const int16x8_t high = vmull_high_s8(w, x);
    return vpadalq_s16(acc, vpaddq_s16(low, high));
}
#endif
inline I dot8(I acc, I w, int32_t x) {
    const int8x16_t four = vreinterpretq_s8_s32(vdupq_n_s32(x));
    I r; EACH r.v[i] = dot_signed(acc.v[i], vreinterpretq_s8_s32(w.v[i]), four); return r;
}
inline I dot4(I acc, I w, int32_t x) { return dot8(acc, w, x); }  // bytes 0..15
inline I low_nibbles(I a) {
    const int32x4_t mask = vdupq_n_s32(0x0f0f0f0f);
    I r; EACH r.v[i] = vandq_s32(a.v[i], mask); return r;
}
inline I high_nibbles(I a) {
    I r;
    EACH r.v[i] = vreinterpretq_s32_u8(vshrq_n_u8(vreinterpretq_u8_s32(a.v[i]), 4));
    return r;
}
constexpr bool SIXTEENTHS = false;  // bytes are signed
inline I load_bytes(const uint8_t* p) {
    const uint8x16_t all = vld1q_u8(p);
    const uint16x8_t low = vmovl_u8(vget_low_u8(all)), high = vmovl_high_u8(all);
    return {{vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(low))),
             vreinterpretq_s32_u32(vmovl_high_u16(low)),
             vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(high))),
             vreinterpretq_s32_u32(vmovl_high_u16(high))}};
}
inline I times16(I a) { I r; EACH r.v[i] = vshlq_n_s32(a.v[i], 4); return r; }
inline I add_product(I acc, I a, int32_t b) {
    I r; EACH r.v[i] = vmlaq_n_s32(acc.v[i], a.v[i], b); return r;
}

#undef EACH

}  // namespace
