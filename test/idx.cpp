#include "reprise/nn/idx.h"

#include <unistd.h>
#include <zlib.h>

#include <filesystem>
#include <fstream>

#include "reprise/core/error.h"
#include "reprise/test/catch.h"

using namespace rp;

namespace {

/// A file that is gone after the test.
class File {
 public:
  explicit File(const std::string& bytes, bool compressed = false) {
    if (compressed) {
      gzFile f = gzopen(path.c_str(), "wb");
      gzwrite(f, bytes.data(), static_cast<unsigned>(bytes.size()));
      gzclose(f);
    } else {
      std::ofstream(path, std::ios::binary) << bytes;
    }
  }
  ~File() { std::filesystem::remove(path); }
  File(const File&) = delete;

  std::string path = (std::filesystem::temp_directory_path() / ("reprise_idx_" + std::to_string(getpid()))).string();
};

std::string bytes(std::initializer_list<int> values) {
  std::string s;
  for (int v : values) s += static_cast<char>(v);
  return s;
}

std::string message(const std::string& content, bool compressed = false, int64_t max_bytes = 1 << 20) {
  File file(content, compressed);
  try {
    read_idx(file.path, max_bytes);
  } catch (const Error& e) {
    CHECK(e.where().line() != 0);
    return e.what();
  }
  return "";
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

const std::string small = bytes({0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 0, 1, 2, 127, 128, 255});

}  // namespace

TEST_CASE("unsigned bytes, plain and compressed") {
  for (bool compressed : {false, true}) {
    File file(small, compressed);
    Tensor t = read_idx(file.path);
    CHECK(t.dtype() == DType::i32);
    CHECK(t.shape() == Shape{2, 3});
    CHECK(t.to_vector<int32_t>() == std::vector<int32_t>{0, 1, 2, 127, 128, 255});
    CHECK(read_idx_unit(file.path).to_vector<float>() ==
          std::vector<float>{0, 1 / 255.f, 2 / 255.f, 127 / 255.f, 128 / 255.f, 1});
  }
}

TEST_CASE("the other element types") {
  auto read = [](const std::string& content) {
    File file(content);
    return read_idx(file.path);
  };
  CHECK(read(bytes({0, 0, 9, 1, 0, 0, 0, 2, 255, 127})).to_vector<int32_t>() == std::vector<int32_t>{-1, 127});
  CHECK(read(bytes({0, 0, 11, 1, 0, 0, 0, 1, 255, 254})).to_vector<int32_t>() == std::vector<int32_t>{-2});
  CHECK(read(bytes({0, 0, 12, 1, 0, 0, 0, 1, 1, 2, 3, 4})).to_vector<int32_t>() == std::vector<int32_t>{0x01020304});
  Tensor f = read(bytes({0, 0, 13, 1, 0, 0, 0, 1, 0xC0, 0x20, 0, 0}));
  CHECK((f.dtype() == DType::f32 && f.item<float>() == -2.5f));
  Tensor d = read(bytes({0, 0, 14, 1, 0, 0, 0, 1, 0x40, 0x04, 0, 0, 0, 0, 0, 0}));
  CHECK((d.dtype() == DType::f64 && d.item<double>() == 2.5));
  File words(bytes({0, 0, 12, 1, 0, 0, 0, 1, 1, 2, 3, 4}));
  CHECK_THROWS_AS(read_idx_unit(words.path), Error);
}

TEST_CASE("every prefix of a file is an error") {
  for (size_t n = 0; n < small.size(); ++n) CHECK(!message(small.substr(0, n)).empty());
  CHECK(message(small).empty());
}

TEST_CASE("damaged and hostile files are errors") {
  CHECK(contains(message(small + "x"), "more than"));
  CHECK(contains(message("GIF89a, certainly not IDX"), "not an IDX file"));
  CHECK(contains(message(bytes({0, 0, 7, 1, 0, 0, 0, 1, 1})), "not an IDX file"));
  CHECK(contains(message(bytes({0, 0, 8, 0})), "axes"));
  CHECK(contains(message(bytes({0, 0, 8, 9})), "axes"));
  const std::string huge = bytes({0, 0, 14, 2, 0, 255, 255, 255, 0, 255, 255, 255});
  CHECK(contains(message(huge), "limit"));
  std::string overflow = bytes({0, 0, 8, 3});
  for (int i = 0; i < 12; ++i) overflow += '\xff';
  CHECK(!message(overflow).empty());
  CHECK(contains(message(bytes({0, 0, 8, 1, 0, 16, 0, 0}) + std::string(1 << 20, 'x'), true, 1 << 19), "limit"));
  CHECK_THROWS_AS(read_idx("/nonexistent/file.gz"), Error);
  CHECK_THROWS_AS(read_idx(std::filesystem::temp_directory_path().string()), Error);
}

TEST_CASE("a compressed file that was cut or changed is an error") {
  std::string packed;
  {
    File file(small, true);
    std::ifstream in(file.path, std::ios::binary);
    packed.assign(std::istreambuf_iterator<char>(in), {});
  }
  CHECK(message(packed).empty());
  for (size_t n = 0; n < packed.size(); ++n) CHECK(!message(packed.substr(0, n)).empty());
  packed[packed.size() - 6] = static_cast<char>(packed[packed.size() - 6] ^ 1);  // inside the check sum
  CHECK(!message(packed).empty());
}

TEST_CASE("Fashion-MNIST, where it is installed") {
  const std::string path = "/usr/share/datasets/fashion-mnist/t10k-images-idx3-ubyte.gz";
  if (!std::filesystem::exists(path)) return;
  CHECK(read_idx_unit(path).shape() == Shape{10000, 28, 28});
}
