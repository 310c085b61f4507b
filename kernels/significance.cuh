// significance.cuh -- sums of counts over the template's window about a pixel: the variance of the correlation there,
// and of its gradient. Counts come from global memory (the pattern is in L2), the map's value from shared memory.
#pragma once
#include "peaks.cuh"

// K^2, Kx^2, Kx Ky, Ky^2 of the template, centred at (N/2, N/2). They are zero farther than (hx, hy) from there.
struct Moments {
  const float* planes;  // (4, N, N)
  int hx, hy;
};
constexpr float NO_LIMIT = 3.4028234e38f;

// sums[s] = sum_d counts(p + d) moment_{FIRST+s}(d) by one warp, the same in every lane. The detector is periodic. The
// lanes are 4 rows x 8 columns, and rows are visited from the middle outwards. STOPS: the sum ends as soon as sums[0]
// exceeds `enough`. POSITIVE: negative pixels count as 0.
template <int N, int FIRST, int SUMS, bool POSITIVE, bool STOPS, class Pixel>
DEVICE void window_sums(const Pixel* __restrict__ counts, const Moments& moments, int pi, int pj, float enough,
                        float* sums, int lane) {
  const auto add = [](float a, float b) { return a + b; };
  const int row = lane >> 3, column = lane & 7, last = moments.hy < N / 2 ? moments.hy : N / 2 - 1;
  const int steps = 2 * ((moments.hx + 3) / 4) + 1;
  float mine[SUMS] = {};
#pragma unroll 1
  for (int step = 0; step < steps; step++) {  // rows 0 .. 3, -4 .. -1, 4 .. 7, -8 .. -5, ...
    const int di = (step & 1 ? -2 * (step + 1) : 2 * step) + row;
    if (di >= -moments.hx && di <= moments.hx && di < N / 2) {
      const Pixel* line = counts + wrapped<N>(pi + di) * N;
      const float* weights = moments.planes + FIRST * N * N + (di + N / 2) * N + N / 2;
#pragma unroll 2
      for (int dj = column - moments.hy; dj <= last; dj += 8) {
        const float count = float(line[wrapped<N>(pj + dj)]);
        UNROLL for (int s = 0; s < SUMS; s++) mine[s] +=
            (POSITIVE ? fmaxf(count, 0.0f) : count) * __ldg(weights + s * N * N + dj);
      }
    }
    if (STOPS) {
      __syncwarp();
      if (warp_all(mine[0], add) > enough) break;
    }
  }
  __syncwarp();
  UNROLL for (int s = 0; s < SUMS; s++) sums[s] = warp_all(mine[s], add);
}

// Whether z = C_1 / sqrt(I * K^2) is at least the limit. Every lane gets the same result. Where counts cannot be
// negative, the sum stops as soon as z is too small. For most maxima of the noise this saves most of the work.
template <int N, class Pixel>
DEVICE bool significant(const Pixel* counts, const Moments& moments, float cross, int pixel, float limit, bool negative,
                        int lane) {
  if (limit > 0.0f && !(cross > 0.0f)) return false;
  if (limit <= 0.0f && cross >= 0.0f) return true;
  float enough = NO_LIMIT, noise;
  if (limit > 0.0f && !negative) {
    const float most = cross / limit;
    enough = most * most * 1.00001f;
  }
  window_sums<N, 0, 1, false, true>(counts, moments, pixel / N, pixel % N, enough, &noise, lane);
  return (noise > 0.0f ? cross / sqrtf(noise) : 0.0f) >= limit;
}

// Remove candidates that are not significant on the n = 1 map in `plane`. Each warp takes one candidate at a time.
template <int N>
DEVICE void remove_insignificant(const float2* plane, Candidates<N>& list, int n, const void* counts, int type,
                                 const Moments& moments, float limit, bool negative, int thread) {
  with_pixels(counts, type, [&](auto pixels) {
#pragma unroll 1
    for (int c = thread >> 5; c < n; c += Shape<N>::WARPS) {
      const int pixel = list.pixel[c];
      const float cross = map_at<N>(plane, pixel / N, pixel % N);
      const bool stays = significant<N>(pixels, moments, cross, pixel, limit, negative, thread & 31);
      if (!stays && (thread & 31) == 0) list.height[c] = 0.0f;
    }
  });
  __syncthreads();
}
