// integrate_gradient.cu -- integrates a gradient field: the steps between the transforms that solve Poisson's equation.
//   gradient  (n, rx, ry, 2)        float or double; not finite = unknown
//   planes    (2, n, nx, ny)        double: the field on the grid of the transform, components along x and y
//   spectra   (2, n, nx, ny/2 + 1)  complex double, half plane
//   V = (kx Gx + ky Gy) / (2 pi i (l1 + k^2 + l2 k^4)), k in cycles per sample
// Plain grids (periodic, or padded with zeros) take the real transform as it is. Free (Neumann) edges mean that V is
// continued by its even mirror image. V then has half-sample cosine transforms, and a component of the gradient sine
// transforms along its own axis. Both are made from the real transform of the *same* size, a quarter of the mirrored
// grid: samples are taken in the order 0, 2, 4 ... 5, 3, 1, signs alternate along the axis of a sine transform
// (S_p = C_(N-p)), and a thread makes four coefficients from the transform. One thread a sample of a plane, or a
// frequency (plain), or four frequencies (mirror); blocks of 256, blocks = ceil(threads of a plane / 256), grid
// n * blocks.
// bytes a sample: load 8 or 16 in, 16 out; solve 16 in, 8 out; project 16 in and out; restore 24 to 32 in, 16 out;
// finish 24.   flops: 40 a frequency.   bound: memory. Double precision throughout, because V adds up the errors of the
// gradient.
//
// budget: 64 registers, 256 bytes shared
#include "common.cuh"

DEVICE bool is_finite(double v) { return v - v == 0; }

// ---------------------------------------------------------------- order of the samples

// The sample that stands at place j in the transform's order 0, 2, 4 ... 5, 3, 1.
DEVICE int source_of(int j, int n) { return j < (n + 1) / 2 ? 2 * j : 2 * (n - 1 - j) + 1; }
DEVICE int place_of(int i, int n) { return i & 1 ? n - 1 - i / 2 : i / 2; }

struct Sample {  // one sample of a plane
  offset_t in, out;
  int x, y;
  bool inside;
};

// This thread's sample of the transform's grid, and where it lies in the field (n, rx, ry).
DEVICE Sample sample_of_grid(int rx, int ry, int nx, int ny, int mirror, int blocks) {
  const int plane = blockIdx.x / blocks;
  const int i = (blockIdx.x % blocks) * blockDim.x + threadIdx.x;
  Sample s;
  s.x = i / ny, s.y = i % ny;
  s.inside = s.x < nx;
  if (mirror && s.inside) s.x = source_of(s.x, nx), s.y = source_of(s.y, ny);
  s.out = offset_t(plane) * nx * ny + i;
  s.in = (offset_t(plane) * rx + s.x) * ry + s.y;
  return s;
}

// Sign of a component's sample i along the axis of its sine transform.
DEVICE double sign_of(int i, int mirror) { return mirror && (i & 1) ? -1.0 : 1.0; }

// ---------------------------------------------------------------- the field, in and out

// Write the field to the planes. energy: sum of g^2; unknown: number of samples without a value; one of each a block.
template <class Real>
DEVICE void load_field(const Real* __restrict__ gradient, double* __restrict__ planes, double* __restrict__ energy,
                       int* __restrict__ unknown, offset_t stride, int rx, int ry, int nx, int ny, int mirror,
                       int blocks) {
  __shared__ double part[32];
  const Sample s = sample_of_grid(rx, ry, nx, ny, mirror, blocks);
  double gx = 0, gy = 0;
  int missing = 0;
  if (s.inside && s.x < rx && s.y < ry) {
    gx = gradient[2 * s.in], gy = gradient[2 * s.in + 1];
    missing = !(is_finite(gx) && is_finite(gy));
    if (missing) gx = gy = 0;
  }
  if (s.inside) {
    planes[s.out] = gx * sign_of(s.x, mirror);
    planes[stride + s.out] = gy * sign_of(s.y, mirror);
  }
  const double sum = block_sum(gx * gx + gy * gy, part);
  const double none = block_sum(double(missing), part);
  if (threadIdx.x == 0) energy[blockIdx.x] = sum, unknown[blockIdx.x] = int(none);
}

