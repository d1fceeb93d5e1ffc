// Row and column reductions with what stands before, between and after them: which of the forms of reduce_text.h suits
// a region, and its launches.
#include <algorithm>
#include <array>
#include <bit>

#include "reprise/backends/cuda/device.h"
#include "reprise/backends/cuda/launches.h"
#include "reprise/backends/cuda/reduce_text.h"
#include "reprise/backends/cuda/region_kernels.h"

namespace rp::cuda {
namespace {

size_t size_of(Type type) { return type == Type::f64 || type == Type::i64 ? 8 : 4; }
size_t padded(size_t bytes) { return (bytes + 255) / 256 * 256; }
int64_t leaves_of(int64_t count) { return std::max<int64_t>(1, (count + leaf - 1) / leaf); }

constexpr int64_t few_places = 8192;  // partial results that a block of threads combines in shared memory

class ReduceKernel : public TextKernel {
 public:
  explicit ReduceKernel(const Region& region) : region_(region), nest_(region_.members[0]) {
    for (const Stage& s : region_.stages) insts_ = std::max(insts_, s.program.insts.size());
  }
  size_t scratch_bytes() const override { return scratch_; }

 protected:
  using Launches = std::vector<PlannedLaunch>;

  bool rows() const { return region_.kind == RegionKind::rows; }

  PlannedLaunch begin(std::function<std::string()> text, bool wide) const {
    PlannedLaunch p{.function = std::make_shared<const LazyFunction>(std::move(text))};
    const std::vector<size_t> pointers = add_operands(p.args, region_, rows(), wide);
    for (size_t k = 0; k < pointers.size(); ++k) p.operands.push_back({pointers[k], k});
    return p;
  }

  void add_scalars(PlannedLaunch& p) const {
    p.scalars = static_cast<size_t>(region_.scalars);
    p.scalars_at = p.args.reserve_scalars(p.scalars);
    p.args.finish();
  }

  static void add_index(PlannedLaunch& p, bool wide, std::initializer_list<int64_t> values) {
    for (int64_t value : values)
      wide ? p.args.add(static_cast<uint64_t>(value)) : p.args.add(static_cast<uint32_t>(value));
  }

  static void add_scratch(PlannedLaunch& p, size_t offset) { p.scratch.push_back({p.args.reserve(1), offset}); }

  size_t reserve_scratch(size_t bytes) {
    const size_t at = scratch_;
    scratch_ += padded(bytes);
    return at;
  }

  /// Room for one value per result of each row temporary, and for the partial results of a stage, twice.
  void reserve_results(int64_t results, int64_t parts) {
    for (size_t i = 0; i < region_.row_temps.size(); ++i)
      row_temps_.push_back(reserve_scratch(static_cast<size_t>(results) * 8));
    size_t most = 0;
    for (const Stage& s : region_.stages) most = std::max(most, s.reductions.size());
    for (auto& half : parts_)
      for (size_t k = 0; k < most; ++k) half.push_back(reserve_scratch(static_cast<size_t>(results * parts) * 8));
  }

  /// Makes results of `parts` partial ones each, which lie in parts_[0], and goes on with the row stages behind.
  void add_finish(Launches& launches, size_t stage, int64_t results, int64_t parts, bool wide) const {
    const auto places = static_cast<uint32_t>(std::min<int64_t>(32, results));
    const auto size = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(few_places / places)));
    for (int half = 0;; half ^= 1) {
      const int64_t groups = (parts + size - 1) / size;
      const bool last = groups == 1;
      PlannedLaunch p = begin([this, stage, last, wide] { return finish_text(region_, stage, last, wide); }, wide);
      for (size_t at : row_temps_) add_scratch(p, at);
      const Stage& s = region_.stages[stage];
      size_t widest = 0;
      for (size_t k = 0; s.full && k < s.reductions.size(); ++k) {
        add_scratch(p, parts_[half][k]);
        add_scratch(p, parts_[half ^ 1][k]);
        widest = std::max(widest, size_of(s.reductions[k].type));
      }
      add_divisor(p.args, static_cast<uint64_t>(groups), wide);
      const int64_t pieces = (results + places - 1) / places * groups;
      add_index(p, wide, {results, parts, pieces});
      p.args.add(places);
      p.args.add(static_cast<uint32_t>(size));
      add_scalars(p);
      p.how = {.blocks = blocks_for(static_cast<uint64_t>(pieces)), .threads = threads};
      p.how.shared_bytes = widest * places * static_cast<size_t>(std::min(size, parts));
      launches.push_back(std::move(p));
      if (last) return;
      parts = groups;
    }
  }

