#include "reprise/samples/data.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <numbers>
#include <stdexcept>

namespace samples {
namespace fs = std::filesystem;

rp::Dataset<2> spirals(int64_t count) {
  rp::Tensor arm = rp::remainder(rp::arange(count), 3);
  rp::Tensor radius = rp::uniform({count}, 0.1, 1);
  rp::Tensor angle = radius * 4 + arm * (2 * std::numbers::pi / 3) + rp::normal({count}, 0, 0.1);
  return {rp::stack({radius * rp::cos(angle), radius * rp::sin(angle)}, 1), arm};
}

rp::Dataset<2> fashion_mnist(const std::string& folder, bool training) {
  const std::string prefix = folder + (training ? "/train" : "/t10k");
  const std::string images = prefix + "-images-idx3-ubyte.gz", labels = prefix + "-labels-idx1-ubyte.gz";
  for (const std::string& path : {images, labels}) {
    if (!fs::exists(path)) {
      throw std::runtime_error("Fashion-MNIST is missing: there is no " + path +
                               "\nOn Debian and Ubuntu: sudo apt install dataset-fashion-mnist\n"
                               "Elsewhere pass the folder of the four files by --data.");
    }
  }
  return {rp::read_idx_unit(images), rp::read_idx(labels)};
}

rp::Dataset<2> text_pieces(const std::string& folder, int64_t steps) {
  std::vector<fs::path> files;
  if (fs::is_directory(folder)) {
    for (const auto& entry : fs::directory_iterator(folder)) {
      if (entry.is_regular_file() && !entry.is_symlink()) files.push_back(entry.path());
    }
  }
  std::sort(files.begin(), files.end());
  std::vector<int32_t> text;
  for (const fs::path& path : files) {
    std::ifstream file(path, std::ios::binary);
    for (std::istreambuf_iterator<char> c(file), end; c != end; ++c) text.push_back(static_cast<unsigned char>(*c));
  }
  const int64_t pieces = (static_cast<int64_t>(text.size()) - 1) / steps;
  if (text.empty() || pieces < 1)
    throw std::runtime_error("no text to learn from in " + folder + "; pass one by --data");
  auto cut = [&](int64_t shift) {
    return rp::tensor(std::span<const int32_t>(text).subspan(shift, pieces * steps), {pieces, steps});
  };
  return {cut(0), cut(1)};
}

}  // namespace samples
