// What Python calls, by ctypes. Sizes and ids are checked there, before a pointer is handed over.
#include <new>

#include "decoder.h"

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

using namespace puna;

namespace {

// Whether an aarch64 has the dotprod extension, as its kernel says.
bool dot_products() {
#if defined(__aarch64__) && defined(__linux__)
    return getauxval(AT_HWCAP) >> 20 & 1;  // HWCAP_ASIMDDP
#elif defined(__aarch64__) && defined(__APPLE__)
    int has = 0;
    size_t size = sizeof(has);
    return sysctlbyname("hw.optional.arm.FEAT_DotProd", &has, &size, nullptr, 0) == 0 && has;
#else
    return false;
#endif
}

// Instruction sets from the best to the plainest; null where the machine or the build has it not.
const Kernels* kernels_of(int isa) {
    switch (isa) {
#if defined(__x86_64__)
        case 0:
            return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                           __builtin_cpu_supports("avx512vl") &&
                           __builtin_cpu_supports("avx512dq") &&
                           __builtin_cpu_supports("avx512vnni")
                       ? avx512_kernels()
                       : nullptr;
        case 1:
            return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")
                       ? avx2_kernels()
                       : nullptr;
#endif
        case 2: return dot_products() ? dotprod_kernels() : nullptr;
        case 3: return neon_kernels();
        case 4: return plain_kernels();
        default: return nullptr;
    }
}

// 0, or 1 when memory has run out: no exception may cross into Python.
template <class Body>
int guarded(const Body& body) {
    try {
        body();
        return 0;
    } catch (const std::bad_alloc&) {
        return 1;
    }
}

}  // namespace

extern "C" {

int puna_version() { return 3; }

const char* puna_isa_name(int isa) {
    const Kernels* kernels = kernels_of(isa);
    return kernels ? kernels->name : nullptr;
}

// y [tokens][columns] = x [tokens][cols of the matrix] times the matrix, for `columns` of its rows
int puna_multiply(int isa, int threads, const Matrix* matrix, const float* x, int tokens, float* y) {
    return guarded([&] {
        const Kernels& kernels = *kernels_of(isa);
        Packed packed;
        packed.pack(kernels, pool(threads), matrix->kind, x, matrix->cols, tokens, matrix->cols);
        multiply(kernels, pool(threads), *matrix, packed.panel(), y, matrix->rows, matrix->rows,
                 false);
    });
}

void puna_read_rows(const Matrix* matrix, const int32_t* rows, int count, float* out) {
    for (int i = 0; i < count; i++) read_row(*matrix, rows[i], out + int64_t(i) * matrix->cols);
}

void puna_swiglu(int isa, const float* gate, const float* up, int wide, float* out) {
    kernels_of(isa)->swiglu(gate, up, wide, out);
}

void puna_norm(int isa, const float* x, const float* weight, int wide, float eps, float* out) {
    kernels_of(isa)->norm(x, weight, wide, wide, eps, out);
}

void puna_attend(int isa, const Queries* queries) { kernels_of(isa)->attend(*queries); }

Decoder* puna_decoder_new(int isa, const Config* config) {
    return new (std::nothrow) Decoder(*config, kernels_of(isa));
}

void puna_decoder_free(Decoder* decoder) { delete decoder; }

int puna_decoder_forward(Decoder* decoder, const Batch* batch, int hidden, float* out) {
    return guarded([&] { decoder->forward(*batch, hidden != 0, out); });
}

void puna_decoder_copy_block(Decoder* decoder, int source, int target) {
    decoder->copy_block(source, target);
}

int puna_decoder_set_adapter(Decoder* decoder, int slot, const LowRank* places) {
    return guarded([&] { decoder->set_adapter(slot, places); });
}

}  // extern "C"
