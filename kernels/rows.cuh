// rows.cuh -- row transforms of a pattern. The plane in shared memory is ROWS x PITCH float2: packed row r holds the
// real rows 2r (as x) and 2r+1 (as y), so that one complex transform serves both.
#pragma once
#include "fft.cuh"

// Pixels have one of four types. The type is a number at run time, because it matters only where pixels are read. An
// instance of the whole kernel for each type would take four times as long to compile.
enum PixelType { PIXEL_U8, PIXEL_U16, PIXEL_U32, PIXEL_F32 };
template <class Use>
DEVICE void with_pixels(const void* pixels, int type, Use use) {
  if (type == PIXEL_U16)
    use(static_cast<const u16*>(pixels));
  else if (type == PIXEL_U8)
    use(static_cast<const u8*>(pixels));
  else if (type == PIXEL_U32)
    use(static_cast<const u32*>(pixels));
  else
    use(static_cast<const float*>(pixels));
}

// Bits for values that float patterns may hold and counts cannot
constexpr unsigned NOT_FINITE = 1, NEGATIVE = 2;
template <class Pixel>
DEVICE unsigned flaws_of(Pixel) {
  return 0;
}
template <>
DEVICE unsigned flaws_of<float>(float v) {
  return (fabsf(v) <= 3.4028234e38f ? 0u : NOT_FINITE) | (v < 0.0f ? NEGATIVE : 0u);
}

// Row of task q. Groups of one half-warp work on rows that lie in different banks: 4 rows of pitch 130 float2 are 8
// float2 apart, mod 16.
template <int N>
DEVICE int row_of(int q) {
  if constexpr (Plan<N>::LANES == 8)
    return (q & ~7) | ((q & 1) << 2) | ((q >> 1) & 3);
  else
    return q;
}

// Rows 2r and 2r+1 of an image -> v, spread. Returns the flaws of their pixels.
template <int N, class Pixel>
DEVICE unsigned load_rows(const Pixel* __restrict__ image, int r, float2* v, int t) {
  using P = Plan<N>;
  unsigned flaws = 0;
  if (holds_pair<N>(t)) {
    const Pixel* row = image + 2 * r * N + 2 * t;
    UNROLL for (int n2 = 0; n2 < P::A; n2++) {
      UNROLL for (int j = 0; j < 2; j++) {
        const Pixel even = row[P::B * n2 + j], odd = row[N + P::B * n2 + j];
        flaws |= flaws_of(even) | flaws_of(odd);
        v[j * P::A + n2] = make_float2(float(even), float(odd));
      }
    }
  }
  return flaws;
}

// Pixels (N, N) in global memory -> spectra of the packed rows, natural order. Returns the flaws of the pixels that
// this thread read.
template <int N>
DEVICE unsigned transform_rows(const void* image, int type, float2* plane, const Twiddle<N>& twiddle, Lane me) {
  using P = Plan<N>;
  using S = Shape<N>;
  unsigned flaws = 0;
#pragma unroll 1
  for (int q = me.group; q < S::ROWS; q += S::GROUPS) {
    const int r = row_of<N>(q), t = fresh(me.t);
    const RowRegion<N> region{plane + r * P::PITCH};
    float2 v[S::VALUES] = {};
    with_pixels(image, type, [&](auto pixels) { flaws |= load_rows<N>(pixels, r, v, t); });
    forward<N>(region, v, twiddle, me.t);
    __syncwarp();  // the exchange has been read by all lanes
    UNROLL for (int b = 0; b < S::PER_LANE; b++) {
      UNROLL for (int k1 = 0; k1 < P::B; k1++) region.row[fresh(t) + P::LANES * b + P::A * k1] = v[b * P::B + k1];
    }
    __syncwarp();
  }
  return flaws;
}

// Spectra of the packed rows -> the real map in the same place: rows 2r and 2r+1 as (x, y) of packed row r
template <int N>
DEVICE void invert_rows(float2* plane, const Twiddle<N>& twiddle, Lane me) {
  using P = Plan<N>;
  using S = Shape<N>;
#pragma unroll 1
  for (int q = me.group; q < S::ROWS; q += S::GROUPS) {
    const RowRegion<N> region{plane + row_of<N>(q) * P::PITCH};
    const int t = fresh(me.t);
    float2 v[S::VALUES] = {};
    UNROLL for (int b = 0; b < S::PER_LANE; b++) {
      UNROLL for (int k1 = 0; k1 < P::B; k1++) v[b * P::B + k1] = region.row[t + P::LANES * b + P::A * k1];
    }
    inverse<N>(region, v, twiddle, me.t);
    __syncwarp();
    if (fresh(me.t) < S::PAIRS) UNROLL for (int n2 = 0; n2 < P::A; n2++) {
        const float2 a = v[n2], b = v[P::A + n2];
        *reinterpret_cast<float4*>(region.row + 2 * fresh(t) + P::B * n2) = make_float4(a.x, a.y, b.x, b.y);
      }
    __syncwarp();
  }
}

// Pixel (i, j) of the real map
template <int N>
DEVICE float map_at(const float2* plane, int i, int j) {
  const float2* packed = plane + (i >> 1) * Plan<N>::PITCH + j;
  return i & 1 ? packed->y : packed->x;
}
// i or j brought back onto the detector from at most one detector's width beside it
template <int N>
DEVICE int wrapped(int i) {
  i += i < 0 ? N : 0;
  return i >= N ? i - N : i;
}
