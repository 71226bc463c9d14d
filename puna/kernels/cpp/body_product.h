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

// Blocks, groups and tiles that an integer product of many tokens keeps in the first cache.
constexpr int HEIGHT = 4, SPAN = 16, TILES = 16;

// Integer dot products in flight: each is a chain of eight, and one alone would wait for itself.
constexpr int CHAINS = 4;

inline void scale_tile(F& acc, I whole, float scale, F factor) {
    acc = fma(mul(to_float(whole), splat(scale)), factor, acc);
}

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

// The groups [begin, end) of a product; between spans its sums wait in stage[T][16], those of
// the next block `apart` floats on, which changes no bit of them.
struct Span {
    int begin, end;
    float* stage;
    int apart;
    const uint8_t* codes;  // of group `begin` and the first block, unpacked; INT4 of many tokens
};

// The sums so far: zero before the first group.
template <int R, int T>
inline void open_span(const Span& span, F (&acc)[R][T]) {
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int t = 0; t < T; t++)
        acc[r][t] = span.begin ? load(span.stage + r * span.apart + t * LANES) : splat(0);
}

template <int R, int T>
inline void close_span(const Product& job, const Span& span, int block, int first, F (&acc)[R][T]) {
    if (span.end == job.matrix->groups) return write_tile<R, T>(job, block, first, acc);
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int t = 0; t < T; t++)
        store(span.stage + r * span.apart + t * LANES, acc[r][t]);
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

template <int T>
void tile_int8(const Product& job, int block, int first, const Span& span) {
    const int groups = job.matrix->groups, begin = span.begin;
    const Panel& panel = *job.panel;
    const int32_t* words = panel.words + (int64_t(first) * groups + begin * T) * 8;
    const float* scales = panel.scales + int64_t(first) * groups + begin * T;
    const int32_t* sums = panel.sums + int64_t(first) * groups + begin * T;
    const uint8_t* codes = job.matrix->codes + (int64_t(block) * groups + begin) * 512;
    const uint16_t* factors = job.matrix->scales + (int64_t(block) * groups + begin) * LANES;
    F acc[1][T];
    open_span<1, T>(span, acc);
    for (int g = begin; g < span.end; g++) {
        I w[8];
        UNROLL for (int j = 0; j < 8; j++) {
            w[j] = weights8(load_int(codes + 64 * j));
            if (T <= 8) ask(codes + 64 * j + AHEAD);
        }
        const F factor = load_half(factors);
        UNROLL for (int t = 0; t < T; t += CHAINS) {
            I whole[CHAINS];
            UNROLL for (int i = 0; i < CHAINS; i++)
                if (t + i < T) whole[i] = splat_int(OFFSET ? sums[t + i] : 0);
            UNROLL for (int j = 0; j < 8; j++)
                UNROLL for (int i = 0; i < CHAINS; i++)
                    if (t + i < T) whole[i] = dot8(whole[i], w[j], words[j * T + t + i]);
            UNROLL for (int i = 0; i < CHAINS; i++)
                if (t + i < T) scale_tile(acc[0][t + i], whole[i], scales[t + i], factor);
        }
        codes += 512;
        factors += LANES;
        words += 8 * T;
        scales += T;
        sums += T;
    }
    close_span<1, T>(job, span, block, first, acc);
}

template <int T>
void tile_int4(const Product& job, int block, int first, const Span& span) {
    const int groups = job.matrix->groups, begin = span.begin;
    const Panel& panel = *job.panel;
    const int32_t* words = panel.words + (int64_t(first) * groups + begin * T) * 8;
    const float* scales = panel.scales + int64_t(first) * groups + begin * T;
    const int32_t* sums = panel.sums + int64_t(first) * groups + begin * T;
    const uint8_t* codes = job.matrix->codes + (int64_t(block) * groups + begin) * 256;
    const uint16_t* factors = job.matrix->scales + (int64_t(block) * groups + begin) * LANES;
    const uint8_t* zeros = job.matrix->zeros + int64_t(block) * groups * LANES;
    F acc[1][T];
    open_span<1, T>(span, acc);
    for (int g = begin; g < span.end; g++) {
        I w[8];
        UNROLL for (int j = 0; j < 4; j++) {
            const I two = load_int(codes + 64 * j);
            if (T <= 8) ask(codes + 64 * j + AHEAD / 2);
            w[j] = low_nibbles(two);
            w[j + 4] = high_nibbles(two);
        }
        const I zero = load_bytes(zeros + int64_t(g) * LANES);
        const F factor = load_half(factors);
        UNROLL for (int t = 0; t < T; t += CHAINS) {
            I whole[CHAINS];
            UNROLL for (int i = 0; i < CHAINS; i++)
                if (t + i < T) whole[i] = splat_int(0);
            UNROLL for (int j = 0; j < 8; j++)
                UNROLL for (int i = 0; i < CHAINS; i++)
                    if (t + i < T) whole[i] = dot4(whole[i], w[j], words[j * T + t + i]);
            UNROLL for (int i = 0; i < CHAINS; i++)
                if (t + i < T) {
                    whole[i] = add_product(times16(whole[i]), zero, sums[t + i]);
                    scale_tile(acc[0][t + i], whole[i], scales[t + i], factor);
                }
        }
        codes += 256;
        factors += LANES;
        words += 8 * T;
        scales += T;
        sums += T;
    }
    close_span<1, T>(job, span, block, first, acc);
}

