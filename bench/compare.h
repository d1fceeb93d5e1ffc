#pragma once
// One workload eager, captured and by the peers: first whether all compute the same, then who is how fast.
#include "reprise/bench/cases.h"
#include "reprise/core/tensor.h"

namespace bench {

/// The workload on our side. Each mode has a copy of its own.
struct Copy {
  std::function<rp::Tensors()> call;         ///< timed; peers return the same tensors
  std::function<rp::Tensors()> state = {};   ///< what calls change
  std::function<void()> checked = {};        ///< called between the checks and the timing
  std::function<void()> before = {};         ///< called, untimed, before every timed call
  std::function<std::string()> report = {};  ///< of the capture, as JSON
};

/// A peer that takes part, and how it does: forms differ from family to family, most have one only.
struct Entry {
  std::string peer, form = {};
};
std::vector<Entry> all_peers();
/// Those that have gradients.
std::vector<Entry> learning_peers();

struct Comparison {
  Spec spec;
  std::function<Copy()> make = {};
  double flops = 0, bytes = 0;  ///< the least that a call computes and moves, for the limit
  double arithmetic_ns = 0;     ///< the same in time, where operations do not say it
  std::vector<Entry> entries = all_peers();
  int checked_calls = 3;               ///< recorded, planned, planned before
  int compared_calls = 1;              ///< with peers: after so many of them
  size_t compared_results = SIZE_MAX;  ///< with peers and at Level::fast: so many of the first
  double parts = 1;                    ///< times are those of one of so many parts of a call
  double tolerance = 1e-3;             ///< of a result's norm, for peers and for captured at Level::fast
  bool captured = true;                ///< false: a row of eager mode alone
  /// Products of 16-bit floats: their rate is the limit, and what counts is the time at Level::fast.
  bool tensor_cores = false;
};

/// Throws if captured calls do not give eager's bits, or come too far from them at Level::fast. Peers whose results
/// differ are left out and named.
Result compare(const Comparison& c, const Surroundings& around);

/// A row whose comparison is made when it is measured.
Case compared(const Surroundings& around, std::string id, Goal goal, std::function<Comparison()> make);

/// A tensor with the values of a part.
rp::Tensor tensor_of(const Part& part);
rp::Tensors tensors_of(const Spec& spec);

rp::DType dtype_of(const Part& part);
/// The size of all its elements.
double bytes_of(const Part& part);
/// A specification whose floating-point tensors are of that dtype.
Spec stored_as(rp::DType dtype, Spec spec);
/// "G8.what.bf16": the beginning of the name of a row of a goal that is stated for 16-bit floats. In other dtypes the
/// row stands beside it: "beside.what.f32".
std::string goal_id(std::string_view goal, std::string_view what, rp::DType dtype);
/// What libraries may differ by that round results to that dtype, of a result's norm.
double tolerance_of(rp::DType dtype);

Digest digest_of(const rp::Tensor& t);
bool agree(const Digest& a, const Digest& b, double tolerance = 1e-3);

/// Throws if calls of `captured` do not give the same bits as in eager mode. Returns eager's result.
rp::Tensors same_bits(const std::string& name, const std::function<rp::Tensors()>& captured);

/// ns that a captured pointwise function takes for one element whose operands are in the innermost cache; 0 on a
/// device, where that is not what bounds it.
double element_ns(const std::function<rp::Tensors(const rp::Tensors&)>& body, int inputs);

}  // namespace bench
