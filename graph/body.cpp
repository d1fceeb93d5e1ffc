// Graphs of composites' bodies.
#include <map>
#include <mutex>

#include "reprise/graph/recorder.h"

namespace rp {
namespace {

struct BodyKey {
  const Op* op;
  std::vector<std::byte> attrs;
  std::vector<const Layout*> inputs;
  auto operator<=>(const BodyKey&) const = default;
};

}  // namespace

const Graph& body_graph(const Op& op, const Attrs& attrs, const std::vector<const Layout*>& inputs) {
  static std::mutex mutex;
  static auto* graphs = new std::map<BodyKey, std::unique_ptr<Graph>>;
  BodyKey key{&op, {attrs.data(), attrs.data() + attrs.size()}, inputs};
  {
    std::lock_guard lock(mutex);
    if (const auto it = graphs->find(key); it != graphs->end()) return *it->second;
  }
  // Traced outside the lock: a body may hold composites of its own.
  auto graph = std::make_unique<Graph>(Recorder::trace(inputs, [&](const Tensors& in) { return op.body(in, attrs, {}); }));
  std::lock_guard lock(mutex);
  return *graphs->try_emplace(std::move(key), std::move(graph)).first->second;
}

}  // namespace rp
