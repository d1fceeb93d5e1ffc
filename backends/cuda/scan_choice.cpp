#include "reprise/backends/cuda/scan_choice.h"

#include <fmt/format.h>

#include <algorithm>

namespace rp::cuda {
namespace {

using As = ScanValue::Kind;

constexpr int64_t most_threads = 512, most_warps = most_threads / 32, most_registers = 255;

// The model's numbers: cycles of a multiprocessor at 1.7 GHz, not measured.
constexpr double cycle_ns = 0.6;
constexpr double meeting_cycles[] = {0, 40, 350, 1600};  // by kind of meeting
constexpr double element_cycles = 150;                   // of the pointwise ops of one row, all in all
// Of steps as launches of their own.
constexpr double launch_ns = 2000, products_per_ns = 15000, bytes_per_ns = 3500;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
bool is_power(int64_t n) { return (n & (n - 1)) == 0; }
size_t padded(size_t bytes) { return (bytes + 15) / 16 * 16; }
int64_t bytes_of(const ScanValue& v) { return static_cast<int64_t>(size_of(v.dtype)); }
int64_t vector_of(const ScanValue& v) { return 16 / bytes_of(v); }

// Registers of a thread: those of its values for each row, and about what addresses and loops take.
int64_t registers(const ScanBody& body, const ScanChoice& c) {
  int64_t words = 0, factors = 0;
  for (const ScanValue& v : body.values) {
    const int64_t each = body.groups(v) * std::max<int64_t>(1, bytes_of(v) / 4);
    if (v.held) words += each * c.each;
    if (v.kind == As::product && c.split) {
      const ScanTiles t = tiles_of(body, v, c);
      if (c.kept) words += t.fragments() * (t.each == 1 ? 2 : 4);
      factors = std::max(factors, 32 + (c.split > 1 ? t.tiles() * c.rows / 2 : 0));
    } else if (v.kind == As::product) {
      factors = std::max(factors, 4 * (body.groups(v) + 1));
    }
    for (const ScanRead& r : v.reads)
      if (r.value < 0) words += each * (r.outside.row ? c.each : 1);
  }
  return 40 + words + factors;
}

// Each of four schedulers has the registers of its warps, 512 a lane, which it gives out by eights.
int64_t registers_for(int64_t threads) { return std::min(most_registers, 512 / ceil_div(threads, 128) / 8 * 8); }

// Four schedulers issue a warp's instruction each in a cycle; a sum takes four cycles for its next product; shared
// memory gives 128 bytes in a cycle, and a row's element to all who want it at once.
double product_cycles(const ScanBody& body, const ScanValue& v, const ScanChoice& c) {
  const auto warps = static_cast<double>(c.threads / 32), turns = static_cast<double>(ceil_div(c.threads / 32, 4));
  const auto groups = static_cast<double>(body.groups(v)), each = static_cast<double>(c.each);
  const double wide = static_cast<double>(bytes_of(v)) / 4;
  const double arithmetic = turns * each * groups * wide, loads = warps * (groups + each / 2) * wide;
  return static_cast<double>(v.inner) * std::max({4.0, arithmetic, loads});
}

// A multiprocessor's tensor cores multiply a tile with 16 of its columns in two cycles, and a sum waits 33 for its next
// products. Shared memory gives the rows, weights that are not kept, and the sums that warps share.
double tile_cycles(const ScanBody& body, const ScanValue& v, const ScanChoice& c) {
  const ScanTiles t = tiles_of(body, v, c);
  const auto warps = static_cast<double>(c.threads / 32), turns = static_cast<double>(t.turns);
  const auto tiles = static_cast<double>(t.tiles()), high = static_cast<double>(c.rows) / 8;
  const double arithmetic = turns * 2 * std::max(33.0, tiles * high * std::max(8.0, 2 * warps));
  const double loads = warps * turns * 4 * (high + (c.kept ? 0 : 2 * tiles));
  const double shared = static_cast<double>(t.octets * c.rows * c.split) / 2;  // written and read
  return std::max(arithmetic, loads) + 60 + (c.split > 1 ? 80 + shared : 0);
}

double step_cycles(const ScanBody& body, const ScanChoice& c) {
  double cycles = element_cycles * static_cast<double>(c.each);
  cycles += meetings_of(body) * meeting_cycles[static_cast<size_t>(c.meeting)];
  for (const ScanValue& v : body.values) {
    if (v.kind == As::product) cycles += c.split ? tile_cycles(body, v, c) : product_cycles(body, v, c);
    if (v.kind == As::reduction)
      cycles += 100 + static_cast<double>(c.rows * body[v.reads[0].value].columns) / static_cast<double>(c.threads) * 4;
  }
  for (const ScanExchange& e : body.exchanges) {
    const auto bytes = static_cast<double>(c.rows * body[e.value].columns * bytes_of(body[e.value]));
    if (c.meeting == ScanMeeting::cluster) cycles += bytes / 32;
    if (c.meeting == ScanMeeting::grid) cycles += 700 + bytes / 48;  // of which products hide a part
  }
  return cycles;
}

// Of a step in launches of its own: each product's sums, a thread having several, its arithmetic, and its factor, which
// is read again.
double apart_ns(const ScanBody& body) {
  double ns = (1 + body.levels) * 2 * launch_ns;
  for (const ScanValue& v : body.values) {
    if (v.kind != As::product) continue;
    const auto inner = static_cast<double>(v.inner), columns = static_cast<double>(v.columns);
    ns += std::max({inner * 8 * cycle_ns, static_cast<double>(body.batch) * columns * inner / products_per_ns,
                    inner * columns * static_cast<double>(bytes_of(v)) / bytes_per_ns});
  }
  return ns;
}

class Chooser {
 public:
  Chooser(const ScanBody& body, const ScanDevice& device) : body_(body), device_(device) {
    for (const ScanSpace& s : body.spaces) units_ = std::max(units_, s.units);
    for (const ScanValue& v : body.values) longest_ = std::max(longest_, ceil_div(v.inner, 4) * 4);
  }

