// center_of_mass.cu -- sum and first moments of every pattern, exact for counts.
//   patterns  (n, nx, ny)  native dtype, y fastest
//   mask      (nx, ny)     bytes, 0 = does not count; null = all count
//   moments   (n, 3)       sum, sum x, sum y: int64 of counts, double of float32
// One block of 256 threads a pattern; thread t takes pixels t, t + 256, ... so that a warp reads whole sectors.
// bytes: the pattern once, and 24 out.   flops: 4 a pixel.   bound: memory.
// budget: 40 registers, 256 bytes shared
#include "common.cuh"

template <class Pixel, class Sum>
DEVICE void first_moments(const Pixel* __restrict__ patterns, const u8* __restrict__ mask, Sum* __restrict__ moments,
                          int nx, int ny) {
  __shared__ Sum part[32];
  const offset_t pattern = blockIdx.x;
  const int pixels = nx * ny;
  const Pixel* frame = patterns + pattern * pixels;
  Sum total = 0, mx = 0, my = 0;
  // x and y are carried along: a division a pixel would cost more than the rest
  int x = threadIdx.x / ny, y = threadIdx.x % ny;
  const int dx = blockDim.x / ny, dy = blockDim.x % ny;
  for (int i = threadIdx.x; i < pixels; i += blockDim.x) {
    if (!mask || mask[i]) {
      const Sum v = Sum(frame[i]);
      total += v;
      mx += v * x;
      my += v * y;
    }
    x += dx;
    y += dy;
    if (y >= ny) y -= ny, x++;
  }
  total = block_sum(total, part);
  mx = block_sum(mx, part);
  my = block_sum(my, part);
  if (threadIdx.x == 0) {
    Sum* out = moments + pattern * 3;
    out[0] = total, out[1] = mx, out[2] = my;
  }
}

#define INSTANCE(NAME, Pixel, Sum)                                                                          \
  extern "C" __global__ void __launch_bounds__(256) first_moments_##NAME(                                   \
      const Pixel* __restrict__ patterns, const u8* __restrict__ mask, Sum* __restrict__ moments, int nx, int ny) { \
    first_moments<Pixel, Sum>(patterns, mask, moments, nx, ny);                                             \
  }
INSTANCE(u8, u8, long long)
INSTANCE(u16, u16, long long)
INSTANCE(u32, u32, long long)
INSTANCE(f32, float, double)
