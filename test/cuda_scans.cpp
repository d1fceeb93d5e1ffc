#include "reprise/test/cuda_scans.h"

#include <algorithm>

#include "reprise/backends/cuda/scan_text.h"
#include "reprise/test/cuda_kernels.h"
#include "reprise/test/cuda_twin.h"

namespace rp::test {
namespace {

using cuda::Buffer;
using cuda::ScanChoice;

/// Runs on copies of the operands in the memory of the device.
class Copied final : public RegionKernel {
 public:
  Copied(const Region& region, std::unique_ptr<RegionKernel> kernel) : kernel_(std::move(kernel)) {
    for (const RegionOperand& o : region.operands)
      bytes_.push_back(static_cast<size_t>(extent_of(*o.layout)) * size_of(o.layout->dtype()));
    inputs_ = bytes_.size() - region.results.size();
  }

  void run(const RegionCall& call) const override {
    std::vector<std::unique_ptr<Buffer<std::byte>>> buffers;
    std::vector<std::byte*> pointers;
    for (size_t k = 0; k < bytes_.size(); ++k) {
      std::vector<std::byte> content(bytes_[k], std::byte{0x5A});
      if (k < inputs_) std::copy_n(call.pointers[k], bytes_[k], content.begin());
      buffers.push_back(std::make_unique<Buffer<std::byte>>(content));
      pointers.push_back(buffers.back()->data());
    }
    const Buffer<std::byte> scratch(std::vector<std::byte>(kernel_->scratch_bytes(), std::byte{0xA5}));
    kernel_->run({pointers.data(), call.scalars, call.storages, scratch.data()});
    for (size_t k = inputs_; k < bytes_.size(); ++k) {
      const std::vector<std::byte> content = buffers[k]->read();
      std::copy(content.begin(), content.end(), call.pointers[k]);
    }
  }
  std::string form() const override { return kernel_->form(); }

 private:
  std::unique_ptr<RegionKernel> kernel_;
  std::vector<size_t> bytes_;
  size_t inputs_ = 0;
};

}  // namespace

const ScanChoice* fastest(const std::vector<ScanChoice>& choices) {
  const auto it = std::min_element(choices.begin(), choices.end(),
                                   [](const ScanChoice& a, const ScanChoice& b) { return a.step_ns < b.step_ns; });
  return it == choices.end() ? nullptr : &*it;
}

Pick pick(cuda::ScanMeeting meeting, size_t number) {
  return [=](const std::vector<ScanChoice>& choices) {
    std::vector<const ScanChoice*> some;
    for (const ScanChoice& c : choices)
      if (c.meeting == meeting && c.blocks * c.slices <= 32) some.push_back(&c);
    return some.empty() ? fastest(choices) : some[number * 2654435761u % some.size()];
  };
}

ScansOnDevice::ScansOnDevice(Pick pick) : pick_(std::move(pick)) {
  scan_hook = [this](const Region& region, std::string* why) { return compile(region, why); };
}
ScansOnDevice::~ScansOnDevice() { scan_hook = nullptr; }

std::unique_ptr<RegionKernel> ScansOnDevice::compile(const Region& region, std::string* why) {
  const std::optional<cuda::ScanBody> body = cuda::scan_body(region, tensor, why);
  if (body) {
    const std::vector<ScanChoice> choices = cuda::scan_choices(*body, device ? *device : cuda::scan_device(), why);
    if (const ScanChoice* choice = pick_(choices)) {
      const size_t operands = region.operands.size();
      texts.push_back(cuda::scan_text(*body, *choice, operands));
      if (device) return nullptr;
      auto kernel = cuda::scan_kernel(*body, *choice, operands, change ? change(texts.back()) : texts.back());
      forms.push_back(kernel->form());
      return std::make_unique<Copied>(region, std::move(kernel));
    }
  }
  refusals.push_back(*why);
  return nullptr;
}

}  // namespace rp::test
