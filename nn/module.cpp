#include "reprise/nn/module.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <unordered_set>

#include "reprise/core/fail.h"
#include "reprise/core/ops.h"
#include "reprise/core/trace_events.h"
#include "reprise/eager/grad.h"

namespace rp {
namespace detail {

enum class Role : uint8_t { param, buffer, child };

struct Entry {
  std::string name;
  Role role;
  Tensor tensor;
  std::shared_ptr<ModuleState> child;
};

struct ModuleState {
  std::vector<Entry> entries;
  bool training = true;
  std::weak_ptr<ModuleState> parent;  // the first one that lives
  std::string name;                   // there
  // What `path_of` has found, and after how many registrations.
  std::atomic<const char*> path{nullptr};
  std::atomic<uint64_t> path_found{0};
};

namespace {
std::atomic<uint64_t> registrations{1};
}

uint64_t module_registrations() { return registrations.load(std::memory_order_relaxed); }

}  // namespace detail

namespace {

using detail::Entry;
using detail::ModuleState;
using detail::Role;

Entry& add(ModuleState& state, const std::string& name, Role role) {
  if (name.empty() || name.find('.') != std::string::npos) {
    fail("module: a name must not be empty or contain a dot, got \"{}\"", name);
  }
  for (const Entry& e : state.entries) {
    if (e.name == name) fail("module: the name \"{}\" is already taken", name);
  }
  detail::registrations.fetch_add(1, std::memory_order_relaxed);
  return state.entries.emplace_back(Entry{name, role, {}, nullptr});
}

bool contains(const ModuleState& state, const ModuleState* sought) {
  return &state == sought || std::any_of(state.entries.begin(), state.entries.end(),
                                         [&](const Entry& e) { return e.child && contains(*e.child, sought); });
}

void collect(const ModuleState& state, Role role, const std::string& prefix, std::unordered_set<const void*>& seen,
             NamedTensors& out) {
  for (const Entry& e : state.entries) {
    if (e.child) {
      collect(*e.child, role, prefix + e.name + ".", seen, out);
    } else if (e.role == role && e.tensor.defined() && seen.insert(e.tensor.impl()).second) {
      out.emplace_back(prefix + e.name, e.tensor);
    }
  }
}

NamedTensors collect(const ModuleState& state, Role role) {
  std::unordered_set<const void*> seen;
  NamedTensors out;
  collect(state, role, "", seen, out);
  return out;
}

void set_training(ModuleState& state, bool on) {
  state.training = on;
  for (const Entry& e : state.entries) {
    if (e.child) set_training(*e.child, on);
  }
}

std::string full_name(const ModuleState& state) {
  const std::shared_ptr<ModuleState> parent = state.parent.lock();
  if (!parent) return {};
  const std::string prefix = full_name(*parent);
  return prefix.empty() ? state.name : prefix + '.' + state.name;
}

const char* interned(std::string text) {
  static std::mutex mutex;
  static auto* texts = new std::unordered_set<std::string>;
  const std::lock_guard lock(mutex);
  return texts->insert(std::move(text)).first->c_str();
}

// The dotted path, null for a module that is nobody's child.
const char* path_of(ModuleState& state) {
  const uint64_t now = detail::module_registrations();
  if (state.path_found.load(std::memory_order_acquire) == now) return state.path.load(std::memory_order_relaxed);
  std::string name = full_name(state);
  const char* path = name.empty() ? nullptr : interned(std::move(name));
  state.path.store(path, std::memory_order_relaxed);
  state.path_found.store(now, std::memory_order_release);
  return path;
}

Tensor initialised(const std::string& name, const Shape& shape, const Init& init) {
  NoGrad guard;
  Tensor value = init ? init(shape) : init::fan_in_uniform()(shape);
  if (!value.defined() || !(value.shape() == shape)) {
    fail("module: the initialiser of \"{}\" must give shape {}, got {}", name, to_string(shape),
         value.defined() ? to_string(value.shape()) : "an undefined tensor");
  }
  return value;
}

}  // namespace

Module::Module() : state_(std::make_shared<ModuleState>()) {}

NamedTensors Module::parameters() const { return collect(*state_, Role::param); }

NamedTensors Module::buffers() const { return collect(*state_, Role::buffer); }

void Module::train(bool on) const { set_training(*state_, on); }

bool Module::training() const { return state_->training; }

void Module::to(Device device, Loc loc) const {
  At at(loc);
  NamedTensors all = parameters();
  for (auto& named : buffers()) all.push_back(std::move(named));
  std::unordered_set<const void*> seen;  // one tensor may be parameter and buffer
  std::erase_if(all, [&](const auto& named) {
    return named.second.device() == device || !seen.insert(named.second.impl()).second;
  });
  for (const auto& [name, t] : all)
    if (!is_movable(t)) fail("to: somebody holds a view of \"{}\", which cannot move to {}", name, to_string(device));
  const NoGrad silent;
  for (const auto& [name, t] : all) {
    if (const Tensor g = t.grad(); g.defined()) {
      t.set_grad(Tensor());
      move_elements(t, device);
      t.set_grad(g.to(device));
    } else {
      move_elements(t, device);
    }
  }
}

std::string Module::summary() const {
  NamedTensors all = parameters();
  size_t name_width = 5, shape_width = 5;
  int64_t total = 0;
  for (const auto& [name, t] : all) {
    name_width = std::max(name_width, name.size());
    shape_width = std::max(shape_width, to_string(t.spec()).size());
    total += t.numel();
  }
  std::string text = fmt::format("{:<{}}  {:<{}}  {:>12}\n", "name", name_width, "shape", shape_width, "count");
  for (const auto& [name, t] : all) {
    text += fmt::format("{:<{}}  {:<{}}  {:>12}\n", name, name_width, to_string(t.spec()), shape_width, t.numel());
  }
  return text + fmt::format("{:<{}}  {:<{}}  {:>12}\n", "total", name_width, "", shape_width, total);
}

Tensor Module::param(const std::string& name, const Shape& shape, const Init& init, Loc loc) const {
  At at(loc);
  Entry& entry = add(*state_, name, Role::param);
  try {
    Tensor value = initialised(name, shape, init);
    value.set_requires_grad();
    return entry.tensor = value;
  } catch (...) {
    state_->entries.pop_back();
    throw;
  }
}

Tensor Module::add_param(const std::string& name, const Tensor& value, const Loc& loc) const {
  At at(loc);
  if (!value.defined() || !is_floating(value.dtype())) {
    fail("module: parameter \"{}\" must be a floating-point tensor, got {}", name,
         value.defined() ? to_string(value.spec()) : "an undefined one");
  }
  value.set_requires_grad();
  return add(*state_, name, Role::param).tensor = value;
}

Tensor Module::buffer(const std::string& name, const Tensor& value, Loc loc) const {
  At at(loc);
  if (!value.defined()) fail("module: buffer \"{}\" is undefined", name);
  return add(*state_, name, Role::buffer).tensor = value;
}

void Module::add_child(const std::string& name, const Module& module, const Loc& loc) const {
  At at(loc);
  if (contains(*module.state_, state_.get())) fail("module: child \"{}\" contains the module it is added to", name);
  add(*state_, name, Role::child).child = module.state_;
  ModuleState& added = *module.state_;
  if (!added.parent.expired()) return;
  added.parent = state_;
  added.name = name;
}

Module::Lazy Module::lazy_param(const std::string& name, Loc loc) const {
  At at(loc);
  Lazy place;
  place.index_ = state_->entries.size();
  add(*state_, name, Role::param);
  return place;
}

Module::Lazy Module::lazy_buffer(const std::string& name, Loc loc) const {
  Lazy place = lazy_param(name, loc);
  state_->entries.back().role = Role::buffer;
  return place;
}

Tensor Module::value(Lazy place) const { return state_->entries[place.index_].tensor; }

Tensor Module::create(Lazy place, const Shape& shape, const Init& init, Device device) const {
  const DeviceScope on(device);
  Entry& entry = state_->entries[place.index_];
  if (entry.tensor.defined()) fail("module: \"{}\" already has a value", entry.name);
  Tensor value = initialised(entry.name, shape, init);
  if (entry.role == Role::param) value.set_requires_grad();
  detail::registrations.fetch_add(1, std::memory_order_relaxed);
  return entry.tensor = value;
}

Module::Scope::Scope(const Module& module, const Loc& caller) : Scope(path_of(*module.state_), caller) {}

Module::Scope::Scope(const char* path, const Loc& caller)
    : line_(caller), module_(path ? path : At::where().module), begun_(path ? begin_span() : 0) {}

Module::Scope::~Scope() {
  if (begun_) end_span(begun_, "module", At::where().module, where_members(At::where()));
}

}  // namespace rp
