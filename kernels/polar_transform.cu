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
// ring_sums: one block of 8 warps a pattern and range of rings. A warp takes 32 pixels of a row at a time. Along a row
// the ring number falls and then rises, so that pixels of the same ring are neighbours. Their sum is made by shuffles,
// and one lane adds it to the warp's own histogram in shared memory (8 warps x rings x 12 bytes). Lanes where the
// number falls add before those where it rises, so that no two lanes write one place at the same time. Histograms of
// warps are added in order, so there are no atomics and one order of summation. The ring number comes from single
// precision. Where the radius is too close to the border of a ring, it comes from double, with the operations of the
// definition. bytes: the pattern once, 16 a ring out.   flops: 60 a pixel, most of them integer.   bound: issue slots.
//
// budget(polar_samples.*): 48 registers, 0 bytes shared
// budget(ring_sums.*): 64 registers, 0 bytes shared
#include "common.cuh"

#define WARPS 8

DEVICE bool is_finite(double v) { return v - v == 0; }

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

struct Rings {  // gives the ring of a pixel: r = scale |M (q - origin)|
  double ox, oy, xx, xy, yy, scale;
  int n_r;
};

// Ring of a pixel with the operations of the definition, so that it is the same.
DEVICE int exact_ring(const Rings& k, int x, int y) {
  const double dx = __dadd_rn(x, -k.ox), dy = __dadd_rn(y, -k.oy);
  const double u = __dadd_rn(__dmul_rn(k.xx, dx), __dmul_rn(k.xy, dy));
  const double v = __dadd_rn(__dmul_rn(k.xy, dx), __dmul_rn(k.yy, dy));
  const double r = __dmul_rn(sqrt(__dadd_rn(__dmul_rn(u, u), __dmul_rn(v, v))), k.scale);
  return r < k.n_r ? int(r) : k.n_r;
}

// One run of equal rings: `last` is its last lane, `ok` the lanes whose pixels count.
template <class Sum, class Run>
DEVICE void add_run(Sum* sums, u32* counts, int ring, Run value, int lane, int last, u32 ok) {
  sums[ring] += Sum(value);
  counts[ring] += __popc((ok >> lane) & (0xffffffffu >> (31 - (last - lane))));
}

template <class Pixel, class Run, class Sum>
DEVICE void ring_sums(const Pixel* __restrict__ patterns, const double* __restrict__ origins,
                      const u8* __restrict__ mask, Sum* __restrict__ sums, offset_t* __restrict__ pixels, double xx,
                      double xy, double yy, double scale, float slack, int nx, int ny, int n_r, int rings, int ranges) {
  DYNAMIC_SHARED(Sum, histogram);
  u32* number = reinterpret_cast<u32*>(histogram + WARPS * rings);
  const offset_t pattern = blockIdx.x / ranges;
  const int first = (blockIdx.x % ranges) * rings;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  for (int i = threadIdx.x; i < WARPS * rings; i += blockDim.x) histogram[i] = 0, number[i] = 0;
  __syncthreads();

  const Rings place = {origins[2 * pattern], origins[2 * pattern + 1], xx, xy, yy, scale, n_r};
  const bool known = is_finite(place.ox) && is_finite(place.oy) && fabs(place.ox) < 1e6 && fabs(place.oy) < 1e6;
  const int ix = known ? int(floor(place.ox)) : 0, iy = known ? int(floor(place.oy)) : 0;
  const float fx = float(place.ox - ix), fy = float(place.oy - iy);
  const float m00 = float(xx * scale), m01 = float(xy * scale), m11 = float(yy * scale);
  const Pixel* frame = patterns + pattern * nx * ny;
  Sum* my_sums = histogram + warp * rings - first;
  u32* my_number = number + warp * rings - first;
  const int chunks = (ny + 31) / 32;
  for (int chunk = warp; known && chunk < nx * chunks; chunk += WARPS) {
    const int x = chunk / chunks, y = (chunk % chunks) * 32 + lane;
    int ring = n_r;
    Run value = 0;
    bool counts = false;
    if (y < ny) {
      const float dx = float(x - ix) - fx, dy = float(y - iy) - fy;
      const float u = m00 * dx + m01 * dy, v = m01 * dx + m11 * dy;
      const float r = sqrtf(u * u + v * v), border = slack * r + 1e-5f;
      if (r < n_r + 1.0f) {
        ring = int(r);
        const float part = r - ring;
        if (part < border || part > 1 - border) ring = exact_ring(place, x, y);
        ring = ring < n_r ? ring : n_r;
      }
      const Pixel pixel = frame[x * ny + y];
      counts = is_finite(double(pixel)) && (!mask || mask[x * ny + y]);
      if (counts) value = Run(pixel);
    }
    const int before = __shfl_up_sync(FULL_WARP, ring, 1);
    const bool head = lane == 0 || ring != before;
    const u32 heads = __ballot_sync(FULL_WARP, head), ok = __ballot_sync(FULL_WARP, counts);
    const u32 later = lane == 31 ? 0 : heads >> (lane + 1);
    const int last = later ? lane + __ffs(later) - 1 : 31;
    for (int step = 1; step < 32; step *= 2) {
      if (!__any_sync(FULL_WARP, lane + step <= last)) break;
      const Run other = __shfl_down_sync(FULL_WARP, value, step);
      if (lane + step <= last) value += other;
    }
    const u32 rising = __ballot_sync(FULL_WARP, head && lane > 0 && ring > before);
    const u32 falling = __ballot_sync(FULL_WARP, head && lane > 0 && ring < before);
    const int turn = rising ? __ffs(rising) - 1 : 32;
    const bool mine = head && ring < n_r && ring >= first && ring < first + rings;
    if (turn < 32 && falling >> turn) {  // rounding where the number turns: one lane after the other
      for (int l = 0; l < 32; l++) {
        if (l == lane && mine) add_run(my_sums, my_number, ring, value, lane, last, ok);
        __syncwarp();
      }
    } else {
      if (mine && lane < turn) add_run(my_sums, my_number, ring, value, lane, last, ok);
      __syncwarp();
      if (mine && lane >= turn) add_run(my_sums, my_number, ring, value, lane, last, ok);
      __syncwarp();
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < rings && first + i < n_r; i += blockDim.x) {
    Sum total = 0;
    offset_t all = 0;
    for (int w = 0; w < WARPS; w++) total += histogram[w * rings + i], all += number[w * rings + i];
    sums[pattern * n_r + first + i] = total;
    pixels[pattern * n_r + first + i] = all;
  }
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
    ring_sums<Pixel, Run, Sum>(patterns, origins, mask, sums, pixels, xx, xy, yy, scale, slack, nx, ny, n_r, rings,  \
                               ranges);                                                                              \
  }
INSTANCE(u8, u8, u32, long long)
INSTANCE(u16, u16, u32, long long)
INSTANCE(u32, u32, long long, long long)
INSTANCE(f32, float, double, double)
