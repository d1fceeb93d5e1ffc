#include "reprise/backends/cuda/sha256.h"

#include <bit>

namespace rp::cuda {
namespace {

constexpr bool is_prime(uint32_t n) {
  for (uint32_t d = 2; d * d <= n; ++d)
    if (n % d == 0) return false;
  return true;
}

/// The first 32 bits behind the point of a prime's root: the largest r with r^power <= prime * 2^(32 * power).
constexpr uint32_t root_fraction(uint32_t prime, int power) {
  uint64_t root = 0;
  for (uint64_t bit = uint64_t{1} << 36; bit; bit >>= 1) {
    const unsigned __int128 r = root | bit;
    const bool fits = power == 2 ? r * r <= static_cast<unsigned __int128>(prime) << 64
                                 : r * r <= (static_cast<unsigned __int128>(prime) << 96) / r;
    if (fits) root |= bit;
  }
  return static_cast<uint32_t>(root);
}

template <size_t count>
constexpr std::array<uint32_t, count> root_fractions(int power) {
  std::array<uint32_t, count> fractions{};
  uint32_t prime = 2;
  for (uint32_t& f : fractions) {
    while (!is_prime(prime)) ++prime;
    f = root_fraction(prime++, power);
  }
  return fractions;
}

constexpr auto round_constants = root_fractions<64>(3);
using State = std::array<uint32_t, 8>;

void mix(State& state, const uint8_t* block) {
  std::array<uint32_t, 64> w{};
  for (size_t i = 0; i < 16; ++i)
    w[i] = uint32_t{block[4 * i]} << 24 | uint32_t{block[4 * i + 1]} << 16 | uint32_t{block[4 * i + 2]} << 8 |
           block[4 * i + 3];
  for (size_t i = 16; i < 64; ++i) {
    const uint32_t a = w[i - 15], b = w[i - 2];
    w[i] = w[i - 16] + w[i - 7] + (std::rotr(a, 7) ^ std::rotr(a, 18) ^ a >> 3) +
           (std::rotr(b, 17) ^ std::rotr(b, 19) ^ b >> 10);
  }
  auto [a, b, c, d, e, f, g, h] = state;
  for (size_t i = 0; i < 64; ++i) {
    const uint32_t t =
        h + (std::rotr(e, 6) ^ std::rotr(e, 11) ^ std::rotr(e, 25)) + ((e & f) ^ (~e & g)) + round_constants[i] + w[i];
    const uint32_t u = (std::rotr(a, 2) ^ std::rotr(a, 13) ^ std::rotr(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
    h = g, g = f, f = e, e = d + t, d = c, c = b, b = a, a = t + u;
  }
  const State changed{a, b, c, d, e, f, g, h};
  for (size_t i = 0; i < 8; ++i) state[i] += changed[i];
}

}  // namespace

std::array<uint8_t, 32> sha256(std::string_view data) {
  constexpr State first = root_fractions<8>(2);
  State state = first;
  const auto* p = reinterpret_cast<const uint8_t*>(data.data());
  size_t left = data.size();
  for (; left >= 64; left -= 64, p += 64) mix(state, p);
  std::array<uint8_t, 128> tail{};
  for (size_t i = 0; i < left; ++i) tail[i] = p[i];
  tail[left] = 0x80;
  const size_t end = left < 56 ? 64 : 128;
  for (size_t i = 0; i < 8; ++i) tail[end - 1 - i] = static_cast<uint8_t>(uint64_t{data.size()} * 8 >> 8 * i);
  for (size_t at = 0; at < end; at += 64) mix(state, tail.data() + at);
  std::array<uint8_t, 32> digest{};
  for (size_t i = 0; i < 32; ++i) digest[i] = static_cast<uint8_t>(state[i / 4] >> (24 - 8 * (i % 4)));
  return digest;
}

std::string hex(std::array<uint8_t, 32> digest) {
  constexpr char digits[] = "0123456789abcdef";
  std::string text;
  for (const uint8_t byte : digest) {
    text += digits[byte >> 4];
    text += digits[byte & 15];
  }
  return text;
}

}  // namespace rp::cuda
