// 16 lanes as an array: any machine, and the yardstick of the others.
#pragma once
#include <cstdint>
#include <cstring>

#include "half.h"

namespace {

struct F { float v[16]; };
struct I { int32_t v[16]; };

#define EACH for (int i = 0; i < 16; i++)

inline F load(const float* p) { F r; EACH r.v[i] = p[i]; return r; }
inline void store(float* p, const F& a) { EACH p[i] = a.v[i]; }
inline F splat(float a) { F r; EACH r.v[i] = a; return r; }
inline F fma(const F& a, const F& b, const F& c) {
    F r; EACH r.v[i] = __builtin_fmaf(a.v[i], b.v[i], c.v[i]); return r;
}
inline F add(const F& a, const F& b) { F r; EACH r.v[i] = a.v[i] + b.v[i]; return r; }
inline F sub(const F& a, const F& b) { F r; EACH r.v[i] = a.v[i] - b.v[i]; return r; }
inline F mul(const F& a, const F& b) { F r; EACH r.v[i] = a.v[i] * b.v[i]; return r; }
inline F div(const F& a, const F& b) { F r; EACH r.v[i] = a.v[i] / b.v[i]; return r; }
// b where either is not a number, as x86 does
inline F largest(const F& a, const F& b) {
    F r; EACH r.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i]; return r;
}
inline F smallest(const F& a, const F& b) {
    F r; EACH r.v[i] = a.v[i] < b.v[i] ? a.v[i] : b.v[i]; return r;
}
inline F magnitude(const F& a) { F r; EACH r.v[i] = __builtin_fabsf(a.v[i]); return r; }
inline F where_below(const F& x, const F& limit, const F& a, const F& b) {
    F r; EACH r.v[i] = x.v[i] < limit.v[i] ? a.v[i] : b.v[i]; return r;
}
inline F load_half(const uint16_t* p) { F r; EACH r.v[i] = half_to_float(p[i]); return r; }
inline void store_half(uint16_t* p, const F& a) { EACH p[i] = float_to_half(a.v[i]); }

inline I load_int(const void* p) { I r; std::memcpy(r.v, p, 64); return r; }
inline void store_int(void* p, const I& a) { std::memcpy(p, a.v, 64); }
inline I splat_int(int32_t a) { I r; EACH r.v[i] = a; return r; }
inline F to_float(const I& a) { F r; EACH r.v[i] = float(a.v[i]); return r; }
inline I to_int(const F& a) {  // adding 1.5 * 2^23 rounds to the nearest even integer
    I r; EACH r.v[i] = int32_t((a.v[i] + 12582912.0f) - 12582912.0f); return r;
}
inline F power_of_two(const I& n) {
    F r; EACH r.v[i] = bits_to_float(uint32_t(n.v[i] + 127) << 23); return r;
}
inline int32_t sum_int(const I& a, const I& b) {
    int32_t s = 0; EACH s += a.v[i] + b.v[i]; return s;
}
inline float largest_lane(const F& a) {
    float top = a.v[0]; EACH top = a.v[i] > top ? a.v[i] : top; return top;
}
inline void store_bytes(void* p, const I& a) { EACH ((int8_t*)p)[i] = int8_t(a.v[i]); }

inline F first_bfloat(const I& a) {
    F r; EACH r.v[i] = bits_to_float(uint32_t(a.v[i]) << 16); return r;
}
inline F second_bfloat(const I& a) {
    F r; EACH r.v[i] = bits_to_float(uint32_t(a.v[i]) & 0xffff0000u); return r;
}

constexpr int OFFSET = 128;
inline I weights8(const I& raw) { return raw; }
inline I dot8(const I& acc, const I& w, int32_t x) {
    uint8_t bytes[64];
    int8_t four[4];
    std::memcpy(bytes, w.v, 64);
    std::memcpy(four, &x, 4);
    I r;
    EACH r.v[i] = acc.v[i] + bytes[4 * i] * four[0] + bytes[4 * i + 1] * four[1] +
                  bytes[4 * i + 2] * four[2] + bytes[4 * i + 3] * four[3];
    return r;
}
inline I dot4(const I& acc, const I& w, int32_t x) { return dot8(acc, w, x); }
inline I low_nibbles(const I& a) { I r; EACH r.v[i] = a.v[i] & 0x0f0f0f0f; return r; }
inline I high_nibbles(const I& a) {
    I r; EACH r.v[i] = int32_t(uint32_t(a.v[i]) >> 4 & 0x0f0f0f0fu); return r;
}
constexpr bool SIXTEENTHS = true;
inline I load_bytes(const uint8_t* p) { I r; EACH r.v[i] = p[i]; return r; }
inline I times16(const I& a) { I r; EACH r.v[i] = int32_t(uint32_t(a.v[i]) << 4); return r; }
inline I add_product(const I& acc, const I& a, int32_t b) {
    I r; EACH r.v[i] = acc.v[i] + a.v[i] * b; return r;
}

#undef EACH

}  // namespace
