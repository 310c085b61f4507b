// correlate_orientations.cu -- correlate peaks with the patterns of zone axes over all in-plane angles, in two launches.
//   peaks    (n, p, 3) double: qx, qy, weight;   shells (s) double
//   spectra  (n, h, s) complex float: of the patterns, made by the first kernel;   h harmonics, 2 (h - 1) = samples
//   real, imaginary (h, s, a) float: of the zone axes;   waves (h, h) complex float: cos and sin of 2 pi m j / samples
//   correlation, angle (n, 2, a) double: for the pattern and its mirror image
// angular_spectra: a block of 128 threads a pattern; thread m sums over the peaks for harmonics m, m + 128, ...
// correlate: a block of 128 threads for a pattern and eight zone axes, which are sixteen real curves with the mirror
// images. First products over the shells, one harmonic of one axis a thread. Then thread j makes the points j and -j of
// all curves as even + odd and even - odd: sums over harmonics of 2 x 16 products with one cosine and one sine. So h^2
// terms do what 2 h samples by h harmonics would. Then eight threads a curve look for its maximum.
// bytes: 8 h s from the second-level cache a zone axis, 2.3 MB a pattern with 97 harmonics, 12 shells, 248 axes; 32 a
// zone axis to memory.   flops: 8 h^2 + 8 h s a zone axis, 21 M a pattern.   bound: issue slots.
// budget(angular_spectra): 72 registers, 32 bytes shared
// budget(correlate): 64 registers, 0 bytes shared
#include "common.cuh"

constexpr int THREADS = 128, WARPS = THREADS / 32;
constexpr int TOGETHER = 4;  // shells whose sums are in registers at once
constexpr int AXES = 8, CURVES = 2 * AXES, SEEKERS = THREADS / CURVES;
constexpr double PI = 3.141592653589793;

extern "C" __global__ void angular_spectra(const double* __restrict__ peaks, const double* __restrict__ shells,
                                           float2* __restrict__ spectra, int p, int h, int s, double width) {
  __shared__ double part[WARPS];
  const double* mine = peaks + offset_t(blockIdx.x) * p * 3;
  float2* out = spectra + offset_t(blockIdx.x) * h * s;
  double power = 0;
  for (int m = threadIdx.x; m < h; m += THREADS) {
    for (int first = 0; first < s; first += TOGETHER) {
      double2 sums[TOGETHER];
      UNROLL for (int i = 0; i < TOGETHER; i++) sums[i] = make_double2(0, 0);
      for (int k = 0; k < p; k++) {
        const double x = mine[3 * k], y = mine[3 * k + 1], weight = mine[3 * k + 2];
        if (weight == 0) continue;
        const double q = sqrt(x * x + y * y);
        double sine, cosine;
        sincospi(m * (atan2(y, x) / PI), &sine, &cosine);
        UNROLL for (int i = 0; i < TOGETHER; i++) {
          const double near = first + i < s ? weight * max(1 - fabs(q - shells[first + i]) / width, 0.0) : 0.0;
          sums[i].x += near * cosine;
          sums[i].y -= near * sine;
        }
      }
      UNROLL for (int i = 0; i < TOGETHER; i++) {
        power += (m ? 2 : 1) * (sums[i].x * sums[i].x + sums[i].y * sums[i].y);
        if (first + i < s) out[m * s + first + i] = make_float2(float(sums[i].x), float(sums[i].y));
      }
    }
  }
  power = block_all<WARPS>(power, part, [](double a, double b) { return a + b; });
  const float scale = power > 0 ? float(1 / sqrt(power)) : 0.0f;
  for (int m = threadIdx.x; m < h; m += THREADS)
    for (int i = 0; i < s; i++) out[m * s + i] = out[m * s + i] * scale;
}

// Products over shells: real and imaginary part of X P* and of X* P*, of harmonic m, at place a and AXES + a of its row
DEVICE void products(const float2* __restrict__ x, const float* __restrict__ real, const float* __restrict__ imaginary, float2* row,
                     int m, int s, int axes, int axis, int a) {
  float aa = 0, bb = 0, ab = 0, ba = 0;
  for (int i = 0; axis < axes && i < s; i++) {
    const float2 v = x[m * s + i];
    const offset_t at = offset_t(m * s + i) * axes + axis;
    const float re = real[at], im = imaginary[at];
    aa += v.x * re, bb += v.y * im, ba += v.y * re, ab += v.x * im;
  }
  row[a] = make_float2(aa + bb, ba - ab);
  row[AXES + a] = make_float2(aa - bb, -ba - ab);
}

extern "C" __global__ void correlate(const float2* __restrict__ spectra, const float* __restrict__ real,
                                     const float* __restrict__ imaginary, const float2* __restrict__ waves,
                                     double* __restrict__ correlation, double* __restrict__ angle, int h, int s, int axes) {
  DYNAMIC_SHARED(float2, memory);
  const offset_t pattern = blockIdx.x;
  const int first = blockIdx.y * AXES, samples = 2 * (h - 1);
  float2* rows = memory;                                          // (h, CURVES)
  float* curves = reinterpret_cast<float*>(memory + h * CURVES);  // (samples, CURVES)
  for (int i = threadIdx.x; i < h * AXES; i += THREADS) {
    const int m = i / AXES, a = i % AXES;
    products(spectra + pattern * h * s, real, imaginary, rows + m * CURVES, m, s, axes, first + a, a);
  }
  __syncthreads();
  for (int j = threadIdx.x; j < h; j += THREADS) {
    float even[CURVES], odd[CURVES];
    UNROLL for (int c = 0; c < CURVES; c++) even[c] = odd[c] = 0;
    for (int m = 0; m < h; m++) {
      float2 wave = waves[m * h + j];
      if (m && m < h - 1) wave.x *= 2, wave.y *= 2;
      UNROLL for (int c = 0; c < CURVES; c++) {
        const float2 v = rows[m * CURVES + c];
        even[c] += v.x * wave.x;
        odd[c] -= v.y * wave.y;
      }
    }
    const int back = j ? samples - j : 0;
    UNROLL for (int c = 0; c < CURVES; c++) {
      curves[back * CURVES + c] = even[c] - odd[c];
      curves[j * CURVES + c] = even[c] + odd[c];  // j = 0 and h - 1 are their own mirror images, and their sines are 0
    }
  }
  __syncthreads();
  const int curve = threadIdx.x / SEEKERS, seeker = threadIdx.x % SEEKERS;
  float top = curves[curve];
  int place = 0;
  for (int k = seeker; k < samples; k += SEEKERS) {
    const float v = curves[k * CURVES + curve];
    if (v > top) top = v, place = k;
  }
  UNROLL for (int step = SEEKERS / 2; step; step >>= 1) {
    const float v = __shfl_xor_sync(FULL_WARP, top, step);
    const int k = __shfl_xor_sync(FULL_WARP, place, step);
    if (v > top || (v == top && k < place)) top = v, place = k;
  }
  const int axis = first + curve % AXES;
  if (seeker || axis >= axes) return;
  const float before = curves[(place ? place - 1 : samples - 1) * CURVES + curve];
  const float after = curves[(place + 1 < samples ? place + 1 : 0) * CURVES + curve];
  const double bend = double(before) - 2 * double(top) + double(after);
  const double move = bend < 0 ? (double(before) - double(after)) / (2 * bend) : 0.0;
  const double turn = (place + move) * (2 * PI / samples);
  const offset_t at = (pattern * 2 + curve / AXES) * axes + axis;
  correlation[at] = top - (double(before) - double(after)) * move / 4;
  angle[at] = turn < 0 ? turn + 2 * PI : turn;
}
