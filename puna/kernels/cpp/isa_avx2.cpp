// AVX2, FMA and F16C: 16 registers of 8 lanes.
#if defined(__x86_64__)
#if defined(__clang__)
#include <immintrin.h>
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c")
#endif

namespace {
constexpr int FLOAT_ROWS = 2, FLOAT_TOKENS = 3, INT_TOKENS = 4;
constexpr int WIDE_ROWS = 1, WIDE_TOKENS = 4;
constexpr int SCORE_BLOCKS = 1;  // of keys at once
}

#include "simd_avx2.h"
#include "body.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif

static const Kernels kernels = table("avx2");
const Kernels* puna::avx2_kernels() { return &kernels; }
#else
#include "types.h"
const puna::Kernels* puna::avx2_kernels() { return nullptr; }
#endif
