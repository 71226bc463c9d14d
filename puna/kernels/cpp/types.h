// What the kernels pass to each other: plain records, so that every instruction set's unit and
// Python's ctypes see the same bytes.
#pragma once
#include <cstdint>

namespace puna {

enum Kind : int32_t { FLOAT32 = 0, BFLOAT16 = 1, INT8 = 2, INT4 = 3 };

constexpr int LANES = 16;      // rows of a matrix side by side, tokens of a cache block
constexpr int GROUP = 32;      // inputs that share a scale
constexpr int MAX_TOKENS = 16; // of one tile
constexpr int MAX_QUERIES = 8; // of one attention tile

// A weight matrix [rows, cols] in 16-row blocks; rows are padded to 32 and cols to GROUP.
struct Matrix {
    int32_t kind;
    int32_t rows, cols;      // without padding
    int32_t blocks, groups;  // padded rows / 16, padded cols / 32
    const uint8_t* codes;    // [blocks][groups][bytes of 16 x 32 weights]
    const uint16_t* scales;  // half, [blocks][groups][16]; integer kinds only
    const uint8_t* zeros;    // zero points in sixteenths of a code, [blocks][groups][16]; INT4
};

// Activations as the tiles of a product read them. A tile of t tokens that begins at token `first`
// begins at first * (size of one token) in each array, and keeps its tokens innermost.
struct Panel {
    int32_t kind, tokens, groups, tiles;
    const int32_t* starts;  // [tiles + 1] first token of every tile
    float* values;          // [groups * 32][t], float kinds
    int32_t* words;         // [groups * 8][t] four signed bytes each, integer kinds
    float* scales;          // [groups][t]
    int32_t* sums;          // [groups][t] what the accumulator needs of the sum of a group's codes
};

// One product y[token][row] (+)= panel * matrix for some of its blocks.
struct Product {
    const Matrix* matrix;
    const Panel* panel;
    float* y;
    int64_t stride;  // floats between tokens of y
    int32_t columns; // rows of the matrix that are written; the rest is padding
    int32_t add;     // 1: add to y
};

// Query heads that look at the same key/value head of the same sequence.
struct Queries {
    int32_t count;                // at most MAX_QUERIES
    const float* q[MAX_QUERIES];  // [head_dim], scaled
    float* out[MAX_QUERIES];      // [head_dim rounded up to 16]
    int32_t last[MAX_QUERIES];    // position of the query: the last key that it sees
    int32_t head_dim, wide;       // wide: head_dim rounded up to 16
    int32_t window;               // 0: none
    int32_t half_cache;           // 1: half, 0: float
    const uint8_t* cache;         // of this layer and key/value head, block 0
    int64_t block_bytes;          // from a block of this head to the next block
    const int32_t* blocks;        // the sequence's block table
    float* scores;                // scratch [MAX_QUERIES][score_stride]
    int64_t score_stride;
};

// What one instruction set offers. All of them give the same bits.
struct Kernels {
    const char* name;
    int32_t tile_tokens[4];  // most tokens of a tile, by kind
    int32_t many_tokens[4];  // the same where one tile does not hold them all
    void (*product)(const Product&, int first_block, int blocks);
    // x: [groups * 32] of token `t` of a tile of `count`; the pointers are the tile's
    void (*quantise)(const float* x, int groups, int kind, int t, int count, int32_t* words,
                     float* scales, int32_t* sums);
    void (*norm)(const float* x, const float* weight, int dim, int wide, float eps, float* out);
    void (*swiglu)(const float* gate, const float* up, int wide, float* out);
    void (*attend)(const Queries&);
    void (*to_half)(const float* x, int wide, uint16_t* out);
    float (*dot)(const float* a, const float* b, int wide);
    void (*add_scaled)(float scale, const float* x, int wide, float* y);
};

const Kernels* plain_kernels();
const Kernels* avx2_kernels();    // null where not compiled in
const Kernels* avx512_kernels();
const Kernels* dotprod_kernels();
const Kernels* neon_kernels();

}  // namespace puna
