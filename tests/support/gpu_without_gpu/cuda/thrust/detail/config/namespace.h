// What CuPy's complex numbers want of Thrust, without the rest of it: reading that took most of a kernel's compilation.
#pragma once
#define THRUST_NAMESPACE_BEGIN namespace thrust {
#define THRUST_NAMESPACE_END }