// The planes hold the gradient of V. Where the field is known, write it back over that. misfit: sum of the squared
// differences, one a block.
template <class Real>
DEVICE void restore_field(const Real* __restrict__ gradient, double* __restrict__ planes, double* __restrict__ misfit,
                          offset_t stride, int rx, int ry, int nx, int ny, int mirror, int blocks) {
  __shared__ double part[32];
  const Sample s = sample_of_grid(rx, ry, nx, ny, mirror, blocks);
  double sum = 0;
  if (s.inside && s.x < rx && s.y < ry) {
    const double gx = gradient[2 * s.in], gy = gradient[2 * s.in + 1];
    if (is_finite(gx) && is_finite(gy)) {
      const double sx = sign_of(s.x, mirror), sy = sign_of(s.y, mirror);
      const double dx = gx - sx * planes[s.out], dy = gy - sy * planes[stride + s.out];
      planes[s.out] = sx * gx;
      planes[stride + s.out] = sy * gy;
      sum = dx * dx + dy * dy;
    }
  }
  sum = block_sum(sum, part);
  if (threadIdx.x == 0) misfit[blockIdx.x] = sum;
}

// Sum of V over the samples with a value, one a block. Their number is known from load_field.
template <class Real>
DEVICE void sum_known(const Real* __restrict__ gradient, const double* __restrict__ v, double* __restrict__ sums,
                      int rx, int ry, int nx, int ny, int mirror, int blocks) {
  __shared__ double part[32];
  const Sample s = sample_of_grid(rx, ry, nx, ny, mirror, blocks);
  double value = 0;
  if (s.inside && s.x < rx && s.y < ry && is_finite(gradient[2 * s.in]) && is_finite(gradient[2 * s.in + 1]))
    value = v[s.out];
  value = block_sum(value, part);
  if (threadIdx.x == 0) sums[blockIdx.x] = value;
}

// out (n, rx, ry) = (V - mean) step, NaN where the field had no value. One thread a sample of `out`.
template <class Real>
DEVICE void finish_field(const Real* __restrict__ gradient, const double* __restrict__ v,
                         const double* __restrict__ mean, double* __restrict__ out, double step, int rx, int ry, int nx,
                         int ny, int mirror, int blocks) {
  const int plane = blockIdx.x / blocks;
  const int i = (blockIdx.x % blocks) * blockDim.x + threadIdx.x;
  if (i >= rx * ry) return;
  int x = i / ry, y = i % ry;
  const offset_t at = offset_t(plane) * rx * ry + i;
  const bool known = is_finite(gradient[2 * at]) && is_finite(gradient[2 * at + 1]);
  if (mirror) x = place_of(x, nx), y = place_of(y, ny);
  const double value = v[offset_t(plane) * nx * ny + offset_t(x) * ny + y];
  out[at] = known ? (value - mean[plane]) * step : nan("");
}

// ---------------------------------------------------------------- plain grids

// 1 / (2 pi weight) of one frequency, k in cycles per sample; 0 where the derivative is zero.
DEVICE double inverse_weight(double kx, double ky, double k2, double l1, double l2) {
  const double square = kx * kx + ky * ky;
  return square > 0 ? 1 / (6.283185307179586476925 * (l1 + square + l2 * k2 * k2)) : 0.0;
}

// The derivative of a real function has no component at the Nyquist frequency.
DEVICE double derivative_frequency(double k) { return k == 0.5 || k == -0.5 ? 0.0 : k; }

