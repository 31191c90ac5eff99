#include "launches.h"

#include <cxxabi.h>
#include <dlfcn.h>

#include <cstdlib>
#include <mutex>
#include <set>

namespace emulator {
namespace {

std::mutex mutex;  // of the kernels
std::set<const void*> launched;

}  // namespace

std::string kernel_name(const void* kernel) {
  Dl_info info;
  if (dladdr(kernel, &info) == 0 || info.dli_sname == nullptr || info.dli_saddr != kernel) {
    return "without a name";
  }
  int status;
  char* demangled = abi::__cxa_demangle(info.dli_sname, nullptr, nullptr, &status);
  const std::string name = status == 0 ? demangled : info.dli_sname;
  std::free(demangled);
  return name;
}

void note_launch(const void* kernel) {
  const std::lock_guard lock(mutex);
  launched.insert(kernel);
}

}  // namespace emulator

// For ctypes: the names of the kernels launched since the last call of this function, one a line.
// The text stays valid until this OS thread's next call.
extern "C" __attribute__((visibility("default"))) const char* emulator_take_launches() {
  static thread_local std::string names;
  const std::lock_guard lock(emulator::mutex);
  names.clear();
  for (const void* kernel : emulator::launched) names += emulator::kernel_name(kernel) + '\n';
  emulator::launched.clear();
  return names.c_str();
}
