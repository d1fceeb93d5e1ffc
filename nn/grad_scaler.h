#pragma once
// Training with f16 gradients inside: small ones would vanish, so the loss is multiplied by a large number before
// `backward`, and the parameters' gradients, which are f32, are divided by it before the step.
#include <vector>

#include "reprise/core/tensor.h"

namespace rp {

class Optimizer;

struct GradScalerOptions {
  double scale = 65536;  ///< at first
  double growth = 2;     ///< the scale times this, after `interval` updates in a row without an infinity or NaN
  double backoff = 0.5;  ///< the scale times this, after an update with one
  int64_t interval = 2000;
};

/// The scale of a loss, which finds its size by itself: a step whose gradients are not finite is left out and makes it
/// smaller, many good ones in a row make it larger.
///
///     scaler.scale(loss).backward();
///     scaler.step(optimizer);
///     scaler.update();
///
/// All of it may stand inside a captured function; whether to step is read from the device, which flushes the capture.
class GradScaler {
 public:
  explicit GradScaler(GradScalerOptions options = {}, Loc loc = Loc::current());

  /// The loss, multiplied.
  Tensor scale(const Tensor& loss, Loc loc = Loc::current()) const;
  /// Divides the gradients, once between updates: for what looks at them before the step, such as clipping. Throws if a
  /// gradient is f16: where it had to be scaled, it cannot hold what is left.
  void unscale(Optimizer& optimizer, Loc loc = Loc::current());
  /// Divides them if that is still to be done, and steps if all of them are finite. Whether it did.
  bool step(Optimizer& optimizer, Loc loc = Loc::current());
  /// Chooses the next scale. Throws if there was no step since the last time.
  void update(Loc loc = Loc::current());

  double scale() const { return scale_; }
  /// Updates in a row that found nothing.
  int64_t good_updates() const { return good_; }

 private:
  struct Seen {
    const Optimizer* optimizer;
    bool finite, stepped;
  };
  Seen* find(const Optimizer& optimizer);

  GradScalerOptions options_;
  double scale_;
  int64_t good_ = 0;
  std::vector<Seen> seen_;  // since the last update
};

}  // namespace rp
