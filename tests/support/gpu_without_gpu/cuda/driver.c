// The CUDA driver that CuPy calls: modules are shared libraries made by g++, a launch runs all blocks before it
// returns.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "device.h"

static const char IMAGE[] =
    "HOST LIBRARY:";  // a module's image is this and the path of its library; modules.py writes it

struct function {
  char name[256];
  const char* (*launch)(void** arguments, const unsigned* grid, const unsigned* block, size_t shared, uint64_t seed);
  int most_shared;  // bytes of dynamic shared memory it has asked for
};

// ---------------------------------------------------------------- modules

int cuModuleLoadData(void** out, const char* image) {
  UNLESS_LOST;
  if (strncmp(image, IMAGE, strlen(IMAGE))) return INVALID_IMAGE;
  *out = dlopen(image + strlen(IMAGE), RTLD_NOW | RTLD_LOCAL);
  if (!*out) complain("%s", dlerror());
  return *out ? SUCCESS : INVALID_IMAGE;
}
int cuModuleUnload(void* module) { return SUCCESS; }  // stays open: a function of it may be kept

int cuModuleGetFunction(struct function** out, void* module, const char* name) {
  char launcher[300];
  snprintf(launcher, sizeof launcher, "launch_%s", name);
  void* entry = dlsym(module, launcher);
  if (!entry) return NOT_FOUND;
  struct function* f = calloc(1, sizeof *f);
  strncpy(f->name, name, sizeof f->name - 1);
  f->launch = entry;
  *out = f;
  return SUCCESS;
}
int cuModuleGetGlobal_v2(void** out, size_t* bytes, void* module, const char* name) {
  *out = dlsym(module, name);
  return *out ? SUCCESS : NOT_FOUND;
}

enum { MOST_THREADS_OF = 0, DYNAMIC_SHARED = 8 };  // CUfunction_attribute
int cuFuncSetAttribute(struct function* f, int which, int value) {
  UNLESS_LOST;
  count(&counts.attributes_set, 1);
  if (which != DYNAMIC_SHARED) return SUCCESS;
  if (value > SHARED_ON_REQUEST) {
    complain("%s asks for %d bytes of shared memory, the device has %d for a block", f->name, value, SHARED_ON_REQUEST);
    return INVALID_VALUE;
  }
  f->most_shared = value;
  return SUCCESS;
}
int cuFuncGetAttribute(int* value, int which, const struct function* f) {
  *value = which == MOST_THREADS_OF ? MOST_THREADS : which == DYNAMIC_SHARED ? f->most_shared : 0;
  return SUCCESS;
}
int cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void* f, int threads, size_t shared) {
  *blocks = 2;
  return SUCCESS;
}
int cuOccupancyMaxPotentialBlockSize(int* grid, int* block, void* f, void* shared_of, size_t shared, int limit) {
  *grid = MULTIPROCESSORS;
  *block = 256;
  return SUCCESS;
}

// ---------------------------------------------------------------- launches

static pthread_mutex_t one_kernel_at_a_time = PTHREAD_MUTEX_INITIALIZER;
static uint64_t seed;  // order of threads, as cuda_on_host.h takes it
void instrument_set_seed(uint64_t order) { seed = order; }

static const char** names;  // of the kernels launched, while they are being noted
static size_t n_names, most_names;
void instrument_note_launches(const char** into, size_t most) {
  pthread_mutex_lock(&one_kernel_at_a_time);
  names = into;
  most_names = most;
  n_names = 0;
  pthread_mutex_unlock(&one_kernel_at_a_time);
}
size_t instrument_noted(void) { return n_names; }

