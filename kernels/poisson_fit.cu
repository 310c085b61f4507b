// poisson_fit.cu -- Poisson maximum likelihood of every disk on its own, by Fisher scoring.
//   patterns  (n, nx, ny) native dtype   counts, y fastest
//   x, y      (n, most) double           starts;   count (n) int64: how many of them are disks
//   mask      (nx, ny) bytes             0 = does not count; null = all count
//   table     (P + 1, P + 1, 3, m) float32   D, dD/dx, dD/dy at sub-pixel phases;   pixels (m, 3) int32: offsets
//             from the middle, rows in order, and zone
//   out       (7, n, most) double        x, y, amplitude, background, xx, xy, yy;   ok (n, most) bytes
// lambda = b + bx u + by v + (a + cx u + cy v) D: 4, 6 or 8 parameters. A warp a disk, four in a block of 128 threads;
// lane t takes pixels t, t + 32, ... of the window. The lower triangle of the Fisher matrix and the gradient are
// summed over the lanes by shuffles, eight sums at a time. Then every lane solves the same small system in registers.
// This takes a warp as long as it would take one lane, and no result has to be sent to the others. bytes: window
// pixels, and 12 a pixel and iteration of the table from L2 (10 kB a disk at r = 6, three iterations).
// flops: 90 a pixel and iteration (6 parameters): 75 k a disk at r = 6, three iterations.   bound: issue slots.
// -D PIXEL=u16 -D PARAMETERS=6 compiles one kernel alone, which is what the launcher asks for: all twelve take 8 s.
// budget(fit_4_\w+): 80 registers, 1024 bytes shared
// budget(fit_6_\w+): 128 registers, 1024 bytes shared
// budget(fit_8_\w+): 168 registers, 1024 bytes shared
#include "common.cuh"
#include "eight_sums.cuh"

constexpr int WARPS = 4;
constexpr int INSIDE = 1, RING = 2;  // zones of the window
constexpr float LEAST = 0.02f;       // counts: the smallest value of the model
constexpr float LONGEST = 0.5f;      // px, one step
constexpr float FARTHEST = 1.5f;     // px from the start, and the largest standard error
constexpr float SHORT_STEP = 0.02f;  // px: the last step must be shorter than this, or than the standard error
constexpr float RECENTRE = 0.6f;     // px: a position farther from the window's middle moves the window
constexpr float PIVOT = 1e-6f;       // of the diagonal: with a smaller pivot the matrix has no inverse

DEVICE constexpr int entry(int i, int j) { return i * (i + 1) / 2 + j; }

struct Frame {
  int nx, ny, half;
  DEVICE bool holds(int x, int y) const { return x >= half && y >= half && x + half < nx && y + half < ny; }
};

// Replace every value by its sum over the lanes, in every lane. `slot` is shared memory of this warp alone.
template <int COUNT>
DEVICE void share_sums(float (&v)[COUNT], float* slot) {
  static_assert(COUNT % 8 == 0, "eight at a time");
  const int lane = threadIdx.x & 31;
  __syncwarp();
  UNROLL for (int k = 0; k < COUNT; k += 8) {
    const float s = eight_sums(v + k);
    if (lane < 8) slot[k + lane] = s;
  }
  __syncwarp();
  UNROLL for (int k = 0; k < COUNT; k++) v[k] = slot[k];
}

// a = L L^T in place (diagonal: 1 / L), false where there is no inverse
template <int N, int COUNT>
DEVICE bool cholesky(float (&a)[COUNT]) {
  bool regular = true;
  UNROLL for (int i = 0; i < N; i++) {
    UNROLL for (int j = 0; j < i; j++) {
      float s = a[entry(i, j)];
      UNROLL for (int k = 0; k < j; k++) s -= a[entry(i, k)] * a[entry(j, k)];
      a[entry(i, j)] = s * a[entry(j, j)];
    }
    const float diagonal = a[entry(i, i)];
    float s = diagonal;
    UNROLL for (int k = 0; k < i; k++) s -= a[entry(i, k)] * a[entry(i, k)];
    regular = regular && s > PIVOT * diagonal;
    a[entry(i, i)] = 1.0f / sqrtf(s);
  }
  return regular;
}

template <int N, int COUNT>
DEVICE void solve(const float (&a)[COUNT], float (&x)[N]) {
  UNROLL for (int i = 0; i < N; i++) {
    UNROLL for (int k = 0; k < i; k++) x[i] -= a[entry(i, k)] * x[k];
    x[i] *= a[entry(i, i)];
  }
  UNROLL for (int i = N - 1; i >= 0; i--) {
    UNROLL for (int k = i + 1; k < N; k++) x[i] -= a[entry(k, i)] * x[k];
    x[i] *= a[entry(i, i)];
  }
}

