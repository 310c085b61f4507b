// refine_orientations.cu -- refine candidates for the orientation of a crystal, by damped Gauss-Newton steps.
//   turns   (n, c, 9) double         v_lab = R v_crystal, NaN = no candidate;   count (n) int64
//   peaks   (n, p, 5) double         qx, qy, intensity, variance, error of a coordinate
//   g       (3, m) double, factor (m) double
//   best    (n, c, 9), result (2, n, c): cost and scale, normal (n, c, 16), expected (n, c, p) double
// A warp a candidate, up to four in a block. A candidate is evaluated up to 13 times, and each time is three passes:
//   1. lane j projects reflections j, j + 32, ...; those near the Ewald sphere, some 20 of 230, go to all lanes by
//      shuffles, one after the other, and every lane compares its peaks with them
//   2. every lane has the rows of the equations of its peaks
//   3. reflections once more: the rows of those that should be seen and are not
// The cost and 13 entries of the normal equations are summed by shuffles. Every lane gets the same bits and solves the
// same system in registers, so the lanes agree on every decision. Peaks, their matches and one bit for each reflection
// are in shared memory: 92 p + m / 8 bytes a warp.
// bytes: 24 m from L1 for each pass over the reflections; 72 c + 40 p a pattern from memory.   flops, double precision:
// 60 m + 300 p a time, 20 k with m = 230, p = 20; 9 M a pattern with the 52 candidates of `find_candidates`.
// bound: issue slots of double precision.
// budget: 240 registers, 0 bytes shared
#include "common.cuh"

constexpr int SUMS = 14;          // cost, right side (4), normal matrix (9: a turn about the beam changes no amplitude)
constexpr double DAMPING = 0.01;  // of the first step
constexpr double FLOOR = 0.03;    // least amplitude of the shape factor
constexpr double BLUR = 0.01;     // rad
constexpr double SMALL = 1e-3;    // a cost that falls by less has arrived
constexpr double PIVOT = 1e-12;   // of the diagonal: with a smaller pivot the matrix has no inverse
constexpr double PI = 3.141592653589793;

struct Model {
  double k, thickness, radius, reach, limit, q_max, q_min, unit, relative;
};

// What a warp has in shared memory: `values` for each peak, then a number for each peak, then bits of reflections.
struct Slots {
  double *qx, *qy, *root, *base, *alone, *sure;  // of peaks; root = sqrt(m), base = v / 4m, alone = 4 m^2 / v, sure = 1 / error^2
  double *away, *x, *y, *z, *s;                  // of the reflection of each peak, and how far it is
  int* which;
  u32* found;
  DEVICE Slots(double* memory, int p)
      : qx(memory), qy(memory + p), root(memory + 2 * p), base(memory + 3 * p), alone(memory + 4 * p), sure(memory + 5 * p),
        away(memory + 6 * p), x(memory + 7 * p), y(memory + 8 * p), z(memory + 9 * p), s(memory + 10 * p),
        which(reinterpret_cast<int*>(memory + 11 * p)), found(reinterpret_cast<u32*>(which + p)) {}
};

struct Spot {
  double x, y, z, s;
  bool near;
};

DEVICE double sum(double v) {
  return warp_all(v, [](double a, double b) { return a + b; });
}

DEVICE Spot project(const double (&t)[9], const double* __restrict__ g, int j, int m, const Model& model) {
  Spot spot = {0, 0, 0, 0, false};
  if (j >= m) return spot;
  const double a = g[j], b = g[m + j], c = g[2 * m + j];
  spot.x = t[0] * a + t[1] * b + t[2] * c;
  spot.y = t[3] * a + t[4] * b + t[5] * c;
  spot.z = t[6] * a + t[7] * b + t[8] * c;
  const double square = model.k * model.k - spot.x * spot.x - spot.y * spot.y;
  spot.s = sqrt(square > 0 ? square : 0.0) - model.k - spot.z;
  spot.near = square > 0 && fabs(spot.s) <= model.reach;
  return spot;
}

// Amplitude of the shape factor and its derivative by s
DEVICE void shape(double s, double thickness, double& f, double& slope) {
  const double x = PI * thickness * s;
  double sinc = 1 - x * x / 6, change = -x / 3;
  if (fabs(x) > 1e-3) {
    double sine, cosine;
    sincospi(thickness * s, &sine, &cosine);
    sinc = sine / x;
    change = (cosine - sinc) / x;
  }
  f = sqrt(sinc * sinc + FLOOR * FLOOR);
  slope = sinc * change * PI * thickness / f;
}

