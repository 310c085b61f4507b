// peaks.cuh -- from the real map in shared memory to a list of pixels, strongest first, at least the spacing apart. The
// order is fixed by height, then by the smaller pixel number, and there are no float atomics. So the result does not
// depend on the order of the threads.
#pragma once
#include "rows.cuh"

struct PeakLimits {
  float min_significance, min_relative, min_absolute;
  int near_below;  // pixels whose squared distance is below this are too near
  int max_peaks;
};

// Orders candidates: bits of the height (positive, so they compare as integers), then the smaller pixel number first
typedef u64 Key;
DEVICE Key key_of(float height, int pixel) {
  return (Key)__float_as_uint(height) << 32 | (unsigned)(0x7fffffff - pixel);
}
constexpr Key NO_CEILING = ~Key(0);

// Candidates of a pattern. They lie after the plane in shared memory.
template <int N>
struct Candidates {
  static constexpr int CAPACITY = Plan<N>::CANDIDATES;
  float height[CAPACITY];  // of the hybrid map; 0 where removed
  u16 pixel[CAPACITY];     // i N + j
  u16 order[CAPACITY];     // pixels, strongest first; REMOVED where removed
};
constexpr int REMOVED = 0xffff;
template <int N>
struct Scratch {
  float strongest[Shape<N>::WARPS];
  int count[Shape<N>::WARPS];
  unsigned flaws[Shape<N>::WARPS];
  int peaks;
};

// Exclusive prefix sum over the block, and the total. It contains block barriers.
template <int WARPS>
DEVICE int block_scan(int v, int* part, int thread, int& total) {
  const int lane = thread & 31;
  int scan = v;
  UNROLL for (int step = 1; step < 32; step <<= 1) {
    const int before = __shfl_up_sync(FULL_WARP, scan, step);
    if (lane >= step) scan += before;
  }
  if (lane == 31) part[thread >> 5] = scan;
  __syncthreads();
  int before = 0;
  total = 0;
  UNROLL for (int w = 0; w < WARPS; w++) {
    const int count = part[w];
    if (w < (thread >> 5)) before += count;
    total += count;
  }
  __syncthreads();
  return before + scan - v;
}

// Maxima of a thread's pixels. A warp works on ROWS / WARPS packed rows, lane l of it on columns l, l + 32, ... A
// maximum is a bit: bit b of flag[h] is row first_row + b, column l + 32 h.
template <int N>
struct Maxima {
  using S = Shape<N>;
  static constexpr int SETS = N / 32, PACKED = S::ROWS / S::WARPS;
  static_assert(PACKED <= 16, "flags are 32 bits");
  unsigned flag[SETS];
  int first_row, column;
  DEVICE explicit Maxima(int thread) : first_row((thread >> 5) * 2 * PACKED), column(thread & 31) {}

