// row_column_fft.cu -- correlation maps of patterns of 256 pixels square: real 2D FFT, product with the template's
// spectrum, m |m|^(n-1), inverse FFT, by a row, a column and a row kernel. Between them a tile of patterns is in half
// planes that stay in L2 (the launcher chooses how many fit). The maps are those of the operation `find_disks`.
//   frames    (n, N, N)             uint8, uint16, uint32 or float32
//   counts    (n, N, N)             float32, the frames again; null = not wanted
//   broken    (tile, N/4)           bytes, one for each warp of forward_rows: 1 where it read a NaN or an infinity
//   planes    (maps, tile, N, N/2)  complex float, 256 kB each. Row x holds columns 0 .. N/2-1 of its spectrum; columns
//                                   0 and N/2 are real and stored together as X_0 + i X_{N/2}. Plane 0 first holds the
//                                   spectra of the frames' rows, times 2; afterwards plane i is that of map i.
//   spectrum  (N, N/2)              template's conjugate half-plane spectrum / 2, columns 0 .. N/2-1; nyquist (N): N/2
//   maps      (maps, n, N, N)       float32
// A transform of N = R x R points is done by R threads with R values each, in natural order before and after. Thread t
// holds n = t + R j. It transforms R points and multiplies them with the twiddles. The values are then transposed among
// the threads in shared memory. A second transform of R points gives k = t + R j.
//   forward_rows    grid (N/32, tile), block 256: 16 pairs of rows, a pair as one complex transform, 16 lanes each.
//                   bytes: uint16 128 kB in, 256 kB counts out (DRAM), 256 kB out (L2).   flops: 1.1 M
//   filter_columns  grid (N/32, tile / together), block 256: 16 neighbouring columns (128 bytes of a row), 16 threads
//                   each, of `together` patterns one after the other: the template's 32 kB of these columns stay in L1.
//                   bytes: 256 kB in, 256 kB a map out, template 256 kB / together (L2).
//                   flops: 1.2 M, 1.0 M a map, 0.7 M a map of n < 1
//   inverse_rows    grid (N/32, tile, maps), block 256: as forward_rows.
//                   bytes, a map: 256 kB in (L2), 256 kB out (DRAM).   flops: 1.1 M
//   shared memory   forward_rows, inverse_rows 32 kB, warp barriers; filter_columns 34 kB, block barriers. 16
//                   neighbouring lanes access 16 different pairs of banks, so that there are no conflicts.
//   floor           a pattern, uint16, counts out, two maps: DRAM 0.92 MB, L2 2.7 MB with what passes through it,
//                   7.4 Mflop, about 0.33 M warp instructions, 31 k shared wavefronts. On an H200: 4.7, about 2.2, 4 to
//                   8, 2.9 and 7.7 M patterns/s.
//   bound           L2, then issue slots
// budget(forward_rows_256_.*): 80 registers, 32768 bytes shared
// budget(filter_columns_256): 128 registers, 34816 bytes shared
// budget(inverse_rows_256): 80 registers, 32768 bytes shared
#include "fft.cuh"

constexpr int BLOCK = 256;
constexpr float LARGEST = 3.402823466e38f;

template <int N>
struct Square;
template <>
struct Square<256> {
  static constexpr int R = 16;       // N = R x R: threads of a transform, and values of each
  static constexpr int GROUPS = 16;  // transforms of a block
  static constexpr offset_t FRAME = 256 * 256, PLANE = 256 * 128;
  static constexpr int FLAGS = 256 / 4;  // bytes of `broken` for a pattern
};

// exp(-2 pi i t / N)
template <int N>
DEVICE float2 root_of(int t) {
  float sine, cosine;
  sincospif(-2.0f * t / N, &sine, &cosine);
  return make_float2(cosine, sine);
}

// Exchange value j of thread t with value t of thread j. Sixteen neighbouring lanes share a row's transform, so that a
// warp barrier is enough. The exclusive or puts their accesses into different banks, for writing and for reading.
template <int N>
struct RowExchange {
  float2* region;  // N places
  DEVICE void transpose(float2* v, int t) const {
    constexpr int R = Square<N>::R;
    __syncwarp();
    UNROLL for (int j = 0; j < R; j++) region[t * R + (j ^ t)] = v[j];
    __syncwarp();
    UNROLL for (int j = 0; j < R; j++) v[j] = region[j * R + (t ^ j)];
  }
};
// The same exchange, where sixteen neighbouring lanes hold the same value of different columns.
template <int N>
struct ColumnExchange {
  float2* region;  // of all columns of the block
  int column;
  DEVICE void transpose(float2* v, int t) const {
    constexpr int R = Square<N>::R, GROUPS = Square<N>::GROUPS;
    __syncthreads();
    UNROLL for (int j = 0; j < R; j++) region[(t * R + j) * GROUPS + column] = v[j];
    __syncthreads();
    UNROLL for (int j = 0; j < R; j++) v[j] = region[(j * R + t) * GROUPS + column];
  }
};