  Region region_;
  const Nest& nest_;
  size_t insts_ = 1;  // of the longest program
  size_t scratch_ = 0;
  std::vector<size_t> row_temps_;             // in the scratch
  std::array<std::vector<size_t>, 2> parts_;  // likewise
};

// ---- rows -----------------------------------------------------------------------------------------------------------

// Where long rows have what they keep, in shared memory.
struct Places {
  std::vector<uint32_t> kept;
  uint32_t staging = 0, staging_bytes = 0, parts = 0, chunk = 0, at_once = 2;
  size_t bytes = 0;
};

class RowsKernel final : public ReduceKernel {
 public:
  RowsKernel(const Region& region, int64_t narrow)
      : ReduceKernel(region), rows_(nest_.outer_count() * nest_.rows), columns_(nest_.columns) {
    if (!rows_) return;
    wide_ = rows_ > narrow / leaves_of(columns_) || columns_ > narrow;
    const int64_t processors = device().properties.multiProcessorCount;
    if (const uint32_t each = fits_registers(); each && !(columns_ >= 256 && rows_ <= 8 * processors)) {
      form_ = "cuda rows in registers";
      launches_[0].push_back(short_rows(each));
    } else if (choose_long() && !(columns_ >= 32768 && rows_ < processors)) {
      form_ = "cuda row per block";
      for (int v : {0, 1}) launches_[v].push_back(long_rows(variant(v)));
    } else {
      form_ = "cuda rows in leaves";
      reserve_staged();
      for (int v : {0, 1}) launches_[v] = staged(variant(v));
    }
  }

  void run(const RegionCall& call) const override {
    for (const PlannedLaunch& p : launches_[aligned(call) ? 0 : 1]) p.run(call);
  }
  std::string form() const override { return form_; }
  std::vector<std::string> texts() const override { return texts_of(launches_[0]); }

 private:
  // ---- short rows ----

  // Elements of a thread if 16 threads can have a row in their registers; else 0.
  uint32_t fits_registers() const {
    constexpr uint32_t choices[] = {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64};
    size_t insts = 0;
    for (const Stage& s : region_.stages) insts += s.full ? s.program.insts.size() : 0;
    const std::vector<Kept> kept = kept_values(region_, true);
    for (uint32_t each : choices) {
      if (each * 16 < columns_) continue;
      size_t most = 0;
      for (size_t s = 0; s < region_.stages.size(); ++s) most = std::max(most, registers(s, kept, each));
      return most <= 120 && insts * each <= 4000 ? each : 0;
    }
    return 0;
  }

  size_t registers(size_t s, const std::vector<Kept>& kept, uint32_t each) const {
    size_t bytes = 0;
    for (const Kept& v : kept)
      if (v.first <= s && s <= v.last) bytes += std::max<size_t>(4, rp::size_of(v.dtype)) * each;
    const Stage& stage = region_.stages[s];
    for (size_t k = 0; stage.full && k < stage.slots.size(); ++k)
      bytes += rp::size_of(stage.program.operands[k].dtype) * std::min(each, 8u);
    return bytes / 4;
  }