  // A maximum exceeds the three neighbours of the left column and the one above. None of the other four exceeds it. So
  // of two equal pixels one is taken. A pixel is compared with the largest of the left column's three and of the right
  // column's three, which come by shuffles. Returns the largest value that this thread found at an allowed pixel.
  DEVICE float find(const float2* plane, const u8* __restrict__ allowed) {
    const int lane = column;
    float above[SETS], strongest = 0.0f;
    float2 here[SETS], below[SETS];
    const float2* packed = plane + first_row / 2 * S::PITCH + lane;
    UNROLL for (int h = 0; h < SETS; h++) {
      flag[h] = 0;
      above[h] = first_row ? packed[32 * h - S::PITCH].y : 0.0f;
      here[h] = packed[32 * h];
    }
#pragma unroll 1
    for (int r = 0; r < PACKED; r++) {
      const int i = first_row + 2 * r;
      const bool last = i + 2 == N;
      packed += S::PITCH;
      float2 tallest[SETS], from_left[SETS],
          from_right[SETS];  // of a column's three pixels about the even, and the odd row
      UNROLL for (int h = 0; h < SETS; h++) {
        below[h] = last ? make_float2(0.0f, 0.0f) : packed[32 * h];
        const float both = fmaxf(here[h].x, here[h].y);
        tallest[h] = make_float2(fmaxf(above[h], both), fmaxf(both, below[h].x));
      }
      UNROLL for (int h = 0; h < SETS; h++) {
        from_left[h].x = __shfl_sync(FULL_WARP, tallest[h].x, (lane + 31) & 31);
        from_left[h].y = __shfl_sync(FULL_WARP, tallest[h].y, (lane + 31) & 31);
        from_right[h].x = __shfl_sync(FULL_WARP, tallest[h].x, (lane + 1) & 31);
        from_right[h].y = __shfl_sync(FULL_WARP, tallest[h].y, (lane + 1) & 31);
      }
      UNROLL for (int h = 0; h < SETS; h++) {
        const float2 left = lane == 0 ? from_left[(h + SETS - 1) % SETS] : from_left[h];
        const float2 right = lane == 31 ? from_right[(h + 1) % SETS] : from_right[h];
        const float a = here[h].x, b = here[h].y;
        const u8* open = allowed + i * N + lane + 32 * h;
        const bool even = a > 0.0f && a > left.x && a > above[h] && a >= right.x && a >= b && open[0];
        const bool odd = b > 0.0f && b > left.y && b > a && b >= right.y && b >= below[h].x && open[N];
        if (even) strongest = fmaxf(strongest, a);
        if (odd) strongest = fmaxf(strongest, b);
        flag[h] |= ((unsigned)even | (unsigned)odd << 1) << (2 * r);
        above[h] = b;
        here[h] = below[h];
      }
    }
    return strongest;
  }

  // Call use(h, bit, height, pixel) for every maximum that is left
  template <class Use>
  DEVICE void each(const float2* plane, Use use) const {
    UNROLL for (int h = 0; h < SETS; h++) {
      for (unsigned rest = flag[h]; rest; rest &= rest - 1) {
        const int bit = __ffs(rest) - 1, i = first_row + bit, j = column + 32 * h;
        use(h, bit, map_at<N>(plane, i, j), i * N + j);
      }
    }
  }
  // Keep the maxima that are at least `cutoff` high and come after `ceiling` in the order. Returns their number.
  DEVICE int keep(const float2* plane, float cutoff, Key ceiling) {
    int left = 0;
    each(plane, [&](int h, int bit, float height, int pixel) {
      const bool stays = height >= cutoff && key_of(height, pixel) < ceiling;
      if (!stays) flag[h] &= ~(1u << bit);
      left += stays;
    });
    return left;
  }
  DEVICE int count_from(const float2* plane, Key floor) const {
    int count = 0;
    each(plane, [&](int, int, float height, int pixel) { count += key_of(height, pixel) >= floor; });
    return count;
  }
};

// Maxima at allowed pixels over the absolute threshold and the one relative to the strongest -> list, unsorted. Returns
// their number. Only maxima after `ceiling` in the order are taken. If there are more than the list can take, it takes
// the strongest. `ceiling` is then set to the last one taken, else to 0. The caller calls again for the others, so that
// no maximum is lost.
template <int N>
DEVICE int collect(const float2* plane, Candidates<N>& list, Scratch<N>& scratch, const PeakLimits& limits,
                   const u8* allowed, Key& ceiling, int thread) {
  constexpr int WARPS = Shape<N>::WARPS;
  Maxima<N> mine(thread);
  const float strongest =
      block_all<WARPS>(mine.find(plane, allowed), scratch.strongest, [](float a, float b) { return fmaxf(a, b); });
  const float cutoff = fmaxf(limits.min_absolute, limits.min_relative * strongest);
  int total, at = block_scan<WARPS>(mine.keep(plane, cutoff, ceiling), scratch.count, thread, total);
  Key floor = 0;
  // Rare: bisect for the key from which the maxima fit. Keys are unique, so that exactly CAPACITY of them do.
  if (total > Candidates<N>::CAPACITY) {
    Key high = ceiling;  // count(>= floor) > CAPACITY >= count(>= high)
    while (high - floor > 1) {
      const Key middle = floor + (high - floor) / 2;
      block_scan<WARPS>(mine.count_from(plane, middle), scratch.count, thread, total);
      (total > Candidates<N>::CAPACITY ? floor : high) = middle;
    }
    floor = high;
    at = block_scan<WARPS>(mine.count_from(plane, floor), scratch.count, thread, total);
  }
  mine.each(plane, [&](int, int, float height, int pixel) {
    if (key_of(height, pixel) >= floor) {
      list.height[at] = height;
      list.pixel[at++] = pixel;
    }
  });
  ceiling = floor;
  __syncthreads();
  return total;
}