template <class Pixel, int N>
DEVICE void fit_disk(const Pixel* __restrict__ patterns, const double* __restrict__ x, const double* __restrict__ y,
                     const long long* __restrict__ count, const u8* __restrict__ mask, const float* __restrict__ table,
                     const int* __restrict__ pixels, double* __restrict__ out, u8* __restrict__ ok, long long all,
                     int most, int nx, int ny, int m, int phases, int iterations, double spacing) {
  constexpr int TRIANGLE = N * (N + 1) / 2, SUMS = (TRIANGLE + N + 7) / 8 * 8;
  __shared__ float slots[WARPS][64];
  float* slot = slots[threadIdx.x >> 5];
  const int lane = threadIdx.x & 31;
  const offset_t disk = offset_t(blockIdx.x) * WARPS + (threadIdx.x >> 5);
  if (disk >= all) return;
  const offset_t pattern = disk / most;
  const bool some = disk - pattern * most < count[pattern];
  const double startx = some ? x[disk] : nan_value(), starty = some ? y[disk] : nan_value();
  if (lane < 7) out[lane * all + disk] = lane == 0 ? startx : lane == 1 ? starty : nan_value();
  if (lane == 0) ok[disk] = 0;
  const int half = -pixels[0];
  const Frame frame = {nx, ny, half};
  // written so that a NaN is outside; positions that pass fit into an int
  if (!(startx > -1.0 && startx < nx && starty > -1.0 && starty < ny)) return;
  bool crowded = false;
  for (int k = lane; k < min(int(count[pattern]), most); k += 32) {
    const offset_t other = pattern * most + k;
    const double dx = x[other] - startx, dy = y[other] - starty;
    crowded = crowded || (other != disk && dx * dx + dy * dy < spacing * spacing);
  }
  if (__any_sync(FULL_WARP, crowded)) return;
  int cx = int(floor(startx + 0.5)), cy = int(floor(starty + 0.5));
  if (!frame.holds(cx, cy)) return;
  const Pixel* image = patterns + pattern * nx * ny;

  float first[8] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
  for (int i = lane; i < m; i += 32) {
    const int at = (cx + pixels[3 * i]) * ny + cy + pixels[3 * i + 1], zone = pixels[3 * i + 2];
    const bool counts = !mask || mask[at];
    const float v = counts ? float(image[at]) : 0.0f, weight = counts ? 1.0f : 0.0f;
    if (zone == INSIDE) first[0] += v, first[1] += weight;
    if (zone == RING) first[2] += v, first[3] += weight;
  }
  share_sums(first, slot);
  float b = fmaxf(first[2] / fmaxf(first[3], 1.0f), 0.05f), a = fmaxf(first[0] / fmaxf(first[1], 1.0f) - b, 0.1f);
  float bx = 0.0f, by = 0.0f, tx = 0.0f, ty = 0.0f;
  float fx = float(startx - cx), fy = float(starty - cy);  // from the window's middle
  float movedx = 0.0f, movedy = 0.0f, lastx = 0.0f, lasty = 0.0f;
  float covariance[3] = {0.0f, 0.0f, 0.0f};
  const float unit = 1.0f / half;

  for (int step = 0; step < iterations; step++) {
    const int ox = int(floorf(fx + 0.5f)), oy = int(floorf(fy + 0.5f));
    if ((fabsf(fx) > RECENTRE || fabsf(fy) > RECENTRE) && frame.holds(cx + ox, cy + oy))
      cx += ox, cy += oy, fx -= ox, fy -= oy;
    const int p = min(max(int(floorf((fx + 0.5f) * phases + 0.5f)), 0), phases);
    const int q = min(max(int(floorf((fy + 0.5f) * phases + 0.5f)), 0), phases);
    const float dx = fx + 0.5f - float(p) / phases, dy = fy + 0.5f - float(q) / phases;
    const float* d0 = table + (offset_t(p) * (phases + 1) + q) * 3 * m;
    float sums[SUMS];
    UNROLL for (int k = 0; k < SUMS; k++) sums[k] = 0.0f;
    for (int i = lane; i < m; i += 32) {
      const int ix = pixels[3 * i], iy = pixels[3 * i + 1], at = (cx + ix) * ny + cy + iy;
      if (mask && !mask[at]) continue;
      const float u = ix * unit, v = iy * unit, slope_x = d0[m + i], slope_y = d0[2 * m + i];
      const float d = d0[i] - dx * slope_x - dy * slope_y;
      float height = a, ground = b;
      if (N > 4) ground += bx * u + by * v;
      if (N > 6) height = fmaxf(a + tx * u + ty * v, 0.05f * a);
      const float model = fmaxf(ground + height * d, LEAST), inverse = 1.0f / model;
      const float misfit = float(image[at]) - model;
      const float all_rows[8] = {-height * slope_x, -height * slope_y, d, 1.0f, u, v, u * d, v * d};
      UNROLL for (int k = 0; k < N; k++) {
        const float scaled = all_rows[k] * inverse;
        UNROLL for (int j = 0; j <= k; j++) sums[entry(k, j)] += scaled * all_rows[j];
        sums[TRIANGLE + k] += scaled * misfit;
      }
    }
    share_sums(sums, slot);
    if (!cholesky<N>(sums) || !(fabsf(sums[TRIANGLE + 3]) <= 3.4e38f)) return;  // the second: a NaN among the counts
    float move[N];
    UNROLL for (int k = 0; k < N; k++) move[k] = sums[TRIANGLE + k];
    solve<N>(sums, move);
    move[0] = fminf(LONGEST, fmaxf(-LONGEST, move[0]));
    move[1] = fminf(LONGEST, fmaxf(-LONGEST, move[1]));
    lastx = move[0], lasty = move[1];
    fx += lastx, fy += lasty;
    movedx += lastx, movedy += lasty;
    a = fmaxf(a + move[2], 0.2f * a);
    b = fmaxf(b + move[3], 0.2f * b);
    if (N > 4) bx += move[N > 4 ? 4 : 0], by += move[N > 4 ? 5 : 0];
    if (N > 6) tx += move[N > 6 ? 6 : 0], ty += move[N > 6 ? 7 : 0];
    if (!(fabsf(movedx) <= FARTHEST && fabsf(movedy) <= FARTHEST)) return;
    if (step == iterations - 1) {
      UNROLL for (int c = 0; c < 2; c++) {
        float column[N];
        UNROLL for (int k = 0; k < N; k++) column[k] = k == c ? 1.0f : 0.0f;
        solve<N>(sums, column);
        covariance[c] = column[c], covariance[2 * c] = column[c];
        if (c == 1) covariance[1] = column[0];
      }
    }
  }
  const float largest = FARTHEST * FARTHEST, short_step = SHORT_STEP * SHORT_STEP;
  if (!(lastx * lastx <= fmaxf(covariance[0], short_step) && lasty * lasty <= fmaxf(covariance[2], short_step))) return;
  if (!(covariance[0] < largest && covariance[2] < largest)) return;
  const double result[7] = {cx + double(fx), cy + double(fy), a, b, covariance[0], covariance[1], covariance[2]};
  if (lane == 0) {
    UNROLL for (int k = 0; k < 7; k++) out[k * all + disk] = result[k];
    ok[disk] = 1;
  }
}

