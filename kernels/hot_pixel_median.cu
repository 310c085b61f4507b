// hot_pixel_median.cu -- finds and replaces pixels that exceed the median of their neighbours by more than noise
// explains.
//   frames, corrected  (n, nx, ny)  native dtype
//   mask               (nx, ny)     bytes, 0 = does not count and is replaced; null = all count
//   hot                (n, nx, ny)  bytes
// Four neighbouring pixels a thread, 256 threads a block, grid n * ceil(nx ny / 1024). There is one load and one store
// for the four where frames are whole vectors. A count that would not be hot beside a median of zero is never hot.
// Where all four pixels are so small, nothing else is read. Otherwise each pixel is tested by itself, with neighbours
// through L1. A hot pixel exceeds all but one of its neighbours by half of the lowest possible limit. One comparison
// with each neighbour excludes nearly all pixels that way. Only warps with a pixel that is left sort: a network of 19
// exchanges in registers for the median, and again for the spread. The decision is made in double precision, without
// fused multiply-adds.
// bytes: frames once in and out, 1 a pixel for hot.   flops: none where counts are small, 10 a pixel else, 200 more a
// warp that sorts.   bound: memory.
//
// budget: 80 registers, 0 bytes shared
#include "common.cuh"

#define LEAST_NEIGHBOURS 3

DEVICE double infinity() { return __uint_as_float(0x7f800000u); }

DEVICE void order(double& a, double& b) {
  const double low = b < a ? b : a, high = b < a ? a : b;
  a = low, b = high;
}

// Batcher's network for eight values.
DEVICE void sort_eight(double* v) {
  order(v[0], v[1]), order(v[2], v[3]), order(v[4], v[5]), order(v[6], v[7]);
  order(v[0], v[2]), order(v[1], v[3]), order(v[4], v[6]), order(v[5], v[7]);
  order(v[1], v[2]), order(v[5], v[6]);
  order(v[0], v[4]), order(v[1], v[5]), order(v[2], v[6]), order(v[3], v[7]);
  order(v[2], v[4]), order(v[3], v[5]);
  order(v[1], v[2]), order(v[3], v[4]), order(v[5], v[6]);
}

// Median of the `count` smallest values, count >= 1. The values are sorted in place.
DEVICE double middle(double* v, int count) {
  sort_eight(v);
  const int first = (count - 1) / 2, second = count / 2;
  double low = v[0], high = v[0];
  UNROLL for (int i = 0; i < 8; i++) {
    low = i == first ? v[i] : low;
    high = i == second ? v[i] : high;
  }
  return (low + high) * 0.5;
}

DEVICE double largest(double a, double b) { return a > b ? a : b; }

// By how much a pixel may exceed the median of its neighbours. Every operation is that of the definition, so that the
// result has the same bits.
DEVICE double limit_of(double median, double spread, double threshold, double unit, double noise) {
  const double rate = __dmul_rn(unit, __dadd_rn(largest(median, 0.0), __dmul_rn(0.375, unit)));
  const double quarter = __dmul_rn(__dmul_rn(__dmul_rn(0.25, threshold), threshold), unit);
  const double poisson = __dadd_rn(__dmul_rn(threshold, sqrt(rate)), quarter);
  return largest(largest(__dmul_rn(threshold, __dmul_rn(spread, 1.4826)), poisson), __dmul_rn(threshold, noise));
}

template <class Pixel>
DEVICE Pixel as_pixel(double v) {
  return Pixel(floor(v + 0.5));
}
template <>
DEVICE float as_pixel<float>(double v) {
  return float(v);
}

// The lowest limit there is: that of a median of zero.
DEVICE float lowest_limit(double threshold, double unit) {
  return float(unit * threshold) * (0.612f + 0.25f * float(threshold));
}

// Four pixels as one load.
template <class Pixel>
struct alignas(4 * sizeof(Pixel)) Four {
  Pixel v[4];
};

// Whether four pixels count and are so small that they cannot exceed a neighbour by half of the lowest limit.
template <class Pixel>
DEVICE bool all_small(const Four<Pixel>& four, const u8* __restrict__ mask, u32 limit) {
  bool small = true;
  UNROLL for (int k = 0; k < 4; k++) small &= u32(four.v[k]) <= limit && (!mask || mask[k]);
  return small;
}
DEVICE bool all_small(const Four<float>&, const u8*, u32) { return false; }  // may have neighbours below zero

