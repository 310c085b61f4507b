// cholesky.cuh -- solve symmetric systems of equations in global memory by a block, in double precision.
// The lower triangle of the matrix is packed: row i begins at entry i (i + 1) / 2. Row `size` is the right side. A row
// has zeros before entry begin[i], and they stay zeros. Columns are worked on eight at a time: a block of eight by
// eight in shared memory, and a warp a row for what the columns before explain. Sums have a fixed order.
#pragma once
#include "common.cuh"
#include "eight_sums.cuh"

namespace cholesky {

constexpr int COLUMNS = 8;      // that are worked on at a time
constexpr double PIVOT = 1e-9;  // of the diagonal: with a smaller pivot the matrix has no inverse

struct Shared {
  double corner[COLUMNS][COLUMNS], solved[COLUMNS];
  int regular;
};

DEVICE double* row_of(double* matrix, int i) { return matrix + offset_t(i) * (i + 1) / 2; }

// Factor the eight columns' own square, in shared memory: lane r has row r. The diagonal becomes 1 / L. A warp.
DEVICE void factor_corner(double* matrix, const double* diagonal, int first, int size, Shared& shared) {
  const int lane = threadIdx.x & 31, r = first + lane;
  const bool mine = lane < COLUMNS && r < size;
  for (int c = 0; c < COLUMNS && lane < COLUMNS; c++)
    shared.corner[lane][c] = mine && c <= lane ? row_of(matrix, r)[first + c] : c == lane ? 1.0 : 0.0;
  const double limit = mine ? PIVOT * diagonal[r] : 0.0;
  bool regular = true;
  __syncwarp();
  for (int c = 0; c < COLUMNS; c++) {
    const double pivot = shared.corner[c][c], inverse = rsqrt(pivot);
    if (lane == c) regular = pivot > limit;  // false for a NaN
    __syncwarp();
    if (lane >= c && lane < COLUMNS) shared.corner[lane][c] = lane == c ? inverse : shared.corner[lane][c] * inverse;
    __syncwarp();
    for (int k = c + 1; k <= lane && lane < COLUMNS; k++)
      shared.corner[lane][k] -= shared.corner[lane][c] * shared.corner[k][c];
    __syncwarp();
  }
  const int all = __ballot_sync(FULL_WARP, !regular) == 0;
  if (lane == 0) shared.regular = all;
  for (int c = 0; c <= lane && mine; c++) row_of(matrix, r)[first + c] = shared.corner[lane][c];
}

// Subtract from a row what the columns before `first` explain of the next eight. A warp.
DEVICE void subtract_before(double* matrix, int i, int begin, int first, int size) {
  const int lane = threadIdx.x & 31;
  double* row = row_of(matrix, i);
  double sums[COLUMNS] = {};
#pragma unroll 1
  for (int k = begin + lane; k < first; k += 32) {
    const double value = row[k];
    UNROLL for (int c = 0; c < COLUMNS; c++)
      if (first + c < size) sums[c] += value * row_of(matrix, first + c)[k];
  }
  const double sum = eight_sums(sums);
  const int column = first + lane;
  if (lane < COLUMNS && column < size && column <= i) row[column] -= sum;
}

// The same eight columns of a row below the square. A thread.
DEVICE void finish_row(double* row, int first, int size, const Shared& shared) {
  double v[COLUMNS];
  UNROLL for (int c = 0; c < COLUMNS; c++) {
    double value = first + c < size ? row[first + c] : 0.0;
    UNROLL for (int k = 0; k < c; k++) value -= v[k] * shared.corner[c][k];
    v[c] = value * shared.corner[c][c];
    if (first + c < size) row[first + c] = v[c];
  }
}

// Factor the matrix, L Lᵀ, with 1 / L on the diagonal, and solve L z = right side in its row. Return false where the
// matrix has no inverse. `diagonal` has the matrix's diagonal.
template <int WARPS>
DEVICE bool factor(double* matrix, const double* diagonal, const int* begin, int size, Shared& shared) {
  for (int first = 0; first < size; first += COLUMNS) {
    for (int i = first + (threadIdx.x >> 5); i <= size; i += WARPS)
      if (begin[i] < first) subtract_before(matrix, i, begin[i], first, size);
    __syncthreads();
    if (threadIdx.x < 32) factor_corner(matrix, diagonal, first, size, shared);
    __syncthreads();
    if (!shared.regular) return false;
    for (int i = min(first + COLUMNS, size) + threadIdx.x; i <= size; i += 32 * WARPS)
      if (begin[i] < first + COLUMNS) finish_row(row_of(matrix, i), first, size, shared);
    __syncthreads();
  }
  return true;
}

// Solve Lᵀ x = z in the row of the right side.
template <int WARPS>
DEVICE void solve_back(double* matrix, int size, Shared& shared) {
  double* x = row_of(matrix, size);
  for (int first = (size - 1) / COLUMNS * COLUMNS; first >= 0; first -= COLUMNS) {
    if (threadIdx.x < 32) {
      const int lane = threadIdx.x, r = first + lane;
      const bool mine = lane < COLUMNS && r < size;
      double value = mine ? x[r] : 0.0;
      const double inverse = mine ? row_of(matrix, r)[r] : 0.0;
      UNROLL for (int c = COLUMNS - 1; c >= 0; c--) {
        const double solved = __shfl_sync(FULL_WARP, value * inverse, c);
        if (lane == c) value = solved;
        if (lane < c && first + c < size) value -= row_of(matrix, first + c)[r] * solved;
      }
      if (mine) x[r] = value;
      if (lane < COLUMNS) shared.solved[lane] = value;
    }
    __syncthreads();
    for (int k = threadIdx.x; k < first; k += 32 * WARPS) {
      double value = x[k];
      UNROLL for (int c = 0; c < COLUMNS; c++)
        if (first + c < size) value -= row_of(matrix, first + c)[k] * shared.solved[c];
      x[k] = value;
    }
    __syncthreads();
  }
}

// Solve L z = unit vector for three rows from `first` on, and return the products zᵢ zⱼ that are asked for: the inverse
// matrix is Zᵀ Z. A warp; `z` is its memory, three columns of `size` entries.
DEVICE void inverse_entries(double* matrix, const int* begin, int first, int size, double* z, double (&entries)[4]) {
  const int lane = threadIdx.x & 31;
  UNROLL for (int q = 0; q < 4; q++) entries[q] = 0.0;
  __syncwarp();
  for (int i = first; i < size; i++) {
    const double* row = row_of(matrix, i);
    double sums[3] = {};
    for (int k = max(begin[i], first) + lane; k < i; k += 32) {
      UNROLL for (int q = 0; q < 3; q++) sums[q] += row[k] * z[q * size + k];
    }
    double here[3];
    UNROLL for (int q = 0; q < 3; q++) {
      const double sum = warp_all(sums[q], [](double a, double b) { return a + b; });
      here[q] = ((i == first + q ? 1.0 : 0.0) - sum) * row[i];
    }
    entries[0] += here[0] * here[0];
    entries[1] += here[0] * here[1];
    entries[2] += here[1] * here[1];
    entries[3] += here[2] * here[2];
    __syncwarp();
    if (lane < 3) z[lane * size + i] = lane == 0 ? here[0] : lane == 1 ? here[1] : here[2];
    __syncwarp();
  }
}

}  // namespace cholesky
