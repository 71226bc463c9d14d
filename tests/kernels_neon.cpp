// Every instruction set against the plain one, bit by bit, through the functions that Python calls.
// Prints which sets there are and a digest of each part's results, which are to be the same on every
// machine; ends with 1 where a bit differs.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "decoder.h"

using namespace puna;

extern "C" {
const char* puna_isa_name(int isa);
int puna_multiply(int isa, int threads, const Matrix* matrix, const float* x, int tokens, float* y);
void puna_read_rows(const Matrix* matrix, const int32_t* rows, int count, float* out);
void puna_swiglu(int isa, const float* gate, const float* up, int wide, float* out);
void puna_norm(int isa, const float* x, const float* weight, int wide, float eps, float* out);
void puna_attend(int isa, const Queries* queries);
Decoder* puna_decoder_new(int isa, const Config* config);
void puna_decoder_free(Decoder* decoder);
int puna_decoder_forward(Decoder* decoder, const Batch* batch, int hidden, float* out);
void puna_decoder_copy_block(Decoder* decoder, int source, int target);
int puna_decoder_set_adapter(Decoder* decoder, int slot, const LowRank* places);
}

namespace {

using Floats = std::vector<float>;

constexpr int ISAS = 8;  // more than there are
const char* const KINDS[] = {"float32", "bfloat16", "int8", "int4"};
std::vector<int> others;  // numbers of the instruction sets
int plain = -1, faults = 0;

// Random numbers that are the same everywhere.
struct Noise {
    uint64_t state;
    uint32_t bits() {
        state = state * 6364136223846793005u + 1442695040888963407u;
        return uint32_t(state >> 33) * 2654435761u ^ uint32_t(state >> 40);
    }
    int below(int n) { return int(bits() % uint32_t(n)); }
    float unit() { return float(int32_t(bits()) >> 8) * 0x1p-23f; }  // [-1, 1)
    Floats floats(size_t count, float size = 1.0f) {
        Floats out(count);
        for (float& x : out) x = unit() * size;
        return out;
    }
};

int up(int n, int to) { return (n + to - 1) / to * to; }

struct Digest {
    uint64_t value = 14695981039346656037u;
    void add(const Floats& results) {
        for (float x : results) {
            uint32_t bits;
            std::memcpy(&bits, &x, 4);
            value = (value ^ bits) * 1099511628211u;
        }
    }
    void print(const std::string& what) const {
        std::printf("digest %s %016llx\n", what.c_str(), (unsigned long long)value);
    }
};

void compare(int isa, const std::string& what, const Floats& found, const Floats& expected) {
    if (std::memcmp(found.data(), expected.data(), 4 * expected.size()) == 0) return;
    size_t at = 0;
    while (std::memcmp(&found[at], &expected[at], 4) == 0) at++;
    std::printf("fault %s %s: [%zu] is %a, expected %a\n", puna_isa_name(isa), what.c_str(), at,
                found[at], expected[at]);
    faults++;
}

// What is not a number, or all zero, compares well and shows nothing.
void sound(const std::string& what, const Floats& results) {
    bool finite = true, any = false;
    for (float x : results) {
        finite = finite && std::isfinite(x);
        any = any || x != 0;
    }
    if (finite && any) return;
    std::printf("fault %s: the results are no test\n", what.c_str());
    faults++;
}

struct Weights {
    std::vector<uint8_t> codes, zeros;
    std::vector<uint16_t> scales;
    Matrix record;

    Weights(Noise& noise, int kind, int rows, int cols) {
        const int blocks = up(rows, 32) / 16, groups = up(cols, 32) / 32, inputs = 32 * groups;
        const int per_group[] = {2048, 1024, 512, 256};
        codes.resize(size_t(blocks) * groups * per_group[kind]);
        if (kind <= BFLOAT16) {
            for (int row = 0; row < rows; row++)
                for (int k = 0; k < inputs; k++) put(kind, row, k, inputs, noise.unit() * 0.2f);
        } else {
            for (uint8_t& code : codes)
                code = uint8_t(kind == INT8 ? 1 + noise.below(255) : noise.below(256));
            scales.resize(size_t(blocks) * groups * 16);
            for (size_t i = 0; i < scales.size(); i++)
                if (int(i / 16 / groups * 16 + i % 16) < rows) scales[i] = scale(noise, kind);
            zeros.resize(kind == INT4 ? scales.size() : 0);
            for (uint8_t& zero : zeros) zero = uint8_t(noise.below(241));
        }
        record = {kind, rows, cols, blocks, groups, codes.data(), scales.data(), zeros.data()};
    }

