// From text to a kernel: compiling, the cache on disk, and what comes of texts that are wrong.
#include "reprise/backends/cuda/module.h"

#include <cmath>
#include <filesystem>
#include <fstream>
#include <thread>

#include "reprise/backends/cuda/api.h"
#include "reprise/backends/cuda/cache.h"
#include "reprise/backends/cuda/compile.h"
#include "reprise/backends/cuda/sha256.h"
#include "reprise/test/catch.h"
#include "reprise/test/cuda/device.h"
#include "reprise/test/cuda_kernels.h"
#include "reprise/test/cuda_ptxas.h"
#include "reprise/test/environment.h"

using Catch::Matchers::Contains;
using namespace rp::cuda;
namespace fs = std::filesystem;

namespace {

std::string digest(std::string_view text) { return hex(sha256(text)); }

/// Whether the scaling kernel does on a new device what it should, and how many texts that compiled.
size_t compiles(const fs::path& cache) {
  rp::fake::Device gpu({.cache = cache.string()});
  Buffer<float> x(std::vector<float>{1, 2, 3}), y(3);
  launch_text(scale_text, {.threads = 64}, ScaleArgs{x.data(), y.data(), 10, 3});
  CHECK(y.read() == std::vector<float>{10, 21, 32});
  return gpu.count("nvrtcCompileProgram");
}

std::vector<fs::path> files_in(const fs::path& folder) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder)) files.push_back(entry.path());
  return files;
}

std::string content(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void replace(const fs::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << text;
}

}  // namespace

