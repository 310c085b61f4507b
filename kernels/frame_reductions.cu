// frame_reductions.cu -- sum and maximum over patterns, sums of every pattern under masks, first moments: one reading.
//   patterns  (n, nx, ny)            native dtype, y fastest
//   planes    (planes, nx, pitch)    bytes: bit b of plane p is mask 8 p + b; pitch: ny in whole 16-byte vectors
//   counted   (nx, pitch)            bytes 0 or 1: pixels that count for the first moments; null = all
//   sums      (n, tiles, masks + 4)  under the masks; 1, x, y; values not finite. int64, double of float32
//   totals    (groups, nx, pitch)    u32 of 8 and 16 bits, u64 of 32, double of float32; null = not asked for
//   tops      (groups, nx, pitch)    native dtype
// frame_sums: grid (tiles of the detector, groups of frames), blocks of 256 threads. A thread owns 32 pixels of 8 or
// 16 bits (16 of u32, 8 of float32) as 16-byte vectors; those of a warp lie side by side. Sums and maxima of its pixels
// stay in registers for the whole group; its part of a frame's sums goes through shuffles and, every `chunk` frames,
// through shared memory to `sums`. Sums of packed counts are dot products with bytes (dp2a, dp4a). The next frame is on
// its way while one is summed. _ragged: rows or frames that do not begin at 16 bytes, read pixel by pixel.
// add_counts, add_floats, add_groups add the parts in fixed order. repair_f32: groups that hold a frame with a NaN or
// an infinity are summed again without it; all others end at once.
// bytes: the patterns once. Parts, written and read: 12 of 512 at 256 frames of 16 bits a group, and 16 (masks + 4) of
// 16384.
// instructions a pixel of 16 bits with 4 masks: sum 1, maximum 1/2, masks 3, moments 1.2, shuffles and their sums 3,
// rest 0.8: 9.5 of the 14 that a card with 132 multiprocessors at 1.75 GHz issues in the 2.0 ms it reads 8.6 GB in.
// bound: memory.
// budget(frame_sums_.*): 128 registers, 0 bytes shared
// budget(repair_f32): 80 registers, 0 bytes shared
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
  static constexpr int PER = 1, VECTORS = 4;
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

struct alignas(16) Quad {
  u32 w[4];
};

// Where the vectors of one thread lie.
template <class Pixel>
struct Place {
  static constexpr int VECTORS = Counts<Pixel>::VECTORS, V = 4 * Counts<Pixel>::PER;
  int at[VECTORS], x[VECTORS], y[VECTORS], left[VECTORS];  // left: pixels of the vector on the detector

  DEVICE Place(int nx, int ny, int tile) {
    const int across = (ny + V - 1) / V, warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    UNROLL for (int e = 0; e < VECTORS; e++) {
      const int slot = ((tile * WARPS + warp) * VECTORS + e) * 32 + lane;
      x[e] = slot / across;
      y[e] = slot % across * V;
      left[e] = x[e] < nx ? min(V, ny - y[e]) : 0;
      at[e] = x[e] * ny + y[e];
    }
  }
  DEVICE offset_t padded(int e, int ny) const { return offset_t(x[e]) * ((ny + V - 1) / V * V) + y[e]; }
};

DEVICE u32 bits_of(u8 v) { return v; }
DEVICE u32 bits_of(u16 v) { return v; }
DEVICE u32 bits_of(u32 v) { return v; }
DEVICE u32 bits_of(float v) { return __float_as_uint(v); }

template <class Pixel, bool ALIGNED>
DEVICE void load(const Pixel* __restrict__ frame, const Place<Pixel>& place, u32 (&words)[4 * Counts<Pixel>::VECTORS]) {
  constexpr int PER = Counts<Pixel>::PER, BITS = 32 / PER;
  UNROLL for (int e = 0; e < Counts<Pixel>::VECTORS; e++) {
    if constexpr (ALIGNED) {
      Quad q = {{0, 0, 0, 0}};
      if (place.left[e]) q = *reinterpret_cast<const Quad*>(frame + place.at[e]);
      UNROLL for (int i = 0; i < 4; i++) words[4 * e + i] = q.w[i];
    } else {
      UNROLL for (int i = 0; i < 4; i++) {
        u32 word = 0;
        UNROLL for (int p = 0; p < PER; p++) if (i * PER + p < place.left[e]) word |=
            bits_of(frame[place.at[e] + i * PER + p]) << (p * BITS % 32);
        words[4 * e + i] = word;
      }
    }
  }
}