// Uncertainty of an amplitude over the scale, for candidates that are a degree off
DEVICE double blur_of(double size, double x, double y, double z, double thickness) {
  const double length = BLUR * PI * thickness * sqrt(x * x + y * y + z * z);
  return size * (length < 1 ? length : 1.0);
}

// Add a row of the equations: derivatives (u, v, 0, f) of an amplitude
DEVICE void add_amplitude(double u, double v, double f, double residual, double weight, double (&total)[SUMS]) {
  total[1] += weight * u * residual;
  total[2] += weight * v * residual;
  total[4] += weight * f * residual;
  total[5] += weight * u * u;
  total[6] += weight * u * v;
  total[7] += weight * v * v;
  total[11] += weight * f * u;
  total[12] += weight * f * v;
  total[13] += weight * f * f;
}

// Pass 1: the reflection of each peak
DEVICE void match(const double (&t)[9], const double* __restrict__ g, int m, int count, const Model& model, const Slots& slots) {
  const int lane = threadIdx.x & 31;
  const double limit = model.radius * model.radius;
  for (int p = lane; p < count; p += 32) slots.away[p] = 1, slots.which[p] = -1;
  for (int first = 0; first < m; first += 32) {
    const Spot mine = project(t, g, first + lane, m, model);
    for (u32 left = __ballot_sync(FULL_WARP, mine.near); left; left &= left - 1) {
      const int from = __ffs(left) - 1;
      const double x = __shfl_sync(FULL_WARP, mine.x, from), y = __shfl_sync(FULL_WARP, mine.y, from);
      const double z = __shfl_sync(FULL_WARP, mine.z, from), s = __shfl_sync(FULL_WARP, mine.s, from);
      const double part = s * model.thickness / 3, off = part * part;
      for (int p = lane; p < count; p += 32) {
        const double dx = slots.qx[p] - x, dy = slots.qy[p] - y, square = dx * dx + dy * dy;
        if (square >= limit) continue;
        const double far = 0.5 * (square / limit + (off < 1 ? off : 1.0));
        if (far < slots.away[p]) {
          slots.away[p] = far, slots.which[p] = first + from;
          slots.x[p] = x, slots.y[p] = y, slots.z[p] = z, slots.s[p] = s;
        }
      }
    }
  }
}

