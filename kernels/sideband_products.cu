// sideband_products.cu -- products of side bands and their derivatives by aberrations, summed over bright-field pixels.
//   spectra      (n, m)  float2, scan spectra G of n pixels at m frequencies
//   at           (n)     float2, the pixels k from the optical axis, detector pixels
//   frequencies  (m)     float2, scan frequencies K in detector pixels
//   weights      (n)     float
//   coefficients (1 + p, 28) float, pi c[i][j] of chi and of its p parts, i + j <= 6, rows i = 0 ... 6
//   out          (m, c, c) double2, c = 3 + 2 p: sums of w conj(column a) column b
// Columns are G, A, B, u_1 A, ..., v_1 B, ... with A = exp(i (chi(k) - chi(k - K))), B = exp(-i (chi(k) - chi(k + K))),
// u_q, v_q the same differences of part q. A pair whose pixel lies within `margin` of an edge is left out.
//
// One block of 256 threads for a frequency. 32 pixels at a time: eight threads share a pixel and write its columns into
// shared memory, times the root of the weight. Then each thread sums at most two of the products a <= b over these
// pixels, in float. Sums of 32 pixels are added in double, always in the same order.
//
// bytes: 8 a pair (pixel, frequency), and 16 c^2 a frequency.
// flops: 8 c (c + 1) / 2 + 112 (1 + p) a pair: 2.5 k at p = 8.
// bound: issue slots.
//
// budget(sideband_products): 64 registers, 10240 bytes shared
#include "common.cuh"

#define PIXELS 32
#define TERMS 28        // coefficients of a polynomial of degree 6
#define MOST_PARTS 14   // as in the definition
#define MOST_COLUMNS 31 // 3 + 2 * MOST_PARTS: 496 products, two for each of 256 threads
#define THREADS 256
#define PER_PI 0.318309886f

DEVICE float polynomial(const float* c, float x, float y) {
  float value = 0.0f;
  int next = TERMS;
  UNROLL for (int i = 6; i >= 0; i--) {
    next -= 7 - i;
    float inner = 0.0f;
    UNROLL for (int j = 6 - i; j >= 0; j--) inner = inner * y + c[next + j];
    value = value * x + inner;
  }
  return value;
}

// Is the pixel lit by the disk about this place, and is it far enough from the disk's edge?
DEVICE bool lit_by(float x, float y, float radius, float margin, bool& clear) {
  const float distance = sqrtf(x * x + y * y);
  clear = clear && fabsf(distance - radius) >= margin;
  return distance < radius;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    sideband_products(const float2* __restrict__ spectra, const float2* __restrict__ at,
                      const float2* __restrict__ frequencies, const float* __restrict__ weights,
                      const float* __restrict__ coefficients, float radius, float margin, int n, int m, int parts,
                      double2* __restrict__ out) {
  __shared__ float table[(1 + MOST_PARTS) * TERMS];
  __shared__ float2 column[MOST_COLUMNS * PIXELS];
  const int f = blockIdx.x, columns = 3 + 2 * parts, thread = threadIdx.x;
  const int pixel = thread & 31, share = thread >> 5;  // a warp has 32 pixels and one share of their columns
  for (int i = thread; i < (1 + parts) * TERMS; i += THREADS) table[i] = coefficients[i];
  const float2 frequency = frequencies[f];
  int row[2], other[2];
  UNROLL for (int e = 0; e < 2; e++) {  // the products a <= b of this thread, row after row of the triangle
    int left = thread + e * THREADS, a = 0;
    while (a < columns && left >= columns - a) left -= columns - a, a++;
    row[e] = a, other[e] = a + left;
  }
  double re[2] = {}, im[2] = {};
  for (int first = 0; first < n; first += PIXELS) {
    __syncthreads();
    const int k = first + pixel;
    const float2 place = k < n ? at[k] : make_float2(0.0f, 0.0f);
    bool clear = k < n;
    const bool own = lit_by(place.x, place.y, radius, margin, clear);
    const bool minus = lit_by(place.x - frequency.x, place.y - frequency.y, radius, margin, clear);
    const bool plus = lit_by(place.x + frequency.x, place.y + frequency.y, radius, margin, clear);
    const bool counts = clear && own && (minus || plus);
    const float root = counts ? sqrtf(weights[k]) : 0.0f;
    if (share == 0) column[pixel] = counts ? spectra[(offset_t)k * m + f] * root : make_float2(0.0f, 0.0f);
    UNROLL for (int side = 0; side < 2; side++) {
      const float sign = side ? 1.0f : -1.0f;
      const float x = place.x + sign * frequency.x, y = place.y + sign * frequency.y;
      float2 band = make_float2(0.0f, 0.0f);
      if (counts && (side ? plus : minus)) {
        const float turn = polynomial(table, place.x, place.y) - polynomial(table, x, y);
        float s, c;
        sincospif(turn * PER_PI, &s, &c);  // sincosf keeps an array in local memory on some architectures
        band = make_float2(root * c, -sign * root * s);
      }
      if (share == 0) column[(1 + side) * PIXELS + pixel] = band;
      for (int q = share; q < parts; q += THREADS / PIXELS) {
        const float* part = table + (1 + q) * TERMS;
        const float slope = polynomial(part, place.x, place.y) - polynomial(part, x, y);
        column[(3 + side * parts + q) * PIXELS + pixel] = band * slope;
      }
    }
    __syncthreads();
    UNROLL for (int e = 0; e < 2; e++) {
      if (row[e] >= columns) continue;
      float x = 0.0f, y = 0.0f;
      for (int i = 0; i < PIXELS; i++) {  // every thread begins elsewhere, so that rows of 32 pixels do not share a bank
        const int at_pixel = (i + thread) & (PIXELS - 1);
        const float2 term = conj(column[row[e] * PIXELS + at_pixel]) * column[other[e] * PIXELS + at_pixel];
        x += term.x, y += term.y;
      }
      re[e] += x, im[e] += y;
    }
  }
  UNROLL for (int e = 0; e < 2; e++) {
    if (row[e] >= columns) continue;
    const offset_t base = (offset_t)f * columns * columns;
    out[base + row[e] * columns + other[e]] = make_double2(re[e], im[e]);
    if (row[e] != other[e]) out[base + other[e] * columns + row[e]] = make_double2(re[e], -im[e]);
  }
}
