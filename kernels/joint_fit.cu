// joint_fit.cu -- Poisson fit of the disks of a group together, by Fisher scoring.
//   patterns  (n, nx, ny) of type `kind`   counts, y fastest
//   x, y, height (n, K) double, role (n, K) int32      starts; heights to compare; 0: no disk, 1: fitted alone, 2: not
//             fitted yet, 3: hidden
//   mask      (nx, ny) bytes               0 = does not count; null = all count
//   table     (P + 1, P + 1, 3, m) float32 D, dD/dx, dD/dy at sub-pixel phases;   pixels (m, 3) int32: offsets from the
//             middle, rows in order, and zone
//   out       (8, n, K) double             x, y, amplitude, background, xx, xy, yy, significance; ok, gone (n, K) bytes
//   doubles, floats, ints                  work memory, so many of each for a block (joint_equations.cuh: Area)
// A block of 128 threads takes a pattern after the other, n / blocks of them, and its groups one after the other.
// Model: pixels of all windows over the threads. Normal equations: a warp an entry of 3 × 3 or 5 × 5 (pairs of disks,
// disk and node, node and node), lanes over the pixels, sums by shuffles, eight at a time. Then Cholesky in double.
// bytes: counts of the windows; work memory stays in L2. flops: 50 a pixel, step and pair of disks that overlap (3
// parameters). bound: a group of two: issue slots and barriers (4 + 3 (S / 8) a step). A lattice of overlapping disks:
// double precision.
// -D PER_DISK=3 compiles one kernel alone, which is what the launcher asks for.
// budget(joint_fit_3): 128 registers, 1024 bytes shared
// budget(joint_fit_5): 168 registers, 1024 bytes shared
#include "joint_fit.cuh"

template <int ROWS>
DEVICE void fit_patterns(AnyPixels patterns, const double* x, const double* y, const double* height, const int* role,
                         double shadow, double* out, u8* ok, u8* gone, const joint::Model& given, double* doubles,
                         float* floats, int* ints, long long some_doubles, long long some_floats, long long some_ints,
                         int n, int most, int nodes) {
  __shared__ joint::Shared shared;
  if (threadIdx.x == 0) {
    shared.model = given;
    shared.model.half = -given.pixels[0];
    shared.area.carve(doubles + blockIdx.x * some_doubles, floats + blockIdx.x * some_floats,
                      ints + blockIdx.x * some_ints, most, nodes, ROWS, given.m, shared.model.side());
  }
  __syncthreads();
  joint::begin(shared);
  for (int i = blockIdx.x; i < n; i += gridDim.x) {
    const offset_t at = offset_t(i) * most;
    if (threadIdx.x == 0) {
      shared.image = patterns.from(offset_t(i) * given.nx * given.ny);
      shared.places = {x + at, y + at, height + at, role + at, most};
      shared.answer = {out + at, offset_t(n) * most, ok + at, gone + at};
    }
    __syncthreads();
    joint::fit_pattern<ROWS>(shadow, shared);
  }
}

#define INSTANCE_OF(ROWS)                                                                                              \
  extern "C" __global__ void __launch_bounds__(joint::THREADS, ROWS == 3 ? 4 : 3) joint_fit_##ROWS(                    \
      const void* patterns, int kind, const double* x, const double* y, const double* height, const int* role,         \
      const u8* mask, const float* table, const int* pixels, double* out, u8* ok, u8* gone, double* doubles,           \
      float* floats, int* ints, long long some_doubles, long long some_floats, long long some_ints, int n, int nx,     \
      int ny, int most, int m, int phases, int nodes, int flat, double spacing, double shadow, double significance) {  \
    const joint::Model model = {nx, ny, m, 0, phases, table, pixels, mask, flat != 0, spacing, significance, 0.0};     \
    fit_patterns<ROWS>({patterns, kind}, x, y, height, role, shadow, out, ok, gone, model, doubles, floats, ints,      \
                       some_doubles, some_floats, some_ints, n, most, nodes);                                          \
  }
#define INSTANCE(ROWS) INSTANCE_OF(ROWS)
#ifdef PER_DISK
INSTANCE(PER_DISK)
#else
INSTANCE(3)
INSTANCE(5)
#endif
