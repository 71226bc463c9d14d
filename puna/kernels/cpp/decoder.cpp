#include "decoder.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace puna {

namespace {

int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

constexpr int FEW = 2;  // tokens that one thread norms before others have woken

}  // namespace

Decoder::Decoder(const Config& config, const Kernels* kernels)
    : config_(config), kernels_(kernels) {
    const Config& c = config_;
    wide_ = round_up(c.dim, GROUP);
    heads_wide_ = round_up(int64_t(c.heads) * c.head_dim, GROUP);
    ffn_wide_ = round_up(c.ffn, GROUP);
    // the last head's tail may be added to 15 floats beyond
    qkv_wide_ = round_up(int64_t(c.heads + 2 * c.kv_heads) * c.head_dim, GROUP) + LANES;
    head_wide_ = round_up(c.head_dim, LANES);
    head_bytes_ = (c.head_dim * LANES + LANES * head_wide_) * (c.kind == FLOAT32 ? 4 : 2);
    block_bytes_ = head_bytes_ * c.kv_heads;
}

template <class Body>
void Decoder::each(int tokens, const Body& body) {
    if (tokens <= FEW) {
        for (int t = 0; t < tokens; t++) body(t, 0);
    } else {
        pool_->run(tokens, body);
    }
}

void Decoder::forward(const Batch& batch, bool hidden, float* out) {
    pool_ = &pool(config_.threads);
    read(batch);
    if (tokens_ == 0) return;
    plan(batch.lengths);
    for (int number = 0; number < config_.layers && tokens_; number++) layer(number, batch);
    if (tokens_) finish(hidden, out);
}

// The tokens' places and their embeddings.
void Decoder::read(const Batch& batch) {
    token_.clear();
    first_.clear();
    adapted_ = false;
    const int32_t* blocks = batch.blocks;
    for (int row = 0; row < batch.rows; row++) {
        first_.push_back(int32_t(token_.size()));
        for (int i = 0; i < batch.lengths[row]; i++)
            token_.push_back({batch.starts[row] + i, batch.adapters[row], blocks});
        adapted_ |= batch.adapters[row] >= 0;
        blocks += batch.block_counts[row];
    }
    tokens_ = int(token_.size());
    float* x = x_.floats(tokens_ * wide_);
    each(tokens_, [&](int t, int) {
        float* row = x + t * wide_;
        read_row(*config_.embedding, batch.tokens[t], row);
        std::fill(row + config_.dim, row + wide_, 0.0f);
    });
    normed_.floats(tokens_ * wide_);
    qkv_.floats(tokens_ * qkv_wide_);
    std::memset(mixed_.floats(tokens_ * heads_wide_), 0, tokens_ * heads_wide_ * sizeof(float));
    both_.floats(tokens_ * 2 * ffn_wide_);
    gated_.floats(tokens_ * ffn_wide_);
}

// Attention in pieces: tiles of queries that share a head's keys, smaller ones if there are few.
void Decoder::plan(const int32_t* lengths) {
    const int group = config_.heads / config_.kv_heads;
    int last = 0, size = MAX_QUERIES;
    for (const Token& token : token_) last = std::max(last, token.position);
    while (size > 1 && int64_t(tokens_) * config_.heads < 4 * size * pool_->threads()) size /= 2;
    work_.clear();
    for (int row = 0; row < int(first_.size()); row++)
        for (int head = 0; head < config_.kv_heads; head++)
            for (int i = 0, all = lengths[row] * group; i < all; i += size)
                work_.push_back({row, head, i, std::min(size, all - i)});
    score_stride_ = round_up(last + 1, LANES);
    scores_.floats(pool_->threads() * MAX_QUERIES * score_stride_);
    outs_.floats(pool_->threads() * MAX_QUERIES * head_wide_);
}

// From here on only the tokens that are wanted: of the last layer, others leave keys and values.
void Decoder::narrow(const Batch& batch) {
    float* x = x_.floats(0);
    float* qkv = qkv_.floats(0);
    int count = 0;
    for (int row = 0; row < batch.rows; row++) {
        const int end = first_[row] + batch.lengths[row];
        first_[row] = count;
        for (int t = end - batch.wanted[row]; t < end; t++, count++) {
            if (t == count) continue;
            std::memcpy(x + count * wide_, x + t * wide_, wide_ * sizeof(float));
            std::memcpy(qkv + count * qkv_wide_, qkv + t * qkv_wide_, qkv_wide_ * sizeof(float));
            token_[count] = token_[t];
        }
    }
    tokens_ = count;
    token_.resize(count);
    plan(batch.wanted);
}

