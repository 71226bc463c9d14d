// NEON with the dot products of four bytes: most aarch64 since 2018. Clang before 16 declares them
// only where the compiler's own target has them, as Apple's does.
#if defined(__AARCH64EL__) && \
    (defined(__ARM_FEATURE_DOTPROD) || !defined(__clang__) || __clang_major__ >= 16)
#include <arm_neon.h>
#if !defined(__ARM_FEATURE_DOTPROD) && defined(__clang__)
#define CLANG_TARGET
#pragma clang attribute push(__attribute__((target("dotprod"))), apply_to = function)
#elif !defined(__ARM_FEATURE_DOTPROD)
#pragma GCC target("arch=armv8.2-a+dotprod")
#endif
#define DOT_PRODUCTS

namespace {
constexpr int FLOAT_ROWS = 1, FLOAT_TOKENS = 6, INT_TOKENS = 8;
constexpr int WIDE_ROWS = 1, WIDE_TOKENS = 8;
constexpr int SCORE_BLOCKS = 1;  // of keys at once
}

#include "simd_neon.h"
#include "body.h"

#if defined(CLANG_TARGET)
#pragma clang attribute pop
#endif

static const Kernels kernels = table("dotprod");
const Kernels* puna::dotprod_kernels() { return &kernels; }
#else
#include "types.h"
const puna::Kernels* puna::dotprod_kernels() { return nullptr; }
#endif