    // Halves near 2^-8 or 2^-5; one of sixteen is below the smallest normal one.
    static uint16_t scale(Noise& noise, int kind) {
        const int exponent = noise.below(16) ? (kind == INT8 ? 7 : 10) : 0;
        return uint16_t(exponent << 10 | noise.below(1024));
    }

    void put(int kind, int row, int k, int inputs, float value) {
        const size_t block = size_t(row / 16) * inputs, lane = row % 16;
        if (kind == FLOAT32) {
            std::memcpy(codes.data() + 4 * ((block + k) * 16 + lane), &value, 4);
        } else {
            uint32_t bits;
            std::memcpy(&bits, &value, 4);
            const uint16_t upper = uint16_t(bits >> 16);
            const size_t at = block * 16 + (k / 2 * 16 + lane) * 2 + k % 2;
            std::memcpy(codes.data() + 2 * at, &upper, 2);
        }
    }
};

// Activations with groups of zeros, of large and of tiny numbers among the others.
Floats activations(Noise& noise, int tokens, int cols) {
    Floats x = noise.floats(size_t(tokens) * cols, 3.0f);
    for (size_t i = 0; i < x.size(); i++) {
        const size_t group = i / 32 % 11;
        if (group == 3) x[i] = i % 2 ? 0.0f : -0.0f;
        if (group == 5) x[i] *= 1e15f;
        if (group == 7) x[i] = i % 3 ? 1e-40f : 0.0f;
    }
    return x;
}

void products(int kind) {
    const int sizes[][2] = {{40, 96}, {33, 50}, {128, 320}, {16, 31}, {1, 1}, {70, 1100}};
    Noise noise{uint64_t(kind) + 1};
    Digest digest;
    for (const auto& size : sizes) {
        const int rows = size[0], cols = size[1];
        const Weights weights(noise, kind, rows, cols);
        for (int tokens : {1, 2, 3, 4, 5, 6, 7, 8, 11, 16, 17, 35, 75}) {
            const std::string what = std::string("product ") + KINDS[kind] + " " +
                                     std::to_string(rows) + "x" + std::to_string(cols) + " of " +
                                     std::to_string(tokens);
            const Floats x = activations(noise, tokens, cols);
            Floats expected(size_t(tokens) * rows), found(expected.size());
            puna_multiply(plain, 1, &weights.record, x.data(), tokens, expected.data());
            digest.add(expected);
            if (cols > 1) sound(what, expected);
            for (int isa : others)
                for (int threads : {1, 3}) {
                    puna_multiply(isa, threads, &weights.record, x.data(), tokens, found.data());
                    compare(isa, what, found, expected);
                }
        }
        Floats row(cols);
        const int32_t last = rows - 1;
        puna_read_rows(&weights.record, &last, 1, row.data());
        digest.add(row);
    }
    digest.print(std::string("product ") + KINDS[kind]);
}

// The largest codes times the largest activations: sums that 16 bits would not hold.
void extremes(int kind) {
    Noise noise{77};
    Weights weights(noise, kind, 32, 64);
    for (uint8_t& code : weights.codes)
        code = kind == INT8 ? (noise.below(2) ? 255 : 1) : (noise.below(2) ? 255 : 0);
    for (uint16_t& scale : weights.scales) scale = 0x3c00;  // 1
    for (uint8_t& zero : weights.zeros) zero = 240;
    for (int sign : {1, -1, 0}) {  // 0: of both signs
        Floats x(3 * 64), w(32 * 64), expected(3 * 32, 0.0f), found(expected.size());
        for (float& value : x) value = 127.0f * float(sign ? sign : noise.below(2) ? 1 : -1);
        for (int32_t row = 0; row < 32; row++)
            puna_read_rows(&weights.record, &row, 1, w.data() + 64 * row);
        for (int i = 0; i < 3 * 32 * 64; i++)  // whole numbers: exact in any order
            expected[i / 64] += x[i / 64 / 32 * 64 + i % 64] * w[i / 64 % 32 * 64 + i % 64];
        for (int isa : others) {
            puna_multiply(isa, 1, &weights.record, x.data(), 3, found.data());
            compare(isa, std::string("extremes ") + KINDS[kind], found, expected);
        }
    }
}

void functions() {
    Noise noise{5};
    Digest digest;
    const float edges[] = {0, -0.0f, 88, -88, 87.3f, -87.3f, 1e4f, -1e4f, 1e-40f, -1e-40f, 1, -1};
    Floats gate = noise.floats(1008, 20.0f), weight = noise.floats(1008);
    std::memcpy(gate.data() + 496, edges, sizeof(edges));
    Floats infinite = gate;
    infinite[3] = INFINITY;
    infinite[40] = -INFINITY;
    Floats silu(1008), norm(1008), found(1008);
    puna_swiglu(plain, infinite.data(), weight.data(), 1008, silu.data());
    puna_norm(plain, gate.data(), weight.data(), 1008, 1e-5f, norm.data());
    digest.add(silu);
    digest.add(norm);
    sound("norm", norm);
    for (int isa : others) {
        puna_swiglu(isa, infinite.data(), weight.data(), 1008, found.data());
        compare(isa, "swiglu", found, silu);
        puna_norm(isa, gate.data(), weight.data(), 1008, 1e-5f, found.data());
        compare(isa, "norm", found, norm);
    }
    digest.print("functions");
}

// Attention of `count` queries over a cache of noise.
Floats attended(int isa, int count, int head_dim, int window, bool half) {
    Noise noise{uint64_t(head_dim)};
    const int wide = up(head_dim, 16), per_block = 16 * (head_dim + wide);
    std::vector<uint16_t> halves(size_t(8) * per_block);
    for (uint16_t& value : halves)  // of either sign, between 2^-15 and 2
        value = uint16_t(noise.below(2) << 15 | noise.below(16) << 10 | noise.below(1024));
    const Floats whole = noise.floats(halves.size()), q = noise.floats(size_t(8) * head_dim);
    const int32_t blocks[] = {6, 1, 7, 0, 2, 5}, last[] = {90, 0, 5, 15, 16, 40, 41, 41};
    Floats out(size_t(count) * wide), scores(8 * 96);
    Queries job{};
    job.count = count;
    for (int n = 0; n < count; n++) {
        job.q[n] = q.data() + n * head_dim;
        job.out[n] = out.data() + n * wide;
        job.last[n] = last[n];
    }
    job.head_dim = head_dim;
    job.wide = wide;
    job.window = window;
    job.half_cache = half;
    job.cache = half ? (const uint8_t*)halves.data() : (const uint8_t*)whole.data();
    job.block_bytes = per_block * (half ? 2 : 4);
    job.blocks = blocks;
    job.scores = scores.data();
    job.score_stride = 96;
    puna_attend(isa, &job);
    return out;
}

void attention() {
    Digest digest;
    for (int head_dim : {2, 48, 64, 80, 128})
        for (int window : {0, 1, 20})
            for (bool half : {true, false})
                for (int count = 1; count <= 8; count++) {
                    const Floats expected = attended(plain, count, head_dim, window, half);
                    const std::string what = "attention " + std::to_string(head_dim) + " of " +
                                             std::to_string(count) + (half ? " half" : " float");
                    digest.add(expected);
                    sound(what, expected);
                    for (int isa : others)
                        compare(isa, what, attended(isa, count, head_dim, window, half), expected);
                }
    digest.print("attention");
}

struct Shape {
    int dim, heads, kv_heads, head_dim, ffn, vocab, window;
};

// A model of two layers and its cache; several sequences, an adapter, a copied block.
struct Model {
    static constexpr int LAYERS = 2, BLOCKS = 12, CONTEXT = 64, RANK = 3;
    const Shape shape;
    std::vector<std::unique_ptr<Weights>> kept;
    std::vector<Matrix> matrices;
    std::vector<Floats> norms, pairs;
    std::vector<const float*> norm_pointers;
    std::vector<LowRank> adapter;
    std::vector<uint8_t> cache;
    Floats rope, results;
    Config config;

