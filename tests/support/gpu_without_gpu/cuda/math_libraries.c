// cuFFT, cuBLAS, cuSOLVER as far as CuPy asks for them here. The work is done by NumPy: every function packs its
// numbers and its pointers for the function of the same purpose in libraries.py.
#include <stdlib.h>
#include <string.h>

#include "device.h"

typedef int (*python_function)(const char* name, const long long* numbers, void** pointers);
static python_function python;
void instrument_set_libraries(python_function function) { python = function; }

enum { INTERNAL_ERROR = 14, NO_DEVICE = 6 };  // of cuBLAS; of cuFFT: CUFFT_EXEC_FAILED

static int library_call(const char* name, const long long* numbers, void** pointers) {
  if (lost) return NO_DEVICE;
  count(&counts.library_calls, 1);
  return python ? python(name, numbers, pointers) : INTERNAL_ERROR;
}

// ---------------------------------------------------------------- cuFFT

enum { R2C = 0x2a, C2R = 0x2c, C2C = 0x29, D2Z = 0x6a, Z2D = 0x6c, Z2Z = 0x69 };  // cufftType
enum { LEAST_WORK_AREA = 4096 };  // bytes; every plan has some, so that what does not count them is seen

int cufftGetVersion(int* version) {
  *version = 12000;
  return SUCCESS;
}
int cufftCreate(int* plan) {
  static int n;
  *plan = ++n;
  return SUCCESS;
}
int cufftDestroy(int plan) { return SUCCESS; }
int cufftSetAutoAllocation(int plan, int automatic) { return SUCCESS; }
int cufftSetStream(int plan, void* stream) { return SUCCESS; }
int cufftSetWorkArea(int plan, void* area) { return SUCCESS; }

static int make_plan(const long long* numbers) { return python ? python("plan", numbers, NULL) : INTERNAL_ERROR; }

int cufftMakePlanMany(int plan, int rank, const int* n, const int* in_embed, int in_stride, int in_distance,
                      const int* out_embed, int out_stride, int out_distance, int type, int batch, size_t* work) {
  size_t size = 8ull * batch;
  for (int i = 0; i < rank; i++) size *= n[i];
  *work = size / 2 + LEAST_WORK_AREA;
  const int last = rank - 1;
  return make_plan((long long[]){plan, rank, n[0], rank > 1 ? n[1] : 0, rank > 2 ? n[2] : 0, in_stride, in_distance,
                                 out_stride, out_distance, type, batch, in_embed ? in_embed[last] : n[last],
                                 out_embed ? out_embed[last] : n[last]});
}
int cufftMakePlan1d(int plan, int n, int type, int batch, size_t* work) {
  const int half = n / 2 + 1;
  const int in = type == C2R || type == Z2D ? half : n, out = type == R2C || type == D2Z ? half : n;
  *work = LEAST_WORK_AREA;
  return make_plan((long long[]){plan, 1, n, 0, 0, 1, in, 1, out, type, batch, in, out});
}

enum { FORWARD = -1, INVERSE = 1 };
static int transform(int plan, void* in, void* out, int type, int direction) {
  return library_call("fft", (long long[]){plan, type, direction}, (void*[]){in, out});
}
int cufftExecC2C(int plan, void* in, void* out, int direction) { return transform(plan, in, out, C2C, direction); }
int cufftExecZ2Z(int plan, void* in, void* out, int direction) { return transform(plan, in, out, Z2Z, direction); }
int cufftExecR2C(int plan, void* in, void* out) { return transform(plan, in, out, R2C, FORWARD); }
int cufftExecD2Z(int plan, void* in, void* out) { return transform(plan, in, out, D2Z, FORWARD); }
int cufftExecC2R(int plan, void* in, void* out) { return transform(plan, in, out, C2R, INVERSE); }
int cufftExecZ2D(int plan, void* in, void* out) { return transform(plan, in, out, Z2D, INVERSE); }

// ---------------------------------------------------------------- cuBLAS

