// wave_gradients.cu -- what lies between the Fourier transforms of a step of iterative ptychography.
//   waves      (n, m, pixels)    float2, of m modes at n positions; pixels = nx ny
//   probes     (m, pixels)       float2;   rows (n, nx), columns (n, ny) float2: phase ramps of every position
//   plane      (px, py)          float2, transmission of a slice;   corners (n, 2) int32: where the patch of a position lies
//   transfer   (pixels)          float2, from one slice to the next
//   counts     (n, pixels)       float;   measured (pixels) float, 1 or 0
//
// place_probes: probes times ramps.   transmit: waves times the patch of the plane.   filter: waves times transfer, or its conjugate.
// residuals: misfit of every position (double), waves times f in place.   back: what the patch gets, the light on it, and waves times
// the conjugate patch in place.   add_probes: waves times conjugate ramps, summed over `span` positions;   add_parts: these sums.
//
// Grid (pixel tiles of 256, n), a thread a pixel of a position with all its modes; residuals has one block of 256 threads a position, and
// adds in double in a fixed order; add_probes has (pixel tiles, m, parts), add_parts (pixel tiles, m). Neighbours read neighbours.
//
// bytes: 8 a pixel and mode for each wave read or written: place_probes 8, transmit 16, filter 16, residuals 16 + 4 / m, back 24 + 12 / m,
//   add_probes 8.   flops: 6 to 20 a pixel and mode.   bound: memory.
//
// budget: 64 registers, 256 bytes shared
#include "common.cuh"

#define THREADS 256

extern "C" __global__ void __launch_bounds__(THREADS)
    place_probes(const float2* __restrict__ probes, const float2* __restrict__ rows, const float2* __restrict__ columns,
                 float2* __restrict__ waves, int modes, int nx, int ny) {
  const int p = blockIdx.x * THREADS + threadIdx.x, pixels = nx * ny, n = blockIdx.y;
  if (p >= pixels) return;
  const float2 ramp = rows[(offset_t)n * nx + p / ny] * columns[(offset_t)n * ny + p % ny];
  for (int m = 0; m < modes; m++) waves[((offset_t)n * modes + m) * pixels + p] = probes[(offset_t)m * pixels + p] * ramp;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    transmit(const float2* __restrict__ waves, const float2* __restrict__ plane, const int* __restrict__ corners,
             float2* __restrict__ out, int modes, int nx, int ny, int py) {
  const int p = blockIdx.x * THREADS + threadIdx.x, pixels = nx * ny, n = blockIdx.y;
  if (p >= pixels) return;
  const float2 t = plane[(offset_t)(corners[2 * n] + p / ny) * py + corners[2 * n + 1] + p % ny];
  for (int m = 0; m < modes; m++) {
    const offset_t at = ((offset_t)n * modes + m) * pixels + p;
    out[at] = waves[at] * t;
  }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    filter(float2* __restrict__ waves, const float2* __restrict__ transfer, int modes, int pixels, int conjugate) {
  const int p = blockIdx.x * THREADS + threadIdx.x, n = blockIdx.y;
  if (p >= pixels) return;
  const float2 t = conjugate ? conj(transfer[p]) : transfer[p];
  for (int m = 0; m < modes; m++) {
    const offset_t at = ((offset_t)n * modes + m) * pixels + p;
    waves[at] = waves[at] * t;
  }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    residuals(float2* __restrict__ waves, const float* __restrict__ counts, const float* __restrict__ measured,
              double* __restrict__ misfit, int modes, int pixels, float background, int poisson) {
  __shared__ double part[THREADS / 32];
  const int n = blockIdx.x;
  double sum = 0.0;
  for (int p = threadIdx.x; p < pixels; p += THREADS) {
    float expected = background;
    for (int m = 0; m < modes; m++) {
      const float2 w = waves[((offset_t)n * modes + m) * pixels + p];
      expected += w.x * w.x + w.y * w.y;
    }
    const float count = counts[(offset_t)n * pixels + p], inside = measured[p], ratio = count / expected;
    float factor, term;
    if (poisson) {
      factor = 1.0f - ratio;
      term = expected * factor + (count > 0.0f ? count * logf(ratio) : 0.0f);
    } else {
      factor = 1.0f - sqrtf(ratio);
      term = expected * factor * factor;
    }
    sum += double(term * inside);
    for (int m = 0; m < modes; m++) {
      const offset_t at = ((offset_t)n * modes + m) * pixels + p;
      waves[at] = waves[at] * (factor * inside);
    }
  }
  sum = block_sum(sum, part);
  if (threadIdx.x == 0) misfit[n] = sum;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    back(const float2* __restrict__ incident, float2* __restrict__ waves, const float2* __restrict__ plane,
         const int* __restrict__ corners, float2* __restrict__ wanted, float* __restrict__ light, int modes, int nx, int ny, int py) {
  const int p = blockIdx.x * THREADS + threadIdx.x, pixels = nx * ny, n = blockIdx.y;
  if (p >= pixels) return;
  const float2 t = conj(plane[(offset_t)(corners[2 * n] + p / ny) * py + corners[2 * n + 1] + p % ny]);
  float2 sum = make_float2(0.0f, 0.0f);
  float bright = 0.0f;
  for (int m = 0; m < modes; m++) {
    const offset_t at = ((offset_t)n * modes + m) * pixels + p;
    const float2 a = incident[at], g = waves[at];
    sum = sum + conj(a) * g;
    bright += a.x * a.x + a.y * a.y;
    waves[at] = g * t;
  }
  wanted[(offset_t)n * pixels + p] = sum;
  light[(offset_t)n * pixels + p] = bright;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    add_probes(const float2* __restrict__ waves, const float2* __restrict__ rows, const float2* __restrict__ columns,
               float2* __restrict__ parts, int n, int nx, int ny, int span) {
  const int p = blockIdx.x * THREADS + threadIdx.x, pixels = nx * ny, m = blockIdx.y, modes = gridDim.y;
  if (p >= pixels) return;
  const int first = blockIdx.z * span, last = first + span < n ? first + span : n;
  float2 sum = make_float2(0.0f, 0.0f);
  for (int i = first; i < last; i++) {
    const float2 ramp = rows[(offset_t)i * nx + p / ny] * columns[(offset_t)i * ny + p % ny];
    sum = sum + waves[((offset_t)i * modes + m) * pixels + p] * conj(ramp);
  }
  parts[((offset_t)blockIdx.z * modes + m) * pixels + p] = sum;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    add_parts(const float2* __restrict__ parts, float2* __restrict__ sums, int count, int pixels) {
  const int p = blockIdx.x * THREADS + threadIdx.x, m = blockIdx.y, modes = gridDim.y;
  if (p >= pixels) return;
  float2 sum = make_float2(0.0f, 0.0f);
  for (int i = 0; i < count; i++) sum = sum + parts[((offset_t)i * modes + m) * pixels + p];
  sums[(offset_t)m * pixels + p] = sum;
}
