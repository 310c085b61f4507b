// rings.cuh -- the ring of a pixel, and sums over the rings of one pattern by the block that calls it.
//
// ring_sums: one block of 8 warps a pattern and range of rings. A warp takes 32 pixels of a row at a time. Along a row
// the ring number falls and then rises, so that pixels of the same ring are neighbours. Their sum is made by shuffles,
// and one lane adds it to the warp's own histogram in shared memory (8 warps x rings x 12 bytes, 20 with squares). Lanes
// where the number falls add before those where it rises, so that no two lanes write one place at the same time.
// Histograms of warps are added in order, so there are no atomics and one order of summation. The ring number comes from
// single precision. Where the radius is too close to the border of a ring, it comes from double, with the operations of
// the definition.
#pragma once
#include "common.cuh"

#define WARPS 8

DEVICE bool is_finite(double v) { return v - v == 0; }

struct Rings {  // gives the ring of a pixel: r = scale |M (q - origin)|
  double ox, oy, xx, xy, yx, yy, scale;
  float slack;  // relative error of a radius in single precision, with a margin
  int n_r;
};

struct Detector {
  int nx, ny;
  const u8* mask;
};

// Ring of a pixel with the operations of the definition, so that it is the same.
DEVICE int exact_ring(const Rings& k, int x, int y) {
  const double dx = __dadd_rn(x, -k.ox), dy = __dadd_rn(y, -k.oy);
  const double u = __dadd_rn(__dmul_rn(k.xx, dx), __dmul_rn(k.xy, dy));
  const double v = __dadd_rn(__dmul_rn(k.yx, dx), __dmul_rn(k.yy, dy));
  const double r = __dmul_rn(sqrt(__dadd_rn(__dmul_rn(u, u), __dmul_rn(v, v))), k.scale);
  return r < k.n_r ? int(r) : k.n_r;
}

struct FastRings {  // the same in single precision, about the pixel at the origin
  int ix, iy;
  float fx, fy, xx, xy, yx, yy;
  bool known;
};

DEVICE FastRings fast_rings(const Rings& k) {
  FastRings f;
  f.known = is_finite(k.ox) && is_finite(k.oy) && fabs(k.ox) < 1e6 && fabs(k.oy) < 1e6;
  f.known = f.known && is_finite(k.xx + k.xy + k.yx + k.yy);
  f.ix = f.known ? int(floor(k.ox)) : 0, f.iy = f.known ? int(floor(k.oy)) : 0;
  f.fx = float(k.ox - f.ix), f.fy = float(k.oy - f.iy);
  f.xx = float(k.xx * k.scale), f.xy = float(k.xy * k.scale);
  f.yx = float(k.yx * k.scale), f.yy = float(k.yy * k.scale);
  return f;
}

// Ring of a pixel: n_r where it is outside all rings.
DEVICE int ring_of(const Rings& k, const FastRings& f, int x, int y) {
  const float dx = float(x - f.ix) - f.fx, dy = float(y - f.iy) - f.fy;
  const float u = f.xx * dx + f.xy * dy, v = f.yx * dx + f.yy * dy;
  const float r = sqrtf(u * u + v * v), border = k.slack * r + 1e-5f;
  if (!(r < k.n_r + 1.0f + border)) return k.n_r;
  int ring = int(r);
  const float part = r - ring;
  if (part < border || part > 1 - border) ring = exact_ring(k, x, y);
  return ring < k.n_r ? ring : k.n_r;
}

// One run of equal rings: `last` is its last lane, `ok` the lanes whose pixels count.
template <class Sum, class Run>
DEVICE void add_run(Sum* sums, u32* counts, int ring, Run value, int lane, int last, u32 ok) {
  sums[ring] += Sum(value);
  counts[ring] += __popc((ok >> lane) & (0xffffffffu >> (31 - (last - lane))));
}

// Sum of the values of a run, in its first lane.
template <class Run>
DEVICE Run run_sum(Run value, int lane, int last) {
  for (int step = 1; step < 32; step *= 2) {
    if (!__any_sync(FULL_WARP, lane + step <= last)) break;
    const Run other = __shfl_down_sync(FULL_WARP, value, step);
    if (lane + step <= last) value += other;
  }
  return value;
}

