// masked_sums.cu -- sums of every pattern under weights, and over disks and annuli about its own centre.
//   patterns  (n, nx, ny)          native dtype, y fastest
//   weights   (masks, nx, ny)      double; a weight of zero does not look at its pixel
//   centers   (n, 2)               double
//   radii     (rings, 2)           double: inner (negative: a full disk) and outer
//   mask      (nx, ny)             bytes, 0 = does not count; null = all count
//   sums      (n, masks or rings)  double
// One block of 256 threads a pattern; four masks or rings at a time, so that their sums stay in registers.
// weighted_sums: thread t takes pixels t, t + 256, ...  annular_sums: a warp takes a row of the box about the rings.
// bytes: the pattern once for every four masks (from L2 after the first); 8 a pixel and mask of weights, kept in L2.
// flops: 2 a pixel and mask in double; 5 a pixel and 3 comparisons a ring.
// bound: weights: L2; annuli: double precision.
// budget: 80 registers, 256 bytes shared
#include "common.cuh"

constexpr int AT_ONCE = 4;

template <class Pixel>
DEVICE void weighted_sums(const Pixel* __restrict__ patterns, const double* __restrict__ weights,
                          double* __restrict__ sums, int pixels, int masks) {
  __shared__ double part[32];
  const offset_t pattern = blockIdx.x;
  const Pixel* frame = patterns + pattern * pixels;
  for (int first = 0; first < masks; first += AT_ONCE) {
    double sum[AT_ONCE] = {};
    for (int i = threadIdx.x; i < pixels; i += blockDim.x) {
      const double v = double(frame[i]);
      UNROLL for (int m = 0; m < AT_ONCE; m++) {
        if (first + m < masks) {
          const double w = weights[offset_t(first + m) * pixels + i];
          if (w != 0) sum[m] += v * w;
        }
      }
    }
    UNROLL for (int m = 0; m < AT_ONCE; m++) {
      const double total = block_sum(sum[m], part);
      if (threadIdx.x == 0 && first + m < masks) sums[pattern * masks + first + m] = total;
    }
  }
}

// First and one past the last whole number within `reach` of `centre`, on an axis of `size`.
DEVICE void range(double centre, double reach, int size, int& from, int& to) {
  from = int(fmax(0.0, fmin(double(size), floor(centre - reach))));
  to = int(fmax(0.0, fmin(double(size), ceil(centre + reach) + 1.0)));
}

template <class Pixel, class Sum>
DEVICE void annular_sums(const Pixel* __restrict__ patterns, const double* __restrict__ centers,
                         const double* __restrict__ radii, const u8* __restrict__ mask, double* __restrict__ sums,
                         int nx, int ny, int rings) {
  __shared__ Sum part[32];
  const offset_t pattern = blockIdx.x;
  const Pixel* frame = patterns + pattern * nx * ny;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
  const double cx = centers[2 * pattern], cy = centers[2 * pattern + 1];
  const bool known = isfinite(cx) && isfinite(cy);
  for (int first = 0; first < rings; first += AT_ONCE) {
    Sum sum[AT_ONCE] = {};
    double low[AT_ONCE], high[AT_ONCE], reach = 0;  // squares
    UNROLL for (int m = 0; m < AT_ONCE; m++) {
      const bool there = first + m < rings;
      const double inner = there ? radii[2 * (first + m)] : 0, outer = there ? radii[2 * (first + m) + 1] : 0;
      low[m] = inner < 0 ? -1 : inner * inner;
      high[m] = outer * outer;
      reach = fmax(reach, fabs(outer));
    }
    int x0 = 0, x1 = 0, y0 = 0, y1 = 0;
    if (known) range(cx, reach, nx, x0, x1), range(cy, reach, ny, y0, y1);
    for (int x = x0 + warp; x < x1; x += warps) {
      const double dx = x - cx, dx2 = __dmul_rn(dx, dx);
      for (int y = y0 + lane; y < y1; y += 32) {
        const double dy = y - cy, r2 = __dadd_rn(dx2, __dmul_rn(dy, dy));
        const int i = x * ny + y;
        if (mask && !mask[i]) continue;
        const Sum v = Sum(frame[i]);
        UNROLL for (int m = 0; m < AT_ONCE; m++) if (r2 > low[m] && r2 < high[m]) sum[m] += v;
      }
    }
    UNROLL for (int m = 0; m < AT_ONCE; m++) {
      const Sum total = block_sum(sum[m], part);
      if (threadIdx.x == 0 && first + m < rings)
        sums[pattern * rings + first + m] = known ? double(total) : cx * 0 + cy * 0;
    }
  }
}

#define INSTANCE(NAME, Pixel, Sum)                                                                              \
  extern "C" __global__ void __launch_bounds__(256)                                                             \
      weighted_sums_##NAME(const Pixel* __restrict__ patterns, const double* __restrict__ weights,              \
                           double* __restrict__ sums, int pixels, int masks) {                                  \
    weighted_sums(patterns, weights, sums, pixels, masks);                                                      \
  }                                                                                                             \
  extern "C" __global__ void __launch_bounds__(256, 3) annular_sums_##NAME(                                     \
      const Pixel* __restrict__ patterns, const double* __restrict__ centers, const double* __restrict__ radii, \
      const u8* __restrict__ mask, double* __restrict__ sums, int nx, int ny, int rings) {                      \
    annular_sums<Pixel, Sum>(patterns, centers, radii, mask, sums, nx, ny, rings);                              \
  }
INSTANCE(u8, u8, long long)
INSTANCE(u16, u16, long long)
INSTANCE(u32, u32, long long)
INSTANCE(f32, float, double)
