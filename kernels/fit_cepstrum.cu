// fit_cepstrum.cu -- two real-space vectors from the maxima of the power cepstrum of each pattern.
// window_logs: windowed logarithms in padded planes, for the FFT library.
//   patterns  (n, qx, qy) of type `kind`   y fastest;   window, scaled (qx, qy) float32: window, and times 1 / kernel
//   place     (qx, qy) int32               number of a hidden pixel, or -1; null = none is hidden
//   donors, shares (h, k)                  good pixels that a hidden one is filled from
//   padded    (n, mx, my) float32          the centre of a pattern in the first corner;   usable (n) bytes
// fit_lattices: the fit, after the transform.
//   planes    (n, mx, my / 2 + 1) complex64;   table (steps, 4, 6) float32: kernel, its derivatives
//   nodes     (p, 2), start (2, 2) double;   stages (s) int32: nodes that are fitted at first, then, …
//   vectors (n, 2, 2), covariance (n, 4, 4), residual, significance (n) double
// A block of 256 threads a pattern; then a warp a pattern, lanes over the nodes, four warps a block. A value is made of
// 6 × 6 samples in single precision, all sums over nodes are double. Lane 0 solves the 4 × 4 equations in shared memory.
// bytes: 6 a pixel of the pattern, and 4 · 1.5² to write and twice that to transform, 0.4 MB at 128²; samples come from L2. flops: 10 a
// pixel; 600 a look at a node, some 600 looks. bound: the transforms and what they move, then issue slots of the looks.
// budget(window_logs): 64 registers, 1024 bytes shared
// budget(fit_lattices): 168 registers, 2560 bytes shared
#include "any_pixels.cuh"

