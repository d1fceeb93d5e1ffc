#include "reprise/backends/cuda/launch_list.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "reprise/backends/cuda/kernel_text.h"
#include "reprise/backends/cuda/stream.h"

namespace rp::cuda {
namespace {

constinit thread_local LaunchList* active_list = nullptr;
constexpr size_t alignment = 16;  // of a kernel's arguments

// ---- kernels that write their arguments into a block ----

constexpr size_t most_loaded = 2048;                 // by one of them: 16 KiB
constexpr size_t numbers_at = 2 * sizeof(uint64_t);  // behind the address and the count

const Function& load_function(size_t room) {
  return function_of(fmt::format(R"text(
struct Args {{
  u64* to;
  u64 count, scalars[{}];
}};
extern "C" __global__ void __launch_bounds__({}) kernel_entry(const __grid_constant__ Args args) {{
  for (u32 i = threadIdx.x; i < args.count; i += blockDim.x) args.to[i] = args.scalars[i];
}}
)text",
                                 room, threads));
}

}  // namespace

LaunchList* LaunchList::active() { return active_list; }

LaunchList::Scope::Scope(LaunchList& list) { active_list = &list; }
LaunchList::Scope::~Scope() { active_list = nullptr; }

size_t LaunchList::keep(std::span<const std::byte> args) {
  const size_t at = (args_.size() + alignment - 1) / alignment * alignment;
  args_.resize(at + args.size());
  std::copy(args.begin(), args.end(), args_.begin() + static_cast<std::ptrdiff_t>(at));
  return at;
}

void LaunchList::add(const Function& function, const Launch& how, std::span<const std::byte> args) {
  const size_t at = keep(args);
  works_.push_back({.kind = Kind::kernel, .function = &function, .how = how, .args = at, .args_bytes = args.size()});
}

void LaunchList::add(const LibraryWork& work, std::span<const std::byte> args) {
  const size_t at = keep(args);
  works_.push_back({.kind = Kind::library, .args = at, .args_bytes = args.size(), .library = &work});
}

void LaunchList::add_copy(std::byte* to, const std::byte* from, size_t bytes) {
  works_.push_back({.kind = Kind::copy, .to = to, .from = from, .bytes = bytes});
}

void LaunchList::add_fill(std::byte* to, std::byte value, size_t bytes) {
  works_.push_back({.kind = Kind::fill, .to = to, .bytes = bytes, .value = value});
}

void LaunchList::leave(std::string why) {
  active_list = nullptr;
  left_ = std::move(why);
  launch();
}

void LaunchList::begin(std::span<const uint64_t> scalars, std::span<uint64_t> block) {
  works_.clear();
  args_.clear();
  left_.clear();
  scalars_ = scalars;
  block_ = block;
  placed_ = scalars.size();
  others_ = loads_ = 0;
  for (size_t first = 0; first < block.size(); first += most_loaded) {
    const size_t count = std::min(most_loaded, block.size() - first), room = std::bit_ceil(count);
    std::vector<uint64_t> args(2 + room);
    args[0] = reinterpret_cast<uintptr_t>(block.data() + first);
    args[1] = count;
    add(load_function(room), {.blocks = 1, .threads = threads}, std::as_bytes(std::span(args)));
    load(loads_++, scalars);
  }
}

bool LaunchList::load(size_t i, std::span<const uint64_t> scalars) {
  const size_t first = i * most_loaded;
  if (first >= scalars.size()) return false;
  const std::span<const uint64_t> part = scalars.subspan(first, std::min(most_loaded, scalars.size() - first));
  std::byte* const numbers = loaded(i) + numbers_at;
  if (!std::memcmp(numbers, part.data(), part.size_bytes())) return false;
  std::memcpy(numbers, part.data(), part.size_bytes());
  return true;
}

const uint64_t* LaunchList::place(std::span<const uint64_t> scalars) {
  const auto first = reinterpret_cast<uintptr_t>(scalars_.data()), at = reinterpret_cast<uintptr_t>(scalars.data());
  if (at >= first && at < first + scalars_.size_bytes())
    return block_.empty() ? nullptr : block_.data() + (at - first) / sizeof(uint64_t);
  others_ += scalars.size();
  if (placed_ + scalars.size() > block_.size()) return nullptr;
  const uint64_t* const there = block_.data() + placed_;
  for (const uint64_t number : scalars) {
    std::memcpy(loaded(placed_ / most_loaded) + numbers_at + placed_ % most_loaded * sizeof number, &number,
                sizeof number);
    ++placed_;
  }
  return there;
}

void LaunchList::launch() const {
  for (const Work& w : works_) {
    if (w.kind == Kind::kernel)
      cuda::launch(*w.function, w.how, args(w));
    else if (w.kind == Kind::library)
      cuda::launch(*w.library, args(w));
    else if (w.kind == Kind::copy)
      copy(w.to, w.from, w.bytes, Direction::on_device);
    else
      fill(w.to, w.value, w.bytes);
  }
}

bool LaunchList::same_from(const LaunchList& other, size_t own, size_t others) const {
  return std::ranges::equal(std::span(works_).subspan(own), std::span(other.works_).subspan(others),
                            [](const Work& a, const Work& b) {
                              return a.kind == b.kind && a.function == b.function && a.how == b.how &&
                                     a.args_bytes == b.args_bytes && a.bytes == b.bytes && a.library == b.library;
                            });
}

bool LaunchList::same_shape(const LaunchList& other) const { return loads_ == other.loads_ && same_from(other, 0, 0); }

bool LaunchList::alike(const LaunchList& other) const { return same_from(other, loads_, other.loads_); }

bool LaunchList::same_work(const LaunchList& other, size_t i) const {
  const Work &a = works_[i], &b = other.works_[i];
  return a.to == b.to && a.from == b.from && a.value == b.value &&
         (!a.args_bytes || !std::memcmp(args(a).data(), other.args(b).data(), a.args_bytes));
}

}  // namespace rp::cuda
