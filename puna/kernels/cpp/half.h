// IEEE half precision without hardware; rounding to nearest even, as the hardware does.
#pragma once
#include <cstdint>
#include <cstring>

namespace {

inline float bits_to_float(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

inline uint32_t float_to_bits(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}

inline float half_to_float(uint16_t half) {
    const uint32_t sign = uint32_t(half & 0x8000) << 16;
    const uint32_t rest = half & 0x7fff;
    if (rest >= 0x7c00) return bits_to_float(sign | 0x7f800000 | (rest & 0x3ff) << 13);
    if (rest >= 0x400) return bits_to_float(sign | ((rest << 13) + 0x38000000));
    // below the smallest normal number: rest * 2^-24, exact
    return bits_to_float(sign | float_to_bits(float(rest) * 0x1p-24f));
}

inline uint16_t float_to_half(float value) {
    const uint32_t bits = float_to_bits(value);
    const uint16_t sign = uint16_t(bits >> 16 & 0x8000);
    const uint32_t rest = bits & 0x7fffffff;
    if (rest > 0x7f800000) return uint16_t(sign | 0x7e00);
    if (rest >= 0x477ff000) return uint16_t(sign | 0x7c00);  // rounds beyond the largest half
    if (rest < 0x38800000) {                                  // a subnormal half, or zero
        // adding 0.5 leaves the right number of bits and rounds to even
        const float shifted = bits_to_float(rest) + 0.5f;
        return uint16_t(sign | (float_to_bits(shifted) - float_to_bits(0.5f)));
    }
    const uint32_t odd = rest >> 13 & 1;
    return uint16_t(sign | ((rest - 0x38000000 + 0xfff + odd) >> 13));
}

}  // namespace
