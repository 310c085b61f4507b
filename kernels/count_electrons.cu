// count_electrons.cu -- electrons in raw frames: local maxima of 3 x 3 pixels between two thresholds, as a list.
//   frames         (n, nx, ny)       native dtype
//   dark, gain, mask  (nx, ny)       double, double, bytes (0 = does not count); null = a gain of one, all count
//   level, scale   (nx, ny)          float: signal = (frame - level) scale, two roundings; level = inf: a bad pixel
//   bits           (n, strips, 256)  one bit a pixel in 32-bit words: set where an electron is
//   counts         (n, strips)       electrons of a strip of 256 words = 8192 pixels
//   starts         (n strips + 1)    where the electrons of a strip begin in the list;  offsets (n + 1): of a frame
//   qx, qy, intensity  (m,)          the list, in the order of frames and pixels
//
// level_and_scale: one thread a pixel, in double, rounded once at the end. mark_electrons: one block of 256 threads
// for a strip of four frames, and a warp for one word of each. Level and scale are read once for four frames, and six
// loads are under way before the first value is used. A vote of the warp gives the word, so that each pixel is read
// once. Only pixels over the threshold are compared with their neighbours. add_strips: one block of 1024 threads adds
// all counts, 8192 at a time, each thread eight neighbours. write_electrons: one block a strip, one thread a word. A
// scan over the block gives each thread its place after the start of the strip. bytes: frames once, a sixteenth of
// them in bits (uint16) written and read, 8 an electron; 2 a pixel of level and
// scale from L2; 12 a strip.
// flops: 3 a pixel.   bound: memory.
//
// budget: 48 registers, 128 bytes shared
#include "common.cuh"

constexpr int FRAMES = 4;   // that share level and scale of a pixel
constexpr int WORDS = 256;  // of a strip

DEVICE float minus_infinity() { return __uint_as_float(0xff800000u); }

// Signal of a pixel in electrons; -infinity where there is none: outside the frame, at a bad pixel, or for a NaN.
template <class Pixel>
DEVICE float signal(const Pixel* __restrict__ frame, const float* __restrict__ level, const float* __restrict__ scale,
                    int x, int y, int nx, int ny) {
  if (x < 0 || y < 0 || x >= nx || y >= ny) return minus_infinity();
  const int i = x * ny + y;
  const float v = (float(frame[i]) - level[i]) * scale[i];
  return v == v ? v : minus_infinity();
}

// Whether pixel i, whose signal is between the thresholds, is a maximum of its neighbourhood.
template <class Pixel>
DEVICE bool is_maximum(const Pixel* __restrict__ frame, const float* __restrict__ level,
                       const float* __restrict__ scale, int i, int nx, int ny) {
  const float v = (float(frame[i]) - level[i]) * scale[i];
  const int x = i / ny, y = i - x * ny;
#pragma unroll 1  // not unrolled, to save registers: few pixels come here
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
                           float lower, float upper, int n, int nx, int ny, int strips) {
  __shared__ u32 part[32];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, strip = blockIdx.x % strips, pixels = nx * ny;
  const offset_t frame = offset_t(blockIdx.x / strips) * FRAMES;
  const int some = n - frame < FRAMES ? int(n - frame) : FRAMES;
  const Pixel* here = frames + frame * pixels;
  u32* words = bits + (frame * strips + strip) * WORDS;
  u32 found = 0;  // lane f counts those of frame f
  for (int word = warp; word < WORDS; word += 8) {
    const int i = (strip * WORDS + word) * 32 + lane;
    const bool there = i < pixels;
    Pixel value[FRAMES];
    UNROLL for (int f = 0; f < FRAMES; f++) value[f] = there && f < some ? here[offset_t(f) * pixels + i] : Pixel(0);
    const float from = there ? level[i] : 0.0f, times = there ? scale[i] : 0.0f;  // no signal outside: lower is above 0
    u32 over = 0;  // bit f: between the thresholds in frame f
    UNROLL for (int f = 0; f < FRAMES; f++) {
      const float v = (float(value[f]) - from) * times;
      over |= u32(v >= lower && v < upper) << f;
    }
#pragma unroll 1  // not unrolled: few pixels reach the comparison with neighbours
    for (int f = 0; f < some; f++) {
      const bool electron = (over >> f & 1) && is_maximum(here + offset_t(f) * pixels, level, scale, i, nx, ny);
      const u32 vote = __ballot_sync(FULL_WARP, electron);
      if (lane == f) words[offset_t(f) * strips * WORDS + word] = vote, found += __popc(vote);
    }
  }
  for (int f = 0; f < some; f++) {
    const u32 all = block_sum(lane == f ? found : 0u, part);
    if (threadIdx.x == 0) counts[(frame + f) * strips + strip] = all;
  }
}

