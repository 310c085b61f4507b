// separate_disks.cu -- disks close to each other: fit them together, look for hidden ones, fit those, and so on.
//   patterns  (n, nx, ny) of type `kind`   counts, y fastest;   count (n) int64: disks of the correlation
//   height    (n, K) double                heights of the disks, only compared
//   alone     x, y, amplitude, xx, yy (n, K) double, ok (n, K) bytes      fits of single disks
//   table, pixels, mask, allowed, cover    as in joint_fit.cu and hidden_disks.cu
//   out       (5, n, K) double: x, y, amplitude, xx, yy;   flags (3, n, K) bytes: disk, fitted, together
//   doubles, floats, ints                  work memory, so many of each for a block: joint::Area, and at its end Lists
//   hidden    memory of the search for a block, or null: it is dynamic shared memory then
// A block of 128 threads takes a pattern after the other through all rounds, so that one launch does what would be
// eleven. Most patterns have no close disks: they cost K² comparisons and the search around their brightest disk. Both
// parts are in headers: joint_fit.cuh and hidden_disks.cuh, which say what binds them.
// bytes, flops: hidden_disks.cu for each pattern, joint_fit.cu for patterns with close or hidden disks.
// bound: latency of barriers and of chains in double precision, hidden by other blocks.
// -D PER_DISK=3 compiles one kernel alone, which is what the launcher asks for.
// budget(separate_disks_3): 128 registers, 2560 bytes shared
// budget(separate_disks_5): 168 registers, 2560 bytes shared
#include "hidden_disks.cuh"
#include "joint_fit.cuh"

constexpr int ROUNDS = 5;         // searches for hidden disks in one pattern
constexpr int AT_FIRST = 1;       // disks that are examined in every pattern, the brightest
constexpr double SHADOW = 3.8;    // radii: within it a brighter disk moves the maximum of a weak one
constexpr int ALONE = 1;          // role of a disk that was fitted alone; the others are joint::OPEN, HIDDEN, NONE
constexpr int FITTED = 1, PLACED = 2;  // states of a disk in the search
constexpr int DOUBLES = 11, INTS = 2;  // of Lists in the work memory, for each place

// The disks of a pattern, K places.
struct Lists {
  double *x, *y, *amplitude, *xx, *yy;  // results so far
  u8 *disk, *fitted, *together;
  double *seen_x, *seen_y, *seen_amplitude;  // of the disks that the search subtracts: also where a fit has not ended
  u8 *state, *fresh;                         // state in the search; 1 for disks of the last one
  int* role;
  int most, count, around;  // places; those in use; disks to search around
  int round;                // searches so far
};

struct Block {
  joint::Shared joint;
  hidden::Scratch<joint::WARPS> scratch;
  hidden::Search search;
  hidden::Disks disks;  // of the search, from `lists`
  void* memory;         // of the search
  Lists lists;
};

// What the kernel is given beside the model and the search.
struct Given {
  AnyPixels patterns;
  const long long* count;
  const double* height;
  const double* alone[5];
  const u8* ok;
  double* out;
  u8* flags;
  int n, most;
};

// Set pointers that stay the same for all patterns. `doubles` and `ints` are those of Lists.
DEVICE void set_work(Block& block, const Given& given, double* doubles, int* ints) {
  const offset_t k = given.most;
  Lists& lists = block.lists;
  block.joint.answer.fields = doubles, block.joint.answer.stride = k;
  lists.seen_x = doubles + 8 * k, lists.seen_y = lists.seen_x + k, lists.seen_amplitude = lists.seen_y + k;
  lists.role = ints, lists.most = given.most;
  u8* bytes = reinterpret_cast<u8*>(ints + k);
  block.joint.answer.ok = bytes, block.joint.answer.gone = bytes + k;
  lists.state = bytes + 2 * k, lists.fresh = bytes + 3 * k;
}

