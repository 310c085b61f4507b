// masked_sums.cu -- sums of every pattern under weights, and over disks and annuli about its own centre.
//   patterns  (n, nx, ny)             native dtype, y fastest
//   weights   (masks, nx, ny)         float or double; a pixel under a weight of zero is not read as a value
//   parts     (n, slices, masks)      double: sums over the pixels of a slice; one slice: the sums themselves
//   centers   (n, 2)                  double
//   radii     (rings, 2)              double: inner (negative: a full disk) and outer
//   mask      (nx, ny)                bytes, 0 = does not count; null = all count
//   sums      (n, masks or rings)     double
// weighted_sums: grid (groups of eight or four patterns, slices of the detector), blocks of 256 threads; thread t takes
// pixels t, t + 256, ... of a slice, two at a time, so that 16 loads of pixels are under way together. A weight is
// loaded once for eight patterns (four with 32 bits a pixel). Up to four masks are taken at a time, so that their 32
// sums stay in registers. add_slices: one thread a sum.
// annular_sums: one block of 256 threads a pattern, a warp takes a row of the box about the rings; four rings at once.
// Slices follow from the detector alone, and the order of a sum does not depend on the other patterns and masks of the
// call. So its bits do not either.
// bytes: weighted: the pattern once for every four masks (from L2 as far as it holds what is under way), half a byte
// (float) or a byte a pixel and mask of weights, from L2. annuli: the pattern once for every four rings.
// flops: 2 a pixel and mask in double, 1 for its conversion; 5 a pixel and 3 comparisons a ring.
// bound: weights: memory up to four masks on cards with half the rate in double, then double; annuli: double.
// budget(weighted_sums.*): 128 registers, 2048 bytes shared
// budget(annular_sums.*): 80 registers, 256 bytes shared
// budget: 64 registers, 0 bytes shared
#include "common.cuh"

constexpr int AT_ONCE = 4;  // masks or rings whose sums are in registers
constexpr int THREADS = 256, WARPS = THREADS / 32;

// From sm_100 on the compiler needs more registers for the same loop: one pixel at a time stays below 128
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
#define PIXELS_OF_COUNTS 1
#else
#define PIXELS_OF_COUNTS 2
#endif

// Patterns that share a weight, and pixels of each whose loads are under way together.
template <class Pixel>
struct Batch {
  static constexpr int PATTERNS = sizeof(Pixel) < 4 ? 8 : 4, PIXELS = sizeof(Pixel) < 4 ? PIXELS_OF_COUNTS : 2;
};

// A count as a double: the number with the bits of 2^52 + v, minus 2^52. GPUs do this addition four times as fast as a
// conversion.
template <class Pixel>
DEVICE double exact(Pixel v) {
#ifdef CUDA_ON_HOST
  return double(v);
#else
  return __dadd_rn(__hiloint2double(0x43300000, int(u32(v))), -4503599627370496.0);
#endif
}
DEVICE double exact(float v) { return double(v); }

// Whether a pixel under weight w counts. A NaN under a weight of zero does not. Integer counts always may, because they
// are finite.
template <class Pixel>
DEVICE bool counts_under(Pixel, double) {
  return true;
}
DEVICE bool counts_under(float, double w) { return w != 0; }

// Sums of N values over a warp, N a power of two. Lane l returns the sum of value l % N. Lanes exchange halves of their
// values, so that 31 shuffles make 32 sums. Each has the order of warp_sum.
template <int N, int APART = 16>
DEVICE double sums_of(double* v) {
  if constexpr (APART >= N) {
    UNROLL for (int k = 0; k < N; k++) v[k] += __shfl_xor_sync(FULL_WARP, v[k], APART);
  } else {
    const bool high = threadIdx.x & APART;
    UNROLL for (int k = 0; k < APART; k++) {
      const double low_one = v[k], high_one = v[k + APART];
      v[k] = (high ? high_one : low_one) + __shfl_xor_sync(FULL_WARP, high ? low_one : high_one, APART);
    }
  }
  if constexpr (APART > 1) return sums_of<N, APART / 2>(v);
  return v[0];
}

