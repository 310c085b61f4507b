// polar_transform.cu -- patterns in polar-elliptical coordinates about their own origins, and sums over rings.
//   patterns    (n, nx, ny)          native dtype
//   origins     (n, 2)               double; not finite = no answer
//   mask        (nx, ny)             bytes, 0 = does not count; null = all count
//   directions  (n_theta, 2)         double: detector pixels per pixel of radius
//   polar       (n, n_theta, n_r)    float
//   sums, pixels  (n, n_r)           int64 of counts, double of float32; int64
//
// polar_samples: one thread a sample, radius fastest, 256 a block, grid n * ceil(n_theta n_r / 256). Coordinates are
// in double precision without fused multiply-adds, so that the nearest pixel, which decides whether a sample counts,
// is that of the definition. bytes: the pattern once (further reads come from L1 and L2), 4 a sample.   flops: 40
// (double) a sample.
//
// ring_sums: see rings.cuh; 12 bytes of shared memory a ring and warp. bytes: the pattern once, 16 a ring out.
// flops: 60 a pixel, most of them integer.   bound: issue slots.
//
// budget(polar_samples.*): 48 registers, 0 bytes shared
// budget(ring_sums.*): 64 registers, 0 bytes shared
#include "rings.cuh"

template <class Pixel>
DEVICE void polar_samples(const Pixel* __restrict__ patterns, const double* __restrict__ origins,
                          const u8* __restrict__ mask, const double* __restrict__ directions, float* __restrict__ polar,
                          double dr, int nx, int ny, int n_theta, int n_r, int blocks) {
  const offset_t pattern = blockIdx.x / blocks;
  const int i = (blockIdx.x % blocks) * 256 + threadIdx.x;
  if (i >= n_theta * n_r) return;
  const int theta = i / n_r;
  const double radius = __dmul_rn(i % n_r + 0.5, dr);
  double x = __dadd_rn(origins[2 * pattern], __dmul_rn(radius, directions[2 * theta]));
  double y = __dadd_rn(origins[2 * pattern + 1], __dmul_rn(radius, directions[2 * theta + 1]));
  const bool known = is_finite(origins[2 * pattern]) && is_finite(origins[2 * pattern + 1]);
  x = known ? fmin(fmax(x, -2.0), nx + 1.0) : -2.0;
  y = known ? fmin(fmax(y, -2.0), ny + 1.0) : -2.0;
  const double x0 = floor(x), y0 = floor(y), fx = x - x0, fy = y - y0;
  const Pixel* frame = patterns + pattern * nx * ny;
  double total = 0, weights = 0;
  bool nearest = false;
  UNROLL for (int k = 0; k < 4; k++) {
    const int a = k >> 1, b = k & 1;
    const int px = int(x0) + a, py = int(y0) + b;
    if (px < 0 || py < 0 || px >= nx || py >= ny) continue;
    const int j = px * ny + py;
    const double value = frame[j];
    if (!is_finite(value) || (mask && !mask[j])) continue;
    const double weight = (a ? fx : 1 - fx) * (b ? fy : 1 - fy);
    total += weight * value;
    weights += weight;
    if ((fx >= 0.5) == a && (fy >= 0.5) == b) nearest = true;
  }
  polar[pattern * n_theta * n_r + i] = nearest ? float(total / weights) : __uint_as_float(0x7fc00000u);
}

#define INSTANCE(NAME, Pixel, Run, Sum)                                                                              \
  extern "C" __global__ void __launch_bounds__(256)                                                                  \
      polar_samples_##NAME(const Pixel* __restrict__ patterns, const double* __restrict__ origins,                   \
                           const u8* __restrict__ mask, const double* __restrict__ directions,                       \
                           float* __restrict__ polar, double dr, int nx, int ny, int n_theta, int n_r, int blocks) { \
    polar_samples<Pixel>(patterns, origins, mask, directions, polar, dr, nx, ny, n_theta, n_r, blocks);              \
  }                                                                                                                  \
  extern "C" __global__ void __launch_bounds__(256, 4) ring_sums_##NAME(                                             \
      const Pixel* __restrict__ patterns, const double* __restrict__ origins, const u8* __restrict__ mask,           \
      Sum* __restrict__ sums, offset_t* __restrict__ pixels, double xx, double xy, double yy, double scale,          \
      float slack, int nx, int ny, int n_r, int rings, int ranges) {                                                 \
    const offset_t pattern = blockIdx.x / ranges;                                                                    \
    const Rings place = {origins[2 * pattern], origins[2 * pattern + 1], xx, xy, xy, yy, scale, slack, n_r};          \
    const Detector detector = {nx, ny, mask};                                                                        \
    ring_sums<Pixel, Run, Sum, Sum, false>(patterns, pattern, place, detector, sums, (Sum*)0, pixels, rings, ranges); \
  }
INSTANCE(u8, u8, u32, long long)
INSTANCE(u16, u16, u32, long long)
INSTANCE(u32, u32, long long, long long)
INSTANCE(f32, float, double, double)