    Matrix matrix(Noise& noise, int kind, int rows, int cols) {
        kept.push_back(std::make_unique<Weights>(noise, kind, rows, cols));
        return kept.back()->record;
    }

    void adapt(Noise& noise, int in, int out) {
        pairs.push_back(noise.floats(size_t(RANK) * up(in, 32), 0.2f));
        pairs.push_back(Floats(size_t(RANK) * up(out, 16)));
        for (int i = 0; i < RANK * out; i++)
            pairs.back()[i / out * up(out, 16) + i % out] = noise.unit() * 0.2f;
        adapter.push_back({RANK, pairs[pairs.size() - 2].data(), pairs.back().data()});
    }

    Model(int isa, int threads, const Shape& s, int kind) : shape(s) {
        Noise noise{uint64_t(100 + kind)};
        const int edge = kind == INT4 ? int(INT8) : kind;
        const int q = s.heads * s.head_dim, kv = s.kv_heads * s.head_dim;
        matrices.push_back(matrix(noise, edge, s.vocab, s.dim));
        matrices.push_back(matrix(noise, edge, s.vocab, s.dim));
        for (int layer = 0; layer < LAYERS; layer++) {
            matrices.push_back(matrix(noise, kind, q + 2 * kv, s.dim));
            matrices.push_back(matrix(noise, kind, s.dim, q));
            matrices.push_back(matrix(noise, kind, 2 * up(s.ffn, 32), s.dim));
            matrices.push_back(matrix(noise, kind, s.dim, s.ffn));
            const int places[][2] = {{s.dim, q},     {s.dim, kv},  {s.dim, kv},   {q, s.dim},
                                     {s.dim, s.ffn}, {s.ffn, s.dim}, {s.dim, s.ffn}};
            for (const auto& place : places) adapt(noise, place[0], place[1]);
        }
        for (int i = 0; i <= 2 * LAYERS; i++) {
            norms.push_back(noise.floats(s.dim));
            norms.back().resize(up(s.dim, 32));
            norm_pointers.push_back(norms.back().data());
        }
        rope = noise.floats(size_t(CONTEXT) * s.head_dim);
        cache.resize(size_t(LAYERS) * BLOCKS * s.kv_heads * 16 * (s.head_dim + up(s.head_dim, 16)) *
                     (kind == FLOAT32 ? 4 : 2));
        config = {s.dim,         LAYERS,        s.heads,       s.kv_heads, s.head_dim,
                  s.ffn,         s.vocab,       CONTEXT,       s.window,   kind,
                  BLOCKS,        threads,       1e-5f,         rope.data(), &matrices[0],
                  &matrices[1],  &matrices[2],  norm_pointers.data(), cache.data()};
        Decoder* decoder = puna_decoder_new(isa, &config);
        puna_decoder_set_adapter(decoder, 0, adapter.data());
        run(decoder, {23, 5, 1}, {0, 0, 0}, {23, 2, 1}, false);
        run(decoder, {1, 9, 17}, {23, 5, 1}, {1, 4, 17}, false);
        puna_decoder_copy_block(decoder, 4, 11);
        run(decoder, {1, 1, 1}, {24, 14, 18}, {1, 1, 0}, true);
        run(decoder, {30, 1, 1}, {25, 15, 19}, {0, 1, 1}, false);
        puna_decoder_free(decoder);
    }

