#include "reprise/test/cuda/grid.h"

#include <fmt/core.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "reprise/test/cuda/fiber.h"

namespace rp::fake {
namespace {

constexpr unsigned warp_threads = 32;
constexpr size_t guard_bytes = 128;
constexpr unsigned char guard = 0xC3;

struct Request {
  const void* mine;
  unsigned bytes;
  void* out;
  int source;
  unsigned mask;
};

struct Lane {
  enum class State : uint8_t { fresh, runs, block_barrier, grid_barrier, cluster_barrier, exchange, done };
  rp_shim::Thread thread;
  Fiber* fiber = nullptr;
  State state = State::fresh;
  int line = 0;
  Request request{};
};

struct Warp {
  unsigned runnable = 0, exchanging = 0, living = 0;  // a bit for each lane
};

struct Block {
  rp_shim::Block seen;
  std::vector<Lane> lanes;
  std::vector<Warp> warps;
  std::vector<unsigned char> memory;
  unsigned runnable = 0;  // a bit for each warp with a lane that can run
  unsigned living = 0, waiting = 0;
};

/// The threads that meet at one barrier: those of a block, a cluster or the grid.
struct Meeting {
  Lane::State state;
  Block* first;
  unsigned blocks;
};

std::string_view text_of(Lane::State state) {
  switch (state) {
    case Lane::State::block_barrier:
      return "__syncthreads";
    case Lane::State::grid_barrier:
      return "the grid's barrier";
    case Lane::State::cluster_barrier:
      return "the cluster's barrier";
    case Lane::State::exchange:
      return "a shuffle or a vote";
    default:
      return "nothing";
  }
}

class Grid {
 public:
  Grid(const LoadedKernel& kernel, const void* args, const GridShape& shape, const Schedule& schedule);
  ~Grid();
  std::string run();

  void wait(Lane::State state, int line);
  void exchange(const Request& request, int line);
  char* peer(char* shared, unsigned rank);
  [[noreturn]] void stop(std::string why);

 private:
  static void work();
  void begin(Block& block, unsigned index);
  bool run_resident();
  bool run_block(Block& block);
  void step(Lane& lane);
  void start(Lane& lane);
  void finish(Lane& lane);
  Lane* pick(Block& block);
  Meeting meeting(Lane::State state, Block& block);
  void meet(const Meeting& m);
  void try_exchange(Block& block, unsigned warp);
  void wake(Block& block, Lane& lane);
  void check(Block& block);
  std::string stuck() const;
  Block& block_of(const Lane& lane) { return blocks_[index_of(lane)]; }
  size_t index_of(const Lane& lane) const { return lane.thread.block->index.x - blocks_[0].seen.index.x; }

