// frame_reductions.cu -- sum and maximum over patterns, sums of every pattern under masks, first moments, in one pass.
//   patterns  (n, nx, ny)            native dtype, y fastest
//   planes    (planes, nx, pitch)    bytes: bit b of plane p is mask 8 p + b; pitch: ny in whole 16-byte vectors
//   counted   (nx, pitch)            bytes 0 or 1: pixels that count for the first moments; null = all
//   sums      (n, tiles, masks + 4)  under the masks; 1, x, y; values not finite. int64, double of float32
//   totals    (groups, nx, pitch)    u32 of 8 and 16 bits, u64 of 32, double of float32; null = not asked for
//   tops      (groups, nx, pitch)    native dtype
// frame_sums: grid (tiles of the detector, groups of frames), blocks of 256 threads. A thread owns 32 pixels of 8 or
// 16 bits (8 of 32 bits) as 16-byte vectors; those of a warp lie side by side. Sums and maxima of its pixels stay in
// registers for the whole group; its part of a frame's sums goes through a reduction of the warp and, every `chunk`
// frames, through shared memory to `sums`. Sums of packed counts are dot products with bytes (dp2a, dp4a). A thread
// loads its vectors of the next frame before it adds those of this one, so that loads and arithmetic overlap.
// _full: the last tile ends with the detector. _ragged: rows or frames that do not begin at 16 bytes, read pixel by
// pixel when they are needed.
// add_counts, add_floats, add_groups add the parts in fixed order. repair_f32: groups that hold a frame with a NaN or
// an infinity are summed again without it. Blocks of other groups end at once.
// bytes: the patterns once. Parts, written and read: 12 of 512 at 256 frames of 16 bits a group, and 16 (masks + 4) of
// 16384.
// instructions a pixel of 16 bits with 4 masks, counted in the code for sm_90: load 0.6, sum and maximum 1.6, masks
// 5.5, moments 1.9, reductions 1.2: 10.3 of the 14 that 132 multiprocessors at 1.75 GHz issue in the 2.0 ms they read
// 8.6 GB in; 4 of them in the half-rate pipe of dot products (1.2 ms).
// bound: memory.
// budget(frame_sums_.*): 128 registers, 0 bytes shared
// budget(repair_f32): 80 registers, 0 bytes shared
// budget(add_groups_.*): 64 registers, 32 bytes shared
// budget: 64 registers, 0 bytes shared
#include "common.cuh"

#define UNROLL_BY_4 _Pragma("unroll 4")
constexpr int THREADS = 256, WARPS = THREADS / 32;
constexpr u32 MINUS_INFINITY = 0xff800000u;

// How 32 bits of a pattern are read: PER pixels a word, 4 words a vector, VECTORS vectors a thread.
template <class Pixel>
struct Counts;
template <>
struct Counts<u8> {
  static constexpr int PER = 4, VECTORS = 2;
  static constexpr bool FLOATS = false;
  typedef u32 Lane;        // sum over a thread's and a warp's pixels
  typedef u64 Moment;      // the same, times x or y
  typedef long long Wide;  // sum over a frame
  typedef u32 Total;       // sum of one pixel over a group
};
template <>
struct Counts<u16> {
  static constexpr int PER = 2, VECTORS = 4;
  static constexpr bool FLOATS = false;
  typedef u32 Lane;
  typedef u64 Moment;
  typedef long long Wide;
  typedef u32 Total;
};
template <>
struct Counts<u32> {
  static constexpr int PER = 1, VECTORS = 2;
  static constexpr bool FLOATS = false;
  typedef u64 Lane;
  typedef u64 Moment;
  typedef long long Wide;
  typedef u64 Total;
};
template <>
struct Counts<float> {
  static constexpr int PER = 1, VECTORS = 2;
  static constexpr bool FLOATS = true;
  typedef double Lane;
  typedef double Moment;
  typedef double Wide;
  typedef double Total;
};

template <int N>
struct alignas(4 * N) Words {
  u32 w[N];
};

// Places of the vectors of one thread, which are 32 vectors apart. The detector has `count` vectors. Vector v begins at
// pixel v V of rows that are padded to whole vectors.
// FULL: the last tile ends where the detector does.
template <class T, bool FULL = false>
struct Place {
  typedef T Pixel;
  static constexpr int VECTORS = Counts<Pixel>::VECTORS, V = 4 * Counts<Pixel>::PER;
  int first, count, across;

