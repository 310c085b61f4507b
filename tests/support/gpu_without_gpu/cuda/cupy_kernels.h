// What CuPy's own kernels need of CUDA, on the host: as little as compiles them, read once as a precompiled header.
#pragma once
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmath>
#include <limits>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __shared__ static  // one block runs at a time
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define DYNAMIC_SHARED(type, name) type* name = (type*)host_dynamic_shared()

struct uint3 {
  unsigned x, y, z;
};
typedef uint3 dim3;
extern "C" {
extern uint3 threadIdx, blockIdx, blockDim, gridDim;
void host_block_barrier(void);
void host_warp_barrier(void);
void* host_dynamic_shared(void);
extern uint64_t host_exchanged[1024];  // a value of each thread
void host_run_blocks(void (*)(void*), void*, const unsigned*, const unsigned*, size_t, bool);
}
static constexpr int warpSize = 32;

// ---------------------------------------------------------------- launchers, as cuLaunchKernel's arguments come

template <class... A, size_t... I>
static void call(void (*kernel)(A...), void** a, std::index_sequence<I...>) {
  kernel(*reinterpret_cast<std::remove_const_t<std::remove_reference_t<A>>*>(a[I])...);
}
template <class... A>
struct Call {
  void (*kernel)(A...);
  void** arguments;
  static void go(void* p) {
    auto* c = static_cast<Call*>(p);
    call(c->kernel, c->arguments, std::index_sequence_for<A...>{});
  }
};
template <class... A>
static void run(void (*kernel)(A...), void** a, const unsigned* grid, const unsigned* block, size_t shared,
                bool barriers) {
  Call<A...> c{kernel, a};
  host_run_blocks(&Call<A...>::go, &c, grid, block, shared, barriers);
}
#define LAUNCHER(kernel, barriers)                                                                             \
  extern "C" const char* launch_##kernel(void** a, const unsigned* grid, const unsigned* block, size_t shared, \
                                         uint64_t) {                                                           \
    run(kernel, a, grid, block, shared, barriers);                                                             \
    return nullptr;                                                                                            \
  }

// ---------------------------------------------------------------- functions of CUDA

static inline void __syncthreads() { host_block_barrier(); }
static inline void __syncwarp() { host_warp_barrier(); }
// Shuffles, of whole warps: every lane shows its value and takes that of another.
static inline unsigned linear_thread() { return threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z); }
template <class T>
static inline T value_of_thread(unsigned other, T mine) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  memcpy(&host_exchanged[linear_thread()], &mine, sizeof mine);
  host_warp_barrier();
  memcpy(&mine, &host_exchanged[other], sizeof mine);
  host_warp_barrier();
  return mine;
}
template <class T>
static inline T __shfl_xor_sync(unsigned, T value, int distance, int) {
  return value_of_thread(linear_thread() ^ distance, value);
}
template <class T>
static inline T __shfl_up_sync(unsigned, T value, unsigned distance, int) {
  const unsigned me = linear_thread();
  return value_of_thread(me % warpSize < distance ? me : me - distance, value);
}

template <class T, class U>
static inline T atomicAdd(T* at, U by) {
  T old = *at;
  *at = old + by;
  return old;
}
template <class T, class U>
static inline T atomicMax(T* at, U other) {
  T old = *at;
  if ((T)other > old) *at = other;
  return old;
}
template <class T, class U>
static inline T atomicMin(T* at, U other) {
  T old = *at;
  if ((T)other < old) *at = other;
  return old;
}
template <class T>
static inline T atomicCAS(T* at, T expected, T wanted) {
  T old = *at;
  if (old == expected) *at = wanted;
  return old;
}
template <class T, class U>
static inline T atomicExch(T* at, U wanted) {
  T old = *at;
  *at = wanted;
  return old;
}

template <class To, class From>
static inline To same_bits(From x) {
  static_assert(sizeof(To) == sizeof(From));
  To out;
  memcpy(&out, &x, sizeof x);
  return out;
}
static inline int __float_as_int(float x) { return same_bits<int>(x); }
static inline unsigned __float_as_uint(float x) { return same_bits<unsigned>(x); }
static inline float __int_as_float(int x) { return same_bits<float>(x); }
static inline float __uint_as_float(unsigned x) { return same_bits<float>(x); }
static inline long long __double_as_longlong(double x) { return same_bits<long long>(x); }
static inline double __longlong_as_double(long long x) { return same_bits<double>(x); }

static inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
static inline int __clzll(long long x) { return x ? __builtin_clzll(x) : 64; }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __ffsll(long long x) { return __builtin_ffsll(x); }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }

static inline float __fdividef(float a, float b) { return a / b; }
static inline long long __float2ll_rn(float x) { return llrintf(x); }
static inline double rsqrt(double x) { return 1 / sqrt(x); }
static inline float rsqrt(float x) { return 1 / sqrtf(x); }
static inline double sinpi(double x) { return sin(M_PI * x); }
static inline double cospi(double x) { return cos(M_PI * x); }
template <class T>
static inline T min(T a, T b) {
  return b < a ? b : a;
}
template <class T>
static inline T max(T a, T b) {
  return a < b ? b : a;
}
using std::abs;
using std::ceil;
using std::cos;
using std::exp;
using std::fabs;
using std::floor;
using std::fmod;
using std::isfinite;
using std::isinf;
using std::isnan;
using std::log;
using std::pow;
using std::signbit;
using std::sin;
using std::sqrt;

#include <cupy/complex.cuh>
#include <cupy/carray.cuh>
#include <cupy/atomics.cuh>
#include <cupy/math_constants.h>