// Writes V in place of the first component (project = 0), or the projections of both on gradients.
DEVICE void plain_frequency(double2* __restrict__ spectra, offset_t stride, double l1, double l2, int nx, int ny,
                            int blocks, bool project) {
  const int columns = ny / 2 + 1;
  const int plane = blockIdx.x / blocks;
  const int i = (blockIdx.x % blocks) * blockDim.x + threadIdx.x;
  const int p = i / columns, q = i % columns;
  if (p >= nx) return;
  const double k = double(2 * p >= nx ? p - nx : p) / nx, m = double(q) / ny;
  const double kx = derivative_frequency(k), ky = derivative_frequency(m);
  const double w = inverse_weight(kx, ky, k * k + m * m, l1, l2);
  double2* gx = spectra + offset_t(plane) * nx * columns + i;
  double2* gy = gx + stride;
  const double2 a = *gx, b = *gy;
  const double2 dot = make_double2(kx * a.x + ky * b.x, kx * a.y + ky * b.y);  // k . G
  if (project) {
    const double c = 6.283185307179586476925 * w;
    *gx = make_double2(c * kx * dot.x, c * kx * dot.y);
    *gy = make_double2(c * ky * dot.x, c * ky * dot.y);
  } else {
    *gx = make_double2(w * dot.y, -w * dot.x);  // / i
  }
}

// ---------------------------------------------------------------- mirrored edges

DEVICE double2 times(double2 a, double2 b) { return make_double2(a.x * b.x - a.y * b.y, a.x * b.y + a.y * b.x); }

// Cosine coefficients at (p, q), (N-p, q), (p, M-q), (N-p, M-q). One pair of samples of the real transform gives these
// four.
struct Four {
  double pq, nq, pm, nm;
};

// exp(-i pi/2 (p/nx + q/ny))
DEVICE double2 twiddle(double angle) {
  double s, c;
  sincospi(0.5 * angle, &s, &c);
  return make_double2(c, -s);
}

// From the transform at (p, q) and (N-p, q); p = 0 has no partner, there b = -i a.
DEVICE Four cosines(double2 a, double2 b, double2 wa, double2 wb, bool first) {
  a = times(a, wa);
  b = first ? make_double2(a.y, -a.x) : times(b, wb);
  return {0.5 * (a.x - b.y), 0.5 * (b.x - a.y), -0.5 * (a.y + b.x), -0.5 * (a.x + b.y)};
}

DEVICE void transform_of(Four c, double2 wa, double2 wb, double2* a, double2* b) {
  wa.y = -wa.y, wb.y = -wb.y;
  *a = times(make_double2(c.pq - c.nm, -c.nq - c.pm), wa);
  *b = times(make_double2(c.nq - c.pm, -c.pq - c.nm), wb);
}

// V's cosine coefficient from the sine coefficients of the gradient.
DEVICE double solve_mode(double sx, double sy, double kx, double ky, double l1, double l2) {
  const double k2 = kx * kx + ky * ky;
  return -(kx * sx + ky * sy) * inverse_weight(kx, ky, k2, l1, l2);
}

