// The rest of the CUDA runtime that CuPy calls: one device, streams that do at once what they are given, events.
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "device.h"

// ---------------------------------------------------------------- the device

int device_attribute(int which) {
  switch (which) {  // numbers of cudaDeviceAttr, the same as of CUdevice_attribute
    case 1:
      return MOST_THREADS;
    case 5:
      return 2147483647;  // blocks along x
    case 6:
    case 7:
      return MOST_BLOCKS_YZ;
    case 8:
      return SHARED_BY_DEFAULT;
    case 10:
      return 32;  // threads of a warp
    case 12:
      return 65536;  // registers of a block
    case 16:
      return MULTIPROCESSORS;
    case 36:
      return 2619000;  // memory clock, kHz
    case 37:
      return 5120;  // width of its bus, bits
    case 38:
      return LEVEL_2_CACHE;
    case 39:
      return 2048;  // threads of a multiprocessor
    case 41:
      return 1;  // unified addressing
    case 75:
      return 9;  // compute capability 9.0
    case 76:
      return 0;
    case 81:
      return SHARED_OF_PROCESSOR;
    case 82:
      return 65536;  // registers of a multiprocessor
    case 97:
      return SHARED_ON_REQUEST;
    case 106:
      return 32;  // blocks of a multiprocessor
    case 111:
      return 1024;  // reserved shared memory of a block
    case 115:
      return 1;  // memory pools
    default:
      return 0;
  }
}

int host_cudaDeviceGetAttribute(int* value, int which, int device) {
  *value = device_attribute(which);
  return SUCCESS;
}

struct properties {  // the head of cudaDeviceProp of CUDA 13
  char name[256];
  char identifiers[32];
  size_t memory, shared_by_default;
  int registers, warp;
  size_t pitch;
  int most_threads, most_threads_by_axis[3], most_blocks[3];
  size_t constant_memory;
  int major, minor;
};
int host_cudaGetDeviceProperties(struct properties* out, int device) {
  const struct properties it = {
      .name = "no GPU: host memory as an H100",
      .memory = total_memory(),
      .shared_by_default = SHARED_BY_DEFAULT,
      .registers = 65536,
      .warp = 32,
      .most_threads = MOST_THREADS,
      .most_threads_by_axis = {1024, 1024, 64},
      .most_blocks = {2147483647, MOST_BLOCKS_YZ, MOST_BLOCKS_YZ},
      .constant_memory = 65536,
      .major = 9,
  };
  enum { SIZE_OF_THE_WHOLE = 700 };  // bytes that may be cleared: cudaDeviceProp has more
  memset(out, 0, SIZE_OF_THE_WHOLE);
  *out = it;
  return SUCCESS;
}

int host_cudaGetDeviceCount(int* n) {
  *n = 1;
  return SUCCESS;
}
int host_cudaGetDevice(int* device) {
  *device = 0;
  return SUCCESS;
}
int host_cudaSetDevice(int device) {
  if (device) return INVALID_DEVICE;
  UNLESS_LOST;
  return SUCCESS;
}
int host_cudaDriverGetVersion(int* version) {
  *version = 13000;
  return SUCCESS;
}
int host_cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return SUCCESS;
}
int host_cudaDeviceGetPCIBusId(char* out, int size, int device) {
  strncpy(out, "0000:C1:00.0", size);
  return SUCCESS;
}
int host_cudaDeviceCanAccessPeer(int* can, int one, int other) {
  *can = 0;
  return SUCCESS;
}

// ---------------------------------------------------------------- waits and streams

static int wait(void) {
  count(&counts.waits, 1);
  return lost;
}
int host_cudaDeviceSynchronize(void) { return wait(); }
int host_cudaStreamSynchronize(void* stream) { return wait(); }
int host_cudaEventSynchronize(void* event) { return wait(); }

