// fused_stages.cu -- every stage of fused_disks.cu as a kernel of its own, for tests: a plane comes in from global
// memory, the stage runs in one block, the plane or the list goes out. planes (ROWS, N) complex: packed rows without
// the pitch.
#include "fused_disks.cu"

#ifndef STAGE_BLOCKS
#define STAGE_BLOCKS 1
#endif

template <int N>
DEVICE void copy_in(const float2* from, float2* plane) {
  for (int e = threadIdx.x; e < Shape<N>::ROWS * N; e += Shape<N>::THREADS)
    plane[e / N * Shape<N>::PITCH + e % N] = from[e];
  __syncthreads();
}
template <int N>
DEVICE void copy_out(const float2* plane, float2* to) {
  __syncthreads();
  for (int e = threadIdx.x; e < Shape<N>::ROWS * N; e += Shape<N>::THREADS)
    to[e] = plane[e / N * Shape<N>::PITCH + e % N];
}

// pixels -> spectra of the packed rows; the flaws of all threads together
template <int N>
DEVICE void rows_alone(const void* image, int type, float2* out, unsigned* flaws, Workspace<N>& work) {
  const Lane me = lane_of<N>(threadIdx.x);
  const unsigned mine = transform_rows<N>(image, type, work.plane, Twiddle<N>(me.t), me);
  copy_out<N>(work.plane, out);
  const unsigned all =
      block_all<Shape<N>::WARPS>(mine, work.scratch.flaws, [](unsigned a, unsigned b) { return a | b; });
  if (threadIdx.x == 0) *flaws = all;
}
// spectra of the packed rows -> twice the pattern's spectrum, (N, N/2); column 0 is twice X_0 + i X_{N/2}
template <int N>
DEVICE void columns_alone(const float2* in, float2* out, Workspace<N>& work) {
  using S = Shape<N>;
  const Lane me = lane_of<N>(threadIdx.x);
  const Twiddle<N> twiddle(me.t);
  copy_in<N>(in, work.plane);
  for (int q = me.group; q < S::ROWS; q += S::GROUPS) {
    const ColumnTask<N> task(work.plane, Filter{}, q, me.thread);
    float2 v[S::VALUES] = {};
    load_columns<N>(task, v, me.t);
    forward<N>(task.region, v, twiddle, me.t);
    for (int b = 0; b < S::PER_LANE; b++)
      for (int k1 = 0; k1 < S::B; k1++) out[(me.t + S::LANES * b + S::A * k1) * (N / 2) + q] = v[b * S::B + k1];
    __syncwarp();
  }
}
// unpacked and packed again: twice what came in
template <int N>
DEVICE void packing_alone(const float2* in, float2* out, Workspace<N>& work) {
  using S = Shape<N>;
  const Lane me = lane_of<N>(threadIdx.x);
  copy_in<N>(in, work.plane);
  for (int q = me.group; q < S::ROWS; q += S::GROUPS) {
    const ColumnTask<N> task(work.plane, Filter{}, q, me.thread);
    float2 v[S::VALUES] = {};
    load_columns<N>(task, v, me.t);
    store_columns<N>(task, v, me.t);
  }
  copy_out<N>(work.plane, out);
}
template <int N>
DEVICE void filter_alone(const float2* in, const float4* spectrum, const float2* nyquist, float power, float2* out,
                         Workspace<N>& work) {
  const Lane me = lane_of<N>(threadIdx.x);
  copy_in<N>(in, work.plane);
  const Filter filter{spectrum, nyquist, 0.5f * (power - 1.0f), 1.0f / (N * N)};
  filter_columns<N>(work.plane, filter, Twiddle<N>(me.t), me);
  copy_out<N>(work.plane, out);
}
template <int N>
DEVICE void inverse_alone(const float2* in, float2* out, Workspace<N>& work) {
  const Lane me = lane_of<N>(threadIdx.x);
  copy_in<N>(in, work.plane);
  invert_rows<N>(work.plane, Twiddle<N>(me.t), me);
  copy_out<N>(work.plane, out);
}
// bands of candidates until none is left: heights and pixels one band behind the other, ends[b] of band b
template <int N>
DEVICE void collect_alone(const float2* map, const u8* allowed, float min_absolute, float min_relative, float* heights,
                          int* pixels, int* ends, Workspace<N>& work) {
  copy_in<N>(map, work.plane);
  Key ceiling = NO_CEILING;
  int end = 0;
  for (int band = 0; ceiling > 0; band++) {
    const PeakLimits limits{0.0f, min_relative, min_absolute, 1, 1};
    const int n = collect<N>(work.plane, work.list, work.scratch, limits, allowed, ceiling, threadIdx.x);
    for (int c = threadIdx.x; c < n; c += Shape<N>::THREADS) {
      heights[end + c] = work.list.height[c];
      pixels[end + c] = work.list.pixel[c];
    }
    end += n;
    if (threadIdx.x == 0) ends[band] = end;
    __syncthreads();
  }
}
// a list with removed candidates (height 0) -> the others, in the same order
template <int N>
DEVICE void compact_alone(float* heights, int* pixels, int n, int* kept, Workspace<N>& work) {
  for (int c = threadIdx.x; c < n; c += Shape<N>::THREADS) {
    work.list.height[c] = heights[c];
    work.list.pixel[c] = pixels[c];
  }
  __syncthreads();
  const int left = compact<N>(work.list, n, work.scratch, threadIdx.x);
  for (int c = threadIdx.x; c < left; c += Shape<N>::THREADS) {
    heights[c] = work.list.height[c];
    pixels[c] = work.list.pixel[c];
  }
  if (threadIdx.x == 0) *kept = left;
}
// ranked, spaced behind `already` positions; the list may come in any order
template <int N>
DEVICE void space_alone(const float* heights, const int* pixels, int n, int near_below, int max_peaks, int already,
                        double* qx, double* qy, int* found, Workspace<N>& work) {
  for (int c = threadIdx.x; c < n; c += Shape<N>::THREADS) {
    work.list.height[c] = heights[c];
    work.list.pixel[c] = pixels[c];
  }
  __syncthreads();
  rank<N>(work.list, n, threadIdx.x);
  if (threadIdx.x >= 32) return;
  const PeakLimits limits{0.0f, 0.0f, 0.0f, near_below, max_peaks};
  const int there = apply_spacing<N>(work.list, n, limits, already, qx, qy, threadIdx.x);
  if (threadIdx.x == 0) *found = there;
}
// height of the candidates that are significant on the given n = 1 map, 0 of the others
template <int N>
DEVICE void significance_alone(const float2* cross, const void* counts, int type, const float* moments,
                               const int* reach, float limit, int negative, const int* pixels, int n, float* heights,
                               Workspace<N>& work) {
  copy_in<N>(cross, work.plane);
  for (int c = threadIdx.x; c < n; c += Shape<N>::THREADS) {
    work.list.height[c] = 1.0f;
    work.list.pixel[c] = pixels[c];
  }
  __syncthreads();
  remove_insignificant<N>(work.plane, work.list, n, counts, type, Moments{moments, reach[0], reach[1]}, limit, negative,
                          threadIdx.x);
  for (int c = threadIdx.x; c < n; c += Shape<N>::THREADS) heights[c] = work.list.height[c];
}
// sums of one moment, and of three with negative counts as 0, over windows about pixels: (n, 4)
template <int N>
DEVICE void windows_alone(const void* counts, int type, const float* planes, const int* reach, const int* pixels, int n,
                          float* out) {
  const int lane = threadIdx.x & 31;
  const Moments moments{planes, reach[0], reach[1]};
  with_pixels(counts, type, [&](auto typed) {
    for (int p = threadIdx.x >> 5; p < n; p += Shape<N>::WARPS) {
      float sums[4];
      window_sums<N, 0, 1, false, true>(typed, moments, pixels[p] / N, pixels[p] % N, NO_LIMIT, sums, lane);
      window_sums<N, 1, 3, true, false>(typed, moments, pixels[p] / N, pixels[p] % N, NO_LIMIT, sums + 1, lane);
      if (lane < 4) out[4 * p + lane] = sums[lane];
    }
  });
}
template <int N>
DEVICE void refine_alone(const float2* map, const void* counts, int type, const float* moments, const int* reach,
                         int refinement, int climb, int errors, int n, double* fields, Workspace<N>& work) {
  copy_in<N>(map, work.plane);
  refine<N>(work.plane, counts, type, Moments{moments, reach[0], reach[1]},
            RefineOptions{refinement, climb != 0, errors != 0}, n, fields, n, threadIdx.x);
}
// value, gradient and Hessian at points i + dx, j + dy
template <int N>
DEVICE void interpolate_alone(const float2* map, const int* pixels, const float* parts, int n, float* out,
                              Workspace<N>& work) {
  copy_in<N>(map, work.plane);
  const int lane = threadIdx.x & 31;
  for (int p = threadIdx.x >> 5; p < n; p += Shape<N>::WARPS) {
    const Point at{pixels[2 * p], pixels[2 * p + 1], parts[2 * p], parts[2 * p + 1], 0.0f};
    const Quadratic q = interpolate<N>(work.plane, at, lane);
    const float values[6] = {q.value, q.gx, q.gy, q.hxx, q.hxy, q.hyy};
    if (lane < 6) out[6 * p + lane] = values[lane];
  }
}