// Point at the arrays of pattern i.
DEVICE void set_pattern(Block& block, const Given& given, offset_t i) {
  Lists& lists = block.lists;
  const joint::Model& model = block.joint.model;
  const offset_t at = i * given.most, all = offset_t(given.n) * given.most;
  double* out = given.out + at;
  lists.x = out, lists.y = out + all, lists.amplitude = out + 2 * all;
  lists.xx = out + 3 * all, lists.yy = out + 4 * all;
  u8* flags = given.flags + at;
  lists.disk = flags, lists.fitted = flags + all, lists.together = flags + 2 * all;
  lists.count = int(given.count[i]), lists.round = 0;
  block.joint.image = given.patterns.from(i * model.nx * model.ny);
  block.joint.places = {lists.x, lists.y, given.height + at, lists.role, given.most};
}

// Take over the fits of single disks.
DEVICE void start(Lists& lists, const Given& given, offset_t i) {
  for (int k = threadIdx.x; k < lists.most; k += joint::THREADS) {
    const offset_t at = i * given.most + k;
    const bool disk = k < lists.count, fitted = given.ok[at];
    lists.x[k] = given.alone[0][at], lists.y[k] = given.alone[1][at], lists.amplitude[k] = given.alone[2][at];
    lists.xx[k] = given.alone[3][at], lists.yy[k] = given.alone[4][at];
    lists.disk[k] = disk, lists.fitted[k] = fitted, lists.together[k] = 0, lists.fresh[k] = 0;
    lists.role[k] = disk ? (fitted ? ALONE : joint::OPEN) : joint::NONE;
  }
}

// Take over a joint fit. Disks that it removed, and new ones that it did not locate, are no disks. Then set around how
// many disks hidden ones are looked for: all, if the fit found something.
DEVICE void take_over(Lists& lists, const joint::Answer& fit, bool first, joint::Shared& shared) {
  int found = 0;
  for (int k = threadIdx.x; k < lists.most; k += joint::THREADS) {
    const bool ok = fit.ok[k], fresh = lists.fresh[k];
    if (ok) {
      lists.x[k] = fit.fields[k], lists.y[k] = fit.fields[fit.stride + k];
      lists.amplitude[k] = fit.fields[2 * fit.stride + k];
      lists.xx[k] = fit.fields[4 * fit.stride + k], lists.yy[k] = fit.fields[6 * fit.stride + k];
    }
    const bool disk = lists.disk[k] && !fit.gone[k] && (ok || !fresh);
    lists.disk[k] = disk;
    lists.fitted[k] = disk && (ok || lists.fitted[k]);
    lists.together[k] = disk && (ok || lists.together[k]);
    found = found || (disk && (first ? lists.together[k] : fresh));
  }
  found = joint::block_any(found, shared);
  if (threadIdx.x == 0) lists.around = found ? lists.most : first ? AT_FIRST : 0;
  __syncthreads();
}

// List the disks for the search. A hidden disk may be why a fit has not ended: its last values are subtracted, too.
DEVICE void list_for_search(Lists& lists, const joint::Answer& fit) {
  for (int k = threadIdx.x; k < lists.most; k += joint::THREADS) {
    const double amplitude = fit.fields[2 * fit.stride + k];
    const bool known = fabs(amplitude) <= joint::NOTHING && !lists.fitted[k];
    lists.seen_x[k] = known ? fit.fields[k] : lists.x[k];
    lists.seen_y[k] = known ? fit.fields[fit.stride + k] : lists.y[k];
    lists.seen_amplitude[k] = known ? amplitude : lists.amplitude[k];
    lists.state[k] = lists.disk[k] ? (known || lists.fitted[k] ? FITTED : PLACED) : 0;
  }
}

// Put new places after the last disk, and set the roles of the next fit.
DEVICE void add_places(Lists& lists, int found, const hidden::Scratch<joint::WARPS>& scratch) {
  for (int k = threadIdx.x; k < lists.most; k += joint::THREADS) {
    const int place = k - lists.count;
    const bool fresh = place >= 0 && place < found;
    if (fresh) lists.x[k] = scratch.x[place], lists.y[k] = scratch.y[place], lists.disk[k] = 1;
    lists.fresh[k] = fresh;
    lists.role[k] = lists.disk[k] ? (fresh ? joint::HIDDEN : ALONE) : joint::NONE;
  }
  __syncthreads();
  if (threadIdx.x == 0) lists.count += found, lists.round++;
  __syncthreads();
}