struct stream {
  unsigned flags;
};
static int make_stream(void** out, unsigned flags) {
  UNLESS_LOST;
  struct stream* s = malloc(sizeof *s);
  s->flags = flags;
  *out = s;
  return SUCCESS;
}
int host_cudaStreamCreate(void** out) { return make_stream(out, 0); }
int host_cudaStreamCreateWithFlags(void** out, unsigned flags) { return make_stream(out, flags); }
int host_cudaStreamCreateWithPriority(void** out, unsigned flags, int priority) { return make_stream(out, flags); }
int host_cudaStreamDestroy(void* stream) {
  UNLESS_LOST;
  free(stream);
  return SUCCESS;
}
int host_cudaStreamQuery(void* stream) { return lost; }
int host_cudaStreamWaitEvent(void* stream, void* event, unsigned flags) { return lost; }
int host_cudaStreamIsCapturing(void* stream, int* capturing) {
  *capturing = 0;
  return lost;
}
int host_cudaStreamGetFlags(struct stream* stream, unsigned* flags) {
  UNLESS_LOST;
  *flags = (uintptr_t)stream > 2 ? stream->flags : 0;  // 0, 1 and 2 stand for the default streams
  return SUCCESS;
}
int host_cudaStreamGetPriority(void* stream, int* priority) {
  *priority = 0;
  return lost;
}

// ---------------------------------------------------------------- events

struct event {
  struct timespec at;
  unsigned flags;
  bool recorded;
};
enum { WITHOUT_TIME = 2 };  // cudaEventDisableTiming

int host_cudaEventCreateWithFlags(void** out, unsigned flags) {
  UNLESS_LOST;
  struct event* e = calloc(1, sizeof *e);
  e->flags = flags;
  *out = e;
  count(&counts.events, 1);
  return SUCCESS;
}
int host_cudaEventCreate(void** out) { return host_cudaEventCreateWithFlags(out, 0); }
int host_cudaEventDestroy(void* event) {
  UNLESS_LOST;
  free(event);
  return SUCCESS;
}
int host_cudaEventRecord(struct event* event, void* stream) {
  UNLESS_LOST;
  clock_gettime(CLOCK_MONOTONIC, &event->at);
  event->recorded = true;
  return SUCCESS;
}
int host_cudaEventQuery(void* event) { return lost; }
int host_cudaEventElapsedTime(float* milliseconds, const struct event* from, const struct event* to) {
  if ((from->flags | to->flags) & WITHOUT_TIME || !from->recorded || !to->recorded) return INVALID_HANDLE;
  const double seconds = (double)(to->at.tv_sec - from->at.tv_sec) + (to->at.tv_nsec - from->at.tv_nsec) * 1e-9;
  *milliseconds = seconds * 1e3 + 1e-3;  // a real one is never zero
  return SUCCESS;
}

// ---------------------------------------------------------------- errors

static const struct {
  int code;
  const char *name, *text;
} errors[] = {
    {0, "cudaSuccess", "no error"},
    {1, "cudaErrorInvalidValue", "invalid argument"},
    {2, "cudaErrorMemoryAllocation", "out of memory"},
    {35, "cudaErrorInsufficientDriver", "CUDA driver version is insufficient for CUDA runtime version"},
    {46, "cudaErrorDevicesUnavailable", "CUDA-capable device(s) is/are busy or unavailable"},
    {100, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {101, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {214, "cudaErrorECCUncorrectable", "uncorrectable ECC error encountered"},
    {400, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {700, "cudaErrorIllegalAddress", "an illegal memory access was encountered"},
    {719, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {801, "cudaErrorNotSupported", "operation not supported"},
};
const char* host_cudaGetErrorName(int code) {
  for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
    if (errors[i].code == code) return errors[i].name;
  return "cudaErrorUnknown";
}
const char* host_cudaGetErrorString(int code) {
  for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
    if (errors[i].code == code) return errors[i].text;
  return "unknown error";
}
int host_cudaGetLastError(void) { return SUCCESS; }
int host_cudaPeekAtLastError(void) { return SUCCESS; }
