#pragma once
#include <cstdint>
#include <filesystem>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

namespace rp::cuda {

/// A folder of files under keys that are hashes. It can vanish, be full or corrupt at any time: then something is not
/// found, and nothing else happens. Several processes may use it at once.
class DiskCache {
 public:
  static constexpr uint64_t default_limit = uint64_t{512} << 20;

  /// An empty folder keeps nothing.
  explicit DiskCache(std::filesystem::path folder, uint64_t limit = default_limit);

  /// What was written under `key`, if it is there and whole.
  std::optional<std::string> read(const std::string& key) noexcept;
  void write(const std::string& key, std::string_view content) noexcept;

  /// REPRISE_CUDA_CACHE, or `reprise` in the user's folder for caches; empty if there is none.
  static std::filesystem::path user_folder();

 private:
  std::filesystem::path file_of(const std::string& key) const { return folder_ / (key + ".cubin"); }
  bool write_whole(const std::string& key, std::string_view content);
  void trim();

  std::filesystem::path folder_;
  uint64_t limit_;
  std::mutex mutex_;
  uint64_t unchecked_ = 0;  // bytes written since the folder was last measured
  bool measured_ = false;
};

}  // namespace rp::cuda
