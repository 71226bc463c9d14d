#include "pool.h"

#include <pthread.h>

#include <chrono>
#include <thread>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace puna {

namespace {

constexpr uint64_t FIELD = 20, MASK = (uint64_t(1) << FIELD) - 1;
constexpr auto PATIENCE = std::chrono::microseconds(40);  // about what waking a thread costs
constexpr int MOST_THREADS = 256;

void rest() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Waits a little for `ready`; false if it was in vain.
template <class Ready>
bool spin(const Ready& ready) {
    const auto end = std::chrono::steady_clock::now() + PATIENCE;
    do {
        for (int i = 0; i < 32; i++) {
            if (ready()) return true;
            rest();
        }
    } while (std::chrono::steady_clock::now() < end);
    return ready();
}

Pool* pools[MOST_THREADS + 1];
std::mutex* pools_lock = new std::mutex;

// The child of a fork has none of the parent's threads: what they held is left as it is.
void forget_pools() {
    for (Pool*& one : pools) one = nullptr;
    pools_lock = new std::mutex;
}

}  // namespace

Pool::Pool(int threads) : threads_(threads) {
    for (int i = 1; i < threads; i++) std::thread([this, i] { work(i); }).detach();
}

void Pool::start(Call call, const void* body, int chunks) {
    if (threads_ == 1 || chunks == 1) {
        for (int i = 0; i < chunks; i++) call(body, i, 0);
        return;
    }
    std::lock_guard<std::mutex> only(callers_);
    call_ = call;
    body_ = body;
    done_.store(0, std::memory_order_relaxed);
    const uint64_t number = (ticket_.load(std::memory_order_relaxed) >> (2 * FIELD)) + 1;
    ticket_.store(number << (2 * FIELD) | uint64_t(chunks) << FIELD, std::memory_order_seq_cst);
    if (sleepers_.load(std::memory_order_seq_cst) > 0) {
        std::lock_guard<std::mutex> lock(sleep_);
        wake_workers_.notify_all();
    }
    while (take(0)) {}
    const auto over = [&] { return done_.load(std::memory_order_acquire) == chunks; };
    if (spin(over)) return;
    std::unique_lock<std::mutex> lock(sleep_);
    caller_sleeps_.store(true, std::memory_order_seq_cst);
    wake_caller_.wait(lock, [&] { return done_.load(std::memory_order_seq_cst) == chunks; });
    caller_sleeps_.store(false, std::memory_order_relaxed);
}

// Does one chunk of the present operation; false if there is none left.
bool Pool::take(int thread) {
    uint64_t now = ticket_.load(std::memory_order_relaxed);
    if ((now & MASK) >= (now >> FIELD & MASK)) return false;
    now = ticket_.fetch_add(1, std::memory_order_acq_rel);
    const int chunk = int(now & MASK), chunks = int(now >> FIELD & MASK);
    if (chunk >= chunks) return false;
    call_(body_, chunk, thread);
    if (done_.fetch_add(1, std::memory_order_seq_cst) + 1 == chunks &&
        caller_sleeps_.load(std::memory_order_seq_cst)) {
        std::lock_guard<std::mutex> lock(sleep_);
        wake_caller_.notify_one();
    }
    return true;
}

void Pool::work(int thread) {
    for (;;) {
        const uint64_t seen = ticket_.load(std::memory_order_acquire) >> (2 * FIELD);
        while (take(thread)) {}
        await_work(seen);
    }
}

void Pool::await_work(uint64_t seen) {
    const auto fresh = [&] {
        return ticket_.load(std::memory_order_seq_cst) >> (2 * FIELD) != seen;
    };
    if (spin(fresh)) return;
    std::unique_lock<std::mutex> lock(sleep_);
    sleepers_.fetch_add(1, std::memory_order_seq_cst);
    wake_workers_.wait(lock, fresh);
    sleepers_.fetch_sub(1, std::memory_order_relaxed);
}

Pool& pool(int threads) {
    static const int registered = pthread_atfork(nullptr, nullptr, forget_pools);
    (void)registered;
    threads = threads < 1 ? 1 : threads > MOST_THREADS ? MOST_THREADS : threads;
    std::lock_guard<std::mutex> lock(*pools_lock);
    if (!pools[threads]) pools[threads] = new Pool(threads);
    return *pools[threads];
}

}  // namespace puna
