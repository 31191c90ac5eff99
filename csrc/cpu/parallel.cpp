#include "cpu/parallel.h"

#include <dlfcn.h>
#include <pthread.h>

#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <new>
#include <thread>
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace fastconv {
namespace {

// The calling thread's floating-point mode (rounding, flushing of denormal numbers), which helpers
// take over: else which thread runs a task would show in its result.
#if defined(__SSE__)
unsigned floating_point_mode() { return _mm_getcsr(); }
void set_floating_point_mode(unsigned mode) { _mm_setcsr(mode); }
#else
unsigned floating_point_mode() { return 0; }
void set_floating_point_mode(unsigned) {}
#endif

// One parallel region. Lives on the caller's stack; the pool counts who still looks at it.
struct Region {
  int64_t tasks;
  TaskFunction function;
  void* context;
  std::atomic<int64_t> next{0};
  std::atomic<bool> failed{false};
  std::exception_ptr error;
  std::mutex error_mutex;
  unsigned mode = floating_point_mode();

  Region(int64_t tasks, TaskFunction function, void* context)
      : tasks(tasks), function(function), context(context) {}

  void work() {
    for (int64_t t; !failed && (t = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) {
      try {
        function(context, t);
      } catch (...) {
        std::lock_guard<std::mutex> lock(error_mutex);
        if (!error) error = std::current_exception();
        failed = true;
      }
    }
  }
};

// The OpenMP runtime of this process, torch's, if there is one. Its threads wait for work in a loop
// that keeps their cores busy for a while: a pool of our own beside them would get half of the
// time. GOMP_parallel(function, data, threads, flags) is what GCC's `#pragma omp parallel` calls;
// the runtimes of LLVM and Intel have it too. A forked child must not use it: its threads are gone.
using OpenMpParallel = void (*)(void (*)(void*), void*, unsigned, unsigned);
std::atomic<bool> forked{false};
OpenMpParallel openmp_parallel() {
  static const auto found = reinterpret_cast<OpenMpParallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
  return forked ? nullptr : found;
}

// For processes without OpenMP, and forked children.
class ThreadPool {
 public:
  void run(Region& region, int helpers) {
    std::unique_lock<std::mutex> lock(mutex_);
    while (threads_ < helpers) {
      std::thread(&ThreadPool::serve, this).detach();
      ++threads_;
    }
    region_ = &region;
    wanted_ = helpers;
    ++generation_;
    lock.unlock();
    start_.notify_all();
    region.work();
    lock.lock();
    wanted_ = 0;  // a helper that has not woken yet is no longer needed
    done_.wait(lock, [this] { return active_ == 0; });
    region_ = nullptr;
  }

  std::mutex owner;  // held by the caller whose region is running

 private:
  void serve() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (uint64_t seen = 0;;) {
      start_.wait(lock, [&] { return wanted_ > 0 && generation_ != seen; });
      seen = generation_;
      --wanted_;
      ++active_;
      Region* region = region_;
      lock.unlock();
      set_floating_point_mode(region->mode);
      region->work();
      lock.lock();
      if (--active_ == 0) done_.notify_one();
    }
  }

  std::mutex mutex_;
  std::condition_variable start_, done_;
  Region* region_ = nullptr;
  int wanted_ = 0, active_ = 0, threads_ = 0;
  uint64_t generation_ = 0;
};

// Never destroyed: its threads are detached and may still wait when the process exits. After a fork
// the child has none of them, so it starts over with an empty pool.
std::atomic<ThreadPool*> pool{nullptr};
[[maybe_unused]] const int at_fork = pthread_atfork(nullptr, nullptr, [] {
  forked = true;
  pool = nullptr;
});

ThreadPool& the_pool() {
  ThreadPool* current = pool;
  if (current == nullptr) {
    ThreadPool* const fresh = new ThreadPool;
    if (pool.compare_exchange_strong(current, fresh)) return *fresh;
    delete fresh;  // another thread was first
  }
  return *current;
}

struct ScratchBlock {
  void* data = nullptr;
  int64_t bytes = 0;
  ~ScratchBlock() { std::free(data); }
};

constexpr int64_t kScratchAlignment = 64;
constexpr int kScratchSlots = 3;

}  // namespace

void run_tasks(int64_t tasks, int num_threads, TaskFunction function, void* context) {
  Region region(tasks, function, context);
  const int helpers = static_cast<int>(tasks < num_threads ? tasks : num_threads) - 1;
  if (helpers <= 0) {
    region.work();
  } else if (const OpenMpParallel parallel = openmp_parallel()) {
    parallel(
        [](void* shared) {
          Region& region = *static_cast<Region*>(shared);
          const unsigned mode = floating_point_mode();
          set_floating_point_mode(region.mode);
          region.work();
          set_floating_point_mode(mode);
        },
        &region, static_cast<unsigned>(helpers + 1), 0);
  } else {
    ThreadPool& threads = the_pool();
    std::unique_lock<std::mutex> owner(threads.owner, std::try_to_lock);
    if (owner.owns_lock()) {
      threads.run(region, helpers);
    } else {
      region.work();
    }
  }
  if (region.error) std::rethrow_exception(region.error);
}

void* scratch(ScratchSlot slot, int64_t bytes) {
  thread_local ScratchBlock blocks[kScratchSlots];
  ScratchBlock& block = blocks[static_cast<int>(slot)];
  if (block.bytes < bytes) {
    std::free(block.data);
    block = {};
    const int64_t rounded = (bytes + kScratchAlignment - 1) / kScratchAlignment * kScratchAlignment;
    block.data = std::aligned_alloc(kScratchAlignment, static_cast<size_t>(rounded));
    if (block.data == nullptr) throw std::bad_alloc();
    block.bytes = rounded;
  }
  return block.data;
}

}  // namespace fastconv