// Bytes of a plane under the vectors of a thread: PER words a vector, one byte a pixel.
template <class Pixel>
DEVICE void load_plane(const u8* __restrict__ plane, const Place<Pixel>& place, int ny,
                       u32 (&bytes)[Counts<Pixel>::PER * Counts<Pixel>::VECTORS]) {
  constexpr int PER = Counts<Pixel>::PER;
  UNROLL for (int e = 0; e < Counts<Pixel>::VECTORS; e++) {
    const u32* from = reinterpret_cast<const u32*>(plane + place.padded(e, ny));
    UNROLL for (int i = 0; i < PER; i++) bytes[e * PER + i] = place.left[e] ? from[i] : 0u;
  }
}

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

// Sum, sum x and sum y of a thread's pixels; `bytes` 0 or 1 a pixel.
template <class Pixel, class Moment>
DEVICE void moments(const u32* words, const u32* bytes, const Place<Pixel>& place, typename Counts<Pixel>::Lane& sum,
                    Moment& mx, Moment& my) {
  typedef Counts<Pixel> C;
  sum = 0, mx = 0, my = 0;
  UNROLL for (int e = 0; e < C::VECTORS; e++) {
    typename C::Lane s = 0;
    if constexpr (C::PER > 1) {
      u32 along = 0, steps[C::PER];
      UNROLL for (int i = 0; i < C::PER; i++) steps[i] =
          (0x03020100u + 0x04040404u * i) & (bytes[e * C::PER + i] * 255u);
      UNROLL for (int i = 0; i < 4; i++) {
        s = dot(words[4 * e + i], bytes + e * C::PER, i, s, Pixel());
        along = dot(words[4 * e + i], steps, i, along, Pixel());
      }
      my += Moment(s) * u32(place.y[e]) + along;
    } else {
      UNROLL for (int i = 0; i < 4; i++) if (bytes[e] >> (8 * i) & 1) {
        const typename C::Lane v = value(words[4 * e + i], Pixel());
        s += v;
        my += v * Moment(place.y[e] + i);
      }
    }
    mx += Moment(s) * Moment(place.x[e]);
    sum += s;
  }
}

// One frame into the sums and maxima of a thread's pixels.
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
  DEVICE void store(const Place<Pixel>& place, int nx, int ny, offset_t group, typename C::Total* totals,
                    u32* tops) const {
    constexpr int V = 4 * C::PER;
    const offset_t plane = group * nx * ((ny + V - 1) / V * V);
    UNROLL for (int e = 0; e < C::VECTORS; e++) if (place.left[e]) {
      const offset_t at = plane + place.padded(e, ny);
      UNROLL for (int i = 0; i < V; i++) totals[at + i] = total[e * V + i];
      UNROLL for (int i = 0; i < 4; i++) tops[at / C::PER + i] = top[4 * e + i];
    }
  }
};

