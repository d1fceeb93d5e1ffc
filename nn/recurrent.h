#pragma once
// Recurrent layers: a cell (cells.h, or one of the user's own) run over the steps of sequences by `scan`, in one
// direction or both, in stacks, with lengths. None has a kernel of its own.
#include "reprise/eager/grad.h"
#include "reprise/graph/control.h"
#include "reprise/nn/cells.h"
#include "reprise/nn/layers.h"

namespace rp {

/// What a recurrent layer returns.
template <class S>
struct Sequence {
  Tensor outputs;  ///< of all steps: [steps, batch, width], or [batch, steps, width] if batch_first
  S state;         ///< after the last step; of the reverse direction: after the first
};

/// A module with the two functions that cells.h describes.
template <class C>
concept RecurrentCell = std::derived_from<C, Module> &&
                        requires(const C& cell, const Tensor& x, int64_t batch) { cell(x, cell.initial_state(batch)); };

namespace detail {
/// Checks x and puts its steps first.
Tensor steps_first(const Tensor& x, bool batch_first);
/// Checks lengths: [batch] integers from 0 to the number of steps. Returns [steps, batch] bools, true before the end.
Tensor before_end(const Tensor& lengths, int64_t steps, int64_t batch);
/// Throws unless a state has tensors, each of `batch` rows.
void check_state(const Tensors& state, int64_t batch);
/// `now` in rows where `live` [batch] is true, elsewhere `before`.
Tensor choose_rows(const Tensor& live, const Tensor& now, const Operand& before);
/// Throws unless there are layers, and as many initial states.
void check_layers(size_t layers, size_t states);
}  // namespace detail

struct RecurrentOptions {
  bool batch_first = false;  ///< x and the outputs are [batch, steps, ...] rather than [steps, batch, ...]
  bool reverse = false;      ///< from the last step to the first; outputs keep their places
};

/// Runs a cell over the steps of sequences. Children: cell.
template <RecurrentCell Cell>
class Recurrent : public Module {
 public:
  using State = std::decay_t<decltype(std::declval<const Cell&>().initial_state(int64_t{}))>;

  explicit Recurrent(Cell cell, RecurrentOptions options = {}, Loc loc = Loc::current())
      : cell_(child("cell", std::move(cell), loc)), options_(options) {}

  /// x: [steps, batch, inputs] (batch_first: [batch, steps, inputs]). lengths: [batch] integers, or undefined for
  /// sequences as long as x; from its length on a sequence's state stands still and its outputs are zero, so that the
  /// reverse direction begins at each sequence's own end. Their values are read, to check them. Without `initial`, the
  /// cell's own initial state.
  Sequence<State> operator()(In x, const Tensor& lengths = {}, const std::optional<State>& initial = {}) const {
    const Scope scope(*this, x.loc);
    const DeviceScope on(x->device());
    const Tensor xs = detail::steps_first(x, options_.batch_first);
    const int64_t batch = xs.size(1);
    const State first = initial ? *initial : cell_.initial_state(batch);
    detail::check_state(detail::tensors_of(first), batch);
    if (!*begun_) begin(zeros({batch, xs.size(2)}, xs.dtype()), first);
    auto [state, outputs] = lengths.defined() ? run(xs, detail::before_end(lengths, xs.size(0), batch), first, x.loc)
                                              : run(xs, first, x.loc);
    return {options_.batch_first ? outputs.transpose(0, 1) : outputs, std::move(state)};
  }

  const Cell& cell() const { return cell_; }

 private:
  using Step = std::pair<State, Tensor>;

  // Parameters that are made at first use must not be made inside scan's body.
  void begin(const Tensor& x, const State& state) const {
    no_grad([&] { step(x, state); });
    *begun_ = true;
  }

  Step step(const Tensor& x, const State& before) const {
    auto result = cell_(x, before);
    if constexpr (std::is_convertible_v<decltype(result), State>) {
      State next = std::move(result);
      Tensor y = detail::tensors_of(next).at(0);
      return {std::move(next), std::move(y)};
    } else {
      return {result.first, result.second};
    }
  }

  Step run(const Tensor& xs, const State& first, const Loc& loc) const {
    return scan([&](const State& s, const Tensor& x) { return step(x, s); }, first, xs, {.reverse = options_.reverse},
                loc);
  }

  Step run(const Tensor& xs, const Tensor& live, const State& first, const Loc& loc) const {
    const auto body = [&](const State& before, const std::pair<Tensor, Tensor>& in) {
      const auto& [x, going] = in;
      auto [next, y] = step(x, before);
      Tensors now = detail::tensors_of(next);
      const Tensors then = detail::tensors_of(before);
      for (size_t i = 0; i < now.size(); ++i) now[i] = detail::choose_rows(going, now[i], then.at(i));
      return Step(detail::with_tensors(next, now.data()), detail::choose_rows(going, y, 0));
    };
    return scan(body, first, std::pair(xs, live), {.reverse = options_.reverse}, loc);
  }

