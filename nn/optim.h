#pragma once
// Optimisers. A step runs over the parameters that exist and have a gradient; the state beside a parameter is made at
// its first step and has its dtype, so layers without sizes are fine. Options are read at every step and may be changed
// in between.
#include "reprise/nn/module.h"

namespace rp {

class Optimizer {
 public:
  virtual ~Optimizer() = default;
  Optimizer(const Optimizer&) = delete;
  Optimizer& operator=(const Optimizer&) = delete;

  /// Drops all gradients, so that the next `backward` starts from none.
  void zero_grad();
  /// Updates every parameter that has a gradient. The first step throws if the last `backward` on this thread reached a
  /// leaf that no module of this thread's optimisers has registered: a forgotten `param` or `child`.
  void step(Loc loc = Loc::current());
  /// All parameters that exist so far.
  Tensors parameters();
  /// Does without that check: some leaves are not meant to be trained.
  void allow_unregistered() { checked_ = true; }

 protected:
  struct Slot {
    Tensor param;
    Tensor first, second;  // the optimiser's own state, f32 for parameters of 16 bits
    int64_t steps = 0;
  };

  Optimizer(const char* name, const Module& module);
  Optimizer(const char* name, const Tensors& parameters, const Loc& loc);

 private:
  /// The parameter after a step, from its value and gradient, which come as f32 if they have 16 bits.
  virtual Tensor updated(Slot& slot, const Tensor& p, Tensor g) = 0;
  void refresh();
  void check_registered() const;

  const char* name_;
  std::shared_ptr<const Module> module_;
  std::vector<Slot> slots_;
  uint64_t seen_ = ~uint64_t{0};  // registrations at the last refresh
  bool checked_ = false;
};

struct SgdOptions {
  double lr = 0.01;
  double momentum = 0;
  double weight_decay = 0;  ///< added to the gradient: g + weight_decay * p
  bool nesterov = false;
};
/// v = momentum * v + g; p = p - lr * v, or with Nesterov's momentum p - lr * (g + momentum * v).
class Sgd : public Optimizer {
 public:
  explicit Sgd(const Module& module, SgdOptions options = {}, Loc loc = Loc::current());
  explicit Sgd(const Tensors& parameters, SgdOptions options = {}, Loc loc = Loc::current());
  SgdOptions& options() { return options_; }

 private:
  Tensor updated(Slot& slot, const Tensor& p, Tensor g) override;

  SgdOptions options_;
};

struct AdamOptions {
  double lr = 1e-3;
  double beta1 = 0.9, beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0;  ///< added to the gradient
};
/// Kingma and Ba, 2015, with bias correction counted per parameter.
class Adam : public Optimizer {
 public:
  explicit Adam(const Module& module, AdamOptions options = {});
  explicit Adam(const Tensors& parameters, AdamOptions options = {}, Loc loc = Loc::current());
  AdamOptions& options() { return options_; }

 private:
  Tensor updated(Slot& slot, const Tensor& p, Tensor g) override;

  AdamOptions options_;
};

struct AdamWOptions {
  double lr = 1e-3;
  double beta1 = 0.9, beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 1e-2;  ///< shrinks the parameter itself by 1 - lr * weight_decay
};
/// Adam with decoupled weight decay (Loshchilov and Hutter, 2019).
class AdamW : public Optimizer {
 public:
  explicit AdamW(const Module& module, AdamWOptions options = {});
  explicit AdamW(const Tensors& parameters, AdamWOptions options = {}, Loc loc = Loc::current());
  AdamWOptions& options() { return options_; }

 private:
  Tensor updated(Slot& slot, const Tensor& p, Tensor g) override;

  AdamWOptions options_;
};

}  // namespace rp
