#include "reprise/backends/cuda/cache.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <vector>

#include "reprise/backends/cuda/sha256.h"
#include "reprise/core/switches.h"

namespace rp::cuda {
namespace {

namespace fs = std::filesystem;

/// What stands before the content of a file.
struct Header {
  char mark[8] = {'R', 'P', 'C', 'U', 'D', 'A', '0', '1'};
  uint64_t bytes = 0;
  std::array<uint8_t, 32> digest{};
};
static_assert(sizeof(Header) == 48);

Header header_of(std::string_view content) {
  Header header;
  header.bytes = content.size();
  header.digest = sha256(content);
  return header;
}

}  // namespace

DiskCache::DiskCache(fs::path folder, uint64_t limit) : folder_(std::move(folder)), limit_(limit) {}

fs::path DiskCache::user_folder() {
  if (const std::string own = switch_value("REPRISE_CUDA_CACHE"); !own.empty()) return own;
  const char* const xdg = std::getenv("XDG_CACHE_HOME");
  if (xdg && *xdg) return fs::path(xdg) / "reprise";
  const char* const home = std::getenv("HOME");
  return home && *home ? fs::path(home) / ".cache" / "reprise" : fs::path();
}

std::optional<std::string> DiskCache::read(const std::string& key) noexcept try {
  if (folder_.empty()) return {};
  std::ifstream file(file_of(key), std::ios::binary);
  Header header;
  if (!file.read(reinterpret_cast<char*>(&header), sizeof header)) return {};
  std::string content{std::istreambuf_iterator<char>(file), {}};
  const Header expected = header_of(content);
  if (std::memcmp(&header, &expected, sizeof header) != 0) return {};
  std::error_code none;
  fs::last_write_time(file_of(key), fs::file_time_type::clock::now(), none);  // what is used is not old
  return content;
} catch (...) {
  return {};
}

void DiskCache::write(const std::string& key, std::string_view content) noexcept try {
  if (folder_.empty() || !write_whole(key, content)) return;
  const std::lock_guard lock(mutex_);
  unchecked_ += content.size();
  if (!measured_ || unchecked_ > limit_ / 16) trim();
} catch (...) {
  return;
}

/// Under another name first, so that nobody sees a part of it.
bool DiskCache::write_whole(const std::string& key, std::string_view content) {
  static std::atomic<unsigned> serial{0};
  std::error_code failed;
  fs::create_directories(folder_, failed);
  if (failed) return false;
  const fs::path draft = folder_ / (key + "." + std::to_string(getpid()) + "." + std::to_string(serial++) + ".tmp");
  const Header header = header_of(content);
  std::ofstream file(draft, std::ios::binary);
  file.write(reinterpret_cast<const char*>(&header), sizeof header);
  file.write(content.data(), static_cast<std::streamsize>(content.size()));
  file.close();
  if (file) fs::rename(draft, file_of(key), failed);
  if (file && !failed) return true;
  std::error_code none;
  fs::remove(draft, none);
  return false;
}

/// Removes the oldest files until three quarters of the limit are used, if it is exceeded, and drafts that nobody
/// finished.
void DiskCache::trim() {
  struct Entry {
    fs::path path;
    fs::file_time_type time;
    uint64_t bytes;
  };
  std::vector<Entry> entries;
  uint64_t total = 0;
  std::error_code none;
  const auto now = fs::file_time_type::clock::now();
  for (const fs::directory_entry& e : fs::directory_iterator(folder_)) {
    const fs::path extension = e.path().extension();
    const Entry entry{e.path(), e.last_write_time(none), e.file_size(none)};
    if (none) continue;  // another process was faster
    if (extension == ".tmp" && now - entry.time > std::chrono::hours(1)) fs::remove(entry.path, none);
    if (extension != ".cubin") continue;
    total += entry.bytes;
    entries.push_back(entry);
  }
  measured_ = true;
  unchecked_ = 0;
  if (total <= limit_) return;
  std::ranges::sort(entries, {}, &Entry::time);
  for (const Entry& entry : entries) {
    if (total <= limit_ / 4 * 3) break;
    fs::remove(entry.path, none);
    total -= entry.bytes;
  }
}

}  // namespace rp::cuda
