#include "reprise/backends/cuda/stream.h"

#include "reprise/backends/cuda/device.h"
#include "reprise/backends/cuda/errors.h"
#include "reprise/backends/cuda/launch_list.h"
#include "reprise/backends/cuda/staging.h"

namespace rp::cuda {
namespace {

struct Streams {
  Stream compute, copy;
};

Lazy<Streams> streams;
Lazy<Uploads> uploads;
Lazy<Downloads> downloads;

}  // namespace

cudaStream_t compute_stream() {
  device();  // or the reason why there is none
  return streams.get().compute;
}
cudaStream_t copy_stream() {
  device();
  return streams.get().copy;
}

void copy(std::byte* to, const std::byte* from, size_t bytes, Direction direction) {
  if (bytes == 0) return;
  LaunchList* const list = LaunchList::active();
  if (list && direction == Direction::on_device) return list->add_copy(to, from, bytes);
  if (list) list->leave(direction == Direction::to_host ? "the host reads a value" : "the host writes a value");
  if (direction == Direction::on_device)
    runtime().cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, compute_stream());
  else if (direction == Direction::to_device)
    uploads.get().copy(to, from, bytes);
  else {
    downloads.get().copy(to, from, bytes);
    throw_reported();
  }
}

void fill(std::byte* to, std::byte value, size_t bytes) {
  if (bytes == 0) return;
  if (LaunchList* const list = LaunchList::active()) return list->add_fill(to, value, bytes);
  runtime().cudaMemsetAsync(to, std::to_integer<int>(value), bytes, compute_stream());
}

void synchronize() {
  if (LaunchList* const list = LaunchList::active()) list->leave("the host waits");
  if (!is_available()) fail("cuda: {}", why_not());
  const Streams* const made = streams.get_if();
  if (!made) return;
  runtime().cudaStreamSynchronize(made->copy);
  runtime().cudaStreamSynchronize(made->compute);
  throw_reported();
}

}  // namespace rp::cuda
