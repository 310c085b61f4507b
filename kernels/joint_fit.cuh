// joint_fit.cuh -- the fit of all groups of disks of one pattern, by one block. The operation `joint_fit` defines it.
//
//   __shared__ joint::Shared shared;
//   ... one thread sets shared.model and shared.area; barrier
//   joint::begin(shared);                             once for a block: rows of the window, radius of the disk
//   ... one thread sets shared.image, shared.places and shared.answer; barrier
//   joint::fit_pattern<ROWS>(shadow, shared);         for every pattern
//
// All threads of the block, joint::THREADS of them, call both. There is a barrier at the end of both. Sums have a fixed
// order: the same arguments give the same bits.
#pragma once
#include "joint_equations.cuh"

namespace joint {

constexpr int NONE = 0, OPEN = 2, HIDDEN = 3;  // roles of a place
constexpr int MOST_STEPS = 40;
constexpr double LEAST_GROUND = 0.005;         // counts: smallest background at a node
constexpr double LEFT = 0.2;                   // part of an amplitude or of the background that a step leaves at least
constexpr double LONGEST = 0.5;                // px, one step
constexpr double CLOSE = 0.001, CLOSE_PART = 0.05;  // px, and of the standard error: shorter steps end the fit
constexpr int DAMPED = 12;                     // steps after which steps are halved
constexpr int JUDGED_FROM = 8, JUDGED = 4;     // steps: from then on, and so often, disks are judged
constexpr double LAST_PART = 0.5;              // of the standard error: longest last step of a fit that has not ended
constexpr double LEAST_APART = 0.8;            // radii: of two disks nearer than this, the weaker one is removed
constexpr double FAINTEST = 0.005;             // of the highest disk of its group: lowest amplitude of a hidden disk
constexpr double BRIGHTER = 4.0, MUCH_BRIGHTER = 8.0;  // times the height, for disks that are open, and for any
constexpr double NOTHING = 1e300;              // strength of a disk that stays

// List the rows of the window, and measure the radius of the disk: the table's middle phase has its area.
DEVICE void begin(Shared& shared) {
  const Model& model = shared.model;
  list_rows(model, shared.area);
  const int middle = (model.phases + 1) / 2;
  const float* disk = model.table + offset_t(middle * (model.phases + 1) + middle) * 3 * model.m;
  double sum = 0.0;
  for (int t = threadIdx.x; t < model.m; t += THREADS) sum += disk[t];
  sum = block_all<WARPS>(sum, shared.part, Plus());
  if (threadIdx.x == 0) shared.model.radius = sqrt(sum / 3.14159265358979323846);
  __syncthreads();
}

// ---------------------------------------------------------------- groups

// Return whether windows overlap, or one disk is so much weaker that the other one may have moved its start.
DEVICE bool together(const Places& p, int j, int k, double spacing, double shadow) {
  const double dx = p.x[j] - p.x[k], dy = p.y[j] - p.y[k], away = dx * dx + dy * dy;
  if (away < spacing * spacing) return true;
  if (!(away < shadow * shadow)) return false;
  const bool first = p.height[j] < p.height[k];
  const int weak = first ? j : k, bright = first ? k : j;
  return p.height[bright] > (p.role[weak] == OPEN ? BRIGHTER : MUCH_BRIGHTER) * p.height[weak];
}

// Give every disk the number of the first one of its group.
DEVICE void label_groups(const Places& p, double spacing, double shadow, Area& area, Shared& shared) {
  for (int k = threadIdx.x; k < p.most; k += THREADS) area.label[k] = k;
  __syncthreads();
  for (int changed = 1; changed;) {
    int mine = 0;
    for (int k = threadIdx.x; k < p.most; k += THREADS) {
      int least = area.label[k];
      for (int j = 0; j < p.most && p.role[k] != NONE; j++)
        if (p.role[j] != NONE && area.label[j] < least && together(p, j, k, spacing, shadow)) least = area.label[j];
      area.next[k] = least;
      mine = mine || least != area.label[k];
    }
    changed = block_any(mine, shared);
    for (int k = threadIdx.x; k < p.most; k += THREADS) area.label[k] = area.next[k];
    __syncthreads();
  }
}

// Set the number of disks of each group that is to be fitted, at its first disk; 0 elsewhere.
DEVICE void choose_groups(const Places& p, double shadow, Area& area) {
  for (int k = threadIdx.x; k < p.most; k += THREADS) {
    int size = 0;
    bool open = false, hidden = false, brightest = true;
    for (int j = 0; j < p.most && p.role[k] != NONE && area.label[k] == k; j++) {
      if (p.role[j] == NONE) continue;
      brightest = brightest && !(p.height[j] > p.height[k]);
      if (area.label[j] != k) continue;
      size++, open = open || p.role[j] == OPEN, hidden = hidden || p.role[j] == HIDDEN;
    }
    const bool some = size > 1 ? shadow > 0.0 || open : open && brightest;
    area.wanted[k] = some || hidden ? size : 0;
  }
}

// List the members of a group, in the order of its longer side.
DEVICE void list_members(const Places& p, int first, Area& area) {
  double low[2] = {NOTHING, NOTHING}, high[2] = {-NOTHING, -NOTHING};
  for (int j = first; j < p.most; j++) {
    if (p.role[j] == NONE || area.label[j] != first) continue;
    low[0] = fmin(low[0], p.x[j]), high[0] = fmax(high[0], p.x[j]);
    low[1] = fmin(low[1], p.y[j]), high[1] = fmax(high[1], p.y[j]);
  }
  const double* along = high[1] - low[1] > high[0] - low[0] ? p.y : p.x;
  for (int k = first + threadIdx.x; k < p.most; k += THREADS) {
    if (p.role[k] == NONE || area.label[k] != first) continue;
    int rank = 0;
    for (int j = first; j < p.most; j++)
      if (p.role[j] != NONE && area.label[j] == first && (along[j] < along[k] || (along[j] == along[k] && j < k))) rank++;
    area.member[rank] = k;
  }
}

// ---------------------------------------------------------------- one group

// Put all disks at their starts, without an amplitude.
DEVICE void start_disks(const Places& p, const Model& model, Area& area, int members) {
  for (int j = threadIdx.x; j < members; j += THREADS) {
    const int k = area.member[j];
    const double at[2] = {p.x[k], p.y[k]};
    UNROLL for (int a = 0; a < 2; a++) area.first[2 * j + a] = area.state[5 * j + a] = at[a], area.moved[2 * j + a] = 0.0;
    UNROLL for (int a = 2; a < 5; a++) area.state[5 * j + a] = 0.0;
    UNROLL for (int a = 0; a < 4; a++) area.result[4 * j + a] = 0.0;
    area.disks[j].row = int(floor(at[0] + 0.5)) - model.half;
    area.disks[j].column = int(floor(at[1] + 0.5)) - model.half;
    area.disks[j].alive = 1;
  }
}

// Number of nodes between the first and the last pixel of a group along an axis, about a window apart.
DEVICE int nodes_along(const Model& model, int least, int most) {
  const int cells = max(int(floor((most - least) / model.apart() + 0.5)), 1);
  return model.flat ? cells : cells + 1;
}

// Spread the nodes of the background over the windows. A thread.
DEVICE Nodes place_nodes(const Model& model, const Area& area, int members) {
  int low[2] = {model.nx, model.ny}, high[2] = {0, 0};
  for (int j = 0; j < members; j++) {
    const int at[2] = {area.disks[j].row, area.disks[j].column};
    UNROLL for (int a = 0; a < 2; a++) low[a] = min(low[a], at[a]), high[a] = max(high[a], at[a] + 2 * model.half);
  }
  low[0] = max(low[0], 0), high[0] = min(high[0], model.nx - 1);
  low[1] = max(low[1], 0), high[1] = min(high[1], model.ny - 1);
  Nodes nodes = {nodes_along(model, low[0], high[0]), nodes_along(model, low[1], high[1]), low[0], low[1], 0.0f, 0.0f};
  nodes.per_row = float(double(nodes.rows - 1) / max(high[0] - low[0], 1));
  nodes.per_column = float(double(nodes.columns - 1) / max(high[1] - low[1], 1));
  return nodes;
}

// Return whether the next step is short for every disk: below CLOSE, or a small part of the error from the counts.
template <int ROWS>
DEVICE bool is_close(Area& area, int members, const double* answer, Shared& shared) {
  int far = 0;
  for (int k = threadIdx.x; k < 2 * members; k += THREADS) {
    const int row = k / 2 * ROWS + k % 2;
    const double step = fabs(answer[row]);  // 1 / L is below the standard error
    if (area.disks[k / 2].alive && step > CLOSE && step > CLOSE_PART * cholesky::row_of(area.matrix, row)[row]) far = 1;
  }
  return !block_any(far, shared);
}

// Set covariance of the position and a / σ of every disk.
template <int ROWS>
DEVICE void set_uncertainties(Area& area, int members, int size) {
  const int warp = threadIdx.x >> 5;
  for (int j = warp; j < members; j += WARPS) {
    if (!area.disks[j].alive) continue;
    double entries[4];
    cholesky::inverse_entries(area.matrix, area.begin, j * ROWS, size, area.columns + offset_t(warp) * 3 * size, entries);
    if ((threadIdx.x & 31) == 0) {
      UNROLL for (int q = 0; q < 3; q++) area.result[4 * j + q] = entries[q];
      area.result[4 * j + 3] = area.state[5 * j + 2] / sqrt(entries[3]);
    }
  }
  __syncthreads();
}

DEVICE void remove(Area& area, int j) {
  area.disks[j].alive = 0;
  UNROLL for (int a = 2; a < 5; a++) area.state[5 * j + a] = 0.0;
}

// Return the strength of a disk that fails a condition, or NOTHING.
DEVICE double failing_strength(const Places& p, const Model& model, const Area& area, int members, int j, double scale) {
  if (!area.disks[j].alive) return NOTHING;
  const double *state = area.state + 5 * j, *result = area.result + 4 * j, apart = LEAST_APART * model.radius;
  const bool hidden = p.role[area.member[j]] == HIDDEN;
  const double strength = hidden ? result[3] / scale : result[3];
  double highest = 0.0;
  bool below = false;
  for (int i = 0; i < members; i++) {
    const double *other = area.state + 5 * i, dx = other[0] - state[0], dy = other[1] - state[1];
    highest = fmax(highest, other[2]);
    below = below || (i != j && area.disks[i].alive && dx * dx + dy * dy < apart * apart && other[2] > state[2]);
  }
  const bool wide = !(fmax(result[0], result[2]) < FARTHEST * FARTHEST), faint = hidden && state[2] < FAINTEST * highest;
  return faint || wide || below || strength < model.significance ? strength : NOTHING;
}

// Remove the weakest disk that fails a condition, and return whether there was one.
DEVICE bool drop_weakest(const Places& p, const Model& model, Area& area, int members, double scale) {
  for (int j = threadIdx.x; j < members; j += THREADS)
    area.strength[j] = failing_strength(p, model, area, members, j, scale);
  __syncthreads();
  int worst = -1;
  for (int j = 0; j < members; j++)
    if (area.strength[j] < (worst < 0 ? NOTHING : area.strength[worst])) worst = j;
  __syncthreads();
  if (worst >= 0 && threadIdx.x == 0) remove(area, worst);
  __syncthreads();
  return worst >= 0;
}

// Add the step. It is limited to half a pixel, and reduces an amplitude or the background by four fifths at most.
template <int ROWS>
DEVICE void move(const Model& model, Area& area, int members, int nodes, const double* answer, int step) {
  const double part = step >= DAMPED ? 0.5 : 1.0;
  for (int j = threadIdx.x; j < members; j += THREADS) {
    if (!area.disks[j].alive) continue;
    double* state = area.state + 5 * j;
    const double* mine = answer + j * ROWS;
    const double a = state[2], up = part * mine[2];
    state[2] = a == 0.0 ? fmax(up, 0.1 * LEAST_COUNTS) : fmax(a + up, LEFT * a);
    if (ROWS > 3) state[3] += part * mine[ROWS - 2], state[4] += part * mine[ROWS - 1];
    bool lost = false;
    UNROLL for (int a = 0; a < 2; a++) {
      if (step < FIXED_STEPS) break;
      const double go = fmin(LONGEST, fmax(-LONGEST, part * mine[a]));
      area.moved[2 * j + a] = go, state[a] += go;
      lost = lost || !(fabs(state[a] - area.first[2 * j + a]) <= model.wander());
    }
    if (lost) remove(area, j);
  }
  for (int k = threadIdx.x; k < nodes; k += THREADS) {
    const double old = area.ground[k], now = old + part * answer[members * ROWS + k];
    area.ground[k] = fmax(now, fmax(LEAST_GROUND, LEFT * old));
  }
  __syncthreads();
}

// Background at a point.
DEVICE double ground_at_point(const Nodes& nodes, const double* ground, double x, double y) {
  const double t[2] = {(x - nodes.row) * nodes.per_row, (y - nodes.column) * nodes.per_column};
  const int i = max(min(int(floor(t[0])), nodes.rows - 2), 0), j = max(min(int(floor(t[1])), nodes.columns - 2), 0);
  const int below = min(i + 1, nodes.rows - 1) * nodes.columns, right = min(j + 1, nodes.columns - 1);
  const double s = t[0] - i, r = t[1] - j, *upper = ground + i * nodes.columns, *lower = ground + below;
  return (1 - s) * ((1 - r) * upper[j] + r * upper[right]) + s * ((1 - r) * lower[j] + r * lower[right]);
}

// Write the disks of a group. `ended` is false where steps were still long at the end.
DEVICE void write_group(const Nodes& nodes, const Area& area, int members, bool ended, const Answer& out) {
  for (int j = threadIdx.x; j < members; j += THREADS) {
    const int k = area.member[j];
    const double *state = area.state + 5 * j, *result = area.result + 4 * j, *moved = area.moved + 2 * j;
    const double xx = result[0], yy = result[2], limit = LAST_PART * LAST_PART;
    const bool alive = area.disks[j].alive, narrow = xx < FARTHEST * FARTHEST && yy < FARTHEST * FARTHEST;
    const bool is_short = 4 * moved[0] * moved[0] <= limit * xx && 4 * moved[1] * moved[1] <= limit * yy;
    out.gone[k] = !alive, out.ok[k] = alive && (ended || (is_short && narrow));
    if (!alive) continue;
    const double ground = ground_at_point(nodes, area.ground, state[0], state[1]);
    const double values[8] = {state[0], state[1], state[2], ground, xx, result[1], yy, result[3]};
    UNROLL for (int f = 0; f < 8; f++) out.fields[f * out.stride + k] = values[f];
  }
  __syncthreads();
}

// Judge the disks after a step: remove the weakest that fails a condition, and after the last step all that fail.
template <int ROWS>
DEVICE bool judge(bool last, Shared& shared) {
  set_uncertainties<ROWS>(shared.area, shared.members, shared.size);
  const double scale = sqrt(fmax(1.0, shared.square / max(shared.pixels - shared.size, 1)));
  bool dropped = false;
  while (drop_weakest(shared.places, shared.model, shared.area, shared.members, scale)) {
    dropped = true;
    if (!last) break;
  }
  return dropped;
}

// Put the disks of a group at their starts, and set nodes and sizes.
template <int ROWS>
DEVICE void start_group(int members, Shared& shared) {
  start_disks(shared.places, shared.model, shared.area, members);
  __syncthreads();
  if (threadIdx.x == 0) {
    shared.nodes = place_nodes(shared.model, shared.area, members);
    shared.members = members, shared.size = members * ROWS + shared.nodes.count();
  }
  __syncthreads();
  for (int k = threadIdx.x; k < shared.nodes.count(); k += THREADS) shared.area.ground[k] = 0.0;
}

// Make the equations of a step and solve them. Return false where they have no inverse, or a count is a NaN.
template <int ROWS>
DEVICE bool solve_step(int step, Shared& shared) {
  Area& area = shared.area;
  set_disks(shared.model, area, shared.members);
  __syncthreads();
  weigh<ROWS>(step, shared);
  set_equations<ROWS>(shared.model, shared.nodes, area, shared.members, step);
  if (!(fabs(shared.square) <= NOTHING)) return false;
  if (!cholesky::factor<WARPS>(area.matrix, area.diagonal, area.begin, shared.size, shared.solver)) return false;
  cholesky::solve_back<WARPS>(area.matrix, shared.size, shared.solver);
  return fabs(cholesky::row_of(area.matrix, shared.size)[0]) <= NOTHING;
}

// Fit the group whose members are listed. Where its equations have no inverse, nothing is written.
template <int ROWS>
DEVICE void fit_group(int members, Shared& shared) {
  Area& area = shared.area;
  start_group<ROWS>(members, shared);
  bool good = false;
  for (int step = 0; step < MOST_STEPS && !good; step++) {
    if (!solve_step<ROWS>(step, shared)) return;
    const double* answer = cholesky::row_of(area.matrix, shared.size);
    good = step >= BOUNDED_STEPS && is_close<ROWS>(area, shared.members, answer, shared);
    const bool last = step == MOST_STEPS - 1;
    if (good || last || (step >= JUDGED_FROM && step % JUDGED == 0))
      if (judge<ROWS>(last, shared)) good = false;
    move<ROWS>(shared.model, area, shared.members, shared.nodes.count(), answer, step);
  }
  write_group(shared.nodes, area, shared.members, good, shared.answer);
}

// Set the results of all places to those of disks that were not fitted.
DEVICE void clear_answer(const Places& p, const Answer& out) {
  for (int k = threadIdx.x; k < p.most; k += THREADS) {
    const bool some = p.role[k] != NONE;
    out.ok[k] = out.gone[k] = 0;
    out.fields[k] = some ? p.x[k] : nan_value();
    out.fields[out.stride + k] = some ? p.y[k] : nan_value();
    UNROLL for (int f = 2; f < 8; f++) out.fields[f * out.stride + k] = nan_value();
  }
}

// Fit all groups of a pattern that are to be fitted.
template <int ROWS>
DEVICE void fit_pattern(double shadow, Shared& shared) {
  const Places& p = shared.places;
  Area& area = shared.area;
  clear_answer(p, shared.answer);
  label_groups(p, shared.model.spacing, shadow, area, shared);
  choose_groups(p, shadow, area);
  __syncthreads();
  for (int first = 0; first < p.most; first++) {
    const int members = area.wanted[first];
    if (members == 0) continue;
    list_members(p, first, area);
    __syncthreads();
    fit_group<ROWS>(members, shared);
    __syncthreads();
  }
  __syncthreads();
}

}  // namespace joint
