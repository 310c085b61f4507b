// refine_disks.cu -- sub-pixel positions of correlation maxima on maps in global memory, and their standard errors.
//   maps      (n, nx, ny) float32   correlation maps, y fastest; periodic
//   px, py    (n, most) int32       whole pixels the maxima start at
//   count     (n) int32             how many there are
//   tx, ty    (3, phases, 2 nx | 2 ny) float32   periodic sinc and derivatives, twice: [n - i + s] of entry p is the
//                                   weight of sample s for the point i + p / phases
//   x, y, height, sx, sy   (n, most) double  NaN after the last
// The maximum of the trigonometric interpolation (map_interpolation.cuh) is found by Newton steps from the maximum of
// a parabola. Two steps are made, and more only where the second was still long. A team of threads works on eight
// peaks of a pattern in one pass over its map.
// newton_peaks, peak_errors: a team of 64 to 128 threads (row sets x column pairs), blocks (n, groups of eight peaks).
// newton_peaks_wide, peak_errors_wide: maps whose rows fill tiles of 256 columns. Up to three teams of 64 threads with
// four columns each work on the map at the same time. The map comes from L2 once for 24 peaks, because the second and
// third team find it in L1. Blocks (n, groups of 24 peaks).
// window_peaks: the same threads, blocks (n, peaks); the peers' window of samples, 24 of its rows at a time.
// parabola_peaks: a thread a peak.
// bytes: the map once from DRAM, then from L2 once a step and block (0.5 MB at 256 x 256, 21 peaks, two steps).
// flops: 6 a map pixel, peak and step: 19 M at 256 x 256, 21 peaks in groups of eight.
// bound: fp32 (48 FMA to 8 loads a row and thread; wide: 96 to 10).
// budget(newton_peaks|peak_errors): 168 registers, 16112 bytes shared
// budget(newton_peaks_wide|peak_errors_wide): 168 registers, 0 bytes shared
// budget(window_peaks): 168 registers, 0 bytes shared
// budget(parabola_peaks): 64 registers, 0 bytes shared
#include "map_interpolation.cuh"

// Blocks that a multiprocessor holds. From sm_100 on FMAs go in pairs, whose registers spill with four blocks.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
#define RESIDENT 3
#else
#define RESIDENT 4
#endif

constexpr int CLIMB = 3;       // whole-pixel steps to this map's own maximum
constexpr double REACH = 1.5;  // px from the start; farther away lies another maximum
constexpr int LEAST_STEPS = 2, MOST_STEPS = 6;
constexpr double SHORT_STEP = 0.02;    // px: a Newton step this short ends closer than 1e-3
constexpr int LINE = 2 * THREADS + 1;  // pitch of a window row's sums over columns

DEVICE double limited(double v) { return fmin(0.5, fmax(-0.5, v)); }

// Step to the maximum of a quadratic; false where it has none
DEVICE bool newton_step(double gx, double gy, double hxx, double hxy, double hyy, double& dx, double& dy) {
  const double det = hxx * hyy - hxy * hxy;
  dx = dy = 0.0;
  if (!(det > 0.0 && hxx < 0.0)) return false;
  dx = limited(-(hyy * gx - hxy * gy) / det);
  dy = limited(-(hxx * gy - hxy * gx) / det);
  return true;
}

// Maximum of the quadratic through 3 x 3 values (least-squares cross term), at most half a sample away
template <class At>
DEVICE void parabola(At at, double& dx, double& dy, double& height) {
  const double here = at(0, 0), up = at(-1, 0), down = at(1, 0), left = at(0, -1), right = at(0, 1);
  const double gx = 0.5 * (down - up), gy = 0.5 * (right - left), hxx = down + up - 2.0 * here,
               hyy = right + left - 2.0 * here;
  const double hxy = 0.25 * (double(at(1, 1)) + at(-1, -1) - at(1, -1) - at(-1, 1));
  newton_step(gx, gy, hxx, hxy, hyy, dx, dy);
  height = here + gx * dx + gy * dy + 0.5 * (hxx * dx * dx + 2.0 * hxy * dx * dy + hyy * dy * dy);
}

