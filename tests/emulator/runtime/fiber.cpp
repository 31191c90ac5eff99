// On x86-64 and aarch64 a switch is: push the registers that a callee must preserve, exchange stack
// pointers, pop. swapcontext, used elsewhere, makes a system call at each switch and takes about
// 25 times as long.
#include "fiber.h"

#include <cstdint>
#include <cstring>

#if defined(__x86_64__) || defined(__aarch64__)

extern "C" void fastconv_emulator_switch(void** save, void* to);

#if defined(__x86_64__)

asm(R"(
.text
.hidden fastconv_emulator_switch
.globl fastconv_emulator_switch
.type fastconv_emulator_switch, @function
fastconv_emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size fastconv_emulator_switch, . - fastconv_emulator_switch
)");

#else

asm(R"(
.text
.hidden fastconv_emulator_switch
.globl fastconv_emulator_switch
.type fastconv_emulator_switch, %function
fastconv_emulator_switch:
  sub sp, sp, #160
  stp x19, x20, [sp]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size fastconv_emulator_switch, . - fastconv_emulator_switch
)");

#endif

namespace emulator {

void switch_context(void** save, void* to) { fastconv_emulator_switch(save, to); }

void* make_context(char* stack_top, void (*entry)()) {
  char* top = reinterpret_cast<char*>(reinterpret_cast<uintptr_t>(stack_top) & ~uintptr_t{15});
#if defined(__x86_64__)
  // Six registers, entry's address for ret, and a null return address to end a backtrace: entry
  // finds the stack aligned as after a call.
  char* context = top - 8 * sizeof(void*);
  std::memset(context, 0, 8 * sizeof(void*));
  std::memcpy(context + 6 * sizeof(void*), &entry, sizeof(entry));
#else
  char* context = top - 160;
  std::memset(context, 0, 160);
  std::memcpy(context + 88, &entry, sizeof(entry));  // x30, the link register
#endif
  return context;
}

}  // namespace emulator

#else

#include <ucontext.h>

namespace emulator {

void switch_context(void** save, void* to) {
  ucontext_t here;
  *save = &here;
  swapcontext(&here, static_cast<ucontext_t*>(to));
}

void* make_context(char* stack_top, void (*entry)()) {
  constexpr size_t kStackBytes = 32 << 10;  // less than any stack of stacks.h
  uintptr_t address = reinterpret_cast<uintptr_t>(stack_top) - sizeof(ucontext_t);
  auto* context = reinterpret_cast<ucontext_t*>(address & ~uintptr_t{63});
  getcontext(context);
  context->uc_link = nullptr;
  context->uc_stack.ss_sp = reinterpret_cast<char*>(context) - kStackBytes;
  context->uc_stack.ss_size = kStackBytes;
  makecontext(context, entry, 0);
  return context;
}

}  // namespace emulator

#endif