// Sums of pixels `begin` to `end` of `some` patterns under `masks` <= M masks. `part` (WARPS, 32) may be used again
// after the call.
template <int M, class Pixel, class Weight>
DEVICE void slice_sums(const Pixel* __restrict__ frame, const Weight* __restrict__ weights, double* __restrict__ parts,
                       double* part, int pixels, int begin, int end, int some, int masks, offset_t pitch) {
  constexpr int TOGETHER = Batch<Pixel>::PATTERNS, STEP = Batch<Pixel>::PIXELS, N = M * TOGETHER;
  double sum[N] = {};  // of mask m and pattern p: m TOGETHER + p
  for (int i = begin + threadIdx.x; i < end; i += STEP * THREADS) {
    const int apart = fresh(pixels);  // computed for every pixel, because kept addresses would spill
    Pixel v[STEP][TOGETHER];
    UNROLL for (int s = 0; s < STEP; s++) {
      const bool there = i + s * THREADS < end;
      UNROLL for (int p = 0; p < TOGETHER; p++) {
        v[s][p] = 0;
        if (there && p < some) v[s][p] = frame[offset_t(p) * apart + i + s * THREADS];
      }
    }
    UNROLL for (int s = 0; s < STEP; s++) {
      const bool there = i + s * THREADS < end;
      double w[M];
      UNROLL for (int m = 0; m < M; m++) {
        w[m] = 0;
        if (there && m < masks) w[m] = double(weights[offset_t(m) * apart + i + s * THREADS]);
      }
      UNROLL for (int p = 0; p < TOGETHER; p++) {
        const double value = exact(v[s][p]);
        UNROLL for (int m = 0; m < M; m++) if (counts_under(Pixel(), w[m])) sum[m * TOGETHER + p] += value * w[m];
      }
    }
  }
  const int thread = threadIdx.x, lane = thread & 31;
  const double mine = sums_of<N>(sum);
  if (lane < N) part[(thread >> 5) * 32 + lane] = mine;
  __syncthreads();
  const int m = thread / TOGETHER, p = thread % TOGETHER;
  if (m < masks && p < some) {
    double total = 0;
    for (int w = 0; w < WARPS; w++) total += part[w * 32 + thread];
    parts[p * pitch + m] = total;
  }
  __syncthreads();
}

template <class Pixel, class Weight>
DEVICE void weighted_sums(const Pixel* __restrict__ patterns, const Weight* __restrict__ weights,
                          double* __restrict__ parts, int n, int pixels, int masks, int slice) {
  __shared__ double part[WARPS * 32];
  const int slices = gridDim.y, begin = blockIdx.y * slice, end = pixels - begin < slice ? pixels : begin + slice;
  constexpr int TOGETHER = Batch<Pixel>::PATTERNS;
  const offset_t pattern = offset_t(blockIdx.x) * TOGETHER, pitch = offset_t(slices) * masks;
  const int some = n - pattern < TOGETHER ? int(n - pattern) : TOGETHER;
  const Pixel* frame = patterns + pattern * pixels;
  for (int first = 0; first < masks; first += AT_ONCE) {
    const Weight* under = weights + offset_t(first) * pixels;
    double* out = parts + pattern * pitch + offset_t(blockIdx.y) * masks + first;
    const int left = masks - first;
    if (left == 1) {
      slice_sums<1>(frame, under, out, part, pixels, begin, end, some, left, pitch);
    } else if (left == 2) {
      slice_sums<2>(frame, under, out, part, pixels, begin, end, some, left, pitch);
    } else {
      slice_sums<4>(frame, under, out, part, pixels, begin, end, some, left < AT_ONCE ? left : AT_ONCE, pitch);
    }
  }
}

// sums[n, m] = parts[n, 0, m] + parts[n, 1, m] + ...; `count` = n * masks
extern "C" __global__ void __launch_bounds__(256)
    add_slices(const double* __restrict__ parts, double* __restrict__ sums, offset_t count, int slices, int masks) {
  const offset_t i = offset_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const double* part = parts + i / masks * slices * masks + i % masks;
  double sum = 0;
  for (int s = 0; s < slices; s++) sum += part[offset_t(s) * masks];
  sums[i] = sum;
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

#define WEIGHTED(NAME, Pixel, Weight)                                                               \
  extern "C" __global__ void __launch_bounds__(256, 2)                                              \
      weighted_sums_##NAME(const Pixel* __restrict__ patterns, const Weight* __restrict__ weights,  \
                           double* __restrict__ parts, int n, int pixels, int masks, int slice) {   \
    weighted_sums(patterns, weights, parts, n, pixels, masks, slice);                               \
  }
#define INSTANCE(NAME, Pixel, Sum)                                                                              \
  WEIGHTED(single_##NAME, Pixel, float)                                                                         \
  WEIGHTED(double_##NAME, Pixel, double)                                                                        \
  extern "C" __global__ void __launch_bounds__(256, 3) annular_sums_##NAME(                                     \
      const Pixel* __restrict__ patterns, const double* __restrict__ centers, const double* __restrict__ radii, \
      const u8* __restrict__ mask, double* __restrict__ sums, int nx, int ny, int rings) {                      \
    annular_sums<Pixel, Sum>(patterns, centers, radii, mask, sums, nx, ny, rings);                              \
  }
INSTANCE(u8, u8, long long)
INSTANCE(u16, u16, long long)
INSTANCE(u32, u32, long long)
INSTANCE(f32, float, double)
