#include "reprise/test/cuda_twin.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "reprise/backends/cpu/backend.h"
#include "reprise/backends/cuda/launches.h"
#include "reprise/backends/cuda/memory.h"
#include "reprise/backends/cuda/region_kernels.h"
#include "reprise/backends/cuda/stream.h"
#include "reprise/graph/capture.h"
#include "reprise/test/catch.h"

// The linker calls these instead of rp::cpu_backend, and that one by the other name.
rp::Backend& real_cpu_backend() asm("__real__ZN2rp11cpu_backendEv");
rp::Backend& cpu_backend_or_twin() asm("__wrap__ZN2rp11cpu_backendEv");

namespace rp::test {

ScanHook scan_hook;

namespace {

Twins* twins = nullptr;
int64_t generation = 0;  // of devices: kernels of an earlier one are gone

/// Elements between the first and the one past the last that an operand of a nest reaches; 0 if there are none.
int64_t reach(const Nest& nest, const Nest::Steps& steps) {
  if (!nest.outer_count() || !nest.rows || !nest.columns) return 0;
  int64_t last = (nest.rows - 1) * steps.row + (nest.columns - 1) * steps.column;
  for (int a = 0; a < nest.outer.rank(); ++a) last += (nest.outer[a] - 1) * steps.outer[a];
  return last + 1;
}

/// An operand of one member: its elements in the memory of the host.
struct Span {
  std::byte* data;
  size_t bytes;
  DType dtype;
  bool written;
};

std::vector<Span> spans_of(const Region& region, const RegionCall& call) {
  std::vector<Span> spans;
  const size_t n = region.operands.size();
  const auto by_layout = [&](size_t k) {  // factors of products have shapes of their own
    return region.members.empty() || (region.kind == RegionKind::gemm && k < 2);
  };
  for (size_t m = 0; m < std::max<size_t>(1, region.members.size()); ++m)
    for (size_t k = 0; k < n; ++k) {
      const RegionOperand& o = region.operands[k];
      int64_t count = extent_of(*o.layout);
      if (!by_layout(k)) count = reach(region.members[m], region.members[m].operands[k]);
      // Results of nothing are results all the same.
      if (o.per_row) count = o.layout->contiguous ? o.layout->numel : std::min<int64_t>(1, o.layout->numel);
      spans.push_back({call.pointers[m * n + k], static_cast<size_t>(count) * size_of(o.layout->dtype()),
                       o.layout->dtype(), o.written});
    }
  if (region.after) {
    const std::vector<Span> behind = spans_of(*region.after, {call.pointers + n, nullptr, nullptr, nullptr});
    spans.insert(spans.end(), behind.begin(), behind.end());
  }
  return spans;
}

/// Convolutions and their gradients add up in an order of their own.
bool has_same_bits(const Region& region) {
  if (region.kind == RegionKind::gemm) return region.op->kind == Kind::contract;
  if (region.kind == RegionKind::kernel) return region.op->name.find("conv2d") == std::string_view::npos;
  return region.kind != RegionKind::control;
}

/// Memory of the host that operands share, and its copy on the device, as aligned as the original.
class Segment {
 public:
  Segment(std::byte* host, size_t bytes)
      : host_(host),
        bytes_(bytes),
        shift_(reinterpret_cast<uintptr_t>(host) % 64),
        data_(cuda::allocate_bytes(shift_ + bytes)) {
    cuda::copy(device(), host_, bytes_, cuda::Direction::to_device);
  }
  Segment(Segment&& s) noexcept : host_(s.host_), bytes_(s.bytes_), shift_(s.shift_), data_(s.data_) {
    s.data_ = nullptr;
  }
  ~Segment() {
    if (data_) cuda::release_bytes(data_, shift_ + bytes_);
  }

  bool contains(const std::byte* p) const { return p >= host_ && p < host_ + bytes_; }
  std::byte* device_of(const std::byte* p) const { return device() + (p - host_); }
  std::vector<std::byte> read() const {
    std::vector<std::byte> now(bytes_);
    cuda::copy(now.data(), device(), bytes_, cuda::Direction::to_host);
    return now;
  }
  const std::byte* host() const { return host_; }
  size_t bytes() const { return bytes_; }