// Move to the largest of the eight neighbours, at most CLIMB times, then take the parabola's maximum
DEVICE Peak start_of(const float* __restrict__ map, int nx, int ny, int px, int py, int climb) {
  auto at = [&](int dx, int dy) { return map[wrap(px + dx, nx) * ny + wrap(py + dy, ny)]; };
  for (int step = 0; step < (climb ? CLIMB : 0); step++) {
    int best_x = 0, best_y = 0;
    float best = at(0, 0);
    for (int d = 0; d < 9; d++) {
      const float v = at(d / 3 - 1, d % 3 - 1);
      if (v > best) best = v, best_x = d / 3 - 1, best_y = d % 3 - 1;
    }
    if (!best_x && !best_y) break;
    px += best_x;
    py += best_y;
  }
  double dx, dy, height;
  parabola(at, dx, dy, height);
  return {px + dx, py + dy, height, px, py};
}

// One Newton step from the table entry (ex, ey), where the map's value and derivatives are s[0], s[PEAKS], ...
DEVICE void newton(Climb& c, const float* s, int step) {
  const double gx = s[PEAKS], gy = s[2 * PEAKS], hxx = s[3 * PEAKS], hxy = s[4 * PEAKS], hyy = s[5 * PEAKS];
  const bool steps = c.left > 0;
  double dx, dy, moved = 0.0;
  if (steps && newton_step(gx, gy, hxx, hxy, hyy, dx, dy)) {
    moved = fmax(fabs(c.ex + dx - c.peak.x), fabs(c.ey + dy - c.peak.y));
    c.peak.x = c.ex + dx, c.peak.y = c.ey + dy;
  }
  dx = c.peak.x - c.ex, dy = c.peak.y - c.ey;
  c.peak.height = s[0] + gx * dx + gy * dy + 0.5 * (hxx * dx * dx + 2.0 * hxy * dx * dy + hyy * dy * dy);
  if (c.left > 1 && (step < LEAST_STEPS || moved > SHORT_STEP)) {
    c.left--;
    return;
  }
  const bool lost = steps && (fabs(c.peak.x - c.peak.px) > REACH || fabs(c.peak.y - c.peak.py) > REACH);
  if (lost) c.peak.x = c.start_x, c.peak.y = c.start_y;
  c.left = lost ? 0 : -1;
}

extern "C" __global__ void __launch_bounds__(128)
    parabola_peaks(const float* __restrict__ maps, const int* __restrict__ px, const int* __restrict__ py,
                   const int* __restrict__ count, double* __restrict__ x, double* __restrict__ y,
                   double* __restrict__ height, long long all, int nx, int ny, int most, int climb, int whole) {
  const offset_t k = offset_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (k >= all) return;
  const offset_t pattern = k / most;
  if (k - pattern * most >= count[pattern]) {
    x[k] = y[k] = height[k] = nan_value();
    return;
  }
  const float* map = maps + pattern * nx * ny;
  if (whole) {
    x[k] = px[k], y[k] = py[k], height[k] = map[wrap(px[k], nx) * ny + wrap(py[k], ny)];
    return;
  }
  const Peak peak = start_of(map, nx, ny, px[k], py[k], climb);
  x[k] = peak.x, y[k] = peak.y, height[k] = peak.height;
}