template <class Pixel, bool ALIGNED>
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
  const Place<Pixel> place(nx, ny, tile);
  const offset_t plane = offset_t(nx) * ((ny + V - 1) / V * V), pixels = offset_t(nx) * ny;
  const int begin = blockIdx.y * group, end = min(n, begin + group);
  Running<Pixel> running;
  u32 next[WORDS];  // the next frame is on its way while this one is summed
  if (ALIGNED) load<Pixel, ALIGNED>(patterns + begin * pixels, place, next);
  for (int first = begin; first < end; first += chunk) {
    const int here = min(chunk, end - first);
    for (int f = 0; f < here; f++) {
      u32 words[WORDS], bytes[BYTES];
      if (ALIGNED) {
        UNROLL for (int i = 0; i < WORDS; i++) words[i] = next[i];
        if (first + f + 1 < end) load<Pixel, ALIGNED>(patterns + (first + f + 1) * pixels, place, next);
      } else {
        load<Pixel, ALIGNED>(patterns + (first + f) * pixels, place, words);
      }
      if (totals) running.add(words);
      Wide* out = part + (f * WARPS + warp) * values;
      for (int m = 0; m < masks; m++) {
        if (m % 8 == 0) load_plane(planes + m / 8 * plane, place, ny, bytes);
        const typename C::Lane sum = warp_sum(under<Pixel>(words, bytes, m % 8));
        if (lane == 0) out[m] = Wide(sum);
      }
      if (counted)
        load_plane(counted, place, ny, bytes);
      else
        UNROLL for (int i = 0; i < BYTES; i++) bytes[i] = 0x01010101u;
      typename C::Lane sum;
      Moment mx, my;
      moments<Pixel>(words, bytes, place, sum, mx, my);
      sum = warp_sum(sum), mx = warp_sum(mx), my = warp_sum(my);
      if (lane == 0) out[masks] = Wide(sum), out[masks + 1] = Wide(mx), out[masks + 2] = Wide(my);
      int broken = 0;
      if constexpr (C::FLOATS) {
        UNROLL for (int i = 0; i < WORDS; i++) broken += (words[i] & 0x7f800000u) == 0x7f800000u;
        broken = warp_sum(broken);
      }
      if (lane == 0) out[masks + 3] = Wide(broken);
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

#define INSTANCE_OF(NAME, Pixel, ALIGNED)                                                                             \
  extern "C" __global__ void __launch_bounds__(256, 2)                                                                \
      NAME(const Pixel* __restrict__ patterns, const u8* __restrict__ planes, const u8* __restrict__ counted,         \
           Counts<Pixel>::Wide* __restrict__ sums, Counts<Pixel>::Total* __restrict__ totals, u32* __restrict__ tops, \
           int n, int nx, int ny, int masks, int group, int chunk) {                                                  \
    frame_sums<Pixel, ALIGNED>(patterns, planes, counted, sums, totals, tops, n, nx, ny, masks, group, chunk);        \
  }
#define INSTANCE(NAME, Pixel)                 \
  INSTANCE_OF(frame_sums_##NAME, Pixel, true) \
  INSTANCE_OF(frame_sums_ragged_##NAME, Pixel, false)
FOR_EACH_PIXEL(INSTANCE)
#undef INSTANCE

// Totals and maxima of the groups that hold a broken frame, again and without it. `sums` (n, values), tiles added.
extern "C" __global__ void __launch_bounds__(256, 2)
    repair_f32(const float* __restrict__ patterns, const double* __restrict__ sums, double* __restrict__ totals,
               u32* __restrict__ tops, int n, int nx, int ny, int values, int group) {
  const int begin = blockIdx.y * group, end = min(n, begin + group);
  bool any = false;
  for (int f = begin; f < end; f++) any |= sums[offset_t(f + 1) * values - 1] > 0;
  if (!any) return;
  const Place<float> place(nx, ny, blockIdx.x);
  Running<float> running;
  for (int f = begin; f < end; f++) {
    if (sums[offset_t(f + 1) * values - 1] > 0) continue;
    u32 words[4 * Counts<float>::VECTORS];
    load<float, false>(patterns + f * offset_t(nx) * ny, place, words);
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

// One pixel a thread: sum and maximum over the groups, in their order.
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

#define INSTANCE(NAME, Pixel)                                                                                       \
  extern "C" __global__ void __launch_bounds__(256) add_groups_##NAME(                                              \
      const Counts<Pixel>::Total* __restrict__ totals, const Pixel* __restrict__ tops,                              \
      Counts<Pixel>::Wide* __restrict__ total, Counts<Pixel>::Wide* __restrict__ top, int groups, int nx, int ny) { \
    add_groups<Pixel>(totals, tops, total, top, groups, nx, ny);                                                    \
  }
FOR_EACH_PIXEL(INSTANCE)
