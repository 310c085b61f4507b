// refine.cuh -- sub-pixel positions of maxima on the map in shared memory, and their standard errors.
// The map's one trigonometric interpolation (Nyquist as a cosine) is separable,
//   f(x, y) = sum_ij D(x - i) D(y - j) map[i][j],   D(u) = sin(pi u) / (N tan(pi u / N)),
// so a Newton step on it needs three weighted sums of every column (D, D', D'' along x), and then three weighted sums
// of each of those. A patch about the maximum cannot replace the whole map: it lacks the frequencies near Nyquist,
// which costs 5e-3 px.
#pragma once
#include "significance.cuh"

enum Refinement { WHOLE_PIXEL, PARABOLA, EXACT };
constexpr int CLIMB = 3;          // whole-pixel steps from a maximum of the hybrid map to one of this map
constexpr int NEWTON_STEPS = 10;  // at most; two or three are usual
constexpr float CLOSE = 2e-3f;    // px: after a step shorter than this, the next would be shorter than 1e-5
constexpr float REACH = 1.5f;     // px from the first pixel; farther away lies another maximum

// A position: pixel (i, j), which may lie outside the detector (the map is periodic), and the distance from its centre
struct Point {
  int i, j;
  float dx, dy, height;
};
template <int N>
DEVICE float wrapped_at(const float2* plane, int i, int j) {
  return map_at<N>(plane, wrapped<N>(i), wrapped<N>(j));
}

// Steepest ascent over the eight neighbours
template <int N>
DEVICE void climb(const float2* plane, int& i, int& j) {
#pragma unroll 1
  for (int step = 0; step < CLIMB; step++) {
    float best = wrapped_at<N>(plane, i, j);
    int to = 4;
    UNROLL for (int n = 0; n < 9; n++) {
      const float height = wrapped_at<N>(plane, i + n / 3 - 1, j + n % 3 - 1);
      if (height > best) best = height, to = n;
    }
    if (to == 4) break;
    i += to / 3 - 1, j += to % 3 - 1;
  }
}

struct Quadratic {
  float value, gx, gy, hxx, hxy, hyy;
  // By elimination. The determinant has the square of the map's scale, which could leave the range of floats.
  DEVICE float ratio() const { return hxy / hxx; }
  DEVICE float rest() const { return hyy - hxy * ratio(); }
  DEVICE bool has_maximum() const { return hxx < 0.0f && rest() < 0.0f; }
  // Step to its maximum, at most half a pixel along each axis; 0 if it has no maximum
  DEVICE void step(float& dx, float& dy) const {
    const float y = (ratio() * gx - gy) / rest(), x = -(gx + hxy * y) / hxx;
    dx = has_maximum() ? fminf(0.5f, fmaxf(-0.5f, x)) : 0.0f;
    dy = has_maximum() ? fminf(0.5f, fmaxf(-0.5f, y)) : 0.0f;
  }
};

// Maximum of the quadratic through the 3 x 3 neighbours
template <int N>
DEVICE Point parabola(const float2* plane, int i, int j) {
  float at[9];
  UNROLL for (int n = 0; n < 9; n++) at[n] = wrapped_at<N>(plane, i + n / 3 - 1, j + n % 3 - 1);
  const Quadratic q{at[4],
                    0.5f * (at[7] - at[1]),
                    0.5f * (at[5] - at[3]),
                    at[7] + at[1] - 2.0f * at[4],
                    0.25f * (at[8] + at[0] - at[6] - at[2]),
                    at[5] + at[3] - 2.0f * at[4]};
  float dx, dy;
  q.step(dx, dy);
  const float bend = q.hxx * dx * dx + 2.0f * q.hxy * dx * dy + q.hyy * dy * dy;
  return {i, j, dx, dy, q.value + q.gx * dx + q.gy * dy + 0.5f * bend};
}

