#include "stacks.h"

#include <signal.h>
#include <sys/mman.h>

#include <cstdint>
#include <memory>
#include <mutex>

#include "fault.h"
#include "limits.h"
#include "sanitizers.h"

namespace emulator {
namespace {

// Instrumented and unoptimised frames are several times as large.
#if defined(__SANITIZE_ADDRESS__) || !defined(__OPTIMIZE__)
constexpr size_t kBytes = 256 << 10;
#else
constexpr size_t kBytes = 64 << 10;
#endif
constexpr size_t kGuard = 4096;
constexpr size_t kPitch = kBytes + kGuard;
constexpr size_t kTotal = kPitch * kMaxThreads;

char* map(void* address, size_t bytes) {
  const int fixed = address == nullptr ? 0 : MAP_FIXED;
  void* memory = mmap(address, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | fixed, -1, 0);
  if (memory == MAP_FAILED) fault("no memory for stacks");
  return static_cast<char*>(memory);
}

constexpr int kMaxRanges = 256;
char* ranges[kMaxRanges];  // bases of all Stacks, for the signal handler
struct sigaction previous_action;

// Reports stack overflows; any other fault is left to the handler that was installed before.
void on_segmentation_fault(int, siginfo_t* info, void*) {
  const auto address = reinterpret_cast<uintptr_t>(info->si_addr);
  for (char* range : ranges) {
    const uintptr_t offset = address - reinterpret_cast<uintptr_t>(range);
    if (range != nullptr && offset < kTotal && offset % kPitch < kGuard) {
      fault("stack overflow: a CUDA thread has %zu bytes", kBytes);
    }
  }
  sigaction(SIGSEGV, &previous_action, nullptr);  // the access is tried again on return
}

void watch(char* memory) {
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  static bool installed = false;
  if (!installed && !sanitizers::kAddress && !sanitizers::kThread) {
    struct sigaction action = {};
    action.sa_sigaction = on_segmentation_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGSEGV, &action, &previous_action);
    installed = true;
  }
  for (char*& range : ranges) {
    if (range == nullptr) {
      range = memory;
      return;
    }
  }
}

// The handler cannot run on the stack that overflowed.
class SignalStack {
 public:
  SignalStack() {
    stack_t present;
    sigaltstack(nullptr, &present);
    if ((present.ss_flags & SS_DISABLE) == 0) return;
    memory_.reset(new char[kSignalBytes]);
    const stack_t wanted = {.ss_sp = memory_.get(), .ss_flags = 0, .ss_size = kSignalBytes};
    sigaltstack(&wanted, nullptr);
  }
  ~SignalStack() {
    if (memory_ == nullptr) return;
    const stack_t none = {.ss_sp = nullptr, .ss_flags = SS_DISABLE, .ss_size = 0};
    sigaltstack(&none, nullptr);
  }

 private:
  static constexpr size_t kSignalBytes = 64 << 10;
  std::unique_ptr<char[]> memory_;
};

void forget(char* memory) {
  for (char*& range : ranges) {
    if (range == memory) range = nullptr;
  }
}

}  // namespace

Stacks::Stacks() : memory_(map(nullptr, kTotal)) {
  watch(memory_);
  free_.reserve(kMaxThreads);
}

Stacks::~Stacks() {
  forget(memory_);
  munmap(memory_, kTotal);
}

void Stacks::reset(int count) {
  if (sanitizers::kThread) {
    map(memory_, kPitch * count);  // all in one: the shadow memory is then exchanged, not cleared
    protected_count_ = 0;
  }
  for (; protected_count_ < count; ++protected_count_) {
    mprotect(memory_ + protected_count_ * kPitch, kGuard, PROT_NONE);
  }
  free_.clear();
  for (int i = count; i-- > 0;) free_.push_back(i);
}

void Stacks::watch_this_os_thread() {
  if (!sanitizers::kAddress && !sanitizers::kThread) thread_local const SignalStack stack;
}

int Stacks::take() {
  const int stack = free_.back();
  free_.pop_back();
  return stack;
}

char* Stacks::bottom(int stack) const { return memory_ + stack * kPitch + kGuard; }
char* Stacks::top(int stack) const { return bottom(stack) + kBytes - stack % 61 * 64; }
size_t Stacks::bytes() { return kBytes; }

}  // namespace emulator