void Decoder::layer(int number, const Batch& batch) {
    const Matrix* matrices = config_.matrices + 4 * number;
    float* x = x_.floats(0);
    float* normed = normed_.floats(0);
    attention(number, batch);
    if (!tokens_) return;
    normalise(config_.norms[2 * number + 1], x, tokens_);
    float* both = both_.floats(0);
    project(matrices[2], normed, wide_, tokens_, both, 2 * ffn_wide_, int(2 * ffn_wide_), false);
    adapt(number, W1, normed, wide_, both, 2 * ffn_wide_, config_.ffn);
    adapt(number, W3, normed, wide_, both + ffn_wide_, 2 * ffn_wide_, config_.ffn);
    float* gated = gated_.floats(0);
    each(tokens_, [&](int t, int) {
        const float* gate = both + t * 2 * ffn_wide_;
        kernels_->swiglu(gate, gate + ffn_wide_, int(ffn_wide_), gated + t * ffn_wide_);
    });
    project(matrices[3], gated, ffn_wide_, tokens_, x, wide_, int(wide_), true);
    adapt(number, W2, gated, ffn_wide_, x, wide_, config_.dim);
}

void Decoder::attention(int number, const Batch& batch) {
    const Config& c = config_;
    const Matrix* matrices = c.matrices + 4 * number;
    float* x = x_.floats(0);
    float* normed = normed_.floats(0);
    float* qkv = qkv_.floats(0);
    normalise(c.norms[2 * number], x, tokens_);
    const int q = c.heads * c.head_dim, kv = c.kv_heads * c.head_dim;
    project(matrices[0], normed, wide_, tokens_, qkv, qkv_wide_, q + 2 * kv, false);
    adapt(number, WQ, normed, wide_, qkv, qkv_wide_, q);
    adapt(number, WK, normed, wide_, qkv + q, qkv_wide_, kv);
    adapt(number, WV, normed, wide_, qkv + q + kv, qkv_wide_, kv);
    each(tokens_, [&](int t, int) { store_token(number, t); });
    if (number + 1 == c.layers) narrow(batch);
    if (!tokens_) return;
    pool_->run(int(work_.size()),
               [&](int i, int thread) { attend(number, work_[i], thread); });
    float* mixed = mixed_.floats(0);
    project(matrices[1], mixed, heads_wide_, tokens_, x, wide_, int(wide_), true);
    adapt(number, WO, mixed, heads_wide_, x, wide_, c.dim);
}

uint8_t* Decoder::head_cache(int number, int head) const {
    return config_.cache + int64_t(number) * config_.n_blocks * block_bytes_ + head * head_bytes_;
}

// Turns a token's queries and keys (pairs 2i, 2i + 1, Meta's convention), scales the queries, and
// puts keys and values into the cache.
void Decoder::store_token(int number, int t) {
    const Config& c = config_;
    const Token& token = token_[t];
    float* q = qkv_.floats(0) + t * qkv_wide_;
    float* k = q + c.heads * c.head_dim;
    const float* v = k + c.kv_heads * c.head_dim;
    const float* turn = c.rope + int64_t(token.position) * c.head_dim;
    const float scale = 1.0f / std::sqrt(float(c.head_dim));
    for (int head = 0; head < c.heads + c.kv_heads; head++) {
        const float factor = head < c.heads ? scale : 1.0f;
        float* at = q + head * c.head_dim;
        for (int i = 0; i < c.head_dim; i += 2) {
            const float a = at[i] * factor, b = at[i + 1] * factor;
            at[i] = a * turn[i] - b * turn[i + 1];
            at[i + 1] = a * turn[i + 1] + b * turn[i];
        }
    }
    const int64_t block = token.blocks[token.position / LANES], slot = token.position % LANES;
    alignas(64) float whole[1024];
    alignas(64) uint16_t half[1024];
    std::fill(whole + c.head_dim, whole + head_wide_, 0.0f);
    for (int head = 0; head < c.kv_heads; head++, k += c.head_dim, v += c.head_dim) {
        uint8_t* at = head_cache(number, head) + block * block_bytes_;
        if (c.kind == FLOAT32) {
            float* keys = (float*)at;
            for (int d = 0; d < c.head_dim; d++) keys[d * LANES + slot] = k[d];
            std::memcpy(keys + c.head_dim * LANES + slot * head_wide_, v, c.head_dim * 4);
            continue;
        }
        uint16_t* keys = (uint16_t*)at;
        std::memcpy(whole, k, c.head_dim * 4);
        kernels_->to_half(whole, int(head_wide_), half);
        for (int d = 0; d < c.head_dim; d++) keys[d * LANES + slot] = half[d];
        std::memcpy(whole, v, c.head_dim * 4);
        kernels_->to_half(whole, int(head_wide_), keys + c.head_dim * LANES + slot * head_wide_);
    }
}