  DEVICE Place(int nx, int ny, int tile) {
    across = (ny + V - 1) / V;
    count = nx * across;
    first = (tile * WARPS + (threadIdx.x >> 5)) * VECTORS * 32 + (threadIdx.x & 31);
  }
  DEVICE bool on(int e) const { return FULL || first + 32 * e < count; }
  DEVICE int x(int e) const { return (first + 32 * e) / across; }
  DEVICE int y(int e) const { return (first + 32 * e) % across * V; }
};

DEVICE u32 bits_of(u8 v) { return v; }
DEVICE u32 bits_of(u16 v) { return v; }
DEVICE u32 bits_of(u32 v) { return v; }
DEVICE u32 bits_of(float v) { return __float_as_uint(v); }

template <bool ALIGNED, class At>
DEVICE void load(const typename At::Pixel* __restrict__ frame, const At& place, const int* x, const int* y, int ny,
                 u32* words) {
  constexpr int PER = At::V / 4, BITS = 32 / PER;
  UNROLL for (int e = 0; e < At::VECTORS; e++) {
    if constexpr (ALIGNED) {
      Words<4> q = {{0, 0, 0, 0}};
      if (place.on(e)) q = *reinterpret_cast<const Words<4>*>(frame + place.first * At::V + 32 * At::V * e);
      UNROLL for (int i = 0; i < 4; i++) words[4 * e + i] = q.w[i];
    } else {
      const int left = place.on(e) ? ny - y[e] : 0;
      const typename At::Pixel* from = frame + x[e] * ny + y[e];
      UNROLL for (int i = 0; i < 4; i++) {
        u32 word = 0;
        UNROLL for (int p = 0; p < PER; p++) if (i * PER + p < left) word |= bits_of(from[i * PER + p])
                                                                             << (p * BITS % 32);
        words[4 * e + i] = word;
      }
    }
  }
}

// Bytes of a plane under the vectors of a thread: PER words a vector, one byte a pixel.
template <class At>
DEVICE void load_plane(const u8* __restrict__ plane, const At& place, u32* bytes) {
  constexpr int PER = At::V / 4;
  UNROLL for (int e = 0; e < At::VECTORS; e++) {
    Words<PER> some = {};
    if (place.on(e)) some = *(reinterpret_cast<const Words<PER>*>(plane) + place.first + 32 * e);
    UNROLL for (int i = 0; i < PER; i++) bytes[e * PER + i] = some.w[i];
  }
}

// Sum over a warp; lane 0 has it. One instruction from sm_80 on; 64 bits go as two parts, below and above 2^24 (<
// 2^51).
DEVICE u32 warp_total(u32 v) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  return __reduce_add_sync(FULL_WARP, v);
#else
  return warp_sum(v);
#endif
}
DEVICE u64 warp_total(u64 v) { return warp_total(u32(v & 0xffffff)) + (u64(warp_total(u32(v >> 24))) << 24); }
DEVICE double warp_total(double v) { return warp_sum(v); }

// acc + the products of one word of counts with bytes; `i` is the number of the word in its vector.
DEVICE u32 dot(u32 counts, const u32* bytes, int i, u32 acc, u8) { return __dp4a(counts, bytes[i], acc); }
DEVICE u32 dot(u32 counts, const u32* bytes, int i, u32 acc, u16) {
  return i & 1 ? __dp2a_hi(counts, bytes[i >> 1], acc) : __dp2a_lo(counts, bytes[i >> 1], acc);
}

DEVICE u64 value(u32 word, u32) { return word; }
DEVICE double value(u32 word, float) { return __uint_as_float(word); }

// Sum of a thread's pixels whose byte has bit b set.
template <class Pixel>
DEVICE typename Counts<Pixel>::Lane under(const u32* words, const u32* bytes, int b) {
  typedef Counts<Pixel> C;
  typename C::Lane sum = 0;
  UNROLL for (int e = 0; e < C::VECTORS; e++) {
    if constexpr (C::PER > 1) {
      u32 bit[C::PER];
      UNROLL for (int i = 0; i < C::PER; i++) bit[i] = bytes[e * C::PER + i] & (0x01010101u << b);
      UNROLL for (int i = 0; i < 4; i++) sum = dot(words[4 * e + i], bit, i, sum, Pixel());
    } else {
      UNROLL for (int i = 0; i < 4; i++) if (bytes[e] >> (8 * i + b) & 1) sum += value(words[4 * e + i], Pixel());
    }
  }
  if constexpr (C::PER > 1) sum >>= b;  // the byte was 2^b
  return sum;
}

