#include <algorithm>
#include <cstring>
#include <limits>

#include "reprise/backends/cpu/caches.h"
#include "reprise/backends/cpu/region_kernels.h"
#include "reprise/core/fail.h"

namespace rp {

std::unique_ptr<RegionKernel> compile_region(Backend& backend, const Region& region) {
  switch (region.kind) {
    case RegionKind::map:
      return compile_map(backend, region);
    case RegionKind::rows:
      return compile_rows(backend, region);
    case RegionKind::columns:
      return compile_columns(backend, region);
    case RegionKind::gemm:
      return region.op->kind == Kind::contract ? compile_gemm(backend, region) : compile_conv(backend, region);
    case RegionKind::copy:
      return compile_copy(region);
    case RegionKind::control:
      fail("region: control ops are run by their plan");
    case RegionKind::kernel:
      break;
  }
  return compile_call(backend, region);
}

CompiledStage compile_stage(Backend& backend, const Stage& stage) {
  const auto cost = static_cast<int64_t>(stage.program.insts.size());
  return {stage, backend.compile(stage.program), std::max<int64_t>(1, cost)};
}

namespace {

// Bytes that all members of a region read and write.
double moved_bytes(const Region& region) {
  double bytes = 0;
  for (const RegionOperand& o : region.operands) bytes += static_cast<double>(o.layout->bytes());
  return bytes * static_cast<double>(region.members.size());
}

// Contiguous operands of the region, of 32 bits, that are only written.
bool mark_streamed(Program& program, const std::vector<StageSlot>& slots) {
  bool any = false;
  for (size_t k = 0; k < program.operands.size(); ++k) {
    if (slots[k].kind != StageSlot::Kind::operand) continue;
    ProgramOperand& o = program.operands[k];
    const bool read = std::any_of(program.insts.begin(), program.insts.end(),
                                  [k](const Inst& i) { return i.op == Ir::load && i.imm == k; });
    o.streamed = o.written && !read && o.access == Access::contiguous && rp::size_of(o.dtype) == 4;
    any |= o.streamed;
  }
  return any;
}

constexpr int64_t vector_bytes = 64;

bool lies_in_vectors(const KernelArgs& args, const Program& program) {
  for (size_t k = 0; k < program.operands.size(); ++k) {
    if (!program.operands[k].streamed) continue;
    if (reinterpret_cast<uintptr_t>(args.pointers[k]) % vector_bytes) return false;
    if (args.rows > 1 && args.row_strides[k] % vector_bytes) return false;
  }
  return true;
}

}  // namespace

CompiledStage compile_stage(Backend& backend, const Stage& stage, const Region& region) {
  CompiledStage s = compile_stage(backend, stage);
  // A quarter of the last cache is left to what else goes on.
  if (moved_bytes(region) < 0.75 * static_cast<double>(cache_bytes(0))) return s;
  Program program = stage.program;
  if (mark_streamed(program, stage.slots)) s.streaming = backend.compile(program);
  return s;
}

void CompiledStage::run(KernelArgs& args) const {
  const Compiled& form = streaming && lies_in_vectors(args, streaming->program) ? *streaming : *compiled;
  args.context = form.context;
  form.run(&args);
}

RowCursor::RowCursor(const Nest& nest, const Nest::Steps& steps, size_t element)
    : extents_(nest.outer),
      steps_(steps.outer),
      row_(steps.row * static_cast<int64_t>(element)),
      column_(steps.column * static_cast<int64_t>(element)) {
  for (int i = 0; i < steps_.rank(); ++i) steps_[i] *= static_cast<int64_t>(element);
}

int64_t RowCursor::at(int64_t outer_index) const {
  int64_t offset = 0;
  for (int i = extents_.rank() - 1; i >= 0; --i) {
    offset += outer_index % extents_[i] * steps_[i];
    outer_index /= extents_[i];
  }
  return offset;
}

int64_t parallel_grain(int64_t cost) { return std::max<int64_t>(1024, 200000 / (cost + 4)); }

size_t size_of(Type type) { return type == Type::f64 || type == Type::i64 ? 8 : 4; }

namespace {

template <class F>
void visit_type(Type type, F&& f) {
  switch (type) {
    case Type::f32:
      return f(float{});
    case Type::f64:
      return f(double{});
    case Type::i64:
      return f(int64_t{});
    default:
      return f(int32_t{});
  }
}

template <class T>
T combined(Combine combine, T a, T b) {
  switch (combine) {
    case Combine::sum:
      if constexpr (std::is_integral_v<T>)
        return static_cast<T>(static_cast<uint64_t>(a) + static_cast<uint64_t>(b));
      else
        return a + b;
    case Combine::product:
      if constexpr (std::is_integral_v<T>)
        return static_cast<T>(static_cast<uint64_t>(a) * static_cast<uint64_t>(b));
      else
        return a * b;
    case Combine::max:
      return b != b ? b : b > a ? b : a;
    case Combine::min:
      break;
  }
  return b != b ? b : b < a ? b : a;
}

template <class T>
T identity(Combine combine) {
  constexpr bool floats = std::is_floating_point_v<T>;
  using L = std::numeric_limits<T>;
  switch (combine) {
    case Combine::sum:
      return T{0};
    case Combine::product:
      return T{1};
    case Combine::max:
      return floats ? -L::infinity() : L::lowest();
    case Combine::min:
      break;
  }
  return floats ? L::infinity() : L::max();
}

}  // namespace

void fill_identity(std::byte* lanes, int64_t count, Combine combine, Type type) {
  visit_type(type, [&]<class T>(T) { std::fill_n(reinterpret_cast<T*>(lanes), count, identity<T>(combine)); });
}

void combine_lanes(std::byte* lanes, int64_t count, Combine combine, Type type) {
  visit_type(type, [&]<class T>(T) {
    T* x = reinterpret_cast<T*>(lanes);
    const auto halve = [&](auto op) {
      for (int64_t n = rp::lanes / 2 * count; n >= count && n; n /= 2)
        for (int64_t i = 0; i < n; ++i) x[i] = op(x[i], x[i + n]);
    };
    if (combine == Combine::sum)
      halve([](T a, T b) { return combined(Combine::sum, a, b); });
    else
      halve([combine](T a, T b) { return combined(combine, a, b); });
  });
}

namespace {

template <Combine combine, class T>
void combine_each_row(const std::byte* lanes, int64_t rows, int64_t stride, T* results) {
  for (int64_t i = 0; i < rows; ++i) {
    T x[rp::lanes];
    std::memcpy(x, lanes + i * stride, sizeof x);
    const auto halve = [&]<int n>(std::integral_constant<int, n>) {
      for (int k = 0; k < n; ++k) x[k] = combined(combine, x[k], x[k + n]);
    };
    halve(std::integral_constant<int, 8>());
    halve(std::integral_constant<int, 4>());
    halve(std::integral_constant<int, 2>());
    halve(std::integral_constant<int, 1>());
    results[i] = x[0];
  }
}

}  // namespace

void combine_rows(const std::byte* lanes, int64_t rows, int64_t stride, Combine combine, Type type,
                  std::byte* results) {
  visit_type(type, [&]<class T>(T) {
    const auto rows_by = [&]<Combine c>(std::integral_constant<Combine, c>) {
      combine_each_row<c>(lanes, rows, stride, reinterpret_cast<T*>(results));
    };
    switch (combine) {
      case Combine::sum:
        return rows_by(std::integral_constant<Combine, Combine::sum>());
      case Combine::product:
        return rows_by(std::integral_constant<Combine, Combine::product>());
      case Combine::max:
        return rows_by(std::integral_constant<Combine, Combine::max>());
      case Combine::min:
        return rows_by(std::integral_constant<Combine, Combine::min>());
    }
  });
}

void combine_into(std::byte* a, const std::byte* b, int64_t count, Combine combine, Type type) {
  visit_type(type, [&]<class T>(T) {
    T* x = reinterpret_cast<T*>(a);
    const T* y = reinterpret_cast<const T*>(b);
    if (combine == Combine::sum)
      for (int64_t i = 0; i < count; ++i) x[i] = combined(Combine::sum, x[i], y[i]);
    else
      for (int64_t i = 0; i < count; ++i) x[i] = combined(combine, x[i], y[i]);
  });
}

std::byte* BlockTree::level(size_t i) {
  while (levels_.size() <= i) levels_.emplace_back(static_cast<size_t>(width_) * size_of(type_));
  return levels_[i].data();
}

void BlockTree::push(const std::byte* partial) {
  const size_t bytes = static_cast<size_t>(width_) * size_of(type_);
  carry_.assign(partial, partial + bytes);
  size_t i = 0;
  for (; pushed_ >> i & 1; ++i) {
    combine_into(level(i), carry_.data(), width_, combine_, type_);
    carry_.assign(level(i), level(i) + bytes);
  }
  std::memcpy(level(i), carry_.data(), bytes);
  ++pushed_;
}

void BlockTree::finish(std::byte* result) {
  const size_t bytes = static_cast<size_t>(width_) * size_of(type_);
  fill_identity(result, width_, combine_, type_);
  bool any = false;
  for (size_t i = 0; pushed_ >> i; ++i) {
    if (!(pushed_ >> i & 1)) continue;
    if (any) {  // what was pushed earlier stands on the left
      carry_.assign(result, result + bytes);
      std::memcpy(result, level(i), bytes);
      combine_into(result, carry_.data(), width_, combine_, type_);
    } else {
      std::memcpy(result, level(i), bytes);
    }
    any = true;
  }
  pushed_ = 0;
}

}  // namespace rp