TEST_CASE("SHA-256 gives the published digests", "[cuda]") {
  CHECK(digest("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(digest("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(digest("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq") ==
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  CHECK(digest(std::string(1000000, 'a')) == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST_CASE("a text is compiled once, whoever asks", "[cuda]") {
  rp::fake::Device gpu;
  std::vector<const Function*> got(8);
  std::vector<std::thread> threads;
  for (const Function*& f : got) threads.emplace_back([&f] { f = &function_of(scale_text); });
  for (std::thread& t : threads) t.join();
  for (const Function* const f : got) CHECK(f == got[0]);
  CHECK(gpu.count("nvrtcCompileProgram") == 1);
  CHECK(got[0]->argument_bytes() == sizeof(ScaleArgs));
  CHECK(got[0]->resources().max_threads == 64);
  CHECK(got[0]->name() == kernel_name(scale_text));
}

TEST_CASE("texts are compiled by several threads at once", "[cuda]") {
  rp::fake::Device gpu;
  std::vector<const Function*> got(12);
  std::vector<std::thread> threads;
  for (size_t t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      for (size_t i = t; i < 12; i += 4) got[i] = &function_of(scale_text + ("// " + std::to_string(i / 2)));
    });
  for (std::thread& t : threads) t.join();
  CHECK(gpu.count("nvrtcCompileProgram") == 6);
  for (size_t i = 0; i < 12; ++i)
    for (size_t j = 0; j < 12; ++j) CHECK((got[i] == got[j]) == (i / 2 == j / 2));
}

TEST_CASE("a kernel's name comes from its text", "[cuda]") {
  const std::string text = "kernel_entry and kernel_entry, not kernel entry", name = kernel_name(text);
  CHECK(name.size() == 14);
  CHECK(name.starts_with("k_"));
  CHECK(whole_source(text).ends_with("\n" + name + " and " + name + ", not kernel entry"));
  CHECK(name != kernel_name(text + " "));
}

TEST_CASE("what the compiler refuses is an error with its log, each time", "[cuda]") {
  rp::fake::Device gpu;
  const std::string text = std::string(scale_text) + "this is no C;";
  for (int i = 0; i < 2; ++i)
    CHECK_THROWS_WITH(function_of(text), Contains(kernel_name(text)) && Contains("error") && Contains("this"));
  CHECK(gpu.count("nvrtcCompileProgram") == 2);
  CHECK(gpu.count("nvrtcCreateProgram") == gpu.count("nvrtcDestroyProgram"));
  CHECK_NOTHROW(function_of(scale_text));
}

TEST_CASE("a text without the kernel is an error", "[cuda]") {
  rp::fake::Device gpu;
  CHECK_THROWS_WITH(function_of("struct Args { int n; };"), Contains("cudaLibraryGetKernel"));
}

TEST_CASE("the device computes as the processor does because the compiler is told so", "[cuda]") {
  rp::fake::Device gpu;
  constexpr const char* text = R"(
struct Args { f32* y; f32 a, b, c; };
extern "C" __global__ void __launch_bounds__(32) kernel_entry(const __grid_constant__ Args args) {
  if (threadIdx.x == 0) args.y[0] = args.a * args.b + args.c;
}
)";
  struct Args {
    float* y;
    float a, b, c;
  };
  const float a = 1 + 0x1p-12f;
  Buffer<float> y(1);
  launch_text(text, {.threads = 32}, Args{y.data(), a, a, -1});
  CHECK(y.read()[0] == a * a - 1);
  CHECK(y.read()[0] != std::fma(a, a, -1.0f));
}

TEST_CASE("a kernel is taken from the disk by the next process", "[cuda]") {
  const rp::test::FreshFolder cache("cuda-cache");
  CHECK(compiles(cache.path()) == 1);
  CHECK(compiles(cache.path()) == 0);
  CHECK(files_in(cache.path()).size() == 1);
}

TEST_CASE("what is corrupt on the disk is compiled again and repaired", "[cuda]") {
  const rp::test::FreshFolder cache("cuda-cache");
  CHECK(compiles(cache.path()) == 1);
  const fs::path file = files_in(cache.path()).at(0);
  const std::string sound = content(file);
  std::vector<std::string> broken{
      "", "x", sound.substr(0, 47), sound.substr(0, 48), sound.substr(0, sound.size() - 1), sound + "x"};
  for (const size_t at : {size_t{0}, size_t{9}, size_t{20}, sound.size() - 1}) {
    broken.push_back(sound);
    broken.back()[at] ^= 1;
  }
  for (const std::string& text : broken) {
    replace(file, text);
    CHECK(compiles(cache.path()) == 1);
    CHECK(content(file) == sound);
  }
  fs::remove(file);
  fs::create_directory(file);
  CHECK(compiles(cache.path()) == 1);
}

TEST_CASE("an image that the device does not take is compiled again", "[cuda]") {
  const rp::test::FreshFolder cache("cuda-cache");
  CHECK(compiles(cache.path()) == 1);
  const fs::path file = files_in(cache.path()).at(0);
  DiskCache(cache.path()).write(file.stem().string(), "no image at all");
  CHECK(compiles(cache.path()) == 1);
  CHECK(compiles(cache.path()) == 0);
}

TEST_CASE("a folder that cannot be written is no error", "[cuda]") {
  const rp::test::FreshFolder folder("cuda-cache");
  replace(folder.path() / "file", "not a folder");
  CHECK(compiles(folder.path() / "file") == 1);
  CHECK(compiles(folder.path() / "file" / "below") == 1);
  CHECK(compiles("/proc/reprise") == 1);
}

TEST_CASE("another text, architecture or compiler has another key", "[cuda]") {
  rp::fake::Device gpu;
  CHECK(compiler_key(80) != compiler_key(90));
  CHECK_THAT(compiler_key(90), Contains("0.1") && Contains("sm_90") && Contains("--fmad=false"));
  // The fake is a part of this program; another build of the compiler would be another file.
  const uintmax_t bytes = std::filesystem::file_size("/proc/self/exe");
  CHECK_THAT(compiler_key(90), Contains(fmt::format("0.1 of {} bytes", bytes)));
}

TEST_CASE("the cache is trimmed by age, and what is used is young", "[cuda]") {
  const rp::test::FreshFolder folder("cuda-cache");
  const std::string content(1000, 'x');
  const auto age = [&](const std::string& key, int hours) {
    fs::last_write_time(folder.path() / (key + ".cubin"), fs::file_time_type::clock::now() - std::chrono::hours(hours));
  };
  {
    DiskCache cache(folder.path(), 100000);
    for (int i = 0; i < 9; ++i) {
      cache.write("k" + std::to_string(i), content);
      age("k" + std::to_string(i), 100 - i);
    }
    CHECK(cache.read("k0") == content);
  }
  replace(folder.path() / "old.1.2.tmp", "a draft that nobody finished");
  fs::last_write_time(folder.path() / "old.1.2.tmp", fs::file_time_type::clock::now() - std::chrono::hours(2));
  replace(folder.path() / "new.1.2.tmp", "a draft");
  replace(folder.path() / "note.txt", std::string(5000, 'y'));
  DiskCache(folder.path(), 8000).write("k9", content);
  DiskCache cache(folder.path());
  for (const char* const gone : {"k1", "k2", "k3", "k4", "k5"}) CHECK_FALSE(cache.read(gone));
  for (const char* const kept : {"k0", "k6", "k7", "k8", "k9"}) CHECK(cache.read(kept) == content);
  CHECK_FALSE(fs::exists(folder.path() / "old.1.2.tmp"));
  CHECK(fs::exists(folder.path() / "new.1.2.tmp"));
  CHECK(fs::exists(folder.path() / "note.txt"));
}

TEST_CASE("several threads and processes may use one cache", "[cuda]") {
  const rp::test::FreshFolder folder("cuda-cache");
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      DiskCache cache(folder.path(), 20000);
      for (int i = 0; i < 50; ++i) {
        const std::string key = "k" + std::to_string((i * 7 + t) % 10), text(static_cast<size_t>(500 + i), key[1]);
        cache.write(key, text);
        if (const auto found = cache.read(key); found && found->find_first_not_of(key[1]) != std::string::npos) ++wrong;
      }
    });
  for (std::thread& t : threads) t.join();
  CHECK(wrong == 0);
  for (const fs::path& file : files_in(folder.path())) CHECK(file.extension() == ".cubin");
}

TEST_CASE("the user's folder for kernels", "[cuda]") {
  const rp::test::Environment home("HOME", "/home/someone"), xdg("XDG_CACHE_HOME", "");
  unsetenv("REPRISE_CUDA_CACHE");
  CHECK(DiskCache::user_folder() == "/home/someone/.cache/reprise");
  {
    const rp::test::Environment other("XDG_CACHE_HOME", "/var/cached");
    CHECK(DiskCache::user_folder() == "/var/cached/reprise");
    const rp::test::Environment own("REPRISE_CUDA_CACHE", "/own");
    CHECK(DiskCache::user_folder() == "/own");
  }
  const rp::test::Environment none("HOME", "");
  CHECK(DiskCache::user_folder().empty());
  DiskCache cache(DiskCache::user_folder());
  cache.write("k", "x");
  CHECK_FALSE(cache.read("k"));
}

TEST_CASE("the real compiler takes a kernel for each architecture", "[cuda]") {
  if (!rp::test::compiler_is_there()) return;
  for (const int architecture : {80, 90, 100}) {
    INFO("sm_" << architecture);
    const Image image = compile_image(whole_source(scale_text), "scale", architecture, {"--ptxas-options=-v"});
    CHECK_THAT(image.code, Catch::Matchers::StartsWith("\x7f"
                                                       "ELF"));
    CHECK_THAT(image.log, Contains(" registers") && Contains("0 bytes spill stores, 0 bytes spill loads"));
    CHECK_THAT(compiler_key(architecture), Contains("nvrtc 13."));
  }
  CHECK_THROWS_WITH(compile_image("nonsense;", "scale", 90),
                    Contains("scale: the compiler refuses") && Contains("error"));
}