  PlannedLaunch short_rows(uint32_t each) const {
    PlannedLaunch p = begin([this, each] { return short_rows_text(region_, each, wide_); }, wide_);
    add_index(p, wide_, {rows_, columns_});
    add_scalars(p);
    constexpr int64_t at_once = threads / 16;
    p.how.blocks = blocks_for(static_cast<uint64_t>((rows_ + at_once - 1) / at_once));
    return p;
  }

  // ---- long rows ----

  LongForm variant(int v) const {
    LongForm form = long_;
    if (v) form.vector = 1;
    return form;
  }

  // Whether a row's temporaries fit into the shared memory of a block.
  bool choose_long() {
    long_.wide = wide_;
    long_.threads = columns_ <= 8192 ? 256 : columns_ <= 32768 ? 512 : 1024;
    size_t widest = 4, reads = 0;
    for (const Stage& s : region_.stages)
      for (size_t k = 0; s.full && k < s.slots.size(); ++k) {
        const ProgramOperand& o = s.program.operands[k];
        if (s.slots[k].kind == StageSlot::Kind::row_temp || o.access != Access::contiguous) continue;
        widest = std::max(widest, rp::size_of(o.dtype));
        reads += !o.written;
      }
    for (long_.vector = static_cast<uint32_t>(16 / widest); long_.vector > 1; long_.vector /= 2)
      if (insts_ * long_.vector <= 2000 && steps_fit(long_.vector)) break;
    const int64_t vectors = columns_ / (long_.threads * long_.vector);
    long_.turns = vectors >= 3 && reads <= 2 ? 4 : vectors >= 2 ? 2 : 1;
    while (long_.turns > 1 && insts_ * long_.vector * long_.turns > 2000) long_.turns /= 2;
    const size_t limit = device().properties.sharedMemPerBlockOptin;
    for (bool keep : {true, false}) {
      long_.keep_operands = keep;
      places_ = place(kept_values(region_, keep));
      if (places_.bytes <= limit) return true;
    }
    return false;
  }

  bool steps_fit(int64_t vector) const {
    if (columns_ % vector) return false;
    for (size_t k = 0; k < region_.operands.size(); ++k) {
      const Nest::Steps& s = nest_.operands[k];
      if (region_.operands[k].per_row || s.column == 0) continue;
      if (nest_.rows > 1 && s.row % vector) return false;
      for (int a = 0; a < nest_.outer.rank(); ++a)
        if (nest_.outer[a] > 1 && s.outer[a] % vector) return false;
    }
    return true;
  }

  bool aligned(const RegionCall& call) const {
    uintptr_t bits = 0;
    for (size_t k = 0; k < region_.operands.size(); ++k) {
      const size_t bytes = long_.vector * rp::size_of(region_.operands[k].layout->dtype());
      if (!region_.operands[k].per_row && nest_.operands[k].column)
        bits |= reinterpret_cast<uintptr_t>(call.pointers[k]) & (std::min<size_t>(bytes, 16) - 1);
    }
    return !bits;
  }

  Places place(const std::vector<Kept>& kept) const {
    Places p;
    place_kept(p, kept);
    size_t own = 0, sums = 0, widest = 4;
    for (const Stage& s : region_.stages) {
      size_t here = 0;
      for (size_t k = 0; k < s.reductions.size(); ++k) {
        here += kept_as(s, k, kept) < 0;
        widest = std::max(widest, size_of(s.reductions[k].type));
      }
      own = std::max(own, here);
      sums = std::max(sums, s.reductions.size());
    }
    const int64_t leaves = leaves_of(columns_);
    const int64_t most = long_.threads / 32 / static_cast<int64_t>(std::max<size_t>(sums, 1)) * 2;  // whole warps
    int64_t at_once = std::min(leaves, most);
    if (own) at_once = std::clamp<int64_t>(65536 / static_cast<int64_t>(own * widest * leaf), 1, at_once);
    p.chunk = static_cast<uint32_t>(at_once * leaf);
    p.at_once = static_cast<uint32_t>((at_once + 1) / 2 * 2);
    p.staging = static_cast<uint32_t>(p.bytes);
    p.staging_bytes = static_cast<uint32_t>(padded(static_cast<size_t>(std::min(at_once * leaf, columns_)) * widest));
    p.parts = static_cast<uint32_t>(p.bytes + own * p.staging_bytes);
    p.bytes = p.parts + sums * static_cast<size_t>(leaves) * 8;
    return p;
  }

