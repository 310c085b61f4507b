// tied_fit.cu -- Poisson fit of a lattice to all counts of a pattern, by damped Fisher scoring.
//   patterns  (n, nx, ny) of type `kind`   counts, y fastest
//   start     (n, 6) double                origin, g1, g2;   orders (J, 2) double: h, k;   pair (2, P) int32
//   mask      (nx, ny) bytes               0 = does not count; null = all count
//   table     (Q + 1, Q + 1, 3, m) float32 D, dD/dx, dD/dy at sub-pixel phases;   pixels (m, 3) int32: offsets from the
//             middle, rows in order, and zone
//   geometry (n, 6), covariance (n, 6, 6), amplitude (n, J), scatter (n) double, ok (n) bytes
//   doubles, floats, ints                  work memory, so many of each for a block (tied_equations.cuh: Area)
// A block of 256 threads takes a pattern after the other, n / blocks of them. λ: disks one after the other, threads over
// the pixels of a window. Normal equations: 65 sums over all pixels in registers, then a warp a disk, a pair of disks
// that share pixels, or a pair that interferes. Then Cholesky in double.
// bytes: ten images of the pattern in work memory, some four times a step; flops: 150 a pixel, and 100 a pixel of every
// window, a step; six steps without interference, twelve with it. bound: issue slots, with the bandwidth of work memory
// close behind: 0.75 MB a block of 128² do not stay in L2. Barriers: a step 3 J + P + 3 (S / 8).
// budget(tied_fit): 128 registers, 4096 bytes shared
#include "tied_equations.cuh"

