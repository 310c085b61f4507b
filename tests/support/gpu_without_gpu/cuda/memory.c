// Device and page-locked memory, both of host memory, with an owner for every byte; the counters; the complaints.
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device.h"

enum { PINNED = 1, DEVICE = 2 };                     // cudaMemoryTypeHost, cudaMemoryTypeDevice
enum { TO_DEVICE = 1, TO_HOST = 2, ON_DEVICE = 3 };  // cudaMemcpyKind
enum { FRESH = 0xEE, FREED = 0xDD, GUARD = 0xFC };   // bytes: as floats large or NaN, so that a result shows their use
enum { MOST_MARKED = 64 << 20 };  // bytes of a block that are marked fresh or freed: a test may take all of the memory
enum { ALIGNMENT = 512 };         // bytes, as cudaMalloc's
enum { GUARD_BYTES = 512 };       // behind each block; what was written there is seen when the block is freed

struct block {
  uintptr_t at;
  size_t bytes;
  int kind;
  struct block* next;
};

struct counts counts;
int lost;
static struct memory memory = {.total = 6ll << 30};
static struct block* blocks;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

// ---------------------------------------------------------------- counters and complaints

void count(int64_t* counter, int64_t by) { __atomic_add_fetch(counter, by, __ATOMIC_RELAXED); }
void instrument_counts(struct counts* out) { *out = counts; }
void instrument_memory(struct memory* out) {
  pthread_mutex_lock(&lock);
  *out = memory;
  memory.most_used = memory.used;
  memory.most_pinned = memory.pinned;
  pthread_mutex_unlock(&lock);
}
void instrument_set_memory(size_t bytes) { memory.total = bytes; }
void instrument_lose_device(int error) { lost = error; }
uint64_t total_memory(void) { return memory.total; }

static void (*take_complaint)(const char*);
void instrument_take_complaints(void (*take)(const char*)) { take_complaint = take; }
void complain(const char* format, ...) {
  char text[1024];
  va_list values;
  va_start(values, format);
  vsnprintf(text, sizeof text, format, values);
  va_end(values);
  if (take_complaint) take_complaint(text);
}

// ---------------------------------------------------------------- blocks

static struct block* block_of(const void* at) {
  for (struct block* b = blocks; b; b = b->next)
    if ((uintptr_t)at >= b->at && (uintptr_t)at < b->at + (b->bytes ? b->bytes : 1)) return b;
  return NULL;
}

// Whether all of these bytes are in one block of device memory.
static bool on_device(const void* at, size_t bytes) {
  pthread_mutex_lock(&lock);
  const struct block* b = block_of(at);
  const bool found = b && b->kind == DEVICE && (uintptr_t)at + bytes <= b->at + b->bytes;
  pthread_mutex_unlock(&lock);
  return found;
}

static int take(void** out, size_t bytes, int kind) {
  UNLESS_LOST;
  *out = NULL;
  pthread_mutex_lock(&lock);
  const bool fits = kind == PINNED || memory.used + (int64_t)bytes <= memory.total;
  struct block* b = fits ? malloc(sizeof *b) : NULL;
  if (!b || posix_memalign(out, ALIGNMENT, bytes + GUARD_BYTES)) {
    pthread_mutex_unlock(&lock);
    free(b);
    return MEMORY_ALLOCATION;
  }
  memset(*out, FRESH, bytes < MOST_MARKED ? bytes : MOST_MARKED);
  memset((char*)*out + bytes, GUARD, GUARD_BYTES);
  *b = (struct block){(uintptr_t)*out, bytes, kind, blocks};
  blocks = b;
  int64_t *used = kind == DEVICE ? &memory.used : &memory.pinned,
          *most = kind == DEVICE ? &memory.most_used : &memory.most_pinned;
  *used += bytes;
  if (*used > *most) *most = *used;
  pthread_mutex_unlock(&lock);
  count(kind == DEVICE ? &counts.allocations : &counts.pinned_allocations, 1);
  return SUCCESS;
}