  const LoadedKernel& kernel_;
  const void* args_;
  const GridShape& shape_;
  Choice batches_, choice_;            // in which order blocks become resident, and which of them runs
  std::vector<Block> blocks_;          // those that are resident, in ascending order
  unsigned living_ = 0, waiting_ = 0;  // threads of all of them
  Lane* current_ = nullptr;
  Lane* picked_ = nullptr;  // who is next, when a worker could not go on with it itself
  std::string error_;
};

Grid* active = nullptr;
/// Workers that run nothing now.
std::vector<std::unique_ptr<Fiber>>& idle() {
  static auto* const fibers = new std::vector<std::unique_ptr<Fiber>>;
  return *fibers;
}

unsigned resident_blocks(const GridShape& shape) { return shape.cooperative ? shape.blocks : shape.cluster; }

Grid::Grid(const LoadedKernel& kernel, const void* args, const GridShape& shape, const Schedule& schedule)
    : kernel_(kernel),
      args_(args),
      shape_(shape),
      batches_(schedule, shape.blocks / resident_blocks(shape)),
      choice_(schedule, resident_blocks(shape)),
      blocks_(resident_blocks(shape)) {
  for (Block& block : blocks_) {
    block.lanes.resize(shape.threads);
    block.warps.resize((shape.threads + warp_threads - 1) / warp_threads);
    block.memory.resize(shape.shared_bytes + 2 * guard_bytes + 128);
  }
  active = this;
}

Grid::~Grid() {
  active = nullptr;
  for (Block& block : blocks_)
    for (Lane& lane : block.lanes)
      if (lane.fiber) {
        lane.fiber->reset();
        idle().emplace_back(lane.fiber);
      }
}

void Grid::begin(Block& block, unsigned index) {
  auto* const base = block.memory.data();
  auto* const shared = base + guard_bytes + (128 - (reinterpret_cast<uintptr_t>(base) + guard_bytes) % 128) % 128;
  std::memset(base, guard, block.memory.size());
  std::memset(shared, 0xFF, shape_.shared_bytes);
  block.seen = {{index, 0, 0},          {shape_.threads, 1, 1}, {shape_.blocks, 1, 1}, reinterpret_cast<char*>(shared),
                index % shape_.cluster, shape_.cluster};
  block.living = shape_.threads;
  block.waiting = 0;
  block.runnable = 0;
  for (unsigned t = 0; t < shape_.threads; ++t) {
    Lane& lane = block.lanes[t];
    lane.thread = {{t, 0, 0}, &block.seen, t % warp_threads};
    lane.state = Lane::State::fresh;
  }
  for (unsigned w = 0; w < block.warps.size(); ++w) {
    const unsigned lanes = std::min(warp_threads, shape_.threads - w * warp_threads);
    const unsigned all = lanes == warp_threads ? ~0u : (1u << lanes) - 1;
    block.warps[w] = {all, 0, all};
    block.runnable |= 1u << w;
  }
}

std::string Grid::run() {
  const auto resident = static_cast<unsigned>(blocks_.size());
  for (unsigned i = 0; i < shape_.blocks / resident; ++i) {
    living_ = shape_.threads * resident;
    for (unsigned b = 0; b < resident; ++b) begin(blocks_[b], batches_.at(i) * resident + b);
    if (!run_resident()) return fmt::format("kernel {}: {}", kernel_.name, error_);
  }
  return "";
}

bool Grid::run_resident() {
  while (living_ > 0 && error_.empty()) {
    bool progress = false;
    for (unsigned i = 0; i < blocks_.size() && error_.empty(); ++i) progress |= run_block(blocks_[choice_.at(i)]);
    if (!progress) error_ = stuck();
  }
  for (Block& block : blocks_)
    if (error_.empty()) check(block);
  return error_.empty();
}

/// Runs the block's threads until all of them wait or have ended.
bool Grid::run_block(Block& block) {
  bool progress = false;
  picked_ = nullptr;
  while (error_.empty()) {
    Lane* const lane = picked_ ? std::exchange(picked_, nullptr) : pick(block);
    if (!lane) break;
    step(*lane);
    progress = true;
  }
  return progress;
}

Lane* Grid::pick(Block& block) {
  if (!block.runnable) return nullptr;
  const auto warp = static_cast<unsigned>(choice_.bit(block.runnable));
  const auto lane = static_cast<unsigned>(choice_.bit(block.warps[warp].runnable));
  return &block.lanes[warp * warp_threads + lane];
}

void Grid::start(Lane& lane) {
  current_ = &lane;
  lane.state = Lane::State::runs;
  *kernel_.now = &lane.thread;
}

void Grid::step(Lane& lane) {
  if (!lane.fiber) {
    if (idle().empty()) idle().push_back(std::make_unique<Fiber>(&Grid::work));
    lane.fiber = idle().back().release();
    idle().pop_back();
  }
  start(lane);
  lane.fiber->resume();
}

/// On a fiber: runs the thread it was started for, and then those that are next as long as they have not begun.
void Grid::work() {
  Grid& grid = *active;
  for (;;) {
    grid.kernel_.kernel.call(grid.args_);
    Lane& ended = *grid.current_;
    Block& block = grid.block_of(ended);
    Fiber* const fiber = std::exchange(ended.fiber, nullptr);
    grid.finish(ended);
    Lane* const next = grid.error_.empty() ? grid.pick(block) : nullptr;
    if (!next || next->state != Lane::State::fresh) {
      grid.picked_ = next;
      if (fiber->overflowed()) grid.error_ = "a thread needs more stack than there is";
      idle().emplace_back(fiber);
      return;
    }
    next->fiber = fiber;
    grid.start(*next);
  }
}

/// A thread that has ended is no longer waited for.
void Grid::finish(Lane& lane) {
  Block& block = block_of(lane);
  const unsigned thread = lane.thread.index.x, w = thread / warp_threads, bit = 1u << thread % warp_threads;
  Warp& warp = block.warps[w];
  lane.state = Lane::State::done;
  warp.runnable &= ~bit;
  warp.living &= ~bit;
  if (!warp.runnable) block.runnable &= ~(1u << w);
  --block.living;
  --living_;
  if (warp.exchanging) try_exchange(block, w);
  if (waiting_ == 0) return;
  for (const Lane::State state : {Lane::State::block_barrier, Lane::State::grid_barrier, Lane::State::cluster_barrier})
    meet(meeting(state, block));
}

Meeting Grid::meeting(Lane::State state, Block& block) {
  if (state == Lane::State::block_barrier) return {state, &block, 1};
  if (state == Lane::State::grid_barrier) return {state, blocks_.data(), static_cast<unsigned>(blocks_.size())};
  const size_t own = static_cast<size_t>(&block - blocks_.data());
  return {state, &blocks_[own - own % shape_.cluster], shape_.cluster};
}

/// Lets everybody go on if everybody who is still there has come.
void Grid::meet(const Meeting& m) {
  if (m.state == Lane::State::grid_barrier && waiting_ < living_) return;
  unsigned living = 0, waiting = 0;
  for (unsigned b = 0; b < m.blocks; ++b) {
    living += m.first[b].living;
    waiting += m.first[b].waiting;
  }
  if (waiting < living || waiting == 0) return;
  const Lane* first = nullptr;
  for (unsigned b = 0; b < m.blocks; ++b)
    for (Lane& lane : m.first[b].lanes) {
      if (lane.state == Lane::State::done) continue;
      if (lane.state != m.state) return;  // at another kind of barrier: nobody will come any more
      if (!first) first = &lane;
      if (lane.line == first->line) continue;
      error_ = fmt::format("threads {} and {} of blocks {} and {} meet at different barriers, in lines {} and {}",
                           first->thread.index.x, lane.thread.index.x, first->thread.block->index.x,
                           lane.thread.block->index.x, first->line, lane.line);
      return;
    }
  for (unsigned b = 0; b < m.blocks; ++b) {
    for (Lane& lane : m.first[b].lanes)
      if (lane.state != Lane::State::done) wake(m.first[b], lane);
    waiting_ -= std::exchange(m.first[b].waiting, 0);
  }
}

void Grid::wake(Block& block, Lane& lane) {
  const unsigned thread = lane.thread.index.x;
  lane.state = Lane::State::runs;
  block.warps[thread / warp_threads].runnable |= 1u << thread % warp_threads;
  block.runnable |= 1u << thread / warp_threads;
}

void Grid::wait(Lane::State state, int line) {
  Lane& lane = *current_;
  Block& block = block_of(lane);
  const unsigned thread = lane.thread.index.x, w = thread / warp_threads;
  lane.state = state;
  lane.line = line;
  block.warps[w].runnable &= ~(1u << thread % warp_threads);
  if (!block.warps[w].runnable) block.runnable &= ~(1u << w);
  ++block.waiting;
  ++waiting_;
  meet(meeting(state, block));
  Fiber::suspend();
}

void Grid::exchange(const Request& request, int line) {
  Lane& lane = *current_;
  Block& block = block_of(lane);
  const unsigned thread = lane.thread.index.x, w = thread / warp_threads, bit = 1u << thread % warp_threads;
  if (!(request.mask & bit)) stop(fmt::format("line {}: a lane that is not in its own mask", line));
  Warp& warp = block.warps[w];
  lane.state = Lane::State::exchange;
  lane.line = line;
  lane.request = request;
  warp.runnable &= ~bit;
  warp.exchanging |= bit;
  if (!warp.runnable) block.runnable &= ~(1u << w);
  try_exchange(block, w);
  Fiber::suspend();
}

/// Moves the values of every group of lanes that is complete.
void Grid::try_exchange(Block& block, unsigned w) {
  Warp& warp = block.warps[w];
  Lane* const lanes = &block.lanes[w * warp_threads];
  for (unsigned rest = warp.exchanging; rest && error_.empty();) {
    const Lane& first = lanes[std::countr_zero(rest)];
    const unsigned group = first.request.mask & warp.living;
    rest &= ~group;
    if ((warp.exchanging & group) != group) continue;
    for (unsigned bits = group; bits; bits &= bits - 1) {
      const Lane& lane = lanes[std::countr_zero(bits)];
      if (lane.line == first.line && lane.request.mask == first.request.mask) continue;
      error_ = fmt::format("block {}: lanes {} and {} meet at different shuffles, in lines {} and {}",
                           block.seen.index.x, first.thread.lane, lane.thread.lane, first.line, lane.line);
      return;
    }
    for (unsigned bits = group; bits; bits &= bits - 1) {
      const Request& to = lanes[std::countr_zero(bits)].request;
      const auto give = [&](unsigned l, char* place) {
        if (group >> l & 1)
          std::memcpy(place, lanes[l].request.mine, to.bytes);
        else
          std::memset(place, 0xFF, to.bytes);
      };
      auto* const place = static_cast<char*>(to.out);
      if (to.source >= 0) give(static_cast<unsigned>(to.source), place);
      for (unsigned l = 0; to.source < 0 && l < warp_threads; ++l) give(l, place + l * to.bytes);
    }
    warp.exchanging &= ~group;
    for (unsigned bits = group; bits; bits &= bits - 1) wake(block, lanes[std::countr_zero(bits)]);
  }
}

char* Grid::peer(char* shared, unsigned rank) {
  Block& own = block_of(*current_);
  if (rank >= shape_.cluster) stop(fmt::format("a cluster of {} blocks has no block {}", shape_.cluster, rank));
  Block& other = *(&own - own.seen.cluster_rank + rank);
  if (!other.living) stop("a block uses the shared memory of another that has ended");
  return other.seen.shared + (shared - own.seen.shared);
}

void Grid::stop(std::string why) {
  error_ = fmt::format("block {}, thread {}: ", current_->thread.block->index.x, current_->thread.index.x);
  error_ += std::exchange(why, {});  // nothing that must be destroyed may be left on this stack
  for (;;) Fiber::suspend();
}

void Grid::check(Block& block) {
  const auto* const begin = block.memory.data();
  const auto* const shared = reinterpret_cast<const unsigned char*>(block.seen.shared);
  for (const auto* p = begin; p < begin + block.memory.size(); ++p) {
    if (p == shared) p += shape_.shared_bytes;
    if (*p != guard && error_.empty())
      error_ = fmt::format("block {} writes outside its {} bytes of shared memory, at {}", block.seen.index.x,
                           shape_.shared_bytes, p - shared);
  }
}

std::string Grid::stuck() const {
  std::string text = "a barrier that not all threads reach:";
  const Lane* last = nullptr;
  for (const Block& block : blocks_)
    for (const Lane& lane : block.lanes) {
      if (lane.state == Lane::State::done || (last && last->line == lane.line && last->state == lane.state)) continue;
      text += fmt::format("{} thread {} of block {} waits for {} in line {}", last ? "," : "", lane.thread.index.x,
                          block.seen.index.x, text_of(lane.state), lane.line);
      last = &lane;
      if (text.size() > 400) return text;
    }
  return text;
}

}  // namespace

const rp_shim::Services& services() {
  static constexpr rp_shim::Services table{
      [](int line) { active->wait(Lane::State::block_barrier, line); },
      [](int line) { active->wait(Lane::State::grid_barrier, line); },
      [](int line) { active->wait(Lane::State::cluster_barrier, line); },
      [](const void* mine, unsigned bytes, void* out, int source, unsigned mask, int line) {
        active->exchange({mine, bytes, out, source, mask}, line);
      },
      [](char* shared, unsigned rank) { return active->peer(shared, rank); },
      [](const char* why) { active->stop(why); },
  };
  return table;
}

std::string run_grid(const LoadedKernel& kernel, const void* args, const GridShape& shape, const Schedule& schedule) {
  return Grid(kernel, args, shape, schedule).run();
}

}  // namespace rp::fake
