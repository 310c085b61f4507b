// any_pixels.cuh -- pixels of a pattern, of a type that is known when the kernel runs.
// For kernels that read a pixel and then compute with it for long: one instance takes all pixel types, which saves
// three quarters of the time to compile. `kind` is the place of the type in kernels/pixels.py.
#pragma once
#include "common.cuh"

struct AnyPixels {
  const void* first;
  int kind;
  DEVICE float operator[](offset_t i) const {
    if (kind == 0) return static_cast<const u8*>(first)[i];
    if (kind == 1) return static_cast<const u16*>(first)[i];
    if (kind == 2) return static_cast<const u32*>(first)[i];
    return static_cast<const float*>(first)[i];
  }
  // The pattern that begins at pixel i.
  DEVICE AnyPixels from(offset_t i) const {
    const int bytes = kind == 0 ? 1 : kind == 1 ? 2 : 4;
    return {static_cast<const u8*>(first) + bytes * i, kind};
  }
};