  // A value takes the place of one that is no longer used, or was last used to make it, element by element.
  void place_kept(Places& p, const std::vector<Kept>& kept) const {
    std::vector<size_t> holder;  // of each place: the last value
    std::vector<uint32_t> start;
    for (size_t i = 0; i < kept.size(); ++i) {
      const size_t size = rp::size_of(kept[i].dtype);
      size_t at = 0;
      for (; at < holder.size(); ++at) {
        const Kept& old = kept[holder[at]];
        if (rp::size_of(old.dtype) == size && (old.last < kept[i].first || hands_over(kept, holder[at], i))) break;
      }
      if (at == holder.size()) {
        holder.push_back(i);
        start.push_back(static_cast<uint32_t>(p.bytes));
        p.bytes += padded(static_cast<size_t>(columns_) * size);
      }
      holder[at] = i;
      p.kept.push_back(start[at]);
    }
  }

  bool hands_over(const std::vector<Kept>& kept, size_t from, size_t to) const {
    if (kept[from].last != kept[to].first) return false;
    const Stage& s = region_.stages[kept[from].last];
    for (size_t k = 0; k < s.reductions.size(); ++k)
      if (kept_as(s, k, kept) == static_cast<int>(from)) return false;
    return true;
  }

  PlannedLaunch long_rows(const LongForm& form) const {
    PlannedLaunch p = begin([this, form] { return long_rows_text(region_, form); }, wide_);
    add_index(p, wide_, {rows_, columns_, places_.chunk});
    for (uint32_t at : places_.kept) p.args.add(at);
    for (uint32_t value : {places_.staging, places_.staging_bytes, places_.parts,
                           static_cast<uint32_t>(leaves_of(columns_)), places_.at_once})
      p.args.add(value);
    add_scalars(p);
    p.how = {.blocks = blocks_for(static_cast<uint64_t>(rows_)), .threads = form.threads};
    p.how.shared_bytes = places_.bytes;
    return p;
  }

  // ---- leaves of long rows dealt out, stage by stage ----

  void reserve_staged() {
    long_.threads = threads;
    long_.turns = std::min(long_.turns, 2u);
    reserve_results(rows_, leaves_of(columns_));
    for (DType d : region_.full_temps)
      full_temps_.push_back(reserve_scratch(static_cast<size_t>(rows_ * columns_) * rp::size_of(d)));
  }

  Launches staged(const LongForm& form) const {
    Launches launches;
    for (size_t s = 0; s < region_.stages.size(); ++s) {
      const Stage& stage = region_.stages[s];
      if (stage.full) launches.push_back(full_stage(s, form));
      if (stage.full ? !stage.reductions.empty() : !s)
        add_finish(launches, s, rows_, stage.full ? leaves_of(columns_) : 1, wide_);
    }
    return launches;
  }

  PlannedLaunch full_stage(size_t s, const LongForm& form) const {
    const Stage& stage = region_.stages[s];
    PlannedLaunch p = begin([this, s, form] { return rows_stage_text(region_, s, form); }, wide_);
    for (size_t at : row_temps_) add_scratch(p, at);
    for (size_t at : full_temps_) add_scratch(p, at);
    size_t widest = 0;
    for (size_t k = 0; k < stage.reductions.size(); ++k) {
      add_scratch(p, parts_[0][k]);
      widest = std::max(widest, size_of(stage.reductions[k].type));
    }
    const int64_t leaves = leaves_of(columns_), pieces = rows_ * leaves;
    add_divisor(p.args, static_cast<uint64_t>(leaves), wide_);
    add_index(p, wide_, {rows_, columns_, pieces});
    p.args.add(uint32_t{0});
    p.args.add(static_cast<uint32_t>(leaf * static_cast<int64_t>(widest)));
    add_scalars(p);
    p.how = {.blocks = blocks_for(static_cast<uint64_t>(pieces)), .threads = form.threads};
    p.how.shared_bytes = stage.reductions.size() * static_cast<size_t>(leaf) * widest;
    return p;
  }

