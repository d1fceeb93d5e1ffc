#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace rp::cuda {

struct Image {
  std::string code;  // a cubin
  std::string log;   // what the compiler said
};

/// Compiles CUDA C for devices of one architecture (90 for compute capability 9.0), such that every operation is
/// rounded once, as the processor does. An Error has the compiler's log.
Image compile_image(const std::string& source, const std::string& name, int architecture,
                    const std::vector<std::string>& more_options = {});

/// Everything but the source that decides what is compiled: options, compiler and its version.
std::string compiler_key(int architecture);

/// What the cache on disk has the image of a source under.
std::string image_key(const std::string& source, int architecture);

}  // namespace rp::cuda
