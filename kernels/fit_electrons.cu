// fit_electrons.cu -- fit electrons to the groups about the local maxima of raw frames; a warp for a group.
//   frames         (n, nx, ny)      native dtype
//   level, scale   (nx, ny)         float: signal = (frame - level) scale, as count_electrons.cu makes them
//   offsets        (n + 1)          groups of a frame;  qx, qy (groups): their maxima, all from count_electrons.cu
//   index          (n, nx, ny)      group of a pixel that is a maximum, -1 for others
//   fits           (groups, 4, 3)   double: place from the maximum (px) and signal (electrons) of each electron
//   numbers        (groups)         electrons of each group
//   starts         (groups + 1)     where the electrons of a group begin in the list
//
// name_groups: one block of 256 threads a frame writes the numbers of its groups into its index. fit_groups: a warp
// for a group of 5 x 5 pixels, a lane for a pixel; lanes from 25 on have no weight. What a group needs of its frame is
// read once: 25 pixels, their way to the maximum (at most three steps over nine pixels, only over the threshold), and
// the index of 9 x 9 pixels. Signals, residuals and weights stay in registers; nine sums over the warp make the three
// equations of a step. Every lane then has the same bits, so that all decide alike. Electron k of a fit is kept in
// lanes 3 k .. 3 k + 2. One launch is one pass: it reads what all groups had after the last. write_fits: a thread a
// group. bytes: 25 pixels, 324 of the index and 200 of fits a group and pass.
// flops: 3000 a step, in double; about 30 steps a group.   bound: latency of the sums over the warp.
//
// budget: 128 registers, 0 bytes shared
#include "common.cuh"

constexpr int HALF = 2, SIDE = 2 * HALF + 1, PIXELS = SIDE * SIDE, MOST = 4;
constexpr int WARPS = 4;  // of a block
// As in the definition, which says why.
constexpr int CLIMB = 3, FIRST_STEPS = 4, SWEEPS = 5;
constexpr double MODEL_ERROR = 0.1, HOLD = 4.0, LONGEST = 0.4, REACH = 1.9, LEAST_START = 0.02, START_SHARE = 0.6;
constexpr double SQRT_HALF = 0.70710678118654752, SQRT_TAU = 2.5066282746310002;

DEVICE float minus_infinity() { return __uint_as_float(0xff800000u); }

struct Model {
  double spread, noise, energy, penalty, mean_log, least;
};

struct Electron {
  double x, y, signal;
};

// Share of the charge in this lane's row and column of the square, and the derivatives by the place.
struct Charge {
  double px, dx, py, dy;
};

DEVICE double below(double t, double density) {  // density: exp(-t^2 / 2)
  const double k = 1.0 / (1.0 + 0.3275911 * SQRT_HALF * fabs(t));
  const double poly = k * (0.254829592 + k * (-0.284496736 + k * (1.421413741 + k * (-1.453152027 + k * 1.061405429))));
  const double inside = 1.0 - poly * density;
  return 0.5 * (1.0 + (t >= 0 ? inside : -inside));
}

DEVICE void share(double distance, double spread, double& part, double& slope) {
  const double low = (distance - 0.5) / spread, high = (distance + 0.5) / spread;
  const double before = exp(-low * low / 2), after = exp(-high * high / 2);
  part = below(high, after) - below(low, before);
  slope = (before - after) / (spread * SQRT_TAU);
}

// (x, y) is the place of the lane's pixel from the maximum.
DEVICE Charge charge_of(const Electron& one, int x, int y, double spread) {
  Charge c;
  share(x - one.x, spread, c.px, c.dx);
  share(y - one.y, spread, c.py, c.dy);
  return c;
}

// Charge of an electron in the lane's pixel.
DEVICE double light_of(const Electron& one, int x, int y, double spread) {
  const Charge c = charge_of(one, x, y, spread);
  return one.signal * c.px * c.py;
}

DEVICE double sum(double v) {
  return warp_all(v, [](double a, double b) { return a + b; });
}

DEVICE Electron electron_of(double kept, int k) {
  return {__shfl_sync(FULL_WARP, kept, 3 * k), __shfl_sync(FULL_WARP, kept, 3 * k + 1),
          __shfl_sync(FULL_WARP, kept, 3 * k + 2)};
}