// Sum, sum x and sum y of a thread's pixels, which begin at x[e], y[e]; `bytes` 0 or 1 a pixel, where not ALL count.
template <class Pixel, bool ALL, class Moment>
DEVICE void moments(const u32* words, const u32* bytes, const int* x, const int* y, typename Counts<Pixel>::Lane& sum,
                    Moment& mx, Moment& my) {
  typedef Counts<Pixel> C;
  u32 along = 0;
  sum = 0, mx = 0, my = 0;
  UNROLL for (int e = 0; e < C::VECTORS; e++) {
    typename C::Lane s = 0;
    if constexpr (C::PER > 1) {
      u32 ones[C::PER], steps[C::PER];
      UNROLL for (int i = 0; i < C::PER; i++) {
        ones[i] = ALL ? 0x01010101u : bytes[e * C::PER + i];
        steps[i] = (0x03020100u + 0x04040404u * i) & (ones[i] * 255u);
      }
      UNROLL for (int i = 0; i < 4; i++) {
        s = dot(words[4 * e + i], ones, i, s, Pixel());
        along = dot(words[4 * e + i], steps, i, along, Pixel());
      }
      my += Moment(s) * u32(y[e]);
    } else {
      UNROLL for (int i = 0; i < 4; i++) if (ALL || bytes[e] >> (8 * i) & 1) {
        const typename C::Lane v = value(words[4 * e + i], Pixel());
        s += v;
        my += v * Moment(y[e] + i);
      }
    }
    mx += Moment(s) * Moment(x[e]);
    sum += s;
  }
  if constexpr (C::PER > 1) my += along;
}

// Add one frame to the sums and maxima of a thread's pixels.
DEVICE void take(u32 word, u32* total, u32& top, u8) {
  UNROLL for (int p = 0; p < 4; p++) total[p] = __dp4a(word, 1u << 8 * p, total[p]);
  top = __vmaxu4(top, word);
}
DEVICE void take(u32 word, u32* total, u32& top, u16) {
  total[0] = __dp2a_lo(word, 0x0001u, total[0]);
  total[1] = __dp2a_lo(word, 0x0100u, total[1]);
  top = __vmaxu2(top, word);
}
DEVICE void take(u32 word, u64* total, u32& top, u32) {
  total[0] += word;
  top = max(top, word);
}
DEVICE void take(u32 word, double* total, u32& top, float) {
  const float v = __uint_as_float(word);
  total[0] += v;
  top = __float_as_uint(fmaxf(__uint_as_float(top), v));
}

// Sums and maxima of a thread's pixels over the group so far.
template <class Pixel>
struct Running {
  typedef Counts<Pixel> C;
  typename C::Total total[4 * C::VECTORS * C::PER];
  u32 top[4 * C::VECTORS];

  DEVICE Running() {
    UNROLL for (int i = 0; i < 4 * C::VECTORS * C::PER; i++) total[i] = 0;
    UNROLL for (int i = 0; i < 4 * C::VECTORS; i++) top[i] = C::FLOATS ? MINUS_INFINITY : 0u;
  }
  DEVICE void add(const u32* words) {
    UNROLL for (int i = 0; i < 4 * C::VECTORS; i++) take(words[i], total + C::PER * i, top[i], Pixel());
  }
  template <class At>
  DEVICE void store(const At& place, int nx, int ny, offset_t group, typename C::Total* totals, u32* tops) const {
    constexpr int V = 4 * C::PER;
    const offset_t plane = group * nx * ((ny + V - 1) / V * V);
    UNROLL for (int e = 0; e < C::VECTORS; e++) if (place.on(e)) {
      const offset_t at = plane + (place.first + 32 * e) * V;
      UNROLL for (int i = 0; i < V; i++) totals[at + i] = total[e * V + i];
      UNROLL for (int i = 0; i < 4; i++) tops[at / C::PER + i] = top[4 * e + i];
    }
  }
};