// Test pixel i of a frame, and write it, replaced where it is hot or does not count.
template <class Pixel>
DEVICE void correct_pixel(const Pixel* __restrict__ here, const u8* __restrict__ mask, Pixel* __restrict__ corrected,
                          u8* __restrict__ hot, double threshold, double unit, double noise, int i, int nx, int ny) {
  const int x = i / ny, y = i % ny;
  const Pixel value = here[i];
  const bool good = !mask || mask[i];

  const float v = float(value);
  const float close_from = v - 0.499f * lowest_limit(threshold, unit) + 1e-6f * fabsf(v);  // never too low
  int count = 0, close = 0;
  u32 valid = 0;
  UNROLL for (int k = 0; k < 8; k++) {
    const int dx = (k + (k > 3)) / 3 - 1, dy = (k + (k > 3)) % 3 - 1;
    const int a = x + dx, b = y + dy;
    if (a < 0 || b < 0 || a >= nx || b >= ny) continue;
    const int j = a * ny + b;
    const float other = float(here[j]);
    if (!(other - other == 0) || (mask && !mask[j])) continue;
    valid |= 1u << k;
    count++;
    close += !(other < close_from);
    if (good && close > 1) break;  // usually after two neighbours
  }
  const bool doubtful = good ? v - v == 0 && count >= LEAST_NEIGHBOURS && close <= 1 : count > 0;
  Pixel result = value;
  bool is_hot = false;
  if (doubtful) {
    double near[8], away[8];
    UNROLL for (int k = 0; k < 8; k++) {
      const int dx = (k + (k > 3)) / 3 - 1, dy = (k + (k > 3)) % 3 - 1;
      near[k] = valid >> k & 1 ? double(here[(x + dx) * ny + y + dy]) : infinity();
    }
    const double median = middle(near, count);
    const int rank = count - 2;
    double second = near[0];
    UNROLL for (int k = 0; k < 8; k++) {
      second = k == rank ? near[k] : second;
      away[k] = k < count ? fabs(near[k] - median) : infinity();
    }
    const double limit = limit_of(median, middle(away, count), threshold, unit, noise);
    is_hot = good && double(value) - median > limit && double(value) - second > 0.5 * limit;
    if (is_hot || !good) result = as_pixel<Pixel>(median);
  }
  corrected[i] = result;
  hot[i] = is_hot;
}

template <class Pixel>
DEVICE void hot_pixel_median(const Pixel* __restrict__ frames, const u8* __restrict__ mask,
                             Pixel* __restrict__ corrected, u8* __restrict__ hot, double threshold, double unit,
                             double noise, int nx, int ny, int blocks) {
  const int first = (int(blockIdx.x % blocks) * 256 + int(threadIdx.x)) * 4, pixels = nx * ny;
  if (first >= pixels) return;
  const offset_t frame = offset_t(blockIdx.x / blocks) * pixels;
  if (pixels % 4 == 0 && reinterpret_cast<u64>(frames) % sizeof(Four<Pixel>) == 0) {
    const Four<Pixel> four = *reinterpret_cast<const Four<Pixel>*>(frames + frame + first);
    const u32 limit = u32(fminf(0.498f * lowest_limit(threshold, unit), 4e9f));
    if (all_small(four, mask ? mask + first : mask, limit)) {
      *reinterpret_cast<Four<Pixel>*>(corrected + frame + first) = four;
      *reinterpret_cast<Four<u8>*>(hot + frame + first) = Four<u8>{{0, 0, 0, 0}};
      return;
    }
  }
#pragma unroll 1
  for (int i = first; i < min(first + 4, pixels); i++)
    correct_pixel(frames + frame, mask, corrected + frame, hot + frame, threshold, unit, noise, i, nx, ny);
}

#define INSTANCE(NAME, Pixel)                                                                          \
  extern "C" __global__ void __launch_bounds__(256, 3) hot_pixel_median_##NAME(                        \
      const Pixel* __restrict__ frames, const u8* __restrict__ mask, Pixel* __restrict__ corrected,    \
      u8* __restrict__ hot, double threshold, double unit, double noise, int nx, int ny, int blocks) { \
    hot_pixel_median<Pixel>(frames, mask, corrected, hot, threshold, unit, noise, nx, ny, blocks);     \
  }
FOR_EACH_PIXEL(INSTANCE)
