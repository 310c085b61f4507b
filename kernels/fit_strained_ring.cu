// fit_strained_ring.cu -- strain of a glass from the counts of its ring, by Fisher scoring of eight parameters.
//   patterns   (n, nx, ny) native dtype, `kind` says which;   origins (n, 2) double;   mask (nx, ny) bytes or null
//   table      (knots, 2) float: P and its slope, `per_px` knots a pixel
//   values     (n, 9) double: e_xx, e_yy, e_xy, origin, scale, background, dispersion;   covariance (n, 9) double
// A block of 128 threads a pattern: thread t takes pixels t, t + 128, ... and looks at those between the radii. Its 45
// sums are in single precision, those over threads in double, in a fixed order. Twelve lanes solve the equations, a
// column each.
// bytes: a pattern from memory once, then from the caches; 16 of the table a pixel and step.
// flops: 180 a pixel between the radii and step; three steps.   bound: issue slots.
// budget: 128 registers, 2752 bytes shared
#include "any_pixels.cuh"

namespace ring {

constexpr int THREADS = 128, WARPS = THREADS / 32;
constexpr int UNKNOWNS = 8, PAIRS = UNKNOWNS * (UNKNOWNS + 1) / 2, SUMS = PAIRS + UNKNOWNS + 1, COLUMNS = UNKNOWNS + 4;
// As in gpu4d/amorphous/fit_strained_ring.py
constexpr int MOST_STEPS = 16;
constexpr double LONGEST_STRAIN = 0.03, LONGEST_WAY = 2.0, LEFT = 0.2, LEAST = 1e-3;
constexpr double CLOSE = 0.01, REGULAR = 1e-7, USELESS = 0.2;
constexpr float SHORTEST = 1e-6f;

// What all patterns share.
struct Ring {
  const u8* mask;
  const float* table;
  int nx, ny, knots;
  float per_px, inner, outer, xx, xy, yy;
  int fit_origin, terms;
  DEVICE bool free(int i) const { return i < 3 || i == 5 || (i < 5 ? fit_origin != 0 : terms > i - 6); }
};

struct Shared {
  double part[SUMS][WARPS], sums[SUMS], state[UNKNOWNS], unit[UNKNOWNS], system[UNKNOWNS][COLUMNS], few[WARPS];
  double pixels;
  float least;
  int told, last;
};

// The given origin: a pixel and a part of one, so that differences are exact to single precision.
struct Origin {
  int i, j;
  float x, y;
  DEVICE Origin(double at_x, double at_y) : i(int(rint(at_x))), j(int(rint(at_y))), x(float(at_x - i)), y(float(at_y - j)) {}
};

// A pixel's place relative to the given origin, T (q - origin), its distance, and whether it takes part.
struct Place {
  float u, v, r;
  bool used;
  DEVICE Place(const Ring& ring, const Origin& origin, int p) {
    const int i = p / ring.ny, j = p - i * ring.ny;
    const float dx = float(i - origin.i) - origin.x, dy = float(j - origin.j) - origin.y;
    u = ring.xx * dx + ring.xy * dy, v = ring.xy * dx + ring.yy * dy, r = sqrtf(u * u + v * v);
    used = r > ring.inner && r < ring.outer && (!ring.mask || ring.mask[p]);
  }
};

// P and its slope at a radius.
struct Profile {
  float value, slope;
  DEVICE Profile(const Ring& ring, float r) {
    const float at = fminf(r * ring.per_px, float(ring.knots - 1));
    const int low = min(int(at), ring.knots - 2);
    const float part = at - float(low), *knot = ring.table + 2 * low;
    value = knot[0] + part * (knot[2] - knot[0]), slope = knot[1] + part * (knot[3] - knot[1]);
  }
};

struct Plus {
  DEVICE double operator()(double a, double b) const { return a + b; }
};

// Set the Fisher matrix row by row, the slope of the log likelihood and the sum of (I - λ)² / λ: 45 sums.
DEVICE void add_pixels(Shared& shared, const Ring& ring, const AnyPixels& image, const Origin& origin) {
  float sums[SUMS] = {};
  const double* state = shared.state;
  const float axx = float(1 + state[0]), ayy = float(1 + state[1]), axy = float(state[2]);
  const float du = float(ring.xx * state[3] + ring.xy * state[4]), dv = float(ring.xy * state[3] + ring.yy * state[4]);
  const float scale = float(state[5]), constant = float(state[6]), tilt = float(state[7]);
  const float wide = 2.0f / (ring.outer - ring.inner);
#pragma unroll 1  // more pixels at once would need more registers than there are
  for (int p = threadIdx.x; p < ring.nx * ring.ny; p += THREADS) {
    const Place place(ring, origin, p);
    if (!place.used) continue;
    const float u = place.u - du, v = place.v - dv;
    float a = axx * u + axy * v, b = axy * u + ayy * v;
    const float r = fmaxf(sqrtf(a * a + b * b), SHORTEST);
    const Profile profile(ring, r);
    const float rho = (place.r - ring.inner) * wide - 1.0f;
    const float model = fmaxf(scale * profile.value + constant + tilt * rho, shared.least), push = scale * profile.slope / r;
    a *= push, b *= push;
    const float along = axx * a + axy * b, across = axy * a + ayy * b;
    const float by_x = -(ring.xx * along + ring.xy * across), by_y = -(ring.xy * along + ring.yy * across);
    const float gradient[UNKNOWNS] = {a * u, b * v, a * v + b * u, by_x, by_y, profile.value, 1.0f, rho};
    const float weight = 1.0f / model, off = image[p] - model;
    UNROLL for (int i = 0; i < UNKNOWNS; i++) {
      const float scaled = weight * gradient[i];
      UNROLL for (int j = 0; j <= i; j++) sums[i * (i + 1) / 2 + j] += scaled * gradient[j];
      sums[PAIRS + i] += scaled * off;
    }
    sums[SUMS - 1] += weight * off * off;
  }
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  UNROLL for (int k = 0; k < SUMS; k++) {
    const double sum = warp_sum(double(sums[k]));
    if (lane == 0) shared.part[k][warp] = sum;
  }
  __syncthreads();
  if (threadIdx.x < SUMS) {
    double sum = 0.0;
    for (int w = 0; w < WARPS; w++) sum += shared.part[threadIdx.x][w];
    shared.sums[threadIdx.x] = sum;
  }
  __syncthreads();
}

// Element of the Fisher matrix: that of the identity for a parameter that is not fitted.
DEVICE double fisher(const Shared& shared, const Ring& ring, int i, int j) {
  if (!ring.free(i) || !ring.free(j)) return i == j ? 1.0 : 0.0;
  return i < j ? shared.sums[j * (j + 1) / 2 + i] : shared.sums[i * (i + 1) / 2 + j];
}

// Solve the equations: column 8 becomes the scaled step, columns 9 to 11 those of the covariance. A warp; a lane has a
// column. Units are chosen so that the diagonal is 1.
DEVICE void solve(Shared& shared, const Ring& ring) {
  const int column = threadIdx.x;
  if (column == 0) shared.told = 1;
  __syncwarp();
  if (column < UNKNOWNS) {
    const double own = fisher(shared, ring, column, column);
    if (!(own > 0.0)) shared.told = 0;
    shared.unit[column] = 1.0 / sqrt(own);
  }
  __syncwarp();
  if (column < COLUMNS)
    for (int i = 0; i < UNKNOWNS; i++) {
      double entry;
      if (column < UNKNOWNS)
        entry = i == column ? 1.0 + REGULAR : fisher(shared, ring, i, column) * shared.unit[i] * shared.unit[column];
      else if (column == UNKNOWNS) entry = ring.free(i) ? shared.sums[PAIRS + i] * shared.unit[i] : 0.0;
      else entry = i == column - UNKNOWNS - 1 ? 1.0 : 0.0;
      shared.system[i][column] = entry;
    }
  __syncwarp();
  for (int k = 0; k < UNKNOWNS; k++) {
    if (column > k && column < COLUMNS) {
      const double value = shared.system[k][column] / shared.system[k][k];
      shared.system[k][column] = value;
      for (int i = 0; i < UNKNOWNS; i++)
        if (i != k) shared.system[i][column] -= shared.system[i][k] * value;
    }
    __syncwarp();
  }
}

// Take a step of limited length. Return whether it is the last: what it promises is little. A thread.
DEVICE bool move(Shared& shared, const Ring& ring) {
  double change[UNKNOWNS], promised = 0.0, ratio = 1.0;
  for (int i = 0; i < UNKNOWNS; i++) {
    change[i] = shared.system[i][UNKNOWNS] * shared.unit[i];
    if (ring.free(i)) promised += 0.5 * change[i] * shared.sums[PAIRS + i];
  }
  for (int i = 0; i < 3; i++) ratio = fmax(ratio, fabs(change[i]) / LONGEST_STRAIN);
  for (int i = 3; i < 5; i++) ratio = fmax(ratio, fabs(change[i]) / LONGEST_WAY);
  const double least = LEFT * shared.state[5];
  for (int i = 0; i < UNKNOWNS; i++) shared.state[i] += change[i] / ratio;
  shared.state[5] = fmax(shared.state[5], least);
  return promised < CLOSE;
}

// Fit one pattern. Return whether it tells its strain.
DEVICE bool fit(Shared& shared, const Ring& ring, const AnyPixels& image, const Origin& origin) {
  double total = 0.0, expected = 0.0, count = 0.0;
#pragma unroll 1  // more pixels at once would need more registers than there are
  for (int p = threadIdx.x; p < ring.nx * ring.ny; p += THREADS) {
    const Place place(ring, origin, p);
    if (!place.used) continue;
    total += double(image[p]), expected += double(Profile(ring, place.r).value), count += 1.0;
  }
  total = block_all<WARPS>(total, shared.few, Plus());
  expected = block_all<WARPS>(expected, shared.few, Plus());
  count = block_all<WARPS>(count, shared.few, Plus());
  if (!(total > 0.0) || !isfinite(total)) return false;
  if (threadIdx.x < UNKNOWNS) shared.state[threadIdx.x] = threadIdx.x != 5 ? 0.0 : expected > 0.0 ? total / expected : 1.0;
  if (threadIdx.x == 0) shared.pixels = count, shared.least = float(LEAST * total / count);
  __syncthreads();
  for (int step = 0; step < MOST_STEPS; step++) {
    add_pixels(shared, ring, image, origin);
    if (threadIdx.x < 32) solve(shared, ring);
    __syncthreads();
    if (!shared.told) return false;
    if (threadIdx.x == 0) shared.last = move(shared, ring);
    __syncthreads();
    if (shared.last) {
      bool good = true;
      for (int i = 0; i < 3; i++) {
        const double variance = shared.system[i][UNKNOWNS + 1 + i] * shared.unit[i] * shared.unit[i];
        good = good && variance < USELESS * USELESS;
      }
      return good;
    }
  }
  return false;
}

}  // namespace ring

