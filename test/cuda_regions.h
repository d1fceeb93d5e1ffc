#pragma once
// Regions made by hand, run on the CPU and on the device from the same memory.
#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "reprise/backends/cpu/backend.h"
#include "reprise/backends/cuda/region_kernels.h"
#include "reprise/core/expr.h"
#include "reprise/core/ops/attrs.h"
#include "reprise/core/ops/entries.h"
#include "reprise/test/catch.h"
#include "reprise/test/cuda/device.h"
#include "reprise/test/cuda_kernels.h"

namespace rp::test {

inline std::mt19937& random_bits() {
  static std::mt19937 r(7);
  return r;
}

/// Memory of an operand; its first element stands `shift` elements behind the start.
struct Memory {
  const Layout* layout;
  size_t shift;
  std::vector<std::byte> bytes;

  explicit Memory(const Layout* layout, size_t shift = 0)
      : layout(layout), shift(shift), bytes((static_cast<size_t>(extent_of(*layout)) + shift) * size()) {
    for (std::byte& b : bytes) b = std::byte{0x5A};
  }
  size_t size() const { return rp::size_of(layout->dtype()); }
  int64_t count() const { return static_cast<int64_t>(bytes.size() / size()); }

  template <class F>
  Memory& fill(F&& value) {
    visit_dtype(layout->dtype(), [&]<class T>(T) {
      for (int64_t i = 0; i < count(); ++i) reinterpret_cast<T*>(bytes.data())[i] = static_cast<T>(value());
    });
    return *this;
  }
  /// Floats of both signs up to one, small integers, truth values.
  Memory& fill_random() {
    const DType d = layout->dtype();
    return fill([d] {
      if (is_floating(d)) return std::uniform_real_distribution<>(-1, 1)(random_bits());
      const int least = d == DType::boolean ? 0 : -9, most = d == DType::boolean ? 1 : 9;
      return static_cast<double>(std::uniform_int_distribution<>(least, most)(random_bits()));
    });
  }
  Memory& fill_indices(int64_t extent) {
    return fill([extent] { return std::uniform_int_distribution<int64_t>(0, extent - 1)(random_bits()); });
  }
};

inline const Layout* layout(DType dtype, const Shape& shape) { return intern({dtype, shape, {}}); }
inline const Layout* layout(DType dtype, const Shape& shape, const Strides& strides) {
  return intern({dtype, shape, {}}, strides);
}

/// Equal bits, NaNs being equal to each other; or, with a tolerance, how far apart at most.
inline double distance(const Memory& a, const Memory& b) {
  double worst = 0;
  visit_dtype(a.layout->dtype(), [&]<class T>(T) {
    const T *x = reinterpret_cast<const T*>(a.bytes.data()), *y = reinterpret_cast<const T*>(b.bytes.data());
    for (int64_t i = 0; i < a.count(); ++i) {
      if (std::memcmp(x + i, y + i, sizeof(T)) == 0) continue;
      if constexpr (std::is_floating_point_v<Computed<T>>) {
        if (x[i] != x[i] && y[i] != y[i]) continue;
        const double d = std::abs(static_cast<double>(x[i]) - static_cast<double>(y[i]));
        worst = std::max(worst, std::isfinite(d) ? std::max(d, 1e-300) : HUGE_VAL);
      } else {
        worst = HUGE_VAL;
      }
    }
  });
  return worst;
}

/// Operands of a region, and of the map behind it, in the order of a call: each with memory of its own, then those
/// that stand in another's.
struct Setup {
  struct Alias {
    size_t memory;
    int64_t offset;  // in elements
  };
  Region region;
  std::vector<Memory> memory{};
  std::vector<Alias> aliases{};
  std::vector<uint64_t> scalars{};

