// ssb_sum.cu -- single-side-band sums: scan spectra of detector pixels, weighted by the overlap of aperture disks.
//   spectra  (n, nx, nk)      float2, scan spectra G of n bright-field pixels
//   at       (n)              float2, the pixels k from the optical axis, detector pixels
//   rows, columns (nx), (nk)  float2, scan frequencies K = rows[i] + columns[j] in detector pixels
//   overlap  (splits, planes, nx, nk) double2,   weight (splits, planes, nx, nk) double
// weighted: sum of G conj(Gamma) and of |Gamma|^2 with Gamma = A - B,
//   A = conj(Psi(k)) Psi(k - K), B = Psi(k) conj(Psi(k + K)).
// exact: plane 0 sums G conj(A) and |A| where Psi(k + K) = 0, plane 1 G conj(B) and |B| where Psi(k - K) = 0.
// No mask is stored. Psi is computed from the distance to the axis (disk), or from an array by bilinear interpolation.
// It is multiplied by exp(-i pi sum c x^i y^j), a polynomial of degree 0 (none), 2 or 6.
//
// One block of (32, 8) threads for 32 consecutive frequencies. threadIdx.x is the frequency, so that a warp reads 256
// bytes of one spectrum. threadIdx.y takes every eighth pixel. All threads together compute Psi(k) of 256 pixels and
// keep it in shared memory. A thread computes the weights of four pixels, then reads their four spectra together. The
// 32 terms that a thread has of 256 pixels are added in float, the rest in double, always in the same order. A small
// scan has few frequencies. Its pixels are split over gridDim.y blocks, `span` each, and add_splits adds their sums in
// order. The launcher chooses by the shape alone, so that no result depends on the GPU.
//
// bytes: 8 a pair (pixel, frequency) whose disks overlap, once; 48 a frequency, plane and split.
// flops: 45 a pair without aberrations, 90 degree 2, 190 degree 6, 230 array; sincospi counted as 20.
// bound: memory without aberrations and, nearly, degree 2; issue slots beyond.
//
// budget(.*_disk[02]): 80 registers, 6144 bytes shared
//
// budget(.*_disk6|.*_array): 128 registers, 6144 bytes shared
//
// budget(add_splits): 64 registers, 0 bytes shared
#include "common.cuh"

#define LANES 8
#define CHUNK 256
#define STEP 4  // pixels whose spectra a thread loads together

DEVICE bool is_zero(float2 a) { return a.x == 0.0f && a.y == 0.0f; }

// chi / pi = sum c[i][j] x^i y^j, i + j <= DEGREE: coefficients in registers, Horner in y inside Horner in x
template <int DEGREE>
struct Polynomial {
  float c[(DEGREE + 1) * (DEGREE + 2) / 2];
  DEVICE explicit Polynomial(const float* __restrict__ from) {
    UNROLL for (int i = 0; DEGREE && i < (DEGREE + 1) * (DEGREE + 2) / 2; i++) c[i] = from[i];
  }
  DEVICE float operator()(float x, float y) const {
    float value = 0.0f;
    int next = (DEGREE + 1) * (DEGREE + 2) / 2;  // rows of the triangle from i = DEGREE down, each from j = 0 up
    UNROLL for (int i = DEGREE; i >= 0; i--) {
      next -= DEGREE - i + 1;
      float inner = 0.0f;
      UNROLL for (int j = DEGREE - i; j >= 0; j--) inner = inner * y + c[next + j];
      value = value * x + inner;
    }
    return value;
  }
};

struct Pupil {
  const float2* array;
  int qx, qy;
  float cx, cy, reach;

  DEVICE float2 at(int i, int j, float weight) const {
    if (i < 0 || j < 0 || i >= qx || j >= qy) return make_float2(0.0f, 0.0f);
    const float2 v = array[(offset_t)i * qy + j];
    return v * weight;
  }
  DEVICE float2 interpolated(float x, float y) const {
    const float u = x + cx, v = y + cy, fu = floorf(u), fv = floorf(v);
    if (!(fu >= -1.0f && fv >= -1.0f && fu < (float)qx && fv < (float)qy)) return make_float2(0.0f, 0.0f);
    const int i = (int)fu, j = (int)fv;
    const float a = u - fu, b = v - fv;
    const float2 p = at(i, j, (1 - a) * (1 - b)), q = at(i, j + 1, (1 - a) * b);
    const float2 r = at(i + 1, j, a * (1 - b)), s = at(i + 1, j + 1, a * b);
    return p + q + (r + s);
  }
};

