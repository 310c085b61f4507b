// hidden_cells.cuh -- the square about a disk for the search of hidden disks (hidden_disks.cuh): memory of a block, the
// disks near the square, and its pixels in cells, less the fitted disks.
#pragma once
#include "common.cuh"

namespace hidden {

constexpr int FITTED = 1;        // state of a disk that is subtracted; 2: only its position is known; 0: none
constexpr double UNKNOWN = 2.2;  // radii: no place is nearer to a disk that was not fitted

// What is the same for all patterns.
struct Search {
  int nx, ny;          // pixels of a pattern
  const u8* mask;      // (nx, ny), 0 = does not count; null = all count
  const u8* allowed;   // (nx, ny), 0 = no disk may lie here
  const float* table;  // (phases + 1, phases + 1, 3, m): D, dD/dx, dD/dy
  const int* pixels;   // (m, 3): offsets from the middle in the order of rows, no gaps in a row, and zone
  int m, phases, rows;  // rows: at least those of the window, floor(sqrt(2 m - 1)) is enough for a round one
  const float* cover;  // (2 margin + 1)^2: part of a cell that a disk in the middle cell covers
  int size;            // of a cell, pixels
  int half;            // cells from the middle to the border of a square
  int margin;          // cells
  double radius, least;
  DEVICE int side() const { return 2 * half + 1; }
  DEVICE int cells() const { return side() * side(); }
};

// Disks of the pattern.
struct Disks {
  const double *x, *y, *amplitude;  // (most): not read where the state is 0
  const u8* state;                  // (most)
  int most;
  int around;  // number of disks that are examined, the brightest first
};

// A disk near the square, by pixels from the square's first one.
struct Near {
  int x, y, number, fitted;
  int table;  // offset of its phase
  float dx, dy, height;
};

// Return the bytes of work memory for a pattern of `most` disks.
DEVICE offset_t work_bytes(const Search& s, int most) {
  const offset_t bytes = offset_t(most) * sizeof(Near) + offset_t(s.cells()) * 25 + 4 * (2 * offset_t(s.rows) + 1);
  return (bytes + 15) / 16 * 16;
}

// The work memory. Cells have six numbers each: pixels, counts left, counts of the fitted disks, weight, counts left a
// pixel, and what the quadratic leaves times the weight. Addresses are computed where they are used, which takes fewer
// registers than to keep them.
struct Work {
  Near* near;
  int most, cells, rows;
  DEVICE Work(void* memory, const Search& s, int most)
      : near(static_cast<Near*>(memory)), most(most), cells(s.cells()), rows(s.rows) {}
  DEVICE float* of_cells(int which) const { return reinterpret_cast<float*>(near + most) + which * cells; }
  DEVICE float& area(int cell) const { return of_cells(0)[cell]; }
  DEVICE float& left(int cell) const { return of_cells(1)[cell]; }
  DEVICE float& bright(int cell) const { return of_cells(2)[cell]; }
  DEVICE float& weight(int cell) const { return of_cells(3)[cell]; }
  DEVICE float& value(int cell) const { return of_cells(4)[cell]; }
  DEVICE float& rest(int cell) const { return of_cells(5)[cell]; }
  DEVICE int* of_rows() const { return reinterpret_cast<int*>(of_cells(6)); }
  // of a row of the window: its first pixel in the list, and the pixel's number less its column
  DEVICE int& first(int row) const { return of_rows()[row]; }
  DEVICE int& begin(int row) const { return of_rows()[rows + 1 + row]; }
  // cells where a place may be
  DEVICE u8& free(int cell) const { return reinterpret_cast<u8*>(of_rows() + 2 * rows + 1)[cell]; }
};

struct Square {
  int x, y, length;  // its first pixel, and its side in pixels
};

// Tabulate the rows of the window.
DEVICE void set_rows(const Search& s, const Work& work) {
  const int half = -s.pixels[0];
#pragma unroll 1
  for (int i = threadIdx.x; i < s.m; i += blockDim.x) {
    const int row = s.pixels[3 * i];
    if (i > 0 && s.pixels[3 * i - 3] == row) continue;
    work.first(row + half) = i, work.begin(row + half) = i - s.pixels[3 * i + 1];
  }
  if (threadIdx.x == 0) work.first(2 * half + 1) = s.m;
}

DEVICE bool square_about(const Search& s, double x, double y, Square* square) {
  const int length = s.side() * s.size;
  *square = {0, 0, length};
  // written so that a NaN is outside; a square beyond the detector has no pixels
  if (!(x > -1.0 - length && x < 1.0 + s.nx + length && y > -1.0 - length && y < 1.0 + s.ny + length)) return false;
  square->x = int(floor(x + 0.5)) - length / 2, square->y = int(floor(y + 0.5)) - length / 2;
  return true;
}

// List the disks that reach into the square or keep places away, in the order of their numbers. For a whole warp.
DEVICE int list_near(const Search& s, const Disks& disks, const Square& square, Near* near) {
  const int lane = threadIdx.x & 31, half = -s.pixels[0];
  const double reach = 2.0 + max(double(half), UNKNOWN * s.radius);
  int count = 0;
#pragma unroll 1
  for (int start = 0; start < disks.most; start += 32) {
    const int k = start + lane, state = k < disks.most ? disks.state[k] : 0;
    const double x = state ? disks.x[k] - square.x : 0.0, y = state ? disks.y[k] - square.y : 0.0;
    const bool some = state && x > -reach && x < square.length + reach && y > -reach && y < square.length + reach;
    const unsigned chosen = __ballot_sync(FULL_WARP, some);
    if (some) {
      const double cx = floor(x + 0.5), cy = floor(y + 0.5), fx = x - cx + 0.5, fy = y - cy + 0.5;
      const int p = min(max(int(floor(fx * s.phases + 0.5)), 0), s.phases);
      const int q = min(max(int(floor(fy * s.phases + 0.5)), 0), s.phases);
      Near n;
      n.x = int(cx), n.y = int(cy), n.number = k, n.fitted = state == FITTED;
      n.table = (p * (s.phases + 1) + q) * 3 * s.m;
      n.dx = float(fx - double(p) / s.phases), n.dy = float(fy - double(q) / s.phases);
      n.height = n.fitted ? float(disks.amplitude[k]) : 0.0f;
      near[count + __popc(chosen & ((1u << lane) - 1))] = n;
    }
    count += __popc(chosen);
  }
  return count;
}

// Return the sum of the fitted disks over the pixels of a cell that belong to this lane.
DEVICE float fitted_disks(const Search& s, const Work& work, const Square& square, int near, int top, int begin,
                          int lane, int lanes) {
  const int half = -s.pixels[0];
  float sum = 0.0f;
#pragma unroll 1
  for (int k = 0; k < near; k++) {
    const Near& disk = work.near[k];
    const int x = top - disk.x, y = begin - disk.y;  // of the cell's first pixel, from the window's middle
    if (!disk.fitted || x > half || x + s.size <= -half || y > half || y + s.size <= -half) continue;
    const float *d0 = s.table + disk.table, dx = disk.dx, dy = disk.dy;
    float part = 0.0f;
#pragma unroll 1
    for (int i = 0, j = lane;; j += lanes) {
      while (j >= s.size) j -= s.size, i++;
      if (i >= s.size) break;
      const int row = x + i + half, a = square.x + top + i, b = square.y + begin + j;
      if (row < 0 || row > 2 * half || a < 0 || a >= s.nx || b < 0 || b >= s.ny || (s.mask && !s.mask[a * s.ny + b]))
        continue;
      const int number = work.begin(row) + y + j;
      if (number >= work.first(row) && number < work.first(row + 1))
        part += d0[number] - dx * d0[s.m + number] - dy * d0[2 * s.m + number];
    }
    sum += disk.height * part;
  }
  return sum;
}

// Add up the pixels of the square in cells, and subtract the fitted disks. Lanes share a cell that has more than eight
// pixels, so that each has four or more: it must go through the list of disks for them.
template <int WARPS, class Image>
DEVICE void add_up(const Image& image, const Search& s, const Work& work, const Square& square, int near) {
  int lanes = 1;
  while (lanes < 32 && 8 * lanes <= s.size * s.size) lanes *= 2;
  const int lane = threadIdx.x & (lanes - 1), groups = 32 * WARPS / lanes, cells = s.cells();
#pragma unroll 1
  for (int start = 0; start < cells; start += groups) {  // all lanes take part in the shuffles
    const int cell = start + int(threadIdx.x) / lanes;
    const int top = cell / s.side() * s.size, begin = cell % s.side() * s.size;
    float total = 0.0f, area = 0.0f, bright = 0.0f;
    if (cell < cells) {
#pragma unroll 1
      for (int i = 0, j = lane;; j += lanes) {
        while (j >= s.size) j -= s.size, i++;
        if (i >= s.size) break;
        const int a = square.x + top + i, b = square.y + begin + j;
        if (a < 0 || a >= s.nx || b < 0 || b >= s.ny || (s.mask && !s.mask[a * s.ny + b])) continue;
        total += float(image[a * s.ny + b]), area += 1.0f;
      }
      bright = fitted_disks(s, work, square, near, top, begin, lane, lanes);
    }
#pragma unroll 1
    for (int step = lanes / 2; step; step >>= 1) {
      total += __shfl_xor_sync(FULL_WARP, total, step);
      area += __shfl_xor_sync(FULL_WARP, area, step);
      bright += __shfl_xor_sync(FULL_WARP, bright, step);
    }
    if (lane == 0 && cell < cells) work.left(cell) = total - bright, work.area(cell) = area, work.bright(cell) = bright;
  }
}

}  // namespace hidden
