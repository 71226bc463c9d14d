// NEON, which every aarch64 has: 32 registers of 4 lanes.
#if defined(__AARCH64EL__)

namespace {
constexpr int FLOAT_ROWS = 1, FLOAT_TOKENS = 6, INT_TOKENS = 8;
constexpr int WIDE_ROWS = 1, WIDE_TOKENS = 8;
constexpr int SCORE_BLOCKS = 1;  // of keys at once
}

#include "simd_neon.h"
#include "body.h"

static const Kernels kernels = table("neon");
const Kernels* puna::neon_kernels() { return &kernels; }
#else
#include "types.h"
const puna::Kernels* puna::neon_kernels() { return nullptr; }
#endif
