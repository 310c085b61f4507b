// find_disks.cu -- the steps before, between and after the FFTs of disk detection, for detectors of any size.
//   patterns  (n, nx, ny)           native dtype, y fastest
//   mask      (nx, ny)              bytes, 0 = does not count; null = all count
//   counts    (batch, nx, ny)       the patterns in float; zero for a pattern that is not finite, and after the last
//   spectra   (batch, nx, ny/2+1)   half planes, complex float; they become the products with the template's, in place
//   maps      (n, nx, ny)           hybrid: maxima are found here; cross: the n = 1 map, for their significance
//   box       (2hx+1, 2hy+1)        template squared, centred: weights of the noise under a maximum
//   px, py    (n, most)             chosen pixels, strongest first; count (n) of them, zero after the last
//
// frames_to_float    one block a pattern. Thread t takes pixels t, t + blockDim, ... Floats are read twice: first for a
//                    NaN or an infinity, then (from cache) for their values.
//                    bytes: the pattern, and 4 a pixel out.   flops: 1 a pixel.   bound: memory.
// spectrum_products  256 threads; thread = one frequency of four patterns, so that the template is read once for four.
//                    bytes: 16 a frequency, 8 more for each powered map; template 2.   flops: 6, 30 a power.
//                    bound: memory (log2 and exp2 of every frequency stay below it).
// strongest_maxima   one block of 256 or 1024 threads a pattern. A warp owns a band of rows and walks down strips of 32
//                    columns with the 3 x 3 neighbours in registers. It writes maxima to its own part of `scratch`.
//                    Then one warp for each maximum sums the noise window. Significant maxima stay, as keys that sort
//                    by height and, for equal heights, by pixel, so that the order of threads does not matter. Then the
//                    largest key of the block is taken and its neighbours within the spacing are removed, until none is
//                    left or `most` are taken. Up to LIST keys are then in shared memory. If there are more, they stay
//                    in scratch, so that no maximum is lost.
//                    bytes: hybrid map once (4 a pixel), 1 for `allowed` (cached), windows from cache.
//                    flops: 9 a pixel, 2 a window pixel and maximum.   bound: L1 (three loads a pixel).
// budget(frames_to_float_.*): 32 registers, 260 bytes shared
// budget(spectrum_products): 40 registers, 0 bytes shared
// budget(strongest_maxima): 64 registers, 9216 bytes shared
#include "common.cuh"

// Upper half: bits of the height. Lower half: complement of x << 16 | y. The larger key is the stronger maximum, or of
// equal ones the first.
typedef u64 Key;

constexpr int LIST = 1024, MOST_WARPS = 32, TOGETHER = 4;
constexpr float LARGEST = 3.402823466e38f, DROPPED = -1.0f;

// ---------------------------------------------------------------- patterns

template <class Pixel>
DEVICE void frames_to_float(const Pixel* __restrict__ patterns, const u8* __restrict__ mask, float* __restrict__ counts,
                            int n, int pixels) {
  __shared__ int part[MOST_WARPS];
  __shared__ int broken;
  const offset_t pattern = blockIdx.x;
  const Pixel* frame = patterns + pattern * pixels;
  float* x = counts + pattern * pixels;
  bool usable = pattern < n;
  constexpr bool is_float = Pixel(0.5f) != Pixel(0);
  if (is_float && usable) {
    int bad = 0;
    for (int i = threadIdx.x; i < pixels; i += blockDim.x)
      bad += !(fabsf(float(frame[i])) <= LARGEST) && (!mask || mask[i]);
    bad = block_sum(bad, part);
    if (threadIdx.x == 0) broken = bad;
    __syncthreads();
    usable = broken == 0;
  }
  for (int i = threadIdx.x; i < pixels; i += blockDim.x) x[i] = usable ? float(frame[i]) : 0.0f;
}

#define INSTANCE(NAME, Pixel)                                                                 \
  extern "C" __global__ void __launch_bounds__(1024)                                          \
      frames_to_float_##NAME(const Pixel* __restrict__ patterns, const u8* __restrict__ mask, \
                             float* __restrict__ counts, int n, int pixels) {                 \
    frames_to_float<Pixel>(patterns, mask, counts, n, pixels);                                \
  }
FOR_EACH_PIXEL(INSTANCE)

// ---------------------------------------------------------------- spectra

// m |m|^exponent, 0 where m is 0. The larger part is taken out first: |m| squared could leave the range of a float.
DEVICE float2 raised(float2 m, float exponent) {
  const float a = fabsf(m.x), b = fabsf(m.y), large = fmaxf(a, b), ratio = fminf(a, b) / large;
  const float scale = large > 1e-37f ? exp2f(exponent * (log2f(large) + 0.5f * log2f(1.0f + ratio * ratio))) : 0.0f;
  return m * scale;
}

