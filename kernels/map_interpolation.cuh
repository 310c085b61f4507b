// map_interpolation.cuh -- value, gradient and Hessian of the trigonometric interpolation of a map in global memory, at
// one point for each of eight peaks, by a team of threads. refine.cuh does the same for maps in shared memory. The
// interpolation is separable: with C the map, its values are d(x) . C . d(y), d the periodic sinc or one of its
// derivatives from the tables tx and ty (see refine_disks.cu). A thread of the team holds 24 weighted sums (three bases
// of eight peaks) of its map columns. The 24 weights of a row come from shared memory by six broadcast loads. All
// columns of the team then meet in 48 sums: six for each peak.
#pragma once
#include "common.cuh"
#include "eight_sums.cuh"

constexpr int THREADS = 128, WARPS = THREADS / 32;
constexpr int WIDE = 64;          // threads of a team of the wide kernels; a block has up to three teams
constexpr int PEAKS = 8;          // of a pattern that share a pass over its map
constexpr int SLOTS = 3 * PEAKS;  // weighted sums of a column
constexpr int PITCH = SLOTS + 4;  // of a row's weights: stores go to 8 banks instead of 4
constexpr int CHUNK = 128;        // map rows whose weights are in shared memory at a time
constexpr int SUMS = 6;           // value, d/dx, d/dy, dxx, dxy, dyy
constexpr int ORDER_X[SUMS] = {0, 1, 0, 2, 1, 0}, ORDER_Y[SUMS] = {0, 0, 1, 0, 1, 2};
constexpr int PHASES = 64;  // table entries a pixel

struct Peak {
  double x, y, height;
  int px, py;
};

// A peak during its Newton steps. `left` is the number of steps it may still make, 0 where only its height is missing,
// -1 where it is finished.
struct Climb {
  Peak peak;
  double start_x, start_y, ex, ey;
  int left;
};

// Shared memory of a team, which is the threads that work on eight peaks of a pattern.
struct TeamMemory {
  alignas(16) float weight[CHUNK * PITCH];
  float part[WARPS][SUMS * PEAKS];
  float sum[SUMS * PEAKS];
  int base[SLOTS], base_y[PEAKS];  // first weights of the map's rows in tx, and of its columns in ty
  Climb climbs[PEAKS];  // not in registers: only eight threads need them, and the loop over rows needs all registers
  float noise[3][PEAKS];
  int again;
};

// A thread's number in its team, the team's number in the block, and how large they are.
struct Team {
  int thread, threads, number, teams;
  DEVICE explicit Team(int size) {
    thread = threadIdx.x % size, threads = size;
    number = threadIdx.x / size, teams = blockDim.x / size;
  }
};

DEVICE int wrap(int i, int n) {
  i %= n;
  return i < 0 ? i + n : i;
}

// Index of the first weight in a table for point number q of `phases` a pixel, derivative `order`.
DEVICE int weights_begin(int q, int order, int phases, int n) {
  const int phase = wrap(q, phases);
  return (order * phases + phase) * 2 * n + n - wrap((q - phase) / phases, n);
}