 private:
  std::byte* device() const { return data_ + shift_; }
  std::byte* host_;
  size_t bytes_, shift_;
  std::byte* data_;
};

std::vector<Segment> segments_of(std::vector<Span> spans) {
  std::erase_if(spans, [](const Span& s) { return !s.bytes; });
  std::sort(spans.begin(), spans.end(), [](const Span& a, const Span& b) { return a.data < b.data; });
  std::vector<Segment> segments;
  for (size_t i = 0; i < spans.size();) {
    std::byte* const first = spans[i].data;
    std::byte* last = first;
    for (; i < spans.size() && (spans[i].data < last || last == first); ++i)
      last = std::max(last, spans[i].data + spans[i].bytes);
    segments.emplace_back(first, static_cast<size_t>(last - first));
  }
  return segments;
}

template <class T>
bool equal(const std::byte* a, const std::byte* b) {
  T x, y;
  std::memcpy(&x, a, sizeof(T));
  std::memcpy(&y, b, sizeof(T));
  if (x != x && y != y) return true;
  return !std::memcmp(a, b, sizeof(T));
}

/// The first element in which two arrays differ, or -1.
int64_t difference(DType dtype, const std::byte* a, const std::byte* b, size_t bytes) {
  if (!std::memcmp(a, b, bytes)) return -1;
  return visit_dtype(dtype, [&]<class T>(T) -> int64_t {
    for (size_t i = 0; i < bytes; i += sizeof(T))
      if (!equal<T>(a + i, b + i)) return static_cast<int64_t>(i / sizeof(T));
    return -1;
  });
}

std::string text(DType dtype, const std::byte* element) {
  return visit_dtype(dtype, [&]<class T>(T value) {
    std::memcpy(&value, element, sizeof(T));
    return fmt::format("{}", Computed<T>(value));
  });
}

class TwinKernel final : public RegionKernel {
 public:
  TwinKernel(const Region& region, std::unique_ptr<RegionKernel> cpu) : region_(region), cpu_(std::move(cpu)) {}

  void run(const RegionCall& call) const override {
    if (!twins) return cpu_->run(call);
    if (generation_ != generation) device_ = twins->compile(region_);
    generation_ = generation;
    compare(call);
  }
  std::string form() const override { return cpu_->form(); }
  int reorders() const override { return cpu_->reorders(); }
  size_t scratch_bytes() const override { return cpu_->scratch_bytes(); }

 private:
  void compare(const RegionCall& call) const {
    const std::vector<Span> spans = spans_of(region_, call);
    const std::vector<Segment> segments = segments_of(spans);
    std::vector<std::byte*> pointers;
    for (const Span& s : spans) {
      const auto in =
          std::find_if(segments.begin(), segments.end(), [&](const Segment& g) { return g.contains(s.data); });
      pointers.push_back(in == segments.end() ? nullptr : in->device_of(s.data));
    }
    cpu_->run(call);
    const size_t scratch_bytes = device_->scratch_bytes();
    std::byte* const scratch = cuda::allocate_bytes(scratch_bytes);
    device_->run({pointers.data(), call.scalars, call.storages, scratch});
    for (const Segment& g : segments) check(g, spans);
    cuda::release_bytes(scratch, scratch_bytes);
    twins->count(device_->form());
  }

  // Elements that somebody writes, and bytes that nobody does.
  void check(const Segment& g, const std::vector<Span>& spans) const {
    std::vector<std::byte> now = g.read();
    for (const Span& s : spans) {
      if (!s.written || !s.bytes || !g.contains(s.data)) continue;
      std::byte* const got = now.data() + (s.data - g.host());
      const int64_t at = difference(s.dtype, s.data, got, s.bytes);
      if (at >= 0) {
        INFO(name_of(region_.kind) << " " << device_->form() << ", element " << at << " of " << name_of(s.dtype));
        UNSCOPED_INFO(stages());
        const size_t first = static_cast<size_t>(at) * size_of(s.dtype);
        INFO("expected " << text(s.dtype, s.data + first) << ", got " << text(s.dtype, got + first));
        FAIL_CHECK("the device left other bits than the CPU");
      }
      std::memcpy(got, s.data, s.bytes);  // NaNs
    }
    if (std::memcmp(now.data(), g.host(), g.bytes())) FAIL_CHECK("the device wrote beside its results");
  }

