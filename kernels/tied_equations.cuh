// tied_equations.cuh -- the model and the normal equations of a whole pattern whose disks a lattice places, by one block
// (for tied_fit.cu). λ is the sum of a background, bilinear between the corners of the detector, of all disks, and of
// the products of the disks of each pair.
// Unknowns: amplitudes of the disks, four values of the background, origin, g1, g2.
#pragma once
#include "any_pixels.cuh"
#include "cholesky.cuh"

namespace tied {

constexpr int WARPS = 8, THREADS = 32 * WARPS;
constexpr int GROUND = 4, GEOMETRY = 6, DENSE = GROUND + GEOMETRY;  // unknowns that all pixels depend on
constexpr int SUMS = 40;           // that a warp makes at once
constexpr float LEAST = 0.005f;    // counts: smallest value of the model, and of the background in a corner
constexpr double FARTHEST = 1e6;   // px: a disk farther away than this is put there, so that its pixels have numbers
constexpr float NEAR_ONE = 0.1f;   // relative change of the model: below it ln(1 + x) - x is summed as a series

// What is the same for all patterns.
struct Model {
  int nx, ny, m, half, phases, disks, pairs;
  const double* orders;  // (disks, 2): h, k
  const int* pair;       // (2, pairs): disks that interfere
  const float* table;    // (phases + 1, phases + 1, 3, m): D, dD/dx, dD/dy
  const int* pixels;     // (m, 3): offsets from the middle in the order of rows, and zone
  const u8* mask;        // (nx, ny), 0 = does not count; null = all count
  DEVICE int side() const { return 2 * half + 1; }
  DEVICE int square() const { return side() * side(); }
  DEVICE int count() const { return nx * ny; }
  DEVICE int size() const { return disks + DENSE; }
  DEVICE bool counts(int p) const { return !mask || mask[p]; }
};

// A disk in this step: first pixel of its window, place of its phase in the table, and from there to the phase.
struct Disk {
  int row, column, phase;
  float dx, dy;
};

// Work memory of a block, in global memory. kernels/tied_fit.py gives it the same sizes. S: unknowns.
struct Area {
  double *theta, *mixed, *push;         // (2, S), (2, pairs): before and after a step; (2, pairs): slope and curvature
  double *gradient, *diagonal;          // (S), (S)
  double *fisher, *matrix;              // packed triangles: of S rows, of S + 1 rows
  float *models, *weight, *residual;    // (2, N): λ before and after a step; 1 / λ, 0 where nothing counts; (I - λ) / λ
  float *images, *patch;                // (GEOMETRY, N): derivatives of λ by the lattice; (disks, side²): D
  Disk* disk;                           // (disks)
  int *place, *begin, *free;            // (side²): number of a pixel in the list of the window, or -1; (S + 1); (S)

