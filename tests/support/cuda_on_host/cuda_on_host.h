// cuda_on_host.h -- runs a CUDA C++ kernel, unchanged, on one CPU thread (test instrument, not a product path).
// Every CUDA thread of a block is a fiber on its own stack; fibers switch without a system call (assembly on x86-64,
// else _setjmp). Blocks run one after another, so atomics are plain read-modify-writes and results are deterministic
// for a seed. What it finds that a GPU run may not: divergent barriers, shuffles naming absent lanes, reads of shared
// memory nobody wrote (poisoned with 0xFF = NaN before each block), and missing barriers (the order of threads is
// shuffled by seed).
#pragma once
#include <setjmp.h>
#include <ucontext.h>
#include <sys/mman.h>
#include <link.h>
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>
#include <tuple>

#define __global__
#define __device__  // was `static`: that turned __device__ member functions into static members
#define __host__
#define __constant__ static
#define __shared__ \
  static thread_local  // so the library's TLS segment is exactly the block's static shared memory, templates too
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define DYNAMIC_SHARED(T, name) \
  T* name = reinterpret_cast<T*>(coh::dynamic_shared())  // kernels/common.cuh has the CUDA twin

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) double2 {
  double x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct int2 {
  int x, y;
};
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline double2 make_double2(double x, double y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

// -DRACE_CHECK: a detector (tests/kernels/racecheck/detector.cpp) is told which thread runs, what memory to watch and
// what orders threads.
#ifdef RACE_CHECK
#define TELL_DETECTOR(...) __VA_ARGS__
extern "C" {
void race_launch_begins(void (*step_aside)());
void race_watch(const void* begin, size_t bytes, const char* name, bool shared);
void race_block_begins(unsigned threads);
void race_thread_runs(unsigned thread);
void race_block_joined();
void race_warp_joined(unsigned warp, unsigned mask, bool orders_memory);
void race_atomic(bool begins);
void race_launch_ends();
}
#else
#define TELL_DETECTOR(...)
#endif
static uint3 threadIdx, blockIdx;
static dim3 blockDim, gridDim;
static constexpr int warpSize = 32;

namespace coh {
enum State : uint8_t { READY, AT_BLOCK, AT_WARP, DONE };
struct Warp {
  uint64_t slot[2][32];
  uint32_t slot_mask[2];
  unsigned arrived;
  unsigned generation;
};
struct Fiber {
  jmp_buf here;
  void* sp;
  char* top;
  ucontext_t start;
  bool started;
  State state;
  unsigned linear;
  uint3 tid;
  unsigned waits_for;
};

static std::vector<Fiber> fibers;
static std::vector<Warp> warps;
static std::vector<unsigned> order;
static std::vector<char> dynamic;
static jmp_buf scheduler;
static Fiber* current;
static unsigned n_threads, n_done, n_at_block, block_generation;
static uint64_t rng_state = 1;
static char error[256];
static bool failed;
static void (*body)(void*);
static void* body_args;
static unsigned first_block;  // the blocks before it are left out: the far end of a large grid is reached at once
static constexpr size_t STACK = 512 * 1024;

static inline void* dynamic_shared() { return dynamic.data(); }
static inline uint64_t rng() {
  rng_state ^= rng_state << 13;
  rng_state ^= rng_state >> 7;
  return rng_state ^= rng_state << 17;
}

#if defined(__x86_64__)
// CuPy compiles with -ftz=true: subnormal numbers are zero, as operands and as results. (Here in double precision, too.)
struct FlushedToZero {
  const unsigned before = __builtin_ia32_stmxcsr();
  FlushedToZero() { __builtin_ia32_ldmxcsr(before | 0x8040); }
  ~FlushedToZero() { __builtin_ia32_ldmxcsr(before); }
};
// swap(&from, to): push the callee-saved registers, exchange stack pointers, pop (System V ABI)
__attribute__((naked, noinline)) static void swap(void** from, void* to) {
  __asm__(
      "push %rbp\n push %rbx\n push %r12\n push %r13\n push %r14\n push %r15\n mov %rsp, (%rdi)\n mov %rsi, %rsp\n pop "
      "%r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbx\n pop %rbp\n ret");
}
static void* scheduler_sp;
static inline void yield_to_scheduler() { swap(&current->sp, scheduler_sp); }
#else
struct FlushedToZero {};
static inline void yield_to_scheduler() {
  if (!_setjmp(current->here)) _longjmp(scheduler, 1);
}
#endif

static void fiber_main() {  // one CUDA thread after another lives on this stack
  for (;;) {
    body(body_args);
    current->state = DONE;
    n_done++;
    yield_to_scheduler();
  }
}

static inline void block_barrier() {
  Fiber* f = current;
  f->state = AT_BLOCK;
  n_at_block++;
  yield_to_scheduler();
}
static inline unsigned warp_size_of(unsigned w) {
  unsigned left = n_threads - w * 32;
  return left < 32 ? left : 32;
}

// every lane of `mask` meets here; returns the parity of the slots they wrote
template <class T>
static inline unsigned warp_exchange(unsigned mask, T v, bool orders_memory = false) {
  static_assert(sizeof(T) <= 8, "shuffles move at most 8 bytes");
  Fiber* f = current;
  unsigned lane = f->linear & 31;
  Warp& w = warps[f->linear >> 5];
  unsigned full = warp_size_of(f->linear >> 5) == 32 ? 0xffffffffu : (1u << warp_size_of(f->linear >> 5)) - 1;
  if (!failed && !((mask >> lane) & 1)) {
    failed = true;
    snprintf(error, sizeof error, "thread %u calls a warp collective with mask %08x that does not name its lane",
             f->linear, mask);
  }
  if (mask == 0xffffffffu) mask = full;
  unsigned parity = w.generation & 1;
  memcpy(&w.slot[parity][lane], &v, sizeof(T));
  w.arrived |= 1u << lane;
  f->waits_for = mask;
  if ((w.arrived & mask) == mask) {
    w.slot_mask[parity] = w.arrived;
    w.arrived &= ~mask;
    w.generation++;
    TELL_DETECTOR(race_warp_joined(f->linear >> 5, mask, orders_memory);)
    unsigned first = (f->linear >> 5) * 32;
    for (unsigned l = 0; l < 32 && first + l < n_threads; l++)
      if ((mask >> l & 1) && fibers[first + l].state == AT_WARP) fibers[first + l].state = READY;
    return parity;
  }
  f->state = AT_WARP;
  yield_to_scheduler();
  return parity;
}
template <class T>
static inline T slot(unsigned parity, unsigned lane) {
  T v;
  memcpy(&v, &warps[current->linear >> 5].slot[parity][lane], sizeof(T));
  return v;
}

#ifdef SHARED_STACKS  // of the process: where it opens many libraries, stacks of each would pass Linux's limit of mappings
}  // namespace coh
extern "C" char* stack_of_fiber(unsigned fiber, size_t size);
namespace coh {
#else
static char* stack_of_fiber(unsigned, size_t size) {
  char* s =
      (char*)mmap(nullptr, size + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  mprotect(s, 4096, PROT_NONE);  // a guard page: runaway locals fault instead of corrupting
  return s + 4096;
}
#endif

static void make_fibers(unsigned n) {
  if (fibers.size() >= n) return;
  size_t old = fibers.size();
  fibers.resize(n);
  if (old)
    for (auto& f : fibers) f.started = false;  // jmp_bufs moved: start afresh
  for (auto& f : fibers) {
    f.started = false;
    getcontext(&f.start);
    f.start.uc_stack.ss_sp = stack_of_fiber(&f - fibers.data(), STACK);
    f.start.uc_stack.ss_size = STACK - (&f - fibers.data()) % 61 * 192;
    f.start.uc_link = nullptr;
    makecontext(&f.start, fiber_main, 0);
    f.top = (char*)f.start.uc_stack.ss_sp + f.start.uc_stack.ss_size;
  }
}
static inline void resume(Fiber* f) {
  current = f;
  threadIdx = f->tid;
  TELL_DETECTOR(race_thread_runs(f->linear);)
#if defined(__x86_64__)
  if (!f->started) {
    f->started = true;
    void** sp = (void**)((uintptr_t)f->top & ~uintptr_t(15));
    *--sp = nullptr;
    *--sp = (void*)&fiber_main;
    sp -= 6;
    f->sp = sp;
  }
  swap(&scheduler_sp, f->sp);
  return;
#endif
  if (_setjmp(scheduler)) return;
  if (f->started) _longjmp(f->here, 1);
  f->started = true;
  setcontext(&f->start);
}
static thread_local char touch_tls = 1;
static void* shared_begin;
static size_t shared_size;
static int find_shared(dl_phdr_info* i, size_t, void*) {  // this library's TLS block, in this thread
  for (int k = 0; k < i->dlpi_phnum; k++)
    if (i->dlpi_phdr[k].p_type == PT_TLS) {
      char* b = (char*)i->dlpi_tls_data;
      size_t n = i->dlpi_phdr[k].p_memsz;
      if (b && &touch_tls >= b && &touch_tls < b + n) {
        shared_begin = b;
        shared_size = n;
        return 1;
      }
    }
  return 0;
}
enum Order { AS_THEY_ARE, THREADS_MIXED, WARP_BY_WARP };
static void run_block(Order shuffle) {
  TELL_DETECTOR(race_block_begins(n_threads);)
  n_done = n_at_block = 0;
  if (shared_begin) memset(shared_begin, 0xFF, shared_size);
  if (!dynamic.empty()) memset(dynamic.data(), 0xFF, dynamic.size());
  for (auto& w : warps) w = Warp{};
  for (unsigned i = 0; i < n_threads; i++) {
    Fiber& f = fibers[i];
    f.state = READY;
    f.linear = i;
    f.tid = {i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y)};
  }
  while (n_done < n_threads && !failed) {
    unsigned ran = 0;
    if (shuffle == WARP_BY_WARP) {
      const unsigned n = (n_threads + 31) / 32;
      for (unsigned i = 0; i < n; i++) order[i] = i;
      for (unsigned i = n - 1; i; i--) std::swap(order[i], order[rng() % (i + 1)]);
      for (unsigned k = 0; k < n; k++)  // as far ahead of the others as a warp can be
        for (unsigned before = ran - 1; before != ran;) {
          before = ran;
          const unsigned turn = rng() & 31;
          for (unsigned l = 0; l < 32; l++) {
            const unsigned t = order[k] * 32 + (l ^ turn);
            if (t < n_threads && fibers[t].state == READY) {
              resume(&fibers[t]);
              ran++;
            }
          }
        }
    } else {
      if (shuffle == THREADS_MIXED)
        for (unsigned i = n_threads - 1; i; i--) std::swap(order[i], order[rng() % (i + 1)]);
      for (unsigned k = 0; k < n_threads; k++) {
        Fiber* f = &fibers[order[k]];
        if (f->state == READY) {
          resume(f);
          ran++;
        }
      }
    }
    if (n_at_block && n_at_block + n_done == n_threads) {
      if (n_done && !failed) {
        failed = true;
        snprintf(error, sizeof error, "block (%u,%u,%u): %u threads wait at __syncthreads but %u have returned",
                 blockIdx.x, blockIdx.y, blockIdx.z, n_at_block, n_done);
      }
      for (unsigned i = 0; i < n_threads; i++)
        if (fibers[i].state == AT_BLOCK) fibers[i].state = READY;
      n_at_block = 0;
      TELL_DETECTOR(race_block_joined();)
      continue;
    }
    if (!ran && !failed) {
      failed = true;
      unsigned t = 0;
      while (fibers[t].state != AT_WARP) t++;
      snprintf(error, sizeof error, "block (%u,%u,%u): thread %u waits for warp lanes %08x that never come", blockIdx.x,
               blockIdx.y, blockIdx.z, t, fibers[t].waits_for);
    }
  }
  if (failed)
    for (auto& f : fibers) f.started = false;
}
static const char* launch(void (*b)(void*), void* args, dim3 g, dim3 t, size_t shmem, uint64_t seed) {
  const FlushedToZero as_on_a_gpu;
  body = b;
  body_args = args;
  gridDim = g;
  blockDim = t;
  n_threads = t.x * t.y * t.z;
  failed = false;
  error[0] = 0;
  rng_state = seed * 0x9E3779B97F4A7C15ull | 1;
  make_fibers(n_threads);
#ifdef SHARED_STACKS
  for (auto& f : fibers) f.started = false;  // kernels of other libraries have been on these stacks
#endif
  warps.assign((n_threads + 31) / 32, Warp{});
  dynamic.assign(shmem, 0);
  touch_tls = 1;
  dl_iterate_phdr(find_shared, nullptr);
  TELL_DETECTOR(race_launch_begins(yield_to_scheduler);)
  TELL_DETECTOR(race_watch(shared_begin, shared_size, "static shared memory", true);)
  TELL_DETECTOR(race_watch(dynamic.data(), shmem, "dynamic shared memory", true);)
  order.resize(n_threads);
  for (unsigned i = 0; i < n_threads; i++)
    order[i] = seed == 1 ? n_threads - 1 - i : i;  // 0 forward, 1 backward, even mixed, odd warp by warp
  for (unsigned z = 0; z < g.z && !failed; z++)
    for (unsigned y = 0; y < g.y && !failed; y++)
      for (unsigned x = first_block; x < g.x && !failed; x++) {
        blockIdx = {x, y, z};
        run_block(seed < 2 ? AS_THEY_ARE : seed % 2 ? WARP_BY_WARP : THREADS_MIXED);
      }
  TELL_DETECTOR(race_launch_ends();)
  return failed ? error : nullptr;
}
template <class... A, size_t... I>
static void unpack(void (*f)(A...), void** a, std::index_sequence<I...>) {
  f(*reinterpret_cast<std::remove_reference_t<A>*>(a[I])...);
}
template <class... A>
struct Call {
  void (*f)(A...);
  void** a;
  static void go(void* p) {
    auto* c = (Call*)p;
    unpack(c->f, c->a, std::index_sequence_for<A...>{});
  }
};
template <class... A>
static const char* enter(void (*f)(A...), void** a, dim3 g, dim3 b, size_t s, uint64_t seed) {
  Call<A...> c{f, a};
  return launch(&Call<A...>::go, &c, g, b, s, seed);
}
}  // namespace coh

extern "C" void leave_out_blocks_before(unsigned x) { coh::first_block = x; }

// arguments come as cuLaunchKernel takes them: an array of pointers to the values
#define HOST_LAUNCHER(kernel)                                                                          \
  extern "C" const char* launch_##kernel(void** a, const unsigned* g, const unsigned* b, size_t shmem, \
                                         uint64_t seed) {                                              \
    return coh::enter(&kernel, a, dim3{g[0], g[1], g[2]}, dim3{b[0], b[1], b[2]}, shmem, seed);        \
  }

static inline void __syncthreads() { coh::block_barrier(); }
static inline void __syncwarp(unsigned m = 0xffffffffu) { coh::warp_exchange<int>(m, 0, true); }
static inline void __threadfence() {}
static inline void __threadfence_block() {}
template <class T>
static inline T __shfl_sync(unsigned m, T v, int src, int w = 32) {
  unsigned l = coh::current->linear & 31;
  unsigned p = coh::warp_exchange(m, v);
  return coh::slot<T>(p, (l & ~(w - 1)) | (src & (w - 1)));
}
template <class T>
static inline T __shfl_down_sync(unsigned m, T v, unsigned d, int w = 32) {
  unsigned l = coh::current->linear & 31;
  unsigned p = coh::warp_exchange(m, v);
  return (l & (w - 1)) + d < (unsigned)w ? coh::slot<T>(p, l + d) : v;
}
template <class T>
static inline T __shfl_up_sync(unsigned m, T v, unsigned d, int w = 32) {
  unsigned l = coh::current->linear & 31;
  unsigned p = coh::warp_exchange(m, v);
  return (l & (w - 1)) >= d ? coh::slot<T>(p, l - d) : v;
}
template <class T>
static inline T __shfl_xor_sync(unsigned m, T v, int x, int w = 32) {
  (void)w;
  unsigned l = coh::current->linear & 31;
  unsigned p = coh::warp_exchange(m, v);
  return coh::slot<T>(p, l ^ x);
}
static inline unsigned __ballot_sync(unsigned m, int pred) {
  unsigned p = coh::warp_exchange<int>(m, pred != 0), r = 0;
  for (unsigned l = 0; l < 32; l++)
    if ((m >> l & 1) && coh::slot<int>(p, l) == 1) r |= 1u << l;
  return r;
}
static inline unsigned __reduce_add_sync(unsigned m, unsigned v) {
  unsigned p = coh::warp_exchange(m, v), sum = 0;
  for (unsigned l = 0; l < coh::warp_size_of(coh::current->linear >> 5); l++)
    if (m >> l & 1) sum += coh::slot<unsigned>(p, l);
  return sum;
}
static inline int __any_sync(unsigned m, int p) { return __ballot_sync(m, p) != 0; }
template <class T>
static inline T __ldg(const T* p) {
  return *p;
}
template <class T, class U>
static inline T atomicAdd(T* p, U v) {
  TELL_DETECTOR(race_atomic(true);)
  T o = *p;
  *p = o + (T)v;
  TELL_DETECTOR(race_atomic(false);)
  return o;
}
template <class T, class U>
static inline T atomicMax(T* p, U v) {
  TELL_DETECTOR(race_atomic(true);)
  T o = *p;
  if ((T)v > o) *p = (T)v;
  TELL_DETECTOR(race_atomic(false);)
  return o;
}
template <class T, class U>
static inline T atomicOr(T* p, U v) {
  TELL_DETECTOR(race_atomic(true);)
  T o = *p;
  *p = o | (T)v;
  TELL_DETECTOR(race_atomic(false);)
  return o;
}
static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline double rsqrt(double x) { return 1.0 / sqrt(x); }
static inline void sincospif(float x, float* s, float* c) {
  *s = (float)sin(3.14159265358979323846 * x);
  *c = (float)cos(3.14159265358979323846 * x);
}
static inline void sincospi(double x, double* s, double* c) {
  *s = sin(3.14159265358979323846 * x);
  *c = cos(3.14159265358979323846 * x);
}
using std::isfinite;
using std::isnan;
using std::max;
using std::min;
// rounded one by one, where a compiler might fuse a product into a sum
static inline double __dmul_rn(double a, double b) { return a * b; }
static inline double __dadd_rn(double a, double b) { return a + b; }
// SIMD in a word: maxima of bytes and half words, and dot products with bytes, unsigned
static inline unsigned __vmaxu4(unsigned a, unsigned b) {
  unsigned out = 0;
  for (int i = 0; i < 32; i += 8) out |= std::max(a >> i & 0xff, b >> i & 0xff) << i;
  return out;
}
static inline unsigned __vmaxu2(unsigned a, unsigned b) {
  return std::max(a & 0xffff, b & 0xffff) | std::max(a >> 16, b >> 16) << 16;
}
static inline unsigned __dp4a(unsigned a, unsigned b, unsigned c) {
  for (int i = 0; i < 32; i += 8) c += (a >> i & 0xff) * (b >> i & 0xff);
  return c;
}
static inline unsigned __dp2a_lo(unsigned a, unsigned b, unsigned c) {
  return c + (a & 0xffff) * (b & 0xff) + (a >> 16) * (b >> 8 & 0xff);
}
static inline unsigned __dp2a_hi(unsigned a, unsigned b, unsigned c) { return __dp2a_lo(a, b >> 16, c); }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }

static inline unsigned __float_as_uint(float x) {
  unsigned u;
  memcpy(&u, &x, 4);
  return u;
}
static inline float __uint_as_float(unsigned u) {
  float x;
  memcpy(&x, &u, 4);
  return x;
}
static inline int __ffs(unsigned x) { return __builtin_ffs((int)x); }
#define __log2f log2f  // glibc already declares a __log2f

// -DCOUNT_BANKS: every shared access of a block is noted as (warp, source line, how often this lane was here) ->
// addresses; afterwards the wavefronts are counted as the hardware would: 32 banks of 4 bytes; 8-byte accesses go by
// half-warps, 16-byte ones by quarter-warps.
namespace coh {
#ifdef COUNT_BANKS
}
#include <map>
#include <set>
namespace coh {
struct Access {
  std::vector<std::pair<unsigned, uintptr_t>> lanes;
  int bytes;
};
static std::map<std::tuple<int, unsigned, unsigned>, Access> accesses;  // (line, warp, occurrence)
static std::map<std::pair<int, unsigned>, unsigned> occurrence;         // (line, thread)
static inline void note_access(const void* p, int bytes, int site) {
  unsigned n = occurrence[{site, current->linear}]++;
  auto& a = accesses[{site, current->linear >> 5, n}];
  a.bytes = bytes;
  a.lanes.push_back({current->linear & 31, (uintptr_t)p});
}
#else
static inline void note_access(const void*, int, int) {}
#endif
}  // namespace coh
#ifdef COUNT_BANKS
extern "C" int bank_report(int* line, long long* requests, long long* waves, long long* best, long long* bytes,
                           int most) {
  std::map<int, std::tuple<long long, long long, long long, long long>> sum;
  for (auto& [key, a] : coh::accesses) {
    int split = a.bytes == 16 ? 4 : a.bytes == 8 ? 2 : 1, lanes = 32 / split;
    long long w = 0, ideal = 0;
    for (int s = 0; s < split; s++) {
      std::set<uintptr_t> words;
      for (auto& [l, p] : a.lanes)
        if ((int)l / lanes == s)
          for (int b = 0; b < a.bytes; b += 4) words.insert((p + b) / 4);
      int load[32] = {}, most_in_bank = 0;
      for (auto x : words) most_in_bank = std::max(most_in_bank, ++load[x % 32]);
      w += most_in_bank;
      ideal += (words.size() + 31) / 32;
    }
    auto& [r, ww, ii, bb] = sum[std::get<0>(key)];
    r++;
    ww += w;
    ii += ideal;
    bb += a.lanes.size() * a.bytes;
  }
  int n = 0;
  for (auto& [l, t] : sum)
    if (n < most) {
      line[n] = l;
      requests[n] = std::get<0>(t);
      waves[n] = std::get<1>(t);
      best[n] = std::get<2>(t);
      bytes[n] = std::get<3>(t);
      n++;
    }
  coh::accesses.clear();
  coh::occurrence.clear();
  return n;
}
#endif
