// fused_disks.cu -- Bragg disks of patterns of 64, 96, 128 or 192 pixels square: counts in, disks out, one block a
// pattern. Spectra and maps never leave shared memory. The operation `find_disks` defines the result.
//   patterns  (n, N, N)      uint8, uint16, uint32 or float32 (`type`, `pixel_bytes`), y fastest
//   spectrum                 half of the template's conjugate half-plane spectrum, columns 0 .. N/2-1, complex float in
//                            the order lanes read it (fused_disks.py); nyquist (N): its column N/2
//   moments   (4, N, N)      K^2, Kx^2, Kx Ky, Ky^2 of the template, centred at (N/2, N/2)
//   reach     (2)            half widths of the window outside which they are zero
//   allowed   (N, N)         bytes, 0 = no maximum may lie here
//   counts    (n)            int64
//   fields    (5, n, most)   double: qx, qy, height, sx, sy; NaN after the last
//
// There are three stages. FIND uses the map of n = find_power, TEST that of n = 1, REFINE that of n = refine_power. If
// another map is in shared memory, the pattern is transformed again (from L2): twice for 0.85 and 1, once for 1 and 1.
// FIND takes at most CANDIDATES maxima, the strongest. If there are more and max_peaks is not reached after TEST, FIND
// and TEST run again for the next ones, so that no maximum is lost.
//   launch: grid n, block 128, 192, 256, 384 threads, dynamic shared memory 21 560, 43 856, 75 880, 164 504 bytes for
//           N = 64, 96, 128, 192. On sm_90 three blocks of 128 x 128 fit a multiprocessor (registers are capped at 80
//           for that), on sm_80 two, on sm_86, 89, 120 one; sm_75 has room for 64 and 96 alone.
// For N = 128 and uint16:
//   bytes:  pattern 32 kB from DRAM, and from L2 for the second transform; template 66.5 kB a transform, from L2;
//           0.85 MB through shared memory a transform, 64 kB a Newton step of a disk.
//   flops:  1.05 M a transform, 0.1 M a Newton step, 2 (2 hx + 1)(2 hy + 1) a candidate (less: it stops early) and
//           6 (2 hx + 1)(2 hy + 1) a disk for its standard errors.
//   bound:  issue slots. Warp instructions, estimated from PTX: 60 k a transform, 15 k for the maxima, 150 a candidate
//           that is noise, 2.9 k a Newton step of a disk (2.2 to 2.7 are taken), 2 k its standard errors.
// -D SIZE=N compiles one size alone, which is what the launcher asks for.
// budget(find_disks_64): 102 registers, 0 bytes shared
// budget(find_disks_96): 80 registers, 0 bytes shared
// budget(find_disks_128): 128 registers, 0 bytes shared
// budget(find_disks_192): 168 registers, 0 bytes shared
#include "columns.cuh"
#include "refine.cuh"

template <int N>
struct Workspace {
  float2 plane[Shape<N>::PLANE];
  Candidates<N> list;
  Scratch<N> scratch;
};

// Pixels -> map of n = power in the plane. Returns the flaws of the pixels that this thread read.
template <int N>
DEVICE unsigned correlate(const void* image, int type, const Filter& filter, float2* plane) {
  const Lane me = lane_of<N>(fresh((int)threadIdx.x));
  const Twiddle<N> twiddle(me.t);
  const unsigned flaws = transform_rows<N>(image, type, plane, twiddle, me);
  __syncthreads();
  filter_columns<N>(plane, filter, twiddle, me);
  __syncthreads();
  invert_rows<N>(plane, twiddle, me);
  __syncthreads();
  return flaws;
}

enum Stage { FIND, TEST, REFINE };
constexpr float NO_MAP = -1.0f;