DEVICE double keep(double kept, int k, const Electron& one) {
  const int lane = threadIdx.x & 31;
  return lane == 3 * k ? one.x : lane == 3 * k + 1 ? one.y : lane == 3 * k + 2 ? one.signal : kept;
}

DEVICE double within(double v, double limit) { return fmin(fmax(v, -limit), limit); }

// One Gauss-Newton step of one electron. `left` is without its charge, before and after.
DEVICE Electron step(const Electron& one, double& left, double weight, int x, int y, const Model& m) {
  const Charge c = charge_of(one, x, y, m.spread);
  const double gs = c.px * c.py, gx = one.signal * c.dx * c.py, gy = one.signal * c.px * c.dy;
  const double spread = m.energy * m.energy;
  const double a00 = sum(weight * gx * gx) + HOLD, a01 = sum(weight * gx * gy), a02 = sum(weight * gx * gs);
  const double a11 = sum(weight * gy * gy) + HOLD, a12 = sum(weight * gy * gs);
  const double a22 = sum(weight * gs * gs) + 1.0 / (spread * one.signal * one.signal);
  const double b0 = sum(weight * gx * left), b1 = sum(weight * gy * left);
  const double b2 = sum(weight * gs * left) - (log(one.signal) - m.mean_log) / (spread * one.signal);
  const double c00 = a11 * a22 - a12 * a12, c01 = a02 * a12 - a01 * a22, c02 = a01 * a12 - a02 * a11;
  const double c11 = a00 * a22 - a02 * a02, c12 = a01 * a02 - a00 * a12, c22 = a00 * a11 - a01 * a01;
  const double scale = 1.0 / (a00 * c00 + a01 * c01 + a02 * c02);
  left += one.signal * gs;
  Electron next;
  next.x = within(one.x + within(scale * (c00 * b0 + c01 * b1 + c02 * b2), LONGEST), REACH);
  next.y = within(one.y + within(scale * (c01 * b0 + c11 * b1 + c12 * b2), LONGEST), REACH);
  next.signal = fmin(fmax(one.signal + scale * (c02 * b0 + c12 * b1 + c22 * b2), one.signal / 2), 2 * one.signal);
  left -= light_of(next, x, y, m.spread);
  return next;
}

DEVICE double cost_of(double left, double weight, double kept, int n, const Model& m) {
  double cost = 0.5 * sum(weight * left * left);
#pragma unroll 1
  for (int k = 0; k < n; k++) {
    const double logarithm = log(__shfl_sync(FULL_WARP, kept, 3 * k + 2));
    cost += (logarithm - m.mean_log) * (logarithm - m.mean_log) / (2 * m.energy * m.energy) + logarithm;
  }
  return cost + n * (log(m.energy * SQRT_TAU) + m.penalty);
}

// Signal of a pixel in electrons; -infinity where there is none.
template <class Pixel>
DEVICE float signal_at(const Pixel* __restrict__ frame, const float* __restrict__ level,
                       const float* __restrict__ scale, int x, int y, int nx, int ny) {
  if (x < 0 || y < 0 || x >= nx || y >= ny) return minus_infinity();
  const int i = x * ny + y;
  const float v = (float(frame[i]) - level[i]) * scale[i];
  return v == v ? v : minus_infinity();
}

// Group that a pixel over the threshold leads up to, in steps to the brightest of 3 x 3 pixels; -1 for none.
template <class Pixel>
DEVICE int climb(const Pixel* __restrict__ frame, const float* __restrict__ level, const float* __restrict__ scale,
                 const int* __restrict__ index, int x, int y, int nx, int ny) {
#pragma unroll 1
  for (int turn = 0; turn < CLIMB; turn++) {
    float best = minus_infinity();
    int to_x = x, to_y = y;
#pragma unroll 1
    for (int k = 0; k < 9; k++) {
      const int dx = k % 3 - 1, dy = k / 3 - 1;
      const float v = signal_at(frame, level, scale, x + dx, y + dy, nx, ny);
      if (v > best) best = v, to_x = x + dx, to_y = y + dy;
    }
    if (to_x == x && to_y == y) break;
    x = to_x, y = to_y;
  }
  return index[x * ny + y];
}

