#pragma once
#include <array>
#include <functional>
#include <iterator>
#include <memory>

#include "reprise/core/tensor.h"

namespace rp {

/// One batch: a tensor of each kind, which `auto [x, y]` takes apart.
template <size_t N>
using Batch = std::array<Tensor, N>;

namespace detail {

struct DatasetPlan {
  Tensors sources;
  bool shuffled = false, drop_last = false;
  uint64_t seed = 0;
  Device device;
  int64_t batch = 0;  // 0: single samples without an axis for the batch
  int prefetch = 0;
  std::vector<std::function<Tensors(const Tensors&)>> maps;

  int64_t samples() const { return sources[0].shape()[0]; }
  int64_t batches() const;
};

/// One epoch.
class BatchStream {
 public:
  virtual ~BatchStream() = default;
  /// False when there are no more.
  virtual bool next(Tensors& out) = 0;
};

DatasetPlan plan_dataset(Tensors sources, const Loc& loc);
void set_batch(DatasetPlan& plan, int64_t size, bool drop_last, const Loc& loc);
void set_prefetch(DatasetPlan& plan, int count, const Loc& loc);
std::unique_ptr<BatchStream> open_stream(const DatasetPlan& plan, uint64_t epoch);

}  // namespace detail

/// Samples held in memory: one to three tensors with the samples along axis 0. The methods return a changed copy, and
/// every loop over one runs through the next epoch:
///
///     auto loader = rp::Dataset(images, labels).shuffle(1).batch(64).prefetch(2);
///     for (auto [x, y] : loader) ...
///
/// Batches are tensors of their own. While a loop with `prefetch` runs, the samples must not be written.
template <size_t N>
class Dataset {
 public:
  /// Throws if the tensors differ in the number of samples or have no axes.
  explicit Dataset(In a)
    requires(N == 1)
      : plan_(detail::plan_dataset({a}, a.loc)) {}
  Dataset(In a, In b)
    requires(N == 2)
      : plan_(detail::plan_dataset({a, b}, a.loc)) {}
  Dataset(In a, In b, In c)
    requires(N == 3)
      : plan_(detail::plan_dataset({a, b, c}, a.loc)) {}

  /// A new order in every epoch, given by the seed and the number of the epoch alone.
  Dataset shuffle(uint64_t seed) const {
    Dataset d = *this;
    d.plan_.shuffled = true;
    d.plan_.seed = seed;
    return d;
  }
  /// Groups of `size` samples; a smaller one at the end is left out on request. Throws unless size > 0.
  Dataset batch(int64_t size, bool drop_last = false, Loc loc = Loc::current()) const {
    Dataset d = *this;
    detail::set_batch(d.plan_, size, drop_last, loc);
    return d;
  }
  /// Passes every batch through `f(x, y, ...)`, which returns a `Batch<N>` (or a Tensor if N is 1). It runs eagerly,
  /// without gradients, and draws random numbers that depend on the shuffle's seed, the epoch and the batch alone.
  template <class F>
  Dataset map(F f) const {
    Dataset d = *this;
    d.plan_.maps.push_back([f = std::move(f)](const Tensors& in) -> Tensors {
      auto call = [&]<size_t... I>(std::index_sequence<I...>) { return f(in[I]...); };
      Batch<N> out{call(std::make_index_sequence<N>())};
      return Tensors(out.begin(), out.end());
    });
    return d;
  }
  /// Puts every batch, once the maps are done, on a device (without this: what was the default when the data set was
  /// made); with `prefetch` the thread copies it there ahead. The samples stay in host memory.
  Dataset to(Device device) const {
    Dataset d = *this;
    d.plan_.device = device;
    return d;
  }
  /// Lets a thread prepare up to `count` batches ahead; what it throws is thrown by the loop. 0 turns it off.
  Dataset prefetch(int count, Loc loc = Loc::current()) const {
    Dataset d = *this;
    detail::set_prefetch(d.plan_, count, loc);
    return d;
  }

  int64_t samples() const { return plan_.samples(); }
  /// Batches in an epoch.
  int64_t size() const { return plan_.batches(); }
  /// The number of the next epoch, from 0; set it to go on where an earlier run stopped.
  uint64_t epoch() const { return epoch_; }
  void set_epoch(uint64_t epoch) { epoch_ = epoch; }

  class Iterator {
   public:
    using value_type = Batch<N>;
    using difference_type = std::ptrdiff_t;

    explicit Iterator(std::unique_ptr<detail::BatchStream> stream) : stream_(std::move(stream)) { ++*this; }
    Batch<N>& operator*() const { return batch_; }
    Iterator& operator++() {
      batch_ = {};
      Tensors next;
      if (stream_->next(next))
        std::move(next.begin(), next.end(), batch_.begin());
      else
        stream_.reset();
      return *this;
    }
    void operator++(int) { ++*this; }
    bool operator==(std::default_sentinel_t) const { return !stream_; }

   private:
    std::unique_ptr<detail::BatchStream> stream_;
    mutable Batch<N> batch_;
  };

  Iterator begin() { return Iterator(detail::open_stream(plan_, epoch_++)); }
  std::default_sentinel_t end() const { return {}; }

 private:
  detail::DatasetPlan plan_;
  uint64_t epoch_ = 0;
};

Dataset(In) -> Dataset<1>;
Dataset(In, In) -> Dataset<2>;
Dataset(In, In, In) -> Dataset<3>;

}  // namespace rp