DEVICE void mirror_frequency(double2* __restrict__ spectra, offset_t stride, double l1, double l2, int nx, int ny,
                             int blocks, bool project) {
  const int columns = ny / 2 + 1, rows = nx / 2 + 1;
  const int plane = blockIdx.x / blocks;
  const int i = (blockIdx.x % blocks) * blockDim.x + threadIdx.x;
  const int p = i / columns, q = i % columns;
  if (p >= rows) return;
  const bool first = p == 0;
  double2* ax = spectra + (offset_t(plane) * nx + p) * columns + q;
  double2* bx = spectra + (offset_t(plane) * nx + (first ? 0 : nx - p)) * columns + q;
  const double u = double(p) / nx, v = double(q) / ny;
  const double2 wa = twiddle(u + v), wb = twiddle(1 - u + v);
  const Four x = cosines(*ax, *bx, wa, wb, first), y = cosines(ax[stride], bx[stride], wa, wb, first);
  // a cosine coefficient of the alternating field is the sine coefficient at N - p (of the y component: at M - q)
  const double k = 0.5 * u, kn = 0.5 - k, m = 0.5 * v, mn = 0.5 - m;
  Four c;
  c.pq = solve_mode(x.nq, y.pm, k, m, l1, l2);
  c.nq = first ? 0 : solve_mode(x.pq, y.nm, kn, m, l1, l2);  // N and M are the Nyquist frequencies: V has none
  c.pm = q == 0 ? 0 : solve_mode(x.nm, y.pq, k, mn, l1, l2);
  c.nm = first || q == 0 ? 0 : solve_mode(x.pm, y.nq, kn, mn, l1, l2);
  double2 a, b;
  if (project) {
    const double t = -6.283185307179586476925;
    const Four gx = {t * kn * c.nq, t * k * c.pq, t * kn * c.nm, t * k * c.pm};
    const Four gy = {t * mn * c.pm, t * mn * c.nm, t * m * c.pq, t * m * c.nq};
    transform_of(gy, wa, wb, &a, &b);
    ax[stride] = a;
    if (!first) bx[stride] = b;
    transform_of(gx, wa, wb, &a, &b);
  } else {
    transform_of(c, wa, wb, &a, &b);
  }
  *ax = a;
  if (!first) *bx = b;
}

// ---------------------------------------------------------------- instances

#define FIELD(NAME, Real)                                                                                           \
  extern "C" __global__ void __launch_bounds__(256) load_field_##NAME(                                              \
      const Real* __restrict__ gradient, double* __restrict__ planes, double* __restrict__ energy,                  \
      int* __restrict__ unknown, offset_t stride, int rx, int ry, int nx, int ny, int mirror, int blocks) {         \
    load_field<Real>(gradient, planes, energy, unknown, stride, rx, ry, nx, ny, mirror, blocks);                    \
  }                                                                                                                 \
  extern "C" __global__ void __launch_bounds__(256) restore_field_##NAME(                                           \
      const Real* __restrict__ gradient, double* __restrict__ planes, double* __restrict__ misfit, offset_t stride, \
      int rx, int ry, int nx, int ny, int mirror, int blocks) {                                                     \
    restore_field<Real>(gradient, planes, misfit, stride, rx, ry, nx, ny, mirror, blocks);                          \
  }                                                                                                                 \
  extern "C" __global__ void __launch_bounds__(256)                                                                 \
      sum_known_##NAME(const Real* __restrict__ gradient, const double* __restrict__ v, double* __restrict__ sums,  \
                       int rx, int ry, int nx, int ny, int mirror, int blocks) {                                    \
    sum_known<Real>(gradient, v, sums, rx, ry, nx, ny, mirror, blocks);                                             \
  }                                                                                                                 \
  extern "C" __global__ void __launch_bounds__(256) finish_field_##NAME(                                            \
      const Real* __restrict__ gradient, const double* __restrict__ v, const double* __restrict__ mean,             \
      double* __restrict__ out, double step, int rx, int ry, int nx, int ny, int mirror, int blocks) {              \
    finish_field<Real>(gradient, v, mean, out, step, rx, ry, nx, ny, mirror, blocks);                               \
  }
FIELD(f32, float)
FIELD(f64, double)

#define FREQUENCIES(NAME, RUN, PROJECT)                                                                        \
  extern "C" __global__ void __launch_bounds__(256)                                                            \
      NAME(double2* __restrict__ spectra, offset_t stride, double l1, double l2, int nx, int ny, int blocks) { \
    RUN(spectra, stride, l1, l2, nx, ny, blocks, PROJECT);                                                     \
  }
FREQUENCIES(solve_plain, plain_frequency, false)
FREQUENCIES(project_plain, plain_frequency, true)
FREQUENCIES(solve_mirror, mirror_frequency, false)
FREQUENCIES(project_mirror, mirror_frequency, true)
