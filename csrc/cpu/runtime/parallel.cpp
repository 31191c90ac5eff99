#include "cpu/runtime/parallel.h"

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
//
// Each thread begins with a range of tasks of its own, in order, and then helps the others: a
// thread walks along memory and not over every second piece of it, and finds in its cache what it
// left there in the call before.
class Region {
 public:
  const unsigned mode = floating_point_mode();
  std::exception_ptr error;

  Region(int64_t tasks, int threads, TaskFunction function, void* context)
      : ranges_(threads < kMostRanges ? threads : kMostRanges),
        function_(function),
        context_(context) {
    const int64_t each = tasks / ranges_, longer = tasks % ranges_;
    for (int64_t i = 0, first = 0; i < ranges_; ++i) {
      range_[i].next.store(first, std::memory_order_relaxed);
      range_[i].end = first += each + (i < longer ? 1 : 0);
    }
  }

  // `thread` counts the threads of the region; the caller is 0.
  void work(int thread) {
    for (int i = 0; i < ranges_; ++i) work_on(range_[(thread + i) % ranges_]);
  }

 private:
  static constexpr int kMostRanges = 64;
  struct alignas(64) Range {  // a cache line each
    std::atomic<int64_t> next;
    int64_t end;
  };

  void work_on(Range& range) {
    for (int64_t t;
         !failed_ && (t = range.next.fetch_add(1, std::memory_order_relaxed)) < range.end;) {
      try {
        function_(context_, t);
      } catch (...) {
        std::lock_guard<std::mutex> lock(error_mutex_);
        if (!error) error = std::current_exception();
        failed_ = true;
      }
    }
  }

  Range range_[kMostRanges];
  const int ranges_;
  const TaskFunction function_;
  void* const context_;
  std::atomic<bool> failed_{false};
  std::mutex error_mutex_;
};

// The OpenMP runtime of this process, torch's, if there is one. Its threads wait for work in a loop
// that keeps their cores busy for a while: a pool of our own beside them would get half of the
// time. GOMP_parallel(function, data, threads, flags) is what GCC's `#pragma omp parallel` calls;
// the runtimes of LLVM and Intel have it too. A forked child must not use it: its threads are gone.
struct OpenMp {
  void (*parallel)(void (*)(void*), void*, unsigned, unsigned);
  int (*thread)();

  bool is_there() const { return parallel != nullptr && thread != nullptr; }
};
std::atomic<bool> forked{false};
const OpenMp& openmp() {
  static const OpenMp found = {
      reinterpret_cast<decltype(OpenMp::parallel)>(dlsym(RTLD_DEFAULT, "GOMP_parallel")),
      reinterpret_cast<decltype(OpenMp::thread)>(dlsym(RTLD_DEFAULT, "omp_get_thread_num"))};
  return found;
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
    region.work(0);
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
      const int thread = wanted_--;
      ++active_;
      Region* region = region_;
      lock.unlock();
      set_floating_point_mode(region->mode);
      region->work(thread);
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
  const int threads = static_cast<int>(tasks < num_threads ? tasks : num_threads);
  Region region(tasks, threads > 1 ? threads : 1, function, context);
  if (threads <= 1) {
    region.work(0);
  } else if (!forked && openmp().is_there()) {
    openmp().parallel(
        [](void* shared) {
          Region& region = *static_cast<Region*>(shared);
          const unsigned mode = floating_point_mode();
          set_floating_point_mode(region.mode);
          region.work(openmp().thread());
          set_floating_point_mode(mode);
        },
        &region, static_cast<unsigned>(threads), 0);
  } else {
    ThreadPool& helpers = the_pool();
    std::unique_lock<std::mutex> owner(helpers.owner, std::try_to_lock);
    if (owner.owns_lock()) {
      helpers.run(region, threads - 1);
    } else {
      region.work(0);
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
