// gather_pixels.cu -- chosen pixels of every pattern, pixel by pixel: a transposed gather.
//   frames  (n, pixels)  native dtype
//   index   (chosen)     int64, 0 ... pixels - 1, in rising order where reading is to be cheap
//   out     (chosen, n)  native dtype (gather_native) or float (gather_float)
//
// Grid (pattern tiles, pixel tiles), block (32, 8), a tile of 32 patterns x 32 pixels. A warp reads 32 chosen pixels
// of one pattern, which are neighbours along detector rows, and writes 32 patterns of one pixel. The tile is transposed
// in shared memory, whose rows are padded against bank conflicts.
//
// bytes: a chosen pixel once in, once out.   flops: 0.   bound: memory.
//
// budget: 32 registers, 4224 bytes shared
#include "common.cuh"

#define TILE 32

template <class Pixel, class Out>
DEVICE void gather(const Pixel* __restrict__ frames, const offset_t* __restrict__ index, Out* __restrict__ out,
                   offset_t n, offset_t pixels, int chosen) {
  __shared__ Out tile[TILE][TILE + 1];
  const offset_t first = (offset_t)blockIdx.x * TILE;
  const int p = blockIdx.y * TILE + threadIdx.x;
  if (p < chosen) {
    const offset_t at = index[p];
    for (int row = threadIdx.y; row < TILE && first + row < n; row += blockDim.y)
      tile[row][threadIdx.x] = Out(frames[(first + row) * pixels + at]);
  }
  __syncthreads();
  const offset_t pattern = first + threadIdx.x;
  if (pattern < n)
    for (int row = threadIdx.y; row < TILE && (int)(blockIdx.y * TILE) + row < chosen; row += blockDim.y)
      out[((offset_t)blockIdx.y * TILE + row) * n + pattern] = tile[threadIdx.x][row];
}

#define INSTANCE(KIND, NAME, Pixel, Out)                                                           \
  extern "C" __global__ void __launch_bounds__(256)                                                \
      gather_##KIND##_##NAME(const Pixel* __restrict__ frames, const offset_t* __restrict__ index, \
                             Out* __restrict__ out, offset_t n, offset_t pixels, int chosen) {     \
    gather<Pixel, Out>(frames, index, out, n, pixels, chosen);                                     \
  }
INSTANCE(native, u8, u8, u8)
INSTANCE(native, u16, u16, u16)
INSTANCE(native, u32, u32, u32)
INSTANCE(native, f32, float, float)
INSTANCE(float, u8, u8, float)
INSTANCE(float, u16, u16, float)
INSTANCE(float, u32, u32, float)
INSTANCE(float, f32, float, float)
