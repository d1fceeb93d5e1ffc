// Strided copies. Where the elements that lie together are others in the source than in the target, a block of threads
// turns tiles of 32 x 32 around in shared memory, so that both are read and written in runs.
#include <algorithm>
#include <utility>

#include "reprise/backends/cuda/element_text.h"
#include "reprise/backends/cuda/launches.h"
#include "reprise/backends/cuda/region_kernels.h"

namespace rp::cuda {
namespace {

struct Axis {
  int64_t extent, from, to;  // steps in elements
};

constexpr int64_t tile = 32;

class CopyText {
 public:
  CopyText(size_t element, size_t axes, bool wide) : element_(element), axes_(axes), wide_(wide) {}

  std::string direct() {
    begin("elements");
    text_.open("for (Index piece = (Index){0} * {1} + threadIdx.x; piece < args.pieces; piece += (Index){2} * {1})",
               "blockIdx.x", threads, "gridDim.x");
    places("piece", axes_);
    text_.line("*to = *from;");
    text_.close();
    text_.close();
    return text_.take();
  }

  // The last two axes are those of the tiles: along the first of them the source moves least, along the second the
  // target.
  std::string turned() {
    begin("tiles");
    text_.line("{0}* tile = ({0}*)shared_memory();  // a column more than is used, so that banks do not meet", type());
    text_.line("const u32 x = threadIdx.x % {0}, y = threadIdx.x / {0};", tile);
    text_.line("const i64 from_row = args.from_steps[{0}], to_row = args.to_steps[{0}];", axes_ - 2);
    text_.line("const i64 from_column = args.from_steps[{0}], to_column = args.to_steps[{0}];", axes_ - 1);
    text_.open("for (Index piece = blockIdx.x; piece < args.pieces; piece += gridDim.x)");
    text_.line("const Index above = quotient(piece, args.column_tiles), number = quotient(above, args.row_tiles);");
    text_.line("const Index row = (above - number * args.row_tiles.value) * {};", tile);
    text_.line("const Index column = (piece - above * args.column_tiles.value) * {};", tile);
    places("number", axes_ - 2);
    const auto each = [&](const char* rows, const char* columns, const char* statement) {
      text_.unrolled();
      text_.line("for (u32 k = 0; k < {}; k += {})", tile, threads / tile);
      text_.line("  if (row + {} < args.rows && column + {} < args.columns)", rows, columns);
      text_.line("    {}", statement);
    };
    each("x", "y + k",
         "tile[(y + k) * 33 + x] = from[(i64)(row + x) * from_row + (i64)(column + y + k) * from_column];");
    text_.line("__syncthreads();");
    each("y + k", "x", "to[(i64)(row + y + k) * to_row + (i64)(column + x) * to_column] = tile[x * 33 + y + k];");
    text_.line("__syncthreads();");
    text_.close();
    text_.close();
    return text_.take();
  }

 private:
  const char* type() const { return element_ == 1 ? "u8" : element_ == 2 ? "u16" : element_ == 4 ? "u32" : "u64"; }

  void begin(std::string_view what) {
    text_.line("typedef {} Index;", wide_ ? "u64" : "u32");
    text_.open("struct Args");
    text_.line("const {}* from;", type());
    text_.line("{}* to;", type());
    text_.line("i64 from_steps[{0}], to_steps[{0}];", axes_);
    const size_t divided = what == "tiles" ? axes_ - 2 : axes_;
    if (divided > 1) text_.line("Divisor<Index> extents[{}];  // of all outer axes but the first", divided - 1);
    if (what == "tiles") text_.line("Divisor<Index> column_tiles, row_tiles;");
    if (what == "tiles") text_.line("Index rows, columns;");
    text_.line("Index pieces;  // {}", what);
    text_.close(";");
    text_.line("");
    text_.open("extern \"C\" __global__ void __launch_bounds__({}) kernel_entry(const __grid_constant__ Args args)",
               threads);
  }

  // Where the element stands whose places along the first `count` axes `number` counts.
  void places(const std::string& number, size_t count) {
    std::string from = "args.from", to = "args.to", rest = number;
    for (size_t a = count; a-- > 0;) {
      std::string at = rest;
      if (a) {
        text_.line("const Index above{0} = quotient({1}, args.extents[{2}]);", a, rest, a - 1);
        text_.line("const Index at{0} = {1} - above{0} * args.extents[{2}].value;", a, rest, a - 1);
        rest = fmt::format("above{}", a);
        at = fmt::format("at{}", a);
      }
      from += fmt::format(" + (i64){} * args.from_steps[{}]", at, a);
      to += fmt::format(" + (i64){} * args.to_steps[{}]", at, a);
    }
    text_.line("const {}* from = {};", type(), from);
    text_.line("{}* to = {};", type(), to);
  }