  template <class F>
  std::vector<std::byte*> pointers(F&& start) const {
    std::vector<std::byte*> all;
    for (size_t k = 0; k < memory.size(); ++k) all.push_back(start(k) + memory[k].shift * memory[k].size());
    for (const Alias& a : aliases)
      all.push_back(all[a.memory] + a.offset * static_cast<int64_t>(memory[a.memory].size()));
    return all;
  }
};

/// Adds a stage that computes f of the product, of a value for each column, one for each element and a scalar. The
/// result has a layout of its own, or that of the product.
template <class F>
Region with_stage(Region r, DType result, bool in_place, F&& f) {
  const Layout& c = *r.operands[2].layout;
  const DType dtype = c.dtype();
  Strides row(c.strides);
  for (int i = 0; i + 1 < c.rank(); ++i) row[i] = 0;
  r.operands.push_back({layout(dtype, c.shape(), row)});
  r.operands.push_back({layout(dtype, c.shape())});
  r.operands.push_back({in_place ? &c : layout(result, c.shape()), true});
  std::vector<Strides> strides;
  for (const RegionOperand& o : r.operands) strides.push_back(o.layout->strides);
  strides[0] = strides[1] = c.strides;
  r.members = {matrix_nest(c.shape(), strides)};
  r.scalars = 1;
  ProgramBuilder b;
  Stage stage;
  std::vector<Value> values;
  for (int k = 2; k < 5; ++k) {
    values.push_back(b.load(b.operand(dtype, Access::contiguous, false)));
    stage.slots.push_back({StageSlot::Kind::operand, k});
  }
  const Value y = f(b, values[0], values[1], values[2], b.scalar(0, type_of(dtype)));
  b.store(y, b.operand(result, Access::contiguous, true));
  stage.slots.push_back({StageSlot::Kind::operand, 5});
  stage.program = b.take();
  r.stages.push_back(std::move(stage));
  return r;
}

/// The same with memory: in place, the result stands in that of the product.
template <class F>
Setup with_stage(Setup s, DType result, bool in_place, F&& f) {
  s.region = with_stage(std::move(s.region), result, in_place, f);
  for (size_t k = 3; k < s.region.operands.size(); ++k) {
    const RegionOperand& o = s.region.operands[k];
    if (o.written && in_place)
      s.aliases.push_back({2, 0});
    else
      s.memory.emplace_back(o.layout).fill_random();
  }
  s.scalars = {0x3fc00000};  // 1.5f, or an odd integer, or next to nothing
  return s;
}

inline void run(const RegionKernel& kernel, const std::vector<std::byte*>& pointers,
                const std::vector<uint64_t>& scalars, std::byte* scratch) {
  const std::vector<Storage*> storages(pointers.size());
  kernel.run({pointers.data(), scalars.data(), storages.data(), scratch});
}

inline std::vector<Memory> run_on_cpu(const Setup& s) {
  std::vector<Memory> m = s.memory;
  const std::vector<std::byte*> pointers = s.pointers([&](size_t k) { return m[k].bytes.data(); });
  const auto kernel = cpu_backend().compile(s.region);
  std::vector<std::byte> scratch(kernel->scratch_bytes() + 64);
  run(*kernel, pointers, s.scalars, scratch.data());
  return m;
}

/// As a call of a kernel that is given.
inline std::vector<Memory> run_on_device(const Setup& s, const RegionKernel& kernel) {
  std::vector<std::unique_ptr<cuda::Buffer<std::byte>>> buffers;
  for (const Memory& x : s.memory) buffers.push_back(std::make_unique<cuda::Buffer<std::byte>>(x.bytes));
  const std::vector<std::byte*> pointers = s.pointers([&](size_t k) { return buffers[k]->data(); });
  const cuda::Buffer<std::byte> scratch(kernel.scratch_bytes() + 1);
  run(kernel, pointers, s.scalars, scratch.data());
  std::vector<Memory> m = s.memory;
  for (size_t k = 0; k < m.size(); ++k) m[k].bytes = buffers[k]->read();
  return m;
}

inline std::unique_ptr<RegionKernel> compile_on_device(const Region& region) {
  switch (region.kind) {
    case RegionKind::gemm:
      return cuda::compile_gemm(region);
    case RegionKind::kernel:
      return cuda::compile_call(region);
    default:
      return cuda::compile_map(region);
  }
}

/// The greatest distance of any element of any operand.
inline double distance(const std::vector<Memory>& a, const std::vector<Memory>& b) {
  double worst = 0;
  for (size_t k = 0; k < a.size(); ++k) worst = std::max(worst, distance(a[k], b[k]));
  return worst;
}
inline double distance(const Setup& s) {
  return distance(run_on_cpu(s), run_on_device(s, *compile_on_device(s.region)));
}

}  // namespace rp::test