static char handle;
int cublasCreate_v2(void** out) {
  UNLESS_LOST;
  *out = &handle;
  return SUCCESS;
}
int cublasDestroy_v2(void* h) { return SUCCESS; }
int cublasGetVersion_v2(void* h, int* version) {
  *version = 130000;
  return SUCCESS;
}
int cublasSetStream_v2(void* h, void* stream) { return SUCCESS; }
int cublasGetStream_v2(void* h, void** stream) {
  *stream = NULL;
  return SUCCESS;
}
int cublasSetPointerMode_v2(void* h, int mode) { return SUCCESS; }
int cublasGetPointerMode_v2(void* h, int* mode) {
  *mode = 0;
  return SUCCESS;
}
int cublasSetMathMode(void* h, int mode) { return SUCCESS; }
int cublasGetMathMode(void* h, int* mode) {
  *mode = 0;
  return SUCCESS;
}

// Products of matrices by columns: transposition, sizes, leading dimensions and steps from one matrix to the next.
struct product {
  int type, ta, tb, m, n, k, lda, ldb, ldc, batch;
  long long step_a, step_b, step_c;
};
static int gemm(struct product p, void* alpha, void* a, void* b, void* beta, void* c) {
  return library_call(
      "gemm",
      (long long[]){p.type, p.ta, p.tb, p.m, p.n, p.k, p.lda, p.step_a, p.ldb, p.step_b, p.ldc, p.step_c, p.batch},
      (void*[]){alpha, a, b, beta, c});
}
static int gemm_each(struct product p, void* alpha, void** a, void** b, void* beta, void** c, int batch) {
  int error = SUCCESS;
  for (int i = 0; i < batch && !error; i++) error = gemm(p, alpha, a[i], b[i], beta, c[i]);
  return error;
}

enum { FLOAT32, FLOAT64, COMPLEX64, COMPLEX128 };  // KINDS of libraries.py
static int type_of(int cuda_type) {                // cudaDataType
  return cuda_type == 0 ? FLOAT32 : cuda_type == 1 ? FLOAT64 : cuda_type == 4 ? COMPLEX64 : COMPLEX128;
}

#define PRODUCTS(letter, type)                                                                                        \
  int cublas##letter##gemm_v2(void* h, int ta, int tb, int m, int n, int k, void* alpha, void* a, int lda, void* b,   \
                              int ldb, void* beta, void* c, int ldc) {                                                \
    return gemm((struct product){type, ta, tb, m, n, k, lda, ldb, ldc, 1}, alpha, a, b, beta, c);                     \
  }                                                                                                                   \
  int cublas##letter##gemmStridedBatched(void* h, int ta, int tb, int m, int n, int k, void* alpha, void* a, int lda, \
                                         long long sa, void* b, int ldb, long long sb, void* beta, void* c, int ldc,  \
                                         long long sc, int batch) {                                                   \
    return gemm((struct product){type, ta, tb, m, n, k, lda, ldb, ldc, batch, sa, sb, sc}, alpha, a, b, beta, c);     \
  }                                                                                                                   \
  int cublas##letter##gemmBatched(void* h, int ta, int tb, int m, int n, int k, void* alpha, void** a, int lda,       \
                                  void** b, int ldb, void* beta, void** c, int ldc, int batch) {                      \
    return gemm_each((struct product){type, ta, tb, m, n, k, lda, ldb, ldc, 1}, alpha, a, b, beta, c, batch);         \
  }
PRODUCTS(S, FLOAT32)
PRODUCTS(D, FLOAT64)
PRODUCTS(C, COMPLEX64)
PRODUCTS(Z, COMPLEX128)

