#include "reprise/backends/cuda/compile.h"

#include "reprise/backends/cuda/api.h"
#include "reprise/backends/cuda/sha256.h"

namespace rp::cuda {
namespace {

/// No contraction, no approximate quotients and roots, no denormals flushed.
std::vector<std::string> options_for(int architecture) {
  return {fmt::format("--gpu-architecture=sm_{}", architecture),
          "--std=c++17",
          "--fmad=false",
          "--prec-div=true",
          "--prec-sqrt=true",
          "--ftz=false",
          "--diag-suppress=177"};  // a text declares what not all of its passes use
}

class Compilation {
 public:
  Compilation(const std::string& source, const std::string& name) {
    nvrtc().nvrtcCreateProgram(&program_, source.c_str(), (name + ".cu").c_str(), 0, nullptr, nullptr);
  }
  ~Compilation() { nvrtc().nvrtcDestroyProgram.raw(&program_); }
  Compilation(const Compilation&) = delete;

  nvrtcResult run(const std::vector<std::string>& options) {
    std::vector<const char*> words;
    for (const std::string& option : options) words.push_back(option.c_str());
    return nvrtc().nvrtcCompileProgram.raw(program_, static_cast<int>(words.size()), words.data());
  }

  std::string log() const {
    size_t bytes = 0;
    nvrtc().nvrtcGetProgramLogSize(program_, &bytes);
    std::string text(bytes, '\0');
    if (bytes) nvrtc().nvrtcGetProgramLog(program_, text.data());
    while (!text.empty() && (text.back() == '\0' || text.back() == '\n')) text.pop_back();
    return text;
  }

  std::string code() const {
    size_t bytes = 0;
    nvrtc().nvrtcGetCUBINSize(program_, &bytes);
    std::string image(bytes, '\0');
    nvrtc().nvrtcGetCUBIN(program_, image.data());
    return image;
  }

 private:
  nvrtcProgram program_ = nullptr;
};

}  // namespace

Image compile_image(const std::string& source, const std::string& name, int architecture,
                    const std::vector<std::string>& more_options) {
  std::vector<std::string> options = options_for(architecture);
  options.insert(options.end(), more_options.begin(), more_options.end());
  Compilation compilation(source, name);
  const nvrtcResult status = compilation.run(options);
  if (status == NVRTC_ERROR_COMPILATION) fail("{}: the compiler refuses this kernel:\n{}", name, compilation.log());
  check(status, "nvrtcCompileProgram");
  return {compilation.code(), compilation.log()};
}

std::string compiler_key(int architecture) {
  int major = 0, minor = 0;
  nvrtc().nvrtcVersion(&major, &minor);
  std::string key = fmt::format("nvrtc {}.{} of {} bytes", major, minor, nvrtc().file_bytes());
  for (const std::string& option : options_for(architecture)) key += " " + option;
  return key;
}

std::string image_key(const std::string& source, int architecture) {
  return hex(sha256(compiler_key(architecture) + '\n' + source));
}

}  // namespace rp::cuda