#define WORK(N) DYNAMIC_SHARED(Workspace<N>, work)
#define KERNEL(N) extern "C" __global__ void __launch_bounds__(Plan<N>::THREADS, STAGE_BLOCKS)
#define STAGES(N)                                                                                                     \
  extern "C" __global__ void workspace_##N(int* bytes) { *bytes = sizeof(Workspace<N>); }                             \
  KERNEL(N) rows_##N(const void* image, int type, float2* out, unsigned* flaws) {                                     \
    WORK(N);                                                                                                          \
    rows_alone<N>(image, type, out, flaws, *work);                                                                    \
  }                                                                                                                   \
  KERNEL(N) columns_##N(const float2* in, float2* out) {                                                              \
    WORK(N);                                                                                                          \
    columns_alone<N>(in, out, *work);                                                                                 \
  }                                                                                                                   \
  KERNEL(N) packing_##N(const float2* in, float2* out) {                                                              \
    WORK(N);                                                                                                          \
    packing_alone<N>(in, out, *work);                                                                                 \
  }                                                                                                                   \
  KERNEL(N) filter_##N(const float2* in, const float4* spectrum, const float2* nyquist, float power, float2* out) {   \
    WORK(N);                                                                                                          \
    filter_alone<N>(in, spectrum, nyquist, power, out, *work);                                                        \
  }                                                                                                                   \
  KERNEL(N) inverse_##N(const float2* in, float2* out) {                                                              \
    WORK(N);                                                                                                          \
    inverse_alone<N>(in, out, *work);                                                                                 \
  }                                                                                                                   \
  KERNEL(N)                                                                                                           \
  collect_##N(const float2* map, const u8* allowed, float min_absolute, float min_relative, float* heights,           \
              int* pixels, int* ends) {                                                                               \
    WORK(N);                                                                                                          \
    collect_alone<N>(map, allowed, min_absolute, min_relative, heights, pixels, ends, *work);                         \
  }                                                                                                                   \
  KERNEL(N) compact_##N(float* heights, int* pixels, int n, int* kept) {                                              \
    WORK(N);                                                                                                          \
    compact_alone<N>(heights, pixels, n, kept, *work);                                                                \
  }                                                                                                                   \
  KERNEL(N)                                                                                                           \
  space_##N(const float* heights, const int* pixels, int n, int near_below, int max_peaks, int already, double* qx,   \
            double* qy, int* found) {                                                                                 \
    WORK(N);                                                                                                          \
    space_alone<N>(heights, pixels, n, near_below, max_peaks, already, qx, qy, found, *work);                         \
  }                                                                                                                   \
  KERNEL(N)                                                                                                           \
  significance_##N(const float2* cross, const void* counts, int type, const float* moments, const int* reach,         \
                   float limit, int negative, const int* pixels, int n, float* heights) {                             \
    WORK(N);                                                                                                          \
    significance_alone<N>(cross, counts, type, moments, reach, limit, negative, pixels, n, heights, *work);           \
  }                                                                                                                   \
  KERNEL(N)                                                                                                           \
  windows_##N(const void* counts, int type, const float* moments, const int* reach, const int* pixels, int n,         \
              float* out) {                                                                                           \
    WORK(N);                                                                                                          \
    (void)work;                                                                                                       \
    windows_alone<N>(counts, type, moments, reach, pixels, n, out);                                                   \
  }                                                                                                                   \
  KERNEL(N)                                                                                                           \
  refine_##N(const float2* map, const void* counts, int type, const float* moments, const int* reach, int refinement, \
             int climb, int errors, int n, double* fields) {                                                          \
    WORK(N);                                                                                                          \
    refine_alone<N>(map, counts, type, moments, reach, refinement, climb, errors, n, fields, *work);                  \
  }                                                                                                                   \
  KERNEL(N) interpolate_##N(const float2* map, const int* pixels, const float* parts, int n, float* out) {            \
    WORK(N);                                                                                                          \
    interpolate_alone<N>(map, pixels, parts, n, out, *work);                                                          \
  }
#if !defined(SIZE) || SIZE == 64
STAGES(64)
#endif
#if !defined(SIZE) || SIZE == 96
STAGES(96)
#endif
#if !defined(SIZE) || SIZE == 128
STAGES(128)
#endif
#if !defined(SIZE) || SIZE == 192
STAGES(192)
#endif
