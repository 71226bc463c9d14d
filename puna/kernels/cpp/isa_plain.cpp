// Any machine: arrays of 16, left to the compiler.
#define LOOPS_STAY

namespace {
constexpr int FLOAT_ROWS = 1, FLOAT_TOKENS = 2, INT_TOKENS = 2;
constexpr int WIDE_ROWS = 1, WIDE_TOKENS = 2;
constexpr int SCORE_BLOCKS = 1;  // of keys at once
}

#include "simd_plain.h"
#include "body.h"

static const Kernels kernels = table("plain");
const Kernels* puna::plain_kernels() { return &kernels; }
