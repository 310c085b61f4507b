// eight_sums.cuh -- sums over a warp of eight values at once: 9 shuffles instead of 40.
#pragma once
#include "common.cuh"

// Sums of eight values over a warp. Lane l returns the sum of value l % 8.
template <class T>
DEVICE T eight_sums(T* v) {
  const int lane = threadIdx.x & 31;
  UNROLL for (int half = 4; half; half >>= 1) {
    const bool high = lane & half;
    UNROLL for (int k = 0; k < half; k++) {
      const T given = high ? v[k] : v[k + half], kept = high ? v[k + half] : v[k];
      v[k] = kept + __shfl_xor_sync(FULL_WARP, given, half);
    }
  }
  v[0] += __shfl_xor_sync(FULL_WARP, v[0], 8);
  return v[0] + __shfl_xor_sync(FULL_WARP, v[0], 16);
}
