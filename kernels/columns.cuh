// columns.cuh -- unpack, column transform, product with the template, m |m|^(n-1), inverse transform, pack, all while
// the values are in registers. Task q works on columns q and N - q of the packed plane, which hold column q of both
// real rows of every pair (a row's spectrum is Hermitian). Task 0 works on columns 0 and N/2. Both are real before the
// column transform and are transformed as one complex column C = X_0 + i X_{N/2}. So there are N/2 equal tasks and no
// column N/2 + 1.
#pragma once
#include "fft.cuh"

struct Filter {
  const float4* spectrum;  // conj F(template) / 2 of columns 0 .. N/2-1, in the order lanes read it (fused_disks.py)
  const float2* nyquist;   // the same of column N/2, natural order
  float half_exponent;     // (n - 1) / 2
  float scale;             // 1 / N^2
};
// m |m|^(n-1) / N^2 with m = f t, and 0 for m = 0. |m|^2 would leave the range of floats for |m| beyond 1e19 or below
// 1e-19. Such m are brought nearer to 1 by a power of two.
DEVICE float2 hybrid(float2 f, float2 t, const Filter& filter) {
  const float2 m = f * t;
  if (filter.half_exponent == 0.0f) return m * filter.scale;  // n = 1: all threads of the grid return here
  const float larger = fmaxf(fabsf(m.x), fabsf(m.y));
  const float shift = larger > 1e15f ? -64.0f : larger < 1e-15f ? 64.0f : 0.0f;
  const float2 near = m * (larger > 1e15f ? 5.421011e-20f : larger < 1e-15f ? 1.8446744e19f : 1.0f);
  const float log = __log2f(near.x * near.x + near.y * near.y) - 2.0f * shift;
  return m * (larger > 0.0f ? filter.scale * exp2f(filter.half_exponent * log) : 0.0f);
}

// Rows 2r and 2r+1 of column q from the packed row's values at q (z) and N - q (w), times 2. The template contains the
// factor 1/2.
DEVICE void unpack_rows(bool first, float2 z, float2 w, float2& even, float2& odd) {
  even = first ? make_float2(2.0f * z.x, 2.0f * w.x) : make_float2(z.x + w.x, z.y - w.y);
  odd = first ? make_float2(2.0f * z.y, 2.0f * w.y) : make_float2(z.y + w.y, w.x - z.x);
}
DEVICE void pack_rows(bool first, float2 even, float2 odd, float2& z, float2& w) {
  z = first ? make_float2(even.x, odd.x) : make_float2(even.x - odd.y, even.y + odd.x);
  w = first ? make_float2(even.y, odd.y) : make_float2(even.x + odd.y, odd.x - even.y);
}

// Which columns a group works on, and where the template's values of this lane start
template <int N>
struct ColumnTask {
  static constexpr int PER_WARP = 32 / Plan<N>::LANES;
  int q;
  ColumnRegion<N> region;
  const float4* template_values;
  DEVICE ColumnTask(float2* plane, const Filter& filter, int q, int thread)
      : q(q),
        region{plane + q, plane + (q ? N - q : N / 2)},
        template_values(filter.spectrum + (q / PER_WARP) * (Shape<N>::GATHERED / 2) * 32 + (thread & 31)) {}
};
template <int N>
DEVICE void load_columns(const ColumnTask<N>& task, float2* v, int t) {
  using S = Shape<N>;
  if (holds_pair<N>(t)) UNROLL for (int n2 = 0; n2 < S::A; n2++) {
      const float2 z = task.region.at(0, t + S::PAIRS * n2), w = task.region.at(1, t + S::PAIRS * n2);
      unpack_rows(task.q == 0, z, w, v[n2], v[S::A + n2]);
    }
}
template <int N>
DEVICE void store_columns(const ColumnTask<N>& task, const float2* v, int t) {
  using S = Shape<N>;
  if (t < S::PAIRS) UNROLL for (int n2 = 0; n2 < S::A; n2++) {
      float2 z, w;
      pack_rows(task.q == 0, v[n2], v[S::A + n2], z, w);
      task.region.at(0, t + S::PAIRS * n2) = z;
      task.region.at(1, t + S::PAIRS * n2) = w;
    }
}