// Pixels are added up in `Run` and `Square` within a run, and in `Sum` and `Square` beyond. `squares` are written with
// SQUARES alone.
template <class Pixel, class Run, class Sum, class Square, bool SQUARES>
DEVICE void ring_sums(const Pixel* __restrict__ patterns, offset_t pattern, const Rings& place, const Detector& detector,
                      Sum* __restrict__ sums, Square* __restrict__ squares, offset_t* __restrict__ pixels, int rings,
                      int ranges) {
  DYNAMIC_SHARED(Sum, histogram);
  Square* square = reinterpret_cast<Square*>(histogram + WARPS * rings);
  u32* number = reinterpret_cast<u32*>(square + (SQUARES ? WARPS * rings : 0));
  const int first = (blockIdx.x % ranges) * rings, n_r = place.n_r, nx = detector.nx, ny = detector.ny;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  for (int i = threadIdx.x; i < WARPS * rings; i += blockDim.x) {
    histogram[i] = 0, number[i] = 0;
    if (SQUARES) square[i] = 0;
  }
  __syncthreads();

  const FastRings fast = fast_rings(place);
  const Pixel* frame = patterns + pattern * nx * ny;
  Sum* my_sums = histogram + warp * rings - first;
  Square* my_squares = square + warp * rings - first;
  u32* my_number = number + warp * rings - first;
  const int chunks = (ny + 31) / 32;
  for (int chunk = warp; fast.known && chunk < nx * chunks; chunk += WARPS) {
    const int x = chunk / chunks, y = (chunk % chunks) * 32 + lane;
    int ring = n_r;
    Run value = 0;
    bool counts = false;
    if (y < ny) {
      ring = ring_of(place, fast, x, y);
      const Pixel pixel = frame[x * ny + y];
      counts = is_finite(double(pixel)) && (!detector.mask || detector.mask[x * ny + y]);
      if (counts) value = Run(pixel);
    }
    const int before = __shfl_up_sync(FULL_WARP, ring, 1);
    const bool head = lane == 0 || ring != before;
    const u32 heads = __ballot_sync(FULL_WARP, head), ok = __ballot_sync(FULL_WARP, counts);
    const u32 later = lane == 31 ? 0 : heads >> (lane + 1);
    const int last = later ? lane + __ffs(later) - 1 : 31;
    const Square own = SQUARES ? run_sum(Square(value) * Square(value), lane, last) : Square(0);
    value = run_sum(value, lane, last);
    const u32 rising = __ballot_sync(FULL_WARP, head && lane > 0 && ring > before);
    const u32 falling = __ballot_sync(FULL_WARP, head && lane > 0 && ring < before);
    const int turn = rising ? __ffs(rising) - 1 : 32;
    const bool mine = head && ring < n_r && ring >= first && ring < first + rings;
    if (turn < 32 && falling >> turn) {  // rounding where the number turns: one lane after the other
      for (int l = 0; l < 32; l++) {
        if (SQUARES && l == lane && mine) my_squares[ring] += own;
        if (l == lane && mine) add_run(my_sums, my_number, ring, value, lane, last, ok);
        __syncwarp();
      }
    } else {
      if (SQUARES && mine && lane < turn) my_squares[ring] += own;
      if (mine && lane < turn) add_run(my_sums, my_number, ring, value, lane, last, ok);
      __syncwarp();
      if (SQUARES && mine && lane >= turn) my_squares[ring] += own;
      if (mine && lane >= turn) add_run(my_sums, my_number, ring, value, lane, last, ok);
      __syncwarp();
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < rings && first + i < n_r; i += blockDim.x) {
    const offset_t at = pattern * n_r + first + i;
    Sum total = 0;
    Square wide = 0;
    offset_t all = 0;
    for (int w = 0; w < WARPS; w++) {
      total += histogram[w * rings + i], all += number[w * rings + i];
      if (SQUARES) wide += square[w * rings + i];
    }
    sums[at] = total;
    pixels[at] = all;
    if (SQUARES) squares[at] = wide;
  }
}