// Newton steps of all peaks of a pattern. `memories` are those of the block's teams, which have eight peaks each and
// pass over the map at the same time.
template <int COLUMNS>
DEVICE void climb_peaks(TeamMemory* memories, const Team& team, const float* __restrict__ maps,
                        const int* __restrict__ px, const int* __restrict__ py, const int* __restrict__ count,
                        const float* __restrict__ tx, const float* __restrict__ ty, double* __restrict__ x,
                        double* __restrict__ y, double* __restrict__ height, int nx, int ny, int most, int climb,
                        int half, int splits) {
  TeamMemory& w = memories[team.number];
  const offset_t pattern = blockIdx.x;
  const float* map = maps + pattern * nx * ny;
  const int found = count[pattern], thread = team.thread, together = team.teams * PEAKS;
  for (int first = blockIdx.y * together; first < most; first += gridDim.y * together) {
    const int peak = first + team.number * PEAKS + thread;
    const offset_t k = pattern * most + peak;
    const bool slot = thread < PEAKS && peak < most, some = slot && peak < found;
    if (slot && !some) x[k] = y[k] = height[k] = nan_value();
    if (first >= found) continue;
    if (thread < PEAKS) {
      Climb& c = w.climbs[thread];
      c.peak = some ? start_of(map, nx, ny, px[k], py[k], climb) : Peak{0.0, 0.0, 0.0, 0, 0};
      c.start_x = c.peak.x, c.start_y = c.peak.y;
      c.left = some ? MOST_STEPS : -1;
    }
    bool more = true, busy = peak - thread < found;  // some peak of the block, of this team, is not finished
    for (int step = 1; more; step++) {
      if (thread < PEAKS) {
        Climb& c = w.climbs[thread];
        set_point(w, thread, c.left >= 0, c.peak.x, c.peak.y, nx, ny, c.ex, c.ey);
      }
      interpolate<COLUMNS>(map, tx, ty, nx, ny, half, busy ? splits : 0, team, w);
      if (thread < 32) {
        const bool now = thread < PEAKS && w.climbs[thread].left >= 0;
        if (now) newton(w.climbs[thread], w.sum + thread, step);
        const bool again = __any_sync(FULL_WARP, now && w.climbs[thread].left >= 0);
        if (thread == 0) w.again = again;
      }
      __syncthreads();
      busy = w.again, more = false;
      for (int t = 0; t < team.teams; t++) more |= memories[t].again != 0;
    }
    if (some) x[k] = w.climbs[thread].peak.x, y[k] = w.climbs[thread].peak.y, height[k] = w.climbs[thread].peak.height;
  }
}

extern "C" __global__ void __launch_bounds__(128, RESIDENT)
    newton_peaks(const float* __restrict__ maps, const int* __restrict__ px, const int* __restrict__ py,
                 const int* __restrict__ count, const float* __restrict__ tx, const float* __restrict__ ty,
                 double* __restrict__ x, double* __restrict__ y, double* __restrict__ height, int nx, int ny, int most,
                 int climb, int half, int splits) {
  __shared__ TeamMemory w;
  climb_peaks<2>(&w, Team(blockDim.x), maps, px, py, count, tx, ty, x, y, height, nx, ny, most, climb, half, splits);
}

extern "C" __global__ void __launch_bounds__(3 * WIDE, 2)
    newton_peaks_wide(const float* __restrict__ maps, const int* __restrict__ px, const int* __restrict__ py,
                      const int* __restrict__ count, const float* __restrict__ tx, const float* __restrict__ ty,
                      double* __restrict__ x, double* __restrict__ y, double* __restrict__ height, int nx, int ny,
                      int most, int climb, int half, int splits) {
  DYNAMIC_SHARED(TeamMemory, memories);
  climb_peaks<4>(memories, Team(WIDE), maps, px, py, count, tx, ty, x, y, height, nx, ny, most, climb, half, splits);
}

// Samples at 1/phases px of one peak's window, from number (qx, qy) on: `rows` x `columns` of them, to
// window[row][column]
DEVICE void window_rows(const float* __restrict__ map, const float* __restrict__ tx, const float* __restrict__ ty,
                        int nx, int ny, int phases, int qx, int rows, int qy, int columns, int half, int splits,
                        TeamMemory& w, float* line, float* window) {
  const Team team(blockDim.x);
  const int split = threadIdx.x / half, column = threadIdx.x % half;
  __syncthreads();
  if (threadIdx.x < SLOTS) {
    w.base[threadIdx.x] = int(threadIdx.x) < rows ? weights_begin(qx + int(threadIdx.x), 0, phases, nx) : -1;
  }
  for (int tile = 0; tile < ny; tile += 2 * half) {
    const int left = tile + column, right = left + half;
    const bool active = split < splits;
    float sums[SLOTS][2];
    row_sums(map, tx, nx, ny, {left < ny ? left : 0, right < ny ? right : 0}, split, splits, team, w, sums);
    if (active) {
      UNROLL for (int s = 0; s < SLOTS; s++) {
        line[s * LINE + 2 * half * split + column] = sums[s][0];
        line[s * LINE + 2 * half * split + half + column] = sums[s][1];
      }
    }
    __syncthreads();
    const int width = ny - tile < 2 * half ? ny - tile : 2 * half;
    for (int k = threadIdx.x; k < rows * columns; k += blockDim.x) {
      const float* along = ty + weights_begin(qy + k / rows, 0, phases, ny) + tile;
      const float* sums_of = line + (k % rows) * LINE;
      float v = 0.0f;
      for (int j = 0; j < width; j++) {
        float s = sums_of[j];
        for (int q = 1; q < splits; q++) s += sums_of[2 * half * q + j];
        v += s * along[j];
      }
      float* out = window + (k % rows) * columns + k / rows;
      *out = tile ? *out + v : v;
    }
  }
  __syncthreads();
}

