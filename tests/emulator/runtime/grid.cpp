// A launch: checks what the device would refuse, and spreads the blocks over OS threads.
#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <thread>
#include <vector>

#include "emulator/runtime_api.h"
#include "fault.h"
#include "last_error.h"
#include "launches.h"
#include "limits.h"
#include "multiprocessor.h"
#include "options.h"

namespace emulator {
namespace {

std::mutex mutex;  // of the two below
std::map<const void*, size_t> shared_limits;
std::vector<std::unique_ptr<Multiprocessor>> idle;

std::unique_ptr<Multiprocessor> acquire_multiprocessor() {
  {
    const std::lock_guard lock(mutex);
    if (!idle.empty()) {
      std::unique_ptr<Multiprocessor> last = std::move(idle.back());
      idle.pop_back();
      return last;
    }
  }
  return std::make_unique<Multiprocessor>();
}

void give_back(std::unique_ptr<Multiprocessor> multiprocessor) {
  const std::lock_guard lock(mutex);
  idle.push_back(std::move(multiprocessor));
}

size_t shared_limit(const void* kernel) {
  const std::lock_guard lock(mutex);
  const auto found = shared_limits.find(kernel);
  return found == shared_limits.end() ? kDefaultSharedBytes : found->second;
}

cudaError_t check(const cudaLaunchConfig_t& config, const void* kernel) {
  const dim3 grid = config.gridDim, block = config.blockDim;
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffffu || grid.y > 65535 ||
      grid.z > 65535) {
    return cudaErrorInvalidConfiguration;
  }
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  if (threads == 0 || block.x > kMaxThreads || block.y > kMaxThreads || block.z > 64 ||
      threads > kMaxThreads) {
    return cudaErrorInvalidConfiguration;
  }
  if (config.dynamicSmemBytes > shared_limit(kernel)) return cudaErrorInvalidValue;
  for (unsigned i = 0; i < config.numAttrs; ++i) {
    if (config.attrs[i].id != cudaLaunchAttributeIgnore &&
        config.attrs[i].id != cudaLaunchAttributeProgrammaticStreamSerialization) {
      return cudaErrorNotSupported;
    }
  }
  return cudaSuccess;
}

// The order in which blocks start: a permutation n -> (factor n + offset) mod count.
struct BlockOrder {
  uint64_t count, factor = 1, offset = 0;

  BlockOrder(uint64_t count, uint64_t seed) : count(count) {
    if (seed == 0) return;
    Random random(seed);
    offset = random.below(0xffffffffu) % count;
    factor = random.below(0xffffffffu) % count;
    while (std::gcd(factor, count) != 1) ++factor;
  }
  uint64_t operator()(uint64_t n) const {
    return static_cast<uint64_t>((static_cast<unsigned __int128>(factor) * n + offset) % count);
  }
};

int worker_count(const cudaLaunchConfig_t& config, uint64_t blocks, const Options& options) {
  if (sanitizers::kAddress || sanitizers::kThread) return 1;
  // Starting an OS thread takes about as long as running this many CUDA threads.
  constexpr uint64_t kFewThreads = 2048;
  const dim3 block = config.blockDim;
  if (blocks * block.x * block.y * block.z < kFewThreads) return 1;
  const uint64_t workers =
      options.workers > 0 ? options.workers : std::max(1u, std::thread::hardware_concurrency());
  return static_cast<int>(std::min(workers, blocks));
}

}  // namespace

cudaError_t set_function_attribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  if (attribute == cudaFuncAttributePreferredSharedMemoryCarveout) return cudaSuccess;
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0 ||
      static_cast<size_t>(value) > kMaxSharedBytes) {
    return remember(cudaErrorInvalidValue);
  }
  const std::lock_guard lock(mutex);
  shared_limits[kernel] = value;
  return cudaSuccess;
}

cudaError_t launch(const cudaLaunchConfig_t& config, const Call& call) {
  if (Multiprocessor::running() != nullptr) fault("a kernel launches a kernel");
  const cudaError_t status = check(config, call.kernel);
  if (status != cudaSuccess) return remember(status);
  note_launch(call.kernel);
  // ThreadSanitizer has too few fibers for two grids at once.
  static std::mutex one_grid;
  std::unique_lock lock(one_grid, std::defer_lock);
  if (sanitizers::kThread) lock.lock();
  const Options options = current_options();
  const dim3 grid = config.gridDim;
  const uint64_t blocks = uint64_t{grid.x} * grid.y * grid.z;
  const BlockOrder order(blocks, options.seed);
  std::atomic<uint64_t> next{0};

  const auto work = [&] {
    std::unique_ptr<Multiprocessor> multiprocessor = acquire_multiprocessor();
    multiprocessor->begin_grid(config, call, options);
    for (uint64_t n; (n = next.fetch_add(1, std::memory_order_relaxed)) < blocks;) {
      const uint64_t block = order(n);
      const auto x = static_cast<unsigned>(block % grid.x);
      const auto y = static_cast<unsigned>(block / grid.x % grid.y);
      const auto z = static_cast<unsigned>(block / grid.x / grid.y);
      multiprocessor->run_block({x, y, z}, block);
    }
    multiprocessor->end_grid();
    give_back(std::move(multiprocessor));
  };
  std::vector<std::thread> helpers;
  for (int i = worker_count(config, blocks, options); i > 1; --i) helpers.emplace_back(work);
  work();
  for (std::thread& helper : helpers) helper.join();
  return cudaSuccess;
}

}  // namespace emulator
