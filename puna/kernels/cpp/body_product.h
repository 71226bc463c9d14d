// Tiles of R blocks of 16 rows times T tokens. An output element is one chain of operations in the
// order of the inputs, whatever R and T are: that makes a result independent of its neighbours.
#pragma once

namespace {

#if defined(LOOPS_STAY)  // arrays instead of registers: unrolling gains nothing
#define UNROLL
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

// How far ahead of the reads memory is asked for, in bytes of one block's codes.
constexpr int AHEAD = 4096;

inline void ask(const uint8_t* p) { __builtin_prefetch(p, 0, 3); }

template <int R, int T>
inline void write_tile(const Product& job, int block, int first, F (&acc)[R][T]) {
    UNROLL for (int r = 0; r < R; r++) {
        const int row = (block + r) * LANES, left = job.columns - row;
        UNROLL for (int t = 0; t < T; t++) {
            float* y = job.y + (first + t) * job.stride + row;
            if (left >= LANES) {
                store(y, job.add ? add(load(y), acc[r][t]) : acc[r][t]);
                continue;
            }
            float lanes[LANES];
            store(lanes, acc[r][t]);
            for (int i = 0; i < left; i++) y[i] = job.add ? y[i] + lanes[i] : lanes[i];
        }
    }
}

template <int R, int T>
void tile_float(const Product& job, int block, int first) {
    const int inputs = job.matrix->groups * GROUP;
    const float* x = job.panel->values + int64_t(first) * inputs;
    const float* w = (const float*)job.matrix->codes + int64_t(block) * inputs * LANES;
    F acc[R][T];
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int t = 0; t < T; t++) acc[r][t] = splat(0);
    for (int k = 0; k < inputs; k++, x += T, w += LANES) {
        F row[R];
        UNROLL for (int r = 0; r < R; r++) {
            row[r] = load(w + int64_t(r) * inputs * LANES);
            if (T < 4) ask((const uint8_t*)(w + int64_t(r) * inputs * LANES) + AHEAD);
        }
        UNROLL for (int t = 0; t < T; t++) {
            const F value = splat(x[t]);
            UNROLL for (int r = 0; r < R; r++) acc[r][t] = fma(value, row[r], acc[r][t]);
        }
    }
    write_tile<R, T>(job, block, first, acc);
}

template <int R, int T>
void tile_bfloat(const Product& job, int block, int first) {
    const int inputs = job.matrix->groups * GROUP;
    const int64_t bytes = int64_t(inputs) * LANES * 2;
    const float* x = job.panel->values + int64_t(first) * inputs;
    const uint8_t* w = job.matrix->codes + block * bytes;
    F acc[R][T];
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int t = 0; t < T; t++) acc[r][t] = splat(0);
    for (int k = 0; k < inputs; k += 2, x += 2 * T, w += 64) {
        F even[R], odd[R];
        UNROLL for (int r = 0; r < R; r++) {
            const I pairs = load_int(w + r * bytes);
            if (T < 4) ask(w + r * bytes + AHEAD);
            even[r] = first_bfloat(pairs);
            odd[r] = second_bfloat(pairs);
        }
        UNROLL for (int t = 0; t < T; t++) {
            const F value = splat(x[t]);
            UNROLL for (int r = 0; r < R; r++) acc[r][t] = fma(value, even[r], acc[r][t]);
        }
        UNROLL for (int t = 0; t < T; t++) {
            const F value = splat(x[T + t]);
            UNROLL for (int r = 0; r < R; r++) acc[r][t] = fma(value, odd[r], acc[r][t]);
        }
    }
    write_tile<R, T>(job, block, first, acc);
}

template <int R, int T>
void tile_int8(const Product& job, int block, int first) {
    const int groups = job.matrix->groups;
    const Panel& panel = *job.panel;
    const int32_t* words = panel.words + int64_t(first) * groups * 8;
    const float* scales = panel.scales + int64_t(first) * groups;
    const int32_t* sums = panel.sums + int64_t(first) * groups;
    const uint8_t* codes = job.matrix->codes + int64_t(block) * groups * 512;
    const uint16_t* factors = job.matrix->scales + int64_t(block) * groups * LANES;
    F acc[R][T];
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int t = 0; t < T; t++) acc[r][t] = splat(0);
    for (int g = 0; g < groups; g++) {
        UNROLL for (int r = 0; r < R; r++) {
            const uint8_t* from = codes + (int64_t(r) * groups + g) * 512;
            I w[8];
            UNROLL for (int j = 0; j < 8; j++) {
                w[j] = weights8(load_int(from + 64 * j));
                if (T < 8) ask(from + 64 * j + AHEAD);
            }
            const F factor = load_half(factors + (int64_t(r) * groups + g) * LANES);
            UNROLL for (int t = 0; t < T; t++) {
                I whole = splat_int(OFFSET ? sums[t] : 0);
                UNROLL for (int j = 0; j < 8; j++) whole = dot8(whole, w[j], words[j * T + t]);
                acc[r][t] = fma(mul(to_float(whole), splat(scales[t])), factor, acc[r][t]);
            }
        }
        words += 8 * T;
        scales += T;
        sums += T;
    }
    write_tile<R, T>(job, block, first, acc);
}