  int64_t rows_, columns_;
  bool wide_ = false;
  LongForm long_;
  Places places_;
  std::vector<size_t> full_temps_;    // in the scratch
  std::array<Launches, 2> launches_;  // with vectors, and element by element
  std::string form_ = "cuda";
};

// ---- columns --------------------------------------------------------------------------------------------------------

class ColumnsKernel final : public ReduceKernel {
 public:
  ColumnsKernel(const Region& region, int64_t narrow) : ReduceKernel(region) {
    const int64_t outer = nest_.outer_count(), rows = nest_.rows, columns = nest_.columns;
    const int64_t results = outer * columns, leaves = leaves_of(rows);
    if (!results) return;
    const int64_t wanted = (columns + 31) / 32, places = (columns + wanted - 1) / wanted;
    const int64_t tiles = (columns + places - 1) / places;
    const int64_t height = std::clamp<int64_t>(column_threads / (16 * places), 1, leaves);
    const int64_t groups = (leaves + height - 1) / height, pieces = outer * tiles * groups;
    const bool wide = std::max({rows, columns, results * leaves, pieces}) > narrow, direct = leaves == 1;
    if (!direct) reserve_results(results, leaves);
    const uint32_t turns = choose_turns();
    PlannedLaunch p = begin([this, turns, direct, wide] { return columns_text(region_, turns, direct, wide); }, wide);
    size_t s = 0, widest = 0;
    while (!region_.stages[s].full) ++s;
    for (size_t k = 0; k < region_.stages[s].reductions.size(); ++k) {
      if (!direct) add_scratch(p, parts_[0][k]);
      widest = std::max(widest, size_of(region_.stages[s].reductions[k].type));
    }
    add_divisor(p.args, static_cast<uint64_t>(tiles), wide);
    add_divisor(p.args, static_cast<uint64_t>(groups), wide);
    add_index(p, wide, {rows, columns, leaves, results, pieces});
    p.args.add(static_cast<uint32_t>(places));
    p.args.add(static_cast<uint32_t>(height));
    add_scalars(p);
    p.how = {.blocks = blocks_for(static_cast<uint64_t>(pieces)), .threads = column_threads};
    p.how.shared_bytes = widest * column_threads;
    launches_.push_back(std::move(p));
    if (!direct) add_finish(launches_, s, results, leaves, wide);
  }

  void run(const RegionCall& call) const override {
    for (const PlannedLaunch& p : launches_) p.run(call);
  }
  std::string form() const override { return "cuda columns"; }
  std::vector<std::string> texts() const override { return texts_of(launches_); }

 private:
  // Rows that a thread loads at once: what hides the memory's latency.
  uint32_t choose_turns() const {
    size_t words = 1;
    for (const Stage& s : region_.stages)
      for (size_t k = 0; s.full && k < s.slots.size(); ++k)
        words += s.program.operands[k].written ? 0 : std::max<size_t>(1, rp::size_of(s.program.operands[k].dtype) / 4);
    uint32_t turns = 16;
    while (turns > 1 && (words * turns > 48 || insts_ * turns > 2000)) turns /= 2;
    return turns;
  }

  Launches launches_;
};

}  // namespace

std::unique_ptr<RegionKernel> compile_rows(const Region& region, int64_t narrow) {
  return std::make_unique<RowsKernel>(region, narrow);
}

std::unique_ptr<RegionKernel> compile_columns(const Region& region, int64_t narrow) {
  return std::make_unique<ColumnsKernel>(region, narrow);
}

}  // namespace rp::cuda