namespace cepstrum {

constexpr int THREADS = 256, WARPS = THREADS / 32;
constexpr int FITS = 4;                      // warps of a block of the fit
constexpr int TAPS = 6;                      // samples that a value is made of, along an axis
constexpr int SCORING = 4, NEWTON = 3;       // steps of a stage; steps at the end
constexpr double LONGEST_STEP = 0.5;         // px, of any node
constexpr double FARTHEST = 0.2;             // deformation from the start
constexpr double LOG_MEAN = -0.5772156649 - 0.1783121392;
constexpr double LOG_VARIANCE = 1.6449340668482264 + 0.2197729551;

struct Plus {
  template <class T>
  DEVICE T operator()(T a, T b) const { return a + b; }
};
struct Higher {
  template <class T>
  DEVICE T operator()(T a, T b) const { return a > b ? a : b; }
};

// Where hidden pixels are filled from.
struct Hidden {
  const int *place, *donors;
  const float* shares;
  int each;
};

DEVICE float log_of(float counts, float offset) { return logf(fmaxf(counts, 0.0f) + offset); }

// Logarithm at a pixel.
DEVICE float log_at(const AnyPixels& image, const Hidden& hidden, float offset, int p) {
  const int h = hidden.place ? hidden.place[p] : -1;
  if (h < 0) return log_of(image[p], offset);
  float sum = 0.0f;
  for (int k = 0; k < hidden.each; k++)
    sum += hidden.shares[h * hidden.each + k] * log_of(image[hidden.donors[h * hidden.each + k]], offset);
  return sum;
}

// Row or column of a pattern that lies at place `at` of a padded axis, or -1.
DEVICE int unpadded(int at, int q, int m) {
  if (at < q - q / 2) return at + q / 2;
  return at >= m - q / 2 ? at - m + q / 2 : -1;
}

// A half plane of samples, and how points become samples.
struct Samples {
  const float2* plane;
  const float* table;
  int mx, my, steps;
  double sx, sy;  // samples a pixel
  // Sample of the whole plane; column from -3 to my / 2 + 3.
  DEVICE float2 at(int row, int column) const {
    const int half = my / 2 + 1, r = (row % mx + mx) % mx;
    if (column >= 0 && column < half) return plane[r * half + column];
    const int other = r ? mx - r : 0;
    return conj(plane[other * half + (column < 0 ? -column : my - column)]);
  }
};

// A point along an axis: the first of its six samples, and where its weights are in the table.
struct Point {
  int first;
  const float* row;
  float d;
  DEVICE Point(const Samples& s, double t) {
    const double whole = floor(t), f = (t - whole) * s.steps;
    const int step = min(int(f), s.steps - 1);
    first = int(whole) - (TAPS / 2 - 1), row = s.table + step * 4 * TAPS, d = float((f - (step + 0.5)) / s.steps);
  }
  // Weight of sample k, and its derivatives.
  DEVICE float weight(int k) const { return row[k] + d * (row[TAPS + k] + 0.5f * d * row[2 * TAPS + k]); }
  DEVICE float slope(int k) const { return row[TAPS + k] + d * (row[2 * TAPS + k] + 0.5f * d * row[3 * TAPS + k]); }
  DEVICE float bend(int k) const { return row[2 * TAPS + k] + d * row[3 * TAPS + k]; }
};

// |C|² at a point, px.
DEVICE double height(const Samples& s, double x, double y) {
  const double turn = y < 0 ? -1.0 : 1.0;  // |C(-p)| = |C(p)|
  const Point px(s, turn * x * s.sx), py(s, fmin(turn * y * s.sy, double(s.my / 2)));
  float2 sum = {};
#pragma unroll 1
  for (int k = 0; k < TAPS * TAPS; k++)
    sum = sum + s.at(px.first + k / TAPS, py.first + k % TAPS) * (px.weight(k / TAPS) * py.weight(k % TAPS));
  return double(sum.x) * sum.x + double(sum.y) * sum.y;
}

// |C|² at a node, its slopes and curvatures, by px.
struct Look {
  double f, gx, gy, xx, yy, xy;
};

DEVICE Look look(const Samples& s, double x, double y) {
  const double turn = y < 0 ? -1.0 : 1.0, sx = turn * s.sx, sy = turn * s.sy;
  const Point px(s, x * sx), py(s, fmin(y * sy, double(s.my / 2)));
  float wy[3][TAPS];
  UNROLL for (int j = 0; j < TAPS; j++) wy[0][j] = py.weight(j), wy[1][j] = py.slope(j), wy[2][j] = py.bend(j);
  float2 c[6] = {};  // C, and its derivatives by x, y, xx, yy, xy
#pragma unroll 1
  for (int i = 0; i < TAPS; i++) {
    float2 row[3] = {};
    UNROLL for (int j = 0; j < TAPS; j++) {
      const float2 v = s.at(px.first + i, py.first + j);
      UNROLL for (int k = 0; k < 3; k++) row[k] = row[k] + v * wy[k][j];
    }
    const float w0 = px.weight(i), w1 = px.slope(i), w2 = px.bend(i);
    c[0] = c[0] + row[0] * w0, c[1] = c[1] + row[0] * w1, c[2] = c[2] + row[1] * w0;
    c[3] = c[3] + row[0] * w2, c[4] = c[4] + row[2] * w0, c[5] = c[5] + row[1] * w1;
  }
  const auto dot = [](float2 a, float2 b) { return double(a.x) * b.x + double(a.y) * b.y; };
  return {dot(c[0], c[0]), 2 * dot(c[0], c[1]) * sx, 2 * dot(c[0], c[2]) * sy,
          2 * (dot(c[1], c[1]) + dot(c[0], c[3])) * sx * sx, 2 * (dot(c[2], c[2]) + dot(c[0], c[4])) * sy * sy,
          2 * (dot(c[1], c[2]) + dot(c[0], c[5])) * sx * sy};
}

// Shared memory of a warp.
struct Fit {
  double r[4], step[4], matrix[4][4], work[4][4], columns[4][4], other[4][4];
};

// Solve 4 × 4 equations by elimination with pivots, `count` columns in place. Return whether the matrix is regular. A thread.
DEVICE bool solve(Fit& fit, double (&columns)[4][4], int count) {
  double determinant = 1.0;
  for (int i = 0; i < 4; i++) {
    double size = 0.0;
    for (int j = 0; j < 4; j++) fit.work[i][j] = fit.matrix[i][j], size += fit.matrix[i][j] * fit.matrix[i][j];
    determinant *= size > 0 ? 1.0 / sqrt(size) : 0.0;
  }
#pragma unroll 1
  for (int i = 0; i < 4; i++) {
    int pivot = i;
    for (int k = i + 1; k < 4; k++)
      if (fabs(fit.work[k][i]) > fabs(fit.work[pivot][i])) pivot = k;
    if (!(fabs(fit.work[pivot][i]) > 0)) return false;
    determinant *= fit.work[pivot][i];
    for (int j = 0; j < 4; j++) {
      const double kept = fit.work[i][j];
      fit.work[i][j] = fit.work[pivot][j], fit.work[pivot][j] = kept;
      if (j >= count) continue;
      const double moved = columns[i][j];
      columns[i][j] = columns[pivot][j], columns[pivot][j] = moved;
    }
    for (int k = 0; k < 4; k++) {
      if (k == i) continue;
      const double factor = fit.work[k][i] / fit.work[i][i];
      for (int j = i; j < 4; j++) fit.work[k][j] -= factor * fit.work[i][j];
      for (int j = 0; j < count; j++) columns[k][j] -= factor * columns[i][j];
    }
  }
  for (int i = 0; i < 4; i++)
    for (int j = 0; j < count; j++) columns[i][j] /= fit.work[i][i];
  return fabs(determinant) > 1e-12;
}

// Nodes of the lattice, and the curvature of a single line along both axes.
struct Nodes {
  const double* hk;
  double width[2];
  int count;
};

// Sums over the nodes: power · (hh, hk, kk), slopes of the summed power, and its curvature.
struct Sums {
  double power[3], slope[4], curvature[3][3];
};

// Sum over the first nodes of the lattice. A warp; every lane gets all sums.
DEVICE Sums sums_of(const Samples& s, const Nodes& nodes, int count, const double (&r)[4]) {
  Sums t = {};
#pragma unroll 1
  for (int p = threadIdx.x & 31; p < count; p += 32) {
    const double h = nodes.hk[2 * p], k = nodes.hk[2 * p + 1];
    const Look at = look(s, h * r[0] + k * r[2], h * r[1] + k * r[3]);
    const double pair[3] = {h * h, h * k, k * k}, bent[3] = {at.xx, at.xy, at.yy};
    UNROLL for (int a = 0; a < 3; a++) {
      t.power[a] += at.f * pair[a];
      UNROLL for (int b = 0; b < 3; b++) t.curvature[a][b] += pair[a] * bent[b];
    }
    t.slope[0] += h * at.gx, t.slope[1] += h * at.gy, t.slope[2] += k * at.gx, t.slope[3] += k * at.gy;
  }
  UNROLL for (int a = 0; a < 3; a++) {
    t.power[a] = warp_all(t.power[a], Plus());
    UNROLL for (int b = 0; b < 3; b++) t.curvature[a][b] = warp_all(t.curvature[a][b], Plus());
  }
  UNROLL for (int a = 0; a < 4; a++) t.slope[a] = warp_all(t.slope[a], Plus());
  return t;
}

// Set the step with the curvature of single lines. A thread.
DEVICE void score(const Sums& t, const Nodes& nodes, Fit& fit) {
  const double a = t.power[0], b = t.power[1], d = t.power[2], determinant = a * d - b * b;
  const bool regular = fabs(determinant) > 1e-12 * sqrt((a * a + b * b) * (b * b + d * d));
  UNROLL for (int c = 0; c < 2; c++) {
    const double u = t.slope[c] / (2 * nodes.width[c]), v = t.slope[2 + c] / (2 * nodes.width[c]);
    fit.step[c] = regular ? (d * u - b * v) / determinant : 0.0;
    fit.step[2 + c] = regular ? (a * v - b * u) / determinant : 0.0;
  }
}

// Set the negative curvature of the summed power. A thread.
DEVICE void set_matrix(const Sums& t, Fit& fit) {
  UNROLL for (int i = 0; i < 4; i++) {
    UNROLL for (int j = 0; j < 4; j++) fit.matrix[i][j] = -t.curvature[i / 2 + j / 2][i % 2 + j % 2];
  }
}

// Set Newton's step, or the scored one where the summed power has no maximum nearby. A thread.
DEVICE void step_of(const Sums& t, const Nodes& nodes, bool newton, Fit& fit) {
  score(t, nodes, fit);
  if (!newton) return;
  UNROLL for (int i = 0; i < 4; i++) fit.columns[i][0] = t.slope[i];
  const bool regular = solve(fit, fit.columns, 1);
  double along = 0.0;
  UNROLL for (int i = 0; i < 4; i++) along += t.slope[i] * fit.columns[i][0];
  if (!(regular && along > 0)) return;
  UNROLL for (int i = 0; i < 4; i++) fit.step[i] = fit.columns[i][0];
}

// Take the step, shortened where it moves a node by too much. A warp.
DEVICE void take_step(const Nodes& nodes, int count, Fit& fit) {
  double away = 0.0;
  for (int p = threadIdx.x & 31; p < count; p += 32) {
    const double h = nodes.hk[2 * p], k = nodes.hk[2 * p + 1];
    UNROLL for (int c = 0; c < 2; c++) away = fmax(away, fabs(h * fit.step[c] + k * fit.step[2 + c]));
  }
  away = warp_all(away, Higher());
  __syncwarp();
  if ((threadIdx.x & 31) < 4)
    fit.r[threadIdx.x & 3] += fit.step[threadIdx.x & 3] * (away > LONGEST_STEP ? LONGEST_STEP / away : 1.0);
  __syncwarp();
}

// Cosine and sine of an angle below 1, right to 1e-9: those of the library can take memory of the thread.
DEVICE double2 turned(double angle) {
  const double z = angle * angle;
  double c = 1.0 / 3628800, s = 1.0 / 39916800;
  c = 1.0 / 40320 - c * z, c = 1.0 / 720 - c * z, c = 1.0 / 24 - c * z, c = 0.5 - c * z;
  s = 1.0 / 362880 - s * z, s = 1.0 / 5040 - s * z, s = 1.0 / 120 - s * z, s = 1.0 / 6 - s * z;
  return make_double2(1.0 - c * z, angle * (1.0 - s * z));
}

// Mean |C|² of the four centres of the cells of a node, or of two points beside it on its circle if that is more.
DEVICE double background(const Samples& s, double h, double k, const double (&r)[4], int qx, int qy) {
  const double longer = max(qx, qy), ux = longer / qx, uy = longer / qy;
  double shortest = 1e300;
  UNROLL for (int which = 0; which < 4; which++) {
    const double a = which != 1 ? 1.0 : 0.0, b = which == 0 ? 0.0 : which == 3 ? -1.0 : 1.0;
    const double x = (a * r[0] + b * r[2]) * ux, y = (a * r[1] + b * r[3]) * uy;
    shortest = fmin(shortest, x * x + y * y);
  }
  const double x = (h * r[0] + k * r[2]) * ux, y = (h * r[1] + k * r[3]) * uy, away = sqrt(x * x + y * y);
  const double2 half = turned(fmin(sqrt(shortest) / (2 * (away > 0 ? away : 1.0)), 1.0));
  const double c = half.x, turn = half.y;
  double cells = 0.0, arcs = 0.0;
#pragma unroll 1
  for (int which = 0; which < 6; which++) {
    const double a = h + (which < 2 ? 0.5 : -0.5), b = k + (which % 2 == 0 ? 0.5 : -0.5), sine = which == 4 ? turn : -turn;
    const double px = which < 4 ? a * r[0] + b * r[2] : (x * c - y * sine) / ux;
    const double py = which < 4 ? a * r[1] + b * r[3] : (x * sine + y * c) / uy;
    const double value = height(s, px, py);
    cells += which < 4 ? 0.25 * value : 0.0, arcs += which < 4 ? 0.0 : 0.5 * value;
  }
  return fmax(cells, arcs);
}

// Results of a pattern.
struct Answer {
  double *vectors, *covariance, *residual, *significance;
};

// Write residual and significance, and set the scatter of the slopes. A warp.
DEVICE void judge(const Samples& s, const Nodes& nodes, int qx, int qy, Fit& fit, const Answer& out) {
  const int lane = threadIdx.x & 31;
  double spread[10] = {}, total = 0.0, square = 0.0, logs = 0.0;
#pragma unroll 1
  for (int p = lane; p < nodes.count; p += 32) {
    const double h = nodes.hk[2 * p], k = nodes.hk[2 * p + 1];
    const Look at = look(s, h * fit.r[0] + k * fit.r[2], h * fit.r[1] + k * fit.r[3]);
    const double each[4] = {h * at.gx, h * at.gy, k * at.gx, k * at.gy};
    UNROLL for (int i = 0; i < 4; i++) {
      UNROLL for (int j = 0; j <= i; j++) spread[i * (i + 1) / 2 + j] += each[i] * each[j];
    }
    const double ux = at.gx / (2 * nodes.width[0]), uy = at.gy / (2 * nodes.width[1]);
    total += at.f, square += (ux * ux + uy * uy) / (at.f > 0 ? at.f : 1.0);
    const double around = background(s, h, k, fit.r, qx, qy);
    if (at.f > 0 && around > 0) logs += log(at.f / around);
  }
  UNROLL for (int i = 0; i < 10; i++) spread[i] = warp_all(spread[i], Plus());
  total = warp_all(total, Plus()), square = warp_all(square, Plus()), logs = warp_all(logs, Plus());
  if (lane) return;
  const double count = nodes.count, free = count / (count - 2);
  UNROLL for (int i = 0; i < 4; i++) {
    UNROLL for (int j = 0; j <= i; j++) fit.columns[i][j] = fit.columns[j][i] = free * spread[i * (i + 1) / 2 + j];
  }
  *out.residual = sqrt(square / (2 * (total > 0 ? total : 1.0)));
  *out.significance = (logs / count - LOG_MEAN) / sqrt(LOG_VARIANCE / count);
}

// Write vectors and covariance, or NaN for all. A thread.
DEVICE void finish(const double* start, Fit& fit, const Answer& out) {
  bool good = solve(fit, fit.columns, 4);
  for (int i = 0; i < 4; i++)
    for (int j = 0; j < 4; j++) fit.other[i][j] = fit.columns[j][i];
  good = solve(fit, fit.other, 4) && good;
  const double determinant = start[0] * start[3] - start[1] * start[2];
  UNROLL for (int j = 0; j < 2; j++) {
    const double one = (start[3] * fit.r[j] - start[1] * fit.r[2 + j]) / determinant - (j == 0 ? 1.0 : 0.0);
    const double two = (start[0] * fit.r[2 + j] - start[2] * fit.r[j]) / determinant - (j == 1 ? 1.0 : 0.0);
    good = good && fabs(one) < FARTHEST && fabs(two) < FARTHEST;
  }
  for (int i = 0; i < 4; i++) out.vectors[i] = good ? fit.r[i] : nan_value();
  for (int k = 0; k < 16; k++) out.covariance[k] = good ? fit.other[k / 4][k % 4] : nan_value();
  if (!good) *out.residual = *out.significance = nan_value();
}

// Fit one pattern. A warp.
DEVICE void fit_pattern(const Samples& s, const Nodes& nodes, const double* start, const int* stages, int some_stages,
                        int qx, int qy, Fit& fit, const Answer& out) {
  const int lane = threadIdx.x & 31, scored = SCORING * some_stages;
  __syncwarp();
  if (lane < 4) fit.r[lane] = start[lane];
  __syncwarp();
#pragma unroll 1
  for (int step = 0; step <= scored + NEWTON; step++) {  // the last round makes the curvature alone
    const int count = step < scored ? stages[step / SCORING] : nodes.count;
    const Sums t = sums_of(s, nodes, count, fit.r);
    if (lane == 0) {
      set_matrix(t, fit);
      if (step < scored + NEWTON) step_of(t, nodes, step >= scored, fit);
    }
    __syncwarp();
    if (step < scored + NEWTON) take_step(nodes, count, fit);
  }
  judge(s, nodes, qx, qy, fit, out);
  if (lane == 0) finish(start, fit, out);
}

}  // namespace cepstrum