// D(u) = sum_m series_term(m) u^(2m) for |u| <= 1/2, where the sine and the tangent cancel
template <int N>
__device__ constexpr double series_term(int m) {
  double sum = 0, factorial = 1;
  for (int k = 0; k <= N / 2; k++) {
    double power = 1;
    for (int q = 0; q < 2 * m; q++) power *= 6.283185307179586477 * k / N;
    sum += power * (k == 0 || 2 * k == N ? 1 : 2);
  }
  for (int q = 1; q <= 2 * m; q++) factorial *= q;
  return (m % 2 ? -sum : sum) / (N * factorial);
}
template <int N, int M>
struct SeriesTerm {
  static constexpr float value = float(series_term<N>(M));
};
// D, D', D'' at u = whole + part, -N/2 <= whole < N/2, |part| <= 1/2; sine, cosine of pi part
template <int N>
DEVICE void sinc(int whole, float part, float sine, float cosine, float* d) {
  const float u = whole + part;
  if (whole == 0) {
    float f = 0.0f, g = 0.0f, h = 0.0f;  // Horner in u^2
    unrolled<0, 9>([&](auto step) {
      constexpr int m = 8 - decltype(step)::value;
      constexpr float term = SeriesTerm<N, m>::value;
      f = f * u * u + term;
      if constexpr (m > 0) {
        g = g * u * u + 2 * m * term;
        h = h * u * u + 2 * m * (2 * m - 1) * term;
      }
    });
    d[0] = f, d[1] = g * u, d[2] = h;
  } else {
    constexpr float pi = 3.14159265358979f, n = 1.0f / N;
    float s, c;
    sincospif(u * n, &s, &c);
    const float cot = c / s, bend = 1.0f + cot * cot, sign = whole & 1 ? -n : n;
    sine *= sign, cosine *= sign;
    d[0] = sine * cot;
    d[1] = pi * (cosine * cot - sine * n * bend);
    d[2] = pi * pi * (-sine * cot - 2.0f * cosine * n * bend + 2.0f * sine * n * n * cot * bend);
  }
}
// D, D', D'' between a point and the samples lane, lane + 32, ...
template <int N>
DEVICE void sinc_weights(int pixel, float part, int lane, float (*weights)[3]) {
  float sine, cosine;
  sincospif(part, &sine, &cosine);
  UNROLL for (int h = 0; h < N / 32; h++) {
    const int away = pixel - (lane + 32 * h);
    sinc<N>(away >= N / 2 ? away - N : away < -N / 2 ? away + N : away, part, sine, cosine, weights[h]);
  }
}

// Value, gradient and Hessian of the interpolation at a point, by one warp. Every lane gets the same result.
template <int N>
DEVICE Quadratic interpolate(const float2* plane, const Point& at, int lane) {
  constexpr int SETS = N / 32;
  lane = fresh(lane);
  const float wholex = rintf(at.dx), wholey = rintf(at.dy);
  const int i = wrapped<N>(at.i + (int)wholex), j = wrapped<N>(at.j + (int)wholey);
  float column[SETS][3] = {};  // sums of D, D', D'' along x times the map
  {
    float weights[SETS][3];  // of rows lane, lane + 32, ...
    sinc_weights<N>(i, at.dx - wholex, lane, weights);
    UNROLL for (int h = 0; h < SETS; h++) {
#pragma unroll 2
      for (int r = 0; r < 16; r++) {
        const float2* packed = plane + (16 * h + r) * Plan<N>::PITCH + lane;
        float even[3], odd[3];
        UNROLL for (int m = 0; m < 3; m++) {
          even[m] = __shfl_sync(FULL_WARP, weights[h][m], 2 * r);
          odd[m] = __shfl_sync(FULL_WARP, weights[h][m], 2 * r + 1);
        }
        UNROLL for (int c = 0; c < SETS; c++) {
          const float2 rows = packed[32 * c];
          UNROLL for (int m = 0; m < 3; m++) column[c][m] += even[m] * rows.x + odd[m] * rows.y;
        }
      }
    }
  }
  float weights[SETS][3];  // of columns lane, lane + 32, ...
  sinc_weights<N>(j, at.dy - wholey, fresh(lane), weights);
  Quadratic q{};
  UNROLL for (int c = 0; c < SETS; c++) {
    q.value += column[c][0] * weights[c][0];
    q.gx += column[c][1] * weights[c][0];
    q.gy += column[c][0] * weights[c][1];
    q.hxx += column[c][2] * weights[c][0];
    q.hxy += column[c][1] * weights[c][1];
    q.hyy += column[c][0] * weights[c][2];
  }
  const auto add = [](float a, float b) { return a + b; };
  return {warp_all(q.value, add), warp_all(q.gx, add),  warp_all(q.gy, add),
          warp_all(q.hxx, add),   warp_all(q.hxy, add), warp_all(q.hyy, add)};
}

