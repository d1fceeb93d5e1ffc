#pragma once
#include <atomic>
#include <memory>
#include <mutex>

namespace rp::cuda {

/// What can be made anew: everything that was made with the help of tables that a test has then replaced.
class Forgettable {
 public:
  virtual void forget() = 0;

 protected:
  ~Forgettable() = default;
  /// From now on, `forget_everything` is for this object, too. It must live for ever.
  void remember();

 private:
  bool remembered_ = false;
};

/// Calls `forget` of everything that was made, last made first. Nothing of it may be in use.
void forget_everything();

/// One object of the process, made when first asked for. If that fails, every call fails anew with a reason.
template <class T>
class Lazy final : public Forgettable {
 public:
  T& get() {
    T* const made = made_.load(std::memory_order_acquire);
    return made ? *made : make();
  }
  /// The object if it has been made.
  T* get_if() { return made_.load(std::memory_order_acquire); }

  void forget() override { delete made_.exchange(nullptr); }

 private:
  T& make() {
    const std::lock_guard lock(mutex_);
    if (T* const made = get_if()) return *made;
    auto fresh = std::make_unique<T>();
    remember();
    made_.store(fresh.get(), std::memory_order_release);
    return *fresh.release();
  }

  std::mutex mutex_;
  std::atomic<T*> made_{nullptr};
};

}  // namespace rp::cuda