    // One call with three sequences; the second has the adapter and, once long, a copied block.
    void run(Decoder* decoder, std::vector<int32_t> lengths, std::vector<int32_t> starts,
             std::vector<int32_t> wanted, bool hidden) {
        std::vector<int32_t> tokens;
        int count = 0;
        for (int row = 0; row < 3; row++) {
            count += wanted[row];
            for (int i = 0; i < lengths[row]; i++)
                tokens.push_back((31 * row + 7 * (starts[row] + i)) % shape.vocab);
        }
        const int32_t adapters[] = {-1, 0, -1}, counts[] = {4, 2, 2};
        const int32_t blocks[] = {9, 3, 10, 1, starts[1] < 14 ? 4 : 11, 2, 0, 8};
        const Batch batch{3,       tokens.data(), lengths.data(), starts.data(), wanted.data(),
                          adapters, blocks,       counts};
        Floats out(size_t(count) * (hidden ? shape.dim : shape.vocab));
        if (puna_decoder_forward(decoder, &batch, hidden, out.data())) faults++;
        results.insert(results.end(), out.begin(), out.end());
    }
};

void decoders(int kind) {
    const Shape shapes[] = {{64, 4, 2, 16, 96, 97, 0}, {60, 10, 1, 6, 90, 50, 5},
                            {160, 2, 1, 80, 100, 70, 0}};
    Digest digest;
    for (const Shape& shape : shapes) {
        const std::string what =
            std::string("decoder ") + KINDS[kind] + " of " + std::to_string(shape.dim);
        const Floats expected = Model(plain, 1, shape, kind).results;
        digest.add(expected);
        sound(what, expected);
        for (int isa : others)
            for (int threads : {1, 3})
                compare(isa, what, Model(isa, threads, shape, kind).results, expected);
    }
    digest.print(std::string("decoder ") + KINDS[kind]);
}

}  // namespace

int main() {
    for (int isa = 0; isa < ISAS; isa++) {
        const char* name = puna_isa_name(isa);
        if (!name) continue;
        std::printf("isa %s\n", name);
        others.push_back(isa);
        if (!std::strcmp(name, "plain")) plain = isa;
    }
    for (int kind = FLOAT32; kind <= INT4; kind++) products(kind);
    extremes(INT8);
    extremes(INT4);
    functions();
    attention();
    for (int kind = FLOAT32; kind <= INT4; kind++) decoders(kind);
    return faults ? 1 : 0;
}
