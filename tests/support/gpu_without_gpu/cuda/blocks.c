// Runs the blocks of CuPy's own kernels (cupy_kernels.h), compiled once here rather than into each of some hundred
// libraries.
//
// A kernel without a barrier is called once for each thread. One with barriers has a stack for each thread; in every
// round each thread that may go on runs to its next barrier. Those at a barrier of their warp go on in the next round,
// those at a barrier of the block when there are no others. Races are not looked for: CuPy's kernels are not on trial.
// x86-64 only, as the hooks in CuPy's runtime are.
#include <stdlib.h>
#include <string.h>

#include "device.h"

enum { STACK = 512 * 1024 };  // bytes; cuda_on_host.h has the same, and shares them

char* stack_of_fiber(unsigned thread, size_t bytes);

struct index {
  unsigned x, y, z;
} threadIdx, blockIdx, blockDim, gridDim;
static void (*body)(void*);
static void* body_arguments;
static char* dynamic_shared;
static void *scheduler, *stack_pointers[MOST_THREADS];
static enum state { READY, AT_WARP, AT_BLOCK, DONE } states[MOST_THREADS];
static unsigned current;
uint64_t host_exchanged[MOST_THREADS];  // what the threads of a warp show each other

void* host_dynamic_shared(void) { return dynamic_shared; }

// Push the registers that a function must keep, exchange the stacks, pop them (System V ABI).
__attribute__((naked, noinline)) static void exchange(void** from, void* to) {
  __asm__(
      "push %rbp\n push %rbx\n push %r12\n push %r13\n push %r14\n push %r15\n mov %rsp, (%rdi)\n mov %rsi, %rsp\n"
      "pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbx\n pop %rbp\n ret");
}

static void leave_as(enum state state) {
  states[current] = state;
  exchange(&stack_pointers[current], scheduler);
}
static void one_thread(void) {
  body(body_arguments);
  leave_as(DONE);
}
void host_block_barrier(void) { leave_as(AT_BLOCK); }
void host_warp_barrier(void) { leave_as(AT_WARP); }

static struct index thread_index(unsigned i) {
  return (struct index){i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y)};
}

static void run_block_with_barriers(unsigned threads) {
  enum { KEPT_REGISTERS = 6 };
  for (unsigned i = 0; i < threads; i++) {
    void** top = (void**)(stack_of_fiber(i, STACK) + STACK);
    *--top = NULL;  // one_thread is entered as if called: the stack is a multiple of 16 less 8
    *--top = (void*)one_thread;
    stack_pointers[i] = top - KEPT_REGISTERS;
    states[i] = READY;
  }
  for (;;) {
    unsigned of_state[4] = {0};
    for (current = 0; current < threads; current++) {
      if (states[current] == READY) {
        threadIdx = thread_index(current);
        exchange(&scheduler, stack_pointers[current]);
      }
      of_state[states[current]]++;
    }
    if (of_state[DONE] == threads) return;
    const enum state released = of_state[AT_WARP] ? AT_WARP : AT_BLOCK;
    for (unsigned i = 0; i < threads; i++)
      if (states[i] == released) states[i] = READY;
  }
}

void host_run_blocks(void (*kernel)(void*), void* arguments, const unsigned* grid, const unsigned* block, size_t shared,
                     bool barriers) {
  body = kernel;
  body_arguments = arguments;
  gridDim = (struct index){grid[0], grid[1], grid[2]};
  blockDim = (struct index){block[0], block[1], block[2]};
  const unsigned threads = block[0] * block[1] * block[2];
  dynamic_shared = realloc(dynamic_shared, shared + 1);
  memset(dynamic_shared, 0xFF, shared);
  for (blockIdx.z = 0; blockIdx.z < gridDim.z; blockIdx.z++)
    for (blockIdx.y = 0; blockIdx.y < gridDim.y; blockIdx.y++)
      for (blockIdx.x = 0; blockIdx.x < gridDim.x; blockIdx.x++) {
        if (barriers) {
          run_block_with_barriers(threads);
          continue;
        }
        for (unsigned i = 0; i < threads; i++) {
          threadIdx = thread_index(i);
          kernel(arguments);
        }
      }
}