// Task 0: X_0[k] = (C[k] + conj C[-k]) / 2 and X_{N/2}[k] = (C[k] - conj C[-k]) / 2i are filtered and combined again. k
// and -k belong to different lanes, so this is done in the region, in a rolled loop. Unrolled in registers it would
// need twice the registers of the kernel.
template <int N>
DEVICE float2 first_column_template(const ColumnTask<N>& task, int k, int t) {
  using S = Shape<N>;
  const int owner = k % S::A % S::LANES, i = k % S::A / S::LANES * S::B + k / S::A;
  return __ldg(reinterpret_cast<const float2*>(task.template_values + (i / 2) * 32 + owner - t) + i % 2);
}
template <int N>
DEVICE float2& frequency(const ColumnTask<N>& task, int k) {
  return task.region.at(k >= N / 2, k % (N / 2));
}
template <int N>
DEVICE void multiply_first(const ColumnTask<N>& task, const Filter& filter, int t) {
#pragma unroll 1
  for (int k = t; k <= N / 2; k += Plan<N>::LANES) {
    const int mirror = k ? N - k : 0;
    const float2 c = frequency(task, k), d = conj(frequency(task, mirror));
    const float2 first = hybrid((c + d) * 0.5f, first_column_template(task, k, t), filter);
    const float2 last = hybrid(times_i<-1>(c - d) * 0.5f, __ldg(filter.nyquist + k), filter);
    frequency(task, k) = first + times_i<1>(last);
    frequency(task, mirror) = conj(first) + times_i<1>(conj(last));  // real columns: P[-k] = conj P[k]
  }
}
// v gathered: the spectrum of column q at k = t + LANES b + A k1
template <int N>
DEVICE void multiply(const ColumnTask<N>& task, const Filter& filter, float2* v, int t) {
  using S = Shape<N>;
  if (task.q < ColumnTask<N>::PER_WARP) {  // the one warp that holds task 0: the same answer in all its lanes
    __syncwarp();
    if (task.q == 0) UNROLL for (int b = 0; b < S::PER_LANE; b++) {
        UNROLL for (int k1 = 0; k1 < S::B; k1++) frequency(task, t + S::LANES * b + S::A * k1) = v[b * S::B + k1];
      }
    __syncwarp();
    if (task.q == 0) multiply_first<N>(task, filter, t);
    __syncwarp();
    if (task.q == 0) UNROLL for (int b = 0; b < S::PER_LANE; b++) {
        UNROLL for (int k1 = 0; k1 < S::B; k1++) v[b * S::B + k1] = frequency(task, t + S::LANES * b + S::A * k1);
      }
  }
  if (task.q) UNROLL for (int i = 0; i < S::GATHERED / 2; i++) {
      const float4 pair = __ldg(task.template_values + i * 32);
      v[2 * i] = hybrid(v[2 * i], make_float2(pair.x, pair.y), filter);
      v[2 * i + 1] = hybrid(v[2 * i + 1], make_float2(pair.z, pair.w), filter);
    }
}
// Spectra of the packed rows -> spectra of the packed rows of the correlation map, in place
template <int N>
DEVICE void filter_columns(float2* plane, const Filter& filter, const Twiddle<N>& twiddle, Lane me) {
  using S = Shape<N>;
#pragma unroll 1
  for (int q = me.group; q < S::ROWS; q += S::GROUPS) {
    const int t = fresh(me.t);
    const ColumnTask<N> task(plane, filter, fresh(q), fresh(me.thread));
    float2 v[S::VALUES] = {};
    load_columns<N>(task, v, t);
    forward<N>(task.region, v, twiddle, t);
    multiply<N>(task, filter, v, fresh(t));
    inverse<N>(task.region, v, twiddle, t);
    __syncwarp();
    store_columns<N>(task, v, fresh(t));
    __syncwarp();
  }
}
