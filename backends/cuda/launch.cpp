#include <array>

#include "reprise/backends/cuda/api.h"
#include "reprise/backends/cuda/launch_list.h"
#include "reprise/backends/cuda/stream.h"

namespace rp::cuda {

void launch(const LibraryWork& work, std::span<const std::byte> args) {
  if (LaunchList* const list = LaunchList::active()) return list->add(work, args);
  work.queue(args, compute_stream());
}

void launch(const Function& f, const Launch& how, std::span<const std::byte> args) {
  if (args.size() != f.argument_bytes()) [[unlikely]]
    fail("{}: expected {} bytes of arguments, got {}", f.name(), f.argument_bytes(), args.size());
  if (how.blocks == 0) return;
  f.allow(how);
  if (LaunchList* const list = LaunchList::active()) return list->add(f, how, args);
  std::array<cudaLaunchAttribute, 2> attributes{};
  cudaLaunchConfig_t config{};
  config.gridDim = {how.blocks, 1, 1};
  config.blockDim = {how.threads, 1, 1};
  config.dynamicSmemBytes = how.shared_bytes;
  config.stream = compute_stream();
  config.attrs = attributes.data();
  if (how.cooperative) {
    attributes[config.numAttrs].id = cudaLaunchAttributeCooperative;
    attributes[config.numAttrs++].val.cooperative = 1;
  }
  if (how.cluster > 1) {
    attributes[config.numAttrs].id = cudaLaunchAttributeClusterDimension;
    attributes[config.numAttrs++].val.clusterDim = {how.cluster, 1, 1};
  }
  void* parameters[] = {const_cast<std::byte*>(args.data())};
  runtime().cudaLaunchKernelExC(&config, f.handle(), parameters);
}

}  // namespace rp::cuda
