// The fake compiler: CUDA C through the host's compiler, into a shared object for each text.
#include <fmt/core.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>

#include "reprise/backends/cuda/sha256.h"
#include "reprise/test/cuda/state.h"

namespace rp::fake {
namespace {

namespace fs = std::filesystem;

struct Program {
  std::string source, log, image;
};

Program* of(nvrtcProgram program) { return reinterpret_cast<Program*>(program); }

std::string content(const fs::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// For each kernel in the text, what makes it known to who loads it: after `extern "C" __global__ void`, perhaps
/// bounds, and its name.
std::string registrations(const std::string& source) {
  constexpr std::string_view start = "extern \"C\" __global__ void", bounds = "__launch_bounds__(";
  std::string text;
  for (size_t at = 0; (at = source.find(start, at)) != std::string::npos;) {
    at = source.find_first_not_of(" \n", at + start.size());
    std::string most = "1024";
    if (source.compare(at, bounds.size(), bounds) == 0) {
      const size_t from = at + bounds.size();
      most = source.substr(from, source.find_first_of(",)", from) - from);
      at = source.find_first_not_of(" \n", source.find(')', from) + 1);
    }
    text += fmt::format("\nRP_SHIM_KERNEL({}, {})\n", source.substr(at, source.find('(', at) - at), most);
  }
  return text;
}

/// What `command` says on both outputs, and whether it succeeded.
bool run(const std::string& command, std::string& output) {
  FILE* const pipe = popen((command + " 2>&1 </dev/null").c_str(), "r");
  if (!pipe) return false;
  std::array<char, 4096> buffer;
  for (size_t n; (n = fread(buffer.data(), 1, buffer.size(), pipe)) > 0;) output.append(buffer.data(), n);
  const int status = pclose(pipe);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/// Everything that an object depends on besides its text.
const std::string& environment_key() {
  static const std::string key = [] {
    const fs::path include = REPRISE_SHIM_INCLUDE;
    std::string version;
    run(REPRISE_SHIM_COMPILER " --version", version);
    return version + REPRISE_SHIM_FLAGS + content(include / "reprise/test/cuda/shim.h") +
           content(include / "reprise/test/cuda/shim_thread.h");
  }();
  return key;
}

nvrtcResult build(Program& program, const std::string& flags) {
  const std::string text = program.source + registrations(program.source);
  const std::string key = cuda::hex(cuda::sha256(environment_key() + flags + text)).substr(0, 32);
  const fs::path folder = REPRISE_SHIM_FOLDER, object = folder / (key + ".so"), source = folder / (key + ".cpp");
  program.image = "shim " + object.string();
  if (fs::exists(object)) return NVRTC_SUCCESS;
  fs::create_directories(folder);
  const std::string draft = fmt::format("{}.{}", object.string(), getpid());
  std::ofstream(source) << text;
  const std::string command =
      fmt::format("{} {} {} -I'{}' -include reprise/test/cuda/shim.h -x c++ '{}' -o '{}'", REPRISE_SHIM_COMPILER,
                  REPRISE_SHIM_FLAGS, flags, REPRISE_SHIM_INCLUDE, source.string(), draft);
  if (!run(command, program.log)) return NVRTC_ERROR_COMPILATION;
  fs::rename(draft, object);
  return NVRTC_SUCCESS;
}

nvrtcResult version(int* major, int* minor) {
  *major = 0;
  *minor = 1;
  return NVRTC_SUCCESS;
}

const char* error_text(nvrtcResult status) {
  return status == NVRTC_ERROR_COMPILATION ? "NVRTC_ERROR_COMPILATION" : "an error of the compiler";
}

nvrtcResult create(nvrtcProgram* program, const char* source, const char*, int headers, const char* const*,
                   const char* const*) {
  if (headers) return NVRTC_ERROR_INVALID_INPUT;
  const auto made = std::make_shared<Program>(Program{source, {}, {}});
  state->programs.insert(made);
  *program = reinterpret_cast<nvrtcProgram>(made.get());
  return NVRTC_SUCCESS;
}

nvrtcResult destroy(nvrtcProgram* program) {
  std::erase_if(state->programs, [&](const auto& p) { return p.get() == of(*program); });
  *program = nullptr;
  return NVRTC_SUCCESS;
}

/// Without --fmad=false the device would contract, and so does this.
nvrtcResult compile(nvrtcProgram program, int count, const char* const* options) {
  std::string flags = "-ffp-contract=fast";
  bool target = false;
  for (int i = 0; i < count; ++i) {
    const std::string_view option = options[i];
    target |= option.starts_with("--gpu-architecture=sm_");
    if (option == "--fmad=false") flags = "-ffp-contract=off";
    if (!option.starts_with("--")) return NVRTC_ERROR_INVALID_OPTION;
  }
  return target ? build(*of(program), flags) : NVRTC_ERROR_INVALID_OPTION;
}

nvrtcResult log_size(nvrtcProgram program, size_t* bytes) {
  *bytes = of(program)->log.size() + 1;
  return NVRTC_SUCCESS;
}
nvrtcResult log_text(nvrtcProgram program, char* text) {
  std::strcpy(text, of(program)->log.c_str());
  return NVRTC_SUCCESS;
}
nvrtcResult image_size(nvrtcProgram program, size_t* bytes) {
  *bytes = of(program)->image.size() + 1;
  return NVRTC_SUCCESS;
}
nvrtcResult image(nvrtcProgram program, char* code) {
  std::strcpy(code, of(program)->image.c_str());
  return NVRTC_SUCCESS;
}

}  // namespace

void put_compiler(cuda::Nvrtc& table) {
  put<version>(table.nvrtcVersion);
  put<error_text>(table.nvrtcGetErrorString);
  put<create>(table.nvrtcCreateProgram);
  put<destroy>(table.nvrtcDestroyProgram);
  put<compile>(table.nvrtcCompileProgram);
  put<log_size>(table.nvrtcGetProgramLogSize);
  put<log_text>(table.nvrtcGetProgramLog);
  put<image_size>(table.nvrtcGetCUBINSize);
  put<image>(table.nvrtcGetCUBIN);
}

}  // namespace rp::fake
