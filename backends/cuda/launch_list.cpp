#include "reprise/backends/cuda/launch_list.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "reprise/backends/cuda/stream.h"

namespace rp::cuda {
namespace {

constinit thread_local LaunchList* active_list = nullptr;
constexpr size_t alignment = 16;  // of a kernel's arguments

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

void LaunchList::clear() {
  works_.clear();
  args_.clear();
  left_.clear();
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

bool LaunchList::same_shape(const LaunchList& other) const {
  return std::equal(works_.begin(), works_.end(), other.works_.begin(), other.works_.end(),
                    [&](const Work& a, const Work& b) {
                      return a.kind == b.kind && a.function == b.function && a.how == b.how &&
                             a.args_bytes == b.args_bytes && a.bytes == b.bytes && a.library == b.library;
                    });
}

bool LaunchList::same_work(const LaunchList& other, size_t i) const {
  const Work &a = works_[i], &b = other.works_[i];
  return a.to == b.to && a.from == b.from && a.value == b.value &&
         (!a.args_bytes || !std::memcmp(args(a).data(), other.args(b).data(), a.args_bytes));
}

}  // namespace rp::cuda