// Sum over the lanes of a warp up to this one.
DEVICE u32 sum_up_to(u32 v) {
  UNROLL for (int step = 1; step < 32; step *= 2) {
    const u32 before = __shfl_up_sync(FULL_WARP, v, step);
    if ((threadIdx.x & 31) >= step) v += before;
  }
  return v;
}

// starts[i] = counts[0] + ... + counts[i - 1] for 0 <= i <= all; every `strips`th is an offset.
extern "C" __global__ void __launch_bounds__(1024, 1)
    add_strips(const u32* __restrict__ counts, offset_t* __restrict__ starts, offset_t* __restrict__ offsets,
               offset_t all, int strips) {
  constexpr int EACH = 8, ROUND = 1024 * EACH;
  __shared__ u32 part[32];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  offset_t before = 0;  // electrons of all rounds so far
  for (offset_t first = 0; first <= all; first += ROUND) {
    const offset_t at = first + threadIdx.x * EACH;
    u32 value[EACH], mine = 0;
    UNROLL for (int k = 0; k < EACH; k++) value[k] = at + k < all ? counts[at + k] : 0, mine += value[k];
    const u32 upto = sum_up_to(mine);
    if (lane == 31) part[warp] = upto;
    __syncthreads();
    const u32 warps = sum_up_to(part[lane]);  // every warp adds up the sums of all
    const u32 ahead = __shfl_sync(FULL_WARP, warps, warp) - __shfl_sync(FULL_WARP, part[lane], warp);
    offset_t start = before + ahead + upto - mine, frame = at / strips;
    int strip = int(at - frame * strips);
    UNROLL for (int k = 0; k < EACH; k++) {
      if (at + k <= all) {
        starts[at + k] = start;
        if (strip == 0) offsets[frame] = start;
      }
      start += value[k];
      if (++strip == strips) strip = 0, frame++;
    }
    before += __shfl_sync(FULL_WARP, warps, 31);
    __syncthreads();
  }
}

// Level to subtract and factor to multiply with. Every operation is that of the definition, so that the bits are the
// same.
extern "C" __global__ void __launch_bounds__(256)
    level_and_scale(const double* __restrict__ dark, const double* __restrict__ gain, const u8* __restrict__ mask,
                    float* __restrict__ level, float* __restrict__ scale, double electron, int pixels) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= pixels) return;
  const double response = gain ? gain[i] : 1.0;
  const bool good = isfinite(dark[i]) && isfinite(response) && response > 0 && (!mask || mask[i]);
  level[i] = good ? float(dark[i]) : -minus_infinity();
  scale[i] = float(1.0 / __dmul_rn(electron, good ? response : 1.0));
}

template <class Pixel>
DEVICE void write_electrons(const Pixel* __restrict__ frames, const float* __restrict__ level,
                            const float* __restrict__ scale, const u32* __restrict__ bits,
                            const offset_t* __restrict__ starts, u16* __restrict__ qx, u16* __restrict__ qy,
                            float* __restrict__ intensity, int nx, int ny, int strips) {
  __shared__ u32 part[32];
  const offset_t frame = blockIdx.x / strips;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  u32 word = bits[offset_t(blockIdx.x) * WORDS + threadIdx.x];
  const u32 mine = __popc(word);
  const u32 upto = sum_up_to(mine);
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

// Blocks on a multiprocessor: five hide the time of the loads, but sm_75 has only the threads for four.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#define BLOCKS 4
#else
#define BLOCKS 5
#endif

#define INSTANCE(NAME, Pixel)                                                                                        \
  extern "C" __global__ void __launch_bounds__(256, BLOCKS) mark_electrons_##NAME(                                   \
      const Pixel* __restrict__ frames, const float* __restrict__ level, const float* __restrict__ scale,            \
      u32* __restrict__ bits, u32* __restrict__ counts, float lower, float upper, int n, int nx, int ny,             \
      int strips) {                                                                                                  \
    mark_electrons<Pixel>(frames, level, scale, bits, counts, lower, upper, n, nx, ny, strips);                      \
  }                                                                                                                  \
  extern "C" __global__ void __launch_bounds__(256) write_electrons_##NAME(                                          \
      const Pixel* __restrict__ frames, const float* __restrict__ level, const float* __restrict__ scale,            \
      const u32* __restrict__ bits, const offset_t* __restrict__ starts, u16* __restrict__ qx, u16* __restrict__ qy, \
      float* __restrict__ intensity, int nx, int ny, int strips) {                                                   \
    write_electrons<Pixel>(frames, level, scale, bits, starts, qx, qy, intensity, nx, ny, strips);                   \
  }
FOR_EACH_PIXEL(INSTANCE)