static int give_back(void* at, int kind) {
  if (!at) return SUCCESS;
  UNLESS_LOST;
  pthread_mutex_lock(&lock);
  struct block** link = &blocks;
  while (*link && (*link)->at != (uintptr_t)at) link = &(*link)->next;
  struct block* b = *link;
  if (b && b->kind == kind) {
    *link = b->next;
    *(kind == DEVICE ? &memory.used : &memory.pinned) -= b->bytes;
  }
  pthread_mutex_unlock(&lock);
  if (!b || b->kind != kind) {
    const char* what = kind == DEVICE ? "cudaFree" : "cudaFreeHost";
    if (!b)
      complain("%s of %p, where no block begins", what, at);
    else
      complain("%s of %p, which is %s memory", what, at, b->kind == DEVICE ? "device" : "page-locked");
    return INVALID_VALUE;
  }
  for (size_t i = 0; i < GUARD_BYTES; i++)
    if (((unsigned char*)at)[b->bytes + i] != GUARD) {
      complain("byte %zu behind a block of %zu bytes was written", i, b->bytes);
      break;
    }
  memset(at, FREED, b->bytes < MOST_MARKED ? b->bytes : MOST_MARKED);
  free(at);
  free(b);
  if (kind == DEVICE) count(&counts.releases, 1);
  return SUCCESS;
}

int host_cudaMalloc(void** out, size_t bytes) { return take(out, bytes, DEVICE); }
int host_cudaFree(void* at) { return give_back(at, DEVICE); }
int host_cudaHostAlloc(void** out, size_t bytes, unsigned flags) { return take(out, bytes, PINNED); }
int host_cudaMallocHost(void** out, size_t bytes) { return take(out, bytes, PINNED); }
int host_cudaFreeHost(void* at) { return give_back(at, PINNED); }

int host_cudaMemGetInfo(size_t* available, size_t* total) {
  UNLESS_LOST;
  pthread_mutex_lock(&lock);
  *available = memory.total > memory.used ? memory.total - memory.used : 0;
  *total = memory.total;
  pthread_mutex_unlock(&lock);
  return SUCCESS;
}

struct pointer_attributes {  // cudaPointerAttributes
  int type, device;
  void *on_device, *on_host;
};
int host_cudaPointerGetAttributes(struct pointer_attributes* out, const void* at) {
  UNLESS_LOST;
  pthread_mutex_lock(&lock);
  const struct block* b = block_of(at);
  const int kind = b ? b->kind : 0, no_device = -2;  // cudaInvalidDeviceId
  pthread_mutex_unlock(&lock);
  *out = (struct pointer_attributes){kind, kind ? 0 : no_device, (void*)at, kind == PINNED ? (void*)at : NULL};
  return SUCCESS;
}

// ---------------------------------------------------------------- copies

static int copy(void* to, const void* from, size_t bytes, int kind) {
  UNLESS_LOST;
  if (kind == TO_DEVICE) count(&counts.uploads, 1), count(&counts.upload_bytes, bytes);
  if (kind == TO_HOST) count(&counts.downloads, 1), count(&counts.download_bytes, bytes);
  if (kind == ON_DEVICE) count(&counts.copies, 1);
  const bool bad_target = bytes && kind != TO_HOST && !on_device(to, bytes);
  const bool bad_source = bytes && kind != TO_DEVICE && !on_device(from, bytes);
  if (bad_target || bad_source) {
    complain("a copy of %zu bytes %s %p, which is not inside one block of device memory", bytes,
             bad_target ? "to" : "from", bad_target ? to : from);
    return INVALID_VALUE;
  }
  memmove(to, from, bytes);
  return SUCCESS;
}

int host_cudaMemcpy(void* to, const void* from, size_t bytes, int kind) {
  count(&counts.waits, 1);
  return copy(to, from, bytes, kind);
}
int host_cudaMemcpyAsync(void* to, const void* from, size_t bytes, int kind, void* stream) {
  return copy(to, from, bytes, kind);
}

static int set(void* at, int value, size_t bytes) {
  UNLESS_LOST;
  count(&counts.copies, 1);
  if (bytes && !on_device(at, bytes)) {
    complain("cudaMemset of %zu bytes at %p, which are not inside one block of device memory", bytes, at);
    return INVALID_VALUE;
  }
  memset(at, value, bytes);
  return SUCCESS;
}
int host_cudaMemset(void* at, int value, size_t bytes) { return set(at, value, bytes); }
int host_cudaMemsetAsync(void* at, int value, size_t bytes, void* stream) { return set(at, value, bytes); }