extern "C" __global__ void __launch_bounds__(cepstrum::THREADS)
    window_logs(const void* patterns, int kind, const float* window, const float* scaled, const int* place,
                const int* donors, const float* shares, float* padded, u8* usable, int n, int qx, int qy, int mx, int my,
                int each, float offset, double total) {
  using namespace cepstrum;
  __shared__ double part[WARPS];
  __shared__ int whole[WARPS];
  const offset_t i = blockIdx.x;
  if (i >= n) {  // fills up the last unit of a transform
    for (int k = threadIdx.x; k < mx * my; k += THREADS) padded[i * mx * my + k] = 0.0f;
    return;
  }
  const AnyPixels image = AnyPixels{patterns, kind}.from(i * qx * qy);
  const Hidden hidden = {place, donors, shares, each};
  double sum = 0.0;
  int some = 0, broken = 0;
  for (int p = threadIdx.x; p < qx * qy; p += THREADS) {
    if (!place || place[p] < 0) {
      const float counts = image[p];
      some |= counts > 0.0f, broken |= !(fabsf(counts) <= 3e38f);
    }
    sum += window[p] * log_at(image, hidden, offset, p);
  }
  sum = block_all<WARPS>(sum, part, Plus());
  some = block_all<WARPS>(some, whole, Higher()), broken = block_all<WARPS>(broken, whole, Higher());
  const bool good = some && !broken;
  if (threadIdx.x == 0) usable[i] = good;
  const float level = float(sum / total);
  for (int k = threadIdx.x; k < mx * my; k += THREADS) {
    const int x = unpadded(k / my, qx, mx), y = unpadded(k % my, qy, my);
    const bool inside = good && x >= 0 && y >= 0;
    const int p = inside ? x * qy + y : 0;
    padded[i * mx * my + k] = inside ? (log_at(image, hidden, offset, p) - level) * scaled[p] : 0.0f;
  }
}

extern "C" __global__ void __launch_bounds__(32 * cepstrum::FITS)
    fit_lattices(const float2* planes, const u8* usable, const float* table, const double* hk, const double* start,
                 const int* stages, double* vectors, double* covariance, double* residual, double* significance, int n,
                 int qx, int qy, int mx, int my, int steps, int nodes, int some_stages, double wide, double high) {
  using namespace cepstrum;
  __shared__ Fit fits[FITS];
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  const offset_t i = offset_t(blockIdx.x) * FITS + warp;
  if (i >= n) return;
  const Answer out = {vectors + 4 * i, covariance + 16 * i, residual + i, significance + i};
  if (!usable[i]) {
    if (lane < 16) out.covariance[lane] = nan_value();
    if (lane < 4) out.vectors[lane] = nan_value();
    if (lane == 0) *out.residual = *out.significance = nan_value();
    return;
  }
  const Samples samples = {planes + i * mx * (my / 2 + 1), table, mx, my, steps, double(mx) / qx, double(my) / qy};
  fit_pattern(samples, {hk, {wide, high}, nodes}, start, stages, some_stages, qx, qy, fits[warp], out);
}