template <class Pixel, bool ALIGNED, bool FULL>
DEVICE void frame_sums(const Pixel* __restrict__ patterns, const u8* __restrict__ planes,
                       const u8* __restrict__ counted, typename Counts<Pixel>::Wide* __restrict__ sums,
                       typename Counts<Pixel>::Total* __restrict__ totals, u32* __restrict__ tops, int n, int nx,
                       int ny, int masks, int group, int chunk) {
  typedef Counts<Pixel> C;
  typedef typename C::Wide Wide;
  typedef typename C::Moment Moment;
  constexpr int WORDS = 4 * C::VECTORS, BYTES = C::PER * C::VECTORS, V = 4 * C::PER;
  DYNAMIC_SHARED(Wide, part);  // (chunk, WARPS, values)
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, values = masks + 4, tile = blockIdx.x, tiles = gridDim.x;
  const Place<Pixel, FULL> place(nx, ny, tile);
  const offset_t plane = offset_t(nx) * ((ny + V - 1) / V * V), pixels = offset_t(nx) * ny;
  const int begin = blockIdx.y * group, end = min(n, begin + group);
  Running<Pixel> running;
  int x[C::VECTORS], y[C::VECTORS];
  UNROLL for (int e = 0; e < C::VECTORS; e++) x[e] = place.x(e), y[e] = place.y(e);
  const Pixel *frame = patterns + begin * pixels, *const last = patterns + (end - 1) * pixels;
  u32 words[WORDS], next[WORDS];
  if constexpr (ALIGNED) load<true>(frame, place, x, y, ny, next);
  for (int first = begin; first < end; first += chunk) {
    const int here = min(chunk, end - first);
    Wide* out = part + warp * values;
    for (int f = 0; f < here; f++, frame += pixels, out += WARPS * values) {
      u32 bytes[BYTES];
      if constexpr (ALIGNED) {
        UNROLL for (int i = 0; i < WORDS; i++) words[i] = next[i];
        if (frame != last) load<true>(frame + pixels, place, x, y, ny, next);  // loaded while this one is added
      } else {
        load<false>(frame, place, x, y, ny, words);
      }
      if (totals) running.add(words);
      for (int m = 0; m < masks; m += 8) {
        load_plane(planes + m / 8 * plane, place, bytes);
        for (int b = 0; b < min(8, masks - m); b++) {
          const typename C::Lane sum = warp_total(under<Pixel>(words, bytes, b));
          if (lane == 0) out[m + b] = Wide(sum);
        }
      }
      typename C::Lane sum;
      Moment mx, my;
      if (counted) {
        load_plane(counted, place, bytes);
        moments<Pixel, false>(words, bytes, x, y, sum, mx, my);
      } else {
        moments<Pixel, true>(words, bytes, x, y, sum, mx, my);
      }
      sum = warp_total(sum), mx = warp_total(mx), my = warp_total(my);
      int broken = 0;
      if constexpr (C::FLOATS) {
        UNROLL for (int i = 0; i < WORDS; i++) broken += (words[i] & 0x7f800000u) == 0x7f800000u;
        broken = warp_sum(broken);
      }
      if (lane == 0) {
        out[masks] = Wide(sum), out[masks + 1] = Wide(mx), out[masks + 2] = Wide(my);
        out[masks + 3] = Wide(broken);
      }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < here * values; i += THREADS) {
      const int f = i / values, v = i % values;
      Wide sum = 0;
      for (int w = 0; w < WARPS; w++) sum += part[(f * WARPS + w) * values + v];
      sums[(offset_t(first + f) * tiles + tile) * values + v] = sum;
    }
    __syncthreads();
  }
  if (totals) running.store(place, nx, ny, blockIdx.y, totals, tops);
}

#define INSTANCE_OF(NAME, Pixel, ALIGNED, FULL)                                                                       \
  extern "C" __global__ void __launch_bounds__(256, 2)                                                                \
      NAME(const Pixel* __restrict__ patterns, const u8* __restrict__ planes, const u8* __restrict__ counted,         \
           Counts<Pixel>::Wide* __restrict__ sums, Counts<Pixel>::Total* __restrict__ totals, u32* __restrict__ tops, \
           int n, int nx, int ny, int masks, int group, int chunk) {                                                  \
    frame_sums<Pixel, ALIGNED, FULL>(patterns, planes, counted, sums, totals, tops, n, nx, ny, masks, group, chunk);  \
  }