  std::vector<ScanChoice> run(std::string* why) {
    for (int64_t blocks = 1; blocks <= std::min(units_, device_.multiprocessors); ++blocks) {
      // More blocks with as many units in each would do the same work.
      if (!is_power(blocks) && ceil_div(units_, blocks) == ceil_div(units_, blocks - 1)) continue;
      if (body_.tensor) consider_tiles(blocks);
      for (int64_t each = 1; each <= 8 && !body_.tensor; each *= 2)
        for (int64_t strips = 1; strips * each < 2 * body_.batch || strips * each == 1; strips *= 2)
          consider(blocks, each, strips);
    }
    if (found_.empty() && body_.tensor && !device_.tensor)
      *why = "the device has no tensor cores for them";
    else if (found_.empty() && least_shared_ == SIZE_MAX)
      *why = "the weights and sums of a warp do not fit its registers";
    else if (found_.empty())
      *why = fmt::format("the weights and what is exchanged take {} KiB of a block's {} KiB at least",
                         (least_shared_ + 1023) / 1024, device_.shared_bytes / 1024);
    return std::move(found_);
  }

 private:
  ScanMeeting meeting(int64_t blocks) const {
    if (body_.exchanges.empty()) return ScanMeeting::none;
    if (blocks == 1) return ScanMeeting::block;
    return blocks <= device_.cluster && is_power(blocks) ? ScanMeeting::cluster : ScanMeeting::grid;
  }

  ScanChoice over(int64_t blocks, int64_t rows) const {
    ScanChoice c;
    c.meeting = meeting(blocks);
    c.blocks = blocks;
    c.rows = rows;
    c.slices = ceil_div(body_.batch, c.rows);
    c.width = ceil_div(units_, blocks);
    return c;
  }

  // A warp that forms sums alone has all octets of its 8 units, and a thread the rows of its lanes in each tile.
  void consider_tiles(int64_t blocks) {
    if (!device_.tensor) return;
    for (int64_t rows = 8; rows < 2 * body_.batch || rows == 8; rows *= 2)
      for (int64_t split = 1; split <= most_warps; split *= 2)
        for (int64_t across = 1; across * split <= most_warps; ++across)
          for (const bool kept : {true, false}) {
            ScanChoice c = over(blocks, rows);
            c.split = split;
            c.across = across;
            c.kept = kept;
            c.threads = across * split * 32;
            if (split == 1 && (across != ceil_div(c.width, 8) || product_everywhere())) continue;
            c.each = split == 1 ? rows / 4 : 1;
            while (c.width * (rows / c.each) > c.threads && c.each < rows) c.each *= 2;
            if (c.width * (rows / c.each) <= c.threads && useful(c)) consider(c);
          }
  }

