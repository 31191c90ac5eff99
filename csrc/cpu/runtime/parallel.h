// Threads (OpenMP's where the process has it, else a pool of our own) that survive fork and never
// decide a result: tasks are numbered, each writes what no other task writes, and which thread runs
// a task is unseen by it. Tasks with neighbouring numbers should work on neighbouring memory.
#pragma once

#include <cstdint>

namespace fastconv {

using TaskFunction = void (*)(void* context, int64_t task);

// Runs function(context, t) for t in [0, tasks) on up to num_threads threads, the caller's among
// them, and returns when all are done. The first exception of a task is rethrown here. While
// another thread holds our own pool the caller runs its tasks alone. A task must not call
// run_tasks.
void run_tasks(int64_t tasks, int num_threads, TaskFunction function, void* context);

// Memory that a thread keeps between calls (64-byte aligned, contents undefined). A thread has one
// block per slot: kShared for what a call prepares for all its tasks; kTask and kTile for the
// operands and the results of the running task.
enum class ScratchSlot { kShared, kTask, kTile };
void* scratch(ScratchSlot slot, int64_t bytes);

}  // namespace fastconv
