#pragma once
#include <concepts>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "reprise/nn/init.h"

namespace rp {

/// Tensors with their dotted names, such as "cell.W".
using NamedTensors = std::vector<std::pair<std::string, Tensor>>;

namespace detail {
struct ModuleState;
/// Counts registrations in all modules, so that a list of parameters can be kept until it changes.
uint64_t module_registrations();
}  // namespace detail

/// Something with named parameters, buffers (state that is not trained) and child modules. Derive from it, and
/// initialise members with `param`, `buffer` and `child`:
///
///     struct Cell : rp::Module {
///       rp::Tensor W = param("W", {28, 256}), b = param("b", {256});
///       rp::Tensor operator()(const rp::Tensor& x) const {
///         const Scope scope(*this);  // may be left out: traces then show its ops without "cell"
///         return rp::tanh(rp::matmul(x, W) + b);
///       }
///     };
///
/// A module is a handle: copies share parameters, buffers, children and the training flag.
class Module {
 public:
  Module();
  Module(const Module&) = default;
  Module& operator=(const Module&) = default;

  /// All parameters that exist so far, children's included, in the order of registration; a shared one comes once.
  NamedTensors parameters() const;
  NamedTensors buffers() const;
  /// Switches this module and its children between training and use; they begin in training.
  void train(bool on = true) const;
  bool training() const;
  /// Moves all parameters, their gradients and buffers to a device; those that exist later are made where the input
  /// lies. Handles stay valid. Throws if somebody holds a view of one, before anything has moved.
  void to(Device device, Loc loc = Loc::current()) const;
  /// A table of the parameters: name, shape, count.
  std::string summary() const;

 protected:
  /// Marks what is called while it lives as done for a module: traces (REPRISE_TRACE) show ops with its path, which is
  /// what the names of its parameters begin with, and the scope as a span. A module that is nobody's child has no path
  /// and marks nothing. One that is a child of several has the path by the first that still lives.
  class Scope {
   public:
    /// With `caller`, it also marks that line: for layers whose own lines are of no interest.
    explicit Scope(const Module& module, const Loc& caller = {});
    ~Scope();
    Scope(const Scope&) = delete;

   private:
    Scope(const char* path, const Loc& caller);

    At line_;
    AtModule module_;
    int64_t begun_;
  };

  /// The place of a parameter or buffer whose shape is known only at first use.
  class Lazy {
    friend class Module;
    size_t index_ = 0;
  };

  /// A new f32 parameter: a leaf that requires a gradient. Throws if the name is taken. Without `init`:
  /// `init::fan_in_uniform()`.
  Tensor param(const std::string& name, const Shape& shape, const Init& init = {}, Loc loc = Loc::current()) const;
  /// Registers a floating-point tensor as a parameter and marks it as a leaf that requires a gradient.
  template <std::same_as<Tensor> T>
  T param(const std::string& name, T value, Loc loc = Loc::current()) const {
    return add_param(name, value, loc);
  }
  /// Registers state that is kept with the module and not trained.
  Tensor buffer(const std::string& name, const Tensor& value, Loc loc = Loc::current()) const;
  /// Registers `module` under a name and returns it. Throws if the name is taken or the module contains this one.
  template <std::derived_from<Module> M>
  M child(const std::string& name, M module, Loc loc = Loc::current()) const {
    add_child(name, module, loc);
    return module;
  }

  /// Reserves a name and a place in the order; `create` fills it.
  Lazy lazy_param(const std::string& name, Loc loc = Loc::current()) const;
  Lazy lazy_buffer(const std::string& name, Loc loc = Loc::current()) const;
  /// The tensor in a reserved place, undefined until it has been created.
  Tensor value(Lazy place) const;
  /// Creates it, where the layer's input lies.
  Tensor create(Lazy place, const Shape& shape, const Init& init, Device device) const;

 private:
  Tensor add_param(const std::string& name, const Tensor& value, const Loc& loc) const;
  void add_child(const std::string& name, const Module& module, const Loc& loc) const;

  std::shared_ptr<detail::ModuleState> state_;
};

}  // namespace rp
