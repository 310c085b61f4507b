// pack_masks.cu -- bool masks as bits, eight to a byte, as frame_reductions.cu reads them.
//   masks   (m, nx, ny)           bytes, 0 = outside the mask
//   planes  (planes, nx, pitch)   bytes: bit b of plane p is mask 8 p + b; 0 after the last mask and the last column
// One thread a byte of `planes`, blocks of 256.
// bytes: a byte a mask and pixel, read once, and a byte a plane and pixel.   bound: the time of a launch.
// budget: 32 registers, 0 bytes shared
#include "common.cuh"

extern "C" __global__ void __launch_bounds__(256)
    pack_masks(const u8* __restrict__ masks, u8* __restrict__ planes, int m, int nx, int ny, int pitch) {
  const offset_t i = offset_t(blockIdx.x) * blockDim.x + threadIdx.x, plane = offset_t(nx) * pitch;
  const int first = int(i / plane) * 8;
  if (first >= m) return;
  const int x = int(i % plane) / pitch, y = int(i % plane) % pitch;
  u32 bits = 0;
  if (y < ny) {
    for (int b = 0; b < min(8, m - first); b++) {
      bits |= u32(masks[(offset_t(first + b) * nx + x) * ny + y] != 0) << b;
    }
  }
  planes[i] = u8(bits);
}
