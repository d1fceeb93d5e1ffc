// In place of what needs the toolkit's headers.
#include <stdexcept>

#include "reprise/bench/cases.h"
#include "reprise/bench/compile_only.h"
#include "reprise/bench/cuda_machine.h"

namespace bench {
namespace {

[[noreturn]] void fail() { throw std::runtime_error("this build is without CUDA's headers"); }

}  // namespace

void compile_only(int) { fail(); }
int compile_texts(const std::string&, int) { fail(); }
Machine describe_cuda_machine() { fail(); }
double cuda_product_ns(double) { fail(); }
nlohmann::json describe_cuda_environment() { fail(); }
std::vector<Case> constant_cases() { return {}; }

}  // namespace bench
