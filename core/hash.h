#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace rp {

/// Mixes one word into a hash (multiply and fold, after Wyhash's idea).
inline size_t hash_mix(size_t h, size_t word) {
  const auto product = static_cast<unsigned __int128>(h ^ 0x9E3779B97F4A7C15ull) * (word ^ 0xD6E8FEB86659FD93ull);
  return static_cast<size_t>(product) ^ static_cast<size_t>(product >> 64);
}

inline size_t hash_bytes(size_t h, const void* data, size_t bytes) {
  auto* p = static_cast<const unsigned char*>(data);
  for (; bytes >= 8; p += 8, bytes -= 8) {
    uint64_t word;
    std::memcpy(&word, p, 8);
    h = hash_mix(h, word);
  }
  uint64_t tail = bytes;
  for (size_t i = 0; i < bytes; ++i) tail = tail << 8 | p[i];
  return hash_mix(h, tail);
}

}  // namespace rp
