#pragma once
#include <string>

namespace bench {

/// Puts a device in the place of CUDA's, for the life of the process, on which nothing runs: kernels are compiled for
/// the architecture (90 for compute capability 9.0) by the real compiler and kept in the cache on disk, launches and
/// copies end at once, and what the host reads is zero. So a machine without a device fills the cache of one with it.
void compile_only(int architecture);

/// Has cuDNN, if it is there, make its plans for an H200 in place of the device, and keep them, and run nothing: a part
/// of `compile_only(90)`.
void plan_only();

/// Compiles what the tests' device has compiled for the processor, which has left the sources in that folder, and keeps
/// it in the cache on disk. Returns how many there were; those that no longer begin as the library's do are left out.
int compile_texts(const std::string& folder, int architecture);

}  // namespace bench