  bool product_everywhere() const {
    return std::ranges::any_of(body_.values, [&](const ScanValue& v) {
      return v.kind == As::product && body_.spaces[static_cast<size_t>(v.space)].everywhere();
    });
  }

  // Some product has work for every warp.
  bool useful(const ScanChoice& c) const {
    return c.split == 1 || std::ranges::any_of(body_.values, [&](const ScanValue& v) {
             const ScanTiles t = tiles_of(body_, v, c);
             return v.kind == As::product && t.each * (c.across - 1) < t.octets && t.pieces >= c.split;
           });
  }

  void consider(int64_t blocks, int64_t each, int64_t strips) {
    ScanChoice c = over(blocks, each * strips);
    c.each = each;
    c.threads = ceil_div(c.width * strips, 32) * 32;
    consider(c);
  }

  void consider(ScanChoice c) {
    if (c.threads > most_threads || registers(body_, c) > registers_for(c.threads)) return;
    const int64_t all = c.blocks * c.slices;
    if (c.meeting == ScanMeeting::grid && all > device_.multiprocessors) return;
    const bool whole = body_.tensor;
    for (c.chunk = longest_; c.chunk; c.chunk = whole ? 0 : c.chunk > 64 ? (c.chunk / 2 + 63) / 64 * 64 : 0) {
      c.shared_bytes = scan_memory(body_, c).shared;
      least_shared_ = std::min(least_shared_, c.shared_bytes);
      if (c.shared_bytes <= static_cast<size_t>(device_.shared_bytes)) break;
    }
    if (!c.chunk) return;
    const int64_t at_once = std::max<int64_t>(1, device_.multiprocessors / c.blocks) * c.blocks;
    c.step_ns = step_cycles(body_, c) * cycle_ns * static_cast<double>(ceil_div(all, at_once));
    found_.push_back(c);
  }