void Decoder::attend(int number, const Work& work, int thread) {
    const Config& c = config_;
    const int group = c.heads / c.kv_heads, first = first_[work.row];
    Queries job;
    job.count = work.count;
    job.head_dim = c.head_dim;
    job.wide = int(head_wide_);
    job.window = c.window;
    job.half_cache = c.kind != FLOAT32;
    job.cache = head_cache(number, work.head);
    job.block_bytes = block_bytes_;
    job.blocks = token_[first].blocks;
    job.scores = scores_.floats(0) + thread * MAX_QUERIES * score_stride_;
    job.score_stride = score_stride_;
    float* to[MAX_QUERIES];
    for (int n = 0; n < work.count; n++) {
        const int t = first + (work.first + n) / group;
        const int head = work.head * group + (work.first + n) % group;
        job.q[n] = qkv_.floats(0) + t * qkv_wide_ + head * c.head_dim;
        job.last[n] = token_[t].position;
        job.out[n] = outs_.floats(0) + (thread * MAX_QUERIES + n) * head_wide_;
        to[n] = mixed_.floats(0) + t * heads_wide_ + head * c.head_dim;
    }
    kernels_->attend(job);
    for (int n = 0; n < work.count; n++) std::memcpy(to[n], job.out[n], c.head_dim * 4);
}

void Decoder::normalise(const float* weight, const float* x, int tokens) {
    float* out = normed_.floats(0);
    each(tokens, [&](int t, int) {
        kernels_->norm(x + t * wide_, weight, config_.dim, int(wide_), config_.eps,
                       out + t * wide_);
    });
}

void Decoder::project(const Matrix& matrix, const float* x, int64_t stride, int tokens, float* y,
                      int64_t y_stride, int columns, bool add) {
    packed_.pack(*kernels_, *pool_, matrix.kind, x, stride, tokens, int(stride));
    multiply(*kernels_, *pool_, matrix, packed_.panel(), y, y_stride, columns, add);
}

// What the adapters of the tokens add to one projection.
void Decoder::adapt(int number, Place place, const float* x, int64_t stride, float* y,
                    int64_t y_stride, int out) {
    if (!adapted_) return;
    each(tokens_, [&](int t, int) {
        if (token_[t].adapter < 0) return;
        const LowRank& pair = adapters_[token_[t].adapter][number * PLACES + place];
        const int64_t rows = round_up(out, LANES);
        for (int j = 0; j < pair.rank; j++) {
            const float amount = kernels_->dot(pair.a + j * stride, x + t * stride, int(stride));
            kernels_->add_scaled(amount, pair.b + j * rows, int(rows), y + t * y_stride);
        }
    });
}

// The final norm and the output matrix, for the tokens that are wanted.
void Decoder::finish(bool hidden, float* out) {
    normalise(config_.norms[2 * config_.layers], x_.floats(0), tokens_);
    const float* normed = normed_.floats(0);
    if (hidden) {
        for (int i = 0; i < tokens_; i++)
            std::memcpy(out + int64_t(i) * config_.dim, normed + i * wide_, config_.dim * 4);
        return;
    }
    project(*config_.output, normed, wide_, tokens_, out, config_.vocab, config_.vocab, false);
}

void Decoder::copy_block(int source, int target) {
    for (int number = 0; number < config_.layers; number++) {
        uint8_t* layer = head_cache(number, 0);
        std::memcpy(layer + target * block_bytes_, layer + source * block_bytes_, block_bytes_);
    }
}

void Decoder::set_adapter(int slot, const LowRank* places) {
    if (slot >= int(adapters_.size())) adapters_.resize(slot + 1);
    adapters_[slot].clear();
    if (places) adapters_[slot].assign(places, places + config_.layers * PLACES);
}

}  // namespace puna
