// fft.cuh -- small Fourier transforms in registers, and the two-step transform of N = A x B points by a group of lanes.
// SIGN -1 is the forward transform exp(-2 pi i k n / N), SIGN +1 the unnormalised inverse. All orders are natural.
#pragma once
#include "common.cuh"

// exp(2 pi i K / N) at compile time, by the Taylor series in double of an angle in (-pi, pi]
__device__ constexpr double cosine_of(double x) {
  double term = 1, sum = 1;
  for (int i = 1; i < 16; i++) {
    term *= -x * x / ((2 * i - 1) * (2 * i));
    sum += term;
  }
  return sum;
}
__device__ constexpr double sine_of(double x) {
  double term = x, sum = x;
  for (int i = 1; i < 16; i++) {
    term *= -x * x / ((2 * i) * (2 * i + 1));
    sum += term;
  }
  return sum;
}
template <int K, int N>
struct Root {
  static constexpr double angle = 6.283185307179586477 * (2 * K > N ? K - N : K) / N;
  static constexpr float re = float(cosine_of(angle)), im = float(sine_of(angle));
};

template <int SIGN>
DEVICE float2 times_i(float2 a) {
  return SIGN > 0 ? make_float2(-a.y, a.x) : make_float2(a.y, -a.x);
}
// a exp(SIGN 2 pi i K / N), 0 <= K < N
template <int K, int N, int SIGN>
DEVICE float2 times_root(float2 a) {
  constexpr float half = 0.70710678118654752f;
  if constexpr (K == 0) {
    return a;
  } else if constexpr (2 * K == N) {
    return make_float2(-a.x, -a.y);
  } else if constexpr (4 * K == N) {
    return times_i<SIGN>(a);
  } else if constexpr (4 * K == 3 * N) {
    return times_i<-SIGN>(a);
  } else if constexpr (8 * K == N) {
    return (a + times_i<SIGN>(a)) * half;
  } else if constexpr (8 * K == 3 * N) {
    return (times_i<SIGN>(a) - a) * half;
  } else {
    constexpr float re = Root<K, N>::re, im = SIGN * Root<K, N>::im;
    return make_float2(a.x * re - a.y * im, a.y * re + a.x * im);
  }
}

// Transforms of R points in place on v[0 .. R-1]
template <int R, int SIGN>
struct Radix;
template <int SIGN>
struct Radix<2, SIGN> {
  static DEVICE void run(float2* v) {
    const float2 sum = v[0] + v[1];
    v[1] = v[0] - v[1];
    v[0] = sum;
  }
};
template <int SIGN>
struct Radix<3, SIGN> {
  static DEVICE void run(float2* v) {
    constexpr float sine = 0.86602540378443865f;
    const float2 sum = v[1] + v[2], turned = times_i<SIGN>(v[1] - v[2]) * sine;
    const float2 middle = make_float2(v[0].x - 0.5f * sum.x, v[0].y - 0.5f * sum.y);
    v[0] = v[0] + sum;
    v[1] = middle + turned;
    v[2] = middle - turned;
  }
};
template <int SIGN>
struct Radix<4, SIGN> {
  static DEVICE void run(float2* v) {
    const float2 a = v[0] + v[2], b = v[0] - v[2], c = v[1] + v[3], d = times_i<SIGN>(v[1] - v[3]);
    v[0] = a + c, v[1] = b + d, v[2] = a - c, v[3] = b - d;
  }
};
// R = A x B: n = n1 + B n2, k = k2 + A k1; A-point transforms over n2, roots, B-point transforms over n1
template <int A, int B, int SIGN>
struct Composite {
  static DEVICE void run(float2* v) {
    constexpr int R = A * B;
    float2 y[R];
    unrolled<0, B>([&](auto n1) {
      float2 u[A];
      unrolled<0, A>([&](auto n2) { u[n2.value] = v[n1.value + B * n2.value]; });
      Radix<A, SIGN>::run(u);
      unrolled<0, A>([&](auto k2) {
        constexpr int turn = decltype(n1)::value * decltype(k2)::value % R;
        y[n1.value + B * k2.value] = times_root<turn, R, SIGN>(u[k2.value]);
      });
    });
    unrolled<0, A>([&](auto k2) {
      Radix<B, SIGN>::run(y + B * k2.value);
      unrolled<0, B>([&](auto k1) { v[k2.value + A * k1.value] = y[B * k2.value + k1.value]; });
    });
  }
};
template <int SIGN>
struct Radix<8, SIGN> : Composite<2, 4, SIGN> {};
template <int SIGN>
struct Radix<12, SIGN> : Composite<3, 4, SIGN> {};
template <int SIGN>
struct Radix<16, SIGN> : Composite<4, 4, SIGN> {};

