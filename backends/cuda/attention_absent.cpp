// In place of cuDNN where its headers were not found.
#include "reprise/backends/cuda/attention.h"
#include "reprise/core/fail.h"

namespace rp::cuda {

bool takes_attention(const Op&, const Attrs&, std::span<const Layout* const>, std::string*) { return false; }
bool may_take_attention(const Op&, std::span<const Layout* const>) { return false; }
std::unique_ptr<RegionKernel> compile_attention(const Region& region) {
  fail("{}: this build is without cuDNN (9.11 or newer)", region.op->name);
}

}  // namespace rp::cuda
