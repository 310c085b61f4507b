// common.cuh -- short names, shared memory, complex arithmetic and sums over a block, for every kernel file.
#pragma once

#define DEVICE __device__ __forceinline__
#define UNROLL _Pragma("unroll")
#define FULL_WARP 0xffffffffu

// Dynamic shared memory of the block as an array of T. The host shim has its own.
#ifndef CUDA_ON_HOST
#define DYNAMIC_SHARED(T, name)                               \
  extern __shared__ __align__(16) unsigned char name##_raw[]; \
  T* name = reinterpret_cast<T*>(name##_raw)
#endif

// Offsets into arrays of scan x detector have 64 bits, because a scan of less than 4 GB can have more than 2^31 pixels.
typedef long long offset_t;
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

// One instance of a kernel template for each pixel type that detectors write. The launcher chooses by dtype
// (kernels/pixels.py).
#ifdef ONE_PIXEL // tests compile one type alone for architectures that the kernels are not tuned for
#define FOR_EACH_PIXEL(INSTANCE) INSTANCE(u16, u16)
#else
#define FOR_EACH_PIXEL(INSTANCE) INSTANCE(u8, u8) INSTANCE(u16, u16) INSTANCE(u32, u32) INSTANCE(f32, float)
#endif

template <class T>
DEVICE T warp_sum(T v) {
  UNROLL for (int step = 16; step; step >>= 1) v += __shfl_down_sync(FULL_WARP, v, step);
  return v;
}

// Sum over a block of whole warps, in a fixed order. Only thread 0 has the result. `part` holds one value of each warp.
// It may be used again directly after the call, because there are barriers before and after the writes.
template <class T>
DEVICE T block_sum(T v, T* part) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
  v = warp_sum(v);
  __syncthreads();
  if (lane == 0) part[warp] = v;
  __syncthreads();
  if (warp == 0) v = warp_sum(lane < warps ? part[lane] : T(0));
  return v;
}

// Combine the values of a warp. Every lane gets the same bits, because both partners of a step combine the same two
// numbers.
template <class T, class Combine>
DEVICE T warp_all(T v, Combine combine) {
  UNROLL for (int step = 16; step; step >>= 1) v = combine(v, __shfl_xor_sync(FULL_WARP, v, step));
  return v;
}

// Combine the values of a block of `WARPS` whole warps. Every thread gets the same bits. `part` holds one value of each
// warp and may be used again after the call.
template <int WARPS, class T, class Combine>
DEVICE T block_all(T v, T* part, Combine combine) {
  v = warp_all(v, combine);
  if ((threadIdx.x & 31) == 0) part[threadIdx.x >> 5] = v;
  __syncthreads();
  v = part[0];
  UNROLL for (int w = 1; w < WARPS; w++) v = combine(v, part[w]);
  __syncthreads();
  return v;
}

DEVICE double nan_value() { return __uint_as_float(0x7fc00000u); }

// Complex numbers are float2 (real, imaginary).
DEVICE float2 operator+(float2 a, float2 b) { return make_float2(a.x + b.x, a.y + b.y); }
DEVICE float2 operator-(float2 a, float2 b) { return make_float2(a.x - b.x, a.y - b.y); }
DEVICE float2 operator*(float2 a, float2 b) { return make_float2(a.x * b.x - a.y * b.y, a.x * b.y + a.y * b.x); }
DEVICE float2 operator*(float2 a, float s) { return make_float2(a.x * s, a.y * s); }
DEVICE float2 conj(float2 a) { return make_float2(a.x, -a.y); }

// unrolled<0, n>([&](auto i) { ... decltype(i)::value is a compile-time constant ... })
template <int I>
struct Index {
  static constexpr int value = I;
};
template <int FIRST, int LAST, class Body>
DEVICE void unrolled(Body body) {
  if constexpr (FIRST < LAST) {
    body(Index<FIRST>{});
    unrolled<FIRST + 1, LAST>(body);
  }
}

// Return the value in a form that the compiler knows nothing about. What is computed from it (addresses, powers of a
// root) is then computed where it is used. Otherwise the compiler keeps it in registers across a whole kernel, and
// registers spill.
#ifdef CUDA_ON_HOST
DEVICE int fresh(int x) { return x; }
DEVICE float fresh(float x) { return x; }
#else
DEVICE int fresh(int x) {
  asm volatile("" : "+r"(x));
  return x;
}
DEVICE float fresh(float x) {
  asm volatile("" : "+f"(x));
  return x;
}
#endif
