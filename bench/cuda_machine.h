#pragma once
// A CUDA device as a machine that rows are held against, and the measuring of it.
#include <functional>
#include <string>

#include "reprise/bench/machine.h"

namespace bench {

/// Measures the default device: fused multiply-adds on registers, and copies within the cache and beyond it.
Machine describe_cuda_machine();

/// GB/s of the faster of the runtime's copy and of one by a kernel, of so many bytes to as many others.
double cuda_copy_gbs(size_t bytes);
/// Fused multiply-adds of f32 a ns, two operations each.
double cuda_fma_gflops();
/// The time of so many operations at the rate of a large product of bf16 by cuBLASLt, which is measured when first
/// asked for; 0 without that library.
double cuda_product_ns(double flops);

/// What the selftest says of the libraries and the device, as JSON: paths, versions, properties, cuDNN's own text of
/// them. What is not there has an error instead.
nlohmann::json describe_cuda_environment();

}  // namespace bench
