// Memory that the inner results of a network's calls share. It is kept from call to call, and is
// handed out and back under Python's lock.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <set>
#include <utility>
#include <vector>

namespace fastconv {

class ArenaPool {
  static constexpr std::align_val_t kAlignment{64};
  struct Delete {
    void operator()(std::byte* data) const { ::operator delete[](data, kAlignment); }
  };
  struct Arena {
    std::unique_ptr<std::byte[], Delete> data;
    int64_t bytes = 0;
  };

 public:
  ArenaPool() { pools().insert(this); }
  ~ArenaPool() { pools().erase(this); }
  ArenaPool(const ArenaPool&) = delete;
  ArenaPool& operator=(const ArenaPool&) = delete;

  // An arena that belongs to one call until its end.
  class Loan {
   public:
    // Throws std::bad_alloc.
    Loan(ArenaPool& pool, int64_t bytes) : pool_(pool), arena_(pool.take(bytes)) {}
    ~Loan() { pool_.free_.push_back(std::move(arena_)); }
    Loan(const Loan&) = delete;
    Loan& operator=(const Loan&) = delete;
    std::byte* data() const { return arena_.data.get(); }

   private:
    ArenaPool& pool_;
    Arena arena_;
  };

  // Gives back the memory of all pools, but for what running calls use.
  static void empty_all() {
    for (ArenaPool* const pool : pools()) pool->free_.clear();
  }

  // Bytes that no call uses now.
  int64_t free_bytes() const {
    int64_t bytes = 0;
    for (const Arena& arena : free_) bytes += arena.bytes;
    return bytes;
  }

 private:
  // One that is too small is released first: a network's calls of several sizes share the arena of
  // the largest.
  Arena take(int64_t bytes) {
    Arena arena;
    if (!free_.empty()) {
      arena = std::move(free_.back());
      free_.pop_back();
    }
    if (arena.bytes < bytes) {
      arena = {};
      arena.data.reset(new (kAlignment) std::byte[static_cast<size_t>(bytes)]);
      arena.bytes = bytes;
    }
    return arena;
  }

  static std::set<ArenaPool*>& pools() {
    static std::set<ArenaPool*> pools;
    return pools;
  }

  std::vector<Arena> free_;
};

}  // namespace fastconv