extern "C" __global__ void __launch_bounds__(128, RESIDENT)
    window_peaks(const float* __restrict__ maps, const int* __restrict__ px, const int* __restrict__ py,
                 const int* __restrict__ count, const float* __restrict__ tx, const float* __restrict__ ty,
                 double* __restrict__ x, double* __restrict__ y, double* __restrict__ height, int nx, int ny, int most,
                 int climb, int half, int splits, int upsample) {
  DYNAMIC_SHARED(float, memory);
  TeamMemory& w = *reinterpret_cast<TeamMemory*>(memory);
  float* line = memory + sizeof(TeamMemory) / sizeof(float);
  float* window = line + SLOTS * LINE;
  const offset_t pattern = blockIdx.x;
  const float* map = maps + pattern * nx * ny;
  const int found = count[pattern], thread = threadIdx.x, reach = (3 * upsample + 3) / 4 + 1, side = 2 * reach + 1;
  for (int peak = blockIdx.y; peak < most; peak += gridDim.y) {
    const offset_t k = pattern * most + peak;
    if (peak >= found) {
      if (thread == 0) x[k] = y[k] = height[k] = nan_value();
      continue;
    }
    const Peak start = start_of(map, nx, ny, px[k], py[k], climb);
    const int qx = int(rint(start.x * upsample)) - reach, qy = int(rint(start.y * upsample)) - reach;
    float best = -3.4e38f;
    int where = side + 1;  // place of the largest sample that is not on the border; of equal ones the first
    for (int a = 1; a < side - 1; a += SLOTS) {
      const int rows = side - 1 - a < SLOTS ? side - 1 - a : SLOTS;
      window_rows(map, tx, ty, nx, ny, upsample, qx + a, rows, qy + 1, side - 2, half, splits, w, line, window);
      for (int i = 0; i < rows * (side - 2); i++) {  // every thread does the same: the samples are few
        if (window[i] > best) best = window[i], where = (a + i / (side - 2)) * side + 1 + i % (side - 2);
      }
    }
    const int a = where / side, b = where % side;
    window_rows(map, tx, ty, nx, ny, upsample, qx + a - 1, 3, qy + b - 1, 3, half, splits, w, line, window);
    if (thread == 0) {
      double dx, dy, value;
      parabola([&](int i, int j) { return window[3 * (1 + i) + 1 + j]; }, dx, dy, value);
      x[k] = (qx + a + dx) / upsample, y[k] = (qy + b + dy) / upsample, height[k] = value;
    }
  }
}

