#include "reprise/backends/cuda/errors.h"

#include <atomic>
#include <deque>
#include <mutex>
#include <string>
#include <unordered_map>

#include "reprise/backends/cuda/handles.h"

namespace rp::cuda {
namespace {

class Messages {
 public:
  int code(std::string_view message) {
    const std::lock_guard lock(mutex_);
    const auto [known, fresh] = codes_.try_emplace(std::string(message), static_cast<int>(texts_.size()) + 1);
    if (fresh) texts_.push_back(known->first);
    return known->second;
  }
  std::string text(int code) {
    const std::lock_guard lock(mutex_);
    if (code < 1 || static_cast<size_t>(code) > texts_.size())
      return fmt::format("cuda: a kernel reported {}, which is no error of its own", code);
    return texts_[static_cast<size_t>(code) - 1];
  }

 private:
  std::mutex mutex_;
  std::unordered_map<std::string, int> codes_;
  std::deque<std::string> texts_;  // of code i + 1
};

/// Codes are parts of kernels' arguments, so they outlive every device.
Messages& messages() {
  static Messages* const messages = new Messages;
  return *messages;
}

struct Words {
  Words() { word() = 0; }
  int& word() const { return *reinterpret_cast<int*>(memory.data()); }
  PinnedBytes memory{64};
};

Lazy<Words> words;

}  // namespace

int* error_words() { return &words.get().word(); }

int error_code(std::string_view message) { return messages().code(message); }

void throw_reported() {
  const Words* const made = words.get_if();
  if (!made) return;
  if (const int code = std::atomic_ref(made->word()).exchange(0)) fail("{}", messages().text(code));
}

}  // namespace rp::cuda