// The cost, total[0], and the normal equations. A scale of 0 is replaced by the best one for these peaks.
DEVICE void evaluate(const double (&t)[9], double& scale, bool rough, const double* __restrict__ g, const double* __restrict__ factor,
                     int m, int count, const Model& model, const Slots& slots, double* __restrict__ expected,
                     double (&total)[SUMS]) {
  const int lane = threadIdx.x & 31;
  const double k2 = model.k * model.k;
  match(t, g, m, count, model, slots);
  for (int w = lane; w < (m + 31) / 32; w += 32) slots.found[w] = 0;
  __syncwarp();
  double above = 0, below = 0;
  for (int p = lane; p < count; p += 32) {
    if (slots.which[p] < 0) continue;
    double f, slope;
    shape(slots.s[p], model.thickness, f, slope);
    const double size = factor[slots.which[p]];
    slots.away[p] = f * size, slots.s[p] = slope * size;  // from here on amplitude and slope
    const double weight = f * size / slots.base[p];
    above += weight * slots.root[p];
    below += weight * f * size;
  }
  if (scale <= 0) {
    above = sum(above), below = sum(below);
    scale = below > 0 ? above / below : 0.0;
  }
  UNROLL for (int i = 0; i < SUMS; i++) total[i] = 0;
  for (int p = lane; p < count; p += 32) {
    const double alone = slots.alone[p];
    const int j = slots.which[p];
    double own = alone, seen = 0;
    if (j >= 0) {
      const double x = slots.x[p], y = slots.y[p], z = slots.z[p], f = slots.away[p];
      const double unsure = rough ? scale * blur_of(factor[j], x, y, z, model.thickness) : 0.0;
      const double sure = slots.sure[p], weight = 1 / (slots.base[p] + unsure * unsure);
      const double dx = slots.qx[p] - x, dy = slots.qy[p] - y, di = slots.root[p] - scale * f;
      own = (dx * dx + dy * dy) * sure + weight * di * di;
      if (own < alone) {
        seen = scale * f * scale * f;
        atomicOr(&slots.found[j >> 5], 1u << (j & 31));
        const double slope = scale * slots.s[p], down = z / sqrt(k2 - x * x - y * y) - 1;
        add_amplitude(slope * y * down, -slope * x * down, f, di, weight, total);
        total[1] -= sure * z * dy;  // the turns move qx by (0, z, -y) and qy by (-z, 0, x)
        total[2] += sure * z * dx;
        total[3] += sure * (x * dy - y * dx);
        total[5] += sure * z * z;
        total[7] += sure * z * z;
        total[8] -= sure * z * x;
        total[9] -= sure * z * y;
        total[10] += sure * (x * x + y * y);
      }
    }
    total[0] += own < alone ? own : alone;
    if (expected) expected[p] = seen;
  }
  __syncwarp();
  for (int j = lane; j < m; j += 32) {
    const Spot spot = project(t, g, j, m, model);
    const double q = spot.x * spot.x + spot.y * spot.y;
    const bool counts = spot.near && q < model.q_max * model.q_max && q > model.q_min * model.q_min;
    if (!counts || slots.found[j >> 5] >> (j & 31) & 1) continue;
    double f, slope;
    shape(spot.s, model.thickness, f, slope);
    f *= factor[j], slope *= scale * factor[j];
    const double excess = scale * f - model.limit;
    if (!(excess > 0)) continue;
    const double unsure = rough ? scale * blur_of(factor[j], spot.x, spot.y, spot.z, model.thickness) : 0.0;
    const double vague = model.relative * scale * f, down = spot.z / sqrt(k2 - q) - 1;
    const double weight = 1 / (0.25 * (model.unit + vague * vague) + unsure * unsure);
    total[0] += weight * excess * excess;
    add_amplitude(slope * spot.y * down, -slope * spot.x * down, f, -excess, weight, total);
  }
  UNROLL for (int i = 0; i < SUMS; i++) total[i] = sum(total[i]);
  __syncwarp();
}

// (N + damping diag N) step = r by Cholesky's method, false where N is singular. The lower triangle of N is by rows, without
// the entry of the third turn and the scale, which is 0.
DEVICE bool solve(const double (&total)[SUMS], double damping, double (&step)[4]) {
  double a[4][4] = {{total[5]}, {total[6], total[7]}, {total[8], total[9], total[10]}, {total[11], total[12], 0, total[13]}};
  bool regular = true;
  UNROLL for (int i = 0; i < 4; i++) {
    UNROLL for (int j = 0; j < i; j++) {
      double value = a[i][j];
      UNROLL for (int l = 0; l < j; l++) value -= a[i][l] * a[j][l];
      a[i][j] = value * a[j][j];
    }
    double value = a[i][i] * (1 + damping);
    UNROLL for (int l = 0; l < i; l++) value -= a[i][l] * a[i][l];
    regular = regular && value > PIVOT * a[i][i];
    a[i][i] = 1 / sqrt(value);
  }
  UNROLL for (int i = 0; i < 4; i++) {
    double value = total[1 + i];
    UNROLL for (int l = 0; l < i; l++) value -= a[i][l] * step[l];
    step[i] = value * a[i][i];
  }
  UNROLL for (int i = 3; i >= 0; i--) {
    double value = step[i];
    UNROLL for (int l = i + 1; l < 4; l++) value -= a[l][i] * step[l];
    step[i] = value * a[i][i];
  }
  return regular;
}

// exp(step) t: a turn by |step| about step, in lab axes
DEVICE void turn_by(const double (&step)[4], const double (&t)[9], double (&out)[9]) {
  const double x = step[0], y = step[1], z = step[2], square = x * x + y * y + z * z, angle = sqrt(square);
  double one = 1 - square / 6, two = 0.5 - square / 24;
  if (angle > 1e-4) {
    double sine, cosine;
    sincospi(angle / PI, &sine, &cosine);
    one = sine / angle, two = (1 - cosine) / square;
  }
  UNROLL for (int c = 0; c < 3; c++) {
    const double a = t[c], b = t[3 + c], d = t[6 + c];
    const double u = y * d - z * b, v = z * a - x * d, w = x * b - y * a;
    out[c] = a + one * u + two * (y * w - z * v);
    out[3 + c] = b + one * v + two * (z * u - x * w);
    out[6 + c] = d + one * w + two * (x * v - y * u);
  }
}

