// Attention of a few queries over the blocks of one sequence. What happens to a query depends on
// its own keys in their order and on nothing else: the tile only shares loads.
#pragma once

namespace {

template <bool HALF>
inline F load_cached(const uint8_t* p, int64_t i) {
    return HALF ? load_half((const uint16_t*)p + i) : load((const float*)p + i);
}

// scores[n][key] for the keys of B blocks from `first` on, also those a query may not see.
template <int N, int B, bool HALF>
inline void score_blocks(const Queries& job, int first) {
    const uint8_t* keys[B];
    F acc[B][N];
    UNROLL for (int b = 0; b < B; b++) {
        keys[b] = job.cache + job.blocks[first + b] * job.block_bytes;
        UNROLL for (int n = 0; n < N; n++) acc[b][n] = splat(0);
    }
    const float* q[N];
    UNROLL for (int n = 0; n < N; n++) q[n] = job.q[n];
    for (int d = 0; d < job.head_dim; d++) {
        F key[B];
        UNROLL for (int b = 0; b < B; b++)
            key[b] = load_cached<HALF>(keys[b], int64_t(d) * LANES);
        UNROLL for (int n = 0; n < N; n++) {
            const F value = splat(q[n][d]);
            UNROLL for (int b = 0; b < B; b++) acc[b][n] = fma(value, key[b], acc[b][n]);
        }
    }
    UNROLL for (int n = 0; n < N; n++)
        UNROLL for (int b = 0; b < B; b++)
            store(job.scores + n * job.score_stride + (first + b) * LANES, acc[b][n]);
}

// The same for the blocks [low, high].
template <int N, bool HALF>
void score(const Queries& job, int low, int high) {
    int b = low;
    for (; b + SCORE_BLOCKS <= high + 1; b += SCORE_BLOCKS)
        score_blocks<N, SCORE_BLOCKS, HALF>(job, b);
    for (; b <= high; b++) score_blocks<N, 1, HALF>(job, b);
}

inline int first_key(const Queries& job, int n) {
    const int back = job.last[n] - job.window + 1;
    return job.window && back > 0 ? back : 0;
}

// Scores become exp(score - largest); returns 1 / their sum.
float soften(const Queries& job, int n) {
    float* scores = job.scores + n * job.score_stride;
    const int first = first_key(job, n), last = job.last[n];
    const int low = first / LANES * LANES, high = (last / LANES + 1) * LANES;
    for (int key = low; key < first; key++) scores[key] = -__builtin_inff();
    for (int key = last + 1; key < high; key++) scores[key] = -__builtin_inff();
    F top = load(scores + low);
    for (int key = low + LANES; key < high; key += LANES) top = largest(top, load(scores + key));
    const F peak = splat(largest_lane(top));
    F total = splat(0);
    for (int key = low; key < high; key += LANES) {
        const F p = exponential(sub(load(scores + key), peak));
        store(scores + key, p);
        total = add(total, p);
    }
    return 1.0f / sum(total);
}

// out[n] += p[n][key] * V[key] for the keys of [begin, end), D vectors of V at a time.
template <int N, int D, bool HALF>
void mix_columns(const Queries& job, const int* which, int begin, int end, int column) {
    F acc[N][D];
    UNROLL for (int n = 0; n < N; n++)
        UNROLL for (int d = 0; d < D; d++)
            acc[n][d] = load(job.out[which[n]] + column + d * LANES);
    const int64_t keys_bytes = int64_t(job.head_dim) * LANES * (HALF ? 2 : 4);
    const float* p[N];
    UNROLL for (int n = 0; n < N; n++) p[n] = job.scores + which[n] * job.score_stride;
    for (int key = begin; key < end;) {
        const uint8_t* values =
            job.cache + job.blocks[key / LANES] * job.block_bytes + keys_bytes;
        const int next = (key / LANES + 1) * LANES, stop = next < end ? next : end;
        int64_t row = int64_t(key % LANES) * job.wide + column;
        for (; key < stop; key++, row += job.wide) {
            F value[D];
            UNROLL for (int d = 0; d < D; d++)
                value[d] = load_cached<HALF>(values, row + d * LANES);
            UNROLL for (int n = 0; n < N; n++) {
                const F part = splat(p[n][key]);
                UNROLL for (int d = 0; d < D; d++) acc[n][d] = fma(part, value[d], acc[n][d]);
            }
        }
    }
    UNROLL for (int n = 0; n < N; n++)
        UNROLL for (int d = 0; d < D; d++)
            store(job.out[which[n]] + column + d * LANES, acc[n][d]);
}

template <int N, bool HALF>
void mix(const Queries& job, const int* which, int begin, int end) {
    constexpr int D = N <= 4 ? 4 : 2;
    if (begin >= end) return;
    int column = 0;
    for (; column + D * LANES <= job.wide; column += D * LANES)
        mix_columns<N, D, HALF>(job, which, begin, end, column);
    for (; column < job.wide; column += LANES)
        mix_columns<N, 1, HALF>(job, which, begin, end, column);
}

template <int N, bool HALF>
void attend_tile(const Queries& job) {
    int low = first_key(job, 0), high = job.last[0];  // of all queries
    int begin = low, end = high + 1;                  // keys that all queries see
    for (int n = 1; n < N; n++) {
        const int first = first_key(job, n), last = job.last[n];
        low = first < low ? first : low;
        high = last > high ? last : high;
        begin = first > begin ? first : begin;
        end = last + 1 < end ? last + 1 : end;
    }
    if (end < begin) end = begin;  // queries far apart under a window share nothing
    score<N, HALF>(job, low / LANES, high / LANES);
    int all[N];
    float scale[N];
    for (int n = 0; n < N; n++) {
        all[n] = n;
        scale[n] = soften(job, n);
        for (int i = 0; i < job.wide; i += LANES) store(job.out[n] + i, splat(0));
        const int own = job.last[n] + 1;
        mix<1, HALF>(job, &n, first_key(job, n), begin < own ? begin : own);
    }
    mix<N, HALF>(job, all, begin, end);
    for (int n = 0; n < N; n++) {
        mix<1, HALF>(job, &n, end, job.last[n] + 1);
        for (int i = 0; i < job.wide; i += LANES)
            store(job.out[n] + i, mul(load(job.out[n] + i), splat(scale[n])));
    }
}

template <bool HALF>
void attend_counted(const Queries& job) {
    switch (job.count) {
        case 1: return attend_tile<1, HALF>(job);
        case 2: return attend_tile<2, HALF>(job);
        case 3: return attend_tile<3, HALF>(job);
        case 4: return attend_tile<4, HALF>(job);
        case 5: return attend_tile<5, HALF>(job);
        case 6: return attend_tile<6, HALF>(job);
        case 7: return attend_tile<7, HALF>(job);
        case 8: return attend_tile<8, HALF>(job);
    }
}

void attend(const Queries& job) {
    if (job.half_cache) return attend_counted<true>(job);
    return attend_counted<false>(job);
}

}  // namespace