// v[j] = x[t + R j]  ->  v[j] = sum over n of x[n] exp(SIGN 2 pi i (t + R j) n / N); root = root_of<N>(t)
template <int N, int SIGN, class Exchange>
DEVICE void transform(float2* v, float2 root, int t, const Exchange& exchange) {
  constexpr int R = Square<N>::R;
  Radix<R, SIGN>::run(v);
  float2 power[R];
  power[1] = make_float2(fresh(root.x), fresh(SIGN < 0 ? root.y : -root.y));
  UNROLL for (int j = 2; j < R; j++) power[j] = power[j / 2] * power[j - j / 2];
  UNROLL for (int j = 1; j < R; j++) v[j] = v[j] * power[j];
  exchange.transpose(v, t);
  Radix<R, SIGN>::run(v);
}

// ---------------------------------------------------------------- rows

template <class Pixel>
DEVICE bool is_broken(Pixel) {
  return false;
}
DEVICE bool is_broken(float v) { return !(fabsf(v) <= LARGEST); }

template <int N, class Pixel>
DEVICE void forward_rows(const Pixel* __restrict__ frames, float* __restrict__ counts, u8* __restrict__ broken,
                         float2* __restrict__ planes, offset_t first) {
  using S = Square<N>;
  constexpr int R = S::R;
  __shared__ float2 regions[S::GROUPS * N];
  const int group = threadIdx.x / R, t = threadIdx.x % R;
  const int row = 2 * (blockIdx.x * S::GROUPS + group);
  const offset_t start = (first + blockIdx.y) * S::FRAME + row * N + t;
  float2* region = regions + group * N;
  float2 v[R];
  bool bad = false;
  UNROLL for (int j = 0; j < R; j++) {
    const Pixel even = frames[start + R * j], odd = frames[start + N + R * j];
    bad |= is_broken(even) || is_broken(odd);
    v[j] = make_float2(float(even), float(odd));
  }
  if (counts) UNROLL for (int j = 0; j < R; j++) {
      counts[start + R * j] = v[j].x;
      counts[start + N + R * j] = v[j].y;
    }
  bad = __any_sync(FULL_WARP, bad);
  if (threadIdx.x % 32 == 0) broken[blockIdx.y * S::FLAGS + (blockIdx.x * BLOCK + threadIdx.x) / 32] = bad;

  transform<N, -1>(v, root_of<N>(t), t, RowExchange<N>{region});
  // Two real rows from one complex spectrum need Z[k] and Z[N-k]. The upper half of Z goes through shared memory.
  __syncwarp();
  UNROLL for (int j = R / 2; j < R; j++) region[t + R * j] = v[j];
  __syncwarp();
  float2* plane = planes + offset_t(blockIdx.y) * S::PLANE + row * (N / 2) + t;
  UNROLL for (int j = 0; j < R / 2; j++) {
    const bool real = j == 0 && t == 0;  // columns 0 and N/2
    const float2 z = v[j], w = region[real ? N / 2 : N - t - R * j];
    plane[R * j] = real ? make_float2(2.0f * z.x, 2.0f * w.x) : make_float2(z.x + w.x, z.y - w.y);
    plane[N / 2 + R * j] = real ? make_float2(2.0f * z.y, 2.0f * w.y) : make_float2(z.y + w.y, w.x - z.x);
  }
}

template <int N>
DEVICE void inverse_rows(const float2* __restrict__ planes, float* __restrict__ maps, offset_t first, offset_t n) {
  using S = Square<N>;
  constexpr int R = S::R;
  __shared__ float2 regions[S::GROUPS * N];
  const int group = threadIdx.x / R, t = threadIdx.x % R;
  const int row = 2 * (blockIdx.x * S::GROUPS + group);
  float2* region = regions + group * N;
  const float2* plane = planes + (offset_t(blockIdx.z) * gridDim.y + blockIdx.y) * S::PLANE + row * (N / 2) + t;
  float2 v[R];
  UNROLL for (int j = 0; j < R / 2; j++) {
    const bool real = j == 0 && t == 0;
    const float2 even = plane[R * j], odd = plane[N / 2 + R * j];
    v[j] = real ? make_float2(even.x, odd.x) : make_float2(even.x - odd.y, even.y + odd.x);
    region[real ? N / 2 : N - t - R * j] =
        real ? make_float2(even.y, odd.y) : make_float2(even.x + odd.y, odd.x - even.y);
  }
  __syncwarp();
  UNROLL for (int j = R / 2; j < R; j++) v[j] = region[t + R * j];
  transform<N, +1>(v, root_of<N>(t), t, RowExchange<N>{region});
  float* map = maps + (blockIdx.z * n + first + blockIdx.y) * S::FRAME + row * N + t;
  UNROLL for (int j = 0; j < R; j++) {
    map[R * j] = v[j].x;
    map[N + R * j] = v[j].y;
  }
}

// ---------------------------------------------------------------- columns

struct Exponents {
  float a, b, c;  // power - 1 of each map
};