  std::string stages() const {
    std::string all;
    for (const Stage& s : region_.stages) all += to_string(s.program);
    return all;
  }

  Region region_;
  std::unique_ptr<RegionKernel> cpu_;
  mutable std::unique_ptr<RegionKernel> device_;
  mutable int64_t generation_ = 0;
};

class TwinBackend final : public Backend {
 public:
  std::string_view name() const override { return cpu_.name(); }
  std::byte* allocate(size_t bytes) override { return cpu_.allocate(bytes); }
  void release(std::byte* data, size_t bytes) noexcept override { cpu_.release(data, bytes); }
  void copy(std::byte* to, const std::byte* from, size_t bytes) override { cpu_.copy(to, from, bytes); }
  void fill(std::byte* to, std::byte value, size_t bytes) override { cpu_.fill(to, value, bytes); }
  void read(std::byte* host, const std::byte* from, size_t bytes) override { cpu_.read(host, from, bytes); }
  void write(std::byte* to, const std::byte* host, size_t bytes) override { cpu_.write(to, host, bytes); }
  void synchronize() override { cpu_.synchronize(); }
  Kernel find(const Op& op, DType dtype, std::string* why) override { return cpu_.find(op, dtype, why); }
  const Compiled* compile(const Program& program) override { return cpu_.compile(program); }
  std::unique_ptr<RegionKernel> compile(const Region& region) override {
    std::unique_ptr<RegionKernel> cpu = cpu_.compile(region);
    return has_same_bits(region) ? std::make_unique<TwinKernel>(region, std::move(cpu)) : std::move(cpu);
  }
  std::unique_ptr<RegionKernel> compile_scan(const Region& region, std::string* why) override {
    return scan_hook ? scan_hook(region, why) : nullptr;
  }
  Limits limits(bool all_threads) override { return cpu_.limits(all_threads); }
  size_t cache_size() override { return cpu_.cache_size(); }

 private:
  Backend& cpu_ = real_cpu_backend();
};

}  // namespace

Twins::Twins(bool wide) : narrow_(wide ? 0 : cuda::most_narrow) {
  twins = this;
  ++generation;
}
Twins::~Twins() { twins = nullptr; }

std::unique_ptr<RegionKernel> Twins::compile(const Region& region) {
  std::unique_ptr<RegionKernel> kernel;
  if (region.kind == RegionKind::map)
    kernel = cuda::compile_map(region, narrow_);
  else if (region.kind == RegionKind::rows)
    kernel = cuda::compile_rows(region, narrow_);
  else if (region.kind == RegionKind::columns)
    kernel = cuda::compile_columns(region, narrow_);
  else if (region.kind == RegionKind::gemm)
    kernel = cuda::compile_gemm(region);
  else if (region.kind == RegionKind::kernel)
    kernel = cuda::compile_call(region);
  else
    kernel = cuda::compile_copy(region, narrow_);
  for (std::string& text : dynamic_cast<const cuda::TextKernel&>(*kernel).texts()) texts_.insert(std::move(text));
  return kernel;
}

int64_t Twins::runs() const {
  int64_t n = 0;
  for (const auto& [form, count] : compared_) n += count;
  return n;
}

void replay(const Tensors& inputs, const std::function<Tensors(const Tensors&)>& f, int calls) {
  auto captured = capture([&](const Tensors& in) { return f(in); });
  ModeGuard guard(Mode::graph);
  for (int call = 0; call < calls; ++call) captured(inputs);
}

}  // namespace rp::test

rp::Backend& cpu_backend_or_twin() {
  static auto* backend = new rp::test::TwinBackend;
  return *backend;
}
