#include "shared_arena.h"

#include <sys/mman.h>

#include <cstring>

#include "fault.h"
#include "limits.h"
#include "sanitizers.h"

namespace emulator {
namespace {

constexpr size_t kRedzone = 4096;
constexpr size_t kTotal = kRedzone + (256 << 10) + kRedzone;
static_assert(kMaxSharedBytes <= 256 << 10);

}  // namespace

SharedArena::SharedArena() {
  void* memory = mmap(nullptr, kTotal, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) fault("no memory for shared memory");
  memory_ = static_cast<char*>(memory);
  data_ = memory_ + kRedzone;  // aligned to a page
}

SharedArena::~SharedArena() {
  sanitizers::unpoison(memory_, kTotal);
  munmap(memory_, kTotal);
}

void SharedArena::reset(size_t bytes) {
  if (sanitizers::kThread && bytes != 0) {
    // Another block's accesses to the same addresses are no race.
    if (mmap(data_, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
             0) == MAP_FAILED) {
      fault("no memory for shared memory");
    }
  }
  if (sanitizers::kAddress && bytes != bytes_) {
    sanitizers::poison(memory_, kTotal);
    sanitizers::unpoison(data_, bytes);
  }
  bytes_ = bytes;
  std::memset(data_, 0xff, bytes);
}

bool SharedArena::contains(const void* p, size_t bytes) const {
  const char* begin = static_cast<const char*>(p);
  return begin >= data_ && begin + bytes <= data_ + bytes_;
}

}  // namespace emulator
