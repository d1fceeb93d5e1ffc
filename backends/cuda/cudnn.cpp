#include "reprise/backends/cuda/cudnn.h"

#include <array>

namespace rp::cuda {
namespace {

Lazy<InUse<Cudnn>> in_use;

}  // namespace

Cudnn::Cudnn() : Table(fmt::format("libcudnn.so.{}", CUDNN_MAJOR)) {}

const Cudnn& cudnn() { return in_use.get().table(); }

void install_fake(const Cudnn* fake) {
  forget_everything();
  InUse<Cudnn>::fake = fake;
}

std::string Status<cudnnStatus_t>::text(cudnnStatus_t status) {
  std::array<char, 2048> words{};
  cudnn().cudnnGetLastErrorString(words.data(), words.size() - 1);
  std::string text = cudnn().cudnnGetErrorString(status);
  if (words[0]) text += ": ";
  for (const char* c = words.data(); *c; ++c) text += *c == '\n' ? ' ' : *c;
  while (text.ends_with(' ')) text.pop_back();
  return text;
}

}  // namespace rp::cuda
