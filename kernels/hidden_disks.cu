// hidden_disks.cu -- disks that brighter neighbours hide: fitted disks are subtracted, and what is left is searched.
//   patterns  (n, nx, ny) native dtype   counts, y fastest
//   x, y, amplitude (n, most) double;    state (n, most) bytes: 1 fitted, 2 placed, 0 none;   around (n) int32
//   table     (P + 1, P + 1, 3, m) float32   D, dD/dx, dD/dy at sub-pixel phases;   pixels (m, 3) int32: offsets
//             from the middle, rows in order, and zone
//   allowed   (nx, ny) bytes             0 = no disk may lie here;   mask the same, or null: 0 = does not count
//   cover     (2 margin + 1)^2 float32   part of a cell that a disk covers
//   count     (n) int64;   places (2, n, 16) double: x, y, NaN after the last
//   area      memory of the blocks, or null: it is dynamic shared memory then
// A block of four warps a pattern; what it does is in hidden_disks.cuh. The square about a disk has at most 29 x 29
// cells, 23 x 23 from a radius of 4 px on. One to 32 lanes add up a cell. Then a thread takes cells t, t + 128, ...
// through weights, moments, rest and z. One warp solves the systems of 6 and 7 equations in double precision, a row a
// lane.
//   launch: grid n, block 128, dynamic shared memory 25 bytes a cell, 32 a disk and 8 a row of the window: 9 kB for a
//           radius of 6 px and 96 disks. If the device has less, a grid of resident blocks and global memory. Five
//           blocks fit a multiprocessor (96 registers).
// For a square at a radius of 6 px (15 x 15 cells of 9 pixels, 9 disks in it), with the one look that most need:
//   bytes:  counts 4 kB from DRAM; 30 kB of the table, from L2.
//   flops:  30 k, of which 18 k to subtract disks; 500 in double precision, with 6 or 7 quotients one after the other.
//   bound:  latency: 20 warps a multiprocessor, about ten barriers. Estimated: 22 k warp instructions a pattern.
// -D PIXEL=u16 compiles one kernel alone, which is what the launcher asks for.
// budget: 96 registers, 1536 bytes shared
#include "hidden_disks.cuh"

constexpr int WARPS = 4;

template <class Pixel>
DEVICE void hidden_disks(const Pixel* patterns, const double* x, const double* y, const double* amplitude,
                         const u8* state, const int* around, const hidden::Search& search, long long* count,
                         double* places, u8* area, long long n, int most) {
  __shared__ hidden::Scratch<WARPS> scratch;
  DYNAMIC_SHARED(float4, shared);
  void* memory = shared;
  if (area) memory = area + blockIdx.x * hidden::work_bytes(search, most);
  for (offset_t pattern = blockIdx.x; pattern < n; pattern += gridDim.x) {
    const offset_t first = pattern * most;
    const hidden::Disks disks = {x + first, y + first, amplitude + first, state + first, most, around[pattern]};
    const Pixel* image = patterns + pattern * search.nx * search.ny;
    const int found = hidden::search<WARPS>(image, disks, search, memory, scratch);
    for (int k = threadIdx.x; k < 2 * hidden::MOST; k += 32 * WARPS) {
      const int place = k % hidden::MOST;
      double at = nan_value();
      if (place < found) at = k < hidden::MOST ? scratch.x[place] : scratch.y[place];
      places[(k / hidden::MOST * n + pattern) * hidden::MOST + place] = at;
    }
    if (threadIdx.x == 0) count[pattern] = found;
    __syncthreads();
  }
}

#define INSTANCE(NAME, Pixel)                                                                                          \
  extern "C" __global__ void __launch_bounds__(128, 5) hidden_disks_##NAME(                                            \
      const Pixel* __restrict__ patterns, const double* __restrict__ x, const double* __restrict__ y,                  \
      const double* __restrict__ amplitude, const u8* __restrict__ state, const int* __restrict__ around,              \
      const u8* __restrict__ mask, const u8* __restrict__ allowed, const float* __restrict__ table,                    \
      const int* __restrict__ pixels, const float* __restrict__ cover, long long* __restrict__ count,                  \
      double* __restrict__ places, u8* __restrict__ area, long long n, int most, int nx, int ny, int m,                \
      int phases, int rows, int size, int half, int margin, double radius, double least) {                             \
    const hidden::Search search = {nx,   ny,    mask, allowed, table,  pixels, m,    phases,                           \
                                   rows, cover, size, half,    margin, radius, least};                                 \
    hidden_disks(patterns, x, y, amplitude, state, around, search, count, places, area, n, most);                      \
  }
#ifdef PIXEL
typedef float f32;
#define INSTANCE_OF(Pixel) INSTANCE(Pixel, Pixel)
INSTANCE_OF(PIXEL)
#else
FOR_EACH_PIXEL(INSTANCE)
#endif
