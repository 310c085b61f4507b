// What the parts of the stand-in share: its state, its complaints, its counters. C, for `libcuda.so.1`.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Numbers of CUDA's errors, the same for runtime and driver.
enum {
  SUCCESS = 0,
  INVALID_VALUE = 1,
  MEMORY_ALLOCATION = 2,
  INVALID_DEVICE = 101,
  INVALID_IMAGE = 200,
  INVALID_SOURCE = 300,
  INVALID_HANDLE = 400,
  NOT_FOUND = 500,
  ILLEGAL_ADDRESS = 700,
  LAUNCH_FAILURE = 719,
  NOT_SUPPORTED = 801,
};

// An H100 (SXM): the limits that launches are checked against.
enum {
  MOST_THREADS = 1024,               // threads of a block
  MOST_BLOCKS_YZ = 65535,            // blocks of a grid along y and z; along x it is 2^31 - 1
  SHARED_BY_DEFAULT = 48 * 1024,     // bytes of shared memory that a kernel has without asking
  SHARED_ON_REQUEST = 227 * 1024,    // bytes that it may ask for
  SHARED_OF_PROCESSOR = 228 * 1024,  // bytes of a multiprocessor
  MULTIPROCESSORS = 132,
  LEVEL_2_CACHE = 50 << 20,  // bytes
};

// Kept in step with `Counts` and `Memory` of instrument.py.
struct counts {
  int64_t launches, waits, uploads, upload_bytes, downloads, download_bytes, copies, allocations, releases,
      pinned_allocations, events, attributes_set, library_calls;
};
struct memory {
  int64_t total, used, most_used, pinned, most_pinned;
};

extern struct counts counts;
extern int lost;  // the error that every call gives, or 0

void count(int64_t* counter, int64_t by);
// Note what a caller did wrong, as printf would print it; Python takes the notes and fails the test.
void complain(const char* format, ...);
int device_attribute(int which);
uint64_t total_memory(void);

// Calls on a lost device fail with what it was lost by.
#define UNLESS_LOST        \
  do {                     \
    if (lost) return lost; \
  } while (0)
