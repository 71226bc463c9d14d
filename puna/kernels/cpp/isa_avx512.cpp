// AVX-512 with VNNI: 32 registers of 16 lanes.
#if defined(__x86_64__)
#if defined(__clang__)
#include <immintrin.h>
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")
#endif

namespace {
constexpr int FLOAT_ROWS = 2, FLOAT_TOKENS = 12, INT_TOKENS = 16;
constexpr int WIDE_ROWS = 2, WIDE_TOKENS = 6;
constexpr int SCORE_BLOCKS = 2;  // of keys at once
}

#include "simd_avx512.h"
#include "body.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif

static const Kernels kernels = table("avx512");
const Kernels* puna::avx512_kernels() { return &kernels; }
#else
#include "types.h"
const puna::Kernels* puna::avx512_kernels() { return nullptr; }
#endif
