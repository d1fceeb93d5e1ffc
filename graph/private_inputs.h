#pragma once
#include <utility>
#include <vector>

#include "reprise/core/engine.h"
#include "reprise/graph/executable.h"

namespace rp {

/// Copies of a graph's inputs, so that running it touches nothing of the caller's.
class PrivateInputs {
 public:
  PrivateInputs(const Graph& g, const Frame& frame) {
    for (size_t k = 0; k < g.inputs.size(); ++k) {
      const auto owner = static_cast<size_t>(g.aliases[k]);
      Storage* s = frame.storages[k];
      copies_.emplace_back();
      if (owner == k) {
        copies_.back() = allocate_bytes_on(s->device, s->bytes);
        engine.backend(s->device).copy(copies_.back().bytes(), s->data, s->bytes);
      }
      inputs_.push_back(copies_[owner].bytes() + (frame.inputs[k] - s->data));
      layouts_.push_back(g[g.inputs[k]].layout);
    }
    storages_.assign(inputs_.size(), nullptr);
  }
  PrivateInputs(const PrivateInputs&) = delete;
  std::byte* const* inputs() const { return inputs_.data(); }
  Storage* const* storages() const { return storages_.data(); }
  Tensors tensors() const {
    Tensors list;
    for (size_t k = 0; k < inputs_.size(); ++k) {
      const Layout* flat = intern({layouts_[k]->dtype(), {extent_of(*layouts_[k])}, layouts_[k]->spec.device});
      list.push_back(alias(adopt(inputs_[k], flat, nullptr, nullptr), layouts_[k], 0));
    }
    return list;
  }

 private:
  Tensors copies_;
  std::vector<std::byte*> inputs_;
  std::vector<const Layout*> layouts_;
  std::vector<Storage*> storages_;
};

}  // namespace rp