enum Kind { BEGIN, TRIAL, LAST };

extern "C" __global__ void refine_orientations(const double* __restrict__ turns, const double* __restrict__ peaks,
                                               const long long* __restrict__ count, const double* __restrict__ g,
                                               const double* __restrict__ factor, double* __restrict__ best,
                                               double* __restrict__ result, double* __restrict__ normal,
                                               double* __restrict__ expected, long long all, int candidates, int p, int m,
                                               int words, int rough, int steps, double k, double thickness, double radius,
                                               double reach, double limit, double q_max, double q_min, double unit,
                                               double relative) {
  DYNAMIC_SHARED(double, memory);
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const offset_t one = offset_t(blockIdx.x) * (blockDim.x >> 5) + warp;
  if (one >= all) return;
  const Model model = {k, thickness, radius, reach, limit, q_max, q_min, unit, relative};
  const offset_t pattern = one / candidates;
  const int found = int(min(count[pattern], offset_t(p)));
  double t[9], accepted[SUMS];
  UNROLL for (int i = 0; i < 9; i++) t[i] = turns[9 * one + i];
  bool there = found > 0;
  UNROLL for (int i = 0; i < 9; i++) there = there && isfinite(t[i]);
  double* mine = expected + one * p;
  for (int i = lane; i < p; i += 32)
    if (!there || i >= found) mine[i] = 0;
  if (!there) {
    if (lane < 9) best[9 * one + lane] = turns[9 * one + lane];
    if (lane < 16) normal[16 * one + lane] = 0;
    if (lane < 2) result[lane * all + one] = nan_value();
    return;
  }
  const Slots slots(memory + offset_t(warp) * words, p);
  for (int i = lane; i < found; i += 32) {
    const double* peak = peaks + (pattern * p + i) * 5;
    const double intensity = peak[2], variance = peak[3], error = peak[4];
    slots.qx[i] = peak[0], slots.qy[i] = peak[1], slots.root[i] = sqrt(intensity);
    slots.base[i] = variance / (4 * intensity), slots.alone[i] = 4 * intensity * intensity / variance;
    slots.sure[i] = 1 / (error * error);
  }
  bool coarse = rough > 0;
  int left = coarse ? rough : steps;
  Kind kind = left > 0 ? BEGIN : LAST;
  double scale = 0, damping = DAMPING, step[4] = {0, 0, 0, 0};
  while (true) {
    double trial[9], total[SUMS], tried = 0;
    UNROLL for (int i = 0; i < 9; i++) trial[i] = t[i];
    if (kind == TRIAL) {
      turn_by(step, t, trial);
      tried = max(scale + step[3], 0.2 * scale);
    } else if (kind == LAST && steps > 0) {
      tried = scale;
    }
    evaluate(trial, tried, coarse && kind != LAST, g, factor, m, found, model, slots, kind == LAST ? mine : nullptr, total);
    const bool better = kind != TRIAL || total[0] < accepted[0];
    bool arrived = false;
    if (kind == TRIAL) {
      arrived = better && accepted[0] - total[0] < SMALL;
      damping *= better ? 0.2 : 5.0;
      left--;
    }
    if (better) {
      UNROLL for (int i = 0; i < SUMS; i++) accepted[i] = total[i];
      UNROLL for (int i = 0; i < 9; i++) t[i] = trial[i];
      scale = tried;
    }
    if (kind == LAST) break;
    if (!arrived && left > 0 && solve(accepted, damping, step)) {
      kind = TRIAL;
    } else if (coarse && steps > 0) {
      coarse = false, left = steps, kind = BEGIN, damping = DAMPING;
    } else {
      kind = LAST;
    }
  }
  if (lane) return;
  UNROLL for (int i = 0; i < 9; i++) best[9 * one + i] = t[i];
  result[one] = accepted[0], result[all + one] = scale;
  const double whole[16] = {accepted[5], accepted[6], accepted[8],  accepted[11], accepted[6],  accepted[7],  accepted[9], accepted[12],
                            accepted[8], accepted[9], accepted[10], 0,            accepted[11], accepted[12], 0,           accepted[13]};
  UNROLL for (int i = 0; i < 16; i++) normal[16 * one + i] = whole[i];
}