// Layout of the transforms of a pattern of N x N pixels. LANES lanes share a transform of N = A x B points:
//   n = n1 + B n2 (n1 < B, n2 < A),   k = k2 + A k1 (k2 < A, k1 < B)
//   "spread":   lane t < PAIRS holds n1 = 2t and 2t+1 for every n2 (later every k2):      v[j A + n2], n1 = 2t + j
//   "gathered": lane t holds k2 = t + LANES b for every n1 (later every k1):               v[b B + n1]
// One lane holds the neighbours n1 = 2t and 2t+1, so that the column pass can take rows 2r and 2r+1, which share one
// packed row. PITCH is the distance of packed rows in float2. It is chosen so that a column's neighbours fall into
// different banks. CANDIDATES is the number of maxima that the list in shared memory can take.
template <int N>
struct Plan;
template <>
struct Plan<64> {
  static constexpr int A = 8, B = 8, LANES = 4, PITCH = 68, THREADS = 128, CANDIDATES = 512;
};
template <>
struct Plan<96> {
  static constexpr int A = 8, B = 12, LANES = 8, PITCH = 98, THREADS = 192, CANDIDATES = 768;
};
template <>
struct Plan<128> {
  static constexpr int A = 8, B = 16, LANES = 8, PITCH = 130, THREADS = 256, CANDIDATES = 1152;
};
template <>
struct Plan<192> {
  static constexpr int A = 16, B = 12, LANES = 8, PITCH = 194, THREADS = 384, CANDIDATES = 1920;
};
template <int N>
struct Shape : Plan<N> {
  using P = Plan<N>;
  static constexpr int PAIRS = P::B / 2, PER_LANE = P::A / P::LANES, SPREAD = 2 * P::A, GATHERED = PER_LANE * P::B;
  static constexpr int VALUES = SPREAD > GATHERED ? SPREAD : GATHERED;           // a lane holds of a transform
  static constexpr int GROUPS = P::THREADS / P::LANES, WARPS = P::THREADS / 32;  // of a block
  static constexpr int ROWS = N / 2, PLANE = ROWS * P::PITCH;                    // packed rows; float2 in shared memory
  static_assert(P::A * P::B == N && P::B % 2 == 0 && P::A % P::LANES == 0 && PAIRS <= P::LANES, "lanes of a transform");
  static_assert(ROWS % GROUPS == 0 && ROWS % WARPS == 0 && N % 32 == 0, "every group has as many rows as the others");
};

struct Lane {
  int thread, group, t;  // thread of the block, group of LANES lanes, lane of the group
};
template <int N>
DEVICE Lane lane_of(int thread) {
  return {thread, thread / Plan<N>::LANES, thread % Plan<N>::LANES};
}

// Whether this lane holds a pair in the spread layout. It is used where values are loaded. There the compiler must know
// when all lanes hold one, because a register that may be unset stays occupied around every loop. Elsewhere `t < PAIRS`
// is evaluated at run time. That branch keeps the scheduler from mixing its two sides, which would take more registers.
template <int N>
DEVICE bool holds_pair(int t) {
  return Shape<N>::PAIRS == Plan<N>::LANES || t < Shape<N>::PAIRS;
}

// Twiddles exp(-2 pi i n1 k2 / N) between the two steps. Only the two bases n1 = 2t and 2t+1 are kept. Their powers are
// multiplied out where they are needed.
template <int N>
struct Twiddle {
  float2 base[2];
  DEVICE explicit Twiddle(int t) {
    for (int j = 0; j < 2; j++) {
      float sine, cosine;
      sincospif(-2.0f * (2 * t + j) / N, &sine, &cosine);
      base[j] = make_float2(cosine, sine);
    }
  }
  template <int SIGN>
  DEVICE void apply(float2* v) const {  // on the spread layout
    constexpr int A = Plan<N>::A;
    UNROLL for (int j = 0; j < 2; j++) {
      float2 power[A];
      power[1] = make_float2(fresh(base[j].x), fresh(SIGN < 0 ? base[j].y : -base[j].y));
      UNROLL for (int k = 2; k < A; k++) power[k] = power[k / 2] * power[k - k / 2];
      UNROLL for (int k = 1; k < A; k++) v[j * A + k] = v[j * A + k] * power[k];
    }
  }
};

