// joint_equations.cuh -- the model and the normal equations of a group of disks, by one block (for joint_fit.cuh).
// The model of the counts is the sum of the group's disks and of a background that is bilinear between nodes. Every
// disk has a window of m pixels. Weight 1 / λ and residual (I - λ) / λ are kept for the pixels of every window, so that
// no image is needed. A pixel in several windows belongs to the first of them: its weight is negative in the others,
// so that sums over the group count it once.
// Unknowns: ROWS parameters of each disk (x, y, a; with 5 also the slopes of its intensity), then the nodes.
#pragma once
#include "any_pixels.cuh"
#include "cholesky.cuh"

namespace joint {

constexpr int WARPS = 4, THREADS = 32 * WARPS;
constexpr int FIXED_STEPS = 2;               // first steps, in which positions are fixed
constexpr int BOUNDED_STEPS = 5;             // in so many steps λ is at least BOUND of the counts
constexpr float BOUND = 0.5f;
constexpr float LEAST_COUNTS = 1.0f;         // counts: smallest variance of a pixel in the first step
constexpr float LEAST = 0.02f;               // counts: smallest value of the model
constexpr double RECENTRE = 0.6;             // px: a position farther from the window's middle moves the window
constexpr double FARTHEST = 1.5, WANDER = 0.9;  // px and radii: how far a disk may move from its start

// What is the same for all patterns, and settings.
struct Model {
  int nx, ny, m, half, phases;
  const float* table;  // (phases + 1, phases + 1, 3, m): D, dD/dx, dD/dy
  const int* pixels;   // (m, 3): offsets from the middle in the order of rows, and zone
  const u8* mask;      // (nx, ny), 0 = does not count; null = all count
  bool flat;           // the background has one node less along each axis
  double spacing, significance, radius;
  DEVICE int side() const { return 2 * half + 1; }
  // Distance of the nodes of the background, pixels.
  DEVICE double apart() const { return fmin(2.0 * half, fmax(15.0, 1.3 * half)); }
  DEVICE double wander() const { return fmax(FARTHEST, WANDER * radius); }
};

// A disk of the group in this step.
struct Disk {
  int row, column;   // first pixel of its window
  int phase, alive;  // place of its phase in the table; 0 once the disk is removed
  float dx, dy;      // from there to the phase
  float a, cx, cy;
};

// Nodes of the background: (rows, columns), and pixels of the first one.
struct Nodes {
  int rows, columns, row, column;
  float per_row, per_column;  // 1 / distance
  DEVICE int count() const { return rows * columns; }
};

// Work memory of a block, in global memory. kernels/joint_fit.py gives it the same sizes. K: places of a pattern;
// S: rows K + nodes, the most unknowns.
struct Area {
  double *state, *first, *moved, *result, *strength;  // (K, 5): x, y, a, cx, cy; (K, 2); (K, 2); (K, 4); (K)
  double *ground, *diagonal, *columns, *matrix;       // (nodes); (S); (WARPS, 3, S); packed triangle of S + 1 rows
  float *weight, *residual;                           // (K, m)
  Disk* disks;                                        // (K)
  int *member, *label, *next, *wanted, *begin;        // (K) each; (S + 1)
  int *row_begin, *row_left;                          // (side + 1): first pixel in the list, and its column