int cublasGemmEx(void* h, int ta, int tb, int m, int n, int k, void* alpha, void* a, int at, int lda, void* b, int bt,
                 int ldb, void* beta, void* c, int ct, int ldc, int compute, int algorithm) {
  return gemm((struct product){type_of(ct), ta, tb, m, n, k, lda, ldb, ldc, 1}, alpha, a, b, beta, c);
}
int cublasGemmStridedBatchedEx(void* h, int ta, int tb, int m, int n, int k, void* alpha, void* a, int at, int lda,
                               long long sa, void* b, int bt, int ldb, long long sb, void* beta, void* c, int ct,
                               int ldc, long long sc, int batch, int compute, int algorithm) {
  return gemm((struct product){type_of(ct), ta, tb, m, n, k, lda, ldb, ldc, batch, sa, sb, sc}, alpha, a, b, beta, c);
}
int cublasGemmBatchedEx(void* h, int ta, int tb, int m, int n, int k, void* alpha, void** a, int at, int lda, void** b,
                        int bt, int ldb, void* beta, void** c, int ct, int ldc, int batch, int compute, int algorithm) {
  return gemm_each((struct product){type_of(ct), ta, tb, m, n, k, lda, ldb, ldc, 1}, alpha, a, b, beta, c, batch);
}
int cublasSgemmEx(void* h, int ta, int tb, int m, int n, int k, void* alpha, void* a, int at, int lda, void* b, int bt,
                  int ldb, void* beta, void* c, int ct, int ldc) {
  return gemm((struct product){FLOAT32, ta, tb, m, n, k, lda, ldb, ldc, 1}, alpha, a, b, beta, c);
}

int cublasDgemv_v2(void* h, int transposed, int m, int n, const double* alpha, const double* a, int lda,
                   const double* x, int x_step, const double* beta, double* y, int y_step) {
  UNLESS_LOST;
  count(&counts.library_calls, 1);
  for (int i = 0; i < (transposed ? n : m); i++) {
    double sum = 0;
    for (int j = 0; j < (transposed ? m : n); j++)
      sum += (transposed ? a[j + (size_t)i * lda] : a[i + (size_t)j * lda]) * x[j * x_step];
    y[i * y_step] = *alpha * sum + (*beta ? *beta * y[i * y_step] : 0);
  }
  return SUCCESS;
}
int cublasDdot_v2(void* h, int n, const double* x, int x_step, const double* y, int y_step, double* out) {
  UNLESS_LOST;
  count(&counts.library_calls, 1);
  *out = 0;
  for (int i = 0; i < n; i++) *out += x[i * x_step] * y[i * y_step];
  return SUCCESS;
}

int cublasDgetrfBatched(void* h, int n, double** a, int lda, int* pivots, int* info, int batch) {
  return library_call("factors", (long long[]){n, lda, batch}, (void*[]){a, pivots, info});
}
int cublasDgetrsBatched(void* h, int transposed, int n, int columns, const double** a, int lda, const int* pivots,
                        double** b, int ldb, int* info, int batch) {
  *info = 0;
  return library_call("solution", (long long[]){transposed, n, columns, lda, ldb, batch},
                      (void*[]){(void*)a, (void*)pivots, b});
}

// ---------------------------------------------------------------- cuSOLVER, cuRAND

int cusolverDnCreate(void** out) { return cublasCreate_v2(out); }
int cusolverDnDestroy(void* h) { return SUCCESS; }
int cusolverDnSetStream(void* h, void* stream) { return SUCCESS; }
int cusolverDnDgetrf_bufferSize(void* h, int m, int n, void* a, int lda, int* values) {
  *values = 64;
  return SUCCESS;
}
int cusolverDnDgetrf(void* h, int m, int n, void* a, int lda, void* work, int* pivots, int* info) {
  return cublasDgetrfBatched(h, n, (double*[]){a}, lda, pivots, info, 1);
}
int cusolverDnDgetrs(void* h, int transposed, int n, int columns, void* a, int lda, int* pivots, void* b, int ldb,
                     int* info) {
  return cublasDgetrsBatched(h, transposed, n, columns, (const double*[]){a}, lda, pivots, (double*[]){b}, ldb, info,
                             1);
}

int curandCreateGenerator(void** out, int type) { return cublasCreate_v2(out); }
int curandDestroyGenerator(void* g) { return SUCCESS; }
int curandSetStream(void* g, void* stream) { return SUCCESS; }
int curandSetPseudoRandomGeneratorSeed(void* g, unsigned long long seed) { return SUCCESS; }
int curandSetGeneratorOffset(void* g, unsigned long long offset) { return SUCCESS; }
