// common.cuh -- what every kernel file shares: short names, shared memory, complex arithmetic, sums over a block.
#pragma once

#define DEVICE __device__ __forceinline__
#define UNROLL _Pragma("unroll")
#define FULL_WARP 0xffffffffu

// Dynamic shared memory of the block as an array of T. The host shim has its own.
#ifndef CUDA_ON_HOST
#define DYNAMIC_SHARED(T, name)                                      \
  extern __shared__ __align__(16) unsigned char name##_raw[];        \
  T* name = reinterpret_cast<T*>(name##_raw)
#endif

// Offsets into scan x detector arrays have 64 bits: a scan has more than 2^31 pixels before it has 4 GB.
typedef long long offset_t;
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

// One instance of a kernel template per pixel type that detectors write; the launcher picks by dtype (kernels/pixels.py).
#define FOR_EACH_PIXEL(INSTANCE) INSTANCE(u8, u8) INSTANCE(u16, u16) INSTANCE(u32, u32) INSTANCE(f32, float)

template <class T> DEVICE T warp_sum(T v) {
  UNROLL for (int step = 16; step; step >>= 1) v += __shfl_down_sync(FULL_WARP, v, step);
  return v;
}

// Sum over a block of whole warps, in a fixed order; thread 0 has it. `part` holds one value a warp; barriers before and
// behind make it usable again at once.
template <class T> DEVICE T block_sum(T v, T* part) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
  v = warp_sum(v);
  __syncthreads();
  if (lane == 0) part[warp] = v;
  __syncthreads();
  if (warp == 0) v = warp_sum(lane < warps ? part[lane] : T(0));
  return v;
}