  DEVICE void carve(double* doubles, float* floats, int* ints, int places, int nodes, int rows, int m, int side) {
    const offset_t k = places, size = k * rows + nodes;
    state = doubles, first = state + 5 * k, moved = first + 2 * k, result = moved + 2 * k, strength = result + 4 * k;
    ground = strength + k, diagonal = ground + nodes, columns = diagonal + size, matrix = columns + 3 * WARPS * size;
    weight = floats, residual = weight + k * m;
    disks = reinterpret_cast<Disk*>(ints), member = ints + k * (sizeof(Disk) / 4), label = member + k;
    next = label + k, wanted = next + k, begin = wanted + k, row_begin = begin + size + 1;
    row_left = row_begin + side + 1;
  }
};

// Disks of a pattern, K of them.
struct Places {
  const double *x, *y, *height;
  const int* role;
  int most;
};

// Results of a pattern: eight fields, each `stride` behind the one before, and two of bytes.
struct Answer {
  double* fields;
  offset_t stride;
  u8 *ok, *gone;
};

// Shared memory of the block. What the threads would all hold alike is here, because they lack the registers.
struct Shared {
  Model model;
  Area area;
  AnyPixels image;  // the pattern
  Places places;
  Answer answer;
  Nodes nodes;
  int members, size;  // of the group: disks, unknowns
  int pixels;         // of all windows, and Σ (I - λ)² / λ over them
  double square;
  cholesky::Shared solver;
  double part[WARPS];
  int whole[WARPS];
};

struct Plus {
  template <class T>
  DEVICE T operator()(T a, T b) const { return a + b; }
};
struct Higher {
  template <class T>
  DEVICE T operator()(T a, T b) const { return a > b ? a : b; }
};

// Return 1 to all threads if one of them has 1.
DEVICE int block_any(int one, Shared& shared) { return block_all<WARPS>(one, shared.whole, Higher()); }

// The node before a pixel along an axis, and the share of the next one. Beyond the first and last node it goes on.
struct Tent {
  int node;
  float share;
  DEVICE Tent(int pixel, int first, float per_pixel, int nodes) {
    const float t = (pixel - first) * per_pixel;
    node = max(min(int(floorf(t)), nodes - 2), 0);
    share = t - node;
  }
  DEVICE float of(int other) const { return other == node ? 1.0f - share : other == node + 1 ? share : 0.0f; }
};
DEVICE Tent row_tent(const Nodes& nodes, int row) { return Tent(row, nodes.row, nodes.per_row, nodes.rows); }
DEVICE Tent column_tent(const Nodes& nodes, int column) {
  return Tent(column, nodes.column, nodes.per_column, nodes.columns);
}

// List where the rows of the window begin.
DEVICE void list_rows(const Model& model, Area& area) {
  for (int t = threadIdx.x; t < model.m; t += THREADS) {
    const int row = model.pixels[3 * t] + model.half;
    if (t == 0 || model.pixels[3 * (t - 1)] + model.half != row) {
      area.row_begin[row] = t;
      area.row_left[row] = model.pixels[3 * t + 1] + model.half;
    }
  }
  if (threadIdx.x == 0) area.row_begin[model.side()] = model.m;
}

// Number of a pixel in the list of the window, by row and column from the window's first ones, or -1.
DEVICE int place_in(const Model& model, const Area& area, int row, int column) {
  if (row < 0 || row >= model.side()) return -1;
  const int k = column - area.row_left[row], begin = area.row_begin[row];
  return k >= 0 && k < area.row_begin[row + 1] - begin ? begin + k : -1;
}

// Derivatives of λ by the parameters of a disk at pixel t of its window, (u, v) from its middle in half windows. `free`
// is 0 where positions are fixed.
template <int ROWS>
DEVICE void derivatives(const Model& model, const Disk& disk, int t, float u, float v, float free, float (&g)[ROWS]) {
  const float* table = model.table + disk.phase;
  const float slope_x = table[model.m + t], slope_y = table[2 * model.m + t];
  const float d = table[t] - disk.dx * slope_x - disk.dy * slope_y;
  const float height = ROWS > 3 ? fmaxf(disk.a + disk.cx * u + disk.cy * v, 0.05f * disk.a) : disk.a;
  g[0] = -free * height * slope_x;
  g[1] = -free * height * slope_y;
  g[2] = d;
  if (ROWS > 3) g[ROWS - 2] = u * d, g[ROWS - 1] = v * d;
}

// Counts per pixel of a disk at pixel t of its window.
template <int ROWS>
DEVICE float value_of(const Model& model, const Disk& disk, int t, float u, float v) {
  const float* table = model.table + disk.phase;
  const float d = table[t] - disk.dx * table[model.m + t] - disk.dy * table[2 * model.m + t];
  return ROWS > 3 ? (disk.a + disk.cx * u + disk.cy * v) * d : disk.a * d;
}

// Move the windows of disks that have left their middle, and choose the phase of the table for every disk.
DEVICE void set_disks(const Model& model, Area& area, int members) {
  for (int j = threadIdx.x; j < members; j += THREADS) {
    Disk& disk = area.disks[j];
    const double* state = area.state + 5 * j;
    double away[2] = {state[0] - disk.row - model.half, state[1] - disk.column - model.half};
    if (disk.alive && fabs(away[0]) > RECENTRE) disk.row = int(floor(state[0] + 0.5)) - model.half;
    if (disk.alive && fabs(away[1]) > RECENTRE) disk.column = int(floor(state[1] + 0.5)) - model.half;
    away[0] = state[0] - disk.row - model.half, away[1] = state[1] - disk.column - model.half;
    int phase[2];
    UNROLL for (int a = 0; a < 2; a++)
      phase[a] = min(max(int(floor((away[a] + 0.5) * model.phases + 0.5)), 0), model.phases);
    disk.phase = (phase[0] * (model.phases + 1) + phase[1]) * 3 * model.m;
    disk.dx = float(away[0] + 0.5 - double(phase[0]) / model.phases);
    disk.dy = float(away[1] + 0.5 - double(phase[1]) / model.phases);
    disk.a = float(state[2]), disk.cx = float(state[3]), disk.cy = float(state[4]);
  }
}

// λ of the background at a pixel.
DEVICE float ground_at(const Nodes& nodes, const double* ground, Tent row, Tent column) {
  const double* upper = ground + row.node * nodes.columns;
  const double* lower = ground + min(row.node + 1, nodes.rows - 1) * nodes.columns;
  const int left = column.node, right = min(column.node + 1, nodes.columns - 1);
  const float above = float(upper[left]) * (1.0f - column.share) + float(upper[right]) * column.share;
  const float below = float(lower[left]) * (1.0f - column.share) + float(lower[right]) * column.share;
  return above * (1.0f - row.share) + below * row.share;
}

// Weight and residual of pixel t in the window of disk j. Return its (I - λ)² / λ, 0 where it counts elsewhere or not.
// At the first step all amplitudes are 0, and weights come from the counts.
template <int ROWS>
DEVICE float weigh_pixel(const AnyPixels& image, const Model& model, const Nodes& nodes, Area& area, int members, int j,
                         int t, int step, int& pixels) {
  const Disk mine = area.disks[j];
  const int row = mine.row + model.half + model.pixels[3 * t];
  const int column = mine.column + model.half + model.pixels[3 * t + 1];
  float& weight = area.weight[j * model.m + t];
  float& residual = area.residual[j * model.m + t];
  weight = residual = 0.0f;
  if (row < 0 || column < 0 || row >= model.nx || column >= model.ny) return 0.0f;
  if (model.mask && !model.mask[row * model.ny + column]) return 0.0f;
  const float counts = image[row * model.ny + column], unit = 1.0f / model.half;
  float value = ground_at(nodes, area.ground, row_tent(nodes, row), column_tent(nodes, column));
  bool own = true;
  for (int i = 0; i < members; i++) {
    const Disk& other = area.disks[i];
    const int down = row - other.row, right = column - other.column, at = place_in(model, area, down, right);
    if (at < 0) continue;
    own = own && i >= j;
    if (other.alive) value += value_of<ROWS>(model, other, at, (down - model.half) * unit, (right - model.half) * unit);
  }
  float w, r;
  if (step == 0) {
    value = 0.0f, w = 1.0f / fmaxf(counts, LEAST_COUNTS), r = counts * w;
  } else {
    value = fmaxf(value, fmaxf(LEAST, (step < BOUNDED_STEPS ? BOUND : 0.0f) * counts));
    w = 1.0f / value, r = (counts - value) * w;
  }
  weight = own ? w : -w, residual = r;
  pixels += own;
  return own ? r * (counts - value) : 0.0f;
}

// Set weights and residuals, Σ (I - λ)² / λ, and the number of pixels.
template <int ROWS>
DEVICE void weigh(int step, Shared& shared) {
  const Model& model = shared.model;
  double square = 0.0;
  int pixels = 0;
  for (int item = threadIdx.x; item < shared.members * model.m; item += THREADS)
    square += weigh_pixel<ROWS>(shared.image, model, shared.nodes, shared.area, shared.members, item / model.m,
                                item % model.m, step, pixels);
  pixels = block_all<WARPS>(pixels, shared.whole, Plus());
  square = block_all<WARPS>(square, shared.part, Plus());
  if (threadIdx.x == 0) shared.pixels = pixels, shared.square = square;
}

// Sums of a pair of disks, i <= j, over the pixels that both windows hold: Σ ∇λ ∇λᵀ / λ, and for i = j the right side
// Σ (I - λ) ∇λ / λ. A warp.
template <int ROWS>
DEVICE void add_pair(const Model& model, Area& area, int i, int j, double* right_side, float free) {
  constexpr int SQUARE = ROWS * ROWS, SUMS = (SQUARE + ROWS + 7) / 8 * 8;
  const int lane = threadIdx.x & 31, side = model.side();
  const Disk mine = area.disks[j], other = area.disks[i];
  const int down = mine.row - other.row, right = mine.column - other.column;
  if (!mine.alive || !other.alive || abs(down) >= side || abs(right) >= side) return;
  const float unit = 1.0f / model.half;
  float sums[SUMS] = {};
  const int end = area.row_begin[min(side, side - down)];
  for (int t = area.row_begin[max(0, -down)] + lane; t < end; t += 32) {
    const float weight = fabsf(area.weight[j * model.m + t]);
    const int dx = model.pixels[3 * t], dy = model.pixels[3 * t + 1];
    const int at = i == j ? t : place_in(model, area, dx + down + model.half, dy + right + model.half);
    if (weight == 0.0f || at < 0) continue;
    float g[ROWS], h[ROWS];
    derivatives<ROWS>(model, mine, t, dx * unit, dy * unit, free, g);
    derivatives<ROWS>(model, other, at, (dx + down) * unit, (dy + right) * unit, free, h);
    const float residual = area.residual[j * model.m + t];
    UNROLL for (int a = 0; a < ROWS; a++) {
      const float scaled = g[a] * weight;
      UNROLL for (int b = 0; b < ROWS; b++) sums[a * ROWS + b] += scaled * h[b];
      sums[SQUARE + a] += g[a] * residual;
    }
  }
  UNROLL for (int k = 0; k < SUMS; k += 8) {
    const float sum = eight_sums(sums + k);
    const int q = k + lane, a = q / ROWS, b = q % ROWS;
    if (lane < 8 && q < SQUARE && (i < j || b <= a)) cholesky::row_of(area.matrix, j * ROWS + a)[i * ROWS + b] = sum;
    if (lane < 8 && q >= SQUARE && a == ROWS && i == j) right_side[j * ROWS + b] = sum;
  }
}

// Rows of a window, [low, high), that a node's tent reaches along the first axis. The tents at both ends have no end.
DEVICE void rows_of_tent(const Nodes& nodes, int node, int first, int side, int& low, int& high) {
  const float step = 1.0f / nodes.per_row;
  low = 0, high = side;
  if (nodes.rows > 1 && node > 1) low = min(max(int(floorf(nodes.row + (node - 1) * step)) - first, 0), side);
  if (nodes.rows > 1 && node < nodes.rows - 2)
    high = min(max(int(ceilf(nodes.row + (node + 1) * step)) + 1 - first, 0), side);
}

// Entries of disk j and one node: Σ ∇λ t / λ with t the node's tent. A warp.
template <int ROWS>
DEVICE void add_disk_with_node(const Model& model, const Nodes& nodes, Area& area, int members, int j, int row,
                               int column, float free) {
  const int lane = threadIdx.x & 31;
  const Disk disk = area.disks[j];
  const float unit = 1.0f / model.half;
  int low, high;
  rows_of_tent(nodes, row, disk.row, model.side(), low, high);
  float sums[8] = {};
  const int end = area.row_begin[high];
  for (int t = area.row_begin[low] + lane; t < end; t += 32) {
    const int dx = model.pixels[3 * t], dy = model.pixels[3 * t + 1];
    const float weight = fabsf(area.weight[j * model.m + t]);
    const float share = row_tent(nodes, disk.row + model.half + dx).of(row) *
                        column_tent(nodes, disk.column + model.half + dy).of(column);
    if (weight == 0.0f || share == 0.0f) continue;
    float g[ROWS];
    derivatives<ROWS>(model, disk, t, dx * unit, dy * unit, free, g);
    UNROLL for (int a = 0; a < ROWS; a++) sums[a] += g[a] * (weight * share);
  }
  const float sum = eight_sums(sums);
  double* line = cholesky::row_of(area.matrix, members * ROWS + row * nodes.columns + column);
  if (lane < ROWS) line[j * ROWS + lane] = sum;
}

// Entries of disk j and all nodes under its window.
template <int ROWS>
DEVICE void add_disk_with_nodes(const Model& model, const Nodes& nodes, Area& area, int members, int j, float free) {
  const Disk disk = area.disks[j];
  if (!disk.alive) return;
  const int last = 2 * model.half;
  const int top = row_tent(nodes, disk.row).node, left = column_tent(nodes, disk.column).node;
  const int bottom = min(row_tent(nodes, disk.row + last).node + 1, nodes.rows - 1);
  const int wide = min(column_tent(nodes, disk.column + last).node + 1, nodes.columns - 1) - left + 1;
  for (int k = threadIdx.x >> 5; k < (bottom - top + 1) * wide; k += WARPS)
    add_disk_with_node<ROWS>(model, nodes, area, members, j, top + k / wide, left + k % wide, free);
}

// Entries of a node, and of it with the four neighbours before it. A warp.
DEVICE void add_node(const Model& model, const Nodes& nodes, Area& area, int members, int base, int node,
                     double* right_side) {
  const int lane = threadIdx.x & 31, row = node / nodes.columns, column = node % nodes.columns;
  float sums[8] = {};
  for (int j = 0; j < members; j++) {
    const Disk disk = area.disks[j];
    const int right = disk.column + 2 * model.half;
    if (column < column_tent(nodes, disk.column).node || column > column_tent(nodes, right).node + 1) continue;
    int low, high;
    rows_of_tent(nodes, row, disk.row, model.side(), low, high);
    const int end = area.row_begin[high];
    for (int t = area.row_begin[low] + lane; t < end; t += 32) {
      const float weight = area.weight[j * model.m + t];
      const Tent r = row_tent(nodes, disk.row + model.half + model.pixels[3 * t]);
      const Tent c = column_tent(nodes, disk.column + model.half + model.pixels[3 * t + 1]);
      const float share = r.of(row) * c.of(column);
      if (!(weight > 0.0f) || share == 0.0f) continue;
      const float before = r.of(row - 1), scaled = weight * share;
      sums[0] += scaled * share;
      sums[1] += scaled * r.of(row) * c.of(column - 1);
      sums[2] += scaled * before * c.of(column + 1);
      sums[3] += scaled * before * c.of(column);
      sums[4] += scaled * before * c.of(column - 1);
      sums[5] += area.residual[j * model.m + t] * share;
    }
  }
  const float sum = eight_sums(sums);
  const int back[5] = {0, 1, nodes.columns - 1, nodes.columns, nodes.columns + 1};
  UNROLL for (int q = 0; q < 5; q++) {
    const bool there = (q == 0 || q == 3 || (q == 2 ? column + 1 < nodes.columns : column > 0)) && (q < 2 || row > 0);
    if (lane == q && there) cholesky::row_of(area.matrix, base + node)[base + node - back[q]] = sum;
  }
  if (lane == 5) right_side[base + node] = sum;
}

// Set the first columns of all rows, and the matrix to zero.
template <int ROWS>
DEVICE void clear(const Model& model, Area& area, int members, int size) {
  for (int j = threadIdx.x; j < members; j += THREADS) {
    int first = 0;
    while (first < j && (abs(area.disks[first].row - area.disks[j].row) >= model.side() ||
                         abs(area.disks[first].column - area.disks[j].column) >= model.side()))
      first++;
    UNROLL for (int a = 0; a < ROWS; a++) area.begin[j * ROWS + a] = first * ROWS;
  }
  for (int i = members * ROWS + threadIdx.x; i <= size; i += THREADS) area.begin[i] = 0;
  const offset_t entries = offset_t(size + 1) * (size + 2) / 2;
  for (offset_t k = threadIdx.x; k < entries; k += THREADS) area.matrix[k] = 0.0;
}

// Set the normal equations of a step.
template <int ROWS>
DEVICE void set_equations(const Model& model, const Nodes& nodes, Area& area, int members, int step) {
  const int base = members * ROWS, size = base + nodes.count(), warp = threadIdx.x >> 5;
  const float free = step < FIXED_STEPS ? 0.0f : 1.0f;
  double* right_side = cholesky::row_of(area.matrix, size);
  clear<ROWS>(model, area, members, size);
  __syncthreads();
  for (int j = 0; j < members; j++) {
    for (int i = warp; i <= j; i += WARPS) add_pair<ROWS>(model, area, i, j, right_side, free);
    add_disk_with_nodes<ROWS>(model, nodes, area, members, j, free);
  }
  for (int node = warp; node < nodes.count(); node += WARPS)
    add_node(model, nodes, area, members, base, node, right_side);
  __syncthreads();
  for (int i = threadIdx.x; i < size; i += THREADS) {
    double& entry = cholesky::row_of(area.matrix, i)[i];
    // a disk that is gone, a position that is fixed, a node without a pixel
    if (entry <= 0.0) entry = 1.0, right_side[i] = 0.0;
    area.diagonal[i] = entry;
  }
  __syncthreads();
}

}  // namespace joint
