// count_electrons.cu -- electrons in raw frames: local maxima of 3 x 3 pixels between two thresholds, as a list.
//   frames         (n, nx, ny)       native dtype
//   level, scale   (nx, ny)          float: signal = (frame - level) scale, two roundings; level = inf: a bad pixel
//   bits           (n, strips, 256)  one bit a pixel in 32-bit words: set where an electron is
//   counts         (n, strips)       electrons of a strip of 256 words = 8192 pixels; summed up by the launcher
//   qx, qy, intensity  (m,)          the list, in the order of frames and pixels
//
// mark_electrons: one block of 256 threads a strip, a warp a word: a vote is the word, so no pixel is visited twice and
// only pixels over the threshold look at their neighbours. write_electrons: one thread a word, a scan over the block
// gives each its place behind the strip's own. Grid n * strips for both.
// bytes: frames once, a sixteenth of them in bits (uint16) written and read, 8 an electron; level and scale from L2.
// flops: 3 a pixel.   bound: memory.
//
// budget: 44 registers, 128 bytes shared
#include "common.cuh"

DEVICE float minus_infinity() { return __uint_as_float(0xff800000u); }

// Signal of a pixel in electrons; -infinity where there is none: outside, bad, not a number.
template <class Pixel>
DEVICE float signal(const Pixel* __restrict__ frame, const float* __restrict__ level, const float* __restrict__ scale,
                    int x, int y, int nx, int ny) {
  if (x < 0 || y < 0 || x >= nx || y >= ny) return minus_infinity();
  const int i = x * ny + y;
  const float v = (float(frame[i]) - level[i]) * scale[i];
  return v == v ? v : minus_infinity();
}

template <class Pixel>
DEVICE bool is_electron(const Pixel* __restrict__ frame, const float* __restrict__ level,
                        const float* __restrict__ scale, int i, float lower, float upper, int nx, int ny) {
  const float v = (float(frame[i]) - level[i]) * scale[i];
  if (!(v >= lower && v < upper)) return false;
  const int x = i / ny, y = i - x * ny;
  for (int dy = -1; dy <= 1; dy++)
    for (int dx = -1; dx <= 1; dx++) {
      const float other = signal(frame, level, scale, x + dx, y + dy, nx, ny);
      const bool first = dy < 0 || (dy == 0 && dx < 0);  // the neighbours a maximum must exceed
      if (first ? !(v > other) : !(v >= other)) return false;
    }
  return true;
}

template <class Pixel>
DEVICE void mark_electrons(const Pixel* __restrict__ frames, const float* __restrict__ level,
                           const float* __restrict__ scale, u32* __restrict__ bits, u32* __restrict__ counts,
                           float lower, float upper, int nx, int ny, int strips) {
  __shared__ u32 part[32];
  const offset_t frame = blockIdx.x / strips;
  const int first = (blockIdx.x % strips) * 8192, pixels = nx * ny;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const Pixel* here = frames + frame * pixels;
  u32* words = bits + offset_t(blockIdx.x) * 256;
  u32 found = 0;
  for (int word = warp; word < 256; word += 8) {
    const int i = first + word * 32 + lane;
    const bool electron = i < pixels && is_electron(here, level, scale, i, lower, upper, nx, ny);
    const u32 vote = __ballot_sync(FULL_WARP, electron);
    if (lane == 0) words[word] = vote, found += __popc(vote);
  }
  found = block_sum(found, part);
  if (threadIdx.x == 0) counts[blockIdx.x] = found;
}

template <class Pixel>
DEVICE void write_electrons(const Pixel* __restrict__ frames, const float* __restrict__ level,
                            const float* __restrict__ scale, const u32* __restrict__ bits,
                            const offset_t* __restrict__ starts, u16* __restrict__ qx, u16* __restrict__ qy,
                            float* __restrict__ intensity, int nx, int ny, int strips) {
  __shared__ u32 part[32];
  const offset_t frame = blockIdx.x / strips;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  u32 word = bits[offset_t(blockIdx.x) * 256 + threadIdx.x];
  const u32 mine = __popc(word);
  u32 upto = mine;
  UNROLL for (int step = 1; step < 32; step *= 2) {
    const u32 before = __shfl_up_sync(FULL_WARP, upto, step);
    if (lane >= step) upto += before;
  }
  if (lane == 31) part[warp] = upto;
  __syncthreads();
  offset_t at = starts[blockIdx.x] + upto - mine;
  for (int w = 0; w < warp; w++) at += part[w];
  const Pixel* here = frames + frame * nx * ny;
  const int first = (blockIdx.x % strips) * 8192 + threadIdx.x * 32;
  for (; word; word &= word - 1, at++) {
    const int i = first + __ffs(word) - 1;
    qx[at] = u16(i / ny);
    qy[at] = u16(i % ny);
    intensity[at] = (float(here[i]) - level[i]) * scale[i];
  }
}

#define INSTANCE(NAME, Pixel)                                                                                        \
  extern "C" __global__ void __launch_bounds__(256) mark_electrons_##NAME(                                           \
      const Pixel* __restrict__ frames, const float* __restrict__ level, const float* __restrict__ scale,            \
      u32* __restrict__ bits, u32* __restrict__ counts, float lower, float upper, int nx, int ny, int strips) {      \
    mark_electrons<Pixel>(frames, level, scale, bits, counts, lower, upper, nx, ny, strips);                         \
  }                                                                                                                  \
  extern "C" __global__ void __launch_bounds__(256) write_electrons_##NAME(                                          \
      const Pixel* __restrict__ frames, const float* __restrict__ level, const float* __restrict__ scale,            \
      const u32* __restrict__ bits, const offset_t* __restrict__ starts, u16* __restrict__ qx, u16* __restrict__ qy, \
      float* __restrict__ intensity, int nx, int ny, int strips) {                                                   \
    write_electrons<Pixel>(frames, level, scale, bits, starts, qx, qy, intensity, nx, ny, strips);                   \
  }
FOR_EACH_PIXEL(INSTANCE)