template <int N>
DEVICE void find_disks(const void* patterns, int type, int pixel_bytes, Filter filter, const Moments& moments,
                       const u8* allowed, float find_power, float refine_power, int refinement,
                       const PeakLimits& limits, long long* counts, double* fields, Workspace<N>& work) {
  using S = Shape<N>;
  const offset_t stride = (offset_t)gridDim.x * limits.max_peaks;
  const void* image = static_cast<const char*>(patterns) + (offset_t)blockIdx.x * N * N * pixel_bytes;
  fields += (offset_t)blockIdx.x * limits.max_peaks;

  float map_power = NO_MAP;
  bool negative = false;
  Key ceiling = NO_CEILING;
  int candidates = 0, found = 0;
#pragma unroll 1
  for (int stage = FIND;;) {
    const float power = stage == FIND ? find_power : stage == TEST ? 1.0f : refine_power;
    if (power != map_power) {  // every stage ends with a barrier: no thread reads the old map any more
      filter.half_exponent = 0.5f * (power - 1.0f);
      const unsigned mine = correlate<N>(image, type, filter, work.plane);
      if (map_power == NO_MAP) {
        const unsigned flaws =
            block_all<S::WARPS>(mine, work.scratch.flaws, [](unsigned a, unsigned b) { return a | b; });
        if (flaws & NOT_FINITE) break;
        negative = flaws & NEGATIVE;
      }
      map_power = power;
    }
    const int thread = fresh((int)threadIdx.x);
    if (stage == FIND) {
      candidates = collect<N>(work.plane, work.list, work.scratch, limits, allowed, ceiling, thread);
      stage = TEST;
    } else if (stage == TEST) {
      remove_insignificant<N>(work.plane, work.list, candidates, image, type, moments, limits.min_significance,
                              negative, thread);
      candidates = compact<N>(work.list, candidates, work.scratch, thread);
      rank<N>(work.list, candidates, thread);
      if (thread < 32) {
        const int there = apply_spacing<N>(work.list, candidates, limits, found, fields, fields + stride, thread);
        if (thread == 0) work.scratch.peaks = there;
      }
      __syncthreads();
      found = work.scratch.peaks;
      stage = ceiling > 0 && found < limits.max_peaks ? FIND : REFINE;  // weaker maxima that the list could not take
    } else {
      refine<N>(work.plane, image, type, moments,
                RefineOptions{refinement, refine_power != find_power, refine_power == 1.0f}, found, fields, stride,
                thread);
      break;
    }
  }
  for (int p = found + threadIdx.x; p < limits.max_peaks; p += S::THREADS)
    UNROLL for (int f = 0; f < 5; f++) fields[f * stride + p] = __uint_as_float(0x7fc00000u);
  if (threadIdx.x == 0) counts[blockIdx.x] = found;
}

// Blocks that a multiprocessor is asked to hold. Shared memory allows no more, so a lower cap on registers would gain
// nothing.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
#define BLOCKS_OF_128 2
#else
#define BLOCKS_OF_128 3
#endif

#define INSTANCE(N, BLOCKS)                                                                                           \
  extern "C" __global__ void __launch_bounds__(Plan<N>::THREADS, BLOCKS)                                              \
      find_disks_##N(const void* patterns, int type, int pixel_bytes, const float4* spectrum, const float2* nyquist,  \
                     const float* moments, const int* reach, const u8* allowed, float find_power, float refine_power, \
                     int refinement, float min_significance, float min_relative, float min_absolute, int near_below,  \
                     int max_peaks, long long* counts, double* fields) {                                              \
    DYNAMIC_SHARED(Workspace<N>, work);                                                                               \
    find_disks<N>(patterns, type, pixel_bytes, Filter{spectrum, nyquist, 0.0f, 1.0f / (N * N)},                       \
                  Moments{moments, reach[0], reach[1]}, allowed, find_power, refine_power, refinement,                \
                  PeakLimits{min_significance, min_relative, min_absolute, near_below, max_peaks}, counts, fields,    \
                  *work);                                                                                             \
  }
#if !defined(SIZE) || SIZE == 64
INSTANCE(64, 5)
#endif
#if !defined(SIZE) || SIZE == 96
INSTANCE(96, 4)
#endif
#if !defined(SIZE) || SIZE == 128
INSTANCE(128, BLOCKS_OF_128)
#endif
#if !defined(SIZE) || SIZE == 192
INSTANCE(192, 1)
#endif
