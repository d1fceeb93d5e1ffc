#include "reprise/backends/cuda/module.h"

#include <memory>
#include <unordered_map>

#include "reprise/backends/cuda/cache.h"
#include "reprise/backends/cuda/compile.h"
#include "reprise/backends/cuda/device.h"
#include "reprise/backends/cuda/prelude.h"
#include "reprise/backends/cuda/sha256.h"

namespace rp::cuda {
namespace {

constexpr std::string_view entry = "kernel_entry";

std::string named(const std::string& text, const std::string& name) {
  std::string out;
  size_t from = 0;
  for (size_t at; (at = text.find(entry, from)) != std::string::npos; from = at + entry.size()) {
    out.append(text, from, at - from);
    out += name;
  }
  return out.append(text, from);
}

/// Null if the image does not suit the device.
std::unique_ptr<Function> load(const std::string& image, const std::string& name, cudaError_t* status) {
  cudaLibrary_t library = nullptr;
  *status = runtime().cudaLibraryLoadData.raw(&library, image.data(), nullptr, nullptr, 0, nullptr, nullptr, 0);
  if (*status != cudaSuccess) return nullptr;
  try {
    cudaKernel_t kernel = nullptr;
    runtime().cudaLibraryGetKernel(&kernel, library, name.c_str());
    return std::make_unique<Function>(name, kernel, image.size());
  } catch (...) {
    runtime().cudaLibraryUnload.raw(library);
    throw;
  }
}

/// All kernels of the process.
class Functions {
 public:
  Functions() : cache_(DiskCache::user_folder()) {}

  const Function& get(const std::string& text) {
    Slot& slot = slot_of(text);
    if (const Function* const known = slot.function.load(std::memory_order_acquire)) return *known;
    const std::lock_guard lock(slot.mutex);
    if (!slot.owner) {
      slot.owner = make(text);
      slot.function.store(slot.owner.get(), std::memory_order_release);
    }
    return *slot.owner;
  }

 private:
  /// Of one text: whoever asks while it is compiled waits for that.
  struct Slot {
    std::mutex mutex;
    std::atomic<const Function*> function{nullptr};
    std::unique_ptr<Function> owner;
  };

  Slot& slot_of(const std::string& text) {
    const std::lock_guard lock(mutex_);
    std::unique_ptr<Slot>& slot = slots_[text];
    if (!slot) slot = std::make_unique<Slot>();
    return *slot;
  }

  std::unique_ptr<Function> make(const std::string& text) {
    const std::string name = kernel_name(text), source = whole_source(text);
    const int architecture = device().architecture();
    const std::string key = image_key(source, architecture);
    cudaError_t status = cudaSuccess;
    if (const std::optional<std::string> known = cache_.read(key))
      if (auto function = load(*known, name, &status)) return function;
    const Image image = compile_image(source, name, architecture);
    cache_.write(key, image.code);
    auto function = load(image.code, name, &status);
    check(status, "cudaLibraryLoadData");
    return function;
  }

  DiskCache cache_;
  std::mutex mutex_;
  std::unordered_map<std::string, std::unique_ptr<Slot>> slots_;
};

Lazy<Functions> functions;

}  // namespace

std::string kernel_name(const std::string& text) { return "k_" + hex(sha256(text)).substr(0, 12); }

std::string whole_source(const std::string& text) {
  return std::string(prelude) + '\n' + named(text, kernel_name(text));
}

const Function& function_of(const std::string& text) { return functions.get().get(text); }

Function::Function(std::string name, const void* kernel, size_t code_bytes) : name_(std::move(name)), kernel_(kernel) {
  cudaFuncAttributes attributes{};
  runtime().cudaFuncGetAttributes(&attributes, kernel_);
  resources_ = {attributes.numRegs, attributes.localSizeBytes, attributes.maxThreadsPerBlock, code_bytes};
  size_t offset = 0;
  runtime().cudaFuncGetParamInfo(kernel_, 0, &offset, &argument_bytes_);
}

void Function::allow(const Launch& how) const {
  if (how.shared_bytes > shared_allowed_.load(std::memory_order_acquire)) [[unlikely]] {
    const std::lock_guard lock(mutex_);
    if (how.shared_bytes > shared_allowed_) {
      runtime().cudaFuncSetAttribute(kernel_, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                     static_cast<int>(how.shared_bytes));
      shared_allowed_ = how.shared_bytes;
    }
  }
  if (how.cluster > cluster_allowed_.load(std::memory_order_acquire)) [[unlikely]] {
    const std::lock_guard lock(mutex_);
    runtime().cudaFuncSetAttribute(kernel_, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
    cluster_allowed_ = how.cluster;
  }
}

}  // namespace rp::cuda
