// distinct_orientations.cu -- the cheapest candidates of each pattern, without those that are nearly a cheaper one.
//   turns (n, c, 9) double, cost (n, c) double, phase (n, c) int64: candidates, v_lab = R v_crystal
//   images (r, 9) double: transposed rotations of all crystals;   owner (r) int64: crystal of each
//   order (n, picks) int64: numbers of candidates, -1 where there are fewer
// A warp a pattern, four in a block of 128 threads: lane t has candidates t, t + 32, ... Costs of those that are left are
// in shared memory, 8 c bytes a warp. For each pick the lanes agree on the cheapest, and each compares its own with it:
// tr(R^T R' P) for the rotations P of the crystal.
// bytes: 88 c + 8 picks a pattern, rotations from L1.   flops, double precision: picks c (45 + 18 r) at most, 16 k with
// 8 candidates left of 24 and 24 rotations.   bound: latency.
// budget: 64 registers, 0 bytes shared
#include "common.cuh"

constexpr int WARPS = 4;

DEVICE double infinity() { return __uint_as_float(0x7f800000u); }

struct Cheapest {
  double cost;
  int number;
};

// The cheapest candidate of a warp; of equal ones, the first
DEVICE Cheapest cheapest(const double* left, int c) {
  Cheapest best = {infinity(), 0};
  for (int k = threadIdx.x & 31; k < c; k += 32)
    if (left[k] < best.cost) best = {left[k], k};
  UNROLL for (int step = 16; step; step >>= 1) {
    const double cost = __shfl_xor_sync(FULL_WARP, best.cost, step);
    const int number = __shfl_xor_sync(FULL_WARP, best.number, step);
    if (cost < best.cost || (cost == best.cost && number < best.number)) best = {cost, number};
  }
  return best;
}

extern "C" __global__ void distinct_orientations(const double* __restrict__ turns, const double* __restrict__ cost,
                                                 const long long* __restrict__ phase, const double* __restrict__ images,
                                                 const long long* __restrict__ owner, long long* __restrict__ order,
                                                 long long patterns, int c, int r, int picks, double limit) {
  DYNAMIC_SHARED(double, memory);
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const offset_t pattern = offset_t(blockIdx.x) * WARPS + warp, first = pattern * c;
  if (pattern >= patterns) return;
  double* left = memory + warp * c;
  const double none = infinity();
  for (int k = lane; k < c; k += 32) left[k] = isfinite(cost[first + k]) ? cost[first + k] : none;
  for (int pick = 0; pick < picks; pick++) {
    const Cheapest best = cheapest(left, c);  // reads what this lane wrote
    const bool some = best.cost < none;
    if (lane == 0) order[pattern * picks + pick] = some ? best.number : -1;
    if (!some) continue;
    const double* one = turns + 9 * (first + best.number);
    const long long own = phase[first + best.number];
    for (int k = lane; k < c; k += 32) {
      if (!(left[k] < none) || phase[first + k] != own) continue;
      const double* other = turns + 9 * (first + k);
      double between[9];
      UNROLL for (int i = 0; i < 3; i++)
        UNROLL for (int j = 0; j < 3; j++)
          between[3 * i + j] = one[i] * other[j] + one[3 + i] * other[3 + j] + one[6 + i] * other[6 + j];
      bool near = k == best.number;
      for (int q = 0; q < r && !near; q++) {
        if (owner[q] != own) continue;
        double trace = 0;
        UNROLL for (int i = 0; i < 9; i++) trace += between[i] * images[9 * q + i];
        near = trace > limit;
      }
      if (near) left[k] = none;
    }
  }
}