template <int R, int T>
void tile_int4(const Product& job, int block, int first) {
    const int groups = job.matrix->groups, pairs = (groups + 1) / 2;
    const Panel& panel = *job.panel;
    const int32_t* words = panel.words + int64_t(first) * groups * 8;
    const float* scales = panel.scales + int64_t(first) * groups;
    const int32_t* sums = panel.sums + int64_t(first) * groups;
    const uint8_t* codes = job.matrix->codes + int64_t(block) * groups * 256;
    const uint16_t* factors = job.matrix->scales + int64_t(block) * groups * LANES;
    const uint8_t* zeros = job.matrix->zeros + int64_t(block) * pairs * LANES;
    F acc[R][T];
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int t = 0; t < T; t++) acc[r][t] = splat(0);
    for (int g = 0; g < groups; g++) {
        UNROLL for (int r = 0; r < R; r++) {
            const uint8_t* from = codes + (int64_t(r) * groups + g) * 256;
            I w[8];
            UNROLL for (int j = 0; j < 4; j++) {
                const I two = load_int(from + 64 * j);
                if (T < 8) ask(from + 64 * j + AHEAD / 2);
                w[j] = low_nibbles(two);
                w[j + 4] = high_nibbles(two);
            }
            const F factor = load_half(factors + (int64_t(r) * groups + g) * LANES);
            const I zero = load_zeros(zeros + (int64_t(r) * pairs + g / 2) * LANES, g & 1);
            UNROLL for (int t = 0; t < T; t++) {
                I whole = add_product(splat_int(0), zero, sums[t]);
                UNROLL for (int j = 0; j < 8; j++) whole = dot4(whole, w[j], words[j * T + t]);
                acc[r][t] = fma(mul(to_float(whole), splat(scales[t])), factor, acc[r][t]);
            }
        }
        words += 8 * T;
        scales += T;
        sums += T;
    }
    write_tile<R, T>(job, block, first, acc);
}

using Tile = void (*)(const Product&, int block, int first);

// Tiles of 1 to N tokens, as a table.
template <template <int> class Make, int N>
struct Tiles {
    Tile of[N + 1];
    constexpr Tiles() : of() { fill<N>(); }
    template <int T>
    constexpr void fill() {
        of[T] = Make<T>::tile;
        if constexpr (T > 1) fill<T - 1>();
    }
};

template <int T> struct FloatTile { static constexpr Tile tile = tile_float<FLOAT_ROWS, T>; };
template <int T> struct BfloatTile { static constexpr Tile tile = tile_bfloat<FLOAT_ROWS, T>; };
template <int T> struct Int8Tile { static constexpr Tile tile = tile_int8<INT_ROWS, T>; };
template <int T> struct Int4Tile { static constexpr Tile tile = tile_int4<INT_ROWS, T>; };

constexpr Tiles<FloatTile, FLOAT_TOKENS> float_tiles;
constexpr Tiles<BfloatTile, FLOAT_TOKENS> bfloat_tiles;
constexpr Tiles<Int8Tile, INT_TOKENS> int8_tiles;
constexpr Tiles<Int4Tile, INT_TOKENS> int4_tiles;

// Some blocks of a product, for all tiles of tokens; the weights of a block stay in the cache.
void product(const Product& job, int first_block, int blocks) {
    const int kind = job.matrix->kind;
    const int rows = kind <= BFLOAT16 ? FLOAT_ROWS : INT_ROWS;
    const Tile* tiles = kind == FLOAT32    ? float_tiles.of
                        : kind == BFLOAT16 ? bfloat_tiles.of
                        : kind == INT8     ? int8_tiles.of
                                           : int4_tiles.of;
    for (int block = first_block; block < first_block + blocks; block += rows) {
        if (block * LANES >= job.columns) break;
        for (int i = 0; i < job.panel->tiles; i++) {
            const int first = job.panel->starts[i];
            tiles[job.panel->starts[i + 1] - first](job, block, first);
        }
    }
}

}  // namespace
