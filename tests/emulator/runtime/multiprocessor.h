// Runs one block after another on the calling OS thread, each CUDA thread as a fiber.
//
// A fiber runs until it must wait for others (a barrier, a warp collective) or ends. A thread that
// has not begun has no stack: it takes over the stack of one that ends, so that a kernel without
// barriers costs a function call for each thread and no switch.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "async_copies.h"
#include "emulator/builtins.h"
#include "emulator/runtime_api.h"
#include "limits.h"
#include "options.h"
#include "race_fibers.h"
#include "random.h"
#include "ready_queue.h"
#include "sanitizers.h"
#include "shared_arena.h"
#include "stacks.h"

namespace emulator {

struct Warp;

// A CUDA thread.
struct Thread {
  uint3 index{};
  unsigned lane = 0;
  Warp* warp = nullptr;
  void* context = nullptr;  // null: not begun
  int stack = -1;           // its number among the Stacks, once the thread has begun
  bool ended = false;
  const char* waits_for = nullptr;  // null: it runs, could run, or has ended
  AsyncCopies copies;
  sanitizers::FiberState sanitizer;
};

// What __syncthreads() needs to know.
struct BlockBarrier {
  // Two, in turn: a thread may reach the next barrier before another has left the last.
  struct Phase {
    int votes;         // threads whose predicate was true
    int participants;  // threads that it has let through
    char sync;         // its address is what ThreadSanitizer orders
  };
  Phase phases[2] = {};
  unsigned phase = 0;
  Vote vote = Vote::kNone;
  std::vector<Thread*> waiting;
};

class Multiprocessor;
extern constinit thread_local Multiprocessor* running_multiprocessor
    __attribute__((tls_model("initial-exec")));

class Multiprocessor {
 public:
  Multiprocessor();
  ~Multiprocessor();

  // The one whose kernel is running on this OS thread, or null.
  static Multiprocessor* running() { return running_multiprocessor; }

  void begin_grid(const cudaLaunchConfig_t& config, const Call& call, const Options& options);
  // number is the block's in the grid; with the options' seed it decides the order of its threads.
  void run_block(uint3 index, uint64_t number);
  void end_grid();

  // For the running thread.
  Thread& current() const { return *current_; }
  void park(const char* operation);  // runs others until someone makes this thread ready
  void yield();
  void release_lanes(const Warp& warp, uint32_t mask);  // all but the running thread are ready
  int barrier(Vote vote, int predicate);

  const Call& call() const { return call_; }
  const SharedArena& shared() const { return shared_; }
  void progress() { idle_yields_ = 0; }
  bool lazy_copies() const { return options_.lazy_copies; }
  std::span<const Thread> threads() const { return {threads_.get(), size_t(thread_count_)}; }

 private:
  static void fiber_entry();
  void set_current(Thread& thread);
  void prepare(Thread& thread);
  void resume(Thread& next);
  void end_current();
  void open_barrier();

  Options options_;
  Call call_{};
  size_t shared_bytes_ = 0;
  int thread_count_ = 0;      // of a block
  int live_ = 0;              // those that have not ended
  uint64_t idle_yields_ = 0;  // since the last progress()
  BlockBarrier barrier_;
  Random random_;

  Thread host_;  // the OS thread's own context
  Thread* current_ = &host_;
  Thread* previous_ = nullptr;  // the one that ran before
  std::unique_ptr<Thread[]> threads_;
  std::unique_ptr<Warp[]> warps_;
  ReadyQueue ready_;
  Stacks stacks_;
  SharedArena shared_;
  RaceFibers race_fibers_;
};

}  // namespace emulator
