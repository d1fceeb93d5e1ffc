#include "reprise/backends/cuda/lazy.h"

#include <algorithm>
#include <vector>

namespace rp::cuda {
namespace {

struct Made {
  std::mutex mutex;
  std::vector<Forgettable*> objects;
};

Made& made() {
  static Made* const made = new Made;
  return *made;
}

}  // namespace

void Forgettable::remember() {
  const std::lock_guard lock(made().mutex);
  if (remembered_) return;
  remembered_ = true;
  made().objects.push_back(this);
}

void forget_everything() {
  std::vector<Forgettable*> objects;
  {
    const std::lock_guard lock(made().mutex);
    objects = made().objects;
  }
  std::ranges::reverse(objects);
  for (Forgettable* const object : objects) object->forget();
}

}  // namespace rp::cuda