// Newton steps on the interpolation, by one warp. All lanes compute the same. `last` is the quadratic of the last step.
template <int N>
DEVICE void climb_exactly(const float2* plane, Point& at, Quadratic& last, int lane) {
  const Point start = at;
#pragma unroll 1
  for (int step = 0; step < NEWTON_STEPS; step++) {
    last = interpolate<N>(plane, at, lane);
    float dx, dy;
    last.step(dx, dy);
    at.dx += dx, at.dy += dy;
    at.height = last.value + 0.5f * (last.gx * dx + last.gy * dy);
    if (fabsf(dx) < CLOSE && fabsf(dy) < CLOSE) break;
  }
  if (fabsf(at.dx) > REACH || fabsf(at.dy) > REACH) {
    at = start;
    last = interpolate<N>(plane, at, lane);
    at.height = last.value;
  }
}

// Standard errors: Cov = H^-1 G H^-1 with H the Hessian of the n = 1 map and G the Poisson variance of its gradient
template <int N>
DEVICE void standard_errors(const void* counts, int type, const Moments& moments, const Point& at, const Quadratic& map,
                            float pixel_variance, float& sx, float& sy, int lane) {
  float g[3];
  const int i = wrapped<N>((int)rintf(at.i + at.dx)), j = wrapped<N>((int)rintf(at.j + at.dy));
  with_pixels(counts, type,
              [&](auto pixels) { window_sums<N, 1, 3, true, false>(pixels, moments, i, j, NO_LIMIT, g, lane); });
  const float c = 1.0f / map.rest(), b = -map.ratio() * c, a = 1.0f / map.hxx - map.ratio() * b;  // H^-1
  const float vx = a * (a * g[0] + b * g[1]) + b * (a * g[1] + b * g[2]);
  const float vy = b * (b * g[0] + c * g[1]) + c * (b * g[1] + c * g[2]);
  const float nothing = __uint_as_float(0x7fc00000u);
  sx = map.has_maximum() && vx > 0.0f ? sqrtf(vx + pixel_variance) : nothing;
  sy = map.has_maximum() && vy > 0.0f ? sqrtf(vy + pixel_variance) : nothing;
}

struct RefineOptions {
  int refinement;
  bool climb;   // the pixels are maxima of another map
  bool errors;  // the map is that of n = 1, a linear function of the counts, so that its noise is known
};
// Refine disks, one for each warp at a time. On entry qx, qy (fields 0 and 1 of five, `stride` apart) hold whole
// pixels. Positions, heights and errors are written over them.
template <int N>
DEVICE void refine(const float2* plane, const void* counts, int type, const Moments& moments, RefineOptions options,
                   int count, double* fields, offset_t stride, int thread) {
  const int lane = thread & 31;
#pragma unroll 1
  for (int p = thread >> 5; p < count; p += Shape<N>::WARPS) {
    int i = (int)fields[p], j = (int)fields[stride + p];
    __syncwarp();  // all lanes have read what lane 0 will replace
    if (options.climb && options.refinement != WHOLE_PIXEL) climb<N>(plane, i, j);
    Point at{i, j, 0.0f, 0.0f, wrapped_at<N>(plane, i, j)};
    if (options.refinement != WHOLE_PIXEL) at = parabola<N>(plane, i, j);
    Quadratic map{};
    if (options.refinement == EXACT)
      climb_exactly<N>(plane, at, map, lane);
    else if (options.errors)
      map = interpolate<N>(plane, at, lane);
    float sx = __uint_as_float(0x7fc00000u), sy = sx;
    if (options.errors)
      standard_errors<N>(counts, type, moments, at, map, options.refinement == WHOLE_PIXEL ? 1.0f / 12 : 0.0f, sx, sy,
                         lane);
    if (lane == 0) {
      fields[p] = at.i + (double)at.dx;
      fields[stride + p] = at.j + (double)at.dy;
      fields[2 * stride + p] = at.height;
      fields[3 * stride + p] = sx;
      fields[4 * stride + p] = sy;
    }
  }
}
