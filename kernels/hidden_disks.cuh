// hidden_disks.cuh -- the search for disks that brighter neighbours hide, in one pattern, by one block.
// The operation `hidden_disks` defines the result. To use it in a kernel with blocks of 32 WARPS threads:
//
//   __shared__ hidden::Scratch<WARPS> scratch;
//   const int places = hidden::search(image, disks, search, memory, scratch);
//
// `image` is the pattern: image[x ny + y] are its counts, a pointer or what behaves like one.
// `memory` has hidden::work_bytes(search, disks.most) bytes, aligned to 16, in shared or global memory, for this block
// alone. It holds nothing between two calls. All threads of the block call it with the same arguments, and none may be
// missing. What threads wrote before (lists of disks in shared or global memory) must be behind a __syncthreads. Every
// thread gets the number of places, at most 16; their positions are in scratch.x and scratch.y, and every thread may
// read them. There is a barrier at the end: the block may use `memory` and the disks' lists again at once, and
// `scratch` after it has copied the places. Sums have a fixed order: the same arguments give the same bits.
#pragma once
#include "eight_sums.cuh"
#include "hidden_cells.cuh"

namespace hidden {

constexpr int MOST = 16;                 // places in one pattern
constexpr int MOST_LOOKS = 8;            // places that are examined around one disk
constexpr double APART = 1.2;            // radii: no place is nearer to a fitted disk or to another place
constexpr float LEAST_VARIANCE = 0.02f;  // counts
constexpr float MISFIT = 0.03f;          // of its height: error of a disk's model
constexpr float DARK = 0.05f;            // of its height: a cell with less of a disk shows the background
constexpr double UNEVEN = 0.05;          // of the background: error of its model
constexpr double FIRST_LOOK = 0.7;       // of the least z: below it a place is not examined
constexpr double PIVOT = 1e-9;           // of the diagonal: with a smaller pivot the matrix has no inverse
constexpr int TERMS = 6, MOMENTS = 21;   // of the quadratic; entries of its matrix (15 different ones) and right side

// Shared memory of the block, whatever the size of patterns.
template <int WARPS>
struct Scratch {
  double x[MOST], y[MOST];  // the places
  u64 best[WARPS];
  double last;  // height of the disk before
  double system[TERMS + 1][TERMS + 2];  // equations and right side
  float sums[WARPS][24], quadratic[TERMS], height;
  int middle, near, regular, taken;
};

// Find the brightest fitted disk after the one before, the first of equal ones; -1 if there is none. For a whole warp.
DEVICE int next_disk(const Disks& disks, int before, double height, double* next_height) {
  int number = -1;
  double best = 0.0;
#pragma unroll 1
  for (int k = threadIdx.x & 31; k < disks.most; k += 32) {
    if (disks.state[k] != FITTED) continue;
    const double a = disks.amplitude[k];
    const bool comes = before < 0 ? a == a : a < height || (a == height && k > before);
    if (comes && (number < 0 || a > best)) number = k, best = a;
  }
  UNROLL for (int step = 16; step; step >>= 1) {
    const double a = __shfl_xor_sync(FULL_WARP, best, step);
    const int k = __shfl_xor_sync(FULL_WARP, number, step);
    if (k >= 0 && (number < 0 || a > best || (a == best && k < number))) number = k, best = a;
  }
  *next_height = best;
  return number;
}

// Return whether a place may be in a cell.
DEVICE bool may_have_place(const Search& s, const Disks& disks, const Work& work, const Square& square, int near,
                           int cell) {
  const int side = s.side(), i = cell / side, j = cell % side, rest = (s.size - 1) / 2;
  const int a = square.x + i * s.size + rest, b = square.y + j * s.size + rest;  // the middle, or half a pixel before
  if (i == 0 || i == side - 1 || j == 0 || j == side - 1 || a < 0 || a >= s.nx || b < 0 || b >= s.ny) return false;
  if (!s.allowed[a * s.ny + b]) return false;
  const double middle = 0.5 * (s.size - 1) - rest, x = a + middle, y = b + middle;
  const double fitted = APART * s.radius, placed = UNKNOWN * s.radius;
#pragma unroll 1
  for (int k = 0; k < near; k++) {
    const Near& disk = work.near[k];
    const double reach = disk.fitted ? fitted : placed;
    const int far = int(reach) + 2;
    if (abs(a - square.x - disk.x) > far || abs(b - square.y - disk.y) > far) continue;
    const double dx = x - disks.x[disk.number], dy = y - disks.y[disk.number];
    if (dx * dx + dy * dy < reach * reach) return false;
  }
  return true;
}

// Set the cells where a place may be, leave out the pixels of places found before, and return the background of a
// pixel, or a NaN where a pixel is one.
template <int WARPS>
DEVICE float prepare(const Search& s, const Disks& disks, const Work& work, const Square& square, int near,
                     double height, int count, Scratch<WARPS>& scratch) {
  const float dark = float(DARK * double(s.size * s.size) * height);
  const double middle = 0.5 * (s.size - 1), apart = APART * s.radius;
  float sums[3] = {0.0f, 0.0f, 0.0f};
#pragma unroll 1
  for (int cell = threadIdx.x; cell < s.cells(); cell += 32 * WARPS) {
    const float left = work.left(cell);
    if (work.bright(cell) <= dark) sums[0] += left, sums[1] += work.area(cell);
    if (!isfinite(left)) sums[2] += 1.0f;
    bool free = may_have_place(s, disks, work, square, near, cell);
#pragma unroll 1
    for (int k = 0; k < count; k++) {
      const double dx = square.x + cell / s.side() * s.size + middle - scratch.x[k];
      const double dy = square.y + cell % s.side() * s.size + middle - scratch.y[k], away = dx * dx + dy * dy;
      free = free && !(away < apart * apart);
      if (away < s.radius * s.radius) work.area(cell) = 0.0f;
    }
    work.free(cell) = free;
  }
  UNROLL for (int k = 0; k < 3; k++) {
    const float sum = warp_sum(sums[k]);
    if ((threadIdx.x & 31) == 0) scratch.sums[threadIdx.x >> 5][MOMENTS + k] = sum;
  }
  __syncthreads();
  UNROLL for (int k = 0; k < 3; k++) {
    sums[k] = 0.0f;
    for (int w = 0; w < WARPS; w++) sums[k] += scratch.sums[w][MOMENTS + k];
  }
  return sums[2] > 0.0f ? __uint_as_float(0x7fc00000u) : fmaxf(sums[0] / fmaxf(sums[1], 1.0f), LEAST_VARIANCE);
}

// Set the weights, and sum the normal equations of the quadratic: 15 moments of the weights, and the right side.
template <int WARPS>
DEVICE void sum_moments(const Search& s, const Work& work, float ground, Scratch<WARPS>& scratch) {
  float v[24];
  UNROLL for (int k = 0; k < 24; k++) v[k] = 0.0f;
  const int side = s.side(), lane = threadIdx.x & 31;
#pragma unroll 1
  for (int cell = threadIdx.x; cell < s.cells(); cell += 32 * WARPS) {
    const float area = work.area(cell), bright = work.bright(cell), misfit = MISFIT * bright;
    const float variance = fmaxf(fmaxf(bright, 0.0f) + area * ground + misfit * misfit, 1e-30f);
    const float w = area * (area / variance), value = area > 0.0f ? work.left(cell) / area : 0.0f;
    work.weight(cell) = w, work.value(cell) = value;
    const float x = float(cell / side - s.half) / s.half, y = float(cell % side - s.half) / s.half;
    const float wx = w * x, wy = w * y, r = w * value, wxx = wx * x, wxy = wx * y, wyy = wy * y, rx = r * x, ry = r * y;
    v[0] += w, v[1] += wx, v[2] += wy, v[3] += wxx, v[4] += wxy, v[5] += wyy;
    v[6] += wxx * x, v[7] += wxx * y, v[8] += wyy * x, v[9] += wyy * y;
    v[10] += wxx * x * x, v[11] += wxx * x * y, v[12] += wxx * y * y, v[13] += wyy * x * y, v[14] += wyy * y * y;
    v[15] += r, v[16] += rx, v[17] += ry, v[18] += rx * x, v[19] += rx * y, v[20] += ry * y;
  }
  UNROLL for (int k = 0; k < 24; k += 8) {
    const float sum = eight_sums(v + k);
    if (lane < 8 && k + lane < MOMENTS) scratch.sums[threadIdx.x >> 5][k + lane] = sum;
  }
}

// Set row `lane` of the normal equations of the quadratic, and of their right side, from the sums of all warps. The
// entry of u^p v^q and u^r v^s is the moment of degree d = p + r + q + s, number d (d + 1) / 2 + q + s.
template <int WARPS>
DEVICE void set_equations(const Scratch<WARPS>& scratch, double (&a)[TERMS + 1], double& x) {
  const int lane = threadIdx.x & 31, degree = lane < 1 ? 0 : lane < 3 ? 1 : 2, of_y = lane - degree * (degree + 1) / 2;
  UNROLL for (int k = 0; k <= TERMS; k++) {
    const int d = degree + (k < 1 ? 0 : k < 3 ? 1 : 2), q = of_y + (k < 1 ? 0 : k < 3 ? k - 1 : k - 3);
    const int number = k < TERMS ? d * (d + 1) / 2 + q : 15 + lane;
    double sum = 0.0;
    if (lane < TERMS) {
      UNROLL for (int w = 0; w < WARPS; w++) sum += scratch.sums[w][number];
    }
    (k < TERMS ? a[k] : x) = sum;
  }
  a[TERMS] = 0.0;
}

// Solve N equations with a positive matrix, a row a lane, by elimination below and above the diagonal. Every lane gets
// its own unknown in x, and the variance of the last one. False where there is no inverse. The rows are in shared memory,
// because ptxas for sm_100 takes minutes for the same in registers where more code is around it.
template <int N, int WARPS>
DEVICE bool solve(Scratch<WARPS>& scratch, const double (&a)[TERMS + 1], double& x, double& variance) {
  const int lane = threadIdx.x & 31;
  const bool mine = lane < N;
  double* row = scratch.system[mine ? lane : 0];
  if (mine) {
    UNROLL for (int k = 0; k < N; k++) row[k] = a[k];
    row[N] = x;
  }
  const double limit = mine ? PIVOT * row[lane] : 0.0;
  double own = 0.0;
  bool regular = true;
  __syncwarp();
#pragma unroll 1
  for (int j = 0; j < N; j++) {
    const double* other = scratch.system[j];
    const double pivot = other[j];
    variance = 1.0 / pivot;
    if (lane == j) own = variance, regular = pivot > limit;
    if (mine && lane != j) {
      const double part = row[j] * variance;
      for (int k = j + 1; k <= N; k++) row[k] -= part * other[k];
    }
    __syncwarp();
  }
  x = mine ? row[N] * own : 0.0;
  return __ballot_sync(FULL_WARP, !regular) == 0;
}

// Fit the quadratic. For a whole warp.
template <int WARPS>
DEVICE void fit_quadratic(Scratch<WARPS>& scratch) {
  const int lane = threadIdx.x & 31;
  double a[TERMS + 1], x, variance;
  set_equations(scratch, a, x);
  const bool regular = solve<TERMS>(scratch, a, x, variance) && isfinite(__shfl_sync(FULL_WARP, x, 0));
  if (lane < TERMS) scratch.quadratic[lane] = float(x);
  if (lane == 0) scratch.regular = regular;
}

// What the quadratic leaves, times the weight.
template <int WARPS>
DEVICE void set_rest(const Search& s, const Work& work, const Scratch<WARPS>& scratch) {
  float q[TERMS];
  UNROLL for (int k = 0; k < TERMS; k++) q[k] = scratch.quadratic[k];
#pragma unroll 1
  for (int cell = threadIdx.x; cell < s.cells(); cell += 32 * WARPS) {
    const float x = float(cell / s.side() - s.half) / s.half, y = float(cell % s.side() - s.half) / s.half;
    const float under = q[0] + q[1] * x + q[2] * y + q[3] * x * x + q[4] * x * y + q[5] * y * y;
    work.rest(cell) = (work.value(cell) - under) * work.weight(cell);
  }
}

// Return the highest z of the 3 x 3 cells about a free cell as its bits, and below them the cell, the first one the
// highest. The quadratic is taken as known. 0 if there is none.
template <int WARPS>
DEVICE u64 first_look(const Search& s, const Work& work, float uneven, Scratch<WARPS>& scratch) {
  const int side = s.side();
  u64 best = 0;
#pragma unroll 1
  for (int cell = threadIdx.x; cell < s.cells(); cell += 32 * WARPS) {
    if (!work.free(cell)) continue;
    float total = 0.0f, weight = 0.0f;
    UNROLL for (int k = 0; k < 9; k++) {
      const int at = cell + (k / 3 - 1) * side + k % 3 - 1;
      total += work.rest(at), weight += work.weight(at);
    }
    if (!(total > 0.0f && weight > 0.0f)) continue;
    const float z = total / weight / sqrtf(1.0f / weight + uneven);
    best = max(best, u64(__float_as_uint(z)) << 32 | u64(~unsigned(cell)));
  }
  return block_all<WARPS>(best, scratch.best, [](u64 a, u64 b) { return a > b ? a : b; });
}

// Fit a disk in a cell and the quadratic together, and decide whether it is a place. For a whole warp.
template <int WARPS>
DEVICE void look_at(const Search& s, const Work& work, const Square& square, int cell, double uneven, int count,
                    Scratch<WARPS>& scratch) {
  const int side = s.side(), row = cell / side, column = cell % side, wide = 2 * s.margin + 1, lane = threadIdx.x & 31;
  float v[8] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll 1
  for (int k = lane; k < wide * wide; k += 32) {
    const int i = row + k / wide - s.margin, j = column + k % wide - s.margin;
    if (i < 0 || i >= side || j < 0 || j >= side) continue;
    const float cover = s.cover[k], w = work.weight(i * side + j) * cover;
    const float x = float(i - s.half) / s.half, y = float(j - s.half) / s.half;
    v[0] += w, v[1] += w * x, v[2] += w * y, v[3] += w * x * x, v[4] += w * x * y, v[5] += w * y * y;
    v[6] += w * cover, v[7] += w * work.value(i * side + j);
  }
  const float sum = eight_sums(v);
  double a[TERMS + 1], x, variance;
  set_equations(scratch, a, x);
  UNROLL for (int k = 0; k <= TERMS; k++) {
    const double together = __shfl_sync(FULL_WARP, sum, k);
    if (lane == TERMS) a[k] = together;
    if (lane == k) a[TERMS] = together;
  }
  const double right = __shfl_sync(FULL_WARP, sum, TERMS + 1);
  if (lane == TERMS) x = right;
  const bool regular = solve<TERMS + 1>(scratch, a, x, variance);
  const double height = __shfl_sync(FULL_WARP, x, TERMS);
  const bool taken = regular && height >= s.least * sqrt(variance + uneven) && count < MOST;
  if (lane == 0) {
    scratch.taken = taken, scratch.height = float(height);
    if (taken) {
      scratch.x[count] = square.x + row * s.size + 0.5 * (s.size - 1);
      scratch.y[count] = square.y + column * s.size + 0.5 * (s.size - 1);
    }
  }
}

// Subtract a place that was taken, and close the cells about a cell that was looked at.
template <int WARPS>
DEVICE void close(const Search& s, const Work& work, int cell, bool taken, float height) {
  const int side = s.side(), row = cell / side, column = cell % side, wide = 2 * s.margin + 1;
  const double apart = APART * s.radius;
#pragma unroll 1
  for (int c = threadIdx.x; c < s.cells(); c += 32 * WARPS) {
    const int i = c / side - row, j = c % side - column;
    if (taken ? (i * i + j * j) * s.size * s.size < apart * apart : abs(i) <= 1 && abs(j) <= 1) work.free(c) = 0;
    if (taken && abs(i) <= s.margin && abs(j) <= s.margin) {
      const float gone = work.area(c) * s.cover[(i + s.margin) * wide + j + s.margin] * height;
      work.left(c) -= gone, work.bright(c) += gone;
    }
  }
}

// Take the places of one square, one after the other, and return the number of places of the pattern.
template <int WARPS>
DEVICE int take_places(const Search& s, const Work& work, const Square& square, float ground, int count,
                       Scratch<WARPS>& scratch) {
  const double uneven = UNEVEN * ground * (UNEVEN * ground);
#pragma unroll 1
  for (int look = 0; look < MOST_LOOKS && count < MOST; look++) {
    sum_moments<WARPS>(s, work, ground, scratch);
    __syncthreads();
    if (threadIdx.x < 32) fit_quadratic<WARPS>(scratch);
    __syncthreads();
    if (!scratch.regular) break;
    set_rest<WARPS>(s, work, scratch);
    __syncthreads();
    const u64 best = first_look<WARPS>(s, work, float(uneven), scratch);
    if (!best || !(__uint_as_float(unsigned(best >> 32)) >= FIRST_LOOK * s.least)) break;
    const int cell = int(~unsigned(best));
    if (threadIdx.x < 32) look_at<WARPS>(s, work, square, cell, uneven, count, scratch);
    __syncthreads();
    close<WARPS>(s, work, cell, scratch.taken, scratch.height);
    count += scratch.taken;
  }
  return count;
}

// See the head of this file.
template <int WARPS, class Image>
DEVICE int search(const Image& image, const Disks& disks, const Search& s, void* memory, Scratch<WARPS>& scratch) {
  const Work work(memory, s, disks.most);
  set_rows(s, work);
  int count = 0;
#pragma unroll 1
  for (int turn = 0; turn < disks.around && count < MOST; turn++) {
    if (threadIdx.x < 32) {
      double height = 0.0;
      const int middle = next_disk(disks, turn ? scratch.middle : -1, turn ? scratch.last : 0.0, &height);
      Square square;
      const bool on = middle >= 0 && square_about(s, disks.x[middle], disks.y[middle], &square);
      const int near = on ? list_near(s, disks, square, work.near) : -1;
      __syncwarp();
      if ((threadIdx.x & 31) == 0) scratch.middle = middle, scratch.last = height, scratch.near = near;
    }
    __syncthreads();
    const int middle = scratch.middle, near = scratch.near;
    if (middle < 0) break;
    if (near >= 0) {
      Square square;
      square_about(s, disks.x[middle], disks.y[middle], &square);
      add_up<WARPS>(image, s, work, square, near);
      __syncthreads();
      const float ground = prepare<WARPS>(s, disks, work, square, near, disks.amplitude[middle], count, scratch);
      if (isfinite(ground)) count = take_places<WARPS>(s, work, square, ground, count, scratch);
    }
    __syncthreads();  // the next disk may be written
  }
  __syncthreads();
  return count;
}

}  // namespace hidden
