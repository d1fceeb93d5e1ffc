#pragma once
// The steps of apply that other parts of the engine take too.
#include "reprise/core/op.h"

namespace rp {

/// The layout of a call's result by its shape rule; for views, the layout over the base's elements.
const Layout* infer(const Call& call);
/// How far a view's first element lies from its input's.
int64_t view_offset(const Call& call);
/// The body of a composite op; the constants it makes lie where its first input does.
Tensor run_body(const Op& op, std::span<const Tensor> inputs, const Attrs& attrs, const Scalars& scalars);
/// Shape rule and computation, without recording.
Tensor run_now(const Call& call);
/// Replaces the elements of `target` by those of `value` (same shape and dtype), as an op.
void write(const Tensor& target, const Tensor& value);

}  // namespace rp