  DEVICE void carve(double* doubles, float* floats, int* ints, const Model& model) {
    const offset_t size = model.size(), count = model.count();
    theta = doubles, mixed = theta + 2 * size, push = mixed + 2 * model.pairs, gradient = push + 2 * model.pairs;
    diagonal = gradient + size, fisher = diagonal + size, matrix = fisher + size * (size + 1) / 2;
    models = floats, weight = models + 2 * count, residual = weight + count, images = residual + count;
    patch = images + GEOMETRY * count;
    disk = reinterpret_cast<Disk*>(ints), place = ints + model.disks * (sizeof(Disk) / 4);
    begin = place + model.square(), free = begin + size + 1;
  }
};

// Shared memory of the block.
struct Shared {
  Model model;
  Area area;
  AnyPixels image;  // the pattern
  cholesky::Shared solver;
  float sums[WARPS][SUMS];
  double part[WARPS];
  double inverse[GEOMETRY][GEOMETRY];
};

struct Plus {
  template <class T>
  DEVICE T operator()(T a, T b) const { return a + b; }
};

// Counts of a pixel; 0 where the detector does not count.
DEVICE float counts_at(const Shared& shared, int p) { return shared.model.counts(p) ? shared.image[p] : 0.0f; }

// Share of a pixel along an axis of `side` pixels, from 0 to 1.
DEVICE float share_of(int q, int side) { return float(q) / max(side - 1, 1); }

// Number every pixel of the square about a window as the list of the window does.
DEVICE void number_pixels(const Model& model, Area& area) {
  for (int k = threadIdx.x; k < model.square(); k += THREADS) area.place[k] = -1;
  __syncthreads();
  for (int t = threadIdx.x; t < model.m; t += THREADS)
    area.place[(model.pixels[3 * t] + model.half) * model.side() + model.pixels[3 * t + 1] + model.half] = t;
  __syncthreads();
}

// Place the disks, and choose the phase of the table for each.
DEVICE void set_disks(const Model& model, Area& area, const double* theta) {
  const double* lattice = theta + model.disks + GROUND;
  for (int j = threadIdx.x; j < model.disks; j += THREADS) {
    int first[2], phase[2];
    float rest[2];
    UNROLL for (int a = 0; a < 2; a++) {
      double at = lattice[a] + model.orders[2 * j] * lattice[2 + a] + model.orders[2 * j + 1] * lattice[4 + a];
      at = fmin(fmax(at, -FARTHEST), FARTHEST);
      const double middle = floor(at + 0.5), away = at - middle + 0.5;
      first[a] = int(middle) - model.half;
      phase[a] = min(max(int(floor(away * model.phases + 0.5)), 0), model.phases);
      rest[a] = float(away - double(phase[a]) / model.phases);
    }
    area.disk[j] = {first[0], first[1], (phase[0] * (model.phases + 1) + phase[1]) * 3 * model.m, rest[0], rest[1]};
  }
}

// Pixel of the detector that is pixel k of a disk's square, or -1.
DEVICE int on_detector(const Model& model, const Disk& disk, int k) {
  const int row = disk.row + k / model.side(), column = disk.column + k % model.side();
  return row >= 0 && column >= 0 && row < model.nx && column < model.ny ? row * model.ny + column : -1;
}

// D of disk i at pixel k of the square of disk j.
DEVICE float value_at(const Model& model, const Area& area, int i, int j, int k) {
  const int side = model.side();
  const int row = area.disk[j].row - area.disk[i].row + k / side, column = area.disk[j].column - area.disk[i].column + k % side;
  return row >= 0 && column >= 0 && row < side && column < side ? area.patch[i * model.square() + row * side + column] : 0.0f;
}

// Place the disks, and set their patches.
DEVICE void set_patches(const Model& model, Area& area, const double* theta) {
  set_disks(model, area, theta);
  __syncthreads();
  for (int item = threadIdx.x; item < model.disks * model.square(); item += THREADS) {
    const Disk& disk = area.disk[item / model.square()];
    const int t = area.place[item % model.square()];
    const float* table = model.table + disk.phase + t;
    const float d = t < 0 ? 0.0f : table[0] - disk.dx * table[model.m] - disk.dy * table[2 * model.m];
    area.patch[item] = fmaxf(d, 0.0f);
  }
  __syncthreads();
}

// Set the patches of all disks, and λ.
DEVICE void set_model(Shared& shared, const double* theta, const double* mixed, float* lambda) {
  const Model& model = shared.model;
  Area& area = shared.area;
  const double* ground = theta + model.disks;
  for (int p = threadIdx.x; p < model.count(); p += THREADS) {
    const float s = share_of(p / model.ny, model.nx), t = share_of(p % model.ny, model.ny);
    const float left = (1.0f - s) * float(ground[0]) + s * float(ground[2]);
    const float right = (1.0f - s) * float(ground[1]) + s * float(ground[3]);
    lambda[p] = left + (right - left) * t;
  }
  set_patches(model, area, theta);
  for (int j = 0; j < model.disks; j++) {  // one after the other: windows overlap
    for (int k = threadIdx.x; k < model.square(); k += THREADS) {
      const int p = on_detector(model, area.disk[j], k);
      if (p >= 0) lambda[p] += float(theta[j]) * area.patch[j * model.square() + k];
    }
    __syncthreads();
  }
  for (int q = 0; q < model.pairs; q++) {
    const int i = model.pair[q], j = model.pair[model.pairs + q];
    for (int k = threadIdx.x; k < model.square(); k += THREADS) {
      const int p = on_detector(model, area.disk[j], k);
      if (p >= 0) lambda[p] += float(mixed[q]) * area.patch[j * model.square() + k] * value_at(model, area, i, j, k);
    }
    __syncthreads();
  }
  for (int p = threadIdx.x; p < model.count(); p += THREADS) lambda[p] = fmaxf(lambda[p], LEAST);
  __syncthreads();
}

// ln(1 + x) - x.
DEVICE float bent(float x) {
  if (fabsf(x) > NEAR_ONE) return log1pf(x) - x;
  float s = -1.0f / 8 * x + 1.0f / 7;
  s = s * x - 1.0f / 6, s = s * x + 1.0f / 5, s = s * x - 1.0f / 4, s = s * x + 1.0f / 3;
  return (s * x - 0.5f) * x * x;
}

// By how much a step raises the logarithm of the likelihood, without that of the interference. The weights are those
// before the step. With x the relative change of λ, the terms of Σ I (ln(1 + x) - x) + (I - λ) x are small near the
// maximum, for any dose.
DEVICE double gain(Shared& shared, const float* before, const float* after) {
  double sum = 0.0;
  for (int p = threadIdx.x; p < shared.model.count(); p += THREADS) {
    const float x = (after[p] - before[p]) * shared.area.weight[p], counts = counts_at(shared, p);
    sum += counts * bent(x) + (counts - before[p]) * x;
  }
  return block_all<WARPS>(sum, shared.part, Plus());
}

// Σ (I - λ)² / Σ λ.
DEVICE double scatter(Shared& shared, const float* lambda) {
  double square = 0.0, total = 0.0;
  for (int p = threadIdx.x; p < shared.model.count(); p += THREADS) {
    if (!shared.model.counts(p)) continue;
    const float away = shared.image[p] - lambda[p];
    square += away * away, total += lambda[p];
  }
  square = block_all<WARPS>(square, shared.part, Plus());
  return square / block_all<WARPS>(total, shared.part, Plus());
}

// Height of disk j at pixel k of its square: its amplitude, and its interference with others.
DEVICE float height_at(const Model& model, const Area& area, const double* theta, const double* mixed, int j, int k) {
  float height = float(theta[j]);
  for (int q = 0; q < model.pairs; q++) {
    const int one = model.pair[q], two = model.pair[model.pairs + q];
    if (one == j || two == j) height += float(mixed[q]) * value_at(model, area, one + two - j, j, k);
  }
  return height;
}

// Set the derivatives of λ by the lattice.
DEVICE void set_images(const Model& model, Area& area, const double* theta, const double* mixed, bool fixed) {
  const int count = model.count();
  for (int p = threadIdx.x; p < GEOMETRY * count; p += THREADS) area.images[p] = 0.0f;
  __syncthreads();
  for (int j = 0; j < model.disks && !fixed; j++) {
    const float h = float(model.orders[2 * j]), k = float(model.orders[2 * j + 1]);
    for (int q = threadIdx.x; q < model.square(); q += THREADS) {
      const int p = on_detector(model, area.disk[j], q), t = area.place[q];
      if (p < 0 || t < 0) continue;
      const float height = height_at(model, area, theta, mixed, j, q);
      UNROLL for (int a = 0; a < 2; a++) {
        const float move = height * model.table[area.disk[j].phase + (1 + a) * model.m + t];
        float* image = area.images + a * count + p;
        image[0] -= move, image[2 * count] -= h * move, image[4 * count] -= k * move;
      }
    }
    __syncthreads();
  }
}

// Derivatives of λ at a pixel by background and lattice.
DEVICE void derivatives(const Model& model, const Area& area, int p, float (&g)[DENSE]) {
  const float s = share_of(p / model.ny, model.nx), t = share_of(p % model.ny, model.ny);
  g[0] = (1.0f - s) * (1.0f - t), g[1] = (1.0f - s) * t, g[2] = s * (1.0f - t), g[3] = s * t;
  UNROLL for (int a = 0; a < GEOMETRY; a++) g[GROUND + a] = area.images[a * model.count() + p];
}

// Entries of the rows [LOW, HIGH) of background and lattice with the rows before them, and their gradient. All rows at once
// would take more registers than there are.
template <int LOW, int HIGH>
DEVICE void dense_rows(Shared& shared) {
  constexpr int FIRST = LOW * (LOW + 1) / 2, ENTRIES = HIGH * (HIGH + 1) / 2 - FIRST, ALL = (ENTRIES + HIGH - LOW + 7) / 8 * 8;
  static_assert(ALL <= SUMS, "sums do not fit");
  const Model& model = shared.model;
  Area& area = shared.area;
  float sums[ALL] = {};
#pragma unroll 1
  for (int p = threadIdx.x; p < model.count(); p += THREADS) {
    float g[DENSE];
    derivatives(model, area, p, g);
    const float weight = area.weight[p], residual = area.residual[p];
    UNROLL for (int a = LOW; a < HIGH; a++) {
      const float scaled = g[a] * weight;
      UNROLL for (int b = 0; b <= a; b++) sums[a * (a + 1) / 2 + b - FIRST] += scaled * g[b];
      sums[ENTRIES + a - LOW] += g[a] * residual;
    }
  }
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  UNROLL for (int k = 0; k < ALL; k += 8) {
    const float sum = eight_sums(sums + k);
    if (lane < 8) shared.sums[warp][k + lane] = sum;
  }
  __syncthreads();
  for (int k = threadIdx.x; k < ENTRIES + HIGH - LOW; k += THREADS) {
    double sum = 0.0;
    for (int w = 0; w < WARPS; w++) sum += shared.sums[w][k];
    int a = LOW;
    while ((a + 1) * (a + 2) / 2 <= k + FIRST) a++;
    if (k < ENTRIES) cholesky::row_of(area.fisher, model.disks + a)[model.disks + k + FIRST - a * (a + 1) / 2] = sum;
    else area.gradient[model.disks + LOW + k - ENTRIES] = sum;
  }
  __syncthreads();
}

// Entries of a disk: its own, with background and lattice, and its gradient. A warp.
DEVICE void disk_row(const Model& model, Area& area, int j) {
  const int lane = threadIdx.x & 31;
  float sums[16] = {};
  for (int k = lane; k < model.square(); k += 32) {
    const float d = area.patch[j * model.square() + k];
    const int p = on_detector(model, area.disk[j], k);
    if (p < 0 || d == 0.0f) continue;
    float g[DENSE];
    derivatives(model, area, p, g);
    const float scaled = d * area.weight[p];
    UNROLL for (int a = 0; a < DENSE; a++) sums[a] += scaled * g[a];
    sums[DENSE] += scaled * d, sums[DENSE + 1] += d * area.residual[p];
  }
  UNROLL for (int k = 0; k < 16; k += 8) {
    const float sum = eight_sums(sums + k);
    const int a = k + lane;
    if (lane < 8 && a < DENSE) cholesky::row_of(area.fisher, model.disks + a)[j] = sum;
    if (lane < 8 && a == DENSE) cholesky::row_of(area.fisher, j)[j] = sum;
    if (lane < 8 && a == DENSE + 1) area.gradient[j] = sum;
  }
}

// Whether the windows of two disks can share a pixel.
DEVICE bool near(const Model& model, const Area& area, int i, int j) {
  return abs(area.disk[i].row - area.disk[j].row) < model.side() && abs(area.disk[i].column - area.disk[j].column) < model.side();
}

// Entry of two disks, i < j: Σ Dᵢ Dⱼ / λ. A warp.
DEVICE void add_disks(const Model& model, Area& area, int i, int j) {
  float sum = 0.0f;
  for (int k = threadIdx.x & 31; k < model.square(); k += 32) {
    const int p = on_detector(model, area.disk[j], k);
    if (p >= 0) sum += area.patch[j * model.square() + k] * value_at(model, area, i, j, k) * area.weight[p];
  }
  sum = warp_all(sum, Plus());
  if ((threadIdx.x & 31) == 0) cholesky::row_of(area.fisher, j)[i] = sum;
}

// Slope and curvature of the likelihood by the interference of a pair: Σ (I - λ) Dᵢ Dⱼ / λ and Σ (Dᵢ Dⱼ)² / λ. A warp.
DEVICE void pair_sums(const Model& model, Area& area, int q) {
  const int i = model.pair[q], j = model.pair[model.pairs + q];
  float slope = 0.0f, stiff = 0.0f;
  for (int k = threadIdx.x & 31; k < model.square(); k += 32) {
    const int p = on_detector(model, area.disk[j], k);
    if (p < 0) continue;
    const float both = area.patch[j * model.square() + k] * value_at(model, area, i, j, k);
    slope += both * area.residual[p], stiff += both * both * area.weight[p];
  }
  slope = warp_all(slope, Plus()), stiff = warp_all(stiff, Plus());
  if ((threadIdx.x & 31) == 0) area.push[q] = slope, area.push[model.pairs + q] = stiff;
}

// Set Fisher matrix and gradient of parameters whose patches and λ are set. `fixed`: the lattice stays.
DEVICE void set_equations(Shared& shared, const double* theta, const double* mixed, const float* lambda, bool fixed) {
  const Model& model = shared.model;
  Area& area = shared.area;
  const int warp = threadIdx.x >> 5, size = model.size();
  for (int p = threadIdx.x; p < model.count(); p += THREADS) {
    const float weight = model.counts(p) ? 1.0f / lambda[p] : 0.0f;
    area.weight[p] = weight;
    area.residual[p] = weight > 0.0f ? (shared.image[p] - lambda[p]) * weight : 0.0f;
  }
  for (int k = threadIdx.x; k < size * (size + 1) / 2; k += THREADS) area.fisher[k] = 0.0;
  for (int j = threadIdx.x; j <= size; j += THREADS) {
    int first = 0;
    while (j < model.disks && first < j && !near(model, area, first, j)) first++;
    area.begin[j] = first;
  }
  set_images(model, area, theta, mixed, fixed);
  dense_rows<0, 7>(shared);
  dense_rows<7, DENSE>(shared);
  for (int j = warp; j < model.disks; j += WARPS) disk_row(model, area, j);
  for (int k = warp; k < model.disks * model.disks; k += WARPS)
    if (k % model.disks < k / model.disks && near(model, area, k % model.disks, k / model.disks))
      add_disks(model, area, k % model.disks, k / model.disks);
  for (int q = warp; q < model.pairs; q += WARPS) pair_sums(model, area, q);
  __syncthreads();
}

}  // namespace tied