// `hybrid` and `refined` may be null: often two of the three maps are one. `scale` is the 1/N of the inverse FFT.
extern "C" __global__ void __launch_bounds__(256)
    spectrum_products(float2* __restrict__ spectra, const float2* __restrict__ template_spectrum,
                      float2* __restrict__ hybrid, float2* __restrict__ refined, int n, int frequencies,
                      float hybrid_exponent, float refined_exponent, float scale) {
  const int k = blockIdx.x * blockDim.x + threadIdx.x;
  if (k >= frequencies) return;
  const float2 t = template_spectrum[k];
  const int first = blockIdx.y * TOGETHER;
  for (int pattern = first; pattern < first + TOGETHER && pattern < n; pattern++) {
    const offset_t at = offset_t(pattern) * frequencies + k;
    const float2 m = spectra[at] * t;
    spectra[at] = m * scale;
    if (hybrid) hybrid[at] = raised(m, hybrid_exponent) * scale;
    if (refined) refined[at] = raised(m, refined_exponent) * scale;
  }
}

// ---------------------------------------------------------------- maxima

DEVICE u64 joined(u32 high, u32 low) { return u64(high) << 32 | low; }
DEVICE float upper_as_float(u64 v) { return __uint_as_float(u32(v >> 32)); }
DEVICE int row_of(u32 place) { return int(place >> 16); }
DEVICE int column_of(u32 place) { return int(place & 0xffffu); }
DEVICE u32 lanes_before(int lane) { return (1u << lane) - 1; }

template <class T>
DEVICE T larger(T a, T b) {
  return a > b ? a : b;
}

// Largest value of the block, for every thread. There is one barrier, so that only every second call may use the same
// slots.
template <class T>
DEVICE T block_largest(T v, T* slots) {
  v = warp_all(v, larger<T>);
  if ((threadIdx.x & 31) == 0) slots[threadIdx.x >> 5] = v;
  __syncthreads();
  v = slots[0];
  for (int w = 1; w < int(blockDim.x >> 5); w++) v = larger(v, slots[w]);
  return v;
}

// Positive maxima over eight neighbours at allowed pixels of rows first ... last-1, by one warp. The map is periodic.
// Of two equal neighbours the left one is taken, in a column the upper one. Returns their number; `strongest` is that
// of this lane's pixels.
DEVICE int local_maxima(const float* __restrict__ map, const u8* __restrict__ allowed, Key* __restrict__ found,
                        int first, int last, int nx, int ny, float& strongest) {
  const int lane = threadIdx.x & 31;
  int count = 0;
  if (first >= last) return 0;
  for (int strip = 0; strip < ny; strip += 32) {
    const bool inside = strip + lane < ny;
    const int y = inside ? strip + lane : 0, left = y ? y - 1 : ny - 1, right = y + 1 < ny ? y + 1 : 0;
    const float* row = map + offset_t(first ? first - 1 : nx - 1) * ny;
    float up_left = row[left], up = row[y], up_right = row[right];
    row = map + offset_t(first) * ny;
    float here_left = row[left], here = row[y], here_right = row[right];
#pragma unroll 2
    for (int x = first; x < last; x++) {
      row = map + offset_t(x + 1 < nx ? x + 1 : 0) * ny;
      const float down_left = row[left], down = row[y], down_right = row[right];
      const float above = larger(larger(up_left, here_left), larger(down_left, up));
      const float below = larger(larger(up_right, here_right), larger(down_right, down));
      const bool peak = inside && here > 0 && here > above && here >= below && allowed[offset_t(x) * ny + y];
      const u32 peaks = __ballot_sync(FULL_WARP, peak);
      if (peak) {
        found[count + __popc(peaks & lanes_before(lane))] = u32(x) << 16 | u32(y);
        strongest = larger(strongest, here);
      }
      count += __popc(peaks);
      up_left = here_left, up = here, up_right = here_right;
      here_left = down_left, here = down, here_right = down_right;
    }
  }
  return count;
}

// Sum of counts(p + d) weight(d) over the window about (x, y), by one warp, for every lane. The detector is periodic.
DEVICE float window_sum(const float* __restrict__ counts, const float* __restrict__ weights, int x, int y, int nx,
                        int ny, int hx, int hy) {
  const int lane = threadIdx.x & 31, width = 2 * hy + 1, size = (2 * hx + 1) * width;
  const int step_a = 32 / width, step_b = 32 % width;
  int a = lane / width, b = lane % width;
  float sum = 0;
  for (int i = lane; i < size; i += 32) {
    int row = x - hx + a, column = y - hy + b;
    row += row < 0 ? nx : row >= nx ? -nx : 0;
    column += column < 0 ? ny : column >= ny ? -ny : 0;
    sum += counts[offset_t(row) * ny + column] * weights[i];
    a += step_a, b += step_b;
    if (b >= width) b -= width, a++;
  }
  return warp_all(sum, [](float one, float other) { return one + other; });
}

