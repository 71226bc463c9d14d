// Products of activations with a matrix, over the threads of a pool.
#pragma once
#include <vector>

#include "pool.h"
#include "types.h"

namespace puna {

// Memory that grows and is kept; 64-byte aligned, not kept across growth.
class Scratch {
public:
    Scratch() = default;
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    ~Scratch();
    void* room(size_t bytes);
    float* floats(size_t count) { return (float*)room(count * sizeof(float)); }

private:
    void* at_ = nullptr;
    size_t size_ = 0;
};

// Activations made ready for the matrices of one kind.
class Packed {
public:
    // x: [tokens][stride], `inputs` of them used, the rest taken for zero
    void pack(const Kernels& kernels, Pool& pool, int kind, const float* x, int64_t stride,
              int tokens, int inputs);
    const Panel& panel() const { return panel_; }

private:
    void pack_tile(const Kernels& kernels, const float* x, int64_t stride, int inputs, int tile);

    Panel panel_{};
    std::vector<int32_t> starts_;
    Scratch values_, scales_, sums_;
};

// y[token][row] (+)= the product with `matrix`, whose kind is the panel's; the first `columns` rows.
void multiply(const Kernels& kernels, Pool& pool, const Matrix& matrix, const Panel& panel,
              float* y, int64_t stride, int columns, bool add);

// One row of a matrix as floats [cols]; exactly what the product multiplies with.
void read_row(const Matrix& matrix, int row, float* out);

}  // namespace puna