extern "C" __global__ void __launch_bounds__(ring::THREADS, 4)
    fit_strained_ring(const void* __restrict__ patterns, int kind, const double* __restrict__ origins,
                      const u8* __restrict__ mask, const float* __restrict__ table, double* __restrict__ values,
                      double* __restrict__ covariance, int nx, int ny, int knots, float per_px, float inner,
                      float outer, float xx, float xy, float yy, int fit_origin, int terms) {
  using namespace ring;
  __shared__ Shared shared;
  const offset_t n = blockIdx.x;
  const Ring ring{mask, table, nx, ny, knots, per_px, inner, outer, xx, xy, yy, fit_origin, terms};
  const double *at = origins + 2 * n;
  const bool known = isfinite(at[0]) && isfinite(at[1]);
  const bool good = known && fit(shared, ring, AnyPixels{patterns, kind}.from(n * nx * ny), Origin(at[0], at[1]));
  const int k = threadIdx.x;
  if (k >= 9) return;
  double variance = nan_value();
  if (good) variance = shared.system[k / 3][UNKNOWNS + 1 + k % 3] * shared.unit[k / 3] * shared.unit[k % 3];
  covariance[9 * n + k] = variance;
  double value = nan_value();
  if (good && k < UNKNOWNS) value = shared.state[k] + (k == 3 || k == 4 ? at[k - 3] : 0.0);
  if (good && k == UNKNOWNS) {
    int fitted = 0;
    for (int i = 0; i < UNKNOWNS; i++) fitted += ring.free(i);
    if (shared.pixels > fitted) value = shared.sums[SUMS - 1] / (shared.pixels - fitted);
  }
  values[9 * n + k] = value;
}
