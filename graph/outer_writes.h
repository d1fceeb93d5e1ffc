#pragma once
#include "reprise/graph/recorder.h"

namespace rp {

/// The tensors from outside that a traced body writes to, each whole. `given`: how many inputs the body was given.
Tensors written_by(const TracedBody& body, size_t given);

/// Which of the `given` inputs a traced body writes to.
std::vector<size_t> own_written_by(const TracedBody& body, size_t given);

/// Makes a body that writes to tensors from outside free of effects: input number `first` + i stands for the elements
/// of `written[i]` when the body begins, and what the body writes goes to a copy of them.
TracedBody without_effects(TracedBody body, size_t given, const Tensors& written, size_t first);

}  // namespace rp