#define INSTANCE(NAME, Pixel)                            \
  INSTANCE_OF(frame_sums_full_##NAME, Pixel, true, true) \
  INSTANCE_OF(frame_sums_##NAME, Pixel, true, false)     \
  INSTANCE_OF(frame_sums_ragged_##NAME, Pixel, false, false)
FOR_EACH_PIXEL(INSTANCE)
#undef INSTANCE

// Make the totals and maxima of groups that hold a broken frame again, without that frame. `sums` (n, values) has the
// tiles added.
extern "C" __global__ void __launch_bounds__(256, 2)
    repair_f32(const float* __restrict__ patterns, const double* __restrict__ sums, double* __restrict__ totals,
               u32* __restrict__ tops, int n, int nx, int ny, int values, int group) {
  const int begin = blockIdx.y * group, end = min(n, begin + group);
  bool any = false;
  for (int f = begin; f < end; f++) any |= sums[offset_t(f + 1) * values - 1] > 0;
  if (!any) return;
  const Place<float> place(nx, ny, blockIdx.x);
  Running<float> running;
  int x[Counts<float>::VECTORS], y[Counts<float>::VECTORS];
  UNROLL for (int e = 0; e < Counts<float>::VECTORS; e++) x[e] = place.x(e), y[e] = place.y(e);
  for (int f = begin; f < end; f++) {
    if (sums[offset_t(f + 1) * values - 1] > 0) continue;
    u32 words[4 * Counts<float>::VECTORS];
    load<false>(patterns + f * offset_t(nx) * ny, place, x, y, ny, words);
    running.add(words);
  }
  running.store(place, nx, ny, blockIdx.y, totals, tops);
}

// out[f, v] = sum over tiles of parts[f, tile, v]; `count` = n * values.
template <class Wide>
DEVICE void add_tiles(const Wide* __restrict__ parts, Wide* __restrict__ out, offset_t count, int tiles, int values) {
  const offset_t i = offset_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const Wide* part = parts + i / values * tiles * values + i % values;
  Wide sum = 0;
  for (int t = 0; t < tiles; t++) sum += part[offset_t(t) * values];
  out[i] = sum;
}
extern "C" __global__ void __launch_bounds__(256)
    add_counts(const long long* __restrict__ parts, long long* __restrict__ out, offset_t count, int tiles,
               int values) {
  add_tiles(parts, out, count, tiles, values);
}
extern "C" __global__ void __launch_bounds__(256)
    add_floats(const double* __restrict__ parts, double* __restrict__ out, offset_t count, int tiles, int values) {
  add_tiles(parts, out, count, tiles, values);
}

// Number of frames without a broken value, by the first block. `sums` (n, values) has the tiles added.
template <class Wide>
DEVICE void count_frames(const Wide* __restrict__ sums, double* __restrict__ count, int n, int values) {
  __shared__ int part[WARPS];
  if (blockIdx.x) return;
  int whole = 0;
  UNROLL_BY_4 for (int f = threadIdx.x; f < n; f += THREADS) whole += sums[offset_t(f + 1) * values - 1] == 0;
  whole = block_sum(whole, part);
  if (threadIdx.x == 0) *count = whole;
}

// Sum and maximum of one pixel over the groups, in their order. One pixel a thread.
template <class Pixel>
DEVICE void add_groups(const typename Counts<Pixel>::Total* __restrict__ totals, const Pixel* __restrict__ tops,
                       typename Counts<Pixel>::Wide* __restrict__ total, typename Counts<Pixel>::Wide* __restrict__ top,
                       int groups, int nx, int ny) {
  typedef typename Counts<Pixel>::Wide Wide;
  constexpr int V = 4 * Counts<Pixel>::PER;
  const int i = blockIdx.x * blockDim.x + threadIdx.x, pitch = (ny + V - 1) / V * V;
  if (i >= nx * ny) return;
  Wide sum = 0, most = Counts<Pixel>::FLOATS ? Wide(__uint_as_float(MINUS_INFINITY)) : Wide(-9223372036854775807LL - 1);
  UNROLL_BY_4 for (int g = 0; g < groups; g++) {
    const offset_t at = (offset_t(g) * nx + i / ny) * pitch + i % ny;
    const Wide v = Wide(tops[at]);
    sum += Wide(totals[at]);
    if (v > most) most = v;
  }
  total[i] = sum, top[i] = most;
}

#define INSTANCE(NAME, Pixel)                                                                               \
  extern "C" __global__ void __launch_bounds__(256) add_groups_##NAME(                                      \
      const Counts<Pixel>::Total* __restrict__ totals, const Pixel* __restrict__ tops,                      \
      const Counts<Pixel>::Wide* __restrict__ sums, Counts<Pixel>::Wide* __restrict__ total,                \
      Counts<Pixel>::Wide* __restrict__ top, double* __restrict__ count, int groups, int nx, int ny, int n, \
      int values) {                                                                                         \
    count_frames(sums, count, n, values);                                                                   \
    add_groups<Pixel>(totals, tops, total, top, groups, nx, ny);                                            \
  }
FOR_EACH_PIXEL(INSTANCE)
