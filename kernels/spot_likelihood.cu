// spot_likelihood.cu -- how much expected disks explain of the counts.
//   patterns  (n, nx, ny) native dtype, `kind` says which;   usable (n, nx, ny) bytes: 0 = not looked at
//   number    (k) int64: pattern of each disk;   spots (k, 3) double: x, y (px), height (counts/px)
//   origins   (n, 2) double;   background (rings) double: counts/px by distance from the origin
//   steps     (m, 2) int32: whole-pixel steps within a disk and its border;   out (k) double: nats
// A warp a disk, eight in a block of 256 threads: lane t takes steps t, t + 32, ... Places are differences in double
// precision; the disk and the logarithm are in single, sums in double, over lanes in a fixed order.
// bytes: the pixels of the disks, m (size of a pixel + 1) each, most from the second-level cache, and 40 a disk.
// flops: 60 a pixel.   bound: latency of the loads; with k in the ten thousands issue slots.
// budget: 56 registers, 0 bytes shared
#include "any_pixels.cuh"

constexpr int WARPS = 8;
constexpr float EDGE = 1.0f;               // px: width of a disk's edge
constexpr float LEAST_BACKGROUND = 1e-4f;  // counts/px

extern "C" __global__ void spot_likelihood(const void* __restrict__ patterns, const u8* __restrict__ usable,
                                           const long long* __restrict__ number, const double* __restrict__ spots,
                                           const double* __restrict__ origins, const double* __restrict__ background,
                                           const int* __restrict__ steps, double* __restrict__ out, long long disks,
                                           int kind, int nx, int ny, int rings, int m, double radius, double relative) {
  const int lane = threadIdx.x & 31;
  const offset_t k = offset_t(blockIdx.x) * WARPS + (threadIdx.x >> 5);
  if (k >= disks) return;
  const offset_t pattern = number[k], first = pattern * nx * ny;
  const AnyPixels pixels = AnyPixels{patterns, kind}.from(first);
  const double x = spots[3 * k], y = spots[3 * k + 1], middle_x = rint(x), middle_y = rint(y);
  const double origin_x = origins[2 * pattern], origin_y = origins[2 * pattern + 1];
  const float height = float(spots[3 * k + 2]);
  double gain = 0, total = 0;
  for (int i = lane; i < m; i += 32) {
    const double px = middle_x + steps[2 * i], py = middle_y + steps[2 * i + 1];
    if (!(px >= 0 && py >= 0 && px < nx && py < ny)) continue;  // so that a NaN is outside
    const offset_t at = offset_t(int(px)) * ny + int(py);
    const float count = pixels[at];
    if (!usable[first + at] || !isfinite(count)) continue;
    const float dx = float(px - x), dy = float(py - y);
    const float mean = height / (1.0f + expf(4.0f * (sqrtf(dx * dx + dy * dy) - float(radius)) / EDGE));
    const float ox = float(px - origin_x), oy = float(py - origin_y);
    const float ring = min(sqrtf(ox * ox + oy * oy), float(rings - 1));
    const int low = min(int(ring), max(rings - 2, 0));
    const float part = ring - float(low);
    const float level = float(background[low]) * (1 - part) + float(background[low + min(rings - 1, 1)]) * part;
    gain += double(count * log1pf(mean / max(level, LEAST_BACKGROUND)) - mean);
    total += double(mean);
  }
  const auto add = [](double a, double b) { return a + b; };
  gain = warp_all(gain, add), total = warp_all(total, add);
  if (lane == 0) out[k] = gain / (1 + relative * relative * total);
}
