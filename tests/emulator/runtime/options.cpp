#include "options.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include "emulator.h"

namespace emulator {
namespace {

uint64_t number_from_environment(const char* name) {
  const char* text = std::getenv(name);
  if (text == nullptr) return 0;
  char* end;
  const uint64_t value = std::strtoull(text, &end, 10);
  if (end == text || *end != 0) {
    std::fprintf(stderr, "emulator: %s must be a number, got '%s'\n", name, text);
    std::abort();
  }
  return value;
}

Options from_environment() {
  Options options;
  if (const char* async = std::getenv("FASTCONV_EMULATOR_ASYNC")) {
    if (std::strcmp(async, "lazy") != 0 && std::strcmp(async, "eager") != 0) {
      std::fprintf(stderr, "emulator: FASTCONV_EMULATOR_ASYNC must be lazy or eager, got '%s'\n",
                   async);
      std::abort();
    }
    options.lazy_copies = async[0] == 'l';
  }
  options.seed = number_from_environment("FASTCONV_EMULATOR_SEED");
  options.workers = static_cast<int>(number_from_environment("FASTCONV_EMULATOR_WORKERS"));
  return options;
}

std::mutex mutex;
Options options = from_environment();

}  // namespace

Options current_options() {
  const std::lock_guard lock(mutex);
  return options;
}

}  // namespace emulator

extern "C" __attribute__((visibility("default"))) void fastconv_emulator_configure(int lazy,
                                                                                   uint64_t seed,
                                                                                   int workers) {
  const std::lock_guard lock(emulator::mutex);
  emulator::options = {lazy != 0, seed, workers > 0 ? workers : 0};
}
