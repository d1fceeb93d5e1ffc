#include "reprise/nn/dataset.h"

#include <condition_variable>
#include <cstring>
#include <deque>
#include <exception>
#include <mutex>
#include <numeric>
#include <thread>

#include "reprise/core/fail.h"
#include "reprise/core/random.h"
#include "reprise/eager/grad.h"
#include "reprise/graph/capture.h"

namespace rp::detail {
namespace {

/// SplitMix64 (Steele, Lea and Flood, 2014). The standard library's distributions differ from one system to another,
/// and the order of samples must not.
uint64_t next_random(uint64_t& state) {
  uint64_t z = state += 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

uint64_t mix(uint64_t a, uint64_t b) {
  uint64_t state = a;
  state = next_random(state) ^ b;
  return next_random(state);
}

std::vector<int64_t> shuffled_order(int64_t count, uint64_t seed, uint64_t epoch) {
  std::vector<int64_t> order(static_cast<size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  uint64_t state = mix(seed, epoch);
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[next_random(state) % i]);
  return order;
}

/// Samples as bytes in host memory.
struct Rows {
  Tensor keep;
  const std::byte* data;
  size_t row_bytes;
};

Rows rows_of(const Tensor& source) {
  Tensor packed = source.contiguous();
  auto data = visit_dtype(packed.dtype(),
                          [&]<class T>(T) { return reinterpret_cast<const std::byte*>(packed.data<T>().data()); });
  const auto samples = static_cast<size_t>(packed.shape()[0]);
  return {packed, data, samples ? packed.layout().bytes() / samples : 0};
}

/// Puts one generator in place for a scope.
class GeneratorGuard {
 public:
  explicit GeneratorGuard(uint64_t seed) : before_(generator()) { generator() = {seed, 0}; }
  ~GeneratorGuard() { generator() = before_; }
  GeneratorGuard(const GeneratorGuard&) = delete;

 private:
  Generator before_;
};

class Gather : public BatchStream {
 public:
  Gather(const DatasetPlan& plan, uint64_t epoch) : plan_(plan), epoch_(epoch), batches_(plan.batches()) {
    for (const Tensor& t : plan.sources) rows_.push_back(rows_of(t));
    if (plan.shuffled) order_ = shuffled_order(plan.samples(), plan.seed, epoch);
  }

  bool next(Tensors& out) override {
    if (index_ == batches_) return false;
    const int64_t size = std::max<int64_t>(plan_.batch, 1), first = index_ * size;
    const int64_t count = std::min(size, plan_.samples() - first);
    out.clear();
    for (const Rows& rows : rows_) out.push_back(copy(rows, first, count));
    if (!plan_.maps.empty()) apply_maps(out);
    const NoGrad no_grad;
    for (Tensor& t : out) t = t.to(plan_.device);
    ++index_;
    return true;
  }

 private:
  Tensor copy(const Rows& rows, int64_t first, int64_t count) const {
    Spec spec = rows.keep.spec();
    if (plan_.batch)
      spec.shape[0] = count;
    else
      spec.shape.erase(0);
    Tensor batch = allocate(intern(spec));
    if (order_.empty()) {
      if (rows.row_bytes) std::memcpy(batch.bytes(), rows.data + first * rows.row_bytes, count * rows.row_bytes);
      return batch;
    }
    std::byte* to = batch.bytes();
    for (int64_t i = first; rows.row_bytes && i < first + count; ++i, to += rows.row_bytes) {
      std::memcpy(to, rows.data + order_[i] * rows.row_bytes, rows.row_bytes);
    }
    return batch;
  }

  void apply_maps(Tensors& batch) const {
    ModeGuard eager(Mode::eager);
    NoGrad no_grad;
    const DeviceScope home(Device::cpu());  // as the batches are, and the same with and without a thread for them
    GeneratorGuard random(mix(mix(plan_.seed, epoch_), index_));
    for (const auto& f : plan_.maps) batch = f(batch);
  }

  DatasetPlan plan_;
  uint64_t epoch_;
  int64_t batches_, index_ = 0;
  std::vector<Rows> rows_;
  std::vector<int64_t> order_;
};

/// Runs another stream on a thread, up to `limit` batches ahead.
class Prefetch : public BatchStream {
 public:
  Prefetch(std::unique_ptr<BatchStream> inner, size_t limit)
      : inner_(std::move(inner)), limit_(limit), thread_([this] { produce(); }) {}

  ~Prefetch() override {
    {
      std::lock_guard lock(mutex_);
      stopped_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }

  bool next(Tensors& out) override {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return !ready_.empty() || finished_; });
    if (ready_.empty()) {
      if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
      return false;
    }
    out = std::move(ready_.front());
    ready_.pop_front();
    lock.unlock();
    changed_.notify_all();
    return true;
  }

 private:
  void produce() {
    std::exception_ptr error;
    try {
      for (Tensors batch; inner_->next(batch); batch.clear()) {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return ready_.size() < limit_ || stopped_; });
        if (stopped_) break;
        ready_.push_back(std::move(batch));
        lock.unlock();
        changed_.notify_all();
      }
    } catch (...) {
      error = std::current_exception();
    }
    std::lock_guard lock(mutex_);
    error_ = std::move(error);
    finished_ = true;
    changed_.notify_all();
  }

  std::unique_ptr<BatchStream> inner_;
  size_t limit_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Tensors> ready_;
  std::exception_ptr error_;
  bool finished_ = false, stopped_ = false;
  std::thread thread_;  // last: it uses all of the above
};

}  // namespace

int64_t DatasetPlan::batches() const {
  const int64_t size = std::max<int64_t>(batch, 1), n = samples();
  return drop_last ? n / size : n / size + (n % size != 0);
}

DatasetPlan plan_dataset(Tensors sources, const Loc& loc) {
  At at(loc);
  DatasetPlan plan;
  plan.device = default_device();
  for (const Tensor& t : sources) {
    if (t.rank() == 0) fail("dataset: samples lie along axis 0, got {} without axes", to_string(t.spec()));
    plan.sources.push_back(t.detach().to(Device::cpu()));
    if (t.shape()[0] != plan.samples()) {
      fail("dataset: the tensors differ in the number of samples: {} and {}", to_string(sources[0].spec()),
           to_string(t.spec()));
    }
  }
  return plan;
}

void set_batch(DatasetPlan& plan, int64_t size, bool drop_last, const Loc& loc) {
  At at(loc);
  if (size <= 0) fail("dataset: the batch size must be positive, got {}", size);
  plan.batch = size;
  plan.drop_last = drop_last;
}

void set_prefetch(DatasetPlan& plan, int count, const Loc& loc) {
  At at(loc);
  if (count < 0) fail("dataset: cannot prefetch {} batches", count);
  plan.prefetch = count;
}

std::unique_ptr<BatchStream> open_stream(const DatasetPlan& plan, uint64_t epoch) {
  auto stream = std::make_unique<Gather>(plan, epoch);
  if (!plan.prefetch) return stream;
  return std::make_unique<Prefetch>(std::move(stream), static_cast<size_t>(plan.prefetch));
}

}  // namespace rp::detail