  const ScanBody& body_;
  const ScanDevice& device_;
  int64_t units_ = 1, longest_ = 4;  // units of the largest space; columns of the longest product
  size_t least_shared_ = SIZE_MAX;
  std::vector<ScanChoice> found_;
};

}  // namespace

ScanTiles tiles_of(const ScanBody& body, const ScanValue& product, const ScanChoice& c) {
  const int64_t lanes = units_of_block(body.spaces[static_cast<size_t>(product.space)], c);
  ScanTiles t;
  t.octets = ceil_div(lanes, 8) * body.groups(product);
  t.each = c.split == 1 ? body.groups(product) : ceil_div(t.octets, c.across);
  t.pieces = ceil_div(product.inner, 32);
  t.turns = ceil_div(t.pieces, c.split);
  return t;
}

int64_t units_of_block(const ScanSpace& space, const ScanChoice& choice) {
  return ceil_div(space.units, space.everywhere() ? 1 : choice.blocks);
}

bool meets_at_start(const ScanBody& body) {
  return std::any_of(body.exchanges.begin(), body.exchanges.end(),
                     [&](const ScanExchange& e) { return body[e.value].kind == As::carry; });
}

int meetings_of(const ScanBody& body) { return body.levels + meets_at_start(body); }

namespace {

// Products may read rows that begin and end with a vector while they come.
bool only_products_read(const ScanBody& body, const ScanExchange& e) {
  return std::all_of(body.values.begin(), body.values.end(), [&](const ScanValue& v) {
    const bool reads = (v.kind == As::product || v.kind == As::reduction) && v.reads[0].value == e.value;
    return !reads || (v.kind == As::product && v.reads[0].column % vector_of(v) == 0);
  });
}

// All but where.
ScanMemory::Exchange place_of(const ScanBody& body, const ScanExchange& e, const ScanChoice& choice) {
  const ScanValue& v = body[e.value];
  ScanMemory::Exchange x;
  x.handed = choice.meeting == ScanMeeting::grid && !body.spaces[static_cast<size_t>(v.space)].everywhere();
  x.streamed = x.handed && !body.tensor && only_products_read(body, e);
  x.handed_pitch = ceil_div(v.columns, vector_of(v)) * vector_of(v);
  // Where 4 lanes read 64 bytes of a row, and 4 those of the next one, rows begin so far apart in banks; else 8 lanes
  // read 16 bytes of as many rows. Tiles also read what stands behind the last column.
  x.pitch = body.tensor ? ceil_div(v.columns, 64) * 64 + 32 : x.handed_pitch + vector_of(v);
  // A place is free once all have met after it was read: at a later level, at the start of the next step, or at a level
  // before it is written again, which is the last one for a carry.
  const bool carry = v.kind == As::carry, starts = meets_at_start(body);
  const auto free = [&](int read) { return read < body.levels || (!carry && (starts || v.level > 0)); };
  x.twice = !x.handed && !free(e.last_read);
  x.handed_twice = x.handed && !free(x.streamed ? e.last_read : carry ? 0 : v.level + 1);
  return x;
}

int64_t factor_bytes(const ScanBody& body, const ScanValue& v, const ScanChoice& choice) {
  if (choice.split) return choice.kept ? 0 : choice.threads * tiles_of(body, v, choice).fragments() * 16;
  const int64_t k = ceil_div(v.inner, vector_of(v)) * vector_of(v);
  return k * body.groups(v) * units_of_block(body.spaces[static_cast<size_t>(v.space)], choice) * bytes_of(v);
}

// A row of 8 units' sums ends in four that nobody uses: so a warp's stores go to different banks.
int64_t partial_bytes(const ScanBody& body, const ScanValue& v, const ScanChoice& choice) {
  if (choice.split < 2) return 0;
  const int64_t groups = body.groups(v), lanes = tiles_of(body, v, choice).octets / groups * 8;
  return choice.split * groups * choice.rows * (lanes + 4) * 4;
}

}  // namespace

ScanMemory scan_memory(const ScanBody& body, const ScanChoice& choice) {
  ScanMemory m;
  const auto take = [&](int64_t bytes) {
    const size_t at = m.shared;
    m.shared += padded(static_cast<size_t>(bytes));
    return at;
  };
  for (const ScanValue& v : body.values) {
    m.weights.push_back(v.kind == As::product ? take(factor_bytes(body, v, choice)) : 0);
    m.partial.push_back(v.kind == As::product ? take(partial_bytes(body, v, choice)) : 0);
    m.reduced.push_back(v.kind == As::reduction ? take(choice.rows * bytes_of(v)) : 0);
  }
  int64_t chunk_bytes = 0;
  for (const ScanExchange& e : body.exchanges) {
    const ScanMemory::Exchange x = place_of(body, e, choice);
    const int64_t bytes = bytes_of(body[e.value]);
    m.exchanges.push_back(x);
    if (x.streamed) chunk_bytes = std::max(chunk_bytes, 2 * choice.rows * (choice.chunk * bytes + 16));
    if (!x.streamed) m.exchanges.back().at = take(choice.rows * x.pitch * bytes * (x.twice ? 2 : 1));
    m.exchanges.back().handed_at = m.handed;
    if (x.handed)
      m.handed +=
          padded(static_cast<size_t>(choice.slices * choice.rows * x.handed_pitch * bytes * (x.handed_twice ? 2 : 1)));
  }
  m.chunks = take(chunk_bytes);
  return m;
}

std::vector<ScanChoice> scan_choices(const ScanBody& body, const ScanDevice& device, std::string* why) {
  return Chooser(body, device).run(why);
}

std::optional<ScanChoice> choose_scan(const ScanBody& body, const ScanDevice& device, std::string* why) {
  const std::vector<ScanChoice> all = scan_choices(body, device, why);
  if (all.empty()) return {};
  const ScanChoice best = *std::min_element(
      all.begin(), all.end(), [](const ScanChoice& a, const ScanChoice& b) { return a.step_ns < b.step_ns; });
  const double apart = apart_ns(body);
  if (best.step_ns <= apart) return best;
  *why = fmt::format("a step would take about {:.1f} us, and {:.1f} us in launches of its own", best.step_ns / 1000,
                     apart / 1000);
  return {};
}

}  // namespace rp::cuda
