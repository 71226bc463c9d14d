// Functions of 16 lanes: sums in a fixed order, exp, silu; norms, quantising, vectors.
// Included by each instruction set's unit behind its simd_*.h.
#pragma once

namespace {

// The sum of the lanes as a tree of fixed shape.
inline float sum(F a) {
    float lanes[16];
    store(lanes, a);
    for (int width = 8; width; width /= 2)
        for (int i = 0; i < width; i++) lanes[i] += lanes[i + width];
    return lanes[0];
}

// exp(x) to about 2 units in the last place; exactly 0 below -87.3, at most exp(88).
inline F exponential(F x) {
    const F bounded = largest(smallest(x, splat(88.0f)), splat(-87.3f));
    const I whole = to_int(mul(bounded, splat(1.44269504f)));
    const F n = to_float(whole);
    F r = fma(n, splat(-0.693359375f), bounded);  // ln 2 in two parts; the first has few bits
    r = fma(n, splat(2.12194440e-4f), r);
    F p = splat(1.9875691500e-4f);
    p = fma(p, r, splat(1.3981999507e-3f));
    p = fma(p, r, splat(8.3334519073e-3f));
    p = fma(p, r, splat(4.1665795894e-2f));
    p = fma(p, r, splat(1.6666665459e-1f));
    p = fma(p, r, splat(5.0000001201e-1f));
    p = fma(mul(r, r), p, add(r, splat(1.0f)));
    return where_below(x, splat(-87.3f), splat(0.0f), mul(p, power_of_two(whole)));
}

// silu(gate) * up
void swiglu(const float* gate, const float* up, int wide, float* out) {
    for (int i = 0; i < wide; i += 16) {
        const F x = load(gate + i);
        const F below = add(splat(1.0f), exponential(sub(splat(0.0f), x)));
        store(out + i, mul(div(x, below), load(up + i)));
    }
}

// x / rms(x) * weight; `wide` is dim rounded up, with zeros behind.
void norm(const float* x, const float* weight, int dim, int wide, float eps, float* out) {
    F squares = splat(0.0f);
    for (int i = 0; i < wide; i += 16) squares = fma(load(x + i), load(x + i), squares);
    const F scale = splat(1.0f / __builtin_sqrtf(sum(squares) / float(dim) + eps));
    for (int i = 0; i < wide; i += 16)
        store(out + i, mul(mul(load(x + i), scale), load(weight + i)));
}

// Each group of 32 as signed bytes of at most 127 and a float scale.
void quantise(const float* x, int groups, int kind, int t, int count, int32_t* words,
              float* scales, int32_t* sums) {
    for (int g = 0; g < groups; g++, x += GROUP) {
        const F a = load(x), b = load(x + 16);
        const float top = largest_lane(largest(magnitude(a), magnitude(b)));
        const F up = splat(top > 0 ? 127.0f / top : 0.0f), limit = splat(127.0f);
        const F least = splat(-127.0f);
        const I low = to_int(largest(smallest(mul(a, up), limit), least));
        const I high = to_int(largest(smallest(mul(b, up), limit), least));
        alignas(4) int8_t bytes[GROUP];
        store_bytes(bytes, low);
        store_bytes(bytes + 16, high);
        const int32_t* four = (const int32_t*)bytes;
        for (int j = 0; j < 8; j++) words[(g * 8 + j) * count + t] = four[j];
        // int4 counts in sixteenths of a code, as its zero points are given
        scales[g * count + t] = top / 127.0f * (kind == INT4 ? 0.0625f : 1.0f);
        // int8: what the offset of the weights' bytes adds; int4: times the zero point
        sums[g * count + t] = (kind == INT8 ? -OFFSET : -1) * sum_int(low, high);
    }
}

void to_half(const float* x, int wide, uint16_t* out) {
    // beyond the largest half there is infinity, which times a weight of zero is not a number
    const F limit = splat(65504.0f), least = splat(-65504.0f);
    for (int i = 0; i < wide; i += 16)
        store_half(out + i, largest(smallest(load(x + i), limit), least));
}

float dot(const float* a, const float* b, int wide) {
    F acc = splat(0.0f);
    for (int i = 0; i < wide; i += 16) acc = fma(load(a + i), load(b + i), acc);
    return sum(acc);
}

void add_scaled(float scale, const float* x, int wide, float* y) {
    const F factor = splat(scale);
    for (int i = 0; i < wide; i += 16) store(y + i, fma(factor, load(x + i), load(y + i)));
}

}  // namespace