// Subtract what the other groups about (hx, hy) had after the last pass from the lane's pixel, (x, y) from the maximum.
DEVICE double without_others(double target, const int* __restrict__ index, const double* __restrict__ fits,
                             const u32* __restrict__ numbers, int group, int hx, int hy, int x, int y, int nx, int ny,
                             double spread) {
#pragma unroll 1
  for (int k = 0; k < 81; k++) {
    const int dx = k / 9 - 2 * HALF, dy = k % 9 - 2 * HALF;
    if (hx + dx < 0 || hy + dy < 0 || hx + dx >= nx || hy + dy >= ny) continue;
    const int other = index[(hx + dx) * ny + hy + dy];
    if (other < 0 || other == group) continue;
    const bool reaches = x - dx >= -HALF && x - dx <= HALF && y - dy >= -HALF && y - dy <= HALF;
#pragma unroll 1
    for (u32 e = 0; e < numbers[other]; e++) {
      const double* at = fits + (offset_t(other) * MOST + e) * 3;
      if (reaches) target -= light_of({at[0], at[1], at[2]}, x - dx, y - dy, spread);
    }
  }
  return target;
}

// First electron of a group, at the centre of mass of 3 x 3 pixels.
DEVICE Electron first(double target, double weight, int x, int y) {
  const bool inner = x >= -1 && x <= 1 && y >= -1 && y <= 1 && weight > 0 && target > 0;
  const double light = inner ? target : 0.0, all = fmax(sum(light), 0.2);
  return {sum(light * x) / all, sum(light * y) / all, all};
}

// Add an electron to the n of a group where most is left over signals of 1, or make the first; false if nothing is left.
// `trial` keeps all of them.
DEVICE bool with_one_more(double target, double weight, bool own, double kept, int n, int x, int y, double spread,
                          double& trial, double& left) {
  left = target;
#pragma unroll 1
  for (int k = 0; k < n; k++) {
    Electron one = electron_of(kept, k);
    if (n == 1) one.x = one.y = 0.0;
    one.signal = fmin(one.signal, 1.0);
    trial = keep(trial, k, one);
    left -= light_of(one, x, y, spread);
  }
  Electron added;
  if (n == 0) {
    added = first(target, weight, x, y);
  } else {
    const double mine = own ? left : -1.0;
    const double most = warp_all(mine, [](double a, double b) { return a > b ? a : b; });
    if (!(most > LEAST_START)) return false;
    const int lane = __ffs(__ballot_sync(FULL_WARP, mine == most)) - 1;
    added = {double(lane / SIDE - HALF), double(lane % SIDE - HALF), fmax(most / START_SHARE, 0.3)};
  }
  trial = keep(trial, n, added);
  left -= light_of(added, x, y, spread);
  return true;
}

extern "C" __global__ void __launch_bounds__(256)
    name_groups(const offset_t* __restrict__ offsets, const u16* __restrict__ qx, const u16* __restrict__ qy,
                int* __restrict__ index, int nx, int ny) {
  const offset_t frame = blockIdx.x;
  int* mine = index + frame * nx * ny;
  for (int i = threadIdx.x; i < nx * ny; i += blockDim.x) mine[i] = -1;
  __syncthreads();
  for (offset_t g = offsets[frame] + threadIdx.x; g < offsets[frame + 1]; g += blockDim.x)
    mine[int(qx[g]) * ny + int(qy[g])] = int(g);
}

// Frame of a group: the last whose groups begin at or before it.
DEVICE offset_t frame_of(const offset_t* __restrict__ offsets, int group, offset_t n) {
  offset_t low = 0, high = n;
  while (high - low > 1) {
    const offset_t middle = (low + high) / 2;
    if (offsets[middle] <= group) low = middle;
    else high = middle;
  }
  return low;
}