// Look for hidden disks, and return how many places there are.
DEVICE int search_hidden(Block& block) {
  const Lists& lists = block.lists;
  list_for_search(block.lists, block.joint.answer);
  if (threadIdx.x == 0)
    block.disks = {lists.seen_x, lists.seen_y, lists.seen_amplitude, lists.state, lists.most, lists.around};
  __syncthreads();
  return hidden::search<joint::WARPS>(block.joint.image, block.disks, block.search, block.memory, block.scratch);
}

template <int ROWS>
DEVICE void separate_pattern(Block& block) {
  for (;;) {
    joint::fit_pattern<ROWS>(block.lists.round == 0 ? SHADOW * block.search.radius : 0.0, block.joint);
    take_over(block.lists, block.joint.answer, block.lists.round == 0, block.joint);
    if (block.lists.round == ROUNDS || block.lists.around == 0) return;
    const int found = search_hidden(block);
    if (found == 0) return;
    add_places(block.lists, found, block.scratch);
  }
}

template <int ROWS>
DEVICE void separate_patterns(const Given& given, const joint::Model& model, const hidden::Search& search,
                              double* doubles, float* floats, int* ints, u8* hidden_memory, long long some_doubles,
                              long long some_floats, long long some_ints, int nodes) {
  __shared__ Block block;
  DYNAMIC_SHARED(float4, shared);
  if (threadIdx.x == 0) {
    doubles += blockIdx.x * some_doubles, floats += blockIdx.x * some_floats, ints += blockIdx.x * some_ints;
    block.joint.model = model, block.search = search, block.memory = shared;
    if (hidden_memory) block.memory = hidden_memory + blockIdx.x * hidden::work_bytes(search, given.most);
    block.joint.model.half = -model.pixels[0];
    block.joint.area.carve(doubles, floats, ints, given.most, nodes, ROWS, model.m, block.joint.model.side());
    set_work(block, given, doubles + some_doubles - DOUBLES * given.most, ints + some_ints - INTS * given.most);
  }
  __syncthreads();
  joint::begin(block.joint);
  for (int i = blockIdx.x; i < given.n; i += gridDim.x) {
    if (threadIdx.x == 0) set_pattern(block, given, i);
    __syncthreads();
    start(block.lists, given, i);
    __syncthreads();
    separate_pattern<ROWS>(block);
    __syncthreads();
  }
}

#define INSTANCE_OF(ROWS)                                                                                              \
  extern "C" __global__ void __launch_bounds__(joint::THREADS, ROWS == 3 ? 4 : 3) separate_disks_##ROWS(               \
      const void* patterns, int kind, const long long* count, const double* height, const double* x, const double* y,  \
      const double* amplitude, const double* xx, const double* yy, const u8* ok, const u8* mask, const u8* allowed,    \
      const float* table, const int* pixels, const float* cover, double* out, u8* flags, u8* hidden_memory,            \
      double* doubles, float* floats, int* ints, long long some_doubles, long long some_floats, long long some_ints,   \
      int n, int nx, int ny, int most, int m, int phases, int nodes, int flat, int rows, int size, int half,           \
      int margin, double spacing, double significance, double radius, double least) {                                  \
    const Given given = {{patterns, kind}, count, height, {x, y, amplitude, xx, yy}, ok, out, flags, n, most};         \
    const joint::Model model = {nx, ny, m, 0, phases, table, pixels, mask, flat != 0, spacing, significance, 0.0};     \
    const hidden::Search search = {nx,   ny,    mask, allowed, table,  pixels, m,    phases,                           \
                                   rows, cover, size, half,    margin, radius, least};                                 \
    separate_patterns<ROWS>(given, model, search, doubles, floats, ints, hidden_memory, some_doubles, some_floats,     \
                            some_ints, nodes);                                                                         \
  }
#define INSTANCE(ROWS) INSTANCE_OF(ROWS)
#ifdef PER_DISK
INSTANCE(PER_DISK)
#else
INSTANCE(3)
INSTANCE(5)
#endif