  size_t element_, axes_;
  bool wide_;
  Text text_;
};

class CopyKernel final : public TextKernel {
 public:
  CopyKernel(const Region& region, int64_t narrow) {
    const Layout &from = *region.operands[0].layout, &to = *region.operands[1].layout;
    if (!to.numel) return;
    const size_t element = rp::size_of(from.dtype());
    std::vector<Axis> axes = axes_of(from, to);
    const bool turned = turn(axes);
    const size_t n = axes.size(), outer = turned ? n - 2 : n;
    const auto tiles = [](const Axis& a) { return (a.extent + tile - 1) / tile; };
    int64_t pieces = 1;
    for (size_t a = 0; a < n; ++a) pieces *= turned && a >= outer ? tiles(axes[a]) : axes[a].extent;
    const bool wide = to.numel > narrow;
    launch_.function = std::make_shared<const LazyFunction>([=] {
      CopyText text(element, n, wide);
      return turned ? text.turned() : text.direct();
    });
    launch_.operands = {{launch_.args.reserve(1), 0}, {launch_.args.reserve(1), 1}};
    for (const Axis& a : axes) launch_.args.add(a.from);
    for (const Axis& a : axes) launch_.args.add(a.to);
    for (size_t a = 1; a < outer; ++a) add_divisor(launch_.args, static_cast<uint64_t>(axes[a].extent), wide);
    if (turned) {
      add_divisor(launch_.args, static_cast<uint64_t>(tiles(axes[n - 1])), wide);
      add_divisor(launch_.args, static_cast<uint64_t>(tiles(axes[n - 2])), wide);
      add_index(launch_.args, axes[n - 2].extent, wide);
      add_index(launch_.args, axes[n - 1].extent, wide);
    }
    add_index(launch_.args, pieces, wide);
    launch_.args.finish();
    launch_.how.blocks = blocks_for(static_cast<uint64_t>(turned ? pieces : (pieces + threads - 1) / threads));
    launch_.how.shared_bytes = turned ? tile * (tile + 1) * element : 0;
    form_ = turned ? "cuda turned" : "cuda copy";
  }

  void run(const RegionCall& call) const override {
    if (launch_.function) launch_.run(call);
  }
  std::string form() const override { return form_; }
  int reorders() const override { return 1; }
  std::vector<std::string> texts() const override {
    return launch_.function ? std::vector{launch_.function->text()} : std::vector<std::string>{};
  }

 private:
  static void add_index(ArgsBytes& args, int64_t value, bool wide) {
    wide ? args.add(static_cast<uint64_t>(value)) : args.add(static_cast<uint32_t>(value));
  }

  // From the axis along which the target moves most; neighbours joined where both step evenly through them.
  static std::vector<Axis> axes_of(const Layout& from, const Layout& to) {
    std::vector<Axis> all, axes;
    for (int i = 0; i < to.rank(); ++i)
      if (to.shape()[i] != 1) all.push_back({to.shape()[i], from.strides[i], to.strides[i]});
    std::sort(all.begin(), all.end(),
              [](const Axis& a, const Axis& b) { return std::pair(a.to, a.from) > std::pair(b.to, b.from); });
    for (const Axis& a : all) {
      Axis* last = axes.empty() ? nullptr : &axes.back();
      if (last && last->to == a.to * a.extent && last->from == a.from * a.extent)
        *last = {last->extent * a.extent, a.from, a.to};
      else
        axes.push_back(a);
    }
    if (axes.empty()) axes.push_back({1, 0, 0});
    return axes;
  }

  // Puts the axis along which the source moves least next to the last one, if tiles of both are worth it.
  static bool turn(std::vector<Axis>& axes) {
    const Axis& last = axes.back();
    auto least = axes.end() - 1;
    for (auto a = axes.begin(); a != axes.end() - 1; ++a)
      if (a->from && (!least->from || a->from < least->from)) least = a;
    if (least == axes.end() - 1 || std::min(least->extent, last.extent) < 8) return false;
    std::rotate(least, least + 1, axes.end() - 1);
    return true;
  }

  PlannedLaunch launch_;
  std::string form_ = "cuda copy";
};

}  // namespace

std::unique_ptr<RegionKernel> compile_copy(const Region& region, int64_t narrow) {
  return std::make_unique<CopyKernel>(region, narrow);
}

}  // namespace rp::cuda