// Seven blocks allow 72 registers. With this bound ptxas uses 64 for N = 4 without a spill. Without it, it spills one
// register on sm_100 and 120 to reach 64 (with -ftz=true, NVRTC 13.5).
#define BOUNDS_4 128, 7
#define BOUNDS_6 128
#define BOUNDS_8 128
#define INSTANCE_OF(NAME, Pixel, N)                                                                                    \
  extern "C" __global__ void __launch_bounds__(BOUNDS_##N)                                                             \
      fit_##N##_##NAME(const Pixel* __restrict__ patterns, const double* __restrict__ x, const double* __restrict__ y, \
                       const long long* __restrict__ count, const u8* __restrict__ mask,                               \
                       const float* __restrict__ table, const int* __restrict__ pixels, double* __restrict__ out,      \
                       u8* __restrict__ ok, long long all, int most, int nx, int ny, int m, int phases,                \
                       int iterations, double spacing) {                                                               \
    fit_disk<Pixel, N>(patterns, x, y, count, mask, table, pixels, out, ok, all, most, nx, ny, m, phases, iterations,  \
                       spacing);                                                                                       \
  }
#if defined(PIXEL) && defined(PARAMETERS)
typedef float f32;
#define INSTANCE(Pixel, N) INSTANCE_OF(Pixel, Pixel, N)
INSTANCE(PIXEL, PARAMETERS)
#else
#define INSTANCE(NAME, Pixel) INSTANCE_OF(NAME, Pixel, 4) INSTANCE_OF(NAME, Pixel, 6) INSTANCE_OF(NAME, Pixel, 8)
FOR_EACH_PIXEL(INSTANCE)
#endif