// Keep the significant ones of a warp's maxima, as keys, in place. Returns their number.
DEVICE int significant(const float* __restrict__ hybrid, const float* __restrict__ cross, Key* found, int count, int ny,
                       float least_noise, float least) {
  const int lane = threadIdx.x & 31;
  int kept = 0;
  for (int start = 0; start < count; start += 32) {
    const Key entry = start + lane < count ? found[start + lane] : joined(__float_as_uint(DROPPED), 0);
    const float noise = upper_as_float(entry);
    const u32 place = u32(entry);
    bool keep = noise >= 0;
    Key key = 0;
    if (keep) {
      const offset_t at = offset_t(row_of(place)) * ny + column_of(place);
      keep = noise > least_noise ? cross[at] >= least * sqrtf(noise) : 0 >= least;
      key = joined(__float_as_uint(hybrid[at]), ~place);
    }
    const u32 keeping = __ballot_sync(FULL_WARP, keep);
    __syncwarp();  // all lanes have read before one writes; a vote alone does not order memory accesses
    if (keep) found[kept + __popc(keeping & lanes_before(lane))] = key;
    kept += __popc(keeping);
  }
  return kept;
}

extern "C" __global__ void __launch_bounds__(1024)
    strongest_maxima(const float* __restrict__ hybrid_maps, const float* __restrict__ cross_maps,
                     const float* __restrict__ all_counts, const u8* __restrict__ allowed,
                     const float* __restrict__ box, Key* scratch, int* __restrict__ px, int* __restrict__ py,
                     int* __restrict__ count, float min_significance, double min_relative, double min_absolute,
                     double spacing_squared, int most, int nx, int ny, int hx, int hy, int band, int room) {
  __shared__ Key list[LIST];
  __shared__ Key largest[2][MOST_WARPS];
  __shared__ float level[2][MOST_WARPS];
  __shared__ int number[MOST_WARPS];
  const int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5, warps = blockDim.x >> 5;
  const offset_t pattern = blockIdx.x, frame = offset_t(nx) * ny;
  const float* hybrid = hybrid_maps + pattern * frame;
  const float* cross = cross_maps + pattern * frame;
  const float* counts = all_counts + pattern * frame;
  Key* all_found = scratch + pattern * warps * room;
  Key* found = all_found + offset_t(warp) * room;

  float strongest = 0;
  const int first = warp * band, last = first + band < nx ? first + band : nx;
  const int maxima = local_maxima(hybrid, allowed, found, first, last, nx, ny, strongest);
  if (lane == 0) number[warp] = maxima;
  strongest = block_largest(strongest, level[0]);

  // Noise under every maximum that passes the thresholds. Warps take maxima of all bands in turn, because a band across
  // the beam has more maxima than the others.
  const double least = larger(min_absolute, min_relative * strongest);
  float most_noise = 0;
  for (int w = 0; w < warps; w++)
    for (int q = warp; q < number[w]; q += warps) {
      Key* entry = all_found + offset_t(w) * room + q;
      const u32 place = u32(*entry);
      const int x = row_of(place), y = column_of(place);
      const offset_t at = offset_t(x) * ny + y;
      const bool hopeless = hybrid[at] < least || (min_significance > 0 && cross[at] <= 0);
      const float noise = hopeless ? DROPPED : larger(window_sum(counts, box, x, y, nx, ny, hx, hy), 0.0f);
      most_noise = larger(most_noise, noise);
      __syncwarp();
      if (lane == 0) *entry = joined(__float_as_uint(noise), place);
    }
  most_noise = block_largest(most_noise, level[1]);

  const int kept = significant(hybrid, cross, found, maxima, ny, 1e-9f * most_noise, min_significance);
  if (lane == 0) number[warp] = kept;
  __syncthreads();
  int before = 0, total = 0;
  for (int w = 0; w < warps; w++) {
    if (w < warp) before += number[w];
    total += number[w];
  }
  const bool in_shared = total <= LIST;
  if (in_shared)
    for (int q = lane; q < kept; q += 32) list[before + q] = found[q];
  __syncthreads();

  // Take the strongest, then the strongest at least the spacing away from it, and so on. Each thread removes keys from
  // its own.
  px += pattern * most, py += pattern * most;
  int chosen = 0, x = 0, y = 0;
  while (chosen < most) {
    Key best = 0;
    const auto visit = [&](Key& key) {
      if (key && chosen) {
        const u32 place = ~u32(key);
        const int dx = row_of(place) - x, dy = column_of(place) - y;
        const int apart = dx * dx + dy * dy;
        if (apart == 0 || apart < spacing_squared) key = 0;
      }
      best = larger(best, key);
    };
    if (in_shared)
      for (int q = thread; q < total; q += blockDim.x) visit(list[q]);
    else
      for (int w = 0; w < warps; w++)
        for (int q = thread; q < number[w]; q += blockDim.x) visit(all_found[offset_t(w) * room + q]);
    best = block_largest(best, largest[chosen & 1]);
    if (!best) break;
    x = row_of(~u32(best)), y = column_of(~u32(best));
    if (thread == 0) px[chosen] = x, py[chosen] = y;
    chosen++;
  }
  if (thread == 0) count[pattern] = chosen;
  for (int q = chosen + thread; q < most; q += blockDim.x) px[q] = py[q] = 0;
}