// |m|^exponent / N^2, 0 where m is 0. The power of two of the larger part is taken out first, because |m| squared could
// leave the range of a float.
template <int N>
DEVICE float gain(float2 m, float exponent) {
  constexpr float scale = 1.0f / Square<N>::FRAME;
  if (exponent == 0.0f) return scale;
  const float large = fmaxf(fabsf(m.x), fabsf(m.y));
  const u32 bits = __float_as_uint(large) & 0x7f800000u;
  const float2 near_one = m * __uint_as_float(0x7f000000u - bits);
  const float half_log = 0.5f * __log2f(near_one.x * near_one.x + near_one.y * near_one.y);
  const float log = float(int(bits >> 23) - 127) + half_log;
  return large > 1e-37f ? scale * exp2f(exponent * log) : 0.0f;
}
template <int N>
DEVICE float2 hybrid(float2 m, float exponent) {
  return m * gain<N>(m, exponent);
}

// Frequency k of column 0 (as real part) and N/2 (as imaginary part): c = C[k] and d = conj C[-k] of C = X_0 + i X_N/2
template <int N>
DEVICE float2 hybrid_of_first(float2 c, float2 d, float2 first, float2 last, float exponent) {
  const float2 x = hybrid<N>((c + d) * 0.5f * first, exponent);
  const float2 y = hybrid<N>(times_i<-1>(c - d) * 0.5f * last, exponent);
  return x + times_i<1>(y);
}

template <int N>
DEVICE void filter_columns(float2* __restrict__ planes, const float2* __restrict__ spectrum,
                           const float2* __restrict__ nyquist, const u8* __restrict__ broken, Exponents exponents,
                           int maps, int patterns, int together) {
  using S = Square<N>;
  constexpr int R = S::R;
  __shared__ float2 exchanged[S::GROUPS * N];
  __shared__ float2 first_column[N];
  const int t = threadIdx.x / S::GROUPS, lane = threadIdx.x % 32;
  const int column = threadIdx.x % S::GROUPS, q = blockIdx.x * S::GROUPS + column;
  const ColumnExchange<N> exchange{exchanged, column};
  const float2 root = root_of<N>(t);
  const int start = t * (N / 2) + q, step = R * (N / 2);
  const int from = blockIdx.y * together, until = min(from + together, patterns);
#pragma unroll 1
  for (int pattern = from; pattern < until; pattern++) {
    float2* plane = planes + pattern * S::PLANE + start;
    const u8* flags = broken + pattern * S::FLAGS;
    const bool bad = __any_sync(FULL_WARP, flags[lane] | flags[lane + 32]);
    float2 v[R], w[R];
    UNROLL for (int j = 0; j < R; j++) v[j] = bad ? make_float2(0, 0) : plane[step * j];
    transform<N, -1>(v, root, t, exchange);
    if (blockIdx.x == 0) {
      if (q == 0) UNROLL for (int j = 0; j < R; j++) first_column[t + R * j] = v[j];
      __syncthreads();
    }
    if (q) UNROLL for (int j = 0; j < R; j++) v[j] = v[j] * __ldg(spectrum + start + step * j);
#pragma unroll 1
    for (int map = 0; map < maps; map++, plane += patterns * S::PLANE) {
      const float exponent = map == 0 ? exponents.a : map == 1 ? exponents.b : exponents.c;
      if (q)
        UNROLL for (int j = 0; j < R; j++) w[j] = hybrid<N>(v[j], exponent);
      else
        UNROLL for (int j = 0; j < R; j++) {
          const int k = t + R * j;
          w[j] = hybrid_of_first<N>(v[j], conj(first_column[(N - k) % N]), __ldg(spectrum + start + step * j),
                                    __ldg(nyquist + k), exponent);
        }
      transform<N, +1>(w, root, t, exchange);
      UNROLL for (int j = 0; j < R; j++) plane[step * j] = w[j];
    }
  }
}

#define FORWARD_ROWS(NAME, Pixel)                                                                                    \
  extern "C" __global__ void __launch_bounds__(BLOCK, 3)                                                             \
      forward_rows_256_##NAME(const Pixel* __restrict__ frames, float* __restrict__ counts, u8* __restrict__ broken, \
                              float2* __restrict__ planes, offset_t first) {                                         \
    forward_rows<256, Pixel>(frames, counts, broken, planes, first);                                                 \
  }
FOR_EACH_PIXEL(FORWARD_ROWS)

extern "C" __global__ void __launch_bounds__(BLOCK, 2)
    filter_columns_256(float2* __restrict__ planes, const float2* __restrict__ spectrum,
                       const float2* __restrict__ nyquist, const u8* __restrict__ broken, float exponent_0,
                       float exponent_1, float exponent_2, int maps, int patterns, int together) {
  const Exponents exponents{exponent_0, exponent_1, exponent_2};
  filter_columns<256>(planes, spectrum, nyquist, broken, exponents, maps, patterns, together);
}

extern "C" __global__ void __launch_bounds__(BLOCK, 3)
    inverse_rows_256(const float2* __restrict__ planes, float* __restrict__ maps, offset_t first, offset_t n) {
  inverse_rows<256>(planes, maps, first, n);
}
