#include "reprise/graph/unroll.h"

#include "reprise/core/ops.h"
#include "reprise/core/random.h"
#include "reprise/eager/grad.h"

namespace rp {
namespace {

// Compares a scan as one op, whose results include what its body writes to outside, with its steps.
void note_loop(const Tensors& whole, const Tensors& results, size_t carries) {
  const std::string line = source_line(At::where());
  loop_check->scans.push_back(line);
  const NoGrad silent;
  for (size_t k = 0; k < results.size() && loop_check->wrong.empty(); ++k) {
    const Tensor a = whole[k < carries ? k : whole.size() - results.size() + k].contiguous();
    const Tensor b = results[k].contiguous();
    if (first_differing(a, b) >= 0) loop_check->wrong = line;
  }
}

}  // namespace

Tensors unrolled(const Tensors& init, const ScanCall& call, const detail::ControlBody& body) {
  Tensors whole;  // as one op, for comparison
  if (loop_check) {
    const GradScope silent(false);
    whole = run_scan(call);
  }
  const uint64_t first = generator().position;
  Tensors state = init;
  std::vector<Tensors> steps(static_cast<size_t>(call.length));
  for (int64_t s = 0; s < call.length; ++s) {
    const int64_t t = call.reverse ? call.length - 1 - s : s;
    generator().position = first + static_cast<uint64_t>(t * call.draws);
    Tensors x, outputs;
    for (const Tensor& all : call.xs) x.push_back(all[t]);
    state = body.call(state, x, outputs);
    steps[static_cast<size_t>(t)] = outputs;
  }
  generator().position = first + static_cast<uint64_t>(call.length * call.draws);
  for (size_t k = 0; k < steps[0].size(); ++k) {
    Tensors column;
    for (const Tensors& step : steps) column.push_back(step[k].unsqueeze(0));
    state.push_back(concat(column, 0));
  }
  if (loop_check) note_loop(whole, state, init.size());
  return state;
}

}  // namespace rp
