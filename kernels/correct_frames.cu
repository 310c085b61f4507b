// correct_frames.cu -- raw frames to corrected ones: background, streaks of each frame, gain, X-ray hits, bad pixels.
//   frames      (n, nx, ny)  native dtype
//   background  (nx, ny)     float for 8 and 16 bits, double for wider frames;  gain the same, null = 1
//   edge        (nx, ny)     double: shares of edge pixels, 0 elsewhere
//   lines       (n, lines)   double: what is subtracted from a line; ny lines for axis 0, nx for axis 1; null = nothing
//   hits        (3, nx, ny)  float: usual value, lit from, certain from; null = none
//   taken_from  (nx, ny)     int: pixel that each takes its value from; null = its own
//   corrected   (n, nx, ny)  float
// line_means: a block of eight warps makes 32 lines of a frame, grid n * ceil(lines / 32). A column goes over the
// eight warps, whose parts are added in their order; a row goes over the lanes of a warp. Only edge pixels are read.
// correct: one thread for four pixels, 256 apart, grid n * ceil(nx ny / 1024). Every value that a pixel needs is made
// from the raw frame again: of the pixel it is taken from, and of the pixels about a hit. So no thread waits for
// another, and a hit costs only the warp that has it.
// bytes: frames once in, 4 a pixel out, 4 to 16 a pixel of tables from L2.   flops: 3 a pixel.   bound: memory.
//
// budget(line_means_.*): 64 registers, 4096 bytes shared
// budget: 48 registers, 0 bytes shared
#include "common.cuh"

#define NEAR 1          // px, as in the definition
#define AROUND 3        // px
#define SIDE (2 * AROUND + 1)
#define MOST_OF_A_HIT 9 // pixels

// The type that background and gain have, and in which a pixel is corrected.
template <class Pixel>
struct Wide {
  typedef double type;
};
template <>
struct Wide<u8> {
  typedef float type;
};
template <>
struct Wide<u16> {
  typedef float type;
};

template <class Pixel>
DEVICE void line_means(const Pixel* __restrict__ frames, const typename Wide<Pixel>::type* __restrict__ background,
                       const double* __restrict__ edge, double* __restrict__ lines, double clip, int nx, int ny,
                       int axis, int blocks) {
  typedef typename Wide<Pixel>::type Real;
  __shared__ double sums[8][32], counts[8][32];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, first = int(blockIdx.x % blocks) * 32;
  const int frame = int(blockIdx.x / blocks), total_lines = axis == 0 ? ny : nx;
  const Pixel* here = frames + offset_t(frame) * nx * ny;
  // For columns a warp takes every eighth row of 32 columns. For rows it takes every eighth of 32 rows, whole.
  for (int turn = 0; turn < (axis == 0 ? 1 : 4); turn++) {
    const int row = first + warp + 8 * turn, column = first + lane;
    double sum = 0, count = 0;
    const int start = axis == 0 ? warp : lane, step = axis == 0 ? 8 : 32, end = axis == 0 ? nx : ny;
    if (axis == 0 ? column < ny : row < nx) {
      for (int k = start; k < end; k += step) {
        const int i = axis == 0 ? k * ny + column : row * ny + k;
        const double share = edge[i];
        if (!(share > 0)) continue;
        const double value = double(Real(here[i]) - background[i]);
        if (!(fabs(value) <= clip)) continue;
        sum += value * share;
        count += 1;
      }
    }
    if (axis == 0) {
      sums[warp][lane] = sum;
      counts[warp][lane] = count;
    } else {
      sum = warp_sum(sum);
      count = warp_sum(count);
      if (lane == 0 && row < total_lines) lines[offset_t(frame) * total_lines + row] = count > 0 ? sum / count : 0;
    }
  }
  if (axis != 0) return;
  __syncthreads();
  if (warp != 0 || first + lane >= total_lines) return;
  double sum = sums[0][lane], count = counts[0][lane];
  UNROLL for (int w = 1; w < 8; w++) sum += sums[w][lane], count += counts[w][lane];
  lines[offset_t(frame) * total_lines + first + lane] = count > 0 ? sum / count : 0;
}

// One frame, and the tables of the detector.
template <class Pixel>
struct Raw {
  typedef typename Wide<Pixel>::type Real;
  const Pixel* here;
  const Real *background, *gain;
  const double* lines;
  const float* hits;
  int nx, ny, axis;

  DEVICE float value(int i) const {
    Real v = Real(here[i]) - background[i];
    if (lines) v -= Real(lines[axis == 0 ? i % ny : i / ny]);
    return float(gain ? v / gain[i] : v);
  }
  DEVICE float without_hits(int i) const {
    const float v = value(i);
    if (!hits || !(v > hits[nx * ny + i])) return v;
    const int x = i / ny, y = i % ny;
    int count = 0, near = 0;
#pragma unroll 1
    for (int k = 0; k < SIDE * SIDE; k++) {
      const int a = x + k / SIDE - AROUND, b = y + k % SIDE - AROUND;
      if (a < 0 || b < 0 || a >= nx || b >= ny) continue;
      const int other = a * ny + b;
      const bool bright = value(other) > hits[2 * nx * ny + other];
      count += bright;
      near += bright && abs(a - x) <= NEAR && abs(b - y) <= NEAR;
    }
    return near > 0 && count <= MOST_OF_A_HIT ? hits[i] : v;
  }
};

template <class Pixel>
DEVICE void correct(const Pixel* __restrict__ frames, const typename Wide<Pixel>::type* __restrict__ background,
                    const typename Wide<Pixel>::type* __restrict__ gain, const double* __restrict__ lines,
                    const float* __restrict__ hits, const int* __restrict__ taken_from, float* __restrict__ corrected,
                    int nx, int ny, int axis, int blocks) {
  const int frame = int(blockIdx.x / blocks), pixels = nx * ny;
  const int first = int(blockIdx.x % blocks) * 1024 + int(threadIdx.x);
  const double* own = lines ? lines + offset_t(frame) * (axis == 0 ? ny : nx) : lines;
  const Raw<Pixel> raw = {frames + offset_t(frame) * pixels, background, gain, own, hits, nx, ny, axis};
  float* out = corrected + offset_t(frame) * pixels;
#pragma unroll 1
  for (int i = first; i < min(first + 1024, pixels); i += 256) out[i] = raw.without_hits(taken_from ? taken_from[i] : i);
}

#define INSTANCE(NAME, Pixel)                                                                                       \
  extern "C" __global__ void __launch_bounds__(256) line_means_##NAME(                                              \
      const Pixel* __restrict__ frames, const Wide<Pixel>::type* __restrict__ background,                           \
      const double* __restrict__ edge, double* __restrict__ lines, double clip, int nx, int ny, int axis,           \
      int blocks) {                                                                                                 \
    line_means<Pixel>(frames, background, edge, lines, clip, nx, ny, axis, blocks);                                 \
  }                                                                                                                 \
  extern "C" __global__ void __launch_bounds__(256) correct_##NAME(                                                 \
      const Pixel* __restrict__ frames, const Wide<Pixel>::type* __restrict__ background,                           \
      const Wide<Pixel>::type* __restrict__ gain, const double* __restrict__ lines, const float* __restrict__ hits, \
      const int* __restrict__ taken_from, float* __restrict__ corrected, int nx, int ny, int axis, int blocks) {    \
    correct<Pixel>(frames, background, gain, lines, hits, taken_from, corrected, nx, ny, axis, blocks);             \
  }
FOR_EACH_PIXEL(INSTANCE)
