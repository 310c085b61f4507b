// add_patches.cu -- patches of planes added to them, each at its place: a gather, so that no two threads write one pixel.
//   values   (s, n, nx, ny)  float or float2: n patches of each of s planes
//   corners  (n, 2)          int32, where pixel [0, 0] of a patch lies
//   out      (s, px, py)     the planes
//
// Grid (column tiles, row tiles, planes), block (32, 8): a thread has one pixel of a plane and adds, in the order of the
// patches, what each patch has there. A warp reads 32 neighbours of a row. All threads of a block read the same corner; a
// patch that the tile does not touch is left out by all of them together.
//
// bytes: 4 or 8 a value of a patch, once; 4 or 8 a pixel out.   flops: 1 or 2 a value.
// bound: memory. Looking at a corner costs four comparisons a pixel, which counts where planes are much larger than patches.
//
// budget: 40 registers, 0 bytes shared
#include "common.cuh"

DEVICE float nothing(float) { return 0.0f; }
DEVICE float2 nothing(float2) { return make_float2(0.0f, 0.0f); }

template <class Value>
DEVICE void add(const Value* __restrict__ values, const int* __restrict__ corners, Value* __restrict__ out, int n, int nx,
                int ny, int px, int py) {
  const int column = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y * blockDim.y + threadIdx.y;
  const int left = blockIdx.x * blockDim.x, top = blockIdx.y * blockDim.y;
  const Value* patch = values + (offset_t)blockIdx.z * n * nx * ny;
  Value sum = nothing(Value());
  for (int i = 0; i < n; i++, patch += (offset_t)nx * ny) {
    const int x = corners[2 * i], y = corners[2 * i + 1];
    if (x >= top + (int)blockDim.y || x + nx <= top || y >= left + (int)blockDim.x || y + ny <= left) continue;
    const int u = row - x, v = column - y;
    if (u >= 0 && u < nx && v >= 0 && v < ny) sum = sum + patch[(offset_t)u * ny + v];
  }
  if (row < px && column < py) out[((offset_t)blockIdx.z * px + row) * py + column] = sum;
}

#define INSTANCE(NAME, Value)                                                                                      \
  extern "C" __global__ void __launch_bounds__(256)                                                                \
      add_##NAME(const Value* __restrict__ values, const int* __restrict__ corners, Value* __restrict__ out, \
                         int n, int nx, int ny, int px, int py) {                                                  \
    add<Value>(values, corners, out, n, nx, ny, px, py);                                                           \
  }
INSTANCE(real, float)
INSTANCE(complex, float2)
