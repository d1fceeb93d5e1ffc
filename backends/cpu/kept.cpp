#include "reprise/backends/cpu/kept.h"

#include "reprise/core/planted.h"

namespace rp {

std::mutex& attachments_mutex() {
  static std::mutex mutex;
  return mutex;
}

bool stale(uint32_t seen, uint32_t now) { return seen != now && !planted(Defect::stale_pack); }

}  // namespace rp
