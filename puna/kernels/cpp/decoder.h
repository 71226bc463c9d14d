// The forward pass of a Llama over a paged cache, in one call.
#pragma once
#include <memory>
#include <vector>

#include "product.h"

namespace puna {

// Everything a decoder looks at and does not own. Norm weights are padded to a multiple of 32.
struct Config {
    int32_t dim, layers, heads, kv_heads, head_dim, ffn, vocab, context;
    int32_t window;  // 0: none
    int32_t kind, n_blocks, threads;
    float eps;
    const float* rope;         // [context][head_dim / 2] cosine, sine
    const Matrix* embedding;   // [vocab, dim]
    const Matrix* output;      // [vocab, dim]
    const Matrix* matrices;    // [layers] wq|wk|wv, wo, w1|w3 (each padded to 32 rows), w2
    const float* const* norms; // [layers] attention_norm, ffn_norm; then norm
    uint8_t* cache;            // [layers][n_blocks][kv_heads] keys [head_dim][16], values [16][wide]
};

// The rows of one call: new tokens of several sequences, one behind the other.
struct Batch {
    int32_t rows;
    const int32_t* tokens;       // all rows' tokens
    const int32_t* lengths;      // [rows] how many of them
    const int32_t* starts;       // [rows] position of the first
    const int32_t* wanted;       // [rows] logits of so many last tokens
    const int32_t* adapters;     // [rows] slot, or -1
    const int32_t* blocks;       // all rows' block tables
    const int32_t* block_counts; // [rows]
};

// The places that an adapter may change, in this order in each layer.
enum Place { WQ, WK, WV, WO, W1, W2, W3, PLACES };

// y += B (A x): a is [rank][in padded to 32], b is [rank][out padded to 16], the scale within.
struct LowRank {
    int32_t rank;  // 0: none
    const float* a;
    const float* b;
};

class Decoder {
public:
    Decoder(const Config& config, const Kernels* kernels);

    // Logits [sum of wanted][vocab], or after the final norm [sum of wanted][dim].
    void forward(const Batch& batch, bool hidden, float* out);
    void copy_block(int source, int target);
    void set_adapter(int slot, const LowRank* places);  // [layers * PLACES]; null: remove

private:
    struct Work {  // queries [first, first + count) of a row and a key/value head
        int32_t row, head, first, count;
    };
    struct Token {
        int32_t position, adapter;
        const int32_t* blocks;
    };

    void read(const Batch& batch);
    void plan(const int32_t* lengths);
    void narrow(const Batch& batch);
    void layer(int number, const Batch& batch);
    void attention(int number, const Batch& batch);
    void store_token(int number, int token);
    void attend(int number, const Work& work, int thread);
    void normalise(const float* weight, const float* x, int tokens);
    void project(const Matrix& matrix, const float* x, int64_t stride, int tokens, float* y,
                 int64_t y_stride, int columns, bool add);
    void adapt(int number, Place place, const float* x, int64_t stride, float* y,
               int64_t y_stride, int out);
    void finish(bool hidden, float* out);
    uint8_t* head_cache(int number, int head) const;
    template <class Body>
    void each(int tokens, const Body& body);

    const Config config_;
    const Kernels* kernels_;
    Pool* pool_ = nullptr;  // of this call
    int64_t wide_, heads_wide_, ffn_wide_, qkv_wide_, head_wide_, head_bytes_, block_bytes_;
    int tokens_ = 0;
    bool adapted_ = false;
    int64_t score_stride_ = 0;
    std::vector<Token> token_;
    std::vector<int32_t> first_;  // of every row
    std::vector<Work> work_;
    std::vector<std::vector<LowRank>> adapters_;
    Packed packed_;
    Scratch x_, normed_, qkv_, mixed_, both_, gated_, scores_, outs_;
};

}  // namespace puna