namespace tied {

constexpr int MOST_STEPS = 40, FIXED_STEPS = 2;   // first steps, in which the lattice is fixed
constexpr double FAINT = 1e-3;                    // counts: smallest amplitude of a disk
constexpr double LONGEST = 0.5;                   // px: most that a step moves the origin
constexpr double LEFT = 0.2;                      // part of a height that a step leaves at least
constexpr double GAIN = 2e-3;                     // of the log likelihood: a smaller gain ends the fit
constexpr double DAMPING = 1e-3, EASED = 0.5, RAISED = 8.0, RAISED_TO = 0.1;
constexpr double REGULAR = 1e-6;                  // added to the diagonal, in parts of it
constexpr double NOTHING = 1e300;                 // larger numbers, and NaN, are no result

// Set the start: amplitudes from the counts in the disks, an even background, no interference. A warp a disk.
DEVICE void begin_fit(Shared& shared, const double* start) {
  const Model& model = shared.model;
  Area& area = shared.area;
  for (int k = threadIdx.x; k < model.size(); k += THREADS) {
    const int a = k - model.disks - GROUND;
    area.theta[k] = k < model.disks ? 0.0 : a < 0 ? 2.0 * LEAST : start[a];
  }
  for (int q = threadIdx.x; q < 2 * model.pairs; q += THREADS) area.mixed[q] = 0.0;
  __syncthreads();
  set_patches(model, area, area.theta);
  for (int j = threadIdx.x >> 5; j < model.disks; j += WARPS) {
    float size = 0.0f, light = 0.0f;
    for (int k = threadIdx.x & 31; k < model.square(); k += 32) {
      const int p = on_detector(model, area.disk[j], k);
      if (p < 0 || !model.counts(p)) continue;
      const float d = area.patch[j * model.square() + k];
      size += d * d, light += d * shared.image[p];
    }
    size = warp_all(size, Plus()), light = warp_all(light, Plus());
    if ((threadIdx.x & 31) == 0) area.theta[j] = fmax(0.6 * light / (size > 0.0f ? size : 1.0f), 10.0 * FAINT);
  }
  __syncthreads();
}

// Copy the equations, with a part of the diagonal added, to where they are factored. A parameter that changes nothing
// has 1 alone, and with `hold` so has a height that cannot fall any more, but would.
DEVICE void damp(const Model& model, Area& area, const double* theta, double added, bool hold) {
  const int size = model.size();
  for (int i = threadIdx.x; i < size; i += THREADS) {
    const bool height = i < model.disks + GROUND, low = theta[i] <= (i < model.disks ? FAINT : double(LEAST));
    const double own = cholesky::row_of(area.fisher, i)[i];
    area.free[i] = own > 0.0 && !(hold && height && low && area.gradient[i] <= 0.0);
    area.diagonal[i] = area.free[i] ? own * (1.0 + added) : 1.0;
  }
  __syncthreads();
  for (int i = threadIdx.x >> 5; i < size; i += WARPS) {
    const double* from = cholesky::row_of(area.fisher, i);
    double* to = cholesky::row_of(area.matrix, i);
    for (int k = threadIdx.x & 31; k <= i; k += 32)
      to[k] = k == i ? area.diagonal[i] : area.free[i] && area.free[k] ? from[k] : 0.0;
  }
  for (int i = threadIdx.x; i < size; i += THREADS)
    cholesky::row_of(area.matrix, size)[i] = area.free[i] ? area.gradient[i] : 0.0;
  __syncthreads();
}

// Solve for the step that was factored, in the last row of the matrix; 0 where there is none. Return twice the likelihood
// that it promises.
DEVICE double solve(Shared& shared, bool good) {
  const Model& model = shared.model;
  Area& area = shared.area;
  const int size = model.size();
  double* step = cholesky::row_of(area.matrix, size);
  if (good) cholesky::solve_back<WARPS>(area.matrix, size, shared.solver);
  double promised = 0.0;
  for (int i = threadIdx.x; i < size; i += THREADS) promised += good ? step[i] * area.gradient[i] : 0.0;
  promised = block_all<WARPS>(promised, shared.part, Plus());
  const bool finite = good && fabs(promised) <= NOTHING;
  for (int i = threadIdx.x; i < size && !finite; i += THREADS) step[i] = 0.0;
  __syncthreads();
  return finite ? promised : 0.0;
}

// Step of the interference of every pair alone, at the end of `then`. Return twice the likelihood that all promise.
DEVICE double mix(Shared& shared, const double* theta, const double* now, double* then, double damping) {
  const Model& model = shared.model;
  double promised = 0.0;
  for (int q = threadIdx.x; q < model.pairs; q += THREADS) {
    const double prior = 1.0 / (theta[model.pair[q]] * theta[model.pair[model.pairs + q]]);
    const double slope = shared.area.push[q] - prior * now[q], stiff = shared.area.push[model.pairs + q] + prior;
    then[q] = slope / (stiff * (1.0 + damping));
    promised += slope * then[q];
  }
  return block_all<WARPS>(promised, shared.part, Plus());
}

// Set the parameters after a step of limited length. `then` has the step of the interference.
DEVICE void move(const Model& model, Area& area, const double* theta, double* moved, const double* now, double* then) {
  const int first = model.disks + GROUND, size = model.size();
  const double* step = cholesky::row_of(area.matrix, size);
  double longest = LONGEST;
  for (int a = 0; a < GEOMETRY; a++) longest = fmax(longest, (a < 2 ? 1.0 : 2.0) * fabs(step[first + a]));
  for (int i = threadIdx.x; i < size; i += THREADS) {
    const double next = theta[i] + LONGEST / longest * step[i], least = i < model.disks ? FAINT : double(LEAST);
    moved[i] = i < first ? fmax(next, fmax(LEFT * theta[i], least)) : next;
  }
  __syncthreads();
  for (int q = threadIdx.x; q < model.pairs; q += THREADS) {
    const double most = 2.0 * sqrt(moved[model.pair[q]] * moved[model.pair[model.pairs + q]]);
    then[q] = fmin(fmax(now[q] + then[q], -most), most);
  }
  __syncthreads();
}

// Minus the logarithm of the likelihood of the interference.
DEVICE double of_pairs(Shared& shared, const double* theta, const double* mixed) {
  const Model& model = shared.model;
  double sum = 0.0;
  for (int q = threadIdx.x; q < model.pairs; q += THREADS)
    sum += 0.5 * mixed[q] * mixed[q] / (theta[model.pair[q]] * theta[model.pair[model.pairs + q]]);
  return block_all<WARPS>(sum, shared.part, Plus());
}

// Write the covariance of the lattice, from the last rows L of the factor: (L Lᵀ)⁻¹. A thread.
DEVICE void write_covariance(double* matrix, int first, double (&inverse)[GEOMETRY][GEOMETRY], double* out) {
  for (int b = 0; b < GEOMETRY; b++)
    for (int a = b; a < GEOMETRY; a++) {
      const double* row = cholesky::row_of(matrix, first + a) + first;
      double sum = a == b ? 1.0 : 0.0;
      for (int k = b; k < a; k++) sum -= row[k] * inverse[k][b];
      inverse[a][b] = sum * row[a];
    }
  for (int a = 0; a < GEOMETRY; a++)
    for (int b = 0; b <= a; b++) {
      double sum = 0.0;
      for (int k = a; k < GEOMETRY; k++) sum += inverse[k][a] * inverse[k][b];
      out[GEOMETRY * a + b] = out[GEOMETRY * b + a] = sum;
    }
}

// Results of a pattern.
struct Answer {
  double *geometry, *covariance, *amplitude, *scatter;
  u8* ok;
};

// Write the results. `theta` is null where there are none.
DEVICE void write(const Model& model, const double* theta, double scattered, const Answer& out) {
  for (int a = threadIdx.x; a < GEOMETRY; a += THREADS)
    out.geometry[a] = theta ? theta[model.disks + GROUND + a] : nan_value();
  for (int k = threadIdx.x; k < GEOMETRY * GEOMETRY && !theta; k += THREADS) out.covariance[k] = nan_value();
  for (int j = threadIdx.x; j < model.disks; j += THREADS) out.amplitude[j] = theta ? theta[j] : nan_value();
  if (threadIdx.x == 0) *out.scatter = theta ? scattered : nan_value(), *out.ok = theta != nullptr;
  __syncthreads();
}

// Whether a pattern has counts and no NaN where the detector counts, and its start no NaN.
DEVICE bool can_be_fitted(Shared& shared, const double* start) {
  double total = 0.0, known = 0.0;
  for (int p = threadIdx.x; p < shared.model.count(); p += THREADS) total += counts_at(shared, p);
  total = block_all<WARPS>(total, shared.part, Plus());
  for (int a = 0; a < GEOMETRY; a++) known += start[a];
  return total > 0.0 && total <= NOTHING && fabs(known) <= NOTHING;
}

// Parameters and λ before and after a step.
struct Side {
  double *theta, *mixed;
  float* lambda;
  DEVICE Side(const Model& model, const Area& area, int which)
      : theta(area.theta + which * model.size()), mixed(area.mixed + which * model.pairs), lambda(area.models + which * model.count()) {}
};

// By how much the step from `one` to `other` raises the logarithm of the likelihood.
DEVICE double gain_of(Shared& shared, const Side& one, const Side& other) {
  const double gained = gain(shared, one.lambda, other.lambda) + of_pairs(shared, one.theta, one.mixed);
  return gained - of_pairs(shared, other.theta, other.mixed);
}

// Fit one pattern. Every function is called at one place: all is inlined.
DEVICE void fit(Shared& shared, const double* start, const Answer& out) {
  const Model& model = shared.model;
  Area& area = shared.area;
  if (!can_be_fitted(shared, start)) return write(model, nullptr, 0.0, out);
  begin_fit(shared, start);
  int now = 0, step = 0;
  double damping = DAMPING, left = 0.0;
  bool trial = false, taken = true, last = false, good;
  while (true) {
    const Side tried(model, area, trial ? 1 - now : now);
    set_model(shared, tried.theta, tried.mixed, tried.lambda);
    if (trial) {
      const double gained = gain_of(shared, Side(model, area, now), tried);
      taken = gained >= 0.0;
      damping = taken ? damping * EASED : fmax(damping * RAISED, RAISED_TO);
      last = (step > FIXED_STEPS && (taken ? gained : 0.5 * left) < GAIN) || step == MOST_STEPS - 1;
      step++;
      if (taken) now = 1 - now;
      else if (last || step == FIXED_STEPS) {  // the equations are made anew where the fit stands
        trial = false;
        continue;
      }
    }
    const Side here(model, area, now), there(model, area, 1 - now);
    if (taken || !trial) set_equations(shared, here.theta, here.mixed, here.lambda, !last && step < FIXED_STEPS);
    damp(model, area, here.theta, last ? REGULAR : REGULAR + damping, !last);
    good = cholesky::factor<WARPS>(area.matrix, area.diagonal, area.begin, model.size(), shared.solver);
    if (last) break;
    left = solve(shared, good) + mix(shared, here.theta, here.mixed, there.mixed, damping);
    move(model, area, here.theta, there.theta, here.mixed, there.mixed);
    trial = true;
  }
  const int first = model.disks + GROUND;
  for (int a = 0; a < GEOMETRY; a++) good = good && area.free[first + a];
  const Side found(model, area, now);
  const double scattered = scatter(shared, found.lambda);
  if (good && threadIdx.x == 0) write_covariance(area.matrix, first, shared.inverse, out.covariance);
  write(model, good ? found.theta : nullptr, scattered, out);
}

}  // namespace tied

