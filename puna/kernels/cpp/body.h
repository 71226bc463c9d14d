// The kernels for one instruction set: a unit includes its simd_*.h, sets the sizes of its tiles
// and includes this. No standard library here: an inline function of it, compiled for a newer
// processor, could be the copy that the linker keeps for all.
#pragma once
#include "types.h"

namespace {
using namespace puna;
}

#include "body_math.h"
#include "body_product.h"
#include "body_attention.h"

namespace {

constexpr Kernels table(const char* name) {
    return {name,
            {FLOAT_TOKENS, FLOAT_TOKENS, INT_TOKENS, INT_TOKENS},
            {FLOAT_TOKENS, FLOAT_TOKENS, WIDE_TOKENS, WIDE_TOKENS},
            product, quantise, norm, swiglu, attend, to_half, dot, add_scaled};
}

}  // namespace
