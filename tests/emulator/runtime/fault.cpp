#include "fault.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string_view>

#include "launches.h"
#include "multiprocessor.h"

namespace emulator {

namespace {

void print_waiting(const Multiprocessor& multiprocessor) {
  struct Group {
    const Thread* first;
    int more;
  };
  std::map<std::string_view, Group> groups;
  for (const Thread& thread : multiprocessor.threads()) {
    if (thread.waits_for == nullptr) continue;
    const auto [group, is_new] = groups.try_emplace(thread.waits_for, Group{&thread, 0});
    if (!is_new) ++group->second.more;
  }
  for (const auto& [_, group] : groups) {
    const uint3 index = group.first->index;
    std::fprintf(stderr, "  waiting in %s: thread (%u,%u,%u) and %d more\n", group.first->waits_for,
                 index.x, index.y, index.z, group.more);
  }
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
    std::fprintf(stderr, "  kernel %s\n", kernel_name(multiprocessor->call().kernel).c_str());
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
