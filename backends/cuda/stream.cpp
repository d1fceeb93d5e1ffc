#include "reprise/backends/cuda/stream.h"

#include "reprise/backends/cuda/device.h"
#include "reprise/backends/cuda/errors.h"
#include "reprise/backends/cuda/module.h"
#include "reprise/backends/cuda/staging.h"

namespace rp::cuda {
namespace {

struct Streams {
  const Device& on = device();  // or the reason why there is none
  Stream compute, copy;
};

Lazy<Streams> streams;
Lazy<Uploads> uploads;
Lazy<Downloads> downloads;

}  // namespace

cudaStream_t compute_stream() { return streams.get().compute; }
cudaStream_t copy_stream() { return streams.get().copy; }

void copy(std::byte* to, const std::byte* from, size_t bytes, Direction direction) {
  auto* const recorded = Recording::list();
  if (recorded && direction != Direction::on_device)
    fail("cuda: expected no copy between host and device while work is recorded");
  if (bytes == 0) return;
  if (recorded)
    recorded->push_back({.to = to, .from = from, .bytes = bytes});
  else if (direction == Direction::on_device)
    runtime().cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, compute_stream());
  else if (direction == Direction::to_device)
    uploads.get().copy(to, from, bytes);
  else {
    downloads.get().copy(to, from, bytes);
    throw_reported();
  }
}

void synchronize() {
  if (Recording::list()) fail("cuda: expected no wait for the device while work is recorded");
  if (!is_available()) fail("cuda: {}", why_not());
  const Streams* const made = streams.get_if();
  if (!made) return;
  runtime().cudaStreamSynchronize(made->copy);
  runtime().cudaStreamSynchronize(made->compute);
  throw_reported();
}

}  // namespace rp::cuda
