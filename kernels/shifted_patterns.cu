// shifted_patterns.cu -- every pattern moved by its own shift, bilinearly, wrapping round.
//   patterns  (n, nx, ny)  native dtype, y fastest
//   shifts    (n, 2)       double; not finite: the pattern becomes NaN
//   out       (n, nx, ny)  double
// One pixel a thread, 256 a block, grid n * blocks. A thread reads four pixels; neighbours read the same ones, so that
// the pattern comes from memory once. The first two threads split the shift into whole and part and reduce it to the
// detector for the whole block, because that needs divisions of 64 bits.
//
// bytes: the pattern once, and 8 a pixel out.   flops: 9 a pixel in double, rounded one by one as in the definition.
//
// bound: memory.
//
// budget: 40 registers, 32 bytes shared
#include "common.cuh"

// Whole part and remainder of a shift. A shift that is not finite has whole part 0 and remainder NaN.
DEVICE void split(double shift, double& whole, double& part) {
  whole = isfinite(shift) ? floor(shift) : 0.0;
  part = __dadd_rn(shift, -whole);
}

// The pixel of an axis that pixel 0 comes from.
DEVICE int origin(double whole, int size) {
  const offset_t at = -offset_t(whole) % size;
  return int(at < 0 ? at + size : at);
}

DEVICE int wrapped(int i, int size) { return i < size ? i : i - size; }

DEVICE double mix(double near, double far, double part) {
  return __dadd_rn(__dmul_rn(near, __dadd_rn(1.0, -part)), __dmul_rn(far, part));
}

template <class Pixel>
DEVICE void shifted_patterns(const Pixel* __restrict__ patterns, const double* __restrict__ shifts,
                             double* __restrict__ out, int nx, int ny, int blocks) {
  __shared__ double part[2];
  __shared__ int from[2];
  const int i = int(blockIdx.x % blocks) * 256 + threadIdx.x;
  const offset_t pattern = blockIdx.x / blocks;
  if (threadIdx.x < 2) {
    double whole;
    split(shifts[2 * pattern + threadIdx.x], whole, part[threadIdx.x]);
    from[threadIdx.x] = origin(whole, threadIdx.x ? ny : nx);
  }
  __syncthreads();
  if (i >= nx * ny) return;
  const Pixel* frame = patterns + pattern * nx * ny;
  const double part_x = part[0], part_y = part[1];
  const int x = wrapped(i / ny + from[0], nx), y = wrapped(i % ny + from[1], ny);
  const int x1 = x ? x - 1 : nx - 1, y1 = y ? y - 1 : ny - 1;
  const double near = mix(double(frame[x * ny + y]), double(frame[x1 * ny + y]), part_x);
  const double far = mix(double(frame[x * ny + y1]), double(frame[x1 * ny + y1]), part_x);
  out[pattern * nx * ny + i] = mix(near, far, part_y);
}

#define INSTANCE(NAME, Pixel)                                                                        \
  extern "C" __global__ void __launch_bounds__(256)                                                  \
      shifted_patterns_##NAME(const Pixel* __restrict__ patterns, const double* __restrict__ shifts, \
                              double* __restrict__ out, int nx, int ny, int blocks) {                \
    shifted_patterns(patterns, shifts, out, nx, ny, blocks);                                         \
  }
FOR_EACH_PIXEL(INSTANCE)
