// pattern_sums.cu -- weighted sum over patterns, pixel by pixel. frame_reductions.cu makes the sum without weights and
// the maximum.
//   patterns  (n, pixels)       native dtype
//   weights   (n)               double
//   good      (n)               bytes: 0 = the pattern is left out
//   parts     (groups, pixels)  double
//   total     (pixels)          double
// weighted_patterns: grid (256 pixels, groups of patterns), one pixel a thread; add_parts adds the groups in order.
// finite_f32: one block a pattern finds out whether all of it is finite.
// bytes: the patterns once (float32: twice), and 16 a pixel and group for the parts.   flops: 2 a pixel, in double.
// bound: memory where double precision runs at half of single's rate, else the double units.
// budget: 56 registers, 256 bytes shared
#include "common.cuh"

template <class Pixel>
DEVICE void weighted_patterns(const Pixel* __restrict__ patterns, const double* __restrict__ weights,
                              const u8* __restrict__ good, double* __restrict__ parts, int n, int pixels, int group) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x, begin = blockIdx.y * group, end = min(n, begin + group);
  if (i >= pixels) return;
  double sum = 0;
  _Pragma("unroll 4") for (int f = begin; f < end; f++) if (good[f]) sum +=
      double(patterns[offset_t(f) * pixels + i]) * weights[f];
  parts[offset_t(blockIdx.y) * pixels + i] = sum;
}

#define INSTANCE(NAME, Pixel)                                                                              \
  extern "C" __global__ void __launch_bounds__(256) weighted_patterns_##NAME(                              \
      const Pixel* __restrict__ patterns, const double* __restrict__ weights, const u8* __restrict__ good, \
      double* __restrict__ parts, int n, int pixels, int group) {                                          \
    weighted_patterns(patterns, weights, good, parts, n, pixels, group);                                   \
  }
FOR_EACH_PIXEL(INSTANCE)

extern "C" __global__ void __launch_bounds__(256)
    add_parts(const double* __restrict__ parts, double* __restrict__ total, int groups, int pixels) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= pixels) return;
  double sum = 0;
  for (int g = 0; g < groups; g++) sum += parts[offset_t(g) * pixels + i];
  total[i] = sum;
}

extern "C" __global__ void __launch_bounds__(256)
    finite_f32(const float* __restrict__ patterns, u8* __restrict__ good, int pixels) {
  __shared__ int part[32];
  const float* frame = patterns + offset_t(blockIdx.x) * pixels;
  int broken = 0;
  for (int i = threadIdx.x; i < pixels; i += blockDim.x)
    broken += (__float_as_uint(frame[i]) & 0x7f800000u) == 0x7f800000u;
  broken = block_sum(broken, part);
  if (threadIdx.x == 0) good[blockIdx.x] = broken == 0;
}
