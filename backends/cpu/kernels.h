#pragma once
// The kernels of the CPU that are not generated from loop IR: convolution, pooling, indexing and assembly. Each serves
// every dtype that `find_kernel` grants its op; inputs and output are contiguous. Results do not depend on the threads.
#include <string>

#include "reprise/core/backend.h"

namespace rp {

/// The kernel of an op of kind kernel whose first input has elements of `dtype`, or null with the reason in `why`.
Kernel find_kernel(const Op& op, DType dtype, std::string* why);

namespace cpu {

// The attrs and operands of each are those of its entry, core/ops/entries.h. Those that take indices throw when one is
// outside [0, extent).
void argmax(const KernelCall& call);
void argmin(const KernelCall& call);
void index_select(const KernelCall& call);
void index_add(const KernelCall& call);
void gather(const KernelCall& call);
void scatter_add(const KernelCall& call);
void concat(const KernelCall& call);

void conv2d(const KernelCall& call);
void conv2d_backward_data(const KernelCall& call);
void conv2d_backward_weights(const KernelCall& call);

// A NaN is the largest element; of equal ones the first in row-major order of the window counts. Padding takes no part.
void max_pool2d(const KernelCall& call);
void max_pool2d_backward(const KernelCall& call);
void max_pool2d_pick(const KernelCall& call);
/// The mean of a window's elements inside the image; that of integers truncates.
void avg_pool2d(const KernelCall& call);
void avg_pool2d_backward(const KernelCall& call);

}  // namespace cpu
}  // namespace rp