template <class Pixel>
DEVICE void fit_groups(const Pixel* __restrict__ frames, const float* __restrict__ level,
                       const float* __restrict__ scale, const offset_t* __restrict__ offsets,
                       const u16* __restrict__ qx, const u16* __restrict__ qy, const int* __restrict__ index,
                       const double* __restrict__ fits, const u32* __restrict__ numbers, double* __restrict__ next,
                       u32* __restrict__ found, float lower, const Model& m, offset_t n, int groups, int nx, int ny,
                       int most, int pass) {
  const int lane = threadIdx.x & 31, group = blockIdx.x * WARPS + (threadIdx.x >> 5);
  if (group >= groups) return;
  const offset_t frame = frame_of(offsets, group, n);
  const Pixel* here = frames + frame * nx * ny;
  const int* names = index + frame * nx * ny;
  const int hx = qx[group], hy = qy[group], x = lane / SIDE - HALF, y = lane % SIDE - HALF;
  const float value =
      lane < PIXELS ? signal_at(here, level, scale, hx + x, hy + y, nx, ny) : minus_infinity();
  const bool known = isfinite(value), over = value >= lower;
  const int whose = over ? climb(here, level, scale, names, hx + x, hy + y, nx, ny) : -1;
  const bool own = over && whose == group;
  double target = known ? double(value) : 0.0;
  bool used = known && (!over || whose >= 0);
  if (pass == 0 && !own) used = used && !over && x >= -1 && x <= 1 && y >= -1 && y <= 1;
  const double bright = MODEL_ERROR * fmax(target, 0.0);
  const double weight = used ? 1.0 / (m.noise * m.noise + bright * bright) : 0.0;
  if (pass > 0) target = without_others(target, names, fits, numbers, group, hx, hy, x, y, nx, ny, m.spread);

  double kept = 0.0, cost = double(-minus_infinity());
  int number = 0;
#pragma unroll 1
  while (number < most && cost > (number + 1) * m.least) {  // one more cannot cost less than this
    double trial = 0.0, left;
    if (!with_one_more(target, weight, own, kept, number, x, y, m.spread, trial, left)) break;
    const int steps = number ? SWEEPS * (number + 1) : FIRST_STEPS;
#pragma unroll 1
    for (int i = 0; i < steps; i++) {
      const int k = i % (number + 1);
      trial = keep(trial, k, step(electron_of(trial, k), left, weight, x, y, m));
    }
    const double lower_cost = cost_of(left, weight, trial, number + 1, m);
    if (number && !(lower_cost < cost)) break;
    cost = lower_cost, kept = trial, number++;
  }
  if (lane < MOST * 3) next[offset_t(group) * MOST * 3 + lane] = kept;
  if (lane == 0) found[group] = u32(number);
}

extern "C" __global__ void __launch_bounds__(256)
    write_fits(const offset_t* __restrict__ groups_of, const u16* __restrict__ x, const u16* __restrict__ y,
               const double* __restrict__ fits, const u32* __restrict__ numbers, const offset_t* __restrict__ starts,
               offset_t* __restrict__ offsets, float* __restrict__ qx, float* __restrict__ qy,
               float* __restrict__ intensity, offset_t n, int groups) {
  const offset_t i = offset_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i <= n) offsets[i] = starts[groups_of[i]];
  if (i >= groups) return;
  for (u32 e = 0; e < numbers[i]; e++) {
    const double* one = fits + (i * MOST + e) * 3;
    qx[starts[i] + e] = float(double(x[i]) + one[0]);
    qy[starts[i] + e] = float(double(y[i]) + one[1]);
    intensity[starts[i] + e] = float(one[2]);
  }
}

#define INSTANCE(NAME, Pixel)                                                                                         \
  extern "C" __global__ void __launch_bounds__(32 * WARPS, 1) fit_groups_##NAME(                                      \
      const Pixel* __restrict__ frames, const float* __restrict__ level, const float* __restrict__ scale,             \
      const offset_t* __restrict__ offsets, const u16* __restrict__ qx, const u16* __restrict__ qy,                   \
      const int* __restrict__ index, const double* __restrict__ fits, const u32* __restrict__ numbers,                \
      double* __restrict__ next, u32* __restrict__ found, float lower, double spread, double noise, double energy,    \
      double penalty, double mean_log, double least, offset_t n, int groups, int nx, int ny, int most, int pass) {    \
    const Model model = {spread, noise, energy, penalty, mean_log, least};                                            \
    fit_groups<Pixel>(frames, level, scale, offsets, qx, qy, index, fits, numbers, next, found, lower, model, n,      \
                      groups, nx, ny, most, pass);                                                                    \
  }
FOR_EACH_PIXEL(INSTANCE)
