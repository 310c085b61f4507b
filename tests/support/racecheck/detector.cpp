// detector.cpp -- a happens-before detector of races in CUDA sources on the host shim (tests/cuda_on_host); no GPU, no
// threads. `g++ -fsanitize=thread` puts a call before every memory access of a source. Behind these calls is not
// libtsan, which knows CPU threads, but this file (compiled without that flag), which knows what orders two accesses on
// a GPU, and notes every pair that nothing orders, whatever order the shim ran them in:
//   __syncthreads          orders all threads of a block
//   __syncwarp             the lanes of its mask
//   shuffles and votes     the same lanes in time, but CUDA promises no order of memory: such a pair is WEAK
//   nothing                threads of two warps without __syncthreads between, and two blocks: a RACE
//   atomics                are no race with each other, and order nothing else
// UNSET is shared memory that is read before a thread of the block wrote it. Watched are shared memory and the arrays a
// launch is given.
//
// A thread's time has two parts. The epoch counts barriers of the block and goes on from block to block. Within an epoch
// every thread has a vector clock of its warp: the last time of each lane that it knows to lie behind it. A lane's own
// time advances at every collective; __syncwarp takes the largest of all lanes' clocks, shuffles do so with a second,
// weak clock only.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <unordered_map>
#include <vector>

namespace {

constexpr uint32_t NEVER = 0;  // a block number: blocks count from 1
constexpr unsigned NO_THREAD = ~0u, LANES = 32, PAGE = 256;

struct Access {
  uint32_t block = NEVER, epoch = 0, time = 0, site = 0;
  uint16_t thread = 0;
  bool atomic = false;
};

// What is known of one byte. A read is forgotten where a later one stands for it: a write after that one is ordered or
// not as it would be after this one.
struct Cell {
  Access write, elsewhere;    // the last of all; a read of an earlier block
  std::vector<Access> reads;  // of this block and epoch since that write, the last of each thread, by thread

  uint32_t last_block() const { return reads.empty() ? write.block : reads.back().block; }
};

struct Region {
  uintptr_t begin, end;
  std::string name;
  bool shared;
  std::vector<std::unique_ptr<Cell[]>> pages;

  Cell& cell(uintptr_t at) {
    auto& page = pages[(at - begin) / PAGE];
    if (!page) page = std::make_unique<Cell[]>(PAGE);
    return page[(at - begin) % PAGE];
  }
};

struct Clock {
  uint32_t of_lane[LANES];
};

struct Report {
  Access first, second;
  bool first_writes, second_writes;
  uintptr_t offset;
  long long bytes = 0;
};

std::vector<Region> regions;
std::vector<Clock> strong, weak;  // of every thread of the block
uint32_t block, epoch;
unsigned thread = NO_THREAD, threads, yield_every;
bool atomic;
uint64_t random_state, accesses;
void (*step_aside)();
std::map<std::tuple<std::string, std::string, uint32_t, uint32_t>, Report> reports;  // by kind, region, places
std::vector<uintptr_t> places;  // in the code, by the number `Access::site`
std::unordered_map<uintptr_t, uint32_t> number_of_place;

enum Order { ORDERED, BY_A_VOTE, BY_NOTHING };

Order order(const Access& before, const Access& now) {
  if (before.block == NEVER || (before.atomic && now.atomic)) return ORDERED;
  if (before.block != now.block) return BY_NOTHING;
  if (before.thread == now.thread || before.epoch != now.epoch) return ORDERED;
  if (before.thread / LANES != now.thread / LANES) return BY_NOTHING;
  const unsigned lane = before.thread % LANES;
  if (strong[now.thread].of_lane[lane] >= before.time) return ORDERED;
  return weak[now.thread].of_lane[lane] >= before.time ? BY_A_VOTE : BY_NOTHING;
}

void note(const char* kind, const Region& region, uintptr_t at, const Access& first, bool first_writes,
          const Access& second, bool second_writes) {
  Report& r = reports[{kind, region.name, first.site, second.site}];
  if (!r.bytes++) r = {first, second, first_writes, second_writes, at - region.begin, 1};
}

void compare(const Region& region, uintptr_t at, const Access& before, bool writes, const Access& now, bool now_writes) {
  const Order found = order(before, now);
  if (found != ORDERED) note(found == BY_NOTHING ? "RACE" : "WEAK", region, at, before, writes, now, now_writes);
}

void read(Region& region, uintptr_t at, Cell& cell, const Access& now) {
  if (region.shared && cell.write.block == NEVER) note("UNSET", region, at, now, false, now, false);
  compare(region, at, cell.write, true, now, false);
  auto& reads = cell.reads;
  if (!reads.empty() && reads.back().epoch != now.epoch) {
    if (reads.back().block != now.block) cell.elsewhere = reads.back();
    reads.clear();
  }
  const auto earlier = [](const Access& a, const Access& b) { return a.thread < b.thread; };
  const auto mine = std::lower_bound(reads.begin(), reads.end(), now, earlier);
  if (mine != reads.end() && mine->thread == now.thread)
    *mine = now;
  else
    reads.insert(mine, now);
}

void write(Region& region, uintptr_t at, Cell& cell, const Access& now) {
  compare(region, at, cell.write, true, now, true);
  compare(region, at, cell.elsewhere, false, now, true);
  for (const Access& before : cell.reads) compare(region, at, before, false, now, true);
  cell.write = now;
  cell.elsewhere = Access{};
  cell.reads.clear();
}

Region* region_of(uintptr_t at) {
  static size_t last = 0;
  if (last < regions.size() && at >= regions[last].begin && at < regions[last].end) return &regions[last];
  for (last = 0; last < regions.size(); last++)
    if (at >= regions[last].begin && at < regions[last].end) return &regions[last];
  return nullptr;
}

// Some threads step aside at some accesses, so that values, too, show what no barrier keeps apart.
void perhaps_step_aside() {
  random_state ^= random_state << 13, random_state ^= random_state >> 7, random_state ^= random_state << 17;
  if (random_state % yield_every == 0) step_aside();
}

void access(uintptr_t at, size_t bytes, bool writes, uintptr_t code) {
  if (thread == NO_THREAD) return;
  Region* region = region_of(at);
  if (!region) return;
  if (yield_every && region->shared && !atomic) perhaps_step_aside();
  accesses++;
  const auto [known, fresh] = number_of_place.try_emplace(code, uint32_t(places.size()));
  if (fresh) places.push_back(code);
  const Access now{block, epoch, weak[thread].of_lane[thread % LANES], known->second, uint16_t(thread), atomic};
  for (uintptr_t byte = at; byte < at + bytes && byte < region->end; byte++) {
    Cell& cell = region->cell(byte);
    if (region->shared && cell.last_block() != block) cell = Cell{};  // of another block
    (writes ? write : read)(*region, byte, cell, now);
  }
}

}  // namespace

