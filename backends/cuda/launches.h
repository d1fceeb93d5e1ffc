#pragma once
#include <atomic>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "reprise/backends/cuda/kernel_text.h"
#include "reprise/backends/cuda/module.h"
#include "reprise/core/backend.h"

namespace rp::cuda {

/// A function whose text is written and compiled when it is first launched.
class LazyFunction {
 public:
  explicit LazyFunction(std::function<std::string()> text) : text_(std::move(text)) {}
  const Function& get() const;
  std::string text() const { return text_(); }

 private:
  std::function<std::string()> text_;
  mutable std::atomic<const Function*> function_ = nullptr;
};

/// Sets what `reserve_scalars` has made room for: the scalars or, where the thread's active LaunchList keeps them on
/// the device, their place there.
void set_scalars(ArgsBytes& args, size_t at, std::span<const uint64_t> scalars);

/// A launch of which all is known but addresses and scalars.
struct PlannedLaunch {
  std::shared_ptr<const LazyFunction> function{};
  Launch how{};
  ArgsBytes args{};
  std::vector<std::pair<size_t, size_t>> operands{};  // where in the args, and which of the call
  std::vector<std::pair<size_t, size_t>> scratch{};   // where in the args, and how far into the scratch
  size_t scalars_at = 0, scalars = 0;

  void run(const RegionCall& call) const;
};

std::vector<std::string> texts_of(const std::vector<PlannedLaunch>& launches);

/// A region's kernel that shows its texts: those of its launches, in order.
class TextKernel : public RegionKernel {
 public:
  virtual std::vector<std::string> texts() const = 0;
};

}  // namespace rp::cuda
