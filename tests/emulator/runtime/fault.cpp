#include "fault.h"

#include <cxxabi.h>
#include <dlfcn.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>

#include "multiprocessor.h"

namespace emulator {
namespace {

void print_kernel(const void* kernel) {
  Dl_info info;
  if (dladdr(kernel, &info) == 0 || info.dli_sname == nullptr || info.dli_saddr != kernel) {
    std::fprintf(stderr, "  kernel %p (a static one, without a name)\n", kernel);
    return;
  }
  int status;
  char* name = abi::__cxa_demangle(info.dli_sname, nullptr, nullptr, &status);
  std::fprintf(stderr, "  kernel %s\n", status == 0 ? name : info.dli_sname);
  std::free(name);
}

void print_waiting(const Multiprocessor& multiprocessor) {
  constexpr int kShown = 8;
  int waiting = 0;
  for (const Thread& thread : multiprocessor.threads()) {
    if (thread.waits_for == nullptr) continue;
    if (waiting++ >= kShown) continue;
    std::fprintf(stderr, "  thread (%u,%u,%u) waits in %s\n", thread.index.x, thread.index.y,
                 thread.index.z, thread.waits_for);
  }
  if (waiting > kShown) std::fprintf(stderr, "  and %d more wait\n", waiting - kShown);
}

}  // namespace

void fault(const char* format, ...) {
  std::fprintf(stderr, "\nemulator: ");
  va_list arguments;
  va_start(arguments, format);
  std::vfprintf(stderr, format, arguments);
  va_end(arguments);
  std::fprintf(stderr, "\n");
  if (const Multiprocessor* multiprocessor = Multiprocessor::running()) {
    print_kernel(multiprocessor->call().kernel);
    const uint3 block = blockIdx;
    std::fprintf(stderr, "  block (%u,%u,%u)", block.x, block.y, block.z);
    const uint3 thread = threadIdx;
    std::fprintf(stderr, ", thread (%u,%u,%u)\n", thread.x, thread.y, thread.z);
    print_waiting(*multiprocessor);
  }
  std::fflush(stderr);
  std::abort();
}

}  // namespace emulator
