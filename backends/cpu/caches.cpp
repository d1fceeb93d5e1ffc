#include "reprise/backends/cpu/caches.h"

#include <fmt/format.h>

#include <cstdlib>
#include <fstream>
#include <map>
#include <string>

namespace rp {
namespace {

// The C library's figures are not used: on virtual machines its last level is that of the whole host.
std::map<int, size_t> caches() {
  std::map<int, size_t> found{{1, 32 << 10}, {2, 512 << 10}, {3, 8 << 20}};
  for (int i = 0;; ++i) {
    const auto read = [i](const char* what) {
      std::ifstream file(fmt::format("/sys/devices/system/cpu/cpu0/cache/index{}/{}", i, what));
      std::string text;
      file >> text;
      return text;
    };
    const std::string level = read("level"), size = read("size");
    if (level.empty() || size.empty()) return found;
    const size_t unit = size.back() == 'K' ? 1 << 10 : size.back() == 'M' ? 1 << 20 : 1;
    if (read("type") != "Instruction")
      found[std::atoi(level.c_str())] = std::strtoull(size.c_str(), nullptr, 10) * unit;
  }
}

}  // namespace

size_t cache_bytes(int level) {
  static const std::map<int, size_t> known = caches();
  const auto it = known.find(level);
  return it == known.end() ? known.rbegin()->second : it->second;
}

}  // namespace rp
