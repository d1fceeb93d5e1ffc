#include "reprise/graph/world.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "reprise/core/engine.h"
#include "reprise/core/fail.h"
#include "reprise/eager/grad.h"
#include "reprise/graph/executable.h"

namespace rp {

Observation observed(std::string label, const Tensor& t) {
  Observation o{.label = std::move(label)};
  o.made = t.defined() && !t.pending();
  if (!o.made) return o;
  const NoGrad silent;
  const Tensor packed = t.detach().contiguous();
  o.dtype = t.dtype();
  o.shape = t.shape();
  const auto bytes = static_cast<size_t>(packed.numel()) * size_of(o.dtype);
  const HostBytes elements(packed);
  if (bytes) o.bytes.assign(elements.data(), elements.data() + bytes);
  return o;
}

namespace {

template <class T>
T element(const Observation& o, int64_t i) {
  T value;
  std::memcpy(&value, o.bytes.data() + static_cast<size_t>(i) * sizeof value, sizeof value);
  return value;
}

// The first element further apart than the tolerance; rounding cannot be told from overflow, so that infinite and
// undefined elements are left out.
template <class T>
int64_t first_apart(const Observation& a, const Observation& b, int64_t count, double tolerance) {
  double most = 0;
  for (int64_t i = 0; i < count; ++i)
    if (const double x = static_cast<double>(element<T>(a, i)); std::isfinite(x)) most = std::max(most, std::abs(x));
  for (int64_t i = 0; i < count; ++i) {
    const double x = static_cast<double>(element<T>(a, i)), y = static_cast<double>(element<T>(b, i));
    if (std::isfinite(x) && std::isfinite(y) && std::abs(x - y) > tolerance * most) return i;
  }
  return -1;
}

}  // namespace

std::string difference(const Observation& eager, const Observation& other, const char* how, double tolerance) {
  if (eager.made != other.made) return fmt::format("{} eagerly only", eager.made ? "defined" : "undefined");
  if (!eager.made) return {};
  if (eager.dtype != other.dtype || eager.shape != other.shape)
    return fmt::format("{} eagerly, {} {}", to_string(Spec{eager.dtype, eager.shape, {}}),
                       to_string(Spec{other.dtype, other.shape, {}}), how);
  const auto count = static_cast<int64_t>(eager.bytes.size() / size_of(eager.dtype));
  return visit_dtype(eager.dtype, [&]<class T>(T) -> std::string {
    const int64_t i = tolerance > 0 ? first_apart<T>(eager, other, count, tolerance)
                                    : first_differing(eager.bytes.data(), other.bytes.data(), count, eager.dtype);
    if (i < 0) return {};
    return fmt::format("element {} of {} is {} eagerly, {} {}", i, count, Computed<T>(element<T>(eager, i)),
                       Computed<T>(element<T>(other, i)), how);
  });
}

void World::see_elements(const Tensor& t) {
  Storage* s = t.impl()->storage;
  if (!s->data) return;
  for (Elements& e : elements_)
    if (e.handle.impl()->storage == s) return e.uses.note(call_);
  const Layout* all = intern({t.dtype(), {static_cast<int64_t>(s->bytes / size_of(t.dtype()))}, t.device()});
  elements_.push_back({storage_view(s, all), bytes_of(*s), s->history != nullptr});
  elements_.back().uses.note(call_);
}

void World::see(const Tensor& t) {
  see_elements(t);
  if (!t.requires_grad()) return;
  for_each_leaf(t, [&](const Tensor& leaf) {
    const auto known = std::find_if(leaves_.begin(), leaves_.end(), [&](const Leaf& l) { return l.leaf.is(leaf); });
    if (known != leaves_.end()) return known->uses.note(call_);
    leaves_.push_back({leaf, leaf.grad()});
    leaves_.back().uses.note(call_);
    if (leaf.grad().defined()) see_elements(leaf.grad());
  });
}

void World::restore() const {
  for (const Elements& e : elements_) {
    Storage* s = e.handle.impl()->storage;
    set_bytes(*s, e.bytes);
    if (!e.written && s->history) engine.drop_history(std::exchange(s->history, nullptr));
  }
  for (const Leaf& l : leaves_) l.leaf.set_grad(l.grad);
  generator() = generator_;
}

void World::observe(const std::string& label, std::vector<Observation>& list) const {
  for (const Elements& e : elements_) {
    if (!e.uses.compared) continue;
    list.push_back(observed(label + ": elements of a tensor from outside", e.handle));
    list.back().owner = e.handle.impl()->storage;
  }
  for (const Leaf& l : leaves_) {
    if (!l.uses.compared) continue;
    list.push_back(observed(fmt::format("{}: grad() of a leaf {}", label, to_string(l.leaf.spec())), l.leaf.grad()));
    list.back().owner = l.leaf.impl();
  }
  const Generator g = generator();
  Observation position{.label = label + ": position of the random generator", .dtype = DType::i64, .shape = {2}};
  position.bytes.resize(sizeof g);
  std::memcpy(position.bytes.data(), &g, sizeof g);
  list.push_back(std::move(position));
}

std::vector<const void*> World::leave_out_temporaries() {
  std::vector<const void*> forgotten;
  const Tensors recent = last_backward_leaves();  // which the tape keeps, as this list does
  std::erase_if(leaves_, [&](const Leaf& l) {
    const bool kept = std::any_of(recent.begin(), recent.end(), [&](const Tensor& t) { return t.is(l.leaf); });
    const bool alone = l.leaf.impl()->refs.load() == (kept ? 3 : 1);
    if (!alone) return false;
    forgotten.push_back(l.leaf.impl());
    forgotten.push_back(l.leaf.impl()->storage);
    if (l.leaf.grad().defined()) forgotten.push_back(l.leaf.grad().impl()->storage);
    return true;
  });
  std::erase_if(elements_, [&](const Elements& e) {
    const Storage* s = e.handle.impl()->storage;
    if (std::find(forgotten.begin(), forgotten.end(), s) != forgotten.end()) return true;
    const bool alone = s->refs.load() <= 1 + s->saved_refs;
    if (alone) forgotten.push_back(s);
    return alone;
  });
  for (Elements& e : elements_)
    if (!(e.uses.compared = e.uses.calls > 1)) forgotten.push_back(e.handle.impl()->storage);
  for (Leaf& l : leaves_)
    if (!(l.uses.compared = l.uses.calls > 1)) forgotten.push_back(l.leaf.impl());
  return forgotten;
}

}  // namespace rp
