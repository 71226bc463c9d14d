#include "product.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

#include "half.h"

namespace puna {

namespace {

constexpr int64_t CHUNK_BYTES = 64 * 1024;  // of weights: some microseconds of memory
constexpr int FEWEST_CHUNKS = 4;            // a thread, so that nobody waits long for the last

int64_t block_bytes(const Matrix& m) {
    static const int per_group[] = {2048, 1024, 512, 256};
    return int64_t(m.groups) * per_group[m.kind];
}

}  // namespace

Scratch::~Scratch() { std::free(at_); }

void* Scratch::room(size_t bytes) {
    if (bytes > size_) {
        std::free(at_);
        size_ = 0;
        at_ = nullptr;
        if (posix_memalign(&at_, 64, bytes)) throw std::bad_alloc();
        size_ = bytes;
    }
    return at_;
}

void Packed::pack(const Kernels& kernels, Pool& pool, int kind, const float* x, int64_t stride,
                  int tokens, int inputs) {
    const bool one = tokens <= kernels.tile_tokens[kind];
    const int most = one ? tokens : kernels.many_tokens[kind], tiles = (tokens + most - 1) / most;
    const int groups = (inputs + GROUP - 1) / GROUP;
    starts_.resize(tiles + 1);
    for (int i = 0; i <= tiles; i++) starts_[i] = int(int64_t(tokens) * i / tiles);
    panel_ = {kind, tokens, groups, tiles, starts_.data(), nullptr, nullptr, nullptr, nullptr};
    if (kind <= BFLOAT16) {
        panel_.values = values_.floats(size_t(tokens) * groups * GROUP);
    } else {
        panel_.words = (int32_t*)values_.room(size_t(tokens) * groups * GROUP);
        panel_.scales = scales_.floats(size_t(tokens) * groups);
        panel_.sums = (int32_t*)sums_.room(size_t(tokens) * groups * 4);
    }
    if (tiles < 2) {
        pack_tile(kernels, x, stride, inputs, 0);
        return;
    }
    pool.run(tiles, [&](int tile, int) { pack_tile(kernels, x, stride, inputs, tile); });
}

void Packed::pack_tile(const Kernels& kernels, const float* x, int64_t stride, int inputs,
                       int tile) {
    const int first = starts_[tile], count = starts_[tile + 1] - first;
    const int padded = panel_.groups * GROUP;
    std::vector<float> whole(inputs == padded ? 0 : padded);
    for (int t = 0; t < count; t++) {
        const float* from = x + (first + t) * stride;
        if (inputs != padded) {
            std::memcpy(whole.data(), from, inputs * sizeof(float));
            from = whole.data();
        }
        const int64_t at = first;
        if (panel_.values) {
            float* to = panel_.values + at * padded + t;
            if (count == 1) std::memcpy(to, from, padded * sizeof(float));
            else for (int k = 0; k < padded; k++) to[int64_t(k) * count] = from[k];
        } else {
            kernels.quantise(from, panel_.groups, panel_.kind, t, count,
                             panel_.words + at * panel_.groups * 8,
                             panel_.scales + at * panel_.groups, panel_.sums + at * panel_.groups);
        }
    }
}

void multiply(const Kernels& kernels, Pool& pool, const Matrix& matrix, const Panel& panel,
              float* y, int64_t stride, int columns, bool add) {
    const Product job{&matrix, &panel, y, stride, columns, add};
    const int pairs = (columns + 2 * LANES - 1) / (2 * LANES);  // a tile is one or two blocks high
    const int64_t least = panel.tiles > 1 ? 2 : 1;  // pairs: blocks that share a tile of tokens
    const int64_t wanted = std::max(least, CHUNK_BYTES / (2 * block_bytes(matrix)));
    const int even = std::max(1, pairs / (FEWEST_CHUNKS * pool.threads()));
    const int share = int(std::min<int64_t>(wanted, even));
    pool.run((pairs + share - 1) / share, [&](int chunk, int) {
        const int first = chunk * share, last = std::min(pairs, first + share);
        kernels.product(job, 2 * first, 2 * (last - first));
    });
}

void read_row(const Matrix& m, int row, float* out) {
    const int64_t block = row / LANES, lane = row % LANES;
    const uint8_t* codes = m.codes + block * block_bytes(m);
    for (int k = 0; k < m.cols; k++) {
        const int64_t g = k / GROUP, i = k % GROUP;
        if (m.kind == FLOAT32) {
            out[k] = ((const float*)codes)[int64_t(k) * LANES + lane];
        } else if (m.kind == BFLOAT16) {
            const uint16_t code = ((const uint16_t*)codes)[(k / 2 * LANES + lane) * 2 + k % 2];
            out[k] = bits_to_float(uint32_t(code) << 16);
        } else {
            float scale = half_to_float(m.scales[(block * m.groups + g) * LANES + lane]);
            int code;
            if (m.kind == INT8) {
                code = codes[g * 512 + (i / 4 * LANES + lane) * 4 + i % 4] - 128;
            } else {
                const uint8_t two = codes[g * 256 + (i % 16 / 4 * LANES + lane) * 4 + i % 4];
                const uint8_t zero = m.zeros[(block * m.groups + g) * LANES + lane];
                code = 16 * (i < 16 ? two & 15 : two >> 4) - zero;
                scale *= 0.0625f;
            }
            out[k] = float(code) * scale;
        }
    }
}

}  // namespace puna
