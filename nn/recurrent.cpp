#include "reprise/nn/recurrent.h"

#include "reprise/core/fail.h"

namespace rp::detail {

Tensor steps_first(const Tensor& x, bool batch_first) {
  if (x.rank() != 3 || !is_floating(x.dtype()))
    fail("recurrent: expected floating-point [{}, inputs], got {}", batch_first ? "batch, steps" : "steps, batch",
         to_string(x.spec()));
  return batch_first ? x.transpose(0, 1) : x;
}

Tensor before_end(const Tensor& lengths, int64_t steps, int64_t batch) {
  if (lengths.shape() != Shape{batch} || is_floating(lengths.dtype()) || lengths.dtype() == DType::boolean)
    fail("recurrent: expected integer lengths of {} sequences, got {}", batch, to_string(lengths.spec()));
  for (int64_t length : lengths.to_vector<int64_t>())
    if (length < 0 || length > steps) fail("recurrent: expected lengths from 0 to {} steps, got {}", steps, length);
  const DeviceScope on(lengths.device());
  return arange(steps).unsqueeze(1) < lengths.unsqueeze(0);
}

void check_state(const Tensors& state, int64_t batch) {
  if (state.empty()) fail("recurrent: expected a cell whose state holds tensors");
  for (const Tensor& t : state)
    if (!t.rank() || t.size(0) != batch)
      fail("recurrent: expected a state of {} rows, as the batch has, got {}", batch, to_string(t.spec()));
}

Tensor choose_rows(const Tensor& live, const Tensor& now, const Operand& before) {
  Shape rows(live.shape());
  while (rows.rank() < now.rank()) rows.push_back(1);
  return where(live.reshape(rows), now, before);
}

void check_layers(size_t layers, size_t states) {
  if (!layers) fail("stacked: expected at least one layer");
  if (states != layers) fail("stacked: expected the initial states of {} layers, got {}", layers, states);
}

}  // namespace rp::detail