// Cov = H^-1 G H^-1: H the Hessian of the n = 1 map, G = sum of counts x gradient products of the template about the
// peak
//   counts, cross (n, nx, ny);  box (4, 2 hx + 1, 2 hy + 1): K^2, Kx^2, Kx Ky, Ky^2 of the template, centred
template <int COLUMNS>
DEVICE void errors_of_peaks(TeamMemory* memories, const Team& team, const float* __restrict__ counts,
                        const float* __restrict__ cross, const float* __restrict__ box, const double* __restrict__ x,
                        const double* __restrict__ y, const int* __restrict__ count, const float* __restrict__ tx,
                        const float* __restrict__ ty, double* __restrict__ sx, double* __restrict__ sy, int nx, int ny,
                        int most, int hx, int hy, int grid, int half, int splits) {
  TeamMemory& w = memories[team.number];
  const offset_t pattern = blockIdx.x;
  const float *map = cross + pattern * nx * ny, *frame = counts + pattern * nx * ny;
  const int found = count[pattern], thread = team.thread, lane = thread & 31, wy = 2 * hy + 1, area = (2 * hx + 1) * wy;
  const int together = team.teams * PEAKS;
  for (int all = blockIdx.y * together; all < most; all += gridDim.y * together) {
    const int first = all + team.number * PEAKS;  // of the team's peaks
    const offset_t k = pattern * most + first + thread;
    const bool slot = thread < PEAKS && first + thread < most, some = slot && first + thread < found;
    if (slot && !some) sx[k] = sy[k] = nan_value();
    if (all >= found) continue;
    double ex, ey;
    if (thread < PEAKS) set_point(w, thread, some, some ? x[k] : 0.0, some ? y[k] : 0.0, nx, ny, ex, ey);
    interpolate<COLUMNS>(map, tx, ty, nx, ny, half, first < found ? splits : 0, team, w);
    for (int p = thread >> 5; p < PEAKS && first + p < found; p += team.threads >> 5) {
      const offset_t at = pattern * most + first + p;
      const int top = int(rint(x[at])) - hx, left = int(rint(y[at])) - hy;
      float gxx = 0.0f, gxy = 0.0f, gyy = 0.0f;
      for (int a = 0; a <= 2 * hx; a++) {
        const float* row = frame + wrap(top + a, nx) * ny;
        for (int b = lane; b < wy; b += 32) {
          const float v = row[wrap(left + b, ny)], clean = v > 0.0f ? v : 0.0f;
          const float* moment = box + area + a * wy + b;
          gxx += clean * moment[0];
          gxy += clean * moment[area];
          gyy += clean * moment[2 * area];
        }
      }
      gxx = warp_sum(gxx);
      gxy = warp_sum(gxy);
      gyy = warp_sum(gyy);
      if (lane == 0) w.noise[0][p] = gxx, w.noise[1][p] = gxy, w.noise[2][p] = gyy;
    }
    __syncthreads();
    if (some) {
      const double hxx = w.sum[3 * PEAKS + thread], hxy = w.sum[4 * PEAKS + thread], hyy = w.sum[5 * PEAKS + thread];
      const double gxx = w.noise[0][thread], gxy = w.noise[1][thread], gyy = w.noise[2][thread];
      const double det = hxx * hyy - hxy * hxy, pixel = grid ? 1.0 / 12.0 : 0.0;
      const double a = hyy / det, b = -hxy / det, c = hxx / det;
      const double vx = a * (a * gxx + b * gxy) + b * (a * gxy + b * gyy),
                   vy = b * (b * gxx + c * gxy) + c * (b * gxy + c * gyy);
      const bool peak = det > 0.0 && hxx < 0.0;
      sx[k] = peak && vx > 0.0 ? sqrt(vx + pixel) : nan_value();
      sy[k] = peak && vy > 0.0 ? sqrt(vy + pixel) : nan_value();
    }
  }
}

extern "C" __global__ void __launch_bounds__(128, RESIDENT)
    peak_errors(const float* __restrict__ counts, const float* __restrict__ cross, const float* __restrict__ box,
                const double* __restrict__ x, const double* __restrict__ y, const int* __restrict__ count,
                const float* __restrict__ tx, const float* __restrict__ ty, double* __restrict__ sx,
                double* __restrict__ sy, int nx, int ny, int most, int hx, int hy, int grid, int half, int splits) {
  __shared__ TeamMemory w;
  errors_of_peaks<2>(&w, Team(blockDim.x), counts, cross, box, x, y, count, tx, ty, sx, sy, nx, ny, most, hx, hy, grid,
                     half, splits);
}

extern "C" __global__ void __launch_bounds__(3 * WIDE, 2)
    peak_errors_wide(const float* __restrict__ counts, const float* __restrict__ cross, const float* __restrict__ box,
                     const double* __restrict__ x, const double* __restrict__ y, const int* __restrict__ count,
                     const float* __restrict__ tx, const float* __restrict__ ty, double* __restrict__ sx,
                     double* __restrict__ sy, int nx, int ny, int most, int hx, int hy, int grid, int half,
                     int splits) {
  DYNAMIC_SHARED(TeamMemory, memories);
  errors_of_peaks<4>(memories, Team(WIDE), counts, cross, box, x, y, count, tx, ty, sx, sy, nx, ny, most, hx, hy, grid,
                     half, splits);
}
