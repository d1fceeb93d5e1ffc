// Eager ops as plans of one op, cached by op, attrs and layouts.
#include "reprise/fusion/single.h"

#include <algorithm>
#include <cstring>
#include <unordered_map>

#include "reprise/core/hash.h"
#include "reprise/core/ops/entries.h"
#include "reprise/core/switches.h"
#include "reprise/core/trace_events.h"
#include "reprise/fusion/plan.h"
#include "reprise/graph/trace.h"

namespace rp {
namespace {

constexpr size_t max_plans = 4096;

struct Key {
  std::vector<size_t> words;
  bool operator==(const Key&) const = default;
};
struct KeyHash {
  size_t operator()(const Key& k) const { return hash_bytes(0, k.words.data(), k.words.size() * sizeof(size_t)); }
};

void fill_key(Key& key, const Call& call, const Layout* out) {
  key.words.clear();
  key.words.push_back(reinterpret_cast<size_t>(call.op));
  key.words.push_back(reinterpret_cast<size_t>(out));
  key.words.push_back(call.scalar_mask | static_cast<size_t>(call.scalars.size()) << 8 |
                      static_cast<size_t>(call.attrs.size()) << 16);
  for (const Tensor* t : call.inputs) key.words.push_back(reinterpret_cast<size_t>(t->impl()->layout));
  for (int i = 0; i < call.attrs.size(); i += 8) {
    size_t word = 0;
    std::memcpy(&word, call.attrs.data() + i, static_cast<size_t>(std::min(8, call.attrs.size() - i)));
    key.words.push_back(word);
  }
}

// The op on its inputs. A packed result is the graph's output; a strided one (only copies have those) is written.
Graph single_graph(const Call& call, const Layout* out) {
  GraphBuilder builder;
  Node n{
      .op = call.op, .attrs = call.attrs, .scalar_mask = call.scalar_mask, .layout = out->packed, .loc = At::where()};
  for (const Tensor* t : call.inputs) n.inputs.push_back(builder.input(t->impl()->layout, -1));
  for (int k = 0; k < call.scalars.size(); ++k) n.scalars.push_back({k, 0});
  Graph& g = builder.graph();
  g.parameters = call.scalars.size();
  if (!out->contiguous) {
    const int32_t target = builder.input(out, -1);
    g.writes.push_back(builder.add({.op = &write_op, .inputs = {target, n.inputs[0]}, .layout = out}));
    return builder.take();
  }
  int32_t value = n.op->kind == Kind::composite ? inline_body(builder, n) : builder.add(n);
  const Kind kind = g[value].op->kind;
  if (kind == Kind::view || kind == Kind::input)
    value = builder.add({.op = &copy_op, .inputs = {value}, .layout = out, .loc = n.loc});
  g.outputs.push_back(value);
  return builder.take();
}

}  // namespace

void run_plan(const Call& call, const Tensor& out) {
  static thread_local std::unordered_map<Key, std::unique_ptr<Plan>, KeyHash> plans;
  static thread_local Key key;
  const Layout* layout = out.impl()->layout;
  fill_key(key, call, layout);
  auto it = plans.find(key);
  if (it == plans.end()) {
    const std::optional<Span> shown = span("compile", "{}", call.op->name);
    if (plans.size() >= max_plans) plans.clear();
    it = plans.emplace(key, std::make_unique<Plan>(single_graph(call, layout))).first;
  }
  constexpr size_t few = 8;
  std::byte* addresses[few];
  Storage* storages[few];
  std::vector<std::byte*> many_addresses;
  std::vector<Storage*> many_storages;
  const size_t n = call.inputs.size() + 1;
  std::byte** inputs = addresses;
  Storage** owners = storages;
  if (n > few) {
    many_addresses.resize(n);
    many_storages.resize(n);
    inputs = many_addresses.data();
    owners = many_storages.data();
  }
  for (size_t k = 0; k + 1 < n; ++k) {
    inputs[k] = call.inputs[k]->bytes();
    owners[k] = call.inputs[k]->impl()->storage;
  }
  inputs[n - 1] = out.bytes();
  owners[n - 1] = out.impl()->storage;
  std::byte* output = out.bytes();
  it->second->run(
      {.inputs = inputs, .storages = owners, .outputs = &output, .scalars = call.scalars.data(), .quiet = true});
}

std::unique_ptr<Executable> compile(Graph graph) { return std::make_unique<Plan>(std::move(graph), !disabled("fuse")); }

}  // namespace rp