  Cell cell_;
  RecurrentOptions options_;
  std::shared_ptr<bool> begun_ = std::make_shared<bool>(false);
};

/// `RNNCell` over time. x: [steps, batch, inputs] -> [steps, batch, units]
class RNN : public Recurrent<RNNCell> {
 public:
  explicit RNN(int64_t units, RNNOptions cell = {}, RecurrentOptions options = {}, Loc loc = Loc::current())
      : Recurrent(RNNCell(units, std::move(cell), loc), options, loc) {}
};

/// `LSTMCell` over time. x: [steps, batch, inputs] -> [steps, batch, units], or [steps, batch, projection]
class LSTM : public Recurrent<LSTMCell> {
 public:
  explicit LSTM(int64_t units, LSTMOptions cell = {}, RecurrentOptions options = {}, Loc loc = Loc::current())
      : Recurrent(LSTMCell(units, std::move(cell), loc), options, loc) {}
};

/// `GRUCell` over time. x: [steps, batch, inputs] -> [steps, batch, units]
class GRU : public Recurrent<GRUCell> {
 public:
  explicit GRU(int64_t units, GRUOptions cell = {}, RecurrentOptions options = {}, Loc loc = Loc::current())
      : Recurrent(GRUCell(units, std::move(cell), loc), options, loc) {}
};

/// `LiGRUCell` over time. x: [steps, batch, inputs] -> [steps, batch, units]
class LiGRU : public Recurrent<LiGRUCell> {
 public:
  explicit LiGRU(int64_t units, LiGRUOptions cell = {}, RecurrentOptions options = {}, Loc loc = Loc::current())
      : Recurrent(LiGRUCell(units, std::move(cell), loc), options, loc) {}
};

/// Two cells, one from the first step on and one from the last; their outputs stand side by side along the last axis
/// (Schuster and Paliwal, 1997). Children: forward, backward, each a `Recurrent`.
template <RecurrentCell Cell>
class Bidirectional : public Module {
 public:
  using State = std::pair<typename Recurrent<Cell>::State, typename Recurrent<Cell>::State>;

  Bidirectional(Cell forward, Cell backward, bool batch_first = false, Loc loc = Loc::current())
      : forward_(child("forward", Recurrent<Cell>(std::move(forward), {.batch_first = batch_first}, loc), loc)),
        backward_(child("backward",
                        Recurrent<Cell>(std::move(backward), {.batch_first = batch_first, .reverse = true}, loc),
                        loc)) {}

  /// As `Recurrent`; the states of both directions are a pair.
  Sequence<State> operator()(In x, const Tensor& lengths = {}, const std::optional<State>& initial = {}) const {
    const Scope scope(*this, x.loc);
    auto one = forward_(x, lengths, initial ? std::optional(initial->first) : std::nullopt);
    auto two = backward_(x, lengths, initial ? std::optional(initial->second) : std::nullopt);
    return {concat({one.outputs, two.outputs}, -1), {std::move(one.state), std::move(two.state)}};
  }

 private:
  Recurrent<Cell> forward_, backward_;
};

/// Recurrent layers one upon another, each over the outputs of the one below, with dropout between them in training.
/// Children: "0", "1", ... and, if the probability is not 0, dropout.
template <class Layer>
class Stacked : public Module {
 public:
  using State = std::vector<typename Layer::State>;

  explicit Stacked(std::vector<Layer> layers, double dropout = 0, Loc loc = Loc::current())
      : layers_(std::move(layers)) {
    At at(loc);
    detail::check_layers(layers_.size(), layers_.size());
    for (size_t i = 0; i < layers_.size(); ++i) child(std::to_string(i), layers_[i], loc);
    if (dropout != 0) dropout_ = child("dropout", Dropout(dropout, loc), loc);
  }

  /// `count` layers, each from its own call of `make`: `Stacked(2, [] { return rp::LSTM(64); }, 0.2)`.
  template <std::invocable Make>
  Stacked(int64_t count, Make make, double dropout = 0, Loc loc = Loc::current())
      : Stacked(made(count, make), dropout, loc) {}

  /// As `Recurrent`; the state is a vector of the layers' states.
  Sequence<State> operator()(In x, const Tensor& lengths = {}, const std::optional<State>& initial = {}) const {
    const Scope scope(*this, x.loc);
    if (initial) detail::check_layers(layers_.size(), initial->size());
    Sequence<State> result{x, {}};
    for (size_t i = 0; i < layers_.size(); ++i) {
      if (i > 0 && dropout_) result.outputs = (*dropout_)(result.outputs);
      auto above =
          layers_[i](In(result.outputs, x.loc), lengths, initial ? std::optional((*initial)[i]) : std::nullopt);
      result.outputs = std::move(above.outputs);
      result.state.push_back(std::move(above.state));
    }
    return result;
  }

 private:
  template <class Make>
  static std::vector<Layer> made(int64_t count, Make& make) {
    std::vector<Layer> layers;
    for (int64_t i = 0; i < count; ++i) layers.push_back(make());
    return layers;
  }

  std::vector<Layer> layers_;
  std::optional<Dropout> dropout_;
};
template <std::invocable Make>
Stacked(int64_t, Make, double = 0, Loc = {}) -> Stacked<std::invoke_result_t<Make&>>;

}  // namespace rp