// sums[slot][c] += sum over map rows of this thread's split of weight[slot] x map, in columns `at`
template <int COLUMNS>
DEVICE void row_sums(const float* __restrict__ map, const float* __restrict__ tx, int nx, int ny,
                     const int (&at)[COLUMNS], int split, int splits, const Team& team, TeamMemory& w,
                     float (&sums)[SLOTS][COLUMNS]) {
  UNROLL for (int s = 0; s < SLOTS; s++) UNROLL for (int c = 0; c < COLUMNS; c++) sums[s][c] = 0.0f;
  for (int first = 0; first < nx; first += CHUNK) {
    const int rows = nx - first < CHUNK ? nx - first : CHUNK;
    __syncthreads();
    for (int k = team.thread; k < CHUNK * SLOTS; k += team.threads) {
      const int slot = k / CHUNK, i = k % CHUNK, base = w.base[slot];
      if (i >= rows) continue;
      w.weight[i * PITCH + slot] = base < 0 ? 0.0f : tx[base + first + i];
    }
    __syncthreads();
    if (split >= splits) continue;  // threads after the last whole row set only load weights
    const float* row = map + (first + split) * ny;
    const float4* weight = reinterpret_cast<const float4*>(w.weight + split * PITCH);
#pragma unroll(COLUMNS == 2 ? 2 : 1)
    for (int i = split; i < rows; i += splits) {
      float v[COLUMNS];
      UNROLL for (int c = 0; c < COLUMNS; c++) v[c] = row[at[c]];
      UNROLL for (int q = 0; q < SLOTS / 4; q++) {
        const float4 f = weight[q];
        UNROLL for (int c = 0; c < COLUMNS; c++) {
          sums[4 * q][c] += f.x * v[c];
          sums[4 * q + 1][c] += f.y * v[c];
          sums[4 * q + 2][c] += f.z * v[c];
          sums[4 * q + 3][c] += f.w * v[c];
        }
      }
      row += splits * ny;
      weight += splits * (PITCH / 4);
    }
  }
}

// Write value, gradient and Hessian of the interpolation at the points of the slots to w.sum, [SUMS][PEAKS]. A team
// without peaks (splits = 0) only takes part in the barriers.
template <int COLUMNS>
DEVICE void interpolate(const float* __restrict__ map, const float* __restrict__ tx, const float* __restrict__ ty,
                        int nx, int ny, int half, int splits, const Team& team, TeamMemory& w) {
  constexpr bool WHOLE = COLUMNS == 4;  // rows fill the tiles, so the compiler knows the distances of the columns
  if constexpr (WHOLE) half = WIDE;
  const int split = team.thread / half, column = team.thread % half, warp = team.thread >> 5, lane = threadIdx.x & 31;
  for (int tile = 0; tile < ny; tile += COLUMNS * half) {
    int at[COLUMNS];
    bool there[COLUMNS];
    UNROLL for (int c = 0; c < COLUMNS; c++) {
      at[c] = tile + column + c * half;
      there[c] = split < splits && (WHOLE || at[c] < ny);
      if (!WHOLE && !there[c]) at[c] = 0;
    }
    float sums[SLOTS][COLUMNS];
    row_sums(map, tx, nx, ny, at, split, splits, team, w, sums);
    unrolled<0, SUMS>([&](auto number) {  // one of the six at a time, to save registers
      constexpr int q = decltype(number)::value, along_x = ORDER_X[q], along_y = ORDER_Y[q];
      float total[PEAKS];
      UNROLL for (int p = 0; p < PEAKS; p++) {
        const float* along = ty + w.base_y[p] + along_y * PHASES * 2 * ny;
        total[p] = 0.0f;
        UNROLL for (int c = 0; c < COLUMNS; c++) if (there[c]) total[p] += sums[along_x * PEAKS + p][c] * along[at[c]];
      }
      const float v = eight_sums(total);
      float* part = &w.part[warp][q * PEAKS];
      if (lane < PEAKS) part[lane] = tile ? part[lane] + v : v;
    });
  }
  __syncthreads();
  if (team.thread < SUMS * PEAKS) {
    float v = 0.0f;
    for (int i = 0; i < (team.threads >> 5); i++) v += w.part[i][team.thread];
    w.sum[team.thread] = v;
  }
  __syncthreads();
}

// Set the three slots of peak p to the table entry nearest to (x, y). (ex, ey) becomes that point. Without a peak the
// weights are zero.
DEVICE void set_point(TeamMemory& w, int p, bool some, double x, double y, int nx, int ny, double& ex, double& ey) {
  const int qx = some ? int(floor(x * PHASES + 0.5)) : 0, qy = some ? int(floor(y * PHASES + 0.5)) : 0;
  UNROLL for (int m = 0; m < 3; m++) { w.base[m * PEAKS + p] = some ? weights_begin(qx, m, PHASES, nx) : -1; }
  w.base_y[p] = weights_begin(qy, 0, PHASES, ny);
  ex = qx / double(PHASES);
  ey = qy / double(PHASES);
}