// Move the candidates that are not removed to the front. Returns their number.
template <int N>
DEVICE int compact(Candidates<N>& list, int n, Scratch<N>& scratch, int thread) {
  int kept = 0;
  for (int first = 0; first < n; first += Plan<N>::THREADS) {
    const int c = first + thread;
    const float height = c < n ? list.height[c] : 0.0f;
    const int pixel = c < n ? list.pixel[c] : REMOVED;
    int total;
    const int at = kept + block_scan<Shape<N>::WARPS>(height > 0.0f, scratch.count, thread,
                                                      total);  // all have read before one writes
    if (height > 0.0f) {
      list.height[at] = height;
      list.pixel[at] = pixel;
    }
    kept += total;
  }
  __syncthreads();
  return kept;
}

// Write the pixels to `order`, strongest first. A candidate's place is the number of candidates before it. This costs
// n^2 comparisons, but after the thresholds n is small.
template <int N>
DEVICE void rank(Candidates<N>& list, int n, int thread) {
  for (int c = thread; c < n; c += Plan<N>::THREADS) {
    const float height = list.height[c];
    const int pixel = list.pixel[c];
    int before = 0;
    for (int other = 0; other < n; other++) {
      const float h = list.height[other];
      before += h > height || (h == height && list.pixel[other] < pixel);
    }
    list.order[before] = pixel;
  }
  __syncthreads();
}

// Take the strongest candidate that is left, remove all that are too near to it, and repeat, up to max_peaks. One warp
// does it. Pixels are written to qx, qy after the `already` that are there. Returns how many are there then. A lane
// writes only its own entries of `order`.
template <int N>
DEVICE int apply_spacing(Candidates<N>& list, int n, const PeakLimits& limits, int already, double* qx, double* qy,
                         int lane) {
  const auto near = [&](int pixel, int i, int j) {
    const int di = pixel / N - i, dj = pixel % N - j;
    return di * di + dj * dj < limits.near_below;
  };
  const auto remove = [&](int i, int j, int first) {
    for (int c = first + lane; c < n; c += 32)
      if (list.order[c] != REMOVED && near(list.order[c], i, j)) list.order[c] = REMOVED;
  };
  int found = already;
  for (int p = 0; p < already; p++) remove((int)qx[p], (int)qy[p], 0);
  for (int first = 0; first < n && found < limits.max_peaks; first += 32) {
    int mine = first + lane < n ? list.order[first + lane] : REMOVED;
    unsigned left = __ballot_sync(FULL_WARP, mine != REMOVED);
    while (left && found < limits.max_peaks) {
      const int pixel = __shfl_sync(FULL_WARP, mine, __ffs(left) - 1), i = pixel / N, j = pixel % N;
      if (lane == 0) qx[found] = i, qy[found] = j;
      found++;
      if (mine != REMOVED && near(mine, i, j)) mine = REMOVED;
      remove(i, j, first + 32);
      left = __ballot_sync(FULL_WARP, mine != REMOVED);
    }
  }
  return found;
}
