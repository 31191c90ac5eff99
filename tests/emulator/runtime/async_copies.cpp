// The source is read when a copy is issued, the destination written when a wait covers it: the
// hardware is free to do both at any time between. Until then the destination holds 0xfb, so that
// a wait that is too weak gives wrong results.
#include "async_copies.h"

#include <cstring>

#include "emulator.h"
#include "fault.h"
#include "multiprocessor.h"
#include "sanitizers.h"

namespace emulator {
namespace {

// With the size known to the compiler a copy is one instruction.
void copy_bytes(void* to, const void* from, int bytes) {
  switch (bytes) {
    case 4:
      std::memcpy(to, from, 4);
      break;
    case 8:
      std::memcpy(to, from, 8);
      break;
    case 16:
      std::memcpy(to, from, 16);
      break;
    default:
      for (int i = 0; i < bytes; ++i) static_cast<char*>(to)[i] = static_cast<const char*>(from)[i];
  }
}

bool misaligned(const void* p, int bytes) { return reinterpret_cast<uintptr_t>(p) % bytes != 0; }

}  // namespace

void AsyncCopies::issue(bool lazy, void* shared, const void* global, int bytes, int valid_bytes) {
  Copy copy{shared, bytes, groups_, {}};
  if (valid_bytes > 0) {
    sanitizers::read_range(global, valid_bytes);
    copy_bytes(copy.data, global, valid_bytes);
  }
  if (!lazy) {
    arrive(copy);
    return;
  }
  sanitizers::write_range(shared, bytes);
  char late[16];
  std::memset(late, 0xfb, sizeof(late));
  copy_bytes(shared, late, bytes);
  copies_.push_back(copy);
}

void AsyncCopies::wait(int pending) {
  for (; first_ < copies_.size(); ++first_) {
    const Copy& copy = copies_[first_];
    if (static_cast<int64_t>(copy.group) >= static_cast<int64_t>(groups_) - pending) return;
    arrive(copy);
  }
  copies_.clear();
  first_ = 0;
}

void AsyncCopies::clear() {
  copies_.clear();
  first_ = 0;
  groups_ = 0;
}

void AsyncCopies::arrive(const Copy& copy) {
  sanitizers::write_range(copy.shared, copy.bytes);
  copy_bytes(copy.shared, copy.data, copy.bytes);
}

void cp_async(void* shared, const void* global, int bytes, int valid_bytes) {
  Multiprocessor& multiprocessor = *Multiprocessor::running();
  if (bytes != 4 && bytes != 8 && bytes != 16) fault("cp.async: of %d bytes", bytes);
  if (valid_bytes < 0 || valid_bytes > bytes) {
    fault("cp.async: %d valid bytes of %d", valid_bytes, bytes);
  }
  if (!multiprocessor.shared().contains(shared, bytes)) {
    fault("cp.async: %p is not in shared memory", shared);
  }
  if (misaligned(shared, bytes)) fault("cp.async: misaligned shared address %p", shared);
  // PTX wants it aligned where nothing is read, too.
  if (misaligned(global, bytes)) fault("cp.async: misaligned global address %p", global);
  multiprocessor.current().copies.issue(multiprocessor.lazy_copies(), shared, global, bytes,
                                        valid_bytes);
}

void cp_async_commit() { Multiprocessor::running()->current().copies.commit(); }
void cp_async_wait(int pending) { Multiprocessor::running()->current().copies.wait(pending); }

}  // namespace emulator
