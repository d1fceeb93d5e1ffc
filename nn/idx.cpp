#include "reprise/nn/idx.h"

#include <zlib.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>

#include "reprise/core/fail.h"

namespace rp {
namespace {

/// zlib reads plain files unchanged, so one path serves both kinds.
class Source {
 public:
  explicit Source(const std::string& path) : path_(path) {
    errno = 0;
    file_ = gzopen(path.c_str(), "rb");
    if (!file_) fail("read_idx: cannot open {}: {}", path, errno ? std::strerror(errno) : "out of memory");
  }
  ~Source() { gzclose(file_); }
  Source(const Source&) = delete;

  /// Up to `count` bytes; fewer only at the end of the file.
  size_t read(uint8_t* to, size_t count) {
    size_t done = 0;
    while (done < count) {
      int n = gzread(file_, to + done, static_cast<unsigned>(std::min<size_t>(count - done, 1 << 20)));
      if (n < 0 || (n == 0 && cut_off())) fail("read_idx: {} is damaged: {}", path_, message());
      if (n == 0) break;
      done += static_cast<size_t>(n);
    }
    return done;
  }

  void require(uint8_t* to, size_t count, const char* part) {
    if (size_t got = read(to, count); got != count) {
      fail("read_idx: {} ends inside its {}: {} bytes expected, {} found", path_, part, count, got);
    }
  }

 private:
  /// The compressed stream stops before its end.
  bool cut_off() {
    int code = 0;
    gzerror(file_, &code);
    return code == Z_BUF_ERROR;
  }

  const char* message() {
    int code = 0;
    const char* text = gzerror(file_, &code);
    return code == Z_ERRNO ? std::strerror(errno) : text;
  }

  std::string path_;
  gzFile file_;
};

struct Header {
  uint8_t type;
  size_t item;  // bytes of one element in the file
  Shape shape;
  int64_t numel = 0;
};

size_t item_bytes(uint8_t type) {
  switch (type) {
    case 0x08:
    case 0x09:
      return 1;
    case 0x0B:
      return 2;
    case 0x0C:
    case 0x0D:
      return 4;
    case 0x0E:
      return 8;
    default:
      return 0;
  }
}

template <class U>
U big_endian(const uint8_t* p) {
  U v = 0;
  for (size_t i = 0; i < sizeof(U); ++i) v = static_cast<U>(v << 8 | p[i]);
  return v;
}

Header read_header(Source& source, const std::string& path, int64_t max_bytes) {
  uint8_t magic[4];
  source.require(magic, 4, "header");
  const size_t item = item_bytes(magic[2]);
  const int rank = magic[3];
  if (magic[0] || magic[1] || !item) fail("read_idx: {} is not an IDX file", path);
  if (rank < 1 || rank > max_rank) fail("read_idx: {} has {} axes; 1 to {} are supported", path, rank, max_rank);
  Header header{magic[2], item, {}, 0};
  for (int axis = 0; axis < rank; ++axis) {
    uint8_t extent[4];
    source.require(extent, 4, "header");
    header.shape.push_back(big_endian<uint32_t>(extent));
  }
  header.numel = element_count(header.shape);
  if (header.numel > max_bytes / static_cast<int64_t>(item)) {
    fail("read_idx: {} claims to hold {} elements of {} bytes; the limit is {} bytes", path, header.numel, item,
         max_bytes);
  }
  return header;
}

/// The elements as bytes. Memory grows with what has arrived, not with what the header promises.
std::vector<uint8_t> read_elements(Source& source, const std::string& path, const Header& header) {
  constexpr size_t step = 1 << 24;
  const size_t total = static_cast<size_t>(header.numel) * header.item;
  std::vector<uint8_t> bytes;
  while (bytes.size() < total) {
    const size_t have = bytes.size(), want = std::min(step, total - have);
    bytes.resize(have + want);
    if (size_t got = source.read(&bytes[have], want); got != want) {
      fail("read_idx: {} ends early: {} bytes of elements expected, {} found", path, total, have + got);
    }
  }
  uint8_t extra;
  if (source.read(&extra, 1)) fail("read_idx: {} holds more than the {} bytes of its header", path, total);
  return bytes;
}

template <class T, class F>
Tensor convert(const std::vector<uint8_t>& bytes, const Header& header, F element) {
  Tensor result = allocate(intern(Spec{dtype_of<T>(), header.shape, {}}));
  for (int64_t i = 0; i < header.numel; ++i) {
    T value = element(&bytes[static_cast<size_t>(i) * header.item]);
    std::memcpy(result.bytes() + i * static_cast<int64_t>(sizeof(T)), &value, sizeof(T));
  }
  return result;
}

}  // namespace

Tensor read_idx(const std::string& path, int64_t max_bytes, Loc loc) {
  At at(loc);
  Source source(path);
  Header header = read_header(source, path, max_bytes);
  std::vector<uint8_t> bytes = read_elements(source, path, header);
  auto as_i32 = [&](auto read) { return convert<int32_t>(bytes, header, read); };
  switch (header.type) {
    case 0x08:
      return as_i32([](const uint8_t* p) { return *p; });
    case 0x09:
      return as_i32([](const uint8_t* p) { return static_cast<int8_t>(*p); });
    case 0x0B:
      return as_i32([](const uint8_t* p) { return static_cast<int16_t>(big_endian<uint16_t>(p)); });
    case 0x0C:
      return as_i32([](const uint8_t* p) { return static_cast<int32_t>(big_endian<uint32_t>(p)); });
    case 0x0D:
      return convert<float>(bytes, header,
                            [](const uint8_t* p) { return std::bit_cast<float>(big_endian<uint32_t>(p)); });
    default:
      return convert<double>(bytes, header,
                             [](const uint8_t* p) { return std::bit_cast<double>(big_endian<uint64_t>(p)); });
  }
}

Tensor read_idx_unit(const std::string& path, int64_t max_bytes, Loc loc) {
  At at(loc);
  Source source(path);
  Header header = read_header(source, path, max_bytes);
  if (header.type != 0x08) fail("read_idx: {} does not hold unsigned bytes", path);
  std::vector<uint8_t> bytes = read_elements(source, path, header);
  return convert<float>(bytes, header, [](const uint8_t* p) { return static_cast<float>(*p) / 255.f; });
}

}  // namespace rp