// A stack for each thread of a block, the same for the kernels of all libraries: each with its own would pass Linux's
// limit of mappings. cuda_on_host.h asks for them under SHARED_STACKS.
char* stack_of_fiber(unsigned thread, size_t bytes) {
  static char* stacks[MOST_THREADS];
  enum { GUARD_PAGE = 4096 };
  if (!stacks[thread]) {
    char* s =
        mmap(NULL, bytes + GUARD_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    mprotect(s, GUARD_PAGE, PROT_NONE);
    stacks[thread] = s + GUARD_PAGE;
  }
  return stacks[thread];
}

static _Thread_local sigjmp_buf out_of_the_kernel;
static _Thread_local volatile sig_atomic_t in_a_kernel;
static _Thread_local void* volatile wrong_address;
static struct sigaction before_segv, before_bus;

static void on_wrong_address(int number, siginfo_t* about, void* context) {
  if (in_a_kernel) {
    wrong_address = about->si_addr;
    siglongjmp(out_of_the_kernel, 1);
  }
  sigaction(number, number == SIGSEGV ? &before_segv : &before_bus,
            NULL);  // not ours: it happens again, to whom it concerns
}

// Run a kernel; what it says, or NULL. An access of no memory ends it, as it does on a device, and loses the device.
static const char* run(const struct function* f, void** arguments, const unsigned* grid, const unsigned* block,
                       size_t shared) {
  static char text[256];
  const struct sigaction ours = {.sa_sigaction = on_wrong_address, .sa_flags = SA_SIGINFO | SA_NODEFER};
  const char* error;
  sigaction(SIGSEGV, &ours, &before_segv);
  sigaction(SIGBUS, &ours, &before_bus);
  if (sigsetjmp(out_of_the_kernel, 1)) {
    snprintf(text, sizeof text, "an access of address %p, where there is no memory", wrong_address);
    error = text;
    lost = ILLEGAL_ADDRESS;
  } else {
    in_a_kernel = 1;
    error = f->launch(arguments, grid, block, shared, seed);
  }
  in_a_kernel = 0;
  sigaction(SIGSEGV, &before_segv, NULL);
  sigaction(SIGBUS, &before_bus, NULL);
  return error;
}

static bool within_limits(const struct function* f, const unsigned* grid, const unsigned* block, unsigned shared) {
  const uint64_t threads = (uint64_t)block[0] * block[1] * block[2], blocks = (uint64_t)grid[0] * grid[1] * grid[2];
  if (!threads || threads > MOST_THREADS || block[2] > 64 || !blocks || grid[0] > 0x7fffffffu ||
      grid[1] > MOST_BLOCKS_YZ || grid[2] > MOST_BLOCKS_YZ) {
    complain("%s is launched with a grid of %u x %u x %u blocks of %u x %u x %u threads, which no device has", f->name,
             grid[0], grid[1], grid[2], block[0], block[1], block[2]);
    return false;
  }
  const unsigned allowed = f->most_shared > SHARED_BY_DEFAULT ? f->most_shared : SHARED_BY_DEFAULT;
  if (shared > allowed)
    complain("%s is launched with %u bytes of shared memory, it may have %u", f->name, shared, allowed);
  return shared <= allowed;
}

int cuLaunchKernel(const struct function* f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                   unsigned bz, unsigned shared, void* stream, void** arguments, void** extra) {
  UNLESS_LOST;
  const unsigned grid[3] = {gx, gy, gz}, block[3] = {bx, by, bz};
  if (!within_limits(f, grid, block, shared)) return INVALID_VALUE;
  pthread_mutex_lock(&one_kernel_at_a_time);
  count(&counts.launches, 1);
  if (n_names < most_names) names[n_names++] = f->name;
  const char* error = run(f, arguments, grid, block, shared);
  pthread_mutex_unlock(&one_kernel_at_a_time);
  if (!error) return SUCCESS;
  complain("%s: %s", f->name, error);
  return lost ? lost : LAUNCH_FAILURE;
}

// ---------------------------------------------------------------- what is asked besides

int cuInit(unsigned flags) { return SUCCESS; }
int cuDriverGetVersion(int* version) {
  *version = 13000;
  return SUCCESS;
}
int cuGetErrorName(int code, const char** out) {
  *out = code == INVALID_VALUE     ? "CUDA_ERROR_INVALID_VALUE"
         : code == INVALID_IMAGE   ? "CUDA_ERROR_INVALID_IMAGE"
         : code == NOT_FOUND       ? "CUDA_ERROR_NOT_FOUND"
         : code == ILLEGAL_ADDRESS ? "CUDA_ERROR_ILLEGAL_ADDRESS"
         : code == LAUNCH_FAILURE  ? "CUDA_ERROR_LAUNCH_FAILED"
         : code == NOT_SUPPORTED   ? "CUDA_ERROR_NOT_SUPPORTED"
                                   : "CUDA_ERROR_UNKNOWN";
  return SUCCESS;
}
const char* host_cudaGetErrorString(int code);
int cuGetErrorString(int code, const char** out) {
  *out = host_cudaGetErrorString(code);
  return SUCCESS;
}
int cuDeviceGet(int* device, int which) {
  *device = which;
  return which ? INVALID_DEVICE : SUCCESS;
}
int cuDeviceGetCount(int* n) {
  *n = 1;
  return SUCCESS;
}
int cuDeviceGetAttribute(int* value, int which, int device) {
  *value = device_attribute(which);
  return SUCCESS;
}

// One context, always there.
static char context;
int cuDevicePrimaryCtxGetState(int device, unsigned* flags, int* active) {
  *flags = 0;
  *active = 1;
  return SUCCESS;
}
int cuDevicePrimaryCtxRelease_v2(int device) { return SUCCESS; }
int cuCtxGetCurrent(void** out) {
  *out = &context;
  return SUCCESS;
}
int cuCtxSetCurrent(void* given) { return SUCCESS; }
int cuCtxGetDevice(int* device) {
  *device = 0;
  return SUCCESS;
}
int cuCtxCreate_v2(void** out, unsigned flags, int device) { return cuCtxGetCurrent(out); }
int cuCtxDestroy_v2(void* given) { return SUCCESS; }
int cuStreamGetCtx(void* stream, void** out) { return cuCtxGetCurrent(out); }

// CuPy looks these up when it is imported and calls none of them here.
static int not_here(void) { return NOT_SUPPORTED; }
int cuGetProcAddress_v2(const char* name, void** out, int version, uint64_t flags, int* status) {
  *out = (void*)not_here;
  if (status) *status = 0;
  return SUCCESS;
}
int cuGetProcAddress(const char* name, void** out, int version, uint64_t flags) {
  return cuGetProcAddress_v2(name, out, version, flags, NULL);
}
int cuGetExportTable(const void** out, const void* id) { return NOT_FOUND; }
int cuLaunchCooperativeKernel(void) { return NOT_SUPPORTED; }
int cuModuleLoad(void** out, const char* file) { return INVALID_SOURCE; }
int cuLinkCreate_v2(void) { return NOT_SUPPORTED; }
int cuLinkAddData_v2(void) { return NOT_SUPPORTED; }
int cuLinkAddFile_v2(void) { return NOT_SUPPORTED; }
int cuLinkComplete(void) { return NOT_SUPPORTED; }
int cuLinkDestroy(void) { return SUCCESS; }

// A function of a library that nothing here stands for; build.py writes one call for each.
int instrument_missing(const char* name) {
  complain("%s is called, which tests/gpu_without_gpu does not have", name);
  return NOT_SUPPORTED;
}