extern "C" {

// ---------------------------------------------------------------- from Python, about a launch

void race_begin(unsigned every) {
  regions.clear(), reports.clear();
  yield_every = every, accesses = 0;
}
uint64_t race_accesses() { return accesses; }
// Lines "kind|region|offset|bytes", then for each of two accesses "|block|thread|1 where it writes|code address"
const char* race_reports() {
  static std::string text;
  text.clear();
  for (const auto& [key, r] : reports) {
    text += std::get<0>(key) + "|" + std::get<1>(key) + "|" + std::to_string(r.offset) + "|" + std::to_string(r.bytes);
    for (const auto& [a, writes] : {std::pair{r.first, r.first_writes}, std::pair{r.second, r.second_writes}})
      text += "|" + std::to_string(a.block - 1) + "|" + std::to_string(a.thread) + "|" + std::to_string(writes) + "|" +
              std::to_string(places[a.site]);
    text += "\n";
  }
  return text.c_str();
}

// ---------------------------------------------------------------- from the shim (cuda_on_host.h)

void race_watch(const void* begin, size_t bytes, const char* name, bool shared) {
  if (!bytes) return;
  regions.push_back({uintptr_t(begin), uintptr_t(begin) + bytes, name, shared, {}});
  regions.back().pages.resize((bytes + PAGE - 1) / PAGE);
}
void race_launch_begins(void (*yield)()) {
  step_aside = yield;
  block = NEVER, epoch = 0, atomic = false, random_state = 88172645463325252ull;
}
void race_block_begins(unsigned n) {
  block++, epoch++, threads = n;
  strong.assign(n, Clock{});
  for (unsigned t = 0; t < n; t++) strong[t].of_lane[t % LANES] = 1;
  weak = strong;
}
void race_thread_runs(unsigned t) { thread = t; }
void race_block_joined() { epoch++; }
void race_warp_joined(unsigned warp, unsigned mask, bool orders_memory) {
  const unsigned first = warp * LANES, end = std::min(first + LANES, threads);
  const auto join = [&](std::vector<Clock>& clocks) {
    Clock all{};
    for (unsigned t = first; t < end; t++)
      if (mask >> (t - first) & 1)
        for (unsigned l = 0; l < LANES; l++) all.of_lane[l] = std::max(all.of_lane[l], clocks[t].of_lane[l]);
    for (unsigned t = first; t < end; t++)
      if (mask >> (t - first) & 1) clocks[t] = all;
  };
  join(weak);
  if (orders_memory) join(strong);
  for (unsigned t = first; t < end; t++)
    if (mask >> (t - first) & 1) strong[t].of_lane[t - first] = ++weak[t].of_lane[t - first];
}
void race_atomic(bool begins) { atomic = begins; }
void race_launch_ends() { thread = NO_THREAD; }

// ---------------------------------------------------------------- from the instrumented source

#define HERE uintptr_t(__builtin_return_address(0))
#define OF_SIZE(N)                                                                   \
  void __tsan_read##N(void* p) { access(uintptr_t(p), N, false, HERE); }             \
  void __tsan_write##N(void* p) { access(uintptr_t(p), N, true, HERE); }             \
  void __tsan_unaligned_read##N(void* p) { access(uintptr_t(p), N, false, HERE); }   \
  void __tsan_unaligned_write##N(void* p) { access(uintptr_t(p), N, true, HERE); }   \
  void __tsan_volatile_read##N(void* p) { access(uintptr_t(p), N, false, HERE); }    \
  void __tsan_volatile_write##N(void* p) { access(uintptr_t(p), N, true, HERE); }
OF_SIZE(1) OF_SIZE(2) OF_SIZE(4) OF_SIZE(8) OF_SIZE(16)
void __tsan_read_range(void* p, size_t bytes) { access(uintptr_t(p), bytes, false, HERE); }
void __tsan_write_range(void* p, size_t bytes) { access(uintptr_t(p), bytes, true, HERE); }
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
}