// For many tokens: tiles of R blocks, so that each four bytes of a token serve R registers of
// weights, and R * T dot products are in flight. The codes of int4 come unpacked.
template <int R, int T, bool FOUR>
void tile_wide(const Product& job, int block, int first, const Span& span) {
    const int groups = job.matrix->groups, begin = span.begin;
    const Panel& panel = *job.panel;
    const int32_t* words = panel.words + (int64_t(first) * groups + begin * T) * 8;
    const float* scales = panel.scales + int64_t(first) * groups + begin * T;
    const int32_t* sums = panel.sums + int64_t(first) * groups + begin * T;
    const int64_t codes_apart = int64_t(FOUR ? SPAN : groups) * 512;
    const uint8_t* codes =
        FOUR ? span.codes : job.matrix->codes + (int64_t(block) * groups + begin) * 512;
    const int64_t side = (int64_t(block) * groups + begin) * LANES, side_apart = groups * LANES;
    const uint16_t* factors = job.matrix->scales + side;
    const uint8_t* zeros = FOUR ? job.matrix->zeros + side : nullptr;
    F acc[R][T];
    open_span<R, T>(span, acc);
    for (int g = begin; g < span.end; g++) {
        I whole[R][T];
        UNROLL for (int r = 0; r < R; r++) {
            const I zero = FOUR ? load_bytes(zeros + r * side_apart) : splat_int(0);
            UNROLL for (int t = 0; t < T; t++)
                whole[r][t] = !FOUR ? splat_int(OFFSET ? sums[t] : 0)
                                    : SIXTEENTHS ? add_product(splat_int(0), zero, sums[t])
                                                 : splat_int(0);
        }
        UNROLL for (int j = 0; j < 8; j++) {
            I w[R];
            UNROLL for (int r = 0; r < R; r++) {
                w[r] = load_int(codes + r * codes_apart + 64 * j);
                if (!FOUR) w[r] = weights8(w[r]);
            }
            UNROLL for (int t = 0; t < T; t++)
                UNROLL for (int r = 0; r < R; r++)
                    whole[r][t] = FOUR ? dot4(whole[r][t], w[r], words[j * T + t])
                                       : dot8(whole[r][t], w[r], words[j * T + t]);
        }
        UNROLL for (int r = 0; r < R; r++) {
            const F factor = load_half(factors + r * side_apart);
            UNROLL for (int t = 0; t < T; t++) {
                if (FOUR && !SIXTEENTHS) {
                    const I zero = load_bytes(zeros + r * side_apart);
                    whole[r][t] = add_product(times16(whole[r][t]), zero, sums[t]);
                }
                scale_tile(acc[r][t], whole[r][t], scales[t], factor);
            }
        }
        codes += 512;
        factors += LANES;
        zeros += FOUR ? LANES : 0;
        words += 8 * T;
        scales += T;
        sums += T;
    }
    close_span<R, T>(job, span, block, first, acc);
}

// The codes of int4, for groups [begin, end) of a block, as bytes: times 16 where SIXTEENTHS.
void unpack(const Matrix& matrix, int block, int begin, int end, uint8_t* out) {
    const uint8_t* codes = matrix.codes + (int64_t(block) * matrix.groups + begin) * 256;
    for (int g = begin; g < end; g++, codes += 256, out += 512)
        UNROLL for (int j = 0; j < 4; j++) {
            const I two = load_int(codes + 64 * j);
            store_int(out + 64 * j, SIXTEENTHS ? times16(low_nibbles(two)) : low_nibbles(two));
            store_int(out + 64 * j + 256,
                      SIXTEENTHS ? times16(high_nibbles(two)) : high_nibbles(two));
        }
}

using FloatTile = void (*)(const Product&, int block, int first);
using IntTile = void (*)(const Product&, int block, int first, const Span&);

