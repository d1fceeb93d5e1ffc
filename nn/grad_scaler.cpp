#include "reprise/nn/grad_scaler.h"

#include <algorithm>
#include <cmath>

#include "reprise/core/fail.h"
#include "reprise/core/ops.h"
#include "reprise/eager/grad.h"
#include "reprise/nn/optim.h"

namespace rp {

GradScaler::GradScaler(GradScalerOptions options, Loc loc) : options_(options), scale_(options.scale) {
  At at(loc);
  if (!(options.scale > 0 && std::isfinite(options.scale)))
    fail("grad_scaler: expected a scale above 0, got {}", options.scale);
  if (!(options.growth > 1)) fail("grad_scaler: expected a growth above 1, got {}", options.growth);
  if (!(options.backoff > 0 && options.backoff < 1))
    fail("grad_scaler: expected a backoff between 0 and 1, got {}", options.backoff);
  if (options.interval < 1) fail("grad_scaler: expected an interval of at least 1, got {}", options.interval);
}

Tensor GradScaler::scale(const Tensor& loss, Loc loc) const {
  At at(loc);
  return loss * scale_;
}

GradScaler::Seen* GradScaler::find(const Optimizer& optimizer) {
  const auto it = std::find_if(seen_.begin(), seen_.end(), [&](const Seen& s) { return s.optimizer == &optimizer; });
  return it == seen_.end() ? nullptr : &*it;
}

void GradScaler::unscale(Optimizer& optimizer, Loc loc) {
  At at(loc);
  if (find(optimizer)) fail("grad_scaler: the gradients were already divided since the last update");
  const NoGrad silent;
  const Tensors parameters = optimizer.parameters();
  for (const Tensor& p : parameters)
    if (const Tensor g = p.grad(); g.defined() && g.dtype() == DType::f16)
      fail("grad_scaler: expected gradients of f32, got {}; keep parameters as f32 and cast them where they are used",
           to_string(g.spec()));
  Tensor witness;  // 0, or NaN if any gradient is not finite
  for (const Tensor& p : parameters) {
    const Tensor g = p.grad();
    if (!g.defined()) continue;
    const Tensor divided = g * (1 / scale_), nothing = cast(sum(divided * 0), DType::f32);
    p.set_grad(divided);
    witness = witness.defined() ? witness + nothing.to(witness.device()) : nothing;
  }
  seen_.push_back({&optimizer, !witness.defined() || witness.item<float>() == 0, false});
}

bool GradScaler::step(Optimizer& optimizer, Loc loc) {
  At at(loc);
  if (!find(optimizer)) unscale(optimizer, loc);
  Seen& seen = *find(optimizer);
  if (seen.stepped) fail("grad_scaler: expected an update between two steps");
  if (seen.finite) optimizer.step(loc);
  seen.stepped = true;
  return seen.finite;
}

void GradScaler::update(Loc loc) {
  At at(loc);
  if (seen_.empty()) fail("grad_scaler: expected a step before an update");
  const bool finite = std::all_of(seen_.begin(), seen_.end(), [](const Seen& s) { return s.finite; });
  seen_.clear();
  good_ = finite ? good_ + 1 : 0;
  if (!finite) scale_ *= options_.backoff;
  if (good_ < options_.interval) return;
  good_ = 0;
  if (std::isfinite(static_cast<float>(scale_ * options_.growth))) scale_ *= options_.growth;
}

}  // namespace rp