template <int DEGREE, bool ARRAY>
DEVICE float2 wave(const Pupil& pupil, const Polynomial<DEGREE>& chi, float x, float y) {
  float2 value;
  if (ARRAY) {
    value = pupil.interpolated(x, y);
  } else {
    const float square = x * x + y * y;
    if (!(square < pupil.reach * pupil.reach)) return make_float2(0.0f, 0.0f);
    value = make_float2(fminf(pupil.reach - sqrtf(square), 1.0f), 0.0f);
  }
  if (DEGREE == 0 || is_zero(value)) return value;
  float s, c;
  sincospif(chi(x, y), &s, &c);
  return value * make_float2(c, -s);
}

// Sum over the lanes of a frequency, in their order; lane 0 has it.
DEVICE double lane_sum(double v, double* part) {
  __syncthreads();
  part[threadIdx.y * 32 + threadIdx.x] = v;
  __syncthreads();
  double total = 0;
  if (threadIdx.y == 0)
    for (int lane = 0; lane < LANES; lane++) total += part[lane * 32 + threadIdx.x];
  return total;
}

// Weight of G(k, K): Gamma, or the one of A and B that overlaps alone. `plane` is where it is added, -1 for nowhere.
template <bool EXACT>
DEVICE float2 weight_of(float2 own, float2 minus, float2 plus, int& plane) {
  const bool left = !is_zero(minus), right = !is_zero(plus);
  const float2 a = conj(own) * minus, b = own * conj(plus);
  if (EXACT) {
    plane = left == right ? -1 : left ? 0 : 1;
    return plane < 0 ? make_float2(0.0f, 0.0f) : left ? a : b;
  }
  plane = left || right ? 0 : -1;
  return a - b;
}

