// ring_moments.cu -- number, sum and squares of the pixels of every ring about each pattern's origin, and their median.
//   patterns  (n, nx, ny)    native dtype
//   origins   (n, 2)         double; not finite = no pixel counts
//   matrices  (n, 2, 2)      double: M of r = scale |M (q - origin)|
//   mask      (nx, ny)       bytes, 0 = does not count; null = all count
//   sums, squares, pixels  (n, n_r)   int64 of counts (squares of 32 bits: double), double of float32; int64
//   medians   (n, n_r)       double
//
// ring_moments: the block of rings.cuh, with squares; 20 bytes of shared memory a ring and warp. bytes: the pattern
// once, 24 a ring out.   flops: 80 a pixel, most of them integer.   bound: issue slots.
//
// ring_medians: one block of 8 warps a pattern and range of rings. The middle two values of all rings are found bit by
// bit, from the highest: pixels that share the bits found so far and have 0 in the next one are counted, ring by ring,
// by atomic additions of whole numbers in shared memory (24 bytes a ring), whose order does not matter. A float is
// mapped to a whole number that grows with it. bytes: the pattern once from memory, then once for each bit of a pixel
// from L1 and L2.   flops: 30 a pixel and bit.   bound: issue slots.
//
// budget(ring_moments.*): 64 registers, 0 bytes shared
// budget(ring_medians.*): 80 registers, 0 bytes shared
#include "rings.cuh"

// Rings of a pattern. |M| ||M⁻¹|| of a matrix is less than the sum of its squares over its determinant, and a radius in
// single precision is off by so many times the rounding error, with a margin.
DEVICE Rings rings_of(const double* origins, const double* matrices, offset_t pattern, double scale, int n_r) {
  const double* m = matrices + 4 * pattern;
  const double squares = m[0] * m[0] + m[1] * m[1] + m[2] * m[2] + m[3] * m[3], area = fabs(m[0] * m[3] - m[1] * m[2]);
  const float slack = squares < 1e5 * area ? 4e-6f * float(squares / area) : 1.0f;
  return {origins[2 * pattern], origins[2 * pattern + 1], m[0], m[1], m[2], m[3], scale, slack, n_r};
}

template <class Pixel>
DEVICE u32 key_of(Pixel value) {
  return value;
}
template <>
DEVICE u32 key_of(float value) {
  const u32 bits = __float_as_uint(value == 0 ? 0.0f : value);  // both zeros are one value
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}

template <class Pixel>
DEVICE double value_of(u32 key) {
  return Pixel(key);
}
template <>
DEVICE double value_of<float>(u32 key) {
  return __uint_as_float(key >> 31 ? key & 0x7fffffffu : ~key);
}

struct Middle {  // of a ring: the two values in the middle, as far as they are known, and their ranks among the pixels left
  u32 key[2], rank[2], below[2];
};

template <class Pixel>
DEVICE void ring_medians(const Pixel* __restrict__ patterns, offset_t pattern, const Rings& place,
                         const Detector& detector, const offset_t* __restrict__ pixels, double* __restrict__ medians,
                         int rings, int ranges) {
  DYNAMIC_SHARED(Middle, middles);
  const int first = (blockIdx.x % ranges) * rings, n_r = place.n_r, nx = detector.nx, ny = detector.ny;
  const FastRings fast = fast_rings(place);
  const Pixel* frame = patterns + pattern * nx * ny;
  for (int i = threadIdx.x; i < rings && first + i < n_r; i += blockDim.x) {
    const u32 all = u32(pixels[pattern * n_r + first + i]);
    middles[i] = {{0, 0}, {all ? (all - 1) / 2 : 0, all / 2}, {0, 0}};
  }
  __syncthreads();
  for (int bit = 8 * sizeof(Pixel) - 1; fast.known && bit >= 0; bit--) {
    for (int i = threadIdx.x; i < nx * ny; i += blockDim.x) {
      const Pixel pixel = frame[i];
      if (!is_finite(double(pixel)) || (detector.mask && !detector.mask[i])) continue;
      const int ring = ring_of(place, fast, i / ny, i % ny);
      if (ring >= n_r || ring < first || ring >= first + rings) continue;
      Middle& middle = middles[ring - first];
      const u32 key = key_of(pixel);
      UNROLL for (int j = 0; j < 2; j++) {
        if ((key ^ middle.key[j]) >> bit == 0) atomicAdd(&middle.below[j], 1u);  // the next bit of `key` is 0 so far
      }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < 2 * rings && first + i / 2 < n_r; i += blockDim.x) {
      Middle& middle = middles[i / 2];
      const int j = i & 1;
      if (middle.rank[j] >= middle.below[j]) {
        middle.rank[j] -= middle.below[j];
        middle.key[j] |= 1u << bit;
      }
      middle.below[j] = 0;
    }
    __syncthreads();
  }
  for (int i = threadIdx.x; i < rings && first + i < n_r; i += blockDim.x) {
    const offset_t at = pattern * n_r + first + i;
    const double low = value_of<Pixel>(middles[i].key[0]), high = value_of<Pixel>(middles[i].key[1]);
    medians[at] = pixels[at] ? 0.5 * low + 0.5 * high : double(__uint_as_float(0x7fc00000u));
  }
}

#define INSTANCE(NAME, Pixel, Run, Sum, Square)                                                                        \
  extern "C" __global__ void __launch_bounds__(256, 4) ring_moments_##NAME(                                            \
      const Pixel* __restrict__ patterns, const double* __restrict__ origins, const double* __restrict__ matrices,     \
      const u8* __restrict__ mask, Sum* __restrict__ sums, Square* __restrict__ squares, offset_t* __restrict__ pixels, \
      double scale, int nx, int ny, int n_r, int rings, int ranges) {                                                  \
    const offset_t pattern = blockIdx.x / ranges;                                                                      \
    const Rings place = rings_of(origins, matrices, pattern, scale, n_r);                                              \
    ring_sums<Pixel, Run, Sum, Square, true>(patterns, pattern, place, {nx, ny, mask}, sums, squares, pixels, rings,   \
                                             ranges);                                                                  \
  }                                                                                                                    \
  extern "C" __global__ void __launch_bounds__(256, 3) ring_medians_##NAME(                                            \
      const Pixel* __restrict__ patterns, const double* __restrict__ origins, const double* __restrict__ matrices,     \
      const u8* __restrict__ mask, const offset_t* __restrict__ pixels, double* __restrict__ medians, double scale,    \
      int nx, int ny, int n_r, int rings, int ranges) {                                                                \
    const offset_t pattern = blockIdx.x / ranges;                                                                      \
    const Rings place = rings_of(origins, matrices, pattern, scale, n_r);                                              \
    ring_medians<Pixel>(patterns, pattern, place, {nx, ny, mask}, pixels, medians, rings, ranges);                     \
  }
INSTANCE(u8, u8, u32, long long, long long)
INSTANCE(u16, u16, u32, long long, long long)
INSTANCE(u32, u32, long long, long long, double)
INSTANCE(f32, float, double, double, double)