extern "C" __global__ void __launch_bounds__(tied::THREADS, 2)
    tied_fit(const void* patterns, int kind, const double* start, const double* orders, const int* pair, const u8* mask,
             const float* table, const int* pixels, double* geometry, double* covariance, double* amplitude,
             double* scatter, u8* ok, double* doubles, float* floats, int* ints, long long some_doubles,
             long long some_floats, long long some_ints, int n, int nx, int ny, int m, int phases, int disks, int pairs) {
  __shared__ tied::Shared shared;
  if (threadIdx.x == 0) {
    shared.model = {nx, ny, m, -pixels[0], phases, disks, pairs, orders, pair, table, pixels, mask};
    shared.area.carve(doubles + blockIdx.x * some_doubles, floats + blockIdx.x * some_floats,
                      ints + blockIdx.x * some_ints, shared.model);
  }
  __syncthreads();
  tied::number_pixels(shared.model, shared.area);
  for (int i = blockIdx.x; i < n; i += gridDim.x) {
    if (threadIdx.x == 0) shared.image = AnyPixels{patterns, kind}.from(offset_t(i) * nx * ny);
    __syncthreads();
    const int lattice = tied::GEOMETRY;
    tied::fit(shared, start + lattice * i,
              {geometry + lattice * i, covariance + lattice * lattice * i, amplitude + offset_t(disks) * i, scatter + i, ok + i});
  }
}