template <bool EXACT, int DEGREE, bool ARRAY>
DEVICE void sums(const float2* __restrict__ spectra, const float2* __restrict__ at, const float2* __restrict__ rows,
                 const float2* __restrict__ columns, const float2* __restrict__ array, int qx, int qy, float cx,
                 float cy, float reach, const float* __restrict__ coefficients, int n, int nx, int nk,
                 int span, double2* __restrict__ overlap, double* __restrict__ weight) {
  constexpr int PLANES = EXACT ? 2 : 1;
  __shared__ float4 pixel[CHUNK];
  __shared__ double part[LANES * 32];
  const Pupil pupil = {array, qx, qy, cx, cy, reach};
  const Polynomial<DEGREE> chi(coefficients);
  const offset_t frequencies = (offset_t)nx * nk, f = (offset_t)blockIdx.x * 32 + threadIdx.x;
  float kx = 0, ky = 0;
  bool active = f < frequencies;
  if (active) {
    const float2 row = rows[f / nk], column = columns[f % nk];
    kx = row.x + column.x, ky = row.y + column.y;
    if (!ARRAY) active = kx * kx + ky * ky < 4 * reach * reach;  // else no two disks overlap
  }
  const int thread = threadIdx.y * 32 + threadIdx.x;
  double re[PLANES] = {}, im[PLANES] = {}, total[PLANES] = {};
  const int begin = blockIdx.y * span, end = n - begin < span ? n : begin + span;
  for (int first = begin; first < end; first += CHUNK) {
    const int some = end - first < CHUNK ? end - first : CHUNK;
    __syncthreads();
    if (thread < some) {
      const float2 k = at[first + thread], own = wave<DEGREE, ARRAY>(pupil, chi, k.x, k.y);
      pixel[thread] = make_float4(k.x, k.y, own.x, own.y);
    }
    __syncthreads();
    float r[PLANES] = {}, i[PLANES] = {}, w[PLANES] = {};
    for (int step = threadIdx.y; active && step < some; step += STEP * LANES) {
      float2 v[STEP], g[STEP];
      int plane[STEP];
      UNROLL for (int q = 0; q < STEP; q++) {
        plane[q] = -1;
        v[q] = make_float2(0.0f, 0.0f);
        if (step + q * LANES < some) {
          const float4 k = pixel[step + q * LANES];
          const float2 own = make_float2(k.z, DEGREE || ARRAY ? k.w : 0.0f);
          const float2 minus = wave<DEGREE, ARRAY>(pupil, chi, k.x - kx, k.y - ky);
          const float2 plus = wave<DEGREE, ARRAY>(pupil, chi, k.x + kx, k.y + ky);
          v[q] = weight_of<EXACT>(own, minus, plus, plane[q]);
        }
      }
      UNROLL for (int q = 0; q < STEP; q++) {  // all four loads are under way together; pixels outside are not read
        g[q] = make_float2(0.0f, 0.0f);
        if (plane[q] >= 0) g[q] = spectra[(first + step + q * LANES) * frequencies + f];
      }
      UNROLL for (int q = 0; q < STEP; q++) {
        const float2 term = g[q] * conj(v[q]);
        const float square = v[q].x * v[q].x + v[q].y * v[q].y, size = EXACT ? sqrtf(square) : square;
        UNROLL for (int z = 0; z < PLANES;
                    z++) {  // selected, not indexed: an index known at run time would need a stack frame
          const float here = !EXACT || plane[q] == z ? 1.0f : 0.0f;
          r[z] += here * term.x, i[z] += here * term.y, w[z] += here * size;
        }
      }
    }
    UNROLL for (int q = 0; q < PLANES; q++) re[q] += r[q], im[q] += i[q], total[q] += w[q];
  }
  UNROLL for (int q = 0; q < PLANES; q++) {
    const double x = lane_sum(re[q], part), y = lane_sum(im[q], part), sum = lane_sum(total[q], part);
    if (threadIdx.y == 0 && f < frequencies) {
      const offset_t out = (offset_t(blockIdx.y) * PLANES + q) * frequencies + f;
      overlap[out] = make_double2(x, y);
      weight[out] = sum;
    }
  }
}

// Add the sums of the splits, in their order; `count` = planes nx nk.
extern "C" __global__ void __launch_bounds__(256)
    add_splits(const double2* __restrict__ overlaps, const double* __restrict__ weights, double2* __restrict__ overlap,
               double* __restrict__ weight, offset_t count, int splits) {
  const offset_t i = offset_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count) return;
  double x = 0, y = 0, sum = 0;
  for (int s = 0; s < splits; s++) {
    const double2 part = overlaps[s * count + i];
    x += part.x, y += part.y, sum += weights[s * count + i];
  }
  overlap[i] = make_double2(x, y);
  weight[i] = sum;
}

#define INSTANCE(NAME, BLOCKS, EXACT, DEGREE, ARRAY)                                                                  \
  extern "C" __global__ void __launch_bounds__(256, BLOCKS)                                                           \
      NAME(const float2* __restrict__ spectra, const float2* __restrict__ at, const float2* __restrict__ rows,        \
           const float2* __restrict__ columns, const float2* __restrict__ array, int qx, int qy, float cx, float cy,  \
           float reach, const float* __restrict__ coefficients, int n, int nx, int nk, int span,                      \
           double2* __restrict__ overlap, double* __restrict__ weight) {                                              \
    sums<EXACT, DEGREE, ARRAY>(spectra, at, rows, columns, array, qx, qy, cx, cy, reach, coefficients, n, nx, nk,     \
                               span, overlap, weight);                                                                \
  }
INSTANCE(weighted_disk0, 3, false, 0, false)
INSTANCE(weighted_disk2, 3, false, 2, false)
INSTANCE(weighted_disk6, 2, false, 6, false)
INSTANCE(weighted_array, 2, false, 6, true)
INSTANCE(exact_disk0, 3, true, 0, false)
INSTANCE(exact_disk2, 3, true, 2, false)
INSTANCE(exact_disk6, 2, true, 6, false)
INSTANCE(exact_array, 2, true, 6, true)
