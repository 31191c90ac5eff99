// What AddressSanitizer and ThreadSanitizer must be told about fibers and emulated memory accesses.
// Every function is empty in a build without the sanitizer.
//
// ThreadSanitizer: each CUDA thread is a fiber of its own, ordered with others by nothing but the
// barriers that call acquire and release here. The runtime itself is compiled without
// -fsanitize=thread, or its own bookkeeping would be reported; hence FASTCONV_EMULATOR_TSAN instead
// of the compiler's macro, and explicit read_range and write_range for what it does on behalf of
// a CUDA thread.
#pragma once

#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#elif defined(FASTCONV_EMULATOR_TSAN)
#include <sanitizer/tsan_interface.h>
extern "C" void __tsan_read_range(void* address, unsigned long bytes);
extern "C" void __tsan_write_range(void* address, unsigned long bytes);
#endif

namespace emulator::sanitizers {

#if defined(__SANITIZE_ADDRESS__)

inline constexpr bool kAddress = true, kThread = false;

struct FiberState {
  void* fake_stack = nullptr;
  const void* stack_bottom = nullptr;  // of a fiber: known; of an OS thread: learnt at a switch
  size_t stack_bytes = 0;

  void enter(const void* bottom, size_t bytes) {
    *this = {nullptr, bottom, bytes};
    // A fiber's last frames are left by a switch and never return.
    __asan_unpoison_memory_region(bottom, bytes);
  }
};
inline void before_switch(FiberState& from, bool ended, const FiberState& to) {
  __sanitizer_start_switch_fiber(ended ? nullptr : &from.fake_stack, to.stack_bottom,
                                 to.stack_bytes);
}
inline void after_switch(FiberState& from, const FiberState& to) {
  __sanitizer_finish_switch_fiber(to.fake_stack, &from.stack_bottom, &from.stack_bytes);
}
inline void poison(const void* p, size_t bytes) { __asan_poison_memory_region(p, bytes); }
inline void unpoison(const void* p, size_t bytes) { __asan_unpoison_memory_region(p, bytes); }

#else

#if defined(FASTCONV_EMULATOR_TSAN)
inline constexpr bool kAddress = false, kThread = true;
#else
inline constexpr bool kAddress = false, kThread = false;
#endif

struct FiberState {
  void* fiber = nullptr;

  void enter(const void*, size_t) {}
};
inline void before_switch(FiberState&, bool, const FiberState& to) {
#if defined(FASTCONV_EMULATOR_TSAN)
  __tsan_switch_to_fiber(to.fiber, __tsan_switch_to_fiber_no_sync);
#else
  static_cast<void>(to);
#endif
}
inline void after_switch(FiberState&, const FiberState&) {}
inline void poison(const void*, size_t) {}
inline void unpoison(const void*, size_t) {}

#endif

#if defined(FASTCONV_EMULATOR_TSAN)

inline void adopt_current_thread(FiberState& state) { state.fiber = __tsan_get_current_fiber(); }
inline void create_fiber(FiberState& state) { state.fiber = __tsan_create_fiber(0); }
inline void name_fiber(FiberState& state, const char* name) {
  __tsan_set_fiber_name(state.fiber, name);
}
inline void destroy_fiber(FiberState& state) { __tsan_destroy_fiber(state.fiber); }
inline void acquire(void* p) { __tsan_acquire(p); }
inline void release(void* p) { __tsan_release(p); }
inline void read_range(const void* p, size_t bytes) {
  __tsan_read_range(const_cast<void*>(p), bytes);
}
inline void write_range(void* p, size_t bytes) { __tsan_write_range(p, bytes); }

#else

inline void adopt_current_thread(FiberState&) {}
inline void create_fiber(FiberState&) {}
inline void name_fiber(FiberState&, const char*) {}
inline void destroy_fiber(FiberState&) {}
inline void acquire(void*) {}
inline void release(void*) {}
inline void read_range(const void*, size_t) {}
inline void write_range(void*, size_t) {}

#endif

}  // namespace emulator::sanitizers