// A region is the N places of the plane that belong to a group during one transform: place (half, i), i < N/2.
template <int N>
struct RowRegion {
  float2* row;
  DEVICE float2& at(int half, int i) const { return row[half * (N / 2) + i]; }
};
template <int N>
struct ColumnRegion {
  float2 *column, *mirror;
  DEVICE float2& at(int half, int i) const { return (half ? mirror : column)[i * Plan<N>::PITCH]; }
};

// The layouts are exchanged through the group's own region, so that no other memory and only a warp barrier is needed.
// Value (n1 = 2s + j, k2) lies in half j, place k2 PAIRS + swizzle(s, k2). Lanes that differ in s or in k2 then access
// different banks.
template <int N>
DEVICE int place_of(int s, int k2) {
  constexpr int PAIRS = Shape<N>::PAIRS;
  if constexpr ((PAIRS & (PAIRS - 1)) == 0)
    return k2 * PAIRS + (s ^ (k2 & (PAIRS - 1)));
  else
    return k2 * PAIRS + (s + k2) % PAIRS;
}
template <int N, class Region>
DEVICE void put_spread(const Region& region, const float2* v, int t) {
  constexpr int A = Plan<N>::A;
  if (t < Shape<N>::PAIRS) UNROLL for (int k2 = 0; k2 < A; k2++) {
      UNROLL for (int j = 0; j < 2; j++) region.at(j, place_of<N>(t, k2)) = v[j * A + k2];
    }
}
template <int N, class Region>
DEVICE void get_spread(const Region& region, float2* v, int t) {
  constexpr int A = Plan<N>::A;
  if (t < Shape<N>::PAIRS) UNROLL for (int k2 = 0; k2 < A; k2++) {
      UNROLL for (int j = 0; j < 2; j++) v[j * A + k2] = region.at(j, place_of<N>(t, k2));
    }
}
template <int N, class Region>
DEVICE void put_gathered(const Region& region, const float2* v, int t) {
  constexpr int B = Plan<N>::B;
  UNROLL for (int b = 0; b < Shape<N>::PER_LANE; b++) {
    UNROLL for (int n1 = 0; n1 < B; n1++) region.at(n1 & 1, place_of<N>(n1 / 2, t + Plan<N>::LANES * b)) =
        v[b * B + n1];
  }
}
template <int N, class Region>
DEVICE void get_gathered(const Region& region, float2* v, int t) {
  constexpr int B = Plan<N>::B;
  UNROLL for (int b = 0; b < Shape<N>::PER_LANE; b++) {
    UNROLL for (int n1 = 0; n1 < B; n1++) v[b * B + n1] =
        region.at(n1 & 1, place_of<N>(n1 / 2, t + Plan<N>::LANES * b));
  }
}

// Forward: v spread over n -> v gathered over k. Before the call, every lane of the group must have read the old
// contents of the region.
template <int N, class Region>
DEVICE void forward(const Region& region, float2* v, const Twiddle<N>& twiddle, int t) {
  constexpr int A = Plan<N>::A, B = Plan<N>::B;
  t = fresh(t);
  Radix<A, -1>::run(v);
  Radix<A, -1>::run(v + A);
  twiddle.template apply<-1>(v);
  __syncwarp();
  put_spread<N>(region, v, t);
  __syncwarp();
  get_gathered<N>(region, v, t);
  UNROLL for (int b = 0; b < Shape<N>::PER_LANE; b++) Radix<B, -1>::run(v + b * B);
}
// Inverse, unnormalised: v gathered over k -> v spread over n
template <int N, class Region>
DEVICE void inverse(const Region& region, float2* v, const Twiddle<N>& twiddle, int t) {
  constexpr int A = Plan<N>::A, B = Plan<N>::B;
  t = fresh(t);
  UNROLL for (int b = 0; b < Shape<N>::PER_LANE; b++) Radix<B, +1>::run(v + b * B);
  __syncwarp();
  put_gathered<N>(region, v, t);
  __syncwarp();
  get_spread<N>(region, v, t);
  twiddle.template apply<+1>(v);
  Radix<A, +1>::run(v);
  Radix<A, +1>::run(v + A);
}