// Tiles of 1 to N tokens, as a table.
template <class Tile, template <int> class Make, int N>
struct Tiles {
    Tile of[N + 1];
    constexpr Tiles() : of() { fill<N>(); }
    template <int T>
    constexpr void fill() {
        of[T] = Make<T>::tile;
        if constexpr (T > 1) fill<T - 1>();
    }
};

template <int T> struct MakeFloat { static constexpr FloatTile tile = tile_float<FLOAT_ROWS, T>; };
template <int T> struct MakeBfloat { static constexpr FloatTile tile = tile_bfloat<FLOAT_ROWS, T>; };
template <int T> struct MakeInt8 { static constexpr IntTile tile = tile_int8<T>; };
template <int T> struct MakeInt4 { static constexpr IntTile tile = tile_int4<T>; };
template <int T> struct MakeWide8 { static constexpr IntTile tile = tile_wide<WIDE_ROWS, T, false>; };
template <int T> struct MakeWide4 { static constexpr IntTile tile = tile_wide<WIDE_ROWS, T, true>; };

constexpr Tiles<FloatTile, MakeFloat, FLOAT_TOKENS> float_tiles;
constexpr Tiles<FloatTile, MakeBfloat, FLOAT_TOKENS> bfloat_tiles;
constexpr Tiles<IntTile, MakeInt8, INT_TOKENS> int8_tiles;
constexpr Tiles<IntTile, MakeInt4, INT_TOKENS> int4_tiles;
constexpr Tiles<IntTile, MakeWide8, WIDE_TOKENS> wide8_tiles;
constexpr Tiles<IntTile, MakeWide4, WIDE_TOKENS> wide4_tiles;

void float_product(const Product& job, int first_block, int end_block) {
    const FloatTile* tiles = job.matrix->kind == FLOAT32 ? float_tiles.of : bfloat_tiles.of;
    const int32_t* starts = job.panel->starts;
    for (int block = first_block; block < end_block; block += FLOAT_ROWS)
        for (int i = 0; i < job.panel->tiles; i++)
            tiles[starts[i + 1] - starts[i]](job, block, starts[i]);
}

// With one tile of tokens the weights stream past. With more, spans of a few blocks' groups stay in
// the first cache while some tiles pass by, and a tile's span while those blocks do.
void int_product(const Product& job, int first_block, int end_block) {
    const bool four = job.matrix->kind == INT4;
    const int32_t* starts = job.panel->starts;
    const int groups = job.matrix->groups, count = job.panel->tiles;
    if (count == 1) {
        const IntTile tile = (four ? int4_tiles.of : int8_tiles.of)[starts[1]];
        for (int block = first_block; block < end_block; block++)
            tile(job, block, 0, {0, groups, nullptr, 0, nullptr});
        return;
    }
    const IntTile* tiles = four ? wide4_tiles.of : wide8_tiles.of;
    constexpr int APART = TILES * WIDE_TOKENS * LANES;
    alignas(64) float stage[HEIGHT][APART];
    alignas(64) uint8_t codes[HEIGHT][SPAN * 512];  // of int4
    for (int low = first_block; low < end_block; low += HEIGHT) {
        const int high = low + HEIGHT < end_block ? low + HEIGHT : end_block;
        for (int from = 0; from < count; from += TILES) {
            const int to = from + TILES < count ? from + TILES : count;
            for (int g = 0; g < groups; g += SPAN) {
                const int end = g + SPAN < groups ? g + SPAN : groups;
                // rows are padded to 32: a tile of two blocks may begin at the last of `columns`
                const int whole = (high - low + WIDE_ROWS - 1) / WIDE_ROWS * WIDE_ROWS;
                for (int block = low; four && block < low + whole; block++)
                    unpack(*job.matrix, block, g, end, codes[block - low]);
                for (int i = from; i < to; i++)
                    for (int block = low; block < high; block += WIDE_ROWS)
                        tiles[starts[i + 1] - starts[i]](
                            job, block, starts[i],
                            {g, end, stage[block - low] + (i - from) * WIDE_TOKENS * LANES, APART,
                             codes[block - low]});
            }
        }
    }
}

// Some blocks of a product, for all tiles of tokens; blocks of padding alone are left out.
void product(const Product& job, int first_block, int blocks) {
    const int all = (job.columns + LANES - 1) / LANES;
    const int end = first_block + blocks < all ? first_block + blocks : all;
    if (job.matrix->kind <= BFLOAT16) return float_product(job, first_block, end);
    int_product(job, first_block, end);
}

}  // namespace
