// Threads that share the chunks of one operation after another.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>

namespace puna {

// An operation is over when its chunks are done, not when all threads have come by: a thread that
// the kernel took off its core holds up only the chunk it is in. Who has nothing to do spins
// briefly, then sleeps, so that another process gets the core.
class Pool {
public:
    explicit Pool(int threads);

    int threads() const { return threads_; }

    // body(chunk, thread) for every chunk; returns when all are done. One caller at a time: others
    // wait.
    template <class Body>
    void run(int chunks, const Body& body) {
        if (chunks <= 0) return;
        start([](const void* it, int chunk, int thread) { (*(const Body*)it)(chunk, thread); },
              &body, chunks);
    }

private:
    using Call = void (*)(const void* body, int chunk, int thread);

    void start(Call call, const void* body, int chunks);
    bool take(int thread);
    void work(int thread);
    void await_work(uint64_t seen);

    const int threads_;
    std::mutex callers_;
    Call call_ = nullptr;
    const void* body_ = nullptr;
    // number of the operation | its chunks (20 bits) | the next chunk (20 bits): one word, so that
    // a thread that comes late never mixes two operations
    alignas(64) std::atomic<uint64_t> ticket_{0};
    alignas(64) std::atomic<int> done_{0};
    alignas(64) std::mutex sleep_;
    std::condition_variable wake_workers_, wake_caller_;
    std::atomic<int> sleepers_{0};
    std::atomic<bool> caller_sleeps_{false};
};

// The pool of so many threads, made when first asked for and again in a forked child.
Pool& pool(int threads);

}  // namespace puna
